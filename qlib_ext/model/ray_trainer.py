"""RayTrainer: qlib's Trainer for a list of tasks, on Ray: of RollingGen, of workflows, of a search."""

import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from qlib.config import C
from qlib.data.cache import H
from qlib.data.dataset import Dataset
from qlib.log import get_module_logger
from qlib.model.trainer import TrainerR, _exe_task, _log_task_info
from qlib.utils import init_instance_by_config
from qlib.utils.mod import get_callable_kwargs
from qlib.utils.serial import Serializable
from qlib.workflow import R
from qlib.workflow.recorder import Recorder

from qlib_ext import progress
from qlib_ext.beside import alone
from qlib_ext.data import DayDatasetH, dated_handler, plain_segments
from qlib_ext.engine import Ray
from qlib_ext.options import argument_names, check_flag, refuse_unknown
from qlib_ext.recorder import SqliteExpManager
from qlib_ext.runs import exact, task_facts

logger = get_module_logger("qlib_ext.ray")

LIST, PLACE = "tasks.list", "tasks.place"  # tags: of which list, and which of its tasks from 0
Job = tuple[int, dict[str, Any]]  # place in the list and the task


class RayTrainer(TrainerR):
    """Train a list of tasks on Ray, each as qlib's `task_train` does: a run of the recorder each, its records too.

    Tasks with the same dataset but for its segments, as those of RollingGen, share it: it is loaded once, here, put
    once into each node's object store and read there without a copy. A handler of a DayDatasetH without days of its own
    has those of its segments, so another one for each window: give it `start_time`, `end_time` and, where it takes
    them, `fit_start_time`, `fit_end_time` (no later than the first window's train) to share.

    A task whose worker or node is lost, or that ends with what may pass (`passing`), is begun again, as a run of its
    own; the one that was lost is marked KILLED. After another error the rest of the list is still trained; then it is
    raised. The same list trained again goes on: what runs of the same program, versions and data have finished is taken
    over, until `end_train` has closed the list. The runs must be where all workers can write: a file for a Ray of one
    machine, a server and a shared folder for a cluster (docs/scale.md).

    Args:
        experiment_name: of the runs.
        address, cpus, gpus, retries, workers: see `engine.Ray`.
        share: load a dataset that several tasks have once; False: each loads its own.
        train_func: what trains a task in place of `task_train`, with its arguments; it shares nothing.
        default_rec_name: name of the runs; None: by what they are.

    >>> RayTrainer("rolling", gpus=0.5)
    RayTrainer('rolling', Ray(gpus=0.5))
    """

    def __init__(
        self,
        experiment_name: str | None = None,
        train_func: Callable[..., Recorder] | None = None,
        default_rec_name: str | None = None,
        *,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        retries: int = 3,
        workers: int | None = None,
        share: bool = True,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown, argument_names(RayTrainer))
        check_flag("share", share)
        super().__init__(experiment_name, train_func, default_rec_name=default_rec_name)
        self.share = share
        self.engine = Ray(address=address, cpus=cpus, gpus=gpus, retries=retries, workers=workers)

    def __repr__(self) -> str:
        """Experiment and Ray."""
        return f"RayTrainer({self.experiment_name!r}, {self.engine})"

    def train(
        self,
        tasks: Any,
        train_func: Callable[..., Recorder] | None = None,
        experiment_name: str | None = None,
        **kwargs: Any,
    ) -> list[Recorder]:
        """Train the tasks; the runs in their order.

        Args:
            tasks: of qlib, as the section `task` of a workflow; one or a list.
            train_func: as of the class, for this list.
            experiment_name: likewise.
            kwargs: for `train_func`.

        Raises: the first error of a task, after all others have ended; RuntimeError for a worker lost too often.
        """
        listed: list[Any] = [tasks] if isinstance(tasks, Mapping) else list(tasks)
        if not listed:
            return []
        train_func = train_func or self.train_func
        if kwargs and train_func is None:
            raise TypeError(f"{', '.join(kwargs)} would be for a train_func, of which there is none: leave it out")
        experiment = R.get_exp(experiment_name=experiment_name or self.experiment_name)
        tags = {LIST: list_digest(listed)}
        work = partial(
            train_task, _config(self.engine), experiment.name, self.default_rec_name, tags, train_func, kwargs
        )
        with _held(experiment, tags[LIST]):
            done = _finished(experiment, tags[LIST])
            if done:
                progress.note(
                    f"{len(done)} of {len(listed)} tasks were finished by a call that was cut short: taken over"
                )
            left = [(place, task) for place, task in enumerate(listed) if place not in done]
            for job in left:
                _refuse_empty(*job)
            try:
                failed = self._run(work, left, len(listed), done, shared=self.share and train_func is None)
            finally:  # Ctrl-C too
                _end_lost(experiment, tags[LIST])
        if failed:
            place, error = min(failed.items())
            error.add_note(f"task {place} (from 0) of {len(listed)}; {len(failed)} failed, {len(done)} are finished")
            raise error
        runs = [experiment.get_recorder(recorder_id=done[place]) for place in range(len(listed))]
        for run in runs:
            run.set_tags(**{self.STATUS_KEY: self.STATUS_BEGIN})
        return runs

    def _run(
        self, work: Callable[..., str], left: Sequence[Job], total: int, done: dict[int, str], *, shared: bool
    ) -> dict[int, Exception]:
        """Run what is left, and note in `done` what was finished: errors by place."""
        groups = _groups(left) if shared else [[job] for job in left]
        ordered = [place for group in groups for place, _ in group]
        failed: dict[int, Exception] = {}
        begin = time.monotonic()
        for count, (number, what) in enumerate(self.engine.run(work, _jobs(groups), again=passing, keep=True), 1):
            place, rest = ordered[number], len(ordered) - count
            if isinstance(what, Exception):
                failed[place] = what
                told = f"failed: {type(what).__name__}: {str(what).splitlines()[0] if str(what) else ''}"
            else:
                done[place] = what
                told = f"finished, run {what[:8]}"
            after = progress.as_time((time.monotonic() - begin) / count * rest)
            progress.note(f"task {place} {told}; {count + total - len(ordered)} of {total}, about {after} left")
        return failed


