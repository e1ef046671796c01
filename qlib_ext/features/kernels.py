"""The kernels of Alpha158 and Alpha360, compiled by numba: one stock at a time, on plain arrays.

Legend: `D` days, `N` stocks, `P = LEAD + D` rows with the history that the first day looks back on; `real` is 1.0 where
a value is finite and 0.0 elsewhere. Results over the five windows are (5, D); `block` is written from its first row on.

All kernels stand in this one file, long as it is: numba keeps what it compiled on disk, and takes a function from there
while the time and size of the function's own file are unchanged. It does not look at the files of what the function
calls, whose code is compiled into it: with helpers elsewhere, a change of theirs would leave their callers stale.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from qlib_ext.features.compiled import inner as _inner
from qlib_ext.features.compiled import jit as _jit

Float32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

WINDOWS = (5, 10, 20, 30, 60)
LEAD = 60  # rows of history before a day


@_jit
def scatter(out, block, rows):  # type: ignore[no-untyped-def]
    """Write the days of a block (F, D) that are wanted into their rows of out."""
    for t in range(len(rows)):
        if rows[t] >= 0:
            for k in range(block.shape[0]):
                out[rows[t], k] = block[k, t]


@_jit
def fill360(out, bars, first, rows):  # type: ignore[no-untyped-def]
    """Write Alpha360: the last 60 days of each field over today's close, of the volume over today's; `first` unused."""
    order = (3, 0, 1, 2, 4, 5)  # close first, volume last
    for n in range(bars.shape[1]):
        for t in range(rows.shape[1]):
            if rows[n, t] >= 0:
                for f in range(6):
                    base = bars[3, n, LEAD + t] if f < 5 else bars[5, n, LEAD + t] + np.float32(1e-12)
                    for j in range(60):
                        out[rows[n, t], 60 * f + j] = bars[order[f], n, LEAD + t - 59 + j] / base


@_jit
def bars(block, open, high, low, close, vwap):  # type: ignore[no-untyped-def]
    """Shape of the day's bar and its prices over the close, 13 factors; all float32."""
    tiny, two = np.float32(1e-12), np.float32(2)
    for t in range(len(close)):
        o, h, lo, c = open[t], high[t], low[t], close[t]
        span = h - lo + tiny
        up, down, shift = h - np.maximum(o, c), np.minimum(o, c) - lo, two * c - h - lo
        block[0, t], block[1, t], block[2, t] = (c - o) / o, (h - lo) / o, (c - o) / span
        block[3, t], block[4, t] = up / o, up / span
        block[5, t], block[6, t] = down / o, down / span
        block[7, t], block[8, t] = shift / o, shift / span
        block[9, t], block[10, t], block[11, t], block[12, t] = o / c, h / c, lo / c, vwap[t] / c


@_jit
def levels(block, close):  # type: ignore[no-untyped-def]
    """ROC, MA, STD of the close; returns the (5, D) standard deviation."""
    mean, std = _moments(close)
    for k in range(5):
        past = close[LEAD - WINDOWS[k] :]
        for t in range(mean.shape[1]):
            today = close[LEAD + t]
            block[k, t] = past[t] / today
            block[5 + k, t], block[10 + k, t] = mean[k, t] / today, std[k, t] / today
    return std


@_jit
def trends(block, close, std):  # type: ignore[no-untyped-def]
    """BETA, RSQR, RESI: regression of the close on 1..w by qlib's own recurrence, begun where qlib begins it."""
    for k in range(5):
        w = WINDOWS[k]
        n = s = x = x2 = y = y2 = xy = 0.0
        for i in range(LEAD + 1 - w, len(close)):
            xy, x2, x = xy - y, x2 + s - 2 * x, x - s
            old = np.float64(close[i - w]) if i - w >= LEAD + 1 - w else np.nan
            new = np.float64(close[i])
            if not np.isnan(old):
                n, s, y, y2 = n - 1, s - 1, y - old, y2 - old * old
            if not np.isnan(new):
                n, s, x, x2 = n + 1, s + 1, x + w, x2 + w * w
                y, y2, xy = y + new, y2 + new * new, xy + w * new
            if i >= LEAD:
                t = i - LEAD
                slope = (n * xy - x * y) / (n * x2 - x * x)
                r = (n * xy - x * y) / np.sqrt((n * x2 - x * x) * (n * y2 - y * y))
                block[k, t] = slope / new
                block[5 + k, t] = np.nan if std[k, t] <= 2e-05 else r * r
                block[10 + k, t] = (new - (slope * w + (y / n - slope * (x / n)))) / new


@_jit
def ranges(block, close, high, low, first, length):  # type: ignore[no-untyped-def]
    """MAX, MIN; 25 rows later RSV, IMAX, IMIN, IMXD: places of the highest high and the lowest low in the window."""
    top, newest = _maxima(high, first)
    bottom, lowest = _maxima(-low, first)
    for k in range(5):
        w = WINDOWS[k]
        for t in range(top.shape[1]):
            today = np.float64(close[LEAD + t])
            most, least = top[k, t], -bottom[k, t]
            block[k, t], block[5 + k, t] = most / today, least / today
            block[25 + k, t] = (today - least) / (most - least + 1e-12)
            up = np.nan if np.isnan(most) else length[k, t] - newest[k, t]
            down = np.nan if np.isnan(least) else length[k, t] - lowest[k, t]
            block[30 + k, t], block[35 + k, t], block[40 + k, t] = up / w, down / w, (up - down) / w


