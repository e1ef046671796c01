"""Faults that the world brings: what was there is kept, the error says what came and what to do, a run has an end.

Those that stand elsewhere are listed in docs/trust.md.
"""

import logging
import pickle
import re
import resource
import shutil
import sqlite3
import subprocess
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from qlib.workflow import QlibRecorder
from test_trainer import FRESH, TRAIN, VALID, F, make_panel, make_trainer, same_state

from qlib_ext.nets import MLP
from qlib_ext.progress.console import Console
from qlib_ext.recorder import SqliteExpManager
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
