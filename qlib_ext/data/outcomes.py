"""Outcomes, known only after the day: whether the entry is locked, and the steps that mark a position.

Legend: `D` days, `N` stocks; frames are day x stock, prices adjusted unless they are called raw.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.log import get_module_logger

from qlib_ext.rules import limit_down_price, limit_up_price, one_price_limit, price_limit, st_mask

logger = get_module_logger("qlib_ext.data")

NEAR_LIMIT = 0.003  # below the limit: a return from here on counts as locked where no raw price is known


def step_returns(price: pd.DataFrame, entry: int) -> pd.DataFrame:
    """One-day return that follows the entry, `entry` days after d, in the price's own field; suspensions are flat.

    The product of 1 + the steps of days d to d+h-1 is 1 + the label of d, of h days and in one field.
    """
    known = price.astype(np.float64).ffill()
    return (known / known.shift(1) - 1.0).shift(-entry - 1)


def horizon_returns(price: pd.DataFrame, entry: int, horizons: Sequence[int]) -> dict[int, pd.DataFrame]:
    """Return from the entry, `entry` days after d, to each of `horizons` days later, in the price's own field.

    NaN where the stock is not traded at the entry or at the exit, as a label by expression has it; in between it may be
    suspended.

    >>> price = pd.DataFrame({"SH600000": [10.0, 11.0, np.nan, 22.0]})
    >>> horizon_returns(price, 0, [1, 2])[2]["SH600000"].tolist()
    [nan, 1.0, nan, nan]
    """
    later = price.astype(np.float64).shift(-entry)
    return {days: later.shift(-days) / later - 1.0 for days in horizons}


def locked_up(
    close: pd.DataFrame,
    factor: pd.DataFrame,
    age: npt.NDArray[np.float64],
    *,
    price: pd.DataFrame | None = None,
    st: Any = None,
    side: str = "up",
    high: pd.DataFrame | None = None,
    low: pd.DataFrame | None = None,
) -> npt.NDArray[np.bool_]:
    """Tell (D, N) where a price of the day (its close) is the limit-up price, by the rules of the board and the date.

    The raw price is close / factor, the reference the previous traded close in today's shares. Gaps of $factor are
    filled forward; where a stock has none yet, its return is compared with the limit less 0.3%.

    Args:
        close: day x stock.
        factor: the same, NaN where not known.
        age: (D, N) trading days since listing, see `listed_days`.
        price: that is looked at; None: the close.
        st: spells of special treatment, as `rules.st_mask` takes them; None: every stock has its board's limit.
        side: "up", or "down" for the limit-down price.
        high: of the day; with `low`, a day of one price at the limit of special treatment is locked too, see
            `rules.one_price_limit`.
        low: of the day.
    """
    codes, days = [str(c) for c in close.columns], pd.DatetimeIndex(close.index)
    special = None if st is None else st_mask(st, codes, days)
    limit = price_limit(codes, days, listed_days=age, st=special, side=side)
    before, adjustment = close.astype(np.float64).ffill().shift(1), factor.astype(np.float64).ffill()
    deal = (close if price is None else price).astype(np.float64)
    reference, raw = (np.round((grid / adjustment).to_numpy(), 2) for grid in (before, deal))
    move, blind = (deal / before - 1).to_numpy(), ~np.isfinite(adjustment.to_numpy())
    lacks = blind & np.isfinite(move)
    if lacks.any() and side == "up":
        some = [codes[n] for n in np.flatnonzero(lacks.any(axis=0))]
        logger.warning(
            f"no $factor on some days of {len(some)} of {len(codes)} stocks, {some[:3]} among them: whether they are "
            f"locked is judged by a return within {NEAR_LIMIT:.1%} of the limit"
        )
    with np.errstate(invalid="ignore"):
        if side == "down":
            locked = np.where(blind, move <= NEAR_LIMIT - limit, raw <= limit_down_price(reference, limit) + 1e-6)
        else:
            locked = np.where(blind, move >= limit - NEAR_LIMIT, raw >= limit_up_price(reference, limit) - 1e-6)
    if high is None or low is None:
        return locked
    bar = {n: np.round((p.astype(np.float64) / adjustment).to_numpy(), 2) for n, p in (("high", high), ("low", low))}
    return locked | one_price_limit(codes, days, **bar, prev_close=reference, listed_days=age, side=side)
