"""Factors of the user's own files beside qlib's, alone and nested: joined as a slow merge does, through every door."""

import copy
import logging
import pickle

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.data import D
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import init_instance_by_config

from qlib_ext.data import DayDatasetH, handler_frames
from qlib_ext.handler import FastAlpha158, FastAlpha360, FastDaily, FrameLoader
from qlib_ext.model import FoldEnsemble
from qlib_ext.recorder import check_task
from qlib_ext.synthetic import make_market

SPAN = {"start_time": "2020-04-01", "end_time": "2020-08-31"}
RAW = {"infer_processors": [], "learn_processors": []}
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
CLEAN = {"class": "CSNormalise", "module_path": "qlib_ext.processor"}


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    path = make_market(
        tmp_path_factory.mktemp("frames") / "market", n_stocks=16, start="2020-01-02", years=0.75, seed=5
    )
    qlib.init(provider_uri=str(path), region="cn", kernels=1)
    return path


@pytest.fixture(scope="module")
def own(market):
    """A table of every calendar day from before the market to after it, some of it missing, as files in its folder."""
    rng = np.random.default_rng(0)
    codes = sorted(p.name.upper() for p in (market / "features").iterdir() if not p.name.startswith("sh000"))
    index = pd.MultiIndex.from_product([pd.date_range("2020-01-01", "2020-10-31"), [*codes[:12], "SH688999"]])
    table = pd.DataFrame(rng.normal(size=(len(index), 2)), index.set_names(["datetime", "instrument"]), ["OWN", "SLOW"])
    table["SLOW"] = table["SLOW"].where(rng.random(len(table)) < 0.03)
    table.reset_index().to_csv(market / "own.csv", index=False)
    table.to_parquet(market / "own.parquet")
    return table


def merged(table, index, name, lag, max_age):
    """The column on the rows of an index: a slow merge, stock by stock."""
    calendar = pd.DatetimeIndex(D.calendar())
    out = pd.Series(np.nan, index)
    for code, rows in out.groupby(level="instrument"):
        if code not in table.index.levels[1]:
            continue
        value = table[name].xs(code, level=1).dropna()
        at = [
            calendar.searchsorted(day, "right") + lag - 1 if lag else calendar.searchsorted(day) for day in value.index
        ]
        value = pd.Series(value.to_numpy(), at)
        place = pd.Series(value.index, value.index)
        value = value[~value.index.duplicated(keep="last")]
        place = place[~place.index.duplicated(keep="last")]
        days = np.arange(len(calendar))
        held = value.reindex(days, method="ffill")
        age = days - place.reindex(days, method="ffill")
        held = held.where(age <= max_age)
        out.loc[rows.index] = held.to_numpy()[calendar.get_indexer(rows.index.get_level_values(0))]
    return out.to_numpy(dtype=np.float32)


FILES = [
    {"path": "own.csv", "lag": 0, "columns": ["OWN"]},
    {"path": "own.parquet", "lag": 1, "columns": ["SLOW"], "max_age": 20},
]


def test_the_handler_has_them_beside_its_own(market, own):
    plain, with_own = FastAlpha158(instruments="all", **SPAN, **RAW), FastAlpha158("all", **SPAN, **RAW, frames=FILES)
    got = with_own._data
    assert [*got["feature"].columns[-2:]] == ["OWN", "SLOW"] and got.columns[-1] == ("label", "LABEL0")
    pd.testing.assert_frame_equal(got.drop(columns=[("feature", "OWN"), ("feature", "SLOW")]), plain._data)
    assert (got.dtypes == np.float32).all() and got["feature"].shape[1] == 160
    np.testing.assert_array_equal(got["feature", "OWN"], merged(own, got.index, "OWN", 0, 0))
    np.testing.assert_array_equal(got["feature", "SLOW"], merged(own, got.index, "SLOW", 1, 20))
    assert 0.1 < got["feature", "SLOW"].notna().mean() < 0.75 and got["feature", "OWN"].notna().any()
    stopped = plain._data["feature", "KMID"].isna()  # suspended: the user's value is known all the same
    assert stopped.any() and got["feature", "OWN"][stopped].notna().any()


