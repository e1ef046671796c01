"""LiquidityTopNStrategy on AShareExchange through qlib's backtest: what holds on every day, whatever the options."""

import shutil

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.backtest import backtest
from qlib.backtest.decision import TradeDecisionWO
from qlib.config import C
from qlib.data import D
from qlib.strategy.base import BaseStrategy

from qlib_ext import rules
from qlib_ext.evaluate import daily_metrics
from qlib_ext.exchange import AShareExchange
from qlib_ext.strategy import LiquidityTopNStrategy
from qlib_ext.synthetic import make_market

CASH, FIRST, LAST = 1e8, 28, 73  # yuan; first (a Monday) and last day of the backtests
SIMULATOR = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor"}
COSTS = ["commission", "transfer", "stamp_duty", "impact"]
BARS = pd.to_timedelta(["09:30:00", "10:30:00", "13:00:00", "14:00:00"])  # of the days with four steps


def start(path):
    """Initialise qlib for a provider, unless it is."""
    if str(path) not in str(C.get("provider_uri", "")):
        qlib.init(provider_uri=str(path), region="cn", kernels=1)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """(path, days, liquidity known at the close (D, N), close (D, N)) of 50 stocks; STAR ones are among them."""
    path = make_market(tmp_path_factory.mktemp("execution") / "market", n_stocks=50, years=0.6, start="2021-06-01")
    bars = [f"{day + bar:%Y-%m-%d %H:%M:%S}" for day in pd.read_csv(path / "calendars" / "day.txt", header=None,
            parse_dates=[0])[0] for bar in BARS]  # fmt: skip
    (path / "calendars" / "60min.txt").write_text("\n".join(bars) + "\n")
    start(path)
    days = pd.DatetimeIndex(D.calendar(freq="day"))
    codes = D.list_instruments(D.instruments("all"), as_list=True)
    frame = D.features(codes, ["$amount*1000", "$close"], days[0], days[-1])
    amount, close = (frame[name].unstack("instrument").reindex(days).astype(np.float64) for name in frame.columns)
    return path, days, amount.rolling(20, min_periods=1).mean(), close


def scores(days, codes, seed, holes=0.05):
    """New ones every day; some stocks leave for some days, and one day has none at all."""
    rng = np.random.default_rng(seed)
    grid = pd.DataFrame(rng.normal(size=(len(days), len(codes))), days, codes)
    grid = grid.where(rng.random(grid.shape) >= holes)
    grid.iloc[FIRST + 12] = np.nan
    return grid.stack().dropna().rename_axis(["datetime", "instrument"])


