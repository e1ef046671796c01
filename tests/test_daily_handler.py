"""FastDaily: the factors of daily bars behind qlib's handler, alone and behind Alpha158, read from a provider."""

import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.contrib.data.handler import Alpha158
from qlib.contrib.model.gbdt import LGBModel
from qlib.data import D
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import init_instance_by_config

from qlib_ext.data import DayDatasetH, label_expression
from qlib_ext.features import ALPHA158_NAMES, DAILY, DAILY_NAMES, daily_factors
from qlib_ext.handler import LABEL, FastAlpha158, FastDaily
from qlib_ext.leak import check_leak
from qlib_ext.provider import calendar, listed_days, read_traded
from qlib_ext.synthetic import make_market

RAW = {"infer_processors": [], "learn_processors": []}
SPAN = {"start_time": "2020-08-03", "end_time": "2020-10-30"}
SURVIVOR = [f.name for f in DAILY if f.group == "survivor"]
FIELDS = ("open", "high", "low", "close", "vwap", "volume", "factor")
CLEAN = {"class": "CSNormalise", "module_path": "qlib_ext.processor"}


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    path = make_market(tmp_path_factory.mktemp("daily") / "market", n_stocks=16, start="2019-01-02", years=1.9, seed=5)
    qlib.init(provider_uri=str(path), region="cn", kernels=1)
    codes = sorted(D.list_instruments(D.instruments("all"), as_list=True))
    stocks = [code for code in codes if not code.startswith("SH000")]
    spans = [(stocks[0], "2019-01-02", "2020-06-30"), (stocks[0], "2020-09-01", "2020-12-31")]
    spans += [(code, "2019-01-02", "2020-12-31") for code in stocks[1:9]]
    (path / "instruments" / "few.txt").write_text("".join("\t".join(span) + "\n" for span in spans))
    return path, codes, stocks


def by_hand(codes, member=None):
    """The factors of the whole calendar from fields that are read another way, (datetime, instrument) x name."""
    days = calendar()
    fields = {
        name[1:]: f.to_numpy() for name, f in read_traded(codes, [f"${f}" for f in FIELDS], *days[[0, -1]]).items()
    }
    out = daily_factors(fields, codes, days, member=member, age=listed_days(codes, days))
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    return pd.DataFrame(out.reshape(len(index), -1), index, list(DAILY_NAMES))


def test_the_handler_has_the_factors_of_the_bars(market):
    _, codes, _ = market
    frame = FastDaily(instruments="all", **SPAN, **RAW)._data
    assert [*frame["feature"].columns] == [*DAILY_NAMES] and (frame.dtypes == np.float32).all()
    pd.testing.assert_frame_equal(frame["feature"], by_hand(codes).reindex(frame.index), check_exact=True)
    assert frame["feature"].notna().mean().min() > 0.5
    want = Alpha158(instruments="all", **SPAN, **RAW)._data
    pd.testing.assert_index_equal(frame.index, want.index)
    pd.testing.assert_frame_equal(frame[["label"]], want[["label"]])


def test_the_mean_stock_is_that_of_the_days_members(market):
    _, codes, stocks = market
    frame = FastDaily(instruments="few", **SPAN, **RAW)._data
    days = calendar()
    inside = np.isin(codes, stocks[:9])[None].repeat(len(days), axis=0)
    inside[(days > "2020-06-30") & (days < "2020-09-01"), codes.index(stocks[0])] = False
    want = by_hand(codes, inside).reindex(frame.index)
    pd.testing.assert_frame_equal(frame["feature"], want, check_exact=False, rtol=1e-5, atol=1e-7)
    every = FastDaily(instruments="all", **SPAN, **RAW)._data.reindex(frame.index)
    assert (every["feature", "MBETA60"] - frame["feature", "MBETA60"]).abs().max() > 0.01
    assert (every["feature", "AMIHUD20"] == frame["feature", "AMIHUD20"]).all()


