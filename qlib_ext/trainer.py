"""Trainer: one epoch function for training and validation, early stop by what real money would have earned."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qlib_ext.evaluate import METRICS, NEED_LIQUIDITY, average, daily_columns, daily_metrics
from qlib_ext.losses import DayLoss
from qlib_ext.panel import Batch, DayPanel

Rows = npt.NDArray[np.int64]
PRECISIONS = ("auto", "float32", "bfloat16")
GPU_WIDTH, CPU_WIDTH = 128, 64  # stocks a batch is padded to a multiple of; on a CPU at most a 32nd of the market
MONEY = ("capped_excess", "capped_return", "capped_names_held", "capped_cash_share")  # logged beside the metric


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
        device: "cpu", "cuda" or "auto". On a GPU the panel is copied there once.
        precision: of the network's matrix products: "float32", "bfloat16" (autocast; scores, losses and metrics stay
            in float32), or "auto": bfloat16 where the hardware multiplies it natively.
        compile: run the network through torch.compile; pays on a GPU over many epochs of a whole market.

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
        precision: str = "auto",
        compile: bool = False,
    ) -> None:
        if metric not in METRICS:
            close = difflib.get_close_matches(metric, METRICS, n=3)
            raise ValueError(f"unknown metric {metric!r}; close: {close}; allowed: {', '.join(METRICS)}")
        counts = {"epochs": epochs, "patience": patience, "batch_days": batch_days, "top_n": top_n}
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name}={count!r} must be above 0 and a whole number")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed={seed!r} must be a whole number of at least 0")
        sizes = {"lr": lr, "clip": clip, "capital": capital, "participation": participation}
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < math.inf:
                raise ValueError(f"{name}={size!r} must be above 0 (in YAML write 0.001, not 1e-3, which is a text)")
        if isinstance(weight_decay, bool) or not isinstance(weight_decay, int | float) or not weight_decay >= 0:
            raise ValueError(f"weight_decay={weight_decay!r} must be a number of at least 0")
        if not isinstance(compile, bool):
            raise ValueError(f"compile={compile!r}; allowed: true, false")
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
        self.money: dict[str, Any] = {"capital": capital, "participation": participation, "top_n": top_n}
        self.asked = (device, precision)
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.scaler: RobustScale | None = None
        self.compile = compile
        self._compiled: Callable[..., Tensor] | None = None  # of self.net, whose parameters it shares

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what torch compiled, and with what was learnt on the CPU, so that it loads anywhere."""
        kept = self.__dict__ | {"_compiled": None}
        if self.device.type != "cpu":
            kept |= {name: copy.deepcopy(kept[name]).cpu() for name in ("net", "scaler") if kept[name] is not None}
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load; the device and precision that were asked for are chosen anew, the CPU where the GPU is absent."""
        self.__dict__.update(state)
        device, precision = self.asked
        self.device = pick_device(device if torch.cuda.is_available() or not device.startswith("cuda") else "cpu")
        self.precision = pick_precision(precision, self.device)

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
        panel = panel.to(self.device)
        self.net.to(self.device)
        self._compiled = torch.compile(self.net) if self.compile else None
        optimiser = torch.optim.Adam(self.net.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
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
        scores = _Scores(len(rows), panel, self.device)
        with torch.no_grad():
            for i in range(0, len(rows), self.batch_days):
                batch = self._batch(panel, rows[i : i + self.batch_days]).to(self.device)
                scores.add(batch, self._forward(batch))
        return scores.numpy()

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
        valid = self._learnable(panel, rows)
        total = torch.zeros((), device=self.device)
        scores = None if learn else _Scores(len(rows), panel, self.device)
        starts = range(0, len(rows), self.batch_days)
        batches: Iterator[Batch] = (self._batch(panel, rows[i : i + self.batch_days]) for i in starts)
        if progress is not None:
            batches = progress(batches, len(starts))
        context: AbstractContextManager[object] = nullcontext() if learn else torch.no_grad()
        with context:
            for i, batch in zip(starts, batches, strict=True):
                days = int(valid[i : i + self.batch_days].sum())
                here = batch.to(self.device)
                output = self._forward(here)
                loss = self.loss(output, here.label, here.mask, here.liquidity, here.volatility)
                if optimiser is not None and days:
                    self._learn(loss, optimiser)
                total = total + loss.detach() * days
                if scores is not None:
                    scores.add(here, output)
        count = int(valid.sum())
        mean = float(total) / count if count else math.nan
        if count and not math.isfinite(mean):
            raise FloatingPointError(f"the loss became {mean}: lower lr ({self.lr}) or clean the features")
        return mean, np.empty((0, len(panel.stocks)), np.float32) if scores is None else scores.numpy()

    def _learnable(self, panel: DayPanel, rows: Rows) -> npt.NDArray[np.bool_]:
        """Tell (len(rows),) which days count for the loss; asked once an epoch, so that no step waits for a GPU."""
        at = torch.as_tensor(rows, device=panel.label.device)
        liquidity = None if panel.liquidity is None else panel.liquidity[at]
        return self.loss.valid_days(panel.label[at], panel.present[at], liquidity).cpu().numpy()

    def _batch(self, panel: DayPanel, rows: Rows) -> Batch:
        """Gather days in few different widths.

        A GPU plans a kernel anew for each shape. On a CPU freed memory is used again where sizes repeat; else it stays
        in pieces: 11 GB of them in half an epoch of the whole market.
        """
        narrow = max(1, min(CPU_WIDTH, len(panel.stocks) // 32))
        return panel.batch(rows, step_len=self.step_len, multiple=GPU_WIDTH if self.device.type == "cuda" else narrow)

    def _forward(self, batch: Batch) -> Tensor:
        """Score a batch that lies on the device: (B, N) float32."""
        x = batch.x if self.scaler is None else self.scaler(batch.x)
        market = batch.market if getattr(self.net, "d_gate", 0) else None
        low = self.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            output: Tensor = (self._compiled or self.net)(x, batch.present, market)
        return output.float()

    def _learn(self, loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        optimiser.step()

    def _judge(self, panel: DayPanel, rows: Rows, score: npt.NDArray[np.float32]) -> dict[str, float]:
        """Compute the validation metrics of one epoch, the chosen one with its standard error over days."""
        at = torch.as_tensor(rows, device=panel.label.device)

        def grid(value: Tensor | None) -> npt.NDArray[np.generic] | None:
            return None if value is None else value[at].cpu().numpy()

        names = ["ic", "rank_ic"] + (list(MONEY) if panel.liquidity is not None else [])
        names = list(dict.fromkeys([*names, *daily_columns(self.metric)]))
        daily = daily_metrics(
            score, panel.label[at].cpu().numpy(), grid(panel.liquidity), grid(panel.buyable), names=names, **self.money
        )
        row = {name: average(daily, name)[0] for name in names}
        row[self.metric], row[f"{self.metric}_se"] = average(daily, self.metric)
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
        if daily_columns(self.metric)[0] in NEED_LIQUIDITY and panel.liquidity is None:
            raise ValueError(f"the metric {self.metric!r} needs liquidity: use DayDatasetH, or metric: rank_ic")
        if self.scale == "robust" and panel.filled > 0:
            raise ValueError(
                f"scale: robust, but {panel.filled:.2%} of the feature values were missing and became 0, which it "
                "would take for data: fill them in the handler's infer_processors first, or use CSNormalise instead"
            )
        if self.step_len > len(panel.days):
            raise ValueError(f"step_len={self.step_len} is longer than the history of {len(panel.days)} days")
        good = self._learnable(panel, train)
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


def pick_precision(precision: str, device: torch.device) -> str:
    """Return "float32" or "bfloat16"; "auto" takes bfloat16 where the hardware multiplies it natively."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}; allowed: {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public names for these yet
    native = device.type == "cpu" and any(getattr(torch.cpu, ask, bool)() for ask in asks)
    return "bfloat16" if native else "float32"


class _Scores:
    """Scores of a pass (days, N), gathered on the device, so that only their end waits for it."""

    def __init__(self, days: int, panel: DayPanel, device: torch.device) -> None:
        self.value = torch.full((days, len(panel.stocks)), torch.nan, device=device)
        self.strange = torch.zeros((), dtype=torch.bool, device=device)
        self.filled = 0

    def add(self, batch: Batch, output: Tensor) -> None:
        """Write the scores of the next days; a padded place is the column of an absent stock and stays NaN."""
        here = self.value[self.filled : self.filled + len(batch.days)]
        here.scatter_(1, batch.stock, torch.where(batch.mask, output, torch.nan))
        self.strange |= (batch.mask & ~torch.isfinite(output)).any()
        self.filled += len(batch.days)

    def numpy(self) -> npt.NDArray[np.float32]:
        """Return the scores (days, N), NaN where a stock is not present."""
        if bool(self.strange):
            raise FloatingPointError("the network returned a score that is not finite: lower lr or clean the features")
        return self.value.cpu().numpy()
