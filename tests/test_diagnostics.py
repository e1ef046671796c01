import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_ext import cross_section, evaluate
from qlib_ext.evaluate import DIAGNOSTICS_DEFINITIONS, exposures, newey_west, quantile_returns, summary

NAN = float("nan")
ROWS = ("ic", "icir", "rank_ic", "rank_icir", "wpcc", "liq_wpcc", "top20_ic", "top20_mse", "top20_mse_fitted")
PRECISION = ("precision_top", "precision_chance")
PAPER = ("precision_top_paper", "precision_chance_paper")


def market(seed, days=12, stocks=30, ties=True):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(days, stocks))
    label = rng.normal(0.0, 0.03, size=(days, stocks)) + 0.01 * score
    if ties:
        score, label = score.round(1), label.round(2)
    liquidity = np.exp(rng.normal(3.0, 1.0, size=(days, stocks)))
    score[rng.random(score.shape) < 0.1] = np.nan
    label[rng.random(score.shape) < 0.1] = np.nan
    return score, label, liquidity, rng.random(score.shape) < 0.8


# --- slow loops


def slow_newey_west(series, lags):
    kept = [x for x in series if not math.isnan(x)]
    days, mean = len(kept), sum(kept) / len(kept)
    total = 0.0
    for s in range(days):
        for t in range(days):
            if abs(s - t) <= lags:
                total += (1 - abs(s - t) / (lags + 1)) * (kept[s] - mean) * (kept[t] - mean)
    return mean, math.sqrt(total / days**2 * days / (days - 1))


def ranking(values, among):
    """Stocks from the highest value down, ties by position."""
    return sorted(among, key=lambda i: (-values[i], i))


def slow_day(score, label, buyable, top_n):
    """The numbers on the top, of one day without degenerate values."""
    scored = [i for i in range(len(score)) if not math.isnan(score[i])]
    real = [i for i in scored if not math.isnan(label[i])]
    p, r = [score[i] for i in real], [label[i] for i in real]
    zp = {i: (score[i] - np.mean(p)) / np.std(p) for i in real}
    zr = {i: (label[i] - np.mean(r)) / np.std(r) for i in real}
    slope = np.polyfit(list(zp.values()), list(zr.values()), 1)[0]
    top = [i for i in ranking(score, scored)[: math.ceil(len(scored) / 5)] if i in zp]
    best = set(ranking(label, real)[: math.ceil(len(real) / 5)])
    picks = [i for i in ranking(score, scored)[:top_n] if i in zp]
    return {
        "top20_mse": np.mean([(zp[i] - zr[i]) ** 2 for i in top]),
        "top20_mse_fitted": np.mean([(zr[i] - slope * zp[i]) ** 2 for i in top]),
        "precision_top": np.mean([i in best and buyable[i] for i in picks]),
        "precision_chance": np.mean([i in best and buyable[i] for i in real]),
        "precision_top_paper": np.mean([i in best for i in picks]),
        "precision_chance_paper": len(best) / len(real),
    }


def slow_quantiles(score, label, quantiles):
    scored = ranking(score, [i for i in range(len(score)) if not math.isnan(score[i])])
    if len(scored) < quantiles:
        return [NAN] * quantiles
    means = []
    for q in range(quantiles, 0, -1):  # q-th group from the top
        members = [i for j, i in enumerate(scored) if (q - 1) * len(scored) <= j * quantiles < q * len(scored)]
        known = [label[i] for i in members if not math.isnan(label[i])]
        means.append(sum(known) / len(known) if known else NAN)
    return means


# --- newey_west


def test_newey_west_golden():
    # mean 3, deviations -2, -1, 0, 3: g0 = 14/4, g1 = (2 + 0 + 0)/4; L = 1: 3.5 + 2 * 0.5 * 0.5 = 4; 4 / 3
    mean, error, lags = newey_west([1.0, 2.0, NAN, 3.0, 6.0], lags=1)
    assert (mean, error, lags) == (3.0, pytest.approx(math.sqrt(4 / 3)), 1)
    # L = 0: std / sqrt(T) = sqrt(14/3 / 4)
    assert newey_west([1.0, 2.0, 3.0, 6.0], lags=0)[1] == pytest.approx(math.sqrt(14 / 12))
    # L = 2, g2 = (0 - 3)/4: 3.5 + 2 (2/3 * 0.5 - 1/3 * 0.75) = 3.5 + 1/6
    assert newey_west([1.0, 2.0, 3.0, 6.0], horizon=3)[1] == pytest.approx(math.sqrt((3.5 + 1 / 6) / 3))


