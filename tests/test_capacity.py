"""The capacity curve: one ranking for all capitals, proven by fill_top_n and by a slow loop."""

import math

import numpy as np
import pandas as pd
import pytest
import reference_portfolio as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_portfolio import fill_day

from qlib_ext.evaluate import (
    CAPACITY_DEFINITIONS,
    CAPITALS,
    STRATEGY_CAPACITY_DEFINITIONS,
    capacity_curve,
    capacity_words,
    excess_crossings,
    fill_capitals,
    headline,
    last_known,
    mean_return,
    money_returns,
    sleeve_returns,
    strategy_crossings,
    strategy_curve,
    zero_crossings,
)
from qlib_ext.portfolio import TopNPolicy, fee_cost, fill_top_n, impact_cost, rebalancing, simulate
from qlib_ext.record import Money, capacity, judge

FREE = {"buy_rate": 0.0, "sell_rate": 0.0, "impact": 0.0}


def market(seed=0, days=30, stocks=60, ties=True):
    """Random grids with all that occurs: ties, no score, no liquidity, no return, no volatility."""
    rng = np.random.default_rng(seed)
    shape = (days, stocks)
    score = np.round(rng.normal(size=shape), 1 if ties else 9)
    score[rng.random(shape) < 0.05] = np.nan
    liquidity = rng.lognormal(17, 1.5, shape)
    liquidity[rng.random(shape) < 0.03] = np.nan
    liquidity[rng.random(shape) < 0.02] = 0.0
    step = 0.02 * rng.normal(size=shape)
    step[rng.random(shape) < 0.03] = np.nan
    volatility = rng.uniform(0.01, 0.05, shape)
    volatility[rng.random(shape) < 0.03] = np.nan
    return score, liquidity, step, volatility, rng.random(shape) < 0.95


# --- goldens by hand


def test_two_days_three_stocks():
    # Caps at 10%: 100, 200, 400 yuan. Ranking A, B, C on both days.
    # Capital 200: A 100, B 100 (the rest), nothing in C. Capital 1000: 100 + 200 + 400 = 700, 30% stays cash.
    score = np.array([[3.0, 2.0, 1.0]] * 2)
    liquidity = np.array([[1000.0, 2000.0, 4000.0]] * 2)
    step = np.array([[0.10, 0.20, -0.10], [0.00, 0.05, 0.10]])
    curve = capacity_curve(
        score, liquidity, step, np.full((2, 3), 0.02), capitals=(1000, 200), participation=0.1,
        buy_rate=0.01, sell_rate=0.02, impact=1.0, benchmark=[0.0, 0.0],
    )  # fmt: skip
    assert list(curve.index) == [200.0, 1000.0]
    small, large = curve.loc[200.0], curve.loc[1000.0]
    # Gross, capital 200. Day 1: 100 * 0.10 + 100 * 0.20 = 30 -> 0.15. Day 2: 100 * 0.05 = 5 -> 0.025.
    year = 242 / 2  # of the sum of two days
    assert small["gross"] == pytest.approx((0.15 + 0.025) * year)
    # Trades. Day 1: buys 100, 100. Day 2: A 100 - 110 = -10, B 100 - 120 = -20.
    # Fees: 200 * 0.01 = 2 -> 0.01; 30 * 0.02 = 0.6 -> 0.003.
    assert small["net"] == pytest.approx((0.14 + 0.022) * year)
    # Impact = yuan * 0.02 * sqrt(yuan / liquidity).
    first = 100 * 0.02 * math.sqrt(0.1) + 100 * 0.02 * math.sqrt(0.05)
    second = 10 * 0.02 * math.sqrt(0.01) + 20 * 0.02 * math.sqrt(0.01)
    assert small["net_impact"] == pytest.approx((0.14 + 0.022 - (first + second) / 200) * year)
    assert small["daily_excess"] == pytest.approx((0.14 + 0.022 - (first + second) / 200) / 2)
    assert (small["cash_share"], small["names_held"], small["days"]) == (0.0, 2.0, 2)
    assert small["turnover"] == pytest.approx((200 + 30) / 200 / 2)
    # Weighted by yuan: (100 * 0.1 + 100 * 0.05 + 10 * 0.01 + 20 * 0.01) / 230.
    assert small["participation"] == pytest.approx((10 + 5 + 0.1 + 0.2) / 230)
    # Capital 1000: day 1 10 + 40 - 40 = 10 -> 0.01; day 2 0 + 10 + 40 = 50 -> 0.05.
    assert large["gross"] == pytest.approx((0.01 + 0.05) * year)
    assert (large["cash_share"], large["names_held"]) == (pytest.approx(0.3), 3.0)


