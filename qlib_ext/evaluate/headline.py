"""The deck's headline table of daily returns; each number is defined in `DEFINITIONS`. Source: slides, page 4."""

import math
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

DAYS_A_YEAR = 252

DEFINITIONS = {
    "mean_ic": "mean over days of the correlation of score and label across stocks; NaN where no ic is given",
    "mean_return": (
        "cumulative, compounded return of the whole period (the deck averages a block's cumulative return "
        "over its blocks; here there is one block)"
    ),
    "annual_return": "compounded: (product of 1 + daily return) ** (252 / days) - 1",
    "annual_return_arithmetic": "mean daily return * 252, not compounded",
    "annual_volatility": "standard deviation of daily returns (days - 1 below) * sqrt(252)",
    "sharpe": "annual_return / annual_volatility, as the deck has it (71.65 / 8.95 = 8.0); no riskless rate",
    "sharpe_arithmetic": "mean / standard deviation of daily returns * sqrt(252); no riskless rate",
    "max_drawdown": (
        "largest fall of the compounded curve below its highest point so far, the start included; a negative "
        "fraction, 0 where it never fell"
    ),
}


def headline(daily_return: ArrayLike, *, ic: ArrayLike | None = None) -> dict[str, float]:
    """Sum up a series of daily returns as the deck's table does; each key is defined in ``DEFINITIONS``.

    Args:
        daily_return: (D,) returns of successive trading days that do not overlap (0.01 = 1%); a label of
            several days goes through ``sleeve_returns`` first.
        ic: (D',) daily ICs, NaN where undefined; None leaves mean_ic NaN.

    Returns:
        The keys of ``DEFINITIONS``, fractions. Volatility and Sharpe are NaN with one day or none of it.

    Raises:
        ValueError: for an empty series, NaN, or a return below -1.

    >>> numbers = headline([0.1, -0.2, 0.25])
    >>> {name: round(numbers[name], 4) for name in ("mean_return", "annual_return_arithmetic", "max_drawdown")}
    {'mean_return': 0.1, 'annual_return_arithmetic': 12.6, 'max_drawdown': -0.2}
    """
    daily = np.asarray(daily_return, dtype=np.float64)
    if daily.ndim != 1 or len(daily) == 0:
        raise ValueError(f"daily_return must be (D,) with D >= 1, got shape {daily.shape}")
    bad = int((~np.isfinite(daily) | (daily < -1)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(daily)} daily returns are NaN, infinite or below -1; drop the days without an "
            "outcome, or fill them with 0 where the capital was in cash"
        )
    known_ic = np.asarray([] if ic is None else ic, dtype=np.float64)
    known_ic = known_ic[np.isfinite(known_ic)]
    curve = np.concatenate([[1.0], np.cumprod(1.0 + daily)])
    deviation = float(daily.std(ddof=1)) if len(daily) > 1 else math.nan
    annual, volatility = curve[-1] ** (DAYS_A_YEAR / len(daily)) - 1.0, deviation * math.sqrt(DAYS_A_YEAR)
    result = {
        "mean_ic": known_ic.mean() if len(known_ic) else math.nan,
        "mean_return": curve[-1] - 1.0,
        "annual_return": annual,
        "annual_return_arithmetic": daily.mean() * DAYS_A_YEAR,
        "annual_volatility": volatility,
        "sharpe": ratio(annual, volatility),
        "sharpe_arithmetic": ratio(daily.mean(), deviation) * math.sqrt(DAYS_A_YEAR),
        "max_drawdown": (curve / np.maximum.accumulate(curve) - 1.0).min(),
    }
    return {key: float(value) for key, value in result.items()}


def headline_table(
    returns: Mapping[str, pd.Series], *, ic: ArrayLike | None = None, unscored: Collection[str] = ()
) -> pd.DataFrame:
    """Put ``headline`` of several series under each other.

    Args:
        returns: name of the row (gross, net, excess, ...) -> (D,) daily returns.
        ic: (D',) daily ICs, the same for all rows.
        unscored: rows that no score has made (the market, a benchmark); their mean_ic is NaN.

    Returns:
        One row a series, one column a key of ``DEFINITIONS``.

    >>> import pandas as pd
    >>> table = headline_table({"gross": pd.Series([0.01, 0.02]), "net": pd.Series([0.0, 0.01])})
    >>> table["mean_return"].round(4).to_dict()
    {'gross': 0.0302, 'net': 0.01}
    """
    rows = {name: headline(series, ic=None if name in unscored else ic) for name, series in returns.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(DEFINITIONS))


def ratio(mean: float, std: float) -> float:
    """Divide; NaN where nothing varies."""
    return mean / std if std > 0 else math.nan
