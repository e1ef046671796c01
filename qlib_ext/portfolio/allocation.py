"""The one allocation, and what trading it costs.

``D`` days, ``N`` stocks; amounts in yuan, returns as fractions (0.01 = 1%). ``fill_top_n`` sees only what is
known at the close of the signal day; the validation metric, the strategy and the evaluator all call it.
Source: slides, page 3 (the liquidity-weighted portfolio).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qlib_ext.cross_section import descending

CAPITAL = 150e6  # yuan; slides, page 3
PARTICIPATION = 0.05  # of a stock's liquidity; slides, page 3
BLOCK_DAYS = 32  # taken at a time: small grids stay in the cache
HEAD = 256  # stocks to rank at first
CLOSE = 1e-13  # of the cash: what an answer to "how much can it buy" may leave unspent
DUST = 1e-12  # a rest below this share of the capital is float noise and stays cash

Array = TypeVar("Array", NDArray[Any], Tensor)


# --- allocation


def fill_top_n(
    score: Array,
    liquidity: Array,
    *,
    capital: float = CAPITAL,
    participation: float = PARTICIPATION,
    top_n: int | None = None,
    mask: Array | None = None,
) -> Array:
    """Place each day's capital down the ranking, no stock above ``participation * liquidity``.

    - ``top_n=None``: every stock takes its cap until the capital is placed; the last one takes the rest.
    - ``top_n=n``: the first n tradable stocks share the capital in proportion to their liquidity, none above
      its cap; what the caps turn away stays cash.

    A stock is tradable where ``mask`` is True, the score is a number and the liquidity is positive and
    finite. Others take nothing and do not count among the n. Equal scores rank by position. Computed in
    float64 whatever comes in. Source: slides, page 3.

    Args:
        score: (..., N) larger is better, NaN where there is none; numpy or torch.
        liquidity: (..., N) yuan a day, known at the close of the signal day.
        capital: yuan to place each day.
        participation: largest share of a stock's liquidity to take.
        top_n: number of stocks, or None to place the capital in full.
        mask: (..., N) bool, True = real; what stands elsewhere is ignored. None: all are real.

    Returns:
        (..., N) yuan, float64, of the kind (and on the device) of ``score``.

    Raises:
        ValueError: for unequal shapes, a capital, participation or ``top_n`` that is not allowed, or an
            infinite score under the mask.

    """
    _check_positive("capital", capital, "yuan, e.g. 150e6")
    _check_positive("participation", participation, "a share of the liquidity, e.g. 0.05")
    _check_top_n(top_n)
    given, traded = _tensor(score), _tensor(liquidity)
    real = torch.ones_like(given, dtype=torch.bool) if mask is None else _as_mask(mask)
    _check_shapes(score=given, liquidity=traded, mask=real)
    _check_no_infinite(given, real)
    days, stocks = math.prod(given.shape[:-1]), given.shape[-1]
    size = BLOCK_DAYS if given.device.type == "cpu" else max(days, 1)
    blocks = zip(*(grid.reshape(days, stocks).split(size) for grid in (given, traded, real)), strict=True)
    placed = [_place(s, q, m, float(capital), participation, top_n) for s, q, m in blocks]
    yuan = torch.cat(placed).reshape(given.shape)
    return yuan if isinstance(score, Tensor) else yuan.numpy()


def _place(
    score: Tensor, traded: Tensor, real: Tensor, capital: float, participation: float, top_n: int | None
) -> Tensor:
    """Place each day's capital: (D, N) yuan."""
    real, traded = _tradable(score, traded, real)
    if top_n is None:
        order, placed = _walk(score, traded, real, capital, participation)
    else:
        order = descending(score, real, top_n)
        placed = _share(traded.gather(1, order), capital, participation)
    return torch.zeros_like(score).scatter_(1, order, placed)


