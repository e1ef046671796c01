"""Whose frame it is, by the names of its columns, and what these columns mean.

A further vendor is a row of `VENDORS`, a further name of a column a word in `MEANINGS`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MEANINGS: dict[str, tuple[str, ...]] = {  # ours -> as vendors write it, capitals or not
    "open": ("open", "$open", "开盘", "开盘价"),
    "high": ("high", "$high", "最高", "最高价"),
    "low": ("low", "$low", "最低", "最低价"),
    "close": ("close", "$close", "收盘", "收盘价"),
    "volume": ("volume", "$volume", "vol", "成交量"),
    "amount": ("amount", "$amount", "成交额", "成交金额"),
    "pre_close": ("pre_close", "preclose", "昨收", "昨收价", "前收盘", "前收盘价"),
    "rise": ("涨跌额",),  # close less the close before, in yuan
    "factor": ("factor", "$factor", "adj_factor", "复权因子"),
    "adjusted": ("adj_close", "adjclose", "后复权收盘价"),
    "trading": ("tradestatus",),  # 0: suspended
    "adjustment": ("adjustflag",),  # 3: none
    "st": ("isst", "is_st"),
}
TEXTS: dict[str, tuple[str, ...]] = {
    "name": ("name", "名称", "股票名称", "证券名称", "证券简称", "股票简称", "code_name"),
    "industry": ("industry", "行业", "所属行业", "行业名称"),
}
PLACES = ("code", "date")  # read by `frames.read_frame` under their usual names


@dataclass(frozen=True)
class Vendor:
    """A source of frames.

    Args:
        telling: columns of which it has one, and no other source has.
        volume: shares that one of its volume is, by its documents; the bars themselves are asked first.
        amount: yuan that one of its amount is, likewise.
    """

    name: str
    telling: tuple[str, ...] = ()
    volume: float | None = None
    amount: float | None = None


VENDORS = (
    Vendor("Baostock", ("tradestatus", "adjustflag", "pctchg", "isst"), 1.0, 1.0),
    Vendor("AKShare", ("开盘", "收盘", "成交量"), 100.0, 1.0),
    Vendor("Tushare", ("ts_code", "pct_chg"), 100.0, 1000.0),
    Vendor("qlib", ("$close", "$volume"), 100.0, 1000.0),
)
PLAIN = Vendor("a plain table")


def vendor_of(names: Iterable[str]) -> Vendor:
    """Tell the source of a frame by the names of its columns.

    >>> vendor_of(["ts_code", "trade_date", "open", "vol"]).name, vendor_of(["date", "code", "close"]).name
    ('Tushare', 'a plain table')
    """
    lower = {name.lower() for name in names}
    return next((vendor for vendor in VENDORS if lower & set(vendor.telling)), PLAIN)


def meant(names: Iterable[str], meanings: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Find the columns that are understood: name in the file -> ours.

    Raises: ValueError where two columns mean the same.

    >>> meant(["日期", "收盘", "换手率"], MEANINGS)
    {'收盘': 'close'}
    """
    words = {word: ours for ours, spellings in meanings.items() for word in spellings}
    found = {name: words[name.lower()] for name in dict.fromkeys(names) if name.lower() in words}
    for ours in meanings:
        twice = [name for name, meaning in found.items() if meaning == ours]
        if len(twice) > 1:
            raise ValueError(
                f"{' and '.join(twice)} both mean {ours}: rename or drop one, and import frames of different vendors "
                "one after the other"
            )
    return found
