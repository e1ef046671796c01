"""Time and memory from a handler's frame to a DayPanel, and of the MLP's epoch over it.

    python -m benchmarks.bench_panel [--days 485] [--stocks 5000] [--features 158]

The peak counts what the panel takes beyond the frame (Linux only), as a multiple of its own arrays. The reference is
qlib's way to one day's cross-section: frame.loc[day] and to_numpy for each day, once, without windows or masks.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.bench_step import table
from qlib_ext.losses import DayLoss
from qlib_ext.nets import MLP
from qlib_ext.panel import DayPanel
from qlib_ext.training import Trainer

MIB = 2**20


def make_frame(days: int, stocks: int, features: int) -> tuple[pd.DataFrame, pd.Series]:
    """Invent a handler's frame (97% of the stocks a day) and its label."""
    rng = np.random.default_rng(0)
    codes = [f"SH{600_000 + i}" for i in range(stocks)]
    full = pd.MultiIndex.from_product(
        [pd.bdate_range("2020-01-01", periods=days), codes], names=["datetime", "instrument"]
    )
    index = full[rng.random(len(full)) < 0.97]
    values = rng.standard_normal((len(index), features), dtype=np.float32)
    label = pd.Series(rng.normal(0, 0.02, len(index)).astype(np.float32), index=index)
    return pd.DataFrame(values, index=index, columns=[f"f{i}" for i in range(features)]), label


def resident(field: str) -> int:
    """Bytes that the process holds (VmRSS) or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for name, default in (("days", 485), ("stocks", 5000), ("features", 158)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    frame, label = make_frame(options.days, options.stocks, options.features)
    started = time.perf_counter()
    for day in frame.index.get_level_values("datetime").unique():
        frame.loc[day].to_numpy()
    qlib_like = time.perf_counter() - started
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = resident("VmRSS"), time.perf_counter()
    panel = DayPanel.from_frame(frame, label)
    built, peak = time.perf_counter() - started, resident("VmHWM") - before
    own = sum(t.numel() * t.element_size() for t in (panel.x, panel.label, panel.present))
    del frame, label
    trainer = Trainer(MLP(options.features), DayLoss("wpcc"), metric="ic", device="cpu")
    optimiser = torch.optim.Adam(trainer.net.parameters(), lr=1e-3, fused=True)
    rows = np.arange(options.days)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        trainer.run_epoch(panel, rows, optimiser)
        times.append(time.perf_counter() - started)
    rows_of_table = [
        ["frame to cross-sections, day by day (pandas)", f"{qlib_like:.1f} s"],
        ["frame to DayPanel", f"{built:.1f} s"],
        ["peak beyond the frame", f"{peak / MIB:,.0f} MiB = {peak / own:.2f} x the panel's arrays"],
        ["MLP epoch, median of 3", f"{sorted(times)[1]:.1f} s"],
    ]
    print(table([f"{options.days} days x {options.stocks} stocks x {options.features} features", ""], rows_of_table))


if __name__ == "__main__":
    main()
