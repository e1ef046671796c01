"""The market as a DayDatasetH: qlib's frames become a DayPanel with liquidity, labels and market state."""

from qlib_ext.data.dataset import DayDatasetH, label_reach, panel_of
from qlib_ext.data.exposures import PanelExposures, as_known, measured, with_industry
from qlib_ext.data.handlers import (
    dated_handler,
    handler_frames,
    horizons_of,
    label_days_of,
    label_expression,
    tell_unlearnt,
)
from qlib_ext.data.made import FEATURES, day_dataset
from qlib_ext.data.market_features import (
    benchmark_returns,
    is_series,
    known_indices,
    load_state,
    own_series,
    read_benchmark,
)
from qlib_ext.data.memory import MTSDayDatasetH
from qlib_ext.data.outcomes import locked_up
from qlib_ext.data.over_handler import judging
from qlib_ext.data.rehearsal import days_of, rehearse_segments, rehearsed
from qlib_ext.data.segments import bounds, check_segments, plain_day, plain_segments, segment_rows
from qlib_ext.data.windows import DaySampler, WindowFrame
from qlib_ext.panel import DEFAULT_LABEL, LabelSpan, MacroState, MarketState, label_span
from qlib_ext.provider import load_liquidity, turnover_expression, unit_profile
from qlib_ext.rules import PLAUSIBLE_TURNOVER, PROFILES

__all__ = [
    "DEFAULT_LABEL",
    "DayDatasetH",
    "DaySampler",
    "FEATURES",
    "LabelSpan",
    "MTSDayDatasetH",
    "MacroState",
    "MarketState",
    "PanelExposures",
    "PLAUSIBLE_TURNOVER",
    "PROFILES",
    "WindowFrame",
    "as_known",
    "benchmark_returns",
    "bounds",
    "check_segments",
    "dated_handler",
    "day_dataset",
    "days_of",
    "handler_frames",
    "horizons_of",
    "judging",
    "known_indices",
    "label_days_of",
    "label_expression",
    "label_reach",
    "label_span",
    "load_liquidity",
    "load_state",
    "is_series",
    "locked_up",
    "measured",
    "own_series",
    "panel_of",
    "plain_day",
    "plain_segments",
    "read_benchmark",
    "rehearse_segments",
    "rehearsed",
    "segment_rows",
    "tell_unlearnt",
    "turnover_expression",
    "unit_profile",
    "with_industry",
]
