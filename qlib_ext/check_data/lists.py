"""Checks of the calendar and the lists of instruments. Private to `check_data.py`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from qlib_ext.check_data.folder import Provider, Span, is_a_share
from qlib_ext.check_data.table import Tally
from qlib_ext.rules import is_index

HOLIDAY = 12  # days from one trading day to the next that a holiday explains
OLD_CALENDAR = 30  # days before today


def check_calendar(days: pd.DatetimeIndex, today: pd.Timestamp | None, tally: Tally) -> bool:
    """Check the calendar; False where it is not in order, so that positions in it mean nothing."""
    step = np.diff(days.to_numpy()).astype("timedelta64[D]").astype(int)
    for name, wrong in (
        ("calendar_duplicate", step == 0),
        ("calendar_order", step < 0),
        ("calendar_gap", step > HOLIDAY),
    ):
        tally.each(
            name, [f"{days[n].date()} to {days[n + 1].date()}" for n in np.flatnonzero(wrong).tolist()], len(days)
        )
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
