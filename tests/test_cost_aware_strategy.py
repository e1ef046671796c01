"""CostAwareStrategy in qlib's backtest, beside the simulator."""

import json
import warnings
from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.backtest import backtest
from qlib.backtest.executor import SimulatorExecutor
from qlib.data import D

from qlib_ext.exchange import AShareExchange, Options
from qlib_ext.portfolio import Day, Forecast, Risk, exposures, simulate
from qlib_ext.provider import load_liquidity, read_traded, trailing_volatility
from qlib_ext.runs import Task
from qlib_ext.strategy import CostAwareStrategy, ScoredRun, plan_orders, read_holdings
from qlib_ext.synthetic import make_market

read_bounds = import_module("qlib_ext.strategy.cost_aware").read_bounds
FORECAST = Forecast(
    places=(0.02, 0.98), levels=(-0.004, 0.004), half_lives=(10.0,), persistence=0.93, spread=0.0024, significant=True,
    days=100,
)  # fmt: skip


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost_aware") / "market"
    make_market(path, n_stocks=40, years=0.5, seed=4)
    qlib.init(provider_uri=str(path), region="cn", kernels=1)
    days, codes = D.calendar()[22:-2], D.list_instruments(D.instruments("all"), as_list=True)
    codes = [code for code in sorted(codes) if code != "SH000300"]
    draw, walk = np.random.default_rng(0), np.zeros((len(days), len(codes)))
    for d in range(1, len(days)):
        walk[d] = 0.93 * walk[d - 1] + draw.normal(size=len(codes))
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    return pd.Series(walk.ravel(), index)


def traded(scores, *, account=2e8, exchange=None, start=0, **options):
    """Strategy, daily report and exchange of a backtest from the scored day after number `start` on."""
    days = scores.index.get_level_values("datetime").unique()
    options = {"forecast": FORECAST, "risk_aversion": 2.0, "exposures": None} | options
    strategy = CostAwareStrategy(signal=scores, **options)
    dealt = AShareExchange(start_time=days[1 + start], end_time=days[-1], **(exchange or {}))
    executor = SimulatorExecutor(time_per_step="day", generate_portfolio_metrics=True)
    report, _ = backtest(
        days[1 + start],
        days[-1],
        strategy,
        executor,
        benchmark=None,
        account=account,
        exchange_kwargs={"exchange": dealt},
    )
    return strategy, report["1day"][0], dealt


def test_the_account_is_that_of_the_simulator(scores):
    plain = {"trade_unit": None, "limit_threshold": None, "participation": None, "min_cost": 0.0}
    strategy, report, dealt = traded(scores, account=2e8, exchange=plain)
    wide = scores.unstack()
    days, codes = wide.index, list(wide.columns)
    close = read_traded(codes, ["$close"], days[0], days[-1], lead=120)["$close"].astype(float)
    known = close.ffill()
    step = (known.shift(-2) / known.shift(-1) - 1).loc[days[:-1]]
    liquidity = load_liquidity(codes, days[0], days[-1], past=True)[codes]
    there = close.notna().shift(-1, fill_value=False).loc[days[:-1]].to_numpy()
    rates = np.array([dealt.fee_rates(day) for day in days[1:]])
    risk = Risk.of_closes(close.to_numpy())
    grids = [pd.DataFrame(grid, close.index).ffill().loc[days[:-1]].to_numpy() for grid in vars(risk).values()]
    done = simulate(
        strategy.policy, wide.iloc[:-1], step_return=step, liquidity=liquidity.reindex(days[:-1]),
        volatility=trailing_volatility(close, 20).ffill().loc[days[:-1]], buyable=there, sellable=there, account=2e8,
        buy_rate=rates[:, 0], sell_rate=rates[:, 1], least=0.0, participation=0.05,
        risk=Risk(*grids[:2], grids[2][:, 0]),
    )  # fmt: skip
    assert report["turnover"].gt(0).sum() > 20
    np.testing.assert_allclose(report["account"], done.daily["value"], rtol=1e-6)


