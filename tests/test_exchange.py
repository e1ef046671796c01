"""AShareExchange: single days made by hand, money conserved over backtests, qlib's own exchange as the limit case."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import qlib
import yaml
from marina_rules.check import check_rows
from qlib.backtest import backtest, get_exchange
from qlib.backtest.account import Account
from qlib.backtest.decision import Order, OrderDir, TradeDecisionWO
from qlib.backtest.exchange import Exchange
from qlib.config import C
from qlib.data import D
from qlib.strategy.base import BaseStrategy

from qlib_ext.exchange import AShareExchange, Bars, Options, apply_rules, clear_cache, read_account, whole_shares
from qlib_ext.portfolio import impact_cost
from qlib_ext.provider import first_listed, listed_days, listings
from qlib_ext.strategy import LiquidityTopNStrategy, read_market
from qlib_ext.synthetic import make_market, write_fields, write_lists

MAIN, STAR, CHINEXT, BEIJING, GONE, NEW = "SH600000", "SH688001", "SZ300001", "BJ430001", "SZ000002", "SZ301000"
RESUMED = "SZ000003"  # no trade, at volume 0, on days 5 to 26
DAYS = pd.bdate_range("2023-07-03", periods=60)  # 2023-08-25 is number 39, 2023-08-28 number 40
FACTOR, VOLUME = 0.5, 5e6  # raw shares a day; at about 10 yuan 50 million yuan
END, LISTED = 30, 45  # last day of GONE, first day of NEW
CASH, ENDS = 1e8, "SH601600"  # of the backtests: yuan, and the stock that is delisted
BUY, SELL = OrderDir.BUY, OrderDir.SELL
PLAIN = {"impact": 0.0, "participation": None}


def bars(first, last, **crafted):
    """Raw fields of days first to last: close 10.00 and 10.10 in turn, open as the close; `crafted`: day -> values."""
    close = np.where(np.arange(len(DAYS)) % 2 == 0, 10.0, 10.1)
    raw = {"open": close.copy(), "close": close, "volume": np.full(len(DAYS), VOLUME)}
    for day, values in crafted.items():
        for name, value in values.items():
            raw[name][int(day[1:])] = value
    gap = np.isnan(raw["close"])
    out = {name: np.where(gap, np.nan, raw[name] * FACTOR) for name in ("open", "close")}
    out["volume"], out["factor"] = np.where(gap, np.nan, raw["volume"] / FACTOR), np.full(len(DAYS), FACTOR)
    out["change"] = np.r_[np.nan, close[1:] / close[:-1] - 1.0]
    return {name: values[first : last + 1] for name, values in out.items()}


def start(path):
    """Initialise qlib for a provider, unless it is."""
    if str(path) not in str(C.get("provider_uri", "")):
        qlib.init(provider_uri=str(path), region="cn", kernels=1)


@pytest.fixture(scope="module")
def crafted(tmp_path_factory):
    """A provider of seven stocks; MAIN locks at limit-up on day 30, opens below and closes at it on 31, then falls."""
    folder = tmp_path_factory.mktemp("exchange") / "hand"
    folder.mkdir()
    last = len(DAYS) - 1
    series = {
        MAIN: (0, last, {"d29": {"open": 10.0, "close": 10.0}, "d30": {"open": 11.0, "close": 11.0},
                         "d31": {"open": 11.6, "close": 12.1}, "d32": {"open": 10.89, "close": 11.0}}),
        STAR: (0, last, {"d30": {"open": np.nan, "close": np.nan}, "d31": {"volume": 0.0}}),
        CHINEXT: (0, last, {}),
        BEIJING: (0, last, {}),
        GONE: (0, END, {}),
        RESUMED: (0, last, {f"d{day}": {"volume": 0.0} for day in range(5, 27)}),
        NEW: (LISTED, last, {"d46": {"open": 20.0, "close": 20.0}, "d49": {"open": 10.0, "close": 10.0},
                             "d50": {"open": 12.0, "close": 12.0}}),
    }  # fmt: skip
    spans = [(code, str(DAYS[a].date()), str(DAYS[b].date())) for code, (a, b, _) in series.items()]
    write_lists(folder, DAYS.strftime("%Y-%m-%d").to_numpy(), {"all": [*spans, ("SH000300", *spans[0][1:])]})
    for code, (a, b, days) in series.items():
        write_fields(folder, code, a, bars(a, b, **days))
    return folder


@pytest.fixture
def hand(crafted):
    start(crafted)
    return crafted


def made(**options):
    return AShareExchange(**{"start_time": DAYS[25], "end_time": DAYS[58], "deal_price": "open", **options})


def account(cash=1e8, **shares):
    """An account with raw shares of some stocks at 10 yuan."""
    held = {code: {"amount": raw / FACTOR, "price": 10.0 * FACTOR} for code, raw in shares.items()}
    return Account(init_cash=cash, position_dict=held, benchmark_config={"benchmark": None})


def deal(exchange, money, code, shares, side, day, at="00:00", till="23:59:59"):
    """Raw shares dealt, yuan, cost."""
    date = str(DAYS[day].date())
    order = Order(code, shares / FACTOR, side, pd.Timestamp(f"{date} {at}"), pd.Timestamp(f"{date} {till}"))
    yuan, cost, _ = exchange.deal_order(order, trade_account=money)
    return round(order.deal_amount * FACTOR, 6), yuan, cost


def reasons(exchange):
    return exchange.blocked["reason"].tolist()


def test_a_stock_locked_at_limit_up_is_sold_but_not_bought(hand):
    exchange, money = made(), account(SH600000=1000)
    assert deal(exchange, money, MAIN, 1000, BUY, 30) == (0, 0, 0)
    assert deal(exchange, money, MAIN, 500, SELL, 30)[:2] == (500, 5500)
    (row,) = exchange.blocked.to_dict("records")
    assert row == {"day": DAYS[30], "code": MAIN, "side": "buy", "wanted": 11000.0, "dealt": 0.0, "reason": "limit_up"}


def test_the_deal_price_decides_on_the_limit(hand):
    by_open, by_close = made(), made(deal_price="close")
    assert deal(by_open, account(), MAIN, 1000, BUY, 31)[:2] == (
        1000,
        pytest.approx(11_600),
    )  # opens below, closes at the limit
    assert deal(by_close, account(), MAIN, 1000, BUY, 31)[0] == 0
    assert reasons(by_close) == ["limit_up"]
    money = account(SH600000=1000)
    assert deal(by_open, money, MAIN, 1000, SELL, 32)[0] == 0  # 12.10 * 0.9 = 10.89
    assert deal(by_open, money, MAIN, 100, BUY, 32)[0] == 100
    assert reasons(by_open) == ["limit_down"]
    mixed = made(deal_price=["open", "$close"])  # buys at the open, sells at the close
    assert deal(mixed, account(), MAIN, 100, BUY, 31)[1] == pytest.approx(1160)
    assert deal(mixed, account(SH600000=100), MAIN, 100, SELL, 31)[1] == pytest.approx(1210)


def test_limits_by_special_treatment(hand):
    """From 11.00 to 11.60: below the main board's limit of 12.10, above that of special treatment, 11.55 in 2023."""
    spells = pd.DataFrame({"code": [MAIN], "start": ["2023-08-01"], "end": [None]})
    assert deal(made(), account(), MAIN, 100, BUY, 31)[0] == 100
    strict = made(st=spells)
    assert deal(strict, account(), MAIN, 100, BUY, 31)[0] == 0
    assert reasons(strict) == ["limit_up"]


