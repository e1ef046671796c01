"""The bound of what the planted signals can earn: second solvers, hand goldens, and that no policy passes it."""

import itertools
import json

import numpy as np
import pytest
from scipy.optimize import minimize

from qlib_ext.synthetic import Account, Terms, best_account, bound, bound_of, make_market, simulate, terms

SMALL = {"n_stocks": 12, "years": 0.4, "seed": 3}
SPAN = ("2020-03-16", "2020-03-27")
MONEY = {"capital": 6e6, "participation": 0.05, "b": 1.0}


def made_up(excess, *, cap=1.0, impact=0.02, mean_stock=0.001, trades=True):
    excess = np.array(excess)
    days, shape = len(excess), excess.shape
    rates = np.full(days, 0.0004), np.full(days, 0.0014)
    on = np.broadcast_to(np.array(trades), shape)
    return Terms(excess, np.full(days, mean_stock), np.full(shape, cap), np.full(shape, impact), on, *rates)


def value_of(rules, plan):
    account = Account(rules)
    for trade in np.reshape(plan, rules.excess.shape):
        account.deal(trade)
    return account.value


def test_an_account_by_hand():
    account = Account(made_up([[0.1], [0.0]], mean_stock=0.01))
    account.deal(np.array([0.25]))  # pays .25 * .0004 + .02 * .125 = .0026, .9974 left, of it .7474 in cash
    assert account.value == pytest.approx(0.9974 + 0.025 - 0.007474) and account.held == pytest.approx([0.275])
    account.deal(np.array([-0.16]))  # pays .16 * .0014 + .02 * .064 = .001504; cash is all but .115
    after = 1.014926 - 0.001504
    assert account.value == pytest.approx(after - 0.01 * (after - 0.115))


def test_no_plan_of_a_grid_beats_the_best_account_and_one_comes_near():
    rules = made_up([[0.03], [-0.02], [0.05]], cap=0.6)
    best, trades = best_account(rules)
    assert value_of(rules, trades) == pytest.approx(best, abs=1e-7)
    grid, values = np.linspace(0.0, 0.6, 17), []
    for plan in itertools.product(grid, repeat=3):
        before = np.r_[0.0, np.array(plan[:2]) * (1 + rules.excess[:2, 0])]
        values.append(value_of(rules, plan - before))
    assert 0.0 <= best - max(values) < 4e-4 and best > 1.02