def test_what_the_optimum_leaves_alone_is_not_traded(scores):
    lasting = scores.unstack().iloc[[0] * scores.index.get_level_values(0).nunique()].to_numpy().ravel()
    strategy, _, _ = traded(pd.Series(lasting, scores.index))
    orders = strategy.daily_targets.groupby("date").size()
    assert orders.iloc[40:].mean() < 0.7 * pd.DataFrame(strategy.daily_log)["names"].iloc[40:].mean()


def test_the_log_tells_the_limits(scores):
    frame = pd.DataFrame({"sector": ["a", "b=c"] * 20}, index=sorted(scores.index.get_level_values(1).unique()))
    strategy, report, dealt = traded(
        scores, exposures={"volatility": 0.1, "beta": [-0.2, 0.2], "sector": 0.05}, exposure_frame=frame
    )
    log = pd.DataFrame(strategy.daily_log)
    names = ["volatility", "beta", "sector=a", "sector=b=c"]
    assert {f"{key}.{name}" for key in ("exposure", "beyond", "price") for name in names} <= set(log)
    late = log.iloc[20:]  # from cash it takes some days
    assert (late[[f"beyond.{name}" for name in names]] < 1e-6).all().all()
    assert (late["exposure.volatility"].abs() <= 0.1 + 1e-6).all()
    assert (late["gain"] > 0).any() and late["exposure.sector=a"].abs().max() <= 0.05 + 1e-6
    assert strategy.daily_targets["reason"].ne("cash_clipped").mean() > 0.9
    assert len(dealt.fills) > 100


def test_every_kind_of_exposure_can_be_bounded(scores):
    names = ["price", "reversal", "age"]
    strategy, *_ = traded(scores, exposures=dict.fromkeys(names, 0.1))
    late = pd.DataFrame(strategy.daily_log).iloc[20:]
    assert (late[[f"exposure.{name}" for name in names]].abs() <= 0.1 + 1e-6).all(axis=None)
    assert (late[["exposure.price", "exposure.reversal"]].abs() > 1e-3).any().all()
    codes, days = [*strategy._closes["price"].columns], D.calendar()
    raw = read_traded(codes, ["$close", "$factor"], days[0], days[-1])
    close, factor = (raw[name].astype(float).ffill() for name in ("$close", "$factor"))
    day = strategy._closes["price"].index[60]
    np.testing.assert_allclose(strategy._closes["price"].loc[day], (close / factor).loc[day])
    np.testing.assert_allclose(strategy._closes["reversal"].loc[day], (1 - close / close.shift(20)).loc[day])


def test_the_exchange_tells_the_costs(scores):
    strategy, cheap, _ = traded(scores, exchange={"impact": 0.1, "min_cost": 1.0, "commission": 0.0002})
    assert strategy.policy.impact == 0.1 and strategy.policy.least_commission == 1.0
    assert strategy.policy.commission == 0.0002
    own, dear, dealt = traded(scores, impact=2.0)
    assert own.policy.impact == 2.0
    (least, *_) = dealt.options.fees([dealt.end_time]).parts(0, 100.0, sell=False)
    assert own.policy.least_commission == least == 5.0
    assert dear["turnover"].sum() < cheap["turnover"].sum()


@pytest.mark.parametrize("forecast", [None, "<FORECAST>", Forecast(), {"significant": False, "days": 50}])
def test_without_a_significant_forecast_it_says_so_and_trades_slowly(scores, forecast):
    with pytest.warns(UserWarning, match="not significant|missing"):
        strategy = CostAwareStrategy(signal=scores, forecast=forecast)
    assert strategy.simple and strategy.trade_participation == 0.01
    assert strategy.policy.rank_buffer == (3, 8) and strategy.policy.score_halflife == 10.0


def test_a_forecast_is_read_from_a_file_and_the_plain_numbers(scores, tmp_path):
    file = tmp_path / "forecast.json"
    file.write_text(json.dumps(FORECAST.to_dict()))
    for forecast in (str(file), FORECAST.to_dict(), FORECAST):
        assert CostAwareStrategy(signal=scores, forecast=forecast).forecast == FORECAST