@pytest.mark.parametrize(("days", "lags"), [(2, 1), (10, 2), (99, 3), (100, 4), (250, 4), (500, 5), (2000, 7)])
def test_newey_west_lags(days, lags):
    series = np.random.default_rng(days).normal(size=days)
    assert newey_west(series)[2] == lags
    assert newey_west(np.append(series, [NAN] * 900))[2] == lags  # only days with a number count
    assert newey_west(series, horizon=20)[2] == 19


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(0, 12))
def test_newey_west_agrees_with_the_slow_loop(seed, days, lags):
    rng = np.random.default_rng(seed)
    series = rng.normal(size=days).cumsum()
    series = np.insert(series, rng.integers(0, days, 3), NAN)
    mean, error, used = newey_west(series, lags)
    want_mean, want_error = slow_newey_west(series, lags)
    assert mean == pytest.approx(want_mean) and used == lags
    assert math.isnan(error) if days <= lags else error == pytest.approx(want_error, abs=1e-7)


def test_newey_west_without_lags_is_the_plain_error():
    score, label, _, _ = market(0)
    daily = evaluate.daily_metrics(score, label, names=["ic"])["ic"]
    value, error = evaluate.metric_value("ic", score, label)
    assert newey_west(daily, lags=0)[:2] == (pytest.approx(value), pytest.approx(error))


def test_newey_west_finds_the_error_of_overlapping_labels():
    # sums over 5 days: the mean's true error is that of 4000 independent days
    rng = np.random.default_rng(7)
    series = np.convolve(rng.normal(size=4004), np.ones(5) / 5, mode="valid")
    true = 1 / math.sqrt(4000)
    assert newey_west(series, 0)[1] / true == pytest.approx(1 / math.sqrt(5), rel=0.05)
    assert newey_west(series, 4)[1] / true == pytest.approx(0.82, rel=0.1)
    assert newey_west(series, 20)[1] / true == pytest.approx(0.96, rel=0.1)


def test_newey_west_of_few_days():
    assert all(math.isnan(x) for x in newey_west([NAN, NAN])[:2])
    mean, error, _ = newey_west([0.3])
    assert mean == 0.3 and math.isnan(error)
    assert newey_west([1.0, 1.0, 1.0])[:2] == (1.0, 0.0)
    assert math.isnan(newey_west([1.0, 2.0, 3.0], horizon=4)[1])  # no pair of days is 3 days apart
    assert newey_west([1.0, 2.0, 3.0, 5.0], horizon=4)[1] > 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([[1.0]],), r"series must be \(D,\)"),
        (([1.0, np.inf],), "infinities"),
        (([1.0, 2.0], -1), "lags is -1; allowed: a whole number in .0"),
        (([1.0, 2.0], 1.5), "lags.*1.5"),
        (([1.0, 2.0], True), "lags"),
    ],
)
def test_newey_west_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        newey_west(*arguments)


def test_too_few_lags_for_the_label_are_refused_not_raised():
    with pytest.raises(ValueError, match="lags=3 is too few for a label of horizon=5 days.*at least 4"):
        newey_west(np.arange(9.0), 3, horizon=5)
    with pytest.raises(ValueError, match="lags=0 is too few"):
        summary(*market(0)[:2], horizon=2, lags=0)
    with pytest.raises(ValueError, match="horizon is 0; allowed: a whole number in .1"):
        newey_west([1.0, 2.0], horizon=0)


# --- summary


