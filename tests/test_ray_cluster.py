"""A simulated cluster: a node that comes is used, one that goes is survived, what is killed is made up for.

Few kills in `make test-all`, thirty in `make kill-test` (RAY_KILLS: of a list, and of folds; SEED: which).
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_ensemble
from test_workers import until

from qlib_ext.engine import Ray
from qlib_ext.model import FoldEnsemble

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="kills by process group")]
KILLS, SEED = int(os.environ.get("RAY_KILLS", 3)), int(os.environ.get("SEED", 7))
HERE = str(Path(__file__).parent)
ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def cluster(monkeypatch):
    """A head with no worker and a node with one."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    import ray_runs
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **ray_runs.SIZE})
    made.add_node(num_cpus=1, **ray_runs.SIZE)
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


def place(shared, job):
    """The node that a job is done on."""
    time.sleep(0.5)
    return ray.get_runtime_context().get_node_id()


def test_a_node_that_is_added_is_used_and_one_that_goes_is_survived(cluster):
    """Nobody is told: the first job ends, a second node comes; once it has worked, the first one goes."""
    from ray_runs import SIZE

    first, *_ = cluster.worker_nodes
    found, second = {}, None
    for number, node in Ray().run(place, [(np.ones(1000), n) for n in range(40)]):
        found[number] = node
        if second is None:
            second = cluster.add_node(num_cpus=1, **SIZE)
        elif len(set(found.values())) == 2 and first is not None:
            cluster.remove_node(first, allow_graceful=False)
            first = None
    assert first is None and sorted(found) == list(range(40)) and len(set(found.values())) == 2


def test_folds_on_a_cluster_that_loses_a_node_are_those_of_one_process(cluster, monkeypatch):
    from ray_runs import SIZE

    dataset = test_ensemble.make_dataset()
    options = {"model": test_ensemble.config(dropout=0.1, epochs=20, patience=20), "n_splits": 5, "seeds": [0, 1, 2]}
    alone, there = FoldEnsemble(**options), FoldEnsemble(**options, engine="ray")
    alone.fit(dataset)
    first, *_ = cluster.worker_nodes
    cluster.add_node(num_cpus=1, **SIZE)
    gone, run_all = [], Ray.run

    def run(self, work, jobs, **more):
        for number, what in run_all(self, work, jobs, **more):
            if len(gone) < 1:
                gone.append(cluster.remove_node(first, allow_graceful=False))
            yield number, what

    monkeypatch.setattr(Ray, "run", run)
    there.fit(dataset)
    assert gone
    pd.testing.assert_series_equal(there.oof, alone.oof, rtol=0, atol=0)
    pd.testing.assert_series_equal(there.predict(dataset), alone.predict(dataset), rtol=0, atol=0)


# --- kills at any moment


def begin(kind, folder, market):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(Path(HERE, "ray_runs.py")), kind, str(folder), str(market)]
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            command, cwd=folder, env=os.environ | ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )


def end(process):
    """End whatever is left of a cluster."""
    left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    group = [each for each in psutil.process_iter() if in_session(each, process.pid)]
    for each in {*left, *group}:
        if each.pid != os.getpid():
            each.kill()
    process.wait()


def in_session(process, leader):
    try:
        return os.getsid(process.pid) == leader
    except OSError:
        return False


def finish(kind, folder, market):
    """Run to the end: scores and metrics of each run."""
    process = begin(kind, folder, market)
    status = process.wait()
    end(process)
    assert status == 0, (folder / "log").read_text()[-3000:]
    return pd.read_pickle(folder / "found.pkl")


def same(found, calm):
    """Whether runs found the same, to the bit, and none is left RUNNING."""
    (runs, left), (calm_runs, _) = found, calm
    return not left and all(
        score.equals(calm_score) and finite(metrics) == finite(calm_metrics)
        for (score, metrics), (calm_score, calm_metrics) in zip(runs, calm_runs, strict=True)
    )


def finite(metrics):
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def victim(what, folder, process):
    """The process to be killed, or None where there is none yet."""
    if what == "driver":
        return process.pid
    if not (folder / "parts.json").exists():
        return None
    if what == "node":
        return json.loads((folder / "parts.json").read_text())["nodes"][0]
    workers = [each for each in psutil.process_iter(["name", "cmdline"]) if in_session(each, process.pid)]
    busy = [each.pid for each in workers if "ray::_do" in " ".join(each.info["cmdline"] or [])]
    return busy[0] if busy else None


@pytest.fixture(scope="module", params=["list", "folds"])
def calm(request, base, tmp_path_factory):
    """A kind of run, what it finds undisturbed, and after how many seconds."""
    began = time.monotonic()
    found = finish(request.param, tmp_path_factory.mktemp(request.param) / "calm", base)
    return request.param, found, time.monotonic() - began


def disturbed(kind, folder, market, what, after):
    """Run, and kill a part of it; its exit status, and whether there was one to kill."""
    process = begin(kind, folder, market)
    time.sleep(after)
    until(lambda: process.poll() is not None or victim(what, folder, process), 60)
    pid = victim(what, folder, process) if process.poll() is None else None
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    status = process.wait()
    end(process)
    return status, pid is not None


def test_whatever_is_killed_the_same_command_ends_with_the_same_bits(calm, base, tmp_path):
    kind, expected, seconds = calm
    dice, broken, killed = random.Random(f"{SEED} {kind}"), [], 0
    for number in range(KILLS):
        folder, what = tmp_path / f"kill{number}", ["driver", "worker", "node"][number % 3]
        after = dice.uniform(0, seconds)
        status, one = disturbed(kind, folder, base, what, after)
        found = pd.read_pickle(folder / "found.pkl") if status == 0 else finish(kind, folder, base)
        if (what != "driver" and status) or not same(found, expected):
            broken.append((what, after, status, (folder / "log").read_text()[-2000:]))
        killed += one
        shutil.rmtree(folder)
    assert not broken and killed > KILLS / 2, (broken, killed)
