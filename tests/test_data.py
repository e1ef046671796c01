"""DayDatasetH, the two models on it, CSNormalise, and the shipped workflows on a small embedded market."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import qlib
import reference_nets
import torch
from qlib.data import D
from qlib.data.data import FeatureD
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from report_page import tables

from qlib_ext.data import (
    PROFILES,
    DayDatasetH,
    dated_handler,
    label_span,
    load_liquidity,
    unit_profile,
)
from qlib_ext.evaluate import daily_metrics, metric_value
from qlib_ext.model import MASTERModel, MLPModel
from qlib_ext.portfolio import Day, fill_top_n
from qlib_ext.processor import CSNormalise, cross_section_zscore
from qlib_ext.provider import read_fields, trailing_mean, trailing_volatility
from qlib_ext.rules import turnover_in_yuan
from qlib_ext.runs import find_run
from qlib_ext.strategy import LiquidityTopNStrategy
from qlib_ext.synthetic import make_market, simulate

ROOT = Path(__file__).parents[1]
SIZE = {"n_stocks": 40, "start": "2020-01-02", "years": 1.0, "seed": 3}
START, END = "2020-02-03", "2020-11-30"
SEGMENTS = {
    "train": ("2020-02-03", "2020-07-31"),
    "valid": ("2020-08-03", "2020-09-30"),
    "test": ("2020-10-08", "2020-11-30"),
}
FEATURES = {
    "KSFT": "(2*$close-$high-$low)/$open",
    "KMID": "($close-$open)/$open",
    "ROC5": "Ref($close, 5)/$close",
    "STD20": "Std($close, 20)/$close",
    "VWAP0": "$vwap/$close",
    "MA10": "Mean($close, 10)/$close",
}
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
SMALL = {"epochs": 2, "batch_days": 8, "device": "cpu", "capital": 3e7}
WORKFLOWS = sorted((ROOT / "workflows").glob("*.yaml"))


def start_qlib(path, folder):
    manager = {
        "class": "SqliteExpManager",
        "module_path": "qlib_ext.recorder",
        "kwargs": {"uri": f"sqlite:///{folder}/mlruns.db", "default_exp_name": "qlib_ext"},
    }
    qlib.init(provider_uri=str(path), region="cn", exp_manager=manager, kernels=1)


def make_handler(label=LABEL, start=START, end=END):
    fields = {"feature": (list(FEATURES.values()), list(FEATURES)), "label": ([label], ["LABEL0"])}
    return DataHandlerLP(
        instruments="all",
        start_time=start,
        end_time=end,
        data_loader={
            "class": "QlibDataLoader",
            "module_path": "qlib.data.dataset.loader",
            "kwargs": {"config": fields},
        },
        infer_processors=[{"class": "CSNormalise", "module_path": "qlib_ext.processor"}],
        learn_processors=[],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def market(folder):
    path = make_market(folder / "market", **SIZE)
    start_qlib(path, folder)
    return path


@pytest.fixture(scope="module")
def truth(market):
    """Day x stock frames of the simulation itself, which never went through qlib."""
    sim = simulate(**SIZE)
    days = pd.DatetimeIndex(sim.days)
    frames = {name: pd.DataFrame(value, days, list(sim.codes)) for name, value in sim.bars.items()}
    fields = {name: pd.DataFrame(value, days, list(sim.codes)) for name, value in sim.fields().items()}
    return {**frames, **{f"${name}": frame for name, frame in fields.items()}, "first": sim.setup.first}


@pytest.fixture(scope="module")
def handler(market):
    return make_handler()


@pytest.fixture(scope="module")
def dataset(handler):
    return DayDatasetH(handler, SEGMENTS, step_len=4)


@pytest.fixture(scope="module")
def panel(dataset):
    return dataset.panel


@pytest.fixture(scope="module")
def fitted(dataset):
    model = MLPModel(hidden=(16, 8), loss="liq_wpcc", **SMALL)
    model.fit(dataset)
    return model


def frame_of(panel, grid):
    return pd.DataFrame(np.asarray(grid), pd.DatetimeIndex(panel.days), panel.stocks)


# --- days of the handler


class Dated(DataHandlerLP):
    """Takes days to fit on, behind **kwargs of a child, as Alpha158 does."""

    def __init__(self, *, fit_start_time=None, fit_end_time=None, **kwargs):
        self.fitted = fit_start_time, fit_end_time
        super().__init__(**kwargs)


class Child(Dated):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)


def handler_config(kind, **kwargs):
    fields = {"feature": (["$close/$open"], ["KMID"]), "label": ([LABEL], ["LABEL0"])}
    config = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": fields}}
    return {"class": kind, "kwargs": {"instruments": "all", "data_loader": config, **kwargs}}


@pytest.mark.parametrize("kind", [Dated, Child])
def test_handler_takes_its_days_from_the_segments(market, kind):
    config = handler_config(kind)
    handler = DayDatasetH(config, SEGMENTS).handler
    assert (handler.start_time, handler.end_time) == (pd.Timestamp(START), pd.Timestamp(END))
    assert handler.fitted == tuple(map(pd.Timestamp, SEGMENTS["train"]))
    assert "start_time" not in config["kwargs"]


def test_days_that_the_user_names_and_open_ends_stay(market):
    own = {"start_time": "2020-03-02", "fit_end_time": None}
    handler = DayDatasetH(handler_config(Dated, **own), SEGMENTS | {"test": ("2020-10-08", None)}).handler
    assert (handler.start_time, handler.end_time) == ("2020-03-02", None)
    assert handler.fitted == (pd.Timestamp(START), None)
    assert dated_handler("file://handler.pkl", SEGMENTS) == "file://handler.pkl"
    assert "fit_start_time" not in dated_handler(handler_config(DataHandlerLP), SEGMENTS)["kwargs"]


def test_days_of_the_segments_give_the_same_panel(market, panel):
    features = {"feature": (list(FEATURES.values()), list(FEATURES)), "label": ([LABEL], ["LABEL0"])}
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": features}}
    clean = {"class": "CSNormalise", "module_path": "qlib_ext.processor"}
    kwargs = {"data_loader": loader, "infer_processors": [clean], "learn_processors": []}
    same = DayDatasetH(handler_config(DataHandlerLP, **kwargs), SEGMENTS, step_len=4).panel
    assert torch.equal(same.x, panel.x) and torch.equal(same.present, panel.present)


# --- the panel


def test_panel_is_a_day_cross_section(dataset, panel, handler):
    feature = handler.fetch(col_set="feature", data_key=DataHandlerLP.DK_I)
    assert panel.features == list(FEATURES)
    for step_len in (1, dataset.step_len):
        rows = dataset.rows("valid")[[5, 0, 17]]
        batch = panel.batch(rows, step_len=step_len)
        for b, row in enumerate(rows):
            # everything in batch row b stands under the one date, for the stocks present on it and no others
            day = panel.days[row]
            codes = panel.stocks[batch.stock[b][batch.mask[b]].numpy()]
            assert sorted(codes) == sorted(panel.stocks[panel.present[row].numpy()])
            values = feature.loc[day].loc[list(codes)].to_numpy()
            np.testing.assert_array_equal(batch.x[b, -1][batch.mask[b]].numpy(), values)
            for back in range(step_len):
                then = feature.loc[panel.days[row - back]].reindex(codes).to_numpy()
                seen = batch.present[b, -1 - back][batch.mask[b]].numpy()
                np.testing.assert_array_equal(batch.x[b, -1 - back][batch.mask[b]].numpy()[seen], then[seen])
    assert len(np.unique(panel.days)) == len(panel.days)


def test_cells_equal_the_handlers_frame(panel, handler):
    feature = handler.fetch(col_set="feature", data_key=DataHandlerLP.DK_I)
    present = panel.present.numpy()
    cells = np.argwhere(present)[:: present.sum() // 20]
    for d, s in cells:
        np.testing.assert_array_equal(
            panel.x[d, s].numpy(), feature.loc[(panel.days[d], panel.stocks[s])].to_numpy(dtype=np.float32)
        )
    assert not panel.x[~panel.present].any()


def test_label_is_raw(panel, truth):
    close = truth["$close"]
    expected = close.shift(-2) / close.shift(-1) - 1
    got = frame_of(panel, panel.label)
    wanted = expected.loc[got.index, got.columns].where(panel.present.numpy())
    np.testing.assert_allclose(got.where(panel.present.numpy()), wanted, atol=2e-6)
    assert 0.005 < np.nanstd(got) < 0.1


def test_liquidity_is_the_trailing_mean_of_amount_in_yuan(panel, truth):
    yuan = truth["$amount"] * 1000
    days, present = pd.DatetimeIndex(panel.days), panel.present.numpy()
    got = panel.liquidity.numpy()
    for d in range(0, len(days), 9):
        past = yuan.loc[: days[d], list(panel.stocks)].tail(20)
        np.testing.assert_allclose(got[d][present[d]], past.mean().to_numpy()[present[d]], rtol=1e-5)
    shares = truth["lots"] * 100 * truth["vwap"]  # what yuan are: shares times price, unadjusted
    np.testing.assert_allclose(yuan, shares, rtol=1e-9)


def test_present_is_false_when_suspended_or_young(panel, truth):
    present = frame_of(panel, panel.present)
    traded = truth["$close"].notna().loc[present.index, present.columns]
    assert (~traded).to_numpy().any() and not present.to_numpy()[~traded.to_numpy()].any()
    calendar = truth["$close"].index
    for code, first in zip(truth["$close"].columns, truth["first"], strict=True):
        young = calendar[first : first + 60] if first else calendar[:0]
        expected = traded[code] & ~present.index.isin(young)
        assert (present[code].to_numpy() == expected.to_numpy()).all(), code
    assert truth["first"].max() > 0  # there is a listing to look at


def test_buyable_is_false_where_the_entry_closes_at_its_limit(panel, truth):
    buyable = frame_of(panel, panel.buyable)
    days, codes = buyable.index, buyable.columns
    chinext = np.where(truth["close"].index >= pd.Timestamp("2020-08-24"), 20, 10)
    locked, seen = {}, 0
    for code in codes:
        percent = 20 if code.startswith("SH688") else chinext if code.startswith("SZ30") else 10
        cents = np.rint(truth["reference"][code].fillna(0).to_numpy() * 100)
        limit = np.floor((cents * (100 + percent) + 50) / 100)
        locked[code] = np.rint(truth["close"][code].to_numpy() * 100) == limit
    locked = pd.DataFrame(locked, truth["close"].index)
    traded = truth["$close"].notna()
    entry = (traded & ~locked).shift(-1).loc[days, codes].astype(bool)
    there = panel.present.numpy()
    np.testing.assert_array_equal(buyable.to_numpy()[there], entry.to_numpy()[there])
    seen = (locked.shift(-1).loc[days, codes].eq(True).to_numpy() & there).sum()
    assert seen >= 3  # entries at the limit did happen


def test_nothing_known_at_the_close_of_a_day_changes_with_the_later_data(market, panel, folder):
    turn = "2020-09-15"
    k = int(np.searchsorted(panel.days, np.datetime64(turn)))
    calendar = pd.DatetimeIndex(D.calendar())
    at = int(calendar.searchsorted(pd.Timestamp(turn))) + 1
    copy = folder / "perturbed"
    shutil.copytree(market, copy)
    rng = np.random.default_rng(0)
    for file in sorted((copy / "features").glob("*/*.bin")):
        values = np.fromfile(file, dtype="<f4")
        tail = values[1 + max(0, at - int(values[0])) :]
        tail *= rng.uniform(0.8, 1.25, len(tail)).astype("f4")
        if file.parent.name == panel.stocks[0].lower() and file.stem != "factor":
            tail[:] = np.nan
        values.tofile(file)
    try:
        start_qlib(copy, folder)
        other = DayDatasetH(make_handler(), SEGMENTS).panel
    finally:
        start_qlib(market, folder)
    short = DayDatasetH(make_handler(end=turn), {"train": (START, turn)}).panel
    assert panel.days[k] == short.days[-1] and (other.days == panel.days).all()
    for changed in (other, short):
        assert (changed.stocks == panel.stocks).all()
        for name in ("x", "present", "liquidity", "volatility"):
            new, old = (getattr(p, name)[: k + 1].numpy() for p in (changed, panel))
            np.testing.assert_array_equal(new, old, err_msg=name)
    assert not torch.equal(other.x[k + 1 :], panel.x[k + 1 :])  # the perturbation did reach the panel
    assert not other.present[k + 1 :, 0].any() and panel.present[k + 1 :, 0].any()


# --- units


def test_unit_profile(market, panel, dataset):
    assert unit_profile(list(panel.stocks), START, END) == "community"
    auto = load_liquidity(list(panel.stocks), START, END)
    named = load_liquidity(list(panel.stocks), START, END, profile="community")
    pd.testing.assert_frame_equal(auto, named)


@pytest.mark.parametrize(
    ("expression", "fix"),
    [
        ("$close*$volume", r"wrong units: .*liquidity: '\(\$close\*\$volume\) \* 100'"),
        ("$amount", r"wrong units: .*liquidity: '\(\$amount\) \* 1000'"),
        ("yuan", r"wrong units: .*liquidity: '\(\$amount\) \* 1000'"),
    ],
)
def test_wrong_units_name_the_fix(handler, expression, fix):
    with pytest.raises(ValueError, match=fix):
        _ = DayDatasetH(handler, SEGMENTS, liquidity=expression).panel


def test_an_expression_of_about_the_turnover_is_the_users(handler):
    panel = DayDatasetH(handler, SEGMENTS, liquidity="$amount * 500").panel  # he trades in the afternoon only
    whole = DayDatasetH(handler, SEGMENTS).panel.liquidity
    torch.testing.assert_close(panel.liquidity, whole / 2, equal_nan=True)


@pytest.mark.parametrize("profile", ["community", "adjusted_shares", "yuan"])
def test_quick_grids_equal_qlibs_expressions(profile, market):
    codes, start, end = sorted(D.list_instruments(D.instruments("all"), as_list=True)), "2020-03-02", "2020-11-30"
    expressions = [f"Mean({PROFILES[profile]}, 7)", "Std($close/Ref($close, 1) - 1, 9)", "$close"]
    days = D.calendar(start_time=start, end_time=end)
    frame = D.features(codes, expressions, start, end)
    mean, std, close = (frame[e].unstack("instrument").reindex(index=days, columns=codes) for e in expressions)
    raw = read_fields(codes, ["$close", "$nosuch"], start, end, lead=9)
    assert raw["$nosuch"].isna().all(axis=None) and len(raw["$close"]) == len(days) + 9
    np.testing.assert_array_equal(raw["$close"].loc[days], close)
    lasts = {code: FeatureD.backend_obj(instrument=code, field="close", freq="day").end_index for code in codes}
    place = np.arange(len(D.calendar()))[pd.DatetimeIndex(D.calendar()).get_indexer(days)]
    listed = pd.DataFrame({code: place <= last for code, last in lasts.items()}, index=days)
    assert close.isna().where(listed, False).any(axis=None)  # suspended, or not yet listed
    fields = read_fields(codes, ["$amount", "$close", "$volume"], start, end, lead=6)
    quick = trailing_mean(turnover_in_yuan(profile, fields), 7).loc[days]
    np.testing.assert_allclose(quick.where(listed), mean, rtol=1e-5)
    if profile == "community":
        np.testing.assert_allclose(load_liquidity(codes, start, end, profile=profile, window=7), quick)
    spread = trailing_volatility(raw["$close"], 9).loc[days]
    np.testing.assert_allclose(spread.where(listed), std, rtol=1e-4, atol=1e-7)


def test_unknown_profile_and_missing_field(handler):
    with pytest.raises(ValueError, match="'comunity'.*auto, community, yuan"):
        DayDatasetH(handler, SEGMENTS, liquidity="comunity")
    with pytest.raises(ValueError, match="nowhere known"):
        _ = DayDatasetH(handler, SEGMENTS, liquidity="$turnover_of_nobody").panel


def test_without_liquidity_the_panel_has_none(handler):
    assert DayDatasetH(handler, SEGMENTS, liquidity=None).panel.liquidity is None


# --- labels and segments


@pytest.mark.parametrize(
    ("expression", "entry", "reach"),
    [
        ("Ref($close, -2)/Ref($close, -1) - 1", 1, 2),
        ("Ref($close,-1)/$close-1", 0, 1),
        ("Ref($open,-2)/Ref($open,-1)-1", 1, 2),
        ("Ref($vwap, -11) / Ref($vwap, -1) - 1", 1, 11),
        ("Log(Ref($close, -6)/Ref($open, -1))", 1, 6),
    ],
)
def test_label_span(expression, entry, reach):
    span = label_span(expression)
    assert (span.entry, span.reach, span.horizon) == (entry, reach, reach - entry)


@pytest.mark.parametrize(
    "expression",
    [
        *("$close/Ref($close, 1) - 1", "$close", "Ref($close, -1)", "1"),
        "Ref(Mean($close, 5), -5)/Ref($close, -1) - 1",  # its days cannot be told from its text
        "Ref($close/$factor, -5)/Ref($close, -1) - 1",
        "Ref(($close+$open)/2, -3)/Ref($open, -1) - 1",
    ],
)
def test_a_label_without_a_future_is_an_error(expression):
    with pytest.raises(ValueError, match="no forward return"):
        label_span(expression)


def test_label_days_stand_for_a_label_that_is_not_understood(market):
    label = "Ref(Mean($close, 3), -5)/Ref($close, -1) - 1"
    handler = make_handler(label=label, end="2020-06-30")
    segments = {"train": ("2020-02-03", "2020-04-30"), "test": ("2020-05-06", "2020-06-30")}
    with pytest.raises(ValueError, match="label_days"):
        DayDatasetH(handler, segments).rows("train")
    dataset = DayDatasetH(handler, segments, label_days=[1, 5])
    assert (dataset.span.entry, dataset.span.reach) == (1, 5)
    assert dataset.rows("train")[-1] == dataset.rows("test")[0] - 6
    with pytest.raises(ValueError, match=r"label_days is \[5, 1\]"):
        DayDatasetH(handler, segments, label_days=[5, 1])


def test_a_label_that_nobody_tells_or_told_twice_is_an_error(handler, market):
    frame = handler.fetch(col_set=DataHandlerLP.CS_RAW, data_key=DataHandlerLP.DK_R)
    loader = {"class": "StaticDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": frame}}
    silent = DataHandlerLP(instruments=None, data_loader=loader)
    with pytest.raises(ValueError, match="cannot tell its label"):
        DayDatasetH(silent, SEGMENTS).rows("train")
    assert DayDatasetH(silent, SEGMENTS, label=LABEL).span.reach == 2
    with pytest.raises(ValueError, match="drop the one"):
        DayDatasetH(handler, SEGMENTS, label="Ref($close, -6)/Ref($close, -1) - 1").rows("train")


def test_buyable_looks_at_the_price_that_the_label_enters_at(market, truth):
    handler = make_handler(label="Ref($open, -2)/Ref($open, -1) - 1")
    panel = DayDatasetH(handler, SEGMENTS, step_len=1).panel
    closing = DayDatasetH(make_handler(), SEGMENTS, step_len=1).panel
    assert not torch.equal(panel.buyable, closing.buyable)  # locked at the close, but open below the limit
    assert panel.buyable.sum() > closing.buyable.sum()


def test_new_segments_are_checked_as_the_first(handler):
    dataset = DayDatasetH(handler, SEGMENTS)
    with pytest.raises(ValueError, match="overlap"):
        dataset.config(segments=SEGMENTS | {"valid": ("2020-07-01", "2020-09-30")})


def test_overlapping_segments_are_an_error(handler):
    with pytest.raises(ValueError, match="'train' and 'valid' overlap from 2020-07-31"):
        DayDatasetH(handler, {**SEGMENTS, "valid": ("2020-07-31", "2020-09-30")})


def test_touching_segments_are_purged_by_the_reach(dataset, panel):
    days = pd.DatetimeIndex(panel.days)
    for name in ("train", "valid"):
        start, end = SEGMENTS[name]
        whole = np.flatnonzero((days >= start) & (days <= end))
        np.testing.assert_array_equal(dataset.rows(name), whole[:-2])
    start, end = SEGMENTS["test"]
    np.testing.assert_array_equal(dataset.rows("test"), np.flatnonzero((days >= start) & (days <= end)))


def test_segments_with_a_gap_lose_nothing(handler):
    made = DayDatasetH(handler, {**SEGMENTS, "train": ("2020-02-03", "2020-07-29")}, liquidity=None)
    assert pd.Timestamp(made.panel.days[made.rows("train")[-1]]) == pd.Timestamp("2020-07-29")


def test_a_segment_outside_the_data_or_unknown(handler):
    made = DayDatasetH(handler, {**SEGMENTS, "test": ("2021-03-01", "2021-06-30")}, liquidity=None)
    with pytest.raises(ValueError, match="'test' .* is outside the data, 2020-02-03 to 2020-11-30"):
        made.rows("test")
    with pytest.raises(ValueError, match="no segment 'tset'.*'test'"):
        made.rows("tset")


# --- models


def check_prediction(score, panel, rows):
    assert isinstance(score, pd.Series) and score.index.names == ["datetime", "instrument"]
    assert score.index.is_monotonic_increasing and score.index.is_unique and np.isfinite(score).all()
    present = frame_of(panel, panel.present).iloc[rows].stack()
    assert list(score.index) == list(present[present].index)
    assert (score.groupby("datetime").std() > 1e-4).all()  # a model that scores all stocks alike has learnt nothing


def test_mlp_fits_and_predicts(fitted, dataset, panel):
    check_prediction(fitted.predict(dataset), panel, dataset.rows("test"))
    check_prediction(fitted.predict(dataset, "valid"), panel, dataset.rows("valid"))
    part = fitted.predict(dataset, slice("2020-10-12", "2020-10-14"))
    assert [str(d)[:10] for d in part.index.unique(0)] == ["2020-10-12", "2020-10-13", "2020-10-14"]
    pd.testing.assert_series_equal(part, fitted.predict(dataset).loc["2020-10-12":"2020-10-14"])
    assert len(fitted.history.epochs) == 2 and 1 <= fitted.history.best_epoch <= 2


def test_master_fits_and_predicts(dataset, panel):
    model = MASTERModel(d_model=16, t_heads=2, s_heads=2, dropout=0.1, loss="liq_wpcc", **SMALL)
    model.fit(dataset)
    check_prediction(model.predict(dataset), panel, dataset.rows("test"))


def test_training_is_repeatable_and_pickles(fitted, dataset):
    score = fitted.predict(dataset)
    pd.testing.assert_series_equal(pickle.loads(pickle.dumps(fitted)).predict(dataset), score)
    again = MLPModel(hidden=(16, 8), loss="liq_wpcc", **SMALL)
    again.fit(dataset)
    pd.testing.assert_series_equal(again.predict(dataset), score)


@pytest.mark.parametrize("kind", [MLPModel, MASTERModel])
def test_a_misspelt_option_is_a_type_error(kind):
    with pytest.raises(TypeError, match=r"no option 'n_epohcs'; close: \[.*'epochs'"):
        kind(n_epohcs=3)


def test_not_fitted_or_reweighted(dataset):
    model = MLPModel(**SMALL)
    with pytest.raises(ValueError, match="call fit first"):
        model.predict(dataset)
    with pytest.raises(ValueError, match="reweighter"):
        model.fit(dataset, reweighter=object())


def test_plain_dataset(handler):
    plain = DatasetH(handler, SEGMENTS)
    model = MLPModel(hidden=(16, 8), loss="wpcc", metric="rank_ic", **SMALL)
    model.fit(plain)
    score = model.predict(plain)
    assert score.index.is_monotonic_increasing
    assert str(score.index[0][0])[:10] == SEGMENTS["test"][0] and str(score.index[-1][0])[:10] == SEGMENTS["test"][1]
    with pytest.raises(ValueError, match=r"needs liquidity.*DayDatasetH"):
        MLPModel(loss="liq_wpcc", metric="rank_ic", **SMALL).fit(plain)
    with pytest.raises(ValueError, match="liquidity"):
        MLPModel(loss="wpcc", metric="capped_excess", **SMALL).fit(plain)
    with pytest.raises(ValueError, match="DayDatasetH"):
        model.fit(object())


def test_features_fitted_on_test_days_are_refused(dataset):
    class Late:
        fields_group, fit_end_time = "feature", "2020-08-31"

    late = DayDatasetH(dataset.handler, SEGMENTS, step_len=4)
    late._panel = dataset.panel
    kept = dataset.handler.infer_processors
    try:
        late.handler.infer_processors = [*kept, Late()]
        with pytest.raises(ValueError, match="Late .* beyond the training days .to 2020-07-31"):
            MLPModel(hidden=(16, 8), **SMALL).fit(late)
    finally:
        late.handler.infer_processors = kept


def test_other_features_than_the_trained_ones_are_refused(fitted, dataset):
    turned = DayDatasetH(dataset.handler, SEGMENTS, step_len=4)
    turned._panel = replace(dataset.panel, features=dataset.panel.features[::-1])
    with pytest.raises(ValueError, match="differ first at place 0: .'KSFT'"):
        fitted.predict(turned)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((MLPModel, {"hidden": [0, -3]}), (MLPModel, {"epochs": 1.5}), (MLPModel, {"clip": -1.0})),
        *((MASTERModel, {"d_model": 250}), (MASTERModel, {"key_dropout": -0.5}), (MASTERModel, {"variant": "x"})),
        *((MLPModel, {"seed": -1}), (MLPModel, {"lr": "1e-3"}), (MLPModel, {"participation": 0})),
    ],
)
def test_options_that_cannot_be_are_errors_at_once(kind, options):
    with pytest.raises(ValueError, match=next(iter(options)).split("_")[0]):
        kind(**options)


# --- metric = evaluator = strategy


@pytest.mark.parametrize("top_n", [None, 5])
def test_metric_evaluator_and_strategy_place_the_same_yuan(fitted, dataset, panel, top_n):
    row = int(dataset.rows("test")[7])
    score = fitted.predict(dataset).loc[pd.Timestamp(panel.days[row])]
    at = pd.Index(panel.stocks).get_indexer(score.index)
    label, liquidity = (g[row].numpy()[at].astype(float) for g in (panel.label, panel.liquidity))
    buyable = panel.buyable[row].numpy()[at]
    money = {"capital": 2e7, "participation": 0.05}
    policy = LiquidityTopNStrategy(signal=fitted.predict(dataset), top_n=top_n, **money).policy
    values, none = score.to_numpy(dtype=float), np.zeros(len(score))
    target = policy.target(Day(values, none, liquidity, liquidity, none, 0.0, 0.0, 0.0, none == 0))
    placed = fill_top_n(score.to_numpy(dtype=float), liquidity, top_n=top_n, **money)
    np.testing.assert_array_equal(target, placed)
    loaded = load_liquidity(list(score.index), panel.days[row], panel.days[row]).iloc[0].to_numpy(dtype=float)
    own = policy.target(Day(values, none, loaded, loaded, none, 0.0, 0.0, 0.0, none == 0))  # what it loads for itself
    np.testing.assert_allclose(own, target, atol=1.0)
    name = "capped_return" if top_n is None else "topn_return"
    earned = np.nansum(np.where(buyable, target, 0.0) * label) / money["capital"]
    arrays = [np.asarray(a)[None] for a in (score.to_numpy(dtype=float), label, liquidity, buyable)]
    daily = daily_metrics(*arrays, top_n=top_n or 30, **money)
    value, _ = metric_value(name, *arrays, top_n=top_n or 30, **money)
    assert 0 < target.sum() <= money["capital"] + 1
    assert daily[name].iloc[0] * money["capital"] == pytest.approx(earned * money["capital"], abs=0.5)
    assert value == pytest.approx(daily[name].iloc[0], abs=1e-12)


# --- processor


def test_csnormalise_equals_groupby_in_any_order_of_rows_and_columns():
    rng = np.random.default_rng(0)
    day = rng.permutation(np.repeat(np.arange(12), 25))
    value = rng.normal(5, 2, (len(day), 2)) ** 3
    value[rng.choice(len(day), 20), 0], value[3, 0], value[4, 0] = np.nan, np.inf, -np.inf
    value[day == 5, 0], value[day == 6, 0] = 0.1, np.nan  # a constant day, a day without values
    columns = pd.MultiIndex.from_tuples([("feature", "a"), ("label", "LABEL0"), ("feature", "b")])
    dates = pd.Timestamp("2020-01-01") + pd.to_timedelta(day, unit="D")
    index = pd.MultiIndex.from_arrays([dates, [f"S{i:03d}" for i in range(len(day))]], names=["datetime", "instrument"])
    raw = pd.DataFrame(np.column_stack([value[:, 0], np.arange(len(day)), value[:, 1]]), index, columns)
    before = raw.copy()
    done = CSNormalise()(raw)
    assert done.index.equals(index) and done.columns.equals(columns)
    pd.testing.assert_frame_equal(raw, before)  # what comes in is not written to, as `readonly` promises
    assert CSNormalise().readonly() and not np.shares_memory(done[("label", "LABEL0")], raw[("label", "LABEL0")])
    np.testing.assert_array_equal(done[("label", "LABEL0")], raw[("label", "LABEL0")])
    finite = raw["feature"].where(np.isfinite(raw["feature"]))
    groups = finite.groupby(day)
    expected = (finite - groups.transform("mean")) / groups.transform(lambda v: v.std(ddof=0))
    expected.loc[day == 5, "a"] = 0.0
    np.testing.assert_allclose(done["feature"], expected.clip(-3, 3).fillna(0.0), atol=1e-6)
    assert (done["feature"].dtypes == np.float32).all()


def test_csnormalise_tells_what_it_fills(monkeypatch):
    told = []
    monkeypatch.setattr("qlib_ext.features.processor.logger.warning", told.append)
    monkeypatch.setattr("qlib_ext.features.processor.logger.info", told.append)
    days = pd.MultiIndex.from_product([pd.date_range("2020-01-01", periods=2), ["a", "b"]])
    raw = pd.DataFrame({"KMID": [1.0, 2.0, np.nan, 3.0], "VWAP0": np.nan}, days.set_names(["datetime", "instrument"]))
    CSNormalise(fields_group=None)(raw)
    assert "1 features have no value on any day" in told[0] and "VWAP0" in told[0] and "KMID" not in told[0]
    assert told[1].startswith("62.50% ") and len(told) == 2  # 5 of 8 values
    CSNormalise(fields_group=None)(raw[["KMID"]].fillna(0.0))
    assert len(told) == 2


def test_cross_section_zscore_by_hand():
    # mean 2, population deviation sqrt((1 + 0 + 1) / 3) = 0.8165; the infinite one counts for nothing and becomes 0
    got = cross_section_zscore(np.array([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0], [np.inf, np.nan]]), 1.1)
    np.testing.assert_allclose(got, [[-1.1, 0.0], [0.0, 0.0], [1.1, 0.0], [0.0, 0.0]], atol=1e-12)


@pytest.mark.parametrize("rows", [0, 1])
def test_csnormalise_of_hardly_any_rows(rows):
    index = pd.MultiIndex.from_tuples([(pd.Timestamp("2020-01-01"), "S0")][:rows], names=["datetime", "instrument"])
    done = CSNormalise(fields_group=None)(pd.DataFrame({"a": [7.0][:rows]}, index=index))
    assert done.shape == (rows, 1) and not done.to_numpy().any()


def test_csnormalise_leaves_the_label(handler):
    raw = handler.fetch(col_set=DataHandlerLP.CS_RAW, data_key=DataHandlerLP.DK_R)
    done = CSNormalise()(raw)
    assert list(done.columns) == list(raw.columns)
    pd.testing.assert_frame_equal(done["label"], raw["label"])
    wide = raw[("feature", "KSFT")].unstack("instrument")
    expected = wide.sub(wide.mean(axis=1), axis=0).div(wide.std(axis=1, ddof=0), axis=0).clip(-3, 3)
    known = expected.notna().to_numpy()
    got = done[("feature", "KSFT")].unstack("instrument").to_numpy()
    np.testing.assert_allclose(got[known], expected.to_numpy()[known], atol=1e-5)
    with pytest.raises(ValueError, match="clip=0 must be above 0"):
        CSNormalise(clip=0)
    with pytest.raises(TypeError, match=r"no option 'clp'; close: \['clip'\]; allowed: fields_group, clip"):
        CSNormalise(clp=2)


# --- workflows, as a user runs them


def for_the_authors_weights(market, folder):
    """A market with the three indices, and random weights by the authors' names: provider folder, file."""
    market = shutil.copytree(market, folder / "market")
    for code in ("sh000905", "sh000906"):
        shutil.copytree(market / "features" / "sh000300", market / "features" / code)
    torch.save(reference_nets.random_checkpoint(158, 256, 63), folder / "csi300.pkl")
    return market, folder / "csi300.pkl"


