"""What is tried: a configuration of scores, how it is trained, and the ways to trade what comes out."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from qlib_ext.evaluate import LightGBM
from qlib_ext.model import MASTERModel, MLPModel
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import CostAwarePolicy, Forecast, Policy, TopNPolicy, exposures
from qlib_ext.splits import HVBlockedKFold
from studies.scores import HORIZON, KINDS, MASTER, THIN, Bench, residual, unit
from studies.years import BOUNDS

LOSSES: dict[str, dict[str, Any]] = {  # options of a network
    "mse": {"loss": "mse", "target": "rank"},
    "ic": {"loss": "ic", "target": "rank"},
    "wpcc": {"loss": "wpcc", "target": "raw"},  # the deck's: weights by the outcome
    "liq_wpcc": {"loss": "liq_wpcc", "target": "raw"},
    "by_score": {"loss": "wpcc", "target": "rank", "weight_by": "score"},
    "neutral": {"loss": "ic", "target": "rank", "neutral": KINDS},
    "neutral_by_score": {"loss": "wpcc", "target": "rank", "weight_by": "score", "neutral": KINDS},
}
NETWORKS: dict[str, tuple[Callable[..., Any], int, dict[str, Any]]] = {  # class, days in a window, options over THIN
    "mlp": (MLPModel, 1, {}),
    "master": (MASTERModel, MASTER["step_len"], {name: value for name, value in MASTER.items() if name != "step_len"}),
}
FOLDS = 5  # of the deck's protocol
MEMBERS = 5  # seeds whose mean scores are "all seeds"

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Config:
    """A way to make scores; what is not said is where the chain of decisions starts.

    Attributes:
        kind: mlp, lightgbm, master; several, joined by +: the mean of their standardised scores.
        loss: of `LOSSES`; to LightGBM they are squared error on ranks, or on ranks off the exposures.
        horizon: days of the return that is learnt, from the next close.
        factors: of `scores.FACTORS`.
        years: to learn from, the last 120 days of which select the epoch.
        gap: years between them and the test year: how old the model is when the year begins.
        folds: the deck's protocol in place of walk-forward: hv-blocked folds over the year before and the test year
            itself, each block scored by a model that learnt on the days around it and stopped at its best epoch on it.
        blend: "LOSS~FACTORS" of a second score, of the same kinds, horizon and years, that is averaged with this one.
    """

    kind: str = "mlp"
    loss: str = "ic"
    horizon: int = 10
    factors: str = "alpha158"
    years: int = 3
    gap: int = 0
    folds: bool = False
    blend: str = ""

    @property
    def name(self) -> str:
        """Name of files and of trials."""
        more = (f".{self.gap}_old" if self.gap else "") + (".folds" if self.folds else "")
        more += f".{self.blend}" if self.blend else ""
        return f"{self.kind}.{self.loss}.{self.horizon}.{self.factors}.{self.years}{more}"

    @property
    def members(self) -> list["Config"]:
        """List those whose scores are averaged; itself where it is one. Trees know two losses."""
        pairs = [(self.loss, self.factors), *([tuple(self.blend.split("~"))] if self.blend else [])]
        return [
            replace(self, kind=kind, loss=_loss(kind, loss), factors=factors, blend="")
            for loss, factors in dict.fromkeys(pairs)
            for kind in self.kind.split("+")
        ]

    def to_dict(self) -> dict[str, Any]:
        """Parameters for a recorder."""
        return asdict(self)

    @classmethod
    def read(cls, name: str) -> "Config":
        """Read a configuration from its name.

        >>> Config.read(Config(kind="master", gap=2).name) == Config(kind="master", gap=2)
        True
        """
        kind, loss, horizon, factors, years, *more = name.split(".")
        gap = next((int(each.split("_")[0]) for each in more if each.endswith("_old")), 0)
        blend = next((each for each in more if "~" in each), "")
        return cls(kind, loss, int(horizon), factors, int(years), gap, "folds" in more, blend)


def _loss(kind: str, loss: str) -> str:
    if kind != "lightgbm":
        return loss
    return "neutral" if loss.startswith("neutral") else "ic"


def score(bench: Bench, config: Config, seed: int) -> pd.DataFrame:
    """Give scores (day x code) of the days that select and of the test year, trained where they are not there."""
    file = bench.folder / "scores" / config.name / f"{bench.year.year}_{seed}.parquet"
    if not file.exists():
        made = _mean(bench, config, seed) if config.members != [config] else _trained(bench, config, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        made.astype(np.float32).to_parquet(part)
        part.replace(file)
    return pd.read_parquet(file)


def mean_of_scores(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Average scores, each standardised over the day's stocks as a FoldEnsemble does; days and stocks of the first."""
    first, total = frames[0], 0.0
    for frame in frames:
        value = frame.reindex(index=first.index, columns=first.columns).to_numpy(np.float64)
        gap = value - np.nanmean(value, axis=1, keepdims=True)
        total = total + gap / np.nanstd(value, axis=1, keepdims=True)
    return pd.DataFrame(total / len(frames), first.index, first.columns)


