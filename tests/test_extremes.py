"""Days that no market has, or one in a decade: nothing is NaN or overflows, and the numbers are those of float64.

Returns of +300% and of 1e30, scores that are constant or of 1e30, liquidity of 1e-12 and 0, 2 and 20,000 stocks, days
without a stock or with one. The oracles are numpy in float64 (their squares of 1e30 are far from its bounds), fractions
and decimals. That they agree with the slow loops of `reference` on an ordinary day is tested too.
"""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import reference
import reference_portfolio as slow
import torch
from scipy.special import expit
from scipy.stats import rankdata

from qlib_ext import losses
from qlib_ext.cross_section import cross_section_zscore, project_off
from qlib_ext.evaluate import daily_metrics, drawdown, headline, newey_west
from qlib_ext.losses import DayLoss
from qlib_ext.nets import MASTER, MLP
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import (
    CostAwarePolicy,
    Forecast,
    TopNPolicy,
    affordable,
    fill_capitals,
    fill_top_n,
    held_through,
    impact_cost,
    one_impact,
    rebalancing,
    simulate,
    sleeve_returns,
)
from qlib_ext.training import RobustScale, Trainer

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

F64, NAN = torch.float64, float("nan")
CAPITAL = 1.5e8
LABEL = {
    "ordinary": lambda y: y,
    "one of +300%": lambda y: first(y, 3.0),
    "+300% or -100%": lambda y: np.where(y > y.mean(), 3.0 + y, -1.0),
    "one of 1e30": lambda y: first(y, 1e30),
    "1e30 both ways": lambda y: np.where(y > y.mean(), 1e30, -1e30) * (1 + np.abs(y)),
}
SCORE = {
    "ordinary": lambda s: s,
    "constant": lambda s: np.full_like(s, 0.7),
    "constant 1e30": lambda s: np.full_like(s, 1e30),
    "1e30": lambda s: 1e30 * s,
    "1e-30": lambda s: 1e-30 * s,
    "one of 1e30": lambda s: first(s, 1e30),
}
LIQUIDITY = {
    "ordinary": lambda q: q,
    "one of 1e-12": lambda q: first(q, 1e-12),
    "one of 1e30": lambda q: first(q, 1e30),
    "0 but of one": lambda q: np.where(np.arange(len(q)) == 1, q, 0.0),
    "equal": lambda q: np.full_like(q, 1e-12),
}
VOLATILITY = {
    "ordinary": lambda v: v,
    "0": lambda v: 0.0 * v,
    "one of 1e-12": lambda v: first(v, 1e-12),
    "one of 1e30": lambda v: first(v, 1e30),
}
CONFIGS = [
    *({"name": "wpcc", "target": target, "weight_by": by} for target in losses.TARGETS for by in losses.WEIGHT_SOURCES),
    {"name": "wpcc", "center": "plain"},
    {"name": "wpcc", "base": 1e-3},
    *({"name": "liq_wpcc", "weight_by": by} for by in losses.WEIGHT_SOURCES),
    {"name": "liq_wpcc", "target": "volatility", "weight_by": "target"},
    {"name": "liq_wpcc", "center": "plain"},
    {"name": "liq_wpcc", "alpha": 1e30},
    *({"name": name, "target": target} for name in ("ic", "ccc") for target in losses.TARGETS),
]


def label_of(config):
    return "-".join(str(value) for value in config.values())


def first(values, value):
    return np.where(np.arange(len(values)) == 0, value, values)


def days_of(stocks):
    """Score, label, mask, liquidity, volatility (B, N): each kind of a grid beside ordinary ones, and all at once."""
    rng = np.random.default_rng(stocks)
    grids = [rng.normal(size=stocks), rng.normal(0, 0.03, stocks), rng.lognormal(18, 1.5, stocks)]
    grids.append(rng.uniform(0.01, 0.05, stocks))
    kinds = (SCORE, LABEL, LIQUIDITY, VOLATILITY)
    rows = [
        [change(g) if k == n else g for k, g in enumerate(grids)]
        for n, kind in enumerate(kinds)
        for change in kind.values()
    ]
    rows += [[list(kind.values())[-n](g) for kind, g in zip(kinds, grids, strict=True)] for n in (1, 2, 3)]
    score, label, liquidity, volatility = (np.stack(column) for column in zip(*rows, strict=True))
    return score, label, np.ones(score.shape, dtype=bool), liquidity, volatility


