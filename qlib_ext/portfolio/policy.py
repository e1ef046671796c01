"""What every way to trade is: a policy says which yuan to hold, from what is known at the close of a day.

A policy knows no exchange: strategies (`qlib_ext.strategy`) turn its targets into orders, `portfolio.simulate` deals
them at once. ``D`` days, ``N`` stocks, ``K`` exposures; yuan.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Day:
    """The close of a signal day, as a policy sees it.

    Attributes:
        score: (N,) of the day as the policy's `prepare` made it; NaN where there is none.
        held: (N,) holdings at their last prices.
        liquidity: (N,) yuan a day, known at the close; NaN where it is not known on that day.
        known_liquidity: (N,) the last known one: what caps and impact of a day's trade go by; NaN where there never was
            one.
        volatility: (N,) last known standard deviation of daily returns; NaN where there never was one.
        value: of the account, stocks and cash.
        buy_rate: fees of the next trading day as a share of what is bought.
        sell_rate: of what is sold.
        universe: (N,) bool, the stocks whose plain mean is the benchmark: in the universe and traded that day.
        exposures: (N, K) of the day, NaN where not known; None where the policy asks for none.
        specific: (N,) standard deviation of daily returns less the mean stock's, NaN where not known; None: not known.
        market_volatility: standard deviation of the mean stock's daily returns; None: not known.
    """

    score: Vector
    held: Vector
    liquidity: Vector
    known_liquidity: Vector
    volatility: Vector
    value: float
    buy_rate: float
    sell_rate: float
    universe: NDArray[np.bool_]
    exposures: Vector | None = None
    specific: Vector | None = None
    market_volatility: float | None = None


class Policy(Protocol):
    """A way to trade.

    Attributes:
        capital: yuan that a buy may bring the holdings to; None: no bound.
        in_shares: whether the target of a stock that is held is at the price of the close, so that what lies between it
            and the holding is a number of shares to trade; else it is at the price of the trade.
    """

    @property
    def capital(self) -> float | None: ...  # noqa: D102

    @property
    def in_shares(self) -> bool: ...  # noqa: D102

    def prepare(self, score: Vector) -> Vector:
        """Make of the scores (D, N) of successive days what `target` wants to see, day by day and causally."""
        ...

    def target(self, day: Day) -> Vector:
        """Yuan (N,) to hold after the next day's trades; what cannot be dealt on that day is the caller's affair."""
        ...
