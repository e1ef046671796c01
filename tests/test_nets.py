import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import reference_nets
import torch

from qlib_ext import nets
from qlib_ext.nets import MASTER, MLP, Attention, Dropout, Gate, load_official_master

F64 = torch.float64
GOLDEN_NAME = "master_official_csi300.npz"
B, T, N, F, M, D = 2, 4, 7, 5, 3, 8


def small(variant="official", d_gate=0, seed=0, **options):
    torch.manual_seed(seed)
    options = {"dropout": 0.0, "t_heads": 4, "s_heads": 2} | options
    net = MASTER(F, D, d_gate=d_gate, beta=1.0, variant=variant, **options).double()
    with torch.no_grad():  # biases and norms away from their neutral start
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net.eval()


def days(seed=0, n_days=B, n_stocks=N, absent=0.25):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n_days, T, n_stocks, F, generator=g, dtype=F64)
    present = torch.rand(n_days, T, n_stocks, generator=g) >= absent
    market = torch.randn(n_days, M, generator=g, dtype=F64)
    return x, present, market


def gradients(net, score):
    net.zero_grad(set_to_none=True)
    (score * torch.linspace(-1, 2, score.numel(), dtype=score.dtype).reshape(score.shape)).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters()}


def save(state, path):
    torch.save(state, path)
    return path


# --- the authors' own answer ---


@pytest.fixture(scope="module")
def golden():
    path = Path(os.environ.get("QLIB_EXT_GOLDEN", ""))
    path = path / GOLDEN_NAME if path.is_dir() else path
    if not path.is_file():
        pytest.skip(f"set QLIB_EXT_GOLDEN to {GOLDEN_NAME} or its folder")
    with np.load(path) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}


