"""CSNormalise: a qlib processor that cleans a day's cross-section in one pass, without fitting anything over time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from qlib.data.dataset.processor import Processor, get_group_columns
from qlib.log import get_module_logger

from qlib_ext.cross_section import cross_section_zscore
from qlib_ext.features.kernels import Float32
from qlib_ext.options import argument_names, refuse_unknown
from qlib_ext.panel import PanelRows

Grid = npt.NDArray[np.float64]

logger = get_module_logger("qlib_ext.processor")


class CSNormalise(Processor):
    """Infinity to NaN, then (x - mean) / std over the day's stocks, clipped, NaN to 0.

    One call in place of qlib's ProcessInf, CSZScoreNorm and Fillna, which take minutes and copy the frame. What comes
    in is left as it is, and what comes out is one array that shares nothing with it. The share of values that became
    0 is logged; a feature without any value, such as VWAP0 of data without $vwap, is warned of by its name.

    Args:
        fields_group: column group, normally "feature"; None: all columns.
        clip: largest absolute value afterwards, in standard deviations; above 0.
        unknown: nothing is allowed here.

    Raises:
        TypeError: an unknown option.
        ValueError: a clip that is not above 0.

    >>> import pandas as pd
    >>> index = pd.MultiIndex.from_product([["2020-01-02"], ["A", "B", "C"]], names=["datetime", "instrument"])
    >>> frame = pd.DataFrame({("feature", "MA5"): [1.0, 3.0, float("nan")]}, index)
    >>> CSNormalise()(frame)[("feature", "MA5")].tolist()
    [-1.0, 1.0, 0.0]
    """

    def __init__(self, *, fields_group: str | None = "feature", clip: float = 3.0, **unknown: Any) -> None:
        refuse_unknown("CSNormalise", unknown, argument_names(CSNormalise))
        if not clip > 0:
            raise ValueError(f"clip={clip!r} must be above 0 (standard deviations)")
        self.fields_group, self.clip = fields_group, clip

    def readonly(self) -> bool:
        """Tell qlib that the frame that comes in is not written to: it need not be copied first."""
        return True

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """Normalise the columns of the group (to float32); the other columns stay as they are."""
        inside = np.asarray(df.columns.isin(get_group_columns(df, self.fields_group)))
        place = np.flatnonzero(inside)
        together = len(place) and place[-1] - place[0] + 1 == len(place)  # then a slice of the frame is no copy
        source = df.iloc[:, place[0] : place[-1] + 1] if together else df.iloc[:, place]
        clean = np.empty(source.shape, dtype=np.float32)
        names = [str(c[-1] if isinstance(c, tuple) else c) for c in df.columns[place]]
        self._clean(lambda rows: source.iloc[rows].to_numpy(dtype=np.float64, copy=True), clean, _days(df.index), names)
        frame = pd.DataFrame(clean, index=df.index, columns=df.columns[place], copy=False)
        for i, name in enumerate(df.columns):
            if not inside[i]:
                rest: pd.Series = df.iloc[:, i]
                frame.insert(i, name, rest.to_numpy(copy=True))
        frame.columns = df.columns
        return frame

    def in_place(self, rows: PanelRows) -> None:
        """Normalise features that nobody else has seen yet, in their own array."""
        flat, cells = rows.x.reshape(-1, rows.x.shape[2]), rows.cells
        days = [cells[part] for part in _days(rows.index)]
        self._clean(lambda day: flat[day].astype(np.float64), flat, days, rows.features)

    def _clean(self, read: Callable[[Any], Grid], out: Float32, days: list[Any], names: list[str]) -> None:
        """Write each day's clean features to its rows of `out`, (R, F); tell what was filled."""

        def normalise(rows: Any) -> tuple[int, npt.NDArray[np.int64]]:
            """Clean the rows of a day; count them, and the finite values of each feature."""
            value = read(rows)
            count: npt.NDArray[np.int64] = np.isfinite(value).sum(axis=0)
            out[rows] = cross_section_zscore(value, self.clip)
            return len(value), count

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            sizes, counts = zip(*pool.map(normalise, days), strict=True) if days else ((), ())
        if sum(sizes):
            _log_filled(np.sum(counts, axis=0), sum(sizes), names)


def _days(index: pd.Index) -> list[Any]:
    """List the rows of each day: slices where the days stand together, else positions."""
    day, _ = pd.factorize(index.get_level_values("datetime"))
    order = None if (np.diff(day) >= 0).all() else np.argsort(day, kind="stable")
    edges = np.flatnonzero(np.diff(day if order is None else day[order])) + 1
    parts = [slice(a, b) for a, b in zip([0, *edges], [*edges, len(day)], strict=True)]
    return parts if order is None else [order[part] for part in parts]


def _log_filled(counts: npt.NDArray[np.int64], rows: int, names: list[str]) -> None:
    """Log what became 0: the share of the values, and the features that have none."""
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty:
        listed = f"{', '.join(empty[:8])}{', ...' if len(empty) > 8 else ''}"
        logger.warning(f"{len(empty)} features have no value on any day and are 0 everywhere: {listed}")
    share = 1.0 - counts.sum() / max(1, rows * len(names))
    if share > 0:
        logger.info(f"{share:.2%} of the feature values were not known and became 0, the day's mean")
