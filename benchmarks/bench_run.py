"""Time a workflow by phase, with the memory of each: as it is, and as it would be with qlib's and the authors' parts.

    python -m benchmarks.bench_run [workflows/master_liq.yaml] [--epochs 3] [--what plain ours] [--keep FOLDER]

`ours` is the workflow; `plain` takes qlib's Alpha158 with two processes, its processors ProcessInf, CSZScoreNorm and
Fillna, and the authors' structure in float32 (`reference_master.py`) in the places of FastAlpha158, CSNormalise and
MASTER; everything else is the same. Each runs `--epochs` epochs in a fresh process and an empty folder (or FOLDER,
where the run and its report then stay), kernels compiled and the embedded market written before. A phase has the time
that no inner phase has; its memory is the highest resident set of the process while it ran, worker processes not
counted. Data and dates as for any workflow (QLIB_EXT_PROVIDER_URI, ...).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bench_step import resident, table
from benchmarks.reference_master import ReferenceMASTER

ROOT = Path(__file__).resolve().parents[1]
GIB, TICK = 2**30, 0.02  # TICK: seconds between two looks at the memory
OTHER = "start, saving, the rest"
PHASES = {  # what is timed: the phase it counts as
    "qlib_ext.handler:FastAlphaLoader.load": "factors",
    "qlib_ext.handler:FastAlphaLoader.load_rows": "factors",
    "qlib.data.dataset.loader:QlibDataLoader.load": "factors",
    "qlib.data.dataset.handler:DataHandlerLP.process_data": "cleaning",
    "qlib_ext.processor:CSNormalise.in_place": "cleaning",
    "qlib_ext.data:DayDatasetH._build": "panel",
    "qlib_ext.training:Trainer.fit": "training",
    "qlib_ext.training:Trainer.predict": "prediction",
    "qlib.workflow.record_temp:SigAnaRecord.generate": "signal analysis",
    "qlib_ext.record:ForecastRecord.generate": "forecast",
    "qlib_ext.record:PortAnaRecord.generate": "backtest and waterfall",
    "qlib_ext.record:LiquidityRecord.generate": "judge",
    "qlib_ext.report_record:ReportRecord.generate": "report",
}
QLIBS_PROCESSORS = [
    {"class": "ProcessInf", "kwargs": {}},
    {"class": "CSZScoreNorm", "kwargs": {"fields_group": "feature"}},
    {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
]


class Phases:
    """Seconds and highest memory of named phases, which may stand in each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, int] = {}
        self.open, self.since, self.ended = [OTHER], time.perf_counter(), threading.Event()
        self.watch = threading.Thread(target=self._watch, daemon=True)
        self.watch.start()

    def timed(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """Return the function, counted as the phase."""

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self.open.append(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self.open.pop()

        return counted

    def result(self) -> dict[str, tuple[float, int]]:
        """End, and give phase -> (seconds, bytes) in the order of their first end."""
        self._turn()
        self.ended.set()
        self.watch.join()
        return {name: (seconds, self.peak.get(name, 0)) for name, seconds in self.seconds.items()}

    def _turn(self) -> None:
        """Count the time since the last turn, and the memory now, to the innermost phase."""
        now, name = time.perf_counter(), self.open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
        self.since = now
        self._look()

    def _look(self) -> None:
        name = self.open[-1]
        self.peak[name] = max(self.peak.get(name, 0), resident("VmRSS"))

    def _watch(self) -> None:
        while not self.ended.wait(TICK):
            self._look()


class PlainMASTER(nn.Module):
    """The authors' structure behind our networks' call: day by day, the day's stocks only, absent steps as zeros."""

    d_gate = 0

    def __init__(
        self, d_feat: int, d_model: int, t_heads: int, s_heads: int, dropout: float, *_: object, **__: object
    ) -> None:
        super().__init__()
        self.net = ReferenceMASTER(d_feat, d_model, t_heads, s_heads, dropout)

    def forward(self, x: Tensor, present: Tensor, market: Tensor | None = None) -> Tensor:
        """Map x (B, T, N, F), present (B, T, N) to scores (B, N)."""
        days = []
        for window, here in zip(torch.where(present[..., None], x, 0.0), present, strict=True):
            score = self.net(window[:, here[-1]].transpose(0, 1).contiguous())
            days.append(torch.zeros_like(window[-1, :, 0]).masked_scatter(here[-1], score))
        return torch.stack(days)


def changed(workflow: dict[str, Any], kind: str, epochs: int) -> dict[str, Any]:
    """Return the workflow with so many epochs and, for "plain", with qlib's handler and processors.

    Raises: ValueError where it is not a workflow of MASTERModel on FastAlpha158.

    """
    model, handler = workflow["task"]["model"], workflow["task"]["dataset"]["kwargs"]["handler"]
    if (model["class"], handler["class"]) != ("MASTERModel", "FastAlpha158"):
        raise ValueError(f"{model['class']} on {handler['class']}: only MASTERModel on FastAlpha158 can be compared")
    model["kwargs"] |= {"epochs": epochs, "patience": epochs}
    if kind == "plain":
        model["kwargs"] |= {"precision": "float32"}
        handler |= {"class": "Alpha158", "module_path": "qlib.contrib.data.handler"}
        handler["kwargs"] |= {"infer_processors": QLIBS_PROCESSORS, "drop_raw": False}
        workflow["qlib_init"] |= {"kernels": 2}
    return workflow


def run(path: str, kind: str, epochs: int, keep: Path | None, answer: str) -> None:
    """Run the workflow in this fresh process; write the phases to `answer`."""
    import numpy as np
    import yaml
    from qlib.cli.run import workflow

    import qlib_ext.model
    from qlib_ext.features import alpha158
    from qlib_ext.synthetic import ensure_market
    from qlib_ext.workflow import load_workflow

    if not os.environ.get("QLIB_EXT_PROVIDER_URI"):
        ensure_market()
    alpha158(*np.ones((6, 2, 1)))  # compiled, or read from the disk
    config = changed(load_workflow(Path(path)), kind, epochs)
    if kind == "plain":
        qlib_ext.model.MASTER = PlainMASTER  # type: ignore[misc, assignment]
    with tempfile.TemporaryDirectory() if keep is None else nullcontext(keep) as folder:
        os.chdir(folder)
        file = Path(folder) / "workflow.yaml"
        file.write_text(yaml.safe_dump(config))
        phases = Phases()
        for where, phase in PHASES.items():
            module, name = where.split(":")
            owner, method = getattr(importlib.import_module(module), name.split(".")[0]), name.split(".")[1]
            setattr(owner, method, phases.timed(getattr(owner, method), phase))
        workflow(str(file))
        Path(answer).write_text(json.dumps(phases.result()))
        os.chdir(ROOT)


def measured(path: Path, kind: str, epochs: int, keep: Path | None = None) -> dict[str, tuple[float, int]]:
    """Phases of one run, phase -> (seconds, bytes), in a process of its own.

    Raises: RuntimeError where the run fails.

    """
    with tempfile.NamedTemporaryFile(suffix=".json") as answer:
        words = ["--child", kind, "--epochs", str(epochs), "--answer", answer.name, str(path.resolve())]
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            words += ["--keep", str(keep.resolve())]
        command = [sys.executable, "-m", "benchmarks.bench_run", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"the {kind} run ended with {done.returncode}: {done.stderr[-3000:]}")
        return {name: (row[0], row[1]) for name, row in json.loads(Path(answer.name).read_text()).items()}


def phase_table(runs: dict[str, dict[str, tuple[float, int]]], epochs: int) -> str:
    """Table of the runs' phases, with how many times faster and smaller the last run is than the first."""
    kinds = list(runs)
    sums = {k: (sum(s for s, _ in run.values()), max(peak for _, peak in run.values())) for k, run in runs.items()}
    names = [name for name in dict.fromkeys([*PHASES.values(), OTHER]) if any(name in run for run in runs.values())]
    header = ["phase", *(f"{kind}, {unit}" for kind in kinds for unit in ("s", "GiB"))]
    compare = len(kinds) > 1
    rows = []
    for name in [*names, "in all"]:
        cells = [(sums[kind] if name == "in all" else runs[kind].get(name, (0.0, 0))) for kind in kinds]
        row = [f"{name}, {epochs} epochs" if name == "training" else name]
        row += [text for s, peak in cells for text in (f"{s:.1f}", f"{peak / GIB:.2f}")]
        if compare:
            row += [f"{cells[0][0] / cells[-1][0]:.1f}" if cells[-1][0] else "-"]
        rows.append(row)
    return table([*header, "times faster"] if compare else header, rows)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("workflow", nargs="?", type=Path, default=ROOT / "workflows" / "master_liq.yaml")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--what", nargs="+", choices=("plain", "ours"), default=["plain", "ours"])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="run there, and leave the run there")
    parser.add_argument("--child", choices=("plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(str(options.workflow), options.child, options.epochs, options.keep, options.answer)
        return
    runs = {kind: measured(options.workflow, kind, options.epochs, options.keep) for kind in options.what}
    print(phase_table(runs, options.epochs))


if __name__ == "__main__":
    main()
