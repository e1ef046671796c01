import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qlib_ext.splits import HVBlockedKFold, WalkForward, feature_overlap, fold_map, overlap


def lists(splits):
    return [tuple(part.tolist() for part in split) for split in splits]


def footprint(day, reach, window):
    return set(range(day - window + 1, day + 1)) | set(range(day + 1, day + reach + 1))


def touching(first, second, reach, window):
    """The slow oracle: all pairs of days, their windows and labels as sets of days."""
    return sum(bool(footprint(s, reach, window) & footprint(t, reach, window)) for s in first for t in second)


# --- literal folds


def test_ten_days_five_splits_gap_one():
    assert lists(HVBlockedKFold(5, 1, reach=1).split(10)) == [
        ([3, 4, 5, 6, 7, 8, 9], [0, 1]),
        ([0, 5, 6, 7, 8, 9], [2, 3]),
        ([0, 1, 2, 7, 8, 9], [4, 5]),
        ([0, 1, 2, 3, 4, 9], [6, 7]),
        ([0, 1, 2, 3, 4, 5, 6], [8, 9]),
    ]


def test_twelve_days_five_splits_gap_of_the_label():
    # blocks of 3, 3, 2, 2, 2; gap None = reach 2 + window 1 - 1 = 2
    assert lists(HVBlockedKFold().split(12)) == [
        ([5, 6, 7, 8, 9, 10, 11], [0, 1, 2]),
        ([0, 8, 9, 10, 11], [3, 4, 5]),
        ([0, 1, 2, 3, 10, 11], [6, 7]),
        ([0, 1, 2, 3, 4, 5], [8, 9]),
        ([0, 1, 2, 3, 4, 5, 6, 7], [10, 11]),
    ]


def test_seven_days_two_splits_without_a_gap():
    assert lists(HVBlockedKFold(2, 0, strict=False).split(7)) == [([4, 5, 6], [0, 1, 2, 3]), ([0, 1, 2, 3], [4, 5, 6])]


def test_walk_forward_rolling():
    # the third test block has one of three days left
    assert lists(WalkForward(4, 2, 3, gap=1, reach=1).split(15)) == [
        ([0, 1, 2, 3], [5, 6], [8, 9, 10]),
        ([3, 4, 5, 6], [8, 9], [11, 12, 13]),
        ([6, 7, 8, 9], [11, 12], [14]),
    ]


def test_walk_forward_expanding_without_the_partial_block():
    splitter = WalkForward(4, 2, 3, gap=1, reach=1, expanding=True, partial=False)
    assert lists(splitter.split(16)) == [
        ([0, 1, 2, 3], [5, 6], [8, 9, 10]),
        ([0, 1, 2, 3, 4, 5, 6], [8, 9], [11, 12, 13]),
    ]
    assert len(lists(splitter.split(17))) == 3  # the third block, 14 to 16, is complete


def test_walk_forward_steps():
    # step 2 < test 3: tested twice, and it ends where a test block first reaches the last day
    assert lists(WalkForward(2, 1, 3, 2, 0, strict=False).split(8)) == [
        ([0, 1], [2], [3, 4, 5]),
        ([2, 3], [4], [5, 6, 7]),
    ]
    # step 3 > test 1: days 4 and 5 are never tested
    assert lists(WalkForward(2, 1, 1, 3, 0, strict=False).split(8)) == [([0, 1], [2], [3]), ([3, 4], [5], [6])]


def test_days_of_any_kind_give_the_same_folds():
    dates = pd.bdate_range("2020-01-01", periods=12)
    want = lists(HVBlockedKFold().split(12))
    for days in (
        dates,
        list(dates),
        dates.to_numpy(),
        dates.date,
        [str(d) for d in dates],
        np.int64(12),
        pd.Series(dates),
    ):
        assert lists(HVBlockedKFold().split(days)) == want
    for split in (*HVBlockedKFold().split(dates), *WalkForward(3, 1, 1).split(dates)):
        assert all(part.dtype == np.int64 for part in split)


