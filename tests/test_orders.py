"""The order list of a recorded run: by hand, against the backtest's strategy, and through the command."""

import copy
import math
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import qlib
from mlflow.tracking import MlflowClient
from qlib.backtest import backtest
from qlib.data import D

from qlib_ext import cli, rules
from qlib_ext.exchange import AShareExchange, impact_rule
from qlib_ext.leak import perturb_provider
from qlib_ext.provider import sessions_after
from qlib_ext.recorder import SqliteExpManager
from qlib_ext.rules import Fees
from qlib_ext.runs import Task, find_run
from qlib_ext.strategy import (
    ORDER_COLUMNS,
    LastClose,
    LiquidityTopNStrategy,
    ScoredRun,
    days_held,
    last_prices,
    make_orders,
    next_day,
    plan_orders,
    read_holdings,
    read_market,
    read_run,
)
from qlib_ext.synthetic import make_market

inside = import_module("qlib_ext.strategy.order_list")
check_age = import_module("qlib_ext.strategy.freshness").check_age
DAY, DATE = pd.Timestamp("2022-03-01"), pd.Timestamp("2022-03-02")
ONE = pd.Series([1.0], pd.MultiIndex.from_tuples([(pd.Timestamp("2020-01-02"), "SH600000")]))
MAIN, CHINEXT, STAR, GONE = "SH600000", "SZ300001", "SH688001", "SH600009"


def strategy(**options):
    return LiquidityTopNStrategy(signal=ONE, **options)


def market(**changes):
    """Four stocks; `changes`: column -> {code: value}."""
    table = pd.DataFrame(
        {
            "price": [10.0, 7.0, 33.0, 20.0],
            "suspended": False,
            "liquidity": [2e6, 1e6, 4e6, 1e6],
            "known_liquidity": [2e6, 1e6, 4e6, 1e6],
            "limit_up": [11.0, 8.4, math.inf, 22.0],
            "limit_down": [9.0, 5.6, 0.0, 18.0],
            "least": [100.0, 100.0, 200.0, 100.0],
            "step": [100.0, 100.0, 1.0, 100.0],
        },
        index=pd.Index([MAIN, CHINEXT, STAR, GONE], name="code"),
    )
    for column, values in changes.items():
        for code, value in values.items():
            table.loc[code, column] = value
    return table


def holdings(**shares):
    return pd.DataFrame({"shares": list(shares.values())}, pd.Index(list(shares), name="code"), dtype=float)


def listed(score=None, table=None, held=None, *, capital=200_000.0, fees=None, **options):
    known = ("cash", "young", "impact")
    given = {name: options.pop(name) for name in known if name in options}
    plan = {"trade_participation": 0.04} | options
    return make_orders(
        pd.Series({MAIN: 3.0, CHINEXT: 2.0, STAR: 1.0}) if score is None else pd.Series(score),
        market() if table is None else table,
        holdings() if held is None else held,
        strategy=strategy(**plan),
        capital=capital,
        day=DAY,
        date=DATE,
        fees=fees or Fees([DATE], open_cost=0.0, close_cost=0.0, minimum=0.0),
        **given,
    )


# --- goldens by hand


def test_three_stocks_by_hand():
    # Position caps 5%: 100,000, 50,000, 200,000 yuan: of 200,000 MAIN takes 100,000, CHINEXT 50,000, STAR the rest.
    # Trade caps 4%: 80,000, 40,000, 160,000; GONE 40,000.
    # GONE has no score: all 150 shares go, the odd lot too, 3,000 yuan.
    # CHINEXT: 10,000 * 7 = 70,000, 20,000 too much: 2,857 shares, in lots 2,800 = 19,600 yuan.
    # MAIN: 100,000, today at most 80,000: 8,000 shares. STAR: 50,000 / 33 = 1,515.15: 1,515 shares = 49,995 yuan.
    # Cash 200,000 - 73,000 = 127,000, and 22,600 from the sells: enough for 129,995.
    table = listed(held=holdings(SZ300001=10_000, SH600009=150))
    assert list(table.columns) == list(ORDER_COLUMNS)
    assert table["code"].tolist() == [GONE, CHINEXT, MAIN, STAR]
    assert table["side"].tolist() == ["sell", "sell", "buy", "buy"]
    assert table["shares"].tolist() == [150, 2_800, 8_000, 1_515]
    assert table["yuan"].tolist() == [3_000.0, 19_600.0, 80_000.0, 49_995.0]
    assert table["target_yuan"].tolist() == [0.0, 50_000.0, 100_000.0, 50_000.0]
    assert table["held_shares"].tolist() == [150, 10_000, 0, 0]
    assert table["cap_yuan"].tolist() == [40_000.0, 40_000.0, 80_000.0, 160_000.0]
    assert table["cap_used"].tolist() == pytest.approx([3 / 40, 19.6 / 40, 1.0, 49_995 / 160_000])
    assert table["rank"].fillna(-1).tolist() == [-1, 2, 1, 3]
    assert table["score"].fillna(-1).tolist() == [-1, 2, 1 + 2, 1]
    assert table["limit_up"].fillna(-1).tolist() == [22.0, 8.4, 11.0, -1]
    assert table["limit_down"].fillna(-1).tolist() == [18.0, 5.6, 9.0, -1]
    assert set(table["date"]) == {DATE} and set(table["signal_date"]) == {DAY}
    assert table["reason"].tolist() == [
        "leave: no score on 2022-03-01",
        "reduce to target at rank 2",
        "enter at rank 1; capped by participation, the rest on later days",
        "enter at rank 3",
    ]


def test_an_order_above_the_exchanges_largest_is_split():
    """MAIN 8,000 shares at most 3,000 each; STAR 1,515 at most 700: the last 115 are too few, 85 go over."""
    table = market().assign(largest=[3_000.0, 3_000.0, 700.0, 3_000.0])
    whole, parts = listed(), listed(table=table)
    assert parts[parts["code"] == MAIN]["shares"].tolist() == [3_000, 3_000, 2_000]
    assert parts[parts["code"] == STAR]["shares"].tolist() == [700, 615, 200]
    assert parts.groupby("code")[["shares", "yuan", "cap_used"]].sum().stack().to_dict() == pytest.approx(
        whole.set_index("code")[["shares", "yuan", "cap_used"]].stack().to_dict()
    )
    assert parts["reason"][1].endswith("; part 2 of 3: one order is at most 3,000 shares")


def test_cash_and_fees_bound_the_buys():
    # 10,000 yuan of cash, commission 0.1% but at least 20, transfer 0.002%. 9 lots of MAIN are 9,000 + 20 + 0.18;
    # 10 lots 10,020.20 are too much. 979.82 left: CHINEXT one lot 700 + 20 + 0.014; STAR's 200 shares cost 6,600.
    dear = Fees([DATE], commission=0.001, minimum=20.0)
    table = listed(fees=dear, cash=10_000.0)
    assert dict(zip(table["code"], table["shares"], strict=True)) == {MAIN: 900, CHINEXT: 100, STAR: 0}
    assert table["reason"].tolist() == [
        "enter at rank 1; cash is short",
        "enter at rank 2; cash is short",
        "enter at rank 3; not traded: cash is short",
    ]
    # Sold: 1,000 yuan pay 20, a transfer fee of 0.02 and a stamp duty of 1.
    assert dear.parts(0, 1_000.0, sell=True) == pytest.approx((20.0, 0.02, 1.0))


