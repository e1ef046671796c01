"""Frames of vendors as one table of bars: raw prices in yuan, shares, yuan; what is not surely understood is refused.

The units are told by each row itself: amount / (close * volume) is 1 for yuan over shares, 100 for yuan over lots, 0.1
for thousand yuan over lots, 0.001 for thousand yuan over shares, up to how far the day's mean price is from its close.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.frames import column_names, frame_files, read_frame
from qlib_ext.ingest.vendors import MEANINGS, PLACES, TEXTS, Vendor, meant, vendor_of
from qlib_ext.options import check_choice
from qlib_ext.rules import is_a_share, is_index

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

# log10 of amount / (close * volume) -> shares that one of volume is, yuan that one of amount is
READINGS = {0: (1.0, 1.0), 2: (100.0, 1.0), -1: (100.0, 1000.0), -3: (1.0, 1000.0)}
CLEAR = 0.35  # of log10 from a reading: a day's mean price is within half and twice its close
STRANGE = 0.01  # share of rows beyond which units or prices are not understood
OUTSIDE, MANY = 0.01, 0.05  # of the mean price beyond low and high, and the share of rows that tells adjusted prices
WHOLE = 0.9  # share of prices in whole cents that raw ones have
UNADJUSTED = {"Baostock": "adjustflag='3'", "AKShare": "adjust=''", "Tushare": "pro.daily, not pro_bar(adj=...)"}
PRICES = ("open", "high", "low", "close")
NEEDED = (*PRICES, "volume", "amount")


@dataclass
class Bars:
    """Rows of stocks and indices, by code and then by day.

    Attributes:
        vendor: whose they are.
        codes: (N,) sorted, as SH600000.
        days: (D,) sorted.
        stock, day: (R,) places in these two.
        values: (R,) each: open, high, low, close, pre_close (raw yuan), shares, yuan, factor (of the vendor's own
            base), st (0, 1), and further fields as they stand; NaN where nothing stands.
        traded: (R,) whether there was a trade; the other rows are suspended days.
        texts: name, industry: code -> text.
        told: what the user should know.
    """

    vendor: Vendor
    codes: list[str]
    days: pd.DatetimeIndex
    stock: Ints
    day: Ints
    values: dict[str, Floats]
    traded: npt.NDArray[np.bool_]
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def place(self, row: Any) -> str:
        """Name a row for messages."""
        return f"{self.codes[self.stock[row]]} {self.days[self.day[row]].date()}"

    @property
    def shares(self) -> npt.NDArray[np.bool_]:
        """(R,) whether a row is of a stock, not of an index."""
        return np.array([not is_index(code) for code in self.codes], dtype=bool)[self.stock]


def read_bars(
    paths: Sequence[str | Path],
    *,
    volume: float | None = None,
    amount: float | None = None,
    prices: str | None = None,
    fields: Sequence[str] = (),
) -> Bars:
    """Read frames as bars.

    Args:
        paths: CSV or Parquet files, or folders of them, of one vendor; see `frames.read_frame`.
        volume: shares that one of volume is; None: as the rows tell.
        amount: yuan that one of amount is; None: as the rows tell.
        prices: "raw" or "adjusted" (by the column factor); None: as the cents tell.
        fields: further columns that are kept, as they stand.

    Raises:
        ValueError: a column that lacks or stands twice, units or prices that are not surely understood, with code, day
            and cure; and as `frames.read_frame`.
        OSError: a file that is not there or cannot be opened.
    """
    files = [file for path in paths for file in frame_files(path)]
    names = [name for file in files for name in column_names(file)]
    vendor, known = vendor_of(names), meant(names, MEANINGS)
    taken = {name.lower(): name for name in names}
    for name in fields:
        check_choice("field", name.lower(), sorted(set(taken) - {n.lower() for n in known}))
    if lacking := [name for name in NEEDED if name not in known.values()]:
        more = ", ".join(f"{name} ({', '.join(MEANINGS[name])})" for name in lacking)
        raise ValueError(f"{files[0].name} has no column {more}: it has {', '.join(dict.fromkeys(names))}")
    wanted = known | {taken[name.lower()]: name.lower() for name in fields}
    bars = _laid_out(read_frame([str(file) for file in files], columns=wanted), vendor)
    bars.texts = _texts(files, names)
    if "adjustment" in bars.values:
        _refuse(bars, bars.values.pop("adjustment") != 3, "adjustflag is not 3, so prices are adjusted", vendor)
    _to_raw(bars, prices)
    _to_units(bars, volume, amount)
    return bars


def _laid_out(frame: pd.DataFrame, vendor: Vendor) -> Bars:
    """Put the rows of A shares and indices by code and day."""
    index: Any = frame.index
    told = list(frame.attrs["told"])
    codes, days = [str(code) for code in index.levels[1]], pd.DatetimeIndex(index.levels[0])
    day, stock = (np.asarray(place, dtype=np.int32) for place in index.codes)
    kept = np.array([is_a_share(code) or is_index(code) for code in codes], dtype=bool)
    if not kept.all():
        left = [code for code, keep in zip(codes, kept, strict=True) if not keep]
        told.append(f"left out, neither A shares nor indices: {len(left)} codes, such as {', '.join(left[:3])}")
    order = np.lexsort((day, stock))
    order = order[kept[stock[order]]]
    if not len(order):
        raise ValueError(f"no row is of an A share or an index; there are {', '.join(codes[:5])}")
    values = {str(name): frame.pop(name).to_numpy()[order] for name in list(frame.columns)}
    new = np.cumsum(kept, dtype=np.int32) - 1
    codes = [code for code, keep in zip(codes, kept, strict=True) if keep]
    bars = Bars(vendor, codes, days, new[stock[order]], day[order], values, np.empty(0, dtype=bool), told=told)
    traded = (values["close"] > 0) & ((values["volume"] > 0) | ~bars.shares)
    if (trading := values.pop("trading", None)) is not None:
        idle = traded & (trading == 0) & bars.shares
        if idle.any():
            words = f"{int(idle.sum())} rows have a volume though tradestatus is 0, such as {bars.place(idle.argmax())}"
            told.append(f"{words}: taken as suspended")
        traded &= ~idle
        bars.told.append("suspended days are told by tradestatus: a stock without a row has left the market")
        bars.values["stated"] = trading
    bars.traded = traded
    return bars


def _texts(files: Sequence[Path], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read the last text of each code, of columns that hold names or industries."""
    out: dict[str, dict[str, str]] = {}
    for name, ours in meant([name for name in names if name.lower() not in PLACES], TEXTS).items():
        of = [str(file) for file in files if name in column_names(file)]
        column = read_frame(of, columns={name: ours}, categories=True)[ours].dropna()
        last = column.groupby(level=1, sort=True).last()
        out[ours] = {str(code): str(text) for code, text in last.items() if is_a_share(str(code))}
    return out


