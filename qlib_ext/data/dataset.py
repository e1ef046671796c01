"""DayDatasetH: a qlib DatasetH that also serves the market as a DayPanel; liquidity in yuan through unit profiles."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from qlib.log import get_module_logger

from qlib_ext import rules
from qlib_ext.data.exposures import PanelExposures, with_industry
from qlib_ext.data.handlers import (
    dated_handler,
    handler_frames,
    horizons_of,
    label_days_of,
    label_expression,
    tell_unlearnt,
    told_prices,
)
from qlib_ext.data.market_features import load_state, state_names
from qlib_ext.data.outcomes import horizon_returns, locked_up, step_returns
from qlib_ext.data.segments import bounds, check_segments, plain_segments, segment_rows
from qlib_ext.data.windows import DaySampler, WindowFrame
from qlib_ext.options import argument_names, check_number, enough_memory, refuse_unknown, tell
from qlib_ext.panel import (
    DEFAULT_LABEL,
    DayPanel,
    LabelSpan,
    MacroState,
    MarketState,
    check_raw_return,
    label_prices,
    label_span,
)
from qlib_ext.portfolio import read_exposures
from qlib_ext.provider import (
    calendar,
    filled_days,
    listed_days,
    mean_turnover,
    only_traded,
    profiled_liquidity,
    read_fields,
    spells_of,
    trailing_volatility,
    with_past,
)
from qlib_ext.spelling import read_day

logger = get_module_logger("qlib_ext.data")

LEAST = {"step_len": 1, "liquidity_window": 1, "volatility_window": 2, "listing_age": 0}  # whole days


class DayDatasetH(DatasetH):
    """A DatasetH whose market is also served as a DayPanel (`.panel`); other qlib models train on it unchanged.

    Those that a TSDatasetH is for (`pytorch_lstm_ts` and the like) too: what it prepares is a `WindowFrame`.

    Args:
        handler, segments: as for DatasetH. Segments must not overlap; where two touch, the earlier one loses the days
            whose label reaches into the later one, with a notice. A handler's configuration may leave out `start_time`
            and `end_time` (then those of all segments) and `fit_start_time` and `fit_end_time` (then those of train).
        step_len: T, days in a window.
        liquidity: "auto", a unit profile (`rules.PROFILES`), an expression of a day's turnover in yuan, or None.
        liquidity_window, volatility_window: days of the trailing means.
        listing_age: trading days after listing before a stock belongs to the universe.
        label: the label's expression, where the handler cannot tell it. All money is reckoned with it, so it must be a
            raw simple return, see `panel.label_prices`.
        label_days: [entry, reach], the first and last day after d whose prices the label takes, where its expression
            equals such a return but is not of its form; the entry is then taken to be a close.
        horizons: days of further labels to learn from, all from the label's entry to the same price so many days later
            (`panel.labels`): rising, such as [1, 5, 10, 20]; a network of qlib_ext has one head each. The handler's
            label still judges. Segments and folds are purged by the longest. null: the handler's label alone.
        st: spells of special treatment, as AShareExchange takes them: a CSV file or a frame with the columns code,
            start, end. The mask `buyable` then knows their limits; null: those of the provider's qlib_ext/st.csv, where
            it has one; without spells, or with false, every stock has its board's.
        exposures: of your own, known at the close of the day, beside those of `portfolio.KINDS`: numbers or categories
            (text) by instrument, or by (datetime, instrument); or a CSV file with the columns code and, where they
            change, date. A loss may be `neutral` to them by their names. null: none. `industry` is there too, where the
            provider has qlib_ext/industry.csv.
        market_state, macro_state: what feeds MASTER's gate: true or options of `panel.MarketState`, options of
            `panel.MacroState`. Both together stand side by side, the indices first.

    In YAML: `class: DayDatasetH, module_path: qlib_ext.data`.

    >>> dataset.panel.x.shape  # (D, N, F)
    torch.Size([98, 12, 2])
    >>> len(dataset.panel.rows("2020-05-06", "2020-05-29")), len(dataset.rows("valid"))  # two labels reach into test
    (18, 16)
    >>> dataset.span
    LabelSpan(entry=1, reach=2)
    >>> dataset  # doctest: +NORMALIZE_WHITESPACE
    DayDatasetH(DataHandlerLP of all, train 2020-02-03 to 2020-04-30, valid 2020-05-06 to 2020-05-29,
      test 2020-06-01 to 2020-06-22, step_len=2, liquidity='auto'; 98 days, 12 stocks, 2 features)
    """

    label_days: LabelSpan | None = None
    horizons: tuple[int, ...] = ()
    st: pd.DataFrame | str | Path | bool | None = None
    exposures: pd.DataFrame | str | Path | None = None
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
        horizons: Sequence[int] | None = None,
        market_state: bool | dict[str, Any] | MarketState | None = None,
        macro_state: dict[str, Any] | MacroState | None = None,
        st: pd.DataFrame | str | Path | bool | None = None,
        exposures: pd.DataFrame | str | Path | None = None,
        fetch_kwargs: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("DayDatasetH", unknown, argument_names(DayDatasetH))
        self.step_len, self.liquidity, self.liquidity_window = step_len, liquidity, liquidity_window
        self.volatility_window, self.listing_age, self.label, self.st = volatility_window, listing_age, label, st
        self.exposures = exposures
        self._check_options()
        self.exposure_source()
        if label_days is not None:
            self.label_days = label_days_of(label_days)
        self.horizons = horizons_of(horizons)
        self.market_state, self.macro_state = MarketState.of(market_state), MacroState.of(macro_state)
        self._panel: DayPanel | None = None
        segments = plain_segments(segments)
        super().__init__(handler=dated_handler(handler, segments), segments=segments, fetch_kwargs=fetch_kwargs or {})

    def _check_options(self) -> None:
        for name, least in LEAST.items():
            within = f"[{least}, inf)"
            check_number(f"DayDatasetH: {name}", getattr(self, name), within, whole=True, hint=" (trading days)")
        if self.liquidity is not None:
            rules.fields_of(self.liquidity, owner="DayDatasetH")
        elif self.liquidity_window != 20:
            tell("DayDatasetH: liquidity_window has no effect without liquidity (liquidity: null)")
        if not (self.label is None or isinstance(self.label, str)):
            raise ValueError(f"DayDatasetH: label is {self.label!r}; it must be the label's expression, or null.")
        if not (self.st is None or self.st is False or isinstance(self.st, str | Path | pd.DataFrame)):
            columns = "the columns code, start, end"
            raise ValueError(f"DayDatasetH: st is {self.st!r}; it must be a CSV file with {columns}, null or false.")

    def __repr__(self) -> str:
        """Tell handler, segments, options and, where it is built, the panel; nothing is loaded."""
        handler, panel = getattr(self, "handler", None), getattr(self, "_panel", None)
        market = getattr(handler, "instruments", None)
        of = market if isinstance(market, str) else f"{len(market)} codes" if isinstance(market, list | tuple) else "?"
        parts = [f"{type(handler).__name__} of {of}"]
        for name, part in self.segments.items():
            first, last = (part.start, part.stop) if isinstance(part, slice) else part
            parts.append(f"{name} {str(first)[:10]} to {str(last)[:10]}")
        parts.append(f"step_len={self.step_len}, liquidity={self.liquidity!r}")
        built = "panel not built yet"
        if panel is not None:
            built = f"{len(panel.days)} days, {len(panel.stocks)} stocks, {len(panel.features)} features"
        return f"{type(self).__name__}({', '.join(parts)}; {built})"

    def config(self, handler_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Configure as DatasetH does, with the same check of the segments as at the start.

        Where the handler is to begin with the new segments, or a little before, it begins early enough for the window
        of their first day: qlib's PredUpdater, which knows the `step_len` of its own TSDatasetH alone, works with it.
        """
        self.step_len = kwargs.pop("step_len", self.step_len)
        if "segments" in kwargs:
            kwargs["segments"] = plain_segments(kwargs["segments"])
            handler_kwargs = self._with_window(handler_kwargs or {}, kwargs["segments"])
        super().config(handler_kwargs=handler_kwargs or None, **kwargs)

    def _with_window(self, options: dict[str, Any], segments: dict[str, Any]) -> dict[str, Any]:
        """Move a handler's `start_time` back to the first step of the window of the segments' first day."""
        first = min((bounds(segment)[0] for segment in segments.values()), default=None)
        start = options.get("start_time")
        if first is None or start is None or read_day("handler: start_time", start) > first:
            return options
        every = calendar()
        begin = every[max(0, int(every.searchsorted(first)) - self.step_len + 1)]
        return options | {"start_time": min(begin, read_day("handler: start_time", start))}

    def setup_data(self, handler_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Set up the handler's data; the panel is built anew on the next use."""
        self._panel = None
        super().setup_data(handler_kwargs=handler_kwargs, **kwargs)

    def prepare(self, segments: Any, *args: Any, **kwargs: Any) -> Any:
        """Prepare frames as DatasetH does; a model that learns from them has the handler's label alone."""
        if self.horizons and kwargs.get("data_key") == DataHandlerLP.DK_L:
            tell("DayDatasetH: horizons have no effect on a model that learns from frames, such as LGBModel")
        return super().prepare(segments, *args, **kwargs)

    def _prepare_seg(self, slc: Any, dtype: Any = None, **kwargs: Any) -> Any:
        """Give a segment's frame, whose windows of `step_len` days reach back before the segment as TSDatasetH's do."""
        frame, plain = super()._prepare_seg(slc, **kwargs), super()._prepare_seg
        return WindowFrame.of(frame, partial(self._windows, plain, slc, dtype, kwargs))

    def _windows(self, fetch: Any, segment: Any, dtype: Any, kwargs: dict[str, Any]) -> DaySampler:
        start, end = bounds(segment)
        rows = getattr(self.handler, "panel_rows", None)
        index = self.handler.fetch(col_set=self.handler.CS_RAW).index if rows is None else rows.index
        days = index.get_level_values("datetime").unique().sort_values()
        first = days[max(0, int(days.searchsorted(start)) - self.step_len)]
        return DaySampler(fetch(slice(first, end), **kwargs), start, end, self.step_len, dtype=dtype)

    @property
    def span(self) -> LabelSpan:
        """Entry of the labels, reach of the longest, days of the handler's own.

        Raises: ValueError for a label that is no raw simple return, or one that `label_days` contradicts.
        """
        return LabelSpan(*self._prices).with_horizons(self.horizons)

    @property
    def entry_field(self) -> str:
        """Field of the price that the label enters at, without its $: "close", "open"; "close" with `label_days`.

        Raises: ValueError as `span`.
        """
        return self._prices[self.span.entry]

    @property
    def _prices(self) -> dict[int, str]:
        """Entry and exit, days after d -> field."""
        return told_prices(self.handler, self.label, self.label_days)

    @property
    def panel(self) -> DayPanel:
        """The whole of the handler's data as a panel, built on first use."""
        panel = getattr(self, "_panel", None)  # qlib drops it from pickles
        if panel is None:
            panel = self._panel = self._build()
        return panel

    def liquidity_of(self, codes: Sequence[str], start: Any, end: Any) -> pd.DataFrame | None:
        """Give what `provider.load_liquidity` would with the past before `start`, to the last bit, and read nothing.

        Yuan a day, day x code, by the turnover that the panel was made of; None where that lacks days or codes.
        """
        turnover = None if self.liquidity is None or self.panel is None else getattr(self, "_turnover", None)
        if turnover is None or not set(codes) <= set(turnover.columns):
            return None
        first = with_past(start, self.liquidity_window)
        return mean_turnover(turnover[list(codes)], first, end, self.liquidity_window)

    def rows(self, segment: str) -> npt.NDArray[np.int64]:
        """Rows of a segment in the panel; days whose label reaches into a later segment are purged."""
        return segment_rows(self.panel, self.segments, segment, self.span.reach)

    def exposure_source(self) -> PanelExposures:
        """Tell what makes exposures of the panel; a file of one's own is read anew.

        Raises: ValueError, OSError for what is none (see `portfolio.read_exposures`).
        """
        return PanelExposures(with_industry(read_exposures(self.exposures, "DayDatasetH: exposures")))

    @property
    def spells(self) -> Any:
        """Spells of special treatment, by `st` or of the provider; None: not known."""
        return spells_of(self.st)

    @property
    def market_names(self) -> list[str]:
        """Names of the panel's M market features; empty where it has none."""
        return state_names(self.market_state, self.macro_state)

    @enough_memory("take a smaller universe, fewer years or fewer features, or a larger machine")
    def _build(self) -> DayPanel:
        tell_unlearnt(getattr(self.handler, "learn_processors", None))
        feature, label = handler_frames(self.handler, rows=True)
        if self.label_days or label_expression(self.handler) is None:
            check_raw_return(label.to_numpy(), self.span.horizon)
        codes = sorted(str(c) for c in feature.index.get_level_values("instrument").unique())
        indices = [c for c in codes if rules.is_index(c)]
        if indices:
            logger.warning(f"{len(indices)} indices among the instruments are left out: {indices[:6]}")
            codes = [c for c in codes if not rules.is_index(c)]
        if not codes:
            raise ValueError("the handler has no stock on its days: correct its instruments (SH600000), or its days")
        day = pd.DatetimeIndex(feature.index.get_level_values("datetime"))
        raw = self._read(codes, day.min(), day.max())
        label = self._without_filled(label, raw)
        grids = self._grids(raw, day.min(), day.max())
        state = load_state(self.market_state, self.macro_state, pd.DatetimeIndex(day.unique().sort_values()))
        panel = DayPanel.from_frame(feature, label, market=state, **grids)
        panel.source = self.exposure_source()
        if panel.filled > 0:
            logger.info(f"{panel.filled:.2%} of the feature values of present stocks were NaN and became 0")
        return panel

    def _read(self, codes: list[str], start: pd.Timestamp, end: pd.Timestamp) -> dict[str, pd.DataFrame]:
        """Read what the grids need, (P, N) each: with the days before and after that they look at."""
        every = calendar()
        last = min(len(every) - 1, int(every.searchsorted(end)) + self.span.reach)
        lead = max(20, self.volatility_window, self.liquidity_window - 1)
        fields = list(dict.fromkeys(["$close", "$factor", "$volume", "$high", "$low", f"${self.entry_field}"]))
        return read_fields(codes, fields, start, every[last], lead=lead)

    def _without_filled(self, label: pd.Series, raw: dict[str, pd.DataFrame]) -> pd.Series:
        """Take the label away where it enters or leaves on a day that `filled_days` tells; warn of such days."""
        close, day = raw["$close"], label.index.get_level_values("datetime")
        filled = pd.DataFrame(filled_days(close, raw["$volume"]), close.index, close.columns).loc[day.min() :]
        if not filled.to_numpy().any():
            return label
        stocks = [str(code) for code in filled.columns[filled.any()]]
        logger.warning(
            f"{int(filled.to_numpy().sum()):,} stock days of {len(stocks)} stocks, {stocks[:3]} among them, have a "
            "price but no volume: they count as suspended (qlib's own handlers and exchange take them for days of "
            "trade; make them NaN in all fields but $factor)"
        )
        entry, reach = (filled.shift(-days, fill_value=False) for days in self._prices)
        row = filled.index.get_indexer(day)
        column = filled.columns.get_indexer(label.index.get_level_values("instrument"))
        return label.mask((entry | reach).to_numpy()[row, column] & (row >= 0) & (column >= 0))

    def _grids(self, raw: dict[str, pd.DataFrame], start: pd.Timestamp, end: pd.Timestamp) -> dict[str, Any]:
        seen, codes = only_traded(raw), [*raw["$close"].columns]
        close, price = seen["$close"], seen[f"${self.entry_field}"]
        age = listed_days(codes, pd.DatetimeIndex(close.index))
        factor, entry = raw["$factor"], self.span.entry
        traded = price.shift(-entry).notna()

        def free(side: str) -> pd.DataFrame:
            locked = locked_up(
                close, factor, age, price=price, st=self.spells, side=side, high=seen["$high"], low=seen["$low"]
            )
            return traded & ~pd.DataFrame(locked, close.index, close.columns).shift(-entry, fill_value=True)

        grids = {
            "present": close.notna() & pd.DataFrame(age > self.listing_age, close.index, close.columns),
            "volatility": trailing_volatility(close, self.volatility_window),
            "buyable": free("up"),
            "sellable": free("down"),
            "step_return": step_returns(price, entry),
            "labels": horizon_returns(price, entry, self.horizons),
        }
        self._tell_overlap()
        if self.liquidity is not None:  # what was decided on many days holds on few
            profile = (self.unit_profile or "auto") if self.liquidity == "auto" else self.liquidity
            grids["liquidity"], self.unit_profile, self._turnover = profiled_liquidity(
                codes, start, end, profile=profile, window=self.liquidity_window, loaded=raw
            )
        return grids

    def _tell_overlap(self) -> None:
        """Warn where the label leaves at another price than it enters: labels of successive days then overlap."""
        _, exit_field = self._prices.values()
        if exit_field != self.entry_field:
            logger.warning(
                f"the label goes from ${self.entry_field} to ${exit_field}, so the labels of successive days overlap: "
                f"positions are marked from ${self.entry_field} to ${self.entry_field}, day by day"
            )


def label_reach(dataset: Any) -> int:
    """Days after d that the label touches, of a DayDatasetH or a plain dataset, whose handler may tell its label.

    Raises: ValueError for a label that is not understood (see `label_span`).
    """
    if isinstance(dataset, DayDatasetH):
        return dataset.span.reach
    return label_span(label_expression(dataset.handler) or DEFAULT_LABEL).reach


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
    panel = DayPanel.from_frame(*handler_frames(dataset.handler, rows=True))
    expression = label_expression(dataset.handler)
    if expression is None:
        logger.warning(
            f"the handler cannot tell its label; it is taken to be {DEFAULT_LABEL} (use DayDatasetH(label=))"
        )
    reach = label_reach(dataset)
    try:
        label_prices(expression or DEFAULT_LABEL)
    except ValueError as error:
        logger.warning(f"a plain dataset trains on it, but no money can be reckoned: {error}")
    logger.info("plain dataset: no liquidity, no buyable mask, suspended stocks are not told apart (use DayDatasetH)")
    return panel, getattr(dataset, "step_len", 1), lambda name: segment_rows(panel, dataset.segments, name, reach)
