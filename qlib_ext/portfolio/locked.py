"""What is held where not all can be bought or sold at the entry.

``D`` days, ``N`` stocks; amounts in yuan, returns as fractions (0.01 = 1%).
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlib_ext.options import check_number, check_shapes
from qlib_ext.portfolio.costs import growth

Grid = NDArray[np.float64]
EVEN = 1e-12  # of the capital: what wants no more than this above what is left is not cut


def held_through(
    target: ArrayLike,
    step_return: ArrayLike,
    buyable: ArrayLike,
    sellable: ArrayLike | None = None,
    *,
    capital: float,
    score: ArrayLike | None = None,
    horizon: int = 1,
) -> Grid:
    """Walk a target through days on which some stocks are locked: they are neither sold nor bought anew.

    At limit-up (sellable, not buyable) min(holding, target) stays and the rest is sold; at limit-down (buyable, not
    sellable) the whole holding stays and may be topped up to its target; suspended (neither) it stays as it is. What
    stays uses up the capital first; what is left of it goes to the targets of the others, and nobody's target grows.
    A stock that never trades again counts as suspended.

    Args:
        target: (D, N) yuan wanted on each signal day, of the whole capital, such as `fill_top_n` gives.
        step_return: (D, N) one-day return that follows the entry of signal day d; what is not finite counts
            as 0.
        buyable: (D, N) bool, True = traded at the entry and not locked at limit-up.
        sellable: (D, N) bool, True = traded at the entry and not locked at limit-down; None: all could be sold.
        capital: yuan that there are each day: what was lost is made up, what was gained is paid out.
        score: (D, N) where the capital does not reach, the worst get nothing; None: all are cut in proportion.
        horizon: days that a holding lasts: so many sleeves, each of which trades every so many days.

    Returns:
        (D, N) yuan held after the trades of each day, of the whole capital. Above it in sum only where what stays is.

    Raises:
        ValueError: for shapes, flags that are not bool, a capital or a horizon that is not allowed.

    >>> target, step = [[60.0, 40.0], [0.0, 100.0]], [[0.5, 0.0], [0.0, 0.0]]
    >>> down = [[True, True], [False, True]]  # the first stock, worth 90 on the second day, cannot be sold on it
    >>> held_through(target, step, [[True, True]] * 2, down, capital=100.0).tolist()
    [[60.0, 40.0], [90.0, 10.0]]
    """
    wanted, step = np.asarray(target, dtype=np.float64), np.asarray(step_return, dtype=np.float64)
    can_buy = np.asarray(buyable)
    can_sell = np.ones_like(can_buy) if sellable is None else np.asarray(sellable)
    order = None if score is None else np.asarray(score, dtype=np.float64)
    grids = {"target": wanted, "step_return": step, "buyable": can_buy, "sellable": can_sell}
    check_shapes("(D, N) = (days, stocks)", **grids, **({} if order is None else {"score": order}))
    for name in ("buyable", "sellable"):
        if grids[name].dtype != bool:
            raise ValueError(f"{name} must be bool with True = it could be traded, got {grids[name].dtype}")
    check_number("capital", capital, "(0, inf)", hint=" (yuan)")
    check_number("horizon", horizon, "[1, inf)", whole=True, hint=" (days of the label)")
    grown, held = growth(step, horizon), np.zeros_like(wanted)
    for day in range(len(wanted)):
        old = day - horizon
        before = held[old] * grown[old] if old >= 0 else held[day]
        flags = can_buy[day], can_sell[day]
        held[day] = _traded(before, wanted[day], *flags, capital, None if order is None else order[day])
    return held


def _traded(before: Grid, target: Grid, can_buy: Any, can_sell: Any, capital: float, score: Grid | None) -> Grid:
    """Yuan (N,) held after the trades of one day."""
    stays = np.where(can_sell, np.where(can_buy, 0.0, np.minimum(before, target)), before)
    more = np.where(can_buy, np.maximum(target - stays, 0.0), 0.0)
    left = max(capital - float(stays.sum()), 0.0)
    if float(more.sum()) > left + EVEN * capital:
        more = more * (left / more.sum()) if score is None else _best(more, score, left)
    return np.asarray(stays + more)


def _best(more: Grid, score: Grid, left: float) -> Grid:
    """Give the best what they want until nothing is left: (N,) yuan."""
    some = np.flatnonzero(more > 0)
    some = some[np.argsort(-score[some], kind="stable")]
    asked = more[some]
    dealt = np.zeros_like(more)
    dealt[some] = np.clip(left - (np.cumsum(asked) - asked), 0.0, asked)
    return dealt