def _refuse(bars: Bars, wrong: npt.NDArray[np.bool_], words: str, vendor: Vendor) -> None:
    if wrong.any():
        cure = UNADJUSTED.get(vendor.name, "")
        raise ValueError(
            f"{bars.place(int(wrong.argmax()))} and {int(wrong.sum()) - 1} other rows: {words}; import unadjusted "
            f"prices{f' ({cure})' if cure else ''}"
        )


def cents(bars: Bars, price: Floats) -> float:
    """Share of the stocks' prices on days of trade that are in whole cents."""
    some = np.flatnonzero(bars.traded & bars.shares)
    value = price[some].astype(np.float64) * 100.0
    value = value[np.isfinite(value)]
    return float((np.abs(value - np.rint(value)) < 0.02 + 3e-7 * value).mean()) if len(value) else 1.0


def _to_raw(bars: Bars, prices: str | None) -> None:
    """Turn adjusted prices, and volumes adjusted with them, raw; the vendor's factor stays."""
    values = bars.values
    if (adjusted := values.pop("adjusted", None)) is not None and "factor" not in values:
        with np.errstate(invalid="ignore", divide="ignore"):
            values["factor"] = np.where(bars.traded, adjusted / values["close"], np.nan).astype(np.float32)
    if (rise := values.pop("rise", None)) is not None and "pre_close" not in values:
        values["pre_close"] = np.round(values["close"].astype(np.float64) - rise, 2).astype(np.float32)
    factor = values.get("factor")
    raw = cents(bars, values["close"]) >= WHOLE
    if prices is None and factor is not None and not raw:
        with np.errstate(invalid="ignore", divide="ignore"):
            raw_close = values["close"] / factor
        if cents(bars, raw_close) < WHOLE:
            raise ValueError(
                "neither close nor close / factor are prices in whole cents: say by --prices raw, or adjusted, what "
                "close is"
            )
        prices = "adjusted"
    if prices is not None:
        check_choice("prices", prices, ("raw", "adjusted"))
    if prices != "adjusted":
        if not raw and prices is None:
            row = int((bars.traded & bars.shares).argmax())
            _refuse(
                bars,
                np.arange(len(bars.day)) == row,
                "the closes are not in whole cents: they are adjusted",
                bars.vendor,
            )
        return
    if factor is None:
        raise ValueError("prices are adjusted, and there is no column factor that would tell the raw ones: add it")
    volume, amount = (values[name].astype(np.float64) for name in ("volume", "amount"))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = values["close"].astype(np.float64) * volume
        away = [np.nanmedian(_from_reading(amount / (value / part))) for part in (1.0, factor)]
        if away[0] <= away[1] + 1e-3:
            values["volume"] = (volume * factor).astype(np.float32)
        for name in (*PRICES, "pre_close"):
            if name in values:
                values[name] = values[name] / factor
    bars.told.append(f"prices are adjusted by factor, volumes {'too' if away[0] <= away[1] + 1e-3 else 'are raw'}")


