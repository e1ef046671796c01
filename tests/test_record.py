"""The judge behind the records, the fold table, and what the records write."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from qlib.utils import init_instance_by_config
from qlib.utils.exceptions import LoadObjectError

from qlib_ext.data import DayDatasetH, LabelSpan, PanelExposures
from qlib_ext.evaluate import BASELINES, DAYS_A_YEAR, SCORE_TEAR_DEFINITIONS, group_ics
from qlib_ext.panel import DayPanel
from qlib_ext.record import (
    SERIES,
    BaselineRecord,
    FoldRecord,
    GateRecord,
    LiquidityRecord,
    Money,
    PortAnaRecord,
    ReportRecord,
    block_rows,
    fold_table,
    judge,
    past_return,
    table_row,
    volatility_warning,
)
from qlib_ext.splits import HVBlockedKFold, fold_map

SPAN = LabelSpan(entry=1, reach=2)
FREE = {"commission": 0.0, "impact": 0.0}


def make_panel(seed=0, days=60, stocks=25, features=4, signal=0.5, ties=False):
    rng = np.random.default_rng(seed)
    shape = (days, stocks)
    x = rng.normal(size=(*shape, features)).astype("f4")
    present = rng.random(shape) < 0.93
    label = 0.02 * (signal * x[..., 0] + rng.normal(size=shape))
    label[~present | (rng.random(shape) < 0.03)] = np.nan
    label[-2:] = np.nan
    grids = {
        "liquidity": np.exp(rng.normal(18, 1, size=shape)),
        "volatility": rng.uniform(0.01, 0.05, size=shape),
    }
    return DayPanel(
        days=pd.bdate_range("2020-03-02", periods=days).to_numpy(),
        stocks=np.array([f"SH600{i:03d}" for i in range(stocks)], dtype=object),
        features=[f"f{i}" for i in range(features)],
        x=torch.from_numpy(np.where(present[..., None], x, 0).astype("f4")),
        present=torch.from_numpy(present),
        label=torch.from_numpy(label.astype("f4")),
        buyable=torch.from_numpy(rng.random(shape) < 0.95),
        **{name: torch.from_numpy(grid.astype("f4")) for name, grid in grids.items()},
    )


class Dataset(DayDatasetH):
    """A dataset of a ready-made panel."""

    def __init__(self, panel, **segments):
        self.liquidity, self._made, self._rows = "auto", panel, segments

    @property
    def panel(self):
        return self._made

    @property
    def span(self):
        return SPAN

    @property
    def entry_field(self):
        return "close"

    def rows(self, segment):
        return self._rows[segment]


class Recorder:
    """Artifacts and metrics in memory."""

    def __init__(self, **objects):
        self.objects, self.metrics = dict(objects), {}

    def load_object(self, name):
        if name not in self.objects:
            raise LoadObjectError(name)
        return self.objects[name]

    def list_artifacts(self, folder=None):
        return []

    def log_metrics(self, **metrics):
        assert all(np.isfinite(list(metrics.values())))
        self.metrics |= metrics

    def save_objects(self, *, local_path, artifact_path):
        self.objects[f"{artifact_path}/{Path(local_path).name}"] = Path(local_path).read_bytes()

    def get_local_dir(self):
        return "here"


def series_of(panel, rows, grid):
    days = pd.DatetimeIndex(panel.days[rows], name="datetime")
    frame = pd.DataFrame(grid, days, pd.Index(panel.stocks, name="instrument"))
    return frame.stack().dropna().rename("score").sort_index()


def score_grid(panel, rows, noise=1.0, seed=1):
    rng = np.random.default_rng(seed)
    value = panel.x[rows, :, 0].numpy() + noise * rng.normal(size=(len(rows), len(panel.stocks)))
    return np.where(panel.present[rows].numpy(), value, np.nan)


@pytest.fixture(autouse=True)
def no_calendar(monkeypatch):
    """The year is the default's, whatever qlib the tests before have left."""
    monkeypatch.setattr("qlib_ext.record.records.market_year", lambda: DAYS_A_YEAR)


