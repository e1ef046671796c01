"""Retraining that begins as the last block's model: what begins as what, no day too late, the same in processes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_ensemble import QUICK, Broken, config, make_dataset, make_panel

from qlib_ext.model import DayModel, FoldEnsemble, MLPModel, WalkForwardModel


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


@pytest.fixture
def begun(monkeypatch):
    """Note of every training its seed, epochs, and what it began as."""
    calls, real = [], DayModel.fit_rows

    def noted(self, *given, start=None, **kwargs):
        calls.append((self.options["seed"], self.options["epochs"], start))
        return real(self, *given, **kwargs) if start is None else real(self, *given, start=start, **kwargs)

    monkeypatch.setattr(DayModel, "fit_rows", noted)
    return calls


def walk(warm_start, *, seeds=(0,), processes=1, step=20, **options):
    return WalkForwardModel(model=config(**options), step=step, seeds=seeds, processes=processes, warm_start=warm_start)


def test_each_block_begins_as_the_one_before_of_its_seed(dataset, begun):
    model = walk({"epochs": 1, "lr": 1e-3}, seeds=[0, 7], step=15)
    model.fit(dataset)
    assert [call[:2] for call in begun] == [(0, 2), (7, 2), (0, 1), (7, 1), (0, 1), (7, 1)]
    assert [call[2] for call in begun] == [None, None, *model.models[:4]]
    assert [member.options["lr"] for member in model.models] == [0.01] * 2 + [1e-3] * 4
    begun.clear()
    walk(True, step=15).fit(dataset)
    assert [call[1] for call in begun] == [2, 2, 2] and begun[1][2] is not None
    begun.clear()
    walk(False, step=15).fit(dataset)
    assert [call[1:] for call in begun] == [(2, None)] * 3


def test_without_a_step_it_stays_the_model_it_began_as(dataset):
    model = walk({"epochs": 1, "lr": 1e-30}, scale="robust")
    model.fit(dataset)
    first, second = model.models
    assert second.trainer.net is not first.trainer.net
    for name, value in first.trainer.net.state_dict().items():
        assert torch.equal(second.trainer.net.state_dict()[name], value)
    assert not torch.equal(first.trainer.scaler.center, second.trainer.scaler.center)  # of its own days


def test_processes_train_the_same(dataset):
    options = {"seeds": [0, 7], "dropout": 0.1}
    alone, together = walk(True, **options), walk(True, **options, processes=2)
    for model in (alone, together):
        model.fit(dataset)
    pd.testing.assert_series_equal(alone.predict(dataset), together.predict(dataset))
    pd.testing.assert_frame_equal(alone.curves, together.curves)


def test_no_block_knows_a_later_day(dataset):
    panel, first = make_panel(), 131  # of the second block's 20 days 130 to 149: what is after its first
    x, label = panel.x.clone(), panel.label.clone()
    x[first:], label[first - 2 :] = torch.randn(x[first:].shape), 0.01 * torch.randn(label[first - 2 :].shape)
    other = make_dataset(replace(panel, x=x, label=label))
    scores = []
    for one in (dataset, other):
        model = walk(True)
        model.fit(one)
        scores.append(model.predict(one))
    until = panel.days[first - 1]
    pd.testing.assert_series_equal(*(score.loc[:until] for score in scores))
    assert not scores[0].loc[panel.days[first] :].equals(scores[1].loc[panel.days[first] :])


@pytest.mark.parametrize("window", [30, 78, 200])
def test_rolling_windows(dataset, window):
    model = WalkForwardModel(model=config(), step=20, window=window)
    plain = WalkForwardModel(model=config(), step=20, expanding=True)
    args = (dataset.panel, dataset.segments, 3, 2)
    for own, every in zip(model.folds(*args), plain.folds(*args), strict=True):
        np.testing.assert_array_equal(own.train, every.train[-window:])
        np.testing.assert_array_equal(own.valid, every.valid)
        np.testing.assert_array_equal(own.test, every.test)


def test_a_walk_cut_short_goes_on_where_it_was(dataset, monkeypatch, tmp_path):
    whole, file = walk(True, dropout=0.1), {"dropout": 0.1, "checkpoint": str(tmp_path / "run.pt")}
    whole.fit(dataset)

    def fail(prefix, counter, epoch, row):
        if (prefix, epoch) == ("fold1.seed0.", 1):
            raise Broken

    with monkeypatch.context() as patch:
        patch.setattr("qlib_ext.model.day_model.report", fail)
        with pytest.raises(Broken):
            walk(True, **file).fit(dataset)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match=r"start is not given here, \w+ in the file"):
        walk(False, **file).fit(dataset)
    again = walk(True, **file)
    again.fit(dataset)
    pd.testing.assert_series_equal(again.predict(dataset), whole.predict(dataset))
    assert [member.history.resumed_from for member in again.models] == [2, 1]


# --- a model begins as any earlier one


def fitted(dataset, **options):
    model = MLPModel(**QUICK | options)
    model.fit(dataset)
    return model


def test_a_model_begins_as_an_earlier_one(dataset):
    early = make_dataset(train=(0, 59), valid=(60, 79))
    start, model = fitted(early), MLPModel(**QUICK | {"lr": 1e-30, "epochs": 1})
    model.fit(dataset, start=start)
    pd.testing.assert_series_equal(model.predict(dataset), start.predict(dataset))
    panel = dataset.panel
    assert (start.learnt_until, start.seen_until) == (panel.days[59 - 2], panel.days[79])


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ({"train": (0, 85), "valid": (90, 105)}, "2024-04-29.*learnt from no day after 2024-04-17"),
        ({"valid": (80, 111)}, "2024-06-04.*seen none after 2024-05-29"),
    ],
)
def test_a_start_that_knows_later_days_is_refused(dataset, segments, words):
    later = fitted(make_dataset(**segments, without=["test"]))
    with pytest.raises(ValueError, match=f"start learnt from days up to .*{words}.*start from an earlier model"):
        MLPModel(**QUICK).fit(dataset, start=later)


def test_a_start_of_another_kind_size_or_other_features_is_refused(dataset):
    start, panel = fitted(dataset), make_panel()
    with pytest.raises(ValueError, match="start is a MLPModel of other sizes: size mismatch"):
        MLPModel(**QUICK | {"hidden": [5, 4]}).fit(dataset, start=start)
    with pytest.raises(ValueError, match="start must be a trained MLPModel that tells its days; got MLPModel"):
        MLPModel(**QUICK).fit(dataset, start=MLPModel(**QUICK))
    with pytest.raises(ValueError, match="got FoldEnsemble"):
        MLPModel(**QUICK).fit(dataset, start=FoldEnsemble(model=config()))
    with pytest.raises(ValueError, match="the model was trained on 3 features"):
        MLPModel(**QUICK).fit(make_dataset(replace(panel, features=["f0", "f2", "f1"])), start=start)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(TypeError, match="warm_start has no option 'epoch'; close: .*'epochs'"):
        walk({"epoch": 2})
    with pytest.raises(ValueError, match="lr is 0; allowed"):
        walk({"lr": 0})
    with pytest.raises(ValueError, match="warm_start"):
        walk("yes")
    several = {"class": "ModelEnsemble", "kwargs": {"members": [config()]}}
    with pytest.raises(ValueError, match="a ModelEnsemble cannot begin as another: set warm_start: false"):
        WalkForwardModel(model=several, step=20, warm_start=True)
    with pytest.raises(ValueError, match="window is 0"):
        WalkForwardModel(model=config(), step=20, window=0)
    with pytest.raises(ValueError, match="window=60 does nothing with expanding: true"):
        WalkForwardModel(model=config(), step=20, window=60, expanding=True)


def test_more_processes_than_chains_are_told(dataset, monkeypatch):
    monkeypatch.setattr(DayModel, "check_needs", lambda model, dataset: None)
    monkeypatch.setattr("qlib_ext.model.ensemble.refuse_held_out", lambda *given, **options: None)
    with pytest.warns(UserWarning, match="processes: 3, but 2 folds of 2 seeds, each fold after .*: no more are used"):
        walk(True, seeds=[0, 7], processes=3).check_dataset(dataset)
