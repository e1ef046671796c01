"""DayDatasetH: a qlib DatasetH that also serves the market as a DayPanel; liquidity in yuan through unit profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.data import D
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from qlib.log import get_module_logger

from qlib_ext.data.market_features import load_state, state_names
from qlib_ext.data.options import check_options, label_days_of
from qlib_ext.data.outcomes import listed_days, locked_up, step_returns, trailing_volatility
from qlib_ext.data.segments import check_segments, dated_handler, segment_rows
from qlib_ext.options import argument_names, refuse_unknown
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
from qlib_ext.provider import (
    profiled_liquidity,
    read_fields,
)
from qlib_ext.rules import is_index

logger = get_module_logger("qlib_ext.data")


class DayDatasetH(DatasetH):
    """A DatasetH whose market is also served as a DayPanel (`.panel`); other qlib models train on it unchanged.

    Args:
        handler, segments: as for DatasetH. Segments must not overlap; where two touch, the earlier one loses the days
            whose label reaches into the later one, with a notice. A handler's configuration may leave out `start_time`
            and `end_time` (then those of all segments) and `fit_start_time` and `fit_end_time` (then those of train).
        step_len: T, days in a window.
        liquidity: "auto", "community", "yuan", "adjusted_shares", an expression of a day's turnover in yuan, or None.
        liquidity_window, volatility_window: days of the trailing means.
        listing_age: trading days after listing before a stock belongs to the universe.
        label: the label's expression, where the handler cannot tell it. All money is reckoned with it, so it must be a
            raw simple return, see `labels.label_prices`.
        label_days: [entry, reach], the first and last day after d whose prices the label takes, where its expression
            equals such a return but is not of its form; the entry is then taken to be a close.
        st: spells of special treatment, as AShareExchange takes them: a CSV file or a frame with the columns code,
            start, end. The mask `buyable` then knows their limits; null: every stock has its board's.
        market_state, macro_state: what feeds MASTER's gate: true or options of `market.MarketState`, options of
            `macro.MacroState`. Both together stand side by side, the indices first.

    """

    label_days: LabelSpan | None = None
    st: pd.DataFrame | str | Path | None = None
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
        st: pd.DataFrame | str | Path | None = None,
        fetch_kwargs: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown("DayDatasetH", unknown, argument_names(DayDatasetH))
        self.step_len, self.liquidity, self.liquidity_window = step_len, liquidity, liquidity_window
        self.volatility_window, self.listing_age, self.label, self.st = volatility_window, listing_age, label, st
        names = ("step_len", "liquidity", "liquidity_window", "volatility_window", "listing_age", "label", "st")
        check_options(**{name: getattr(self, name) for name in names})
        if label_days is not None:
            self.label_days = label_days_of(label_days)
        self.market_state, self.macro_state = MarketState.of(market_state), MacroState.of(macro_state)
        self._panel: DayPanel | None = None
        check_segments(segments)
        super().__init__(handler=dated_handler(handler, segments), segments=segments, fetch_kwargs=fetch_kwargs or {})

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
        """Entry and reach of the label.

        Raises: ValueError for a label that is no raw simple return, or one that `label_days` contradicts.

        """
        return LabelSpan(*self._prices)

    @property
    def entry_field(self) -> str:
        """Field of the price that the label enters at, without its $: "close", "open"; "close" with `label_days`.

        Raises: ValueError as `span`.

        """
        return self._prices[self.span.entry]

    @property
    def _prices(self) -> dict[int, str]:
        """Entry and exit, days after d -> field."""
        days, told = self.label_days, self.label or label_expression(self.handler)
        if days is None:
            return label_prices(known_label(self.handler, self.label))
        prices = {days.entry: "close", days.reach: "close"}
        try:
            found = label_prices(told) if told else prices
        except ValueError:  # it is for such labels that there are label_days
            return prices
        if found != prices:
            raise ValueError(f"label_days={[*prices]}, closes, but the label is {told!r}: drop label_days")
        return prices

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
        if self.label_days or label_expression(self.handler) is None:
            check_raw_return(label.to_numpy(), self.span.horizon)
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
        lead = max(20, self.volatility_window, self.liquidity_window - 1)
        fields = list(dict.fromkeys(["$close", "$factor", f"${self.entry_field}"]))
        raw = read_fields(codes, fields, start, calendar[last], lead=lead)
        close, price = raw["$close"], raw[f"${self.entry_field}"]
        age = listed_days(codes, pd.DatetimeIndex(close.index))
        locked = pd.DataFrame(
            locked_up(close, raw["$factor"], age, price=price, st=self.st), index=close.index, columns=close.columns
        )
        old = pd.DataFrame(age > self.listing_age, index=close.index, columns=close.columns)
        entry = self.span.entry
        grids = {
            "present": close.notna() & old,
            "volatility": trailing_volatility(close, self.volatility_window),
            "buyable": price.shift(-entry).notna() & ~locked.shift(-entry, fill_value=True),
        }
        if self._marked_by_steps():
            grids["step_return"] = step_returns(price, entry)
        if self.liquidity is not None:
            grids["liquidity"], self.unit_profile = profiled_liquidity(
                codes, start, end, profile=self.liquidity, window=self.liquidity_window, known=raw
            )
        return grids

    def _marked_by_steps(self) -> bool:
        """Whether labels of successive days overlap, so that positions are marked by `step_returns` instead."""
        exit_field = self._prices[self.span.reach]
        if exit_field != self.entry_field:
            logger.warning(
                f"the label goes from ${self.entry_field} to ${exit_field}, so the labels of successive days overlap: "
                f"positions are marked from ${self.entry_field} to ${self.entry_field}, day by day"
            )
        return self.span.horizon > 1 or exit_field != self.entry_field


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
        raise ValueError(
            "no raw label: give the handler a label, and set drop_raw: false (FastAlpha158 and FastAlpha360 keep the "
            "labels under drop_raw: true, qlib's own handlers do not)"
        ) from error
    return feature, label.iloc[:, 0]


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
    try:
        label_prices(expression or DEFAULT_LABEL)
    except ValueError as error:
        logger.warning(f"a plain dataset trains on it, but no money can be reckoned: {error}")
    logger.info("plain dataset: no liquidity, no buyable mask, suspended stocks are not told apart (use DayDatasetH)")
    return panel, getattr(dataset, "step_len", 1), lambda name: segment_rows(panel, dataset.segments, name, reach)
