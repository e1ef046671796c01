"""Neutral losses: goldens by hand, a slow oracle (numpy's lstsq a day), gradients, invariances, degenerate days."""

import math
import pickle

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from qlib_ext import losses
from qlib_ext.cross_section import project_off, varied_exposures
from qlib_ext.losses import DayLoss

F64 = torch.float64
NAMES = ["a", "b", "c"]
CONFIGS = [
    *({"name": "wpcc", "target": target, "weight_by": by} for target in losses.TARGETS for by in losses.WEIGHT_SOURCES),
    *({"name": "liq_wpcc", "weight_by": by} for by in losses.WEIGHT_SOURCES),
    *({"name": name, "target": target} for name in ("ic", "ccc", "mse") for target in ("raw", "rank")),
]
quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10_000)


def label_of(config):
    return "-".join(str(value) for value in config.values())


def market(seed, days=5, stocks=23, kinds=3):
    """Score, label, mask, liquidity, volatility, exposures of a batch with absent stocks and unknown labels."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=F64)

    loads = normal(days, stocks, kinds)
    score = normal(days, stocks) + loads @ torch.linspace(1, -2, kinds, dtype=F64)
    label = 0.03 * normal(days, stocks) - 0.02 * loads[..., 0]
    mask = torch.rand(days, stocks, generator=draw) > 0.2
    mask[:, :12] = True
    label[:, 11] = math.nan
    return score, label, mask, torch.exp(18 + normal(days, stocks)), 0.02 + 0.01 * normal(days, stocks).abs(), loads


def slow_residual(value, loads, weight, real):
    """Least squares on the square roots of the weights, a day at a time."""
    out = np.zeros(value.shape)
    for day in range(len(value)):
        at = real[day].numpy()
        design = np.column_stack([np.ones(at.sum()), loads[day].numpy()[at]])
        root = np.sqrt(weight[day].numpy()[at])
        beta = np.linalg.lstsq(design * root[:, None], value[day].numpy()[at] * root, rcond=1e-6)[0]
        out[day, at] = value[day].numpy()[at] - design @ beta
    return torch.from_numpy(out)


def correlation(x, y, weight):
    """By hand of vectors and weights."""
    share = weight / weight.sum()
    x, y = x - (share * x).sum(), y - (share * y).sum()
    return float((share * x * y).sum() / ((share * x**2).sum() * (share * y**2).sum()) ** 0.5)


def slow_loss(config, score, label, mask, liquidity, volatility, loads):
    """Target, projections with equal weights, the weights of the loss, projections with those, correlation."""
    real = mask & label.isfinite()
    target = losses.target_transform(label, real, target=config.get("target", "raw"), volatility=volatility)
    target = torch.where(real, target, 0.0)
    score, target = (slow_residual(value, loads, real.double(), real) for value in (score, target))
    source = {"label": label, "score": score, "target": target}[config.get("weight_by", "label")]
    weight = real.double()
    if config["name"] == "wpcc":
        weight = losses.rank_weight(torch.where(real, source, math.nan), real)
    elif config["name"] == "liq_wpcc":
        if config.get("weight_by") == "score":
            rows = zip(label.tolist(), score.tolist(), real.tolist(), strict=True)
            source = torch.tensor([reference.deal(*row) for row in rows], dtype=F64)
        weight = losses.liquidity_weight(torch.where(real, source, math.nan), liquidity, real)
    score, target = (slow_residual(value, loads, weight, real) for value in (score, target))
    out = []
    for day, at in enumerate(real):
        x, y, w = score[day][at], target[day][at], weight[day][at]
        if config["name"] == "mse":
            out.append(float(((x - y) ** 2).mean()))
        elif config["name"] == "ccc":
            out.append(-float(2 * (x * y).mean() / ((x**2).mean() + (y**2).mean())))
        else:
            out.append(-correlation(x, y, w))
    return torch.tensor(out, dtype=F64)


def value_and_grad(loss, score, *others):
    score = score.detach().clone().requires_grad_()
    per_day = loss.per_day(score, *others)
    return per_day.detach(), torch.autograd.grad(per_day.sum(), score)[0]


def same(fast, slow, tolerance=1e-9):
    torch.testing.assert_close(fast.to(F64), slow.to(F64), rtol=tolerance, atol=tolerance)


# --- the projection


def test_projection_by_hand():
    # on x = -1, 0, 1 of the values 1, 5, 3: mean 3, slope ((1)(-1) + (3)(1)) / 2 = 1: 1-2, 5-3, 3-4
    # weights 1, 2, 1: means x 0, v (1 + 10 + 3)/4 = 3.5, slope again 1: 1-2.5, 5-3.5, 3-4.5; a fourth stock is absent
    value = torch.tensor([[1.0, 5.0, 3.0, 99.0]] * 2, dtype=F64)
    loads = torch.tensor([[[-1.0], [0.0], [1.0], [50.0]]] * 2, dtype=F64)
    weight, mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 1.0, 7.0]], dtype=F64), torch.ones(2, 4).bool()
    mask[:, 3] = False
    expected = torch.tensor([[-1.0, 2.0, -1.0, 0.0], [-1.5, 1.5, -1.5, 0.0]], dtype=F64)
    same(project_off(value, loads, weight, mask), expected)


@quick
@given(seeds)
def test_projection_is_least_squares_and_orthogonal(seed):
    score, label, mask, liquidity, _, loads = market(seed)
    fast = project_off(score, loads, liquidity, mask)
    same(fast, slow_residual(score, loads, liquidity, mask), 1e-8)
    share = torch.where(mask, liquidity, 0.0) / liquidity.amax()
    assert torch.einsum("bnk,bn,bn->bk", loads, share, fast).abs().max() < 1e-10
    same(project_off(fast, loads, liquidity, mask), fast)  # a projection: twice is once


def test_collinear_and_constant_exposures_explain_what_one_does():
    score, _, mask, liquidity, _, loads = market(1)
    alone = project_off(score, loads[..., :1], liquidity, mask)
    twin = torch.stack([loads[..., 0], 3 - 2 * loads[..., 0], torch.full_like(score, 7.0)], dim=-1)
    same(project_off(score, twin, liquidity, mask), alone, 1e-7)
    assert varied_exposures(twin, mask).tolist() == [2] * 5
    nothing = torch.zeros_like(twin)
    share = torch.where(mask, liquidity, 0.0)
    mean = (share * score).sum(dim=1, keepdim=True) / share.sum(dim=1, keepdim=True)
    same(project_off(score, nothing, liquidity, mask), torch.where(mask, score - mean, 0.0))


def test_categories_of_every_stock_are_their_means():
    score, _, mask, *_ = market(2)
    sector = torch.arange(score.shape[1]) % 4
    loads = torch.nn.functional.one_hot(sector, 4).double().expand(len(score), -1, -1)
    fast = project_off(score, loads, mask, mask)
    for kind in range(4):
        at = mask & (sector == kind)
        assert torch.where(at, fast, 0.0).sum(dim=1).abs().max() < 1e-9


# --- the losses


@pytest.mark.parametrize("config", CONFIGS, ids=label_of)
def test_against_lstsq(config):
    batch = market(3)
    same(DayLoss(**config, neutral=NAMES).per_day(*batch), slow_loss(config, *batch), 1e-8)
    single = DayLoss(**config, neutral=NAMES).per_day(*(t.float() if t.is_floating_point() else t for t in batch))
    assert single.dtype == torch.float32
    same(single, slow_loss(config, *batch), 1e-4)


@pytest.mark.parametrize("config", [{"name": n} for n in losses.LOSSES], ids=label_of)
def test_gradients_against_finite_differences(config):
    score, *others = market(4, days=3, stocks=15, kinds=2)
    loss = DayLoss(**config, neutral=NAMES[:2])
    assert gradcheck(lambda p: loss.per_day(p, *others), (score.requires_grad_(),), atol=1e-6)


@quick
@given(seeds, st.sampled_from(CONFIGS))
def test_exposures_added_to_the_score_change_nothing(seed, config):
    score, *others = market(seed)
    tilt = others[-1] @ torch.tensor([5.0, -3.0, 0.7], dtype=F64) + 11.0
    loss = DayLoss(**config, neutral=NAMES)
    value, grad = value_and_grad(loss, score, *others)
    tilted, tilted_grad = value_and_grad(loss, score + tilt, *others)
    same(tilted, value, 1e-8)
    same(tilted_grad, grad, 1e-7)
    if "mse" not in config.values() and "ccc" not in config.values():
        same(loss.per_day(3 * score - 7, *others), value, 1e-8)


@quick
@given(seeds, st.sampled_from(CONFIGS), st.integers(1, 9))
def test_permutation_padding_and_garbage_change_nothing(seed, config, extra):
    batch, loss = market(seed), DayLoss(**config, neutral=NAMES)
    value, grad = value_and_grad(loss, *batch)
    order = torch.randperm(batch[0].shape[1], generator=torch.Generator().manual_seed(seed))
    moved, moved_grad = value_and_grad(loss, *(tensor[:, order] for tensor in batch))
    same(moved, value)
    same(moved_grad, grad[:, order])
    score, label, mask, *rest, loads = batch
    junk = [torch.where(mask, tensor, 1e6) for tensor in (score, label, *rest)]
    loads = torch.where(mask[..., None], loads, 77.0)
    wide = [torch.nn.functional.pad(tensor, (0, extra), value=5.0) for tensor in (*junk[:2], mask.double(), *junk[2:])]
    wide[2] = wide[2] == 1
    padded, padded_grad = value_and_grad(loss, *wide, torch.nn.functional.pad(loads, (0, 0, 0, extra), value=3.0))
    same(padded, value)
    same(padded_grad[:, : score.shape[1]], grad)
    assert (padded_grad[:, score.shape[1] :] == 0).all()


def test_a_batch_is_its_days():
    batch, loss = market(6), DayLoss("wpcc", neutral=NAMES)
    single = torch.cat([loss.per_day(*(tensor[d : d + 1] for tensor in batch)) for d in range(5)])
    same(loss.per_day(*batch), single, 1e-12)


def test_none_is_the_loss_without():
    *batch, loads = market(7)
    for name in losses.LOSSES:
        assert torch.equal(DayLoss(name, neutral=None).per_day(*batch, loads), DayLoss(name).per_day(*batch))
        unknown = DayLoss(name, neutral=NAMES).per_day(*batch, torch.zeros_like(loads))
        if name not in ("ccc", "mse"):  # all unknown: nothing but the mean is explained
            same(unknown, DayLoss(name).per_day(*batch), 1e-9)


def test_degenerate_days_teach_nothing():
    """Fewer stocks than varying exposures + 2; with constant or unknown ones they do not count."""
    score, label, mask, *rest, loads = market(8, days=3)
    mask[0], mask[1] = False, False
    mask[0, :4], mask[1, :4] = True, True
    loads[1, :, 1:] = 0.0
    loss = DayLoss("ic", neutral=NAMES)
    batch = (score, label, mask, *rest, loads)
    assert loss.valid_days(label, mask, exposures=loads).tolist() == [False, True, True]
    value, grad = value_and_grad(loss, *batch)
    assert value[0] == 0 and (grad[0] == 0).all() and (grad[1:].abs().sum(dim=1) > 0).all()
    same(loss(*batch), value[1:].mean())


def test_a_target_or_score_that_exposures_explain():
    score, label, mask, *rest, loads = market(9, days=2)
    told = loads[..., 0] * 0.01
    value, grad = value_and_grad(DayLoss("ic", neutral=NAMES), score, told, mask, *rest, loads)
    assert (value == 0).all() and (grad == 0).all()
    value, grad = value_and_grad(DayLoss("wpcc", neutral=NAMES), told * 1e4, label, mask, *rest, loads)
    assert (value == 0).all() and grad.isfinite().all() and (grad.abs().sum(dim=1) > 0).all()


def test_a_score_that_is_not_finite_makes_its_day_so():
    score, *others = market(10)
    score[0, 0] = math.nan
    per_day = DayLoss("wpcc", neutral=NAMES).per_day(score, *others)
    assert per_day[0].isnan() and per_day[1:].isfinite().all()


def test_a_loss_of_ones_own_sees_the_residuals():
    *batch, loads = market(11)
    seen = []
    DayLoss(lambda days: seen.append(days) or days.score[:, 0] * 0, neutral=NAMES).per_day(*batch, loads)
    real = batch[2] & batch[1].isfinite()
    same(seen[0].score, slow_residual(batch[0], loads, real.double(), real))
    assert seen[0].exposures is loads


def test_options_and_inputs():
    for wrong in ("volatility", [], ["a", "a"], [""], [1]):
        with pytest.raises(ValueError, match="neutral is"):
            DayLoss("ic", neutral=wrong)
    with pytest.raises(ValueError, match="center='plain'"):
        DayLoss("wpcc", neutral=NAMES, center="plain")
    *batch, loads = market(12)
    loss = DayLoss("ic", neutral=NAMES)
    with pytest.raises(ValueError, match="exposures=None"):
        loss(*batch)
    with pytest.raises(ValueError, match=r"wanted \(B, N, K\)"):
        loss(*batch, loads[:, :-1])
    assert "neutral=('a', 'b', 'c')" in repr(loss) and "neutral" not in repr(DayLoss("ic"))
    assert pickle.loads(pickle.dumps(loss)).neutral == ("a", "b", "c")
    older = DayLoss("ic")
    del older.neutral  # as pickled before there were neutral losses
    same(pickle.loads(pickle.dumps(older)).per_day(*batch), DayLoss("ic").per_day(*batch))
