"""How long a score is worth something: its IC with each later day's return, and the half-life of it.

``D`` days, ``N`` stocks, ``L`` lags. Returns of single days do not overlap, however long the label that was learnt. But
a score that lasts meets the same return at several lags: their errors go together, which the decay's allow for.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from qlib_ext.cross_section import pearson
from qlib_ext.evaluate.day_grids import as_grids, numbers
from qlib_ext.evaluate.newey_west import newey_west
from qlib_ext.options import check_number
from qlib_ext.portfolio import sum_covariance

LAGS = 40
HALF_LIVES = np.geomspace(0.25, 400.0, 400)  # days, that are looked through
T_KNOWN = 2.0  # standard errors from which an IC has a half-life

LAG_DEFINITIONS = {
    "ic": (
        "mean over days of the correlation, across the day's stocks, of the score and the one-day return that begins "
        "lag - 1 days after the entry: lag 1 is the first day that the score can earn"
    ),
    "error": "Newey-West standard error of ic",
    "days": "days on which the correlation is defined",
    "first_ic": "ic of lag 1 on the fitted curve first_ic * 2^(-(lag - 1) / half_life): least squares by the errors",
    "half_life": "days until the fitted ic is half; not known where first_ic is not 2 errors above 0",
    "low": "half_life less one standard error (of its logarithm; Newey-West, all lags together)",
    "high": "half_life and one standard error likewise",
    "weight": "of a head in the score, its sizes adding to 1; mean over the members of an ensemble",
}


def lag_ics(score: ArrayLike | Tensor, step_return: ArrayLike | Tensor, *, lags: int = LAGS) -> pd.DataFrame:
    """Correlate a score with the return of each of the days that follow, day by day.

    Args:
        score: (D, N) of successive trading days, NaN where there is none.
        step_return: (D, N), or of more days than the score has, (D + L - 1, N): return of the first day after the
            entry of signal day d, such as `DayPanel.step_return`; NaN where it is not known.
        lags: L days to look at.

    Returns:
        Frame of a row for each day of step_return and the columns 1 to L: the correlation across stocks of its return
        and the score of lag - 1 rows before; NaN where there is none.

    Raises:
        ValueError: for shapes.

    >>> score = [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]
    >>> lag_ics(score, [[0.01, 0.02, 0.03], [0.01, 0.02, 0.03]], lags=2).to_numpy().tolist()
    [[1.0, nan], [-1.0, 1.0]]
    """
    check_number("lags", lags, "[1, inf)", whole=True)
    given, step = (numbers(as_grids(value=value)["value"]) for value in (score, step_return))
    if given.dim() != 2 or step.dim() != 2 or given.shape[1] != step.shape[1] or len(step) < len(given):
        raise ValueError(
            f"score is {tuple(given.shape)}, step_return {tuple(step.shape)}; wanted (D, N), and as many stocks and "
            "at least as many days"
        )
    table = np.full((len(step), lags), np.nan)
    for age in range(min(lags, len(step))):
        later = step[age : age + len(given)]
        own = given[: len(later)]
        table[age : age + len(own), age] = pearson(own, later, torch.isfinite(own) & torch.isfinite(later)).numpy()
    return pd.DataFrame(table, columns=pd.RangeIndex(1, lags + 1, name="lag"))


def ic_by_lag(ics: pd.DataFrame) -> pd.DataFrame:
    """Average `lag_ics` over days: rows 1 to L, the columns ic, error and days of `LAG_DEFINITIONS`.

    >>> ic_by_lag(lag_ics([[1.0, 2.0], [2.0, 1.0]], [[0.01, 0.02], [0.01, 0.02]], lags=2))["ic"].tolist()
    [0.0, 1.0]
    """
    rows = [(*newey_west(ics[lag])[:2], int(ics[lag].notna().sum())) for lag in ics]
    return pd.DataFrame(rows, ics.columns, columns=["ic", "error", "days"])


class Decay(NamedTuple):
    """Curve fitted to ICs by lag: that of lag 1, days until it is half, and these less and plus one error."""

    first_ic: float
    half_life: float
    low: float
    high: float


def ic_decay(ics: pd.DataFrame) -> Decay:
    """Fit first_ic * 2^(-(lag - 1) / half_life) to the means of `lag_ics`, by least squares in units of their errors.

    NaN where fewer than three lags have an error, or where first_ic is not 2 errors above 0.
    """
    ics = ics.loc[:, ics.notna().sum() > 2]
    if ics.shape[1] < 3:
        return Decay(*[math.nan] * 4)
    mean = ics.mean().to_numpy()
    covariance = sum_covariance((ics - mean).fillna(0.0).to_numpy() / ics.count().to_numpy())
    age, variance = ics.columns.to_numpy(dtype=np.float64) - 1.0, np.diag(covariance).clip(min=1e-18)
    left = 2.0 ** (-age / HALF_LIVES[:, None])
    first = ((left / variance) @ mean / (left**2 / variance).sum(axis=1)).clip(min=0.0)
    best = int((((mean - first[:, None] * left) ** 2) / variance).sum(axis=1).argmin())
    half, level, curve = float(HALF_LIVES[best]), float(first[best]), left[best]
    slopes = np.stack([curve, level * curve * math.log(2.0) * age / half], axis=1)  # by level, by log half-life
    weighed = slopes / variance[:, None]
    bread = np.linalg.pinv(slopes.T @ weighed)
    error = np.sqrt(np.diag(bread @ weighed.T @ covariance @ weighed @ bread).clip(min=0.0))
    if not level > T_KNOWN * error[0]:
        return Decay(level, *[math.nan] * 3)
    return Decay(level, half, half * math.exp(-error[1]), half * math.exp(min(error[1], 20.0)))


def decay_table(ics: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Put the `ic_decay` of several scores' `lag_ics`, given by name, under each other."""
    return pd.DataFrame({name: ic_decay(table)._asdict() for name, table in ics.items()}).T
