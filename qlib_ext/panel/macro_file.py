"""Files of macro series as one table by date. Private to `macro`."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd


def read_macro(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read the files into one table by date, sorted; columns of the same name in two files are an error.

    Dates are local ones, of the place of the series: 2020-01-31 or 20200131, as text, number or timestamp, without a
    time of day.

    Raises: ValueError for another kind of file, no column `date`, a bad date, or a date that stands twice.

    """
    tables = [_read_one(Path(p)) for p in paths]
    names = [c for table in tables for c in table.columns]
    twice = sorted({c for c in names if names.count(c) > 1})
    if twice:
        raise ValueError(f"macro_state: {', '.join(twice)} stand in more than one file: rename or drop one")
    return pd.concat(tables, axis=1, sort=True).sort_index()


def _read_one(path: Path) -> pd.DataFrame:
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"macro_state: {path.name} is no .csv or .parquet file")
    table = pd.read_csv(path, comment="#") if path.suffix == ".csv" else pd.read_parquet(path)
    if "date" not in table and table.index.name == "date":
        table = table.reset_index()
    if "date" not in table:
        raise ValueError(f"macro_state: {path.name} has no column date but {list(table.columns)[:8]}")
    date = read_dates(table.pop("date"), path.name)
    if date.isna().any():
        raise ValueError(f"macro_state: {path.name}: {int(date.isna().sum())} rows without a date such as 2020-01-31")
    table.index = pd.DatetimeIndex(date)
    if table.index.has_duplicates:
        first = table.index[table.index.duplicated()][0].date()
        raise ValueError(f"macro_state: {path.name} has the date {first} twice: keep what was known first")
    return table


def read_dates(column: pd.Series, where: str) -> pd.Series:
    """Read dates, NaT where nothing stands.

    Raises: ValueError naming the first that is no date, or for times with a zone or other than midnight.

    """
    given = column
    if not pd.api.types.is_datetime64_any_dtype(column.dtype):
        given = column.map(_date_text)
    try:
        dates = pd.to_datetime(given, errors="coerce")
    except ValueError as error:  # several time zones
        raise ValueError(f"macro_state: {where}: {error}; give local dates such as 2020-01-31") from error
    if getattr(dates.dtype, "tz", None) is not None:
        raise ValueError(f"macro_state: {where} has times of the zone {dates.dt.tz}; give local dates as 2020-01-31")
    bad = column[dates.isna() & column.notna()]
    if len(bad):
        what = f"{bad.tolist()[0]!r} is no date ({len(bad)} such rows)"
        raise ValueError(f"macro_state: {where}: {what}; wanted 2020-01-31 or 20200131")
    timed = dates.notna() & (dates != dates.dt.normalize())
    if timed.any():
        raise ValueError(
            f"macro_state: {where} has times of day ({dates[timed].iloc[0]}; {int(timed.sum())} such rows): give days, "
            "and say by the series' lag when a value is used (0: published before the Chinese close of its day, 1: "
            "after it)"
        )
    return dates


def _date_text(value: Any) -> Any:
    """Return what pandas may read as a date: a number, to pandas nanoseconds since 1970, counts by its eight digits."""
    number = isinstance(value, numbers.Real)
    text = f"{value:.10g}" if number else value
    if number or (isinstance(text, str) and text.isdigit()):
        return text if text.isdigit() and len(text) == len("20200131") else None
    return value