@_jit
def volumes(block, volume, weighted):  # type: ignore[no-untyped-def]
    """VMA, VSTD, WVMA (spread of the weighted moves over their mean)."""
    tiny = np.float32(1e-12)
    mean, std = _moments(volume)
    move, spread = _moments(weighted)
    for k in range(5):
        for t in range(mean.shape[1]):
            today = np.float64(volume[LEAD + t] + tiny)
            block[k, t], block[5 + k, t] = mean[k, t] / today, std[k, t] / today
            block[10 + k, t] = spread[k, t] / (move[k, t] + 1e-12)


@_jit
def changes(block, x):  # type: ignore[no-untyped-def]
    """Give sums of gains, losses and their difference over all moves; returns whether up and whether down, 0/1."""
    rows = len(x)
    up, down, real, rise, fall = np.zeros(rows), np.zeros(rows), np.zeros(rows), np.zeros(rows), np.zeros(rows)
    for i in range(1, rows):
        step = x[i] - x[i - 1]
        if np.isfinite(step):
            up[i], down[i], real[i] = max(step, 0.0), max(-step, 0.0), 1.0
            rise[i], fall[i] = step > 0, step < 0
    count, gain, loss = _sums(real), _sums(up), _sums(down)
    for k in range(5):
        for t in range(rows - LEAD):
            p, q = (gain[k, t], loss[k, t]) if count[k, t] > 0 else (np.nan, np.nan)
            base = p + q + 1e-12
            block[k, t], block[5 + k, t], block[10 + k, t] = p / base, q / base, (p - q) / base
    return rise, fall


@_jit
def counts(block, rise, fall, length):  # type: ignore[no-untyped-def]
    """CNTP, CNTN, CNTD: share of days up, of days down and their difference."""
    more, less = _sums(rise), _sums(fall)
    for k in range(5):
        for t in range(more.shape[1]):
            p, q = more[k, t] / length[k, t], less[k, t] / length[k, t]
            block[k, t], block[5 + k, t], block[10 + k, t] = p, q, p - q


@_inner
def _split(x):  # type: ignore[no-untyped-def]
    """(P,) -> values as float64 with 0 where not finite, and 1.0/0.0 where finite or not."""
    value, real = np.zeros(len(x)), np.zeros(len(x))
    for i in range(len(x)):
        if np.isfinite(x[i]):
            value[i], real[i] = x[i], 1.0
    return value, real


@_inner
def _sums(x):  # type: ignore[no-untyped-def]
    """Sum over each window, (5, D): one pass a lag over all days, so that the processor takes several days at once."""
    days = len(x) - LEAD
    out, total, k = np.empty((5, days)), np.zeros(days), 0
    for lag in range(LEAD):
        past = x[LEAD - lag :]
        for t in range(days):
            total[t] += past[t]
        if lag + 1 == WINDOWS[k]:
            for t in range(days):
                out[k, t] = total[t]
            k += 1
    return out


@_inner
def _moments(x):  # type: ignore[no-untyped-def]
    """Mean and standard deviation of each window's real values, both (5, D)."""
    value, real = _split(x)
    count, mean = _sums(real), _sums(value)
    for k in range(5):
        for t in range(mean.shape[1]):
            mean[k, t] = mean[k, t] / count[k, t]
    return mean, _stds(value, real, count)


@_inner
def _latest(value, real):  # type: ignore[no-untyped-def]
    """Most recent real value at each of the D days: a member of every window that is not empty."""
    out, last = np.zeros(len(value) - LEAD), 0.0
    for i in range(len(value)):
        if real[i] > 0:
            last = value[i]
        if i >= LEAD:
            out[i - LEAD] = last
    return out


@_inner
def _stds(value, real, count):  # type: ignore[no-untyped-def]
    """Give the standard deviation (ddof 1) of each window, (5, D), by distances from a member of the window."""
    days = len(value) - LEAD
    centre, out, k = _latest(value, real), np.empty((5, days)), 0
    s1, s2 = np.zeros(days), np.zeros(days)
    for lag in range(LEAD):
        past, here = value[LEAD - lag :], real[LEAD - lag :]
        for t in range(days):
            gap = (past[t] - centre[t]) * here[t]
            s1[t] += gap
            s2[t] += gap * gap
        if lag + 1 == WINDOWS[k]:
            for t in range(days):
                n = count[k, t]
                out[k, t] = np.sqrt(max((s2[t] - s1[t] * s1[t] / n) / (n - 1), 0.0)) if n > 1 else np.nan
            k += 1
    return out


