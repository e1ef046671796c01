"""The gated head: its equation, its start at the linear head, its bound, masks, precision, and the models' option."""

import math
import pickle

import numpy as np
import pytest
import reference_nets
import torch
from test_model_options import QUICK, SMALL, make_panel

from qlib_ext.model import MASTERModel, MLPModel
from qlib_ext.nets import MASTER, MLP, RankGLU

F64 = torch.float64
B, T, N, F, D = 2, 3, 6, 5, 8
KINDS = {"mlp": lambda **o: MLP(F, (D,), **o), "master": lambda **o: MASTER(F, D, dropout=0.0, **o)}


def built(kind, seed=0, **options):
    torch.manual_seed(seed)
    return KINDS[kind](**options)


def moved(head, seed=1):
    """The head away from its start."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.out.weight.copy_(torch.randn(head.out.weight.shape, generator=g))
    return head


def days(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, N, F, generator=g), torch.rand(B, T, N, generator=g) >= 0.25


def test_by_hand():
    # D = 2, one unit of the branch: LN(4, 2) = (1, -1); value 2 * 1, gate sigmoid(ln 3) = 3/4, out 5
    head = RankGLU(2).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.weight.copy_(torch.tensor([[10.0, 100.0]]))
        head.bias.fill_(7.0)
        head.value.weight[0], head.gate.weight[0] = torch.tensor([2.0, 0.0]), torch.tensor([0.0, -math.log(3.0)])
        head.out.weight[0, 0] = 5.0
    score = head(torch.tensor([[4.0, 2.0]], dtype=F64))
    torch.testing.assert_close(score, torch.tensor([[7.0 + 40 + 200 + 5 * 2 * 0.75]], dtype=F64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [1, 3])
def test_it_starts_as_the_linear_head_of_the_same_seed_and_leaves_it(kind, heads):
    (x, present), net = days(), built(kind, heads=heads, head="rankglu")
    plain = built(kind, heads=heads)
    score = net(x, present)
    assert torch.equal(score, plain(x, present)) and score.shape == (B, N, 3)[: 2 + (heads > 1)]
    assert set(plain.state_dict()) < set(net.state_dict())
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        net(x, present).square().sum().backward()
        optimiser.step()
    assert all((p.grad != 0).any() for p in net.head.parameters())
    assert net.head.out.weight.abs().max() > 0


def test_the_branch_is_bounded_however_large_the_embedding():
    head = moved(RankGLU(D, 2).double())
    e = torch.randn(500, D, dtype=F64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        row = head.value.weight.norm(dim=1) + head.value.bias.abs()
        bound = math.sqrt(D) * head.out.weight.abs() @ row
        for scale in (1.0, 1e6):
            branch = head(scale * e) - torch.nn.functional.linear(scale * e, head.weight, head.bias)
            assert (branch.abs() <= bound).all() and branch.abs().max() > 0.1


def test_gradients_are_those_of_finite_differences():
    head = moved(RankGLU(4, 2).double())
    e = torch.randn(3, 4, dtype=F64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(head, e)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_stocks_padding_and_order(kind):
    (x, present), net = days(), built(kind, head="rankglu").eval()
    moved(net.head)
    score = net(x, present)
    assert (score[~present[:, -1]] == 0).all() and (score[present[:, -1]] != 0).all()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net(x[:, :, order], present[:, :, order]), score[:, order])
    wide = torch.full((B, T, N + 2, F), torch.nan)
    here = torch.zeros(B, T, N + 2, dtype=torch.bool)
    wide[:, :, :N], here[:, :, :N] = x, present
    torch.testing.assert_close(net(wide, here)[:, :N], score)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_in_full_precision_under_autocast(kind):
    (x, present), net = days(), built(kind, head="rankglu").eval()
    moved(net.head)
    with torch.autocast("cpu", torch.bfloat16):
        score = net(x, present)
    assert score.dtype == torch.float32 and (score != score.bfloat16().float()).any()
    torch.testing.assert_close(score, net(x, present), atol=0.2, rtol=0.1)


@pytest.mark.parametrize("build", [lambda **o: MLPModel(**QUICK, **o), lambda **o: MASTERModel(**SMALL, **QUICK, **o)])
def test_both_models_take_it_by_name(build):
    panel, rows = make_panel(), (np.arange(10, 90), np.arange(95, 130))
    model = build(head="rankglu")
    model.fit_rows(panel, 2, *rows)
    assert isinstance(model.trainer.net.head, RankGLU) and model.history.best_value > 0.2
    score = pickle.loads(pickle.dumps(model)).trainer.predict(panel, rows[1])
    np.testing.assert_array_equal(score, model.trainer.predict(panel, rows[1]))
    with pytest.raises(ValueError, match=r"unknown head 'rank_glu' \(did you mean 'rankglu'\?\)"):
        build(head="rank_glu")


def test_it_starts_from_the_authors_weights_as_their_head(tmp_path):
    path = str(tmp_path / "authors.pkl")
    torch.save(reference_nets.random_checkpoint(F, 8, 0, seed=1), path)
    x, present = days()
    models = (MASTERModel(**SMALL, init_from=path, head=head) for head in ("linear", "rankglu"))
    plain, gated = (model.build(F, 0).eval() for model in models)
    assert torch.equal(gated(x, present), plain(x, present)) and isinstance(gated.head, RankGLU)
