"""What a score is worth: level and decay of markets where both are set."""

import json
from importlib import import_module

import numpy as np
import pytest
import reference_portfolio as slow
from scipy.stats import norm, rankdata

from qlib_ext.portfolio import Forecast, sum_covariance

NAN = float("nan")


def market(seed, *, days=250, stocks=300, half_life=5.0, level=1e-3, noise=0.0, volatility=0.02, slow_part=None):
    """Scores of AR(1) stocks, one standard deviation of which is worth `level` on the first day, and the returns."""
    rng = np.random.default_rng(seed)

    def wander(days_to_half):
        keep = 0.5 ** (1 / days_to_half)
        state = np.empty((days, stocks))
        state[0] = rng.standard_normal(stocks)
        for day in range(1, days):
            state[day] = keep * state[day - 1] + np.sqrt(1 - keep**2) * rng.standard_normal(stocks)
        return state

    score = level * wander(half_life) + (0.0 if slow_part is None else slow_part[1] * wander(slow_part[0]))
    market_return = 0.01 * rng.standard_normal((days, 1))
    step = score + market_return + volatility * rng.standard_normal((days, stocks))
    return score + noise * max(score.std(), 1e-3) * rng.standard_normal((days, stocks)), step


def slope_of(forecast):
    """Level of one standard deviation of the score, read off between the places 0.16 and 0.84."""
    low, high = np.interp([0.1587, 0.8413], forecast.places, forecast.levels)
    return (high - low) / 2


@pytest.mark.parametrize("half_life", [1.0, 5.0, 20.0])
def test_level_and_half_life_of_a_known_signal_come_back_within_their_errors(half_life):
    forecast = Forecast.fit(*market(1, half_life=half_life))
    assert forecast.significant and forecast.t > 5 and len(forecast.half_lives) == 1
    assert abs(forecast.half_life - half_life) < 2.5 * forecast.half_life_error
    assert slope_of(forecast) == pytest.approx(1e-3, abs=2e-4)
    assert forecast.spread == pytest.approx(1e-3, rel=0.2)
    assert forecast.persistence == pytest.approx(0.5 ** (1 / half_life), abs=0.05)
    assert forecast.smoothing <= half_life / 10  # the score of the day says all of an AR(1) signal


def test_errors_tell_how_far_results_are_from_the_truth():
    distance = []
    for seed in range(24):
        forecast = Forecast.fit(*market(seed, days=150, stocks=80, half_life=8.0, level=2e-3), smoothings=[0])
        distance.append((forecast.half_life - 8.0) / forecast.half_life_error)
        last, first = forecast.curve[-2], forecast.curve[0]  # ten days of overlapping scores; one
        distance.append((last[2] - 2e-3 * (0.5 ** (np.arange(10, 20) / 8.0)).mean()) / last[3])
        distance.append((first[2] - 2e-3) / first[3])
    assert 0.7 < np.std(distance) < 1.4
    assert abs(np.mean(distance)) < 0.5


@pytest.mark.parametrize("lags", [0, 1, 5, None])
def test_the_covariance_of_a_sum_is_newey_and_wests(lags):
    """By loops over pairs of days, weighted by how near they are; 110 of 120 days count: 4 * 1.1^(2/9) = 4.08 lags."""
    parts = np.cumsum(np.random.default_rng(0).normal(size=(120, 2)), axis=0)
    parts[:10] = 0.0
    reach, slow_sum = 4 if lags is None else lags, np.zeros((2, 2))
    for s in range(120):
        for t in range(max(0, s - reach), min(120, s + reach + 1)):
            slow_sum += (1 - abs(s - t) / (reach + 1)) * np.outer(parts[s], parts[t])
    np.testing.assert_allclose(sum_covariance(parts, lags), slow_sum * 110 / 109)


def test_a_score_of_noise_is_not_significant_and_expects_next_to_nothing():
    forecasts = [Forecast.fit(*market(seed, days=120, stocks=100, level=0.0, noise=1.0)) for seed in range(20)]
    assert sum(forecast.significant for forecast in forecasts) <= 1
    assert np.median([forecast.spread for forecast in forecasts]) < 5e-5  # errors are 0.02 / sqrt(120 * 100) = 2e-4
    wrong = Forecast.fit(*(grid * sign for grid, sign in zip(market(3), (-1, 1), strict=True)))
    assert not wrong.significant and wrong.t < 0 and wrong.spread < 1e-4  # a score that is wrong is not turned round


def test_a_noisy_score_is_smoothed_and_a_clean_one_is_not():
    assert Forecast.fit(*market(4, half_life=20.0, noise=2.0)).smoothing >= 2.0
    noisy, clean = (Forecast.fit(*market(4, half_life=20.0, noise=noise)) for noise in (2.0, 0.0))
    assert noisy.spread < clean.spread and noisy.smoothing > clean.smoothing


