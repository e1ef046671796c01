"""Accounts under any sequence of days, orders, suspensions, limits, splits and delistings: money to the cent.

The machines draw the sequences (hypothesis), keep books of their own beside the account, in fractions, and compare
after every step. `simulate` is asked for all days so far, so that a day's trades are what came with it.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import qlib
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from qlib.backtest.account import Account
from qlib.backtest.decision import Order, OrderDir

from qlib_ext.exchange import AShareExchange
from qlib_ext.portfolio import CostAwarePolicy, Forecast, TopNPolicy, simulate
from qlib_ext.synthetic import write_fields, write_lists

BUY, SELL, CENT = OrderDir.BUY, OrderDir.SELL, 0.01


def budget(examples, steps):
    """The same sequences on every run; a failure is told as it came, in seconds (Phase.shrink takes minutes)."""
    return settings(
        max_examples=examples, stateful_step_count=steps, derandomize=True, deadline=None, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip


# --- the simulated account

STOCKS = 4


def mostly(ordinary, *others):
    return st.sampled_from([*ordinary * 2, *others])


WISHES = mostly([0.0, 3e3, 2.5e4, 4e5], np.nan, 3e7)  # yuan to hold; NaN: what there is
STEPS = mostly([0.0, 0.01, -0.02, 0.1, -0.1], 3.0, -1.0, np.nan, np.inf)
LIQUIDITIES = mostly([1e6, 3e7, 2e9], 40.0, 1e-12, 0.0, np.nan)
SIGMAS = mostly([0.02, 0.3], 0.0, np.nan)
STATES = mostly(["free"] * 3, "up", "down", "halt", "gone")
SCORES = mostly([1.0, 2.0], -1.0, np.nan)
FORECAST = Forecast(places=(0.1, 0.5, 0.9), levels=(-2e-3, 0.0, 2e-3), half_lives=(5.0,), significant=True)
POLICIES = [
    TopNPolicy(participation=0.3, top_n=2, rank_buffer=2.0),
    TopNPolicy(capital=3e5, participation=0.5, max_weight=0.4),
    CostAwarePolicy(FORECAST),
    CostAwarePolicy(FORECAST, capital=2e5, participation=None, trade_participation=None, benchmark=None),
]


@dataclass(frozen=True)
class Orders:
    """The orders of one day: what to hold, by hand."""

    yuan: tuple
    in_shares: bool
    capital: float | None = None

    def prepare(self, score):
        return np.asarray(score, dtype=float)

    def target(self, day):
        return np.where(np.isnan(self.yuan), day.held, self.yuan)


def of_each(strategy):
    return st.tuples(*[strategy] * STOCKS)


class Simulated(RuleBasedStateMachine):
    """Days are added one by one; the account is simulated anew over all of them."""

    met = set()

    @initialize(
        account=st.sampled_from([1e7, 1e5, 40.0]),
        start=st.sampled_from(["cash", "mean"]),
        impact=st.sampled_from([0.0, 1.0]),
        participation=st.sampled_from([None, 0.1]),
        young=st.sampled_from([0, 2]),
    )
    def open(self, account, start, impact, participation, young):
        self.options = {"account": account, "start": start, "impact": impact, "participation": participation}
        self.options |= {"min_holding": young, "buy_rate": 4e-4, "sell_rate": 14e-4}
        self.days, self.policies, self.daily = [], [], None
        self.gone, self.since = np.zeros(STOCKS, bool), np.full(STOCKS, -np.inf)
        self.held, self.cash, self.known = None, None, np.full((2, STOCKS), np.nan)

    @rule(
        yuan=of_each(WISHES), in_shares=st.booleans(), capital=st.sampled_from([None, None, 1e5]),
        score=of_each(SCORES), step=of_each(STEPS),
        liquidity=of_each(LIQUIDITIES), sigma=of_each(SIGMAS), state=of_each(STATES),
    )  # fmt: skip
    def orders_of_a_day(self, yuan, in_shares, capital, **market):
        self.add(Orders(yuan, in_shares, capital), **market)

    @rule(
        policy=st.sampled_from(POLICIES), score=of_each(SCORES), step=of_each(STEPS), liquidity=of_each(LIQUIDITIES),
        sigma=of_each(SIGMAS), state=of_each(STATES),
    )  # fmt: skip
    def policy_of_a_day(self, policy, **market):
        self.add(policy, **market)

    def add(self, policy, score, step, liquidity, sigma, state):
        first = not self.days
        score = np.where(first & np.isnan(score), 0.0, score)  # the universe of the first day
        state = np.where(self.gone, "gone", state)
        state = np.where(first & (state == "gone"), "free", state)
        self.gone = state == "gone"
        sellable, buyable = np.isin(state, ["free", "up"]), np.isin(state, ["free", "down"])
        row = (score, liquidity, sigma, step, buyable, sellable, self.gone)
        self.days.append([np.asarray(values) for values in row])
        self.policies.append(policy)
        names = ("score", "liquidity", "volatility", "step_return", "buyable", "sellable", "delisted")
        grids = {name: np.stack(rows) for name, rows in zip(names, zip(*self.days, strict=True), strict=True)}
        done = simulate(list(self.policies), grids.pop("score"), **grids, **self.options)
        self.check(done, score, state)

    def check(self, done, score, state):
        day, account = len(self.days) - 1, self.options["account"]
        if day:  # nothing of a later day changes an earlier one
            pd.testing.assert_frame_equal(done.daily.iloc[:-1], self.daily, check_exact=True)
            step = np.nan_to_num(self.days[-2][3], nan=0.0, posinf=0.0)
            before, cash = self.held * (1 + step), self.cash
        else:
            mean = self.options["start"] == "mean"
            before = np.full(STOCKS, account / STOCKS if mean else 0.0)
            cash = account - before.sum()
        last = np.where(state == "gone", self.held if day else before, before)  # a delisted stock has no entry price
        trade = done.holdings - last
        fees, impact = self.costs(np.abs(trade), trade < 0, state)
        row, value = done.daily.iloc[-1], cash + last.sum()
        assert sum(map(Fraction, [row["cash"], *done.holdings])) + Fraction(fees + impact) == pytest.approx(
            sum(map(Fraction, [cash, *last])), abs=CENT
        )
        if value > 0:
            paid = [row[name] * value for name in ("fees", "impact", "turnover")]
            assert paid == pytest.approx([fees, impact, np.abs(trade).sum()], rel=1e-9, abs=CENT)
            assert row["value"] == pytest.approx(row["cash"] + done.holdings.sum(), rel=1e-12, abs=CENT)
        self.check_trades(trade, last, state, np.isnan(score).all())
        assert row["cash"] > -1e-6 and (done.holdings >= 0).all() and np.isfinite(done.holdings).all()
        self.since = np.where((last == 0) & (done.holdings > 0), day, self.since)
        self.held, self.cash, self.daily = done.holdings, row["cash"], done.daily

    def costs(self, size, sells, state):
        """Fees and impact of the day's trades, yuan; those of a delisting are at most what it brings."""
        for n, values in enumerate((self.days[-1][1], self.days[-1][2])):
            usable = np.isfinite(values) & (values > 0 if n == 0 else values >= 0)
            self.known[n] = np.where(usable, values, self.known[n])
        self.fees = np.where(size > 0, np.where(sells, 14e-4, 4e-4) * size + np.maximum(5.0 - 3e-4 * size, 0.0), 0.0)
        self.fees = np.where(state == "gone", np.minimum(self.fees, size), self.fees)
        dealt = (size > 0) & (state != "gone")
        liquidity, sigma = (np.where(dealt, values, 1.0) for values in self.known)
        impact = np.where(dealt, sigma * size * np.sqrt(size / liquidity), 0.0)
        assert np.isfinite(impact).all() or not self.options["impact"]  # nothing is dealt at an unknown price
        return float(self.fees.sum()), float(impact.sum()) if self.options["impact"] else 0.0

    def check_trades(self, trade, last, state, blind):
        day, on = len(self.days) - 1, state != "gone"
        assert (trade[~on] == -last[~on]).all()
        assert (trade[state == "halt"] == 0).all()
        assert (trade[state == "up"] <= 0).all() and (trade[state == "down"] >= 0).all()
        if blind:
            assert (trade[on] == 0).all()
        if self.options["participation"]:
            room = np.nan_to_num(0.1 * self.known[0])
            assert (np.abs(trade[on]) <= room[on] * (1 + 1e-9) + 1e-9).all()
        assert not (trade[on & (day - self.since < self.options["min_holding"])] < 0).any()
        what = {"bought": trade > 0, "sold": (trade < 0) & on, "settled": (trade < 0) & ~on}
        what |= {name: (state == name) & (last > 0) for name in ("up", "down", "halt")}
        self.met.update(name for name, there in what.items() if there.any())


