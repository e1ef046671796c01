"""Whether the process of a run lives: it holds a lock in the run's folder, which ends with it, however that is."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from qlib_ext.runs.database import artifact_folder

_HOST = "process.host"
_STARTING = 60_000  # milliseconds within which a run without a lock may be about to take it


def process_tags() -> dict[str, str]:
    """Tags of a run: the machine and the number of the process."""
    return {_HOST: socket.gethostname(), "process.pid": str(os.getpid())}


def lock_of(artifact_uri: str) -> Any:
    """Lock that a run's process holds while it lives."""
    from filelock import FileLock

    folder = artifact_folder(artifact_uri).parent
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".running")


def release(lock: Any, *, ended: bool = True) -> None:
    """Give a run's lock back, and take its file away; it stays with a run whose end is not recorded, which tells it."""
    if ended:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
    lock.release()


def is_gone(run: Any) -> bool:
    """Whether a run of mlflow is recorded as RUNNING by a process of this machine that is surely gone."""
    if run.info.status != "RUNNING" or run.data.tags.get(_HOST) != socket.gethostname():
        return False
    if not (artifact_folder(run.info.artifact_uri).parent / ".running").exists():
        return abs(time.time() * 1000 - run.info.start_time) > _STARTING  # a clock may have been set back
    lock = lock_of(run.info.artifact_uri)
    try:
        lock.acquire(timeout=0)
    except OSError:  # held by a living process, or not ours to look at
        return False
    lock.release()
    return True


def end_the_gone(client: Any, say: Callable[[str], object]) -> None:
    """Mark this machine's runs whose processes are gone as KILLED, in all experiments of mlflow's client."""
    running = f"attributes.status = 'RUNNING' AND tags.`{_HOST}` = '{socket.gethostname()}'"
    for run in every_run(client, [one.experiment_id for one in every_experiment(client)], running):
        if is_gone(run):
            client.set_terminated(run.info.run_id, "KILLED")
            release(lock_of(run.info.artifact_uri))
            say(f"run {run.info.run_id} was killed: its process is gone, it is marked KILLED now")


def every_experiment(client: Any) -> list[Any]:
    """Read the experiments of mlflow, page by page."""
    return _pages(client.search_experiments)


def every_run(client: Any, experiments: Sequence[str], wanted: str = "", most: int | None = None) -> list[Any]:
    """Read runs of mlflow, the latest first, page by page: of a filter of its language, so many at most."""
    search = partial(client.search_runs, experiments, wanted, order_by=["attributes.start_time DESC"])
    return [] if not experiments else _pages(search) if most is None else list(search(max_results=most))


def _pages(search: Callable[..., Any]) -> list[Any]:
    found: list[Any] = []
    token: str | None = None
    while token != "":
        page = search(page_token=token)
        found, token = [*found, *page], page.token or ""
    return found