@pytest.fixture
def said(monkeypatch):
    texts = []
    note = SimpleNamespace(info=lambda t: texts.append(("info", t)), warning=lambda t: texts.append(("warning", t)))
    monkeypatch.setattr("qlib_ext.record.records.logger", note)
    monkeypatch.setattr("qlib_ext.record.records.past_return", past)
    return texts


def past(stocks, days):
    return np.random.default_rng(7).normal(0, 0.05, size=(len(days), len(stocks)))


@pytest.fixture(scope="module")
def panel():
    return make_panel()


PARTS = {"train": np.arange(0, 30), "valid": np.arange(32, 42), "test": np.arange(44, 60)}


@pytest.fixture
def run(panel):
    """(recorder, dataset) of a run with scores for its test days."""
    recorder = Recorder(**{"pred.pkl": series_of(panel, PARTS["test"], score_grid(panel, PARTS["test"])).to_frame()})
    return recorder, Dataset(panel, **PARTS)


# --- goldens by hand


def two_blocks():
    """Four days, two stocks with room for all the capital; the score always takes stock 0."""
    label = np.array([[0.10, 0.02], [-0.10, 0.0], [0.05, 0.01], [0.20, 0.0]], dtype="f4")
    shape = label.shape
    full = {
        "liquidity": torch.full(shape, 1e12),
        "volatility": torch.full(shape, 0.02),
        "buyable": torch.ones(shape, dtype=torch.bool),
    }
    panel = DayPanel(
        days=pd.to_datetime(["2020-03-02", "2020-03-03", "2020-03-04", "2020-03-05"]).to_numpy(),
        stocks=np.array(["SH600000", "SH600001"], dtype=object),
        features=["f"],
        x=torch.zeros(*shape, 1),
        present=torch.ones(shape, dtype=torch.bool),
        label=torch.from_numpy(label),
        **full,
    )
    return panel, np.tile([2.0, 1.0], (4, 1))


