"""The best trades of a day: by hand, against a general solver, and what always holds."""

import cvxpy as cp
import numpy as np
import pytest

from qlib_ext.portfolio import optimal_trades

MILLION = 1e6
TIGHT = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-10)
KINDS = ("roomy", "tight caps", "little cash", "bounds", "bounds out of reach")


def instance(seed, kind, stocks=40):
    """Arguments of `optimal_trades`, of a random day on which the limit of `kind` binds."""
    draw = np.random.default_rng(seed)
    capital, exposures = 150e6, {"bounds": 3, "bounds out of reach": 2}.get(kind, 0)
    liquidity, sigma = np.exp(draw.normal(18, 1, stocks)), draw.uniform(0.01, 0.05, stocks)
    held = np.where(draw.random(stocks) < 0.5, draw.uniform(0, 1, stocks), 0.0)
    held *= draw.uniform(0.5, 1) * capital / held.sum()
    aversion, share = draw.choice([1, 5]), 0.002 if kind == "tight caps" else 0.2
    lower = -np.minimum(held, share * liquidity)
    upper = np.maximum(np.minimum(0.05 * capital - held, share * liquidity), lower)
    loads = draw.normal(size=(stocks, exposures))
    bounds = [(-abs(active) / 2, abs(active) / 2) for active in loads.T @ (held - capital / stocks) / capital]
    if kind == "bounds out of reach":
        bounds[0] = (3.0, 3.1)
    return {
        "held": held, "gain": draw.normal(0.003, 0.003, stocks), "risk": aversion * sigma**2 / capital * 5,
        "lower": lower, "upper": upper, "capital": capital, "benchmark": capital / stocks,
        "cash": 0.0 if kind == "little cash" else capital - held.sum(),
        "impact": draw.choice([0.3, 1.0]) * sigma / np.sqrt(liquidity), "buy_rate": 3e-4, "sell_rate": 1.3e-3,
        "market_risk": aversion * 0.015**2 / capital, "exposures": loads,
        "bounds": bounds,
    }  # fmt: skip


def worth(day, trade):
    """Gain of trades over none, their costs, and the sum of their distances to the bounds (shares of the capital)."""
    held, capital = day["held"], day["capital"]

    def level(x):
        active = x - day["benchmark"]
        return day["gain"] @ x - (day["risk"] / 2 * active**2).sum() - day["market_risk"] / 2 * (x.sum() - capital) ** 2

    size = np.abs(trade)
    costs = (np.where(trade > 0, day["buy_rate"], day["sell_rate"]) * size + day["impact"] * size**1.5).sum()
    active = day["exposures"].T @ (held + trade - day["benchmark"]) / capital
    beyond = [max(least - a, a - most, 0.0) for a, (least, most) in zip(active, day["bounds"], strict=True)]
    return level(held + trade) - level(held) - costs, costs, sum(beyond)


def oracle(day, price):
    """Trades by cvxpy, in millions inside; `price`: of a distance of 1 to the bounds, yuan; inf: all that counts."""
    trade = cp.Variable(len(day["held"]))
    after, capital = day["held"] / MILLION + trade, day["capital"] / MILLION
    fees = day["buy_rate"] * cp.sum(cp.pos(trade)) + day["sell_rate"] * cp.sum(cp.neg(trade))
    costs = fees + cp.sum(cp.multiply(day["impact"] * MILLION**0.5, cp.power(cp.abs(trade), 1.5)))
    active = after - day["benchmark"] / MILLION
    risk = cp.sum(cp.multiply(day["risk"] * MILLION / 2, cp.square(active)))
    market = day["market_risk"] * MILLION / 2 * cp.square(cp.sum(after) - capital)
    goal, beyond = day["gain"] @ after - risk - costs - market, 0.0
    for load, (least, most) in zip(day["exposures"].T, day["bounds"], strict=True):
        beyond += cp.pos(least - load @ active / capital) + cp.pos(load @ active / capital - most)
    goal = -beyond if price == np.inf else goal - price / MILLION * beyond
    limits = [MILLION * trade >= day["lower"], MILLION * trade <= day["upper"]]
    limits.append(cp.sum(trade) + costs <= day["cash"] / MILLION)
    cp.Problem(cp.Maximize(goal), limits).solve(solver="CLARABEL", **TIGHT)
    return trade.value * MILLION


