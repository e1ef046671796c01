"""Checks of the calendar, the lists of instruments and the spelling of codes.

Legend: `D` days checked.
"""

from collections.abc import Container

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.check_data.folder import Provider, Span
from qlib_ext.check_data.table import REBUILD, Check, Tally
from qlib_ext.rules import is_a_share, is_index
from qlib_ext.spelling import read_code

HOLIDAY = 12  # days from one trading day to the next that a holiday explains
HOLIDAYS = (  # month and day, first and last, of all days that Chinese holidays have closed on weekdays since 2000
    *(("01-01", "01-05"), ("01-17", "03-03"), ("04-02", "04-08"), ("04-27", "05-08"), ("05-25", "06-27")),
    *(("09-01", "10-10"), ("12-29", "12-31")),
)
OLD_CALENDAR = 30  # days before today
LEAST_STOCKS = 30  # a day, of a list that can be ranked
YEAR = 243  # trading days
THIN_LIST = 1 / 3  # of the stocks that the list has within a year


LISTS: dict[str, Check] = {
    "calendar_duplicate": Check("error", f"a line a day in calendars/day.txt, whose lines the files count: {REBUILD}"),
    "calendar_order": Check("error", f"calendars/day.txt must be sorted; {REBUILD} (the bars were not checked)"),
    "calendar_weekend": Check("warning", "there is no trading on weekends: remove the days and dump again"),
    "calendar_gap": Check("warning", "more than 12 days without trade: the calendar lacks days, or an early holiday"),
    "calendar_hole": Check("warning", f"weekdays are missing on which no holiday falls: {REBUILD}, its calendar too"),
    "list_line": Check(
        "error", "a line of instruments/*.txt is: code, first day, last day (not before the first), separated by tabs"
    ),
    "list_name": Check("error", "qlib reads lists whose names are in lower case: rename the file"),
    "list_overlap": Check("warning", "let the spans of a code follow one another; an overlap counts the stock twice"),
    "code_spelling": Check(
        "error", "rules and boards go by codes such as SH600000: write so in the lists, and sh600000 as the folder"
    ),
    "code_case": Check("warning", "scores and holdings by SH600000 do not meet sh600000: write the lists in capitals"),
    "universe_empty": Check("error", "no stock can be read on these days: correct list, folders or days"),
    "list_starts": Check("warning", "the list begins later than the days: begin the segments there, or complete it"),
    "list_ends": Check("warning", "the list ends before the days: update it, or end the segments there"),
    "list_thin": Check("warning", "so few stocks are no universe: complete the list, or leave these days out"),
    "list_small": Check("warning", f"fewer than {LEAST_STOCKS} stocks a day are hard to rank: take a larger list"),
    "listed_no_data": Check("warning", "remove the code from the list, or add its feature folder"),
    "unlisted": Check("info", "add the stock to a list if it should be used"),
    "indices": Check("warning", "use a universe without them; DayDatasetH leaves them out, qlib's DatasetH does not"),
    "not_a_share": Check("warning", "funds, B shares and the like have other rules: leave them out of the universe"),
    "calendar_end": Check("info", "update the data before you trade on it"),
}


def check_calendar(days: pd.DatetimeIndex, today: pd.Timestamp | None, tally: Tally) -> bool:
    """Check the calendar; False where it is not in order, so that positions in it mean nothing."""
    step = np.diff(days.to_numpy()).astype("timedelta64[D]").astype(int)
    wrong = {"calendar_duplicate": step == 0, "calendar_order": step < 0, "calendar_gap": step > HOLIDAY}
    for name, cases in wrong.items():
        places = np.flatnonzero(cases).tolist()
        tally.each(name, [f"{days[n].date()} to {days[n + 1].date()}" for n in places], len(days))
    tally.each("calendar_weekend", [str(day.date()) for day in days[days.day_of_week >= 5]], len(days))
    tally.each("calendar_hole", [str(day.date()) for day in _holes(days)], len(days))
    if today is not None:
        age = (today - days[-1]).days
        tally.add("calendar_end", age > OLD_CALENDAR, 1, f"the calendar ends {days[-1].date()}, {age} days ago")
    return bool((step >= 0).all())