def _tradable(score: Tensor, traded: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Tell the tradable stocks (D, N) bool, and their liquidity, 0 elsewhere."""
    real = real & ~torch.isnan(score) & (traded > 0) & (traded < torch.inf)
    return real, torch.where(real, traded, 0.0)


def _walk(score: Tensor, traded: Tensor, real: Tensor, capital: float, participation: float) -> tuple[Tensor, Tensor]:
    """Fill the caps down the ranking until the capital is placed: positions and yuan (D, n) of the first n stocks.

    As many as it takes: with the deck's caps some tens of names hold the capital, and the rest need no order.
    """
    stocks = score.shape[1]
    count = HEAD if score.device.type == "cpu" else stocks
    while True:
        order = descending(score, real, count)
        cap = (participation * traded.gather(1, order)).clamp(max=capital)
        total = cap.cumsum(dim=1)
        rest = capital - torch.cat([torch.zeros_like(total[:, :1]), total], dim=1)
        rest = torch.where(rest > DUST * capital, rest, 0.0)
        if count >= stocks or not (real.gather(1, order[:, -1:]) & (rest[:, -1:] > 0)).any():
            return order, torch.minimum(cap, rest[:, :-1])
        count *= 8


def _share(ranked: Tensor, capital: float, participation: float) -> Tensor:
    """Split the capital in proportion to liquidity (D, n), under the caps: (D, n) yuan.

    Both the share and the cap are proportional to liquidity, so one rate a day serves all its stocks.
    """
    rate = (capital / ranked.sum(dim=1, keepdim=True)).clamp(max=participation)
    return ranked * rate


def fill_capitals(
    score: ArrayLike,
    liquidity: ArrayLike,
    capitals: Sequence[float],
    *,
    participation: float = PARTICIPATION,
    top_n: int | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Place many capitals as ``fill_top_n`` does each, with one ranking for all.

    The stocks above one in the ranking take the same at any capital that reaches it. So its yuan are what is left
    after the sum of their caps, at least 0 and at most its own cap.

    Args:
        score: (D, N) as in ``fill_top_n``.
        liquidity: (D, N) yuan a day.
        capitals: yuan, in any order.
        participation: largest share of a stock's liquidity to take.
        top_n: number of stocks, or None to place the capital in full.

    Returns:
        Iterator over the capitals, (D, N) yuan each; a new array that the caller may change.

    Raises:
        ValueError: as ``fill_top_n``, at once.

    """
    for capital in capitals:
        _check_positive("capital", capital, "yuan, e.g. 150e6")
    _check_positive("participation", participation, "a share of the liquidity, e.g. 0.05")
    _check_top_n(top_n)
    given, traded = _tensor(score), _tensor(liquidity)
    real = torch.ones_like(given, dtype=torch.bool)
    _check_shapes(score=given, liquidity=traded)
    _check_no_infinite(given, real)
    real, traded = _tradable(given, traded, real)
    order = descending(given, real, top_n)
    ranked = traded.gather(1, order)
    fill = _full if top_n is None else _shares
    return fill(traded.numpy(), order, ranked, capitals, participation)


def _full(
    traded: NDArray[np.float64], order: Tensor, ranked: Tensor, capitals: Sequence[float], participation: float
) -> Iterator[NDArray[np.float64]]:
    """Fill the caps of liquidity (D, N) down the ranking, for each capital."""
    cap, before = participation * traded, np.full_like(traded, np.inf)
    above = np.cumsum(participation * ranked.numpy(), axis=1)
    np.put_along_axis(before, order.numpy(), np.pad(above[:, :-1], ((0, 0), (1, 0))), axis=1)
    for capital in capitals:
        rest = capital - before
        yield np.minimum(cap, np.where(rest > DUST * capital, rest, 0.0))


def _shares(
    traded: NDArray[np.float64], order: Tensor, ranked: Tensor, capitals: Sequence[float], participation: float
) -> Iterator[NDArray[np.float64]]:
    """Split each capital over the first n stocks."""
    for capital in capitals:
        chosen = np.zeros_like(traded)
        np.put_along_axis(chosen, order.numpy(), _share(ranked, capital, participation).numpy(), axis=1)
        yield chosen


# --- costs


def fee_cost(trade: ArrayLike, buy_rate: ArrayLike, sell_rate: ArrayLike) -> NDArray[np.float64]:
    """Charge trades in proportion: what all of a day's buys and sells pay, without the minimum of an order.

    Args:
        trade: (D, N) yuan, sells negative, such as those of ``rebalancing``.
        buy_rate: fees as a fraction of what is bought; a number or (D,), such as ``rules.fee_rates`` gives.
        sell_rate: fees (stamp duty included) as a fraction of what is sold; a number or (D,).

    Returns:
        (D,) yuan, at least 0 for rates of at least 0.

    Raises:
        ValueError: for a rate of another shape, or one that is not finite.

    >>> fee_cost([[60.0, 40.0], [-16.0, 20.0]], [0.01, 0.03], 0.02).round(9).tolist()
    [1.0, 0.92]

    """
    size = np.asarray(trade, dtype=np.float64)
    buys, sells = size.clip(min=0.0).sum(axis=1), (-size).clip(min=0.0).sum(axis=1)
    return buys * _day_rate("buy_rate", buy_rate, len(size)) + sells * _day_rate("sell_rate", sell_rate, len(size))


def rebalancing(yuan: ArrayLike, next_return: ArrayLike) -> NDArray[np.float64]:
    """List the trades that rebalance a portfolio to ``yuan`` each day at the entry price.

    Args:
        yuan: (D, N) holding after the day's trades.
        next_return: (D, N) one-day return that the holding of day d earns until the entry of day d+1; NaN
            counts as 0.

    Returns:
        (D, N) yuan bought (positive) or sold: yuan[d] - yuan[d-1] * (1 + next_return[d-1]), on the first day
        yuan[0] (from cash).

    Raises:
        ValueError: for shapes, or a holding that is not finite.

    """
    held, step = np.asarray(yuan, dtype=np.float64), np.asarray(next_return, dtype=np.float64)
    if held.ndim != 2 or held.shape != step.shape:
        raise ValueError(f"yuan and next_return must be one and the same (D, N), got {held.shape} and {step.shape}")
    if not np.isfinite(held).all():
        raise ValueError("yuan must be finite, got NaN or infinity; a stock that is not held has 0")
    trade = held.copy()
    trade[1:] -= held[:-1] * (1.0 + np.nan_to_num(step[:-1], nan=0.0))
    return trade


def impact_cost(
    trade: ArrayLike,
    liquidity: ArrayLike,
    volatility: ArrayLike,
    *,
    b: float = 1.0,
    exponent: float = 0.5,
) -> NDArray[np.float64]:
    """Estimate what a trade pays by moving the price: |x| * b * sigma * (|x| / liquidity) ** exponent.

    Source: the form of the temporary impact in Almgren, Thum, Hauptmann and Li (2005), "Direct estimation of
    equity market impact", Risk 18(7), 58-62, whose estimates for US stocks are b = 0.142 and exponent = 0.6.
    The defaults are the common square-root rule; none of them is fitted to A-shares.

    Args:
        trade: yuan traded that day, of either sign; any shape.
        liquidity: yuan a day; broadcasts against ``trade``.
        volatility: standard deviation of daily returns (0.02 = 2%); broadcasts against ``trade``.
        b: coefficient, at least 0.
        exponent: of the participation, at least 0.

    Returns:
        Yuan, in the broadcast shape, at least 0; 0 where nothing is traded, whatever stands beside it.

    Raises:
        ValueError: for ``b`` or ``exponent`` not allowed, a trade that is not finite, or a trade in a stock
            without positive liquidity or a known volatility.

    """
    for name, value in (("b", b), ("exponent", exponent)):
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    size, traded, sigma = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (trade, liquidity, volatility))
    )
    if not np.isfinite(size).all():
        raise ValueError("trade must be finite, got NaN or infinity; a stock that is not traded has 0")
    size, active = np.abs(size), size != 0
    known = np.isfinite(traded) & (traded > 0) & np.isfinite(sigma) & (sigma >= 0)
    if (active & ~known).any():
        raise ValueError(
            f"{int((active & ~known).sum())} trades have no positive finite liquidity or no volatility >= 0; "
            "set these trades to 0 or fill the liquidity and volatility"
        )
    share = size / np.where(active, traded, 1.0)
    return np.where(active, size * b * np.where(active, sigma, 0.0) * share**exponent, 0.0)