def test_a_simulated_account_keeps_its_money_through_any_sequence_of_days():
    Simulated.met.clear()
    run_state_machine_as_test(Simulated, settings=budget(60, 12))
    assert Simulated.met == {"bought", "sold", "settled", "up", "down", "halt"}


# --- qlib's account on AShareExchange

DAYS = pd.bdate_range("2023-07-03", periods=80)  # 2023-08-25, the last of the high stamp duty, is number 39
OPEN, LAST = 25, 78  # days of the exchange; what comes before makes liquidity and volatility known
GONE, ENDS = "SZ000002", 50  # its last day
LIMITS = {"SH600000": "0.1", GONE: "0.1", "SZ000001": "0.1", "SZ300001": "0.2", "SH688001": "0.2", "BJ430001": "0.3"}
LOTS = {"SH688001": (200, 1), "BJ430001": (100, 1)}  # smallest order, step; the others (100, 100)
EVENTS = ["trade", "up", "down", "halt", "quiet", "split", "thin"]
ODDS = [0.5, 0.12, 0.12, 0.08, 0.04, 0.08, 0.06]


def series(code, rng):
    """Raw prices in whole cents, shares, factor and event of each day."""
    cent = Decimal("0.01")
    close, factor, out = Decimal(10), 0.5, []
    for day in range(len(DAYS)):
        event = "trade" if day < OPEN else rng.choice(EVENTS, p=ODDS)
        if (event == "down" and close < 5) or (event == "up" and close > 40):
            event = "trade"
        split = rng.choice(["2", "1.1", "0.5"]) if event == "split" else "1"
        factor, reference = factor * float(split), close / Decimal(str(split))
        moved = Decimal(str(round(rng.uniform(-0.03, 0.03), 4)))
        if event in ("up", "down"):
            moved = Decimal(LIMITS[code]) * (1 if event == "up" else -1)
        price = reference if event in ("halt", "quiet") else (reference * (1 + moved)).quantize(cent, ROUND_HALF_UP)
        shares = {"quiet": 0.0, "thin": 1500.0}.get(event, float(rng.integers(2_000_000, 9_000_000)))
        out.append((event, np.nan if event == "halt" else float(price), shares, factor))
        close = price
    return out


