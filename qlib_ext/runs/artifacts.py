"""Artifacts and metrics of a run's recorder."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

FACTS = "run_facts.pkl"  # what a run was, see `record.keep_facts`
PLAN = "portfolio_analysis/plan.pkl"  # the complete backtest of a run, as its PortAnaRecord traded it
FORECAST = "forecast.json"  # what the run's score is worth, `portfolio.Forecast.to_dict`
JSON = ".json"  # artifacts of this suffix are plain JSON, no pickles
CONFIGURATIONS = ("task", "config", PLAN)  # whose twins tell objects by their class


def load_if_there(recorder: Any, path: str) -> Any:
    """Load an artifact of a run; None where the run has none of that path.

    Raises:
        ValueError: it is there and cannot be read (of both qlib says the same).
    """
    from qlib.utils.exceptions import LoadObjectError

    def there() -> bool:
        return path in recorder.list_artifacts(path.rpartition("/")[0] or None)

    plain = path.endswith(JSON)
    if plain and not there():
        return None
    try:
        return recorder.load_object(path, unpickler=_Json) if plain else recorder.load_object(path)
    except LoadObjectError as error:
        if not there():
            return None
        raise ValueError(
            f"the run's artifact {path} is there but cannot be read: {error}. It is damaged, or was written by another "
            "version: run the record that writes it again, or the whole run"
        ) from error


class _Json:
    """Reads JSON where qlib would unpickle."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def load(self) -> Any:
        return json.load(self.file)


def save_json(recorder: Any, name: str, value: Any) -> None:
    """Keep an artifact as plain JSON, at the top of the run; it has no NaN."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        recorder.save_objects(local_path=str(file), artifact_path=None)


def delete_when_finished(files: Iterable[Path]) -> None:
    """Delete files when the run of a task that goes on is finished; now where there is none."""
    from qlib.workflow import R

    manager = getattr(R, "exp_manager", None)
    experiment = None if manager is None else manager.active_experiment
    takes = getattr(getattr(experiment, "active_recorder", None), "delete_when_finished", None)
    if takes is None or not takes(files):
        for file in files:
            file.unlink(missing_ok=True)


def log_finite(recorder: Any, metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log those of the metrics that are finite, at a step where one is given: one bad value would end qlib's thread.

    Args:
        recorder: of qlib, or `R`.
        metrics: by name.
        step: such as the epoch.
    """
    finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    if finite:
        recorder.log_metrics(**({} if step is None else {"step": step}), **finite)
