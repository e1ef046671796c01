"""The catalogue of docs/bad-inputs.md, row by row: read rightly, warned of or refused, never silent, never raw.

Each section has a door: a function `give(text, place, market)` in the file named below, which hands the input over as a
user would and returns what was read. It lets errors pass; `place` is an empty folder, `market` a small provider not to
be changed. A warning is whatever goes to the log, to `warnings` or to stderr.
"""

import importlib
import re
import traceback
import warnings
from pathlib import Path

import pytest

import qlib_ext

TEXT = (Path(__file__).parents[1] / "docs/bad-inputs.md").read_text(encoding="utf-8")
DOORS = {
    "Workflow": "bad_workflow",
    "Command line": "bad_command",
    "Environment": "bad_environment",
    "Scores": "bad_scores",
    "Holdings": "bad_holdings",
    "ST lists": "bad_st",
    "Past scores": "bad_past_scores",
    "Executions": "bad_executions",
    "Factor files": "bad_frames",
    "Exposures": "bad_exposures",
    "Forecasts": "bad_forecasts",
    "Macro files": "bad_macro",
    "Providers": "bad_provider",
}


def rows():
    """(section, input, answer, words) of each row."""
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        section = part.splitlines()[0]
        for line in part.splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if len(cells) == 3 and cells[0].startswith("`"):
                given = cells[0].strip("`").replace("\\|", "|").replace("\\n", "\n")
                yield section, given, cells[1], re.findall(r"`([^`]+)`", cells[2].replace("\\|", "|"))


ROWS = list(rows())


def test_the_catalogue_is_whole():
    assert {section for section, *_ in ROWS} <= set(DOORS)
    assert all(answer in ("read", "warned", "refused") and words for _, _, answer, words in ROWS)
    assert len({row[:2] for row in ROWS}) == len(ROWS), "a row stands twice"


def ours(error):
    """Whether an error was raised by the package itself, in words meant for the user."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    places = str(Path(qlib_ext.__file__).parent), str(Path(__file__).with_name("bad_command.py"))  # that saw the status
    return isinstance(error, ValueError | TypeError | OSError) and last.startswith(places)


@pytest.mark.parametrize(("section", "given", "answer", "words"), ROWS, ids=[f"{s}: {g[:60]}" for s, g, *_ in ROWS])
def test_row(section, given, answer, words, base, tmp_path, caplog, capfd):
    give = importlib.import_module(DOORS[section]).give
    if answer == "refused":
        with pytest.raises((ValueError, TypeError, OSError)) as caught:
            give(given, tmp_path, base)
        assert ours(caught.value), f"raw: {caught.value!r}"
        said = str(caught.value)
    else:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            got = give(given, tmp_path, base)
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        said = "\n".join([*map(str, (w.message for w in warned)), *told, capfd.readouterr().err])
        if answer == "read":
            said = str(got)
    assert not [word for word in words if word not in said], said
