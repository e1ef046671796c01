"""Checks of DayDatasetH's options. Private to `data.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext import rules
from qlib_ext.options import is_whole
from qlib_ext.panel import LabelSpan

LEAST = {"step_len": 1, "liquidity_window": 1, "volatility_window": 2, "listing_age": 0}  # whole days


def check_options(**given: Any) -> None:
    """Raise ValueError for an option of DayDatasetH out of range, naming it and what is allowed."""
    for name, least in LEAST.items():
        days = given[name]
        if not (is_whole(days) and days >= least):
            raise ValueError(f"DayDatasetH: {name} is {days!r}; it must be a whole number of days, {least} or more.")
    if given["liquidity"] is not None:
        rules.fields_of(given["liquidity"], owner="DayDatasetH")
    label, st = given["label"], given["st"]
    if not (label is None or isinstance(label, str)):
        raise ValueError(f"DayDatasetH: label is {label!r}; it must be the label's expression, or null.")
    if not (st is None or isinstance(st, str | Path | pd.DataFrame)):
        raise ValueError(
            f"DayDatasetH: st is {st!r}; it must be a CSV file with the columns code, start, end, or null."
        )


def label_days_of(given: Any) -> LabelSpan | None:
    """Entry and reach as the user tells them.

    Raises: ValueError for anything but two whole numbers, 0 <= entry < reach.

    """
    if given is None:
        return None
    pair = [given.entry, given.reach] if isinstance(given, LabelSpan) else given
    right = isinstance(pair, list | tuple) and len(pair) == 2 and all(is_whole(day) for day in pair)
    if not right or not 0 <= pair[0] < pair[1]:
        raise ValueError(
            f"DayDatasetH: label_days={given!r}; it must be [entry, reach], whole days after the signal with "
            "0 <= entry < reach, such as [1, 2]."
        )
    return LabelSpan(*pair)
