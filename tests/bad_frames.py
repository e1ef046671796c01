"""Texts of factor files, with options of `frames` behind them."""

import pandas as pd
from bad_files import written
from ruamel.yaml import YAML

from qlib_ext.frames import Frame, known_grids

DAYS = pd.to_datetime(["2022-01-04", "2022-01-05", "2022-01-06", "2022-01-07", "2022-01-10"])
CODES = ["SH600000", "SZ000001"]


def give(text, place, market):
    """Write the file, read and lay it out as the handlers do: {day: {code: value}} of what is known."""
    body, _, more = text.partition(" < ")
    options = YAML(typ="safe").load(f"{{{more}}}") if more else {}
    (frame,) = Frame.of({"path": str(written(place / "own.csv", body)), **options})
    out = {}
    for table in frame.read():
        for name in table:
            lag, age = frame.days("lag", name), frame.days("max_age", name)
            grid = known_grids(table[[name]], DAYS, DAYS, CODES, lag=lag, max_age=age)[name]
            rows = pd.DataFrame(grid, DAYS, CODES).iterrows()
            out[name] = {str(day.date()): row.dropna().to_dict() for day, row in rows if row.notna().any()}
    return out
