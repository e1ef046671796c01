"""The policy of the best trades: against a dynamic programme of one stock, and what always holds."""

from dataclasses import replace

import numpy as np
import pytest

from qlib_ext.portfolio import CostAwarePolicy, Day, Forecast, foresight, optimal_trades, simulate

RATES = {"buy_rate": 0.0003, "sell_rate": 0.0008}


def fading(persistence, spread=1.0):
    """Forecast of an AR(1) signal."""
    return Forecast(half_lives=(-1 / np.log2(persistence),), persistence=persistence, spread=spread)


# --- one stock: risk 1 a day, a forecast of standard deviation 1


def chain(rho, states=25, width=3.0):
    """States of a discretised AR(1) signal, and their transitions."""
    state = np.linspace(-width, width, states)
    step = np.exp(-((state - rho * state[:, None]) ** 2) / (2 * (1 - rho**2)))
    return state, step / step.sum(axis=1, keepdims=True)


def programme(rho, impact, fee, least):
    """Best holding (states, holdings) by value iteration, and the grid of holdings."""
    state, step = chain(rho)
    grid = np.linspace(least, 4.0, 101)
    trade = grid - grid[:, None]
    cost = impact * np.abs(trade) ** 1.5 + fee * np.abs(trade)
    value = np.zeros((len(state), len(grid)))
    for _ in range(3000):
        after = state[:, None] * grid - grid**2 / 2 + step @ value
        better = (after[:, None] - cost).max(axis=2)
        change = better - value
        value = better - better.mean()
        if np.ptp(change) < 1e-4:
            break
    return (after[:, None] - cost).argmax(axis=2), grid


