"""The tables of `execution` and the waterfall's arithmetic, by hand."""

import numpy as np
import pandas as pd
import pytest

from qlib_ext.evaluate import (
    EXECUTION_DEFINITIONS,
    blocked_by_reason,
    book,
    cost_split,
    cost_stages,
    days_to_liquidate,
    paper_returns,
    participation_histogram,
    performance,
    target_reached,
    turnover,
    waterfall,
)
from qlib_ext.exchange import SETTLED

DAYS = pd.DatetimeIndex(["2023-07-03", "2023-07-04", "2023-07-05"])


def fills(*rows):
    columns = ["day", "code", "side", "yuan", "commission", "transfer", "stamp_duty", "impact", "used"]
    return pd.DataFrame([(DAYS[row[0]], *row[1:]) for row in rows], columns=columns)


@pytest.fixture
def two_days():
    """1,000 bought of A and 400 of B; the next day 600 of A sold and 200 bought again."""
    return fills(
        (0, "A", "buy", 1000.0, 3.0, 0.1, 0.0, 2.0, 0.02),
        (0, "B", "buy", 400.0, 1.2, 0.1, 0.0, 1.0, 0.05),
        (1, "A", "sell", 600.0, 1.8, 0.1, 0.6, 1.0, 0.04),
        (1, "A", "buy", 200.0, 0.6, 0.1, 0.0, 0.4, 0.015),
    )


def test_performance_by_hand():
    report = pd.DataFrame({"return": [0.10, -0.05], "cost": [0.01, 0.0], "bench": [0.02, 0.01]}, DAYS[:2])
    table = performance(report)
    # gross 1.10 * 0.95 = 1.045; net 1.09 * 0.95 = 1.0355; over the benchmark, summed: 0.08 - 0.06, 0.07 - 0.06
    expected = {"gross": 0.045, "net": 0.0355, "benchmark": 1.02 * 1.01 - 1, "excess_gross": 0.02}
    for name, value in (expected | {"excess_net": 0.01}).items():
        assert table.loc[name, "mean_return"] == pytest.approx(value)
    assert table.loc["net", "annual_return"] == pytest.approx(1.0355**121 - 1)
    assert table.loc["excess_net", "annual_return"] == pytest.approx(0.01 * 121)
    assert set(table.attrs["definitions"]) == {*EXECUTION_DEFINITIONS["performance"], *table.columns}
    assert table.loc["net", "max_drawdown"] == pytest.approx(-0.05)
    assert set(table.index) == set(EXECUTION_DEFINITIONS["performance"])
    for bench in (np.nan, None, 0.0):
        assert list(performance(report.assign(bench=bench)).index) == ["gross", "net"]
    long = pd.DataFrame({"return": 0.01, "cost": 0.0, "bench": 0.01}, pd.bdate_range("2022-01-04", periods=40))
    long.iloc[[3, 9], 2] = np.nan
    with pytest.warns(UserWarning, match="^the benchmark has no return on 2 of 40 days, the first 2022-01-07"):
        assert performance(long).loc["excess_gross", "mean_return"] == pytest.approx(0.02)
    long.iloc[12, 2] = np.nan
    with pytest.raises(ValueError, match="on 3 of 40 days.*more than 5%"):
        performance(long)
    with pytest.raises(ValueError, match=r"report lacks \['cost'\]"):
        performance(report[["return"]])