def test_one_price_at_the_limit_of_special_treatment_is_beyond_reach():
    """From 10.00: 10.50 all day is 5% up, 9.50 5% down; with a range, at 10.40, or on ChiNext in 2023, it trades."""
    days, codes = pd.bdate_range("2023-07-03", periods=6), (MAIN, CHINEXT)
    raw = np.array([10.0, 10.5, 9.98, 10.4, 9.88, 10.37])  # 10.50 * 0.95 = 9.975; 10.40 * 0.95; 9.88 * 1.05 = 10.374
    close = np.tile(raw[:, None], (1, 2))
    low = np.where(np.arange(6)[:, None] == 5, close - 0.1, close)  # the last day has a range
    fields = {"$close": close, "$open": close, "$high": close, "$low": low, "$factor": np.ones((6, 2))}
    fields = {name: np.float32(grid) for name, grid in fields.items()}
    fields |= {"$volume": np.full((6, 2), VOLUME, np.float32), "$amount": np.full((6, 2), np.nan)}
    last = np.array([5, 5])
    bars = Bars(codes, days, 1, fields, np.array([0, 0]), last, last, np.full((6, 2), np.inf), 0)
    options = Options(start_time=days[1], end_time=days[-1], liquidity="adjusted_shares")
    ground = apply_rules(bars, {"$close", "$open", "$factor", "$volume"}, ("$open", "$open"), options)
    buy, sell = (ground.data[f"limit_{side}"] for side in ("buy", "sell"))
    assert buy[:, 0].tolist() == [True, False, False, False, False]
    assert sell[:, 0].tolist() == [False, True, False, True, False]
    assert not buy[:, 1].any() and not sell[:, 1].any()


def test_nobody_deals_more_than_the_whole_market(hand):
    """5 million shares at 10.10: so much at most, whatever the caps are; what was dealt before counts."""
    exchange, money = made(participation=None, impact=0.0), account(SH600000=8e6)
    assert deal(exchange, money, MAIN, 4e6, SELL, 27)[0] == 4e6
    assert deal(exchange, money, MAIN, 2e6, SELL, 27)[0] == 1e6
    assert reasons(exchange) == ["volume_of_day"]


@pytest.mark.parametrize(
    ("code", "wanted", "bought"),
    [(MAIN, 350, 300), (MAIN, 99, 0), (CHINEXT, 350, 300), (STAR, 350.7, 350), (STAR, 199, 0), (STAR, 200, 200),
     (BEIJING, 150.2, 150), (BEIJING, 99, 0)],
)  # fmt: skip
def test_lots_of_buys(hand, code, wanted, bought):
    exchange = made()
    assert deal(exchange, account(), code, wanted, BUY, 27)[0] == bought
    assert reasons(exchange) == ([] if bought else ["below_lot"])


@pytest.mark.parametrize(
    ("code", "held", "wanted", "sold"),
    [(MAIN, 350, 350, 350), (MAIN, 350, 250, 200), (MAIN, 50, 50, 50), (MAIN, 50, 20, 0), (STAR, 150, 150, 150),
     (STAR, 350, 250.5, 250), (STAR, 350, 150, 0), (BEIJING, 350, 101, 101), (MAIN, 300, 400, 300)],
)  # fmt: skip
def test_lots_of_sells_and_the_whole_remainder(hand, code, held, wanted, sold):
    money = account(**{code: held})
    assert deal(made(), money, code, wanted, SELL, 27)[0] == sold
    assert money.current_position.check_stock(code) == (sold < held)


def test_units_as_strategies_ask_for_them(hand):
    exchange = made()
    assert exchange.get_amount_of_trade_unit(None, MAIN, DAYS[27], DAYS[27]) == 100 / FACTOR
    assert exchange.get_amount_of_trade_unit(None, STAR, DAYS[27], DAYS[27]) == 1 / FACTOR
    assert exchange.get_amount_of_trade_unit(FACTOR) == 100 / FACTOR
    assert made(trade_unit=None).get_amount_of_trade_unit(FACTOR, MAIN, DAYS[27], DAYS[27]) is None


def test_fees_with_their_minimum_and_the_halved_stamp_duty(hand):
    exchange, money = made(**PLAIN), account(SH600000=200_000)
    # 100 * 10.10: 5 + 1e-5; 100,000 * 10.10: 3e-4 = 303; stamp duty 0.1% on 2023-08-25, 0.05% from 2023-08-28
    assert deal(exchange, money, MAIN, 100, BUY, 27)[2] == pytest.approx(5 + 0.0101)
    assert deal(exchange, money, MAIN, 100_000, BUY, 27)[2] == pytest.approx(303 + 10.1)
    assert deal(exchange, money, MAIN, 100_000, SELL, 39)[2] == pytest.approx(303 + 10.1 + 1010)
    assert deal(exchange, money, MAIN, 100_000, SELL, 40)[2] == pytest.approx(300 + 10 + 500)
    fills = exchange.fills
    assert fills["stamp_duty"].tolist() == pytest.approx([0, 0, 1010, 500])
    assert fills["price"].tolist() == [10.1, 10.1, 10.1, 10.0] and fills["prev_close"].tolist() == [10, 10, 10, 10.1]
    own = made(**PLAIN, open_cost=0.002, close_cost=0.003, min_cost=20)
    assert deal(own, account(), MAIN, 100, BUY, 27)[2] == 20
    assert deal(own, account(), MAIN, 100_000, BUY, 27)[2] == pytest.approx(2020)


