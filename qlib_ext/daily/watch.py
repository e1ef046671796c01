"""What is watched from day to day: bars that were issued again, the population of the features, the realised IC.

``D`` days, ``N`` stocks, ``F`` features.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.evaluate import daily_metrics, newey_west
from qlib_ext.panel import DayPanel
from qlib_ext.provider import read_fields

FIELDS = ("$open", "$high", "$low", "$close", "$volume", "$amount", "$factor")
BLOCK = 20  # days whose population is looked at together
LARGE = 0.25  # of a PSI, as practice has it
LEAST_SHARE = 1e-4  # of a bin: an empty one would be infinite
LEAST_DAYS = 20  # with a realised IC, before it is held against that of the test
SIGMAS = 2.5  # by which the realised IC is below that of the test: 2% of the evenings on which nothing has changed
REACH = 4  # times the label's days: lags of the test's error, see `newey_west`
FLAT = (0.01, 0.99)  # quantiles of a day's stocks that are equal where a feature is as good as constant

Grid = npt.NDArray[Any]


# --- bars


def recent_bars(codes: list[str], days: pd.DatetimeIndex) -> pd.DataFrame:
    """Read the bars of some days as the provider has them now: (datetime, instrument) x `FIELDS`, float32."""
    raw = read_fields(codes, FIELDS, days[0], days[-1])
    frame = pd.concat({field: grid.stack(future_stack=True) for field, grid in raw.items()}, axis=1)
    return frame.rename_axis(["datetime", "instrument"])


def corrections(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """List the bars that are others than before: datetime, instrument, field, old, new; days and stocks of both.

    >>> index = pd.MultiIndex.from_product([panel.days[:1], ["SH600000"]], names=["datetime", "instrument"])
    >>> old, new = (pd.DataFrame({"$close": [price], "$volume": [3.0]}, index) for price in (10.0, 10.5))
    >>> corrections(old, new)[["instrument", "field", "old", "new"]].to_numpy().tolist()
    [['SH600000', '$close', 10.0, 10.5]]
    """
    both = before.index.intersection(now.index)
    old, new = before.loc[both], now.loc[both, before.columns]
    row, column = np.nonzero(((old != new) & ~(old.isna() & new.isna())).to_numpy())
    table = both.to_frame(index=False).iloc[row].reset_index(drop=True)
    table["field"] = before.columns.to_numpy()[column]
    return table.assign(old=old.to_numpy()[row, column], new=new.to_numpy()[row, column])


# --- features


@dataclass(frozen=True)
class Reference:
    """The population of the features on the days that the run was judged on.

    Attributes:
        features: F names.
        edges: (F, 9) deciles.
        shares: (F, 10) share of the stock days in each bin.
        highest: days looked at together -> (F,) highest PSI of so many days of the reference itself.
        flat: (F,) whether a day of the reference had it as good as constant.
    """

    features: list[str]
    edges: Grid
    shares: Grid
    highest: dict[int, Grid]
    flat: Grid


def population(panel: DayPanel) -> Reference:
    """Describe the features of a panel's present stocks."""
    values = panel.x[panel.present].numpy()
    edges = np.quantile(values, np.arange(1, 10) / 10, axis=0).T
    counts = _counts(panel, edges)
    shares = _shares(counts.sum(axis=0))
    highest = {}
    for days in (1, BLOCK):
        whole = len(counts) // days * days
        blocks = counts[:whole].reshape(-1, days, *counts.shape[1:]).sum(axis=1)
        highest[days] = psi(_shares(blocks), shares).max(axis=0) if len(blocks) else np.zeros(len(edges))
    flat = np.any([_flat(panel, row) for row in range(len(counts))], axis=0)
    return Reference(list(panel.features), edges, shares, highest, flat)


def psi(actual: Grid, expected: Grid) -> Grid:
    """Compute the population stability index of shares over the last axis, sum (a - e) ln(a / e).

    >>> round(float(psi(np.array([0.5, 0.5]), np.array([0.25, 0.75]))), 4)  # 0.25 ln 2 - 0.25 ln(2/3)
    0.2747
    """
    a, e = np.maximum(actual, LEAST_SHARE), np.maximum(expected, LEAST_SHARE)
    return np.asarray(((a - e) * np.log(a / e)).sum(axis=-1))


