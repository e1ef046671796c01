"""One evening of `qlib-ext daily` that goes wrong: killed at each of its writes, without the day's bars, by force."""

import pickle
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from desk import CASH, change, files, grow, record_run, start
from qlib.data import D

from qlib_ext.cli import main
from qlib_ext.daily import read_journal

FIRST = pd.Timestamp("2020-10-12")


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return record_run(tmp_path_factory.mktemp("evening"), FIRST)


@pytest.fixture
def desk(made):
    """The run as it was, the provider at the close of the first day after its test."""
    saved = made.folder / "saved"
    if not saved.exists():
        shutil.copytree(made.artifacts, saved)
    for folder in (made.artifacts, made.live, made.out):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, made.artifacts)
    grow(made.full, made.live, FIRST)
    return made


def evening(desk, *options, today=FIRST):
    line = ["daily", "latest", "--uri", desk.uri, "--cash", f"{CASH:.0f}", "--out", str(desk.out), *options]
    return main([*line, "--today", f"{today:%Y-%m-%d}"])


def killed_at(desk, write, monkeypatch):
    """Run an evening that is killed before a file takes its place; returns whether there were so many writes."""
    count, place = iter(range(write + 1)), Path.replace

    def replace(self, target):
        if desk.folder in Path(target).parents and next(count) == write:
            raise Killed
        return place(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        try:
            evening(desk)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("again", [False, True], ids=["first evening", "second evening"])
def test_killed_at_any_write_the_next_call_finishes(desk, monkeypatch, again):
    """Same bytes in the end as an evening that nothing disturbed: the end of the test, its population, the scores."""
    if again:
        evening(desk)
        grow(desk.full, desk.live, desk.days[desk.at + 1])
    before = desk.folder / "before"
    for name, folder in (("artifacts", desk.artifacts), ("desk", desk.out)):
        shutil.rmtree(before / name, ignore_errors=True)
        if folder.exists():
            shutil.copytree(folder, before / name)

    def back():
        for name, folder in (("artifacts", desk.artifacts), ("desk", desk.out)):
            shutil.rmtree(folder, ignore_errors=True)
            if (before / name).exists():
                shutil.copytree(before / name, folder)

    assert evening(desk) == 0
    want, state = files(desk), pickle.loads((desk.artifacts / "daily.pkl").read_bytes())
    assert state["tested"] == desk.days[desk.at - 1]
    writes = 0
    while back() or killed_at(desk, writes, monkeypatch):
        assert evening(desk) == 0
        got = files(desk)
        assert got.keys() == want.keys() and [name for name in want if got[name] != want[name]] == [], writes
        writes += 1
    assert writes == (5 if again else 6) and files(desk) == want


def test_killed_on_an_evening_that_is_run_again_the_next_call_still_rings(desk, monkeypatch, capsys):
    """A bar was issued again: whichever write the kill came before, the alarm is told, and told once."""
    change(desk.live, "SH600018", "high", np.array([desk.at]), 1.003)
    assert evening(desk) == 0
    grow(desk.full, desk.live, FIRST)
    before = {folder: {file: file.read_bytes() for file in folder.iterdir()} for folder in (desk.artifacts, desk.out)}
    writes, want = 0, None
    while True:
        killed = killed_at(desk, writes, monkeypatch)
        if not killed:
            break
        capsys.readouterr()
        assert evening(desk) == 1, writes
        assert "1 bars were issued again, SH600018" in capsys.readouterr().out
        want = want or files(desk)
        assert files(desk) == want
        assert evening(desk) == 3 and files(desk) == want
        for kept in before.values():
            for file, content in kept.items():
                file.write_bytes(content)
        writes += 1
    assert writes == 5 and files(desk) == want  # scores and their twin, the list, the state, the journal


def test_a_bar_of_the_test_that_is_issued_again_rings_once_and_leaves_its_scores(desk, capsys):
    last = desk.days[desk.at - 1]
    grow(desk.full, desk.live, last)
    change(desk.live, "SH600018", "high", np.array([desk.at - 1]), 1.003)
    evening(desk, today=last)
    scores = (desk.artifacts / "pred.pkl").read_bytes()
    grow(desk.full, desk.live, last)
    assert evening(desk, today=last) == 1
    assert f"SH600018 of {last.date()}" in (said := capsys.readouterr().out)
    assert f"scores of the test, to {last.date()}, stay" in said
    assert (desk.artifacts / "pred.pkl").read_bytes() == scores
    before = files(desk)
    assert evening(desk, today=last) == 3 and files(desk) == before
    grow(desk.full, desk.live, FIRST)
    assert evening(desk) == 0
    assert read_journal(desk.out)["corrected"].tolist() == [1, 0]


def test_the_test_ends_with_its_segment_though_another_has_added_scores(desk):
    """As qlib's own updater does."""
    scores = pd.read_pickle(desk.artifacts / "pred.pkl")
    day = scores.xs(desk.days[desk.at - 1], drop_level=False)
    more = pd.concat({FIRST: day.droplevel("datetime")}, names=["datetime"])
    pd.concat([scores, more]).to_pickle(desk.artifacts / "pred.pkl")
    grow(desk.full, desk.live, desk.days[desk.at + 1])
    assert evening(desk, today=desk.days[desk.at + 1]) == 0
    assert pd.read_pickle(desk.artifacts / "daily.pkl")["tested"] == desk.days[desk.at - 1]


def test_what_an_older_version_kept_opens(desk, capsys):
    """Without `flat` the population of the test is described anew, of the same days."""
    assert evening(desk) == 0
    file = desk.artifacts / "daily.pkl"
    state = pd.read_pickle(file)
    flat = state["reference"].pop("flat")
    file.write_bytes(pickle.dumps(state))
    second = desk.days[desk.at + 1]
    grow(desk.full, desk.live, second)
    assert evening(desk, today=second) == 0 and "no alarm" in capsys.readouterr().out
    now = pd.read_pickle(file)
    assert now["tested"] == state["tested"]
    np.testing.assert_array_equal(now["reference"]["flat"], flat)
    np.testing.assert_array_equal(now["reference"]["edges"], state["reference"]["edges"])


def test_a_warning_is_told_once_and_without_a_path(desk, monkeypatch, capsys):
    """Whatever loads the data twice warns twice."""
    parts = [sys.modules[f"qlib_ext.daily.{name}"] for name in ("update", "routine")]
    load = parts[0].load_data

    def warned(*args):
        warnings.warn("$vwap is not there", stacklevel=1)
        return load(*args)

    for part in parts:
        monkeypatch.setattr(part, "load_data", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert evening(desk) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "vwap" in line]
    assert said == ["warning: $vwap is not there", "2 times: $vwap is not there"]


@pytest.mark.parametrize("dealt", [True, False])
def test_executions_are_summed_up_by_hand_and_may_be_none(desk, tmp_path, dealt):
    """1 million bought at 1% above its arrival price, 10,000 yuan; 2 millions sold at 1% below, 20,000 yuan."""
    lines = ["date,code,side,yuan,arrival,average", "2020-10-09,600018,buy,50000,10,12"]  # of an earlier day
    lines += ["2020-10-12,600018,buy,1e6,10,10.1", "2020-10-12,600018,sell,2e6,10,9.9"] if dealt else []
    file = tmp_path / "fills.csv"
    file.write_text("\n".join(lines) + "\n")
    assert evening(desk, "--fills", str(file)) == 0
    line = read_journal(desk.out).iloc[0]
    assert line[["fills", "fill_yuan", "slippage"]].tolist() == ([2, 3e6, 3e4] if dealt else [0, 0.0, 0.0])


# --- data that are late, wrong, or both


def take_bars(desk, day, stocks):
    """Take the bars of a day away, as a vendor does that is late."""
    start(desk.live)
    there = D.features(D.instruments("all"), ["$close"], day, day)["$close"].dropna()
    for code in there.index.get_level_values("instrument")[:stocks]:
        change(desk.live, code, "*", np.array([desk.days.get_loc(day)]), np.nan)


def test_a_day_that_comes_late_is_told_and_then_caught_up(desk, capsys):
    second, third = desk.days[desk.at + 1 : desk.at + 3]
    assert evening(desk) == 0
    before = files(desk)
    assert evening(desk, today=second) == 1  # the provider has nothing new
    assert (
        f"the data end {FIRST.date()}, but {second.date()} was a trading day: they are LATE" in capsys.readouterr().out
    )
    after = files(desk)
    assert after == before
    grow(desk.full, desk.live, third)
    assert evening(desk, today=third) == 0
    assert "scored 2 days, 1 missed before" in capsys.readouterr().out
    assert read_journal(desk.out)["data_day"].tolist() == [FIRST, third]


@pytest.mark.parametrize("force", [False, True])
def test_a_day_without_bars_is_refused_by_force_too(desk, capsys, force):
    """The calendar has it, no stock does: there is nothing to score, and nothing to order by."""
    take_bars(desk, FIRST, None)
    before = {file.name: file.read_bytes() for file in desk.artifacts.iterdir() if file.is_file()}
    assert evening(desk, *["--force"] * force) == 2
    words = "no stock has a score on 2020-10-12" if force else "bars end 2020-10-09, the days 2020-10-12"
    assert words in capsys.readouterr().err
    assert not list(desk.out.glob("*.csv"))
    assert before == {f.name: f.read_bytes() for f in desk.artifacts.iterdir() if f.is_file() and f.name[0] != "."}
    grow(desk.full, desk.live, FIRST)
    assert evening(desk) == 0


def test_a_day_in_part_is_refused_or_forced_and_scored_anew_when_whole(desk, capsys):
    take_bars(desk, FIRST, 15)
    assert evening(desk) == 2
    said = capsys.readouterr().err
    assert "NO BAR" in said and not list(desk.out.glob("*.csv")), said
    assert evening(desk, "--force") in (0, 1)
    capsys.readouterr()
    half = pd.read_pickle(desk.artifacts / "pred.pkl").loc[FIRST]
    grow(desk.full, desk.live, FIRST)
    assert evening(desk) == 1
    assert "bars were issued again" in capsys.readouterr().out
    whole = pd.read_pickle(desk.artifacts / "pred.pkl").loc[FIRST]
    assert len(whole) > len(half) + 10
    shutil.rmtree(desk.artifacts)
    shutil.copytree(desk.folder / "saved", desk.artifacts)
    assert evening(desk) == 0
    pd.testing.assert_series_equal(whole["score"], pd.read_pickle(desk.artifacts / "pred.pkl")["score"].loc[FIRST])


def test_errors_in_the_data_end_the_evening_unless_forced(desk, capsys):
    change(desk.live, "SH600018", "low", np.array([desk.at]), -1.0)
    assert evening(desk) == 2
    said = capsys.readouterr().err
    assert "errors in the data" in said and "SH600018" in said and "--force" in said
    assert not list(desk.out.glob("*.csv"))
    assert evening(desk, "--force") == 1
    assert "gone on by --force" in capsys.readouterr().out
    assert "gone on by --force" in read_journal(desk.out)["alarm"].item()
