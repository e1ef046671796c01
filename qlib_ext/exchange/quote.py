"""Bars of a market for AShareExchange: one quick load, cached; turnover of the days; a dense quote.

Legend: `P` trading days with the lead before the first, `D` days of the backtest, `N` stocks.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.backtest.high_performance_ds import BaseQuote
from qlib.config import C
from qlib.utils.index_data import SingleData

from qlib_ext import rules
from qlib_ext.options import check_choice
from qlib_ext.provider import (
    ages,
    binary_folder,
    calendar,
    listings,
    read_series,
    read_traded,
    series_file,
    storage_of,
    wide,
)

LEAD = 250  # trading days before the first: for trailing means and for the last close before a long suspension
CACHED = 2  # loads kept in memory
_PLAIN = re.compile(r"\$\w+")

Grid = npt.NDArray[Any]


@dataclass(frozen=True)
class Bars:
    """Fields of N stocks over P days; the first `lead` days come before the backtest.

    `fields`: expression -> (P, N) float32, NaN where not known. `first`, `last`, `ended` (N,): row (may lie outside) of
    the stock's listing, of the last day of its series, and of the last day that it is listed (see `listings`).
    `age` (P, N): trading days since listing, 1 on the first; inf for stocks older than the calendar. `rest`: trading
    days that the calendar goes on after the last row.
    """

    codes: tuple[str, ...]
    days: pd.DatetimeIndex
    lead: int
    fields: dict[str, Grid]
    first: Grid
    last: Grid
    ended: Grid
    age: Grid
    rest: int


_cache: OrderedDict[tuple[Any, ...], Bars] = OrderedDict()


def load_bars(codes: Sequence[str], fields: Iterable[str], start: Any, end: Any) -> Bars:
    """Load the fields of the stocks from LEAD days before `start` to `end`, once for the same arguments.

    Raises: ValueError where the span has no trading day.
    """
    days = calendar()
    begin, stop = int(days.searchsorted(pd.Timestamp(start))), int(days.searchsorted(pd.Timestamp(end), "right"))
    if begin >= stop:
        have = f"{days[0].date()} to {days[-1].date()}" if len(days) else "nothing"
        raise ValueError(f"AShareExchange: no trading day from {start} to {end}; the calendar has {have}.")
    wanted = tuple(sorted(set(fields)))
    key = (str(C["provider_uri"]), len(days), tuple(codes), begin, stop, wanted)
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    bars = _cache[key] = _load(tuple(codes), wanted, days, begin, stop)
    while len(_cache) > CACHED:
        _cache.popitem(last=False)
    return bars


def clear_cache() -> None:
    """Forget the loads kept in memory (for data that changed on disk)."""
    _cache.clear()


def _load(codes: tuple[str, ...], fields: tuple[str, ...], days: pd.DatetimeIndex, begin: int, stop: int) -> Bars:
    origin, rest = max(begin - LEAD, 0), len(days) - stop
    span = days[origin:stop]
    plain = [field for field in fields if _PLAIN.fullmatch(field)]
    frames = read_traded(codes, plain, span[0], span[-1])
    if others := [field for field in fields if field not in plain]:
        frames |= dict(zip(others, wide(list(codes), others, span[0], span[-1]), strict=True))
    grids = {name: frame.to_numpy(dtype=np.float32) for name, frame in frames.items()}
    (first, ended), last = listings(codes), _last(codes)
    age = ages(first, np.arange(origin, stop))
    return Bars(codes, span, begin - origin, grids, first - origin, last - origin, ended - origin, age, rest)


def _last(codes: tuple[str, ...]) -> Grid:
    """Calendar position (N,) of the last day of each series; NaN days of it count."""
    if (folder := binary_folder(codes)) is None:
        ends = [storage_of(code, "$close").end_index for code in codes]
        return np.array([-1 if end is None else end for end in ends], dtype=np.int64)
    series = (read_series(series_file(folder, code, "$close")) for code in codes)
    return np.array([first + len(values) - 1 for first, values in series], dtype=np.int64)


def having(codes: Sequence[str], name: str) -> Iterator[str]:
    """Yield the stocks that have the field (with its $)."""
    folder = binary_folder(codes)
    for code in codes:
        if folder is None:
            there = storage_of(code, name).start_index is not None
        else:  # ten times as quick, of a whole market
            there = series_file(folder, code, name).is_file()
        if there:
            yield code


def known_fields(codes: Sequence[str]) -> list[str]:
    """Fields (with their $) of the first of the stocks that has a folder; none where the storage is not qlib's own."""
    folder = binary_folder(codes)
    if folder is None:
        return []
    for code in codes:
        files = series_file(folder, code, "$close").parent.glob("*.day.bin")
        if names := sorted(f"${file.name.split('.')[0]}" for file in files):
            return names
    return []