def test_impact_to_the_yuan(hand):
    """Mean turnover of the twenty days before, 50.25 million yuan; sigma of their returns of +1% and -0.99%."""
    raw = np.where(np.arange(len(DAYS)) % 2 == 0, 10.0, 10.1)
    liquidity = (raw * VOLUME)[7:27].mean()
    sigma = np.std((raw[1:] / raw[:-1] - 1)[6:26], ddof=1)
    for b, exponent in ((1.0, 0.5), (2.0, 0.6)):
        exchange = made(impact=b, impact_exponent=exponent)
        _, yuan, cost = deal(exchange, account(), MAIN, 100_000, BUY, 27)
        moved = impact_cost(yuan, liquidity, sigma, b=b, exponent=exponent)
        assert yuan == pytest.approx(1_010_000) and moved > 1000
        assert exchange.fills["impact"][0] == pytest.approx(moved, abs=0.01)
        assert cost == pytest.approx(moved + 303 + 10.1, abs=0.01)
        assert exchange.fills["used"][0] == pytest.approx(yuan / liquidity, rel=1e-6)
    assert made(impact=0)._cost((0, 0), 1e6, sell=False) == pytest.approx(310)


def test_impact_of_a_day_does_not_depend_on_the_slices(hand):
    """b * sigma * yuan * sqrt(yuan / liquidity) of the day's sum: ten slices of a tenth pay as much as the whole."""
    whole, sliced = made(min_cost=0.0), made(min_cost=0.0)
    deal(whole, account(), MAIN, 200_000, BUY, 27)
    money = account()
    for hour in range(10):
        span = (DAYS[27], DAYS[27])
        expected = sliced.trade_cost(MAIN, *span, 202_000.0, sell=False)  # as the strategy sizes the next order
        cost = deal(sliced, money, MAIN, 20_000, BUY, 27, f"{9 + hour:02d}:00", f"{9 + hour:02d}:50")[2]
        assert cost == pytest.approx(expected, rel=1e-6)
    one, ten = whole.fills["impact"], sliced.fills["impact"]
    assert len(ten) == 10 and ten.is_monotonic_increasing
    assert ten.sum() == pytest.approx(one.sum(), rel=1e-6) and one[0] > 4000
    deal(sliced, money, MAIN, 20_000, BUY, 28)  # a new day begins at nothing: a tenth of the yuan, 0.1 ** 1.5
    assert sliced.fills["impact"].iloc[-1] == pytest.approx(one[0] * 0.1**1.5, rel=0.02)


class Spread:
    """A cost from outside of the package: half a spread, whatever the stock."""

    def __init__(self, half):
        self.half = half

    def __call__(self, trade, liquidity, volatility):
        return np.abs(trade) * self.half


@pytest.mark.parametrize(
    "rule", [Spread(0.001), {"class": "Spread", "module_path": __name__, "kwargs": {"half": 0.001}}]
)
def test_an_impact_of_ones_own(hand, rule):
    exchange = made(impact=rule)
    assert deal(exchange, account(), MAIN, 100_000, BUY, 27)[2] == pytest.approx(303 + 10.1 + 1010)
    assert exchange.fills["impact"].tolist() == pytest.approx([1010])


def test_a_stock_that_resumes_has_its_last_known_liquidity(hand):
    """On day 23 the mean of twenty days knows one trade, 5 million shares at 10.00: 50 million yuan; then none."""
    for options in ({}, PLAIN):
        exchange, money = made(**options), account(SZ000003=10_000)
        assert deal(exchange, money, RESUMED, 10_000, SELL, 27)[0] == 10_000
        assert exchange.fills["used"][0] == pytest.approx(10_000 * 10.1 / 50e6)
        assert np.isfinite(exchange.fills["impact"][0]) and not reasons(exchange)


def test_an_expression_of_liquidity_knows_the_days_before(hand):
    profile, own = made(liquidity="adjusted_shares"), made(liquidity="$close * $volume")
    np.testing.assert_allclose(own.day_rules.liquidity, profile.day_rules.liquidity, rtol=1e-6)
    assert deal(own, account(), MAIN, 1000, BUY, 25)[0] == 1000  # the first day of the backtest
    assert reasons(own) == []


def test_volume_cap_of_a_day_is_recorded(hand):
    exchange, money = made(participation=0.01), account()
    cap = 0.01 * 50.25e6
    first = deal(exchange, money, MAIN, 30_000, BUY, 27)
    second = deal(exchange, money, MAIN, 30_000, BUY, 27)
    assert first[0] == 30_000 and second[0] == 19_700  # 502,500 - 303,000 = 199,500 -> 197 lots of 1,010
    (row,) = exchange.blocked.to_dict("records")
    assert row["reason"] == "volume_cap" and row["wanted"] == pytest.approx(303_000)
    assert row["dealt"] == pytest.approx(cap - 303_000, abs=1)
    assert deal(exchange, money, MAIN, 30_000, BUY, 28)[0] == 30_000  # a new day
    assert deal(made(participation=None), account(), MAIN, 60_000, BUY, 27)[0] == 60_000


def test_simulations_do_not_count(hand):
    exchange, money = made(participation=0.01), account()
    order = Order(MAIN, 90_000 / FACTOR, BUY, DAYS[27], DAYS[27])
    exchange.deal_order(order, position=money.current_position)
    assert exchange.blocked.empty and exchange.fills.empty


def test_a_threshold_of_qlibs_with_lists(hand):
    lists = yaml.safe_load(
        '{volume_threshold: {all: [cum, "$volume * 0.0001"]}, limit_threshold: ["$open>0", "$open<0"]}'
    )
    exchange, money = made(**lists, **PLAIN), account(SH600000=1000)
    assert deal(exchange, money, MAIN, 600, BUY, 27)[0] == 0  # its own expression blocks every buy
    assert deal(exchange, money, MAIN, 600, SELL, 27)[0] == 500  # 0.0001 of 5 million
    assert reasons(exchange) == ["limit_up", "volume_threshold"]
    assert deal(made(limit_threshold=None), account(), MAIN, 1000, BUY, 30)[0] == 1000
    assert deal(made(limit_threshold=0.095), account(), MAIN, 1000, BUY, 30)[0] == 0


