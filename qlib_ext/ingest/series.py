"""One stock's bars as a provider's series, alone or behind what is already there.

In qlib's convention adjusted = raw * $factor. The community's scale makes the first close 1 and lets $factor rise on
ex-rights days: what has been written stays as it is, whatever base a vendor's factors have today. Legend: positions are
those of the provider's calendar.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.rules import is_index

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Series = dict[str, tuple[int, npt.NDArray[np.float32]]]  # field -> position of the first value, values

FIELDS = ("open", "high", "low", "close", "volume", "amount", "vwap", "factor", "change")
SAME_BASE = 1e-6  # of a vendor's factor over ours, up to which its base has not moved
CENT = 0.006  # yuan between two records of one price that are the same
SAME = 1e-3  # of shares, yuan and factors
BY_CLOSES = 5e-3  # of factors by closes before, which are rounded to cents


@dataclass(frozen=True)
class Units:
    """Units of a provider: shares that one of $volume is, yuan that one of $amount is."""

    shares: float = 100.0
    yuan: float = 1000.0


@dataclass(frozen=True)
class Last:
    """A stock's last bar, exactly: position, raw close, factor; and the vendor's factor where ours is 1, if known."""

    at: int
    close: float
    factor: float
    base: float | None = None


@dataclass
class Rows:
    """A stock's rows of a frame, by position, float64; `traded` tells bars from suspended days."""

    code: str
    days: pd.DatetimeIndex
    at: Ints
    traded: npt.NDArray[np.bool_]
    values: Mapping[str, Floats]

    def __getitem__(self, name: str) -> Floats:
        """Give a column."""
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self.values

    def some(self, chosen: Any) -> "Rows":
        """Rows that are chosen."""
        values = {name: column[chosen] for name, column in self.values.items()}
        return Rows(self.code, self.days, self.at[chosen], self.traded[chosen], values)

    @property
    def adjusts(self) -> bool:
        """Whether a factor is known of all bars."""
        return "factor" in self.values and bool((self.values["factor"][self.traded] > 0).all())

    def place(self, at: Any) -> str:
        """Name a position for messages."""
        return f"{self.code} {self.days[int(at)].date()}"


@dataclass
class Joined:
    """What became of a stock: its series, None where they stay; the last bar; corrections of old bars; bars added."""

    series: Series | None
    last: Last | None
    corrections: list[tuple[int, str]] = field(default_factory=list)  # position, words
    added: int = 0
    stale: str = ""  # why the frame does not join, for the market's own judgement


def new_series(rows: Rows, units: Units) -> Joined:
    """Write a stock that was not there: from its first bar to its last row.

    Raises: ValueError where nothing tells how its prices are adjusted.
    """
    if not rows.traded.any():
        return Joined(None, None)
    rows = rows.some(slice(int(rows.traded.argmax()), None))
    close = rows["close"][rows.traded]
    if is_index(rows.code):
        factor, base = np.ones(len(close)), None
    elif rows.adjusts:
        base = float(rows["factor"][rows.traded][0] * close[0])
        factor = rows["factor"][rows.traded] / base
    else:
        factor, base = by_closes(rows, Last(-1, np.nan, 1.0 / close[0])), None
    fields = _fields(rows, factor, None, units)
    last = Last(int(rows.at[rows.traded][-1]), float(close[-1]), float(factor[-1]), base)
    series = {name: (int(rows.at[0]), values) for name, values in _lay(rows, fields, base).items()}
    return Joined(series, last, added=len(close))


def by_closes(rows: Rows, before: Last) -> Floats:
    """Factors of the bars by each day's close before, which the exchange adjusts on ex-rights days.

    factor[d] = factor[d-1] * close[d-1] / pre_close[d]; with `before.close` NaN the first one is that of `before`.

    Raises: ValueError where a close before is not known.
    """
    close, prior = rows["close"][rows.traded], np.r_[before.close, rows["close"][rows.traded][:-1]]
    reference = rows["pre_close"][rows.traded] if "pre_close" in rows else np.full(len(close), np.nan)
    ratio = prior / reference
    if np.isnan(before.close):
        ratio[0] = 1.0
    if not (np.isfinite(ratio) & (ratio > 0)).all():
        at = int((~(np.isfinite(ratio) & (ratio > 0))).argmax())
        raise ValueError(
            f"{rows.place(rows.at[rows.traded][at])} has neither a factor nor the close before (pre_close), so that "
            "its adjustment is not known: add a column factor (raw times factor is adjusted) or pre_close"
        )
    return np.asarray(np.cumprod(np.r_[before.factor, ratio])[1:], dtype=np.float64)


