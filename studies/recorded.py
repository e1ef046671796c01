"""Each cell as a run of a recorder: parameters, the year's means, the days; in FOLDER/mlruns.db."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from qlib.workflow import R

from studies.run import Cell, Study, day
from studies.years import YEAR

EXPERIMENT = "study"
MEANS = {"ic10": 1.0, "rank_ic10": 1.0, "neutral_rank_ic": 1.0, "excess": YEAR, "over_all": YEAR, "turnover": 1.0}


def uri(study: Study) -> dict[str, object]:
    """Name the recorder's place for `qlib.init`."""
    kwargs = {"uri": f"sqlite:///{study.folder.resolve()}/mlruns.db", "default_exp_name": EXPERIMENT}
    return {"class": "SqliteExpManager", "module_path": "qlib_ext.recorder", "kwargs": kwargs}


def name_of(cell: Cell) -> str:
    """Name of a cell's run."""
    return str(cell.file(Path(), "accounts").with_suffix(""))


def record(study: Study, cells: Iterable[Cell]) -> int:
    """Record the cells that are not recorded; count them."""
    there = {run.info["name"] for run in R.get_exp(experiment_name=EXPERIMENT).list_recorders(rtype="list")}
    missing = [cell for cell in dict.fromkeys(cells) if name_of(cell) not in there]
    for cell in missing:
        days: pd.DataFrame = day(study, cell)
        with R.start(experiment_name=EXPERIMENT, recorder_name=name_of(cell)):
            R.log_params(**cell.config.to_dict(), year=cell.year, seed=cell.seed, way=cell.way, b=cell.b,
                         capital=cell.capital, market=cell.market)  # fmt: skip
            R.log_metrics(**{name: float(days[name].mean() * scale) for name, scale in MEANS.items()})
            R.save_objects(**{"days.pkl": days})
    return len(missing)
