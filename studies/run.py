"""Run cells (a configuration, a year, a seed), several at once, each once: scores, their numbers by day, accounts.

FOLDER/scores/CONFIG/YEAR_SEED.parquet: scores of the days that select and of the test year;
FOLDER/days/CONFIG/YEAR_SEED.parquet: numbers by test day; FOLDER/accounts/CONFIG/WAY/YEAR_SEED.parquet: an account's.
"""

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import qlib
import torch

from qlib_ext.engine import Processes, Ray
from qlib_ext.portfolio import CAPITAL
from studies.cells import TRADED, Config
from studies.scores import DAILY, Bench
from studies.years import Features

ALL = -1  # in place of a seed: the mean score of all


@dataclass(frozen=True)
class Study:
    """Where it lies and what it runs on.

    Attributes:
        folder: of scores, days, accounts, features.
        provider_uri: of the market, a qlib folder.
        universe: of its stocks.
        last: no return that ends after it counts.
        jobs: cells at once; 0: none may be missing.
        ray: address of a cluster that runs them, which sees the folder and the provider by the same paths; "local": a
            Ray of this machine; None: processes.
    """

    folder: Path
    provider_uri: str
    universe: str
    last: pd.Timestamp
    jobs: int = 1
    ray: str | None = None


@dataclass(frozen=True)
class Cell:
    """A configuration, traded in a way, in a test year, with a seed (`ALL`: the mean score of all).

    Attributes:
        b: of the impact.
        capital: yuan.
        market: "real"; or what `delistings.KINDS` names, with the number of the draw: "1%, 3".
    """

    config: Config
    year: int
    seed: int
    way: str = TRADED
    b: float = 1.0
    capital: float = CAPITAL
    market: str = "real"

    def file(self, folder: Path, what: str) -> Path:
        """File of its days or accounts."""
        usual = (self.b, self.capital, self.market) == (1.0, CAPITAL, "real")
        more = "" if usual else f" b={self.b:.2f} {self.capital / 1e6:.0f}m {self.market}"
        way = [f"{self.way}{more}"] if what == "accounts" else []
        return folder.joinpath(what, self.config.name, *way, f"{self.year}_{self.seed}.parquet")

    def done(self, folder: Path) -> bool:
        """Tell whether its numbers are there."""
        return all(self.file(folder, what).exists() for what in ("days", "accounts"))


def run(study: Study, cells: Iterable[Cell]) -> None:
    """Run the cells that are not there, those of a year together; a line each."""
    todo = [cell for cell in dict.fromkeys(cells) if not cell.done(study.folder)]
    for part in ([cell for cell in todo if cell.seed != ALL], [cell for cell in todo if cell.seed == ALL]):
        _run_part(study, part)  # a mean of seeds finds them there


def _run_part(study: Study, todo: list[Cell]) -> None:
    keys = sorted({(cell.year, cell.seed) for cell in todo})
    groups = [[cell for cell in todo if (cell.year, cell.seed) == key] for key in keys]
    if not groups:
        return
    if not study.jobs:
        raise FileNotFoundError(f"{len(todo)} cells were not run, such as {todo[0]}: leave --tables out")
    _prepare(study, {cell.year - back for cell in todo for back in range(cell.config.years + cell.config.gap + 1)})
    start = time.perf_counter()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same bits whatever runs beside
    engine = Processes(study.jobs) if study.ray is None else Ray(address=study.ray, workers=study.jobs)
    for count, (_, made) in enumerate(engine.run(_run, ((study, group) for group in groups)), 1):
        left = (time.perf_counter() - start) / count * (len(groups) - count)
        print(f"{count} of {len(groups)}, {left / 60:.0f} min left: {made}", flush=True)


def _prepare(study: Study, years: set[int]) -> None:
    """Make the factors of years that are not there, one after the other: the cells then read them."""
    lacks = [year for year in sorted(years) if not (study.folder / "features" / f"{DAILY[0]}_{year}.npz").exists()]
    if lacks:
        list(Processes(1).run(_make_factors, [(study, lacks)]))


def _make_factors(study: Study, years: list[int]) -> None:
    _start(study)
    files = Features(study.folder / "features", study.universe, DAILY[0], **DAILY[1])
    for year in years:
        files.panel(year, year)


def _run(study: Study, cells: list[Cell]) -> str:
    from studies.measure import measure

    told = []
    for cell in cells:
        start = time.perf_counter()
        measure(_bench(study, cell.year), cell)
        told.append(f"{cell.config.name} {cell.way} {time.perf_counter() - start:.0f} s")
    return f"{cells[0].year}, seed {cells[0].seed}: {', '.join(told)}"


def _start(study: Study) -> None:
    torch.set_num_threads(1)
    qlib.init(provider_uri=study.provider_uri, region="cn", logging_level=logging.WARNING, kernels=1)


@lru_cache(maxsize=1)
def _bench(study: Study, year: int) -> Bench:
    _start(study)
    return Bench(study.folder, study.universe, year, study.last)


def read(
    study: Study, config: Config, years: Iterable[int], seeds: Iterable[int], way: str = TRADED, **more: Any
) -> list[pd.DataFrame]:
    """Read the days of each seed, all years, with the account's columns beside them; `more` are fields of `Cell`."""
    years = sorted(years)
    return [pd.concat([day(study, Cell(config, year, seed, way, **more)) for year in years]) for seed in seeds]


def day(study: Study, cell: Cell) -> pd.DataFrame:
    """Read the days of a cell."""
    days, account = (pd.read_parquet(cell.file(study.folder, what)) for what in ("days", "accounts"))
    return days.join(account)
