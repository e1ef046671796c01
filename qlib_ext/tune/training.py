"""One trial: a model trained and judged on the validation days, ended early where others were better by then."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from qlib.data.dataset import Dataset
from qlib.model.base import BaseModel
from qlib.utils import auto_filter_kwargs, init_instance_by_config

from qlib_ext.data import DayDatasetH, panel_of
from qlib_ext.evaluate import daily_metrics, newey_west
from qlib_ext.model import DayModel, FoldEnsemble, hearing, past_scores
from qlib_ext.options import is_number
from qlib_ext.panel import DayPanel, grid_of
from qlib_ext.portfolio import market_of
from qlib_ext.rules import fee_rates
from qlib_ext.training import History
from qlib_ext.tune.blind import epochs_of, folds_of, metric_of
from qlib_ext.tune.space import as_json

MEASURE = "rank_ic"  # of models without a metric of their own
FEWEST = 8  # validation days for an account
FIRST_FEES = np.datetime64("2015-08-03")  # earlier days have its fees, as in training

Step = Callable[[int, float, bool], None]
TRAINED, ENDED, FAILED = "trained", "ended early", "failed"


@dataclass
class Judged:
    """What a trial came to.

    Attributes:
        state: TRAINED, ENDED or FAILED.
        value: of the measure, larger is better.
        error: its standard error over days; NaN where the model tells none.
        excess: daily returns of the account over the mean stock after costs on the validation days (the metric
            `net_excess`), by day; None: the dataset has no liquidity, or too few days.
        why: it failed.
    """

    state: str
    value: float = math.nan
    error: float = math.nan
    excess: pd.Series | None = None
    why: str = ""

    def facts(self) -> dict[str, Any]:
        """Give what optuna keeps of it beside the value."""
        facts: dict[str, Any] = {"state": self.state} | ({"why": self.why} if self.why else {})
        facts |= {"error": self.error} if math.isfinite(self.error) else {}
        if self.excess is not None:
            facts["days"] = [str(day)[:10] for day in self.excess.index]
            facts["excess"] = self.excess.tolist()
        return facts


class Market:
    """The dataset of the last trial, kept for those that follow with the same one."""

    def __init__(self) -> None:
        self._key, self._dataset = "", None
        self.loaded = 0

    def dataset(self, config: Mapping[str, Any]) -> Any:
        """Build a dataset, or give the one that is there."""
        key = as_json(config)
        if key != self._key:
            self._key, self._dataset = "", None  # two are not held at a time
            self._dataset = init_instance_by_config(dict(config), accept_types=Dataset)
            self._key = key
            self.loaded += 1
        return self._dataset


def fingerprint(dataset: Any) -> str:
    """Tell the data that trials see from others, bit by bit: days, stocks, presence, features and labels."""
    panel = panel_of(dataset)[0]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([str(panel.days[0]), str(panel.days[-1]), *map(str, panel.stocks)]).encode())
    for grid in (panel.present, panel.label, panel.liquidity, panel.x):
        if grid is not None:
            digest.update(np.ascontiguousarray(grid.cpu().numpy()).view(np.uint8).data)
    return digest.hexdigest()


def train(task: Mapping[str, Any], dataset: Any, step: Step) -> Judged:
    """Train a task's model and judge it.

    Args:
        task: blinded.
        dataset: of it.
        step: called with the number of a step (an epoch, or a fold), what the trial is worth by then, and whether it is
            over; what it raises ends the training.
    """
    model = init_instance_by_config(dict(task["model"]), accept_types=BaseModel)
    watch = Watch(folds_of(task["model"]), metric_of(task["model"]), step)
    try:
        with hearing(watch.hear):
            auto_filter_kwargs(model.fit)(dataset, reweighter=task.get("reweighter"))
        value, error = value_of(model, dataset)
        watch.close(epochs_of(task["model"]))
    except EarlyEnd as end:
        end.excess = validation_excess(model, dataset) if watch.folds == 1 and isinstance(model, DayModel) else None
        raise
    return Judged(TRAINED, value, error, validation_excess(model, dataset))


class EarlyEnd(Exception):  # noqa: N818  no error: the trial has been worth less than others so far
    """A trial ends early; `excess` as of `Judged`, of the network as it was then."""

    excess: pd.Series | None = None


@dataclass
class Watch:
    """Hears the epochs of a training, and tells what it has come to: after each epoch, or each fold.

    Args:
        folds: 1: the best value so far is told after each epoch; more: the mean over finished folds after each; 0:
            nothing is.
        metric: what is looked at of an epoch.
        step: see `train`.
    """

    folds: int
    metric: str
    step: Step
    best: dict[str, float] = field(default_factory=dict)  # of each network: its best value so far
    _fold: str = ""
    _told: int = 0

    def hear(self, prefix: str, epoch: int, row: Mapping[str, float]) -> None:
        """Hear of an epoch of a network: its number and metrics."""
        before, value = self.best.get(prefix, -math.inf), row.get(self.metric, math.nan)
        self.best[prefix] = value if value > before else before  # an undefined ratio is not
        if self.folds == 1 and prefix == next(iter(self.best)):
            self._tell(epoch, self.best[prefix])
        fold = prefix.partition(".")[0]
        if self.folds > 1 and self._fold and fold != self._fold:
            self._tell(self._told + 1, self._mean(but=fold))
        self._fold = fold

    def _mean(self, but: str) -> float:
        """Mean over the folds that are finished, all but one, of the mean over their members."""
        folds: dict[str, list[float]] = {}
        for prefix, value in self.best.items():
            folds.setdefault(prefix.partition(".")[0], []).append(value)
        return float(np.mean([np.mean(values) for fold, values in folds.items() if fold != but]))

    def _tell(self, number: int, value: float, *, over: bool = False) -> None:
        if number > self._told and math.isfinite(value):
            self._told = number
            self.step(number, value, over)

    def close(self, epochs: int) -> None:
        """Tell the best value of the epochs that a training stopped before: later trials are compared with it there."""
        if self.folds == 1 and self.best:
            for number in range(self._told + 1, epochs + 1):
                self._tell(number, next(iter(self.best.values())), over=True)


def value_of(model: Any, dataset: Any) -> tuple[float, float]:
    """Measure a trained model on its validation days: value and standard error.

    The value is that of the metric that stopped it, at its best epoch; of folds, the mean over folds of that over their
    seeds; of a model that keeps no history, the mean RankIC of its scores of the segment valid.
    """
    if isinstance(model, FoldEnsemble) and model.members is not None:
        each = model.members.assign(error=[_error(one) for one in model.models])
        by_fold = each.groupby("fold")[["best_value", "error"]].mean()
        return float(by_fold["best_value"].mean()), float(np.sqrt((by_fold["error"] ** 2).sum()) / len(by_fold))
    if isinstance(history := getattr(model, "history", None), History):
        return float(history.best_value), _error(model)
    panel, rows, grid = _scores(model, dataset)
    daily = daily_metrics(grid, panel.label[torch.as_tensor(rows)].cpu().numpy(), names=[MEASURE])[MEASURE].dropna()
    if not len(daily):
        raise ValueError(f"{MEASURE} is defined on none of {len(rows)} validation days: lengthen the segment valid")
    mean, error, _ = newey_west(daily.to_numpy())
    return float(mean), float(error)


def _error(model: Any) -> float:
    """Tell the standard error of a model's metric at its best epoch; NaN where it tells none."""
    row = model.history.epochs[model.history.best_epoch - 1]
    found = [row[name] for name in (f"{model.metric}_se", f"{model.metric}_error") if is_number(row.get(name))]
    return float(found[0]) if found else math.nan


