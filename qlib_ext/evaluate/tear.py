"""The account's tear sheet: months, years, drawdowns, worst days, rolling numbers, and how sure its ratios are.

All is of the run's own account after every cost that its exchange charges, from close to close, the first day of the
backtest in; `ACCOUNT_TEAR_DEFINITIONS` says in words what stands in each table. Returns of the account, the benchmark
and the mean stock are compounded, as who holds them lives with gains and losses; differences of two are summed.
Legend: `D` days; returns as fractions (0.01 = 1%).
"""

import math

import numpy as np
import pandas as pd

from qlib_ext.evaluate.benchmark import has_benchmark, known_benchmark
from qlib_ext.evaluate.headline import DAYS_A_YEAR, cumulative, drawdown, headline, ratio
from qlib_ext.evaluate.newey_west import newey_west
from qlib_ext.evaluate.score_tear import OVERLAP, holdings_overlap
from qlib_ext.evaluate.sharpe import DEFLATED, deflated_sharpe, moments, sharpe_error, sharpe_probability
from qlib_ext.options import check_number

ROLLING = 120  # trading days, half a year
DEEPEST, WORST = 10, 10  # drawdowns and days that are listed
FLAT = 1e-12  # a variance within such a share of the largest square is that of rounding
MEAN, ALL, BENCHMARK = OTHERS = "mean_stock", "mean_all", "benchmark"  # what the account is compared with

RETURNS = {
    "net": "return of the account after all costs that its exchange charges (fees, and impact where it does), on its "
    "value at the previous close",
    "mean_stock": "return of the mean stock: equal-weighted, of the stocks of the universe that were buyable at the "
    "previous close, from close to close, no costs",
    "mean_all": "the same of all stocks of the universe that traded at the previous close, those locked at limit-up "
    "too, which rise on and cannot be bought",
    "benchmark": "return of the backtest's benchmark, no costs",
    "over_mean_stock": "net less mean_stock, day by day",
    "over_mean_all": "net less mean_all, day by day",
    "over_benchmark": "net less benchmark, day by day",
}
PERIODS = {
    "net": "return of the account after all costs, compounded over the days of the period",
    "mean_stock": "the mean stock's, compounded (bought anew in equal parts every day, without costs)",
    "mean_all": "the mean's of all stocks, those that could not be bought too, compounded",
    "benchmark": "the benchmark's, compounded",
    "over_mean_stock": "daily differences of net and mean_stock, summed over the period",
    "over_mean_all": "daily differences of net and mean_all, summed over the period",
    "over_benchmark": "daily differences of net and benchmark, summed over the period",
}
YEARS = PERIODS | {
    "sharpe": "of the account: mean / standard deviation of its daily returns after all costs * sqrt(trading days of a "
    "year); no riskless rate",
    "excess_sharpe": "the same of the daily difference to the mean stock, without one to the benchmark",
    "annual_volatility": "standard deviation of the account's daily returns (days - 1 below) * sqrt(trading days of a "
    "year)",
    "max_drawdown": "largest fall of the account, compounded, below its highest point of the period so far, the "
    "period's start included; a negative fraction",
    "turnover": "mean over days of what was bought and sold together / value of the account at the previous close",
    "cost": "all costs, of the account's value at the previous close, summed over the period",
    "days": "trading days of the period",
}
DRAWDOWNS = {
    "begin": "first day below the highest point so far, the start of the backtest included",
    "bottom": "day of the deepest fall",
    "recovered": "first day back at that point or above; empty: not yet",
    "depth": "fall at the bottom, a negative fraction: of the account at the highest point, compounded; of an excess, "
    "of its running sum",
    "days": "trading days from begin until it was recovered, or until the last one",
    "days_to_bottom": "trading days from begin to the bottom, both in",
}
RATIOS = {
    "annual_return": "mean of the daily difference * trading days of a year, not compounded; against nothing, of the "
    "account's own daily return after all costs",
    "standard_error": "Newey-West standard error of annual_return",
    "sharpe": "mean / standard deviation of the daily difference * sqrt(trading days of a year) (against a benchmark: "
    "the information ratio); no riskless rate",
    "sharpe_error": "standard error of sharpe, which allows for skewness, kurtosis and, by Newey and West, for days "
    "that resemble each other (Lo 2002)",
    "probability": "probabilistic Sharpe ratio: that the true one is above 0, normal(sharpe / sharpe_error) (Bailey "
    "and Lopez de Prado 2012). It knows of no other trial: see the deflated one",
    "probability_independent": "the same in the paper's own form, which takes days as independent: error sqrt((1 - "
    "skewness S + (kurtosis - 1) / 4 S^2) / (days - 1)), S the Sharpe ratio of a day",
    "skewness": "of the daily difference, 0 for the normal",
    "kurtosis": "of the daily difference, 3 for the normal",
    "autocorrelation": "of the daily difference with that of the day before",
    "tracking_error": "standard deviation of the daily difference (days - 1 below) * sqrt(trading days of a year); "
    "against nothing, the account's volatility",
    "alpha": "mean of (net - beta * other) * trading days of a year, not compounded: least squares of the account's "
    "daily return on the other's, both as they are",
    "alpha_error": "Newey-West standard error of alpha",
    "beta": "slope of that line",
    "beta_error": "Newey-West standard error of beta",
    "correlation": "of the two daily returns",
    "days": "trading days",
}
ROLLED = {
    "sharpe": f"of the account after all costs, over the last {ROLLING} trading days, annual",
    "excess_sharpe": f"of its daily difference to the mean stock (without one: to the benchmark), over the last "
    f"{ROLLING} trading days, annual",
    "beta": f"slope of the account's daily returns on the mean stock's (without one: the benchmark's), over the last "
    f"{ROLLING} trading days",
    "tracking_error": f"standard deviation of that difference over the last {ROLLING} trading days, annual",
}
ACCOUNT_TEAR_DEFINITIONS = {
    "returns": RETURNS,
    "months": PERIODS,
    "years": YEARS,
    "drawdowns": DRAWDOWNS,
    "excess_drawdowns": DRAWDOWNS,
    "worst_days": RETURNS,
    "worst_excess": RETURNS,
    "rolling": ROLLED,
    "ratios": RATIOS,
    "deflated": DEFLATED,
    "overlap": OVERLAP,
}