def test_fast_daily_has_them_behind_its_own(market, own):
    got = FastDaily("all", **SPAN, **RAW, frames=FILES, with_alpha158=True)._data
    plain = FastDaily("all", **SPAN, **RAW, with_alpha158=True)._data
    assert [*got["feature"].columns[-2:]] == ["OWN", "SLOW"] and (got.dtypes == np.float32).all()
    pd.testing.assert_frame_equal(got.drop(columns=[("feature", "OWN"), ("feature", "SLOW")]), plain)
    np.testing.assert_array_equal(got["feature", "SLOW"], merged(own, got.index, "SLOW", 1, 20))
    with pytest.raises(ValueError, match="AMIHUD20: there is such a factor already"):
        FastDaily("all", **SPAN, **RAW, frames={"path": "own.csv", "columns": {"OWN": "AMIHUD20"}})


def test_each_file_may_have_its_lags(market, own):
    lags = [{"path": "own.parquet", "lag": {"OWN": 2, "SLOW": 0}, "max_age": {"OWN": 0, "SLOW": 5}}]
    got = FastAlpha360(instruments="all", **SPAN, **RAW, frames=lags)._data["feature"]
    np.testing.assert_array_equal(got["OWN"], merged(own, got.index, "OWN", 2, 0))
    np.testing.assert_array_equal(got["SLOW"], merged(own, got.index, "SLOW", 0, 5))


def test_the_loader_alone_and_nested(market, own):
    both = FastAlpha158("all", **SPAN, **RAW, frames=FILES)._data
    loader = {"class": "FrameLoader", "module_path": "qlib_ext.handler", "kwargs": {"frames": FILES, "label": LABEL}}
    config = {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler"}
    alone = init_instance_by_config(config | {"kwargs": {"instruments": "all", **SPAN, "data_loader": loader}})
    pd.testing.assert_frame_equal(alone._data["feature"], both["feature"][["OWN", "SLOW"]])
    np.testing.assert_allclose(alone._data["label"], both["label"], rtol=1e-6)
    bare = {**loader, "kwargs": {"frames": FILES}}
    alpha = {
        "class": "Alpha158DL",
        "module_path": "qlib.contrib.data.loader",
        "kwargs": {"config": {"label": ([LABEL], ["LABEL0"]), "feature": (["$close"], ["CLOSE"])}},
    }
    nested = {"class": "NestedDataLoader", "kwargs": {"dataloader_l": [alpha, bare]}}
    nested["module_path"] = "qlib.data.dataset.loader"
    got = init_instance_by_config(config | {"kwargs": {"instruments": "all", **SPAN, "data_loader": nested}})._data
    pd.testing.assert_frame_equal(got["feature"][["OWN", "SLOW"]], both["feature"][["OWN", "SLOW"]])
    assert ("feature", "CLOSE") in got.columns and ("label", "LABEL0") in got.columns


def test_qlibs_own_loader_has_them_too(market, own, monkeypatch):
    monkeypatch.setattr("qlib_ext.features.compiled.njit", None)
    got = FastAlpha158("all", **SPAN, **RAW, frames=FILES)._data
    np.testing.assert_array_equal(got["feature", "SLOW"].astype(np.float32), merged(own, got.index, "SLOW", 1, 20))
    assert got["feature"].shape[1] == 160 and got.columns[-1] == ("label", "LABEL0")


def test_nothing_published_later_reaches_a_day(market, own):
    cut = pd.Timestamp("2020-06-12")
    later = own.copy()
    later[later.index.get_level_values(0) > cut] *= 7.0
    later.to_parquet(market / "later.parquet")
    then, now = (
        FastAlpha158("all", **SPAN, **RAW, frames=[{"path": name, "lag": 1, "max_age": 20}])._data["feature"]
        for name in ("own.parquet", "later.parquet")
    )
    pd.testing.assert_frame_equal(then.loc[:cut], now.loc[:cut])
    assert (then.loc["2020-06-16":, "OWN"].dropna() != now.loc["2020-06-16":, "OWN"].dropna()).all()


def dataset(frames=FILES):
    handler = {
        "class": "FastAlpha158",
        "module_path": "qlib_ext.handler",
        "kwargs": {"instruments": "all", "infer_processors": [CLEAN], "learn_processors": [], "frames": frames},
    }
    segments = {"train": ["2020-04-01", "2020-06-12"], "valid": ["2020-06-19", "2020-07-10"]}
    kwargs = {"handler": handler, "segments": segments | {"test": ["2020-07-15", "2020-08-31"]}, "step_len": 2}
    return {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": kwargs | {"listing_age": 0}}


def test_models_learn_and_score_with_them(market, own, tmp_path):
    data = init_instance_by_config(dataset())
    assert data.panel.features[-2:] == ["OWN", "SLOW"] and data.panel.x.shape[2] == 160
    member = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"hidden": [4], "epochs": 1}}
    model = FoldEnsemble(model=member, n_splits=2)
    model.fit(data)
    score = model.predict(data)
    assert len(score) and score.notna().all()
    again = pickle.loads(pickle.dumps(data))  # as a recorder keeps it: without its data
    again.setup_data(handler_kwargs={"init_type": DataHandlerLP.IT_LS})
    pd.testing.assert_series_equal(model.predict(again), score)


