"""Scores smoothed over days."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from qlib_ext.cross_section import rank_shares
from qlib_ext.portfolio.policy import Vector


def smoothed(score: ArrayLike, halflife: float | None) -> Vector:
    """Average each stock's rank over the days so far, with weights that halve every `halflife` days; causal.

    A day's rank is the average rank from the bottom over the number of the day's scores, so that a day is worth the
    same whatever the units of its scores. A day without a score keeps the last average; it counts as a day where the
    weights of older ones age.

    Args:
        score: (D, N) of successive trading days, larger is better, NaN where there is none.
        halflife: days; None or 0: the rank of the day alone, NaN where there is no score.

    Returns:
        (D, N) in (0, 1], larger is better, NaN until a stock's first score.

    >>> smoothed([[1.0, 2.0], [2.0, 1.0], [np.nan, 1.0]], 1.0).round(3).tolist()
    [[0.5, 1.0], [0.833, 0.667], [0.833, 0.857]]
    """
    share = rank_shares(np.asarray(score, dtype=np.float64))
    return pd.DataFrame(share).ewm(halflife=halflife).mean().to_numpy() if halflife else share
