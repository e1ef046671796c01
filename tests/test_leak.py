"""The leak checks: a clean workflow passes, and each planted leak is caught and named."""

import copy
import json
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import qlib.cli.run  # noqa: F401 its logger keeps the stderr of the first import
from ruamel.yaml import YAML

from qlib_ext import cli, leak
from qlib_ext.panel import MacroState
from qlib_ext.portfolio import KINDS
from qlib_ext.provider import read_calendar
from qlib_ext.record import ForecastRecord
from qlib_ext.splits import overlap
from qlib_ext.synthetic import make_market

lc = import_module("qlib_ext.leak.compare")
COLUMNS = ["check", "item", "compared", "changed", "passed", "detail", "proves"]
START, END = "2020-02-03", "2020-09-30"
SEGMENTS = {
    "train": ["2020-02-03", "2020-06-30"],
    "valid": ["2020-07-01", "2020-07-31"],
    "test": ["2020-08-03", "2020-09-30"],
}
FEATURES = {"KSFT": "(2*$close-$high-$low)/$open", "ROC5": "Ref($close, 5)/$close", "STD20": "Std($close, 20)/$close"}
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
CLEAN = {"class": "CSNormalise", "module_path": "qlib_ext.processor"}


class WholePeriod:
    """Planted: standardises by the mean and deviation of all days, the later ones included."""

    def __call__(self, df):
        values = df["feature"]
        df[values.columns.map(lambda c: ("feature", c))] = ((values - values.mean()) / values.std()).to_numpy()
        return df

    def fit(self, df=None):
        pass

    def is_for_infer(self):
        return True

    def readonly(self):
        return False


class CopiesLabel(WholePeriod):
    """Planted: the first feature becomes the label."""

    def __call__(self, df):
        df[("feature", "KSFT")] = df[("feature", "KSFT")] * 0 + df["label"].iloc[:, 0].fillna(0)
        return df


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return make_market(tmp_path_factory.mktemp("leak") / "market", n_stocks=24, start="2020-01-02", years=0.78, seed=3)