def drift(reference: Reference, panel: DayPanel) -> pd.DataFrame:
    """Hold the features of a panel's last day, and of its last `BLOCK` days, against the reference.

    Returns: by feature, the largest excess first: psi, psi_block, drifted: one of them is above `LARGE` and above
        twice the highest that as many days of the reference itself had, and lost: as good as constant on the last day,
        as on no day of the reference. (The psi of a feature with few values is large on any day.)
    """
    counts = _counts(panel, reference.edges)
    table = pd.DataFrame(index=pd.Index(reference.features, name="feature"))
    excess = np.zeros(len(table))
    for name, days in (("psi", 1), ("psi_block", BLOCK)):
        table[name] = psi(_shares(counts[-days:].sum(axis=0)), reference.shares)
        bound = np.maximum(LARGE, 2.0 * reference.highest[days])
        excess = np.maximum(excess, table[name] / bound)
    table["lost"] = _flat(panel, len(counts) - 1) & ~reference.flat
    return table.assign(drifted=excess > 1.0).iloc[np.argsort(-excess, kind="stable")]


def _flat(panel: DayPanel, row: int) -> Grid:
    """Tell which features (F,) are as good as constant on a day: all but the ends of its stocks have one value."""
    values = panel.x[row][panel.present[row]].numpy()
    low, high = (round(share * (len(values) - 1)) for share in FLAT)
    parted = np.partition(values, (low, high), axis=0)
    return np.asarray(parted[low] == parted[high])


def _counts(panel: DayPanel, edges: Grid) -> Grid:
    """Count the present stocks by day, feature and bin, (D, F, 10)."""
    x, present, (days, bins) = panel.x.numpy(), panel.present.numpy(), (len(panel.days), edges.shape[1] + 1)
    day = np.nonzero(present)[0]
    out = np.empty((days, len(edges), bins))
    for f, own in enumerate(edges):
        place = np.searchsorted(own, x[..., f][present], side="right")
        out[:, f] = np.bincount(day * bins + place, minlength=days * bins).reshape(days, bins)
    return out


def _shares(counts: Grid) -> Grid:
    return np.asarray(counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1.0))


# --- the score


def live_ic(
    scores: pd.Series, labels: pd.Series, tested: pd.Timestamp, days: int, horizon: int = 1
) -> dict[str, float]:
    """Hold the IC of days after the test against that of the test.

    Both are taken for days of one process: the error of their difference is sqrt(1 + test's days / days) times that of
    the test's mean. The few days after it do not know their own, where labels overlap.

    Args:
        scores: by (datetime, instrument).
        labels: raw labels likewise, NaN where not known yet.
        tested: last day of the test.
        days: most days after it, the last ones that have a label.
        horizon: days of the label.

    Returns: ic and ic_days of the days after the test, ic_test, and ic_gap: how many standard errors of the difference
        (Newey and West) the IC is above that of the test; NaN where there are fewer than `LEAST_DAYS` days.
    """
    both = pd.concat({"score": scores, "label": labels}, axis=1, join="inner").dropna()
    out = {"ic": math.nan, "ic_days": 0, "ic_test": math.nan, "ic_gap": math.nan}
    if both.empty:
        return out
    grids = {name: both[name].unstack("instrument") for name in both}
    daily = daily_metrics(grids["score"].to_numpy(), grids["label"].to_numpy(), names=["ic"])["ic"].to_numpy()
    late = (grids["label"].index > tested).astype(bool)
    live, test = daily[late][-days:], daily[~late]
    known, judged = (int(np.isfinite(part).sum()) for part in (live, test))
    lags = max(horizon - 1, min(REACH * horizon, judged // 4))
    (ic, *_), (ic_test, error, _) = newey_west(live), newey_west(test, lags, horizon=horizon)
    out |= {"ic": ic, "ic_days": known, "ic_test": ic_test}
    if known >= LEAST_DAYS:
        out["ic_gap"] = (ic - ic_test) / (error * math.sqrt(1.0 + judged / known))
    return out
