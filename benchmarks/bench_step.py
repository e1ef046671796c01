"""Measure our MASTER's training step and epoch against the authors' structure (`reference_master.py`).

    python -m benchmarks.bench_step --device cpu --stocks 300 1000 2500 5000 --write FILE
    python -m benchmarks.bench_step --device cuda --what step epoch --precision float32 bfloat16

A step is forward, loss, backward, clipping and Adam. Ours goes through `Trainer.run_epoch` and gathers its
batch from the panel; the reference finds its windows (N, T, F) ready on the device, one day a step. Both see
the same synthetic days. Times are medians of runs in alternating order after a warm-up; memory is what a run
takes beyond what lay there before it (on a CPU each variant in its own process, its libraries warm).
"""

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.reference_master import ReferenceMASTER, reference_step
from qlib_ext.losses import DayLoss
from qlib_ext.nets import MASTER
from qlib_ext.panel import DayPanel
from qlib_ext.training import Trainer

MIB = 2**20
CHILD = "--memory-of"
Run = Callable[[], object]  # one timed call; it covers `days_per_step` days (the reference: as many steps)


# --- what is measured


def make_panel(args: argparse.Namespace, stocks: int, days: int) -> DayPanel:
    """Invent a panel of `days` days beyond the first window, made on the device."""
    g = torch.Generator(args.device).manual_seed(0)
    size, at = (days + args.steps - 1, stocks), {"generator": g, "device": args.device}
    present = torch.rand(size, **at) < args.present
    x = torch.randn(*size, args.features, **at)
    for day, here in zip(x, present, strict=True):  # day by day: no second copy of the panel
        day.mul_(here[:, None])
    return DayPanel(
        days=np.arange(size[0]).astype("datetime64[D]").astype("datetime64[ns]"),
        stocks=np.array([f"S{i:04d}" for i in range(stocks)], dtype=object),
        features=[f"f{i}" for i in range(args.features)],
        x=x,
        present=present,
        label=0.02 * torch.randn(size, **at),
        liquidity=torch.exp(17.0 + 1.5 * torch.randn(size, **at)),
    )


def our_trainer(args: argparse.Namespace, attention_dropout: float, precision: str) -> Trainer:
    """Build our side: MASTER under LIQ-WPCC."""
    torch.manual_seed(0)
    options = {"attention_dropout": attention_dropout, "inter": args.inter}
    net = MASTER(args.features, args.d_model, dropout=0.5, **options).to(args.device)
    return Trainer(
        torch.compile(net) if args.compile else net,
        DayLoss("liq_wpcc"),
        step_len=args.steps,
        batch_days=args.days_per_step,
        device=args.device,
        precision=precision,
    )


def our_run(args: argparse.Namespace, panel: DayPanel, variant: str) -> Callable[[np.ndarray], object]:
    """Return a function that learns from the given days; variant is "ours float32", "exact bfloat16", ..."""
    kind, precision = variant.split()
    trainer = our_trainer(args, 0.5 if kind == "exact" else 0.0, precision)
    optimiser = torch.optim.Adam(trainer.net.parameters(), lr=1e-4, fused=True)
    return lambda rows: trainer.run_epoch(panel, rows, optimiser)


def reference_run(args: argparse.Namespace, panel: DayPanel) -> Callable[[np.ndarray], object]:
    """Return a function that learns from the given days, one a step; their windows are built once, untimed."""
    torch.manual_seed(0)
    net = ReferenceMASTER(args.features, args.d_model, dropout=0.5).to(args.device).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4)
    windows: dict[int, tuple[Tensor, Tensor]] = {}

    def learn(rows: np.ndarray) -> None:
        for row in rows:
            reference_step(net, optimiser, *windows[int(row)])

    for row in sample_rows(args):
        here = panel.present[row]
        x = panel.x[row - args.steps + 1 : row + 1, here].transpose(0, 1).contiguous()
        windows[int(row)] = (x, panel.label[row, here])
    return learn


def sample_rows(args: argparse.Namespace) -> np.ndarray:
    """Rows of the days that a timed call learns from, the first with a whole window."""
    return args.steps - 1 + np.arange(args.days_per_step * args.calls)


def variants(args: argparse.Namespace) -> list[str]:
    """Name what is compared: ours has no dropout of attention weights, exact has 0.5 as the reference."""
    names = ["reference float32", *(f"ours {precision}" for precision in args.precision), f"exact {args.precision[0]}"]
    return [name for name in names if name.split()[0] not in args.skip]


