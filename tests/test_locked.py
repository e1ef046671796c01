"""Locked holdings: neither sold nor bought anew, and first in line for the capital."""

import numpy as np
import pytest
import reference_portfolio as slow
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_ext.portfolio import fill_top_n, held_through, rebalancing

# --- goldens by hand: two days, three stocks, a capital of 100; the first day holds 50, 30, 20 whatever comes

FIRST = [50.0, 30.0, 20.0]
SCORE = [[3.0, 2.0, 1.0]] * 2


def second(target, *, up=(), down=(), step=(0.0, 0.0, 0.0), capital=100.0, score=SCORE):
    """Holdings of the second day, where stocks are locked at limit-up or limit-down (suspended: both)."""
    buyable, sellable = np.ones((2, 3), bool), np.ones((2, 3), bool)
    buyable[1, list(up)], sellable[1, list(down)] = False, False
    held = held_through([FIRST, target], [step, [0.0] * 3], buyable, sellable, capital=capital, score=score)
    assert held[0].tolist() == FIRST
    return held[1].tolist()


def test_free_stocks_take_their_target():
    assert second([10.0, 0.0, 90.0]) == [10.0, 0.0, 90.0]


def test_at_limit_up_a_holding_stays_up_to_its_target_and_the_rest_is_sold():
    assert second([20.0, 40.0, 40.0], up=[0]) == [20.0, 40.0, 40.0]  # 30 of 50 are sold
    assert second([70.0, 30.0, 0.0], up=[0]) == [50.0, 30.0, 0.0]  # 20 cannot be bought and stay cash
    assert second([0.0, 100.0, 0.0], up=[0]) == [0.0, 100.0, 0.0]
    assert second([60.0, 40.0, 0.0], up=[0], step=(0.1, 0.0, 0.0)) == pytest.approx([55.0, 40.0, 0.0])  # worth 55


def test_at_limit_down_all_of_a_holding_stays_and_can_be_topped_up():
    assert second([0.0, 50.0, 50.0], down=[0]) == [50.0, 50.0, 0.0]  # 50 are left: the best of the others first
    assert second([70.0, 30.0, 0.0], down=[0]) == [70.0, 30.0, 0.0]
    assert second([0.0, 0.0, 100.0], down=[0], step=(-0.1, 0.0, 0.0)) == [45.0, 0.0, 55.0]


def test_a_suspended_holding_stays_as_it_is():
    assert second([0.0, 50.0, 50.0], up=[0], down=[0]) == [50.0, 50.0, 0.0]
    assert second([70.0, 30.0, 0.0], up=[0], down=[0]) == [50.0, 30.0, 0.0]
    assert second([0.0, 60.0, 40.0], up=[0], down=[0], step=(1.2, 0.0, 0.0)) == pytest.approx([110.0, 0.0, 0.0])


def test_what_is_left_goes_down_the_ranking_or_is_shared_in_proportion():
    locked = {"up": [0], "down": [0]}
    assert second([0.0, 40.0, 60.0], **locked) == [50.0, 40.0, 10.0]
    assert second([0.0, 40.0, 60.0], score=[[1.0, 2.0, 3.0]] * 2, **locked) == [50.0, 0.0, 50.0]
    assert second([0.0, 40.0, 60.0], score=None, **locked) == [50.0, 20.0, 30.0]


def test_sleeves_trade_every_so_many_days():
    # two sleeves: day 2 renews that of day 0, which two days made 1.1 * 1.2 = 1.32 of; it is suspended then. NaN is 0.
    target, step = np.array([[100.0], [80.0], [0.0], [0.0]]), np.array([[0.1], [0.2], [np.nan], [0.5]])
    free = np.array([[True], [True], [False], [True]])
    held = held_through(target, step, free, free, capital=200.0, horizon=2)
    assert held.ravel().tolist() == pytest.approx([100.0, 80.0, 132.0, 0.0])
    # trades: half of 100 and of 80; none on day 2; on day 3 half of 80 * 1.2 is sold
    assert rebalancing(held, step, 2).ravel().tolist() == pytest.approx([50.0, 40.0, 0.0, -48.0])


def test_equal_scores_are_served_by_position():
    # 30 of 100 yuan for 40 stocks that want 1 each, 70 are stuck in one that cannot be sold: the better half, then 10
    score, target, step = np.arange(82).reshape(2, 41) % 2 * 1.0, np.ones((2, 41)), np.zeros((2, 41))
    target[0], target[0, 40], target[1, 40] = 0.0, 70.0, 0.0
    free = np.ones((2, 41), dtype=bool)
    down = free.copy()
    down[1, 40] = False
    held = held_through(target, step, free, down, capital=100.0, score=score)[1]
    assert held[40] == 70.0 and held[:40][score[1, :40] == 1].tolist() == [1.0] * 20
    assert held[:40][score[1, :40] == 0].tolist() == [1.0] * 10 + [0.0] * 10


# --- a loop over stocks and days


def market(seed, days=12, stocks=8):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(days, stocks)).round(1)  # ties
    score[rng.random(score.shape) < 0.2] = np.nan
    target = fill_top_n(score, np.exp(rng.normal(3.0, 1.0, size=score.shape)), capital=6.0)
    step = rng.normal(0.0, 0.05, size=score.shape)
    step[rng.random(score.shape) < 0.1] = np.nan
    return target, step, rng.random(score.shape) < 0.7, rng.random(score.shape) < 0.7, score


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_slow_loop(seed, horizon):
    target, step, buyable, sellable, score = market(seed)
    held = held_through(target, step, buyable, sellable, capital=6.0, score=score, horizon=horizon)
    np.testing.assert_allclose(
        held, slow.held_through(target, step, buyable, sellable, 6.0, score, horizon), atol=1e-12
    )
    trade = rebalancing(held, step, horizon)
    assert (np.abs(trade[~buyable & ~sellable]) < 1e-12).all()  # nothing is traded while suspended
    assert (trade[~buyable] < 1e-12).all() and (trade[~sellable] > -1e-12).all()


# --- invariants


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_nothing_locked_is_the_target_and_later_days_change_nothing(seed):
    target, step, buyable, sellable, score = market(seed)
    free = np.ones_like(buyable)
    np.testing.assert_array_equal(held_through(target, step, free, capital=6.0, score=score), target)
    held = held_through(target, step, buyable, sellable, capital=6.0, score=score)
    for grid in (target, step, buyable, sellable, score):
        grid[6:] = grid[6:][::-1]
    step[5] = 9.0  # the return of day 5 is known after it
    np.testing.assert_array_equal(held_through(target, step, buyable, sellable, capital=6.0, score=score)[:6], held[:6])


def test_errors_name_what_came():
    ones = np.ones((2, 3))
    with pytest.raises(ValueError, match="sellable must be bool .*float64"):
        held_through(ones, ones, ones > 0, ones, capital=1.0)
    with pytest.raises(ValueError, match=r"\(D, N\)"):
        held_through(ones, ones, np.ones((2, 4), bool), capital=1.0)
    with pytest.raises(ValueError, match=r"score \(2, 4\)"):
        held_through(ones, ones, ones > 0, capital=1.0, score=np.ones((2, 4)))
    with pytest.raises(ValueError, match="capital is 0"):
        held_through(ones, ones, ones > 0, capital=0)