def test_every_capital_at_which_a_return_passes_zero():
    curve = pd.DataFrame({"net_impact_excess": [0.3, 0.1, -0.1]}, index=[1e7, 1e8, 1e9])
    # Half way between 1e8 and 1e9 in the log: 10 ** 8.5.
    assert zero_crossings(curve) == [(pytest.approx(10**8.5), False)]
    # Falls to exactly 0 at 1e8.
    assert zero_crossings(curve - 0.1) == [(pytest.approx(1e8), False)]
    assert zero_crossings(curve + 1) == zero_crossings(curve - 1) == []
    # Crosses thrice: 0.2 -> -0.2 half way; -0.2 -> 0.1 two thirds; 0.1 -> -0.3 a quarter of the way.
    wild = pd.DataFrame({"net": [0.2, -0.2, 0.1, -0.3]}, index=[1e7, 1e8, 1e9, 1e10])
    at = [pytest.approx(10**power) for power in (7.5, 8 + 2 / 3, 9.25)]
    assert zero_crossings(wild, "net") == list(zip(at, [False, True, False], strict=True))
    # Of the negative all turn round.
    assert zero_crossings(-wild, "net") == list(zip(at, [True, False, True], strict=True))
    with pytest.raises(ValueError, match="unknown column of the curve 'gross'.*Allowed: net"):
        zero_crossings(wild, "gross")
    with pytest.raises(ValueError, match="finite net"):
        zero_crossings(wild.replace(0.1, np.nan), "net")
    with pytest.raises(ValueError, match="rise"):
        zero_crossings(wild.iloc[::-1], "net")


def test_table_and_words_tell_every_crossing_of_each_excess():
    curve = pd.DataFrame(
        {"gross_excess": [0.3, 0.1, 0.2], "net_excess": [0.1, -0.1, 0.1], "net_impact_excess": [-0.1, -0.2, -0.1]},
        index=[1e7, 1e9, 1e11],
    )
    # 1e7 to 1e9, half way in the log: 1e8; 1e9 to 1e11: 1e10.
    assert capacity_words(curve).endswith(
        "10 to 100,000 million yuan: gross above zero throughout; net above zero, falls through it at 100, rises "
        "through it at 10,000; net_impact below zero throughout"
    )
    table = excess_crossings(curve)
    assert table.loc["net"].tolist() == [pytest.approx(1e8), pytest.approx(1e10)]
    assert list(table) == ["falls_at", "rises_at"] and table.drop("net").isna().all(axis=None)
    again = excess_crossings(pd.DataFrame({"net_excess": [-1.0, 1.0, -1.0, 1.0]}, index=[1e7, 1e9, 1e11, 1e13]))
    assert again.loc["net", ["rises_at", "falls_at", "rises_at_2"]].tolist() == pytest.approx([1e8, 1e10, 1e12])


def test_the_judge_says_the_same_at_the_capital_of_the_run():
    from test_record import SPAN, make_panel, score_grid

    panel, rows, money = make_panel(days=40), np.arange(3, 40), Money(capital=2.5e7, impact=0.5)
    score = score_grid(panel, rows)
    table = judge(panel, rows, score, money, SPAN).table
    row = capacity(panel, rows, score, money, SPAN).loc[2.5e7]
    for name in ("gross", "net", "net_impact"):
        annual = table["annual_return"]
        assert row[name] == pytest.approx(annual[f"capped_buyable_{name}"])
        assert row[f"{name}_excess"] == pytest.approx(annual[f"capped_buyable_{name}_over_market"])


# --- the one allocation


@pytest.mark.parametrize("top_n", [None, 1, 7, 500])
@pytest.mark.parametrize("seed", range(3))
def test_every_capital_is_filled_as_fill_top_n_does(seed, top_n):
    score, liquidity, *_ = market(seed)
    fills = fill_capitals(score, liquidity, CAPITALS, participation=0.05, top_n=top_n)
    for capital, yuan in zip(CAPITALS, fills, strict=True):
        whole = fill_top_n(score, liquidity, capital=capital, participation=0.05, top_n=top_n)
        np.testing.assert_allclose(yuan, whole, rtol=1e-12, atol=1e-6 * capital / 150e6)
        slow = fill_day(score[0], liquidity[0], capital=capital, participation=0.05, top_n=top_n)
        np.testing.assert_allclose(yuan[0], slow, rtol=1e-9, atol=1e-6 * capital / 150e6)


