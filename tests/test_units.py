"""Unit profiles, by hand: 10 yuan a share, 1,000 shares = 10 lots, so 10,000 yuan = 10 thousand yuan."""

import numpy as np
import pandas as pd
import pytest

from qlib_ext.rules import PROFILES, check_turnover, decide, fields_of, profile_of, share_of_amount, turnover_in_yuan

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
    check_turnover([1e8, NAN, 2e8], "$amount")
    with pytest.raises(
        ValueError, match=r"wrong units: \$amount averages 1.5e\+05 .*liquidity: '\(\$amount\) \* 1000'"
    ):
        check_turnover(pd.DataFrame([[1e5, NAN], [2e5, 1.5e5]]), "$amount")


@pytest.mark.parametrize(("mean", "factor"), [(6.8e6, "100"), (7e9, "0.01")])  # Beijing; one very large stock
def test_an_unusual_turnover_may_be_named_or_told_by_amount(mean, factor):
    words = "Beijing stocks, years before 2006 and universes of a few stocks"
    with pytest.warns(UserWarning, match=rf"wrong units\? .*{words}.*\) \* {factor}'"):
        check_turnover([mean], "$close * $volume", named=True)
    with pytest.warns(UserWarning, match=f"averages .*{words}"):
        check_turnover([mean], "$amount", share=1.0)
    with pytest.raises(ValueError, match="no \\$amount to tell by; .*name the profile"):
        check_turnover([mean], "$close * $volume")
    for far in (1e6, 1e11):  # the user's word too has bounds
        with pytest.raises(ValueError, match="wrong units") as told:
            check_turnover([far], "$close * $volume", named=True)
        assert "name the profile" not in str(told.value)  # he has


@pytest.mark.parametrize(("share", "factor"), [(0.01, "100"), (0.001, "1000"), (100.0, "0.01"), (1000.0, "0.001")])
def test_units_that_contradict_amount_are_wrong_whatever_their_size(share, factor):
    with pytest.raises(ValueError, match=rf"{share:g} times what \$amount says, .*liquidity: '\(\$x\) \* {factor}'$"):
        check_turnover([1e8], "$x", share=share, named=True)


def test_share_of_amount_by_hand():
    # 2 lots at 1,000 are 200,000 yuan, 200 thousand: the ratio is 0.1, so $amount is thousand yuan
    close, volume, amount = np.array([[1000.0, 500.0]]), np.array([[2.0, NAN]]), np.array([[200.0, 90.0]])
    fields = {"$close": close, "$volume": volume, "$amount": amount}
    assert share_of_amount(amount * 1000.0, fields) == 1.0
    assert share_of_amount(close * volume, fields) == pytest.approx(2_000 / 200_000)  # only where both are known
    assert share_of_amount(np.full((1, 2), NAN), fields) is None
    for nothing in (np.full((1, 2), NAN), amount * 3.0):  # no $amount; an identity that is none
        assert share_of_amount(amount, fields | {"$amount": nothing}) is None
