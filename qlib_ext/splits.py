"""Folds of trading days as index arrays: hv-blocked k-fold and walk-forward.

Trading days are split, never panel rows: two stocks of one day always fall on the same side. Day t, a place in the
sequence of trading days, has a label that touches the days t+1 to t+reach and a window that covers the days t-window+1
to t: its footprint is t-window+1 to t+reach. The footprints of two days are disjoint exactly where reach + window - 1
or more days lie between the two; that is the gap removed between training and validation unless told otherwise.

The k-fold trains on the future of a block: right for choosing models and stopping, wrong for a headline. For that there
is `WalkForward`, or an untouched last period.

Source: Racine (2000), Consistent cross-validatory model-selection for dependent data: hv-block cross-validation,
Journal of Econometrics 99: a validation block of 2v+1 points, h points removed on each side of it. Here the blocks tile
the days instead of sliding over them. That his blocks form a balanced design, on which the proof of consistency rests,
has been refuted (arXiv 1910.08904); what the gap is for, keeping the two parts apart, is untouched by that.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.options import check_flag, check_number

Rows = npt.NDArray[np.int64]
Pair = tuple[Rows, Rows]
Triple = tuple[Rows, Rows, Rows]

PARTS = ("train", "gap", "valid", "test", "unused")
LOOKBACK = 60  # trading days behind the longest features of Alpha158


# --- splitters


class HVBlockedKFold:
    """Contiguous blocks of (nearly) equal length, each validated once, with `gap` days removed on each side of it.

    The first blocks are longer by one day where the days do not divide, as in sklearn's `KFold`. Every day outside the
    block and its gap is trained on, before the block and after it. At the borders of the sample the gap is cut off.

    Args:
        n_splits: blocks, at least 2.
        gap: trading days removed on each side; None: reach + window - 1, the least at which nothing leaks.
        reach: days after t that the label of t touches (2 for Ref($close,-2)/Ref($close,-1)-1), at least 1.
        window: rows of the panel in a window, at least 1.
        strict: refuse a gap below reach + window - 1. False allows it; `overlap` counts what then leaks.

    Raises: ValueError for anything but whole numbers in these bounds, and for too small a gap.

    >>> [(train.tolist(), valid.tolist()) for train, valid in HVBlockedKFold(3, gap=1, strict=False).split(6)]
    [([3, 4, 5], [0, 1]), ([0, 5], [2, 3]), ([0, 1, 2], [4, 5])]
    """

    def __init__(
        self, n_splits: int = 5, gap: int | None = None, *, reach: int = 2, window: int = 1, strict: bool = True
    ) -> None:
        check_number("n_splits", n_splits, "[2, inf)", whole=True)
        self.n_splits = int(n_splits)
        self.gap = _resolve_gap(gap, reach, window, strict=strict)

    def __repr__(self) -> str:
        """Show the settings, with the gap in force."""
        return f"HVBlockedKFold(n_splits={self.n_splits}, gap={self.gap})"

    def split(self, days: npt.ArrayLike) -> Iterator[Pair]:
        """Cut the days into folds, in the order of their blocks.

        Args:
            days: (D,) trading days, strictly increasing, or their count D.

        Returns:
            Pairs (train, valid) of increasing int64 positions in `days`.

        Raises: ValueError for days that are unsorted, repeated or fewer than the splits, and where the gap leaves a
            fold without training days; before the first pair is given.
        """
        count = len(_trading_days(days))
        if count < self.n_splits:
            raise ValueError(f"n_splits={self.n_splits} but there are {count} days: take fewer splits or more days")
        every = np.arange(count, dtype=np.int64)
        folds = []
        for fold, valid in enumerate(np.array_split(every, self.n_splits)):
            train = every[(every < valid[0] - self.gap) | (every > valid[-1] + self.gap)]
            if not len(train):
                raise ValueError(
                    f"gap={self.gap} leaves fold {fold} (days {valid[0]} to {valid[-1]} of {count}) without training "
                    "days: shorten the gap (reach, window), or take more days"
                )
            folds.append((train, valid))
        return iter(folds)


class WalkForward:
    """Rolling retraining: train, valid and test blocks in order of time, `gap` days removed between each two.

    Fold i starts `step` days after fold i-1. The folds end with the first one whose test block reaches the last day.
    Where that block is incomplete, it is given shortened to the days there are (`partial=True`), or its fold is left
    out (`partial=False`).

    Args:
        train: trading days of the first (rolling: of every) training block, at least 1.
        valid: trading days of a validation block, at least 1.
        test: trading days of a test block, at least 1.
        step: trading days from one fold to the next; None: `test`, so that the test blocks tile. A smaller step tests
            days more than once, a larger one leaves days untested.
        gap: trading days removed between train and valid and between valid and test; None: reach + window - 1.
        expanding: every training block starts at the first day instead of rolling.
        reach: days after t that the label of t touches, at least 1.
        window: rows of the panel in a window, at least 1.
        strict: refuse a gap below reach + window - 1. False allows it; `overlap` counts what then leaks.
        partial: give the last, incomplete test block shortened.

    Raises: ValueError for anything but whole numbers in these bounds, and for too small a gap.

    >>> [[part.tolist() for part in fold] for fold in WalkForward(3, 1, 2, reach=1).split(10)]
    [[[0, 1, 2], [4], [6, 7]], [[2, 3, 4], [6], [8, 9]]]
    """

    def __init__(
        self,
        train: int,
        valid: int,
        test: int,
        step: int | None = None,
        gap: int | None = None,
        *,
        expanding: bool = False,
        reach: int = 2,
        window: int = 1,
        strict: bool = True,
        partial: bool = True,
    ) -> None:
        step = test if step is None else step
        _check_days(train=train, valid=valid, test=test, step=step)
        check_flag("expanding", expanding)
        check_flag("partial", partial)
        self.train, self.valid, self.test, self.step = (int(days) for days in (train, valid, test, step))
        self.gap = _resolve_gap(gap, reach, window, strict=strict)
        self.expanding, self.partial = expanding, partial

    def __repr__(self) -> str:
        """Show the settings, with the step and the gap in force."""
        return f"WalkForward({', '.join(f'{name}={value}' for name, value in vars(self).items())})"

    def split(self, days: npt.ArrayLike) -> Iterator[Triple]:
        """Cut the days into folds, in order of time.

        Args:
            days: (D,) trading days, strictly increasing, or their count D.

        Returns:
            Triples (train, valid, test) of increasing int64 positions in `days`.

        Raises: ValueError for days that are unsorted, repeated or too few for one fold; before the first triple is
            given.
        """
        count = len(_trading_days(days))
        lead = self.train + self.gap + self.valid + self.gap  # days of a fold before its test block
        need = lead + (1 if self.partial else self.test)
        if count < need:
            raise ValueError(
                f"{self!r} needs {need} days for its first fold and there are {count}: shorten its blocks, or take "
                "more days"
            )
        folds = []
        for start in range(0, count - need + 1, self.step):
            valid = start + self.train + self.gap
            end = min(start + lead + self.test, count)
            folds.append(
                (
                    np.arange(0 if self.expanding else start, start + self.train, dtype=np.int64),
                    np.arange(valid, valid + self.valid, dtype=np.int64),
                    np.arange(start + lead, end, dtype=np.int64),
                )
            )
            if end == count:
                break
        return iter(folds)


# --- reports


def overlap(train: npt.ArrayLike, valid: npt.ArrayLike, *, reach: int = 2, window: int = 1) -> int:
    """Count the pairs (training day, validation day) whose labels or windows share a day: what leaks.

    Day t has the footprint t-window+1 to t+reach (module docstring); a pair is counted where the two footprints meet,
    that is where the days are less than reach + window apart. Works for any two parts, (train, test) too.

    Args:
        train: (n,) positions of training days.
        valid: (m,) positions of validation days.
        reach: days after t that the label of t touches, at least 1.
        window: rows of the panel in a window, at least 1.

    Returns:
        Pairs, between 0 and n * m; 0 with a gap of reach + window - 1 or more.

    Raises: ValueError for positions that are not whole numbers, or `reach` or `window` below 1.
    """
    _check_days(reach=reach, window=window)
    return int(_neighbours(_positions("train", train), _positions("valid", valid), reach + window).sum())


def feature_overlap(train: npt.ArrayLike, valid: npt.ArrayLike, lookback: int = LOOKBACK) -> float:
    """Report the share of validation days whose features share an input day with those of some training day.

    A feature of day t that looks back over `lookback` days is made of the days t-lookback+1 to t, so a validation day
    is counted where a training day, before or after it, is less than `lookback` days away. A gap of reach + window - 1
    does not remove this softer dependence: the returns behind one part's labels are then among the many inputs of the
    other's features, though never inputs and label of one sample. With windows of T rows the inputs go back over
    lookback + T - 1 days.

    Args:
        train: (n,) positions of training days.
        valid: (m,) positions of validation days, m >= 1.
        lookback: trading days that go into one feature, at least 1.

    Returns:
        Share of the m validation days, 0 to 1.

    Raises: ValueError for positions that are not whole numbers, no validation day, or `lookback` below 1.
    """
    rows = _positions("valid", valid)
    if not len(rows):
        raise ValueError("valid holds no day, and there is no share of none: pass a fold's validation days")
    _check_days(lookback=lookback)
    return float((_neighbours(_positions("train", train), rows, lookback) > 0).mean())


def fold_map(splits: Iterable[tuple[Rows, ...]], days: npt.ArrayLike) -> pd.DataFrame:
    """Tell the part that each day plays in each fold, for drawing.

    Args:
        splits: pairs (train, valid) or triples (train, valid, test), as `split` gives them.
        days: (D,) the days they were made of, or their count D.

    Returns:
        One row for each fold and day, by fold and then by day: `fold` (0, 1, ...), `day` (of `days`, or 0 to D-1),
        `part` (categorical of `PARTS`). `part` is "gap" where a pair uses a day for neither; in a triple the days
        before its first and after its last are "unused". `.pivot(index="fold", columns="day", values="part")` is the
        matrix.

    Raises: ValueError for no splits, other tuples, positions outside the days, or a day that plays two parts.
    """
    axis = _trading_days(days)
    codes = [_parts(fold, split, len(axis)) for fold, split in enumerate(splits)]
    if not codes:
        raise ValueError(
            "there are no splits to draw; an iterator is used up by one pass: pass list(splitter.split(days))"
        )
    return pd.DataFrame(
        {
            "fold": np.repeat(np.arange(len(codes)), len(axis)),
            "day": np.tile(axis, len(codes)),
            "part": pd.Categorical.from_codes(np.concatenate(codes), categories=pd.Index(PARTS)),
        }
    )


# --- arithmetic


def _neighbours(train: Rows, valid: Rows, apart: int) -> Rows:
    """Count for each validation day (m,) the training days less than `apart` days away."""
    ordered = np.sort(train)
    return np.searchsorted(ordered, valid + apart, side="left") - np.searchsorted(ordered, valid - apart, side="right")


def _parts(fold: int, split: tuple[Rows, ...], count: int) -> npt.NDArray[np.int8]:
    """Code (D,) of one fold's parts, places in `PARTS`."""
    if not isinstance(split, tuple) or len(split) not in (2, 3):
        raise ValueError(
            f"fold {fold} must be a tuple (train, valid) or (train, valid, test), got {type(split).__name__}"
        )
    names = ("train", "valid", "test")[: len(split)]
    rows = {name: _positions(name, part) for name, part in zip(names, split, strict=True)}
    used = np.concatenate(list(rows.values()))
    if len(used) and (used.min() < 0 or used.max() >= count):
        raise ValueError(
            f"fold {fold} holds the days {used.min()} to {used.max()}, but days has {count} (0 to {count - 1})"
        )
    if len(np.unique(used)) != len(used):
        raise ValueError(
            f"a day of fold {fold} plays two parts, or one part twice; the parts of a fold must be disjoint"
        )
    code = np.full(count, PARTS.index("gap"), dtype=np.int8)
    if len(split) == 3 and len(used):
        code[: used.min()] = code[used.max() + 1 :] = PARTS.index("unused")
    for name, part in rows.items():
        code[part] = PARTS.index(name)
    return code


