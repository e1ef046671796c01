"""MacroState: macro series on their own calendars, as they were known at the close of each Chinese trading day.

A value enters on the first trading day at whose close it is published, and is carried forward from there. Sizes: D
days, M features. Scaling is not done here: the gate fits it on its own training days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.options import argument_names, check_choice, check_flag, check_number, close_names, refuse_unknown, tell
from qlib_ext.spelling import is_nothing, read_csv, read_moment, read_numbers

Array = npt.NDArray[np.float64]

TRANSFORMS = ("level", "log_return", "difference", "zscore")
LIMITS = {"daily": 5, "monthly": 50}  # trading days that a value may be carried on; monthly: the Chinese New Year
SEVERITIES = ("error", "warn")
FEWEST_MOVES = 8  # below it no move is unusual


@dataclass(frozen=True)
class MacroSeries:
    """One series.

    Args:
        foreign: published after the Chinese market has closed on its date (any American or European market).
        lag: trading days from the date to the first close at which the value is used. 0: on the date itself (or the
            first trading day after it), 1: on the first trading day after the date, and so on. None: 1 where foreign,
            else 0. A foreign series needs at least 1.
        transform: one or more of "level", "log_return", "difference" and "zscore"; each is a feature. Daily series are
            transformed along the trading days (a day without news has a return of 0, the first one after a holiday the
            whole of it), monthly ones from release to release.
        window: trading days (monthly: releases) of the z-score, the day itself included.
        frequency: "daily" or "monthly".
        release: monthly: the column with the dates of release; "date": the file's dates are dates of release.
        release_lag: monthly: calendar days from the file's date to the release, where no dates are known. Every release
            must fall after the end of its date's month: at least 31 where the dates are the first days of months, at
            least 1 where they are the last ones. What is known within its month needs its dates of release.
        limit: trading days that a value may be carried on; None: 5 (daily) or 50 (monthly).
        jump: a change of more than so many times the usual one (1.4826 median absolute deviations of the moves, or the
            median absolute move where that is larger: rates that move in steps) is reported, from 8 moves on.

    >>> MacroSeries(foreign=True).days_late  # of New York: used from the next trading day on
    1
    """

    foreign: bool
    lag: int | None = None
    transform: tuple[str, ...] = ("level",)
    window: int = 60
    frequency: str = "daily"
    release: str | None = None
    release_lag: int | None = None
    limit: int | None = None
    jump: float = 25.0

    def __post_init__(self) -> None:
        """Check the options. Raises ValueError naming what is allowed."""
        check_flag("foreign", self.foreign)
        after_close = " of a foreign series, whose value is published after the close" if self.foreign else ""
        check_number("lag", self.days_late, f"[{int(self.foreign)}, inf)", whole=True, hint=after_close)
        named = (self.transform,) if isinstance(self.transform, str) else tuple(self.transform)
        if not named or set(named) - set(TRANSFORMS) or len(set(named)) < len(named):
            raise ValueError(f"transform={self.transform!r}; allowed: {', '.join(TRANSFORMS)}, or a list of them")
        object.__setattr__(self, "transform", named)
        check_number("window", self.window, "[2, inf)", whole=True)
        if self.window != 60 and "zscore" not in named:
            tell("macro_state: window has no effect on a series without the transform zscore")
        check_choice("frequency", self.frequency, LIMITS)
        check_number("limit", self.carried, "[0, inf)", whole=True)
        check_number("jump", self.jump, "(0, inf)")
        told = [name for name in ("release", "release_lag") if getattr(self, name) is not None]
        if (self.frequency == "monthly") != (len(told) == 1):
            raise ValueError(
                f"frequency={self.frequency} with {' and '.join(told) or 'no release'}: a monthly series needs either "
                "release (a column of dates) or release_lag (calendar days), a daily one neither"
            )
        if self.release_lag is not None:
            check_number("release_lag", self.release_lag, "[0, inf)", whole=True)

    @property
    def days_late(self) -> int:
        """The lag, never None."""
        return int(self.foreign) if self.lag is None else self.lag

    @property
    def carried(self) -> int:
        """The limit, never None."""
        return LIMITS[self.frequency] if self.limit is None else self.limit


@dataclass(frozen=True)
class MacroState:
    """Macro features of a day, `<series>_<transform>`, in the order of the configuration.

    Args:
        path: a CSV or Parquet file with a column `date` and one for each series, or a list of such files; a missing
            value is a day without one. Lines of a CSV that begin with # are left out.
        series: name -> options of MacroSeries; `foreign` must be told.
        gaps: "error" stops where a series is stale for longer than its limit (a gap, or its end); "warn" carries the
            last value on and says so.
        jumps: "warn" or "error" for an implausible jump. Nothing is ever removed: that would need tomorrow's value.

    >>> rate = {"foreign": True, "transform": ["level", "difference"]}
    >>> MacroState.of({"path": "rates.csv", "series": {"us10y": rate}}).names()
    ['us10y_level', 'us10y_difference']
    """

    path: tuple[str, ...]
    series: dict[str, MacroSeries]
    gaps: str = "error"
    jumps: str = "warn"

    def __post_init__(self) -> None:
        """Check the options. Raises ValueError naming what is allowed."""
        for name in ("gaps", "jumps"):
            check_choice(f"macro_state: {name}", getattr(self, name), SEVERITIES)
        paths = (self.path,) if isinstance(self.path, str | Path) else tuple(self.path)
        object.__setattr__(self, "path", tuple(str(p) for p in paths))
        if not paths or not self.series:
            raise ValueError("macro_state needs a path and at least one series")

    @classmethod
    def of(cls, value: Any) -> MacroState | None:
        """Read the option `macro_state`: null, false or a mapping of options.

        Raises: TypeError for an unknown option, ValueError for a value that is not allowed; both name the series.
        """
        if value is None or value is False or isinstance(value, cls):
            return value or None
        if not isinstance(value, Mapping) or not {"path", "series"} <= set(value):
            raise ValueError(f"macro_state={value!r}; wanted path, series and, if wished, gaps and jumps")
        refuse_unknown("macro_state", value, argument_names(cls))
        series = value["series"]
        if not isinstance(series, Mapping):
            raise ValueError(f"macro_state: series={series!r}; wanted name: {{foreign: true, ...}}")
        return cls(**dict(value) | {"series": {str(k): _series_of(str(k), v) for k, v in series.items()}})

    def names(self) -> list[str]:
        """Names of the M features."""
        return [f"{name}_{how}" for name, one in self.series.items() for how in one.transform]

    def compute(
        self, table: pd.DataFrame, calendar: pd.DatetimeIndex, days: pd.DatetimeIndex
    ) -> tuple[pd.DataFrame, list[str]]:
        """Compute the features.

        Args:
            table: by date, a column for each series (see `read_macro`).
            calendar: the trading days. Before the first one weekdays stand for them.
            days: (D,) trading days, the days wanted.

        Returns:
            (D, M) float64, and what is to be said to the user.

        Raises:
            ValueError: an absent column, a series that begins too late, ends or has a gap, an impossible logarithm, a
                value that would be published before its month is over.
        """
        axis = _before(calendar, table.index[0]) if len(table) else calendar
        columns: dict[str, pd.Series] = {}
        notices: list[str] = []
        for name, one in self.series.items():
            value, released = _observations(name, one, table)
            series = _Observed(name, one, value, _places(released, one.days_late, axis), axis)
            series.check_logarithm(days)
            frame = series.features().reindex(days)
            series.check_start(frame)
            notices += self._reported(series.stale(days), self.gaps, "; or set gaps: warn to carry the last value on")
            notices += self._reported(series.jumps(days), self.jumps, "; or set jumps: warn")
            columns |= {f"{name}_{how}": frame[how] for how in one.transform}
        return pd.DataFrame(columns, index=days), notices

    def later(self, table: pd.DataFrame, calendar: pd.DatetimeIndex, day: pd.Timestamp) -> dict[str, pd.DatetimeIndex]:
        """Dates of the values of each series that are not known at the close of a trading day yet.

        Raises: as `compute`, for columns and dates.
        """
        axis, out = _before(calendar, table.index[0]) if len(table) else calendar, {}
        for name, one in self.series.items():
            value, released = _observations(name, one, table)
            known = _places(released, one.days_late, axis) <= int(axis.searchsorted(day))
            out[name] = pd.DatetimeIndex(value.index[~known])
        return out

    @staticmethod
    def _reported(problems: list[str], severity: str, cure: str) -> list[str]:
        if problems and severity == "error":
            raise ValueError(f"macro_state: {problems[0]}{cure}")
        return problems


def _series_of(name: str, value: Any) -> MacroSeries:
    if isinstance(value, MacroSeries):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"macro_state: series {name}: {value!r}; wanted options such as {{foreign: true, lag: 1}}")
    refuse_unknown(f"macro_state: series {name}", value, argument_names(MacroSeries))
    if "foreign" not in value:
        raise ValueError(
            f"macro_state: series {name} must tell foreign: true (its value of a day is published after the Chinese "
            "market has closed, so that it is used from the next trading day on) or foreign: false"
        )
    try:
        return MacroSeries(**value)
    except ValueError as error:
        raise ValueError(f"macro_state: series {name}: {error}") from error


# --- what was known when


def _observations(name: str, one: MacroSeries, table: pd.DataFrame) -> tuple[pd.Series, pd.DatetimeIndex]:
    """Values of a series by date, without the missing ones, and the dates on which they were published.

    They come in the order of publication; a value of an older month than one published before it is left out.
    """
    for column in (name, one.release if one.release != "date" else None):
        if column is not None and column not in table:
            columns = [str(c) for c in table.columns]
            raise ValueError(
                f"macro_state: no column {column!r}; close: {close_names(column, columns)}; the file has "
                f"{', '.join(columns)}; add it, or leave the series {name} out of the configuration"
            )
    if name in table.attrs.get("strange", ()):
        raise ValueError(table.attrs["strange"][name])
    value = read_numbers(table[name], f"macro_state: {name} on {{:%Y-%m-%d}}").dropna()
    if np.isinf(value).any():
        raise ValueError(
            f"macro_state: {name} is {value[np.isinf(value)].iloc[0]} on {value.index[np.isinf(value)][0].date()}"
        )
    if value.empty:
        raise ValueError(f"macro_state: {name} has no value at all")
    dates = pd.DatetimeIndex(value.index)
    if one.release_lag is not None:
        return value, _released_after(name, one.release_lag, dates)
    if one.release is None or one.release == "date":
        return value, dates
    told = table[one.release].reindex(dates).rename(index="{:%Y-%m-%d}".format)
    released = pd.Series(read_dates(told, f"macro_state: {one.release} of"), dates)
    if released.isna().any() or (released < dates).any():
        bad = dates[(released.isna() | (released < dates)).to_numpy()][0].date()
        raise ValueError(f"macro_state: {name} of {bad} has no date in {one.release}, or one before its own")
    order = np.argsort(released.to_numpy(), kind="stable")
    month = dates.to_numpy()[order]
    order = order[month >= np.maximum.accumulate(month)]
    return value.iloc[order], pd.DatetimeIndex(released.iloc[order])


def _released_after(name: str, lag: int, dates: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Dates of release by a lag in calendar days. Raises ValueError where a value would be out before its month is."""
    released, over = dates + pd.Timedelta(days=lag), dates + pd.offsets.MonthEnd(0)
    early = released <= over
    if early.any():
        least = int((over - dates).days.max()) + 1
        raise ValueError(
            f"macro_state: {name} of {dates[early][0].date()} with release_lag={lag} would be published on "
            f"{released[early][0].date()}, before its month is over; {least} is the smallest lag of this file's dates, "
            "and most series come later (40 after the first day of the month, for example); or give release: a column "
            "with the dates of release (release: date where the dates already are those)"
        )
    return released


