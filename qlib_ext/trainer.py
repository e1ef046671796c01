"""Trainer: one epoch function for training and validation, early stop by what real money would have earned."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qlib_ext.evaluate import METRICS, metric_value
from qlib_ext.losses import DayLoss
from qlib_ext.panel import Batch, DayPanel

Rows = npt.NDArray[np.int64]


class RobustScale(nn.Module):
    """(x - median) / (1.4826 MAD), clipped to +-3, fitted on training days only; kept in the state dict."""

    center: Tensor
    scale: Tensor

    def __init__(self, d_feat: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(d_feat))
        self.register_buffer("scale", torch.ones(d_feat))

    def fit(self, panel: DayPanel, rows: Rows) -> None:
        """Fit on the present stocks of the given days; a constant feature keeps scale 1."""
        at = torch.as_tensor(rows)
        mask = panel.present[at]
        for f in range(panel.x.shape[2]):
            value = panel.x[at, :, f][mask]
            median = value.median()
            mad = 1.4826 * (value - median).abs().median()
            self.center[f], self.scale[f] = median, torch.where(mad > 0, mad, torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (..., F)."""
        return ((x - self.center) / self.scale).clamp(-3.0, 3.0)


@dataclass
class History:
    """What every epoch did: rows of metrics, the best epoch (1-based) and the days left out as degenerate."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = -math.inf
    degenerate_days: int = 0


class Trainer:
    """Train a network on days of a panel.

    Args:
        net: maps x (B, T, N, F), present (B, T, N), market (B, M) to scores (B, N).
        loss: a DayLoss, smaller is better.
        metric: name of an evaluator metric (`evaluate.METRICS`), larger is better, that stops and selects.
        step_len: T, window length in days.
        epochs, patience: most epochs, and epochs without a better metric before the stop.
        lr, weight_decay, clip: Adam's rate and decay, and the largest gradient norm.
        batch_days: days a step.
        seed: seeds the order of days and dropout, without touching the global generator's later use.
        capital, participation, top_n: yuan, share of liquidity and names of the money metrics.
        scale: "robust" fits RobustScale on the training days, None trusts the features as they come.
        device: "cpu", "cuda" or "auto".

    """

    def __init__(
        self,
        net: nn.Module,
        loss: DayLoss,
        *,
        metric: str = "capped_excess",
        step_len: int = 1,
        epochs: int = 20,
        patience: int = 5,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        clip: float = 3.0,
        batch_days: int = 4,
        seed: int = 0,
        capital: float = 150e6,
        participation: float = 0.05,
        top_n: int = 30,
        scale: str | None = None,
        device: str = "auto",
    ) -> None:
        if metric not in METRICS:
            close = difflib.get_close_matches(metric, METRICS, n=3)
            raise ValueError(f"unknown metric {metric!r}; close: {close}; allowed: {', '.join(METRICS)}")
        for name, value in {
            "epochs": epochs,
            "patience": patience,
            "lr": lr,
            "batch_days": batch_days,
        }.items():
            if not value > 0:
                raise ValueError(f"{name}={value!r} must be above 0")
        if scale not in (None, "robust"):
            raise ValueError(f"scale={scale!r}; allowed: null, 'robust'")
        self.net, self.loss, self.metric, self.step_len = net, loss, metric, step_len
        self.epochs, self.patience, self.batch_days, self.seed, self.clip = (
            epochs,
            patience,
            batch_days,
            seed,
            clip,
        )
        self.lr, self.weight_decay, self.scale = lr, weight_decay, scale
        self.money = {"capital": capital, "participation": participation, "top_n": top_n}
        self.device = pick_device(device)
        self.scaler: RobustScale | None = None

    def fit(
        self,
        panel: DayPanel,
        train: Rows,
        valid: Rows,
        *,
        on_epoch: Callable[[int, dict[str, float]], None] | None = None,
        progress: Callable[[Iterator[Batch], int], Iterator[Batch]] | None = None,
    ) -> History:
        """Train on the rows `train`, select on `valid`; the network ends with its best state.

        Raises: ValueError without a usable day; FloatingPointError where loss or scores stop being finite.

        """
        train, valid, history = self._usable(panel, train, valid)
        cards = [torch.cuda.current_device()] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cards):
            torch.manual_seed(self.seed)
            self._epochs(panel, train, valid, history, on_epoch, progress)
        return history

    def _epochs(
        self,
        panel: DayPanel,
        train: Rows,
        valid: Rows,
        history: History,
        on_epoch: Callable[[int, dict[str, float]], None] | None,
        progress: Callable[[Iterator[Batch], int], Iterator[Batch]] | None,
    ) -> None:
        """Run the epochs until the metric stops rising; write them into `history`, end with the best state."""
        order = np.random.default_rng(self.seed)
        if self.scale == "robust":
            self.scaler = RobustScale(panel.x.shape[2])
            self.scaler.fit(panel, train)
            self.scaler.to(self.device)
        self.net.to(self.device)
        optimiser = torch.optim.Adam(self.net.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        best = copy.deepcopy(self.net.state_dict())
        for epoch in range(1, self.epochs + 1):
            train_loss, _ = self.run_epoch(panel, order.permutation(train), optimiser, progress=progress)
            valid_loss, score = self.run_epoch(panel, valid)
            row = {"train_loss": train_loss, "valid_loss": valid_loss, **self._judge(panel, valid, score)}
            history.epochs.append(row)
            if on_epoch is not None:
                on_epoch(epoch, row)
            if row[self.metric] > history.best_value:
                history.best_value, history.best_epoch = row[self.metric], epoch
                best = copy.deepcopy(self.net.state_dict())
            elif epoch - history.best_epoch >= self.patience:
                break
        self.net.load_state_dict(best)

    def to_cpu(self) -> None:
        """Move what was learnt to the CPU, so that its pickle loads anywhere."""
        self.net.cpu()
        if self.scaler is not None:
            self.scaler.cpu()
        self.device = torch.device("cpu")

    def predict(self, panel: DayPanel, rows: Rows) -> npt.NDArray[np.float32]:
        """Score days: (len(rows), N), NaN where a stock is not present."""
        self.net.to(self.device)
        if self.scaler is not None:
            self.scaler.to(self.device)
        score = np.full((len(rows), len(panel.stocks)), np.nan, dtype=np.float32)
        known = np.isin(rows, panel.with_stocks(rows))
        if known.any():
            score[known] = self._scores(panel, rows[known])
        return score

    def _scores(self, panel: DayPanel, rows: Rows) -> npt.NDArray[np.float32]:
        """Score days without asking for labels, liquidity or the loss."""
        self.net.eval()
        score = np.full((len(rows), len(panel.stocks)), np.nan, dtype=np.float32)
        with torch.no_grad():
            for i in range(0, len(rows), self.batch_days):
                batch = panel.batch(rows[i : i + self.batch_days], step_len=self.step_len)
                _place(score, np.arange(len(batch.days)) + i, batch, self._forward(batch))
        return score

    def run_epoch(
        self,
        panel: DayPanel,
        rows: Rows,
        optimiser: torch.optim.Optimizer | None = None,
        *,
        progress: Callable[[Iterator[Batch], int], Iterator[Batch]] | None = None,
    ) -> tuple[float, npt.NDArray[np.float32]]:
        """Pass once over the days in the given order; learn where an optimiser is given.

        Returns: the mean loss over valid days (NaN without one), and the scores (len(rows), N) of a pass that does
            not learn, NaN where absent.

        """
        learn = optimiser is not None
        self.net.train(learn)
        total, count = torch.zeros((), device=self.device), 0
        score = np.full((0 if learn else len(rows), len(panel.stocks)), np.nan, dtype=np.float32)
        starts = range(0, len(rows), self.batch_days)
        batches: Iterator[Batch] = (panel.batch(rows[i : i + self.batch_days], step_len=self.step_len) for i in starts)
        if progress is not None:
            batches = progress(batches, len(starts))
        context: AbstractContextManager[object] = nullcontext() if learn else torch.no_grad()
        with context:
            for i, batch in enumerate(batches):
                output, loss, days = self._step(batch)
                if optimiser is not None and days:
                    self._learn(loss, optimiser)
                total, count = total + loss.detach() * days, count + days
                if not learn:
                    where = np.arange(len(batch.days)) + i * self.batch_days
                    _place(score, where, batch, output)
        mean = float(total) / count if count else math.nan
        if count and not math.isfinite(mean):
            raise FloatingPointError(f"the loss became {mean}: lower lr ({self.lr}) or clean the features")
        return mean, score

    def _step(self, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """Score a batch: scores (B, N), mean loss over its valid days, and their number."""
        valid = int(self.loss.valid_days(batch.label, batch.mask, batch.liquidity).sum())
        output = self._forward(batch)
        grids = [None if g is None else g.to(self.device) for g in (batch.liquidity, batch.volatility)]
        loss = self.loss(output, batch.label.to(self.device), batch.mask.to(self.device), *grids)
        return output, loss, valid

    def _forward(self, batch: Batch) -> Tensor:
        """Score a batch: (B, N)."""
        x = batch.x.to(self.device)
        if self.scaler is not None:
            x = self.scaler(x)
        market = batch.market if getattr(self.net, "d_gate", 0) else None
        return self.net(x, batch.present.to(self.device), None if market is None else market.to(self.device))

    def _learn(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        optimiser.step()

    def _judge(self, panel: DayPanel, rows: Rows, score: npt.NDArray[np.float32]) -> dict[str, float]:
        """Compute the validation metrics of one epoch, the chosen one with its standard error over days."""
        at = torch.as_tensor(rows)
        label = panel.label[at].numpy()
        liquidity = None if panel.liquidity is None else panel.liquidity[at].numpy()
        buyable = None if panel.buyable is None else panel.buyable[at].numpy()
        names = ["ic", "rank_ic"] + (["capped_excess", "capped_return"] if liquidity is not None else [])
        row: dict[str, float] = {}
        for name in dict.fromkeys([*names, self.metric]):
            row[name], error = metric_value(name, score, label, liquidity, buyable, **self.money)
            if name == self.metric:
                row[f"{name}_se"] = error
        if not math.isfinite(row[self.metric]):
            raise ValueError(f"the metric {self.metric} is {row[self.metric]} on the validation days: no label there?")
        return row

    def _usable(self, panel: DayPanel, train: Rows, valid: Rows) -> tuple[Rows, Rows, History]:
        if self.loss.needs_liquidity and panel.liquidity is None:
            raise ValueError(
                "this loss needs liquidity: use DayDatasetH(liquidity=...) or the loss 'wpcc', 'ic', 'mse'"
            )
        if self.loss.needs_volatility and panel.volatility is None:
            raise ValueError("target 'volatility' needs trailing volatility: use DayDatasetH, or target 'raw', 'rank'")
        if self.step_len > len(panel.days):
            raise ValueError(f"step_len={self.step_len} is longer than the history of {len(panel.days)} days")
        at = torch.as_tensor(train)
        liquidity = None if panel.liquidity is None else panel.liquidity[at]
        good = self.loss.valid_days(panel.label[at], panel.present[at], liquidity).numpy()
        valid = panel.with_stocks(valid)
        if not good.any() or not len(valid):
            raise ValueError(
                f"{int(good.sum())} of {len(train)} training days can be learnt from (two or more labelled stocks with "
                f"different labels), {len(valid)} validation days have stocks: check segments, universe and label"
            )
        return train[good], valid, History(degenerate_days=int((~good).sum()))


def pick_device(device: str) -> torch.device:
    """Return the device; "auto" takes a GPU where there is one. Raises ValueError for an absent GPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} but torch sees no GPU: use device: cpu or device: auto")
    return torch.device(device)


def _place(score: npt.NDArray[np.float32], where: Rows, batch: Batch, output: Tensor) -> None:
    """Write the scores of present stocks into their columns."""
    mask = batch.mask.numpy()
    value = output.float().cpu().numpy()
    if not np.isfinite(value[mask]).all():
        raise FloatingPointError("the network returned a score that is not finite: lower lr or clean the features")
    row = np.broadcast_to(where[:, None], mask.shape)
    score[row[mask], batch.stock.numpy()[mask]] = value[mask]
