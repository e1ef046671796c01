"""The backtest's record on a small embedded market and on real data."""

import os
import pickle
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import test_data
from marina_rules.check import check_rows
from qlib.backtest import backtest
from qlib.contrib.strategy.rule_strategy import TWAPStrategy
from qlib.data import D
from test_record import Recorder

from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import (
    EXECUTION_DEFINITIONS,
    STAGES,
    days_to_liquidate,
    strategy_crossings,
    trial_row,
    write_trials,
)
from qlib_ext.exchange import AShareExchange
from qlib_ext.portfolio import Forecast, TopNPolicy
from qlib_ext.provider import load_liquidity
from qlib_ext.record import (
    LiquidityRecord,
    Money,
    PortAnaRecord,
    all_blocked,
    holdings,
    judge,
    judged_stages,
    stage_changes,
)
from qlib_ext.rules import is_index
from qlib_ext.runs import Task
from qlib_ext.strategy import PolicyStrategy
from qlib_ext.synthetic import make_market

DAYS = pd.DatetimeIndex(["2023-07-03", "2023-07-04", "2023-07-05"])
CASH = 1.5e7
REAL = os.environ.get("QLIB_EXT_REAL_DATA", "")


# --- the record


def test_every_table_is_defined():
    assert all(text for words in EXECUTION_DEFINITIONS.values() for text in words.values())
    assert list(STAGES)[2:5] == list(stage_changes("close"))


class Run(Recorder):
    """A recorder of one run in memory."""

    experiment_id = "0"


EXCHANGE = {"class": "AShareExchange", "module_path": "qlib_ext.exchange"}


