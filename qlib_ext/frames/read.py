"""Files of a value by stock and day, long or wide, into one table by (datetime, instrument), or an error.

Long: columns date, code (both by their usual names) and one for each value. Wide: one file a value, which has the
file's name: a row for each day, a column for each code.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.frames.tables import KINDS, read_table
from qlib_ext.options import close_names
from qlib_ext.spelling import is_nothing, read_code, read_moment, read_number, read_numbers

NAMES = ["datetime", "instrument"]
EVER = pd.Timestamp("1900-01-01")  # of what has no date
CLOSE = pd.Timedelta(hours=15)  # of the Chinese market
_DATES = "date (a column date, datetime, trade_date, 日期, or another that date: names)"
_CODES = "code (a column code, instrument, ts_code, 证券代码)"
_PERIOD = "\0period"

Paths = str | Path | Sequence[str | Path]
Columns = Sequence[str] | Mapping[str, str] | None
Ints = npt.NDArray[np.int64]


def read_frame(
    path: Paths,
    *,
    columns: Columns = None,
    date: str | None = None,
    period: str | None = None,
    categories: bool = False,
    undated: bool = False,
) -> pd.DataFrame:
    r"""Read files into one table by (datetime, instrument), sorted: days at midnight, codes as SH600000.

    The days are those of the file, trading days or not; `known_grids` tells what is known when. Nothing is filled.

    Args:
        path: a CSV or Parquet file, a list of them, or a folder, of which all such files are taken. Files of the same
            columns are put below each other, others beside each other.
        columns: names of the columns that are wanted, or column of the file -> name it is to have; None: all.
        date: name of the column of days; None: date, by any of its usual names. A time of day up to 15:00 is allowed.
        period: name of a column of days that the value is about, such as the end of the report's quarter: of several
            rows of a stock and day the latest period counts, and what is published after a later period is left out.
        categories: whether a column may hold text; such a column is categorical.
        undated: whether there may be no days; then they are `EVER`.

    Returns: float32 and categorical columns; `attrs["told"]` lists what the user should know.

    Raises:
        ValueError: no such table; a day, code or number that is not surely understood, an infinite number, or a stock
            and day twice: file, line (of Parquet the row, from 0), what came and what to do.
        OSError: a file that is not there or cannot be opened.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "roe.csv").write_text("date,600000,000001.SZ\n2020-01-31,0.12,0.1\n")
    >>> _ = (folder / "long.csv").write_text("ts_code,trade_date,roe\n600000.SH,20200131,0.12\n1,20200131,0.1\n")
    >>> long, wide = read_frame(folder / "long.csv"), read_frame(folder / "roe.csv")
    >>> long.equals(wide), long.loc[("2020-01-31", "SZ000001"), "roe"].item()
    (True, 0.10000000149011612)
    """
    frames = read_frames(path, columns=columns, date=date, period=period, categories=categories, undated=undated)
    out = frames[0] if len(frames) == 1 else pd.concat(frames, axis=1).sort_index()
    out.attrs["told"] = [text for frame in frames for text in frame.attrs["told"]]
    return out


def read_frames(
    path: Paths,
    *,
    columns: Columns = None,
    date: str | None = None,
    period: str | None = None,
    categories: bool = False,
    undated: bool = False,
) -> list[pd.DataFrame]:
    """Read files as `read_frame` does, a table for each set of columns: nothing is copied to put them together."""
    wanted = {} if columns is None else dict(columns) if isinstance(columns, Mapping) else {n: n for n in columns}
    files = [_File(file, wanted, date or "date", period, categories, undated) for file in frame_files(path)]
    parts: dict[tuple[str, ...], list[_File]] = {}
    for file in files:
        if len(file.frame.columns):
            parts.setdefault(tuple(sorted(file.frame.columns.drop(_PERIOD, errors="ignore"))), []).append(file)
    names = [name for group in parts for name in group]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)}: in files of different columns, {_listed(files)}; rename or drop one")
    if missing := [name for name, new in wanted.items() if new not in names]:
        found = sorted({name for file in files for name in file.columns})
        close = close_names(missing[0], found)
        raise ValueError(f"no column {missing[0]!r} in {_listed(files)}; close: {close}; they have {found[:12]}")
    return [_finished(group) for group in parts.values()]


def frame_files(path: Paths, home: Sequence[Path] = ()) -> list[Path]:
    """List the files that a path, or a list of them, names; of a folder its CSV and Parquet files.

    Args:
        path: see `read_frame`.
        home: folders in which a file is looked for too.

    Raises: FileNotFoundError for what is not there, ValueError for another kind of file, or none at all.
    """
    listed = [path] if isinstance(path, str | Path) else list(path)
    files: list[Path] = []
    for one in listed:
        if not isinstance(one, str | Path) or not str(one).strip():
            raise ValueError(f"path is {path!r}; wanted is a file, a folder or a list of them ({' or '.join(KINDS)})")
        named = Path(one).expanduser()
        place = next((p for p in (named, *(folder / named for folder in home)) if p.exists()), None)
        if place is None:
            also = "".join(f" nor in {folder}" for folder in home)
            raise FileNotFoundError(f"no file {str(one)!r} here ({Path.cwd()}){also}")
        files += sorted(p for p in place.iterdir() if p.suffix.lower() in KINDS) if place.is_dir() else [place]
    wrong = [file.name for file in files if file.suffix.lower() not in KINDS]
    if wrong or not files:
        raise ValueError(
            f"path {path!r} names {wrong[0] if wrong else 'no file'}; wanted are {' and '.join(KINDS)} files"
        )
    return files


class _File:
    """One file, as `read_frame` takes it.

    Attributes:
        columns: of the file, but for days and codes.
        frame: by (datetime, instrument), in the order of the file; without a column where none is wanted.
        rows: label in the file of each row of it.
        row: what a row is called.
    """

    def __init__(
        self, file: Path, wanted: Mapping[str, str], date: str, period: str | None, words: bool, undated: bool
    ) -> None:
        self.file, self.wanted, self.date, self.period, self.words = file, wanted, date, period, words
        self.undated, self.frame, self.text = undated, pd.DataFrame(), ["code", date, *([period] if period else [])]
        try:
            self._read(quick=True)
        except ValueError:
            self._read(quick=False)

    def _read(self, quick: bool) -> None:
        some = bool(self.wanted) and self.file.stem not in self.wanted
        table = read_table(self.file, self.text, list(self.wanted) if some else None, words=self.words, quick=quick)
        self.row, self.comma = f"{self.file.name}, {table.attrs['row']}", table.attrs.get("separator") == ";"
        self.columns, self.rows = [n for n in table.attrs["names"] if n not in self.text], table.index.to_numpy()
        table.attrs = {}
        if some and not set(self.columns) & set(self.wanted):
            return
        if not len(table):
            raise ValueError(f"{self.file} has no row")
        self.frame = self._long(table) if "code" in table else self._wide(table)

    def _long(self, table: pd.DataFrame) -> pd.DataFrame:
        """Table of a long file."""
        if self.date not in table and not self.undated:
            raise ValueError(f"{self.file.name} has no {_DATES}; it has {', '.join(self.columns[:8])}")
        codes, code = self._coded(table["code"], "code", _code)
        if self.date in table:
            days, day = self._days(table[self.date], self.date)
        else:
            days, day = pd.DatetimeIndex([EVER]).as_unit("ns"), np.zeros(len(table), dtype=np.int64)
        chosen = [name for name in self.columns if not self.wanted or name in self.wanted]
        if not chosen:
            raise ValueError(f"{self.file.name} has no column but {', '.join(map(str, table.columns))}: no value")
        values = {self.wanted.get(name, name): self._values(table.pop(name), name) for name in chosen}
        if self.period is not None:
            if self.period not in table:
                raise ValueError(
                    f"{self.file.name} has no column {self.period} (period); it has {', '.join(self.columns[:8])}"
                )
            about, at = self._days(table[self.period], self.period)
            values[_PERIOD] = about.to_numpy()[at]
        out = pd.DataFrame(values, copy=False)
        out.index = _index(days, codes, day, code)
        return out

    def _wide(self, table: pd.DataFrame) -> pd.DataFrame:
        """Table of a wide file: a column of the file's name, without the cells in which nothing stands."""
        if self.date not in table:
            raise ValueError(
                f"{self.file.name} has neither {_CODES} nor {_DATES}; it has {', '.join(self.columns[:8])}"
            )
        read = {}
        for name in self.columns:
            try:
                read[name] = read_code("", name)
            except ValueError:
                raise ValueError(
                    f"{self.file.name} has no {_CODES}, as a long file has, and its column {name!r} is no code, as "
                    "those of a wide file are"
                ) from None
        names = list(read.values())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{self.file.name} has two columns of {twice[0]}; keep one")
        days, day = self._days(table[self.date], self.date)
        if len(days) < len(day):
            first = int(np.flatnonzero(pd.Series(day).duplicated())[0])
            raise ValueError(f"{self.row} {self.rows[first]}: {days[int(day[first])].date()} stands twice; keep one")
        grid = np.column_stack([self._numbers(table[name], name) for name in self.columns])
        here, there = np.nonzero(~np.isnan(grid))
        codes, order = pd.factorize(np.array(names, dtype=object), sort=True)[::-1]
        index = _index(days, pd.Index(codes), day[here], order[there])
        stem = self.wanted.get(self.file.stem, self.file.stem)
        self.rows = self.rows[here]
        return pd.DataFrame({stem: grid[here, there]}, index)

    def _coded(self, column: pd.Series, what: str, read: Callable[[str, Any], Any]) -> tuple[Any, Ints]:
        """Sorted labels of a column as they are read, and the place of each row's among them."""
        (place, labels), rows = pd.factorize(column), column.index.to_numpy()
        first = np.flatnonzero(np.diff(np.maximum.accumulate(place), prepend=-1) > 0)
        empty = place < 0
        for n, label in enumerate(labels):
            if is_nothing(label):
                empty |= place == n
        if empty.any():
            raise ValueError(f"{self.row} {rows[int(np.argmax(empty))]} has no {what}; give every row one")
        got = [read(f"{self.row} {rows[at]}: {what}", label) for at, label in zip(first, labels, strict=True)]
        order, names = pd.factorize(np.array(got, dtype=object), sort=True)
        return pd.Index(names), order[place]

    def _days(self, column: pd.Series, what: str) -> tuple[pd.DatetimeIndex, Ints]:
        days, place = self._coded(column, what, _day)
        return pd.DatetimeIndex(days).as_unit("ns"), place

    def _values(self, column: pd.Series, name: str) -> Any:
        """Values of a column of a long file: float32, or categories."""
        number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        if not self.words or number:
            return self._numbers(column, name)
        place, labels = pd.factorize(column)
        nothing = np.array([is_nothing(label) for label in labels], dtype=bool)
        numbers = [not empty and _is_number(label) for label, empty in zip(labels, nothing, strict=True)]
        if all(np.array(numbers, dtype=bool) | nothing):
            return self._numbers(column, name)
        if any(numbers):
            odd = next(n for n, one in enumerate(numbers) if not one and not nothing[n])
            at = column.index.to_numpy()[int(np.argmax(place == odd))]
            raise ValueError(f"{self.row} {at}: {name} is {labels[odd]!r}; the column's other cells are numbers")
        texts = pd.Series(column.to_numpy(dtype=object)).map(
            lambda cell: None if is_nothing(cell) else str(cell).strip()
        )
        return pd.Categorical(texts)

    def _numbers(self, column: pd.Series, name: str) -> npt.NDArray[np.float32]:
        """Numbers of a column, NaN where nothing stands; infinite ones are refused."""
        try:
            read = read_numbers(column, f"{self.row} {{}}: {name}", self.comma)
        except ValueError as error:
            raise ValueError(f"{error}; or name the columns that are wanted (columns: [...])") from None
        with np.errstate(over="ignore"):
            out = read.to_numpy(dtype=np.float32)
        infinite = np.isinf(out)
        if infinite.any():
            at = int(np.argmax(infinite))
            raise ValueError(
                f"{self.row} {column.index[at]}: {name} is {read.iloc[at]} ({int(infinite.sum())} such cells); leave "
                "empty what is not known, and give numbers below 3e38"
            )
        return out