@pytest.fixture(scope="module")
def golden_net(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / "csi300.pkl"
    state = {name.removeprefix("param/"): value for name, value in golden.items() if name.startswith("param/")}
    return load_official_master(save(state, path), beta=float(golden["beta"]))


def golden_day(golden, dtype=torch.float32):
    a = golden["x"].to(dtype)
    return a[None, :, :, :158].transpose(1, 2), a[:1, -1, 158:], golden["y"].to(dtype)


@pytest.mark.realdata
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_golden(golden, golden_net, dtype):
    x, market, y = golden_day(golden, dtype)
    net = pickle.loads(pickle.dumps(golden_net)).to(dtype)
    assert not net.training and (net.d_feat, net.d_gate) == (158, 63)
    with torch.no_grad():
        assert net(x, market=market).shape == (1, 37)
        torch.testing.assert_close(net(x, market=market)[0], y, atol=1e-5, rtol=0)
        everything = torch.ones(x.shape[:3], dtype=torch.bool)
        torch.testing.assert_close(net(x, everything, market)[0], y, atol=1e-5, rtol=0)


@pytest.mark.realdata
def test_golden_padded_and_beside_other_days(golden, golden_net):
    x, market, y = golden_day(golden)
    batch = torch.full((3, 8, 50, 158), torch.nan)
    present = torch.zeros(3, 8, 50, dtype=torch.bool)
    batch[0, :, :37], present[0, :, :37] = x[0], True  # padded at the end
    batch[1, :, 13:], present[1, :, 13:] = x[0], True  # padded at the start
    batch[2, :, 4:9], present[2, :, 4:9] = torch.randn(8, 5, 158), True  # another day
    with torch.no_grad():
        score = golden_net(batch, present, torch.cat([market, market, -market]))
    torch.testing.assert_close(score[0, :37], y, atol=1e-5, rtol=0)
    torch.testing.assert_close(score[1, 13:], y, atol=1e-5, rtol=0)
    assert (score[~present[:, -1]] == 0).all() and score[2, 4:9].isfinite().all()


# --- several scores a stock ---


def one_of(net, kind, head):
    """The same network with one of its heads alone."""
    alone = kind().double().eval()
    state = net.state_dict()
    alone.load_state_dict(state | {name: state[name][head : head + 1] for name in ("head.weight", "head.bias")})
    return alone


@pytest.mark.parametrize("kind", [lambda **o: MLP(F, (6,), **o), lambda **o: MASTER(F, D, **o)], ids=["mlp", "master"])
def test_each_head_is_the_network_with_that_head_alone(kind):
    torch.manual_seed(0)
    net = kind(heads=3).double().eval()
    x, present, _ = days()
    x[~present] = torch.nan
    score = net(x, present)
    assert score.shape == (B, N, 3) and (score[~present[:, -1]] == 0).all() and score.isfinite().all()
    for head in range(3):
        torch.testing.assert_close(score[..., head], one_of(net, kind, head)(x, present), rtol=0, atol=1e-12)
    assert kind(heads=1)(x.float(), present).shape == (B, N)
    for heads in (0, 1.5, True):
        with pytest.raises(ValueError, match="heads is"):
            kind(heads=heads)


# --- oracle: random checkpoints by the authors' names ---


@pytest.mark.parametrize(
    ("d_gate", "heads", "prefix"),
    [(M, (4, 2), ""), (0, (1, 4), "module."), (1, (2, 1), "")],
)
def test_oracle_through_a_checkpoint(tmp_path, d_gate, heads, prefix):
    state = reference_nets.random_checkpoint(F, D, d_gate, seed=d_gate, steps=20)
    path = save({prefix + name: value for name, value in state.items()}, tmp_path / "master.pkl")
    net = load_official_master(path, beta=2.0, t_heads=heads[0], s_heads=heads[1])
    assert (net.d_feat, net.d_gate, net.max_steps, net.training) == (F, d_gate, 20, False)
    assert (net.gate is None) == (d_gate == 0)
    net = net.double()
    state = {name: value.double() for name, value in state.items()}
    x, present, market = days(seed=d_gate, absent=0.3)
    market = market[:, :d_gate] if d_gate else None
    for mask in (present, None):
        score = net(x, mask, market)
        for day in range(B):
            kept = None if mask is None else mask[day].T
            state_of_day = None if market is None else market[day]
            expected, attention = reference_nets.master_day(
                state,
                x[day].transpose(0, 1),
                kept,
                state_of_day,
                beta=2.0,
                t_heads=heads[0],
                s_heads=heads[1],
            )
            torch.testing.assert_close(score[day], expected, atol=1e-5, rtol=1e-5)  # float32 position table
            assert all(torch.isclose(lam.sum(), lam.new_ones(())) for lam in attention["temporal"].values())
    assert score.std() > 0.05


def test_other_checkpoints_of_the_same_kind_load(tmp_path):
    # another width, other F and M, doubles, parameters, a table of another length, DataParallel, torch's older format
    state = reference_nets.random_checkpoint(21, 128, 42, seed=5, steps=60)
    kept = {f"module.{name}": torch.nn.Parameter(value.double()) for name, value in state.items()}
    torch.save(kept, tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    net = load_official_master(tmp_path / "old.pkl", beta=2.0)
    assert (net.d_feat, net.d_gate, net.max_steps, net.head.in_features) == (21, 42, 60, 128)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    plain = load_official_master(save(state, tmp_path / "new.pkl"), beta=2.0)
    g = torch.Generator().manual_seed(0)
    x, market = torch.randn(1, T, N, 21, generator=g), torch.randn(1, 42, generator=g)
    with torch.no_grad():
        score = net(x, market=market)
        assert torch.equal(score, plain(x, market=market))
    double = {name: value.double() for name, value in state.items()}
    day = reference_nets.master_day(
        double, x[0].transpose(0, 1).double(), None, market[0].double(), beta=2.0, t_heads=4, s_heads=2
    )
    torch.testing.assert_close(score[0].double(), day[0], atol=1e-4, rtol=1e-4)


SECOND_NAMES = {
    "layers.0": "x2y",
    "layers.1": "pe",
    "layers.2": "tatten",
    "layers.3": "satten",
    "layers.4": "temporalatten",
    "layers.5": "decoder",
}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_authors_second_set_of_names(tmp_path, prefix):
    state = reference_nets.random_checkpoint(F, D, M, seed=3)
    renamed = {prefix + SECOND_NAMES.get(name[:8], name[:8]) + name[8:]: value for name, value in state.items()}
    assert {"x2y.weight", "pe.pe", "tatten.norm1.bias", "decoder.bias", "feature_gate.trans.bias"} <= {
        name.removeprefix(prefix) for name in renamed
    }
    first = load_official_master(save(state, tmp_path / "first.pkl"))
    second = load_official_master(save(renamed, tmp_path / "second.pkl"))
    x, present, market = (a.float() if a.is_floating_point() else a for a in days())
    with torch.no_grad():
        assert torch.equal(first(x, present, market), second(x, present, market))
    both = save(state | {"x2y.weight": state["layers.0.weight"]}, tmp_path / "both.pkl")
    with pytest.raises(ValueError, match="under two names: x2y.weight"):
        load_official_master(both)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_checkpoints_in_half_precision_load(tmp_path, dtype):
    state = reference_nets.random_checkpoint(F, D, M, seed=3)
    half = {name: value.to(dtype) for name, value in state.items()}
    net = load_official_master(save(half, tmp_path / "half.pkl"))
    assert torch.equal(net.embed.weight, half["layers.0.weight"].float()) and net.head.weight.dtype == torch.float32
    assert torch.equal(net.positions, nets.sinusoidal_positions(100, D))  # the exact table, not the rounded one
    half["layers.1.pe"] = half["layers.1.pe"] + 0.02
    with pytest.raises(ValueError, match="sinusoidal"):
        load_official_master(save(half, tmp_path / "other.pkl"))


def test_oracle_of_the_paper_variant(tmp_path):
    state = reference_nets.random_checkpoint(F, D, M)
    official = load_official_master(save(state, tmp_path / "master.pkl")).double()
    paper = MASTER(F, D, d_gate=M, variant="paper").double().eval()
    paper.load_state_dict(official.state_dict())
    x, present, market = days()
    state = {name: value.double() for name, value in state.items()}
    for day in range(B):
        expected, _ = reference_nets.master_day(
            state, x[day].transpose(0, 1), present[day].T, market[day], variant="paper"
        )
        torch.testing.assert_close(paper(x, present, market)[day], expected, atol=1e-5, rtol=1e-5)
    assert (paper(x, present, market) - official(x, present, market)).abs().max() > 1e-3


@pytest.mark.parametrize("masked", [False, True])
def test_many_groups_go_day_by_day(monkeypatch, masked):
    net, (x, present, _) = small(), days()
    present = present if masked else None
    expected = net(x, present)
    monkeypatch.setattr("qlib_ext.nets.attention._MAX_GROUPS", N)
    calls = []
    monkeypatch.setattr(
        "qlib_ext.nets.attention.attend", lambda q, *a, **k: calls.append(len(q)) or nets.attend(q, *a, **k)
    )
    torch.testing.assert_close(net(x, present), expected)
    assert max(calls) <= N and len(calls) > 2


@pytest.mark.parametrize("masked", [False, True])
def test_the_steps_of_a_stock_are_added_part_by_part(monkeypatch, masked):
    net, (x, present, _) = small(), days()
    present = present if masked else None
    whole = net(x, present)
    wanted = gradients(net, whole)
    monkeypatch.setattr("qlib_ext.nets.attention._PART", 3 * B * T * D * 8)  # three stocks a part, one in the last
    parts = net(x, present)
    assert torch.equal(parts, whole)
    got = gradients(net, parts)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_without_a_mask_the_kernel_gets_none(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "qlib_ext.nets.attention.attend", lambda *a, **k: seen.append((a[3], k["scale"])) or nets.attend(*a, **k)
    )
    small()(days()[0])
    small("paper")(days()[0])
    assert seen == [(None, 1.0), (None, None), (None, None), (None, None)]


# --- masks ---


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_permuting_stocks_permutes_scores(variant):
    net, (x, present, market) = small(variant, d_gate=M), days()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    permuted = net(x[:, :, order], present[:, :, order], market)
    torch.testing.assert_close(permuted, net(x, present, market)[:, order])


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("build", [lambda: small(d_gate=M), lambda: small("paper", d_gate=M), lambda: mlp()])
def test_garbage_under_the_mask_changes_nothing(build, garbage):
    net, (x, present, market) = build(), days(seed=3)
    market = market if net.d_gate else None
    dirty = torch.where(present[..., None], x, garbage).requires_grad_()
    clean = torch.where(present[..., None], x, 0.7).requires_grad_()
    score, expected = net(dirty, present, market), net(clean, present, market)
    torch.testing.assert_close(score, expected, atol=0, rtol=0)
    assert (score[~present[:, -1]] == 0).all() and (score[present[:, -1]] != 0).all()
    got, wanted = gradients(net, score), gradients(net, expected)
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], atol=0, rtol=0)
    assert dirty.grad.isfinite().all() and (dirty.grad[~present] == 0).all()


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_padded_batch_equals_single_days(variant):
    net = small(variant, d_gate=M)
    sizes = (N, 3, 1)
    singles = [days(seed=s, n_days=1, n_stocks=n) for s, n in enumerate(sizes)]
    x = torch.full((4, T, N + 2, F), torch.nan, dtype=F64)
    present = torch.zeros(4, T, N + 2, dtype=torch.bool)
    market = torch.full((4, M), torch.nan, dtype=F64)  # the fourth day is padding as a whole
    for day, n in enumerate(sizes):
        x[day, :, :n], present[day, :, :n], market[day] = (a[0] for a in singles[day])
    batch = net(x, present, market)
    for day, n in enumerate(sizes):
        torch.testing.assert_close(batch[day, :n], net(*singles[day])[0], atol=1e-10, rtol=1e-10)
        assert (batch[day, n:] == 0).all()
    assert (batch[3] == 0).all()
    total = gradients(net, batch)
    assert all(gradient.isfinite().all() for gradient in total.values())


