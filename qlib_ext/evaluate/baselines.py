"""Scores that are free: what a model has to beat before it is worth anything.

Sizes: D days of the panel, N stocks, d days asked for. Every score is (d, N) float64, larger is better, NaN where a
stock is not present, and of a day it uses nothing that was not known at that day's close.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from qlib_ext.losses import target_transform
from qlib_ext.panel import DayPanel

Grid = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

REVERSAL_DAYS = 5
BASELINES = ("reversal", "low_volatility", "small_turnover", "lightgbm")
MAX_ROWS = 500_000

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


def free_score(name: str, panel: DayPanel, rows: Rows, past_return: npt.ArrayLike | None = None) -> Grid:
    """Score days by one known factor.

    Args:
        name: "reversal" (minus the past return), "low_volatility" (minus the trailing volatility) or "small_turnover"
            (minus the trailing liquidity).
        panel: the market, with the grid that the factor is made of.
        rows: (d,) rows of the panel.
        past_return: (d, N) return of the last days up to each day's close; for "reversal".

    Returns:
        (d, N), NaN where a stock is not present or the factor is not known.

    Raises: ValueError for an unknown name, or a grid that is missing or of another shape.

    """
    grids = {"reversal": past_return, "low_volatility": panel.volatility, "small_turnover": panel.liquidity}
    if name not in grids:
        raise ValueError(f"no free score {name!r}; allowed: {', '.join(grids)}")
    grid = grids[name]
    if grid is None:
        missing = {"reversal": "past_return", "low_volatility": "panel.volatility", "small_turnover": "panel.liquidity"}
        raise ValueError(f"baseline {name!r} needs {missing[name]} and got None: use DayDatasetH with liquidity")
    at = torch.as_tensor(rows)
    value = np.asarray(grid[at] if isinstance(grid, torch.Tensor) else grid, dtype=np.float64)
    if value.shape != (len(rows), len(panel.stocks)):
        raise ValueError(f"past_return must be (d, N) = {(len(rows), len(panel.stocks))}, got shape {value.shape}")
    return np.where(panel.present[at].numpy() & np.isfinite(value), -value, np.nan)


@dataclass(frozen=True)
class Boosted:
    """Scores of LightGBM, and what they came from."""

    score: Grid
    train_rows: int  # stock-days learnt from
    train_known: int  # stock-days there were
    valid_rows: int
    trees: int


@dataclass(frozen=True)
class LightGBM:
    """Gradient boosting on the panel's features of the day; the label is the rank within the day, of variance 1.

    Args:
        rounds: trees at most.
        patience: trees without a better squared error on the validation days before it stops.
        max_rows: stock-days to learn from, and to stop on, at most; more are sampled.
        seed: of the sampling and of the trees.
        parameters: of LightGBM, over `LIGHTGBM`; those in `PARAMETERS`.

    Raises: ValueError for numbers out of bounds, or a parameter not in `PARAMETERS`.

    """

    rounds: int = 1000
    patience: int = 20
    max_rows: int = MAX_ROWS
    seed: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, least in (("rounds", 1), ("patience", 1), ("max_rows", 2), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"lightgbm: {name}={value!r} must be a whole number >= {least}")
        for name in self.parameters:
            if name not in PARAMETERS:
                close = difflib.get_close_matches(name, PARAMETERS)
                raise ValueError(
                    f"lightgbm: no parameter {name!r}; close: {close}; allowed: {', '.join(PARAMETERS)}; and rounds, "
                    "patience, max_rows, seed beside them"
                )

    def fit_predict(self, panel: DayPanel, train: Rows, valid: Rows, rows: Rows) -> Boosted:
        """Learn from the days `train`, stop on `valid`, score `rows`; deterministic.

        Raises: ImportError without lightgbm; ValueError where train or valid has no labelled stock.

        """
        lgb = _import_lightgbm()
        rng = np.random.default_rng(self.seed)
        (x, y, known), (x_valid, y_valid, _) = (
            self._samples(panel, part, name, rng) for name, part in (("train", train), ("valid", valid))
        )
        options = {**LIGHTGBM, **self.parameters, **FIXED, "seed": self.seed}
        learn = lgb.Dataset(x, y, free_raw_data=True)
        booster = lgb.train(
            options,
            learn,
            num_boost_round=self.rounds,
            valid_sets=[lgb.Dataset(x_valid, y_valid, reference=learn)],
            callbacks=[lgb.early_stopping(self.patience, verbose=False)],
        )
        at = torch.as_tensor(rows)
        present = panel.present[at]
        score = np.full(tuple(present.shape), np.nan)
        if bool(present.any()):
            score[present.numpy()] = booster.predict(panel.x[at][present].numpy())
        return Boosted(score, len(y), known, len(y_valid), int(booster.best_iteration))

    def _samples(
        self, panel: DayPanel, rows: Rows, name: str, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], int]:
        """Features (n, F), day ranks (n,) of the labelled stocks, and how many there were before sampling."""
        at = torch.as_tensor(rows)
        rank = target_transform(panel.label[at], panel.present[at], target="rank").numpy()
        day, stock = np.nonzero(np.isfinite(rank))
        known = len(day)
        if known < 2:
            raise ValueError(f"lightgbm: segment {name!r} has {known} labelled stock-days, nothing can be learnt")
        if known > self.max_rows:
            kept = np.sort(rng.choice(known, self.max_rows, replace=False))
            day, stock = day[kept], stock[kept]
        x = panel.x[torch.as_tensor(np.asarray(rows)[day]), torch.as_tensor(stock)].numpy()
        return x, rank[day, stock].astype(np.float32), known


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Check a list of baselines: one or more of `BASELINES`, each once."""
    wrong = [name for name in names if name not in BASELINES]
    if isinstance(names, str) or wrong or not len(names) or len(set(names)) < len(names):
        raise ValueError(f"baselines={names!r}; allowed is a list of one or more, each once, of {', '.join(BASELINES)}")
    return tuple(names)


def long_scores(scores: dict[str, Grid], days: npt.ArrayLike, stocks: npt.ArrayLike) -> pd.DataFrame:
    """List the scores by (datetime, instrument), a column each; rows that none of them scores are left out."""
    names = ["datetime", "instrument"]
    index = pd.MultiIndex.from_product([pd.DatetimeIndex(np.asarray(days)), np.asarray(stocks)], names=names)
    return pd.DataFrame({name: grid.ravel() for name, grid in scores.items()}, index=index).dropna(how="all")


def _import_lightgbm() -> Any:
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: its library needs libgomp
        raise ImportError(
            f"the baseline 'lightgbm' needs the package lightgbm, which pyqlib brings along ({error}): "
            "pip install lightgbm, or leave it out of `baselines`"
        ) from error
    return lightgbm