def _mean(bench: Bench, config: Config, seed: int) -> pd.DataFrame:
    return mean_of_scores([score(bench, member, seed) for member in config.members])


def _trained(bench: Bench, config: Config, seed: int) -> pd.DataFrame:
    panel = bench.panel(config.factors, config.years, config.gap)
    if config.horizon != HORIZON:
        panel = replace(panel, label=bench.returns(panel, config.horizon))
    panel = replace(panel, label=bench.known(panel, config.horizon))
    if not config.folds:
        rows = bench.rows(panel, config.horizon + 1, config.gap)
        return pd.DataFrame(_fitted(config, seed, panel, **rows), panel.days[rows["scored"]], panel.stocks)
    window = NETWORKS[config.kind][1] if config.kind in NETWORKS else 1
    cut = HVBlockedKFold(FOLDS, reach=config.horizon + 1, window=window)
    parts = [_fitted(config, seed, panel, train, valid, valid) for train, valid in cut.split(panel.days)]
    return pd.DataFrame(np.concatenate(parts), panel.days, panel.stocks)


def _fitted(config: Config, seed: int, panel: DayPanel, train: Rows, valid: Rows, scored: Rows) -> Any:
    """Train on rows of a panel, select on others, score others: (d, N)."""
    if config.kind == "lightgbm":
        neutral = config.loss.startswith("neutral")
        learnt = replace(panel, label=neutral_label(panel)) if neutral else panel
        made, _ = LightGBM(seed=seed).fit_predict(learnt, train, valid, scored)
        return off_exposures(panel, made, scored) if neutral else made
    kind, step_len, own = NETWORKS[config.kind]
    model = kind(**{**THIN, **own, **LOSSES[config.loss]}, seed=seed)
    model.fit_rows(panel, step_len, train, valid)
    return model.trainer.predict(panel, scored)


def _loads(panel: DayPanel, rows: Any) -> tuple[Any, Any]:
    inside = panel.present.numpy()[rows]
    grids = {kind: getattr(panel, kind).numpy()[rows].astype(np.float64) for kind in KINDS}
    return inside, np.stack(list(exposures(inside, **grids).values()), axis=-1)


def neutral_label(panel: DayPanel) -> Any:
    """Ranks of the label (D, N) off volatility and liquidity, equal weights; what the trees learn in place of ranks."""
    inside, loads = _loads(panel, slice(None))
    label = np.where(inside, panel.label.numpy(), np.nan)
    return torch.from_numpy(residual(unit(label), loads, np.isfinite(label)).astype(np.float32))


def off_exposures(panel: DayPanel, made: Any, rows: Any) -> Any:
    """Take volatility and liquidity off scores (d, N), equal weights over the day's stocks."""
    inside, loads = _loads(panel, rows)
    return residual(made, loads, inside & np.isfinite(made))


# --- trading


@dataclass(frozen=True)
class Way:
    """A way to trade: `policy` of a forecast, b and capital; the share of a stock's liquidity that a day trades."""

    what: str
    policy: Callable[[Forecast, float], Policy]
    share: float = 0.05


def _cost_aware(**options: Any) -> Callable[[Forecast, float], Policy]:
    return lambda forecast, b: CostAwarePolicy(forecast, impact=b, max_weight=0.05, **options)


WAYS = {
    "judge": Way("the capital placed anew each day down the ranking", lambda f, b: TopNPolicy()),
    "smoothed": Way(
        "scores smoothed over 10 days, in at rank 200, out at 1,000, 1% of the liquidity held and traded",
        lambda f, b: TopNPolicy(None, 0.01, None, (200, 1000), 10), 0.01,
    ),
    "cost_aware": Way("forecast against costs and risk, bounds of 0.2 on exposures", _cost_aware(bounds=BOUNDS)),
    "unbounded": Way("the same without bounds", _cost_aware()),
    "bold": Way("with bounds, risk_aversion 3", _cost_aware(bounds=BOUNDS, risk_aversion=3.0)),
    "timid": Way("with bounds, risk_aversion 30", _cost_aware(bounds=BOUNDS, risk_aversion=30.0)),
}  # fmt: skip
TRADED = "cost_aware"  # while scores are compared
