"""How much each of several scores counts, one a horizon: by what they earned together on past days.

``D`` days, ``N`` stocks, ``H`` heads, ``K`` ages in days; returns as fractions a day. The score that is traded is
s = sum_h w_h z_h, z the day's standardised scores of a head. On each day the portfolios z_h of the last `HELD` days
earn c_h (a mean over their ages): one observation a trading day, as in `Forecast`, so that overlapping labels do not
count twice. The weights are the slopes b of the excess return on all z_h at once, G b = c, G the mean correlations of
the heads; as heads resemble each other, b is shrunk towards the prior: c ~ N(G b, V), V by Newey and West (1987), and
b ~ N(m p, t^2), p the prior weights, m their common slope, t the best head's own slope over H (the posterior mean of a
normal regression; Gelman et al., Bayesian Data Analysis, section 14.8).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlib_ext.cross_section import day_zscores
from qlib_ext.options import check_shapes
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio.forecast import (
    FEWEST_DAYS,
    HELD,
    HORIZONS,
    LEAST_ERROR,
    T_SIGNIFICANT,
    Forecast,
    _excess,
    _pooled,
    sum_covariance,
)
from qlib_ext.portfolio.policy import Vector


def combine_heads(score: ArrayLike, weights: ArrayLike) -> NDArray[np.float32]:
    """Add heads (D, N, H), each standardised over the day's stocks, by weights (H,): (D, N), NaN where one has none.

    >>> combine_heads([[[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]]], [0.5, 0.5]).round(3)
    array([[-0.612,  0.612,  0.   ]], dtype=float32)
    """
    return (_standardised(score) @ np.asarray(weights, dtype=np.float64)).astype(np.float32)


@dataclass(frozen=True)
class HeadWeights:
    """Weights of heads, and what each was worth by itself.

    Attributes:
        horizons: (H,) days of the label that a head learnt.
        weights: (H,) the sum of their sizes is 1; negative only where that is significant.
        significant: whether any head is, over 20 days or more; else the weights are the prior's.
        days: returns, one a day, that were used.
        slopes: (H,) mean excess return a day of one standard deviation of the head's score, over the next `HELD` days.
        errors: (H,) their standard errors.
        levels: (H,) the same on the first day alone, as `Forecast` finds it.
        half_lives: (H,) days until it is half.
    """

    horizons: tuple[int, ...]
    weights: tuple[float, ...]
    significant: bool = False
    days: int = 0
    slopes: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()
    half_lives: tuple[float, ...] = ()

    @classmethod
    def fit(
        cls,
        score: ArrayLike,
        step_return: ArrayLike,
        *,
        horizons: Sequence[int],
        mask: ArrayLike | None = None,
        prior: ArrayLike | None = None,
    ) -> Self:
        """Learn the weights from the heads' scores and the returns that followed; every row is used.

        Args:
            score: (D, N, H) of successive trading days, NaN where there is none.
            step_return: (D, N) return of the first day after the entry of signal day d; NaN where it is not known.
            horizons: (H,) of the heads.
            mask: (D, N) bool, stocks that could be entered; None: all.
            prior: (H,) positive weights to shrink to; None: equal ones.

        Raises:
            ValueError: for unequal shapes.
        """
        grid, step = np.asarray(score, dtype=np.float64), np.asarray(step_return, dtype=np.float64)
        real = np.ones(step.shape, dtype=bool) if mask is None else np.asarray(mask)
        heads = {f"score of head {h}": grid[..., n] for n, h in enumerate(horizons)}
        check_shapes("(D, N) = (days, stocks)", **heads, step_return=step, mask=real)
        share = np.ones(len(horizons)) if prior is None else np.asarray(prior, dtype=np.float64)
        share = share / share.sum()
        earned, alike = _earned(_standardised(grid), real, _excess(step, real))
        days = int((~np.isnan(earned[..., 0])).any(axis=1).sum())
        if days < 2:
            return cls(tuple(horizons), tuple(share.tolist()), days=days)
        gain, parts = _pooled(earned, np.ones(HELD))
        covariance = sum_covariance(parts) + LEAST_ERROR**2 * np.eye(len(share))
        errors = np.sqrt(np.diag(covariance))
        significant = bool(days >= FEWEST_DAYS and (gain / errors).max() >= T_SIGNIFICANT)
        ends = [end for end in HORIZONS if end <= HELD]
        alone = [Forecast.fit(g, step, mask=real, horizons=ends, smoothings=(0.0,)) for g in heads.values()]
        weights = shrunk_weights(gain, covariance, alike, share) if significant else share
        return cls(
            horizons=tuple(horizons),
            weights=tuple(weights.tolist()),
            significant=significant,
            days=days,
            slopes=tuple(gain.tolist()),
            errors=tuple(errors.tolist()),
            levels=tuple(forecast.slope for forecast in alone),
            half_lives=tuple(forecast.half_life for forecast in alone),
        )

    def in_words(self) -> str:
        """Say the weights and what each head earned, in basis points a day."""
        weights = ", ".join(f"{d} days {w:.2f}" for d, w in zip(self.horizons, self.weights, strict=True))
        if not self.significant:
            return f"heads of {self.days} days: none earned anything significant; they are added as before: {weights}"
        each = zip(self.slopes, self.errors, self.half_lives, strict=True)
        told = ", ".join(f"{1e4 * s:.1f} ± {1e4 * e:.1f} (half after {half:.1f})" for s, e, half in each)
        return f"heads by what they earned on {self.days} days: {weights}; alone {told} basis points over {HELD} days"

    @classmethod
    def of_panel(cls, panel: DayPanel, rows: NDArray[np.int64], score: ArrayLike, **options: Any) -> Self:
        """Learn from the scores (len(rows), N, H) of rising rows of a panel with `horizons`; see `fit`.

        The last return that is used ends with the longest label of the last row, so that rows which are purged before
        the days to be tested know none of theirs. A panel without `step_return` teaches nothing.
        """
        if panel.step_return is None:
            return cls.fit(score, np.full(np.shape(score)[:2], np.nan), horizons=panel.horizons, **options)
        end = min(int(rows[-1]) + max(panel.horizons), len(panel.days))
        span = slice(int(rows[0]), end)
        grid = np.full((end - span.start, *np.shape(score)[1:]), np.nan)
        grid[rows - span.start] = score
        mask = panel.present if panel.buyable is None else panel.present & panel.buyable
        step, entered = (value[span].cpu().numpy() for value in (panel.step_return, mask))
        return cls.fit(grid, step, horizons=panel.horizons, mask=entered, **options)


def shrunk_weights(gain: Vector, covariance: Vector, alike: Vector, prior: Vector) -> Vector:
    """Weights (H,) of heads by what they earned, their sizes adding to 1; the prior where nothing is gained.

    A negative weight within `T_SIGNIFICANT` posterior deviations of 0 becomes 0, and the others are found anew.

    Args:
        gain: (H,) c, what a standard deviation of each head earned.
        covariance: (H, H) of it.
        alike: (H, H) correlations of the heads.
        prior: (H,) positive weights, their sum is 1.

    >>> import numpy as np
    >>> shrunk_weights(np.array([0.002, 0.001]), 1e-6 * np.eye(2), np.eye(2), np.array([0.5, 0.5])).round(4).tolist()
    [0.5833, 0.4167]
    """
    kept = np.arange(len(gain))
    while True:
        c, v, g, p = gain[kept], covariance[np.ix_(kept, kept)], alike[np.ix_(kept, kept)], prior[kept]
        common = max(0.0, float(p @ c / (p @ g @ p))) * p
        spread = (max(0.0, float(c.max())) / len(c)) ** 2
        pull = spread * g @ np.linalg.pinv(v + spread * g @ g)  # the posterior mean of G b in units of c
        slope = common + pull @ (c - g @ common)
        deviation = np.sqrt(np.maximum(np.diag(spread * (np.eye(len(c)) - pull @ g)), 0.0))
        weak = (slope < 0) & (slope > -T_SIGNIFICANT * deviation)
        if not weak.any() or len(kept) == 1:
            break
        kept = np.delete(kept, int(np.where(weak, slope, 0.0).argmin()))
    total = np.abs(slope).sum()
    if not total > 0:
        return prior
    weights = np.zeros(len(gain))
    weights[kept] = slope / total
    return weights


def _standardised(score: ArrayLike) -> Vector:
    """Each head's scores (D, N, H) standardised over the day's stocks, NaN where there is none."""
    grid = np.asarray(score)
    return np.stack([day_zscores(grid[..., h]) for h in range(grid.shape[2])], axis=2)


def _earned(z: Vector, mask: NDArray[np.bool_], excess: Vector) -> tuple[Vector, Vector]:
    """Return (D, K, H) of each day on the heads of k days before, NaN where there is none; their correlations (H, H).

    A head's portfolio holds z - mean(z) over the number of stocks that could be entered.
    """
    days, entered = len(z), mask & ~np.isnan(z).any(axis=2)
    earned = np.full((days, HELD, z.shape[2]), np.nan)
    alike, count = np.zeros((z.shape[2], z.shape[2])), 0
    for day in np.flatnonzero(entered.any(axis=1)):
        own = np.flatnonzero(entered[day])
        held = (z[day, own] - z[day, own].mean(axis=0)) / np.sqrt(len(own))
        alike, count = alike + held.T @ held, count + 1
        later = np.arange(int(day), min(int(day) + HELD, days))
        earned[later, later - day] = excess[day : day + HELD][:, own] @ held / np.sqrt(len(own))
    return earned, alike / max(count, 1)
