"""FoldEnsemble and WalkForwardModel: one model trained on many cuts of the days, as a qlib Model.

Out-of-fold scores come from members that were stopped, though never trained, on the block they score: right for
comparing models, slightly kind as a headline. The walk-forward's test blocks are untouched.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from qlib.log import get_module_logger
from qlib.model.base import Model
from qlib.utils import init_instance_by_config

from qlib_ext import progress, ranks
from qlib_ext.data import DayDatasetH, label_reach, panel_of, segment_rows
from qlib_ext.engine import engine_of
from qlib_ext.model.day_model import (
    DayModel,
    Epochs,
    fit_in_one_pass,
    is_part,
    refuse_reweighter,
    report,
    report_heads,
    save_folds,
    window_of,
)
from qlib_ext.model.folds import (
    Fold,
    curves_frame,
    fold_days,
    members_frame,
    refuse_held_out,
    warn_if_thin,
    whole_segment,
)
from qlib_ext.model.kept import beside_checkpoint, let_go
from qlib_ext.model.scores import Grid, asked_rows, check_features, combined, heads_frame, off_exposures, score_series
from qlib_ext.options import argument_names, check_choice, check_flag, check_number, named_options, refuse_unknown, tell
from qlib_ext.panel import DayPanel
from qlib_ext.splits import LOOKBACK, HVBlockedKFold, WalkForward, feature_overlap, fold_map, overlap
from qlib_ext.training import Rows

logger = get_module_logger("qlib_ext.ensemble")

COMBINE = ("mean", "rank")
CONFIG_KEYS = ("class", "module_path", "kwargs")
WARM = {"epochs": 2}  # of `warm_start: true`
Job = tuple[Fold, int]  # and the seed


class _Members(Model):
    """What both ensembles share: one member for each fold and seed, their training, scores and records.

    After fit: `models` (by fold, then by seed), `members` (a row each), `curves` (a row each epoch), `fold_map`.
    """

    engine: Any = "process"  # recorded models may lack it
    warm: dict[str, Any] | None = None  # options of a member that begins as that of the fold before; None: none does

    def __init__(
        self,
        *,
        model: dict[str, Any],
        seeds: Sequence[int],
        gap: int | None,
        combine: str,
        strict: bool,
        processes: int,
        engine: Any,
    ) -> None:
        check_choice("combine", combine, COMBINE)
        check_number("processes", processes, "[1, inf)", whole=True)
        if engine_of(engine, processes) is not None and ranks.count() > 1:
            raise ValueError(
                f"processes: {processes}, engine: {engine} within {ranks.count()} ranks: all ranks train each member "
                "together; set processes: 1 and no engine, or start without torchrun"
            )
        self.model, self.seeds, self.gap = model, _distinct(seeds), gap
        self.combine, self.strict, self.processes, self.engine = combine, strict, processes, engine
        self.kind = type(new_member(model, self.seeds[0]))  # a configuration that cannot be is an error now, not later
        self.models: list[Any] = []
        self.members: pd.DataFrame | None = None
        self.curves: pd.DataFrame | None = None
        self.fold_map: pd.DataFrame | None = None

    def __repr__(self) -> str:
        """Kind of the members, how the days are cut, and how many are trained."""
        cut = {name: getattr(self, name) for name in ("n_splits", "step") if hasattr(self, name)}
        options = named_options(cut | {"seeds": self.seeds, "combine": self.combine})
        count = f"{len(self.models)} members trained" if self.models else "not trained"
        return f"{type(self).__name__}({self.kind.__name__}, {options}; {count})"

    def check_dataset(self, dataset: Any) -> None:
        """Look at a dataset before it is loaded, as DayModel does; the folds are cut too.

        Raises: ValueError as `fit`.
        """
        new_member(self.model, self.seeds[0]).check_needs(dataset)
        if isinstance(dataset, DayDatasetH):
            step_len = window_of(self.kind, dataset.step_len)
            cut = self.folds(dataset.panel, dataset.segments, step_len, label_reach(dataset))
            refuse_held_out(dataset.handler, self._fitted_until(dataset.panel, cut), strict=self.strict)
            if len(cut) == 1 and hasattr(self, "step"):
                tell(f"step: {self.step} spans the whole segment test: nothing is trained anew")
            apart = 1 if self.warm else len(cut)  # a chain of folds is one process's
            if apart * len(self.seeds) < self.processes:
                why = ", each fold after the one before (warm_start)" if self.warm else ""
                tell(
                    f"processes: {self.processes}, but {len(cut)} folds of {len(self.seeds)} seeds{why}: no more are "
                    "used"
                )

    def _opened(self, dataset: Any, reweighter: Any) -> tuple[DayPanel, int, int]:
        """Panel, days of a window and reach of the label of a dataset to train on."""
        refuse_reweighter(reweighter)
        panel, step_len, _ = panel_of(dataset)
        return panel, window_of(self.kind, step_len), label_reach(dataset)

    def _fit_folds(self, panel: DayPanel, step_len: int, reach: int, folds: list[Fold], axis: Rows) -> list[Grid]:
        """Train all members; return each fold's combined scores of its valid block, (len(valid), N)."""
        progress.stage("training")
        warn_if_thin(panel, folds[0].train)
        for fold in folds:
            self._log_fold(panel, fold, reach, step_len)
        jobs = [(fold, seed) for fold in folds for seed in self.seeds]
        done = self._train(panel, step_len, jobs)
        trained = [done[job] for job in range(len(jobs))]
        self.models = [model for model, _ in trained]
        if not is_part():  # the checkpoints of all: a run that was cut short does not train its finished members anew
            let_go(self)
        runs = [
            (fold, seed, model.metric, model.history) for (fold, seed), (model, _) in zip(jobs, trained, strict=True)
        ]
        self.members = members_frame(panel, runs)
        self.curves = curves_frame([(fold.number, seed, history) for fold, seed, _, history in runs])
        places = [tuple(np.searchsorted(axis, part) for part in fold.parts) for fold in folds]
        self.fold_map = fold_map(places, panel.days[axis])
        size = len(self.seeds)
        return [
            off_exposures(panel, fold.valid, combined([score for _, score in own], self.combine), self.models)
            for fold, own in zip(folds, (trained[i : i + size] for i in range(0, len(trained), size)), strict=True)
        ]

    @property
    def checkpoint(self) -> str | None:
        """File beside which each member keeps its own, see `member_checkpoint`."""
        return (self.model.get("kwargs") or {}).get("checkpoint")

    @checkpoint.setter
    def checkpoint(self, file: str | None) -> None:
        self.model = with_options(self.model, {"checkpoint": file})

    def _train(self, panel: DayPanel, step_len: int, jobs: list[Job]) -> dict[int, tuple[Any, Grid]]:
        """Train the members of the jobs, here or in processes that share the panel's memory, by the job's number.

        Jobs that begin as the one before are a chain, which one process trains.
        """
        engine = engine_of(self.engine, self.processes)
        if engine is None:
            return dict(enumerate(train_members(panel, step_len, self.model, self.warm, jobs)))
        panel.load(
            getattr(getattr(new_member(self.model, self.seeds[0]), "loss", None), "neutral", ())
        )  # by qlib, here
        if self.engine == "process":
            check_shared_memory(panel)
        every = list(range(len(jobs)))
        chains = [every[n :: len(self.seeds)] for n in range(len(self.seeds))] if self.warm else [[n] for n in every]
        work = partial(train_chain, step_len, self.model, self.warm)
        trained: dict[int, tuple[Any, Grid]] = {}
        for number, made in engine.run(work, ((panel, [jobs[n] for n in chain]) for chain in chains)):
            trained |= dict(zip(chains[number], made, strict=True))
            progress.step("members trained", len(trained), len(jobs))
            for n in chains[number]:
                report_member(prefix_of(*jobs[n]), trained[n][0])
        return trained

    def _log_fold(self, panel: DayPanel, fold: Fold, reach: int, step_len: int) -> None:
        shared = overlap(fold.train, fold.valid, reach=reach, window=step_len)
        soft = feature_overlap(fold.train, fold.valid, LOOKBACK + step_len - 1)
        first, last = (str(d)[:10] for d in panel.days[fold.valid[[0, -1]]])
        logger.info(
            f"fold {fold.number}: {len(fold.train)} training days, valid {first} to {last}, overlap {shared}, "
            f"feature_overlap {soft:.0%} ({LOOKBACK + step_len - 1} days)"
        )
        if shared and not self.strict:
            logger.warning(f"fold {fold.number}: {shared} pairs of days share a label or window (strict: false)")

    def predict_heads(self, dataset: Any, segment: str | slice = "test") -> pd.DataFrame:
        """Score a segment by each head as `predict` does, a column each named by its horizon in days.

        Raises: ValueError as `predict`, and for members that are ensembles of different kinds.
        """
        if not issubclass(self.kind, DayModel):
            raise ValueError(f"members of the class {self.kind.__name__} have no heads in common: ask them one by one")
        panel, rows, score = self._asked(dataset, segment, self._heads)
        return heads_frame(panel, rows, score, self.models[0].trainer.horizons)

    def _asked(
        self, dataset: Any, segment: str | slice, scores: Callable[[DayPanel, Rows, Sequence[Any]], Grid]
    ) -> tuple[DayPanel, Rows, Grid]:
        """Panel and rows of a segment, and what `scores` says of them by the members that are to score each."""
        raise NotImplementedError

    def _heads(self, panel: DayPanel, rows: Rows, models: Sequence[Any]) -> Grid:
        """Combine each head of some members, (len(rows), N, H)."""
        grids = np.stack([model.trainer.predict_heads(panel, rows) for model in models])
        return np.stack([combined(each, self.combine) for each in np.moveaxis(grids, 3, 0)], axis=2)

    def _scores(self, panel: DayPanel, rows: Rows, models: Sequence[Any]) -> Grid:
        """Combine the scores of some members, (len(rows), N)."""
        check_features(models[0].features, panel, getattr(models[0], "market_features", ()))
        score = combined([model.score_rows(panel, rows) for model in models], self.combine)
        return off_exposures(panel, rows, score, models)

    def _trained_or_raise(self) -> None:
        if not self.models:
            raise ValueError("the model is not trained: call fit first")