def with_empty_days(score, label, mask, liquidity, volatility):
    """Three days more at their head: no stock, one stock, one label, with garbage and extremes in their places."""
    grids = [np.concatenate([grid[-3:], grid]) for grid in (score, label, mask, liquidity, volatility)]
    score, label, mask, *_ = grids
    mask[0] = mask[1, 1:] = False
    score[0], label[0] = NAN, np.inf
    label[2, 1:] = NAN
    return grids


def tensors(grids, kind):
    return [torch.from_numpy(grid) if grid.dtype == bool else torch.from_numpy(grid).to(kind) for grid in grids]


# --- the losses


def target_of(kind, label, volatility):
    if kind == "rank":
        rank = rankdata(label)
        return (rank - rank.mean()) / rank.std()
    positive = volatility[volatility > 0]
    if kind == "raw" or not len(positive):
        return label
    middle = np.median(positive)
    return label * middle / np.maximum(volatility, middle / 10)


def weights_of(name, source, liquidity, *, base=0.5, alpha=40.0):
    count = len(source)
    if name == "wpcc":
        place = np.empty(count)
        place[np.argsort(-source, kind="stable")] = np.arange(count)
        return base ** (place / (count - 1))
    if name != "liq_wpcc":
        return np.ones(count)
    known = liquidity > 0
    log = np.log(np.where(known, liquidity, 1.0))
    low, high = log[known].min(), log[known].max()
    level = np.where(known, (log - low) / (high - low), 0.0) if high > low else np.zeros(count)
    return 0.5 + 0.5 * expit(alpha * level * source)


def oracle(config, score, label, mask, liquidity, volatility):
    """One day's loss, in float64."""
    name, by = config["name"], config.get("weight_by", "label")
    real = mask & np.isfinite(label)
    s, y, q, v = (values[real].astype(np.float64) for values in (score, label, liquidity, volatility))
    if len(s) < 2 or np.ptp(y) == 0 or (name == "liq_wpcc" and not (q > 0).any()):
        return 0.0
    goal = target_of(config.get("target", "raw"), y, v)
    if name == "ccc":
        spread = s.var() + goal.var() + (s.mean() - goal.mean()) ** 2
        return -2 * np.mean((s - s.mean()) * (goal - goal.mean())) / spread
    source = {"label": y, "score": s, "target": goal}[by]
    if (name, by) == ("liq_wpcc", "score"):
        source = np.empty_like(y)
        source[np.argsort(-s, kind="stable")] = np.sort(y)[::-1]
    weight = weights_of(name, source, q, **{key: config[key] for key in ("base", "alpha") if key in config})
    share = weight / weight.sum()
    if np.ptp(s) == 0:
        return 0.0
    guard, means = 0.0, [share @ s, share @ goal]
    covariance = share @ ((s - means[0]) * (goal - means[1]))
    if config.get("center") == "plain":
        guard, means = 1e-8, [s.mean(), goal.mean()]
    squares = [share @ (values - mean) ** 2 + guard for values, mean in zip((s, goal), means, strict=True)]
    return -covariance / math.sqrt(squares[0]) / math.sqrt(squares[1])


@pytest.mark.parametrize("config", CONFIGS, ids=label_of)
def test_the_oracle_is_that_of_the_slow_loops(config):
    rng = np.random.default_rng(1)
    day = (rng.normal(size=23), rng.normal(0, 0.03, 23), rng.random(23) > 0.2, rng.lognormal(18, 1, 23), rng.random(23))
    options = {key: value for key, value in config.items() if key not in ("name", "alpha")}
    if config.get("alpha", 0) < 1e30:
        expected = reference.day_loss(config["name"], *day, **options)
        assert oracle(config, *day) == pytest.approx(expected, abs=1e-12) != 0


SIZES = [(n, kind) for n in (2, 3, 60) for kind in ("float64", "float32", "bfloat16")] + [(20_000, "float32")]


