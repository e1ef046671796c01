"""What the documents say is so: snippets run, links lead somewhere, commands and files that they name exist."""

import argparse
import ast
import importlib
import operator
import re
import shlex
from pathlib import Path

import pytest

from qlib_ext.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def snippets():
    for page in PAGES:
        for number, code in enumerate(FENCE.findall(page.read_text(encoding="utf-8"))):
            yield pytest.param(code, id=f"{page.name}-{number}")


def named(pattern):
    """What a pattern's group finds in the pages, with the pages; code blocks and inline code alike."""
    found = {}
    for page in PAGES:
        for word in re.findall(pattern, page.read_text(encoding="utf-8")):
            found.setdefault(word, page.name)
    return sorted(found.items())


def flagged():
    """Subcommands and flags in inline code, such as `qlib-ext orders --cash X`, with their pages."""
    for page in PAGES:
        for text in re.findall(r"`(qlib-ext [^`\n]+)`", page.read_text(encoding="utf-8")):
            flags, command = re.findall(r"(?<!\S)--[a-z][a-z-]*", text), text.split()[1]
            if flags:
                yield pytest.param(command, flags, page.name, id=f"{page.name}: {text[:60]}")


def imports_only(code):
    """Whether a snippet does nothing but import: its names are then all that can be wrong."""
    return all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(code).body)


@pytest.mark.parametrize("code", list(snippets()))
def test_snippets_run(code):
    assert "assert " in code or imports_only(code), "a snippet that computes something says what came out: assert it"
    exec(compile(code, "<snippet>", "exec"), {})  # their assertions are the test


def test_there_are_snippets_with_assertions():
    asserted = [
        page.name for page in PAGES if any("assert " in code for code in FENCE.findall(page.read_text("utf-8")))
    ]
    assert {"formulas.md", "allocation.md", "units.md"} <= set(asserted)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        if target.startswith("api/"):  # written by docs/hooks.py, one page a public module
            name = Path(target).stem  # of a package or a module
            assert any((ROOT / "qlib_ext" / place).is_file() for place in (f"{name}.py", f"{name}/__init__.py"))
        else:
            assert (page.parent / target).exists(), target


def shell_lines():
    """Calls of qlib-ext in the shell blocks, continued lines joined, with their pages."""
    for page in PAGES:
        for block in SHELL.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                for place in [place for place, word in enumerate(words) if word == "qlib-ext"]:
                    ends = (at for at, word in enumerate(words) if at > place and word in ("&&", "||", ";", "|", ">"))
                    yield pytest.param(words[place + 1 : next(ends, None)], id=f"{page.name}: {' '.join(words)[:60]}")


class Parsed(BaseException):
    """The command line was understood."""


@pytest.fixture
def understood(monkeypatch):
    """Whether qlib-ext understands arguments; nothing is run."""

    def parse(self, args=None, namespace=None):
        known(self, args, namespace)
        raise Parsed

    known = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)

    def ask(words):
        try:
            main(words)
        except Parsed:
            return True
        except SystemExit as ended:
            return ended.code == 0  # --help

    return ask


@pytest.mark.parametrize("words", list(shell_lines()))
def test_command_lines_are_understood(words, understood, capsys):
    assert understood(words), capsys.readouterr().err


def test_a_wrong_flag_or_command_is_found(understood):
    assert understood(["report", "latest", "--uri", "sqlite:///x.db"]) and understood(["report", "--help"])
    assert not understood(["report", "latest", "--url", "sqlite:///x.db"])
    assert not understood(["reports", "latest"]) and not understood(["orders", "latest"])
    assert len(list(shell_lines())) > 10


@pytest.mark.parametrize(("command", "flags", "page"), list(flagged()))
def test_flags_named_in_the_text_exist(command, flags, page, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    there = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    assert set(flags) <= there, f"{page}: {command} has no {set(flags) - there}"


@pytest.mark.parametrize(("command", "page"), named(r"qlib-ext ([a-z][a-z-]+[a-z])\b"))
def test_commands_exist(command, page, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0, f"{page}: {command}; {capsys.readouterr().err}"


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = {word for word, _ in named(r"(?:`|^|\n)make ([a-z-]+)")}
    assert asked <= targets, asked - targets
    assert {"run", "test"} <= asked


@pytest.mark.parametrize(
    ("path", "page"), named(r"\b((?:workflows|examples|benchmarks|studies|docs)/[\w./-]+\.(?:yaml|ipynb|md|py))")
)
def test_files_exist(path, page):
    assert (ROOT / path).is_file(), f"{page} names {path}"


def architecture_names():
    """Names such as `losses.DayLoss` or `panel.DayPanel.batch` in the page about the rooms."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "qlib_ext").glob("*/__init__.py")}
    return sorted({name for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", text) if name.split(".")[0] in rooms})


@pytest.mark.parametrize("name", architecture_names())
def test_every_name_in_the_way_of_a_day_is_there(name):
    room, *rest = name.split(".")
    door = importlib.import_module(f"qlib_ext.{room}")
    assert rest[0] in door.__all__
    operator.attrgetter(".".join(rest))(door)


def test_the_way_of_a_day_passes_through_the_rooms():
    assert len({name.split(".")[0] for name in architecture_names()}) >= 14


def test_workflows_are_short():
    texts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "workflows").glob("*.yaml")}
    assert len(texts) == 12 and sum(len(text.splitlines()) for text in texts.values()) <= 410
    assert all("BASE_CONFIG_PATH: qlib_ext_base.yml" in text for text in texts.values())


def documented_modules():
    """Modules of the package that documents, workflows and the notebook name, with the places."""
    places = [*PAGES, *(ROOT / "workflows").glob("*.y*ml"), *(ROOT / "examples").glob("*.ipynb")]
    places += [
        *(ROOT / "qlib_ext").rglob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
        *(ROOT / "studies").glob("*.py"),
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in places if path.name not in ("CHANGELOG.md", "moved.py")}
    texts = {path: re.sub(r"get_module_logger\(.*\)|FORMAT = .*", "", text) for path, text in texts.items()}
    named = {(name, path.name) for path, text in texts.items() for name in re.findall(r"qlib_ext\.([a-z_]+)", text)}
    return sorted(named - {("room", "architecture.md")})  # "qlib_ext.room.name": any room


@pytest.mark.parametrize(("name", "page"), documented_modules())
def test_modules_that_documents_name_are_of_today(name, page):
    assert any((ROOT / "qlib_ext" / place).is_file() for place in (f"{name}.py", f"{name}/__init__.py")), page
