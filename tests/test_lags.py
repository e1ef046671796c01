"""IC by lag and half-life: by hand, against a slow loop, and as a record and its page have them."""

import numpy as np
import pandas as pd
import pytest

from qlib_ext.evaluate import decay_table, ic_by_lag, ic_decay, lag_ics, newey_west


def persistent(rng, half_life, days, stocks):
    """A signal whose correlation with itself halves in so many days."""
    left = 2.0 ** (-1 / half_life)
    signal = rng.normal(size=(days, stocks))
    for day in range(1, days):
        signal[day] = left * signal[day - 1] + np.sqrt(1 - left**2) * signal[day]
    return signal


def test_by_hand():
    score = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 2.0, np.nan]])
    step = np.array([[0.01, 0.02, 0.03], [0.01, 0.02, 0.03], [0.05, 0.04, np.nan], [0.0, 0.0, 0.0]])
    ics = lag_ics(score, step, lags=5)
    wanted = [[1, np.nan, np.nan], [-1, 1, np.nan], [-1, 1, -1], [np.nan] * 3]
    np.testing.assert_allclose(ics.to_numpy()[:, :3], wanted)
    table = ic_by_lag(ics)
    assert table["ic"].tolist()[:3] == pytest.approx([-1 / 3, 1, -1]) and table["days"].tolist() == [3, 2, 1, 0, 0]


@pytest.mark.parametrize("more", [0, 6])
def test_a_slow_loop_says_the_same(more):
    rng = np.random.default_rng(0)
    score, step = rng.normal(size=(30, 12)), rng.normal(size=(30 + more, 12))
    score[rng.random(score.shape) < 0.2] = np.nan
    step[rng.random(step.shape) < 0.1] = np.nan
    table = ic_by_lag(lag_ics(score, step, lags=7))
    for lag in range(1, 8):
        pairs = [(score[d], step[d + lag - 1]) for d in range(30) if d + lag - 1 < len(step)]
        daily = [pd.Series(s).corr(pd.Series(r)) for s, r in pairs]
        ic, error, _ = newey_west(daily)
        assert table.loc[lag].tolist() == pytest.approx([ic, error, len(daily)])


def test_shapes_that_do_not_go_together():
    score = np.ones((20, 9))
    for step in (score[:5], score[:, :4], score[0]):
        with pytest.raises(ValueError, match=r"at least as many days|one and the same \(D, N\)"):
            lag_ics(score, step)


@pytest.mark.parametrize("half_life", [2.0, 10.0])
def test_half_lives_are_within_their_errors(half_life):
    rng, off = np.random.default_rng(2), []
    for _ in range(20):
        signal = persistent(rng, half_life, 260, 60)
        step = 0.004 * signal + 0.02 * rng.normal(size=signal.shape)
        decay = ic_decay(lag_ics(signal[20:], step[20:]))
        assert decay.first_ic == pytest.approx(0.2, abs=0.04)
        off.append(np.log(decay.half_life / half_life) / np.log(decay.high / decay.half_life))
    assert abs(np.mean(off)) < 0.8 and 0.5 < np.std(off) < 1.8  # of 20 draws


def test_what_decides_nothing_has_no_half_life():
    rng = np.random.default_rng(3)
    noise = pd.DataFrame(rng.normal(0, 0.1, (100, 10)), columns=range(1, 11))
    table = decay_table({"noise": noise - noise.mean(), "negative": noise - 0.5, "short": noise[[1, 2]]})
    assert table["half_life"].isna().all() and list(table.columns) == ["first_ic", "half_life", "low", "high"]
    assert ic_decay(noise - noise.mean() + 0.5).half_life == pytest.approx(400)  # longer than can be told
