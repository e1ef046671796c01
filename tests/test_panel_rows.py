"""Features that lie in the panel's array from the start: the same bits as by way of a frame, in half of the memory."""

import pickle
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import qlib
import torch
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP

from qlib_ext.data import DayDatasetH
from qlib_ext.handler import FastAlpha158, FastAlpha360, FastDaily
from qlib_ext.panel import DayPanel, PanelRows
from qlib_ext.processor import CSNormalise
from qlib_ext.synthetic import make_market

SPAN = {"start_time": "2020-03-02", "end_time": "2020-08-31"}
SEGMENTS = {"train": ["2020-03-02", "2020-05-29"], "valid": ["2020-06-01", "2020-06-30"], "test": ["2020-07-01", None]}
CLEAN = {"infer_processors": [CSNormalise()], "learn_processors": [], "drop_raw": True}
TEN_DAYS = ["Ref($close, -11)/Ref($close, -1) - 1"]


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A market with a stock that lists late, and one whose vwap ends before its other fields."""
    path = make_market(tmp_path_factory.mktemp("rows") / "market", n_stocks=20, start="2019-01-02", years=1.8, seed=3)
    stocks = sorted(p.name for p in (path / "features").iterdir() if not p.name.startswith("sh000"))
    late = np.fromfile(path / "features" / stocks[2] / "close.day.bin", "<f4")
    start = 330 - int(late[0])
    for file in (path / "features" / stocks[2]).glob("*.day.bin"):
        values = np.fromfile(file, "<f4")
        np.concatenate([[330.0], values[1 + start :]]).astype("<f4").tofile(file)
    odd = path / "features" / stocks[5] / "vwap.day.bin"
    np.fromfile(odd, "<f4")[:-60].tofile(odd)
    qlib.init(provider_uri=str(path), region="cn", kernels=1)
    return path


def by_frame(kind):
    """The same handler as a class of a user's own, which goes the ordinary way."""
    return type(kind.__name__, (kind,), {})


def built(kind, **options):
    """The handler by rows and by a frame."""
    options = {"instruments": "all", **SPAN, "label": (TEN_DAYS, ["LABEL0"]), **CLEAN, **options}
    return kind(**options), by_frame(kind)(**options)


def assert_same_panel(one: DayPanel, other: DayPanel):
    for name in (field.name for field in fields(DayPanel) if field.name not in ("source", "loads")):
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and a.shape == b.shape and a.is_contiguous() == b.is_contiguous(), name
            assert a.numpy().tobytes() == b.numpy().tobytes(), name
        else:
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, name


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (FastDaily, {"with_alpha158": True, "exclude": ["survivor"]}),
        (FastDaily, {"factors": {"TURN20": "$volume/Mean($volume, 20)"}}),
        (FastAlpha158, {"label": (["Log(Ref($close, -2)/Ref($close, -1))"], ["L"])}),
        (FastAlpha360, {"infer_processors": [CSNormalise(clip=2.0)]}),
    ],
)
def test_panel_and_fetch_are_those_of_the_ordinary_path_to_the_bit(market, kind, options):
    rows, frame = built(kind, **options)
    assert isinstance(rows.panel_rows, PanelRows) and frame.panel_rows is None
    pd.testing.assert_frame_equal(rows.fetch(), frame.fetch(), check_exact=True)
    days = {"label": TEN_DAYS[0], "label_days": None} if "label" not in options else {"label_days": [1, 2]}
    one, other = (DayDatasetH(handler, SEGMENTS, step_len=3, **days).panel for handler in (rows, frame))
    assert_same_panel(one, other)
    assert not one.present.all() and np.shares_memory(one.x.numpy(), rows.panel_rows.x)
    pd.testing.assert_frame_equal(rows.fetch(), frame.fetch(), check_exact=True)  # masked rows too


@pytest.fixture(scope="module")
def both(market):
    pair = built(FastDaily, exclude=["survivor"], groups=["bars", "market"])
    return *pair, *(DayDatasetH(handler, SEGMENTS) for handler in pair)