# --- what is known at the previous close


def turnover_fields(liquidity: str) -> list[str]:
    """Fields that the turnover by the option `liquidity`, and its check, need; errors as of `units.fields_of`."""
    own = rules.fields_of(liquidity, owner="AShareExchange")
    return list(dict.fromkeys([*own, *rules.fields_of("auto", owner="AShareExchange")]))


def turnover(bars: Bars, liquidity: str) -> tuple[Grid, str]:
    """Turnover of each day in yuan, (P, N) float64, and the profile or expression that it came by.

    "auto" is decided by all rows of the bars.

    Raises: ValueError where no unit profile fits, or for wrong units (see `units.check_turnover`).
    """
    fields = {name: bars.fields[name].astype(np.float64) for name in turnover_fields(liquidity)}
    profile = liquidity
    found = rules.evidence(fields)
    if profile == "auto":
        profile = rules.decide(found)
    yuan = np.where(np.isfinite(fields["$close"]), rules.turnover_in_yuan(profile, fields), np.nan)
    share = rules.share_of_amount(yuan, fields["$amount"], found)
    rules.check_turnover(yuan[bars.lead :], profile, share=share, named=liquidity != "auto", told=rules.told(found))
    return yuan, profile


def forward(values: Grid, *, before: bool = False) -> Grid:
    """Carry the last finite value of each column (P, N) forward; `before`: as it stood a row earlier."""
    row = np.where(np.isfinite(values), np.arange(len(values))[:, None], -1)
    np.maximum.accumulate(row, axis=0, out=row)
    out = np.where(row >= 0, np.take_along_axis(values, np.maximum(row, 0), axis=0), np.nan)
    if before:
        out = np.vstack([np.full_like(out[:1], np.nan), out[:-1]])
    return out


# --- the quote


_METHODS: dict[str, Callable[[Grid], Any]] = {
    **{"sum": np.nansum, "mean": np.nanmean, "all": np.all, "last": lambda values: values[-1]},
    "ts_data_last": lambda values: next(iter(values[~np.isnan(values)][::-1]), None),
}


class DayQuote(BaseQuote):
    """qlib's quote over dense (D, N) arrays; a time within a day is answered by that day."""

    def __init__(self, codes: Sequence[str], days: pd.DatetimeIndex, data: dict[str, Grid]) -> None:
        super().__init__(quote_df=None, freq="day")
        self.days, self.data = days, data
        self.codes = list(codes)
        self.column = {code: n for n, code in enumerate(codes)}
        self.row = {day: n for n, day in enumerate(days)}
        self._asked: tuple[Any, Any, range] = (None, None, range(0))  # one step asks for its own rows again and again

    def get_all_stock(self) -> Iterable[str]:
        """Codes of all stocks."""
        return self.column.keys()

    def rows(self, start: Any, end: Any) -> range:
        """Rows of the days from `start` to `end`, both included; a step that begins within a day is that day's.

        qlib ends the last bar of a day at the next morning.
        """
        if start is not self._asked[0] or end is not self._asked[1]:
            self._asked = (start, end, self._rows(pd.Timestamp(start), pd.Timestamp(end)))
        return self._asked[2]

    def _rows(self, start: pd.Timestamp, end: pd.Timestamp) -> range:
        first, last = start.normalize(), end.normalize()
        if first == last or first != start:
            one = self.row.get(first)
            return range(0) if one is None else range(one, one + 1)
        return range(int(self.days.searchsorted(first)), int(self.days.searchsorted(last, side="right")))

    def get_data(self, stock_id: str, start_time: Any, end_time: Any, field: str, method: str | None = None) -> Any:
        """Value of a field, by `method` over several days; None where there is no such stock or day."""
        column, rows = self.column.get(stock_id), self.rows(start_time, end_time)
        if column is None or not len(rows):
            return None
        if len(rows) == 1:
            return self.data[field][rows.start, column].item()
        values = self.data[field][rows.start : rows.stop, column]
        values = values if values.dtype == np.bool_ else values.astype(np.float64)
        if method is None:
            return SingleData(values, index=list(self.days[rows.start : rows.stop]))
        check_choice("method of a quote", method, _METHODS)
        return _METHODS[method](values)