def affordable(yuan: float, cash: float, cost: Callable[[float], float]) -> float:
    """Find the most yuan, at most ``yuan``, that ``cash`` buys together with the costs (to 1e-13 of the cash).

    What is left after the cost of too large a trade is affordable, and what is left after the cost of an affordable
    one is not less than the answer: where costs are a small share of a trade the two close in at once, and halving
    does the rest.

    Args:
        yuan: that are wanted.
        cash: yuan there are.
        cost: of a trade, yuan -> yuan; rises with the trade, inf where it cannot be dealt.

    Returns:
        Yuan, whose own cost fits into the cash beside them; 0 where nothing does.

    """
    low, high = 0.0, min(yuan, cash)

    def fits(value: float) -> bool:
        return value + cost(value) <= cash

    def narrow(value: float) -> None:
        nonlocal low, high
        if low < value < high:
            low, high = (value, high) if fits(value) else (low, value)

    if high <= 0.0:
        return 0.0
    if fits(high):
        return high
    while high - low > CLOSE * cash:
        narrow(cash - cost(high))
        narrow(cash - cost(low))
        narrow((low + high) / 2.0)
    return low


# --- checks


def _tensor(values: Any) -> Tensor:
    """Bring numpy or torch to a float64 tensor, on the device it is on; it is never written to."""
    return values.detach().to(torch.float64) if isinstance(values, Tensor) else _shared(values, np.float64)