def _before(calendar: pd.DatetimeIndex, first: pd.Timestamp) -> pd.DatetimeIndex:
    """Return the calendar with the weekdays from `first` on put before it."""
    if first >= calendar[0]:
        return calendar
    early = pd.bdate_range(first, calendar[0] - pd.Timedelta(days=1))
    return pd.DatetimeIndex(early.append(calendar))


def _places(released: pd.DatetimeIndex, lag: int, axis: pd.DatetimeIndex) -> npt.NDArray[np.int64]:
    """Place on the axis of the first day at whose close each value is known; len(axis) or more: none yet."""
    if lag == 0:
        return np.asarray(axis.searchsorted(released, side="left"), dtype=np.int64)
    return np.asarray(axis.searchsorted(released, side="right"), dtype=np.int64) + lag - 1


def _transformed(value: pd.Series, how: str, window: int) -> pd.Series:
    """Transform a series along its index; NaN where the history is too short."""
    if how == "zscore":
        return _zscore(value, window)
    if how == "log_return":
        return np.log(value.where(value > 0)).diff()
    return value.diff() if how == "difference" else value


def _zscore(value: pd.Series, window: int) -> pd.Series:
    """(last - mean) / std over the trailing window; 0 where nothing moved in it. No running sums, so no residue."""
    out = np.full(len(value), np.nan)
    if len(value) >= window:
        past = np.lib.stride_tricks.sliding_window_view(value.to_numpy(dtype=np.float64), window)
        mean, std = past.mean(axis=1), past.std(axis=1, ddof=1)
        moved = past.max(axis=1) > past.min(axis=1)
        out[window - 1 :] = np.where(moved | np.isnan(mean), (past[:, -1] - mean) / np.where(moved, std, 1.0), 0.0)
    return pd.Series(out, value.index)


