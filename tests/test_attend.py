"""The kernels of attention against softmax(scale * q k^T) v in loops, and which one is used where."""

import math
from pkgutil import resolve_name

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qlib_ext.nets import attend

KERNELS = "qlib_ext.nets.kernels"


def oracle(q, k, v, key_mask, scale):
    """Attention (G, H, L, d) in float64, query by query."""
    q, k, v = (part.double() for part in (q, k, v))
    out = torch.zeros_like(q)
    for group in range(q.shape[0]):
        for head in range(q.shape[1]):
            keys = list(range(q.shape[2])) if key_mask is None else key_mask[group, 0, 0].nonzero()[:, 0].tolist()
            for query in range(q.shape[2]):
                weight = torch.softmax(scale * (k[group, head, keys] @ q[group, head, query]), 0)
                out[group, head, query] = weight @ v[group, head, keys]
    return out


def draw(groups, heads, length, width, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(3, groups, length, heads, width, generator=generator, dtype=torch.float64).to(dtype)
    return [part.transpose(1, 2).requires_grad_() for part in parts]  # not contiguous, as the network's


def hidden(groups, length, seed=0):
    """Masks (G, 1, 1, L): group 0 sees everything, group 1 one key, the others about two thirds."""
    mask = torch.rand(groups, length, generator=torch.Generator().manual_seed(seed)) < 0.7
    mask[0], mask[1] = True, False
    mask[:, length // 2] = True
    return mask[:, None, None]


@pytest.fixture(params=["whole", "blocks", "torch"])
def kernel(request, monkeypatch):
    """Each of the three ways, at small sizes: blocks of 4 queries, so that the last one of 10 is smaller."""
    calls = []
    fused, run = torch.nn.functional.scaled_dot_product_attention, resolve_name(f"{KERNELS}:_Blocks.apply")

    def told(name, function):
        return lambda *a, **k: calls.append(name) or function(*a, **k)

    monkeypatch.setattr(f"{KERNELS}.scaled_dot_product_attention", told("torch", fused))
    monkeypatch.setattr(f"{KERNELS}._Blocks.apply", told("blocks", run))
    monkeypatch.setattr(f"{KERNELS}._BLOCK", 4)
    monkeypatch.setattr(f"{KERNELS}._LONG", 10 if request.param == "blocks" else 10**9)
    monkeypatch.setattr(f"{KERNELS}._WHOLE", 2**25 if request.param == "whole" else 0)
    monkeypatch.setattr(f"{KERNELS}._BLOCKED", (torch.bfloat16, torch.float64))
    return request.param, calls


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_each_kernel_equals_the_loops(kernel, masked, scale):
    name, calls = kernel
    parts, mask = draw(3, 2, 10, 4), hidden(3, 10) if masked else None
    ours = attend(*parts, mask, dropout=0.0, scale=scale)
    expected = oracle(*parts, mask, 1 / math.sqrt(4) if scale is None else scale)
    torch.testing.assert_close(ours, expected)
    assert calls == {"whole": [], "blocks": ["blocks"], "torch": ["torch"]}[name]
    above = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for got, wanted in zip(
        torch.autograd.grad(ours, parts, above), torch.autograd.grad(expected, parts, above), strict=True
    ):
        torch.testing.assert_close(got, wanted)


def test_gradients_are_those_of_finite_differences(kernel):
    mask = hidden(2, 10)
    assert torch.autograd.gradcheck(lambda *p: attend(*p, mask, dropout=0.0, scale=None), draw(2, 1, 10, 3))


@pytest.mark.parametrize("length", [512, 1100])
def test_long_groups_in_bfloat16_go_by_blocks_and_stay_near(length, monkeypatch):
    monkeypatch.setattr(f"{KERNELS}._WHOLE", 0)
    parts = draw(2, 2, length, 16, torch.bfloat16)
    mask = hidden(2, length)
    ours = attend(*parts, mask, dropout=0.0, scale=None)
    assert ours.dtype == torch.bfloat16 and "Blocks" in str(ours.grad_fn)
    exact = [part.detach().double().requires_grad_() for part in parts]
    expected = torch.nn.functional.scaled_dot_product_attention(*exact, attn_mask=mask)
    torch.testing.assert_close(ours.double(), expected, atol=0.02, rtol=0.02)
    above = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    got = torch.autograd.grad(ours, parts, above)
    for one, wanted in zip(got, torch.autograd.grad(expected, exact, above.double()), strict=True):
        error = (one.double() - wanted).norm() / wanted.norm()
        assert error < 0.01


def test_dropout_of_weights_is_left_to_torch(kernel):
    _, calls = kernel
    attend(*draw(2, 1, 10, 4), None, dropout=0.5, scale=None)
    assert calls == ["torch"]


class Operations(TorchDispatchMode):
    """Names of what torch computes, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def operations(parts, mask):
    with Operations() as seen:
        out = attend(*parts, mask, dropout=0.0, scale=None)
    return out, seen.names


def test_an_all_true_mask_costs_nothing_but_the_look_at_it(kernel):
    name, _ = kernel
    parts, full = draw(2, 1, 10, 4), torch.ones(2, 1, 1, 10, dtype=torch.bool)
    (with_mask, done), (without, least) = (operations(parts, mask) for mask in (full, None))
    torch.testing.assert_close(with_mask, without, atol=0 if name != "torch" else 1e-12, rtol=0)
    if name != "torch":  # which gets the mask as it is
        look = [one for one in done if one.startswith(("all.", "_local_scalar_dense", "is_nonzero"))]
        assert [one for one in done if one not in look] == least and look[0].startswith("all.")
        full[0, 0, 0, 3] = False
        assert len(operations(parts, full)[1]) > len(done)  # a mask that hides something does cost
