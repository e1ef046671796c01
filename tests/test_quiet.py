"""What a run prints: into a pipe, at a terminal, when it fails, and the console that shows it."""

import contextlib
import io
import logging
import os
import pty
import re
import sqlite3
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from qlib_ext import progress
from qlib_ext.runs import find_run

ROOT = Path(__file__).parents[1]
FIELDS = ["$close/Ref($close, 5)-1", "$close/Ref($close, 20)-1", "Std($close, 20)/$close", "$high/$low-1"]
OWN = """
import warnings
from qlib.log import get_module_logger
from qlib.workflow.record_temp import RecordTemp


class Noisy(RecordTemp):
    def generate(self, **_):
        for _ in range(3):
            get_module_logger("own").warning("three times the same")
        warnings.warn("an old name", FutureWarning)
        print("printed by the user's own record")


class Fails(RecordTemp):
    def generate(self, **_):
        raise RuntimeError("the record cannot go on")
"""
MEMBER = {
    "class": "MLPModel",
    "module_path": "qlib_ext.model",
    "kwargs": {"hidden": [8], "loss": "ic", "epochs": 1, "device": "cpu"},
}
FOLDS = {
    "class": "FoldEnsemble",
    "module_path": "qlib_ext.model",
    "kwargs": {"model": MEMBER, "n_splits": 2, "seeds": [0], "processes": 2},
}
OURS = [{"class": f"{name}Record", "module_path": "qlib_ext.record"} for name in ("Forecast", "PortAna", "Liquidity")]
PAGE = {"class": "ReportRecord", "module_path": "qlib_ext.record"}
QLIBS = [{"class": name, "module_path": "qlib.workflow.record_temp"} for name in ("SignalRecord", "SigAnaRecord")]
HELP = ("usage: git", "Not a git repository", "git diff")