def _holes(days: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Weekdays that a calendar lacks, outside of all holidays; gaps that are told otherwise are none."""
    missing = pd.bdate_range(days.min(), days.max()).difference(days)
    text = missing.strftime("%m-%d")
    free = np.any([(text >= first) & (text <= last) for first, last in HOLIDAYS], axis=0)
    ahead = days.unique().sort_values()
    after = ahead[ahead.searchsorted(missing).clip(max=len(ahead) - 1)]
    long = (after - ahead[ahead.searchsorted(missing) - 1]).days > HOLIDAY
    return missing[~(free | long)]


def check_lists(provider: Provider, names: list[str], tally: Tally) -> None:
    """Check the lists of these names: codes, indices, overlaps, codes without data, stocks in no list."""
    places, lists = provider.places, {name: provider.lists[name] for name in names}
    seen = {code for spans in lists.values() for code, _, _ in spans}
    pairs = [(name, code) for name, spans in lists.items() for code in dict.fromkeys(code for code, _, _ in spans)]
    meant = {code: spelled(code) for code in [*seen, *places]}
    odd = [f"{code} in {name}.txt is {meant[code]}" for name, code in pairs if meant[code] != code]
    odd += [f"folder {place.name} is {meant[code]}" for code, place in places.items() if meant[code] != code]
    tally.each("code_spelling", odd, len(pairs) + len(places))
    stocks = [(name, code) for name, code in pairs if not is_index(code) and meant[code] == code]
    mixed = {name for name, code in pairs if not is_index(code)}  # a list of indices alone is no universe
    among = [f"{code} in {name}.txt" for name, code in pairs if is_index(code) and name in mixed]
    tally.each("indices", among, len(pairs))
    tally.each("not_a_share", [f"{code} in {name}.txt" for name, code in stocks if not is_a_share(code)], len(stocks))
    for name, spans in lists.items():
        tally.each("list_overlap", [f"{code} in {name}.txt" for code in overlaps(spans)], len(spans))
    lost = [f"{code} in {name}.txt{_other(code, places)}" for name, code in pairs if code not in places]
    tally.each("listed_no_data", lost, len(pairs))
    if len(names) == len(provider.lists):
        tally.each("unlisted", [c for c in places if c not in seen and not is_index(c)], len(places))


def _other(code: str, places: Container[str]) -> str:
    """Words on a folder of the same digits at the other exchange, of a stock that cannot be at this one."""
    other = {"SH": "SZ", "SZ": "SH"}.get(code[:2], "") + code[2:]
    return (
        f" (is it {other}, which there is?)" if is_a_share(other) and other in places and not is_a_share(code) else ""
    )


def spelled(code: str) -> str:
    """Code of a stock or index as qlib writes it, from any usual spelling; what is no code stays as it is."""
    if is_index(code) or is_a_share(code):
        return code
    try:
        return read_code("code", code)
    except ValueError:
        return code


def check_members(provider: Provider, names: list[str], codes: list[str], days: pd.DatetimeIndex, tally: Tally) -> None:
    """Check how many stocks the lists have on the days (D,); begin and size where one list is asked for."""
    one = names[0] if len(names) == 1 else None
    if not codes:
        words = "no stock has a folder in features/"
        tally.add("universe_empty", 1, 1, f"{one}.txt: {words}" if one else words)
        return
    for name in names:
        count = members(provider, name, days)
        there = np.flatnonzero(count)
        if not len(there):
            tally.add("universe_empty", name == one, 1, f"{name}.txt has no stock on these days")
            continue
        first, last = int(there[0]), int(there[-1])
        tally.add("list_ends", len(days) - 1 - last, len(days), f"{name}.txt ends {days[last].date()}")
        thin = thin_days(count)
        cases = [f"{name}.txt {days[n].date()} {count[n]} of {count.max()}" for n in np.flatnonzero(thin).tolist()]
        tally.each("list_thin", cases, len(days))
        if one:
            tally.add("list_starts", first, len(days), f"{name}.txt begins {days[first].date()}")
            usual = float(np.median(count[first : last + 1][~thin[first : last + 1]]))
            tally.add("list_small", usual < LEAST_STOCKS, 1, f"{name}.txt has {usual:.0f} stocks a day")


def members(provider: Provider, name: str, days: pd.DatetimeIndex) -> npt.NDArray[np.int64]:
    """(D,) stocks of a list with a feature folder that are in it on each day; indices do not count."""
    spans = [span for span in provider.lists[name] if span[0] in provider.places and not is_index(spelled(span[0]))]
    change = np.zeros(len(days) + 1, dtype=np.int64)
    np.add.at(change, days.searchsorted(pd.DatetimeIndex([start for _, start, _ in spans])), 1)
    np.add.at(change, days.searchsorted(pd.DatetimeIndex([end for _, _, end in spans]), side="right"), -1)
    return change.cumsum()[:-1]


def thin_days(count: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(D,) days within a list's span with far fewer stocks than within a year, or too few though it has more."""
    usual = pd.Series(count).rolling(2 * YEAR + 1, center=True, min_periods=1).max().to_numpy()
    least = min(LEAST_STOCKS, THIN_LIST * float(count.max(initial=0)))
    inside = np.maximum.accumulate(count > 0) & np.maximum.accumulate(count[::-1] > 0)[::-1]
    return inside & (count < np.maximum(THIN_LIST * usual, least))


def overlaps(spans: list[Span]) -> list[str]:
    """Codes with two spans that share a day."""
    out: list[str] = []
    ordered = sorted(spans)
    for (code, _, end), (other, start, _) in zip(ordered, ordered[1:], strict=False):
        if code == other and start <= end and code not in out:
            out.append(code)
    return out


def list_spans(lists: dict[str, list[Span]]) -> dict[str, tuple[pd.Timestamp, pd.Timestamp]]:
    """First and last day of each code over all lists."""
    ends: dict[str, tuple[pd.Timestamp, pd.Timestamp]] = {}
    for spans in lists.values():
        for code, start, end in spans:
            first, last = ends.get(code, (start, end))
            ends[code] = min(start, first), max(end, last)
    return ends