def test_fold_table_golden():
    # block 0: 0.10 - 0.10 = 0; block 1: 0.05 + 0.20 = 25% of the capital, which is made up every day; the deck's mean
    # return (0 + 25) / 2 = 12.5%; all days: 25%.
    # IC of two stocks: +1, -1, +1, +1: 0 and 1, mean 0.5, over four days 0.5.
    # error of the mean over folds: std(0, 1) / sqrt(2) = sqrt(0.5) / sqrt(2) = 0.5
    panel, score = two_blocks()
    blocks = [np.array([0, 1]), np.array([2, 3])]
    folds = [judge(panel, rows, score[rows], Money(), SPAN) for rows in blocks]
    every = judge(panel, np.arange(4), score, Money(), SPAN)
    words = {"fold": "a", "mean over folds": "b", "all": "c"}
    table = fold_table(folds, {"all": every}, words)
    assert list(table.index) == ["fold 0", "fold 1", "mean over folds", "all"]
    assert list(table["selected"]) == ["a", "a", "b", "c"]
    assert list(table["days"]) == [2, 2, 4, 4]
    np.testing.assert_allclose(table["gross_mean_return"], [0, 0.25, 0.125, 0.25], atol=1e-6)
    np.testing.assert_allclose(table["mean_ic"], [0, 1, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(table["gross_max_drawdown"], [-0.1, 0, -0.05, -0.1], atol=1e-6)
    assert table.loc["mean over folds", "ic_error"] == pytest.approx(0.5)
    # net of fold 0: bought for 150 million at 0.03% + 0.002%, then 15 million (what was gained) sold at + 0.1%:
    # returns 0.10 - 0.00032 and -0.10 - 0.1 * 0.00132
    net = 0.10 - 0.00032 - 0.10 - 0.1 * 0.00132
    assert table.loc["fold 0", "net_mean_return"] == pytest.approx(net, abs=1e-7)
    # the market is the mean of both stocks: 6%, -5%
    excess = (0.10 - 0.00032 - 0.06) + (-0.10 - 0.000132 + 0.05)
    assert table.loc["fold 0", "net_over_market_mean_return"] == pytest.approx(excess, abs=1e-7)
    assert table.loc["all", "first"] == pd.Timestamp("2020-03-02")
    assert table.loc["all", "last"] == pd.Timestamp("2020-03-05")


def test_a_stock_locked_at_the_entry_stays_cash():
    panel, score = two_blocks()
    panel.buyable[0, 0] = False
    found = judge(panel, np.arange(4), score, Money(), SPAN)
    np.testing.assert_allclose(found.returns["capped_buyable_gross"], [0, -0.10, 0.05, 0.20], atol=1e-7)
    np.testing.assert_allclose(found.returns["capped_paper_gross"], [0.10, -0.10, 0.05, 0.20], atol=1e-7)
    assert table_row(found)["gross_mean_return"] == pytest.approx(-0.1 + 0.05 + 0.2, abs=1e-6)
    assert len(found.positions) == 3 and (found.positions["weight"] == 1).all()


def test_locked_holdings_are_neither_sold_nor_bought_anew():
    # the capital follows stock 0 on day 0, stock 1 from day 1 on. Stock 0, worth 110 of 100, is suspended on day 1: all
    # of it stays and more than uses up the capital, stock 1 gets nothing. It is free on day 2: all goes to stock 1,
    # whose limit-up on day 3 leaves the 100 of 101 that are its target.
    panel, score = two_blocks()
    score[1:] = [1.0, 2.0]
    panel.buyable[1, 0] = panel.buyable[3, 1] = False
    panel.sellable = torch.ones_like(panel.buyable)
    panel.sellable[1, 0] = False
    found = judge(panel, np.arange(4), score, Money(), SPAN)
    np.testing.assert_allclose(found.returns["capped_buyable_gross"], [0.10, 1.1 * -0.10, 0.01, 0.0], atol=1e-7)
    np.testing.assert_allclose(found.positions["weight"], [1.0, 1.1, 1.0, 1.0], atol=1e-7)
    # fees: bought on day 0; nothing traded on day 1; on day 2 stock 0, 0.99 of the capital, is sold and stock 1 bought;
    # the gain of 1% is sold on day 3
    paid = found.returns["capped_buyable_gross"] - found.returns["capped_buyable_net"]
    np.testing.assert_allclose(paid, [0.00032, 0.0, 0.99 * 0.00132 + 0.00032, 0.01 * 0.00132], atol=1e-8)
    assert found.daily["capped_names_held"].to_list() == [1, 1, 1, 1]
    assert found.daily["capped_cash_share"].to_list() == pytest.approx([0.0] * 4, abs=1e-7)
    panel.sellable = None  # it could be sold, as far as the panel knows: at limit-up its target of 0 stays
    blind = judge(panel, np.arange(4), score, Money(), SPAN)
    np.testing.assert_allclose(blind.returns["capped_buyable_gross"], [0.10, 0.0, 0.01, 0.0], atol=1e-7)


def test_days_without_an_outcome_are_left_out():
    panel, score = two_blocks()
    panel.label[3] = torch.nan
    found = judge(panel, np.arange(4), score, Money(), SPAN)
    assert len(found.days) == 3 == len(found.returns["market"]) and len(found.daily) == 4
    with pytest.raises(ValueError, match="no return is known on the 1 days from 2020-03-05"):
        judge(panel, np.array([3]), score[3:], Money(), SPAN)


def test_benchmark_rows():
    panel, score = two_blocks()
    index = pd.Series([0.01, 0.0, 0.0, 0.0], pd.DatetimeIndex(panel.days), name="SH000300")
    found = judge(panel, np.arange(4), score, Money(), SPAN, index)
    got = found.returns["capped_buyable_gross_over_SH000300"]
    np.testing.assert_allclose(got, [0.09, -0.10, 0.05, 0.20], atol=1e-7)
    assert np.isnan(found.table.loc["SH000300", "mean_ic"]) and np.isfinite(found.table.loc["market", "mean_return"])


def test_the_mean_stock_is_told_of_all_and_of_those_that_could_be_bought():
    # day 0: 10% and 2%, of which the first could not be bought; day 1: -10% and 0%, neither could: no mean, 0;
    # the second has no score on day 2, on day 3 all is as it is on the first
    panel, score = two_blocks()
    panel.buyable[0, 0] = panel.buyable[1, 0] = panel.buyable[1, 1] = False
    score[2, 1] = np.nan
    found = judge(panel, np.arange(4), score, Money(**FREE), SPAN)
    np.testing.assert_allclose(found.returns["market"], [0.06, -0.05, 0.05, 0.10], atol=1e-7)
    np.testing.assert_allclose(found.returns["buyable"], [0.02, 0.0, 0.05, 0.10], atol=1e-7)
    gross = found.returns["capped_buyable_gross"]
    np.testing.assert_allclose(found.returns["capped_buyable_gross_over_buyable"], gross - found.returns["buyable"])
    means = found.table.loc[["market", "buyable"]]
    np.testing.assert_allclose(means["mean_return"], [0.16, 0.17], atol=1e-6)
    assert means["mean_ic"].isna().all() and "topn_buyable_net_over_buyable" in found.table.index


def test_missing_days_of_the_benchmark_are_counted(panel):
    rows, score = np.arange(60), score_grid(panel, np.arange(60))  # the last two days have no outcome
    index = pd.Series(0.01, pd.DatetimeIndex(panel.days), name="SH000300")
    last = [58, 59]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = judge(panel, rows, score, Money(), SPAN, index.drop(index.index[last]))
    index.iloc[[7, 30]] = np.nan
    with pytest.warns(UserWarning, match="SH000300 has no return on 2 of 58 days, the first 2020-03-11: taken as 0"):
        found = judge(panel, rows, score, Money(), SPAN, index)
    gap = found.returns["capped_buyable_net_over_SH000300"] - whole.returns["capped_buyable_net_over_SH000300"]
    np.testing.assert_allclose(gap.to_numpy(), np.where(np.isin(np.arange(58), [7, 30]), 0.01, 0.0), atol=1e-12)
    index.iloc[20] = np.nan  # 3 of 58 are 5.2%
    with pytest.raises(ValueError, match="on 3 of 58 days, the first 2020-03-11: more than 5%"):
        judge(panel, rows, score, Money(), SPAN, index)


# --- baselines


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"baselines": []}, r"baselines is \[\]; allowed: a list of one or more, each once"),
        ({"baselines": ["reversal", "reversal"]}, r"baselines is \['reversal', 'reversal'\].*each once"),
        ({"baselines": "reversal"}, "baselines is 'reversal'; allowed: a list"),
        ({"baselines": ["reversl"]}, "'reversl'.*'reversal'"),
        ({"lightgbm": {"round": 3}}, "'round'; close: .*'rounds'"),
        ({"lightgbm": {"parameters": None}}, "lightgbm is .*'parameters': None"),
    ],
)
def test_wrong_baselines_are_named_through_qlib(run, wrong, match):
    """After a TypeError qlib tries once more without the dataset, and tells of that alone."""
    config = {"class": "BaselineRecord", "module_path": "qlib_ext.record", "kwargs": wrong}
    with pytest.raises(ValueError, match=match):
        init_instance_by_config(config, recorder=run[0], try_kwargs={"model": None, "dataset": run[1]})


