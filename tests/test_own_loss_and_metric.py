"""The recipes of docs/architecture.md, taken literally: a loss and a metric from outside, one class each."""

import pickle

import numpy as np
import pytest
import torch
from test_model_options import make_panel

from qlib_ext.evaluate import daily_metrics, metric_value
from qlib_ext.losses import DayLoss
from qlib_ext.model import MLPModel
from qlib_ext.training import Trainer

QUICK = {"epochs": 3, "batch_days": 8, "lr": 0.01, "device": "cpu", "seed": 0}
ROWS = np.arange(60), np.arange(70, 90)


class Huber:
    """The recipe of a loss: (B,) of the days, smaller is better."""

    def __init__(self, delta=0.02):
        self.delta = delta

    def __call__(self, days):
        gap = torch.where(days.real, days.score - days.target, 0.0).abs()
        loss = torch.where(gap < self.delta, gap**2 / 2, self.delta * (gap - self.delta / 2))
        return loss.sum(dim=1) / days.real.sum(dim=1).clamp(min=1)


class HitRate:
    """The recipe of a metric: (D,) of the days, larger is better; NaN where it is not defined."""

    def __init__(self, above=0.0):
        self.above = above

    def __call__(self, days):
        hit = days.real & ((days.score > self.above) == (days.label > 0))
        return torch.where(days.valid, hit.sum(dim=1) / days.count.clamp(min=1), torch.nan)


def here(name, **kwargs):
    return {"class": name, "module_path": __name__, "kwargs": kwargs}


def test_a_model_learns_and_stops_by_them_from_its_configuration(tmp_path):
    panel = make_panel()
    model = MLPModel(loss=here("Huber", delta=0.01), metric=here("HitRate"), target="rank", hidden=[8], **QUICK)
    history = model.fit_rows(panel, 1, *ROWS)
    rates = [row["HitRate"] for row in history.epochs]
    assert history.best_value == max(rates) > 0.6 and history.epochs[0]["HitRate_se"] > 0
    assert repr(model.loss) == "DayLoss(Huber(delta=0.01), target='rank')"
    score = model.trainer.predict(panel, ROWS[1])
    value, _ = metric_value(HitRate(), score, panel.label[ROWS[1]].numpy())
    assert value == pytest.approx(history.best_value)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.trainer.predict(panel, ROWS[1]), score)


class Traded(Huber):
    """A loss that needs liquidity."""

    needs_liquidity = True


def test_a_loss_says_itself_that_it_needs_liquidity():
    label, mask = torch.tensor([[0.01, 0.02], [0.01, 0.02]]), torch.ones(2, 2, dtype=torch.bool)
    plain, needs = DayLoss(Huber()), DayLoss(Traded())
    assert plain.needs_liquidity is False and plain.valid_days(label, mask).tolist() == [True, True]
    liquidity = torch.tensor([[1e6, 0.0], [0.0, 0.0]])
    assert needs.needs_liquidity is True and needs.valid_days(label, mask, liquidity).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"loss 'Traded\(delta=0.02\)' got liquidity=None"):
        needs(label, label, mask)


def test_a_checkpoint_tells_them_apart(tmp_path):
    options = {"checkpoint": str(tmp_path / "run.pt"), "hidden": [8], **QUICK, "epochs": 1}
    model = MLPModel(loss=here("Huber"), metric=here("HitRate"), **options)
    model.fit_rows(make_panel(), 1, *ROWS, keep_checkpoint=True)
    again = MLPModel(loss=here("Huber"), metric=here("HitRate"), **options | {"epochs": 2})
    assert again.fit_rows(make_panel(), 1, *ROWS, keep_checkpoint=True).resumed_from == 1
    for other, difference in (
        ({"loss": here("Huber", delta=0.5), "metric": here("HitRate")}, "loss is DayLoss.Huber.delta=0.5"),
        ({"loss": here("Huber"), "metric": here("HitRate", above=0.1)}, "metric is HitRate.above=0.1. here"),
    ):
        with pytest.raises(ValueError, match=difference):
            MLPModel(**other, **options).fit_rows(make_panel(), 1, *ROWS)


def test_functions_do_as_well():
    panel = make_panel()
    trainer = Trainer(torch.nn.Linear(1, 1), Huber(), metric=HitRate())
    assert isinstance(trainer.loss, DayLoss) and trainer.metric == "HitRate"
    score, label = panel.label.numpy() - 0.001, panel.label.numpy()
    daily = daily_metrics(score, label, names=["ic", lambda days: days.count.double()])
    assert (daily["<lambda>"] == label.shape[1]).all()
    with pytest.raises(ValueError, match=r"metric <lambda> must return a tensor \(D,\)"):
        daily_metrics(score, label, names=[lambda days: days.score])


def test_what_they_need_is_asked_for():
    def money(days):
        return days.capped.returns

    money.needs_liquidity = True
    panel = make_panel()
    with pytest.raises(ValueError, match="'money' needs liquidity"):
        metric_value(money, panel.label.numpy(), panel.label.numpy())
    with pytest.raises(ValueError, match="'money' needs liquidity"):
        MLPModel(loss="ic", metric=money, hidden=[8], **QUICK).fit_rows(panel, 1, *ROWS)


@pytest.mark.parametrize("name", ["ic", "icir", "topn_return_buyable", "capped_cash_share"])
def test_the_name_of_a_built_in_metric_is_refused(name):
    def own(days):
        return days.count.double()

    own.__name__ = name
    ones = np.ones((2, 3))
    for call in (
        lambda: metric_value(own, ones, ones),
        lambda: daily_metrics(ones, ones, names=["ic", own]),
        lambda: Trainer(torch.nn.Linear(1, 1), "ic", metric=own),
        lambda: MLPModel(loss="ic", metric=own, hidden=[8], **QUICK),
    ):
        with pytest.raises(ValueError, match=f"'{name}'.*rename"):
            call()


def test_a_misspelt_name_is_still_an_error():
    with pytest.raises(ValueError, match="unknown loss 'hubr'"):
        MLPModel(loss="hubr")
    with pytest.raises(ValueError, match="unknown metric 'rank_icc'.*'rank_ic'"):
        MLPModel(metric="rank_icc")
    with pytest.raises(TypeError, match="loss has no option 'kwarg'; close: .'kwargs'"):
        MLPModel(loss={"class": "Huber", "module_path": __name__, "kwarg": {}})
    with pytest.raises(ValueError, match="weight_by='score' has no effect on the loss"):
        MLPModel(loss=here("Huber"), weight_by="score")
    with pytest.raises(ValueError, match="metric: Fraction gives a Fraction, which cannot be called"):
        MLPModel(metric={"class": "Fraction", "module_path": "fractions"})
