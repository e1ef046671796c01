"""Scores as a grid, days down and stocks across."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd


def grid_of(
    scores: pd.Series, days: npt.ArrayLike, stocks: Sequence[str] | npt.NDArray[np.object_]
) -> npt.NDArray[np.float64]:
    """Lay out scores by (datetime, instrument) as (D, N), NaN where there is none.

    >>> day = pd.Timestamp("2022-01-04")
    >>> index = pd.MultiIndex.from_tuples([(day, "A"), (day, "B")], names=["datetime", "instrument"])
    >>> grid_of(pd.Series([0.5, 0.1], index), [day], ["B", "C"])
    array([[0.1, nan]])
    """
    grid = scores.unstack("instrument").reindex(index=pd.DatetimeIndex(np.asarray(days)), columns=list(stocks))
    return np.asarray(grid.to_numpy(dtype=np.float64))
