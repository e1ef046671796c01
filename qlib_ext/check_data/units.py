"""Units of volume and amount, and the market as a whole, from sums over all blocks.

Legend: `D` days checked, `N` stocks, `K` spans of `SPAN` days.
"""

import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from os.path import commonprefix

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.check_data.folder import Block
from qlib_ext.check_data.table import BoolArray, Check, FloatArray, Tally
from qlib_ext.rules import AMOUNT_IN_YUAN, PLAUSIBLE_TURNOVER, PROFILES, TELLING, VOLUMES, decide, evidence, rescaled

Dates = tuple[pd.Timestamp, pd.Timestamp]
PLAUSIBLE_TOTAL = (2e10, 1e13)  # yuan, whole market and day, from TOTAL_FROM on; in 2005 3 billion were a day's total
TOTAL_FROM = pd.Timestamp("2010-01-01")
WHOLE_MARKET = 1500  # stocks traded on the median day: from here on the total says something
JUMP = 8.0  # times the median of 20 days
ENDED = 20  # days without a bar at the end: the stock has left
STALE = 60  # days without a bar at the end, though its list goes on
DELISTED_A_YEAR = 0.002  # share of stocks, a low figure for 2010 to 2026
THIN = 0.4  # share of the stocks between their first and last bar that trade; July 2015 came to a half
SAME_FROM = 20  # bars from which an identical series is no accident
OFF = 3.0  # times the stock's median of $amount / ($close * $volume), which is constant but for the day's average price
RUN = 5  # known days in a row that are no accident
SPAN = 20  # days of which a stock's turnover is the median
FRESH = 60  # first days of a new stock, whose turnover says nothing
STEP = 1.5  # decades between the turnovers of three spans before and after; 1% of the stocks of 2018 to 2022 reach it
CLUSTERS = (1.6, 3.4)  # decades between two groups of stocks: 100 or 1,000 times; one unimodal group splits at 0.7
EMPTY = np.empty((0, 0))
GROUP = (0.01, 3)  # least share and number of stocks of the smaller group


UNITS: dict[str, Check] = {
    "identical_series": Check("error", "two codes hold the same series: remove one, it counts twice"),
    "units": Check("error", "give DayDatasetH liquidity: the profile, or the expression in yuan, that is right"),
    "unit_profile": Check("info", "liquidity: auto will find this"),
    "units_mixed": Check("warning", "some stocks have other units than the rest: dump them again", error_from=0.2),
    "units_step": Check(
        "warning", "from the day on $volume or $amount has another unit: dump all years from one source", error_from=0.2
    ),
    "turnover_step": Check(
        "warning", "so many stocks do not jump at once: $volume may be lots before or after", told_from=0.02
    ),
    "turnover_cluster": Check("error", "some stocks have $volume in lots, the others in shares: dump them alike"),
    "stock_turnover": Check(
        "error",
        "wrong units of $volume? Give liquidity: what would fit; or the profile by name, where these are yuan (Beijing "
        "stocks, years before 2006, a few stocks)",
    ),
    "turnover_unusual": Check(
        "warning",
        "$amount fits $close * $volume, but is it yuan? Beijing stocks, years before 2006 and a few stocks can be "
        "outside; else give liquidity: an expression in yuan",
    ),
    "market_total": Check(
        "warning", "20 billion to 10 trillion yuan a day are plausible from 2010 on: check the units", error_from=0.05
    ),
    "turnover_jump": Check("warning", "a stock's mean turnover moved eightfold: units change, or volume is missing"),
    "survivorship": Check("warning", "delisted stocks are missing, which flatters returns: only compare models"),
    "stale_stock": Check("warning", "the list goes on, the bars do not: update the data, or end the stock in the list"),
    "short_stock": Check(
        "warning",
        "few days only, and the list begins long before: did an update overwrite them? Dump all days again",
        told_from=0.02,
        error_from=0.2,
    ),
    "stale_market": Check("error", "update the bars to the calendar's end, or end the segments earlier"),
    "thin_day": Check("warning", "most stocks have no bar: download the day again"),
}


