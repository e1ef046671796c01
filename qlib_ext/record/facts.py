"""What a run was (units, stocks, days, seeds, device, versions), kept as an artifact and told in its page's header."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from qlib.config import C
from qlib.data import D
from qlib.log import get_module_logger
from qlib.workflow.recorder import Recorder

from qlib_ext import __version__, ranks
from qlib_ext.data import DayDatasetH, judging
from qlib_ext.evaluate import DAYS_A_YEAR, days_a_year
from qlib_ext.model import neutral_to
from qlib_ext.provider import SIDE_FILES, own_names, own_side_file
from qlib_ext.runs import FACTS, load_if_there
from qlib_ext.training import Trainer

logger = get_module_logger("qlib_ext.record")

PACKAGES = ("pyqlib", "torch", "numpy", "pandas", "marina-rules")


def keep_facts(recorder: Any, dataset: Any, model: Any) -> None:
    """Save `run_facts.pkl`, once and before the run is finished: later, devices and versions may be others."""
    if getattr(recorder, "status", None) != Recorder.STATUS_FI and load_if_there(recorder, FACTS) is None:
        recorder.save_objects(**{FACTS: run_facts(judging(dataset), model)})


def run_facts(dataset: Any, model: Any) -> dict[str, Any]:
    """Gather what a run was; what its dataset and model do not tell is left out.

    Args:
        dataset: a DayDatasetH tells units, stocks and days; any other, nothing.
        model: a trained model of `qlib_ext.model` tells the rest; any other, nothing.

    Returns: units (profile or expression of turnover in yuan, None: no liquidity), stocks (number), daily_stocks (of
        the median training day), days (part -> (first, last, number of days) after purging, of folds those of all
        together), folds (number), seeds, devices, precisions (of each member, in their order), neutral (exposures that
        the score is off, see `model.neutral_to`), versions (package -> version), days_a_year (trading days of a year,
        see `market_year`), processor, threads (torch's, of this process), ranks (processes that trained together, where
        there were several), side_files (names, st, industry of the provider -> path) and names (code -> name) where it
        has them.
    """
    facts: dict[str, Any] = {
        "versions": package_versions(("Python", "qlib_ext", *PACKAGES)),
        "days_a_year": market_year(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }
    if ranks.launched() > 1:
        facts["ranks"] = ranks.launched()
    if C.registered and (beside := {name: str(file) for name in SIDE_FILES if (file := own_side_file(name))}):
        facts |= {"side_files": beside, "names": own_names()}
    members = getattr(model, "models", None) or [model]
    members = [one for member in members for one in getattr(member, "models", None) or [member]]
    trainers = [trainer for member in members if isinstance(trainer := getattr(member, "trainer", None), Trainer)]
    if trainers:
        facts["seeds"] = [trainer.seed for trainer in trainers]
        facts["devices"] = [str(trainer.device) for trainer in trainers]
        facts["precisions"] = [trainer.precision for trainer in trainers]
    if neutral := neutral_to(model):
        facts["neutral"] = list(neutral)
    if isinstance(dataset, DayDatasetH):
        try:
            facts |= _of_dataset(dataset, getattr(model, "fold_map", None))
        except ValueError as error:
            logger.warning(f"{FACTS} lacks units, stocks and days: {error}")
    return facts


def processor() -> str:
    """Name this machine's processor, and the instructions that torch uses of it: both may change the last bits."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{named or platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def market_year() -> float:
    """Trading days of a year in the provider's calendar (`evaluate.days_a_year`); the usual ones without qlib."""
    return days_a_year(D.calendar()) if C.registered else DAYS_A_YEAR


def package_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the packages in use, of Python and qlib_ext among them; a dash for one that is not there."""
    versions = {"Python": platform.python_version(), "qlib_ext": __version__}
    for name in names:
        try:
            versions[name] = versions.get(name) or metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "–"
    return {name: versions[name] for name in names}


def _of_dataset(dataset: DayDatasetH, fold_map: pd.DataFrame | None) -> dict[str, Any]:
    """Units, stocks and days; those of train and valid as the folds have them, where there are folds."""
    panel, cut = dataset.panel, {}
    if fold_map is not None:
        parts = fold_map[fold_map["part"].isin(["train", "valid"])]
        cut = {str(name): np.unique(lines["day"]) for name, lines in parts.groupby("part", observed=True)}
    days = {
        name: cut[name] if name in cut else panel.days[dataset.rows(name)]
        for name in dict.fromkeys([*cut, *dataset.segments])
    }
    trained = panel.present[np.searchsorted(panel.days, days.get("train", panel.days))].sum(dim=1)
    facts: dict[str, Any] = {
        "units": dataset.unit_profile,
        "stocks": len(panel.stocks),
        "daily_stocks": float(np.median(trained)),
        "days": {n: (str(found[0])[:10], str(found[-1])[:10], len(found)) for n, found in days.items() if len(found)},
    }
    return facts if fold_map is None else facts | {"folds": int(fold_map["fold"].nunique())}
