"""The strategy's targets and caps, and the classes of `qlib_init`."""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.backtest import backtest
from qlib.data import D

from qlib_ext.portfolio import fill_top_n
from qlib_ext.synthetic import make_market

if importlib.util.find_spec("qlib_ext.data") is None:
    stub = types.ModuleType("qlib_ext.data")
    stub.load_liquidity = None
    sys.modules["qlib_ext.data"] = stub

from qlib_ext.strategy import LiquidityTopNStrategy  # noqa: E402

NOTHING = pd.Series(dtype=float, index=pd.MultiIndex.from_arrays([[], []], names=["datetime", "instrument"]))
CODES = [f"SH60000{i}" for i in range(4)]


def strategy(**options):
    return LiquidityTopNStrategy(signal=NOTHING, **options)


@pytest.mark.parametrize("top_n", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_target_is_fill_top_n_to_the_yuan(seed, top_n):
    rng = np.random.default_rng(seed)
    codes = [f"S{i}" for i in range(50)]
    score = pd.Series(np.round(rng.normal(size=50), 1), codes)  # with ties
    liquidity = pd.Series(rng.lognormal(17, 1, 50), codes)
    score.iloc[3], liquidity.iloc[7] = np.nan, np.nan
    target = strategy(top_n=top_n).target_yuan(score, liquidity.sample(frac=1, random_state=seed), 5e7, codes[:9])
    expected = fill_top_n(score.to_numpy(), liquidity.to_numpy(), capital=5e7, top_n=top_n)
    np.testing.assert_array_equal(target.to_numpy(), expected)
    assert 0 < target.sum() <= 5e7 + 1


def test_rank_buffer_keeps_a_held_stock():
    # Caps of 50 each, 100 to place: ranks 1 2 3 4; the held fourth comes to 4/2 = 2 and wins the tie.
    score, liquidity = pd.Series([4.0, 3.0, 2.0, 1.0], CODES), pd.Series(1000.0, CODES)
    plain = strategy().target_yuan(score, liquidity, 100.0, [CODES[3]])
    kept = strategy(rank_buffer=2).target_yuan(score, liquidity, 100.0, [CODES[3]])
    assert plain.tolist() == [50, 50, 0, 0]
    assert kept.tolist() == [50, 0, 0, 50]


def test_misspelt_and_impossible_options():
    with pytest.raises(TypeError, match="'particpation'.*participation"):
        strategy(particpation=0.1)
    with pytest.raises(ValueError, match="rank_buffer is 0.5"):
        strategy(rank_buffer=0.5)


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
        days[:24], liquidity, score, trade_participation=10.0, capital=3e7, liquidity_window=5
    )
    first = [(order, value, price) for order, value, _, price in fills if order.start_time == days[21]]
    expected = fill_top_n(score[days[20]].to_numpy(), liquidity.loc[days[20]].to_numpy(), capital=3e7)
    expected = pd.Series(expected, liquidity.columns)
    assert made.daily_log[0]["target"] == pytest.approx(expected.sum(), abs=1)
    assert first
    for order, value, price in first:
        lot = 100 / order.factor * price
        assert expected[order.stock_id] - lot <= value <= expected[order.stock_id] + 1


def test_a_signal_day_without_liquidity_is_an_error(market):
    _, days, liquidity = market
    with pytest.raises(ValueError, match="no liquidity for"):
        run_backtest(days, liquidity.iloc[:30], random_scores(days, liquidity.columns))


def test_liquidity_is_loaded_once(market, monkeypatch):
    _, days, liquidity = market
    calls = []

    def load(codes, start, end, *, profile, window):
        calls.append((codes, profile, window))
        assert start < days[20] and end >= days[-2]
        return liquidity[codes]

    monkeypatch.setattr("qlib_ext.strategy.load_liquidity", load)
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
