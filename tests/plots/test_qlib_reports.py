"""qlib's own report functions draw the artifacts of our runs, with our numbers (`make test-plots`).

They need pandas 2 and plotly 6, which the package itself does not: in the usual environment this file is skipped. One
small run on the embedded market is made for all tests; every figure is compared with an artifact or a slow loop.
"""

from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pandas as pd
import pytest

WANTED = {"pandas": "2", "plotly": "6", "statsmodels": "0"}


def _major(name):
    try:
        return version(name).split(".")[0]
    except PackageNotFoundError:
        return None


if any(_major(name) != major for name, major in WANTED.items()):
    pytest.skip(f"qlib's report functions need {WANTED}: make test-plots", allow_module_level=True)

import plotly.graph_objects as go  # noqa: E402
import qlib  # noqa: E402
from qlib.contrib.report import analysis_model, analysis_position  # noqa: E402
from qlib.data import D  # noqa: E402
from qlib.model.trainer import task_train  # noqa: E402

from qlib_ext.synthetic import make_market  # noqa: E402

TEST = ("2020-09-14", "2020-12-24")
NEXT_DAY = "Ref($close, -1)/$close - 1"


def task():
    """A model, its backtest on AShareExchange, and qlib's signal analysis."""
    handler = {
        "class": "FastAlpha158",
        "module_path": "qlib_ext.handler",
        "kwargs": {
            "start_time": "2020-03-02",
            "end_time": TEST[1],
            "fit_start_time": "2020-03-02",
            "fit_end_time": "2020-07-31",
            "instruments": "all",
            "infer_processors": [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}],
            "learn_processors": [],
        },
    }
    segments = {"train": ("2020-03-02", "2020-07-31"), "valid": ("2020-08-03", "2020-09-11"), "test": TEST}
    exchange = {"class": "AShareExchange", "module_path": "qlib_ext.exchange", "kwargs": {"participation": 0.05}}
    strategy = {"signal": "<PRED>", "capital": 50e6, "participation": 0.05, "trade_participation": 0.05}
    backtest = {
        "start_time": TEST[0],
        "end_time": TEST[1],
        "account": 50e6,
        "benchmark": "SH000300",
        "exchange_kwargs": {"exchange": exchange},
    }
    book = {
        "strategy": {"class": "LiquidityTopNStrategy", "module_path": "qlib_ext.strategy", "kwargs": strategy},
        "backtest": backtest,
    }
    return {
        "model": {
            "class": "MLPModel",
            "module_path": "qlib_ext.model",
            "kwargs": {"hidden": [32, 16], "target": "rank", "metric": "rank_ic", "epochs": 1, "seed": 0},
        },
        "dataset": {
            "class": "DayDatasetH",
            "module_path": "qlib_ext.data",
            "kwargs": {"handler": handler, "segments": segments, "step_len": 1, "liquidity": "auto"},
        },
        "record": [
            {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
            {"class": "SigAnaRecord", "module_path": "qlib.workflow.record_temp"},
            {"class": "PortAnaRecord", "module_path": "qlib_ext.record", "kwargs": {"config": book}},
        ],
    }


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    manager = {
        "class": "SqliteExpManager",
        "module_path": "qlib_ext.recorder",
        "kwargs": {"uri": f"sqlite:///{folder}/mlruns.db", "default_exp_name": "reports"},
    }
    market = make_market(folder / "market", n_stocks=40, years=1.0, seed=7)
    qlib.init(provider_uri=str(market), region="cn", exp_manager=manager, kernels=1)
    return task_train(task(), experiment_name="reports")


@pytest.fixture(scope="module")
def report(recorder):
    return recorder.load_object("portfolio_analysis/report_normal_1day.pkl")


@pytest.fixture(scope="module")
def positions(recorder):
    return recorder.load_object("portfolio_analysis/positions_normal_1day.pkl")


@pytest.fixture
def scored(recorder):
    """(score, label) by (instrument, datetime), as qlib's functions want it."""
    label = recorder.load_object("label.pkl").set_axis(["label"], axis=1)
    return recorder.load_object("pred.pkl").join(label).swaplevel().sort_index()


@pytest.fixture
def next_day(positions):
    """Return of the day after by (instrument, datetime), of all stocks: what qlib's position figures take as label."""
    days = sorted(positions)
    return D.features(D.instruments("all"), [NEXT_DAY], days[0], days[-1]).set_axis(["label"], axis=1)


def traces(figures):
    """Traces of all figures by the name of their column (qlib writes spaces); each figure has some."""
    figures = [figures] if isinstance(figures, go.Figure) else list(figures)
    assert figures and all(isinstance(figure, go.Figure) and len(figure.data) for figure in figures)
    return {trace.name.replace(" ", "_"): trace for figure in figures for trace in figure.data if trace.name}


def numbers(values):
    return np.asarray(values, dtype=float)


def test_the_run_traded(report, positions):
    assert len(report) == len(positions) > 60
    assert report["turnover"].sum() > 1
    assert max(len(position.get_stock_list()) for position in positions.values()) > 5


def test_report_graph_ends_where_the_report_does(report):
    drawn = traces(analysis_position.report_graph(report, show_notebook=False))
    ends = {
        "cum_bench": report["bench"].sum(),
        "cum_return_wo_cost": report["return"].sum(),
        "cum_return_w_cost": (report["return"] - report["cost"]).sum(),
        "cum_ex_return_w_cost": (report["return"] - report["bench"] - report["cost"]).sum(),
        "turnover": report["turnover"].iloc[-1],
    }
    assert len(drawn) == 10
    for name, end in ends.items():
        assert numbers(drawn[name].y)[-1] == pytest.approx(end, abs=1e-12), name
    assert len(drawn["turnover"].y) == len(report) + 1  # and the day before the first one
    assert numbers(drawn["return_w_cost_mdd"].y).min() < 0


def test_score_ic_graph_draws_the_ic_artifacts(recorder, scored):
    drawn = traces(analysis_position.score_ic_graph(scored, show_notebook=False))
    for name, artifact in (("ic", "ic"), ("rank_ic", "ric")):
        kept = recorder.load_object(f"sig_analysis/{artifact}.pkl").dropna()
        shown = pd.Series(numbers(drawn[name].y), pd.DatetimeIndex(drawn[name].x)).dropna()
        assert len(kept) > 60
        pd.testing.assert_series_equal(shown, kept, check_names=False, check_freq=False, check_index_type=False)


def test_cumulative_return_graph_of_held_stocks_is_the_loop(report, positions, next_day):
    label = next_day["label"]
    drawn = traces(analysis_position.cumulative_return_graph(positions, report, next_day.copy(), show_notebook=False))
    days, total, curve = sorted(positions), 0.0, []
    bench = report["bench"].shift(-1)  # of the day that the label is of
    for before, day in zip([None, *days[:-1]], days[:-1], strict=False):
        book = positions[day]
        held = set() if before is None else set(positions[before].get_stock_list())
        old = held or set(book.get_stock_list())  # qlib takes a day without stocks for one on which it holds them all
        value = {c: book.get_stock_amount(c) * book.get_stock_price(c) for c in book.get_stock_list()}
        excess = {c: label.get((c, day), np.nan) - bench[day] for c in value if c in old}
        known = {c: gain for c, gain in excess.items() if np.isfinite(gain)}
        weight = sum(value[c] for c in known)
        total += sum(value[c] * gain for c, gain in known.items()) / weight if weight else 0.0
        curve.append((day, total))
    shown = dict(zip(drawn["cum_hold"].x, numbers(drawn["cum_hold"].y), strict=True))
    assert len(shown) > 60
    mine = {f"{day:%Y-%m-%d}": value for day, value in curve}
    assert [shown[day] for day in shown] == pytest.approx([mine[day] for day in shown], abs=1e-7)  # labels are float32
    assert {"cum_buy", "cum_sell", "cum_buy_minus_sell", "buy_weight", "hold_weight"} <= set(drawn)


def test_rank_label_graph_of_held_stocks_is_the_loop(positions, next_day):
    drawn = traces(analysis_position.rank_label_graph(positions, next_day.copy(), show_notebook=False))
    assert {"Hold", "Buy", "Sell"} <= set(drawn)
    shown = dict(zip(drawn["Hold"].x, numbers(drawn["Hold"].y), strict=True))
    days, compared = sorted(positions), 0
    for before, day in zip(days[:-1], days[1:], strict=True):
        today = next_day["label"].xs(day, level="datetime")
        old = set(positions[before].get_stock_list()) & set(positions[day].get_stock_list()) & set(today.index)
        places = (today.rank(ascending=False) / len(today) * 100)[sorted(old)].dropna()
        if len(places):
            assert shown[f"{day:%Y-%m-%d}"] == pytest.approx(places.mean()), day
            compared += 1
    assert compared > 60


def test_risk_analysis_graph_draws_the_table_and_the_months(recorder, report):
    table = recorder.load_object("portfolio_analysis/port_analysis_1day.pkl")
    figures = analysis_position.risk_analysis_graph(table, report, show_notebook=False)
    bars, *months = figures
    drawn = {name: dict(zip(trace.x, numbers(trace.y), strict=True)) for name, trace in traces([bars]).items()}
    for name in ("annualized_return", "max_drawdown", "information_ratio", "std"):
        for kind in ("excess_return_without_cost", "excess_return_with_cost"):
            assert drawn[name][kind] == pytest.approx(float(table.loc[(kind, name), "risk"])), (name, kind)
    assert len(months) == 4
    of_november = (report["return"] - report["bench"] - report["cost"]).loc["2020-11"]
    by_title = {figure.layout.title.text: traces(figure) for figure in months}
    line = by_title["std"]["excess_return_with_cost_std"]
    shown = dict(zip(line.x, numbers(line.y), strict=True))
    assert shown["2020-11"] == pytest.approx(of_november.std(ddof=1))


def test_model_performance_graph_draws_groups_ic_and_autocorrelation(recorder, scored):
    figures = analysis_model.model_performance_graph(scored.copy(), show_notebook=False)
    drawn = traces(figures)
    ic = recorder.load_object("sig_analysis/ic.pkl").dropna()
    bars = next(trace for figure in figures for trace in figure.data if trace.name == "IC" and trace.type == "bar")
    assert numbers(bars.y)[np.isfinite(numbers(bars.y))] == pytest.approx(ic.to_numpy())
    first = 0.0
    for _, day in scored.groupby(level="datetime"):
        best = day.sort_values("score", ascending=False)["label"].iloc[: len(day) // 5]
        first += best.mean() if best.notna().any() else 0.0
    group = next(trace for figure in figures for trace in figure.data if trace.name == "Group1")
    shown = numbers(group.y)
    assert shown[np.isfinite(shown)][-1] == pytest.approx(first)
    heat = next(trace for figure in figures for trace in figure.data if trace.type == "heatmap")
    shown = numbers(heat.z)
    assert shown[0][list(heat.x).index("10")] == pytest.approx(ic.loc["2020-10"].mean())
    assert len(drawn) >= 9