def test_baseline_record(run, panel, said):
    recorder, dataset = run
    options = {"rounds": 5, "parameters": {"lambda_l1": 0.0}}
    made = BaselineRecord(recorder, dataset, benchmark=None, lightgbm=options, capital=2e7)
    got = made._generate()
    assert sorted(got) == sorted(made.list())
    table = got["baselines.pkl"]
    assert list(table.index) == ["model", *BASELINES]
    own = judge(panel, PARTS["test"], score_grid(panel, PARTS["test"]), Money(capital=2e7), SPAN)
    for name, value in table_row(own).items():
        kept = table.loc["model", name]
        assert kept == (value if name in ("first", "last") else pytest.approx(value, abs=1e-6)), name
    assert (table["first"] == pd.Timestamp(panel.days[44])).all() and (table["last"] == panel.days[57]).all()
    assert table.loc["low_volatility", "volatility_exposure"] == pytest.approx(-1)
    assert set(table["days"]) == {14} and recorder.metrics["baselines.reversal.mean_ic"] == pytest.approx(
        table.loc["reversal", "mean_ic"]
    )
    scores = got["baseline_scores.pkl"]
    assert list(scores.columns) == list(BASELINES) and list(scores.index.names) == ["datetime", "instrument"]
    assert len(scores) == int(panel.present[PARTS["test"]].sum())
    assert any("of 6" in text or "stock-days of train (max_rows 500000, seed 0)" in text for _, text in said)
    one = BaselineRecord(recorder, dataset, benchmark=None, baselines=["reversal"])._generate()["baselines.pkl"]
    assert list(one.index) == ["model", "reversal"]