def test_turnover_by_hand(two_days):
    table = turnover(two_days, pd.Series([10_000.0, 9_000.0, 8_000.0], DAYS))
    assert table["buy"].tolist() == [1400, 200, 0] and table["sell"].tolist() == [0, 600, 0]
    assert table["two_way"].tolist() == pytest.approx([0.14, 800 / 9000, 0])
    assert table["one_way"].tolist() == pytest.approx([0, 200 / 9000, 0])
    assert set(table.columns) == set(EXECUTION_DEFINITIONS["turnover"])
    none = turnover(two_days.iloc[:0], pd.Series(1.0, DAYS), settled=pd.DataFrame(columns=list(SETTLED)))
    assert (none == 0).all().all() and len(none) == 3
    settled = pd.DataFrame({"day": DAYS[[1, 1, 2]], "yuan": [100.0, 50.0, 0.0]})  # the last one was written off
    more = turnover(two_days, pd.Series([10_000.0, 9_000.0, 8_000.0], DAYS), settled)
    assert more["sell"].tolist() == [0, 750, 0] and more["two_way"].tolist() == pytest.approx([0.14, 950 / 9000, 0])
    with pytest.raises(ValueError, match="settled has 1 days, 2023-07-05"):
        turnover(two_days, pd.Series(1.0, DAYS[:2]), settled)
    with pytest.raises(ValueError, match="fills has 1 days, 2023-07-04"):
        turnover(two_days, pd.Series(1.0, DAYS[:1]))


def test_cost_split_by_hand(two_days):
    settled = pd.DataFrame({"yuan": [200.0], "cost": [2.0], "lost": [3.0]})
    table = cost_split(two_days, pd.Series([9_000.0, 11_000.0], DAYS[:2]), settled)
    # commission 6.6, transfer 0.4, stamp duty 0.6, impact 4.4, delisting 5; 2,200 yuan dealt, 200 settled; mean value
    # 10,000, 2 days
    assert table["yuan"].to_dict() == pytest.approx(
        {"commission": 6.6, "transfer": 0.4, "stamp_duty": 0.6, "impact": 4.4, "delisting": 5.0, "total": 17.0}
    )
    assert table.loc["commission", "bp_of_traded"] == pytest.approx(6.6 / 2400 * 1e4)
    assert table.loc["total", "share_a_year"] == pytest.approx(17 / 10_000 / 2 * 242)
    nothing = cost_split(two_days.iloc[:0], pd.Series([1.0], DAYS[:1]))
    assert nothing["yuan"].sum() == 0 and nothing["bp_of_traded"].isna().all()
    with pytest.raises(ValueError, match="value has no day"):
        cost_split(two_days, pd.Series(dtype=float))


def test_participation_histogram_by_hand(two_days):
    table = participation_histogram(two_days, edges=(0, 0.02, 0.05))
    # A 0.02 (in (0, 0.02]), B 0.05 (in (0.02, 0.05]), A on day 1: 0.04 + 0.015 = 0.055
    assert table["trades"].tolist() == [1, 1, 1] and table["yuan"].tolist() == [1000, 400, 800]
    assert table["share"].tolist() == pytest.approx([10 / 22, 4 / 22, 8 / 22]) and np.isinf(table["high"].iloc[-1])
    two_days.loc[1, "used"] = 0.05 * (1 + 1e-6)  # the exchange's slack: still at the cap
    assert participation_histogram(two_days, edges=(0, 0.02, 0.05))["trades"].tolist() == [1, 1, 1]
    two_days.loc[1, "used"] = np.nan
    table = participation_histogram(two_days, edges=(0, 0.02, 0.05))
    assert table["trades"].tolist() == [1, 0, 1, 1] and np.isnan(table["low"].iloc[-1])
    assert participation_histogram(two_days.iloc[:0])["trades"].sum() == 0
    with pytest.raises(ValueError, match="must begin at 0 and increase"):
        participation_histogram(two_days, edges=(0, 0.1, 0.1))


