"""Arithmetic of the losses over masked days: (B, N) = (days, stocks), True = real, results 0 where nothing is real."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qlib_ext.cross_section.ranks import places
from qlib_ext.options import check_shapes

FLAT_STEPS = 8.0  # a day whose values lie within so many float steps of each other counts as constant
DECK_GUARD = 1e-8  # inside the roots of the deck's listing
VOLATILITY_FLOOR = 0.1  # share of the day's median volatility
MAD_TO_STD = 1.4826  # of a normal distribution


def check_days(**tensors: Tensor) -> None:
    """Raise ValueError unless all are (B, N) of one shape, and a mask is bool."""
    hint = "; add the day axis with [None] or drop a trailing axis with [..., 0]"
    check_shapes("(B, N) = (days, stocks)", hint, **tensors)
    check_flags(mask=tensors.get("mask"))


def check_flags(**flags: Tensor | None) -> None:
    """Raise ValueError for a mask, or other flags, that are not bool."""
    for name, flag in flags.items():
        if flag is not None and flag.dtype != torch.bool:
            meaning = "real" if name == "mask" else name
            raise ValueError(f"{name} must be bool with True = {meaning}, got {flag.dtype}; pass {name} != 0")


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to their common floating type, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def labelled(label: Tensor, mask: Tensor) -> Tensor:
    """Real stocks with a finite label, (B, N)."""
    return mask & (label.abs() < torch.inf)  # several times as fast as isfinite


def is_positive(liquidity: Tensor) -> Tensor:
    """Stocks with a finite liquidity above 0, (B, N)."""
    return (liquidity > 0) & (liquidity < torch.inf)


def extent(value: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest (B, 1) of each day's real values, 0 on a day without any; constants to autograd."""
    value = value.detach()
    if value.shape[1] == 0:
        return value.new_zeros(value.shape[0], 1), value.new_zeros(value.shape[0], 1)
    low = torch.where(real, value, torch.inf).amin(dim=1, keepdim=True)
    high = torch.where(real, value, -torch.inf).amax(dim=1, keepdim=True)
    none = low > high
    return torch.where(none, 0.0, low), torch.where(none, 0.0, high)


def is_flat(value: Tensor, real: Tensor) -> Tensor:
    """Days (B, 1) with real values equal within float noise, or fewer than two of them. NaN is not flat."""
    return is_narrow(*extent(value, real))


def is_narrow(low: Tensor, high: Tensor) -> Tensor:
    """Days whose lowest and highest value are equal within float noise.

    So are those nearer than 1e-31 in float32, 1e-292 in float64: the gradient of a correlation, in their units, would
    overflow.
    """
    kind = torch.finfo(low.dtype)
    noise = FLAT_STEPS * kind.eps * torch.maximum(low.abs(), high.abs())
    return high - low <= noise.clamp(min=kind.tiny / kind.eps)


def varied_days(value: Tensor, real: Tensor) -> Tensor:
    """Tell the days (B,) with two or more real, finite values that are not all equal within float noise."""
    return ~is_flat(value, labelled(value, real))[:, 0]