def account_tear(
    report: pd.DataFrame,
    mean_stock: pd.Series | None = None,
    mean_all: pd.Series | None = None,
    *,
    holdings: pd.DataFrame | None = None,
    year: float = DAYS_A_YEAR,
    trials: pd.DataFrame | None = None,
) -> dict[str, pd.DataFrame]:
    """Make the tear sheet of an account.

    Args:
        report: qlib's report, a row a day: return (before costs), cost, turnover, bench (all NaN or 0: no benchmark).
        mean_stock: (D,) return of the mean stock on these days; None: not known.
        mean_all: (D,) the same of all stocks, those that could not be bought too; None: not known.
        holdings: (D, N) yuan held at the close, by day and code; None: no `overlap`.
        year: trading days of a year, see `days_a_year`.
        trials: of `read_trials`; None: the Sharpe ratio is not deflated.

    Returns:
        Tables by the names of `ACCOUNT_TEAR_DEFINITIONS`; without a day none, without mean stock and benchmark none of
        an excess, `deflated` with mean stock and trials alone.

    Raises: as `known_benchmark`; ValueError for a day whose mean stock is not known.

    >>> days = pd.bdate_range("2022-01-04", periods=3)
    >>> report = pd.DataFrame({"return": [0.1, -0.2, 0.25], "cost": 0.0, "turnover": 0.0}, days)
    >>> tear = account_tear(report)
    >>> tear["years"].loc["2022", ["net", "max_drawdown"]].round(2).tolist(), list(tear)
    ([0.1, -0.2], ['returns', 'months', 'years', 'drawdowns', 'worst_days', 'rolling', 'ratios'])
    """
    if not len(report):
        return {}
    returns = account_returns(report, mean_stock, mean_all)
    excess = first_excess(returns)
    tear = {
        "returns": returns,
        "months": by_period(returns, pd.DatetimeIndex(returns.index).strftime("%Y-%m")),
        "years": by_year(returns, report, year=year),
        "drawdowns": drawdowns(returns["net"], compounded=True),
    }
    if excess is not None:
        tear["excess_drawdowns"] = drawdowns(excess, compounded=False)
    tear["worst_days"] = returns.nsmallest(WORST, "net")
    if excess is not None:
        tear["worst_excess"] = returns.nsmallest(WORST, str(excess.name))
    tear |= {"rolling": rolling(returns, year=year), "ratios": ratios(returns, year=year)}
    if trials is not None and MEAN in returns:
        found = deflated_sharpe(returns[f"over_{MEAN}"], trials, year=year)
        tear["deflated"] = pd.DataFrame([found], index=["account"])
    if holdings is not None:
        tear["overlap"] = holdings_overlap(holdings)
    return tear


