"""What the qlib models can be told: texts from YAML, options without effect, long windows, checkpoints."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference_nets
import torch

from qlib_ext.model import MASTERModel, MLPModel
from qlib_ext.panel import DayPanel

DAYS, N, F = 140, 6, 3
QUICK = {"loss": "ic", "metric": "ic", "epochs": 2, "batch_days": 8, "lr": 0.01, "device": "cpu"}
SMALL = {"d_model": 8, "t_heads": 2, "s_heads": 2, "dropout": 0.1}


def make_panel(market=0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(DAYS, N, F)).astype(np.float32)
    return DayPanel(
        days=pd.bdate_range("2024-01-01", periods=DAYS).to_numpy(),
        stocks=np.array([f"S{i}" for i in range(N)], dtype=object),
        features=[f"f{i}" for i in range(F)],
        x=torch.from_numpy(x),
        present=torch.ones(DAYS, N, dtype=torch.bool),
        label=torch.from_numpy((0.02 * x[..., 0] + 0.01 * rng.normal(size=(DAYS, N))).astype(np.float32)),
        market=torch.from_numpy(rng.normal(size=(DAYS, market)).astype(np.float32)) if market else None,
        market_features=[f"m{i}" for i in range(market)],
    )


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (MLPModel, {"dropout": "1e-1"}, "dropout is '1e-1'; .*in YAML write 0.1"),
        (MLPModel, {"hidden": 64}, "hidden is 64; .*list of widths"),
        (MLPModel, {"hidden": "64"}, "hidden is '64'; .*list"),
        (MLPModel, {"hidden": ["64"]}, r"hidden\[0\] is '64'; .*whole number"),
        (MLPModel, {"hidden": [True]}, r"hidden\[0\] is True; .*whole number"),
        (MASTERModel, {"dropout": "5e-1"}, "dropout is '5e-1'.*which is a text"),
        (MASTERModel, {"key_dropout": "1e-1"}, "key_dropout is '1e-1'.*which is a text"),
        (MASTERModel, {"attention_dropout": "0"}, "attention_dropout is '0'.*which is a text"),
        (MASTERModel, {"gate": True, "beta": "5e0"}, "beta is '5e0'; .*which is a text"),
        (MASTERModel, {"beta": "5e0"}, "beta is '5e0'; "),
        (MLPModel, {"checkpoint": 3}, "checkpoint=3; allowed: null, or the path of a file"),
        (MLPModel, {"device": "tpu"}, "device='tpu'; allowed"),
    ],
)
def test_errors_come_at_once(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_the_gate_is_switched_off_by_one_word():
    assert MASTERModel(gate=False, beta=1.0).beta == 1.0 and MASTERModel().beta == 5.0


def test_a_window_longer_than_the_table_of_positions(tmp_path):
    panel, rows = make_panel(), (np.arange(119, 130), np.arange(132, 136))
    model = MASTERModel(**SMALL, **QUICK)
    model.fit_rows(panel, 120, *rows)
    assert model.trainer.net.max_steps == 120 and model.trainer.step_len == 120
    assert np.isfinite(model.trainer.predict(panel, rows[1])).all()
    model.fit_rows(panel, 8, *rows)
    assert model.trainer.net.max_steps == 100
    torch.save(reference_nets.random_checkpoint(F, 8, 0, seed=1), tmp_path / "authors.pkl")
    tuned = MASTERModel(**SMALL, **QUICK, init_from=str(tmp_path / "authors.pkl"))
    tuned.fit_rows(panel, 120, *rows)
    assert tuned.trainer.net.max_steps == 120


def test_building_a_network_seeds_no_gpu(monkeypatch):
    called = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", called.append)
    before = torch.get_rng_state()
    MLPModel(**QUICK, seed=3).fit_rows(make_panel(), 1, np.arange(30), np.arange(40, 50))
    assert not called and torch.equal(torch.get_rng_state(), before)


def test_a_model_goes_on_from_its_checkpoint_and_refuses_anothers(tmp_path, monkeypatch):
    panel, rows, path = make_panel(), (np.arange(60), np.arange(70, 90)), str(tmp_path / "run.pt")
    whole = MASTERModel(**SMALL, **QUICK)
    whole.fit_rows(panel, 3, *rows)

    def stop(prefix, counter, epoch, row):
        raise KeyboardInterrupt

    told = []
    with monkeypatch.context() as patch:
        patch.setattr("qlib_ext.model.day_model.report", stop)
        with pytest.raises(KeyboardInterrupt):
            MASTERModel(**SMALL, **QUICK, checkpoint=path).fit_rows(panel, 3, *rows)
    with pytest.raises(ValueError, match="another training: dropout is 0.2 here, 0.1 in the file"):
        MASTERModel(**SMALL | {"dropout": 0.2}, **QUICK, checkpoint=path).fit_rows(panel, 3, *rows)
    with pytest.raises(ValueError, match="step_len is 2 here, 3 in the file"):
        MASTERModel(**SMALL, **QUICK, checkpoint=path).fit_rows(panel, 2, *rows)
    monkeypatch.setattr("qlib_ext.model.day_model.logger.info", lambda text, **_: told.append(text))
    again = MASTERModel(**SMALL, **QUICK, checkpoint=path)
    again.fit_rows(panel, 3, *rows)
    assert again.history.resumed_from == 1 and again.history.epochs == whole.history.epochs
    assert any("run.pt exists: the training goes on where it was left" in text for text in told)
    np.testing.assert_array_equal(again.trainer.predict(panel, rows[1]), whole.trainer.predict(panel, rows[1]))
    assert not Path(path).exists()


@pytest.mark.parametrize("kind", [MLPModel, MASTERModel])
def test_what_is_learnt_where_nothing_is_said(kind):
    """IC with the ranks, the epoch by RankIC; a loss that is named is what its name says."""
    plain = kind()
    assert repr(plain.loss) == "DayLoss('ic', target='rank')" and plain.metric == "rank_ic"
    assert kind(target="raw").loss.target == "raw" and kind(metric="ic").metric == "ic"
    for loss in ("wpcc", "liq_wpcc"):
        deck = kind(loss=loss)
        assert (deck.loss.target, deck.loss.weight_by, deck.metric) == ("raw", "label", "wpcc")
    with pytest.raises(ValueError, match="weight_by='score' has no effect on the loss 'ic'"):
        kind(weight_by="score")


def test_a_gate_that_was_fitted_goes_on_too(tmp_path, monkeypatch):
    panel, rows, path = make_panel(market=2), (np.arange(60), np.arange(70, 90)), str(tmp_path / "run.pt")
    options = SMALL | QUICK | {"gate": True, "beta": 1.0, "scale": "robust"}
    whole = MASTERModel(**options)
    whole.fit_rows(panel, 2, *rows)
    MASTERModel(**options | {"epochs": 1}, checkpoint=path).fit_rows(panel, 2, *rows, keep_checkpoint=True)
    again = MASTERModel(**options, checkpoint=path)
    again.fit_rows(panel, 2, *rows)
    assert again.history.resumed_from == 1
    np.testing.assert_array_equal(again.trainer.predict(panel, rows[1]), whole.trainer.predict(panel, rows[1]))


@pytest.mark.parametrize(("kind", "options"), [(MLPModel, {"hidden": [4]}), (MASTERModel, SMALL)])
def test_a_model_recorded_before_induced_attention_scores_and_is_trained_again(kind, options):
    panel, rows = make_panel(), (np.arange(30), np.arange(40, 50))
    model = kind(**options, **QUICK)
    model.fit_rows(panel, 3, *rows)
    scores = model.score_rows(panel, rows[1])
    for name in ("inter", "inducing"):
        model.__dict__.pop(name, None)
    older = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(older.score_rows(panel, rows[1]), scores)
    older.fit_rows(panel, 3, *rows)
    np.testing.assert_array_equal(older.score_rows(panel, rows[1]), scores)
