"""Scores at the doors: what is read, what is refused, and the grid."""

import math

import numpy as np
import pandas as pd
import pytest

from qlib_ext.panel import check_grid, check_scores, grid_of

DAYS = pd.to_datetime(["2022-01-04", "2022-01-05", "2022-01-06"])
CODES = ["SH600000", "SH600004", "SZ000001"]
INDEX = pd.MultiIndex.from_product([DAYS, CODES], names=["datetime", "instrument"])
SCORES = pd.Series(np.arange(9.0), INDEX, name="score")


def relabelled(days=DAYS, codes=CODES, names=("datetime", "instrument")):
    return SCORES.set_axis(pd.MultiIndex.from_product([days, codes], names=names))


def with_one(value, dtype=float):
    out = SCORES.astype(dtype)
    out.iloc[4] = value
    return out


def test_good_scores_stay_as_they_are():
    assert check_scores(SCORES) is SCORES
    missing = with_one(math.nan)
    assert check_scores(missing) is missing


@pytest.mark.parametrize(
    "scores",
    [
        SCORES.to_frame(),
        SCORES.to_frame().assign(label=0.0)[["label", "score"]],
        SCORES.swaplevel(),
        SCORES.rename_axis([None, None]).swaplevel().sort_index(),
        SCORES.sample(frac=1, random_state=0),
        relabelled(days=DAYS + pd.Timedelta(hours=15)),
        relabelled(days=[20220104, 20220105, 20220106]),
        relabelled(days=["2022-01-04", "2022/1/5", "2022-01-06 15:00"]),
        relabelled(names=("instrument", "datetime")),  # labels swapped, not levels
        relabelled(codes=["sh600000", "600004.SH", "000001"]),
        relabelled(days=DAYS.date),
        SCORES.astype(object),
        SCORES.astype("Float64"),
        pd.concat([SCORES, SCORES.iloc[:3].rename({"SH600000": "BJ830799"})]).iloc[:9],  # levels that are not used
    ],
)
def test_scores_in_any_usual_form_are_read(scores):
    read = check_scores(scores)
    assert read.index.names == ["datetime", "instrument"] and read.index.is_monotonic_increasing
    assert read.index.tolist() == INDEX.tolist() and read.tolist() == SCORES.tolist()


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (with_one(np.inf), "SH600004 has the score inf on 2022-01-05"),
        (SCORES * math.nan, "all 9 scores are NaN"),
        (SCORES.iloc[:0], "there is no score in it"),
        (pd.concat([SCORES, SCORES.iloc[4:5]]), "SH600004 has two scores on 2022-01-05"),
        (relabelled(codes=["SH600000", "sh600000", "SZ000001"]), "SH600000 has two scores on 2022-01-04"),
        (relabelled(days=DAYS.tz_localize("Asia/Shanghai")), "with the time zone Asia/Shanghai"),
        (relabelled(days=DAYS - pd.Timedelta(hours=8)), "stamped 2022-01-03 16:00:00, after the close"),
        (relabelled(days=[0, 1, 2]), "a day is 0, no day that is surely understood"),
        (relabelled(days=["01/02/2022", "01/03/2022", "01/04/2022"]), "'01/02/2022', no day"),
        (relabelled(codes=["SH600000", "00700.HK", "SZ123456.SH"]), "'SZ123456.SH', no code of a stock"),
    ],
)
def test_what_is_not_surely_a_score_is_refused(scores, words):
    with pytest.raises(ValueError, match="^mine") as caught:
        check_scores(scores, "mine")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (SCORES.unstack(), "is a frame with the columns ['SH600000', 'SH600004', 'SZ000001']"),
        (SCORES.loc[DAYS[0]], "the index has the levels ['instrument']"),
        (SCORES.to_numpy(), "is ndarray"),
        (with_one("0.5", object), "a score is '0.5' at (Timestamp('2022-01-05 00:00:00'), 'SH600004'), no number"),
        (with_one(True, object), "a score is True at"),
        (SCORES > 3, "a score is False at"),
        (SCORES.astype(str), "a score is '0.0' at"),
        (SCORES.astype(complex), "no number"),
        (relabelled(names=(None, None), days=["a", "b", "c"]), "which level of the index holds the days is not sure"),
        (relabelled(codes=DAYS), "which level of the index holds the days is not sure"),
        (relabelled(codes=[600000, 600004, 1]), "a code is 1 (int); write SH600000"),
    ],
)
def test_what_is_no_series_of_numbers_is_refused(scores, words):
    with pytest.raises(TypeError, match="^mine") as caught:
        check_scores(scores, "mine")
    assert words in str(caught.value)


def test_scores_of_days_without_trade_are_refused():
    assert check_scores(SCORES, calendar=DAYS[:2]) is SCORES  # beyond the data is no error
    with pytest.raises(ValueError, match="2022-01-05 is no trading day .1 such days"):
        check_scores(SCORES, calendar=DAYS[[0, 2]])
    with pytest.raises(ValueError, match="of 2022-01-04 to 2022-01-06, the data of 2023-01-04 .*no day in both"):
        check_scores(SCORES, calendar=DAYS + pd.DateOffset(years=1))


def test_equal_scores_are_warned_of(recwarn):
    check_scores(SCORES * 0 + SCORES.index.get_level_values(0).day)
    assert "all scores of a day are equal, on all 3 days" in str(recwarn.pop(UserWarning).message)
    check_grid(np.ones((3, 3)), DAYS, CODES)
    assert "all scores of a day are equal" in str(recwarn.pop(UserWarning).message)
    check_scores(SCORES.where(SCORES < 4, 4.0))
    check_scores(SCORES.xs("SH600000", level=1, drop_level=False))  # one a day is not equal to anything
    assert not len(recwarn)


def test_a_grid_takes_the_stocks_of_the_data(recwarn):
    grid = grid_of(SCORES.drop(index=[(DAYS[1], "SZ000001")]), DAYS[1:], ["SZ000001", "SH600000", "SH600006"])
    np.testing.assert_array_equal(grid, [[math.nan, 3.0, math.nan], [8.0, 6.0, math.nan]])
    assert "1 of 3 codes with a score are not in the data, SH600004 the first" in str(recwarn.pop(UserWarning).message)
    with pytest.raises(ValueError, match="3 of 3 codes with a score are not in the data, SH600000 the first"):
        grid_of(SCORES, DAYS, ["SH600006"])


@pytest.mark.parametrize(
    ("grid", "error", "words"),
    [
        (np.ones((2, 3)), ValueError, r"shape \(2, 3\); wanted \(days, stocks\) = \(3, 3\)"),
        (np.where(np.eye(3), -np.inf, 1.0), ValueError, "score of SH600000 on 2022-01-04 is -inf"),
        (np.full((3, 3), math.nan), ValueError, "no stock has a score on the 3 days, 2022-01-04 to 2022-01-06"),
        (np.ones((3, 3), dtype=bool), TypeError, "score holds bool"),
    ],
)
def test_a_grid_that_cannot_be_scores_is_refused(grid, error, words):
    with pytest.raises(error, match=words):
        check_grid(grid, DAYS, CODES)
