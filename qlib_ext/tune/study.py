"""The trials of a search in optuna's storage: drawn, counted, ended, and done again where a process was killed.

A trial counts where optuna has it as COMPLETE (trained), PRUNED (ended early, or failed), RUNNING or WAITING; FAIL is
what was killed, which is done again as a new one of the same values. What is drawn for the so many-th counted trial
depends on the seed, that number and the trials before it: a search by one process has the same trials however often
it was killed.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import create_engine, make_url
from sqlalchemy import text as sql

from qlib_ext.beside import alone
from qlib_ext.tune.space import Range, as_json, differences

STARTUP = 10  # trials drawn at random before the sampler learns from them
LEAST = 5  # trained trials before one is ended early, and that have come as far
TRIES = 3  # times that a trial is begun whose process is killed
FACTS, EXPERIMENT = "facts", "experiment"  # attributes of a study
AGAIN, TRIED, WORKER = "again", "tries", "worker"  # of a trial
SQLITE, POSTGRES = "sqlite:///", "postgresql"
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)


def open_storage(uri: str) -> Any:
    """Open, or make, the storage of searches: `sqlite:///FILE` or `postgresql://...`.

    Raises: ValueError for another address.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not uri.startswith((SQLITE, POSTGRES)) or uri == SQLITE:
        raise ValueError(f"--storage is {uri!r}; give sqlite:///FILE, such as sqlite:///tune.db, or postgresql://...")
    if uri.startswith(SQLITE):
        file = Path(uri.removeprefix(SQLITE)).expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.RDBStorage(f"{SQLITE}{file}", engine_kwargs={"connect_args": {"timeout": 60}})
    return optuna.storages.RDBStorage(_driven(uri))


def _driven(uri: str) -> str:
    """Name the driver of PostgreSQL that the extra `server` brings: SQLAlchemy's choice changes with its version."""
    return uri.replace("postgresql://", "postgresql+psycopg2://", 1)


@contextmanager
def held(uri: str, name: str) -> Iterator[None]:
    """Let one process at a time drive a study; the lock goes with the process, however it ends.

    Raises: ValueError where another one does.
    """
    shown = make_url(uri).render_as_string(hide_password=True)
    text = f"the study {name!r} in {shown} is being searched by another process: wait, or give this one a --study"
    key = int.from_bytes(sha256(name.encode()).digest()[:7], "big")
    if uri.startswith(SQLITE):

        def refuse(_told: str) -> NoReturn:
            raise ValueError(text) from None

        file = Path(uri.removeprefix(SQLITE)).expanduser().resolve()
        with alone(file.with_name(f"{file.name[:40]}.{key:x}"), refuse):
            yield
        return
    engine = create_engine(_driven(uri))
    with engine.connect() as connection:
        if not connection.execute(sql(f"SELECT pg_try_advisory_lock({key})")).scalar():
            raise ValueError(text)
        yield
    engine.dispose()


