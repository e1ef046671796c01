"""The account beside the mean stock: by hand, by a slow oracle, and what the backtest's record logs of it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import test_data
import torch
from qlib.data import D
from test_backtest import EXCHANGE, Run, configuration, market  # noqa: F401

from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import IMPACTS, account_metrics, account_table, mean_stock_returns
from qlib_ext.provider import load_liquidity
from qlib_ext.record import PortAnaRecord, index_returns, mean_stock

DAYS = pd.bdate_range("2022-01-04", periods=3)
NAMES = (
    "account_excess",
    "account_sharpe",
    "account_drawdown",
    "turnover",
    "account_excess_b067",
    "account_excess_b033",
)


def test_the_mean_stock_by_hand():
    close = pd.DataFrame({"A": [10.0, 11.0, 11.0], "B": [10.0, np.nan, 12.0], "C": [10.0, 11.0, 22.0]}, DAYS)
    free = pd.DataFrame({"A": [True, True, True], "B": [True, False, True], "C": [True, False, True]}, DAYS)
    # day 1: A 10%, B suspended 0, C 10%; day 2: A alone could be bought (B suspended, C locked at limit-up)
    assert mean_stock_returns(close, free).tolist() == pytest.approx([0.2 / 3, 0.0])
    with pytest.raises(ValueError, match="no stock could be bought at the close before 2022-01-05"):
        mean_stock_returns(close, free & (free.index > DAYS[0])[:, None])


def test_the_metrics_by_hand():
    mean = pd.Series([0.01, 0.0, -0.01], DAYS)
    report = pd.DataFrame({"return": [0.0, 0.02, 0.01], "cost": [0.01, 0.0, 0.01], "turnover": [1.0, 0.2, 0.3]}, DAYS)
    dear = report.assign(cost=0.0)
    table, daily = account_table({1.0: report, 2 / 3: report, 1 / 3: dear}, mean, year=240)
    # excess: -0.02, 0.02, 0.01: mean 0.01 / 3, deviation sqrt(13 / 3) / 100; free of costs -0.01, 0.02, 0.02
    assert daily["excess"].tolist() == pytest.approx([-0.02, 0.02, 0.01])
    assert table.loc[1.0].tolist() == pytest.approx([0.8, (1 / 3) / np.sqrt(13 / 3) * np.sqrt(240), 0.02, 0.5])
    of_all, days = account_table({1.0: report}, mean, mean - 0.01, year=240)  # over all: 0.01 a day more
    assert of_all["account_over_all"][1.0] == pytest.approx(0.8 + 2.4) and list(days)[-1] == "turnover"
    named = account_metrics(table)
    assert set(named) == set(NAMES) and named["account_excess_b033"] == pytest.approx(2.4)
    assert named["account_excess_b067"] == named["account_excess"]
    assert list(daily) == [
        "mean_stock",
        *(f"{name}{end}" for end in IMPACTS.values() for name in ("net", "excess", "turnover")),
    ]
    with pytest.raises(ValueError, match="mean stock's return is not known on 2022-01-06"):
        account_table({1.0: report}, mean[:2])


def test_the_mean_stock_is_that_of_the_panel(market):  # noqa: F811
    """Slow: stock by stock, by the panel's buyable mask of the signal day two days before, and raw closes."""
    test_data.start_qlib(market[0], market[1])
    panel = market[2].panel
    every, days = pd.DatetimeIndex(D.calendar()), pd.DatetimeIndex(panel.days[10:30])
    close = D.features(list(panel.stocks), ["$close"], every[0], every[-1])["$close"].unstack("instrument")
    present, buyable = panel.present.numpy(), panel.buyable.numpy()
    expected = []
    for day in days:
        row, eve = list(panel.days).index(day), every[every.get_loc(day) - 1]
        steps = []
        for n, code in enumerate(panel.stocks):
            if present[row - 1, n] and buyable[row - 2, n]:
                now = close.loc[:day, code].ffill().iloc[-1]
                steps.append(now / close.loc[eve, code] - 1)
        expected.append(np.mean(steps))
    np.testing.assert_allclose(mean_stock(market[2], days), expected, rtol=1e-5, atol=1e-9)  # prices are float32


