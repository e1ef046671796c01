"""The frame of a segment that is also its sampler of windows, as qlib's models ask for the one or the other.

Legend: `R` rows of the segment, `T` days of a window, `C` columns (features, then the label).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.data.dataset import TSDataSampler


class DaySampler(TSDataSampler):
    """qlib's sampler of windows, whose samples stand day by day.

    qlib's own stand stock by stock, so that a "daily batch" (`DailyBatchSampler` of GATs) holds some stocks on many
    days (qlib issue 2319) and predictions come back in that order. The windows are the same.
    """

    idx_map: npt.NDArray[np.int32]  # (R, 2): day, stock
    data_index: pd.MultiIndex  # (instrument, datetime)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As TSDataSampler; `idx_map` and `data_index` are then sorted by day and stock."""
        super().__init__(*args, **kwargs)
        order = np.lexsort((self.idx_map[:, 1], self.idx_map[:, 0]))
        self.idx_map, self.data_index = self.idx_map[order], self.data_index[order]


class WindowFrame(pd.DataFrame):
    """A segment's frame as DatasetH prepares it, (R, C), whose rows are also the windows that TSDatasetH samples.

    A model that learns from rows (LGBModel) takes its columns. One that learns from windows (qlib's `_ts` models) calls
    `config`, then takes windows by number, (T, C), or by a list of numbers, (n, T, C), and `get_index`; the windows are
    made at the first such call, and the columns are then given up: the data are not held twice. Frames made of it are
    plain.

    >>> frame = dataset.prepare("valid", col_set=["feature", "label"])
    >>> len(frame), frame["feature"].shape
    (216, (216, 2))
    >>> frame.config(fillna_type="ffill+bfill")
    >>> frame[0].shape, frame[[0, 1]].shape, len(frame.get_index())
    ((2, 3), (2, 2, 3), 216)
    """

    _metadata = ["_windows", "_sampler"]
    _windows: Callable[[], DaySampler]
    _sampler: DaySampler | None

    @classmethod
    def of(cls, frame: pd.DataFrame, windows: Callable[[], DaySampler]) -> "WindowFrame":
        """Wrap a frame; `windows` makes its sampler when one is asked for."""
        wrapped = cls(frame)
        wrapped._windows, wrapped._sampler = windows, None
        return wrapped

    @property
    def sampler(self) -> DaySampler:
        """The segment's windows, made at the first call."""
        if self._sampler is None:
            for name in self.columns.get_level_values(0).unique():
                del self[name]
            self._sampler = self._windows()
        return self._sampler

    def config(self, **options: Any) -> None:
        """Set options of the sampler: fillna_type ("none", "ffill", "ffill+bfill")."""
        self.sampler.config(**options)

    def get_index(self) -> pd.MultiIndex:
        """(datetime, instrument) of the windows, in their order: day by day."""
        return self.sampler.get_index()

    def __getitem__(self, key: Any) -> Any:
        """Give a window by number, several by a list of numbers; columns by name, as any frame does."""
        return self.sampler[key] if _numbers(key) else super().__getitem__(key)

    @property
    def empty(self) -> bool:
        """Whether the segment has no row."""
        return not len(self)


def _numbers(key: Any) -> bool:
    """Whether a key is a sample's number, or an array or a list of them."""
    if isinstance(key, np.ndarray):
        return key.dtype.kind in "iu"
    if isinstance(key, list):
        return bool(key) and all(_numbers(one) for one in key)
    return isinstance(key, int | np.integer) and not isinstance(key, bool)