def _nearest(ratio: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """Tell the reading of each ratio (its log10), and how far it is off; off by inf where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        level = np.log10(ratio)
    places = np.array(sorted(READINGS))
    at = np.searchsorted((places[1:] + places[:-1]) / 2, np.nan_to_num(level, nan=0.0, posinf=9.0, neginf=-9.0))
    off = np.abs(level - places[at])
    return places[at].astype(np.int8), np.where(np.isfinite(off), off, np.inf)


def _from_reading(ratio: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    off = _nearest(ratio)[1]
    return np.where(np.isfinite(off), off, np.nan)


def _to_units(bars: Bars, volume: float | None, amount: float | None) -> None:
    """Make shares and yuan of volume and amount, row by row."""
    values, stocks = bars.values, bars.shares & bars.traded
    dealt, price = (values[name].astype(np.float64) for name in ("amount", "close"))
    counted = values["volume"].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        reading, off = _nearest(np.where(stocks, dealt / (price * counted), np.nan))
    clear = off <= CLEAR
    if volume is None or amount is None:
        reading = _agreed(bars, reading, clear, stocks)
    scale = np.array([READINGS.get(level, (np.nan, np.nan)) for level in range(-3, 3)])
    by_row = [
        np.full(len(dealt), named) if named is not None else scale[reading + 3, n]
        for n, named in enumerate((volume, amount))
    ]
    values["shares"], values["yuan"] = (
        (v * k).astype(np.float32) for v, k in zip((counted, dealt), by_row, strict=True)
    )
    del values["volume"], values["amount"]
    _tell_units(bars, stocks, by_row)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = values["yuan"] / values["shares"]
    slack = OUTSIDE + np.where(by_row[0] > 1, 1.0 / np.maximum(counted, 1.0), 0.0)
    out = stocks & ((mean > values["high"] * (1 + slack)) | (mean < values["low"] * (1 - slack)))
    if out.sum() > MANY * max(stocks.sum(), 1):
        words = "amount / volume is beyond low and high: prices are adjusted, or volume or amount are not what they say"
        _refuse(bars, out, words, bars.vendor)


def _agreed(
    bars: Bars, reading: npt.NDArray[np.int8], clear: npt.NDArray[np.bool_], stocks: npt.NDArray[np.bool_]
) -> Any:
    """Take each row's reading where it is clear, else the stock's most frequent one, an index's the market's.

    Raises: ValueError where a stock has no clear row, or more than `STRANGE` of all are not.
    """
    known = bars.values["amount"] > 0
    odd = stocks & known & ~clear
    cure = "say by --volume (shares, lots) and --amount (yuan, thousand) what they are, or repair the rows"
    count = np.stack(
        [np.bincount(bars.stock[clear & (reading == k)], minlength=len(bars.codes)) for k in sorted(READINGS)]
    )
    usual = np.array(sorted(READINGS), dtype=np.int8)[count.argmax(axis=0)]
    none = (count.sum(axis=0) == 0)[bars.stock]
    lost = stocks & none
    if lost.any() or odd.sum() > STRANGE * max(stocks.sum(), 1):
        row = int((lost if lost.any() else odd).argmax())
        cells = ", ".join(f"{name} {bars.values[name][row]:g}" for name in ("close", "volume", "amount"))
        raise ValueError(
            f"{bars.place(row)} ({cells}): amount / (close * volume) fits no units, as of "
            f"{int((lost | odd).sum())} rows; {cure}"
        )
    if odd.any():
        bars.told.append(f"{int(odd.sum())} rows have an odd amount or volume, such as {bars.place(int(odd.argmax()))}")
    market = _market_reading(bars, count.sum(axis=1), none)
    return np.where(clear, reading, np.where(none, market, usual[bars.stock])).astype(np.int64)


def _market_reading(bars: Bars, count: npt.NDArray[np.int64], none: npt.NDArray[np.bool_]) -> int:
    """Take one for indices, whose points tell nothing: that of most rows, or by the vendor's documents."""
    if count.any():
        return int(sorted(READINGS)[int(count.argmax())])
    wanted = (bars.vendor.volume, bars.vendor.amount)
    if wanted not in READINGS.values():
        raise ValueError(
            f"{bars.place(int(none.argmax()))}: there are only indices, which tell no units; say by "
            "--volume and --amount"
        )
    return next(level for level, units in READINGS.items() if units == wanted)


def _tell_units(bars: Bars, stocks: npt.NDArray[np.bool_], by_row: Sequence[npt.NDArray[np.float64]]) -> None:
    """Say the units of the rows, and how many stocks have them."""
    for volume, amount in product(*(np.unique(part[stocks]).tolist() for part in by_row)):
        rows = stocks & (by_row[0] == volume) & (by_row[1] == amount)
        of = [bars.codes[n] for n in np.unique(bars.stock[rows])]
        names = {1.0: "shares", 100.0: "lots"}.get(volume, f"{volume:g} shares")
        money = {1.0: "yuan", 1000.0: "thousand yuan"}.get(amount, f"{amount:g} yuan")
        if of:
            some = f"{', '.join(of[:3])}{', ...' * (len(of) > 3)}"
            bars.told.append(f"volume in {names}, amount in {money}: {rows.sum():,} rows of {len(of)} stocks ({some})")
