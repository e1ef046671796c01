"""Series by (datetime, instrument) for grids: the same numbers in whatever order, and errors that name the place."""

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from qlib_ext.evaluate import daily_metrics, exposures, metric_value, quantile_returns, rank_correlation, summary
from qlib_ext.panel import takes_series
from qlib_ext.portfolio import fill_top_n

DAYS = pd.bdate_range("2024-01-02", periods=6)
CODES = [f"SH60000{n}" for n in range(9)] + ["SZ000001", "SZ000002", "SZ000004"]
LATER = pd.Timedelta(days=700)
SHAPE = (len(DAYS), len(CODES))


def long(grid, name="score"):
    frame = pd.DataFrame(grid, DAYS.rename("datetime"), pd.Index(CODES, name="instrument"))
    return frame.stack().rename(name)


@pytest.fixture
def grids():
    rng = np.random.default_rng(4)
    score, label = rng.normal(size=SHAPE), 0.02 * rng.normal(size=SHAPE)
    score[1, 3] = np.nan
    return score, label, rng.uniform(1e7, 1e8, size=SHAPE), rng.random(SHAPE) > 0.2


@pytest.fixture
def series(grids):
    """The same, each in an order of its own; of the label there are more stocks than have scores."""
    score, label, liquidity, buyable = (long(grid).sample(frac=1.0, random_state=n) for n, grid in enumerate(grids))
    score = score.dropna()
    elsewhere = label.rename(index={"SZ000004": "SZ300001"}, level="instrument")
    return score, pd.concat([label, elsewhere[elsewhere.index.get_level_values(1) == "SZ300001"]]), liquidity, buyable


def test_daily_metrics_of_series_are_those_of_the_grids(grids, series):
    frame = daily_metrics(*series, capital=1e7)
    pd.testing.assert_index_equal(frame.index, DAYS.rename("datetime"), check_names=False, exact="equiv")
    pd.testing.assert_frame_equal(frame.reset_index(drop=True), daily_metrics(*grids, capital=1e7), check_exact=True)
    assert len(frame.columns) > 15


def test_the_others_too(grids, series):
    score, label, liquidity, buyable = grids
    assert metric_value("rank_ic", *series[:2]) == metric_value("rank_ic", score, label)
    pd.testing.assert_frame_equal(summary(*series), summary(*grids), check_exact=True)
    tenths = quantile_returns(*series[:2], 3)
    pd.testing.assert_frame_equal(tenths.reset_index(drop=True), quantile_returns(score, label, 3), check_exact=True)
    pd.testing.assert_frame_equal(
        exposures(series[0], liquidity=series[2]).reset_index(drop=True), exposures(score, liquidity=liquidity)
    )
    ranked = rank_correlation(series[0], series[1])
    np.testing.assert_array_equal(ranked.to_numpy(), rank_correlation(score, label))
    assert ranked.index.equals(tenths.index) and (tenths.index == DAYS).all()


def test_fill_top_n_gives_yuan_by_day_and_stock(grids, series):
    yuan = fill_top_n(series[0], series[2], capital=2e6)
    placed = fill_top_n(grids[0], grids[2], capital=2e6)
    assert list(yuan.index.names) == ["datetime", "instrument"] and len(yuan) == len(series[0])
    np.testing.assert_array_equal(yuan.unstack().fillna(0.0).to_numpy(), placed)
    mask = pd.Series(True, series[0].index)
    mask[mask.index.get_level_values(1) == CODES[0]] = False
    assert fill_top_n(series[0], series[2], capital=2e6, mask=mask).xs(CODES[0], level=1).sum() == 0


def test_a_wide_frame_beside_a_series_is_looked_up_by_day_and_code(series):
    wide = series[2].unstack()[CODES[::-1]].iloc[::-1]
    one, other = (daily_metrics(series[0], series[1], each) for each in (series[2], wide))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_codes_in_other_spellings_are_read(series):
    spelt = series[1].rename(index=lambda code: f"{code[2:]}.{code[:2]}", level="instrument")
    assert metric_value("ic", series[0], spelt) == metric_value("ic", series[0], series[1])


def test_what_a_series_does_not_tell_is_unknown(series):
    score, label, liquidity, buyable = series
    short = label[label.index.get_level_values(0) < DAYS[-1]]
    frame = daily_metrics(score, short, liquidity, buyable)
    assert np.isnan(frame["ic"].iloc[-1]) and frame["ic"].iloc[:-1].notna().all()
    first = buyable[buyable.index.get_level_values(0) == DAYS[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        locked = daily_metrics(score, label, liquidity, first)["capped_names_held"]
    assert locked.iloc[0] > 0 and (locked.iloc[1:] == 0).all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda s, y: (s, y.to_numpy()), TypeError, "label is a ndarray beside a Series by .datetime, instrument."),
        (lambda s, y: (s.unstack().to_numpy(), y), TypeError, "score is a ndarray beside a Series"),
        (lambda s, y: (s, pd.concat([y, y.head(1)])), ValueError, "label: .* has two scores on"),
        (
            lambda s, y: (s, y.rename(index=lambda d: d + pd.Timedelta(days=700), level=0)),
            ValueError,
            "label has no day",
        ),
        (lambda s, y: (s.replace(s.iloc[0], np.inf), y), ValueError, "score: .* has the score inf"),
        (lambda s, y: (s.droplevel(0), y), TypeError, "score is a Series beside a Series"),
    ],
)
def test_what_does_not_fit_is_named(series, change, error, words):
    with pytest.raises(error, match=words):
        daily_metrics(*change(*series[:2]))


def test_exposures_of_a_panel_are_refused_beside_series(series):
    with pytest.raises(TypeError, match="exposures beside Series: give grids"):
        daily_metrics(*series[:2], exposures=np.zeros((*SHAPE, 1)))


def test_grids_pass_untouched_and_the_signature_stays(grids):
    seen = []

    @takes_series("score", "label")
    def look(score, label, *, top=1):
        seen.append((score, label))
        return top

    score, label = torch.zeros(2, 3), np.zeros((2, 3))
    assert look(score, label, top=4) == 4 and seen[0][0] is score and seen[0][1] is label
    assert list(inspect.signature(look).parameters) == ["score", "label", "top"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        daily_metrics(*grids)