def configuration(exchange=None, **strategy):
    options = {"signal": "<PRED>", "capital": CASH, "rank_buffer": 2.0, **strategy}
    return {
        "strategy": {"class": "LiquidityTopNStrategy", "module_path": "qlib_ext.strategy", "kwargs": options},
        "backtest": {
            "start_time": None,
            "end_time": None,
            "account": CASH,
            "benchmark": "SH000300",
            "exchange_kwargs": {"exchange": EXCHANGE | {"kwargs": exchange or {}}},
        },
    }


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A dataset of a small embedded market, and scores that know a part of the label."""
    folder = tmp_path_factory.mktemp("backtest")
    path = make_market(folder / "market", n_stocks=30, start="2020-01-02", years=0.6, seed=3)
    test_data.start_qlib(path, folder)
    fields = {"feature": (["$close/Ref($close, 5)"], ["ROC5"]), "label": ([test_data.LABEL], ["LABEL0"])}
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": fields}}
    span = {"start_time": "2020-05-06", "end_time": "2020-07-07", "instruments": "all"}
    handler = test_data.DataHandlerLP(**span, data_loader=loader, infer_processors=[], learn_processors=[])
    dataset = DayDatasetH(handler, {"test": ("2020-06-01", "2020-07-07")}, liquidity="community", listing_age=5)
    panel, rows = dataset.panel, dataset.rows("test")
    label = np.nan_to_num(panel.label[rows].numpy().astype(float))
    score = 5.0 * label + np.random.default_rng(0).normal(size=label.shape)
    score = np.where(panel.present[rows].numpy(), score, np.nan)
    index = pd.DatetimeIndex(panel.days[rows], name="datetime")
    pred = pd.DataFrame(score, index, pd.Index(panel.stocks, name="instrument")).stack().dropna().rename("score")
    return path, folder, dataset, pred.to_frame()


@pytest.fixture(scope="module")
def whole(market):
    """The record with everything on: artifacts and metrics."""
    test_data.start_qlib(market[0], market[1])
    recorder = Run(**{"pred.pkl": market[3]})
    made = PortAnaRecord(recorder, configuration(), dataset=market[2])
    return made, made._generate(), recorder.metrics


def test_the_record_keeps_all(whole, market):
    made, got, metrics = whole
    assert set(made.list()) <= set(got)
    more = {"execution.pkl", "waterfall.pkl", "waterfall_daily.pkl", "definitions.pkl", "indicators_normal_1day.pkl"}
    assert more <= set(got) and {"blocked.pkl", "fills.pkl", "settled.pkl", "daily_targets.pkl"} <= set(made.list())
    report = got["report_normal_1day.pkl"]
    assert {"account", "return", "turnover", "cost", "value", "cash", "bench"} <= set(report.columns)
    kinds = {"excess_return_with_cost", "excess_return_without_cost"}
    assert set(got["port_analysis_1day.pkl"].index.get_level_values(0)) == kinds
    assert len(got["rules_citations.pkl"]) and len(got["daily_log.pkl"]) == len(report) and len(got["fills.pkl"]) > 50
    assert made.strategy_config["kwargs"]["signal"] == "<PRED>"  # the configuration stays as it was
    assert all(np.isfinite(value) for value in metrics.values())
    assert {"execution.performance.net.annual_return", "waterfall.paper.annual_return"} <= set(metrics)
    assert {"execution.cost_split.impact.bp_of_traded", "execution.turnover.mean.two_way"} <= set(metrics)


def test_days_that_the_benchmark_lacks_are_told(market, monkeypatch):
    test_data.start_qlib(market[0], market[1])
    made = PortAnaRecord(Run(**{"pred.pkl": market[3]}), configuration(), dataset=market[2])
    made._set_span(pd.DatetimeIndex(market[3].index.get_level_values("datetime")))
    days = pd.DatetimeIndex(D.calendar(start_time="2020-06-01", end_time="2020-07-08"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made._check_benchmark()
    true, gaps = D.features, {}

    def gappy(codes, fields, *span):
        assert list(codes) == ["SH000300"]
        found = true(codes, fields, *span)
        found[found.index.get_level_values("datetime").isin(days[gaps["rows"]])] = np.nan
        return found

    monkeypatch.setattr(D, "features", gappy, raising=False)
    gaps["rows"] = [3]
    with pytest.warns(
        UserWarning, match=rf"benchmark SH000300 has no return on 1 of \d+ days, the first {days[3].date()}"
    ):
        made._check_benchmark()
    gaps["rows"] = [3, 4, 5]
    with pytest.raises(ValueError, match=r"no return on 3 of \d+ days, the first .*more than 5%"):
        made._generate()
    own = pd.Series(0.0, days).drop(days[[2, 5, 6]])
    made.backtest_config["benchmark"] = own
    with pytest.raises(ValueError, match=r"no return on 3 of \d+ days"):
        made._check_benchmark()
    made.backtest_config["benchmark"] = None
    made._check_benchmark()


def test_the_tables_agree_with_the_account(whole):
    _, got, _ = whole
    report, tables = got["report_normal_1day.pkl"], got["execution.pkl"]
    growth = report["account"].iloc[-1] / CASH - 1
    assert tables["performance"].loc["net", "mean_return"] == pytest.approx(growth, rel=1e-9)
    assert tables["cost_split"].loc["total", "yuan"] == pytest.approx(report["total_cost"].iloc[-1], rel=1e-9)
    np.testing.assert_allclose(tables["turnover"]["two_way"], report["turnover"], rtol=1e-9)
    book = holdings(got["positions_normal_1day.pkl"])
    np.testing.assert_allclose(book.sum(axis=1), report["value"], rtol=1e-9)
    assert tables["participation"].query("low >= 0.05")["trades"].sum() == 0
    assert tables["participation"]["yuan"].sum() == pytest.approx(got["fills.pkl"]["yuan"].sum())
    sold = tables["liquidation"][["gone_1", "gone_2", "gone_5", "gone_10"]].dropna()
    assert (sold.diff(axis=1).iloc[:, 1:] >= -1e-12).all().all() and len(sold) > 20


def test_the_tear_sheet_is_the_account_s(whole, tmp_path):
    made, got, metrics = whole
    report, tear = got["report_normal_1day.pkl"], got["tear_account.pkl"]
    assert tear["years"].loc["all", "net"] == pytest.approx(report["account"].iloc[-1] / CASH - 1, rel=1e-9)
    assert tear["years"].loc["all", "cost"] == pytest.approx(report["cost"].sum())
    own = got["account.pkl"].loc[1.0]  # the exchange charges no impact: the account is another one
    assert set(tear["ratios"].index) == {"cash", "mean_stock", "mean_all", "benchmark"} and own.notna().all()
    np.testing.assert_allclose(tear["returns"]["mean_stock"], got["account_daily.pkl"]["mean_stock"])
    assert metrics["ratios.mean_stock.sharpe"] == tear["ratios"].loc["mean_stock", "sharpe"]
    book = holdings(got["positions_normal_1day.pkl"]).fillna(0.0).to_numpy()
    stays = ((book[1:] > 0) & (book[:-1] > 0)).sum(axis=1) / np.where((n := (book[:-1] > 0).sum(axis=1)) > 0, n, np.nan)
    np.testing.assert_allclose(tear["overlap"]["names"].iloc[1:], stays)
    assert {f"years.{name}" for name in tear["years"]} <= set(got["definitions.pkl"])
    assert "deflated" not in tear and "deflated.highest" not in got["definitions.pkl"]


def test_trials_deflate_the_sharpe_ratio_of_the_run(whole, market, tmp_path):
    daily, file = whole[1]["account_daily.pkl"], tmp_path / "trials.parquet"
    with pytest.raises(FileNotFoundError, match="no file"):  # before anything is trained
        PortAnaRecord(Run(), configuration(), dataset=market[2], trials=str(file))
    write_trials(file, [trial_row("own", {}, daily["excess"]), trial_row("other", {}, -daily["excess"])])
    recorder = Run()
    made = PortAnaRecord(recorder, configuration(), dataset=market[2], trials=str(file))
    found = made._tear(whole[1])["tear_account.pkl"]["deflated"].loc["account"]
    assert found["trials"] == 2 and recorder.metrics["deflated.account.probability"] == found["probability"]
    alone = {name: table for name, table in whole[1].items() if name != "account_daily.pkl"}
    assert "deflated" not in made._tear(alone)["tear_account.pkl"]  # no mean stock: told


def test_a_frame_of_liquidity_need_only_reach_the_last_signal_day(whole, market):
    days, codes = whole[1]["report_normal_1day.pkl"].index, list(market[2].panel.stocks)
    frame = load_liquidity(codes, days[0], days[-2], profile="community", past=True).iloc[::-1]
    recorder = Run(**{"pred.pkl": market[3]})
    made = PortAnaRecord(recorder, configuration(liquidity_frame=frame), dataset=market[2], waterfall=False)
    artifacts = made._generate()
    got, loaded = (each["execution.pkl"]["liquidation"] for each in (artifacts, whole[1]))
    pd.testing.assert_frame_equal(got.iloc[:-1], loaded.iloc[:-1])
    book = holdings(artifacts["positions_normal_1day.pkl"]).iloc[-1:]  # by the liquidity of the day before
    expected = days_to_liquidate(book, frame.sort_index().ffill().iloc[[-1]].set_axis(days[-1:]), 0.05)
    pd.testing.assert_frame_equal(got.iloc[-1:], expected)
    assert expected["unknown"].item() == 0


def test_the_strategy_s_capacity_goes_through_the_account(whole):
    """At the account's own capital and b the simulated account is the backtest's, but for lots."""
    _, got, metrics = whole
    curve, report = got["capacity_strategy.pkl"], got["report_normal_1day.pkl"]
    own, earned = curve.loc[(1.0, CASH)], report["return"].mean() * 242
    assert own["gross"] == pytest.approx(earned, abs=0.02) and own["days"] == len(report)
    assert own["net_impact"] == pytest.approx(earned - report["cost"].mean() * 242, abs=0.06)
    assert own["turnover"] == pytest.approx(report["turnover"].mean(), rel=0.04)
    assert curve["net_impact"].xs(CASH, level="capital").is_monotonic_decreasing
    assert {f"capacity_strategy.{key}" for key in curve} <= set(got["definitions.pkl"])
    assert any(name.startswith("capacity_strategy.b033.") for name in metrics)
    rows = strategy_crossings(curve)  # 1.5e8 yuan earn less than the mean stock, 1e9 are mostly cash while it falls
    assert 1.5e8 < rows.loc[1.0, "rises_at"] < 1e9


def test_a_cost_aware_strategy_s_capacity_goes_through_its_account_too(market):
    """Without lots to the yuan: the curve knows risk and exposures of the days as the strategy does."""
    test_data.start_qlib(market[0], market[1])
    level = {"places": (0.1, 0.5, 0.9), "levels": (-0.004, 0.0, 0.004), "half_lives": (1.5,), "spread": 0.003}
    forecast = Forecast(**level, persistence=0.3, significant=True)
    options = {
        "signal": "<PRED>",
        "forecast": forecast.to_dict(),
        "exposures": {"volatility": 0.2, "beta": [-0.3, 0.3]},
    }
    strategy = {"class": "CostAwareStrategy", "module_path": "qlib_ext.strategy", "kwargs": options}
    config = configuration({"trade_unit": None}) | {"strategy": strategy}
    got = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2], waterfall=False)._generate()
    own, report = got["capacity_strategy.pkl"].loc[(1.0, CASH)], got["report_normal_1day.pkl"]
    assert own["gross"] == pytest.approx(report["return"].mean() * 242, abs=0.003)
    paid = report["cost"].iloc[:-1].sum() / len(report) * 242  # what the last day's trades cost earns nothing yet
    assert own["gross"] - own["net_impact"] == pytest.approx(paid, rel=0.01)


def test_the_waterfall_falls_step_by_step(whole, market):
    _, got, _ = whole
    table, daily = got["waterfall.pkl"], got["waterfall_daily.pkl"]
    assert list(table.index) == [stage for stage in STAGES if stage != "strategy"]
    earned = table["annual_return"]
    assert earned["caps"] > earned["costs"] > earned["impact"]  # neither fees nor impact can earn
    report = got["report_normal_1day.pkl"]
    before = np.r_[CASH, report["account"].iloc[:-1]]  # the account gains more than it places
    gained = (report["account"] - before) / np.minimum(before, CASH)
    np.testing.assert_allclose(daily["impact"], gained, atol=1e-12)
    paid = got["execution.pkl"]["cost_split"]["yuan"]  # what a row takes is what was paid, of the capital in use
    taken = ((daily["costs"] - daily["impact"]) * np.minimum(before, CASH)).sum()
    assert taken == pytest.approx(paid["impact"])
    fees = ((daily["caps"] - daily["costs"]) * np.minimum(before, CASH)).sum()
    assert fees == pytest.approx(paid["total"] - paid["impact"])
    assert earned["impact"] == pytest.approx(gained.mean() * 242)
    assert list(table.index[table["change"].isna()]) == ["paper", "deck"] and daily.index.equals(report.index)
    judged = judge(market[2].panel, market[2].rows("test"), _grid(market), Money(capital=CASH), market[2].span)
    for stage in ("paper", "buyable"):  # the judge's return of signal day d is that of d+2
        expected = judged.returns[f"capped_{stage}_gross"].to_numpy()[: len(daily) - 2]
        np.testing.assert_allclose(daily[stage].to_numpy()[2:], expected, atol=1e-9)


def test_the_bare_limits_stage_is_close_to_what_could_be_bought_on_paper(whole):
    """Nothing but lots, T+1 and one account lies between them: a day's returns differ by little, and so does a year."""
    daily = whole[1]["waterfall_daily.pkl"]
    assert daily["buyable"].corr(daily["limits"]) > 0.95
    assert abs(whole[1]["waterfall.pkl"].loc["limits", "change"]) < 0.3 * abs(daily["buyable"].mean() * 242)


