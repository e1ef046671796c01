"""Time an epoch of one training: one process with all threads, against ranks that share the days and the threads.

    python -m benchmarks.bench_ranks [--stocks 1000] [--days 64] [--net master] [--ranks 2] [--threads 2] [--repeats 3]

Both take the same days a step (`--step-days`, of all ranks together). Each side is started anew in each round, the
order turns around; an epoch of learning and validating warms it up, the next `--epochs` count. Median seconds an epoch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from benchmarks.bench_step import machine, make_panel, table
from qlib_ext import ranks
from qlib_ext.nets import MASTER, MLP
from qlib_ext.training import Trainer, seeded


def worker(args: argparse.Namespace) -> None:
    """Train as one process or rank; the first one prints the seconds of an epoch."""
    torch.set_num_threads(args.threads // ranks.count())
    panel, days = make_panel(args, args.stocks, args.days), np.arange(args.steps - 1, args.steps - 1 + args.days)
    with seeded(0):
        mlp = MLP(args.features, (256, 128), dropout=0.3)
        net = mlp if args.net == "mlp" else MASTER(args.features, args.d_model, dropout=0.3)
    options = {"metric": "ic", "epochs": 1 + args.epochs, "patience": 1 + args.epochs, "device": "cpu"}
    options |= {"step_len": args.steps if args.net == "master" else 1, "batch_days": args.step_days // ranks.count()}
    ends: list[float] = []
    held = max(1, args.days // 5)
    Trainer(net, "wpcc", **options).fit(
        panel, days[:-held], days[-held:], on_epoch=lambda epoch, row: ends.append(time.perf_counter())
    )
    if ranks.is_first():
        print(f"seconds {(ends[-1] - ends[0]) / args.epochs}")


def seconds(arguments: list[str], count: int, threads: int) -> float:
    """Start one process, or so many ranks, and read what an epoch took."""
    start = ["-m", "torch.distributed.run", "--nproc-per-node", str(count)] if count > 1 else []
    words = [sys.executable, *start, "-m", "benchmarks.bench_ranks", *arguments, "--worker"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads // count)}
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return float(next(line for line in done.stdout.splitlines() if line.startswith("seconds ")).split()[1])


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in {"stocks": 1000, "days": 64, "features": 158, "steps": 8, "d-model": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in {"ranks": 2, "threads": 2, "step-days": 8, "epochs": 2, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--net", choices=["mlp", "master"], default="master")
    parser.add_argument("--worker", action="store_true")
    args = parser.parse_args(arguments)
    args.device, args.present = "cpu", 0.97
    if args.worker:
        worker(args)
        return
    taken: dict[int, list[float]] = {1: [], args.ranks: []}
    for i in range(args.repeats):
        for count in list(taken)[:: -1 if i % 2 else 1]:
            taken[count].append(seconds(arguments, count, args.threads))
    median = {count: statistics.median(every) for count, every in taken.items()}
    rows = [
        [f"{count} x {args.threads // count}", ", ".join(f"{each:.2f}" for each in taken[count]), f"{own:.2f}"]
        for count, own in median.items()
    ]
    print(f"{machine('cpu')}\n{args.net}, {args.stocks} stocks, {args.days} days, {args.step_days} days a step.\n")
    print(table(["processes x threads", "rounds, s", "an epoch, s"], [[*row] for row in rows]))
    print(f"\nSpeed of the ranks against one process: {median[1] / median[args.ranks]:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
