"""Door of the section "Command line": a line of `qlib-ext`, run in a folder with a run, as a shell would split it.

`$market` is a provider folder, `region.yaml` a workflow of no region, `text.txt` a text, `empty` a folder without
anything, `journal` one with a journal that is none; `zero.db`, `other.db` and `half.db` are no whole files of runs.
Status 2 and one line that is no fault of ours is a refusal, raised here with what was said.
"""

import contextlib
import io
import shlex
import shutil
import sqlite3
import tempfile
from functools import cache
from pathlib import Path

import pandas as pd

from qlib_ext import cli
from qlib_ext.recorder import SqliteExpManager


@cache
def recorded():
    """A folder with a run, made once."""
    place = Path(tempfile.mkdtemp())
    experiment = SqliteExpManager(f"sqlite:///{place}/mlruns.db", "mine").get_exp(experiment_name="mine", create=True)
    recorder = experiment.create_recorder("mine")
    recorder.start_run()
    index = pd.MultiIndex.from_product([pd.to_datetime(["2022-03-01"]), ["SH600000"]], names=["datetime", "instrument"])
    recorder.save_objects(**{"pred.pkl": pd.DataFrame({"score": [0.1]}, index), "task": {}})
    recorder.end_run("FINISHED")
    return place


def give(text, place, market):
    shutil.copytree(recorded(), place, dirs_exist_ok=True)
    (place / "text.txt").write_text("no table and no database, but long enough to be looked at\n" * 40)
    (place / "empty").mkdir()
    (place / "journal").mkdir()
    (place / "journal/journal.csv").write_text("a,b\n1,2\n")
    (place / "region.yaml").write_text("qlib_init: {region: xx}\ntask: {model: {}, dataset: {}}\n")
    head = "date,code,side,yuan,arrival,average\n"
    (place / "headers.csv").write_text(head)
    (place / "own.csv").write_text(f"{head}2020-06-01,SH603999,buy,1e5,10,10\n")
    (place / "zero.db").touch()
    with contextlib.closing(sqlite3.connect(place / "other.db")) as other:
        other.execute("CREATE TABLE holdings (code TEXT)")
    shutil.copy(place / "mlruns.db", place / "half.db")
    with contextlib.closing(sqlite3.connect(place / "half.db")) as half, half:
        half.execute("DELETE FROM alembic_version")
    said, out = io.StringIO(), io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        try:
            status = cli.main(shlex.split(text.replace("$market", str(market))))
        except SystemExit as ended:
            status = ended.code
    lines = [line for line in said.getvalue().splitlines() if line.startswith("qlib-ext: error: ")]
    if status == 2 and len(lines) == 1 and not any(word in said.getvalue() for word in ("Traceback", "fault of qlib")):
        raise ValueError(lines[0])
    return f"status {status}\n{out.getvalue()}{said.getvalue()}"
