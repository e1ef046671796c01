import inspect
import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import reference_portfolio as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_ext import evaluate, record
from qlib_ext.evaluate import (
    ACCOUNT_DEFINITIONS,
    COLUMNS,
    CORRELATIONS,
    DEFINITIONS,
    METRICS,
    daily_metrics,
    days_a_year,
    headline,
    headline_table,
    metric_value,
    rank_correlation,
    sleeve_returns,
)
from qlib_ext.losses import DayLoss
from qlib_ext.portfolio import fill_top_n

NAN = float("nan")
OPTIONS = {"capital": 15.0, "participation": 0.05, "top_n": 4}
BY_DAY = [  # the others: tests/test_neutral_metrics.py
    name for name, row in COLUMNS.items() if not row.whole and not row.needs_exposures
]


def market(seed, days=8, stocks=30):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(days, stocks)).round(1)  # ties
    label = rng.normal(0.0, 0.03, size=(days, stocks)).round(3)
    liquidity = np.exp(rng.normal(3.0, 1.0, size=(days, stocks)))
    score[rng.random(score.shape) < 0.1] = np.nan
    label[rng.random(score.shape) < 0.1] = np.nan
    liquidity[rng.random(score.shape) < 0.1] = rng.choice([0.0, np.nan])
    return score, label, liquidity, rng.random(score.shape) < 0.8


def test_every_column_is_told_in_words():
    assert not [name for name, row in COLUMNS.items() if not row.definition]


# --- goldens by hand


def test_golden_day():
    # caps at 10%: 40, 30, 20. Capital 60: stock 0 takes 40, stock 1 takes 20. Stock 3 has no score.
    # m = (0.10 + 0.00 - 0.04) / 3 = 0.02. Paper: 40 * 0.10 / 60 = 1/15; excess 1/15 - 0.02.
    # Buyable: stock 0 is not: 20 * 0 / 60 = 0; excess -0.02 * 20 / 60 = -1/150; cash 40/60.
    score, label = np.array([[3.0, 2.0, 1.0, NAN]]), np.array([[0.10, 0.0, -0.04, 0.5]])
    liquidity = np.array([[400.0, 300.0, 200.0, 900.0]])
    buyable = np.array([[False, True, True, True]])
    got = daily_metrics(score, label, liquidity, buyable, capital=60, participation=0.1, top_n=1).iloc[0]
    assert got["capped_return_paper"] == pytest.approx(1 / 15)
    assert got["capped_excess_paper"] == pytest.approx(1 / 15 - 0.02)
    assert got["capped_return"] == 0
    assert got["capped_excess"] == pytest.approx(-1 / 150)
    assert got["capped_cash_share"] == pytest.approx(2 / 3)
    assert (got["capped_names_held"], got["capped_names_held_paper"]) == (1, 2)
    # one stock, its cap of 40 below the capital: 40 * 0.1 / 60
    assert got["topn_return_paper"] == pytest.approx(1 / 15)
    assert got["topn_cash_share_paper"] == pytest.approx(1 / 3)
    assert (got["topn_return"], got["topn_cash_share"], got["topn_names_held"]) == (0, 1, 0)
    assert got["rank_ic"] == pytest.approx(1.0)


def test_golden_without_an_exit_price():
    # stock 0 takes all 10, has no label: earns 0 and counts; m = (0.02 + 0.04) / 2 = 0.03
    got = daily_metrics(
        [[3.0, 2.0, 1.0]], [[NAN, 0.02, 0.04]], np.full((1, 3), 1000.0), capital=10, participation=0.1
    ).iloc[0]
    assert (got["capped_return"], got["capped_unpriced"]) == (0, 1)
    assert got["capped_excess"] == pytest.approx(-0.03)


def test_golden_correlations():
    # deviations of (3, 2, 1): 1, 0, -1; of (0.03, 0.01, 0.02): 1, -1, 0 (in 0.01): ic = 1 / 2
    score, label = [[3.0, 2.0, 1.0]], [[0.03, 0.01, 0.02]]
    assert metric_value("ic", score, label)[0] == pytest.approx(0.5)
    # average ranks of (1, 1, 0): 1.5, 1.5, 0 -> 0.5, 0.5, -1; labels 1, -1, 0: 0 / ... = 0
    assert metric_value("rank_ic", [[1.0, 1.0, 0.0]], label)[0] == pytest.approx(0.0)
    # against (3, 2, 1): 1, 0, -1: 1.5 / sqrt(1.5 * 2)
    got = rank_correlation([[1.0, 1.0, 0.0]], [[3.0, 2.0, 1.0]])
    assert got[0] == pytest.approx(1.5 / math.sqrt(3.0))