def test_summary_golden_day():
    # z(score) = (2, 1, 0, -1, -2) / sqrt(2); labels less 0.01: (2, 4, 0, -2, -4) / 100, over 0.02 sqrt(2):
    # (1, 2, 0, -1, -2) / sqrt(2). ic = (2*1 + 1*2 + 0 + 1 + 4) / 10 = 0.9. The top fifth is stock 0:
    # (2/sqrt2 - 1/sqrt2)^2 = 0.5 and (1/sqrt2 - 0.9 * 2/sqrt2)^2 = 0.64 / 2. The best label is stock 1's.
    score, label = [[5.0, 4.0, 3.0, 2.0, 1.0, NAN]], [[0.03, 0.05, 0.01, -0.01, -0.03, 0.9]]
    got = summary(score, label, buyable=[[True, False, True, True, True, True]], top_n=2)
    want = {"ic": 0.9, "top20_mse": 0.5, "precision_top": 0, "precision_chance": 0}
    want |= {"precision_top_paper": 0.5, "precision_chance_paper": 0.2}
    for name, value in want.items():
        assert got.loc[name, "value"] == pytest.approx(value), name
    # the sixth stock has no score: were it counted, the top fifth (rounded up) would be two stocks
    assert got.loc["top20_mse_fitted", "value"] == pytest.approx(0.32)
    assert (got["days"].drop(["top20_ic"]) == 1).all() and got["standard_error"].isna().all() and got["t"].isna().all()


def test_summary_golden_errors():
    # daily ic 1, 1, -1, 1, mean 0.5, deviations 0.5, 0.5, -1.5, 0.5: g0 = 3/4, g1 = (0.25 - 0.75 - 0.75)/4 = -5/16
    # L = 1: 3/4 - 5/16 = 7/16; error sqrt(7/48). Two stocks: one is the top fifth of score and of label.
    score = np.array([[1.0, 2.0]] * 4)
    label = np.array([[0.0, 0.1], [0.0, 0.2], [0.1, 0.0], [0.0, 0.1]])
    got = summary(score, label, lags=1, top_n=1)
    assert got.loc["ic"].tolist() == pytest.approx([0.5, math.sqrt(7 / 48), 0.5 / math.sqrt(7 / 48), 4])
    # std = 1, so the ratio is 0.5 and moves by e - (e^2 - 1) / 4: half a unit of e in 0.5, -1.5 less 0.25 e^2:
    # 0.4375, 0.4375, -2.0625, 0.4375: deviations 0.625, 0.625, -1.875, 0.625, 1.25 times those of the ic
    assert got.loc["icir", ["value", "standard_error"]].tolist() == pytest.approx([0.5, 1.25 * math.sqrt(7 / 48)])
    # hits 1, 1, 0, 1 = (1 + ic) / 2, against one of two
    error = math.sqrt(7 / 48) / 2
    assert got.loc["precision_top"].tolist() == pytest.approx([0.75, error, 0.25 / error, 4])
    assert got.loc["precision_chance", "value"] == 0.5 and math.isnan(got.loc["precision_chance", "t"])
    assert got.loc["top20_ic", "days"] == 0 and got["days"].dtype == np.int64


@pytest.mark.parametrize("seed", range(6))
def test_summary_agrees_with_the_slow_loop(seed):
    score, label, liquidity, buyable = market(seed)
    got = summary(score, label, liquidity, buyable, horizon=3, top_n=5, base=0.3, alpha=25.0)
    assert list(got.index) == [*ROWS, *PRECISION, *PAPER] and set(got.index) | set(got.columns) < set(
        DIAGNOSTICS_DEFINITIONS
    )
    assert list(got.columns) == ["value", "standard_error", "t", "days"]
    daily = evaluate.daily_metrics(score, label, liquidity, base=0.3, alpha=25.0)
    days = [slow_day(score[d], label[d], buyable[d], 5) for d in range(len(score))]
    series = {key: [day[key] for day in days] for key in days[0]}
    series |= {key: daily[key].tolist() for key in evaluate.CORRELATIONS}
    for name, values in series.items():
        value, error = slow_newey_west(values, 2)
        assert got.loc[name, ["value", "standard_error"]].tolist() == pytest.approx([value, error]), name
        assert got.loc[name, "days"] == len(score)
        if name in evaluate.CORRELATIONS:
            assert got.loc[name, "t"] == pytest.approx(value / error)
    for name in ("icir", "rank_icir"):
        value, _ = evaluate.metric_value(name, score, label)
        assert got.loc[name, "value"] == pytest.approx(value)
    excess = got.loc["precision_top", "value"] - got.loc["precision_chance", "value"]
    assert got.loc["precision_top", "t"] == pytest.approx(excess / got.loc["precision_top", "standard_error"])
    assert got.loc[["top20_mse", "top20_mse_fitted", "precision_chance"], "t"].isna().all()
    tensors = [torch.tensor(array) for array in (score, label, liquidity, buyable)]
    pd.testing.assert_frame_equal(summary(*tensors, horizon=3, top_n=5, base=0.3, alpha=25.0), got)