def train_task(
    config: Any,
    experiment: str,
    name: str | None,
    tags: dict[str, str],
    train_func: Callable[..., Recorder] | None,
    kwargs: dict[str, Any],
    dataset: Dataset | None,
    job: Job,
) -> str:
    """Train a task on a worker, as `task_train` does; the id of its run."""
    place, task = job
    _register(config)
    if train_func is not None:
        run = train_func(task, experiment, recorder_name=name, **kwargs)
        run.set_tags(**tags, **{PLACE: str(place)})
        return str(run.id)
    with R.start(experiment_name=experiment, recorder_name=name):
        R.set_tags(**tags, **{PLACE: str(place)})
        _log_task_info(task)
        if dataset is not None:
            dataset.config(segments=copy.deepcopy(task["dataset"]["kwargs"]["segments"]))
        _exe_task(task if dataset is None else {**task, "dataset": dataset})
        return str(R.get_recorder().id)


def _register(config: Any) -> None:
    """Make qlib of this worker as the driver's: a worker outlives a list where Ray does, and keeps its qlib."""
    global _registered
    told = exact(config.__dict__)
    if told != _registered:
        H.clear()
        C.register_from_C(config, skip_register=False)
    _registered = told


_registered = ""


def passing(error: BaseException | None) -> bool:
    """Tell an error that may pass: a database that is busy, a disk that is away, a node that is full; no wrong path."""
    if isinstance(error, MlflowException):  # it tells errors of the database and of the network in words of its own
        return error.error_code == "TEMPORARILY_UNAVAILABLE" or passing(error.__cause__ or error.__context__)
    return isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError)


