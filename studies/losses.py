"""Compare losses, targets and weights on one dataset: the table of docs/losses.md.

    python -m studies.losses workflows/mlp_liq.yaml --seeds 0 1 2 --options '{"dropout": 0.1, "lr": 0.001}'

Data come from the environment variables of the workflows. Dataset and model are the workflow's; loss, target, weight_by
and base are varied. Each model is stopped on the validation days as the workflow says, then judged on the test days by
the judge of the records, after fees and without impact.
"""

from typing import Any

from studies.comparison import compare_options

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
    compare_options(__doc__, "variant", VARIANTS, VARIED)


if __name__ == "__main__":
    main()
