"""The file of runs: made whole or not at all, one process at a time, what is wrong with it named with the cure."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from qlib_ext.recorder import SqliteExpManager
from qlib_ext.runs import find_run, list_runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a file of runs."""
    folder = tmp_path_factory.mktemp("runs")
    record(folder, "first")
    return folder


def manager_of(folder):
    return SqliteExpManager(f"sqlite:///{folder}/mlruns.db", "x")


def record(folder, name):
    manager = manager_of(folder)
    recorder = manager.start_exp(experiment_name=name).active_recorder
    recorder.save_objects(**{"answer.pkl": name})
    manager.end_exp("FINISHED")
    return recorder


NAMES = [
    *(
        "plain",
        "master 300",
        "基线 第2版",
        "a'b\"c",
        "100%",
        "%41",
        "a#b",
        "a/b",
        "/abs",
        "../../../evil",
        "..",
        ".",
        ".hidden",
    ),
    *(
        "a?b=c&d",
        "a\\b",
        "tail.",
        " lead",
        "😀",
        "-x",
        "a,b",
        "x=y",
        "1e5",
        "2024",
        "CON",
        "a:b*c|<d>",
        "name;drop table",
        "~",
    ),
    *("x" * 500, "长" * 300, "file:///etc", "é" * 90, "{{ name }}", "$HOME", "Default"),
]


@pytest.mark.parametrize("name", NAMES, ids=[name[:20] for name in NAMES])
def test_a_run_of_any_name_is_kept_in_the_folder_and_found(whole, name):
    recorder = record(whole, name)
    run = find_run(name, uri=f"sqlite:///{whole}/mlruns.db")
    assert (run.id, run.experiment, run.status) == (recorder.id, name, "FINISHED")
    assert (run.folder / "answer.pkl").is_file() and run.folder.resolve().is_relative_to(whole / "mlruns")
    assert recorder.load_object("answer.pkl") == name and Path(recorder.get_local_dir()) == run.folder.parent
    assert {each.name for each in whole.iterdir()} == {"mlruns", "mlruns.db"}


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\0b", "x" * 501, True, 1.5, ["a"], None, "\ud800"])
def test_a_name_that_cannot_be_is_refused_before_anything_is_made(whole, name):
    with pytest.raises(ValueError, match="experiment_name is .*; allowed: a text of 1 to 500 letters"):
        manager_of(whole).create_exp(name)


def test_a_number_is_a_name(whole):
    record(whole, 300)
    assert find_run("300", uri=f"sqlite:///{whole}/mlruns.db").experiment == "300"


@pytest.mark.parametrize("name", ["a#b", "50% done", "中文 x", "q'uo\"te", "a&b=c"])
def test_runs_are_kept_in_folders_of_any_name(whole, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mlruns.db").write_bytes((whole / "mlruns.db").read_bytes())
    recorder = record(folder, "here")
    run = find_run("here", uri=f"sqlite:///{folder}/mlruns.db")
    assert (
        run.folder == folder / "mlruns" / "here" / recorder.id / "artifacts" and (run.folder / "answer.pkl").is_file()
    )


@pytest.mark.parametrize("name", ["a?b", "a%41b"])
def test_a_folder_that_sqlite_cannot_address_is_named(tmp_path, name):
    with pytest.raises(ValueError, match="which an address of sqlite cannot hold: rename the folder"):
        SqliteExpManager(f"sqlite:///{tmp_path / name}/mlruns.db", "x")


def test_an_experiment_that_was_deleted_is_named(whole):
    record(whole, "gone")
    client = MlflowClient(f"sqlite:///{whole}/mlruns.db")
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(ValueError, match="'gone' was deleted in mlflow: restore it"):
        manager_of(whole).start_exp(experiment_name="gone")


# --- made whole, by one process

STARTS = """
import logging
import sys
logging.basicConfig(level="INFO")
from qlib_ext.recorder import SqliteExpManager
manager = SqliteExpManager(f"sqlite:///{sys.argv[1]}/mlruns.db", "x")
manager.start_exp(experiment_name="same")
manager.end_exp("FINISHED")
"""


def start(folder):
    return subprocess.Popen([sys.executable, "-c", STARTS, str(folder)], stderr=subprocess.PIPE, text=True)


def test_runs_that_start_together_in_a_fresh_folder_are_all_recorded(tmp_path):
    (tmp_path / ".mlruns.db.99.part").write_text("of a build that was killed")
    (tmp_path / "mlruns.db-journal").write_text("of a file that is gone")
    (tmp_path / "mlruns.db").touch()
    told = [process.communicate()[1] for process in [start(tmp_path), start(tmp_path), start(tmp_path)]]
    runs = list_runs(uri=f"sqlite:///{tmp_path}/mlruns.db")
    assert [(run.experiment, run.status) for run in runs] == [("same", "FINISHED")] * 3, told
    assert any("another process is writing" in text for text in told)
    assert {each.name for each in tmp_path.iterdir()} == {"mlruns", "mlruns.db"}


# --- what is wrong with it


def of_version(file, version):
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num)")
        connection.execute("DELETE FROM alembic_version")
        connection.executemany("INSERT INTO alembic_version VALUES (?)", [(v,) for v in version])


