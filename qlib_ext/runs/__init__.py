"""Recorded runs: found, read, logged to. Where they are kept stands in `qlib_ext.recorder`, which needs qlib."""

from qlib_ext.runs.artifacts import FACTS, FORECAST, PLAN, delete_when_finished, load_if_there, log_finite, save_json
from qlib_ext.runs.backtest import BENCHMARK, complete_backtest
from qlib_ext.runs.begin import init
from qlib_ext.runs.find import DEFAULT_URI, LATEST, TRIALS, Run, experiment_names, find_run, list_runs, load_artifacts
from qlib_ext.runs.kept import exact, task_facts
from qlib_ext.runs.naming import provider_folder, run_name, run_tags
from qlib_ext.runs.tables import load_table, tables_of
from qlib_ext.runs.task import MEMBERS, STRATEGIES, Task, class_name, names_class, options_of
from qlib_ext.runs.trust import CURE, plain_init, refuse_code
from qlib_ext.runs.twins import dump_objects

__all__ = [
    "BENCHMARK",
    "CURE",
    "DEFAULT_URI",
    "FACTS",
    "FORECAST",
    "LATEST",
    "MEMBERS",
    "PLAN",
    "Run",
    "STRATEGIES",
    "TRIALS",
    "Task",
    "class_name",
    "complete_backtest",
    "delete_when_finished",
    "dump_objects",
    "experiment_names",
    "exact",
    "find_run",
    "init",
    "list_runs",
    "load_artifacts",
    "load_if_there",
    "load_table",
    "log_finite",
    "names_class",
    "options_of",
    "plain_init",
    "provider_folder",
    "refuse_code",
    "run_name",
    "run_tags",
    "save_json",
    "tables_of",
    "task_facts",
]
