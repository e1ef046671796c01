"""Fees of A-share trades by date: commission with its minimum, transfer fee, stamp duty.

The numbers come from the package `marina-rules`; see `rules.citations`.
"""

from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.rules.limits import by_date

COMMISSION = 0.0003  # each way


def fee_rates(dates: Any, *, commission: float = COMMISSION) -> pd.DataFrame:
    """Proportional fees by date, as fractions of the traded value.

    Args:
        dates: D dates; marina-rules knows all fees from 2015-08-01 on.
        commission: broker's rate each way, at most the legal cap of 0.003 (minimum of 5 yuan left out).

    Returns:
        DataFrame (D rows, index `dates`): `buy` = commission + transfer fee (0.002%; 0.001% from 2022-04-29)
        and `sell` = the same + stamp duty, paid by sellers only (0.1%, 0.05% from 2023-08-28).

    Raises:
        ValueError: dates before the first known fees, or a commission below 0 or above the legal cap.

    >>> fee_rates(["2023-08-25", "2023-08-28"], commission=0.0003).round(6).to_numpy().tolist()
    [[0.00031, 0.00131], [0.00031, 0.00081]]
    """
    days = pd.DatetimeIndex(dates)
    transfer = by_date("transfer_fee_each_side", days, "stock")
    stamp = by_date("stamp_duty_sell", days, "stock")
    unknown = np.isnan(transfer) | np.isnan(stamp)
    if unknown.any():
        raise ValueError(
            f"fee_rates: no fees on record for {days[unknown][0].date()}; known are dates from 2015-08-01 "
            "on. Start the backtest later or give your own rates."
        )
    cap = by_date("commission_cap", days, "stock")
    if not (0.0 <= commission and bool((commission <= cap).all())):
        raise ValueError(f"fee_rates: commission is {commission!r}; allowed is a fraction from 0 to 0.003 (0.3%).")
    buy = commission + transfer
    return pd.DataFrame({"buy": buy, "sell": buy + stamp}, index=days)


def commission_minimum(dates: Any) -> float:
    """Smallest commission of an order on the dates, yuan (5); marina-rules knows it from 2002-05-01 on.

    Raises: ValueError for earlier dates.
    """
    days = pd.DatetimeIndex(dates)
    minimum = by_date("commission_min_per_order_cny", days, "stock")
    if np.isnan(minimum).any():
        raise ValueError(f"commission_minimum: none on record for {days[np.isnan(minimum)][0].date()}; give your own.")
    return float(minimum.max())


class Fees:
    """What an order pays on each of D days, in yuan: commission, transfer fee and stamp duty.

    Args:
        dates: D dates.
        commission: rate each way, at most the legal cap.
        minimum: least commission of an order, yuan; None: the rule's 5, and none where the rate is 0.
        open_cost, close_cost: whole rate of a buy, a sell, in place of the rules'; all of it counts as commission.

    Attributes: `minimum`; `highest`: largest whole rate (buy, sell) of the days.

    Raises: ValueError for days or a commission that the rules do not know, where they are asked.

    >>> fees = Fees(["2023-08-25", "2023-08-28"])
    >>> [round(yuan, 6) for yuan in fees.parts(1, 100_000.0, sell=True)]
    [30.0, 1.0, 50.0]
    >>> fees.parts(1, 1_000.0, sell=False)[0], Fees(["2023-08-25"], commission=0.0).parts(0, 1_000.0, sell=False)[0]
    (5.0, 0.0)
    """

    def __init__(
        self,
        dates: Any,
        *,
        commission: float = COMMISSION,
        minimum: float | None = None,
        open_cost: float | None = None,
        close_cost: float | None = None,
    ) -> None:
        own, zero = (open_cost, close_cost), np.zeros(len(dates))
        self.minimum = commission_minimum(dates) if minimum is None else minimum
        self._always = minimum is not None
        self._rates = [(zero + (rate or 0.0), zero, zero) for rate in own]
        if None in own:  # the rules are asked only where they hold: they do not know every day
            fee_rates(dates, commission=commission)  # says what is wrong with the commission
            bare = fee_rates(dates, commission=0.0)
            transfer = bare["buy"].to_numpy()
            for side, stamp in enumerate((zero, (bare["sell"] - bare["buy"]).to_numpy())):
                if own[side] is None:
                    self._rates[side] = (zero + commission, transfer, stamp)
        self.highest = tuple(float(np.add.reduce(parts).max()) for parts in self._rates)

    def rates(self, row: int) -> tuple[float, float]:
        """Whole rates of a buy and a sell on day `row`, of an order above the least commission."""
        buy, sell = (float(sum(part[row] for part in parts)) for parts in self._rates)
        return buy, sell

    def parts(self, row: int, yuan: float, *, sell: bool) -> tuple[float, float, float]:
        """Commission (at least the minimum), transfer fee and stamp duty of an order of so many yuan on day `row`."""
        commission, transfer, stamp = (float(rate[row]) for rate in self._rates[sell])
        least = self.minimum if self._always or commission > 0 else 0.0
        return max(commission * yuan, least), transfer * yuan, stamp * yuan