def test_suspended_by_no_price_or_no_volume(hand):
    exchange, money = made(), account(SH688001=1000)
    assert deal(exchange, money, STAR, 1000, SELL, 30)[0] == 0
    assert deal(exchange, money, STAR, 1000, BUY, 31)[0] == 0
    assert reasons(exchange) == ["suspended"] * 2
    assert exchange.blocked["wanted"].tolist() == pytest.approx([10_100, 10_100], rel=1e-6)
    assert deal(exchange, money, STAR, 1000, SELL, 32)[0] == 1000  # the limit's previous close is that of day 29


def test_a_new_listing_has_no_limit_for_five_days(hand):
    exchange, strict = made(**PLAIN), made()
    assert deal(exchange, account(), NEW, 100, BUY, 44)[0] == 0
    assert deal(exchange, account(), NEW, 100, BUY, 45)[0] == 100  # no previous close, and none needed
    assert deal(exchange, account(), NEW, 100, BUY, 46)[0] == 100  # +98%
    money = account()
    assert deal(exchange, money, NEW, 100, BUY, 50)[0] == 0  # sixth day, +20%
    assert reasons(exchange) == ["limit_up"]
    assert deal(strict, money, NEW, 100, BUY, 46)[0] == 0
    assert reasons(strict) == ["unknown_volatility"]
    assert deal(strict, account(), NEW, 100, BUY, 45)[0] == 0
    assert reasons(strict) == ["unknown_liquidity"]
    early = made()
    deal(early, account(), NEW, 100, BUY, 44)
    assert reasons(early) == ["not_listed"]


def test_t_plus_1_also_within_a_day(hand):
    exchange, money = made(**PLAIN), account(SH600000=1000)
    assert deal(exchange, money, MAIN, 500, BUY, 27, "09:30", "09:59")[0] == 500
    assert deal(exchange, money, MAIN, 1500, SELL, 27, "10:00", "10:29")[0] == 1000
    assert deal(exchange, money, MAIN, 500, SELL, 27, "10:30", "10:59")[0] == 0
    assert reasons(exchange) == ["t_plus_1"] * 2
    assert deal(exchange, money, MAIN, 500, SELL, 28)[0] == 500
    free, money = made(**PLAIN, t_plus_1=False), account(SH600000=1000)
    deal(free, money, MAIN, 500, BUY, 27)
    assert deal(free, money, MAIN, 1500, SELL, 27)[0] == 1500


def test_cash_is_never_overdrawn(hand):
    exchange, money = made(), account(cash=1_000_000)
    shares, yuan, cost = deal(exchange, money, MAIN, 200_000, BUY, 27)
    assert 0 <= money.get_cash() == pytest.approx(1_000_000 - yuan - cost)
    assert money.get_cash() < 1010 * 1.01  # less than a lot is left
    assert shares % 100 == 0 and reasons(exchange) == ["cash"]


def test_delisted_at_the_last_price(hand):
    exchange, money = made(delisted_after=5), account(SZ000002=1000, SH600000=100)
    before = money.current_position.calculate_value()
    deal(exchange, money, MAIN, 100, SELL, END + 4)
    assert exchange.settled.empty and money.current_position.check_stock(GONE)
    assert exchange.check_stock_suspended(GONE, DAYS[END + 4], DAYS[END + 4])
    paid = exchange.fills.iloc[0][["commission", "transfer", "stamp_duty", "impact"]].sum()
    deal(exchange, money, CHINEXT, 1, BUY, END + 5)  # any order: the holding is settled first
    (row,) = exchange.settled.to_dict("records")
    assert row["yuan"] == pytest.approx(10_000) and row["day"] == DAYS[END + 5] and row["lost"] == 0
    assert row["cost"] == pytest.approx(5 + 0.1 + 10)  # 2023-08-21: the stamp duty was 0.1%
    assert not money.current_position.check_stock(GONE)
    assert money.current_position.calculate_value() == pytest.approx(before - paid - row["cost"])
    deal(exchange, money, GONE, 100, BUY, END + 5)
    assert reasons(exchange)[-1] == "delisted"


def test_delisted_and_written_off(hand):
    exchange, money = made(delisted="write_off", delisted_after=5), account(SZ000002=1000)
    cash = money.get_cash()
    exchange.begin_step(money, DAYS[END + 4])
    assert money.current_position.calculate_value() == pytest.approx(cash + 10_000)
    exchange.begin_step(money, DAYS[END + 5])
    exchange.begin_step(money, DAYS[END + 6])
    assert not money.current_position.check_stock(GONE) and money.get_cash() == cash
    (row,) = exchange.settled.to_dict("records")
    assert row["day"] == DAYS[END + 5] and row["lost"] == pytest.approx(10_000) and row["yuan"] == row["cost"] == 0


class Once(BaseStrategy):
    """Buys 1,000 shares of GONE and of MAIN on day 26, and never orders again."""

    def generate_trade_decision(self, execute_result=None):
        span = self.trade_calendar.get_step_time()
        first = span[0] == DAYS[26]
        return TradeDecisionWO([Order(code, 1000 / FACTOR, BUY, *span) for code in (GONE, MAIN) if first], self)


def liked(stop):
    """GONE liked until `stop`, and MAIN always; 20 million yuan in all, under a cap of 10,000 yuan each."""
    index = pd.MultiIndex.from_product([DAYS[25:], [GONE, MAIN]], names=["datetime", "instrument"])
    score = pd.Series(1.0, index)
    score = score[(index.get_level_values(0) < stop) | (index.get_level_values(1) == MAIN)]
    liquidity = pd.DataFrame(2e5, DAYS, [GONE, MAIN])
    options = {"participation": 0.05, "trade_participation": 0.05, "liquidity_frame": liquidity, "min_holding": 9}
    return LiquidityTopNStrategy(signal=score, **options)


