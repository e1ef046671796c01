"""The sqlite file of runs: made whole or not at all, and what is wrong with it told with the cure. By mlflow alone."""

import errno
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha1
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from urllib.parse import unquote, urlparse

from qlib_ext.beside import alone, beside, why_not

DEFAULT_URI = "sqlite:///mlruns.db"
PATIENCE = 20  # seconds that sqlite waits for a lock, as mlflow has it
LONGEST_NAME = 500  # of an experiment, mlflow's own
_SQLITE = "sqlite:///"
_CURES = {  # a piece of what sqlite or mlflow says -> what it means
    "is locked": f"another program holds it locked, for more than {PATIENCE} s: close it (a browser of databases with "
    "unsaved changes, a stopped run), or, on a network disk that cannot lock, keep the runs on a local one",
    "readonly database": "it may not be written: give yourself the right to, or start from a folder of your own",
    "unable to open database file": "it cannot be opened: give yourself the right to read and write it and its folder",
    "disk is full": "the disk is full: make room, then start again",
    "disk I/O error": "the disk cannot be written (is it full?): make room, then start again",
    "not a database": "it is no readable file of mlflow runs: check the uri, or move it away",
    "out-of-date database schema": "another version of mlflow made it: install that one, or copy the file and then run "
    "`mlflow db upgrade sqlite:///FILE`",
}
_REPLACED = (
    "it was deleted or replaced while it was in use: put it back (the artifacts in mlruns/ stay), or start again"
)
_FULL, _REFUSED = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)
OF_THE_DATABASE = ("TEMPORARILY_UNAVAILABLE", "BAD_REQUEST")  # mlflow's codes for what its database says
_MOVE = "move it away (the artifacts in mlruns/ stay) and start again, or put back a copy"


def database_file(uri: Any, what: str) -> Path:
    """Return the absolute path behind `sqlite:///path`.

    Raises: ValueError that names the option `what`, for anything else and for a path that sqlite's address cannot hold.
    """
    name = str(uri).removeprefix(_SQLITE)
    if name == str(uri) or name in ("", ":memory:"):
        shown = re.sub("(://[^:@/]*):[^@]*@", r"\1:***@", str(uri))
        raise ValueError(
            f"{what} is {shown!r}; give {_SQLITE}FILE, such as {DEFAULT_URI}, or a server's: "
            "postgresql://USER:PASSWORD@HOST/DATABASE, http://HOST:PORT of `mlflow server`"
        )
    file = Path(name).expanduser().resolve()
    if odd := re.search(r"[?]|%[0-9A-Fa-f]{2}", str(file)):
        raise ValueError(
            f"{what}: {file} has {odd[0]!r} in it, which an address of sqlite cannot hold: rename the folder"
        )
    return file


def open_database(file: Path, say: Callable[[str], object]) -> None:
    """Make sure of a file of runs: built beside, migrated, and renamed, by one process while the others wait.

    Args:
        file: of sqlite.
        say: called with a line where another process has to be waited for.

    Raises: OSError or ValueError for a file or folder that cannot be used: what is wrong, and what to do.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with alone(file, say):
        if not file.exists() or not file.stat().st_size:
            _build(file)
        check_database(file)
        _follow(file, say)
        with telling(file):
            _client(file).search_experiments(max_results=1)  # mlflow migrates a file of its older versions here


def check_database(file: Path) -> None:
    """Raise ValueError for a file without runs, before mlflow would write its tables into it, OSError as `telling`."""
    if not file.stat().st_size:
        raise ValueError(f"{file} is empty: no run has been recorded there")
    with telling(file), closing(sqlite3.connect(file, timeout=PATIENCE)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        ours = {"experiments", "runs"} <= tables
        whole = "alembic_version" in tables and connection.execute("SELECT count(*) FROM alembic_version").fetchone()[0]
    if not ours:
        raise ValueError(
            f"{file} is no readable file of mlflow runs (its tables: {', '.join(sorted(tables)) or 'none'})"
        )
    if not whole:
        raise ValueError(f"{file} is half made, a first run was cut short: {_MOVE}")


@contextmanager
def telling(file: Path) -> Iterator[None]:
    """Turn what sqlite says through mlflow into what is wrong with a file of runs, and what to do.

    Raises: OSError for sqlite's errors, a full disk and what may not be written; mlflow's own, such as of a run that
        is not there, pass.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except OSError as error:
        told = disk_error(error, str(file.parent))
        if told is None:
            raise
        raise told from error
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        text = str(error)
        cure = next((cure for piece, cure in _CURES.items() if piece in text), None)
        if "readonly database" in text and (not file.exists() or _may_write(file)):
            cure = _REPLACED  # sqlite calls it so too
        if cure is None and getattr(error, "error_code", OF_THE_DATABASE[0]) not in OF_THE_DATABASE:
            raise
        cure = cure or f"it is damaged, or half made ({text.splitlines()[0]}): {_MOVE}"
        raise OSError(f"{file}: {cure.replace('FILE', str(file))}") from error


