"""Arithmetic over one day's stocks, (B, N) under a mask: ranks, z-scores, correlations."""

from qlib_ext.cross_section.correlation import (
    CENTERS,
    concordance,
    information_coefficient,
    mean_squared_error,
    weighted_pearson,
)
from qlib_ext.cross_section.masked import (
    FLAT_STEPS,
    check_shapes,
    deal,
    extent,
    is_flat,
    is_narrow,
    is_positive,
    labelled,
    log_min_max,
    position,
    unit_ranks,
    volatility_factor,
    widen,
)
from qlib_ext.cross_section.ranks import ascending, descending, rising
from qlib_ext.cross_section.scale import centre_and_spread

__all__ = [
    "CENTERS",
    "FLAT_STEPS",
    "ascending",
    "centre_and_spread",
    "check_shapes",
    "concordance",
    "deal",
    "descending",
    "extent",
    "information_coefficient",
    "is_flat",
    "is_narrow",
    "is_positive",
    "labelled",
    "log_min_max",
    "mean_squared_error",
    "position",
    "rising",
    "unit_ranks",
    "volatility_factor",
    "weighted_pearson",
    "widen",
]
