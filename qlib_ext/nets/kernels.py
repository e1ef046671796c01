"""softmax(scale * q k^T) v over the keys that a mask allows, by the kernel that is fastest for the sizes at hand.

On a CPU torch's fused attention is slow for short groups, and in bfloat16 for long ones too (`docs/speed.md`): matrices
of all groups that fit into the cache are made at once and kept for the backward pass, and large ones in bfloat16 go
block by block of queries, computed again in the backward pass, so that they take no memory. Everything else, float32
matrices too large for the cache, dropout of weights and GPUs, is torch's `scaled_dot_product_attention`. In bfloat16
the products are rounded before the softmax, where torch keeps float32: a trained network's scores are as near to
float32's either way (correlation .99999, `docs/speed.md`).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

_WHOLE = 32 * 2**20  # bytes of all groups' matrices that are made at once
_BLOCK, _LONG = 512, 512  # queries a block; keys from which it goes by blocks
_BLOCKED = (torch.bfloat16,)  # precisions in which it does: float32 matrices cost more than torch's


def attend(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, *, dropout: float, scale: float | None) -> Tensor:
    """Attend within groups, head by head.

    Args:
        q: queries (G, H, L, d).
        k: keys, as q.
        v: values, as q.
        key_mask: (G, 1, 1, L) bool, True = may be attended to, at least one in each group; None: all may.
        dropout: of the weights, 0 for none.
        scale: of the products; None: 1/sqrt(d).

    Returns:
        (G, H, L, d) in the precision of q.
    """
    if q.device.type == "cpu" and not dropout and not torch.compiler.is_compiling():
        length = q.shape[-2]
        whole = q.shape[:-1].numel() * length * q.element_size() <= _WHOLE
        if whole or (q.dtype in _BLOCKED and length >= _LONG):
            if key_mask is not None and bool(key_mask.all()):
                key_mask = None
            q = q * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale)
            with torch.autocast("cpu", enabled=False):
                if whole:
                    logit = q @ k.transpose(-1, -2)
                    if key_mask is not None:  # adding is four times as fast as filling
                        logit = logit.add_(torch.where(key_mask, 0.0, -math.inf).to(logit.dtype))
                    return torch.softmax(logit, -1) @ v
                out: Tensor = _Blocks.apply(q, k, v, key_mask)
                return out
    return scaled_dot_product_attention(q, k, v, attn_mask=key_mask, dropout_p=dropout, scale=scale)


class _Blocks(torch.autograd.Function):
    """Attention with no matrix kept, for groups long enough that a product of one block fills all threads.

    Keys that may not be attended to are left out of the products. The blocks share their scratch memory: fresh pages
    cost a CPU as much as the products. Differentiable once.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Map q (scaled already), k, v (G, H, L, d) and a mask (G, 1, 1, L) to (G, H, L, d)."""
        q, k, v = (part.contiguous() for part in (q, k, v))
        out, room = torch.empty_like(q), _Room(q, 2)
        kept = [None] * len(q) if key_mask is None else [mask.nonzero()[:, 0] for mask in key_mask[:, 0, 0]]
        for at, places in _each_head(q, kept):
            key, value = _of(k[at], places), _of(v[at], places)
            for rows in _blocks(q):
                logit, weights = room.of(rows, len(key))
                torch.softmax(torch.mm(q[at][rows], key.t(), out=logit), -1, out=weights)
                torch.mm(weights, value, out=out[at][rows])
        ctx.save_for_backward(q, k, v)
        ctx.kept = kept
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of q, k, v; the weights are computed again, block by block."""
        q, k, v = ctx.saved_tensors
        above = gradients[0].contiguous()
        of_q, of_k, of_v, room = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v), _Room(q, 3)
        for at, places in _each_head(q, ctx.kept):
            key, value = _of(k[at], places), _of(v[at], places)
            sum_k, sum_v = (torch.zeros_like(key, dtype=torch.promote_types(k.dtype, torch.float32)) for _ in range(2))
            for rows in _blocks(q):
                logit, weights, of_logit = room.of(rows, len(key))
                torch.softmax(torch.mm(q[at][rows], key.t(), out=logit), -1, out=weights)
                sum_v += weights.t() @ above[at][rows]
                torch.mm(above[at][rows], value.t(), out=logit)  # the gradient of the weights
                torch.ops.aten._softmax_backward_data.out(logit, weights, -1, weights.dtype, grad_input=of_logit)
                torch.mm(of_logit, key, out=of_q[at][rows])
                sum_k += of_logit.t() @ q[at][rows]
            own = slice(None) if places is None else places
            of_k[at][own], of_v[at][own] = sum_k.to(k.dtype), sum_v.to(v.dtype)
        return of_q, of_k, of_v, None


class _Room:
    """Scratch matrices (block, keys) for queries (G, H, L, d)."""

    def __init__(self, q: Tensor, count: int) -> None:
        length = q.shape[-2]
        self.all = q.new_empty(count, min(_BLOCK, length) * length)

    def of(self, rows: slice, keys: int) -> list[Tensor]:
        """Return the matrices for a block of queries and so many keys."""
        size = rows.stop - rows.start
        return [one[: size * keys].view(size, keys) for one in self.all]


def _each_head(q: Tensor, kept: list[Tensor | None]) -> list[tuple[tuple[int, int], Tensor | None]]:
    """List (group, head) of q (G, H, L, d), each with the places of its keys, None for all."""
    return [((group, head), places) for group, places in enumerate(kept) for head in range(q.shape[1])]


def _blocks(q: Tensor) -> list[slice]:
    """List the queries of each block."""
    length = q.shape[-2]
    return [slice(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]


def _of(rows: Tensor, places: Tensor | None) -> Tensor:
    return rows if places is None else rows[places]
