import warnings

import numpy as np
import pytest
import reference_portfolio as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_ext.cross_section import ranks
from qlib_ext.portfolio import (
    Day,
    TopNPolicy,
    affordable,
    fee_cost,
    fill_capitals,
    fill_top_n,
    impact_cost,
    one_impact,
    rebalancing,
)

NAN = float("nan")
MODES = [None, 1, 3, 7, 100]


def market(seed, days=6, stocks=25):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(days, stocks)).round(1)  # ties
    liquidity = np.exp(rng.normal(3.0, 1.0, size=(days, stocks)))
    score[rng.random(score.shape) < 0.1] = np.nan
    liquidity[rng.random(score.shape) < 0.1] = rng.choice([0.0, -5.0, np.nan, np.inf])
    return score, liquidity, rng.random(score.shape) < 0.9


def test_golden_capital_in_full():
    # caps at 10%: 20, 40, 100, 60. Ranking: 1 (score 3), 3 (2), 0 (1), 2 (0).
    # capital 110: 40 + 60 + the rest 10; nothing is left for stock 2
    yuan = fill_top_n(
        np.array([1.0, 3.0, 0.0, 2.0]),
        np.array([200.0, 400.0, 1000.0, 600.0]),
        capital=110,
        participation=0.1,
    )
    assert isinstance(yuan, np.ndarray) and yuan.dtype == np.float64
    assert yuan.tolist() == [10.0, 40.0, 0.0, 60.0]


def test_golden_top_n():
    score, liquidity = np.array([1.0, 3.0, NAN, 2.0]), np.array([200.0, 100.0, 1000.0, 300.0])
    # first two: stocks 1 and 3, liquidity 100 + 300; capital 20 in proportion: 5, 15 (caps 10, 30)
    got = fill_top_n(score, liquidity, capital=20, participation=0.1, top_n=2)
    assert got.tolist() == pytest.approx([0, 5, 0, 15])
    # capital 1000: the caps bind, 10 + 30; 960 stays cash
    got = fill_top_n(score, liquidity, capital=1000, participation=0.1, top_n=2)
    assert got.tolist() == pytest.approx([0, 10, 0, 30])


def test_golden_untradable_do_not_count_and_ties_go_by_position():
    score = np.array([9.0, 8.0, 7.0, 7.0, NAN])
    liquidity = np.array([0.0, NAN, 100.0, 100.0, 100.0])
    got = fill_top_n(score, liquidity, capital=4, participation=0.05, top_n=1)
    assert got.tolist() == [0, 0, 4, 0, 0]
    got = fill_top_n(score, liquidity, capital=4, participation=0.05, mask=np.array([1, 1, 0, 1, 1], bool))
    assert got.tolist() == [0, 0, 0, 4, 0]


def test_a_held_stock_gives_way_later_by_a_factor():
    # Caps of 50. Ranks 4 1 3 2; the held first comes to 4 / 2 = 2 and goes before the last, which ties with it.
    score, liquidity, nothing = np.array([1.0, 4.0, 2.0, 3.0]), np.full(4, 1000.0), np.full(4, np.nan)
    for capital, wanted in ((100.0, [50, 50, 0, 0]), (150.0, [50, 50, 0, 50]), (170.0, [50, 50, 20, 50])):
        day = Day(score, np.array([7.0, 0, 0, 0]), liquidity, liquidity, nothing, capital, 0.0, 0.0, score > 0)
        assert TopNPolicy(participation=0.05, rank_buffer=2.0).target(day).tolist() == wanted
    assert TopNPolicy(participation=0.05).target(day).tolist() == [20, 50, 50, 50]


