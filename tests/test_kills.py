"""Runs that are killed at any moment, and started twice at once: the next command works and ends with the same numbers.

Few of each in `make test-all`; in `make kill-test` a hundred kills and twenty pairs (KILLS, STARTS, PAIRS, SEED: how
many, which). A run is a process over a tiny market, in a folder of its own that has no file of runs yet.
"""

import json
import os
import pickle
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from qlib.cli.run import render_template
from test_workers import lives

from qlib_ext.cli import main
from qlib_ext.synthetic import make_market

pytestmark = pytest.mark.slow
FEW = {"KILLS": 7, "STARTS": 3, "PAIRS": 2, "SEED": 7}
KILLS, STARTS, PAIRS, SEED = (int(os.environ.get(name, few)) for name, few in FEW.items())


def small_workflow(place):
    """Write a small market and the workflow of a network on it, without a page; its path."""
    market, out = make_market(place / "market", n_stocks=40, years=1), place / "workflow.yaml"
    assert main(["init", "--provider-uri", str(market), "--model", "mlp", "--universe", "all", "--out", str(out)]) == 0
    out.write_text(re.sub(r"\n *- \{class: ReportRecord.*", "", out.read_text()))
    return out


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a market and a workflow of one epoch, and what an undisturbed run of it comes to."""
    place = tmp_path_factory.mktemp("kills")
    out = small_workflow(place)
    out.write_text(re.sub(r"epochs: \d+", "epochs: 1", out.read_text()))
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
    """Processes of their own, killed from their first moment on; without a checkpoint."""
    folder, seconds, calm = place
    dice, broken = random.Random(SEED), []
    for number in range(STARTS):
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


# --- with a checkpoint: what was finished is not done again

QUICK = {"loss": "ic", "metric": "rank_ic", "target": "rank", "epochs": 3, "patience": 3, "device": "cpu"}
MLP = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"hidden": [16, 8], "dropout": 0.2, **QUICK}}
SMALL = {"rounds": 12, "patience": 3, "parameters": {"num_leaves": 7, "lambda_l1": 0.0, "lambda_l2": 0.0}}
TREES = {"class": "LightGBMModel", "module_path": "qlib_ext.model", "kwargs": SMALL}


def model(name, **options):
    return {"class": name, "module_path": "qlib_ext.model", "kwargs": options}


def kept(config):
    return {**config, "kwargs": {**config["kwargs"], "checkpoint": "kept/run.pt"}}


FOLDS = model("FoldEnsemble", model=MLP, n_splits=2, seeds=[0, 1])
KINDS = {
    "MLP": kept(MLP),
    "MASTER": kept(model("MASTERModel", d_model=8, t_heads=2, s_heads=2, dropout=0.2, **QUICK)),
    "trees": kept(TREES),
    "folds": model("FoldEnsemble", model=kept(MLP), n_splits=2, seeds=[0, 1]),
    "walk-forward": model("WalkForwardModel", model=kept(MLP), step=15, warm_start={"epochs": 2}),
    "ensemble of kinds": kept(model("ModelEnsemble", members=[TREES, MLP, FOLDS])),
    "ensemble walked": model("WalkForwardModel", step=15, model=kept(model("ModelEnsemble", members=[TREES, MLP]))),
}
HANDLER = ("start_time", "fit_start_time", "fit_end_time", "instruments", "infer_processors", "learn_processors")
VOLATILE = {"run.log", "report.html", "params.pkl", "dataset", "config"}  # they name the run, or how often it began


class Forks:
    """Runs of qrun that begin at once, see `fork_runs`."""

    def __init__(self):
        environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name("fork_runs.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def begin(self, workflow, folder):
        """Start a run; returns the number of its process."""
        folder.mkdir(exist_ok=True)
        self.process.stdin.write(json.dumps([workflow, str(folder)], default=str) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self):
        """Exit status of the run that was begun, once it has ended."""
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def forks():
    forks = Forks()
    yield forks
    forks.process.stdin.close()
    forks.process.wait(timeout=60)


@pytest.fixture(scope="module")
def counted(request):
    """Kills by kind and phase, told at the end."""
    counted = {kind: Counter() for kind in KINDS}
    yield counted
    table = pd.DataFrame(counted).T.fillna(0).astype(int)
    plugins = request.config.pluginmanager
    screen, capture = plugins.getplugin("terminalreporter"), plugins.getplugin("capturemanager")
    if screen is not None and capture is not None and len(table.columns):
        table["all"] = table.sum(axis=1)
        table.loc["all"] = table.sum()
        with capture.global_and_fixture_disabled():
            screen.write_line(f"\nkills by kind and phase\n{table.to_string()}")


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A folder with a market and a workflow without a model, as YAML has it."""
    place = tmp_path_factory.mktemp("kinds")
    line = ["--provider-uri", str(make_market(place / "market", n_stocks=40, years=1)), "--universe", "all"]
    assert main(["init", *line, "--model", "mlp", "--out", str(place / "init.yaml")]) == 0
    config, end = yaml.safe_load(render_template(str(place / "init.yaml"))), "2020-11-13"
    data = config["task"]["dataset"]["kwargs"]
    data["segments"]["test"][1] = end
    options = {name: data["handler"]["kwargs"][name] for name in HANDLER} | {"end_time": end}
    data["handler"] = {"class": "FastAlpha158", "module_path": "qlib_ext.handler", "kwargs": options}
    (account,) = (one for one in config["task"]["record"] if one["class"] == "PortAnaRecord")
    account["kwargs"]["config"]["backtest"]["end_time"] = end
    return place, config


def told(folder, since=0):
    """What the runs of a folder have told, from a place on."""
    return (folder / "log").read_bytes()[since:].decode() if (folder / "log").exists() else ""


