"""What an exchange says of a stock at one step: AShareExchange, qlib's own, or the last close of an order list."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from qlib.backtest.decision import OrderDir

from qlib_ext.exchange import Impact
from qlib_ext.portfolio import affordable
from qlib_ext.rules import Fees

Span = tuple[pd.Timestamp, pd.Timestamp]
EVEN = 1e-9  # relative: shares this close to a whole step are one


class Market:
    """The exchange at the step `span`; amounts are adjusted shares, prices adjusted.

    `liquidity`: yuan a day as the strategy knows it, for the impact that qlib's own exchange charges (its own reading,
    the day's volume, is not known yet).
    """

    def __init__(self, exchange: Any, span: Span, liquidity: Mapping[str, float]) -> None:
        self.exchange, self.span, self.liquidity = exchange, span, liquidity

    def suspended(self, code: str) -> bool:
        """Whether the stock does not trade at the step."""
        return bool(self.exchange.check_stock_suspended(code, *self.span))

    def tradable(self, code: str, direction: OrderDir) -> bool:
        """Whether it trades, and not at the limit of that direction."""
        return bool(self.exchange.is_stock_tradable(code, *self.span, direction=direction))

    def price(self, code: str, direction: OrderDir) -> float:
        """Deal price."""
        return float(self.exchange.get_deal_price(code, *self.span, direction))

    def lots(self, code: str) -> tuple[float, float]:
        """Smallest order and step above it; zeros without lots."""
        step = self.exchange.get_amount_of_trade_unit(None, code, *self.span)
        least = getattr(self.exchange, "smallest_order", None)
        return (0.0, 0.0) if step is None else (float(step if least is None else least(code, *self.span)), float(step))

    def cost(self, code: str, yuan: float, *, sell: bool) -> float:
        """Yuan that a trade of so many yuan pays on top; inf where the exchange would not deal it (see `unknown`)."""
        exchange = self.exchange
        if hasattr(exchange, "trade_cost"):
            return float(exchange.trade_cost(code, *self.span, yuan, sell=sell))
        traded = self.liquidity.get(code, math.nan)
        share = yuan / traded if traded > 0 else 1.0
        rate = (exchange.close_cost if sell else exchange.open_cost) + exchange.impact_cost * share**2
        return float(max(yuan * rate, exchange.min_cost))

    def unknown(self, code: str) -> str:
        """Tell what the exchange would have to know to deal: unknown_liquidity or unknown_volatility."""
        ask = getattr(self.exchange, "unknown", None)
        return str(ask(code, *self.span)) if ask is not None else "unknown_liquidity"

    def affordable(self, code: str, yuan: float, cash: float) -> float:
        """Most yuan, at most `yuan`, that `cash` buys with the costs."""
        return affordable(yuan, cash, lambda value: self.cost(code, value, sell=False))


class LastClose(Market):
    """The last close in place of an exchange; raw shares and prices.

    `market`: as `order_inputs.read_market` gives it. `fees`: of `date`. `impact`: see `exchange.impact_rule`.
    """

    def __init__(self, market: pd.DataFrame, date: pd.Timestamp, fees: Fees, impact: Impact | None = None) -> None:
        super().__init__(None, (date, date), {})
        self.rows: dict[str, Any] = {str(code): row for code, row in market.to_dict("index").items()}
        self.fees, self.impact = fees, impact

    def suspended(self, code: str) -> bool:
        """Whether it is suspended or without a price."""
        row = self.rows[code]
        return bool(row["suspended"]) or not (row["price"] > 0 and row["step"] > 0)

    def tradable(self, code: str, direction: OrderDir) -> bool:
        """Whether it is not suspended: limits are told beside the order."""
        return not self.suspended(code)

    def price(self, code: str, direction: OrderDir = OrderDir.BUY) -> float:
        """Last close, raw yuan."""
        return float(self.rows[code]["price"])

    def lots(self, code: str) -> tuple[float, float]:
        """Smallest order and step above it, raw shares."""
        return float(self.rows[code]["least"]), float(self.rows[code]["step"])

    def cost(self, code: str, yuan: float, *, sell: bool) -> float:
        """Fees and impact of a trade, yuan; inf where the stock cannot be priced."""
        if self.unknown(code):
            return math.inf
        row, fees = self.rows[code], sum(self.fees.parts(0, yuan, sell=sell))
        if self.impact is None:
            return fees
        return fees + float(self.impact(yuan, row["known_liquidity"], row["volatility"]))

    def unknown(self, code: str) -> str:
        """Tell what the impact would have to know, unknown_liquidity or unknown_volatility; "" for nothing."""
        row = self.rows[code]
        if self.impact is None:
            return ""
        if not row["known_liquidity"] > 0:
            return "unknown_liquidity"
        return "" if math.isfinite(row["volatility"]) else "unknown_volatility"


def whole_lots(delta: float, most: float, lots: tuple[float, float]) -> float:
    """Shares to order towards `delta`, at most `most` today, in steps and not below the smallest order.

    Where the rest of another day would be too small to be an order of its own, today's leaves as much as that needs.
    """
    least, step = lots
    if step <= 0.0:
        return max(min(delta, most), 0.0)
    smallest = round(least / step)
    wanted, today = _steps(delta, step), _steps(min(delta, most), step)
    rest = wanted - today
    if 0 < rest < smallest and today - (smallest - rest) >= smallest:
        today -= smallest - rest
    return today * step if today >= smallest else 0.0


def _steps(shares: float, step: float) -> int:
    return math.floor(max(shares, 0.0) / step * (1.0 + EVEN) + EVEN)
