import itertools
import math
import pickle

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from qlib_ext import losses
from qlib_ext.losses import DayLoss

F64 = torch.float64
WEIGHTED = ("wpcc", "liq_wpcc")
WEIGHT_MODES = [
    {"target": target, "weight_by": weight_by} for target in losses.TARGETS for weight_by in losses.WEIGHT_SOURCES
]
CONFIGS = [
    *({"name": "wpcc", "ties": ties, **mode} for mode in WEIGHT_MODES for ties in losses.TIES),
    *({"name": "liq_wpcc", **mode} for mode in WEIGHT_MODES if mode != {"target": "rank", "weight_by": "target"}),
    *({"name": name, "center": "plain"} for name in WEIGHTED),
    {"name": "wpcc", "base": 0.1, "weight_by": "score"},
    {"name": "liq_wpcc", "alpha": 10.0},
    *({"name": name, "target": target} for name in ("ic", "ccc", "mse") for target in losses.TARGETS),
]
PLAIN_SET = [{"name": name, "center": center} for name in WEIGHTED for center in losses.CENTERS] + [
    {"name": name} for name in ("ic", "ccc", "mse")
]


def label_of(config):
    return "-".join(str(value) for value in config.values())


def market(seed, days=6, stocks=23, *, ties=False, dtype=F64, holes=True):
    """A batch with absent stocks, unknown labels, useless liquidity; the last two days are degenerate."""
    draw = torch.Generator().manual_seed(seed)
    score = torch.randn(days, stocks, generator=draw, dtype=F64)
    label = 0.03 * torch.randn(days, stocks, generator=draw, dtype=F64)
    if ties:
        label, score = (label * 50).round() / 50, (score * 2).round() / 2
    liquidity = torch.exp(18 + 1.5 * torch.randn(days, stocks, generator=draw, dtype=F64))
    volatility = 0.01 + 0.04 * torch.rand(days, stocks, generator=draw, dtype=F64)
    mask = torch.ones(days, stocks, dtype=torch.bool)
    if holes:
        mask = torch.rand(days, stocks, generator=draw, dtype=F64) > 0.2
        mask[1, stocks // 2 :] = False
        label[torch.rand(days, stocks, generator=draw, dtype=F64) < 0.1] = math.nan
        liquidity[0, 0], liquidity[0, 1], liquidity[2, 3], liquidity[2, 4] = 0.0, -5.0, math.nan, math.inf
        volatility[0, 0], volatility[0, 1], volatility[2, 3] = math.nan, 0.0, 1e-9
        mask[:3, :5] = True
        mask[-2] = False
        mask[-2, 3] = True
        label[-1] = 0.01
    score, label, liquidity, volatility = (t.to(dtype) for t in (score, label, liquidity, volatility))
    return score, label, mask, liquidity, volatility


def by_day(function, *tensors, **options):
    rows = zip(*(tensor.tolist() for tensor in tensors), strict=True)
    return torch.tensor([function(*row, **options) for row in rows], dtype=F64)


def same(fast, slow, tolerance=1e-6):
    torch.testing.assert_close(fast.to(F64), slow.to(F64), rtol=tolerance, atol=tolerance, equal_nan=True)


def value_and_grad(loss, score, *others):
    score = score.detach().clone().requires_grad_()
    per_day = loss.per_day(score, *others)
    (grad,) = torch.autograd.grad(per_day.sum(), score)
    return per_day.detach(), grad


# --- goldens by hand


def test_golden_rank_weight():
    # day 1: n = 3, order b, c, a -> exponents 1, 0, 1/2 -> 0.5, 1, 0.70711
    # day 2: the second stock is absent, n = 2: first is lower -> 0.5, then 1
    label = torch.tensor([[-0.01, 0.03, 0.01], [0.00, math.nan, 0.02]], dtype=F64)
    mask = torch.tensor([[True, True, True], [True, False, True]])
    same(losses.rank_weight(label, mask), torch.tensor([[0.5, 1.0, 0.7071067812], [0.5, 0.0, 1.0]]))


def test_golden_rank_weight_ties():
    # 0.02 twice at the top of three: stable 1, 0.5**0.5, 0.5
    # average: places 0.5, 0.5, 2 of 2 -> 0.5**0.25 twice, 0.5
    label, mask = torch.tensor([[0.02, 0.02, 0.0]], dtype=F64), torch.ones(1, 3, dtype=torch.bool)
    same(losses.rank_weight(label, mask), torch.tensor([[1.0, 0.7071067812, 0.5]]))
    same(losses.rank_weight(label, mask, ties="average"), torch.tensor([[0.8408964153, 0.8408964153, 0.5]]))


def test_golden_liquidity_weight():
    # day 1: liquidity 1e6, 1e7, 1e8 -> l = 0, 0.5, 1; alpha l r = 0, 20 * -0.05 = -1, 40 * 0.05 = 2
    #        sigmoid = 0.5, 0.2689414214, 0.8807970780 -> w = 0.75, 0.6344707107, 0.9403985390
    # day 2: constant liquidity -> l = 0 -> w = 0.75; the third stock is absent
    label = torch.tensor([[0.1, -0.05, 0.05], [0.1, -0.1, math.inf]], dtype=F64)
    liquidity = torch.tensor([[1e6, 1e7, 1e8], [5.0, 5.0, 1e9]], dtype=F64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    expected = torch.tensor([[0.75, 0.6344707107, 0.9403985390], [0.75, 0.75, 0.0]])
    same(losses.liquidity_weight(label, liquidity, mask), expected)


def test_golden_liquidity_without_value():
    # 0 and NaN get l = 0 and do not move the minimum: 1e6 -> 0, 1e8 -> 1
    label = torch.full((1, 4), 0.05, dtype=F64)
    liquidity = torch.tensor([[0.0, math.nan, 1e6, 1e8]], dtype=F64)
    mask = torch.ones(1, 4, dtype=torch.bool)
    expected = torch.tensor([[0.75, 0.75, 0.75, 0.9403985390]])
    same(losses.liquidity_weight(label, liquidity, mask), expected)


def test_golden_weighted_pearson():
    # w = 1, 2, 1 (sum 4), p = 0, 1, 2, r = 0, 2, 1.  Weighted means: p 1, r (0 + 4 + 1)/4 = 1.25
    # cov = (1*-1*-1.25 + 0 + 1*1*-0.25)/4 = 0.25; var p = (1+0+1)/4 = 0.5
    # var r = (1.5625 + 2*0.5625 + 0.0625)/4 = 0.6875, so "weighted" gives 0.25 / sqrt(0.34375) = 0.4264014327
    # "plain" has the means 1 and 1: var p = 0.5, var r = (1 + 2*1 + 0)/4 = 0.75
    # so it gives 0.25 / sqrt(0.375) = 0.4082482905
    score = torch.tensor([[0.0, 1.0, 2.0]] * 2, dtype=F64)
    label = torch.tensor([[0.0, 2.0, 1.0], [0.0, -2.0, -1.0]], dtype=F64)
    weight, mask = torch.tensor([[1.0, 2.0, 1.0]] * 2, dtype=F64), torch.ones(2, 3, dtype=torch.bool)
    weighted = losses.weighted_pearson(score, label, weight, mask)
    same(weighted, torch.tensor([0.4264014327, -0.4264014327]))
    plain = losses.weighted_pearson(score, label, weight, mask, center="plain")
    same(plain, torch.tensor([0.4082482905, -0.4082482905]))


def test_golden_concordance_and_error():
    # p = 0, 1, 2; r = 1, 1, 4 (mean 2): cov = (-1*-1 + 0 + 1*2)/3 = 1; var p = 2/3; var r = (1+1+4)/3 = 2;
    # gap of means 1 -> 2 / (2/3 + 2 + 1) = 6/11; squared error (1 + 0 + 4)/3; IC = 1/sqrt(4/3)
    score, target = torch.tensor([[0.0, 1.0, 2.0]], dtype=F64), torch.tensor([[1.0, 1.0, 4.0]], dtype=F64)
    mask = torch.ones(1, 3, dtype=torch.bool)
    same(losses.concordance(score, target, mask), torch.tensor([6 / 11]))
    same(losses.mean_squared_error(score, target, mask), torch.tensor([5 / 3]))
    same(losses.information_coefficient(score, target, mask), torch.tensor([math.sqrt(0.75)]))


def test_golden_target_transform():
    # ranks 0, 1.5, 1.5 -> centred -1, 0.5, 0.5, variance (1 + 1/4 + 1/4)/3 = 0.5 -> / 0.70711
    # volatility 1%, 2%, 4%, 0.01%, missing: median of the four known (1% + 2%)/2 = 1.5%; factors 1.5, 0.75,
    # 0.375, floored at a tenth: 10, missing: 1
    mask = torch.ones(1, 3, dtype=torch.bool)
    ranks = losses.target_transform(torch.tensor([[-0.1, 0.02, 0.02]], dtype=F64), mask, target="rank")
    same(ranks, torch.tensor([[-1.4142135624, 0.7071067812, 0.7071067812]]))
    label = torch.full((1, 5), 0.01, dtype=F64)
    volatility = torch.tensor([[0.01, 0.02, 0.04, 0.0001, math.nan]], dtype=F64)
    every = torch.ones(1, 5, dtype=torch.bool)
    scaled = losses.target_transform(label, every, target="volatility", volatility=volatility)
    same(scaled, torch.tensor([[0.015, 0.0075, 0.00375, 0.1, 0.01]], dtype=F64))


def test_golden_liquidity_weights_by_score():
    # l = 0, 1, 1. Scores 1, 3, 2: the day's returns 0.05, 0.00, -0.05 are dealt to stocks 2, 3, 1,
    # so alpha l r = 0, 2, 0 -> w = 0.75, 0.9403985390, 0.75
    score = torch.tensor([[1.0, 3.0, 2.0]], dtype=F64)
    label = torch.tensor([[0.05, -0.05, 0.0]], dtype=F64)
    liquidity, mask = torch.tensor([[1.0, 10.0, 10.0]], dtype=F64), torch.ones(1, 3, dtype=torch.bool)
    loss = DayLoss("liq_wpcc", weight_by="score").per_day(score, label, mask, liquidity)
    weight = [0.75, 0.9403985390, 0.75]
    expected = reference.weighted_pearson([1.0, 3.0, 2.0], [0.05, -0.05, 0.0], weight, [True] * 3, "weighted")
    same(-loss, torch.tensor([expected]))


# --- oracles


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=label_of)
def test_day_loss_agrees_with_the_oracle(config, ties):
    for seed in range(3):
        batch = market(seed, ties=ties)
        fast = DayLoss(**config).per_day(*batch)
        score, label, mask, liquidity, volatility = batch
        options = dict(config)
        slow = by_day(
            lambda *row, options=options: reference.day_loss(
                options["name"], *row, **{key: value for key, value in options.items() if key != "name"}
            ),
            score, label, mask, liquidity, volatility,
        )  # fmt: skip
        same(fast, slow)
        assert (slow[:4] != 0).all()
        assert (slow[-2:] == 0).all()


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("seed", range(4))
def test_parts_agree_with_the_oracles(seed, dtype):
    score, label, mask, liquidity, volatility = market(seed, dtype=dtype, ties=seed % 2 == 1)
    for ties, base in itertools.product(losses.TIES, (0.5, 0.1, 1.0)):
        slow = by_day(reference.rank_weight, label, mask, base=base, ties=ties)
        same(losses.rank_weight(label, mask, base=base, ties=ties), slow)
    slow = by_day(reference.liquidity_weight, label, liquidity, mask, alpha=40.0)
    same(losses.liquidity_weight(label, liquidity, mask), slow)
    weight = losses.rank_weight(label, mask)
    for center in losses.CENTERS:
        slow = by_day(reference.weighted_pearson, score, label, weight, mask, center=center)
        same(losses.weighted_pearson(score, label, weight, mask, center=center), slow)
    for target in losses.TARGETS:
        slow = by_day(
            lambda *row, target=target: reference.target_transform(*row[:2], target, row[2]),
            label, mask, volatility,
        )  # fmt: skip
        same(losses.target_transform(label, mask, target=target, volatility=volatility), slow)
    for name in ("information_coefficient", "concordance", "mean_squared_error"):
        same(getattr(losses, name)(score, label, mask), by_day(getattr(reference, name), score, label, mask))


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_plain_is_the_decks_listing(scale, dtype):
    score, label, mask, *_ = market(7, days=5, stocks=60, holes=False, dtype=dtype)
    score = score * scale
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # the listing makes its weights in the default type
    try:
        slow = torch.stack([reference.deck_listing(*day) for day in zip(score, label, strict=True)])
    finally:
        torch.set_default_dtype(before)
    same(DayLoss("wpcc", center="plain").per_day(score, label, mask), slow)
    grad = torch.autograd.functional.jacobian(lambda p: DayLoss("wpcc", center="plain")(p, label, mask), score)
    assert grad.isfinite().all()


def test_plain_gradient_is_the_decks():
    score, label, mask, *_ = market(8, days=1, stocks=40, holes=False, dtype=torch.float32)
    _, fast = value_and_grad(DayLoss("wpcc", center="plain"), score, label, mask)
    pred = score[0].clone().requires_grad_()
    (slow,) = torch.autograd.grad(reference.deck_listing(pred, label[0]), pred)
    same(fast[0], slow)


# --- gradients


@pytest.mark.parametrize("config", PLAIN_SET, ids=label_of)
def test_gradients_against_finite_differences(config):
    score, label, mask, liquidity, _ = market(3, days=4, stocks=9)
    loss = DayLoss(**config)
    assert gradcheck(lambda p: loss.per_day(p, label, mask, liquidity), (score.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_by_score_are_constants_to_the_gradient(name):
    score, label, mask, liquidity, _ = market(3, holes=False)
    loss = DayLoss(name, weight_by="score")
    _, grad = value_and_grad(loss, score, label, mask, liquidity)
    if name == "wpcc":
        weight = losses.rank_weight(score, mask)
    else:
        dealt = by_day(reference.deal, label, score, mask)
        weight = losses.liquidity_weight(dealt, liquidity, mask)
    score = score.clone().requires_grad_()
    total = -losses.weighted_pearson(score, label, weight, mask).sum()
    same(grad, torch.autograd.grad(total, score)[0])


# --- invariants

seeds = st.integers(0, 10_000)
configs = st.sampled_from(CONFIGS)
quick = settings(max_examples=25, deadline=None)


@quick
@given(seeds, configs)
def test_permutation_changes_nothing(seed, config):
    batch = market(seed)
    order = torch.randperm(batch[0].shape[1], generator=torch.Generator().manual_seed(seed))
    value, grad = value_and_grad(DayLoss(**config), *batch)
    shuffled, shuffled_grad = value_and_grad(DayLoss(**config), *(tensor[:, order] for tensor in batch))
    same(shuffled, value, 1e-9)
    same(shuffled_grad, grad[:, order], 1e-9)


@quick
@given(seeds, configs, st.sampled_from([math.nan, math.inf, -math.inf, 1e300]))
def test_garbage_under_the_mask_changes_nothing(seed, config, garbage):
    score, label, mask, liquidity, volatility = market(seed)
    clean = [torch.where(mask, tensor, 1.0) for tensor in (score, label, liquidity, volatility)]
    dirty = [torch.where(mask, tensor, garbage) for tensor in (score, label, liquidity, volatility)]
    loss = DayLoss(**config)
    value, grad = value_and_grad(loss, clean[0], clean[1], mask, *clean[2:])
    assert value.isfinite().all() and grad.isfinite().all()
    other, other_grad = value_and_grad(loss, dirty[0], dirty[1], mask, *dirty[2:])
    assert torch.equal(value, other) and torch.equal(grad, other_grad)
    assert (grad[~(mask & label.isfinite())] == 0).all()


@quick
@given(seeds, configs, st.integers(0, 9))
def test_padded_batch_equals_single_days(seed, config, extra):
    batch = market(seed)
    fills = (math.nan, 5.0, False, math.nan, math.inf)
    padded = [
        torch.nn.functional.pad(tensor, (0, extra), value=fill) for tensor, fill in zip(batch, fills, strict=True)
    ]
    value, grad = value_and_grad(DayLoss(**config), *padded)
    for day in range(value.shape[0]):
        present = batch[2][day]
        single = [tensor[day : day + 1, present] for tensor in batch]
        one, one_grad = value_and_grad(DayLoss(**config), *single)
        same(value[day : day + 1], one, 1e-9)
        same(grad[day, : -extra or None][present], one_grad[0], 1e-9)


@quick
@given(
    seeds,
    st.sampled_from([config for config in CONFIGS if config["name"] not in ("ccc", "mse")]),
    st.floats(-6, 6),
    st.floats(-3, 3),
)
def test_positive_affine_changes_of_the_score_change_nothing(seed, config, power, shift):
    if config.get("center") == "plain":
        return  # the deck's guard is absolute
    score, *others = market(seed)
    scale = 10**power
    value, grad = value_and_grad(DayLoss(**config), score, *others)
    other, other_grad = value_and_grad(DayLoss(**config), scale * (score + shift), *others)
    same(other, value)
    same(other_grad * scale, grad)
    single = scale * (score.float() + shift)
    same(
        DayLoss(**config).per_day(single, *(t.float() if t.is_floating_point() else t for t in others)),
        value,
        2e-5,
    )


@quick
@given(seeds)
def test_negating_the_score_negates_the_ic(seed):
    score, *others = market(seed)
    same(DayLoss("ic").per_day(-score, *others), -DayLoss("ic").per_day(score, *others), 1e-12)


# --- degenerate days, batches


DEGENERATE = {
    "no stock": ([False] * 3, [0.01, 0.02, 0.03], [1.0, 2.0, 3.0]),
    "one stock": ([False, True, False], [0.01, 0.02, 0.03], [1.0, 2.0, 3.0]),
    "one label": ([True] * 3, [math.nan, 0.02, math.inf], [1.0, 2.0, 3.0]),
    "no label": ([True] * 3, [math.nan] * 3, [1.0, 2.0, 3.0]),
    "equal labels": ([True] * 3, [0.1, 0.1, 0.1], [1.0, 2.0, 3.0]),
    "no liquidity": ([True] * 3, [0.01, 0.02, 0.03], [0.0, -1.0, math.nan]),
}


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("why", DEGENERATE)
@pytest.mark.parametrize("config", CONFIGS, ids=label_of)
def test_degenerate_days_give_nothing(config, why, dtype):
    if why == "no liquidity" and config["name"] != "liq_wpcc":
        return
    mask, label, liquidity = DEGENERATE[why]
    loss = DayLoss(**config)
    day = (torch.tensor([label], dtype=dtype), torch.tensor([mask]), torch.tensor([liquidity], dtype=dtype))
    assert loss.valid_days(*day).tolist() == [False]
    score = torch.tensor([[math.nan, 1.0, 2.0]], dtype=dtype).requires_grad_()
    total = loss(score, *day, torch.ones(1, 3, dtype=dtype))
    total.backward()
    assert total.item() == 0.0
    assert score.grad.tolist() == [[0.0, 0.0, 0.0]]


def test_parts_survive_degenerate_days():
    for mask, label, liquidity in DEGENERATE.values():
        label, mask = torch.tensor([label]), torch.tensor([mask])
        liquidity = torch.tensor([liquidity])
        score = torch.tensor([[1.0, math.nan, 2.0]]).masked_fill(mask, 1.0)
        for weight in (losses.rank_weight(label, mask), losses.liquidity_weight(label, liquidity, mask)):
            assert weight.isfinite().all()
            for center in losses.CENTERS:
                assert losses.weighted_pearson(score, label, weight, mask, center=center).tolist() == [0.0]
        assert losses.concordance(score, label, mask).isfinite().all()
        assert losses.mean_squared_error(score, label, mask).isfinite().all()


@pytest.mark.parametrize("center", losses.CENTERS)
def test_equal_labels_give_no_gradient_to_a_correlation(center):
    score, label, mask, *_ = market(0, dtype=torch.float32, holes=False)
    weight, score = losses.rank_weight(label, mask), score.requires_grad_()
    value = losses.weighted_pearson(score, torch.full_like(label, 0.1), weight, mask, center=center)
    (grad,) = torch.autograd.grad(value.sum(), score)
    assert (value == 0).all() and (grad == 0).all()


def test_labels_that_vary_only_without_weight_give_nothing():
    weight = torch.tensor([[0.13, 0.31, 0.77, 0.37, 0.91, 0.0]])
    label, mask = torch.tensor([[0.1, 0.1, 0.1, 0.1, 0.1, 0.3]]), torch.ones(1, 6, dtype=torch.bool)
    score = torch.tensor([[1.0, 2.0, -1.0, 0.5, 3.0, 1.0]], requires_grad=True)
    value = losses.weighted_pearson(score, label, weight, mask)
    (grad,) = torch.autograd.grad(value.sum(), score)
    assert value.tolist() == [0.0] and (grad == 0).all()


def test_no_stocks_at_all():
    empty, mask = torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)
    for config in CONFIGS:
        assert DayLoss(**config)(empty, empty, mask, empty, empty).item() == 0.0


def test_zero_weight_gives_zero():
    score, label, mask, *_ = market(0, holes=False)
    for center in losses.CENTERS:
        value = losses.weighted_pearson(score, label, torch.zeros_like(score), mask, center=center)
        assert (value == 0).all()


@pytest.mark.parametrize("level", [0.0, 0.1, -1e6, 1e-30])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_constant_score_gives_zero_and_a_finite_gradient(level, dtype):
    _, label, mask, liquidity, _ = market(1, dtype=dtype)
    score = torch.full_like(label, level)
    for config in PLAIN_SET[:-2]:
        value, grad = value_and_grad(DayLoss(**config), score, label, mask, liquidity)
        assert value.abs().max() < 1e-6 and grad.isfinite().all()
        if config.get("center") != "plain":
            assert (value == 0).all() and grad.abs().max() < 1
            assert (grad[0] * label[0])[mask[0] & label[0].isfinite()].sum() < 0  # a step down follows the label


def test_float_noise_on_a_constant_score_is_no_signal():
    _, label, mask, *_ = market(1, dtype=torch.float32)
    noise = torch.randint(-2, 3, label.shape, generator=torch.Generator().manual_seed(0))
    score = 0.1 + noise * 2.0**-27  # a float32 step at 0.1
    value, grad = value_and_grad(DayLoss("wpcc"), score, label, mask)
    assert value.abs().max() < 1e-6 and grad.abs().max() < 1


def test_mean_over_valid_days_only():
    batch = market(5)
    for config in CONFIGS:
        loss = DayLoss(**config)
        valid = loss.valid_days(batch[1], batch[2], batch[3])
        assert valid.tolist() == [True, True, True, True, False, False]
        per_day = loss.per_day(*batch)
        assert loss(*batch).item() == pytest.approx(sum(per_day[:4].tolist()) / 4, abs=1e-12)


@pytest.mark.parametrize("name", ["ic", "wpcc", "liq_wpcc", "mse"])
def test_the_valid_days_are_asked_for_once(monkeypatch, name):
    calls, real = [], DayLoss.valid_days
    monkeypatch.setattr(DayLoss, "valid_days", lambda self, *given: calls.append(1) or real(self, *given))
    label = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    DayLoss(name)(label, label, torch.ones(3, 8, dtype=torch.bool), label.exp())
    assert calls == [1]


def test_a_non_finite_score_of_a_labelled_stock_shows():
    for config, bad in itertools.product(CONFIGS, (math.nan, math.inf, -math.inf)):
        score, *others = market(5, holes=False)
        score[0, 2] = bad
        per_day = DayLoss(**config).per_day(score, *others)
        assert not per_day[0].isfinite() and per_day[1:].isfinite().all(), config


@pytest.mark.parametrize("config", CONFIGS, ids=label_of)
def test_half_precision_is_computed_in_float32(config):
    score, label, mask, liquidity, volatility = market(2, dtype=torch.float32)
    for half in (torch.bfloat16, torch.float16):
        low = score.to(half).requires_grad_()
        value = DayLoss(**config).per_day(low, label, mask, liquidity, volatility)
        assert value.dtype == torch.float32
        same(value, DayLoss(**config).per_day(low.detach().float(), label, mask, liquidity, volatility), 1e-12)
        value.sum().backward()
        assert low.grad.dtype == half and low.grad.isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_inputs_all_in_half_precision_are_computed_in_float32(half):
    batch = market(2, dtype=half, holes=False)
    wide = [tensor.float() if tensor.is_floating_point() else tensor for tensor in batch]
    for config in CONFIGS:
        value = DayLoss(**config).per_day(*batch)
        assert value.dtype == torch.float32
        same(value, DayLoss(**config).per_day(*wide), 1e-12)


# --- the known difficulty


def test_the_first_order_formula_of_the_volatility_bias():
    # E[w r]/E[w] against (20/3) l sigma^2, r symmetric by construction; first order, so small sigma
    draw = 0.01 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    label = torch.cat([draw, -draw])
    label = torch.cat([label, 0.5 * label, 0.0 * label, label], dim=1)
    liquidity = torch.tensor([[1e8, 1e8, 1e6, 1e7]], dtype=F64).expand_as(label)  # l = 1, 1, 0, 0.5
    weight = losses.liquidity_weight(label, liquidity, torch.ones_like(label, dtype=torch.bool))
    score = (weight * label).mean(dim=0) / weight.mean(dim=0)
    formula = 20 / 3 * torch.tensor([1.0, 1.0, 0.0, 0.5]) * torch.tensor([1e-4, 0.25e-4, 0.0, 1e-4])
    torch.testing.assert_close(score, formula.to(F64), rtol=0.06, atol=1e-12)


def volatility_pay(config):
    """Correlation that the score "volatility" earns on returns of mean 0, over 60 days of 2000 stocks."""
    draw = torch.Generator().manual_seed(11)
    sigma = 0.01 + 0.03 * torch.rand(60, 2000, generator=draw, dtype=F64)
    noise = torch.randn(30, 2000, generator=draw, dtype=F64)
    sigma = sigma[:30].repeat(2, 1)
    label = (sigma * torch.cat([noise, -noise])).clamp(-0.1, 0.1)  # each day and its mirror: a plain IC of 0
    liquidity = torch.exp(18 + 1.2 * torch.randn(30, 2000, generator=draw, dtype=F64)).repeat(2, 1)
    pay = -DayLoss(**config).per_day(sigma, label, torch.ones_like(label, dtype=torch.bool), liquidity, sigma)
    return pay.mean().item()


def test_weights_from_the_raw_outcome_pay_for_volatility():
    # measured on other draws (200 days of 2000 stocks, standard error 0.0016): 0.089, 0.045; base 0.1: 0.27
    assert volatility_pay({"name": "ic"}) == pytest.approx(0, abs=1e-9)
    assert volatility_pay({"name": "wpcc"}) > 0.07
    assert volatility_pay({"name": "liq_wpcc"}) > 0.035
    assert volatility_pay({"name": "wpcc", "center": "plain"}) > 0.07
    assert volatility_pay({"name": "wpcc", "base": 0.1}) > 0.2


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_by_score_or_volatility_scaled_do_not(name):
    assert abs(volatility_pay({"name": name, "weight_by": "score"})) < 0.004
    assert abs(volatility_pay({"name": name, "weight_by": "target", "target": "volatility"})) < 0.004


@pytest.mark.parametrize("name", WEIGHTED)
def test_another_target_under_raw_weights_shrinks_the_pay_without_ending_it(name):
    raw = volatility_pay({"name": name})
    assert 0.6 * raw < volatility_pay({"name": name, "target": "rank"}) < 0.9 * raw  # measured: 0.78, 0.75
    assert 0.2 * raw < volatility_pay({"name": name, "target": "volatility"}) < 0.6 * raw  # measured: 0.34, 0.46


# --- errors and contract


def test_wrong_names_are_met_with_the_close_ones():
    with pytest.raises(ValueError, match="unknown loss 'wpc' .*'wpcc'.*Allowed: wpcc, liq_wpcc, ic, ccc, mse"):
        DayLoss("wpc")
    with pytest.raises(
        TypeError, match=r"DayLoss has no option 'weigth_by'; close: \['weight_by'\]; allowed: name, target"
    ):
        DayLoss("wpcc", weigth_by="score")
    with pytest.raises(ValueError, match="unknown target 'ranks' .*'rank'"):
        DayLoss("ic", target="ranks")
    with pytest.raises(ValueError, match="unknown weight_by 'labels'"):
        DayLoss("wpcc", weight_by="labels")
    with pytest.raises(ValueError, match="unknown center 'Plain' .*'plain'"):
        DayLoss("wpcc", center="Plain")
    with pytest.raises(ValueError, match="unknown ties 'mean'. Allowed: stable, average"):
        DayLoss("wpcc", ties="mean")


@pytest.mark.parametrize("base", [0, -1, 1.5, math.nan, "1e-1", True, None])
def test_base_is_checked(base):
    with pytest.raises(ValueError, match=r"base is .* number in \(0, 1\]"):
        DayLoss("wpcc", base=base)


@pytest.mark.parametrize("alpha", [-1, math.nan, math.inf, "40", None])
def test_alpha_is_checked(alpha):
    with pytest.raises(ValueError, match="alpha is .*; allowed: a number in .0, inf"):
        DayLoss("liq_wpcc", alpha=alpha)


@pytest.mark.parametrize(
    ("name", "option", "losses"),
    [
        ("mse", {"alpha": 10.0}, "liq_wpcc"),
        ("wpcc", {"alpha": 10.0}, "liq_wpcc"),
        ("liq_wpcc", {"base": 0.1}, "wpcc"),
        ("ic", {"weight_by": "score"}, "wpcc, liq_wpcc"),
        ("ccc", {"center": "plain"}, "wpcc, liq_wpcc"),
        ("liq_wpcc", {"ties": "average"}, "wpcc"),
    ],
)
def test_options_without_effect_are_refused(name, option, losses):
    (key,) = option
    with pytest.raises(ValueError, match=f"{key}=.* no effect on the loss '{name}'; it belongs to: {losses}. Remove"):
        DayLoss(name, **option)
    DayLoss(name, **{key: getattr(DayLoss(name), key)})


def test_liquidity_weights_never_see_ranks():
    with pytest.raises(ValueError, match="normalised ranks"):
        DayLoss("liq_wpcc", target="rank", weight_by="target")


def test_missing_inputs_are_named():
    score, label, mask, liquidity, _ = market(0)
    for call in (
        lambda: DayLoss("liq_wpcc")(score, label, mask),
        lambda: DayLoss("liq_wpcc").valid_days(label, mask),
    ):
        with pytest.raises(ValueError, match="loss 'liq_wpcc' got liquidity=None: pass a"):
            call()
    with pytest.raises(ValueError, match="volatility=None: pass a"):
        DayLoss("ic", target="volatility")(score, label, mask, liquidity)


def test_shapes_and_masks_are_checked():
    score, label, mask, liquidity, volatility = market(0)
    with pytest.raises(ValueError, match=r"score \(6, 23, 1\), label \(6, 23\)"):
        DayLoss("ic")(score[..., None], label, mask)
    with pytest.raises(ValueError, match=r"score \(23,\)"):
        DayLoss("ic")(score[0], label[0], mask[0])
    with pytest.raises(ValueError, match=r"liquidity \(6, 22\)"):
        DayLoss("liq_wpcc")(score, label, mask, liquidity[:, :-1])
    with pytest.raises(ValueError, match=r"volatility \(1, 23\)"):
        DayLoss("ic", target="volatility")(score, label, mask, None, volatility[:1])
    with pytest.raises(ValueError, match=r"mask must be bool with True = real, got torch.float64; pass mask != 0"):
        DayLoss("ic")(score, label, mask.double())
    with pytest.raises(ValueError, match="shapes"):
        losses.weighted_pearson(score, label, score[:1], mask)


def test_the_parts_check_what_they_get():
    _, label, mask, liquidity, volatility = market(0)
    for call in (
        lambda: losses.rank_weight(label[:, 1:], mask),
        lambda: losses.liquidity_weight(label[:, 1:], liquidity, mask),
        lambda: losses.liquidity_weight(label, liquidity[:, 1:], mask),
        lambda: losses.target_transform(label[:, 1:], mask),
        lambda: losses.target_transform(label, mask, target="volatility", volatility=volatility[:, 1:]),
        lambda: DayLoss("ic").valid_days(label[:, 1:], mask),
        lambda: DayLoss("liq_wpcc").valid_days(label, mask, liquidity[:, 1:]),
    ):
        with pytest.raises(ValueError, match=r"\(6, 22\)"):
            call()
    with pytest.raises(ValueError, match=r"base is 0; .* number in \(0, 1\]"):
        losses.rank_weight(label, mask, base=0)
    with pytest.raises(ValueError, match="unknown ties 'mean'"):
        losses.rank_weight(label, mask, ties="mean")
    with pytest.raises(ValueError, match="alpha is -1; "):
        losses.liquidity_weight(label, liquidity, mask, alpha=-1)
    with pytest.raises(ValueError, match="unknown target 'ranks'"):
        losses.target_transform(label, mask, target="ranks")


def test_needs_and_repr_and_pickle():
    assert [DayLoss(name).needs_liquidity for name in losses.LOSSES] == [False, True, False, False, False]
    assert DayLoss("mse", target="volatility").needs_volatility and not DayLoss("mse").needs_volatility
    loss = pickle.loads(pickle.dumps(DayLoss("wpcc", base=0.1, weight_by="score")))
    assert repr(loss) == (
        "DayLoss('wpcc', target='raw', weight_by='score', base=0.1, center='weighted', ties='stable')"
    )