def test_days_to_liquidate_by_hand():
    held = pd.DataFrame({"A": [100.0, 100.0, np.nan], "B": [300.0, np.nan, np.nan]}, DAYS)
    traded = pd.DataFrame({"A": [1000.0, np.nan, 1.0], "B": [2000.0, 1.0, 1.0]}, DAYS)
    table = days_to_liquidate(held, traded, 0.05, horizons=(1, 2, 3))
    # day 0: A 100 / 50 = 2 days, B 300 / 100 = 3 days: mean (100 * 2 + 300 * 3) / 400 = 2.75
    first = table.iloc[0]
    assert first.to_dict() == pytest.approx(
        {"mean_days": 2.75, "max_days": 3.0, "gone_1": 150 / 400, "gone_2": 300 / 400, "gone_3": 1.0, "unknown": 0.0}
    )
    assert table["unknown"].tolist()[1] == 1.0 and np.isnan(table.iloc[1]["mean_days"])
    assert table.iloc[1]["max_days"] == np.inf  # A is never sold
    both = days_to_liquidate(held.iloc[:1], traded.iloc[:1].assign(B=np.nan), 0.002)
    assert both["max_days"].tolist() == [np.inf] and both["mean_days"].tolist() == [50.0]
    assert both.attrs["definitions"]["mean_days"].startswith("days to sell all at 0.2% of each stock's mean daily")
    assert table.iloc[1]["gone_3"] == 0 and table.iloc[2].isna().all()
    with pytest.raises(ValueError, match="participation is 0"):
        days_to_liquidate(held, traded, 0)


def test_book_by_hand():
    held = pd.DataFrame({"A": [100.0, 100.0, np.nan], "B": [300.0, 0.0, np.nan]}, DAYS)
    table = book(held, pd.Series([1000.0, 500.0, 500.0], DAYS))
    assert table.to_dict("list") == {"names": [2, 1, 0], "empty": [0.0, 0.0, 1.0], "largest": [0.3, 0.2, 0.0]}
    assert book(held).equals(table[["names", "empty"]])


def test_target_reached_by_hand():
    log = pd.DataFrame(
        {
            "date": DAYS,
            "target": [100.0, 200.0, np.nan],  # no signal on the last day
            "value": [100.0, 400.0, 1.0],
            "held": [0.0, 100.0, 1.0],
            "cash": [100.0, 300.0, 0.0],
            "unreached": [50.0, 20.0, 0.0],
            "unreached_names": [3, 1, 0],
            "share_reached": [0.8, 0.6, np.nan],
            "names": [5, 4, 0],
        }
    )
    table = target_reached(log)
    assert table["mean"].to_dict() == pytest.approx(
        {"share_reached": 0.7, "unreached": 0.3, "unreached_names": 2, "cash": 0.875, "held": 0.125, "names": 4.5}
    )
    assert table["worst"].to_dict() == pytest.approx(
        {"share_reached": 0.6, "unreached": 0.5, "unreached_names": 3, "cash": 1.0, "held": 0.0, "names": 4}
    )
    with pytest.raises(ValueError, match="daily_log lacks"):
        target_reached(log.drop(columns="cash"))


def test_blocked_by_reason_by_hand():
    rows = [
        ("buy", "limit_up", 100.0, 0.0),
        ("buy", "volume_cap", 300.0, 100.0),
        ("buy", "volume_cap", 50.0, 40.0),
        ("sell", "volume_cap", 10.0, 0.0),
        ("buy", "unknown_stock", np.nan, np.nan),
    ]
    table = blocked_by_reason(pd.DataFrame(rows, columns=["side", "reason", "wanted", "dealt"]))
    assert table.index[0] == ("volume_cap", "buy")
    assert table.loc[("volume_cap", "buy")].tolist() == pytest.approx([2, 350, 210, 210 / 320])
    assert table.loc[("limit_up", "buy"), "cut"] == 100 and table.loc[("unknown_stock", "buy"), "cuts"] == 1
    assert blocked_by_reason(pd.DataFrame(columns=["side", "reason", "wanted", "dealt"])).empty


def test_a_table_that_lacks_a_column_is_named(two_days):
    value, lacks = pd.Series(1.0, DAYS), pd.DataFrame({"other": [1.0]})
    wrong = {
        "report lacks .'return', 'cost'.; it has .'other'.": lambda: performance(lacks),
        "fills lacks .'day', 'side', 'yuan'.": lambda: turnover(lacks, value),
        "settled lacks .'day', 'yuan'.": lambda: turnover(two_days, value, lacks),
        "fills lacks .'yuan', 'commission', 'transfer', 'stamp_duty', 'impact'.": lambda: cost_split(lacks, value),
        "fills lacks .'day', 'code', 'yuan', 'used'.": lambda: participation_histogram(lacks),
        "daily_log lacks .'share_reached', .*'target', 'value'.": lambda: target_reached(lacks),
        "blocked lacks .'side', 'reason', 'wanted', 'dealt'.": lambda: blocked_by_reason(lacks),
        "fills lacks .'day', 'impact'.": lambda: cost_stages(lacks, lacks, None),
    }
    for words, call in wrong.items():
        with pytest.raises(ValueError, match=words):
            call()


