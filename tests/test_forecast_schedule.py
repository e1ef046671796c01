"""Forecasts over time: each holds from its day on, and is learnt on what was known before it."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_cost_aware_strategy import FORECAST, scores, traded  # noqa: F401
from test_forecast_record import QUICK, dataset, recorded  # noqa: F401
from test_leak import config, detail, failed, market, quick  # noqa: F401
from test_simulate import FEES, Fixed, grids

from qlib_ext.model import WalkForwardModel
from qlib_ext.portfolio import Forecast, ForecastSchedule, Risk, simulate
from qlib_ext.provider import load_liquidity, read_traded, trailing_volatility
from qlib_ext.record import ForecastRecord
from qlib_ext.runs import FORECAST as FILE
from qlib_ext.runs import load_if_there
from qlib_ext.strategy import CostAwareStrategy

WEAK = Forecast(days=50)
FASTER = replace(FORECAST, half_lives=(3.0,), persistence=0.7, smoothing=2.0)
DAYS = pd.DatetimeIndex(["2020-01-02", "2020-02-03", "2020-03-02"])
THREE = ForecastSchedule(tuple(DAYS), (FORECAST, WEAK, FASTER))


def test_it_is_written_and_read_again():
    text = json.loads(json.dumps(THREE.to_list()))
    assert [entry["from"] for entry in text] == ["2020-01-02", "2020-02-03", "2020-03-02"]
    assert ForecastSchedule.read(text) == THREE == ForecastSchedule.read(THREE)
    for one in (FORECAST, FORECAST.to_dict()):
        assert ForecastSchedule.read(one).at("1990-01-01") == FORECAST == ForecastSchedule.read(one).at("2030-01-01")


def test_the_days_of_each():
    days = pd.bdate_range("2020-02-27", "2020-03-03")  # Thursday to Tuesday: the second's, then the third's
    assert [(a, b) for a, b, _ in THREE.spans(days)] == [(0, 2), (2, 4)]
    assert [THREE.at(day) for day in days] == [WEAK, WEAK, FASTER, FASTER]
    assert [own for *_, own in THREE.spans(days[:2])] == [WEAK]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "0 forecasts"),
        ([{"significant": False}], "forecast 0 of 1 lacks its day `from`"),
        ([{"from": "2020-01-02"}, {"from": "2020-01-02"}], "each from a later day"),
        ([{"from": "2020-13-02"}], "forecast 0: from"),
        ([0.1], "forecast is a list"),
        ("2020", "forecast is a str"),
    ],
)
def test_what_is_none_is_refused(value, words):
    with pytest.raises(ValueError, match=words):
        ForecastSchedule.read(value)


# --- the simulator


def test_a_policy_a_day_by_hand():
    # Day 0 holds 50,000 of the first stock, day 1 20,000 of the second: trades of 50,000, then of 70,000
    options = grids(2, 2) | {"account": 1e5, "impact": 0.0, "least": 0.0}
    done = simulate([Fixed((5e4, 0.0)), Fixed((0.0, 2e4))], [[2.0, 1.0]] * 2, **options)
    assert (done.daily["turnover"] * 1e5).round(6).tolist() == [5e4, 7e4]
    np.testing.assert_allclose(done.holdings, [0.0, 2e4])
    halves = simulate(Fixed((5e4, 0.0)), [[2.0, 1.0]] * 2, **options, participation=[0.01, 0.03])
    np.testing.assert_allclose(halves.daily["turnover"] * 1e5, [1e4, 3e4])  # of a liquidity of 1e6


class Noted(Fixed):
    """Notes what it is told."""

    def prepare(self, score):
        self.seen, self.days = score.copy(), []
        return 2.0 * score

    def target(self, day):
        self.days.append(day.score)
        return super().target(day)


def test_a_policy_prepares_the_days_up_to_its_own_and_decides_those():
    random = np.random.default_rng(0)
    score = random.normal(size=(9, 2))
    score[1] = np.nan
    early, late = Noted((5e4, 0.0)), Noted((0.0, 5e4))
    daily = simulate([early] * 4 + [late] * 5, score, **grids(9, 2), **FEES, account=1e5).daily
    known = np.delete(score, 1, axis=0)
    np.testing.assert_array_equal(early.seen, known[:3])
    np.testing.assert_array_equal(late.seen, known)
    np.testing.assert_array_equal(early.days, 2.0 * known[:3])
    np.testing.assert_array_equal(late.days, 2.0 * known[3:])
    alone = simulate(Noted((5e4, 0.0)), score, **grids(9, 2), **FEES, account=1e5).daily
    pd.testing.assert_frame_equal(daily[:4], alone[:4])
    assert daily["turnover"][4] > 0 == alone["turnover"][4]


# --- the strategy


def test_the_account_of_several_forecasts_is_that_of_the_simulator(scores):  # noqa: F811
    plain = {"trade_unit": None, "limit_threshold": None, "participation": None, "min_cost": 0.0}
    wide = scores.unstack()
    days, codes = wide.index, list(wide.columns)
    told = ForecastSchedule((days[0], days[30], days[60]), (FORECAST, WEAK, FASTER))
    with pytest.warns(UserWarning, match=f"forecast of the days from {days[30].date()} is not significant"):
        strategy, report, dealt = traded(scores, account=2e8, exchange=plain, forecast=told.to_list())
    close = read_traded(codes, ["$close"], days[0], days[-1], lead=120)["$close"].astype(float)
    step = (close.ffill().shift(-2) / close.ffill().shift(-1) - 1).loc[days[:-1]]
    there = close.notna().shift(-1, fill_value=False).loc[days[:-1]].to_numpy()
    rates = np.array([dealt.fee_rates(day) for day in days[1:]])
    risk = [
        pd.DataFrame(grid, close.index).ffill().loc[days[:-1]]
        for grid in vars(Risk.of_closes(close.to_numpy())).values()
    ]
    spans = list(told.spans(days[:-1]))
    done = simulate(
        [strategy.policy_of(own) for a, b, own in spans for _ in range(a, b)],
        wide.iloc[:-1], step_return=step, buyable=there, sellable=there, account=2e8, least=0.0,
        liquidity=load_liquidity(codes, days[0], days[-1], past=True)[codes].reindex(days[:-1]),
        volatility=trailing_volatility(close, 20).ffill().loc[days[:-1]], buy_rate=rates[:, 0], sell_rate=rates[:, 1],
        participation=[strategy.traded_share(own) for a, b, own in spans for _ in range(a, b)],
        risk=Risk(risk[0].to_numpy(), risk[1].to_numpy(), risk[2].to_numpy()[:, 0]),
    )  # fmt: skip
    assert {strategy.traded_share(own) for *_, own in spans} == {0.05, 0.01}
    np.testing.assert_allclose(report["account"], done.daily["value"], rtol=1e-6)
    alone = traded(scores, account=2e8, exchange=plain)[1]
    first = report["account"] == alone["account"]
    assert first.iloc[:30].all() and not first.iloc[35:].any()
    log = pd.DataFrame(strategy.daily_log).set_index("signal_date")
    assert (log["gain"].notna() == [told.at(day).significant for day in log.index]).all()


def test_equal_forecasts_are_one(scores):  # noqa: F811
    days = scores.index.unique("datetime")
    told = ForecastSchedule((days[0], days[30]), (FORECAST, replace(FORECAST)))
    reports = [traded(scores, forecast=forecast)[1] for forecast in (FORECAST, told)]
    pd.testing.assert_frame_equal(*reports)


def test_tomorrows_policy_is_that_of_the_day(scores):  # noqa: F811
    days = scores.index.unique("datetime")
    told = ForecastSchedule((days[0], days[30]), (FORECAST, WEAK))
    with pytest.warns(UserWarning, match="not significant"):
        strategy = CostAwareStrategy(signal=scores, forecast=told)
    wide = scores.unstack().to_numpy()
    for row, policy in ((29, FORECAST), (30, strategy.rule), (29, FORECAST)):
        seen = strategy.scores_at(days[row], days[row])
        np.testing.assert_allclose(seen["prepared"], policy.prepare(wide[: row + 1])[-1])
        assert strategy.simple == (row == 30) and strategy.trade_participation == (0.01 if row == 30 else 0.05)


# --- the record


@pytest.fixture(scope="module")
def walked(dataset):  # noqa: F811
    model = WalkForwardModel(model={"class": "MLPModel", "kwargs": QUICK}, step=8)
    return model, recorded(dataset, model)


def test_each_block_has_a_forecast_of_the_days_before_it(walked, dataset):  # noqa: F811
    model, recorder = walked
    written = load_if_there(recorder, FILE)
    assert len(written) == len(model.starts) > 2
    scored = recorder.load_object("forecast_scores.pkl")
    both = pd.concat([model.predict(dataset, "valid"), model.predict(dataset)])
    pd.testing.assert_series_equal(scored, both[both.index.get_level_values(0) < model.starts[-1]])
    for entry, start in zip(written, model.starts, strict=True):
        want = Forecast.of_panel(dataset.panel, both, before=start)
        assert entry == {"from": str(start.date()), **want.to_dict()}
        assert pd.Timestamp(entry["last"]) < start
    assert written[1]["days"] == written[0]["days"] + 8
    assert recorder.list_metrics()["forecast.t"] == pytest.approx(written[0]["t"])
    assert ForecastSchedule.read(written).forecasts[0].days == written[0]["days"]


def test_no_forecast_knows_a_return_of_its_own_days(walked, dataset):  # noqa: F811
    model, _ = walked
    record = ForecastRecord(None, dataset, model)
    before, panel = record.learn(record.past()), dataset.panel
    row = int(np.searchsorted(panel.days, model.starts[1].to_datetime64()))
    step = panel.step_return.clone()
    step[row - 2 :] = torch.randn(step[row - 2 :].shape)  # of row - 2 is the return that ends on the block's first day
    scored = record.past()
    scored[scored.index.get_level_values(0) >= model.starts[1]] = 0.5
    record.dataset = type(
        "Other", (), {"panel": replace(panel, step_return=step), "span": dataset.span, "segments": dataset.segments}
    )
    after = record.learn(scored)
    assert after.forecasts[:2] == before.forecasts[:2] and after.forecasts[2] != before.forecasts[2]


def test_scores_that_are_given_have_one_forecast(walked, dataset):  # noqa: F811
    model, _ = walked
    given = ForecastRecord(None, dataset, model, scores=model.predict(dataset, "valid"))
    assert isinstance(given.learn(given.past()), Forecast)


def walking(config, monkeypatch):  # noqa: F811
    """Retrain every ten days, and trade by whatever was learnt."""
    monkeypatch.setattr("qlib_ext.portfolio.forecast.T_SIGNIFICANT", -10.0)
    inner = config["task"]["model"]
    kwargs = {"model": inner, "step": 10, "warm_start": {"epochs": 1}}
    config["task"]["model"] = {"class": "WalkForwardModel", "module_path": "qlib_ext.model", "kwargs": kwargs}
    strategy = config["task"]["record"][0]["kwargs"]["config"]["strategy"]
    strategy |= {"class": "CostAwareStrategy", "kwargs": {"signal": "<PRED>", "risk_aversion": 1.0}}
    return config


def test_check_leak_passes_a_walk_that_trades_by_its_forecasts(config, monkeypatch):  # noqa: F811
    table = quick(walking(config, monkeypatch), only=["future"])
    assert table["passed"].all(), table.loc[~table["passed"]].to_string()
    ends = detail(table, "forecast").partition("ends on ")[2].split(", ")
    assert ends == ["2020-07-31", "2020-08-14", "2020-08-28"]  # blocks of ten days, up to the day after the cutoff
    assert table.set_index("item").loc["positions", "compared"] > 100


def test_check_leak_finds_a_block_whose_forecast_knows_its_own_days(config, monkeypatch):  # noqa: F811
    real, first = Forecast.of_panel.__func__, pd.Timestamp("2020-08-14")

    def late(kind, panel, given, *, before, **options):
        return real(kind, panel, given, before=before if before < first else before + pd.Timedelta(days=30), **options)

    monkeypatch.setattr(Forecast, "of_panel", classmethod(late))
    table = quick(walking(config, monkeypatch), only=["future"])
    assert "forecast" in failed(table) and "days for which it holds is known" in detail(table, "forecast")


# --- the page


def test_the_page_has_a_row_for_each_block():
    pytest.importorskip("plotly")
    from report_artifacts import CONTEXT, make_forecast

    from qlib_ext.report import report_html

    own = make_forecast(np.random.default_rng(0), 1.0)
    told = ForecastSchedule(tuple(DAYS), (own, WEAK, replace(own, half_lives=(7.25,))))
    pages = [report_html({"forecast.json": value}, CONTEXT) for value in (own.to_dict(), told.to_list())]
    for word, there in (("2020-03-02", [False, True]), ("7.25", [False, True]), ("retrained in blocks", [False, True])):
        assert [word in page for page in pages] == there
