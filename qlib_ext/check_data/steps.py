"""Units that change within a series, or from some stocks to others. Private to `check_data.py`.

Legend: `D` days checked, `N` stocks, `K` spans of `SPAN` days.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.check_data.folder import Block, BoolArray, FloatArray
from qlib_ext.check_data.table import Tally

OFF = 3.0  # times the stock's median of $amount / ($close * $volume), which is constant but for the day's average price
RUN = 5  # known days in a row that are no accident
SPAN = 20  # days of which a stock's turnover is the median
FRESH = 60  # first days of a new stock, whose turnover says nothing
STEP = 1.5  # decades between the turnovers of three spans before and after; 1% of the stocks of 2018 to 2022 reach it
CLUSTERS = (1.6, 3.4)  # decades between two groups of stocks: 100 or 1,000 times; one unimodal group splits at 0.7
GROUP = (0.01, 3)  # least share and number of stocks of the smaller group


@dataclass
class Steps:
    """Turnover of each span and stock, from all blocks."""

    days: pd.DatetimeIndex
    codes: list[str] = field(default_factory=list)
    spans: list[FloatArray] = field(default_factory=list)

    def add(self, block: Block, tally: Tally) -> None:
        """Look for steps of the ratio of a block, and keep its turnover."""
        check_ratio(block, tally)
        self.codes += block.codes
        self.spans.append(span_turnover(block))

    def finish(self, tally: Tally) -> None:
        """Look at the turnover of all stocks: a step on one day, and two clusters."""
        level = np.concatenate(self.spans, axis=1)
        check_step(level, self.days, tally)
        check_clusters(level, self.codes, tally)


def first_run(found: BoolArray, least: int = RUN) -> tuple[int, int] | None:
    """First run of True in (n,) that is long enough: its begin and end (excluded); None without one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], found, [False]]).astype(np.int8))).reshape(-1, 2)
    long = edges[edges[:, 1] - edges[:, 0] >= least]
    return (int(long[0, 0]), int(long[0, 1])) if len(long) else None


def check_ratio(block: Block, tally: Tally) -> None:
    """Tell stocks whose $amount / ($close * $volume) leaves its median for days in a row, with the first such day."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = block.fields["amount"] / (block.close * block.fields["volume"])
    ratio = np.where(np.isfinite(ratio) & (ratio > 0), ratio, np.nan)
    judged = np.flatnonzero(np.isfinite(ratio).any(axis=0)).tolist()
    cases = []
    for n in judged:
        place = np.flatnonzero(np.isfinite(ratio[:, n]))
        known = ratio[place, n]
        run = first_run(np.abs(np.log(known / np.median(known))) > np.log(OFF))
        if run is not None:
            turn = run[0] or run[1]  # a run from the first day on: the day after it
            before, after = np.median(known[:turn][-SPAN:]), np.median(known[turn:][:SPAN])
            cases.append(f"{block.codes[n]} {block.days[place[turn]].date()}: {before:.3g}, then {after:.3g}")
    tally.each("units_step", cases, len(judged))


def span_turnover(block: Block) -> FloatArray:
    """(K, N) median of log10 of $amount, or of $close * $volume without it; NaN with fewer than `RUN` days."""
    amount = block.fields["amount"]
    with np.errstate(over="ignore"):
        traded = np.where(np.isfinite(amount).any(axis=0), amount, block.close * block.fields["volume"])
    row = block.offset + np.arange(len(block.days))[:, None]
    fresh = (block.first > 0) & (row < block.first + FRESH)
    sound = block.trades & np.isfinite(traded) & (traded > 0) & ~fresh
    filled = np.full((-(-len(traded) // SPAN) * SPAN, traded.shape[1]), np.nan)
    filled[: len(traded)] = np.log10(np.where(sound, traded, 1.0))
    filled[: len(traded)][~sound] = np.nan
    parts = filled.reshape(-1, SPAN, traded.shape[1])
    enough = np.isfinite(parts).sum(axis=1) >= RUN
    return np.where(enough, _nanmedian(np.where(enough[:, None], parts, 0.0), axis=1), np.nan)


def check_step(level: FloatArray, days: pd.DatetimeIndex, tally: Tally) -> None:
    """Tell the date about which the turnover of many stocks makes a lasting step.

    Single stocks do so when they come back from a suspension or go out of fashion; many at once do not.
    """
    count, size = len(level), np.zeros(level.shape[1])
    place = np.full(level.shape[1], -1)
    for k in range(1, count):
        step = _nanmedian(level[k : k + 3]) - _nanmedian(level[max(k - 3, 0) : k])
        larger = np.abs(step) > np.maximum(np.abs(size), STEP)
        size, place = np.where(larger, step, size), np.where(larger, k, place)
    groups = [np.flatnonzero((place >= k) & (place <= k + 1)) for k in range(1, count)]
    largest = max(groups, key=len, default=np.array([], dtype=np.int64))
    example = ""
    if len(largest):
        day = days[SPAN * int(np.median(place[largest]))].date()
        example = f"about {day} by a factor of {10 ** float(np.median(size[largest])):.3g} in {len(largest)} stocks"
    tally.add("turnover_step", len(largest), int(np.isfinite(level).any(axis=0).sum()), example)


def check_clusters(level: FloatArray, codes: list[str], tally: Tally) -> None:
    """Tell two groups of stocks whose turnover is about 100 or 1,000 times apart; Beijing's, which trade less, are out.

    The groups are those of least squares (two means) of a stock's median distance from the market's median of a span.
    """
    mainland = np.array([not code.startswith("BJ") for code in codes])
    usual = _nanmedian(np.where(mainland, level, np.nan), axis=1)
    apart = np.where(mainland, _nanmedian(level - usual[:, None]), np.nan)
    order = np.argsort(apart, kind="stable")[: int(np.isfinite(apart).sum())]  # NaN come last
    values = apart[order]
    split, gap, spread = two_means(values)
    smaller = min(split, len(values) - split)
    told = CLUSTERS[0] <= gap <= CLUSTERS[1] and gap > 3.0 * spread
    told = told and smaller >= max(GROUP[1], GROUP[0] * len(values))
    few = order[:split] if smaller == split else order[split:][::-1]
    example = f"{10**gap:.3g} times apart, as " + ", ".join(codes[n] for n in few[:3]) if told else ""
    tally.add("turnover_cluster", smaller if told else 0, len(values), example)


def two_means(values: FloatArray) -> tuple[int, float, float]:
    """Split sorted values in two by least squares: size of the lower part, distance of the means, larger deviation."""
    count = len(values)
    if count < 2:
        return 0, 0.0, 0.0
    lower = np.arange(1, count)
    total = np.cumsum(values)
    gap = (total[-1] - total[:-1]) / (count - lower) - total[:-1] / lower
    split = int((lower * (count - lower) * gap**2).argmax()) + 1
    return split, float(gap[split - 1]), float(max(values[:split].std(), values[split:].std()))


def _nanmedian(values: FloatArray, axis: int = 0) -> npt.NDArray[np.float64]:
    """Median of what is known; NaN without a word where nothing is."""
    empty = np.isnan(values).all(axis=axis)
    out = np.nanmedian(np.where(np.expand_dims(empty, axis), 0.0, values), axis=axis)
    return np.where(empty, np.nan, out)