@_jit
def corrs(block, left, right):  # type: ignore[no-untyped-def]
    """Correlation over each window of the rows where both are real; NaN where either hardly moves (std <= 2e-5)."""
    days = len(left) - LEAD
    x, seen = _split(left)
    y, heard = _split(right)
    std, other, both = _stds(x, seen, _sums(seen)), _stds(y, heard, _sums(heard)), seen * heard
    count, cx, cy = _sums(both), _latest(x, both), _latest(y, both)
    s, k = np.zeros((5, days)), 0
    for lag in range(LEAD):
        px, py, pair = x[LEAD - lag :], y[LEAD - lag :], both[LEAD - lag :]
        for t in range(days):
            dx, dy = (px[t] - cx[t]) * pair[t], (py[t] - cy[t]) * pair[t]
            s[0, t] += dx
            s[1, t] += dy
            s[2, t] += dx * dx
            s[3, t] += dy * dy
            s[4, t] += dx * dy
        if lag + 1 == WINDOWS[k]:
            for t in range(days):
                n = count[k, t]
                vx, vy = s[2, t] - s[0, t] * s[0, t] / n, s[3, t] - s[1, t] * s[1, t] / n
                still = std[k, t] <= 2e-05 or other[k, t] <= 2e-05
                block[k, t] = np.nan if still else (s[4, t] - s[0, t] * s[1, t] / n) / np.sqrt(vx * vy)
            k += 1


@_inner
def _maxima(x, first):  # type: ignore[no-untyped-def]
    """Largest real value of each window, NaN where none, and the lag of its oldest NaN, else of its oldest maximum.

    Both (5, D); rows before `first` do not exist.
    """
    days = len(x) - LEAD
    low, high = np.float32(-np.inf), np.float32(np.inf)
    value, place = np.empty_like(x), np.empty_like(x)  # what is not real: the least to be the maximum, the first to be
    best, newest, lag_of = np.full(days, low), np.full(days, low), np.zeros(days, np.int32)
    top, where, k = np.empty((5, days)), np.empty((5, days)), 0
    for i in range(len(x)):
        real = np.isfinite(x[i])
        value[i] = x[i] if real else low
        place[i] = low if i < first else x[i] if real else high
    for lag in range(LEAD):
        past, mark = value[LEAD - lag :], place[LEAD - lag :]
        for t in range(days):
            best[t] = past[t] if past[t] > best[t] else best[t]
        for t in range(days):
            newer = mark[t] >= newest[t]
            newest[t] = mark[t] if newer else newest[t]
            lag_of[t] = np.int32(lag) if newer else lag_of[t]
        if lag + 1 == WINDOWS[k]:
            for t in range(days):
                top[k, t] = best[t] if best[t] > -np.inf else np.nan
                where[k, t] = lag_of[t]
            k += 1
    return top, where


@_jit
def ranks(block, x):  # type: ignore[no-untyped-def]
    """Share of the window's real values that are below today's, ties at their mean rank; 5 rows of `block`."""
    days, k = len(x) - LEAD, 0
    today = x[LEAD:]
    count, below, same = np.zeros(days, np.int32), np.zeros(days, np.int32), np.zeros(days, np.int32)
    for lag in range(LEAD):
        past = x[LEAD - lag :]
        for t in range(days):
            count[t] += past[t] == past[t]
            below[t] += past[t] < today[t]
            same[t] += past[t] == today[t]
        if lag + 1 == WINDOWS[k]:
            for t in range(days):
                block[k, t] = (below[t] + 0.5 * (same[t] + 1)) / count[t] if same[t] > 0 else np.nan
            k += 1


@_jit
def quantiles(block, x):  # type: ignore[no-untyped-def]
    """80% and 20% quantile of each window's real values over today's, linear between ranks; 10 rows of `block`."""
    line = np.empty(LEAD)
    for k in range(5):
        w, n = WINDOWS[k], 0
        begin = LEAD + 1 - w
        for i in range(begin, len(x)):
            if i - w >= begin and np.isfinite(x[i - w]):
                n = _remove(line, n, x[i - w])
            if np.isfinite(x[i]):
                n = _insert(line, n, x[i])
            if i >= LEAD:
                block[k, i - LEAD] = _between(line, n, 0.8) / x[i]
                block[5 + k, i - LEAD] = _between(line, n, 0.2) / x[i]


@_inner
def _insert(line, n, value):  # type: ignore[no-untyped-def]
    """Put a value into the first n sorted values of `line`; returns their new number."""
    j = n
    while j > 0 and line[j - 1] > value:
        line[j] = line[j - 1]
        j -= 1
    line[j] = value
    return n + 1


@_inner
def _remove(line, n, value):  # type: ignore[no-untyped-def]
    """Take a value out of the first n sorted values of `line`; returns their new number."""
    j = n - 1
    while line[j] != value:
        j -= 1
    for i in range(j, n - 1):
        line[i] = line[i + 1]
    return n - 1


@_inner
def _between(line, n, share):  # type: ignore[no-untyped-def]
    """Quantile of the first n sorted values of `line`; NaN where n is 0."""
    if n == 0:
        return np.nan
    place = share * (n - 1)
    low = int(place)
    if low + 1 >= n:
        return line[low]
    return line[low] + (line[low + 1] - line[low]) * (place - low)
