"""Which class a configuration names, in every form that qlib takes."""

import pytest

from qlib_ext.exchange import AShareExchange
from qlib_ext.record import PortAnaRecord, context_of
from qlib_ext.runs import Task, names_class, options_of
from qlib_ext.strategy import LiquidityTopNStrategy

NAME = "LiquidityTopNStrategy"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"class": NAME, "module_path": "qlib_ext.strategy"}, True),
        ({"class": f"qlib_ext.strategy.{NAME}"}, True),
        ({"class": LiquidityTopNStrategy}, True),
        ({"class": f"My{NAME}"}, False),  # another class, whose name only ends alike
        ({"class": AShareExchange}, False),
        ({"class": None}, False),
        ({}, False),
        (None, False),
        (NAME, False),
    ],
)
def test_a_class_by_name_by_path_or_itself(config, expected):
    assert names_class(config, NAME) is expected


def test_options_are_a_copy():
    config = {"class": NAME, "kwargs": {"top_n": 5}}
    options_of(config)["top_n"] = 6
    assert config["kwargs"] == {"top_n": 5}
    assert options_of({"class": NAME, "kwargs": None}) == options_of(None) == options_of("x") == {}


@pytest.mark.parametrize("form", ["name", "path", "class"])
def test_orders_backtest_and_page_read_a_run_alike(form):
    def named(kind):
        return {"name": kind.__name__, "path": f"{kind.__module__}.{kind.__name__}", "class": kind}[form]

    exchange = {"class": named(AShareExchange), "kwargs": {"participation": 0.01, "impact": {"class": "costs.Spread"}}}
    config = {
        "strategy": {"class": named(LiquidityTopNStrategy), "kwargs": {"signal": "<PRED>", "top_n": 7}},
        "backtest": {"start_time": None, "end_time": None, "account": 1e8, "exchange_kwargs": {"exchange": exchange}},
    }
    task = {"record": [{"class": named(PortAnaRecord), "kwargs": {"config": config}}]}
    assert Task(task).strategy == {"top_n": 7} and Task(task).exchange == exchange["kwargs"]
    assert "daily_log.pkl" in (names := PortAnaRecord(None, config).list()) and "fills.pkl" in names
    (said,) = (value.en for key, value in context_of(task, {}, {}, provider="p").facts if key.en == "backtest")
    assert "at most 1.0% of a stock's turnover" in said and "impact: Spread;" in said
