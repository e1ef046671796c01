"""Trailing windows of daily bars, compiled by numba: n stocks at a time, P rows in, the D days after `LEAD` out.

A window is put together from shorter ones (250 = 2 x 120 + 2 x 5 rows), always in the same order: a dozen additions for
all five, no running sum that drifts, and the same bits wherever the rows begin. Here stand the kernels with all that
they call, for the reason that `kernels` tells.
"""

import numpy as np

from qlib_ext.features.compiled import inner as _inner
from qlib_ext.features.compiled import jit as _jit

WINDOWS = (5, 20, 60, 120, 250)
CARRIED = 60  # rows that a price is carried forward through a suspension
LEAD = WINDOWS[-1] + CARRIED  # rows of history before a day
TILE = 16


@_jit
def totals(x, count):  # type: ignore[no-untyped-def]
    """Sum of the finite values (n, P) of each of the first `count` windows, (count, n, D)."""
    stocks, rows = x.shape
    days = rows - LEAD
    out = np.empty((count, stocks, days))
    value, week, month, quarter, half = np.empty(rows), np.empty(rows), np.empty(rows), np.empty(rows), np.empty(rows)
    for n in range(stocks):
        row = x[n]
        for i in range(rows):
            value[i] = row[i] if abs(row[i]) < np.inf else 0.0
        _add(value, week, 1, 5)
        out[0, n] = week[LEAD - 4 : rows - 4]
        if count > 1:
            _add(week[: rows - 4], month, 5, 4)
            out[1, n] = month[LEAD - 19 : rows - 19]
        if count > 2:
            _add(month[: rows - 19], quarter, 20, 3)
            out[2, n] = quarter[LEAD - 59 : rows - 59]
        if count > 3:
            _add(quarter[: rows - 59], half, 60, 2)
            out[3, n] = half[LEAD - 119 : rows - 119]
        if count > 4:
            late, early, fifth, first = half[LEAD - 119 :], half[LEAD - 239 :], week[LEAD - 244 :], week[LEAD - 249 :]
            year = out[4, n]
            for t in range(days):
                year[t] = late[t] + early[t] + fifth[t] + first[t]
    return out


@_inner
def _add(x, out, step, count):  # type: ignore[no-untyped-def]
    """Add up `count` values each `step` rows apart; `out` has them at the row of the first, slices being quick."""
    length = len(x) - (count - 1) * step
    for i in range(length):
        out[i] = x[i]
    for k in range(1, count):
        later = x[k * step :]
        for i in range(length):
            out[i] += later[i]


@_jit
def maxima(x):  # type: ignore[no-untyped-def]
    """Largest finite value (n, P) of each window, -inf where none, and how many rows ago it last was: (5, n, D)."""
    stocks, rows = x.shape
    top, ago = np.empty((5, stocks, rows - LEAD)), np.empty((5, stocks, rows - LEAD))
    for n in range(stocks):
        best, lag = np.empty(rows), np.zeros(rows)
        for i in range(rows):
            best[i] = x[n, i] if np.isfinite(x[n, i]) else -np.inf
        week, week_lag = _reach(best, lag, 1, 5)
        month, month_lag = _reach(week, week_lag, 5, 4)
        quarter, quarter_lag = _reach(month, month_lag, 20, 3)
        half, half_lag = _reach(quarter, quarter_lag, 60, 2)
        year, year_lag = _reach(half, half_lag, 120, 2)
        for t in range(rows - LEAD):
            i = t + LEAD
            for shift in (240, 245):
                if week[i - shift] > year[i]:
                    year[i], year_lag[i] = week[i - shift], week_lag[i - shift] + shift
        top[0, n], ago[0, n] = week[LEAD:], week_lag[LEAD:]
        top[1, n], ago[1, n] = month[LEAD:], month_lag[LEAD:]
        top[2, n], ago[2, n] = quarter[LEAD:], quarter_lag[LEAD:]
        top[3, n], ago[3, n] = half[LEAD:], half_lag[LEAD:]
        top[4, n], ago[4, n] = year[LEAD:], year_lag[LEAD:]
    return top, ago