def test_error_of_the_ratio_is_lo_s_for_normal_days():
    rng = np.random.default_rng(3)
    label = rng.normal(size=(20_000, 30))
    value, error, _, days = summary(label + rng.normal(0.0, 6.0, size=label.shape), label, lags=0).loc["icir"]
    assert days == 20_000 and error == pytest.approx(math.sqrt((1 + value**2 / 2) / days), rel=0.05)


def test_errors_over_the_whole_day_are_those_of_the_ic(monkeypatch):
    score, label, _, _ = market(2, ties=False)
    ic = evaluate.daily_metrics(score, label, names=["ic"])["ic"]
    monkeypatch.setattr("qlib_ext.evaluate.day_grids.TOP_SHARE", 1)  # the top is the whole day
    got = summary(score, label)["value"]
    assert got["top20_mse"] == pytest.approx((2 * (1 - ic)).mean())
    assert got["top20_mse_fitted"] == pytest.approx((1 - ic**2).mean())
    assert got["top20_ic"] == pytest.approx(got["ic"])


def test_a_score_that_knows_nothing():
    rng = np.random.default_rng(0)
    got = summary(rng.normal(size=(250, 150)), rng.normal(size=(250, 150)), top_n=20)
    assert got["t"].abs().max() < 3.5
    assert got.loc["top20_mse", "value"] == pytest.approx(3.18, abs=0.06)
    assert got.loc["top20_mse_fitted", "value"] == pytest.approx(1.0, abs=0.03)
    assert got.loc["precision_chance", "value"] == pytest.approx(0.2)


def test_rows_that_the_inputs_allow():
    score, label, liquidity, buyable = market(1)
    assert list(summary(score, label).index) == [*(name for name in ROWS if name != "liq_wpcc"), *PRECISION]
    plain, full = summary(score, label, liquidity), summary(score, label, liquidity, buyable)
    for name in PRECISION:
        pd.testing.assert_series_equal(plain.loc[name], full.loc[f"{name}_paper"], check_names=False)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-10, 10))
