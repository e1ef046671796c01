"""What AShareExchange dealt and what it did not, of one backtest. Private to `exchange.py`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

BLOCKED = ("day", "code", "side", "wanted", "dealt", "reason")
FILLS = (
    "day", "code", "side", "shares", "price", "prev_close", "scope", "yuan", "commission", "transfer", "stamp_duty",
    "impact", "used",
)  # fmt: skip
SETTLED = ("day", "code", "kind", "shares", "yuan", "cost", "lost")


@dataclass
class Ledger:
    """Rows of the three tables, and what counts against the day's caps.

    `position`: whose backtest it is. `bought`: adjusted shares bought on `day`; `dealt`: yuan dealt on it.
    """

    position: Any = None
    day: Any = None
    bought: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    dealt: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    blocked: list[tuple[Any, ...]] = field(default_factory=list)
    fills: list[tuple[Any, ...]] = field(default_factory=list)
    settled: list[tuple[Any, ...]] = field(default_factory=list)

    def turn(self, day: pd.Timestamp) -> bool:
        """Begin a day; False where it has begun."""
        if day == self.day:
            return False
        self.day = day
        self.bought.clear()
        self.dealt.clear()
        return True

    def frame(self, name: str) -> pd.DataFrame:
        """Table `blocked`, `fills` or `settled`."""
        columns = {"blocked": BLOCKED, "fills": FILLS, "settled": SETTLED}[name]
        return pd.DataFrame(getattr(self, name), columns=list(columns))