def _index(days: pd.Index, codes: pd.Index, day: Ints, code: Ints) -> pd.MultiIndex:
    """Index by (datetime, instrument) from labels and the place of each row's among them."""
    levels: Any = [days, codes]
    places: Any = [day, code]
    return pd.MultiIndex(levels=levels, codes=places, names=NAMES, verify_integrity=False)


def _finished(files: list[_File]) -> pd.DataFrame:
    """Put tables of the same columns below each other, sort them, and refuse a stock and day twice."""
    frame = files[0].frame if len(files) == 1 else _stacked([file.frame for file in files])
    index: Any = frame.index
    day, code = (np.asarray(codes, dtype=np.int64) for codes in index.codes)
    told, rows = [], np.arange(len(frame))
    if _PERIOD in frame:
        rows = _latest(day, code, frame[_PERIOD].to_numpy())
        if left := len(frame) - len(rows):
            told.append(f"{left} rows are of an older period than one that was known by then: left out")
    key = day[rows] * len(index.levels[1]) + code[rows]
    if not (np.diff(key) > 0).all():
        order = key.argsort(kind="stable")
        rows, key = rows[order], key[order]
        same = np.flatnonzero(np.diff(key) == 0)
        if len(same):
            at = int(rows[same[0] + 1])
            place = f"{files[0].row} {files[0].rows[at]}" if len(files) == 1 else _listed(files)
            day_of = index.levels[0][day[at]]
            what = f"{index.levels[1][code[at]]} has a second row{'' if day_of == EVER else f' of {day_of.date()}'}"
            cure = "" if files[0].undated else ", or name the column of the period that each is about (period:)"
            raise ValueError(f"{place}: {what}; keep one{cure}")
    moved = len(rows) < len(frame) or not (rows == np.arange(len(rows))).all()
    out = frame.iloc[rows] if moved else frame
    out = out.drop(columns=_PERIOD, errors="ignore")
    out.attrs = {"told": told}
    return out


