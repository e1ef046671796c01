"""Weights of several scores in one: from what each has earned on days that none of them learned from.

Sizes: D days, N stocks, M scores (members of an ensemble).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from qlib_ext.cross_section import as_float64, labelled, pearson, standardised, unit_ranks
from qlib_ext.portfolio import T_SIGNIFICANT, sum_covariance

Floats = npt.NDArray[np.float64]
IC_LAGS = 20  # days over which daily ICs may resemble each other: labels of ten days and more overlap
RIDGE = 1e-3  # on the correlations, so that two scores that are the same share their weight


def blend_inputs(scores: Sequence[npt.ArrayLike], label: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Measure M scores of the same days, over the labelled stocks that all of them have.

    Args:
        scores: M of (D, N), any unit; NaN where there is none.
        label: (D, N) raw forward return, NaN where unknown.

    Returns:
        daily (D, M), the correlation of each standardised score with the day's ranks of the label, NaN on days whose
        labels are all equal; and the correlation (M, M) between the scores, the mean over those days.
    """
    grids, value = [as_float64(score) for score in scores], as_float64(label)
    real = labelled(value, torch.stack([torch.isfinite(grid) for grid in grids]).all(dim=0))
    target = unit_ranks(torch.where(real, value, 0.0), real)
    units = [standardised(torch.where(real, grid, 0.0), real) for grid in grids]
    daily = np.stack([pearson(unit, target, real).numpy() for unit in units], axis=1)
    known = torch.from_numpy(np.isfinite(daily).all(axis=1))
    count = real.sum(dim=1).clamp(min=1)
    correlation = np.eye(len(units))
    for i, first in enumerate(units):
        for j in range(i):
            shared = ((first * units[j]).sum(dim=1) / count)[known]
            correlation[i, j] = correlation[j, i] = float(shared.mean()) if len(shared) else 0.0
    return daily, correlation


def blend_weights(daily: npt.ArrayLike, correlation: npt.ArrayLike) -> Floats:
    """Weights of M standardised scores whose sum has the largest expected IC, none negative.

    The IC of sum w_m z_m is w'c / sqrt(w'R w), c the members' ICs and R the correlation of their scores: largest at
    w ~ argmin w'Rw - 2 w'c over w >= 0 (Grinold and Kahn 2000, chapter 10, signals combined; without short positions
    as Jagannathan and Ma 2003, which shrinks by itself). Before that the mean ICs are shrunk to their common mean by
    the share of their differences that chance explains, as Ledoit and Wolf (2004) shrink: tr(P V P) / |P c|^2, at most
    1, with V the covariance of the mean ICs (Newey and West, `IC_LAGS` days), P the projection that takes the mean out.
    Where no member's IC is significant (t above 1.65), all weigh alike. Nothing else is chosen.

    Args:
        daily: (D, M) ICs of `blend_inputs`; days with a NaN are left out.
        correlation: (M, M) of the scores.

    Returns: (M,) weights, sum 1.

    Raises: ValueError for shapes that do not fit.

    >>> rng = np.random.default_rng(0)
    >>> blend_weights(rng.normal([0.05, 0.0], 0.02, (200, 2)), np.eye(2)).round(2)
    array([0.99, 0.01])
    """
    ics, overlap = np.asarray(daily, np.float64), np.asarray(correlation, np.float64)
    if ics.ndim != 2 or overlap.shape != (ics.shape[1], ics.shape[1]):
        raise ValueError(f"daily is {ics.shape}, correlation {overlap.shape}; wanted (D, M) and (M, M)")
    from scipy.optimize import nnls  # here, since the commands start without it

    ics = ics[np.isfinite(ics).all(axis=1)]
    members = ics.shape[1]
    equal = np.full(members, 1.0 / members)
    if len(ics) < 2:
        return equal
    mean, covariance = ics.mean(axis=0), covariance_of_mean(ics)
    if not (mean > T_SIGNIFICANT * np.sqrt(np.diag(covariance))).any():
        return equal
    gap = mean - mean.mean()
    centre = np.eye(members) - 1.0 / members
    noise = float(np.trace(centre @ covariance @ centre))
    kept = max(0.0, 1.0 - noise / float(gap @ gap)) if gap.any() else 0.0
    expected = mean.mean() + kept * gap
    root = np.linalg.cholesky(overlap + RIDGE * np.eye(members))
    weight, _ = nnls(root.T, np.linalg.solve(root, expected))
    return weight / weight.sum() if weight.sum() > 0 else equal


def covariance_of_mean(daily: npt.ArrayLike, lags: int = IC_LAGS) -> Floats:
    """Covariance (M, M) of the means of M daily series (D, M) by Newey and West, its diagonal as of `newey_west`.

    The lags are at most a quarter of the days.
    """
    values = np.asarray(daily, np.float64)
    return sum_covariance((values - values.mean(axis=0)) / len(values), min(lags, len(values) // 4))
