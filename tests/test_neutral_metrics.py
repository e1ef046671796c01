"""ic_neutral and rank_ic_neutral: against numpy, blocks of days, days without, as a training's metric, in a table."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from qlib_ext.evaluate import (
    COLUMNS,
    NEUTRAL_CORRELATIONS,
    daily_metrics,
    metric_needs_exposures,
    metric_value,
    summary,
)


def a_market(days=70, stocks=25):
    draw = np.random.default_rng(5)
    loads = draw.normal(size=(days, stocks, 2))
    score, label = (draw.normal(size=(days, stocks)) - 2 * loads[..., 0] for _ in range(2))
    score[0, 3], label[1, 2] = np.nan, np.nan
    return score, label, loads


def slow(score, label, loads, correlate):
    real = np.isfinite(score) & np.isfinite(label)
    design = np.column_stack([np.ones(real.sum()), loads[real]])
    left, right = (grid[real] - design @ np.linalg.lstsq(design, grid[real], rcond=None)[0] for grid in (score, label))
    return correlate(left, right)[0]


def test_against_numpy_day_by_day():
    score, label, loads = a_market()
    daily = daily_metrics(score, label, np.ones_like(score), names=["ic", *NEUTRAL_CORRELATIONS], exposures=loads)
    for name, correlate in zip(NEUTRAL_CORRELATIONS, (pearsonr, spearmanr), strict=True):
        expected = [slow(*day, correlate) for day in zip(score, label, loads, strict=True)]
        np.testing.assert_allclose(daily[name], expected, atol=1e-9)
    assert daily["ic"].mean() > 0.7 and abs(daily["ic_neutral"].mean()) < 0.1


def test_days_that_allow_none_have_none():
    score, label, loads = a_market(days=2)
    score[0, 3:] = np.nan  # three stocks, two exposures
    label[1] = loads[1, :, 1]
    daily = daily_metrics(score, label, np.ones_like(score), names=list(NEUTRAL_CORRELATIONS), exposures=loads)
    assert daily.isna().all(axis=None)


@pytest.mark.parametrize(("stocks", "allowed"), [(3, False), (4, True)])
def test_two_exposures_and_a_mean_leave_three_stocks_nothing(stocks, allowed):
    """Nor where one exposure stands twice: of three stocks it leaves one number, and a correlation of +-1."""
    score, label, loads = (grid[2:, :stocks] for grid in a_market())
    for exposures in (loads, loads[..., [0, 0]]):
        daily = daily_metrics(score, label, np.ones_like(score), names=[*NEUTRAL_CORRELATIONS], exposures=exposures)
        assert (daily.notna() == allowed).all(axis=None)


def test_they_are_asked_for_by_name_or_by_exposures():
    score, label, loads = a_market()
    ones = np.ones_like(score)
    assert not set(NEUTRAL_CORRELATIONS) & set(daily_metrics(score, label, ones))
    assert set(NEUTRAL_CORRELATIONS) <= set(daily_metrics(score, label, ones, exposures=torch.from_numpy(loads)))
    value, error = metric_value("ic_neutral", score, label, ones, exposures=loads)
    table = summary(score, label, ones, exposures=loads)
    assert table.loc["ic_neutral", "value"] == pytest.approx(value) and table.loc["ic_neutral", "days"] == 70
    assert 0 < error < 0.1 and table.loc["rank_ic_neutral", "standard_error"] > 0
    assert "ic_neutral" not in summary(score, label, ones).index
    assert [name for name in COLUMNS if COLUMNS[name].stops and metric_needs_exposures(name)] == [*NEUTRAL_CORRELATIONS]
    with pytest.raises(ValueError, match="need exposures"):
        daily_metrics(score, label, ones, names=["ic_neutral"])
    with pytest.raises(ValueError, match=r"\(B, N, K\)"):
        daily_metrics(score, label, ones, names=["ic_neutral"], exposures=loads[:, :-1])
