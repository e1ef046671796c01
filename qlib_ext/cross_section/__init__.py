"""Arithmetic over one day's stocks, (B, N) under a mask: ranks, z-scores, correlations."""

from qlib_ext.cross_section.correlation import (
    CENTERS,
    concordance,
    information_coefficient,
    mean_squared_error,
    pearson,
    spearman,
    weighted_pearson,
)
from qlib_ext.cross_section.masked import (
    centre_and_spread,
    check_days,
    cross_section_zscore,
    deal,
    is_flat,
    is_positive,
    labelled,
    log_min_max,
    standardised,
    unit_ranks,
    varied_days,
    volatility_factor,
    widen,
)
from qlib_ext.cross_section.ranks import descending, places, rank_shares, ranks

__all__ = [
    "CENTERS",
    "centre_and_spread",
    "check_days",
    "concordance",
    "cross_section_zscore",
    "deal",
    "descending",
    "information_coefficient",
    "is_flat",
    "is_positive",
    "labelled",
    "log_min_max",
    "mean_squared_error",
    "pearson",
    "places",
    "rank_shares",
    "ranks",
    "spearman",
    "standardised",
    "unit_ranks",
    "varied_days",
    "volatility_factor",
    "weighted_pearson",
    "widen",
]