def test_a_workflow_is_checked_before_it_runs(market, own):
    model = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"epochs": 1}}
    check_task({"model": model, "dataset": dataset()})
    for frames, words in (
        ([{"path": "own.csv", "lagg": 1}], "frames has no option 'lagg'; close: \\['lag'\\]"),
        ([{"path": "none.csv"}], "no file 'none.csv' here"),
        ([{"path": "own.csv", "lag": -1}], "own.csv: lag is -1"),
        ([{"path": "own.csv", "columns": {"OWN": "KMID"}}], "KMID: there is such a factor already.*OWN_KMID"),
        ([{"path": "own.csv"}, {"path": "own.parquet"}], "OWN, SLOW: there is such a factor already"),
        ([{"lag": 1}], "wanted are options with a path"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"task.dataset.kwargs.handler: .*{words}"):
            check_task({"model": model, "dataset": copy.deepcopy(dataset(frames))})


def test_what_is_there_is_told(market, own, caplog):
    caplog.set_level(logging.INFO)
    late = own[own.index.get_level_values(0) < "2020-08-20"]
    late.to_parquet(market / "ended.parquet")
    FrameLoader([{"path": "ended.parquet", "columns": ["OWN"]}]).load("all", *SPAN.values())
    told = [record.getMessage() for record in caplog.records if "frames" in record.getMessage()]
    assert "OWN has no value on 7 of 104 days, the last 2020-08-31 (its dates are 2020-01-01 to 2020-08-19)" in told[0]
    assert "OWN: lag 1, 12 of 16 stocks" in told[1] and "1 of 13 codes are not of the data: SH688999" in told[1]
    assert "lag is not told: taken to be 1" in told[1]
    others = own.xs("SH688999", level=1, drop_level=False)
    others.to_parquet(market / "others.parquet")
    with pytest.raises(ValueError, match="none of its 1 codes \\(SH688999, ...\\) is among the 16 of the data"):
        FrameLoader("others.parquet").load("all", *SPAN.values())


def test_options_are_strict(market):
    with pytest.raises(TypeError, match="FrameLoader has no option 'labl'; close: \\['label'\\]"):
        FrameLoader("own.csv", labl=LABEL)
    with pytest.raises(ValueError, match="frames is None; name a file"):
        FrameLoader(None)
    loader = FrameLoader("own.csv", label=LABEL)
    assert pickle.loads(pickle.dumps(loader)).frames == loader.frames


def test_the_label_is_told_to_the_dataset(market, own):
    loader = FrameLoader(FILES, label=[[LABEL], ["NEXT"]])
    handler = DataHandlerLP(instruments="all", **SPAN, data_loader=loader, infer_processors=[CLEAN])
    data = DayDatasetH(handler, dataset()["kwargs"]["segments"])
    assert data.span.reach == 2 and handler_frames(handler)[1].notna().any()
    assert data.panel.features == ["OWN", "SLOW"]
