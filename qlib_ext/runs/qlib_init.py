"""Where runs are kept and where data come from: classes named in `qlib_init` of a workflow. It needs qlib."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow.exceptions import MlflowException
from qlib.config import C
from qlib.data.data import LocalCalendarProvider
from qlib.log import get_module_logger
from qlib.utils.exceptions import ExpAlreadyExistError
from qlib.workflow.expm import MLflowExpManager

from qlib_ext import synthetic
from qlib_ext.runs.mlflow_run import RunExperiment

_SQLITE = "sqlite:///"


class SqliteExpManager(MLflowExpManager):
    """Runs in one sqlite file, their artifacts in `<folder of the file>/mlruns/<experiment name>`.

    qlib's default, a folder of text files, is refused by mlflow from 3.13 on; with qlib's own manager over
    sqlite, artifacts land in whatever folder the first run happened to start from. mlflow's bars, one for each
    artifact that a record reads, are off unless MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR says otherwise.
    """

    def __init__(self, uri: str, default_exp_name: str | None) -> None:
        """Take `sqlite:///path`, from the current folder where it is relative; ValueError for anything else."""
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        database = _database(uri)
        database.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(uri=f"{_SQLITE}{database}", default_exp_name=default_exp_name)

    def create_exp(self, experiment_name: str | None = None) -> RunExperiment:
        """Create an experiment whose artifacts go to the stated folder; ExpAlreadyExistError: qlib then reads it."""
        if not experiment_name:
            raise ValueError("create_exp needs an experiment name; set experiment_name in the workflow.")
        folder = _database(self.uri).parent / "mlruns" / quote(experiment_name, safe=" ").replace("..", "%2E.")
        try:
            number = self.client.create_experiment(experiment_name, artifact_location=str(folder))
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS":
                raise ExpAlreadyExistError() from error
            raise
        return RunExperiment(number, experiment_name, self.uri)

    def _get_exp(self, experiment_id: str | None = None, experiment_name: str | None = None) -> RunExperiment:
        found = super()._get_exp(experiment_id, experiment_name)
        return RunExperiment(found.id, found.name, self.uri)


def _database(uri: str) -> Path:
    """Return the absolute path of the file behind `sqlite:///path`."""
    name = str(uri).removeprefix(_SQLITE)
    if name == str(uri) or name in ("", ":memory:"):
        raise ValueError(f"SqliteExpManager: uri is {uri!r}; give sqlite:///FILE, such as sqlite:///mlruns.db.")
    return Path(name).expanduser().resolve()


class DemoCalendarProvider(LocalCalendarProvider):
    """qlib's calendar provider, which first makes sure that the data folder is there.

    It is the first provider that `qlib.init` builds: the embedded market is written here by the first run
    that asks for it. Worker processes find it complete and write nothing.
    """

    def __init__(self, remote: bool = False, backend: dict[str, Any] | None = None) -> None:
        """Check the folder(s) of `provider_uri`, then as qlib's own; FileNotFoundError: one holds no qlib data."""
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
            log.info(f"first run: writing the embedded market to {path} (once, under a minute)")
            synthetic.ensure_market(path)
            log.info(f"the embedded market is ready: {path}")
        return
    missing = [name for name in ("calendars", "instruments", "features") if not (path / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"provider_uri is {str(path)!r}, which "
            + (f"has no {'/, '.join(missing)}/." if path.is_dir() else "does not exist.")
            + " Unset QLIB_EXT_PROVIDER_URI for the embedded market, or point it at a qlib data folder"
            " (one with calendars/, instruments/ and features/)."
        )