def test_golden_value_and_error():
    # daily IC 1 and -1 and 1: mean 1/3, std sqrt(4/3), error sqrt(4/3) / sqrt(3) = 2/3
    score = np.array([[1.0, 2.0]] * 4)
    label = np.array([[0.0, 0.1], [0.1, 0.0], [0.0, 0.2], [NAN, 0.1]])
    value, error = metric_value("ic", score, label)
    assert (value, error) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    ratio = (1 / 3) / math.sqrt(4 / 3)
    value, error = metric_value("icir", score, label)
    assert (value, error) == (pytest.approx(ratio), pytest.approx(math.sqrt((1 + ratio**2 / 2) / 3)))


def test_headline_golden():
    # a capital made up every day: 0.1 - 0.2 + 0.25 = 0.15, mean 0.05; the sums 0.1, -0.1, 0.15 fall by 0.2
    daily = [0.1, -0.2, 0.25]
    got = headline(daily, ic=[0.1, NAN, 0.3], year=240)
    std = math.sqrt((0.05**2 + 0.25**2 + 0.2**2) / 2)
    assert list(got) == list(DEFINITIONS) == list(ACCOUNT_DEFINITIONS)
    assert got["mean_ic"] == pytest.approx(0.2)
    assert got["mean_return"] == pytest.approx(0.15)
    assert got["annual_return"] == pytest.approx(12.0)  # 0.05 * 240
    assert got["annual_volatility"] == pytest.approx(std * math.sqrt(240))
    assert got["sharpe"] == pytest.approx(0.05 / std * math.sqrt(240))
    assert got["deck_ratio"] == pytest.approx((1.1**80 - 1) / (std * math.sqrt(240)))  # 1.1 * 0.8 * 1.25 = 1.1
    assert got["max_drawdown"] == pytest.approx(-0.2)
    assert headline([-0.1, 0.3])["max_drawdown"] == pytest.approx(-0.1)  # below the start
    assert headline([0.1, 0.0])["max_drawdown"] == 0
    assert headline([0.01, 0.01])["annual_return"] == pytest.approx(2.42)  # 242 days where nothing else is said
    assert math.isnan(headline([0.1])["sharpe"]) and math.isnan(headline([0.1])["mean_ic"])


def test_numbers_that_are_not_there_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(headline([0.1, 0.2], ic=[NAN])["mean_ic"]) and math.isnan(headline([0.1])["sharpe"])


def test_an_account_compounds():
    # 1.1 * 0.8 * 1.25 = 1.1; the curve 1, 1.1, 0.88, 1.1 falls by 20%: of 1.1 that is 0.22, and no sum
    got, summed = (headline([0.1, -0.2, 0.25], compounded=c, year=240) for c in (True, False))
    assert got["mean_return"] == pytest.approx(0.1)
    assert got["annual_return"] == pytest.approx(1.1**80 - 1)
    assert got["max_drawdown"] == pytest.approx(-0.2)
    for name in ("annual_volatility", "sharpe", "deck_ratio"):
        assert got[name] == summed[name]
    assert got["deck_ratio"] == pytest.approx(got["annual_return"] / got["annual_volatility"])


def test_capital_that_is_made_up_can_lose_more_than_all_of_it():
    # 60% of the capital a day: 120% are lost, and no account could; the last day's 1.5 cannot be compounded either
    lost = headline([-0.6, -0.6], year=2)
    assert (lost["mean_return"], lost["max_drawdown"]) == (pytest.approx(-1.2), pytest.approx(-1.2))
    assert headline([-0.6, -0.6], compounded=True)["mean_return"] == pytest.approx(-0.84)
    assert headline([0.5, -1.5])["mean_return"] == -1.0 and math.isnan(headline([0.5, -1.5])["deck_ratio"])


