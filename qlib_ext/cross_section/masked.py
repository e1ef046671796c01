"""Arithmetic of the losses over masked days: (B, N) = (days, stocks), True = real, results 0 where nothing is real."""

import torch
from torch import Tensor

from qlib_ext.cross_section.ranks import descending

FLAT_STEPS = 8.0  # a day whose values lie within so many float steps of each other counts as constant
DECK_GUARD = 1e-8  # inside the roots of the deck's listing
VOLATILITY_FLOOR = 0.1  # share of the day's median volatility


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
    """Days whose lowest and highest value are equal within float noise."""
    noise = FLAT_STEPS * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())
    return high - low <= noise


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
    _, score = mean_and_gap(score, real)
    _, label = mean_and_gap(label, real)
    covariance = (share * score * label).sum(dim=1) - (share * score).sum(dim=1) * (share * label).sum(dim=1)
    score_std = ((share * score**2).sum(dim=1) + DECK_GUARD).sqrt()
    label_std = ((share * label**2).sum(dim=1) + DECK_GUARD).sqrt()
    return covariance / (score_std * label_std)


def mean_and_gap(value: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Each day's mean (B, 1) over real stocks and the deviations from it (B, N), 0 elsewhere."""
    value = torch.where(real, value, 0.0)
    mean = value.sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return mean, torch.where(real, value - mean, 0.0)


def position(value: Tensor, real: Tensor, *, ties: str) -> Tensor:
    """Place (B, N) of each real value from the top, 0 for the highest; meaningless elsewhere."""
    order, stocks = descending(value, real), value.shape[1]
    place = torch.arange(stocks, device=value.device, dtype=value.dtype).expand_as(value)
    if ties == "average":
        ordered = torch.where(real, value, -torch.inf).gather(1, order)
        edge = torch.ones_like(real[:, :1])
        change = ordered[:, 1:] != ordered[:, :-1]
        opens, closes = torch.cat([edge, change], dim=1), torch.cat([change, edge], dim=1)
        first = torch.where(opens, place, 0.0).cummax(dim=1).values
        last = torch.where(closes, place, float(stocks)).flip(1).cummin(dim=1).values.flip(1)
        place = (first + last) / 2
    return torch.empty_like(value).scatter_(1, order, place)


def deal(label: Tensor, score: Tensor, real: Tensor) -> Tensor:
    """Deal the day's labels (B, N), highest first, to the real stocks in the order of their scores."""
    best_first = torch.where(real, label, -torch.inf).sort(dim=1, descending=True).values
    return best_first.gather(1, position(score, real, ties="stable").long())


def unit_ranks(label: Tensor, real: Tensor) -> Tensor:
    """Rank each day's labels upwards (B, N), mean 0 and variance 1 over the real stocks, ties at their mean rank."""
    _, gap = mean_and_gap(-position(label, real, ties="average"), real)
    variance = (gap**2).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True).clamp(min=1)
    return gap / torch.where(variance > 0, variance, 1.0).sqrt()


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
    known = torch.isfinite(volatility) & (volatility >= 0)
    divisor = torch.maximum(torch.where(known, volatility, median), VOLATILITY_FLOOR * median)
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
