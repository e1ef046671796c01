"""ModelEnsemble: members of different kinds (MLP, MASTER, FoldEnsemble, any model of qlib's), combined to one score."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from qlib.log import get_module_logger
from qlib.model.base import BaseModel, Model
from qlib.utils import init_instance_by_config
from qlib.workflow import R

from qlib_ext import progress
from qlib_ext.data import bounds
from qlib_ext.evaluate import IC_LAGS, blend_inputs, blend_weights, daily_metrics, newey_west
from qlib_ext.losses import TARGETS
from qlib_ext.model.day_model import DayModel, inside, opened, recording, save_folds
from qlib_ext.model.ensemble import CONFIG_KEYS, FoldEnsemble, WalkForwardModel
from qlib_ext.model.folds import curves_frame, refuse_fitted
from qlib_ext.model.kept import beside_checkpoint, checkpoints_of, let_go, takes_checkpoint
from qlib_ext.model.samples import fit_samples, score_samples
from qlib_ext.model.scores import Grid, asked_rows, blended, check_features, off_exposures, score_series
from qlib_ext.options import argument_names, check_choice, check_number, refuse_unknown, tell
from qlib_ext.panel import DayPanel, grid_of
from qlib_ext.runs import log_finite
from qlib_ext.training import History, Rows, check_file

logger = get_module_logger("qlib_ext.ensemble")

COMBINE = {"ranks": "rank", "mean": "mean", "weights": "mean"}  # -> the scale of the members' scores
NESTED = (
    "a FoldEnsemble cuts the days itself, so it cannot stand in a ModelEnsemble that is itself cut into folds or "
    "walked: take its model as the member"
)

OWN_FILES = "give ModelEnsemble the checkpoint, it has a file for each member, and fold"


@dataclass(frozen=True)
class _Past:
    """Scores (len(rows), N) of days that a member did not learn from; on some of them it may have been stopped."""

    rows: Rows
    score: Grid


class ModelEnsemble(Model):
    """One score of members of different kinds, trained on the same dataset: trees beside networks.

    Members of ours train on the segment "train" and stop on "valid"; a FoldEnsemble cuts both into folds. Any other
    qlib model gets the same days, purged alike, as frames of the present stocks' features (`PanelSamples`).

    Args:
        members: models, or configurations (class, module_path, kwargs), of `qlib_ext.model` without a module_path.
        combine: "ranks": mean of the members' ranks within the day, all alike. "mean": mean of their scores, each
            standardised over the day's stocks, all alike. "weights": that mean by `evaluate.blend_weights` of the days
            that they did not learn from (segment valid; where all members are FoldEnsembles, their out-of-fold days):
            all alike where no member's IC is significant there.
        target: what the label of models other than ours becomes, each day: "rank" (mean 0, variance 1), "raw" or
            "volatility", as DayLoss has it.
        seed: added to the seed of each member that has one, so that walk-forward and folds take several.
        checkpoint: name beside which each member of ours keeps a file (`run.MLPModel.pt`, of folds each of theirs
            `run.FoldEnsemble.fold0.seed0.pt`), until the whole ensemble is trained; other models of qlib's are trained
            anew after an interruption. See Trainer.

    A stock that some members do not score has the mean of the others. After fit: `models`, `weights` (M,), `oof` (the
    combined scores of the days above, each half of them by the weights of the other half), `table` and `correlations`;
    artifacts `ensemble/members.pkl`, `ensemble/correlations.pkl`, `folds/oof.pkl` where an experiment runs.

    Raises: TypeError for a member that is no model, ValueError for one that cannot be a member.

    >>> quick = {"loss": "wpcc", "metric": "ic", "epochs": 1}
    >>> mlp = {"class": "MLPModel", "kwargs": {"hidden": [8], **quick}}
    >>> model = ModelEnsemble(members=[mlp, {"class": "MASTERModel", "kwargs": {"d_model": 8, **quick}}])
    >>> model.fit(dataset)
    >>> model.table.index.tolist(), model.weights.tolist()
    (['MLPModel', 'MASTERModel', 'equal weights', 'ensemble'], [0.5, 0.5])
    """

    needs_window = True
    metric = "rank_ic"
    checkpoint: str | None = None  # recorded models may lack it

    def __init__(
        self,
        *,
        members: Sequence[Any],
        combine: str = "ranks",
        target: str = "rank",
        seed: int = 0,
        checkpoint: str | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown, argument_names(ModelEnsemble))
        check_choice("combine", combine, COMBINE)
        check_choice("target", target, TARGETS)
        check_number("seed", seed, "[0, inf)", whole=True)
        if not isinstance(members, list | tuple) or not members:
            raise ValueError(f"members is {members!r}; wanted a list of models or of {{class, module_path, kwargs}}")
        self.members, self.combine, self.target, self.seed = list(members), combine, target, seed
        self.checkpoint = check_file(checkpoint)
        built = self._built()
        self.names = _names([type(member).__name__ for member in built])
        own = {name: member.checkpoint for name, member in zip(self.names, built, strict=True) if _has_own(member)}
        if own and (checkpoint or len(set(own.values())) < len(own)):
            raise ValueError(f"{OWN_FILES}; {', '.join(own)} name {', '.join(map(str, own.values()))}")
        self.models: list[Any] = []
        self.weights = np.full(len(self.members), 1.0 / len(self.members))
        self.features: list[str] = []
        self.market_features: list[str] = []
        self.history: History | None = None
        self.table: pd.DataFrame | None = None
        self.correlations: pd.DataFrame | None = None
        self._oof: pd.Series | None = None  # an artifact of its own: qlib leaves "_" out of the pickle

    def __repr__(self) -> str:
        """Members, how they are combined, and whether they are trained."""
        learnt = f"{len(self.models)} members trained" if self.models else "not trained"
        return f"ModelEnsemble({', '.join(self.names)}, combine={self.combine!r}; {learnt})"

    @property
    def oof(self) -> pd.Series:
        """Scores of days that no member learned from: Series `score` by (datetime, instrument), sorted."""
        scores = getattr(self, "_oof", None)
        if scores is None:
            raise ValueError("no scores of past days here: call fit, or load folds/oof.pkl from the run's recorder")
        return scores

    def check_dataset(self, dataset: Any) -> None:
        """Look at a dataset before it is loaded, as DayModel does; each member of ours too."""
        for name in ("train", "valid"):
            if name not in dataset.segments:
                raise ValueError(f"ModelEnsemble needs the segments train and valid, {name} is not there")
        refuse_fitted(dataset.handler, bounds(dataset.segments["train"])[1])
        for name, member in zip(self.names, self._built(), strict=True):
            if hasattr(member, "check_dataset"):
                with _of_member(name):
                    member.check_dataset(dataset)

    def check_needs(self, dataset: Any) -> None:
        """Look at the members' needs where this ensemble is one of the members of folds or of a walk-forward."""
        for name, member in zip(self.names, self._built(), strict=True):
            with _of_member(name):
                if isinstance(member, FoldEnsemble):
                    raise ValueError(NESTED)
                if _has_own(member) and not self.checkpoint:
                    raise ValueError(f"{member.checkpoint} would be the checkpoint of each fold's member: {OWN_FILES}")
                if hasattr(member, "check_needs"):
                    member.check_needs(dataset)

    def fit(self, dataset: Any, *, reweighter: Any = None) -> None:
        """Train the members one after the other, weigh them and keep the tables.

        Raises: ValueError for a reweighter, or whatever a member refuses.
        """
        panel, step_len, rows = opened(dataset, reweighter)
        self._fit(panel, step_len, rows("train"), rows("valid"), "", dataset)
        let_go(self)
        save_folds(oof=self._oof, curves=self._curves())
        self._record()

    def fit_rows(
        self,
        panel: DayPanel,
        step_len: int,
        train_rows: Rows,
        valid_rows: Rows,
        *,
        prefix: str = "",
        keep_checkpoint: bool = False,
    ) -> History:
        """Train on days of a panel, as `DayModel.fit_rows`; a member of folds and walk-forward does that.

        Raises: ValueError for a FoldEnsemble among the members.
        """
        history = self._fit(panel, step_len, train_rows, valid_rows, prefix)
        if not keep_checkpoint:
            for file in checkpoints_of(self):
                file.unlink(missing_ok=True)
        return history

    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series:
        """Score a segment: Series `score` by (datetime, instrument), sorted."""
        if not self.models:
            raise ValueError("the model is not trained: call fit first")
        panel, rows = asked_rows(dataset, segment)
        return score_series(panel, rows, self.score_rows(panel, rows))

    def score_rows(self, panel: DayPanel, rows: Rows) -> Grid:
        """Score days of a panel of the same features: (len(rows), N), NaN where a stock is not present."""
        check_features(self.features, panel, self.market_features)
        kept = [place for place, weight in enumerate(self.weights) if weight]
        scores = [scored(self.models[place], panel, rows) for place in kept]
        return self._combined(panel, rows, scores, self.weights[kept], [self.models[place] for place in kept])

    def _combined(
        self, panel: DayPanel, rows: Rows, scores: Sequence[Grid], weights: Any, models: Sequence[Any]
    ) -> Grid:
        """Combine scores (len(rows), N) of models by weights, off the exposures that all with a weight are off."""
        score = blended(scores, weights, COMBINE[self.combine])
        return off_exposures(panel, rows, score, [one for one, weight in zip(models, weights, strict=True) if weight])

    def _built(self) -> list[Any]:
        """Untrained models, those of configurations made anew, the others copied."""
        return [built_member(member, self.seed) for member in self.members]

    def _with_checkpoints(self) -> list[Any]:
        """Untrained models, each with a checkpoint of its own where the ensemble has one."""
        models = self._built()
        for name, model in zip(self.names, models, strict=True) if self.checkpoint else ():
            if takes_checkpoint(model):
                model.checkpoint = beside_checkpoint(str(self.checkpoint), name)
            else:
                tell(f"checkpoint: {name} has none, it is trained anew after an interruption")
        return models

    def _fit(
        self, panel: DayPanel, step_len: int, train: Rows, valid: Rows, prefix: str, dataset: Any = None
    ) -> History:
        self.models, past = self._with_checkpoints(), []
        for number, (name, model) in enumerate(zip(self.names, self.models, strict=True), 1):
            place = f"{prefix}{name}."
            progress.step("model", number, len(self.models))
            with _of_member(name):
                if isinstance(model, FoldEnsemble):
                    past.append(_fit_folds(model, panel, dataset, place))
                    continue
                if hasattr(model, "fit_rows"):
                    kept = {"keep_checkpoint": True} if getattr(model, "checkpoint", None) else {}
                    model.fit_rows(panel, step_len, train, valid, prefix=place, **kept)
                else:
                    logger.info(f"{place} {len(train)} + {len(valid)} days, target {self.target}")
                    fit_samples(model, panel, train, valid, self.target)
                past.append(_Past(valid, scored(model, panel, valid)))
        self.features = list(panel.features)
        self.market_features = list(panel.market_features) if any(map(_gated, self.models)) else []
        self._weigh(panel, past)
        return self.history  # type: ignore[return-value]

    def _weigh(self, panel: DayPanel, past: Sequence[_Past]) -> None:
        """Learn the weights on the days that all members have scores of, and fill the tables."""
        rows = past[0].rows
        for member in past[1:]:
            rows = np.intersect1d(rows, member.rows)
        scores = [member.score[np.searchsorted(member.rows, rows)] for member in past]
        label = panel.label[torch.as_tensor(rows)].numpy()
        daily, correlation = blend_inputs(scores, label)
        equal = np.full(len(scores), 1.0 / len(scores))
        weigh = self.combine == "weights"
        self.weights = blend_weights(daily, correlation) if weigh else equal
        half = len(rows) // 2
        crossed = [blend_weights(part, correlation) if weigh else equal for part in (daily[half:], daily[:half])]
        whole = np.concatenate(
            [
                self._combined(panel, rows[part], [score[part] for score in scores], weight, self.models)
                for part, weight in zip((slice(half), slice(half, None)), crossed, strict=True)
            ]
        )
        self._oof = score_series(panel, rows, whole)
        self.correlations = pd.DataFrame(correlation, self.names, self.names)
        others = {"equal weights": self._combined(panel, rows, scores, equal, self.models), "ensemble": whole}
        lines = dict(zip(self.names, scores, strict=True)) | others
        table = pd.DataFrame({name: quality(score, label) for name, score in lines.items()}).T
        table = table.astype({"days": int})
        table.insert(0, "weight", pd.Series(dict(zip(self.names, self.weights, strict=True))))
        table.attrs = {"combine": self.combine, "days": [str(panel.days[row])[:10] for row in rows[[0, -1]]]}
        self.table = table
        found = {name: float(table[name]["ensemble"]) for name in ("ic", "rank_ic", "rank_ic_error")}
        self.history = History(epochs=[found], best_epoch=1, best_value=found["rank_ic"])
        logger.info(
            f"{self.combine} of {len(scores)} members on {len(rows)} days that they did not learn from "
            f"({' to '.join(table.attrs['days'])}); errors by Newey-West, {IC_LAGS} days; ensemble: each half of the "
            f"days by the weights of the other half\n{table.round(4).to_string()}\ncorrelation of the scores\n"
            f"{self.correlations.round(2).to_string()}"
        )

    def _curves(self) -> pd.DataFrame:
        """Learning curves of the members that have any; `fold` is the place of the member."""
        runs = [(place, model) for place, model in enumerate(self.models) if isinstance(model, DayModel)]
        return curves_frame(
            [(place, int(model.options.get("seed", 0)), model.history) for place, model in runs if model.history]
        )

    def _record(self) -> None:
        """Keep the tables as artifacts and metrics where an experiment runs."""
        if not recording() or self.table is None:
            return
        tables = {"members.pkl": self.table, "correlations.pkl": self.correlations}
        R.save_objects(artifact_path="ensemble", **tables)
        for name in ("weight", "ic", "rank_ic"):
            rows = self.table[name].to_dict()
            log_finite(R, {f"ensemble.{row}.{name}".replace(" ", "_"): value for row, value in rows.items()})


