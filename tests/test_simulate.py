"""The simulated account: by hand, and against an account that deals stock by stock; smoothed scores."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import reference_portfolio as slow

from qlib_ext.cross_section import ranks
from qlib_ext.portfolio import CostAwarePolicy, Day, Forecast, Risk, TopNPolicy, simulate, smoothed

FEES = {"buy_rate": 0.0004, "sell_rate": 0.0014}


@dataclass
class Fixed:
    """Holds the same yuan whatever comes."""

    yuan: tuple
    capital: float | None = None
    in_shares: bool = False

    def prepare(self, score):
        return np.asarray(score, dtype=float)

    def target(self, day):
        return np.array(self.yuan, dtype=float)


def grids(days, stocks, **changed):
    flat = {"liquidity": 1e6, "volatility": 0.02, "step_return": 0.0}
    return {name: np.full((days, stocks), value) for name, value in flat.items()} | changed


def test_golden_of_two_days():
    # 100,000 in cash. Day 0: buy 50,000 of the first stock: fees 0.0004 * 50,000 = 20, impact 50,000 * 0.02 *
    # sqrt(50,000 / 1e6) = 223.61; cash 49,756.39. It earns 10%: 5,000 on 100,000. Day 1: 55,000 held, 5,000 are sold:
    # fees 0.0014 * 5,000 = 7, of which the commission of 1.5 becomes 5: 10.5; impact 5,000 * 0.02 * sqrt(0.005) = 7.07.
    step = np.array([[0.10, 0.0], [0.0, 0.02]])
    done = simulate(Fixed((5e4, 0.0)), [[2.0, 1.0]] * 2, **grids(2, 2, step_return=step), account=1e5, **FEES)
    first, second = done.daily.to_dict("records")
    moved = 5e4 * 0.02 * math.sqrt(0.05)
    assert first["gross"] == pytest.approx(0.05) and first["fees"] == pytest.approx(0.0002)
    assert first["impact"] == pytest.approx(moved / 1e5) and first["turnover"] == pytest.approx(0.5)
    assert first["cash"] == pytest.approx(5e4 - 20 - moved) and first["value"] == pytest.approx(1e5 - 20 - moved)
    assert first["market"] == pytest.approx(0.05) and first["names"] == 1
    assert first["excess"] == pytest.approx(0.05 - 0.0002 - moved / 1e5 - 0.05)
    before = 1e5 + 5e3 - 20 - moved
    assert second["fees"] * before == pytest.approx(10.5)
    assert second["impact"] * before == pytest.approx(5e3 * 0.02 * math.sqrt(0.005))
    assert second["market"] == pytest.approx(0.01) and done.holdings.tolist() == [5e4, 0.0]


@dataclass
class Asked(Fixed):
    """Keeps what it was told each day."""

    def __post_init__(self):
        self.days = []

    def target(self, day):
        self.days.append(day)
        return super().target(day)


def test_the_policy_is_told_the_day_and_what_was_known_before():
    policy, rng = Asked((1e4, 0.0)), np.random.default_rng(0)
    known = {name: rng.uniform(0.01, 0.05, (3, 2)) for name in ("volatility", "step_return")}
    known["liquidity"], known["universe"] = np.array([[1e6, 2e6], [np.nan, 3e6], [4e6, 5e6]]), rng.random((3, 2)) < 0.5
    risk = Risk(rng.random((3, 2)), rng.random((3, 2)), rng.random(3))
    rates = {"buy_rate": np.array([1e-4, 2e-4, 3e-4]), "sell_rate": np.array([4e-4, 5e-4, 6e-4])}
    exposures = rng.random((3, 2, 4))
    done = simulate(policy, [[2.0, 1.0]] * 3, **known, **rates, risk=risk, exposures=exposures, account=1e5)
    for d, day in enumerate(policy.days):
        for name in ("liquidity", "volatility", "universe"):
            np.testing.assert_array_equal(getattr(day, name), known[name][d])
        np.testing.assert_array_equal(day.known_liquidity, [[1e6, 2e6], [1e6, 3e6], [4e6, 5e6]][d])
        np.testing.assert_array_equal(day.exposures, exposures[d])
        np.testing.assert_array_equal(day.specific, risk.specific[d])
        assert (day.market_volatility, day.buy_rate, day.sell_rate) == (risk.market[d], *(r[d] for r in rates.values()))
        assert day.score.tolist() == [2.0, 1.0] and day.held.tolist() == [1e4 * (d > 0), 0.0]
        assert day.value == pytest.approx(done.daily["value"][d - 1] if d else 1e5)
    bare = Asked((1e4, 0.0))
    simulate(bare, [[2.0, 1.0]], **grids(1, 2), account=1e5)
    day = bare.days[0]
    assert day.exposures is None and day.specific is None and day.market_volatility is None


def market(seed, days=25, stocks=12):
    rng = np.random.default_rng(seed)
    shape = (days, stocks)
    liquidity, volatility = rng.lognormal(14, 1, shape), rng.uniform(0.01, 0.04, shape)
    liquidity[rng.random(shape) < 0.1] = np.nan
    volatility[rng.random(shape) < 0.1] = np.nan
    liquidity[:10, 0] = volatility[:12, 1] = np.nan
    step = rng.normal(0.0, 0.03, shape)
    trades = rng.random(shape) < 0.9
    step[:-1][~trades[1:]] *= rng.random(step[:-1][~trades[1:]].shape) < 0.5
    score = np.round(rng.normal(size=shape), 1)
    score[rng.random(shape) < 0.1] = np.nan
    score[7] = np.nan
    known = {"liquidity": liquidity, "volatility": volatility, "step_return": step}
    flags = {"buyable": trades & (rng.random(shape) < 0.9), "sellable": trades & (rng.random(shape) < 0.9)}
    return score, known | flags, rng


def slow_account(policy, score, grids, *, account, min_holding, participation, b, least, delisted):
    """Account by day: (holdings, cash, value before the trades, fees, impact, dealt); the policy is asked as it is."""
    days, stocks = score.shape
    held, cash, since, rows = [0.0] * stocks, account, [-math.inf] * stocks, []
    seen = [d for d in range(days) if not np.isnan(score[d]).all()]
    prepared = dict(zip(seen, policy.prepare(score[seen]), strict=True))
    known, sigma = [None] * stocks, [None] * stocks
    for d in range(days):
        fees = impact = dealt = 0.0
        for i in range(stocks):
            known[i] = known[i] if math.isnan(grids["liquidity"][d, i]) else grids["liquidity"][d, i]
            sigma[i] = sigma[i] if math.isnan(grids["volatility"][d, i]) else grids["volatility"][d, i]
            if delisted[d, i] and held[i] > 0:
                fee = min(FEES["sell_rate"] * held[i] + max(least - 0.0003 * held[i], 0.0), held[i])
                cash, fees, dealt, held[i] = cash + held[i] - fee, fees + fee, dealt + held[i], 0.0
        target = None
        if d in prepared:
            vectors = [np.array([math.nan if x is None else x for x in values]) for values in (known, sigma)]
            value, universe = cash + sum(held), ~np.isnan(score[d])
            day = Day(prepared[d], np.array(held), grids["liquidity"][d], *vectors, value, *FEES.values(), universe)
            target = policy.target(day)
        held = [x * (1 + (grids["step_return"][d - 1, i] if d else 0.0)) for i, x in enumerate(held)]
        before = cash + sum(held) + fees
        if target is not None:
            names = ("liquidity", "volatility", "buyable", "sellable", "young")
            flags = grids["buyable"][d], grids["sellable"][d], [d - x < min_holding for x in since]
            at = [dict(zip(names, values, strict=True)) for values in zip(known, sigma, *flags, strict=True)]
            rank = ranks(prepared[d])
            empty = [x == 0 for x in held]
            rules = {"capital": policy.capital, "participation": participation, "rates": tuple(FEES.values())}
            rules |= {"commission": 0.0003, "least": least, "b": b}
            held, cash, *costs = slow.account_day(held, cash, target, rank, at, **rules)
            fees, impact, dealt = fees + costs[0], costs[1], dealt + costs[2]
            since = [d if empty[i] and held[i] > 0 else since[i] for i in range(stocks)]
        rows.append((list(held), cash, before, fees, impact, dealt))
    return rows


POLICIES = [
    TopNPolicy(participation=0.3),
    TopNPolicy(capital=6e5, participation=0.2, rank_buffer=2.0),
    TopNPolicy(capital=2e6, participation=0.4, top_n=4, rank_buffer=(3, 7)),
    TopNPolicy(participation=0.3, score_halflife=3.0, rank_buffer=1.5),
    Fixed((1e5, 5e4, 0, 2e5, 0, 3e5, 1e4, 0, 0, 2e5, 1e6, 7e4)),
]


@pytest.mark.parametrize("policy", POLICIES, ids=range(len(POLICIES)))
@pytest.mark.parametrize(("b", "min_holding"), [(1.0, 0), (0.0, 3)])
def test_agrees_with_the_account_that_deals_stock_by_stock(policy, b, min_holding):
    for seed in range(3):
        score, known, rng = market(seed)
        delisted = np.zeros(score.shape, dtype=bool)
        delisted[15:, 3] = True
        known["buyable"][15:, 3] = known["sellable"][15:, 3] = False
        known["step_return"][14:, 3] = 0.0
        rules = {"account": 1e6, "min_holding": min_holding, "participation": 0.1, "least": 5.0}
        done = simulate(policy, score, **known, delisted=delisted, impact=b, **rules, **FEES)
        rows = slow_account(policy, score, known, delisted=delisted, b=b, **rules)
        held, cash, before, fees, impact, dealt = (np.array(x) for x in zip(*rows, strict=True))
        daily = done.daily
        np.testing.assert_allclose(done.holdings, held[-1], atol=1e-5)
        np.testing.assert_allclose(daily["cash"], cash, atol=1e-5)
        np.testing.assert_allclose(daily["value"], cash + held.sum(axis=1), rtol=1e-12)
        for name, yuan in (("fees", fees), ("impact", impact), ("turnover", dealt)):
            np.testing.assert_allclose(daily[name], yuan / before, atol=1e-12)
        gain = (held * known["step_return"]).sum(axis=1)
        np.testing.assert_allclose(daily["gross"], gain / before, atol=1e-12)
        np.testing.assert_allclose(daily["net"], (gain - fees - impact) / before, atol=1e-12)
        assert daily["cash"].min() >= 0 and (daily["turnover"] > 0).sum() > 4


@pytest.mark.parametrize("account", [3.0, 60.0, 900.0])
def test_an_account_of_a_few_yuan_sells_what_it_can_pay_for(account):
    step = np.random.default_rng(0).normal(0.0, 0.02, (60, 12))
    score = np.random.default_rng(1).normal(size=(60, 12))
    known = grids(60, 12, step_return=step) | {
        "buyable": np.ones(step.shape, bool),
        "sellable": np.ones(step.shape, bool),
    }
    rules = {"account": account, "min_holding": 0, "participation": 0.1, "least": 5.0}
    daily = simulate(TopNPolicy(top_n=3), score, **known, **rules, **FEES).daily
    rows = slow_account(TopNPolicy(top_n=3), score, known, delisted=score > 9, b=1.0, **rules)
    np.testing.assert_allclose(daily["cash"], [row[1] for row in rows], atol=1e-6)
    assert daily["cash"].min() >= 0 and daily["value"].min() > 0
    mean = simulate(TopNPolicy(top_n=3), score, **known, **rules, **FEES, start="mean").daily
    assert mean["cash"].min() > -1e-9 and mean["value"].min() > 0
    # a sale of 2 yuan pays 5: not made while there is no cash
    one = simulate(Fixed((0.0, 0.0)), [[1.0, 2.0]], **grids(1, 2), account=4.0, start="mean").daily
    assert one["turnover"].item() == 0 and one["value"].item() == 4.0


@pytest.mark.parametrize("policy", [TopNPolicy(), CostAwarePolicy(Forecast())])
def test_an_account_that_loses_everything_has_no_shares_of_it(policy):
    step = np.zeros((4, 2))
    step[1] = -1.0
    day = grids(4, 2, step_return=step) | {"buyable": np.zeros(step.shape, bool)}
    daily = simulate(policy, np.ones((4, 2)), **day, start="mean", account=1e5).daily
    assert daily["net"].tolist()[:2] == [0.0, -1.0] and daily["value"].tolist()[2:] == [0.0, 0.0]
    assert daily[["net", "turnover", "excess"]].iloc[2:].isna().all(axis=None)


def test_the_mean_portfolio_that_is_never_traded_is_the_mean_stock():
    """Equal yuan at the start drift apart afterwards: the first day is the mean itself, later ones are nearly."""
    rng = np.random.default_rng(0)
    step, nothing = rng.normal(0.0, 0.02, (5, 40)), np.full((5, 40), np.nan)
    done = simulate(Fixed((0.0,) * 40), nothing, **grids(5, 40, step_return=step), universe=nothing != 0, start="mean")
    assert done.daily["excess"].iloc[0] == pytest.approx(0.0, abs=1e-15)
    assert done.daily["turnover"].max() == 0 and done.daily["excess"].abs().max() < 5e-3
    value = 150e6 * (1 + step[:-1]).prod(axis=0).mean()
    assert done.daily["value"].iloc[-1] == pytest.approx(value) and done.daily["cash"].abs().max() < 1e-6


def test_an_account_may_start_late_and_the_policy_still_knows_the_days_before():
    score, known, _ = market(5)
    policy = TopNPolicy(participation=0.3, score_halflife=5.0)
    late = simulate(policy, score, **known, first=10, account=1e6, **FEES).daily
    without = score.copy()
    without[:10] = np.nan
    forgotten = simulate(policy, without, **known, first=10, account=1e6, **FEES).daily
    assert list(late.index) == list(range(10, 25)) and not late.equals(forgotten)
    known["step_return"][:10] = 9.9
    assert late.equals(simulate(policy, score, **known, first=10, account=1e6, **FEES).daily)


def test_nothing_of_the_future_changes_a_day():
    score, known, rng = market(6)
    policy = TopNPolicy(participation=0.3, score_halflife=2.0, rank_buffer=2.0)
    before = simulate(policy, score, **known, account=1e6, **FEES).daily
    for grid in (score, *known.values()):
        grid[13:] = grid[13:][::-1]
    after = simulate(policy, score, **known, account=1e6, **FEES).daily
    assert after.iloc[:13].equals(before.iloc[:13]) and not after.iloc[13:].equals(before.iloc[13:])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"start": "equal"}, "start is 'equal'"),
        ({"start": [1e9, 0.0]}, "in sum at most the account's"),
        ({"start": [1.0, 1.0, 1.0]}, "start must be 2 holdings"),
        ({"start": [2.0, -1.0]}, "start must be 2 holdings of at least 0 yuan"),
        ({"first": 2}, "first is 2"),
        ({"volatility": np.ones((1, 2))}, r"volatility \(1, 2\)"),
        ({"participation": 5}, "participation is 5"),
        ({"universe": np.ones((1, 2), dtype=bool)}, "shapes must be one"),
    ],
)
def test_refuses(options, match):
    with pytest.raises(ValueError, match=match):
        simulate(Fixed((0.0, 0.0)), np.zeros((2, 2)), **(grids(2, 2) | options))


# --- smoothed scores


def test_smoothing_golden():
    # Half-life of one day: weights 1, 1/2, 1/4 from the newest. Ranks from the bottom over the number of scores: the
    # first stock 1/2, 1, none, 1; the second 1, 1/2, 1, 1/2. The first stock's third day keeps (1 + 1/2 * 1/2) / 1.5.
    score = [[1.0, 9.0], [5.0, 2.0], [math.nan, 3.0], [8.0, 7.0]]
    first = [0.5, (1 + 0.5 * 0.5) / 1.5, (1 + 0.5 * 0.5) / 1.5, (1 + 0.25 * 1 + 0.125 * 0.5) / 1.375]
    assert smoothed(score, 1.0)[:, 0].tolist() == pytest.approx(first)
    assert smoothed(score, None).tolist()[0] == [0.5, 1.0] and math.isnan(smoothed(score, 0)[2, 0])


def test_a_policy_keeps_a_stock_without_a_score_for_a_halflife():
    score = np.full((6, 2), [2.0, 1.0])
    score[1:, 0] = math.nan
    prepared = TopNPolicy(score_halflife=2.0).prepare(score)
    assert np.isnan(prepared[:, 0]).tolist() == [False, False, False, True, True, True]
    assert TopNPolicy().prepare(score).tolist()[0] == [2.0, 1.0]
