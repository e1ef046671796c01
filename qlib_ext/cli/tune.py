"""`qlib-ext tune`: values of a workflow searched on its validation days."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

from qlib_ext.cli.arguments import number
from qlib_ext.progress import ENVIRONMENT

STORAGE = "sqlite:///tune.db"

_TUNE = """\
Search over a workflow's values: many trainings on its training days, compared on its validation days. No trial sees a
day of the test, or runs a record.

SPACE is a YAML file, a line for each value, named by its path in the workflow:

  task.model.kwargs.lr: {low: 0.0001, high: 0.01, log: true}
  task.model.kwargs.batch_days: {low: 1, high: 8}
  task.model.kwargs.hidden: {choices: [[256, 128], [64, 32]]}

Trials are drawn by optuna (TPE); one whose epochs are worse than the median of the others ends early. Each is a run of
the experiment NAME.tune. The same command goes on after a kill, and with a larger --trials; what was cut short is done
again with the same values.

It writes the workflow with the best values, to be judged by qrun on the test days, and all trials beside it, by which
the page deflates the Sharpe ratio.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser("tune", help="search over a workflow's values", description=_TUNE)
    add = parser.add_argument
    add("workflow", metavar="WORKFLOW", type=Path, help="YAML file, as for qrun")
    add("space", metavar="SPACE", type=Path, help="YAML file of paths and ranges")
    whole = number("[1, inf)", whole=True)
    add("--trials", type=whole, default=40, metavar="N", help="in all, those of earlier calls too (default: 40)")
    add("--jobs", type=whole, default=1, metavar="K", help="processes, each with its own data (default: 1)")
    on_ray = "trials on Ray: a cluster's (default: RAY_ADDRESS), or this machine's, with K workers (docs/scale.md)"
    add("--ray", nargs="?", const=os.environ.get("RAY_ADDRESS", "local"), metavar="ADDRESS", help=on_ray)
    add("--no-prune", dest="prune", action="store_false", help="train every trial to its end")
    add("--study", metavar="NAME", help="of the search in the storage (default: the experiment's name)")
    where = f"sqlite:///FILE or postgresql://... that keeps the trials (default: {STORAGE})"
    add("--storage", default=STORAGE, metavar="URI", help=where)
    add("--out", type=Path, default=Path("tuned.yaml"), metavar="FILE", help="workflow to write (default: tuned.yaml)")
    read = number("[0, 4294967295]", whole=True)
    add("--seed", type=read, metavar="S", help="of what is drawn (default: 0, or that of the study that goes on)")
    parser.set_defaults(run=_tune)


def _tune(arguments: argparse.Namespace) -> int:
    if find_spec("optuna") is None:
        raise ValueError("a search needs optuna, which is not here: pip install 'qlib_ext[tune]'")
    os.environ.setdefault(ENVIRONMENT, "quiet")  # a line a trial; the epochs are in its run's log
    from qlib_ext import tune  # they need qlib, which other commands do without
    from qlib_ext.workflow import load_workflow

    workflow = load_workflow(arguments.workflow)
    settings = tune.Settings(
        workflow=workflow,
        ranges=tune.read_space(arguments.space),
        storage=arguments.storage,
        study=arguments.study or str(workflow.get("experiment_name", "workflow")),
        trials=arguments.trials,
        prune=arguments.prune,
    )
    tune.search(settings, seed=arguments.seed, jobs=arguments.jobs, ray=arguments.ray)
    lines = tune.outcome(settings).lines()
    lines += tune.write_outcome(settings, arguments.workflow, arguments.out.expanduser())
    judge = f"qrun {shlex.quote(str(arguments.out))}"
    lines.append(f"What it is worth is said by the test days, which no trial has seen:\n\n    {judge}\n")
    sys.stdout.write("\n".join(lines))
    return 0
