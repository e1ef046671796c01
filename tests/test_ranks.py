"""Ranks that share the days: the numbers of one process with as many days a step, one recorder, clear ends."""

import numpy as np
import pytest
import torch
from rank_jobs import together
from test_horizon_heads import make_heads
from test_trainer import FRESH, TRAIN, VALID, F, make_panel

from qlib_ext.losses import DayLoss
from qlib_ext.nets import MASTER, MLP
from qlib_ext.training import Trainer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
NETS = {
    "mlp": lambda: MLP(F, (8,)),
    "master": lambda: MASTER(F, 8, 2, 2, dropout=0.0),
    "heads": lambda: MLP(F, (8,), heads=2),
}


def fit(net="mlp", *, panel=None, train=TRAIN, valid=VALID, stop=None, **options):
    """Train; return the state, the history and scores of fresh days."""
    torch.manual_seed(1)
    window = {"step_len": 3} if net == "master" else {}
    options = {"epochs": 3, "patience": 3, "weight_decay": 0.01} | window | options
    loss = DayLoss(options.pop("loss", "mse"), target=options.pop("target", "rank"))
    trainer = Trainer(NETS[net](), loss, **{"metric": "ic", "lr": 1e-2, "device": "cpu", "precision": "float32"} | options)
    panel = (make_heads() if net == "heads" else make_panel()) if panel is None else panel
    history = trainer.fit(panel, train, valid)
    return trainer.net.state_dict(), history, trainer.predict(panel, FRESH)


def assert_close(ours, other):
    for name, value in other[0].items():
        torch.testing.assert_close(ours[0][name], value, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    assert len(ours[1].epochs) == len(other[1].epochs) and ours[1].best_epoch == other[1].best_epoch
    for row, its in zip(ours[1].epochs, other[1].epochs, strict=True):
        assert row == pytest.approx(its, **{"rel": 1e-4, "abs": 1e-5})
    np.testing.assert_allclose(ours[2], other[2], **CLOSE)


CASES = {  # options of one process, and days a step of each rank
    "mlp, mse": ({"net": "mlp"}, 2),
    "master": ({"net": "master"}, 2),
    "all options": ({"net": "mlp", "loss": "mse", "scale": "robust", "day_halflife": 9.0, "every_days": 2}, 2),
    "heads": ({"net": "heads", "horizon_weights": [1, 3]}, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process_with_twice_the_days(case):
    options, days = CASES[case]
    alone = fit(batch_days=2 * days, **options)
    first, second = together(2, fit, batch_days=days, **options)
    assert_close(first, alone)
    for name, value in first[0].items():
        assert torch.equal(second[0][name], value)
    assert vars(first[1]) == vars(second[1])