def test_both_stand_in_one_frame(market):
    both = FastDaily(
        instruments="all", with_alpha158=True, factors={"TURN20": "$volume/Mean($volume, 20)"}, **SPAN, **RAW
    )
    names = [*both._data["feature"].columns]
    assert names == [*ALPHA158_NAMES, *DAILY_NAMES, "TURN20"]
    one = FastAlpha158(instruments="all", factors={"TURN20": "$volume/Mean($volume, 20)"}, **SPAN, **RAW)._data
    two = FastDaily(instruments="all", **SPAN, **RAW)._data
    pd.testing.assert_frame_equal(both._data[one.columns], one)
    pd.testing.assert_frame_equal(both._data[two.columns], two)
    array = both._data.to_numpy()
    assert array.dtype == np.float32 and np.shares_memory(array, both._data["feature"].to_numpy())  # no second copy
    assert label_expression(both) == LABEL


def test_a_user_leaves_out_what_survivors_flatter_in_one_line(market):
    kwargs = {"instruments": "all", **SPAN, **RAW, "exclude": ["survivor"]}
    frame = init_instance_by_config({"class": "FastDaily", "module_path": "qlib_ext.handler", "kwargs": kwargs})._data
    assert [*frame["feature"].columns] == [name for name in DAILY_NAMES if name not in SURVIVOR]
    some = FastDaily(instruments="all", groups=["market", "bars"], **SPAN, **RAW)._data["feature"]
    assert [*some.columns] == [f.name for f in DAILY if f.group in ("market", "bars")]
    pd.testing.assert_frame_equal(some[["MBETA60"]], frame["feature"][["MBETA60"]])


def test_when_the_frame_begins_changes_nothing(market):
    late = FastDaily(instruments="all", **SPAN, **RAW)._data
    early = FastDaily(instruments="all", start_time="2019-06-03", end_time=SPAN["end_time"], **RAW)._data
    pd.testing.assert_frame_equal(early.reindex(late.index)["feature"], late["feature"], check_exact=True)
    first = FastDaily(instruments="all", end_time="2019-03-01", **RAW)._data["feature"]  # rows before the calendar
    pd.testing.assert_frame_equal(first, by_hand(market[1]).reindex(first.index), check_exact=True)
    assert first["VOL20"].notna().any() and first[["MOM120", "HALT250"]].isna().all(axis=None)


def test_qlibs_tools_see_a_handler_like_any_other(market, tmp_path, monkeypatch):
    monkeypatch.setattr("qlib.contrib.model.gbdt.R", SimpleNamespace(log_metrics=lambda **metrics: None))
    handler = FastDaily(instruments="all", **SPAN, infer_processors=[CLEAN], drop_raw=True, with_alpha158=True)
    segments = {"train": ("2020-08-03", "2020-09-18"), "valid": ("2020-09-21", "2020-10-09")}
    dataset = DatasetH(handler, segments | {"test": ("2020-10-12", "2020-10-28")})
    model = LGBModel(num_boost_round=3, num_leaves=4, verbose=-1)
    model.fit(dataset, evals_result={})
    assert model.predict(dataset).notna().all() and model.model.num_feature() == 158 + len(DAILY)
    assert isinstance(handler, DataHandlerLP) and [*handler._data.columns] == [("label", "LABEL0")]
    panel = DayDatasetH(handler, segments, step_len=2).panel
    assert len(panel.features) == 158 + len(DAILY) and bool(panel.x.isfinite().all())
    handler.to_pickle(tmp_path / "whole.pkl", dump_all=True)
    again = DataHandlerLP.load(tmp_path / "whole.pkl")
    pd.testing.assert_frame_equal(again.fetch(col_set="feature"), handler.fetch(col_set="feature"))
    bare = pickle.loads(pickle.dumps(handler.data_loader)).load("all", *SPAN.values())  # the loader of a recorded run
    assert bare["feature"].shape[1] == 158 + len(DAILY)


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"exclud": ["survivor"]}, TypeError, "FastDaily has no option 'exclud'; close: .'exclude'"),
        ({"exclude": ["survival"]}, ValueError, "did you mean 'survivor'"),
        ({"factors": {"VOL20": "$close"}}, ValueError, "factors has VOL20, which the handler has already"),
        ({"with_alpha158": "false"}, ValueError, "with_alpha158 is 'false'; allowed: true or false"),
        ({"freq": "1min"}, ValueError, "FastDaily cannot be computed: freq='1min'"),
        ({"inst_processors": [{"class": "X"}]}, ValueError, "FastDaily cannot be computed.*inst_processors"),
        ({"instruments": ["SH699999"]}, ValueError, "have no bar from"),
    ],
)
def test_what_cannot_be_is_refused(market, kwargs, error, words):
    with pytest.raises(error, match=words):
        FastDaily(**({"instruments": "all"} | SPAN | RAW | kwargs))


