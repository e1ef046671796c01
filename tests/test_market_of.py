"""What a simulated account meets: grids of a panel's days."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from test_record import make_panel

from qlib_ext.portfolio import Risk, market_of
from qlib_ext.rules import fee_rates


@pytest.fixture
def panel():
    made = make_panel(days=30)
    volatility = made.volatility.clone()
    volatility[4:7, 2], volatility[:9, 3] = torch.nan, torch.nan
    more = {"sellable": ~made.buyable, "step_return": made.label, "volatility": volatility}
    return dataclasses.replace(made, **more)


def test_the_rows_are_the_panel_s_and_the_last_known_volatility_is_carried_on(panel):
    rows = np.array([5, 8, 9])  # the value of day 3 stands for stock 2 on day 5, though day 3 is none of the rows
    market = market_of(panel, rows)
    for name in ("liquidity", "step_return", "buyable", "sellable"):
        np.testing.assert_array_equal(market[name], getattr(panel, name).double().numpy()[rows])
    assert market["liquidity"].dtype == np.float64 and market["buyable"].dtype == bool
    np.testing.assert_array_equal(market["universe"], panel.present.numpy()[rows])
    assert market["volatility"][0, 2] == panel.volatility[3, 2].item()
    np.testing.assert_array_equal(np.isnan(market["volatility"][:, 3]), [True, True, False])
    np.testing.assert_array_equal(market["volatility"][1:, 4], panel.volatility.double().numpy()[rows[1:], 4])


def test_fees_are_those_of_the_entry(panel):
    days = panel.days[[7, 10, 11]]
    fees = fee_rates(days, commission=0.001)
    market = market_of(panel, [5, 8, 9], entry=2, commission=0.001)
    np.testing.assert_array_equal(market["buy_rate"], fees["buy"])
    np.testing.assert_array_equal(market["sell_rate"], fees["sell"])
    own = market_of(panel, [5, 8, 9], buy_rate=0.1, sell_rate=0.2)
    assert own["buy_rate"].tolist() == [0.1] * 3 and own["sell_rate"].tolist() == [0.2] * 3
    half = market_of(panel, [5, 8, 9], entry=2, commission=0.001, sell_rate=0.2)
    np.testing.assert_array_equal(half["buy_rate"], fees["buy"])
    assert market_of(panel, [29])["buy_rate"].shape == (1,)  # the entry lies beyond the panel


def test_nothing_later_is_known(panel):
    market, rows = market_of(panel, np.arange(12)), np.arange(12)
    later = panel.volatility.clone()
    later[12:] = 9.0
    again = market_of(dataclasses.replace(panel, volatility=later), rows)
    np.testing.assert_array_equal(market["volatility"], again["volatility"])


@pytest.mark.parametrize("entry", [1, 2])
def test_risk_is_that_of_the_closes_so_far(entry):
    made, rng = make_panel(days=90), np.random.default_rng(1)
    close = pd.DataFrame(np.exp(np.cumsum(rng.normal(0.0, 0.02, (90, 25)), axis=0))).mask(rng.random((90, 25)) < 0.1)
    close.iloc[:, 4] = close.iloc[:, 4].where(np.arange(90) > 60)  # listed late
    step = close.ffill().pct_change(fill_method=None).shift(-entry - 1)
    free = torch.from_numpy(close.notna().shift(-entry, fill_value=False).to_numpy(copy=True))
    grids = {"step_return": torch.from_numpy(step.to_numpy()), "buyable": free, "sellable": free}
    rows = np.arange(70, 85)
    risk = market_of(dataclasses.replace(made, **grids), rows, entry=entry)["risk"]
    wanted = Risk.of_closes(close.iloc[entry:])  # the panel's first entry is its first price
    for name in ("specific", "beta"):
        carried = pd.DataFrame(getattr(wanted, name)).ffill().to_numpy()
        np.testing.assert_allclose(getattr(risk, name), carried[rows - entry], atol=1e-12)
    np.testing.assert_allclose(risk.market, wanted.market[rows - entry], atol=1e-12)
    assert np.isnan(market_of(dataclasses.replace(made, **grids), [0, 1], entry=entry)["risk"].specific).all()


def test_errors_name_what_came(panel):
    for rows in ([], [3, 3], [-1, 2], [29, 30]):
        with pytest.raises(ValueError, match="one or more of 0 to 29, rising"):
            market_of(panel, rows)
    with pytest.raises(ValueError, match="lacks liquidity, sellable: use DayDatasetH with liquidity"):
        market_of(dataclasses.replace(panel, liquidity=None, sellable=None), [1])
