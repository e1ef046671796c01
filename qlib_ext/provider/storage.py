"""Raw fields of a provider as day x stock grids: qlib's binary files read directly, any other storage through qlib.

`D.features` starts a process and evaluates an expression for each stock; for plain fields of a whole market that is
minutes instead of seconds. qlib is imported where it is used, so that files can be read without it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.provider.files import fill_row, first_known, read_series


def calendar(start: Any = None, end: Any = None) -> pd.DatetimeIndex:
    """List the trading days that qlib's provider has, from start to end; None is open."""
    from qlib.data import D

    return pd.DatetimeIndex(D.calendar(start_time=start, end_time=end, freq="day"))


def read_fields(
    codes: Sequence[str], fields: Sequence[str], start: Any, end: Any, *, lead: int = 0
) -> dict[str, pd.DataFrame]:
    """Read plain fields such as "$close".

    Args:
        codes: N codes.
        fields: names with their $.
        start: first day.
        end: last day.
        lead: trading days to read before `start`, as far as the calendar has them.

    Returns:
        name -> (days, N) float32 frame; NaN where not known, all NaN where the provider lacks the field.

    Raises: ValueError where the span has no trading day.
    """
    every = calendar()
    begin = int(every.searchsorted(pd.Timestamp(start)))
    stop = int(every.searchsorted(pd.Timestamp(end), side="right"))
    if begin >= stop:
        raise ValueError(f"no trading day from {start} to {end}: the calendar has {every[0]} to {every[-1]}")
    begin = max(0, begin - lead)
    folder, days = binary_folder(codes), every[begin:stop]
    if folder is None:
        return dict(zip(fields, wide(list(codes), list(fields), days[0], days[-1]), strict=True))
    return {f: pd.DataFrame(field_grid(folder, codes, f, begin, stop), days, list(codes)) for f in fields}


def read_days(codes: Sequence[str], fields: Sequence[str], days: pd.DatetimeIndex) -> dict[str, pd.DataFrame]:
    """Read plain fields on some days of the calendar only: name -> (days, N) float32 frame, as `read_fields`."""
    folder, at = binary_folder(codes), calendar().get_indexer(days)
    if folder is None:
        each = [read_fields(codes, fields, day, day) for day in days]
        return {field: pd.concat([one[field] for one in each]) for field in fields}
    out = {field: np.full((len(days), len(codes)), np.nan, dtype=np.float32) for field in fields}
    for field, grid in out.items():
        for n, code in enumerate(codes):
            first, values = read_series(series_file(folder, code, field))
            inside = (at >= first) & (at < first + len(values))
            grid[inside, n] = values[at[inside] - first]
    return {field: pd.DataFrame(grid, days, list(codes)) for field, grid in out.items()}


def first_closes(codes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Find the calendar's position (N,) of each stock's first finite close; the calendar's length where it has none."""
    folder, count = binary_folder(codes), len(calendar())
    series = (_slots(c) if folder is None else read_series(series_file(folder, c, "$close")) for c in codes)
    return np.array([first_known(first, values, count) for first, values in series], dtype=np.int64)


def ages(first: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Trading days since listing (P, N) at the calendar's positions `rows` (P,), by those of the `first_closes` (N,).

    1 on the day of the first close, below 1 before it; inf for stocks that trade on the calendar's first day, which are
    older than it.
    """
    return np.where(first == 0, np.inf, np.asarray(rows)[:, None] - first + 1.0)


def listed_days(instruments: list[str], days: pd.DatetimeIndex) -> npt.NDArray[np.float64]:
    """Trading days since listing (D, N), 1 on the day of the first close; inf for stocks older than the calendar."""
    return ages(first_closes(instruments), calendar().get_indexer(days))


def _slots(code: str) -> tuple[int, npt.NDArray[np.float32]]:
    """Read a stock's closes through qlib's storage interface, as `read_series`."""
    store = storage_of(code, "$close")
    if store.start_index is None:
        return 0, np.empty(0, dtype=np.float32)
    return store.start_index, store[store.start_index : store.end_index + 1].to_numpy(np.float32)


def wide(instruments: list[str], expressions: list[str], start: Any, end: Any) -> list[pd.DataFrame]:
    """Load expressions as day x instrument frames; a field that the provider lacks is all NaN."""
    from qlib.data import D

    frame, days = D.features(instruments, expressions, start, end), calendar(start, end)
    return [frame[e].unstack("instrument").reindex(index=days, columns=instruments) for e in expressions]


def storage_of(code: str, field: str) -> Any:
    """Open qlib's storage of a stock's field (with its $)."""
    from qlib.data.data import FeatureD
    from qlib.utils import code_to_fname

    return FeatureD.backend_obj(instrument=code_to_fname(code), field=field[1:], freq="day")


def binary_folder(codes: Sequence[str]) -> Path | None:
    """Tell the folder of the features where they are qlib's own binary files, else None."""
    from qlib.data.data import FeatureD
    from qlib.data.storage.file_storage import FileFeatureStorage

    if not codes or not hasattr(FeatureD, "backend_obj"):
        return None
    sample = storage_of(codes[0], "$close")
    return Path(sample.uri).parents[1] if type(sample) is FileFeatureStorage else None


def field_grid(folder: Path, codes: Sequence[str], field: str, begin: int, stop: int) -> npt.NDArray[np.float32]:
    """Read one field at the calendar's positions begin to stop - 1, (stop - begin, N) float32, NaN where not known."""
    out = np.full((len(codes), stop - begin), np.nan, dtype=np.float32)
    for row, code in zip(out, codes, strict=True):
        fill_row(row, begin, *read_series(series_file(folder, code, field)))
    return out.T


def series_file(folder: Path, code: str, field: str) -> Path:
    """Name the file of a stock's field (with its $) in the folder of the features."""
    from qlib.utils import code_to_fname

    return folder / code_to_fname(code).lower() / f"{field[1:].lower()}.day.bin"
