"""The score's tear sheet: its IC by horizon and within groups of stocks, how long its ranking and its holdings last.

Arrays are (D, N) = (days, stocks), numpy or torch: ``score`` NaN where there is none, returns NaN where unknown. What
cuts stocks into groups is known at the close of the day, and is cut by that day's scored stocks alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from qlib_ext.cross_section import pearson, places, rank_shares, spearman
from qlib_ext.evaluate.day_grids import as_grids, numbers
from qlib_ext.evaluate.lags import ic_by_lag, lag_ics
from qlib_ext.evaluate.newey_west import newey_west
from qlib_ext.options import check_number, check_shapes

Grid = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

HORIZONS = (1, 2, 3, 5, 10, 15, 20, 30, 40)  # trading days
AGES = 20  # trading days
GROUPS = 5  # equally large ones of a number
FEWEST_STOCKS = 5  # of a group on a day, for its IC
FLAT = 1e-12  # a variance within such a share of the largest square is that of rounding

HORIZON_ICS = {
    "ic": "mean over days of the correlation, across the day's stocks, of the score and the return from the entry over "
    "so many trading days: the product of 1 + its one-day returns, of which suspended ones are 0",
    "ic_error": "Newey-West standard error of ic, lags at least the horizon less 1, as returns of several days overlap",
    "rank_ic": "the same of the ranks of score and return, average ranks for ties",
    "rank_ic_error": "Newey-West standard error of rank_ic",
    "days": "days on which the correlation is defined: whose return over the horizon is known",
}
AUTOCORRELATION = {
    "ic": "mean over days of the correlation of the score's ranks with those of so many trading days before, over the "
    "stocks that have both; each ranked among its own day's stocks, average ranks for ties",
    "error": "its Newey-West standard error",
    "days": "days on which it is defined",
}
OVERLAP = {
    "names": "share of the stocks held on the day before that are still held",
    "weight": "sum over stocks of the smaller of their two shares of the holdings, yesterday's and today's: 1 is the "
    "same book; 1 less it has been exchanged, by trades or by prices",
}
GROUP_ICS = {
    "ic": "mean over days of the correlation of score and label among the stocks of the group",
    "ic_error": "Newey-West standard error of ic, lags at least the label's days - 1",
    "rank_ic": "the same of the ranks of score and label, average ranks for ties",
    "rank_ic_error": "Newey-West standard error of rank_ic",
    "label": "mean over days of the group's mean label: what its stocks made, whatever their score",
    "stocks": "mean over days of its stocks with a score and a label",
    "days": f"days on which it has at least {FEWEST_STOCKS} such stocks, whose labels are not all equal",
}
SCORE_TEAR_DEFINITIONS = {
    "horizons": HORIZON_ICS,
    "autocorrelation": AUTOCORRELATION,
    "overlap": OVERLAP,
    "groups": GROUP_ICS,
}


def horizon_ics(
    score: ArrayLike | Tensor, step_return: ArrayLike | Tensor, *, horizons: Sequence[int] = HORIZONS
) -> pd.DataFrame:
    """Correlate a score with the return over each of several horizons, and average over days.

    Args:
        score: (D, N) of successive trading days.
        step_return: (D, N), or of more days, as of ``lag_ics``: return of the first day after the entry.
        horizons: trading days, increasing.

    Returns:
        A row a horizon, columns of ``HORIZON_ICS``.

    Raises:
        ValueError: for shapes, or horizons that do not increase from 1 or more.

    >>> steps = [[0.1, 0.0, -0.1], [-0.5, 0.0, 0.5]]
    >>> horizon_ics([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], steps, horizons=[1, 2])[["rank_ic", "days"]].to_dict("index")
    {1: {'rank_ic': 0.0, 'days': 2}, 2: {'rank_ic': -1.0, 'days': 1}}
    """
    given, step = (numbers(as_grids(value=value)["value"]) for value in (score, step_return))
    if given.dim() != 2 or step.dim() != 2 or given.shape[1] != step.shape[1] or len(step) < len(given):
        raise ValueError(
            f"score is {tuple(given.shape)}, step_return {tuple(step.shape)}; wanted (D, N), and as many stocks and "
            "at least as many days"
        )
    if not horizons or list(horizons) != sorted(set(horizons)) or min(horizons) < 1:
        raise ValueError(f"horizons are {list(horizons)}; wanted increasing trading days from 1, such as 1, 5, 10")
    rows, grown = {}, torch.ones_like(given)
    scored = torch.isfinite(given)
    for days in range(1, max(horizons) + 1):
        later = step[days - 1 : days - 1 + len(given)]
        grown = grown[: len(later)] * (1.0 + later)
        if days in horizons:
            rows[days] = _averaged(given[: len(later)], grown - 1.0, scored[: len(later)], horizon=days)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(HORIZON_ICS)).rename_axis("horizon")


def _averaged(score: Tensor, later: Tensor, scored: Tensor, *, horizon: int) -> tuple[float, float, float, float, int]:
    real = scored & torch.isfinite(later)
    ic, rank_ic = pearson(score, later, real).numpy(), spearman(score, later, real).numpy()
    found = (*newey_west(ic, horizon=horizon)[:2], *newey_west(rank_ic, horizon=horizon)[:2])
    return (*found, int(np.isfinite(ic).sum()))


def rank_autocorrelation(score: ArrayLike | Tensor, *, ages: int = AGES) -> pd.DataFrame:
    """Correlate the ranks of a score with those of 1 to ``ages`` trading days before: a row an age.

    Args:
        score: (D, N) of successive trading days, NaN where there is none.
        ages: trading days to look back.

    Returns: columns of ``AUTOCORRELATION``.

    >>> rank_autocorrelation([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], ages=2)["ic"].tolist()
    [0.0, -1.0]
    """
    check_number("ages", ages, "[1, inf)", whole=True)
    shares = rank_shares(numbers(as_grids(score=score)["score"]).numpy())
    table = ic_by_lag(lag_ics(shares, shares, lags=ages + 1)).iloc[1:]
    return table.set_axis(pd.RangeIndex(1, ages + 1, name="age"))


def holdings_overlap(positions: pd.DataFrame) -> pd.DataFrame:
    """Tell how much of each day's holdings was held on the day before: (D, columns of ``OVERLAP``).

    NaN on the first day and after a day without holdings; 0 where all are gone.

    Args:
        positions: (D, N) yuan held on successive trading days, by day and code; NaN and 0: not held.

    >>> held = pd.DataFrame({"A": [50.0, 25.0, 0.0], "B": [50.0, 75.0, 0.0], "C": [0.0, 0.0, 9.0]})
    >>> holdings_overlap(held).to_dict("list")
    {'names': [nan, 1.0, 0.0], 'weight': [nan, 0.75, 0.0]}
    """
    yuan = positions.fillna(0.0).to_numpy(dtype=np.float64)
    held, total = yuan > 0, yuan.sum(axis=1, keepdims=True)
    share = yuan / np.where(total > 0, total, 1.0)
    count = held.sum(axis=1)
    names, weight = np.full((2, len(yuan)), np.nan)
    names[1:] = (held[1:] & held[:-1]).sum(axis=1) / np.maximum(count[:-1], 1)
    weight[1:] = np.minimum(share[1:], share[:-1]).sum(axis=1)
    table = pd.DataFrame({"names": names, "weight": weight}, positions.index)
    return table[pd.Series(count, positions.index).shift(1, fill_value=0) > 0].reindex(positions.index)


# --- within groups of stocks


def group_ics(
    score: ArrayLike | Tensor,
    label: ArrayLike | Tensor,
    factors: Mapping[str, Any],
    *,
    horizon: int = 1,
    groups: int = GROUPS,
) -> pd.DataFrame:
    """Measure a score within groups of stocks that are alike.

    Args:
        score: (D, N) NaN where there is none.
        label: (D, N) raw forward return, NaN where unknown.
        factors: by name (D, N) numbers known at the close, cut into ``groups`` of (nearly) equal number among the day's
            stocks with a score, 1 = the lowest; or categories (text), a group each. NaN and None: in no group.
        horizon: days of the label, see ``newey_west``.
        groups: of a factor of numbers, at least 2.

    Returns:
        Frame by (factor, group), columns of ``GROUP_ICS``.

    Raises:
        ValueError: for shapes or fewer than two groups.

    >>> score, label = [[5.0, 4, 3, 2, 1] * 2], [[0.05, 0.04, 0.03, 0.02, 0.01, 0.01, 0.02, 0.03, 0.04, 0.05]]
    >>> group_ics(score, label, {"size": [[1.0] * 5 + [9.0] * 5]}, groups=2)["ic"].round(6).to_dict()
    {('size', '1/2'): 1.0, ('size', '2/2'): -1.0}
    """
    check_number("groups", groups, "[2, inf)", whole=True)
    grids = as_grids(score=score, label=label)
    both = numbers(grids["score"]), numbers(grids["label"])
    real = torch.isfinite(both[0]) & torch.isfinite(both[1])
    given, later = (value.numpy() for value in both)
    ordered = [(-2 * places(value, real, ties="average")).long().numpy() for value in both]  # whole, rising
    rows: dict[tuple[str, str], tuple[float, ...]] = {}
    for name, factor in factors.items():
        place, titles = _groups(np.asarray(factor), np.isfinite(given), groups)
        check_shapes("(D, N) = (days, stocks)", score=given, **{name: place})
        daily = _within((given, later), ordered, np.where(real.numpy(), place, -1), len(titles))
        for at, title in enumerate(titles):
            own = {key: values[:, at] for key, values in daily.items()}
            found = [*newey_west(own["ic"], horizon=horizon)[:2], *newey_west(own["rank_ic"], horizon=horizon)[:2]]
            valid = np.isfinite(own["ic"])
            means = [float(own[key][valid].mean()) if valid.any() else np.nan for key in ("label", "stocks")]
            rows[name, title] = (*found, *means, int(valid.sum()))
    index = pd.MultiIndex.from_tuples(list(rows), names=["factor", "group"])
    return pd.DataFrame(list(rows.values()), index, columns=list(GROUP_ICS))


def _groups(factor: npt.NDArray[Any], scored: npt.NDArray[np.bool_], groups: int) -> tuple[Places, list[str]]:
    """Place each scored stock in a group (D, N), -1 for none; the groups' names."""
    if factor.dtype.kind not in "biuf":
        codes, names = pd.factorize(pd.Series(factor.ravel(), dtype=object), sort=True)
        return np.where(scored, codes.reshape(factor.shape), -1), [str(name) for name in names]
    known = torch.from_numpy(scored & np.isfinite(factor.astype(np.float64)))
    count = known.sum(dim=1, keepdim=True)
    value = torch.from_numpy(factor.astype(np.float64))
    place = groups - 1 - places(value, known).long() * groups // count.clamp(min=1)
    return torch.where(known & (count >= groups), place, -1).numpy(), [f"{n}/{groups}" for n in range(1, groups + 1)]