def test_own_rates_and_impact_size_the_buys():
    # 40,100 yuan of cash, all for MAIN, whose cap is 80,000. A buy pays 0.2%, at least 5 yuan, and an impact of
    # 2 * 0.02 * sqrt(x / 2 million) * x: of 39,000 yuan 78 + 217.84, of 40,000 80 + 226.27 = 40,306.27.
    own, impact = Fees([DATE], minimum=5.0, open_cost=0.002, close_cost=0.003), impact_rule(2.0, 0.5)
    assert own.parts(0, 39_000.0, sell=False) == (78.0, 0.0, 0.0) and own.parts(0, 1_000.0, sell=True)[0] == 5.0
    table = market().assign(volatility=0.02)
    assert LastClose(table, DATE, own, impact).cost(MAIN, 39_000.0, sell=False) == pytest.approx(
        78.0 + 2 * 0.02 * math.sqrt(39_000 / 2e6) * 39_000
    )
    (row,) = listed({MAIN: 1.0}, table, fees=own, impact=impact, cash=40_100.0).to_dict("records")
    assert row["shares"] == 3_900 and row["yuan"] == 39_000.0
    (free,) = listed({MAIN: 1.0}, table, cash=40_100.0).to_dict("records")
    assert free["shares"] == 4_000
    (new,) = listed({MAIN: 1.0}, table.assign(volatility=np.nan), fees=own, impact=impact).to_dict("records")
    assert new["side"] == "none" and new["reason"].endswith("volatility, which the impact goes by, not known yet")


def test_a_holding_of_no_shares_needs_no_price():
    held = holdings(SH601999=0, SH000300=0, SH600009=100)
    assert listed(held=held)["code"].tolist() == listed(held=holdings(SH600009=100))["code"].tolist()
    with pytest.raises(ValueError, match="no price of SH601999"):
        listed(held=holdings(SH601999=1))


def test_nothing_is_lost_without_a_word():
    table = market(
        suspended={CHINEXT: True, GONE: True},
        liquidity={STAR: np.nan, GONE: np.nan},
        known_liquidity={STAR: np.nan},
        price={MAIN: 1_500.0},
    )
    # One lot of MAIN is 150,000 yuan, over its cap. STAR, first by score, has no liquidity and gets no target.
    # CHINEXT is suspended. GONE is held, ranked 4, suspended.
    score = {STAR: 9.0, MAIN: 3.0, CHINEXT: 2.0, GONE: 1.0}
    rows = listed(score, table, holdings(SH600009=100), capital=150_000.0, cash=1e6)
    assert (rows["side"] == "none").all() and (rows["shares"] == 0).all() and (rows["yuan"] == 0).all()
    said = dict(zip(rows["code"], rows["reason"], strict=True))
    assert said == {
        STAR: "passed over at rank 1: no liquidity known that day",
        MAIN: "enter at rank 2; not traded: below the smallest order (100 shares)",
        CHINEXT: "enter at rank 3; not traded: suspended on 2022-03-01",
        GONE: "leave at rank 4: no liquidity known that day; not traded: suspended on 2022-03-01",
    }


def test_words_of_the_holdings():
    # The only target is MAIN, 50,000 yuan = 5,000 shares.
    def said(capital=50_000.0, table=None, **held):
        options = {"young": [CHINEXT], "cash": 1e6}
        rows = listed(table=table, held=holdings(**held), capital=capital, **options)
        return dict(zip(rows["code"], rows["reason"], strict=True))

    assert said(SH600000=5_000)[MAIN] == "increase to target at rank 1; nothing to do: the difference is below a lot"
    assert said(SH600000=3_000)[MAIN] == "increase to target at rank 1"
    assert said(SH688001=300)[STAR] == "leave: fell to rank 3"
    assert said(SZ300001=300)[CHINEXT] == "leave: fell to rank 2; not sold: bought less than min_holding days ago"
    unknown = market(known_liquidity={GONE: np.nan})
    assert said(table=unknown, SH600009=10)[GONE] == "leave: no score on 2022-03-01; not traded: liquidity never known"
    # GONE, 2,500 * 20 = 50,000, may be sold by 40,000 only: 10,000 of the capital stay taken.
    left = said(SH600009=2_500)
    assert left[MAIN] == "enter at rank 1; holdings leave no more room in the capital"
    assert left[GONE] == "leave: no score on 2022-03-01; capped by participation, the rest on later days"


def test_trading_days_since_the_first_buy():
    calendar = pd.DatetimeIndex(["2022-02-25", "2022-02-28", "2022-03-01", "2022-03-02"])
    bought = pd.Series({"A": "2022-03-01", "B": "2022-02-26", "C": None, "D": "2022-03-02"})
    # To 2022-03-02: A one day (today is the next one); B was bought on a Saturday, counted from Friday: three; D today.
    assert days_held(bought, DATE, calendar).tolist() == [1, 3, math.inf, 0]
    with pytest.raises(ValueError, match="bought of A is 'soon', no day"):
        days_held(pd.Series({"A": "soon"}), DATE, calendar)
    with pytest.raises(ValueError, match="A was bought on 2022-03-03, after 2022-03-02"):
        days_held(pd.Series({"A": "2022-03-03"}), DATE, calendar)


# --- what cannot be


@pytest.mark.parametrize(
    ("held", "options", "match"),
    [
        ({"SH600000": -100}, {}, "row 0: shares of 'SH600000' is -100.0; allowed are whole numbers from 0 on"),
        ({"SH600000": 0.5}, {}, "whole numbers"),
        ({"SH000300": 100}, {}, "code is 'SH000300', an index; only A shares"),
        ({"SH601999": 100}, {}, "no price of SH601999: not in the provider"),
        ({"SH600000": 100, "600000.SH": 100}, {}, "row 1: SH600000 stands twice"),
        ({"SH600000": 100_000}, {}, "worth 1,000,000 yuan, more than the capital of 200,000"),
        ({}, {"capital": 0.0}, "capital is 0.0"),
        ({}, {"cash": -1.0}, "cash is -1.0"),
        ({}, {"score": {MAIN: np.nan}}, "no stock has a score on 2022-03-01"),
        ({}, {"score": {MAIN: np.inf}}, "scores of 2022-03-01"),
        ({}, {"score": {"SH600123": 1.0}}, "market lacks SH600123"),
    ],
)
def test_errors_say_what_came(held, options, match):
    with pytest.raises(ValueError, match=match):
        listed(held=holdings(**held), **options)


def test_holdings_files(tmp_path):
    file = tmp_path / "held.csv"
    file.write_text("code,shares,note\n sh600000 ,300,x\nSZ300001,0,\n510300,0,\n")
    assert read_holdings(file)["shares"].to_dict() == {MAIN: 300}
    assert listed(held=read_holdings(file))["held_shares"].tolist() == [300, 0, 0]
    assert read_holdings(None).empty
    file.write_text("code,shares\n")
    assert read_holdings(file).empty and listed(held=read_holdings(file)).equals(listed())
    file.write_text(
        '证券代码,证券名称,股份余额,可用股份,买入日期\n="600000",浦发银行,"10,000",0,2022/2/28\n', encoding="gbk"
    )
    held = read_holdings(file)
    assert held.loc[MAIN].tolist() == [10_000.0, pd.Timestamp("2022-02-28")]
    assert read_holdings(held).equals(held) and read_holdings(held.reset_index()).equals(held)


def test_the_order_of_a_file_of_holdings_is_that_of_a_frame_in_any_spelling(tmp_path):
    (tmp_path / "held.csv").write_text("code;shares\n300001.SZ;10,000\nsh.600009;150\n")
    frame = pd.DataFrame({"shares": [10_000, 150]}, index=["300001", "600009.SH"])
    expected = listed(held=holdings(SZ300001=10_000, SH600009=150))
    assert listed(held=read_holdings(tmp_path / "held.csv")).equals(expected)
    assert listed(held=frame).equals(expected)


