"""Alpha158 and Alpha360 by the kernels against qlib's own engine, on a market with every kind of gap in it."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.contrib.data.handler import Alpha158, Alpha360
from qlib.contrib.data.loader import Alpha158DL, Alpha360DL
from qlib.data import D
from qlib.data.data import FeatureD
from qlib.utils import init_instance_by_config

from qlib_ext.data import handler_frames, label_expression
from qlib_ext.features import ALPHA158_NAMES, ALPHA360_NAMES, TOLERANCE, alpha158, alpha360
from qlib_ext.handler import LABEL, FastAlpha158, FastAlpha360, FastAlphaLoader
from qlib_ext.synthetic import make_market

SHORT = {"start_time": "2020-09-01", "end_time": "2020-10-30"}
PRICES = ("open", "high", "low", "close", "vwap")
FIELDS = (*PRICES, "volume")
RAW = {"infer_processors": [], "learn_processors": []}


def rewrite(stock, fields, change, first=0):
    """Change the values of a stock's binary files; the first number of each is the position of its first day."""
    for field in fields:
        content = np.fromfile(stock / f"{field}.day.bin", dtype="<f4")
        np.concatenate([[first], change(content[1:].copy())]).astype("<f4").tofile(stock / f"{field}.day.bin")


def flat(values):
    values[40:130] = values[40]
    return values


