"""Members, tasks and shared data on Ray: the bits of one process, a lost worker, a list that goes on."""

import os
import pickle
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import qlib
import test_ensemble
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from qlib.model.trainer import TrainerR
from qlib.workflow import R
from qlib.workflow.task.gen import RollingGen
from test_ensemble import QUICK, config, make_dataset
from test_workers import until

from qlib_ext.engine import Ray, engine_of, packed, unpacked
from qlib_ext.model import FoldEnsemble, RayTrainer, WalkForwardModel
from qlib_ext.runs import list_runs

ray = pytest.importorskip("ray")
ray_trainer = sys.modules[RayTrainer.__module__]
HERE = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def workers():
    """A Ray of this machine with two workers, for all tests of the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # theirs is 15: starved where others work
        ended_by = signal.getsignal(signal.SIGTERM)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
        signal.signal(signal.SIGTERM, ended_by)
        yield ray
        ray.shutdown()


# --- options


@pytest.mark.parametrize(
    ("option", "error", "words"),
    [
        ("dask", ValueError, "unknown engine 'dask'. Allowed: process, ray, or {ray: "),
        ({"rey": {}}, TypeError, "engine has no option 'rey'"),
        ({"ray": 3}, ValueError, "engine: ray is 3; wanted are its options, such as "),
        ({"ray": {"adress": "auto"}}, TypeError, "Ray has no option 'adress'; close: .*address"),
        ({"ray": {"gpus": -1}}, ValueError, "Ray: gpus is -1; allowed: "),
        ({"ray": {"cpus": 0}}, ValueError, "Ray: cpus is 0; allowed: "),
        ({"ray": {"address": 6379}}, ValueError, "Ray: address is 6379; write auto or host:port"),
    ],
)
def test_what_is_no_engine_is_an_error_before_anything_is_loaded(option, error, words):
    with pytest.raises(error, match=words):
        FoldEnsemble(model=config(), engine=option)


def test_options_of_no_function_are_refused():
    with pytest.raises(TypeError, match="rounds would be for a train_func, of which there is none"):
        RayTrainer("none").train([{}], rounds=3)


def test_a_ray_that_is_not_there_is_told_with_the_cure(monkeypatch, dataset):
    with pytest.raises(ConnectionError, match=r"no Ray at '127.0.0.1:9' \(.*\): start one \(`ray start --head`\)"):
        list(Ray(address="127.0.0.1:9").run(where, [(None, 1)]))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"the engine ray needs Ray: pip install 'qlib_ext\[ray\]'"):
        FoldEnsemble(model=config(), engine="ray").fit(dataset)


def test_on_a_cluster_processes_are_its_own_affair():
    assert str(engine_of("ray", 3)) == "Ray(workers=3)" and engine_of("ray").workers is None
    assert engine_of({"ray": {"workers": 2}}, 3).workers == 2


# --- what is shared


def test_what_is_packed_is_the_same_and_lies_where_it_lay():
    panel = test_ensemble.make_panel()
    head, arrays = packed(panel)
    again = unpacked((head, arrays))
    assert len(head) < 20_000 and again.x.data_ptr() == panel.x.data_ptr()
    assert torch.equal(again.x, panel.x) and torch.equal(again.present, panel.present)
    assert (again.stocks == panel.stocks).all() and again.label.isnan().equal(panel.label.isnan())
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, pd.Index(["x", "y"]))
    learnt = torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.bfloat16), torch.eye(3).to_sparse()
    for value in (frame, *learnt):
        other = unpacked(packed(value))
        assert str(other) == str(value)
    assert unpacked(packed(learnt[0])).requires_grad
    tensor = torch.arange(12.0).reshape(3, 4).T
    assert torch.equal(unpacked(packed(tensor)), tensor)


def where(shared, job):
    """Where a worker finds the shared array: its address within the object store's file, and whether it may write."""
    address = shared["x"].data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, _, *name = line.split()
        first, last = (int(part, 16) for part in span.split("-"))
        if first <= address < last:
            return " ".join(name), int(offset, 16) + address - first, os.getpid(), float(shared["x"].sum())
    return None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at memory in /proc")
