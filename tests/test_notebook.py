"""The notebook's way: evaluate(scores, dataset) gives a run's numbers to the last bit, and says what does not fit."""

import inspect
import io
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import test_data
from qlib.model.trainer import task_train

import qlib_ext as qx
from qlib_ext.evaluate import daily_metrics
from qlib_ext.panel import DEFAULT_LABEL
from qlib_ext.record import LiquidityRecord, MemoryRecorder, judge
from qlib_ext.runs import load_if_there
from qlib_ext.strategy import LiquidityTopNStrategy
from qlib_ext.synthetic import make_market

DAYS = {
    "train": ("2020-03-02", "2020-07-31"),
    "valid": ("2020-08-03", "2020-09-30"),
    "test": ("2020-10-09", "2020-11-30"),
}
TERMS = {"capital": 2e7, "participation": 0.04, "top_n": 10, "commission": 0.0002}
MODEL = {"hidden": [16, 8], "loss": "ic", "target": "rank", "metric": "ic", "epochs": 2, "device": "cpu", "seed": 3}
FOLDERS = ("portfolio_analysis", "liquidity_analysis")
CLOCKS = ("run_facts.pkl",)


def workflow(dataset):
    """A task with the same options as `TERMS`, written as a workflow has them."""
    home = {"module_path": "qlib_ext.record"}
    caps = {"participation": 0.04, "trade_participation": 0.04}
    dealt = {"deal_price": "close", "participation": 0.04, "commission": 0.0002}
    exchange = {"class": "AShareExchange", "module_path": "qlib_ext.exchange", "kwargs": dealt}
    config = {
        "strategy": {"kwargs": caps},
        "backtest": {"account": 2e7, "exchange_kwargs": {"exchange": exchange}},
    }
    return {
        "model": {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": MODEL},
        "dataset": dataset,
        "record": [
            {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
            {"class": "ForecastRecord", **home},
            {"class": "PortAnaRecord", **home, "kwargs": {"config": config}},
            {"class": "LiquidityRecord", **home, "kwargs": TERMS},
        ],
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A market that qlib is started on, and its data set."""
    folder = tmp_path_factory.mktemp("notebook")
    test_data.start_qlib(make_market(folder / "market", n_stocks=40, start="2020-01-02", years=1, seed=5), folder)
    return qx.day_dataset("all", **DAYS, features="alpha158", label=DEFAULT_LABEL, step_len=1, listing_age=0)


@pytest.fixture(scope="module")
def model(here):
    model = qx.MLPModel(**MODEL)
    model.fit(here)
    return model


@pytest.fixture(scope="module")
def scores(here, model):
    return model.predict(here)


@pytest.fixture(scope="module")
def recorder(here):
    """The same by a task, as qrun has it."""
    return task_train(workflow(here), experiment_name="notebook")


@pytest.fixture
def result(here, model, scores):
    return qx.evaluate(scores, here, model=model, **TERMS)


def same(ours, theirs, path):
    assert type(ours) is type(theirs), path
    if isinstance(ours, dict):
        assert list(ours) == list(theirs), path
        for name in ours:
            same(ours[name], theirs[name], f"{path}: {name}")
    elif isinstance(ours, pd.DataFrame):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True, obj=path)
    elif isinstance(ours, pd.Series):
        pd.testing.assert_series_equal(ours, theirs, check_exact=True, obj=path)
    elif isinstance(ours, str | float | int | list):
        assert ours == theirs, path


def test_every_artifact_and_metric_is_that_of_the_run_with_the_same_scores_to_the_last_bit(recorder, here, model):
    pred = recorder.load_object("pred.pkl")["score"]
    result = qx.evaluate(pred, here, model=model, **TERMS)
    metrics = result.metrics
    paths = [path for folder in FOLDERS for path in recorder.list_artifacts(folder) if path.endswith(".pkl")]
    assert len(paths) > 25
    for path in ["forecast.json", "forecast_scores.pkl", "label.pkl", *paths]:
        if not path.endswith("plan.pkl"):
            same(result.artifact(path), load_if_there(recorder, path), path)
    theirs = {name: value for name, value in recorder.list_metrics().items() if name in metrics}
    assert len(theirs) > 300 and metrics == theirs
    logged = {name for name in recorder.list_metrics() if "." in name}
    assert logged <= set(metrics)


def test_the_quick_account_is_that_of_the_run(result, recorder):
    same(result.account, recorder.load_object("portfolio_analysis/report_normal_1day.pkl"), "report")
    same(result.fills, recorder.load_object("portfolio_analysis/fills.pkl"), "fills")
    assert "portfolio_analysis/account.pkl" not in result.recorder.artifacts


def test_what_is_asked_for_is_computed_once_and_no_more(here, scores, model, monkeypatch):
    calls, inner = [], LiquidityRecord._generate
    monkeypatch.setattr(LiquidityRecord, "_generate", lambda self, **kw: calls.append(1) or inner(self, **kw))
    result = qx.evaluate(scores, here, model=model)
    assert repr(result).endswith(
        "37 test days 2020-10-09 to 2020-11-30, 40 stocks, 150 million yuan; computed: nothing yet)"
    )
    assert result.table is result.table and len(calls) == 1 and len(result.daily) == 37
    assert repr(result).endswith("computed: judge)")
    assert result.forecast.days > 0 and repr(result).endswith("computed: judge, forecast)")


def test_scores_of_a_csv_file_in_any_order_and_spelling_are_the_same(result, here, model, scores):
    table = scores.rename("alpha").reset_index().sample(frac=1.0, random_state=1)
    table["instrument"] = table["instrument"].str[2:] + "." + table["instrument"].str[:2]
    file = io.StringIO(table.to_csv(index=False))
    read = pd.read_csv(file, parse_dates=["datetime"]).set_index(["instrument", "datetime"])["alpha"].astype("float32")
    same(qx.evaluate(read, here, model=model, **TERMS).table, result.table, "table")


def test_scores_that_reach_over_valid_teach_the_forecast_as_the_model_does(result, here, model):
    whole = model.predict(here, slice(DAYS["train"][0], DAYS["test"][1]))
    other = qx.evaluate(whole, here, **TERMS)
    assert other.forecast == result.forecast and len(other.scores) == len(result.scores)
    same(other.account, result.account, "account")
    given = qx.evaluate(result.scores, here, past=model.predict(here, "valid"), **TERMS)
    assert given.forecast == result.forecast


def test_another_future_changes_no_order(here, model, scores):
    """Scores after the day of the signal do not change its orders."""
    day = "2020-11-10"
    other = scores.copy()
    other[other.index.get_level_values("datetime") > day] *= -1.0
    plans = [qx.evaluate(each, here, model=model, **TERMS).orders(day=day) for each in (scores, other)]
    pd.testing.assert_frame_equal(*plans)
    assert (plans[0]["side"] == "buy").any() and plans[0]["yuan"].sum() <= TERMS["capital"]


def test_orders_are_those_of_the_strategy_and_of_the_holdings(result):
    bought = result.orders()
    assert result._made == ["forecast"]
    held = bought[bought["side"] == "buy"].groupby("code", as_index=False)["shares"].sum()
    again = result.orders(held)
    assert again.loc[again["side"] == "buy", "yuan"].sum() < 0.5 * bought["yuan"].sum()


def test_a_plot_is_a_chart_of_the_page(result):
    pytest.importorskip("plotly")
    figure = result.plot("returns")
    assert result._made == ["judge"] and len(figure.data) > 1
    net = result.daily["capped_buyable_net"].dropna()
    lines = {trace.name: np.asarray(trace.y, dtype=float) for trace in figure.data}
    assert any(np.isclose(line[-1], 100 * net.sum()) or np.isclose(line[-1], net.sum()) for line in lines.values())
    assert len(result.plot().data) > 1 and "account" in result._made
    with pytest.raises(ValueError, match=r"unknown section 'retuns' \(did you mean 'returns'"):
        result.plot("retuns")
    with pytest.raises(ValueError, match="unknown chart of ic 'ic-yearly'.*ic-daily, ic-monthly"):
        result.plot("ic", "ic-yearly")


def test_the_page_is_written(result, tmp_path, capfd):
    pytest.importorskip("plotly")
    assert result.report(tmp_path / "page.html", title="mine") == tmp_path / "page.html"
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>mine" in text and "MLPModel" in text and 'data-row="capped_buyable_net"' in text
    with pytest.raises(OSError, match="cannot be written"):
        result.report(tmp_path / "nowhere" / "page.html")
    assert capfd.readouterr().out == ""


def test_the_summary_is_that_of_the_numbers(result):
    lines = result.summary.lines()
    assert 8 < len(lines) < 20 and lines[0].startswith("notebook: 37 days")
    assert result.summary.numbers["ic"] == result.diagnostics.loc["ic", "value"]


def test_without_plotly_plots_and_page_say_what_to_install(result, tmp_path, monkeypatch):
    monkeypatch.setattr("qlib_ext.record.evaluation.find_spec", lambda name: None)
    for ask in (result.plot, lambda: result.report(tmp_path / "page.html")):
        with pytest.raises(ImportError, match=r"pip install 'qlib_ext\[report\]'"):
            ask()
    assert result._made == []


def test_other_strategies_and_exchanges(here, model, scores):
    options = {"model": model, **TERMS}
    plain = qx.evaluate(scores, here, strategy=LiquidityTopNStrategy, **options)
    long = {"class": "LiquidityTopNStrategy", "module_path": "qlib_ext.strategy"}
    caps = {"participation": 0.04, "trade_participation": 0.04}
    same(plain.account, qx.evaluate(scores, here, strategy={**long, "kwargs": caps}, **options).account, "class")
    free = qx.evaluate(scores, here, strategy=LiquidityTopNStrategy, exchange={"impact": 0}, **options)
    assert free.fills["impact"].sum() == 0 < plain.fills["impact"].sum()
    narrow = qx.evaluate(scores, here, strategy={"max_weight": 0.01, "impact": 0.5}, **options)
    assert narrow.config["strategy"]["kwargs"]["trade_participation"] == 0.04
    assert narrow.account["account"].iloc[-1] != plain.account["account"].iloc[-1]


def test_run_is_fit_predict_evaluate(here, result):
    same(qx.run(qx.MLPModel(**MODEL), here, **TERMS).table, result.table, "table")


# --- what does not fit


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"captial": 1e7}, TypeError, "captial"),
        ({"capital": -1.0}, ValueError, "capital is -1.0"),
        ({"participation": 5}, ValueError, r"participation is 5; allowed: a number in \(0, 1\]"),
        ({"strategy": {"max_wieght": 0.1}}, TypeError, "strategy has no option 'max_wieght'; close: .'max_weight'"),
        ({"strategy": "topk"}, ValueError, "strategy is 'topk'; wanted are its options"),
        ({"strategy": {"class": "A", "options": {}}}, TypeError, "strategy has no option 'options'"),
        ({"exchange": {"deal_prise": "open"}}, TypeError, "exchange has no option 'deal_prise'; close: .'deal_price'"),
        ({"benchmark": 300}, ValueError, "benchmark is 300"),
    ],
)
def test_an_option_that_cannot_be_is_named_before_anything_is_computed(here, scores, options, error, words):
    with pytest.raises(error, match=words):
        qx.evaluate(scores, here, **options)
    if "captial" not in options:
        with pytest.raises(error, match=words):
            qx.run(None, here, **options)  # not even trained


def test_a_misspelt_option_of_run_is_named(here):
    with pytest.raises(TypeError, match="run has no option 'captial'; close: .'capital'"):
        qx.run(None, here, captial=1)


def test_days_and_codes_that_do_not_fit_are_told(here, model, scores):
    early = model.predict(here, "valid")
    with pytest.raises(
        ValueError, match="scores are of 2020-08-03 to .*, the segment test of 2020-10-09 to 2020-11-30"
    ):
        qx.evaluate(early, here)
    days, codes = (scores.index.get_level_values(name) for name in ("datetime", "instrument"))
    with pytest.warns(UserWarning, match="12 of 37 test days have no score, 2020-11-13 the first"):
        qx.evaluate(scores[days < "2020-11-13"], here, model=model)
    with pytest.warns(UserWarning, match="of the stocks in the data on the scored days have a score"):
        qx.evaluate(scores[codes < sorted(set(codes))[20]], here, model=model)
    names = {code: f"SH60{n:04}" for n, code in enumerate(sorted(set(codes)))}
    elsewhere = scores.rename(index=names, level="instrument")
    with pytest.raises(ValueError, match="of 40 codes with a score are not in the data"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _ = qx.evaluate(elsewhere, here, model=model).table
    shifted = scores.rename(index=lambda day: day + pd.Timedelta(days=1), level="datetime")
    with pytest.raises(ValueError, match="is no trading day"):
        qx.evaluate(shifted, here)
    with pytest.warns(UserWarning, match="no forecast, and the account trades by the simple rule: give model="):
        qx.evaluate(scores, here)


def test_scores_that_fit_are_told_nothing(here, model, scores):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "computed: nothing yet" in repr(qx.evaluate(scores, here, model=model))


def test_a_data_set_without_liquidity_is_refused(here, scores):
    bare = qx.DayDatasetH(here.handler, here.segments, step_len=1, liquidity=None)
    with pytest.raises(ValueError, match="needs a DayDatasetH with liquidity"):
        qx.evaluate(scores, bare)


def test_an_artifact_that_there_is_not_is_named(result):
    with pytest.raises(ValueError, match="no artifact 'gate/weights.pkl'; there are .*pred.pkl"):
        result.artifact("gate/weights.pkl")


# --- the room that can be called


def test_the_room_can_be_called_and_is_the_room():
    assert callable(qx.evaluate) and qx.evaluate.daily_metrics is daily_metrics
    names = list(inspect.signature(qx.evaluate).parameters)
    assert names[:2] == ["scores", "dataset"] and {"capital", "strategy", "exchange"} <= set(names)
    assert inspect.signature(qx.run).parameters["capital"].default == 150e6
    assert pickle.loads(pickle.dumps(daily_metrics)) is daily_metrics


def test_a_memory_recorder_keeps_files_too(tmp_path):
    recorder = MemoryRecorder()
    (tmp_path / "page.html").write_text("<p>")
    (tmp_path / "facts.json").write_text('{"days": 3}')
    for name in ("page.html", "facts.json"):
        recorder.save_objects(local_path=tmp_path / name, artifact_path="kept")
    assert recorder.load_object("kept/page.html") == b"<p>" and recorder.load_object("kept/facts.json") == {"days": 3}
    assert load_if_there(recorder, "kept/other.json") is None and load_if_there(recorder, "other.pkl") is None


# --- the data set in one call


def test_a_data_set_in_one_call_is_that_of_the_workflows(here):
    handler = {
        "class": "FastAlpha158",
        "module_path": "qlib_ext.handler",
        "kwargs": {
            "instruments": "all",
            "infer_processors": [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}],
        }
        | {"learn_processors": [], "drop_raw": True},
    }
    other = qx.DayDatasetH(handler, DAYS, step_len=1, listing_age=0).panel
    for name in ("x", "label", "liquidity", "present"):
        np.testing.assert_array_equal(getattr(here.panel, name).numpy(), getattr(other, name).numpy())


def test_wrong_options_of_a_data_set_are_named():
    with pytest.raises(ValueError, match=r"unknown features 'alpha185' \(did you mean 'alpha158'"):
        qx.day_dataset("all", **DAYS, features="alpha185")
    with pytest.raises(TypeError, match="day_dataset has no option 'steplen'; close: .'step_len'"):
        qx.day_dataset("all", **DAYS, steplen=8)
    with pytest.raises(ValueError, match="segments 'train' and 'valid' overlap"):
        qx.day_dataset("all", **DAYS | {"valid": ("2020-07-30", "2020-09-30")})
    assert {"step_len", "horizons", "exposures", "factors"} <= set(inspect.signature(qx.day_dataset).parameters)


def test_judge_takes_a_series(here, scores):
    rows, money = here.rows("test"), qx.Money(**TERMS)
    grid = LiquidityRecord(None, here, benchmark=None).scores(rows, scores)
    one, other = (judge(here.panel, rows, each, money, here.span).table for each in (grid, scores))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