def test_stocks_in_any_order_and_any_scale_of_the_score(seed, scale, shift):
    score, label, liquidity, buyable = market(seed, ties=False)
    order = np.random.default_rng(seed).permutation(score.shape[1])
    want = summary(score, label, liquidity, buyable, top_n=4)
    moved = [array[:, order] for array in (score * scale + shift, label, liquidity, buyable)]
    pd.testing.assert_frame_equal(summary(*moved, top_n=4), want, rtol=1e-6, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_monotone_maps_of_the_score_keep_the_ranks(seed):
    score, label, _, buyable = market(seed, ties=False)
    want = summary(score, label, buyable=buyable, top_n=4).loc[["rank_ic", "rank_icir", *PRECISION]]
    got = summary(np.exp(score), label, buyable=buyable, top_n=4).loc[want.index]
    pd.testing.assert_frame_equal(got, want, rtol=1e-6, atol=1e-9)
    pd.testing.assert_frame_equal(quantile_returns(np.exp(score), label, 5), quantile_returns(score, label, 5))
    pd.testing.assert_frame_equal(exposures(np.exp(score), size=label), exposures(score, size=label))


def test_degenerate_days_count_nowhere():
    score, label, _, _ = market(4)
    want = summary(score, label, top_n=3)
    none = np.full_like(score[:1], NAN)
    one = np.where(np.arange(score.shape[1]) == 2, 1.0, NAN)[None]
    equal = np.full_like(label[:1], 0.1)
    bad_score = np.vstack([score, none, score[:1], one, score[:1]])
    bad_label = np.vstack([label, label[:1], none, label[:1], equal])
    pd.testing.assert_frame_equal(summary(bad_score, bad_label, top_n=3), want)
    with pytest.raises(AssertionError):  # a day that is not degenerate would show
        pd.testing.assert_frame_equal(summary(*(np.vstack([x, x[:1]]) for x in (score, label)), top_n=3), want)


def test_constant_scores():
    # z = 0 for all, so the error is the mean z(label)^2 of the first stock: labels 1, 2, 3: 1.5
    got = summary(np.full((3, 3), 0.1), np.array([[1.0, 2.0, 3.0]] * 3) / 100, top_n=1)
    assert got.loc["ic", "value"] == 0 and got.loc["top20_mse", "value"] == pytest.approx(1.5)
    assert got.loc["top20_mse_fitted", "value"] == pytest.approx(1.5) and got.loc["precision_top", "value"] == 0
    assert math.isnan(got.loc["icir", "value"]) and got["t"].isna().all()


def test_no_days():
    got = summary(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (got["days"] == 0).all() and got[["value", "standard_error", "t"]].isna().all().all()
    assert quantile_returns(np.zeros((0, 3)), np.zeros((0, 3)), 2).shape == (0, 2)


def test_picks_without_a_label_are_no_part_of_the_precision():
    # top 2 by score: stock 0 (no label) and stock 1, which has the best label
    got = summary([[4.0, 3.0, 2.0, 1.0]], [[NAN, 0.3, 0.2, 0.1]], top_n=2)
    assert got.loc["precision_top", "value"] == 1
    assert summary([[4.0, 3.0, 2.0, 1.0]], [[NAN, 0.3, 0.2, 0.1]], top_n=1).loc["precision_top", "days"] == 0


# --- quantiles and exposures


def test_quantile_returns_golden():
    # five scored stocks in two groups: the higher one has three, 0, 4 and the first of the tied 1 and 3
    score = [[5.0, 2.0, 1.0, 2.0, 4.0, NAN], [1.0, NAN, NAN, NAN, NAN, NAN], [1.0, 2.0, NAN, NAN, NAN, NAN]]
    label = [[0.03, 0.06, 0.02, -0.04, NAN, 0.9], [0.1] * 6, [0.1, NAN, 0.1, 0.1, 0.1, 0.1]]
    got = quantile_returns(score, label, 2)
    assert list(got.columns) == [1, 2] and got.columns.name == "quantile"
    np.testing.assert_allclose(got.to_numpy(), [[-0.01, 0.045], [NAN, NAN], [0.1, NAN]])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("quantiles", [2, 5, 7, 10, 28])
def test_quantile_returns_agree_with_the_slow_loop(seed, quantiles):
    score, label, _, _ = market(seed)
    want = [slow_quantiles(score[d], label[d], quantiles) for d in range(len(score))]
    np.testing.assert_allclose(quantile_returns(score, label, quantiles).to_numpy(), want, rtol=1e-9, atol=1e-15)


def test_the_highest_of_five_quantiles_is_the_top_fifth_of_evaluate():
    score, label, _, _ = market(5)
    days = evaluate.DayGrids(score, label)
    top = days.top().numpy()
    want = [label[d, top[d]].mean() for d in range(len(score))]
    np.testing.assert_allclose(quantile_returns(score, label, 5)[5], want, rtol=1e-12)


def test_quantiles_look_at_no_label():
    score, label, _, _ = market(6, ties=False)
    want = quantile_returns(score, label, 3)
    blank = label.copy()
    place = np.nanargmax(score[0])
    blank[0, place] = NAN  # the best stock loses its label: the lower two groups keep their members
    got = quantile_returns(score, blank, 3)
    pd.testing.assert_frame_equal(got[[1, 2]], want[[1, 2]])


def test_exposures_golden():
    # ranks of the score (1, 2, 3) against volatility (3, 1, 2): -1/2; against size (1, 1, 5): sqrt(3)/2
    got = exposures([[0.1, 0.2, 0.9]], volatility=[[3.0, 1.0, 2.0]], size=[[1.0, 1.0, 5.0]])
    assert list(got.columns) == ["volatility", "size"]
    assert got.iloc[0].tolist() == pytest.approx([-0.5, math.sqrt(3) / 2])
    score, label, liquidity, _ = market(0)
    got = exposures(score, liquidity=liquidity, reversal=torch.tensor(label), volatility=np.ones_like(score))
    assert list(got.columns) == ["volatility", "liquidity", "reversal"]
    np.testing.assert_array_equal(got["reversal"], evaluate.rank_correlation(score, label))
    np.testing.assert_array_equal(got["liquidity"], evaluate.rank_correlation(score, liquidity))
    assert got["volatility"].isna().all()


# --- errors


def test_errors_name_the_cure():
    ones = np.ones((2, 3))
    with pytest.raises(ValueError, match="no factor was given; pass one or more of volatility, size"):
        exposures(ones)
    with pytest.raises(ValueError, match=r"size \(1, 3\)"):
        exposures(ones, size=np.ones((1, 3)))
    with pytest.raises(TypeError, match="beta"):
        exposures(ones, beta=ones)
    with pytest.raises(ValueError, match=r"shapes.*label \(2, 4\)"):
        summary(ones, np.ones((2, 4)))
    with pytest.raises(ValueError, match="buyable must be bool"):
        summary(ones, ones, buyable=ones)
    with pytest.raises(ValueError, match="infinities"):
        quantile_returns(ones * np.inf, ones)
    for bad in (0, 2.0, True):
        with pytest.raises(ValueError, match="top_n is .* whole number in .1"):
            summary(ones, ones, top_n=bad)
        with pytest.raises(ValueError, match="quantiles is .* whole number in .2"):
            quantile_returns(ones, ones, bad)
    with pytest.raises(TypeError, match="topn"):
        summary(ones, ones, topn=3)


# --- the grids of evaluate


def test_blocks_of_days_change_nothing():
    score, label, liquidity, buyable = market(3, days=2 * evaluate.BLOCK_DAYS + 5)
    whole = evaluate.daily_metrics(score, label, liquidity, buyable, top_n=4)
    for d in range(0, len(score), 7):
        one = evaluate.daily_metrics(*(g[d : d + 1] for g in (score, label, liquidity, buyable)), top_n=4)
        pd.testing.assert_frame_equal(one, whole.iloc[d : d + 1].reset_index(drop=True), rtol=1e-12)
    each = [evaluate.rank_correlation(score[d : d + 1], label[d : d + 1])[0] for d in range(len(score))]
    np.testing.assert_allclose(evaluate.rank_correlation(score, label), each, rtol=1e-12)


@pytest.mark.parametrize("kind", ["exact", "rough", "huge"])
def test_ranks_agree_with_a_stable_sort_and_with_pandas(kind):
    rng = np.random.default_rng(0)
    value = rng.normal(size=(6, 80)).round(1) * {"exact": 1.0, "rough": math.pi, "huge": 1e300}[kind]
    value[1] = 1 + 1e-12 * rng.integers(0, 9, 80)  # float32 cannot tell these apart
    if kind == "exact":
        value = value.astype("f4").astype(float)
        value[0, :6] = [0.0, -0.0, 0.0, -1e-40, 3e38, -3e38]
    value[rng.random(value.shape) < 0.2] = np.nan
    frame, numbers = pd.DataFrame(value), torch.from_numpy(value)
    want = np.where(np.isnan(value), np.inf, -value).argsort(axis=1, kind="stable")
    np.testing.assert_array_equal(cross_section.descending(numbers, ~numbers.isnan()), want)
    np.testing.assert_array_equal(cross_section.ranks(value), frame.rank(axis=1, ascending=False, method="first"))
    average = frame.rank(axis=1, ascending=False)
    np.testing.assert_array_equal(cross_section.ranks(value, ties="average"), average)
    np.testing.assert_array_equal(cross_section.rank_shares(value), frame.rank(axis=1, pct=True))