@pytest.mark.parametrize(("stocks", "precision"), SIZES)
@pytest.mark.parametrize("config", CONFIGS, ids=label_of)
def test_losses_are_those_of_float64(config, stocks, precision):
    """bfloat16 is the network's output, as the trainer has it on a CPU; labels and the rest are float32 then."""
    kind = F64 if precision == "float64" else torch.float32
    grids = with_empty_days(*days_of(stocks))
    score, label, mask, liquidity, volatility = tensors(grids, kind)
    score = score.to(getattr(torch, precision)).requires_grad_()
    loss = DayLoss(**config)
    value = loss.per_day(score, label, mask, liquidity, volatility)
    (grad,) = torch.autograd.grad(value.sum(), score)
    assert grad.isfinite().all() and (value.abs() <= 1).all() and value[:3].tolist() == [0, 0, 0]
    assert loss(score, label, mask, liquidity, volatility).isfinite()
    rows = zip(
        score.detach().double().numpy(), label.numpy(), grids[2], liquidity.numpy(), volatility.numpy(), strict=True
    )
    expected = [oracle(config, *row) for row in rows]
    near = 1e-9 if precision == "float64" else 2e-5
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=0, atol=near)
    if config["name"] != "ccc":  # a shift of all scores changes nothing
        total, size = grad.double().sum(dim=1), grad.double().abs().sum(dim=1)
        assert (total.abs() <= (2e-2 if precision == "bfloat16" else 1e-3) * size + 1e-36).all()


def test_the_squared_error_of_1e30_is_more_than_float32_holds_and_that_is_all():
    score, label, mask, *_ = (torch.from_numpy(grid) for grid in days_of(60))
    exact = DayLoss("mse").per_day(score, label, mask)
    np.testing.assert_allclose(
        exact, [((s - y) ** 2).mean() for s, y in zip(score.numpy(), label.numpy(), strict=True)]
    )
    score = score.float().requires_grad_()
    value = DayLoss("mse").per_day(score, label.float(), mask)
    (grad,) = torch.autograd.grad(value.sum(), score)
    assert grad.isfinite().all() and torch.equal(value.isinf(), exact > 1e38) and not value.isnan().any()


@pytest.mark.parametrize("name", ["ic", "ccc", "wpcc", "liq_wpcc"])
@pytest.mark.parametrize("power", [-90, -30, 30, 90])
def test_a_power_of_two_changes_no_bit(name, power):
    """Of the score; of score and label in ccc, which compares them."""
    score, label, mask, liquidity, _ = (torch.from_numpy(grid[:1]).float() for grid in days_of(60))
    mask, scale = mask > 0, 2.0**power
    loss = DayLoss(name)
    other = loss.per_day(score * scale, label * (scale if name == "ccc" else 1.0), mask, liquidity)
    assert torch.equal(other, loss.per_day(score, label, mask, liquidity)) and other.item() != 0


# --- exposures taken off


@pytest.mark.parametrize(
    ("name", "stocks"),
    [*((name, n) for name in ("ic", "ccc", "wpcc", "liq_wpcc") for n in (5, 60)), ("liq_wpcc", 20_000)],
)
def test_neutral_losses_are_finite(name, stocks):
    grids = with_empty_days(*days_of(stocks))
    own = 1e30 * np.random.default_rng(9).normal(size=grids[0].shape)
    loads = torch.from_numpy(np.stack([grids[4], np.log(np.where(grids[3] > 0, grids[3], 1.0)), own], axis=2)).float()
    score, label, mask, liquidity, volatility = tensors(grids, torch.float32)
    score.requires_grad_()
    loss = DayLoss(name, neutral=["volatility", "liquidity", "own"])
    value = loss.per_day(score, label, mask, liquidity, volatility, loads)
    (grad,) = torch.autograd.grad(value.sum(), score)
    assert grad.isfinite().all() and (value.abs() <= 1).all() and value[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [1e30, 1e-30])
def test_residuals_are_those_of_least_squares(value):
    rng = np.random.default_rng(3)
    loads, weight = rng.normal(size=(2, 60, 2)), rng.random((2, 60))
    label = value * rng.normal(size=(2, 60))
    loads[0, 0, 0], loads[1, :, 1] = 1e3, 1e30 * loads[1, :, 1]
    every = torch.ones(2, 60, dtype=torch.bool)
    got = project_off(*(torch.from_numpy(grid) for grid in (label, loads, weight)), every).numpy()
    for day in range(2):
        design = np.column_stack([np.ones(60), loads[day] / np.abs(loads[day]).max(axis=0)])
        root = np.sqrt(weight[day])
        slope = np.linalg.lstsq(design * root[:, None], label[day] * root, rcond=None)[0]
        np.testing.assert_allclose(got[day], label[day] - design @ slope, rtol=0, atol=1e-6 * value)


# --- the metrics


