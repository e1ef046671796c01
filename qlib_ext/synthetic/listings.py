"""What is fixed before the first day of the embedded market: calendar, codes, listings, corporate actions.

Legend: `D` trading days, `N` stocks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.rules import price_limit

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

DAYS_A_YEAR = 243
OLD = 1000  # trading days since listing of a stock that was listed before the calendar begins
# Chinese New Year by year; other years take 4 February
_NEW_YEAR = (
    "2005-02-09 2006-01-29 2007-02-18 2008-02-07 2009-01-26 2010-02-14 2011-02-03 2012-01-23 2013-02-10 "
    "2014-01-31 2015-02-19 2016-02-08 2017-01-28 2018-02-16 2019-02-05 2020-01-25 2021-02-12 2022-02-01 "
    "2023-01-22 2024-02-10 2025-01-29 2026-02-17 2027-02-06 2028-01-26 2029-02-13 2030-02-03"
).split()
# share of stocks, first day of the board, (first number, count) of its codes in order
_BOARDS = {
    "SH60": (0.33, "1990-12-19", ((600000, 2000), (603000, 1000), (605000, 600))),
    "SZ00": (0.30, "1990-12-19", ((1, 1000), (2001, 999), (3001, 800))),
    "SZ30": (0.25, "2009-10-30", ((300001, 999), (301001, 999))),
    "SH68": (0.10, "2019-07-22", ((688001, 999),)),
    "BJ": (0.02, "2021-11-15", ((430001, 999), (830001, 999))),
}
MAX_STOCKS = 5500  # what the ranges of the codes hold


@dataclass(frozen=True)
class Setup:
    """Everything known before the simulation starts.

    `days` (D,) datetime64; `codes` N sorted codes; `first`, `last` (N,) first and last day of each stock as
    positions in the calendar (inclusive); `doomed` (N,) delisted within it; `age` (D, N) trading days since
    listing (1 = first day, <= 0 before); `limit_up`, `limit_down` (D, N) fractions; `actions`: day ->
    (stocks, new shares for each old one, cash yield).
    """

    days: npt.NDArray[np.datetime64]
    codes: tuple[str, ...]
    first: IntArray
    last: IntArray
    doomed: BoolArray
    age: IntArray
    limit_up: FloatArray
    limit_down: FloatArray
    actions: dict[int, tuple[IntArray, FloatArray, FloatArray]]


def trading_days(start: str, years: float) -> npt.NDArray[np.datetime64]:
    """Weekdays from `start` over `years` without the Chinese public holidays (no make-up days), (D,)."""
    first = pd.Timestamp(start)
    last = first + pd.Timedelta(days=round(365.25 * years) - 1)
    days = pd.bdate_range(first, last)
    closed = set().union(*(_holidays(year) for year in range(first.year, last.year + 1)))
    return days[~days.isin(pd.DatetimeIndex(sorted(closed)))].to_numpy().astype("datetime64[D]")


def build_setup(rng: np.random.Generator, *, n_stocks: int, start: str, years: float) -> Setup:
    """Draw the stocks: codes on all boards, listings (3% a year), delistings (1%), corporate actions."""
    days = trading_days(start, years)
    span = len(days) / DAYS_A_YEAR
    prefixes, first = _listings(rng, days, n_stocks, span)
    codes = _codes(rng, prefixes, first)
    order = np.argsort(codes)
    codes, first = codes[order], first[order]
    last = np.full(n_stocks, len(days) - 1)
    doomed = np.zeros(n_stocks, dtype=bool)
    old = np.flatnonzero(first == 0)
    n_dead = min(round(0.01 * n_stocks * span), len(old) // 4) if len(days) > 60 else 0
    dead = rng.choice(old, n_dead, replace=False)
    doomed[dead] = True
    last[dead] = rng.integers(len(days) // 4, len(days) - 2, n_dead)
    age = np.arange(len(days))[:, None] - first + 1
    age[:, first == 0] += OLD
    names = tuple(codes.tolist())
    up, down = (price_limit(names, days, listed_days=age, side=side) for side in ("up", "down"))
    return Setup(days, names, first, last, doomed, age, up, down, _actions(rng, days, first, last))


def _holidays(year: int) -> set[pd.Timestamp]:
    """Give the closed days of one year, weekends among them; a single day on a weekend moves to Monday."""
    spring = pd.Timestamp(next((day for day in _NEW_YEAR if day.startswith(f"{year}-")), f"{year}-02-04"))
    dragon = _festival(spring, 122, pd.Timestamp(year, 5, 28))
    moon = _festival(spring, 221, pd.Timestamp(year, 9, 7))
    closed = set(pd.date_range(spring - pd.Timedelta(days=1), spring + pd.Timedelta(days=6)))
    for week in ((f"{year}-05-01", f"{year}-05-05"), (f"{year}-10-01", f"{year}-10-07")):
        closed |= set(pd.date_range(*week))
    for day in (pd.Timestamp(year, 1, 1), pd.Timestamp(year, 4, 5), dragon, moon):
        closed.add(day + pd.Timedelta(days=7 - day.weekday() if day.weekday() >= 5 else 0))
    return closed


def _festival(spring: pd.Timestamp, days: int, earliest: pd.Timestamp) -> pd.Timestamp:
    """Give the day so many days after the Spring Festival, a month later where a leap month lies between."""
    day = spring + pd.Timedelta(days=days)
    return day if day >= earliest else day + pd.Timedelta(days=29)


def _listings(
    rng: np.random.Generator, days: npt.NDArray[np.datetime64], n_stocks: int, span: float
) -> tuple[npt.NDArray[np.str_], IntArray]:
    """Board prefix and first day (position in the calendar, 0 = before it) of each stock, both (N,)."""
    names = list(_BOARDS)
    opening = np.array([np.searchsorted(days, np.datetime64(_BOARDS[name][1])) for name in names])
    share = np.array([_BOARDS[name][0] for name in names]) * (opening < len(days) - 1)
    counts = np.floor(share / share.sum() * n_stocks).astype(int)
    counts[0] += n_stocks - counts.sum()
    if n_stocks >= 30:  # a few of every board that exists, also in a small market
        counts = np.where((share > 0) & (counts == 0), 1, counts)
        counts[0] -= counts.sum() - n_stocks
    board = np.repeat(np.arange(len(names)), counts)
    first = np.zeros(n_stocks, dtype=np.int64)
    late = opening[board] > 0  # the board opens within the calendar
    low = opening[board[late]]
    first[late] = low + ((len(days) - 1 - low) * 0.6 * rng.random(late.sum()) ** 2).astype(int)
    n_new = min(max(round(0.03 * n_stocks * span) - int(late.sum()), 0), int((~late).sum()) // 2)
    new = rng.choice(np.flatnonzero(~late), n_new, replace=False)
    first[new] = rng.integers(1, max(len(days) - 5, 2), n_new)
    return np.array(names)[board], first


def _codes(rng: np.random.Generator, prefixes: npt.NDArray[np.str_], first: IntArray) -> npt.NDArray[np.str_]:
    """Codes (N,), spread over the numbers that the exchanges use; later listings get higher numbers."""
    codes = np.empty(len(prefixes), dtype="U8")
    for prefix, (_, _, ranges) in _BOARDS.items():
        numbers = np.concatenate([np.arange(low, low + length) for low, length in ranges])
        own = np.flatnonzero(prefixes == prefix)
        own = own[np.argsort(first[own], kind="stable")]
        chosen = np.sort(rng.choice(numbers, len(own), replace=False))
        codes[own] = [f"{prefix[:2]}{number:06d}" for number in chosen]
    return codes


def _actions(
    rng: np.random.Generator, days: npt.NDArray[np.datetime64], first: IntArray, last: IntArray
) -> dict[int, tuple[IntArray, FloatArray, FloatArray]]:
    """Ex-rights days, at most one a year, May to July: cash (60%), stock dividends or splits (12%)."""
    month = days.astype("datetime64[M]").astype(int) % 12 + 1
    year, n_stocks = days.astype("datetime64[Y]").astype(int), len(first)
    actions = {}
    for value in np.unique(year[(month >= 5) & (month <= 7)]):
        season = np.flatnonzero((year == value) & (month >= 5) & (month <= 7))
        ex_day = rng.choice(season, n_stocks)
        size = 0.015 * np.exp(0.6 * rng.standard_normal(n_stocks))
        cash = np.where(rng.random(n_stocks) < 0.6, size, 0.0)
        bonus = rng.choice([1.2, 1.3, 1.4, 1.5, 1.8, 2.0], n_stocks)
        ratio = np.where(rng.random(n_stocks) < 0.12, bonus, 1.0)
        use = ((cash > 0) | (ratio > 1)) & (ex_day > first + 60) & (ex_day <= last)
        for day in np.unique(ex_day[use]):
            stocks = np.flatnonzero(use & (ex_day == day))
            actions[int(day)] = (stocks, ratio[stocks], cash[stocks])
    return actions