def test_workers_read_the_one_copy_of_the_object_store(workers):
    shared = {"x": torch.ones(2**21)}
    found = [what for _, what in Ray().run(where, [(shared, n) for n in range(6)])]
    assert {what[:2] for what in found} == {found[0][:2]} and "plasma" in found[0][0]  # one place in one file
    assert {what[3] for what in found} == {2.0**21}


# --- members


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


def test_members_on_ray_are_those_of_one_process(workers, dataset):
    options = {"model": config(dropout=0.1), "n_splits": 5, "seeds": [0, 3, 7]}
    alone, there = FoldEnsemble(**options), FoldEnsemble(**options, engine="ray")
    alone.fit(dataset)
    there.fit(dataset)
    assert workers.is_initialized()  # it was not ours to end
    pd.testing.assert_series_equal(there.oof, alone.oof, rtol=0, atol=0)
    pd.testing.assert_series_equal(there.predict(dataset), alone.predict(dataset), rtol=0, atol=0)
    pd.testing.assert_frame_equal(there.members, alone.members, rtol=0, atol=0)
    pd.testing.assert_frame_equal(there.curves, alone.curves, rtol=0, atol=0)
    other = pickle.loads(pickle.dumps(there))
    assert other.engine == "ray" and (other.predict(dataset) == there.predict(dataset)).all()


def test_a_walk_with_warm_starts_is_the_same_on_ray(workers, dataset):
    options = {"model": config(), "step": 15, "seeds": [0, 1], "warm_start": True}
    alone, there = WalkForwardModel(**options), WalkForwardModel(**options, engine={"ray": {"cpus": 1}})
    for model in (alone, there):
        model.fit(dataset)
    pd.testing.assert_series_equal(there.predict(dataset), alone.predict(dataset), rtol=0, atol=0)


def doomed_work(folder, shared, job):
    """Work that kills its worker where the file `job` is there."""
    Path(folder, f"{job}.{time.monotonic_ns()}").touch()
    if Path(folder, f"doomed{job}").exists():
        if not Path(folder, "always").exists():
            Path(folder, f"doomed{job}").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if Path(folder, f"wrong{job}").exists():
        raise ValueError(f"job {job} cannot be")
    return job * 10


def works(folder):
    return partial(doomed_work, str(folder))


def test_a_killed_worker_costs_its_job_and_nothing_else(workers, tmp_path):
    (tmp_path / "doomed2").touch()
    done = dict(Ray().run(works(tmp_path), [(None, n) for n in range(5)]))
    assert done == {n: 10 * n for n in range(5)}
    began = [path.name.split(".")[0] for path in tmp_path.iterdir()]
    assert sorted(began) == ["0", "1", "2", "2", "3", "4"]


def test_errors_are_those_of_the_job_and_a_worker_lost_too_often_is_told(workers, tmp_path):
    (tmp_path / "wrong1").touch()
    with pytest.raises(ValueError, match="^job 1 cannot be$"):
        dict(Ray().run(works(tmp_path), [(None, n) for n in range(3)]))
    kept = dict(Ray().run(works(tmp_path), [(None, n) for n in range(3)], keep=True))
    assert isinstance(kept.pop(1), ValueError) and kept == {0: 0, 2: 20}
    for name in ("doomed0", "always"):
        (tmp_path / name).touch()
    with pytest.raises(RuntimeError, match=r"lost more often than `retries` allows \(1\).*: give each task more"):
        dict(Ray(retries=1).run(works(tmp_path), [(None, 0)]))