def workflow(market, model, records):
    loader = {"feature": [FIELDS, ["A", "B", "C", "D"]], "label": [["Ref($close, -11)/Ref($close, -1)-1"], ["LABEL0"]]}
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {
            "instruments": "all",
            "data_loader": {
                "class": "QlibDataLoader",
                "module_path": "qlib.data.dataset.loader",
                "kwargs": {"config": loader},
            },
            "infer_processors": [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}],
            "learn_processors": [],
        },
    }
    segments = {
        "train": ["2020-03-02", "2020-07-31"],
        "valid": ["2020-08-18", "2020-09-15"],
        "test": ["2020-10-09", "2020-12-31"],
    }
    base = yaml.safe_load((ROOT / "workflows" / "qlib_ext_base.yml").read_text())
    dataset = {"handler": handler, "segments": segments, "step_len": 1, "liquidity": "auto"}
    task = base["task"] | {"model": model, "record": records}
    task["dataset"] = {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": dataset}
    init = base["qlib_init"] | {"provider_uri": str(market), "kernels": 1}
    return {"experiment_name": "quiet", "sys": {"rel_path": "."}, "qlib_init": init, "task": task}


def begin(folder, config, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment):
    """Start a qrun in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "own_records.py").write_text(OWN)
    (folder / "workflow.yaml").write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("qrun")), "workflow.yaml"]
    every = {name: value for name, value in os.environ.items() if name != progress.ENVIRONMENT}
    every |= {"OMP_NUM_THREADS": "1", "TERM": "xterm", "GIT_CEILING_DIRECTORIES": str(folder.parent)} | environment
    return subprocess.Popen(command, cwd=folder, env=every, stdout=stdout, stderr=stderr)


def at_a_terminal(folder, config):
    """Start a qrun whose output goes to a terminal, and return what is drawn on it at the end."""
    ours, theirs = pty.openpty()
    process = begin(folder, config, stdout=theirs, stderr=theirs)
    os.close(theirs)
    drawn = bytearray()

    def read():
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 65536):
                drawn.extend(part)

    reader = threading.Thread(target=read)
    reader.start()

    def end():
        process.wait(timeout=240)
        reader.join()
        os.close(ours)
        return SimpleNamespace(code=process.returncode, text=drawn.decode())

    return end


@pytest.fixture(scope="module")
def ran(base, tmp_path_factory):
    """Runs of one time: a whole one into a pipe, in a git repository; one at a terminal; one that fails, quietly."""
    place = tmp_path_factory.mktemp("quiet")
    (place / "piped").mkdir()
    noisy, fails = ({"class": name, "module_path": "own_records"} for name in ("Noisy", "Fails"))
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], cwd=place / "piped", check=True)
    processes = {
        "piped": begin(place / "piped", workflow(base, FOLDS, [*QLIBS, noisy, *OURS, PAGE])),
        "failing": begin(place / "failing", workflow(base, MEMBER, [fails]), QLIB_EXT_LOG="quiet"),
    }
    end = at_a_terminal(place / "terminal", workflow(base, MEMBER, [*QLIBS, noisy, OURS[-1], PAGE]))
    ended = {}
    for name, process in processes.items():
        out, err = (raw.decode() for raw in process.communicate(timeout=240))
        ended[name] = SimpleNamespace(code=process.returncode, out=out, err=err)
    return SimpleNamespace(place=place, terminal=end(), **ended)


# --- into a pipe


def test_a_run_into_a_pipe_prints_few_lines(ran):
    run = ran.piped
    assert run.code == 0, run.out + run.err
    every = (run.out + run.err).splitlines()
    assert len(every) <= 60 and not re.search(r"[\r\x1b]", run.out + run.err), run.out + run.err
    stages = re.findall(r"^\d\d:\d\d:\d\d \[(\d)/(\d)\] (\w+)$", run.err, re.MULTILINE)
    names = ["data", "training", "scores", "forecast", "backtest", "judge", "page"]
    assert stages == [(str(n), str(len(names)), name) for n, name in enumerate(names, 1)]
    assert len(re.findall(r"^\d\d:\d\d:\d\d   fold[01]\.seed0\.epoch 1 of 1: wpcc ", run.err, re.MULTILINE)) == 2, (
        run.err
    )
    silent = (
        "Mean of empty slice",
        "qlib/utils/index_data",
        "common_infra",
        "The following are analysis",
        "backtest loop",
    )
    assert not [text for text in (*silent, *HELP) if text in run.out + run.err]


def test_each_warning_is_told_once_and_counted_at_the_end(ran):
    told = [line for line in ran.piped.err.splitlines() if line.startswith("warning: ")]
    assert len(told) == len(set(told)) and "warning: three times the same" in told
    assert "3 times: three times the same" in ran.piped.err.splitlines()
    assert len([line for line in told if "FutureWarning" in line]) == 1  # our own
    assert "printed by the user's own record" in ran.piped.out


def test_a_run_ends_with_its_summary_and_where_its_page_lies(ran):
    run = find_run("latest", uri=f"sqlite:///{ran.place / 'piped' / 'mlruns.db'}")
    lines = ran.piped.out.splitlines()[1:]  # after what the own record printed
    assert 10 <= len(lines) <= 20 and lines[0].startswith("quiet: ") and "After all costs" in lines[1]
    for words in (
        r"account +made",
        r"cost .* turnover",
        r"holdings .* names; the largest",
        r"IC .* ± .* standard error",
    ):
        assert re.search(rf"^  {words}", ran.piped.out, re.MULTILINE), (words, ran.piped.out)
    assert lines[-2].split(maxsplit=1) == ["page", str(run.folder / "report.html")]
    assert re.fullmatch(rf"  run +{run.id}; its tables: qlib-ext show {run.id[:8]}; done in \d+:\d\d", lines[-1])


def test_what_is_not_printed_is_in_the_runs_log(ran):
    run = find_run("latest", uri=f"sqlite:///{ran.place / 'piped' / 'mlruns.db'}")
    log = (run.folder / progress.RUN_LOG).read_text(encoding="utf-8")
    assert log.count("three times the same") == 3 and "[5/7] backtest" in log and "mean_ic" in log


def test_the_commit_is_recorded_within_a_repository_alone(ran):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ran.place / "piped", capture_output=True, check=True)
    kept = {}
    for name in ("piped", "terminal"):
        file = ran.place / name / "mlruns.db"
        with contextlib.closing(sqlite3.connect(file)) as database:
            tags = dict(database.execute("SELECT key, value FROM tags"))
        run = find_run("latest", uri=f"sqlite:///{file}")
        kept[name] = tags.get("mlflow.source.git.commit"), (run.folder / "code_status.txt").is_file()
    assert kept == {"piped": (commit.stdout.decode().strip(), True), "terminal": (None, False)}


# --- at a terminal


def screen(text):
    """The lines that stay on a terminal: what was wiped is gone."""
    return [line.rpartition("\r\x1b[K")[2] for line in text.replace("\r\n", "\n").split("\n")]


def test_a_terminal_shows_one_line_that_lives_and_then_the_end(ran):
    run = ran.terminal
    assert run.code == 0, run.text
    drawn = re.findall(r"\x1b\[K([^\r\n]+)", run.text)
    for words in (r"\[2/5\] training, epoch 1 of 1", r"\[3/5\] scores", r"\[5/5\] page"):
        assert any(re.match(words, line) for line in drawn), run.text
    assert all(len(line) < 80 for line in drawn if line.startswith("[")) and not any(text in run.text for text in HELP)
    assert set(re.findall(r"\x1b\[.", run.text)) == {"\x1b[K"} and run.text.endswith("\r\n")
    left = screen(run.text)
    assert not [line for line in left if re.match(r"\d\d:\d\d:\d\d|\[\d/\d\]", line)], run.text
    assert "warning: three times the same" in left and "3 times: three times the same" in left
    assert left[-1] == "" and re.match("  run .*; done in ", left[-2]) and left[-3].startswith("  page ")
    assert any(line.startswith("  IC ") for line in left) and len(left) < 40


# --- failing, and quietly


def test_a_run_that_fails_says_why_and_quiet_leaves_the_stages_out(ran):
    run = ran.failing
    assert run.code != 0 and run.out == "RuntimeError: the record cannot go on\n"  # as qlib prints it
    assert "RuntimeError: the record cannot go on" in run.err and 'own_records.py", line' in run.err
    assert not any(text in run.err for text in HELP)
    assert "/3] " not in run.err and "epoch 1" not in run.err
    assert [one.status for one in runs_of(ran.place / "failing")] == ["FAILED"]


def runs_of(folder):
    from qlib_ext.runs import list_runs

    return list_runs(uri=f"sqlite:///{folder / 'mlruns.db'}")


# --- the console, without qlib


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return super().isatty() or True  # an error where it is closed


@pytest.fixture
def qlibs(monkeypatch):
    """The logger of qlib with a handler as qlib's own, in the place of whatever was there."""
    logger = logging.getLogger("qlib")
    before, propagate = list(logger.handlers), logger.propagate
    own = logging.StreamHandler()
    own.setFormatter(logging.Formatter("[%(process)s:%(threadName)s](%(asctime)s) %(message)s"))
    logger.handlers, logger.propagate = [own], False
    monkeypatch.delenv(progress.ENVIRONMENT, raising=False)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.handlers, logger.propagate = before, propagate
    logger.setLevel(level)


def install(silent=()):
    """Let a Console show the log; None where there is none."""
    progress.install(silent)
    return next((one for one in logging.getLogger("qlib").handlers if isinstance(one, progress.Console)), None)


def terminal_of(monkeypatch):
    """Put a terminal into the place of stderr."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    return sys.stderr


def test_lines_marked_brief_and_warnings_are_shown(qlibs, capsys):
    install([("qlib.data", "load calendar")])
    logging.getLogger("qlib.a").info("a table\nof two lines")
    logging.getLogger("qlib.a").info("epoch 1: all figures", extra=progress.brief("epoch 1"))
    logging.getLogger("qlib.data").warning("load calendar error")
    logging.getLogger("qlib.data").warning("look out")
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("qlib.a").exception("it broke")
    err = capsys.readouterr().err
    assert re.match(
        r"\d\d:\d\d:\d\d epoch 1\nwarning: look out\nerror: it broke\nTraceback.*\nKeyError: 'x'\n\Z", err, re.S
    )


@pytest.mark.parametrize(("asked", "shown"), [("quiet", 0), ("Info ", 1), ("", 1), ("debug", None)])
def test_the_environment_says_how_much_is_shown(qlibs, monkeypatch, capsys, asked, shown):
    monkeypatch.setenv(progress.ENVIRONMENT, asked)
    own = qlibs.handlers[0]
    ours = install([("qlib.a", "nobody needs")])
    assert (
        (ours is None) == (shown is None)
        and (ours or own) in qlibs.handlers
        and ((own in qlibs.handlers) == (not ours))
    )
    if shown is None:  # as qlib has it, less what is silent
        own.setStream(sys.stderr)
        logging.getLogger("qlib.a").warning("nobody needs this")
        logging.getLogger("qlib.a").info("a table")
        assert capsys.readouterr().err.splitlines()[0].endswith(" a table")
        return
    logging.getLogger("qlib.a").info("long", extra=progress.brief("short"))
    logging.getLogger("qlib.a").warning("look out")
    err = capsys.readouterr().err
    assert err.count("short") == shown and "warning: look out\n" in err


def test_another_value_is_refused(qlibs, monkeypatch):
    monkeypatch.setenv(progress.ENVIRONMENT, "loud")
    with pytest.raises(ValueError, match="QLIB_EXT_LOG is 'loud'; allowed: quiet, info, debug"):
        install()


def test_handlers_of_the_users_own_are_left_alone(qlibs, tmp_path, capsys):
    stream, file = logging.StreamHandler(io.StringIO()), logging.FileHandler(tmp_path / "own.log")
    qlibs.handlers = [stream, file]
    assert install() is None and qlibs.handlers == [stream, file]
    progress.install()
    progress.begin(tmp_path)
    progress.stage("training")
    progress.close("  run")
    file.close()
    assert "training" in stream.stream.getvalue() and "training" in (tmp_path / "own.log").read_text()
    assert capsys.readouterr() == ("  run 0:00\n", "")
    assert not (tmp_path / progress.RUN_LOG).exists()


def test_what_qlibs_handler_does_not_let_through_stays_away(qlibs, capsys):
    qlibs.handlers[0].addFilter(lambda record: "data not found" not in record.getMessage())
    install()
    logging.getLogger("qlib.a").warning("WARN: data not found for SH600000")
    assert capsys.readouterr().err == ""


def test_the_line_that_lives_is_drawn_over_itself_and_lines_go_above_it(qlibs, monkeypatch):
    terminal = terminal_of(monkeypatch)
    console = install()
    console.draw("before a run")
    console.begin(None)
    console.draw("one", now=True)
    console.draw("two at once")  # too soon
    console.draw("three " + "x" * 100, now=True)
    logging.getLogger("qlib.a").info("long", extra=progress.brief("a stage"))  # the line says it
    logging.getLogger("qlib.a").warning("look out")
    console.close_run()
    third = f"three {'x' * 73}"
    assert terminal.getvalue() == f"one\r\x1b[K{third}\r\x1b[Kwarning: look out\n{third}\r\x1b[K"
    console.draw("after it", now=True)
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_a_dumb_terminal_and_a_notebook_get_lines(qlibs, monkeypatch):
    terminal = terminal_of(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    progress.install()
    progress.begin()
    progress.stage("training")
    progress.step("epoch", 1, 3)
    progress.close()
    assert re.fullmatch(r"\d\d:\d\d:\d\d training\n", terminal.getvalue())
    from ipykernel.iostream import OutStream

    assert not OutStream.isatty(SimpleNamespace(_isatty=False))  # what a kernel makes


def test_a_run_that_fails_at_a_terminal_says_in_which_stage(qlibs, monkeypatch):
    terminal = terminal_of(monkeypatch)
    progress.install()
    for last in ("", "  run"):
        progress.begin()
        progress.plan(["data", "training"])
        progress.stage("training")
        progress.close(last)
    assert (
        terminal.getvalue()
        == "[2/2] training\r\x1b[Kended in [2/2] training\n[2/2] training\r\x1b[K[2/2] training\r\x1b[K"
    )


def test_repeated_warnings_are_counted_within_a_run_and_named_by_their_first_line(qlibs, capsys):
    console = install()
    console.begin(None)
    for name in ("a", "b", "a"):
        logging.getLogger("qlib.x").warning("%s\nmore", name)
    console.close_run()
    logging.getLogger("qlib.x").warning("a\nmore")
    assert capsys.readouterr().err == "warning: a\nmore\nwarning: b\nmore\n2 times: a\nwarning: a\nmore\n"


def test_pythons_warnings_are_shown_within_a_run_and_then_as_before(qlibs, capsys):
    console, before = install(), warnings.showwarning
    for _ in range(2):  # a run that begins before the last has ended: it ends
        console.begin(None)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("look out", UserWarning, stacklevel=1)
        warnings.warn("an old name", FutureWarning, stacklevel=1)
    console.close_run()
    assert warnings.showwarning is before
    first, second = capsys.readouterr().err.splitlines()
    assert first == "warning: look out"
    assert re.fullmatch(r"warning: an old name \(FutureWarning, .*test_quiet\.py:\d+\)", second)


def test_a_runs_log_has_what_came_before_it_and_two_runs_have_two(qlibs, tmp_path):
    progress.install()
    logging.getLogger("qlib.a").info("before the first")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        progress.begin(tmp_path / name)
        logging.getLogger("qlib.a").info("a line of the %s", name)
    progress.close()
    logging.getLogger("qlib.a").info("after both")
    first, second = ((tmp_path / name / progress.RUN_LOG).read_text().splitlines() for name in ("first", "second"))
    assert [line.rpartition(": ")[2] for line in first] == ["before the first", "a line of the first"]
    assert [line.rpartition(": ")[2] for line in second] == ["a line of the second"]


class Gone(Terminal):
    """A terminal that was closed under the run."""

    def write(self, _):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("broken", ["closed", "gone", "none"])
def test_a_stream_that_is_gone_ends_no_run(qlibs, monkeypatch, tmp_path, broken):
    stream = {"closed": Terminal(), "gone": Gone(), "none": None}[broken]
    if broken == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    progress.install()
    progress.begin(tmp_path)
    progress.plan(["training"])
    progress.stage("training")
    progress.step("epoch", 1, 2)
    logging.getLogger("qlib.a").warning("look out")
    progress.conclude(["the end"])
    progress.close("  run")
    assert "look out" in (tmp_path / progress.RUN_LOG).read_text()


def test_a_stream_without_the_letters_gets_marks_for_them(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    progress.conclude(["IC 0.05 ± 0.01"])
    progress.close("run")
    assert stream.buffer.getvalue().startswith(b"IC 0.05 ? 0.01\nrun ")


def test_workers_tell_warnings_alone(qlibs, monkeypatch):
    terminal = terminal_of(monkeypatch)
    console = install()
    console.begin(None)
    monkeypatch.setattr("qlib_ext.progress.console.parent_process", lambda: "the one that forked")
    console.draw("a line", now=True)
    logging.getLogger("qlib.a").info("epoch 1", extra=progress.brief("epoch 1"))
    logging.getLogger("qlib.a").warning("look out")
    console.close_run()
    assert terminal.getvalue() == "warning: look out\n"


def test_threads_may_count_steps_beside_each_other(qlibs, monkeypatch):
    terminal = terminal_of(monkeypatch)
    monkeypatch.setattr("qlib_ext.progress.console._PACE", 0.0)
    progress.install()
    progress.begin()
    failed = []

    def count(unit):
        try:
            for number in range(1000):
                progress.step(unit, number, 1000)
        except Exception as error:  # noqa: BLE001  whatever it is
            failed.append(error)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=count, args=(unit,)) for unit in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
        progress.close()
    assert failed == []
    parts = terminal.getvalue().split("\r\x1b[K")
    assert all(re.fullmatch(r"([abcd ]|of|\d|,|up to|:|left)*", part) for part in parts), parts


def test_the_console_needs_no_qlib():
    code = "import sys; from qlib_ext import progress; progress.Console('info'); print('qlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