@pytest.mark.parametrize("stocks", [1, 2, 60, 20_000])
def test_metrics_are_those_of_the_oracle(stocks):
    some = slice(None, None, 4 if stocks == 20_000 else 1)
    score, label, mask, liquidity, volatility = (grid[some] for grid in with_empty_days(*days_of(stocks)))
    score = np.where(mask, score, NAN)
    with np.errstate(all="raise"):
        daily = daily_metrics(score, label, liquidity, capital=CAPITAL)
    assert not np.isinf(daily.to_numpy()).any()
    for d in range(len(score)):
        day = (score[d], label[d], mask[d], liquidity[d], volatility[d])
        counts = mask[d] & np.isfinite(label[d])
        for name in ("ic", "wpcc", "liq_wpcc"):
            defined = counts.sum() > 1 and (name != "liq_wpcc" or (liquidity[d][counts] > 0).any())
            expected = -oracle({"name": name}, *day) if defined else NAN
            assert daily[name][d] == pytest.approx(expected, abs=1e-9, nan_ok=True), (name, d)
            assert not abs(daily[name][d]) > 1
        yuan = slow.fill_day(score[d], liquidity[d], capital=CAPITAL, participation=0.05)
        earned = sum(y * r for y, r in zip(yuan, label[d], strict=True) if math.isfinite(r)) / CAPITAL
        assert daily["capped_return"][d] == pytest.approx(earned if counts.sum() > 1 else NAN, rel=1e-9, nan_ok=True)


def test_a_table_of_returns_of_1e30_is_written():
    """Compounded to a year, 1e30 on one day of three is more than a float holds: inf, and no exception."""
    found = headline([0.01, 1e30, -0.02], ic=[0.1])
    assert found["mean_return"] == found["annual_return"] * 3 / 242 == pytest.approx(1e30)
    assert found["sharpe"] == pytest.approx(math.sqrt(242 / 3)) and found["deck_ratio"] == math.inf
    account = headline([0.01, 1e30, -0.02], compounded=True)
    assert account["mean_return"] == pytest.approx(1.01 * 0.98e30) and account["max_drawdown"] == pytest.approx(-0.02)
    long = headline([1e30] + [0.0] * 241, compounded=True)
    assert long["annual_return"] == pytest.approx(1e30) and math.isfinite(long["deck_ratio"])
    assert drawdown([3.0, -1.0], compounded=True).tolist() == [0.0, -1.0]
    mean, error, _ = newey_west([1e30, -1e30, 1e30, 0.0], lags=1)
    assert mean == 0.25e30 and 0 < error < 1e30


# --- capital placed


@pytest.mark.parametrize("capital", [1e-6, 1.5e8, 1e30])
@pytest.mark.parametrize("options", [{}, {"top_n": 3}, {"max_weight": 0.05}], ids=label_of)
def test_fills_are_those_of_fractions(options, capital):
    score, _, _, liquidity, _ = days_of(40)
    liquidity[0] = np.geomspace(1e-12, 1e30, 40)
    yuan = fill_top_n(score, liquidity, capital=capital, **options)
    (other,) = fill_capitals(score, liquidity, [capital], **options)
    np.testing.assert_allclose(other, yuan, rtol=1e-9, atol=1e-12 * capital)
    for s, q, got in zip(score, liquidity, yuan, strict=True):
        order = [i for i in np.argsort(-s, kind="stable") if q[i] > 0]
        cap = {i: Fraction(0.05) * Fraction(q[i]) for i in order}
        if "max_weight" in options:
            cap = {i: min(most, Fraction(0.05) * Fraction(capital)) for i, most in cap.items()}
        left, expected = Fraction(capital), dict.fromkeys(range(len(s)), Fraction(0))
        if "top_n" in options:
            some = order[:3]
            total = sum(Fraction(q[i]) for i in some)
            expected |= {i: min(Fraction(capital) * Fraction(q[i]) / total, cap[i]) for i in some}
        else:
            for i in order:
                expected[i] = min(cap[i], left)
                left -= expected[i]
        np.testing.assert_allclose(got, [float(expected[i]) for i in range(len(s))], rtol=1e-9, atol=1e-12 * capital)
        assert sum(map(Fraction, got)) <= Fraction(capital) * (1 + Fraction(1e-12))


# --- costs


def test_impact_is_that_of_decimals():
    grid = [
        (x, q, v) for x in (1e-6, 5.0, 3e8, 1e18) for q in (1e-12, 1.0, 2e8, 1e30) for v in (0.0, 1e-12, 0.02, 1e30)
    ]
    trade, liquidity, volatility = np.array(grid).T
    got = impact_cost(-trade, liquidity, volatility)
    with localcontext() as context:
        context.prec = 50
        for (x, q, v), cost in zip(grid, got, strict=True):
            expected = float(Decimal(x) * Decimal(v) * (Decimal(x) / Decimal(q)).sqrt())
            assert cost == pytest.approx(expected, rel=1e-12) and one_impact(x, q, v) == pytest.approx(
                expected, rel=1e-12
            )


