"""The deck's headline table of daily returns; each number is defined in words. Source: slides, page 4.

A capital that is made up to its sum every day (the judge's), or a difference of two returns, earns the sum of its daily
returns (`DEFINITIONS`); an account lives with its gains and losses, which compound (`ACCOUNT_DEFINITIONS`).
"""

import math
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

DAYS_A_YEAR = 242.0  # trading days of a year, where no calendar of a year or more says how many there are

DEFINITIONS = {
    "mean_ic": "mean over days of the correlation of score and label across stocks; NaN where no ic is given",
    "mean_return": (
        "sum of the daily returns of the whole period, not compounded: the capital is made up to its sum every day "
        "(the deck averages a block's return over its blocks; here there is one block)"
    ),
    "annual_return": "mean daily return * trading days of a year (those of the market's own calendar), not compounded",
    "annual_volatility": "standard deviation of daily returns (days - 1 below) * sqrt(trading days of a year)",
    "sharpe": "mean / standard deviation of daily returns * sqrt(trading days of a year); no riskless rate",
    "deck_ratio": (
        "the deck's ratio of annual return, compounded, to annual volatility (71.65 / 8.95 = 8.0): ((product of 1 + "
        "daily return) ** (trading days of a year / days) - 1) / annual_volatility"
    ),
    "max_drawdown": (
        "largest fall of the running sum of daily returns below its highest point so far, the start included; a "
        "negative fraction of the capital, 0 where it never fell"
    ),
}
ACCOUNT_DEFINITIONS = DEFINITIONS | {
    "mean_return": "cumulative, compounded return of the whole period",
    "annual_return": "compounded: (product of 1 + daily return) ** (trading days of a year / days) - 1",
    "max_drawdown": (
        "largest fall of the compounded curve below its highest point so far, the start included; a negative "
        "fraction, 0 where it never fell"
    ),
}


def days_a_year(calendar: ArrayLike) -> float:
    """Count the trading days of a year in a market's calendar, over as many whole years as it has.

    Args:
        calendar: trading days, increasing; of less than a year: `DAYS_A_YEAR`.

    >>> days_a_year(pd.bdate_range("2020-01-01", "2022-03-31"))  # 262 and 261 weekdays in two years from 1 January
    261.5
    """
    days = pd.DatetimeIndex(np.asarray(calendar))
    if not len(days):
        return DAYS_A_YEAR
    ends = [end for n in range(1, days[-1].year - days[0].year + 1) if (end := _later(days[0], n)) <= days[-1]]
    return float((days < ends[-1]).sum()) / len(ends) if ends else DAYS_A_YEAR


def _later(day: pd.Timestamp, years: int) -> pd.Timestamp:
    return day + pd.DateOffset(years=years)


