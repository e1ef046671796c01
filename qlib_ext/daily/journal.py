"""The journal: a line for each day of data, in a CSV file that pandas reads; a day that is run again has one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.beside import write_text

JOURNAL = "journal.csv"
JOURNAL_COLUMNS = {
    "data_day": "last day of the provider, by whose close everything is",
    "date": "day of the orders, the next trading day",
    "run": "the run's id",
    "account": "yuan: holdings at the last close, and the cash",
    "cash": "yuan at hand",
    "holdings": "stocks held",
    "sells": "orders to sell",
    "sell_yuan": "their yuan",
    "buys": "orders to buy",
    "buy_yuan": "their yuan",
    "not_traded": "holdings and targets that are not traded",
    "fills": "executed orders since the line before, of --fills",
    "fill_yuan": "their yuan",
    "slippage": "yuan that they paid beyond their arrival prices, both sides",
    "missed": "trading days since the line before that have no line",
    "corrected": "stock days whose bar was issued again, as noticed that day",
    "ic": "mean IC of the last days after the test (at most 60) whose label is known",
    "ic_days": "number of these days",
    "ic_test": "mean IC of the test's days",
    "drifted": "features whose population has drifted",
    "feature": "the one that drifted most",
    "psi": "its population stability index that day",
    "found": "checks of the data that found an error or a warning",
    "alarm": "what a person should look at",
}


def read_journal(folder: Path) -> pd.DataFrame:
    """Read the journal of a folder, days as such; no rows where there is none.

    Raises: ValueError for a file that has other columns.
    """
    file = folder / JOURNAL
    if not file.is_file():
        return pd.DataFrame(columns=list(JOURNAL_COLUMNS))
    table = pd.read_csv(file, dtype={name: str for name in ("run", "feature", "found", "alarm")})
    if list(table) != list(JOURNAL_COLUMNS):
        raise ValueError(f"{file} has other columns than a journal: name another folder by --out, or move it away")
    return table.assign(**{name: pd.to_datetime(table[name]) for name in ("data_day", "date")})


def write_line(folder: Path, line: Mapping[str, Any]) -> None:
    """Put a day's line into the journal, in the place of one of the same day; other lines stay byte for byte."""
    file = folder / JOURNAL
    row = pd.DataFrame([line], columns=list(JOURNAL_COLUMNS)).to_csv(
        index=False, date_format="%Y-%m-%d", float_format="%.10g", lineterminator="\n"
    )
    head, new, _ = row.split("\n")
    old = file.read_text(encoding="utf-8").splitlines()[1:] if file.is_file() else []
    day = new.partition(",")[0]
    rows = sorted([kept for kept in old if kept.partition(",")[0] != day] + [new])
    write_text(file, "\n".join([head, *rows]) + "\n")


def sum_fills(fills: pd.DataFrame | None, after: pd.Timestamp, until: pd.Timestamp) -> dict[str, float]:
    """Sum up executions (of `strategy.read_executions`) of the days after `after` up to `until`."""
    if fills is None:
        return {"fills": 0, "fill_yuan": 0.0, "slippage": np.nan}
    some = fills[(fills["day"] > after) & (fills["day"] <= until)]
    sign = np.where(some["side"] == "buy", 1.0, -1.0)
    paid = (some["average"] / some["arrival"] - 1.0) * some["yuan"] * sign
    return {"fills": len(some), "fill_yuan": float(some["yuan"].sum()), "slippage": round(float(paid.sum()), 2)}