def test_exact_fill_leaves_no_dust():
    # ten caps of 0.1 do not sum to 1 exactly in binary; the eleventh stock gets nothing all the same
    got = fill_top_n(-np.arange(12.0), np.ones(12), capital=1.0, participation=0.1)
    assert (got > 0).sum() == 10


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("top_n", MODES)
def test_agrees_with_the_slow_loop(seed, top_n):
    score, liquidity, mask = market(seed)
    for capital in (1.0, 15.0, 1e4):
        options = {"capital": capital, "participation": 0.05, "top_n": top_n}
        got = fill_top_n(score, liquidity, mask=mask, **options)
        want = [slow.fill_day(s, q, mask=m, **options) for s, q, m in zip(score, liquidity, mask, strict=True)]
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("head", [1, 2, 5])
@pytest.mark.parametrize("kind", ["tied", "constant", "float32", "float64"])
def test_the_head_of_the_ranking_is_enough(monkeypatch, kind, head):
    # ties across the border of the head go by position too; what the head cannot hold goes on behind it
    rng = np.random.default_rng(0)
    _, liquidity, mask = market(4, stocks=60)
    score = {
        "tied": rng.integers(0, 4, liquidity.shape).astype(float),
        "constant": np.where(rng.random(liquidity.shape) < 0.5, 0.0, -0.0),
        "float32": rng.normal(size=liquidity.shape).astype("f4"),
        "float64": 1 + 1e-12 * rng.integers(0, 30, liquidity.shape),  # float32 cannot tell these apart
    }[kind]
    for capital in (0.5, 3.0, 15.0, 1e4):
        for top_n in (None, head):
            options = {"capital": capital, "mask": mask, "top_n": top_n}
            monkeypatch.setattr("qlib_ext.portfolio.allocation.HEAD", 1000)
            want = fill_top_n(score, liquidity, **options)
            monkeypatch.setattr("qlib_ext.portfolio.allocation.HEAD", head)
            np.testing.assert_array_equal(fill_top_n(score, liquidity, **options), want)
            loop = [
                slow.fill_day(s, q, participation=0.05, **(options | {"mask": m}))
                for s, q, m in zip(score, liquidity, mask, strict=True)
            ]
            np.testing.assert_allclose(want, loop, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(MODES), st.floats(0.1, 1e4), st.floats(0.001, 1.0))
def test_caps_and_capital_hold(seed, top_n, capital, participation):
    score, liquidity, mask = market(seed)
    yuan = fill_top_n(score, liquidity, capital=capital, participation=participation, top_n=top_n, mask=mask)
    tradable = mask & ~np.isnan(score) & np.isfinite(liquidity) & (liquidity > 0)
    cap = np.where(tradable, participation * np.where(tradable, liquidity, 0.0), 0.0)
    assert (yuan >= 0).all() and (yuan <= cap).all()
    total = yuan.sum(axis=1)
    assert (total <= capital * (1 + 1e-12)).all()
    if top_n is None:
        np.testing.assert_allclose(total, np.minimum(capital, cap.sum(axis=1)), rtol=1e-9)
    else:
        assert ((yuan > 0).sum(axis=1) == np.minimum(top_n, tradable.sum(axis=1))).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(MODES))
def test_permuting_stocks_permutes_yuan(seed, top_n):
    rng = np.random.default_rng(seed)
    _, liquidity, mask = market(seed)
    score = rng.permuted(np.tile(np.arange(25.0), (6, 1)), axis=1)
    order = rng.permutation(25)
    options = {"capital": 15.0, "participation": 0.05, "top_n": top_n}
    got = fill_top_n(score[:, order], liquidity[:, order], mask=mask[:, order], **options)
    np.testing.assert_allclose(got, fill_top_n(score, liquidity, mask=mask, **options)[:, order], rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(MODES), st.sampled_from([NAN, np.inf, -np.inf, 1e300, -7.0]))
def test_garbage_under_the_mask_is_ignored(seed, top_n, garbage):
    score, liquidity, mask = market(seed)
    options = {"capital": 15.0, "participation": 0.05, "top_n": top_n, "mask": mask}
    want = fill_top_n(score, liquidity, **options)
    got = fill_top_n(np.where(mask, score, garbage), np.where(mask, liquidity, garbage), **options)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("top_n", MODES)