@pytest.mark.parametrize("deal_price", ["open", "close"])
@pytest.mark.parametrize("delisted", ["last_price", "write_off"])
@pytest.mark.parametrize("strategy", [Once, lambda: liked(DAYS[31]), lambda: liked(DAYS[40])])
def test_a_delisted_holding_is_settled_on_its_day_whether_or_not_anything_is_ordered(
    hand, strategy, delisted, deal_price
):
    exchange = made(**PLAIN, deal_price=deal_price, delisted=delisted)
    kwargs = {"time_per_step": "day", "generate_portfolio_metrics": True}
    executor = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": kwargs}
    held = {"cash": 1e6, GONE: {"amount": 1000 / FACTOR, "price": 10.1 * FACTOR}}
    own = strategy is not Once
    done, _ = backtest(
        DAYS[26], DAYS[50], strategy(), executor, benchmark=pd.Series(0.0, DAYS), account=held if own else 1e6,
        exchange_kwargs={"exchange": exchange},
    )  # fmt: skip
    report, positions = done["1day"]
    before = 1e6 + (10_100 if own else 0)
    net = report["return"] - report["cost"]  # of the account, holdings among it
    assert net.iloc[0] == pytest.approx(report["account"].iloc[0] / before - 1)
    # day 26 at 10.00: each purchase pays 5 yuan and 0.01 per mille; day 31: 15 yuan more with stamp duty
    cash = 1e6 - (1 if own else 2) * (10_000 + 5 + 0.1)
    sale = 10_000 - 5 - 0.1 - 10 if delisted == "last_price" else 0.0
    for n, day in enumerate(DAYS[26:51], start=26):
        names = {GONE, MAIN} if n <= END else {MAIN}
        price = 10.0 if n % 2 == 0 else 10.1
        price = {29: 10.0, 30: 11.0, 31: 12.1, 32: 11.0}.get(n, price)  # of MAIN, a holding of 1,000 shares
        stocks = 1000 * price + (1000 * (10.0 if n % 2 == 0 else 10.1) if n <= END else 0.0)
        now = cash + (sale if n > END else 0.0)
        assert set(positions[day].get_stock_list()) == names
        assert report.loc[day, "cash"] == pytest.approx(now, abs=0.01)
        assert report.loc[day, "account"] == pytest.approx(now + stocks, abs=0.01)
    (row,) = exchange.settled.to_dict("records")
    assert (row["day"], row["code"], row["kind"]) == (DAYS[END + 1], GONE, delisted)
    assert (row["yuan"] - row["cost"], row["lost"]) == pytest.approx((sale, 0.0 if sale else 10_000.0))


def test_an_account_that_begins_with_holdings_is_read_and_priced(hand):
    """RESUMED has no trade on days 5 to 26, NEW none before 45; the close of day 25 is 10.10, halved by the factor."""
    price = pytest.approx(10.1 * FACTOR)
    held = read_account({"cash": 1e6, "600000.SH": 2000, CHINEXT: {"amount": 10.0, "price": 4.0}}, DAYS[26])
    assert held == {
        "cash": 1e6, MAIN: {"amount": 2000.0, "price": price}, CHINEXT: {"amount": 10.0, "price": 4.0},
    }  # fmt: skip
    assert read_account({"cash": 1.0, GONE: 1}, DAYS[58])[GONE]["price"] == 10.0 * FACTOR  # its last close, of day 30
    assert read_account(1e6, DAYS[26]) == 1e6
    for wrong, words in (
        ({"SH600001": 1}, "no price of SH600001 in the 250 trading days before 2023-08-08"),
        ({NEW: 1}, f"no price of {NEW}"),
        ({MAIN: -1}, "account: SH600000: amount is -1"),
        ({MAIN: "many"}, "amount is 'many'"),
        ({MAIN: {"amuont": 1}}, "amuont"),
        ({MAIN: {"amount": 1, "price": -2}}, "price is -2"),
        ({"SH000300": 1}, "an index"),
        ({MAIN: 1, "sh.600000": 2}, "stands twice"),
    ):
        with pytest.raises((ValueError, TypeError), match=re.escape(words)):
            read_account({"cash": 1e6, **wrong}, DAYS[26])


def test_a_rate_of_nothing_has_no_least_commission(hand):
    free, own = made(**PLAIN, commission=0.0), made(**PLAIN, commission=0.0, min_cost=3.0)
    assert deal(free, account(), MAIN, 100, BUY, 27)[2] == pytest.approx(1010 * 1e-5)  # the transfer fee
    assert deal(own, account(), MAIN, 100, BUY, 27)[2] == pytest.approx(3 + 1010 * 1e-5)


def test_the_fees_of_a_settlement_take_no_other_cash(hand):
    exchange, money = made(), account(cash=0.0, SZ000002=0.1)  # worth 1 yuan
    exchange.begin_step(money, DAYS[END + 1])
    assert money.get_cash() == 0.0 and exchange.settled["cost"].tolist() == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("last", "ended", "after", "gone"),
    [
        (30, 30, None, 31),  # series and listing end together
        (30, 35, None, 36),  # suspended at first, delisted later
        (59, 35, None, 36),  # a series that goes on with NaN
        (30, 59, None, 50),  # the list does not tell: 20 days without a bar
        (39, 39, None, 40),  # 20 days before the calendar's end
        (40, 40, None, 60),  # less: it may be suspended, and is not settled within the calendar
        (30, 30, 5, 35),  # the user's own wait
        (59, 59, None, 79),
    ],
)
def test_the_day_of_a_delisting(last, ended, after, gone):
    days, rest = DAYS[:56], 4  # the calendar goes on to 59
    grid = {name: np.ones((56, 1), np.float32) for name in ("$close", "$open", "$factor")}
    grid |= {"$volume": np.full((56, 1), 1e8, np.float32)}
    wanted = set(grid)
    grid |= {"$amount": np.full((56, 1), np.nan)}
    options = Options(start_time=days[6], end_time=days[-1], liquidity="adjusted_shares", delisted_after=after)
    at = (np.array([n]) for n in (0, last, ended))
    bars = Bars((GONE,), days, 6, grid, *at, np.full((56, 1), np.inf), rest)
    assert apply_rules(bars, wanted, ("$open", "$open"), options).gone.tolist() == [gone - 6]