class FoldEnsemble(_Members):
    """Members trained on hv-blocked folds of the segments "train" and "valid" together; their mean scores `test`.

    Each fold's members train on the days outside the block and its gap, and stop on the block. With n_splits=1 it is
    an ensemble of seeds on the segments "train" and "valid" as they are.

    Args:
        model: configuration (class, module_path, kwargs) of an MLPModel or MASTERModel; its seed is set from `seeds`,
            and a `checkpoint` becomes a file for each fold and seed (`run.fold0.seed0.pt`), kept until all are trained
            (by qrun: until the run is finished).
        n_splits: blocks; "valid" may be absent with 2 or more.
        gap: trading days removed on each side of a block; None: reach + window - 1. Not with n_splits=1.
        seeds: of the members of each fold. With an `order_seed` in the model's kwargs all seeds of a fold see the days
            in one order and are trained in one pass over them, with the numbers of one by one; not with a checkpoint,
            nor with `processes`, which train them side by side.
        combine: "mean" of the scores, each standardised over the day's stocks, or of the daily "rank" (0 to 1).
        strict: refuse a shorter gap, and processors that were fitted over time; False: warn.
        processes: train so many members at a time, in processes that share the panel.
        engine: "process": those of this machine; "ray": on Ray, with so many workers (1: as many as Ray finds
            processors); {ray: {address:, cpus:, gpus:, retries:}}: on a cluster, see `engine.Ray` (docs/scale.md).

    After fit: `oof`, `members`, `curves`, `fold_map`; artifacts `folds/*.pkl` where an experiment runs.

    >>> member = {"class": "MLPModel", "kwargs": {"hidden": [8, 4], "loss": "wpcc", "metric": "ic", "epochs": 1}}
    >>> model = FoldEnsemble(model=member, n_splits=2, seeds=[0, 1])
    >>> model
    FoldEnsemble(MLPModel, n_splits=2, seeds=(0, 1), combine='mean'; not trained)
    >>> model.fit(dataset)
    >>> model.members[["fold", "seed"]].to_numpy().tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """

    def __init__(
        self,
        *,
        model: dict[str, Any],
        n_splits: int = 5,
        gap: int | None = None,
        seeds: Sequence[int] = (0,),
        combine: str = "mean",
        strict: bool = True,
        processes: int = 1,
        engine: str | Mapping[str, Any] = "process",
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown, argument_names(FoldEnsemble))
        super().__init__(
            model=model, seeds=seeds, gap=gap, combine=combine, strict=strict, processes=processes, engine=engine
        )
        self.n_splits = n_splits
        if n_splits == 1 and gap is not None:
            raise ValueError(
                f"gap={gap} does nothing with n_splits=1, the segments are taken as they are: leave it out"
            )
        if n_splits != 1:
            HVBlockedKFold(n_splits, strict=strict)
        self._oof: pd.Series | None = None  # many rows, an artifact of its own: qlib leaves "_" out of the pickle

    @property
    def oof(self) -> pd.Series:
        """Out-of-fold scores: Series `score` by (datetime, instrument), sorted; of every day that a block holds."""
        scores = getattr(self, "_oof", None)
        if scores is None:
            raise ValueError("no out-of-fold scores here: call fit, or load folds/oof.pkl from the run's recorder")
        return scores

    def fit(self, dataset: Any, *, reweighter: Any = None) -> None:
        """Train one member for each fold and seed.

        Raises: ValueError for a reweighter, a gap that leaks, or processors that saw held-out days.
        """
        panel, step_len, reach = self._opened(dataset, reweighter)
        folds = self.folds(panel, dataset.segments, step_len, reach)
        refuse_held_out(dataset.handler, self._fitted_until(panel, folds), strict=self.strict)
        used = np.unique(np.concatenate([part for fold in folds for part in fold.parts]))
        axis = np.arange(used[0], used[-1] + 1) if self.n_splits == 1 else used
        grids = self._fit_folds(panel, step_len, reach, folds, axis)
        self._oof = score_series(panel, np.concatenate([fold.valid for fold in folds]), np.concatenate(grids))
        save_folds(oof=self._oof, members=self.members, curves=self.curves, fold_map=self.fold_map)

    def _fitted_until(self, panel: DayPanel, folds: list[Fold]) -> Any:
        return None if self.n_splits != 1 else panel.days[folds[0].train[-1]]

    def folds(self, panel: DayPanel, segments: dict[str, Any], step_len: int, reach: int) -> list[Fold]:
        """Cut the days of "train" and "valid" as `fit` does; errors as of `fold_days` and HVBlockedKFold."""
        if self.n_splits == 1:
            return [Fold(0, *(segment_rows(panel, segments, name, reach) for name in ("train", "valid")))]
        axis = fold_days(panel, segments, reach)
        cut = HVBlockedKFold(self.n_splits, self.gap, reach=reach, window=step_len, strict=self.strict)
        return [Fold(i, axis[t], axis[v]) for i, (t, v) in enumerate(cut.split(panel.days[axis]))]

    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series:
        """Score a segment by the mean of all members: Series `score` by (datetime, instrument), sorted."""
        return score_series(*self._asked(dataset, segment, self._scores))

    def _asked(self, dataset: Any, segment: str | slice, scores: Any) -> tuple[DayPanel, Rows, Grid]:
        self._trained_or_raise()
        panel, rows = asked_rows(dataset, segment)
        return panel, rows, scores(panel, rows, self.models)

    def score_rows(self, panel: DayPanel, rows: Rows) -> Grid:
        """Score days of a panel of the same features: (len(rows), N), NaN where a stock is not present."""
        return self._scores(panel, rows, self.models)


