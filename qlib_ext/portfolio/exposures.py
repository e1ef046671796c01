"""What active holdings are exposed to, and the risk of a stock that the mean stock does not share.

``D`` days, ``N`` stocks, ``K`` exposures; all known at the close of its day.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qlib_ext.options import check_shapes
from qlib_ext.portfolio.policy import Vector

WINDOW, FEWEST = 60, 20  # days of returns: looked at, and needed
KINDS = ("volatility", "liquidity", "beta")


@dataclass(frozen=True)
class Risk:
    """Trailing risk of stocks against their mean.

    Attributes:
        specific: (D, N) standard deviation of daily returns less the mean stock's; NaN where not known.
        beta: (D, N) slope of daily returns on the mean stock's; NaN where not known.
        market: (D,) standard deviation of the mean stock's daily returns; NaN where not known.
    """

    specific: Vector
    beta: Vector
    market: Vector

    @classmethod
    def of_closes(cls, close: ArrayLike, window: int = WINDOW) -> "Risk":
        """Measure over the last `window` days, of which a stock must have `FEWEST`.

        Args:
            close: (D, N) adjusted closes of successive days, NaN where a stock did not trade.
            window: days.

        >>> risk = Risk.of_closes([[1.0, 1.0]] + [[1.1**(d % 2), 1.0] for d in range(1, 30)])
        >>> risk.beta[-1].round(2).tolist(), bool(risk.market[-1] > 0)
        ([2.0, 0.0], True)
        """
        price = np.asarray(close, dtype=np.float64)
        step = np.full(price.shape, np.nan)
        step[1:] = price[1:] / price[:-1] - 1.0
        there = np.isfinite(step)
        count = there.sum(axis=1)
        mean = np.where(there, step, 0.0).sum(axis=1) / np.where(count > 0, count, np.nan)

        def trailing(values: Vector) -> Vector:
            return pd.DataFrame(values).rolling(window, min_periods=FEWEST).mean().to_numpy()

        common = np.where(there, mean[:, None], np.nan)
        at, own = trailing(common), trailing(step)
        variance = np.maximum(trailing(common**2) - at**2, 0.0)
        covariance = trailing(common * step) - at * own
        apart = np.maximum(trailing((step - common) ** 2) - (own - at) ** 2, 0.0)
        market = np.sqrt(np.maximum(trailing(mean[:, None] ** 2) - trailing(mean[:, None]) ** 2, 0.0))[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            beta = np.where(variance > 0, covariance / variance, np.nan)
        return cls(np.sqrt(apart), beta, market)


def exposures(
    universe: NDArray[np.bool_],
    *,
    volatility: ArrayLike | None = None,
    liquidity: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    columns: Mapping[str, ArrayLike] | None = None,
) -> dict[str, Vector]:
    """Make exposures of what stocks are like: numbers in deviations of the day's universe, categories as 0 or 1.

    Args:
        universe: (..., N) bool, whose mean is 0 and standard deviation 1.
        volatility: (..., N) above 0, goes by its logarithm.
        liquidity: (..., N) yuan a day, above 0, likewise.
        beta: (..., N).
        columns: by name (..., N) numbers, or categories (text): each category is an exposure of its own, NAME=CATEGORY,
            1 for its stocks, so that the active exposure is the category's active weight.

    Returns:
        By name (..., N); 0, the mean, where not known.

    Raises:
        ValueError: for another shape, or a column with the name of one of ours.

    >>> exposures(np.array([True, True, False]), liquidity=[1e6, 1e8, 1e7], columns={"sector": ["a", "b", "a"]})
    {'liquidity': array([-1.,  1.,  0.]), 'sector=a': array([1., 0., 1.]), 'sector=b': array([0., 1., 0.])}
    """
    inside = np.asarray(universe, dtype=bool)
    out: dict[str, Vector] = {}
    for name, value in zip(KINDS, (volatility, liquidity, beta), strict=True):
        if value is not None:
            grid = np.asarray(value, dtype=np.float64)
            out[name] = _standard(grid if name == "beta" else np.log(np.where(grid > 0, grid, np.nan)), inside)
    for name, value in (columns or {}).items():
        if name in KINDS:
            raise ValueError(f"exposures: a column is called {name}, as one of ours; rename it")
        grid = np.asarray(value)
        if grid.dtype.kind in "biuf":
            out[name] = _standard(grid.astype(np.float64), inside)
        else:
            told = ~pd.isna(grid)
            out |= {f"{name}={kind}": (told & (grid == kind)).astype(np.float64) for kind in sorted(set(grid[told]))}
    for name, value in out.items():
        check_shapes("(..., N) = (days..., stocks)", universe=inside, **{name.replace("=", "_"): value})
    return out


def _standard(grid: Vector, universe: NDArray[np.bool_]) -> Vector:
    """Centre and scale by the universe of each day; 0 where not known."""
    real = universe & np.isfinite(grid)
    count = np.maximum(real.sum(axis=-1, keepdims=True), 1)
    centred = np.where(np.isfinite(grid), grid, 0.0) - np.where(real, grid, 0.0).sum(axis=-1, keepdims=True) / count
    spread = np.sqrt((np.where(real, centred, 0.0) ** 2).sum(axis=-1, keepdims=True) / count)
    return np.where(np.isfinite(grid) & (spread > 0), centred / np.where(spread > 0, spread, 1.0), 0.0)
