"""A user's own executions, with what was known of each stock at the close before: for `portfolio.fit_impact`."""

from pathlib import Path

import numpy as np
import pandas as pd

from qlib_ext import rules
from qlib_ext.exchange import LEAD
from qlib_ext.provider import calendar, last_known, load_liquidity, read_traded, trailing_volatility
from qlib_ext.spelling import read_csv, read_day, read_number

COLUMNS = ("date", "code", "side", "yuan", "arrival", "average")
SIDES = {
    **dict.fromkeys(("buy", "b", "买入", "买", "证券买入"), "buy"),
    **dict.fromkeys(("sell", "s", "卖出", "卖", "证券卖出"), "sell"),
}
FAR = 0.31  # of the arrival price, beyond the widest limit (30%, and a cent): it belongs to another stock or day


def read_executions(source: str | Path) -> pd.DataFrame:
    """Read executions: a CSV file, a row an order, with the columns date, code, side, yuan, arrival, average.

    Days, codes and numbers in any form of `qlib_ext.spelling`; side is buy or sell (买入, 卖出); arrival is the price
    when the order was decided, average what its shares paid, yuan what was dealt.

    Returns: day, code, side, yuan, arrival, average; the index is the line in the file.

    Raises:
        ValueError: no such table, or what is not surely understood: the line is named; an average price more than `FAR`
            from the arrival price.
        OSError: the file cannot be opened.
    """
    table, rows = read_csv(source, COLUMNS), []
    for line, cells in zip(table.index, table.to_dict("records"), strict=True):
        where = f"{source}, line {line}"
        side = SIDES.get(cells["side"].strip().lower())
        if side is None:
            raise ValueError(f"{where}: side is {cells['side']!r}; allowed: buy, sell, 买入, 卖出")
        numbers = {name: read_number(f"{where}: {name}", cells[name]) for name in COLUMNS[3:]}
        for name, value in numbers.items():
            if value <= 0:
                raise ValueError(f"{where}: {name} is {value:g}; it must be above 0")
        if abs(numbers["average"] / numbers["arrival"] - 1.0) > FAR:
            raise ValueError(
                f"{where}: average {numbers['average']:g} is more than {FAR:.0%} from arrival {numbers['arrival']:g}: "
                "is one of them adjusted, or of another day?"
            )
        day = read_day(f"{where}: date", cells["date"])
        rows.append({"day": day, "code": rules.read_share(f"{where}: code", cells["code"]), "side": side} | numbers)
    return pd.DataFrame(rows, index=table.index, columns=["day", "code", "side", "yuan", "arrival", "average"])


def with_market(orders: pd.DataFrame, *, profile: str = "auto", window: int = 20) -> pd.DataFrame:
    """Add liquidity (yuan a day) and volatility (of daily returns) of the provider, as known at the close before.

    Args:
        orders: of `read_executions`; qlib must be initialised on the provider.
        profile: unit profile of the data, as in `provider.load_liquidity`.
        window: days of the trailing means.

    Returns: the orders whose liquidity and volatility are known; `attrs["left_out"]` counts the others.

    Raises: ValueError for an order on a day that the calendar does not have, or where none is left.
    """
    every, codes = calendar(), sorted(orders["code"].unique())
    days = pd.DatetimeIndex(orders["day"])
    at = every.get_indexer(days)
    if (at < 1).any():
        line = orders.index[at < 1][0]
        raise ValueError(
            f"line {line}: {days[at < 1][0]:%Y-%m-%d} is no trading day of the provider with one before it "
            f"({every[0]:%Y-%m-%d} to {every[-1]:%Y-%m-%d}): correct the date, or name another provider"
        )
    first, last = every[at.min() - 1], every[at.max() - 1]
    close = read_traded(codes, [], first, last, lead=LEAD)["$close"]
    frames = {
        "liquidity": last_known(load_liquidity(codes, first, last, profile=profile, window=window, past=True)),
        "volatility": trailing_volatility(close, window).ffill(),
    }
    out = orders.copy()
    for name, frame in frames.items():
        row, column = frame.index.get_indexer(every[at - 1]), frame.columns.get_indexer(pd.Index(orders["code"]))
        out[name] = frame.to_numpy()[row, column]
    usable = np.isfinite(out["liquidity"]) & (out["liquidity"] > 0) & (out["volatility"] > 0)
    if not usable.any():
        raise ValueError(
            "no order has a known liquidity and volatility at the close before: are its stocks in the data?"
        )
    kept = out[usable]
    kept.attrs["left_out"] = int((~usable).sum())
    return kept
