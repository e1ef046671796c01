"""Check a qlib provider folder of A shares before training on it: units, suspensions, survivorship, absurd bars, files.

The files are read directly, in blocks of stocks: qlib is not needed, and broken files can be told. A check is a row
(severity, cure) and what adds to a tally under its name, in one file: of calendar and lists in `lists`, of files in
`folder`, of bars in `bars`, of units and the whole market in `units`; one of the user's own is a `Check` with `look`.

Not seen: special treatment (ST) and its 5% limit, a trading day that the calendar lacks near a holiday, prices that are
wrong but plausible, and membership of an index that knows the future.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.check_data.bars import BARS, check_bars, note
from qlib_ext.check_data.folder import FILES, Provider, check_heads, open_provider, read_block
from qlib_ext.check_data.lists import (
    LEAST_STOCKS,
    LISTS,
    check_calendar,
    check_lists,
    check_members,
    list_spans,
    spelled,
)
from qlib_ext.check_data.table import Check, Tally
from qlib_ext.check_data.units import UNITS, Market, check_market, check_ratio
from qlib_ext.options import close_names
from qlib_ext.rules import is_index
from qlib_ext.spelling import read_day

BLOCK = 256  # stocks in memory at once
SAMPLE = 100  # stocks whose bars are looked at before a run
STOPS = (
    *("calendar_duplicate", "calendar_order", "list_line", "list_name", "code_spelling", "universe_empty"),
    *("folder_case", "file_length", "file_start"),
)
OF_ALL = ("turnover_step", "turnover_jump", "thin_day")  # which a sample does not show
Say = Callable[[str], None]


CHECKS = LISTS | FILES | BARS | UNITS


def check_data(
    provider_uri: str | Path,
    *,
    universe: str | None = None,
    start: Any = None,
    end: Any = None,
    today: Any = None,
    checks: Mapping[str, Check] | None = None,
    say: Say | None = None,
) -> pd.DataFrame:
    """Check a provider folder.

    Args:
        provider_uri: the folder, with calendars/, instruments/ and features/.
        universe: name of a list in instruments/; None: every stock that has a feature folder, and every list.
        start: first day to check; None: the calendar's first.
        end: last day to check; None: the calendar's last.
        today: the day against which the calendar's end is held; None: it is not.
        checks: further checks of one's own by name, see `Check`.
        say: called with a line on the progress.

    Returns: a row for each finding, errors first: severity (error, warning, info), check, count (cases), of (what was
        compared), example, cure. attrs: stocks, days, first, last, profile (None where unknown), and quiet, the names
        of the checks that ran and found nothing.

    Raises: ValueError where it cannot be checked: no provider, an unknown universe, no stock or no day, a name twice.

    >>> table = check_data(provider)
    >>> "error" in set(table["severity"]), table.attrs["profile"]
    (False, 'community')
    >>> penny = Check("warning", "leave such stocks out", look=lambda block: (block.close < 1, block.trades))
    >>> check_data(provider, checks={"penny_stock": penny}).attrs["stocks"]
    12
    """
    own = dict(checks or {})
    if taken := sorted(set(own) & set(CHECKS)):
        raise ValueError(f"checks: {taken} are names of built-in checks; give yours others")
    return _look(provider_uri, universe, (start, end), today=today, own=own, say=say)


def check_start(
    provider_uri: str | Path, *, universe: str | Collection[str] | None = None, start: Any = None, end: Any = None
) -> list[str]:
    """Check in seconds what a run will read: calendar, lists, folders, the head of every file, `SAMPLE` stocks' bars.

    The checks are those of `check_data`; what a run would read wrongly, or not at all (`STOPS`), is refused.

    Args:
        provider_uri: the folder.
        universe: a list in instruments/, or codes; None: every stock that has a feature folder.
        start: first day of the run; None: the calendar's first.
        end: last day of the run; None: the calendar's last.

    Returns: a line for each other error and warning: what, how often, an example, the cure.

    Raises: ValueError where the run cannot read the folder, with such lines.

    >>> [line.split(":")[0] for line in check_start(provider, universe="all")]  # of 12 stocks
    ['list_small']
    """
    table = _look(provider_uri, universe, (start, end), most=SAMPLE)
    table = table[(table["severity"] != "info") & ~table["check"].isin(OF_ALL)]
    told = {row["check"]: _line(row) for row in table.to_dict("records")}
    if wrong := [line for name, line in told.items() if name in STOPS]:
        cure = f"qlib-ext check-data --provider-uri {provider_uri}"
        raise ValueError(f"{provider_uri} cannot be trained on:\n" + "\n".join(wrong) + f"\nMore is told by {cure}")
    return list(told.values())


def _line(row: Mapping[Any, Any]) -> str:
    return f"{row['check']}: {row['count']:,} of {row['of']:,}, for example {row['example']}; {row['cure']}"


def _look(
    provider_uri: str | Path,
    universe: str | Collection[str] | None,
    span: tuple[Any, Any],
    *,
    today: Any = None,
    own: Mapping[str, Check] | None = None,
    say: Say | None = None,
    most: int | None = None,
) -> pd.DataFrame:
    """Run all checks; with `most`, on the bars of so many stocks, spread over the codes."""
    own, tell, tally = own or {}, say or (lambda _line: None), Tally()
    folder = Path(provider_uri).expanduser()
    if isinstance(universe, str) and not (folder / f"instruments/{universe}.txt").exists():
        universe = universe.lower()  # as qlib reads it
    wanted = None if universe is None else [universe] if isinstance(universe, str) else []
    provider = open_provider(folder, tally, wanted)
    codes = stocks_of(provider, universe)
    names = sorted(provider.lists) if wanted is None else wanted
    ordered = check_calendar(provider.days, None if today is None else pd.Timestamp(today), tally)
    begin, stop = _rows(provider, *span) if ordered else (0, len(provider.days))
    market = Market(provider.days[begin:stop])
    check_lists(provider, names, tally)
    check_members(provider, names, codes, market.days, tally)
    check_heads(provider, codes, tally)
    tell(f"{provider.folder}: {len(codes)} stocks, {stop - begin} days")
    some = (codes if most is None else spread(codes, most)) if ordered else []
    for n in range(0, len(some), BLOCK):
        block = read_block(provider, some[n : n + BLOCK], begin, stop, tally)
        check_bars(block, tally)
        check_ratio(block, tally)
        for name, check in own.items():
            if check.look is not None:
                note(block, tally, name, *check.look(block), {"close": block.close})
        market.add(block)
        tell(f"{min(n + BLOCK, len(some))} of {len(some)} stocks checked")
    if len(some) >= (1 if most is None else LEAST_STOCKS):  # a few of a sample are no market
        check_market(market, list_spans({name: provider.lists[name] for name in names}), tally)
    table = tally.table({**CHECKS, **own})
    first, last = (str(provider.days[row].date()) for row in (begin, stop - 1))
    facts = {"stocks": len(codes), "days": stop - begin, "first": first, "last": last}
    table.attrs |= facts | {"profile": market.profile if some else None}
    return table


def spread(codes: list[str], most: int) -> list[str]:
    """Up to `most` of the codes, evenly spread."""
    return [codes[n] for n in sorted({int(n) for n in np.linspace(0, len(codes) - 1, min(most, len(codes)))})]


def stocks_of(provider: Provider, universe: str | Collection[str] | None) -> list[str]:
    """Stocks (no indices) of a list, or of codes, that have a feature folder; None: all that have one.

    Raises: ValueError for an unknown universe.
    """
    if universe is None:
        named = set(provider.places)
    elif not isinstance(universe, str):
        named = {code.upper() for code in universe}
    elif universe in provider.lists:
        named = {code for code, _, _ in provider.lists[universe]}
    else:
        close = close_names(universe, provider.lists)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ValueError(f"no universe {universe!r} in {provider.folder}{hint}; there are {sorted(provider.lists)}")
    return sorted(code for code in named if code in provider.places and not is_index(spelled(code)))


def _rows(provider: Provider, start: Any, end: Any) -> tuple[int, int]:
    """Calendar positions of the days to check, the last one excluded."""
    days = provider.days
    begin = 0 if start is None else int(days.searchsorted(read_day("start", start)))
    stop = len(days) if end is None else int(days.searchsorted(read_day("end", end), side="right"))
    if begin >= stop:
        raise ValueError(
            f"no trading day from {start} to {end}: the calendar has {days[0].date()} to {days[-1].date()}"
        )
    return begin, stop
