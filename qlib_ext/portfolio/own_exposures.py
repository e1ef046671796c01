"""Exposures of the user's own: numbers or categories of stocks, from a frame or a CSV file."""

from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.portfolio.exposures import refuse_taken
from qlib_ext.rules import read_share
from qlib_ext.spelling import is_nothing, read_csv, read_day, read_number


def read_exposures(frame: pd.DataFrame | str | Path | None, option: str) -> dict[str, pd.DataFrame]:
    """Read exposures of the user's: by column, day x instrument, as last known; of one row where they have no days.

    Args:
        frame: numbers or categories (text) by instrument, or by (datetime, instrument), known at the close of the day;
            or a CSV file with the columns code and, where they change, date.
        option: that it comes by, named in errors.

    Raises: ValueError for a table that is none, or a column with the name of one of ours, OSError for a file that
        cannot be opened.
    """
    if isinstance(frame, str | Path):
        table = read_csv(frame, ["code"], optional=["date"])
        codes = [read_share(f"{frame}, line {n}: code", code) for n, code in table["code"].items()]
        index = pd.Index(codes)
        if "date" in table:
            days = [read_day(f"{frame}, line {n}: date", day) for n, day in table["date"].items()]
            index = pd.MultiIndex.from_arrays([pd.DatetimeIndex(days), codes])
        columns = table.drop(columns=list({"code", "date"} & set(table)))
        read = {name: _numbers(f"{frame}, line", name, cells) for name, cells in columns.items()}
        frame = pd.DataFrame(read, columns.index).set_axis(index)
    if frame is None:
        return {}
    if not isinstance(frame, pd.DataFrame) or frame.empty:
        told = f"is of shape {frame.shape}" if isinstance(frame, pd.DataFrame) else f"is a {type(frame).__name__}"
        raise ValueError(f"{option} {told}; wanted is a table with a column for each exposure")
    if frame.index.has_duplicates:
        raise ValueError(f"{option} has {frame.index[frame.index.duplicated()][0]} twice")
    if not isinstance(frame.index, pd.MultiIndex):
        frame = pd.concat({pd.Timestamp.min: frame})
    refuse_taken(map(str, frame.columns))
    return {str(name): column.unstack().sort_index().ffill() for name, column in frame.items()}


def _numbers(where: str, name: Any, column: pd.Series) -> pd.Series:
    """Read a column of text as numbers, or, where none of its cells is one, as categories; empty cells are unknown.

    Raises: ValueError where some cells are numbers and others are not.
    """
    cells = column[[not is_nothing(cell) for cell in column]]
    values, wrong = dict[Any, float](), []
    for line, cell in cells.items():
        try:
            values[line] = read_number(f"{where} {line}: {name}", cell)
        except ValueError as error:
            wrong.append(error)
    if values and wrong:
        raise ValueError(f"{wrong[0]}; the column's other cells are numbers")
    return (pd.Series(values, dtype=float) if values else cells).reindex(column.index)
