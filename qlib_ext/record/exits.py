"""Scores and accounts as alphalens and quantstats take them; neither is a dependency."""

from typing import Any

import pandas as pd

from qlib_ext.data import judging
from qlib_ext.evaluate import has_benchmark
from qlib_ext.panel import check_scores
from qlib_ext.provider import calendar, read_traded
from qlib_ext.record.tables import REPORT

AHEAD = 40  # trading days of prices after the last score


def alphalens_input(
    scores: Any, dataset: Any = None, *, entry: int | None = None, ahead: int = AHEAD
) -> tuple[pd.Series, pd.DataFrame]:
    """Factor and prices for `alphalens.utils.get_clean_factor_and_forward_returns(factor, prices)`.

    alphalens enters at the price in the row of the factor's own day. That of a score is known after the close, so the
    row of day d has the price at which our label enters (`entry` days later, the next close): alphalens' "1D" is then
    the label's return of one day, and no return is earned that nobody could. Where a stock is not traded alphalens
    carries its price on; our label is not known there.

    Args:
        scores: by (datetime, instrument), or a run's recorder (its pred.pkl).
        dataset: that was trained on: tells entry and field of the label; None: the close of the next day.
        entry: days after the score; 0: alphalens' own convention, the close that the score is made of.
        ahead: trading days of prices after the last score, as far as the provider has them: the longest period.

    Returns: the scores as a Series named factor, by (date, asset); adjusted prices, date x asset.

    >>> scores = dataset.prepare("test", col_set="feature")["REV5"]
    >>> factor, prices = alphalens_input(scores, dataset)
    >>> factor.index.names, prices.index[0] == factor.index[0][0], prices.shape[1]
    (FrozenList(['date', 'asset']), True, 12)
    """
    known = check_scores(scores.load_object("pred.pkl") if hasattr(scores, "load_object") else scores, "the scores")
    known = known.dropna().rename("factor").rename_axis(["date", "asset"])
    judge = judging(dataset)
    entry = entry if entry is not None else 1 if judge is None else judge.span.entry
    field = "$close" if judge is None or entry == 0 else f"${judge.entry_field}"
    days, every = known.index.get_level_values("date"), calendar()
    last = every[min(int(every.searchsorted(days.max())) + ahead + entry, len(every) - 1)]
    codes = sorted(known.index.get_level_values("asset").unique())
    prices = read_traded(codes, [field], days.min(), last)[field].astype(float).shift(-entry)
    return known, prices.rename_axis(index="date", columns="asset").dropna(how="all")


def quantstats_input(account: Any) -> tuple[pd.Series, pd.Series | None]:
    """Daily returns of an account after all costs, and of its benchmark, for `quantstats.reports.html` and the like.

    Args:
        account: qlib's report of a backtest (`portfolio_analysis/report_normal_1day.pkl`), or a run's recorder.

    Returns: returns on the account (D,); those of the benchmark, None where there is none. Index: days without a
        time zone.

    >>> days = pd.DatetimeIndex(["2020-01-02", "2020-01-03"], name="datetime")
    >>> report = pd.DataFrame({"return": [0.01, -0.02], "cost": [0.001, 0.0], "bench": [0.02, 0.0]}, days)
    >>> returns, benchmark = quantstats_input(report)
    >>> returns.tolist(), benchmark.tolist()
    ([0.009000000000000001, -0.02], [0.02, 0.0])
    """
    report = account.load_object(f"portfolio_analysis/{REPORT}") if hasattr(account, "load_object") else account
    days = pd.DatetimeIndex(report.index).tz_localize(None).rename("date")
    returns = (report["return"] - report["cost"]).astype(float).set_axis(days).rename("account")
    return returns, report["bench"].astype(float).set_axis(days).rename("benchmark") if has_benchmark(report) else None
