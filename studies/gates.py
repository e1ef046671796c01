"""Compare no gate, the index gate and the macro gate of MASTER on the same days, several seeds each.

    export QLIB_EXT_PROVIDER_URI=... QLIB_EXT_UNIVERSE=csi300 QLIB_EXT_MACRO=.../macro.csv
    python -m studies.gates --seeds 0 1 2 --options '{"d_model": 32, "epochs": 8}'

Data and days come from the environment variables of the workflows (QLIB_EXT_TRAIN, _VALID, _TEST); features and loss
are those of `master_macro.yaml`, the index features those of `market_state: true`. Each model is stopped on the
validation days and judged on the test days, money by the judge of the records: excess over the mean stock, in basis
points a day, gross and after fees, without impact. Nothing is chosen on the test days. "moved" is the deviation of the
gate's weights over the test days, mean over features: 0 means that the gate ignores the market's state. At the same
seed the networks with and without a gate start from different values (see `nets.MASTER`): compare the means over seeds.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from qlib_ext.data import load_state
from qlib_ext.panel import DayPanel, MarketState
from studies.comparison import compare, measure, opened, parser

WORKFLOW = Path(__file__).parents[1] / "workflows" / "master_macro.yaml"
VARIED = ("gate", "seed")
GATES = ("none", "index", "macro", "both")


def states(dataset: Any, indices: list[str] | None) -> dict[str, pd.DataFrame]:
    """Market features of each kind of gate, day x M; none of them for no gate."""
    days = pd.DatetimeIndex(dataset.panel.days)
    wanted = MarketState(indices=None if indices is None else tuple(indices))
    index, macro = load_state(wanted, None, days), load_state(None, dataset.macro_state, days)
    if index is None or macro is None:
        raise ValueError("the workflow's dataset has no macro_state: use master_macro.yaml")
    return {"none": macro, "index": index, "macro": macro, "both": pd.concat([index, macro], axis=1)}


def with_market(panel: DayPanel, market: pd.DataFrame) -> DayPanel:
    """Return the panel with these market features, (D, M), and their names."""
    values = torch.tensor(market.to_numpy(), dtype=torch.float32)
    return replace(panel, market=values, market_features=[str(name) for name in market.columns])


def moved(panel: DayPanel, rows: np.ndarray, gate: Any) -> float:
    """Deviation of the gate's weights over the days, mean over features; 0 without a gate."""
    if gate is None or panel.market is None:
        return 0.0
    with torch.no_grad():
        return float(gate(panel.market[torch.as_tensor(rows)].to(gate.center)).std(0).mean())


def main() -> None:
    """Train all gates and seeds; print a line each, then the table of means (standard deviation over seeds)."""
    asked = parser(__doc__, workflow=WORKFLOW)
    asked.add_argument("--gates", nargs="+", default=list(GATES[:3]), choices=GATES)
    asked.add_argument("--indices", nargs="+", help="of the index gate; default: the official ones that are there")
    arguments = asked.parse_args()
    dataset, make = opened(arguments, VARIED)
    known = states(dataset, arguments.indices)

    def run(gate: str, seed: int) -> dict[str, float]:
        model = make(gate=gate != "none", seed=seed)
        panel = with_market(dataset.panel, known[gate])
        found = measure(dataset, panel, model)
        return found | {"moved": moved(panel, dataset.rows("test"), model.trainer.net.gate)}

    compare("gate", arguments.gates, arguments.seeds, run)


if __name__ == "__main__":
    main()
