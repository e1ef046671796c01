"""Networks that score one day's whole market: `MLP` (the deck's baseline) and `MASTER` (AAAI 2024).

Sizes: B days, T steps of a window (oldest first), N stocks, F features, M market features, D `d_model`,
H heads. Masks: True = real. `present=None` says that everything is present: no mask is built then, so that
the fastest attention kernels are used, and the device is never asked. Features under a False mask may hold
anything, NaN too.

Both networks are called as `net(x, present, market)` and return scores (B, N), or (B, N, heads) with several heads,
such as one a horizon. The score of a stock that is not present at the last step is exactly 0 and carries no gradient:
mask it from loss and allocation.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from qlib_ext.cross_section import centre_and_spread
from qlib_ext.nets.attention import Aggregation, Attention, Dropout, TemporalAttention, Variant, sinusoidal_positions
from qlib_ext.nets.induced import InducedAttention
from qlib_ext.options import check_choice, check_number

Inter = Literal["full", "induced"]
YAML = " (in YAML write 0.1, not 1e-1, which is a text)"


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for a size that is no whole number of at least 1."""
    for name, size in sizes.items():
        check_number(name, size, "[1, inf)", whole=True)


def check_rates(**rates: float) -> None:
    """Raise ValueError for a dropout rate outside of [0, 1)."""
    for name, rate in rates.items():
        check_number(name, rate, "[0, 1)", hint=YAML)


def _check_input(x: Tensor, present: Tensor | None, market: Tensor | None, d_feat: int, d_gate: int) -> None:
    """Raise ValueError unless x (..., N, F), present (..., N) bool and market (B, M) fit the net."""
    shape = tuple(x.shape)
    if shape[-1] != d_feat:
        raise ValueError(f"x {shape} has {shape[-1]} features, the net was built with d_feat={d_feat}")
    if x.numel() == 0:
        raise ValueError(f"x {shape} is empty: leave days without stocks out of the batch")
    if present is not None and (present.shape != shape[:-1] or present.dtype != torch.bool):
        came = f"{tuple(present.shape)} {present.dtype}"
        raise ValueError(f"present is {came}; x {shape} needs {shape[:-1]} torch.bool, True = real")
    if market is not None and d_gate == 0:
        raise ValueError("market was given to a net without a gate: pass None, or build MASTER with d_gate=M")
    if d_gate and (market is None or market.shape != (shape[0], d_gate)):
        came = "None" if market is None else str(tuple(market.shape))
        raise ValueError(f"market is {came}; the gate needs (B, M) = {(shape[0], d_gate)} for x {shape}")


class MLP(nn.Module):
    """Three linear layers with ReLU between them (slides: the baseline), each stock by itself.

    Args:
        d_feat: F, number of features.
        hidden: widths of the hidden layers, two by default (the third layer is the head).
        dropout: after each hidden ReLU.
        heads: scores a stock, read out of one body.

    >>> MLP(3, [4])(torch.zeros(2, 5, 3)).shape  # 2 days, 5 stocks, 3 features
    torch.Size([2, 5])
    """

    d_gate = 0
    needs_window = False  # a trainer gathers the day alone

    def __init__(
        self,
        d_feat: int,
        hidden: Sequence[int] = (256, 128),
        *,
        dropout: float = 0.0,
        heads: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(hidden, Sequence) or isinstance(hidden, str):
            raise ValueError(f"hidden is {hidden!r}; allowed: a list of widths, such as [256, 128]")
        check_sizes(d_feat=d_feat, heads=heads, **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        check_rates(dropout=dropout)
        self.d_feat = d_feat
        widths = [d_feat, *hidden]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True), Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], heads)

    def forward(self, x: Tensor, present: Tensor | None = None, market: Tensor | None = None) -> Tensor:
        """Score the stocks of each day.

        Args:
            x: (B, N, F), or (B, T, N, F) of which only the last step is used.
            present: (B, N) or (B, T, N) bool as x, True = real.
            market: must be None, an MLP has no gate (the argument keeps one call for all nets).

        Returns:
            (B, N) scores, (B, N, heads) with more than one.

        Raises:
            ValueError: shapes that do not fit.
        """
        if x.ndim not in (3, 4):
            raise ValueError(f"x {tuple(x.shape)}: MLP needs (B, N, F) or (B, T, N, F)")
        _check_input(x, present, market, self.d_feat, 0)
        if x.ndim == 4:
            x, present = x[:, -1], None if present is None else present[:, -1]
        if present is not None:
            x = torch.where(present[..., None], x, 0.0)
        return _read_out(self.head, self.body(x), present)