def test_a_year_has_the_calendar_s_trading_days():
    # whole years from 3 January 2022: 250 days in the first, 246 in the second; what is over is no whole year
    first, second = pd.bdate_range("2022-01-03", periods=250), pd.bdate_range("2023-01-03", periods=246)
    over = pd.bdate_range("2024-01-03", periods=30)
    assert days_a_year(first.append(second).append(over)) == 248.0
    assert days_a_year(first.append(second[:1])) == 250.0
    for short in (first, first[:0]):
        assert days_a_year(short) == 242.0
    assert days_a_year([np.datetime64("2020-02-29"), np.datetime64("2021-03-01")]) == 1.0


def test_headline_table():
    table = headline_table({"gross": pd.Series([0.01, 0.02]), "net": pd.Series([0.0, 0.01])}, ic=[0.1])
    assert list(table.index) == ["gross", "net"] and list(table.columns) == list(DEFINITIONS)
    assert table.loc["net", "mean_return"] == pytest.approx(0.01) and table.attrs["days_a_year"] == 242.0
    both = headline_table({"net": pd.Series([0.1, 0.1]), "excess": pd.Series([0.1, 0.1])}, compounded=["net"], year=2)
    assert both["annual_return"].to_list() == pytest.approx([0.21, 0.2])


@pytest.mark.parametrize("bad", [[], [[0.1]], [0.1, NAN], [-1.5]])
def test_headline_refuses(bad):
    with pytest.raises(ValueError, match="daily"):
        headline(bad, compounded=True)


def test_sleeves_golden():
    # horizon 2, capital 100: 50 bought on day 0 earns 10% (5) and then, as 55, 20% (11).
    # 40 bought on day 1 earns 20% (8), then 48 * -50% = -24; nothing new on day 2.
    got = sleeve_returns([[100.0], [80.0], [0.0]], [[0.1], [0.2], [-0.5]], 2, capital=100)
    assert got.tolist() == pytest.approx([0.05, 0.19, -0.24])


@pytest.mark.parametrize("horizon", [1, 2, 5, 9])
def test_sleeves_agree_with_the_slow_loop(horizon):
    rng = np.random.default_rng(horizon)
    yuan, step = rng.uniform(0, 9, (7, 5)), rng.normal(0, 0.05, (7, 5))
    step[rng.random(step.shape) < 0.2] = np.nan
    got = sleeve_returns(yuan, step, horizon, capital=30.0)
    want = slow.sleeve_returns(yuan, step, horizon, capital=30.0)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-14)
    if horizon == 1:
        np.testing.assert_allclose(got, (yuan * np.nan_to_num(step)).sum(axis=1) / 30.0, rtol=1e-12)


def test_sleeves_look_at_nothing_later():
    rng = np.random.default_rng(0)
    yuan, step = rng.uniform(0, 9, (9, 5)), rng.normal(0, 0.05, (9, 5))
    want = sleeve_returns(yuan, step, 3)
    yuan[5:], step[5:] = 1.0, 0.7
    np.testing.assert_array_equal(sleeve_returns(yuan, step, 3)[:5], want[:5])


@pytest.mark.parametrize("horizon", [0, 1.5, True])
def test_sleeves_refuse(horizon):
    with pytest.raises(ValueError, match="horizon"):
        sleeve_returns(np.ones((2, 2)), np.ones((2, 2)), horizon)


# --- slow loops


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_slow_loop(seed):
    score, label, liquidity, buyable = market(seed)
    got = daily_metrics(score, label, liquidity, buyable, base=0.3, alpha=25.0, **OPTIONS)
    assert list(got.columns) == BY_DAY
    for d in range(len(score)):
        want = slow.correlations_day(score[d], label[d], liquidity[d], base=0.3, alpha=25.0)
        for kind, top_n in (("capped", None), ("topn", 4)):
            yuan = slow.fill_day(score[d], liquidity[d], capital=15.0, participation=0.05, top_n=top_n)
            for suffix, ok in (("", buyable[d]), ("_paper", np.ones(len(yuan), bool))):
                day = slow.portfolio_day(score[d], label[d], yuan, ok, capital=15.0)
                want |= {f"{kind}_{key}{suffix}": value for key, value in day.items()}
        assert set(want) == set(BY_DAY)
        for key, value in want.items():
            assert got[key][d] == pytest.approx(value, rel=1e-9, abs=1e-9), key


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name] in BY_DAY])
def test_every_metric_by_name(name):
    score, label, liquidity, buyable = market(1)
    value, error = metric_value(name, score, label, liquidity, buyable, **OPTIONS)
    assert math.isfinite(value) and error > 0
    column = {"icir": "ic", "rank_icir": "rank_ic"}.get(name, name.removesuffix("_buyable"))
    daily = daily_metrics(score, label, liquidity, buyable, **OPTIONS)[column].dropna()
    want = daily.mean() / daily.std() if name.endswith("icir") else daily.mean()
    assert value == pytest.approx(want, rel=1e-12)
    tensors = [torch.tensor(array) for array in (score, label, liquidity, buyable)]
    assert metric_value(name, *tensors, **OPTIONS) == (value, error)


