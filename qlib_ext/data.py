"""DayDatasetH: a qlib DatasetH that also serves the market as a DayPanel; liquidity in yuan through unit profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.data import D
from qlib.data.data import FeatureD
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from qlib.log import get_module_logger

from qlib_ext import units
from qlib_ext._options import argument_names, refuse_unknown
from qlib_ext._state import load_state, state_names
from qlib_ext.labels import DEFAULT_LABEL, LabelSpan, label_prices, label_span
from qlib_ext.macro import MacroState
from qlib_ext.market import MarketState
from qlib_ext.panel import DayPanel
from qlib_ext.rules import is_index, limit_up_price, price_limit
from qlib_ext.storage import read_fields, wide
from qlib_ext.units import PLAUSIBLE_TURNOVER, PROFILES, check_turnover

__all__ = [
    "DEFAULT_LABEL", "PLAUSIBLE_TURNOVER", "PROFILES", "DayDatasetH", "LabelSpan", "bounds", "check_segments",
    "check_turnover", "handler_frames", "known_label", "label_expression", "label_prices", "label_span",
    "listed_days", "load_liquidity", "locked_up", "panel_of", "segment_rows", "trailing_volatility",
    "turnover_expression", "turnover_of", "unit_profile",
]  # fmt: skip

logger = get_module_logger("qlib_ext.data")

_NAMED = {text: name for name, text in PROFILES.items()}


def unit_profile(instruments: list[str], start: Any, end: Any) -> str:
    """Decide the unit profile by identities between the fields on up to five days of the span.

    Where $amount exists, amount / (close * volume) is 0.1 in the community's units (thousand yuan over lots), 1 for
    yuan over adjusted shares and 100 for yuan over lots. Without $amount, close * volume must be a plausible turnover.

    Raises: ValueError where no profile fits, with the expression to use instead.

    """
    days = D.calendar(start_time=start, end_time=end)
    picks = [days[i] for i in sorted({int(i) for i in np.linspace(0, len(days) - 1, 5)})]
    raw = read_fields(instruments, ["$close", "$volume", "$amount"], days[0], days[-1])
    close, volume, amount = (raw[field].loc[picks].astype(np.float64) for field in ("$close", "$volume", "$amount"))
    value = close * volume
    profile = units.decide(amount, value)
    if profile == "adjusted_shares":
        check_turnover(value, "$close * $volume")
    return profile


def turnover_expression(profile: str, instruments: list[str], start: Any, end: Any) -> str:
    """Return the expression of a day's turnover in yuan for a profile name, "auto" or an expression with a $field.

    Raises: ValueError for a profile that is none of these, or, with "auto", where none fits (see `unit_profile`).

    """
    units.fields_of(profile, owner="turnover")
    if profile == "auto":
        profile = unit_profile(instruments, start, end)
        logger.info(f"unit profile: {profile} (turnover in yuan = {PROFILES[profile]})")
    return PROFILES.get(profile, profile)


def load_liquidity(
    instruments: list[str], start: Any, end: Any, *, profile: str = "auto", window: int = 20
) -> pd.DataFrame:
    """Trailing mean turnover in yuan a day (day x instrument), known at the close of the day.

    As Mean(turnover, window) of qlib on all days of a stock's series; it goes on for window - 1 days after its end.

    Raises: ValueError for wrong units (see `check_turnover`) or an unknown profile.

    """
    expression = turnover_expression(profile, instruments, start, end)
    if expression in _NAMED:
        fields = units.fields_of(_NAMED[expression], owner="load_liquidity")
        turnover = turnover_of(expression, read_fields(instruments, fields, start, end, lead=window - 1))
        mean = turnover.rolling(window, min_periods=1).mean().loc[pd.Timestamp(start) :]
    else:
        (mean,) = wide(instruments, [f"Mean({expression}, {window})"], start, end)
    if not np.isfinite(mean.to_numpy()).any():
        raise ValueError(f"{expression} is nowhere known between {start} and {end}: the provider lacks the field")
    check_turnover(mean, expression)
    return mean


def turnover_of(expression: str, raw: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Day's turnover in yuan (day x instrument) by the expression of a unit profile."""
    return units.turnover_in_yuan(_NAMED[expression], raw)


def trailing_volatility(close: pd.DataFrame, window: int) -> pd.DataFrame:
    """Trail the standard deviation of daily returns, as Std($close/Ref($close, 1) - 1, window) of qlib."""
    price = close.astype(np.float64)
    returns = price / price.shift(1) - 1
    return returns.rolling(window, min_periods=1).std()


