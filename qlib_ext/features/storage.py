"""FrameRows: what a handler holds in place of a frame, where the features lie as the panel has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from qlib.data.dataset.handler import DataHandler
from qlib.data.dataset.storage import BaseHandlerStorage
from qlib.data.dataset.utils import fetch_df_by_col, fetch_df_by_index

from qlib_ext.panel import PanelRows

CHUNK = 16_384  # rows that are copied at a time


class FrameRows(BaseHandlerStorage):
    """Features as PanelRows and the labels beside them, which qlib fetches from as from one frame; a fetch copies.

    Args:
        rows: R rows of F features.
        label: (R, L), their labels by (group, name).
        columns: (group, name) of the features.
    """

    def __init__(self, rows: PanelRows, label: pd.DataFrame, columns: Sequence[tuple[str, str]]) -> None:
        self.rows, self.label = rows, label
        self.columns = pd.MultiIndex.from_tuples([*columns, *label.columns])

    def fetch(
        self,
        selector: Any = slice(None),
        level: Any = "datetime",
        col_set: Any = DataHandler.CS_ALL,
        fetch_orig: bool = True,
    ) -> Any:
        """Give what qlib's fetch gives of the whole frame, made of the rows and columns asked for alone."""
        numbers = pd.DataFrame({"row": np.arange(len(self.rows.index))}, self.rows.index)
        chosen, wanted = fetch_df_by_index(numbers, selector, level, fetch_orig), self.columns_of(col_set)
        if isinstance(chosen, pd.DataFrame) and isinstance(wanted, pd.DataFrame):
            return self._frame(chosen["row"], wanted)
        whole = self._frame(numbers["row"], self.columns_of(DataHandler.CS_RAW))
        return fetch_df_by_index(fetch_df_by_col(whole, col_set), selector, level, fetch_orig)

    def columns_of(self, col_set: Any) -> Any:
        """Columns that qlib takes for `col_set`: a frame of one row, their numbers."""
        return fetch_df_by_col(pd.DataFrame([np.arange(len(self.columns))], columns=self.columns), col_set)

    def _frame(self, rows: pd.Series, columns: pd.DataFrame) -> pd.DataFrame:
        row, column, count = rows.to_numpy(), columns.to_numpy()[0], len(self.rows.features)
        values, feature = np.empty((len(row), len(column)), dtype=np.float32), column < count
        values[:, ~feature] = self.label.to_numpy()[np.ix_(row, column[~feature] - count)]
        for start in range(0, len(row) if feature.any() else 0, CHUNK):
            part = slice(start, start + CHUNK)
            values[part, feature] = self.rows.take(row[part])[:, column[feature]]
        return pd.DataFrame(values, rows.index, columns.columns, copy=False)
