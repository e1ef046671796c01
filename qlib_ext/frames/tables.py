"""One CSV or Parquet file as a table: its columns by name, its rows by their place in the file.

A plain CSV file goes through pyarrow, which takes only what is surely a number; whatever it stumbles over is read once
more by `spelling.read_csv`, cell by cell, which understands more and names the line of what it does not.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow
from pyarrow import csv, parquet

from qlib_ext.spelling import NOTHING, known_name, read_csv

KINDS = (".csv", ".parquet")
_QUICK = 1 << 16  # bytes from which a file is worth the quick way


def read_table(
    path: Path, text: Sequence[str], columns: Sequence[str] | None, *, words: bool, quick: bool
) -> pd.DataFrame:
    """Read a file; `attrs` has names (of all columns), row (what one is called) and, of a CSV file, separator.

    Args:
        path: of a CSV or Parquet file.
        text: columns of codes and days: found by their usual names too, and left as they stand.
        columns: others that are wanted; None: all.
        words: whether other columns may hold text.
        quick: whether pyarrow may be tried on a CSV file; its lines are then not surely known.

    Raises: ValueError for no such table, OSError where it cannot be opened.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet(path, text, columns)
    table = _quick(path, text, columns, words=words) if quick and path.stat().st_size >= _QUICK else None
    if table is None:
        table = read_csv(path, [], optional=text)
        table.columns = pd.Index([_first_day(name, n, text) for n, name in enumerate(table.columns)])
        table.attrs["names"] = list(table.columns)
    table.attrs["row"] = "line"
    return table


def column_names(path: Path) -> list[str]:
    """List the columns of a CSV or Parquet file, its index too, as they stand.

    Raises: ValueError for no such table, OSError where it cannot be opened.
    """
    if path.suffix.lower() == ".parquet":
        return [str(name) for name in _opened(path).schema_arrow.names]
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.readline()
    except (UnicodeDecodeError, OSError):
        head = ""
    if not head.strip() or head.startswith(("#", "sep=")):
        return [str(name) for name in read_csv(path, []).columns]
    mark = max(",;\t|", key=head.count)
    return [cell.strip() for cell in head.strip().replace('"', "").split(mark)]


def _first_day(name: str, place: int, text: Sequence[str]) -> str:
    """Name of a column; the first one without a name holds the days, as pandas writes it."""
    return "date" if not name and not place and "date" in text else name


def _quick(path: Path, text: Sequence[str], columns: Sequence[str] | None, *, words: bool) -> pd.DataFrame | None:
    """Read a plain CSV file by pyarrow; None for one that is not surely understood."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = file.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        return None
    mark = max(",;\t|", key=head.count)
    raw = head.replace('"', "").split(mark)
    names = [_first_day(known_name(cell.strip(), text), n, text) for n, cell in enumerate(raw)]
    if head.startswith(("#", "sep=")) or len(set(names)) < len(names) or "" in names:
        return None
    kinds = {name: pyarrow.string() for name in names if name in text}
    kinds |= {} if words else {name: pyarrow.float64() for name in names if name not in text}
    wanted = [name for name in names if columns is None or name in columns or name in text]
    nothing = [form for word in NOTHING for form in dict.fromkeys((word, word.upper(), word.capitalize()))]
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=names, skip_rows=1),
            parse_options=csv.ParseOptions(delimiter=mark),
            convert_options=csv.ConvertOptions(
                column_types=kinds,
                include_columns=wanted,
                null_values=[*nothing, "NaN", "NaT"],
                strings_can_be_null=True,
                true_values=["\0"],
                false_values=["\0"],
                timestamp_parsers=["\0"],
            ),
        )
    except (pyarrow.ArrowInvalid, pyarrow.ArrowKeyError):
        return None
    out = table.to_pandas(split_blocks=True, self_destruct=True)
    out.attrs |= {"separator": mark, "names": names}
    return out.set_axis(pd.RangeIndex(2, len(out) + 2))


def _opened(path: Path) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error}") from error


def _parquet(path: Path, text: Sequence[str], columns: Sequence[str] | None) -> pd.DataFrame:
    """Read a Parquet file, days and codes from its columns or its index."""
    names = [str(name) for name in _opened(path).schema_arrow.names]
    wanted = None if columns is None else [n for n in names if n in columns or known_name(n, text) in text]
    table = pd.read_parquet(path, columns=wanted)
    named = [name for name in table.index.names if name is not None]
    if named or isinstance(table.index, pd.DatetimeIndex | pd.MultiIndex):
        bare = ["date"] if not named and isinstance(table.index, pd.DatetimeIndex) else None
        table = table.reset_index(names=bare)
    out = table.set_axis([known_name(str(name), text) for name in table.columns], axis=1)
    twice = sorted({name for name in out.columns if list(out.columns).count(name) > 1})
    if twice:
        raise ValueError(f"{path}: column {', '.join(twice)} stands twice among {list(map(str, table.columns))[:8]}")
    out = out.reset_index(drop=True)
    out.attrs |= {"row": "row", "names": [known_name(name, text) for name in names]}
    return out
