"""Recorded runs: found by id, name or experiment in the sqlite file, their artifacts read from their folder.

By mlflow alone: neither qlib nor the data of the run are needed.
"""

import difflib
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.runs.alive import is_gone
from qlib_ext.runs.database import DEFAULT_URI, artifact_folder, check_database, database_file, telling, where_now

LATEST = "latest"
_LEAST_PREFIX = 4
_UNREADABLE = (  # what a damaged pickle, or one of another version, raises
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError),
    *(IndexError, KeyError, TypeError, ValueError),
)


@dataclass(frozen=True)
class Run:
    """A recorded run: its id, its experiment's name, when it began, its status and its artifacts' folder."""

    id: str
    experiment: str
    started: pd.Timestamp
    status: str
    folder: Path


def find_run(name: str, *, uri: str = DEFAULT_URI, experiment: str | None = None) -> Run:
    """Find a run.

    Args:
        name: a run's id or the first letters of it (4 or more), the name of an experiment (its latest finished run), or
            "latest".
        uri: sqlite:///FILE of the runs.
        experiment: look only there.

    Raises:
        ValueError: no such run, or several; the message names what is there.
        FileNotFoundError: the file of `uri` is not there.

    >>> find_run("latest", uri="sqlite:///nowhere.db")  # of runs that are there: load_artifacts(run, ["pred.pkl"])
    Traceback (most recent call last):
    FileNotFoundError: no runs here: ...nowhere.db is not there; start from the folder of the runs, or give --uri
    """
    runs = list_runs(uri=uri, experiment=experiment)
    done = [run for run in runs if run.status == "FINISHED"]
    if name == LATEST:
        fitting = done[:1]
    else:
        fitting = [run for run in runs if run.id == name]
        fitting = fitting or [run for run in done if run.experiment == name][:1]
        if not fitting and len(name) >= _LEAST_PREFIX:
            fitting = [run for run in runs if run.id.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(
            f"run {name!r} fits {len(fitting)} runs: {', '.join(run.id for run in fitting)}; give more of the id"
        )
    raise ValueError(_unknown(name, runs, uri))


def _unknown(name: str, runs: Sequence[Run], uri: str) -> str:
    experiments = sorted({run.experiment for run in runs})
    close = difflib.get_close_matches(name, [*experiments, *(run.id for run in runs)], n=3)
    listed = "; ".join(f"{run.id} ({run.experiment}, {run.started:%Y-%m-%d %H:%M}, {run.status})" for run in runs[:5])
    return (
        f"no finished run {name!r} in {uri}{f' (close: {close})' if close else ''}. Give a run's id, the name of an "
        f"experiment ({', '.join(experiments) or 'there is none'}) or {LATEST!r}. The latest runs: {listed or 'none'}"
    )


def list_runs(*, uri: str = DEFAULT_URI, experiment: str | None = None) -> list[Run]:
    """List the runs, the latest first.

    Raises:
        ValueError: `uri` is no file of runs, or the experiment is not there.
        OSError: the file is not there, locked, damaged, ...: the message has the cure.

    >>> [run.id for run in list_runs(uri="mlruns.db") if run.status == "FINISHED"]
    Traceback (most recent call last):
    ValueError: --uri is 'mlruns.db'; give sqlite:///FILE, such as sqlite:///mlruns.db
    """
    file = database_file(uri, "--uri")
    if not file.is_file():
        raise FileNotFoundError(f"no runs here: {file} is not there; start from the folder of the runs, or give --uri")
    check_database(file)
    from mlflow.tracking import MlflowClient

    with telling(file):
        client = MlflowClient(tracking_uri=f"sqlite:///{file}")
        names = {one.experiment_id: one.name for one in client.search_experiments()}
        found = _every_run(client, list(names))
    if experiment is not None and experiment not in names.values():
        raise ValueError(f"no experiment {experiment!r} in {uri}; there are: {', '.join(sorted(names.values()))}")
    return [
        Run(
            id=run.info.run_id,
            experiment=names[run.info.experiment_id],
            started=pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
            status="KILLED" if is_gone(run) else run.info.status,
            folder=where_now(file, artifact_folder(run.info.artifact_uri)),
        )
        for run in found
        if experiment in (None, names[run.info.experiment_id])
    ]


def _every_run(client: Any, experiments: Sequence[str]) -> list[Any]:
    """Read the runs of mlflow, the latest first, page by page."""
    runs: list[Any] = []
    token: str | None = None
    while token != "":
        page = client.search_runs(experiments, order_by=["attributes.start_time DESC"], page_token=token)
        runs, token = [*runs, *page], page.token or ""
    return runs


def load_artifacts(run: Run, paths: Iterable[str]) -> dict[str, Any]:
    """Read those of the artifacts that are there, by path. They are pickles: read your own runs only.

    Raises:
        ValueError: an artifact cannot be read.
    """
    artifacts: dict[str, Any] = {}
    for path in paths:
        file = run.folder / path
        if file.is_file():
            try:
                artifacts[path] = pickle.loads(file.read_bytes())
            except _UNREADABLE as error:
                raise ValueError(f"{file} cannot be read: {error}; was it written by another version?") from error
    return artifacts