def _shared(values: Any, dtype: Any = None) -> Tensor:
    """Share an array's memory where torch can: copies are made of what is read-only or runs backwards."""
    array = np.require(values, dtype=dtype, requirements="W")
    return torch.from_numpy(array.copy() if min(array.strides, default=0) < 0 else array)


def _as_mask(mask: Any) -> Tensor:
    result = mask if isinstance(mask, Tensor) else _shared(mask)
    if result.dtype != torch.bool:
        raise ValueError(f"mask must be bool with True = real, got {result.dtype}; pass mask.astype(bool)")
    return result


def _day_rate(name: str, rate: ArrayLike, days: int) -> NDArray[np.float64]:
    result = np.asarray(rate, dtype=np.float64)
    if result.shape not in ((), (days,)) or not np.isfinite(result).all():
        raise ValueError(
            f"{name} must be a number or {days} of them, one a day, all finite; got shape {result.shape} with "
            f"{int((~np.isfinite(result)).sum())} not finite (rules.fee_rates has the fees by date)"
        )
    return result


def _check_shapes(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(not shape for shape in shapes.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must be one and the same (..., N) = (days..., stocks), got {listed}")


def _check_no_infinite(score: Tensor, real: Tensor) -> None:
    infinite = int(((score.abs() == torch.inf) & real).sum())
    if infinite:
        raise ValueError(
            f"score is infinite at {infinite} stocks: a model has diverged. Use NaN where there is no score"
        )


def _check_positive(name: str, value: Any, meaning: str) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a finite number > 0 ({meaning}), got {value!r}")


def _check_top_n(top_n: Any) -> None:
    if top_n is None:
        return
    if isinstance(top_n, bool) or not isinstance(top_n, Integral) or int(top_n) < 1:
        raise ValueError(f"top_n must be an integer >= 1, or None to place the capital in full, got {top_n!r}")