def test_an_exposure_that_a_day_knows_of_no_stock_is_told_once(scores):
    frame = pd.DataFrame({"other": [1.0]}, index=["SH600999"])
    bounds = {"momentum": 0.1, "other": 0.1, "beta": 0.3}
    with pytest.warns(UserWarning, match="is known of no stock on") as told:
        strategy, *_ = traded(scores, exposures=bounds, exposure_frame=frame)
    texts = sorted(text for w in told if "known of no stock" in (text := str(w.message)))
    assert len(texts) == 2 and "momentum is known of no stock on" in texts[0] and "270 trading days back" in texts[0]
    assert "other is known of no stock on" in texts[1]
    assert (pd.DataFrame(strategy.daily_log)["exposure.momentum"] == 0).all()


def test_exposures_are_read_from_a_csv_file(scores, tmp_path):
    file, code = tmp_path / "mine.csv", scores.index[0][1]
    file.write_text(f"code,date,value,sector\n{code},2020-01-02,1.5,bank\n{code},2021-01-04,2.5,bank\n")
    strategy = CostAwareStrategy(
        signal=scores, forecast=FORECAST, exposure_frame=str(file), exposures={"value": 0.3, "sector": 0.1}
    )
    assert strategy.columns["value"][code].tolist() == [1.5, 2.5]
    assert strategy.columns["sector"][code].tolist() == ["bank", "bank"]
    assert strategy.bounds == {"value": (-0.3, 0.3), "sector": (-0.1, 0.1)}


def test_tomorrows_orders_are_those_of_the_backtest(scores):
    days = scores.index.get_level_values("datetime").unique()
    options = {"forecast": FORECAST.to_dict(), "risk_aversion": 2.0, "exposures": {"beta": 0.3}, "max_weight": 0.1}
    config = {"strategy": {"class": "CostAwareStrategy", "module_path": "qlib_ext.strategy", "kwargs": options}}
    exchange = {"class": "AShareExchange", "module_path": "qlib_ext.exchange", "kwargs": {}}
    config["backtest"] = {"exchange_kwargs": {"exchange": exchange}}
    close = read_traded(list(scores.index.levels[1]), ["$close"], days[0], days[-1])["$close"]
    scores = scores[close.notna().stack().reindex(scores.index).to_numpy()]  # as a model's: of stocks that trade
    strategy, _, _ = traded(scores, account=5e7, **options)
    run = ScoredRun(
        "demo", scores, task={"record": [{"class": "PortAnaRecord", "kwargs": {"config": config}}]}, qlib_init={}
    )
    orders = plan_orders(run, read_holdings(None), capital=5e7, day=str(days[0].date())).set_index("code")
    sent = strategy.daily_targets.set_index("code").loc[lambda table: table["date"] == days[1]]
    wanted = orders["target_yuan"].groupby(level=0).first()  # a large order is split
    both = wanted.to_frame().join(sent["target"].rename("backtest"), how="inner")
    assert len(both) == len(sent) > 5 and (orders["date"] == days[1]).all()
    np.testing.assert_allclose(both["target_yuan"], both["backtest"], rtol=1e-3)
    held = orders.loc[orders["side"] == "buy", ["shares"]].groupby(level=0).sum()
    again = plan_orders(run, held, capital=5e7, day=str(days[0].date()))
    assert 0 < again["yuan"].sum() < 0.3 * orders["yuan"].sum()  # the next part of the way


