"""MemoryRecorder: what records ask of qlib's recorder, kept in memory; no experiment, no files, no mlflow."""

import json
from pathlib import Path
from typing import Any

from qlib.utils.exceptions import LoadObjectError


class MemoryRecorder:
    """Artifacts by path and metrics by name of records that run outside of an experiment.

    Artifacts are the objects themselves; of a file its content: of JSON what it says, of any other its bytes.

    >>> recorder = MemoryRecorder()
    >>> recorder.save_objects(artifact_path="mine", **{"days.pkl": [1, 2]})
    >>> recorder.load_object("mine/days.pkl"), recorder.list_artifacts("mine"), recorder
    ([1, 2], ['mine/days.pkl'], MemoryRecorder(1 artifacts, 0 metrics))
    """

    id = name = "in memory"
    experiment_id = experiment_name = "notebook"
    status = "RUNNING"
    start_time: str | None = None

    def __init__(self) -> None:
        self.artifacts: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}

    def __repr__(self) -> str:
        """Count what is kept."""
        return f"MemoryRecorder({len(self.artifacts)} artifacts, {len(self.metrics)} metrics)"

    def save_objects(
        self, local_path: str | Path | None = None, artifact_path: str | None = None, **objects: Any
    ) -> None:
        """Keep objects, or the content of a file."""
        if local_path is not None:
            file = Path(local_path)
            objects = {file.name: json.loads(file.read_bytes()) if file.suffix == ".json" else file.read_bytes()}
        folder = f"{artifact_path}/" if artifact_path else ""
        self.artifacts |= {f"{folder}{name}": value for name, value in objects.items()}

    def load_object(self, name: str, unpickler: Any = None) -> Any:
        """Give an artifact, whatever it would be read with. Raises: qlib's LoadObjectError where there is none."""
        if name not in self.artifacts:
            raise LoadObjectError(f"no artifact {name}; there are {', '.join(self.artifacts) or 'none'}")
        return self.artifacts[name]

    def list_artifacts(self, artifact_path: str | None = None) -> list[str]:
        """List the paths of a folder's artifacts; of the top where none is named."""
        return [path for path in self.artifacts if path.rpartition("/")[0] == (artifact_path or "")]

    def log_metrics(self, step: int | None = None, **metrics: float) -> None:
        """Keep metrics, the last value of each."""
        self.metrics |= metrics

    def list_metrics(self) -> dict[str, float]:
        """List the metrics."""
        return dict(self.metrics)

    def log_params(self, **params: Any) -> None:
        """Take parameters, which nothing reads."""

    def set_tags(self, **tags: Any) -> None:
        """Take tags, which nothing reads."""

    def get_local_dir(self) -> str:
        """Say where the artifacts are."""
        return "(in memory)"
