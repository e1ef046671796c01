"""Raw fields of a provider as day x stock grids: qlib's binary files read directly, any other storage through qlib.

`D.features` starts a process and evaluates an expression for each stock; for plain fields of a whole market that is
minutes instead of seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.data import D
from qlib.data.data import FeatureD
from qlib.data.storage.file_storage import FileFeatureStorage
from qlib.utils import code_to_fname


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
    calendar = pd.DatetimeIndex(D.calendar(freq="day"))
    begin = int(calendar.searchsorted(pd.Timestamp(start)))
    stop = int(calendar.searchsorted(pd.Timestamp(end), side="right"))
    if begin >= stop:
        raise ValueError(f"no trading day from {start} to {end}: the calendar has {calendar[0]} to {calendar[-1]}")
    begin = max(0, begin - lead)
    folder = binary_folder(codes)
    if folder is None:
        frame = D.features(list(codes), list(fields), calendar[begin], calendar[stop - 1])
        days = calendar[begin:stop]
        return {f: frame[f].unstack("instrument").reindex(index=days, columns=list(codes)) for f in fields}
    return {
        field: pd.DataFrame(field_grid(folder, codes, field, begin, stop), calendar[begin:stop], list(codes))
        for field in fields
    }


def read_days(codes: Sequence[str], fields: Sequence[str], days: pd.DatetimeIndex) -> dict[str, pd.DataFrame]:
    """Read plain fields on some days of the calendar only: name -> (days, N) float32 frame, as `read_fields`."""
    calendar = pd.DatetimeIndex(D.calendar(freq="day"))
    folder, at = binary_folder(codes), calendar.get_indexer(days)
    if folder is None:
        parts = [read_fields(codes, fields, day, day) for day in days]
        return {field: pd.concat([part[field] for part in parts]) for field in fields}
    out = {field: np.full((len(days), len(codes)), np.nan, dtype=np.float32) for field in fields}
    for field, grid in out.items():
        for n, code in enumerate(codes):
            first, values = read_series(series_file(folder, code, field))
            inside = (at >= first) & (at < first + len(values))
            grid[inside, n] = values[at[inside] - first]
    return {field: pd.DataFrame(grid, days, list(codes)) for field, grid in out.items()}


def first_closes(codes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Find the calendar's position (N,) of each stock's first finite close; the calendar's length where it has none.

    Some dumps pad a series with NaN back to the calendar's first day: where it begins says nothing of the listing.
    """
    folder, none = binary_folder(codes), len(D.calendar(freq="day"))
    out = np.full(len(codes), none, dtype=np.int64)
    for n, code in enumerate(codes):
        first, values = _slots(code) if folder is None else read_series(series_file(folder, code, "$close"))
        known = np.isfinite(values)
        if known.any():
            out[n] = first + int(known.argmax())
    return out


def ages(first: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Trading days since listing (P, N) at the calendar's positions `rows` (P,), by those of the `first_closes` (N,).

    1 on the day of the first close, below 1 before it; inf for stocks that trade on the calendar's first day, which are
    older than it.
    """
    return np.where(first == 0, np.inf, np.asarray(rows)[:, None] - first + 1.0)


def _slots(code: str) -> tuple[int, npt.NDArray[np.float32]]:
    """Read a stock's closes through qlib's storage interface, as `read_series`."""
    store = FeatureD.backend_obj(instrument=code_to_fname(code), field="close", freq="day")
    if store.start_index is None:
        return 0, np.empty(0, dtype=np.float32)
    return store.start_index, store[store.start_index : store.end_index + 1].to_numpy(np.float32)


def wide(instruments: list[str], expressions: list[str], start: Any, end: Any) -> list[pd.DataFrame]:
    """Load expressions as day x instrument frames; a field that the provider lacks is all NaN."""
    frame = D.features(instruments, expressions, start, end)
    days = D.calendar(start_time=start, end_time=end)
    return [frame[e].unstack("instrument").reindex(index=days, columns=instruments) for e in expressions]


def binary_folder(codes: Sequence[str]) -> Path | None:
    """Tell the folder of the features where they are qlib's own binary files, else None."""
    if not codes or not hasattr(FeatureD, "backend_obj"):
        return None
    sample = FeatureD.backend_obj(instrument=code_to_fname(codes[0]), field="close", freq="day")
    return Path(sample.uri).parents[1] if type(sample) is FileFeatureStorage else None


def field_grid(folder: Path, codes: Sequence[str], field: str, begin: int, stop: int) -> npt.NDArray[np.float32]:
    """Read one field at the calendar's positions begin to stop - 1, (stop - begin, N) float32, NaN where not known."""
    out = np.full((len(codes), stop - begin), np.nan, dtype=np.float32)
    for n, code in enumerate(codes):
        first, values = read_series(series_file(folder, code, field))
        low, high = max(first, begin), min(first + len(values), stop)
        if low < high:
            out[n, low - begin : high - begin] = values[low - first : high - first]
    return out.T


def series_file(folder: Path, code: str, field: str) -> Path:
    """Name the file of a stock's field (with its $) in the folder of the features."""
    return folder / code_to_fname(code).lower() / f"{field[1:].lower()}.day.bin"


def read_series(path: Path) -> tuple[int, npt.NDArray[np.float32]]:
    """Read a file of qlib's storage: the calendar's position of the first value, and the values.

    No values where there is no file, or it is empty.
    """
    try:
        whole = np.fromfile(path, dtype="<f4")
    except FileNotFoundError:
        whole = np.empty(0, dtype="<f4")
    return (int(whole[0]) if len(whole) else 0), whole[1:]