def _fields(rows: Rows, factor: Floats, before: Last | None, units: Units) -> dict[str, Floats]:
    """Fields of the bars in the provider's units."""
    bars = rows.some(rows.traded)
    out = {name: bars[name] * factor for name in ("open", "high", "low", "close")}
    out["volume"] = bars["shares"] / units.shares / factor
    out["amount"] = bars["yuan"] / units.yuan
    with np.errstate(invalid="ignore", divide="ignore"):
        out["vwap"] = bars["yuan"] / bars["shares"] * factor
        prior = np.r_[before.close * before.factor if before else np.nan, out["close"][:-1]]
        out["change"] = out["close"] / prior - 1.0
        if "pre_close" in bars:
            told = bars["close"] / bars["pre_close"] - 1.0
            out["change"] = np.where(bars["pre_close"] > 0, told, out["change"])
    out["factor"] = factor
    skipped = {"shares", "yuan", "pre_close", "st", "stated", "factor", *out}
    return out | {name: bars[name] for name in bars.values if name not in skipped}


def _lay(rows: Rows, fields: Mapping[str, Floats], base: float | None, first: int | None = None) -> dict[str, Any]:
    """Put fields of the bars on all positions from the first row (or `first`) to the last; $factor goes on between."""
    begin = int(rows.at[0]) if first is None else first
    out = {name: np.full(int(rows.at[-1]) + 1 - begin, np.nan, dtype=np.float32) for name in fields}
    for name, values in fields.items():
        out[name][rows.at[rows.traded] - begin] = values
    if base is not None and "factor" in rows:
        idle = ~rows.traded & (rows["factor"] > 0)
        out["factor"][rows.at[idle] - begin] = rows["factor"][idle] / base
    _carry(out["factor"])
    return out


def _carry(values: npt.NDArray[np.float32]) -> None:
    """Fill gaps with the value before, in place."""
    place = np.where(np.isfinite(values), np.arange(len(values)), 0)
    values[:] = values[np.maximum.accumulate(place)]


@dataclass(frozen=True)
class Old:
    """A stock's series as they stand, and its bars: positions, raw close, shares, yuan, factor."""

    series: Series
    at: Ints
    bars: dict[str, Floats]

    @classmethod
    def of(cls, series: Series, units: Units) -> "Old":
        """Take the bars out of series."""
        begin = min(first for first, _ in series.values())
        stop = max(first + len(values) for first, values in series.values())
        grid = {name: np.full(stop - begin, np.nan) for name in (*FIELDS, *series)}
        for name, (first, values) in series.items():
            grid[name][first - begin : first - begin + len(values)] = values
        with np.errstate(invalid="ignore", divide="ignore"):
            at = np.flatnonzero((grid["close"] > 0) & ~(grid["volume"] <= 0))
            bars = {name: values[at] for name, values in grid.items()}
            factor = np.where(np.isfinite(bars["factor"]), bars["factor"], 1.0)
            raw = {name: bars[name] / factor for name in ("open", "high", "low", "close")}
            raw |= {"shares": bars["volume"] * factor * units.shares, "yuan": bars["amount"] * units.yuan}
        return cls(series, at + begin, raw | {"factor": factor})

    @property
    def end(self) -> int:
        """Position behind the last value of the close."""
        first, values = self.series["close"]
        return first + len(values)

    def last(self, exact: Last | None) -> Last:
        """Give the last bar: exactly, where what was kept of it is of this bar; else as float32 tells."""
        at, factor = int(self.at[-1]), float(self.bars["factor"][-1])
        if exact is not None and exact.at == at and np.float32(exact.factor) == np.float32(factor):
            return exact
        return Last(at, round(float(self.bars["close"][-1]), 2), factor)