class Odd(Exception):
    """An error that pickle cannot make again."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class Notebooks:
    """A class of the main program, which no worker can import."""

    size = 7


Notebooks.__module__ = "__main__"


def awkward(folder, shared, job):
    """Work that does what workers stumble over."""
    if job == "odd":
        raise Odd(3, "of its own")
    if job == "busy" and not Path(folder, "busy").exists():
        Path(folder, "busy").touch()
        raise ConnectionError("the database is busy")
    if job == "writes":
        shared["x"].mul_(2)
    return shared.size if job == "size" else job


def test_what_workers_stumble_over_is_told(workers, tmp_path):
    work, shared = partial(awkward, str(tmp_path)), {"x": torch.ones(1000)}
    with pytest.raises(RuntimeError, match=r"^Odd: 3: of its own$"):  # not: a worker was lost
        dict(Ray().run(work, [(None, "odd")]))
    with pytest.raises(ValueError, match="a tensor that jobs share was written in place"):
        dict(Ray().run(work, [(shared, "writes")]))
    with pytest.raises(ConnectionError, match="^the database is busy$"):
        dict(Ray().run(work, [(None, "busy")]))
    (tmp_path / "busy").unlink()
    assert dict(Ray().run(work, [(None, "busy")], again=ray_trainer.passing)) == {0: "busy"}
    assert dict(Ray().run(work, [(Notebooks(), "size")])) == {0: 7}


def test_what_no_node_can_hold_is_told_not_waited_for(workers):
    with pytest.raises(ValueError, match="takes cpus: 1 and gpus: 1 of one node, but Ray has nodes of 2 processors"):
        Ray(gpus=1)._check_place(workers, own=True)
    with pytest.warns(UserWarning, match="takes cpus: 3 and .*: it waits until a larger one comes"):
        Ray(cpus=3)._check_place(workers, own=False)
    with pytest.warns(UserWarning, match=r"address '10\.0\.0\.1:6379' has no effect"):
        assert dict(Ray(address="10.0.0.1:6379").run(works("/"), [(None, 1)])) == {0: 10}


def test_errors_that_may_pass_are_told_from_others():
    for error in (ConnectionError(), MemoryError(), OSError(116, "stale file handle")):
        assert ray_trainer.passing(error)
        wrapped = MlflowException("API request failed")
        wrapped.__context__ = error
        assert ray_trainer.passing(wrapped)
    assert ray_trainer.passing(MlflowException("locked", error_code=TEMPORARILY_UNAVAILABLE))
    for error in (FileNotFoundError(), ValueError(), MlflowException("no such run")):
        assert not ray_trainer.passing(error)


# --- tasks


HANDLER = {"instruments": "all", "start_time": "2020-01-02", "end_time": "2020-10-30"}
HANDLER |= {"fit_start_time": "2020-02-03", "fit_end_time": "2020-05-29"}  # else those of each window's train
SEGMENTS = {
    "train": ("2020-02-03", "2020-05-29"),
    "valid": ("2020-06-08", "2020-07-03"),
    "test": ("2020-07-13", "2020-10-16"),
}
RECORDS = [
    {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp", "kwargs": {}},
    {"class": "LiquidityRecord", "module_path": "qlib_ext.record", "kwargs": {"capital": 1e6, "top_n": 5}},
]


def rolling(**options):
    """Tasks of RollingGen on four successive windows of a market."""
    handler = {"class": "FastAlpha158", "module_path": "qlib_ext.handler", "kwargs": HANDLER}
    dataset = {"handler": handler, "segments": SEGMENTS, "step_len": 1, "listing_age": 0}
    task = {
        "model": {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": QUICK | {"dropout": 0.1} | options},
        "dataset": {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": dataset},
        "record": RECORDS,
    }
    return RollingGen(step=20, rtype=RollingGen.ROLL_SD).generate(task)


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """Runs of the list by qlib's own trainer, and the file that all runs of the tests go to."""
    folder = tmp_path_factory.mktemp("runs")
    uri = f"sqlite:///{folder / 'mlruns.db'}"
    kwargs = {"uri": uri, "default_exp_name": "none"}
    manager = {"class": "SqliteExpManager", "module_path": "qlib_ext.recorder", "kwargs": kwargs}
    qlib.init(provider_uri=str(base), region="cn", exp_manager=manager)
    return uri, TrainerR("alone")(rolling())


def told(run):
    """What a run has found: scores, metrics of its records."""
    metrics = {name: value for name, value in run.list_metrics().items() if np.isfinite(value)}
    return run.load_object("pred.pkl"), metrics


