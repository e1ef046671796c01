"""The command line as a whole: its help, how it ends, and progress."""

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from pkgutil import resolve_name

import pytest

from qlib_ext import __version__, cli
from qlib_ext.cli import CLOSING, DESCRIPTION, EXAMPLES

COMMANDS = sorted(EXAMPLES)


def help_of(monkeypatch, capsys, *command, width=80):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def commands_of(parser):
    return next(action for action in parser._actions if action.choices and action.metavar == "COMMAND").choices


def test_every_command_has_examples_and_a_place_in_the_order(monkeypatch, capsys):
    assert sorted(commands_of(cli.build_parser())) == COMMANDS
    told = help_of(monkeypatch, capsys)
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", DESCRIPTION), command
        assert re.search(rf"^    {command} +\S", told, re.MULTILINE), f"{command}: name and words on one line"
    assert "--version" in told and "Exit status" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_shown_and_parse(command, monkeypatch, capsys):
    told = help_of(monkeypatch, capsys, command)
    assert 2 <= len(EXAMPLES[command]) <= 3
    for example in EXAMPLES[command]:
        assert f"\n  {example}\n" in told
        program, name, *rest = shlex.split(example)
        arguments = cli.build_parser().parse_args([name, *rest])
        assert (program, name) == ("qlib-ext", command) and callable(arguments.run)


def test_the_first_steps_parse():
    lines = re.findall(r"^  qlib-ext (.*)$", CLOSING, re.MULTILINE)
    assert [cli.build_parser().parse_args(line.split()).run.__name__ for line in lines] == [
        "_demo_data",
        "_init",
        "_show",
    ]


@pytest.mark.parametrize("command", [None, *COMMANDS])
@pytest.mark.parametrize("width", [80, 100])
def test_help_keeps_to_the_terminal(command, width, monkeypatch, capsys):
    told = help_of(monkeypatch, capsys, *([command] if command else []), width=width)
    wide = [line for line in told.splitlines() if len(line) > width]
    assert [line for line in wide if not line.startswith("  qlib-ext ")] == []  # a command is not broken
    usage = textwrap.dedent(told.split("\n\n")[0])
    assert usage.startswith("usage: qlib-ext")


def test_values_are_named_alike():
    names = {"--provider-uri": "DIR", "--universe": "NAME", "--experiment": "NAME", "--out": "FILE", "--seed": "S"}
    for command, parser in commands_of(cli.build_parser()).items():
        for action in parser._actions:
            for option in action.option_strings:
                named = "DIR" if (command, option) == ("daily", "--out") else names.get(option, action.metavar)
                assert action.metavar == named, f"{command} {option}"
            assert action.help, f"{command} {action.dest}"


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"qlib-ext {__version__}\n"


# --- how it ends


def started(code, **options):
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background does not
    return subprocess.Popen(
        [sys.executable, "-c", hear + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


BROKEN = """
import sys, argparse
from qlib_ext import cli
from qlib_ext.cli import commands
def run(arguments):
    sys.stdin.readline()  # until the reader has gone
    print("a line of the table\\n" * {lines})
    return 0
parser = argparse.ArgumentParser()
parser.set_defaults(run=run)
commands.build_parser = lambda: parser
sys.exit(cli.main([]))
"""


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at the end", "in the middle"])
def test_a_reader_that_has_gone_is_no_error(lines):
    process = started(BROKEN.format(lines=lines), stdin=subprocess.PIPE)
    process.stdout.close()  # as `| head` does
    process.stdin.write("\n")
    process.stdin.close()
    said = process.stderr.read()
    assert process.wait(60) == 141 and said == ""


def test_help_into_a_closed_pipe():
    code = "import sys; from qlib_ext import cli; sys.stdin.readline(); sys.exit(cli.main(['--help']))"
    process = started(code, stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    said = process.stderr.read()
    assert process.wait(60) in (0, 141) and said == ""  # argparse may hold its tongue itself


def test_interrupted_without_a_traceback(tmp_path):
    code = f"""
import sys
from qlib_ext import cli
from qlib_ext.cli import data as _cli_data
speaker = _cli_data.speaker
def loud():
    tell = speaker()
    def say(line):
        sys.stdout.write("going\\n"); sys.stdout.flush()
        tell(line)
    return say
_cli_data.speaker = loud
sys.exit(cli.main(["demo-data", {str(tmp_path / "market")!r}, "--stocks", "500", "--years", "10"]))
"""
    process = started(code)
    assert process.stdout.readline() == "going\n"
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    said = process.stderr.read()
    assert process.wait(60) == 130 and "Traceback" not in said and said.strip().count("\n") < 3
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_errors_are_still_told_in_a_line(tmp_path, capsys):
    assert cli.main(["check-data", "--provider-uri", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("qlib-ext: error: ") and told.count("\n") == 1


# --- progress


def test_a_word_every_two_seconds_and_none_before(monkeypatch, capsys):
    clock = iter([0.0, 0.5, 1.9, 2.0, 2.1, 3.9, 4.0, 9.0])
    monkeypatch.setattr("qlib_ext.cli.data.time.perf_counter", lambda: next(clock))
    say = resolve_name("qlib_ext.cli.data:speaker")()
    for line in "abcdefg":
        say(line)
    assert capsys.readouterr().err == "[   2.0 s] c\n[   4.0 s] f\n[   9.0 s] g\n"


def test_building_a_market_tells_its_progress(tmp_path, monkeypatch, capsys):
    from qlib_ext.synthetic import make_market

    lines = []
    size = {"n_stocks": 30, "years": 0.5}
    quiet = make_market(tmp_path / "quiet", **size)
    path = make_market(tmp_path / "market", **size, say=lines.append)
    days = len((path / "calendars" / "day.txt").read_text().split())
    assert lines[:days] == [f"day {n} of {days} simulated" for n in range(1, days + 1)]
    assert lines[days:] == ["30 of 30 stocks written", "scoring the oracle"]
    assert (path / "oracle.json").read_bytes() == (quiet / "oracle.json").read_bytes()
    ticks = iter(range(0, 10_000))
    monkeypatch.setattr("qlib_ext.cli.data.time.perf_counter", lambda: next(ticks))  # a second a look
    assert cli.main(["demo-data", str(tmp_path / "other"), "--stocks", "30", "--years", "0.5"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(lines) // 2 and told[0].endswith(f"day 2 of {days} simulated")
