"""Compare ways to retrain a score: the table of docs/folds.md.

    python -m studies.retraining FOLDER --provider-uri DIR --every 4

An MLP on the ranks of ten-day returns (`studies.years`) scores all days from `--first` to `--last`, retrained in
several ways by WalkForwardModel; the last 120 days before each block select the epoch. Of the universe each
`--every`-th stock by code is taken. FOLDER keeps a file of daily RankIC and processor seconds for each way and seed,
and what is there is not run again. No return is read that ends after `--last`.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import qlib
from qlib.data import D

from benchmarks.bench_step import table
from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import circular_blocks, daily_metrics
from qlib_ext.model import WalkForwardModel
from qlib_ext.provider import calendar
from studies.years import LABEL, MLP, VALID, YEAR

REACH, BLOCK, DRAWS = 11, 20, 2000  # days: of the label, of a bootstrap's block; its draws
ROLLING, EXPANDING = {"window": 3 * YEAR}, {"expanding": True}
STEPS = {"a year": YEAR, "half a year": YEAR // 2, "a quarter": YEAR // 4}
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # options of WalkForwardModel, of the MLP
    "once, 3 years": ({**ROLLING, "step": 10_000}, {}),
    "once, all years": ({**EXPANDING, "step": 10_000}, {}),
}
for name, step in STEPS.items():
    WAYS[f"rolling, {name}"] = ({**ROLLING, "step": step}, {})
    WAYS[f"rolling, {name}, warm"] = ({**ROLLING, "step": step, "warm_start": {"epochs": 1}}, {})
    WAYS[f"expanding, {name}"] = ({**EXPANDING, "step": step}, {})
    WAYS[f"expanding, {name}, warm"] = ({**EXPANDING, "step": step, "warm_start": {"epochs": 1}}, {})
for halflife in (250, 500):
    WAYS[f"rolling, a year, half-life {halflife}"] = ({**ROLLING, "step": YEAR}, {"day_halflife": halflife})
    WAYS[f"expanding, a year, half-life {halflife}"] = ({**EXPANDING, "step": YEAR}, {"day_halflife": halflife})


def dataset_of(universe: str, every: int, start: str, first: pd.Timestamp, last: pd.Timestamp) -> DayDatasetH:
    """Build features and label of each `every`-th stock, with the segments of the first block."""
    days = pd.DatetimeIndex(calendar())
    days = days[(days >= start) & (days <= last)][: -REACH - 1]
    past = days[days < first]
    segments = {"train": past[:-VALID], "valid": past[-VALID:], "test": days[days >= first]}
    codes = sorted(D.list_instruments(D.instruments(universe), as_list=True))[::every]
    own = [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}]
    options = {"instruments": codes, "label": ([LABEL], ["LABEL0"]), "infer_processors": own, "learn_processors": []}
    handler = {"class": "FastAlpha158", "module_path": "qlib_ext.handler", "kwargs": {**options, "drop_raw": True}}
    return DayDatasetH(handler, {name: (part[0], part[-1]) for name, part in segments.items()}, step_len=1)


def measured(dataset: DayDatasetH, way: str, seed: int) -> pd.DataFrame:
    """Retrain in a way; RankIC by test day, and the seconds that one processor worked."""
    walk, options = WAYS[way]
    model = WalkForwardModel(model={"class": "MLPModel", "kwargs": {**MLP, **options}}, seeds=[seed], **walk)
    start = time.process_time()
    model.fit(dataset)
    seconds = time.process_time() - start
    panel, rows = dataset.panel, dataset.rows("test")
    score = model.predict(dataset).unstack().reindex(columns=panel.stocks).to_numpy()
    rank_ic = daily_metrics(score, panel.label[rows].numpy(), names=["rank_ic"])["rank_ic"].to_numpy()
    return pd.DataFrame({"rank_ic": rank_ic, "seconds": seconds}, pd.DatetimeIndex(panel.days[rows]))


def error(daily: pd.Series) -> float:
    """Estimate the standard error of the mean, by a circular block bootstrap of the days."""
    value = daily.to_numpy()
    return float(value[circular_blocks(len(value), BLOCK, DRAWS, 0)].mean(axis=1).std())


def summary(files: Iterable[Path]) -> str:
    """Write a line for each way: mean RankIC over seeds, by year and over all, and what it adds to the first way."""
    frames = pd.concat({tuple(file.stem.rsplit("_", 1)): pd.read_parquet(file) for file in files})
    daily = frames["rank_ic"].groupby(level=[0, 2]).mean().unstack(0)
    seconds = frames.groupby(level=[0, 1])["seconds"].first().groupby(level=0)
    base = daily[next(way for way in WAYS if way in daily)]
    rows = []
    for way in (way for way in WAYS if way in daily):
        parts = [daily[way][daily.index.year == year] for year in sorted(set(daily.index.year))] + [daily[way]]
        gain = daily[way] - base
        own = frames.loc[way]["rank_ic"].groupby(level=0).mean()
        told = [f"{part.mean():.3f} ± {error(part):.3f}" for part in parts]
        told += [f"{own.std():.4f}" if len(own) > 1 else "", f"{gain.mean():+.4f} ± {error(gain):.4f}"]
        rows.append([way, *told, f"{seconds.mean()[way]:.0f}", str(len(own))])
    years = [str(year) for year in sorted(set(daily.index.year))]
    return table(["way", *years, "all", "over seeds", "to the first way", "seconds", "seeds"], rows)


def main() -> None:
    """Run what was not run, print the table."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    asked.add_argument("folder", type=Path, help="of a file for each way and seed")
    asked.add_argument("--provider-uri", required=True)
    asked.add_argument("--universe", default="all")
    asked.add_argument("--every", type=int, default=1)
    asked.add_argument("--start", default="2011-01-04", help="first day to learn from")
    asked.add_argument("--first", type=pd.Timestamp, default=pd.Timestamp("2018-01-01"))
    asked.add_argument("--last", type=pd.Timestamp, default=pd.Timestamp("2021-12-31"))
    asked.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    wanted = asked.parse_args()
    wanted.folder.mkdir(parents=True, exist_ok=True)
    files = {(way, seed): wanted.folder / f"{way}_{seed}.parquet" for seed in wanted.seeds for way in wanted.ways}
    missing = [key for key, file in files.items() if not file.exists()]
    if missing:
        qlib.init(provider_uri=wanted.provider_uri, region="cn")
        dataset = dataset_of(wanted.universe, wanted.every, wanted.start, wanted.first, wanted.last)
        print(dataset.panel, {name: len(dataset.rows(name)) for name in dataset.segments}, flush=True)
    for way, seed in missing:
        frame = measured(dataset, way, seed)
        frame.to_parquet(files[way, seed])
        line = frame["rank_ic"].groupby(frame.index.year).mean().round(4).to_dict()
        print(way, seed, line, round(frame["seconds"].iloc[0]), flush=True)
    print(summary(file for file in files.values() if file.exists()))


if __name__ == "__main__":
    main()