def test_padding_in_front_of_the_window_only_moves_the_positions():
    net, (x, _, _) = small(), days(absent=0.0)
    net.positions.zero_()
    longer = torch.cat([torch.full_like(x, torch.nan), x], dim=1)
    present = torch.cat([torch.zeros(x.shape[:3]), torch.ones(x.shape[:3])], dim=1).bool()
    torch.testing.assert_close(net(longer, present), net(x))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("variant", ["official", "paper"])
def test_groups_without_anything_give_no_nan(variant, train):
    net, (x, present, market) = small(variant, d_gate=M, dropout=0.5).train(train), days(absent=0.0)
    present[0, :, 2] = False  # a stock never there
    present[0, 1] = False  # a step without stocks
    present[0, :-1, 4] = False  # a stock only there at the last step
    present[1] = False  # a day without stocks
    x = torch.where(present[..., None], x, torch.nan).requires_grad_()
    score = net(x, present, market)
    assert score.isfinite().all() and score[0, 4] != 0
    assert (score[1] == 0).all() and score[0, 2] == 0
    total = gradients(net, score)
    assert all(gradient.isfinite().all() for gradient in total.values())
    assert x.grad.isfinite().all() and (x.grad[present] != 0).any()


def test_an_absent_last_step_is_no_key_for_others():
    net, (x, present, _) = small(), days(absent=0.0)
    present[:, -1, 0] = False
    moved = x.clone()
    moved[:, -1, 0] += 3.0
    torch.testing.assert_close(net(moved, present), net(x, present), atol=0, rtol=0)
    moved = x.clone()
    moved[:, 0, 0] += 3.0  # an earlier step, at which it is present, does matter to the others
    assert (net(moved, present)[:, 1:] - net(x, present)[:, 1:]).abs().max() > 1e-4


