"""Several heads on one body: losses added, a score of all by what they earned; options, checkpoints, folds."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from qlib.workflow import R
from test_horizons import HORIZONS, dataset, folder, handler, market  # noqa: F401 fixtures
from test_record import Recorder
from test_trainer import FRESH, TRAIN, VALID, D, F, N, make_panel, make_trainer, same_state, state_of

from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import LAGS, ic_by_lag, lag_ics
from qlib_ext.losses import DayLoss
from qlib_ext.model import FoldEnsemble, MASTERModel, MLPModel, WalkForwardModel
from qlib_ext.nets import MLP
from qlib_ext.panel import grid_of
from qlib_ext.portfolio import HeadWeights, combine_heads, shrunk_weights
from qlib_ext.record import LiquidityRecord
from qlib_ext.training import check_heads, head_losses

DAYS = (1, 3)
SMALL = {"loss": "wpcc", "metric": "ic", "epochs": 2, "batch_days": 8, "device": "cpu"}


def make_heads(seed=0, *, days=D, noise=0.01):
    """A panel whose label and step are 0.02 x_0 plus noise; its second horizon is of x_1, unknown on the last days."""
    panel = make_panel(seed, days, noise=noise)
    other = 0.02 * panel.x[..., 1] + noise * torch.randn(days, N, generator=torch.Generator().manual_seed(seed))
    other[-DAYS[1] :] = torch.nan
    labels = torch.stack([panel.label, other], dim=2)
    return replace(panel, labels=labels, horizons=DAYS, step_return=panel.label.clone())


def heads_trainer(**options):
    torch.manual_seed(1)
    return make_trainer(net=MLP(F, (8,), heads=2), **options)


def perturbed(panel, row):
    """The same panel, all that is known only by the step after `row` another one."""
    other = copy.deepcopy(panel)
    other.step_return[row + 1 :] += torch.randn_like(other.step_return[row + 1 :])
    return other


# --- losses


@pytest.mark.parametrize("name", ["wpcc", "liq_wpcc", "ic", "mse"])
@pytest.mark.parametrize("target", ["raw", "rank", "volatility"])
def test_heads_are_losses_of_their_own(name, target):
    panel = make_heads()
    panel.volatility = panel.liquidity / 1e10
    panel.labels[5, :, 1] = torch.nan  # a day for the first head alone
    batch, loss = panel.batch([3, 5, 8]), DayLoss(name, target=target)
    score = torch.randn(*batch.mask.shape, 2, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weight = torch.tensor([0.5, 1.0, 2.0])
    got = head_losses(loss, score, batch, weight)
    grids = (batch.mask, batch.liquidity, batch.volatility)
    each = [loss(score[..., h], batch.labels[..., h], *grids, day_weight=weight) for h in range(2)]
    torch.testing.assert_close(got, torch.stack(each))
    two = loss.per_day(score[..., 1], batch.labels[..., 1], *grids)[[0, 2]]
    torch.testing.assert_close(got[1], (two * weight[[0, 2]]).sum() / 2)  # of its own two days
    got[1].backward()
    assert (score.grad[..., 0] == 0).all() and (score.grad[1] == 0).all() and (score.grad[[0, 2]][..., 1] != 0).any()


@pytest.mark.parametrize("weights", [None, [1.0, 3.0]])
def test_an_epoch_means_the_heads_by_weights(weights):
    panel, trainer = make_heads(), heads_trainer(horizon_weights=weights)
    panel.labels[32, :, 1] = torch.nan
    trainer.horizons = panel.horizons
    mean, score = trainer.run_epoch(panel, VALID)
    assert score.shape == (len(VALID), N, 2)
    labels = [panel.labels[VALID][..., h] for h in range(2)]
    grids = [torch.from_numpy(score).nan_to_num(), panel.present[VALID]]
    valid = [VALID != -1, VALID != 32]
    each = [DayLoss("ic").per_day(grids[0][..., h], labels[h], grids[1])[valid[h]].mean() for h in range(2)]
    assert mean == pytest.approx(np.average(each, weights=weights), abs=1e-6)


def test_a_single_horizon_is_todays_path():
    plain, states = make_panel(), []
    one = replace(plain, labels=plain.label[..., None].clone(), horizons=(1,))
    for panel in (plain, one):
        trainer = make_trainer()
        history = trainer.fit(panel, TRAIN, VALID)
        states.append((state_of(trainer.net), [*history.epochs[0]], trainer.predict(panel, FRESH), trainer.heads))
    assert same_state(states[0][0], states[1][0]) and states[0][1] == states[1][1]
    np.testing.assert_array_equal(states[0][2], states[1][2])
    assert states[1][3] is None


def test_each_head_learns_its_own_label():
    panel, trainer = make_heads(), heads_trainer(epochs=8)
    history = trainer.fit(panel, TRAIN, VALID)
    score = trainer.predict_heads(panel, FRESH)
    x = panel.x[FRESH].numpy()
    own = [np.nanmean([pd.Series(score[d, :, h]).corr(pd.Series(x[d, :, h])) for d in range(len(x))]) for h in (0, 1)]
    assert min(own) > 0.6
    assert {"ic_1", "rank_ic_1", "ic_3", "rank_ic_3"} <= set(history.epochs[-1]) and history.epochs[-1]["ic_3"] > 0.3


# --- the score of all


def test_scores_are_added_by_weights():
    score = np.array([[[1.0, 2.0], [3.0, 2.0], [np.nan, np.nan]], [[0.0, 10.0], [1.0, 0.0], [2.0, 5.0]]])
    added = combine_heads(score, [0.75, 0.25])
    s = np.sqrt(1.5)  # (0, 1, 2) is (-s, 0, s), (10, 0, 5) is (s, -s, 0), equal scores are 0
    np.testing.assert_allclose(added, [[-0.75, 0.75, np.nan], [-0.5 * s, -0.25 * s, 0.75 * s]], atol=1e-6)


def test_weights_by_hand():
    half, eye = np.array([0.5, 0.5]), np.eye(2)
    gain, error = np.array([2.0, 1.0]), 0.1 * eye
    # spread (2 / 2)^2 = 1, common 1.5 each: 1.5 +- 0.5 / 1.1
    assert shrunk_weights(gain, error, eye, half) == pytest.approx([(1.5 + 0.5 / 1.1) / 3, (1.5 - 0.5 / 1.1) / 3])
    assert shrunk_weights(gain, 1e9 * eye, eye, half) == pytest.approx(half, abs=1e-6)  # nothing is known
    assert shrunk_weights(gain, 1e-9 * eye, eye, half) == pytest.approx([2 / 3, 1 / 3], abs=1e-6)  # the slopes
    assert shrunk_weights(-gain, error, eye, half).tolist() == [0.5, 0.5]
    alike = np.array([[1.0, 0.9], [0.9, 1.0]])  # slopes inv(alike) gain: (1.1, -0.8) / 0.19
    assert shrunk_weights(gain, 1e-12 * eye, alike, half) == pytest.approx([1.1 / 1.9, -0.8 / 1.9], abs=1e-4)
    # between both -0.46 +- 0.62 is left of -0.8 / 0.19: it may as well be positive
    assert shrunk_weights(gain, 0.03 * eye, alike, half).tolist() == [1.0, 0.0]
    # common 0.5 each, of (2, -1) are pulled 1 / 1.01: 0.5 + 1.5 / 1.01 and 0.5 - 1.5 / 1.01, ten times its deviation of
    # sqrt(1 - 1 / 1.01): a loss that is sure keeps its weight
    sizes = np.array([0.5 + 1.5 / 1.01, 0.5 - 1.5 / 1.01])
    sure = shrunk_weights(np.array([2.0, -1.0]), 0.01 * eye, eye, half)
    assert sure == pytest.approx(sizes / np.abs(sizes).sum())


def test_weights_are_of_what_was_earned():
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(size=(2, 120, 40))
    signal += 2.0 * rng.normal(size=40)  # it lasts
    step = 0.002 * signal + 0.02 * rng.normal(size=(120, 40))
    step[0] = np.nan
    mask = rng.random((120, 40)) > 0.2
    score = np.stack([signal, noise], axis=2)
    found = HeadWeights.fit(score, step, horizons=DAYS, mask=mask)
    assert found.significant and found.weights[0] > 0.9 and found.days == 119 and "1 days 0.9" in found.in_words()
    z = (score - score.mean(axis=1, keepdims=True)) / score.std(axis=1, keepdims=True)
    for head in range(2):  # one number each day and age, with equal weights
        earned = []
        for day in range(120):
            for age in range(min(10, 120 - day)):
                own, r = mask[day], step[day + age]
                excess = r - r[mask[day + age]].mean()
                held = z[day, own, head] - z[day, own, head].mean()
                earned.append((held * excess[own]).mean())
        assert found.slopes[head] == pytest.approx(np.nanmean(earned), abs=1e-9)
    swapped = HeadWeights.fit(score[..., ::-1], step, horizons=DAYS, mask=mask)
    assert swapped.weights == pytest.approx(found.weights[::-1])


def test_nothing_significant_leaves_the_prior():
    rng = np.random.default_rng(1)
    score, step = rng.normal(size=(60, 30, 2)), 0.02 * rng.normal(size=(60, 30))
    found = HeadWeights.fit(score, step, horizons=DAYS, prior=[1.0, 3.0])
    assert not found.significant and found.weights == (0.25, 0.75) and "none earned anything" in found.in_words()
    assert HeadWeights.fit(score[:1], step[:1], horizons=DAYS).weights == (0.5, 0.5)
    short = HeadWeights.fit(np.stack([step[:15]] * 2, axis=2), step[:15], horizons=DAYS)  # perfect, of too few days
    assert not short.significant and short.weights == (0.5, 0.5)


def test_the_metric_is_of_the_sum_and_the_weights_follow():
    panel, trainer = make_heads(), heads_trainer(epochs=4)
    sums = []
    trainer.fit(
        panel, TRAIN, VALID, on_epoch=lambda epoch, row: sums.append((row["ic"], trainer.predict(panel, VALID)))
    )
    for ic, score in sums:
        each = [pd.Series(s).corr(pd.Series(r)) for s, r in zip(score, panel.label[VALID].numpy(), strict=True)]
        assert ic == pytest.approx(np.mean(each), abs=1e-6)
    assert trainer.heads.horizons == DAYS and trainer.heads.days == len(VALID) + 2  # steps of the last labels too
    heads = trainer.predict_heads(panel, FRESH)
    np.testing.assert_array_equal(trainer.predict(panel, FRESH), combine_heads(heads, trainer.heads.weights))


def test_weights_know_no_return_after_the_last_label():
    panel, trainer = make_heads(noise=0.05), heads_trainer()
    trainer.fit(panel, TRAIN, VALID)
    last = VALID[-1] + max(DAYS) - 1  # its return ends with the longest label of the last day
    score = trainer.predict_heads(panel, VALID)
    assert HeadWeights.of_panel(panel, VALID, score) == trainer.heads
    assert HeadWeights.of_panel(perturbed(panel, last), VALID, score) == trainer.heads
    assert HeadWeights.of_panel(perturbed(panel, last - 1), VALID, score) != trainer.heads


# --- options, files


@pytest.mark.parametrize("wrong", [[], "1", [1, 0], [1, -1], [True, 1], 2, ["a", 1]])
def test_weights_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=r"horizon_weights"):
        make_trainer(horizon_weights=wrong)


def test_weights_and_heads_fit_the_horizons():
    with pytest.raises(ValueError, match="horizon_weights has 2 numbers, the dataset 0 horizons"):
        make_trainer(horizon_weights=[1, 2]).fit(make_panel(), TRAIN, VALID)
    with pytest.raises(ValueError, match="no effect on the one horizon"):
        check_heads([2.0], [10])
    with pytest.raises(ValueError, match="gives 2 scores a stock, the panel has 1 labels"):
        make_trainer(net=MLP(F, (8,), heads=2)).fit(make_panel(), TRAIN, VALID)


def test_a_trainer_pickles_with_its_weights():
    panel, trainer = make_heads(), heads_trainer(horizon_weights=[2, 1])
    trainer.fit(panel, TRAIN, VALID)
    again = pickle.loads(pickle.dumps(trainer))
    assert again.heads == trainer.heads and again.horizons == DAYS
    np.testing.assert_array_equal(again.predict(panel, FRESH), trainer.predict(panel, FRESH))


def test_a_checkpoint_goes_on_with_the_same_numbers(tmp_path):
    panel, file = make_heads(), str(tmp_path / "run.pt")
    whole = heads_trainer(epochs=4)
    history = whole.fit(panel, TRAIN, VALID)
    heads_trainer(epochs=2, checkpoint=file).fit(panel, TRAIN, VALID, keep_checkpoint=True)
    with pytest.raises(ValueError, match="another training: horizon_weights"):
        heads_trainer(epochs=4, checkpoint=file, horizon_weights=[1, 2]).fit(panel, TRAIN, VALID)
    changed = replace(panel, labels=panel.labels * 2)
    with pytest.raises(ValueError, match="another training: data"):
        heads_trainer(epochs=4, checkpoint=file).fit(changed, TRAIN, VALID)
    rest = heads_trainer(epochs=4, checkpoint=file)
    assert rest.fit(panel, TRAIN, VALID).epochs == history.epochs and rest.heads == whole.heads
    assert same_state(rest.net.state_dict(), whole.net.state_dict())


# --- models on a dataset


@pytest.mark.parametrize("kind", [MLPModel, MASTERModel])
def test_models_have_a_head_for_each_horizon(kind, dataset):  # noqa: F811
    sizes = {"hidden": [8, 4]} if kind is MLPModel else {"d_model": 8, "t_heads": 2, "s_heads": 2}
    model = kind(**sizes, **SMALL, target="rank", horizon_weights=[1, 2, 3])
    model.check_dataset(dataset)
    model.fit(dataset)
    score, heads = model.predict(dataset), model.predict_heads(dataset)
    assert list(heads.columns) == HORIZONS and heads.index.equals(score.index) and score.name == "score"
    z = heads.groupby(level="datetime").transform(lambda day: (day - day.mean()) / day.std(ddof=0))
    np.testing.assert_allclose(score, z @ np.array(model.trainer.heads.weights), atol=1e-5)
    pd.testing.assert_series_equal(pickle.loads(pickle.dumps(model)).predict(dataset), score)
    assert list(model.predict_heads(dataset, "valid").columns) == HORIZONS


def test_a_model_tells_weights_without_horizons(handler):  # noqa: F811
    plain = DayDatasetH(handler, {"train": ("2020-02-03", "2020-07-31"), "valid": ("2020-08-03", "2020-09-30")})
    with pytest.raises(ValueError, match="the dataset 0 horizons"):
        MLPModel(**SMALL, horizon_weights=[1, 2]).check_dataset(plain)


def test_a_model_of_one_head_has_one_column(handler):  # noqa: F811
    plain = DayDatasetH(handler, {"train": ("2020-02-03", "2020-07-31"), "valid": ("2020-08-03", "2020-09-30")})
    model = MLPModel(hidden=[4], **SMALL | {"epochs": 1})
    model.fit(plain)
    frame = model.predict_heads(plain, "valid")
    pd.testing.assert_series_equal(frame["score"], model.predict(plain, "valid"))


@pytest.mark.parametrize("walked", [False, True])
def test_ensembles_combine_members_and_heads(walked, dataset):  # noqa: F811
    member = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"hidden": [4], **SMALL, "epochs": 1}}
    kind, options = (WalkForwardModel, {"step": 20}) if walked else (FoldEnsemble, {"n_splits": 2})
    model = kind(model=member, seeds=[0, 1], **options)
    model.check_dataset(dataset)
    model.fit(dataset)
    gap = 11 + 1 - 1  # reach + window - 1
    for fold in model.folds(dataset.panel, dataset.segments, 1, 11):
        assert np.abs(fold.train[:, None] - fold.valid).min() > gap
    heads, score = model.predict_heads(dataset), model.predict(dataset)
    assert list(heads.columns) == HORIZONS and heads.index.equals(score.index)
    assert len({one.trainer.heads.weights for one in model.models}) >= 1
    assert [one.trainer.heads.horizons for one in model.models] == [tuple(HORIZONS)] * len(model.models)
    pd.testing.assert_series_equal(pickle.loads(pickle.dumps(model)).predict(dataset), score)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_weights_are_recorded_wherever_members_train(processes, dataset):  # noqa: F811
    member = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"hidden": [4], **SMALL, "epochs": 1}}
    model = WalkForwardModel(model=member, step=100, seeds=[0, 1], processes=processes)
    with R.start(experiment_name=f"heads {processes}"):
        model.fit(dataset)
        metrics = R.get_recorder().list_metrics()
    for seed in (0, 1):
        weights = [metrics[f"fold0.seed{seed}.head_weight_{days}"] for days in HORIZONS]
        assert weights == pytest.approx(model.models[seed].trainer.heads.weights)


def test_a_walk_of_different_kinds_has_no_heads_in_common(dataset):  # noqa: F811
    part = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"hidden": [4], **SMALL, "epochs": 1}}
    mixed = {"class": "ModelEnsemble", "module_path": "qlib_ext.model", "kwargs": {"members": [part, part]}}
    model = WalkForwardModel(model=mixed, step=100)
    model.fit(dataset)
    assert model.predict(dataset).notna().all()
    with pytest.raises(ValueError, match="ModelEnsemble have no heads in common"):
        model.predict_heads(dataset)


def test_the_record_has_the_lags_of_score_and_heads(dataset):  # noqa: F811
    model = MLPModel(hidden=[4], **SMALL | {"epochs": 1})
    model.fit(dataset)
    recorder = Recorder(**{"pred.pkl": model.predict(dataset).to_frame()})
    got = LiquidityRecord(recorder, dataset, model, benchmark=None, capital=3e7)._generate()
    names = ["score", *(f"head_{days}" for days in HORIZONS)]
    lags, rows = got["lags.pkl"], dataset.rows("test")
    assert list(lags.index.unique("score")) == names and list(lags.loc["score"].index) == list(range(1, LAGS + 1))
    head = grid_of(model.predict_heads(dataset)[5], dataset.panel.days[rows], dataset.panel.stocks)
    step = dataset.panel.step_return[rows[0] :].numpy()
    pd.testing.assert_frame_equal(lags.loc["head_5"], ic_by_lag(lag_ics(head, step)))
    weights = got["decay.pkl"]["weight"]
    assert weights[1:].tolist() == pytest.approx(model.trainer.heads.weights) and np.isnan(weights["score"])
    plain = LiquidityRecord(recorder, dataset, benchmark=None, capital=3e7)._generate()  # without its model
    assert list(plain["lags.pkl"].index.unique("score")) == ["score"]
