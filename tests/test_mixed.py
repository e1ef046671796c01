"""ModelEnsemble: members of different kinds on one dataset, combined by ranks or by weights of the days before."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_data
import torch
import yaml
from qlib.model.base import Model
from qlib.model.trainer import task_train
from scipy import stats
from test_ensemble import QUICK, TEST, TRAIN, VALID, config, grid_of, make_dataset, make_panel

from qlib_ext.evaluate import IC_LAGS, blend_inputs, blend_weights, covariance_of_mean, newey_west
from qlib_ext.model import FoldEnsemble, MLPModel, ModelEnsemble, PanelSamples, WalkForwardModel, blended, past_scores
from qlib_ext.recorder import check_task
from qlib_ext.synthetic import make_market

TREES = {
    "class": "LGBModel",
    "module_path": "qlib.contrib.model.gbdt",
    "kwargs": {"num_leaves": 4, "num_boost_round": 8, "num_threads": 1, "seed": 1},
}
LINEAR = {"class": "LinearModel", "module_path": "qlib.contrib.model.linear", "kwargs": {"estimator": "ridge"}}
MLP = {"class": "MLPModel", "kwargs": QUICK}


class Column(Model):
    """A qlib model that knows nothing: the score is a feature, with a sign."""

    def __init__(self, place, sign=1.0):
        self.place, self.sign, self.segments = place, sign, []

    def fit(self, dataset):
        self.segments = [len(frame) for frame in dataset.prepare(["train", "valid"], col_set=["feature", "label"])]

    def predict(self, dataset, segment="test"):
        return self.sign * dataset.prepare(segment, col_set="feature").iloc[:, self.place]


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def rows_of(pair, purged=0):
    return np.arange(pair[0], pair[1] + 1 - purged)


# --- weights


def test_weights_by_hand():
    """c = (.06, .02) without noise and R = 1: w ~ c; a negative one gets none; of two alike each gets half."""
    days = np.ones((40, 1))
    np.testing.assert_allclose(blend_weights(days * [0.06, 0.02], np.eye(2)), [0.75, 0.25], atol=1e-9)
    np.testing.assert_allclose(blend_weights(days * [0.06, -0.02], np.eye(2)), [1.0, 0.0], atol=1e-9)
    alike = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(blend_weights(days * [0.05, 0.05, 0.05], alike), [0.25, 0.25, 0.5], atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_weights_have_a_larger_ic(seed):
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(3, 40))
    half[1] += 1.5 * half[0]
    overlap, mean = np.corrcoef(half), rng.uniform(0.01, 0.06, 3)
    found = blend_weights(np.ones((30, 1)) * mean, overlap)
    tried = rng.dirichlet(np.full(3, 0.5), 4000)
    ics = [(w @ mean) / np.sqrt(w @ overlap @ w) for w in (found, *tried)]
    assert found.min() >= 0 and found.sum() == pytest.approx(1.0)
    assert ics[0] >= max(ics[1:]) - 2e-5  # the ridge's share


def test_weights_are_equal_where_nothing_is_significant_and_shrink_where_differences_are_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 0.1, (120, 3))
    assert blend_weights(noise - noise.mean(axis=0) + 0.005, np.eye(3)).tolist() == [1 / 3] * 3
    alike = 0.05 + noise - noise.mean(axis=0) + [0.002, 0.0, -0.002]  # differences of a fifth of their error
    np.testing.assert_allclose(blend_weights(alike, np.eye(3)), 1 / 3, atol=1e-9)
    differ = blend_weights(alike + [0.05, 0.0, -0.05], np.eye(3))
    assert differ[0] > 0.5 and differ[2] < 0.1
    assert blend_weights(alike[:1], np.eye(3)).tolist() == [1 / 3] * 3  # a day
    with pytest.raises(ValueError, match=r"daily is \(5, 2\), correlation \(3, 3\)"):
        blend_weights(noise[:5, :2], np.eye(3))


def test_covariance_has_the_errors_of_newey_west():
    rng = np.random.default_rng(1)
    daily = np.cumsum(rng.normal(size=(100, 3)), axis=0)
    covariance = covariance_of_mean(daily)
    np.testing.assert_allclose(
        np.sqrt(np.diag(covariance)), [newey_west(column, IC_LAGS)[1] for column in daily.T], rtol=1e-10
    )
    assert np.linalg.eigvalsh(covariance).min() > -1e-12


def test_inputs_agree_with_scipy_over_the_common_stocks():
    rng = np.random.default_rng(2)
    label, first, second = rng.normal(size=(3, 4, 30))
    label[0, :3], first[1, 4], second[2, 5:9] = np.nan, np.nan, np.nan
    label[3] = 0.01  # a day without an outcome
    daily, correlation = blend_inputs([first, second], label)
    shared = []
    for day in range(3):
        real = np.isfinite(label[day]) & np.isfinite(first[day]) & np.isfinite(second[day])
        place = stats.rankdata(label[day][real])
        by_hand = [np.corrcoef(score[day][real], place)[0, 1] for score in (first, second)]
        np.testing.assert_allclose(daily[day], by_hand, atol=1e-12)
        shared.append(np.corrcoef(first[day][real], second[day][real])[0, 1])
    assert np.isnan(daily[3]).all()
    np.testing.assert_allclose(correlation, [[1, np.mean(shared)], [np.mean(shared), 1]], atol=1e-12)


def test_absent_stocks_have_the_mean_of_those_that_score_them():
    """Ranks of (1, 2, 3): 1/3, 2/3, 1; of (3, -, 1): 1, -, 1/2. Means of weights 1 and 3."""
    first, second = np.array([[1.0, 2.0, 3.0, np.nan]]), np.array([[3.0, np.nan, 1.0, np.nan]])
    got = blended([first, second], [1, 3], "rank")
    np.testing.assert_allclose(got, [[(1 / 3 + 3) / 4, 2 / 3, (1 + 1.5) / 4, np.nan]], atol=1e-6)
    np.testing.assert_allclose(blended([first, second], [0, 1], "rank"), [[1, np.nan, 0.5, np.nan]])
    with pytest.raises(ValueError, match="diverged"):
        blended([first, second * np.inf], [1, 1], "mean")


# --- the frames that qlib's models get


def test_samples_are_the_labelled_present_stocks_of_the_days():
    panel = make_panel()
    panel.label[3, :4] = torch.nan
    samples = PanelSamples(panel, {"train": np.arange(2, 6), "test": np.array([7])}, "rank")
    both, features = samples.prepare(["train"], col_set=["feature", "label"])[0], samples.prepare("train", "feature")
    real = panel.present[2:6].numpy()
    assert len(features) == real.sum() and list(features.columns) == panel.features
    assert len(both) == (real & np.isfinite(panel.label[2:6].numpy())).sum() and both["label"].shape[1] == 1
    assert set(both.dtypes) == {np.dtype(np.float32)} and both.index.is_monotonic_increasing
    day, code = panel.days[4], panel.stocks[np.flatnonzero(real[2])[1]]
    column = list(panel.stocks).index(code)
    np.testing.assert_array_equal(both.loc[(day, code), "feature"], panel.x[4, column].numpy())
    ranks = both["label"].iloc[:, 0].groupby("datetime")
    np.testing.assert_allclose([ranks.mean().max(), ranks.std(ddof=0).mean()], [0, 1], atol=1e-6)
    own = both["label"].iloc[:, 0].loc[day]
    by_return = pd.Series(panel.label[4].numpy(), panel.stocks)[own.index]
    assert own.rank().equals(by_return.rank().astype(own.rank().dtype).rename(own.name))
    raw = PanelSamples(panel, {"train": np.arange(2, 6)}, "raw").prepare("train", ["label"])
    np.testing.assert_array_equal(raw.loc[(day, code)], panel.label[4, column].numpy())
    with pytest.raises(ValueError, match=r"segment 'valid'.*\['test', 'train'\]"):
        samples.prepare("valid", "feature")


def test_a_linear_member_is_the_regression_on_the_purged_days(dataset):
    panel = dataset.panel
    model = ModelEnsemble(members=[{**LINEAR, "kwargs": {"estimator": "ols"}}], target="raw")
    model.fit(dataset)
    train = rows_of(TRAIN, purged=2)  # the label reaches two days into valid
    real = (panel.present[train] & torch.isfinite(panel.label[train])).numpy()
    x, y = panel.x[train].numpy()[real], panel.label[train].numpy()[real]
    by_hand = np.linalg.lstsq(x.astype(float), y.astype(float), rcond=None)[0]
    np.testing.assert_allclose(model.models[0].coef_, by_hand, atol=1e-5)


# --- the ensemble


@pytest.fixture(scope="module")
def ensemble(dataset):
    folds = {"class": "FoldEnsemble", "kwargs": {"model": config(), "n_splits": 3}}
    model = ModelEnsemble(members=[MLP, TREES, LINEAR, folds, Column(0), MLPModel(**QUICK, seed=5)], combine="ranks")
    model.fit(dataset)
    return model


def test_ranks_are_the_mean_of_the_members_ranks(ensemble, dataset):
    panel = dataset.panel
    got = ensemble.predict(dataset)
    members = [
        grid_of(model.predict(dataset), panel)
        if hasattr(model, "score_rows")
        else grid_of(model.predict(PanelSamples(panel, {"test": rows_of(TEST)}), "test"), panel)
        for model in ensemble.models
    ]
    by_hand = np.mean([pd.DataFrame(score).rank(axis=1, pct=True) for score in members], axis=0)
    np.testing.assert_allclose(grid_of(got, panel)[rows_of(TEST)], by_hand[rows_of(TEST)], atol=1e-6)
    assert got.name == "score" and got.index.is_monotonic_increasing
    assert ensemble.names == ["MLPModel", "LGBModel", "LinearModel", "FoldEnsemble", "Column", "MLPModel2"]
    assert len(set(ensemble.models[1].params.items()) & {("num_leaves", 4)}) == 1
    part = ensemble.predict(dataset, slice(panel.days[120], panel.days[121]))
    pd.testing.assert_series_equal(part, got.loc[panel.days[120] : panel.days[121]])


def test_members_are_those_that_they_are_alone(ensemble, dataset):
    alone = MLPModel(**QUICK)
    alone.fit(dataset)
    pd.testing.assert_series_equal(alone.predict(dataset), ensemble.models[0].predict(dataset))
    folds = FoldEnsemble(model=config(), n_splits=3)
    folds.fit(dataset)
    pd.testing.assert_series_equal(folds.oof, ensemble.models[3].oof)


def test_tables_are_of_the_validation_days(ensemble, dataset):
    panel, table = dataset.panel, ensemble.table
    rows = rows_of(VALID, purged=2)
    assert list(table.index) == [*ensemble.names, "equal weights", "ensemble"]
    label = panel.label[rows].numpy()
    score = np.where(panel.present[rows], panel.x[rows, :, 0], np.nan)
    ics = [
        stats.spearmanr(s[real], y[real])[0]
        for s, y in zip(score, label, strict=True)
        if (real := np.isfinite(s) & np.isfinite(y)).sum() > 1
    ]
    mean, error, _ = newey_west(ics, len(ics) // 4)
    assert table.loc["Column", ["rank_ic", "rank_ic_error", "days"]].tolist() == pytest.approx([mean, error, len(ics)])
    assert ensemble.correlations.loc["MLPModel", "MLPModel2"] == ensemble.correlations.loc["MLPModel2", "MLPModel"]
    assert set(ensemble.oof.index.unique("datetime")) == set(pd.DatetimeIndex(panel.days[rows]))
    assert past_scores(ensemble, dataset).equals(ensemble.oof)
    assert ensemble.history.best_value == table.loc["ensemble", "rank_ic"]


def test_weights_see_who_is_right_and_the_oof_scores_are_cross_fitted():
    members = [Column(0), Column(1)]
    panel = make_panel()
    model = ModelEnsemble(members=members, combine="weights")
    model.fit(make_dataset(panel))
    assert model.weights[0] > 0.95 and model.models[0].segments[0] == int(panel.present[: TRAIN[1] - 1].sum())
    assert members[0].segments == []  # objects are copied
    later, before = make_panel(), model.oof
    middle = rows_of(VALID, purged=2)[14]
    later.label[VALID[0] : middle] *= -1
    other = ModelEnsemble(members=members, combine="weights")
    other.fit(make_dataset(later))
    first = before.index.get_level_values(0) < later.days[middle]
    pd.testing.assert_series_equal(other.oof[first], before[first])
    assert not other.oof[~first].equals(before[~first])


def test_nothing_after_the_validation_days_changes_weights_or_scores():
    panel, later = make_panel(), make_panel()
    later.label[VALID[1] + 1 :] = -5.0
    later.x[TEST[0] + 5 :] += 1.0
    kwargs = {"members": [MLP, TREES, Column(1)], "combine": "weights"}
    first, second = ModelEnsemble(**kwargs), ModelEnsemble(**kwargs)
    first.fit(make_dataset(panel))
    second.fit(make_dataset(later))
    assert first.weights.tolist() == second.weights.tolist()
    days = slice(panel.days[TEST[0]], panel.days[TEST[0] + 4])
    pd.testing.assert_series_equal(first.predict(make_dataset(panel), days), second.predict(make_dataset(later), days))


def test_all_out_of_fold_days_count_where_all_members_have_them(dataset):
    folds = {"class": "FoldEnsemble", "kwargs": {"model": config(), "n_splits": 3}}
    model = ModelEnsemble(members=[folds, folds], combine="weights")
    model.fit(dataset)
    assert model.table.loc["ensemble", "days"] == VALID[1] + 1 - 2
    np.testing.assert_allclose(model.weights, 0.5, atol=1e-6)


def test_a_seed_moves_those_of_the_members():
    folds = {"class": "FoldEnsemble", "kwargs": {"model": config(), "seeds": [0, 2]}}
    members = ModelEnsemble(members=[MLP, folds, TREES], seed=3)._built()
    assert members[0].options["seed"] == 3 and members[1].seeds == (3, 5) and members[2].params["seed"] == 4


def test_mean_standardises_the_members_scores(ensemble, dataset):
    panel, model = dataset.panel, ModelEnsemble(members=[MLP, Column(0)], combine="mean")
    model.fit(dataset)
    scores = [
        model.models[0].score_rows(panel, rows_of(TEST)).astype(float),
        np.where(panel.present[rows_of(TEST)], panel.x[rows_of(TEST), :, 0], np.nan),
    ]
    z = [
        (score - np.nanmean(score, axis=1, keepdims=True)) / np.nanstd(score, axis=1, keepdims=True) for score in scores
    ]
    got = grid_of(model.predict(dataset), panel)[rows_of(TEST)]
    np.testing.assert_allclose(got, np.mean(z, axis=0), atol=1e-5)


def test_pickle_predicts_the_same_without_the_scores_of_the_past(ensemble, dataset):
    again = pickle.loads(pickle.dumps(ensemble))
    pd.testing.assert_series_equal(again.predict(dataset), ensemble.predict(dataset))
    with pytest.raises(ValueError, match=r"folds/oof.pkl"):
        _ = again.oof


def test_walk_forward_and_folds_of_an_ensemble(dataset):
    inner = {"class": "ModelEnsemble", "kwargs": {"members": [MLP, TREES], "combine": "weights"}}
    walk = WalkForwardModel(model=inner, step=20, seeds=[0, 3])
    walk.fit(dataset)
    assert len(walk.models) == 4 and [model.models[0].options.get("seed", 0) for model in walk.models] == [0, 3] * 2
    assert [model.models[1].params["seed"] for model in walk.models] == [1, 4] * 2
    assert set(walk.members["metric"]) == {"rank_ic"} and len(walk.curves) == 4
    score = walk.predict(dataset)
    block = rows_of(TEST)[:20]
    own = [pd.DataFrame(model.score_rows(dataset.panel, block)).T for model in walk.models[:2]]
    by_hand = sum((s - s.mean()) / s.std(ddof=0) for s in own).T / 2
    np.testing.assert_allclose(grid_of(score, dataset.panel)[block], by_hand, atol=1e-5)
    folds = FoldEnsemble(model=inner, n_splits=2)
    folds.fit(dataset)
    assert len(folds.oof.index.unique("datetime")) == VALID[1] + 1 - 2
    nested = {"class": "ModelEnsemble", "kwargs": {"members": [{"class": "FoldEnsemble", "kwargs": {"model": MLP}}]}}
    for call in ("fit", "check_dataset"):
        with pytest.raises(ValueError, match="member FoldEnsemble: a FoldEnsemble cuts the days itself"):
            getattr(FoldEnsemble(model=nested, n_splits=2), call)(dataset)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"members": []}, r"members is \[\]"),
        ({"members": [MLP], "combine": "sum"}, "unknown combine 'sum'. Allowed: ranks, mean, weights"),
        ({"members": [MLP], "target": "ranks"}, "unknown target 'ranks'"),
        ({"members": [MLP], "weigths": 1}, "no option 'weigths'"),
        ({"members": [{"class": "MLPModel", "kwarg": {}}]}, "a member has no option 'kwarg'"),
        ({"members": [3]}, "a member is 3; wanted a model"),
        ({"members": [{"class": "WalkForwardModel", "kwargs": {"model": MLP, "step": 5}}]}, "walk the ensemble"),
        ({"members": [{"class": "MLPModel", "kwargs": {"epohcs": 3}}]}, "no option 'epohcs'"),
    ],
)
def test_what_cannot_be_is_said_at_once(options, told):
    with pytest.raises((ValueError, TypeError), match=told):
        ModelEnsemble(**options)


def test_untrained_and_other_features(ensemble, dataset):
    with pytest.raises(ValueError, match="not trained"):
        ModelEnsemble(members=[MLP]).predict(dataset)
    panel = make_panel()
    panel.features = ["a", "b", "c"]
    with pytest.raises(ValueError, match="they differ first at place 0"):
        ensemble.predict(make_dataset(panel))
    with pytest.raises(ValueError, match="reweighter"):
        ModelEnsemble(members=[MLP]).fit(dataset, reweighter=1)
    with pytest.raises(ValueError, match="member MLPModel: .*liquidity"):
        bare = make_dataset()
        bare.liquidity = None
        ModelEnsemble(members=[{"class": "MLPModel", "kwargs": {"loss": "liq_wpcc"}}]).check_dataset(bare)


# --- a run


def test_the_documented_workflow_runs_with_forecast_and_page(tmp_path):
    pytest.importorskip("plotly")
    test_data.start_qlib(make_market(tmp_path / "market", n_stocks=40, start="2020-01-02", years=1.0, seed=3), tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "ensembles.md").read_text(encoding="utf-8")
    model = yaml.safe_load(page.split("```yaml")[1].split("```")[0])["model"]
    fields = {"feature": [list(test_data.FEATURES.values()), list(test_data.FEATURES)]}
    fields["label"] = [[test_data.LABEL], ["LABEL0"]]
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": fields}}
    handler = {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler",
               "kwargs": {"instruments": "all", "data_loader": loader}}  # fmt: skip
    task = {
        "model": model,
        "dataset": {"class": "DayDatasetH", "module_path": "qlib_ext.data",
                    "kwargs": {"handler": handler, "segments": test_data.SEGMENTS, "step_len": 2}},
        "record": [
            {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
            *({"class": name, "module_path": "qlib_ext.record"} for name in ("ForecastRecord", "ReportRecord")),
        ],
    }  # fmt: skip
    check_task(task)
    with pytest.raises(ValueError, match=r"task.model.kwargs.members\[1\]: qlib_ext.model has no class 'FoldEnsembel'"):
        wrong = pickle.loads(pickle.dumps(task))
        wrong["model"]["kwargs"]["members"][1]["class"] = "FoldEnsembel"
        check_task(wrong)
    recorder = task_train(task, experiment_name="mixed")
    trained = recorder.load_object("params.pkl")
    table = recorder.load_object("ensemble/members.pkl")
    assert list(table.index[:3]) == trained.names and table["weight"].sum() == pytest.approx(1.0)
    assert recorder.load_object("ensemble/correlations.pkl").shape == (3, 3)
    oof = recorder.load_object("folds/oof.pkl")
    assert oof.index.get_level_values(0).max() < pd.Timestamp(test_data.SEGMENTS["test"][0])
    pd.testing.assert_series_equal(recorder.load_object("forecast_scores.pkl"), oof)
    metrics = recorder.list_metrics()
    assert metrics["ensemble.LGBModel.weight"] == pytest.approx(trained.weights[2])
    assert {"MLPModel.ic", "FoldEnsemble.fold1.seed0.ic", "ensemble.ensemble.rank_ic"} <= set(metrics)
    assert set(recorder.load_object("folds/curves.pkl")["fold"]) == {0}
    (page,) = tmp_path.rglob("report.html")
    told = page.read_text(encoding="utf-8")
    assert "ModelEnsemble (MLPModel, FoldEnsemble, LGBModel)" in told and "集成的成员" in told
