"""Texts of macro files."""

import pandas as pd
from bad_files import written

from qlib_ext.panel import MacroState, read_macro

DAYS = pd.to_datetime(["2022-01-04", "2022-01-05", "2022-01-06", "2022-01-07"])


def give(text, place, market):
    """Write the file and compute its series x (used a day late) as the dataset does: {day: value}."""
    path = written(place / "macro.csv", text)
    macro = MacroState.of({"path": str(path), "series": {"x": {"foreign": True}}})
    frame, notices = macro.compute(read_macro([path]), DAYS, DAYS[2:])
    return {str(day.date()): float(value) for day, value in frame["x_level"].items()}, notices