def test_days_do_not_see_each_other():
    net, (x, present, _) = small(), days()
    moved = x.clone()
    moved[1] += 1.0
    torch.testing.assert_close(net(moved, present)[0], net(x, present)[0], atol=0, rtol=0)


def test_attention_by_hand():
    # q = k = v = x, rows 0, ln 2 and one that is no key; exp(ln 2 * ln 2) = 2^ln 2 against exp(0) = 1
    attention = Attention(1, 1, scale=False).double()
    torch.nn.init.ones_(attention.qkv.weight)
    ln2 = float(np.log(2))
    x = torch.tensor([[[0.0], [ln2], [9.0]]], dtype=F64)
    mask = torch.tensor([[True, True, False]])
    second = ln2 * 2**ln2 / (1 + 2**ln2)
    torch.testing.assert_close(attention(x, mask)[0, :2, 0], torch.tensor([ln2 / 2, second], dtype=F64))
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    torch.testing.assert_close(attention(x, nothing), attention(x))


# --- gate ---


def test_gate_by_hand():
    gate = Gate(1, 2, beta=2.0)
    with torch.no_grad():
        gate.proj.weight.copy_(torch.tensor([[2.0], [0.0]]))
        gate.proj.bias.copy_(torch.tensor([0.0, 2 * np.log(3.0)]))
    # m = 0: softmax(0, ln 3) = (1/4, 3/4), times 2; m = ln 3: softmax(ln 3, ln 3) = (1/2, 1/2), times 2
    market = torch.tensor([[0.0], [np.log(3.0)]], dtype=torch.float32)
    torch.testing.assert_close(gate(market), torch.tensor([[0.5, 1.5], [1.0, 1.0]]))


