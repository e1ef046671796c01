"""The same seed gives the same bits, whatever the threads, what ran before, and the order of Python's sets."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_trainer import make_panel

from qlib_ext.exchange import SortedPosition
from qlib_ext.model import MASTERModel, MLPModel
from qlib_ext.runs import complete_backtest
from qlib_ext.training import Trainer, fit_together, fixed_threads

TRAIN, VALID = np.arange(8, 24), np.arange(26, 36)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def wide_panel(stocks=700, features=24, days=40):
    """Large enough that its sums are cut among threads."""
    panel = make_panel(days=days)
    g = torch.Generator().manual_seed(0)
    size = (days, stocks)
    return type(panel)(
        days=panel.days[:days],
        stocks=np.array([f"S{n:04d}" for n in range(stocks)], dtype=object),
        features=[f"f{n}" for n in range(features)],
        x=torch.randn(*size, features, generator=g),
        present=torch.ones(size, dtype=torch.bool),
        label=0.02 * torch.randn(size, generator=g),
        liquidity=torch.exp(17.0 + torch.randn(size, generator=g)),
    )


def learnt(kind, panel, threads, **options):
    torch.set_num_threads(threads)
    model = kind(epochs=1, batch_days=4, metric="rank_ic", device="cpu", **options)
    model.fit_rows(panel, 4, TRAIN, VALID)
    score = model.score_rows(panel, VALID)
    assert torch.get_num_threads() == threads  # of the process, as before
    return np.asarray(score).tobytes(), repr(model.history.epochs)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "options"), [(MASTERModel, {"d_model": 32}), (MLPModel, {"hidden": [64, 32]})])
def test_threads_do_not_matter_where_it_is_deterministic(kind, options, precision):
    panel = wide_panel()
    same = {learnt(kind, panel, n, deterministic=True, precision=precision, **options) for n in (1, 2, 5)}
    assert len(same) == 1


def test_what_ran_before_does_not_matter():
    panel = wide_panel(stocks=60)
    first = learnt(MLPModel, panel, 1, seed=3)
    torch.manual_seed(7)
    torch.rand(5)
    np.random.seed(3)  # noqa: NPY002  qlib's own models draw from it
    learnt(MASTERModel, panel, 1, d_model=16)
    assert learnt(MLPModel, panel, 1, seed=3) == first


def test_seeds_in_one_pass_and_the_checkpoint_know_the_option(tmp_path):
    from qlib_ext.nets import MLP

    panel = wide_panel(stocks=60)
    options = {"metric": "ic", "epochs": 1, "order_seed": 0, "device": "cpu", "deterministic": True}

    def trainer(**more):
        torch.manual_seed(0)
        return Trainer(MLP(24, (8,)), "ic", **options | more)

    alone = trainer()
    alone.fit(panel, TRAIN, VALID)
    torch.set_num_threads(3)
    pair = [trainer(), trainer(seed=1)]
    fit_together(pair, panel, TRAIN, VALID, on_epochs=[lambda epoch, row: None] * 2)
    assert np.array_equal(pair[0].predict(panel, VALID), alone.predict(panel, VALID), equal_nan=True)
    kept = {"order_seed": None, "checkpoint": str(tmp_path / "run.pt")}
    trainer(**kept).fit(panel, TRAIN, VALID, keep_checkpoint=True)
    with pytest.raises(ValueError, match="deterministic"):
        trainer(**kept, deterministic=False).fit(panel, TRAIN, VALID)


def test_threads_within_and_afterwards():
    torch.set_num_threads(2)
    with pytest.raises(KeyError), fixed_threads(True):
        assert torch.get_num_threads() == 4
        raise KeyError
    assert torch.get_num_threads() == 2
    with fixed_threads(False):
        assert torch.get_num_threads() == 2


ORDER = """
from qlib_ext.exchange import SortedPosition
prices = {f"SH{600000 + n}": {"amount": 1.0, "price": 0.1 * 1.7 ** (n % 40)} for n in range(300)}
print(SortedPosition(0.3, prices).calculate_value().hex())
"""


def test_the_value_of_an_account_does_not_depend_on_the_order_of_sets():
    told = {
        subprocess.run(
            [sys.executable, "-c", ORDER],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in (0, 1, 2)
    }
    assert len(told) == 1
    assert complete_backtest(None)["backtest"]["pos_type"] == "qlib_ext.exchange.SortedPosition"
    assert SortedPosition(1.0, {"SZ000002": {"amount": 1, "price": 2.0}}).get_stock_list() == ["SZ000002"]