def _read_out(head: nn.Linear, e: Tensor, present: Tensor | None) -> Tensor:
    """Scores (B, N), or (B, N, heads), of embeddings e (B, N, D), in the parameters' precision also under autocast.

    Absent is 0. A bfloat16 score has 8 bits: it would tie many of a market's stocks, and ranks are what counts.
    """
    with torch.autocast(e.device.type, enabled=False):
        score: Tensor = head(e.to(head.weight.dtype))
    if present is not None:
        score = torch.where(present[..., None], score, 0.0)
    return score[..., 0] if score.shape[-1] == 1 else score


class Gate(nn.Module):
    """Market-guided gating: alpha(m) = F * softmax((W m + b) / beta), one vector a day (Li et al., 2024).

    The weights are positive with mean 1; a large `beta` tends to no gate, a small one selects few features. The market
    state is scaled first once `fit` was called; until then it is taken as it comes. Autocast is off inside: bfloat16
    keeps 8 bits, and the weights would be few and not those that are recorded.

    >>> gate = Gate(d_gate=2, d_feat=3, beta=5.0)
    >>> round(gate(torch.tensor([[0.1, -0.2]])).mean().item(), 4)  # weights of one day's 3 features
    1.0
    """

    center: Tensor
    spread: Tensor
    limit: Tensor

    def __init__(self, d_gate: int, d_feat: int, *, beta: float = 5.0) -> None:
        super().__init__()
        check_sizes(d_gate=d_gate, d_feat=d_feat)
        check_number("beta", beta, "(0, inf)", hint=YAML)
        self.beta = beta
        self.proj = nn.Linear(d_gate, d_feat)
        for name, start in (("center", 0.0), ("spread", 1.0), ("limit", math.inf)):
            self.register_buffer(name, torch.full((d_gate,), start))

    def fit(self, market: Tensor) -> None:
        """Fit the scaling on the market states (days, M) of the training days: (m - median) / spread, within +-3.

        The spread is 1.4826 MAD, or the standard deviation where half of the days are equal. A constant feature becomes
        0 on all days: nothing can be learnt of it.
        """
        centre, spread = centre_and_spread(market.detach().to(self.center))
        self.center.copy_(centre)
        self.spread.copy_(torch.where(spread > 0, spread, torch.inf))
        self.limit.fill_(3.0)

    def extra_repr(self) -> str:
        """Show what no parameter tells."""
        return f"beta={self.beta}"

    def forward(self, market: Tensor) -> Tensor:
        """Feature weights (B, F) of market states (B, M)."""
        with torch.autocast(market.device.type, enabled=False):
            market = market.to(self.proj.weight.dtype)
            state = ((market - self.center) / self.spread).clamp(-self.limit, self.limit)
            return self.proj.out_features * torch.softmax(self.proj(state) / self.beta, dim=-1)