# --- checks


def _trading_days(days: Any) -> npt.NDArray[Any]:
    """Check the days (D,); a count becomes 0 to D-1."""
    if isinstance(days, pd.MultiIndex):
        raise ValueError(
            f"days is a MultiIndex of {list(days.names)}: split trading days, never panel rows. "
            'Pass index.get_level_values("datetime").unique().sort_values()'
        )
    values = np.asarray(days)
    if values.ndim == 0 and np.issubdtype(values.dtype, np.integer):
        _check_days(days=values.item())
        return np.arange(values.item(), dtype=np.int64)
    if values.ndim != 1:
        raise ValueError(f"days must be a sequence (D,) of trading days or their count, a whole number; got {days!r}")
    if not len(values):
        raise ValueError("days is empty: check the calendar and the dates of the segment")
    wrong = ~(values[1:] > values[:-1])
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"days must be strictly increasing, and {values[at + 1]} stands after {values[at]} (place {at + 1}): sort "
            "them and drop duplicates, e.g. pd.DatetimeIndex(days).unique().sort_values()"
        )
    return values


def _positions(name: str, rows: npt.ArrayLike) -> Rows:
    """Check places of days (n,)."""
    values = np.asarray(rows)
    if values.ndim != 1 or (len(values) and not np.issubdtype(values.dtype, np.integer)):
        raise ValueError(
            f"{name} must be whole numbers (n,), positions of days, got {values.dtype} of shape {values.shape}; pass "
            "the index arrays of split()"
        )
    return values.astype(np.int64)


def _resolve_gap(gap: int | None, reach: int, window: int, *, strict: bool) -> int:
    """Days to remove on a side; None is the least that keeps footprints apart."""
    _check_days(reach=reach, window=window)
    check_flag("strict", strict)
    need = reach + window - 1
    if gap is None:
        return need
    check_number("gap", gap, "[0, inf)", whole=True)
    if strict and gap < need:
        raise ValueError(
            f"gap={gap} lets training touch validation: a label that reaches {reach} days and a window of {window} "
            f"rows need {need} (reach + window - 1). Leave gap out, raise it to {need}, or set strict=False to keep it"
        )
    return int(gap)


def _check_days(**counts: Any) -> None:
    for name, days in counts.items():
        check_number(name, days, "[1, inf)", whole=True)
