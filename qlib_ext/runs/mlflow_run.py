"""qlib's experiment and recorder over mlflow, as `SqliteExpManager` hands them out. It needs qlib."""

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from qlib.config import C
from qlib.log import get_module_logger
from qlib.workflow.exp import MLflowExperiment
from qlib.workflow.recorder import MLflowRecorder

from qlib_ext import __version__, progress, ranks
from qlib_ext.provider import Witness
from qlib_ext.runs.alive import lock_of, process_tags, release
from qlib_ext.runs.artifacts import load_if_there
from qlib_ext.runs.database import artifact_folder
from qlib_ext.runs.kept import KeptRecords, Written, records_of, score_digest
from qlib_ext.runs.naming import VERSION, provider_folder, run_name, run_tags
from qlib_ext.runs.place import RunsFile, RunsServer, place_of, uri_option
from qlib_ext.runs.quiet import Silence
from qlib_ext.runs.start import STAGES, calling, check_task, stages
from qlib_ext.runs.twins import dump_objects

logger = get_module_logger("qlib_ext")

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_BATCH = 100  # most values that mlflow logs at a time
_LONGEST_KEY = 250
_GIT = {"code_diff.txt": "diff", "code_status.txt": "status", "code_cached.txt": "diff --cached"}  # as qlib names them
_LONGEST_DIFF = 1_000_000  # letters of one of these files
_TOGETHER = f"; of several ranks all are ended where one ends: {ranks.AGAIN}"
COMMIT = "mlflow.source.git.commit"
UNNAMED = "mlflow_recorder"  # what qlib calls every run