def standardise(value: Tensor, share: Tensor, real: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations (B, N) from the weighted mean in weighted standard deviations, and the flat days (B, 1).

    The value is first shifted by its maximum and divided by its range: constants that a correlation does not
    see, so neither do the gradients, and that keep the squares in reach of float32. On flat days the
    deviation is taken as 1. ``low`` and ``high`` are the ``extent``.
    """
    flat = is_narrow(low, high)
    centred = torch.where(real, value - high, 0.0) / torch.where(flat, 1.0, high - low)
    centred = centred - (share * centred).sum(dim=1, keepdim=True)
    variance = (share * centred**2).sum(dim=1, keepdim=True)
    flat = flat | (variance <= (FLAT_STEPS * torch.finfo(value.dtype).eps) ** 2)
    return centred / torch.where(flat, 1.0, variance).sqrt(), flat


def plain_pearson(score: Tensor, label: Tensor, share: Tensor, real: Tensor) -> Tensor:
    """Compute the deck's listing (B,): its covariance is unchanged by the shift to the plain means."""
    score, score_guard = gap_and_guard(score, real)
    label, label_guard = gap_and_guard(label, real)
    covariance = (share * score * label).sum(dim=1) - (share * score).sum(dim=1) * (share * label).sum(dim=1)
    score_std = ((share * score**2).sum(dim=1) + score_guard).sqrt()
    label_std = ((share * label**2).sum(dim=1) + label_guard).sqrt()
    return covariance / (score_std * label_std)


def gap_and_guard(value: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations (B, N) from the plain mean, and the listing's guard (B,) of their squares, in one unit.

    It is the day's ``power_of_two`` where values are above 1 in size: a correlation of them keeps its bits, and nothing
    overflows.
    """
    unit = power_of_two(value, real).clamp(min=1.0)
    _, gap = mean_and_gap(value / unit, real)
    return gap, (DECK_GUARD / unit / unit).clamp(min=torch.finfo(value.dtype).tiny)[:, 0]


def power_of_two(value: Tensor, real: Tensor) -> Tensor:
    """Largest power of two (B, 1) within each day's largest real value in size, 1 where that is 0 or not finite.

    A division by it changes no digit, so that ratios of what is computed from the quotients keep their bits, and their
    squares stay in reach of the type.
    """
    low, high = extent(value, real)
    largest = torch.maximum(low.abs(), high.abs())
    usable = is_positive(largest)
    size = torch.where(usable, largest, 1.0)
    return size / (2.0 * torch.frexp(size).mantissa)


def mean_and_gap(value: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Each day's mean (B, 1) over real stocks and the deviations from it (B, N), 0 elsewhere."""
    value = torch.where(real, value, 0.0)
    mean = value.sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return mean, torch.where(real, value - mean, 0.0)


def deal(label: Tensor, score: Tensor, real: Tensor) -> Tensor:
    """Deal the day's labels (B, N), highest first, to the real stocks in the order of their scores."""
    best_first = torch.where(real, label, -torch.inf).sort(dim=1, descending=True).values
    return best_first.gather(1, places(score, real).long())


def standardised(value: Tensor, real: Tensor) -> Tensor:
    """Each day's real values less their mean, over their standard deviation (over n); (B, N), 0 elsewhere.

    A flat day is 0 everywhere.
    """
    flat = is_flat(value, real)
    _, gap = mean_and_gap(value, real & ~flat)
    variance = (gap**2).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return gap / torch.where(variance > 0, variance, 1.0).sqrt()


def day_zscores(score: NDArray[np.floating]) -> NDArray[np.float64]:
    """(score - mean) / std over the day's stocks, (D, N), NaN where there is none; a constant day becomes 0.

    Constant is what float32 cannot tell apart, as in the losses.

    >>> day_zscores(np.array([[1.0, 3.0, np.nan], [2.0, 2.0, 2.0]])).tolist()
    [[-1.0, 1.0, nan], [0.0, 0.0, 0.0]]
    """
    value = torch.from_numpy(np.asarray(score, dtype=np.float64))
    scored = torch.isfinite(value)
    flat = is_flat(value.float(), scored)
    return torch.where(scored, standardised(value, scored & ~flat), torch.nan).numpy()


def unit_ranks(label: Tensor, real: Tensor) -> Tensor:
    """Rank each day's labels upwards (B, N), mean 0 and variance 1 over the real stocks, ties at their mean rank."""
    return standardised(-places(label, real, ties="average"), real)


def log_min_max(liquidity: Tensor, real: Tensor) -> Tensor:
    """Put the log of liquidity on [0, 1] over each day's stocks (B, N); 0 where it is missing or all are equal."""
    usable = real & is_positive(liquidity)
    log = torch.where(usable, liquidity, 1.0).log()
    low, high = extent(log, usable)
    flat = is_narrow(low, high)
    return torch.where(usable & ~flat, (log - low) / torch.where(flat, 1.0, high - low), 0.0)


def volatility_factor(volatility: Tensor, real: Tensor) -> Tensor:
    """Divide the day's median volatility by each stock's own: (B, N), within (0, 10]."""
    positive = real & is_positive(volatility)
    median = middle(volatility, positive)
    usable = torch.isfinite(volatility) & (volatility >= 0)
    divisor = torch.maximum(torch.where(usable, volatility, median), VOLATILITY_FLOOR * median)
    some = positive.any(dim=1, keepdim=True)
    return torch.where(some, median / torch.where(some, divisor, 1.0), 1.0)


def middle(value: Tensor, real: Tensor) -> Tensor:
    """Median (B, 1) of each day's real values, the mean of the middle two; 0 on a day without any."""
    if value.shape[1] == 0:
        return value.new_zeros(value.shape[0], 1)
    count = real.sum(dim=1, keepdim=True)
    ordered = torch.where(real, value, torch.inf).sort(dim=1).values
    lower = ordered.gather(1, (count - 1).clamp(min=0) // 2)
    upper = ordered.gather(1, count // 2)
    return torch.where(count > 0, (lower + upper) / 2, 0.0)


def centre_and_spread(value: Tensor) -> tuple[Tensor, Tensor]:
    """Median and 1.4826 MAD of values (n,) or (n, M) over n: () or (M,) each.

    Where half of the values are equal the spread is the standard deviation, of a constant feature exactly 0.
    """
    centre = value.median(0).values
    mad = MAD_TO_STD * (value - centre).abs().median(0).values
    spread = mad.where(mad > 0, value.std(0, correction=0))
    return centre, spread.where(value.amax(0) > value.amin(0), 0.0)


def cross_section_zscore(value: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    """Z-scores of one day's features over its stocks, clipped; not finite becomes 0, so does a constant feature.

    A feature is computed from prices, so its noise is wider than that of a score: constant is what varies by less than
    1e-12 of its mean.

    Args:
        value: (N, F) of one day; written over.
        clip: bound in standard deviations.

    Returns:
        (N, F), the array that came in.
    """
    strange = ~np.isfinite(value)
    value[strange] = 0.0
    count = np.maximum(len(value) - strange.sum(axis=0), 1)
    mean = value.sum(axis=0) / count
    value -= mean
    value[strange] = 0.0
    std = np.sqrt(np.einsum("nf,nf->f", value, value) / count)
    value /= np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-300), std, np.inf)
    return np.clip(value, -clip, clip, out=value)