def test_a_baseline_without_a_score_is_left_out_with_a_warning(run, said, monkeypatch):
    monkeypatch.setattr(
        BaselineRecord, "_past_return", lambda self, rows: np.full((len(rows), len(self.dataset.panel.stocks)), np.nan)
    )
    record = BaselineRecord(*run, benchmark=None, baselines=["reversal", "low_volatility"])
    assert list(record._generate()["baselines.pkl"].index) == ["model", "low_volatility"]
    assert any("the baseline reversal has no score on any test day" in text for _, text in said)


# --- LiquidityRecord


def test_liquidity_record_writes_all(run, panel, said):
    recorder, dataset = run
    made = LiquidityRecord(recorder, dataset, benchmark=None, capital=2e7, max_weight=0.05)
    got = made._generate()
    assert sorted(got) == sorted(made.list())
    days = pd.DatetimeIndex(panel.days[PARTS["test"]])
    text = f"test {days[0].date()} to {days[-3].date()}: nothing was selected on it by this run"
    assert got["selection.pkl"] == got["headline.pkl"].attrs["selection"] == text
    assert list(got["exposures.pkl"].columns) == ["volatility", "liquidity", "reversal"]
    for name in ("exposures.pkl", "quantiles.pkl", "daily.pkl"):
        assert (got[name].index == days).all()
    quality = got["diagnostics.pkl"]
    assert quality.loc["ic", "value"] == pytest.approx(got["headline.pkl"].loc["capped_buyable_net", "mean_ic"])
    assert quality.loc["ic", "standard_error"] > 0 and "ic_neutral" not in quality.index
    panel.source = PanelExposures()
    quality = made._generate()["diagnostics.pkl"]
    said.pop()
    neutral = quality.loc[["ic_neutral", "rank_ic_neutral"]]
    assert (neutral["value"] > 0.1).all() and (neutral["standard_error"] > 0).all() and (neutral["days"] > 10).all()
    assert recorder.metrics["diagnostics.ic_neutral.value"] == pytest.approx(quality.loc["ic_neutral", "value"])
    assert recorder.metrics["exposure.volatility"] == pytest.approx(got["exposures.pkl"]["volatility"].mean())
    assert recorder.metrics["diagnostics.rank_ic.t"] == pytest.approx(quality.loc["rank_ic", "t"])
    assert "turnover stands for size" in got["definitions.pkl"]["exposure.liquidity"]
    gross = got["definitions.pkl"]["gross"]  # of the table's rows, of which the log tells too
    assert "what is locked at the entry is neither sold nor bought anew" in gross and gross in said[0][1]
    (kind, log), *more = said
    assert kind == "info" and not more and text in log and log.endswith("artifacts: here/artifacts")
    assert "standard_error" in log and "reversal" in log