@pytest.fixture(scope="module")
def exchanges(tmp_path_factory):
    """Exchanges over six stocks of random events, and the events: code -> a row a day."""
    folder, rng = tmp_path_factory.mktemp("machine") / "market", np.random.default_rng(20)
    folder.mkdir()
    told = {code: series(code, rng) for code in LIMITS}
    told[GONE] = [*told[GONE][: ENDS + 1], *[("gone", np.nan, 0.0, told[GONE][ENDS][3])] * (len(DAYS) - ENDS - 1)]
    spans = [(code, str(DAYS[0].date()), str(DAYS[ENDS if code == GONE else -1].date())) for code in told]
    write_lists(folder, DAYS.strftime("%Y-%m-%d").to_numpy(), {"all": spans})
    for code, rows in told.items():
        _, price, shares, factor = (np.array(values) for values in zip(*rows[: spans_end(code)], strict=True))
        there = ~np.isnan(price)
        fields = {"open": price * factor, "close": price * factor, "volume": shares / factor, "factor": factor}
        write_fields(folder, code, 0, {name: np.where(there, values, np.nan) for name, values in fields.items()})
    qlib.init(provider_uri=str(folder), region="cn", kernels=1)
    rules = {
        "plain": {},
        "free": {"impact": 0.0, "participation": None, "delisted": "write_off", "trade_unit": None},
        "same_day": {"t_plus_1": False, "participation": 0.01},
    }
    span = {"start_time": DAYS[OPEN], "end_time": DAYS[LAST], "deal_price": "open", "liquidity": "adjusted_shares"}
    return {name: AShareExchange(**span, **own) for name, own in rules.items()}, told


