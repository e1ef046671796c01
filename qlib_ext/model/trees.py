"""LightGBMModel: gradient boosting on the features of the day, among our models."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from qlib.log import get_module_logger
from qlib.model.base import Model

from qlib_ext import ranks
from qlib_ext.cross_section import project_off
from qlib_ext.data import bounds, tell_unlearnt
from qlib_ext.evaluate import LightGBM
from qlib_ext.losses import exposure_names, target_transform
from qlib_ext.model.day_model import check_neutral, columns_of, opened, places_of
from qlib_ext.model.folds import refuse_fitted
from qlib_ext.model.kept import let_go
from qlib_ext.model.mixed import quality
from qlib_ext.model.scores import Grid, asked_rows, check_features, off_exposures, score_series
from qlib_ext.options import argument_names, check_number, named_options, refuse_unknown
from qlib_ext.panel import DayPanel
from qlib_ext.training import Checkpoint, History, Rows, check_file, facts_of

BLOCK = 64  # days whose labels are taken off the exposures at a time
logger: logging.Logger = get_module_logger("qlib_ext.model")


class LightGBMModel(Model):
    """Trees on the features of the day, which learn the day's ranks of the label by squared error.

    It stands wherever MLPModel does: alone, in a ModelEnsemble, FoldEnsemble, WalkForwardModel. Unlike qlib's LGBModel
    it knows present stocks and purged days, samples the stock days (`max_rows`) and can be neutral.

    Args:
        columns: names of the features that the trees see, alpha158: those of Alpha158; None: all.
        neutral: names of exposures (`portfolio.KINDS`, columns of your own) that the ranks of the label and the scores
            are taken off, equal weights over the day's stocks.
        rounds, patience, max_rows, parameters: see evaluate.LightGBM.
        every_days: learn from each so many-th of the training days.
        seed: of the sampling and of the trees.
        checkpoint: file that keeps the trees once they are grown, until the training of which they are a part is at its
            end, see Trainer.

    After fit: `booster`, `history` (IC and RankIC of the validation days), `features`.

    Raises: ValueError for an option out of bounds.

    >>> model = LightGBMModel(rounds=5, parameters={"num_leaves": 4, "lambda_l1": 0.0, "lambda_l2": 0.0})
    >>> model.fit(dataset)
    >>> model.predict(dataset, "test").index.names
    FrozenList(['datetime', 'instrument'])
    """

    needs_window = False
    metric = "rank_ic"
    market_features: Sequence[str] = ()
    checkpoint: str | None = None  # recorded models may lack it

    def __init__(
        self,
        *,
        columns: Sequence[str] | str | None = None,
        neutral: Sequence[str] | None = None,
        rounds: int = 1000,
        patience: int = 20,
        max_rows: int = 500_000,
        parameters: Mapping[str, Any] | None = None,
        every_days: int = 1,
        seed: int = 0,
        checkpoint: str | None = None,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown, argument_names(LightGBMModel))
        check_number("every_days", every_days, "[1, inf)", whole=True)
        self.columns, self.neutral, self.every_days, self.seed = (
            columns_of(columns),
            exposure_names(neutral),
            every_days,
            seed,
        )
        self.checkpoint = check_file(checkpoint)
        self.trees = LightGBM(rounds, patience, max_rows, seed, dict(parameters or {}))
        self.booster: Any = None
        self.history: History | None = None
        self.features: list[str] = []

    def __repr__(self) -> str:
        """Options, and how much was learnt."""
        options = named_options({"columns": self.columns and f"{len(self.columns)} features", "neutral": self.neutral})
        learnt = "not trained" if self.booster is None else f"{self.booster.best_iteration} trees"
        return f"{type(self).__name__}({options}; {learnt})"

    def check_dataset(self, dataset: Any) -> None:
        """Look at a dataset before it is loaded; ValueError for what is lacking."""
        self.check_needs(dataset)
        for name in ("train", "valid"):
            if name not in dataset.segments:
                raise ValueError(f"LightGBMModel needs the segments train and valid, {name} is not there")
        refuse_fitted(dataset.handler, bounds(dataset.segments["train"])[1])

    def check_needs(self, dataset: Any) -> None:
        """Refuse a dataset without the exposures that the trees shall be neutral to."""
        tell_unlearnt(getattr(dataset.handler, "learn_processors", None))
        if self.neutral:
            check_neutral(self.neutral, dataset)

    def fit(self, dataset: Any, *, reweighter: Any = None) -> None:
        """Learn from the segment "train", stop on "valid".

        Raises: ValueError for a reweighter, or a segment without labelled stocks.
        """
        panel, _, rows = opened(dataset, reweighter)
        self.fit_rows(panel, 1, rows("train"), rows("valid"), keep_checkpoint=True)
        let_go(self)

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
        """Train on any days of a panel, as `DayModel.fit_rows`; it looks at the day alone, whatever `step_len`."""
        panel.load(list(self.neutral))
        places = places_of(self.columns, panel.features)
        self.trees, self.features = replace(self.trees, columns=places, seed=self.seed), list(panel.features)
        self.booster, told = ranks.of_first(lambda: self._grown(panel, train_rows[:: self.every_days], valid_rows))
        found = quality(self.score_rows(panel, valid_rows), panel.label[torch.as_tensor(valid_rows)].numpy())
        row = {name: float(found[name]) for name in ("ic", "rank_ic", "rank_ic_error")}
        self.history = History(epochs=[row], best_epoch=1, best_value=row["rank_ic"])
        logger.info(f"{prefix}{told}; rank_ic {row['rank_ic']:.4f} +- {row['rank_ic_error']:.4f}")
        if self.checkpoint and not keep_checkpoint and ranks.is_first():
            Path(self.checkpoint).unlink(missing_ok=True)
        return self.history

    def _grown(self, panel: DayPanel, train: Rows, valid: Rows) -> tuple[Any, str]:
        """Take the trees out of the checkpoint, or grow them; and tell of them as `LightGBM.fit` does."""
        file = None
        if self.checkpoint:
            options = {"model": type(self).__name__, "trees": self.trees, "neutral": self.neutral}
            file = Checkpoint(self.checkpoint, facts_of(options, None, panel, train, valid, self.neutral))
            if (content := file.read()) is not None:
                return _booster(content), f"{content['told']}; out of {self.checkpoint}"
        learnt = replace(panel, label=self._target(panel)) if self.neutral else panel
        booster, told = self.trees.fit(learnt, train, valid)
        if file is not None:
            text = booster.model_to_string(num_iteration=-1)
            file.write({"booster": text, "best_iteration": booster.best_iteration, "told": told})
        return booster, told

    def _target(self, panel: DayPanel) -> torch.Tensor:
        """Ranks of the label (D, N) off the exposures, NaN where there is no label."""
        out = torch.full_like(panel.label, torch.nan)
        for start in range(0, len(panel.days), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(panel.days)))
            at = torch.as_tensor(rows)
            rank = target_transform(panel.label[at], panel.present[at], target="rank")
            real = torch.isfinite(rank)
            apart = project_off(rank.double(), panel.exposures(self.neutral, rows).cpu().double(), real, real)
            out[at] = torch.where(real, apart, torch.nan).to(out.dtype)
        return out

    def predict(self, dataset: Any, segment: str | slice = "test") -> pd.Series:
        """Score a segment: Series `score` by (datetime, instrument), sorted."""
        if self.booster is None:
            raise ValueError("the model is not trained: call fit first")
        panel, rows = asked_rows(dataset, segment)
        return score_series(panel, rows, self.score_rows(panel, rows))

    def score_rows(self, panel: DayPanel, rows: Rows) -> Grid:
        """Score days of a panel of the same features: (len(rows), N), NaN where a stock is not present."""
        check_features(self.features, panel)
        score = self.trees.predict(self.booster, panel, rows).astype(np.float32)
        return off_exposures(panel, rows, score, [self])


def _booster(content: Mapping[str, Any]) -> Any:
    """Read trees that a checkpoint holds; they score as before, bit by bit."""
    import lightgbm as lgb

    booster = lgb.Booster(model_str=content["booster"])
    booster.best_iteration = content["best_iteration"]
    return booster
