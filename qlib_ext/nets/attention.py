"""The blocks that MASTER is made of: multi-head attention under a mask, feed-forward, temporal aggregation.

Sizes and masks as in `nets`; sizes and rates are checked by MASTER.
"""

import math
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor, nn

from qlib_ext.nets.kernels import attend

Variant = Literal["official", "paper"]
_MAX_GROUPS = 65_535  # the grid of CUDA's fused attention; more (16 days x 5,000 stocks) go day by day
_PART = 4 * 2**20  # bytes of a part's products in the temporal aggregation: fresh pages cost a CPU more than they do


def with_a_key(mask: Tensor, dim: int) -> Tensor:
    """`mask`, but True all along `dim` where nothing is: a softmax over no key would be NaN."""
    return mask | ~mask.any(dim, keepdim=True)


def hide_keys(size: torch.Size, rate: float, key_mask: Tensor | None, device: torch.device) -> Tensor:
    """Hide a share of the keys (..., L) at random, never all that a group has."""
    kept = torch.rand(size, device=device) >= rate
    return kept if key_mask is None else with_a_key(kept & key_mask, -1) & key_mask


class Attention(nn.Module):
    """Masked multi-head self-attention within groups, without biases and without an output projection.

    softmax(q k^T / sqrt(D/H)) v, or softmax(q k^T) v with `scale=False`. One module for both axes: a group is
    the steps of one stock or the stocks of one step.

    Dropout of the weights is fused on CUDA only: elsewhere torch then keeps whole (groups, H, L, L) matrices,
    which is slower and takes 1.6 GB a copy for one day of 5,000 stocks, T=8 and H=2. Use `key_dropout` there: it
    hides whole keys from a group, the same ones from all queries and heads; the softmax over the rest needs no
    rescaling.
    """

    def __init__(
        self, d_model: int, heads: int, *, dropout: float = 0.0, key_dropout: float = 0.0, scale: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.key_dropout, self.scale = heads, dropout, key_dropout, scale
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)

    def extra_repr(self) -> str:
        """Show what no parameter tells."""
        rates = f"dropout={self.dropout}, key_dropout={self.key_dropout}"
        return f"heads={self.heads}, {rates}, scale={self.scale}"

    def forward(self, x: Tensor, key_mask: Tensor | None = None, dim: int = -2) -> Tensor:
        """Attend along an axis.

        Args:
            x: (..., L, D), or (..., L, N, D) with `dim=-3`.
            key_mask: x's shape without D, bool, True = may be attended to; a group without any key attends to all.
            dim: axis of the keys, -2 or -3.

        Returns:
            As x, heads concatenated.
        """
        qkv = self.qkv(x)
        if dim == -3:  # only here: whatever works on each vector by itself keeps the axes as they lie in memory
            qkv, key_mask = qkv.transpose(-3, -2), None if key_mask is None else key_mask.transpose(-2, -1)
        out = self._by_group(qkv, key_mask)
        return out.transpose(-3, -2) if dim == -3 else out

    def _by_group(self, qkv: Tensor, key_mask: Tensor | None) -> Tensor:
        """Map projections (..., L, 3 D) to (..., L, D)."""
        size = qkv.shape[:-1]
        length, d_model = size[-1], qkv.shape[-1] // 3
        if len(size) > 2 and size[:-1].numel() > _MAX_GROUPS:
            keys = repeat(None) if key_mask is None else key_mask
            return torch.stack([self._by_group(day, key) for day, key in zip(qkv, keys, strict=False)])
        if not qkv.numel():
            return qkv.new_zeros(*size, d_model)
        by_head = (-1, length, self.heads, d_model // self.heads)
        q, k, v = (part.reshape(by_head).transpose(1, 2) for part in qkv.chunk(3, -1))  # (groups, H, L, D/H)
        if self.training and self.key_dropout:
            key_mask = hide_keys(size, self.key_dropout, key_mask, qkv.device)
        if key_mask is not None:
            key_mask = with_a_key(key_mask, -1).reshape(-1, 1, 1, length)
        dropout = self.dropout if self.training else 0.0
        scale = None if self.scale else 1.0  # None: 1/sqrt(D/H)
        out = attend(q, k, v, key_mask, dropout=dropout, scale=scale)
        return out.transpose(1, 2).reshape(*size, d_model)


class Dropout(nn.Dropout):
    """nn.Dropout that takes 8 or 16 random bits a value on a CPU, where torch draws value by value (five times slower).

    The rate is rounded to a multiple of 2^-16 and the kept values are scaled by the rounded one: no bias.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop values of x, any shape."""
        dropped = min(round(self.p * 65_536), 65_535)
        if not self.training or not dropped or x.device.type != "cpu":
            return super().forward(x)
        bits, kind = (8, torch.int8) if dropped % 256 == 0 else (16, torch.int16)  # as few as the rate needs
        words = torch.empty(-(-x.numel() * bits // 64), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(kind)[: x.numel()].view(x.shape) >= (dropped >> (16 - bits)) - (1 << (bits - 1))
        return (x * keep.to(x.dtype)).mul_(65_536 / (65_536 - dropped))


class Aggregation(nn.Module):
    """One attention block of MASTER: y = LN(x); a = LN(y + A(y)); out = a + FFN(a) with an attention A.

    Unlike a usual pre-norm block the residuals start from the **normed** values, as in the authors' code.
    """

    def __init__(self, d_model: int, attention: nn.Module, *, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.attention = attention
        self.norm2 = nn.LayerNorm(d_model)
        first, second = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.ffn = nn.Sequential(first, nn.ReLU(), Dropout(dropout), second, Dropout(dropout))

    def forward(self, x: Tensor, key_mask: Tensor | None = None, dim: int = -2) -> Tensor:
        """Map x (..., L, D), or (..., L, N, D) with `dim=-3`, to the same; key_mask without D, bool, True = real."""
        y = self.norm1(x)
        a = self.norm2(y + self.attention(y, key_mask, dim))
        return a + self.ffn(a)


class TemporalAttention(nn.Module):
    """e_u = sum_t lambda_t z_t with the last step as the query (paper: "temporal aggregation").

    lambda_t is proportional to exp(z_t^T W z_T) with `variant="paper"` and to exp((W z_t)^T (W z_T)) in the
    authors' code, here computed as z_t^T (W^T W z_T): only the last step is multiplied by W.
    """

    def __init__(self, d_model: int, *, variant: Variant = "official") -> None:
        super().__init__()
        self.variant = variant
        self.proj = nn.Linear(d_model, d_model, bias=False)

    def extra_repr(self) -> str:
        """Show what no parameter tells."""
        return f"variant={self.variant}"

    def forward(self, z: Tensor, present: Tensor | None = None) -> Tensor:
        """Map z (B, T, N, D), present (B, T, N) bool (True = real), to (B, N, D), without autocast."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(self.proj.weight.dtype)
            query = self.proj(z[:, -1])
            if self.variant == "official":
                query = query @ self.proj.weight
            if z.device.type != "cpu" or torch.compiler.is_compiling():
                return self._weigh(z, query, present)
            size = max(
                1, _PART * z.shape[2] // (z.numel() * z.element_size())
            )  # stocks whose products stay in the cache
            here = repeat(None) if present is None else present.split(size, 2)
            parts = zip(z.split(size, 2), query.split(size, 1), here, strict=False)
            return torch.cat([self._weigh(*part) for part in parts], 1)

    def _weigh(self, z: Tensor, query: Tensor, present: Tensor | None) -> Tensor:
        """Sum z (B, T, N, D) over the steps, weighed by its products with the query (B, N, D)."""
        logit = (z * query[:, None]).sum(-1)  # an einsum would be a loop of tiny products on a CPU
        if present is not None:
            logit = logit.masked_fill(~with_a_key(present, 1), -math.inf)
        return (torch.softmax(logit, dim=1)[..., None] * z).sum(1)


def sinusoidal_positions(steps: int, d_model: int) -> Tensor:
    """Positional table (steps, D) of Vaswani et al. (2017): sin in the even columns, cos in the odd ones."""
    rate = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10_000.0) / d_model))
    angle = torch.arange(steps).float()[:, None] * rate
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :d_model]