def test_constant_market_is_a_fixed_scaling_of_the_features():
    net, (x, present, market) = small(d_gate=M), days()
    market = market[:1].expand(B, M)
    alpha = net.gate(market[:1])[0].detach()
    plain = small()
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("gate.")}
    plain.load_state_dict(state)
    torch.testing.assert_close(net(x, present, market), plain(x * alpha, present))
    assert (net(x, present, market) - plain(x, present)).abs().max() > 1e-3
    plain.embed.weight.data *= alpha  # the same, folded into the first layer
    torch.testing.assert_close(net(x, present, market), plain(x, present))


def test_gate_gradient_and_limit():
    net, (x, present, market) = small(d_gate=M), days()
    total = gradients(net, net(x, present, market))
    assert (total["gate.proj.weight"] != 0).all() and (total["gate.proj.bias"] != 0).all()
    ungated = small()
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("gate.")}
    ungated.load_state_dict(state)
    gaps = []
    for beta in (1.0, 1e2, 1e4, 1e9):
        net.gate.beta = beta
        gaps.append((net(x, present, market) - ungated(x, present)).abs().max().item())
    assert gaps[0] > 1e-3 and gaps == sorted(gaps, reverse=True) and gaps[-1] < 1e-7


@pytest.mark.parametrize("beta", [0.2, 5.0])
def test_the_gate_is_the_same_under_autocast(beta):
    torch.manual_seed(0)
    gate, market = Gate(63, 158, beta=beta), 3 * torch.randn(4, 63)
    gate.fit(torch.randn(50, 63))
    exact = gate(market)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, half = gate(market), gate(market.bfloat16())
    assert torch.equal(mixed, exact) and half.dtype == torch.float32
    assert torch.equal(half, gate(market.bfloat16().float())) and torch.equal(gate(market.double()), exact)
    assert all(len(day.unique()) > 100 for day in mixed)


def test_each_day_has_its_own_gate():
    net, (x, present, market) = small(d_gate=M), days()
    other = market.clone()
    other[1] += 1.0
    before, after = net(x, present, market), net(x, present, other)
    torch.testing.assert_close(after[0], before[0], atol=0, rtol=0)
    assert (after[1] - before[1]).abs().max() > 1e-4


def test_the_state_is_scaled_by_hand():
    # medians 3, 5, 0; deviations of the first 2, 1, 0, 1, 97: MAD 1; of the second 0, 0, 0, 0, 5: MAD 0, so the
    # standard deviation of 5, 5, 5, 5, 10: 2; the third is constant and becomes 0 whatever comes later
    gate = Gate(3, 2)
    fitted = torch.tensor([[1.0, 5, 0], [2, 5, 0], [3, 5, 0], [4, 5, 0], [100, 10, 0]])
    gate.fit(fitted)
    seen = []
    gate.proj.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    gate(torch.tensor([[4.0, 7, 0], [-50, 5, 9]]))
    torch.testing.assert_close(seen[0], torch.tensor([[1 / 1.4826, 1.0, 0], [-3, 0, 0]]))
    again = Gate(3, 2)
    again.load_state_dict(gate.state_dict())
    assert torch.equal(again(fitted), gate(fitted))
    plain = Gate(3, 2)
    plain.proj.load_state_dict(gate.proj.state_dict())
    assert not torch.allclose(plain(fitted), gate(fitted))  # unfitted: taken as it comes
    torch.testing.assert_close(plain(fitted), 2 * torch.softmax(plain.proj(fitted) / 5, -1), atol=0, rtol=0)


# --- MLP ---


def mlp():
    torch.manual_seed(0)
    return MLP(F, (6, 4)).double().eval()