class Columns(nn.Module):
    """A network that sees some of the features.

    Args:
        net: of this module.
        columns: places of the features, in the order in which the network has them.

    >>> Columns(MLP(2, [4]), [0, 2])(torch.zeros(2, 5, 3)).shape
    torch.Size([2, 5])
    """

    columns: Tensor

    def __init__(self, net: nn.Module, columns: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("columns", torch.as_tensor(columns))

    @property
    def needs_window(self) -> bool:
        """Whether the network looks at more than the day."""
        return bool(getattr(self.net, "needs_window", True))

    @property
    def gate(self) -> Any:
        """The network's gate."""
        return getattr(self.net, "gate", None)

    def forward(self, x: Tensor, present: Tensor | None = None, market: Tensor | None = None) -> Tensor:
        """Score as the network does; x (..., F) has all features."""
        return self.net(x.index_select(-1, self.columns), present, market)


class MASTER(nn.Module):
    """Market-guided stock transformer (Li et al., AAAI 2024), every attention masked.

    Optional gate -> linear F to D plus positions -> attention over the steps of each stock -> attention over
    the stocks of each step -> temporal aggregation with the last step as the query -> head, D to `heads`.

    The paper and the authors' published code differ; `variant` selects, the parameters are the same:
    - intra-stock attention: "paper" is multi-head attention as usually defined, scaled by 1/sqrt(D/t_heads);
      "official" is **not** scaled (inter-stock attention is scaled in the code, and in both variants here);
    - temporal aggregation: "paper" lambda ~ exp(z_t^T W z_T), "official" lambda ~ exp((W z_t)^T (W z_T)).
    Layer norms stand where the code has them in both variants: before each attention and each feed-forward.
    The paper's equations write one out only before the intra-stock attention.

    The gate's parameters are drawn first: with a gate and without one, or with another number of market features, the
    other layers start from different values at the same seed. Compare over several seeds.

    Args:
        d_feat: F, number of stock features.
        d_model: D, a multiple of `t_heads` and of `s_heads`.
        t_heads: heads of the intra-stock attention (over steps).
        s_heads: heads of the inter-stock attention (over stocks).
        dropout: in the feed-forward layers.
        d_gate: M, number of market features; 0: no gate.
        beta: temperature of the gate.
        attention_dropout: on the attention weights; None: as `dropout`, as in the authors' code. On CPUs 0
            is faster and needs far less memory (see `Attention`).
        key_dropout: share of keys hidden from each attention group while training (see `Attention`).
        variant: "official" (the authors' code and checkpoints) or "paper".
        max_steps: longest window T.
        heads: scores a stock, read out of one body.
        inter: attention over the stocks: "full" (the paper's, quadratic in N) or "induced" (linear in N, through
            learned points: see `InducedAttention`; not the authors' network).
        inducing: number of those points.

    Raises:
        ValueError: arguments out of range, heads that do not divide `d_model`.

    >>> net = MASTER(d_feat=3, d_model=8, t_heads=2, s_heads=2)
    >>> x, present = torch.zeros(1, 4, 5, 3), torch.ones(1, 4, 5, dtype=torch.bool)  # a day, 4 steps, 5 stocks
    >>> net(x, present).shape
    torch.Size([1, 5])
    """

    positions: Tensor

    def __init__(
        self,
        d_feat: int,
        d_model: int = 256,
        t_heads: int = 4,
        s_heads: int = 2,
        dropout: float = 0.5,
        d_gate: int = 0,
        beta: float = 5.0,
        *,
        attention_dropout: float | None = None,
        key_dropout: float = 0.0,
        variant: Variant = "official",
        max_steps: int = 100,
        heads: int = 1,
        inter: Inter = "full",
        inducing: int = 32,
    ) -> None:
        super().__init__()
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        sizes = {"d_model": d_model, "t_heads": t_heads, "s_heads": s_heads, "max_steps": max_steps}
        sizes |= {"heads": heads, "inducing": inducing}
        check_sizes(d_feat=d_feat, **sizes)
        check_rates(dropout=dropout, attention_dropout=attention_dropout, key_dropout=key_dropout)
        for name, parts in {"t_heads": t_heads, "s_heads": s_heads}.items():
            if d_model % parts:
                raise ValueError(f"d_model={d_model} is not divisible by {name}={parts}: choose a multiple")
        check_number("d_gate", d_gate, "[0, inf)", whole=True, hint=", 0 for no gate")
        check_number("beta", beta, "(0, inf)", hint=YAML)
        check_choice("variant", variant, get_args(Variant))
        check_choice("inter", inter, get_args(Inter))
        self.d_feat, self.d_gate, self.max_steps = d_feat, d_gate, max_steps
        rates: dict[str, Any] = {"dropout": attention_dropout, "key_dropout": key_dropout}
        self.gate = Gate(d_gate, d_feat, beta=beta) if d_gate else None
        self.embed = nn.Linear(d_feat, d_model)
        self.register_buffer("positions", sinusoidal_positions(max_steps, d_model), persistent=False)
        among_steps = Attention(d_model, t_heads, scale=variant == "paper", **rates)
        self.intra = Aggregation(d_model, among_steps, dropout=dropout)
        points: dict[str, Any] = {"inducing": inducing} if inter == "induced" else {}
        among_stocks = (InducedAttention if points else Attention)(d_model, s_heads, **points, **rates)
        self.inter = Aggregation(d_model, among_stocks, dropout=dropout)
        self.temporal = TemporalAttention(d_model, variant=variant)
        self.head = nn.Linear(d_model, heads)

    def forward(self, x: Tensor, present: Tensor | None = None, market: Tensor | None = None) -> Tensor:
        """Score the stocks of each day.

        Args:
            x: (B, T, N, F); the last step is the day itself; padded stocks and steps are not present.
            present: (B, T, N) bool, True = real; None: all. A step at which a stock is not present is no
                key, neither in time nor among the stocks.
            market: (B, M), state of the day, needed if and only if `d_gate` > 0; ignored on an empty day.

        Returns:
            (B, N) scores, (B, N, heads) with more than one.

        Raises:
            ValueError: shapes that do not fit each other or the net.
        """
        if x.ndim != 4 or x.shape[1] > self.max_steps:
            raise ValueError(f"x {tuple(x.shape)}: MASTER needs (B, T, N, F), T <= max_steps={self.max_steps}")
        _check_input(x, present, market, self.d_feat, self.d_gate)
        if present is not None:
            x = torch.where(present[..., None], x, 0.0)
        if self.gate is not None and market is not None:
            if present is not None:
                market = torch.where(present.flatten(1).any(1)[:, None], market, 0.0)
            x = x * self.gate(market)[:, None, None, :]
        y = self.embed(x)
        y = y + self.positions[: x.shape[1], None].to(y.dtype)  # else autocast on a CPU would go on in float32
        h = self.intra(y, present, dim=-3)
        z = self.inter(h, present)
        e = self.temporal(z, present)
        return _read_out(self.head, e, None if present is None else present[:, -1])
