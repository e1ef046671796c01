"""DayPanel, its labels, and the state of the market beside it."""

from qlib_ext.panel.labels import (
    DEFAULT_LABEL,
    FIVE_DAY_LABEL,
    PRICES,
    LabelSpan,
    check_raw_return,
    label_prices,
    label_span,
)
from qlib_ext.panel.macro_state import MacroSeries, MacroState, read_macro
from qlib_ext.panel.market_state import OFFICIAL_INDICES, OFFICIAL_NAMES, MarketState
from qlib_ext.panel.panel import Batch, DayPanel, Exposure
from qlib_ext.panel.rows import PanelRows
from qlib_ext.panel.scores import check_grid, check_scores, grid_of
from qlib_ext.panel.series import takes_series

__all__ = [
    "Batch",
    "DEFAULT_LABEL",
    "DayPanel",
    "Exposure",
    "LabelSpan",
    "MacroSeries",
    "MacroState",
    "MarketState",
    "OFFICIAL_INDICES",
    "OFFICIAL_NAMES",
    "PRICES",
    "PanelRows",
    "FIVE_DAY_LABEL",
    "check_grid",
    "check_raw_return",
    "check_scores",
    "grid_of",
    "label_prices",
    "label_span",
    "read_macro",
    "takes_series",
]