def test_listings_are_those_of_the_bars_and_of_the_list_of_all_stocks(tmp_path):
    """A stock that the list has from the calendar's first day on is no new listing, though it is suspended on it."""
    nan, last = np.nan, len(DAYS) - 1
    series = {  # first and last day of the bars, of the list; position of the listing, and of its end
        "SZ300001": (26, last, 0, last, 0, last),  # suspended at first
        "SZ300002": (26, last, 26, last, 26, last),  # new
        "SZ300003": (0, 30, 0, 35, 0, 35),  # suspended until it was delisted
        "SZ300004": (0, 30, 0, 20, 0, 30),  # a list that is not up to date
        "SZ300005": (0, 30, 0, last, 0, last),
    }
    spans = [(code, *(str(DAYS[n].date()) for n in row[2:4])) for code, row in series.items()]
    write_lists(tmp_path / "m", DAYS.strftime("%Y-%m-%d").to_numpy(), {"all": spans})
    for code, (a, b, *_) in series.items():
        fields = bars(0, last, d27={"open": 13.0, "close": 13.0})  # +30%: only a new stock may
        write_fields(tmp_path / "m", code, 0, {k: np.r_[np.full(a, nan), v[a : b + 1]] for k, v in fields.items()})
    start(tmp_path / "m")
    codes = [*series, "SZ300006"]  # not in the provider
    first, ended = listings(codes)
    assert first.tolist() == [*(row[4] for row in series.values()), 60]
    assert ended.tolist() == [*(row[5] for row in series.values()), last]
    ages = listed_days(codes[:2], DAYS[25:28])
    np.testing.assert_array_equal(ages, [[np.inf, 0], [np.inf, 1], [np.inf, 2]])
    money = account()
    old = made(**PLAIN)
    assert deal(old, money, "SZ300001", 100, BUY, 27)[0] == 0 and deal(old, money, "SZ300002", 100, BUY, 27)[0] == 100
    assert deal(old, money, "SZ300001", 100, BUY, 25)[0] == 0 and reasons(old) == ["limit_up", "suspended"]
    market = read_market(codes[:2], DAYS[27], DAYS[28], profile="adjusted_shares", window=20)
    assert market["limit_up"].tolist() == [15.6, np.inf]
    (tmp_path / "m" / "instruments" / "all.txt").unlink()
    qlib.init(provider_uri=str(tmp_path / "m"), region="cn", kernels=1)
    assert [row.tolist() for row in listings(codes[:4])] == [[26, 26, 0, 0], [last] * 4]


def test_a_list_that_names_all_stocks_from_the_first_day_on_says_nothing_of_late_listings():
    assert [first_listed(first, 0) for first in (0, 250, 251)] == [0, 0, 251]
    assert first_listed(3, 3) == 3 and first_listed(3, -1) == 3


def test_a_step_within_a_day_deals_at_the_days_price(hand):
    """qlib ends the last bar of a day at the next morning; the price is still that of the bar's own day."""
    exchange = made(deal_price="close", limit_threshold=None)
    late = pd.Timestamp(f"{DAYS[30].date()} 14:30"), pd.Timestamp(f"{DAYS[31].date()} 09:29:59")
    assert exchange.get_deal_price(MAIN, *late, BUY) == pytest.approx(11.0 * FACTOR)  # the next close is 12.10
    assert exchange.get_deal_price(MAIN, DAYS[30], late[1], BUY) == pytest.approx(12.1 * FACTOR)  # two whole days


def test_what_is_wrong_is_said(hand):
    with pytest.raises(TypeError, match="'particpation'.*participation"):
        made(particpation=0.1)
    with pytest.raises(ValueError, match="start_time and end_time of its own"):
        AShareExchange()
    wrong = {
        "delisted": "sold", "trade_unit": 0, "limit_threshold": 1, "participation": 0, "impact": -1, "freq": "1min",
        "volatility_window": 1, "volume_threshold": ["sum", "$volume"], "deal_price": [], "liquidity": "yen",
    }  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            made(**{name: value})
    types = {
        "participation": "0.05", "impact": None, "commission": -1, "min_cost": "5", "t_plus_1": "no", "liquidity": None,
        "subscribe_fields": "$open", "liquidity_window": 2.5, "delisted_after": True, "codes": None, "deal_price": 5,
    }  # fmt: skip
    for name, value in types.items():
        with pytest.raises(ValueError, match=re.escape(f"AShareExchange: {name} is {value!r}; allowed: ")):
            made(**{"open_cost": 0.0, "close_cost": 0.0, name: value})
    assert made(volume_threshold=None).options.volume_threshold is None
    for pair in (None, {"buy": ["cum", "$volume"]}):
        with pytest.raises(ValueError, match=r"volume_threshold is .*\[cum or current, expression\]"):
            made(volume_threshold={"all": pair})
    with pytest.raises(ValueError, match="no trading day"):
        made(start_time="2030-01-01", end_time="2030-02-01", codes=[MAIN])
    with pytest.raises(ValueError, match="wrong units"):
        made(liquidity="$close * $volume * 1000")
    with pytest.raises(ValueError, match="no stock"):
        made(codes=["SH000300"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"deal_price": "opne"}, r"no stock has the field \$opne; did you mean \$open"),
        ({"deal_price": ["open", "colse"]}, r"\$colse; did you mean \$close"),
        ({"volume_threshold": ["cum", "0.1 * $volum"]}, r"\$volum; did you mean \$volume"),
        ({"limit_threshold": ["$opne > 1", "$open < 0"]}, r"\$opne"),
        ({"liquidity": "$close * $volum"}, r"\$volum;"),
        ({"subscribe_fields": ["$xyz"]}, r"\$xyz; did you mean \$change, \$close, \$factor, \$open, \$volume"),
        ({"codes": [MAIN, "SH600009", "600000.SH"]}, r"2 stocks .*'600000.SH', 'SH600009'"),
    ],
)
def test_what_the_provider_does_not_have_is_said(hand, options, match):
    with pytest.raises(ValueError, match=match):
        made(**options)


def test_the_tables_begin_with_the_backtest(hand):
    """An exchange that is used again, by a strategy that sends no order, shows nothing of the run before."""
    exchange = made()
    index = pd.MultiIndex.from_product([DAYS, [MAIN]], names=["datetime", "instrument"])
    executor = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor",
                "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True}}  # fmt: skip
    signal = pd.Series(1.0, index)
    for score, there in ((signal, True), (signal[DAYS[45] :], False)):
        strategy = LiquidityTopNStrategy(signal=score)
        flat, own = pd.Series(0.0, DAYS), {"exchange": exchange}
        backtest(DAYS[26], DAYS[30], strategy, executor, benchmark=flat, exchange_kwargs=own)
        assert (len(exchange.fills) > 0) == there


