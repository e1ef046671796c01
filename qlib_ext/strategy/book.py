"""What LiquidityTopNStrategy remembers from step to step: what it saw, not what it wished."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from qlib.backtest.decision import OrderDir


@dataclass
class Book:
    """Trades of one backtest, read from how the holdings change between steps, whoever executed the orders.

    `position`: whose backtest it is. `day`: of the last step; `last_day`: the last day it covers. `amounts`: adjusted
    shares that were held at its start; `prices` and `target`: deal price and target yuan of its stocks. `bought`
    (adjusted shares) and `dealt` (yuan, buys and sells): on `day` so far. `since`: day of the first buy. `value`: of
    the account before the day's first step, yuan.
    """

    position: Any = None
    day: pd.Timestamp | None = None
    last_day: pd.Timestamp | None = None
    amounts: dict[str, float] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)
    target: dict[str, float] = field(default_factory=dict)
    bought: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    dealt: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    since: dict[str, pd.Timestamp] = field(default_factory=dict)
    value: float = 0.0

    def is_of(self, position: Any, start: pd.Timestamp) -> bool:
        """Whether a step at `start` goes on with this backtest."""
        return position is self.position and self.day is not None and start.normalize() >= self.day

    def begin_step(
        self, span: tuple[pd.Timestamp, pd.Timestamp], held: dict[str, float], executed: Iterable[Any]
    ) -> bool:
        """Begin a step: take in what changed since the last one. Return whether it begins a day.

        `held`: adjusted shares now. `executed`: qlib's (order, yuan, cost, price) of the last step, as far as known.
        """
        day = span[0].normalize()
        if self.day is not None:
            self._take_in(held, executed)
        new = day != self.day
        if new:
            self.bought.clear()
            self.dealt.clear()
        self.day, self.last_day, self.amounts = day, max(span[1].normalize(), day), held
        return new

    def _take_in(self, held: dict[str, float], executed: Iterable[Any]) -> None:
        dates: dict[str, pd.Timestamp] = {}
        for order, yuan, *_ in executed:
            if order.direction == OrderDir.BUY and yuan > 0:
                dates.setdefault(order.stock_id, pd.Timestamp(order.start_time).normalize())
        for code in held.keys() | self.amounts.keys():
            change = held.get(code, 0.0) - self.amounts.get(code, 0.0)
            self.dealt[code] += abs(change) * self.prices.get(code, 0.0)
            self.bought[code] += max(change, 0.0)
            if code not in held:
                self.since.pop(code, None)
            elif code not in self.amounts and self.last_day is not None:
                self.since[code] = dates.get(code, self.last_day)

    def sellable(self, code: str, amount: float) -> float:
        """Count the adjusted shares of a holding that were not bought today."""
        return max(amount - self.bought.get(code, 0.0), 0.0)

    def left(self, code: str, cap: float) -> float:
        """Yuan left of a day's cap; NaN where the cap is not known."""
        return cap if math.isnan(cap) else max(cap - self.dealt.get(code, 0.0), 0.0)

    def days_held(self, code: str, calendar: pd.DatetimeIndex) -> float:
        """Trading days since the first buy; inf for what was held before the backtest."""
        if code not in self.since or self.day is None:
            return math.inf
        first = calendar.searchsorted(self.since[code], side="right") - 1  # a step may end on a day without trading
        return float(calendar.searchsorted(self.day, side="right") - 1 - first)

    def share_reached(self, held: Mapping[str, float]) -> float:
        """Share of the last target that is held now, at that step's prices; NaN where there was none."""
        total = sum(self.target.values())
        if total <= 0.0:
            return math.nan
        return sum(min(yuan, held.get(c, 0.0) * self.prices.get(c, 0.0)) for c, yuan in self.target.items()) / total