def test_tasks_on_ray_are_those_of_qlibs_trainer(workers, runs, monkeypatch):
    loads = []
    trainer = RayTrainer("there")
    run_all = Ray.run

    def spy(self, work, jobs, **options):
        return run_all(self, work, ((loads.append(shared), (shared, job))[1] for shared, job in jobs), **options)

    monkeypatch.setattr(Ray, "run", spy)
    there = trainer(rolling())
    assert loads[0] is not None and loads == [loads[0]] * 3 + [None]  # one for three windows; the last is open: its own
    for own, other in zip(runs[1], there, strict=True):
        (score, metrics), (score_there, metrics_there) = told(own), told(other)
        pd.testing.assert_frame_equal(score_there, score, rtol=0, atol=0)
        assert metrics_there == metrics and len(metrics) > 20
        assert other.load_object("task") == own.load_object("task")
        assert other.status == "FINISHED" and other.list_tags()["train_status"] == "end_task_train"
    assert len(pickle.dumps(there[0].load_object("dataset"))) < 10**5  # without the data
    found = list_runs(uri=runs[0], experiment="there")
    assert len(found) == 4


def test_a_list_goes_on_until_it_is_closed(workers, runs, caplog):
    tasks = rolling(epochs=1)
    wrong = [
        *tasks[:2],
        tasks[2] | {"model": {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"lr": -1}}},
    ]
    trainer = RayTrainer("goes on")
    with pytest.raises(ValueError, match=r"lr is -1(.|\n)*") as raised:
        trainer.train(wrong)
    assert raised.value.__notes__ == ["task 2 (from 0) of 3; 1 failed, 2 are finished"]
    first = {run.id for run in R.get_exp(experiment_name="goes on").list_recorders(rtype="list", status="FINISHED")}
    with pytest.raises(ValueError, match="lr is -1"):
        trainer.train(wrong)
    again = trainer.train(tasks[:2])  # another list
    assert len(first) == 2 and not first & {run.id for run in again}
    once_more = trainer.train(tasks[:2])
    assert [run.id for run in once_more] == [run.id for run in again]
    trainer.end_train(once_more)
    assert not {run.id for run in trainer.train(tasks[:2])} & {run.id for run in again}


def with_spells(task, last):
    """A task whose dataset has spells of special treatment, a frame of more rows than repr shows."""
    codes = [f"SH{600000 + n}" for n in range(99)]
    st = pd.DataFrame({"code": codes, "start": "2020-01-02", "end": "2020-02-03"})
    st.loc[50, "end"] = last
    return task | {"dataset": task["dataset"] | {"kwargs": task["dataset"]["kwargs"] | {"st": st}}}


def test_frames_that_differ_where_repr_does_not_look_are_two_datasets(runs):
    task, other = with_spells(rolling()[0], "2020-03-02"), with_spells(rolling()[1], "2020-03-03")
    assert repr(task["dataset"]["kwargs"]["st"]) == repr(other["dataset"]["kwargs"]["st"])
    groups = ray_trainer._groups([(0, task), (1, with_spells(rolling()[1], "2020-03-02")), (2, other)])
    assert [[place for place, _ in group] for group in groups] == [[0, 1], [2]]
    assert ray_trainer.list_digest([task]) != ray_trainer.list_digest([with_spells(rolling()[0], "2020-03-03")])


def test_what_cannot_go_to_a_worker_is_refused_before_anything_is_trained(runs):
    task = rolling()[0]
    dataset = qlib.utils.init_instance_by_config(task["dataset"])
    kwargs = task["dataset"]["kwargs"] | {"handler": dataset.handler}
    for wrong, name in (dataset, "DayDatasetH"), (task["dataset"] | {"kwargs": kwargs}, "FastAlpha158"):
        with pytest.raises(ValueError, match=f"task 1: its {name} is an object, .*: give its configuration"):
            RayTrainer("objects").train([task, task | {"dataset": wrong}])