def test_two_stocks_by_hand():
    # one stock to buy: 0.003 - 0.001 fee - 1e-9 u - 1.5e-6 sqrt(u) = 0, r = sqrt(u): 1e-9 r^2 + 1.5e-6 r - 0.002 = 0,
    # r = (-1.5e-6 + sqrt(2.25e-12 + 8e-12)) / 2e-9 = 850.781, u = 723_828.4; the other falls 0.001, its fee is 0.002
    best = optimal_trades(
        [0.0, 1e6], [0.003, -0.001], [1e-9, 1e-9], lower=[0.0, -1e6], upper=[1e7, 0.0], cash=1e7, capital=1.1e7,
        benchmark=[0.0, 1e6], impact=[1e-6, 1e-6], buy_rate=0.001, sell_rate=0.002,
    )  # fmt: skip
    np.testing.assert_allclose(best.trade, [723828.4, 0.0], atol=0.1)
    # 0.002 u - 1e-9/2 u^2 - 1e-6 u^1.5 = 1447.657 - 261.964 - 615.820
    np.testing.assert_allclose([best.gain, *best.stock_gain], [569.873, 569.873, 0.0], atol=1e-3)
    assert best.cash_price == 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_gain_is_that_of_a_general_solver(kind, seed):
    day = instance(seed, kind)
    best = optimal_trades(**day)
    price = np.abs(best.exposure_price).max(initial=0.0) * day["capital"]
    gain, costs, beyond = worth(day, best.trade)
    other, _, other_beyond = worth(day, oracle(day, price if kind == "bounds out of reach" else 3 * price))
    np.testing.assert_allclose(gain, best.gain, rtol=1e-9)
    if kind == "bounds out of reach":
        assert beyond > 0.1
        np.testing.assert_allclose(gain - price * beyond, other - price * other_beyond, rtol=1e-6)
    else:
        assert beyond <= 1e-9
        np.testing.assert_allclose(gain, other, rtol=1e-6, atol=0.01)  # yuan, of 150 million: what cvxpy leaves
    assert (best.trade >= day["lower"]).all() and (best.trade <= day["upper"]).all()
    assert best.trade.sum() + costs <= day["cash"] + 1e-6
    binding = {
        "roomy": True,
        "tight caps": (np.isin(best.trade, [day["lower"], day["upper"]]) & (best.trade != 0)).any(),
        "little cash": best.cash_price > 0,
    }
    assert binding.get(kind, (best.exposure_price != 0).any())


@pytest.mark.parametrize("seed", [108, 183, 192])  # each has a price that comes near 0 long before the others fit
def test_limits_that_can_be_kept_are_kept_though_a_price_comes_near_zero(seed):
    day = instance(seed, "bounds")
    sector = np.arange(len(day["held"])) % 2
    day["exposures"] = np.column_stack([day["exposures"][:, :2], 1 - sector, sector])
    day["bounds"] = [(-0.1, 0.1), (-0.2, 0.2), (-0.05, 0.05), (-0.05, 0.05)]
    best = optimal_trades(**day)
    assert best.distance.max() <= 1e-9
    price = np.abs(best.exposure_price).max() * day["capital"]
    other, _, beyond = worth(day, oracle(day, 1.5 * price))  # the dearer a distance, the less exact is cvxpy
    assert beyond <= 1e-9
    np.testing.assert_allclose(best.gain, other, rtol=3e-6)


def test_distance_to_bounds_out_of_reach_is_the_smallest():
    day = instance(5, "bounds out of reach")
    best = optimal_trades(**day)
    smallest = worth(day, oracle(day, np.inf))[2]
    np.testing.assert_allclose(best.distance.sum(), smallest, rtol=1e-4)
    np.testing.assert_allclose(best.distance.sum(), worth(day, best.trade)[2], rtol=1e-9)


def test_an_account_in_debt_sells_what_it_may():
    best = optimal_trades(
        [1e6, 1e6], [0.01, 0.01], [1e-9, 1e-9], lower=[-3e5, -2e5], upper=[1e6, 1e6], cash=-6e5, capital=2e6
    )
    np.testing.assert_allclose(best.trade, [-3e5, -2e5])
    np.testing.assert_allclose(best.missing_cash, 1e5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"risk": [0.0, 1e-9]}, "risk > 0"),
        ({"lower": [1.0, 0.0]}, "lower <= upper"),
        ({"gain": [np.nan, 0.0]}, "NaN"),
        ({"exposures": [[1.0], [2.0]]}, "bounds"),
        ({"held": [0.0]}, "shapes"),
    ],
)
def test_what_cannot_be_is_refused(change, words):
    day = {"held": [0.0, 0.0], "gain": [0.0, 0.0], "risk": [1e-9, 1e-9], "lower": [0.0, 0.0], "upper": [0.0, 0.0]}
    with pytest.raises(ValueError, match=words):
        optimal_trades(**day | {"cash": 0.0, "capital": 1.0} | change)
