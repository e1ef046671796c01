"""A provider folder read file by file, without qlib, so that broken files can be told.

Legend: `D` days checked, `N` stocks of a block.
"""

import os
import struct
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.check_data.table import REBUILD, BoolArray, Check, FloatArray, Tally
from qlib_ext.provider import (
    ages,
    fill_row,
    filled_days,
    first_known,
    first_listed,
    plain_day,
    read_calendar,
    read_lines,
    read_numbers,
)
from qlib_ext.rules import is_a_share, is_index, price_limit

Span = tuple[str, pd.Timestamp, pd.Timestamp]

FOREVER = pd.Timestamp("2200-01-01")  # of a list's last days, such as 9999-12-31
BARS = 20  # of a stock, on which every field that it has is known somewhere
FIELDS = ("open", "high", "low", "close", "volume", "amount", "vwap", "factor", "change")


FILES: dict[str, Check] = {
    "folder_case": Check("error", "qlib reads folders and files in lower case: rename them (sh600000/close.day.bin)"),
    "folder_twice": Check("error", "keep one folder: qlib reads the one in lower case"),
    "file_length": Check("error", f"the file is cut off, empty or longer than the calendar: {REBUILD}"),
    "file_start": Check("error", f"the first value must be the position of the first day in the calendar: {REBUILD}"),
    "field_span": Check("warning", "a stock's fields should cover the same days: dump them again together"),
    "no_price_field": Check("error", "features need $open, $high, $low, $close and $volume: add the files"),
    "no_factor": Check("warning", "without $factor lots and limit prices are only approximate: dump it"),
    "no_vwap": Check("warning", "VWAP0 of Alpha158 will be 0 everywhere: add $vwap, or leave the feature out"),
    "no_change": Check("warning", "qlib's own exchange needs it for its limits: dump it, or use AShareExchange"),
    "no_amount": Check("info", "turnover is then $close * $volume, which must be in yuan"),
}


@dataclass(frozen=True)
class Provider:
    """A provider folder: calendar as it stands, upper-case code -> feature folder, list -> its spans."""

    folder: Path
    days: pd.DatetimeIndex
    places: dict[str, Path]
    lists: dict[str, list[Span]]


@dataclass(frozen=True)
class Block:
    """Bars of some stocks, field -> (D, N) float64, NaN where not known; absent fields are all NaN.

    `days` (D,); `offset`: position of the first of them in the calendar; `first` (N,) calendar position of a
    stock's first close, 0 where it is older than the calendar (some dumps pad a series back to its first day).
    """

    codes: list[str]
    days: pd.DatetimeIndex
    offset: int
    first: npt.NDArray[np.int64]
    fields: dict[str, FloatArray]

    @cached_property
    def priced(self) -> BoolArray:
        """(D, N): the close is a positive number."""
        close = self.fields["close"]
        return np.isfinite(close) & (close > 0)

    @cached_property
    def trades(self) -> BoolArray:
        """(D, N): priced, and no suspension that is filled; an index needs no volume."""
        stocks = np.array([not is_index(code) for code in self.codes])
        return self.priced & ~(filled_days(self.fields["close"], self.fields["volume"]) & stocks)

    @cached_property
    def close(self) -> FloatArray:
        """(D, N) close on days with a trade, else NaN."""
        return np.where(self.trades, self.fields["close"], np.nan)

    @cached_property
    def value(self) -> FloatArray:
        """(D, N) close times volume."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.close * self.fields["volume"]

    @cached_property
    def raw_value(self) -> FloatArray:
        """(D, N) close over factor times volume."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self.value / np.where(self.fields["factor"] > 0, self.fields["factor"], np.nan)

    def ratio(self, *, raw: bool) -> FloatArray:
        """(D, N) $amount over `value` or `raw_value`, which tells the units; NaN where it is not finite."""
        value = self.raw_value if raw else self.value
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            ratio = self.fields["amount"] / np.where(value > 0, value, np.nan)
        return np.where(np.isfinite(ratio), ratio, np.nan)

    @cached_property
    def before(self) -> FloatArray:
        """(D, N) last close traded before the day."""
        return pd.DataFrame(self.close).ffill().shift(1).to_numpy()

    @cached_property
    def returns(self) -> FloatArray:
        """(D, N) close over the last one traded, less 1."""
        return self.close / self.before - 1.0

    @cached_property
    def last(self) -> npt.NDArray[np.int64]:
        """(N,) row of the last bar, -1 without any."""
        return np.where(self.trades.any(axis=0), len(self.days) - 1 - self.trades[::-1].argmax(axis=0), -1)

    @cached_property
    def begin(self) -> npt.NDArray[np.int64]:
        """(N,) row of the first bar, D without any."""
        return np.where(self.trades.any(axis=0), self.trades.argmax(axis=0), len(self.days))

    @cached_property
    def limit(self) -> FloatArray:
        """(D, N) price limit by board, date and age; inf on free days, NaN where no A share's rule is known."""
        shares = [n for n, code in enumerate(self.codes) if is_a_share(code)]
        age = ages(self.first, self.offset + np.arange(len(self.days)))
        out = np.full(self.close.shape, np.nan)
        if shares:
            out[:, shares] = price_limit([self.codes[n] for n in shares], self.days, listed_days=age[:, shares])
        return out