def join(rows: Rows, old: Old, exact: Last | None, count: int, units: Units, *, correct: bool) -> Joined:
    """Put a frame's rows behind, or with `correct` also into, a stock's series.

    Args:
        rows: of the frame.
        old: what stands.
        exact: what was kept of the last bar by the import that wrote it.
        count: days of the calendar as it stands; rows on later positions are new.
        units: of the provider.
        correct: whether bars on old days are replaced where they differ.

    Raises: ValueError where nothing tells how the new prices are adjusted to the old ones.
    """
    within = rows.some(rows.at < count)
    found = differing(within, old)
    last = old.last(exact)
    if found and correct:
        return _replaced(rows, old, units, found)
    fresh = rows.some(rows.at >= count)
    if not len(fresh.at):
        return Joined(None, last, found)
    if not fresh.traded.any():
        fields: dict[str, Floats] = {name: np.empty(0) for name in old.series}
        return Joined(_extended(old, fresh, fields, last.base), last, found)
    before, stale = last, ""
    seen = np.flatnonzero((within.at == last.at) & within.traded)
    if len(seen):
        before = Last(last.at, float(within["close"][seen[0]]), last.factor, last.base)
    elif not is_index(rows.code):
        stale = _gap(fresh, last)
        both = np.isin(within.at[within.traded], old.at).any()
        if stale == "no overlap" and not (fresh.adjusts and both):
            raise ValueError(
                f"{fresh.place(fresh.at[fresh.traded][0])}: the frame has neither the close before (pre_close) nor a "
                f"bar that is there too, and nothing tells how it is adjusted to what is there: begin the frame on "
                f"{fresh.days[last.at].date()}"
            )
    factor, base = _continued(within, fresh, old, before)
    fields = _fields(fresh, factor, before, units)
    close = fresh["close"][fresh.traded]
    new = Last(int(fresh.at[fresh.traded][-1]), float(close[-1]), float(factor[-1]), base)
    return Joined(_extended(old, fresh, fields, base), new, found, len(close), stale)


def _gap(fresh: Rows, last: Last) -> str:
    """Say where the first new bar does not follow the last old one: its close before is another."""
    first = int(fresh.traded.argmax())
    if "pre_close" not in fresh or not fresh["pre_close"][first] > 0:
        return "no overlap"
    return "" if abs(fresh["pre_close"][first] - last.close) < CENT else "another close before"


def _continued(within: Rows, fresh: Rows, old: Old, before: Last) -> tuple[Floats, float | None]:
    """Factors of new bars in the provider's base, and the vendor's factor where ours is 1."""
    if is_index(fresh.code):
        return np.ones(int(fresh.traded.sum())), None
    if not fresh.adjusts:
        return by_closes(fresh, before), None
    factor = fresh["factor"][fresh.traded]
    both = np.intersect1d(within.at[within.traded], old.at)
    if len(both):
        mine = before.factor if both[-1] == before.at else float(old.bars["factor"][np.searchsorted(old.at, both[-1])])
        base = float(within["factor"][np.flatnonzero(within.at == both[-1])[0]]) / mine
    else:
        base = float(factor[0] / by_closes(fresh.some(slice(int(fresh.traded.argmax()), None)), before)[0])
    near = SAME_BASE if len(both) else BY_CLOSES
    if before.base is not None and abs(base / before.base - 1.0) < near:
        base = before.base
    return factor / base, base


def _extended(old: Old, fresh: Rows, fields: Mapping[str, Floats], base: float | None) -> Series:
    """Series with new rows behind them; of the fields that they have, and those that are new to all."""
    out: Series = {}
    stop = int(fresh.at[-1]) + 1
    for name, (first, values) in old.series.items():
        if name not in fields:
            continue
        grown = np.full(stop - first, np.nan, dtype=np.float32)
        grown[: len(values)] = values
        if len(fields[name]):
            grown[fresh.at[fresh.traded] - first] = fields[name]
        if name == "factor":
            if base is not None and "factor" in fresh:
                idle = ~fresh.traded & (fresh["factor"] > 0)
                grown[fresh.at[idle] - first] = fresh["factor"][idle] / base
            _carry(grown[len(values) - 1 :])
        out[name] = (first, grown)
    return out


# --- corrections