def test_the_score_s_tear_sheet_is_of_the_test_days(run, panel, said, monkeypatch):
    recorder, dataset = run
    kinds = np.array(["bank", "steel", None], dtype=object)[np.arange(len(panel.stocks)) % 3]
    size = np.arange(len(panel.stocks), dtype=float)
    first = [panel.days[0]]  # known from then on
    own = {"industry": kinds, "size": size}
    own = {name: pd.DataFrame([row], first, panel.stocks) for name, row in own.items()}
    monkeypatch.setattr(panel, "source", PanelExposures(own))
    made = LiquidityRecord(recorder, dataset, benchmark=None, capital=2e7)
    got = made._generate()
    tear, days = got["tear_score.pkl"], pd.DatetimeIndex(panel.days[PARTS["test"]])
    assert set(tear) == set(SCORE_TEAR_DEFINITIONS)
    assert all(f"{name}.{key}" in got["definitions.pkl"] for name, frame in tear.items() for key in frame)
    assert list(tear["groups"].index.unique("factor")) == ["volatility", "liquidity", "industry", "size"]
    assert list(tear["groups"].loc["industry"].index) == ["bank", "steel"]
    lag = got["lags.pkl"].loc[("score", 1)]
    assert tear["horizons"].loc[1, ["ic", "ic_error", "days"]].tolist() == pytest.approx(lag.tolist())
    assert (tear["overlap"].index == days).all() and tear["overlap"]["names"].iloc[1:].between(0, 1).any()
    assert tear["autocorrelation"].loc[1, "days"] == len(days) - 1
    rows = PARTS["test"]
    again = group_ics(made.scores(rows), panel.label[rows], {"size": np.tile(size, (len(rows), 1))})
    pd.testing.assert_frame_equal(tear["groups"].loc[["size"]], again)


def test_more_than_a_twentieth_in_one_stock_is_told(run, said):
    got = {}
    for weight in (None, 0.05):
        said.clear()
        got[weight] = LiquidityRecord(*run, benchmark=None, capital=2e7, max_weight=weight)._generate()
        told = [text for kind, text in said if kind == "warning"]
        assert len(told) == (weight is None)
    capped = got[0.05]["positions.pkl"]["weight"]
    assert got[None]["positions.pkl"]["weight"].max() > 0.5 and capped.max() == pytest.approx(0.05)
    daily = got[0.05]["daily.pkl"]
    largest = capped.groupby("datetime").max().reindex(daily.index)
    np.testing.assert_allclose(daily["capped_largest_weight"], largest, rtol=1e-12)
    assert daily["topn_largest_weight"].max() <= 0.05 + 1e-12
    curve = got[0.05]["capacity.pkl"]
    assert (curve["names_held"] * 0.05 >= 1 - curve["cash_share"] - 1e-9).all()  # at every capital
    assert "largest holding" in got[0.05]["definitions.pkl"]["topn_largest_weight"]


@pytest.mark.parametrize(
    ("sign", "word", "cure"), [(1, "volatile stocks", "weight_by: score"), (-1, "calm", "low_vol")]
)
def test_exposure_to_volatility_is_said(run, panel, said, sign, word, cure):
    _, dataset = run
    rows = PARTS["test"]
    sigma = np.where(panel.present[rows].numpy(), sign * panel.volatility[rows].numpy(), np.nan)
    recorder = Recorder(**{"pred.pkl": series_of(panel, rows, sigma).to_frame()})
    LiquidityRecord(recorder, dataset, benchmark=None, max_weight=0.05)._generate()
    ((_, text),) = [line for line in said if line[0] == "warning"]
    assert f"{sign:+.2f} on average over 16 days (beyond +-0.3)" in text and word in text and cure in text


def test_volatility_warning_bounds():
    assert volatility_warning(pd.Series([0.3, 0.3])) is None
    assert volatility_warning(pd.Series([np.nan])) is None
    assert "+0.31 on average over 2 days" in volatility_warning(pd.Series([0.31, 0.31, np.nan]))


@pytest.mark.parametrize(
    ("kind", "wrong", "close"),
    [
        (LiquidityRecord, "participatoin", "participation"),
        (FoldRecord, "capitl", "capital"),
        (BaselineRecord, "lightgmb", "lightgbm"),
        (BaselineRecord, "top", "top_n"),
        (PortAnaRecord, "waterfal", "waterfall"),
        (PortAnaRecord, "risk_analysis_frequency", "risk_analysis_freq"),
        (GateRecord, "skip_exist", "skip_existing"),
        (ReportRecord, "titel", "title"),
    ],
)
def test_a_misspelt_option_is_named_with_close_ones(kind, wrong, close):
    """As qlib builds records: with model and dataset, and after a TypeError once more without."""
    config = {"class": kind.__name__, "module_path": kind.__module__, "kwargs": {wrong: 1}}
    with pytest.raises(TypeError, match=rf"^{kind.__name__} has no option '{wrong}'; close: \['{close}'.*; allowed: "):
        init_instance_by_config(config, recorder=None, try_kwargs={"model": None, "dataset": None})