class Own(PolicyStrategy):
    """A strategy of one's own, with another policy than the deck's."""

    def __init__(self, *, signal, capital=None, policy=(0.02, 10), **infra):
        super().__init__(TopNPolicy(capital, *policy), signal=signal, **infra)


def test_a_strategy_of_one_s_own_has_its_waterfall_and_the_deck_s_trading_beside_it(whole, market):
    test_data.start_qlib(market[0], market[1])
    config = configuration()
    config["strategy"] = {"class": Own, "kwargs": {"signal": "<PRED>", "capital": CASH}}
    got = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2], waterfall=True)._generate()
    table, daily = got["waterfall.pkl"], got["waterfall_daily.pkl"]
    assert list(table.index) == ["paper", "buyable", "strategy", "costs", "impact", "deck"]
    pd.testing.assert_series_equal(daily["deck"], whole[1]["waterfall_daily.pkl"]["deck"])  # as any run's score trades
    pd.testing.assert_series_equal(daily["paper"], whole[1]["waterfall_daily.pkl"]["paper"])
    report = got["report_normal_1day.pkl"]
    before = np.r_[CASH, report["account"].iloc[:-1]]
    np.testing.assert_allclose(daily["impact"], (report["account"] - before) / np.minimum(before, CASH), atol=1e-12)
    assert {"daily_log.pkl", "daily_targets.pkl"} <= set(got)


