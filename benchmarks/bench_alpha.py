"""Time qlib's own Alpha158 loader (two processes) against FastAlphaLoader in one run, with the peak memory of each.

    python -m benchmarks.bench_alpha [PROVIDER] [--market all] [--start 2021-01-01] [--end 2022-12-31]
        [--what fast qlib]

Each runs in a process of its own; its peak memory is that of the process plus, for each worker, that of the largest
worker. The fast loader is timed once its kernels are compiled (later processes find them in the cache); the time that
took is printed apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qlib_ext.synthetic import ensure_market

PROCESSES = 2


def loaders(provider: str, kind: str) -> Callable[..., Any]:
    """Start qlib on a provider and build a loader of Alpha158 and its label: "qlib" or "fast"."""
    import qlib
    from qlib.contrib.data.loader import Alpha158DL
    from qlib.data.dataset.loader import QlibDataLoader

    from qlib_ext.handler import LABEL, FastAlphaLoader

    qlib.init(provider_uri=provider, region="cn", kernels=PROCESSES)
    fields = {"feature": Alpha158DL.get_feature_config(), "label": ([LABEL], ["LABEL0"])}
    return {"qlib": QlibDataLoader, "fast": FastAlphaLoader}[kind](fields).load


def measure(kind: str, options: argparse.Namespace, result: Any) -> None:
    """Put (rows, seconds, peak KiB, compile seconds) of one loader into `result`."""
    load, compiled = loaders(options.provider, kind), 0.0
    if kind == "fast":
        from qlib_ext.features import alpha158

        started = time.perf_counter()
        alpha158(*np.ones((6, 2, 1)))
        compiled = time.perf_counter() - started
    started = time.perf_counter()
    frame = load(options.market, options.start, options.end)
    seconds = time.perf_counter() - started
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    result.put((len(frame), seconds, own + PROCESSES * worker, compiled))


def main() -> None:
    """Measure both loaders and print the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("provider", nargs="?", help="qlib provider folder; by default the embedded market")
    parser.add_argument("--market", default="all")
    parser.add_argument("--start")
    parser.add_argument("--end")
    parser.add_argument("--what", nargs="+", choices=("fast", "qlib"), default=["fast", "qlib"])
    options = parser.parse_args()
    options.provider = str(Path(options.provider).expanduser()) if options.provider else str(ensure_market())
    context = multiprocessing.get_context("spawn")
    seconds = {}
    for kind in options.what:
        result = context.Queue()
        process = context.Process(target=measure, args=(kind, options, result))
        process.start()
        rows, seconds[kind], peak, compiled = result.get()
        process.join()
        extra = f", {compiled:.1f} s to compile or load the kernels before" if compiled else ""
        print(f"{kind}: {rows} rows in {seconds[kind]:.2f} s, peak memory {peak / 2**20:.2f} GiB{extra}\n")
    if len(seconds) > 1:
        print(f"the fast loader is {seconds['qlib'] / seconds['fast']:.0f} times as fast")


if __name__ == "__main__":
    main()