def built_member(member: Any, seed: int) -> Any:
    """Build a member from its configuration, or copy it; `seed` is added to its own."""
    if isinstance(member, Mapping):
        refuse_unknown("a member", member, CONFIG_KEYS)
        model = init_instance_by_config(copy.deepcopy(dict(member)), default_module="qlib_ext.model")
    else:
        model = copy.deepcopy(member)
    if isinstance(model, WalkForwardModel):
        raise ValueError("a WalkForwardModel cannot be a member: walk the ensemble, WalkForwardModel(model=...)")
    if not isinstance(model, BaseModel):
        raise TypeError(f"a member is {model!r}; wanted a model of qlib's or ours, or {{class, module_path, kwargs}}")
    if seed and isinstance(model, DayModel):
        model.options["seed"] = int(model.options.get("seed", 0)) + seed
    elif seed and isinstance(model, FoldEnsemble):
        model.seeds = tuple(own + seed for own in model.seeds)
    elif seed and isinstance(params := getattr(model, "params", None), dict) and "seed" in params:
        params["seed"] += seed  # of qlib's LightGBM
    elif seed and hasattr(model, "fit_rows") and hasattr(model, "seed"):
        model.seed += seed  # of our trees, of an ensemble in this one
    return model


def scored(model: Any, panel: DayPanel, rows: Rows) -> Grid:
    """Score days by a trained member, (len(rows), N), NaN where a stock is not present."""
    if hasattr(model, "score_rows"):
        return np.asarray(model.score_rows(panel, rows))
    return score_samples(model, panel, rows)


