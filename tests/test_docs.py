"""What the documents say is so: snippets run, links lead somewhere, commands and files that they name exist."""

import re
from pathlib import Path

import pytest

from qlib_ext.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
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


@pytest.mark.parametrize("code", snippets())
def test_snippets_run(code):
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
            assert (ROOT / "qlib_ext" / f"{Path(target).stem}.py").is_file() and not Path(target).stem.startswith("_")
        else:
            assert (page.parent / target).exists(), target


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
    ("path", "page"), named(r"\b((?:workflows|examples|benchmarks|docs)/[\w./-]+\.(?:yaml|ipynb|md|py))")
)
def test_files_exist(path, page):
    assert (ROOT / path).is_file(), f"{page} names {path}"