def phase_of(log):
    """Stage in which a run is by what it has told; what comes before the first is its beginning."""
    return (["beginning"] + re.findall(r"\[\d+/\d+\] (.+)", log))[-1]


def timed(forks, workflow, folder):
    """Run undisturbed; returns the seconds of each phase."""
    pid = forks.begin(workflow, folder)
    begun, begins = time.monotonic(), {}
    while lives(pid):
        begins.setdefault(phase_of(told(folder)), time.monotonic() - begun)
        time.sleep(0.01)
    assert forks.status() == 0, told(folder)[-3000:]
    ends = [*begins.values(), time.monotonic() - begun][1:]
    return {name: end - start for (name, start), end in zip(begins.items(), ends, strict=True)}


def killed(forks, workflow, folder, dice, seconds):
    """Start a run and kill it in a phase; returns the phase, "" for a run that had ended."""
    phase, number = dice.choice(list(seconds)), dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    before = len(told(folder).encode())
    pid = forks.begin(workflow, folder)
    while phase_of(told(folder, before)) != phase and lives(pid):
        time.sleep(0.005)
    time.sleep(dice.uniform(0, seconds[phase]))
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    status = forks.status()
    with suppress(sqlite3.Error), closing(sqlite3.connect(folder / "mlruns.db")) as connection:
        if connection.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()[0]:
            return ""
    return phase_of(told(folder, before)) if status else ""


def plain(value):
    """What an artifact holds, in a form that is the same for the same bits."""
    if isinstance(value, pd.DataFrame | pd.Series):
        frame = value.to_frame() if isinstance(value, pd.Series) else value
        cells = [[repr(plain(cell)) for cell in frame.iloc[:, n]] for n in range(frame.shape[1])]
        return [list(map(str, frame.columns)), list(map(str, frame.index)), cells, plain(dict(value.attrs))]
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return plain(vars(value)) if hasattr(value, "__dict__") and not callable(value) else repr(value)


def outcome(folder):
    """Metrics and artifacts of the finished run, and the statuses of the others."""
    client = MlflowClient(f"sqlite:///{folder}/mlruns.db")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    (done,) = (each for each in runs if each.info.status == "FINISHED")
    top = Path(done.info.artifact_uri.removeprefix("file://"))
    artifacts = {}
    for file in sorted(top.rglob("*")):
        name = str(file.relative_to(top))
        if file.is_file() and name not in VOLATILE:
            raw = file.read_bytes()
            artifacts[name] = plain(pickle.loads(raw)) if file.suffix == ".pkl" else len(raw) > 0
    metrics = {name: repr(value) for name, value in done.data.metrics.items()}
    return metrics, artifacts, sorted(each.info.status for each in runs if each is not done)


def learnt(folder):
    """How often each epoch of each network, and each member of trees, was trained by all runs of a folder."""
    text = "\n".join(file.read_text() for file in folder.glob("mlruns/*/*/artifacts/run.log"))
    epochs = re.findall(r"(\S*epoch \d+): \S*train_loss", text)
    return Counter(epochs + re.findall(r"(\S*lightgbm): \d+ trees(?!.*; out of)", text))


def wrong(folder, calm, since, finished):
    """Say what is not as it should be after the last run in a folder, whose log begins at a place."""
    metrics, artifacts, others = outcome(folder)
    if set(others) - {"KILLED", "FAILED"}:
        return f"runs are left {others}"
    if metrics != calm[0]:
        return f"other metrics: {sorted(set(metrics.items()) ^ set(calm[0].items()))[:6]}"
    if artifacts != calm[1]:
        return f"other artifacts: {[name for name in artifacts | calm[1] if artifacts.get(name) != calm[1].get(name)]}"
    if twice := [name for name, times in learnt(folder).items() if times > 1]:
        return f"trained again: {twice}"
    if (taken := told(folder, since).count("which was cut short: taken over")) != finished:
        return f"{finished} records were finished, {taken} taken over"
    return f"files are left: {left}" if (left := list(folder.glob("kept/*"))) else ""


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_finished_before_a_kill_is_not_done_again(forks, counted, market, kind):
    place, config = market
    workflow, name = place / f"{kind}.yaml", kind.replace(" ", "_")
    task = {**config["task"], "model": KINDS[kind]}
    if kind == "MASTER":
        task["dataset"] = {**task["dataset"], "kwargs": {**task["dataset"]["kwargs"], "step_len": 3}}
    workflow.write_text(yaml.safe_dump({**config, "experiment_name": name, "task": task}))
    seconds = timed(forks, workflow, place / f"{name}_calm")
    calm, dice, broken = outcome(place / f"{name}_calm"), random.Random(f"{SEED} {kind}"), []
    assert calm[2] == [] and not list((place / f"{name}_calm").glob("kept/*"))
    share = len([n for n in range(KILLS) if n % len(KINDS) == list(KINDS).index(kind)])
    for number in range(share):
        where, phases, finished = place / f"{name}{number}", [], 0
        while not phases or (len(phases) == 1 and dice.random() < 0.2):  # one in five is killed twice
            phase = killed(forks, workflow, where, dice, seconds)
            if not phase:
                shutil.rmtree(where)  # it had ended before
                phases = []
                continue
            phases.append(phase)
            records = where / "kept" / "run.records.json"
            finished = len(json.loads(records.read_bytes())["records"]) if records.exists() else 0
        since = len(told(where).encode())
        forks.begin(workflow, where)
        status = forks.status()
        counted[kind].update(phases)
        if problem := "it failed" if status else wrong(where, calm, since, finished):
            broken.append((phases, problem, where, told(where)[-2000:]))
        else:
            shutil.rmtree(where)
    assert not broken
