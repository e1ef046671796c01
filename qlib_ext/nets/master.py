"""Networks that score one day's whole market: `MLP` (the deck's baseline) and `MASTER` (AAAI 2024).

Sizes: B days, T steps of a window (oldest first), N stocks, F features, M market features, D `d_model`,
H heads. Masks: True = real. `present=None` says that everything is present: no mask is built then, so that
the fastest attention kernels are used, and the device is never asked. Features under a False mask may hold
anything, NaN too.

Both networks are called as `net(x, present, market)` and return scores (B, N). The score of a stock that is
not present at the last step is exactly 0 and carries no gradient: mask it from loss and allocation.
"""

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qlib_ext.cross_section import centre_and_spread
from qlib_ext.nets.attention import (
    Aggregation,
    Dropout,
    TemporalAttention,
    Variant,
    check_beta,
    check_rates,
    check_sizes,
    sinusoidal_positions,
)


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
    """

    d_gate = 0
    needs_window = False  # a trainer gathers the day alone

    def __init__(self, d_feat: int, hidden: Sequence[int] = (256, 128), *, dropout: float = 0.0) -> None:
        super().__init__()
        if not isinstance(hidden, Sequence) or isinstance(hidden, str):
            raise ValueError(f"hidden={hidden!r}: a list of widths is needed, such as [256, 128]")
        check_sizes(d_feat=d_feat, **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        check_rates(dropout=dropout)
        self.d_feat = d_feat
        widths = [d_feat, *hidden]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True), Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor, present: Tensor | None = None, market: Tensor | None = None) -> Tensor:
        """Score the stocks of each day.

        Args:
            x: (B, N, F), or (B, T, N, F) of which only the last step is used.
            present: (B, N) or (B, T, N) bool as x, True = real.
            market: must be None, an MLP has no gate (the argument keeps one call for all nets).

        Returns:
            (B, N) scores.

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
    """Scores (B, N) of embeddings e (B, N, D), in the parameters' precision also under autocast; absent is 0.

    A bfloat16 score has 8 bits: it would tie many of a market's stocks, and ranks are what counts.
    """
    with torch.autocast(e.device.type, enabled=False):
        score = head(e.to(head.weight.dtype))[..., 0]
    return score if present is None else torch.where(present, score, 0.0)


class Gate(nn.Module):
    """Market-guided gating: alpha(m) = F * softmax((W m + b) / beta), one vector a day (Li et al., 2024).

    The weights are positive with mean 1; a large `beta` tends to no gate, a small one selects few features. The market
    state is scaled first once `fit` was called; until then it is taken as it comes. Autocast is off inside: bfloat16
    keeps 8 bits, and the weights would be few and not those that are recorded.
    """

    center: Tensor
    spread: Tensor
    limit: Tensor

    def __init__(self, d_gate: int, d_feat: int, *, beta: float = 5.0) -> None:
        super().__init__()
        check_sizes(d_gate=d_gate, d_feat=d_feat)
        check_beta(beta)
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


class MASTER(nn.Module):
    """Market-guided stock transformer (Li et al., AAAI 2024), every attention masked.

    Optional gate -> linear F to D plus positions -> attention over the steps of each stock -> attention over
    the stocks of each step -> temporal aggregation with the last step as the query -> linear D to 1.

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

    Raises:
        ValueError: arguments out of range, heads that do not divide `d_model`.
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
    ) -> None:
        super().__init__()
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        check_sizes(d_feat=d_feat, d_model=d_model, t_heads=t_heads, s_heads=s_heads, max_steps=max_steps)
        check_rates(dropout=dropout, attention_dropout=attention_dropout, key_dropout=key_dropout)
        for name, heads in {"t_heads": t_heads, "s_heads": s_heads}.items():
            if d_model % heads:
                raise ValueError(f"d_model={d_model} is not divisible by {name}={heads}: choose a multiple")
        if not isinstance(d_gate, int) or d_gate < 0:
            raise ValueError(f"d_gate={d_gate!r}: a whole number is needed, 0 for no gate")
        check_beta(beta)
        if variant not in ("official", "paper"):
            raise ValueError(f"variant={variant!r}: allowed are 'official' and 'paper'")
        self.d_feat, self.d_gate, self.max_steps = d_feat, d_gate, max_steps
        rates = {"dropout": dropout, "attention_dropout": attention_dropout, "key_dropout": key_dropout}
        self.gate = Gate(d_gate, d_feat, beta=beta) if d_gate else None
        self.embed = nn.Linear(d_feat, d_model)
        self.register_buffer("positions", sinusoidal_positions(max_steps, d_model), persistent=False)
        self.intra = Aggregation(d_model, t_heads, scale=variant == "paper", **rates)
        self.inter = Aggregation(d_model, s_heads, scale=True, **rates)
        self.temporal = TemporalAttention(d_model, variant=variant)
        self.head = nn.Linear(d_model, 1)

    def forward(self, x: Tensor, present: Tensor | None = None, market: Tensor | None = None) -> Tensor:
        """Score the stocks of each day.

        Args:
            x: (B, T, N, F); the last step is the day itself; padded stocks and steps are not present.
            present: (B, T, N) bool, True = real; None: all. A step at which a stock is not present is no
                key, neither in time nor among the stocks.
            market: (B, M), state of the day, needed if and only if `d_gate` > 0; ignored on an empty day.

        Returns:
            (B, N) scores.

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


