"""Every object of a notebook says in one line what it is, loads nothing for it, and offers its options by name."""

import inspect
import pickle
import pydoc
import tarfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_model_options import QUICK, SMALL, make_panel

import qlib_ext as qx
from qlib_ext.data import DayDatasetH
from qlib_ext.exchange import Options
from qlib_ext.losses import DayLoss
from qlib_ext.model import FoldEnsemble, MASTERModel, MLPModel, ModelEnsemble, WalkForwardModel
from qlib_ext.nets import MLP
from qlib_ext.panel import Exposure
from qlib_ext.portfolio import Forecast, ForecastSchedule
from qlib_ext.strategy import CostAwareStrategy, LiquidityTopNStrategy
from qlib_ext.training import Trainer

MEMBER = {"class": "MLPModel", "kwargs": QUICK}
DAYS = pd.bdate_range("2024-01-01", periods=3)
SIGNAL = pd.Series(np.arange(6.0), pd.MultiIndex.from_product([DAYS, ["SH600000", "SZ000001"]]))
LEARNT = Forecast(
    places=(0.1, 0.9), levels=(-1e-3, 1e-3), half_lives=(8.0,), persistence=0.9, spread=5e-4, slope=6e-4, t=3.2,
    significant=True, days=60, first="2023-01-03", last="2023-03-31",
)  # fmt: skip


class NoHandler:
    """Stands for a handler whose data must not be asked for."""

    instruments = "csi300"

    def fetch(self, *args, **kwargs):
        raise AssertionError("a repr loads nothing")


def unloaded(**options):
    dataset = DayDatasetH.__new__(DayDatasetH)
    dataset.handler, dataset.segments = NoHandler(), {"train": ["2018-01-02", None], "test": slice("2019-01-02", None)}
    dataset.step_len, dataset.liquidity = 8, "auto"
    return dataset


def trained():
    model = MLPModel(hidden=[4], **QUICK)
    model.fit_rows(make_panel(), 1, np.arange(80), np.arange(82, 100))
    return model


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (
            unloaded(),
            "DayDatasetH(NoHandler of csi300, train 2018-01-02 to None, test 2019-01-02 to None, "
            "step_len=8, liquidity='auto'; panel not built yet)",
        ),
        (
            MASTERModel(gate=True, **SMALL, **QUICK),
            "MASTERModel(d_model=8, t_heads=2, dropout=0.1, gate=True, loss=DayLoss('ic', target='raw'), "
            "metric='ic', epochs=2, batch_days=8, lr=0.01, device='cpu'; not trained)",
        ),
        (
            FoldEnsemble(model=MEMBER, n_splits=3),
            "FoldEnsemble(MLPModel, n_splits=3, seeds=(0,), combine='mean'; not trained)",
        ),
        (
            WalkForwardModel(model=MEMBER, step=20),
            "WalkForwardModel(MLPModel, step=20, seeds=(0,), combine='mean'; not trained)",
        ),
        (ModelEnsemble(members=[MEMBER, MEMBER]), "ModelEnsemble(MLPModel, MLPModel2, combine='ranks'; not trained)"),
        (LEARNT, "Forecast(60 days 2023-01-03 to 2023-03-31, slope 6.0 bp, half-life 8.0 days, t 3.2)"),
        (Forecast(), "Forecast(nothing learnt: it expects 0)"),
        (
            ForecastSchedule((DAYS[0], DAYS[2]), (LEARNT, LEARNT)),
            "ForecastSchedule(2 forecasts, from 2024-01-01, 2024-01-03)",
        ),
        (
            LiquidityTopNStrategy(signal=SIGNAL, top_n=30),
            "LiquidityTopNStrategy(3 days 2024-01-01 to 2024-01-03, participation=0.05, top_n=30, "
            "rank_buffer=1.0, trade_participation=0.05)",
        ),
        (
            Trainer(MLP(2, (4,)), DayLoss("ic"), device="cpu", metric="ic"),
            "Trainer(MLP, DayLoss('ic', target='raw'), metric='ic', step_len=1, epochs=20, lr=0.001, "
            "batch_days=4, seed=0, cpu)",
        ),
        (make_panel().batch([5, 6], step_len=3), "Batch(2 days, 3 steps, 6 stocks, 3 features)"),
        (Exposure(torch.zeros(4, 5)), "Exposure(4 days, 5 stocks, numbers)"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)  # fmt: skip