@pytest.fixture
def config(market):
    """A workflow of three features, small enough to be built in a second."""
    fields = {"feature": [list(FEATURES.values()), list(FEATURES)], "label": [[LABEL], ["LABEL0"]]}
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": fields}}
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {
            "instruments": "all",
            "start_time": START,
            "end_time": END,
            "data_loader": loader,
            "infer_processors": [CLEAN],
            "learn_processors": [],
        },
    }
    options = {"hidden": [8, 4], "epochs": 3, "batch_days": 16, "device": "cpu", "capital": 3e7}
    account = {"capital": 3e7, "liquidity": "community", "signal": "<PRED>"}
    record = {
        "class": "PortAnaRecord",
        "module_path": "qlib_ext.record",
        "kwargs": {
            "config": {
                "strategy": {"class": "LiquidityTopNStrategy", "module_path": "qlib_ext.strategy", "kwargs": account},
                "backtest": {
                    "start_time": SEGMENTS["test"][0],
                    "end_time": END,
                    "account": 3e7,
                    "benchmark": "SH000300",
                    "exchange_kwargs": {"limit_threshold": 0.095, "deal_price": "close", "min_cost": 5},
                },
            }
        },
    }
    dataset = {"handler": handler, "segments": copy.deepcopy(SEGMENTS), "step_len": 2, "liquidity": "community"}
    return {
        "qlib_init": {"provider_uri": str(market), "region": "cn", "kernels": 1},
        "task": {
            "model": {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": options},
            "dataset": {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": dataset},
            "record": [record, {"class": "ForecastRecord", "module_path": "qlib_ext.record"}],
        },
    }


quick = partial(leak.check_leak, isolated=False)


def dataset_of(config):
    return config["task"]["dataset"]["kwargs"]


def plant_feature(config, expression, name="LEAK"):
    expressions, names = dataset_of(config)["handler"]["kwargs"]["data_loader"]["kwargs"]["config"]["feature"]
    expressions.append(expression)
    names.append(name)


def failed(table):
    return set(table.loc[~table["passed"], "item"])


def detail(table, item):
    return table.set_index("item").loc[item, "detail"]


# --- providers


def series(provider, code, field):
    raw = np.fromfile(Path(provider) / "features" / code.lower() / f"{field}.day.bin", dtype="<f4")
    return int(raw[0]), raw[1:]


def test_perturbed_provider(market, tmp_path):
    day = "2020-07-15"
    names = leak.perturb_provider(market, tmp_path / "copy", day)
    known = int(read_calendar(market).searchsorted(pd.Timestamp(day), side="right"))
    assert sorted(names) == sorted(p.name for p in (market / "features").iterdir())
    gained = lost = 0
    for name in names:
        for field in ("open", "close", "factor", "amount", "change"):
            (start, old), (begin, new) = series(market, name, field), series(tmp_path / "copy", name, field)
            assert start == begin and len(old) == len(new)
            cut = max(known - start, 0)
            np.testing.assert_array_equal(old[:cut], new[:cut])
            both = np.isfinite(old[cut:]) & np.isfinite(new[cut:])
            assert (old[cut:] != new[cut:])[both].mean() > 0.9 if both.any() else True
            assert not (new <= 0).any() or field == "change"
        close = np.isfinite(series(market, name, "close")[1]), np.isfinite(series(tmp_path / "copy", name, "close")[1])
        gained, lost = gained + (close[1] & ~close[0]).sum(), lost + (close[0] & ~close[1]).sum()
    assert gained > 0 and lost > 30
    assert np.isfinite(series(tmp_path / "copy", "sh000300", "close")[1]).all()


def test_a_sample_of_stocks_is_perturbed_and_the_rest_linked(market, tmp_path):
    drawn = leak.perturb_provider(market, tmp_path / "a", "2020-07-15", stocks=5)
    assert len(drawn) == 6 and "sh000300" in drawn
    assert (tmp_path / "a" / "calendars").is_symlink()
    linked = [p for p in (tmp_path / "a" / "features").iterdir() if p.is_symlink()]
    assert len(linked) == 25 - 6
    code = drawn[0].upper()
    assert leak.perturb_provider(market, tmp_path / "b", "2020-07-15", stocks=[code]) == [code.lower()]
    np.testing.assert_array_equal(series(tmp_path / "a", code, "close")[1], series(tmp_path / "b", code, "close")[1])
    with pytest.raises(ValueError, match="exists already"):
        leak.perturb_provider(market, tmp_path / "a", "2020-07-15")
    with pytest.raises(ValueError, match="'sh1'.*are not in"):
        leak.perturb_provider(market, tmp_path / "c", "2020-07-15", stocks=["SH1"])
    with pytest.raises(ValueError, match="nothing to perturb"):
        leak.perturb_provider(market, tmp_path / "c", "2031-01-01")


def test_shuffled_provider_keeps_each_days_returns(market, tmp_path):
    names = leak.shuffle_provider(market, tmp_path / "copy")
    days = read_calendar(market)

    def wide(provider, field):
        out = pd.DataFrame(np.nan, index=days, columns=names)
        for name in names:
            start, values = series(provider, name, field)
            out.iloc[start : start + len(values), out.columns.get_loc(name)] = values
        return out

    old, new = wide(market, "close"), wide(tmp_path / "copy", "close")
    np.testing.assert_array_equal(old.isna(), new.isna())
    moves = [frame.ffill().pct_change(fill_method=None).where(frame.notna()) for frame in (old, new)]
    for a, b in zip(moves[0].to_numpy(), moves[1].to_numpy(), strict=True):
        np.testing.assert_allclose(np.sort(a[np.isfinite(a)]), np.sort(b[np.isfinite(b)]), atol=2e-5)
    same = np.isclose(moves[0], moves[1], atol=1e-6).sum() / moves[0].notna().to_numpy().sum()
    assert same < 0.2
    ratio = wide(tmp_path / "copy", "volume") * new / (wide(market, "volume") * old)
    assert np.nanmax(np.abs(ratio - 1)) < 1e-4
    assert (wide(tmp_path / "copy", "high") >= new * (1 - 1e-5)).where(new.notna(), True).all().all()
    np.testing.assert_array_equal(wide(tmp_path / "copy", "amount"), wide(market, "amount"))


# --- arithmetic


def test_compare_names_what_changed():
    days, stocks = pd.date_range("2020-01-01", periods=3).to_numpy(), np.array(["A", "B"], dtype=object)
    old = lc.Grid(np.ones((3, 2, 2)), days, stocks, ["f", "g"])
    values = np.ones((3, 2, 2))
    values[1, 1, 1], values[0, 0, 0] = 2.0, 1.0 + 1e-9
    found = lc.compare("future", "features", old, lc.Grid(values, days, stocks, ["f", "g"]))
    assert (found.compared, found.changed, found.passed) == (12, 1, False)
    assert found.detail == "g (1); first 2020-01-02 B g: 1 -> 2"
    fewer = lc.Grid(values[:, :1], days, stocks[:1], ["f", "g"])
    assert lc.compare("future", "features", old, fewer).changed == 6  # stock B is gone on three days
    nan = lc.Grid(np.full((3, 2), np.nan), days, stocks, ["f"])
    assert lc.compare("future", "features", nan, nan).passed


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("gap", range(5))
def test_meetings_by_hand_and_as_splits_counts(gap, window):
    train, valid = np.r_[0:5, 12 + gap : 16 + gap], np.arange(5 + gap, 12)
    found = lc.meetings(train, valid, reach=2, window=window)

    def sets(day, kind):
        return set(range(day + 1, day + 3)) if kind == "label" else set(range(day - window + 1, day + 1))

    for name, pairs in found.items():
        first, second = name.split("-")
        for i, t in enumerate(train):
            for j, v in enumerate(valid):
                assert pairs[i, j] == bool(sets(t, first) & sets(v, second))
    touched = found["label-label"] | found["window-label"] | found["label-window"]
    same_window = np.abs(train[:, None] - valid[None, :]) < window
    assert (touched | same_window).sum() == overlap(train, valid, reach=2, window=window)


def overlapping(days, horizon, rng):
    """IC of a score that does not change with a label of `horizon` days: means of independent numbers."""
    return np.convolve(rng.normal(0, 0.1, days + horizon - 1), np.full(horizon, horizon**-0.5), mode="valid")


@pytest.mark.parametrize("horizon", [1, 5, 10])
def test_overlapping_labels_raise_no_false_alarms(horizon):
    rng = np.random.default_rng(0)
    markets = [overlapping(60, horizon, rng) for _ in range(1000)]
    assert sum(not lc.judge_ic(ic, horizon).passed for ic in markets) <= 10  # 2.7 expected
    if horizon > 1:
        assert sum(not lc.judge_ic(ic).passed for ic in markets) > 100
    many = np.stack([overlapping(250, horizon, rng) for _ in range(500)], axis=1)
    assert lc.judge_features(many, [f"F{n}" for n in range(500)], horizon).passed
    leak_ic = [lc.judge_ic(ic + 0.5, horizon) for ic in markets[:50]]
    assert sum(not found.passed and found.proves for found in leak_ic) >= 45
    knows = lc.judge_features(many + 0.5, [f"F{n}" for n in range(500)], horizon)
    assert not knows.passed and knows.changed == 500


def test_what_proves_nothing_is_no_leak():
    for ic in (np.zeros(40), np.full(40, np.nan), np.array([0.1, 0.2])):
        found = lc.judge_ic(ic)
        assert not found.passed and not found.proves and found.changed == 0 and "proves nothing" in found.detail
    perfect = lc.judge_ic(np.ones(40))  # no error at all, as the score is the label
    assert not perfect.passed and perfect.proves and perfect.changed == 1
    none = lc.judge_features(np.full((40, 2), np.nan), ["A", "B"])
    assert not none.passed and not none.proves and "no feature has an IC" in none.detail
    assert lc.judge_features(np.zeros((40, 1)), ["A"]).passed


def test_a_calendar_with_blank_lines(market, tmp_path):
    (tmp_path / "calendars").mkdir()
    text = (market / "calendars" / "day.txt").read_text()
    (tmp_path / "calendars" / "day.txt").write_text(text.replace("\n", "\n\n", 1) + "\n\n")
    assert read_calendar(tmp_path).equals(read_calendar(market)) and not read_calendar(tmp_path).hasnans


# --- workflows


def test_a_clean_workflow_passes(config):
    lines = []
    table = quick(config, say=lines.append)
    assert table["passed"].all(), table.loc[~table["passed"]].to_string()
    assert list(table.columns) == COLUMNS
    future = table[table["check"] == "future"].set_index("item")
    wanted = ["features", "present stocks", "liquidity", "volatility", "labels", "scores", "target yuan", "orders"]
    assert (future.loc[[*wanted, "positions"], "compared"] > 100).all()
    assert table.loc[table["check"] == "overlap", "item"].tolist() == ["train/valid", "train/test", "valid/test"]
    assert "IC" in detail(table, "scores").tolist()[-1] and len(lines) == 7
    assert future.loc["forecast", "compared"] > 10 and "ends on 2020-07-31" in future.loc["forecast", "detail"]


def test_a_workflow_without_days_of_the_handler_is_read_as_one_with_them(config):
    named = quick(config, only=["overlap", "future"])
    for name in ("start_time", "end_time"):
        del dataset_of(config)["handler"]["kwargs"][name]
    left_out = quick(config, only=["overlap", "future"])
    assert named.equals(left_out) and left_out["passed"].all()


def test_a_feature_that_contains_the_label_is_caught_by_both_checks(config):
    plant_feature(config, "Ref($close, -5)/Ref($close, -1)")  # the label's day and three more, seen five days early
    table = quick(config, epochs=None)
    future, shuffled = (table[table["check"] == check] for check in ("future", "shuffled"))
    assert failed(future) == {"features", "too good", "scores", "target yuan", "orders", "positions"}
    assert "LEAK (IC 0." in detail(future, "too good") and "dated too early (lag)" in detail(future, "too good")
    assert detail(future, "features").startswith("LEAK (") and "KSFT" not in detail(future, "features")
    assert failed(shuffled) == {"scores", "features"}
    assert "LEAK (IC 0." in detail(shuffled, "features") and "ROC5" not in detail(shuffled, "features")


def test_a_liquidity_of_the_future_is_caught(config):
    dataset_of(config)["liquidity"] = "Ref($amount, -1)*1000"
    table = quick(config, only=["future"])
    assert (
        {"liquidity", "target yuan"} <= failed(table) <= {"liquidity", "target yuan", "scores", "orders", "positions"}
    )
    assert "first 2020-0" in detail(table, "liquidity")


def test_exposures_of_a_neutral_loss_are_compared(config, monkeypatch):
    config["task"]["model"]["kwargs"] |= {"neutral": ["volatility", "reversal", "beta"], "loss": "ic", "metric": "ic"}
    config["task"]["record"] = []
    table = quick(config, only=["future"])
    assert table["passed"][table["item"] == "exposures"].tolist() == [True]
    ahead = replace(KINDS["reversal"], measure=lambda past: past.close / past.close.shift(-2) - 1)
    monkeypatch.setitem(KINDS, "reversal", ahead)
    table = quick(config, only=["future"])
    assert "exposures" in failed(table) and "features" not in failed(table)
    assert "reversal" in detail(table, "exposures") and "beta" not in detail(table, "exposures")


def test_a_processor_fitted_on_all_days_is_caught(config):
    dataset_of(config)["handler"]["kwargs"]["infer_processors"] = [{"class": WholePeriod, "kwargs": {}}]
    config["task"]["record"] = []
    table = quick(config, only=["future"])
    assert "no PortAnaRecord" in detail(table, "orders") and "no ForecastRecord" in detail(table, "forecast")
    assert {"features", "scores"} <= failed(table) and "liquidity" not in failed(table)
    assert all(name in detail(table, "features") for name in FEATURES)


def test_a_processor_that_copies_the_label_is_caught(config):
    dataset_of(config)["handler"]["kwargs"]["infer_processors"] = [{"class": CopiesLabel, "kwargs": {}}]
    table = quick(config, only=["shuffled"])
    assert failed(table) == {"scores", "features"} and "KSFT (IC 1.0000" in detail(table, "features")


def test_a_strategy_that_looks_ahead_is_caught(config):
    strategy = config["task"]["record"][0]["kwargs"]["config"]["strategy"]
    strategy["kwargs"]["liquidity"] = "Ref($amount, -2)*1000"  # the order of a day rests on the day before
    table = quick(config, only=["future"])
    assert failed(table) == {"orders", "positions"}


def test_a_forecast_that_knows_returns_of_the_test_segment_is_caught(config, monkeypatch):
    monkeypatch.setattr(ForecastRecord, "_first_test_day", lambda record: None)
    table = quick(config, only=["future"])
    assert failed(table) == {"forecast"} and "a return that ends in the test segment is known" in detail(
        table, "forecast"
    )


@pytest.mark.slow
def test_members_of_different_kinds_are_replayed(config):
    member = {**config["task"]["model"], "kwargs": config["task"]["model"]["kwargs"] | {"epochs": 50}}
    trees = {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": {"num_boost_round": 5}}
    del member["module_path"]  # a member without one is one of ours
    kwargs = {"members": [member, trees], "combine": "weights"}
    config["task"]["model"] = {"class": "ModelEnsemble", "module_path": "qlib_ext.model", "kwargs": kwargs}
    table = quick(config, only=["future"])  # a member of 50 epochs would take its time
    assert table["passed"].all() and {"scores", "forecast"} <= set(table["item"])


def test_data_that_the_perturbation_does_not_reach_prove_nothing(config):
    old = dataset_of(config)["handler"]["kwargs"]["data_loader"]["kwargs"]["config"]["feature"]
    old[0][:] = ["$close/$close*0"] * len(old[0])
    config["task"]["record"] = []
    table = quick(config, only=["future"])
    assert "perturbation arrives" in failed(table) and "nothing is proved" in detail(table, "perturbation arrives")
    assert not table.set_index("item").loc["perturbation arrives", "proves"]
    dataset_of(config)["handler"] = "file:///somewhere/handler.pkl"
    with pytest.raises(ValueError, match="cached file.*class and kwargs"):
        quick(config, only=["future"])


# --- files of the user's own


@pytest.fixture
def own(config, tmp_path):
    """The workflow with a factor file and a macro file beside it, and without a backtest."""
    days, rng = pd.date_range("2020-01-02", "2020-10-12"), np.random.default_rng(4)
    codes = sorted(p.name.upper() for p in Path(config["qlib_init"]["provider_uri"], "features").iterdir())
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    table = pd.DataFrame(rng.normal(size=(len(index), 2)), index, ["DAILY", "SLOW"])
    table["SLOW"] = table["SLOW"].where(rng.random(len(table)) < 0.1)
    table.to_parquet(tmp_path / "own.parquet")
    macro = pd.DataFrame({"date": days, "rate": rng.normal(3, 0.01, len(days))})
    macro.to_csv(tmp_path / "macro.csv", index=False)
    frames = [
        {"path": str(tmp_path / "own.parquet"), "lag": {"DAILY": 0, "SLOW": 1}, "max_age": {"DAILY": 0, "SLOW": 30}}
    ]
    handler = dataset_of(config)["handler"]["kwargs"]
    own = {"class": "FrameLoader", "module_path": "qlib_ext.handler", "kwargs": {"frames": frames}}
    loaders = {"dataloader_l": [handler["data_loader"], own]}
    handler["data_loader"] = {
        "class": "NestedDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": loaders
    }  # fmt: skip
    kinds = rng.choice(["bank", "steel"], len(index))
    sector = pd.DataFrame({"size": rng.normal(size=len(index)), "sector": kinds}, index)
    sector.drop("SH000300", level="instrument").to_csv(tmp_path / "own.csv")
    dataset_of(config).update(label=LABEL)
    dataset_of(config)["exposures"] = str(tmp_path / "own.csv")
    dataset_of(config)["macro_state"] = {"path": str(tmp_path / "macro.csv"), "series": {"rate": {"foreign": True}}}
    config["task"]["record"] = []
    return config


def test_own_files_are_perturbed_and_their_lags_told(own):
    table = quick(own, only=["future"])
    assert table["passed"].all(), table.loc[~table["passed"]].to_string()
    assert "Lags, which no file proves: DAILY 0, SLOW 1; lag 0 is for" in detail(table, "factor files")
    rows = table.set_index("item")
    assert rows.loc["factor files", "compared"] > 100 and rows.loc["macro files", "compared"] == 5
    assert rows.loc["exposures", "compared"] > 1000 and rows.loc["exposure files", "compared"] > 100
    assert rows.loc["too good", "compared"] == 5 and "largest" in detail(table, "too good")


def test_a_file_that_is_joined_too_early_is_caught(own, monkeypatch):
    known = import_module("qlib_ext.frames.known")
    right = known.known_places
    monkeypatch.setattr(known, "known_places", lambda dates, lag, calendar: right(dates, lag, calendar) - 1)
    table = quick(own, only=["future"])
    assert {"features", "scores"} <= failed(table) and "market" not in failed(table)
    assert "DAILY (" in detail(table, "features") and "SLOW (" in detail(table, "features")
    assert "KSFT" not in detail(table, "features")


def test_a_macro_value_of_the_next_day_is_caught(own, monkeypatch):
    right = MacroState.compute

    def early(state, table, calendar, days):
        frame, notices = right(state, table, calendar, days)
        return frame.shift(-1).ffill(), notices

    monkeypatch.setattr(MacroState, "compute", early)
    assert failed(quick(own, only=["future"])) == {"market"}


def test_an_exposure_of_the_next_day_is_caught(own, monkeypatch):
    made = import_module("qlib_ext.data.exposures")
    right = made.as_known
    monkeypatch.setattr(made, "as_known", lambda grid, days, stocks: right(grid.shift(-1), days, stocks))
    table = quick(own, only=["future"])
    assert failed(table) == {"exposures"}
    assert "size (" in detail(table, "exposures") and "sector=bank (" in detail(table, "exposures")
    assert "beta" not in detail(table, "exposures")


def test_exposures_without_dates_are_told(own):
    place = Path(dataset_of(own)["exposures"])
    codes = pd.read_csv(place)["instrument"].unique()
    pd.DataFrame({"code": codes, "sector": ["bank", "steel"] * (len(codes) // 2)}).to_csv(place, index=False)
    table = quick(own, only=["future"])
    assert table["passed"].all()
    assert "without dates: sector; is it what was known then?" in detail(table, "exposure files")


def test_a_file_that_holds_a_later_return_is_too_good(own):
    (frame,) = dataset_of(own)["handler"]["kwargs"]["data_loader"]["kwargs"]["dataloader_l"][1]["kwargs"]["frames"]
    table = pd.read_parquet(frame["path"])
    provider = Path(own["qlib_init"]["provider_uri"])
    days = read_calendar(provider)
    for code in table.index.levels[1]:
        start, close = series(provider, code, "close")
        moves = pd.Series(close, days[start : start + len(close)]).pct_change(fill_method=None).shift(-1)
        table.loc[(moves.index, code), "DAILY"] = moves.to_numpy()
    table.to_parquet(frame["path"])
    found = quick(own, only=["future"])
    assert failed(found) == {"too good"} and not found.set_index("item").loc["too good", "proves"]
    assert "DAILY (IC 0.998 with the return of the next day)" in detail(found, "too good")


def test_a_file_that_ends_before_the_day_proves_nothing(own):
    (frame,) = dataset_of(own)["handler"]["kwargs"]["data_loader"]["kwargs"]["dataloader_l"][1]["kwargs"]["frames"]
    pd.read_parquet(frame["path"]).loc[:"2020-06-30"].to_parquet(frame["path"])
    found = quick(own, only=["future"])
    assert failed(found) == {"factor files"} and "its values end before" in detail(found, "factor files")


# --- days


def test_overlapping_segments_are_caught_and_the_rest_is_not_run(config):
    dataset_of(config)["segments"]["valid"][0] = "2020-06-29"
    table = quick(config)
    assert not table["passed"].any() and table["item"].tolist() == ["segments", "all", "all"]
    assert not table["proves"].any()  # DayDatasetH refuses them
    assert "'train' and 'valid' overlap from 2020-06-29" in detail(table, "segments")


def test_overlapping_segments_that_nothing_refuses_are_a_leak(config):
    pytest.importorskip("lightgbm")
    dataset_of(config)["segments"]["valid"][0] = "2020-06-29"
    config["task"]["model"] = {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": {}}
    config["task"]["dataset"] |= {"class": "DatasetH", "module_path": "qlib.data.dataset"}
    table = quick(config, only=["overlap"])
    assert not table["passed"].any() and table["proves"].all()


def test_a_model_that_does_not_purge_is_told_the_gap(config):
    config["task"]["model"] = {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": {}}
    pytest.importorskip("lightgbm")
    table = quick(config, only=["overlap"])
    assert failed(table) == {"train/valid", "valid/test"}
    # label days t+1, t+2 meet v+1, v+2 where v - t is 1: one pair; no window of the past meets a later label
    assert table.set_index("item").loc["train/valid", "changed"] == 1
    assert "a gap of 2 trading days" in detail(table, "train/valid")


@pytest.mark.parametrize(("gap", "strict", "clean"), [(None, True, True), (0, False, False), (0, True, False)])
def test_folds(config, gap, strict, clean):
    member = config["task"]["model"]
    kwargs = {"model": member, "n_splits": 3, "gap": gap, "strict": strict}
    config["task"]["model"] = {"class": "FoldEnsemble", "module_path": "qlib_ext.model", "kwargs": kwargs}
    table = quick(config, only=["overlap"])
    assert table["passed"].all() == clean
    if strict and not clean:  # the model itself refuses
        assert table["item"].tolist() == ["folds"] and "gap=0 lets training touch" in detail(table, "folds")
        return
    assert table["item"].tolist() == [*(f"fold {i} train/valid" for i in range(3)), "folds/test"]
    if not clean:
        assert failed(table) == {f"fold {i} train/valid" for i in range(3)}
        assert "a gap of 2 trading days" in detail(table, "fold 1 train/valid")  # an MLP looks at the day alone
        kwargs["model"] = {"class": "MASTERModel", "module_path": "qlib_ext.model", "kwargs": {}}
        assert "a gap of 3 trading days" in detail(quick(config, only=["overlap"]), "fold 1 train/valid")


def test_walk_forward_folds(config):
    kwargs = {"model": config["task"]["model"], "step": 15}
    config["task"]["model"] = {"class": "WalkForwardModel", "module_path": "qlib_ext.model", "kwargs": kwargs}
    table = quick(config, only=["overlap"])
    assert table["passed"].all() and len(table) == 3 * 3 and table["item"].iloc[0] == "fold 0 train/valid"
    kwargs |= {"gap": 0, "strict": False}
    assert len(failed(quick(config, only=["overlap"]))) == 2 * 3  # train/test is a month apart


# --- command line


@pytest.fixture
def workflow(config, tmp_path):
    path = tmp_path / "workflow.yaml"

    def write(changed=config):
        with path.open("w") as file:
            YAML(typ="safe", pure=True).dump(changed, file)
        return str(path)

    return write


def test_command_line_in_a_process_of_its_own(workflow, config, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plant_feature(config, LABEL)
    assert cli.main(["check-leak", workflow(), "--only", "shuffled", "--only", "overlap", "--json"]) == 1
    found = capfd.readouterr()
    rows = {row["item"]: row for row in json.loads(found.out)["rows"]}
    assert not rows["features"]["passed"] and "LEAK (IC 0.99" in rows["features"]["detail"]
    assert not rows["scores"]["passed"] and rows["train/valid"]["passed"]
    assert "s] shuffled: building" in found.err and not (tmp_path / "mlruns.db").exists()


def test_command_line_statuses(workflow, config, capsys, tmp_path, monkeypatch):
    check = ["check-leak", workflow(), "--only", "overlap"]
    assert cli.main(check) == 0
    assert "No leak found." in capsys.readouterr().out
    assert cli.main(["check-leak", str(tmp_path / "none.yaml")]) == 2
    assert cli.main([*check, "--only", "futur"]) == 2
    assert "unknown check 'futur' (did you mean 'future'?)" in capsys.readouterr().err
    assert cli.main(["check-leak", workflow(), "--after", "2020-05-05"]) == 2
    assert "must be a day of the test segment" in capsys.readouterr().err
    (tmp_path / "broken.yaml").write_text("task: {% if %}")
    assert cli.main(["check-leak", str(tmp_path / "broken.yaml")]) == 2
    assert "is no workflow" in capsys.readouterr().err
    config["task"]["model"]["class"] = "NoModel"
    assert cli.main(["check-leak", workflow(), "--only", "overlap"]) == 2
    assert "'NoModel' cannot be loaded" in capsys.readouterr().err
    config["task"]["model"] |= {"class": "MLPModel", "kwargs": {"n_epohcs": 3}}
    assert cli.main(["check-leak", workflow(), "--only", "future"]) == 2
    error = capsys.readouterr().err
    assert "no option 'n_epohcs'" in error and "Traceback" not in error


def test_what_proves_nothing_is_marked_and_has_a_status_of_its_own(workflow, config, capsys):
    dataset_of(config)["segments"]["valid"][0] = "2020-06-29"
    check = ["check-leak", workflow(), "--only", "overlap", "--only", "future"]
    assert cli.main(check) == 2
    told = capsys.readouterr().out
    assert "\n?    overlap" in told and "LEAK" not in told and told.endswith("2 of 2 comparisons prove nothing.\n")
    assert cli.main([*check, "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert not found["passed"] and found["leaks"] == 0 and [row["proves"] for row in found["rows"]] == [False] * 2


def test_a_leak_beside_what_proves_nothing_is_a_leak(workflow, capsys, monkeypatch):
    rows = [lc.Finding("a", "x", 1, 0, True), lc.Finding("a", "y", 1, 1, False)]
    rows.append(lc.Finding("a", "z", 0, 0, False, proves=False))
    for some, status in ((rows, 1), (rows[:1], 0), (rows[::2], 2)):
        table = pd.DataFrame([vars(row) for row in some], columns=COLUMNS)
        monkeypatch.setattr("qlib_ext.leak.check_leak", lambda *_a, table=table, **_k: table)
        assert cli.main(["check-leak", workflow()]) == status
    told = capsys.readouterr().out
    assert "1 of 3 comparisons failed. 1 of 3 comparisons prove nothing.\n" in told and "No leak found.\n" in told


def test_the_environment_is_rendered(market, monkeypatch):
    monkeypatch.setenv("QLIB_EXT_PROVIDER_URI", str(market))
    found = leak.load_workflow(Path(__file__).parents[1] / "workflows" / "mlp_liq.yaml")
    assert found["qlib_init"]["provider_uri"] == str(market)
