"""The account's tear sheet: by hand, against slow loops and numpy's least squares, short and empty."""

import math

import numpy as np
import pandas as pd
import pytest

from qlib_ext import evaluate
from qlib_ext.evaluate import (
    ACCOUNT_TEAR_DEFINITIONS,
    account_metrics,
    account_table,
    account_tear,
    drawdowns,
    headline,
    newey_west,
    performance,
    sharpe_probability,
    trial_row,
)

DAYS = pd.DatetimeIndex(["2021-12-30", "2021-12-31", "2022-01-04", "2022-01-28", "2022-02-07"])


def report_of(rng, days, bench=True):
    frame = pd.DataFrame(
        {"return": rng.normal(0.001, 0.012, len(days)), "cost": rng.uniform(0, 0.001, len(days)), "turnover": 0.2}, days
    )
    return frame.assign(bench=rng.normal(0.0004, 0.01, len(days)) if bench else np.nan)


@pytest.fixture
def small():
    """Net +10%, -50%, +20%, +100%, -10%; mean stock 0, +10%, 0, +50%, 0; benchmark +1% a day."""
    report = pd.DataFrame(
        {"return": [0.11, -0.5, 0.2, 1.0, -0.1], "cost": [0.01, 0, 0, 0, 0], "turnover": [1.0, 0, 0, 0.5, 0]}, DAYS
    ).assign(bench=0.01)
    return account_tear(report, pd.Series([0.0, 0.1, 0.0, 0.5, 0.0], DAYS), year=200)


def test_months_and_years_by_hand(small):
    months, years = small["months"], small["years"]
    assert list(months.index) == ["2021-12", "2022-01", "2022-02"]
    assert months["net"].tolist() == pytest.approx([1.1 * 0.5 - 1, 1.2 * 2 - 1, -0.1])
    assert months["over_mean_stock"].tolist() == pytest.approx([0.1 - 0.6, 0.2 + 0.5, -0.1])  # summed
    assert months["benchmark"].tolist() == pytest.approx([0.0201, 0.0201, 0.01])
    assert list(years.index) == ["2021", "2022", "all"] and years["days"].tolist() == [2, 3, 5]
    assert years["net"].tolist() == pytest.approx([-0.45, 1.2 * 2 * 0.9 - 1, 0.55 * 2.16 - 1])
    assert years["max_drawdown"].tolist() == pytest.approx([-0.5, -0.1, -0.5])
    assert years["cost"].tolist() == pytest.approx([0.01, 0.0, 0.01])
    assert years["turnover"].tolist() == pytest.approx([0.5, 0.5 / 3, 0.3])
    assert years.loc["2021", "excess_sharpe"] == pytest.approx(-0.25 / (0.35 * math.sqrt(2)) * math.sqrt(200))


def test_drawdowns_and_worst_days_by_hand(small):
    """Value 1.1, .55, .66, 1.32, 1.188: below 1.1 from the second day to the third, back on the fourth."""
    first, second = small["drawdowns"].to_dict("records")
    assert first["begin"] == first["bottom"] == DAYS[1] and first["recovered"] == DAYS[3]
    assert (first["depth"], first["days"], first["days_to_bottom"]) == (pytest.approx(-0.5), 2, 1)
    assert second["begin"] == DAYS[4] and pd.isna(second["recovered"]) and second["days"] == 1
    assert second["depth"] == pytest.approx(-0.1)
    excess = small["excess_drawdowns"].to_dict("records")  # .1, -.5, -.3, .2, .1: summed, below .1 then below .2
    assert [row["depth"] for row in excess] == pytest.approx([-0.6, -0.1]) and excess[0]["recovered"] == DAYS[3]
    assert list(small["worst_days"].index) == [DAYS[1], DAYS[4], DAYS[0], DAYS[2], DAYS[3]]
    assert list(small["worst_excess"].index[:2]) == [DAYS[1], DAYS[4]]