def test_the_deck_s_way_by_another_name_is_the_run_itself(market):
    """A row with a backtest of its own is on the same capital in use as those of the run's fills."""
    test_data.start_qlib(market[0], market[1])
    config = configuration()
    config["strategy"] = {"class": Own, "kwargs": {"signal": "<PRED>", "capital": CASH / 4, "policy": (0.05, None)}}
    got = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2], waterfall=True)._generate()
    daily, report = got["waterfall_daily.pkl"], got["report_normal_1day.pkl"]
    np.testing.assert_allclose(daily["deck"], daily["impact"], atol=1e-12)
    assert daily["impact"].std() > 2 * (report["return"] - report["cost"]).std()  # three quarters lie idle


def _grid(market):
    panel, rows = market[2].panel, market[2].rows("test")
    wide = market[3]["score"].unstack("instrument")
    return wide.reindex(index=pd.DatetimeIndex(panel.days[rows]), columns=panel.stocks).to_numpy()


def test_a_change_of_price_has_a_row_of_its_own(whole, market):
    """The label enters at the close: `limits` is the same for a run that deals at the open, and `price` is the rest."""
    test_data.start_qlib(market[0], market[1])
    config = configuration({"deal_price": "open", "impact": 0.0}, rank_buffer=1.0)
    got = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2])._generate()
    table, daily = got["waterfall.pkl"], got["waterfall_daily.pkl"]
    pd.testing.assert_series_equal(daily["limits"], whole[1]["waterfall_daily.pkl"]["limits"])
    assert abs(table.loc["price", "change"]) > 0.01 and table.loc["impact", "change"] == 0
    assert whole[1]["waterfall.pkl"].loc["price", "change"] == 0  # it deals at the close
    assert "changes nothing" in whole[1]["definitions.pkl"]["waterfall.price"]


def test_the_entry_price_is_the_labels():
    assert stage_changes("open")["limits"][1]["deal_price"] == ["$open", "$open"]
    assert "deal_price" not in stage_changes("open")["price"][1]


def test_paper_is_on_the_capital_in_use(market):
    """Half of the account is placed: the other half lies idle and takes nothing from a row."""
    test_data.start_qlib(market[0], market[1])
    days = pd.DatetimeIndex(market[2].panel.days[market[2].rows("test")])[2:20]
    one, two = (judged_stages(*market[2:], days, account, {"capital": CASH}) for account in (CASH, 2 * CASH))
    for stage in ("paper", "buyable"):
        np.testing.assert_allclose(two[stage], one[stage])
        assert one[stage].abs().max() > 0.001
    small = judged_stages(*market[2:], days, CASH, {"capital": 3 * CASH})  # no more than there is
    np.testing.assert_array_equal(small["paper"], one["paper"])


def test_what_was_not_sent_is_in_blocked(whole):
    _, got, _ = whole
    blocked, targets = got["blocked.pkl"], got["daily_targets.pkl"]
    asked = targets[targets["reason"].isin(["blocked_buy", "blocked_sell"])]
    found = blocked.merge(asked, left_on=["day", "code"], right_on=["date", "code"])
    assert len(found) == len(asked) > 0 and (found["dealt"] == 0).all() and blocked["day"].is_monotonic_increasing
    assert set(found["reason_x"]) <= {"suspended", "limit_up", "limit_down"}
    np.testing.assert_allclose(found["wanted"], (found["target"] - found["held"]).abs())
    table = got["execution.pkl"]["blocked"]
    assert table["cuts"].sum() == len(blocked) and table["wanted"].sum() == pytest.approx(blocked["wanted"].sum())