def test_repr_shows_the_gap_in_force():
    assert repr(HVBlockedKFold(3, reach=2, window=8)) == "HVBlockedKFold(n_splits=3, gap=9)"
    assert repr(WalkForward(9, 3, 2)) == (
        "WalkForward(train=9, valid=3, test=2, step=2, gap=2, expanding=False, partial=True)"
    )


# --- properties


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 70), st.integers(2, 8), st.integers(1, 4), st.integers(1, 6), st.integers(0, 3))
@example(12, 5, 2, 1, 0)
def test_blocks(count, n_splits, reach, window, more):
    gap = reach + window - 1 + more
    assume(count >= n_splits)
    splitter = HVBlockedKFold(n_splits, gap if more else None, reach=reach, window=window)
    largest = -(-count // n_splits)
    # a middle block with its gaps may cover the sample; the oracle of that is the refusal itself
    try:
        folds = lists(splitter.split(count))
    except ValueError:
        sizes = [count // n_splits + (k < count % n_splits) for k in range(n_splits)]
        starts = np.cumsum([0, *sizes])
        assert any(a - gap <= 0 and b + gap >= count for a, b in zip(starts, starts[1:], strict=False))
        return
    assert len(folds) == n_splits
    assert sum((valid for _, valid in folds), []) == list(range(count))  # each day once, in order, contiguous
    sizes = [len(valid) for _, valid in folds]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == largest and sizes[0] - sizes[-1] <= 1
    for train, valid in folds:
        assert train and train == sorted(set(train)) and not set(train) & set(valid)
        removed = sorted(set(range(count)) - set(train) - set(valid))
        before, after = [d for d in removed if d < valid[0]], [d for d in removed if d > valid[-1]]
        assert before == list(range(max(0, valid[0] - gap), valid[0]))
        assert after == list(range(valid[-1] + 1, min(count, valid[-1] + 1 + gap)))
        assert touching(train, valid, reach, window) == 0


@settings(max_examples=150, deadline=None)
@given(
    st.integers(4, 60),
    st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(1, 8)),
    st.integers(1, 4),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
def test_walk_forward(count, lengths, reach, window, expanding, partial):
    train, valid, test = lengths
    gap = reach + window - 1
    first = train + valid + 2 * gap
    assume(count >= first + (1 if partial else test))
    options = {"expanding": expanding, "partial": partial, "reach": reach, "window": window}
    folds = lists(WalkForward(train, valid, test, **options).split(count))
    tested = sum((part[2] for part in folds), [])
    last = count if partial else first + (count - first) // test * test
    assert tested == list(range(first, last))  # the test blocks tile, in order
    for k, parts in enumerate(folds):
        for part in parts:
            assert part == list(range(part[0], part[-1] + 1))
        assert parts[1][0] - parts[0][-1] == parts[2][0] - parts[1][-1] == gap + 1
        assert len(parts[1]) == valid
        assert len(parts[0]) == train + (k * test if expanding else 0)
        assert len(parts[2]) == test or (partial and k == len(folds) - 1 and len(parts[2]) < test)
        for a, b in ((0, 1), (1, 2), (0, 2)):
            assert touching(parts[a], parts[b], reach, window) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), st.integers(0, 7), st.integers(1, 4), st.integers(1, 4))
def test_a_gap_one_day_short_leaks(n_splits, gap, reach, window):
    splitter = HVBlockedKFold(n_splits, gap, reach=reach, window=window, strict=False)
    for train, valid in splitter.split(60):
        want = touching(train.tolist(), valid.tolist(), reach, window)
        assert overlap(train, valid, reach=reach, window=window) == want
        assert (want > 0) == (gap < reach + window - 1)


# --- reports


