"""Faults that the world brings: what was there is kept, the error says what came and what to do, a run has an end.

Those that stand elsewhere are listed in docs/trust.md.
"""

import copy
import errno
import itertools
import logging
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import qlib
import test_ensemble
import torch
from desk import CASH, change, files, grow, record_run, start, task_of
from filelock import FileLock
from mlflow.tracking import MlflowClient
from qlib.model.trainer import task_train
from qlib.workflow import QlibRecorder
from test_trainer import FRESH, TRAIN, VALID, F, make_panel, make_trainer, same_state

from qlib_ext.cli import main
from qlib_ext.model import FoldEnsemble, MLPModel, WalkForwardModel
from qlib_ext.nets import MLP
from qlib_ext.progress import Console
from qlib_ext.provider import Witness
from qlib_ext.recorder import SqliteExpManager
from qlib_ext.runs import find_run, list_runs, load_artifacts
from qlib_ext.synthetic import make_market
from qlib_ext.training import fit_together

# --- memory ends in a batch

NO_MEMORY = {
    "numpy": MemoryError("Unable to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
}
MARK = 50.0


class Limited(MLP):
    """A network that has memory for `most` days at a time, and for a marked day by itself alone."""

    most, kind = 99, "gpu"

    def forward(self, x, *rest):
        if len(x) > self.most or (len(x) > 1 and x.max() >= MARK):
            raise NO_MEMORY[self.kind]
        return super().forward(x, *rest)


def trained(panel, most=99, kind="gpu", **options):
    torch.manual_seed(1)
    net = Limited(F, (8,), dropout=0.0, heads=max(1, len(panel.horizons)))
    net.most, net.kind = most, kind
    trainer = make_trainer("wpcc", net=net, **{"epochs": 2, "seed": 3, "precision": "float32"} | options)
    return trainer, lambda: trainer.fit(panel, TRAIN, VALID)


def varied_panel():
    """Two heads; the days that count differ from part to part."""
    panel = make_panel()
    panel.label[[3, 8, 9, 10, 21]] = 0.0
    labels = torch.stack([panel.label, panel.label.roll(-1, 0)], dim=2)
    labels[[5, 6], :, 1] = 0.0
    return replace(panel, labels=labels, horizons=(1, 2))


@pytest.mark.parametrize("kind", NO_MEMORY)
@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_batch_that_does_not_fit_goes_in_parts_to_the_same_numbers(most, kind):
    panel, weight, seen = varied_panel(), np.linspace(0.5, 1.5, len(TRAIN)), []
    for limit in (most, 99):
        trainer, _ = trained(panel, limit, kind)
        trainer.horizons = panel.horizons
        steps = torch.optim.SGD(trainer.net.parameters(), lr=0.1)
        with pytest.warns() if limit == most else warnings.catch_warnings():
            mean, _ = trainer.run_epoch(panel, TRAIN, steps, weight=weight)
            judged, score = trainer.run_epoch(panel, VALID)
        state = torch.cat([value.flatten() for value in trainer.net.state_dict().values()])
        seen.append((state.numpy(), [mean, judged], score, trainer.predict_heads(panel, FRESH)))
    for got, want in zip(*seen, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6)


def test_a_training_in_parts_is_told_once_with_the_cure():
    panel = make_panel()
    trainer, fit = trained(panel, 1)
    with pytest.warns(UserWarning) as told:
        got = fit()
    assert [str(one.message).partition(", whose")[0] for one in told] == [
        "the memory does not suffice for 4 days at a time: a batch goes on in parts of 2",
        "the memory does not suffice for 2 days at a time: a batch goes on in parts of 1",
    ]
    assert got.epochs[1] == pytest.approx(trained(panel)[1]().epochs[1], rel=1e-3, abs=1e-4)


def test_a_part_that_fails_in_the_midst_of_a_batch_is_not_counted_twice():
    panel = make_panel()
    panel.x[20, 0, 0] = MARK
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got, want = trained(panel, 2)[1](), trained(panel, 1)[1]()
    assert got.epochs[0]["train_loss"] == pytest.approx(want.epochs[0]["train_loss"], rel=1e-5)
    assert got.epochs[1] == pytest.approx(want.epochs[1], rel=1e-4)


@pytest.mark.filterwarnings("ignore:the memory does not suffice")
def test_seeds_of_one_pass_and_old_models_go_in_parts_too():
    panel = make_panel()
    few, many = ([trained(panel, most, seed=n, order_seed=0)[0] for n in (0, 1)] for most in (1, 99))
    got, want = (fit_together(ones, panel, TRAIN, VALID, on_epochs=[lambda *_: None] * 2) for ones in (few, many))
    for one, other in zip(got, want, strict=True):
        assert one.epochs[1] == pytest.approx(other.epochs[1], rel=1e-4)
    assert few[0]._fitting == 1 and few[0].__getstate__()["_fitting"] is None  # elsewhere there may be more


@pytest.mark.filterwarnings("ignore:the memory does not suffice")
def test_memory_that_ends_for_a_single_day_is_told_and_the_checkpoint_goes_on(tmp_path):
    panel, options = make_panel(), {"checkpoint": str(tmp_path / "run.pt")}
    whole, fit = trained(panel)
    wanted = fit()
    trainer, _ = trained(panel, **options)

    def ends(epoch, row):
        trainer.net.most = 0

    with pytest.raises(MemoryError, match=r"^not enough memory \(CUDA out of memory.*\): set a smaller batch_days"):
        trainer.fit(panel, TRAIN, VALID, on_epoch=ends)
    with pytest.raises(MemoryError, match=r"^not enough memory \(CUDA out of memory[^:]*\): set a smaller batch_days"):
        trainer.predict(panel, VALID)
    again, fit = trained(panel, **options)
    got = fit()
    assert got.resumed_from == 1 and got.epochs == wanted.epochs
    assert same_state(again.net.state_dict(), whole.net.state_dict())


# --- runs, their file and their folder

KEPT = "kept.pkl"


@contextmanager
def running(folder, name="x"):
    """Start a run over the file of a folder, as a process of its own would; gives its recorder."""
    recording = QlibRecorder(SqliteExpManager(f"sqlite:///{folder}/mlruns.db", "x"))
    with recording.start(experiment_name=name):
        yield recording.get_recorder()


def statuses(folder):
    """Of each experiment, as another process reads them."""
    with sqlite3.connect(folder / "mlruns.db") as connection:
        every = "SELECT e.name, r.status FROM runs r JOIN experiments e USING (experiment_id)"
        return dict(connection.execute(every).fetchall())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder in which a run has finished."""
    folder = tmp_path_factory.mktemp("first")
    with running(folder, "first") as run:
        run.save_objects(**{KEPT: "kept"})
    return folder


@pytest.fixture
def runs(first, tmp_path):
    """A copy of it: its own file of runs."""
    return Path(shutil.copytree(first, tmp_path / "runs"))


def spoil(folder, what, work):
    """Start a run, do something to the folder in its midst, and go on; returns the error that ends it."""
    with pytest.raises(OSError) as caught, running(folder, "spoilt") as run:
        run.log_metrics(ic=0.1)
        what(folder)
        work(run)
    return str(caught.value)


def damage(folder):
    raw = (folder / "mlruns.db").read_bytes()
    (folder / "mlruns.db").write_bytes(raw[:9000])


def replace_file(folder):
    shutil.copy(folder / "mlruns.db", folder / "copy")
    (folder / "copy").replace(folder / "mlruns.db")


def delete_file(folder):
    (folder / "mlruns.db").rename(folder / "away")


SPOILT = {  # what becomes of the file in the midst of a run: what the error says
    "deleted": (delete_file, "mlruns.db: it was deleted or replaced while it was in use: put it back"),
    "replaced": (replace_file, "mlruns.db: it was deleted or replaced while it was in use: put it back"),
    "damaged": (damage, r"mlruns.db: it is damaged, or half made .*: move it away \(the artifacts in mlruns/ stay\)"),
}
WORK = {
    "log": lambda run: run.log_metrics(ic=0.2),
    "save": lambda run: run.save_objects(**{KEPT: 1}),
    "end": lambda run: None,
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("kind", SPOILT)
def test_a_file_of_runs_that_is_spoilt_in_the_midst_of_a_run_ends_it_in_words(runs, kind, work):
    what, message = SPOILT[kind]
    before = {file: file.read_bytes() for file in (runs / "mlruns" / "first").rglob("*") if file.is_file()}
    error = spoil(runs, what, WORK[work])
    assert re.search(message, error) and "\n" not in error
    assert all(file.read_bytes() == raw for file, raw in before.items())


@pytest.mark.parametrize("kind", SPOILT)
def test_the_cure_works_and_the_run_is_marked(runs, tmp_path, kind):
    """What was deleted is put back; what is damaged is moved away."""
    spoil(runs, SPOILT[kind][0], WORK["log"])
    if kind == "deleted":
        (runs / "away").replace(runs / "mlruns.db")
    if kind == "damaged":
        (runs / "mlruns.db").rename(runs / "broken.db")
    runs = runs.rename(tmp_path / "moved")  # another address: mlflow opens it anew, as another process does
    with running(runs, "next") as run:
        run.save_objects(**{KEPT: "next"})
    earlier = {} if kind == "damaged" else {"first": "FINISHED", "spoilt": "KILLED"}
    assert statuses(runs) == earlier | {"next": "FINISHED"}
    (kept,) = (runs / "mlruns" / "first").rglob(KEPT)
    assert pickle.loads(kept.read_bytes()) == "kept"


def test_a_run_whose_folder_was_deleted_does_not_finish(runs):
    with pytest.raises(OSError, match="mlruns/x/.* was deleted while the run wrote into it: run .* is marked FAILED"):
        with running(runs) as run:
            run.save_objects(**{KEPT: 1})
            shutil.rmtree(Path(run.get_local_dir()))
    assert statuses(runs) == {"first": "FINISHED", "x": "FAILED"}
    with running(runs) as run:
        run.save_objects(**{KEPT: 2})
    assert run.load_object(KEPT) == 2


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return make_market(tmp_path_factory.mktemp("faults") / "market", n_stocks=40, years=1)


# --- the disk is full


def mounted(place):
    """Put a small disk there; whether that may be done here."""
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    return bool(shutil.which("mount")) and not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.fixture(params=["disk", "limit"])
def small(request, first, tmp_path):
    """A folder with a finished run, and what fills its disk for a while.

    A small disk of its own where it can be mounted; else, and besides, no file may grow, whose errors are near enough.
    """
    folder = tmp_path / "small"
    folder.mkdir()
    if request.param == "disk" and not mounted(folder):
        pytest.skip("no disk can be mounted here: the limit of a file's size stands for it")
    shutil.copytree(first, folder, dirs_exist_ok=True)

    @contextmanager
    def filled():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            if request.param == "limit":
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
            else:
                with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
                    while True:
                        file.write(bytes(4096))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            (folder / "filler").unlink(missing_ok=True)

    yield folder, filled
    if request.param == "disk":
        subprocess.run(["umount", "-l", str(folder)], check=True)


FULL = "make room|so large here"


def test_a_run_that_cannot_begin_on_a_full_disk_begins_with_room(small):
    folder, filled = small
    new = folder / "new"
    new.mkdir()
    for place in (new, folder):
        with filled(), pytest.raises(OSError, match=FULL), running(place, "y") as run:
            run.log_metrics(ic=1.0)
        with running(place, "next"):
            pass
    assert statuses(new) == {"next": "FINISHED"}
    assert statuses(folder) | {"y": ""} == {"first": "FINISHED", "next": "FINISHED", "y": ""}


@pytest.mark.parametrize("work", ["log", "save"])
def test_a_disk_that_fills_in_the_midst_of_a_run_ends_it_in_words(small, work):
    folder, filled = small
    with ExitStack() as stack, pytest.raises(OSError, match=FULL) as caught, running(folder, "y") as run:
        run.save_objects(**{"before.pkl": "before"})
        stack.enter_context(filled())
        WORK[work](run)
    assert "\n" not in str(caught.value)
    (before,) = (folder / "mlruns" / "y").rglob("before.pkl")
    assert pickle.loads(before.read_bytes()) == "before"
    with running(folder, "next") as run:
        run.save_objects(**{KEPT: 2})
    assert statuses(folder) in [{"first": "FINISHED", "y": end, "next": "FINISHED"} for end in ("FAILED", "KILLED")]


def test_a_checkpoint_on_a_full_disk_stays_and_is_gone_on_from(small):
    folder, filled = small
    panel, options = make_panel(), {"checkpoint": str(folder / "run.pt"), "epochs": 3}
    whole, fit = trained(panel, epochs=3)
    wanted = fit()
    cut, _ = trained(panel, **options)
    with ExitStack() as stack, pytest.raises(OSError, match=f"run.pt cannot be written: .*({FULL})"):
        cut.fit(panel, TRAIN, VALID, on_epoch=lambda epoch, row: stack.enter_context(filled()))
    assert {file.name for file in folder.iterdir()} == {"mlruns", "mlruns.db", "run.pt"}
    again, fit = trained(panel, **options)
    got = fit()
    assert got.resumed_from == 1 and got.epochs == wanted.epochs
    assert same_state(again.net.state_dict(), whole.net.state_dict())


def test_the_log_of_a_run_ends_with_one_word_where_the_disk_is_full(small, capsys):
    folder, filled = small
    console, told = Console("info"), []
    console.say = told.append
    records = [logging.LogRecord("qlib", logging.INFO, "", 0, f"line {n} {'x' * 9000}", None, None) for n in range(9)]
    console.begin(folder / "run.log")
    console.emit(records[0])
    with filled():
        for record in records[1:]:
            console.emit(record)
        console.close_run()
    assert len(told) == 1 and re.match("warning: .*run.log cannot be written: .*; the run goes on without", told[0])
    assert (folder / "run.log").read_text().count("line 0") == 1 and capsys.readouterr().err == ""


@pytest.mark.parametrize("order", ["init", "demo-data"])
def test_a_command_on_a_full_disk_says_so_in_a_line_and_works_with_room(small, market, capsys, order):
    folder, filled = small
    place = folder / "made"
    size = ["--stocks", "12", "--years", "0.3"]
    line = {"init": ["init", "--provider-uri", str(market), "--universe", "all", "--model", "mlp", "--out", str(place)]}
    line = line.get(order, ["demo-data", str(place), *size])
    with filled():
        assert main(line) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(rf"(.*\n)*qlib-ext: error: .*({FULL}).*\n", said) and "Traceback" not in said
    assert {file.name for file in folder.iterdir()} == {"mlruns", "mlruns.db"}
    assert main(line) == 0 and place.exists()


# --- a folder that may not be written


@pytest.fixture
def closed(first):
    """A copy of the folder of runs that belongs to nobody else, and a way to be a user who may only read there."""
    with TemporaryDirectory() as place:
        folder = Path(shutil.copytree(first, Path(place) / "closed"))
        for path in (Path(place), folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

        @contextmanager
        def reader():
            if os.geteuid() == 0:  # root may write everywhere
                os.seteuid(65534)
            else:
                for path in (folder, *folder.rglob("*")):
                    path.chmod(0o555 if path.is_dir() else 0o444)
            try:
                yield
            finally:
                os.seteuid(os.getuid())
                for path in (folder, *folder.rglob("*")):
                    path.chmod(0o755 if path.is_dir() else 0o644)

        yield folder, reader


REFUSED = "Permission denied: give yourself the right to, or name a folder of your own"


def test_runs_of_a_folder_that_may_not_be_written_are_read_and_none_is_begun(closed, capsys):
    folder, reader = closed
    uri = f"sqlite:///{folder}/mlruns.db"
    assert main(["show", "latest", "--uri", uri]) == 0  # imports, which another user may not be able to
    with reader():
        with pytest.raises(OSError, match=f"mlruns.db cannot be written: {REFUSED}"), running(folder):
            pass
        run = find_run("latest", uri=uri)
        assert load_artifacts(run, [KEPT], trust=True) == {KEPT: "kept"}
        assert main(["show", run.id, "--uri", uri]) == 0
    capsys.readouterr()
    with running(folder, "next"):
        pass
    assert statuses(folder) == {"first": "FINISHED", "next": "FINISHED"}


@pytest.mark.parametrize("what", ["mlruns.db", "mlruns"])
def test_a_part_of_the_runs_that_may_not_be_written_is_named(closed, what):
    folder, reader = closed
    with reader():
        pass
    folder.chmod(0o777)
    (folder / "mlruns.db").chmod(0o666 if what == "mlruns" else 0o444)
    (folder / "mlruns").chmod(0o555 if what == "mlruns" else 0o777)
    before = os.geteuid()
    words = {"mlruns.db": "mlruns.db: it may not be written: give yourself the right to", "mlruns": f"/.*: {REFUSED}"}
    if before == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(OSError, match=words[what]), running(folder, "y"):
            pass
    finally:
        os.seteuid(before)
        (folder / "mlruns").chmod(0o755)
    assert statuses(folder) == {"first": "FINISHED"} | ({"y": "FAILED"} if what == "mlruns" else {})


@pytest.mark.parametrize("order", ["init", "demo-data", "checkpoint"])
def test_what_cannot_be_written_is_told_before_or_instead(closed, market, capsys, order):
    folder, reader = closed
    place = folder / "made"
    line = {"init": ["init", "--provider-uri", str(market), "--universe", "all", "--model", "mlp", "--out", str(place)]}
    trained(make_panel())[1]()
    with reader():
        if order == "checkpoint":
            _, fit = trained(make_panel(), checkpoint=str(folder / "run.pt"))
            with pytest.raises(OSError, match=f"run.pt cannot be written: {REFUSED}"):
                fit()
        else:
            assert main(line.get(order, ["demo-data", str(place), "--stocks", "12", "--years", "0.3"])) == 2
            said = capsys.readouterr().err
            assert re.fullmatch(rf"(.*\n)*qlib-ext: error: .*{REFUSED}\n", said), said
    assert {file.name for file in folder.iterdir()} == {"mlruns", "mlruns.db"}


def test_kernels_are_compiled_where_no_folder_keeps_them(monkeypatch):
    """As for a service without a home, on a system that is mounted read-only."""
    compiled = resolve_name("qlib_ext.features.compiled")

    def refuses(function):
        raise RuntimeError("cannot cache function 'totals': no locator available")

    real = compiled.njit
    monkeypatch.setattr(compiled, "njit", lambda **options: refuses if options.get("cache") else real(**options))

    @compiled.with_options()
    def double(x):
        return 2 * x

    assert double(2.0) == 4.0 and double.signatures


# --- the data change while a run reads them


class Meddled(MLPModel):
    """A model during whose training something is done to the data."""

    meddle = staticmethod(lambda: None)

    def fit(self, dataset, **options):
        super().fit(dataset, **options)
        self.meddle()


@pytest.fixture(scope="module")
def desk(market, tmp_path_factory):
    """A task, and the provider that it reads, which ends with its test."""
    folder = tmp_path_factory.mktemp("data")
    live, days = folder / "live", start(market)
    grow(market, live, days[180])
    task = task_of(days, days[180])
    task["model"] = {"class": "Meddled", "module_path": __name__, "kwargs": task["model"]["kwargs"]}
    task["record"] = [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}]
    kwargs = {"uri": f"sqlite:///{folder}/mlruns.db", "default_exp_name": "x"}
    keeper = {"class": "SqliteExpManager", "module_path": "qlib_ext.recorder", "kwargs": kwargs}

    def train(meddle):
        qlib.init(provider_uri=str(live), region="cn", kernels=1, exp_manager=keeper)
        Meddled.meddle = staticmethod(meddle)
        return task_train(copy.deepcopy(task), experiment_name="desk")

    def restore():
        shutil.rmtree(live)
        grow(market, live, days[180])

    return SimpleNamespace(live=live, full=market, days=days, train=train, restore=restore)


SERIES = "features/sh600018"


def grown(folder):
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes() + bytes(4))


def written_again(folder):
    for file in folder.iterdir():
        raw = file.read_bytes()
        file.unlink()
        file.write_bytes(raw)


def swapped(folder):
    for old, new in (("close", "aside"), ("volume", "close"), ("aside", "volume")):
        (folder / f"{old}.day.bin").rename(folder / f"{new}.day.bin")


CHANGES = {  # the files that hold something else then; none: it is no change
    "a close": (lambda folder: change(folder.parents[1], "SH600018", "close", np.array([100]), 1.1), ["close"]),
    "a factor goes": (lambda folder: (folder / "factor.day.bin").unlink(), ["factor"]),
    "cut off": (lambda folder: os.truncate(folder / "volume.day.bin", 400), ["volume"]),
    "swapped": (swapped, ["close", "volume"]),
    "a new day": (grown, []),
    "written again": (written_again, []),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_has_changed_in_the_data_is_told_from_what_has_come(market, tmp_path, kind):
    what, names = CHANGES[kind]
    folder = Path(shutil.copytree(market / SERIES, tmp_path / SERIES))
    days = len((folder / "close.day.bin").read_bytes()) // 4 - 1
    witness = Witness(tmp_path / "features", ["SH600018", "SH609999"], days)
    assert witness.changed() == []
    what(folder)
    assert witness.changed() == [folder / f"{name}.day.bin" for name in names]


def test_data_that_change_while_a_run_reads_them_fail_it(desk):
    """Its artifacts stay; the same command ends well on what is there then. A day that comes is no change."""
    with pytest.raises(OSError, match=f"the data changed .*{SERIES}/close.* marked FAILED, start it again"):
        desk.train(lambda: change(desk.live, "SH600018", "close", np.array([100]), 1.1))
    desk.restore()
    run = desk.train(lambda: grow(desk.full, desk.live, desk.days[181]))
    desk.restore()
    later, earlier = list_runs(uri=run.uri, experiment="desk")
    assert (earlier.status, later.status) == ("FAILED", "FINISHED")
    kept = [load_artifacts(one, ["pred.pkl"], trust=True)["pred.pkl"] for one in (earlier, later)]
    pd.testing.assert_frame_equal(*kept)
    assert len(kept[0]) > 1000


# --- the clock jumps


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_clock_that_jumps_changes_no_end_and_no_remaining_time(runs, monkeypatch, hours):
    real, jump = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + jump[0])
    way = resolve_name("qlib_ext.progress.way:Way")(["training"])
    way.enter("training")
    with running(runs) as run:
        for n in range(3):
            way.step("epoch", n + 1, 4)
            run.log_metrics(step=n, ic=float(n))
            jump[0] += 3600 * hours
    assert statuses(runs)["x"] == "FINISHED" and 0 <= way.left() < 60
    history = MlflowClient(run.uri).get_metric_history(run.id, "ic")
    assert sorted((one.step, one.value) for one in history) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert MlflowClient(run.uri).get_run(run.id).data.metrics == {"ic": 2.0}


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_clock_that_jumps_marks_no_living_run_and_every_dead_one(runs, monkeypatch, hours):
    client = MlflowClient(f"sqlite:///{runs}/mlruns.db")
    here = {"process.host": socket.gethostname()}
    number = client.create_experiment("others", artifact_location=str(runs / "mlruns" / "others"))
    living, killed, early = (client.create_run(number, tags=here).info.run_id for _ in range(3))
    for run in (living, killed):
        (runs / "mlruns" / "others" / run).mkdir(parents=True)
        (runs / "mlruns" / "others" / run / ".running").touch()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    with FileLock(runs / "mlruns" / "others" / living / ".running"), running(runs, "next"):
        pass
    status = {run: client.get_run(run).info.status for run in (living, killed, early)}
    assert status == {living: "RUNNING", killed: "KILLED", early: "KILLED"}
    assert [run.experiment for run in list_runs(uri=f"sqlite:///{runs}/mlruns.db") if run.status == "RUNNING"] == []


# --- a process that trains members dies


class Dying(MLPModel):
    """Of seed 1, once one of seed 0 is trained: it is killed as by the system, where the file `doomed` is there."""

    def fit_rows(self, *args, **options):
        doomed, seed = Path(os.environ["DOOMED"]), self.options["seed"]
        if seed == 1 and doomed.exists():
            while not doomed.with_name("finished").exists():
                time.sleep(0.02)
            doomed.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        history = super().fit_rows(*args, **options)
        if doomed.exists():
            doomed.with_name("finished").touch()
        return history


@pytest.mark.slow
@pytest.mark.parametrize("kind", [FoldEnsemble, WalkForwardModel])
def test_after_a_worker_has_died_the_same_command_goes_on_from_its_checkpoints(runs, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("DOOMED", str(tmp_path / "doomed"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    dataset, options = test_ensemble.make_dataset(), test_ensemble.QUICK | {"checkpoint": str(tmp_path / "run.pt")}
    member = {"class": "Dying", "module_path": __name__, "kwargs": options}
    cut = {"n_splits": 2} if kind is FoldEnsemble else {"step": 20}
    calm = kind(model=member, seeds=[0, 1], **cut)
    calm.fit(dataset)
    assert not list(tmp_path.glob("*.pt"))
    (tmp_path / "doomed").touch()
    with pytest.raises(RuntimeError, match="was killed from outside, .*: set a smaller `processes`"):
        with running(runs, "workers"):
            kind(model=member, seeds=[0, 1], processes=2, **cut).fit(dataset)
    assert statuses(runs)["workers"] == "FAILED" and list(tmp_path.glob("run.fold*.seed0.pt"))
    again = kind(model=member, seeds=[0, 1], processes=2, **cut)
    again.fit(dataset)
    pd.testing.assert_series_equal(again.predict(dataset), calm.predict(dataset))
    assert max(member.history.resumed_from for member in again.models) > 0 and not list(tmp_path.glob("*.pt"))


# --- an evening on a full disk


@pytest.mark.slow
@pytest.mark.parametrize("write", [0, 2, 4])
def test_an_evening_on_a_full_disk_is_told_and_the_next_call_finishes(tmp_path, monkeypatch, capsys, write):
    """Nothing is half written; in the end there are the bytes of an evening that nothing disturbed."""
    first_day = pd.Timestamp("2020-10-12")
    made = record_run(tmp_path, first_day)
    grow(made.full, made.live, first_day)
    saved = Path(shutil.copytree(made.artifacts, tmp_path / "saved"))
    line = ["daily", "latest", "--uri", made.uri, "--cash", f"{CASH:.0f}", "--out", str(made.out)]
    line += ["--today", f"{first_day:%Y-%m-%d}"]
    assert main(line) == 0
    want, place, count = files(made), Path.replace, itertools.count()
    for folder in (made.artifacts, made.out):
        shutil.rmtree(folder)
    shutil.copytree(saved, made.artifacts)

    def replaced(self, target):
        if tmp_path in Path(target).parents and next(count) == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        return place(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replaced)
        assert main(line) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.match(
        "qlib-ext: error: .*(cannot be written: )?No space left on device: make room, then do it again", said
    )
    assert main(line) == 0 and files(made) == want
