"""A search: the trials that are left, done by this process or by several, each a recorder run. It needs qlib."""

import copy
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import qlib
from optuna.trial import Trial, TrialState
from qlib.workflow import R

from qlib_ext import progress
from qlib_ext.engine import Engine, Processes, Ray, WorkerLost
from qlib_ext.options import lacks_memory
from qlib_ext.recorder import check_workflow
from qlib_ext.runs import TRIALS, run_tags
from qlib_ext.tune.blind import blinded, check_ranges, epochs_of, folds_of, metric_of
from qlib_ext.tune.space import Range, as_json, with_values
from qlib_ext.tune.study import Trials, held
from qlib_ext.tune.training import ENDED, FAILED, TRAINED, EarlyEnd, Judged, Market, fingerprint, train

Say = Callable[[str], object]
HOPELESS = 3  # trials that fail before any is trained; times that all processes end before any has ended a trial
_FAILS = (ValueError, ArithmeticError, MemoryError)  # of a training that comes to nothing, such as one that diverges


def tell(line: str) -> None:
    """Say a line of a search on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Settings:
    """What a process needs to take part in a search; it can be pickled.

    Attributes:
        workflow: rendered, test days and records included.
        ranges: that are searched.
        storage, study: where the trials are kept, and their name there.
        trials: how many are wanted in all.
        prune: whether a trial that is worse than others were by then is ended early.
        paths: of Python's modules, so that a process of its own finds the user's.
    """

    workflow: dict[str, Any]
    ranges: list[Range]
    storage: str
    study: str
    trials: int
    prune: bool = True
    paths: list[str] = field(default_factory=lambda: [str(Path(each).absolute()) for each in sys.path])

    @property
    def experiment(self) -> str:
        """Name of the workflow's experiment."""
        return str(self.workflow.get("experiment_name", "workflow"))

    def open(self) -> Trials:
        """Open the study; qlib is started where it is not."""
        _start(self, again=False)
        model = blinded(self.workflow["task"])["model"]
        folds = folds_of(model)
        warmup = max(epochs_of(model) // 4, 2) if folds == 1 else 2
        return Trials(self.storage, self.study, self.ranges, self.trials, warmup if self.prune and folds else None)

    def facts(self, seed: int) -> dict[str, Any]:
        """Tell what makes a search another one."""
        space = {each.path: vars(each) | {"path": ""} for each in self.ranges}
        task = with_values({"task": blinded(self.workflow["task"])}, {each.path: "searched" for each in self.ranges})
        provider = str(self.workflow["qlib_init"].get("provider_uri"))
        return {**task, "space": space, "provider": provider, "prune": self.prune, "seed": seed}


def search(
    settings: Settings, *, seed: int | None = None, jobs: int = 1, ray: str | None = None, say: Say = tell
) -> None:
    """Do the trials that are left; the same call goes on after a kill, and ends at once where none is left.

    Args:
        settings: of the search.
        seed: of what is drawn; None: 0, or that of the study that goes on.
        jobs: processes; 1: this one, which with a seed has the same trials however often it was killed.
        ray: address of a cluster of Ray on which the trials run instead, or "local": a Ray of this machine, with so
            many workers (1: as many as there are processors).
        say: called with a line for each trial.

    Raises: ValueError, TypeError for a space that does not fit the workflow, a study of another search, or another
        process at it.
    """
    check_workflow(settings.workflow)
    _start(settings)
    check_ranges(settings.workflow, settings.ranges)
    with held(settings.storage, settings.study):
        trials = settings.open()
        trials.claim(settings.facts(trials.seed if seed is None else seed), settings.experiment)
        if again := trials.repair():
            say(f"{again} trials were cut short and are done again")
        idle = 0
        while trials.left():
            if ray is None and jobs == 1:
                _do_trials(settings, "0", Market(), say)
                continue
            left = trials.left()
            try:
                _run_elsewhere(settings, trials, _engine(ray, jobs), say)
            except WorkerLost as error:
                if ray is not None:  # which has begun them again itself
                    raise
                idle = idle + 1 if trials.left() == left else 0
                if idle >= HOPELESS:
                    raise ValueError(
                        f"{idle} times a process was killed before a trial had ended, mostly by the system for lack of "
                        "memory: give fewer --jobs, or the machine more memory"
                    ) from error
                say("a process was killed, mostly for lack of memory (fewer --jobs need less): all begin again")


def _engine(ray: str | None, jobs: int) -> Engine:
    return Processes(jobs) if ray is None else Ray(address=ray, workers=None if jobs == 1 else jobs)


def _do_trials(settings: Settings, worker: str, market: Market, say: Say, most: int = sys.maxsize) -> None:
    """Do trials, one after the other, until all that are wanted are begun.

    Args:
        settings: of the search, whose study has been claimed by `search`.
        worker: its name, by which its trials are known should it be killed.
        market: the data, if they are there already.
        say: called with a line for each trial.
        most: trials to do.

    Raises: ValueError where all trials fail, or the data have changed since the first one.
    """
    trials = settings.open()
    metric = metric_of(blinded(settings.workflow["task"])["model"])
    for _ in range(most):
        if (trial := trials.ask(worker)) is None:
            return
        begin = time.monotonic()
        with suppress(_Failed):
            _do(settings, trials, trial, market)
        say(f"{_line(trials, trial.number, metric)}; {progress.as_time(time.monotonic() - begin)}")
        _refuse_hopeless(trials)


# --- one trial


def _do(settings: Settings, trials: Trials, trial: Trial, market: Market) -> None:
    """Do one trial as a run of the experiment `<name>.tune`."""
    values = trials.values(trial)
    task = blinded(with_values(settings.workflow, values)["task"])
    number = trials.place(trial.number) + 1
    with R.start(experiment_name=f"{settings.experiment}{TRIALS}", recorder_name=f"trial {number}"):
        recorder = R.get_recorder()
        trial.set_user_attr("run", str(recorder.id))
        tags = {"study": settings.study, "trial": number, "parameters": as_json(values)}
        R.set_tags(**run_tags(task) | tags)
        R.log_params(**{path: as_json(value) for path, value in values.items()})
        R.save_objects(task=task)
        found = _tried(trials, trial, task, market)
        for name, value in found.facts().items():
            trial.set_user_attr(name, value)
        R.set_tags(state=found.state, **({"value": found.value} if math.isfinite(found.value) else {}))
        if found.state == TRAINED:
            trials.study.tell(trial, found.value)
        else:
            trials.study.tell(trial, state=TrialState.PRUNED)
        if found.why:
            raise _Failed


class _Failed(Exception):  # noqa: N818  the run is FAILED, the search goes on
    """A trial has come to nothing."""


def _tried(trials: Trials, trial: Trial, task: Mapping[str, Any], market: Market) -> Judged:
    """Train a trial; returns what it came to."""

    def step(number: int, value: float, over: bool) -> None:
        trial.report(value, number)
        if not over and trial.should_prune():
            raise EarlyEnd

    try:
        loaded = market.loaded
        dataset = market.dataset(task["dataset"])
        if market.loaded > loaded:
            _same_data(trials, task["dataset"], dataset)
        return train(task, dataset, step)
    except EarlyEnd as end:
        return Judged(ENDED, excess=end.excess)
    except (*_FAILS, RuntimeError) as error:
        if isinstance(error, DataChanged) or not (isinstance(error, _FAILS) or lacks_memory(error)):
            raise
        return Judged(FAILED, why=f"{type(error).__name__}: {error}")


class DataChanged(ValueError):  # noqa: N818
    """The data of a search are not those that its first trials saw."""


def _same_data(trials: Trials, config: Any, dataset: Any) -> None:
    """Refuse data that other trials of the study have not seen."""
    key, own = f"data {sha256(as_json(config).encode()).hexdigest()[:16]}", fingerprint(dataset)
    known = trials.study.user_attrs.get(key)
    if known is None:
        trials.study.set_user_attr(key, own)
    elif known != own:
        raise DataChanged(
            "the training or validation days hold other data than when the search was begun: its trials cannot be "
            "compared with new ones; begin another search, --study NAME"
        )


def _line(trials: Trials, number: int, metric: str) -> str:
    """Say in a line what a trial came to."""
    every = trials.counted()
    trial = next(each for each in every if each.number == number)
    why = trial.user_attrs.get("why", "")
    words = f"failed: {why.splitlines()[0][:80]}" if why else "ended early"
    if trial.state == TrialState.COMPLETE:
        error = trial.user_attrs.get("error", math.nan)
        words = f"{metric} {trial.value:.4f}" + (f" +- {error:.4f}" if math.isfinite(error) else "")
    best = trials.best()
    told = "" if best is None else f"; best {best.value:.4f}, trial {trials.place(best.number) + 1}"
    values = ", ".join(f"{path.rpartition('.')[2]} {short(value)}" for path, value in trials.values(trial).items())
    return f"trial {trials.place(number) + 1} of {trials.count}: {words}{told}; {values}"


def short(value: Any) -> str:
    """Write a value of a trial in few letters."""
    return f"{value:.4g}" if isinstance(value, float) else as_json(value)


def _refuse_hopeless(trials: Trials) -> None:
    """Raise ValueError where the first trials have all failed: the next ones will too."""
    every = trials.counted()
    why: list[str] = [trial.user_attrs["why"] for trial in every if "why" in trial.user_attrs]
    if len(why) >= HOPELESS and not any(trial.state == TrialState.COMPLETE for trial in every):
        raise ValueError(f"the first {len(why)} trials have failed, the last one by {why[-1]}")


# --- qlib


def _start(settings: Settings, *, again: bool = True) -> None:
    """Start qlib as the workflow has it; not `again` where it runs in this process."""
    from qlib.config import C

    for path in settings.paths:
        if path not in sys.path:
            sys.path.append(path)
    if again or not C.registered:
        qlib.init(**copy.deepcopy(settings.workflow["qlib_init"]))  # which qlib writes into


# --- elsewhere


def _run_elsewhere(settings: Settings, trials: Trials, engine: Engine, say: Say) -> None:
    """Let an engine do what is left, a job a trial; on Ray the data are loaded once, unless the search is over them."""
    market = None
    if isinstance(engine, Ray) and not any(each.path.startswith("task.dataset.") for each in settings.ranges):
        config, market = blinded(settings.workflow["task"])["dataset"], Market()
        dataset = market.dataset(config)
        _same_data(trials, config, dataset)
        dataset.config(dump_all=True, recursive=True)
    call = uuid4().hex[:8]
    jobs = [(settings, call, f"{call}.{n}", str(Path.cwd())) for n in range(trials.left())]
    try:
        for _, lines in engine.run(_do_elsewhere, ((market, job) for job in jobs)):
            for line in lines:
                say(line)
    finally:
        trials.repair()


class _Worker:
    """What a worker keeps from trial to trial: whose qlib it has, and the data."""

    call = ""
    market = Market()


def _do_elsewhere(market: Market | None, job: tuple[Settings, str, str, str]) -> list[str]:
    """Do a trial on a worker, that of a worker that was lost again; what there is to say."""
    settings, call, name, folder = job
    os.chdir(folder)  # for relative paths of the workflow
    if _Worker.call != call:
        _start(settings)
        _Worker.call, _Worker.market = call, Market()  # another search may have another provider
    settings.open().repair(name)
    lines: list[str] = []
    _do_trials(settings, name, market or _Worker.market, lines.append, most=1)
    return lines
