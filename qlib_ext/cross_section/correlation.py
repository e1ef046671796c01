"""How well a day's scores agree with the outcome: with gradients, to learn from, and without, to judge by.

``B`` days of ``N`` stocks; ``mask`` is True where a stock is real. Sources: slides, page 2 (listing).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qlib_ext.cross_section import masked as day
from qlib_ext.cross_section.masked import check_days
from qlib_ext.cross_section.ranks import places
from qlib_ext.options import check_choice

CENTERS = ("weighted", "plain")


def weighted_pearson(score: Tensor, label: Tensor, weight: Tensor, mask: Tensor, *, center: str = "weighted") -> Tensor:
    """Correlate score and label day by day under weights. Source: slides, page 2 (the listing).

    With w~ = w / sum w, the covariance is always sum w~ p r - (sum w~ p)(sum w~ r). ``center`` sets the
    deviations:

    - "weighted": about the weighted means, the textbook definition. Positive affine changes of the score
      change nothing: the only guard is relative (scores within 8 float steps of each other count as
      constant).
    - "plain": about the unweighted means, with 1e-8 inside the roots, exactly as the deck's listing.

    Args:
        score: (B, N) any unit; ignored where not labelled. Half precision is computed in float32.
        label: (B, N) target of the correlation, any unit.
        weight: (B, N) at least 0; need not sum to 1.
        mask: (B, N) bool, True = real.
        center: "weighted" or "plain".

    Returns: (B,) in [-1, 1]. A day with fewer than two labelled stocks, equal labels
        or no weight gives 0 and no gradient. A constant score gives 0; its gradient under "weighted" is the
        covariance's, with the label standardised and the score's deviation taken as 1: finite, and towards
        the label.

    Raises:
        ValueError: for shapes or a ``center`` that are not allowed.

    >>> import torch
    >>> score, label = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.0, 0.02, 0.01]])
    >>> weighted_pearson(score, label, torch.tensor([[1.0, 2.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool))
    tensor([0.4264])
    """
    check_choice("center", center, CENTERS)
    check_days(score=score, label=label, weight=weight, mask=mask)
    score, label, weight = day.widen(score, label, weight)
    real = day.labelled(label, mask)
    low, high = day.extent(label, real)
    real = real & ~day.is_narrow(low, high)
    weight = torch.where(real, weight, 0.0)
    total = weight.sum(dim=1, keepdim=True)
    share = weight / torch.where(total == 0, 1.0, total)
    if center == "plain":
        return day.plain_pearson(score, label, share, real).clamp(-1.0, 1.0)
    score_units, _ = day.standardise(score, share, real, *day.extent(score, real))
    label_units, label_flat = day.standardise(label, share, real, low, high)
    return (share * score_units * torch.where(label_flat, 0.0, label_units)).sum(dim=1).clamp(-1.0, 1.0)


def information_coefficient(score: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Correlate score and target day by day, all stocks alike (Pearson): the IC.

    Score, target and mask are (B, N), True = real, the result (B,) in [-1, 1]; degenerate days and constant scores as
    in ``weighted_pearson``.
    """
    check_days(score=score, target=target, mask=mask)
    (target,) = day.widen(target)
    return weighted_pearson(score, target, torch.ones_like(target), mask)


def concordance(score: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Measure agreement day by day: 2 cov / (var p + var r + (mean p - mean r)^2), moments over n.

    Source: Lin (1989), concordance correlation coefficient. Unlike the IC it asks for the target's level and scale.
    Score and target (one unit) and mask are (B, N), True = real, the result (B,) in [-1, 1]; 0 without gradient where
    fewer than two stocks are labelled or all targets are equal.
    """
    check_days(score=score, target=target, mask=mask)
    score, target = day.widen(score, target)
    real = day.labelled(target, mask)
    real = real & ~day.is_flat(target, real)
    unit = torch.maximum(day.power_of_two(score, real), day.power_of_two(target, real))
    score_mean, score_gap = day.mean_and_gap(score / unit, real)
    target_mean, target_gap = day.mean_and_gap(target / unit, real)
    count = real.sum(dim=1).clamp(min=1)
    covariance = (score_gap * target_gap).sum(dim=1) / count
    spread = (score_gap**2 + target_gap**2).sum(dim=1) / count + (score_mean - target_mean)[:, 0] ** 2
    return (2.0 * covariance / torch.where(real.any(dim=1), spread, 1.0)).clamp(-1.0, 1.0)


def mean_squared_error(score: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Average (score - target)^2 over each day's labelled stocks. Source: slides, page 1.

    Score and target (one unit) and mask are (B, N), True = real, the result (B,) in that unit squared; 0 without
    gradient on a day without labelled stocks.
    """
    check_days(score=score, target=target, mask=mask)
    score, target = day.widen(score, target)
    real = day.labelled(target, mask)
    error = torch.where(real, score, 0.0) - torch.where(real, target, 0.0)
    return (error**2).sum(dim=1) / real.sum(dim=1).clamp(min=1)


# --- of finished scores, without gradients: in float64, several times as fast


def pearson(score: Tensor, label: Tensor, real: Tensor, valid: Tensor | None = None) -> Tensor:
    """Correlate day by day as ``information_coefficient`` does, (D,); NaN where the labels are all equal.

    Args:
        score: (D, N) float64 on the CPU; a constant one gives 0.
        label: (D, N) likewise.
        real: (D, N) bool, the stocks that have both.
        valid: (D,) the ``varied_days`` of the label, where they are at hand.
    """
    valid = day.varied_days(label, real) if valid is None else valid
    gaps = (_unit_gap(value, real) for value in (score, label))
    return torch.where(valid, _cosine(*gaps), torch.nan)


def spearman(score: Tensor, label: Tensor, real: Tensor) -> Tensor:
    """Correlate ranks day by day, average ranks for ties, (D,); NaN where the labels are all equal."""
    half = (real.sum(dim=1, keepdim=True) - 1) / 2.0
    left, right = (
        torch.where(real, half - places(value, real, ties="average"), 0.0).numpy() for value in (score, label)
    )
    return torch.where(torch.from_numpy(right.any(axis=1)), _cosine(left, right), torch.nan)


def _cosine(left: NDArray[np.float64], right: NDArray[np.float64]) -> Tensor:
    """Cosine (D,) of the angle between each day's deviations (D, N), 0 where one side has none."""
    cross, left_square, right_square = (
        np.einsum("dn,dn->d", x, y) for x, y in ((left, right), (left, left), (right, right))
    )
    scale = np.sqrt(left_square * right_square)
    return torch.from_numpy(np.where(scale > 0, cross / np.where(scale > 0, scale, 1.0), 0.0)).clamp(-1.0, 1.0)


def _unit_gap(value: Tensor, real: Tensor) -> NDArray[np.float64]:
    """Deviations (D, N) of each day's real values from their mean in units of their range; 0 on flat days."""
    low, high = day.extent(value, real)
    flat = day.is_narrow(low, high)
    unit = torch.where(real, value, high).numpy()
    unit -= high.numpy()
    unit /= torch.where(flat, 1.0, high - low).numpy()
    unit -= unit.sum(axis=1, keepdims=True) / real.sum(dim=1, keepdim=True).clamp(min=1).numpy()
    return np.where((real & ~flat).numpy(), unit, 0.0)
