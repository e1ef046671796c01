"""What a run was: gathered from its dataset and model, kept once, told in the header; absent for older runs."""

import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import test_data
from qlib.workflow.record_temp import ACRecordTemp
from test_record import Dataset, Recorder, make_panel

from qlib_ext.cli import run_context
from qlib_ext.data import DayDatasetH, unit_profile
from qlib_ext.model import FoldEnsemble, MLPModel, WalkForwardModel
from qlib_ext.record import LiquidityRecord, ReportRecord, context_of, run_facts
from qlib_ext.report import differing_facts
from qlib_ext.runs import FACTS, Run
from qlib_ext.synthetic import make_market

QUICK = {"hidden": [4, 2], "epochs": 1, "device": "cpu", "loss": "mse", "metric": "ic"}
SEGMENTS = {"train": ("2020-02-03", "2020-04-30"), "valid": ("2020-05-06", "2020-05-29"),
            "test": ("2020-06-01", "2020-06-30")}  # fmt: skip
KNOWN = {
    "units": "community", "stocks": 4321, "seeds": [0, 0, 7, 7], "folds": 2, "devices": ["cuda", "cuda", "cpu", "cpu"],
    "precisions": ["bfloat16", "bfloat16", "float32", "float32"],
    "days": {"train": ("2020-02-03", "2020-04-28", 58), "test": ("2020-06-01", "2020-06-30", 20)},
    "versions": {"Python": "3.11.9", "qlib_ext": "0.0.1", "pyqlib": "0.9.7", "torch": "1.2.3", "marina-rules": "9.8"},
}  # fmt: skip
ROWS = ("stocks", "days used", "device", "versions", "seeds")


