"""Attention among many stocks in linear time, through a few learned points."""

import math

import torch
from torch import Tensor, nn

from qlib_ext.nets.attention import Dropout, hide_keys, with_a_key


class InducedAttention(nn.Module):
    """Masked multi-head attention through `inducing` learned points (Set Transformer, Lee et al., 2019: ISAB).

    p = MAB(I, x): the points I attend to the group's present members and pass norm, residual and feed-forward; then
    every member attends to the p alone. The second MAB's norms, residual and feed-forward are those of the block that
    this attention stands in (`Aggregation`). As in `Attention` there is no output projection, and no bias.

    Cost and memory grow with L, and no projection of a member is ever made: q_n k_m = x_n (W_q^T k_m) and
    sum_n w_n v_n = W_v (sum_n w_n x_n), so that the matrices of queries, keys and values meet the few points alone.
    Their small products are made in the parameters' precision, also under autocast.

    Args:
        d_model: D.
        heads: H, which divides D.
        inducing: M, number of points.
        dropout: of both attentions' weights.
        key_dropout: share of members hidden from the points of a group while training, as in `Attention`.

    >>> InducedAttention(8, 2, inducing=4)(torch.zeros(3, 100, 8)).shape  # 3 groups of 100 stocks
    torch.Size([3, 100, 8])
    """

    def __init__(
        self, d_model: int, heads: int, *, inducing: int, dropout: float = 0.0, key_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.inducing, self.key_dropout = heads, inducing, key_dropout
        self.points = nn.Parameter(torch.randn(inducing, d_model))  # queries and residual of the first attention
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)  # of the members
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.ffn = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, d_model))
        self.kv = nn.Linear(d_model, 2 * d_model, bias=False)  # of the points
        self.drop = Dropout(dropout)

    def extra_repr(self) -> str:
        """Show what no parameter tells."""
        return f"heads={self.heads}, inducing={self.inducing}, key_dropout={self.key_dropout}"

    def forward(self, x: Tensor, key_mask: Tensor | None = None, dim: int = -2) -> Tensor:
        """Attend within groups x (..., L, D); key_mask (..., L) bool, True = real. As `Attention`, `dim` -2 alone."""
        if dim != -2:
            raise ValueError(f"dim={dim}; allowed: -2, the members stand beside each other")
        if self.training and self.key_dropout:
            key_mask = hide_keys(x.shape[:-1], self.key_dropout, key_mask, x.device)
        members = x.reshape(-1, *x.shape[-2:])
        pooled = self._pool(members, None if key_mask is None else key_mask.reshape(-1, members.shape[1]))
        with torch.autocast(x.device.type, enabled=False):
            query, value = (part.to(x.dtype) for part in self._summarise(pooled.to(self.points.dtype)))
        logit = (members @ query).unflatten(-1, (self.heads, self.inducing))  # (G, L, H, M)
        weight = self.drop(torch.softmax(logit, -1)).flatten(-2)
        return (weight @ value).reshape(x.shape)

    def _by_head(self) -> list[Tensor]:
        """Cut the projections to queries, keys and values into heads, (H, D/H, D) each."""
        return [part.unflatten(0, (self.heads, -1)) for part in self.qkv.weight.chunk(3)]

    def _pool(self, x: Tensor, key_mask: Tensor | None) -> Tensor:
        """Average members (G, L, D) by the weight that each point gives them, head by head: (G, H M, D)."""
        with torch.autocast(x.device.type, enabled=False):
            _, key, _ = self._by_head()
            points = self.points.unflatten(-1, (self.heads, -1)) / math.sqrt(key.shape[1])
            asks = torch.einsum("mhd,hde->hme", points, key).flatten(0, 1).to(x.dtype)  # (H M, D)
            logit = asks.expand(len(x), -1, -1) @ x.transpose(1, 2)
        if key_mask is not None:
            logit = logit + torch.where(with_a_key(key_mask, -1), 0.0, -math.inf).to(logit.dtype)[:, None]
        return self.drop(torch.softmax(logit, -1)) @ x

    def _summarise(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Turn averages (G, H M, D) into what members meet: (G, D, H M) for logits, (G, H M, D) for values."""
        heads, width = self.heads, pooled.shape[-1] // self.heads
        query, _, value = self._by_head()
        seen = torch.einsum("ghme,hde->gmhd", pooled.unflatten(1, (heads, -1)), value).flatten(-2)
        point = self.norm1(self.points + seen)
        point = self.norm2(point + self.ffn(point))
        key, answer = (part.unflatten(-1, (heads, width)) for part in self.kv(point).chunk(2, -1))  # (G, M, H, D/H)
        to_logit = torch.einsum("gmhd,hde->gehm", key / math.sqrt(width), query).flatten(-2)
        own = torch.eye(heads, dtype=answer.dtype, device=answer.device)[:, None, :, None]
        return to_logit, (own * answer[:, None]).flatten(-2).flatten(1, 2)
