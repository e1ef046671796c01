"""Checkpoints of models: which files they have, and how long. Private to the models."""

from pathlib import Path
from typing import Any

from qlib_ext.runs import delete_when_finished


def beside_checkpoint(file: str, name: str) -> str:
    """Name a member's own checkpoint beside that of all: `run.pt` and fold0.seed3 give `run.fold0.seed3.pt`."""
    path = Path(file)
    return str(path.with_name(f"{path.stem}.{name}{path.suffix}"))


def takes_checkpoint(model: Any) -> bool:
    """Whether a model has the option `checkpoint`, or the members of an ensemble do."""
    return hasattr(getattr(model, "kind", type(model)), "checkpoint")


def checkpoints_of(model: Any) -> list[Path]:
    """List the checkpoints of a trained model, those of all members of an ensemble."""
    if parts := getattr(model, "models", None):
        return [file for part in parts for file in checkpoints_of(part)]
    file = getattr(model, "checkpoint", None)
    return [Path(file)] if isinstance(file, str) and file else []


def let_go(model: Any) -> None:
    """Delete a trained model's checkpoints: where a run of a task goes on, not before it is finished."""
    delete_when_finished(checkpoints_of(model))
