"""The Sharpe ratio's error and what many trials leave of it: by the papers' numbers, by hand, by simulation."""

import math
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from qlib_ext.evaluate import (
    TRIALS,
    deflated_sharpe,
    headline,
    highest_by_chance,
    independent_trials,
    read_trials,
    sharpe_error,
    sharpe_probability,
    trial_row,
    write_trials,
)

DAYS = pd.bdate_range("2022-01-04", periods=250)


def paper_error(daily):
    """Bailey and Lopez de Prado (2012), equation 9, by a slow loop; S with days - 1 below, moments with days."""
    n, mean = len(daily), sum(daily) / len(daily)
    m2, m3, m4 = (sum((x - mean) ** k for x in daily) / n for k in (2, 3, 4))
    ratio = mean / math.sqrt(m2 * n / (n - 1))
    skewness, kurtosis = m3 / m2**1.5, m4 / m2**2
    return ratio, math.sqrt((1 - skewness * ratio + (kurtosis - 1) / 4 * ratio**2) / (n - 1))


@pytest.mark.parametrize("seed", range(3))
def test_without_lags_it_is_the_paper_s(seed):
    daily = np.random.default_rng(seed).gamma(2.0, 0.01, 80) - 0.015
    ratio, error = paper_error(daily.tolist())
    assert sharpe_error(daily, lags=0) == pytest.approx(error, rel=1e-9)
    assert headline(daily, year=1.0)["sharpe"] == pytest.approx(ratio, rel=1e-12)
    wanted = NormalDist().cdf((ratio - 0.02) / error)
    assert sharpe_probability(daily, above=0.02, lags=0) == pytest.approx(wanted, rel=1e-9)


def test_scale_changes_nothing():
    daily = np.random.default_rng(0).normal(0.001, 0.01, 100)
    assert sharpe_error(3 * daily) == pytest.approx(sharpe_error(daily), rel=1e-9)


def test_days_that_resemble_each_other_make_it_less_sure():
    """AR(1) with .5: the mean's error is sqrt(3) of that of independent days; 500 paths tell the true one."""
    rng = np.random.default_rng(1)
    paths = np.zeros((500, 400))
    noise = rng.normal(0, 0.01, paths.shape)
    for day in range(1, 400):
        paths[:, day] = 0.5 * paths[:, day - 1] + noise[:, day]
    paths += 0.001
    true = np.std([headline(path, year=1.0)["sharpe"] for path in paths])
    plain, allowed = (np.mean([sharpe_error(path, lags) for path in paths[:60]]) for lags in (0, 12))
    assert plain < 0.65 * true and 0.8 * true < allowed < 1.1 * true


def test_what_does_not_vary_has_none():
    for daily in ([0.01, 0.02], [0.001] * 50, [0.0] * 50):
        assert math.isnan(sharpe_error(daily)) and math.isnan(sharpe_probability(daily))


def test_the_example_of_the_paper():
    """Bailey and Lopez de Prado (2014): S 2.5 a year, five years, skewness -3, kurtosis 10, variance 1/2 of 100 trials.

    Highest by chance 0.1132 a day, deflated Sharpe ratio 0.9004; of 46 independent trials 0.9505.
    """
    ratio, spread = 2.5 / math.sqrt(250), math.sqrt(0.5 / 250)
    error = math.sqrt((1 + 3 * ratio + 9 / 4 * ratio**2) / 1249)
    assert spread * highest_by_chance(100) == pytest.approx(0.1132, abs=5e-5)
    for count, wanted in ((100, 0.9004), (46, 0.9505)):
        assert NormalDist().cdf((ratio - spread * highest_by_chance(count)) / error) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize("count", [3, 20, 200])
def test_the_highest_of_so_many_normal_numbers(count):
    drawn = np.random.default_rng(2).normal(size=(20_000, count)).max(axis=1)
    assert highest_by_chance(count) == pytest.approx(drawn.mean(), abs=0.04)
    assert highest_by_chance(1.0) == 0.0 <= highest_by_chance(1.2) < highest_by_chance(2.0)


def trials_of(frame, keep=True):
    return pd.DataFrame([trial_row(name, {"of": name}, frame[name], keep=keep) for name in frame])


def test_independent_trials_by_their_correlation():
    """Four that share half of their variance: mean correlation 1/2, 1/2 + 1/2 * 4 = 2.5; copies are one."""
    rng = np.random.default_rng(3)
    common, own = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 4))
    half = pd.DataFrame(0.01 * (common + own), pd.bdate_range("2005-01-03", periods=4000), list("abcd"))
    correlation, number = independent_trials(trials_of(half))
    assert correlation == pytest.approx(0.5, abs=0.03) and number == pytest.approx(0.5 + 0.5 * 4, abs=0.1)
    same = half[["a"]].assign(b=half["a"], c=2 * half["a"])
    assert independent_trials(trials_of(same)) == (pytest.approx(1.0), pytest.approx(1.0))
    assert independent_trials(trials_of(half, keep=False)) == (0.0, 4.0)  # nothing known: as many as can be
    told = trials_of(half, keep=False).assign(correlation=0.25)
    assert independent_trials(told) == (0.25, 0.25 + 0.75 * 4)
    assert independent_trials(trials_of(half[["a"]])) == (0.0, 1.0)
    apart = trials_of(pd.concat([half[["a"]].iloc[:2000], half[["b"]].iloc[2000:]], axis=1).loc[:, ["a"]].dropna())
    assert independent_trials(apart)[1] == 1.0


