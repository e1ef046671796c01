"""`qlib-ext tune`: what may be searched, what a trial sees, searches that go on, and what is written of them."""

import copy
import json
import math
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from test_kills import forks  # noqa: F401
from test_workers import lives

optuna = pytest.importorskip("optuna")
import qlib  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from qlib.utils import init_instance_by_config  # noqa: E402

from qlib_ext import cli, evaluate, tune  # noqa: E402
from qlib_ext.engine import WorkerLost  # noqa: E402
from qlib_ext.leak import perturb_provider  # noqa: E402
from qlib_ext.runs import find_run  # noqa: E402
from qlib_ext.workflow import load_workflow  # noqa: E402

LR, DAYS, HIDDEN = (f"task.model.kwargs.{name}" for name in ("lr", "batch_days", "hidden"))
SPACE = {LR: {"low": 0.001, "high": 0.1, "log": True}, DAYS: {"low": 4, "high": 16}, HIDDEN: {"choices": [[8, 4], [4]]}}
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
SEGMENTS = {
    "train": ["2020-04-01", "2020-07-31"],
    "valid": ["2020-08-03", "2020-09-30"],
    "test": ["2020-10-09", "2020-12-15"],
}


def workflow(folder, market, *, model=None, segments=SEGMENTS, liquidity=None):
    """A small workflow as it is read; with liquidity a trial has an account, which takes a third of its time."""
    fields = ["$close/Ref($close, 5) - 1", "$volume/Mean($volume, 10)", "$high/$low - 1"]
    loader = {"feature": [fields, ["A", "B", "C"]], "label": [[LABEL], ["LABEL0"]]}
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {
            "instruments": "all",
            "start_time": "2020-03-02",
            "end_time": "2020-12-31",
            "infer_processors": [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}],
            "data_loader": {
                "class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": loader}
            },
        },
    }  # fmt: skip
    kwargs = {"hidden": [8, 4], "loss": "ic", "metric": "rank_ic", "epochs": 4, "device": "cpu", "lr": 0.01}
    own = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": kwargs}
    manager = {"uri": f"sqlite:///{folder}/mlruns.db", "default_exp_name": "none"}
    init = {"provider_uri": str(market), "region": "cn", "kernels": 1}
    init["exp_manager"] = {"class": "SqliteExpManager", "module_path": "qlib_ext.recorder", "kwargs": manager}
    options = {"handler": handler, "segments": segments, "step_len": 1, "liquidity": liquidity}
    data = {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": options}
    records = [
        {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
        {
            "class": "PortAnaRecord",
            "module_path": "qlib_ext.record",
            "kwargs": {"config": {"backtest": {"benchmark": None}}},
        },
    ]
    task = {"model": model or own, "dataset": data, "record": records}
    return copy.deepcopy({"experiment_name": "small", "qlib_init": init, "task": task})


def ranges(space=SPACE):
    return [tune.range_of(path, spec) for path, spec in space.items()]


def settings(place, market, study, *, trials=6, space=SPACE, prune=True, **options):
    """A search; all of a folder share its files of runs and of trials."""
    own = workflow(place, market, **options) | {"experiment_name": study}
    return tune.Settings(own, ranges(space), f"sqlite:///{place}/tune.db", study, trials, prune)


def table(of):
    """What the trials of a search came to, without what differs from run to run."""
    return tune.outcome(of).table.drop(columns="run")


COUNT, SEED = 7, 5  # of the search that nothing disturbs


def before_test(market):
    """Trading days before the test."""
    days = (market / "calendars" / "day.txt").read_text().split()
    return [day for day in days if day < SEGMENTS["test"][0]]


def quiet(line):
    """Say nothing."""


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("QLIB_EXT_LOG", "quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("searches")


@pytest.fixture(scope="module")
def calm(base, place):
    """A search that nothing disturbed, and what was said of it."""
    of, said = settings(place, base, "small", trials=COUNT, liquidity="auto"), []
    tune.search(of, seed=SEED, say=said.append)
    return of, said


# --- what may be searched


@pytest.mark.parametrize(
    ("path", "spec", "told"),
    [
        (LR, {"low": 0.1, "high": 0.01}, "low is 0.1, which is not below high, 0.01"),
        (LR, {"low": 0, "high": 1, "log": True}, "a logarithm needs numbers above 0"),
        (LR, {"low": 0.1, "hihg": 1}, r"has no option 'hihg'; close: \['high'\]"),
        (LR, {"low": 0.1}, "high is None; wanted a number"),
        (LR, {"low": "1e-4", "high": 0.1}, "low is '1e-4'; wanted a number"),
        (LR, {"low": 0.1, "high": 1.0, "log": 1}, "log is 1; allowed: true or false"),
        (LR, {"low": 0.1, "high": 1.0, "log": True, "step": 0.1}, "log and step: leave one out"),
        (DAYS, {"low": 1, "high": 8, "step": 0.5}, r"write low: 1\.0 for others"),
        (DAYS, {"low": 1, "high": 8, "step": 9}, "above 0, up to high - low = 7"),
        (HIDDEN, {"choices": [[8, 4]]}, "wanted a list of two or more"),
        (HIDDEN, {"choices": [[8, 4], [8, 4]]}, "stands twice"),
        (HIDDEN, {"choices": [1, 2], "low": 1}, "has choices and low"),
        (LR, 0.1, "is 0.1; wanted"),
        ("model.kwargs.lr", {"low": 1, "high": 2}, "no path into the workflow"),
        ("task.model.kwargs.seed", {"low": 0, "high": 9}, "the luckiest one"),
        ("task.model.kwargs.metric", {"choices": ["ic", "rank_ic"]}, "one measure of one market's days"),
        ("task.dataset.kwargs.segments.test", {"choices": [[1], [2]]}, "one measure of one market's days"),
        ("task.model.kwargs.device", {"choices": ["cpu", "cuda"]}, "it changes no number"),
        ("task.record.1.kwargs.top_n", {"low": 1, "high": 9}, "no record runs in a trial"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_cure(path, spec, told):
    with pytest.raises((ValueError, TypeError), match=told) as refused:
        tune.range_of(path, spec)
    assert path in str(refused.value)


def test_a_space_is_read_as_it_is_written(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text(f"{LR}: {{low: 1e-4, high: 0.01, log: true}}\n{DAYS}: {{low: 2, high: 8, step: 2}}\n")
    lr, days = tune.read_space(file)
    assert (lr.low, lr.high, lr.log) == (1e-4, 0.01, True)
    assert days.ends == [2, 8] and isinstance(days.low, int) and days.step == 2
    file.write_text("task.model: {choices: [1, 2]}\ntask.model.kwargs.lr: {low: 1, high: 2}\n")
    with pytest.raises(ValueError, match=r"task\.model\.kwargs\.lr stands within task\.model"):
        tune.read_space(file)
    for text in ("", "- 1", "a: [", f"{LR}: {{low: 1, high: 2}}\n{LR}: {{low: 1, high: 2}}\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="is no space"):
            tune.read_space(file)


def test_values_are_set_by_their_paths_and_nothing_else_changes():
    shared = {"lr": 1, "members": [{"a": 1}, {"a": 2}]}
    config = {"task": {"model": {"kwargs": shared}, "other": {"kwargs": shared}}}
    before = copy.deepcopy(config)
    out = tune.with_values(config, {LR: 2, "task.model.kwargs.members.1.a": 5, "task.model.kwargs.deep.er": 7})
    assert config == before and out["task"]["other"] == before["task"]["other"]  # an anchor's other place
    wanted = {"lr": 2, "members": [{"a": 1}, {"a": 5}], "deep": {"er": 7}}
    assert out["task"]["model"]["kwargs"] == wanted
    assert [tune.value_at(out, path) for path in (LR, "task.model.kwargs.members.1.a", "task.no.1")] == [2, 5, None]
    for path, told in {
        "task.modle.kwargs.lr": "close: ['model']",
        "task.model.kwargs.members.2.a": "has the elements 0 to 1",
        "task.model.kwargs.lr.a": "is 1, which has nothing below it",
    }.items():
        with pytest.raises(ValueError, match=re.escape(told)):
            tune.with_values(config, {path: 0})


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"task.model.kwargs.lrr": SPACE[LR]}, r"MLPModel has no option 'lrr'; close: \['lr'"),
        ({"task.modle.kwargs.lr": SPACE[LR]}, r"there is no 'modle' in task of the workflow; close: \['model'\]"),
        ({LR: {"low": -1.0, "high": 0.1}}, "lr is -1"),
        ({HIDDEN: {"choices": [[8, 4], "wide"]}}, "hidden"),
        ({"task.model.kwargs.loss": {"choices": ["ic", "nonsense"]}}, "unknown loss 'nonsense'"),
        ({"task.dataset.kwargs.step_len": {"low": 1, "high": 10_000}}, "step_len is 10000"),
        ({"task.model.kwargs": {"choices": [{"metric": "ic"}, {"metric": "rank_ic"}]}}, "must have in common"),
        ({"task.model": {"choices": [{"class": "LightGBMModel", "module_path": "qlib_ext.model"},
            {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"loss": "mse"}}]}}, "measured by wpcc"),
    ],
)  # fmt: skip
def test_a_space_that_does_not_fit_the_workflow_is_refused_before_anything_is_trained(space, told, base, tmp_path):
    of = settings(tmp_path, base, "none", space=space)
    with pytest.raises((ValueError, TypeError), match=told):
        tune.search(of, say=quiet)
    assert not (tmp_path / "tune.db").exists()


# --- what a trial sees


def test_a_trial_sees_no_test_day(base, tmp_path):
    qlib.init(provider_uri=str(base), region="cn")
    task = workflow(tmp_path, base)["task"]
    seen = tune.blinded(task)
    options = seen["dataset"]["kwargs"]
    assert "record" not in seen and set(options["segments"]) == {"train", "valid"}
    last = before_test(base)[-3]  # its label ends two days later
    assert last < SEGMENTS["valid"][1]
    assert options["segments"] == {"train": SEGMENTS["train"], "valid": ["2020-08-03", last]}
    assert options["handler"]["kwargs"]["end_time"] == last
    assert set(task) == {"model", "dataset", "record"} and "test" in task["dataset"]["kwargs"]["segments"]


def test_a_walk_forward_is_searched_on_its_first_block(base, tmp_path):
    qlib.init(provider_uri=str(base), region="cn")
    own = workflow(tmp_path, base)["task"]["model"]
    walk = {
        "class": "WalkForwardModel",
        "module_path": "qlib_ext.model",
        "kwargs": {"model": own, "step": 20, "seeds": [1, 2]},
    }
    seen = tune.blinded(workflow(tmp_path, base, model=walk)["task"])["model"]
    assert seen["class"] == "FoldEnsemble"
    assert seen["kwargs"] == {"model": own, "seeds": [1, 2], "n_splits": 1}
    of = workflow(tmp_path, base, model=walk)
    with pytest.raises(ValueError, match="which it does not change"):
        tune.check_ranges(of, ranges({"task.model.kwargs.step": {"low": 5, "high": 20}}))
    tune.check_ranges(of, ranges({"task.model.kwargs.model.kwargs.lr": SPACE[LR]}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": {"kwargs": {"handler": "file:///there.pkl"}}}, "what a file holds cannot be kept from a trial"),
        ({"dataset": {"kwargs": {"segments": {"valid": SEGMENTS["valid"]}}}}, "no segment train"),
        ({"dataset": {"kwargs": {"segments": {**SEGMENTS, "test": ["2020-03-02", "2020-03-31"]}}}}, "begins before"),
    ],
)
def test_what_would_show_test_days_is_refused(change, told, base, tmp_path):
    qlib.init(provider_uri=str(base), region="cn")
    task = workflow(tmp_path, base)["task"]
    task["dataset"]["kwargs"] |= change["dataset"]["kwargs"]
    with pytest.raises(ValueError, match=told):
        tune.blinded(task)


def test_the_future_changes_no_trial(calm, base, place, tmp_path):
    of, _ = calm
    perturb_provider(base, tmp_path / "later", before_test(base)[-1])
    other = settings(place, tmp_path / "later", "later", trials=6)
    tune.search(other, seed=SEED, say=quiet)
    assert "ended early" in set(table(other)["state"])
    pd.testing.assert_frame_equal(table(of).head(6), table(other))
    perturb_provider(
        base, tmp_path / "sooner", before_test(base)[-6]
    )  # the same question where the answer must be another
    other = settings(place, tmp_path / "sooner", "sooner", trials=1)
    tune.search(other, seed=SEED, say=quiet)
    assert table(other)["value"][0] != table(of)["value"][0]


# --- a search


def test_trials_are_within_the_space_pruned_ones_among_them(calm):
    of, said = calm
    found = tune.outcome(of)
    rows = found.table
    assert rows["trial"].tolist() == [*range(1, COUNT + 1)] and len(said) == COUNT
    assert rows[LR].between(0.001, 0.1).all() and rows[DAYS].between(4, 16).all()
    assert {type(value) for value in rows[DAYS]} == {int} and all(value in ([8, 4], [4]) for value in rows[HIDDEN])
    assert set(rows["state"]) == {"trained", "ended early"} and (rows["state"][:5] == "trained").all()
    assert (
        rows["value"].notna().tolist() == (rows["state"] == "trained").tolist() and (rows["error"].dropna() > 0).all()
    )
    assert found.best["value"] == rows["value"].max() and found.metric == "rank_ic"
    assert f"rank_ic {found.best['value']:.4f}" in "".join(said)


def test_each_trial_is_a_run_that_latest_passes_over(calm):
    of, _ = calm
    uri = of.workflow["qlib_init"]["exp_manager"]["kwargs"]["uri"]
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small.tune")
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    rows = tune.outcome(of).table
    assert set(rows["run"]) == set(runs) and {run.info.status for run in runs.values()} == {"FINISHED"}
    for row in rows.to_dict("records"):
        tags = runs[row["run"]].data.tags
        assert (tags["trial"], tags["state"], tags["study"]) == (str(row["trial"]), row["state"], "small")
        assert json.loads(tags["parameters"]) == {path: row[path] for path in SPACE}
        if row["state"] == "trained":
            assert float(tags["value"]) == row["value"]
    with pytest.raises(ValueError, match="no finished run 'latest'"):  # other searches' are there too
        find_run("latest", uri=uri)
    assert find_run("small.tune", uri=uri).experiment == "small.tune"


def test_the_value_is_that_of_the_model_trained_alone(calm, base):
    of, _ = calm
    row = tune.outcome(of).best
    qlib.init(provider_uri=str(base), region="cn")
    task = tune.with_values(of.workflow, {path: row[path] for path in SPACE})["task"]
    dataset, model = (init_instance_by_config(task[name]) for name in ("dataset", "model"))
    model.fit(dataset)  # with the test days at hand, as qrun does
    assert model.history.best_value == row["value"]


def test_a_search_goes_on_where_it_was_left(calm, base, place):
    of, _ = calm
    for trials, seed in ((2, SEED), (2, SEED), (4, None)):
        part = settings(place, base, "parts", trials=trials)
        tune.search(part, seed=seed, say=quiet)
        assert len(table(part)) == trials
    pd.testing.assert_frame_equal(table(of).head(4), table(part))


def test_another_search_under_the_same_name_is_refused_and_the_difference_named(calm, base, place):
    of, _ = calm
    changed = settings(place, base, "small", liquidity="auto")
    changed.workflow["task"]["model"]["kwargs"]["epochs"] = 5
    space = {**SPACE, DAYS: {"low": 4, "high": 8}}
    other = [
        (changed, {}, r"task\.model\.kwargs\.epochs: 4 there, 5 here"),
        (settings(place, base, "small", space=space, liquidity="auto"), {}, r"batch_days\.high: 16 there, 8 here"),
        (settings(place, base, "small", prune=False, liquidity="auto"), {}, "prune: True there, False here"),
        (settings(place, base, "small", liquidity="auto"), {"seed": 4}, "seed: 5 there, 4 here"),
    ]
    for another, options, told in other:
        with pytest.raises(ValueError, match=told):
            tune.search(another, say=quiet, **options)
    with tune.held(of.storage, "small"), pytest.raises(ValueError, match="is being searched by another process"):
        tune.search(of, say=quiet)
    changed.workflow["task"]["model"]["kwargs"] |= {"epochs": 4, "lr": 0.02}  # a value that is searched
    tune.search(changed, say=quiet)


def test_other_data_under_the_same_name_are_refused(base, place, tmp_path):
    market = tmp_path / "market"
    market.symlink_to(base)
    for trials in (1, 2):
        tune.search(settings(place, market, "data", trials=trials), say=quiet)
    perturb_provider(base, tmp_path / "other", "2020-06-30")
    market.unlink()
    market.symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="hold other data than when the search was begun"):
        tune.search(settings(place, market, "data", trials=3), say=quiet)


def test_a_trial_that_comes_to_nothing_counts_and_the_search_goes_on(base, place):
    of = settings(place, base, "some", trials=4, space={LR: {"choices": [0.01, 1e30]}})
    tune.search(of, seed=1, say=quiet)
    rows = table(of)
    assert set(rows["state"][rows[LR] > 1]) == {"failed"} and rows["why"][rows[LR] > 1].str.contains("finite|nan").all()
    assert len(rows) == 4 and (rows["state"] == "trained").any()
    runs = MlflowClient(f"sqlite:///{place}/mlruns.db")
    status = {row["state"]: runs.get_run(row["run"]).info.status for row in tune.outcome(of).table.to_dict("records")}
    assert status == {"failed": "FAILED", "trained": "FINISHED"}
    never = settings(place, base, "never", space={LR: {"low": 1e30, "high": 2e30}})
    with pytest.raises(ValueError, match="the first 3 trials have failed, the last one by "):
        tune.search(never, say=quiet)
    with pytest.raises(ValueError, match="no trial was trained to its end"):
        tune.outcome(never).lines()


def test_folds_are_searched_by_the_mean_over_their_blocks(base, place):
    own = workflow(place, base)["task"]["model"]
    options = {"model": own, "n_splits": 3, "seeds": [0, 1]}
    folds = {"class": "FoldEnsemble", "module_path": "qlib_ext.model", "kwargs": options}
    of = settings(place, base, "folds", model=folds, space={"task.model.kwargs.model.kwargs.lr": SPACE[LR]}, trials=1)
    tune.search(of, say=quiet)
    row = tune.outcome(of).best
    members = pd.read_pickle(find_run(row["run"], uri=f"sqlite:///{place}/mlruns.db").folder / "folds/members.pkl")
    by_fold = members.groupby("fold")["best_value"].mean()
    assert row["value"] == pytest.approx(by_fold.mean(), rel=1e-12)
    (trial,) = tune.Trials(of.storage, "folds", of.ranges, 1).study.trials
    assert trial.intermediate_values == pytest.approx({1: by_fold[0], 2: by_fold[:2].mean()})


# --- killed


@pytest.fixture(scope="module")
def command(base, place, forks):  # noqa: F811
    """What begins a search in a process of its own, of the space and market of the calm one."""
    (place / "space.yaml").write_text(yaml.safe_dump(SPACE))  # in another order: it must not matter

    def begin(study, *words, trials=COUNT):
        file = place / f"{study}.yaml"
        file.write_text(yaml.safe_dump(workflow(place, base) | {"experiment_name": study}))
        line = ["tune", str(file), str(place / "space.yaml"), "--trials", str(trials), "--seed", str(SEED), *words]
        return forks.begin(line, place / study)

    return begin


def said(folder):
    """Trials that were ended."""
    log = folder / "log"
    return len(re.findall(r"^trial \d+ of", log.read_text(), re.MULTILINE)) if log.exists() else 0


def kill_twice(command, forks, folder, trials, dice):  # noqa: F811
    """Kill a search in its first and in its second half, at any moment, then let it end."""
    for least in (trials // 4, trials // 2):
        pid = command(folder.name, trials=trials)
        before = said(folder)
        while said(folder) < max(least, before + 1):
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.4))
        os.kill(pid, signal.SIGKILL)
        assert forks.status() == -signal.SIGKILL
    command(folder.name, trials=trials)
    assert forks.status() == 0, (folder / "log").read_text()[-2000:]
    study = optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/tune.db")
    states = [trial.state.name for trial in study.trials]
    assert states.count("FAIL") <= 2 and set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
    assert len(states) - states.count("FAIL") == trials


def found(place, base, study, trials):
    own = settings(place, base, study, trials=trials)
    return table(tune.Settings(own.workflow, own.ranges, f"sqlite:///{place / study}/tune.db", study, trials))


def test_a_search_that_is_killed_twice_has_the_trials_of_one_that_was_not(calm, base, place, command, forks):  # noqa: F811
    of, _ = calm
    kill_twice(command, forks, place / "killed", COUNT, random.Random(0))
    pd.testing.assert_frame_equal(found(place, base, "killed", COUNT), table(of))
    tuned = load_workflow(place / "killed" / "tuned.yaml")
    best = tune.outcome(of).best
    assert {path: tune.value_at(tuned, path) for path in SPACE} == {path: best[path] for path in SPACE}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_search_of_forty_trials_that_is_killed_twice_ends_with_forty(base, place, command, forks, seed):  # noqa: F811
    command("forty", trials=40)
    assert forks.status() == 0
    kill_twice(command, forks, place / f"forty{seed}", 40, random.Random(seed))
    pd.testing.assert_frame_equal(found(place, base, f"forty{seed}", 40), found(place, base, "forty", 40))


@pytest.mark.slow
def test_several_processes_do_as_many_trials_whoever_of_them_is_killed(base, place, command, forks):  # noqa: F811
    folder = place / "several"
    pid = command("several", "--jobs", "2", trials=12)
    while said(folder) < 2:
        time.sleep(0.05)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    workers = [each for each in children if "spawn_main" in Path(f"/proc/{each}/cmdline").read_text()]
    os.kill(int(workers[0]), signal.SIGKILL)
    while said(folder) < 6:
        time.sleep(0.05)
    assert "a process was killed, mostly for lack of memory" in (folder / "log").read_text()
    os.kill(pid, signal.SIGKILL)
    assert forks.status() == -signal.SIGKILL
    time.sleep(2.0)
    assert not any(lives(each) for each in workers)
    command("several", "--jobs", "3", trials=12)
    assert forks.status() == 0, (folder / "log").read_text()[-2000:]
    rows = found(place, base, "several", 12)
    assert len(rows) == 12 and rows["trial"].tolist() == [*range(1, 13)]
    assert not rows[[LR, DAYS]].duplicated().any()


def test_processes_that_die_before_they_end_a_trial_are_not_begun_for_ever(calm, base, place, monkeypatch):
    begun, told = [], []

    def die(*of):
        begun.append(of)
        raise WorkerLost("it was killed")

    monkeypatch.setattr(sys.modules[tune.search.__module__], "_run_elsewhere", die)
    with pytest.raises(ValueError, match="3 times a process was killed before .*: give fewer --jobs"):
        tune.search(settings(place, base, "dies", trials=2), jobs=2, say=told.append)
    assert len(begun) == 3 and len(told) == 2


def test_a_worker_keeps_its_data_for_one_search(base, place, monkeypatch):
    module, seen = sys.modules[tune.search.__module__], []
    monkeypatch.setattr(module._Worker, "call", "")
    monkeypatch.setattr(module._Worker, "market", None)
    monkeypatch.setattr(module, "_start", lambda settings, again=True: None)
    monkeypatch.setattr(module, "_do_trials", lambda settings, name, market, say, most: seen.append(market))
    of = settings(place, base, "keeps", trials=2)
    for call in ("one", "one", "two"):
        module._do_elsewhere(None, (of, call, f"{call}.0", str(Path.cwd())))
    assert seen[0] is seen[1] and seen[2] is not seen[1]


# --- what is written


def test_the_file_of_trials_deflates_the_account_of_the_tuned_workflow(calm, tmp_path):
    of, _ = calm
    file, out = tmp_path / "w.yaml", tmp_path / "best.yaml"
    text = yaml.safe_dump(of.workflow, sort_keys=False).replace("task:\n", "# the task\ntask:  # of it\n")
    file.write_text(text.replace("lr: 0.01", "lr: 0.01  # Adam's"))
    lines = tune.write_outcome(of, file, out)
    best = tune.outcome(of).best
    tuned = load_workflow(out)
    assert "# Adam's" in out.read_text() and "# of it" in out.read_text() and out.read_text().startswith("# Trial ")
    trials = tuned["task"]["record"][1]["kwargs"].pop("trials")
    assert tuned == tune.with_values(of.workflow, {path: best[path] for path in SPACE})
    rows = evaluate.read_trials(trials)
    assert rows["name"].tolist() == [f"small.{n}" for n in range(1, COUNT + 1)]
    assert f"{len(rows)} trials" in lines[0]
    last = pd.Timestamp(before_test(Path(of.workflow["qlib_init"]["provider_uri"]))[-3])
    assert all(day[-1] == last and day[0] == pd.Timestamp("2020-08-03") for day in rows["day"])
    found = evaluate.deflated_sharpe(np.array(rows["excess"][0]), rows, year=242)
    assert found["trials"] == COUNT and math.isfinite(found["probability"])


def test_earlier_trials_stay_in_the_file(calm, tmp_path):
    of, _ = calm
    days = pd.bdate_range("2020-08-03", periods=9)
    old = evaluate.trial_row("by hand", {}, pd.Series(np.linspace(-0.01, 0.02, 9), days))
    evaluate.write_trials(tmp_path / "old.parquet", [old])
    of.workflow["task"]["record"][1]["kwargs"]["trials"] = str(tmp_path / "old.parquet")
    try:
        file = tmp_path / "w.yaml"
        file.write_text(yaml.safe_dump(of.workflow))
        tune.write_outcome(of, file, tmp_path / "new.yaml")
    finally:
        del of.workflow["task"]["record"][1]["kwargs"]["trials"]
    rows = evaluate.read_trials(tmp_path / "new.trials.parquet")
    assert rows["name"].tolist() == ["by hand", *(f"small.{n}" for n in range(1, COUNT + 1))]


def test_a_part_that_stands_in_two_places_is_written_apart(tmp_path):
    file = tmp_path / "w.yaml"
    file.write_text("qlib_init: {region: cn}\ntask:\n  model: {kwargs: &k {lr: 1}}\n  dataset: {kwargs: *k}\n")
    config = load_workflow(file)
    text = tune.workflow_text(file, config, {LR: 2})
    assert yaml.safe_load(text)["task"] == {"model": {"kwargs": {"lr": 2}}, "dataset": {"kwargs": {"lr": 1}}}


def test_chance_explains_the_best_of_equals():
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(300):
        values = rng.normal(0.03, 0.01, 20)
        rows = pd.DataFrame({"trial": range(1, 21), "state": "trained", "value": values, "error": 0.01})
        gaps.append(tune.Outcome(rows, "rank_ic", 20).by_chance() - values.max())
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / math.sqrt(300) + 0.0005  # the formula is one for large numbers


def test_without_optuna_the_cure_is_told(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("qlib_ext.cli.tune.find_spec", lambda name: None)
    assert cli.main(["tune", str(tmp_path / "w.yaml"), str(tmp_path / "s.yaml")]) == 2
    assert "pip install 'qlib_ext[tune]'" in capsys.readouterr().err