@pytest.mark.parametrize("kind", [LiquidityRecord, FoldRecord, BaselineRecord])
def test_what_a_record_needs(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__} needs a DayDatasetH with liquidity"):
        kind(Recorder())
    with pytest.raises(TypeError, match="captial"):
        kind(Recorder(), captial=1.0)


# --- FoldRecord


def test_fold_record_of_an_ensemble(run, panel, said):
    recorder, dataset = run
    axis = np.arange(42)
    pairs = list(HVBlockedKFold(3).split(len(axis)))
    recorder.objects |= {
        "folds/fold_map.pkl": fold_map(pairs, panel.days[axis]),
        "folds/members.pkl": pd.DataFrame({"fold": [0, 1, 2], "seed": 0, "metric": "capped_excess"}),
        "folds/oof.pkl": series_of(panel, axis, score_grid(panel, axis)),
    }
    made = FoldRecord(recorder, dataset, benchmark=None, capital=2e7)
    got = made._generate()
    assert sorted(got) == sorted(made.list())
    table = got["headline_folds.pkl"]
    rows = ["fold 0", "fold 1", "fold 2", "mean over folds", "all out-of-fold days", "test"]
    assert list(table.index) == rows and list(table["days"]) == [14, 14, 14, 42, 42, 14]
    assert table.loc["mean over folds", "net_mean_return"] == pytest.approx(table["net_mean_return"].iloc[:3].mean())
    block = judge(panel, axis[14:28], score_grid(panel, axis)[14:28], Money(capital=2e7), SPAN)
    assert table.loc["fold 1", "net_sharpe"] == pytest.approx(table_row(block)["net_sharpe"], abs=1e-5)
    own = LiquidityRecord(recorder, dataset, benchmark=None, capital=2e7)._generate()["headline.pkl"]
    for name, series in SERIES.items():
        assert table.loc["test", f"{name}_sharpe"] == own.loc[series, "sharpe"]
    chosen = table["selected"]
    assert chosen["fold 0"] == "epoch chosen on this block by capped_excess: optimistic"
    assert chosen["test"].startswith("nothing was selected") and "optimistic" in chosen["all out-of-fold days"]
    assert recorder.metrics["folds.mean_over_folds.net_mean_return"] == table.loc["mean over folds", "net_mean_return"]
    assert "3 members" in said[0][1]


def test_fold_record_of_a_walk_forward(run, panel, said):
    recorder, dataset = run
    triples = [
        (np.arange(30), np.arange(32, 42), np.arange(44, 52)),
        (np.arange(8, 38), np.arange(40, 50), np.arange(52, 60)),
    ]
    recorder.objects |= {
        "folds/fold_map.pkl": fold_map(triples, panel.days),
        "folds/members.pkl": pd.DataFrame({"fold": [0, 1], "seed": 0, "metric": "ic"}),
    }
    table = FoldRecord(recorder, dataset, benchmark=None)._generate()["headline_folds.pkl"]
    assert list(table.index) == ["fold 0", "fold 1", "mean over folds", "test"]
    assert list(table["days"]) == [8, 6, 14, 14]  # the last two days have no outcome yet
    assert table["selected"].str.startswith("nothing was selected on it; epochs were chosen by ic").all()


def test_fold_record_without_folds(run, panel, said):
    recorder, dataset = run
    with pytest.raises(ValueError, match=r"no artifact folds/fold_map.pkl.*FoldEnsemble and\s+WalkForwardModel"):
        FoldRecord(recorder, dataset, benchmark=None)._generate()
    later = fold_map(list(HVBlockedKFold(2).split(10)), pd.bdate_range("2031-01-01", periods=10))
    with pytest.raises(ValueError, match="days that the panel lacks"):
        block_rows(panel, later, "valid")
    with pytest.raises(ValueError, match="'test'"):
        block_rows(panel, fold_map(list(HVBlockedKFold(2).split(10)), panel.days[:10]), "test")


