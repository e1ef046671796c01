"""Compare MASTER's attention among the stocks, full or induced, on the same days, several seeds each.

    export QLIB_EXT_PROVIDER_URI=... QLIB_EXT_UNIVERSE=csi300
    python -m studies.networks --seeds 0 1 2 --options '{"d_model": 32, "epochs": 4}'

Data and days come from the environment variables of the workflows (QLIB_EXT_TRAIN, _VALID, _TEST); dataset and loss are
those of `master_liq.yaml`, with weights by the score. Each model is stopped on the validation days, then judged on the
test days by the judge of the records, after fees and without impact. Nothing is chosen on the test days.
"""

from pathlib import Path
from typing import Any

from studies.comparison import compare_options

WORKFLOW = Path(__file__).parents[1] / "workflows" / "master_liq.yaml"
VARIED = ("inter", "inducing", "weight_by", "patience", "seed")
VARIANTS: dict[str, dict[str, Any]] = {
    name: options | {"weight_by": "score", "patience": 4}
    for name, options in {
        "full": {},
        "induced, 8 points": {"inter": "induced", "inducing": 8},
        "induced, 32 points": {"inter": "induced"},
    }.items()
}


def main() -> None:
    """Train all variants and seeds; print a line each, then the table of means (deviation over seeds)."""
    compare_options(__doc__, "network", VARIANTS, VARIED, workflow=WORKFLOW)


if __name__ == "__main__":
    main()
