"""Time an epoch of several seeds of an MLP: in one pass over the days, one by one, and one seed alone.

    python -m benchmarks.bench_seeds [--stocks 4000] [--days 40] [--seeds 10] [--hidden 256 128]

Medians of `--repeats` rounds in this process, whose order turns around; CPU seconds beside them, which other work on
the cores changes less. A tenth of the days validate. Parts of one seed's epoch: gathering the batches, the loss without
the network, the validation metrics; the rest is the network, forward and back, and Adam.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.bench_step import machine, make_panel, table
from qlib_ext.losses import DayLoss
from qlib_ext.nets import MLP
from qlib_ext.panel import DayPanel
from qlib_ext.training import PRECISIONS, Trainer, fit_together, seeded

Times = dict[str, list[tuple[float, float]]]


def trainers(args: argparse.Namespace, precision: str, count: int) -> list[Trainer]:
    """Build fresh trainings of one epoch that share the order of days."""
    made = []
    for seed in range(count):
        with seeded(seed):
            net = MLP(args.features, args.hidden, dropout=args.dropout)
        loss = DayLoss("wpcc", target="rank")
        options = {"metric": "rank_ic", "epochs": 1, "batch_days": 4, "device": "cpu", "precision": precision}
        made.append(Trainer(net, loss, seed=seed, order_seed=0, **options))
    return made


def parts(args: argparse.Namespace, panel: DayPanel, precision: str) -> dict[str, Callable[[], object]]:
    """Name the calls that are timed."""
    days = np.arange(args.days)
    train, valid = days[: -max(1, args.days // 10)], days[-max(1, args.days // 10) :]
    (one,) = trainers(args, precision, 1)
    batch, score = panel.batch(train[:4]), np.random.default_rng(0).normal(size=(len(valid), args.stocks))

    def together() -> None:
        many = trainers(args, precision, args.seeds)
        fit_together(many, panel, train, valid, on_epochs=[lambda epoch, row: None] * args.seeds)

    def one_by_one() -> None:
        for trainer in trainers(args, precision, args.seeds):
            trainer.fit(panel, train, valid)

    def loss() -> None:
        for _ in range(-(-len(train) // 4)):
            free = torch.randn_like(batch.label, requires_grad=True)
            one.loss(free, batch.label, batch.mask, batch.liquidity, batch.volatility).backward()

    return {
        "one seed": lambda: trainers(args, precision, 1)[0].fit(panel, train, valid),
        f"{args.seeds} seeds, one pass": together,
        f"{args.seeds} seeds, one by one": one_by_one,
        "of one seed: gather": lambda: [panel.batch(days[i : i + 4]) for i in range(0, args.days, 4)],
        "of one seed: loss": loss,
        "of one seed: metrics": lambda: one._judge(panel, valid, score.astype(np.float32)),
    }


def measure(calls: dict[str, Callable[[], object]], repeats: int) -> Times:
    """Wall and CPU seconds of each call, a warm-up first."""
    taken: Times = {name: [] for name in calls}
    for call in calls.values():
        call()
    for i in range(repeats):
        for name in list(calls)[:: -1 if i % 2 else 1]:
            start = time.perf_counter(), time.process_time()
            calls[name]()
            taken[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return taken


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stocks", type=int, default=4000)
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--features", type=int, default=158)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS[1:], default=list(PRECISIONS[1:]))
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.device, args.steps, args.present = "cpu", 1, 0.97
    panel, rows = make_panel(args, args.stocks, args.days), []
    for precision in args.precision:
        taken = measure(parts(args, panel, precision), args.repeats)
        wall, cpu = (
            {name: statistics.median(pair[k] for pair in times) for name, times in taken.items()} for k in (0, 1)
        )
        rows += [
            [name, precision, f"{wall[name]:.2f}", f"{cpu[name]:.2f}", f"{cpu[name] / cpu['one seed']:.2f}"]
            for name in taken
        ]
    print(f"{machine('cpu')}\n{args.stocks} stocks, {args.days} days, hidden {args.hidden}, dropout {args.dropout}.\n")
    print(table([f"an epoch of {args.days} days", "precision", "s", "CPU s", "of one seed's CPU s"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