def test_the_reason_is_the_exchanges(market):
    from qlib.data import D

    test_data.start_qlib(market[0], market[1])
    days = pd.DatetimeIndex(D.calendar())[60:80]
    exchange = AShareExchange(start_time=days[0], end_time=days[-1])
    codes, ground = list(exchange.quote.get_all_stock()), exchange.day_rules
    row, column = (int(places[0]) for places in np.nonzero(ground.suspended & (ground.last_close > 0)))
    kinds = ["blocked_buy", "blocked_sell", "unknown_volatility", "trade_cap", ""]
    targets = pd.DataFrame({"date": days[row], "code": codes[column], "target": [9.0, 0.0, 9.0, 9.0, 9.0],
                            "held": [2.0, 5.0, 0.0, 0.0, 0.0], "reason": kinds})  # fmt: skip
    rows = all_blocked(exchange.blocked, targets, exchange)
    assert rows[["side", "wanted", "dealt", "reason"]].to_numpy().tolist() == [
        ["buy", 7.0, 0.0, "suspended"], ["sell", 5.0, 0.0, "suspended"], ["buy", 9.0, 0.0, "unknown_volatility"],
    ]  # fmt: skip
    assert rows.attrs["unsent"] and all_blocked(exchange.blocked, targets[3:], exchange).empty


@pytest.mark.parametrize("own", [{"end_time": "2020-06-12"}, {"start_time": "2020-06-15"}])
def test_an_exchange_shorter_than_the_backtest_is_an_error(market, own):
    test_data.start_qlib(market[0], market[1])
    made = PortAnaRecord(Run(**{"pred.pkl": market[3]}), configuration(own), dataset=market[2])
    name, day = next(iter(own.items()))
    with pytest.raises(ValueError, match=f"exchange's {name} is {day}, .*days between"):
        made._generate()
    instance = configuration()
    span = {"start_time": "2020-06-01", "end_time": "2020-07-08"} | own
    instance["backtest"]["exchange_kwargs"]["exchange"] = AShareExchange(**span)
    with pytest.raises(ValueError, match=f"exchange's {name} is {day}"):
        PortAnaRecord(Run(**{"pred.pkl": market[3]}), instance, dataset=market[2])._generate()


def test_signals_of_the_future_do_not_reach_paper(market):
    test_data.start_qlib(market[0], market[1])
    days = pd.DatetimeIndex(market[2].panel.days[market[2].rows("test")])[2:20]
    first = judged_stages(market[2], market[3], days, CASH, {"capital": CASH})
    known = market[3].index.get_level_values("datetime") <= days[10]
    other = market[3].where(known[:, None], -market[3])
    second = judged_stages(market[2], other, days, CASH, {"capital": CASH})
    for stage, series in first.items():
        np.testing.assert_array_equal(series[:13], second[stage][:13])  # the score of day 10 earns on day 12
        assert not np.array_equal(series[13:], second[stage][13:])


def test_a_run_without_buffer_and_impact_skips_their_backtests(market, monkeypatch):
    test_data.start_qlib(market[0], market[1])
    config = configuration({"impact": 0, "start_time": "2020-06-10"}, rank_buffer=1.0)
    config["backtest"] |= {"start_time": "2020-06-15", "end_time": "2020-06-30"}
    runs = []
    monkeypatch.setattr("qlib_ext.record.backtest.backtest", lambda **kw: runs.append(kw) or backtest(**kw))
    made = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2], waterfall=True)
    table = made._generate()["waterfall.pkl"]
    assert (table.loc[["price", "buffer", "impact"], "change"] == 0).all()
    assert (
        table.loc["deck", "annual_return"] == table.loc["impact", "annual_return"]
    )  # it trades as the deck's judge does
    assert len(runs) == 1 + 3  # b: 1, 2/3, 1/3
    assert "changes nothing" in table.attrs["definitions"]["buffer"]
    exchange = made.backtest_config["exchange_kwargs"]["exchange"]["kwargs"]
    assert exchange["start_time"] == "2020-06-10" and exchange["end_time"] == "2020-06-30"  # one's own is kept
    quiet = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2], waterfall=False)._generate()
    assert "waterfall.pkl" not in quiet and "execution.pkl" in quiet


