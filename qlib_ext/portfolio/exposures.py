"""What stocks are like, as known at the close: the one table of exposures, and the risk that the mean stock lacks.

``D`` days, ``N`` stocks, ``K`` exposures; all known at the close of its day. Loss, score, strategy and page take their
exposures from here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qlib_ext.options import check_choice, check_shapes, refuse_unknown
from qlib_ext.portfolio.policy import Vector

WINDOW, FEWEST = 60, 20  # days of returns: looked at, and needed
MONTH, YEAR = 20, 250  # trading days
FLAT = 1e-12  # a deviation within such a share of the largest number is that of rounding


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


# --- the kinds


@dataclass(frozen=True)
class Past:
    """Bars up to a day that exposures are measured on, day x stock in float64.

    Attributes:
        close: adjusted, NaN where a stock did not trade.
        factor: of adjustment, raw price = close / factor; NaN where not known.
        age: trading days since listing, as far as the calendar goes.
    """

    close: pd.DataFrame
    factor: pd.DataFrame
    age: pd.DataFrame


def _change(past: Past, start: int, end: int = 0) -> pd.DataFrame:
    """Return from the price `start` days back to that of `end` days back; the last of `MONTH` days where suspended."""
    price = past.close.ffill(limit=MONTH)
    return price.shift(end) / price.shift(start) - 1.0


def _beta(past: Past) -> pd.DataFrame:
    beta = pd.DataFrame(Risk.of_closes(past.close.to_numpy()).beta, past.close.index, past.close.columns)
    return beta.ffill(limit=WINDOW)


@dataclass(frozen=True)
class Kind:
    """One row of `KINDS`.

    Attributes:
        definition: what the number is, larger is more of it.
        source: who found that it moves returns.
        measure: of `Past`; None: a grid at hand, the panel's or the day's.
        lead: trading days before the first one that it looks at; what came before them changes nothing, also after a
            suspension, so that a day alone has the numbers of a history.
        log: whether it goes by its logarithm.
    """

    definition: str
    source: str
    measure: Callable[[Past], pd.DataFrame] | None = None
    lead: int = 0
    log: bool = False


KINDS = {
    "volatility": Kind(
        "log of the trailing standard deviation of daily returns (volatility_window)",
        "Ang, Hodrick, Xing and Zhang (2006)",
        log=True,
    ),
    "liquidity": Kind(
        "log of the trailing mean turnover in yuan a day (liquidity_window)",
        "Brennan, Chordia and Subrahmanyam (1998)",
        log=True,
    ),
    "beta": Kind(
        f"slope of {WINDOW} daily returns, {FEWEST} at least, on the mean stock's",
        "Frazzini and Pedersen (2014)",
        _beta,
        lead=2 * WINDOW,
    ),
    "reversal": Kind(
        f"minus the return of the last {MONTH} days",
        "Jegadeesh (1990)",
        lambda past: -_change(past, MONTH),
        lead=2 * MONTH,
    ),
    "momentum": Kind(
        f"return from {YEAR} to {MONTH} days back; unknown for stocks listed later, whose first weeks are run-ups"
        " within limits",
        "Jegadeesh and Titman (1993)",
        lambda past: _change(past, YEAR, MONTH),
        lead=YEAR + MONTH,
    ),
    "price": Kind(
        "log of the raw close",
        "Miller and Scholes (1982)",
        lambda past: past.close / past.factor.ffill(limit=MONTH),
        lead=MONTH,
        log=True,
    ),
    "age": Kind(
        "log of the trading days since listing; of stocks older than the calendar, since its first day",
        "Barry and Brown (1984)",
        lambda past: past.age,
        log=True,
    ),
}


def measure_exposures(names: Sequence[str], past: Past) -> dict[str, pd.DataFrame]:
    """Measure kinds on bars, by name day x stock, NaN where not known: raw, for `exposures` to put on one scale.

    Args:
        names: of the `KINDS` that have a measure.
        past: with the longest `Kind.lead` of days before those wanted.

    Raises: ValueError for another name.

    >>> close = pd.DataFrame({"SH600000": 1.01 ** np.arange(30)})
    >>> past = Past(close, close * 0 + 0.5, close * 0 + 9.0)
    >>> [float(grid.iloc[-1, 0].round(3)) for grid in measure_exposures(["reversal", "price"], past).values()]
    [-0.22, 2.669]
    """
    rows = {name: row.measure for name, row in KINDS.items() if row.measure is not None}
    for name in names:
        check_choice("exposure to measure", name, rows)
    return {name: rows[name](past) for name in names}


def exposures(
    universe: NDArray[np.bool_],
    *,
    columns: Mapping[str, ArrayLike] | None = None,
    **kinds: ArrayLike | None,
) -> dict[str, Vector]:
    """Make exposures of what stocks are like: numbers in deviations of the day's universe, categories as 0 or 1.

    Args:
        universe: (..., N) bool, whose mean is 0 and standard deviation 1.
        columns: by name (..., N) numbers, or categories (text): each category is an exposure of its own, NAME=CATEGORY,
            1 for its stocks, so that the active exposure is the category's active weight.
        kinds: of `KINDS`, (..., N) each, raw: volatility, liquidity (yuan a day), price and age above 0 go by their
            logarithm. None: not asked for.

    Returns:
        By name (..., N); 0, the mean, where not known.

    Raises:
        ValueError: for another shape, or a column with the name of one of ours.
        TypeError: for a kind that there is not.

    >>> found = exposures(np.array([True, True, False]), liquidity=[1e6, 1e8, 1e7], columns={"sector": ["a", "b", "a"]})
    >>> {name: column.round(9) for name, column in found.items()}
    {'liquidity': array([-1.,  1.,  0.]), 'sector=a': array([1., 0., 1.]), 'sector=b': array([0., 1., 0.])}
    """
    refuse_unknown("exposures", kinds, ("columns", *KINDS))
    inside = np.asarray(universe, dtype=bool)
    out: dict[str, Vector] = {}
    for name, row in KINDS.items():
        if (value := kinds.get(name)) is not None:
            grid = np.asarray(value, dtype=np.float64)
            out[name] = _standard(np.log(np.where(grid > 0, grid, np.nan)) if row.log else grid, inside)
    refuse_taken(columns or {})
    for name, value in (columns or {}).items():
        grid = np.asarray(value)
        if grid.dtype.kind in "biuf":
            out[name] = _standard(grid.astype(np.float64), inside)
        else:
            told = ~pd.isna(grid)
            out |= {f"{name}={kind}": (told & (grid == kind)).astype(np.float64) for kind in sorted(set(grid[told]))}
    for name, value in out.items():
        check_shapes("(..., N) = (days..., stocks)", universe=inside, **{name.replace("=", "_"): value})
    return out


def refuse_taken(columns: Iterable[str]) -> None:
    """Raise ValueError for a column of the user's with the name of one of ours."""
    for name in columns:
        if name in KINDS:
            raise ValueError(f"exposures: a column is called {name}, as one of ours; rename it")


def _standard(grid: Vector, universe: NDArray[np.bool_]) -> Vector:
    """Centre and scale by the universe of each day; 0 where not known."""
    real = universe & np.isfinite(grid)
    count = np.maximum(real.sum(axis=-1, keepdims=True), 1)
    centred = np.where(np.isfinite(grid), grid, 0.0) - np.where(real, grid, 0.0).sum(axis=-1, keepdims=True) / count
    spread = np.sqrt((np.where(real, centred, 0.0) ** 2).sum(axis=-1, keepdims=True) / count)
    varied = spread > FLAT * np.where(real, np.abs(grid), 0.0).max(axis=-1, keepdims=True, initial=0.0)
    return np.where(np.isfinite(grid) & varied, centred / np.where(varied, spread, 1.0), 0.0)
