"""A run always ends in the recorder, whatever ends its process; what is logged is kept, or told."""

import errno
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest
from filelock import FileLock
from mlflow.tracking import MlflowClient
from qlib.workflow import QlibRecorder

from qlib_ext.recorder import SqliteExpManager
from qlib_ext.runs import list_runs

SCRIPT = """
import signal, sys, time
from pathlib import Path
from qlib.workflow import QlibRecorder, R
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background does not hear
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nor does nohup
from qlib.workflow.utils import experiment_exit_handler
from qlib_ext.recorder import SqliteExpManager
R.register(QlibRecorder(SqliteExpManager(f"sqlite:///{sys.argv[1]}/mlruns.db", "x")))
experiment_exit_handler()
import mlflow
end_run = mlflow.end_run
mlflow.end_run = lambda status: (exec("1"), end_run(status))  # as SQLAlchemy does now and then: Python forgets Ctrl-C
with R.start(experiment_name=sys.argv[2]):
    Path(sys.argv[1], sys.argv[2]).touch()
    exec(sys.argv[3])
"""
ENDS = {  # the name of the experiment: what its process does, the signal that it gets, the status of its exit
    "FINISHED": ("pass", None, 0),
    "FAILED by an error": ("1 / 0", None, 1),
    "FAILED by sys.exit": ("sys.exit(3)", None, 3),
    "KILLED by TERM": ("time.sleep(99)", signal.SIGTERM, 143),
    "KILLED by HUP": ("time.sleep(99)", signal.SIGHUP, 129),
    "KILLED by Ctrl-C": ("time.sleep(99)", signal.SIGINT, -signal.SIGINT),
    "KILLED hard": ("time.sleep(99)", signal.SIGKILL, -signal.SIGKILL),
}


def recorder_of(folder):
    return QlibRecorder(SqliteExpManager(f"sqlite:///{folder}/mlruns.db", "x"))


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A folder in which a run has ended in each of the ways, and the status of each process."""
    folder, processes = tmp_path_factory.mktemp("ended"), {}
    for name, (code, _, _) in ENDS.items():
        processes[name] = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), name, code])
    for name, (_, number, _) in ENDS.items():
        while not (folder / name).exists():
            assert processes[name].poll() is None
            time.sleep(0.05)
        if number is not None:
            processes[name].send_signal(number)
    return folder, {name: process.wait(timeout=240) for name, process in processes.items()}


def test_a_run_ends_as_its_process_does(ended):
    folder, codes = ended
    assert codes == {name: code for name, (_, _, code) in ENDS.items()}
    runs = {run.experiment: run for run in list_runs(uri=f"sqlite:///{folder}/mlruns.db")}
    assert {name: run.status for name, run in runs.items()} == {name: name.split()[0] for name in ENDS}
    kept = {name for name, run in runs.items() if (run.folder.parent / ".running").exists()}
    assert kept == {"KILLED hard"}


def test_the_next_run_marks_what_was_killed_hard_and_nothing_else(ended):
    folder, _ = ended
    client = MlflowClient(f"sqlite:///{folder}/mlruns.db")
    here = {"process.host": socket.gethostname()}
    number = client.create_experiment("others", artifact_location=str(folder / "mlruns" / "others"))

    def started(tags, minutes_ago):
        return client.create_run(number, start_time=int(time.time() - 60 * minutes_ago) * 1000, tags=tags).info.run_id

    dead, young, old, foreign = (
        *(started(here, ago) for ago in (5, 0)),
        *(started(tags, 5) for tags in ({}, {"process.host": "another machine"})),
    )
    alive = started(here, 5)
    (folder / "mlruns" / "others" / alive).mkdir(parents=True)
    with FileLock(folder / "mlruns" / "others" / alive / ".running"), recorder_of(folder).start(experiment_name="next"):
        pass
    status = {run: client.get_run(run).info.status for run in (dead, young, old, foreign, alive)}
    assert status == {dead: "KILLED", young: "RUNNING", old: "RUNNING", foreign: "RUNNING", alive: "RUNNING"}
    hard = client.search_runs([client.get_experiment_by_name("KILLED hard").experiment_id])[0]
    assert hard.info.status == "KILLED" and hard.data.tags["process.host"] == socket.gethostname()


def test_what_is_logged_is_there_at_once_and_odd_names_do_not_lose_the_others(ended):
    recording = recorder_of(ended[0])
    with recording.start(experiment_name="x"):
        recorder = recording.get_recorder()
        recorder.log_params(**{f"p{i}": i for i in range(230)}, **{"因子/换手": 1, "a//b": 2, "c,d": "x" * 9000})
        recorder.log_metrics(step=3, ic=0.1)
        recorder.log_params(p1="changed")
        recorder.set_tags(owner="me")
        params, run = recorder.list_params(), MlflowClient(recorder.uri).get_run(recorder.id)
        assert {f"p{i}": str(i) for i in range(230)}.items() <= params.items()
        assert params["因子/换手"] == "1" and "a//b" not in params and params["c_d"].startswith("xxx")
        assert run.data.metrics == {"ic": 0.1} and run.data.tags["owner"] == "me" and run.info.status == "RUNNING"
        assert run.data.tags["process.pid"] == str(os.getpid())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with recording.start(experiment_name="x", recorder_id=recorder.id, resume=True):
        assert recording.get_recorder().id == recorder.id
    assert MlflowClient(recorder.uri).get_run(recorder.id).info.status == "FINISHED"


def test_a_run_that_cannot_write_its_end_says_so(ended, caplog, monkeypatch):
    recording = recorder_of(ended[0])
    monkeypatch.setattr("mlflow.store.db.utils.sql.text", _impatient)
    with sqlite3.connect(ended[0] / "mlruns.db", isolation_level=None) as holder:
        with pytest.raises(ZeroDivisionError), recording.start(experiment_name="x"):
            holder.execute("BEGIN EXCLUSIVE")
            raise ZeroDivisionError
        assert "stays RUNNING until the next one is started here" in caplog.text
        assert "another program holds it locked" in caplog.text
        holder.execute("ROLLBACK")
        with pytest.raises(OSError, match="another program holds it locked"), recording.start(experiment_name="y"):
            holder.execute("BEGIN EXCLUSIVE")


def _impatient(statement):
    from sqlalchemy import text

    return text(statement.replace("20000", "100"))


def test_a_full_disk_is_named_and_the_run_fails(ended, monkeypatch):
    recording = recorder_of(ended[0])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(OSError, match=f"{ended[0]} or .*: the disk is full: make room"),
        recording.start(experiment_name="z"),
    ):
        run = recording.get_recorder()
        monkeypatch.setattr("qlib.utils.serial.Serializable.general_dump", full)
        run.save_objects(**{"pred.pkl": 1})
    assert MlflowClient(run.uri).get_run(run.id).info.status == "FAILED"
