"""qlib's PredUpdater on our runs: each new day, the last one too, is scored as in a run over a longer test segment."""

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.data import D
from qlib.data.dataset.handler import DataHandlerLP
from qlib.workflow.online.update import PredUpdater

from qlib_ext.data import DayDatasetH
from qlib_ext.model import FoldEnsemble, MASTERModel, MLPModel, ModelEnsemble, WalkForwardModel
from qlib_ext.recorder import SqliteExpManager
from qlib_ext.synthetic import make_market

NEW, TESTED = 6, 10  # days after the recorded test, and in it
NOISE = 1e-5  # of a day's standard deviation of the scores: sums of float32 in another order
QUICK = {"precision": "float32", "loss": "wpcc", "metric": "ic", "epochs": 1, "device": "cpu", "lr": 0.01}
MLP = {"class": "MLPModel", "kwargs": {"hidden": [8]} | QUICK}
SMALL = {"d_model": 8, "t_heads": 2, "dropout": 0.1}
SLOW = ("folds", "kinds", "walk-forward")
MODELS = {
    "MLP": lambda: MLPModel(hidden=[8], **QUICK),
    "MASTER with gate": lambda: MASTERModel(gate=True, **SMALL, **QUICK),
    "neutral": lambda: MLPModel(hidden=[8], **QUICK, neutral=["volatility", "beta"]),
    "folds": lambda: FoldEnsemble(model=MLP, n_splits=2, strict=False),
    "walk-forward": lambda: WalkForwardModel(model=MLP, step=TESTED - 2, strict=False),
    "kinds": lambda: ModelEnsemble(members=[MLP, {"class": "MASTERModel", "kwargs": SMALL | QUICK}]),
}


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    folder = make_market(tmp_path_factory.mktemp("updater") / "market", n_stocks=60, years=1)
    qlib.init(provider_uri=str(folder), region="cn", kernels=1)
    return pd.DatetimeIndex(D.calendar())


def dataset_of(days, last, handler=None, **options):
    """A data set tested up to `last`; its features are scaled by what was fitted on the days of train."""
    span = {"train": (days[70], days[-80]), "valid": (days[-77], days[-50]), "test": (days[-NEW - TESTED], last)}
    fitted = {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True}}
    config = {
        "class": "FastAlpha158",
        "module_path": "qlib_ext.handler",
        "kwargs": {"instruments": "all", "infer_processors": [fitted, {"class": "Fillna"}], "learn_processors": []},
    }
    segments = {name: [str(day.date()) for day in pair] for name, pair in span.items()}
    own = {"market_state": {"kind": "deck"}, "horizons": [1, 5]} | options
    return DayDatasetH(handler or config, segments, step_len=8, **own)


@pytest.fixture(scope="module")
def anew(days):
    return dataset_of(days, days[-1])


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    manager = SqliteExpManager(f"sqlite:///{tmp_path_factory.mktemp('runs')}/runs.db", "trial")
    return manager.get_exp(experiment_name="trial", create=True)


def recorded(experiment, model, dataset):
    """A recorder of a run that was scored up to the end of the dataset's test segment."""
    recorder = experiment.create_recorder("trial")
    recorder.start_run()
    dataset.config(dump_all=False, recursive=True)
    recorder.save_objects(**{"pred.pkl": model.predict(dataset).to_frame(), "params.pkl": model, "dataset": dataset})
    recorder.end_run("FINISHED")
    return recorder


def gap(score, other):
    """Largest difference of two scores, in standard deviations of a day."""
    assert score.index.equals(other.index)
    return float(((score - other).abs() / other.groupby("datetime").transform("std")).max())


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MODELS])
def test_updated_scores_are_those_of_a_run_over_more_days(name, days, anew, experiment):
    model = MODELS[name]()
    short = dataset_of(days, days[-NEW - 1], anew.handler)
    short._panel = anew.panel  # the same data: days after the test teach nothing
    model.fit(short)
    recorder = recorded(experiment, model, short)
    before = recorder.load_object("pred.pkl")["score"]
    PredUpdater(recorder).update()
    after = recorder.load_object("pred.pkl")["score"]
    assert after.index.unique("datetime")[-NEW:].equals(days[-NEW:])  # the last day too: qlib's issue 1231
    pd.testing.assert_series_equal(after.loc[: days[-NEW - 1]], before)
    assert gap(after, model.predict(anew)) < NOISE


@pytest.mark.parametrize("handler", ["FastAlpha158", "FastDaily"])
def test_the_data_of_a_day_are_the_same_to_the_bit_however_few_days_are_loaded(days, handler):
    """Features, liquidity, volatility, the market's state and exposures look back before the first day loaded."""

    def load(first):
        kwargs = {"instruments": "all", "start_time": first, "end_time": days[-1], "infer_processors": []}
        config = {"class": handler, "module_path": "qlib_ext.handler", "kwargs": kwargs}
        panel = DayDatasetH(config, {"test": (days[-3], days[-1])}, market_state={"kind": "deck"}).panel
        named = {name: getattr(panel, name)[-3:] for name in ("x", "present", "liquidity", "volatility", "market")}
        exposures = panel.exposures(["volatility", "beta", "reversal", "age"], np.arange(len(panel.days))[-3:])
        return panel.stocks, named | {"exposures": exposures}

    (many, every), (few, some) = load(days[-100]), load(days[-10])
    assert set(few) <= set(many)
    for name, grid in some.items():
        wider = every[name] if name == "market" else every[name][:, np.isin(many, few)]
        np.testing.assert_array_equal(grid, wider, err_msg=name)


def test_a_later_first_day_a_shorter_window_and_a_start_of_ones_own(days, anew):
    dataset = dataset_of(days, days[-NEW - 1], anew.handler)
    begun = []
    dataset.handler.config = lambda **options: begun.append(pd.Timestamp(options.get("start_time")))
    for start, first in ((-3, -3), (-30, -3), (-2, -3), (0, 2)):
        segments = {"test": (days[first], days[-1])}
        dataset.config(handler_kwargs={"start_time": days[start], "end_time": days[-1]}, segments=segments)
    assert begun == [days[-10], days[-30], days[-2], days[0]]  # 8 steps to the third day from the end
    del dataset.handler.config


def test_units_that_were_decided_on_many_days_hold_on_few(days, anew, monkeypatch):
    asked = []
    dataset = dataset_of(days, days[-1], anew.handler)
    assert dataset.panel.liquidity is not None and dataset.unit_profile == "community"
    real = "qlib_ext.data.dataset.profiled_liquidity"
    monkeypatch.setattr(real, lambda *codes, profile, **rest: asked.append(profile) or (None, profile, None))
    dataset.setup_data({"init_type": DataHandlerLP.IT_LS})
    assert dataset.panel.liquidity is None and asked == ["community"]


def test_qlibs_own_window_is_moved_by_the_updater_too(days, anew, experiment):
    model = MASTERModel(**SMALL, **QUICK)
    short = dataset_of(days, days[-NEW - 1], anew.handler)
    short._panel = anew.panel
    model.fit(short)
    recorder = recorded(experiment, model, short)
    few = PredUpdater(recorder, to_date=days[-3], hist_ref=7).update(write=False, ret_new=True)["score"]
    assert few.index.unique("datetime")[-1] == days[-3]
    assert gap(few, model.predict(anew).loc[: days[-3]]) < NOISE
    assert np.isfinite(few).all()
