"""What leaves for alphalens and quantstats: the forward returns that alphalens computes are our labels."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_data import SEGMENTS, SIZE, make_handler, start_qlib

from qlib_ext.data import DayDatasetH
from qlib_ext.record import alphalens_input, quantstats_input
from qlib_ext.synthetic import make_market

CLOSE, WEEK, OPEN = ((field, days) for field, days in (("close", 2), ("close", 6), ("open", 2)))
LABELS = [f"Ref(${field}, -{days})/Ref(${field}, -1) - 1" for field, days in (CLOSE, WEEK, OPEN)]


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exits")
    path = make_market(folder / "market", **SIZE)
    start_qlib(path, folder)
    return path


def forward(prices, days):
    """As alphalens.utils.compute_forward_returns of version 0.5.1 has it."""
    return prices.ffill().pct_change(periods=days).shift(-days)


@pytest.mark.parametrize("label", LABELS)
def test_the_forward_returns_of_alphalens_are_the_labels(market, label):
    dataset = DayDatasetH(make_handler(label), SEGMENTS)
    own = dataset.prepare("test", col_set="label", data_key="raw").iloc[:, 0]
    factor, prices = alphalens_input(own, dataset)
    returns = forward(prices, dataset.span.horizon).rename_axis(None, axis=1).stack()
    assert factor.name == "factor" and factor.index.names == ["date", "asset"] and prices.index.tz is None
    assert len(factor) > 1000 and returns.reindex(factor.index).notna().all()
    np.testing.assert_allclose(returns.reindex(factor.index), factor, atol=3e-7)


def test_alphalens_own_convention_is_a_day_earlier(market):
    dataset = DayDatasetH(make_handler(), SEGMENTS)
    scores = dataset.prepare("valid", col_set="feature").iloc[:, 0]
    recorder = SimpleNamespace(load_object={"pred.pkl": scores.to_frame("score")}.__getitem__)
    factor, prices = alphalens_input(recorder, dataset, ahead=3)
    _, close = alphalens_input(scores, entry=0, ahead=4)
    pd.testing.assert_series_equal(factor, alphalens_input(scores)[0])
    pd.testing.assert_frame_equal(prices, close.shift(-1).iloc[:-1])
    assert (prices.index > factor.index[-1][0]).sum() == 3


def test_returns_for_quantstats():
    days = pd.bdate_range("2020-01-02", periods=3, name="datetime")
    report = pd.DataFrame({"return": [0.01, 0.0, -0.02], "cost": [0.001, 0.0, 0.002], "bench": [0.0, 0.01, 0.0]}, days)
    kept = {"portfolio_analysis/report_normal_1day.pkl": report}
    for account in (report, SimpleNamespace(load_object=kept.__getitem__)):
        returns, benchmark = quantstats_input(account)
        assert returns.tolist() == pytest.approx([0.009, 0.0, -0.022]) and benchmark.tolist() == [0.0, 0.01, 0.0]
        assert isinstance(returns.index, pd.DatetimeIndex) and returns.index.tz is None
    assert quantstats_input(report.assign(bench=0.0))[1] is None


def test_neither_is_a_dependency():
    assert not {"alphalens", "quantstats"} & set(sys.modules)
