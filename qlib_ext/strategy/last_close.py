"""What an order pays, and the exchange that the planner asks: the last close. Private to `orders.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from qlib_ext.portfolio import impact_cost
from qlib_ext.rules import commission_minimum, fee_rates

COMMISSION = 0.0003  # each way


@dataclass(frozen=True)
class Fees:
    """What a trade pays: `commission` (a fraction, at least `minimum` yuan), and `buy` or `sell` (fractions) on top.

    `open_cost`, `close_cost`: the whole rate of a buy, a sell, in place of these (at least `minimum` yuan); None: the
    others hold. `impact`, `exponent`: b and exponent of `portfolio.impact_cost`.
    """

    commission: float = 0.0
    minimum: float = 0.0
    buy: float = 0.0
    sell: float = 0.0
    open_cost: float | None = None
    close_cost: float | None = None
    impact: float = 0.0
    exponent: float = 0.5

    @classmethod
    def on(
        cls,
        date: pd.Timestamp,
        commission: float = COMMISSION,
        minimum: float | None = None,
        own: tuple[float | None, float | None] = (None, None),
    ) -> Fees:
        """Fees by the rules of a day; `minimum` None: the rule's; `own`: open_cost and close_cost."""
        least, buy, sell = commission_minimum([date]) if minimum is None else minimum, 0.0, 0.0
        if None in own:  # the rules are asked only where they hold: they do not know every day
            buy, sell = (fee_rates([date], commission=commission).iloc[0] - commission)[["buy", "sell"]]
        return cls(commission, least, float(buy), float(sell), *own)

    def cost(self, yuan: float, *, sell: bool) -> float:
        """Yuan of fees that a trade pays."""
        own = self.close_cost if sell else self.open_cost
        if own is not None:
            return max(yuan * own, self.minimum)
        return max(yuan * self.commission, self.minimum) + yuan * (self.sell if sell else self.buy)


class LastClose:
    """The part of an exchange that the strategy's planner asks, at the last close; raw shares and prices."""

    def __init__(self, market: pd.DataFrame, fees: Fees) -> None:
        self.rows: dict[str, Any] = {str(code): row for code, row in market.to_dict("index").items()}
        self.fees = fees

    def check_stock_suspended(self, code: str, *span: Any) -> bool:
        """Whether it is suspended or without a price."""
        row = self.rows[code]
        return bool(row["suspended"]) or not (row["price"] > 0 and row["step"] > 0)

    def is_stock_tradable(self, code: str, *span: Any, direction: Any = None) -> bool:
        """Whether it is not suspended: limits are told beside the order."""
        return not self.check_stock_suspended(code)

    def get_deal_price(self, code: str, *span: Any) -> float:
        """Last close, raw yuan."""
        return float(self.rows[code]["price"])

    def get_amount_of_trade_unit(self, factor: None, code: str, *span: Any) -> float:
        """Step of the lots in shares."""
        return float(self.rows[code]["step"])

    def smallest_order(self, code: str, *span: Any) -> float:
        """Smallest order in shares."""
        return float(self.rows[code]["least"])

    def trade_cost(self, code: str, start: Any, end: Any, yuan: float, *, sell: bool) -> float:
        """Fees and impact of a trade in yuan; infinite where the stock cannot be priced."""
        if self.unknown(code):
            return math.inf
        fees, row = self.fees, self.rows[code]
        known = (row["known_liquidity"], row["volatility"]) if fees.impact else (1.0, 0.0)
        return fees.cost(yuan, sell=sell) + float(impact_cost(yuan, *known, b=fees.impact, exponent=fees.exponent))

    def unknown(self, code: str, *span: Any) -> str:
        """Tell what the impact would have to know, unknown_liquidity or unknown_volatility; "" for nothing."""
        row = self.rows[code]
        if not self.fees.impact:
            return ""
        if not row["known_liquidity"] > 0:
            return "unknown_liquidity"
        return "" if math.isfinite(row["volatility"]) else "unknown_volatility"