def test_the_limit_of_an_ex_rights_day_is_right_to_a_cent():
    """Close 24.71, then ten for one: 24.71 / 1.1 = 22.46, limit 24.71. By a rounded factor it is 22.47 and 24.72."""
    raw, factor = np.array([24.71, 24.71, 24.71, 27.17, 29.89]), np.array([1.0, 1.0, 1.0996, 1.0996, 1.0996])
    days = pd.bdate_range("2022-03-01", periods=5)
    grid = {name: np.float32(raw * factor)[:, None] for name in ("$close", "$open")}
    grid |= {"$factor": np.float32(factor)[:, None], "$volume": np.full((5, 1), VOLUME, np.float32)}
    options = Options(start_time=days[1], end_time=days[-1], liquidity="adjusted_shares")
    fields, last, old = grid | {"$amount": np.full((5, 1), np.nan)}, np.array([4]), np.full((5, 1), np.inf)
    ground = apply_rules(
        Bars((MAIN,), days, 1, fields, np.array([0]), last, last, old, 0), set(grid), ("$open", "$open"), options
    )
    # locked on the ex-rights day; 27.17 is a cent below 27.18; 29.89 is the limit
    assert ground.data["limit_buy"][:, 0].tolist() == [False, True, False, True]
    assert ground.reference[1, 0] == 22.47


def test_a_new_stocks_regime_is_that_of_its_first_day():
    """ChiNext, listed 2020-08-20: the old regime, so 20% on 08-24, and not the five free days of those listed then."""
    days = pd.bdate_range("2020-08-17", periods=8)
    raw = np.array([np.nan, np.nan, np.nan, 10.0, 10.0, 13.0, 13.0, 13.0])  # +30% on 08-24
    grid = {name: np.float32(raw)[:, None] for name in ("$close", "$open")}
    grid |= {"$factor": np.ones((8, 1), np.float32), "$volume": np.full((8, 1), VOLUME, np.float32)}
    age = np.arange(8.0)[:, None] - 2.0  # 1 on 08-20
    options = Options(start_time=days[0], end_time=days[-1], liquidity="adjusted_shares")
    for lead in (3, 5):  # the backtest begins on 08-20, or on 08-24
        fields, last = grid | {"$amount": np.full((8, 1), np.nan)}, np.array([7])
        bars = Bars(("SZ300900",), days, lead, fields, np.array([3]), last, last, age, 0)
        ground = apply_rules(bars, set(grid), ("$open", "$open"), options)
        blocked = dict(zip(ground.days, ground.data["limit_buy"][:, 0], strict=True))
        assert blocked[days[5]] and not blocked[days[6]]


def test_the_list_of_special_treatment_is_counted(hand, monkeypatch):
    said = []
    monkeypatch.setattr("qlib_ext.exchange.day_rules.logger", SimpleNamespace(info=said.append))
    made(st=pd.DataFrame({"code": [MAIN, "SH600009"], "start": ["2023-08-07"] * 2, "end": ["2023-08-08"] * 2}))
    assert len(said) == 1 and "1 stocks of 7 are under it, 2 days in all" in said[0]


def test_citations_tell_the_rules_of_the_span(hand):
    exchange = made()
    cited = exchange.rules_citations
    assert set(exchange.artifacts()) == {"blocked.pkl", "fills.pkl", "settled.pkl", "rules_citations.pkl"}
    assert {"cn.fee.stamp_duty_sell.2008-09-19", "lots", "marina-rules"} <= {row["id"] for row in cited}
    assert all(row["text"] and row["source"] for row in cited)
    json.dumps(cited)


def test_one_load_serves_all(hand, monkeypatch):
    clear_cache()
    loads = []
    monkeypatch.setattr("qlib_ext.exchange.quote.listings", lambda codes: loads.append(codes) or listings(codes))
    for _ in range(3):
        made()
    assert len(loads) == 1
    made(end_time=DAYS[57])
    assert len(loads) == 2


# --- whole backtests on the embedded market


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    path = make_market(tmp_path_factory.mktemp("exchange") / "market", n_stocks=80, years=1, start="2021-06-01")
    start(path)
    days = D.calendar(freq="day")
    codes = D.list_instruments(D.instruments("all"), as_list=True)
    amount = D.features(codes, ["$amount*1000"], days[0], days[-1]).iloc[:, 0]
    liquidity = amount.unstack("instrument").rolling(20, min_periods=1).mean().reindex(days)
    return path, days, liquidity


