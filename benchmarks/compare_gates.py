"""Compare no gate, the index gate and the macro gate of MASTER on the same days, several seeds each.

    export QLIB_EXT_PROVIDER_URI=... QLIB_EXT_UNIVERSE=csi300 QLIB_EXT_MACRO=.../macro.csv
    python -m benchmarks.compare_gates --seeds 0 1 2 --options '{"d_model": 32, "epochs": 8}'

Data and days come from the environment variables of the workflows (QLIB_EXT_TRAIN, _VALID, _TEST); features and loss
are those of `master_macro.yaml`, the index features those of `market_state: true`. Each model is stopped on the
validation days and judged on the test days, money by the judge of the records: excess over the mean stock, in basis
points a day, gross and after fees, without impact. Nothing is chosen on the test days. "moved" is the deviation of the
gate's weights over the test days, mean over features: 0 means that the gate ignores the market's state. At the same
seed the networks with and without a gate start from different values (see `nets.MASTER`): compare the means over seeds.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import qlib
import torch
from qlib.utils import init_instance_by_config

from benchmarks.bench_step import table
from qlib_ext._state import load_state
from qlib_ext.judge import Money, judge
from qlib_ext.leak import load_workflow
from qlib_ext.market import MarketState
from qlib_ext.panel import DayPanel

WORKFLOW = Path(__file__).parents[1] / "workflows" / "master_macro.yaml"
GATES = ("none", "index", "macro", "both")
COLUMNS = (
    "valid_rank_ic",
    "ic",
    "rank_ic",
    "gross_excess",
    "error",
    "net_excess",
    "exposure",
    "moved",
    "epoch",
    "seconds",
)


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


def measure(dataset: Any, market: pd.DataFrame, config: dict[str, Any]) -> dict[str, float]:
    """Train with these market features and judge on the test days; money in basis points a day."""
    model = init_instance_by_config(config)
    panel = with_market(dataset.panel, market)
    rows, start = dataset.rows("test"), time.perf_counter()
    model.fit_rows(panel, dataset.step_len, dataset.rows("train"), dataset.rows("valid"))
    best = model.history.epochs[model.history.best_epoch - 1]
    found = judge(panel, rows, model.trainer.predict(panel, rows).astype(np.float64), Money(), dataset.span)
    daily, net = found.daily, found.returns["capped_buyable_net_over_market"]
    gate = model.trainer.net.gate
    with torch.no_grad():
        weights = None if gate is None else gate(panel.market[torch.as_tensor(rows)].to(gate.center))
    return {
        "valid_rank_ic": best["rank_ic"],
        "ic": daily["ic"].mean(),
        "rank_ic": daily["rank_ic"].mean(),
        "gross_excess": 1e4 * daily["capped_excess"].mean(),
        "error": 1e4 * daily["capped_excess"].sem(),
        "net_excess": 1e4 * net.mean(),
        "exposure": daily["volatility_exposure"].mean(),
        "moved": 0.0 if weights is None else float(weights.std(0).mean()),
        "epoch": model.history.best_epoch,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Train all gates and seeds; print a line each, then the table of means (standard deviation over seeds)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workflow", type=Path, default=WORKFLOW)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--gates", nargs="+", default=list(GATES[:3]), choices=GATES)
    parser.add_argument("--indices", nargs="+", help="of the index gate; default: the official ones that are there")
    parser.add_argument("--options", type=json.loads, default={}, help="of the model, as JSON")
    arguments = parser.parse_args()
    workflow = load_workflow(arguments.workflow)
    qlib.init(**workflow["qlib_init"])
    dataset = init_instance_by_config(workflow["task"]["dataset"])
    config = workflow["task"]["model"]
    fixed = {k: v for k, v in config["kwargs"].items() if k not in ("gate", "seed")} | arguments.options
    days = {name: len(dataset.rows(name)) for name in ("train", "valid", "test")}
    print(f"{dataset.panel}; {days}; {config['class']} {fixed}", flush=True)
    known, lines = states(dataset, arguments.indices), []
    for seed in arguments.seeds:
        for gate in arguments.gates:
            options = fixed | {"gate": gate != "none", "seed": seed}
            row = measure(dataset, known[gate], {**config, "kwargs": options})
            lines.append({"gate": gate, "seed": seed, **row})
            print(gate, seed, {k: round(float(v), 4) for k, v in row.items()}, flush=True)
    frame = pd.DataFrame(lines).drop(columns="seed").groupby("gate", sort=False)
    mean, spread = frame.mean(), frame.std()
    cells = [[name, *(f"{mean.loc[name, c]:.3f} ({spread.loc[name, c]:.3f})" for c in COLUMNS)] for name in mean.index]
    print(table(["gate", *COLUMNS], cells))


if __name__ == "__main__":
    main()