def test_what_tasks_share_and_cannot_be_loaded_is_their_error_alone(workers, runs):
    tasks = rolling(epochs=1)
    wrong = [
        task | {"dataset": task["dataset"] | {"kwargs": task["dataset"]["kwargs"] | {"liquidity_window": 0}}}
        for task in tasks[:2]
    ]
    with pytest.raises(ValueError, match="liquidity_window is 0") as raised:
        RayTrainer("partly").train([*wrong, tasks[2]])
    assert raised.value.__notes__ == ["task 0 (from 0) of 3; 2 failed, 1 are finished"]


def test_no_run_stays_running_where_the_driver_is_stopped(runs, monkeypatch):
    tasks, begun = rolling(), []

    def stop(self, work, jobs, **options):
        experiment = R.get_exp(experiment_name="stopped")
        tags = {ray_trainer.LIST: ray_trainer.list_digest(tasks)}
        begun.append(MlflowClient(runs[0]).create_run(experiment.id, tags=tags))
        raise KeyboardInterrupt

    monkeypatch.setattr(Ray, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        RayTrainer("stopped").train(tasks)
    found = R.get_exp(experiment_name="stopped").list_recorders(rtype="list")
    assert [run.status for run in found if run.id == begun[0].info.run_id] == ["KILLED"]


def test_a_second_driver_of_a_list_waits_and_takes_over_what_the_first_has_finished(runs, capsys):
    tasks, found, err = rolling()[:1], [], []
    experiment, digest = R.get_exp(experiment_name="twice"), ray_trainer.list_digest(tasks)
    second = threading.Thread(target=lambda: found.extend(RayTrainer("twice").train(tasks)))

    def waits():
        err.append(capsys.readouterr().err)
        return "another process is writing" in "".join(err)

    with ray_trainer._held(experiment, digest):
        second.start()
        assert until(waits, 60)
        client = MlflowClient(runs[0])
        first = client.create_run(experiment.id, tags={ray_trainer.LIST: digest, ray_trainer.PLACE: "0"}).info.run_id
        client.set_terminated(first, "FINISHED")
    second.join(60)
    assert [run.id for run in found] == [first]


def uri_there(shared, config):
    """Where a worker of this qlib keeps its runs."""
    ray_trainer._register(config)
    return R.get_uri()


def test_a_worker_that_outlives_a_list_takes_the_next_ones_qlib(workers, runs, tmp_path):
    configs = []
    for name in ("one", "two"):
        config = ray_trainer._config(Ray())
        config["exp_manager"]["kwargs"]["uri"] = f"sqlite:///{tmp_path / name}.db"
        configs += [config]
    jobs = [(None, configs[n % 2]) for n in range(6)]
    found = dict(Ray().run(uri_there, jobs))
    assert [found[n] for n in range(6)] == [jobs[n][1]["exp_manager"]["kwargs"]["uri"] for n in range(6)]


# --- a search


@pytest.mark.parametrize("over_data", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_trials_on_ray_are_those_of_one_process(workers, base, tmp_path, over_data):
    """The first trials are drawn whatever the others came to; where the data are not searched they are loaded once."""
    test_tune = pytest.importorskip("test_tune")
    space = {test_tune.LR: test_tune.SPACE[test_tune.LR]}
    if over_data:
        space["task.dataset.kwargs.step_len"] = {"choices": [1, 2]}
    lines, options = [], {"trials": 4, "space": space, "prune": False}
    for name, ray_there in (("alone", None), ("there", "local")):
        own = test_tune.settings(tmp_path, base, name, **options)
        test_tune.tune.search(own, seed=1, jobs=2 if ray_there else 1, ray=ray_there, say=lines.append)
    alone, there = (
        test_tune.table(test_tune.settings(tmp_path, base, name, **options)).set_index("trial").sort_index()
        for name in ("alone", "there")
    )
    pd.testing.assert_frame_equal(there, alone, rtol=0, atol=0)
    assert len(there) == 4 and len(lines) == 8
    runs = list_runs(uri=f"sqlite:///{tmp_path}/mlruns.db", experiment="there.tune")
    assert [run.status for run in runs] == ["FINISHED"] * 4
