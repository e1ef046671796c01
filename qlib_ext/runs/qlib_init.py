"""Where runs are kept and where data come from: classes named in `qlib_init` of a workflow. It needs qlib."""

import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.exceptions import MlflowException
from qlib.config import C
from qlib.data.data import LocalCalendarProvider
from qlib.log import get_module_logger
from qlib.utils.exceptions import ExpAlreadyExistError
from qlib.workflow.expm import MLflowExpManager
from qlib.workflow.recorder import Recorder

from qlib_ext import progress, ranks, synthetic
from qlib_ext.runs.alive import end_the_gone
from qlib_ext.runs.database import experiment_title
from qlib_ext.runs.mlflow_run import RunExperiment
from qlib_ext.runs.place import RunsFile, RunsServer, place_of
from qlib_ext.runs.quiet import quieten
from qlib_ext.runs.start import check_calling_workflow


class SqliteExpManager(MLflowExpManager):
    """Runs in one sqlite file, their artifacts in `<folder of the file>/mlruns/<experiment name>`; or on a server.

    qlib's default, a folder of text files, is refused by mlflow from 3.13 on; with qlib's own manager over
    sqlite, artifacts land in whatever folder the first run happened to start from. mlflow's bars, one for each
    artifact that a record reads, are off unless MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR says otherwise, and so are its
    lines on where a server shows a run (MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT).

    The class keeps its name, since workflows have it; servers came later. On one, runs of several machines are together
    and their artifacts lie in a folder that all of these see.

    Of several ranks (`qlib_ext.ranks`) the first records: runs of the others go to a folder that ends with them.
    """

    def __init__(self, uri: str, default_exp_name: str | None, artifacts: str | Path | None = None) -> None:
        """Take where the runs are.

        Args:
            uri: `sqlite:///path`, from the current folder where it is relative; of a database's server
                (`postgresql://user:password@host/database`, or another that mlflow takes); or of `mlflow server`
                (`http://host:port`). The password is in no log, tag or artifact of ours.
            default_exp_name: of an experiment that is given no name.
            artifacts: with a server, the folder of artifacts of experiments that are new, on a disk of all machines;
                None: `mlruns` of the current folder. A file has its own beside it.

        Raises: ValueError for anything else.
        """
        quieten()
        check_calling_workflow()
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._opened: set[str] = set()
        if not ranks.is_first():
            uri, artifacts = f"sqlite:///{Path(_aside().name).resolve()}/mlruns.db", None
        place = place_of(uri, "SqliteExpManager: uri")
        if artifacts is not None and isinstance(place, RunsFile):
            raise ValueError(
                f"SqliteExpManager: artifacts is {str(artifacts)!r}, which is for a server; those of a file lie beside "
                f"it, in {place.file.parent / 'mlruns'}: leave it out, or put the file there"
            )
        self._named = artifacts is not None
        self._folder = Path(artifacts or "mlruns").expanduser().absolute()
        super().__init__(uri=place.uri, default_exp_name=default_exp_name)

    def __repr__(self) -> str:
        """Return the name and the uri, without its password."""
        return self._place.hide(super().__repr__())

    @property
    def _place(self) -> RunsFile | RunsServer:
        return place_of(self.uri, "uri")

    @property
    def client(self) -> Any:
        """Client of mlflow; the first one makes the file or the tables, or waits for the process that does."""
        place = self._place
        if place.uri not in self._opened:
            log = get_module_logger("qlib_ext")
            place.open(progress.note, self._folder)
            self._opened.add(place.uri)
            with place.telling():
                end_the_gone(super().client, log.warning)
        return super().client

    def _end_exp(self, recorder_status: str = Recorder.STATUS_S) -> None:
        """End the active experiment; it is over even where its end cannot be recorded, and another may begin."""
        try:
            super()._end_exp(recorder_status)
        finally:
            self.active_experiment = None

    def create_exp(self, experiment_name: str | None = None) -> RunExperiment:
        """Create an experiment whose artifacts go to the stated folder; ExpAlreadyExistError: qlib then reads it."""
        name, place = experiment_title(experiment_name), self._place
        try:
            with place.telling():
                client, folder = self.client, place.experiment_folder(name, self._folder)
                number = client.create_experiment(name, artifact_location=folder)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            if self.client.get_experiment_by_name(name).lifecycle_stage == "deleted":
                cure = "restore it (`mlflow experiments restore`), or take another name"
                raise ValueError(f"the experiment {name!r} was deleted in mlflow: {cure}") from error
            raise ExpAlreadyExistError() from error
        if isinstance(place, RunsServer) and not self._named:
            cure = "a folder of all machines is named by `artifacts: DIR` in exp_manager"
            progress.note(f"the artifacts of experiment {name!r} go to {folder}, which others may not see: {cure}")
        return RunExperiment(number, name, self.uri)

    def _start_exp(self, **named: Any) -> RunExperiment:
        experiment = super()._start_exp(**named)
        if self._named and Path(own := experiment.folder).parent != self._folder:
            progress.note(f"experiment {experiment.name!r} has its artifacts in {own} since it began: they stay there")
        return experiment

    def _get_exp(self, experiment_id: str | None = None, experiment_name: str | None = None) -> RunExperiment:
        if experiment_id is None:
            experiment_name = experiment_title(experiment_name)
        with self._place.telling():
            found = super()._get_exp(experiment_id, experiment_name)
        return RunExperiment(found.id, found.name, self.uri)


@cache
def _aside() -> TemporaryDirectory[str]:
    """Folder of this process alone, which goes with it."""
    return TemporaryDirectory(prefix="qlib_ext_rank_", ignore_cleanup_errors=True)


class DemoCalendarProvider(LocalCalendarProvider):
    """qlib's calendar provider, which first makes sure that the data folder is there.

    It is the first provider that `qlib.init` builds: the embedded market is written here by the first run
    that asks for it. Worker processes find it complete and write nothing.
    """

    def __init__(self, remote: bool = False, backend: dict[str, Any] | None = None) -> None:
        """Check the folder(s) of `provider_uri`, then as qlib's own; FileNotFoundError: one holds no qlib data."""
        quieten()
        check_calling_workflow()
        if not backend:  # a backend of one's own need not be a folder
            for uri in C.dpm.provider_uri.values():
                if C.dpm.get_uri_type(uri) == C.LOCAL_URI:
                    check_folder(Path(uri))
        super().__init__(remote=remote, backend=backend or {})


def check_folder(path: Path) -> None:
    """Build the embedded market if `path` is its place; otherwise `path` must hold qlib data."""
    log = get_module_logger("qlib_ext")
    if path.expanduser().resolve() == synthetic.DEFAULT_PATH.resolve():
        if not synthetic.is_market(path):
            progress.note(f"first run: writing the embedded market to {path} (once, under a minute)")
            synthetic.ensure_market(path, say=log.info)
            progress.note(f"the embedded market is ready: {path}")
        return
    missing = [name for name in ("calendars", "instruments", "features") if not (path / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"provider_uri is {str(path)!r}, which "
            + (f"has no {'/, '.join(missing)}/." if path.is_dir() else "does not exist.")
            + " Unset QLIB_EXT_PROVIDER_URI for the embedded market, or point it at a qlib data folder"
            " (one with calendars/, instruments/ and features/)."
        )
