"""What is finished before a run is cut short is not done again: trees, members of any ensemble, records; by files."""

import json
import re
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pandas as pd
import pytest
import test_data
from qlib.model.trainer import task_train
from qlib.workflow import R
from test_ensemble import QUICK, Broken, config, make_dataset

from qlib_ext.evaluate import LightGBM
from qlib_ext.model import FoldEnsemble, LightGBMModel, MLPModel, ModelEnsemble, WalkForwardModel
from qlib_ext.record import MoneyRecord
from qlib_ext.runs import list_runs
from qlib_ext.synthetic import make_market

PLAIN = {"lambda_l1": 0.0, "lambda_l2": 0.0, "num_leaves": 4, "min_data_in_leaf": 5}
TREES = {"class": "LightGBMModel", "kwargs": {"rounds": 6, "parameters": PLAIN}}
MLP = {"class": "MLPModel", "kwargs": QUICK | {"dropout": 0.1}}
FOLDS = {"class": "FoldEnsemble", "kwargs": {"model": MLP, "n_splits": 2}}


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def spy(monkeypatch):
    """What is trained: the prefix and epoch of each network's, and `trees` for each model of trees."""
    told, grow, tell = [], LightGBM.fit, resolve_name("qlib_ext.model.day_model:report")

    def report(prefix, counter, epoch, row):
        told.append((prefix, epoch))
        tell(prefix, counter, epoch, row)

    monkeypatch.setattr("qlib_ext.model.day_model.report", report)
    monkeypatch.setattr(LightGBM, "fit", lambda *args: told.append("trees") or grow(*args))
    return told


@pytest.fixture
def trained(monkeypatch):
    return spy(monkeypatch)


def break_at(monkeypatch, at):
    """Let the training break in the epoch that is told so many-th."""
    left = iter([None] * at)

    def fail(prefix, counter, epoch, row):
        if next(left, "over") == "over":
            raise Broken

    monkeypatch.setattr("qlib_ext.model.day_model.report", fail)


# --- trees


def test_grown_trees_come_out_of_their_file_with_the_same_bits(dataset, tmp_path, trained):
    path, panel, rows = tmp_path / "new" / "trees.pt", dataset.panel, (np.arange(60), np.arange(64, 90))
    options = TREES["kwargs"] | {"checkpoint": str(path)}
    first, again = (LightGBMModel(**options) for _ in range(2))
    first.fit_rows(panel, 1, *rows, keep_checkpoint=True)
    again.fit_rows(panel, 1, *rows, keep_checkpoint=True)
    assert trained == ["trees"] and path.exists() and again.history == first.history
    assert again.booster.best_iteration == first.booster.best_iteration
    np.testing.assert_array_equal(again.score_rows(panel, rows[1]), first.score_rows(panel, rows[1]))
    for change, words in (
        ({"seed": 1}, "trees is LightGBM.*seed=0.* here, .*in the file|trees is "),
        ({"every_days": 2}, "training days is 30, .* here, 60, "),
    ):
        with pytest.raises(ValueError, match=f"trees.pt is the checkpoint of another training: {words}"):
            LightGBMModel(**options | change).fit_rows(panel, 1, *rows)
    with pytest.raises(ValueError, match="is the checkpoint of another training"):
        MLPModel(**QUICK, checkpoint=str(path)).fit_rows(panel, 1, *rows)
    LightGBMModel(**options).fit_rows(panel, 1, *rows)
    assert not path.exists() and trained == ["trees"]
    with pytest.raises(ValueError, match="allowed: null, or the path of a file"):
        LightGBMModel(checkpoint=3)


# --- ensembles of kinds