def cut(file):
    file.write_bytes(file.read_bytes()[:9000])


def others(file):
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE holdings (code)")


BROKEN = {
    "text": (lambda file: file.write_text("text " * 3000), "no readable file of mlflow runs: check the uri"),
    "cut": (cut, "is damaged, or half made"),
    "half": (lambda file: of_version(file, []), "is half made, a first run was cut short: move it away"),
    "version": (lambda file: of_version(file, ["zzz"]), "another version of mlflow made it"),
    "others": (others, r"is no readable file of mlflow runs \(its tables: holdings\)"),
    "folder": (lambda file: (file.unlink(), file.mkdir()), "mlruns.db"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_with_the_cure_and_stays(whole, tmp_path, kind):
    file = tmp_path / "mlruns.db"
    file.write_bytes((whole / "mlruns.db").read_bytes())
    broken, message = BROKEN[kind]
    broken(file)
    before = file.read_bytes() if file.is_file() else None
    with pytest.raises((ValueError, OSError), match=message) as first:
        SqliteExpManager(f"sqlite:///{file}", "x").start_exp(experiment_name="x")
    with pytest.raises((ValueError, OSError), match=message):
        find_run("latest", uri=f"sqlite:///{file}")
    assert str(file) in str(first.value) and (file.is_dir() or file.read_bytes() == before)


@pytest.mark.parametrize("gone", [True, False])
def test_runs_that_were_moved_or_copied_are_read_and_written_where_they_are(tmp_path, gone):
    old, new = tmp_path / "old", tmp_path / "new #1"
    old.mkdir()
    first = record(old, "基线")
    shutil.copytree(old, new)
    (old.rename if gone else old.joinpath)(tmp_path / "elsewhere")
    assert find_run("基线", uri=f"sqlite:///{new}/mlruns.db").folder.is_relative_to(new)
    second = record(new, "基线")
    (read,) = [
        each for each in manager_of(new).get_exp(experiment_name="基线").list_recorders("list") if each.id == first.id
    ]
    assert read.load_object("answer.pkl") == "基线"
    assert Path(second.get_local_dir()).is_relative_to(new) and old.exists() is not gone
    assert find_run(first.id, uri=f"sqlite:///{new}/mlruns.db").folder.is_relative_to(new)
    assert not (old / "mlruns").is_dir() or second.id not in {path.name for path in old.rglob("*")}


def test_artifacts_elsewhere_stay_as_recorded(whole, tmp_path):
    (tmp_path / "mlruns.db").write_bytes((whole / "mlruns.db").read_bytes())  # the file alone was copied
    manager_of(tmp_path).get_exp(experiment_name="second")
    assert find_run("first", uri=f"sqlite:///{tmp_path}/mlruns.db").folder.is_relative_to(whole)


def test_git_is_silent_where_there_is_no_repository(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    recorder = record(tmp_path, "x")
    assert "usage: git" not in "".join(capfd.readouterr()) and "code_status.txt" not in recorder.list_artifacts()
    subprocess.run(["git", "init", "-q"], check=True)
    assert "code_status.txt" in record(tmp_path, "x").list_artifacts()


def test_an_empty_file_has_no_runs(tmp_path):
    (tmp_path / "runs.db").touch()
    with pytest.raises(ValueError, match="is empty: no run has been recorded there"):
        find_run("latest", uri=f"sqlite:///{tmp_path}/runs.db")


def test_a_locked_file_is_named(whole, tmp_path, monkeypatch):
    file = tmp_path / "mlruns.db"
    file.write_bytes((whole / "mlruns.db").read_bytes())
    monkeypatch.setattr("qlib_ext.runs.database.PATIENCE", 0.1)
    with sqlite3.connect(file) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        for use in (
            SqliteExpManager(f"sqlite:///{file}", "x").create_exp,
            lambda name: find_run(name, uri=f"sqlite:///{file}"),
        ):
            with pytest.raises(OSError, match="mlruns.db: another program holds it locked.*close it"):
                use("x")