def listed_days(instruments: list[str], days: pd.DatetimeIndex) -> npt.NDArray[np.float64]:
    """Trading days since listing (D, N), 1 on the first day; inf for stocks older than the calendar."""
    calendar = pd.DatetimeIndex(D.calendar())
    at = calendar.get_indexer(days).astype(np.float64)[:, None]
    first = [FeatureD.backend_obj(instrument=c, field="close", freq="day").start_index for c in instruments]
    start = np.array([0 if f is None else f for f in first], dtype=np.float64)[None, :]
    return np.where(start == 0, np.inf, at - start + 1)


def locked_up(
    close: pd.DataFrame, factor: pd.DataFrame, age: npt.NDArray[np.float64], *, price: pd.DataFrame | None = None
) -> npt.NDArray[np.bool_]:
    """Tell (D, N) where a price of the day (its close) is the limit-up price, by the rules of the board and the date.

    The raw price is close / factor, the reference the previous traded close in today's shares. ST stocks are not known
    and are judged by their board's limit. Without $factor the return is compared with the limit less 0.3%.
    """
    codes, days = [str(c) for c in close.columns], pd.DatetimeIndex(close.index)
    limit = price_limit(codes, days, listed_days=np.where(np.isfinite(age), age, 10**6).clip(min=1))
    before = close.ffill().shift(1)
    deal = close if price is None else price
    if not np.isfinite(factor.to_numpy()).any():
        logger.warning("no $factor: limit-up days are judged by the return within 0.3% of the limit")
        return np.asarray((deal / before - 1).to_numpy() >= limit - 0.003)
    reference = np.round((before / factor).to_numpy(dtype=np.float64), 2)
    raw = np.round((deal / factor).to_numpy(dtype=np.float64), 2)
    with np.errstate(invalid="ignore"):
        return np.asarray(raw >= limit_up_price(reference, limit) - 1e-6)


