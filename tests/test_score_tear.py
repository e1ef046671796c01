"""The score's tear sheet: by hand, against slow loops, and without a look at what is later."""

import numpy as np
import pandas as pd
import pytest

from qlib_ext.evaluate import (
    daily_metrics,
    group_ics,
    holdings_overlap,
    horizon_ics,
    ic_by_lag,
    lag_ics,
    newey_west,
    rank_autocorrelation,
)

FEWEST_STOCKS = 5  # of a group


def market(seed, days=30, more=5, stocks=40):
    rng = np.random.default_rng(seed)
    score, step = rng.normal(size=(days, stocks)), rng.normal(0.0, 0.02, (days + more, stocks))
    score[rng.random(score.shape) < 0.1] = np.nan
    step[rng.random(step.shape) < 0.02] = np.nan
    return score.round(1), step  # some scores are equal


def spearman(one, two):
    return one.rank().corr(two.rank())


@pytest.mark.parametrize("more", [0, 5])
def test_horizons_against_a_slow_loop(more):
    score, step = market(0, more=more)
    table = horizon_ics(score, step, horizons=[1, 3, 8])
    for days in (1, 3, 8):
        pairs = []
        for d in range(len(score)):
            if d + days <= len(step):
                pairs.append((pd.Series(score[d]), pd.Series((1 + step[d : d + days]).prod(axis=0) - 1)))
        pairs = [(a[(a + b).notna()], b[(a + b).notna()]) for a, b in pairs]
        ic, rank_ic = ([each(a, b) for a, b in pairs] for each in (pd.Series.corr, spearman))
        wanted = [*newey_west(ic, horizon=days)[:2], *newey_west(rank_ic, horizon=days)[:2], len(pairs)]
        assert table.loc[days].tolist() == pytest.approx(wanted)


def test_the_first_horizon_is_the_first_lag():
    score, step = market(1)
    lag = ic_by_lag(lag_ics(score, step, lags=1)).loc[1]
    first = horizon_ics(score, step, horizons=[1]).loc[1, ["ic", "ic_error", "days"]]
    assert first.tolist() == pytest.approx(lag.tolist())
    daily = daily_metrics(score, step[:30], names=["ic", "rank_ic"])
    assert horizon_ics(score, step[:30], horizons=[1]).loc[1, "rank_ic"] == pytest.approx(daily["rank_ic"].mean())


def test_horizons_beyond_the_days_have_none():
    score, step = market(2, days=6, more=0)
    table = horizon_ics(score, step, horizons=[5, 6, 7, 40])
    assert table["days"].tolist() == [2, 1, 0, 0] and np.isnan(table.loc[40, "ic"])


@pytest.mark.parametrize("horizons", [[], [0, 1], [5, 1], [1, 1]])
def test_horizons_that_are_none(horizons):
    with pytest.raises(ValueError, match="increasing"):
        horizon_ics(*market(0), horizons=horizons)
    with pytest.raises(ValueError, match="as many stocks"):
        horizon_ics(np.ones((9, 3)), np.ones((5, 3)))


def test_autocorrelation_against_a_slow_loop():
    score, _ = market(3)
    table, frame = rank_autocorrelation(score, ages=4), pd.DataFrame(score)
    shares = frame.rank(axis=1).div(frame.notna().sum(axis=1), axis=0)
    for age in range(1, 5):
        daily = [shares.iloc[d].corr(shares.iloc[d - age]) for d in range(age, 30)]
        assert table.loc[age].tolist() == pytest.approx([*newey_west(daily)[:2], 30 - age])


def test_autocorrelation_of_a_score_that_stays_and_of_noise():
    rng = np.random.default_rng(4)
    fixed = np.tile(rng.normal(size=50), (30, 1))
    np.testing.assert_allclose(rank_autocorrelation(fixed)["ic"], 1.0)
    noise = rank_autocorrelation(rng.normal(size=(200, 50)))
    assert (noise["ic"].abs() < 4 * noise["error"]).all()
    short = rank_autocorrelation(rng.normal(size=(3, 50)))
    assert short["days"].tolist() == [2, 1] + [0] * 18


def test_overlap_by_hand():
    """A 60 and B 40; then A 25, C 75: one of two names stays, weight min(.6, .25) = .25; then nothing; then A."""
    days = pd.bdate_range("2022-01-04", periods=4)
    held = pd.DataFrame({"A": [60.0, 25.0, np.nan, 5.0], "B": [40.0, 0, 0, 0], "C": [np.nan, 75, 0, 0]}, days)
    found = holdings_overlap(held)
    assert found["names"].tolist() == pytest.approx([np.nan, 0.5, 0.0, np.nan], nan_ok=True)
    assert found["weight"].tolist() == pytest.approx([np.nan, 0.25, 0.0, np.nan], nan_ok=True)
    assert list(found.index) == list(days)
    twice = holdings_overlap(7 * held[["C", "A", "B"]])  # neither order nor scale matter
    pd.testing.assert_frame_equal(twice, found)
    assert holdings_overlap(held.iloc[:0]).empty and holdings_overlap(held[[]])["names"].isna().all()


