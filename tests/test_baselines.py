"""Scores that are free: the factors and LightGBM on a panel."""

import sys

import numpy as np
import pytest
import torch
from test_record import PARTS, SPAN, make_panel, panel, past  # noqa: F401

from qlib_ext.evaluate import BASELINES, LightGBM, factor_score
from qlib_ext.record import Money, judge


def test_free_scores(panel):  # noqa: F811
    rows = PARTS["test"]
    there = panel.present[rows].numpy()
    known = past(panel.stocks, rows)
    known[0, 0] = np.nan
    for name, grid in {"reversal": known, "low_volatility": panel.volatility[rows].numpy()}.items():
        got = factor_score(name, panel, rows, known)
        np.testing.assert_array_equal(got, np.where(there & np.isfinite(grid), -grid.astype(float), np.nan))
    got = factor_score("small_turnover", panel, rows)
    np.testing.assert_array_equal(np.isfinite(got), there)
    day = np.flatnonzero(there[3])
    assert list(day[np.argsort(got[3, day])]) == list(day[np.argsort(-panel.liquidity[rows[3]].numpy()[day])])


def test_nothing_free_looks_ahead(panel):  # noqa: F811
    """Everything after a day is changed, the outcomes of the test days too: no score up to it moves."""
    cut = 50
    other = make_panel()
    for name in ("x", "label", "liquidity", "volatility"):
        getattr(other, name)[cut + 1 :] *= 1.7
    other.label[44:] *= -3.0
    other.present[cut + 1 :] = ~other.present[cut + 1 :]
    rows, known = PARTS["test"], past(panel.stocks, PARTS["test"])
    upto = cut - 44 + 1
    model = LightGBM(rounds=20, parameters={"lambda_l1": 0.0, "lambda_l2": 0.0})
    for name in BASELINES:
        old, new = (
            model.fit_predict(p, PARTS["train"], PARTS["valid"], rows)[0]
            if name == "lightgbm"
            else factor_score(name, p, rows, known)
            for p in (panel, other)
        )
        np.testing.assert_array_equal(new[:upto], old[:upto], err_msg=name)
        assert not np.array_equal(new[upto:], old[upto:], equal_nan=True) or name == "reversal"


def test_lightgbm_learns_is_deterministic_and_samples():
    panel = make_panel(seed=5, days=120, stocks=60, signal=1.0)  # noqa: F811
    train, valid, test = np.arange(70), np.arange(72, 90), np.arange(92, 118)
    plain = {"lambda_l1": 0.0, "lambda_l2": 0.0, "num_leaves": 7}
    model = LightGBM(rounds=40, parameters=plain)
    (first, told), (again, _) = (model.fit_predict(panel, train, valid, test) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.isfinite(first), panel.present[test].numpy())
    every = int(torch.isfinite(panel.label[train]).sum())
    assert f"from {every} of {every} stock-days of train" in told
    ic = judge(panel, test, first, Money(), SPAN).daily["rank_ic"].mean()
    assert ic > 0.5
    few = LightGBM(rounds=40, max_rows=500, parameters=plain)
    (small, told), (twin, _) = (few.fit_predict(panel, train, valid, test) for _ in range(2))
    assert f"from 500 of {every} stock-days" in told and told.endswith("stopped on 500 of valid")
    np.testing.assert_array_equal(small, twin)
    assert not np.array_equal(small, first, equal_nan=True)


def test_errors_of_the_baselines(panel, monkeypatch):  # noqa: F811
    rows = PARTS["test"]
    with pytest.raises(ValueError, match="'num_leafs'.*'num_leaves'.*beside `parameters` rounds"):
        LightGBM(parameters={"num_leafs": 3})
    with pytest.raises(ValueError, match="rounds is 0"):
        LightGBM(rounds=0)
    with pytest.raises(ValueError, match="'valid' has 0 labelled"):
        LightGBM().fit_predict(panel, PARTS["train"], np.array([58, 59]), rows)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ImportError, match="pip install lightgbm, or leave it out of `baselines`"):
        LightGBM().fit_predict(panel, PARTS["train"], PARTS["valid"], rows)