def disk_error(error: OSError, other: str) -> OSError | None:
    """Turn a disk's error into what is wrong, and what to do; None for another one.

    Args:
        error: of writing.
        other: place beside the folder of temporary files, for an error that names none.
    """
    if error.errno not in (*_FULL, *_REFUSED):
        return None
    where = error.filename2 or error.filename or f"{other} or {gettempdir()}"
    full = f"{where}: {_CURES['disk is full']}"
    return OSError(full if error.errno in _FULL else f"{where} cannot be written: {why_not(error)}")


def _may_write(file: Path) -> bool:
    return os.access(file, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def experiment_title(name: Any) -> str:
    """Return the name of an experiment as it is recorded; a whole number becomes text.

    Raises: ValueError for a name that could not be typed again to find its runs.
    """
    if isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ValueError(
            f"experiment_name is {name!r:.80}; allowed: a text of 1 to {LONGEST_NAME} letters, of any language, on "
            "one line; put a number or a date into quotes"
        )
    return name


def experiment_folder(top: Path, name: str) -> str:
    """Place of an experiment's artifacts, as mlflow takes it: within `top`, in a folder that no name leads out of.

    The folder has the experiment's name; what other systems or addresses could misread becomes _, with a digest behind.

    >>> experiment_folder(Path("/x/mlruns"), "master 300"), experiment_folder(Path("/x/mlruns"), "../../基线#1")
    ('/x/mlruns/master 300', '/x/mlruns/_.._基线_1-c2d11803')
    """
    safe = re.sub(r"[^\w .-]", "_", name)[:60].strip(". ")
    folder = name if safe == name else f"{safe or 'run'}-{sha1(name.encode(), usedforsecurity=False).hexdigest()[:8]}"
    return _address(top / folder)


def artifact_folder(address: str) -> Path:
    """Folder behind mlflow's address of artifacts, which is a path or file://; what is neither stays as it is."""
    parsed = urlparse(address)
    return Path(unquote(parsed.path if parsed.scheme else address) if parsed.scheme in ("", "file") else address)


def where_now(file: Path, folder: Path) -> Path:
    """Folder of artifacts in mlruns/ beside the file of runs, where it is there, else as recorded.

    A file records absolute paths; the two differ once it and its mlruns/ were moved, or copied from another machine.
    """
    parts = folder.parts
    here = file.parent.joinpath(*parts[len(parts) - 1 - parts[::-1].index("mlruns") :] if "mlruns" in parts else parts)
    return here if here.is_dir() else folder


def _follow(file: Path, say: Callable[[str], object]) -> None:
    """Record the places of artifacts that have moved with the file: old runs are read there, new ones written."""
    with telling(file), closing(sqlite3.connect(file, timeout=PATIENCE)) as connection, connection:
        for number, address in connection.execute(
            "SELECT experiment_id, artifact_location FROM experiments"
        ).fetchall():
            folder = artifact_folder(address)
            here = where_now(file, folder)
            if here != folder:
                say(f"the runs of {folder} are in {here} now, and so recorded")
                connection.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                    "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                    (_address(here), len(address) + 1, number, len(address), address),
                )
                change = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
                connection.execute(change, (_address(here), number))


def _address(folder: Path) -> str:
    return str(folder).replace("%", "%25")  # which mlflow reads back


def _build(file: Path) -> None:
    """Build the file with the tables of this mlflow; what killed builds and a file that is gone have left goes."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    left = re.compile(rf"\.{re.escape(file.name)}\.\d+\.part(-journal)?|{re.escape(file.name)}-(journal|wal|shm)")
    for stale in filter(lambda each: left.fullmatch(each.name), file.parent.iterdir()):
        stale.unlink()
    with telling(file), beside(file) as partial:
        try:
            SqlAlchemyStore(f"{_SQLITE}{partial}", _address(file.parent / "mlruns"))
        finally:  # mlflow keeps it, whose file is gone, for the next attempt of this process
            engine = getattr(SqlAlchemyStore, "_engine_map", {}).pop(f"{_SQLITE}{partial}", None)
            if engine is not None:
                engine.dispose()


def _client(file: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"{_SQLITE}{file}")
