"""Old days count less: the weights by hand, the gradient's scale, and nothing at all where the option is off."""

import numpy as np
import pytest
import torch
from test_checkpoint import cut, new
from test_trainer import TRAIN, VALID, F, make_panel, make_trainer, same_state

from qlib_ext.losses import DayLoss
from qlib_ext.model import FoldEnsemble, MLPModel
from qlib_ext.nets import MLP


class Spied(DayLoss):
    """A loss that notes the weights it is given, and its days' losses."""

    def __init__(self, name, **options):
        super().__init__(name, **options)
        self.seen = []

    def __call__(self, score, label, mask, *given, day_weight=None):
        self.seen.append((day_weight, self.per_day(score, label, mask, *given).detach()))
        return super().__call__(score, label, mask, *given, day_weight=day_weight)


def test_weights_by_hand():
    panel, rows = make_panel(), np.array([3, 4, 5, 7])
    panel.label[4] = torch.nan  # counted out: the weights of 3, 5 and 7 are 1/4, 1/2 and 1, over their mean of 7/12
    loss = Spied("ic")
    trainer = make_trainer(loss, epochs=1, batch_days=1, day_halflife=2)
    trainer.loss = loss
    history = trainer.fit(panel, rows, VALID)
    order = np.random.default_rng(0).permutation(np.array([3, 5, 7]))
    want = [{3: 3 / 7, 5: 6 / 7, 7: 12 / 7}[int(row)] for row in order]
    weights = [float(weight) for weight, _ in loss.seen[:3]]
    np.testing.assert_allclose(weights, want, rtol=1e-6)
    losses = [float(each) for _, each in loss.seen[:3]]
    assert history.epochs[0]["train_loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-5)
    assert all(weight is None for weight, _ in loss.seen[3:])  # validation days count alike


def test_the_gradient_of_a_batch_is_the_mean_of_its_days_weighed():
    panel, rows, weight = make_panel(), TRAIN[:4], np.array([0.5, 2.0, 0.0, 1.5])

    def step(*, days, day_weight):
        torch.manual_seed(1)
        trainer = make_trainer(net=MLP(F, (8,)), batch_days=4, clip=1e9, precision="float32")
        before = [p.detach().clone() for p in trainer.net.parameters()]
        trainer.run_epoch(panel, rows[days], torch.optim.SGD(trainer.net.parameters(), lr=1.0), weight=day_weight)
        return [a - b.detach() for a, b in zip(before, trainer.net.parameters(), strict=True)]

    alone = [step(days=[n], day_weight=None) for n in range(4)]
    for got, *each in zip(step(days=slice(None), day_weight=weight), *alone, strict=True):
        want = sum(w * one for w, one in zip(weight, each, strict=True)) / 4
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)


def test_without_the_option_and_at_its_limit_nothing_changes():
    panel = make_panel()
    plain, never = make_trainer(epochs=3), make_trainer(epochs=3, day_halflife=1e15)
    histories = [trainer.fit(panel, TRAIN, VALID) for trainer in (plain, never)]
    assert histories[0] == histories[1]
    assert same_state(plain.net.state_dict(), never.net.state_dict())
    short = make_trainer(epochs=3, day_halflife=5)
    assert short.fit(panel, TRAIN, VALID) != histories[0]


def test_old_days_are_forgotten():
    """The signal's sign turns half way: the last days' is learnt."""
    panel = make_panel()
    panel.label[:20] = -panel.label[:20]  # 20 days against 10
    last = [make_trainer(epochs=8, day_halflife=halflife) for halflife in (None, 2.0)]
    ics = [trainer.fit(panel, TRAIN, VALID).epochs[-1]["ic"] for trainer in last]
    assert ics[0] < 0 < 0.3 < ics[1]


def test_a_checkpoint_knows_it_and_older_files_open(tmp_path):
    path = tmp_path / "run.pt"
    cut(path, day_halflife=20)
    whole = new(day_halflife=20).fit(make_panel(), TRAIN, VALID)
    with pytest.raises(ValueError, match="day_halflife is 30 here, 20 in the file"):
        new(checkpoint=str(path), day_halflife=30).fit(make_panel(), TRAIN, VALID)
    with pytest.raises(ValueError, match="day_halflife is not given here, 20 in the file"):
        new(checkpoint=str(path)).fit(make_panel(), TRAIN, VALID)
    assert new(checkpoint=str(path), day_halflife=20).fit(make_panel(), TRAIN, VALID).epochs == whole.epochs
    assert "day_halflife" not in new()._facts()


@pytest.mark.parametrize("halflife", [0, -1, "250", float("nan")])
def test_what_is_no_halflife_is_refused(halflife):
    with pytest.raises(ValueError, match="day_halflife is"):
        MLPModel(day_halflife=halflife)


def test_members_of_an_ensemble_take_it():
    from test_ensemble import config, make_dataset

    dataset, metrics = make_dataset(), []
    for halflife in (None, 5):
        model = FoldEnsemble(model=config(day_halflife=halflife), n_splits=2)
        model.fit(dataset)
        assert {member.trainer.day_halflife for member in model.models} == {halflife}
        metrics.append(model.curves["train_loss"].tolist())
    assert metrics[0] != metrics[1]