def differing(rows: Rows, old: Old) -> list[tuple[int, str]]:
    """List the old days on which a frame says something else: position and words."""
    bars = rows.some(rows.traded)
    mine, theirs = np.isin(old.at, bars.at), np.isin(bars.at, old.at)
    out = [(int(at), "a bar that is not there") for at in bars.at[~theirs]]
    out += [(int(at), "no trade") for at in np.intersect1d(old.at, rows.at[~rows.traded])]
    if not mine.any():
        return sorted(out, key=itemgetter(0))
    index = is_index(rows.code)
    for name in ("open", "high", "low", "close", "shares", "yuan"):
        was, now = old.bars[name][mine], bars[name][theirs]
        slack = SAME * np.abs(was) if name in ("shares", "yuan") or index else np.maximum(CENT, 2e-7 * was)
        with np.errstate(invalid="ignore"):
            wrong = np.flatnonzero(np.abs(now - was) > slack + (100.0 if name in ("shares", "yuan") else 0.0))
        out += [(int(old.at[mine][n]), f"{name} {was[n]:.6g}, the frame {now[n]:.6g}") for n in wrong.tolist()]
    told, near = (bars["factor"][theirs], SAME) if rows.adjusts else (_relative(bars)[theirs], BY_CLOSES)
    if not index and len(told) and np.isfinite(told).all():
        shift = told / old.bars["factor"][mine]
        wrong = np.flatnonzero(np.abs(shift / shift[-1] - 1.0) > near)
        out += [(int(old.at[mine][n]), f"factor off by {shift[n] / shift[-1] - 1.0:.2%}") for n in wrong[-1:].tolist()]
    return sorted(out, key=itemgetter(0))


def _relative(bars: Rows) -> Floats:
    """Factors by closes before of bars that follow each other, the first one 1; NaN where they are not known."""
    try:
        return by_closes(bars, Last(-1, np.nan, 1.0))
    except ValueError:
        return np.full(len(bars.at), np.nan)


def _replaced(rows: Rows, old: Old, units: Units, found: list[tuple[int, str]]) -> Joined:
    """Put a frame's rows in the place of all old ones from its first on, in the base of the first bar of both.

    Raises: ValueError where it lacks old bars behind its first row, or has no bar in common with them.
    """
    bars = rows.some(rows.traded)
    lacking = np.setdiff1d(old.at[old.at >= rows.at[0]], rows.at)
    if len(lacking):
        raise ValueError(
            f"{rows.place(lacking[0])} is not in the frame: one that corrects must have all of a stock's days from its "
            "first to the provider's last"
        )
    both = np.intersect1d(bars.at, old.at)
    if not len(both):
        raise ValueError(
            f"{rows.place(rows.at[0])}: the frame has no bar of the stock that is there too: begin it on one"
        )
    told = bars["factor"] if rows.adjusts else by_closes(bars, Last(-1, np.nan, 1.0))
    if is_index(rows.code):
        told = np.ones(len(bars.at))
    base = float(told[np.flatnonzero(bars.at == both[0])[0]] / old.bars["factor"][np.flatnonzero(old.at == both[0])[0]])
    factor = told / base
    earlier = np.flatnonzero(old.at < bars.at[0])
    before = None
    if len(earlier):
        n = earlier[-1]
        before = Last(int(old.at[n]), float(old.bars["close"][n]), float(old.bars["factor"][n]))
    fields = _fields(rows, factor, before, units)
    own = base if rows.adjusts else None
    begin = min(int(rows.at[0]), *(first for first, _ in old.series.values()))
    laid = _lay(rows, fields, own, int(rows.at[0]))
    out: Series = {}
    for name, (first, values) in old.series.items():
        if name not in laid:
            continue
        whole = np.full(int(rows.at[-1]) + 1 - begin, np.nan, dtype=np.float32)
        kept = max(int(rows.at[0]) - first, 0)
        whole[first - begin : first - begin + kept] = values[:kept]
        whole[int(rows.at[0]) - begin :] = laid[name]
        out[name] = (begin, whole)
    if "factor" in out:
        _carry(out["factor"][1])
    last = Last(int(bars.at[-1]), float(bars["close"][-1]), float(factor[-1]), own)
    return Joined(out, last, found, len(bars.at) - len(both))
