"""Several horizons at once: labels of a dataset, and that segments, folds and leak checks know the longest."""

import numpy as np
import pandas as pd
import pytest
from qlib.data.dataset.handler import DataHandlerLP
from test_data import LABEL, SEGMENTS, SIZE, make_handler, start_qlib

from qlib_ext.data import DayDatasetH, label_reach
from qlib_ext.leak import check_leak
from qlib_ext.panel import DayPanel, LabelSpan, label_span
from qlib_ext.synthetic import make_market

HORIZONS = [1, 5, 10]
FEW = {"start": "2020-02-03", "end": "2020-11-30"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("horizons")


@pytest.fixture(scope="module")
def market(folder):
    path = make_market(folder / "market", **SIZE)
    start_qlib(path, folder)
    return path


@pytest.fixture(scope="module")
def handler(market):
    return make_handler(**FEW)


@pytest.fixture(scope="module")
def dataset(handler):
    return DayDatasetH(handler, SEGMENTS, step_len=2, horizons=HORIZONS)


def days_of(dataset, segment):
    return pd.DatetimeIndex(dataset.panel.days[dataset.rows(segment)])


# --- labels


def test_labels_by_hand():
    days, codes = pd.bdate_range("2024-01-01", periods=4), ["SH600000", "SZ000001"]
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"]).drop((days[1], codes[1]))
    labels = {h: pd.DataFrame(np.full((4, 2), float(h)), days, codes) for h in (1, 2)}
    panel = DayPanel.from_frame(pd.DataFrame({"f": 0.0}, index), pd.Series(0.5, index), labels=labels)
    assert panel.horizons == (1, 2) and panel.labels.shape == (4, 2, 2)
    assert panel.labels[0].tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert panel.labels[1, 0].tolist() == [1.0, 2.0] and panel.labels[1, 1].isnan().all()  # no row of the features
    batch = panel.batch([1, 0])
    assert batch.labels[1].tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert batch.labels[0, 0].tolist() == [1.0, 2.0] and batch.labels[0, 1].isnan().all()  # padded


def test_none_is_asked_none_is_kept(handler):
    panel = DayDatasetH(handler, SEGMENTS, step_len=2).panel
    assert panel.labels is None and panel.horizons == () and panel.batch([3]).labels is None


@pytest.mark.parametrize("field", ["close", "open"])
def test_they_are_the_handlers_labels_of_so_many_days(market, field):
    own = f"Ref(${field}, -2)/Ref(${field}, -1) - 1"
    panel = DayDatasetH(make_handler(own, **FEW), SEGMENTS, horizons=HORIZONS).panel
    np.testing.assert_allclose(panel.labels[..., 0].numpy(), panel.label.numpy(), atol=3e-7, equal_nan=True)
    for place, days in enumerate(HORIZONS):
        longer = DayDatasetH(make_handler(f"Ref(${field}, -{days + 1})/Ref(${field}, -1) - 1", **FEW), SEGMENTS).panel
        known = np.isfinite(longer.label.numpy())
        assert known.mean() > 0.5
        np.testing.assert_allclose(
            panel.labels[..., place].numpy(), longer.label.numpy(), atol=1e-6, rtol=1e-6, equal_nan=True
        )


def test_a_label_that_leaves_at_another_price_keeps_the_entry(market):
    panel = DayDatasetH(make_handler("Ref($close, -2)/Ref($open, -1) - 1", **FEW), SEGMENTS, horizons=[5]).panel
    wanted = DayDatasetH(make_handler("Ref($open, -6)/Ref($open, -1) - 1", **FEW), SEGMENTS).panel.label
    np.testing.assert_allclose(panel.labels[..., 0].numpy(), wanted.numpy(), atol=1e-6, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("wrong", [[], [0, 1], [5, 1], [1, 1], [1.5], 5, [True], "5"])
def test_horizons_that_cannot_be(handler, wrong):
    with pytest.raises(ValueError, match=r"horizons is .*rising whole days"):
        DayDatasetH(handler, SEGMENTS, horizons=wrong)


# --- purging


def test_the_span_reaches_as_far_as_the_longest_and_judges_by_its_own(dataset):
    assert dataset.span == LabelSpan(1, 11, held=1) and (dataset.span.horizon, label_reach(dataset)) == (1, 11)
    assert label_span(LABEL).with_horizons([1]) == LabelSpan(1, 2)
    assert label_span("Ref($close, -21)/Ref($close, -1) - 1").with_horizons([5, 10]) == LabelSpan(1, 21)


def test_segments_are_purged_by_the_longest(dataset, handler):
    plain, last = DayDatasetH(handler, SEGMENTS, step_len=2), {}
    for segment, later in (("train", "valid"), ("valid", "test")):
        last[segment] = dataset.rows(segment)[-1]
        assert last[segment] + 11 == dataset.rows(later)[0] - 1  # eleven days lie between: their labels do not meet
        assert plain.rows(segment)[-1] == last[segment] + 9
    assert len(dataset.rows("test")) == len(plain.rows("test"))


def test_a_model_that_learns_from_frames_is_told(dataset, handler):
    with pytest.warns(UserWarning, match="horizons have no effect on a model that learns from frames"):
        frame = dataset.prepare("train", col_set=["feature", "label"], data_key=DataHandlerLP.DK_L)
    plain = DayDatasetH(handler, SEGMENTS, step_len=2)
    pd.testing.assert_frame_equal(
        frame, plain.prepare("train", col_set=["feature", "label"], data_key=DataHandlerLP.DK_L)
    )


def test_check_leak_knows_the_longest(market):
    loader = {"feature": (["$close/Ref($close, 5) - 1"], ["REV5"]), "label": ([LABEL], ["LABEL0"])}
    source = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": loader}}
    kwargs = {"instruments": "all", "start_time": FEW["start"], "end_time": FEW["end"], "data_loader": source}
    handler = {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler", "kwargs": kwargs}
    options = {"handler": handler, "segments": SEGMENTS, "step_len": 1, "horizons": HORIZONS}
    data = {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": options}
    member = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"hidden": [4]}}
    folds = {"class": "FoldEnsemble", "module_path": "qlib_ext.model", "kwargs": {"model": member, "n_splits": 2}}

    def met(gap, **more):
        model = {**folds, "kwargs": {**folds["kwargs"], "gap": gap, **more}}
        workflow = {"qlib_init": {"provider_uri": str(market)}, "task": {"model": model, "dataset": data}}
        return check_leak(workflow, only=["overlap"])

    assert met(None)["passed"].all() and "gap=10" in met(10)["detail"][0]
    late = met(10, strict=False)
    assert not late["passed"].all() and "a gap of 11 trading days keeps them apart" in late["detail"].str.cat()
