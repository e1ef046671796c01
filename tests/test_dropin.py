"""qlib's own models on a DayDatasetH: its rows and windows are those of qlib's data sets; our records judge them."""

import pickle
from pathlib import Path

import dropin
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from qlib.contrib.model.gbdt import LGBModel
from qlib.contrib.model.pytorch_gats_ts import DailyBatchSampler
from qlib.contrib.model.pytorch_gru_ts import GRU
from qlib.data.dataset import DatasetH, TSDatasetH
from qlib.model.trainer import _log_task_info, task_train
from qlib.utils import init_instance_by_config
from qlib.workflow import R
from test_data import SEGMENTS, SIZE, make_handler, start_qlib

import qlib_ext
from qlib_ext.data import DayDatasetH, WindowFrame, judging
from qlib_ext.model import past_scores
from qlib_ext.record import BaselineRecord, ForecastRecord, LiquidityRecord
from qlib_ext.runs import run_name, run_tags
from qlib_ext.synthetic import make_market

BOTH = ["feature", "label"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dropin")


@pytest.fixture(scope="module")
def market(folder):
    path = make_market(folder / "market", **SIZE)
    start_qlib(path, folder)
    return path


@pytest.fixture(scope="module")
def handler(market):
    return make_handler()


@pytest.fixture(scope="module")
def dataset(handler):
    return DayDatasetH(handler, SEGMENTS, step_len=5)


# --- rows and windows


@pytest.mark.parametrize("key", ["learn", "infer"])
@pytest.mark.parametrize("segment", [*SEGMENTS])
def test_rows_and_windows_are_qlibs(dataset, handler, segment, key):
    frame = dataset.prepare(segment, col_set=BOTH, data_key=key)
    plain = DatasetH(handler, SEGMENTS).prepare(segment, col_set=BOTH, data_key=key)
    pd.testing.assert_frame_equal(pd.DataFrame(frame), plain)
    theirs = TSDatasetH(handler=handler, segments=SEGMENTS, step_len=5).prepare(segment, col_set=BOTH, data_key=key)
    for sampler in (frame, theirs):
        sampler.config(fillna_type="ffill+bfill")
    place = pd.Series(np.arange(len(theirs)), theirs.get_index()).reindex(frame.get_index()).to_numpy()
    assert len(frame) == len(theirs) == len(plain) and frame.get_index().is_monotonic_increasing
    np.testing.assert_array_equal(frame[np.arange(len(frame))], theirs[place])
    np.testing.assert_array_equal(frame[len(frame) - 1], theirs[int(place[-1])])


def test_a_frame_stays_one_until_windows_are_asked_for(dataset, handler):
    frame = dataset.prepare("valid", col_set=BOTH)
    assert isinstance(frame, WindowFrame) and type(frame.iloc[:3]) is type(frame.copy()) is pd.DataFrame
    assert frame["feature"].shape == (len(frame), 6) and frame[frame["label", "LABEL0"] > 0].shape[1] == 7
    assert frame[[True] * len(frame)].shape == frame.shape and not frame.empty
    assert frame[[2, 3]].shape == (2, 5, 7) and not frame.columns.size and not frame.empty
    again = pickle.loads(pickle.dumps(frame))
    np.testing.assert_array_equal(again[[2, 3]], frame[[2, 3]])
    with pytest.raises(KeyError):
        frame["feature"]


def test_windows_of_an_open_segment_and_of_several(handler):
    dataset = DayDatasetH(handler, {"train": [None, "2020-07-31"], "test": ["2020-10-08", None]}, step_len=5)
    train, test = dataset.prepare(["train", "test"], col_set=BOTH)
    assert np.isnan(train[0][:4]).all() and not np.isnan(train[0][4]).all()  # no day before the first
    assert not np.isnan(test[0][:4]).all()
    dataset.config(step_len=3)
    assert dataset.prepare("test", col_set=BOTH)[0].shape == (3, 7)


def test_a_batch_of_a_day_is_one_day(dataset, handler):
    theirs = TSDatasetH(handler=handler, segments=SEGMENTS, step_len=5).prepare("valid", col_set=BOTH)
    ours = dataset.prepare("valid", col_set=BOTH)
    days = [{str(ours.get_index()[n][0]) for n in batch} for batch in DailyBatchSampler(ours)]
    assert [len(one) for one in days] == [1] * len(days) and len(set.union(*days)) == len(days)
    assert max(len({theirs.get_index()[n][0] for n in batch}) for batch in DailyBatchSampler(theirs)) > 1


# --- models


def test_a_model_of_rows_learns_the_same_as_on_qlibs_data_set(dataset, handler):
    scores = []
    for one in (dataset, DatasetH(handler, SEGMENTS)):
        model = LGBModel(num_boost_round=5, num_threads=1, seed=0, verbosity=-1)
        with R.start(experiment_name="rows"):
            model.fit(one)
        scores.append(model.predict(one))
    pd.testing.assert_series_equal(*scores)
    assert scores[0].std() > 0


def test_a_model_of_windows_learns_and_its_scores_are_sorted(dataset, handler):
    with torch.random.fork_rng():
        model = GRU(d_feat=6, hidden_size=4, num_layers=1, n_epochs=1, batch_size=200, n_jobs=0, seed=0, GPU=-1)
        with R.start(experiment_name="windows"):
            model.fit(dataset)
    scores = model.predict(dataset)
    rows = dataset.prepare("test", col_set="label")
    assert scores.index.equals(rows.index) and scores.std() > 0
    theirs = model.predict(TSDatasetH(handler=handler, segments=SEGMENTS, step_len=5))
    pd.testing.assert_series_equal(scores, theirs.sort_index(), rtol=1e-4, atol=1e-6)


# --- records


def recorded(scores, *records):
    """A recorder that holds scores, and what records made of them."""
    with R.start(experiment_name="judged"):
        R.save_objects(**{"pred.pkl": scores.to_frame("score"), "label.pkl": None})
        for record in records:
            record(R.get_recorder()).generate()
        return R.get_recorder()


def random_scores(dataset):
    rows = dataset.handler.fetch(slice(*SEGMENTS["test"]), col_set="label").index
    return pd.Series(np.random.default_rng(0).normal(size=len(rows)), rows)


@pytest.mark.parametrize("kind", [DatasetH, TSDatasetH])
def test_scores_of_qlibs_own_data_set_are_judged_alike(handler, kind):
    plain, ours = kind(handler=handler, segments=SEGMENTS), DayDatasetH(handler, SEGMENTS)
    tables = []
    for dataset in (plain, ours):
        recorder = recorded(random_scores(plain), lambda own, of=dataset: LiquidityRecord(own, of, benchmark=None))
        tables.append(recorder.load_object("liquidity_analysis/headline.pkl"))
        assert recorder.load_object("run_facts.pkl")["stocks"] == SIZE["n_stocks"]
    pd.testing.assert_frame_equal(*tables)
    assert BaselineRecord(recorder, plain).dataset is ForecastRecord(recorder, plain).dataset is judging(plain)
    assert not hasattr(pickle.loads(pickle.dumps(plain)), "_judging")


def test_a_data_set_of_the_records_own(handler, monkeypatch):
    built = []
    build = lambda config: built.append(config) or init_instance_by_config(config)  # noqa: E731
    monkeypatch.setattr("qlib_ext.data.over_handler.init_instance_by_config", build)
    own = {"handler": handler, "segments": SEGMENTS, "listing_age": 0}
    config = {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": own}
    recorder = recorded(random_scores(DatasetH(handler, SEGMENTS)))
    both = {"model": object(), "dataset": DatasetH(handler, SEGMENTS)}
    records = [
        init_instance_by_config(
            {"class": name, "module_path": "qlib_ext.record", "kwargs": {"dataset": config}},
            recorder=recorder,
            try_kwargs=both,
        )
        for name in ("LiquidityRecord", "BaselineRecord")
    ]
    assert not built  # a task is checked before anything is loaded
    assert records[0].dataset is records[1].dataset and records[0].dataset.listing_age == 0 and len(built) == 1
    assert records[0].scores(records[0].dataset.rows("test")).shape[1] == SIZE["n_stocks"]
    none = config | {"kwargs": own | {"liquidity": None}}
    with pytest.raises(ValueError, match="LiquidityRecord needs a DayDatasetH with liquidity"):
        LiquidityRecord(recorder, none).judged([0], [[0.0]])
    with pytest.raises(ValueError, match="LiquidityRecord needs a DayDatasetH with liquidity"):
        LiquidityRecord(recorder, object())


def test_what_scores_of_windows_are_worth_is_learnt_of_the_segment_valid(dataset):
    class Windows:
        def predict(self, dataset):
            windows = dataset.prepare("test", col_set=BOTH)
            windows.config(fillna_type="ffill+bfill")
            return pd.Series([float(windows[n][-1, 0]) for n in range(len(windows))], windows.get_index())

    scores = past_scores(Windows(), dataset)
    assert scores.index.equals(dataset.prepare("valid", col_set="label").index) and scores.std() > 0
    assert dataset.segments == {name: list(days) for name, days in SEGMENTS.items()}


# --- names


def test_a_run_is_named_and_tagged_and_still_found(market, folder):
    config = dropin.task("gbdt")
    with R.start(experiment_name="named"):
        _log_task_info(config)
        recorder = R.get_recorder()
    with R.start(experiment_name="named", recorder_name="my own"):
        _log_task_info(config)
    client = MlflowClient(f"sqlite:///{folder}/mlruns.db")
    number = [client.get_experiment_by_name("named").experiment_id]
    own, run = client.search_runs(number, "tags.model = 'LGBModel' and tags.universe = 'all' and tags.loss = 'mse'")
    assert (own.info.run_name, run.info.run_name) == ("my own", "LGBModel mse all seed 0")
    told = {"label": dropin.LABEL[0], "horizon": "1", "seed": "0", "provider": str(market)}
    assert told.items() <= run.data.tags.items() and run.data.tags["qlib_ext_version"] == qlib_ext.__version__
    assert R.get_recorder(recorder_id=recorder.id, experiment_name="named").name == run.info.run_name
    assert R.get_recorder(experiment_name="named").id == own.info.run_id  # of none by name or id, the latest
    with pytest.raises(ValueError, match="no valid recorder|No valid recorder"):
        R.get_recorder(experiment_name="named", recorder_name="another")


HUBER = {"class": "M", "kwargs": {"loss": {"class": "Huber"}}}


@pytest.mark.parametrize(
    ("model", "handler", "dataset", "name", "horizon"),
    [
        ({"class": "LGBModel"}, {"instruments": ["SH600000", "SZ000001"]}, {}, "LGBModel mse 2 stocks", None),
        ({"class": "FoldEnsemble", "kwargs": {"seeds": [0, 1], "model": HUBER}},
         {"instruments": "csi300"}, {"label_days": [1, 6]}, "FoldEnsemble(M) Huber csi300 seed 0, 1", "5"),
        ({"class": "Nowhere", "module_path": "nowhere"}, {}, {"label": "$close"}, "Nowhere", None),
    ],
)  # fmt: skip
def test_names_by_hand(model, handler, dataset, name, horizon):
    model = {"module_path": "qlib.contrib.model.gbdt"} | model
    task = {"model": model, "dataset": {"class": "DayDatasetH", "kwargs": {"handler": {"kwargs": handler}} | dataset}}
    assert (run_name(task), run_tags(task).get("horizon")) == (name, horizon)


# --- the table of docs/dropin.md


def table():
    """Cells of the table's rows, by module."""
    lines = (ROOT / "docs" / "dropin.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_table_lists_what_is_run():
    published = {module: (name, dataset["class"]) for module, (name, _, dataset, _) in dropin.MODELS.items()}
    mine = {module: (*pair, dropin.MINE[pair[1]].rpartition(".")[2]) for module, pair in published.items()}
    assert {module: tuple(row[:3]) for module, row in table().items()} == mine
    for module, row in table().items():
        said = "`scheduler: null`" if dropin.NEEDS.get(module) else "yes"
        assert said in row[3], module


@pytest.fixture(scope="module")
def larger(folder):
    """A market with more than 50 stocks a day, which qlib's IC metric of DNNModelPytorch needs."""
    path = make_market(folder / "larger", **SIZE | {"n_stocks": 80})
    start_qlib(path, folder)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("module", [*dropin.MODELS])
def test_each_model_trains_and_its_scores_are_judged(larger, module):
    if module == "xgboost":
        pytest.importorskip("xgboost")
    recorder = task_train(dropin.task(module, **dropin.NEEDS.get(module, {})), "table")
    scores = recorder.load_object("pred.pkl")["score"]
    assert scores.index.is_monotonic_increasing and scores.notna().all() and scores.std() > 1e-4
    assert recorder.load_object("liquidity_analysis/headline.pkl").notna().any().any()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["gbdt", "pytorch_lstm_ts", "pytorch_tra"])
def test_and_on_qlibs_own_data_set_too(larger, module):
    recorder = task_train(dropin.task(module, ours=False), "table")
    assert recorder.load_object("liquidity_analysis/headline.pkl").notna().any().any()


@pytest.mark.slow
def test_what_a_model_needs_is_needed(larger):
    with pytest.raises(TypeError, match="verbose"):
        task_train(dropin.task("pytorch_nn"), "table")
