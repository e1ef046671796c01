"""The shipped workflows' models find the embedded market's planted signal, and nothing where labels are shuffled."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import qlib
import torch
from qlib.utils import init_instance_by_config

from qlib_ext.evaluate import daily_metrics, metric_value, newey_west
from qlib_ext.synthetic import make_market
from qlib_ext.workflow import load_workflow

WORKFLOWS = Path(__file__).parents[1] / "workflows"


def config_of(name):
    return load_workflow(WORKFLOWS / f"{name}.yaml")["task"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Default embedded market and the features of the main job."""
    folder = tmp_path_factory.mktemp("signal")
    path = make_market(folder / "market")
    qlib.init(provider_uri=str(path), region="cn", kernels=1)
    return init_instance_by_config(config_of("master_liq")["dataset"])


def trained(name, dataset, *, panel=None, **options):
    model = init_instance_by_config(config_of(name)["model"])
    for key, value in options.items():
        model.options[key] = value
    model.fit_rows(panel or dataset.panel, dataset.step_len, dataset.rows("train"), dataset.rows("valid"))
    return model


def judged(model, panel, rows, metric):
    """Value and standard error of a metric on the test days."""
    at = torch.as_tensor(rows)
    grids = (g[at].numpy() for g in (panel.label, panel.liquidity, panel.buyable))
    return metric_value(metric, model.trainer.predict(panel, rows), *grids)


@pytest.mark.parametrize(("name", "epochs"), [("mlp_liq", 4), ("master_liq", 1)])
def test_the_model_finds_the_planted_signal(name, epochs, dataset):
    rows = dataset.rows("test")
    model = trained(name, dataset, epochs=epochs)
    ic, error = judged(model, dataset.panel, rows, "ic")
    assert ic > 0.03 and ic > 4 * error, (ic, error)
    excess, error = judged(model, dataset.panel, rows, "capped_excess_buyable")
    assert excess > 2 * error, (excess, error)


def test_shuffled_labels_teach_nothing(dataset):
    panel, rng = dataset.panel, np.random.default_rng(0)
    label = panel.label.numpy().copy()
    for day, here in zip(label, panel.present.numpy(), strict=True):
        day[here] = rng.permutation(day[here])
    shuffled = replace(panel, label=torch.from_numpy(label))
    model = trained("mlp_liq", dataset, panel=shuffled, epochs=2)
    ic, error = judged(model, shuffled, dataset.rows("test"), "ic")
    assert abs(ic) < 3.5 * error, (ic, error)
    assert 0 < error < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["master_liq", "master_best"])
def test_the_whole_training_pays(name, dataset):
    if name.endswith("_best"):  # other features, another label
        dataset = init_instance_by_config(config_of(name)["dataset"])
    rows = dataset.rows("test")
    model = trained(name, dataset)
    ic, error = judged(model, dataset.panel, rows, "ic")
    assert ic > 0.05 and ic > 5 * error, (ic, error)
    excess, error = judged(model, dataset.panel, rows, "capped_excess_buyable")
    assert excess > 2 * error, (excess, error)
    assert model.history.best_epoch >= 1 and pd.notna(model.history.best_value)


@pytest.mark.slow
def test_the_best_of_any_kind_pays(dataset):
    """Trees and networks, trained anew each year; the workflow as it is."""
    task = config_of("best")
    dataset, model = (init_instance_by_config(task[name]) for name in ("dataset", "model"))
    model.fit(dataset)
    panel, rows = dataset.panel, dataset.rows("test")
    score = model.predict(dataset).unstack().reindex(pd.DatetimeIndex(panel.days[rows]), columns=panel.stocks)
    daily = daily_metrics(score.to_numpy(), panel.label[rows].numpy(), names=["ic"])["ic"]
    assert daily.mean() > 0.05 and daily.mean() > 5 * newey_west(daily.to_numpy())[1]
