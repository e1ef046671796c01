"""The strategy's targets and caps, and the classes of `qlib_init`."""

import math
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import numpy as np
import pandas as pd
import pytest
import qlib
from hypothesis import given
from hypothesis import strategies as st
from qlib.backtest import backtest
from qlib.backtest.signal import Signal, SignalWCache
from qlib.data import D

from qlib_ext.exchange import AShareExchange
from qlib_ext.portfolio import Day, fill_top_n
from qlib_ext.rules import Fees
from qlib_ext.strategy import (
    Book,
    LastClose,
    Line,
    LiquidityTopNStrategy,
    Market,
    Planner,
    PolicyStrategy,
    summary,
    whole_lots,
)
from qlib_ext.synthetic import make_market

plans = import_module("qlib_ext.strategy.planner")
in_shares = import_module("qlib_ext.strategy.policy_strategy").in_shares
ONE = pd.Series([1.0], pd.MultiIndex.from_tuples([(pd.Timestamp("2020-01-02"), "SH600000")]))
CODES = [f"SH60000{i}" for i in range(4)]


def strategy(**options):
    return LiquidityTopNStrategy(signal=ONE, **options)


def target_yuan(score, liquidity, capital, held=(), **options):
    """Yuan that the strategy's policy wants to hold, by code."""
    nothing = np.full(len(score), np.nan)
    known = liquidity.reindex(score.index).to_numpy()
    day = Day(score.to_numpy(), score.index.isin(list(held)) * 1.0, known, known, nothing, capital, 0.0, 0.0, known > 0)
    return pd.Series(strategy(**options).policy.target(day), score.index)


@pytest.mark.parametrize("top_n", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_target_is_fill_top_n_to_the_yuan(seed, top_n):
    rng = np.random.default_rng(seed)
    codes = [f"S{i}" for i in range(50)]
    score = pd.Series(np.round(rng.normal(size=50), 1), codes)  # with ties
    liquidity = pd.Series(rng.lognormal(17, 1, 50), codes)
    score.iloc[3], liquidity.iloc[7] = np.nan, np.nan
    target = target_yuan(score, liquidity.sample(frac=1, random_state=seed), 5e7, codes[:9], top_n=top_n)
    expected = fill_top_n(score.to_numpy(), liquidity.to_numpy(), capital=5e7, top_n=top_n)
    np.testing.assert_array_equal(target.to_numpy(), expected)
    assert 0 < target.sum() <= 5e7 + 1


def test_rank_buffer_keeps_a_held_stock():
    # Caps of 50 each, 100 to place: ranks 1 2 3 4; the held fourth comes to 4/2 = 2 and wins the tie.
    score, liquidity = pd.Series([4.0, 3.0, 2.0, 1.0], CODES), pd.Series(1000.0, CODES)
    plain = target_yuan(score, liquidity, 100.0, [CODES[3]])
    kept = target_yuan(score, liquidity, 100.0, [CODES[3]], rank_buffer=2)
    assert plain.tolist() == [50, 50, 0, 0]
    assert kept.tolist() == [50, 0, 0, 50]


def test_misspelt_and_impossible_options():
    with pytest.raises(TypeError, match="'particpation'.*participation"):
        strategy(particpation=0.1)
    with pytest.raises(ValueError, match="rank_buffer is 0.5"):
        strategy(rank_buffer=0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("capital", "1e8"), ("capital", True), ("participation", None), ("trade_participation", "0.05"), ("top_n", "5"),
        ("top_n", 5.0), ("top_n", True), ("top_n", 0),
        ("top_n", math.inf), ("rank_buffer", None), ("min_holding", None), ("liquidity_window", 2.5),
        ("liquidity", "comunity"), ("liquidity", None),
    ],
)  # fmt: skip
def test_options_of_a_wrong_kind(name, value):
    with pytest.raises(ValueError, match=f"LiquidityTopNStrategy: {name} is {value!r}; "):
        strategy(**{name: value})


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strategy")
    path = make_market(folder / "market", n_stocks=40, years=0.5)
    manager = {
        "class": "SqliteExpManager",
        "module_path": "qlib_ext.recorder",
        "kwargs": {"uri": f"sqlite:///{folder}/runs/mlruns.db", "default_exp_name": "qlib_ext"},
    }
    calendar = {"class": "DemoCalendarProvider", "module_path": "qlib_ext.recorder"}
    qlib.init(provider_uri=str(path), region="cn", exp_manager=manager, calendar_provider=calendar, kernels=1)
    days = D.calendar(freq="day")
    amount = D.features(D.instruments("all"), ["$close*$volume"], days[0], days[-1]).iloc[:, 0]
    liquidity = amount.unstack("instrument").rolling(5, min_periods=1).mean().reindex(days)
    return folder, days, liquidity


def run_backtest(days, liquidity, score, *, codes=None, **options):
    """(strategy, positions by day, every fill: day, code, direction, yuan, adjusted shares, price, factor)."""
    kwargs = {"signal": score, "liquidity_frame": liquidity, **options}
    made = LiquidityTopNStrategy(**kwargs)
    fills = []
    made.post_exe_step = lambda result: fills.extend(result or [])
    executor = {
        "class": "SimulatorExecutor",
        "module_path": "qlib.backtest.executor",
        "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True},
    }
    exchange = {"freq": "day", "deal_price": "open", "limit_threshold": 0.095, "open_cost": 5e-4}
    exchange |= {"close_cost": 15e-4, "min_cost": 5, "codes": list(liquidity.columns if codes is None else codes)}
    portfolio, _ = backtest(days[21], days[-2], made, executor, benchmark=None, account=2e8, exchange_kwargs=exchange)
    return made, next(iter(portfolio.values())), fills


def random_scores(days, codes, seed=0):
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    return pd.Series(rng.normal(size=len(index)), index, name="score")


@pytest.fixture(scope="module")
def traded(market):
    _, days, liquidity = market
    score = random_scores(days, liquidity.columns)
    gone = liquidity.columns[0]  # leaves the scores half way
    dates = score.index.get_level_values("datetime")
    score = score[(dates < days[60]) | (score.index.get_level_values("instrument") != gone)]
    return run_backtest(days, liquidity, score, trade_participation=0.02, participation=0.05)


def test_trade_cap_holds_every_day(market, traded):
    _, days, liquidity = market
    _, _, fills = traded
    known, where = liquidity.ffill(), {day: i for i, day in enumerate(days)}
    used = [
        (value / (0.02 * known.iloc[where[order.start_time] - 1][order.stock_id]), order.direction)
        for order, value, _, _ in fills
        if value > 0
    ]
    assert len(used) > 500
    assert max(share for share, _ in used) <= 1 + 1e-6
    assert max(share for share, _ in used) > 0.9  # the cap was felt
    assert {direction for _, direction in used} == {0, 1}


def test_the_log_and_cash(market, traded):
    _, days, _ = market
    made, (report, positions), _ = traded
    assert [entry["date"] for entry in made.daily_log] == list(days[21:-1])
    assert all(entry["signal_date"] < entry["date"] for entry in made.daily_log)
    for entry in made.daily_log:
        assert entry["target"] + entry["cash_target"] == pytest.approx(entry["capital"])
    assert min(position.get_cash() for position in positions.values()) >= 0
    assert report["account"].iloc[-1] > 1e8


def test_a_stock_that_leaves_the_scores_is_sold(market, traded):
    _, _, liquidity = market
    _, (_, positions), fills = traded
    gone = liquidity.columns[0]
    last = max(positions)
    assert any(order.stock_id == gone and value > 0 for order, value, _, _ in fills)
    assert gone not in positions[last].get_stock_list()


