"""Where runs are kept, by their uri: a sqlite file, or a server; both are used alike. By mlflow alone."""

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from qlib_ext.runs.database import (
    DEFAULT_URI,
    artifact_folder,
    check_database,
    database_file,
    experiment_folder,
    open_database,
    telling,
    where_now,
)
from qlib_ext.runs.server import RunsServer, is_server


class RunsFile:
    """Runs in a sqlite file, their artifacts in mlruns/ beside it."""

    def __init__(self, uri: Any, what: str) -> None:
        self.file = database_file(uri, what)
        self.uri = self.shown = f"sqlite:///{self.file}"

    @property
    def hint(self) -> str:
        """What a command is told to look here; "" where it does so by itself."""
        return "" if self.file == database_file(DEFAULT_URI, "uri") else self.uri

    def hide(self, value: Any) -> Any:
        """Return what is given: a file has no password."""
        return value

    def open(self, say: Callable[[str], object], _artifacts: Path) -> None:
        """Make sure of the file, see `open_database`."""
        open_database(self.file, say)

    def check(self) -> None:
        """Raise OSError or ValueError for a file that is not there, or that cannot be read."""
        if not self.file.is_file():
            raise FileNotFoundError(
                f"no runs here: {self.file} is not there; start from the folder of the runs, or give --uri"
            )
        check_database(self.file)

    def telling(self) -> AbstractContextManager[None]:
        """Turn errors into what is wrong, and what to do."""
        return telling(self.file)

    def patiently(self, call: Callable[[], Any], _say: Callable[[str], object]) -> Any:
        """Call, with errors as `telling` has them; sqlite waits by itself."""
        with self.telling():
            return call()

    def experiment_folder(self, name: str, _artifacts: Path) -> str:
        """Return the place of an experiment's artifacts."""
        return experiment_folder(self.file.parent / "mlruns", name)

    def folder(self, address: str) -> Path:
        """Return the folder of artifacts, where it is now."""
        return where_now(self.file, artifact_folder(address))

    def refuse(self, address: str, whose: str) -> None:
        """Let every folder be: it is made where it is not there."""


def place_of(uri: Any, what: str) -> RunsFile | RunsServer:
    """Where the runs of a uri are.

    Raises: ValueError that names the option `what`, for what is neither of a file nor of a server.

    >>> place_of("postgresql://desk:secret@db/runs", "uri").shown
    'postgresql://desk:***@db/runs'
    """
    return RunsServer(uri, what) if is_server(uri) else RunsFile(uri, what)


def uri_option(place: RunsFile | RunsServer) -> str:
    """Return the option that a command line needs to look there, with a blank before it; "" where it needs none."""
    return f" --uri {shlex.quote(place.hint)}" if place.hint else ""
