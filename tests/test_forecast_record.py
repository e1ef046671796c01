"""What a run keeps of its score's worth: whose scores, which returns, and how it is read again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_data
import torch
from qlib.contrib.model.gbdt import LGBModel
from qlib.workflow import R
from qlib.workflow.record_temp import SignalRecord
from test_record import make_panel, series_of

from qlib_ext.data import DayDatasetH
from qlib_ext.model import FoldEnsemble, MLPModel
from qlib_ext.portfolio import Forecast
from qlib_ext.record import ForecastRecord
from qlib_ext.runs import FORECAST, find_run, load_artifacts, load_if_there
from qlib_ext.synthetic import make_market

QUICK = {"hidden": [4, 2], "epochs": 1, "device": "cpu", "loss": "mse", "metric": "ic"}
FOLDS = {"model": {"class": "MLPModel", "kwargs": QUICK}, "n_splits": 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forecast")
    test_data.start_qlib(make_market(folder / "market", n_stocks=14, start="2020-01-02", years=1.0, seed=3), folder)
    return DayDatasetH(test_data.make_handler(), test_data.SEGMENTS)


def recorded(dataset, model, **options):
    """Recorder of a run of a trained model with its ForecastRecord."""
    with R.start(experiment_name="forecast"):
        recorder = R.get_recorder()
        model.fit(dataset)
        SignalRecord(model=model, dataset=dataset, recorder=recorder).generate()
        ForecastRecord(recorder, dataset, model, **options).generate()
    return recorder


def days_of(scores):
    return scores.index.get_level_values("datetime").unique()


# --- which returns


def with_steps(panel, seed=0):
    step = np.random.default_rng(seed).normal(0, 0.02, panel.present.shape).astype("f4")
    return replace(panel, step_return=torch.from_numpy(step))


@pytest.mark.parametrize("entry", [1, 2])
def test_no_return_that_ends_on_the_first_test_day_or_later_is_used(entry):
    panel = with_steps(make_panel(days=80))
    scores = series_of(panel, np.arange(80), panel.x[..., 0].numpy())
    before = pd.Timestamp(panel.days[60])
    forecast = Forecast.of_panel(panel, scores, before=before, entry=entry)
    last = 60 - entry - 2  # its return is from day last + entry to day last + entry + 1 = 59

    def perturbed(first):
        step, buyable, x = panel.step_return.clone(), panel.buyable.clone(), scores.copy()
        step[first:], buyable[first:] = 0.5, False
        x[days >= panel.days[first]] = 0.0
        return Forecast.of_panel(replace(panel, step_return=step, buyable=buyable), x, before=before, entry=entry)

    days = scores.index.get_level_values("datetime").to_numpy()
    assert perturbed(last + 1) == forecast != perturbed(last)
    assert (forecast.first, forecast.last, forecast.days) == ("2020-03-02", str(panel.days[59])[:10], last + 1)


def test_only_stocks_that_could_be_bought_are_learnt_from():
    panel = with_steps(make_panel(days=60))
    grid = np.where(panel.present.numpy(), panel.x[..., 0].numpy(), np.nan)
    scores = series_of(panel, np.arange(60), grid)
    mask = (panel.present & panel.buyable).numpy()
    want = Forecast.fit(grid[:58], panel.step_return[:58].numpy(), mask=mask[:58])
    got = Forecast.of_panel(panel, scores)
    assert replace(got, first=None, last=None) == want


def test_scores_of_no_known_return_and_a_panel_without_returns():
    panel = with_steps(make_panel())
    scores = series_of(panel, np.arange(50, 60), panel.x[50:, :, 0].numpy())
    assert Forecast.of_panel(panel, scores, before=panel.days[50]) == Forecast()
    with pytest.raises(ValueError, match="the panel has no step_return"):
        Forecast.of_panel(make_panel(), scores)


# --- whose scores


def test_a_run_keeps_the_forecast_of_its_validation_days(dataset):
    model = MLPModel(**QUICK)
    recorder = recorded(dataset, model)
    scores = recorder.load_object("forecast_scores.pkl")
    valid = dataset.panel.days[dataset.rows("valid")]
    assert list(days_of(scores)) == list(valid)
    forecast = Forecast.from_dict(load_if_there(recorder, FORECAST))
    first_test = dataset.panel.days[dataset.rows("test")[0]]
    assert forecast == Forecast.of_panel(dataset.panel, model.predict(dataset, "valid"), before=first_test)
    assert 0 < forecast.days <= len(valid) and pd.Timestamp(forecast.last) < first_test
    assert recorder.list_metrics()["forecast.t"] == pytest.approx(forecast.t)
    file = Path(recorder.get_local_dir()) / "artifacts" / FORECAST
    assert json.loads(file.read_text(encoding="utf-8")) == forecast.to_dict()
    run = find_run(recorder.id, uri=R.get_uri())
    read = load_artifacts(run, [FORECAST, "forecast_scores.pkl", "portfolio_analysis/forecast.json"])
    assert read[FORECAST] == forecast.to_dict() and list(read) == [FORECAST, "forecast_scores.pkl"]
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=f"{FORECAST} cannot be read"):
        load_artifacts(run, [FORECAST])
    with pytest.raises(ValueError, match=f"{FORECAST} is there but cannot be read"):
        load_if_there(recorder, FORECAST)


def test_out_of_fold_scores_of_an_ensemble_are_taken_from_the_run(dataset):
    model = FoldEnsemble(**FOLDS)
    recorder = recorded(dataset, model)
    scores = recorder.load_object("forecast_scores.pkl")
    pd.testing.assert_series_equal(scores, model.oof)
    model._oof = None  # as of a model that was read from a file
    record = ForecastRecord(recorder, dataset, model)
    pd.testing.assert_series_equal(record.past(), scores)


def test_scores_of_qlibs_lightgbm_and_of_a_csv_file(dataset, tmp_path):
    recorder = recorded(dataset, LGBModel(num_boost_round=2, num_leaves=3, verbose=-1))
    scores = recorder.load_object("forecast_scores.pkl")
    assert days_of(scores).isin(dataset.panel.days[dataset.rows("valid")[0] :]).all()
    lightgbm = load_if_there(recorder, FORECAST)
    assert lightgbm["days"] > 0
    file = tmp_path / "scores.csv"
    table = scores.rename("score").reset_index()
    table["instrument"] = table["instrument"].str[2:]  # 600000, 000001: codes without their exchange
    table.to_csv(file, index=False)
    again = recorded(dataset, MLPModel(**QUICK), scores=file)
    assert load_if_there(again, FORECAST) == lightgbm


def test_a_run_without_scores_of_earlier_days_says_so(dataset, monkeypatch):
    said = []
    monkeypatch.setattr("qlib_ext.record.forecast.logger.warning", said.append)
    late = pd.Series(0.1, pd.MultiIndex.from_product([dataset.panel.days[-5:], ["SH600000"]]))
    recorder = recorded(dataset, MLPModel(**QUICK), scores=late)
    assert Forecast.from_dict(load_if_there(recorder, FORECAST)) == Forecast()
    assert "there is no score of days before the test segment" in said[0]
    assert load_if_there(recorder, "forecast_scores.pkl") is None


def test_what_the_record_refuses(dataset, tmp_path):
    with pytest.raises(TypeError, match="ForecastRecord has no option 'score'; close: .*scores"):
        ForecastRecord(None, dataset, None, score="a.csv")
    with pytest.raises(ValueError, match="ForecastRecord needs a DayDatasetH"):
        ForecastRecord(None, None)
    (tmp_path / "bad.csv").write_text("day,score\n2020-01-02,1\n")
    with pytest.raises(ValueError, match=r"bad.csv, line 1: no column date, code; wanted date,code,score"):
        ForecastRecord(None, dataset, scores=tmp_path / "bad.csv")