def test_leading_axes_kinds_and_inputs(top_n):
    score, liquidity, mask = market(3)
    keep = score.copy(), liquidity.copy()
    options = {"capital": 15.0, "top_n": top_n}
    want = fill_top_n(score, liquidity, mask=mask, **options)
    stacked = fill_top_n(score.reshape(2, 3, 25), liquidity.reshape(2, 3, 25), mask=mask.reshape(2, 3, 25), **options)
    np.testing.assert_array_equal(stacked.reshape(6, 25), want)
    np.testing.assert_array_equal(fill_top_n(score[1], liquidity[1], mask=mask[1], **options), want[1])
    leaf = torch.tensor(score, requires_grad=True)
    got = fill_top_n(leaf, torch.tensor(liquidity), mask=torch.tensor(mask), **options)
    assert isinstance(got, torch.Tensor) and got.dtype == torch.float64 and not got.requires_grad
    np.testing.assert_array_equal(got.numpy(), want)
    np.testing.assert_array_equal(score, keep[0])
    np.testing.assert_array_equal(liquidity, keep[1])
    assert fill_top_n(np.zeros((2, 0)), np.zeros((2, 0)), **options).shape == (2, 0)
    assert fill_top_n(np.full((2, 3), NAN), np.ones((2, 3)), **options).sum() == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"capital": 0.0}, "capital"),
        ({"capital": NAN}, "capital"),
        ({"participation": -0.1}, "participation"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": 2.0}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"mask": np.ones((2, 4), bool)}, "shapes"),
        ({"mask": np.ones((2, 3))}, "mask must be bool"),
    ],
)
def test_refuses(options, match):
    with pytest.raises(ValueError, match=match):
        fill_top_n(np.ones((2, 3)), np.ones((2, 3)), **options)


def test_refuses_shapes_and_infinite_scores():
    with pytest.raises(ValueError, match="shapes"):
        fill_top_n(np.ones((2, 3)), np.ones(3))
    with pytest.raises(ValueError, match="shapes"):
        fill_top_n(np.array(1.0), np.array(1.0))
    with pytest.raises(ValueError, match="infinite at 1"):
        fill_top_n(np.array([1.0, -np.inf]), np.ones(2))


@pytest.mark.parametrize("top_n", MODES)
def test_many_capitals_are_filled_as_each_alone(top_n):
    score, liquidity, _ = market(7)
    capitals = (1.0, 15.0, 3.0, 1e4)
    fills = list(fill_capitals(score, liquidity, capitals, top_n=top_n))
    for capital, yuan in zip(capitals, fills, strict=True):
        np.testing.assert_allclose(
            yuan, fill_top_n(score, liquidity, capital=capital, top_n=top_n), rtol=1e-12, atol=1e-9
        )
        yuan *= 0  # the caller's own


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"capitals": [1.0, 0.0]}, "capital is 0.0; allowed"),
        ({"participation": 0.0}, "participation is 0.0; allowed"),
        ({"top_n": 0}, "top_n is 0; allowed: a whole number"),
        ({"top_n": "3"}, "top_n is '3'; allowed: a whole number"),
        ({"liquidity": np.ones((2, 4))}, r"shapes .* liquidity \(2, 4\)"),
        ({"score": np.array([[1.0, np.inf, 2.0]] * 2)}, "score is infinite at 2 stocks"),
    ],
)
def test_many_capitals_refuse_at_once(change, match):
    given = {"score": np.ones((2, 3)), "liquidity": np.ones((2, 3)), "capitals": [1.0], "participation": 0.05} | change
    with pytest.raises(ValueError, match=match):
        fill_capitals(given.pop("score"), given.pop("liquidity"), given.pop("capitals"), **given)  # nothing taken yet