def list_digest(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Tell a list of tasks from others, and from itself with another program, other versions or data."""
    facts = task_facts({"model": [task.get("model") for task in tasks], "tasks": list(tasks)})
    return hashlib.blake2b(repr(sorted(facts.items())).encode(), digest_size=16).hexdigest()


def _refuse_empty(place: int, task: Mapping[str, Any]) -> None:
    """Raise ValueError for a dataset or handler that is an object: qlib's pickle leaves their data out."""
    dataset = task.get("dataset")
    handler = (dataset.get("kwargs") or {}).get("handler") if isinstance(dataset, Mapping) else None
    for what in (dataset, handler):
        if isinstance(what, Serializable) and not what.dump_all:
            raise ValueError(
                f"task {place}: its {type(what).__name__} is an object, whose data does not go to another process: "
                "give its configuration, or a handler's file (handler.to_pickle(path, dump_all=True), file://path)"
            )


def _config(engine: Ray) -> Any:
    """Copy the configuration of qlib for the workers: the same runs wherever a worker stands, its own processors."""
    config = copy.deepcopy(C)
    config["exp_manager"] = copy.deepcopy(C["exp_manager"])
    manager = config["exp_manager"].setdefault("kwargs", {})
    manager["uri"] = R.get_uri()
    if isinstance(R.exp_manager, SqliteExpManager) and not manager["uri"].startswith("sqlite:"):
        manager["artifacts"] = str(Path(manager.get("artifacts") or "mlruns").expanduser().absolute())
    config["kernels"] = max(1, int(engine.cpus))
    return config


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs by the dataset that they share, in the order of the first of each."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_shared(job[1].get("dataset")) or job[0], []).append(job)
    return list(groups.values())


def _shared(config: Any) -> str | None:
    """Tell datasets from others that differ in more than their segments; None of one that nothing shares."""
    if not isinstance(config, Mapping) or not isinstance((config.get("kwargs") or {}).get("handler"), Mapping | str):
        return None
    kind, options = get_callable_kwargs(config)[0], dict(config["kwargs"])
    segments = options.pop("segments", {})
    if issubclass(kind, DayDatasetH):
        options["handler"] = dated_handler(options["handler"], plain_segments(segments))
    return exact([f"{kind.__module__}.{kind.__qualname__}", options])


def _jobs(groups: Sequence[Sequence[Job]]) -> Iterator[tuple[Dataset | None, Job]]:
    """Give each job with the dataset that it shares, loaded when its group is reached; one alone loads its own."""
    for group in groups:
        dataset = None
        if len(group) > 1:
            try:
                dataset = _loaded(group[0][1]["dataset"])
            except Exception as error:  # noqa: BLE001  it is each task's own then
                progress.note(f"what {len(group)} tasks share cannot be loaded ({type(error).__name__}: {error})")
        yield from ((dataset, job) for job in group)
        del dataset


def _loaded(config: Any) -> Dataset:
    """Load a dataset, with all that a worker would make of it, so that it is pickled with its data."""
    dataset = init_instance_by_config(config, accept_types=Dataset)
    if isinstance(dataset, DayDatasetH):
        _ = dataset.panel
    dataset.config(dump_all=True, recursive=True)
    return dataset


def _held(experiment: Any, digest: str) -> AbstractContextManager[None]:
    """Let one process at a time train a list, where its runs have a folder that we know; another one waits."""
    if not isinstance(R.exp_manager, SqliteExpManager):
        return nullcontext()
    return alone(Path(experiment.folder) / f"list {digest[:8]}", progress.note)


def _tagged(experiment: Any, digest: str, status: str) -> list[Any]:
    """Find the runs of a list with a status."""
    chosen = f"tags.`{LIST}` = '{digest}'"
    return list(experiment.list_recorders(rtype=experiment.RT_L, status=status, filter_string=chosen))


def _finished(experiment: Any, digest: str) -> dict[int, str]:
    """Find the runs that have finished tasks of a list that is not closed: place -> id."""
    done: dict[int, str] = {}
    for run in _tagged(experiment, digest, Recorder.STATUS_FI):
        tags = run.list_tags()
        if tags.get(TrainerR.STATUS_KEY) != TrainerR.STATUS_END:
            done[int(tags[PLACE])] = str(run.id)
    return done


def _end_lost(experiment: Any, digest: str) -> None:
    """Mark runs of a list as KILLED whose workers are gone: all of it has ended."""
    for run in _tagged(experiment, digest, "RUNNING"):
        run.client.set_terminated(run.id, "KILLED")
