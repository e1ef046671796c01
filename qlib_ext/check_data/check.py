"""Check a qlib provider folder of A shares before training on it: units, suspensions, survivorship, absurd bars, files.

The files are read directly, in blocks of stocks: qlib is not needed, and broken files can be told. The checks and
their cures stand in `_check_table.CHECKS`; what each one measures in `_check_lists`, `_check_bars`, `_check_units` and
`_check_steps`.

Not seen: special treatment (ST) and its 5% limit, a whole trading day that the calendar lacks, prices that are
wrong but plausible, and membership of an index that knows the future.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.check_data.bars import check_bars
from qlib_ext.check_data.folder import Provider, open_provider, read_block
from qlib_ext.check_data.lists import check_calendar, check_lists, list_ends
from qlib_ext.check_data.steps import Steps
from qlib_ext.check_data.table import Tally
from qlib_ext.check_data.units import Market, check_market
from qlib_ext.rules import is_index

BLOCK = 256  # stocks in memory at once
Say = Callable[[str], None]


def check_data(
    provider_uri: str | Path,
    *,
    universe: str | None = None,
    start: Any = None,
    end: Any = None,
    today: Any = None,
    say: Say | None = None,
) -> pd.DataFrame:
    """Check a provider folder.

    Args:
        provider_uri: the folder, with calendars/, instruments/ and features/.
        universe: name of a list in instruments/; None: every stock that has a feature folder, and every list.
        start: first day to check; None: the calendar's first.
        end: last day to check; None: the calendar's last.
        today: the day against which the calendar's end is held; None: it is not.
        say: called with a line on the progress.

    Returns: a row for each finding, errors first: severity (error, warning, info), check, count (cases), of (what was
        compared), example, cure. attrs: stocks, days, first, last, profile (None where unknown), and quiet, the names
        of the checks that ran and found nothing.

    Raises: ValueError where it cannot be checked: no provider, an unknown universe, no stock or no day.

    """
    tell = say or (lambda _line: None)
    tally = Tally()
    provider = open_provider(Path(provider_uri).expanduser(), tally)
    names = [universe] if universe is not None else sorted(provider.lists)
    codes = stocks_of(provider, universe)
    ordered = check_calendar(provider.days, None if today is None else pd.Timestamp(today), tally)
    check_lists(provider, names, tally)
    begin, stop = _rows(provider, start, end) if ordered else (0, len(provider.days))
    market, steps = Market(provider.days[begin:stop]), Steps(provider.days[begin:stop])
    tell(f"{provider.folder}: {len(codes)} stocks, {stop - begin} days")
    for n in range(0, len(codes) if ordered else 0, BLOCK):
        block = read_block(provider, codes[n : n + BLOCK], begin, stop, tally)
        check_bars(block, tally)
        market.add(block)
        steps.add(block, tally)
        tell(f"{min(n + BLOCK, len(codes))} of {len(codes)} stocks checked")
    if ordered:
        steps.finish(tally)
        check_market(market, list_ends({name: provider.lists[name] for name in names}), tally)
    table = tally.table()
    first, last = (str(provider.days[row].date()) for row in (begin, stop - 1))
    facts = {"stocks": len(codes), "days": stop - begin, "first": first, "last": last}
    table.attrs |= facts | {"profile": market.profile if ordered else None}
    return table


def stocks_of(provider: Provider, universe: str | None) -> list[str]:
    """Stocks (no indices) of a universe that have a feature folder, or all that have one.

    Raises: ValueError for an unknown universe, or one without such a stock.

    """
    if universe is None:
        named = set(provider.places)
    elif universe in provider.lists:
        named = {code for code, _, _ in provider.lists[universe]}
    else:
        close = get_close_matches(universe, provider.lists, n=3)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ValueError(f"no universe {universe!r} in {provider.folder}{hint}; there are {sorted(provider.lists)}")
    codes = sorted(code for code in named if code in provider.places and not is_index(code))
    if not codes:
        raise ValueError(f"no stock to check in {provider.folder}: {universe or 'features'} has none with a folder")
    return codes


def _rows(provider: Provider, start: Any, end: Any) -> tuple[int, int]:
    """Calendar positions of the days to check, the last one excluded."""
    days = provider.days
    begin = 0 if start is None else int(days.searchsorted(_day("start", start)))
    stop = len(days) if end is None else int(days.searchsorted(_day("end", end), side="right"))
    if begin >= stop:
        raise ValueError(
            f"no trading day from {start} to {end}: the calendar has {days[0].date()} to {days[-1].date()}"
        )
    return begin, stop


def _day(name: str, value: Any) -> pd.Timestamp:
    try:
        day = pd.Timestamp(value)
    except ValueError as error:
        raise ValueError(f"{name} is {value!r}; give an ISO date such as 2020-01-02") from error
    if pd.isna(day) or day.tzinfo is not None:
        raise ValueError(f"{name} is {value!r}; give an ISO date such as 2020-01-02, without a time zone")
    return day
