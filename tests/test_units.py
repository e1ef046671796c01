"""Unit profiles, by hand: 10 yuan a share, 1,000 shares = 10 lots, so 10,000 yuan = 10 thousand yuan."""

import numpy as np
import pandas as pd
import pytest

from qlib_ext.units import PROFILES, check_turnover, decide, fields_of, profile_of, turnover_in_yuan

NAN = float("nan")


def test_profile_of_the_ratio():
    # thousand yuan over lots: 10 / (10 * 10) = 0.1; yuan over shares 10,000 / (10 * 1,000) = 1; yuan over lots 100
    assert [profile_of(x) for x in (0.1, 1.0, 100.0)] == ["community", "yuan", "yuan"]
    assert profile_of(NAN) == "adjusted_shares"
    assert [profile_of(x) for x in (0.04, 0.21, 10.0, 3.7)] == [None] * 4


@pytest.mark.parametrize(
    ("amount", "value", "profile"),
    [
        ([10.0, 10.0], [100.0, 100.0], "community"),
        ([1e4, 1e4], [1e4, 1e4], "yuan"),
        ([1e4, 1e4], [100.0, 100.0], "yuan"),
        ([NAN, NAN], [1e4, 1e4], "adjusted_shares"),
        ([10.0, 10.0, 1e9, NAN, 5.0], [100.0, 100.0, 0.0, 100.0, NAN], "community"),  # what has no ratio says nothing
    ],
)
def test_decide(amount, value, profile):
    assert decide(np.array(amount), np.array(value)) == profile
    assert decide(pd.DataFrame([amount]), pd.DataFrame([value])) == profile


def test_what_fits_nothing_names_the_cure():
    with pytest.raises(ValueError, match=r"has median 10; .*give liquidity: an expression in yuan.*'\$amount \* 1000'"):
        decide([1000.0], [100.0])


def test_fields_of():
    assert fields_of("auto", owner="A") == ["$close", "$volume", "$amount"]
    assert [fields_of(name, owner="A") for name in PROFILES] == [["$amount"], ["$amount"], ["$close", "$volume"]]
    assert fields_of("$vwap * $volume", owner="A") == ["$vwap * $volume"]


@pytest.mark.parametrize("liquidity", ["comunity", "", 5, None, ["community"]])
def test_an_unknown_profile_is_refused_in_the_owners_name(liquidity):
    with pytest.raises(ValueError, match="Exchange: liquidity is .*; it must be auto, community, .*, or an expression"):
        fields_of(liquidity, owner="Exchange")


@pytest.mark.parametrize("kind", [np.array, lambda row: pd.DataFrame([row])])
def test_turnover_in_yuan(kind):
    close, volume = kind([10.0, 20.0]).astype("f4"), kind([100.0, NAN]).astype("f4")
    fields = {"$close": close, "$volume": volume, "$amount": kind([7.0, 8.0]).astype("f4"), "$my": kind([5.0, 6.0])}
    for profile, expected in {
        "community": [7000.0, 8000.0],
        "yuan": [7.0, 8.0],
        "adjusted_shares": [1000.0, NAN],
        "$my": [5.0, 6.0],
    }.items():
        yuan = turnover_in_yuan(profile, fields)
        assert isinstance(yuan, type(close)) and np.asarray(yuan).dtype == np.float64
        np.testing.assert_array_equal(np.asarray(yuan).ravel(), expected)


def test_plausible_turnover():
    check_turnover([1e8, NAN, 2e8], "$amount", settled=False)
    with pytest.raises(ValueError, match=r"\$amount averages 1.5e\+05 .*liquidity: '\(\$amount\) \* 1000'"):
        check_turnover(pd.DataFrame([[1e5, NAN], [2e5, 1.5e5]]), "$amount", settled=False)


@pytest.mark.parametrize(("mean", "factor"), [(6.8e6, "100"), (7e9, "0.01")])  # Beijing; one very large stock
def test_unusual_turnover_is_an_error_only_where_nothing_else_settles_the_units(mean, factor):
    words = rf"wrong units\? .*Beijing stocks, years before 2006 and universes of a few stocks.*\) \* {factor}'"
    with pytest.warns(UserWarning, match=words):
        check_turnover([mean], "$amount", settled=True)
    with pytest.raises(ValueError, match="no \\$amount to tell by. If these are yuan, .*liquidity: adjusted_shares"):
        check_turnover([mean], "$close * $volume", settled=False)