def test_one_day_agrees_with_fill_top_n(market):
    """With no trade cap to speak of, the first day's buys are the placed yuan, less a lot each and costs."""
    _, days, liquidity = market
    score = random_scores(days, liquidity.columns, seed=1)
    made, _, fills = run_backtest(
        days[:24], liquidity, score, trade_participation=None, capital=3e7, liquidity_window=5
    )
    first = [(order, value, price) for order, value, _, price in fills if order.start_time == days[21]]
    expected = fill_top_n(score[days[20]].to_numpy(), liquidity.loc[days[20]].to_numpy(), capital=3e7)
    expected = pd.Series(expected, liquidity.columns)
    assert made.daily_log[0]["target"] == pytest.approx(expected.sum(), abs=1)
    assert first
    for order, value, price in first:
        lot = 100 / order.factor * price
        assert expected[order.stock_id] - lot <= value <= expected[order.stock_id] + 1


def test_indices_among_the_scores_are_left_out(market, monkeypatch):
    """With the best score and the largest turnover an index would take the whole capital; it is told once."""
    _, days, liquidity = market
    score = random_scores(days, liquidity.columns, seed=2)
    index = pd.MultiIndex.from_product([days, ["SH000300"]], names=["datetime", "instrument"])
    both, wide = pd.concat([score, pd.Series(99.0, index)]).sort_index(), liquidity.assign(SH000300=1e12)
    said = []
    monkeypatch.setattr("qlib_ext.strategy.policy_strategy.logger", SimpleNamespace(warning=said.append))
    codes = list(liquidity.columns)
    plain = run_backtest(days[:26], liquidity, score, codes=codes)[0]
    assert not said
    more = run_backtest(days[:26], wide, both, codes=codes)[0]
    assert len(said) == 1 and "SH000300" in said[0]
    pd.testing.assert_frame_equal(more.daily_targets, plain.daily_targets)
    assert (plain.daily_targets["target"] > 0).any()


def test_a_signal_day_without_liquidity_is_an_error(market):
    _, days, liquidity = market
    with pytest.raises(ValueError, match="no liquidity for"):
        run_backtest(days, liquidity.iloc[:30], random_scores(days, liquidity.columns))


def test_liquidity_is_loaded_once(market, monkeypatch):
    _, days, liquidity = market
    calls = []

    def load(codes, start, end, *, profile, window, past):
        calls.append((codes, profile, window))
        assert start <= days[20] and end >= days[-2] and past
        return liquidity[codes]

    monkeypatch.setattr("qlib_ext.strategy.policy_strategy.load_liquidity", load)
    score = random_scores(days, liquidity.columns[:30])
    made, _, fills = run_backtest(days, None, score, codes=liquidity.columns, liquidity_window=5)
    assert calls == [(sorted(liquidity.columns[:30]), "auto", 5)]
    assert fills and made.daily_log[-1]["names"] > 0


def test_artifacts_land_beside_the_database(market, monkeypatch, tmp_path):
    from qlib.workflow import R

    folder, _, _ = market
    monkeypatch.chdir(tmp_path)
    with R.start(experiment_name="alpha one"):
        R.save_objects(**{"answer.pkl": 42})
        recorder = R.get_recorder()
    assert (folder / "runs" / "mlruns.db").is_file()
    assert (folder / "runs" / "mlruns" / "alpha one" / recorder.id / "artifacts" / "answer.pkl").is_file()
    assert recorder.load_object("answer.pkl") == 42
    assert not (tmp_path / "mlruns").exists()


def test_recorder_refuses_another_uri():
    from qlib_ext.recorder import SqliteExpManager

    with pytest.raises(ValueError, match="sqlite:///FILE"):
        SqliteExpManager(uri="file:./mlruns", default_exp_name="x")


FIRST_RUN = """
import sys
from pathlib import Path
import qlib
from qlib_ext import synthetic
if __name__ == "__main__":
    synthetic.DEFAULT_PATH = Path(sys.argv[1])
    build = synthetic.make_market
    synthetic.make_market = lambda path, **kwargs: build(path, n_stocks=12, years=0.3)
    calendar = {"class": "DemoCalendarProvider", "module_path": "qlib_ext.recorder", "kwargs": {}}
    qlib.init(provider_uri=sys.argv[1], region="cn", calendar_provider=calendar, kernels=2)
    from qlib.data import D
    print(len(D.calendar()), len(D.features(D.instruments("all"), ["$close"])))
"""


