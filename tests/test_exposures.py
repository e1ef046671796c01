"""Exposures and specific risk: by hand, against pandas, and without the future."""

import numpy as np
import pandas as pd
import pytest

from qlib_ext.portfolio import KINDS, Past, Risk, exposures, measure_exposures, read_exposures


def closes(days=90, stocks=4):
    draw = np.random.default_rng(0)
    steps = draw.normal(0, 0.01, (days, 1)) * draw.uniform(0.5, 2, stocks) + draw.normal(0, 0.02, (days, stocks))
    price = 10 * np.cumprod(1 + steps, axis=0)
    price[40:45, 1] = np.nan
    return price


def test_risk_is_that_of_pandas():
    price = closes()
    step = pd.DataFrame(price).pct_change(fill_method=None)
    mean, last = step.mean(axis=1), slice(30, 90)
    risk = Risk.of_closes(price)
    for n in range(4):
        own = pd.DataFrame({"own": step[n], "mean": mean})[last].dropna()
        covariance = np.cov(own["own"], own["mean"], ddof=0)
        np.testing.assert_allclose(risk.beta[-1, n], covariance[0, 1] / covariance[1, 1])
        np.testing.assert_allclose(risk.specific[-1, n], (own["own"] - own["mean"]).std(ddof=0))
    np.testing.assert_allclose(risk.market[-1], mean[last].std(ddof=0))
    assert np.isnan(risk.beta[:20]).all() and np.isfinite(risk.beta[21:40]).all()


def test_risk_knows_no_later_day():
    price = closes()
    changed = price.copy()
    changed[61:] *= 3.0
    for name in ("specific", "beta", "market"):
        then, now = (getattr(Risk.of_closes(grid), name)[:61] for grid in (price, changed))
        np.testing.assert_array_equal(then, now)


def test_numbers_are_standardised_over_the_universe_and_categories_are_weights():
    # of 1, 4, 16 the logarithms are 0, 2, 4 log 2: mean 2, deviation sqrt(8/3) of log 2; the fourth is not inside
    inside, size = np.array([True, True, True, False]), np.array([1.0, 4.0, 16.0, 4.0])
    made = exposures(inside, liquidity=size, columns={"value": [1, 2, 3, 2], "sector": ["b", "a", None, "b"]})
    np.testing.assert_allclose(made["liquidity"], np.array([-2, 0, 2, 0]) / np.sqrt(8 / 3))
    np.testing.assert_allclose(made["value"], np.array([-1, 0, 1, 0]) / np.sqrt(2 / 3))
    assert made["sector=a"].tolist() == [0, 1, 0, 0]
    assert made["sector=b"].tolist() == [1, 0, 0, 1]
    assert list(made) == ["liquidity", "value", "sector=a", "sector=b"]


def test_days_at_once_are_each_day_by_itself():
    rng = np.random.default_rng(0)
    universe, grid = rng.random((3, 9)) < [[0.9], [0.5], [0.7]], rng.normal(size=(3, 9))
    both = exposures(universe, beta=grid)["beta"]
    for day in range(3):
        np.testing.assert_allclose(both[day], exposures(universe[day], beta=grid[day])["beta"])


def test_what_is_not_known_is_the_mean():
    made = exposures(np.ones(3, dtype=bool), beta=[np.nan, 1.0, 2.0], volatility=[0.02, 0.02, 0.0])
    assert made["beta"].tolist() == [0.0, -1.0, 1.0]
    assert made["volatility"].tolist() == [0.0, 0.0, 0.0]


def test_a_column_with_a_name_of_ours_is_refused():
    with pytest.raises(ValueError, match="rename"):
        exposures(np.ones(2, dtype=bool), columns={"beta": [1.0, 2.0]})


def test_numbers_of_any_kind_are_numbers_and_what_is_neither_number_nor_text_is_refused():
    codes = pd.MultiIndex.from_product([pd.to_datetime(["2020-01-02", "2020-01-03"]), ["a", "b"]])[:3]
    plain = [1.0, 0.0, 1.0]
    kinds = {
        "nullable": pd.array([1, 0, 1], dtype="Int64"),
        "gaps": pd.array([1.0, 0.0, 1.0], dtype="Float64"),
        "objects": np.array([1, 0.0, np.float32(1)], dtype=object),
        "flags": [True, False, True],
        "known": pd.array([True, False, True], dtype="boolean"),
    }
    frame = pd.DataFrame(kinds, codes)
    for name, grid in read_exposures(frame, "own").items():
        assert (grid.dtypes == np.float64).all(), name
        np.testing.assert_array_equal(grid, [plain[:2], [1.0, 0.0]])
    own = read_exposures(pd.DataFrame({"sector": pd.Categorical([1, 2, None])}, codes), "own")["sector"]
    assert own.to_numpy().tolist() == [[1, 2], [1, 2]]  # the last one known
    with pytest.raises(ValueError, match=r"own: mixed is 2 at \(Timestamp.'2020-01-02 .*'b'\); wanted are numbers"):
        read_exposures(pd.DataFrame({"mixed": ["x", 2, "y"]}, codes), "own")
    with pytest.raises(ValueError, match="own: day is Timestamp.*wanted are numbers, or text"):
        read_exposures(pd.DataFrame({"day": pd.to_datetime(["2020-01-02"] * 3)}, codes), "own")
    for wrong in (codes.swaplevel(), codes.set_levels(["2020-01-02", "2020-01-03"], level=0)):
        with pytest.raises(ValueError, match="own is indexed by .*wanted is .datetime, instrument."):
            read_exposures(pd.DataFrame({"x": plain}, wrong), "own")


@pytest.mark.parametrize("name", [name for name, row in KINDS.items() if row.measure is not None])
def test_no_day_before_the_lead_changes_a_kind(name):
    close = pd.DataFrame(closes(days=400, stocks=30))
    for stock in range(1, 30):  # suspended for 1 to 145 days, the last ones until today
        gap = 5 * stock
        end = 400 - (stock * 13) % 60 if stock < 20 else 400
        close.iloc[max(end - gap, 0) : end, stock] = np.nan
    past = Past(close, (close * 0 + 0.5).mask(close > 9), close.notna().cumsum())
    whole, lead = measure_exposures([name], past)[name], KINDS[name].lead
    for day in (330, 370, 399):
        cut = Past(*(grid.iloc[day - lead : day + 1] for grid in vars(past).values()))
        alone = measure_exposures([name], cut)[name].iloc[-1]
        assert alone.notna().any()
        np.testing.assert_allclose(alone, whole.loc[day], rtol=1e-9)


def test_a_stock_without_a_value_keeps_its_place():
    codes, days = ["SH600000", "SH600001"], pd.to_datetime(["2021-01-04", "2021-01-05"])
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    frame = pd.DataFrame({"number": [1.0, np.nan, np.nan, np.nan], "text": ["a", None, None, None]}, index)
    for name, value in (("number", 1.0), ("text", "a")):
        grid = read_exposures(frame, "exposures")[name]
        assert list(grid.index) == list(days) and list(grid.columns) == codes
        assert grid[codes[0]].tolist() == [value] * 2 and grid[codes[1]].isna().all()  # as last known