class DayDatasetH(DatasetH):
    """A DatasetH whose market is also served as a DayPanel (`.panel`); other qlib models train on it unchanged.

    Args:
        handler, segments: as for DatasetH. Segments must not overlap; where two touch, the earlier one loses the days
            whose label reaches into the later one, with a notice.
        step_len: T, days in a window.
        liquidity: "auto", "community", "yuan", "adjusted_shares", an expression of a day's turnover in yuan, or None.
        liquidity_window, volatility_window: days of the trailing means.
        listing_age: trading days after listing before a stock belongs to the universe.
        label: the label's expression, where the handler cannot tell it.
        label_days: [entry, reach], the first and last day after d whose prices the label takes, where its expression is
            not of the form Ref($close, -2)/Ref($close, -1) - 1; the entry is then taken to be a close.
        market_state, macro_state: what feeds MASTER's gate: true or options of `market.MarketState`, options of
            `macro.MacroState`. Both together stand side by side, the indices first.

    """

    label_days: LabelSpan | None = None
    market_state: MarketState | None = None
    macro_state: MacroState | None = None

    unit_profile: str | None = None  # or the expression, that the panel's liquidity is of; known once the panel stands

    def __init__(
        self,
        handler: Any,
        segments: dict[str, Any],
        *,
        step_len: int = 8,
        liquidity: str | None = "auto",
        liquidity_window: int = 20,
        volatility_window: int = 20,
        listing_age: int = 60,
        label: str | None = None,
        label_days: Sequence[int] | None = None,
        market_state: bool | dict[str, Any] | MarketState | None = None,
        macro_state: dict[str, Any] | MacroState | None = None,
        fetch_kwargs: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("DayDatasetH", unknown, argument_names(DayDatasetH))
        if step_len < 1:
            raise ValueError(f"step_len={step_len} must be at least 1 day")
        self.step_len, self.liquidity, self.liquidity_window = step_len, liquidity, liquidity_window
        self.volatility_window, self.listing_age, self.label = volatility_window, listing_age, label
        if label_days is not None:
            self.label_days = LabelSpan(*label_days)
        if self.label_days is not None and not 0 <= self.label_days.entry < self.label_days.reach:
            raise ValueError(f"label_days={label_days!r}; wanted [entry, reach] with 0 <= entry < reach")
        self.market_state, self.macro_state = MarketState.of(market_state), MacroState.of(macro_state)
        self._panel: DayPanel | None = None
        if liquidity is not None:
            units.fields_of(liquidity, owner="DayDatasetH")
        check_segments(segments)
        super().__init__(handler=handler, segments=segments, fetch_kwargs=fetch_kwargs or {})

    def config(self, handler_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Configure as DatasetH does, with the same check of the segments as at the start."""
        if "segments" in kwargs:
            check_segments(kwargs["segments"])
        super().config(handler_kwargs=handler_kwargs, **kwargs)

    def setup_data(self, handler_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Set up the handler's data; the panel is built anew on the next use."""
        self._panel = None
        super().setup_data(handler_kwargs=handler_kwargs, **kwargs)

    @property
    def span(self) -> LabelSpan:
        """Entry and reach of the label."""
        return self.label_days or label_span(known_label(self.handler, self.label))

    @property
    def panel(self) -> DayPanel:
        """The whole of the handler's data as a panel, built on first use."""
        panel = getattr(self, "_panel", None)  # qlib drops it from pickles
        if panel is None:
            panel = self._panel = self._build()
        return panel

    def rows(self, segment: str) -> npt.NDArray[np.int64]:
        """Rows of a segment in the panel; days whose label reaches into a later segment are purged."""
        return segment_rows(self.panel, self.segments, segment, self.span.reach)

    @property
    def market_names(self) -> list[str]:
        """Names of the panel's M market features; empty where it has none."""
        return state_names(self.market_state, self.macro_state)

    def _build(self) -> DayPanel:
        feature, label = handler_frames(self.handler)
        codes = sorted(str(c) for c in feature.index.get_level_values("instrument").unique())
        indices = [c for c in codes if is_index(c)]
        if indices:
            logger.warning(f"{len(indices)} indices among the instruments are left out: {indices[:6]}")
            codes = [c for c in codes if not is_index(c)]
        day = pd.DatetimeIndex(feature.index.get_level_values("datetime"))
        grids = self._grids(codes, day.min(), day.max())
        state = load_state(self.market_state, self.macro_state, pd.DatetimeIndex(day.unique().sort_values()))
        panel = DayPanel.from_frame(feature, label, market=state, **grids)
        if panel.filled > 0:
            logger.info(f"{panel.filled:.2%} of the feature values of present stocks were NaN and became 0")
        return panel

    def _grids(self, codes: list[str], start: pd.Timestamp, end: pd.Timestamp) -> dict[str, pd.DataFrame]:
        calendar = pd.DatetimeIndex(D.calendar())
        last = min(len(calendar) - 1, int(calendar.searchsorted(end)) + self.span.reach)
        lead = max(20, self.volatility_window)
        raw = read_fields(codes, ["$close", "$factor"], start, calendar[last], lead=lead)
        close, factor = raw["$close"], raw["$factor"]
        sigma = trailing_volatility(close, self.volatility_window)
        age = listed_days(codes, pd.DatetimeIndex(close.index))
        field = "close" if self.label_days else label_prices(known_label(self.handler, self.label))[self.span.entry]
        price = (
            raw["$close"]
            if field == "close"
            else read_fields(codes, [f"${field}"], start, calendar[last], lead=lead)[f"${field}"]
        )
        locked = pd.DataFrame(locked_up(close, factor, age, price=price), index=close.index, columns=close.columns)
        old = pd.DataFrame(age > self.listing_age, index=close.index, columns=close.columns)
        entry = self.span.entry
        grids = {
            "present": close.notna() & old,
            "volatility": sigma,
            "buyable": price.shift(-entry).notna() & ~locked.shift(-entry, fill_value=True),
        }
        if self.span.horizon > 1:
            grids["step_return"] = close.ffill().pct_change(fill_method=None).shift(-entry - 1)
        if self.liquidity is not None:
            turnover = turnover_expression(self.liquidity, codes, start, end)
            self.unit_profile = _NAMED.get(turnover, turnover)
            grids["liquidity"] = load_liquidity(codes, start, end, profile=turnover, window=self.liquidity_window)
        return grids


def label_expression(handler: Any) -> str | None:
    """Return the label's expression where the handler's loader tells it."""
    fields = getattr(getattr(handler, "data_loader", None), "fields", None)
    if isinstance(fields, dict) and "label" in fields:
        return str(fields["label"][0][0])
    return None


def known_label(handler: Any, named: str | None = None) -> str:
    """Return the label's expression, of the handler or as named by the user.

    Raises: ValueError where both say different things, or neither says anything.

    """
    found = label_expression(handler)
    if named and found and named.replace(" ", "") != found.replace(" ", ""):
        raise ValueError(f"label={named!r} but the handler's label is {found!r}: drop the one, or change the other")
    if not (named or found):
        raise ValueError(
            "the handler cannot tell its label, and purging depends on it: give DayDatasetH(label='Ref($close, -2)/"
            "Ref($close, -1) - 1'), the expression that the label was made by, or label_days=[1, 2]"
        )
    return str(named or found)


def handler_frames(handler: Any) -> tuple[pd.DataFrame, pd.Series]:
    """Features of the inference data and the raw label of a handler, each by (datetime, instrument).

    Raises: ValueError where the handler dropped its raw data or has no label.

    """
    try:
        feature = handler.fetch(col_set="feature", data_key=DataHandlerLP.DK_I)
    except AttributeError as error:
        raise ValueError(
            "the handler holds no data (a dataset loaded from a recorder): call "
            'dataset.setup_data(handler_kwargs={"init_type": DataHandlerLP.IT_LS}) first'
        ) from error
    try:
        label = handler.fetch(col_set="label", data_key=DataHandlerLP.DK_R)
    except (AttributeError, KeyError) as error:
        raise ValueError("no raw label: set drop_raw: false and a label in the handler") from error
    return feature, label.iloc[:, 0]


def bounds(segment: Any) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Start and end of a segment (pair or slice); open ends are the ends of time.

    Raises: ValueError where it is no pair, or ends before it starts.

    """
    pair = (segment.start, segment.stop) if isinstance(segment, slice) else tuple(segment)
    if len(pair) != 2:
        raise ValueError(f"segment {segment!r}; wanted [start, end]")
    start = pd.Timestamp.min if pair[0] is None else pd.Timestamp(pair[0])
    end = pd.Timestamp.max if pair[1] is None else pd.Timestamp(pair[1])
    if start > end:
        raise ValueError(f"segment {segment!r} ends before it starts")
    return start, end


def check_segments(segments: dict[str, Any]) -> None:
    """Raise ValueError where two segments overlap."""
    spans = sorted((*bounds(s), name) for name, s in segments.items())
    for (_, end, name), (start, _, later) in zip(spans, spans[1:], strict=False):
        if start <= end:
            raise ValueError(f"segments {name!r} and {later!r} overlap from {start.date()}: let {name!r} end earlier")


def segment_rows(panel: DayPanel, segments: dict[str, Any], name: str, reach: int) -> npt.NDArray[np.int64]:
    """Rows of a segment, purged by the label's reach before the next segment (train and valid only).

    Raises: ValueError for an unknown segment or one outside the panel's days.

    """
    if name not in segments:
        raise ValueError(f"no segment {name!r}; there are {sorted(segments)}")
    start, end = bounds(segments[name])
    rows = panel.rows(start, end)
    first, last = pd.Timestamp(panel.days[0]), pd.Timestamp(panel.days[-1])
    slack = pd.Timedelta(days=15)
    early = start != pd.Timestamp.min and start < first - slack
    late = end != pd.Timestamp.max and end > last + slack
    if not len(rows) or early or late:
        raise ValueError(
            f"segment {name!r} ({start.date()} to {end.date()}) is outside the data, {first.date()} to {last.date()}: "
            "change the segment or the handler's start_time and end_time"
        )
    if name == "test":
        return rows
    later = [bounds(s)[0] for other, s in segments.items() if other != name and bounds(s)[0] > start]
    if later:
        limit = int(panel.rows(min(later), None)[0]) if len(panel.rows(min(later), None)) else len(panel.days)
        kept = rows[rows + reach < limit]
        if len(kept) < len(rows):
            logger.info(f"segment {name!r}: {len(rows) - len(kept)} last days purged, their label reaches {reach} days")
        return kept
    return rows


def panel_of(dataset: Any) -> tuple[DayPanel, int, Any]:
    """Return (panel, step_len, rows(segment)) of a DayDatasetH, TSDatasetH or plain DatasetH.

    Raises: ValueError for anything else, segments that overlap, a handler without data or label (see
        `handler_frames`), or a label that is no forward return (see `label_prices`).

    """
    if isinstance(dataset, DayDatasetH):
        return dataset.panel, dataset.step_len, dataset.rows
    if not isinstance(dataset, DatasetH):
        raise ValueError(f"dataset is a {type(dataset).__name__}; wanted a DayDatasetH, DatasetH or TSDatasetH")
    check_segments(dataset.segments)
    panel = DayPanel.from_frame(*handler_frames(dataset.handler))
    expression = label_expression(dataset.handler)
    if expression is None:
        logger.warning(
            f"the handler cannot tell its label; it is taken to be {DEFAULT_LABEL} (use DayDatasetH(label=))"
        )
    reach = label_span(expression or DEFAULT_LABEL).reach
    logger.info("plain dataset: no liquidity, no buyable mask, suspended stocks are not told apart (use DayDatasetH)")
    return panel, getattr(dataset, "step_len", 1), lambda name: segment_rows(panel, dataset.segments, name, reach)