@dataclass(frozen=True)
class _Observed:
    """A series as it became known: values by date, and for each the place on the axis of days where it is known."""

    name: str
    options: MacroSeries
    value: pd.Series
    ready: npt.NDArray[np.int64]
    axis: pd.DatetimeIndex

    def features(self) -> pd.DataFrame:
        """Features on every day of the axis, a column for each transformation."""
        how, window = self.options.transform, self.options.window
        if self.options.frequency == "monthly":
            grids = {name: self._carry(_transformed(self.value, name, window)) for name in how}
        else:
            level = pd.Series(self._carry(self.value), self.axis)
            grids = {name: _transformed(level, name, window).to_numpy() for name in how}
        return pd.DataFrame(grids, index=self.axis)

    def _carry(self, value: pd.Series) -> Array:
        """Carry values on from the day on which each is known; the later one of a day wins. NaN before the first."""
        out = np.full(len(self.axis), np.nan)
        inside = self.ready < len(self.axis)
        out[self.ready[inside]] = value.to_numpy(dtype=float)[inside]
        return pd.Series(out).ffill().to_numpy(dtype=np.float64)

    def _used(self, days: pd.DatetimeIndex, back: int) -> slice:
        """Observations in force on the days, or `back` days (monthly: releases) before."""
        first, last = (int(self.axis.searchsorted(day)) for day in days[[0, -1]])
        monthly = self.options.frequency == "monthly"
        begin = int(np.searchsorted(self.ready, first if monthly else first - back, side="right")) - 1
        begin -= back if monthly else 0
        return slice(max(0, begin), int(np.searchsorted(self.ready, last, side="right")))

    def check_logarithm(self, days: pd.DatetimeIndex) -> None:
        """Raise ValueError where a value that is used has no logarithm, but is to have one."""
        value = self.value.iloc[self._used(days, 1)]
        if "log_return" in self.options.transform and (value <= 0).any():
            at = value.index[(value <= 0).to_numpy()][0]
            raise ValueError(
                f"macro_state: {self.name} is {value[at]:g} on {at.date()}, of which there is no logarithm: use "
                "difference or zscore"
            )

    def check_start(self, frame: pd.DataFrame) -> None:
        """Raise ValueError where a feature of the frame is not known on its first days."""
        missing = frame.index[frame.isna().any(axis=1).to_numpy()]
        if len(missing):
            begin = self.axis[self.ready[0]].date() if self.ready[0] < len(self.axis) else "never"
            late = frame.index[frame.notna().all(axis=1).to_numpy()]
            cure = f"start the handler and the segments at {late[0].date()} or later" if len(late) else "use other days"
            raise ValueError(
                f"macro_state: {self.name} is known from {begin} on and {', '.join(self.options.transform)} (window "
                f"{self.options.window}) is not known on {len(missing)} days, the first {missing[0].date()}: {cure}, "
                "or give a longer history"
            )

    def stale(self, days: pd.DatetimeIndex) -> list[str]:
        """Say where the series is stale for longer than its limit on the days."""
        fresh = np.full(len(self.axis), -(10**6))  # place of the last new value, long ago before the first
        inside = self.ready[self.ready < len(self.axis)]
        fresh[inside] = inside
        late = pd.Series(np.arange(len(self.axis)) - np.maximum.accumulate(fresh), self.axis).reindex(days)
        over = late > self.options.carried
        if not over.any():
            return []
        end = pd.Timestamp(self.value.index[-1]).date()
        what = f"{self.name} ends on {end}" if over.iloc[-1] else f"{self.name} has a gap"
        return [
            f"{what}: {int(late.max())} trading days without a new value, its limit is {self.options.carried}: "
            f"{int(over.sum())} days, the first {days[int(np.argmax(over.to_numpy()))].date()}; shorten the segments, "
            "complete the file or raise its limit"
        ]

    def jumps(self, days: pd.DatetimeIndex) -> list[str]:
        """Say where a used value is implausibly far from the one before, by all that was known; in logs if positive."""
        used = self._used(days, self.options.window if "zscore" in self.options.transform else 0)
        seen = self.value.iloc[: used.stop]
        change = (np.log(seen) if (seen > 0).all() else seen).diff()
        moved = change[change.notna() & (change != 0)]
        if len(moved) < FEWEST_MOVES:
            return []
        middle = moved.median()
        usual = max(1.4826 * float((moved - middle).abs().median()), float(moved.abs().median()))
        size = ((change - middle).abs() / usual).to_numpy()
        far = used.start + np.flatnonzero(size[used] > self.options.jump)
        if not len(far):
            return []
        at = int(far[0])
        return [
            f"{self.name} jumps from {seen.iloc[at - 1]:g} to {seen.iloc[at]:g} on {seen.index[at].date()}, "
            f"{size[at]:.0f} times its usual move ({len(far)} jumps over {self.options.jump:g}); check the file"
        ]