def test_the_options_of_a_recorded_strategy():
    kwargs = {"signal": "<PRED>", "capital": 1.0, "liquidity_window": 5}
    portfolio = {"config": {"strategy": {"class": "LiquidityTopNStrategy", "kwargs": kwargs}}}
    task = {
        "dataset": {"kwargs": {"liquidity": "auto", "liquidity_window": 10}},
        "record": [{"class": "SignalRecord"}, {"class": "PortAnaRecord", "kwargs": portfolio}],
    }
    assert Task(task).strategy == {"capital": 1.0, "liquidity": "auto", "liquidity_window": 5}
    assert Task({"record": {"class": "SignalRecord"}}).strategy is None
    other = {"config": {"strategy": {"class": "TopkDropoutStrategy", "kwargs": {"topk": 5}}}}
    assert Task({"record": [{"class": "PortAnaRecord", "kwargs": other}]}).strategy is None
    inner = {"inner_strategy": portfolio["config"]["strategy"], "inner_executor": {"class": "SimulatorExecutor"}}
    middle = {
        "inner_strategy": {"class": "TWAPStrategy"},
        "inner_executor": {"class": "NestedExecutor", "kwargs": inner},
    }
    other["config"]["executor"] = {"class": "NestedExecutor", "kwargs": middle}
    nested = {"record": [{"class": "PortAnaRecord", "kwargs": other}]}
    assert Task(nested).strategy == {"capital": 1.0, "liquidity_window": 5} and Task(nested).exchange is None
    own = {"class": "AShareExchange", "kwargs": {"participation": 0.01}}
    other["config"]["backtest"] = {"exchange_kwargs": {"exchange": own}}
    assert Task(nested).exchange == {"participation": 0.01}


# --- on the embedded market


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("orders")
    make_market(path / "market", n_stocks=40, years=0.6)
    start(path / "market")
    return path


def start(provider):
    qlib.init(provider_uri=str(provider), region="cn", kernels=1)


def test_the_day_after_the_calendar_is_that_of_its_future(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)  # it is not installed
    market = Path(shutil.copytree(folder / "market", tmp_path / "market"))
    file = market / "calendars" / "day.txt"
    last = pd.Timestamp(file.read_text().split()[-1])
    start(market)
    assert next_day(last) == (last + pd.offsets.BDay(1), False)
    sessions = SimpleNamespace(sessions=pd.DatetimeIndex([last, last + pd.offsets.BDay(4)]))
    xshg = SimpleNamespace(get_calendar={"XSHG": sessions}.__getitem__)
    monkeypatch.setitem(sys.modules, "exchange_calendars", xshg)
    assert next_day(last) == (last + pd.offsets.BDay(4), True)
    after_a_holiday = last + pd.offsets.BDay(6)
    (file.parent / "day_future.txt").write_text(f"{file.read_text()}{after_a_holiday.date()}\n")
    start(market)
    assert next_day(last) == (after_a_holiday, True)
    assert next_day(last - pd.offsets.BDay(1)) == (last, True)


def test_the_exchanges_own_holidays():
    pytest.importorskip("exchange_calendars")
    days = sessions_after(pd.Timestamp("2026-09-30"))  # then the week of National Day
    assert days[0] == pd.Timestamp("2026-10-08") and days.day_of_week.max() == 4  # Friday


def random_scores(days, seed=0):
    codes = [c for c in D.list_instruments(D.instruments("all"), as_list=True) if not c.startswith(("SH000", "SZ399"))]
    index = pd.MultiIndex.from_product([days, sorted(codes)], names=["datetime", "instrument"])
    return pd.Series(np.random.default_rng(seed).normal(size=len(index)), index, name="score")


OPTIONS = {"participation": 0.01, "trade_participation": 0.006, "rank_buffer": 2.0, "liquidity": "community"}
TASK = {
    "dataset": {"class": "DayDatasetH", "kwargs": {"liquidity": "community", "liquidity_window": 20}},
    "record": [
        {
            "class": "PortAnaRecord",
            "kwargs": {
                "config": {"strategy": {"class": "LiquidityTopNStrategy", "kwargs": OPTIONS | {"signal": "<PRED>"}}}
            },
        }
    ],
}


def trade(scores, days, exchange, last, account=2e7, **more):
    """(strategy, positions by day) of a backtest from the second scored day to `last`, on an exchange."""
    chosen = LiquidityTopNStrategy(signal=scores, capital=2e7, **OPTIONS | more)
    kwargs = {"time_per_step": "day", "generate_portfolio_metrics": True}
    simulator = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": kwargs}
    report, _ = backtest(
        days[61], days[last], chosen, simulator, benchmark=None, account=account, exchange_kwargs={"exchange": exchange}
    )
    return chosen, report["1day"][1]


def held_shares(position, day):
    """Raw shares of a position by code."""
    amounts = position.get_stock_amount_dict()
    factor = D.features(list(amounts), ["$factor"], day, day).iloc[:, 0].droplevel("datetime")
    return {code: round(amount * factor[code]) for code, amount in amounts.items()}


EXCHANGES = [
    {"participation": None, "impact": 0.0},
    {},  # all by default: the rules' fees, impact, a cap above the strategy's
    {"open_cost": 0.002, "close_cost": 0.003, "min_cost": 20.0, "impact": 2.0, "volatility_window": 10},
]


@pytest.mark.parametrize("options", EXCHANGES)
def test_the_backtest_of_the_same_run_has_the_same_orders(folder, tmp_path, options):
    """On a day whose bars are those of the day before, the plan knows all that the backtest does: prices, cash, fees.

    So targets, caps, sides and shares are the same; only a price in whole cents may move a lot.
    """
    path = Path(shutil.copytree(folder / "market", tmp_path / "market"))
    for file in (path / "features").glob("*/*.day.bin"):
        values = np.fromfile(file, "<f4")
        row = 71 - int(values[0]) + 1
        if 2 <= row < len(values):
            values[row] = values[row - 1]
            values.tofile(file)
    start(path)
    days = pd.DatetimeIndex(D.calendar())
    scores = random_scores(days[60:75])
    exchange = AShareExchange(start_time=days[61], end_time=days[72], **options)
    chosen, positions = trade(scores, days, exchange, last=71, account=5e6)
    day, date = days[70], days[71]
    shares = held_shares(positions[day], day)
    assert len(shares) > 5
    run, cash = ScoredRun("r", scores, with_exchange(**options), {}), positions[day].get_cash()
    plan = plan_orders(run, holdings(**shares), capital=2e7, cash=cash, day=str(day.date()))
    start(folder / "market")
    assert set(plan["date"]) == {date}
    table = chosen.daily_targets
    there = table[table["date"] == date].set_index("code")
    mine = plan.set_index("code").reindex(there.index)
    assert (there["ordered"] > 0).sum() > 1 and (there["ordered"] < 0).sum() > 2
    assert (there["reason"] == "cash_clipped").sum() > 0  # the costs decide on the last buy
    np.testing.assert_allclose(mine["target_yuan"], there["target"], atol=0.01)
    np.testing.assert_allclose(mine["cap_yuan"], there["cap"], rtol=1e-6)
    np.testing.assert_array_equal(mine["rank"], there["rank"])
    assert mine["side"].map({"buy": 1, "sell": -1, "none": 0}).tolist() == np.sign(there["ordered"]).tolist()
    lots = (mine["yuan"] - there["ordered"].abs()).abs() / (100 * mine["price"])
    assert (lots < 1.1).all() and (lots > 0.9).sum() <= 2


@pytest.mark.parametrize("more", [{}, {"score_halflife": 1.0}])
def test_prices_of_the_next_day_are_all_that_the_plan_lacks(folder, more):
    """On the market as it is: targets, caps and ranks are the backtest's, and so is the side of every clear gap.

    A gap is clear where neither the next day's price nor a lot can turn it, and the stock trades that day.
    """
    start(folder / "market")
    days = pd.DatetimeIndex(D.calendar())
    scores = random_scores(days[60:75])
    exchange = AShareExchange(start_time=days[61], end_time=days[72], participation=None)
    chosen, positions = trade(scores, days, exchange, last=71, **more)
    day, date = days[70], days[71]
    shares, cash = held_shares(positions[day], day), positions[day].get_cash()
    run = ScoredRun("r", scores, with_exchange(participation=None), {})
    plan = plan_orders(run, holdings(**shares), capital=2e7, cash=cash, day=str(day.date()), **more).set_index("code")
    table = chosen.daily_targets
    there = table[table["date"] == date].set_index("code")
    mine = plan.reindex(there.index)
    assert len(there) > 8 and (there["target"] > 0).sum() > 3
    np.testing.assert_allclose(mine["target_yuan"], there["target"], atol=0.01)
    np.testing.assert_allclose(mine["cap_yuan"], there["cap"], rtol=1e-6)
    np.testing.assert_array_equal(mine["rank"], there["rank"])
    gap, before = there["target"] - there["held"], mine["target_yuan"] - mine["held_shares"] * mine["price"]
    stopped = there["reason"].isin(["blocked_buy", "blocked_sell", "cash_clipped", "capital_clipped"])
    lot = 300 * mine["price"]
    clear = (np.sign(gap) == np.sign(before)) & (np.minimum(gap.abs(), before.abs()) > lot) & ~stopped
    assert clear.sum() > 8
    sides = mine["side"].map({"buy": 1, "sell": -1, "none": 0})
    assert sides[clear].tolist() == np.sign(there["ordered"])[clear].tolist()


