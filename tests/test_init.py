"""init: what it finds out about a small embedded market, and that the workflow it writes runs."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from jinja2 import Template

from qlib_ext import cli
from qlib_ext.runs import Task, find_run
from qlib_ext.synthetic import make_market
from qlib_ext.workflow import (
    Universe,
    choose_universe,
    describe,
    load_workflow,
    split_days,
    survey,
    workflow_text,
)

WORKFLOWS = Path(__file__).parents[1] / "workflows"


@pytest.fixture
def market(market_copy):
    return market_copy


def parsed(text):
    return yaml.safe_load(Template(text).render())


def written(folder, model="mlp", **options):
    return parsed(workflow_text(survey(folder, model=model, **options), model))


def days_of(folder):
    return pd.DatetimeIndex((folder / "calendars" / "day.txt").read_text().split())


# --- what it finds


def test_what_is_found_in_the_embedded_market(base):
    found = survey(base)
    assert found.profile == "community" and found.missing == [] and found.benchmark == "SH000300"
    assert [u.name for u in found.universes] == ["all", "csi300"] and found.universe.name == "all"
    assert found.universe.stocks == 60 and found.universe.indices == 0
    days = days_of(base)
    lines = [line.split("\t") for line in (base / "instruments" / "csi300.txt").read_text().splitlines()]
    spans = [(pd.Timestamp(first), pd.Timestamp(last)) for _, first, last in lines]
    mean = np.mean([sum(first <= day <= last for first, last in spans) for day in days])
    assert found.universes[1].daily == pytest.approx(mean)
    assert 1e7 < found.turnover < 5e9
    told = describe(found)
    assert "community" in told and "all 60 stocks" in told and "Missing" not in told


def test_segments_keep_their_gaps(base):
    days = days_of(base)
    found = survey(base, model="master")
    rows = {name: days.get_indexer(list(span)) for name, span in found.segments.items()}
    assert rows["test"][1] == len(days) - 7  # its label ends on the last day
    # the window of the next part's first day (8 days) begins after the last label's reach (6 days)
    for before, after in (("train", "valid"), ("valid", "test")):
        assert rows[after][0] - 7 > rows[before][1] + 6 - 1
        assert rows[after][0] - rows[before][1] == 6 + 8 - 1 + 1
    assert found.days == {name: b - a + 1 for name, (a, b) in rows.items()}


def test_split_by_hand():
    # bars 0 to 999: stop 993, start 60, 934 days less two gaps of 6 + 1 - 1 = 6: 922; 461, 153 and the rest
    assert split_days(0, 999, stocks=300) == {"train": (60, 520), "valid": (527, 679), "test": (686, 993)}
    # 6 years of 243 days at most; 4,000,000 / 5,000 = 800 days at most, 1,500,000 / 5,000 = 300 of MASTER
    assert split_days(0, 9999, stocks=300)["train"][0] == 9993 - 1458 + 1
    assert split_days(0, 9999, stocks=5000)["train"][0] == 9993 - 1200 + 1
    assert split_days(0, 9999, stocks=5000, model="master")["train"][0] == 9993 - 300 + 1
    for model in ("mlp", "master"):  # the fewest days: no part is empty
        parts = split_days(0, 149, stocks=300, model=model).values()
        assert min(last - first for first, last in parts) >= 10
    with pytest.raises(ValueError, match="149 days with bars are too few"):
        split_days(0, 148, stocks=300)


def test_what_is_left_out_is_told(base):
    found = survey(base)
    assert "Left out" not in describe(found)  # the features look back into what is before train
    late = {"train": (found.bars[0] + pd.Timedelta(days=4382), found.bars[1])}
    (line,) = [line for line in describe(replace(found, segments=late)).splitlines() if line.startswith("Left out")]
    assert "12.0 years: at most 6 years, half of them to learn from: three were measured" in line
    large = replace(found, segments=late, universe=Universe("all", 5000, 0, 4700.0))
    assert "12.0 years: at most 6 million stock days, for memory and time; three years" in describe(large)


def test_the_choice_of_the_universe():
    whole, clean = Universe("all", 5000, 6, 4500.0), Universe("ashare", 5000, 0, 4500.0)
    csi300, csi800, tiny = Universe("csi300", 500, 0, 300.0), Universe("csi800", 1200, 0, 800.0), Universe("x", 9, 0, 9)
    assert choose_universe([whole, clean, csi300, csi800, tiny]) == (clean, "the largest universe without indices")
    assert choose_universe([whole, clean, csi300, csi800, tiny], model="master")[0] is csi800
    assert "--universe ashare" in choose_universe([whole, clean, csi300, csi800], model="master")[1]
    found, reason = choose_universe([whole, clean], model="master")
    assert found is clean and reason.startswith("the smallest universe without indices; all have more than 1,000")
    assert choose_universe([whole, csi300], asked=True) == (whole, "as asked for")
    assert choose_universe([csi300, tiny])[1] == "the largest universe without indices"
    assert "which DayDatasetH leaves out" in choose_universe([Universe("all", 400, 6, 400.0)])[1]
    with pytest.raises(ValueError, match="no universe with 30 stocks a day or more .*x 9"):
        choose_universe([tiny])


def test_what_the_provider_lacks_is_told(market):
    shutil.rmtree(market / "features" / "sh000300")
    for place in (market / "features").iterdir():
        (place / "vwap.day.bin").unlink()
    found = survey(market)
    assert found.missing == ["vwap"] and found.benchmark is None and "VWAP0 will be 0" in describe(found)
    task = parsed(workflow_text(found, "master"))["task"]
    backtest = task["record"][3]["kwargs"]["config"]["backtest"]
    assert backtest["benchmark"] == found.stand_in and len(found.stand_in) > 40
    assert task["record"][4]["kwargs"]["benchmark"] is None
    other = make_market(market.parent / "other", n_stocks=10, years=0.7, seed=2)
    shutil.move(other / "features" / "sh000300", market / "features" / "sh000905")  # 170 days: not up to the end
    assert survey(market).benchmark is None


def test_errors_name_the_cure(market):
    with pytest.raises(ValueError, match="model 'masters'.*Allowed: best, mlp, master"):
        survey(market, model="masters")
    with pytest.raises(ValueError, match="no universe 'csi30'.*close: csi300"):
        survey(market, universe="csi30")
    with pytest.raises(ValueError, match="csi300 2[0-9]"):  # 24 members a day are too few to rank
        survey(market, universe="csi300")
    for place in (market / "features").iterdir():
        raw = np.fromfile(place / "amount.day.bin", "<f4")
        raw[1:] *= 37
        raw.tofile(place / "amount.day.bin")
    with pytest.raises(ValueError, match="run qlib-ext check-data"):
        survey(market)


def test_the_names_that_take_the_capital_are_told(market):
    found = survey(market)
    days = days_of(market)
    rows = slice(days.get_loc(found.segments["train"][0]), days.get_loc(found.segments["valid"][1]) + 1)
    means = []
    for code, first, last in (
        line.split("\t") for line in (market / "instruments" / "all.txt").read_text().splitlines()
    ):
        raw = np.fromfile(market / "features" / code.lower() / "amount.day.bin", "<f4")
        yuan = pd.Series(raw[1:].astype(float) * 1000, index=days[int(raw[0]) : int(raw[0]) + len(raw) - 1]).reindex(
            days
        )
        own = yuan.rolling(20, min_periods=1).mean()[yuan.notna()].reindex(days)
        means.append(own[(days >= first) & (days <= last)].reindex(days).iloc[rows])
    median = np.nanmedian(np.concatenate(means))
    assert found.liquidity == pytest.approx(median, rel=1e-6)
    assert found.names == np.ceil(150e6 / 0.05 / median) >= 20
    text = workflow_text(found, "master")
    assert f"fit into {found.names} names" in text and f"top_n: {found.names}, " in text
    assert f"{found.names} names of median liquidity" in describe(found)
    for code in (line.split("\t")[0] for line in (market / "instruments" / "all.txt").read_text().splitlines()):
        for field in ("amount", "volume"):
            place = market / "features" / code.lower() / f"{field}.day.bin"
            raw = np.fromfile(place, "<f4")
            raw[1:] *= 5
            raw.tofile(place)
    for model in ("master", "mlp"):
        few = survey(market, model=model)
        assert few.names < 20
        text = workflow_text(few, model)
        assert few.top_n == 20 and parsed(text)["task"]["record"][4]["kwargs"]["top_n"] == 20  # 5% of the capital each
        share = 20 / few.universe.daily
        assert f"fit into {few.names} names of median liquidity" in text
        assert f"({few.liquidity / 1e6:,.0f} million yuan a day). top_n: 20, {share:.0%} of" in text
        assert max(map(len, text.splitlines())) <= 120 + len(str(market))
    assert few.liquidity == pytest.approx(5 * found.liquidity, rel=0.03)


def change(folder, code, field, alter, rows):
    place = folder / "features" / code.lower() / f"{field}.day.bin"
    raw = np.fromfile(place, "<f4")
    at = slice(1 + max(rows.start - int(raw[0]), 0), None if rows.stop is None else 1 + rows.stop - int(raw[0]))
    raw[at] = alter(raw[at])
    raw.tofile(place)


def test_nothing_of_the_test_period_chooses_the_stocks_of_the_benchmark(market):
    shutil.rmtree(market / "features" / "sh000300")
    found, days = survey(market), days_of(market)
    test = days.get_loc(found.segments["test"][0])
    gone = found.stand_in[0]
    change(market, gone, "close", lambda v: v * np.nan, slice(test, None))  # trades to the eve of test, then never
    for code in found.stand_in:
        change(market, code, "amount", lambda v: v * 3, slice(test, None))
    later = survey(market)
    assert later.segments == found.segments and later.stand_in == found.stand_in and gone in later.stand_in
    assert later.liquidity == found.liquidity
    change(market, gone, "close", lambda v: v * np.nan, slice(test - 30, None))  # suspended on the eve
    assert gone not in survey(market).stand_in


def test_unusual_units_that_amount_settles_are_no_error(market):
    lines = (market / "instruments" / "all.txt").read_text().splitlines()
    for code in (line.split("\t")[0] for line in lines):
        for field in ("amount", "volume"):
            change(market, code, field, lambda v: v / 100, slice(0, None))
    assert survey(market).turnover < 1e7
    for code in (line.split("\t")[0] for line in lines):
        (market / "features" / code.lower() / "amount.day.bin").unlink()
    with pytest.raises(ValueError, match=r"run qlib-ext check-data: .*\$close \* \$volume averages"):
        survey(market)


def test_the_capital_is_that_of_the_template(base):
    kwargs = written(base)["task"]["record"][4]["kwargs"]
    assert (kwargs["capital"], kwargs["participation"]) == (150e6, 0.05)  # by which `Survey.names` counts
    assert kwargs["max_weight"] == 0.05


def test_progress_is_told_once_it_takes_two_seconds(base, monkeypatch, tmp_path, capsys):
    lines = []
    survey(base, say=lines.append)
    assert [line for line in lines if line.startswith("units: ")] == [
        "units: 50 of 60 stocks read",
        "units: 60 of 60 stocks read",
    ]
    assert len([line for line in lines if line.startswith("universes: ")]) == 2
    arguments = ["init", "--provider-uri", str(base), "--force", "--out", str(tmp_path / "workflow.yaml")]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().err == ""  # under two seconds
    ticks = iter(range(0, 10_000, 3))
    monkeypatch.setattr(
        "qlib_ext.cli.data.time.perf_counter", lambda: next(ticks)
    )  # every look at the clock is 3 s later
    assert cli.main(arguments) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"[   3.0 s] looking at {base}" and len(told) == len(lines)


# --- what it writes


@pytest.mark.parametrize("model", ["master", "mlp"])
def test_the_text_keeps_in_step_with_the_workflows(model, base):
    own = written(base, model)
    shipped = load_workflow(WORKFLOWS / "master_best.yaml")
    if model == "mlp":  # the same for the other network
        learnt = shipped["task"]["model"]["kwargs"]
        own_options = {name: learnt[name] for name in learnt if name not in ("d_model", "attention_dropout")}
        shipped["task"]["model"] |= {"class": "MLPModel", "kwargs": own_options | {"epochs": 4}}
        shipped["task"]["dataset"]["kwargs"]["step_len"] = 1
    assert own["qlib_init"].pop("provider_uri") == str(base)
    shipped["qlib_init"].pop("provider_uri")
    dates = [own["task"]["dataset"]["kwargs"].pop("segments"), shipped["task"]["dataset"]["kwargs"].pop("segments")]
    for workflow, segments in zip((own, shipped), dates, strict=True):
        handler = workflow["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        span = [handler.pop(name, None) for name in ("start_time", "end_time", "fit_start_time", "fit_end_time")]
        assert span in ([segments["train"][0], segments["test"][1], *segments["train"]], [None] * 4)
        workflow.pop("experiment_name")
        workflow["task"]["dataset"]["kwargs"]["segments"] = segments
        (backtest,) = Task(workflow["task"]).backtests  # what is not written is the default
        assert [backtest["backtest"].pop(name) for name in ("start_time", "end_time")] == segments["test"]
        del workflow["task"]["dataset"]["kwargs"]["segments"]
        money = {"capital": 150_000_000, "participation": 0.05, "max_weight": 0.05, "benchmark": "SH000300"}
        records = [(one["class"], one.pop("kwargs", {})) for one in workflow["task"].pop("record")]
        records = [one for one in records if one[0] != "BaselineRecord"]
        top = dict(records)["LiquidityRecord"].pop("top_n", None)
        assert dict(records)["LiquidityRecord"] in (money, {"max_weight": 0.05}) and top in (None, survey(base).top_n)
        workflow["record"] = [name for name, _ in records], backtest
    assert own == shipped


def test_the_command_writes_and_does_not_overwrite(market, tmp_path, capsys):
    out = tmp_path / "new" / "workflow.yaml"
    arguments = ["init", "--provider-uri", str(market), "--out", str(out), "--model", "mlp"]
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert f"qrun {out}" in told and "Chosen     all" in told
    assert parsed(out.read_text())["task"]["model"]["class"] == "MLPModel"
    out.write_text("mine")
    assert cli.main(arguments) == 2
    assert "add --force to overwrite it" in capsys.readouterr().err and out.read_text() == "mine"
    assert cli.main([*arguments, "--force"]) == 0
    assert parsed(out.read_text())["experiment_name"] == "mlp_5_days_all"


BUILD = """
import sys, yaml, qlib
from jinja2 import Template
from qlib.utils import init_instance_by_config
from pathlib import Path
config = yaml.safe_load(Template(Path(sys.argv[1]).read_text()).render())
config["qlib_init"].pop("exp_manager")
qlib.init(**config["qlib_init"])
dataset = init_instance_by_config(config["task"]["dataset"])
init_instance_by_config(config["task"]["model"])
print({name: len(dataset.rows(name)) for name in dataset.segments}, dataset.panel.x.shape)
"""


def build(workflow):
    """Days of each segment and shape of the panel, once qlib has built the data set and the model of a workflow."""
    command = [sys.executable, "-c", BUILD, workflow.name]
    done = subprocess.run(command, cwd=workflow.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, shape = done.stdout.strip().splitlines()[-1].split("} ")
    return yaml.safe_load(rows + "}"), [int(size) for size in re.findall(r"\d+", shape)]


def test_the_written_workflow_builds_its_dataset(market, tmp_path):
    found = survey(market, model="master")
    (tmp_path / "workflow.yaml").write_text(workflow_text(found, "master"))
    rows, shape = build(tmp_path / "workflow.yaml")
    assert rows == found.days, "no day may be purged: the gaps are wide enough"
    assert shape[-1] == 298


@pytest.mark.realdata
@pytest.mark.skipif("QLIB_EXT_REAL_DATA" not in os.environ, reason="needs QLIB_EXT_REAL_DATA, a provider of A shares")
def test_the_workflow_of_real_data_builds_its_dataset(tmp_path, capsys):
    folder, out = Path(os.environ["QLIB_EXT_REAL_DATA"]).resolve(), tmp_path / "workflow.yaml"
    assert cli.main(["init", "--provider-uri", str(folder), "--universe", "csi300", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "Chosen     csi300" in told and "Benchmark  SH000300" in told
    config = parsed(out.read_text())
    assert config["qlib_init"]["provider_uri"] == str(folder)
    kwargs = config["task"]["model"]["kwargs"]
    assert kwargs["members"][2]["kwargs"]["metric"] == "rank_ic" and "names of median liquidity" in told
    found = survey(folder, universe="csi300")
    assert 2 <= found.names <= 12 and found.profile in ("adjusted_shares", "community")
    rows, (days, stocks, features) = build(out)
    assert rows == found.days and features == 298
    assert days >= sum(rows.values()) and stocks >= 300


@pytest.mark.slow
@pytest.mark.parametrize(("model", "index"), [("master", True), ("mlp", False)])
def test_the_written_workflow_runs(model, index, market, tmp_path):
    if not index:
        shutil.rmtree(market / "features" / "sh000300")
    out = tmp_path / "workflow.yaml"
    assert cli.main(["init", "--provider-uri", str(market), "--out", str(out), "--model", model]) == 0
    command = [str(Path(sys.executable).with_name("qrun")), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert output.count("\n") < 60, output
    shown = find_run("latest", uri=f"sqlite:///{tmp_path / 'mlruns.db'}").folder
    report = pd.read_pickle(shown / "portfolio_analysis" / "report_normal_1day.pkl")
    assert report["bench"].std() > 0 and (shown / "liquidity_analysis" / "headline.pkl").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("stocks", "years"), [(300, 1.0), (1000, 0.8), (4700, 0.65)])
def test_no_more_than_a_twentieth_in_one_stock_in_any_market(stocks, years, tmp_path):
    """What init writes trains, is judged and trades; nowhere does a stock have more than 5% of the capital."""
    folder, out = tmp_path / "market", tmp_path / "workflow.yaml"
    make_market(folder, n_stocks=stocks, years=years)
    assert cli.main(["init", "--provider-uri", str(folder), "--universe", "all", "--out", str(out)]) == 0
    text = out.read_text()
    kwargs = parsed(text)["task"]["record"][4]["kwargs"]
    assert 20 <= kwargs["top_n"] <= stocks and kwargs["max_weight"] == 0.05
    out.write_text(re.sub(r"\n    - \{class: ReportRecord.*", "\n", text))
    command = [str(Path(sys.executable).with_name("qrun")), out.name]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    (kept,) = tmp_path.glob("mlruns/*/*/artifacts")
    assert "more than 5%" not in output + (kept / "run.log").read_text()
    judged = pd.read_pickle(kept / "liquidity_analysis" / "daily.pkl")
    largest = judged[["capped_largest_weight", "topn_largest_weight"]]
    assert (
        largest.median() <= 0.05 + 1e-9
    ).all() and largest.to_numpy().max() < 0.06  # a locked one stays beside the new
    traded = kept / "portfolio_analysis"
    account = pd.read_pickle(traded / "report_normal_1day.pkl")
    targets = pd.read_pickle(traded / "daily_targets.pkl").set_index("date")["target"]
    weight = targets / account["account"].shift(1, fill_value=150e6).reindex(targets.index)
    assert 0 < weight.max() <= 0.05 * 1.2 and account["turnover"].sum() > 0.1  # decided at a close, told a day later