def _stacked(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Put tables below each other, columns of categories among them."""
    names, first = list(parts[0].columns), parts[0]
    out: dict[str, Any] = {}
    for name in names:
        columns = [part[name] for part in parts]
        kinds = [isinstance(column.dtype, pd.CategoricalDtype) for column in columns]
        if any(kinds) and not all(kinds):
            raise ValueError(f"{name} holds text in one file and numbers in another; write it alike")
        if all(kinds):
            out[name] = pd.api.types.union_categoricals([column.array for column in columns])
        else:
            out[name] = np.concatenate([column.to_numpy() for column in columns])
    index = first.index.append([part.index for part in parts[1:]])
    return pd.DataFrame(out, index)


def _latest(day: Ints, code: Ints, period: npt.NDArray[Any]) -> Ints:
    """Rows whose period is the latest that the stock has published by then; equal ones of a day stay both."""
    order = np.lexsort((period, day, code))
    past = pd.Series(period[order]).groupby(code[order]).cummax().to_numpy()
    kept = order[period[order] >= past]
    key = pd.Series(day[kept] * (code.max() + 1) + code[kept])
    latest = pd.Series(period[kept]).groupby(key.to_numpy()).transform("max").to_numpy()
    return np.asarray(kept[period[kept] == latest], dtype=np.int64)


def _day(what: str, value: Any) -> pd.Timestamp:
    """Read a day; a time of day up to the close is allowed."""
    moment = read_moment(what, value)
    if moment - moment.normalize() > CLOSE:
        raise ValueError(
            f"{what} is {value}, after the close at 15:00; give days, and say by lag when a value is known (0: at the "
            "close of its day, 1: at that of the next trading day)"
        )
    return moment.normalize()


def _code(what: str, value: Any) -> str:
    """Read a code; text without any digit, of a market of one's own, stays as it is."""
    if isinstance(value, str) and not any(map(str.isdigit, value)) and value.strip():
        return value.strip()
    return read_code(what, value)


def _is_number(label: Any) -> bool:
    try:
        read_number("", label)
    except ValueError:
        return False
    return True


def _listed(files: Sequence[_File]) -> str:
    return ", ".join(one.file.name for one in files[:6]) + (", ..." if len(files) > 6 else "")
