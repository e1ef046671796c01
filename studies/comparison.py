"""What comparisons of variants over seeds share: arguments, set-up, train one, judge it on the test days, the means."""

import argparse
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import qlib
from qlib.utils import init_instance_by_config

from benchmarks.bench_step import table
from qlib_ext.panel import DayPanel
from qlib_ext.record import Money, judge
from qlib_ext.workflow import load_workflow


def parser(doc: str | None, *, workflow: Path | None = None) -> argparse.ArgumentParser:
    """Parser of a comparison's common arguments.

    Args:
        doc: of the module; its first line is the description.
        workflow: taken where the command names none; None: it has to name one.

    """
    made = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    named = {} if workflow is None else {"nargs": "?", "default": workflow}
    made.add_argument("workflow", type=Path, help="YAML file of dataset and model", **named)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="of the model, the same for all")
    return made


def opened(arguments: argparse.Namespace, varied: Collection[str]) -> tuple[Any, Callable[..., Any]]:
    """Start qlib and build the workflow's dataset; print the panel, the days, the model's class and fixed options.

    Args:
        arguments: of `parser`.
        varied: options of the model that the comparison sets; those of the workflow are left out.

    Returns: the dataset, and a maker of models: `make(**changed)` has the fixed options and the changed ones.

    Raises: ValueError for `--options` that are no JSON object, or that fix what is varied: one variant would silently
        be another.

    """
    if not isinstance(arguments.options, dict):
        raise ValueError(f'--options is {arguments.options!r}; give a JSON object, such as {{"lr": 0.001}}')
    clash = sorted(set(arguments.options) & set(varied))
    if clash:
        raise ValueError(
            f"--options fixes {', '.join(clash)}, which the comparison varies ({', '.join(varied)}): leave it out, or "
            "choose variants instead"
        )
    workflow = load_workflow(arguments.workflow)
    qlib.init(**workflow["qlib_init"])
    dataset = init_instance_by_config(workflow["task"]["dataset"])
    config = workflow["task"]["model"]
    fixed = {name: value for name, value in (config.get("kwargs") or {}).items() if name not in varied}
    fixed |= arguments.options
    days = {name: len(dataset.rows(name)) for name in ("train", "valid", "test")}
    print(f"{dataset.panel}; {days}; {config['class']} {fixed}", flush=True)

    def make(**changed: Any) -> Any:
        return init_instance_by_config({**config, "kwargs": fixed | changed})

    return dataset, make


def measure(dataset: Any, panel: DayPanel, model: Any) -> dict[str, float]:
    """Train a model and judge it on the test days; money in basis points a day, over the mean stock."""
    rows, start = dataset.rows("test"), time.perf_counter()
    model.fit_rows(panel, dataset.step_len, dataset.rows("train"), dataset.rows("valid"))
    best = model.history.epochs[model.history.best_epoch - 1]
    found = judge(panel, rows, model.trainer.predict(panel, rows).astype(np.float64), Money(), dataset.span)
    daily, net = found.daily, found.returns["capped_buyable_net_over_market"]
    return {
        "valid_rank_ic": best["rank_ic"],
        "valid_excess": 1e4 * best["capped_excess"],
        "ic": daily["ic"].mean(),
        "rank_ic": daily["rank_ic"].mean(),
        "gross_excess": 1e4 * daily["capped_excess"].mean(),
        "error": 1e4 * daily["capped_excess"].sem(),
        "net_excess": 1e4 * net.mean(),
        "exposure": daily["volatility_exposure"].mean(),
        "names": daily["capped_names_held"].mean(),
        "epoch": model.history.best_epoch,
        "seconds": time.perf_counter() - start,
    }


def compare(what: str, names: Iterable[str], seeds: Iterable[int], run: Callable[[str, int], dict[str, float]]) -> None:
    """Run each name with each seed; print a line each, then the table of means (standard deviation over seeds)."""
    lines = []
    for seed in seeds:
        for name in names:
            row = run(name, seed)
            lines.append({what: name, **row})
            print(name, seed, {k: round(float(v), 4) for k, v in row.items()}, flush=True)
    frame = pd.DataFrame(lines).groupby(what, sort=False)
    mean, spread = frame.mean(), frame.std()
    cells = [[str(n), *(f"{mean.loc[n, c]:.3f} ({spread.loc[n, c]:.3f})" for c in mean)] for n in mean.index]
    print(table([what, *mean.columns], cells))


def compare_options(
    doc: str | None,
    what: str,
    variants: Mapping[str, dict[str, Any]],
    varied: Collection[str],
    *,
    workflow: Path | None = None,
) -> None:
    """Train one kind of model with each variant's options and each seed, as the command line asks.

    Args:
        doc: of the module.
        what: the variants are called.
        variants: name -> options of the model.
        varied: options that variants set, the seed too.
        workflow: see `parser`.

    """
    asked = parser(doc, workflow=workflow)
    asked.add_argument("--variants", nargs="+", default=list(variants), choices=list(variants), metavar="NAME")
    arguments = asked.parse_args()
    dataset, make = opened(arguments, varied)

    def run(name: str, seed: int) -> dict[str, float]:
        return measure(dataset, dataset.panel, make(**variants[name], seed=seed))

    compare(what, arguments.variants, arguments.seeds, run)
