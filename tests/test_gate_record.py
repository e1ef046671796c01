"""GateRecord with skip_existing: artifacts of other days are not taken for its own."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_record import Dataset, Recorder, make_panel

from qlib_ext.record import GateRecord


class Kept(Recorder):
    """A recorder that keeps what a record saves, and lists it."""

    def save_objects(self, artifact_path=None, **objects):
        self.objects |= {f"{artifact_path}/{name}": value for name, value in objects.items()}

    def list_artifacts(self, folder=None):
        return [name for name in self.objects if name.rpartition("/")[0] == (folder or "")]


class Gated(Dataset):
    market_names = ["state"]
    segments = {"valid": None, "test": None}


@pytest.fixture
def run(monkeypatch):
    """(recorder, dataset, the segments whose weights were asked for)."""
    panel = make_panel(days=30)
    panel.market = torch.arange(30.0)[:, None]
    dataset = Gated(panel, valid=np.arange(5, 15), test=np.arange(15, 25))
    asked = []

    def weights(model, dataset, name):
        asked.append(name)
        days = pd.DatetimeIndex(panel.days[dataset.rows(name)], name="datetime")
        return pd.DataFrame(np.random.default_rng(0).uniform(size=(10, 4)), days, panel.features)

    monkeypatch.setattr("qlib_ext.record.gate.gate_weights", weights)
    monkeypatch.setattr(
        "qlib_ext.record.gate.logger", SimpleNamespace(info=lambda text: asked.append(text.split(":")[0]))
    )
    return Kept(**{"pred.pkl": 0, "label.pkl": 0}), dataset, asked


def test_artifacts_of_the_same_days_stay(run):
    recorder, dataset, asked = run
    GateRecord(recorder, None, dataset, skip_existing=True).generate()
    assert asked[0] == "test" and len(recorder.objects["gate/weights.pkl"]) == 10
    asked.clear()
    GateRecord(recorder, None, dataset, skip_existing=True).generate()
    assert asked == []


def test_artifacts_of_other_segments_are_made_anew(run):
    recorder, dataset, asked = run
    GateRecord(recorder, None, dataset).generate()
    asked.clear()
    GateRecord(recorder, None, dataset, segments=["valid", "test"], skip_existing=True).generate()
    assert asked[:2] == ["the run's gate/ is of other days than valid and test", "valid"]
    weights = recorder.objects["gate/weights.pkl"]
    assert len(weights) == len(recorder.objects["gate/market.pkl"]) == 20 and weights.index.is_monotonic_increasing