def test_numbers_of_any_kind_are_taken():
    want = [500000.0, 0.0]
    for score in ([0.3, None], np.array([0.3, None]), np.array([0.3, NAN], dtype=">f8")):
        assert fill_top_n(score, [1e7, 1e7]).tolist() == want
    liquidity = np.array([1e7, None])
    assert (
        fill_top_n([0.3, 0.1], liquidity).tolist()
        == want
        == next(fill_capitals([[0.3, 0.1]], [liquidity], [1e6]))[0].tolist()
    )


def test_ranks_of_an_array_that_runs_backwards():
    score = np.array([0.1, NAN, 0.3, 0.2])[::-1]
    np.testing.assert_array_equal(ranks(score), [2, 1, NAN, 3])


def test_grids_are_copied_only_where_they_must_be():
    score, liquidity, mask = market(2)
    want = fill_top_n(score, liquidity, mask=mask)
    kept = [grid.copy() for grid in (score, liquidity, mask)]
    for grid in kept:
        grid.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of memory that is read-only
        np.testing.assert_array_equal(fill_top_n(kept[0], kept[1], mask=kept[2]), want)
        got = fill_top_n(score[:, ::-1], liquidity[:, ::-1], mask=mask[:, ::-1])  # torch knows no negative strides
    back = fill_top_n(score[:, ::-1].copy(), liquidity[:, ::-1].copy(), mask=mask[:, ::-1].copy())
    np.testing.assert_array_equal(got, back)
    assert fill_top_n([[1, 2]], [[3, 4]], capital=1, participation=0.5).tolist() == [[0, 1]]
    np.testing.assert_array_equal(score, kept[0])


def test_fee_golden():
    # day 0: buys 60 + 40 = 100 at 1% = 1. Day 1: 60 has become 66, 40 has become 40 (NaN);
    # to 50 and 60: sells 16 at 2% = 0.32, buys 20 at 3% = 0.6.
    trade = rebalancing([[60, 40], [50, 60]], [[0.1, NAN], [0, 0]])
    assert fee_cost(trade, [0.01, 0.03], [0.5, 0.02]).tolist() == pytest.approx([1.0, 0.92])


