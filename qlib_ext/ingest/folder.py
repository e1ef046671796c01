"""A provider folder as it stands, and the next one, which is built beside it and takes its place in one step."""

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.beside import take_place
from qlib_ext.check_data import Tally, open_provider, read_block, spread, stocks_of
from qlib_ext.ingest.series import FIELDS, Last, Series, Units
from qlib_ext.provider import LONGEST_HALT, SIDE, read_series
from qlib_ext.rules import AMOUNT_IN_YUAN, TELLING, VOLUMES, amount_unit, decide, evidence, is_index
from qlib_ext.spelling import read_csv

Spans = list[tuple[str, str, str]]  # code, first day, last day, as they are written

CACHES = ("dataset_cache", "features_cache", "calendars_cache")  # of qlib, which the new days make wrong
LAST = f"{SIDE}/last_bars.csv"
LOOKED_AT = 60  # days and stocks that tell a provider's units


@dataclass
class Standing:
    """What is in a provider folder; nothing at all where there is none yet."""

    folder: Path
    days: pd.DatetimeIndex = field(default_factory=lambda: pd.DatetimeIndex([]))
    places: dict[str, Path] = field(default_factory=dict)
    lists: dict[str, Spans] = field(default_factory=dict)
    last: dict[str, Last] = field(default_factory=dict)
    units: Units = field(default_factory=Units)
    fields: tuple[str, ...] = FIELDS

    @classmethod
    def of(cls, folder: Path) -> "Standing":
        """Look at a folder; one that is empty or not there stands for a new provider.

        Raises: ValueError for one that holds anything else, or whose units are none that can be gone on with.
        """
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return cls(folder)
        provider = open_provider(folder, Tally())
        lists = {file.stem: _spans(file) for file in sorted((folder / "instruments").glob("*.txt"))}
        stocks = stocks_of(provider, None)
        begin = max(len(provider.days) - LOOKED_AT, 0)
        block = read_block(provider, spread(stocks, LOOKED_AT), begin, len(provider.days), Tally())
        there = {
            file.name.split(".")[0] for code in spread(stocks, LOOKED_AT) for file in provider.places[code].iterdir()
        }
        places = {code.upper(): place for code, place in provider.places.items()}
        kept = _kept(folder / LAST, provider.days)
        return cls(folder, provider.days, places, lists, kept, _units(block.fields, folder), tuple(sorted(there)))

    def series(self, code: str, fields: Iterable[str]) -> Series:
        """Read a stock's series of some fields, those that have a value."""
        out = {name: read_series(self.places[code] / f"{name}.day.bin") for name in fields}
        return {name: series for name, series in out.items() if len(series[1])}

    def span(self, code: str) -> tuple[int, int]:
        """Tell the positions of the first and last value of a stock's closes, by the head and the size of the file."""
        file = self.places[code] / "close.day.bin"
        if not file.is_file() or file.stat().st_size < 8:
            return 0, -1
        first = int(np.fromfile(file, dtype="<f4", count=1)[0])
        return first, first + file.stat().st_size // 4 - 2


def _units(fields: Mapping[str, Any], folder: Path) -> Units:
    """Tell a provider's units by its bars.

    Raises: ValueError for raw volumes, and units that are not understood.
    """
    found = evidence({name: fields[name[1:]] for name in TELLING})
    try:
        profile, raw, shares = amount_unit(found) if found["amounts"].sum() > 0 else (decide(found), False, 1.0)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}; import into a new folder, or repair this one (check-data)") from error
    raw = VOLUMES[profile][0] if profile in VOLUMES else raw
    if raw:
        raise ValueError(f"{folder} has raw volumes beside adjusted prices: import into a new folder")
    return Units(shares, AMOUNT_IN_YUAN.get(profile, 1000.0))


def _spans(file: Path) -> Spans:
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [(code.strip(), first.strip(), last.strip()) for code, first, last, *_ in rows]


def _kept(file: Path, days: pd.DatetimeIndex) -> dict[str, Last]:
    """Read what the import before has kept of the last bars, exactly."""
    if not file.is_file():
        return {}
    table = read_csv(file, ["code", "date", "close", "factor", "base"])
    at = days.get_indexer(pd.DatetimeIndex(table["date"]))
    rows = zip(table["code"], at, table["close"], table["factor"], table["base"], strict=True)
    return {
        code: Last(int(place), float(close), float(factor), float(base) if base else None)
        for code, place, close, factor, base in rows
    }