def test_each_number_a_year_is_by_the_market_s_calendar(market, monkeypatch):
    test_data.start_qlib(market[0], market[1])
    from qlib.data import D

    year = 2 * len(D.calendar())
    monkeypatch.setattr("qlib_ext.record.facts.days_a_year", lambda calendar: 2 * len(calendar))
    config = configuration()
    config["backtest"] |= {"start_time": "2020-06-15", "end_time": "2020-06-30"}
    got = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2])._generate()
    report, tables = got["report_normal_1day.pkl"], got["execution.pkl"]
    net = report["return"] - report["cost"]
    assert tables["performance"].loc["net", "annual_volatility"] == pytest.approx(net.std() * year**0.5)
    share = tables["cost_split"]["yuan"] / report["account"].mean() / len(report) * year
    np.testing.assert_allclose(tables["cost_split"]["share_a_year"], share)
    excess = got["account_daily.pkl"]["excess"].mean()
    assert got["account.pkl"].loc[1.0, "account_excess"] == pytest.approx(excess * year)
    judged = LiquidityRecord(Run(**{"pred.pkl": market[3]}), dataset=market[2])._generate()
    for curve in (got["capacity_strategy.pkl"], judged["capacity.pkl"], judged["capacity_topn.pkl"]):
        np.testing.assert_allclose(curve["net_impact_excess"], curve["daily_excess"] * year)
    for table, days in (
        (got["waterfall.pkl"], len(report)),
        (judged["headline.pkl"], judged["daily.pkl"]["market"].count()),
    ):
        np.testing.assert_allclose(table["annual_return"], table["mean_return"] / days * year)


def test_the_span_ends_a_day_before_the_calendar(market):
    from qlib.data import D

    test_data.start_qlib(market[0], market[1])
    config = configuration()
    config["backtest"]["end_time"] = str(D.calendar()[-1])
    made = PortAnaRecord(None, config, dataset=market[2])
    exchange = made.backtest_config["exchange_kwargs"]["exchange"]["kwargs"]
    assert exchange["end_time"] == config["backtest"]["end_time"] and "start_time" not in exchange
    assert (exchange["liquidity"], exchange["volatility_window"]) == ("community", 20)  # the dataset's
    made._set_span(pd.DatetimeIndex(market[3].index.get_level_values(0)))
    assert made.backtest_config["end_time"] == exchange["end_time"] == D.calendar()[-2]
    assert exchange["start_time"] == made.backtest_config["start_time"] == market[3].index[0][0]
    assert config["backtest"]["exchange_kwargs"]["exchange"]["kwargs"] == {}  # the caller's is left alone


def test_qlibs_own_exchange_goes_on_working(market):
    test_data.start_qlib(market[0], market[1])
    config = configuration()
    config["backtest"] |= {"start_time": "2020-06-10", "end_time": "2020-06-22"}
    config["backtest"]["exchange_kwargs"] = {"limit_threshold": 0.095, "deal_price": "close", "min_cost": 5}
    made = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2])
    got = made._generate()
    assert set(made.list()) <= set(got) and "fills.pkl" not in got and "waterfall.pkl" not in got
    assert {"performance", "target_reached", "book"} == set(got["execution.pkl"])
    plain = {"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy"}
    config["strategy"] = plain | {"kwargs": {"signal": "<PRED>", "topk": 5, "n_drop": 1}}
    made = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2])
    assert "daily_log.pkl" not in made.list() and len(made._generate()["report_normal_1day.pkl"]) == 9
    made = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2], waterfall=True)
    with pytest.raises(ValueError, match="waterfall: true, but it needs an AShareExchange"):
        made._generate()


@pytest.mark.parametrize("own", [None, {}, {"backtest": {"exchange_kwargs": None}}, {"strategy": {"kwargs": None}}])
def test_what_a_workflow_leaves_out(market, own):
    """It is what the workflows wrote in full."""
    caps = {"participation": 0.05, "trade_participation": 0.05, "max_weight": 0.05}
    whole = configuration({"deal_price": "close", "participation": 0.05})
    kwargs = {"signal": "<PRED>", **caps}
    whole["strategy"] = {"class": "CostAwareStrategy", "module_path": "qlib_ext.strategy", "kwargs": kwargs}
    whole["backtest"] |= {"start_time": "2020-06-01", "end_time": "2020-07-07", "account": 150e6}
    names = ("strategy_config", "executor_config", "backtest_config")
    full, bare = (PortAnaRecord(None, config, dataset=market[2]) for config in (whole, own))
    assert [getattr(bare, name) for name in names] == [getattr(full, name) for name in names]
    assert bare.list() == full.list() and bare.strategy_config["kwargs"]["liquidity"] == "community"


def test_a_run_keeps_what_it_traded_by(market):
    """What it left out is read as it was then, whatever the defaults are today; a run without a plan, literally."""
    record = {"class": "PortAnaRecord", "module_path": "qlib_ext.record", "kwargs": {"waterfall": False}}
    made = PortAnaRecord(Run(**{"pred.pkl": market[3]}), dataset=market[2], waterfall=False)
    plan = made._generate()["plan.pkl"]
    assert pickle.loads(pickle.dumps(plan))["backtest"]["account"] == 150e6 and "plan.pkl" in made.list()
    task = {"record": [record], "dataset": {"kwargs": {"segments": {"test": ["2020-06-01", "2020-07-07"]}}}}
    for kept in (Task(task), Task(task, recorded=True, plan=plan)):  # to be run, and as it ran
        assert kept.strategy["max_weight"] == 0.05 and kept.exchange["participation"] == 0.05
        assert kept.backtest["account"] == 150e6 and kept.backtest["start_time"] == "2020-06-01"
    bare = Task(task, recorded=True)
    assert bare.strategy is None and bare.exchange is None and bare.backtest == {}