def with_exchange(**options):
    """TASK, dealt on an AShareExchange with these options."""
    task = copy.deepcopy(TASK)
    exchange = {"class": "AShareExchange", "module_path": "qlib_ext.exchange", "kwargs": options}
    task["record"][0]["kwargs"]["config"]["backtest"] = {"exchange_kwargs": {"exchange": exchange}}
    return task


def test_the_runs_exchange_has_its_cap_fees_and_special_treatment(folder):
    start(folder / "market")
    days = pd.DatetimeIndex(D.calendar())
    scores = random_scores(days[80:81])

    def made(task, **options):
        return plan_orders(ScoredRun("r", scores, task, {}), read_holdings(None), capital=2e7, **options).set_index(
            "code"
        )

    plain, narrow = made(TASK), made(with_exchange(participation=0.002, impact=0))
    both = plain.index.intersection(narrow.index)
    np.testing.assert_allclose(
        narrow.loc[both, "cap_yuan"], plain.loc[both, "cap_yuan"] / 3, atol=0.02
    )  # 0.006 to 0.002
    assert made(with_exchange(participation=None, impact=0)).equals(plain)
    assert made(with_exchange(impact=0)).equals(plain)  # 0.05 is above
    tight = {"cash": 5e6}  # of which fees and impact take their part
    poor = made(TASK, **tight)
    assert made(with_exchange(), **tight)["yuan"].sum() < 0.999 * poor["yuan"].sum()  # an exchange's own impact
    assert made(with_exchange(open_cost=0.2, impact=0), **tight)["yuan"].sum() < 0.9 * poor["yuan"].sum()
    assert made(with_exchange(open_cost=0.2, impact=0), commission=0.0003, **tight).equals(poor)
    gone = pd.DataFrame({"shares": [0.0, 0.0]}, pd.Index(["SH601999", "SH000300"], name="code"))
    none = plan_orders(ScoredRun("r", scores, TASK, {}), gone, capital=2e7, min_holding=3).set_index("code")
    assert none.equals(plain)
    dear = made(with_exchange(min_cost=3e7))
    assert (plain["side"] == "buy").sum() > 3 and (dear["side"] == "none").all()
    with pytest.raises(ValueError, match=r"commission is 0\.5"):
        made(with_exchange(commission=0.5))
    assert made(with_exchange(commission=0.5, impact=0), commission=0.0003).equals(plain)  # one's own goes first
    code = next(code for code in plain.index if code.startswith(("SH60", "SZ00")) and plain["limit_up"][code] > 0)
    spells = pd.DataFrame({"code": [code], "start": [str(days[0].date())], "end": [None]})
    limits = made(with_exchange(st=spells)).loc[code, ["limit_up", "limit_down"]].to_numpy(dtype=float)
    np.testing.assert_allclose(limits / plain.loc[code, "price"], [1.05, 0.95], atol=0.003)


def test_nothing_after_the_day_is_seen(folder):
    start(folder / "market")
    days = pd.DatetimeIndex(D.calendar())
    run = ScoredRun("r", random_scores(days[80:90]), TASK, {})
    held = holdings(**dict.fromkeys(run.scores.index.get_level_values("instrument").unique()[:6], 700))
    options = {"capital": 3e7, "cash": 1e7, "day": str(days[85].date())}
    before = plan_orders(run, held, **options)
    changed = folder / "changed"
    perturb_provider(folder / "market", changed, days[85])
    start(changed)
    pd.testing.assert_frame_equal(plan_orders(run, held, **options), before)
    earlier = options | {"day": str(days[84].date())}
    assert not plan_orders(run, held, **earlier).equals(before)
    later = plan_orders(run, held, **(options | {"day": str(days[88].date())}))
    start(folder / "market")
    assert not plan_orders(run, held, **(options | {"day": str(days[88].date())})).equals(later)


def test_the_market_at_the_close(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)  # it is not installed
    start(folder / "market")
    days = pd.DatetimeIndex(D.calendar())
    codes = list(random_scores(days[:1]).index.get_level_values("instrument"))
    day, date = days[100], days[101]
    table = read_market(codes, day, date, profile="community", window=20)
    fields = D.features(codes, ["$close/$factor", "Mean($amount, 20)*1000", "$volume"], day, day).droplevel("datetime")
    fields = fields.reindex(codes)
    traded = (fields.iloc[:, 2] > 0).to_numpy()
    assert traded.sum() > 30 and (table["suspended"].to_numpy() == ~traded).all()
    np.testing.assert_allclose(table["price"][traded], fields.iloc[:, 0][traded], atol=0.006)
    np.testing.assert_allclose(table["liquidity"][traded], fields.iloc[:, 1][traded], rtol=1e-4)
    main = table.index.str.startswith(("SH60", "SZ00")) & np.isfinite(table["limit_up"])
    np.testing.assert_allclose(table["limit_up"][main], table["price"][main] * 1.1, atol=0.0051)
    np.testing.assert_allclose(table["limit_down"][main], table["price"][main] * 0.9, atol=0.0051)
    assert (table["least"] == np.where(table.index.str.startswith("SH688"), 200, 100)).all()
    at_market = read_market(codes, day, date, profile="community", window=20, market_orders=True)
    for largest, market in ((table["largest"], False), (at_market["largest"], True)):
        assert largest.tolist() == rules.largest_order(codes, [date], market=market)[0].tolist()
    assert at_market["largest"].lt(table["largest"]).any()
    assert next_day(day) == (date, True)
    after, told = next_day(days[-1])
    assert not told and after > days[-1] and after.day_of_week < 5


def test_a_holding_kept_by_min_holding_needs_its_date(folder):
    start(folder / "market")
    days = pd.DatetimeIndex(D.calendar())
    run = ScoredRun("r", random_scores(days[80:81]), TASK, {})
    worst = run.scores.groupby("instrument").first().sort_values().index[:2]
    held = holdings(**dict.fromkeys(worst, 100))
    with pytest.raises(ValueError, match="min_holding.*column bought"):
        plan_orders(run, held, capital=1e6, cash=1e6, min_holding=5)
    held["bought"] = [str(days[79].date()), str(days[60].date())]
    said = plan_orders(run, held, capital=1e6, cash=1e6, min_holding=5).set_index("code")["reason"]
    assert "not sold" in said[worst[0]] and "not sold" not in said[worst[1]]


# --- the pieces of a list


def test_a_row_is_in_cents():
    # 0.05 and 0.04 of a third of a million: 499 shares, 299 of them today, so that 200 are left; 9,967.763 yuan
    table = market(liquidity={STAR: 1e6 / 3}, known_liquidity={STAR: 1e6 / 3}, price={STAR: 33.337})
    (row,) = listed({STAR: 0.5}, table, cash=1e6).to_dict("records")
    told = [row[name] for name in ("shares", "price", "yuan", "target_yuan", "cap_yuan", "score")]
    assert told == [299, 33.337, 9_967.76, 16_666.67, 13_333.33, 0.5]
    assert row["cap_used"] == pytest.approx(299 * 33.337 / (0.04e6 / 3), rel=1e-12)