@pytest.mark.parametrize("cash", [0.0, 0.01, 1e4, 1e12, 1e30])
@pytest.mark.parametrize("liquidity", [1e-12, 1e7, 1e30])
@pytest.mark.parametrize("volatility", [0.0, 0.02, 1e30])
def test_what_cash_buys_is_paid_for(cash, liquidity, volatility):
    def cost(yuan):
        return max(3e-4 * yuan, 5.0 if yuan > 0 else 0.0) + one_impact(yuan, liquidity, volatility)

    yuan = affordable(1e30, cash, cost)
    assert 0 <= yuan <= cash and Fraction(yuan) + Fraction(cost(yuan)) <= Fraction(cash) * (1 + Fraction(1e-15))
    if (liquidity, volatility) == (1e7, 0.0):
        assert yuan == pytest.approx(max(min(cash / 1.0003, cash - 5.0) if cash > 5 else 0.0, 0.0), rel=1e-9)


# --- holdings and accounts


@pytest.mark.parametrize("horizon", [1, 3])
def test_holdings_through_returns_of_1e30(horizon):
    rng = np.random.default_rng(4)
    target, step = rng.uniform(0, 1e7, (8, 6)), rng.normal(0, 0.03, (8, 6))
    step[2, 0], step[3, 1], step[4, 2], step[5, 3], step[6, 4] = 1e30, 3.0, -1.0, np.inf, NAN
    known, flags = np.where(np.isfinite(step), step, 0.0), rng.random((2, 8, 6)) < 0.7
    score = rng.normal(size=(8, 6))
    held = held_through(target, step, *flags, capital=CAPITAL, score=score, horizon=horizon)
    expected = slow.held_through(target, known, *flags, CAPITAL, score, horizon)
    np.testing.assert_allclose(held, expected, rtol=1e-12, atol=1e-6)
    assert (held >= 0).all()
    gains = sleeve_returns(held, step, horizon, capital=CAPITAL)
    expected = slow.sleeve_returns(held, known, horizon, capital=CAPITAL)
    np.testing.assert_allclose(gains, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(rebalancing(held, step, horizon), rebalancing(held, known, horizon))


FORECAST = Forecast(places=(0.1, 0.5, 0.9), levels=(-2e-3, 0.0, 2e-3), half_lives=(5.0,), significant=True)
POLICIES = [TopNPolicy(top_n=2), TopNPolicy(participation=0.3, rank_buffer=2.0), CostAwarePolicy(FORECAST)]


@pytest.mark.parametrize("policy", POLICIES, ids=["top_n", "full", "cost_aware"])
@pytest.mark.parametrize("stocks", [1, 2, 2000])
def test_accounts_through_any_market_keep_their_money(policy, stocks):
    score, label, _, liquidity, volatility = days_of(stocks)
    label = np.where(np.abs(label) > 1e29, 0.0, label)  # but for one day: on all of them an account is beyond a float
    label[7, 0] = 1e30
    label[9, -1] = np.inf
    rng = np.random.default_rng(5)
    flags = dict(zip(("buyable", "sellable"), rng.random((2, *score.shape)) < 0.9, strict=True))
    for participation in (None, 0.1):
        done = simulate(
            policy, score, liquidity=liquidity, volatility=volatility, step_return=label, buy_rate=4e-4,
            sell_rate=14e-4, account=1e7, participation=participation, **flags,
        )  # fmt: skip
        daily = done.daily
        value, cash = daily["value"].to_numpy(), daily["cash"].to_numpy()
        assert np.isfinite(daily.drop(columns=["market", "excess"])).all(axis=None)
        assert (cash >= -1e-12 * value).all() and (done.holdings >= 0).all()
        before = value / (1 - daily["fees"] - daily["impact"]).to_numpy()  # the account before the day's trades
        earned = (daily["gross"] * before).to_numpy()
        assert (np.abs(value[:-1] + earned[:-1] - before[1:]) <= 1e-9 * (value[:-1] + before[1:])).all()
        assert (daily["turnover"] > 0).any()


def test_an_account_of_a_day_of_1e30_by_hand():
    """Half of 1e7 in the stock that rises by 1e30: the account is worth its half times 1e30."""
    step = [[1e30, 0.0], [0.0, 0.0]]
    market = {"liquidity": np.full((2, 2), 1e9), "volatility": np.full((2, 2), 0.02), "step_return": step}
    daily = simulate(
        TopNPolicy(participation=0.005, capital=1e7), [[2.0, 1.0]] * 2, **market, account=1e7, impact=0.0, least=0.0
    ).daily
    assert daily["gross"][0] == pytest.approx(0.5e30) and daily["value"][1] == pytest.approx(0.5e37)
    assert daily["cash"].min() >= 0


# --- features, and a whole training


def test_features_of_any_size_are_scaled():
    rng = np.random.default_rng(6)
    value = rng.normal(size=(60, 6))
    value[0] = 3e38, -3e38, NAN, np.inf, 1e30, 1e-30
    value[:, 5] = 1e-30
    got = cross_section_zscore(value.copy(), 3.0)
    assert np.isfinite(got).all() and np.abs(got).max() <= 3 and (got[:, 5] == 0).all()
    rest = np.where(np.isfinite(value[:, 4]), value[:, 4], 0.0)
    np.testing.assert_allclose(got[:, 4], np.clip((rest - rest.mean()) / rest.std(), -3, 3), atol=1e-9)


TRAINED = [
    {"name": "wpcc"},
    {"name": "wpcc", "center": "plain"},
    {"name": "liq_wpcc"},
    {"name": "ccc", "target": "rank"},
    {"name": "ic", "target": "volatility"},
]


def panel_of(days, stocks, label=LABEL["ordinary"]):
    """A panel with a signal, a day without a stock, one with a single one, and liquidity of 1e-12 and 0."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(days, stocks, 3)).astype(np.float32)
    returns = 0.02 * x[..., 0] + 0.01 * rng.normal(size=(days, stocks))
    returns = np.stack([label(row) for row in returns])
    present = rng.random((days, stocks)) > 0.1
    present[3], present[4, 1:] = False, False
    x[..., 2], x[5, :, 1] = 7.0, 1e30
    x[~present] = 0
    liquidity = rng.lognormal(18, 1, (days, stocks))
    liquidity[:, 0], liquidity[6], liquidity[7] = 1e-12, 0.0, 1e30
    return DayPanel(
        days=pd.bdate_range("2024-01-01", periods=days).to_numpy(),
        stocks=np.array([f"S{n:05d}" for n in range(stocks)], dtype=object),
        features=["signal", "wild", "constant"],
        x=torch.from_numpy(x),
        present=torch.from_numpy(present),
        label=torch.from_numpy(returns).float(),
        liquidity=torch.from_numpy(liquidity).float(),
        volatility=torch.from_numpy(rng.uniform(0, 0.05, (days, stocks))).float(),
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("loss", TRAINED, ids=label_of)
@pytest.mark.parametrize("kind", ["one of +300%", "1e30 both ways"])
def test_a_training_on_such_days_ends_with_numbers(kind, loss, precision):
    panel = panel_of(30, 40, LABEL[kind])
    for net, step_len in ((MLP(3, (8,), dropout=0.1), 1), (MASTER(3, 8, 2, 2, dropout=0.1), 2)):
        trainer = Trainer(
            net,
            DayLoss(**loss),
            metric="rank_ic",
            epochs=2,
            lr=1e-2,
            device="cpu",
            precision=precision,
            scale="robust",
            step_len=step_len,
        )
        history = trainer.fit(panel, np.arange(2, 20), np.arange(20, 30))
        assert all(-1 <= row["train_loss"] <= 1 for row in history.epochs)
        assert all(parameter.isfinite().all() for parameter in net.parameters())
        score = trainer.predict(panel, np.arange(20, 30))
        assert np.array_equal(np.isfinite(score), panel.present[20:30].numpy())


def test_a_squared_error_of_returns_of_1e30_stops_the_training_and_says_why():
    trainer = Trainer(MLP(3, (8,)), DayLoss("mse"), metric="rank_ic", epochs=1, device="cpu")
    with pytest.raises(FloatingPointError, match="the loss became inf.*labels"):
        trainer.fit(panel_of(30, 40, LABEL["one of 1e30"]), np.arange(2, 20), np.arange(20, 30))


def test_robust_scale_of_features_of_1e30():
    panel = panel_of(10, 40)
    scale = RobustScale(3)
    scale.fit(panel, np.arange(10))
    out = scale(panel.x)
    assert out.isfinite().all() and out.abs().max() <= 3 and scale.scale.isfinite().all()