# --- groups


@pytest.mark.parametrize("seed", range(3))
def test_groups_against_a_slow_loop(seed):
    score, step = market(seed, stocks=60)
    rng, label = np.random.default_rng(9), step[:30].round(2)
    factor = rng.normal(size=score.shape)
    factor[rng.random(score.shape) < 0.1] = np.nan
    kinds = np.where(rng.random(score.shape) < 0.2, None, rng.choice(["x", "y", "z"], score.shape))
    table = group_ics(score, label, {"size": factor, "industry": kinds}, horizon=3, groups=4)
    assert list(table.index) == [*(("size", f"{n}/4") for n in range(1, 5)), *(("industry", n) for n in "xyz")]
    daily = {key: [] for key in table.index}
    for d in range(30):
        day = pd.DataFrame({"score": score[d], "label": label[d], "factor": factor[d], "kind": kinds[d]})
        scored = day[day["score"].notna() & day["factor"].notna()].copy()
        order = scored["factor"].rank(method="first", ascending=False) - 1
        scored["group"] = 4 - (order * 4 // len(scored)).astype(int)
        groups = {("size", f"{n}/4"): scored[scored["group"] == n] for n in range(1, 5)}
        groups |= {("industry", n): day[day["kind"] == n] for n in "xyz"}
        for key, own in groups.items():
            own = own.dropna(subset=["score", "label"])
            if len(own) >= FEWEST_STOCKS and own["label"].nunique() > 1:
                pair = own["score"].corr(own["label"]), spearman(own["score"], own["label"])
                daily[key].append((*pair, own["label"].mean(), len(own)))
    for key, rows in daily.items():
        ic, rank_ic, mean, stocks = np.array(rows).T
        wanted = [
            *newey_west(ic, horizon=3)[:2],
            *newey_west(rank_ic, horizon=3)[:2],
            mean.mean(),
            stocks.mean(),
            len(rows),
        ]
        assert table.loc[key].tolist() == pytest.approx(wanted), key


def test_one_group_of_all_is_the_ic():
    score, step = market(5)
    label = step[:30]
    row = group_ics(score, label, {"all": np.full(score.shape, "one", dtype=object)}).loc["all", "one"]
    daily = daily_metrics(score, label, names=["ic", "rank_ic"])
    assert (row["ic"], row["rank_ic"]) == (pytest.approx(daily["ic"].mean()), pytest.approx(daily["rank_ic"].mean()))


def test_groups_are_cut_by_what_is_known_at_the_close():
    """Whoever has a score is in the cut, whether its label will be known or not, and no other day is looked at."""
    score, step = market(6)
    label, factor = step[:30], np.random.default_rng(0).normal(size=score.shape)
    label[:, ::3] = np.nan
    cut = np.full(score.shape, None, dtype=object)
    for d in range(30):
        scored = np.flatnonzero(np.isfinite(score[d]))
        order = scored[np.argsort(-factor[d, scored], kind="stable")]
        for place, stock in enumerate(order):
            cut[d, stock] = f"{5 - place * 5 // len(order)}/5"
    pd.testing.assert_frame_equal(group_ics(score, label, {"f": cut}), group_ics(score, label, {"f": factor}))
    by_label = np.where(np.isfinite(label), factor, np.nan)  # a cut that looks at the labels is another
    assert not group_ics(score, label, {"f": by_label})["ic"].equals(group_ics(score, label, {"f": factor})["ic"])


def test_order_of_the_stocks_and_scale_change_nothing():
    score, step = market(7)
    score += np.random.default_rng(1).normal(0, 1e-3, score.shape)
    label, factor = step[:30], np.random.default_rng(0).normal(size=score.shape)
    order = np.random.default_rng(2).permutation(score.shape[1])
    table = group_ics(score, label, {"f": factor})
    again = group_ics(3 * score[:, order] + 1, label[:, order], {"f": np.exp(factor[:, order])})
    pd.testing.assert_frame_equal(again, table)


def test_groups_too_small_or_flat_have_none():
    score, label = np.arange(8.0)[None], np.arange(8.0)[None] / 100
    few = np.array([["a"] * 4 + ["b"] * 4], dtype=object)
    assert group_ics(score, label, {"k": few})["ic"].isna().all()
    flat = group_ics(score, np.full((1, 8), 0.013), {"k": np.full((1, 8), "a", dtype=object)})
    assert flat["ic"].isna().all() and flat["days"].tolist() == [0]
    same = group_ics(np.full((1, 8), 0.37), label, {"k": np.full((1, 8), "a", dtype=object)})
    assert same["ic"].tolist() == [0.0] and same["rank_ic"].tolist() == [0.0]
    assert group_ics(np.full((1, 8), np.nan), label, {"k": few, "f": label})["days"].tolist() == [0] * 7
    with pytest.raises(ValueError, match="groups"):
        group_ics(score, label, {"f": label}, groups=1)
    with pytest.raises(ValueError, match="shapes"):
        group_ics(score, label, {"f": label[:, :3]})
