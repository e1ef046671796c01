"""Arithmetic of the leak checks: grids compared cell by cell, labels that meet, features that know the label.

No qlib. Sizes: `D` days, `N` stocks, `F` features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.stats import norm as normal
from scipy.stats import t as student

from qlib_ext.cross_section import pearson, varied_days
from qlib_ext.splits import LOOKBACK, feature_overlap

Rows = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

TOLERANCE = 1e-6  # of a value and of its feature's mean size: float32 noise, far below what a leak does
ERRORS = 3.0  # standard errors of the score's IC in the shuffled market, as for a normal one
FEATURE_ERRORS = 5.0  # of a single feature's: there are many of them
MIN_DAYS = 20  # of a feature's IC
FEWEST = 3  # days that are judged
TOO_GOOD = 0.2  # mean IC that no factor of the close has: those in the literature stay below 0.1


@dataclass(frozen=True)
class Finding:
    """One row of the report: `compared` numbers, of which `changed` differ (met, or failed), and what to know.

    `proves`: False where the comparison could not be made or says nothing either way; it has not passed then.
    """

    check: str
    item: str
    compared: int
    changed: int
    passed: bool
    detail: str = ""
    proves: bool = True


@dataclass(frozen=True)
class Grid:
    """Values (D, N) or (D, N, F) with their days (D,), stocks (N,) and the names of the last axis (F,)."""

    values: Array
    days: Array
    stocks: Array
    names: list[str]

    @classmethod
    def of_series(cls, series: pd.Series, name: str) -> Grid:
        """Spread a series by (datetime, instrument), NaN where it has no row."""
        wide = series.unstack()
        return cls(wide.to_numpy(dtype=np.float64), wide.index.to_numpy(), wide.columns.to_numpy(dtype=object), [name])

    def columns(self, names: Sequence[str]) -> Grid:
        """Take columns of the last axis by name; 0 where it has none of that name."""
        at = [self.names.index(name) if name in self.names else -1 for name in names]
        picked = np.where(np.array(at) >= 0, self.values[..., at], 0.0)
        return Grid(picked, self.days, self.stocks, list(names))


def compare(
    check: str,
    item: str,
    old: Grid,
    new: Grid,
    *,
    fill: Any = np.nan,
    tolerance: float = TOLERANCE,
    note: str = "",
) -> Finding:
    """Compare two grids on all their days and stocks; a cell that one of them lacks counts as `fill` there.

    Two numbers are equal where both are NaN or differ by no more than `tolerance` of the value and of the mean size of
    the feature. The detail names the features concerned, by how much they differ, and the first examples.
    """
    days = np.union1d(old.days, new.days)
    stocks = np.union1d(old.stocks.astype(str), new.stocks.astype(str))
    scale = _scale(old.values)
    counts = np.zeros(len(old.names), dtype=np.int64)
    examples: list[str] = []
    cells = 0
    for day, a, b in zip(days, _by_day(old, days, stocks, fill), _by_day(new, days, stocks, fill), strict=True):
        wrong = _differs(a, b, scale, tolerance)
        cells += wrong.size
        if wrong.any():
            counts += wrong.sum(axis=0)
            for n, f in np.argwhere(wrong)[: 3 - len(examples)]:
                which = f" {old.names[f]}" if len(old.names) > 1 else ""
                examples.append(f"{str(day)[:10]} {stocks[n]}{which}: {a[n, f]:.6g} -> {b[n, f]:.6g}")
    detail = note
    if counts.any():
        named = [f"{old.names[f]} ({counts[f]})" for f in np.argsort(-counts, kind="stable") if counts[f]]
        more = f" and {len(named) - 12} more" if len(named) > 12 else ""
        detail = f"{', '.join(named[:12])}{more}; first {'; '.join(examples)}"
    return Finding(check, item, cells, int(counts.sum()), not counts.any(), detail)


def changed_share(old: Grid, new: Grid) -> float:
    """Share of the cells that both grids have that differ; 0 without a common cell."""
    days, stocks = np.intersect1d(old.days, new.days), np.intersect1d(old.stocks.astype(str), new.stocks.astype(str))
    scale = _scale(old.values)
    pairs = zip(_by_day(old, days, stocks, np.nan), _by_day(new, days, stocks, np.nan), strict=True)
    shares = [float(_differs(a, b, scale).mean()) for a, b in pairs] if len(stocks) else []
    return float(np.mean(shares)) if shares else 0.0


def meetings(train: Rows, valid: Rows, *, reach: int, window: int) -> dict[str, npt.NDArray[np.bool_]]:
    """Tell for every pair (training day, validation day), (n, m), what of the one meets what of the other.

    Day t has the label days t+1 to t+reach and the window t-window+1 to t; "window-label" is a training window that
    holds a day of a validation label. Every pair is looked at; nothing is assumed about the order of the parts.
    """
    ends = {"label": (1, reach), "window": (1 - window, 0)}

    def meet(first: str, second: str) -> npt.NDArray[np.bool_]:
        (a, b), (c, d) = ends[first], ends[second]
        t, v = np.asarray(train)[:, None], np.asarray(valid)[None, :]
        return np.asarray((t + a <= v + d) & (v + c <= t + b))

    return {f"{a}-{b}": meet(a, b) for a, b in (("label", "label"), ("window", "label"), ("label", "window"))}


def judge_parts(
    item: str, train: Rows, valid: Rows, days: pd.DatetimeIndex, *, reach: int, window: int, strict: bool
) -> Finding:
    """Judge one pair of parts by all pairs of their days, see `meetings`.

    Labels that meet, and a training window over a validation label, are errors. A training label within a validation
    window is one where `strict` (folds, whose gap must keep the two apart); else it is only counted: what was earned up
    to yesterday is known today. The share of days whose features share an input day is reported, never an error.
    """
    pairs_met = meetings(train, valid, reach=reach, window=window)
    wrong = pairs_met["label-label"] | pairs_met["window-label"]
    if strict:
        wrong |= pairs_met["label-window"]
    counts = ", ".join(f"{name} {int(pairs.sum())}" for name, pairs in pairs_met.items())
    shared = feature_overlap(train, valid, LOOKBACK + window - 1) if len(valid) else math.nan
    detail = f"{len(train)} x {len(valid)} days; pairs that meet: {counts}; features share input days on {shared:.0%}"
    if wrong.any():
        t, v = np.argwhere(wrong)[0]
        pair = f"{days[train[t]].date()} and {days[valid[v]].date()}"
        detail += f"; first {pair}: a gap of {reach + (window - 1 if strict else 0)} trading days keeps them apart"
    return Finding("overlap", item, wrong.size, int(wrong.sum()), not wrong.any(), detail)


def judge_ic(ic: Array, horizon: int = 1) -> Finding:
    """Judge the daily IC (D,) of the scores in the shuffled market: within ERRORS standard errors of 0.

    Labels of `horizon` days overlap, and so every horizon-th day is judged, see `_mean_error`.
    """
    mean, error, bound, days = _mean_error(ic, horizon, ERRORS)
    text = f"IC {mean:.4f}, standard error {error:.4f}, t {mean / error if error > 0 else math.nan:.2f}"
    text += f" (at most {bound:.1f}) over {days} days" + (f", every {horizon}th" if horizon > 1 else "")
    proves = bool(error > 0 or (error == 0 and mean != 0))
    if not proves:
        text += "; that proves nothing: the scores are constant or the days too few (raise epochs, lengthen test)"
    passed = bool(error > 0 and abs(mean) < bound * error)
    return Finding("shuffled", "scores", days, int(proves and not passed), passed, text, proves)


def feature_ic(x: Array, label: Array, present: Array) -> npt.NDArray[np.float64]:
    """Correlate every feature with the label of the day, over present stocks with a label: (D, F), NaN if constant."""
    target, real = torch.from_numpy(label.astype(np.float64)), torch.from_numpy(present & np.isfinite(label))
    out = np.full((len(x), x.shape[2]), np.nan)
    for f in range(x.shape[2]):
        value = torch.from_numpy(x[:, :, f].astype(np.float64))
        out[:, f] = torch.where(varied_days(value, real), pearson(value, target, real), torch.nan).numpy()
    return out


def judge_features(ic: Array, names: list[str], horizon: int = 1) -> Finding:
    """Judge the daily IC (D, F) of single features in the shuffled market: within FEATURE_ERRORS of 0.

    Of the days, every horizon-th, as in `judge_ic`; features with fewer than MIN_DAYS known days are left out.
    """
    t, bound, means = np.full((3, len(names)), np.nan)
    for f in range(len(names)):
        if np.isfinite(ic[:, f]).sum() >= MIN_DAYS:
            mean, error, bound[f], _ = _mean_error(ic[:, f], horizon, FEATURE_ERRORS)
            if math.isfinite(error):
                means[f], t[f] = mean, mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0
    bad = np.abs(t) > bound
    order = [f for f in np.argsort(-np.nan_to_num(np.abs(t), nan=-1.0), kind="stable") if np.isfinite(means[f])]
    shown = [f for f in order if bad[f]][:12] or order[:1]
    words = ", ".join(f"{names[f]} (IC {means[f]:.4f}, t {t[f]:.1f})" for f in shown)
    if not order:
        words = f"no feature has an IC on {MIN_DAYS} days, {FEWEST} of them {horizon} days apart: lengthen the segments"
        return Finding("shuffled", "features", 0, 0, False, words, proves=False)
    detail = f"features that know the label: {words}" if bad.any() else f"largest {words}"
    return Finding("shuffled", "features", len(order), int(bad.sum()), not bad.any(), detail)


def judge_good(ics: dict[str, Array], names: list[str], horizon: int = 1) -> Finding:
    """Ask whether a feature is too good to be true: mean |IC| above TOO_GOOD on the days of training.

    A file that is dated too early, or holds a later return, shows in nothing but this. It proves no leak.

    Args:
        ics: daily IC (D, F) with each of the returns named.
        names: of the F features.
        horizon: days of a label; every horizon-th day is judged.
    """
    found, largest = [], (0.0, "no feature has an IC")
    for what, ic in ics.items():
        for f, name in enumerate(names):
            mean, error, _, days = _mean_error(ic[:, f], horizon, FEATURE_ERRORS)
            text = f"{name} (IC {mean:.3f} with {what})"
            if days >= FEWEST and abs(mean) > largest[0]:
                largest = (abs(mean), text)
            if abs(mean) > TOO_GOOD and abs(mean) > FEATURE_ERRORS * error:
                found.append((abs(mean), text))
    shown = ", ".join(text for _, text in sorted(found, reverse=True)[:12])
    detail = f"largest {largest[1]}"
    if found:
        detail = f"above {TOO_GOOD}: {shown}; does the value know a later price, or is it dated too early (lag)?"
    return Finding("future", "too good", len(names), len(found), not found, detail, proves=False)


def _mean_error(ic: Array, horizon: int, errors: float) -> tuple[float, float, float, int]:
    """Average a daily IC (D,) over every horizon-th day: mean, its standard error, the bound in errors, the days.

    The bound is as likely by chance as `errors` of a normal number (Student's t); NaN with fewer days than FEWEST.
    """
    values = ic[::horizon]
    values = values[np.isfinite(values)]
    days = len(values)
    if days < FEWEST:
        return math.nan, math.nan, math.nan, days
    bound = float(student.isf(normal.sf(errors), days - 1))
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(days)), bound, days


def _scale(values: Array) -> Array:
    """Mean size of each feature (F,) over at most some 200 days."""
    some = np.abs(np.asarray(values[:: max(1, len(values) // 200)], dtype=np.float64))
    some = some.reshape(-1, values.shape[2] if values.ndim == 3 else 1)
    finite = np.isfinite(some)
    return np.where(finite, some, 0.0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)


def _by_day(grid: Grid, days: Array, stocks: Array, fill: Any) -> Any:
    """Give (N, F) float64 of each day, on the given stocks."""
    row = pd.Index(grid.days).get_indexer(pd.Index(days))
    column = pd.Index(grid.stocks.astype(str)).get_indexer(pd.Index(stocks))
    for r in row:
        out = np.full((len(stocks), len(grid.names)), float(fill))
        if r >= 0:
            day = np.asarray(grid.values[r], dtype=np.float64).reshape(len(grid.stocks), -1)
            out[column >= 0] = day[column[column >= 0]]
        yield out


def _differs(a: Array, b: Array, scale: Array, tolerance: float = TOLERANCE) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        near = (np.abs(a - b) <= tolerance * (scale + np.abs(a))) | (a == b)
    return np.asarray(~near & ~(np.isnan(a) & np.isnan(b)))