def run(market, exchange, signal, *, last=LAST, executor=None, outer=None, account=CASH, **options):
    """(report, positions, strategy)."""
    days, liquidity = market[1:3]
    strategy = LiquidityTopNStrategy(signal=signal, **{"liquidity_frame": liquidity, **options})
    executor = executor or {**SIMULATOR, "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True}}
    if outer is not None:
        executor["kwargs"]["inner_strategy"] = strategy
    done, _ = backtest(
        days[FIRST], days[last], outer or strategy, executor, benchmark=None, account=account,
        exchange_kwargs={"exchange": exchange},
    )  # fmt: skip
    return *next(iter(done.values())), strategy


def exchange_of(market, last=LAST, **options):
    return AShareExchange(start_time=market[1][FIRST], end_time=market[1][last + 1], **options)


OPTIONS = [
    {"participation": 0.05, "trade_participation": 0.02, "capital": None, "deal": "open"},
    {"participation": 0.03, "trade_participation": 0.03, "capital": 6e7, "rank_buffer": [12, 25], "min_holding": 3},
    {"participation": 0.2, "trade_participation": 0.05, "capital": 9e7, "top_n": 8, "rank_buffer": 2.0, "deal": "open"},
    {
        "participation": 0.0002,
        "trade_participation": 0.0001,
        "capital": None,
        "min_holding": 1,
    },  # many STAR orders fail
]


@pytest.fixture(scope="module", params=range(len(OPTIONS)))
def traded(request, market):
    """(options, report, positions, strategy, exchange) of a backtest."""
    start(market[0])
    options = dict(OPTIONS[request.param])
    deal = options.pop("deal", "close")
    exchange = exchange_of(market, deal_price=deal, participation=options["trade_participation"], delisted_after=3)
    signal = scores(market[1], market[2].columns, request.param)
    return options, *run(market, exchange, signal, **options), exchange


def test_no_order_is_above_its_cap_nor_cut(market, traded):
    """Caps by the exchange's own liquidity; what the strategy sends is dealt as it is sent."""
    options, _, _, strategy, exchange = traded
    fills, targets = exchange.fills, strategy.daily_targets
    assert len(fills) > 100
    assert fills.groupby(["day", "code"])["used"].sum().max() <= options["trade_participation"] * (1 + 1e-5)
    assert (targets["ordered"].abs() <= targets["cap"].where(targets["ordered"] != 0, np.inf) + 1e-6).all()
    assert set(exchange.blocked["reason"]) <= {"unknown_liquidity", "unknown_volatility"}
    sent = targets[targets["ordered"] != 0].set_index(["date", "code"])["ordered"]
    signed = fills["yuan"] * np.where(fills["side"] == "buy", 1, -1)
    dealt = signed.groupby([fills["day"], fills["code"]]).sum().rename_axis(["date", "code"])
    unknown = exchange.blocked.set_index(["day", "code"]).index
    pd.testing.assert_series_equal(
        sent[~sent.index.isin(unknown)].sort_index(), dealt.sort_index(), check_names=False, rtol=1e-6
    )


def test_none_is_against_a_locked_limit(traded):
    exchange = traded[-1]
    fills = exchange.fills
    days, codes = pd.DatetimeIndex(sorted(fills["day"].unique())), sorted(fills["code"].unique())
    at = days.get_indexer(fills["day"]), pd.Index(codes).get_indexer(fills["code"])
    sides = [("up", rules.limit_up_price, 1), ("down", rules.limit_down_price, -1)]
    for side, price_of, sign in sides:
        rate = rules.price_limit(codes, days, listed_days=np.full((len(days), len(codes)), 10**6), side=side)[at]
        room = sign * (price_of(fills["prev_close"].to_numpy(), rate) - fills["price"].to_numpy())
        own = fills["side"] == ("buy" if side == "up" else "sell")
        age = [d - exchange.day_rules.listed[exchange.quote.column[c]] for d, c in zip(
            exchange.day_rules.days.get_indexer(fills["day"]), fills["code"], strict=True)]  # fmt: skip
        assert (room[own & (np.array(age) > 5)] > 0.005).all()
    assert exchange.fills["prev_close"].notna().any()


def test_no_buy_lifts_a_position_above_the_days_cap(market, traded):
    options, _, positions, _, exchange = traded
    fills, ground = exchange.fills, exchange.day_rules
    buys = fills[fills["side"] == "buy"]
    checked = 0
    for row in buys.itertuples():
        at = ground.days.get_loc(row.day), exchange.quote.column[row.code]
        price = row.price / 1.0 * float(ground.data["$factor"][at])
        worth = positions[row.day].get_stock_amount(row.code) * price
        assert worth <= options["participation"] * ground.liquidity[at] * (1 + 1e-5) + 1e-3
        checked += 1
    assert checked > 50


def test_value_is_conserved_to_the_cent(market, traded):
    """Cash and holdings at the close = those of the day before at today's prices + what the fills gained - costs."""
    _, report, positions, strategy, exchange = traded
    fills, settled, close = exchange.fills, exchange.settled, market[3]
    cash, held, price = CASH, {}, {}
    assert fills["yuan"].sum() > 0
    for day in sorted(positions):
        today, own = fills[fills["day"] == day], settled[settled["day"] == day]
        paid = today[COSTS].to_numpy().sum() + own["cost"].sum()
        flow = (today["yuan"] * np.where(today["side"] == "buy", -1, 1)).sum() + own["yuan"].sum() - paid
        now = positions[day]
        new = {code: now.get_stock_price(code) for code in now.get_stock_list()}
        for code, value in new.items():
            known = close.loc[day, code] if code in close else np.nan
            assert np.isnan(known) or value == pytest.approx(known, rel=1e-6)
        before = cash + sum(amount * price[code] for code, amount in held.items())
        gain = sum(amount * (close.loc[day, code] - price[code]) for code, amount in held.items()
                   if not np.isnan(close.loc[day, code]))  # fmt: skip
        for row in today.itertuples():  # a trade gains the way from its price to the close
            at = exchange.day_rules.days.get_loc(day), exchange.quote.column[row.code]
            amount = row.shares / float(exchange.day_rules.data["$factor"][at])
            gain += (1 if row.side == "buy" else -1) * (amount * close.loc[day, row.code] - row.yuan)
        after = now.get_cash() + sum(now.get_stock_amount(c) * p for c, p in new.items())
        assert after == pytest.approx(before + gain - paid, abs=0.01)
        assert now.get_cash() == pytest.approx(cash + flow, abs=0.01) and now.get_cash() >= 0
        assert report.loc[day, "account"] == pytest.approx(after, abs=0.01)
        cash, held, price = now.get_cash(), {c: now.get_stock_amount(c) for c in new}, new
    log = pd.DataFrame(strategy.daily_log).set_index("date")
    np.testing.assert_allclose(log["value"].iloc[1:], report["account"].iloc[:-1], atol=0.01)
    np.testing.assert_allclose(log["cash"] + log["held"], log["value"], atol=0.01)


def test_the_log_is_that_of_the_targets(traded):
    options, _, _, strategy, _ = traded
    kept = strategy.artifacts()
    log, targets = kept["daily_log.pkl"].set_index("date"), kept["daily_targets.pkl"]
    assert len(log) == LAST - FIRST + 1 and len({tuple(entry) for entry in strategy.daily_log}) == 1
    hold = log["signal_date"].isna()
    assert hold.sum() == 1 and log.loc[hold, ["buy", "sell"]].to_numpy().sum() == 0
    by = targets.groupby("date")
    np.testing.assert_allclose(by["target"].sum(), log.loc[~hold, "target"])
    np.testing.assert_allclose(log["capital"] - log["target"], log["cash_target"])
    np.testing.assert_allclose(by["ordered"].sum(), (log["buy"] - log["sell"])[~hold], atol=1e-4)
    short = (targets["target"] - targets["held"] - targets["ordered"]).clip(lower=0.0)
    np.testing.assert_allclose(short.groupby(targets["date"]).sum(), log.loc[~hold, "unreached"], atol=1e-4)
    for reason, part in targets[targets["reason"] != ""].groupby("reason"):
        assert (part.groupby("date").size() == log.loc[part["date"].unique(), reason]).all()
    assert log["share_reached"].iloc[1:].between(0, 1 + 1e-9).all() and np.isnan(log["share_reached"].iloc[0])
    if options["capital"]:  # no buy lifts the holdings above it; that their prices do is another matter
        after = (targets["held"] + targets["ordered"]).groupby(targets["date"]).sum()
        bought = after[log.loc[~hold, "buy"] > 0]
        assert len(bought) > 10 and (bought <= options["capital"] + 0.01).all()


def test_positions_are_held_as_long_as_asked(market, traded):
    options, _, positions, strategy, exchange = traded
    days, since, checked = market[1], {}, 0
    fills = exchange.fills
    for day in sorted(positions):
        today = fills[fills["day"] == day]
        for code in today.loc[today["side"] == "sell", "code"]:
            assert days.get_loc(day) - days.get_loc(since[code]) >= max(options.get("min_holding", 0), 1)
            checked += 1
        for code in today.loc[today["side"] == "buy", "code"]:
            since.setdefault(code, day)
        since = {code: first for code, first in since.items() if positions[day].check_stock(code)}
    assert checked > 20
    held_back = sum(entry["held_back"] for entry in strategy.daily_log)
    assert (held_back > 0) == (options.get("min_holding", 0) > 1)


def test_a_remainder_is_carried_on_while_the_stock_stays(market):
    """One stock, always first: its target is reached cap by cap over the days, then nothing more is bought."""
    start(market[0])
    _, days, liquidity, close = market
    code = close.columns[close.iloc[FIRST - 1 : LAST].notna().all()][0]
    signal = pd.Series(1.0, pd.MultiIndex.from_product([days, [code]], names=["datetime", "instrument"]))
    steady = liquidity.copy()
    steady[code] = 1e8
    exchange = exchange_of(market, last=FIRST + 15, participation=None, limit_threshold=None, impact=0)
    options = {"liquidity_frame": steady, "participation": 0.05, "trade_participation": 0.01}
    _, _, strategy = run(market, exchange, signal, last=FIRST + 15, **options)
    log = pd.DataFrame(strategy.daily_log)
    # a target of 5 million, 1 million a day; the price moves on the way, and lots round down
    assert log["buy"].iloc[:4].between(0.97e6, 1e6).all() and log["trade_cap"].iloc[:3].eq(1).all()
    assert log["share_reached"].iloc[1] == pytest.approx(0.2, abs=0.01)
    assert log["share_reached"].iloc[-1] > 0.99
    assert log["unreached"].iloc[0] == pytest.approx(4e6, rel=0.01) and log["unreached_names"].iloc[0] == 1
    assert log["unreached_names"].iloc[-1] == 0


def test_a_stock_that_vanishes_is_sold_down_and_a_suspended_one_is_kept(market):
    start(market[0])
    _, days, liquidity, close = market
    span = close.iloc[FIRST:LAST]
    closed = (span.isna() & span.shift(1).notna()).iloc[5:].loc[:, span.iloc[-5:].notna().all()]
    code = closed.columns[closed.any()][0]  # suspended on some day
    day = days.get_loc(closed.index[closed[code].to_numpy().argmax()])
    signal = pd.Series(1.0, pd.MultiIndex.from_product([days[: day - 1], [code]], names=["datetime", "instrument"]))
    other = next(c for c in close.columns if c != code)
    rest = pd.MultiIndex.from_product([days, [other]], names=["datetime", "instrument"])
    signal = pd.concat([signal, pd.Series(0.5, rest)]).sort_index()
    exchange = exchange_of(market, participation=None)
    _, positions, strategy = run(market, exchange, signal, participation=0.01, trade_participation=0.001, capital=9e7)
    targets = strategy.daily_targets
    own = targets[targets["code"] == code].set_index("date")
    assert positions[days[day - 1]].check_stock(code)
    assert own.loc[days[day], "reason"] == "blocked_sell" and np.isnan(own.loc[days[day], "rank"])
    after = own[own.index > days[day - 1]]
    assert (after["target"] == 0).all() and (after["ordered"] <= 0).all()
    assert (-after["ordered"] <= after["cap"] + 1e-6).all() and (after["ordered"] < 0).sum() > 1


# --- the two implementations prove each other


@pytest.mark.parametrize("top_n", [5, 12])
def test_without_frictions_the_backtest_is_the_evaluator(market, top_n):
    """Day d+2 of the account earns what the evaluator says of signal day d, in yuan of the fixed capital."""
    start(market[0])
    _, days, liquidity, close = market
    codes = list(close.columns[close.iloc[FIRST - 1 : LAST + 3].notna().all()])
    assert len(codes) > 15
    grid = pd.DataFrame(np.random.default_rng(1).normal(size=(len(days), len(codes))), days, codes)
    known = 1e6 * liquidity[codes]  # no cap binds
    price = close[codes].to_numpy(dtype=np.float64)
    label = np.full(price.shape, np.nan)
    label[:-2] = price[2:] / price[1:-1] - 1.0
    capital, free = 1e8, 1.0
    daily = daily_metrics(
        grid.to_numpy(), label, known.to_numpy(), names=["topn_return_paper"],
        capital=capital, participation=free, top_n=top_n,
    )["topn_return_paper"]  # fmt: skip
    off = {"participation": None, "impact": 0.0, "limit_threshold": None, "trade_unit": None}
    off |= {"open_cost": 0.0, "close_cost": 0.0, "min_cost": 0.0}
    report, _, strategy = run(
        market, exchange_of(market, codes=codes, deal_price="close", **off), grid.stack().rename_axis(
            ["datetime", "instrument"]), account=10 * capital, capital=capital, top_n=top_n, participation=free,
        trade_participation=free, liquidity_frame=known,
    )  # fmt: skip
    earned = report["account"].diff().iloc[1:] / capital  # of days FIRST+1 to LAST
    expected = daily.iloc[FIRST - 1 : LAST - 1].to_numpy()
    np.testing.assert_allclose(earned.to_numpy(), expected, atol=1e-6)
    assert np.abs(expected).max() > 0.005
    assert all(entry["names"] == top_n for entry in strategy.daily_log)


# --- no look-ahead


@pytest.fixture
def perturbed(market, tmp_path):
    """The same market with other prices and volumes after day FIRST + 20."""
    path = tmp_path / "market"
    shutil.copytree(market[0], path)
    rng = np.random.default_rng(0)
    for file in (path / "features").glob("*/*.day.bin"):
        values = np.fromfile(file, dtype="<f4")
        row = FIRST + 21 - int(values[0]) + 1
        if file.name.split(".")[0] != "factor" and row < len(values):
            values[max(row, 1) :] *= rng.uniform(0.5, 1.5, size=len(values) - max(row, 1)).astype("f4")
            values.tofile(file)
    return path


@pytest.mark.parametrize("deal", ["open", "close"])
def test_orders_rest_on_nothing_later(market, perturbed, deal):
    seen = []
    for path in (market[0], perturbed):
        start(path)
        days = market[1]
        signal = scores(days, market[2].columns, 3)
        if path == perturbed:
            late = signal.index.get_level_values("datetime") > days[FIRST + 20]
            signal = signal.where(~late, -signal)
        options = {"rank_buffer": [10, 20], "min_holding": 2, "liquidity_frame": None, "liquidity": "community"}
        exchange = exchange_of(market, deal_price=deal)
        _, _, strategy = run(market, exchange, signal, last=FIRST + 30, **options)
        seen.append(strategy.artifacts())
    start(market[0])
    until = market[1][FIRST + 20]
    for name in seen[0]:
        first, second = (side[name][side[name]["date"] <= until] for side in seen)
        assert len(first) > 20
        pd.testing.assert_frame_equal(first, second)
    tables = [side["daily_targets.pkl"] for side in seen]
    late = [table.loc[table["date"] > until, "ordered"].to_numpy() for table in tables]
    assert len(late[0]) != len(late[1]) or not np.allclose(*late)


# --- nested executors


class Nothing(BaseStrategy):
    """An outer strategy that leaves all to the inner one."""

    def generate_trade_decision(self, execute_result=None):
        return TradeDecisionWO([], self)


def nested(outer, inner, **options):
    kwargs = {"time_per_step": inner, "generate_portfolio_metrics": inner == "day"}
    return {
        "class": "NestedExecutor",
        "module_path": "qlib.backtest.executor",
        "kwargs": {
            "time_per_step": outer,
            "inner_executor": {**SIMULATOR, "kwargs": kwargs},
            "generate_portfolio_metrics": inner != "day",
            **options,
        },
    }


def test_as_the_inner_strategy_of_weeks_it_trades_as_alone(market):
    start(market[0])
    signal = scores(market[1], market[2].columns, 4)
    both, options = [], {"capital": None, "min_holding": 2, "rank_buffer": [10, 20], "last": FIRST + 25}
    for outer in (None, Nothing()):
        executor = None if outer is None else nested("week", "day", skip_empty_decision=False)
        exchange = exchange_of(market, last=FIRST + 25)
        _, _, strategy = run(market, exchange, signal, executor=executor, outer=outer, **options)
        both.append((strategy.artifacts(), exchange.fills))
    (alone, fills), (inner, same) = both
    assert len(fills) > 100
    until = min(side["daily_log.pkl"]["date"].max() for side in (alone, inner))  # weeks end elsewhere
    for name, frame in alone.items():
        mine, other = (x[x["date"] <= until].reset_index(drop=True) for x in (frame, inner[name]))
        pd.testing.assert_frame_equal(mine, other)


def test_steps_of_a_day_share_its_cap_and_sell_nothing_bought_in_it(market):
    """Four steps a day, and the strategy in the inner place: each step trades on the signal of the day before."""
    start(market[0])
    days, liquidity = market[1:3]
    signal = scores(days, liquidity.columns, 5)
    executor = nested("day", "60min", skip_empty_decision=False)
    exchange = exchange_of(market, last=FIRST + 15, participation=0.02)
    options = {"trade_participation": 0.02, "participation": 0.5, "capital": 8e7, "last": FIRST + 15}
    _, _, strategy = run(market, exchange, signal, executor=executor, outer=Nothing(), **options)
    log, targets, fills = pd.DataFrame(strategy.daily_log), strategy.daily_targets, exchange.fills
    assert len(log) == 4 * 16
    traded = log[log["signal_date"].notna()]
    today = traded["date"].dt.normalize()
    assert (traded["signal_date"] == days[days.get_indexer(today) - 1]).all()
    ordered = targets["ordered"].abs().groupby([targets["date"].dt.normalize(), targets["code"]]).sum()
    cap = targets.groupby([targets["date"].dt.normalize(), targets["code"]])["cap"].first()
    assert (ordered <= cap + 1e-3).all() and (ordered > 0.9 * cap).sum() > 20
    assert set(exchange.blocked["reason"]) <= {"unknown_volatility", "unknown_liquidity"}
    assert fills.groupby(["day", "code"])["used"].sum().max() <= 0.02 * (1 + 1e-5)
    assert not set(fills[fills["side"] == "buy"].set_index(["day", "code"]).index) & set(
        fills[fills["side"] == "sell"].set_index(["day", "code"]).index
    )


def test_days_of_weekly_orders_go_through_twap(market):
    start(market[0])
    twap = {"class": "TWAPStrategy", "module_path": "qlib.contrib.strategy.rule_strategy"}
    executor = nested("week", "day", inner_strategy=twap)
    exchange = exchange_of(market)
    signal = scores(market[1], market[2].columns, 6)
    report, positions, strategy = run(market, exchange, signal, executor=executor, min_holding=6)
    log, fills = pd.DataFrame(strategy.daily_log), exchange.fills
    assert 8 <= len(log) <= 11 and len(fills) > 50 and log["held_back"].sum() > 0
    assert log["value"].iloc[-1] == pytest.approx(report["account"].asof(log["date"].iloc[-1] - pd.Timedelta("1s")))
    assert min(position.get_cash() for position in positions.values()) >= 0
    assert fills.groupby(["day", "code"])["used"].sum().max() <= 0.05 * (1 + 1e-5)