def test_fee_of_a_holding_that_only_drifts_is_nothing():
    step = np.array([[0.1, -0.05], [0.02, 0.3], [0.0, 0.0]])
    yuan = 50 * np.vstack([np.ones(2), np.cumprod(1 + step[:-1], axis=0)])
    np.testing.assert_allclose(fee_cost(rebalancing(yuan, step), 0.01, 0.01), [1, 0, 0], atol=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_fee_agrees_with_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    yuan, step = rng.uniform(0, 9, (7, 5)), rng.normal(0, 0.05, (7, 5))
    step[rng.random(step.shape) < 0.2] = np.nan
    buy, sell = rng.uniform(0, 0.01, (2, 7))
    got = fee_cost(rebalancing(yuan, step), buy, sell) / 30.0
    np.testing.assert_allclose(got, slow.fee_cost(yuan, step, buy, sell, capital=30.0), rtol=1e-9)


def test_impact_golden():
    # 4 yuan of 100 at 2%: 4 * 0.02 * sqrt(0.04) = 0.016; a sale pays the same; no trade, nothing
    got = impact_cost([4.0, -4.0, 0.0], [100.0, 100.0, NAN], [0.02, 0.02, NAN])
    assert got.tolist() == pytest.approx([0.016, 0.016, 0.0])
    assert impact_cost(4.0, 100.0, 0.02, b=0.142, exponent=1.0) == pytest.approx(0.142 * 4 * 0.02 * 0.04)


def test_costs_refuse():
    with pytest.raises(ValueError, match=r"\(D, N\)"):
        rebalancing(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="yuan must be finite"):
        rebalancing([[NAN]], [[0.0]])
    with pytest.raises(ValueError, match="sell_rate"):
        fee_cost(np.ones((2, 3)), 0.0, np.ones(3))
    with pytest.raises(ValueError, match="1 trades have no positive"):
        impact_cost([1.0, 1.0], [0.0, 1.0], [0.1, 0.1])
    with pytest.raises(ValueError, match="exponent"):
        impact_cost(1.0, 1.0, 0.1, exponent=-1.0)


def test_rebalancing_by_hand():
    held = [[100.0, 0.0], [50.0, 30.0], [50.0, 30.0]]
    step = [[0.1, 0.2], [np.nan, -0.5], [0.3, 0.3]]
    expected = [[100.0, 0.0], [50.0 - 110.0, 30.0], [0.0, 30.0 - 15.0]]
    np.testing.assert_allclose(rebalancing(held, step), expected)


# --- what cash buys


def halved(yuan, cash, cost):
    """Oracle: the answer between 0 and what is wanted, halved 200 times."""
    low, high = 0.0, max(min(yuan, cash), 0.0)
    if high + cost(high) <= cash:
        return high
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if middle + cost(middle) <= cash else (low, middle)
    return low


def test_affordable_golden():
    # 0.03%, at least 5 yuan, of 10,000 yuan: 9,995 cost 5 (2.9985 is less); of 1,000,300 yuan: 1,000,000 cost 300
    def cost(value):
        return max(0.0003 * value, 5.0)

    assert affordable(1e9, 10_000.0, cost) == pytest.approx(9_995.0, rel=1e-12)
    assert affordable(1e9, 1_000_300.0, cost) == pytest.approx(1e6, rel=1e-12)
    assert affordable(500.0, 10_000.0, cost) == 500.0  # all that is wanted
    assert affordable(1e9, 4.0, cost) == affordable(1e9, 0.0, cost) == affordable(1e9, -7.0, cost) == 0.0
    assert affordable(0.0, 10_000.0, cost) == 0.0
    assert affordable(1e9, 10_000.0, lambda value: np.inf) == 0.0


@given(st.floats(1.0, 1e9), st.floats(1.0, 1e9), st.floats(0.0, 5.0), st.floats(0.0, 1e3), st.floats(0.0, 1.0))
@settings(max_examples=200, deadline=None)
def test_affordable_agrees_with_halving_and_never_overdraws(yuan, cash, steep, least, exponent):
    def cost(value):  # fees with a minimum, and an impact that may take more than what is bought
        return max(0.001 * value, least) + steep * value * (value / 1e8) ** exponent

    most = affordable(yuan, cash, cost)
    assert 0.0 <= most <= yuan and (most == 0.0 or most + cost(most) <= cash)
    assert most == pytest.approx(halved(yuan, cash, cost), rel=1e-9, abs=1e-12 * cash)


def test_affordable_asks_seldom():
    asked = []

    def cost(value):
        asked.append(value)
        return max(0.0003 * value, 5.0) + value * 0.02 * (value / 1e8) ** 0.5

    affordable(2e6, 1e6, cost)
    assert len(asked) < 40


def test_one_impact_is_impact_cost_to_the_last_bit():
    rng = np.random.default_rng(0)
    yuan, liquidity, sigma = rng.lognormal(12, 3, 500), rng.lognormal(17, 2, 500), rng.uniform(0.005, 0.1, 500)
    for b, exponent in ((1.0, 0.5), (1 / 3, 0.5)):
        whole = impact_cost(yuan, liquidity, sigma, b=b, exponent=exponent)
        each = [
            one_impact(*map(float, one), b=b, exponent=exponent) for one in zip(yuan, liquidity, sigma, strict=True)
        ]
        np.testing.assert_array_equal(whole, each)
    for exponent in (0.6, 1.0, 1.5):
        other = impact_cost(yuan, liquidity, sigma, exponent=exponent)
        assert one_impact(yuan[0], liquidity[0], sigma[0], exponent=exponent) == pytest.approx(other[0], rel=1e-14)
    assert one_impact(0.0, 1e6, 0.02) == 0.0