def halt(values):
    values[100:165:3], values[170:240] = np.nan, np.nan
    return values


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Embedded market, made worse: a flat price, long halts, a listing, a delisting, gaps."""
    path = make_market(tmp_path_factory.mktemp("alpha") / "market", n_stocks=12, start="2020-01-02", years=1.0, seed=3)
    stocks = sorted(p for p in (path / "features").iterdir() if not p.name.startswith("sh000"))
    whole = [p for p in stocks if (p / "close.day.bin").stat().st_size == 4 * 246]
    rewrite(whole[0], PRICES, flat)
    rewrite(whole[1], FIELDS, halt)
    (whole[3] / "vwap.day.bin").unlink()
    rewrite(whole[4], ["vwap"], lambda values: values[:200])
    rewrite(whole[5], FIELDS, lambda values: values[150:], first=150)
    rewrite(whole[6], FIELDS, lambda values: values[:190])
    (whole[7] / "high.day.bin").unlink()
    codes = [p.name.upper() for p in whole[:8]]
    spans = [(codes[1], "2020-01-02", "2020-09-11"), (codes[1], "2020-10-12", "2020-12-31")]
    spans += [(c, "2020-08-20", "2020-12-31") for c in codes[5:7]] + [(codes[0], "2020-01-02", "2020-08-19")]
    (path / "instruments" / "csi300.txt").write_text("".join("\t".join(span) + "\n" for span in spans))
    qlib.init(provider_uri=str(path), region="cn", kernels=1)
    return codes


@pytest.fixture(scope="module")
def reference(market):
    return Alpha158(instruments="all", **RAW)._data


def check_values(got, want, names):
    """NaN in the same cells; elsewhere relative 1e-4, and the absolute error of `TOLERANCE` where it has one.

    WVMA of a window in which the close never moves is 0; qlib's is a residue of pandas' running sums over 1e-12.
    """
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape and len(want) > 80
    column = dict(zip(names, want.T, strict=True))
    for k, name in enumerate(names):
        close = np.isclose(got[:, k], want[:, k], rtol=1e-4, atol=TOLERANCE.get(name, 0.0), equal_nan=True)
        if name.startswith("WVMA"):
            still = (column[f"CNTP{name[4:]}"] == 0) & (column[f"CNTN{name[4:]}"] == 0)
            close |= still & (got[:, k] == 0) & (want[:, k] >= 0)
        assert close.all(), (name, (~close).sum(), got[~close, k][:4], want[~close, k][:4])


def check_frames(got, want):
    pd.testing.assert_index_equal(got.index, want.index, exact=True)
    pd.testing.assert_index_equal(got.columns, want.columns, exact=True)
    assert (got.dtypes == want.dtypes).all()
    check_values(got, want, want.columns.get_level_values(1))


def grids(codes):
    """(D, N) raw fields of some stocks and the row at which each series begins."""
    raw = D.features(codes, [f"${f}" for f in FIELDS])
    days = pd.DatetimeIndex(D.calendar())
    wide = [raw[f"${f}"].unstack("instrument").reindex(index=days, columns=codes).to_numpy() for f in FIELDS]
    first = [FeatureD.backend_obj(instrument=c, field="close", freq="day").start_index for c in codes]
    return wide, np.array(first), days


def bars(days=200, stocks=3, seed=0):
    random = np.random.default_rng(seed)
    close = np.exp(random.normal(0, 0.02, (days, stocks)).cumsum(axis=0))
    open_, vwap = close * 1.001, close * 0.999
    return [open_, close * 1.01, close * 0.98, close, vwap, random.lognormal(10, 1, (days, stocks))]


def test_names_are_qlibs():
    assert list(ALPHA158_NAMES) == Alpha158DL.get_feature_config()[1]
    assert list(ALPHA360_NAMES) == Alpha360DL.get_feature_config()[1]


def test_the_market_has_every_kind_of_gap(market, reference):
    count = reference.groupby("instrument").size()
    first = reference.reset_index().groupby("instrument")["datetime"].agg(["min", "max"])
    assert (first["min"] > first["min"].min()).any() and (first["max"] < first["max"].max()).any()
    assert reference["feature", "MA5"].isna().any() and count.nunique() > 1
    assert reference["feature", "VWAP0"].loc[:, market[3]].isna().all()


def test_the_kernel_equals_qlibs_engine(market, reference):
    codes = [c for c in reference.index.levels[1] if c != market[4]]
    wide, first, days = grids(codes)
    want = reference["feature"].loc[(slice(None), codes), :]
    day, stock = (want.index.get_level_values(k) for k in (0, 1))
    got = alpha158(*wide, first=first)
    assert got.dtype == np.float32 and got.shape == (len(days), len(codes), 158)
    check_values(got[days.get_indexer(day), pd.Index(codes).get_indexer(stock)], want, ALPHA158_NAMES)
    before = np.arange(len(days))[:, None] < first
    assert before.any() and np.isnan(got[before]).all()


def test_the_handler_equals_qlibs(market, reference):
    check_frames(FastAlpha158(instruments="all", **RAW)._data, reference)


@pytest.mark.parametrize(
    ("fast", "own", "kwargs"),
    [
        (FastAlpha158, Alpha158, {"instruments": "csi300", **SHORT}),
        (FastAlpha360, Alpha360, {"instruments": "csi300", **SHORT, "label": (["$open/Ref($close, -3)"], ["FAR"])}),
    ],
)
def test_the_handler_equals_qlibs_on_members_of_an_index(market, fast, own, kwargs):
    want = own(**kwargs, **RAW)._data
    check_frames(fast(**kwargs, **RAW)._data, want)
    assert len(want) < len(want.index.levels[0]) * len(want.index.levels[1])  # members come and go


OTHER_LABELS = (
    "Ref($close, -6)/Ref($close,-1)-1",
    "Ref($open, -2) / Ref($open, -1) - 1",
    "Ref($vwap,-3)/$close - 1",
    "Ref($high, -30)/Ref($low, -4) - 1",
)


@pytest.mark.parametrize("labels", [*((label,) for label in OTHER_LABELS), OTHER_LABELS])
@pytest.mark.parametrize("span", [SHORT, {"start_time": "2020-11-02", "end_time": None}])
def test_labels_of_other_fields_and_reach_equal_qlibs_to_the_bit(market, labels, span, monkeypatch):
    kwargs = {"instruments": "all", **span, "label": (list(labels), [f"L{n}" for n in range(len(labels))]), **RAW}
    want = Alpha158(**kwargs)._data
    notes = []
    monkeypatch.setattr("qlib_ext.features.handler.logger.warning", notes.append)
    got = FastAlpha158(**kwargs)._data
    check_frames(got, want)
    np.testing.assert_array_equal(got["label"].to_numpy(), want["label"].to_numpy())
    assert got["label"].notna().to_numpy().any() and not notes  # no label went through qlib


def test_another_label_goes_through_qlib_with_a_notice(market, monkeypatch):
    notes = []
    monkeypatch.setattr("qlib_ext.features.handler.logger.warning", notes.append)
    kwargs = {"instruments": "all", **SHORT, "label": (["Log(Ref($close, -2)/Ref($close, -1))"], ["L0"]), **RAW}
    check_frames(FastAlpha158(**kwargs)._data, Alpha158(**kwargs)._data)
    assert len(notes) == 1 and "qlib's own loader is used for label" in notes[0]


OPERATOR = """
import numpy as np
from qlib.data.ops import ElemOperator