class Trials:
    """The trials of one study, of so many that are wanted.

    Args:
        uri: of the storage.
        name: of the study.
        ranges: that are searched.
        count: trials that are wanted.
        warmup: steps of a trial before it may be ended early; None: none is.
    """

    def __init__(self, uri: str, name: str, ranges: Sequence[Range], count: int, warmup: int | None = None) -> None:
        self.ranges = sorted(ranges, key=lambda each: each.path)  # what is drawn does not hang on the order of lines
        self.count = count
        pruner: Any = optuna.pruners.NopPruner()
        if warmup is not None:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=LEAST, n_warmup_steps=warmup, n_min_trials=LEAST)
        self.storage = open_storage(uri)
        self.study = optuna.create_study(
            storage=self.storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
        )
        self.seed = int(self.facts.get("seed", 0))

    @property
    def facts(self) -> dict[str, Any]:
        """What the study is of; empty before `claim`."""
        return dict(json.loads(self.study.user_attrs.get(FACTS, "{}")))

    def claim(self, facts: Mapping[str, Any], experiment: str) -> None:
        """Write down what the study is of, or see that it is of that.

        Raises: ValueError that names what differs.
        """
        known = self.facts
        if not known:
            self.study.set_user_attr(FACTS, as_json(facts))
            self.study.set_user_attr(EXPERIMENT, experiment)
        else:
            told = differences(known, json.loads(as_json(facts)))
            if told:
                more = f" and {len(told) - 3} places more" if len(told) > 3 else ""
                raise ValueError(
                    f"the study {self.study.study_name!r} is of another search: {'; '.join(told[:3])}{more}. Go on "
                    "with what it was begun with, or give this search a name of its own: --study NAME"
                )
        self.seed = int(self.facts["seed"])

    # --- one after the other

    def counted(self) -> list[FrozenTrial]:
        """Trials that count, in their order."""
        return self.study.get_trials(deepcopy=False, states=_COUNTED)

    def left(self) -> int:
        """Trials that are yet to be ended."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return max(self.count - len(done), 0)

    def ask(self, worker: str) -> Trial | None:
        """Begin the next trial; None where all that are wanted are begun."""
        counted = self.counted()
        begun = sum(trial.state != TrialState.WAITING for trial in counted)
        if begun >= self.count:
            return None
        self._seed(begun)
        trial = self.study.ask()
        trial.set_user_attr(WORKER, worker)
        place = self.place(trial.number)
        if place >= self.count:  # another process took the last one at the same time
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        self._seed(place)
        for each in self.ranges:
            suggest(trial, each)
        return trial

    def best(self) -> FrozenTrial | None:
        """Give the trial with the highest value, the earliest of several; None where none is trained."""
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return max(done, key=lambda trial: (trial.value, -trial.number), default=None)

    def place(self, number: int) -> int:
        """Tell the place of a trial among those that count, from 0."""
        return sum(trial.number < number for trial in self.counted())

    def _seed(self, place: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            digest = sha256(f"{self.seed} {place}".encode()).digest()
            self.study.sampler = optuna.samplers.TPESampler(
                seed=int.from_bytes(digest[:4], "big"), n_startup_trials=STARTUP
            )

    def values(self, trial: FrozenTrial | Trial) -> dict[str, Any]:
        """Values of a trial by path, as the workflow takes them."""
        found = trial.params
        return {
            each.path: found[each.path] if each.choices is None else json.loads(found[each.path])
            for each in self.ranges
            if each.path in found
        }

    # --- after a kill

    def repair(self, worker: str | None = None) -> int:
        """Let trials be done again that a process, or any, had begun and not ended; returns their number.

        It is for who knows that the process is gone. A trial that was begun `TRIES` times has failed.
        """
        stale = [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if worker is None or trial.user_attrs.get(WORKER) == worker
        ]
        known = {trial.user_attrs.get(AGAIN) for trial in self.study.get_trials(deepcopy=False)}
        for trial in stale:
            tries = trial.user_attrs.get(TRIED, 1)
            if tries >= TRIES:
                why = f"its process was killed {tries} times (out of memory?)"
                for name, value in {"state": "failed", "why": why}.items():
                    self.storage.set_trial_user_attr(trial._trial_id, name, value)
                self.study.tell(trial.number, state=TrialState.PRUNED)
                continue
            if len(trial.params) == len(self.ranges) and trial.number not in known:  # else they are drawn once more
                self.study.enqueue_trial(trial.params, {AGAIN: trial.number, TRIED: tries + 1})
            self.study.tell(trial.number, state=TrialState.FAIL)
        return len(stale)


def suggest(trial: Trial, each: Range) -> Any:
    """Let optuna draw a value; choices by their JSON, which it can store."""
    if each.choices is not None:
        return trial.suggest_categorical(each.path, each.texts)
    if isinstance(each.low, int) and isinstance(each.high, int):
        return trial.suggest_int(each.path, each.low, each.high, log=each.log, step=int(each.step or 1))
    return trial.suggest_float(each.path, each.low, each.high, log=each.log, step=each.step)


def related(uri: str, experiment: str) -> list[Any]:
    """Studies of a storage that searched for the workflow of an experiment, the oldest first."""
    storage = open_storage(uri)
    every = optuna.get_all_study_summaries(storage, include_best_trial=False)
    names = [each.study_name for each in every if each.user_attrs.get(EXPERIMENT) == experiment]
    return [optuna.load_study(study_name=name, storage=storage) for name in names]