def fact(context, name, language="en"):
    (value,) = (value for key, value in context.facts if key.en == name)
    return value if isinstance(value, str) else getattr(value, language)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small embedded market, and the same without $amount, its volumes in shares."""
    place = tmp_path_factory.mktemp("facts")
    made = make_market(place / "market", n_stocks=30, start="2020-01-02", years=0.6, seed=3)
    shutil.copytree(made, place / "bare")
    for file in (place / "bare" / "features").glob("*/volume.day.bin"):
        file.with_name("amount.day.bin").unlink(missing_ok=True)
        start, *lots = np.fromfile(file, "<f4")
        np.array([start, *(100 * value for value in lots)], "<f4").tofile(file)
    return place


def make_dataset(folder, market="market", **options):
    test_data.start_qlib(folder / market, folder)
    fields = {"feature": (["$close/Ref($close, 5)"], ["ROC5"]), "label": ([test_data.LABEL], ["LABEL0"])}
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": fields}}
    span = {"start_time": "2020-02-03", "end_time": "2020-06-30", "instruments": "all"}
    handler = test_data.DataHandlerLP(**span, data_loader=loader, infer_processors=[], learn_processors=[])
    return DayDatasetH(handler, SEGMENTS, **{"step_len": 2, "listing_age": 5} | options)


@pytest.fixture(scope="module")
def dataset(folder):
    return make_dataset(folder)


# --- gathered


def test_a_run_without_a_seed_has_seed_0(dataset):
    model = MLPModel(**QUICK)
    model.fit(dataset)
    facts = run_facts(dataset, model)
    assert (facts["seeds"], facts["devices"], facts["precisions"]) == ([0], ["cpu"], [model.trainer.precision])
    panel, days = dataset.panel, pd.DatetimeIndex(dataset.panel.days)
    assert facts["stocks"] == len(panel.stocks) and "folds" not in facts
    train = days[(days >= "2020-02-03") & (days <= "2020-04-30")]
    first, last, count = facts["days"]["train"]  # a label of 2 days: the last 2 of 60 reach into valid
    assert (first, last, count) == ("2020-02-03", str(train[-3].date()), len(train) - 2)
    assert facts["days"]["test"] == ("2020-06-01", "2020-06-30", int((days >= "2020-06-01").sum()))
    names = ["Python", "qlib_ext", "pyqlib", "torch", "numpy", "pandas", "marina-rules"]
    assert list(facts["versions"]) == names and facts["versions"]["numpy"] == np.__version__
    assert pickle.loads(pickle.dumps(facts)) == facts


def test_the_unit_profile_is_the_one_that_was_used(folder, dataset):
    stocks = [str(code) for code in dataset.panel.stocks]
    assert run_facts(dataset, None)["units"] == unit_profile(stocks, "2020-02-03", "2020-06-30") == "community"
    bare = make_dataset(folder, "bare")
    assert bare.liquidity == "auto" and run_facts(bare, None)["units"] == "adjusted_shares"
    test_data.start_qlib(folder / "market", folder)
    for given, told in (("$amount * 1000", "community"), ("$amount * 1e3", "$amount * 1e3"), (None, None)):
        assert run_facts(make_dataset(folder, liquidity=given), None)["units"] == told


def test_days_and_seeds_of_folds(folder, dataset):
    test_data.start_qlib(folder / "market", folder)
    inner = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": QUICK}
    folds = FoldEnsemble(model=inner, n_splits=2, seeds=[3, 5])
    folds.fit(dataset)
    facts = run_facts(dataset, folds)
    assert facts["seeds"] == [3, 5, 3, 5] and facts["folds"] == 2
    days = pd.DatetimeIndex(dataset.panel.days)
    both = int((days < "2020-06-01").sum()) - 2  # all of train and valid, but for the 2 days before test
    assert facts["days"]["valid"] == ("2020-02-03", str(days[both - 1].date()), both)
    walk = WalkForwardModel(model=inner, step=12)
    walk.fit(dataset)
    facts = run_facts(dataset, walk)
    assert facts["folds"] == 2 and facts["seeds"] == [0, 0] and list(facts["days"]) == ["train", "valid", "test"]


ALWAYS = ["versions", "days_a_year", "processor", "threads"]


def test_what_is_not_known_is_left_out(dataset, monkeypatch):
    assert list(run_facts(object(), SimpleNamespace(trainer="no Trainer"))) == ALWAYS
    said = []
    monkeypatch.setattr("qlib_ext.record.facts.logger", SimpleNamespace(warning=said.append))
    made = Dataset(make_panel(), test=[0])
    made.segments = {"test": None}

    def rows(name):
        raise ValueError(f"{name} is outside of the panel's days")

    monkeypatch.setattr(made, "rows", rows)
    assert list(run_facts(made, None)) == ALWAYS and "test is outside" in said[0]


# --- kept


class Kept(Recorder):
    status = "RUNNING"

    def save_objects(self, **objects):
        self.objects |= objects


@pytest.mark.parametrize("kind", [LiquidityRecord, ReportRecord])
def test_the_first_record_keeps_them_while_the_run_lives(kind, dataset, monkeypatch):
    monkeypatch.setattr(ACRecordTemp, "generate", lambda self: "done")
    recorder = Kept()
    made = kind(recorder, dataset, None)
    assert made.generate() == "done" and recorder.objects[FACTS]["units"] == "community"
    recorder.objects[FACTS] = "kept"
    made.generate()
    assert recorder.objects[FACTS] == "kept"
    recorder.objects.clear()
    recorder.status = "FINISHED"
    made.generate()
    assert recorder.objects == {}


# --- told


def test_the_header_states_the_run_s_own_facts():
    task = {"model": {"class": "FoldEnsemble", "kwargs": {"model": {"class": "MLPModel"}}},
            "dataset": {"class": "DayDatasetH", "kwargs": {"liquidity": "auto", "segments": SEGMENTS}}}  # fmt: skip
    made = context_of(task, {}, {}, provider="p", facts=KNOWN)
    assert fact(made, "liquidity").endswith("unit profile community")
    assert (fact(made, "seeds"), fact(made, "seeds", "zh")) == ("0, 7 (4 members)", "0, 7（4 个成员）")
    assert fact(made, "stocks") == "4,321" and fact(made, "device") == "cuda bfloat16, cpu float32"
    days = "train 2020-02-03 – 2020-04-28 (58 days); test 2020-06-01 – 2020-06-30 (20 days), in 2 folds"
    assert fact(made, "days used") == days
    assert fact(made, "days used", "zh").startswith("训练 2020-02-03 – 2020-04-28（58 天）；测试 2020")
    assert fact(made, "versions").startswith("Python 3.11.9, qlib_ext 0.0.1") and "torch 1.2.3" in fact(
        made, "versions"
    )
    assert fact(made, "rules") == "marina-rules 9.8" and "torch 1.2.3" not in fact(made, "versions of this page")
    alone = context_of({}, {}, {}, provider="p", facts=KNOWN | {"seeds": [0], "folds": 1, "neutral": ["beta", "age"]})
    assert fact(alone, "score neutral to") == "beta, age" and "score neutral to" not in [k.en for k, _ in made.facts]
    assert fact(alone, "seeds") == "0" and "folds" not in fact(alone, "days used")
    names = [key for key, _ in made.facts if key.en in ROWS]
    assert len(names) == len(ROWS) and all(key.zh != key.en for key in names)


def test_a_run_without_them_says_so():
    task = {"model": {"class": "MLPModel"}, "dataset": {"class": "DayDatasetH", "kwargs": {"liquidity": "auto"}}}
    made = context_of(task, {}, {}, provider="p")
    assert [fact(made, name) for name in ROWS] == ["not recorded"] * len(ROWS)
    assert fact(made, "liquidity").endswith("unit profile auto, its outcome not recorded")
    assert fact(made, "rules") == "marina-rules (version not recorded)"
    task["model"]["kwargs"], task["dataset"]["kwargs"] = {"seed": 4}, {"liquidity": "yuan"}
    made = context_of(task, {}, {}, provider="p")
    assert fact(made, "seeds") == "4" and fact(made, "liquidity").endswith("unit profile yuan")


def test_the_command_line_reads_them(tmp_path):
    runs = {}
    for name, facts in (("new", KNOWN), ("old", None)):
        place = tmp_path / name
        place.mkdir()
        (place / "task").write_bytes(pickle.dumps({"dataset": {"class": "DayDatasetH"}}))
        if facts:
            (place / FACTS).write_bytes(pickle.dumps(facts))
        runs[name] = Run(name, "e", pd.Timestamp("2026-01-01", tz="UTC"), "FINISHED", place, trust=True)
    contexts = {name: run_context(run) for name, run in runs.items()}
    assert fact(contexts["new"], "versions").startswith("Python 3.11.9")
    assert fact(contexts["old"], "versions") == "not recorded"
    lines = [line.en for line in differing_facts({name: [context] for name, context in contexts.items()})]
    assert any("differ in liquidity" in line and "community" in line for line in lines)
    assert any("differ in versions" in line and "torch 1.2.3" in line for line in lines)


# --- the backtest


def backtest_record(account=2e8, benchmark=..., **exchange):
    kwargs = {"exchange": {"class": "AShareExchange", "module_path": "qlib_ext.exchange", "kwargs": exchange}}
    known = {} if account is None else {"account": account}
    config = {"backtest": known | ({} if benchmark is ... else {"benchmark": benchmark}) | {"exchange_kwargs": kwargs}}
    return {"record": [{"class": "PortAnaRecord", "module_path": "qlib_ext.record", "kwargs": {"config": config}}]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, ["200 million yuan, dealt at $close, at most 5.0% of", "buys pay 0.030% and transfer", "1 ×", "^ 0.5"]),
        ({"deal_price": ["open", "$vwap"], "participation": None, "impact": 0.4, "commission": 0.001},
         ["$open / $vwap, no cap on a day's share of turnover", "impact: 0.4 ×", "sells 0.100%, transfer fee and"]),
        ({"open_cost": 0.0005, "close_cost": 0.0015}, ["buys pay 0.050%, sells 0.150%;"]),
        ({"account": {"cash": 3e5, "SH600000": 100}}, ["account 300,000 yuan"]),
        ({"account": None}, ["account 1 billion yuan", "a trade; benchmark: SH000300"]),  # qlib's own, of old runs
        ({"benchmark": "SH000905"}, ["; benchmark: SH000905"]),
        ({"benchmark": ["SH600000", "SH600004"]}, ["; benchmark: SH600000, SH600004"]),
        ({"benchmark": pd.Series([0.01])}, ["; benchmark: a series of its own"]),
        ({"benchmark": None}, ["; benchmark: none"]),
    ],
)  # fmt: skip
def test_the_header_states_what_the_backtest_deals_with(given, said):
    made = context_of(backtest_record(**given), {}, {}, provider="p")
    for text in said:
        assert text in fact(made, "backtest"), text
    assert "账户" in fact(made, "backtest", "zh")


def test_a_run_of_before_with_benchmark_null_had_qlib_s_index():
    """Its report shows it; now `null` means none, and the report has zeros."""
    task, path = backtest_record(benchmark=None), "portfolio_analysis/report_normal_1day.pkl"
    for bench, said in ((0.0, "none"), (np.nan, "none"), (0.01, "SH000300")):
        report = {path: pd.DataFrame({"bench": [bench, bench]})}
        assert fact(context_of(task, report, {}, provider="p"), "backtest").endswith(f"benchmark: {said}")


def test_a_backtest_on_qlib_s_exchange_has_no_such_row():
    bare = {"class": "PortAnaRecord", "kwargs": {"config": {"backtest": {"account": 1e8}}}}
    for records in ({}, {"record": {"class": "PortAnaRecord"}}, {"record": [bare]}):
        assert not [key for key, _ in context_of(records, {}, {}, provider="p").facts if key.en == "backtest"]