def test_trials_of_other_days_count_by_the_days_that_they_share():
    rng = np.random.default_rng(4)
    first, second = (pd.Series(rng.normal(size=60), DAYS[i : i + 60]) for i in (0, 100))
    shifted = pd.concat([first.iloc[30:], pd.Series(rng.normal(size=30), DAYS[60:90])])
    rows = [trial_row(name, {}, each) for name, each in (("a", first), ("b", second), ("c", shifted))]
    wanted = np.corrcoef(first.iloc[30:], shifted.iloc[:30])[0, 1]  # the only pair with common days
    assert independent_trials(pd.DataFrame(rows))[0] == pytest.approx(max(wanted, 0.0))


def test_deflated_by_hand():
    rng = np.random.default_rng(5)
    table = pd.DataFrame(rng.normal(0.0005, 0.01, (250, 5)), DAYS, list("abcde"))
    trials = trials_of(table, keep=False)
    found = deflated_sharpe(table["c"], trials, year=242, lags=0)
    ratio, error = paper_error(table["c"].tolist())
    spread = np.std([headline(table[name], year=1.0)["sharpe"] for name in table], ddof=1)
    z, g = NormalDist().inv_cdf, 0.5772156649015329
    highest = spread * ((1 - g) * z(1 - 1 / 5) + g * z(1 - 1 / (5 * math.e)))
    root = math.sqrt(242)
    assert found["highest"] == pytest.approx(highest * root) and found["sharpe"] == pytest.approx(ratio * root)
    assert found["deviation"] == pytest.approx(spread * root) and found["sharpe_error"] == pytest.approx(error * root)
    assert found["probability"] == pytest.approx(NormalDist().cdf((ratio - highest) / error))
    assert found["probability"] < sharpe_probability(table["c"], lags=0)
    alone = deflated_sharpe(table["c"], trials.iloc[[2]], year=242, lags=0)  # one trial was not chosen
    assert alone["highest"] == 0.0 and alone["probability"] == pytest.approx(sharpe_probability(table["c"], lags=0))


def test_the_best_of_many_without_skill_is_deflated_to_about_chance():
    rng, found = np.random.default_rng(6), []
    for _ in range(40):
        table = pd.DataFrame(rng.normal(0.0, 0.01, (250, 30)), DAYS, map(str, range(30)))
        trials = trials_of(table, keep=False)
        best = str(trials["sharpe"].to_numpy().argmax())
        found.append((sharpe_probability(table[best]), deflated_sharpe(table[best], trials, year=242)["probability"]))
    plain, deflated = np.mean(found, axis=0)
    assert plain > 0.95 and 0.35 < deflated < 0.65


# --- the file


def test_what_was_written_is_read(tmp_path):
    excess = pd.Series(np.random.default_rng(7).normal(0.001, 0.01, 20), DAYS[:20])
    rows = [trial_row("mlp", {"loss": "ic", "层": [1, 2]}, excess), trial_row("lgb", "plain", -excess, keep=False)]
    write_trials(tmp_path / "trials.parquet", rows)
    read = read_trials(str(tmp_path / "trials.parquet"))
    assert set(read) <= set(TRIALS) and read["name"].tolist() == ["mlp", "lgb"]
    assert read["configuration"][0] == '{"loss": "ic", "层": [1, 2]}' and read["days"].tolist() == [20, 20]
    np.testing.assert_array_equal(read["excess"][0], excess)
    assert list(pd.DatetimeIndex(read["day"][0])) == list(DAYS[:20])
    assert read["sharpe"].tolist() == [rows[0]["sharpe"], -rows[0]["sharpe"]]
    assert independent_trials(read) == (0.0, 2.0)  # one alone tells of no pair
    assert [file.name for file in tmp_path.iterdir()] == ["trials.parquet"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: [], "column name is lacking"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "days"}], "days is lacking"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "day"}], "column day is lacking"),
        (lambda rows: [rows[0], rows[0]], "'a' stands twice"),
        (lambda rows: [rows[0] | {"sharpe": math.nan}], "no number"),
        (lambda rows: [rows[1] | {"sharpe": 1.5}], "not annualised"),
        (lambda rows: [rows[0] | {"sharpe": 0.9}], "of its excess"),
        (lambda rows: [rows[0] | {"days": 9}], "one length"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, change, words):
    excess = pd.Series([0.01, -0.02, 0.03], DAYS[:3])
    rows = [trial_row("a", {}, excess), trial_row("b", {}, excess, keep=False)]
    path = tmp_path / "trials.parquet"
    with pytest.raises(ValueError, match=words):
        write_trials(path, change(rows))
    assert not path.exists()
    pd.DataFrame(change(rows)).to_parquet(path)
    with pytest.raises(ValueError, match=words):
        read_trials(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="write_trials"):
        read_trials(tmp_path / "no.parquet")
    (tmp_path / "text.parquet").write_text("name,sharpe")
    with pytest.raises(ValueError, match="no Parquet file"):
        read_trials(tmp_path / "text.parquet")