class Build:
    """The next provider folder, beside the one that it takes the place of; gone where it did not."""

    def __init__(self, standing: Standing) -> None:
        self.standing, target = standing, standing.folder
        self.folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.import")
        for left in target.parent.glob(f".{target.name}.{'[0-9a-f]' * 12}.import"):
            shutil.rmtree(left, ignore_errors=True)  # of imports that were killed: the lock is ours
        self.touched: set[str] = set()
        (self.folder / "features").mkdir(parents=True)

    def write_series(self, code: str, series: Series) -> None:
        """Write a stock's series: little-endian float32, the position of the first value, then the values."""
        place = self.folder / "features" / code.lower()
        place.mkdir()
        self.touched.add(code)
        for name, (first, values) in series.items():
            whole = np.empty(len(values) + 1, dtype="<f4")
            whole[0], whole[1:] = first, values
            (place / f"{name}.day.bin").write_bytes(whole.tobytes())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8", newline="\n")

    def keep_rest(self) -> None:
        """Take over all files that were not written anew, by links where the disk has them."""
        source = self.standing.folder
        if not source.exists():
            return
        for root, folders, files in os.walk(source):
            within = Path(root).relative_to(source)
            if within == Path():
                folders[:] = [name for name in folders if name not in CACHES]
            place = self.folder / within
            place.mkdir(parents=True, exist_ok=True)
            for name in files:
                if not (place / name).exists():
                    _link(Path(root) / name, place / name)

    def take_place(self) -> None:
        """Put the folder in the place of the old one, with all of it on the disk, and delete that."""
        if hasattr(os, "sync"):
            os.sync()
        if self.standing.folder.is_dir():
            self.folder.chmod(self.standing.folder.stat().st_mode & 0o777)
        take_place(self.folder, self.standing.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def drop(self) -> None:
        """Delete it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def list_text(spans: Spans) -> str:
    """Lines of a list of instruments."""
    return "".join(f"{code}\t{first}\t{last}\n" for code, first, last in spans)


def kept_text(last: Mapping[str, Last], days: pd.DatetimeIndex) -> str:
    """Lines of the file of last bars, each number exactly."""
    lines = [
        f"{code},{days[bar.at].date()},{bar.close!r},{bar.factor!r},{'' if bar.base is None else repr(bar.base)}\n"
        for code, bar in sorted(last.items())
    ]
    return "".join(["code,date,close,factor,base\n", *lines])


def stock_spans(
    standing: Standing, days: pd.DatetimeIndex, ends: Mapping[str, tuple[int, int]], *, stated: bool
) -> tuple[Spans, Spans]:
    """Spans of all stocks, and of indices, which have a list of their own.

    A stock is listed to the calendar's end, though it is suspended there. It has left the market where the frame tells
    suspended days (`stated`) and has no row of it, or after `LONGEST_HALT` days without one.

    Args:
        standing: what was there.
        days: of the calendar, the new ones too.
        ends: code -> positions of the first bar and the last row, of what has series.
        stated: whether the frame tells suspended days.
    """
    final, was = str(days[-1].date()), str(standing.days[-1].date()) if len(standing.days) else ""
    before: dict[str, Spans] = {}
    for span in standing.lists.get("all", []):
        before.setdefault(span[0].upper(), []).append(span)
    for code, (first, end) in ends.items():
        gone = end < len(days) - 1 and (stated or end < len(days) - 1 - LONGEST_HALT)
        last = str(days[end].date()) if gone else final
        spans = before.get(code)
        if spans is None:
            before[code] = [(code, str(days[first].date()), last)]
        elif days[end] > pd.Timestamp(min(spans[-1][2], "2200-01-01")) or spans[-1][2] == was:
            spans[-1] = (*spans[-1][:2], max(last, spans[-1][1]))
    listed = {code for code, _, _ in standing.lists.get("all", [])}
    indices = [span for code, of in sorted(before.items()) if is_index(code) and code not in listed for span in of]
    stocks = [span for code, of in sorted(before.items()) if not is_index(code) or code in listed for span in of]
    return stocks, indices


def told_spans(spans: Spans, listed: Sequence[tuple[str, str, str]], days: pd.DatetimeIndex) -> Spans:
    """Put the days that a table of listings tells (an empty end: still) in the place of those by the bars."""
    first, final = (str(day.date()) for day in (days[0], days[-1]))
    told = {code: (code, max(start, first), min(end or final, final)) for code, start, end in listed if start <= final}
    return [told.get(span[0], span) for span in spans]
