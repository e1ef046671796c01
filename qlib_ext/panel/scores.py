"""Scores at the doors: a Series by (datetime, instrument) that is surely understood, and a grid, days by stocks.

Money follows a score, so what is not surely understood is refused, naming the place, what came and the cure.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.options import is_number
from qlib_ext.spelling import is_nothing, read_code, read_day

NAMES = ["datetime", "instrument"]
CLOSE = pd.Timedelta(hours=15)  # of the Chinese market: a later stamp may be midnight in another zone
_WANTED = "wanted is a Series of numbers by (datetime, instrument), or a frame with the one column score"


def check_scores(scores: Any, owner: str = "scores", *, calendar: npt.ArrayLike | None = None) -> pd.Series:
    """Return scores by (datetime, instrument), sorted, days at midnight, codes as qlib writes them (SH600000).

    Read are swapped or unnamed levels (the days tell), stamps up to 15:00, codes in any form of `qlib_ext.spelling` and
    a frame with a column score. NaN is no score. What is well already is returned as it is, in a few milliseconds.

    Args:
        scores: what came.
        owner: whose they are, for the message.
        calendar: trading days, sorted; a score between the first and the last of them must be of one.

    Raises:
        TypeError: no Series or frame by two levels, or scores that are no numbers.
        ValueError: none at all, an infinite one, a day and code twice, a time zone, a stamp after 15:00, a day that is
            no trading day, what is not surely a day or a code.

    Warns: where all scores of every day are equal, so that they rank nothing.

    >>> index = pd.MultiIndex.from_tuples([("600000.SH", pd.Timestamp("2022-01-04 15:00"))])
    >>> check_scores(pd.Series([0.5], index)).index.tolist()
    [(Timestamp('2022-01-04 00:00:00'), 'SH600000')]
    """
    series = _column(scores, owner)
    index: Any = series.index
    if not len(series):
        raise ValueError(f"{owner}: there is no score in it; {_WANTED}")
    level = _level_of_days(index, owner)
    days, day = _coded(index, level, lambda label: _read_days(label, owner), owner)
    codes, code = _coded(index, 1 - level, lambda label: _read_codes(label, owner), owner)
    _check_calendar(days, calendar, owner)
    key = day * len(codes) + code
    order = None if (np.diff(key) > 0).all() else key.argsort(kind="stable")
    ready = order is None and level == 0 and list(index.names) == NAMES
    if not (ready and days is index.levels[0] and codes is index.levels[1]):
        order = np.arange(len(key)) if order is None else order
        twice = np.flatnonzero(np.diff(key[order]) == 0)
        if len(twice):
            at = order[twice[0]]
            raise ValueError(f"{owner}: {codes[code[at]]} has two scores on {days[day[at]].date()}; keep one")
        sorted_codes: Any = [day[order], code[order]]
        placed = pd.MultiIndex(levels=[days, codes], codes=sorted_codes, names=NAMES, verify_integrity=False)
        series = series.iloc[order].set_axis(placed)
        day = sorted_codes[0]
    _check_values(series, day, owner)
    return series


def check_grid(
    score: npt.ArrayLike, days: npt.ArrayLike, stocks: Sequence[str] | npt.NDArray[np.object_], owner: str = "score"
) -> None:
    """Refuse a grid of scores (D, N) of another shape, without a number, or with an infinite one (named).

    Raises: ValueError. Warns: where all scores of every day are equal.
    """
    grid, dates = np.asarray(score), pd.DatetimeIndex(np.asarray(days))
    if grid.shape != (len(dates), len(stocks)):
        raise ValueError(f"{owner} has the shape {grid.shape}; wanted (days, stocks) = {(len(dates), len(stocks))}")
    if grid.dtype.kind not in "fiu":
        raise TypeError(f"{owner} holds {grid.dtype}; wanted are numbers, NaN where there is none")
    infinite = np.argwhere(np.isinf(grid))
    if len(infinite):
        row, column = infinite[0]
        place = f"{stocks[column]} on {dates[row].date()}"
        raise ValueError(f"{owner} of {place} is {grid[row, column]}: a model has diverged; NaN is no score")
    if np.isnan(grid).all():
        span = f", {dates[0].date()} to {dates[-1].date()}" if len(dates) else ""
        raise ValueError(f"{owner}: no stock has a score on the {len(dates)} days{span}; check the days of the scores")
    low, high = np.fmin.reduce(grid, axis=1), np.fmax.reduce(grid, axis=1)
    _warn_constant(low, high, np.isfinite(grid).sum(axis=1), owner)


def grid_of(
    scores: pd.Series | pd.DataFrame,
    days: npt.ArrayLike,
    stocks: Sequence[str] | npt.NDArray[np.object_],
    *,
    calendar: npt.ArrayLike | None = None,
) -> npt.NDArray[np.float64]:
    """Lay out scores by (datetime, instrument) as (D, N), NaN where there is none; see `check_scores`.

    Raises: ValueError, TypeError as `check_scores` does, and where no stock of `stocks` has a score at all.

    Warns: of codes that are not among the stocks.

    >>> day = pd.Timestamp("2022-01-04")
    >>> index = pd.MultiIndex.from_tuples([(day, "SH600000"), (day, "SH600004")], names=["datetime", "instrument"])
    >>> grid_of(pd.Series([0.5, 0.1], index), [day], ["SH600004", "SH600006"])
    array([[0.1, nan]])
    """
    checked = check_scores(scores, calendar=calendar)
    index: Any = checked.index
    row = pd.DatetimeIndex(np.asarray(days)).get_indexer(index.levels[0])[index.codes[0]]
    column = pd.Index(list(stocks)).get_indexer(index.levels[1])
    unknown = index.levels[1][column < 0]
    if len(unknown):
        told = f"{len(unknown)} of {len(column)} codes with a score are not in the data, {unknown[0]} the first"
        if len(unknown) == len(column):
            raise ValueError(f"scores: {told}; the data has {', '.join(map(str, list(stocks)[:3]))}, ...")
        warnings.warn(f"scores: {told}; they are left out", stacklevel=2)
    column = column[index.codes[1]]
    inside = (row >= 0) & (column >= 0)
    grid = np.full((len(np.asarray(days)), len(stocks)), np.nan)
    grid[row[inside], column[inside]] = checked.to_numpy(dtype=np.float64, na_value=np.nan)[inside]
    return grid


# --- pieces


def _column(scores: Any, owner: str) -> pd.Series:
    """Take the one column of scores, as numbers."""
    if isinstance(scores, pd.DataFrame):
        columns = list(scores.columns)
        if len(columns) != 1 and columns.count("score") != 1:
            raise TypeError(f"{owner} is a frame with the columns {columns[:6]}; {_WANTED}")
        scores = scores[columns[0] if len(columns) == 1 else "score"]
    if not isinstance(scores, pd.Series):
        raise TypeError(f"{owner} is {type(scores).__name__}; {_WANTED}")
    if scores.index.nlevels != 2:
        raise TypeError(f"{owner}: the index has the levels {list(scores.index.names)}; {_WANTED}")
    kind = scores.dtype
    if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) and kind.kind != "c":
        return scores
    values = [np.nan if not isinstance(v, str) and is_nothing(v) else v for v in scores]
    strange = [n for n, value in enumerate(values) if kind.kind != "O" or not is_number(value)]
    if strange:
        raise TypeError(
            f"{owner}: a score is {values[strange[0]]!r} at {scores.index[strange[0]]}, no number; {_WANTED}"
        )
    return pd.Series(values, scores.index, dtype=np.float64, name=scores.name)


def _level_of_days(index: Any, owner: str) -> int:
    """Which of two levels holds the days: the one of dates, or of none the one named datetime."""
    dated = [pd.api.types.is_datetime64_any_dtype(level.dtype) for level in index.levels]
    if sum(dated) == 0 and NAMES[0] in index.names:
        return list(index.names).index(NAMES[0])
    if sum(dated) != 1:
        kinds = ", ".join(f"{n}: {level.dtype}" for n, level in zip(index.names, index.levels, strict=True))
        raise TypeError(f"{owner}: which level of the index holds the days is not sure ({kinds}); {_WANTED}")
    return dated.index(True)


def _coded(index: Any, level: int, read: Any, owner: str) -> tuple[Any, npt.NDArray[np.int64]]:
    """Sorted labels of a level as they are read, only those in use, and the place (n,) of each row's among them."""
    codes = np.asarray(index.codes[level], dtype=np.int64)
    if (codes < 0).any():
        raise ValueError(
            f"{owner}: row {int(np.argmax(codes < 0))} has no {NAMES[0]} or {NAMES[1]}; give every score both"
        )
    used = np.bincount(codes, minlength=len(index.levels[level])) > 0
    place = np.full(len(used), -1, dtype=np.int64)
    place[used], labels = pd.factorize(read(index.levels[level][used]), sort=True)
    own = index.levels[level]
    whole = used.all() and own.dtype == labels.dtype and own.equals(labels)
    return (own, codes) if whole else (labels, place[codes])