@settings(max_examples=60, deadline=None)
@given(
    caps=st.lists(st.floats(1.0, 1e9), min_size=1, max_size=12),
    capital=st.floats(1.0, 1e10),
    participation=st.floats(0.001, 1.0),
)
def test_no_cap_and_no_capital_is_exceeded(caps, capital, participation):
    liquidity = np.array([caps])
    score = -np.arange(len(caps), dtype=float)[None]
    (yuan,) = fill_capitals(score, liquidity, [capital], participation=participation)
    assert (yuan >= 0).all() and (yuan <= participation * liquidity).all()
    room = participation * liquidity.sum()
    assert yuan.sum() == pytest.approx(min(capital, room), rel=1e-9)
    np.testing.assert_allclose(yuan, fill_top_n(score, liquidity, capital=capital, participation=participation))


# --- what it earns


@pytest.mark.parametrize("horizon", [1, 3])
def test_gross_net_and_impact_are_the_functions_of_portfolio(horizon):
    score, liquidity, step, volatility, buyable = market(7, days=15, stocks=30)
    held = np.where(buyable, fill_top_n(score, liquidity, capital=3e7), 0.0)
    buy = np.linspace(0.0003, 0.0005, 15)
    known = last_known(liquidity), last_known(volatility)
    terms = {"capital": 3e7, "rates": (buy, 0.0013), "impact": 0.7, "horizon": horizon}
    made, trade = money_returns(held, step, *known, **terms)
    np.testing.assert_allclose(made["gross"], sleeve_returns(held, step, horizon, capital=3e7))
    np.testing.assert_allclose(made["gross"] - made["net"], fee_cost(trade, buy, 0.0013) / 3e7, atol=1e-15)
    np.testing.assert_allclose(trade, rebalancing(held, step, horizon), atol=1e-6)
    moved = impact_cost(trade, *known, b=0.7).sum(axis=1)
    np.testing.assert_allclose(made["net"] - made["net_impact"], moved / 3e7, atol=1e-15)
    assert (made["gross"] > made["net"]).all() and (made["net"] > made["net_impact"]).all()


def test_mean_return_by_hand():
    # Day 0: 1% and 3% of the scored; day 1 has no score at all.
    score = np.array([[1.0, 2.0, np.nan], [np.nan] * 3])
    np.testing.assert_allclose(mean_return(score, np.array([[0.01, 0.03, 0.5], [0.1] * 3])), [0.02, 0.0])


def test_days_without_any_volatility_take_the_first_median():
    grid = np.full((4, 3), np.nan)
    grid[2], grid[3, 0] = [0.01, 0.02, np.nan], 0.03
    # The median of day 2 is 0.015: of the days before, and of the third stock that day; on day 3 it is of 0.03, 0.02.
    expected = [[0.015] * 3, [0.015] * 3, [0.01, 0.02, 0.015], [0.03, 0.02, 0.025]]
    np.testing.assert_allclose(last_known(grid), expected)
    assert np.isnan(last_known(np.full((2, 2), np.nan))).all()


def test_a_calendar_s_first_days_have_no_volatility():
    score, liquidity, step, volatility, _ = market(8, days=10, stocks=20)
    volatility[:2] = np.nan
    late = capacity_curve(score, liquidity, step, volatility, buy_rate=0.0004, sell_rate=0.0014)
    assert np.isfinite(late["net_impact"]).all() and (late["net"] > late["net_impact"]).all()
    free = capacity_curve(
        score, liquidity, step, np.full_like(volatility, np.nan), **FREE
    )  # without impact: none asked
    np.testing.assert_allclose(free["net_impact"], free["net"])
    with pytest.raises(ValueError, match="no volatility"):
        capacity_curve(score, liquidity, step, np.full_like(volatility, np.nan), **(FREE | {"impact": 1.0}))


# --- oracle