def test_a_record_of_ones_own_is_read_too():
    strategy = {"class": "LiquidityTopNStrategy", "kwargs": {"top_n": 5}}
    record = {"class": "MyRecord", "module_path": "mine", "kwargs": {"config": {"strategy": strategy}}}
    assert Task({"record": record}).strategy == Task({"record": record}, recorded=True).strategy == {"top_n": 5}


def test_a_misspelt_key_of_the_backtest_is_an_error(market):
    with pytest.raises(TypeError, match=r"no option 'acount'; close: \['account'\]"):
        PortAnaRecord(None, {"backtest": {"acount": 1e6}}, dataset=market[2])


def test_a_workflow_states_what_differs(market):
    own = {
        "strategy": {"kwargs": {"risk_aversion": 5}},
        "backtest": {"account": 1e6, "exchange_kwargs": {"min_cost": 5}},
    }
    made = PortAnaRecord(None, own, dataset=market[2])
    options = made.strategy_config["kwargs"]
    assert options["risk_aversion"] == 5 and options["max_weight"] == 0.05
    assert made.backtest_config["exchange_kwargs"] == {"min_cost": 5}  # of qlib's exchange
    strategy = {"class": "CostAwareStrategy", "module_path": "qlib_ext.strategy", "kwargs": {"signal": "<PRED>"}}
    spelt = PortAnaRecord(None, {"strategy": strategy}, dataset=market[2]).strategy_config["kwargs"]
    assert spelt["max_weight"] == 0.05  # by which a later version reads the plan
    named = {"strategy": {"class": "LiquidityTopNStrategy", "kwargs": {"signal": "<PRED>"}}}
    assert "max_weight" not in PortAnaRecord(None, named, dataset=market[2]).strategy_config["kwargs"]
    with pytest.raises(TypeError, match="'strategie'.*'strategy'"):
        PortAnaRecord(None, {"strategie": {}}, dataset=market[2])
    task = {"record": {"class": "PortAnaRecord", "module_path": "qlib_ext.record", "kwargs": {"config": own}}}
    assert (Task(task).strategy["risk_aversion"], Task(task).strategy["max_weight"]) == (5, 0.05)
    qlibs = task["record"] | {"module_path": "qlib.workflow.record_temp"}
    assert Task({"record": qlibs}).strategy is None


def test_no_benchmark_is_none(market, monkeypatch):
    """qlib takes SH000300 for `null`: it is not asked for, and our tables have no row of it; qlib's files stay."""
    test_data.start_qlib(market[0], market[1])
    config = configuration()
    config["backtest"] |= {"benchmark": None, "start_time": "2020-06-10", "end_time": "2020-06-30"}
    said = []
    monkeypatch.setattr("qlib_ext.record.backtest.logger", SimpleNamespace(info=said.append, warning=said.append))
    made = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2])
    got = made._generate()
    report = got["report_normal_1day.pkl"]
    assert (report["bench"] == 0).all() and report["return"].abs().max() > 0
    assert list(got["execution.pkl"]["performance"].index) == ["gross", "net"]
    risk = got["port_analysis_1day.pkl"].loc["excess_return_with_cost", "risk"]
    assert risk["mean"] == pytest.approx((report["return"] - report["cost"]).mean())
    assert made.backtest_config["benchmark"] is None and "waterfall.pkl" in got
    assert any(text.startswith("benchmark: null") for text in said)


def test_a_nested_executor_s_strategy_gets_the_scores_in_the_waterfall_too(market, monkeypatch):
    """The inner strategy of a nested executor, here one that asks for <PRED>, is built anew for every stage."""
    test_data.start_qlib(market[0], market[1])
    seen = []

    class Twap(TWAPStrategy):
        def __init__(self, *, signal, **kwargs):
            seen.append(signal)
            super().__init__(**kwargs)

    config = configuration()
    config["backtest"] |= {"start_time": "2020-06-10", "end_time": "2020-06-16"}
    inner = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": {"time_per_step": "day"}}
    config["executor"] = {
        "class": "NestedExecutor", "module_path": "qlib.backtest.executor",
        "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True, "inner_executor": inner,
                   "inner_strategy": {"class": Twap, "kwargs": {"signal": "<PRED>"}}},
    }  # fmt: skip
    got = PortAnaRecord(Run(**{"pred.pkl": market[3]}), config, dataset=market[2], waterfall=True)._generate()
    assert len(got["waterfall.pkl"]) == len(STAGES) - 1 and len(seen) >= 5
    assert all(signal.equals(market[3]) for signal in seen)