def _scores(model: Any, dataset: Any) -> tuple[DayPanel, Any, Any]:
    """Scores of days that a model did not learn from: out of fold where it has such, else of the segment valid."""
    panel, _, rows = panel_of(dataset)
    own = past_scores(model, dataset)
    if own is None:
        raise ValueError("the dataset has no segment valid, on whose days trials are compared: add one")
    at = rows("valid") if "valid" in dataset.segments else np.arange(len(panel.days))
    at = at[np.isin(panel.days[at], own.index.unique("datetime").to_numpy())]
    return panel, at, grid_of(own.astype(np.float64), panel.days[at], panel.stocks)


def validation_excess(model: Any, dataset: Any) -> pd.Series | None:
    """Daily returns of an account that follows the scores, over the mean stock, after costs; see `Judged`."""
    if not isinstance(dataset, DayDatasetH) or dataset.panel.liquidity is None:
        return None
    panel, rows, score = _scores(model, dataset)
    if len(rows) < FEWEST:
        return None
    at = torch.as_tensor(rows)
    days = pd.DatetimeIndex(panel.days[rows])
    fees = fee_rates(np.maximum(panel.days[rows], FIRST_FEES))
    rates: dict[str, Any] = {f"{side}_rate": fees[side].to_numpy() for side in ("buy", "sell")}
    trading = market_of(panel, rows, entry=dataset.span.entry, **rates)
    inputs: list[Any] = [
        None if part is None else part[at].cpu() for part in (panel.label, panel.liquidity, panel.buyable)
    ]
    daily = daily_metrics(score, *inputs, names=["net_excess"], trading=trading).iloc[:, 0]
    excess = pd.Series(daily.to_numpy(dtype=np.float64), days, name="excess").dropna()
    return excess if len(excess) >= FEWEST else None