def run(market, exchange, last=170, executor=None, **options):
    """(report, positions, results): random scores, new every day; but a stock that is delisted is always liked."""
    path, days, liquidity = market
    index = pd.MultiIndex.from_product([days, liquidity.columns], names=["datetime", "instrument"])
    score = pd.Series(np.random.default_rng(5).normal(size=len(index)), index)
    score[index.get_level_values("instrument") == ENDS] = 9.0
    strategy = LiquidityTopNStrategy(signal=score, liquidity_frame=liquidity, **{"trade_participation": 0.1, **options})
    results = []
    strategy.post_exe_step = lambda done: results.extend(done or [])
    kwargs = {"time_per_step": "day", "generate_portfolio_metrics": True}
    executor = executor or {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": kwargs}
    exchange = {"exchange": exchange}
    done, _ = backtest(days[30], days[last], strategy, executor, benchmark=None, account=CASH, exchange_kwargs=exchange)
    return *next(iter(done.values())), results


@pytest.mark.parametrize("delisted", ["last_price", "write_off"])
def test_money_is_conserved_every_day(market, delisted):
    """Cash, holdings and costs are those of the fills; the fills hold the rules by marina-rules' own check."""
    start(market[0])
    days = market[1]
    config = {
        "class": "AShareExchange",
        "module_path": "qlib_ext.exchange",
        "kwargs": {"start_time": str(days[30]), "end_time": str(days[-2]), "deal_price": "open", "delisted": delisted,
                   "participation": 0.08, "delisted_after": 1},
    }  # fmt: skip
    exchange = get_exchange(exchange=config)
    report, positions, results = run(market, exchange)
    fills, settled, blocked = exchange.fills, exchange.settled, exchange.blocked
    assert len(fills) > 1000 and len(fills) == sum(yuan > 0 for _, yuan, _, _ in results)
    assert len(settled) > 0 and set(settled["kind"]) == {delisted}
    cost = fills[["commission", "transfer", "stamp_duty", "impact"]].sum(axis=1)
    cash, held = CASH, {}
    for day, position in positions.items():
        today, own = fills[fills["day"] == day], settled[settled["day"] == day]
        cash -= (today["yuan"] * np.where(today["side"] == "buy", 1, -1)).sum() + cost[today.index].sum()
        cash += (own["yuan"] - own["cost"]).sum()
        assert position.get_cash() == pytest.approx(cash, abs=0.01)
        assert position.get_cash() >= 0
        paid = cost[today.index].sum() + own["cost"].sum()
        total = report.loc[day, "account"]
        stock = sum(position.get_stock_amount(c) * position.get_stock_price(c) for c in position.get_stock_list())
        assert total == pytest.approx(cash + stock, abs=0.01)
        assert report.loc[day, "total_cost"] == pytest.approx(
            report["total_cost"].shift(1).fillna(0)[day] + paid, abs=0.01
        )
        held = {c: (position.get_stock_amount(c), position.get_stock_price(c)) for c in position.get_stock_list()}
    # each stock: what was bought, sold, settled is what is held
    flow = {}
    for order, yuan, _, _ in results:
        if yuan > 0:
            flow[order.stock_id] = flow.get(order.stock_id, 0.0) + order.deal_amount_delta
    for row in settled.itertuples():
        flow[row.code] -= row.shares
    for code, amount in flow.items():
        assert amount == pytest.approx(held.get(code, (0.0, 0.0))[0], rel=1e-6, abs=1e-3)
    assert fills.groupby(["day", "code"])["used"].sum().max() <= 0.08 * (1 + 1e-5)
    assert (blocked["dealt"] < blocked["wanted"]).all()
    keep = fills[fills["prev_close"].notna()]
    ipo = exchange.day_rules  # first days have rules of their own: checked by limits, not by the board's band
    old = [
        ipo.days.get_loc(d) - ipo.listed[exchange.quote.column[c]] > 5
        for d, c in zip(keep["day"], keep["code"], strict=True)
    ]
    rows = keep[old].assign(date=keep["day"].astype(str), turnover=keep["yuan"], fee=cost)
    verdict = check_rows(rows.to_dict("records"))
    assert verdict["rules_verified"], verdict["findings"][:3]


def test_a_nested_executor_shares_the_caps_of_a_day(market):
    """Weeks that are executed day by day: caps, T+1 and money hold as in the plain executor."""
    start(market[0])
    days = market[1]
    exchange = AShareExchange(start_time=days[30], end_time=days[90], deal_price="open", participation=0.02)
    simulator = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor"}
    inner = {**simulator, "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True}}
    twap = {"class": "TWAPStrategy", "module_path": "qlib.contrib.strategy.rule_strategy"}
    nested = {
        "class": "NestedExecutor",
        "module_path": "qlib.backtest.executor",
        "kwargs": {"time_per_step": "week", "inner_executor": inner, "inner_strategy": twap},
    }
    report, positions, _ = run(market, exchange, last=85, executor=nested)
    fills = exchange.fills
    assert len(fills) > 100 and fills.groupby(["day", "code"])["used"].sum().max() <= 0.02 * (1 + 1e-5)
    assert min(position.get_cash() for position in positions.values()) >= 0
    cost = fills[["commission", "transfer", "stamp_duty", "impact"]].sum().sum()
    assert report["total_cost"].iloc[-1] == pytest.approx(cost)


def test_without_rules_it_is_qlibs_exchange(market):
    start(market[0])
    span = {"start_time": market[1][30], "end_time": market[1][-2], "deal_price": "open"}
    costs = {"open_cost": 5e-4, "close_cost": 15e-4, "min_cost": 5}
    codes = list(market[2].columns)
    for unit, limit in ((None, None), (100, 0.095)):
        free = {"participation": None, "impact": 0, "t_plus_1": False, "delisted_after": 10**6}
        ours = AShareExchange(**span, **costs, **free, codes=codes, trade_unit=unit, limit_threshold=limit)
        theirs = Exchange(
            **span, **costs, codes=codes, trade_unit=unit, limit_threshold=1e9 if limit is None else limit
        )
        one, two = run(market, ours, last=75), run(market, theirs, last=75)
        pd.testing.assert_frame_equal(one[0], two[0], check_exact=False, rtol=1e-9, atol=1e-6)
        assert len(one[2]) == len(two[2]) > 500
        for (mine, *values), (other, *expected) in zip(one[2], two[2], strict=True):
            assert (mine.stock_id, mine.direction) == (other.stock_id, other.direction)
            np.testing.assert_allclose(
                [mine.deal_amount, *values], [other.deal_amount, *expected], rtol=1e-9, atol=1e-6
            )


def test_liquidity_is_the_strategys(market):
    """The exchange's trailing mean at day d is what `load_liquidity` gives for the close of d-1."""
    from qlib_ext.data import load_liquidity

    start(market[0])
    days, codes = market[1], list(market[2].columns)
    exchange = AShareExchange(start_time=days[30], end_time=days[-2])
    frame = load_liquidity(codes, days[0], days[-1]).ffill()
    np.testing.assert_allclose(exchange.day_rules.liquidity, frame.iloc[29:-2].to_numpy(), rtol=1e-5)


def test_whole_shares_by_hand():
    # 250 adjusted shares are 125 raw ones at a factor of 0.5: one lot; STAR: 200 at least, steps of 1
    assert whole_shares(250.0, 0.5, 100.0, 100.0) == 200.0
    assert whole_shares(250.0, 0.5, 200.0, 1.0) == 0.0
    assert whole_shares(403.0, 0.5, 200.0, 1.0) == 402.0
    assert whole_shares(199.99999999, 0.5, 100.0, 100.0) == 200.0  # float noise below a lot is none
    assert whole_shares(199.9, 0.5, 100.0, 100.0) == 0.0