class WalkForwardModel(_Members):
    """Rolling retraining: the segment "test" is walked in blocks, each scored by members trained before it.

    The segments are those of the first block, as for qlib's RollingGen: block i is the next `step` trading days of
    "test", and its "train" and "valid" are the given ones, i * step days later. Days within `gap` of the next segment
    are left out.

    With `warm_start` a block's network begins as the best state of the block before (of the same seed), with a fresh
    optimiser and scales of its own days, and trains for few epochs; the first block's is trained in full. It has then
    seen days that have left a rolling window; none that come later than its own validation days.

    Args:
        model: configuration (class, module_path, kwargs) of an MLPModel or MASTERModel; its seed is set from `seeds`,
            and a `checkpoint` becomes a file for each fold and seed (`run.fold0.seed0.pt`), kept until all are trained
            (by qrun: until the run is finished).
        step: trading days of a test block.
        expanding: training starts at the first day of "train" for every block instead of rolling.
        window: most trading days of a rolling block's training; None: as many as the segment "train" has. A longer one
            begins at the segment's first day until it is full.
        warm_start: True, or options of every block after the first: {epochs:, lr:}, as True epochs of 2.
        gap: trading days between train and valid, valid and test; None: reach + window - 1.
        strict, seeds, combine, processes, engine: as for FoldEnsemble; processors may be fitted on the first training
            days.

    After fit: `members`, `curves`, `fold_map`; artifacts `folds/*.pkl` where an experiment runs.

    >>> member = {"class": "MLPModel", "kwargs": {"hidden": [8, 4], "loss": "wpcc", "metric": "ic", "epochs": 1}}
    >>> model = WalkForwardModel(model=member, step=10)
    >>> model.fit(dataset)
    >>> model.members["test_start"].dt.date.astype(str).tolist()
    ['2020-06-01', '2020-06-15']
    """

    def __init__(
        self,
        *,
        model: dict[str, Any],
        step: int,
        expanding: bool = False,
        window: int | None = None,
        warm_start: bool | Mapping[str, Any] = False,
        gap: int | None = None,
        strict: bool = True,
        seeds: Sequence[int] = (0,),
        combine: str = "mean",
        processes: int = 1,
        engine: str | Mapping[str, Any] = "process",
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown, argument_names(WalkForwardModel))
        super().__init__(
            model=model, seeds=seeds, gap=gap, combine=combine, strict=strict, processes=processes, engine=engine
        )
        WalkForward(1, 1, 1, step, expanding=expanding, strict=strict)
        if window is not None:
            check_number("window", window, "[1, inf)", whole=True, hint=" (trading days), or null")
            if expanding:
                raise ValueError(f"window={window} does nothing with expanding: true: leave one of them out")
        self.step, self.expanding, self.window = step, expanding, window
        self.warm = self._warm_options(warm_start)
        self.starts: list[pd.Timestamp] = []  # first day of each test block
        self.end: pd.Timestamp | None = None  # last day of the last one

    def fit(self, dataset: Any, *, reweighter: Any = None) -> None:
        """Train the members of every test block.

        Raises: ValueError for a reweighter, a gap that leaks, segments out of order, or processors that saw later days.
        """
        panel, step_len, reach = self._opened(dataset, reweighter)
        folds = self.folds(panel, dataset.segments, step_len, reach)
        refuse_held_out(dataset.handler, self._fitted_until(panel, folds), strict=self.strict)
        blocks = [fold.test for fold in folds if fold.test is not None]
        axis = np.arange(folds[0].train[0], blocks[-1][-1] + 1)
        self._fit_folds(panel, step_len, reach, folds, axis)
        self.starts = [pd.Timestamp(panel.days[block[0]]) for block in blocks]
        self.end = pd.Timestamp(panel.days[blocks[-1][-1]])
        save_folds(members=self.members, curves=self.curves, fold_map=self.fold_map)

    def _warm_options(self, warm_start: bool | Mapping[str, Any]) -> dict[str, Any] | None:
        """Read the option `warm_start`; an option that cannot be is an error now, not after the first block."""
        own = dict(warm_start) if isinstance(warm_start, Mapping) else {}
        if not isinstance(warm_start, Mapping):
            check_flag("warm_start", warm_start)
        if warm_start is False:
            return None
        refuse_unknown("warm_start", own, ("epochs", "lr"))
        if not issubclass(self.kind, DayModel):
            raise ValueError(f"warm_start: a {self.kind.__name__} cannot begin as another: set warm_start: false")
        options = WARM | own
        new_member(with_options(self.model, options), self.seeds[0])
        return options

    def _fitted_until(self, panel: DayPanel, folds: list[Fold]) -> Any:
        return panel.days[folds[0].train[-1]]

    def folds(self, panel: DayPanel, segments: dict[str, Any], step_len: int, reach: int) -> list[Fold]:
        """Cut the test segment into blocks and shift the other two along with them, as `fit` does.

        Raises: ValueError for a gap that leaks, or segments out of order.
        """
        gap = WalkForward(1, 1, 1, self.step, self.gap, reach=reach, window=step_len, strict=self.strict).gap
        train, valid, test = (whole_segment(panel, segments, name, reach) for name in ("train", "valid", "test"))
        if train[-1] >= valid[0] or valid[-1] >= test[0]:
            raise ValueError(f"the segments train, valid and test must follow each other in time; they are {segments}")
        train, valid = train[train < valid[0] - gap], valid[valid < test[0] - gap]
        if not len(train) or not len(valid):
            raise ValueError(f"gap={gap} leaves no day of train ({len(train)}) or valid ({len(valid)}): lengthen them")
        folds = []
        for number, shift in enumerate(range(0, len(test), self.step)):
            end, length = train[-1] + shift + 1, len(train) if self.window is None else self.window
            start = train[0] if self.expanding else max(train[0], end - length)
            block = test[shift : shift + self.step]
            folds.append(Fold(number, np.arange(start, end), valid + shift, block))
        return folds

    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series:
        """Score each test day by the members of its block: Series `score` by (datetime, instrument), sorted.

        The segment "valid" by the members of the first block, which stopped on its days; days after the last block by
        its members, with a warning: those within its `step` days are scored as in a longer test, later ones by members
        that would have been trained anew.

        Raises: ValueError for another segment, or days before the first block.
        """
        return score_series(*self._asked(dataset, segment, self._scores))

    def _asked(self, dataset: Any, segment: str | slice, scores: Any) -> tuple[DayPanel, Rows, Grid]:
        self._trained_or_raise()
        if not isinstance(segment, slice) and segment not in ("test", "valid"):
            raise ValueError(
                f"segment={segment!r}: a walk-forward scores 'test', and 'valid' by its first block; its members train "
                "on the others"
            )
        if segment == "valid":
            panel, rows = asked_rows(dataset, segment)
            return panel, rows, scores(panel, rows, self.models[: len(self.seeds)])
        panel, chosen = asked_rows(dataset, segment)
        days = pd.DatetimeIndex(panel.days[chosen])
        if not len(days) or self.end is None or days[0] < self.starts[0]:
            asked = f"{days[0].date()} to {days[-1].date()}" if len(days) else "no day"
            raise ValueError(
                f"members were trained for {self.starts[0].date()} to {self.end and self.end.date()}, asked were "
                f"{asked}: fit on the dataset whose test segment is to be scored"
            )
        if days[-1] > self.end:
            logger.warning(
                f"{int((days > self.end).sum())} days after {self.end.date()}, the last that members were trained for, "
                f"are scored by those of the last block, which begins {self.starts[-1].date()} (step: {self.step})"
            )
        block = pd.DatetimeIndex(self.starts).searchsorted(days, side="right") - 1
        parts = [
            scores(panel, chosen[block == n], self.models[n * len(self.seeds) : (n + 1) * len(self.seeds)])
            for n in np.unique(block)
        ]
        return panel, chosen, np.concatenate(parts)


