"""Orders of one step of a PolicyStrategy: from targets and holdings, under caps."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from qlib.backtest.decision import Order, OrderDir

from qlib_ext.strategy.quotes import EVEN, Market, whole_lots

KINDS = (
    "blocked_buy", "blocked_sell", "unknown_liquidity", "unknown_volatility", "below_lot", "cash_clipped",
    "capital_clipped", "trade_cap", "held_back", "t_plus_1",
)  # fmt: skip
TARGET_COLUMNS = ("date", "code", "rank", "target", "held", "ordered", "cap", "reason")
CENT = 0.01  # yuan


@dataclass
class Line:
    """One stock at one step.

    `rank`: by score, NaN where it has none. Yuan: `target`; `held` before the orders; `ordered`, signed; `cap`, left to
    trade today, NaN where liquidity was never known; `lot`, the smallest order where it may be bought, else 0.
    `amount`: adjusted shares held, `sellable` of them not bought today; `price`: the deal price, 0 where not known.
    `shares`: adjusted shares to trade, signed, where the target is told by them; NaN where it is yuan at any price.
    `reason`: of KINDS, what kept the order from the target; "" where at most rounding to lots did.
    """

    code: str
    rank: float
    target: float
    amount: float
    sellable: float
    cap: float
    young: bool = False
    price: float = 0.0
    held: float = 0.0
    ordered: float = 0.0
    lot: float = 0.0
    reason: str = ""
    shares: float = math.nan

    def value(self, price: float) -> None:
        """Take the deal price."""
        self.price, self.held = price, self.amount * price
        if not math.isnan(self.shares):
            self.target = max(self.amount + self.shares, 0.0) * price

    @property
    def short(self) -> float:
        """Yuan that the target is above the holding, if the order fills."""
        return max(self.target - self.held - self.ordered, 0.0)


class Planner:
    """Sells, then buys by rank while the cash lasts.

    `last_price`: of a holding that does not trade. `cash` yuan before the orders; `capital` yuan that the holdings may
    come to by a buy, inf for no such bound. A cent of the cash is left for the rounding of floats.
    """

    def __init__(self, market: Market, last_price: Callable[[str], float], cash: float, capital: float) -> None:
        self.market, self.last_price, self.cash, self.capital = market, last_price, cash - CENT, capital
        self.orders: list[Order] = []

    def plan(self, lines: Iterable[Line]) -> list[Order]:
        """Orders; the lines (by rank) are completed with what is ordered, and why not more."""
        lines = list(lines)
        buys = [line for line in lines if self._wants_more(line)]
        self.capital -= sum(line.held + line.ordered for line in lines)
        for line in buys:
            self._buy(line)
        return self.orders

    def _wants_more(self, line: Line) -> bool:
        """Value a holding; sell of it what is too much. True where it is to be bought."""
        code = line.code
        suspended = self.market.suspended(code)
        if not suspended:
            line.value(self.market.price(code, OrderDir.SELL))
        elif line.amount > 0:
            line.value(self.last_price(code))
        if line.target < line.held:
            self._sell(line, suspended)
        elif line.target > line.held and (suspended or not self.market.tradable(code, OrderDir.BUY)):
            line.reason = "blocked_buy"
        elif line.target > line.held and not math.isfinite(line.cap):
            line.reason = "unknown_liquidity"
        elif line.target > line.held:
            line.value(self.market.price(code, OrderDir.BUY))
            line.lot = self.market.lots(code)[0] * line.price
            return line.target > line.held
        return False

    def _sell(self, line: Line, suspended: bool) -> None:
        if line.young:
            line.reason = "held_back"
        elif suspended or not self.market.tradable(line.code, OrderDir.SELL):
            line.reason = "blocked_sell"
        elif not math.isfinite(line.cap):
            line.reason = "unknown_liquidity"
        else:
            shares = self._sellable(line)
            yuan = shares * line.price
            cost = self.market.cost(line.code, yuan, sell=True) if shares > 0 else 0.0
            if not math.isfinite(cost):
                line.reason = self.market.unknown(line.code)
            elif shares > 0:
                line.ordered = -yuan
                self.cash += yuan - cost
                self.orders.append(Order(line.code, shares, OrderDir.SELL, *self.market.span))

    def _sellable(self, line: Line) -> float:
        """Find the adjusted shares to sell: whole lots, or all that is free, so that an odd lot goes with the rest."""
        wanted, most = (line.held - line.target) / line.price, line.cap / line.price
        if line.sellable < wanted * (1.0 - EVEN):
            wanted, line.reason = line.sellable, "t_plus_1"
        if most < wanted * (1.0 - EVEN):
            line.reason = "trade_cap"
        if line.target == 0.0 and min(wanted, most) >= line.sellable * (1.0 - EVEN):
            return line.sellable
        lots = self.market.lots(line.code)
        if line.target == 0.0:  # the rest is an odd lot of its own, which may be sold as a whole
            lots_today = whole_lots(min(wanted, most), math.inf, lots)
        else:
            lots_today = whole_lots(wanted, most, lots)
        if lots_today == 0.0 and line.sellable > 0.0 and most > 0.0:
            line.reason = "below_lot"
        return min(lots_today, line.sellable)

    def _buy(self, line: Line) -> None:
        delta = line.target - line.held
        wish = min(delta, line.cap)
        if not math.isfinite(self.market.cost(line.code, wish, sell=False)):
            line.reason = self.market.unknown(line.code)
            return
        line.reason = "trade_cap" if wish < delta * (1.0 - EVEN) else ""
        room = min(wish, max(self.capital, 0.0))
        if room < wish - CENT:
            line.reason = "capital_clipped"
        paid = self.market.affordable(line.code, room, self.cash) if self.cash >= line.lot else 0.0
        if paid < room - 2 * CENT:
            line.reason = "cash_clipped"
        shares = whole_lots(delta / line.price, paid / line.price, self.market.lots(line.code))
        if shares > 0:
            yuan = shares * line.price
            line.ordered = yuan
            self.cash -= yuan + self.market.cost(line.code, yuan, sell=False)
            self.capital -= yuan
            self.orders.append(Order(line.code, shares, OrderDir.BUY, *self.market.span))
        elif line.reason == "" or (line.reason == "trade_cap" and line.cap > 0):
            line.reason = "below_lot"


def summary(lines: Iterable[Line]) -> dict[str, Any]:
    """Sum up a step for the log: see `PolicyStrategy`."""
    lines = list(lines)
    missed = [line for line in lines if line.short > max(line.lot, CENT)]
    sums: dict[str, Any] = {
        "buy": sum(line.ordered for line in lines if line.ordered > 0),
        "sell": -sum(line.ordered for line in lines if line.ordered < 0),
        "unreached": sum(line.short for line in lines),
        "unreached_names": len(missed),
    }
    return sums | {kind: sum(line.reason == kind for line in lines) for kind in KINDS}


def table(day: pd.Timestamp, lines: Iterable[Line]) -> pd.DataFrame:
    """Rows of `daily_targets`."""
    rows = [(day, x.code, x.rank, x.target, x.held, x.ordered, x.cap, x.reason) for x in lines]
    return pd.DataFrame(rows, columns=list(TARGET_COLUMNS))


def make_lines(
    target: pd.Series, rank: Mapping[str, float], held: Mapping[str, float], sellable: Mapping[str, float],
    caps: Mapping[str, float], young: Callable[[str], bool],
) -> list[Line]:  # fmt: skip
    """Lines of all stocks with a target or a holding: first those to leave, then by rank.

    `target` (n,) yuan by rank; `held`, `sellable`: adjusted shares; `caps`: yuan.
    """
    wanted = {str(code): float(yuan) for code, yuan in target.items() if yuan > 0}
    codes = [*sorted(code for code in held if code not in wanted), *wanted]
    return [
        Line(
            code,
            rank.get(code, math.nan),
            wanted.get(code, 0.0),
            held.get(code, 0.0),
            sellable.get(code, held.get(code, 0.0)),
            caps.get(code, math.nan),
            code in held and young(code),
        )
        for code in codes
    ]
