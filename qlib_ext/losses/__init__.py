"""Losses over one day's stocks: the deck's WPCC and LIQ-WPCC, and IC, CCC and MSE beside them."""

from qlib_ext.cross_section import CENTERS, concordance, information_coefficient, mean_squared_error, weighted_pearson
from qlib_ext.losses.day_loss import (
    ALPHA,
    BASE,
    LOSSES,
    TARGETS,
    TIES,
    WEIGHT_SOURCES,
    DayLoss,
    LossDays,
    exposure_names,
    liquidity_weight,
    rank_weight,
    target_transform,
)

__all__ = [
    "ALPHA",
    "BASE",
    "CENTERS",
    "DayLoss",
    "LOSSES",
    "LossDays",
    "TARGETS",
    "TIES",
    "WEIGHT_SOURCES",
    "concordance",
    "exposure_names",
    "information_coefficient",
    "liquidity_weight",
    "mean_squared_error",
    "rank_weight",
    "target_transform",
    "weighted_pearson",
]