# --- members


def new_member(config: Any, seed: int, fold: Fold | None = None) -> Any:
    """Build a model that trains on chosen days, with a seed, and a checkpoint of its own where there is a fold."""
    if not isinstance(config, dict) or "class" not in config or set(config) - set(CONFIG_KEYS):
        raise TypeError(f"model must be a configuration with the keys {', '.join(CONFIG_KEYS)}; got {config!r}")
    if "seed" in (config.get("kwargs") or {}):
        raise ValueError("the model's configuration names a seed: give the ensemble's seeds=[...] instead")
    kwargs = {**(config.get("kwargs") or {}), "seed": seed}
    if fold is not None and (file := member_checkpoint(config, fold, seed)) is not None:
        kwargs["checkpoint"] = file
    member = init_instance_by_config({**config, "kwargs": kwargs}, default_module="qlib_ext.model")
    if not hasattr(member, "fit_rows"):
        raise TypeError(f"{type(member).__name__} cannot train on chosen days: wanted MLPModel or MASTERModel")
    return member


def report_member(prefix: str, member: Any) -> None:
    """Tell of a member what the process that trained it could not: it has no recorder."""
    trainer = getattr(member, "trainer", None)  # a ModelEnsemble has none
    for epoch, row in enumerate(member.history.epochs, 1):
        report(prefix, trainer and Epochs(trainer), epoch, row)
    report_heads(prefix, trainer and trainer.heads)


