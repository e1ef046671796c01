"""Members of an ensemble: built from a configuration, trained on a fold, told and recorded as they train.

Private to `ensemble` and `model`.
"""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from qlib.log import get_module_logger
from qlib.utils import init_instance_by_config
from qlib.workflow import R

from qlib_ext.model.folds import Fold, Grid
from qlib_ext.panel import DayPanel
from qlib_ext.runs import log_finite

logger = get_module_logger("qlib_ext.ensemble")

CONFIG_KEYS = ("class", "module_path", "kwargs")


def new_member(config: Any, seed: int, fold: Fold | None = None) -> Any:
    """Build a model from its configuration with a seed, and with a checkpoint of its own where there is one and a fold.

    Raises: ValueError for a seed in the configuration, TypeError for anything but a configuration of a model that
        trains on chosen days.

    """
    if not isinstance(config, dict) or "class" not in config or set(config) - set(CONFIG_KEYS):
        raise TypeError(f"model must be a configuration with the keys {', '.join(CONFIG_KEYS)}; got {config!r}")
    if "seed" in (config.get("kwargs") or {}):
        raise ValueError("the model's configuration names a seed: give the ensemble's seeds=[...] instead")
    kwargs = {**(config.get("kwargs") or {}), "seed": seed}
    if fold is not None and (file := member_checkpoint(config, fold, seed)) is not None:
        kwargs["checkpoint"] = str(file)
    member = init_instance_by_config({**config, "kwargs": kwargs}, default_module="qlib_ext.model")
    if not hasattr(member, "fit_rows"):
        raise TypeError(f"{type(member).__name__} cannot train on chosen days: wanted MLPModel or MASTERModel")
    return member


def check_shared_memory(panel: DayPanel) -> None:
    """Raise ValueError where the shared memory cannot hold the rest of the panel: torch would say it less clearly."""
    shared = Path("/dev/shm")
    own = [value for value in vars(panel).values() if isinstance(value, torch.Tensor) and not value.is_shared()]
    need = sum(value.nbytes for value in own)
    if need and shared.is_dir() and shutil.disk_usage(shared).free < 1.1 * need:
        raise ValueError(
            f"processes share the panel through {shared}, where {need / 2**20:.0f} MiB of it are not yet and which has "
            f"{shutil.disk_usage(shared).free / 2**20:.0f} MiB left: set processes: 1, or enlarge it "
            "(docker run --shm-size)"
        )


def train_member(panel: DayPanel, step_len: int, config: dict[str, Any], fold: Fold, seed: int) -> tuple[Any, Grid]:
    """Train one member; return it and its scores of the valid block, (len(valid), N)."""
    member = new_member(config, seed, fold)
    kept = {} if member_checkpoint(config, fold, seed) is None else {"keep_checkpoint": True}
    member.fit_rows(panel, step_len, fold.train, fold.valid, prefix=prefix_of(fold, seed), **kept)
    return member, member.trainer.predict(panel, fold.valid)


def pickled_member(panel: DayPanel, step_len: int, config: dict[str, Any], fold: Fold, seed: int) -> bytes:
    """Train in another process; bytes, since tensors would leave it as files of its own memory."""
    return pickle.dumps(train_member(panel, step_len, config, fold, seed))


def member_checkpoint(config: dict[str, Any], fold: Fold, seed: int) -> Path | None:
    """Name a member's own checkpoint beside the configured one: `run.pt` becomes `run.fold0.seed3.pt`."""
    given = (config.get("kwargs") or {}).get("checkpoint")
    if not isinstance(given, str) or not given:
        return None
    path = Path(given)
    return path.with_name(f"{path.stem}.{prefix_of(fold, seed)[:-1]}{path.suffix}")


def window_of(kind: type, step_len: int) -> int:
    """Days of a window that a kind of model looks at, with a notice where it needs none and was given more."""
    if step_len == 1 or getattr(kind, "needs_window", True):
        return step_len
    logger.info(f"{kind.__name__} looks at the day alone: step_len={step_len} becomes 1")
    return 1


def prefix_of(fold: Fold, seed: int) -> str:
    """Name of a member before each of its metrics."""
    return f"fold{fold.number}.seed{seed}."


# --- records


def recording() -> bool:
    """Tell whether a qlib experiment runs; qlib need not be initialised."""
    manager = getattr(R, "exp_manager", None)
    return manager is not None and manager.active_experiment is not None


def report(prefix: str, epoch: int, row: dict[str, float]) -> None:
    """Log an epoch, and record it where an experiment runs."""
    logger.info(f"{prefix}epoch {epoch}: " + ", ".join(f"{k} {v:.5f}" for k, v in row.items()))
    if recording():
        log_finite(R, {f"{prefix}{name}": value for name, value in row.items()}, step=epoch)


def save_folds(**objects: Any) -> None:
    """Save frames as artifacts `folds/<name>.pkl` where an experiment runs."""
    if recording():
        R.save_objects(artifact_path="folds", **{f"{name}.pkl": value for name, value in objects.items()})