def headline(
    daily_return: ArrayLike, *, ic: ArrayLike | None = None, compounded: bool = False, year: float = DAYS_A_YEAR
) -> dict[str, float]:
    """Sum up a series of daily returns as the deck's table does; each key is defined in ``DEFINITIONS``.

    Args:
        daily_return: (D,) returns of successive trading days that do not overlap (0.01 = 1%); a label of
            several days goes through ``sleeve_returns`` first.
        ic: (D',) daily ICs, NaN where undefined; None leaves mean_ic NaN.
        compounded: the returns are an account's, see ``ACCOUNT_DEFINITIONS``.
        year: trading days of a year, see ``days_a_year``.

    Returns:
        The keys of ``DEFINITIONS``, fractions. Volatility and the ratios are NaN with one day or none of it,
        deck_ratio also where a day loses more than all; what compounds to more than a float holds is inf.

    Raises:
        ValueError: for an empty series, NaN, or a return of an account below -1.

    >>> numbers = headline([0.1, -0.2, 0.25])
    >>> {name: round(numbers[name], 4) for name in ("mean_return", "annual_return", "max_drawdown")}
    {'mean_return': 0.15, 'annual_return': 12.1, 'max_drawdown': -0.2}
    >>> round(headline([0.1, -0.2, 0.25], compounded=True)["mean_return"], 4)  # 1.1 * 0.8 * 1.25 - 1
    0.1
    """
    daily = np.asarray(daily_return, dtype=np.float64)
    if daily.ndim != 1 or len(daily) == 0:
        raise ValueError(f"daily_return must be (D,) with D >= 1, got shape {daily.shape}")
    bad = int((~np.isfinite(daily) | (compounded & (daily < -1))).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(daily)} daily returns are NaN or infinite{' or below -1' if compounded else ''}; drop the "
            "days without an outcome, or fill them with 0 where the capital was in cash"
        )
    known_ic = np.asarray([] if ic is None else ic, dtype=np.float64)
    known_ic = known_ic[np.isfinite(known_ic)]
    deviation = float(daily.std(ddof=1)) if len(daily) > 1 else math.nan
    with np.errstate(over="ignore"):
        growth = np.prod(1.0 + daily) if (daily >= -1).all() else np.float64(math.nan)
        grown, volatility = growth ** np.float64(year / len(daily)) - 1.0, deviation * math.sqrt(year)
    result = {
        "mean_ic": known_ic.mean() if len(known_ic) else math.nan,
        "mean_return": growth - 1.0 if compounded else daily.sum(),
        "annual_return": grown if compounded else daily.mean() * year,
        "annual_volatility": volatility,
        "sharpe": ratio(daily.mean(), deviation) * math.sqrt(year),
        "deck_ratio": ratio(grown, volatility),
        "max_drawdown": drawdown(daily, compounded=compounded).min(),
    }
    return {key: float(value) for key, value in result.items()}


def cumulative(daily_return: ArrayLike, *, compounded: bool) -> NDArray[np.float64]:
    """Add up daily returns (D,), or compound them, NaN as 0: the return since the start, (D,)."""
    daily = np.nan_to_num(np.asarray(daily_return, dtype=np.float64), nan=0.0)
    return np.asarray(np.cumprod(1.0 + daily) - 1.0 if compounded else np.cumsum(daily))


def drawdown(daily_return: ArrayLike, *, compounded: bool) -> NDArray[np.float64]:
    """Fall (D,) of ``cumulative`` below its highest point so far, the start included.

    A share of the account at that point where it is compounded, else of the capital.

    >>> drawdown([0.5, -0.3, 0.1], compounded=False).round(2).tolist()
    [0.0, -0.3, -0.2]
    """
    curve = cumulative(daily_return, compounded=compounded)
    highest = np.maximum(np.maximum.accumulate(curve), 0.0)
    return np.asarray((curve - highest) / (1.0 + highest) if compounded else curve - highest)


def headline_table(
    returns: Mapping[str, pd.Series],
    *,
    ic: ArrayLike | None = None,
    unscored: Collection[str] = (),
    compounded: Collection[str] = (),
    year: float = DAYS_A_YEAR,
) -> pd.DataFrame:
    """Put ``headline`` of several series under each other.

    Args:
        returns: name of the row (gross, net, excess, ...) -> (D,) daily returns.
        ic: (D',) daily ICs, the same for all rows.
        unscored: rows that no score has made (the market, a benchmark); their mean_ic is NaN.
        compounded: rows that are accounts.
        year: trading days of a year, see ``days_a_year``; it stands in ``attrs["days_a_year"]`` too.

    Returns:
        One row a series, one column a key of ``DEFINITIONS``.

    >>> import pandas as pd
    >>> table = headline_table({"gross": pd.Series([0.01, 0.02]), "net": pd.Series([0.0, 0.01])})
    >>> table["mean_return"].round(4).to_dict()
    {'gross': 0.03, 'net': 0.01}
    """
    rows = {
        name: headline(series, ic=None if name in unscored else ic, compounded=name in compounded, year=year)
        for name, series in returns.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(DEFINITIONS))
    table.attrs["days_a_year"] = year
    return table


def ratio(mean: float, std: float) -> float:
    """Divide; NaN where nothing varies."""
    return mean / std if std > 0 else math.nan