def test_mlp_by_hand():
    net = MLP(2, (2, 2))
    with torch.no_grad():
        net.body[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        net.body[0].bias.copy_(torch.tensor([0.0, 1.0]))
        net.body[3].weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        net.body[3].bias.copy_(torch.tensor([0.5, 1.0]))
        net.head.weight.copy_(torch.tensor([[2.0, 10.0]]))
        net.head.bias.copy_(torch.tensor([-1.0]))
    # (1, 2): relu(3, 0) = (3, 0); relu(3.5, -2) = (3.5, 0); 7 - 1 = 6
    # (0, -0.5): relu(-0.5, 1.5) = (0, 1.5); relu(3.5, 1) = (3.5, 1); 7 + 10 - 1 = 16
    x = torch.tensor([[[1.0, 2.0], [0.0, -0.5], [torch.nan, torch.nan]]])
    present = torch.tensor([[True, True, False]])
    torch.testing.assert_close(net(x, present), torch.tensor([[6.0, 16.0, 0.0]]))
    torch.testing.assert_close(net(x[:, :2]), torch.tensor([[6.0, 16.0]]))
    window = torch.stack([torch.full_like(x, torch.nan), x], dim=1)  # only the last step counts
    mask = torch.stack([~present, present], dim=1)
    torch.testing.assert_close(net(window, mask), torch.tensor([[6.0, 16.0, 0.0]]))


def test_mlp_shape_and_dropout():
    net = MLP(F, dropout=0.5)
    assert [tuple(layer.weight.shape) for layer in net.modules() if isinstance(layer, torch.nn.Linear)] == [
        (256, F),
        (128, 256),
        (1, 128),
    ]
    x = torch.randn(3, 11, F)
    assert (net(x) - net(x)).abs().max() > 0 and (net.eval()(x) == net(x)).all()
    assert net(x).shape == (3, 11)


# --- errors ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 10}, "d_model=10 is not divisible by t_heads=4"),
        ({"d_model": 12, "s_heads": 8}, "not divisible by s_heads=8"),
        ({"t_heads": 0}, "t_heads is 0"),
        ({"d_feat": 0}, "d_feat is 0"),
        ({"d_model": 8.0}, "d_model is 8.0"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"beta": -5.0, "d_gate": 3}, "beta is -5.0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"d_gate": -1}, "d_gate is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
        ({"variant": "authors"}, "official, paper"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_master_refuses_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MASTER(**({"d_feat": F, "d_model": D} | options))


def test_other_arguments_are_refused():
    with pytest.raises(TypeError, match="d_modell"):
        MASTER(F, d_modell=64)
    with pytest.raises(TypeError):
        MASTER(F, D, 4, 2, 0.5, 0, 5.0, 0.1)
    with pytest.raises(ValueError, match=r"hidden\[1\] is 0"):
        MLP(F, (4, 0))
    with pytest.raises(ValueError, match="dropout is 2"):
        MLP(F, dropout=2)
    with pytest.raises(ValueError, match="beta is 0"):
        Gate(2, 2, beta=0)


@pytest.mark.parametrize("value", ["1e-1", None, True, [0.1]])
@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "key_dropout", "beta"])
def test_what_is_no_number_is_refused_by_name(name, value):
    if (name, value) == ("attention_dropout", None):
        return  # as `dropout`
    with pytest.raises(ValueError, match=rf"{name} is .*in YAML write 0\.1"):
        MASTER(F, D, **{name: value})
    if name == "beta":
        with pytest.raises(ValueError, match="beta is .*which is a text"):
            Gate(2, 2, beta=value)
    if name == "dropout":
        with pytest.raises(ValueError, match="dropout is .*which is a text"):
            MLP(F, dropout=value)


@pytest.mark.parametrize("hidden", [64, "64", None, 6.5])
def test_hidden_widths_are_a_list(hidden):
    with pytest.raises(ValueError, match="hidden is .*a list of widths"):
        MLP(F, hidden)


def test_the_dropout_of_the_mlp_is_the_fast_one():
    kinds = {type(layer) for layer in MLP(F, (4, 4), dropout=0.5).modules() if isinstance(layer, torch.nn.Dropout)}
    assert kinds == {Dropout}


def test_a_network_says_what_no_parameter_tells():
    told = repr(MASTER(F, D, 4, 2, 0.25, d_gate=2, beta=3.0, key_dropout=0.5, variant="paper"))
    for word in ("beta=3.0", "heads=4", "heads=2", "dropout=0.25", "key_dropout=0.5", "scale=True", "variant=paper"):
        assert word in told


@pytest.mark.parametrize(
    ("d_gate", "change", "message"),
    [
        (0, lambda x, p, m: (x[..., :4], p, None), "d_feat=5"),
        (0, lambda x, p, m: (x[0], p[0], None), r"needs \(B, T, N, F\)"),
        (0, lambda x, p, m: (x.repeat(1, 26, 1, 1), None, None), "max_steps=100"),
        (0, lambda x, p, m: (x[:, :, :0], None, None), "empty"),
        (0, lambda x, p, m: (x, p.transpose(1, 2), None), "present"),
        (0, lambda x, p, m: (x, p[:, -1], None), "present"),
        (0, lambda x, p, m: (x, p.double(), None), "present .*torch.float64.*torch.bool"),
        (0, lambda x, p, m: (x, p, m), "without a gate"),
        (M, lambda x, p, m: (x, p, None), r"market is None.*\(2, 3\)"),
        (M, lambda x, p, m: (x, p, m[:, :2]), r"market is \(2, 2\)"),
        (M, lambda x, p, m: (x, p, m[:1]), r"market is \(1, 3\)"),
    ],
)
def test_master_refuses_inputs(d_gate, change, message):
    with pytest.raises(ValueError, match=message):
        small(d_gate=d_gate)(*change(*days()))


