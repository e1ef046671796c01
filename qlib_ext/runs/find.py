"""Recorded runs: found by id, name or experiment in a file or on a server, their artifacts read from their folder.

By mlflow alone: neither qlib nor the data of the run are needed.
"""

import difflib
import json
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.runs.alive import every_experiment, every_run, is_gone
from qlib_ext.runs.artifacts import JSON
from qlib_ext.runs.database import DEFAULT_URI
from qlib_ext.runs.place import place_of
from qlib_ext.runs.trust import CURE
from qlib_ext.runs.twins import SUFFIXES, fingerprint, read_twin, twin_path

LATEST = "latest"
TRIALS = ".tune"  # at the end of an experiment's name: trials of a search, which "latest" passes over
_LEAST_PREFIX = 4
_LOOKED_AT = 50  # of the latest runs, for those that a wrong name may have meant
_DONE = "attributes.status = 'FINISHED'"
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
        uri: where the runs are: sqlite:///FILE, postgresql://USER@HOST/DATABASE, http://HOST:PORT of `mlflow server`.
        experiment: look only there.
        trust: whether `load_artifacts` and the page may unpickle what it holds and run code that it names.

    Raises:
        ValueError: no such run, or several; the message names what is there.
        OSError: the file of `uri` is not there, its server cannot be reached, or the run's folder is not here.

    >>> find_run("latest", uri="sqlite:///nowhere.db")  # of runs that are there: load_artifacts(run, ["pred.pkl"])
    Traceback (most recent call last):
    FileNotFoundError: no runs here: ...nowhere.db is not there; start from the folder of the runs, or give --uri
    """
    runs = _Runs(uri, experiment)
    fitting = runs.fitting(name)
    if len(fitting) == 1:
        runs.place.refuse(fitting[0].info.artifact_uri, f"run {fitting[0].info.run_id}")
        return replace(runs.read(fitting[0]), trust=trust)
    if fitting:
        several = ", ".join(run.info.run_id for run in fitting)
        raise ValueError(f"run {name!r} fits {len(fitting)} runs: {several}; give more of the id")
    latest = [runs.read(run) for run in runs.search(most=_LOOKED_AT)]
    others = set(runs.names.values()) if len(latest) == _LOOKED_AT else set()
    raise ValueError(_unknown(name, latest, sorted({run.experiment for run in latest} | others), runs.place.shown))


def _unknown(name: str, runs: Sequence[Run], experiments: Sequence[str], where: str) -> str:
    close = difflib.get_close_matches(name, [*experiments, *(run.id for run in runs)], n=3)
    listed = "; ".join(f"{run.id} ({run.experiment}, {run.started:%Y-%m-%d %H:%M}, {run.status})" for run in runs[:5])
    return (
        f"no finished run {name!r} in {where}{f' (close: {close})' if close else ''}. Give a run's id, the name of an "
        f"experiment ({', '.join(experiments) or 'there is none'}) or {LATEST!r}. The latest runs: {listed or 'none'}"
    )


def list_runs(*, uri: str = DEFAULT_URI, experiment: str | None = None) -> list[Run]:
    """List the runs, the latest first.

    Args:
        uri: sqlite:///FILE, or a server's.
        experiment: only of this one.

    Raises:
        ValueError: `uri` is of no file of runs and no server, or the experiment is not there.
        OSError: the file is not there, locked, damaged, the server cannot be reached, ...: the message has the cure.

    >>> [run.id for run in list_runs(uri="mlruns.db") if run.status == "FINISHED"]
    Traceback (most recent call last):
    ValueError: --uri is 'mlruns.db'; give sqlite:///FILE, such as sqlite:///mlruns.db, or a server's: ...
    """
    runs = _Runs(uri, experiment)
    return [runs.read(run) for run in runs.search()]


def experiment_names(*, uri: str = DEFAULT_URI, experiment: str | None = None, finished: bool = False) -> list[str]:
    """List the names of the experiments, sorted; errors are those of `list_runs`, which reads every run.

    Args:
        uri: as for `find_run`.
        experiment: only this one.
        finished: only those that have a finished run.
    """
    runs = _Runs(uri, experiment)
    return sorted(name for name in runs.names.values() if not finished or runs.search(_DONE, [name], most=1))


class _Runs:
    """Runs of a uri, or of one experiment there, as mlflow has them."""

    def __init__(self, uri: str, experiment: str | None) -> None:
        self.place = place_of(uri, "--uri")
        self.place.check()
        from mlflow.tracking import MlflowClient

        with self.place.telling():
            self.client = MlflowClient(tracking_uri=self.place.uri)
            every = {one.experiment_id: one.name for one in every_experiment(self.client)}
        if experiment is not None and experiment not in every.values():
            there = ", ".join(sorted(every.values()))
            raise ValueError(f"no experiment {experiment!r} in {self.place.shown}; there are: {there}")
        self.names = {number: name for number, name in every.items() if experiment in (None, name)}
        self.latest_of = [name for name in self.names.values() if experiment or not name.endswith(TRIALS)]

    def search(self, wanted: str = "", experiments: Collection[str] = (), most: int | None = None) -> list[Any]:
        """Find runs, the latest first: of a filter of mlflow's, of some experiments (none: of all), so many at most."""
        numbers = [number for number, name in self.names.items() if not experiments or name in experiments]
        with self.place.telling():
            return every_run(self.client, numbers, wanted, most)

    def fitting(self, name: str) -> list[Any]:
        """Find the runs that a name may mean, see `find_run`; of thousands, mlflow is asked for these alone."""
        if name == LATEST:
            return self.search(_DONE, self.latest_of, most=1) if self.latest_of else []
        is_id = re.fullmatch("[0-9a-zA-Z]+", name) is not None
        return (
            (self.search(f"attributes.run_id = '{name}'") if is_id else [])
            or self.search(_DONE, [name], most=1)
            or (self.search(f"attributes.run_id LIKE '{name}%'") if is_id and len(name) >= _LEAST_PREFIX else [])
        )

    def read(self, run: Any) -> Run:
        """Read what mlflow has of a run."""
        return Run(
            id=run.info.run_id,
            experiment=self.names[run.info.experiment_id],
            started=pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
            status="KILLED" if is_gone(run) else run.info.status,
            folder=self.place.folder(run.info.artifact_uri),
        )


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
