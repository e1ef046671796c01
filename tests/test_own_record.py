"""The recipe of docs/architecture.md, taken literally: a record and its section from outside."""

import pandas as pd
import pytest
import test_data
from qlib.model.trainer import task_train
from qlib.workflow.record_temp import ACRecordTemp, SignalRecord

from qlib_ext.panel import grid_of
from qlib_ext.record import Money, MoneyRecord, judge
from qlib_ext.report import Section, Text, table
from qlib_ext.synthetic import make_market


class WorstDays(MoneyRecord):
    """The recipe of a record: the days on which the money lost most, after fees."""

    artifact_path = "mine"

    def __init__(self, recorder, dataset=None, model=None, *, count=3, **money):
        super().__init__(recorder, dataset, model, **money)
        self.count = count

    def list(self):
        return ["worst.pkl"]

    def _generate(self, *args, **kwargs):
        rows = self.dataset.rows("test")
        net = self.judged(rows, self.scores(rows)).returns["capped_buyable_net"]
        return {"worst.pkl": net.nsmallest(self.count).to_frame("net")}


class PlainRecord(ACRecordTemp):
    """The same without our class: a record as qlib knows it, which asks the judge."""

    artifact_path, depend_cls = "plain", SignalRecord

    def __init__(self, recorder, dataset=None, model=None, *, capital):
        super().__init__(recorder=recorder)
        self.dataset, self.capital = dataset, capital

    def list(self):
        return ["worst.pkl"]

    def _generate(self, *args, **kwargs):
        panel, rows = self.dataset.panel, self.dataset.rows("test")
        score = grid_of(self.load("pred.pkl")["score"], panel.days[rows], panel.stocks)
        judgement = judge(panel, rows, score, Money(capital=self.capital), self.dataset.span)
        return {"worst.pkl": judgement.returns["capped_buyable_net"].nsmallest(2).to_frame("net")}


def worst_days():
    """The recipe of its section."""

    def content(context, worst):
        return context.scope(worst.index), [table(worst, key="worst")]

    return Section("worst", ("mine/worst.pkl",), content, title=Text("Worst days", "最差的几天"))


def here(name, **kwargs):
    return {"class": name, "module_path": __name__, "kwargs": kwargs}


def test_a_task_with_records_and_a_section_from_outside(tmp_path):
    pytest.importorskip("plotly")
    test_data.start_qlib(make_market(tmp_path / "market", n_stocks=14, start="2020-01-02", years=1.0, seed=3), tmp_path)
    model = {"hidden": [8, 4], "loss": "ic", "metric": "ic", "epochs": 1, "device": "cpu"}
    dataset = {"handler": test_data.make_handler(), "segments": test_data.SEGMENTS}
    page = {"class": "ReportRecord", "module_path": "qlib_ext.record", "kwargs": {"sections": [here("worst_days")]}}
    recorder = task_train({
        "model": {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": model},
        "dataset": {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": dataset},
        "record": [
            {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
            here("WorstDays", count=2, capital=1e7, benchmark=None), here("PlainRecord", capital=1e7), page,
        ],
    }, experiment_name="own")  # fmt: skip
    worst = recorder.load_object("mine/worst.pkl")
    pd.testing.assert_frame_equal(worst, recorder.load_object("plain/worst.pkl"))
    assert len(worst) == 2 and worst["net"].is_monotonic_increasing
    (page,) = tmp_path.rglob("report.html")
    assert "Worst days" in page.read_text(encoding="utf-8") and "最差的几天" in page.read_text(encoding="utf-8")


def test_a_misspelt_option_of_an_own_record_is_named():
    with pytest.raises(TypeError, match="no option 'cuont'; close: .'count'.*; allowed: count, capital, "):
        WorstDays(None, cuont=3)
