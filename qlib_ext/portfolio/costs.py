"""What trading a portfolio costs: its trades, fees in proportion, the price it moves, and what cash can buy.

``D`` days, ``N`` stocks; amounts in yuan, returns as fractions (0.01 = 1%).
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlib_ext.options import check_number, check_shapes

CLOSE = 1e-13  # of the cash: what an answer to "how much can it buy" may leave unspent


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


def rebalancing(yuan: ArrayLike, next_return: ArrayLike, horizon: int = 1) -> NDArray[np.float64]:
    """List the trades that rebalance a portfolio to ``yuan`` each day at the entry price.

    Args:
        yuan: (D, N) holding after the day's trades, of the whole capital.
        next_return: (D, N) one-day return that the holding of day d earns until the entry of day d+1; NaN
            counts as 0.
        horizon: sleeves of capital / horizon, of which one a day is brought to ``yuan``, as in ``sleeve_returns``.

    Returns:
        (D, N) yuan bought (positive) or sold: yuan[d] - yuan[d-1] * (1 + next_return[d-1]), on the first day
        yuan[0] (from cash); of h sleeves (yuan[d] - yuan[d-h] * what h days made of it) / h.

    Raises:
        ValueError: for shapes, or a holding that is not finite.

    >>> rebalancing([[60.0], [60.0], [60.0]], [[0.5], [0.0], [0.0]], horizon=2).tolist()
    [[30.0], [30.0], [-15.0]]
    """
    held, step = np.asarray(yuan, dtype=np.float64), np.asarray(next_return, dtype=np.float64)
    check_shapes("(D, N) = (days, stocks)", yuan=held, next_return=step)
    if not np.isfinite(held).all():
        raise ValueError("yuan must be finite, got NaN or infinity; a stock that is not held has 0")
    trade = held.copy()
    trade[horizon:] -= held[:-horizon] * growth(step, horizon)[: max(len(step) - horizon, 0)]
    return trade / horizon


def growth(step_return: ArrayLike, days: int) -> NDArray[np.float64]:
    """Compound one-day returns (D, N) over the days d to d+days-1, as far as there are: (D, N) factors."""
    one = 1.0 + known_step(np.asarray(step_return, dtype=np.float64))
    grown = one.copy()
    for later in range(1, min(days, len(one))):
        grown[:-later] *= one[later:]
    return grown


def known_step(step_return: NDArray[np.floating]) -> NDArray[np.float64]:
    """One-day returns, in their own type, 0 where they are not known: NaN, or infinite as after a price of 0."""
    return np.nan_to_num(step_return, nan=0.0, posinf=0.0, neginf=0.0)


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

    >>> impact_cost([4e4, -4e4, 0.0], 1e6, 0.02).round(6).tolist()
    [160.0, 160.0, 0.0]
    """
    check_number("b", b, "[0, inf)")
    check_number("exponent", exponent, "[0, inf)")
    size, traded, sigma = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (trade, liquidity, volatility))
    )
    if not np.isfinite(size).all():
        raise ValueError("trade must be finite, got NaN or infinity; a stock that is not traded has 0")
    size, active = np.abs(size), size != 0
    unpriced = active & ~(np.isfinite(traded) & (traded > 0) & np.isfinite(sigma) & (sigma >= 0))
    if unpriced.any():
        raise ValueError(
            f"{int(unpriced.sum())} trades have no positive finite liquidity or no volatility >= 0; "
            "set these trades to 0 or fill the liquidity and volatility"
        )
    share = size / np.where(active, traded, 1.0)
    return np.where(active, size * b * np.where(active, sigma, 0.0) * share**exponent, 0.0)


def one_impact(yuan: float, liquidity: float, volatility: float, *, b: float = 1.0, exponent: float = 0.5) -> float:
    """Estimate what one trade of `yuan`, at least 0, pays: what `impact_cost` says, unchecked and much faster.

    >>> round(one_impact(4e4, 1e6, 0.02), 6)
    160.0
    """
    share = yuan / liquidity
    return yuan * b * volatility * (math.sqrt(share) if exponent == 0.5 else share**exponent)


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


def _day_rate(name: str, rate: ArrayLike, days: int) -> NDArray[np.float64]:
    result = np.asarray(rate, dtype=np.float64)
    if result.shape not in ((), (days,)) or not np.isfinite(result).all():
        raise ValueError(
            f"{name} must be a number or {days} of them, one a day, all finite; got shape {result.shape} with "
            f"{int((~np.isfinite(result)).sum())} not finite (rules.fee_rates has the fees by date)"
        )
    return result