def _read_days(level: Any, owner: str) -> pd.DatetimeIndex:
    if not pd.api.types.is_datetime64_any_dtype(level.dtype):
        return pd.DatetimeIndex([read_day(f"{owner}: a day", label) for label in level])
    days = pd.DatetimeIndex(level)
    if days.tz is not None:
        cure = '.tz_convert("Asia/Shanghai").tz_localize(None) gives local days'
        raise ValueError(
            f"{owner}: a day is {days[0]}, with the time zone {days.tz}; give trading days without one ({cure})"
        )
    late = days - days.normalize() > CLOSE
    if late.any():
        raise ValueError(
            f"{owner}: a day is stamped {days[late][0]}, after the close at 15:00 (midnight of another zone, or known "
            "only the day after?); give the trading day at whose close the score is known"
        )
    return days.normalize()


def _read_codes(level: Any, owner: str) -> Any:
    """Codes as qlib writes them; names that have not the form of one (of a market of one's own) stay as they are."""
    if not all(isinstance(label, str) for label in level):
        strange = next(label for label in level if not isinstance(label, str))
        raise TypeError(f"{owner}: a code is {strange!r} ({type(strange).__name__}); write SH600000")
    codes = pd.Index([_code(label, owner) for label in level])
    return level if level.dtype == object and level.equals(codes) else codes