def test_an_index_in_the_universe_is_no_stock(market):  # noqa: F811
    """As in the community's all.txt: a panel has its column, in which nothing is ever present."""
    test_data.start_qlib(market[0], market[1])
    panel, days = market[2].panel, pd.DatetimeIndex(market[2].panel.days[10:30])
    stocks = np.array([*panel.stocks, "SH000300"], dtype=object)
    column = torch.zeros(len(panel.days), 1, dtype=torch.bool)
    codes = SimpleNamespace(days=panel.days, stocks=stocks, present=torch.cat([panel.present, column], dim=1))
    found = mean_stock(SimpleNamespace(panel=codes, spells=market[2].spells), days)
    pd.testing.assert_series_equal(found, mean_stock(market[2], days))


def test_every_impact_is_a_backtest_of_its_own(market):  # noqa: F811
    """Whatever the YAML charges, b = 1 is the same; dearer trades earn less; the run's own backtest is not repeated."""
    test_data.start_qlib(market[0], market[1])
    found = {}
    for impact in (1.0, 0.0):
        recorder = Run(**{"pred.pkl": market[3]})
        made = PortAnaRecord(recorder, configuration({"impact": impact}), dataset=market[2], waterfall=False)
        found[impact] = made._generate(), {name: recorder.metrics[name] for name in NAMES}
    (own, metrics), (free, same) = found[1.0], found[0.0]
    assert metrics == same and all(map(np.isfinite, metrics.values()))
    assert metrics["account_excess"] < metrics["account_excess_b067"] < metrics["account_excess_b033"]
    report, daily = own["report_normal_1day.pkl"], own["account_daily.pkl"]
    np.testing.assert_array_equal(daily["net"], report["return"] - report["cost"])
    assert metrics["turnover"] == pytest.approx(own["execution.pkl"]["turnover"]["two_way"].mean())
    assert daily.index.equals(report.index)  # the first day is in
    assert not np.allclose(free["account_daily.pkl"]["net"], free["report_normal_1day.pkl"]["return"])
    assert "account.account_excess" in own["definitions.pkl"]


def test_a_strategy_sees_the_impact_it_is_rerun_at(market):  # noqa: F811
    test_data.start_qlib(market[0], market[1])
    seen = []

    from qlib_ext.strategy import LiquidityTopNStrategy

    class Curious(LiquidityTopNStrategy):
        def generate_trade_decision(self, execute_result=None):
            seen.append(self.trade_exchange.options.impact)
            return super().generate_trade_decision(execute_result)

    config = configuration({"impact": 0.5})
    config["strategy"] |= {"class": Curious, "module_path": None}
    config["backtest"] |= {"start_time": "2020-06-10", "end_time": "2020-06-16"}
    PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2], waterfall=False)._generate()
    assert list(dict.fromkeys(seen)) == [0.5, *IMPACTS]


@pytest.mark.parametrize(("expected", "backtests"), [(1.0, 3), (0.5, 4), (None, 3)])
def test_a_cost_aware_backtest_is_repeated_only_where_it_would_differ(market, expected, backtests):  # noqa: F811
    """A strategy that expects another impact than is charged is asked again at b = 1 with what is charged."""
    test_data.start_qlib(market[0], market[1])
    runs = []

    from qlib_ext.strategy import CostAwareStrategy

    class Counted(CostAwareStrategy):
        def __init__(self, **options):
            runs.append(options.get("impact"))
            super().__init__(**options)

    config = configuration({"impact": 1.0})
    config["strategy"] = {"class": Counted, "module_path": None, "kwargs": {"signal": "<PRED>", "impact": expected}}
    config["backtest"] |= {"start_time": "2020-06-10", "end_time": "2020-06-16"}
    options = {"dataset": market[2], "waterfall": False, "capacity": False}
    PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, **options)._generate()
    assert len(runs) == backtests


