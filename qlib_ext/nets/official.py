"""Checkpoints of MASTER's authors, read into our network."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlib_ext.nets.master import MASTER

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
    except OSError as error:
        raise type(error)(f"{path}: the checkpoint cannot be read: {error.strerror or error}") from error
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
        OSError: it cannot be read.
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
