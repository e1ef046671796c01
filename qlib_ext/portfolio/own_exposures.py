"""Exposures of the user's own: numbers or categories of stocks, from a frame or a file."""

from pathlib import Path
from typing import Any

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
    refuse_taken(map(str, frame.columns))
    kinds = {name: column.astype(object) for name, column in frame.select_dtypes("category").items()}
    columns = {str(name): kinds.get(name, column) for name, column in frame.items()}
    return {name: column.unstack().sort_index().ffill() for name, column in columns.items()}
