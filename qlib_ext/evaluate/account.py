"""The account beside the mean stock: the metrics that a run is compared by, by name.

Legend: `D` days of a backtest, `N` stocks; returns as fractions.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from qlib_ext.evaluate.headline import DAYS_A_YEAR, headline

IMPACTS = {1.0: "", 2 / 3: "_b067", 1 / 3: "_b033"}  # b of the square-root rule -> ending of its excess's name
ACCOUNT_METRICS = {
    "account_excess": "mean daily return of the strategy's account after fees and impact at b = 1, less the mean "
    "stock, times the trading days of a year of the market's calendar; the first day is in",
    "account_sharpe": "mean / standard deviation of that daily difference * sqrt(trading days of a year)",
    "account_drawdown": "largest fall of that difference's running sum below its highest point so far, the start "
    "included; a positive fraction of the account",
    "turnover": "mean over days of what was bought and sold together at b = 1 / value of the account at the previous "
    "close",
    "account_excess_b067": "account_excess where impact is charged at b = 2/3 and the strategy knows it",
    "account_excess_b033": "account_excess where impact is charged at b = 1/3 and the strategy knows it",
    "mean_stock": "equal-weighted return from close to close of the stocks of the universe that were buyable at the "
    "previous close: listed long enough, traded, not locked at limit-up; suspended since, a stock made nothing",
    "account_over_all": "account_excess over the equal-weighted return of all stocks of the universe that traded at "
    "the previous close, those locked at limit-up too, which rise on",
    "b": "coefficient of the impact b * volatility * sqrt(share of the day's turnover), in exchange and strategy "
    "alike; each row is a backtest of its own",
}


def mean_stock_returns(close: pd.DataFrame, buyable: pd.DataFrame) -> pd.Series:
    """Average the returns of the day (D - 1,) over the stocks that could be bought at the close before.

    Args:
        close: (D, N) adjusted, NaN where a stock did not trade.
        buyable: (D, N) bool, at the close of the day.

    Raises: ValueError for a day on which no stock was to be bought.

    >>> close = pd.DataFrame({"A": [10.0, 11.0, 11.0], "B": [10.0, 9.0, float("nan")], "C": [10.0, 20.0, 22.0]})
    >>> mean_stock_returns(close, close.notna().assign(C=[False, True, True])).round(3).tolist()  # B stands still
    [0.0, 0.033]
    """
    price, free = close.astype(np.float64).ffill().to_numpy(), buyable.to_numpy(dtype=bool)[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(free, price[1:] / price[:-1] - 1.0, 0.0)
    count = free.sum(axis=1)
    if not count.all():
        raise ValueError(f"no stock could be bought at the close before {close.index[1:][count == 0][0]}")
    return pd.Series(step.sum(axis=1) / count, close.index[1:])


def account_table(
    reports: Mapping[float, pd.DataFrame],
    mean_stock: pd.Series,
    mean_all: pd.Series | None = None,
    *,
    year: float = DAYS_A_YEAR,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure accounts against the mean stock.

    Args:
        reports: b -> qlib's report, a row a day: return (before costs), cost, turnover.
        mean_stock: (D,) return of the mean stock on the days of the reports.
        mean_all: (D,) the same of all stocks, those that could not be bought too; None: not known.
        year: trading days of a year, see `days_a_year`.

    Returns:
        The table, a row a b: account_excess, account_sharpe, account_drawdown, turnover, account_over_all where it is
        known. The daily series: mean_stock, mean_all, and of each b net, excess and turnover, named by its ending in
        `IMPACTS`.

    Raises: ValueError for a day whose mean stock is not known.

    >>> days = pd.bdate_range("2022-01-04", periods=2)
    >>> report = pd.DataFrame({"return": [0.0, 0.04], "cost": [0.01, 0.0], "turnover": [1.0, 0.0]}, days)
    >>> table, daily = account_table({1.0: report}, pd.Series([0.01, 0.01], days), year=200)
    >>> table.round(3).to_dict("records")  # -0.02, then 0.03
    [{'account_excess': 1.0, 'account_sharpe': 2.0, 'account_drawdown': 0.02, 'turnover': 0.5}]
    """
    rows: dict[float, dict[str, float]] = {}
    columns: dict[str, pd.Series] = {}
    for b, report in reports.items():
        mean = mean_stock.reindex(report.index)
        if mean.isna().any():
            raise ValueError(f"the mean stock's return is not known on {mean.index[mean.isna()][0]}")
        net = (report["return"] - report["cost"]).astype(float)
        found = headline(net - mean, year=year)
        rows[b] = {
            "account_excess": found["annual_return"],
            "account_sharpe": found["sharpe"],
            "account_drawdown": abs(found["max_drawdown"]),
            "turnover": float(report["turnover"].mean()),
        }
        end = IMPACTS.get(b, f"_b{b:g}")
        columns |= {"mean_stock": mean, f"net{end}": net, f"excess{end}": net - mean}
        if mean_all is not None:
            columns["mean_all"] = mean_all.reindex(report.index)
            rows[b]["account_over_all"] = float((net - columns["mean_all"]).mean()) * year
        columns[f"turnover{end}"] = report["turnover"].astype(float)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("b"), pd.DataFrame(columns)


def account_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Name the numbers of `account_table` as a run logs them: all of b = 1, the excess of each other b."""
    rows = {float(str(b)): row for b, row in table.to_dict("index").items()}
    own = {str(name): float(value) for name, value in rows[1.0].items()}
    return own | {f"account_excess{end}": float(rows[b]["account_excess"]) for b, end in IMPACTS.items() if end}