@pytest.mark.parametrize(("at", "left"), [(1, 8 - 1), (3, 8 - 3), (6, 8 - 6)])
def test_an_ensemble_of_kinds_does_not_train_its_finished_members_again(dataset, tmp_path, monkeypatch, at, left):
    """Trees, four epochs of two folds, two of a network, two of another one."""
    members = [TREES, FOLDS, MLP, config("MLPModel", hidden=[4, 2])]

    def new(**options):
        return ModelEnsemble(members=members, combine="weights", **options)

    whole = new()
    whole.fit(dataset)
    cut = new(checkpoint=str(tmp_path / "run.pt"))
    with monkeypatch.context() as patch, pytest.raises(Broken):
        break_at(patch, at - 1)
        cut.fit(dataset)
    assert {"run.LightGBMModel.pt", "run.FoldEnsemble.fold0.seed0.pt"} <= {path.name for path in tmp_path.iterdir()}
    told = spy(monkeypatch)
    cut.fit(dataset)
    assert len(told) == left and "trees" not in told and len(set(told)) == left
    pd.testing.assert_series_equal(cut.predict(dataset), whole.predict(dataset))
    pd.testing.assert_series_equal(cut.oof, whole.oof)
    pd.testing.assert_frame_equal(cut.table, whole.table)
    assert not list(tmp_path.iterdir())


