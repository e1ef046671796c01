"""Factors of daily bars. The qlib classes stand in `qlib_ext.handler` and `qlib_ext.processor`."""

from qlib_ext.features.daily import DAILY_LEAD, chosen, daily_factors
from qlib_ext.features.daily_table import DAILY, DAILY_NAMES, GROUPS
from qlib_ext.features.factors import ALPHA158_NAMES, ALPHA360_NAMES, TOLERANCE, alpha158, alpha360

__all__ = [
    "ALPHA158_NAMES",
    "ALPHA360_NAMES",
    "DAILY",
    "DAILY_LEAD",
    "DAILY_NAMES",
    "GROUPS",
    "TOLERANCE",
    "alpha158",
    "alpha360",
    "chosen",
    "daily_factors",
]