# --- files


def read_macro(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read the files into one table by date, sorted; columns of the same name in two files are an error.

    Dates are local ones, of the place of the series, without a time of day, in the forms of `qlib_ext.spelling`: what
    can be meant in two ways (01/02/2021) is refused, even where the rest of its column tells the order.

    Returns: numbers by date; a column with a cell that is none stays as it is, and `attrs["strange"]` says which.

    Raises:
        ValueError: another kind of file, no column `date`, what is not surely a day, or a date that stands twice; file
            and line (the row of a Parquet file, from 0) are named.
        OSError: a file cannot be opened.
    """
    tables = [_read_one(Path(p)) for p in paths]
    names = [c for table in tables for c in table.columns]
    twice = sorted({c for c in names if names.count(c) > 1})
    if twice:
        raise ValueError(f"macro_state: {', '.join(twice)} stand in more than one file: rename or drop one")
    out = pd.concat(tables, axis=1, sort=True).sort_index()
    out.attrs["strange"] = {name: said for table in tables for name, said in table.attrs["strange"].items()}
    return out


def _read_one(path: Path) -> pd.DataFrame:
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise ValueError(f"macro_state: {path.name} is no .csv or .parquet file")
    table = read_csv(path, ["date"]) if kind == ".csv" else _read_parquet(path)
    where = f"macro_state: {path.name}, {'line' if kind == '.csv' else 'row'}"
    date = read_dates(table["date"], where)
    if date.hasnans:
        raise ValueError(f"{where} {table.index[date.isna()][0]} has no date such as 2020-01-31; {list(table.columns)}")
    if date.has_duplicates:
        first = date[date.duplicated()][0].date()
        raise ValueError(f"macro_state: {path.name} has the date {first} twice: keep what was known first")
    strange, columns = {}, {}
    decimal_comma = table.attrs.get("separator") == ";"
    for name in table.columns.drop("date"):
        try:
            columns[name] = read_numbers(table[name], f"{where} {{}}: {name}", decimal_comma)
        except ValueError as error:  # of a column that no series needs it does not matter
            strange[name], columns[name] = str(error), table[name]
    out = pd.DataFrame({name: column.to_numpy() for name, column in columns.items()}, index=date)
    out.attrs["strange"] = strange
    return out


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except OSError as error:
        raise type(error)(f"macro_state: {path} cannot be read: {error}") from error
    except ValueError as error:  # of pyarrow
        raise ValueError(f"macro_state: {path} is no Parquet file: {error}") from error
    table = table.reset_index() if "date" not in table and table.index.name == "date" else table
    if "date" not in table:
        raise ValueError(f"macro_state: {path.name} has no column date but {list(table.columns)[:8]}")
    return table.reset_index(drop=True)


def read_dates(column: pd.Series, where: str) -> pd.DatetimeIndex:
    """Read local days, NaT where nothing stands; `where` and the row's label name a place.

    Raises: ValueError for the first that is not surely a day, and for times with a zone or other than midnight.
    """
    days = []
    for row, value in column.items():
        moment = pd.NaT if is_nothing(value) else read_moment(f"{where} {row}: the date", value)
        if not pd.isna(moment) and moment != moment.normalize():
            raise ValueError(
                f"{where} {row}: {value!s} has a time of day: give days, and say by the series' lag when a value is "
                "used (0: published before the Chinese close of its day, 1: after it)"
            )
        days.append(moment)
    return pd.DatetimeIndex(days, dtype="datetime64[ns]")