def spans_end(code):
    return ENDS + 1 if code == GONE else len(DAYS)


def machine_of(exchanges, told):
    class Traded(RuleBasedStateMachine):
        """Orders of any size, in any stock, day after day; books in fractions beside qlib's account."""

        met = set()

        @initialize(
            name=st.sampled_from(sorted(exchanges)), cash=st.sampled_from([0.0, 3e3, 2e5, 1e8]),
            odd=st.sampled_from([0.0, 0.4, 37.0, 350.0, 2e5]),
        )  # fmt: skip
        def open(self, name, cash, odd):
            self.exchange, self.name, self.day = exchanges[name], name, OPEN
            first = {code: odd for code in (GONE, "SH600000", "SH688001") if odd}
            held = {code: {"amount": raw / told[code][OPEN][3], "price": 5.0} for code, raw in first.items()}
            self.account = Account(init_cash=cash, position_dict=held, benchmark_config={"benchmark": None})
            self.cash, self.paid = Fraction(cash), Fraction(0)
            self.shares = {code: Fraction(own["amount"]) for code, own in held.items()}
            self.exchange.begin_step(self.account, DAYS[OPEN])
            self.bought, self.yuan = {}, {}

        @precondition(lambda self: self.day < LAST)
        @rule(days=st.sampled_from([1, 1, 1, 2, 9]))
        def wait(self, days):
            self.day = min(self.day + days, LAST)
            self.exchange.begin_step(self.account, DAYS[self.day])
            self.bought, self.yuan = {}, {}
            if self.day > ENDS and GONE in self.shares:
                row = self.exchange.settled.iloc[-1]
                assert row["code"] == GONE and row["shares"] == pytest.approx(float(self.shares.pop(GONE)))
                price = told[GONE][ENDS][1] * told[GONE][ENDS][3]
                if self.name == "free":
                    assert row["yuan"] == row["cost"] == 0 and row["lost"] == pytest.approx(row["shares"] * price)
                else:
                    assert row["yuan"] == pytest.approx(row["shares"] * price, rel=1e-5) and row["lost"] == 0
                    assert 0 < row["cost"] <= row["yuan"]
                self.cash += Fraction(row["yuan"]) - Fraction(row["cost"])
                self.paid += Fraction(row["cost"])
                self.met.add("settled")

        @rule(code=st.sampled_from(sorted(told)), shares=st.sampled_from([50, 100, 150, 250, 1000, 1e5, 1e9]))
        def buy(self, code, shares):
            self.deal(code, shares / told[code][self.day][3], BUY)

        @rule(code=st.sampled_from(sorted(told)), shares=st.sampled_from([1, 99, 100, 201, 1000, 1e9]))
        def sell(self, code, shares):
            self.deal(code, shares / told[code][self.day][3], SELL)

        @precondition(lambda self: self.shares)
        @rule(data=st.data())
        def sell_all(self, data):
            code = data.draw(st.sampled_from(sorted(self.shares)))
            self.deal(code, float(self.shares[code]), SELL)

        def deal(self, code, amount, side):
            held, cuts = self.shares.get(code, Fraction(0)), len(self.exchange.blocked)
            order = Order(code, amount, side, DAYS[self.day], DAYS[self.day])
            yuan, cost, _ = self.exchange.deal_order(order, trade_account=self.account)
            self.met.update(self.exchange.blocked["reason"].iloc[cuts:])
            if yuan <= 1e-5:  # nothing, for qlib
                assert cost == 0
                return
            sign = 1 if side == BUY else -1
            dealt = Fraction(order.deal_amount)
            self.check_fill(code, order, float(held), yuan, cost)
            self.cash -= sign * Fraction(yuan) + Fraction(cost)
            self.paid += Fraction(cost)
            left = held + sign * dealt
            if float(left) > 1e-5 * float(held):
                self.shares[code] = left
            else:
                self.shares.pop(code)
            if side == BUY:
                self.bought[code] = self.bought.get(code, 0.0) + order.deal_amount
            self.yuan[code] = self.yuan.get(code, 0.0) + yuan
            self.met.add("bought" if side == BUY else "sold")

        def check_fill(self, code, order, held, yuan, cost):
            event, price, traded, factor = told[code][self.day]
            buys = order.direction == BUY
            assert event not in ("halt", "quiet", "gone") and event != ("up" if buys else "down")
            raw = order.deal_amount * float(np.float32(factor))
            assert yuan == pytest.approx(raw * price, rel=1e-5)
            free = held if self.name == "same_day" else held - self.bought.get(code, 0.0)
            least, step = LOTS.get(code, (100, 100))
            whole = abs(raw / step - round(raw / step)) < 1e-6 * max(raw, 1) and raw > least - 1e-6
            lots = self.name != "free"
            assert whole or not lots or not buys and order.deal_amount == pytest.approx(free, rel=1e-5)
            assert buys or order.deal_amount <= free * (1 + 1e-5)
            day = self.yuan.get(code, 0.0) + yuan
            assert day <= traded * price * (1 + 1e-5)
            place = self.day - OPEN, self.exchange.quote.column[code]
            liquidity, sigma = (
                float(grid[place]) for grid in (self.exchange.day_rules.liquidity, self.exchange.day_rules.sigma)
            )
            if (cap := self.exchange.options.participation) is not None:
                assert day <= cap * liquidity * (1 + 1e-5)
            fees = max(3e-4 * yuan, 5.0) + 1e-5 * yuan + (0 if buys else (1e-3 if self.day <= 39 else 5e-4) * yuan)
            moved = [sigma * x * np.sqrt(x / liquidity) for x in (day, day - yuan)]
            assert cost == pytest.approx(fees + (moved[0] - moved[1] if self.name != "free" else 0.0), rel=1e-9)
            if event == "split":
                self.met.add("split")

        @invariant()
        def the_money_is_there(self):
            if not hasattr(self, "account"):
                return
            position = self.account.current_position
            assert position.get_cash() == pytest.approx(float(self.cash), abs=CENT)
            assert position.get_cash() >= (
                -1e-6 if self.name == "free" else 0
            )  # without lots up to the last float step
            assert set(position.get_stock_list()) == set(self.shares)
            for code, amount in self.shares.items():
                assert position.get_stock_amount(code) == pytest.approx(float(amount), rel=1e-9) and amount > 0
            assert self.account.accum_info.get_cost == pytest.approx(float(self.paid), abs=CENT)

    return Traded


def test_an_account_on_the_exchange_keeps_its_money_through_any_sequence_of_orders(exchanges):
    machine = machine_of(*exchanges)
    run_state_machine_as_test(machine, settings=budget(80, 40))
    cuts = {"suspended", "delisted", "limit_up", "limit_down", "volume_cap", "volume_of_day", "t_plus_1", "not_held"}
    assert machine.met >= cuts | {"cash", "below_lot", "bought", "sold", "settled", "split"}