def build(args: argparse.Namespace, panel: DayPanel, variant: str) -> Run:
    """Return the call that is timed."""
    make = reference_run(args, panel) if variant.startswith("reference") else our_run(args, panel, variant)
    rows = sample_rows(args)
    return lambda: make(rows)


# --- time and memory


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run: Run, device: str) -> float:
    """Time one call."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def median_times(runs: dict[str, Run], args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each run: a warm-up each, then rounds whose order turns around every time."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for i in range(args.repeats):
        for name in list(runs)[:: -1 if i % 2 else 1]:
            taken[name].append(seconds(runs[name], args.device))
    return {name: statistics.median(values) for name, values in taken.items()}


def resident(field: str) -> int:
    """Bytes of this process from Linux: VmRSS now, VmHWM at its highest (ru_maxrss may hold the parent's)."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(field))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory(args: argparse.Namespace, panel: DayPanel, stocks: int, variant: str) -> int:
    """Bytes that a run takes at its peak beyond what lay there before it."""
    if args.device == "cuda":
        run = build(args, panel, variant)
        run()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    task = json.dumps(vars(args) | {"stocks": [stocks], "variant": variant, "calls": 1, "write": None})
    command = [sys.executable, "-m", "benchmarks.bench_step", CHILD, task]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{variant} at {stocks} stocks ended with {done.returncode}: {done.stderr[-2000:]}")
    return int(done.stdout)


def child(task: str) -> int:
    """Peak resident memory of one run in this fresh process, after a tiny run has loaded the libraries."""
    args = argparse.Namespace(**json.loads(task))
    if args.threads:
        torch.set_num_threads(args.threads)
    build(args, make_panel(args, 16, args.days_per_step), args.variant)()
    run = build(args, make_panel(args, args.stocks[0], args.days_per_step), args.variant)
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


# --- arithmetic


def step_flops(tokens: int, stocks: int, steps: int, features: int, d_model: int) -> int:
    """Count a day's training FLOPs: 3 times the forward's matrix products, tokens = stocks * steps."""
    linear = 2 * tokens * d_model * (features + 2 * 3 * d_model + 2 * 2 * d_model)
    attention = 4 * tokens * d_model * (steps + stocks)
    readout = stocks * (4 * d_model**2 + 4 * steps * d_model + 2 * d_model)
    return 3 * (linear + attention + readout)


def matrix_peak(device: str, precision: str, size: int = 2048, repeats: int = 7) -> float:
    """Best FLOP/s of a square matrix product."""
    dtype = getattr(torch, precision)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    inner = 50 if device == "cuda" else 1

    def products() -> None:
        for _ in range(inner):
            a @ b

    products()
    return inner * 2 * size**3 / min(seconds(products, device) for _ in range(repeats))


def matrix_peaks(args: argparse.Namespace) -> dict[str, float]:
    """Measure the peak of each precision that is asked for."""
    names = dict.fromkeys(["float32", *args.precision])
    return {name: matrix_peak(args.device, name, args.matrix) for name in names}


# --- tables


def table(header: list[str], rows: list[list[str]]) -> str:
    """Write markdown."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def step_table(args: argparse.Namespace, peaks: dict[str, float]) -> str:
    """Compare a step, in time and memory, at every number of stocks."""
    rows = []
    days = args.days_per_step * args.calls
    for stocks in args.stocks:
        panel = make_panel(args, stocks, max(days, args.panel_days))
        present = round(stocks * args.present)
        flops = step_flops(present * args.steps, present, args.steps, args.features, args.d_model)
        memory = {} if args.no_memory else {name: peak_memory(args, panel, stocks, name) for name in variants(args)}
        taken = median_times({name: build(args, panel, name) for name in variants(args)}, args)
        base = next(iter(taken))
        for name, value in taken.items():
            share = flops * days / value / peaks[name.split()[1]]
            row = [str(stocks), name, f"{1e3 * value / days:.1f}", f"{taken[base] / value:.2f}", f"{share:.0%}"]
            if memory:
                row += [f"{memory[name] / MIB:.0f}", f"{memory[base] / memory[name]:.2f}"]
            rows.append(row)
    header = ["stocks", "variant", "ms a day", "times faster", "of matrix peak"]
    return table(header if args.no_memory else [*header, "peak MiB", "times smaller"], rows)


def epoch_table(args: argparse.Namespace, peaks: dict[str, float]) -> str:
    """Time a whole training epoch through `Trainer.run_epoch`; the reference from a sample of its days."""
    rows = []
    for stocks in args.stocks:
        panel = make_panel(args, stocks, max(args.epoch_days, args.days_per_step * args.calls))
        epoch = args.steps - 1 + np.arange(args.epoch_days)
        present = round(stocks * args.present)
        flops = step_flops(present * args.steps, present, args.steps, args.features, args.d_model) * len(epoch)
        taken, highest = {}, {}
        for name in variants(args):
            reference = name.startswith("reference")
            learn = reference_run(args, panel) if reference else our_run(args, panel, name)
            at = sample_rows(args) if reference else epoch
            learn(sample_rows(args) if reference or args.device == "cpu" else at)  # on a GPU every shape is met once
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken[name] = seconds(lambda learn=learn, at=at: learn(at), args.device) * len(epoch) / len(at)
            highest[name] = torch.cuda.max_memory_allocated() if args.device == "cuda" else resident("VmHWM")
            del learn
        base = next(iter(taken))
        for name, value in taken.items():
            sampled = f"{value:.2f} (scaled from {len(sample_rows(args))} days)"
            share = f"{flops / value / peaks[name.split()[1]]:.0%}"
            text = sampled if name.startswith("reference") else f"{value:.2f}"
            rows.append([str(stocks), name, text, f"{taken[base] / value:.2f}", share, f"{highest[name] / MIB:.0f}"])
    memory = "peak MiB, panel included" if args.device == "cuda" else "highest MiB of the process so far"
    return table(["stocks", "variant", "epoch seconds", "times faster", "of matrix peak", memory], rows)


def machine(device: str) -> str:
    """Say when and on what this runs, and with which versions."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    cpu = models[0].split(":")[1].strip() if models else platform.processor()
    what = torch.cuda.get_device_name() if device == "cuda" else f"{cpu}, {torch.get_num_threads()} threads"
    versions = f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    load = f"; load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC; {what}{load}; {versions}."


def terms(args: argparse.Namespace, peaks: dict[str, float]) -> str:
    """Say what is measured against which peak."""
    speed = ", ".join(f"{name} {value / 1e9:,.0f} GFLOP/s" for name, value in peaks.items())
    return (
        f"A {args.matrix}^3 matrix product reaches: {speed}"
        f"{' (TF32 allowed)' if args.tf32 else ''}. T={args.steps}, F={args.features}, D={args.d_model}, "
        f"{args.present:.0%} present, {args.days_per_step} days a step (reference: 1), {args.repeats} repeats"
        f"{', torch.compile' if args.compile else ''}."
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=("step", "epoch"), default=["step"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--stocks", type=int, nargs="+", default=[300, 1000, 2500, 5000])
    parser.add_argument("--steps", type=int, default=8, help="T, days of a window")
    parser.add_argument("--features", type=int, default=158, help="F")
    parser.add_argument("--d-model", type=int, default=256, help="D")
    parser.add_argument("--inter", choices=("full", "induced"), default="full", help="our attention among the stocks")
    parser.add_argument("--days-per-step", type=int, default=1, help="days of our step; the reference takes one")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each variant")
    parser.add_argument("--calls", type=int, default=None, help="our steps a timed call; default 1, on CUDA 4")
    parser.add_argument("--present", type=float, default=1.0, help="share of stocks present on a day")
    parser.add_argument("--panel-days", type=int, default=24)
    parser.add_argument("--epoch-days", type=int, default=485)
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--skip", nargs="*", choices=("reference", "ours", "exact"), default=[])
    parser.add_argument("--compile", action="store_true", help="torch.compile our network")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 products, in the reference too")
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--matrix", type=int, default=2048, help="size of the product that sets the peak")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; 1 where other work shares the cores")
    parser.add_argument("--write", type=Path, default=None, metavar="FILE")
    args = parser.parse_args(arguments)
    args.calls = args.calls or (4 if args.device == "cuda" else 1)
    return args


def main(arguments: list[str]) -> None:
    """Measure, print, and write where asked to."""
    if arguments[:1] == [CHILD]:
        print(child(arguments[1]))
        return
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.tf32:
        torch.set_float32_matmul_precision("high")
    peaks = matrix_peaks(args)
    parts = [f"{machine(args.device)}\n{terms(args, peaks)}"]
    if "step" in args.what:
        parts += ["A training step", step_table(args, peaks)]
    if "epoch" in args.what:
        parts += [f"A training epoch of {args.epoch_days} days", epoch_table(args, peaks)]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if args.write is not None:
        args.write.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