def test_a_repr_says_what_it_is(thing, text):
    assert repr(thing) == text


def test_a_strategy_tells_its_forecast():
    text = repr(CostAwareStrategy(signal=SIGNAL, forecast=LEARNT, max_weight=0.05))
    assert "max_weight=0.05" in text and text.endswith(f"trade_participation=0.05; {LEARNT})")
    with pytest.warns(UserWarning, match="simple rule"):
        simple = repr(CostAwareStrategy(signal=SIGNAL, forecast=None, trade_participation=0.04))
    assert simple.endswith("; the simple rule)")


def test_a_trained_model_tells_its_days_and_best_epoch_also_once_pickled():
    model = trained()
    text = repr(model)
    assert text.startswith("MLPModel(hidden=(4,), loss=DayLoss('ic'") and "; trained to 2024-04-19, best epoch " in text
    assert f"of 2: ic {model.history.best_value:.4f})" in text
    assert repr(pickle.loads(pickle.dumps(model))) == text
    assert (
        repr(model.history) == f"History(2 epochs, the best {model.history.best_epoch}: {model.history.best_value:.5f})"
    )


# --- options by name


@pytest.mark.parametrize("kind", [MLPModel, MASTERModel])
def test_each_option_of_a_model_is_in_its_signature_and_explained(kind):
    parameters = inspect.signature(kind).parameters
    assert {"dropout", "target", "weight_by", "neutral", "epochs", "lr", "metric", "seed", "device"} <= set(parameters)
    assert all(option.kind == option.KEYWORD_ONLY for option in parameters.values())
    assert not {"net", "name", "step_len", "self"} & set(parameters)
    text = pydoc.render_doc(kind, renderer=pydoc.plaintext).replace(" |  ", "")
    lines = text[text.index("Args:") : text.index(">>> model")].splitlines()
    names = {name.strip() for line in lines for name in line.split(":")[0].split(",") if ":" in line}
    assert set(parameters) <= names
    kind(**{"loss": "wpcc", "epochs": 1, "weight_by": "score"})
    with pytest.raises(TypeError, match="no option 'epohcs'; close: .'epochs'"):
        kind(epohcs=3)


def test_defaults_of_the_signature_are_those_in_force():
    given = {name: option.default for name, option in inspect.signature(MLPModel).parameters.items()}
    with_all = MLPModel(**{name: value for name, value in given.items() if name not in ("weight_by", "base", "ties")})
    assert repr(with_all.loss) == repr(MLPModel().loss)
    assert with_all.options["metric"] == MLPModel().metric


def test_a_class_of_ones_own_adds_its_options():
    class Own(MLPModel):
        def __init__(self, *, depth=3, **options):
            super().__init__(**options)
            self.depth = depth

    names = list(inspect.signature(Own).parameters)
    assert names[0] == "depth" and {"hidden", "lr"} <= set(names)

    class Closed(MLPModel):
        def __init__(self, *, lr=0.1):
            super().__init__(lr=lr)

    assert list(inspect.signature(Closed).parameters) == ["lr"]


def test_the_exchange_offers_its_options():
    assert list(inspect.signature(qx.AShareExchange).parameters) == [field.name for field in fields(Options)]


@pytest.mark.skipif(pd.__version__ < "3", reason="pandas 2 reads no pickle that pandas 3 wrote")
def test_models_of_older_runs_have_a_repr(tmp_path):
    with tarfile.open(Path(__file__).parent / "recorded" / "runs_of_0_1_0.tar.xz") as runs:
        runs.extractall(tmp_path, filter="data")
    models = [pickle.loads(path.read_bytes()) for path in tmp_path.rglob("params.pkl")]
    assert models and all("trained" in repr(model) for model in models if type(model).__module__.startswith("qlib_ext"))
