"""Look at a provider folder for a first workflow: what can be found out is found out, and told with the reason.

The files are read directly; qlib is not needed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from qlib_ext.check_data import (
    LEAST_STOCKS,
    Market,
    Provider,
    Tally,
    check_start,
    members,
    open_provider,
    read_block,
    spread,
    stocks_of,
    thin_days,
)
from qlib_ext.options import check_choice
from qlib_ext.panel import FIVE_DAY_LABEL, label_span
from qlib_ext.portfolio import CAPITAL, MAX_WEIGHT, PARTICIPATION
from qlib_ext.provider import trailing_mean
from qlib_ext.rules import check_turnover, decide, is_index, turnover_in_yuan

WINDOWS = {"best": 1, "mlp": 1, "master": 8}  # days that a model looks at; best: trees and networks
LABEL = FIVE_DAY_LABEL
HORIZON = label_span(LABEL).horizon
REACH = label_span(LABEL).reach
LOOK_BACK = 60  # days of Alpha158's longest window
LEAST_DAYS = 150  # from which three parts make sense
MOST_YEARS, DAYS_A_YEAR = 6, 243  # three of them to learn from, as measured
MOST_ROWS = {"best": 6_000_000, "mlp": 6_000_000, "master": 1_500_000}  # stock days of a first run
SMALL_MARKET = {"best": math.inf, "mlp": math.inf, "master": 1000.0}  # stocks a day that two cores train in minutes
SAMPLE = 200  # stocks that units and fields are judged by
BLOCK = 50  # of them read at once
MEANS = 100  # stocks whose mean stands in for an index
SETTLED = 60  # days before test, by which they are chosen
BENCHMARKS = ("SH000300", "SH000906", "SH000905", "SH000852", "SH000001", "SZ399300", "SZ399106")
LIQUIDITY_DAYS = 20
OPTIONAL = ("vwap", "factor", "amount", "change")
Dates = tuple[pd.Timestamp, pd.Timestamp]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Universe:
    """A list of instruments: codes in it that are stocks with data, indices, and mean stocks a day of the span."""

    name: str
    stocks: int
    indices: int
    daily: float


@dataclass(frozen=True)
class Survey:
    """What a provider holds and what was chosen; `benchmark` is a code, or None with the stocks `stand_in`.

    `turnover`: mean of a stock and day in yuan, whole provider; `liquidity`: median of the universe's members, 20-day
    mean in yuan, over train and valid (the test days choose nothing); `warnings`: of `check_data.check_start`.
    """

    folder: Path
    calendar: Dates
    bars: Dates
    universes: list[Universe]
    universe: Universe
    reason: str
    profile: str
    turnover: float
    liquidity: float
    missing: list[str]
    benchmark: str | None
    stand_in: list[str]
    segments: dict[str, Dates]
    days: dict[str, int]
    warnings: list[str]
    model: str

    @property
    def names(self) -> int:
        """Names of median liquidity that take the whole capital."""
        return math.ceil(CAPITAL / (PARTICIPATION * self.liquidity))

    @property
    def top_n(self) -> int:
        """Names of the judge: as many as take the capital, none more than `MAX_WEIGHT` of it; at most all of a day."""
        return min(max(self.names, math.ceil(1 / MAX_WEIGHT)), max(int(self.universe.daily), 1))


def survey(
    provider_uri: str | Path,
    *,
    universe: str | None = None,
    model: str = "best",
    say: Say | None = None,
) -> Survey:
    """Look at a provider folder and choose what a first workflow needs.

    Args:
        provider_uri: the folder, with calendars/, instruments/ and features/.
        universe: a list in instruments/; None: chosen by its size.
        model: of `WINDOWS`, which decides the window and what two cores train in minutes.
        say: called with a line on the progress.

    Raises: ValueError for no provider, one that cannot be read (see `check_data.check_start`), an unknown universe or
        model, units that make no sense, or too few days.
    """
    check_choice("model", model, WINDOWS)
    tell = say or (lambda _line: None)
    folder = Path(provider_uri).expanduser().resolve()
    tell(f"looking at {folder}")
    warnings = check_start(folder, universe=universe)
    provider = open_provider(folder, Tally())
    if universe and universe not in provider.lists:
        universe = universe.lower()
    market, missing = _sample(provider, universe, tell)
    profile, turnover = _units(market)
    begin, end = _bars(market)
    if universe:
        begin, end, kept = _within(provider, universe, begin, end)
    lists = [name for name in provider.lists if not universe or name == universe]
    universes = []
    for name in lists:
        universes.append(_measure(provider, name, begin, end))
        tell(f"universes: {name} measured, {len(universes)} of {len(lists)}")
    chosen, reason = choose_universe(universes, model=model, asked=universe is not None)
    if not universe:
        begin, end, kept = _within(provider, chosen.name, begin, end)
    rows = split_days(begin, end, stocks=chosen.daily, model=model)
    segments = {name: (provider.days[a], provider.days[b]) for name, (a, b) in rows.items()}
    tell(f"turnover and benchmark of {chosen.name}")
    benchmark = next((code for code in BENCHMARKS if _has_bars(provider, code, rows["test"])), None)
    return Survey(
        folder=provider.folder,
        calendar=(provider.days[0], provider.days[-1]),
        bars=(provider.days[begin], provider.days[end]),
        universes=sorted(universes, key=lambda u: -u.daily),
        universe=chosen,
        reason=reason + kept,
        profile=profile,
        turnover=turnover,
        liquidity=_liquidity(provider, chosen.name, profile, (rows["train"][0], rows["valid"][1])),
        missing=missing,
        benchmark=benchmark,
        stand_in=[] if benchmark else _stand_in(provider, chosen.name, rows["test"][0]),
        segments=segments,
        days={name: b - a + 1 for name, (a, b) in rows.items()},
        warnings=warnings,
        model=model,
    )


def choose_universe(universes: list[Universe], *, model: str = "best", asked: bool = False) -> tuple[Universe, str]:
    """Choose a universe and say why: the largest without indices that two cores can train a model on in minutes.

    Raises: ValueError where none has enough stocks.
    """
    fit = [u for u in universes if u.daily >= LEAST_STOCKS]
    if not fit:
        sizes = ", ".join(f"{u.name} {u.daily:.0f}" for u in universes) or "none"
        raise ValueError(f"no universe with {LEAST_STOCKS} stocks a day or more (there are: {sizes}): add a list")
    if asked:
        return fit[0], "as asked for"
    clean = [u for u in fit if not u.indices] or fit
    most = SMALL_MARKET[model]
    small = [u for u in clean if u.daily <= most]
    words = "without indices" if not clean[0].indices else "though indices are in it, which DayDatasetH leaves out"
    ordered = sorted(clean, key=lambda u: u.daily)
    largest = ordered[-1]
    if not small:
        return ordered[0], f"the smallest universe {words}; all have more than {most:,.0f} stocks a day"
    best = max(small, key=lambda u: u.daily)
    if best is largest:
        return best, f"the largest universe {words}"
    return best, (
        f"the largest universe {words} that two cores train on in minutes (up to {most:,.0f} stocks a day). "
        f"150 million yuan are a lot for few names: --universe {largest.name} takes {largest.daily:,.0f} stocks a day"
    )


def split_days(begin: int, end: int, *, stocks: float, model: str = "best") -> dict[str, tuple[int, int]]:
    """Calendar positions (first, last) of train, valid and test in bars from `begin` to `end`.

    Half of the days, a sixth, and a third; `REACH` + window - 1 days lie between two parts, and `REACH` after the last.
    The first `LOOK_BACK` days are left to the features. At most `MOST_YEARS` years and `MOST_ROWS` stock days.

    Raises: ValueError for too few days.
    """
    if end - begin + 1 < LEAST_DAYS:
        raise ValueError(f"{end - begin + 1} days with bars are too few to train on; {LEAST_DAYS} are needed")
    most = min(MOST_YEARS * DAYS_A_YEAR, max(int(MOST_ROWS[model] / max(stocks, 1.0)), LEAST_DAYS))
    stop, gap = end - REACH, REACH + WINDOWS[model] - 1
    start = max(begin + min(LOOK_BACK, (end - begin) // 4), stop - most + 1)
    count = stop - start + 1 - 2 * gap
    valid = start + count // 2 + gap
    test = valid + count // 6 + gap
    return {"train": (start, valid - gap - 1), "valid": (valid, test - gap - 1), "test": (test, stop)}


def _sample(provider: Provider, universe: str | None, tell: Say) -> tuple[Market, list[str]]:
    """Sum up some stocks over the whole calendar, and name the optional fields that most of them lack."""
    codes = spread(stocks_of(provider, universe), SAMPLE)
    market = Market(provider.days)
    having = dict.fromkeys(OPTIONAL, 0)  # stocks
    for n in range(0, len(codes), BLOCK):
        block = read_block(provider, codes[n : n + BLOCK], 0, len(provider.days), Tally())
        market.add(block)
        for name in OPTIONAL:
            having[name] += int(np.isfinite(block.fields[name]).any(axis=0).sum())
        tell(f"units: {len(market.codes)} of {len(codes)} stocks read")
    return market, [name for name in OPTIONAL if having[name] < 0.5 * len(codes)]


def _units(market: Market) -> tuple[str, float]:
    """Tell the unit profile and mean turnover of a stock and day in yuan.

    Raises: ValueError where no profile fits, or no $amount tells whether an unusual turnover is yuan.
    """
    found, traded = market.evidence, market.traded.sum()
    try:
        profile = decide(found)
        mean = float(market.turnover.sum() / traded) if traded else float("nan")
        check_turnover([mean], profile, share=1.0 if found["amounts"].sum() else None)
    except ValueError as error:
        raise ValueError(f"the units make no sense, run qlib-ext check-data: {error}") from error
    return profile, mean


def _liquidity(provider: Provider, universe: str, profile: str, rows: tuple[int, int]) -> float:
    """Median over members and days of the mean turnover of `LIQUIDITY_DAYS` days, in yuan, from some of the members.

    Raises: ValueError where no member trades.
    """
    codes = spread(stocks_of(provider, universe), SAMPLE)
    begin = max(rows[0] - LIQUIDITY_DAYS + 1, 0)
    block = read_block(provider, codes, begin, rows[1] + 1, Tally())
    fields = {f"${name}": values for name, values in (block.fields | {"close": block.close}).items()}
    mean = trailing_mean(turnover_in_yuan(profile, fields), LIQUIDITY_DAYS).to_numpy()
    member = np.zeros(mean.shape, dtype=bool)
    column = {code: n for n, code in enumerate(codes)}
    for code, first, last in provider.lists[universe]:
        if code in column:
            member[(block.days >= first) & (block.days <= last), column[code]] = True
    liquidity = mean[member & block.trades & (mean > 0) & (np.arange(len(mean)) >= rows[0] - begin)[:, None]]
    if not len(liquidity):
        raise ValueError(f"no stock of {universe} trades from {block.days[0].date()} to {block.days[-1].date()}")
    return float(np.median(liquidity))


def _bars(market: Market) -> tuple[int, int]:
    """First and last calendar position at which at least 30% of the most stocks ever traded have a bar."""
    good = np.flatnonzero(market.traded >= 0.3 * market.traded.max())
    return int(good[0]), int(good[-1])


def _within(provider: Provider, name: str, begin: int, end: int) -> tuple[int, int, str]:
    """Narrow the days to the latest on which a list is neither empty nor thin, and say so.

    Where these are too few, to all from the list's first day to its last.
    """
    count = members(provider, name, provider.days[begin : end + 1])
    there = np.flatnonzero(count)
    if not len(there):
        return begin, end, ""
    sound = (count > 0) & ~thin_days(count)
    stop = int(np.flatnonzero(sound)[-1])
    start = int(np.flatnonzero(np.r_[True, ~sound[:stop]])[-1])
    words = "where it has its usual number of stocks"
    if stop - start + 1 < LEAST_DAYS:
        start, stop, words = int(there[0]), int(there[-1]), "with days of few stocks among them"
    first, last = begin + start, begin + stop
    if (first, last) == (begin, end) and sound.all():
        return begin, end, ""
    return first, last, f"; from {provider.days[first].date()} to {provider.days[last].date()}, {words}"


def _measure(provider: Provider, name: str, begin: int, end: int) -> Universe:
    """Count a list's codes and its mean stocks a day over the last `MOST_YEARS` years with bars."""
    codes = {code for code, _, _ in provider.lists[name]}
    stocks = {code for code in codes if code in provider.places and not is_index(code)}
    days = provider.days[max(begin, end - MOST_YEARS * DAYS_A_YEAR + 1) : end + 1]
    return Universe(name, len(stocks), sum(map(is_index, codes)), float(members(provider, name, days).mean()))


def _has_bars(provider: Provider, code: str, rows: tuple[int, int]) -> bool:
    """Whether nine tenths of the days have a close of the code."""
    there = code in provider.places
    return there and bool(read_block(provider, [code], rows[0], rows[1] + 1, Tally()).trades.mean() >= 0.9)


def _stand_in(provider: Provider, universe: str, test: int) -> list[str]:
    """Up to `MEANS` stocks, spread over the codes, by what is known the day before the position `test`.

    That are members of the universe on that day with a close on most of the `SETTLED` days up to it. Whether they trade
    on later does not count: means of those that do would flatter the benchmark.
    """
    eve = provider.days[test - 1]
    members = {code for code, first, last in provider.lists[universe] if first <= eve <= last}
    codes = [code for code in stocks_of(provider, universe) if code in members] or stocks_of(provider, universe)
    some = spread(codes, 2 * MEANS)
    trades = read_block(provider, some, max(test - SETTLED, 0), test, Tally()).trades
    settled = [code for code, share in zip(some, trades.mean(axis=0), strict=True) if share >= 0.9]
    return spread(settled or some, MEANS)