def test_tomorrows_orders_keep_the_bounds_and_the_universe_of_the_backtest(scores):
    """Bounds bind, and a quarter of the stocks has left the universe, though their last scores still count a little."""
    days = scores.index.unique("datetime")
    day, left = days[60], list(scores.index.levels[1][::4])
    scores = scores[~(scores.index.get_level_values(1).isin(left) & (scores.index.get_level_values(0) > days[50]))]
    options = {"forecast": FORECAST.to_dict(), "risk_aversion": 2.0, "max_weight": None}
    options["exposures"] = {"beta": 0.1, "volatility": 0.1}
    config = {"strategy": {"class": "CostAwareStrategy", "module_path": "qlib_ext.strategy", "kwargs": options}}
    config["backtest"] = {"exchange_kwargs": {"exchange": {"class": "AShareExchange", "kwargs": {}}}}
    task = {"record": [{"class": "PortAnaRecord", "kwargs": {"config": config}}]}
    close = read_traded(list(scores.index.levels[1]), ["$close"], days[0], days[-1])["$close"]
    scores = scores[close.notna().stack().reindex(scores.index).to_numpy()]
    strategy, _, _ = traded(scores, account=5e7, start=60, **options)
    run = ScoredRun("demo", scores, task=task, qlib_init={})
    orders = plan_orders(run, read_holdings(None), capital=5e7, day=str(day.date())).set_index("code")
    sent = strategy.daily_targets.set_index("code").loc[lambda table: table["date"] == days[61]]
    wanted = orders["target_yuan"].groupby(level=0).first().reindex(sent.index)
    assert len(sent) > 5 and abs(strategy.daily_log[0]["price.beta"]) > 0  # the bound costs something
    np.testing.assert_allclose(wanted, sent["target"], rtol=1e-3)


def test_no_stock_has_more_than_a_twentieth_unless_asked_for(scores):
    """By the forecast and by the simple rule; a run that was recorded without the option had no such bound."""
    for forecast in (FORECAST, None):
        by = {}
        for options in ({}, {"max_weight": None}):
            strategy, report, _ = traded(scores, account=2e7, forecast=forecast, **options)
            targets = strategy.daily_targets.set_index("date")["target"]
            by[not options] = (targets / report["account"].shift(1, fill_value=2e7).reindex(targets.index)).max()
        assert by[True] <= 0.05 * 1.2 and by[False] > 0.08  # decided at a close, told at the price a day later
    config = {"strategy": {"class": "CostAwareStrategy", "kwargs": {"risk_aversion": 2.0}}}
    task = {"record": [{"class": "PortAnaRecord", "module_path": "qlib_ext.record", "kwargs": {"config": config}}]}
    assert Task(task, recorded=True).strategy["max_weight"] is None
    plan = {"strategy": {"class": "CostAwareStrategy", "kwargs": {"max_weight": 0.1}}}
    assert Task(task, recorded=True, plan=plan).strategy["max_weight"] == 0.1


def test_too_few_stocks_for_the_largest_weight_are_told(scores):
    few = scores[scores.index.get_level_values("instrument").isin(scores.index.levels[1][:12])]
    with pytest.warns(UserWarning, match="max_weight 0.05 of 12 stocks a day places at most 60%"):
        CostAwareStrategy(signal=few, forecast=FORECAST)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"exposures": {"volatilty": 0.1}}, TypeError, "volatility"),
        ({"exposures": {"beta": [0.2, 0.1]}}, ValueError, "beta is"),
        ({"exposures": {"beta": -0.1}}, ValueError, "beta is"),
        ({"risk_aversion": 0}, ValueError, "risk_aversion"),
        ({"aversion": 1.0}, TypeError, "risk_aversion"),
        ({"forecast": {"levls": []}}, TypeError, "levels"),
    ],
)
def test_what_cannot_be_is_refused(scores, options, error, words):
    with pytest.raises(error, match=words):
        CostAwareStrategy(signal=scores, **options)


# --- by hand


def few(count, days=3):
    """Scores of so many stocks on some days."""
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2022-01-03", periods=days), [f"SH6000{n:02d}" for n in range(count)]],
        names=["datetime", "instrument"],
    )
    return pd.Series(np.arange(len(index), dtype=float), index)


def test_the_simple_rule_by_the_number_of_stocks(scores):
    for count, ranks in ((1, (1, 1)), (16, (1, 4)), (17, (2, 4)), (50, (3, 10)), (51, (4, 11))):
        with pytest.warns(UserWarning, match="missing"):
            rule = CostAwareStrategy(signal=few(count), capital=1e7, participation=0.02, max_weight=0.5).policy
        assert (rule.rank_buffer, rule.capital, rule.participation, rule.max_weight) == (ranks, 1e7, 0.01, 0.5)
    with pytest.warns(UserWarning, match="missing"):
        slow = CostAwareStrategy(signal=few(16), participation=0.005, trade_participation=0.004)
    assert slow.policy.participation == 0.005 and slow.trade_participation == 0.004
    assert slow.policy_of(FORECAST) == replace(slow.best, forecast=FORECAST) and slow.traded_share(FORECAST) == 0.004
    assert slow.policy_of(Forecast()) is slow.rule


