"""Unit profiles, by hand: 10 yuan a share, 1,000 shares = 10 lots, so 10,000 yuan = 10 thousand yuan."""

import warnings

import numpy as np
import pandas as pd
import pytest

from qlib_ext.rules import (
    PROFILES,
    check_turnover,
    decide,
    evidence,
    fields_of,
    share_of_amount,
    told,
    turnover_in_yuan,
)

NAN = float("nan")
SHAPE = (120, 40)  # days, stocks


def grids(close, volume, amount=NAN, factor=1.0):
    """Fields (D, N) by what they are made of, as float32 keeps them."""
    fields = {"$close": close, "$volume": volume, "$amount": amount, "$factor": factor}
    shape = np.broadcast_shapes(*map(np.shape, fields.values()))
    return {name: np.broadcast_to(np.asarray(grid, dtype="f4"), shape).astype(float) for name, grid in fields.items()}


@pytest.mark.parametrize(
    ("amount", "value", "profile"),
    [  # thousand yuan over lots 10 / (10 * 10) = 0.1; yuan over shares 10,000 / (10 * 1,000) = 1; yuan over lots 100
        (10.0, 10.0, "community"),
        (10.0, 1000.0, "community"),
        (1e4, 1000.0, "yuan"),
        (1e4, 10.0, "yuan"),
        (NAN, 1000.0, "adjusted_shares"),
    ],
)
def test_the_identity_of_amount(amount, value, profile):
    assert decide(evidence(grids(np.full((5, 3), 10.0), value, amount))) == profile


def test_what_has_no_ratio_says_nothing():
    fields = grids(np.full((1, 5), 10.0), [10.0, 10.0, 0.0, 10.0, NAN], [10.0, 10.0, 1e9, 10.0, 5.0])
    assert decide(evidence(fields)) == "community"


def test_an_identity_that_is_none_offers_what_fits_by_size():
    # 10,000 yuan over shares: 1e8 yuan a stock and day
    with pytest.raises(
        ValueError, match=r"has median 0.0001, .* fits 'community'.* fit liquidity: '\$amount \* 10000'$"
    ):
        decide(evidence(grids(np.full((5, 3), 10.0), 1e7, 1e4)))
    with pytest.raises(ValueError, match="has median 3.7, .*Repair"):
        decide(evidence(grids(np.full((5, 3), 10.0), 10.0, 370.0)))


@pytest.mark.parametrize("unit", [1.0, 1000.0])
@pytest.mark.parametrize("lots", [1.0, 100.0])
@pytest.mark.parametrize("raw", [False, True])
def test_amount_tells_raw_volumes_too(unit, lots, raw):
    """Turnover of 1e8 yuan, closes of 10 times the factor; a third of the stocks may lack $amount."""
    factor = np.exp(np.linspace(-2.0, 3.0, 30)) * np.ones((20, 1))
    volume = 1e7 / lots / (1.0 if raw else factor)
    fields = grids(10.0 * factor, volume, 1e8 / unit, factor)
    assert decide(evidence(fields)) == ("yuan" if unit == 1.0 else "community")
    fields["$amount"][:, ::3] = NAN
    profile = decide(evidence(fields))
    assert profile == f"{'raw' if raw else 'adjusted'}_{'shares' if lots == 1.0 else 'lots'}"
    np.testing.assert_allclose(turnover_in_yuan(profile, fields), 1e8, rtol=1e-5)  # of every stock


@pytest.mark.parametrize("raw", [False, True])
def test_factors_near_one_tell_by_the_spread_of_the_identity(raw):
    factor = np.exp(np.linspace(-0.3, 0.3, 31)) * np.ones((20, 1))  # both medians are 1; 0.15 in logarithms off, and 0
    fields = grids(10.0 * factor, 1e7 / (1.0 if raw else factor), 1e8, factor)
    fields["$amount"][:, ::3] = NAN
    assert decide(evidence(fields)) == ("raw_shares" if raw else "adjusted_shares")


