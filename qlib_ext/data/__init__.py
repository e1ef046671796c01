"""The market as a DayDatasetH: qlib's frames become a DayPanel with liquidity, labels and market state."""

from qlib_ext.data.dataset import DayDatasetH, handler_frames, known_label, label_expression, panel_of
from qlib_ext.data.market_features import known_indices, load_state
from qlib_ext.data.options import label_days_of
from qlib_ext.data.outcomes import listed_days, locked_up, trailing_volatility
from qlib_ext.data.segments import bounds, check_segments, dated_handler, segment_rows
from qlib_ext.panel import DEFAULT_LABEL, LabelSpan, MacroState, MarketState, label_prices, label_span
from qlib_ext.provider import load_liquidity, turnover_expression, turnover_of, unit_profile
from qlib_ext.rules import PLAUSIBLE_TURNOVER, PROFILES, check_turnover

__all__ = [
    "DEFAULT_LABEL",
    "DayDatasetH",
    "LabelSpan",
    "MacroState",
    "MarketState",
    "PLAUSIBLE_TURNOVER",
    "PROFILES",
    "bounds",
    "check_segments",
    "check_turnover",
    "dated_handler",
    "handler_frames",
    "known_indices",
    "known_label",
    "label_days_of",
    "label_expression",
    "label_prices",
    "label_span",
    "listed_days",
    "load_liquidity",
    "load_state",
    "locked_up",
    "panel_of",
    "segment_rows",
    "trailing_volatility",
    "turnover_expression",
    "turnover_of",
    "unit_profile",
]
