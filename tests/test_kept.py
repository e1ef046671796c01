"""Figures that are kept: a change of any says which and why, here and in the changelog.

`make keep WHY="..."` writes them anew; WHY must then stand in CHANGELOG.md, word for word. What is arithmetic (a run
on the embedded market whose model learns nothing, a backtest of real data) is the same on any machine; what a network
learns is so only on the same kind of processor and the same versions.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_data
import yaml
from mlflow.tracking import MlflowClient
from qlib.model.base import Model

from qlib_ext.panel import FIVE_DAY_LABEL
from qlib_ext.record import run_facts
from qlib_ext.synthetic import make_market

TREE = Path(__file__).resolve().parents[1]
KEPT = TREE / "tests" / "kept"
WHY = os.environ.get("WHY", "")
DAYS = {"TRAIN": "2020-04-01,2020-12-31", "VALID": "2021-01-04,2021-03-31", "TEST": "2021-04-01,2021-12-24"}


class Reversal(Model):
    """Scores each stock by minus its return of five days: nothing is learnt."""

    def fit(self, dataset):
        """Learn nothing."""

    def predict(self, dataset, segment="test"):
        """Series `score` by (datetime, instrument)."""
        return dataset.prepare(segment, col_set="feature")["ROC5"].rename("score").astype("float64")


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return make_market(tmp_path_factory.mktemp("kept") / "market", n_stocks=80, years=2)


def figures_of(folder, market, change):
    """All metrics of a run of workflows/master_liq.yaml with its task changed, by `qrun`."""
    import jinja2

    names = {f"QLIB_EXT_{name}": value for name, value in DAYS.items()} | {"QLIB_EXT_PROVIDER_URI": str(market)}
    text = (TREE / "workflows" / "master_liq.yaml").read_text()
    config = yaml.safe_load(jinja2.Template(text).render(names))
    config["BASE_CONFIG_PATH"] = str(TREE / "workflows" / "qlib_ext_base.yml")
    change(config["task"])
    (folder / "workflow.yaml").write_text(yaml.safe_dump(config))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TREE / "tests"), *sys.path])}
    command = [sys.executable, "-m", "qlib.cli.run", "workflow.yaml"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    client = MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return run.data.metrics


def model_of_processor():
    """What the name of a processor leaves open, on Linux: libraries choose their kernels by it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
    told = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    flags = hashlib.blake2b(told.get("flags", "").encode(), digest_size=8).hexdigest()
    return [told.get("cpu family"), told.get("model"), told.get("stepping"), told.get("cache size"), flags]


def compare(name, figures, same=1e-6, **facts):
    """Assert that figures are the kept ones; with WHY, keep them."""
    file = KEPT / f"{name}.json"
    figures = {key: float(value) for key, value in sorted(figures.items())}
    if WHY:
        KEPT.mkdir(exist_ok=True)
        file.write_text(json.dumps({"why": WHY, **facts, "figures": figures}, indent=0) + "\n")
    kept = json.loads(file.read_text())
    assert kept["why"] in (TREE / "CHANGELOG.md").read_text(), f"CHANGELOG.md does not say: {kept['why']}"
    both = pd.DataFrame({"kept": kept["figures"], "now": figures})
    moved = both[~np.isclose(both["now"], both["kept"], rtol=same, atol=1e-12, equal_nan=True)]
    assert moved.empty, (
        f"{len(moved)} of {len(both)} kept figures of {name} moved:\n{moved.to_string()}\n"
        'If that is meant: make keep WHY="what moved and why", and the same sentence in CHANGELOG.md'
    )


def test_the_figures_of_a_run(market, tmp_path):
    def change(task):
        task["model"] = {"class": "Reversal", "module_path": "test_kept"}

    figures = figures_of(tmp_path, market, change)
    assert len(figures) > 500
    compare("run", figures)


def test_what_a_network_learns(market, tmp_path):
    facts = {name: run_facts(None, None)[name] for name in ("processor", "versions")} | {"model": model_of_processor()}
    file = KEPT / "training.json"
    if not WHY and (kept := json.loads(file.read_text())) and any(kept[key] != facts[key] for key in facts):
        pytest.skip(f"kept of {kept['processor']}, {kept['versions']}: others round otherwise")

    def change(task):
        task["model"]["kwargs"] |= {"epochs": 3, "d_model": 32}
        task["record"] = [
            {"class": name, "module_path": "qlib.workflow.record_temp"} for name in ("SignalRecord", "SigAnaRecord")
        ]

    compare("training", figures_of(tmp_path, market, change), 1e-12, **facts)


@pytest.mark.realdata
@pytest.mark.skipif("QLIB_EXT_REAL_DATA" not in os.environ, reason="needs QLIB_EXT_REAL_DATA, a provider of A shares")
def test_the_figures_of_a_backtest_of_real_data(tmp_path):
    """Five days' reversal by a given forecast, the whole market, the last quarter of 2021: judge, account, costs."""
    import qlib_ext as qx

    test_data.start_qlib(Path(os.environ["QLIB_EXT_REAL_DATA"]), tmp_path)
    loader = {
        "feature": (["$close/Ref($close, 5)"], ["ROC5"]),
        "label": ([FIVE_DAY_LABEL], ["LABEL0"]),
    }
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {
            "instruments": "ashare",
            "start_time": "2021-01-04",
            "end_time": "2021-12-31",
            "data_loader": {"class": "QlibDataLoader", "kwargs": {"config": loader}},
        },
    }
    segments = {
        "train": ["2021-01-04", "2021-02-26"],
        "valid": ["2021-03-01", "2021-09-30"],
        "test": ["2021-10-08", "2021-12-24"],
    }
    dataset = qx.DayDatasetH(handler=handler, segments=segments, step_len=1, liquidity="auto")
    scores = -dataset.prepare(slice("2021-03-01", "2021-12-24"), col_set="feature")["ROC5"]
    given = {"places": [0.1, 0.9], "levels": [-0.002, 0.002], "persistence": 0.9, "spread": 0.001}
    result = qx.evaluate(scores, dataset, strategy={"forecast": given | {"significant": True, "days": 60}})
    figures = {
        f"judge.{row}.{column}": value for row, line in result.table.iterrows() for column, value in line.items()
    }
    figures |= {f"account.{name}": value for name, value in result.account.iloc[-1].items()}
    figures |= {f"forecast.{name}": getattr(result.forecast, name) for name in ("slope", "half_life", "t")}
    fills = result.fills
    figures |= {
        f"fills.{name}": fills[name].sum() for name in ("yuan", "commission", "transfer", "stamp_duty", "impact")
    }
    figures |= {f"fills.{side}": count for side, count in fills["side"].value_counts().items()}
    assert len(fills) > 500
    compare("real", figures)
