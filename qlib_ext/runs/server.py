"""Runs on a server: of a database (PostgreSQL, or MySQL and others as mlflow takes them) or of `mlflow server`.

A server is tried before mlflow does, which would go on for minutes; what is wrong with it is told with the cure, and no
password is shown. By mlflow alone.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse

from qlib_ext.runs.database import OF_THE_DATABASE, artifact_folder, disk_error, experiment_folder

PATIENCE = 60  # seconds that a run waits for a database that is away; for `mlflow server`, mlflow waits longer
ANSWER = 10  # seconds within which a server has to answer
LOCK = 7_114_981  # of those who make mlflow's tables, any number of our own
WEB = ("http", "https")
DRIVERS = {"postgresql": ("psycopg2", "psycopg"), "mysql": ("MySQLdb", "pymysql"), "mssql": ("pyodbc", "pymssql")}
PACKAGES = {"psycopg2": "'qlib_ext[server]'", "psycopg": "'qlib_ext[server]'", "MySQLdb": "mysqlclient"}
_ADDRESS = re.compile(r"(?P<scheme>[a-z0-9+]+)://(?:(?P<user>[^:@/]*)(?::(?P<password>[^@]*))?@)?(?P<rest>[^@]*)")
_REFUSES = {  # what the driver, mlflow or its server says -> what it means
    "password authentication failed": "it refuses user or password: give the right ones, in the uri, by PGPASSWORD or "
    "in ~/.pgpass",
    "no password supplied": "it wants a password: give it in the uri, by PGPASSWORD or in ~/.pgpass",
    "Access denied": "it refuses user or password: check those of the uri",
    "no pg_hba.conf entry": "it does not let this user in from this machine: add a line to its pg_hba.conf",
    'role "[^"]*" does not exist': "it has no such user: CREATE USER NAME PASSWORD '...', or check the uri",
    'database "[^"]*" does not exist|Unknown database': "it has no such database: make it once (CREATE DATABASE NAME), "
    "or check the uri",
    "permission denied": "the user may not write there: ALTER DATABASE NAME OWNER TO USER",
    "read-only transaction": "it may only be read (a standby?): name the server that takes writes",
    "No space left": "the disk of the server is full: make room there, then start again",
    "out-of-date database schema": "another version of mlflow made its tables: install that one on this machine, or, "
    "for all machines at once, back the database up and run `mlflow db upgrade URI`",
    "Invalid Host header": "it does not serve under this name: start it with --allowed-hosts HOST:PORT",
    "code 401|UNAUTHENTICATED": "it wants a user and a password, or refuses yours: set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD",
    "code 403|PERMISSION_DENIED": "it does not allow this user to: ask its keeper for the right",
    "code 404": "what answers is no mlflow server: check host, port and path",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted here: name that of its authority by "
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
}
_LOST = "the connection was lost: is it still running? Then start again"
_AWAY = {  # of a server that may come back
    "translate host name|NameResolutionError|Unknown MySQL server host": "there is no such host: check the uri",
    "starting up": "it is starting: wait a little, then start again",
    "shutting down": "it is being shut down: start it, then start again",
    "terminating connection|closed the connection|gone away|Lost connection|connection already closed": _LOST,
    "too many clients|connection slots are|Too many connections": "all its connections are in use: raise "
    "max_connections, or put `mlflow server` before it",
    "too many 50|code 50": "it answers with errors: see its log (is its own database there?)",
    "refused|[Tt]imed? ?out|No route to host|unreachable|connection to server|Can't connect|failed with exception": (
        "it cannot be reached: is it running, host and port right, open to this machine?"
    ),
}
_ITS_OWN = (None, *OF_THE_DATABASE, "PERMISSION_DENIED", "UNAUTHENTICATED")  # mlflow's codes for a server that fails
_ANY = "INTERNAL_ERROR"  # and for one of any kind


def is_server(uri: Any) -> bool:
    """Whether a uri is of a server, rather than of a file."""
    scheme = str(uri).partition("://")[0].partition("+")[0]
    return "://" in str(uri) and (scheme in WEB or scheme in DRIVERS)


class RunsServer:
    """Runs of a server.

    Attributes:
        uri: as mlflow takes it.
        shown: the same without the password.
    """

    def __init__(self, uri: Any, what: str) -> None:
        """Take an address.

        Raises: ValueError that names the option `what`, for one that cannot be, or whose driver is not installed.
        """
        parts = _ADDRESS.fullmatch(str(uri))
        if parts is None:
            raise ValueError(f"{what} is no address of a server; in user and password, write @ as %40 (and / as %2F)")
        self.web = parts["scheme"] in WEB
        self._password = parts["password"] or ""
        self.uri = str(uri).rstrip("/") if self.web else _with_driver(str(uri), what)
        self.shown = self.hide(str(uri))
        if self.web and (parts["user"] is not None or not urlparse(self.uri).hostname):
            raise ValueError(
                f"{what} is {self.shown}; give http://HOST:PORT, and user and password by MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        if not self.web:
            self._check_address(what)

    @property
    def hint(self) -> str:
        """What a command is told to look here."""
        return self.shown

    def hide(self, value: Any) -> Any:
        """Return a text, or what holds texts, without the password."""
        if not self._password:
            return value
        if isinstance(value, str):
            plain = unquote(self._password)
            for secret in {self._password, plain, quote(plain, safe="")}:
                value = value.replace(f":{secret}@", ":***@")
            return value
        if isinstance(value, Mapping):
            return {name: self.hide(each) for name, each in value.items()}
        return type(value)(map(self.hide, value)) if type(value) in (list, tuple) else value

    def open(self, say: Callable[[str], object], artifacts: Path) -> None:
        """Make sure of a server to write to; mlflow's tables are made in an empty database, by one process alone.

        Args:
            say: called with a line where another process has to be waited for.
            artifacts: folder of experiments that name none.

        Raises: OSError or ValueError for a server that cannot be used: what is wrong, and what to do.
        """
        with self.telling():
            if self.web:
                self._ask()
            elif not self._has_tables():
                with self._alone(say):
                    if not self._has_tables():
                        _build(self.uri, str(artifacts))

    def check(self) -> None:
        """Raise OSError or ValueError for a server that cannot be read, or that has no runs; nothing is made there."""
        with self.telling():
            if self.web:
                self._ask()
            elif not self._has_tables():
                raise ValueError(f"{self.shown} is empty: no run has been recorded there")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Turn what driver, mlflow and its server say into what is wrong and what to do.

        Raises: ConnectionError for a server that is away, OSError for what else it or the disk of artifacts lacks;
            mlflow's own, such as of a run that is not there, pass.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            self._tell(error)
            raise
        except OSError as error:
            told = None if isinstance(error, ConnectionError) else disk_error(error, "the folder of artifacts")
            if told is None:
                raise
            raise told from error

    def _tell(self, error: Exception) -> None:
        """Raise what an error means, where it is of the server and not of what it was asked."""
        text, code = str(error).partition("\n[SQL:")[0], getattr(error, "error_code", None)
        if code not in (*_ITS_OWN, _ANY):
            return
        for kind, cures in ((OSError, _REFUSES), (ConnectionError, _AWAY)):
            for pattern, cure in cures.items():
                if re.search(pattern, text):
                    raise kind(f"{self.shown}: {cure}") from error
        if code != _ANY:
            raise OSError(f"{self.shown} says: {self.hide(text.splitlines()[0])}") from error

    def patiently(self, call: Callable[[], Any], say: Callable[[str], object]) -> Any:
        """Call, again and again while the server is away, for `PATIENCE`; errors are as `telling` has them."""
        until = time.monotonic() + (0 if self.web else PATIENCE)
        told = False
        while True:
            try:
                with self.telling():
                    return call()
            except ConnectionError as error:
                if time.monotonic() >= until:
                    raise
                if not told:
                    say(f"{error} (waiting for it, {PATIENCE} s at most)")
                told = True
                time.sleep(min(1, PATIENCE))

    def experiment_folder(self, name: str, artifacts: Path) -> str:
        """Return the place of an experiment's artifacts; it is made, so that where it is not, it is not shared."""
        with self.telling():
            place = experiment_folder(artifacts, name)
            artifact_folder(place).mkdir(parents=True, exist_ok=True)
        return place

    def folder(self, address: str) -> Path:
        """Return the folder behind an address of artifacts."""
        return artifact_folder(address)

    def refuse(self, address: str, whose: str) -> None:
        """Refuse artifacts that are in no folder of this machine.

        Raises: ValueError for those that a server hands on, or of a bucket; FileNotFoundError for a folder elsewhere.
        """
        scheme = urlparse(address).scheme
        if scheme not in ("", "file"):
            raise ValueError(
                f"{whose} keeps its artifacts at {address}; wanted is a folder that all machines see: take another "
                "experiment_name, its artifacts go to `artifacts: DIR` of SqliteExpManager"
            )
        if not artifact_folder(address).is_dir():
            raise FileNotFoundError(
                f"{whose} keeps its artifacts in {artifact_folder(address)}, which is not on this machine: mount that "
                "disk here, under this path, or take another experiment_name, with `artifacts: DIR` on a shared disk"
            )

    def _check_address(self, what: str) -> None:
        """Refuse what cannot be an address of a database, and one whose driver is not installed."""
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import SQLAlchemyError

        try:
            url = make_url(self.uri)
            url.get_dialect().import_dbapi()
        except ModuleNotFoundError as error:
            package = PACKAGES.get(error.name or "", error.name)
            raise ValueError(f"{what} is {self.shown}, whose driver is not installed: pip install {package}") from error
        except (SQLAlchemyError, ValueError) as error:
            raise ValueError(f"{what} is {self.shown}: {self.hide(str(error))}") from None
        if not url.database or "password" in url.query:
            raise ValueError(f"{what} is no address of a database; give postgresql://USER:PASSWORD@HOST:PORT/DATABASE")

    def _ask(self) -> None:
        """Ask `mlflow server` whether it is there, once; then for an experiment, which needs the right to."""
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        answer = http_request(get_default_host_creds(self.uri), "/version", "GET", max_retries=0, timeout=ANSWER)
        if answer.status_code != 200 or not re.fullmatch(r"\d+\.\d+[\w.]*", answer.text.strip()):
            code = 404 if answer.status_code == 200 else answer.status_code
            raise MlflowException(f"API request to {self.uri}: code {code}, {answer.text[:80]}")
        MlflowClient(tracking_uri=self.uri).search_experiments(max_results=1)

    def _has_tables(self) -> bool:
        """Whether mlflow's tables are there; an error where only others' are, or those of another version."""
        from mlflow.store.db.utils import _verify_schema

        with self._connection() as connection:
            tables = _tables(connection)
            if not {"alembic_version", "experiments", "runs"} <= tables:
                if others := tables - {"alembic_version", *_ours()}:
                    raise ValueError(
                        f"{self.shown} holds no mlflow runs, but the tables {', '.join(sorted(others)[:5])}: give the "
                        "runs a database of their own (CREATE DATABASE NAME)"
                    )
                return False
            _verify_schema(connection.engine)
        return True

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Give a connection, within a transaction, that is not mlflow's and waits for no longer than `ANSWER`."""
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        limit = {} if self.uri.startswith("mssql") else {"connect_timeout": ANSWER}
        engine = create_engine(self.uri, poolclass=NullPool, connect_args=limit)
        with engine.begin() as connection:
            yield connection

    @contextmanager
    def _alone(self, say: Callable[[str], object]) -> Iterator[None]:
        """Let one process at a time, of all machines, do what is within."""
        from sqlalchemy import text

        with self._connection() as connection:
            if self.uri.startswith("postgresql"):  # until the end of the transaction
                if not connection.scalar(text(f"SELECT pg_try_advisory_xact_lock({LOCK})")):
                    say(f"another process makes the tables of {self.shown}: waiting for it")
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            elif self.uri.startswith("mysql"):  # until the end of the connection
                connection.execute(text(f"SELECT GET_LOCK('{LOCK}', 600)"))
            yield


def _with_driver(uri: str, what: str) -> str:
    """Name a driver that is installed, where an address names none: sqlalchemy's own choice goes by its version."""
    scheme, _, rest = uri.partition("://")
    names = {"MySQLdb": "mysqldb"}
    driver = next((name for name in DRIVERS.get(scheme, ()) if find_spec(name) is not None), None)
    return uri if driver is None else f"{scheme}+{names.get(driver, driver)}://{rest}"


def _tables(connection: Any) -> set[str]:
    from sqlalchemy import inspect

    return set(inspect(connection).get_table_names())


def _ours() -> set[str]:
    """Return the tables that a making which was cut short has left: the next one goes on."""
    from mlflow.store.tracking.dbmodels.initial_models import Base

    return set(Base.metadata.tables)


def _build(uri: str, artifacts: str) -> None:
    """Make mlflow's tables."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, artifacts)
