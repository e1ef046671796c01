"""Runs on servers, a real PostgreSQL and a real `mlflow server`: as in a file, bit for bit; what is wrong is told."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import psycopg2
import pytest
import qlib
import requests
import test_data
from mlflow.store.tracking.dbmodels.initial_models import Base
from mlflow.tracking import MlflowClient
from qlib.model.trainer import TrainerR, task_train
from qlib.workflow import QlibRecorder, R
from sqlalchemy import create_engine

from qlib_ext.cli import main
from qlib_ext.model import RayTrainer
from qlib_ext.recorder import SqliteExpManager
from qlib_ext.runs import find_run, list_runs, load_artifacts
from qlib_ext.synthetic import make_market

SECRET = "ge heim%/1"  # in an address: written as below
WRITTEN = "ge%20heim%25%2F1"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Postgres:
    """A server of one's own, in a folder of its own, by a user who is not root."""

    def __init__(self):
        program = shutil.which("initdb") if not PROGRAMS else str(PROGRAMS[-1])
        if program is None:
            pytest.skip("the programs of PostgreSQL (initdb, postgres) are not here")
        self.programs, self.port, self.number = Path(program).parent, free_port(), count()
        self.folder = Path(tempfile.mkdtemp(prefix="qlib_ext_postgres"))
        self.user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        secret = self.folder / "secret"
        secret.write_text(SECRET)
        if self.user is not None:
            for path in (self.folder, secret):
                os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def make(self):
        """Make the cluster, and a database with mlflow's tables, by four machines at once."""
        options = f"-U desk --pwfile={self.folder}/secret -A scram-sha-256 -E UTF8 --no-locale --no-sync".split()
        self.do("initdb", *options)
        self.start()
        self.sql("postgres", "CREATE DATABASE together")
        gate = time.time() + 0.3
        self.codes = [code_of(pid) for pid in [apart(lambda: self.make_tables(gate)) for _ in range(4)]]
        self.sql("postgres", "CREATE DATABASE pattern TEMPLATE together")  # nobody is connected

    def make_tables(self, gate):
        """Record a first run as a machine of its own does, when others do."""
        tempfile.tempdir = str(self.folder / f"machine{os.getpid()}")
        Path(tempfile.tempdir).mkdir()
        time.sleep(max(0, gate - time.time()))
        record(self.uri("together"), self.folder / "shared", "together")

    def do(self, program, *options):
        who = {} if self.user is None else {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *options]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=60, **who)

    def start(self):
        options = f"-c fsync=off -c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories=''"
        self.do("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self):
        self.do("pg_ctl", "-w", "-m", "fast", "stop")

    def sql(self, database, *lines):
        there = f"host=127.0.0.1 port={self.port} user=desk password='{SECRET}' dbname={database}"
        with closing(psycopg2.connect(there)) as connection:
            connection.autocommit = True
            for line in lines:
                connection.cursor().execute(line)

    def uri(self, database, user=f"desk:{WRITTEN}", port=None):
        return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"

    def empty(self):
        """The uri of a new database."""
        name = f"runs{next(self.number)}"
        self.sql("postgres", f"CREATE DATABASE {name}")
        return self.uri(name)

    def runs(self):
        """The uri of a new database with mlflow's tables."""
        name = f"runs{next(self.number)}"
        self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE pattern")
        return self.uri(name)


@pytest.fixture(scope="module", autouse=True)
def starting(tmp_path_factory):
    """`mlflow server`, which takes its time."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = f"-m mlflow server --port {port} --workers 1 --backend-store-uri sqlite:///{folder}/kept.db"
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command.split()],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    yield process, f"http://127.0.0.1:{port}", folder
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def postgres(starting):
    server = Postgres()
    try:
        server.make()
        yield server
    finally:
        with suppress(subprocess.CalledProcessError):
            server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def web(starting):
    """The uri of mlflow's own server."""
    process, uri, folder = starting
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with suppress(requests.ConnectionError):
            if requests.get(f"{uri}/health", timeout=5).ok:
                return uri
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    raise TimeoutError((folder / "log").read_text())


BOTH = pytest.mark.parametrize("uri", ["postgres", pytest.param("web", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(params=["postgres", "web"])
def uri(request):
    """The uri of a server of each kind."""
    there = request.getfixturevalue(request.param)
    return there if request.param == "web" else there.runs()


NAMES = count()


def recording(uri, folder):
    return QlibRecorder(SqliteExpManager(uri, "x", artifacts=folder))


def record(uri, folder, name=None):
    """Record a small run; returns its recorder and the name of its experiment."""
    name, there = name or f"experiment {next(NAMES)}", recording(uri, folder)
    with there.start(experiment_name=name):
        recorder = there.get_recorder()
        recorder.log_metrics(step=1, ic=0.1 + 0.2)
        recorder.save_objects(**{"answer.pkl": [name], "config": {"uri": uri, "more": [uri]}})
    return recorder, name


def apart(function):
    """Call a function in a process of its own, which begins at once; returns its number."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(BaseException):
            function()
            code = 0
        os._exit(code)
    return pid


def code_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- as in a file


@BOTH
def test_a_run_is_the_same_bit_for_bit(uri, tmp_path, monkeypatch):
    market = make_market(tmp_path / "market", n_stocks=14, start="2020-01-02", years=1.0, seed=3)
    test_data.start_qlib(market, tmp_path)
    model = {"hidden": [8, 4], "loss": "ic", "metric": "ic", "epochs": 2, "device": "cpu"}
    dataset = {"handler": test_data.make_handler(), "segments": test_data.SEGMENTS, "liquidity": "auto"}
    records = [("SignalRecord", "qlib.workflow.record_temp"), ("LiquidityRecord", "qlib_ext.record")]
    task = {
        "model": {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": model},
        "dataset": {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": dataset},
        "record": [{"class": name, "module_path": module} for name, module in records],
    }
    runs, metrics, tables = [], [], []
    before = R.exp_manager
    for there, artifacts in ((before.uri, None), (uri, tmp_path / "shared")):
        monkeypatch.setattr(R._provider, "exp_manager", SqliteExpManager(there, "x", artifacts=artifacts))
        recorder = task_train(task, experiment_name="same")
        runs.append(find_run("same", uri=there, trust=True))
        metrics.append({name: repr(value) for name, value in recorder.list_metrics().items()})
        tables.append(load_artifacts(runs[-1], ["pred.pkl", "headline.pkl", "task"]))
        steps = MlflowClient(R.exp_manager.uri).get_metric_history(recorder.id, "train_loss")
        metrics[-1]["steps"] = [(each.step, repr(each.value)) for each in steps]
        assert main(["show", "same", "--uri", there]) == 0
    assert len(metrics[0]) > 20 and metrics[1] == metrics[0]
    assert tables[1]["pred.pkl"].equals(tables[0]["pred.pkl"]) and set(tables[1]) == set(tables[0])
    assert [run.status for run in runs] == ["FINISHED"] * 2
    assert runs[0].folder.is_relative_to(tmp_path / "mlruns")
    assert runs[1].folder.parent.parent == tmp_path / "shared" / "same"


@pytest.mark.slow
def test_a_list_on_ray_is_recorded_there_by_its_workers(uri, base, tmp_path, monkeypatch):
    """The bits of qlib's trainer over a file; the artifacts are in one folder, though it was named from here."""
    test_ray = pytest.importorskip("test_ray")
    monkeypatch.setenv("PYTHONPATH", test_ray.HERE)
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.chdir(tmp_path)
    found = []
    file, server = ({"uri": f"sqlite:///{tmp_path}/mlruns.db"}, {"uri": uri, "artifacts": "shared"})
    for trainer, kwargs in ((TrainerR("alone"), file), (RayTrainer("there", address="local", workers=2), server)):
        manager = {"class": "SqliteExpManager", "module_path": "qlib_ext.recorder"}
        manager["kwargs"] = kwargs | {"default_exp_name": "none"}
        qlib.init(provider_uri=str(base), region="cn", exp_manager=manager)
        found.append([test_ray.told(run) for run in trainer(test_ray.rolling(epochs=1)[:2])])
    for (score, metrics), (score_there, metrics_there) in zip(*found, strict=True):
        assert score_there.equals(score) and metrics_there == metrics and len(metrics) > 20
    listed = list_runs(uri=uri, experiment="there")
    assert [run.status for run in listed] == ["FINISHED"] * 2
    assert all(run.folder.is_relative_to(tmp_path / "shared" / "there") for run in listed)


def test_a_run_is_found_as_in_a_file(uri, tmp_path):
    first, name = record(uri, tmp_path)
    second, _ = record(uri, tmp_path, name)
    assert [run.id for run in list_runs(uri=uri, experiment=name)] == [second.id, first.id]
    for asked in (name, second.id, second.id[:9]):
        assert find_run(asked, uri=uri).id == second.id
    assert find_run("latest", uri=uri, experiment=name).id == second.id
    assert find_run(first.id[:9], uri=uri, experiment=name).folder == tmp_path / name / first.id / "artifacts"
    with pytest.raises(ValueError, match=rf"no finished run 'experimen' .*close: .*{second.id}"):
        find_run("experimen", uri=uri, experiment=name)
    with pytest.raises(ValueError, match="no experiment 'nix' in .*; there are: "):
        find_run("latest", uri=uri, experiment="nix")


def test_the_next_run_marks_what_was_killed_hard_and_nothing_else(uri, tmp_path):
    name = f"experiment {next(NAMES)}"

    def begin():
        with recording(uri, tmp_path).start(experiment_name=name):
            (tmp_path / "begun").touch()
            time.sleep(99)

    pid = apart(begin)
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    client = MlflowClient(SqliteExpManager(uri, "x").uri)
    number = client.get_experiment_by_name(name).experiment_id
    foreign = client.create_run(number, tags={"process.host": "another machine"}, start_time=1).info.run_id
    record(uri, tmp_path)
    assert {run.status for run in list_runs(uri=uri, experiment=name)} == {"RUNNING"}
    os.kill(pid, signal.SIGKILL)
    assert code_of(pid) == -signal.SIGKILL
    seen = {run.id: run.status for run in list_runs(uri=uri, experiment=name)}
    assert seen.pop(foreign) == "RUNNING" and list(seen.values()) == ["KILLED"]
    record(uri, tmp_path, name)
    kept = {run.info.run_id: run.info.status for run in client.search_runs([number])}
    assert kept.pop(foreign) == "RUNNING" and sorted(kept.values()) == ["FINISHED", "KILLED"]
    assert kept[next(iter(seen))] == "KILLED"


@pytest.mark.slow
def test_a_workflow_and_the_commands_take_a_server(uri, tmp_path, monkeypatch, capsys):
    """qrun twice, in processes of its own, then every command that takes a run."""
    monkeypatch.chdir(tmp_path)
    market = make_market(tmp_path / "market", n_stocks=40, years=1)
    assert main(["init", "--provider-uri", str(market), "--model", "mlp", "--universe", "all"]) == 0
    text = re.sub(r"epochs: \d+", "epochs: 1", Path("workflow.yaml").read_text())
    own, name = f'uri: "{uri}", artifacts: {tmp_path}/shared', f"experiment {next(NAMES)}"
    text = re.sub("experiment_name: .*", f"experiment_name: {name}", text.replace('uri: "sqlite:///mlruns.db"', own))
    Path("workflow.yaml").write_text(text)
    for _ in range(2):
        done = subprocess.run([sys.executable, "-m", "qlib.cli.run", "workflow.yaml"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert SECRET not in done.stdout + done.stderr and WRITTEN not in done.stdout + done.stderr
        assert re.search(r"its tables: qlib-ext show \w+ --uri \S+", done.stdout + done.stderr)
        assert "View run" not in done.stdout
    last, first = (run.id for run in list_runs(uri=uri, experiment=name))
    there = ["--uri", uri, "--experiment", name]
    for command in (
        ["show", "latest", "--table", "headline"],
        ["show", "latest", "--log"],
        ["report", "latest", "--out", "page.html"],
        ["compare", first, last, "--draws", "100", "--out", "compare.html"],
        ["orders", "latest", "--capital", "1e8", "--out", "orders.csv"],
        ["daily", "latest", "--cash", "1e7", "--out", "desk"],
    ):
        alarms = command[0] == "daily"  # which a market that ends long ago rings
        assert main([*command, *there]) == int(alarms), (command, capsys.readouterr())
    assert Path("orders.csv").stat().st_size > 100 and len(list(Path("desk").iterdir())) >= 2
    kept = [file for file in (tmp_path / "shared").rglob("*") if file.is_file()]
    assert len(kept) > 20 and not any(WRITTEN.encode() in file.read_bytes() for file in kept)


# --- artifacts


def test_new_experiments_go_to_the_folder_and_old_ones_stay(uri, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("qlib_ext.progress.note", told.append)
    monkeypatch.chdir(tmp_path)
    recorder, name = record(uri, None)
    assert Path(recorder.get_local_dir()) == tmp_path / "mlruns" / name / recorder.id
    assert "go to" in told[-1] and "artifacts: DIR" in told[-1]
    again, _ = record(uri, tmp_path / "shared", name)
    assert Path(again.get_local_dir()).parent == tmp_path / "mlruns" / name and "they stay there" in told[-1]
    told.clear()
    odd, _ = record(uri, tmp_path / "100% #1", f"基线/{next(NAMES)}") if not uri.startswith("http") else (again, "")
    assert Path(odd.get_local_dir()).is_dir() and not told
    with pytest.raises(ValueError, match="artifacts is 'here', which is for a server"):
        SqliteExpManager(f"sqlite:///{tmp_path}/runs.db", "x", artifacts="here")


def test_artifacts_that_are_in_no_folder_here_are_refused_before_a_run_begins(uri, tmp_path):
    recorder, name = record(uri, tmp_path / "shared")
    (tmp_path / "shared").rename(tmp_path / "unmounted")
    for use in (lambda: record(uri, tmp_path, name), lambda: find_run(recorder.id, uri=uri)):
        with pytest.raises(FileNotFoundError, match="which is not on this machine: mount that disk here"):
            use()
    client = MlflowClient(SqliteExpManager(uri, "x").uri)
    for place in ("mlflow-artifacts:/1", "s3://bucket/runs"):
        other = f"experiment {next(NAMES)}"
        number = client.create_experiment(other, artifact_location=place)
        with pytest.raises(ValueError, match=f"keeps its artifacts at {place}; wanted is a folder that all machines"):
            record(uri, tmp_path, other)
        run = client.create_run(number).info.run_id
        with pytest.raises(ValueError, match=f"run {run} keeps its artifacts at {place}"):
            find_run(run, uri=uri)
        assert len(list_runs(uri=uri, experiment=other)) == 1
    assert len(list_runs(uri=uri, experiment=name)) == 1


# --- made by one process


def test_processes_of_several_machines_that_start_together_are_all_recorded(postgres):
    """mlflow makes its tables without a lock, or with one of the machine, in its folder of temporary files."""
    assert postgres.codes == [0] * 4
    runs = list_runs(uri=postgres.uri("together"))
    assert [(run.experiment, run.status) for run in runs] == [("together", "FINISHED")] * 4


@pytest.mark.slow
def test_tables_whose_making_was_cut_short_are_made_whole(postgres, tmp_path):
    uri = postgres.empty()
    Base.metadata.create_all(create_engine(uri.replace("postgresql:", "postgresql+psycopg2:")))
    with pytest.raises(ValueError, match="is empty: no run has been recorded there"):
        list_runs(uri=uri)
    record(uri, tmp_path)
    assert len(list_runs(uri=uri)) == 1


# --- what is wrong with it


def test_what_is_wrong_with_a_database_is_told_and_it_stays_as_it_is(postgres, monkeypatch):
    empty, others, version = postgres.empty(), postgres.empty(), postgres.runs()
    postgres.sql(others.rpartition("/")[2], "CREATE TABLE holdings (code text)")
    postgres.sql(version.rpartition("/")[2], "UPDATE alembic_version SET version_num = 'zzz'")
    postgres.sql("postgres", "CREATE USER guest PASSWORD 'x'")
    cases = {
        postgres.uri("none"): "no such database: make it once",
        postgres.uri("pattern", "desk:wrong"): "refuses user or password",
        postgres.uri("pattern", "who:wrong"): "refuses user or password",
        postgres.uri("pattern", "desk"): "wants a password: give it in the uri, by PGPASSWORD",
        postgres.uri("pattern", port=free_port()): "cannot be reached: is it running",
        "postgresql://a:b@no.invalid/x": "there is no such host",
        others: "holds no mlflow runs, but the tables holdings: give the runs a database of their own",
        version: "another version of mlflow made its tables",
    }
    for uri, words in cases.items():
        manager = SqliteExpManager(uri, "x")
        for use in (lambda uri=uri: list_runs(uri=uri), lambda manager=manager: manager.client):
            with pytest.raises((OSError, ValueError), match=words) as error:
                use()
            assert SECRET not in str(error.value) and WRITTEN not in str(error.value)
    with pytest.raises(ValueError, match=r"/runs\d+ is empty: no run has been recorded there"):
        list_runs(uri=empty)
    with pytest.raises(OSError, match=r"the user may not write there: ALTER DATABASE"):
        SqliteExpManager(postgres.uri(empty.rpartition("/")[2], "guest:x"), "x").client  # noqa: B018
    monkeypatch.setenv("PGPASSWORD", SECRET)
    with pytest.raises(ValueError, match="is empty"):
        list_runs(uri=postgres.uri(empty.rpartition("/")[2], "desk"))


def test_what_is_wrong_with_a_web_server_is_told(web, postgres):
    for uri, words in {
        f"http://127.0.0.1:{free_port()}": "cannot be reached: is it running",
        web.replace("127.0.0.1", "no.invalid"): "there is no such host",
        f"http://127.0.0.1:{postgres.port}": "cannot be reached",
        f"{web}/ajax-api/2.0": "what answers is no mlflow server",
    }.items():
        with pytest.raises(OSError, match=words):
            list_runs(uri=uri)
        with pytest.raises(OSError, match=words):
            SqliteExpManager(uri, "x").client  # noqa: B018


ADDRESSES = {
    "postgresql://desk:a@b@db/runs": "write @ as %40",
    "postgresql://desk:secret@db": "is no address of a database",
    "postgresql://desk:secret@db:port/runs": r"desk:\*\*\*@db:port/runs: ",
    "postgresql://db/runs?password=secret": "give postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    "postgresql+nix://desk:secret@db/runs": r"desk:\*\*\*@db/runs: .*nix",
    "postgres://desk:secret@db/runs": r"'postgres://desk:\*\*\*@db/runs'; give .*postgresql://",
    "http://desk:secret@host:1": r"desk:\*\*\*@host:1; .*MLFLOW_TRACKING_PASSWORD",
    "http://": "give http://HOST:PORT",
    "file:///runs": "give sqlite:///FILE, .* http://HOST:PORT of `mlflow server`",
}


@pytest.mark.parametrize("uri", ADDRESSES)
def test_an_address_that_cannot_be_is_refused_without_its_password(uri):
    for use in (lambda: SqliteExpManager(uri, "x"), lambda: list_runs(uri=uri)):
        with pytest.raises(ValueError, match=ADDRESSES[uri]) as error:
            use()
        assert "secret" not in str(error.value) and "a@b" not in str(error.value)


@pytest.mark.parametrize(
    ("uri", "package"), [("postgresql://h/d", "'qlib_ext[server]'"), ("mysql+pymysql://h/d", "pymysql")]
)
def test_a_driver_that_is_not_installed_is_named(monkeypatch, uri, package):
    for name in ("psycopg2", "psycopg", "pymysql"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("qlib_ext.runs.server.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=re.escape(f"whose driver is not installed: pip install {package}")):
        list_runs(uri=uri)


def test_no_password_is_kept_or_shown(postgres, tmp_path, monkeypatch, capfd):
    uri = postgres.runs()
    monkeypatch.setattr("sys.argv", ["daily", "--uri", uri])
    there = recording(uri, tmp_path)
    monkeypatch.setattr("qlib_ext.runs.mlflow_run._git", lambda *words: "true" if words[0] == "rev-parse" else uri)
    with pytest.raises(ZeroDivisionError), there.start(experiment_name="x"):
        recorder = there.get_recorder()
        recorder.set_tags(where=uri)
        recorder.log_params(where=[uri])
        recorder.save_objects(**{"config": {"qlib_init": {"exp_manager": {"kwargs": {"uri": uri}}}, "b": (uri, 1)}})
        sys.stdout.write(f"{recorder} {there} {recorder.list_params()} {recorder.list_tags()}")
        raise ZeroDivisionError
    run = find_run(recorder.id, uri=uri, trust=True)
    assert main(["show", "nix", "--uri", uri]) == 2
    output = "".join(capfd.readouterr())
    assert output.count("desk:***@127.0.0.1") >= 5
    assert load_artifacts(run, ["config"])["config"]["b"] == (uri.replace(WRITTEN, "***"), 1)
    for text in (
        output,
        *(file.read_bytes().decode(errors="replace") for file in tmp_path.rglob("*") if file.is_file()),
    ):
        assert WRITTEN not in text and SECRET not in text
    assert b"***" in (run.folder / "code_diff.txt").read_bytes()


# --- lost in the midst


def test_a_database_that_comes_back_is_waited_for(postgres, tmp_path, monkeypatch, caplog):
    uri = postgres.runs()
    there = recording(uri, tmp_path)
    with there.start(experiment_name="restarted"):
        recorder = there.get_recorder()
        postgres.stop()
        pid = apart(lambda: (time.sleep(1), postgres.start()))
        recorder.log_metrics(ic=0.5)
        code_of(pid)
        assert caplog.text.count("waiting for it, 60 s at most") == 1
        postgres.stop()
        pid = apart(lambda: (time.sleep(0.5), postgres.start()))
    code_of(pid)
    assert find_run("restarted", uri=uri).id == recorder.id and recorder.list_metrics() == {"ic": 0.5}
    monkeypatch.setattr("qlib_ext.runs.server.PATIENCE", 0.2)
    try:
        with pytest.raises(ConnectionError, match=r"desk:\*\*\*@.*cannot be reached"), there.start(experiment_name="y"):
            postgres.stop()
            there.get_recorder().log_metrics(ic=0.5)
    finally:
        postgres.start()
    assert "stays RUNNING until the next one is started here" in caplog.text
    record(uri, tmp_path, "z")
    assert {run.experiment: run.status for run in list_runs(uri=uri)}["y"] == "KILLED"


def test_a_web_server_that_is_lost_ends_the_run(starting, web, tmp_path, monkeypatch, caplog):
    """The last one: nothing answers afterwards."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    there = recording(web, tmp_path)
    with pytest.raises(ConnectionError, match=f"{web}: it cannot be reached"), there.start(experiment_name="lost"):
        os.killpg(starting[0].pid, signal.SIGKILL)
        starting[0].wait()
        there.get_recorder().log_metrics(ic=0.5)
    assert "stays RUNNING until the next one is started here" in caplog.text
