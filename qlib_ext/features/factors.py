"""qlib's Alpha158 and Alpha360 factors on plain arrays, compiled by numba: the same numbers in a fraction of the time.

Legend: `D` days, `N` stocks, `F` factors, `P = LEAD + D` rows with the history that the first day looks back on. The
kernels take one stock at a time; `real` is 1.0 where a value is finite and 0.0 elsewhere.

What qlib does, and this module too: a window of w rows holds the NaN rows of a suspended stock (they count as slots,
not as observations) but never reaches before the stock's first row; one observation is enough (min_periods=1), two for
a standard deviation; infinities are NaN to a window; IdxMax and IdxMin point at the window's oldest NaN where it has
one; a comparison with NaN is False and counts; differences, ratios and logarithms of raw fields are float32, sums
float64; the regressions are its recurrence, begun on the same row.

Agreement: the same NaN pattern and relative 1e-4 (on three years of the whole market 4e-7). Two exceptions, both where
pandas leaves a residue of its running sums in a window of equal values, whose true spread is 0 and is 0 here:
STD differs by up to 1e-8 (`TOLERANCE`), and WVMA is 0 where qlib divides the residue by 1e-12 and reports 1e8 or more.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from qlib_ext.features import compiled, kernels
from qlib_ext.features.kernels import LEAD, WINDOWS, Array, Float32

FIELDS = ("open", "high", "low", "close", "vwap", "volume")
_KBAR = ("KMID", "KLEN", "KMID2", "KUP", "KUP2", "KLOW", "KLOW2", "KSFT", "KSFT2")
_PRICE = ("OPEN0", "HIGH0", "LOW0", "VWAP0")
_TREND = ("ROC", "MA", "STD", "BETA", "RSQR", "RESI", "MAX", "MIN", "QTLU", "QTLD", "RANK", "RSV")
_ORDER = ("IMAX", "IMIN", "IMXD", "CORR", "CORD", "CNTP", "CNTN", "CNTD", "SUMP", "SUMN", "SUMD")
_VOLUME = ("VMA", "VSTD", "WVMA", "VSUMP", "VSUMN", "VSUMD")
ALPHA158_NAMES = (*_KBAR, *_PRICE, *(f"{name}{w}" for name in (*_TREND, *_ORDER, *_VOLUME) for w in WINDOWS))
ALPHA360_NAMES = tuple(
    f"{name.upper()}{lag}" for name in ("close", "open", "high", "low", "vwap", "volume") for lag in range(59, -1, -1)
)
# factor -> absolute error allowed beside the relative 1e-4
TOLERANCE = {f"STD{w}": 1e-8 for w in WINDOWS}

_ROW = {name: row for row, name in enumerate(ALPHA158_NAMES)}
_BATCH = 64  # stocks that one thread takes at a time


def require_numba() -> None:
    """Raise ImportError where numba is missing."""
    if compiled.njit is None:
        raise ImportError("the fast factors need numba, which is not installed: pip install numba")


def alpha158(
    open: Array,
    high: Array,
    low: Array,
    close: Array,
    vwap: Array,
    volume: Array,
    *,
    first: npt.ArrayLike | None = None,
) -> Float32:
    """Alpha158 of every day and stock, (D, N, 158) float32 in the order of `ALPHA158_NAMES`.

    Args:
        open: (D, N) raw field, NaN where a stock does not trade; taken as float32.
        high: the same.
        low: the same.
        close: the same.
        vwap: the same.
        volume: the same.
        first: (N,) row at which each stock's series begins (its listing); by default its first row with any real
            value. Rows before it are no slots of a window, and NaN in the answer.

    Raises: ImportError without numba; ValueError where the shapes differ.

    >>> import numpy as np
    >>> close = np.array([[10.0], [11.0], [12.0]])
    >>> factors = alpha158(close, close + 1, close - 1, close, close, np.full((3, 1), 1e6))
    >>> [f"{value:.4f}" for value in factors[:, 0, ALPHA158_NAMES.index("MA5")]]  # mean close over today's
    ['1.0000', '0.9545', '0.9167']
    """
    return _grid((open, high, low, close, vwap, volume), first, ALPHA158_NAMES)


def alpha360(
    open: Array,
    high: Array,
    low: Array,
    close: Array,
    vwap: Array,
    volume: Array,
    *,
    first: npt.ArrayLike | None = None,
) -> Float32:
    """Alpha360 of every day and stock, (D, N, 360) float32: 60 days of six fields over today's close (volume).

    Arguments and errors as in `alpha158`; the order is that of `ALPHA360_NAMES`.

    >>> import numpy as np
    >>> close = np.array([[10.0], [11.0], [12.0]])
    >>> factors = alpha360(close, close + 1, close - 1, close, close, np.full((3, 1), 1e6))
    >>> f"{factors[2, 0, ALPHA360_NAMES.index('CLOSE2')]:.4f}"  # the close of two days ago over today's
    '0.8333'
    """
    return _grid((open, high, low, close, vwap, volume), first, ALPHA360_NAMES)


def _grid(fields: tuple[Array, ...], first: npt.ArrayLike | None, names: tuple[str, ...]) -> Float32:
    """Compute the factors `names` of (D, N) fields on the whole grid, (D, N, F)."""
    shapes = {np.shape(field) for field in fields}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"the six fields have shapes {[np.shape(f) for f in fields]}; wanted one shape (days, stocks)")
    days, stocks = next(iter(shapes))
    bars = np.full((len(FIELDS), stocks, LEAD + days), np.nan, dtype=np.float32)
    for row, field in enumerate(fields):
        bars[row, :, LEAD:] = np.asarray(field).T
    if first is None:
        real: npt.NDArray[np.bool_] = np.any(np.isfinite(bars), axis=0)
        start = np.where(real.any(axis=1), real.argmax(axis=1), LEAD + days)
    else:
        start = np.asarray(first, dtype=np.int64) + LEAD
    out = np.full((days * stocks, len(names)), np.nan, dtype=np.float32)
    rows = np.arange(days * stocks).reshape(days, stocks).T
    listed = np.arange(LEAD, LEAD + days) >= start[:, None]
    fill(out, bars, start, np.where(listed, rows, -1), names)
    return out.reshape(days, stocks, len(names))


def fill(
    out: Float32, bars: Float32, first: Array, rows: Array, names: tuple[str, ...], *, threads: int | None = None
) -> None:
    """Write the factors of each stock and day into the leading columns of `out`, in place.

    Args:
        out: (R, >= F) float32, one row for each stock and day wanted.
        bars: (6, N, P) float32, fields in the order of `FIELDS`, NaN where not known.
        first: (N,) row of `bars` at which the stock's series begins.
        rows: (N, D) row of `out` for each stock and day, -1 where it is not wanted.
        names: `ALPHA158_NAMES` or `ALPHA360_NAMES`.
        threads: how many to use, by default one for each processor that this process may use.

    Raises: ImportError without numba.
    """
    require_numba()
    kernel = _fill158 if names == ALPHA158_NAMES else kernels.fill360
    first, rows = np.asarray(first, dtype=np.int64), np.ascontiguousarray(rows, dtype=np.int64)

    def fill_batch(begin: int) -> None:
        batch = slice(begin, begin + _BATCH)
        kernel(out, bars[:, batch], first[batch], rows[batch])

    with ThreadPoolExecutor(max_workers=threads or processors()) as pool:
        list(pool.map(fill_batch, range(0, bars.shape[1], _BATCH)))


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fill158(out: Float32, bars: Float32, first: Array, rows: Array) -> None:
    """Run the groups of Alpha158 on each stock; each kernel compiles alone and therefore quickly."""
    block = np.empty((158, rows.shape[1]), dtype=np.float32)
    size = np.arange(LEAD + 1, bars.shape[2] + 1)  # rows up to each day, from the first row of `bars`
    derived = _derived(bars[3], bars[5])

    def at(name: str) -> Float32:
        return block[_ROW[name] :]

    for n in range(bars.shape[1]):
        if rows[n].max() < 0:
            continue
        open, high, low, close, vwap, volume = bars[:, n]
        volume_log, volume_change_log, ratio, weighted = derived[:, n]
        length = np.minimum(np.array(WINDOWS, dtype=np.float64)[:, None], size - first[n])  # rows in each window
        kernels.bars(at("KMID"), open[LEAD:], high[LEAD:], low[LEAD:], close[LEAD:], vwap[LEAD:])
        kernels.trends(at("BETA5"), close, kernels.levels(at("ROC5"), close))
        kernels.ranges(at("MAX5"), close, high, low, first[n], length)
        kernels.quantiles(at("QTLU5"), close)
        kernels.ranks(at("RANK5"), close)
        kernels.corrs(at("CORR5"), close, volume_log)
        kernels.corrs(at("CORD5"), ratio, volume_change_log)
        rise, fall = kernels.changes(at("SUMP5"), close)
        kernels.counts(at("CNTP5"), rise, fall, length)
        kernels.volumes(at("VMA5"), volume, weighted)
        kernels.changes(at("VSUMP5"), volume)
        kernels.scatter(out, block, rows[n])


def _derived(close: Float32, volume: Float32) -> Float32:
    """Logarithms of 1 + volume and of 1 + volume / yesterday's; close / yesterday's; that move's size times the volume.

    (4, N, P), by numpy: the last digit of its logarithms is qlib's.
    """
    out = np.full((4, *volume.shape), np.nan, dtype=np.float32)
    with np.errstate(all="ignore"):
        out[0] = np.log(volume + 1)
        out[1, :, 1:] = np.log(volume[:, 1:] / volume[:, :-1] + 1)
        out[2, :, 1:] = close[:, 1:] / close[:, :-1]
        out[3] = np.abs(out[2] - 1) * volume
    return out