def account_returns(
    report: pd.DataFrame, mean_stock: pd.Series | None = None, mean_all: pd.Series | None = None
) -> pd.DataFrame:
    """Daily returns (D, columns of `RETURNS`) of the account after costs, and of what it is compared with."""
    columns = {"net": (report["return"] - report["cost"]).astype(float)}
    for name, mean in ((MEAN, mean_stock), (ALL, mean_all)):
        if mean is not None:
            columns[name] = mean.reindex(report.index).astype(float)
            if columns[name].isna().any():
                raise ValueError(f"the return of {name} is not known on {report.index[columns[name].isna()][0]}")
    if has_benchmark(report):
        columns[BENCHMARK] = known_benchmark(report["bench"].astype(float))
    columns |= {f"over_{name}": columns["net"] - columns[name] for name in OTHERS if name in columns}
    return pd.DataFrame(columns, pd.DatetimeIndex(report.index).rename("day"))


def first_excess(returns: pd.DataFrame) -> pd.Series | None:
    """Give the daily difference to the mean stock, without one that to the benchmark, None without either."""
    return next((returns[name] for name in (f"over_{MEAN}", f"over_{BENCHMARK}") if name in returns), None)


def by_period(returns: pd.DataFrame, period: pd.Index) -> pd.DataFrame:
    """Bring daily returns (of `account_returns`) to periods (D,): differences summed, all else compounded.

    >>> days = pd.DatetimeIndex(["2022-01-28", "2022-01-31", "2022-02-07"])
    >>> daily = pd.DataFrame({"net": [0.1, 0.1, 0.0], "over_benchmark": [0.1, 0.1, -0.1]}, days)
    >>> by_period(daily, days.strftime("%Y-%m")).round(2).to_dict("index")
    {'2022-01': {'net': 0.21, 'over_benchmark': 0.2}, '2022-02': {'net': 0.0, 'over_benchmark': -0.1}}
    """
    names = [str(name) for name in returns]
    rows = {
        str(key): {name: cumulative(own[name], compounded=not name.startswith("over_"))[-1] for name in names}
        for key, own in returns.groupby(period.to_numpy())
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def by_year(returns: pd.DataFrame, report: pd.DataFrame, *, year: float = DAYS_A_YEAR) -> pd.DataFrame:
    """Sum the calendar years up, and below them all days: rows "2021", "2022", ..., "all", columns of `YEARS`."""
    calendar, excess = pd.DatetimeIndex(returns.index).strftime("%Y"), first_excess(returns)
    rows = {}
    for name in [*calendar.unique(), "all"]:
        own = (calendar == name) | (name == "all")
        account = headline(returns["net"][own], compounded=True, year=year)
        rows[name] = by_period(returns[own], pd.Index([name] * int(own.sum()))).loc[name].to_dict()
        rows[name]["sharpe"] = account["sharpe"]
        if excess is not None:
            rows[name]["excess_sharpe"] = headline(excess[own], year=year)["sharpe"]
        rows[name] |= {key: account[key] for key in ("annual_volatility", "max_drawdown")}
        rows[name] |= {"turnover": float(report["turnover"][own].mean()), "cost": float(report["cost"][own].sum())}
        rows[name]["days"] = int(own.sum())
    return pd.DataFrame.from_dict(rows, orient="index")


def drawdowns(daily: pd.Series, *, compounded: bool, count: int = DEEPEST) -> pd.DataFrame:
    """List the deepest falls below the highest point so far, see `drawdown`: the deepest first, columns of `DRAWDOWNS`.

    Args:
        daily: (D,) returns by day.
        compounded: of an account; else the capital is made up every day, or it is a difference of two.
        count: at most so many.

    >>> days = pd.bdate_range("2022-01-03", periods=5)
    >>> drawdowns(pd.Series([0.1, -0.2, -0.1, 0.5, -0.1], days), compounded=False)[["begin", "recovered", "depth"]]
           begin  recovered  depth
    1 2022-01-04 2022-01-06   -0.3
    2 2022-01-07        NaT   -0.1
    """
    days, fall = pd.DatetimeIndex(daily.index), drawdown(daily, compounded=compounded)
    under = fall < -FLAT
    starts = np.flatnonzero(under & ~np.r_[False, under[:-1]]).tolist()
    ends = (np.flatnonzero(under & ~np.r_[under[1:], False]) + 1).tolist()
    rows = []
    for start, end in zip(starts, ends, strict=True):
        bottom = start + int(fall[start:end].argmin())
        back = days[end] if end < len(days) else pd.NaT
        rows.append((days[start], days[bottom], back, fall[bottom], end - start, bottom - start + 1))
    table = pd.DataFrame(rows, columns=list(DRAWDOWNS)).astype({"depth": float, "days": int, "days_to_bottom": int})
    table = table.astype(dict.fromkeys(("begin", "bottom", "recovered"), "datetime64[ns]"))
    table = table.sort_values("depth", kind="stable").head(count)
    return table.set_axis(pd.RangeIndex(1, len(table) + 1))


def rolling(returns: pd.DataFrame, window: int = ROLLING, *, year: float = DAYS_A_YEAR) -> pd.DataFrame:
    """Measure the last `window` days of each day (D, columns of `ROLLED`); NaN on the first window - 1 days."""
    check_number("window", window, "[2, inf)", whole=True)
    excess, root = first_excess(returns), math.sqrt(year)
    columns = {"sharpe": _rolling_ratio(returns["net"], window) * root}
    if excess is not None:
        other = returns[str(excess.name).removeprefix("over_")]
        variance = other.rolling(window).var()
        variance = variance.where(variance > FLAT * (other**2).max())
        columns["excess_sharpe"] = _rolling_ratio(excess, window) * root
        columns["beta"] = returns["net"].rolling(window).cov(other) / variance
        columns["tracking_error"] = excess.rolling(window).std() * root
    return pd.DataFrame(columns)


def _rolling_ratio(daily: pd.Series, window: int) -> pd.Series:
    variance = daily.rolling(window).var()
    return daily.rolling(window).mean() / np.sqrt(variance.where(variance > FLAT * (daily**2).max()))


def ratios(returns: pd.DataFrame, *, year: float = DAYS_A_YEAR) -> pd.DataFrame:
    """Measure the account against nothing ("cash") and each of `OTHERS`: a row each, columns of `RATIOS`.

    Errors of the line are Newey-West's of what a day moves it by (White's, with lags): of beta e (x - mean) / var, of
    alpha e less the mean of x times that; e the residual, x the other's return.
    """
    net, rows = returns["net"].to_numpy(), {}
    for name in ("cash", *(other for other in OTHERS if other in returns)):
        other = None if name == "cash" else returns[name].to_numpy()
        gap = net if other is None else net - other
        found, root = headline(gap, year=year), math.sqrt(year)
        rows[name] = {
            "annual_return": found["annual_return"],
            "standard_error": newey_west(gap)[1] * year,
            "sharpe": found["sharpe"],
            "sharpe_error": sharpe_error(gap) * root,
            "probability": sharpe_probability(gap),
            "probability_independent": sharpe_probability(gap, lags=0),
            **moments(gap),
            "tracking_error": found["annual_volatility"],
            **_line(net, other, year),
            "days": len(gap),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(RATIOS)).astype({"days": int})


def _line(net: np.ndarray, other: np.ndarray | None, year: float) -> dict[str, float]:
    """Alpha (a year), beta, their errors and the correlation; NaN without another, or one that does not vary."""
    unknown = dict.fromkeys(("alpha", "alpha_error", "beta", "beta_error", "correlation"), math.nan)
    if other is None or len(net) < 3:
        return unknown
    gap, own = other - other.mean(), net - net.mean()
    square = float((gap**2).mean())
    if not square > FLAT * float((other**2).max()):
        return unknown
    beta = float((gap * own).mean()) / square
    rest, moves = own - beta * gap, gap / square
    return {
        "alpha": (net.mean() - beta * other.mean()) * year,
        "alpha_error": newey_west(rest * (1.0 - other.mean() * moves))[1] * year,
        "beta": beta,
        "beta_error": newey_west(rest * moves)[1],
        "correlation": ratio(float((gap * own).mean()), math.sqrt(square * float((own**2).mean()))),
    }
