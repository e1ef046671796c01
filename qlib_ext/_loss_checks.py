"""What the losses can be told, and the checks of it. Private to `losses.py`.

``B`` days, ``N`` stocks.
"""

from typing import Any

import torch
from torch import Tensor

from qlib_ext._options import check_choice as check_choice

LOSSES = ("wpcc", "liq_wpcc", "ic", "ccc", "mse")
TARGETS = ("raw", "rank", "volatility")
WEIGHT_SOURCES = ("label", "score", "target")
CENTERS = ("weighted", "plain")
TIES = ("stable", "average")
BASE = 0.5
ALPHA = 40.0


def check_shapes(**tensors: Tensor) -> None:
    """Raise ValueError unless all are (B, N) of one shape, and a mask is bool."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"shapes must be one and the same (B, N) = (days, stocks), got {listed}; "
            "add the day axis with [None] or drop a trailing axis with [..., 0]"
        )
    mask = tensors.get("mask")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool with True = real, got {mask.dtype}; pass mask.bool()")


def check_base(base: Any) -> None:
    """Raise ValueError for a weight of the last stock that is no number in (0, 1]."""
    if isinstance(base, bool) or not isinstance(base, int | float) or not 0 < base <= 1:
        raise ValueError(f"base must be a number in (0, 1], got {base!r}; the deck's is {BASE}, 1 weighs all alike")


def check_alpha(alpha: Any) -> None:
    """Raise ValueError for a steepness that is no finite number from 0 on."""
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha must be a finite number >= 0, got {alpha!r}; the deck's is {ALPHA}")