@dataclass
class Noting:
    """A policy that wants what it is told, and notes the day that it sees."""

    wanted: tuple[float, ...]
    seen: list
    in_shares: bool
    capital: float | None = None

    def target(self, day):
        self.seen.append((day, self.capital))
        return np.array(self.wanted)


@pytest.mark.parametrize(
    ("universe", "there"), [({MAIN, STAR}, [True, False, False, False]), (None, [True, False, False, True])]
)
def test_what_a_policy_knows_of_the_close(universe, there):
    """STAR does not trade; GONE has no score, and no liquidity that day."""
    table = market(suspended={STAR: True}, liquidity={GONE: np.nan}).assign(volatility=[0.02, 0.03, np.nan, 0.04])
    asked, policy = [], Noting((500.0, 0.0, 0.0, 700.0), [], in_shares=True)
    chosen = SimpleNamespace(
        policy=policy, trade_participation=0.04, complete=lambda close, *told: asked.append(told) or close
    )
    fees, score = Fees([DATE], open_cost=0.001, close_cost=0.002, minimum=0.0), {STAR: 1.0, CHINEXT: 2.0, MAIN: 3.0}
    rows = make_orders(
        pd.Series(score), table, holdings(SH600009=100, SH600000=50), strategy=chosen, capital=9_000.0, day=DAY,
        date=DATE, fees=fees, cash=7_000.0, universe=universe,
    )  # fmt: skip
    ((codes, day),), ((seen, capital),) = asked, policy.seen
    assert (codes.tolist(), day, capital) == ([MAIN, GONE, STAR, CHINEXT], DAY, 9_000.0)
    for name, expected in {
        "score": [3.0, np.nan, 1.0, 2.0], "held": [500.0, 2_000.0, 0.0, 0.0], "liquidity": [2e6, np.nan, 4e6, 1e6],
        "known_liquidity": [2e6, 1e6, 4e6, 1e6], "volatility": [0.02, 0.04, np.nan, 0.03], "universe": there,
    }.items():  # fmt: skip
        np.testing.assert_array_equal(getattr(seen, name), expected, err_msg=name)
    assert (seen.value, seen.buy_rate, seen.sell_rate) == (9_500.0, *fees.rates(0))
    assert rows[["code", "side", "shares", "reason"]].to_numpy().tolist() == [
        [GONE, "sell", 100, "leave: no score on 2022-03-01"],
        [CHINEXT, "buy", 100, "enter at rank 2"],
        [MAIN, "none", 0, "hold at rank 1"],
    ]


def test_a_stock_without_a_cap_uses_none_of_it():
    # 0.04 of nothing, and of 10 yuan; STAR, passed over for half a yuan of MAIN, has no liquidity of that day
    table = market(known_liquidity={GONE: 0.0, CHINEXT: 10.0, STAR: np.nan}, liquidity={STAR: 0.0, MAIN: 10.0})
    held = holdings(SH600009=100, SZ300001=100)
    rows = listed({STAR: 9.0, MAIN: 1.0}, table, held, capital=50_000.0, cash=1e5).set_index("code")
    told = rows[["side", "target_yuan", "held_shares", "cap_yuan", "cap_used", "yuan"]].fillna(-1)
    assert told.loc[[STAR, GONE, CHINEXT]].to_numpy().tolist() == [
        ["none", 0.0, 0, -1.0, -1.0, 0.0],
        ["none", 0.0, 100, 0.0, -1.0, 0.0],
        ["none", 0.0, 100, 0.4, 0.0, 0.0],
    ]


def test_a_price_above_nothing_is_one():
    low = market(price={GONE: 0.5})
    assert GONE in listed(table=low, held=holdings(SH600009=100))["code"].tolist()
    with pytest.raises(ValueError, match="no price of SH600009"):
        listed(table=market(price={GONE: 0.0}), held=holdings(SH600009=100))


def test_many_rows_stand_in_the_order_of_their_ranks():
    codes = [f"SH6001{n:02d}" for n in range(60)]
    table = pd.DataFrame([market().loc[MAIN]] * 60, pd.Index(codes, name="code"))
    scores = dict(zip(codes, np.random.default_rng(0).permutation(60).astype(float), strict=True))
    rows = listed(scores, table, pd.DataFrame({"shares": 100.0}, codes[::3]), capital=1e6, trade_participation=0.001)
    sells, buys = (rows[rows["side"] == side] for side in ("sell", "buy"))
    assert len(sells) > 9 and sells["code"].is_monotonic_increasing and sells["reason"].str.startswith("leave").all()
    assert len(buys) > 9 and buys["rank"].is_monotonic_increasing
    assert rows["side"].tolist() == sorted(rows["side"], key=["sell", "buy", "none"].index)


@pytest.mark.parametrize(
    ("shares", "largest", "parts"),
    [
        (3_000, 3_000, [3_000]),
        (3_000, 1_000, [1_000, 1_000, 1_000]),
        (701, 500, [500, 201]),
        (700, 500, [500, 200]),
        (699, 500, [499, 200]),  # 199 is below the least of 200
        (1_001, 500, [500, 301, 200]),
    ],
)
def test_the_parts_of_an_order(shares, largest, parts):
    row = {"code": STAR, "shares": shares, "price": 1.005, "yuan": 0.0, "cap_used": 0.5, "reason": "why"}
    made = inside._split(row, {"least": 200.0, "step": 1.0, "largest": float(largest)})
    assert [part["shares"] for part in made] == parts and list(made[0]) == list(row)
    if len(parts) > 1:
        assert [part["yuan"] for part in made] == [round(part * 1.005, 2) for part in parts]
        assert [part["cap_used"] for part in made] == pytest.approx([0.5 * part / shares for part in parts])
        assert [part["reason"] for part in made] == [
            f"why; part {n} of {len(parts)}: one order is at most {largest:,} shares" for n in range(1, len(parts) + 1)
        ]
    else:
        assert made == [row]
    assert inside._split(row, {"least": 200.0, "step": 1.0}) == [row]  # a market without largest orders


def test_cash_and_capital_at_their_ends():
    assert [inside._cash(*sums) for sums in ((0.5, None, 0.25), (9.0, None, 9.0), (1.0, 0.0, 5.0))] == [0.25, 0.0, 0.0]
    for sums in ((0.0, None, 0.0), (math.inf, None, 0.0), (1.0, math.inf, 0.0), (1.0, -0.5, 0.0), (1.0, None, 1.5)):
        with pytest.raises(ValueError, match="yuan"):
            inside._cash(*sums)


