"""Scores that are free: what a model has to beat before it is worth anything.

Sizes: D days of the panel, N stocks, d days asked for. Every score is (d, N) float64, larger is better, NaN where a
stock is not present, and of a day it uses nothing that was not known at that day's close.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from qlib_ext.losses import target_transform
from qlib_ext.options import check_choice, check_number
from qlib_ext.panel import DayPanel

Grid = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

REVERSAL_DAYS = 5
BLOCK = 16  # days that are scored at a time: their features are copied
BASELINES = ("reversal", "low_volatility", "small_turnover", "lightgbm")

# qlib's benchmark on Alpha158 (examples/benchmarks/LightGBM); its regularisers are made for labels of variance 1, which
# the ranks here have too, and its `subsample` is left out: without bagging_freq it does nothing
LIGHTGBM: dict[str, Any] = {
    "objective": "regression",
    "learning_rate": 0.2,
    "num_leaves": 210,
    "max_depth": 8,
    "feature_fraction": 0.8879,
    "lambda_l1": 205.6999,
    "lambda_l2": 580.9768,
    "num_threads": 1,  # kind to shared cores; raise it on idle ones
}
PARAMETERS = (
    *LIGHTGBM,
    *("bagging_fraction", "bagging_freq", "extra_trees", "max_bin", "min_data_in_leaf", "min_gain_to_split"),
    "path_smooth",
)
# taken last, so that the same rows give the same trees
FIXED: dict[str, Any] = {"deterministic": True, "force_row_wise": True, "verbosity": -1, "metric": "l2"}


def factor_score(name: str, panel: DayPanel, rows: Rows, past_return: npt.ArrayLike | None = None) -> Grid:
    """Score days by one known factor, (d, N); NaN where a stock is not present or the factor is not known.

    Args:
        name: "reversal" (minus the past return), "low_volatility" (minus the trailing volatility) or "small_turnover"
            (minus the trailing liquidity).
        panel: the market, with volatility and liquidity.
        rows: (d,) rows of the panel.
        past_return: (d, N) return of the last days up to each day's close; for "reversal" alone.
    """
    at = torch.as_tensor(rows)
    grids = {"low_volatility": panel.volatility, "small_turnover": panel.liquidity}
    factor = past_return if name == "reversal" else grids[name][at]  # type: ignore[index]
    value = np.asarray(factor, dtype=np.float64)
    return np.where(panel.present[at].numpy() & np.isfinite(value), -value, np.nan)


@dataclass(frozen=True)
class LightGBM:
    """Gradient boosting on the panel's features of the day; the label is the rank within the day, of variance 1.

    Args:
        rounds: trees at most.
        patience: trees without a better squared error on the validation days before it stops.
        max_rows: stock-days to learn from, and to stop on, at most; more are sampled.
        seed: of the sampling and of the trees.
        parameters: of LightGBM, over `LIGHTGBM`; those in `PARAMETERS`.
        columns: places of the features that the trees see; None: all.

    Raises: ValueError for numbers out of bounds, or a parameter not in `PARAMETERS`.
    """

    rounds: int = 1000
    patience: int = 20
    max_rows: int = 500_000
    seed: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)
    columns: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, least in (("rounds", 1), ("patience", 1), ("max_rows", 2), ("seed", 0)):
            check_number(f"lightgbm: {name}", getattr(self, name), f"[{least}, inf)", whole=True)
        for name in self.parameters:
            hint = "; and beside `parameters` rounds, patience, max_rows, seed"
            check_choice("parameter of lightgbm", name, PARAMETERS, hint=hint)

    def fit_predict(self, panel: DayPanel, train: Rows, valid: Rows, rows: Rows) -> tuple[Grid, str]:
        """Learn from the days `train`, stop on `valid`, score `rows`; deterministic.

        Returns: (d, N) scores, and in words how many trees and stock-days they came from.

        Raises: as `fit`.
        """
        booster, told = self.fit(panel, train, valid)
        return self.predict(booster, panel, rows), told

    def fit(self, panel: DayPanel, train: Rows, valid: Rows) -> tuple[Any, str]:
        """Learn from the days `train`, stop on `valid`; deterministic.

        Returns: lightgbm's Booster, and in words how many trees and stock-days it came from.

        Raises: ImportError without lightgbm; ValueError where train or valid has no labelled stock.
        """
        try:
            import lightgbm as lgb
        except (ImportError, OSError) as error:  # OSError: its library needs libgomp
            raise ImportError(
                f"the baseline 'lightgbm' needs the package lightgbm, which pyqlib brings along ({error}): "
                "pip install lightgbm, or leave it out of `baselines`"
            ) from error
        rng = np.random.default_rng(self.seed)
        samples, labelled = self._samples(panel, train, "train", rng)
        learn = lgb.Dataset(*samples, free_raw_data=True)  # once it has its bins, nobody holds the features
        learnt, (samples, _) = len(samples[1]), self._samples(panel, valid, "valid", rng)
        judge, judged = lgb.Dataset(*samples, reference=learn), len(samples[1])
        del samples
        booster = lgb.train(
            {**LIGHTGBM, **self.parameters, **FIXED, "seed": self.seed},
            learn,
            num_boost_round=self.rounds,
            valid_sets=[judge],
            callbacks=[lgb.early_stopping(self.patience, verbose=False)],
        )
        return booster, (
            f"lightgbm: {booster.best_iteration} trees from {learnt} of {labelled} stock-days of train "
            f"(max_rows {self.max_rows}, seed {self.seed}), stopped on {judged} of valid"
        )

    def predict(self, booster: Any, panel: DayPanel, rows: Rows) -> Grid:
        """Score days by what `fit` learnt, (d, N)."""
        score = np.full((len(rows), len(panel.stocks)), np.nan)
        for start in range(0, len(rows), BLOCK):
            at = torch.as_tensor(rows[start : start + BLOCK])
            day, stock = panel.present[at].nonzero(as_tuple=True)
            if len(day):
                score[start + day.numpy(), stock.numpy()] = booster.predict(self._seen(panel.x[at[day], stock]))
        return score

    def _seen(self, x: torch.Tensor) -> npt.NDArray[np.float32]:
        return (x if self.columns is None else x[:, list(self.columns)]).numpy()

    def _samples(
        self, panel: DayPanel, rows: Rows, name: str, rng: np.random.Generator
    ) -> tuple[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]], int]:
        """Features (n, F) and day ranks (n,) of the labelled stocks, and how many there were before sampling."""
        at = torch.as_tensor(rows)
        rank = target_transform(panel.label[at], panel.present[at], target="rank").numpy()
        day, stock = np.nonzero(np.isfinite(rank))
        labelled = len(day)
        if labelled < 2:
            raise ValueError(f"lightgbm: segment {name!r} has {labelled} labelled stock-days, nothing can be learnt")
        if labelled > self.max_rows:
            kept = np.sort(rng.choice(labelled, self.max_rows, replace=False))
            day, stock = day[kept], stock[kept]
        x = self._seen(panel.x[torch.as_tensor(np.asarray(rows)[day]), torch.as_tensor(stock)])
        return (x, rank[day, stock].astype(np.float32)), labelled
