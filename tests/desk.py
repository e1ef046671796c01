"""A desk for tests of `qlib-ext daily`: the embedded market, a provider that grows day by day, a run recorded on it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import qlib
from qlib.data import D
from qlib.utils import init_instance_by_config
from qlib.workflow.record_temp import SignalRecord

from qlib_ext.recorder import SqliteExpManager
from qlib_ext.synthetic import make_market

CASH = 2e7
OPTIONS = {"participation": 0.02, "trade_participation": 0.01, "rank_buffer": 1.5, "liquidity": "community"}
DEALT = {"participation": None, "impact": 0.0}
QUICK = {"precision": "float32", "loss": "wpcc", "metric": "ic", "epochs": 1, "device": "cpu", "lr": 0.01}
MODELS = {
    "MLPModel": {"hidden": [8]} | QUICK,
    "MASTERModel": {"d_model": 8, "t_heads": 2, "dropout": 0.1} | QUICK,
}


def task_of(days, last, model="MLPModel"):
    """A task that is tested up to `last`; what fits looks at the days of train alone."""
    fitted = {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True}}
    kwargs = {"instruments": "all", "infer_processors": [fitted, {"class": "Fillna"}], "learn_processors": []}
    spans = {"train": (days[61], days[115]), "valid": (days[118], days[135]), "test": (days[138], last)}
    dealt = {"class": "AShareExchange", "module_path": "qlib_ext.exchange", "kwargs": DEALT}
    traded = {"class": "LiquidityTopNStrategy", "module_path": "qlib_ext.strategy"}
    config = {
        "strategy": traded | {"kwargs": OPTIONS | {"signal": "<PRED>"}},
        "backtest": {"account": CASH, "exchange_kwargs": {"exchange": dealt}},
    }
    return {
        "model": {"class": model, "module_path": "qlib_ext.model", "kwargs": MODELS[model]},
        "dataset": {
            "class": "DayDatasetH",
            "module_path": "qlib_ext.data",
            "kwargs": {
                "handler": {"class": "FastAlpha158", "module_path": "qlib_ext.handler", "kwargs": kwargs},
                "segments": {name: [str(day.date()) for day in span] for name, span in spans.items()},
                "step_len": 8,
            },
        },
        "record": [{"class": "PortAnaRecord", "module_path": "qlib_ext.record", "kwargs": {"config": config}}],
    }


def start(provider):
    qlib.init(provider_uri=str(provider), region="cn", kernels=1)
    return pd.DatetimeIndex(D.calendar())


def grow(full, live, last):
    """Let a provider be what `full` was at the close of a day; the days to come stand in its future calendar."""
    days = (full / "calendars/day.txt").read_text().split()
    count = days.index(str(last.date())) + 1
    for name in ("calendars", "instruments"):
        (live / name).mkdir(parents=True, exist_ok=True)
    (live / "calendars/day.txt").write_text("\n".join(days[:count]) + "\n")
    (live / "calendars/day_future.txt").write_text("\n".join(days) + "\n")
    for file in (full / "instruments").glob("*.txt"):
        spans = [line.split("\t") for line in file.read_text().splitlines()]
        kept = [f"{code}\t{a}\t{min(b, days[count - 1])}\n" for code, a, b in spans if a <= days[count - 1]]
        (live / "instruments" / file.name).write_text("".join(kept))
    for file in (full / "features").glob("*/*.day.bin"):
        values = np.fromfile(file, "<f4")
        if count > values[0]:
            (live / "features" / file.parent.name).mkdir(parents=True, exist_ok=True)
            values[: 1 + count - int(values[0])].tofile(live / "features" / file.parent.name / file.name)


def change(provider, code, field, rows, by):
    """Multiply a field of a stock on rows of the calendar; NaN takes bars away."""
    for file in (provider / "features" / code.lower()).glob(f"{field}.day.bin"):
        values = np.fromfile(file, "<f4")
        values[1 + rows - int(values[0])] *= by
        values.tofile(file)


def record_run(folder, first, model="MLPModel"):
    """A run whose test ends before `first`, on a provider that ends there too."""
    full, live = make_market(folder / "full", n_stocks=60, years=1), folder / "live"
    days = start(full)
    at = days.get_loc(first)
    grow(full, live, days[at - 1])
    start(live)
    task = task_of(days, days[at - 1], model)
    dataset, trained = (init_instance_by_config(task[name]) for name in ("dataset", "model"))
    trained.fit(dataset)
    uri = f"sqlite:///{folder}/mlruns.db"
    recorder = SqliteExpManager(uri, "desk").get_exp(experiment_name="desk", create=True).create_recorder("desk")
    recorder.start_run()
    SignalRecord(trained, dataset, recorder).generate()
    dataset.config(dump_all=False, recursive=True)
    config = {"qlib_init": {"provider_uri": str(live), "region": "cn", "kernels": 1}}
    recorder.save_objects(**{"params.pkl": trained, "dataset": dataset, "task": task, "config": config})
    recorder.end_run("FINISHED")
    out, artifacts = folder / "desk", Path(recorder.get_local_dir()) / "artifacts"
    return SimpleNamespace(**locals())


def files(desk):
    """Bytes of what the routine keeps: lists, journal, artifacts of the run."""
    every = [*desk.out.iterdir(), *(desk.artifacts / name for name in ("pred.pkl", "pred.parquet", "daily.pkl"))]
    return {file.name: file.read_bytes() for file in every if not file.name.startswith(".")}