def test_what_a_plan_takes_from_the_run(monkeypatch):
    """Who asks what, with the run's exchange and one's own options; stocks scored the day before count too."""
    days, date = pd.bdate_range("2022-02-24", periods=4), pd.Timestamp("2022-03-02")
    rows = [(days[0], MAIN), (days[1], CHINEXT), (days[2], MAIN), (days[2], STAR), (days[3], GONE)]
    scores = pd.Series([1.0, 2.0, 3.0, 4.0, 5.0], pd.MultiIndex.from_tuples(rows, names=["datetime", "instrument"]))
    spells = pd.DataFrame({"code": [MAIN], "start": ["2022-01-04"], "end": [None]})
    exchange = {"participation": 0.003, "volatility_window": 7, "st": spells, "impact": 0.25, "min_cost": 1.0}
    run, asked = ScoredRun("r", scores, with_exchange(**exchange), {}), {}

    def noted(name, answer):
        def note(*arguments, **options):
            asked[name] = arguments, options
            return answer

        monkeypatch.setattr(f"qlib_ext.strategy.order_list.{name}", note)

    made, said = pd.DataFrame({"date": [date], "signal_date": [days[2]], "code": [MAIN], "side": ["buy"]}), []
    for name, answer in (
        ("next_day", (date, True)), ("check_age", ["old"]), ("read_market", "market"), ("make_orders", made),
        ("own_names", {}), ("calendar", days),
    ):  # fmt: skip
        noted(name, answer)
    monkeypatch.setattr("qlib_ext.strategy.order_list.logger", SimpleNamespace(warning=said.append))
    held = pd.DataFrame({"shares": [5, 7], "bought": ["2022-02-28", "2022-02-25"]}, [CHINEXT, MAIN])
    options = {"capital": 9e6, "cash": 3.0, "day": "2022-02-28", "fresh": True, "market_orders": True}
    assert plan_orders(run, held, **options, min_holding=3, liquidity_window=11).equals(made) and said == ["old"]
    ((codes, *times), named) = asked["check_age"]
    assert (sorted(codes), times, named) == ([MAIN, STAR, CHINEXT], [days[2], date], {"asked": True, "fresh": True})
    assert asked["next_day"] == ((days[2],), {})
    ((codes, *times), named) = asked["read_market"]
    assert (codes, times) == ([MAIN, STAR, CHINEXT], [days[2], date]) and named.pop("st").equals(spells)
    assert named == {"profile": "community", "window": 11, "volatility_window": 7, "market_orders": True}
    (score, market, held_then), named = asked["make_orders"]
    assert (score.to_dict(), market) == ({MAIN: 3.0, STAR: 4.0}, "market") and held_then.equals(read_holdings(held))
    strategy, fees, impact = (named.pop(name) for name in ("strategy", "fees", "impact"))
    assert (strategy.trade_participation, strategy.policy.participation) == (0.003, 0.01)
    assert fees.parts(0, 100.0, sell=False)[0] == 1.0
    assert impact(1e4, 1e6, 0.02) == pytest.approx(impact_rule(0.25, 0.5)(1e4, 1e6, 0.02))
    expected = {"capital": 9e6, "cash": 3.0, "day": days[2], "date": date, "young": {CHINEXT}, "universe": {MAIN, STAR}}
    assert named == expected
    noted("own_names", {MAIN: "浦发"})
    again = plan_orders(run, held, capital=1.0, commission=0.001)
    assert list(again) == ["date", "signal_date", "code", "name", "side"] and again["name"].tolist() == ["浦发"]
    ((codes, *times), named) = asked["check_age"]
    assert (codes, times) == (sorted([MAIN, GONE, STAR, CHINEXT]), [days[3], date])
    assert named == {"asked": False, "fresh": False} and asked["make_orders"][1]["young"] == set()
    assert asked["make_orders"][1]["fees"].parts(0, 1e4, sell=False)[0] == 10.0
    assert asked["make_orders"][1]["cash"] is None and asked["read_market"][1]["market_orders"] is False


# --- how old a list is, by hand


def aged(monkeypatch, counts, day, *, of=20, asked=False, fresh=False):
    """`check_age` of stocks of which the first `counts` trade on a day; January 2022 from the 3rd on."""
    days = pd.bdate_range("2022-01-03", periods=len(counts))
    codes = [f"SH6000{n:02d}" for n in range(of)]
    grid = pd.DataFrame(np.where(np.arange(of) < np.array(counts)[:, None], 1.0, np.nan), days, codes)

    def read(names, fields, first, last, lead):
        assert (names, fields, last, lead) == (codes, [], days[-1], 1)
        return {"$close": grid.iloc[max(days.get_loc(first) - lead, 0) :]}

    monkeypatch.setattr("qlib_ext.strategy.freshness.calendar", lambda: days)
    monkeypatch.setattr("qlib_ext.strategy.freshness.read_traded", read)
    return check_age(codes, pd.Timestamp(day), pd.Timestamp("2022-01-20"), asked=asked, fresh=fresh)


OLD = (
    "the scores are OLD: of {}, {} before {}, the last day with bars. These orders are for 2022-01-20, which has been: "
    "`qlib-ext daily RUN` scores the newest day"
)
MISSING = (
    "the calendar goes on to {}, {} after {}, the last day with bars: the newest data are MISSING. Orders for "
    "2022-01-20 would go by scores and prices of {}"
)
NONE = "stocks have a bar on 2022-01-04, the day of the scores"
LOST = "{} of {} stocks that traded on {} have NO BAR on {}: nothing of them is ordered; their data may be missing"


@pytest.mark.parametrize(
    ("counts", "day", "options", "told"),
    [
        ([20, 20, 20], "2022-01-05", {"fresh": True}, []),
        ([1], "2022-01-03", {"of": 1, "fresh": True}, []),  # one stock, one day
        ([20, 19, 19], "2022-01-04", {}, [OLD.format("2022-01-04", "1 trading day", "2022-01-05")]),
        ([20, 20, 20, 2], "2022-01-04", {}, [OLD.format("2022-01-04", "2 trading days", "2022-01-06")]),  # 2 of 20
        ([5, 20, 20], "2022-01-03", {}, [OLD.format("2022-01-03", "2 trading days", "2022-01-05")]),  # none before
        ([20, 9, 20], "2022-01-05", {}, []),  # more than the day before
        ([20, 20, 1, 0], "2022-01-04", {"asked": True},
            [MISSING.format("2022-01-06", "2 trading days", "2022-01-04", "2022-01-04")]),
        ([20, 20, 20, 1], "2022-01-04", {},
            [OLD.format("2022-01-04", "1 trading day", "2022-01-05"),
             MISSING.format("2022-01-06", "1 trading day", "2022-01-05", "2022-01-04")]),
        ([20, 20, 18], "2022-01-05", {}, [LOST.format(2, 20, "2022-01-04", "2022-01-05")]),
        ([20, 20, 19], "2022-01-05", {}, []),
        ([20, 2, 2], "2022-01-04", {}, [
            OLD.format("2022-01-04", "1 trading day", "2022-01-05"), LOST.format(18, 20, "2022-01-03", "2022-01-04")]),
    ],
)  # fmt: skip
def test_what_is_told_of_old_data(monkeypatch, counts, day, options, told):
    assert aged(monkeypatch, counts, day, **options) == told
    if told:
        with pytest.raises(ValueError, match="^" + re.escape(f"--fresh: {'; '.join(told)}") + "$"):
            aged(monkeypatch, counts, day, **options | {"fresh": True})