# --- one run through qlib


def test_a_run_of_qlib(tmp_path):
    import test_data
    from qlib.data import D
    from qlib.workflow import R
    from qlib.workflow.record_temp import SignalRecord

    from qlib_ext.model import FoldEnsemble
    from qlib_ext.synthetic import make_market

    test_data.start_qlib(make_market(tmp_path / "market", n_stocks=14, start="2020-01-02", years=1.0, seed=3), tmp_path)
    dataset = DayDatasetH(test_data.make_handler(), test_data.SEGMENTS)
    options = {"hidden": [8, 4], "loss": "ic", "metric": "ic", "epochs": 1, "device": "cpu"}
    model = FoldEnsemble(model={"class": "MLPModel", "kwargs": options}, n_splits=2)
    money = {"capital": 1e7, "benchmark": "SH000300"}
    with R.start(experiment_name="records"):
        recorder = R.get_recorder()
        model.fit(dataset)
        SignalRecord(model=model, dataset=dataset, recorder=recorder).generate()
        for kind in (LiquidityRecord, FoldRecord, BaselineRecord):
            made = kind(recorder, dataset, model, **money)
            made.generate()
            for name in made.list():
                assert made.load(name) is not None
    folds = recorder.load_object("fold_analysis/headline_folds.pkl")
    assert list(folds.index) == ["fold 0", "fold 1", "mean over folds", "all out-of-fold days", "test"]
    headline = recorder.load_object("liquidity_analysis/headline.pkl")
    assert headline.attrs["selection"].startswith("test 2020-10-")
    model_row = recorder.load_object("baselines/baselines.pkl").loc["model"]
    assert model_row["net_sharpe"] == folds.loc["test", "net_sharpe"] == headline.loc["capped_buyable_net", "sharpe"]
    rows = dataset.rows("test")
    days = pd.DatetimeIndex(dataset.panel.days[rows])
    got = past_return(dataset.panel.stocks, days)
    raw = D.features(list(dataset.panel.stocks), ["$close"], "2020-09-01", days[-1])["$close"].unstack("instrument")
    want = (raw / raw.shift(5) - 1).loc[days, list(dataset.panel.stocks)].to_numpy()
    known = np.isfinite(want) & np.isfinite(got)
    assert known.mean() > 0.9
    np.testing.assert_allclose(got[known], want[known], atol=1e-5)


def test_the_strategy_takes_the_datasets_liquidity(monkeypatch):
    warned = []
    monkeypatch.setattr("qlib_ext.record.backtest.logger", SimpleNamespace(warning=warned.append, info=warned.append))
    dataset = DayDatasetH.__new__(DayDatasetH)
    dataset.liquidity, dataset.liquidity_window, dataset.volatility_window = "$amount * 10", 5, 20
    strategy = {"class": "LiquidityTopNStrategy", "module_path": "qlib_ext.strategy", "kwargs": {"signal": "<PRED>"}}
    config = {"strategy": strategy, "backtest": {"start_time": None, "end_time": None}}
    made = PortAnaRecord(None, config, dataset=dataset, model=None).strategy_config["kwargs"]
    assert (made["liquidity"], made["liquidity_window"]) == ("$amount * 10", 5)
    assert "liquidity" not in strategy["kwargs"]  # the caller's configuration is left alone
    assert warned == []
    strategy["kwargs"]["liquidity_window"] = 20
    with pytest.warns(UserWarning, match="the strategy's liquidity_window is 20, the dataset's 5: two definitions"):
        made = PortAnaRecord(None, config, dataset=dataset, model=None).strategy_config["kwargs"]
    assert made["liquidity_window"] == 20
    plain = {**config, "strategy": {"class": "TopkDropoutStrategy", "kwargs": {}}}
    assert PortAnaRecord(None, plain, dataset=dataset).strategy_config["kwargs"] == {}
