"""Trading rules against goldens by hand (market-facts.md, section 2)."""

import time
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pandas as pd
import pytest

from qlib_ext.rules import board_of, fee_rates, is_index, limit_down_price, limit_up_price, price_limit

CODES = ["SH600519", "SZ000001", "SZ300750", "SH688981", "SH689009", "BJ430047"]


@pytest.mark.parametrize(
    ("code", "board"),
    [
        ("SH600000", "main"),
        ("SH605599", "main"),
        ("SZ000001", "main"),
        ("SZ002594", "main"),
        ("SZ300750", "chinext"),
        ("SZ301499", "chinext"),
        ("SH688981", "star"),
        ("SH689009", "star"),
        ("BJ430047", "beijing"),
        ("BJ920002", "beijing"),
        ("sh600000", "main"),
    ],
)
def test_board_of(code, board):
    assert board_of(code) == board


@pytest.mark.parametrize("code", ["SH000300", "SZ399001", "BJ899050", "SH900901", "SZ200012", "600000", "SH60", ""])
def test_board_of_rejects_what_is_no_a_share(code):
    with pytest.raises(ValueError, match="allowed are SH60"):
        board_of(code)


def test_is_index():
    assert all(map(is_index, ["SH000300", "sz399006", "BJ899050"]))
    assert not any(map(is_index, CODES))


def test_price_limit_before_and_after_each_change():
    days = ["2019-07-19", "2019-07-22", "2020-08-21", "2020-08-24", "2021-11-12", "2021-11-15", "2026-10-09"]
    nan = np.nan
    expected = [  # SH60  SZ00  SZ30  SH688 SH689 BJ
        [0.10, 0.10, 0.10, nan, nan, nan],
        [0.10, 0.10, 0.10, 0.20, 0.20, nan],
        [0.10, 0.10, 0.10, 0.20, 0.20, nan],
        [0.10, 0.10, 0.20, 0.20, 0.20, nan],
        [0.10, 0.10, 0.20, 0.20, 0.20, nan],
        [0.10, 0.10, 0.20, 0.20, 0.20, 0.30],
        [0.10, 0.10, 0.20, 0.20, 0.20, 0.30],
    ]
    np.testing.assert_array_equal(price_limit(CODES, days), expected)
    np.testing.assert_array_equal(price_limit(CODES, days, side="down"), expected)


def _listing(code, first, n_days=7, *, side="up"):
    """Limits of a stock's first days when it is listed on `first`."""
    days = pd.bdate_range(first, periods=n_days)
    age = np.arange(1.0, n_days + 1)[:, None]
    return price_limit([code], days, listed_days=age, side=side)[:, 0].tolist()


@pytest.mark.parametrize(
    ("code", "first", "expected"),
    [
        ("SH601000", "2023-03-20", [0.44] + [0.1] * 6),
        ("SZ001300", "2023-03-20", [0.44] + [0.1] * 6),
        ("SH601000", "2023-04-10", [np.inf] * 5 + [0.1] * 2),
        ("SZ001300", "2023-04-10", [np.inf] * 5 + [0.1] * 2),
        ("SZ300800", "2020-07-20", [0.44] + [0.1] * 6),
        ("SZ300900", "2020-08-24", [np.inf] * 5 + [0.2] * 2),
        ("SH688001", "2019-07-22", [np.inf] * 5 + [0.2] * 2),
        ("BJ430047", "2021-11-15", [np.inf] + [0.3] * 6),
    ],
)
def test_first_days_after_listing(code, first, expected):
    assert _listing(code, first) == expected


def test_first_day_down_limit_and_regime_of_the_listing_day():
    assert _listing("SH601000", "2023-03-20", side="down")[:2] == [0.36, 0.1]
    # listed on the Thursday before the reform: day 3 falls on 2020-08-24, where only new listings are free
    assert _listing("SZ300900", "2020-08-20") == [0.44, 0.1] + [0.2] * 5
    # unknown and not yet listed: the board's limit
    days = pd.bdate_range("2020-09-01", periods=3)
    age = np.array([[np.nan], [0.0], [-5.0]])
    assert price_limit(["SZ300900"], days, listed_days=age)[:, 0].tolist() == [0.2] * 3