@_inner
def _reach(best, lag, step, count):  # type: ignore[no-untyped-def]
    """Largest value and its lag of `count` windows of `step` rows that follow each other; the latest among equals."""
    top, ago = best.copy(), lag.copy()
    for k in range(1, count):
        for i in range(k * step, len(best)):
            if best[i - k * step] > top[i]:
                top[i], ago[i] = best[i - k * step], lag[i - k * step] + k * step
    return top, ago


@_jit
def largest(x, window, count):  # type: ignore[no-untyped-def]
    """Mean of the `count` largest finite values (n, P) of each window, (n, D); NaN where there are fewer."""
    stocks, rows = x.shape
    out, best = np.empty((stocks, rows - LEAD)), np.empty(count)
    for n in range(stocks):
        for t in range(rows - LEAD):
            best[:] = -np.inf
            for i in range(t + LEAD - window + 1, t + LEAD + 1):
                value = x[n, i]
                if value > best[count - 1]:  # which NaN is not
                    j = count - 1
                    while j > 0 and best[j - 1] < value:
                        best[j] = best[j - 1]
                        j -= 1
                    best[j] = value
            out[n, t] = best.mean() if best[count - 1] > -np.inf else np.nan
    return out


@_jit
def drawdown(x):  # type: ignore[no-untyped-def]
    """Largest fall from a high to a later low within each window of positive values (n, P), as a share: (5, n, D)."""
    stocks, rows = x.shape
    out = np.empty((5, stocks, rows - LEAD))
    for n in range(stocks):
        high, low, fall = np.empty(rows), np.empty(rows), np.zeros(rows)
        for i in range(rows):
            finite = np.isfinite(x[n, i])
            high[i], low[i] = (x[n, i], x[n, i]) if finite else (0.0, np.inf)
        week = _falls(high, low, fall, 1, 5)
        month = _falls(week[0], week[1], week[2], 5, 4)
        quarter = _falls(month[0], month[1], month[2], 20, 3)
        half = _falls(quarter[0], quarter[1], quarter[2], 60, 2)
        year = _falls(half[0], half[1], half[2], 120, 2)
        out[0, n], out[1, n], out[2, n], out[3, n] = week[2][LEAD:], month[2][LEAD:], quarter[2][LEAD:], half[2][LEAD:]
        for t in range(rows - LEAD):
            i = t + LEAD
            peak, worst = 0.0, 0.0
            for shift in (245, 240):
                worst = max(worst, week[2][i - shift], 1.0 - week[1][i - shift] / peak)
                peak = max(peak, week[0][i - shift])
            out[4, n, t] = max(worst, year[2][i], 1.0 - year[1][i] / peak)
    return out


@_inner
def _falls(high, low, fall, step, count):  # type: ignore[no-untyped-def]
    """High, low and largest fall of `count` windows of `step` rows that follow each other."""
    top, bottom, worst = high.copy(), low.copy(), fall.copy()
    for k in range(1, count):
        for i in range(k * step, len(high)):
            past = i - k * step
            worst[i] = max(worst[i], fall[past], 1.0 - bottom[i] / high[past])
            top[i], bottom[i] = max(top[i], high[past]), min(bottom[i], low[past])
    return top, bottom, worst


@_jit
def carry(x):  # type: ignore[no-untyped-def]
    """Values (n, P), each carried forward through at most `CARRIED` rows that are not finite."""
    out = x.copy()
    for n in range(x.shape[0]):
        age = CARRIED
        for i in range(x.shape[1]):
            age = 0 if np.isfinite(x[n, i]) else age + 1
            if 0 < age <= CARRIED:
                out[n, i] = out[n, i - 1]
    return out


@_jit
def scatter(out, block, rows):  # type: ignore[no-untyped-def]
    """Write the days of a block (F, n, D) that are wanted, `rows` (n, D) at least 0, into their rows of `out`."""
    for n in range(rows.shape[0]):
        for begin in range(0, rows.shape[1], TILE):  # so few rows of `out` stay in the cache
            end = min(begin + TILE, rows.shape[1])
            for k in range(block.shape[0]):
                for t in range(begin, end):
                    if rows[n, t] >= 0:
                        out[rows[n, t], k] = block[k, n, t]
