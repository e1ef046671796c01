"""Time the allocation and the metrics of a year of the whole market against plain references, in one run, as a table.

    OMP_NUM_THREADS=1 python benchmarks/bench_metrics.py [--days 243] [--stocks 5000] [--runs 7]

Scores, labels and liquidity are float32, as a network and the panel have them; 3% of the scores and of the labels are
missing. The references are what one would write first: pandas `groupby(day).apply` with `corr`, `rank` and `nlargest`
for the correlations, a loop over the days in numpy for the rest. Each must agree with what it is compared with.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from qlib_ext.evaluate import daily_metrics
from qlib_ext.losses import ALPHA, BASE
from qlib_ext.portfolio import CAPITAL, PARTICIPATION, fill_top_n

Grid = npt.NDArray[np.float32]
Days = npt.NDArray[np.float64]


def market(days: int, stocks: int) -> tuple[Grid, Grid, Grid]:
    """Draw score, label and liquidity, (D, N) each."""
    rng = np.random.default_rng(0)
    score, label = rng.normal(size=(2, days, stocks))
    score[rng.random(score.shape) < 0.03] = label[rng.random(label.shape) < 0.03] = np.nan
    liquidity = np.exp(rng.normal(17.5, 1.3, size=score.shape))
    return score.astype(np.float32), (0.02 * label).astype(np.float32), liquidity.astype(np.float32)


def fill_loop(score: Grid, liquidity: Grid) -> Days:
    """Walk down each day's ranking until the capital is placed, (D, N) yuan."""
    yuan = np.zeros(score.shape)
    for day, (s, q) in enumerate(zip(score.astype(float), liquidity.astype(float), strict=True)):
        order = np.argsort(-s, kind="stable")  # NaN comes last
        cap = np.where(np.isnan(s[order]), 0.0, PARTICIPATION * q[order])
        yuan[day, order] = np.minimum(cap, np.maximum(CAPITAL - np.cumsum(cap) + cap, 0.0))
    return yuan


def capped_loop(score: Grid, label: Grid, liquidity: Grid) -> Days:
    """Return of the allocation on the capital, (D,)."""
    return (fill_loop(score, liquidity) * np.nan_to_num(label.astype(float))).sum(axis=1) / CAPITAL


def by_day(grids: tuple[Grid, Grid, Grid], function: Callable[[pd.DataFrame], float]) -> Days:
    """Apply a function to each day's rows of a long frame (score, label, liquidity)."""
    day = np.repeat(np.arange(len(grids[0])), grids[0].shape[1])
    frame = pd.DataFrame(dict(zip("srq", (g.ravel().astype(float) for g in grids), strict=True)))
    return frame.groupby(day).apply(function).to_numpy(dtype=float)


def top(day: pd.DataFrame) -> float:
    """IC of the top fifth of the scores."""
    scored = day.dropna(subset="s")
    best = scored.nlargest(-(-len(scored) // 5), "s")
    return best["s"].corr(best["r"])


def weighted(day: pd.DataFrame, weight: pd.Series) -> float:
    """Correlate under weights."""
    cov = np.cov(day["s"], day["r"], aweights=weight)
    return cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])


def wpcc(day: pd.DataFrame) -> float:
    """Weigh by the rank of the label."""
    day = day.dropna()
    return weighted(day, BASE ** ((day["r"].rank(ascending=False, method="first") - 1) / (len(day) - 1)))


def liq_wpcc(day: pd.DataFrame) -> float:
    """Weigh by label and liquidity."""
    day = day.dropna()
    log = np.log(day["q"])
    level = (log - log.min()) / (log.max() - log.min())
    return weighted(day, 0.5 + 0.5 / (1 + np.exp(-ALPHA * level * day["r"])))


def timed(function: Callable[[], Days], runs: int) -> tuple[float, Days]:
    """Median milliseconds of some runs after one that is not counted, and the result."""
    value, seconds = function(), []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds), value


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for name, default in (("days", 243), ("stocks", 5000), ("runs", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    grids = market(options.days, options.stocks)
    score, label, liquidity = grids
    spearman = "pandas groupby.apply rank, corr"
    references: dict[str, tuple[str, Callable[[], Days]]] = {
        "fill_top_n": ("numpy loop over days", lambda: fill_loop(score, liquidity)),
        "ic": ("pandas groupby.apply corr", lambda: by_day(grids, lambda day: day["s"].corr(day["r"]))),
        "rank_ic": (spearman, lambda: by_day(grids, lambda day: day[["s", "r"]].dropna().rank().corr().iloc[0, 1])),
        "top20_ic": ("pandas groupby.apply nlargest, corr", lambda: by_day(grids, top)),
        "wpcc": ("pandas groupby.apply rank, np.cov", lambda: by_day(grids, wpcc)),
        "liq_wpcc": ("pandas groupby.apply np.cov", lambda: by_day(grids, liq_wpcc)),
        "capped_return": ("numpy loop over days", lambda: capped_loop(*grids)),
    }
    print(f"{options.days} days x {options.stocks} stocks, torch threads {torch.get_num_threads()}, ms\n")
    print("| number | qlib_ext | reference | times | reference is |\n|---|---:|---:|---:|---|")
    for name, (words, reference) in references.items():
        fast: Callable[[], Days] = (
            (lambda: fill_top_n(score, liquidity))
            if name == "fill_top_n"
            else (lambda name=name: daily_metrics(*grids, names=[name])[name].to_numpy())  # type: ignore[misc]
        )
        own, value = timed(fast, options.runs)
        plain, expected = timed(reference, options.runs)
        scale = CAPITAL if name == "fill_top_n" else 1.0
        np.testing.assert_allclose(value / scale, expected / scale, rtol=1e-9, atol=1e-12)
        print(f"| {name} | {own:.0f} | {plain:.0f} | {plain / own:.1f} | {words} |")


if __name__ == "__main__":
    main()