class Root(ElemOperator):
    def _load_internal(self, instrument, *args):
        series = self.feature.load(instrument, *args)
        return np.sign(series) * np.abs(series) ** 0.5
"""


@pytest.mark.parametrize("njit", [True, False])
def test_a_factor_is_a_row_of_the_workflow_and_its_operator_a_class_of_ones_own(market, tmp_path, monkeypatch, njit):
    (tmp_path / "mine.py").write_text(OPERATOR)
    provider = FeatureD.backend_obj(instrument=market[0].lower(), field="close", freq="day").uri.parents[2]
    operators = [{"class": "Root", "module_path": str(tmp_path / "mine.py")}]
    qlib.init(provider_uri=str(provider), region="cn", kernels=1, custom_ops=operators)
    factors = {"TURN20": "$volume/Mean($volume, 20)", "ROOT5": "Root($close/Ref($close, 5) - 1)"}
    kwargs = {"instruments": market[:5], **SHORT, "factors": factors, **RAW}
    if not njit:
        monkeypatch.setattr("qlib_ext.features.compiled.njit", None)
    frame = init_instance_by_config(
        {"class": "FastAlpha158", "module_path": "qlib_ext.handler", "kwargs": kwargs}
    )._data
    assert [*frame.columns[158:]] == [("feature", "TURN20"), ("feature", "ROOT5"), ("label", "LABEL0")]
    alone = FastAlpha158(**(kwargs | {"factors": None}))._data
    pd.testing.assert_frame_equal(frame[alone.columns], alone)
    want = D.features(market[:5], [*factors.values()], *SHORT.values()).swaplevel().reindex(frame.index)
    np.testing.assert_array_equal(frame["feature"][[*factors]].to_numpy(), want.to_numpy(np.float32))
    assert frame["feature", "ROOT5"].notna().any()
    with pytest.raises(ValueError, match="factors has MA5, which the handler has already"):
        FastAlpha158(**(kwargs | {"factors": {"MA5": "$close"}}))


def test_filter_pipe_and_a_list_of_stocks(market, reference):
    rule = {"filter_type": "ExpressionDFilter", "rule_expression": "$close > 1.02", "keep": False}
    pipe = [{**rule, "filter_start_time": None, "filter_end_time": None}]
    chosen = FastAlpha158(instruments="all", filter_pipe=pipe, **RAW)._data
    spans = D.list_instruments(D.instruments("all", filter_pipe=pipe))
    keep = [any(a <= day <= b for a, b in spans.get(code, [])) for day, code in reference.index]
    pd.testing.assert_frame_equal(chosen, reference[keep], rtol=1e-4, atol=1e-8)
    listed = FastAlpha158(instruments=market[:4], **RAW)._data
    check_frames(listed, reference.loc[(slice(None), market[:4]), :].set_axis(listed.index))


def test_the_default_processors_and_the_yaml_form(market):
    kwargs = {"instruments": market[:4], **SHORT}
    config = {"class": "FastAlpha158", "module_path": "qlib_ext.handler", "kwargs": kwargs}
    built = init_instance_by_config(config)
    assert label_expression(built) == LABEL and isinstance(built, Alpha158)
    data = built.fetch(col_set="label", data_key="learn")
    assert data.notna().all().all() and abs(float(data.iloc[:, 0].mean())) < 1e-3  # dropped and scored by day


def test_what_is_not_served_goes_through_qlib(market, reference, monkeypatch):
    notes = []
    monkeypatch.setattr("qlib_ext.features.handler.logger.warning", notes.append)
    config = {"feature": Alpha158DL.get_feature_config()}
    other = {"feature": (["$close"], ["CLOSE"])}
    assert FastAlphaLoader(config)._served()[0] == ALPHA158_NAMES
    assert "freq" in FastAlphaLoader(config, freq="1min")._served()[1]
    assert "inst_processors" in FastAlphaLoader(config, inst_processors=[{"class": "X"}])._served()[1]
    assert FastAlphaLoader(other).load(market[:1], **SHORT).shape[1] == 1 and "features" in notes[-1]
    monkeypatch.setattr("qlib_ext.features.compiled.njit", None)
    frame = FastAlpha158(instruments=market[:1], **SHORT, **RAW)._data
    assert "numba" in notes[-1] and len(notes) == 2
    own = reference.loc[(slice(*SHORT.values()), market[0]), :]
    pd.testing.assert_frame_equal(frame, own.set_axis(frame.index), rtol=1e-4, atol=1e-8)


def test_drop_raw_keeps_the_raw_labels_and_nothing_else(market):
    clean = {"infer_processors": [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}]}
    options = {"instruments": market[:4], **SHORT, **clean, "learn_processors": []}
    kept, dropped = FastAlpha158(**options), FastAlpha158(**options, drop_raw=True)
    key = {"data_key": kept.DK_R}
    pd.testing.assert_frame_equal(dropped.fetch(**key, col_set="label"), kept.fetch(**key, col_set="label"))
    assert list(dropped._data.columns) == [("label", "LABEL0")]
    for handler in (kept, dropped):  # nothing holds the raw array alive
        assert not np.shares_memory(handler._data["label"].to_numpy(), handler.fetch(col_set=["label"]).to_numpy())
    pd.testing.assert_frame_equal(dropped.fetch(), kept.fetch())
    feature, label = zip(*(handler_frames(h) for h in (kept, dropped)), strict=True)
    pd.testing.assert_frame_equal(*feature)
    pd.testing.assert_series_equal(*label)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("instrumets", "instruments"), ("fit_end", "fit_end_time"), ("lable", "label"), ("dropraw", "drop_raw")],
)
@pytest.mark.parametrize("kind", [FastAlpha158, FastAlpha360])
def test_a_misspelt_argument_names_the_close_one(kind, wrong, right):
    with pytest.raises(TypeError, match=rf"{kind.__name__} has no option '{wrong}'; close: \[.*'{right}'.*; allowed: "):
        kind(**{wrong: "2020-10-30"})


def test_without_numba_the_module_imports_and_tells_the_cure():
    code = (
        "import sys; sys.modules['numba'] = sys.modules['qlib'] = None\nimport qlib_ext.alpha as a, numpy as n\n"
        "try: a.alpha158(*[n.ones((2, 1))] * 6)\nexcept ImportError as e: assert 'pip install' in str(e)\n"
        "else: raise SystemExit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_an_empty_file_is_a_field_that_is_not_known(market):
    file = FeatureD.backend_obj(instrument=market[0].lower(), field="vwap", freq="day").uri
    content, kwargs = file.read_bytes(), {"instruments": market[:2], **RAW}
    whole = FastAlpha158(**kwargs)._data
    file.write_bytes(b"")
    try:
        frame = FastAlpha158(**kwargs)._data
    finally:
        file.write_bytes(content)
    vwap = ("feature", "VWAP0")
    assert whole[vwap].notna().any() and frame.loc[(slice(None), market[0]), [vwap]].isna().all(axis=None)
    frame[vwap] = whole[vwap]
    pd.testing.assert_frame_equal(frame, whole, check_exact=True)


@pytest.mark.parametrize(("name", "rows"), [("SH60.*", True), ("XX.*", False)])
def test_a_filter_that_leaves_no_stock_is_told(market, name, rows):
    config = {"filter_type": "NameDFilter", "name_rule_re": name, "filter_start_time": None, "filter_end_time": None}
    kwargs = {"instruments": "all", "filter_pipe": [config], **SHORT, **RAW}
    if rows:
        assert FastAlpha158(**kwargs)._data.index.equals(Alpha158(**kwargs)._data.index)
    else:
        with pytest.raises(ValueError, match="instruments: 0 codes .* have no bar from 2020-09-01 to 2020-10-30"):
            FastAlpha158(**kwargs)


@pytest.mark.parametrize("factors", [alpha158, alpha360])
def test_no_look_ahead(factors):
    fields, day = bars(), 120
    before = factors(*fields)
    after = factors(*[np.where(np.arange(200)[:, None] > day, 7.0 * f + 1.0, f) for f in fields])
    np.testing.assert_array_equal(before[: day + 1], after[: day + 1])
    assert (before[day + 1 :] != after[day + 1 :]).any()


def test_stocks_do_not_touch_each_other():
    fields = bars(stocks=70)
    alone = alpha158(*[f[:, 66:67] for f in fields])
    np.testing.assert_array_equal(alpha158(*fields)[:, 66:67], alone)


def test_fields_of_different_shape_are_an_error():
    with pytest.raises(ValueError, match="one shape"):
        alpha158(*bars()[:5], np.ones((2, 3)))


def test_goldens_by_hand():
    # closes 10, 11, suspended, 9, 12 (listed on the first day); high = close + 1, low = close - 1, open = close - 0.5
    nan = np.nan
    close = np.array([[10.0], [11.0], [nan], [9.0], [12.0]])
    volume = np.array([[100.0], [200.0], [nan], [400.0], [200.0]])
    out = alpha158(close - 0.5, close + 1, close - 1, close, close, volume)[:, 0]
    factor = {name: out[:, k] for k, name in enumerate(ALPHA158_NAMES)}

    def check(name, values):
        np.testing.assert_allclose(factor[name], np.array(values, dtype=np.float64), rtol=1e-6, err_msg=name)

    check("KMID", [0.5 / 9.5, 0.5 / 10.5, nan, 0.5 / 8.5, 0.5 / 11.5])
    check("MA5", [1.0, 10.5 / 11, nan, 10 / 9, 10.5 / 12])  # the suspended day is no observation
    check("ROC5", [nan] * 5)
    # ranks within the real closes: 1/1, 2/2, none, 1/3 (9 < 10 < 11), 4/4
    check("RANK5", [1.0, 1.0, nan, 1 / 3, 1.0])
    # place of the highest high, or of the first NaN once there is one (the third row), over 5
    check("IMAX5", [1 / 5, 2 / 5, 3 / 5, 3 / 5, 3 / 5])
    # days up over all rows so far: 11 > 10 and, after the suspension, only 12 > 9
    check("CNTP5", [0.0, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    # gains 1 and 3, no losses; the move over the suspension is unknown
    check("SUMP5", [nan, 1.0, 1.0, 1.0, 1.0])
    # mean volume 100, 150, (no volume today), 700/3, 225 over today's
    check("VMA5", [1.0, 0.75, nan, 700 / 3 / 400, 225 / 200])
    # slope of 10, 11 over rows 4, 5; of 10, 11, 9 over rows 2, 3, 5: -2 / (14/3); of all over 1, 2, 4, 5: 2/10
    check("BETA5", [nan, 1 / 11, nan, (-2 / (14 / 3)) / 9, (2 / 10) / 12])


OK = "Ref($close, -2)/Ref($close, -1) - 1"
LABELS = [
    (([OK, OK], ["A"]), "wanted are expressions and as many names"),
    (([OK], ["A", "B"]), "wanted are expressions and as many names"),
    (([OK, OK], ["A", "A"]), "each once"),
    (OK, "wanted are expressions"),
    ([], "wanted are expressions"),
    (([OK.replace("(", "((", 1)], ["A"]), "label: A is .*, no expression of qlib's: .* was never closed"),
    (([OK.replace("Ref", "Reff")], ["A"]), "no expression of qlib's: The operator .Reff. is not registered"),
]


@pytest.mark.parametrize(("label", "words"), LABELS, ids=str)
def test_a_label_that_cannot_be_is_refused_before_anything_is_loaded(label, words, market):
    with pytest.raises(ValueError, match=words):
        FastAlpha158(label=label, **RAW)


@pytest.mark.parametrize("instruments", [[], ["600018.SH"], ["SH609999"]], ids=str)
def test_instruments_without_a_bar_are_refused(instruments, market):
    with pytest.raises(ValueError, match=f"instruments: {len(instruments)} codes .* have no bar from 20"):
        FastAlpha158(instruments=instruments, **RAW)


def test_a_factor_of_a_field_that_is_not_there_is_told(market, caplog):
    FastAlpha158(instruments=market[:2], factors={"X": "Mean($clos, 5)"}, **SHORT, **RAW)
    assert "['X'] are NaN everywhere: does the provider have the fields that they name?" in caplog.text