@pytest.mark.parametrize(
    ("counts", "day", "words"),
    [
        ([20, 1, 0], "2022-01-04", f"1 of 20 {NONE}; the last day with bars is 2022-01-03: there are"),
        ([0, 0, 0], "2022-01-04", f"0 of 20 {NONE}; nor on the days about it: there are"),
        ([0, 1, 20], "2022-01-04", "the last day with bars is 2022-01-05"),
        ([20, 20, 1], "2022-01-04", MISSING.format("2022-01-05", "1 trading day", "2022-01-04", "2022-01-04")
            + ". Update the data and predict, or say --date 2022-01-04"),
        ([20, 20], "2022-01-08", "of 2022-01-08, which the provider's calendar (2022-01-03 to 2022-01-04)"),
    ],
)  # fmt: skip
def test_data_to_order_nothing_by(monkeypatch, counts, day, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        aged(monkeypatch, counts, day)


# --- what a list is made from, by hand


def test_cells_of_holdings_that_are_refused_are_named(tmp_path):
    file = tmp_path / "held.csv"
    for row, words in (
        ("600000,1.5,,", "shares of '600000' is '1.5'; allowed are whole numbers from 0 on (raw shares), written out"),
        ("600000,1E3,,", "shares of '600000' is '1E3'; allowed"),
        ("600000,1000000000001,,", "shares of '600000' is '1000000000001'; allowed"),
        ("600000,some,,", "shares of '600000' is 'some'; wanted is a number"),
        ("000300.SH,100,,", "code is '000300.SH', an index"),
        ("600000,100,101,", "101 shares of SH600000 are available, but 100 held"),
        ("600000,100,1.5,", "available is '1.5'; allowed"),
        ("600000,100,,soon", "bought is 'soon', no day"),
    ):
        file.write_text(f"code,shares,available,bought\n300001,0,,\n{row}\n")
        with pytest.raises(ValueError, match="^" + re.escape(f"{file}, line 3: {words}")):
            read_holdings(file)
    file.write_text("code,shares,available,bought\n600000,1000000000000,1000000000000,-\n300001,1,0,20220228\n")
    held = read_holdings(file)
    assert held.to_dict("index") == {
        MAIN: {"shares": 1e12, "bought": pd.NaT}, CHINEXT: {"shares": 1.0, "bought": pd.Timestamp("2022-02-28")}
    }  # fmt: skip
    assert held.index.name == "code" and held["shares"].dtype == float
    none = read_holdings(None)
    assert list(none) == ["shares"] and none.index.name == "code" and none["shares"].dtype == float and not len(none)
    for frame in (pd.DataFrame({"code": [MAIN]}), pd.DataFrame([[1, 2]], [MAIN], columns=["shares", "shares"])):
        with pytest.raises(ValueError, match="wanted are the columns code, shares, once each; there are"):
            read_holdings(frame)
    with pytest.raises(ValueError, match=re.escape("holdings: row 1: shares of 'SZ300001' is 0.5")):
        read_holdings(pd.DataFrame({"shares": [1.0, 0.5]}, [MAIN, CHINEXT]))


def test_scores_of_a_run_by_day():
    days = pd.DatetimeIndex(["2022-02-28", "2022-03-01"])
    index = pd.MultiIndex.from_product([days, [MAIN, CHINEXT]], names=["datetime", "instrument"])
    run = ScoredRun("r", pd.Series([1.0, 2.0, 3.0, 4.0], index), {"a": 1}, {}, {"b": 2})
    for day, told, scores in ((None, days[1], [3.0, 4.0]), ("2022/2/28", days[0], [1.0, 2.0])):
        seen, score = run.score(day)
        assert seen == told and score.to_dict() == dict(zip([MAIN, CHINEXT], scores, strict=True))
    with pytest.raises(ValueError, match="run r has no scores for 2022-03-02; it has 2 days, 2022-02-28 to 2022-03-01"):
        run.score("20220302")
    assert run.recorded_task == Task({"a": 1}, recorded=True, plan={"b": 2})


def test_the_market_of_a_day_by_hand(monkeypatch):
    """Three days; CHINEXT does not trade on the last; STAR is in its fifth day, the next one is its sixth."""
    days, date = pd.bdate_range("2022-02-25", periods=3), pd.Timestamp("2022-03-02")
    codes, day = [MAIN, CHINEXT, STAR, "SZ301001"], days[-1]
    close = pd.DataFrame([[8.0, 4.0, 50.0, 9.0], [10.0, 5.0, 60.0, 9.0], [11.0, np.nan, 66.0, 9.0]], days, codes)
    factor = pd.DataFrame([[1.0, 0.5, 2.0, 1.0]] * 3, days, codes).mask(close.isna())
    traded = pd.DataFrame([[1e6, 2e6, 3e6, 4e6], [1e6, 5e6, 3e6, 4e6], [2e6, np.nan, 4e6, 0.0]], days, codes)
    asked = []

    def read(*names, **options):
        asked.append((names, options))
        return {"$close": close.astype("f4"), "$factor": factor.astype("f4")}

    def liquidity(*names, **options):
        asked.append((names, options))
        return traded

    ages = pd.DataFrame([[900.0, 800.0, 3.0, 2.0], [901.0, 801.0, 4.0, 3.0], [902.0, 802.0, 5.0, 4.0]], days, codes)
    module = "qlib_ext.strategy.order_inputs."
    monkeypatch.setattr(module + "read_traded", read)
    monkeypatch.setattr(module + "load_liquidity", liquidity)
    monkeypatch.setattr(module + "calendar", lambda: days.append(pd.DatetimeIndex([date])))
    monkeypatch.setattr(module + "listed_days", lambda names, of: ages[names].loc[of].to_numpy())
    spells = pd.DataFrame({"code": [MAIN], "start": ["2022-03-02"], "end": [None]})
    table = read_market(codes, day, date, profile="p", window=7, volatility_window=2)
    assert asked == [
        ((codes, ["$close", "$factor"], day, day), {"lead": 250}),
        ((codes, day, day), {"profile": "p", "window": 7, "past": True}),
    ]
    # returns: 25%, 10%; 25% alone; 20%, 10%; 0
    expected = pd.DataFrame({
        "price": [11.0, 10.0, 33.0, 9.0], "suspended": [False, True, False, False],
        "liquidity": [2e6, np.nan, 4e6, 0.0], "known_liquidity": [2e6, 5e6, 4e6, 4e6],
        "volatility": [0.15 / 2**0.5, np.nan, 0.1 / 2**0.5, 0.0],
        "limit_up": [12.1, 12.0, 39.6, math.inf], "limit_down": [9.9, 8.0, 26.4, 0.0],
        "least": [100, 100, 200, 100], "step": [100, 100, 1, 100],
        "largest": [1_000_000.0, 300_000.0, 100_000.0, 300_000.0],
    }, index=pd.Index(codes, name="code"))  # fmt: skip
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, rtol=1e-9)
    special = read_market(codes, day, date, profile="p", window=7, st=spells)
    assert special["limit_up"].tolist() == [11.55, *table["limit_up"][1:]]
    assert last_prices(codes, day).to_dict() == table["price"].to_dict()
    factor[:] = np.nan
    with pytest.raises(ValueError, match=r"no \$factor"):
        last_prices(codes, day)


# --- the command


@pytest.fixture(scope="module")
def recorded(folder):
    """(uri, recorder id, scores) of a finished run like qrun's."""
    start(folder / "market")
    days = pd.DatetimeIndex(D.calendar())
    uri = f"sqlite:///{folder}/runs/mlruns.db"
    experiment = SqliteExpManager(uri, "trial").get_exp(experiment_name="trial", create=True)
    scores = random_scores(days[90:95])
    recorder = experiment.create_recorder("trial")
    recorder.start_run()
    config = {"qlib_init": {"provider_uri": str(folder / "market"), "region": "cn", "kernels": 1}}
    recorder.save_objects(**{"pred.pkl": scores.to_frame(), "task": TASK, "config": config})
    recorder.end_run("FINISHED")
    return uri, recorder.id, scores


@pytest.fixture
def warned(monkeypatch):
    lines = []
    monkeypatch.setattr("qlib_ext.strategy.order_list.logger.warning", lines.append)
    return lines


@pytest.fixture
def halted(folder, tmp_path):
    """Copies a market without the bars of some stocks on the calendar's last days: count of days, share of stocks."""

    def copy(days, share=1.0):
        market = Path(shutil.copytree(folder / "market", tmp_path / "market"))
        last = len((market / "calendars" / "day.txt").read_text().split()) - 1
        names = sorted(p for p in (market / "features").iterdir() if not p.name.startswith(("sh000", "sz399")))
        for place in names[: round(share * len(names))]:
            values = np.fromfile(place / "close.day.bin", "<f4")
            begin = last - days + 1 - int(values[0])
            values[1 + begin :] = np.nan
            values.tofile(place / "close.day.bin")
        start(market)
        return pd.DatetimeIndex(D.calendar())

    yield copy
    start(folder / "market")


def plan(scored, **options):
    """Orders by random scores of some days."""
    return plan_orders(ScoredRun("r", random_scores(scored), TASK, {}), read_holdings(None), capital=2e7, **options)


def test_orders_of_the_newest_day_are_told_nothing_about(folder, warned):
    start(folder / "market")
    days = pd.DatetimeIndex(D.calendar())
    assert (plan(days[-2:], fresh=True)["signal_date"] == days[-1]).all() and warned == []


def test_orders_by_old_scores_say_how_old_they_are(folder, warned):
    start(folder / "market")
    days = pd.DatetimeIndex(D.calendar())
    plan(days[-5:-3])
    (words,) = warned
    for part in (
        f"OLD: of {days[-4]:%Y-%m-%d}, 3 trading days before {days[-1]:%Y-%m-%d}",
        f"for {days[-3]:%Y-%m-%d}",
        "daily RUN",
    ):
        assert part in words
    with pytest.raises(ValueError, match="--fresh: the scores are OLD"):
        plan(days[-5:-3], fresh=True)


