"""Processes that train members go with the run, and one that is killed is told with the cure."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_ensemble

from qlib_ext.model import FoldEnsemble

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
SCRIPT = """
import signal, test_workers
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: exit(143))
    test_workers.train()
"""


class Told(test_ensemble.WindowedMLP):
    """Leaves a file named by its process where training begins."""

    def build(self, d_feat, d_gate):
        Path(os.environ["TOLD"], str(os.getpid())).touch()
        return super().build(d_feat, d_gate)


def train():
    """Train for hours in two processes."""
    options = test_ensemble.QUICK | {"epochs": 10**6, "patience": 10**6}
    model = {"class": "Told", "module_path": __name__, "kwargs": options}
    FoldEnsemble(model=model, n_splits=2, processes=2).fit(test_ensemble.make_dataset())


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(fact, seconds):
    end = time.monotonic() + seconds
    while not fact() and time.monotonic() < end:
        time.sleep(0.05)
    return fact()


SLOW = [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), pytest.param(None, marks=pytest.mark.slow)]


@pytest.mark.parametrize("number", [signal.SIGKILL, *SLOW], ids=["parent killed", "parent ends", "worker killed"])
def test_workers_go_with_the_run_and_a_killed_one_is_named(tmp_path, number):
    environment = os.environ | {
        "TOLD": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stderr=subprocess.PIPE, text=True)

    def workers():
        return [pid for file in tmp_path.iterdir() if (pid := int(file.name)) != process.pid]

    try:
        assert until(lambda: len(workers()) == 2, 100)
        os.kill(workers()[0] if number is None else process.pid, number or signal.SIGKILL)
        assert until(lambda: not any(lives(pid) for pid in workers()), 5)
        status, told = process.wait(timeout=240), process.stderr.read()
    finally:
        process.kill()
    assert status == {signal.SIGKILL: -9, signal.SIGTERM: 143, None: 1}[number], told
    if number is None:
        assert "WorkerLost: a process that trained members was killed from outside" in told