@dataclass
class Market:
    """Sums over the blocks: per day (D,), and per stock in the order of the blocks."""

    days: pd.DatetimeIndex
    value: FloatArray = field(init=False)  # close * volume
    raw_value: FloatArray = field(init=False)  # close / factor * volume
    amount: FloatArray = field(init=False)
    traded: FloatArray = field(init=False)
    alive: FloatArray = field(init=False)  # stocks between their first and last bar
    codes: list[str] = field(default_factory=list)
    found: list[pd.DataFrame] = field(default_factory=list)  # `rules.evidence` of the units
    begin: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    spans: list[FloatArray] = field(default_factory=list)  # see `span_turnover`
    series: dict[bytes, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        """Start all sums at 0."""
        self.value, self.raw_value, self.amount, self.traded, self.alive = np.zeros((5, len(self.days)))

    def add(self, block: Block) -> None:
        """Add a block."""
        close, volume, amount = block.close, block.fields["volume"], block.fields["amount"]
        self.value += np.nansum(np.where(np.isinf(block.value), np.nan, block.value), axis=1)
        self.raw_value += np.nansum(np.where(np.isinf(block.raw_value), np.nan, block.raw_value), axis=1)
        self.amount += np.nansum(np.where(block.trades & np.isfinite(amount), amount, np.nan), axis=1)
        self.traded += block.trades.sum(axis=1)
        row = np.arange(len(self.days))[:, None]
        self.alive += ((row >= block.begin) & (row <= block.last)).sum(axis=1)
        self.codes += block.codes
        self.found.append(evidence({name: block.fields[name[1:]] for name in TELLING} | {"$close": close}))
        self.begin += block.begin.tolist()
        self.last += block.last.tolist()
        self.spans.append(span_turnover(block))
        for n, code in enumerate(block.codes):
            if block.trades[:, n].sum() >= SAME_FROM and len(np.unique(close[block.trades[:, n], n])) > 2:
                both = np.ascontiguousarray(np.stack([close[:, n], volume[:, n]]))
                self.series[blake2b(both.tobytes(), digest_size=16).digest()].append(code)

    @property
    def evidence(self) -> pd.DataFrame:
        """Evidence of the units, a row for each stock; none of no block."""
        return pd.concat(self.found, ignore_index=True) if self.found else evidence(dict.fromkeys(TELLING, EMPTY))

    @property
    def profile(self) -> str | None:
        """Unit profile of the whole, None where the evidence tells none."""
        try:
            return decide(self.evidence)
        except ValueError:
            return None

    @property
    def turnover(self) -> FloatArray:
        """(D,) total in yuan by the profile; by $amount in yuan where none fits."""
        profile = self.profile or "yuan"
        if profile in VOLUMES:
            raw, shares = VOLUMES[profile]
            return (self.raw_value if raw else self.value) * shares
        return self.amount * AMOUNT_IN_YUAN[profile]


def check_market(market: Market, spans: dict[str, Dates], tally: Tally) -> None:
    """Run all checks of the market as a whole; `spans`: code -> first and last day of the lists that name it."""
    check_units(market, tally)
    check_ends(market, spans, tally)
    level = np.concatenate(market.spans, axis=1)
    check_step(level, market.days, tally)
    check_clusters(level, market.codes, tally)
    groups = [" = ".join(codes) for codes in market.series.values() if len(codes) > 1]
    tally.each("identical_series", groups, len(market.codes))


def check_units(market: Market, tally: Tally) -> None:
    """Judge the units by the identity of the fields, the size of the turnover and its steps."""
    found, total, profile, why = market.evidence, market.turnover, None, ""
    try:
        profile = decide(found)
    except ValueError as error:
        why = str(error)
    tally.add("units", profile is None, 1, why)
    sides = found[["by_close", "by_raw"]].to_numpy()
    middle = _nanmedian(sides)
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(np.log(sides / middle))
    side = int(np.subtract(*_nanmedian(away)) > 0.02)  # the price that makes the stocks alike, $close in doubt
    other = np.flatnonzero(away[:, side] > np.log(3.0))
    mixed = [f"{market.codes[n]} {sides[n, side]:.3g} (all: {middle[side]:.3g})" for n in other]
    tally.each("units_mixed", mixed, len(sides))
    open_days = market.traded > 0
    if profile is None or not open_days.any():
        return
    mean = total[open_days] / market.traded[open_days]
    told = f"{PROFILES[profile]}: {mean.mean() / 1e6:,.3g} million yuan a stock and day"
    summed = f"a day's total is {np.median(total[open_days]) / 1e9:,.4g} billion yuan"
    tally.add("unit_profile", 1, 1, f"{profile}; {told}; {summed}")
    low, high = PLAUSIBLE_TURNOVER
    name, fit = "turnover_unusual", ""
    if profile in VOLUMES and not found["amounts"].sum():
        name, fit = "stock_turnover", f"; here would fit {rescaled(profile, mean.mean())}"
    words = f"{told}, usual are {low / 1e6:,.0f} to {high / 1e6:,.0f}{fit}"
    tally.add(name, not low <= mean.mean() <= high, 1, words)
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


def check_ends(market: Market, spans: dict[str, Dates], tally: Tally) -> None:
    """Look at where the market and its stocks begin and end, and for days with hardly a bar."""
    count, days = len(market.days), market.days
    good = np.flatnonzero(market.traded >= 0.5 * _nanmedian(market.traded[market.traded > 0]))
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
    known = [spans.get(code, (days[-1], days[0])) for code in market.codes]
    stale = [
        n for n in np.flatnonzero(some & (last < end - STALE)).tolist() if known[n][1] > days[int(last[n]) + STALE]
    ]
    tally.each("stale_stock", [f"{market.codes[n]} ends {days[last[n]].date()}" for n in stale], len(last))
    few = np.flatnonzero(some & (begin > STALE) & (last - begin < STALE)).tolist()
    short = [n for n in few if known[n][0] < days[int(begin[n]) - STALE]]
    cases = [f"{market.codes[n]} has bars from {days[begin[n]].date()}, listed {known[n][0].date()}" for n in short]
    tally.each("short_stock", cases, len(begin))


# --- steps within a series, and groups of stocks


def first_run(hits: BoolArray) -> tuple[int, int] | None:
    """First run of `RUN` or more True in (n,): its begin and end (excluded); None without one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hits, [False]]).astype(np.int8))).reshape(-1, 2)
    long = edges[edges[:, 1] - edges[:, 0] >= RUN]
    return (int(long[0, 0]), int(long[0, 1])) if len(long) else None


def check_ratio(block: Block, tally: Tally) -> None:
    """Tell stocks whose $amount / ($close * $volume) leaves its median for days in a row, with the first such day.

    With raw volumes it goes with $factor: what $close / $factor for $close explains is no step.
    """
    ratio, other = (np.where(grid > 0, grid, np.nan) for grid in (block.ratio(raw=raw) for raw in (False, True)))
    judged = np.flatnonzero(np.isfinite(ratio).any(axis=0)).tolist()
    cases = []
    for n in judged:
        place = np.flatnonzero(np.isfinite(ratio[:, n]))
        series = ratio[place, n]
        run = first_run(_off(series))
        if run is not None and (np.isnan(other[place, n]).any() or first_run(_off(other[place, n])) is not None):
            cut = run[0] or run[1]  # a run from the first day on: the day after it
            before, after = np.median(series[:cut][-SPAN:]), np.median(series[cut:][:SPAN])
            cases.append(f"{block.codes[n]} {block.days[place[cut]].date()}: {before:.3g}, then {after:.3g}")
    tally.each("units_step", cases, len(judged))


def _off(series: FloatArray) -> BoolArray:
    """Which values of a ratio (n,) are far from its median."""
    return np.abs(np.log(series / np.median(series))) > np.log(OFF)


def span_turnover(block: Block) -> FloatArray:
    """(K, N) median of log10 of $amount, or of $close * $volume without it; NaN with fewer than `RUN` days."""
    amount = block.fields["amount"]
    traded = np.where(np.isfinite(amount).any(axis=0), amount, block.value)
    row = block.offset + np.arange(len(block.days))[:, None]
    fresh = (block.first > 0) & (row < block.first + FRESH)
    sound = block.trades & np.isfinite(traded) & (traded > 0) & ~fresh
    filled = np.full((-(-len(traded) // SPAN) * SPAN, traded.shape[1]), np.nan)
    filled[: len(traded)] = np.log10(np.where(sound, traded, 1.0))
    filled[: len(traded)][~sound] = np.nan
    spans = filled.reshape(-1, SPAN, traded.shape[1])
    return np.where(np.isfinite(spans).sum(axis=1) >= RUN, _nanmedian(spans, axis=1), np.nan)


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
    ordered = [codes[n] for n in order.tolist()]
    few = ordered[:split] if smaller == split else ordered[split:][::-1]
    board = commonprefix(few) if told else ""
    whole = len(board) > 3 and not any(code.startswith(board) for code in {*ordered} - {*few})
    example = (
        f"{10**gap:.3g} times apart, as {', '.join(few[:3])}{f' (all of {board})' if whole else ''}" if told else ""
    )
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(values, axis=axis))
