"""A search over a workflow's values: trials on training and validation days, kept by optuna; needs qlib and optuna."""

from qlib_ext.tune.blind import blinded, check_ranges
from qlib_ext.tune.outcome import Outcome, outcome, workflow_text, write_outcome
from qlib_ext.tune.search import Settings, search
from qlib_ext.tune.space import Range, differences, range_of, read_space, value_at, with_values
from qlib_ext.tune.study import Trials, held

__all__ = [
    "Outcome",
    "Range",
    "Settings",
    "Trials",
    "blinded",
    "check_ranges",
    "differences",
    "held",
    "outcome",
    "range_of",
    "read_space",
    "search",
    "value_at",
    "with_values",
    "workflow_text",
    "write_outcome",
]