@pytest.mark.parametrize(
    ("count", "max_weight", "words"),
    [
        (1, 0.05, []),
        (2, 0.05, ["max_weight 0.05 of 2 stocks a day places at most 10%"]),
        (19, 0.05, ["max_weight 0.05 of 19 stocks a day places at most 95%"]),
        (20, 0.05, []),
        (30, 0.05, []),
        (30, 0.06, ["max_weight is 0.06: more than 5% of the capital"]),
        (30, None, ["max_weight is None: more than 5% of the capital"]),
    ],
)
def test_what_is_told_of_the_largest_weight(scores, count, max_weight, words):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        CostAwareStrategy(signal=few(count), forecast=FORECAST, max_weight=max_weight)
    texts = [str(line.message) for line in told]
    assert len(texts) == len(words)
    assert all(text.startswith(f"CostAwareStrategy: {word}") for text, word in zip(texts, words, strict=True))


def test_every_weak_forecast_is_told_with_its_day(scores):
    days = pd.bdate_range("2022-01-03", periods=3)
    entries = [
        {"from": str(day.date()), **own.to_dict()}
        for day, own in zip(days, (Forecast(), FORECAST, Forecast()), strict=True)
    ]
    with pytest.warns(UserWarning, match="the forecast of the days from 2022-01-03, 2022-01-05 is missing .put a"):
        strategy = CostAwareStrategy(signal=few(40), forecast=entries)
    assert strategy.simple and strategy.forecast == Forecast()
    strategy.scores_at(days[1], days[1])
    assert not strategy.simple and strategy.policy is strategy.best and strategy.trade_participation == 0.05
    with pytest.warns(UserWarning, match="CostAwareStrategy: the forecast is missing .put a"):
        CostAwareStrategy(signal=few(40))


def test_what_is_known_of_a_day_by_hand(scores):
    """Risk, beta and columns of the last day up to it; a stock that the grids lack is not known."""
    days, codes = pd.bdate_range("2022-01-03", periods=3), ["SH600000", "SH600001", "SH600002"]
    frame = pd.DataFrame({"sector": ["a", "b", "a", "b"]}, [*codes, "SH600009"])
    bounds = {"volatility": 0.1, "beta": [-0.2, 0.3], "liquidity": 0.4, "sector": 0.05}
    strategy = CostAwareStrategy(signal=few(40), forecast=FORECAST, exposures=bounds, exposure_frame=frame)
    grid = pd.DataFrame([[1.0, 2.0, 4.0], [2.0, 3.0, 7.0], [9.0, 9.0, 9.0]], days, codes)
    strategy._closes = {"volatility": grid, "specific": 10 * grid, "beta": grid**2}
    strategy._closes["market"] = pd.DataFrame([0.1, 0.2, 0.9], days)
    nothing, four = np.full(4, np.nan), np.arange(4.0)
    close = Day(four, 0 * four, 5 * four, 1 + four, nothing, 1e6, 0.0, 0.0, np.array([True, True, True, False]))
    seen = strategy.complete(close, pd.Index([*codes, "SH600009"]), days[1] + pd.Timedelta(hours=3))
    np.testing.assert_array_equal(seen.volatility, [2.0, 3.0, 7.0, np.nan])
    np.testing.assert_array_equal(seen.specific, [20.0, 30.0, 70.0, np.nan])
    assert seen.market_volatility == 0.2
    loads = exposures(
        close.universe, volatility=seen.volatility, beta=seen.volatility**2, liquidity=1 + four,
        columns={"sector": np.array(["a", "b", "a", "b"], dtype=object)},
    )  # fmt: skip
    np.testing.assert_array_equal(seen.exposures, np.column_stack(list(loads.values())))
    assert sorted(loads) == ["beta", "liquidity", "sector=a", "sector=b", "volatility"]
    assert strategy.policy is strategy.best and strategy.best.bounds == {
        name: {"volatility": (-0.1, 0.1), "beta": (-0.2, 0.3), "liquidity": (-0.4, 0.4)}.get(name, (-0.05, 0.05))
        for name in loads
    }
    free = CostAwareStrategy(signal=few(40), forecast=FORECAST, exposures=None)
    free._closes = strategy._closes
    plain = free.complete(close, pd.Index([*codes, "SH600009"]), days[1])
    np.testing.assert_array_equal(plain.volatility, seen.volatility)
    assert plain.exposures is None or not plain.exposures.size


