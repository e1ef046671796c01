"""What a trainer can be told, and what it needs of a panel: the checks of both. Private to `trainer`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qlib_ext.evaluate import METRICS, NEED_LIQUIDITY, RATIOS, daily_columns
from qlib_ext.losses import DayLoss
from qlib_ext.options import check_choice
from qlib_ext.panel import DayPanel


def check_counts(**counts: Any) -> None:
    """Raise ValueError for a count that is no whole number above 0."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name}={count!r} must be above 0 and a whole number")


def check_amounts(**amounts: Any) -> None:
    """Raise ValueError for an amount that is no finite number above 0."""
    for name, amount in amounts.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < math.inf:
            raise ValueError(f"{name}={amount!r} must be above 0 (in YAML write 0.001, not 1e-3, which is a text)")


def check_rest(*, metric: Any, seed: Any, weight_decay: Any, compile: Any, scale: Any, checkpoint: Any) -> None:
    """Raise ValueError for any other option of a value that is not allowed."""
    check_choice("metric", metric, METRICS)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed={seed!r} must be a whole number of at least 0")
    if isinstance(weight_decay, bool) or not isinstance(weight_decay, int | float) or not weight_decay >= 0:
        raise ValueError(f"weight_decay={weight_decay!r} must be a number of at least 0")
    if not isinstance(compile, bool):
        raise ValueError(f"compile={compile!r}; allowed: true, false")
    if scale not in (None, "robust"):
        raise ValueError(f"scale={scale!r}; allowed: null, 'robust'")
    if checkpoint is not None and (not isinstance(checkpoint, str) or not checkpoint):
        raise ValueError(f"checkpoint={checkpoint!r}; allowed: null, or the path of a file")


def check_panel(
    panel: DayPanel, loss: DayLoss, metric: str, scale: str | None, step_len: int, valid: npt.NDArray[Any]
) -> None:
    """Raise ValueError where a panel, or its rows `valid`, lack what a training needs."""
    if loss.needs_liquidity and panel.liquidity is None:
        raise ValueError("this loss needs liquidity: use DayDatasetH(liquidity=...) or the loss 'wpcc', 'ic', 'mse'")
    if loss.needs_volatility and panel.volatility is None:
        raise ValueError("target 'volatility' needs trailing volatility: use DayDatasetH, or target 'raw', 'rank'")
    if daily_columns(metric)[0] in NEED_LIQUIDITY and panel.liquidity is None:
        raise ValueError(f"the metric {metric!r} needs liquidity: use DayDatasetH, or metric: rank_ic")
    if scale == "robust" and panel.filled > 0:
        raise ValueError(
            f"scale: robust, but {panel.filled:.2%} of the feature values were missing and became 0, which it "
            "would take for data: fill them in the handler's infer_processors first, or use CSNormalise instead"
        )
    if step_len > len(panel.days):
        raise ValueError(f"step_len={step_len} is longer than the history of {len(panel.days)} days")
    if metric in RATIOS:
        at = torch.as_tensor(np.asarray(valid), device=panel.label.device)
        count = int(DayLoss("ic").valid_days(panel.label[at], panel.present[at]).sum())
        if count < 2:
            raise ValueError(
                f"the metric {metric!r} is a mean over days divided by their standard deviation: it needs 2 or more "
                f"validation days with an {RATIOS[metric]} (two or more labelled stocks with different labels), there "
                f"are {count}. Lengthen the segment valid, or choose metric: {RATIOS[metric]}"
            )
