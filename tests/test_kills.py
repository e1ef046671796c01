"""Runs that are killed at any moment, and started twice at once: the next command works and ends with the same numbers.

Few of each in `make test-all`; in `make kill-test` fifty kills and twenty pairs (KILLS, PAIRS, SEED: how many, which).
A run is a process over a tiny market, in a folder of its own that has no file of runs yet.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from mlflow.tracking import MlflowClient

from qlib_ext.cli import main
from qlib_ext.synthetic import make_market

pytestmark = pytest.mark.slow
KILLS, PAIRS, SEED = (int(os.environ.get(name, few)) for name, few in (("KILLS", 3), ("PAIRS", 2), ("SEED", 7)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a market and a workflow of one epoch, and what an undisturbed run of it comes to."""
    place = tmp_path_factory.mktemp("kills")
    market = make_market(place / "market", n_stocks=40, years=1)
    out = place / "workflow.yaml"
    assert main(["init", "--provider-uri", str(market), "--model", "mlp", "--universe", "all", "--out", str(out)]) == 0
    text = re.sub(r"epochs: \d+", "epochs: 1", out.read_text())
    out.write_text(re.sub(r"\n *- \{class: ReportRecord.*", "", text))
    begin = time.monotonic()
    assert run(place / "calm").wait() == 0
    return place, time.monotonic() - begin, numbers(place / "calm")[0]


def run(folder):
    """Start qrun in a folder; qlib sums in the order of sets, hence the fixed hash."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "qlib.cli.run", str(folder.parent / "workflow.yaml")]
    with (folder / "log").open("a") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def numbers(folder):
    """Metrics of each finished run in a folder, and the statuses of the others."""
    client = MlflowClient(f"sqlite:///{folder}/mlruns.db")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    done = [each.data.metrics for each in runs if each.info.status == "FINISHED"]
    return *done, sorted(each.info.status for each in runs if each.info.status != "FINISHED")


def test_the_run_after_a_kill_ends_with_the_same_numbers(place):
    folder, seconds, calm = place
    dice, broken = random.Random(SEED), []
    for number in range(KILLS):
        where = folder / f"kill{number}"
        kind = dice.choice([signal.SIGKILL, signal.SIGTERM])
        while True:
            after = dice.uniform(0, 2) if number % 3 == 0 else dice.uniform(0, seconds)
            process = run(where)
            time.sleep(after)
            if process.poll() is None:
                break
            seconds = after  # it had ended: the machine is less busy than it was
            shutil.rmtree(where)
        process.send_signal(kind)
        process.wait()
        status = run(where).wait()
        *done, others = numbers(where) if status == 0 else [None]
        if status or calm not in done or set(others) - {"KILLED", "FAILED"}:
            broken.append((where, kind, after, status, others, (where / "log").read_text()[-2000:]))
        else:
            shutil.rmtree(where)
    assert not broken


def test_two_runs_at_once_in_a_fresh_folder_end_with_the_same_numbers(place):
    folder, _, calm = place
    dice, broken = random.Random(SEED), []
    for number in range(PAIRS):
        where = folder / f"pair{number}"
        first = run(where)
        time.sleep(dice.choice([0, 0, dice.uniform(0, 2)]))
        both = [process.wait() for process in (run(where), first)]
        if both != [0, 0] or numbers(where) != (calm, calm, []):
            broken.append((where, both, (where / "log").read_text()[-2000:]))
        else:
            shutil.rmtree(where)
    assert not broken
