"""An account that begins with holdings, read and completed; the position that an account keeps."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from qlib.backtest.position import Position

from qlib_ext.exchange.quote import LEAD
from qlib_ext.options import check_number, refuse_unknown
from qlib_ext.provider import calendar, read_fields
from qlib_ext.rules import read_share


def read_account(account: Any, start: Any) -> Any:
    """Read a backtest's account: yuan, or {cash: yuan, code: shares or {amount: shares, price: yuan}, ...}.

    Shares are adjusted ones, as qlib counts them: raw shares / $factor; so is the price. A holding without a price
    takes its last close before `start`, however long it has been suspended (qlib looks back for 30 days).

    Returns: it, as qlib takes it; yuan as they are.

    Raises: ValueError, TypeError for a holding that cannot be, or whose price is not known.

    >>> day, stock = panel.days[60], panel.stocks[0]
    >>> sorted(read_account({"cash": 1e6, f"{stock[2:]}.{stock[:2]}": 1000}, day)[stock])
    ['amount', 'price']
    """
    if not isinstance(account, Mapping):
        return account
    out: dict[str, Any] = {"cash": account.get("cash")}
    for name, value in account.items():
        if name == "cash":
            continue
        code = read_share("account", name)
        own = dict(value) if isinstance(value, Mapping) else {"amount": value}
        refuse_unknown(f"account: {code}", own, ("amount", "price"))
        check_number(f"account: {code}: amount", own.get("amount"), "(0, inf)", hint=" (adjusted shares)")
        price = own.get("price") or _last_close(code, start)
        check_number(f"account: {code}: price", price, "(0, inf)")
        if code in out:
            raise ValueError(f"account: {code} stands twice; add its shares up")
        out[code] = {"amount": float(own["amount"]), "price": float(price)}
    return out


def _last_close(code: str, start: Any) -> float:
    """Find the adjusted close before a day, at most LEAD trading days ago; ValueError where there is none."""
    days = calendar()
    eve = days[max(int(days.searchsorted(pd.Timestamp(start))) - 1, 0)]
    close = float(read_fields([code], ["$close"], eve, eve, lead=LEAD)["$close"].ffill().to_numpy()[-1, 0])
    if not close > 0:
        raise ValueError(
            f"account: no price of {code} in the {LEAD} trading days before {pd.Timestamp(start):%Y-%m-%d}; "
            "give {amount: shares, price: yuan}, or leave it out"
        )
    return close


class SortedPosition(Position):
    """qlib's position with its stocks in order, so that sums over them have the same bits in every process.

    qlib lists them by a set, whose order depends on PYTHONHASHSEED. `pos_type` of the backtest names it.

    >>> held = {"SZ000002": {"amount": 1, "price": 2.0}, "SH600000": {"amount": 1, "price": 3.0}}
    >>> SortedPosition(1e6, held).get_stock_list()
    ['SH600000', 'SZ000002']
    """

    def get_stock_list(self) -> list[str]:
        """List the codes, sorted."""
        return sorted(super().get_stock_list())
