"""Units of volume and amount, and the market as a whole, from sums over all blocks. Private to `check_data.py`.

Legend: `D` days checked, `N` stocks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.check_data.folder import Block, FloatArray
from qlib_ext.check_data.table import Tally
from qlib_ext.rules import AMOUNT_IN_YUAN, PLAUSIBLE_TURNOVER, PROFILES, profile_of

PLAUSIBLE_TOTAL = (2e10, 1e13)  # yuan, whole market and day, from TOTAL_FROM on; in 2005 3 billion were a day's total
TOTAL_FROM = pd.Timestamp("2010-01-01")
WHOLE_MARKET = 1500  # stocks traded on the median day: from here on the total says something
JUMP = 8.0  # times the median of 20 days
ENDED = 20  # days without a bar at the end: the stock has left
STALE = 60  # days without a bar at the end, though its list goes on
DELISTED_A_YEAR = 0.002  # share of stocks, a low figure for 2010 to 2026
THIN = 0.4  # share of the stocks between their first and last bar that trade; July 2015 came to a half
SAME_FROM = 20  # bars from which an identical series is no accident


@dataclass
class Market:
    """Sums over the blocks: per day (D,), and per stock in the order of the blocks."""

    days: pd.DatetimeIndex
    value: FloatArray = field(init=False)  # close * volume
    amount: FloatArray = field(init=False)
    traded: FloatArray = field(init=False)
    alive: FloatArray = field(init=False)  # stocks between their first and last bar
    codes: list[str] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)  # median of amount / (close * volume)
    begin: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    series: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        """Start all sums at 0."""
        self.value, self.amount, self.traded, self.alive = np.zeros((4, len(self.days)))

    def add(self, block: Block) -> None:
        """Add a block."""
        close, volume, amount = block.close, block.fields["volume"], block.fields["amount"]
        value = close * volume
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(value > 0, amount / value, np.nan)
        self.value += np.nansum(np.where(np.isinf(value), np.nan, value), axis=1)
        self.amount += np.nansum(np.where(block.trades & np.isfinite(amount), amount, np.nan), axis=1)
        self.traded += block.trades.sum(axis=1)
        row = np.arange(len(self.days))[:, None]
        self.alive += ((row >= block.begin) & (row <= block.last)).sum(axis=1)
        self.codes += block.codes
        self.ratio += [_median(ratio[:, n]) for n in range(len(block.codes))]
        self.begin += block.begin.tolist()
        self.last += block.last.tolist()
        for n, code in enumerate(block.codes):
            if block.trades[:, n].sum() >= SAME_FROM and len(np.unique(close[block.trades[:, n], n])) > 2:
                both = np.ascontiguousarray(np.stack([close[:, n], volume[:, n]]))
                self.series[blake2b(both.tobytes(), digest_size=16).digest()].append(code)

    @property
    def profile(self) -> str | None:
        """Unit profile of the whole, None where the identity fits none."""
        return profile_of(_median(np.array(self.ratio)))

    @property
    def turnover(self) -> FloatArray:
        """(D,) total in yuan by the profile; by $amount in yuan where none fits."""
        if self.profile == "adjusted_shares":
            return self.value
        return self.amount * AMOUNT_IN_YUAN[self.profile or "yuan"]


def check_market(market: Market, ends: dict[str, pd.Timestamp], tally: Tally) -> None:
    """Run all checks of this module; `ends`: code -> last day of the lists that name it."""
    check_units(market, tally)
    check_ends(market, ends, tally)
    groups = [" = ".join(codes) for codes in market.series.values() if len(codes) > 1]
    tally.each("identical_series", groups, len(market.codes))


def check_units(market: Market, tally: Tally) -> None:
    """Judge the units by the identity of the fields, the size of the turnover and its steps."""
    ratio, profile, total = np.array(market.ratio), market.profile, market.turnover
    middle = _median(ratio)
    words = f"$amount / ($close * $volume) has median {middle:.4g}; 0.1 is thousand yuan over lots, 1 yuan over shares"
    tally.add("units", profile is None, 1, words)
    with np.errstate(divide="ignore"):
        other = np.flatnonzero(np.abs(np.log(ratio / middle)) > np.log(3.0))
    tally.each("units_mixed", [f"{market.codes[n]} {ratio[n]:.3g} (all: {middle:.3g})" for n in other], len(ratio))
    open_days = market.traded > 0
    if profile is None or not open_days.any():
        return
    mean = total[open_days] / market.traded[open_days]
    told = f"{PROFILES[profile]}: {mean.mean() / 1e6:,.3g} million yuan a stock and day"
    summed = f"a day's total is {np.median(total[open_days]) / 1e9:,.4g} billion yuan"
    tally.add("unit_profile", 1, 1, f"{profile}; {told}; {summed}")
    low, high = PLAUSIBLE_TURNOVER
    tally.add(
        "stock_turnover" if profile == "adjusted_shares" else "turnover_unusual",
        not low <= mean.mean() <= high,
        1,
        f"{told}, usual are {low / 1e6:,.0f} to {high / 1e6:,.0f}",
    )
    check_total(market, total, tally)
    days = market.days[open_days]
    usual = pd.Series(mean).shift(1).rolling(20, min_periods=5).median().to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        jump = np.abs(np.log(mean / usual)) > np.log(JUMP)
        cases = zip(days[jump], (mean / usual)[jump], strict=True)
    tally.each("turnover_jump", [f"{day.date()} times {ratio:.3g}" for day, ratio in cases], len(days))


def check_total(market: Market, total: FloatArray, tally: Tally) -> None:
    """Judge the turnover (D,) of a whole market, in yuan, on the days from TOTAL_FROM on."""
    judged = (market.traded > 0) & (market.days >= TOTAL_FROM)
    if not judged.any() or np.median(market.traded[judged]) < WHOLE_MARKET:
        return
    out = judged & ((total < PLAUSIBLE_TOTAL[0]) | (total > PLAUSIBLE_TOTAL[1]))
    cases = zip(market.days[out], total[out], strict=True)
    tally.each("market_total", [f"{day.date()} {sum_ / 1e9:,.4g} billion" for day, sum_ in cases], int(judged.sum()))


def check_ends(market: Market, ends: dict[str, pd.Timestamp], tally: Tally) -> None:
    """Look at where the market and its stocks end, and for days with hardly a bar."""
    count, days = len(market.days), market.days
    good = np.flatnonzero(market.traded >= 0.5 * _median(market.traded[market.traded > 0]))
    end = int(good[-1]) if len(good) else 0
    tally.add("stale_market", count - 1 - end, count, f"bars end {days[end].date()}, the days {days[-1].date()}")
    share = market.traded / np.maximum(market.alive, 1.0)
    thin = np.flatnonzero((share < THIN) & (market.alive >= 10) & (np.arange(count) <= end))
    cases = [f"{days[d].date()} {share[d]:.0%} of {market.alive[d]:.0f} stocks" for d in thin.tolist()]
    tally.each("thin_day", cases, count)
    begin, last = np.array(market.begin), np.array(market.last)
    some = last >= 0
    years = float((end - begin[some] + 1).clip(0).sum()) / 243.0
    gone, expected = int((some & (last < end - ENDED)).sum()), DELISTED_A_YEAR * years
    if expected >= 1.0:
        words = f"{gone} of {some.sum()} stocks end before the data; {expected:.0f} or more would be usual"
        tally.add("survivorship", gone < 0.25 * expected, 1, words)
    listed = [ends.get(code, days[0]) for code in market.codes]
    stale = [n for n in np.flatnonzero(some & (last < end - STALE)).tolist() if listed[n] > days[int(last[n]) + STALE]]
    tally.each("stale_stock", [f"{market.codes[n]} ends {days[last[n]].date()}" for n in stale], len(last))


def _median(values: npt.NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
