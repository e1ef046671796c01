"""What a run's recorder has: an artifact that is there and cannot be read is an error, one that is absent is none."""

from types import SimpleNamespace

import numpy as np
import pytest
from mlflow import environment_variables

from qlib_ext.record import FoldRecord, ReportRecord
from qlib_ext.recorder import SqliteExpManager
from qlib_ext.runs import load_if_there, log_finite


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A finished run with a good artifact, and others whose files are cut off, empty, or no pickle."""
    place = tmp_path_factory.mktemp("kept")
    experiment = SqliteExpManager(f"sqlite:///{place}/mlruns.db", "kept").get_exp(experiment_name="kept", create=True)
    recorder = experiment.create_recorder("kept")
    recorder.start_run()
    recorder.save_objects(**{"label.pkl": list(range(100)), "good.pkl": {"a": 1}})
    recorder.save_objects(artifact_path="folds", **{"fold_map.pkl": "map", "curves.pkl": list(range(100))})
    recorder.end_run("FINISHED")
    files = place / "mlruns" / "kept" / recorder.id / "artifacts"
    for path in ("label.pkl", "folds/fold_map.pkl"):
        file = files / path
        file.write_bytes(file.read_bytes()[:-5])
    return recorder


def test_absent_is_none_and_broken_is_an_error(kept):
    assert load_if_there(kept, "good.pkl") == {"a": 1}
    assert load_if_there(kept, "folds/curves.pkl") == list(range(100))
    for path in ("none.pkl", "folds/none.pkl", "no_folder/none.pkl"):
        assert load_if_there(kept, path) is None
    for path in ("label.pkl", "folds/fold_map.pkl"):
        with pytest.raises(ValueError, match=f"artifact {path} is there but cannot be read"):
            load_if_there(kept, path)


def test_no_section_vanishes_without_a_word(kept):
    pytest.importorskip("plotly")
    with pytest.raises(ValueError, match=r"\.pkl is there but cannot be read"):
        ReportRecord(kept)._generate()


def test_broken_folds_are_not_called_absent(kept):
    record = SimpleNamespace(recorder=kept)
    with pytest.raises(ValueError, match=r"folds/fold_map\.pkl is there but cannot be read"):
        FoldRecord._of_folds(record, "fold_map")
    with pytest.raises(ValueError, match=r"has no artifact folds/oof\.pkl"):
        FoldRecord._of_folds(record, "oof")


def test_only_what_is_finite_is_logged():
    logged = []
    recorder = SimpleNamespace(log_metrics=lambda step=None, **metrics: logged.append((step, metrics)))
    log_finite(recorder, {"a": 1, "b": float("nan"), "c": float("inf"), "d": np.float32(0.5)})
    log_finite(recorder, {"a": 2.0}, step=0)
    log_finite(recorder, {"b": float("nan")}, step=3)
    assert logged == [(None, {"a": 1.0, "d": 0.5}), (0, {"a": 2.0})]


@pytest.mark.parametrize(("own", "shown"), [(None, False), ("true", True), ("false", False)])
def test_bars_of_artifacts_are_off_unless_asked_for(tmp_path, monkeypatch, own, shown):
    name = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
    monkeypatch.setenv(name, own or "")
    if own is None:
        monkeypatch.delenv(name)
    SqliteExpManager(uri=f"sqlite:///{tmp_path}/runs.db", default_exp_name="x")
    assert getattr(environment_variables, name).get() is shown
