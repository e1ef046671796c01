"""MLPModel and MASTERModel: qlib models that train on day cross-sections."""

from __future__ import annotations

import difflib
import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from qlib.log import get_module_logger
from qlib.model.base import Model
from qlib.workflow import R
from torch import nn
from tqdm import tqdm

from qlib_ext.data import panel_of
from qlib_ext.losses import DayLoss
from qlib_ext.nets import MASTER, MLP
from qlib_ext.panel import Batch
from qlib_ext.trainer import History, Trainer

logger = get_module_logger("qlib_ext.model")

LOSS_OPTIONS = tuple(p for p in inspect.signature(DayLoss.__init__).parameters if p not in ("self", "name", "unknown"))
TRAINER_OPTIONS = tuple(
    p for p in inspect.signature(Trainer.__init__).parameters if p not in ("self", "net", "loss", "step_len")
)


class DayModel(Model):
    """What both models share; options are those of DayLoss and Trainer, any other name is an error.

    Predictions are a Series by (datetime, instrument), sorted, of the stocks present on each day.
    """

    def __init__(self, *, loss: str = "liq_wpcc", **options: Any) -> None:
        allowed = (*LOSS_OPTIONS, *TRAINER_OPTIONS)
        for name in options:
            if name not in allowed:
                close = difflib.get_close_matches(name, allowed, n=3)
                raise TypeError(
                    f"{type(self).__name__} has no option {name!r}; close: {close}; allowed: {', '.join(allowed)}"
                )
        self.loss = DayLoss(loss, **{k: v for k, v in options.items() if k in LOSS_OPTIONS})
        self.options = {k: v for k, v in options.items() if k in TRAINER_OPTIONS}
        Trainer(nn.Identity(), self.loss, **self.options)  # an option that cannot be is an error now, not after loading
        self.trainer: Trainer | None = None
        self.history: History | None = None

    def build(self, d_feat: int, d_gate: int) -> nn.Module:
        """Build the network for d_feat features and d_gate market features."""
        raise TypeError(f"{type(self).__name__} builds no network: use MLPModel or MASTERModel")

    def fit(self, dataset: Any, *, reweighter: Any = None) -> None:
        """Train on the segment "train", select on "valid".

        Raises: ValueError for a reweighter (days are weighted by the loss) or what the loss or metric lacks.

        """
        if reweighter is not None:
            raise ValueError("reweighter is not used by day losses: choose loss, target and weight_by instead")
        panel, step_len, rows = panel_of(dataset)
        torch.manual_seed(int(self.options.get("seed", 0)))
        net = self.build(len(panel.features), 0 if panel.market is None else panel.market.shape[1])
        self.trainer = Trainer(net, self.loss, step_len=step_len, **self.options)
        train, valid = rows("train"), rows("valid")
        logger.info(f"{type(self).__name__}: {len(train)} + {len(valid)} days, {len(panel.stocks)} stocks, {self.loss}")
        self.history = self.trainer.fit(panel, train, valid, on_epoch=_report, progress=_progress)
        self.trainer.to_cpu()
        h = self.history
        logger.info(f"best epoch {h.best_epoch}: {self.trainer.metric} {h.best_value:.5f}")
        if h.degenerate_days:
            logger.warning(f"{h.degenerate_days} training days could not be learnt from and were counted out")

    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series:
        """Score a segment: Series `score` by (datetime, instrument), sorted."""
        if self.trainer is None:
            raise ValueError("the model is not trained: call fit first")
        panel, _, rows = panel_of(dataset)
        chosen = panel.rows(segment.start, segment.stop) if isinstance(segment, slice) else rows(segment)
        score = self.trainer.predict(panel, chosen)
        frame = pd.DataFrame(score, index=pd.DatetimeIndex(panel.days[chosen]), columns=panel.stocks)
        frame.index.name, frame.columns.name = "datetime", "instrument"
        long = pd.Series(frame.stack().dropna(), name="score")
        return long.sort_index()


class MLPModel(DayModel):
    """The deck's baseline: three linear layers on one day's cross-section.

    Args:
        hidden: widths of the two hidden layers.
        dropout: between the layers.
        loss, options: see DayLoss and Trainer.

    """

    def __init__(
        self, *, hidden: Sequence[int] = (256, 128), dropout: float = 0.0, loss: str = "liq_wpcc", **options: Any
    ) -> None:
        super().__init__(loss=loss, **options)
        self.hidden, self.dropout = tuple(hidden), dropout

    def build(self, d_feat: int, d_gate: int) -> nn.Module:
        """Build the MLP; it has no gate."""
        return MLP(d_feat, self.hidden, dropout=self.dropout)


class MASTERModel(DayModel):
    """MASTER (Li et al., AAAI 2024) over day cross-sections; the gate is off by default.

    Args:
        d_model, t_heads, s_heads, dropout, attention_dropout, beta, variant: see nets.MASTER.
        gate: feed the panel's market features to the gate.
        loss, options: see DayLoss and Trainer.

    """

    def __init__(
        self,
        *,
        d_model: int = 256,
        t_heads: int = 4,
        s_heads: int = 2,
        dropout: float = 0.5,
        attention_dropout: float | None = None,
        beta: float = 5.0,
        variant: str = "official",
        gate: bool = False,
        loss: str = "liq_wpcc",
        **options: Any,
    ) -> None:
        super().__init__(loss=loss, **options)
        self.d_model, self.t_heads, self.s_heads, self.dropout = d_model, t_heads, s_heads, dropout
        self.attention_dropout, self.beta, self.variant, self.gate = attention_dropout, beta, variant, gate

    def build(self, d_feat: int, d_gate: int) -> nn.Module:
        """Build MASTER; with the gate on, the dataset must have market features."""
        if self.gate and not d_gate:
            raise ValueError("gate: true but the dataset has no market features: give it some or set gate: false")
        return MASTER(
            d_feat,
            self.d_model,
            self.t_heads,
            self.s_heads,
            self.dropout,
            d_gate if self.gate else 0,
            self.beta,
            attention_dropout=self.attention_dropout,
            variant=self.variant,  # type: ignore[arg-type]
        )


def _report(epoch: int, row: dict[str, float]) -> None:
    """Log an epoch, and record it where an experiment runs; one bad name or value would end the recorder's thread."""
    logger.info(f"epoch {epoch}: " + ", ".join(f"{k} {v:.5f}" for k, v in row.items()))
    if R.exp_manager.active_experiment is not None:
        R.log_metrics(step=epoch, **{k: v for k, v in row.items() if math.isfinite(v)})


def _progress(batches: Iterator[Batch], total: int) -> Iterator[Batch]:
    yield from tqdm(batches, total=total, leave=False, disable=not sys.stderr.isatty())
