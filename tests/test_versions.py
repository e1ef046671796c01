"""What setup.cfg allows, what the tests ran with and what `make versions` runs them with are one list."""

import configparser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as name_of
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def required():
    """Requirements of setup.cfg by extra, "" for those without one."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {extra: list(map(Requirement, text.strip().splitlines())) for extra, text in lists.items()}


def pinned(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert len({name_of(name) for name, _ in pairs}) == len(pairs)
    return {name_of(name): Version(version) for name, version in pairs}


def test_the_lowest_versions_are_those_of_setup_cfg():
    asked = [asked for extra, each in required().items() if extra not in ("test", "mutation") for asked in each]
    bounds = {name_of(a.name): Version(s.version) for a in asked for s in a.specifier if s.operator == ">="}
    assert bounds == pinned("constraints-lowest.txt")
    exact = [str(a) for a in asked if name_of(a.name) not in bounds]
    assert exact == ["pyqlib==0.9.7"], "a requirement without a lowest version"


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-plots.txt"])
def test_what_the_tests_ran_with_is_allowed(file):
    pins = pinned(file)
    every = [asked for each in required().values() for asked in each if asked.name != "qlib_ext"]
    there = [asked for asked in every if name_of(asked.name) in pins]
    assert not [str(asked) for asked in there if pins[name_of(asked.name)] not in asked.specifier]
    if file == "constraints.txt":
        assert there == every, "a requirement that is not pinned"