class RunRecorder(MLflowRecorder):
    """A run's recorder: what qlib's does not do when a run is written stands here.

    A run always ends: FINISHED, FAILED, or KILLED by Ctrl-C, SIGTERM or SIGHUP; one that was killed hard is marked
    KILLED by the next run over the same file. What is logged is written at once: an error is told where it happens.
    What qlib's log says meanwhile is in the artifact run.log; see `progress` for what is shown of it.
    """

    id: Any
    name: Any
    async_log: Any
    _lock: Any = None
    _witness: Witness | None = None  # of the data that it reads
    _scoped = False  # begun by `with R.start(...)`, which ends what it begins
    _killed = ""  # by this signal
    _handlers: Sequence[int] = ()
    _silence: Silence | None = None
    _task = False  # of a task that qlib's trainer trains
    _kept: KeptRecords | None = None  # what runs of the same task before it have finished
    _records = 0  # of ours that were generated
    _writing: Written | None = None  # the record that is being generated
    _until: Sequence[Path] = ()  # files that go when it is finished

    def __repr__(self) -> str:
        """Return what qlib tells of a recorder, without a password."""
        return self._place.hide(super().__repr__())

    def start_run(self) -> Any:
        """Start the run, or go on with one that has an id."""
        self._scoped = _within_start()
        with self._place.telling():
            self._refuse_elsewhere()
            if self.id is None:  # by one transaction, with all that tells its process: it may be killed at any time
                tags = resolve_tags(process_tags())
                self.id = self.client.create_run(self.experiment_id, tags=tags, run_name=self.name).info.run_id
            else:
                self.set_tags(**process_tags())
            try:
                self._lock = lock_of(self.client.get_run(self.id).info.artifact_uri)
                self._lock.acquire(timeout=5)
                self._catch_signals()
                self._begin()
                run = super().start_run()
            except OSError:  # what could not begin has an end too
                self.end_run(self.STATUS_FA)
                with suppress(MlflowException):
                    self.client.set_terminated(self.id, self.STATUS_FA)
                raise
        self.async_log.wait()
        self.async_log = None
        return run

    def end_run(self, status: str = MLflowRecorder.STATUS_S) -> None:
        """End the run with a status; where an interpreter ends that was not to end, the run is KILLED or FAILED.

        Raises: OSError for a run that is finished and cannot be written, or whose data or artifacts have changed.
        """
        last = ""
        try:
            self._end(status)
            if self.status == self.STATUS_FI and progress.planned():
                where = uri_option(self._place)
                last = f"  {'run':<11} {self.id}; its tables: qlib-ext show {self.id[:8]}{where}; done in"
        finally:
            if self._silence is not None:
                self._silence.end()
                self._silence = None
                progress.close(last)

    def _end(self, status: str) -> None:
        scoped = _within_start()
        if self._killed or (status == self.STATUS_FA and not scoped and _interrupted()):
            status = "KILLED"
        elif status == self.STATUS_FI and self._scoped and not scoped:
            status = self.STATUS_FA  # qlib's handler at the interpreter's end, after sys.exit in the midst
        spoilt = self._spoilt() if status == self.STATUS_FI else ""
        if spoilt:
            status = self.STATUS_FA
        for number in self._handlers:  # torchrun ends all ranks where one does: not in the midst of this
            signal.signal(number, signal.SIG_DFL if ranks.launched() == 1 else signal.SIG_IGN)
        self.status, self.end_time = status, datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        written = False
        try:
            try:
                if status == self.STATUS_FI:  # mlflow tries once
                    self._place.patiently(partial(self.client.get_run, self.id), logger.warning)
            finally:
                with self._place.telling():
                    mlflow.end_run(status)
            written = True
        except OSError as error:
            if status == self.STATUS_FI:
                raise
            logger.error(f"run {self.id} stays RUNNING until the next one is started here: {error}")
        finally:
            if self._lock is not None:
                release(self._lock, ended=written)
                self._lock = None
            for number in self._handlers:
                signal.signal(number, signal.SIG_DFL)
            self._handlers = ()
        if status == self.STATUS_FI or spoilt:  # nobody shall go on with what was learnt from data that changed
            for file in (*self._until, *([self._kept.file] if self._kept is not None else [])):
                file.unlink(missing_ok=True)
        if status == "KILLED" and ranks.is_first():
            more = _TOGETHER if ranks.launched() > 1 else ""
            logger.error(f"run {self.id} was ended by {self._killed or 'Ctrl-C'}: it is marked KILLED{more}")
        if status == "KILLED" and not self._killed:  # Python forgot it where SQLAlchemy made a program of a string
            with suppress(KeyboardInterrupt):
                exec("raise KeyboardInterrupt")  # so that the process ends by SIGINT, which ends a shell's loop
        if spoilt:
            raise OSError(f"{spoilt}: run {self.id} is marked FAILED, start it again")

    def _spoilt(self) -> str:
        """Say what has become of the run's folder or data meanwhile, so that it cannot be trusted; mostly nothing."""
        if self._lock is not None and not Path(self._lock.lock_file).exists():
            return f"{Path(self._lock.lock_file).parent} was deleted while the run wrote into it"
        changed = [] if self._witness is None else self._witness.changed()
        if not changed:
            return ""
        return (
            f"the data changed while the run read them, {changed[0]} and {len(changed) - 1} files more, on days that "
            "it looks at: what it learnt from and what it was judged by are not one market"
        )

    def get_local_dir(self) -> str:
        """Return the run's folder, which holds `artifacts`."""
        return str(artifact_folder(self.get_artifact_uri()).parent)

    def log_params(self, **params: Any) -> None:
        """Log parameters by name; letters of a name that mlflow does not take become _."""
        hide = self._place.hide
        self._log(params=[Param(_key(name), hide(str(value))) for name, value in params.items()])

    def log_metrics(self, step: int | None = None, **metrics: float) -> None:
        """Log numbers by name, at a step."""
        now = int(time.time() * 1000)
        self._log(metrics=[Metric(_key(name), float(value), now, step or 0) for name, value in metrics.items()])

    def set_tags(self, **tags: Any) -> None:
        """Set tags by name."""
        hide = self._place.hide
        self._log(tags=[RunTag(_key(name), hide(str(value))) for name, value in tags.items()])

    def save_objects(self, local_path: Any = None, artifact_path: Any = None, **objects: Any) -> None:
        """Keep a local file, or objects by name with their twins, as artifacts; a task to be trained is checked."""
        if "task" in objects and calling("_log_task_info", "qlib/model/trainer.py"):
            self._witness = check_task(objects["task"])
            self._task, self._kept = True, records_of(objects["task"])
            if self._kept is not None and self._kept.refused:
                logger.warning(f"{self._kept.refused}: what it kept is made anew")
            self._introduce(objects["task"])
            progress.plan(stages(objects["task"]))
            if ranks.launched() > 1:
                progress.note(f"{ranks.launched()} ranks share the days of each step; this one records")
            progress.stage(STAGES[0])
        elif "params.pkl" in objects and progress.planned():
            self._part()
            progress.stage(STAGES[2])
        with self._place.telling(), TemporaryDirectory() as folder:
            if local_path is None:
                dump_objects(Path(folder), artifact_path, self._place.hide(objects))
            save = partial(super().save_objects, local_path or folder, artifact_path)
            self._place.patiently(save, logger.warning)
            if self._writing is not None:
                self._writing.add(Path(local_path or folder), artifact_path or "")

    def _part(self) -> None:
        """Let the first of several ranks go on alone with qrun's task, once its model is trained; the others end."""
        if not calling("workflow", "qlib/cli/run.py"):
            return
        if ranks.launched() > 1 and not ranks.spoke():
            logger.warning(f"{ranks.launched()} ranks have trained the same: this model shares its days with none")
        ranks.part()

    @contextmanager
    def once(self, record: Any) -> Iterator[bool]:
        """Generate a record within, unless it need not be: the run before was killed after it, what it wrote is here.

        Yields: whether it need not.
        """
        scores = None if self._kept is None else load_if_there(self, "pred.pkl")
        if self._kept is None or scores is None:
            yield False
            return
        self._records += 1
        kind = f"{type(record).__module__}.{type(record).__qualname__}"
        place = f"{self._records} on {score_digest(scores)}"
        before = self._kept.records.get(place)
        if before is None and any(name.startswith(f"{self._records} on ") for name in self._kept.records):
            logger.warning("the scores are not those of the run that was cut short: this record is made anew")
        if before is not None and before.kind == kind and self._taken(before):
            yield True
            return
        self._writing = Written(kind, str(self.id), str(self._artifacts()))
        try:
            yield False
            self._kept.keep(place, self._writing)
        finally:
            self._writing = None

    def delete_when_finished(self, files: Iterable[Path]) -> bool:
        """Take files over that shall go when the run is finished; False of a run without a task."""
        if self._task:
            self._until = [*self._until, *files]
        return self._task

    def _taken(self, before: Written) -> bool:
        """Take over what a record wrote into an earlier run; False where that is not whole."""
        if spoilt := before.spoilt():
            logger.warning(f"{spoilt} of run {before.run} is damaged or gone: what wrote it is made anew")
            return False
        for path in before.files:
            own = self._artifacts() / path
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(Path(before.folder, path), own)
        now = int(time.time() * 1000)
        self._log(metrics=[Metric(name, value, now, step) for name, value, step in before.metrics])
        self.set_tags(**before.tags)
        progress.note(f"  finished by run {before.run[:8]}, which was cut short: taken over")
        return True

    def _artifacts(self) -> Path:
        return artifact_folder(self.client.get_run(self.id).info.artifact_uri)

    def _introduce(self, task: Any) -> None:
        """Name the run by what it is, unless its user has, and tag it."""
        if self.name == UNNAMED:
            self.name = run_name(task)
            with self._place.telling():
                self.client.update_run(self.id, name=self.name)
        own = {VERSION: __version__, "provider": provider_folder(C["provider_uri"])}
        self.set_tags(**own | run_tags(task) | ({"ranks": str(ranks.launched())} if ranks.launched() > 1 else {}))

    def _log(self, **values: list[Any]) -> None:
        """Write values of a kind; one that mlflow refuses, such as a changed parameter, is told and left out."""
        ((kind, every),) = values.items()
        if self._writing is not None:
            self._writing.note(kind, every)
        for batch in [every[begin : begin + _BATCH] for begin in range(0, len(every), _BATCH)]:
            try:
                write = partial(self.client.log_batch, self.id, **{kind: batch})
                self._place.patiently(write, logger.warning)
            except MlflowException as error:
                if len(batch) > 1:
                    for value in batch:
                        self._log(**{kind: [value]})
                    continue
                logger.warning(f"{kind} of run {self.id} not recorded: {str(error).splitlines()[0]}")

    @property
    def _place(self) -> RunsFile | RunsServer:
        return place_of(self.uri, "uri")

    def _refuse_elsewhere(self) -> None:
        """Refuse a run whose artifacts could not be written into a folder of this machine."""
        if self.id is None:
            experiment = self.client.get_experiment(self.experiment_id)
            self._place.refuse(experiment.artifact_location, f"experiment {experiment.name!r}")
        else:
            self._place.refuse(self.client.get_run(self.id).info.artifact_uri, f"run {self.id}")

    def _begin(self) -> None:
        """Let `progress` begin; what is logged goes beside the artifacts from now on."""
        folder = artifact_folder(self.client.get_run(self.id).info.artifact_uri)
        folder.mkdir(parents=True, exist_ok=True)
        progress.begin(folder)
        self._silence = Silence()
        self._silence.begin()

    def _log_uncommitted_code(self) -> None:
        """Keep what git knows of the folder as qlib does, where it is of a repository, without a word on the screen."""
        if shutil.which("git") is None or _git("rev-parse", "--is-inside-work-tree").strip() != "true":
            return
        commit = _git("rev-parse", "--verify", "HEAD").strip()  # mlflow asks where qrun lies
        if commit and COMMIT not in self.client.get_run(self.id).data.tags:
            self.set_tags(**{COMMIT: commit})
        for name, command in _GIT.items():
            text = self._place.hide(_git(*command.split()))
            if len(text) > _LONGEST_DIFF:
                text = f"{text[:_LONGEST_DIFF]}\n[cut here: {len(text):,} letters in all]\n"
            self.client.log_text(self.id, text, name)

    def _catch_signals(self) -> None:
        """Let signals that would end the process on the spot unwind it, as Ctrl-C does; a second one ends it."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._handlers = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
        for number in self._handlers:
            signal.signal(number, self._stop)

    def _stop(self, number: int, _frame: Any) -> None:
        self._killed = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(128 + number)


class RunExperiment(MLflowExperiment):
    """An experiment whose recorders are `RunRecorder`s."""

    @property
    def folder(self) -> str:
        """Folder of its artifacts."""
        return str(artifact_folder(self._client.get_experiment(self.id).artifact_location))

    def create_recorder(self, recorder_name: str | None = None) -> RunRecorder:
        """Return a new recorder."""
        return RunRecorder(self.id, self._uri, recorder_name or self._default_rec_name)

    def _get_recorder(self, recorder_id: str | None = None, recorder_name: str | None = None) -> MLflowRecorder:
        if recorder_id is None and recorder_name == UNNAMED:  # none is named: the latest is meant
            for recorder in self.list_recorders(max_results=1).values():
                return recorder
        return _ours(super()._get_recorder(recorder_id, recorder_name))

    def list_recorders(self, *args: Any, **kwargs: Any) -> Any:
        """List the recorders as qlib does, by id or in a list."""
        found = super().list_recorders(*args, **kwargs)
        for recorder in found.values() if isinstance(found, dict) else found:
            _ours(recorder)
        return found


def _ours(recorder: MLflowRecorder) -> MLflowRecorder:
    recorder.__class__ = RunRecorder  # qlib names its own class where it reads a run
    return recorder


def _git(*command: str) -> str:
    """Return what git writes of the current folder; what it complains of is not a run's affair."""
    done = subprocess.run(["git", *command], capture_output=True, check=False)
    return done.stdout.decode(errors="replace")


def _key(name: str) -> str:
    return re.sub(r"[^/\w.\- :]", "_", name)[:_LONGEST_KEY]


def _interrupted() -> bool:
    """Whether Ctrl-C ends the interpreter, asked in qlib's hook for what nobody caught."""
    return isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)


def _within_start() -> bool:
    """Whether qlib's `with R.start(...)` is what begins or ends a run now."""
    return bool(calling("start", "qlib/workflow/__init__.py"))