# --- invariants


def test_same_allocation_to_the_yuan():
    score, label, liquidity, _ = market(5)
    yuan = fill_top_n(score, liquidity, capital=15.0)
    want = (yuan * np.nan_to_num(label)).sum(axis=1) / 15.0
    got = daily_metrics(score, label, liquidity, names=["capped_return"], capital=15.0)["capped_return"]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-16)


def test_paper_is_plain_without_buyable():
    score, label, liquidity, _ = market(2)
    daily = daily_metrics(score, label, liquidity, **OPTIONS)
    for name in BY_DAY:
        if name.endswith("_paper"):
            pd.testing.assert_series_equal(daily[name], daily[name.removesuffix("_paper")], check_names=False)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_permuting_stocks_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    score, label, liquidity, buyable = market(seed)
    score = np.where(np.isnan(score), NAN, rng.normal(size=score.shape))  # distinct
    label = label + rng.normal(0, 1e-4, label.shape)
    order = rng.permutation(score.shape[1])
    want = daily_metrics(score, label, liquidity, buyable, **OPTIONS)
    moved = [array[:, order] for array in (score, label, liquidity, buyable)]
    pd.testing.assert_frame_equal(daily_metrics(*moved, **OPTIONS), want, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-10, 10))
def test_affine_scores_and_unscored_stocks_change_nothing(seed, scale, shift):
    score, label, liquidity, buyable = market(seed)
    want = daily_metrics(score, label, liquidity, buyable, **OPTIONS)
    none = np.isnan(score)
    got = daily_metrics(
        score * scale + shift,
        np.where(none, 9.9, label),
        np.where(none, 1e12, liquidity),
        np.where(none, False, buyable),
        **OPTIONS,
    )
    pd.testing.assert_frame_equal(got, want, rtol=1e-7, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_rank_correlation_is_symmetric_ignores_garbage_and_monotone_maps(seed):
    score, label, _, mask = market(seed)
    want = rank_correlation(score, label, mask)
    np.testing.assert_allclose(rank_correlation(label, score, mask), want, rtol=1e-9, atol=1e-12)
    got = rank_correlation(np.where(mask, score, 1e9), np.where(mask, np.exp(label), NAN), mask)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
    assert (np.abs(want) <= 1 + 1e-12).all()


def test_one_day_does_not_touch_another():
    score, label, liquidity, buyable = market(4)
    want = daily_metrics(score, label, liquidity, buyable, **OPTIONS)
    score[5:], label[5:], liquidity[5:] = 1.0, 0.5, 3.0
    got = daily_metrics(score, label, liquidity, buyable, **OPTIONS)
    pd.testing.assert_frame_equal(got[:5], want[:5])


# --- degenerate days


def test_days_without_two_labelled_stocks_are_nan():
    score = np.array([[1.0, 2.0, 3.0], [NAN, NAN, 1.0], [1.0, 2.0, 3.0]])
    label = np.array([[NAN, NAN, 0.1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    daily = daily_metrics(score, label, np.ones((3, 3)))
    for name in (
        *CORRELATIONS[:4],
        "capped_return",
        "capped_excess",
        "topn_return",
        "topn_excess",
        "capped_return_paper",
    ):
        assert daily[name].isna().tolist() == [True, True, False], name
    assert daily["top20_ic"].isna().all()  # a fifth of three stocks is one
    assert daily["capped_unpriced"].tolist() == [2, 0, 0]


def test_a_day_without_any_liquidity_has_no_liq_wpcc():
    # as the loss counts it out; the stocks with a score and a label count, and any positive liquidity among them
    score, label = np.array([[1.0, 2.0, 3.0, NAN]] * 4), np.array([[0.1, 0.3, 0.2, 0.1]] * 4)
    liquidity = np.array([[0.0, 0.0, 0.0, 5.0], [NAN, 0.0, -1.0, 5.0], [0.0, np.inf, NAN, 5.0], [0.0, 4.0, 0.0, 5.0]])
    daily = daily_metrics(score, label, liquidity, names=["liq_wpcc", "wpcc", "ic"])
    assert daily["liq_wpcc"].isna().tolist() == [True, True, True, False]
    valid = DayLoss("liq_wpcc").valid_days(*(torch.tensor(grid) for grid in (label, ~np.isnan(score), liquidity)))
    assert valid.tolist() == daily["liq_wpcc"].notna().tolist()
    assert daily[["wpcc", "ic"]].notna().all(axis=None)


def test_a_ratio_of_nothing_to_nothing_is_zero():
    # a constant score has an ic of 0 on all days: mean and standard deviation are both 0
    label = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
    for name in ("icir", "rank_icir"):
        assert metric_value(name, np.ones((2, 3)), label) == (0.0, pytest.approx(math.sqrt(1 / 2)))
        assert math.isnan(metric_value(name, label, label)[0])  # 1 on both days: over a deviation of 0


def test_constant_scores_and_equal_labels():
    label = np.array([[0.1, 0.2, 0.3]])
    for name in ("ic", "rank_ic", "wpcc", "liq_wpcc"):
        assert metric_value(name, np.full((1, 3), 0.1), label, np.ones((1, 3)))[0] == 0
        assert math.isnan(metric_value(name, label, np.full((1, 3), 0.1), np.ones((1, 3)))[0])
    value, error = metric_value("icir", label, label)
    assert math.isnan(value) and math.isnan(error)
    assert all(math.isnan(x) for x in metric_value("ic", np.zeros((0, 3)), np.zeros((0, 3))))


# --- errors


def test_errors_name_the_cure():
    ones = np.ones((2, 3))
    with pytest.raises(ValueError, match="did you mean.*'rank_ic'"):
        metric_value("rankic", ones, ones)
    with pytest.raises(ValueError, match="unknown metric 'icir'"):
        daily_metrics(ones, ones, names=["icir"])
    for name in ("liq_wpcc", "capped_excess", "topn_return_paper", "topn_return_buyable"):
        with pytest.raises(ValueError, match=rf"'{name}' needs liquidity.*DayDatasetH.*rank_ic"):
            metric_value(name, ones, ones)
    with pytest.raises(ValueError, match=r"shapes .* got a \(2, 3\), b \(3, 3\)"):
        rank_correlation(ones, np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"shapes .* mask \(3,\)"):
        rank_correlation(ones, ones, np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match=r"shapes .* mask \(2, 1\)"):
        rank_correlation(ones, ones, np.ones((2, 1), dtype=bool))
    with pytest.raises(TypeError, match="capitol"):
        metric_value("ic", ones, ones, capitol=1.0)
    with pytest.raises(ValueError, match=r"shapes.*label \(2, 4\)"):
        metric_value("ic", ones, np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"shapes .* \(D, N\) .* score \(3,\)"):
        metric_value("ic", np.ones(3), ones)
    with pytest.raises(ValueError, match="buyable must be bool with True = buyable, .*pass buyable != 0"):
        metric_value("ic", ones, ones, ones, ones)
    with pytest.raises(ValueError, match="infinities"):
        metric_value("ic", ones * np.inf, ones)
    with pytest.raises(ValueError, match="top_n"):
        metric_value("topn_return", ones, ones, ones, top_n=0)


def test_names_default_to_what_the_inputs_allow():
    score, label, _, _ = market(0)
    assert list(daily_metrics(score, label).columns) == ["ic", "rank_ic", "wpcc", "top20_ic"]


def test_the_room_stands_for_the_function_of_its_name():
    assert inspect.signature(evaluate) == inspect.signature(record.evaluate)


def test_core_never_imports_qlib():
    code = "import sys, qlib_ext.evaluate; sys.exit(any(m.split('.')[0] == 'qlib' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
