"""Learning from every n-th training day is learning from those days; nothing else changes."""

import numpy as np
import pytest
from test_checkpoint import cut, new
from test_trainer import TRAIN, VALID, make_panel, make_trainer, same_state

from qlib_ext.model import FoldEnsemble, MLPModel


def test_it_is_a_training_on_those_days_bit_for_bit():
    panel = make_panel()
    thin, by_hand, whole = make_trainer(epochs=3, every_days=3), make_trainer(epochs=3), make_trainer(epochs=3)
    histories = [thin.fit(panel, TRAIN, VALID), by_hand.fit(panel, TRAIN[::3], VALID), whole.fit(panel, TRAIN, VALID)]
    assert histories[0].epochs == histories[1].epochs != histories[2].epochs
    states = [trainer.net.state_dict() for trainer in (thin, by_hand, whole)]
    assert same_state(states[0], states[1]) and not same_state(states[0], states[2])
    np.testing.assert_array_equal(thin.predict(panel, VALID), by_hand.predict(panel, VALID))


def test_days_are_counted_before_those_that_teach_nothing_are_left_out():
    panel = make_panel()
    panel.label[TRAIN[1]] = np.nan
    assert make_trainer(epochs=1, every_days=2).fit(panel, TRAIN, VALID).degenerate_days == 0
    assert make_trainer(epochs=1).fit(panel, TRAIN, VALID).degenerate_days == 1


def test_a_checkpoint_knows_it_and_older_files_open(tmp_path):
    path = tmp_path / "run.pt"
    cut(path, every_days=2)
    with pytest.raises(ValueError, match="every_days is not given here, 2 in the file"):
        new(checkpoint=str(path)).fit(make_panel(), TRAIN, VALID)
    whole = new(every_days=2).fit(make_panel(), TRAIN, VALID)
    assert new(checkpoint=str(path), every_days=2).fit(make_panel(), TRAIN, VALID).epochs == whole.epochs
    assert "every_days" not in new()._facts()


@pytest.mark.parametrize("days", [0, -1, "3", 1.5])
def test_what_is_no_number_of_days_is_refused(days):
    with pytest.raises(ValueError, match="every_days is"):
        MLPModel(every_days=days)


def test_seeds_in_one_pass_and_members_of_an_ensemble_take_it():
    from test_ensemble import config, make_dataset

    dataset = make_dataset()

    def fitted(**options):
        model = FoldEnsemble(model=config(every_days=2, **options), n_splits=2, seeds=[0, 1])
        model.fit(dataset)
        return model

    one, together = fitted(), fitted(order_seed=0)
    assert {member.trainer.every_days for member in together.models} == {2}
    assert one.curves["train_loss"].tolist()[:1] == together.curves["train_loss"].tolist()[:1]  # seed 0's own order
