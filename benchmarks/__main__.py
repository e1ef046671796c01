"""Run the benchmarks on this machine's CPU and write benchmarks/results.md: `make bench` (about 20 minutes).

    python -m benchmarks [--quick] [--write FILE]

`--quick` leaves out the largest markets. GPU: `python -m benchmarks.bench_step --device cuda ...` (see bench_step).
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from qlib_ext.trainer import pick_precision

RESULTS = Path(__file__).parent / "results.md"
PRECISIONS = list(dict.fromkeys(["float32", pick_precision("auto", torch.device("cpu"))]))
STEP = ["bench_step", "--precision", *PRECISIONS, "--present", "0.97", "--repeats", "3", "--stocks", "300", "1000"]
PARTS = {
    "MASTER, a training step (d_model 256, T 8, F 158)": (STEP, ["2500", "5000"]),
    "MASTER, how a step grows": (["bench_scaling", "--write", "docs/scaling.png", "--profile"], []),
    "Alpha158, the embedded market": (["bench_alpha"], []),
    "Panel and MLP": (["bench_panel"], []),
    "Backtest, the embedded market": (["bench_backtest"], []),
    "Allocation and metrics": (["bench_metrics"], []),
}


def main() -> None:
    """Run each part in a process of its own; print as it goes, write at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path, default=RESULTS)
    options = parser.parse_args()
    text = "# Benchmarks\n\nWritten by `make bench`; other work on the machine shows in the load average.\n"
    for title, (command, large) in PARTS.items():
        print(f"{title} ...", file=sys.stderr)
        words = [f"benchmarks.{command[0]}", *command[1:], *([] if options.quick else large)]
        done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, check=True)
        print(done.stdout)
        text += f"\n## {title}\n\n{done.stdout.strip()}\n"
    options.write.write_text(text)
    print(f"written: {options.write}", file=sys.stderr)


if __name__ == "__main__":
    main()
