"""Check a qlib provider folder of A shares before training on it: units, suspensions, survivorship, absurd bars, files.

The files are read directly, in blocks of stocks: qlib is not needed, and broken files can be told. A check is a row
(severity, cure) and what adds to a tally under its name, in one file: of the calendar and the lists here, of files in
`folder`, of bars in `bars`, of units and the whole market in `units`; one of the user's own is a `Check` with `look`.

Not seen: special treatment (ST) and its 5% limit, a whole trading day that the calendar lacks, prices that are
wrong but plausible, and membership of an index that knows the future.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.check_data.bars import BARS, check_bars, note
from qlib_ext.check_data.folder import FILES, Provider, Span, open_provider, read_block
from qlib_ext.check_data.table import REBUILD, Check, Tally
from qlib_ext.check_data.units import UNITS, Market, check_market, check_ratio
from qlib_ext.options import close_names
from qlib_ext.rules import is_a_share, is_index

BLOCK = 256  # stocks in memory at once
SAMPLE = 100  # stocks whose bars are looked at before a run
STOPS = ("calendar_duplicate", "calendar_order", "list_line", "folder_twice", "file_length", "file_start")
HOLIDAY = 12  # days from one trading day to the next that a holiday explains
OLD_CALENDAR = 30  # days before today
Say = Callable[[str], None]


LISTS: dict[str, Check] = {
    "calendar_duplicate": Check("error", f"a line a day in calendars/day.txt, whose lines the files count: {REBUILD}"),
    "calendar_order": Check("error", f"calendars/day.txt must be sorted; {REBUILD} (the bars were not checked)"),
    "calendar_weekend": Check("warning", "there is no trading on weekends: remove the days and dump again"),
    "calendar_gap": Check("warning", "more than 12 days without trade: the calendar lacks days, or an early holiday"),
    "list_overlap": Check("warning", "let the spans of a code follow one another; an overlap counts the stock twice"),
    "listed_no_data": Check("warning", "remove the code from the list, or add its feature folder"),
    "unlisted": Check("info", "add the stock to a list if it should be used"),
    "indices": Check("warning", "use a universe without them; DayDatasetH leaves them out, qlib's DatasetH does not"),
    "not_a_share": Check("warning", "funds, B shares and the like have other rules: leave them out of the universe"),
    "calendar_end": Check("info", "update the data before you trade on it"),
}
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

    >>> check_start(provider, universe="all")
    []
    """
    table = _look(provider_uri, universe, (start, end), most=SAMPLE)
    told = {row["check"]: _line(row) for row in table.to_dict("records") if row["severity"] != "info"}
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
    own, tell = own or {}, say or (lambda _line: None)
    tally = Tally()
    provider = open_provider(Path(provider_uri).expanduser(), tally)
    names = [universe] if isinstance(universe, str) else sorted(provider.lists) if universe is None else []
    codes = stocks_of(provider, universe)
    if most is not None:
        codes = spread(codes, most)
    ordered = check_calendar(provider.days, None if today is None else pd.Timestamp(today), tally)
    check_lists(provider, names, tally)
    begin, stop = _rows(provider, *span) if ordered else (0, len(provider.days))
    market = Market(provider.days[begin:stop])
    tell(f"{provider.folder}: {len(codes)} stocks, {stop - begin} days")
    for n in range(0, len(codes) if ordered else 0, BLOCK):
        block = read_block(provider, codes[n : n + BLOCK], begin, stop, tally)
        check_bars(block, tally)
        check_ratio(block, tally)
        for name, check in own.items():
            if check.look is not None:
                note(block, tally, name, *check.look(block), {"close": block.close})
        market.add(block)
        tell(f"{min(n + BLOCK, len(codes))} of {len(codes)} stocks checked")
    if ordered:
        check_market(market, list_ends({name: provider.lists[name] for name in names}), tally)
    table = tally.table({**CHECKS, **own})
    first, last = (str(provider.days[row].date()) for row in (begin, stop - 1))
    facts = {"stocks": len(codes), "days": stop - begin, "first": first, "last": last}
    table.attrs |= facts | {"profile": market.profile if ordered else None}
    return table


def spread(codes: list[str], most: int) -> list[str]:
    """Up to `most` of the codes, evenly spread."""
    return [codes[n] for n in sorted({int(n) for n in np.linspace(0, len(codes) - 1, most)})]


def stocks_of(provider: Provider, universe: str | Collection[str] | None) -> list[str]:
    """Stocks (no indices) of a list, or of codes, that have a feature folder; None: all that have one.

    Raises: ValueError for an unknown universe, or one without such a stock.
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


# --- the calendar and the lists


def check_calendar(days: pd.DatetimeIndex, today: pd.Timestamp | None, tally: Tally) -> bool:
    """Check the calendar; False where it is not in order, so that positions in it mean nothing."""
    step = np.diff(days.to_numpy()).astype("timedelta64[D]").astype(int)
    wrong = {"calendar_duplicate": step == 0, "calendar_order": step < 0, "calendar_gap": step > HOLIDAY}
    for name, cases in wrong.items():
        places = np.flatnonzero(cases).tolist()
        tally.each(name, [f"{days[n].date()} to {days[n + 1].date()}" for n in places], len(days))
    tally.each("calendar_weekend", [str(day.date()) for day in days[days.day_of_week >= 5]], len(days))
    if today is not None:
        age = (today - days[-1]).days
        tally.add("calendar_end", age > OLD_CALENDAR, 1, f"the calendar ends {days[-1].date()}, {age} days ago")
    return bool((step >= 0).all())


def check_lists(provider: Provider, names: list[str], tally: Tally) -> None:
    """Check the lists of these names: indices, other codes, overlaps, codes without data, stocks in no list."""
    places, lists = provider.places, {name: provider.lists[name] for name in names}
    seen = {code for spans in lists.values() for code, _, _ in spans}
    pairs = [(name, code) for name, spans in lists.items() for code in dict.fromkeys(code for code, _, _ in spans)]
    stocks = [(name, code) for name, code in pairs if not is_index(code)]
    tally.each("indices", [f"{code} in {name}.txt" for name, code in pairs if is_index(code)], len(pairs))
    tally.each("not_a_share", [f"{code} in {name}.txt" for name, code in stocks if not is_a_share(code)], len(stocks))
    for name, spans in lists.items():
        tally.each("list_overlap", [f"{code} in {name}.txt" for code in overlaps(spans)], len(spans))
    tally.each("listed_no_data", [f"{code} in {name}.txt" for name, code in pairs if code not in places], len(pairs))
    if len(names) == len(provider.lists):
        tally.each("unlisted", [c for c in places if c not in seen and not is_index(c)], len(places))


def overlaps(spans: list[Span]) -> list[str]:
    """Codes with two spans that share a day."""
    out: list[str] = []
    ordered = sorted(spans)
    for (code, _, end), (other, start, _) in zip(ordered, ordered[1:], strict=False):
        if code == other and start <= end and code not in out:
            out.append(code)
    return out


def list_ends(lists: dict[str, list[Span]]) -> dict[str, pd.Timestamp]:
    """Last day of each code over all lists."""
    ends: dict[str, pd.Timestamp] = {}
    for spans in lists.values():
        for code, _, end in spans:
            ends[code] = max(end, ends.get(code, end))
    return ends
