"""Rankings of a day's stocks, (..., N) under a mask: orders, places, ranks. One definition for all rooms."""

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def as_tensor(values: Any) -> Tensor:
    """Take numpy or torch as a tensor that shares its memory where torch can: not what is read-only or backwards."""
    if isinstance(values, Tensor):
        return values.detach()
    array = np.require(values, requirements="W")
    return torch.from_numpy(array.copy() if min(array.strides, default=0) < 0 else array)


def as_float64(values: Any) -> Tensor:
    """Take numbers of any kind as `as_tensor` does, in float64; None is NaN."""
    return as_tensor(values if isinstance(values, Tensor) else np.asarray(values, np.float64)).to(torch.float64)


def descending(value: Tensor, real: Tensor, head: int | None = None) -> Tensor:
    """Order (..., N) of each day's real values from the highest down, ties by position; the others come last.

    Args:
        value: (..., N) floats on any device; NaN only where not real.
        real: (..., N) bool.
        head: return only so many leading positions, (..., head); None: all.
    """
    if value.device.type != "cpu":
        filled = torch.where(real, value, -torch.inf)
        return filled.sort(dim=-1, descending=True, stable=True).indices[..., :head]
    return torch.from_numpy(_rising(torch.where(real, -value.detach(), torch.inf).numpy(), head)[0])


def places(value: Tensor, real: Tensor, *, ties: str = "stable") -> Tensor:
    """Place (..., N) of each real value from the top, 0 for the highest; meaningless elsewhere.

    Args:
        value: (..., N) floats on any device; NaN only where not real.
        real: (..., N) bool.
        ties: "stable" by position; "average": equal values share their mean place.
    """
    if ties == "average":
        return _mean_places(torch.where(real, -value.detach(), torch.inf))
    place = torch.arange(value.shape[-1], device=value.device, dtype=value.dtype).expand_as(value)
    return torch.empty_like(value).scatter_(-1, descending(value, real), place)


def ranks(score: NDArray[np.floating], *, ties: str = "stable") -> NDArray[np.float64]:
    """Rank (..., N) of each number, 1 for the highest, ties as in `places`; NaN where there is none.

    >>> import numpy as np
    >>> ranks(np.array([0.1, 0.3, np.nan, 0.3])).tolist()
    [3.0, 1.0, nan, 2.0]
    """
    value = as_float64(score)
    real = ~torch.isnan(value)
    return torch.where(real, places(value, real, ties=ties) + 1, torch.nan).numpy()


def rank_shares(score: NDArray[np.floating]) -> NDArray[np.float64]:
    """Average rank from the bottom over the number of the day's stocks, (D, N) in (0, 1]; NaN where there is none."""
    count = np.count_nonzero(~np.isnan(score), axis=-1)[..., None]
    return (count + 1 - ranks(score, ties="average")) / np.maximum(count, 1)


def _mean_places(value: Tensor) -> Tensor:
    """Place (..., N) of each value from the lowest, equal values at their mean place."""
    if value.device.type != "cpu":
        ordered = value.sort(dim=-1).values
        first, behind = (torch.searchsorted(ordered, value, right=right) for right in (False, True))
        return ((first + behind - 1) / 2).to(value.dtype)
    order, integers = _rising(value.numpy())
    key: NDArray[Any] = np.take_along_axis(value.numpy(), order, axis=-1) if integers is None else integers
    same = np.zeros(key.shape, dtype=bool)  # the next one in the order is equal
    np.equal(key[..., 1:], key[..., :-1], out=same[..., :-1])
    place = np.empty(key.shape, dtype=value.numpy().dtype)
    place[...] = np.arange(key.shape[-1])
    edge = np.flatnonzero(np.diff(same.ravel(), prepend=False))  # first and last of each run of equals, by turns
    if len(edge):
        run = same.copy()
        run[..., 1:] |= same[..., :-1]
        flat = place.ravel()
        place[run] = np.repeat((flat[edge[::2]] + flat[edge[1::2]]) / 2, edge[1::2] - edge[::2] + 1)
    out = np.empty_like(place)
    np.put_along_axis(out, order, place, axis=-1)
    return torch.from_numpy(out)


def _rising(value: NDArray[np.floating], head: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
    """Order (..., N) of floats from the lowest up, ties by position, or its head; and the ordered values as integers.

    Values are sorted as float32 with their positions behind them in one integer, several times faster than a stable
    argsort. Values that float32 does not hold exactly (scores of a network it does) are nearly in order then, and put
    right by a stable sort, which is fast on those; they have no integers.
    """
    stocks = value.shape[-1]
    if stocks >= 2**31:
        return value.argsort(axis=-1, kind="stable")[..., :head], None
    with np.errstate(over="ignore"):
        short = value.astype(np.float32)
    exact = value.dtype == np.float32 or np.array_equal(short, value)
    short += np.float32(0)  # -0 becomes 0, which it equals
    bits = short.view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF  # negative floats rise with falling bits
    key = np.empty(value.shape, dtype=np.int64)
    halves = key.view(np.int32).reshape(*value.shape, 2)
    low, high = (0, 1) if sys.byteorder == "little" else (1, 0)
    halves[..., high], halves[..., low] = bits, np.arange(stocks, dtype=np.int32)
    if exact and head is not None and 0 < head < stocks:
        key.partition(head - 1, axis=-1)
        key = key[..., :head].copy()
    key.sort(axis=-1)
    halves = key.view(np.int32).reshape(*key.shape, 2)
    order = halves[..., low].astype(np.int64)
    if exact:
        return order[..., :head], halves[..., :head, high]
    again = np.take_along_axis(value, order, axis=-1).argsort(axis=-1, kind="stable")
    return np.take_along_axis(order, again, axis=-1)[..., :head], None