def run_workflow(workflow, market, folder):
    environment = dict(os.environ)
    if workflow.stem == "master_finetune":
        market, environment["QLIB_EXT_INIT_FROM"] = map(str, for_the_authors_weights(market, folder))
    early = "2020-04-13" if workflow.stem in ("master_gate", "master_finetune") else "2020-03-02"  # 61 days
    environment |= {
        "QLIB_EXT_PROVIDER_URI": str(market),
        "QLIB_EXT_TRAIN": f"{early},2020-07-31",
        "QLIB_EXT_VALID": "2020-08-03,2020-09-30",
        "QLIB_EXT_TEST": "2020-10-09,2020-12-31",  # the calendar's last day, which qlib's own backtest fails on
    }
    environment.pop("QLIB_EXT_UNIVERSE", None)
    for name in ("QLIB_EXT_MACRO", "QLIB_EXT_MACRO_CPI"):
        environment.pop(name, None)
    environment.setdefault("OMP_NUM_THREADS", "1")  # small matrices; threads only get in the way
    command = [str(Path(sys.executable).with_name("qrun")), str(workflow)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert output.count("\n") < 100 and "\n  page  " in output, output
    shown = find_run("latest", uri=f"sqlite:///{folder / 'mlruns.db'}").folder
    for name in ("daily", "positions", "headline", "definitions"):
        assert (shown / "liquidity_analysis" / f"{name}.pkl").is_file(), shown
    return shown


def test_the_mlp_workflow_runs(market, tmp_path):
    shown = run_workflow(ROOT / "workflows" / "mlp_liq.yaml", market, tmp_path)
    table = pd.read_pickle(shown / "liquidity_analysis" / "headline.pkl")
    total = table["mean_return"]
    for kind in ("capped_buyable", "topn_paper"):
        assert total[f"{kind}_gross"] > total[f"{kind}_net"] > total[f"{kind}_net_impact"] > -1
    assert table["mean_ic"].drop(["market", "SH000300"]).nunique() == 1
    assert table.loc[["market", "SH000300"], "mean_ic"].isna().all()
    backtest = pd.read_pickle(shown / "portfolio_analysis" / "report_normal_1day.pkl")
    assert backtest.index[-1] == pd.Timestamp("2020-12-30")
    page = tables((shown / "report.html").read_text(encoding="utf-8"))
    for name, path in {
        "headline": "liquidity_analysis/headline.pkl",
        "capacity": "liquidity_analysis/capacity.pkl",
        "capacity_topn": "liquidity_analysis/capacity_topn.pkl",
        "waterfall": "portfolio_analysis/waterfall.pkl",
    }.items():
        same_as_artifact(page[name], pd.read_pickle(shown / path))
    performance = pd.read_pickle(shown / "portfolio_analysis" / "execution.pkl")["performance"]
    same_as_artifact(page["execution-performance"], performance)


def same_as_artifact(shown, table):
    """Every number that the page shows is the artifact's, and none of its rows is left out."""
    assert [str(row) for row in table.index] == list(shown)
    numbers = 0
    for row, values in zip(table.index, shown.values(), strict=True):
        for column, value in values.items():
            if value is not None and column in table.columns:
                np.testing.assert_allclose(value, float(table.loc[row, column]), rtol=1e-9)
                numbers += 1
    assert numbers >= len(table)


def test_the_main_job_runs(market, tmp_path):
    """master_liq.yaml as it is shipped, but one short epoch."""
    text = (ROOT / "workflows" / "master_liq.yaml").read_text(encoding="utf-8")
    short = re.sub(r"d_model: \d+", "d_model: 16", re.sub(r"epochs: \d+", "epochs: 1", text))
    assert short.count("epochs: 1\n") == 1 and short.count("d_model: 16\n") == 1
    workflow = tmp_path / "master_liq.yaml"
    workflow.write_text(short, encoding="utf-8")
    shutil.copy(ROOT / "workflows" / "qlib_ext_base.yml", tmp_path)
    shown = run_workflow(workflow, market, tmp_path)
    score = pd.read_pickle(shown / "pred.pkl")["score"]
    assert (score.groupby("datetime").std() > 0).all()
    assert "headline" in tables((shown / "report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_workflow_runs(workflow, market, tmp_path):
    shown = run_workflow(workflow, market, tmp_path)
    gated = workflow.stem in ("master_gate", "master_macro", "master_finetune")
    assert (shown / "gate" / "weights.pkl").is_file() == gated
    if gated:
        weights = pd.read_pickle(shown / "gate" / "weights.pkl")
        assert weights.shape[1] == 158 and weights.std().max() > 0  # it moves with the market's state
