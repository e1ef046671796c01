"""Recorded runs: found by id, name or experiment in the sqlite file, their artifacts read from their folder.

By mlflow alone: neither qlib nor the data of the run are needed.
"""

import difflib
import json
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.runs.alive import is_gone
from qlib_ext.runs.artifacts import JSON
from qlib_ext.runs.database import DEFAULT_URI, artifact_folder, check_database, database_file, telling, where_now
from qlib_ext.runs.trust import CURE
from qlib_ext.runs.twins import SUFFIXES, fingerprint, read_twin, twin_path

LATEST = "latest"
_LEAST_PREFIX = 4
_UNREADABLE = (  # what a damaged file, or one of another version, raises
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError),
    *(IndexError, KeyError, TypeError, ValueError, OSError),
)


@dataclass(frozen=True)
class Run:
    """A recorded run: its id, its experiment's name, when it began, its status and its artifacts' folder.

    `trust`: whether its pickles may be read, and code that it names be run.
    """

    id: str
    experiment: str
    started: pd.Timestamp
    status: str
    folder: Path
    trust: bool = False


def find_run(name: str, *, uri: str = DEFAULT_URI, experiment: str | None = None, trust: bool = False) -> Run:
    """Find a run.

    Args:
        name: a run's id or the first letters of it (4 or more), the name of an experiment (its latest finished run), or
            "latest".
        uri: sqlite:///FILE of the runs.
        experiment: look only there.
        trust: whether `load_artifacts` and the page may unpickle what it holds and run code that it names.

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
        return replace(fitting[0], trust=trust)
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


def load_artifacts(run: Run, paths: Iterable[str], *, trust: bool = False) -> dict[str, Any]:
    """Read those of the artifacts that are there, by path: JSON, or their twins in Parquet and JSON; no code runs.

    Args:
        run: of `find_run`.
        paths: such as pred.pkl.
        trust: read the pickles themselves, which run whatever code is in them; also where `run.trust` says so.

    Raises:
        ValueError: an artifact cannot be read, or not without trust.
    """
    artifacts: dict[str, Any] = {}
    for path in paths:
        file = run.folder / path
        if path.endswith(JSON):
            if file.is_file():
                artifacts[path] = _readable(file, partial(json.loads, file.read_bytes()))
            continue
        pickled = file.read_bytes() if file.is_file() else None
        twins = [twin for suffix in SUFFIXES if (twin := twin_path(file, suffix)).is_file()]
        if pickled is not None and (trust or run.trust):
            artifacts[path] = _readable(file, partial(pickle.loads, pickled))
        elif pickled is not None or twins:
            found = [_readable(twin, partial(read_twin, twin)) for twin in twins]
            own = [value for value, of in found if pickled is None or of == fingerprint(pickled)]
            if not own:
                why = f"that {twins[0].name} is not of (was it changed?)" if twins else "without a twin beside it"
                raise ValueError(f"{file} is a pickle {why}, and reading it runs whatever code is in it: {CURE}")
            artifacts[path] = own[0]
    return artifacts


def _readable(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except _UNREADABLE as error:
        raise ValueError(f"{file} cannot be read: {error}; is it damaged, or of another version?") from error
