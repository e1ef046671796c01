"""Time folds x seeds on Ray against plain processes, and weigh what workers hold of the panel that they share.

    python -m benchmarks.bench_ray [--stocks 300] [--days 700] [--splits 5] [--seeds 3] [--epochs 6] [--repeats 3]

Random days of the embedded market's size, MASTER members; both engines with the same number of workers, in turns, each
from its start to the last member: what starting costs is in it, and is timed by itself too, with jobs that only import
what members need. Own memory of a worker (USS) is measured with a panel of `--panel` MiB, before and after it was read.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray
import torch

from benchmarks.bench_step import machine, make_panel, table
from qlib_ext.engine import Processes, Ray
from qlib_ext.model import FoldEnsemble
from qlib_ext.panel import DayPanel

MASTER = {"d_model": 32, "dropout": 0.1, "loss": "ic", "metric": "ic", "batch_days": 8, "device": "cpu"}


def train(args: argparse.Namespace, panel: DayPanel, engine: str) -> float:
    """Train all members; seconds."""
    member = {"class": "MASTERModel", "kwargs": MASTER | {"epochs": args.epochs, "patience": args.epochs}}
    model = FoldEnsemble(
        model=member, n_splits=args.splits, seeds=range(args.seeds), processes=args.workers, engine=engine
    )
    start = time.perf_counter()
    folds = model.folds(panel, {"train": (panel.days[0], panel.days[-1])}, args.steps, 2)
    model._fit_folds(panel, args.steps, 2, folds, torch.arange(len(panel.days)).numpy())
    return time.perf_counter() - start


def nothing(shared: Any, job: int) -> int:
    """Import what members need."""
    import qlib_ext.model  # noqa: F401

    return job


def started(args: argparse.Namespace) -> list[list[str]]:
    """Time each engine from its start to its end around jobs that do nothing."""
    taken: dict[str, list[float]] = {"process": [], "ray": []}
    for _ in range(args.repeats):
        for name, engine in zip(
            taken, (Processes(args.workers), Ray(address="local", workers=args.workers)), strict=True
        ):
            start = time.perf_counter()
            list(engine.run(nothing, [(None, n) for n in range(args.workers)]))
            taken[name].append(time.perf_counter() - start)
    return [[name, ", ".join(f"{each:.1f}" for each in every)] for name, every in taken.items()]


def memory(panel: torch.Tensor, read: bool) -> tuple[int, int, float]:
    """Pid of the worker, its own bytes, and the sum of a panel where it is read."""
    total = float(panel.sum()) if read else 0.0
    time.sleep(0.5)
    return os.getpid(), psutil.Process().memory_full_info().uss, total


def weigh(args: argparse.Namespace) -> list[list[str]]:
    """Own memory of the workers, without the panel and once all have read it."""
    panel, rows = torch.ones(args.panel * 2**18), []
    empty = torch.ones(1)
    with_ray = {"address": "local", "num_cpus": args.workers, "include_dashboard": False, "log_to_driver": False}
    ray.init(**with_ray, object_store_memory=int(1.3 * panel.nbytes) + 2**28)  # type: ignore[arg-type]
    for name, shared, read in (("without it", empty, False), ("all have read it", panel, True)):
        found = [what for _, what in Ray().run(memory, [(shared, read)] * 4 * args.workers)]
        own: dict[int, int] = {pid: uss for pid, uss, _ in found}
        store = ray.cluster_resources()["object_store_memory"] - ray.available_resources().get("object_store_memory", 0)
        rows.append([name, str(len(own)), f"{max(own.values()) / 2**20:.0f}", f"{store / 2**20:.0f}"])
    ray.shutdown()
    return rows


def main(arguments: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in {"stocks": 300, "days": 700, "features": 158, "steps": 8, "splits": 5, "seeds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in {"epochs": 6, "repeats": 3, "workers": 2, "panel": 1024}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args: Any = parser.parse_args(arguments)
    args.device, args.present = "cpu", 0.97
    os.environ["RAY_worker_niceness"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    torch.set_num_threads(args.workers)
    print(f"{machine('cpu')}\n{args.workers} workers; MASTER {MASTER}, {args.splits} folds x {args.seeds} seeds.\n")
    panel = make_panel(args, args.stocks, args.days)
    taken: dict[str, list[float]] = {"process": [], "ray": []}
    for turn in range(args.repeats):
        for engine in ("process", "ray")[:: -1 if turn % 2 else 1]:
            taken[engine].append(train(args, panel, engine))
    ratios = [there / here for here, there in zip(taken["process"], taken["ray"], strict=True)]
    rows = [
        [name, f"{statistics.median(each):.1f}", f"{min(each):.1f} to {max(each):.1f}"] for name, each in taken.items()
    ]
    print(table(["engine", "s, median", "range"], rows))
    print(f"\nray / process: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})\n")
    print(table(["engine", "start and end alone, s, by round"], started(args)) + "\n")
    print(table([f"panel of {args.panel} MiB", "workers", "own memory of one, MiB", "object store, MiB"], weigh(args)))


if __name__ == "__main__":
    main(sys.argv[1:])
