"""Ranks that share the days: the numbers of one process with as many days a step, one that records, clear ends."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from rank_jobs import D, cut, ensembles, fit, in_one_pass, one_pass, refused, together, trees
from test_kills import small_workflow

from qlib_ext import ranks
from qlib_ext.progress import Console
from qlib_ext.recorder import SqliteExpManager
from qlib_ext.runs import list_runs, load_artifacts
from qlib_ext.training import pick_device

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ALL = {"scale": "robust", "day_halflife": 9.0, "every_days": 2, "clip": 0.05}
CASES = {  # options of one process with 6 days a step
    "mlp": {"net": "mlp"},
    "an IC": {"net": "mlp", "loss": "wpcc"},
    "master": {"net": "master", "day_halflife": 9.0},
    "all options": {"net": "mlp", **ALL},
    "heads": {"net": "heads", "horizon_weights": [1, 3], "day_halflife": 9.0},
    "an early stop": {"net": "mlp", "noise": 0.3, "epochs": 9, "patience": 1},
}
ROWS = np.arange(D)
DROPOUT = {"net": "dropout", "batch_days": 2}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """What two and three ranks return: of each case (2 x 3 and 3 x 2 days), of one pass, of dropout, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    every = {}
    for of in (2, 3):
        jobs = [(fit, options | {"batch_days": 6 // of}) for options in CASES.values()]
        jobs += [(one_pass, {"batch_days": 6 // of // of or 1, "rows": ROWS}), (fit, DROPOUT), (fit, DROPOUT)]
        jobs += [(fit, {"net": "draws", "batch_days": 4, "epochs": 2}), (refused, {})]
        names = [*CASES, "one pass", "dropout", "again", "draws", "refused"]
        if of == 2:
            jobs += [(in_one_pass, {"batch_days": 2}), (ensembles, {"batch_days": 4})]
            jobs += [(trees, {"folder": folder, "checkpoint": str(folder / "trees.pt")})]
            names += ["together", "ensembles", "trees"]
        every[of] = [dict(zip(names, done, strict=True)) for done in together(of, *jobs)]
    return every, folder


def assert_close(ours, its):
    for name, value in its[0].items():
        torch.testing.assert_close(ours[0][name], value, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    assert len(ours[1].epochs) == len(its[1].epochs) and ours[1].best_epoch == its[1].best_epoch
    for row, other in zip(ours[1].epochs, its[1].epochs, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(ours[2], its[2], **CLOSE)


def assert_same(ours, its):
    assert all(torch.equal(ours[0][name], value) for name, value in its[0].items())
    assert ours[1] == its[1]


@pytest.mark.parametrize("of", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_ranks_are_one_process_with_the_days_of_all_a_step(several, of, case):
    """Steps of 6 days, the last of 2 or 4: of three ranks one has none; heads lack a label on some days."""
    first, *others = (done[case] for done in several[0][of])
    alone = fit(**CASES[case], batch_days=6)
    for other in others:
        assert_same(other, first)
    if case == "an IC":  # blind to a shift of the scores, whose gradient is rounding alone
        alone, first = (
            ({name: value for name, value in state.items() if value.shape != (1,)}, history, score - score[:, :1])
            for state, history, score, *_ in (alone, first)
        )
    assert_close(first, alone)
    assert (case == "an early stop") == (len(alone[1].epochs) < CASES[case].get("epochs", 3))


@pytest.mark.parametrize("of", [2, 3])
def test_days_that_cannot_be_learnt_from_and_ranks_without_a_day(several, of):
    """Steps of 2 or 3 days, whole ones of days without a label's difference; 60 days, of 3 ranks none is left over."""
    days = 6 // of // of or 1
    alone = one_pass(batch_days=of * days, rows=ROWS)
    for state, learnt, judged, score in (done["one pass"] for done in several[0][of]):
        for name, value in alone[0].items():
            torch.testing.assert_close(state[name], value, **CLOSE)
        assert (learnt, judged) == pytest.approx(alone[1:3], rel=1e-5)
        np.testing.assert_allclose(score, alone[3], **CLOSE)


@pytest.mark.parametrize("of", [2, 3])
def test_dropout_is_each_ranks_own_and_the_same_when_it_is_done_again(several, of):
    done = several[0][of]
    for one in done:
        assert_same(one["dropout"], done[0]["again"])
    met, steps = [one["draws"][4] for one in done], 2 * -(-26 // (4 * of))
    assert [len(each) for each in met] == [steps] * of and len({draw for each in met for draw in each}) == steps * of


def test_seeds_in_one_pass_are_what_each_is_alone(several):
    for one in (done["together"] for done in several[0][2]):
        for (state, history), (single, its) in zip(one[:3], one[3:], strict=True):
            assert history == its and all(torch.equal(state[name], value) for name, value in single.items())


def test_ensembles_are_those_of_one_process(several):
    first, second = (done["ensembles"] for done in several[0][2])
    for name, scores in ensembles(batch_days=8).items():
        pd.testing.assert_series_equal(first[name], scores, rtol=1e-4, atol=1e-4)
        pd.testing.assert_series_equal(first[name], second[name])


def test_trees_are_grown_once_and_known_to_all(several):
    done, folder = [each["trees"] for each in several[0][2]], several[1]
    assert [path.name for path in folder.iterdir() if path.name in "01"] == ["0"]
    (text, best, score), second = done
    assert second[:2] == (text, best)
    np.testing.assert_array_equal(second[2], score)
    (folder / "alone").mkdir()
    with mock.patch.dict(os.environ, {"RANK": "0"}):
        again = trees(folder=folder / "alone", checkpoint=str(folder / "trees.pt"))
    assert again[:2] == (text, best) and not list((folder / "alone").iterdir())  # out of the file


def test_processes_are_refused(several):
    words = "processes: 2, engine: process within 3 ranks: all ranks train each member together; set processes: 1"
    assert all(done["refused"].startswith(words) for done in several[0][3])


def test_what_one_rank_lacks_or_sees_otherwise_changes_nothing():
    """A rank whose memory suffices for a day alone, one whose metric always rises: the first one's row counts."""
    options = {"net": "mlp", "batch_days": 3, "noise": 0.3, "epochs": 9, "patience": 1}
    alone = fit(**options | {"batch_days": 6})
    first, second = together(2, (fit, options), each={1: {"poor": True, "odd": True}})
    assert_close(first[0], alone)
    assert_same(second[0], first[0])
    assert "a batch goes on in parts of 1" in " ".join(second[0][3]) and first[0][3] == []


# --- checkpoints and ends


def test_a_checkpoint_is_the_first_ones_and_goes_on_with_any_number_of_ranks(tmp_path):
    """The second rank names another file, as on another machine; the third training is cut after two epochs."""
    paths = [tmp_path / "first" / "run.pt", tmp_path / "second" / "run.pt"]
    own = {1: {"checkpoint": str(paths[1])}}
    options = DROPOUT | {"checkpoint": str(paths[0]), "epochs": 5, "patience": 5}
    whole, broken = together(2, (fit, options), (cut, options | {"stop": 2}), each=own)[0]
    assert broken == "cut" and paths[0].exists() and not paths[1].parent.exists()
    raw = paths[0].read_bytes()
    for of in (2, 1, 3):
        paths[0].write_bytes(raw)
        done = [[fit(**options)]] if of == 1 else together(of, (fit, options), each=own)
        history = done[0][0][1]
        assert history.resumed_from == 2 and len(history.epochs) == 5 and history.epochs[:2] == whole[1].epochs[:2]
        for other in done[1:]:
            assert_same(other[0], done[0][0])
        words = " ".join(done[0][0][3])
        told = f"run.pt is of 2 ranks, now there are {of}: the training goes on, with {of} x batch_days a step"
        assert (told in words) == (of != 2)
        if of == 2:
            assert history.epochs == whole[1].epochs and all(
                torch.equal(done[0][0][0][name], value) for name, value in whole[0].items()
            )
        assert not paths[0].exists()


def test_a_killed_rank_ends_the_others_and_the_training_goes_on(tmp_path):
    path = tmp_path / "run.pt"
    options = DROPOUT | {"checkpoint": str(path), "epochs": 2000, "patience": 2000}
    first, killed, third = together(3, (fit, options), kill=(1, path))
    assert killed is None
    for number, error in ((0, first), (2, third)):
        assert isinstance(error, RuntimeError)
        assert re.match(
            f"rank {number} of 3 waits in vain, another one has ended .*: torchrun's report names", str(error)
        )
        assert "with a checkpoint in the model's kwargs it goes on after the last whole epoch" in str(error)
    reached = len(torch.load(path, weights_only=True)["history"]["epochs"])
    done = together(2, (fit, options | {"epochs": reached + 2}))
    assert done[0][0][1].resumed_from == reached and len(done[1][0][1].epochs) == reached + 2


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"lr": 0.5}, "lr is 0.01 on rank 0, 0.5 on rank 1"),
        ({"epochs": 7}, "epochs is 3 on rank 0, 7 on rank 1"),
        ({"panel": 1}, r"data \(digest\) is \w+ on rank 0, \w+ on rank 1"),
        ({"train": np.arange(20)}, "training days is 26, .* on rank 0, 15, .* on rank 1"),
        ({"checkpoint": "a.pt"}, "checkpoint is False on rank 0, True on rank 1"),
    ],
)
def test_a_rank_that_would_train_something_else_is_refused_by_all(own, words):
    for error in together(2, (fit, {}), each={1: own}):
        assert isinstance(error, ValueError)
        assert re.match(f"rank 1 would train something else: {words}.* Start all ranks with the same", str(error), re.S)


def test_another_rank_keeps_its_runs_aside_and_shows_errors_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qlib_ext.runs.qlib_init.quieten", lambda: None)
    launch(monkeypatch, 1, 2)
    aside = Path(SqliteExpManager("sqlite:///mlruns.db", "x").uri.removeprefix("sqlite:///"))
    assert aside.parent.is_dir() and aside.parent.name.startswith("qlib_ext_rank_")
    launch(monkeypatch, 0, 2)
    assert SqliteExpManager("sqlite:///mlruns.db", "x").uri == f"sqlite:///{tmp_path}/mlruns.db"
    assert Console("info").alone and not Console("info", first=False).alone


def test_torchruns_next_attempt_over_the_same_store_is_no_part_of_the_one_before():
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    variables = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for attempt in (0, 1):
        done = together(2, (fit, {"epochs": 1}), TORCHELASTIC_RESTART_COUNT=str(attempt), **variables)
        assert_same(done[1][0], done[0][0])


# --- which process this is


def launch(monkeypatch, rank, of, **variables):
    for name, value in ({"RANK": rank, "WORLD_SIZE": of, "MASTER_ADDR": "h", "MASTER_PORT": 1} | variables).items():
        monkeypatch.setenv(name, str(value))


def test_shares_are_even_and_whole(monkeypatch):
    for of in (1, 2, 3, 7):
        for begin, end in ((0, 12), (5, 6), (10, 15), (3, 10)):
            shares = []
            for rank in range(of):
                launch(monkeypatch, rank, of)
                shares.append(ranks.own_share(begin, end))
            places = [place for share in shares for place in range(share.start, share.stop)]
            sizes = [share.stop - share.start for share in shares]
            assert places == list(range(begin, end)) and max(sizes) - min(sizes) <= 1


def test_without_torchrun_or_of_one_process_nothing_is_sent(monkeypatch):
    assert (ranks.count(), ranks.rank(), ranks.gather(3), ranks.of_first(lambda: 4)) == (1, 0, [3], 4)
    monkeypatch.setenv("WORLD_SIZE", "4")  # a cluster's own, without the others
    assert (ranks.count(), ranks.rank()) == (1, 0)
    launch(monkeypatch, 0, 1)
    tensor = torch.ones(2)
    assert ranks.add(tensor) is tensor and ranks.count() == 1 and not torch.distributed.is_initialized()
    ranks.part()


def test_each_rank_takes_a_gpu_of_its_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    launch(monkeypatch, 6, 8, LOCAL_RANK=2, LOCAL_WORLD_SIZE=4)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:2") and pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="device='cuda:1' would be that of 4 ranks: use device: cuda"):
        pick_device("cuda:1")
    launch(monkeypatch, 6, 8, LOCAL_RANK=0, LOCAL_WORLD_SIZE=1)
    assert pick_device("cuda:1") == torch.device("cuda:1") and pick_device("auto") == torch.device("cuda")
    launch(monkeypatch, 6, 8, LOCAL_RANK=2, LOCAL_WORLD_SIZE=8)
    with pytest.raises(ValueError, match="8 ranks on a machine with 4 GPUs: start as many .*, or device: cpu"):
        pick_device("auto")


# --- torchrun


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small market and a workflow."""
    return small_workflow(tmp_path_factory.mktemp("torchrun")).parent


def start(folder, of, **options):
    """Start qrun's program on so many ranks, with some of the model's options."""
    text = (folder.parent / "workflow.yaml").read_text()
    for name, value in options.items():
        text = re.sub(rf"(\n *){name}: .*|(\n *)seed: 0", rf"\1\2{name}: {value}", text, count=1)
    (folder / "workflow.yaml").write_text(text)
    (folder / "tmp").mkdir(exist_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(of)] if of > 1 else []
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        words = [sys.executable, *torchrun, "-m", "qlib.cli.run", "workflow.yaml"]
        return subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)


def process_of(rank, folder):
    """Number of the process of a rank that works in a folder."""
    for place in Path("/proc").iterdir():
        try:
            if f"\0RANK={rank}\0" in (place / "environ").read_text() and (place / "cwd").resolve() == folder:
                return int(place.name)
        except OSError:
            continue
    raise AssertionError(f"no rank {rank}")


@pytest.mark.slow
def test_torchrun_with_qrun_leaves_one_run(place):
    folder = place / "whole"
    folder.mkdir()
    assert start(folder, 2, epochs=3).wait(timeout=600) == 0, (folder / "log").read_text()[-3000:]
    (run,) = list_runs(uri=f"sqlite:///{folder}/mlruns.db")
    client, log = MlflowClient(f"sqlite:///{folder}/mlruns.db"), (folder / "log").read_text()
    assert run.status == "FINISHED" and client.get_run(run.id).data.tags["ranks"] == "2"
    assert load_artifacts(run, ["run_facts.pkl"])["run_facts.pkl"]["ranks"] == 2
    assert log.count("2 ranks share the days of each step; this one records") == 1
    assert log.count("training") == log.count("loss ") + 1 and log.count("[6/6]") == 1 and "Traceback" not in log
    assert not list((folder / "tmp").glob("qlib_ext_rank_*"))
    assert {path.name for path in folder.iterdir()} == {"workflow.yaml", "log", "tmp", "mlruns", "mlruns.db"}


@pytest.mark.slow
def test_a_killed_rank_fails_the_run_and_the_same_command_goes_on(place):
    folder = place / "killed"
    folder.mkdir()
    options = {"patience": 9999, "checkpoint": "run.pt"}
    process = start(folder, 2, epochs=9999, **options)
    while not (folder / "run.pt").exists():
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        time.sleep(0.05)
    os.kill(process_of(1, folder), signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    log = (folder / "log").read_text()
    assert "another one has ended" in log or "of several ranks all are ended where one ends" in log
    assert "Signal 9 (SIGKILL)" in log and "with as many ranks as you like" in log
    uri = f"sqlite:///{folder}/mlruns.db"
    assert [run.status in ("FAILED", "KILLED") for run in list_runs(uri=uri)] == [True]
    reached = len(torch.load(folder / "run.pt", weights_only=True)["history"]["epochs"])
    assert start(folder, 1, epochs=reached + 1, **options).wait(timeout=600) == 0, (folder / "log").read_text()[-3000:]
    assert "run.pt is of 2 ranks, now there are 1" in (folder / "log").read_text()
    assert sorted(run.status for run in list_runs(uri=uri))[-2:] in (["FAILED", "FINISHED"], ["FINISHED", "KILLED"])
    assert not (folder / "run.pt").exists()
