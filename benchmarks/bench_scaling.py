"""Measure how a training step's cost grows with stocks N, steps T and width D: log-log picture and exponents.

    python -m benchmarks.bench_scaling [--write docs/scaling.png] [--profile]

A step is `bench_step`'s: forward, LIQ-WPCC, backward, clipping, Adam. Each exponent is the slope of log(milliseconds)
over log(size), least squares over the points shown. The last table has an epoch of the whole market with induced
attention among the stocks against full attention, by steps of four days in turn, and what a step takes beside the panel
in a process of its own. `--profile` adds where the time of a step goes, by kind of work.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import bench_step
from qlib_ext.training import pick_precision

PRECISION = pick_precision("auto", torch.device("cpu"))
SWEEPS = {  # name: (what varies, its sizes, the rest)
    "stocks N (T 8, D 64)": ("stocks", (250, 500, 1000, 2000, 4000), {"steps": 8, "d_model": 64}),
    "stocks N, induced (T 8, D 64)": (
        "stocks",
        (1250, 2500, 5000, 10_000, 20_000),
        {"steps": 8, "d_model": 64, "inter": "induced"},
    ),
    "steps T (N 1000, D 64)": ("steps", (2, 4, 8, 16, 32), {"stocks": 1000, "d_model": 64}),
    "width D (N 1000, T 8)": ("d_model", (32, 64, 128, 256), {"stocks": 1000, "steps": 8}),
}
MARKET, EPOCH = 4_700, 484  # stocks a day and days of two years of the whole market
WHOLE = {"steps": 8, "d_model": 64, "present": 0.97, "days_per_step": 4}
PROFILED = {  # column: sizes
    "full, D 256, N 300": {"stocks": 300},
    "full, D 256, N 5000": {"stocks": 5000},
    "induced, D 64, N 4700": {"stocks": MARKET, "d_model": 64, "inter": "induced"},
}
KINDS = {  # kind of work: beginnings of the operators' names
    "attention (products inside)": ("aten::_scaled_dot_product", "_Blocks", "aten::bmm", "aten::_softmax"),
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::linear", "aten::baddbmm"),
    "norms": ("aten::native_layer_norm",),
    "optimiser and clipping": ("aten::_fused_adam", "aten::_foreach", "aten::linalg_vector_norm"),
    "random numbers": ("aten::random", "aten::bernoulli"),
    "copies": ("aten::copy_", "aten::index", "aten::clone", "aten::cat"),
}


def step(args: argparse.Namespace, sizes: dict[str, Any]) -> bench_step.Run:
    """One training step of our MASTER at these sizes."""
    made = argparse.Namespace(**(vars(args) | {name: size for name, size in sizes.items() if name != "stocks"}))
    return bench_step.build(made, bench_step.make_panel(made, sizes["stocks"], 1), f"ours {PRECISION}")


def milliseconds(run: bench_step.Run, args: argparse.Namespace) -> float:
    """Median of some runs after one that is not counted."""
    run()
    return 1e3 * float(np.median([bench_step.seconds(run, args.device) for _ in range(args.repeats)]))


def against_full(args: argparse.Namespace, stocks: int) -> str:
    """Table of an epoch of the whole market with both kinds of attention among the stocks, steps in turn."""
    made = {kind: argparse.Namespace(**(vars(args) | WHOLE | {"inter": kind})) for kind in ("full", "induced")}
    panel, name = bench_step.make_panel(made["full"], stocks, WHOLE["days_per_step"]), f"ours {PRECISION}"
    taken = bench_step.median_times({kind: bench_step.build(made[kind], panel, name) for kind in made}, args)
    rows = []
    for kind, value in taken.items():
        memory = bench_step.peak_memory(made[kind], panel, stocks, name) / 2**30
        epoch = value * EPOCH / WHOLE["days_per_step"]
        rows.append([kind, f"{epoch:.0f}", f"{taken['full'] / value:.1f}", f"{memory:.2f}"])
    title = f"{stocks:,} stocks, {EPOCH} days, T 8, D 64, {PRECISION}"
    return bench_step.table([title, "epoch, s", "times faster", "GiB beside the panel"], rows)


def exponent(sizes: np.ndarray, taken: np.ndarray) -> float:
    """Slope of log(taken) over log(sizes)."""
    return float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])


def draw(found: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Draw each sweep on logarithmic axes, with its exponent."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, (sizes, taken)) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        slope = exponent(sizes, taken)
        line = taken.mean() * (sizes / np.exp(np.log(sizes).mean())) ** slope
        axes.loglog(sizes, line * np.exp(np.mean(np.log(taken / line))), "--", color="#999999")
        axes.loglog(sizes, taken, "o", color="#4477aa")
        axes.set(title=f"{name}\nexponent {slope:.2f}", xlabel=name.split(" (")[0])
        axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axes.tick_params(axis="x", which="minor", labelbottom=False)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("a training step of one day, ms")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def shares(run: bench_step.Run) -> dict[str, float]:
    """Share of a step's operator time by kind of work."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        run()
    taken: dict[str, float] = {}
    for event in recorded.events():
        names, outer = [event.name], event.cpu_parent
        while outer is not None:  # what runs inside of attention by blocks is attention
            names, outer = [outer.name, *names] if outer.name.startswith("_Blocks") else names, outer.cpu_parent
        kind = next((kind for kind, starts in KINDS.items() if names[0].startswith(starts)), "elementwise and the rest")
        taken[kind] = taken.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(taken.values())
    return {kind: value / total for kind, value in sorted(taken.items(), key=lambda item: -item[1])}


def main() -> None:
    """Print the tables, draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path, default=None, metavar="PNG")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--divide", type=int, default=1, help="divide the stocks by this, for a trial")
    given = parser.parse_args()
    args = bench_step.parse(["--repeats", str(given.repeats)])
    found = {}
    print(f"| a training step, {PRECISION} | sizes | ms | exponent |\n| --- | --- | --- | ---: |")
    for name, (varied, sizes, rest) in SWEEPS.items():
        rest = rest | ({"stocks": rest["stocks"] // given.divide} if "stocks" in rest else {})
        size = np.array(sizes) // (given.divide if varied == "stocks" else 1)
        taken = np.array([milliseconds(step(args, rest | {varied: int(value)}), args) for value in size])
        found[name] = (size, taken)
        cells = ", ".join(map(str, size)), ", ".join(f"{value:.0f}" for value in taken)
        print(f"| {name} | {cells[0]} | {cells[1]} | {exponent(size, taken):.2f} |", flush=True)
    print("\n" + against_full(args, MARKET // given.divide), flush=True)
    if given.write:
        draw(found, given.write)
    if given.profile:
        torch.manual_seed(0)
        columns = [shares(step(args, at | {"stocks": at["stocks"] // given.divide})) for at in PROFILED.values()]
        kinds = dict.fromkeys(kind for column in columns for kind in column)
        rows = [[kind, *(f"{column.get(kind, 0.0):.0%}" for column in columns)] for kind in kinds]
        print("\n" + bench_step.table(["where a step's time goes (T 8)", *PROFILED], rows))


if __name__ == "__main__":
    main()
