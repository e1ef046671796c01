"""Texts of lists of ST stocks."""

import pandas as pd
from bad_files import written

from qlib_ext.rules import st_mask

DAYS = pd.to_datetime(["2022-01-04", "2022-01-05", "2022-01-06", "2022-01-07"])
CODES = ["SH600000", "SH600004", "SZ000001"]


def give(text, place, market):
    """Write the file and lay it out: {code: days under special treatment}; `frame: ...` is an expression."""
    frame = text.startswith("frame: ")
    flags = eval(text.removeprefix("frame: "), {"pd": pd}) if frame else written(place / "st.csv", text)
    mask = st_mask(flags, CODES, DAYS)
    return {code: [str(day.date()) for day in DAYS[column]] for code, column in zip(CODES, mask.T, strict=True)}
