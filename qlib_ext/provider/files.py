"""Files of a provider folder, read without qlib.

A series is a file `features/<code>/<field>.day.bin`: little-endian float32, the calendar's position of its first day,
then values.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

Values = npt.NDArray[np.float32]


def read_calendar(folder: Path) -> pd.DatetimeIndex:
    """Read the trading days of a provider folder, as they stand.

    Raises: FileNotFoundError where it has no daily calendar, ValueError for an empty one, and for what is no date.
    """
    file = folder / "calendars" / "day.txt"
    try:
        days = pd.DatetimeIndex(pd.to_datetime(file.read_text(encoding="utf-8").split())).as_unit("ns")
    except ValueError as error:
        raise ValueError(f"{file} is no list of ISO dates: {error}") from error
    if not len(days):
        raise ValueError(f"{file} is empty: there is no trading day")
    return days


def read_numbers(path: Path) -> Values | None:
    """Read all numbers of a series' file, its first position included; None where there is no file."""
    try:
        return np.fromfile(path, dtype="<f4")
    except FileNotFoundError:
        return None


def read_series(path: Path) -> tuple[int, Values]:
    """Read a series: the calendar's position of its first value, and the values, none without a file or in it."""
    numbers = read_numbers(path)
    return (0, np.empty(0, dtype="<f4")) if numbers is None or not len(numbers) else (int(numbers[0]), numbers[1:])


def first_known(first: int, values: Values, otherwise: int) -> int:
    """Find the calendar's position of a series' first finite value; `otherwise` where it has none.

    Some dumps pad a series with NaN back to the calendar's first day: where it begins says nothing of the listing.
    """
    finite = np.isfinite(values)
    return first + int(finite.argmax()) if finite.any() else otherwise


def fill_row(row: npt.NDArray[np.floating], begin: int, first: int, values: Values) -> None:
    """Write those values of a series into a row (D,) that lie on it; it begins at the calendar's position `begin`."""
    low, high = max(first, begin), min(first + len(values), begin + len(row))
    if low < high:
        row[low - begin : high - begin] = values[low - first : high - first]
