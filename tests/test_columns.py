"""A network that sees some of the features is the network of a dataset of those features alone."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from test_ensemble import config, make_dataset
from test_record import make_panel

from qlib_ext.features import ALPHA158_NAMES
from qlib_ext.model import FoldEnsemble, MASTERModel, MLPModel, ModelEnsemble

QUICK = {"loss": "ic", "metric": "ic", "epochs": 2, "device": "cpu"}
TRAIN, VALID = np.arange(20), np.arange(22, 30)


def fitted(panel, kind=MLPModel, step_len=1, **options):
    sizes = {"hidden": [8]} if kind is MLPModel else {"d_model": 8, "t_heads": 2, "dropout": 0.1}
    model = kind(**sizes, **QUICK, **options)
    model.fit_rows(panel, step_len, TRAIN, VALID)
    return model


@pytest.mark.parametrize(("kind", "step_len"), [(MLPModel, 1), (MASTERModel, 3)])
def test_it_is_the_model_of_those_features_bit_for_bit(kind, step_len):
    panel = make_panel(days=40)
    names = [panel.features[n] for n in (2, 0)]
    few = dataclasses.replace(panel, x=panel.x[..., [2, 0]].contiguous(), features=names)
    some, alone, whole = (
        fitted(panel, kind, step_len, columns=names),
        fitted(few, kind, step_len),
        fitted(panel, kind, step_len),
    )
    assert some.history.epochs == alone.history.epochs != whole.history.epochs
    rows = np.arange(30, 40)
    np.testing.assert_array_equal(some.score_rows(panel, rows), alone.score_rows(few, rows))
    other = dataclasses.replace(panel, x=panel.x.clone())
    other.x[..., 1] = torch.randn_like(other.x[..., 1])  # what it does not see
    np.testing.assert_array_equal(some.score_rows(other, rows), some.score_rows(panel, rows))
    again = pickle.loads(pickle.dumps(some))
    np.testing.assert_array_equal(again.score_rows(panel, rows), some.score_rows(panel, rows))


def test_what_cannot_be_is_refused():
    panel = make_panel(days=40)
    for columns in ("alpha360", [], [1], "F0", 5, {"F0": 1}):
        with pytest.raises(ValueError, match="columns is .*allowed: alpha158"):
            MLPModel(columns=columns)
    assert MLPModel(columns="alpha158").columns == tuple(ALPHA158_NAMES)
    with pytest.raises(ValueError, match="lacks 1 of 2 features, the first is 'nothing'"):
        fitted(panel, columns=[panel.features[0], "nothing"])
    first = fitted(panel, columns=[panel.features[0]])
    with pytest.raises(ValueError, match="they see different features"):
        MLPModel(hidden=[8], columns=[panel.features[1]], **QUICK).fit_rows(panel, 1, TRAIN, VALID, start=first)


def test_a_checkpoint_knows_them_and_older_files_open(tmp_path):
    panel, file = make_panel(days=40), str(tmp_path / "run.pt")
    plain = MLPModel(hidden=[8], checkpoint=file, **QUICK)
    _, facts = plain._ready(panel, 1, TRAIN, VALID, "", None)
    assert "columns" not in facts
    _, facts = MLPModel(hidden=[8], columns=panel.features[:1], **QUICK)._ready(panel, 1, TRAIN, VALID, "", None)
    assert facts["columns"] == (panel.features[0],)


def test_members_of_ensembles_see_different_features():
    dataset = make_dataset()
    first, second = dataset.panel.features[:1], dataset.panel.features[1:]
    folds = FoldEnsemble(model=config(columns=first), n_splits=2)
    folds.fit(dataset)
    assert {member.columns for member in folds.models} == {tuple(first)}
    both = ModelEnsemble(members=[config(columns=first), config(columns=second)])
    both.fit(dataset)
    assert [member.columns for member in both.models] == [tuple(first), tuple(second)]
    assert both.predict(dataset).notna().all()
