"""Exposures of the user's own: numbers or categories of stocks, from a frame or a file."""

from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.frames import read_frame
from qlib_ext.portfolio.exposures import refuse_taken
from qlib_ext.rules import read_share


def read_exposures(frame: pd.DataFrame | str | Path | None, option: str) -> dict[str, pd.DataFrame]:
    """Read exposures of the user's: by column, day x instrument, as last known; of one row where they have no days.

    Args:
        frame: numbers or categories (text) by instrument, or by (datetime, instrument), known at the close of the day;
            or a file of them, see `frames.read_frame`; without dates it holds for all days.
        option: that it comes by, named in errors.

    Raises: ValueError for a table that is none, or a column with the name of one of ours, OSError for a file that
        cannot be opened.
    """
    if isinstance(frame, str | Path):
        frame = read_frame(frame, categories=True, undated=True)
        index: Any = frame.index
        for code in index.levels[1]:
            read_share(f"{option}: a code", code)
    if frame is None:
        return {}
    if not isinstance(frame, pd.DataFrame) or frame.empty:
        told = f"is of shape {frame.shape}" if isinstance(frame, pd.DataFrame) else f"is a {type(frame).__name__}"
        raise ValueError(f"{option} {told}; wanted is a table with a column for each exposure")
    if frame.index.has_duplicates:
        raise ValueError(f"{option} has {frame.index[frame.index.duplicated()][0]} twice")
    if not isinstance(frame.index, pd.MultiIndex):
        frame = pd.concat({pd.Timestamp.min: frame})
    elif frame.index.nlevels != 2 or not isinstance(frame.index.levels[0], pd.DatetimeIndex):
        first = frame.index[0]
        raise ValueError(f"{option} is indexed by {first}; wanted is (datetime, instrument), the day as a pd.Timestamp")
    refuse_taken(map(str, frame.columns))
    columns = {str(name): _values(f"{option}: {name}", column) for name, column in frame.items()}
    return {name: column.unstack().sort_index().ffill() for name, column in columns.items()}


def _values(what: str, column: pd.Series) -> pd.Series:
    """Values of a column as float64, or as objects where they are text or categories; NaN where nothing stands.

    Raises: ValueError for anything else, or numbers among text.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype(object)
    there = column.dropna()
    numbers = there.map(lambda value: isinstance(value, Real | np.bool_)) if there.dtype == object else None
    if pd.api.types.is_numeric_dtype(column) or (numbers is not None and numbers.all()):
        return there.astype(np.float64).reindex(column.index)
    texts = there.map(lambda value: isinstance(value, str))
    if not texts.all():
        raise ValueError(
            f"{what} is {there[~texts].iloc[0]!r} at {there[~texts].index[0]}; wanted are numbers, or text"
        )
    return there.astype(object).reindex(column.index)