def open_provider(folder: Path, tally: Tally, names: Collection[str] | None = None) -> Provider:
    """Read calendar, lists and the names of the feature folders; lists of other names (None: none are) go untold.

    Raises: ValueError where the folder is no daily qlib provider.
    """
    missing = [name for name in ("calendars/day.txt", "instruments", "features") if not (folder / name).exists()]
    if missing:
        raise ValueError(
            f"{folder} has no {', '.join(missing)}: give a qlib provider folder (with calendars/, instruments/ and "
            "features/) by --provider-uri or QLIB_EXT_PROVIDER_URI"
        )
    days = read_calendar(folder)
    places: dict[str, Path] = {}
    twice: list[str] = []
    for place in sorted(p for p in (folder / "features").iterdir() if p.is_dir()):
        code = place.name.upper()
        if code in places:
            twice.append(place.name)
        if code not in places or place.name == place.name.lower():
            places[code] = place
    tally.each("folder_twice", twice, len(places))
    lists = {
        file.stem: read_list(file, tally if names is None or file.stem in names else Tally())
        for file in sorted((folder / "instruments").glob("*.txt"))
    }
    return Provider(folder, days, places, lists)


def read_list(file: Path, tally: Tally) -> list[Span]:
    """Read the spans of a list; lines that are none become findings."""
    spans: list[Span] = []
    wrong: list[str] = []
    small: list[str] = []
    lines = [(n, line.lstrip("\ufeff")) for n, line in enumerate(read_lines(file), 1) if line.strip()]
    for n, line in lines:
        code, first, last = [*line.strip().split("\t"), "", "", ""][:3]
        try:
            start, end = (min(plain_day(*day), FOREVER) for day in (("first day", first), ("last day", last)))
            if end < start:
                raise ValueError("ends before it starts")
        except ValueError as error:
            reason = str(error) if "\t" in line.strip() else "has no tabs"
            wrong.append(f"{file.name}, line {n}: {line.strip()!r} {reason}")
            continue
        spans.append((code.upper(), start, end))
        if code != code.upper():
            small.append(f"{file.name}, line {n}: {code}")
    tally.each("list_line", wrong, len(lines))
    tally.each("code_case", small, len(lines))
    tally.each("list_name", [file.name] if _in_capitals(file) else [], 1)
    return spans


def _in_capitals(place: Path) -> bool:
    """Whether qlib, which asks for the name in lower case, does not find it."""
    return place.name != place.name.lower() and not place.with_name(place.name.lower()).exists()