def test_settlements_are_in_the_turnover(tmp_path):
    """A held stock is delisted: what qlib's account was paid for it is in qlib's turnover, and in ours."""
    path = make_market(tmp_path / "market", n_stocks=12, start="2020-01-02", years=0.4, seed=3)
    test_data.start_qlib(path, tmp_path)
    days = pd.DatetimeIndex(D.calendar())
    codes = D.list_instruments(D.instruments("all"), as_list=True)
    close = D.features(codes, ["$close"], days[0], days[-1])["$close"].unstack("instrument")
    code = close.columns[close.iloc[25:60].notna().all() & ~close.columns.map(is_index)][0]
    for file in (path / "features" / code.lower()).glob("*.day.bin"):  # it ends on day 50
        values = np.fromfile(file, "<f4")
        values[: 1 + 51 - int(values[0])].tofile(file)
    test_data.start_qlib(path, tmp_path)
    index = pd.MultiIndex.from_product([days[29:51], [code]], names=["datetime", "instrument"])
    rest = pd.MultiIndex.from_product([days[29:70], [c for c in close if c != code and not is_index(c)][:5]],
                                      names=index.names)  # fmt: skip
    score = pd.concat([pd.Series(2.0, index), pd.Series(np.arange(len(rest)) % 5 / 5.0, rest)]).sort_index()
    config = configuration({"delisted_after": 3}, capital=None)
    config["strategy"]["kwargs"] |= {"trade_participation": 0.01, "participation": 0.2}
    config["backtest"] |= {"start_time": str(days[30]), "end_time": str(days[65])}
    got = PortAnaRecord(Run(**{"pred.pkl": score.to_frame("score")}), config)._generate()
    (row,) = got["settled.pkl"].to_dict("records")
    assert (row["code"], row["kind"]) == (code, "last_price") and row["yuan"] > 1e5
    assert row["day"] == days[53]
    report, ours = got["report_normal_1day.pkl"], got["execution.pkl"]["turnover"]
    np.testing.assert_allclose(ours["two_way"], report["turnover"], rtol=1e-9)
    assert ours.loc[row["day"], "sell"] >= row["yuan"]


def test_what_qlib_would_ignore_is_an_error(market):
    config = configuration()
    config["backtest"]["exchange_kwargs"]["deal_price"] = "open"
    with pytest.raises(ValueError, match=r"\['deal_price'\] beside exchange"):
        PortAnaRecord(None, config)
    with pytest.raises(TypeError, match="watrfall"):
        PortAnaRecord(None, configuration(), watrfall=True)


# --- real data


@pytest.mark.realdata
@pytest.mark.skipif(
    not Path(REAL).is_dir() or not REAL, reason="needs QLIB_EXT_REAL_DATA, a provider folder of A shares"
)
def test_a_year_of_the_whole_market_breaks_no_rule(tmp_path):
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # `benchmarks` is not installed
    from benchmarks.bench_backtest import reversal, run_ours

    test_data.start_qlib(Path(REAL), tmp_path)
    start, end = "2022-01-04", "2022-12-29"
    exchange, report = run_ours(reversal("ashare", start, end), "ashare", start, end)[:2]
    fills = exchange.fills
    assert len(report) == 241 and len(fills) > 400
    assert fills.groupby(["day", "code"])["used"].sum().max() <= 0.05 * (1 + 1e-5)
    assert report["cash"].min() >= 0
    known = fills[fills["prev_close"].notna()]
    age = [
        exchange.day_rules.days.get_loc(day) - exchange.day_rules.listed[exchange.quote.column[code]]
        for day, code in zip(known["day"], known["code"], strict=True)
    ]
    old = known[np.array(age) > 5]  # the first days have no band
    cost = old[["commission", "transfer", "stamp_duty", "impact"]].sum(axis=1)
    rows = old.assign(date=old["day"].astype(str), turnover=old["yuan"], fee=cost)
    verdict = check_rows(rows.to_dict("records"))
    assert verdict["rules_verified"], verdict["findings"][:3]


def test_a_cost_aware_strategy_trades_by_the_forecast_of_the_run(market):
    test_data.start_qlib(market[0], market[1])
    levels = {"places": [0.1, 0.9], "levels": [-0.004, 0.004], "persistence": 0.5, "spread": 0.003}
    forecast = Forecast.from_dict(levels | {"significant": True, "days": 60}).to_dict()

    class Keeps(Run):
        def load_object(self, name, **reader):
            return forecast if name == "forecast.json" else super().load_object(name)

        def list_artifacts(self, folder=None):
            return ["forecast.json"]

    config = configuration()
    config["strategy"] = {
        "class": "CostAwareStrategy",
        "module_path": "qlib_ext.strategy",
        "kwargs": {"signal": "<PRED>", "risk_aversion": 2.0},
    }
    made = PortAnaRecord(Keeps(**{"pred.pkl": market[3]}), config, dataset=market[2], capacity=False, waterfall=False)
    got = made._generate()
    log, plan = got["daily_log.pkl"], got["plan.pkl"]
    assert (log["gain"].iloc[1:] > 0).all() and len(got["fills.pkl"]) > 20
    assert plan["strategy"]["kwargs"]["forecast"] == forecast
    task = Task({}, recorded=True, plan=plan)
    assert task.strategy_class == "CostAwareStrategy" and task.strategy["forecast"] == forecast
    assert task.strategy["liquidity"] == "community"  # the dataset's