def test_an_ensemble_of_kinds_that_is_walked_has_files_for_each_block(dataset, tmp_path, monkeypatch):
    def new(**options):
        return WalkForwardModel(
            model={"class": "ModelEnsemble", "kwargs": {"members": [TREES, MLP]} | options}, step=20
        )

    whole, cut = new(), new(checkpoint=str(tmp_path / "run.pt"))
    whole.fit(dataset)
    with monkeypatch.context() as patch, pytest.raises(Broken):
        break_at(patch, 3)
        cut.fit(dataset)
    names = [f"run.fold{n}.seed0.{kind}.pt" for n in (0, 1) for kind in ("LightGBMModel", "MLPModel")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    told = spy(monkeypatch)
    cut.fit(dataset)
    assert told == []
    pd.testing.assert_series_equal(cut.predict(dataset), whole.predict(dataset))
    assert not list(tmp_path.iterdir())


def test_files_that_members_would_share_are_refused_and_what_is_not_kept_is_told(dataset, tmp_path):
    own = [{**MLP, "kwargs": MLP["kwargs"] | {"checkpoint": name}} for name in ("a.pt", "b.pt")]
    with pytest.raises(ValueError, match="give ModelEnsemble the checkpoint, .*; MLPModel name a.pt"):
        ModelEnsemble(members=[own[0], TREES], checkpoint="run.pt")
    with pytest.raises(ValueError, match="MLPModel, MLPModel2 name a.pt, a.pt"):
        ModelEnsemble(members=[own[0], own[0]])
    ModelEnsemble(members=own)
    walked = {"class": "ModelEnsemble", "kwargs": {"members": own}}
    with pytest.raises(ValueError, match="member MLPModel: a.pt would be the checkpoint of each fold's member"):
        WalkForwardModel(model=walked, step=20).check_dataset(dataset)
    linear = {"class": "LinearModel", "module_path": "qlib.contrib.model.linear", "kwargs": {"estimator": "ridge"}}
    with pytest.warns(UserWarning, match="checkpoint: LinearModel has none, it is trained anew"):
        ModelEnsemble(members=[TREES, linear], checkpoint=str(tmp_path / "run.pt")).fit(dataset)


# --- records


class Counting(MoneyRecord):
    """Counts how often it is generated; then breaks where it is told to."""

    artifact_path, made, breaks = "mine", [], set()

    def __init__(self, recorder, dataset=None, model=None, *, name="a", **money):
        super().__init__(recorder, dataset, model, **money)
        self.own = name

    def list(self):
        return [f"{self.own}.pkl"]

    def _generate(self, *args, **kwargs):
        self.made.append(self.own)
        self.recorder.log_metrics(**{f"own.{self.own}": 0.1 + 0.2})
        self.recorder.set_tags(**{f"own.{self.own}": "yes"})
        if self.own in self.breaks:
            raise Broken
        return {f"{self.own}.pkl": pd.Series([0.1 + 0.2, 1e-300])}


@pytest.fixture
def task(tmp_path):
    """A task of two records, and the place of its runs."""
    market = make_market(tmp_path / "market", n_stocks=14, start="2020-01-02", years=1.0, seed=3)
    test_data.start_qlib(market, tmp_path)
    Counting.made.clear()
    Counting.breaks.clear()
    model = {"hidden": [8, 4], "loss": "ic", "metric": "ic", "epochs": 2, "device": "cpu"}
    dataset = {"handler": test_data.make_handler(), "segments": test_data.SEGMENTS}
    own = [{"class": "Counting", "module_path": __name__, "kwargs": {"name": name}} for name in "ab"]
    return {
        "model": {
            "class": "MLPModel",
            "module_path": "qlib_ext.model",
            "kwargs": model | {"checkpoint": str(tmp_path / "kept" / "run.pt")},
        },
        "dataset": {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": {"liquidity": "auto", **dataset}},
        "record": [{"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"}, *own],
    }


def cut_short(task, at="b"):
    """Run until the record b breaks."""
    Counting.breaks.add(at)
    with pytest.raises(Broken):
        task_train(task, experiment_name="cut")
    Counting.breaks.clear()


def test_a_run_that_is_cut_short_in_its_records_goes_on(task, tmp_path, trained):
    calm = task_train(task, experiment_name="calm")
    assert not list((tmp_path / "kept").iterdir()) and trained == [("", 1), ("", 2)]
    Counting.made.clear()
    trained.clear()
    cut_short(task)
    assert Counting.made == ["a", "b"] and trained == [("", 1), ("", 2)]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["run.pt", "run.records.json"]
    again = task_train(task, experiment_name="cut")
    assert Counting.made == ["a", "b", "b"] and len(trained) == 2
    assert again.list_metrics() == calm.list_metrics() and again.list_tags()["own.a"] == "yes"
    for name in ("pred.pkl", "mine/a.pkl", "mine/b.pkl", "folds/curves.pkl"):
        assert again.load_object(name).equals(calm.load_object(name))
    assert not list((tmp_path / "kept").iterdir())
    task_train(task, experiment_name="cut")  # a finished run is none to go on with
    assert Counting.made == ["a", "b", "b", "a", "b"] and len(trained) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [("artifact", "a.pkl of run .* is damaged or gone"), ("file", "run.records.json is damaged"),
     ("task", "of other records: the task"), ("data", "of other records: the data"), ("program", "the program")],
)  # fmt: skip
def test_records_of_others_and_damaged_ones_are_told_and_made_anew(task, tmp_path, caplog, monkeypatch, change, words):
    cut_short(task)
    kept = tmp_path / "kept" / "run.records.json"
    content = json.loads(kept.read_bytes())
    if change == "artifact":
        (entry,) = content["records"].values()
        file = Path(entry["folder"], "mine/a.pkl")
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif change == "file":
        kept.write_bytes(kept.read_bytes()[:-9])
    elif change == "task":
        task["record"][2]["kwargs"]["top_n"] = 3
    elif change == "data":
        (tmp_path / "market" / "README.md").write_text("another")
    else:
        monkeypatch.setattr("qlib_ext.runs.kept._programs", lambda text: [b"another"])
    told = []
    monkeypatch.setattr("qlib_ext.runs.mlflow_run.logger.warning", told.append)
    task_train(task, experiment_name="cut")
    assert Counting.made == ["a", "b", "a", "b"]
    assert any(re.search(words, text) for text in told), told


def test_nothing_is_kept_without_a_checkpoint_and_files_go_at_once_without_a_task(task, tmp_path, dataset):
    del task["model"]["kwargs"]["checkpoint"]
    cut_short(task)
    task_train(task, experiment_name="cut")
    assert Counting.made == ["a", "b", "a", "b"] and not (tmp_path / "kept").exists()
    assert [run.status for run in list_runs(uri=R.exp_manager.uri)] == ["FINISHED", "FAILED"]
    with R.start(experiment_name="mine"):
        model = FoldEnsemble(model=config("MLPModel", checkpoint=str(tmp_path / "own" / "run.pt")), n_splits=2)
        model.fit(dataset)
        assert not list((tmp_path / "own").iterdir())
