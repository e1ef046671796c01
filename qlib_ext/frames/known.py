"""What was known at the close of each day: dates, publication lags and ages counted on the trading calendar.

A value dated t is known at the close of t + `lag` trading days; where t is none, the next one is the first of them. It
holds for that day, and is carried on for at most `max_age` more, or until a newer one is known.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]


def known_places(dates: pd.DatetimeIndex, lag: int, calendar: pd.DatetimeIndex) -> Ints:
    """Place in the calendar of the first close at which a value of each date is known.

    Args:
        dates: (n,).
        lag: trading days, 0 or more. 0: the date itself, or the first trading day after it; 1: the first after it.
        calendar: the trading days; before the first one (places below 0) weekdays stand for them.

    Returns: (n,); len(calendar) or more where that day is not there yet.

    >>> days = pd.to_datetime(["2020-01-03", "2020-01-06", "2020-01-07"])  # Friday, Monday, Tuesday
    >>> known_places(pd.to_datetime(["2020-01-02", "2020-01-03", "2020-01-04", "2020-01-06"]), 1, days).tolist()
    [0, 1, 1, 2]
    """
    place = np.asarray(calendar.searchsorted(dates, side="left"), dtype=np.int64)
    open_ = place < len(calendar)
    open_[open_] = calendar[place[open_]] == dates[open_]
    early = np.asarray(dates < calendar[0])
    if early.any():
        before, first = (
            dates[early].to_numpy().astype("datetime64[D]"),
            calendar[0].to_datetime64().astype("datetime64[D]"),
        )
        place[early] = -np.busday_count(before, first)
        open_[early] = np.is_busday(before)
    return place + np.where(open_, lag, max(lag - 1, 0))


def known_grids(
    frame: pd.DataFrame,
    calendar: pd.DatetimeIndex,
    days: pd.DatetimeIndex,
    stocks: Sequence[str] | npt.NDArray[np.object_],
    *,
    lag: int | Mapping[str, int] = 1,
    max_age: int | Mapping[str, int] | None = 0,
) -> dict[str, npt.NDArray[Any]]:
    """Lay out a table as it was known at the close of each day.

    Args:
        frame: as `read_frame` gives it.
        calendar: all trading days, sorted.
        days: (D,) those wanted, of the calendar, sorted.
        stocks: (N,) codes.
        lag: trading days from a value's date to the first close at which it is known, or by column.
        max_age: trading days that a value is carried on beyond that one, or by column; None: without end.

    Returns: by column (D, N): float32, NaN where nothing is known, or of categories objects, None where not known.

    >>> index = pd.MultiIndex.from_tuples([(pd.Timestamp("2020-01-04"), "SH600000")], names=["datetime", "instrument"])
    >>> days = pd.to_datetime(["2020-01-03", "2020-01-06", "2020-01-07", "2020-01-08"])  # Friday to Wednesday
    >>> known_grids(pd.DataFrame({"roe": [0.1]}, index), days, days, ["SH600000"], max_age=1)["roe"][:, 0].round(3)
    array([nan, 0.1, 0.1, nan], dtype=float32)
    """
    return {
        str(name): known_grid(frame[name], calendar, days, stocks, lag=_of(lag, name), max_age=_of(max_age, name))
        for name in frame
    }


def known_grid(
    column: pd.Series,
    calendar: pd.DatetimeIndex,
    days: pd.DatetimeIndex,
    stocks: Sequence[str] | npt.NDArray[np.object_],
    *,
    lag: int,
    max_age: int | None,
) -> npt.NDArray[Any]:
    """Lay out one column as `known_grids` does."""
    index: Any = column.index
    row, at = calendar.get_indexer(days), pd.Index(np.asarray(stocks, dtype=object)).get_indexer(index.levels[1])
    if (row < 0).any():
        raise ValueError(f"{days[row < 0][0].date()} is no trading day of the calendar")
    kinds = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else None
    value = column.to_numpy() if kinds is None else np.asarray(column.cat.codes, dtype=np.int32)
    place = known_places(pd.DatetimeIndex(index.levels[0]), lag, calendar)[index.codes[0]]
    stock, last = at[index.codes[1]], int(row[-1])
    seen = ~np.isnan(value) if kinds is None else value >= 0
    first = int(row[0])
    begin = first - (max_age or 0)
    if max_age is None:
        place = np.maximum(place, first)
    seen &= (stock >= 0) & (place >= begin) & (place <= last)
    nothing: Any = np.float32(np.nan) if kinds is None else np.int32(-1)
    grid = np.full((last - begin + 1, len(stocks)), nothing)
    grid[place[seen] - begin, stock[seen]] = value[seen]  # sorted by date: the later of a day wins
    grid = _carried(grid, max_age)[row - begin] if max_age != 0 else grid[row - begin]
    if kinds is None:
        return grid
    names: npt.NDArray[Any] = np.array([*kinds, None], dtype=object)
    return names[grid]


def _carried(grid: npt.NDArray[Any], max_age: int | None) -> npt.NDArray[Any]:
    """Carry values (D, N) on along the days, at most so many."""
    there = ~np.isnan(grid) if grid.dtype.kind == "f" else grid >= 0
    row = np.arange(len(grid), dtype=np.int32)[:, None]
    last = np.maximum.accumulate(np.where(there, row, np.int32(-1)), axis=0)
    held = (last >= 0) & ((row - last <= max_age) if max_age is not None else True)
    nothing: Any = np.float32(np.nan) if grid.dtype.kind == "f" else np.int32(-1)
    return np.where(held, np.take_along_axis(grid, np.maximum(last, 0), axis=0), nothing)


def _of(option: Any, name: Any) -> Any:
    """Value of an option for a column."""
    return option[name] if isinstance(option, Mapping) else option