_OFFICIAL_NAMES = {  # our prefix: the authors'
    "gate.proj.": "feature_gate.trans.",  # the scaling of the market state is ours and in no checkpoint
    "embed.": "layers.0.",
    "positions": "layers.1.pe",
    "intra.": "layers.2.",
    "inter.": "layers.3.",
    "temporal.proj.": "layers.4.trans.",
    "head.": "layers.5.",
}

_QLIB_NAMES = {  # the authors' second set of names, in their model for qlib: the first
    "x2y.": "layers.0.",
    "pe.": "layers.1.",
    "tatten.": "layers.2.",
    "satten.": "layers.3.",
    "temporalatten.": "layers.4.",
    "decoder.": "layers.5.",
}

_GATE_SCALE = ("gate.center", "gate.spread", "gate.limit")


def _official_names(name: str) -> list[str]:
    """Names by the authors of one of our tensors: three for a fused projection."""
    ours = next(prefix for prefix in _OFFICIAL_NAMES if name.startswith(prefix))
    theirs = _OFFICIAL_NAMES[ours] + name.removeprefix(ours)
    fused = "attention.qkv." in theirs
    return [theirs.replace("attention.qkv.", f"{one}trans.") for one in "qkv"] if fused else [theirs]


def _first_name(name: str) -> str:
    """Name of a tensor in the authors' first set of names, without DataParallel's prefix `module.`."""
    plain = name.removeprefix("module.")
    second = next((prefix for prefix in _QLIB_NAMES if plain.startswith(prefix)), None)
    return plain if second is None else _QLIB_NAMES[second] + plain.removeprefix(second)


def _read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a plain state dict without running any code in it, by the authors' first set of names."""
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no plain state dict saved by torch.save: {error}") from error
    entries = state.items() if isinstance(state, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in entries):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state dict of names and tensors")
    named = {_first_name(name): value for name, value in state.items()}
    if len(named) < len(state):
        twice = [name for name in state if name not in named]
        raise ValueError(f"{path} has tensors under two names: {', '.join(twice)} and what they stand for")
    return named


def load_official_master(path: str | Path, *, beta: float = 5.0, t_heads: int = 4, s_heads: int = 2) -> MASTER:
    """Build a MASTER from a checkpoint of the authors (github.com/SJTU-DMTai/MASTER), gate included if any.

    Sizes come from the tensors; `beta` and the heads are in no checkpoint. The authors' network takes one day
    `a` (N, T, F + M); the same here: `net(a[None, :, :, :F].transpose(1, 2), market=a[:1, -1, F:])`. Their inputs
    were scaled by qlib's RobustZScoreNorm(clip_outlier) fitted on the training days, then Fillna: not by the day's
    cross-section, as CSNormalise does. With other inputs the weights are a start, not the authors' model.

    Args:
        path: a plain state dict saved by torch.save, of either of the authors' sets of names (`layers.0.` or `x2y.`, as
            in their model for qlib); names may carry DataParallel's prefix `module.`. Half precision is read too.
        beta: temperature of the gate: 5 for the authors' CSI300 checkpoints, 2 for those of CSI800.
        t_heads: heads of the intra-stock attention.
        s_heads: heads of the inter-stock attention.

    Returns:
        The network (variant "official") in eval mode, float32, on the CPU.

    Raises:
        ValueError: another kind of file; missing or unexpected names and wrong shapes, each by name.
    """
    state = _read_state_dict(path)
    shape = {name: tuple(value.shape) for name, value in state.items()}
    if len(shape.get("layers.0.weight", ())) != 2:
        raise ValueError(f"{path} is no MASTER of the authors: no matrix layers.0.weight among {list(shape)}")
    d_model, d_feat = shape["layers.0.weight"]
    d_gate = (0, *shape.get("feature_gate.trans.weight", ()))[-1]
    steps = (*shape.get("layers.1.pe", ()), 100)[0]
    net = MASTER(d_feat, d_model, t_heads, s_heads, d_gate=d_gate, beta=beta, max_steps=steps)
    own = {name: value for name, value in net.state_dict().items() if name in _GATE_SCALE}
    ours = {name: v for name, v in net.state_dict().items() if name not in own} | {"positions": net.positions}
    names = {name: _official_names(name) for name in ours}
    expected = {old: tuple(ours[new].chunk(len(olds))[0].shape) for new, olds in names.items() for old in olds}
    problems = [f"missing {name}" for name in expected if name not in shape]
    problems += [f"unexpected {name}" for name in shape if name not in expected]
    wrong = [name for name in expected if shape.get(name, expected[name]) != expected[name]]
    problems += [f"{name} is {shape[name]}, expected {expected[name]}" for name in wrong]
    if problems:
        raise ValueError(f"{path} is no MASTER of the authors: {'; '.join(problems)}")
    loaded = {new: torch.cat([state[old] for old in olds]) for new, olds in names.items()}
    table = loaded.pop("positions")
    rounding = torch.finfo(table.dtype).eps if table.is_floating_point() else 0.0
    if not torch.allclose(table.float(), net.positions, atol=max(1e-4, rounding)):
        raise ValueError(f"{path}: layers.1.pe is not the sinusoidal table of MASTER")
    net.load_state_dict(loaded | own)
    return net.eval()