def check_heads(provider: Provider, codes: list[str], tally: Tally) -> None:
    """Check the names of the stocks' folders, and the head and length of each of their files."""
    capitals: list[str] = []
    for place in (provider.places[code] for code in codes):
        if any(map(_in_capitals, [place, *place.glob("[A-Z]*.day.bin")])):
            capitals.append(place.name)
        for name in FIELDS:
            _sound_head(place / f"{name}.day.bin", len(provider.days), tally)
    tally.each("folder_case", capitals, len(codes))


def _sound_head(file: Path, count: int, tally: Tally) -> None:
    """Tell a file whose first number is no position in a calendar of `count` days, or whose length does not fit."""
    try:
        with file.open("rb", buffering=0) as stream:
            head, size = stream.read(4), os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        return
    start = struct.unpack("<f", head)[0] if len(head) == 4 else None
    lost = start is not None and start not in range(count)
    beyond = 0 if lost or start is None else max(int(start) + size // 4 - 1 - count, 0)
    name = f"{file.parent.name}/{file.name}"
    tally.add("file_start", lost, 1, f"{name} starts at {start}; the calendar has {count} days")
    wrong = size % 4 != 0 or size < 8 or beyond > 0
    tally.add("file_length", wrong, 1, f"{name}: {size} bytes, {beyond} values beyond the calendar")


def sound_series(file: Path, count: int) -> tuple[int, npt.NDArray[np.float32]] | None:
    """Start and values of a file in a calendar of `count` days, cut to it; None where it is absent or unusable."""
    raw = read_numbers(file)
    if raw is None or len(raw) < 2 or raw[0] not in range(count):
        return None
    return int(raw[0]), raw[1 : 1 + count - int(raw[0])]


def read_block(provider: Provider, codes: list[str], begin: int, stop: int, tally: Tally) -> Block:
    """Read all fields of some stocks at the calendar's positions begin to stop - 1.

    A series without a finite value is missing, as one without a file is; so is one that has none on these days, though
    the stock has bars on `BARS` of them.
    """
    shape, count = (len(codes), stop - begin), len(provider.days)
    grids = {name: np.full(shape, np.nan, dtype=np.float32) for name in FIELDS}
    first = np.full(len(codes), count)
    missing: dict[str, list[str]] = {name: [] for name in FIELDS}
    differ: list[str] = []
    old = {code for code, since, _ in provider.lists.get("all", []) if since <= provider.days[0]}
    for n, code in enumerate(codes):
        spans: dict[str, tuple[int, int]] = {}
        closes = 0
        for name in FIELDS:
            series = sound_series(provider.places[code] / f"{name}.day.bin", count)
            if series is None:
                missing[name].append(code)
                continue
            start, values = series
            spans[name] = (start, len(values))
            filled = int(np.isfinite(values).sum())
            if not filled and (name != "change" or closes != 1):  # the first bar of a stock has no return
                missing[name].append(code)
            if name == "close":
                closes, first[n] = filled, first_listed(first_known(start, values, count), 0 if code in old else -1)
            fill_row(grids[name][n], begin, start, values)
        if len(set(spans.values())) > 1:
            differ.append(f"{code}: " + ", ".join(f"{k} {a}+{b}" for k, (a, b) in spans.items()))
    tally.each("field_span", differ, len(codes))
    bars = np.isfinite(grids["close"]).sum(axis=1) >= BARS
    for name, grid in grids.items():
        lost = bars & ~np.isfinite(grid).any(axis=1)
        missing[name] += [codes[n] for n in np.flatnonzero(lost).tolist() if codes[n] not in missing[name]]
    _tell_missing(missing, len(codes), tally)
    fields = {name: grid.T.astype(np.float64) for name, grid in grids.items()}
    return Block(codes, provider.days[begin:stop], begin, first, fields)


def _tell_missing(missing: dict[str, list[str]], of: int, tally: Tally) -> None:
    """Tell the fields that stocks lack."""
    prices = [f"{code} ${name}" for name in ("open", "high", "low", "close", "volume") for code in missing[name]]
    tally.each("no_price_field", prices, 5 * of)
    for name in ("factor", "vwap", "change", "amount"):
        tally.each(f"no_{name}", missing[name], of)