def test_how_much_is_looked_at():
    # 200,000 stock days, but 60 days at least; all ex-rights days up to 20,000, then every second, third, ...
    for days, stocks, looked in ((50, 2, 50), (60, 4000, 60), (100, 4000, 60), (100, 2500, 80)):
        assert (evidence(grids(np.full((days, stocks), 10.0), 1.0))["known"] == looked).all()
    swing = np.where(np.arange(252) % 2, 1.0, 1.5)[:, None] * np.ones((252, 200))
    found = evidence(grids(10.0 * swing, 1.0, NAN, swing))
    assert found["step_count"].sum() == -(-251 * 200 // 3)
    assert evidence(grids(10.0 * swing[:, :70], 1.0, NAN, swing[:, :70]))["step_count"].sum() == 251 * 70


def test_the_evidence_of_three_stocks_by_hand():
    # day 1: 1000, 1000, 50 yuan by $close, factors 1, 2, 4; day 2: 2000; no close; 50, no factor
    close, volume = [[10.0, 20.0, 5.0], [10.0, 0.0, 5.0]], [[100.0, 50.0, 10.0], [200.0, 50.0, 10.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the last column of all but the first is empty on day 2
        found = evidence(grids(close, volume, [[1.0, 2.0, NAN], [4.0, 5.0, NAN]], [[1.0, 2.0, 4.0], [1.0, 2.0, NAN]]))
    assert found["known"].tolist() == [2, 1, 2] and found["both"].tolist() == [2, 1, 1]
    assert found["amounts"].tolist() == [2, 1, 0] and found["amount"].tolist() == [5, 2, 0]
    assert found["value"].tolist() == [3000, 1000, 50] and found["raw"].tolist() == [3000, 500, 12.5]
    np.testing.assert_allclose(found["by_close"], [0.0015, 0.002, NAN])
    # less the day's mean: log factor -ln 2, 0, ln 2; log turnover a, a, -2a of a = ln 20 / 3; day 2 of one stock: 0, 0
    two, a = np.log(2.0), np.log(20.0) / 3.0
    assert found["stock_count"].tolist() == [1, 1, 1]  # a stock is one case, its days are averaged
    np.testing.assert_allclose(found["stock_xx"], [two**2 / 2, 0, two**2], atol=1e-12)
    np.testing.assert_allclose(found["stock_xy"], [-two * a / 2, 0, -two * 2 * a], atol=1e-12)
    np.testing.assert_allclose(found["stock_yy"], [a * a / 2, a * a, 4 * a * a])


def test_twenty_whole_closes_are_enough():
    found = evidence(grids(np.full((5, 1), 10.0), 1000.0, NAN, 0.5)) * 0.0
    for cents, profile in ((20, "adjusted_shares"), (19, None)):
        assert told(found.assign(cents=cents, whole_cents=cents)) == profile


def test_a_slope_is_weighed_by_its_error():
    """Slope 0.6 of the turnover on ten ex-rights days, 0.1 from half way; doubt 0.1 and the slope's own error."""
    found = evidence(grids(np.full((5, 1), 10.0), 1000.0, NAN, 0.5)) * 0.0
    found[["step_count", "step_xx", "step_xy"]] = 10.0, 1.0, 0.6
    # (yy / xx - 0.6^2) / 8 = 0.02: 0.1 / (0.01 + 0.02) = 3.3, more than 3; then 0.03: 2.5
    assert told(found.assign(step_yy=0.36 + 0.16)) == "raw_shares"
    assert told(found.assign(step_yy=0.36 + 0.24)) is None
    assert told(found.assign(step_xy=0.4, step_yy=0.16 + 0.16)) == "adjusted_shares"
    assert told(found.assign(step_count=7, step_yy=0.4)) is None  # too few days
    stock = found.assign(step_count=0).assign(stock_count=3, stock_xx=1.0)  # 0.5 from 0.2, doubt 0.15
    assert told(stock.assign(stock_xy=0.8, stock_yy=0.65)) == "raw_shares"  # 0.1 / (0.0225 + 0.01) = 3.08
    assert told(stock.assign(stock_xy=0.8, stock_yy=0.66)) is None  # 0.1 / (0.0225 + 0.02)
    assert told(stock.assign(stock_xy=0.6, stock_yy=0.37)) == "adjusted_shares"
    assert told(stock.assign(stock_count=2, stock_xy=1.2, stock_yy=1.44)) is None


def made(seed=0, *, whole=True, events=True, spread=True):
    """Shares, raw price and factor of a market: log-normal turnover; `spread` of the factors, `events` in them."""
    rng = np.random.default_rng(seed)
    level = 16 + rng.normal(size=SHAPE[1]) + 0.3 * rng.normal(size=SHAPE)
    factor = np.exp(rng.uniform(0, 3.5, SHAPE[1]) if spread else np.full(SHAPE[1], 0.4711)) * np.ones(SHAPE)
    if events:
        factor *= np.where(np.arange(SHAPE[0])[:, None] < rng.integers(20, 100, SHAPE[1]), 1.0, np.pi / 2)
    price = np.round(np.exp(2.5 + 0.5 * rng.normal(size=SHAPE[1])) * factor[0] / factor, 2)  # there are more shares
    shares = np.exp(level) / price
    return np.rint(shares) if whole else shares, price, factor


SIGNS = {
    "whole numbers": {"events": False, "spread": False},
    "ex-rights days": {"whole": False, "spread": False},
    "stocks compared": {"whole": False, "events": False},
    "all": {},
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("seed", range(3))
def test_each_sign_tells_raw_from_adjusted_shares(sign, seed):
    shares, price, factor = made(seed, **SIGNS[sign])
    raw, adjusted = grids(price * factor, shares, NAN, factor), grids(price * factor, shares / factor, NAN, factor)
    assert decide(evidence(raw)) == told(evidence(raw)) == "raw_shares"
    assert decide(evidence(adjusted)) == "adjusted_shares"
    blocks = [evidence({name: grid[:, part] for name, grid in raw.items()}) for part in (slice(0, 15), slice(15, None))]
    assert decide(pd.concat(blocks)) == "raw_shares"


def test_raw_closes_beside_raw_volumes_need_no_factor():
    shares, price, factor = made()
    assert decide(evidence(grids(price, shares, NAN, factor))) == "adjusted_shares"  # $close * $volume


def test_factors_about_one_need_no_sign_and_no_factor_neither():
    shares, price, _ = made()
    for factor in (1.0, 1.2, NAN):
        assert decide(evidence(grids(price, shares, NAN, factor))) == "adjusted_shares"


def test_contradictory_signs_are_refused_by_name():
    shares, price, factor = made(events=False)
    rounded = grids(price * factor, np.rint(shares / factor) + 0.0, NAN, factor)  # adjusted, and made whole numbers
    words = r"contradictory .*\$volume is a whole number in 100% of .*from stock to stock.*adjusted_shares .*raw_shares"
    with pytest.raises(ValueError, match=words):
        decide(evidence(rounded))
    assert told(evidence(rounded)) is None


def test_few_stocks_tell_nothing_and_are_warned_of():
    with pytest.warns(UserWarning, match="not enough evidence.*too few.*adjusted_shares is taken"):
        assert decide(evidence(grids(np.full((20, 1), 10.0), 1000.0, NAN, 0.5))) == "adjusted_shares"


def test_fields_of():
    assert fields_of("auto", owner="A") == ["$close", "$volume", "$amount", "$factor"]
    volumes = [["$close", "$volume"], ["$close", "$factor", "$volume"]]
    assert [fields_of(name, owner="A") for name in PROFILES] == [["$amount"], ["$amount"], *volumes, *volumes]
    assert fields_of("$vwap * $volume", owner="A") == ["$vwap * $volume"]


@pytest.mark.parametrize("liquidity", ["comunity", "", 5, None, ["community"]])
def test_an_unknown_profile_is_refused_in_the_owners_name(liquidity):
    with pytest.raises(ValueError, match="Exchange: liquidity is .*; it must be auto, community, .*, or an expression"):
        fields_of(liquidity, owner="Exchange")


@pytest.mark.parametrize("kind", [np.array, lambda row: pd.DataFrame([row])])
def test_turnover_in_yuan(kind):
    close, volume = kind([10.0, 20.0]).astype("f4"), kind([100.0, NAN]).astype("f4")
    fields = {"$close": close, "$volume": volume, "$amount": kind([7.0, 8.0]).astype("f4"), "$my": kind([5.0, 6.0])}
    fields["$factor"] = kind([4.0, 1.0]).astype("f4")
    for profile, expected in {
        "community": [7000.0, 8000.0],
        "yuan": [7.0, 8.0],
        "adjusted_shares": [1000.0, NAN],
        "raw_shares": [250.0, NAN],
        "adjusted_lots": [1e5, NAN],
        "raw_lots": [2.5e4, NAN],
        "$my": [5.0, 6.0],
    }.items():
        yuan = turnover_in_yuan(profile, fields)
        assert isinstance(yuan, type(close)) and np.asarray(yuan).dtype == np.float64
        np.testing.assert_array_equal(np.asarray(yuan).ravel(), expected)


def test_what_counts_as_an_amount():
    fields = grids(np.full((50, 2), 10.0), 1000.0, 1e4, 2.0)
    fields["$volume"][:, 1] = 500.0  # of raw shares: the other identity
    fields["$amount"][0, 0] = 0.0  # nothing dealt by $amount though there is a volume: 99 of 100
    assert evidence(fields)["amounts"].tolist() == [49, 50]
    assert decide(evidence(grids(np.full((50, 2), 10.0), 1000.0, 1e4) | {"$amount": fields["$amount"]})) == "yuan"
    fields = grids(np.array([[0.5]]), 1.0, 0.5)
    assert share_of_amount(np.array([[0.25]]), fields["$amount"], evidence(fields)) == 0.5  # of half a yuan


def test_nothing_is_warned_of_where_fields_are_not_positive():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evidence(
            grids(np.array([[0.0, 10.0], [10.0, 10.0]]), [[1.0, 0.0], [NAN, -1.0]], [[0.0, 1.0]], [[0.0, -1.0]])
        )
    assert found["both"].sum() == 0  # nor does any of them count


def test_adjusted_whole_numbers_against_a_slope_of_raw_ones_are_named():
    found = evidence(grids(np.full((5, 1), 10.0), 1000.0, NAN, 0.5)) * 0.0
    found = found.assign(both=5, far=5, shares=100, whole_shares=95, stock_count=3, stock_xx=1, stock_xy=1.2)
    with pytest.raises(
        ValueError, match=r"contradictory .*: \$volume \* \$factor is a whole number in 95% of 100 cases; "
    ):
        decide(found.assign(stock_yy=1.44))


def test_plausible_turnover(recwarn):
    check_turnover([1e8, NAN, 2e8], "$amount")
    for bound in (1e7, 5e9):
        check_turnover([bound], "$amount")
        for share in (0.1, 1.0, 10.0):
            check_turnover([bound], "$amount", share=share)
    assert not recwarn
    with pytest.raises(ValueError, match=r"\$amount averages 1e\+05 .*liquidity: '\(\$amount\) \* 1000'"):
        check_turnover([1e5], "yuan")
    with pytest.raises(ValueError, match=r"averages nan .*, 0 times what \$amount says"):
        check_turnover([NAN], "yuan", share=0.0)
    with pytest.raises(
        ValueError, match=r"wrong units: \$amount averages 1.5e\+05 .*liquidity: '\(\$amount\) \* 1000'"
    ):
        check_turnover(pd.DataFrame([[1e5, NAN], [2e5, 1.5e5]]), "$amount")


@pytest.mark.parametrize(("mean", "factor"), [(6.8e6, "100"), (7e9, "0.01")])  # Beijing; one very large stock
def test_an_unusual_turnover_may_be_named_or_told_by_amount(mean, factor):
    words = "Beijing stocks, years before 2006 and universes of a few stocks"
    with pytest.warns(UserWarning, match=rf"wrong units\? .*{words}.*\) \* {factor}'"):
        check_turnover([mean], "$vwap * $volume", named=True)
    with pytest.warns(UserWarning, match=f"averages .*{words}"):
        check_turnover([mean], "yuan", share=1.0)
    with pytest.raises(ValueError, match=r"no \$amount to tell by; .*name the profile \(liquidity: adjusted_shares\)"):
        check_turnover([mean], "adjusted_shares")
    for bound in (1e7 / 3, 1.5e10):
        with pytest.warns(UserWarning, match=r"wrong units\?"):
            check_turnover([bound], "$vwap * $volume", named=True)
    for far in (1e6, 1e11):  # the user's word too has bounds
        with pytest.raises(ValueError, match="wrong units") as refused:
            check_turnover([far], "adjusted_shares", named=True)
        assert "name the profile" not in str(refused.value)  # he has


@pytest.mark.parametrize(("share", "factor"), [(0.01, "100"), (0.001, "1000"), (100.0, "0.01"), (1000.0, "0.001")])
def test_units_that_contradict_amount_are_wrong_whatever_their_size(share, factor):
    with pytest.raises(ValueError, match=rf"{share:g} times what \$amount says, .*liquidity: '\(\$x\) \* {factor}'$"):
        check_turnover([1e8], "$x", share=share, named=True)


def test_lots_are_offered_by_the_name_that_fits_the_evidence():
    with pytest.raises(ValueError, match="here would fit liquidity: raw_lots; where"):
        check_turnover([1e6], "raw_shares", told="raw_shares")
    with pytest.raises(ValueError, match="here would fit liquidity: adjusted_lots;"):
        check_turnover([1e6], "adjusted_shares")


def test_a_named_profile_that_the_evidence_is_against():
    with pytest.warns(UserWarning, match=r"but the data look like raw_shares \(\$close / \$factor \* \$volume\)"):
        check_turnover([1e9], "adjusted_shares", named=True, told="raw_shares")
    with pytest.raises(ValueError, match="here would fit liquidity: raw_shares$"):
        check_turnover([1e11], "adjusted_shares", named=True, told="raw_shares")


def test_share_of_amount_by_hand():
    # 2 lots at 1,000 are 200,000 yuan, 200 thousand: the ratio is 0.1, so $amount is thousand yuan
    fields = grids(np.array([[1000.0, 500.0]]), [[2.0, NAN]], [[200.0, 90.0]])
    amount, found = fields["$amount"], evidence(fields)
    assert share_of_amount(amount * 1000.0, amount, found) == 1.0
    own = fields["$close"] * fields["$volume"]
    assert share_of_amount(own, amount, found) == pytest.approx(2_000 / 200_000)  # only where both are known
    assert share_of_amount(np.full((1, 2), NAN), amount, found) is None
    for nothing in (np.full((1, 2), NAN), amount * 3.0):  # no $amount; an identity that is none
        assert share_of_amount(amount, nothing, evidence(fields | {"$amount": nothing})) is None


def test_turnover_that_is_not_known_at_all_has_no_wrong_units():
    with pytest.raises(ValueError, match=r"no turnover is known by .*are stocks and days in the data\?"):
        check_turnover(np.full((2, 2), np.nan), "adjusted_shares")
