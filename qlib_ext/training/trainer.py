"""Trainer: one epoch function for training and validation, early stop by what real money would have earned."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from qlib_ext import ranks
from qlib_ext.cross_section import project_off, varied_days
from qlib_ext.evaluate import (
    NEUTRAL,
    RATIOS,
    Measure,
    average,
    daily_metrics,
    metric_column,
    metric_name,
    metric_needs_exposures,
    metric_needs_liquidity,
    metric_needs_trading,
)
from qlib_ext.losses import DayLoss
from qlib_ext.options import (
    SHARE,
    check_flag,
    check_number,
    describe,
    enough_memory,
    lacks_memory,
    named_options,
    tell,
)
from qlib_ext.panel import Batch, DayPanel
from qlib_ext.portfolio import HeadWeights, combine_heads, market_of
from qlib_ext.rules import fee_rates
from qlib_ext.training.checkpoint import Checkpoint, History, Run, check_file, check_ranks, facts_of
from qlib_ext.training.device import (
    fixed_threads,
    nearest_device,
    pick_device,
    pick_precision,
    seed_generators,
    seeded,
)
from qlib_ext.training.heads import check_heads, check_weights, head_losses, head_metrics
from qlib_ext.training.scaling import RobustScale

Rows = npt.NDArray[np.int64]
OnEpoch = Callable[[int, dict[str, float]], None]
Progress = Callable[[Iterator[Batch], int], Iterator[Batch]]
T = TypeVar("T")
LOADED_DAYS = 64  # whose exposures are looked at together
GPU_WIDTH, CPU_WIDTH = 128, 64  # stocks a batch is padded to a multiple of; on a CPU at most a 32nd of the market
IN_YAML = " (in YAML write 0.001, not 1e-3, which is a text)"
LESS = "set a smaller batch_days, step_len or network, fewer stocks or features, processes: 1, or take a larger machine"
FIRST_FEES = np.datetime64("2015-08-03")
METRIC = "wpcc"  # measured: docs/losses.md
MONEY = ("capped_excess", "capped_return", "capped_names_held", "capped_cash_share")  # logged beside the metric


class Trainer:
    """Train a network on days of a panel.

    Several ranks (processes of torchrun, see `qlib_ext.ranks`) share each step of `fit`: it takes `batch_days` of each,
    the numbers are those of one process with as many days a step as all together, but for rounding and dropout, and all
    ranks end with the same network. What `predict` scores each rank scores alone.

    Args:
        net: maps x (B, T, N, F), present (B, T, N), market (B, M) to scores (B, N), or (B, N, H) of a panel with H
            `horizons`, a head each.
        loss: a DayLoss or what one is made of, smaller is better.
        metric: what stops and selects, larger is better: of `evaluate.METRICS`, or a function of your own of
            `evaluate.DayGrids` -> (D,).
        step_len: T, window length in days.
        epochs, patience: most epochs, and epochs without a better metric before the stop.
        lr, weight_decay, clip: Adam's rate and decay, and the largest gradient norm.
        batch_days: days a step. Where the memory does not suffice for them, they go through the network some at a time,
            half as many until it does, and their gradients are added: the same step but for rounding and dropout.
        every_days: learn from each so many-th of the training days, the first among them: where labels of ten days
            overlap, every third serves as well in a third of the time (docs/scores.md).
        day_halflife: trading days after which a training day counts half: its loss is weighed by 0.5 ** (age /
            day_halflife), age in rows of the panel before the last training day; the weights have the mean 1 over the
            training days that can be learnt from, and the train loss is the mean so weighed. None: all count alike.
        horizon_weights: (H,) of the heads' losses, which are added; None: equal. With them the standardised scores of
            the heads are added too, until `fit` has found at its end what they earned together, see `HeadWeights`; the
            metric is of the sum, with the label that judges.
        seed: seeds the order of days and dropout, without touching the global generator's later use.
        order_seed: seeds the order of days in place of `seed`, so that trainings of several seeds see them in one order
            and may share a pass (`fit_together`); they then differ by first weights and dropout alone.
        capital, participation, top_n: yuan, share of liquidity and names of the money metrics.
        scale: "robust" fits RobustScale on the training days, None trusts the features as they come.
        device: "cpu", "cuda" or "auto". On a GPU the panel is copied there once.
        precision: of the network's matrix products: "float32", "bfloat16" (autocast; scores, losses and metrics stay
            in float32), or "auto": bfloat16 where the hardware multiplies it natively.
        deterministic: learn and score by a fixed number of threads of a CPU, so that the same seed gives the same bits
            whatever the threads of the process and of its workers; docs/trust.md says what it costs.
        compile: run the network through torch.compile; pays on a GPU over many epochs of a whole market.
        checkpoint: file that keeps the state after each epoch. Where it exists, `fit` goes on from it and ends with the
            numbers of a run without a break; where it is of other options or days, or damaged, that is an error. It is
            removed at the end of the training; of a model that qrun trains, when the run is finished.

    >>> from qlib_ext.nets import MLP
    >>> trainer = Trainer(MLP(2, (8,)), DayLoss("ic"), metric="ic", epochs=2, device="cpu")
    >>> train, valid = panel.rows("2020-02-03", "2020-04-30"), panel.rows("2020-05-06", "2020-05-29")
    >>> history = trainer.fit(panel, train, valid)
    >>> len(history.epochs), trainer.predict(panel, valid).shape == (len(valid), len(panel.stocks))
    (2, True)
    """

    measure: Measure | None = None  # of your own; recorded trainers may lack it
    order_seed: int | None = None
    every_days: int = 1  # likewise
    deterministic: bool = False
    day_halflife: float | None = None
    horizon_weights: tuple[float, ...] | None = None
    horizons: tuple[int, ...] = ()  # of the heads; known once `fit` has a panel
    heads: HeadWeights | None = None  # by which their scores are added; None with one, and before `fit` ends
    _fitting: int | None = None  # days that the memory suffices for at a time, once it did not for a whole batch

    def __init__(
        self,
        net: nn.Module,
        loss: DayLoss | str | Callable[..., Tensor],
        *,
        metric: str | Measure = METRIC,
        step_len: int = 1,
        epochs: int = 20,
        patience: int = 5,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        clip: float = 3.0,
        batch_days: int = 4,
        every_days: int = 1,
        day_halflife: float | None = None,
        horizon_weights: Sequence[float] | None = None,
        seed: int = 0,
        order_seed: int | None = None,
        capital: float = 150e6,
        participation: float = 0.05,
        top_n: int = 30,
        scale: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        deterministic: bool = False,
        compile: bool = False,
        checkpoint: str | None = None,
    ) -> None:
        counts = {"epochs": epochs, "patience": patience, "batch_days": batch_days, "top_n": top_n}
        counts["every_days"] = every_days
        amounts = {"lr": lr, "clip": clip, "capital": capital}
        for name, count in counts.items():
            check_number(name, count, "[1, inf)", whole=True)
        for name, amount in amounts.items():
            check_number(name, amount, "(0, inf)", hint=IN_YAML)
        check_number("participation", participation, "(0, 1]", hint=SHARE)
        check_number("seed", seed, "[0, inf)", whole=True)
        if order_seed is not None:
            check_number("order_seed", order_seed, "[0, inf)", whole=True, hint=", or null: that of `seed`")
        check_number("weight_decay", weight_decay, "[0, inf)", hint=IN_YAML)
        check_flag("compile", compile)
        check_flag("deterministic", deterministic)
        if day_halflife is not None:
            check_number("day_halflife", day_halflife, "(0, inf)", hint=" (trading days), or null")
        if scale not in (None, "robust"):
            raise ValueError(f"scale={scale!r}; allowed: null, 'robust'")
        metric_column(metric)
        if step_len > 1 and not getattr(net, "needs_window", True):
            warnings.warn(f"{type(net).__name__} looks at the day alone: step_len={step_len} becomes 1", stacklevel=2)
            step_len = 1
        self.net, self.step_len = net, step_len
        self.loss = loss if isinstance(loss, DayLoss) else DayLoss(loss)
        self.metric, self.measure = metric_name(metric), metric if callable(metric) else None
        self.epochs, self.patience, self.batch_days, self.seed = epochs, patience, batch_days, seed
        self.lr, self.weight_decay, self.clip, self.scale = lr, weight_decay, clip, scale
        self.order_seed, self.every_days = order_seed, every_days
        self.day_halflife, self.horizon_weights = day_halflife, check_weights(horizon_weights)
        self.money: dict[str, Any] = {"capital": capital, "participation": participation, "top_n": top_n}
        self.asked = (device, precision)
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.scaler: RobustScale | None = None
        self.compile, self.checkpoint, self.deterministic = compile, check_file(checkpoint), deterministic
        self._compiled: Callable[..., Tensor] | None = None  # of self.net, whose parameters it shares

    def __repr__(self) -> str:
        """Network, loss and the options that matter most."""
        options = {name: getattr(self, name) for name in ("metric", "step_len", "epochs", "lr", "batch_days", "seed")}
        return f"Trainer({type(self.net).__name__}, {self.loss}, {named_options(options)}, {self.device})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what torch compiled, and with what was learnt on the CPU, so that it loads anywhere."""
        kept = self.__dict__ | {"_compiled": None, "_fitting": None}
        if self.device.type != "cpu":
            kept |= {name: copy.deepcopy(kept[name]).cpu() for name in ("net", "scaler") if kept[name] is not None}
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load; the device and precision that were asked for are chosen anew, the nearest where the GPU is absent."""
        self.__dict__.update(state)
        device, precision = self.asked
        self.device = nearest_device(device)
        self.precision = pick_precision(precision, self.device)

    @enough_memory(LESS)
    def fit(
        self,
        panel: DayPanel,
        train: Rows,
        valid: Rows,
        *,
        on_epoch: OnEpoch | None = None,
        progress: Progress | None = None,
        facts: Mapping[str, Any] | None = None,
        keep_checkpoint: bool = False,
    ) -> History:
        """Train on the rows `train`, select on `valid`; the network ends with its best state.

        Args:
            panel: the market.
            train: rows to learn from.
            valid: rows to select on.
            on_epoch: called with the epoch (1-based) and its metrics, after its checkpoint is written.
            progress: wraps the batches of a training epoch and their number.
            facts: what else a checkpoint must agree in, such as where the network's first weights came from.
            keep_checkpoint: leave the file at the end, from which another `fit` returns at once.

        Raises: ValueError without a usable day, for a metric that is never defined, or a checkpoint that is not of this
            training; FloatingPointError where loss or scores stop being finite.
        """
        self.horizons, self.heads = panel.horizons, None
        train, valid, history = self._usable(panel, train, valid)
        file = None
        if self.checkpoint is not None or ranks.count() > 1:
            texts = facts_of(self._facts() | dict(facts or {}), self.net, panel, train, valid, self.loss.neutral)
            check_ranks(texts | self._ends())
            file = None if self.checkpoint is None else Checkpoint(self.checkpoint, texts)
        with seeded(self.seed, self.device), fixed_threads(self.deterministic, self.device):
            self._epochs(panel, train, valid, self._start(panel, train, history, file), file, on_epoch, progress)
        self._weigh_heads(panel, valid)
        if file is not None and not keep_checkpoint:
            file.remove()
        return history

    def _weigh_heads(self, panel: DayPanel, valid: Rows) -> None:
        if len(self.horizons) > 1:
            self.heads = HeadWeights.of_panel(panel, valid, self.predict_heads(panel, valid), prior=self._prior())

    def _prior(self) -> npt.NDArray[np.float64]:
        """Weights (H,) of the heads' losses, adding to 1."""
        heads = max(1, len(self.horizons))
        return np.full(heads, 1.0 / heads) if self.horizon_weights is None else np.asarray(self.horizon_weights)

    def _facts(self) -> dict[str, Any]:
        """Tell the options that change a training's numbers; epochs and patience only end it."""
        names = ("step_len", "batch_days", "lr", "weight_decay", "clip", "seed", "scale", "precision", "compile")
        own = {name: getattr(self, name) for name in names} | self.money
        if self.day_halflife is not None:  # files of older versions do not name it
            own["day_halflife"] = self.day_halflife
        if self.order_seed is not None:
            own["order_seed"] = self.order_seed
        if self.every_days > 1:
            own["every_days"] = self.every_days
        if self.deterministic:
            own["deterministic"] = True
        if self.horizons:
            own |= {"horizons": self.horizons, "horizon_weights": self._prior().tolist()}
        return {"loss": self.loss, "metric": describe(self._chosen()), **own, "device": self.device.type}

    def _ends(self) -> dict[str, str]:
        """Tell what ranks must agree in besides, to take the same steps."""
        own = {name: getattr(self, name) for name in ("epochs", "patience", "order_seed")}
        own |= {"checkpoint": self.checkpoint is not None, "torch": torch.__version__}
        return {name: str(value) for name, value in own.items()}

    def _chosen(self) -> str | Measure:
        """Return the metric that stops and selects: its name, or the function that was given."""
        return self.measure or self.metric

    def _start(self, panel: DayPanel, train: Rows, history: History, file: Checkpoint | None) -> Run:
        """Set up the training where the checkpoint left it, or at its beginning."""
        if self.scale == "robust":
            self.scaler = RobustScale(panel.x.shape[2])
            self.scaler.fit(panel, train)
            self.scaler.to(self.device)
        self.net.to(self.device)
        self._compiled = torch.compile(self.net) if self.compile else None
        optimiser = torch.optim.Adam(self.net.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        order = np.random.default_rng(self.seed if self.order_seed is None else self.order_seed)
        best = copy.deepcopy(self.net.state_dict())
        run = Run(self.net, self.scaler, optimiser, order, self.device, history, best)
        if file is not None and file.load(run):
            history.resumed_from = len(history.epochs)
        self._take_first()
        return run

    def _take_first(self) -> None:
        """Let the network be the first rank's: its first weights; what rounding and buffers have made of them since."""
        if ranks.count() > 1:
            state = ranks.of_first(lambda: {name: value.cpu() for name, value in self.net.state_dict().items()})
            self.net.load_state_dict(state)

    def _draw_anew(self, epoch: int) -> None:
        """Seed each of several ranks' dropout by seed, rank and epoch (from 0): a checkpoint keeps nothing of it."""
        if ranks.count() > 1:
            own = np.random.SeedSequence((self.seed, ranks.rank(), epoch)).generate_state(1)
            seed_generators(int(own[0]), self.device)

    def _epochs(
        self,
        panel: DayPanel,
        train: Rows,
        valid: Rows,
        run: Run,
        file: Checkpoint | None,
        on_epoch: OnEpoch | None,
        progress: Progress | None,
    ) -> None:
        """Run the epochs until the metric stops rising; write them into the history, end with the best state."""
        panel, history, trading = panel.to(self.device), run.history, self._trading(panel, valid)
        weight = None if self.day_halflife is None else day_weight(train, self.day_halflife)
        while self._goes_on(history):
            self._draw_anew(len(history.epochs))
            order = run.order.permutation(len(train))
            own = None if weight is None else weight[order]
            train_loss, _ = self.run_epoch(panel, train[order], run.optimiser, weight=own, progress=progress)
            valid_loss, score = self.run_epoch(panel, valid)
            self._note(
                run, {"train_loss": train_loss, "valid_loss": valid_loss} | self._judge(panel, valid, score, trading)
            )
            if file is not None:
                file.save(run)
            if on_epoch is not None:
                on_epoch(len(history.epochs), history.epochs[-1])
        self._end(run)

    def _goes_on(self, history: History) -> bool:
        """Tell whether there is another epoch."""
        done = len(history.epochs)
        return done < self.epochs and done - history.best_epoch < self.patience

    def _note(self, run: Run, row: dict[str, float]) -> None:
        """Write an epoch into the history, as the first rank sees it; keep the state of a better one."""
        history, row = run.history, ranks.of_first(lambda: row)
        history.epochs.append(row)
        if row[self.metric] > history.best_value:  # an undefined ratio is not
            history.best_value, history.best_epoch = row[self.metric], len(history.epochs)
            run.best = copy.deepcopy(self.net.state_dict())

    def _end(self, run: Run) -> None:
        """Give the network its best state; ValueError where no epoch was any."""
        history = run.history
        if not history.best_epoch:
            raise ValueError(
                f"the metric {self.metric} is defined in none of {len(history.epochs)} epochs: each has the same "
                f"{RATIOS.get(self.metric, self.metric)} on all validation days; choose metric: ic or lengthen valid"
            )
        self.net.load_state_dict(run.best)

    def predict(self, panel: DayPanel, rows: Rows) -> npt.NDArray[np.float32]:
        """Score days: (len(rows), N), NaN where a stock is not present; of several heads their sum by weights.

        Where the loss is neutral, so is the score: the residual of a regression on the exposures over the day's present
        stocks, equal weights, whatever the weights of the loss, which may know returns.
        """
        return self._added(self.predict_heads(panel, rows))

    def _added(self, score: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Add the standardised scores of several heads; one is itself, bit for bit."""
        if len(self.horizons) < 2:
            return score if score.ndim == 2 else score[..., 0]
        return combine_heads(score, self._prior() if self.heads is None else self.heads.weights)

    @enough_memory(LESS)
    def predict_heads(self, panel: DayPanel, rows: Rows) -> npt.NDArray[np.float32]:
        """Score days by each head: (len(rows), N, H), NaN where a stock is not present."""
        self.net.to(self.device)
        if self.scaler is not None:
            self.scaler.to(self.device)
        score = np.full((len(rows), len(panel.stocks), max(1, len(self.horizons))), np.nan, dtype=np.float32)
        traded = np.isin(rows, panel.with_stocks(rows))
        if traded.any():
            with fixed_threads(self.deterministic, self.device):
                score[traded] = self._scores(panel, rows[traded]).reshape(-1, *score.shape[1:])
        return score

    def _scores(self, panel: DayPanel, rows: Rows) -> npt.NDArray[np.float32]:
        """Score days without asking for labels, liquidity or the loss."""
        self.net.eval()
        scores = _Scores(len(rows), panel, self.device, max(1, len(self.horizons)))
        with torch.no_grad():
            for i in range(0, len(rows), self.batch_days):
                batch = self._batch(panel, rows[i : i + self.batch_days]).to(self.device)
                self._in_parts(batch, partial(self._score, scores, i))
        return scores.numpy()

    def _score(self, scores: "_Scores", first: int, at: int, part: Batch) -> None:
        scores.add(first + at, part, self._forward(part))

    def _in_parts(self, batch: Batch, work: Callable[[int, Batch], T]) -> list[T]:
        """Do the work of a batch on the whole of it, or on as many days at a time as the memory suffices for.

        `work` gets a part's first place in the batch and the part; it begins anew, from place 0 on, with smaller parts
        where memory ends. Of a single day that is an error.
        """
        days = len(batch.days)
        while True:
            size = min(days, self._fitting or days)
            try:
                return [work(i, batch.cut(slice(i, i + size)) if size < days else batch) for i in range(0, days, size)]
            except (MemoryError, RuntimeError) as error:
                if size == 1 or not lacks_memory(error):
                    raise
            self._fitting = size // 2  # out of the handler, which holds what the work has allocated
            tell(
                f"the memory does not suffice for {size} days at a time: a batch goes on in parts of {self._fitting}, "
                f"whose numbers differ in rounding and dropout; batch_days: {self._fitting} would be steps of their own"
            )

    def run_epoch(
        self,
        panel: DayPanel,
        rows: Rows,
        optimiser: torch.optim.Optimizer | None = None,
        *,
        weight: npt.NDArray[np.float64] | None = None,
        progress: Progress | None = None,
    ) -> tuple[float, npt.NDArray[np.float32]]:
        """Pass once over the days in the given order; learn where an optimiser is given. Ranks share the days.

        `weight` (len(rows),): of each day's loss; None: 1.

        Returns: the mean (weighed) loss over valid days (NaN without one), of several heads the mean of theirs by
            `horizon_weights`, and the scores (len(rows), N), or (len(rows), N, H), of a pass that does not learn, NaN
            where absent.
        """
        one = _Pass(self, panel, rows, self._learnable(panel, rows), optimiser, weight)
        for step, own, batch in self._batches(panel, rows, progress):
            one.step(step, own, batch)
        return one.result()

    def _batches(self, panel: DayPanel, rows: Rows, progress: Progress | None) -> Iterator[tuple[slice, slice, Batch]]:
        """Gather the days in their order: of each step its places in `rows`, those of this rank, its batch.

        A rank that no day is left for has the step's first one at hand, with no place of its own.
        """
        days = self.batch_days * ranks.count()
        steps = [slice(i, min(i + days, len(rows))) for i in range(0, len(rows), days)]
        shares = [ranks.own_share(step.start, step.stop) for step in steps]
        pairs = zip(steps, shares, strict=True)
        batches: Iterator[Batch] = (
            self._batch(panel, rows[own] if own.start < own.stop else rows[step][:1]) for step, own in pairs
        )
        if progress is not None:
            batches = progress(batches, len(steps))
        for step, own, batch in zip(steps, shares, batches, strict=True):
            yield step, own, batch.to(self.device)

    def _learnable(self, panel: DayPanel, rows: Rows) -> npt.NDArray[np.bool_]:
        """Tell (len(rows), H) which days count for a head; asked once an epoch, so that no step waits for a GPU."""
        neutral, days = self.loss.neutral, torch.as_tensor(rows, device=panel.label.device)
        labels = [panel.label] if panel.labels is None else panel.labels.unbind(2)

        def valid(at: Tensor) -> Tensor:
            liquidity = None if panel.liquidity is None else panel.liquidity[at]
            known = (panel.present[at], liquidity, panel.exposures(neutral, at) if neutral else None)
            return torch.stack([self.loss.valid_days(label[at], *known) for label in labels], dim=1)

        return torch.cat([valid(at) for at in (days.split(LOADED_DAYS) if neutral else [days])]).cpu().numpy()

    def _batch(self, panel: DayPanel, rows: Rows) -> Batch:
        """Gather days in few different widths.

        A GPU plans a kernel anew for each shape. On a CPU freed memory is used again where sizes repeat; else it stays
        in pieces: 11 GB of them in half an epoch of the whole market.
        """
        narrow = max(1, min(CPU_WIDTH, len(panel.stocks) // 32))
        multiple = GPU_WIDTH if self.device.type == "cuda" else narrow
        return panel.batch(rows, step_len=self.step_len, multiple=multiple, exposures=self.loss.neutral)

    def _forward(self, batch: Batch) -> Tensor:
        """Score a batch that lies on the device: (B, N), or (B, N, H) of several heads, float32."""
        x = batch.x if self.scaler is None else self.scaler(batch.x)
        market = batch.market if getattr(self.net, "d_gate", 0) else None
        low = self.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low):
            output: Tensor = (self._compiled or self.net)(x, batch.present, market)
        return output.float()

    def _learn(self, optimiser: torch.optim.Optimizer) -> None:
        add_gradients(self.net.parameters())
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        optimiser.step()

    def _trading(self, panel: DayPanel, rows: Rows) -> dict[str, Any] | None:
        """Cut out what an account meets on the days, once for all epochs; None where the metric does not trade.

        Days before the first known fees have those of that day.
        """
        if not metric_needs_trading(self._chosen()):
            return None
        fees = fee_rates(np.maximum(panel.days[rows], FIRST_FEES))
        return market_of(panel, rows, buy_rate=fees["buy"].to_numpy(), sell_rate=fees["sell"].to_numpy())

    def _judge(
        self, panel: DayPanel, rows: Rows, score: npt.NDArray[np.float32], trading: dict[str, Any] | None = None
    ) -> dict[str, float]:
        """Compute the validation metrics of one epoch, the chosen one with its standard error over days.

        Those of several heads (D, N, H) are of their sum, with the label that judges; each head has its own besides.
        """
        at = torch.as_tensor(rows, device=panel.label.device)
        each, score = score, self._added(score)
        money = MONEY if panel.liquidity is not None else ()
        names = list(dict.fromkeys(["ic", "rank_ic", *money, metric_column(self._chosen())]))
        options = self.money | {"base": self.loss.base, "alpha": self.loss.alpha}
        if metric_needs_exposures(self._chosen()):
            options["exposures"] = panel.exposures(NEUTRAL, rows).cpu()
        grids = (panel.label, panel.liquidity, panel.buyable)
        inputs: list[Any] = [None if grid is None else grid[at].cpu() for grid in grids]
        daily = daily_metrics(score, *inputs, names=names, trading=trading, **options)
        row = {metric_name(name): average(daily, name)[0] for name in names}
        row[self.metric], row[f"{self.metric}_se"] = average(daily, self.metric)
        if panel.labels is not None and len(self.horizons) > 1:
            row |= head_metrics(each, panel.labels[at].cpu(), self.horizons)
        if not math.isfinite(row[self.metric]) and self.metric not in RATIOS:
            raise ValueError(f"the metric {self.metric} is {row[self.metric]} on the validation days: no label there?")
        return row

    def _usable(self, panel: DayPanel, train: Rows, valid: Rows) -> tuple[Rows, Rows, History]:
        train, valid = train[:: self.every_days], panel.with_stocks(valid)
        self._check_panel(panel, valid)
        good = self._learnable(panel, train).any(axis=1)
        if not good.any() or not len(valid):
            raise ValueError(
                f"{int(good.sum())} of {len(train)} training days can be learnt from (two or more labelled stocks with "
                f"different labels), {len(valid)} validation days have stocks: check segments, universe and label"
            )
        return train[good], valid, History(degenerate_days=int((~good).sum()))

    def _check_panel(self, panel: DayPanel, valid: Rows) -> None:
        """Raise ValueError where a panel, or its rows `valid`, lack what a training needs."""
        check_heads(self.horizon_weights, panel.horizons)
        panel.load(
            list(dict.fromkeys([*self.loss.neutral, *(NEUTRAL if metric_needs_exposures(self._chosen()) else ())]))
        )
        if self.loss.needs_liquidity and panel.liquidity is None:
            raise ValueError(
                "this loss needs liquidity: use DayDatasetH(liquidity=...) or the loss 'wpcc', 'ic', 'mse'"
            )
        if self.loss.needs_volatility and panel.volatility is None:
            raise ValueError("target 'volatility' needs trailing volatility: use DayDatasetH, or target 'raw', 'rank'")
        if metric_needs_liquidity(self._chosen()) and panel.liquidity is None:
            raise ValueError(f"the metric {self.metric!r} needs liquidity: use DayDatasetH, or metric: rank_ic")
        if self.scale == "robust" and panel.filled > 0:
            raise ValueError(
                f"scale: robust, but {panel.filled:.2%} of the feature values were missing and became 0, which it "
                "would take for data: fill them in the handler's infer_processors first, or use CSNormalise instead"
            )
        if self.step_len > len(panel.days):
            raise ValueError(f"step_len={self.step_len} is longer than the history of {len(panel.days)} days")
        if self.metric in RATIOS:
            at = torch.as_tensor(valid, device=panel.label.device)
            count, column = int(varied_days(panel.label[at], panel.present[at]).sum()), RATIOS[self.metric]
            if count < 2:
                raise ValueError(
                    f"the metric {self.metric!r} is a mean over days divided by their standard deviation: it needs 2 "
                    f"or more validation days with an {column} (two or more labelled stocks with different labels), "
                    f"there are {count}. Lengthen the segment valid, or choose metric: {column}"
                )


class _Pass:
    """One trainer's way over some days; `run_epoch` says of what, and what comes of it."""

    def __init__(
        self,
        trainer: Trainer,
        panel: DayPanel,
        rows: Rows,
        valid: npt.NDArray[np.bool_],
        optimiser: torch.optim.Optimizer | None = None,
        weight: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.trainer, self.valid, self.optimiser, self.weight = trainer, valid, optimiser, weight
        self.share = torch.as_tensor(trainer._prior(), device=trainer.device).float()
        self.total = torch.zeros(len(self.share), device=trainer.device)
        self.scores = None if optimiser else _Scores(len(rows), panel, trainer.device, len(self.share))
        self.nothing = np.empty((0, len(panel.stocks)), np.float32)
        trainer.net.train(optimiser is not None)

    def step(self, step: slice, own: slice, batch: Batch) -> None:
        """Pass over the days of a step that are this rank's; the batch lies on the device (see `Trainer._batches`)."""
        days = self.valid[step].sum(axis=0)
        with torch.set_grad_enabled(self.optimiser is not None):
            losses = self.trainer._in_parts(batch, lambda at, part: self._part(own, at, part, days))
        if self.optimiser is not None and days.any():
            self.trainer._learn(self.optimiser)
        for loss in losses:
            self.total = self.total + loss

    def _part(self, own: slice, at: int, part: Batch, days: npt.NDArray[np.int64]) -> Tensor:
        """Pass over a part of a batch, from its place `at` on; `days` (H,) count in the whole step for a head.

        Returns: the sum (H,) of the part's losses over the days that count; their gradient is added to the others'.
        """
        trainer, some = self.trainer, slice(own.start + at, min(own.start + at + len(part.days), own.stop))
        output = trainer._forward(part)
        weight = None if self.weight is None else torch.as_tensor(self.weight[some], device=trainer.device)
        loss, here = head_losses(trainer.loss, output, part, weight), self.valid[some].sum(axis=0)
        if self.optimiser is not None and days.any():
            if at == 0:
                self.optimiser.zero_grad(set_to_none=True)
            share = self.share
            if (here != days).any():
                share = share * torch.as_tensor(here / np.maximum(days, 1), device=trainer.device).float()
            (loss * share).sum().backward()
        if self.scores is not None and some.start < some.stop:
            self.scores.add(some.start, part, output)
        return loss.detach() * torch.from_numpy(here).to(trainer.device, non_blocking=True)

    def result(self) -> tuple[float, npt.NDArray[np.float32]]:
        """Mean loss and scores, as of `run_epoch`, of all ranks together."""
        ranks.add(self.total)
        if self.scores is None:
            self.trainer._take_first()
        else:
            self.scores.gather()
        count = self.valid.sum(axis=0)
        there = count > 0
        mean = math.nan
        if there.any():
            each = self.total.cpu().double().numpy()[there] / count[there]
            mean = float(np.average(each, weights=self.trainer._prior()[there]))
            if not math.isfinite(mean):
                raise FloatingPointError(
                    f"the loss became {mean}: lower lr ({self.trainer.lr}), or clean the features and labels"
                )
        return mean, self.nothing if self.scores is None else self.scores.numpy()


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add the gradients of all ranks, in one piece: each has weighed its days by how many count in the whole step.

    torch's DistributedDataParallel would average over ranks, whatever their days, and knows no step in parts.
    """
    if ranks.count() > 1:
        own = [each.grad for each in parameters if each.grad is not None]
        every = ranks.add(torch.cat([grad.flatten() for grad in own]))
        for grad, summed in zip(own, every.split([grad.numel() for grad in own]), strict=True):
            grad.copy_(summed.view_as(grad))


def day_weight(rows: Rows, halflife: float) -> npt.NDArray[np.float64]:
    """Weigh days by 0.5 ** (age / halflife), age in rows before the last: (len(rows),) with the mean 1.

    >>> day_weight(np.array([4, 5, 7]), 1.0).round(4).tolist()
    [0.2727, 0.5455, 2.1818]
    """
    weight = 0.5 ** ((rows.max() - rows) / halflife)
    return np.asarray(weight / weight.mean(), dtype=np.float64)


class _Scores:
    """Scores of a pass (days, N, H), gathered on the device, so that only their end waits for it."""

    def __init__(self, days: int, panel: DayPanel, device: torch.device, heads: int = 1) -> None:
        self.value = torch.full((days, len(panel.stocks), heads), torch.nan, device=device)
        self.strange = torch.zeros((), dtype=torch.bool, device=device)
        self.own = np.zeros(days, dtype=bool)  # scored by this rank

    def add(self, first: int, batch: Batch, output: Tensor) -> None:
        """Write the scores of the days from the place `first` on, off their exposures where the batch has some.

        A padded place is the column of an absent stock and stays NaN.
        """
        self.own[first : first + len(batch.days)] = True
        here, mask = self.value[first : first + len(batch.days)], batch.mask[..., None]
        output = output if output.dim() == 3 else output[..., None]
        if (loads := batch.exposures) is not None:
            heads = [project_off(head, loads, batch.mask, batch.mask) for head in output.unbind(2)]
            output = torch.stack(heads, dim=2)
        here.scatter_(1, batch.stock[..., None].expand_as(output), torch.where(mask, output, torch.nan))
        self.strange |= (mask & ~torch.isfinite(output)).any()

    def gather(self) -> None:
        """Take over the days that other ranks have scored."""
        if ranks.count() > 1:
            self.value[torch.from_numpy(~self.own).to(self.value.device)] = 0.0
            ranks.add(self.value)
            self.strange = ranks.add(self.strange.int()) > 0

    def numpy(self) -> npt.NDArray[np.float32]:
        """Return the scores (days, N, H), of one head (days, N), NaN where a stock is not present."""
        if bool(self.strange):
            raise FloatingPointError("the network returned a score that is not finite: lower lr or clean the features")
        return (self.value if self.value.shape[2] > 1 else self.value[..., 0]).cpu().numpy()