def test_first_run_builds_the_embedded_market(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FIRST_RUN, str(tmp_path / "qlib market")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert "writing the embedded market" in done.stderr and "is ready" in done.stderr
    assert int(done.stdout.split()[1]) > 100


def test_another_folder_is_never_built(market, monkeypatch, tmp_path):
    from qlib.config import C

    from qlib_ext.recorder import DemoCalendarProvider

    target = tmp_path / "mine"
    monkeypatch.setitem(C.__dict__["_config"], "provider_uri", {C.DEFAULT_FREQ: str(target)})
    with pytest.raises(FileNotFoundError, match="mine', which does not exist") as error:
        DemoCalendarProvider()
    assert "QLIB_EXT_PROVIDER_URI" in str(error.value) and not target.exists()
    target.mkdir()
    with pytest.raises(FileNotFoundError, match="has no calendars/, instruments/, features/"):
        DemoCalendarProvider()


# --- the rank buffer as a pair


def test_a_pair_keeps_what_is_held_and_enters_late():
    # Caps of 50, 200 to place. Ranks 1 2 3 4 5 6; held: the fourth and the sixth. [2, 5]: the fourth stays (4 <= 5) and
    # takes its cap first, the sixth leaves; of the others only the first two may enter: 150 placed, 50 stay cash.
    codes = [f"SH60000{i}" for i in range(6)]
    score, liquidity = pd.Series([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], codes), pd.Series(1000.0, codes)
    held = [codes[3], codes[5]]
    assert target_yuan(score, liquidity, 200.0, held, rank_buffer=[2, 5]).tolist() == [50, 50, 0, 50, 0, 0]
    # with 70 to place: what is held takes 50, the first rank the other 20
    assert target_yuan(score, liquidity, 70.0, held, rank_buffer=(2, 5)).tolist() == [20, 0, 0, 50, 0, 0]
    # top_n 2: the held fourth and the first, in proportion to liquidity
    two = target_yuan(score, liquidity, 60.0, held, rank_buffer=[2, 5], top_n=2)
    assert two.tolist() == [30, 0, 0, 30, 0, 0]
    assert target_yuan(score, liquidity, 200.0, rank_buffer=[6, 6]).tolist() == [50, 50, 50, 50, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_a_pair_against_loops(seed):
    """Slow and by the words: who may be in, in which order, each up to its cap."""
    rng = np.random.default_rng(seed)
    codes = [f"S{i}" for i in range(30)]
    score = pd.Series(np.round(rng.normal(size=30), 1), codes)
    score.iloc[rng.integers(30, size=3)] = np.nan
    liquidity = pd.Series(rng.lognormal(10, 1, 30), codes)
    held = set(rng.choice(codes, 12, replace=False))
    enter, leave = sorted(rng.integers(3, 25, size=2).tolist())
    scored = [i for i in range(30) if not np.isnan(score.iloc[i])]
    ranked = [codes[i] for i in sorted(scored, key=lambda i: (-score.iloc[i], i))]
    stay = [code for rank, code in enumerate(ranked, 1) if code in held and rank <= leave]
    new = [code for rank, code in enumerate(ranked, 1) if code not in held and rank <= enter]
    left, expected = 3e4, dict.fromkeys(codes, 0.0)
    for code in stay + new:
        expected[code] = min(0.05 * liquidity[code], left)
        left -= expected[code]
    got = target_yuan(score, liquidity, 3e4, held, rank_buffer=[enter, leave])
    np.testing.assert_allclose(got.to_numpy(), list(expected.values()), atol=1e-6)


@pytest.mark.parametrize("wrong", [[3, 2], [0, 2], [1, 2, 3], [1.5, 2], "2", True, []])
def test_a_pair_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="rank_buffer is"):
        strategy(rank_buffer=wrong)


def test_min_holding_is_a_number_of_days():
    for wrong in (-1, 1.5, True):
        with pytest.raises(ValueError, match="min_holding is"):
            strategy(min_holding=wrong)


# --- orders of one step


@pytest.mark.parametrize(
    ("delta", "most", "lots", "shares"),
    [
        (1050, 5000, (100, 100), 1000),  # whole lots
        (1050, 450, (100, 100), 400),  # the cap
        (99, 500, (100, 100), 0),
        (350.7, 500, (200, 1), 350),  # STAR: 200, then single shares
        (199, 500, (200, 1), 0),
        (430, 250, (200, 1), 230),  # 250 today would leave 180, too few for an order: 230 and 200
        (450, 250, (200, 1), 250),
        (350, 250, (200, 1), 250),  # 200 is the least today, so that 150 are out of reach in any case
        (430, 150, (200, 1), 0),
        (12.34, 5.5, (0, 0), 5.5),  # no lots
        (-5, 5, (0, 0), 0),
        (-5, 10, (1, 1), 0),
        (200, 5000, (200, 1), 200),
        (500, 499, (200, 1), 300),  # 1 would be left, too few: 300 and 200
        (400, 300, (200, 1), 200),
        (100 * (1 - 1.5e-9), 500, (100, 100), 100),  # float noise
    ],
)
def test_whole_lots(delta, most, lots, shares):
    assert whole_lots(delta, most, lots) == shares


@given(st.integers(0, 3000), st.integers(0, 700), st.sampled_from([(100, 100), (200, 1), (200, 1), (100, 1)]))
def test_lots_reach_the_target_wherever_any_way_does(delta, cap, lots):
    """Day by day under the same cap: the rest that stays is below the smallest order, or nothing can be ordered."""
    least, step = lots
    first, left = whole_lots(delta, cap, lots), delta
    for _ in range(3100):
        shares = whole_lots(left, cap, lots)
        assert shares == 0 or (least <= shares <= cap and shares % step == 0)
        left -= shares
        if shares == 0:
            break
    assert left >= 0
    reachable = cap >= 2 * least and delta >= 2 * least  # then every amount splits into orders of least to cap
    if reachable:
        assert left < step
    if first == 0:
        assert delta < least or cap < least


class Desk:
    """An exchange by hand: prices of 10, lots of 100, costs of 1% (sells 2%) or 5 yuan; STAR stocks 200, then 1."""

    open_cost, close_cost, min_cost, impact_cost = 0.01, 0.02, 5.0, 0.0

    def __init__(self, suspended=(), locked=()):
        self.closed, self.locked = set(suspended), set(locked)

    def check_stock_suspended(self, code, start, end):
        return code in self.closed

    def is_stock_tradable(self, code, start, end, direction):
        return code not in self.closed and code not in self.locked

    def get_deal_price(self, code, start, end, direction):
        return 10.0

    def get_amount_of_trade_unit(self, factor, code, start, end):
        return 1.0 if code.startswith("SH688") else 100.0

    def smallest_order(self, code, start, end):
        return 200.0 if code.startswith("SH688") else 100.0


SPAN = (pd.Timestamp("2022-01-04"), pd.Timestamp("2022-01-04 23:59:59"))


def plan(lines, cash=1e6, capital=math.inf, **desk):
    planner = Planner(Market(Desk(**desk), SPAN, {}), lambda code: 10.0, cash, capital)
    orders = planner.plan(lines)
    return {order.stock_id: (order.amount if order.direction == 1 else -order.amount) for order in orders}


def line(code, target, amount=0.0, cap=1e9, free=None, young=False):
    return Line(code, 1.0, target, amount, amount if free is None else free, cap, young)


def test_cash_pays_the_costs_too():
    # 10,100.01 yuan: 1,000 shares at 10 and 1% are 10,100 (a cent stays for rounding); with 10,099 a lot less
    assert plan([line("SH600000", 2e4)], cash=10_100.01) == {"SH600000": 1000}
    assert plan([line("SH600000", 2e4)], cash=10_099.0) == {"SH600000": 900}
    # a sale brings 2,000 - 40; with the 30 in cash that is 100 shares and 10 yuan of costs, and no second hundred
    lines = [line("SH600001", 0.0, 200), line("SH600002", 1e3), line("SH600003", 1e3)]
    assert plan(lines, cash=30.0) == {"SH600001": -200, "SH600002": 100}
    assert [x.reason for x in lines] == ["", "", "cash_clipped"]
    assert summary(lines)["unreached"] == 1000 and summary(lines)["unreached_names"] == 0  # short by one order


def test_the_impact_of_qlibs_own_exchange():
    # 4% of the square of the share of the day's yuan, on top of 1% (sells 2%); as of all of it where that is not known
    desk = Desk()
    desk.impact_cost = 0.04
    market = Market(desk, SPAN, {"SH600000": 4e4, "SH600001": math.nan})
    assert market.cost("SH600000", 2e4, sell=False) == pytest.approx(2e4 * (0.01 + 0.04 * 0.5**2))
    assert market.cost("SH600000", 4e4, sell=True) == pytest.approx(4e4 * (0.02 + 0.04))
    for unknown in ("SH600001", "SH600002"):
        assert market.cost(unknown, 2e4, sell=False) == pytest.approx(2e4 * 0.05)


def test_holdings_that_cannot_be_sold_take_up_the_capital():
    # 10,000 of capital; 6,000 are stuck in a suspended stock: 4,000 may be bought, though there is cash for more
    lines = [line("SH600001", 0.0, 600), line("SH600002", 8e3)]
    assert plan(lines, capital=1e4, suspended=["SH600001"]) == {"SH600002": 400}
    assert [x.reason for x in lines] == ["blocked_sell", "capital_clipped"]
    assert summary(lines)["unreached"] == 4000 and summary(lines)["unreached_names"] == 1
    assert summary(lines)["blocked_sell"] == summary(lines)["capital_clipped"] == 1


class Unsure(Desk):
    """An exchange that would sell nothing, and does not know the volatility of SH600002, so would not buy it either."""

    def trade_cost(self, code, start, end, yuan, *, sell):
        return math.inf if sell or code == "SH600002" else 0.01 * yuan

    def unknown(self, code, start, end):
        return "unknown_volatility"


def test_what_the_exchange_would_not_deal_is_not_sent():
    # 5,000 yuan of cash and nothing from the sale that is not sent: 490 shares of 10.10, in lots 400 = 4,040
    lines = [line("SH600001", 0.0, 300), line("SH600002", 1e4), line("SH600003", 1e4)]
    planner = Planner(Market(Unsure(), SPAN, {}), lambda code: 10.0, 5e3, math.inf)
    (order,) = planner.plan(lines)
    assert (order.stock_id, order.direction, order.amount) == ("SH600003", 1, 400.0)
    assert [x.reason for x in lines] == ["unknown_volatility", "unknown_volatility", "cash_clipped"]
    assert planner.cash == pytest.approx(5e3 - 0.01 - 4_040) and summary(lines)["unknown_volatility"] == 2


def test_sells_under_the_cap_go_whole_at_the_end():
    lots = [line("SH600001", 0.0, 650, cap=4000.0)]
    assert plan(lots) == {"SH600001": -400} and lots[0].reason == "trade_cap"
    assert plan([line("SH600001", 0.0, 250, cap=4000.0)]) == {"SH600001": -250}  # the odd lot goes with the rest
    assert plan([line("SH600001", 1000.0, 650, cap=4e4)]) == {"SH600001": -500}  # 550 too many
    assert plan([line("SH688001", 0.0, 350, cap=2500.0)]) == {"SH688001": -250}
    stuck = [line("SH688001", 0.0, 350, cap=1500.0)]
    assert plan(stuck) == {} and stuck[0].reason == "below_lot"


def test_what_is_not_sold_says_why():
    young = [line("SH600001", 0.0, 300, young=True)]
    assert plan(young) == {} and young[0].reason == "held_back"
    fresh = [line("SH600001", 0.0, 300, free=100.0)]
    assert plan(fresh) == {"SH600001": -100} and fresh[0].reason == "t_plus_1"
    bought = [line("SH600001", 0.0, 300, free=0.0)]
    assert plan(bought) == {} and bought[0].reason == "t_plus_1"
    locked = [line("SH600001", 0.0, 300), line("SH600002", 5e3)]
    assert plan(locked, locked=["SH600001", "SH600002"]) == {}
    assert [x.reason for x in locked] == ["blocked_sell", "blocked_buy"]
    unknown = [line("SH600001", 0.0, 300, cap=math.nan), line("SH600002", 5e3, cap=math.nan)]
    assert plan(unknown) == {} and [x.reason for x in unknown] == ["unknown_liquidity"] * 2
    spent = [line("SH600001", 5e3, cap=0.0)]
    assert plan(spent) == {} and spent[0].reason == "trade_cap"


# --- what is remembered


def test_the_book_counts_days_and_caps():
    days = pd.DatetimeIndex(["2022-01-06", "2022-01-07", "2022-01-10", "2022-01-11"])  # 01-08 and 01-09: no trading
    book, position = Book(), object()
    book.position = position

    def step(at, until, held, **prices):
        begins = book.begin_step((pd.Timestamp(at), pd.Timestamp(until)), held, ())
        book.prices = prices
        return begins

    assert step("2022-01-06", "2022-01-06 23:59:59", {"OLD": 5.0}, OLD=10.0)
    assert step("2022-01-07", "2022-01-09 23:59:59", {"OLD": 5.0}, OLD=10.0, NEW=20.0)
    assert step("2022-01-10 09:30", "2022-01-10 09:59:59", {"OLD": 5.0, "NEW": 3.0}, OLD=10.0, NEW=20.0)
    assert book.days_held("NEW", days) == 1 and book.days_held("OLD", days) == math.inf
    assert book.sellable("NEW", 3.0) == 3.0 and book.left("NEW", 70.0) == 70.0
    # bought 2 of NEW and sold 1 of OLD in the step before, of the same day
    assert not step("2022-01-10 10:00", "2022-01-10 10:29:59", {"OLD": 4.0, "NEW": 5.0}, OLD=10.0, NEW=20.0)
    assert book.sellable("NEW", 5.0) == 3.0 and book.left("NEW", 70.0) == 30.0 and book.left("OLD", 70.0) == 60.0
    assert book.sellable("OLD", 4.0) == 4.0 and book.sellable("NEW", 1.0) == 0.0 and book.left("NEW", 10.0) == 0.0
    assert book.sellable("OTHER", 4.0) == 4.0 and book.left("OTHER", 7.0) == 7.0 and math.isnan(book.left("NEW", NAN))
    assert step("2022-01-11", "2022-01-11 23:59:59", {"OLD": 4.0, "NEW": 5.0})
    assert book.sellable("NEW", 5.0) == 5.0 and book.left("NEW", 70.0) == 70.0 and book.days_held("NEW", days) == 2
    assert book.is_of(position, pd.Timestamp("2022-01-11")) and not book.is_of(position, pd.Timestamp("2022-01-10"))
    assert not book.is_of(object(), pd.Timestamp("2022-01-12"))


def test_the_share_of_the_target_that_was_reached():
    # target 100 and 300 at prices of 10 and 20; 5 and 20 shares are 50 of 100 and (400, so) 300 of 300: 350 of 400
    book = Book(target={"A": 100.0, "B": 300.0}, prices={"A": 10.0, "B": 20.0})
    assert book.share_reached({"A": 5.0, "B": 20.0, "C": 9.0}) == 350 / 400
    assert math.isnan(Book().share_reached({})) and math.isnan(Book(target={"A": 0.0}).share_reached({}))
    assert Book(target={"A": 0.5, "B": 0.5}, prices={"A": 0.25}).share_reached({"A": 1.0, "B": 9.0}) == 0.25
    assert Book(target={"A": 0.5}, prices={"A": 0.25}).share_reached({}) == 0.0


def test_the_day_of_a_buy_is_that_of_its_first_order():
    """A step of three days: what was dealt tells the day; what is bought on none is of the last one."""
    days, book = pd.bdate_range("2022-01-04", periods=5), Book()

    def order(code, day, direction=1):
        return SimpleNamespace(stock_id=code, start_time=day + pd.Timedelta(hours=10), direction=direction)

    book.begin_step((days[0], days[2]), {"OLD": 2.0, "GONE": 3.0}, ())
    book.prices = {"A": 10.0, "GONE": 4.0}
    dealt = [
        (order("A", days[0]), 0.0, 0.0, 10.0), (order("A", days[1]), 0.5, 0.0, 10.0),
        (order("A", days[2]), 9.0, 0.0, 10.0), (order("B", days[1], direction=0), 5.0, 0.0, 10.0),
        (order("C", days[0]), 5.0, 0.0, 10.0),
    ]  # fmt: skip
    assert book.begin_step((days[3], days[3]), {"OLD": 2.0, "A": 1.0, "B": 0.5, "C": 2.0}, dealt)
    assert book.since == {"A": days[1], "B": days[2], "C": days[0]}
    held = {"OLD": 1.0, "A": 0.5, "B": 0.5, "C": 2.5}
    assert not book.begin_step((days[3], days[3]), held, ())
    assert dict(book.dealt) == {"OLD": 0.0, "A": 5.0, "B": 0.0, "C": 0.0}  # no price, no yuan
    assert dict(book.bought) == {"OLD": 0.0, "A": 0.0, "B": 0.0, "C": 0.5}
    book.begin_step((days[4], days[4]), {"OLD": 1.0}, ())
    assert book.since == {} and book.days_held("OLD", days) == math.inf


# --- a whole step, by hand

NAN, DATE = math.nan, pd.Timestamp("2022-01-04")


class Spread(Desk):
    """Buys at 10, sells at 8, of this step alone."""

    def get_deal_price(self, code, start, end, direction):
        assert (start, end) == SPAN
        return 10.0 if direction == 1 else 8.0

    def check_stock_suspended(self, code, start, end):
        assert (start, end) == SPAN
        return super().check_stock_suspended(code, start, end)


def test_a_whole_plan_by_hand():
    # SH600001: 350, of which 50 are of today: 300 may go, but 2,000 / 8 = 250 a day, in lots 200: 1,600 - 32 of costs.
    # SH600006 does not trade; its last price is 7. SH600005: 99 shares. SH600003: 400 more at 10, for 2,500 a day.
    # Capital: 6,700 - 1,200 - 800 - 700 - 1,000 = 3,000: 2,000 for SH600003, 1,000 of 1,500 for SH600004.
    # Cash: 1,500 - 0.01 + 1,568 - 2,020 - 1,010 = 37.99.
    held = {"SH600001": 350.0, "SH600002": 100.0, "SH600003": 100.0, "SH600006": 100.0}
    target = pd.Series({"SH600005": 990.0, "SH600002": 0.0, "SH600003": 5_000.0, "SH600004": 1_500.0})
    rank = {"SH600005": 1.0, "SH600002": 2.0, "SH600003": 3.0, "SH600004": 4.0}
    caps = {"SH600001": 2_000.0, "SH600002": 500.0, "SH600003": 2_500.0, "SH600004": 1e5, "SH600005": 1e5}
    young = {"SH600001": False, "SH600002": True, "SH600003": False, "SH600006": False}
    lines = plans.make_lines(target, rank, held, {"SH600001": 300.0}, caps, young.__getitem__)
    planner = Planner(Market(Spread(suspended=["SH600006"]), SPAN, {}), {"SH600006": 7.0}.__getitem__, 1_500.0, 6_700.0)
    orders = planner.plan(lines)
    assert [(x.stock_id, x.amount, int(x.direction), x.start_time, x.end_time) for x in orders] == [
        ("SH600001", 200.0, 0, *SPAN), ("SH600003", 200.0, 1, *SPAN), ("SH600004", 100.0, 1, *SPAN)
    ]  # fmt: skip
    frame = plans.table(DATE, lines)
    assert tuple(frame) == ("date", "code", "rank", "target", "held", "ordered", "cap", "reason")
    assert frame.fillna(-1.0).to_numpy().tolist() == [
        [DATE, "SH600001", -1.0, 0.0, 2_800.0, -1_600.0, 2_000.0, "trade_cap"],
        [DATE, "SH600002", 2.0, 0.0, 800.0, 0.0, 500.0, "held_back"],
        [DATE, "SH600006", -1.0, 0.0, 700.0, 0.0, -1.0, "blocked_sell"],
        [DATE, "SH600005", 1.0, 990.0, 0.0, 0.0, 1e5, "below_lot"],
        [DATE, "SH600003", 3.0, 5_000.0, 1_000.0, 2_000.0, 2_500.0, "trade_cap"],
        [DATE, "SH600004", 4.0, 1_500.0, 0.0, 1_000.0, 1e5, "capital_clipped"],
    ]
    assert [x.price for x in lines] == [8.0, 8.0, 7.0, 10.0, 10.0, 10.0]
    assert [x.lot for x in lines] == [0.0, 0.0, 0.0, 1_000.0, 1_000.0, 1_000.0]
    assert planner.cash == pytest.approx(37.99) and planner.capital == 0.0
    assert summary(lines) == {
        "buy": 3_000.0, "sell": 1_600.0, "unreached": 990.0 + 2_000.0 + 500.0, "unreached_names": 1, "blocked_buy": 0,
        "blocked_sell": 1, "unknown_liquidity": 0, "unknown_volatility": 0, "below_lot": 1, "cash_clipped": 0,
        "capital_clipped": 1, "trade_cap": 2, "held_back": 1, "t_plus_1": 0,
    }  # fmt: skip
    small = [Line("A", 1.0, 0.01, 0.0, 0.0, 0.0), Line("B", 1.0, 0.0, 1.0, 1.0, 0.0, held=0.5, ordered=-0.5)]
    assert summary(small) == {**dict.fromkeys(summary([]), 0), "sell": 0.5, "unreached": 0.01}
    assert summary([Line("A", 1.0, 0.9, 0.0, 0.0, 0.0, ordered=0.8)])["buy"] == 0.8


class Free(Desk):
    """Without costs."""

    open_cost = close_cost = min_cost = 0.0


@pytest.mark.parametrize(
    ("stock", "options", "shares", "reason"),
    [
        ({"target": 3e3, "amount": 300}, {"locked": ["S"]}, 0, ""),  # what is held is wanted
        ({"target": 3e3, "amount": 300, "cap": NAN}, {}, 0, ""),
        ({"target": 1e3, "amount": 300, "free": 0}, {}, 0, "t_plus_1"),
        ({"target": 1e3, "amount": 300, "free": 0, "cap": 0}, {}, 0, "t_plus_1"),
        ({"target": 0, "amount": 300, "cap": 0}, {}, 0, "trade_cap"),
        ({"target": 0, "amount": 300, "free": 300 * (1 - 1e-9)}, {}, -300 * (1 - 1e-9), ""),  # float noise is no lot
        ({"target": 0, "amount": 300, "cap": 3000 * (1 - 1e-9)}, {}, -300, ""),
        ({"target": 2e3, "amount": 300, "cap": 1000 * (1 - 1e-9)}, {}, -100, ""),
        ({"target": 500, "amount": 1}, {}, 0, "below_lot"),
        ({"target": 1e3}, {"capital": 1e3 - 0.01}, 0, "below_lot"),  # a cent is no want of capital
        ({"target": 1}, {"capital": 0.0}, 0, "capital_clipped"),
        ({"target": 1}, {"cash": 0.0}, 0, "cash_clipped"),
        ({"target": 1e3}, {"cash": 1_000.01, "kind": Free}, 100, ""),  # the last yuan may go
        ({"target": 2e3}, {"cash": 1_999.985, "kind": Free}, 100, "cash_clipped"),
        ({"target": 2e3, "cap": 2e3 * (1 - 1e-9)}, {}, 200, ""),
        ({"target": 2e3, "cap": 500}, {}, 0, "below_lot"),
        ({"target": 2e3, "cap": 500}, {"cash": 100.0}, 0, "cash_clipped"),
        ({"target": 900, "amount": 90}, {"kind": Spread}, 0, ""),  # 720 at the bid, 900 at the ask
        ({"target": 0, "shares": 200.0, "amount": 100}, {"kind": Spread}, 200, ""),  # told in shares, at any price
        ({"target": 0, "shares": -100.0, "amount": 300}, {"kind": Spread}, -100, ""),
        ({"target": 9e9, "shares": -400.0, "amount": 300}, {"kind": Spread}, -300, ""),
    ],
)
def test_the_edges_of_a_plan(stock, options, shares, reason):
    stock, options = {"amount": 0.0, "cap": 1e9, "shares": NAN} | stock, {"cash": 1e6, "capital": math.inf} | options
    desk = options.pop("kind", Desk)(locked=options.pop("locked", ()))
    one = Line("S", 1.0, stock["target"], stock["amount"], stock.get("free", stock["amount"]), stock["cap"])
    one.shares = stock["shares"]
    orders = Planner(Market(desk, SPAN, {}), {}.__getitem__, **options).plan([one])
    assert sum(x.amount if x.direction == 1 else -x.amount for x in orders) == shares and len(orders) == (shares != 0)
    assert one.reason == reason


def test_a_stock_that_does_not_trade_and_is_not_held_has_no_price():
    one = line("S", 5e3)
    planner = Planner(Market(Desk(suspended=["S"]), SPAN, {}), {}.__getitem__, 1e6, math.inf)
    assert planner.plan([one]) == [] and (one.price, one.held, one.reason) == (0.0, 0.0, "blocked_buy")


def test_lines_without_caps_or_sellable_shares():
    assert plans.make_lines(pd.Series({"A": 0.5}), {}, {"B": 3.0}, {}, {}, lambda code: code == "B") == [
        Line("B", pytest.approx(NAN, nan_ok=True), 0.0, 3.0, 3.0, pytest.approx(NAN, nan_ok=True), True, shares=ANY),
        Line("A", pytest.approx(NAN, nan_ok=True), 0.5, 0.0, 0.0, pytest.approx(NAN, nan_ok=True), False, shares=ANY),
    ]


class Asked:
    """An exchange that notes what it is asked."""

    def __init__(self, **answers):
        self.asked, self.answers = [], answers

    def __getattr__(self, name):
        if name not in self.answers:
            raise AttributeError(name)

        def answer(*arguments, **options):
            self.asked.append((name, arguments, options))
            return self.answers[name]

        return answer


def test_what_an_exchange_is_asked_of_a_step():
    desk = Asked(
        check_stock_suspended=np.False_, is_stock_tradable=np.True_, get_deal_price=np.float64(9.0), smallest_order=200,
        get_amount_of_trade_unit=1, trade_cost=np.float64(3.0), unknown="unknown_volatility",
    )  # fmt: skip
    quotes = Market(desk, SPAN, {})
    assert (quotes.suspended("A"), quotes.tradable("A", 1), quotes.price("A", 0)) == (False, True, 9.0)
    assert (quotes.lots("A"), quotes.cost("A", 5.0, sell=True)) == ((200.0, 1.0), 3.0)
    assert quotes.unknown("A") == "unknown_volatility"
    assert desk.asked == [
        ("check_stock_suspended", ("A", *SPAN), {}),
        ("is_stock_tradable", ("A", *SPAN), {"direction": 1}),
        ("get_deal_price", ("A", *SPAN, 0), {}),
        ("get_amount_of_trade_unit", (None, "A", *SPAN), {}),
        ("smallest_order", ("A", *SPAN), {}),
        ("trade_cost", ("A", *SPAN, 5.0), {"sell": True}),
        ("unknown", ("A", *SPAN), {}),
    ]
    assert Market(Asked(get_amount_of_trade_unit=None), SPAN, {}).lots("A") == (0.0, 0.0)  # no lots
    plain = Market(Asked(get_amount_of_trade_unit=50), SPAN, {})  # qlib's own: one unit
    assert plain.lots("A") == (50.0, 50.0) and plain.unknown("A") == "unknown_liquidity"


def test_the_last_close_in_place_of_an_exchange():
    rows = pd.DataFrame({"price": 0.5, "suspended": False, "step": 1.0, "least": 200.0}, index=list("ABCDEFGH"))
    rows = rows.assign(known_liquidity=0.5, volatility=0.02)
    rows.loc["B", "price"], rows.loc["C", "price"], rows.loc["D", "step"] = 0.0, NAN, 0.0
    rows.loc["E", "suspended"] = True
    rows.loc["F", "known_liquidity"], rows.loc["G", "known_liquidity"], rows.loc["H", "volatility"] = 0.0, NAN, math.inf
    fees, noted = Fees([DATE], open_cost=0.01, close_cost=0.02, minimum=0.0), []
    quotes = LastClose(rows, DATE, fees, lambda *asked: noted.append(asked) or 7.0)
    assert [code for code in rows.index if quotes.suspended(code)] == list("BCDE")
    assert [quotes.tradable(code, 1) for code in "ABF"] == [True, False, True]
    assert quotes.span == (DATE, DATE) and quotes.price("A") == 0.5 and quotes.lots("A") == (200.0, 1.0)
    assert [quotes.unknown(code) for code in "AFGH"] == ["", *["unknown_liquidity"] * 2, "unknown_volatility"]
    assert [quotes.cost(code, 100.0, sell=True) for code in "AFGH"] == [2.0 + 7.0, *[math.inf] * 3]
    assert quotes.cost("A", 300.0, sell=False) == 3.0 + 7.0
    assert noted == [(100.0, 0.5, 0.02), (300.0, 0.5, 0.02)]
    free = LastClose(rows, DATE, fees)
    assert [free.unknown(code) for code in "AFGH"] == [""] * 4 and free.cost("F", 100.0, sell=False) == 1.0


# --- the log, against the account


def test_every_step_of_the_log_is_that_of_the_account(market, traded):
    """Each entry and each row of the table anew, from scores, liquidity, opens and the account of the day before."""
    _, days, liquidity = market
    made, (_, positions), _ = traded
    codes, days = list(liquidity.columns), pd.DatetimeIndex(days)
    grids = {}
    for name in ("$open", "$close", "$factor"):
        grids[name] = D.features(codes, [name], days[0], days[-1]).iloc[:, 0].unstack("instrument").reindex(days)
    opened, lot = grids["$open"].reindex(columns=codes), 100 / grids["$factor"].reindex(columns=codes)
    known, tables = liquidity.ffill(), dict(list(made.daily_targets.groupby("date", sort=False)))
    before = {"target": pd.Series(dtype=float), "price": pd.Series(dtype=float)}
    kinds = list(summary([]))[4:]
    for entry in made.daily_log:
        day, row = entry["date"], days.get_loc(entry["date"])
        position = positions[days[row - 1]] if row > 21 else None
        cash = 2e8 if position is None else position.get_cash()
        amounts = pd.Series({} if position is None else position.get_stock_amount_dict(), dtype=float)
        last = pd.Series({code: position.get_stock_price(code) for code in amounts.index}, dtype=float)
        stocks = float((amounts * last).sum())
        now = tables[day].set_index("code")
        price = opened.loc[day].reindex(now.index).fillna(last).fillna(0.0)
        short = (now["target"] - now["held"] - now["ordered"]).clip(lower=0.0)
        unsent = now["reason"].isin(["blocked_buy", "unknown_liquidity"]) | (now["target"] <= now["held"])
        least = (lot.loc[day].reindex(now.index) * price).where(~unsent, 0.0).clip(lower=0.01)
        reached = (before["price"] * amounts.reindex(before["price"].index).fillna(0.0)).clip(upper=before["target"])
        expected = {
            "cash": cash, "value": cash + stocks, "held": stocks,
            "capital": cash + stocks, "target": now["target"].sum(),
            "cash_target": cash + stocks - now["target"].sum(), "names": (now["target"] > 0).sum(),
            "share_reached": reached.sum() / before["target"].sum() if row > 21 else NAN,
            "buy": now["ordered"].clip(lower=0).sum(), "sell": -now["ordered"].clip(upper=0).sum(),
            "unreached": short.sum(), "unreached_names": (short > least).sum(),
            **{kind: (now["reason"] == kind).sum() for kind in kinds},
        }  # fmt: skip
        told = {name: value for name, value in entry.items() if name not in ("date", "signal_date")}
        assert list(entry) == ["date", "signal_date", *expected] and entry["signal_date"] == days[row - 1]
        assert told == pytest.approx(expected, rel=1e-9, abs=1e-6, nan_ok=True)
        np.testing.assert_allclose(now["held"], amounts.reindex(now.index).fillna(0.0) * price, rtol=1e-6)
        np.testing.assert_allclose(now["cap"], 0.02 * known.loc[days[row - 1]].reindex(now.index), rtol=1e-9)
        assert set(now.index) >= set(amounts.index)
        before = {"target": now["target"], "price": price}
    assert made.daily_targets["reason"].isin(["", *kinds]).all() and len(made.daily_targets) > 500
    kept = made.artifacts()
    assert list(kept) == ["daily_log.pkl", "daily_targets.pkl"]
    pd.testing.assert_frame_equal(kept["daily_log.pkl"], pd.DataFrame(made.daily_log))
    pd.testing.assert_frame_equal(kept["daily_targets.pkl"], made.daily_targets)
    assert made.daily_targets.index.equals(pd.RangeIndex(len(made.daily_targets)))
    fresh = strategy()
    assert fresh.artifacts()["daily_targets.pkl"].columns.tolist() == list(made.daily_targets)
    assert fresh.artifacts()["daily_log.pkl"].empty and fresh.liquidity_frame is None


# --- what it asks of qlib


class Told(Signal):
    """A signal that tells one day at a time, and notes what it is asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def get_signal(self, start_time, end_time):
        self.asked.append((start_time, end_time))
        return self.answer


def test_a_signal_that_tells_one_day_at_a_time():
    start, end = pd.Timestamp("2022-01-04"), pd.Timestamp("2022-01-04 23:59:59")
    score = pd.Series({"SH600001": 2.0, "SH000300": 9.0, "SH600000": 1.0})
    for answer in (score, pd.DataFrame({"score": score, "other": -score})):
        chosen = LiquidityTopNStrategy(signal=(told := Told(answer)))
        seen = chosen.scores_at(start, end)
        assert told.asked == [(start, end)] and list(seen) == ["raw", "prepared"]
        assert seen["raw"].to_dict() == seen["prepared"].to_dict() == {"SH600000": 1.0, "SH600001": 2.0}
    for nothing in (None, score.iloc[:0], score[["SH000300"]]):
        assert LiquidityTopNStrategy(signal=Told(nothing)).scores_at(start, end) is None
    with pytest.raises(ValueError, match="LiquidityTopNStrategy: signal"):
        LiquidityTopNStrategy(signal=Told(score * math.inf)).scores_at(start, end)


def test_the_last_score_of_several_signal_days_holds():
    days = pd.DatetimeIndex(["2022-01-04", "2022-01-05", "2022-01-06"])
    grid = pd.DataFrame({"SH600000": [1.0, 2.0, 5.0], "SH600001": [3.0, NAN, 6.0]}, days).rename_axis(index="datetime")
    stacked = grid.rename_axis(columns="instrument").stack(future_stack=True).dropna()
    seen = LiquidityTopNStrategy(signal=stacked).scores_at(*days[:2])
    assert seen["raw"].to_dict() == seen["prepared"].to_dict() == {"SH600000": 2.0, "SH600001": 3.0}
    assert LiquidityTopNStrategy(signal=stacked).scores_at(days[2] + DAY, days[2] + DAY) is None


DAY = pd.Timedelta(days=1)


class Clock:
    """A calendar of qlib by hand: steps begin at `starts`, and end a second before the next."""

    def __init__(self, *starts, step=0, until="2022-01-31"):
        self.starts, self.step, self.until = [pd.Timestamp(x) for x in starts], step, pd.Timestamp(until)

    def get_trade_step(self):
        return self.step

    def get_step_time(self, step=None, shift=0):
        at = (self.step if step is None else step) - shift + 1  # the first is before the backtest
        assert at >= 0
        return self.starts[at], self.starts[at + 1] - pd.Timedelta(seconds=1)

    def get_all_time(self):
        return self.starts[1], self.until


def on(clock, exchange=None, **options):
    options = {"signal": ONE, "level_infra": SimpleNamespace(get={"trade_calendar": clock}.get)} | options
    return LiquidityTopNStrategy(trade_exchange=exchange or SimpleNamespace(end_time=None), **options)


BARS = ["2022-01-04 09:30", "2022-01-04 10:30", "2022-01-05 09:30", "2022-01-05 10:30", "2022-01-06 09:30"]


@pytest.mark.parametrize(
    ("clock", "times"),
    [
        (Clock("2022-01-04", "2022-01-05", "2022-01-07"), ("01-05", "01-06 23:59:59", "01-04", "01-04 23:59:59")),
        (Clock(*BARS, step=1), ("01-05 09:30", "01-05 10:29:59", "01-04", "01-04 23:59:59")),
        (Clock(*BARS, step=2), ("01-05 10:30", "01-05 23:59:59", "01-04", "01-04 23:59:59")),
    ],
)  # fmt: skip
def test_a_step_and_the_signal_that_it_follows(clock, times):
    span, seen = on(clock)._times()
    assert (*span, *seen) == tuple(pd.Timestamp(f"2022-{text}") for text in times)


def shares_exchange(end, liquidity):
    """An AShareExchange that knows its turnover's profile alone."""
    exchange = AShareExchange.__new__(AShareExchange)
    rules, options = SimpleNamespace(profile="community"), SimpleNamespace(liquidity=liquidity)
    vars(exchange).update(end_time=end, day_rules=rules, options=options)
    return exchange


def test_what_liquidity_is_loaded(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "qlib_ext.strategy.policy_strategy.load_liquidity", lambda *names, **options: asked.append((names, options))
    )
    clock, until = Clock("2022-01-04", "2022-01-05", "2022-01-06"), pd.Timestamp("2022-01-31")
    first, quoted = pd.Timestamp("2022-01-04"), SimpleNamespace(get_all_stock=lambda: ["SH600007", "SH000300"])
    own, named = shares_exchange("2022-02-28", "auto"), shares_exchange("2022-01-01", "$amount*1000")
    codes = ["SH600001", "SH600000", "SH000300"]
    index = pd.MultiIndex.from_product([[first], codes], names=["datetime", "instrument"])
    account = SimpleNamespace(current_position=SimpleNamespace(get_stock_list=lambda: ["SH600009"]))
    listed = ["SH600000", "SH600001", "SH600009"]
    for signal, exchange, options, expected in (
        (pd.Series(1.0, index), SimpleNamespace(end_time=None), {}, (listed, until, "auto", 20)),
        (pd.Series(1.0, index), own, {}, (listed, pd.Timestamp("2022-02-28"), "community", 20)),
        (pd.Series(1.0, index), named, {}, (listed, until, "auto", 20)),
        (pd.Series(1.0, index), own, {"liquidity": "$amount", "liquidity_window": 7},
            (listed, pd.Timestamp("2022-02-28"), "$amount", 7)),
        (Told(None), SimpleNamespace(end_time=None, quote=quoted), {}, (["SH600007", "SH600009"], until, "auto", 20)),
    ):  # fmt: skip
        common = SimpleNamespace(get={"trade_account": account}.get)
        on(clock, exchange, signal=signal, common_infra=common, **options)._load()
        codes, last, profile, window = expected
        assert asked.pop() == ((codes, first, last), {"profile": profile, "window": window, "past": True})


def test_the_liquidity_of_a_signal_day():
    days = pd.DatetimeIndex(["2022-01-04", "2022-01-06", "2022-01-10"])
    frame = pd.DataFrame({"A": [1.0, NAN, 3.0], "B": [4.0, 0.0, NAN]}, days)
    chosen = strategy(liquidity_frame=frame.iloc[::-1])
    for first, last, row, known in (
        ("2022-01-04", "2022-01-04 23:59:59", 0, [1.0, 4.0]),
        ("2022-01-04", "2022-01-07", 1, [1.0, 4.0]),
        ("2022-01-10", "2022-01-10", 2, [3.0, 4.0]),
    ):
        day, today, carried = chosen._liquidity_at(pd.Timestamp(first), pd.Timestamp(last))
        assert day == days[row] and today.equals(frame.loc[day]) and carried.tolist() == known
    empty = strategy(liquidity_frame=frame[:0])
    for day, own in (("2022-01-03", chosen), ("2022-01-05", chosen), ("2022-01-05", empty)):
        told = "3 days, 2022-01-04 to 2022-01-10" if own is chosen else "0 days"
        with pytest.raises(ValueError, match=f"no liquidity for {day}, a signal day; the frame has {told}. Give"):
            own._liquidity_at(pd.Timestamp(day), pd.Timestamp(day))


def test_who_is_kept_by_min_holding(monkeypatch):
    days = pd.bdate_range("2022-01-03", periods=5)
    monkeypatch.setattr("qlib_ext.strategy.policy_strategy.calendar", lambda: days)
    for least, young in ((0, []), (1, ["D4"]), (2, ["D3", "D4"]), (3, ["D2", "D3", "D4"])):
        chosen = strategy(min_holding=least)
        chosen._book = Book(day=days[4], since={f"D{n}": days[n] for n in range(5)})
        assert [code for code in [*chosen._book.since, "OLD"] if chosen._is_young(code)] == young


def test_a_trade_of_yuan_in_shares():
    assert in_shares(300.0, 50.0, 600.0, 650.0) == 25.0 and in_shares(300.0, -50.0, 600.0, 550.0) == -25.0
    assert in_shares(300.0, -600.0, 600.0, 0.0) == -300.0 and in_shares(300.0, 0.0, 0.0, 0.0) == -300.0
    assert in_shares(0.4, 0.25, 0.5, 0.75) == 0.2 and in_shares(300.0, -599.0, 600.0, 1.0) == -299.5
    assert math.isnan(in_shares(0.0, 50.0, 0.0, 50.0))


def test_options_at_their_ends():
    for option in ({"trade_participation": 1.0}, {"min_holding": 0}, {"liquidity_window": 1}):
        strategy(**option)
    for option in ({"trade_participation": 0.0}, {"trade_participation": 1.1}, {"liquidity_window": 0}):
        with pytest.raises(ValueError, match=f"LiquidityTopNStrategy: {next(iter(option))} is "):
            strategy(**option)
    assert strategy(trade_participation=None).trade_participation == 1e9
    for signal in (ONE * math.inf, SignalWCache(ONE * math.inf)):
        with pytest.raises(ValueError, match="LiquidityTopNStrategy: signal"):
            LiquidityTopNStrategy(signal=signal)


def test_a_liquidity_frame_leaves_no_effect_to_other_options():
    frame, word = pd.DataFrame({"SH600000": [1.0]}, [DATE]), "no effect beside liquidity_frame"
    for option in ({"liquidity": "community"}, {"liquidity_window": 21}):
        with pytest.warns(UserWarning, match=f"LiquidityTopNStrategy: .*{word}"):
            strategy(liquidity_frame=frame, **option)
        with warnings.catch_warnings(action="error"):
            strategy(**option), strategy(liquidity_frame=frame)


# --- a whole step of a policy, by hand


class Noting:
    """A policy that doubles the scores, wants what it is told, and notes the day that it sees."""

    def __init__(self, wanted, capital=None, in_shares=False):
        self.wanted, self.capital, self.in_shares, self.seen = np.array(wanted), capital, in_shares, []

    def prepare(self, score):
        return 2.0 * score

    def target(self, day):
        self.seen.append(day)
        return self.wanted


def one_step(policy, **options):
    """(strategy, orders) of a step on a Desk; held are 100 of SH600000 and 200 of SH600003, last prices 7."""
    days = pd.DatetimeIndex(["2022-01-03", "2022-01-04", "2022-01-05", "2022-01-06"]).rename("datetime")
    grid = pd.DataFrame([[9.0, 9.0, 9.0, NAN], [3.0, 1.0, NAN, 9.0]], days[:2])
    grid.columns = pd.Index(["SH600000", "SH600001", "SH600002", "SH000300"], name="instrument")
    frame = pd.DataFrame({"SH600000": [1e6, 1e6], "SH600001": [2e6, NAN], "SH600003": [5e5, 0.0]}, days[:2])
    held = {"SH600003": 200.0, "SH600000": 100.0}
    position = SimpleNamespace(
        get_stock_list=lambda: list(held), get_stock_amount=held.__getitem__, get_stock_price=lambda code: 7.0,
        calculate_value=lambda: 7_100.0, calculate_stock_value=lambda: 2_100.0, get_cash=lambda: 5_000.0,
    )  # fmt: skip
    account, clock = SimpleNamespace(current_position=position), Clock(*days[1:])
    made = PolicyStrategy(
        policy, signal=grid.stack(future_stack=True).dropna(), liquidity_frame=frame, trade_exchange=Desk(),
        level_infra=SimpleNamespace(get={"trade_calendar": clock}.get),
        common_infra=SimpleNamespace(get={"trade_account": account}.get), **options,
    )  # fmt: skip
    orders = made.generate_trade_decision().order_list
    span = (days[2], days[3] - pd.Timedelta(seconds=1))
    assert all((x.start_time, x.end_time) == span for x in orders)
    return made, [(x.stock_id, x.amount if x.direction == 1 else -x.amount) for x in orders]


def test_a_step_of_a_policy_by_hand():
    # SH600000: 3,000 - 1,000 at 10; SH600001: 1,000; SH600003 has no score and goes. Cash 5,000 + 2,000 - 40 - 3,030
    policy = Noting([3_000.0, 1_000.0, 0.0, 0.0])
    made, orders = one_step(policy)
    assert orders == [("SH600003", -200.0), ("SH600000", 200.0), ("SH600001", 100.0)]
    (seen,) = policy.seen
    for name, expected in {
        "score": [6.0, 2.0, NAN, NAN], "held": [700.0, 0.0, 0.0, 1_400.0], "liquidity": [1e6, NAN, NAN, 0.0],
        "known_liquidity": [1e6, 2e6, NAN, 5e5], "volatility": [NAN] * 4, "universe": [True, True, False, False],
    }.items():  # fmt: skip
        np.testing.assert_array_equal(getattr(seen, name), expected, err_msg=name)
    assert (seen.value, seen.buy_rate, seen.sell_rate) == (7_100.0, 0.01, 0.02)
    (entry,) = made.daily_log
    assert math.isnan(entry.pop("share_reached"))
    assert entry == {**summary([]), **{
        "date": pd.Timestamp("2022-01-05"), "signal_date": pd.Timestamp("2022-01-04"), "cash": 5_000.0,
        "value": 7_100.0, "held": 2_100.0, "capital": 7_100.0, "target": 4_000.0, "cash_target": 3_100.0, "names": 2,
        "buy": 3_000.0, "sell": 2_000.0,
    }}  # fmt: skip
    date = pd.Timestamp("2022-01-05")
    assert made.daily_targets.fillna(-1.0).to_numpy().tolist() == [
        [date, "SH600003", -1.0, 0.0, 2_000.0, -2_000.0, 25_000.0, ""],
        [date, "SH600000", 1.0, 3_000.0, 1_000.0, 2_000.0, 50_000.0, ""],
        [date, "SH600001", 2.0, 1_000.0, 0.0, 1_000.0, 100_000.0, ""],
    ]
    assert made._book.prices == dict.fromkeys(["SH600000", "SH600001", "SH600003"], 10.0)
    assert made._book.target == {"SH600003": 0.0, "SH600000": 3_000.0, "SH600001": 1_000.0}
    small, _ = one_step(Noting([0.5, 0.0, 0.0, 0.0]), trade_participation=1.0)
    assert small.daily_targets.set_index("code")["target"].to_dict() == {"SH600003": 0.0, "SH600000": 0.5}
    assert small.daily_targets.set_index("code").loc["SH600000", ["rank", "cap"]].tolist() == [1.0, 1e6]
    assert small.daily_log[0]["names"] == 1


def test_the_capital_of_a_policy_bounds_its_buys():
    # 3,500 of capital: SH600003 is gone, SH600000 takes 1,000 + 2,000, 500 are too few for SH600001
    made, orders = one_step(Noting([3_000.0, 1_000.0, 0.0, 0.0], capital=3_500.0))
    assert orders == [("SH600003", -200.0), ("SH600000", 200.0)]
    assert made.daily_targets["reason"].tolist() == ["", "", "capital_clipped"]
    assert (made.daily_log[0]["capital"], made.daily_log[0]["cash_target"]) == (3_500.0, -500.0)


def test_a_policy_in_shares_leaves_alone_what_it_does_not_trade():
    # SH600000 stays, and takes up 700 of the capital; of SH600003 half goes, 100 at 10 stay: 2,600 - 1,700 = 900
    policy = Noting([700.0, 1_000.0, 0.0, 700.0], capital=2_600.0, in_shares=True)
    made, orders = one_step(policy)
    assert orders == [("SH600003", -100.0)]
    told = made.daily_targets[["code", "target", "reason"]].to_numpy().tolist()
    assert told == [["SH600001", 1_000.0, "capital_clipped"], ["SH600003", 1_000.0, ""]]
    roomy = Noting([700.0, 1_000.0, 0.0, 700.0], capital=2_700.0, in_shares=True)
    assert one_step(roomy)[1] == [("SH600003", -100.0), ("SH600001", 100.0)]
    assert one_step(Noting([700.0, 0.0, 0.0, 0.0], in_shares=True))[1] == [("SH600003", -200.0)]


def test_days_without_a_score_are_left_out():
    days = pd.DatetimeIndex(["2022-01-04", "2022-01-05", "2022-01-06"], name="datetime")
    grid = pd.DataFrame({"SH600000": [1.0, NAN, NAN], "SH600001": [NAN, NAN, 2.0], "SZ399300": [NAN, 5.0, 6.0]}, days)
    chosen = PolicyStrategy(Noting([]), signal=ONE)
    raw, prepared = chosen._prepared(grid.rename_axis(columns="instrument").stack(future_stack=True))
    assert raw.index.tolist() == [days[0], days[2]] and raw.columns.tolist() == ["SH600000", "SH600001"]
    pd.testing.assert_frame_equal(prepared, 2.0 * raw)
    assert chosen._told and not PolicyStrategy(Noting([]), signal=ONE)._told


def test_fees_of_a_step_as_shares():
    exchange = shares_exchange("2022-02-28", "auto")
    assert on(Clock(DATE), Desk())._rates(DATE) == (0.01, 0.02)
    exchange.fee_rates = lambda start: (start, "sell")
    assert on(Clock(DATE), exchange)._rates(DATE) == (DATE, "sell")
