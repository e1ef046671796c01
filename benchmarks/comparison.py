"""What the comparisons of variants over seeds share: train one, judge it on the test days, the table of means."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.bench_step import table
from qlib_ext.judge import Money, judge
from qlib_ext.panel import DayPanel


def measure(dataset: Any, panel: DayPanel, model: Any) -> dict[str, float]:
    """Train a model and judge it on the test days; money in basis points a day, over the mean stock."""
    rows, start = dataset.rows("test"), time.perf_counter()
    model.fit_rows(panel, dataset.step_len, dataset.rows("train"), dataset.rows("valid"))
    best = model.history.epochs[model.history.best_epoch - 1]
    found = judge(panel, rows, model.trainer.predict(panel, rows).astype(np.float64), Money(), dataset.span)
    daily, net = found.daily, found.returns["capped_buyable_net_over_market"]
    return {
        "valid_rank_ic": best["rank_ic"],
        "valid_excess": 1e4 * best["capped_excess"],
        "ic": daily["ic"].mean(),
        "rank_ic": daily["rank_ic"].mean(),
        "gross_excess": 1e4 * daily["capped_excess"].mean(),
        "error": 1e4 * daily["capped_excess"].sem(),
        "net_excess": 1e4 * net.mean(),
        "exposure": daily["volatility_exposure"].mean(),
        "names": daily["capped_names_held"].mean(),
        "epoch": model.history.best_epoch,
        "seconds": time.perf_counter() - start,
    }


def compare(what: str, names: Iterable[str], seeds: Iterable[int], run: Callable[[str, int], dict[str, float]]) -> None:
    """Run each name with each seed; print a line each, then the table of means (standard deviation over seeds)."""
    lines = []
    for seed in seeds:
        for name in names:
            row = run(name, seed)
            lines.append({what: name, **row})
            print(name, seed, {k: round(float(v), 4) for k, v in row.items()}, flush=True)
    frame = pd.DataFrame(lines).groupby(what, sort=False)
    mean, spread = frame.mean(), frame.std()
    cells = [[str(n), *(f"{mean.loc[n, c]:.3f} ({spread.loc[n, c]:.3f})" for c in mean)] for n in mean.index]
    print(table([what, *mean.columns], cells))
