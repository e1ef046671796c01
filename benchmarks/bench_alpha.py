"""Time qlib's own Alpha158 loader (two processes) against FastAlphaLoader in one run, with the peak memory of each.

    python -m benchmarks.bench_alpha [PROVIDER] [--market all] [--start 2021-01-01] [--end 2022-12-31]
        [--what fast qlib daily expressions]

Each runs in a process of its own; its peak memory is that of the process plus, for each worker, that of the largest
worker. The fast loaders are timed once their kernels are compiled (later processes find them in the cache); the time
that took is printed apart. "daily" are all factors of FastDaily, "expressions" those ten of them that qlib's engine can
say, by that engine: they are compared by the time of one factor.
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
KINDS = ("fast", "qlib", "daily", "expressions")
PRICES = ("open", "high", "low", "close", "volume")
MOVE = "($close/Ref($close, 1) - 1)"
EXPRESSIONS = {
    "OVN20": "Mean(Log($open/Ref($close, 1)), 20)",
    "MOM250": "Log(Ref($close, 20)/Ref($close, 250))",
    "HIGH250": "Log($close/Max($high, 250))",
    "DAYMAX20": f"Max({MOVE}, 20)",
    "VOL60": f"Std({MOVE}, 60)",
    "SKEW250": f"Skew({MOVE}, 250)",
    "PARKINSON20": "Power(Mean(Power(Log($high/$low), 2), 20)/2.7726, 0.5)",
    "AMIHUD60": f"Log(Mean(Abs({MOVE})/($close*$volume), 60))",
    "VALUECV20": "Std($close*$volume, 20)/Mean($close*$volume, 20)",
    "CORRV60": f"Corr({MOVE}, Log($volume), 60)",
}


def loaders(provider: str, kind: str) -> Callable[..., Any]:
    """Start qlib on a provider and build a loader of factors and Alpha158's label, of the kinds of `--what`."""
    import qlib
    from qlib.contrib.data.loader import Alpha158DL
    from qlib.data.dataset.loader import QlibDataLoader

    from qlib_ext.features import DAILY_NAMES
    from qlib_ext.handler import LABEL, FastAlphaLoader

    qlib.init(provider_uri=provider, region="cn", kernels=PROCESSES)
    features = {"expressions": ([*EXPRESSIONS.values()], [*EXPRESSIONS]), "daily": ([], [])}
    fields = {"feature": features.get(kind) or Alpha158DL.get_feature_config(), "label": ([LABEL], ["LABEL0"])}
    if kind in ("qlib", "expressions"):
        return QlibDataLoader(fields).load
    return FastAlphaLoader(fields, daily=DAILY_NAMES if kind == "daily" else ()).load


def measure(kind: str, options: argparse.Namespace, result: Any) -> None:
    """Put (rows, factors, seconds, peak KiB, compile seconds) of one loader into `result`."""
    load, compiled = loaders(options.provider, kind), 0.0
    if kind in ("fast", "daily"):
        from qlib_ext.features import alpha158, daily_factors

        started, one = time.perf_counter(), np.ones((2, 1))
        if kind == "fast":
            alpha158(*[one] * 6)
        else:
            daily_factors(dict.fromkeys(PRICES, one), ["SH600000"], ["2020-01-02", "2020-01-03"])
        compiled = time.perf_counter() - started
    started = time.perf_counter()
    frame = load(options.market, options.start, options.end)
    seconds = time.perf_counter() - started
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    result.put((*frame["feature"].shape, seconds, own + PROCESSES * worker, compiled))


def main() -> None:
    """Measure the loaders and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("provider", nargs="?", help="qlib provider folder; by default the embedded market")
    parser.add_argument("--market", default="all")
    parser.add_argument("--start")
    parser.add_argument("--end")
    parser.add_argument("--what", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    options.provider = str(Path(options.provider).expanduser()) if options.provider else str(ensure_market())
    context = multiprocessing.get_context("spawn")
    seconds, each = {}, {}
    for kind in options.what:
        result = context.Queue()
        process = context.Process(target=measure, args=(kind, options, result))
        process.start()
        rows, factors, seconds[kind], peak, compiled = result.get()
        each[kind] = seconds[kind] / factors
        process.join()
        extra = f", {compiled:.1f} s to compile or load the kernels before" if compiled else ""
        words = f"{kind}: {rows} rows of {factors} factors in {seconds[kind]:.2f} s"
        print(f"{words}, peak memory {peak / 2**20:.2f} GiB{extra}\n")
    if {"fast", "qlib"} <= set(seconds):
        print(f"the fast loader is {seconds['qlib'] / seconds['fast']:.0f} times as fast")
    if {"daily", "expressions"} <= set(seconds):
        print(f"a factor of FastDaily takes a {each['expressions'] / each['daily']:.0f}th of one of qlib's engine")


if __name__ == "__main__":
    main()
