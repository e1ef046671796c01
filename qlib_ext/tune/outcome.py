"""What a search has found: a table of its trials, the file of trials, the workflow with the best values."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.trial import FrozenTrial, TrialState
from qlib.cli.run import render_template
from qlib.utils.data import update_config
from ruamel.yaml import YAML

from qlib_ext.beside import write_text
from qlib_ext.evaluate import highest_by_chance, read_trials, trial_row, write_trials
from qlib_ext.runs import Task, class_name
from qlib_ext.tune.blind import blinded, metric_of
from qlib_ext.tune.search import Settings, short
from qlib_ext.tune.space import value_at, with_values
from qlib_ext.tune.study import Trials, related
from qlib_ext.tune.training import TRAINED

SHOWN = 10  # trials of the table that are printed
LEAST = 3  # trained trials before it is said what chance gives the best of them


@dataclass(frozen=True)
class Outcome:
    """What a search has come to.

    Attributes:
        table: a row a trial in its order: trial, state, value, error (standard error over days), run (of the recorder),
            why (it failed), and a column for each path that was searched.
        metric: that the values are of.
        wanted: trials that were asked for.
    """

    table: pd.DataFrame
    metric: str
    wanted: int

    @property
    def best(self) -> "pd.Series[Any]":
        """Row of the trial with the highest value, the earliest of several; ValueError where none is trained."""
        done = self.table[self.table["state"] == TRAINED]
        if not len(done):
            raise ValueError("no trial was trained to its end: widen the space, or ask for more --trials")
        return done.iloc[int(done["value"].to_numpy().argmax())]

    def by_chance(self) -> float:
        """Value that the best of so many trials of no difference has on average, given their mean and deviation.

        mean + deviation * `evaluate.highest_by_chance`; NaN for fewer than `LEAST` trained trials. What the trials do
        differ in is in the deviation too: it is the most that chance explains.
        """
        values = self.table.loc[self.table["state"] == TRAINED, "value"].astype(float)
        if len(values) < LEAST:
            return math.nan
        return float(values.mean() + values.std(ddof=1) * highest_by_chance(len(values)))

    def lines(self) -> list[str]:
        """Tell it on a terminal."""
        counts = self.table["state"].value_counts().to_dict()
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        names = [path for path in self.table if str(path).startswith("task.")]
        shown = self.table[self.table["state"] == TRAINED].sort_values("value", ascending=False, kind="stable")
        rows = [["trial", self.metric, "error", *(str(path).rpartition(".")[2] for path in names)]]
        for row in shown.head(SHOWN).to_dict("records"):
            numbers = [f"{row[name]:.4f}" if math.isfinite(row[name]) else "" for name in ("value", "error")]
            rows.append([str(row["trial"]), *numbers, *(short(row[path]) for path in names)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{len(self.table)} of {self.wanted} trials: {told}"]
        lines += ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
        best, chance = self.best, self.by_chance()
        if math.isfinite(chance):
            lines.append(
                f"The best of {counts[TRAINED]} is flattered by the choice: among trials of no difference, with this "
                f"mean and deviation, it reaches {chance:.4f} by chance; trial {best['trial']} has {best['value']:.4f}."
            )
        return lines


def outcome(settings: Settings) -> Outcome:
    """Read what a search has come to so far."""
    trials = settings.open()
    rows = [_row(trials, place, trial) for place, trial in enumerate(trials.counted(), 1) if trial.state.is_finished()]
    columns = ["trial", "state", "value", "error", "run", "why", *(each.path for each in settings.ranges)]
    metric = metric_of(blinded(settings.workflow["task"])["model"])
    table = pd.DataFrame(rows, columns=columns, dtype=object)  # values as Python has them
    return Outcome(table.astype({"trial": int, "value": float, "error": float}), metric, settings.trials)


def _row(trials: Trials, place: int, trial: FrozenTrial) -> dict[str, Any]:
    facts = trial.user_attrs
    value = trial.value if trial.state == TrialState.COMPLETE else math.nan
    row = {"trial": place, "state": facts.get("state", ""), "value": value, "error": facts.get("error", math.nan)}
    return row | {name: facts.get(name, "") for name in ("run", "why")} | trials.values(trial)


def write_outcome(settings: Settings, workflow: Path, out: Path) -> list[str]:
    """Write the workflow with the best values, and beside it the file of trials; returns lines that say so.

    The file has a row for each trial of this workflow's experiment in the storage, other searches of it too, and those
    of the file that the workflow already named: all that were looked at. A PortAnaRecord of the workflow reads it: the
    page's deflated Sharpe ratio counts them.
    """
    found = outcome(settings)
    best = found.best
    values = {each.path: best[each.path] for each in settings.ranges}
    file = out.with_name(f"{out.stem}.trials.parquet")
    records = _backtests(settings.workflow["task"])
    rows, left_out = trial_rows(settings, [value_at(settings.workflow, path) for path in records])
    lines = []
    if rows:
        write_trials(file, rows)
        values |= dict.fromkeys(records, str(file.resolve()))
        told = f", {left_out} more had no account on the validation days" if left_out else ""
        lines.append(f"Wrote {file}: {len(rows)} trials, by their accounts on the validation days{told}")
    head = (
        f"# Trial {best['trial']} of {len(found.table)} (qlib-ext tune {workflow.name}): {found.metric} "
        f"{best['value']:.4f} on the validation days, which chose it.\n"
    )
    head += "".join(f"#   {each.path}: {short(best[each.path])}\n" for each in settings.ranges)
    write_text(out, head + workflow_text(workflow, settings.workflow, values))
    lines.append(f"Wrote {out}: the workflow with the values of trial {best['trial']}")
    if not rows:
        lines.append(
            "No file of trials, so no deflated Sharpe ratio: the dataset has no liquidity, or too few validation days"
        )
    elif not records:
        lines.append("The workflow has no PortAnaRecord of qlib_ext, whose account the trials would deflate")
    return lines


def _backtests(task: dict[str, Any]) -> list[str]:
    """Paths at which our backtests name their file of trials."""
    single = isinstance(task.get("record"), dict)
    return [
        f"task.record{'' if single else f'.{place}'}.kwargs.trials"
        for place, record in enumerate(Task(task).records)
        if class_name(record) == "PortAnaRecord" and str(record.get("module_path")).partition(".")[0] == "qlib_ext"
    ]


def trial_rows(settings: Settings, files: Sequence[Any] = ()) -> tuple[list[dict[str, Any]], int]:
    """Rows of `evaluate.write_trials` of all trials of an experiment, and how many have none.

    Args:
        settings: of a search.
        files: of trials that were looked at before; None: none.
    """
    rows: dict[Any, dict[Any, Any]] = {}
    for known in dict.fromkeys(file for file in files if file):
        for old in read_trials(known).to_dict("records"):
            kept = isinstance(old.get("excess"), np.ndarray)
            lists = {"day": [*pd.DatetimeIndex(old["day"])], "excess": old["excess"].tolist()} if kept else {}
            rows[old["name"]] = {**old, **lists}
    left_out = 0
    for study in related(settings.storage, settings.experiment):
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        for place, trial in enumerate(study.get_trials(deepcopy=False, states=states), 1):
            facts = trial.user_attrs
            row: dict[str, Any] | None = None
            if "excess" in facts:
                excess = pd.Series(facts["excess"], pd.DatetimeIndex(facts["days"]))
                row = trial_row(f"{study.study_name}.{place}", trial.params, excess)
            if row is None or not abs(row["sharpe"]) <= 1.0:
                left_out += 1
            else:
                rows[row["name"]] = row
    return list(rows.values()), left_out


# --- the workflow


def workflow_text(file: Path, config: dict[str, Any], values: dict[str, Any]) -> str:
    """Write a workflow as it was rendered, its base merged, with other values; its comments stay where they can.

    Args:
        file: of the workflow.
        config: what it was read as.
        values: by path.
    """
    wanted = with_values(config, values)
    return _commented(file, values, wanted) or _plain(wanted)


def _commented(file: Path, values: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Write it with its comments; "" where it then says something else, such as of a part that stands in two places."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    document = yaml.load(render_template(str(file)))
    base = document.pop("BASE_CONFIG_PATH", None)
    if base:
        place = Path(base) if Path(base).exists() else file.absolute().parent / base
        document = update_config(yaml.load(place.read_text(encoding="utf-8")), document)
    for path, value in values.items():
        *parts, last = path.split(".")
        node = document
        for part in parts:
            child = node[int(part)] if isinstance(node, list) else node.get(part)
            if child is None:
                child = node[part] = {}
            node = child
        node[int(last) if isinstance(node, list) else last] = value
    out = io.StringIO()
    yaml.dump(document, out)
    same = YAML(typ="safe", pure=True).load(out.getvalue()) == wanted
    return out.getvalue() if same else ""


def _plain(config: dict[str, Any]) -> str:
    yaml, out = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = None
    yaml.dump(config, out)
    return out.getvalue()
