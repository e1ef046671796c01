"""LightGBMModel: the baseline's trees, as a model among ours."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from qlib.utils import get_callable_kwargs
from test_ensemble import config, make_dataset
from test_record import make_panel

from qlib_ext.cross_section import rank_shares
from qlib_ext.evaluate import LightGBM
from qlib_ext.model import FoldEnsemble, LightGBMModel, ModelEnsemble, WalkForwardModel, neutral_to
from qlib_ext.panel import Exposure
from qlib_ext.runs import Task

PLAIN = {"lambda_l1": 0.0, "lambda_l2": 0.0, "num_leaves": 7, "min_data_in_leaf": 5}
QUICK = {"rounds": 15, "parameters": PLAIN}
TRAIN, VALID, TEST = np.arange(30), np.arange(32, 44), np.arange(46, 60)


def planted():
    """A panel whose label is its first feature and a little noise."""
    panel = make_panel(days=60)
    noise = 0.3 * torch.randn(panel.label.shape, generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(
        panel, label=torch.where(panel.label.isnan(), torch.nan, 0.01 * (panel.x[..., 0] + noise))
    )


def fitted(panel, **options):
    model = LightGBMModel(**{**QUICK, **options})
    model.fit_rows(panel, 8, TRAIN, VALID)
    return model


def test_it_is_the_baseline():
    panel = planted()
    model = fitted(panel, seed=3)
    score, _ = LightGBM(rounds=15, parameters=PLAIN, seed=3).fit_predict(panel, TRAIN, VALID, TEST)
    score = score.astype(np.float32)
    np.testing.assert_array_equal(model.score_rows(panel, TEST), score)
    assert model.history.best_value == model.history.epochs[0]["rank_ic"] > 0.5
    assert "trees)" in repr(model) and "not trained" in repr(LightGBMModel())
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_rows(panel, TEST), score)


def test_it_sees_the_columns_it_is_given():
    panel = planted()
    few = dataclasses.replace(
        panel, x=panel.x[..., [1, 0]].contiguous(), features=[panel.features[1], panel.features[0]]
    )
    some = fitted(panel, columns=few.features)
    np.testing.assert_array_equal(some.score_rows(panel, TEST), fitted(few).score_rows(few, TEST))
    blind = fitted(panel, columns=panel.features[1:])
    assert blind.history.best_value < 0.3 < some.history.best_value
    with pytest.raises(ValueError, match="lacks 1 of 1 features"):
        fitted(panel, columns=["nothing"])


def test_every_third_day_is_learning_from_those_days():
    panel = planted()
    by_hand = LightGBMModel(**QUICK)
    by_hand.fit_rows(panel, 1, TRAIN[::3], VALID)
    np.testing.assert_array_equal(fitted(panel, every_days=3).score_rows(panel, TEST), by_hand.score_rows(panel, TEST))


def test_a_neutral_one_learns_and_scores_off_the_exposures():
    panel = planted()
    load = torch.randn(panel.label.shape, generator=torch.Generator().manual_seed(1))
    label = torch.where(panel.label.isnan(), torch.nan, panel.label + 0.05 * load)
    panel = dataclasses.replace(panel, label=label, loads={"volatility": Exposure(load)})
    model = fitted(panel, neutral=["volatility"])
    assert neutral_to(model) == ("volatility",)
    score, loads = model.score_rows(panel, TEST), panel.exposures(("volatility",), TEST)[..., 0].numpy()
    target = model._target(panel).numpy()
    for d, row in enumerate(TEST):
        real = np.isfinite(score[d])
        assert abs(np.corrcoef(score[d, real], loads[d, real])[0, 1]) < 1e-4
        known = np.isfinite(target[row])
        if not known.any():  # the last days have no label
            continue
        rank = rank_shares(panel.label[row : row + 1].numpy().astype(float))[0, known]
        design = np.column_stack([np.ones(known.sum()), panel.exposures(("volatility",), np.array([row]))[0, known, 0]])
        rest = rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0]
        assert np.corrcoef(rest, target[row, known])[0, 1] == pytest.approx(1.0, abs=1e-5)


def test_it_stands_wherever_a_network_does():
    dataset = make_dataset()
    trees = {"class": "LightGBMModel", "kwargs": QUICK}
    alone = LightGBMModel(**QUICK)
    alone.check_dataset(dataset)
    alone.fit(dataset)
    assert alone.predict(dataset).index.names == ["datetime", "instrument"]
    both = ModelEnsemble(members=[trees, config()])
    both.fit(dataset)
    assert both.table.index[0] == "LightGBMModel"
    folds = FoldEnsemble(model=trees, n_splits=2)
    folds.fit(dataset)
    assert len(folds.models) == 2 and folds.oof.notna().all()
    walk = WalkForwardModel(
        model={"class": "ModelEnsemble", "kwargs": {"members": [trees, config()]}}, step=5, seeds=[0, 1]
    )
    walk.fit(dataset)
    assert walk.predict(dataset).notna().all()
    assert [model.models[0].trees.seed for model in walk.models[:4]] == [0, 1] * 2
    inner = ModelEnsemble(members=[{"class": "ModelEnsemble", "kwargs": {"members": [trees], "seed": 2}}], seed=3)
    assert inner._built()[0]._built()[0].seed == 5


def test_seeds_grow_other_trees_in_an_ensemble():
    sampled = {"class": "LightGBMModel", "kwargs": {**QUICK, "max_rows": 100}}
    grown = []
    for seed in (0, 1):
        model = ModelEnsemble(members=[sampled], seed=seed)
        model.fit(make_dataset())
        grown.append(model.models[0].booster.model_to_string())
    assert grown[0] != grown[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [({"every_days": 0}, "every_days is 0"), ({"rounds": 0}, "rounds is 0"), ({"columns": "x"}, "columns is 'x'"),
     ({"neutral": [3]}, "neutral"), ({"parameters": {"leaves": 3}}, "leaves"), ({"epochs": 3}, "epochs")],
)  # fmt: skip
def test_what_cannot_be_is_refused(options, told):
    with pytest.raises((ValueError, TypeError), match=told):
        LightGBMModel(**options)
    with pytest.raises(ValueError, match="not trained"):
        LightGBMModel().predict(make_dataset())


def test_a_member_without_a_module_is_one_of_ours():
    """As ensembles build it: check-leak and others that look at the innermost class find it."""
    inner = {"class": "ModelEnsemble", "kwargs": {"members": [{"class": "LightGBMModel"}]}}
    walk = {"class": "WalkForwardModel", "module_path": "qlib_ext.model", "kwargs": {"step": 5, "model": inner}}
    outer, found = Task({"model": walk}).models
    assert outer == walk and get_callable_kwargs(found)[0] is ModelEnsemble
    elsewhere = {"class": "X", "module_path": "mine"}
    assert Task({"model": walk | {"kwargs": {"model": elsewhere}}}).models[-1] == elsewhere
