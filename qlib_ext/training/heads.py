"""Several heads on one body, one a horizon: their losses of a batch, and their correlations with their own labels.

Private to `trainer`. ``B`` days of ``N`` stocks, ``H`` heads.
"""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from torch import Tensor

from qlib_ext.evaluate import average, daily_metrics
from qlib_ext.losses import DayLoss
from qlib_ext.options import check_number
from qlib_ext.panel import Batch


def check_weights(weights: Any) -> tuple[float, ...] | None:
    """Weights of the heads' losses, as the user lists them, adding to 1; None for null.

    Raises: ValueError for anything but a list of numbers above 0.

    >>> check_weights([1, 3])
    (0.25, 0.75)
    """
    if weights is None:
        return None
    if not isinstance(weights, Sequence) or isinstance(weights, str) or not len(weights):
        raise ValueError(f"horizon_weights is {weights!r}; allowed: null for equal ones, or a number for each horizon")
    for n, weight in enumerate(weights):
        check_number(f"horizon_weights[{n}]", weight, "(0, inf)")
    return tuple(float(weight) / sum(weights) for weight in weights)


def check_heads(weights: Sequence[float] | None, horizons: Sequence[int]) -> None:
    """Raise ValueError for weights that are not one for each of several horizons."""
    if weights is not None and len(weights) != len(horizons):
        raise ValueError(
            f"horizon_weights has {len(weights)} numbers, the dataset {len(horizons)} horizons: give DayDatasetH as "
            "many (horizons: [1, 5, 10, 20]), or leave horizon_weights out"
        )
    if weights is not None and len(weights) == 1:
        raise ValueError(
            f"horizon_weights={list(weights)} has no effect on the one horizon of the dataset: leave it out"
        )


def head_losses(loss: DayLoss, score: Tensor, batch: Batch, day_weight: Tensor | None = None) -> Tensor:
    """Average each head's loss over the days that are valid for its own label: (H,), as `DayLoss` does for one.

    Args:
        loss: of a day's stocks.
        score: (B, N), or (B, N, H) with a head for each of the batch's `labels`.
        batch: on the score's device.
        day_weight: (B,) see `DayLoss`.
    """
    grids = (batch.liquidity, batch.volatility, batch.exposures)
    if score.dim() == 2:
        label = batch.label if batch.labels is None else batch.labels[..., 0]
        return loss(score, label, batch.mask, *grids, day_weight=day_weight)[None]
    days, heads = len(score), score.shape[2]
    scores, labels = (grid.movedim(2, 0).flatten(0, 1) for grid in (score, _labels(batch, heads)))
    mask = batch.mask.repeat(heads, 1)
    liquidity, volatility, exposures = (None if g is None else g.repeat(heads, *[1] * (g.dim() - 1)) for g in grids)
    each = loss.per_day(scores, labels, mask, liquidity, volatility, exposures).view(heads, days)
    valid = loss.valid_days(labels, mask, liquidity, exposures).view(heads, days)
    if day_weight is not None:
        each = each * day_weight.to(each.dtype)
    return each.sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def _labels(batch: Batch, heads: int) -> Tensor:
    """Labels (B, N, H) of a batch; ValueError where they are not as many as the heads."""
    if batch.labels is None or batch.labels.shape[2] != heads:
        count = 1 if batch.labels is None else batch.labels.shape[2]
        raise ValueError(f"the network gives {heads} scores a stock, the panel has {count} labels: one head a horizon")
    return batch.labels


def head_metrics(score: npt.NDArray[Any], labels: Tensor, horizons: Sequence[int]) -> dict[str, float]:
    """Mean ic and rank_ic of each head (D, N, H) with its own label (D, N, H), named by its days: ic_5."""
    row: dict[str, float] = {}
    for head, days in enumerate(horizons):
        daily = daily_metrics(score[..., head], labels[..., head], names=["ic", "rank_ic"])
        row |= {f"{name}_{days}": average(daily, name)[0] for name in ("ic", "rank_ic")}
    return row