def test_a_fast_and_a_slow_part_are_told_apart_where_the_days_are_clear():
    forecast = Forecast.fit(*market(5, half_life=1.0, level=2e-3, slow_part=(40.0, 1e-3)), smoothings=[0])
    assert len(forecast.half_lives) == 2 and forecast.half_life_error is None
    fast, slow_one = forecast.half_lives
    assert fast < 3 < 15 < slow_one and sum(forecast.weights) == pytest.approx(1.0)
    assert forecast.decay(forecast.half_life) == pytest.approx(0.5, abs=1e-6)


def test_of_smoothings_that_earn_the_same_the_longest_is_taken():
    score, step = market(11, half_life=60.0, noise=0.3)
    forecast = Forecast.fit(score, step, smoothings=[0, 1, 2])
    assert forecast.smoothing == 2.0 and forecast.persistence > 0.95


def test_the_best_few_are_not_extrapolated_to():
    share = (np.random.default_rng(12).permuted(np.arange(300.0)[None].repeat(120, 0), axis=1) + 0.5) / 300
    step = 2e-3 * np.minimum(share, 0.8) + 0.02 * np.random.default_rng(13).standard_normal(share.shape)
    forecast = Forecast.fit(share, step, smoothings=[0], horizons=[1])
    usual, best = np.interp([0.9, 0.995], forecast.places, forecast.levels)
    assert best < 1.5 * usual  # 2.0 in normal scores, 1.24 in shares


def test_persistence_is_of_the_stocks_that_both_days_know():
    score, step = market(3, days=60, stocks=40)
    score[np.random.default_rng(3).random(score.shape) < 0.2] = NAN
    expected = []
    for today, later in zip(score[:-1], score[1:], strict=True):
        places = [norm.ppf((rankdata(day, nan_policy="omit") - 0.5) / np.isfinite(day).sum()) for day in (today, later)]
        a, b = (place[np.isfinite(today + later)] for place in places)
        expected.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    forecast = Forecast.fit(score, step, horizons=(1, 2, 5), smoothings=(0.0,))
    assert forecast.persistence == pytest.approx(np.mean(expected))


def test_levels_rise_and_are_of_the_mean_stock():
    step = market(6, stocks=500)[1]
    bent = np.random.default_rng(6).permuted(np.arange(500.0)[None].repeat(250, 0), axis=1)
    step += 4e-3 * (bent < 100) * -1.0 + 4e-3 * 0.2  # only the lowest fifth differs
    forecast = Forecast.fit(bent, step, smoothings=[0], horizons=[1])
    assert (np.diff(forecast.levels) >= 0).all()
    mean = np.interp((np.arange(1000) + 0.5) / 1000, forecast.places, forecast.levels).mean()
    assert mean == pytest.approx(0.0, abs=1e-4)
    low, middle, high = np.interp([0.1, 0.4, 0.9], forecast.places, forecast.levels)
    assert low < -2.5e-3 and abs(high - middle) < 1e-3  # the line gives way to what the bins show


def test_slopes_by_age_are_those_of_a_loop_and_of_stocks_that_could_be_entered():
    score, step = market(7, days=40, stocks=30)
    rng = np.random.default_rng(7)
    mask = rng.random(score.shape) < 0.8
    score[rng.random(score.shape) < 0.1] = NAN
    score[20:25] = NAN  # days without a score, as between folds
    step[rng.random(step.shape) < 0.05] = NAN
    step[-2:] = NAN  # not yet known
    forecast = Forecast.fit(score, step, mask=mask, horizons=[1, 3, 8], smoothings=[0])
    assert forecast.days == 38
    expected = slow.slopes_by_age(score, step, mask, [(0, 1), (1, 3), (3, 8)])
    assert [row[2] for row in forecast.curve] == pytest.approx(expected, rel=1e-9)


def test_garbage_outside_of_the_mask_changes_nothing_but_the_ranking():
    score, step = market(8, days=60, stocks=40)
    score[:, 30:] = NAN
    mask = np.ones(score.shape, bool)
    mask[:, 30:] = False
    strange = step.copy()
    strange[:, 30:] = 9.0
    assert Forecast.fit(score, step, mask=mask) == Forecast.fit(score, strange, mask=mask)


def test_prepare_knows_no_later_score():
    score, step = market(9, days=80, stocks=40)
    score[np.random.default_rng(9).random(score.shape) < 0.2] = NAN
    forecast = Forecast.fit(score, step, smoothings=[5])
    changed = score.copy()
    changed[50:] = np.random.default_rng(1).standard_normal((30, 40))
    before, after = forecast.prepare(score), forecast.prepare(changed)
    np.testing.assert_array_equal(before[:50], after[:50])
    assert not np.array_equal(before[50:], after[50:], equal_nan=True)


