"""Files of a provider folder, read without qlib.

A series is a file `features/<code>/<field>.day.bin`: little-endian float32, the calendar's position of its first day,
then values.
"""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.spelling import read_day

Values = npt.NDArray[np.float32]
SIDE = "qlib_ext"  # folder in a provider's, of what qlib does not know
SIDE_FILES = ("names", "st", "industry")


def read_lines(file: Path) -> list[str]:
    """Read the lines of a calendar or a list, which qlib reads as UTF-8.

    Raises: OSError, and ValueError for another encoding.
    """
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}): save it so, without a BOM") from error


@cache
def plain_day(what: str, text: str) -> pd.Timestamp:
    """Read a day of a calendar or a list, as qlib reads it.

    Raises: ValueError for no day, and for one that qlib would read as another or with a time of day.
    """
    day = read_day(what, text)
    try:
        own = pd.Timestamp(text)
    except ValueError:
        own = None
    if own != day:
        raise ValueError(f"{what} is {text!r}, which qlib reads as {own or 'no day'}; write {day.date()}")
    return day


def read_calendar(folder: Path) -> pd.DatetimeIndex:
    """Read the trading days of a provider folder, as they stand.

    Raises: FileNotFoundError where it has no daily calendar, ValueError for an empty one, and for what is no date.
    """
    file = folder / "calendars" / "day.txt"
    lines = [(n, line.strip()) for n, line in enumerate(read_lines(file), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{file} is empty: there is no trading day")
    return pd.DatetimeIndex([plain_day(f"{file}, line {n}", line) for n, line in lines]).as_unit("ns")


def read_numbers(path: Path | str) -> Values | None:
    """Read all numbers of a series' file, its first position included; None where there is no file."""
    try:
        return np.fromfile(path, dtype="<f4")
    except FileNotFoundError:
        return None


def read_series(path: Path | str) -> tuple[int, Values]:
    """Read a series: the calendar's position of its first value, and the values, none without a file or in it.

    Raises: ValueError for a first number that is no position.
    """
    numbers = read_numbers(path)
    if numbers is None or not len(numbers):
        return 0, np.empty(0, dtype="<f4")
    if not (numbers[0] >= 0 and numbers[0] == np.floor(numbers[0])):
        raise ValueError(
            f"{path} begins with {numbers[0]}, not with the position of its first day in the calendar: download or "
            "dump the data again (qlib-ext check-data names all such files)"
        )
    return int(numbers[0]), numbers[1:]


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


def side_file(folder: str | Path, name: str) -> Path | None:
    """Name a table beside the bars, `qlib_ext/<name>.csv` in a provider folder; None where it is not there.

    Args:
        folder: the provider's.
        name: names (columns code, name), st (code, start, end: spells of special treatment) or industry (code,
            industry, perhaps start).

    Raises: ValueError for another name.

    >>> print(side_file(provider, "names"))
    None
    """
    if name not in SIDE_FILES:
        raise ValueError(f"side_file: there is no {name!r}; allowed: {', '.join(SIDE_FILES)}")
    file = Path(folder).expanduser() / SIDE / f"{name}.csv"
    return file if file.is_file() else None
