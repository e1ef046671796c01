"""The strategy's targets and caps, and the classes of `qlib_init`."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import qlib
from hypothesis import given
from hypothesis import strategies as st
from qlib.backtest import backtest
from qlib.data import D

from qlib_ext.portfolio import Day, fill_top_n
from qlib_ext.strategy import Book, Line, LiquidityTopNStrategy, Market, Planner, summary, whole_lots
from qlib_ext.synthetic import make_market

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
    """An exchange that does not know the volatility of SH600001 and SH600002, and would not deal in them."""

    def trade_cost(self, code, start, end, yuan, *, sell):
        return math.inf if code in ("SH600001", "SH600002") else 0.01 * yuan

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
    assert step("2022-01-11", "2022-01-11 23:59:59", {"OLD": 4.0, "NEW": 5.0})
    assert book.sellable("NEW", 5.0) == 5.0 and book.left("NEW", 70.0) == 70.0 and book.days_held("NEW", days) == 2
    assert book.is_of(position, pd.Timestamp("2022-01-11")) and not book.is_of(position, pd.Timestamp("2022-01-10"))
    assert not book.is_of(object(), pd.Timestamp("2022-01-12"))


def test_the_share_of_the_target_that_was_reached():
    # target 100 and 300 at prices of 10 and 20; 5 and 20 shares are 50 of 100 and (400, so) 300 of 300: 350 of 400
    book = Book(target={"A": 100.0, "B": 300.0}, prices={"A": 10.0, "B": 20.0})
    assert book.share_reached({"A": 5.0, "B": 20.0, "C": 9.0}) == 350 / 400
    assert math.isnan(Book().share_reached({}))
