"""MASTER as its authors wrote it (github.com/SJTU-DMTai/MASTER, master.py and base_model.py), in our own words.

The yardstick of the benchmarks: one day a step, the day's stocks only, no masks; heads in Python loops whose
whole attention matrices are kept for the backward pass, with a dropout layer each. Sizes: N stocks, T steps
(oldest first), F features, M market features, D `d_model`. Its state dict has the authors' names, so that
`qlib_ext.nets.load_official_master` reads it.
"""

import math

import torch
from torch import Tensor, nn


class PositionalEncoding(nn.Module):
    """Add the sinusoidal table to (N, T, D)."""

    pe: Tensor

    def __init__(self, d_model: int, max_len: int = 100) -> None:
        super().__init__()
        position = torch.arange(max_len).float()[:, None]
        rate = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10_000.0) / d_model))
        pe = torch.zeros(max_len, d_model)
        pe[:, 0::2] = torch.sin(position * rate)
        pe[:, 1::2] = torch.cos(position * rate)
        self.register_buffer("pe", pe)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D)."""
        return x + self.pe[: x.shape[1]]


class _HeadByHead(nn.Module):
    """What both attentions share: the parameters, and one head after the other."""

    def __init__(self, d_model: int, nhead: int, dropout: float) -> None:
        super().__init__()
        self.nhead, self.width = nhead, d_model // nhead
        self.qtrans = nn.Linear(d_model, d_model, bias=False)
        self.ktrans = nn.Linear(d_model, d_model, bias=False)
        self.vtrans = nn.Linear(d_model, d_model, bias=False)
        self.attn_dropout = nn.ModuleList([nn.Dropout(dropout) for _ in range(nhead)])
        self.norm1 = nn.LayerNorm(d_model, eps=1e-5)
        self.norm2 = nn.LayerNorm(d_model, eps=1e-5)
        first, second = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.ffn = nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), second, nn.Dropout(dropout))

    def heads(self, q: Tensor, k: Tensor, v: Tensor, temperature: float | None) -> list[Tensor]:
        """Attend along the middle axis of (G, L, D), head by head: a list of (G, L, D / heads)."""
        out = []
        for i, dropout in enumerate(self.attn_dropout):
            own = slice(i * self.width, (i + 1) * self.width)
            logit = torch.matmul(q[:, :, own], k[:, :, own].transpose(1, 2))
            matrix = torch.softmax(logit if temperature is None else logit / temperature, dim=-1)
            out.append(torch.matmul(dropout(matrix), v[:, :, own]))
        return out


class TAttention(_HeadByHead):
    """Over the steps of each stock, not scaled."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D)."""
        x = self.norm1(x)
        out = self.heads(self.qtrans(x), self.ktrans(x), self.vtrans(x), None)
        xt = self.norm2(x + torch.cat(out, dim=-1))
        return xt + self.ffn(xt)


class SAttention(_HeadByHead):
    """Over the stocks of each step, scaled by the root of a head's width."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to (N, T, D)."""
        x = self.norm1(x)
        q, k, v = (trans(x).transpose(0, 1) for trans in (self.qtrans, self.ktrans, self.vtrans))
        out = [head.transpose(0, 1) for head in self.heads(q, k, v, math.sqrt(self.width))]
        xt = self.norm2(x + torch.cat(out, dim=-1))
        return xt + self.ffn(xt)


class TemporalAttention(nn.Module):
    """Sum the steps with weights by their likeness to the last one."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.trans = nn.Linear(d_model, d_model, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Map (N, T, D) to (N, D)."""
        h = self.trans(z)
        query = h[:, -1, :].unsqueeze(-1)
        lam = torch.softmax(torch.matmul(h, query).squeeze(-1), dim=1).unsqueeze(1)
        return torch.matmul(lam, z).squeeze(1)


class Gate(nn.Module):
    """Weigh the features by the market's state: F softmax((W m + b) / beta)."""

    def __init__(self, d_input: int, d_output: int, beta: float) -> None:
        super().__init__()
        self.trans = nn.Linear(d_input, d_output)
        self.d_output, self.t = d_output, beta

    def forward(self, market: Tensor) -> Tensor:
        """Map (N, M) to (N, F); every stock carries the same state."""
        return self.d_output * torch.softmax(self.trans(market) / self.t, dim=-1)


class ReferenceMASTER(nn.Module):
    """The authors' network: gate, embedding, positions, intra-stock, inter-stock, temporal, head.

    Args:
        d_feat: F, stock features.
        d_model: D.
        t_heads: heads over the steps of a stock.
        s_heads: heads over the stocks of a step.
        dropout: of feed-forward layers and of attention weights.
        d_gate: M, market features; 0: no gate.
        beta: temperature of the gate.

    """

    def __init__(
        self,
        d_feat: int,
        d_model: int = 256,
        t_heads: int = 4,
        s_heads: int = 2,
        dropout: float = 0.5,
        d_gate: int = 0,
        beta: float = 5.0,
    ) -> None:
        super().__init__()
        self.d_feat = d_feat
        self.feature_gate = Gate(d_gate, d_feat, beta) if d_gate else None
        self.layers = nn.Sequential(
            nn.Linear(d_feat, d_model),
            PositionalEncoding(d_model),
            TAttention(d_model, t_heads, dropout),
            SAttention(d_model, s_heads, dropout),
            TemporalAttention(d_model),
            nn.Linear(d_model, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Score one day: x (N, T, F + M), the market's state repeated for every stock and step, to (N,)."""
        source = x[:, :, : self.d_feat]
        if self.feature_gate is not None:
            source = source * self.feature_gate(x[:, -1, self.d_feat :]).unsqueeze(1)
        return self.layers(source).squeeze(-1)


def reference_step(net: ReferenceMASTER, optimiser: torch.optim.Optimizer, x: Tensor, label: Tensor) -> float:
    """Learn from one day as the authors do: squared error on the day's z-scores, gradients cut at 3 by value.

    Args:
        net: in train mode.
        optimiser: Adam over its parameters.
        x: (N, T, F + M).
        label: (N,) forward returns; stocks whose label is NaN are dropped.

    Returns: the loss, read from the device after every step.

    """
    known = ~torch.isnan(label)
    x, label = x[known], label[known]
    label = (label - label.mean()) / label.std()
    loss = ((net(x) - label) ** 2).mean()
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_value_(net.parameters(), 3.0)
    optimiser.step()
    return loss.item()
