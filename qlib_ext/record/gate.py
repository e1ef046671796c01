"""GateRecord: which features MASTER's gate selects, day by day, as artifacts of a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from qlib.log import get_module_logger
from qlib.workflow.record_temp import ACRecordTemp, SignalRecord

from qlib_ext.data import DayDatasetH
from qlib_ext.model import FoldEnsemble, MASTERModel, WalkForwardModel
from qlib_ext.nets import Gate
from qlib_ext.options import refuse_unknown
from qlib_ext.panel import DayPanel
from qlib_ext.record.staged import Staged
from qlib_ext.runs import load_if_there

logger = get_module_logger("qlib_ext.gate")

Rows = npt.NDArray[np.int64]
SHOWN = 5


def gate_weights(model: Any, dataset: DayDatasetH, segment: str = "test") -> pd.DataFrame:
    """Weights of the gate on the days of a segment: day x feature, mean 1 a day, as the network multiplies with them.

    Of an ensemble: the mean over the members that score the day.

    Raises: ValueError for a model that is not trained or has no gate.
    """
    panel, rows = dataset.panel, dataset.rows(segment)
    days = pd.DatetimeIndex(panel.days[rows], name="datetime")
    if isinstance(model, WalkForwardModel):
        block = np.maximum(pd.DatetimeIndex(model.starts).searchsorted(days, side="right") - 1, 0)
        size = len(model.seeds)
        members = {n: model.models[n * size : (n + 1) * size] for n in np.unique(block).tolist()}
        parts = [_mean(own, panel, rows[block == n]) for n, own in members.items()]
        weights = np.concatenate(parts)
    else:
        weights = _mean(model.models if isinstance(model, FoldEnsemble) else [model], panel, rows)
    return pd.DataFrame(weights, days, list(panel.features))


def _mean(members: list[Any], panel: DayPanel, rows: Rows) -> npt.NDArray[np.float64]:
    """Mean weights of some members, (len(rows), F)."""
    return np.mean([_weights(member, panel, rows) for member in members], axis=0)


def _weights(model: Any, panel: DayPanel, rows: Rows) -> npt.NDArray[np.float64]:
    """Weights of one model, (len(rows), F)."""
    trainer = model.trainer if isinstance(model, MASTERModel) else None
    gate = None if trainer is None else trainer.net.gate
    if not isinstance(gate, Gate) or panel.market is None:
        raise ValueError(
            f"{type(model).__name__} has no trained gate: use MASTERModel(gate: true) with a DayDatasetH that has a "
            "market_state or macro_state, or leave GateRecord out"
        )
    with torch.no_grad():
        state = panel.market[torch.as_tensor(rows)].to(gate.center)
        return np.asarray(gate(state).cpu().numpy(), dtype=np.float64)


def regimes(weights: pd.DataFrame, market: pd.DataFrame) -> pd.DataFrame:
    """Describe what the gate does with the state of the market: a row for each feature, those that move most first.

    Columns: `mean`, `standard_deviation` over the days, `moved_by` (the market feature with the largest rank
    correlation of its values and the weights, over days), `correlation` (that one), `low` and `high` (mean weight on
    the third of the days on which that market feature is lowest, and highest; of one in steps those that lie in that
    third as a whole, at least the outermost). Described on the same days: no test.
    """
    ranks, states = weights.rank(), market.rank()
    varied = states.loc[:, states.std() > 0]
    table = pd.DataFrame({"mean": weights.mean(), "standard_deviation": weights.std()})
    if varied.empty or len(weights) < 3:
        return table.sort_values("standard_deviation", ascending=False)
    unit = [(f - f.mean()) / f.std(ddof=0).replace(0.0, np.inf) for f in (ranks, varied)]
    relation = unit[0].to_numpy().T @ unit[1].to_numpy() / len(weights)  # (F, M)
    best = np.abs(relation).argmax(axis=1)
    table["moved_by"] = varied.columns.to_numpy()[best]
    table["correlation"] = np.take_along_axis(relation, best[:, None], axis=1)[:, 0]
    low = (varied.rank(pct=True, method="max") <= 1 / 3) | (varied == varied.min())
    high = (varied.rank(pct=True, method="min") > 2 / 3) | (varied == varied.max())
    for name, chosen in {"low": low.to_numpy()[:, best], "high": high.to_numpy()[:, best]}.items():  # (days, F)
        table[name] = (weights.to_numpy() * chosen).sum(axis=0) / chosen.sum(axis=0)
    return table.sort_values("standard_deviation", ascending=False)


class GateRecord(Staged, ACRecordTemp):
    """Write what the gate selects on the days of some segments, the test days by default.

    Artifacts in `gate/`: `weights.pkl` (day x feature, mean 1 a day), `market.pkl` (day x market feature, as the
    dataset has them, not scaled) and `regimes.pkl` (see `regimes`).

    Args:
        recorder, model, dataset: filled in by qlib; a MASTERModel with its gate on, or an ensemble of such.
        segments: names of the dataset's segments whose days are recorded and described together, such as [valid, test].
        skip_existing: leave artifacts of an earlier run as they are, where they are of the same days.

    In a workflow: `{class: GateRecord, module_path: qlib_ext.gate_record, kwargs: {segments: [valid, test]}}`.

    >>> GateRecord(None, dataset=dataset)
    Traceback (most recent call last):
    ValueError: GateRecord needs a DayDatasetH with a market_state or macro_state
    """

    artifact_path = "gate"
    stage = "gate"
    depend_cls = SignalRecord
    skip_existing: bool

    def __init__(
        self,
        recorder: Any,
        model: Any = None,
        dataset: Any = None,
        *,
        segments: Sequence[str] = ("test",),
        skip_existing: bool = False,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown, ("segments", "skip_existing"))
        super().__init__(recorder=recorder, skip_existing=skip_existing)
        if not isinstance(dataset, DayDatasetH) or not dataset.market_names:
            raise ValueError("GateRecord needs a DayDatasetH with a market_state or macro_state")
        self.model, self.dataset = model, dataset
        self.segments = (segments,) if isinstance(segments, str) else tuple(segments)
        if not self.segments or len(set(self.segments) & set(dataset.segments)) < len(self.segments):
            raise ValueError(f"GateRecord: segments={segments!r}; wanted one or more of {', '.join(dataset.segments)}")

    def list(self) -> list[str]:
        """Name the artifacts."""
        return ["weights.pkl", "market.pkl", "regimes.pkl"]

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Make the artifacts; with `skip_existing` only where they are not there, or are of other days."""
        if self.skip_existing and self._of_other_days():
            logger.info(f"the run's gate/ is of other days than {' and '.join(self.segments)}: it is made anew")
            self.skip_existing = False
        return super().generate(*args, **kwargs)

    def _of_other_days(self) -> bool:
        weights = load_if_there(self.recorder, f"{self.artifact_path}/weights.pkl")
        days = pd.DatetimeIndex(self.dataset.panel.days[self._rows()])
        return weights is not None and not pd.DatetimeIndex(weights.index).equals(days)

    def _rows(self) -> Rows:
        """Rows of the segments' days in the panel, in order."""
        return np.sort(np.concatenate([self.dataset.rows(name) for name in self.segments]))

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        parts = [gate_weights(self.model, self.dataset, name) for name in self.segments]
        weights = pd.concat(parts).sort_index()
        states = self.dataset.panel.market
        if states is None:
            raise ValueError("the dataset's panel has no market features")
        values = states[torch.as_tensor(self._rows())].cpu().numpy()
        market = pd.DataFrame(values, weights.index, self.dataset.market_names)
        table = regimes(weights, market)
        text = table.head(SHOWN).to_string(float_format=lambda v: f"{v:.3f}")
        logger.info(
            f"the gate on {len(weights)} {' and '.join(self.segments)} days: weights from "
            f"{weights.to_numpy().min():.2f} to {weights.to_numpy().max():.2f} (1: no gate); what moves most:\n{text}"
        )
        return {"weights.pkl": weights, "market.pkl": market, "regimes.pkl": table}
