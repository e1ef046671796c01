"""Raw fields of a provider as day x stock grids: qlib's binary files read directly, any other storage through qlib.

`D.features` starts a process and evaluates an expression for each stock; for plain fields of a whole market that is
minutes instead of seconds. qlib is imported where it is used, so that files can be read without it.
"""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.provider.files import fill_row, first_known, read_series, side_file
from qlib_ext.spelling import read_csv

Positions = npt.NDArray[np.int64]
LONGEST_HALT = 250  # trading days


def calendar(start: Any = None, end: Any = None) -> pd.DatetimeIndex:
    """List the trading days that qlib's provider has, from start to end; None is open."""
    from qlib.data import D

    return pd.DatetimeIndex(D.calendar(start_time=start, end_time=end, freq="day"))


def provider_folders() -> list[Path]:
    """List the folders that qlib was started on, one a frequency; files of one's own may lie in them."""
    from qlib.config import C

    return [Path(str(uri)).expanduser() for uri in C.dpm.provider_uri.values()]


def own_side_file(name: str) -> Path | None:
    """Name a table beside the bars of the provider that qlib was started on, as `side_file`; the log tells of it once.

    None before qlib is started.
    """
    from qlib.config import C

    found = (side_file(folder, name) for folder in provider_folders()) if C.registered else iter(())
    file = next((file for file in found if file is not None), None)
    if file is not None:
        _tell_side(file)
    return file


@cache
def _tell_side(file: Path) -> None:
    from qlib.log import get_module_logger

    get_module_logger("qlib_ext.provider").info(f"{file} is used, which lies beside the bars")


def spells_of(st: Any) -> Any:
    """Give spells of special treatment: those of an option, False: none, None: the provider's, where it has them."""
    return None if st is False else own_side_file("st") if st is None else st


def own_names() -> dict[str, str]:
    """Read the stocks' names, code -> name, of the provider that qlib was started on; none where it has none."""
    file = own_side_file("names")
    if file is None:
        return {}
    table = read_csv(file, ["code", "name"])
    return dict(zip(table["code"], table["name"], strict=True))


def future_days(day: pd.Timestamp) -> pd.DatetimeIndex:
    """List the trading days after a day; beyond the calendar those of calendars/day_future.txt, where it is there."""
    from qlib.config import C
    from qlib.data import D

    after = calendar()[calendar() > day]
    if len(after) or not (Path(C.dpm.get_data_uri("day")) / "calendars" / "day_future.txt").is_file():
        return after
    coming = pd.DatetimeIndex(D.calendar(freq="day", future=True))
    return coming[coming > day]


def sessions_after(day: pd.Timestamp) -> pd.DatetimeIndex:
    """List the sessions of Shanghai's exchange after a day, by `exchange_calendars`; none where it is not installed.

    It knows the holidays as far as the exchange has announced them to its version: to the end of a year.
    """
    try:
        from exchange_calendars import get_calendar
    except ImportError:
        return pd.DatetimeIndex([])
    sessions = pd.DatetimeIndex(get_calendar("XSHG").sessions)
    return sessions[sessions > day]


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


