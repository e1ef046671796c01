"""qlib's experiment and recorder over mlflow, as `SqliteExpManager` hands them out. It needs qlib."""

from typing import Any

from qlib.workflow.exp import MLflowExperiment
from qlib.workflow.recorder import MLflowRecorder


class RunRecorder(MLflowRecorder):
    """A run's recorder: what qlib's does not do when a run is written stands here."""

    def save_objects(self, local_path: Any = None, artifact_path: Any = None, **objects: Any) -> None:
        """Keep a local file, or objects by name, as artifacts of the run."""
        super().save_objects(local_path, artifact_path, **objects)


class RunExperiment(MLflowExperiment):
    """An experiment whose recorders are `RunRecorder`s."""

    def create_recorder(self, recorder_name: str | None = None) -> RunRecorder:
        """Return a new recorder."""
        return RunRecorder(self.id, self._uri, recorder_name or self._default_rec_name)

    def _get_recorder(self, recorder_id: str | None = None, recorder_name: str | None = None) -> MLflowRecorder:
        return _ours(super()._get_recorder(recorder_id, recorder_name))

    def list_recorders(self, *args: Any, **kwargs: Any) -> Any:
        """List the recorders as qlib does, by id or in a list."""
        found = super().list_recorders(*args, **kwargs)
        for recorder in found.values() if isinstance(found, dict) else found:
            _ours(recorder)
        return found


def _ours(recorder: MLflowRecorder) -> MLflowRecorder:
    recorder.__class__ = RunRecorder  # qlib names its own class where it reads a run
    return recorder