def test_mlp_refuses_inputs():
    x, present, market = days()
    for arguments, message in [
        ((x[..., :2],), "d_feat=5"),
        ((x[0, 0],), r"\(B, N, F\)"),
        ((x, present[:, -1]), "present"),
        ((x, present, market), "without a gate"),
    ]:
        with pytest.raises(ValueError, match=message):
            mlp()(*arguments)


def test_longer_windows_are_a_choice():
    x = days()[0].repeat(1, 26, 1, 1)
    assert small(max_steps=104)(x).isfinite().all()


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "layers.3.norm2.bias"), "missing layers.3.norm2.bias"),
        (lambda s: without(s, "layers.2.ktrans.weight"), "missing layers.2.ktrans.weight"),
        (lambda s: without(s, "layers.0.weight"), "no matrix layers.0.weight"),
        (lambda s: without(s, "layers.1.pe"), "missing layers.1.pe"),
        (lambda s: without(s, "feature_gate.trans.bias"), "missing feature_gate.trans.bias"),
        (lambda s: without(s, "feature_gate.trans.weight"), "unexpected feature_gate.trans.bias"),
        (lambda s: s | {"layers.6.weight": torch.ones(1)}, "unexpected layers.6.weight"),
        (
            lambda s: s | {"layers.2.ffn.0.weight": torch.ones(8, 9)},
            r"layers.2.ffn.0.weight is \(8, 9\).*\(8, 8\)",
        ),
        (lambda s: s | {"layers.3.vtrans.weight": torch.ones(9, 8)}, r"layers.3.vtrans.weight is \(9, 8\)"),
        (lambda s: s | {"feature_gate.trans.weight": torch.ones(4, 3)}, r"is \(4, 3\), expected \(5, 3\)"),
        (lambda s: s | {"layers.1.pe": s["layers.1.pe"] + 1}, "sinusoidal"),
        (lambda s: s | {"layers.1.pe": s["layers.1.pe"][:, :4]}, r"layers.1.pe is \(100, 4\)"),
        (lambda s: {}, "no matrix layers.0.weight"),
        (lambda s: [1, 2], "holds a list"),
        (lambda s: {"state_dict": s}, "holds a dict, not a state dict"),
        (lambda s: torch.nn.Linear(2, 2), "no plain state dict"),
    ],
)
def test_loader_names_what_is_wrong(tmp_path, change, message):
    path = save(change(reference_nets.random_checkpoint(F, D, M)), tmp_path / "other.pkl")
    with pytest.raises(ValueError, match=message):
        load_official_master(path)


