"""The factors of `daily_table` on plain arrays: what daily bars tell beyond Alpha158.

Legend: `D` days, `N` stocks, `F` factors, `P = DAILY_LEAD + D` rows with the history that the first day looks back on.

All of it is known at the close of its day. The mean stock is the plain mean of the moves of the day's members
(`member`). A day on which a stock does not trade has no factor (NaN), and in windows it is no observation. Prices are
adjusted, so that ex-rights move nothing, and no factor changes with the scale of the adjusted price (volume in adjusted
shares: c v is money); only VALUE and AMIHUD, levels of money, shift with its unit. What would be infinite is NaN.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.features.daily_bars import DailyBars, Grid
from qlib_ext.features.daily_kernels import LEAD as DAILY_LEAD
from qlib_ext.features.daily_kernels import scatter
from qlib_ext.features.daily_table import DAILY, DAILY_NAMES, GROUPS
from qlib_ext.features.factors import FIELDS, processors, require_numba
from qlib_ext.features.kernels import Array, Float32
from qlib_ext.options import check_choice
from qlib_ext.rules import NEW_DAYS, is_a_share, is_index, price_limit

DAILY_FIELDS = (*FIELDS, "factor")
_LARGEST = np.finfo(np.float32).max
_CLOSE, _VALUES = FIELDS.index("close"), 2**15  # values of a series that one thread works on at a time: they stay near


def chosen(groups: Iterable[str] | None = None, exclude: Iterable[str] = ()) -> tuple[str, ...]:
    """Names of the factors of some groups (None: of all) without those named in `exclude`, groups or factors.

    Raises: ValueError for another name, or where none is left.

    >>> chosen(["market", "survivor"], exclude=["survivor", "LEADS60"])[:3]
    ('MBETA60', 'MBETA250', 'DOWNBETA60')
    """
    for what, names, allowed in (("groups", groups, GROUPS), ("exclude", exclude, (*GROUPS, *DAILY_NAMES))):
        if isinstance(names, str) or not isinstance(names or (), Iterable):
            raise ValueError(f"{what} is {names!r}; wanted is a list, such as [survivor]")
        for name in names or ():
            check_choice(f"{what}: factor or group" if what == "exclude" else what, name, allowed)
    kept, out = set(GROUPS if groups is None else groups), set(exclude)
    names = tuple(f.name for f in DAILY if f.group in kept and not {f.group, f.name} & out)
    if not names:
        raise ValueError(f"groups {sorted(kept)} without {sorted(out)}: no factor is left")
    return names


def daily_factors(
    fields: Mapping[str, Array],
    codes: Sequence[str],
    days: Any,
    *,
    member: npt.ArrayLike | None = None,
    age: npt.ArrayLike | None = None,
    names: Sequence[str] = DAILY_NAMES,
) -> Float32:
    """Compute the factors of every day and stock, (D, N, F) float32.

    Args:
        fields: open, high, low, close, volume (D, N), adjusted, NaN where a stock does not trade; factor and vwap where
            known. Without factor there are no PRICE and no limits (NaN).
        codes: N codes, whose boards tell the price limits; those of no A share have none.
        days: D trading days that follow each other.
        member: (D, N) bool, stocks of the day's universe, of which the mean stock is made; None: all. Indices are none.
        age: (D, N) trading days since listing, 1 on the first; None: since the first close of the grid, inf for stocks
            that have one on its first day.
        names: of the factors, in this order.

    Raises: ImportError without numba; ValueError for another name, a field that lacks, or shapes that differ.

    >>> close = np.exp(np.cumsum(np.full((300, 2), 0.01) * [1.0, -1.0], axis=0))
    >>> fields = dict.fromkeys(("open", "high", "low", "close"), close) | {"volume": np.ones((300, 2))}
    >>> days = pd.bdate_range("2020-01-02", periods=300)
    >>> daily_factors(fields, ["SH600000", "SZ000001"], days, names=["RET120", "MOM250"])[-1].round(2).tolist()
    [[1.2000000476837158, 2.299999952316284], [-1.2000000476837158, -2.299999952316284]]
    """
    shape = (len(days), len(codes))
    for name in names:
        check_choice("factor", name, DAILY_NAMES)
    if lacking := [f for f in ("open", "high", "low", "close", "volume") if f not in fields]:
        raise ValueError(f"daily_factors: the fields lack {', '.join(lacking)}")
    given = {"member": member, "age": age} | {name: fields[name] for name in DAILY_FIELDS if name in fields}
    for name, grid in given.items():
        if grid is not None and np.shape(grid) != shape:
            raise ValueError(f"daily_factors: {name} has shape {np.shape(grid)}; wanted (days, stocks) = {shape}")
    bars = np.full((len(DAILY_FIELDS), shape[1], DAILY_LEAD + shape[0]), np.nan, dtype=np.float32)
    for row, name in enumerate(DAILY_FIELDS):
        if name in fields:
            bars[row, :, DAILY_LEAD:] = np.asarray(fields[name]).T
    if age is None:
        traded = np.isfinite(np.asarray(fields["close"], dtype=np.float64))
        first = np.where(traded.any(axis=0), traded.argmax(axis=0), shape[0])
        age = np.where(first == 0, np.inf, np.arange(shape[0])[:, None] - first + 1.0)
    inside = np.zeros((shape[1], DAILY_LEAD + shape[0]), dtype=np.bool_)
    inside[:, DAILY_LEAD:] = True if member is None else np.asarray(member, dtype=bool).T
    ages = np.full(inside.shape, np.nan)
    ages[:, DAILY_LEAD:] = np.asarray(age, dtype=np.float64).T
    out = np.full((shape[0] * shape[1], len(names)), np.nan, dtype=np.float32)
    fill_daily(
        out, bars, np.arange(len(out)).reshape(shape).T, codes=codes, days=pd.DatetimeIndex(days), member=inside,
        age=ages, names=names,
    )  # fmt: skip
    return out.reshape(*shape, len(names))


def fill_daily(
    out: Float32,
    bars: Float32,
    rows: Array,
    *,
    codes: Sequence[str],
    days: pd.DatetimeIndex,
    member: npt.NDArray[np.bool_],
    age: Grid,
    names: Sequence[str],
    threads: int | None = None,
) -> None:
    """Write the factors of each stock and day into the leading columns of `out`, in place.

    Args:
        out: (R, >= F) float32, one row for each stock and day wanted.
        bars: (7, N, P) float32, fields in the order of `DAILY_FIELDS`, NaN where not known.
        rows: (N, D) row of `out` for each stock and day, -1 where it is not wanted.
        codes: N codes.
        days: the last of the P rows' days, as many as the calendar has.
        member: (N, P) whether a stock is one of the day's universe.
        age: (N, P) trading days since listing.
        names: of the factors.
        threads: how many to use, by default one for each processor that this process may use.

    Raises: ImportError without numba.
    """
    require_numba()
    measures = {factor.name: factor.measure for factor in DAILY}
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    lead = bars.shape[2] - len(days)
    weekday = np.concatenate([np.zeros(lead, dtype=np.int64), np.asarray(days.day_of_week, dtype=np.int64)])
    common = {"market": mean_stock(bars[_CLOSE], codes, member), "weekday": weekday}
    limits = price_limits(codes, days, age)

    def fill_batch(part: npt.NDArray[np.int64]) -> None:
        limit_up, limit_down = (side[part] for side in limits)
        fields = {name: bars[row, part] for row, name in enumerate(DAILY_FIELDS)}
        block = np.empty((len(names), len(part), rows.shape[1]), dtype=np.float32)
        with np.errstate(all="ignore"):
            stocks = DailyBars(fields, age=age[part], limit_up=limit_up, limit_down=limit_down, **common)
            for row, name in enumerate(names):
                value = measures[name](stocks)
                block[row] = np.where(stocks.traded & (np.abs(value) <= _LARGEST), value, np.nan)
        scatter(out, block, rows[part])

    wanted, size = np.flatnonzero((rows >= 0).any(axis=1)), max(1, _VALUES // bars.shape[2])
    parts = [wanted[n : n + size] for n in range(0, len(wanted), size)]
    with ThreadPoolExecutor(max_workers=threads or processors()) as pool:
        list(pool.map(fill_batch, parts))


def mean_stock(close: Float32, codes: Sequence[str], member: npt.NDArray[np.bool_]) -> Grid:
    """Mean move of the members of each day that trade on it and on the day before, (P,); NaN where there is none.

    Args:
        close: (N, P) adjusted closes.
        codes: N codes; indices are left out.
        member: (N, P) bool.
    """
    total, count = np.zeros(close.shape[1]), np.zeros(close.shape[1])
    stock = np.array([not is_index(code) for code in codes], dtype=np.bool_)
    for n in range(0, len(codes), 64):
        price = close[n : n + 64].astype(np.float64)
        with np.errstate(all="ignore"):
            move = price[:, 1:] / price[:, :-1] - 1
        there = np.isfinite(move) & member[n : n + 64, 1:] & stock[n : n + 64, None]
        total[1:] += np.where(there, move, 0.0).sum(axis=0)
        count[1:] += there.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def price_limits(codes: Sequence[str], days: pd.DatetimeIndex, age: Grid) -> tuple[Float32, Float32]:
    """Price limits of the stocks as fractions, up and down (N, P); NaN where there is none to know.

    As `rules.price_limit`, looked up once a board, and by their age for stocks that are new within these days.

    Args:
        codes: N codes, of which those of no A share have no limit.
        days: the last of the P rows' days.
        age: (N, P) trading days since listing.
    """
    up, lead = np.full(age.shape, np.nan, dtype=np.float32), age.shape[1] - len(days)
    boards: dict[str, Grid] = {}
    shares = np.array([is_a_share(code) for code in codes], dtype=np.bool_)
    for n in np.flatnonzero(shares).tolist():
        series = codes[n][:5].upper()
        if series not in boards:
            boards[series] = price_limit([codes[n]], days)[:, 0]
        up[n, lead:] = boards[series]
    down = up.copy()
    new = np.flatnonzero(shares & ((age >= 1) & (age <= NEW_DAYS)).any(axis=1)).tolist()
    for grid, side in ((up, "up"), (down, "down")):
        some = [codes[n] for n in new]
        grid[new, lead:] = price_limit(some, days, listed_days=age[new, lead:].T, side=side).T
    return up, down
