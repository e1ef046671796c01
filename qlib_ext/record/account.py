"""The account beside the mean stock (`evaluate.account_table`): reruns of a run's backtest at other impacts."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from qlib.log import get_module_logger

from qlib_ext.data import DayDatasetH, locked_up
from qlib_ext.evaluate import ACCOUNT_METRICS, IMPACTS, account_table, mean_stock_returns
from qlib_ext.exchange import Options
from qlib_ext.options import is_number
from qlib_ext.provider import listed_days, read_traded
from qlib_ext.record.facts import market_year
from qlib_ext.record.tables import as_text
from qlib_ext.rules import is_index

logger = get_module_logger("qlib_ext.backtest")
LEAD = 20  # trading days before the first: for the last close before a suspension


def mean_stock(dataset: DayDatasetH, days: pd.DatetimeIndex) -> pd.Series:
    """Return of the mean stock on successive trading days (D,), see `evaluate.ACCOUNT_METRICS`."""
    return mean_stocks(dataset, days)[0]


def mean_stocks(dataset: DayDatasetH, days: pd.DatetimeIndex) -> tuple[pd.Series, pd.Series]:
    """Give the returns (D,) of the mean stock that could be bought, and of the mean of all, on successive days.

    The universe of a close is the panel's of that day, on a day that the panel lacks that of the last one before.
    """
    panel = dataset.panel
    stocks = np.array([not is_index(str(code)) for code in panel.stocks])  # indices of the universe are never present
    codes = [str(code) for code in panel.stocks[stocks]]
    raw = read_traded(codes, ["$close", "$factor", "$high", "$low"], days[0], days[-1], lead=LEAD)
    close = raw["$close"]
    row = np.searchsorted(panel.days, close.index.to_numpy(), side="right") - 1
    age = listed_days(codes, pd.DatetimeIndex(close.index))
    locked = locked_up(close, raw["$factor"], age, st=dataset.spells, high=raw["$high"], low=raw["$low"])
    every = close.notna() & panel.present.numpy()[row.clip(min=0)][:, stocks]
    last = len(days) + 1
    buyable, of_all = (
        mean_stock_returns(close.tail(last), held.tail(last)).reindex(days) for held in (every & ~locked, every)
    )
    return buyable, of_all


def charged(options: Options) -> float:
    """Coefficient b that an exchange charges by the square-root rule; NaN for another rule."""
    return float(options.impact) if is_number(options.impact) and options.impact_exponent == 0.5 else math.nan


def measured_account(
    own: pd.DataFrame, b: float, means: tuple[pd.Series, pd.Series], again: Callable[[float], pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure the account at each b of `evaluate.IMPACTS`: see `evaluate.account_table`; the table is told.

    Args:
        own: qlib's report of the run's own backtest.
        b: that its exchange charges, see `charged`.
        means: (D,) of `mean_stocks`.
        again: gives the report of the same backtest at another b.
    """
    reports = {each: own if math.isclose(each, b) else again(each) for each in IMPACTS}
    table, daily = account_table(reports, *means, year=market_year())
    words = "\n".join(f"  {name}: {text}" for name, text in ACCOUNT_METRICS.items())
    logger.info(f"the account beside the mean stock, {len(daily)} days\n{as_text(table)}\n{words}")
    return table, daily