def test_overlap_golden():
    # reach 2, window 1: footprints of 3 days, so pairs less than 3 days apart: (3, 4), (3, 5), (2, 4); (7, 5)
    assert overlap([0, 1, 2, 3, 7], [4, 5]) == 4
    assert overlap([0, 1, 7, 8], [4]) == 0
    assert overlap([0, 1, 7, 8], [4], window=2) == 2  # 1 and 7 are 3 days away
    assert overlap([], [4]) == 0


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60), min_size=1), st.integers(1, 5), st.integers(1, 9))
def test_reports_agree_with_the_oracle(train, valid, reach, window):
    left, right = np.array(list(train), dtype=np.int64), np.array(list(valid), dtype=np.int64)
    assert overlap(left, right, reach=reach, window=window) == touching(train, valid, reach, window)
    inputs = {day: set(range(day - window + 1, day + 1)) for day in train | valid}
    seen = set().union(*(inputs[day] for day in train)) if train else set()
    want = sum(bool(inputs[day] & seen) for day in valid) / len(valid)
    assert feature_overlap(left, right, window) == pytest.approx(want)


def test_feature_overlap_golden():
    # 3-day features of 10 to 13 begin on 8, 9, 10, 11; those of day 8 end on 8, those of 16 begin on 14
    assert feature_overlap([8, 16], [10, 11, 12, 13], 3) == 0.25
    train, valid = next(HVBlockedKFold(5).split(500))
    # block 0 to 99, training from 102 on: the days from 102 - 59 = 43 to 99 are less than 60 days away
    assert feature_overlap(train, valid) == pytest.approx(57 / 100)
    assert [feature_overlap(*pair) for pair in HVBlockedKFold(5, 60).split(500)] == [0.0] * 5


def test_fold_map_of_blocks():
    dates = pd.bdate_range("2020-01-01", periods=10)
    frame = fold_map(HVBlockedKFold(5, 1, reach=1).split(dates), dates)
    assert list(frame.columns) == ["fold", "day", "part"] and len(frame) == 50
    rows = ["".join(str(p)[0] for p in frame.loc[frame["fold"] == k, "part"]) for k in range(5)]
    assert rows == ["vvgttttttt", "tgvvgttttt", "tttgvvgttt", "tttttgvvgt", "tttttttgvv"]
    matrix = frame.pivot(index="fold", columns="day", values="part")
    assert matrix.shape == (5, 10) and (matrix.columns == dates).all() and matrix.loc[1, dates[1]] == "gap"


def test_fold_map_of_walk_forward():
    frame = fold_map(WalkForward(3, 1, 2, gap=1, reach=1).split(10), 10)
    letter = {"train": "T", "gap": ".", "valid": "V", "test": "X", "unused": "-"}
    rows = ["".join(letter[p] for p in frame.loc[frame["fold"] == k, "part"]) for k in range(2)]
    assert rows == ["TTT.V.XX--", "--TTT.V.XX"] and frame["fold"].max() == 1
    assert frame["day"].tolist() == [*range(10)] * 2


def test_fold_map_tells_gap_from_unused():
    days = [np.array([day]) for day in (1, 3, 5)]
    triple, pair = fold_map([tuple(days)], 7), fold_map([tuple(days[:2])], 5)
    assert triple["part"].tolist() == ["unused", "train", "gap", "valid", "gap", "test", "unused"]
    assert pair["part"].tolist() == ["gap", "train", "gap", "valid", "gap"]  # a pair does not say where its fold ends


# --- errors


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n_splits": 1}, "n_splits is 1; "),
        ({"n_splits": 2.0}, "n_splits.*2.0"),
        ({"n_splits": True}, "n_splits.*True"),
        ({"gap": -1}, "gap is -1; "),
        ({"gap": 2.5}, "gap.*2.5"),
        ({"reach": 0}, "reach is 0; "),
        ({"window": -3}, "window"),
        ({"strict": 0}, "strict is 0; "),
        ({"gap": 8, "window": 8}, "gap=8 .* 2 days and a window of 8 rows need 9 .*raise it to 9, or set strict=False"),
    ],
)
def test_kfold_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        HVBlockedKFold(**arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"train": 0}, "train is 0; "),
        ({"valid": 1.5}, "valid"),
        ({"test": -1}, "test"),
        ({"step": 0}, "step"),
        ({"gap": 1}, r"gap=1 .*need 2 \(reach \+ window - 1\)"),
        ({"gap": -1, "strict": False}, "gap"),
        ({"expanding": "no"}, "expanding"),
        ({"partial": 1}, "partial"),
    ],
)
def test_walk_forward_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        WalkForward(**({"train": 5, "valid": 2, "test": 2} | arguments))