def _within(values: Sequence[Grid], ordered: Sequence[Places], place: Places, groups: int) -> dict[str, Grid]:
    """Measure each day and group (D, G): ic and rank_ic, NaN of groups too small or with equal labels; label, stocks.

    Args:
        values: score and label (D, N).
        ordered: numbers in their order, equal ones equal.
        place: (D, N) group of each stock with both, -1 of others.
        groups: G.
    """
    day, stock = np.nonzero(place >= 0)
    cell, cells = day * groups + place[day, stock], len(place) * groups
    count = np.bincount(cell, minlength=cells)
    x, y = (value[day, stock] for value in values)
    left, right = (_cell_ranks(value[day, stock], cell, count) for value in ordered)
    found = {"ic": _correlations(x, y, cell, count), "rank_ic": _correlations(left, right, cell, count)}
    found |= {"label": np.bincount(cell, y, cells) / np.maximum(count, 1), "stocks": count.astype(np.float64)}
    return {name: grid.reshape(len(place), groups) for name, grid in found.items()}


def _cell_ranks(value: Places, cell: Places, count: Places) -> Grid:
    """Rank whole numbers within each cell, 1 for the lowest, average ranks for ties."""
    if not len(value):
        return np.zeros(0)
    low = int(value.min())
    key = cell * (int(value.max()) - low + 1) + (value - low)
    order = key.argsort()
    first = np.flatnonzero(np.diff(key[order], prepend=-1))  # of each run of equals
    size = np.diff(np.r_[first, len(key)])
    rank = np.empty(len(key))
    rank[order] = np.repeat(first + (size + 1) / 2.0, size)
    return rank - (count.cumsum() - count)[cell]


def _correlations(x: Grid, y: Grid, cell: Places, count: Places) -> Grid:
    """Correlate x and y within each cell: 0 where all x are equal, NaN where all y are, or where it is too small."""
    squares, gaps = [], []
    for value in (x, y):
        gap = value - (np.bincount(cell, value, len(count)) / np.maximum(count, 1))[cell]
        square, scale = np.bincount(cell, gap**2, len(count)), np.bincount(cell, value**2, len(count))
        gaps.append(gap)
        squares.append(np.where(square > FLAT * scale, square, 0.0))
    cross, size = np.bincount(cell, gaps[0] * gaps[1], len(count)), np.sqrt(squares[0] * squares[1])
    value = np.where(size > 0, cross / np.where(size > 0, size, 1.0), 0.0)
    return np.where((count >= FEWEST_STOCKS) & (squares[1] > 0), value, np.nan)