def test_price_limit_says_what_is_wrong():
    days = pd.bdate_range("2022-01-03", periods=3)
    with pytest.raises(ValueError, match=r"shape \(2, 1\).*\(3, 1\)"):
        price_limit(["SH600000"], days, listed_days=np.ones((2, 1)))
    with pytest.raises(ValueError, match="side is 'both'"):
        price_limit(["SH600000"], days, side="both")
    with pytest.raises(ValueError, match="consecutive trading days"):
        price_limit(["SH600000"], days[::-1], listed_days=np.ones((3, 1)))
    with pytest.raises(ValueError, match="'SH000300' is an index"):
        price_limit(["SH600000", "SH000300"], days)


def test_whole_market_is_fast():
    codes = [f"SH{600000 + i}" for i in range(2500)] + [f"SZ{300000 + i}" for i in range(2500)]
    days = pd.bdate_range("2018-01-02", periods=1215)
    price_limit(codes[:1], days)  # reads the data of marina-rules once
    start = time.perf_counter()
    price_limit(codes, days, listed_days=np.full((1215, 5000), 100.0))
    assert time.perf_counter() - start < 1.0


def test_limit_prices_by_hand():
    # 10.05 * 1.1 = 11.055 -> 11.06; 10.05 * 0.9 = 9.045 -> 9.05; 9.95 * 1.1 = 10.945 -> 10.95
    assert limit_up_price(10.05, 0.1) == 11.06
    assert limit_down_price(10.05, 0.1) == 9.05
    assert limit_up_price(9.95, 0.1) == 10.95
    np.testing.assert_array_equal(limit_up_price(np.float32([9.95, 10.05, np.nan]), 0.1), [10.95, 11.06, np.nan])
    np.testing.assert_array_equal(limit_up_price(10.0, [0.1, 0.2, 0.3, 0.44, np.inf]), [11, 12, 13, 14.4, np.inf])
    np.testing.assert_array_equal(limit_down_price(10.0, [0.2, 0.36, np.inf, np.nan]), [8, 6.4, 0.0, np.nan])
    assert limit_up_price(np.nan, np.inf) != limit_up_price(np.nan, np.inf)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("limit", ["0.05", "0.1", "0.2", "0.3", "0.44"])
def test_limit_prices_equal_decimal_arithmetic(dtype, limit):
    cents = np.arange(1, 60_000, 7)
    prices = (cents / 100).astype(dtype)

    def exact(factor):
        tick = Decimal("0.01")
        return [float((Decimal(int(c)) / 100 * factor).quantize(tick, ROUND_HALF_UP)) for c in cents]

    bound = np.asarray(float(limit), dtype)
    np.testing.assert_array_equal(limit_up_price(prices, bound), exact(1 + Decimal(limit)))
    np.testing.assert_array_equal(limit_down_price(prices, bound), exact(1 - Decimal(limit)))


def test_fee_rates_before_and_after_each_change():
    days = ["2022-04-28", "2022-04-29", "2023-08-25", "2023-08-28"]
    fees = fee_rates(days, commission=0.0003)
    assert list(fees.columns) == ["buy", "sell"] and fees.index[0] == pd.Timestamp("2022-04-28")
    np.testing.assert_allclose(fees["buy"], [0.00032, 0.00031, 0.00031, 0.00031], rtol=1e-12)
    np.testing.assert_allclose(fees["sell"], [0.00132, 0.00131, 0.00131, 0.00081], rtol=1e-12)
    np.testing.assert_allclose(fee_rates(days, commission=0.0)["buy"], [2e-5, 1e-5, 1e-5, 1e-5], rtol=1e-12)


def test_fee_rates_say_what_is_wrong():
    with pytest.raises(ValueError, match="2010-01-04.*from 2015-08-01"):
        fee_rates(["2010-01-04", "2020-01-02"])
    for commission in (-0.1, 0.03, float("nan")):
        with pytest.raises(ValueError, match="commission is"):
            fee_rates(["2020-01-02"], commission=commission)
