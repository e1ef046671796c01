"""Run the benchmarks on this machine's CPU and write benchmarks/results.md: `make bench` (about 20 minutes).

    python -m benchmarks [--quick] [--write FILE]

`--quick` leaves out the largest markets. Where QLIB_EXT_PROVIDER_URI (and QLIB_EXT_UNIVERSE) name a market of your own,
factors and backtest are measured on it too, on its days of 2021 and 2022. GPU: `python -m benchmarks.bench_step
--device cuda ...` (see bench_step).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.bench_step import machine
from qlib_ext.training import pick_precision

RESULTS = Path(__file__).parent / "results.md"
PRECISIONS = list(dict.fromkeys(["float32", pick_precision("auto", torch.device("cpu"))]))
STEP = ["bench_step", "--precision", *PRECISIONS, "--present", "0.97", "--repeats", "3", "--stocks", "300", "1000"]
PARTS = {  # title: (command, what the full run adds)
    "MASTER, a training step (d_model 256, T 8, F 158)": (STEP, ["2500", "5000"]),
    "MASTER, how a step grows": (["bench_scaling", "--write", "docs/scaling.png", "--profile"], []),
    "Alpha158, the embedded market": (["bench_alpha"], []),
    "Panel and MLP": (["bench_panel"], []),
    "Backtest, the embedded market": (["bench_backtest"], []),
    "Allocation and metrics": (["bench_metrics"], []),
    "The main job by phase, the embedded market": (["bench_run"], []),
}


def parts_of_provider() -> dict[str, tuple[list[str], list[str]]]:
    """Parts that run on the market that the environment names; none where it names none."""
    provider = os.environ.get("QLIB_EXT_PROVIDER_URI")
    if not provider:
        return {}
    on = [provider, "--market", os.environ.get("QLIB_EXT_UNIVERSE") or "all"]
    year, years = ["--start", "2022-01-04"], ["--start", "2021-01-01"]
    return {
        "Alpha158, one year of the whole market (real data)": (["bench_alpha", *on, *year, "--end", "2022-12-31"], []),
        "Alpha158, two years of it, ours alone": (["bench_alpha", *on, *years, "--what", "fast"], []),
        "Backtest, the whole market (real data)": (["bench_backtest", *on, *year, "--end", "2022-12-23"], []),
    }


def main() -> None:
    """Run each part in a process of its own; print as it goes, write at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", type=Path, default=RESULTS)
    options = parser.parse_args()
    text = f"# Benchmarks\n\nWritten by `make bench`. {machine('cpu')}\n"
    embedded = {name: value for name, value in os.environ.items() if not name.startswith("QLIB_EXT_")}
    for title, (command, large) in (PARTS | parts_of_provider()).items():
        print(f"{title} ...", file=sys.stderr)
        words = [f"benchmarks.{command[0]}", *command[1:], *([] if options.quick else large)]
        done = subprocess.run(
            [sys.executable, "-m", *words], stdout=subprocess.PIPE, text=True, check=True, env=embedded
        )
        print(done.stdout)
        text += f"\n## {title}\n\n{done.stdout.strip()}\n"
    options.write.write_text(text)
    print(f"written: {options.write}", file=sys.stderr)


if __name__ == "__main__":
    main()
