"""Seeds trained in one pass over the days: the numbers of one by one, to the last bit."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_ensemble import QUICK, TEST, TRAIN, VALID, config, make_dataset, make_panel

from qlib_ext.model import FoldEnsemble, MLPModel, WalkForwardModel
from qlib_ext.nets import MASTER, MLP
from qlib_ext.panel import DayPanel
from qlib_ext.training import Trainer, fit_together, seeded

TRAINED, STOPPED = np.arange(TRAIN[0], TRAIN[1]), np.arange(VALID[0], VALID[1])
SEEDS = (3, 0, 7)
NETS = {
    "mlp": lambda: MLP(3, (8, 4), dropout=0.3),
    "master": lambda: MASTER(3, 8, 2, 2, 0.2, attention_dropout=0.1),
}


def trainers(net, seeds=SEEDS, **options):
    made = []
    for seed in seeds:
        with seeded(seed):
            built = NETS[net]()
        own = {"metric": "ic", "epochs": 5, "patience": 1, "lr": 0.02, "device": "cpu", "order_seed": 11} | options
        made.append(Trainer(built, "ic", seed=seed, step_len=1 if net != "master" else 3, **own))
    return made


def together(panel, made):
    told = [[] for _ in made]
    on_epochs = [lambda epoch, row, own=own: own.append((epoch, row)) for own in told]
    return fit_together(made, panel, TRAINED, STOPPED, on_epochs=on_epochs), told


@pytest.mark.parametrize("options", [{}, {"scale": "robust", "day_halflife": 20.0, "clip": 0.01, "weight_decay": 0.1}])
@pytest.mark.parametrize("net", list(NETS))
def test_each_is_what_it_is_alone_to_the_last_bit(net, options):
    panel, made = make_panel(), trainers(net, **options)
    histories, told = together(panel, made)
    for one, alone, history, own in zip(made, trainers(net, **options), histories, told, strict=True):
        expected = alone.fit(panel, TRAINED, STOPPED)
        assert vars(history) == vars(expected) and [row for _, row in own] == expected.epochs
        assert [epoch for epoch, _ in own] == list(range(1, len(own) + 1))
        for name, value in alone.net.state_dict().items():
            assert torch.equal(one.net.state_dict()[name], value)
        np.testing.assert_array_equal(one.predict(panel, STOPPED), alone.predict(panel, STOPPED))
    assert histories[0].epochs != histories[1].epochs


def test_they_stop_at_different_epochs():
    made = trainers("mlp", seeds=range(6))
    histories, _ = together(make_panel(), made)
    assert len({len(history.epochs) for history in histories}) > 1


def test_heads_of_several_horizons():
    panel = make_panel()
    labels = torch.stack([panel.label, panel.label.roll(-1, 0)], dim=2)
    panel = replace(panel, labels=labels, horizons=(1, 2))

    pair = [Trainer(MLP(3, (4,), heads=2), "ic", metric="ic", epochs=2, seed=s, order_seed=1) for s in (0, 1)]
    state = pickle.dumps(pair)
    histories, _ = together(panel, pair)
    for one, alone, history in zip(pair, pickle.loads(state), histories, strict=True):
        assert vars(alone.fit(panel, TRAINED, STOPPED)) == vars(history)
        assert one.heads.weights == alone.heads.weights


def test_each_batch_is_gathered_once_and_other_random_numbers_stay(monkeypatch):
    panel, gathered, real = make_panel(), [], DayPanel.batch
    monkeypatch.setattr(
        DayPanel, "batch", lambda self, rows, **kw: gathered.append(len(rows)) or real(self, rows, **kw)
    )
    state = torch.get_rng_state()
    together(panel, trainers("mlp", epochs=2, patience=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(gathered) == 2 * (len(TRAINED) + len(STOPPED))


def test_order_seed_is_the_order_of_days_alone(monkeypatch):
    def order(**options):
        seen, real = [], DayPanel.batch
        with monkeypatch.context() as patch:
            patch.setattr(DayPanel, "batch", lambda self, rows, **kw: seen.extend(rows) or real(self, rows, **kw))
            trainers("mlp", epochs=1, **options)[0].fit(make_panel(), TRAINED, STOPPED)
        return seen[: len(TRAINED)]

    assert (
        order(seeds=(3,)) == order(seeds=(5,)) == TRAINED[np.random.default_rng(11).permutation(len(TRAINED))].tolist()
    )
    own = order(seeds=(3,), order_seed=None)
    assert own == TRAINED[np.random.default_rng(3).permutation(len(TRAINED))].tolist()
    assert order(seeds=(5,), order_seed=None) != own


@pytest.mark.parametrize("change", [{"lr": 0.5}, {"order_seed": 4}, {"epochs": 2}, {"checkpoint": "a.pt"}])
def test_what_shares_no_pass_is_refused(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = trainers("mlp", seeds=(0,)), trainers("mlp", seeds=(1,), **change)
    with pytest.raises(ValueError, match="same options, an order_seed, and without a checkpoint"):
        together(make_panel(), [*first, *second])
    with pytest.raises(ValueError, match="an order_seed"):
        together(make_panel(), trainers("mlp", order_seed=None))


@pytest.mark.parametrize("kind", ["MLPModel", "MASTERModel"])
def test_an_ensemble_of_seeds_takes_one_pass_a_fold(kind, monkeypatch):
    dataset, own = make_dataset(), {"order_seed": 2, "dropout": 0.2}
    own |= {"hidden": [6, 4]} if kind == "MLPModel" else {"d_model": 8}
    quick = {name: value for name, value in QUICK.items() if name != "hidden"}
    member = {"class": kind, "module_path": "qlib_ext.model", "kwargs": quick | own}
    seeds, rows = [0, 4, 9], np.arange(TEST[0], TEST[1] + 1)
    model = FoldEnsemble(model=member, n_splits=2, seeds=seeds)
    model.fit(dataset)
    apart = FoldEnsemble(model=member, n_splits=2, seeds=seeds)
    monkeypatch.setattr("qlib_ext.model.ensemble.shares_order", lambda config: False)
    apart.fit(dataset)
    pd.testing.assert_series_equal(model.oof, apart.oof)
    pd.testing.assert_frame_equal(model.curves, apart.curves)
    pd.testing.assert_frame_equal(model.members, apart.members)
    for one, alone in zip(model.models, apart.models, strict=True):
        np.testing.assert_array_equal(one.score_rows(dataset.panel, rows), alone.score_rows(dataset.panel, rows))
        assert one.learnt_until == alone.learnt_until and one.options == alone.options
    again = pickle.loads(pickle.dumps(model))
    pd.testing.assert_series_equal(again.predict(dataset), apart.predict(dataset))


def test_walk_forward_and_a_checkpoint(tmp_path):
    dataset = make_dataset()
    walk = WalkForwardModel(model=config(order_seed=0), step=20, seeds=[0, 1])
    kept = WalkForwardModel(model=config(order_seed=0, checkpoint=str(tmp_path / "a.pt")), step=20, seeds=[0, 1])
    for model in (walk, kept):
        model.fit(dataset)
    pd.testing.assert_series_equal(walk.predict(dataset), kept.predict(dataset))
    assert not list(tmp_path.iterdir())


class Own(MLPModel):
    """A model with a training of its own."""

    calls = 0

    def fit_rows(self, *args, **kwargs):
        Own.calls += 1
        return super().fit_rows(*args, **kwargs)


def test_a_training_of_one_s_own_is_called_for_each_seed():
    member = {"class": "Own", "module_path": __name__, "kwargs": QUICK | {"order_seed": 0, "epochs": 1}}
    FoldEnsemble(model=member, n_splits=2, seeds=[0, 1]).fit(make_dataset())
    assert Own.calls == 4


def test_a_bad_order_seed_is_said():
    with pytest.raises(ValueError, match="order_seed is -1"):
        MLPModel(order_seed=-1)