def test_a_day_in_the_calendar_without_bars_is_no_day_to_order_on(halted, warned):
    days = halted(1)
    words = f"goes on to {days[-1]:%Y-%m-%d}, 1 trading day after {days[-2]:%Y-%m-%d}.* MISSING.*--date"
    with pytest.raises(ValueError, match=words):  # the scores end where the bars do
        plan(days[-3:-1])
    asked = plan(days[-3:-1], day=f"{days[-2]:%Y-%m-%d}")
    assert (asked["date"] == days[-1]).all() and len(warned) == 1 and "MISSING" in warned[0]
    with pytest.raises(ValueError, match="--fresh"):
        plan(days[-3:-1], day=f"{days[-2]:%Y-%m-%d}", fresh=True)
    with pytest.raises(ValueError, match=f"0 of .* a bar on {days[-1]:%Y-%m-%d}.* with bars is {days[-2]:%Y-%m-%d}"):
        plan(days[-2:])  # scores of the day that has none
    with pytest.raises(ValueError, match="0 of .* a bar on"):
        plan(days[-2:], day=f"{days[-1]:%Y-%m-%d}")


def test_a_day_that_lacks_the_bars_of_many_stocks_is_told_with_their_number(halted, warned):
    days = halted(1, share=0.4)
    orders = plan(days[-2:])
    lost = int(re.search(r"(\d+) of \d+ stocks that traded on .* NO BAR", warned[0])[1])
    assert 10 <= lost <= 16 and (orders["signal_date"] == days[-1]).all()


def test_a_twentieth_of_the_stocks_may_be_suspended_on_one_day(halted, warned):
    """Of 20 stocks that traded the day before, one without a bar is a suspension, two are told."""
    days = halted(1, share=0.1)
    close = D.features(D.instruments("all"), ["$close"], days[-2], days[-1]).iloc[:, 0].unstack("datetime").notna()
    there, lost = close.index[close.all(axis=1)], close.index[close[days[-2]] & ~close[days[-1]]]
    told = f"2 of 20 stocks that traded on {days[-2]:%Y-%m-%d} have NO BAR on {days[-1]:%Y-%m-%d}"
    for count, words in ((1, []), (2, [told])):
        warned.clear()
        scores = random_scores(days[-2:])
        chosen = scores.index.get_level_values("instrument").isin([*lost[:count], *there[: 20 - count]])
        plan_orders(ScoredRun("r", scores[chosen], TASK, {}), read_holdings(None), capital=2e7)
        assert [line.partition(":")[0] for line in warned] == words


def test_scores_of_a_day_that_the_calendar_lacks_are_refused(folder):
    start(folder / "market")
    with pytest.raises(ValueError, match="scores are of 2030-01-02, which the provider's calendar"):
        plan(pd.DatetimeIndex(["2030-01-02"]))


def test_the_command_writes_the_list(folder, recorded, capsys):
    uri, identifier, scores = recorded
    code = scores.index.get_level_values("instrument")[0]
    (folder / "held.csv").write_text(f"code,shares\n{code},200\n")
    command = ["orders", "latest", "--uri", uri, "--holdings", str(folder / "held.csv"), "--capital", "2e7"]
    assert cli.main([*command, "--out", str(folder / "orders.csv")]) == 0
    made = pd.read_csv(folder / "orders.csv", parse_dates=["date", "signal_date"])
    run = read_run(identifier, uri)
    expected = plan_orders(run, read_holdings(folder / "held.csv"), capital=2e7)
    assert run.identifier == identifier and list(made.columns) == list(ORDER_COLUMNS)
    pd.testing.assert_frame_equal(made, expected, check_dtype=False, rtol=1e-6)
    assert (made["side"] == "buy").sum() > 3 and made.loc[made["side"] == "buy", "shares"].ge(100).all()
    assert f"run {identifier}, for " in capsys.readouterr().err
    (folder / "empty.csv").write_text("code,shares\n")
    assert cli.main([*command[:4], "--holdings", str(folder / "empty.csv"), "--capital", "2e7"]) == 0
    assert capsys.readouterr().out.count("buy") > 3
    # One day of the scores, a narrower cap: more names.
    assert cli.main([*command, "--participation", "0.005", "--date", str(run.scores.index[0][0].date())]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("date,signal_date,code,side") and str(run.scores.index[0][0].date()) in out
    assert out.count("\n") > len(made)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["trail"], "no finished run 'trail'"),
        (["trail"], "close: ['trial']"),
        (["latest", "--experiment", "other"], "there are: Default, trial"),
        (["latest", "--date", "2001-01-01"], "has no scores for 2001-01-01; it has 5 days"),
        (["latest", "--date", "soon"], "--date is 'soon', no day"),
        (["latest", "--date", ""], "--date is '', which is empty"),
        (["latest", "--provider-uri", "/no/where"], "--provider-uri /no/where: there is no such folder"),
        (["latest", "--participation", "-1"], "participation is -1"),
        (["latest", "--holdings", "nowhere.csv"], "nowhere.csv"),
        (["latest", "--capital", "-5"], "capital is -5"),
    ],
)
def test_the_command_ends_with_one_line(recorded, capsys, arguments, match):
    capital = [] if "--capital" in arguments else ["--capital", "1e7"]
    if "" in arguments:  # argparse leaves so
        with pytest.raises(SystemExit, match="2"):
            cli.main(["orders", "--uri", recorded[0], *capital, *arguments])
    else:
        assert cli.main(["orders", "--uri", recorded[0], *capital, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("qlib-ext: error: ") and match in error


def test_runs_that_cannot_be_read(folder, recorded, tmp_path):
    uri, _, _ = recorded
    with pytest.raises(FileNotFoundError, match=r"none\.db is not there"):
        read_run("latest", f"sqlite:///{tmp_path}/none.db")
    client = MlflowClient(tracking_uri=uri)
    bare = client.create_run(client.create_experiment("bare", artifact_location=str(tmp_path / "bare")))
    client.set_terminated(bare.info.run_id)
    with pytest.raises(ValueError, match=r"has no pred\.pkl"):
        read_run(bare.info.run_id, uri)
    half = client.create_run(bare.info.experiment_id)
    with (tmp_path / "pred.pkl").open("wb") as file:
        pickle.dump(pd.DataFrame(), file)
    client.log_artifact(half.info.run_id, str(tmp_path / "pred.pkl"))
    client.set_terminated(half.info.run_id)
    with pytest.raises(ValueError, match=r"has no pred\.pkl and task"):
        read_run(half.info.run_id, uri, trust=True)
    with pytest.raises(ValueError, match="latest of which experiment.*bare, trial"):
        read_run("latest", uri)
    assert read_run("latest", uri, "trial").task == TASK


def test_a_run_is_found_as_report_finds_it(recorded):
    uri, identifier, _ = recorded
    for name in (identifier, identifier[:8], "trial"):
        assert read_run(name, uri).identifier == find_run(name, uri=uri).id == identifier


def test_a_broken_configuration_is_an_error(recorded):
    uri, identifier, _ = recorded
    file = find_run(identifier, uri=uri).folder / "config"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-5])
        with pytest.raises(ValueError, match="config cannot be read"):
            read_run(identifier, uri, trust=True)
        with pytest.raises(ValueError, match=r"config is a pickle that config\.json is not of .was it changed"):
            read_run(identifier, uri)
        file.unlink()
        assert read_run(identifier, uri).qlib_init["region"] == "cn"  # the twin alone will do
        file.with_name("config.json").rename(file.with_name("away"))
        assert read_run(identifier, uri).qlib_init == {}  # a run made in Python has none
    finally:
        file.with_name("away").rename(file.with_name("config.json"))
        file.write_bytes(whole)


def test_declaring_the_command_needs_no_qlib():
    code = "import sys; sys.modules['qlib'] = None\nfrom qlib_ext.cli import main\nmain(['orders', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--trade-participation" in done.stdout, done.stderr[-500:]