def check_shared_memory(panel: DayPanel) -> None:
    """Raise ValueError where the shared memory cannot hold the rest of the panel: torch would say it less clearly."""
    shared = Path("/dev/shm")
    grids = [*vars(panel).values(), *(load.grid for load in panel.loads.values())]
    need = sum(value.nbytes for value in grids if isinstance(value, torch.Tensor) and not value.is_shared())
    if need and shared.is_dir() and shutil.disk_usage(shared).free < 1.1 * need:
        raise ValueError(
            f"processes share the panel through {shared}, where {need / 2**20:.0f} MiB of it are not yet and which has "
            f"{shutil.disk_usage(shared).free / 2**20:.0f} MiB left: set processes: 1, or enlarge it "
            "(docker run --shm-size)"
        )


def train_members(
    panel: DayPanel, step_len: int, config: dict[str, Any], warm: dict[str, Any] | None, jobs: Sequence[Job]
) -> Iterator[tuple[Any, Grid]]:
    """Train members, each fold's as the one before of its seed where `warm` has options for it.

    Returns: of each job the member and its scores of the valid block, (len(valid), N).
    """
    begun = 0
    if warm is None and shares_order(config):
        for fold, seeds in by_fold(jobs):
            begun = _count(begun + len(seeds), jobs)
            members = [new_member(config, seed, fold) for seed in seeds]
            names = [prefix_of(fold, seed) for seed in seeds]
            fit_in_one_pass(members, panel, step_len, fold.train, fold.valid, names)
            yield from ((member, member.score_rows(panel, fold.valid)) for member in members)
        return
    last: dict[int, Any] = {}
    for fold, seed in jobs:
        begun = _count(begun + 1, jobs)
        start = None if warm is None else last.get(seed)
        member = new_member(config if start is None else with_options(config, warm), seed, fold)
        kept: dict[str, Any] = {} if start is None else {"start": start}
        if member_checkpoint(config, fold, seed) is not None:
            kept["keep_checkpoint"] = True
        member.fit_rows(panel, step_len, fold.train, fold.valid, prefix=prefix_of(fold, seed), **kept)
        last[seed] = member
        yield member, member.score_rows(panel, fold.valid)


