"""Labels read from their text: raw simple returns, the days that others touch, and numbers that are no returns."""

import numpy as np
import pytest

from qlib_ext.panel import DEFAULT_LABEL, check_raw_return, label_prices, label_span


@pytest.mark.parametrize(
    ("expression", "prices"),
    [
        (DEFAULT_LABEL, {1: "close", 2: "close"}),
        ("Ref($close,-1)/$close-1", {0: "close", 1: "close"}),
        (" Ref( $open , -6 ) /Ref($open,-1)- 1", {1: "open", 6: "open"}),
        ("Ref($vwap, -11) / $low - 1", {0: "low", 11: "vwap"}),
        ("Ref($close, -2)/Ref($open, -1) - 1", {1: "open", 2: "close"}),
    ],
)
def test_a_raw_simple_return_is_two_prices_the_entry_first(expression, prices):
    assert label_prices(expression) == prices and list(label_prices(expression)) == list(prices)
    span = label_span(expression)
    assert [span.entry, span.reach] == list(prices)


@pytest.mark.parametrize(
    "expression",
    [
        *("Log(Ref($close, -6)/Ref($close, -1))", "Abs(Ref($close, -2)/Ref($close, -1) - 1)"),
        *("Sign(Ref($close, -2)/Ref($close, -1) - 1)", "100*(Ref($close, -2)/Ref($close, -1) - 1)"),
        *("Ref($close, -2)/Ref($close, -1)", "Ref($close, -1)/Ref($close, -2) - 1", "$close/Ref($close, -1) - 1"),
        *("Ref($volume, -2)/Ref($volume, -1) - 1", "Ref($factor, -2)/$close - 1", "Ref($close, -1)/$volume - 1"),
        *("Ref($close, -2)/Ref($close, -2) - 1", "Ref($close, 2)/Ref($close, 1) - 1", "Ref($close, -0)/$close - 1"),
        *("Ref($close, -2)/Ref($close, -1) - 1 + 0", "Ref($close, -2)/Ref($close, -1) - 10", "$close", ""),
        "Ref(Mean($close, 5), -5)/Ref($close, -1) - 1",
    ],
)
def test_anything_else_is_refused_with_the_way_out(expression):
    with pytest.raises(ValueError, match=r"no raw simple return.*allowed is Ref\(\$p, -b\).*label_days=\[1, 2\]"):
        label_prices(expression)


def test_the_days_of_other_labels_are_read_for_purging():
    for expression, days in {
        "Log(Ref($close, -6)/Ref($open, -1))": (1, 6),
        "100*(Ref($close, -2)/$close - 1)": (0, 2),
        "Ref($volume, -3)/Ref($volume, -1)": (1, 3),
    }.items():
        span = label_span(expression)
        assert (span.entry, span.reach) == days


def moves(days=1, count=5000):
    return np.random.default_rng(0).normal(0, 0.025 * days**0.5, count)


@pytest.mark.parametrize("days", [1, 5, 20])
def test_returns_look_like_returns(days):
    wild = moves(days)
    wild[:40] = 3.0  # 0.8% of new listings
    wild[50:60] = np.nan
    assert check_raw_return(wild, days) is None
    assert check_raw_return(np.ones(99), days) is None  # too few to say


@pytest.mark.parametrize("days", [1, 5])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: 1 + r, "median size is (1|0.99)"),
        (lambda r: 100 * r, "are larger than"),
        (np.sign, "median size is 1"),
        (np.abs, "none is negative"),
        (lambda r: r / r.std(), "median size is 0.6"),
        (lambda r: r.argsort().argsort() / len(r), "none is negative"),
    ],
)
def test_other_numbers_do_not(change, words, days):
    with pytest.raises(ValueError, match=f"raw simple returns of {days} days.*{words}"):
        check_raw_return(change(moves(days)), days)
