"""PanelRows: the features of a market laid out as the panel has them from the start, so that nothing holds them twice.

Sizes: D days, N stocks, F features, R rows (stock-days) of the frame that they would be.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

Float32 = npt.NDArray[np.float32]


class PanelRows:
    """Rows of features by (datetime, instrument), in one array of all days and stocks.

    A loader writes them into `x` at `cells`. A panel shows that array without a copy: what it masks is set aside
    first, so that the rows can still be read.

    Args:
        index: (R,) sorted, its levels D days and N stocks, sorted too, each with a row.
        features: F names.

    Raises: ValueError for levels that are not sorted.

    Attributes:
        x: (D, N, F) float32, 0 where there is no row.

    >>> index = pd.MultiIndex.from_tuples([(1, "A"), (1, "B"), (2, "B")], names=["datetime", "instrument"])
    >>> rows = PanelRows(index, ["KMID"])
    >>> rows.x.reshape(-1, 1)[rows.cells] = [[1.0], [2.0], [3.0]]
    >>> rows.shown(np.array([[True, False], [False, True]])).tolist()
    [[[1.0], [0.0]], [[0.0], [3.0]]]
    >>> rows.take(np.array([0, 1, 2])).tolist()
    [[1.0], [2.0], [3.0]]
    """

    def __init__(self, index: pd.MultiIndex, features: Sequence[str]) -> None:
        self.index, self.features = index, list(features)
        days, stocks = index.levels
        if not (days.is_monotonic_increasing and stocks.is_monotonic_increasing):
            raise ValueError("PanelRows: the levels of the index are not sorted")
        self.x: Float32 = np.zeros((len(days), len(stocks), len(features)), dtype=np.float32)
        self._real: npt.NDArray[np.bool_] | None = None  # (D, N) what `x` shows; None: every row
        self._aside: tuple[npt.NDArray[np.int64], Float32] = np.zeros(0, np.int64), self.x[:0, 0]  # rows, values

    def __repr__(self) -> str:
        """Sizes."""
        days, stocks, features = self.x.shape
        return f"PanelRows({len(self.index)} rows of {days} days, {stocks} stocks, {features} features)"

    @property
    def cells(self) -> npt.NDArray[np.int64]:
        """Place of each row among the D * N cells, (R,), rising."""
        day, stock = (np.asarray(codes, dtype=np.int64) for codes in self.index.codes)
        return np.asarray(day * self.x.shape[1] + stock)

    def take(self, rows: npt.NDArray[np.int64]) -> Float32:
        """Copy some rows, in the order asked for, (n, F)."""
        out = self.x.reshape(-1, self.x.shape[2])[self.cells[rows]]
        hidden, values = self._aside
        if len(hidden):
            at = np.searchsorted(hidden, rows).clip(max=len(hidden) - 1)
            found = hidden[at] == rows
            out[found] = values[at[found]]
        return out

    def shown(self, real: npt.NDArray[np.bool_]) -> Float32:
        """Give the features with 0 outside of `real`, (D, N): for the first panel `x` itself, as for others like it.

        For one of other cells a copy.
        """
        if self._real is not None and not np.array_equal(real, self._real):
            other = np.zeros_like(self.x)
            rows = np.flatnonzero(real[self.index.codes[0], self.index.codes[1]])
            other.reshape(-1, other.shape[2])[self.cells[rows]] = self.take(rows)
            return other
        if self._real is None:
            hidden = np.flatnonzero(~real[self.index.codes[0], self.index.codes[1]])
            self._aside = hidden, self.take(hidden)
            self.x.reshape(-1, self.x.shape[2])[self.cells[hidden]] = 0.0
            self._real = real.copy()
        return self.x