@pytest.mark.parametrize("compounded", [True, False])
def test_drawdowns_against_a_slow_loop(compounded):
    days = pd.bdate_range("2020-01-02", periods=300)
    daily = pd.Series(np.random.default_rng(0).normal(0, 0.02, 300), days)
    value = highest = 1.0
    found, own = [], None
    for step in daily:
        value = value * (1 + step) if compounded else value + step
        if value >= highest - 1e-12:
            highest, own = max(value, highest), None
            continue
        fall = value / highest - 1 if compounded else value - highest
        if own is None:
            own = [fall, 0]
            found.append(own)
        own[0], own[1] = min(own[0], fall), own[1] + 1
    found.sort(key=lambda pair: pair[0])
    table = drawdowns(daily, compounded=compounded, count=5)
    assert table["depth"].tolist() == pytest.approx([fall for fall, _ in found[:5]])
    assert table["days"].tolist() == [days for _, days in found[:5]]
    every = drawdowns(daily, compounded=compounded, count=1000)
    assert len(every) == len(found) and every["recovered"].isna().sum() == (own is not None)
    assert (every["bottom"] >= every["begin"]).all() and not (every["recovered"] <= every["bottom"]).any()


def test_one_definition_of_a_number():
    """What the account's other tables say is what the tear sheet says."""
    rng, days = np.random.default_rng(1), pd.bdate_range("2021-03-01", periods=400)
    report, mean = report_of(rng, days), pd.Series(rng.normal(0, 0.01, 400), days)
    mean_all = mean + 0.0003
    tear = account_tear(report, mean, mean_all, year=242)
    metrics = account_metrics(account_table(dict.fromkeys((1.0, 2 / 3, 1 / 3), report), mean, mean_all, year=242)[0])
    assert tear["ratios"].loc["mean_stock", "annual_return"] == metrics["account_excess"]
    assert tear["ratios"].loc["mean_stock", "sharpe"] == metrics["account_sharpe"]
    assert tear["ratios"].loc["mean_all", "annual_return"] == pytest.approx(metrics["account_over_all"])
    assert tear["years"].loc["all", "excess_sharpe"] == metrics["account_sharpe"]
    assert -tear["excess_drawdowns"]["depth"].iloc[0] == pytest.approx(metrics["account_drawdown"])
    table = performance(report, year=242)
    assert tear["years"].loc["all", "net"] == table.loc["net", "mean_return"]
    assert tear["years"].loc["all", "benchmark"] == table.loc["benchmark", "mean_return"]
    assert tear["drawdowns"]["depth"].iloc[0] == pytest.approx(table.loc["net", "max_drawdown"])
    assert tear["ratios"].loc["benchmark", "sharpe"] == table.loc["excess_net", "sharpe"]
    assert tear["ratios"].loc["mean_stock", "standard_error"] == newey_west(tear["returns"]["over_mean_stock"])[1] * 242
    months = (1 + tear["months"]["net"]).prod() - 1
    assert months == pytest.approx(tear["years"].loc["all", "net"])
    assert tear["months"]["over_benchmark"].sum() == pytest.approx(tear["returns"]["over_benchmark"].sum())


def sandwich(net, other, lags):
    """Least squares with Newey-West errors, by matrices, days - 1 below."""
    x = np.column_stack([np.ones_like(other), other])
    bread = np.linalg.inv(x.T @ x)
    slope = bread @ x.T @ net
    moved = x * (net - x @ slope)[:, None]
    meat = moved.T @ moved
    for lag in range(1, lags + 1):
        cross = moved[lag:].T @ moved[:-lag]
        meat += (1 - lag / (lags + 1)) * (cross + cross.T)
    days = len(net)
    return slope, np.sqrt(np.diag(bread @ meat @ bread) * days / (days - 1))


@pytest.mark.parametrize("seed", range(3))
def test_alpha_and_beta_are_least_squares(seed):
    rng, days = np.random.default_rng(seed), pd.bdate_range("2021-03-01", periods=120)
    other = pd.Series(rng.normal(0.002, 0.01, 120), days)
    report = report_of(rng, days, bench=False)
    report["return"] += 0.7 * other
    tear = account_tear(report, other, year=242)
    row, net = tear["ratios"].loc["mean_stock"], tear["returns"]["net"].to_numpy()
    slope, error = sandwich(net, other.to_numpy(), newey_west(net)[2])
    assert (row["alpha"] / 242, row["beta"]) == (pytest.approx(slope[0]), pytest.approx(slope[1]))
    assert (row["alpha_error"] / 242, row["beta_error"]) == (pytest.approx(error[0]), pytest.approx(error[1]))
    assert row["correlation"] == pytest.approx(np.corrcoef(net, other)[0, 1])
    assert row["tracking_error"] == pytest.approx((net - other).std(ddof=1) * math.sqrt(242))
    assert row["probability"] == sharpe_probability(net - other)
    assert tear["ratios"].loc["cash", ["alpha", "beta", "correlation"]].isna().all()