def quality(score: Grid, label: Any) -> dict[str, float]:
    """IC and RankIC of scores (D, N), errors by Newey-West over `IC_LAGS` days (at most a quarter), number of days."""
    daily = daily_metrics(score, label, names=["ic", "rank_ic"])
    row: dict[str, float] = {}
    for name in ("ic", "rank_ic"):
        known = daily[name].dropna().to_numpy()
        row[name], row[f"{name}_error"], _ = newey_west(known, min(IC_LAGS, len(known) // 4))
    return row | {"days": float(daily["rank_ic"].notna().sum())}


def _fit_folds(model: FoldEnsemble, panel: DayPanel, dataset: Any, place: str) -> _Past:
    """Train a FoldEnsemble on the dataset; its out-of-fold scores are those of past days."""
    if dataset is None:
        raise ValueError(NESTED)
    with inside(place):
        model.fit(dataset)
    rows = np.flatnonzero(np.isin(panel.days, model.oof.index.unique("datetime").to_numpy()))
    return _Past(rows, grid_of(model.oof, panel.days[rows], panel.stocks).astype(np.float32))


def _has_own(member: Any) -> bool:
    """Whether a member names a checkpoint."""
    return takes_checkpoint(member) and bool(member.checkpoint)


def _gated(model: Any) -> bool:
    """Whether a member looks at the market's features."""
    every = getattr(model, "models", None) or [model]
    return any(getattr(one, "market_features", None) for one in every)


def _names(kinds: Sequence[str]) -> list[str]:
    """Names of the members: their classes, numbered from the second of a class on."""
    return [kind if not (n := list(kinds[:i]).count(kind)) else f"{kind}{n + 1}" for i, kind in enumerate(kinds)]


@contextmanager
def _of_member(name: str) -> Iterator[None]:
    """Put the member's name before an error."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"member {name}: {error}") from error
