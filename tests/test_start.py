"""The check of a task before anything is loaded: what passes, what a refused run leaves, the words in the log."""

import contextlib
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import qlib
from bad_workflow import put, written
from mlflow.tracking import MlflowClient
from qlib.data.cache import H
from qlib.data.dataset.processor import Processor

from qlib_ext.data import DayDatasetH, benchmark_returns, rehearsed
from qlib_ext.model import MLPModel
from qlib_ext.panel import DayPanel
from qlib_ext.record import context_of
from qlib_ext.recorder import check_task, check_workflow
from qlib_ext.workflow import load_workflow

DAYS = {"train": ["2020-04-07", "2020-08-03"], "valid": ["2020-08-17", "2020-09-15"], "test": ["2020-10-09", None]}


@pytest.fixture(scope="module")
def task(base, tmp_path_factory):
    """A maker of tasks of the small market, as `qlib-ext init` writes them; qlib reads that market."""
    qlib.init(provider_uri=str(base), region="cn")
    file = tmp_path_factory.mktemp("start") / "w.yaml"
    file.write_text(written(base), encoding="utf-8")
    return lambda: load_workflow(file)["task"]


def quiet(task):
    """What the check of a task warns of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_task(task)
    return [str(one.message) for one in told]


def test_what_init_writes_passes_without_a_word_and_stays_as_it_is(task):
    written, again = task(), task()
    assert quiet(written) == []
    assert written == again


def test_models_datasets_and_records_of_qlib_pass(task):
    plain = task()
    plain["model"] = {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": {"learning_rate": 0.1}}
    handler = {"class": "Alpha158", "module_path": "qlib.contrib.data.handler", "kwargs": {"instruments": "all"}}
    handler["kwargs"] |= {"label": [["Ref($close, -5)/$close - 1"], ["LABEL0"]]}
    plain["dataset"] = {"class": "DatasetH", "module_path": "qlib.data.dataset"}
    plain["dataset"]["kwargs"] = {"handler": handler, "segments": DAYS}
    plain["record"] = [*plain["record"][:2], {"class": "PortAnaRecord", "module_path": "qlib.workflow.record_temp"}]
    assert quiet(plain) == []
    plain["dataset"]["kwargs"]["handler"]["kwargs"]["instrument"] = "all"
    with pytest.raises(TypeError, match="handler: Alpha158 has no option 'instrument'"):
        check_task(plain)


def test_a_backtest_of_qlibs_is_checked_too(task):
    plain = task()
    config = {"strategy": {"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy", "kwargs": {}}}
    steps = {"time_per_step": "day", "generate_portfolio_metrics": True}
    config["executor"] = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": steps}
    config["backtest"] = {"start_time": "2016-01-04", "end_time": "2016-12-30", "account": 1e8, "benchmark": "SH000300"}
    plain["record"][2] = {"class": "PortAnaRecord", "kwargs": {"config": config}}
    with pytest.raises(ValueError, match=r"record\[2\].*2016-01-04 to 2016-12-30, the scores"):
        check_task(plain)


def test_a_class_of_ones_own_is_checked_by_its_signature(task, tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "class Mine:\n    def __init__(self, rounds=3):\n        raise RuntimeError('it is not built')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = task()
    own["model"] = {"class": "Mine", "module_path": "my_models", "kwargs": {"rounds": 5}}
    check_task(own)
    own["model"]["kwargs"] = {"round": 5}
    with pytest.raises(TypeError, match=r"task.model: Mine has no option 'round'; close: \['rounds'\]"):
        check_task(own)


def test_sections_for_anchors_pass_and_misspelt_ones_do_not(task):
    file = {"market": "csi300", "benchmark": "SH000300", "data_handler_config": {}, "port_analysis_config": {}}
    check_workflow(file | {"task": task()})
    with pytest.raises(TypeError, match="'tasks'; close"):
        check_workflow({"tasks": task()})


def test_a_rehearsal_has_the_handlers_days_and_loads_nothing(task):
    config = task()["dataset"]
    config["kwargs"]["segments"] = DAYS
    dataset, days = rehearsed(config, None)
    assert isinstance(dataset, DayDatasetH) and dataset.panel.x.shape == (len(days), 1, 0)
    assert str(dataset.panel.days[dataset.rows("test")[-1]])[:10] == str(days[-1])[:10]  # the open end is the handler's


def test_a_segment_beyond_the_end_of_its_list_is_refused(task, base, market_copy):
    codes = [line.split("\t")[0] for line in (base / "instruments" / "all.txt").read_text().splitlines()]
    own = task()
    own["dataset"]["kwargs"]["handler"]["kwargs"]["instruments"], own["record"] = "own", []
    own["dataset"]["kwargs"]["segments"] = DAYS | {"test": ["2020-10-09", "2020-12-01"]}
    qlib.init(provider_uri=str(market_copy), region="cn")
    try:
        for last, words in (("2020-12-01", None), ("2020-11-02", r"instruments: segment 'test' .* to 2020-11-02")):
            spans = [f"{code}\t2020-01-02\t{last}\n" for code in codes]
            (market_copy / "instruments" / "own.txt").write_text("".join(spans))
            H.clear()
            with pytest.raises(ValueError, match=words) if words else contextlib.nullcontext():
                check_task(own)
    finally:
        qlib.init(provider_uri=str(base), region="cn")


def test_a_benchmark_is_read_in_every_spelling_or_named(task):
    first, last = pd.Timestamp("2020-10-09"), pd.Timestamp("2020-12-01")
    assert benchmark_returns("SH000300", first, last).name == "SH000300"
    with pytest.raises(ValueError, match="'SH000905' is not in the provider from 2020-10-09"):
        benchmark_returns(["SH000300", "SH000905"], first, last)
    record = task()
    for spelling in ("sh000300", "000300.SH", None, ["SH000300"]):
        put(record, ["record", 3, "kwargs", "config", "backtest", "benchmark"], repr(spelling).replace("None", "null"))
        check_task(record)


class DropExtreme(Processor):
    """Drops rows by their label."""

    def __call__(self, df):
        return df[df["label"].iloc[:, 0].abs() < 0.05]


def test_processors_for_learning_are_told_where_a_panel_learns_nothing_of_them(task):
    config = task()["dataset"]
    config["kwargs"]["handler"]["kwargs"]["learn_processors"] = [DropExtreme()]
    dataset, _ = rehearsed(config, None)
    with pytest.warns(UserWarning, match=r"learn_processors \(DropExtreme\) have no effect"):
        MLPModel().check_dataset(dataset)


def test_few_stocks_are_warned_of_at_training(monkeypatch, caplog):
    """Three stocks on eight training days; at 30 and 20 nothing is said."""
    said = []
    monkeypatch.setattr("qlib_ext.model.folds.logger", SimpleNamespace(warning=said.append))
    for days, stocks in ((10, 3), (22, 30)):
        panel = small_panel(days, stocks)
        rows = {"train": np.arange(days - 2), "valid": np.arange(days - 2, days)}
        monkeypatch.setattr("qlib_ext.model.day_model.panel_of", lambda _dataset, p=panel, r=rows: (p, 1, r.get))
        dataset = SimpleNamespace(handler=None, segments={"train": ["2020-01-02", "2020-01-03"]})
        MLPModel(hidden=[2, 2], loss="ic", metric="ic", epochs=1, device="cpu").fit(dataset)
    assert [text.partition(":")[0] for text in said] == [
        "3 stocks on the median training day, fewer than 30",
        "8 training days, fewer than 20",
    ]


def small_panel(days, stocks):
    """A panel of noise whose stocks are all present."""
    random = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2020-01-02", periods=days), [f"SH{600000 + n}" for n in range(stocks)]],
        names=["datetime", "instrument"],
    )
    feature = pd.DataFrame({"A": random.standard_normal(len(index))}, index)
    return DayPanel.from_frame(feature, pd.Series(random.standard_normal(len(index)), index))


def cautions(**known):
    facts = dict(context_of({}, known.pop("artifacts", {}), {}, provider="x", facts=known).facts)
    return next((value.en for name, value in facts.items() if name.en == "cautions"), None)


def test_the_page_says_what_makes_its_numbers_mean_little():
    days = {"train": ("2020-01-02", "2020-01-10", 7)}
    assert cautions(daily_stocks=3.0, days=days) == (
        "3 stocks on the median training day, fewer than 30; 7 training days, fewer than 20"
    )
    report = pd.DataFrame({"turnover": [0.0, 0.0], "bench": 0.0, "return": 0.0, "cost": 0.0})
    artifacts = {"portfolio_analysis/report_normal_1day.pkl": report}
    assert cautions(artifacts=artifacts) == "the backtest traded nothing"
    assert cautions(daily_stocks=300.0) is None


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["experiment_nam"], "x", "the workflow has no option 'experiment_nam'"),
        (["task", "record", 3, "kwargs", "config", "backtest", "benchmark"], "SH000905", "'SH000905' is not in"),
    ],
)
def test_qrun_refuses_at_once_and_leaves_no_run_behind(base, tmp_path, path, value, words):
    """The first before a run begins, the second by a run that is ended as failed."""
    from ruamel.yaml import YAML

    (tmp_path / "first.yaml").write_text(written(base), encoding="utf-8")
    config = load_workflow(tmp_path / "first.yaml")
    put(config, path, value)
    with (tmp_path / "w.yaml").open("w") as file:
        YAML(typ="safe").dump(config, file)
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "qlib.cli.run", "w.yaml"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and words in done.stderr, done.stderr[-500:]
    assert "Loading data Done" not in done.stdout + done.stderr
    if (tmp_path / "mlruns.db").exists():
        client = MlflowClient(f"sqlite:///{tmp_path / 'mlruns.db'}")
        runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
        assert {run.info.status for run in runs} <= {"FAILED"}