def test_an_old_score_is_worth_what_decay_leaves_of_it():
    forecast = Forecast(places=(0.25, 0.75), levels=(-0.002, 0.002), half_lives=(2.0,))
    score = [[1.0, 2.0, NAN], [NAN, NAN, NAN], [NAN, 2.0, 1.0]]
    # two stocks are at 0.25 and 0.75; after two days half is left; alone on a day a stock is in the middle
    assert forecast.prepare(score)[0].tolist() == pytest.approx([-0.002, 0.002, NAN], nan_ok=True)
    assert forecast.prepare(score)[1].tolist() == pytest.approx([-0.002 / 2**0.5, 0.002 / 2**0.5, NAN], nan_ok=True)
    assert forecast.prepare(score)[2].tolist() == pytest.approx([-0.001, 0.002, -0.002])
    # 0.002 * (1 + 0.5 ** 0.5 + 0.5), a day later 0.5 ** 0.5 of that
    total = 0.002 * (1.5 + 0.5**0.5)
    assert forecast.predict(score, horizon=3)[2].tolist() == pytest.approx([-total / 2, total, -total])
    assert forecast.predict(score, 3, age=1)[2, 1] == pytest.approx(total * 0.5**0.5)


def test_a_forecast_that_knows_nothing_expects_nothing():
    assert Forecast().prepare([[1.0, NAN]])[0].tolist() == pytest.approx([0.0, NAN], nan_ok=True)
    empty = Forecast.fit(np.full((30, 4), NAN), np.zeros((30, 4)))
    assert empty == Forecast() and not empty.significant


def test_returns_without_noise_have_a_forecast_of_numbers():
    score = np.random.default_rng(1).standard_normal((50, 30))
    nothing = Forecast.fit(score, np.zeros(score.shape))
    assert nothing.days == 50 and not nothing.significant and nothing.t == 0.0
    assert set(nothing.levels) == {0.0} and np.isfinite(nothing.half_life) and nothing.half_life_error is None
    lasting = score[[0] * 50]
    exact = Forecast.fit(lasting, 1e-3 * lasting)
    assert exact.significant and slope_of(exact) == pytest.approx(1e-3, rel=0.3)
    for forecast in (nothing, exact):
        json.dumps(forecast.to_dict(), allow_nan=False)


def test_what_few_days_tell_of_is_left_out():
    score, step = market(12, days=60, stocks=20)
    ages = [row[1] for row in Forecast.fit(score, step, horizons=[1, 20, 45, 55, 59]).curve]
    assert ages == [1, 20, 45, 55]  # ages of 45 days and more are seen on 15 days, of 55 and more on 5
    late = score.copy()
    late[15:] = NAN
    assert Forecast.fit(late[:24], step[:24]).to_dict()["curve"][-1][1] == 20
    assert Forecast.fit(score[:9], step[:9]) == Forecast()
    late[1:] = NAN
    assert Forecast.fit(late, step, horizons=range(1, 41)) == Forecast()  # each age is seen on one day


def test_few_days_are_never_significant():
    forecast = Forecast.fit(*market(10, days=12, level=5e-3))
    assert forecast.t > 5 and forecast.days == 12 and not forecast.significant


def test_a_decay_of_no_half_life_is_refused():
    with pytest.raises(ValueError, match="half_lives .., weights .., .* do not go together"):
        Forecast.from_dict({"half_lives": [], "weights": []})


def test_it_goes_through_json_and_back():
    forecast = Forecast.fit(*market(11, days=60, stocks=50))
    assert Forecast.from_dict(json.loads(json.dumps(forecast.to_dict(), allow_nan=False))) == forecast
    with pytest.raises(TypeError, match="no option 'half_live'; close: .*half_lives"):
        Forecast.from_dict({"half_live": 3.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizons": [3, 2]}, r"horizons are \[3, 2\]; they must rise"),
        ({"horizons": [0, 2]}, "a horizon is 0; allowed: a whole number"),
        ({"smoothings": [-1.0]}, "a smoothing is -1.0"),
        ({"mask": np.ones((2, 3), bool)}, "shapes must be one and the same"),
    ],
)
def test_what_is_not_allowed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Forecast.fit(np.zeros((2, 2)), np.zeros((2, 2)), **options)


def test_the_closest_rising_values_by_hand():
    # 3 and 1 become their mean by weights 1 and 3, and the caller is told of no error
    with np.errstate(all="raise"):
        closest = import_module("qlib_ext.portfolio.forecast")._rising(
            np.array([0.0, 3.0, 1.0, 2.0]), np.array([2.0, 1.0, 3.0, 1.0])
        )
    np.testing.assert_allclose(closest, [0.0, 1.5, 1.5, 2.0])