def slow_curve(score, liquidity, step, volatility, buyable, capital, *, sellable, participation, buy, sell, horizon):
    """One capital through the judge's pieces, holdings stock by stock."""
    placed = fill_top_n(score, liquidity, capital=capital, participation=participation)
    held = np.array(slow.held_through(placed, step, buyable, sellable, capital, score, horizon))
    days, stocks = held.shape
    gross, trade = np.zeros(days), held / horizon
    for start in range(days):
        for n in range(stocks):
            value = held[start, n] / horizon
            for day in range(start, min(start + horizon, days)):
                earned = value * (0.0 if math.isnan(step[day, n]) else step[day, n])
                gross[day] += earned / capital
                value += earned
            if start + horizon < days:
                trade[start + horizon, n] -= value
    net = gross - fee_cost(trade, buy, sell) / capital
    moved = impact_cost(trade, last_known(liquidity), last_known(volatility)).sum(axis=1) / capital
    seen = [np.isfinite(step[d]) & np.isfinite(score[d]) for d in range(days)]
    mean = np.array([step[d][seen[d]].mean() for d in range(days)])
    series = {"gross": gross, "net": net, "net_impact": net - moved}
    row = {name: headline(value)["annual_return"] for name, value in series.items()}
    row |= {f"{name}_excess": headline(value - mean)["annual_return"] for name, value in series.items()}
    row |= {"cash_share": np.mean(1 - held.sum(axis=1) / capital), "names_held": (held > 0).sum() / days}
    row["turnover"] = np.abs(trade).sum() / capital / days
    row["participation"] = np.average((np.abs(trade) / last_known(liquidity)).ravel(), weights=np.abs(trade).ravel())
    return row