def filled_days(close: npt.ArrayLike, volume: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Tell (D, N) days with a price but no trade: suspensions that a provider has filled with the price before.

    A stock trades on a day with a close and a volume above 0; where none of its volumes (D,) is known, with a close.
    """
    price, traded = np.asarray(close), np.asarray(volume)
    with np.errstate(invalid="ignore"):
        return np.isfinite(price) & ~(traded > 0) & np.isfinite(traded).any(axis=0)


def only_traded(fields: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Make `filled_days` NaN in all fields but $factor, as most providers have them; $close and $volume are needed."""
    filled = filled_days(fields["$close"], fields["$volume"])
    if not filled.any():
        return dict(fields)
    return {name: frame if name == "$factor" else frame.mask(filled) for name, frame in fields.items()}


def read_traded(
    codes: Sequence[str], fields: Sequence[str], start: Any, end: Any, *, lead: int = 0
) -> dict[str, pd.DataFrame]:
    """Read plain fields as `read_fields` does, $close and $volume among them, and only on days with a trade."""
    needed = list(dict.fromkeys([*fields, "$close", "$volume"]))
    return only_traded(read_fields(codes, needed, start, end, lead=lead))


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


def listings(codes: Sequence[str]) -> tuple[Positions, Positions]:
    """Find the calendar's positions (N,), (N,) of each stock's first and last listed day.

    The first is that of the first traded close (see `first_listed`), the calendar's length where there is none. The
    last is the end of the provider's list of all stocks, or the last traded close where that is later; the calendar's
    end where the list does not tell: it names the stock to its own end, or not at all.
    """
    folder, days, spells = binary_folder(codes), calendar(), _spells()
    open_end = max((stop for spans in spells.values() for _, stop in spans), default=None)
    known, last = np.full(len(codes), len(days)), np.full(len(codes), len(days) - 1)
    stops: list[Any] = [max((stop for _, stop in spells.get(code, [])), default=open_end) for code in codes]
    for n, code in enumerate(codes):
        begin, values = _traded_closes(code, folder)
        known[n] = first_known(begin, values, len(days))
        if stops[n] != open_end:
            real = np.flatnonzero(np.isfinite(values))
            final = begin + int(real[-1]) if len(real) else -1
            last[n] = max(int(days.searchsorted(stops[n], side="right")) - 1, final)
    return listed_from(codes, known, spells), last


def listed_from(codes: Sequence[str], known: Positions, spells: Any = None) -> Positions:
    """Find the calendar's positions (N,) of each stock's listing, from those of its first traded close."""
    days, spells = calendar(), _spells() if spells is None else spells
    starts = pd.DatetimeIndex([min((start for start, _ in spells.get(code, [])), default=days[0]) for code in codes])
    listed = np.where([bool(spells.get(code)) for code in codes], days.searchsorted(starts), -1)
    return np.array([first_listed(int(a), int(b)) for a, b in zip(known, listed, strict=True)], dtype=np.int64)


def _spells() -> dict[str, list[tuple[pd.Timestamp, pd.Timestamp]]]:
    """Spells of the provider's list of all stocks, cut to the calendar by qlib; none where there is no such list."""
    from qlib.data import D

    try:
        spells: dict[str, list[tuple[pd.Timestamp, pd.Timestamp]]] = D.list_instruments(D.instruments("all"))
    except ValueError:
        return {}
    return spells


def first_listed(first: int, listed: int) -> int:
    """Tell the calendar's position of a stock's listing from those of its first close and of its list's start.

    A stock that the list names from the calendar's first day is older than the calendar, though it be suspended then:
    it is no new listing when it trades again. That a stock is first offered on that very day is not told apart. Where
    its first close is later by more than `LONGEST_HALT` days the list is one that says nothing of listings.
    """
    return 0 if listed == 0 and first <= LONGEST_HALT else first


def ages(first: Positions, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Trading days since listing (P, N) at the calendar's positions `rows` (P,), by that of the `listings` (N,).

    1 on the day of the first close, below 1 before it; inf for stocks listed on the calendar's first day, which are
    older than it.
    """
    return np.where(first == 0, np.inf, np.asarray(rows)[:, None] - first + 1.0)


def listed_days(instruments: list[str], days: pd.DatetimeIndex) -> npt.NDArray[np.float64]:
    """Trading days since listing (D, N), 1 on the day of the first close; inf for stocks older than the calendar."""
    return ages(listings(instruments)[0], calendar().get_indexer(days))


def _traded_closes(code: str, folder: Path | None) -> tuple[int, npt.NDArray[np.float32]]:
    """Read a stock's closes, NaN on `filled_days`, and the calendar's position of the first."""
    close, volume = (
        _slots(code, field) if folder is None else read_series(series_file(folder, code, field))
        for field in ("$close", "$volume")
    )
    return traded_closes(close, volume)


def traded_closes(
    close: tuple[int, npt.NDArray[np.float32]], volume: tuple[int, npt.NDArray[np.float32]]
) -> tuple[int, npt.NDArray[np.float32]]:
    """Give closes with NaN on `filled_days`; each with the calendar's position of its first, as `read_series`."""
    begin, closes = close
    traded = np.full_like(closes, np.nan)
    fill_row(traded, begin, *volume)
    return begin, np.where(filled_days(closes, traded), np.nan, closes)


def _slots(code: str, field: str) -> tuple[int, npt.NDArray[np.float32]]:
    """Read a stock's field through qlib's storage interface, as `read_series`."""
    store = storage_of(code, field)
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
    return _stock_folder(folder, code) / f"{field[1:].lower()}.day.bin"


@lru_cache(maxsize=20_000)
def _stock_folder(folder: Path, code: str) -> Path:
    from qlib.utils import code_to_fname

    return folder / str(code_to_fname(code)).lower()