def train_chain(
    step_len: int, config: dict[str, Any], warm: dict[str, Any] | None, panel: DayPanel, jobs: Sequence[Job]
) -> list[tuple[Any, Grid]]:
    """Train as `train_members`, elsewhere: an engine's work on the panel that its jobs share."""
    return list(train_members(panel, step_len, config, warm, jobs))


def _count(begun: int, jobs: Sequence[Job]) -> int:
    """Tell `progress` how many members were begun, where there are several."""
    if len(jobs) > 1:
        progress.step("member", begun, len(jobs))
    return begun


def shares_order(config: dict[str, Any]) -> bool:
    """Whether members of several seeds see the days in one order, so that one pass over them trains all."""
    kwargs = config.get("kwargs") or {}
    if kwargs.get("order_seed") is None or kwargs.get("checkpoint"):
        return False
    return type(new_member(config, 0)).fit_rows is DayModel.fit_rows  # not a training of one's own


def by_fold(jobs: Iterable[Job]) -> Iterator[tuple[Fold, list[int]]]:
    """Group jobs that follow each other: each fold and its seeds."""
    for _, some in groupby(jobs, key=lambda job: job[0].number):
        own = list(some)
        yield own[0][0], [seed for _, seed in own]


def with_options(config: dict[str, Any], options: dict[str, Any] | None) -> dict[str, Any]:
    """Return a model's configuration with other options."""
    return {**config, "kwargs": {**(config.get("kwargs") or {}), **(options or {})}}


def member_checkpoint(config: dict[str, Any], fold: Fold, seed: int) -> str | None:
    """Name a member's own checkpoint beside the configured one: `run.pt` becomes `run.fold0.seed3.pt`."""
    file = (config.get("kwargs") or {}).get("checkpoint")
    return beside_checkpoint(file, prefix_of(fold, seed)[:-1]) if isinstance(file, str) and file else None


def prefix_of(fold: Fold, seed: int) -> str:
    """Name of a member before each of its metrics."""
    return f"fold{fold.number}.seed{seed}."


def _distinct(seeds: Any) -> tuple[int, ...]:
    """Check the seeds: one or more distinct whole numbers."""
    values = tuple(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else ()
    if not values or len(set(values)) < len(values) or any(type(seed) is not int or seed < 0 for seed in values):
        raise ValueError(f"seeds={seeds!r} must be a list of one or more distinct whole numbers, such as [0, 1, 2]")
    return values