@pytest.mark.parametrize(("seed", "horizon"), [(0, 1), (1, 1), (2, 3)])
def test_each_row_is_the_slow_loop(seed, horizon):
    grids = market(seed, days=12, stocks=25)
    buy, sellable = np.linspace(0.0003, 0.0004, 12), np.random.default_rng(seed).random((12, 25)) < 0.9
    capitals = (1e6, 1e7, 5e7, 1e9)
    curve = capacity_curve(
        *grids[:4], buyable=grids[4], sellable=sellable, capitals=capitals, participation=0.05,
        buy_rate=buy, sell_rate=0.0013, horizon=horizon,
    )  # fmt: skip
    for capital in capitals:
        options = {"sellable": sellable, "participation": 0.05, "buy": buy, "sell": 0.0013, "horizon": horizon}
        fast = curve.loc[capital]
        for name, value in slow_curve(*grids, capital, **options).items():
            assert fast[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (capital, name)
    assert set(curve.columns) | {"capital"} == set(CAPACITY_DEFINITIONS)


# --- what the curve must show


def test_a_larger_capital_goes_further_down_the_ranking():
    rng = np.random.default_rng(5)
    signal = rng.normal(size=(80, 200))
    step = 0.004 * signal + 0.01 * rng.normal(size=signal.shape)
    liquidity, volatility = rng.lognormal(18, 0.5, signal.shape), np.full(signal.shape, 0.01)
    full = capacity_curve(signal, liquidity, step, volatility, **FREE)
    excess = full["gross_excess"].to_numpy()
    assert (np.diff(full["names_held"]) >= 0).all() and (np.diff(full["cash_share"]) >= -1e-12).all()
    assert excess[0] > excess[6] > excess[-1]
    assert full["cash_share"].iloc[0] == pytest.approx(0, abs=1e-12) and full["cash_share"].iloc[-1] > 0.9
    fixed = capacity_curve(signal, liquidity, step, volatility, top_n=30, **FREE)
    assert (fixed["names_held"] == 30).all() and fixed["participation"].is_monotonic_increasing
    assert fixed["cash_share"].iloc[-1] > full["cash_share"].iloc[-1]


def test_costs_take_away_and_scale():
    grids = market(3)
    fees = {"buy_rate": 0.0004, "sell_rate": 0.0014}
    curve = capacity_curve(*grids[:4], **fees)
    assert (curve["gross"] > curve["net"]).all() and (curve["net"] > curve["net_impact"]).all()
    free = capacity_curve(*grids[:4], **FREE)
    np.testing.assert_allclose(free["net_impact"], curve["gross"])
    # Yuan have no scale of their own: ten times the liquidity carries ten times the capital.
    tenfold = capacity_curve(grids[0], grids[1] * 10, *grids[2:4], capitals=[10 * c for c in CAPITALS], **fees)
    np.testing.assert_allclose(tenfold, curve, rtol=1e-9, atol=1e-12)


def test_days_without_a_return_do_not_count():
    grids = market(4)
    longer = [np.concatenate([grid, np.full((2, grid.shape[1]), np.nan)]) for grid in grids[:4]]
    ahead = capacity_curve(*longer, **FREE)
    plain = capacity_curve(*grids[:4], **FREE)
    pd.testing.assert_frame_equal(ahead, plain)


def test_stocks_can_change_places():
    grids = [grid[:, :40] for grid in market(6, ties=False)]
    order = np.random.default_rng(0).permutation(40)
    fees = {"buy_rate": 0.0004, "sell_rate": 0.0014}
    here = capacity_curve(*grids[:4], buyable=grids[4], **fees)
    there = capacity_curve(*(grid[:, order] for grid in grids[:4]), buyable=grids[4][:, order], **fees)
    np.testing.assert_allclose(here, there, rtol=1e-9)


def test_what_is_lost_is_made_up_the_next_day():
    score, volatility = np.ones((3, 1)), np.ones((3, 1))
    step = np.array([[0.0], [-1.0], [0.5]])
    curve = capacity_curve(
        score, score * 1e9, step, volatility, capitals=[1e6], benchmark=[0.0, 0.5, 0.0], year=3, **FREE
    )
    # 0 - 1 + 0.5 in a year of three days; the benchmark's 0.5 less
    assert curve["gross"].item() == pytest.approx(-0.5) and curve["net_impact_excess"].item() == pytest.approx(-1.0)


# --- the run's own strategy


def test_each_row_of_the_strategy_s_curve_is_an_account_of_its_own():
    score, liquidity, step, volatility, buyable = market(11, days=12, stocks=20)
    step[-1] = np.nan  # the last day has no outcome yet
    known = {"liquidity": liquidity, "volatility": volatility, "step_return": step, "buyable": buyable}
    asked = []

    def policy(capital, b):
        asked.append((capital, b))
        return TopNPolicy(top_n=5)

    terms = {"buy_rate": 0.0003, "sell_rate": 0.0008, "participation": 0.02}
    curve = strategy_curve(policy, score, known, capitals=[1e8, 1e7], impacts=[1.0, 0.5], year=200, **terms)
    assert list(curve.index) == [(0.5, 1e7), (0.5, 1e8), (1.0, 1e7), (1.0, 1e8)] == [each[::-1] for each in asked]
    daily = simulate(TopNPolicy(top_n=5), score, **known, **terms, account=1e8, impact=0.5).daily.iloc[:-1]
    row = curve.loc[(0.5, 1e8)]
    assert row["gross"] == pytest.approx(200 * daily["gross"].mean()) and row["days"] == 11
    assert row["gross"] - row["net"] == pytest.approx(200 * daily["fees"].mean())
    assert row["net"] - row["net_impact"] == pytest.approx(200 * daily["impact"].mean())
    assert row["net_impact_excess"] == pytest.approx(200 * (daily["net"] - daily["market"]).mean())
    assert row["daily_excess"] == pytest.approx(row["net_impact_excess"] / 200)
    assert row["cash_share"] == pytest.approx((daily["cash"] / daily["value"]).mean())
    assert set(curve) | {"b", "capital"} == set(STRATEGY_CAPACITY_DEFINITIONS)
    with pytest.raises(ValueError, match="no return is known on the 12 days"):
        strategy_curve(policy, score, known | {"step_return": np.full_like(step, np.nan)}, capitals=[1e7])


def test_the_strategy_s_crossings_are_those_of_each_b():
    rows = pd.MultiIndex.from_product([[0.5, 1.0], [1e7, 1e9]], names=["b", "capital"])
    zeros = strategy_crossings(pd.DataFrame({"net_impact_excess": [0.1, -0.1, -0.1, 0.1]}, rows))
    assert zeros.loc[0.5, "falls_at"] == zeros.loc[1.0, "rises_at"] == pytest.approx(1e8)
    assert zeros.loc[[0.5, 1.0], ["rises_at", "falls_at"]].isna().to_numpy().sum() == 2


def test_errors_name_what_came():
    grids = market(0, days=3, stocks=4)
    for options, match in (
        ({"capitals": [0.0]}, "capital is 0.0"),
        ({"capitals": []}, r"capitals: got \[\]"),
        ({"participation": 0}, "participation is 0"),
        ({"top_n": 0}, "top_n is 0"),
        ({"benchmark": [0.0]}, "benchmark must be 3 finite"),
        ({"benchmark": [0.0, np.nan, 0.0]}, "1 not finite"),
        ({"buyable": np.ones((3, 4))}, "buyable must be bool"),
        ({"buyable": np.ones((3, 5), bool)}, r"\(D, N\)"),
        ({"horizon": 0}, "horizon"),
        ({"buy_rate": [0.1, 0.1]}, "buy_rate"),
    ):
        with pytest.raises(ValueError, match=match):
            capacity_curve(*grids[:4], **(FREE | options))
    endless = grids[0].copy()
    endless[0, 0], grids[1][0, 0] = np.inf, 1.0
    with pytest.raises(ValueError, match="score is infinite"):
        capacity_curve(endless, *grids[1:4], **FREE)
    with pytest.raises(ValueError, match="no return is known"):
        capacity_curve(grids[0], grids[1], np.full((3, 4), np.nan), grids[3], **FREE)