def test_loader_refuses_other_files(tmp_path):
    path = tmp_path / "text.pkl"
    for content in (b"no checkpoint", b"", pickle.dumps({"layers.0.weight": np.ones(3)}, protocol=2)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no plain state dict"):
            load_official_master(path)
    with pytest.raises(FileNotFoundError):
        load_official_master(tmp_path / "absent.pkl")
    path = save(reference_nets.random_checkpoint(F, D), tmp_path / "master.pkl")
    with pytest.raises(ValueError, match="t_heads=3"):
        load_official_master(path, t_heads=3)
    with pytest.raises(ValueError, match="beta is 0"):
        load_official_master(path, beta=0)


# --- precision, copies, start ---


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_autocast_is_close(gated, masked):
    torch.manual_seed(0)
    net = MASTER(20, 32, d_gate=M if gated else 0, dropout=0.1, attention_dropout=0.0).eval()
    x, market = torch.randn(2, 6, 50, 20), torch.randn(2, M) if gated else None
    present = torch.rand(2, 6, 50) > 0.2 if masked else None
    exact = net(x, present, market)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(x, present, market)
        loss = rounded.square().mean()
    assert rounded.dtype == torch.float32  # bfloat16 scores would tie
    assert len(rounded.unique()) >= 0.95 * len(exact.unique())
    assert (rounded - exact).abs().max() < 0.05 * exact.std() + 0.02
    assert rounded.ne(exact).any()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_float32_is_close_to_float64():
    net, (x, present, market) = small(d_gate=M), days()
    exact = net(x, present, market)
    single = net.float()(x.float(), present, market.float())
    assert exact.dtype == F64 and single.dtype == torch.float32
    torch.testing.assert_close(single, exact.float(), atol=1e-4, rtol=1e-4)


def test_pickle_and_state_dict_roundtrip():
    net, (x, present, market) = small(d_gate=M), days()
    expected = net(x, present, market)
    torch.testing.assert_close(pickle.loads(pickle.dumps(net))(x, present, market), expected, atol=0, rtol=0)
    other = small(d_gate=M, seed=9)
    assert (other(x, present, market) - expected).abs().max() > 1e-3
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(x, present, market), expected, atol=0, rtol=0)
    block = [f"{part}.{kind}" for part in ("norm1", "norm2", "ffn.0", "ffn.3") for kind in ("weight", "bias")]
    names = {f"{layer}.{name}" for layer in ("intra", "inter") for name in [*block, "attention.qkv.weight"]}
    names |= {f"{name}.{kind}" for name in ("gate.proj", "embed", "head") for kind in ("weight", "bias")}
    scaling = {"gate.center", "gate.spread", "gate.limit"}
    assert set(net.state_dict()) == names | scaling | {"temporal.proj.weight"}


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_scores_are_dispersed_at_the_start(variant):
    torch.manual_seed(0)
    net = MASTER(158, 64, variant=variant).eval()
    with torch.no_grad():
        score = net(torch.randn(2, 8, 300, 158))
    assert (score.std(1) > 0.1).all() and (score.std(1) < 2).all()
    assert all(len(day.unique()) > 295 for day in score)


def test_dropout_is_where_it_is_said_to_be(monkeypatch):
    rates = []
    monkeypatch.setattr(
        "qlib_ext.nets.attention.attend", lambda *a, **k: rates.append(k["dropout"]) or nets.attend(*a, **k)
    )
    x = days()[0]
    for options in ({"dropout": 0.5}, {"dropout": 0.5, "attention_dropout": 0.0}):
        net = small(**options).train()
        assert (net(x) - net(x)).abs().max() > 0
        assert (net.eval()(x) == net(x)).all()
    assert rates == [0.5] * 4 + [0.0] * 4 + [0.0] * 8


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.999_999])
def test_dropout_on_a_cpu_keeps_the_mean_and_drops_the_rate(rate):
    torch.manual_seed(0)
    layer, x = Dropout(rate), torch.ones(1000, 1001, requires_grad=True)
    y = layer(x)
    kept = 1 - min(rate, 65_535 / 65_536)
    error = (kept * (1 - kept) / x.numel()) ** 0.5  # of a share of kept values
    assert abs((y > 0).float().mean().item() - kept) < 5 * error
    assert torch.allclose(y[y > 0], torch.tensor(1 / kept), rtol=1e-4)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y.detach())
    rows, columns = (y > 0).float().mean(1), (y > 0).float().mean(0)  # neither axis shares its bits
    assert rows.std() < 1.3 * (kept * (1 - kept) / 1001) ** 0.5 + 1e-9
    assert columns.std() < 1.3 * (kept * (1 - kept) / 1000) ** 0.5 + 1e-9
    layer.eval()
    assert layer(x) is x
    assert torch.equal(Dropout(0.0)(x), x)


def test_key_dropout_hides_keys_from_all_queries_and_only_in_training():
    torch.manual_seed(0)
    layer = Attention(8, 2, key_dropout=0.5)
    x, mask = torch.randn(400, 6, 8), torch.rand(400, 6) > 0.3
    mask[0], mask[1] = False, torch.tensor([True] + [False] * 5)
    exact = Attention(8, 2)
    exact.load_state_dict(layer.state_dict())
    layer.eval()
    assert torch.equal(layer(x, mask), exact(x, mask))
    layer.train()
    torch.manual_seed(1)
    kept = torch.rand(400, 6) >= 0.5
    torch.manual_seed(1)
    got = layer(x, mask)
    for group in range(2, 400):  # the masked attention itself, over the keys that the seed kept
        keys = kept[group] & mask[group]
        keys = keys if keys.any() else mask[group]  # none kept: all real ones stay
        wanted = exact(x[group][None], keys[None] if keys.any() else None)
        torch.testing.assert_close(got[group], wanted[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got[1], exact(x[1:2], mask[1:2])[0])  # its only key cannot go
    assert got.isfinite().all()
