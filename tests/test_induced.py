"""Attention through learned points: the slow oracle, masks, invariants, precision, memory, and the model's options."""

import pickle
import warnings

import numpy as np
import pytest
import reference_nets
import torch
from test_model_options import QUICK, SMALL, make_panel

from qlib_ext.model import MASTERModel
from qlib_ext.nets import MASTER, InducedAttention

F64 = torch.float64
G, L, D, H, M = 3, 9, 8, 2, 4
T, F = 4, 5


def induced(seed=0, **options):
    torch.manual_seed(seed)
    net = InducedAttention(D, H, inducing=M, **options).double()
    with torch.no_grad():  # biases and norms away from their neutral start
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net.eval()


def groups(seed=0):
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(G, L, generator=g) < 0.6
    mask[0], mask[1, 2:] = True, False
    mask[:, 0] = True
    return torch.randn(G, L, D, generator=g, dtype=F64), mask


def master(**options):
    torch.manual_seed(0)
    options = {"dropout": 0.0, "t_heads": 4, "s_heads": H, "inter": "induced", "inducing": M} | options
    return MASTER(F, D, **options).double().eval()


def days(seed=0, n_days=2, n_stocks=7):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n_days, T, n_stocks, F, generator=g, dtype=F64)
    return x, torch.rand(n_days, T, n_stocks, generator=g) >= 0.25


@pytest.mark.parametrize("masked", [False, True])
def test_it_equals_the_loops_and_so_do_its_gradients(masked):
    net, (x, mask) = induced(), groups()
    x.requires_grad_()
    out = net(x, mask if masked else None)
    wanted = torch.zeros_like(out)
    for group in range(G):
        rows = [i for i in range(L) if mask[group, i] or not masked]
        for i, row in zip(rows, reference_nets.induced(net, [x[group, i] for i in rows]), strict=True):
            wanted[group, i] = row
    here = mask[..., None] if masked else torch.ones_like(out, dtype=torch.bool)
    torch.testing.assert_close(torch.where(here, out, 0.0), wanted)
    above = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=F64) * here
    inputs = [x, *net.parameters()]
    ours, theirs = (torch.autograd.grad(value, inputs, above) for value in (out, wanted))
    for name, got, expected in zip(["x", *dict(net.named_parameters())], ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, msg=lambda text, name=name: f"{name}: {text}")
        assert got.abs().max() > 1e-6, name


def test_an_absent_stock_neither_gives_nor_takes():
    net, (x, mask) = induced(), groups()
    moved = torch.where(mask[..., None], x, 5.0).requires_grad_()
    out = net(moved, mask)
    torch.testing.assert_close(out[mask], net(x, mask)[mask], atol=0, rtol=0)
    (gradient,) = torch.autograd.grad(out[mask].square().sum(), moved)
    assert (gradient[~mask] == 0).all() and (gradient[mask] != 0).any()


def test_a_group_without_a_stock_is_finite():
    net, (x, mask) = induced(), groups()
    mask[1] = False
    assert net(x, mask).isfinite().all()
    torch.testing.assert_close(net(x, mask)[[0, 2]], net(x[[0, 2]], mask[[0, 2]]))


def test_master_permutes_with_its_stocks_and_ignores_padding_and_other_days():
    net, (x, present) = master(), days()
    score = net(x, present)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net(x[:, :, order], present[:, :, order]), score[:, order])
    wide = torch.full((3, T, 10, F), torch.nan, dtype=F64)
    here = torch.zeros(3, T, 10, dtype=torch.bool)
    wide[:2, :, :7], here[:2, :, :7] = x, present  # the third day has no stock
    padded = net(wide, here)
    torch.testing.assert_close(padded[:2, :7], score)
    assert (padded[:2, 7:] == 0).all() and (padded[2] == 0).all() and (score[present[:, -1]] != 0).all()
    others = x.clone()
    others[:, :, 1:] += 1.0  # the other stocks of the day do matter
    assert (net(others, present) - score)[:, 0].abs().max() > 1e-4


@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_is_near_and_says_so(masked):
    net, (x, mask) = induced().float(), groups()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x.bfloat16(), mask if masked else None)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), net(x.float(), mask if masked else None), atol=0.03, rtol=0.03)


def saved_bytes(net, x):
    """Bytes that autograd keeps for the backward pass, each storage once."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net(x)
    assert out.shape == x.shape
    return sum(kept.values())


def test_memory_grows_with_the_stocks_and_is_a_few_times_theirs():
    net = InducedAttention(16, 2, inducing=8).train()
    small, large = (saved_bytes(net, torch.randn(1, n, 16, requires_grad=True)) for n in (2_000, 4_000))
    assert large < 2 * small and large < 6 * 4_000 * 16 * 4


def test_dropout_only_while_training():
    x, mask = groups()
    for options in ({"dropout": 0.5}, {"key_dropout": 0.5}):
        net = induced(**options)
        torch.testing.assert_close(net(x, mask), induced()(x, mask))
        net.train()
        torch.manual_seed(0)
        first, second = net(x, mask), net(x, mask)
        assert first.isfinite().all() and (first - second).abs().max() > 1e-3


def test_hidden_keys_are_hidden_from_the_points_alone():
    net, (x, _) = induced(key_dropout=0.5).train(), groups()
    torch.manual_seed(3)
    kept = torch.rand(G, L) >= 0.5
    torch.manual_seed(3)
    torch.testing.assert_close(net(x), induced()(x, kept))  # hidden stocks still get their outcome


def test_stocks_have_to_stand_beside_each_other():
    with pytest.raises(ValueError, match="dim=-3; allowed: -2"):
        induced()(torch.zeros(2, 3, 4, D, dtype=F64), dim=-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inter": "linear"}, "unknown inter 'linear'. Allowed: full, induced"),
        ({"inter": "induced", "inducing": 0}, "inducing is 0; .*whole number"),
        ({"inter": "induced", "inducing": "32"}, "inducing is '32'; .*whole number"),
    ],
)
def test_options_that_cannot_be_are_told_at_once(options, message):
    for kind in (lambda **o: MASTER(F, D, s_heads=H, **o), lambda **o: MASTERModel(**SMALL, **o)):
        with pytest.raises(ValueError, match=message):
            kind(**options)


def test_the_model_learns_pickles_and_refuses_the_authors_weights(tmp_path):
    panel, rows = make_panel(), (np.arange(10, 90), np.arange(95, 130))
    model = MASTERModel(**SMALL, **QUICK | {"epochs": 6, "patience": 6}, inter="induced", inducing=M)
    model.fit_rows(panel, 3, *rows)
    assert model.trainer.net.inter.attention.inducing == M and model.history.best_value > 0.5
    score = model.trainer.predict(panel, rows[1])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.trainer.predict(panel, rows[1]), score)
    torch.save(reference_nets.random_checkpoint(3, 8, 0, seed=1), tmp_path / "authors.pkl")
    with pytest.raises(ValueError, match="inter is induced, the checkpoint's is full"):
        MASTERModel(**SMALL, inter="induced", init_from=str(tmp_path / "authors.pkl"))


def test_points_without_effect_are_told():
    with pytest.warns(UserWarning, match="inducing has no effect with inter: full"):
        MASTERModel(**SMALL, inducing=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MASTERModel(**SMALL, inter="induced", inducing=8)
