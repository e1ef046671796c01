"""Compare losses, targets and weights on one dataset: the table "What the losses do" of the README.

    python -m benchmarks.compare_losses workflows/mlp_liq.yaml --seeds 0 1 2 --options '{"dropout": 0.1, "lr": 0.001}'

Data come from the environment variables of the workflows. Dataset and model are the workflow's; loss, target, weight_by
and base are varied. Each model is stopped on the validation days as the workflow says, then judged on the test days by
the judge of the records, after fees and without impact.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import qlib
from qlib.utils import init_instance_by_config

from benchmarks.comparison import compare, measure
from qlib_ext.leak import load_workflow

VARIED = ("loss", "target", "weight_by", "base", "seed")
VARIANTS: dict[str, dict[str, Any]] = {
    "IC, rank": {"loss": "ic", "target": "rank"},
    "IC, volatility": {"loss": "ic", "target": "volatility"},
    "IC, raw": {"loss": "ic"},
    "MSE, rank": {"loss": "mse", "target": "rank"},
    "MSE, raw": {"loss": "mse"},
    "WPCC, rank, by score": {"loss": "wpcc", "target": "rank", "weight_by": "score"},
    "WPCC, rank, by score, base 0.1": {"loss": "wpcc", "target": "rank", "weight_by": "score", "base": 0.1},
    "WPCC, rank, by label": {"loss": "wpcc", "target": "rank"},
    "WPCC, volatility, by target": {"loss": "wpcc", "target": "volatility", "weight_by": "target"},
    "WPCC, volatility, by label": {"loss": "wpcc", "target": "volatility"},
    "WPCC, raw, by label (the deck)": {"loss": "wpcc"},
    "LIQ-WPCC, rank, by score": {"loss": "liq_wpcc", "target": "rank", "weight_by": "score"},
    "LIQ-WPCC, rank, by label": {"loss": "liq_wpcc", "target": "rank"},
    "LIQ-WPCC, volatility, by target": {"loss": "liq_wpcc", "target": "volatility", "weight_by": "target"},
    "LIQ-WPCC, volatility, by label": {"loss": "liq_wpcc", "target": "volatility"},
    "LIQ-WPCC, raw, by label (the deck)": {"loss": "liq_wpcc"},
}


def main() -> None:
    """Train all variants and seeds; print a line each, then the table of means (deviation over seeds)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("workflow", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--options", type=json.loads, default={}, help="of the model, as JSON")
    arguments = parser.parse_args()
    workflow = load_workflow(arguments.workflow)
    qlib.init(**workflow["qlib_init"])
    dataset = init_instance_by_config(workflow["task"]["dataset"])
    config = workflow["task"]["model"]
    fixed = {k: v for k, v in config["kwargs"].items() if k not in VARIED} | arguments.options
    print(f"{dataset.panel}; test {len(dataset.rows('test'))} days; model {config['class']} {fixed}", flush=True)

    def run(name: str, seed: int) -> dict[str, float]:
        kwargs = {**fixed, **VARIANTS[name], "seed": seed}
        return measure(dataset, dataset.panel, init_instance_by_config({**config, "kwargs": kwargs}))

    compare("variant", arguments.variants, arguments.seeds, run)


if __name__ == "__main__":
    main()
