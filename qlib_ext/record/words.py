"""What the records say beside their numbers: warnings, what was chosen on which days, tables as text.

Private to `record`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from qlib_ext.evaluate import DEFINITIONS
from qlib_ext.panel import DayPanel
from qlib_ext.record.judgement import TABLE_DEFINITIONS, Rows

EXPOSURE_LIMIT = 0.3  # of the mean rank correlation with volatility; beyond it the user is warned


def volatility_warning(exposure: pd.Series) -> str | None:
    """Say in words that a score is a bet on volatility, up or down; None where its mean exposure is within bounds."""
    known = exposure.dropna()
    mean = float(known.mean()) if len(known) else 0.0
    if abs(mean) <= EXPOSURE_LIMIT:
        return None
    kind, cure = "calm", "low_volatility of BaselineRecord shows what that alone earns"
    if mean > 0:
        kind = "volatile"
        cure = (
            "a weighted loss whose weights depend on the outcome (weight_by: label) rewards volatility; weight_by: "
            "score does not"
        )
    return (
        f"the score follows volatility: rank correlation with the trailing volatility {mean:+.2f} on average over "
        f"{len(known)} days (beyond +-{EXPOSURE_LIMIT}): a good part of the returns is a bet on {kind} stocks; {cure}"
    )


def selections(members: pd.DataFrame, *, walked: bool) -> dict[str, str]:
    """Tell for each row of `fold_table` what was chosen on its days."""
    metric = ", ".join(sorted(set(members["metric"].astype(str))))
    if walked:
        plain = f"nothing was selected on it; epochs were chosen by {metric} on days before it"
        return {"fold": plain, "mean over folds": plain, "test": plain}
    return {
        "fold": f"epoch chosen on this block by {metric}: optimistic",
        "mean over folds": f"epochs chosen on these blocks by {metric}: optimistic",
        "all out-of-fold days": f"epochs chosen on these days, block by block, by {metric}: optimistic",
        "test": f"nothing was selected on it; epochs were chosen by {metric} on the blocks",
    }


def block_rows(panel: DayPanel, fold_map: pd.DataFrame, part: str) -> list[Rows]:
    """Rows of the panel that play a part, fold by fold.

    Raises: ValueError where a day of a fold is not in the panel, or a fold has none.

    """
    blocks = []
    for fold, line in fold_map[fold_map["part"] == part].groupby("fold", sort=True):
        rows = pd.DatetimeIndex(panel.days).get_indexer(pd.DatetimeIndex(line["day"]))
        if (rows < 0).any():
            raise ValueError(f"fold {fold} has days that the panel lacks: the run's dataset is not the fold's")
        blocks.append(np.sort(rows).astype(np.int64))
    if not blocks:
        raise ValueError(f"no day of folds/fold_map.pkl is {part!r}")
    return blocks


def shown(table: pd.DataFrame) -> str:
    """Write a table of `judge.table_row` with its dates as ISO days, a line a column."""
    dates = {name: table[name].dt.strftime("%Y-%m-%d") for name in ("first", "last")}
    return table.assign(**dates).T.to_string(float_format=lambda v: f"{v:.4f}")


def listed(*left_out: str) -> str:
    """List the definitions of a table of `judge.table_row`, a line each."""
    every = {key: text for key, text in (TABLE_DEFINITIONS | DEFINITIONS).items() if key not in left_out}
    return "\n".join(f"  {key}: {text}" for key, text in every.items())