def _code(label: str, owner: str) -> str:
    if len(label) == 8 and label[:2] in ("SH", "SZ", "BJ") and label[2:].isdigit():
        return label
    return read_code(f"{owner}: a code", label) if sum(map(str.isdigit, label)) == 6 else label


def _check_calendar(days: pd.DatetimeIndex, calendar: npt.ArrayLike | None, owner: str) -> None:
    if calendar is None:
        return
    trading = pd.DatetimeIndex(np.asarray(calendar))
    inside = days[(days >= trading[0]) & (days <= trading[-1])]
    if not len(inside):
        raise ValueError(
            f"{owner} are of {days[0].date()} to {days[-1].date()}, the data of {trading[0].date()} to "
            f"{trading[-1].date()}: there is no day in both"
        )
    closed = inside[~inside.isin(trading)]
    if len(closed):
        raise ValueError(f"{owner}: {closed[0].date()} is no trading day ({len(closed)} such days); shift the scores")


def _check_values(series: pd.Series, day: npt.NDArray[np.int64], owner: str) -> None:
    """Refuse infinite scores and no score at all, warn of nothing but equal ones; `day` (n,) is sorted."""
    values = series.to_numpy()
    if values.dtype.kind not in "fiu":  # also of Float64 in pandas 2
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.isinf(values)
    if infinite.any():
        at = int(np.argmax(infinite))
        date, code = series.index[at]
        raise ValueError(f"{owner}: {code} has the score {values[at]} on {date.date()}; NaN is no score, inf is none")
    scored = ~np.isnan(values)
    if not scored.any():
        raise ValueError(f"{owner}: all {len(values)} scores are NaN: a model has diverged, or their days have no data")
    start = np.flatnonzero(np.diff(day, prepend=-1))
    counts = np.add.reduceat(scored, start, dtype=np.int64)
    _warn_constant(np.fmin.reduceat(values, start), np.fmax.reduceat(values, start), counts, owner)


def _warn_constant(low: Any, high: Any, counts: Any, owner: str) -> None:
    """Warn where on every day with two scores or more all are equal; `low`, `high` and `counts` are of the days."""
    several = counts > 1
    if several.any() and (low == high)[several].all():
        warnings.warn(
            f"{owner}: all scores of a day are equal, on all {int(several.sum())} days: they rank nothing, the order "
            "of the codes decides",
            stacklevel=4,
        )