SELECTIONS = {
    "everything": {},
    "a segment": {"selector": slice("2020-06-01", "2020-06-30")},
    "a segment as a list": {"selector": ["2020-06-01", "2020-06-30"], "col_set": "feature"},
    "a day": {"selector": pd.Timestamp("2020-06-01"), "col_set": ["feature", "label"]},
    "a day, squeezed": {"selector": pd.Timestamp("2020-06-01"), "col_set": "label", "squeeze": True},
    "labels": {"col_set": "label", "data_key": DataHandlerLP.DK_R},
    "labels for learning": {"col_set": "label", "data_key": DataHandlerLP.DK_L},
    "raw columns": {"col_set": DataHandlerLP.CS_RAW, "data_key": DataHandlerLP.DK_L},
    "a column": {"col_set": [("feature", "NIGHTRET")], "selector": slice("2020-06-01", None)},
    "one column, a series": {"col_set": ("label", "LABEL0")},
    "a function": {"proc_func": lambda frame: frame.iloc[::2] * 2, "selector": slice("2020-06-01", None)},
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_what_is_fetched_once_the_panel_stands(both, name):
    rows, frame, dataset, other = both
    assert_same_panel(dataset.panel, other.panel)
    options = dict(SELECTIONS[name])
    if name == "a column":
        options["col_set"] = [frame.get_cols(frame.CS_RAW)[4]]
    got, want = rows.fetch(**options), frame.fetch(**options)
    assert type(got) is type(want) and len(want)
    (pd.testing.assert_frame_equal if got.ndim == 2 else pd.testing.assert_series_equal)(got, want, check_exact=True)


def test_other_ways_to_select(both):
    rows, frame, dataset, other = both
    code = str(frame.fetch().index.levels[1][2])
    index = frame.fetch().index[[7, 3, 900]]
    for options in ({"selector": code, "level": "instrument"}, {"selector": index}, {"selector": index, "level": None}):
        pd.testing.assert_frame_equal(rows.fetch(**options), frame.fetch(**options), check_exact=True)
    one = {"selector": index[0], "level": None}
    pd.testing.assert_series_equal(rows.fetch(**one), frame.fetch(**one), check_exact=True)
    for columns in (frame.CS_ALL, frame.CS_RAW, "feature", "label"):
        assert rows.get_cols(columns) == frame.get_cols(columns)
    key = {"col_set": ["feature", "label"], "data_key": DataHandlerLP.DK_L}
    plain = [DatasetH(handler, SEGMENTS).prepare("train", **key) for handler in (rows, frame)]
    pd.testing.assert_frame_equal(*plain, check_exact=True)
    windows = [data.prepare("test", **key) for data in (dataset, other)]
    for sample in windows:
        sample.config(fillna_type="ffill+bfill")
    assert np.array_equal(windows[0][[0, 5, 99]], windows[1][[0, 5, 99]], equal_nan=True)


def test_a_fetched_frame_is_a_copy(both):
    rows, _, dataset, _ = both
    before = dataset.panel.x.clone()
    frame = rows.fetch(col_set="feature")
    frame.iloc[:, :] = -7.0
    assert torch.equal(dataset.panel.x, before) and not (rows.fetch(col_set="feature") == -7.0).any(axis=None)


def test_a_second_data_set_on_the_same_handler(market):
    rows, frame = built(FastDaily, groups=["bars"])
    first, same, young = (DayDatasetH(rows, SEGMENTS, listing_age=age) for age in (60, 60, 0))
    assert first.panel.x.data_ptr() == same.panel.x.data_ptr() != young.panel.x.data_ptr()
    assert young.panel.present.sum() > first.panel.present.sum()
    for dataset in (first, same, young):
        assert_same_panel(dataset.panel, DayDatasetH(frame, SEGMENTS, listing_age=dataset.listing_age).panel)


def test_pickles_and_new_days(both, tmp_path):
    rows, frame, dataset, _ = both
    rows.config(dump_all=True)
    again = pickle.loads(pickle.dumps(rows))
    rows.config(dump_all=False)
    pd.testing.assert_frame_equal(again.fetch(), frame.fetch(), check_exact=True)
    bare = pickle.loads(pickle.dumps(dataset))  # as runs keep it, without data
    assert bare.handler.panel_rows is None
    with pytest.raises(ValueError, match="holds no data"):
        _ = bare.panel
    bare.config(handler_kwargs={"end_time": "2020-06-30"}, segments={"test": ["2020-06-01", "2020-06-30"]})
    bare.setup_data(handler_kwargs={"init_type": DataHandlerLP.IT_LS})
    assert isinstance(bare.handler.panel_rows, PanelRows) and str(bare.panel.days[-1])[:10] == "2020-06-30"
    pd.testing.assert_frame_equal(bare.handler.fetch(), frame.fetch(slice(None, "2020-06-30")), check_exact=True)


@pytest.mark.parametrize(
    "options",
    [
        {"drop_raw": False},
        {"learn_processors": [{"class": "DropnaLabel"}]},
        {"infer_processors": [{"class": "Fillna"}]},
        {"infer_processors": [CSNormalise(fields_group=None)]},
        {"infer_processors": [type("Mine", (CSNormalise,), {})()]},
        {"shared_processors": [{"class": "Fillna"}]},
        {"process_type": DataHandlerLP.PTYPE_I},
    ],
)
def test_what_a_user_puts_in_between_goes_the_ordinary_way(market, options):
    assert built(FastDaily, groups=["bars"], **options)[0].panel_rows is None


def test_rows_refuse_levels_that_are_not_sorted():
    index = pd.MultiIndex(levels=[[1, 2], ["B", "A"]], codes=[[0, 1], [1, 0]], names=["datetime", "instrument"])
    with pytest.raises(ValueError, match="not sorted"):
        PanelRows(index, ["KMID"])


PEAK = """
import sys
import qlib
from qlib_ext.data import DayDatasetH
from qlib_ext.handler import FastAlpha360
from qlib_ext.processor import CSNormalise

Kind = FastAlpha360 if sys.argv[2] == "rows" else type("Mine", (FastAlpha360,), {})

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

def panel(start, end):
    handler = Kind("all", start, end, infer_processors=[CSNormalise()], learn_processors=[], drop_raw=True)
    dataset = DayDatasetH(handler, {"train": [start, end]}, step_len=1)
    return dataset, dataset.panel.x

qlib.init(provider_uri=sys.argv[1], region="cn", kernels=1)
panel("2019-01-02", "2019-01-31")
before = peak()
dataset, x = panel("2019-01-02", "2020-10-30")
print((peak() - before) / (x.numel() * 4))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize(
    ("way", "low", "high"), [("rows", 0.9, 1.4), pytest.param("frame", 1.8, 3.0, marks=pytest.mark.slow)]
)
def test_the_peak_of_loading_is_little_more_than_the_panel(tmp_path, way, low, high):
    path = make_market(tmp_path / "market", n_stocks=120, start="2019-01-02", years=1.8, seed=3)
    done = subprocess.run([sys.executable, "-c", PEAK, str(path), way], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert low < float(done.stdout.splitlines()[-1]) < high, done.stdout