@pytest.mark.parametrize("seed", [0, 1])
def test_a_second_solver_finds_the_same(seed):
    rng = np.random.default_rng(seed)
    on = np.array([[True, True], [True, False], [True, True], [True, True]])  # the second stock is suspended for a day
    rules = made_up(0.03 * rng.standard_normal((4, 2)), cap=0.7, trades=on)
    best, trades = best_account(rules)

    def room(plan):
        """What must not be negative: holdings, caps, cash."""
        account, out = Account(rules), []
        for trade, cap in zip(np.reshape(plan, (4, 2)), rules.cap, strict=True):
            held = account.held + trade
            out += [*held, *(cap - held), account.value - account.cost(trade) - held.sum()]
            account.deal(trade)
        return np.array(out)

    fixed = [(None, None) if here else (0.0, 0.0) for here in on.ravel()]
    found = minimize(
        lambda plan: -value_of(rules, plan),
        0.05 * on.ravel(),
        bounds=fixed,
        method="SLSQP",
        constraints={"type": "ineq", "fun": room},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert -found.fun == pytest.approx(best, abs=2e-6)
    assert (room(trades) > -1e-7).all() and abs(trades[1, 1]) < 1e-8


def test_a_policy_with_noise_earns_less_than_the_bound():
    rng = np.random.default_rng(0)
    rules = made_up([[0.02, 0.0, -0.02]] * 3 + [[-0.01, 0.02, 0.03]] * 3, cap=0.6)
    best, trades = best_account(rules)
    plan, values = np.cumsum(trades, axis=0).clip(min=0.0), []  # the best holdings but for what they drift
    half = 0.02 * rng.standard_normal((500, 6, 3))
    for noise in np.stack([half, -half], axis=1).reshape(-1, 6, 3):
        account = Account(rules)
        for day, target in enumerate(plan):
            account.deal((target - account.held) * 0.9)
            account.value += float(noise[day] @ account.held)
            account.held = account.held * (1.0 + noise[day])
        values.append(account.value)
    pairs = np.array(values).reshape(500, 2).mean(axis=1)  # a draw and its opposite
    assert 1.0 < pairs.mean() + 4 * pairs.std() / 500**0.5 < best


@pytest.fixture(scope="module")
def market():
    return simulate(**SMALL)


def test_terms_by_hand(market):
    rules, bars = terms(market, *SPAN, **MONEY), market.bars
    row, close = int(np.searchsorted(market.days, np.datetime64(SPAN[0]))), bars["close"] * bars["adjustment"]
    stock = int(np.flatnonzero(np.isfinite(close[row - 20 : row + 3]).all(axis=0))[0])
    assert len(rules.excess) == 10
    turnover = (bars["lots"] * 100 * bars["vwap"])[row - 19 : row + 1, stock].mean()
    returns = close[row - 19 : row + 1, stock] / close[row - 20 : row, stock] - 1
    assert rules.cap[0, stock] == pytest.approx(0.05 * turnover / 6e6)
    assert rules.impact[0, stock] == pytest.approx(returns.std(ddof=1) * (6e6 / turnover) ** 0.5)
    here = np.isfinite(close[row + 1 : row + 3]).all(axis=0)
    gain = np.where(here, bars["planted"][row], 0.0)
    assert rules.mean_stock[0] == pytest.approx(gain[np.isfinite(close[row + 1])].mean())
    np.testing.assert_allclose(rules.excess[0, here], (gain - rules.mean_stock[0])[here], atol=1e-15)
    moved = np.nanmean(close[row + 2] / close[row + 1])  # the mean stock between the first two entries
    later = (bars["lots"] * 100 * bars["vwap"])[row - 18 : row + 2, stock].mean()
    assert rules.cap[1, stock] == pytest.approx(0.05 * later / 6e6 / moved)
    assert rules.buy_rate[0] == pytest.approx(0.0003 + 0.00002) and rules.sell_rate[0] == pytest.approx(0.00132)


def test_the_policy_by_conditional_means_stays_below_the_bound(market):
    facts = bound(market, *SPAN, **MONEY)
    ideal, planned = facts["upper_bound"], facts["planned"]
    assert ideal["excess"] > planned["excess"] > 0.1 and facts["days"] == 10
    assert planned["turnover"] > 0 and planned["costs"] < planned["excess"]
    best, _ = best_account(terms(market, *SPAN, **MONEY))
    assert ideal["excess"] == pytest.approx(243 / 10 * np.log(best), rel=1e-3)
    with pytest.raises(ValueError, match="no signal day from 2030-01-01 to 2030-12-31; the market has 2020-01-02"):
        bound(market, "2030-01-01", "2030-12-31")


def test_a_regime_has_a_bound_alone():
    facts = bound(simulate(**SMALL, regime=True), *SPAN, **MONEY)
    assert facts["planned"] is None and facts["upper_bound"]["excess"] > 0.1


def test_only_the_default_market_tells_its_bound(tmp_path):
    place = make_market(tmp_path / "market", **SMALL)
    assert json.loads((place / "oracle.json").read_text())["bound"] is None
    assert "benchmarks.bench_bound" in (place / "README.md").read_text()
    default = {"n_stocks": 300, "start": "2020-01-02", "years": 3, "seed": 7, "signal": 0.003, "rho": 0.9}
    facts = bound_of(default)
    assert facts["upper_bound"]["excess"] > facts["planned"]["excess"] and facts["days"] == 236
    assert bound_of(default | {"seed": 8}) is None and bound_of(default | {"regime": True}) is None