def test_what_the_metrics_lack_is_told(market, monkeypatch):  # noqa: F811
    test_data.start_qlib(market[0], market[1])
    said = []
    monkeypatch.setattr("qlib_ext.record.backtest.logger.warning", said.append, raising=False)
    span = {"start_time": "2020-06-10", "end_time": "2020-06-16"}
    qlibs = configuration()
    qlibs["backtest"] |= span | {"exchange_kwargs": {"limit_threshold": 0.095, "deal_price": "close"}}
    ours = configuration()
    ours["backtest"] |= span
    for config, dataset, why in ((qlibs, market[2], "need an AShareExchange"), (ours, None, "need a DayDatasetH")):
        recorder = Run(**{"pred.pkl": market[3]})
        got = PortAnaRecord(recorder, config, dataset=dataset)._generate()
        assert "account.pkl" not in got and not set(NAMES) & set(recorder.metrics)
        assert why in said[-1]


def test_the_liquidity_is_read_once(market, monkeypatch):  # noqa: F811
    """The strategy is handed the dataset's, to the last bit what it would load; where the panel lacks days it loads."""
    test_data.start_qlib(market[0], market[1])
    dataset, codes = market[2], sorted(map(str, market[2].panel.stocks))
    asked = {"instruments": codes, "start": "2020-07-01", "end": "2020-07-07", "profile": "community", "window": 5}
    short = DayDatasetH(dataset.handler, {"test": ("2020-06-01", "2020-07-07")}, liquidity_window=5, listing_age=5)
    loads = []

    def load(*args, **kwargs):
        loads.append(args)
        return load_liquidity(*args, **kwargs)

    monkeypatch.setattr("qlib_ext.strategy.policy_strategy.load_liquidity", load)
    frame = short.liquidity_of(codes, asked["start"], asked["end"])
    pd.testing.assert_frame_equal(frame, load_liquidity(**asked, past=True), check_exact=True)
    assert dataset.liquidity_of(codes, "2020-05-08", "2020-07-07") is None  # the panel begins on 2020-05-06
    assert short.liquidity_of([*codes, "SH600999"], "2020-07-01", "2020-07-07") is None
    config = configuration()
    config["backtest"] |= {"start_time": "2020-06-29", "end_time": "2020-07-07"}
    for data, loaded in ((short, 0), (None, 1)):
        options = {} if data is not None else {"liquidity_window": 5}
        config["strategy"]["kwargs"] |= options
        exchange = {"liquidity_window": 5}
        config["backtest"]["exchange_kwargs"]["exchange"] = EXCHANGE | {"kwargs": exchange}
        got = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=data, waterfall=False)._generate()
        assert len(loads) == loaded
        if data is not None:
            fills = got["fills.pkl"]
    pd.testing.assert_frame_equal(got["fills.pkl"], fills, check_exact=True)


def test_a_total_return_series_of_ones_own(market, tmp_path, monkeypatch):  # noqa: F811
    """Levels in a CSV: by day in the backtest, from entry to entry for the judge; a price index is called one."""
    test_data.start_qlib(market[0], market[1])
    days = pd.DatetimeIndex(D.calendar())
    file = tmp_path / "h00300.csv"
    level = 100.0 * 1.001 ** np.arange(len(days))
    level[-20:] *= 2.0
    file.write_text(
        "date,close\n" + "".join(f"{d:%Y-%m-%d},{v!r}\n" for d, v in zip(days, level.tolist(), strict=True))
    )
    signal = days[-24:-18]  # the jump is on the calendar's 20th last day, two days after the signal of the 22nd last
    judged = index_returns(str(file), market[2].span, signal, field="close")
    assert judged.name == "h00300" and judged.round(4).tolist() == [0.001, 0.001, 1.002, 0.001, 0.001, 0.001]
    said, config = [], configuration()
    monkeypatch.setattr("qlib_ext.record.backtest.logger.info", said.append, raising=False)
    config["backtest"] |= {"start_time": "2020-06-10", "end_time": "2020-06-16", "benchmark": str(file)}
    own = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=None)._generate()
    np.testing.assert_allclose(own["report_normal_1day.pkl"]["bench"], 0.001)
    assert not any("price index" in words for words in said)
    config["backtest"]["benchmark"] = "SH000300"
    PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=None)._generate()
    assert any("SH000300 is a price index" in words and "2.4% a year" in words for words in said)