def test_options_are_looked_at_before_anything_is_loaded():
    FastDaily.check_options(factors=None, label=None, groups=["bars"], with_alpha158=True)
    with pytest.raises(ValueError, match="did you mean 'bars'"):
        FastDaily.check_options(groups=["bar"])


def test_without_numba_the_cure_is_told(market, monkeypatch):
    monkeypatch.setattr("qlib_ext.features.compiled.njit", None)
    with pytest.raises(ValueError, match="pip install"):
        FastDaily(instruments="all", **SPAN, **RAW)


def test_check_leak_finds_no_future_in_any_factor(market):
    path, _, _ = market
    options = {"hidden": [8], "epochs": 1, "batch_days": 16, "device": "cpu"}
    kwargs = {"instruments": "all", "infer_processors": [CLEAN], "learn_processors": [], "with_alpha158": True}
    handler = {"class": "FastDaily", "module_path": "qlib_ext.handler", "kwargs": kwargs}
    segments = {"train": ["2020-06-01", "2020-08-14"], "valid": ["2020-08-17", "2020-09-04"]}
    segments["test"] = ["2020-09-07", "2020-10-30"]
    dataset = {"handler": handler, "segments": segments, "step_len": 2}
    task = {
        "model": {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": options},
        "dataset": {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": dataset},
    }
    init = {"provider_uri": str(path), "region": "cn", "kernels": 1}
    try:
        table = check_leak({"qlib_init": init, "task": task}, only=["future"], isolated=False).set_index("item")
    finally:
        qlib.init(**init)
    assert table.loc["features", "passed"] and table.loc["features", "compared"] > 158 + len(DAILY), table
    assert not (~table["passed"] & table["proves"]).any(), table


@pytest.fixture
def without_factor(market, tmp_path):
    path, _, _ = market
    bare = Path(shutil.copytree(path, tmp_path / "bare"))
    for file in bare.glob("features/*/factor.day.bin"):
        file.unlink()
    qlib.init(provider_uri=str(bare), region="cn", kernels=1)
    yield
    qlib.init(provider_uri=str(path), region="cn", kernels=1)


def test_a_provider_without_factor_is_told(without_factor, caplog):
    frame = FastDaily(instruments="all", groups=["bars", "survivor"], **SPAN, **RAW)._data["feature"]
    nothing = [name for name in SURVIVOR if name != "AGE"]
    assert frame[nothing].isna().all(axis=None) and frame["AGE"].notna().any()
    assert f"without $factor these are NaN everywhere, exclude them: {', '.join(nothing)}" in caplog.text


def test_files_of_ones_own_stand_behind_them(market):
    path, _, stocks = market
    (path / "own.csv").write_text(f"date,code,size\n2020-08-03,{stocks[0]},21.5\n")
    frames = [{"path": "own.csv", "lag": 1, "max_age": 2}]
    frame = FastDaily(instruments=stocks[:3], groups=["bars"], frames=frames, **SPAN, **RAW)._data
    assert [*frame["feature"].columns[-2:]] == ["LOCATION20", "size"]
    assert frame["feature", "size"].dropna().to_list() == [21.5] * 3
    alone = FastDaily(instruments=stocks[:3], groups=["bars"], **SPAN, **RAW)._data
    pd.testing.assert_frame_equal(frame[alone.columns], alone)
    with pytest.raises(ValueError, match="VOL20: there is such a factor already"):
        FastDaily(instruments=stocks[:3], frames=[{"path": "own.csv", "columns": {"size": "VOL20"}}], **SPAN, **RAW)