def test_misspelt_settings_are_refused():
    with pytest.raises(TypeError, match="n_split"):
        HVBlockedKFold(n_split=3)
    with pytest.raises(TypeError, match="positional"):
        HVBlockedKFold(3, 2, 2)


@pytest.mark.parametrize(
    ("days", "match"),
    [
        (4, "n_splits=5 but there are 4 days"),
        (0, "days is 0; "),
        (-3, "days"),
        (10.0, "count, a whole number; got 10.0"),
        (True, "whole number"),
        ("2020-01-01", "sequence"),
        ([], "empty"),
        (np.ones((3, 2)), "sequence"),
        ([1, 2, 4, 3, 5, 6, 7], "3 stands after 4 .place 3.: sort"),
        ([1, 2, 2, 3, 5, 6, 7], "2 stands after 2"),
        (pd.DatetimeIndex(["2020-01-02", "2020-01-01", "2020-01-03"]), "increasing"),
        (pd.DatetimeIndex(["2020-01-01", "NaT", "2020-01-03"]), "increasing"),
        (pd.MultiIndex.from_product([[1, 2], ["a", "b"]], names=["datetime", "instrument"]), "never panel rows"),
    ],
)
def test_days_are_checked_before_the_first_fold(days, match):
    with pytest.raises(ValueError, match=match):
        HVBlockedKFold().split(days)
    if not isinstance(days, int) or days is True or days < 1:
        with pytest.raises(ValueError, match=match):
            WalkForward(1, 1, 1, gap=0, strict=False).split(days)


def test_folds_without_training_days_are_refused():
    with pytest.raises(ValueError, match=r"gap=4 leaves fold 1 \(days 4 to 6 of 10\) without training days.*shorten"):
        HVBlockedKFold(3, 4).split(10)
    assert len(list(HVBlockedKFold(3, 3).split(10))) == 3  # day 0 is left to fold 1
    # 3 + 2 + 1 + 2 days stand before the test block
    with pytest.raises(ValueError, match="needs 9 days for its first fold and there are 8"):
        WalkForward(3, 1, 2).split(8)
    assert lists(WalkForward(3, 1, 2).split(9)) == [([0, 1, 2], [5], [8])]
    with pytest.raises(ValueError, match="needs 10 days"):
        WalkForward(3, 1, 2, partial=False).split(9)


def test_reports_refuse():
    for report in (overlap, feature_overlap):
        with pytest.raises(ValueError, match="train must be whole numbers .*float64"):
            report([0.5], [1])
        with pytest.raises(ValueError, match="valid must be whole numbers"):
            report([0], [[1]])
    with pytest.raises(ValueError, match="reach"):
        overlap([0], [1], reach=0)
    with pytest.raises(ValueError, match="window"):
        overlap([0], [1], window=0)
    with pytest.raises(ValueError, match="lookback"):
        feature_overlap([0], [1], 0)
    with pytest.raises(ValueError, match="valid holds no day"):
        feature_overlap([0], [])
    used = HVBlockedKFold().split(12)
    list(used)
    with pytest.raises(ValueError, match="used up"):
        fold_map(used, 12)
    with pytest.raises(ValueError, match="fold 0 holds the days 0 to 11, but days has 10"):
        fold_map(HVBlockedKFold().split(12), 10)
    with pytest.raises(ValueError, match="fold 0 holds the days 0 to 3, but days has 3"):
        fold_map([(np.array([0, 1]), np.array([3]))], 3)
    with pytest.raises(ValueError, match="test must be whole numbers"):
        fold_map([(np.array([0]), np.array([1]), np.array([2.0]))], 3)
    with pytest.raises(ValueError, match="two parts"):
        fold_map([(np.array([0, 1]), np.array([1, 2]))], 3)
    with pytest.raises(ValueError, match="tuple"):
        fold_map([np.array([0, 1])], 3)


def test_imports_neither_qlib_nor_torch():
    code = "import sys, qlib_ext.splits; sys.exit(any(m.split('.')[0] in ('qlib', 'torch') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