def earned(rho, impact, fee, trade):
    """Mean gain a day of trades (stocks,) of holdings and states (stocks,)."""
    state, step = chain(rho)
    draw = np.random.default_rng(0)
    at, held, total = np.full(400, len(state) // 2), np.zeros(400), 0.0
    for day in range(600):
        at = (step.cumsum(axis=1)[at] < draw.random(400)[:, None]).sum(axis=1).clip(max=len(state) - 1)
        bought = trade(held, at)
        held = held + bought
        if day >= 200:
            gain = state[at] * held - held**2 / 2 - impact * np.abs(bought) ** 1.5 - fee * np.abs(bought)
            total += gain.mean() / 400
    return total


@pytest.mark.parametrize("least", [-4.0, -0.5])  # -0.5: long only, the benchmark holds 0.5
@pytest.mark.parametrize(("impact", "fee"), [(0.3, 0.0), (3.0, 0.3), (0.1, 1.0), (3.0, 3.0)])
def test_policy_reaches_95_percent_of_the_dynamic_programme(impact, fee, least):
    rho = 0.95
    best, grid = programme(rho, impact, fee, least)
    state, _ = chain(rho)
    gains, risks = foresight(np.array([impact]), fee, persistence=rho, decay=fading(rho).decay)

    def trades(held, at):
        return optimal_trades(
            held - least, gains * state[at], np.broadcast_to(risks, held.shape), benchmark=-least, impact=impact,
            lower=least - held, upper=100.0, cash=1e9, capital=1.0, buy_rate=fee, sell_rate=fee,
        ).trade  # fmt: skip

    def programmed(held, at):
        return grid[best[at, np.abs(held[:, None] - grid).argmin(axis=1)]] - held

    optimum = earned(rho, impact, fee, programmed)
    assert optimum > 0
    assert earned(rho, impact, fee, trades) >= 0.95 * optimum


# --- a day of many stocks


def a_day(seed=0, stocks=200, **changes):
    draw = np.random.default_rng(seed)
    liquidity, value = np.exp(draw.normal(18.5, 1.0, stocks)), 150e6
    day = Day(
        score=draw.normal(0, 0.001, stocks),
        held=np.full(stocks, value / stocks),
        liquidity=liquidity,
        known_liquidity=liquidity,
        volatility=draw.uniform(0.015, 0.04, stocks),
        value=value,
        **RATES,
        universe=np.ones(stocks, dtype=bool),
    )
    return replace(day, **changes)


def policy(**options):
    return CostAwarePolicy(fading(0.95, 0.001), **{"participation": None, "trade_participation": None} | options)


def test_without_a_forecast_the_mean_portfolio_is_left_alone():
    day = a_day(score=np.zeros(200))
    np.testing.assert_array_equal(policy().target(day), day.held)


def test_without_costs_the_aim_itself_is_held():
    day = a_day(buy_rate=0.0, sell_rate=0.0)
    risk = 10.0 * day.volatility**2 / day.value
    score = day.score / 100
    score -= (score / risk).sum() / (1 / risk).sum()  # so that the aim costs what there is
    target = policy(impact=0.0, risk_aversion=10.0, least_commission=0.0).target(replace(day, score=score))
    np.testing.assert_allclose(target, day.held + score / risk, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_caps_and_cash_always_hold(seed):
    draw = np.random.default_rng(seed)
    day = a_day(seed)
    day = replace(day, held=day.held * draw.choice([0.0, 0.5, 3.0], 200) / 2)
    options = {"participation": 0.02, "trade_participation": 0.01, "max_weight": 0.02, "risk_aversion": 1.0}
    target = policy(**options).target(day)
    trade, most = np.abs(target - day.held), 0.01 * day.known_liquidity
    cap = np.minimum(0.02 * day.known_liquidity, 0.02 * day.value)
    assert (target >= 0).all() and (trade <= most * (1 + 1e-9)).all()
    assert (target <= np.maximum(cap, day.held - most) * (1 + 1e-9)).all()  # what is above its cap goes at full speed
    buys, sells = np.maximum(target - day.held, 0.0), np.maximum(day.held - target, 0.0)
    paid = 0.0003 * buys + 0.0008 * sells + day.volatility * trade**1.5 / np.sqrt(day.liquidity)
    assert buys.sum() - sells.sum() + paid.sum() <= day.value - day.held.sum() + 1e-6


def test_never_worse_than_no_trade():
    for seed in range(5):
        best = policy().solve(a_day(seed))
        assert best.gain > 0
        assert (best.stock_gain >= -1e-9).all()


def test_ten_times_the_capital_holds_smaller_active_weights():
    def active(value):
        day = a_day(value=value, held=np.full(200, value / 200))
        return np.abs(policy().target(day) / value - 1 / 200).sum()

    assert active(1500e6) < 0.9 * active(150e6)


def test_bounds_of_exposures_hold_and_where_they_cannot_the_distance_is_told():
    load = np.random.default_rng(1).normal(size=(200, 1))
    day = a_day(exposures=load)
    day = replace(day, score=day.score + 0.001 * load[:, 0])
    free = policy().target(day)
    bounded = policy(bounds={"load": (-0.05, 0.05)}).solve(day)
    assert load[:, 0] @ (free - day.held) / day.value > 0.1
    np.testing.assert_allclose(bounded.exposure, [0.05])
    np.testing.assert_allclose(bounded.exposure, load.T @ bounded.trade / day.value)
    assert bounded.distance[0] <= 1e-9
    far = policy(bounds={"load": (5.0, 6.0)}, trade_participation=0.01).solve(day)
    assert far.distance[0] > 1.0


def test_a_trade_that_does_not_pay_the_least_commission_is_not_made():
    day = a_day(stocks=2000)
    trades, cheaper = policy().solve(day), policy(least_commission=0.0).solve(day)
    size = np.abs(trades.trade[trades.trade != 0])
    assert len(size) < np.count_nonzero(cheaper.trade)
    assert (trades.stock_gain[trades.trade != 0] + 0.0003 * size >= 4.9).all()


def test_what_is_not_known_is_not_bought_nor_what_was_never_traded_sold():
    nan = np.full(200, np.nan)
    held = np.where(np.arange(200) < 100, 1e6, 0.0)
    day = a_day(held=held)
    sold_only = policy(risk_aversion=100.0).target(replace(day, score=nan, universe=np.zeros(200, dtype=bool)))
    assert (sold_only <= held).all() and (sold_only < held).any()
    for unknown in ({"known_liquidity": nan, "liquidity": nan}, {"volatility": nan}):
        np.testing.assert_array_equal(policy().target(replace(day, **unknown)), held)


def test_what_the_day_knows_counts():
    day = a_day(held=np.zeros(200))
    placed = policy().target(day)
    assert policy(capital=3e7).target(day).sum() <= 3e7 * (1 + 1e-9) < 0.5 * placed.sum()
    calm, wild = (
        policy().target(replace(day, score=day.score / 10, market_volatility=sigma)).sum() for sigma in (0.002, 0.02)
    )
    assert wild > 1.02 * calm  # idle cash lacks the market's return
    dropped = np.where(np.arange(200) % 2, np.nan, day.liquidity)  # known once, not today: nothing is bought
    assert (policy().target(replace(day, liquidity=dropped))[1::2] == 0).all() and (placed[1::2] > 0).any()
    specific = np.where(np.arange(200) % 2, 3 * day.volatility, np.nan)  # NaN: its volatility
    wary = policy().target(replace(day, specific=specific))
    assert wary[1::2].sum() / wary.sum() < 0.7 * placed[1::2].sum() / placed.sum()


def test_idle_cash_is_invested_until_what_it_risks_pays_no_more_fees():
    """One stock that is the benchmark: at the optimum a yuan more costs what it takes off the risk of idle cash.

    That risk is the fixed point of a value that a trade of 1% of the capital may stop: v = r + c v / (c + v).
    """
    capital, fee, sigma, one = 1e6, 0.001, 0.02, np.ones(1)
    day = Day(0 * one, 0 * one, 1e9 * one, 1e9 * one, sigma * one, capital, fee, fee, one > 0,
              specific=0 * one, market_volatility=sigma)  # fmt: skip
    idle = capital - policy(impact=0.0, risk_aversion=10.0, max_weight=None).target(day).sum()
    risk, cost, value = 10.0 * sigma**2 / capital, fee / (0.01 * capital), 0.0
    for _ in range(1000):
        value = risk + cost * value / (cost + value)
    assert idle == pytest.approx(fee / value, rel=0.01)  # the stock's own risk, at least 0.1% a day, is next to nothing


@pytest.mark.parametrize("options", [{"risk_aversion": 0.0}, {"participation": 1.5}, {"benchmark": "SH000300"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        policy(**options)


# --- an account that follows it


def test_an_account_without_a_forecast_stays_the_mean_portfolio():
    draw = np.random.default_rng(0)
    step = draw.normal(0, 0.02, (20, 50))
    known = {"liquidity": np.full((20, 50), 1e8), "volatility": np.full((20, 50), 0.02)}
    done = simulate(policy(), np.zeros((20, 50)), step_return=step, **known, start="mean", account=1e8)
    assert (done.daily["turnover"] == 0).all()
    np.testing.assert_allclose(done.holdings, 2e6 * np.prod(1 + step[:-1], axis=0))


def test_an_account_earns_by_a_signal_more_than_its_trades_cost():
    draw = np.random.default_rng(1)
    days, stocks, rho = 150, 100, 0.95
    noise, signal = draw.normal(0, 0.001 * np.sqrt(1 - rho**2), (days, stocks)), np.zeros((days, stocks))
    for d in range(1, days):
        signal[d] = rho * signal[d - 1] + noise[d]
    step = signal + draw.normal(0, 0.02, (days, stocks))
    known = {"liquidity": np.full((days, stocks), 1e8), "volatility": np.full((days, stocks), 0.02)}

    class Knowing(Forecast):
        def prepare(self, score):
            return score

    forecast = Knowing(half_lives=(-1 / np.log2(rho),), persistence=rho, spread=0.001)
    done = simulate(CostAwarePolicy(forecast), signal, step_return=step, **known, start="mean", **RATES)
    assert done.daily["excess"].sum() > 0
    assert done.daily["gross"].sum() - done.daily["market"].sum() > 2 * done.daily[["fees", "impact"]].sum().sum()