# --- the waterfall's arithmetic


def test_paper_and_buyable_by_hand():
    score = np.array([[2.0, 1.0], [2.0, 1.0]])
    liquidity = np.array([[1200.0, 2000.0], [2000.0, 2000.0]])  # caps at 5%: 60 and 100, then 100 and 100
    step = np.array([[0.5, -0.1], [0.1, np.nan]])
    buyable = np.array([[True, False], [True, True]])
    caps = {"participation": 0.05, "top_n": None}
    # capital 100: 60 of the first and 40 of the second: 30 - 4 = 26; then 100 of the first: 10
    found = paper_returns(score, liquidity, step, buyable, capital=100.0, **caps)
    np.testing.assert_allclose(found["paper"], [0.26, 0.10])
    np.testing.assert_allclose(found["buyable"], [0.30, 0.10])
    # suspended on the second day, the first stock stays at 90, which gain 9; 10 are left and nothing else is wanted
    sellable = np.array([[True, True], [False, True]])
    buyable[1, 0] = False
    stuck = paper_returns(score, liquidity, step, buyable, sellable, capital=100.0, **caps)
    np.testing.assert_allclose(stuck["buyable"], [0.30, 0.09])


def test_the_costs_are_taken_off_the_capital_in_use_by_hand():
    # an account of 200 of which the strategy places at most 100: the first day gains 20 and pays 2 of fees, 4 of
    # impact; the second begins with 214, loses 150 and pays nothing; 64 are all in use on the third, which earns 3.2
    report = pd.DataFrame(
        {"account": [214.0, 64.0, 67.2], "return": [0.10, -150 / 214, 0.05], "cost": [0.03, 0.0, 0.0]}, DAYS[:3]
    )
    fills = pd.DataFrame({"day": DAYS[[0, 0, 2]], "impact": [3.0, 1.0, 0.0]})
    found = cost_stages(report, fills, 100.0)
    np.testing.assert_allclose(found["before"], [0.20, -1.5, 0.05])
    np.testing.assert_allclose(found["costs"], [0.18, -1.5, 0.05])
    np.testing.assert_allclose(found["impact"], [0.14, -1.5, 0.05])
    np.testing.assert_allclose(cost_stages(report, fills, None)["impact"], [0.07, -150 / 214, 0.05])
    np.testing.assert_allclose(cost_stages(report, fills[:0], 100.0)["costs"], found["impact"])


def test_waterfall_by_hand():
    one, two = pd.Series([0.01, 0.01], DAYS[:2]), pd.Series([0.0, 0.01], DAYS[:2])
    table = waterfall({"paper": one, "limits": two, "deck": one}, skipped=["buffer"])
    assert list(table.index) == ["paper", "limits", "buffer", "deck"] and set(table["days"]) == {2}
    assert table.loc["paper", "annual_return"] == pytest.approx(0.01 * 242)
    assert table.loc["limits", "change"] == pytest.approx(-0.005 * 242)
    assert table.loc["limits", "mean_return"] == pytest.approx(0.01)
    assert table.loc["buffer", "change"] == 0 and table.loc[["paper", "deck"], "change"].isna().all()  # it adds nothing
    words = table.attrs["definitions"]
    assert set(words) >= {*table.index, *table.columns} and "changes nothing" in words["buffer"]
    assert waterfall({"paper": one}, year=252.0).loc["paper", "annual_return"] == pytest.approx(0.01 * 252)
    with pytest.raises(ValueError, match="stage 'limits' has other days"):
        waterfall({"paper": one, "limits": two[:1]})
    with pytest.raises(ValueError, match="stages are"):
        waterfall({"papper": one})
