"""The option `frames`: files of the user's own factors, when they are known, and for how long they hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.frames.read import Columns, Paths, frame_files, read_frames
from qlib_ext.options import argument_names, check_number, refuse_unknown

ASSUMED = 1  # lag where none is told: published after the close of its day


@dataclass(frozen=True)
class Frame:
    """Files of factors, see `read_frame`, and when they are known, see `known_grids`.

    Args:
        path: as for `read_frame`.
        lag: trading days from a value's date to the first close at which it is known, or column -> lag. 0 is for what
            is computed of bars up to the close of its date; 1 for what is published in its evening. None: 1.
        columns: as for `read_frame`.
        max_age: trading days that a value is carried on beyond the one on which it becomes known, or column -> days. 0:
            a factor of each day; 250 for yearly reports.
        date: as for `read_frame`.
        period: as for `read_frame`.

    >>> Frame.of([{"path": "reports.csv", "lag": 1, "max_age": 250, "columns": ["roe"]}])[0].days("max_age", "roe")
    250
    """

    path: Paths
    lag: int | Mapping[str, int] | None = None
    columns: Columns = None
    max_age: int | Mapping[str, int] = 0
    date: str | None = None
    period: str | None = None

    def __post_init__(self) -> None:
        """Check the options. Raises ValueError naming what is allowed."""
        for name in ("lag", "max_age"):
            option = getattr(self, name)
            for column, days in option.items() if isinstance(option, Mapping) else [("", option)]:
                if days is not None or column or name == "max_age":
                    what = f"{self.told}: {name}{f' of {column}' if column else ''}"
                    check_number(what, days, "[0, inf)", whole=True, hint=" (trading days)")
        for name in ("date", "period"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{self.told}: {name} is {getattr(self, name)!r}; wanted is the name of a column")
        named = self.columns.items() if isinstance(self.columns, Mapping) else [(n, n) for n in self.columns or ()]
        if isinstance(self.columns, str) or not all(isinstance(text, str) for pair in named for text in pair):
            raise ValueError(
                f"{self.told}: columns is {self.columns!r}; wanted are names, [roe, growth], or {{roe: ROE}}"
            )

    @classmethod
    def of(cls, value: Any) -> list["Frame"]:
        """Read the option `frames`: a file, a mapping of options, or a list of them; null: none.

        Raises: TypeError for an unknown option, ValueError for a value that is not allowed.
        """
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        out = []
        for one in several if value is not None else ():
            if isinstance(one, cls):
                out.append(one)
                continue
            if isinstance(one, str | Path):
                one = {"path": one}
            if not isinstance(one, Mapping) or "path" not in one:
                raise ValueError(f"frames: {one!r}; wanted are options with a path, such as {{path: own.csv, lag: 1}}")
            refuse_unknown("frames", one, argument_names(cls))
            out.append(cls(**one))
        return out

    @property
    def told(self) -> str:
        """Name for messages."""
        first = self.path if isinstance(self.path, str | Path) else next(iter(self.path or ()), "")
        return f"frames: {Path(str(first)).name}"

    def days(self, option: str, column: str) -> int:
        """Give `lag` or `max_age` of a column."""
        value = getattr(self, option)
        if isinstance(value, Mapping):
            return int(value[column])
        return ASSUMED if value is None else int(value)

    def read(self, home: Sequence[Path] = ()) -> list[pd.DataFrame]:
        """Read the files, a table for each set of columns; `home` as for `frame_files`.

        Raises: as `read_frame`, and ValueError where `lag` or `max_age` are not of the columns.
        """
        files = [str(file) for file in frame_files(self.path, home)]
        tables = read_frames(files, columns=self.columns, date=self.date, period=self.period)
        names = [str(name) for table in tables for name in table]
        for option in ("lag", "max_age"):
            if isinstance(value := getattr(self, option), Mapping) and set(value) != set(names):
                raise ValueError(f"{self.told}: {option} is of {', '.join(value)}, the columns are {', '.join(names)}")
        return tables
