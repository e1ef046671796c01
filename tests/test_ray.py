"""Members, tasks and shared data on Ray: the bits of one process, a lost worker, a list that goes on."""

import os
import pickle
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import qlib
import test_ensemble
import torch
from qlib.contrib.data.handler import Alpha158
from qlib.model.trainer import TrainerR
from qlib.workflow import R
from qlib.workflow.task.gen import RollingGen
from test_ensemble import QUICK, config, make_dataset

from qlib_ext.engine import Processes, Ray, engine_of, packed, unpacked
from qlib_ext.model import FoldEnsemble, MLPModel, RayTrainer, WalkForwardModel
from qlib_ext.runs import list_runs

ray = pytest.importorskip("ray")
HERE = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def workers():
    """A Ray of this machine with two workers, for all tests of the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # theirs is 15: starved where others work
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
        yield ray
        ray.shutdown()


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