def test_the_days_and_stocks_of_the_risk(scores, monkeypatch):
    days, asked = pd.bdate_range("2022-01-03", periods=6), []
    price = pd.DataFrame({"A": [1.0, 2.0, 3.0, 3.5, 3.0, np.nan], "B": [4.0, 5.0, np.nan, 6.0, 6.5, 7.0]}, days)

    def read(*names, **options):
        asked.append((names, options))
        return {"$close": price.astype("f4")}

    def measure(*names):
        asked.append((names, {}))
        return {"price": price.iloc[:4]}

    monkeypatch.setattr("qlib_ext.strategy.cost_aware.read_traded", read)
    monkeypatch.setattr("qlib_ext.strategy.cost_aware.measured", measure)
    for alone, span in ((True, (days[5], days[5])), (False, (days[0], days[4]))):
        bounds = {"price": 0.1, "beta": 0.1, "liquidity": 0.1}
        strategy = CostAwareStrategy(signal=few(40), forecast=FORECAST, exposures=bounds, volatility_window=3)
        codes = sorted([*few(40).index.unique("instrument"), "SZ300001"])
        if not alone:
            strategy.level_infra = "there"
            strategy._reach = lambda: (days[0], days[4])
        grids = strategy._grids(pd.Index(["SZ300001"]), days[5])
        assert strategy._grids(pd.Index([]), days[0]) is grids
        assert asked == [((codes, ["$close"], *span), {"lead": 120}), ((["price"], codes, *span), {})]
        asked.clear()
        risk = Risk.of_closes(price.to_numpy())
        expected = {
            "volatility": trailing_volatility(price, 3), "specific": pd.DataFrame(risk.specific, days, ["A", "B"]),
            "beta": pd.DataFrame(risk.beta, days, ["A", "B"]), "market": pd.DataFrame(risk.market, days),
            "price": price.iloc[:4].ffill().reindex(days),
        }  # fmt: skip
        assert list(grids) == list(expected)
        for name, grid in expected.items():
            wanted = grid if name == "price" else grid.ffill()
            pd.testing.assert_frame_equal(grids[name], wanted)


def test_costs_that_an_exchange_tells(scores):
    strategy = CostAwareStrategy(signal=few(40), forecast=FORECAST)
    strategy.take_costs(Options(min_cost=None, impact=0.4, commission=0.001))
    assert strategy.policy is strategy.best
    assert (strategy.best.impact, strategy.best.least_commission, strategy.best.commission) == (0.4, 5.0, 0.001)
    strategy.take_costs(Options(min_cost=0.0, impact={"coefficient": 1.0}))
    assert (strategy.best.impact, strategy.best.least_commission) == (0.4, 0.0)
    own = CostAwareStrategy(signal=few(40), forecast=FORECAST, impact=2.0)
    own.take_costs(Options(impact=0.4))
    assert own.best.impact == 2.0 and CostAwareStrategy(signal=few(40), forecast=FORECAST).best.impact == 1.0


def test_bounds_by_hand():
    bounds = {"beta": 0, "mine": [0.1, 0.1], "volatility": (-1, 2)}
    assert read_bounds(bounds, ["mine"]) == {"beta": (0.0, 0.0), "mine": (0.1, 0.1), "volatility": (-1.0, 2.0)}
    assert read_bounds(None, []) == read_bounds({}, []) == {}
    for bound in ([0.1], [0.1, 0.2, 0.3], [0.1, "x"], "ab", None, True):
        with pytest.raises(ValueError, match="beta is"):
            read_bounds({"beta": bound}, [])
