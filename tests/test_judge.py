"""The judge on labels of any price and entry: the index goes the label's way, and so does the waterfall."""

import numpy as np
import pandas as pd
import pytest
import test_data
import torch
from qlib.data import D
from test_record import FREE, SPAN, Recorder, make_panel, score_grid, series_of

from qlib_ext.data import DayDatasetH, LabelSpan
from qlib_ext.record import (
    LiquidityRecord,
    Money,
    capacity,
    entry_return,
    index_returns,
    judge,
    judged_stages,
    stage_changes,
)

INDEX = "SH000300"


@pytest.fixture(scope="module")
def days(base, tmp_path_factory):
    """Days of the embedded market that qlib was started on."""
    test_data.start_qlib(base, tmp_path_factory.mktemp("runs"))
    return pd.DatetimeIndex(D.calendar())


def prices(field, codes=(INDEX,)):
    found = D.features(list(codes), [f"${field}"])[f"${field}"].unstack("instrument")
    return found.astype(float)


# --- the index


@pytest.mark.parametrize("field", ["close", "open"])
@pytest.mark.parametrize("entry", [0, 1, 2])
def test_the_index_goes_from_entry_to_entry(days, field, entry):
    asked = days[40:60]
    found = index_returns(INDEX, LabelSpan(entry, entry + 1), asked, field=field)
    price = prices(field)[INDEX]
    expected = (price.shift(-entry - 1) / price.shift(-entry) - 1).loc[asked]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)  # qlib's own numbers are float32
    assert found.name == INDEX and found.index.equals(asked) and found.abs().max() > 0.001


def test_the_index_s_close_stands_for_a_price_it_has_not(days):
    asked = days[40:60]
    with pytest.warns(UserWarning, match=r"the benchmark SH000300 has no \$nowhere, the label's entry: its close"):
        found = index_returns(INDEX, SPAN, asked, field="nowhere")
    pd.testing.assert_series_equal(found, index_returns(INDEX, SPAN, asked, field="close"))
    assert index_returns(None, SPAN, asked, field="close") is None
    with pytest.raises(ValueError, match="benchmark 'SH999999' is not in the provider: name another or set null"):
        index_returns("SH999999", SPAN, asked, field="close")


# --- labels of several prices and days


LABELS = {
    "Ref($open, -2)/Ref($open, -1) - 1": ("open", 1),
    "Ref($close, -2)/Ref($open, -1) - 1": ("open", 1),  # marked from open to open
    "Ref($open, -4)/Ref($open, -1) - 1": ("open", 3),
    "Ref($close, -1)/$close - 1": ("close", 1),
}


@pytest.fixture(params=LABELS)
def run(request, days):
    """(dataset, its recorder, score of the test days, field of the entry)."""
    fields = {"feature": (["$close/Ref($close, 5)"], ["ROC5"]), "label": ([request.param], ["LABEL0"])}
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": fields}}
    span = {"start_time": str(days[30].date()), "end_time": str(days[-8].date()), "instruments": "all"}
    handler = test_data.DataHandlerLP(**span, data_loader=loader, infer_processors=[], learn_processors=[])
    segments = {"test": (str(days[60].date()), str(days[80].date()))}
    dataset = DayDatasetH(handler, segments, liquidity="community", listing_age=5)
    panel, rows = dataset.panel, dataset.rows("test")
    score = np.random.default_rng(0).normal(size=(len(rows), len(panel.stocks)))
    score = np.where(panel.present[rows].numpy(), score, np.nan)
    return dataset, Recorder(**{"pred.pkl": series_of(panel, rows, score).to_frame()}), score, LABELS[request.param]


def test_money_and_index_are_marked_at_the_entry_s_price(run):
    dataset, recorder, score, (field, horizon) = run
    assert dataset.entry_field == field and dataset.span.horizon == horizon
    rows, entry = dataset.rows("test"), dataset.span.entry
    money = Money(capital=1e7, **FREE)
    found = LiquidityRecord(recorder, dataset, capital=1e7, **FREE).judged(rows, score)
    signal, price = pd.DatetimeIndex(dataset.panel.days[rows]), prices(field)[INDEX]
    expected = (price.shift(-entry - 1) / price.shift(-entry) - 1).loc[signal]
    np.testing.assert_allclose(found.returns[INDEX], expected, rtol=1e-4, atol=1e-7)
    stocks = prices(field, dataset.panel.stocks)[list(dataset.panel.stocks)].ffill()
    step = (stocks.shift(-entry - 1) / stocks.shift(-entry) - 1).loc[signal].to_numpy()
    own = entry_return(dataset.panel)[torch.as_tensor(rows)].numpy()
    both = np.isfinite(own) & np.isfinite(step)
    assert both.mean() > 0.7
    np.testing.assert_allclose(own[both], step[both], atol=1e-5)
    market = [own[d][np.isfinite(own[d]) & np.isfinite(score[d])].mean() for d in range(len(rows))]
    np.testing.assert_allclose(found.returns["market"], market, atol=1e-7)
    curve = capacity(dataset.panel, rows, score, money, dataset.span).loc[1e7]
    assert curve["gross"] == pytest.approx(found.table["annual_return"]["capped_buyable_gross"])


def test_the_waterfall_s_paper_is_the_judge_s_one_day_book(run):
    dataset, recorder, score, (field, horizon) = run
    assert stage_changes(dataset.entry_field)["limits"][1]["deal_price"] == [f"${field}"] * 2
    if dataset.span.entry != 1:
        return
    days = pd.DatetimeIndex(dataset.panel.days[dataset.rows("test")])[2:]
    stages = judged_stages(dataset, recorder.load_object("pred.pkl"), days, 1e7, {"capital": 1e7})
    one = judge(dataset.panel, dataset.rows("test"), score, Money(capital=1e7), SPAN)
    expected = one.returns["capped_paper_gross"].to_numpy()[1 : len(days)]
    np.testing.assert_allclose(stages["paper"].to_numpy()[1:], expected, atol=1e-9)


# --- no volatility yet


def test_the_first_days_of_a_calendar_have_no_volatility():
    panel, rows = make_panel(days=20), np.arange(18)
    score = score_grid(panel, rows)
    whole = judge(panel, rows, score, Money(capital=2e7), SPAN).returns
    panel.volatility[:2] = torch.nan
    late = judge(panel, rows, score, Money(capital=2e7), SPAN).returns
    for name in ("capped_buyable_net", "topn_paper_gross"):
        pd.testing.assert_series_equal(late[name], whole[name])
    gap = late["capped_buyable_net"] - late["capped_buyable_net_impact"]
    assert (gap > 0).all() and not np.allclose(late["capped_buyable_net_impact"], whole["capped_buyable_net_impact"])
    panel.volatility[:] = torch.nan
    free = judge(panel, rows, score, Money(capital=2e7, impact=0.0), SPAN).returns
    pd.testing.assert_series_equal(free["capped_buyable_net_impact"], free["capped_buyable_net"])
    curve = capacity(panel, rows, score, Money(capital=2e7, impact=0.0), SPAN).loc[2e7]
    assert curve["net_impact"] == curve["net"]
