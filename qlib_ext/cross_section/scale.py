"""Robust centre and spread of a feature over training days: one rule for the stocks' features and the market's."""

from __future__ import annotations

from torch import Tensor

MAD_TO_STD = 1.4826  # of a normal distribution


def centre_and_spread(value: Tensor) -> tuple[Tensor, Tensor]:
    """Median and 1.4826 MAD of values (n,) or (n, M) over n: () or (M,) each.

    Where half of the values are equal the spread is the standard deviation, of a constant feature exactly 0.
    """
    centre = value.median(0).values
    mad = MAD_TO_STD * (value - centre).abs().median(0).values
    spread = mad.where(mad > 0, value.std(0, correction=0))
    return centre, spread.where(value.amax(0) > value.amin(0), 0.0)