def test_rolling_numbers_are_those_of_the_window():
    rng, days = np.random.default_rng(2), pd.bdate_range("2021-03-01", periods=150)
    report, mean = report_of(rng, days), pd.Series(rng.normal(0, 0.01, 150), days)
    tear = account_tear(report, mean, year=242)
    rolled, returns = tear["rolling"], tear["returns"]
    assert rolled["sharpe"].notna().sum() == 31
    last = returns.iloc[-120:]
    assert rolled["sharpe"].iloc[-1] == pytest.approx(headline(last["net"], year=242)["sharpe"])
    assert rolled["excess_sharpe"].iloc[-1] == pytest.approx(headline(last["over_mean_stock"], year=242)["sharpe"])
    assert rolled["beta"].iloc[-1] == pytest.approx(np.polyfit(last["mean_stock"], last["net"], 1)[0])
    later = report.copy()
    later.iloc[130:] *= 3.0
    before, after = (account_tear(each, mean)["rolling"].iloc[:130] for each in (report, later))
    pd.testing.assert_frame_equal(after, before)


@pytest.mark.parametrize("days", [1, 2, 10])
@pytest.mark.parametrize("bench", [True, False])
@pytest.mark.parametrize("mean", [True, False])
def test_short_runs_and_runs_without_anything_to_compare_with(days, bench, mean):
    rng, index = np.random.default_rng(3), pd.bdate_range("2022-01-04", periods=days)
    tear = account_tear(report_of(rng, index, bench), pd.Series(0.001, index) if mean else None)
    assert set(tear) <= set(ACCOUNT_TEAR_DEFINITIONS) and ("worst_excess" in tear) == (mean or bench)
    assert len(tear["ratios"]) == 1 + mean + bench and tear["rolling"]["sharpe"].isna().all()
    for name, frame in tear.items():
        assert set(frame) <= set(ACCOUNT_TEAR_DEFINITIONS[name]), name


def test_idle_and_empty_accounts():
    index = pd.bdate_range("2022-01-04", periods=30)
    idle = pd.DataFrame({"return": 0.0, "cost": 0.0, "turnover": 0.0}, index)
    tear = account_tear(idle, pd.Series(0.001, index))
    assert len(tear["drawdowns"]) == 0 and tear["years"].loc["all", "net"] == 0.0
    assert tear["ratios"].loc["cash", ["sharpe", "probability", "beta"]].isna().all()
    assert tear["excess_drawdowns"].loc[1, "days"] == 30
    assert account_tear(idle.iloc[:0]) == {}
    traded = idle.assign(turnover=[0.0] * 29 + [0.01])
    assert [evaluate.idle(report) for report in (idle, traded, idle.drop(columns="turnover"), None)] == [
        True,
        *[False] * 3,
    ]


def test_a_mean_stock_that_lacks_a_day_is_refused():
    index = pd.bdate_range("2022-01-04", periods=3)
    with pytest.raises(ValueError, match="2022-01-06"):
        account_tear(report_of(np.random.default_rng(0), index), pd.Series(0.0, index[:2]))


def test_trials_deflate_the_excess_over_the_mean_stock():
    rng, index = np.random.default_rng(4), pd.bdate_range("2022-01-04", periods=100)
    report, mean = report_of(rng, index), pd.Series(rng.normal(0, 0.01, 100), index)
    others = [trial_row(str(n), {}, pd.Series(rng.normal(0, 0.01, 100), index)) for n in range(5)]
    tear = account_tear(report, mean, trials=pd.DataFrame(others), year=242)
    found, plain = tear["deflated"].loc["account"], tear["ratios"].loc["mean_stock"]
    assert (found["sharpe"], found["sharpe_error"]) == (plain["sharpe"], plain["sharpe_error"])
    assert found["trials"] == 5 and found["highest"] > 0 and found["probability"] < plain["probability"]
    assert "deflated" not in account_tear(report, trials=pd.DataFrame(others))
