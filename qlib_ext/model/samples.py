"""Days of a panel as the frames that qlib's own models ask a dataset for, and such a model among ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from qlib.data.dataset import DatasetH
from qlib.workflow import R

from qlib_ext.losses import target_transform
from qlib_ext.model.day_model import recording
from qlib_ext.model.scores import Grid
from qlib_ext.panel import DayPanel, check_scores, grid_of
from qlib_ext.training import Rows

LABEL = "LABEL0"
COPIED = 1 << 16  # samples at a time: a frame of the whole market is not held twice
BLOCK = 64  # days that a model of qlib's scores at a time: their features are copied


class PanelSamples(DatasetH):
    """A DatasetH of chosen days of a panel: what LGBModel, XGBModel, LinearModel, DNNModelPytorch and the like read.

    Each sample is a present stock on a day; where labels are asked for, only those that have one. Days are those given,
    purged as ours are (qlib's own `prepare` has the last days of a segment too, whose labels reach into the next).

    Args:
        panel: the market.
        parts: name of the segment -> rows in the panel.
        target: what the label becomes, each day: "raw", "rank" or "volatility", see `losses.target_transform`.
    """

    def __init__(self, panel: DayPanel, parts: Mapping[str, Rows], target: str = "rank") -> None:
        self.source, self.parts, self.target = panel, dict(parts), target
        self.segments = {name: (panel.days[rows[0]], panel.days[rows[-1]]) for name, rows in parts.items() if len(rows)}
        self.handler = None

    def prepare(self, segments: Any, col_set: Any = "__all", data_key: str = "infer", **unused: Any) -> Any:
        """Return a frame of a segment, or a list of those of several: float32, by (datetime, instrument).

        `col_set` "feature" or "label" gives plain columns; a list of both, or "__all", columns by group and name.

        Raises: ValueError for a segment or columns that are not there.
        """
        if isinstance(segments, list | tuple):
            return [self.prepare(name, col_set, data_key) for name in segments]
        groups = [col_set] if isinstance(col_set, str) else list(col_set)
        groups = ["feature", "label"] if groups == ["__all"] else groups
        if not isinstance(segments, str) or segments not in self.parts or not set(groups) <= {"feature", "label"}:
            raise ValueError(
                f"segment {segments!r}, columns {col_set!r}: an ensemble hands its members the segments "
                f"{sorted(self.parts)} with the columns feature and label"
            )
        frame = self._frame(self.parts[segments], groups)
        return frame[col_set] if isinstance(col_set, str) and len(groups) == 1 else frame

    def _frame(self, rows: Rows, groups: list[str]) -> pd.DataFrame:
        panel, at = self.source, torch.as_tensor(rows)
        real, target = panel.present[at], None
        if "label" in groups:
            grids = (panel.label[at], real)
            volatility = None if panel.volatility is None else panel.volatility[at]
            target = target_transform(*grids, target=self.target, volatility=volatility)
            real = real & torch.isfinite(target)
        day, stock = np.nonzero(real.numpy())
        columns = [("feature", name) for name in panel.features] if "feature" in groups else []
        value: npt.NDArray[np.float32] = np.empty((len(day), len(columns) + (target is not None)), np.float32)
        for first in range(0, len(day) if columns else 0, COPIED):
            some = slice(first, first + COPIED)
            value[some, : len(columns)] = panel.x[at[torch.as_tensor(day[some])], torch.as_tensor(stock[some])].numpy()
        if target is not None:
            value[:, -1] = target.numpy()[day, stock]
            columns = [*columns, ("label", LABEL)]
        codes: Any = [day, stock]
        levels: Any = [pd.DatetimeIndex(panel.days[rows]), pd.Index(panel.stocks, dtype=object)]
        index = pd.MultiIndex(levels=levels, codes=codes, names=["datetime", "instrument"])
        return pd.DataFrame(value, index, pd.MultiIndex.from_tuples(columns))


def fit_samples(model: Any, panel: DayPanel, train: Rows, valid: Rows, target: str) -> None:
    """Train one of qlib's models on days of a panel, stopped on others where it stops at all."""
    with _unrecorded():
        model.fit(PanelSamples(panel, {"train": train, "valid": valid}, target))


def score_samples(model: Any, panel: DayPanel, rows: Rows) -> Grid:
    """Score days by one of qlib's models, (len(rows), N), NaN where a stock is not present."""
    score = np.full((len(rows), len(panel.stocks)), np.nan, np.float32)
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        if not bool(panel.present[torch.as_tensor(some)].any()):
            continue
        series = model.predict(PanelSamples(panel, {"test": some}), segment="test")
        checked = check_scores(series, f"the scores of {type(model).__name__}")
        score[start : start + BLOCK] = grid_of(checked, panel.days[some], panel.stocks)
    return score


class _Nothing:
    """Stands for qlib's recorder: takes every call and keeps nothing."""

    exp_manager = None

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self


@contextmanager
def _unrecorded() -> Iterator[None]:
    """Let qlib's models log into nothing where no experiment runs: they would start one, or fail before qlib.init."""
    if recording():
        yield
        return
    before = R._provider
    R._provider = _Nothing()
    try:
        yield
    finally:
        R._provider = before
