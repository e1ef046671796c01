"""A training that is cut short and goes on ends with the numbers of one without a break, bit by bit."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_trainer import FRESH, TRAIN, VALID, F, make_panel, make_trainer, same_state

from qlib_ext.nets import MASTER, MLP


class Stop(Exception):
    pass


def stop_after(last):
    def on_epoch(epoch, row):
        if epoch == last:
            raise Stop

    return on_epoch


def cut(path, last=2, **options):
    """Train until the end of an epoch and break off; the file is left."""
    trainer = new(checkpoint=str(path), **options)
    with pytest.raises(Stop):
        trainer.fit(make_panel(), TRAIN, VALID, on_epoch=stop_after(last))
    return trainer


def new(kind="mlp", **options):
    torch.manual_seed(1)
    net = MLP(F, (8,), dropout=0.3) if kind == "mlp" else MASTER(F, 8, 2, 2, dropout=0.2, key_dropout=0.2)
    window = {} if kind == "mlp" else {"step_len": 3}
    return make_trainer(net=net, **{"epochs": 6, "patience": 6, "weight_decay": 0.01, **window, **options})


@pytest.mark.parametrize("kind", ["mlp", "master"])
@pytest.mark.parametrize("scale", [None, "robust"])
@pytest.mark.parametrize("last", [1, 2, 6])
def test_it_goes_on_with_exactly_the_same_numbers(tmp_path, kind, scale, last):
    panel, path = make_panel(), tmp_path / "new" / "run.pt"
    whole = new(kind, scale=scale)
    wanted = whole.fit(panel, TRAIN, VALID)
    cut(path, last, kind=kind, scale=scale)
    torch.rand(7)  # what the generators did in between must not matter
    trainer, epochs = new(kind, scale=scale, checkpoint=str(path)), []
    before = torch.get_rng_state()
    history = trainer.fit(panel, TRAIN, VALID, on_epoch=lambda epoch, row: epochs.append(epoch))
    assert torch.equal(torch.get_rng_state(), before)
    assert epochs == list(range(last + 1, 7)) and history.resumed_from == last
    assert replace(history, resumed_from=0) == wanted
    assert same_state(trainer.net.state_dict(), whole.net.state_dict())
    assert scale is None or same_state(trainer.scaler.state_dict(), whole.scaler.state_dict())
    np.testing.assert_array_equal(trainer.predict(panel, FRESH), whole.predict(panel, FRESH))
    assert not list(path.parent.iterdir())  # removed at the end, and nothing else was left


def test_the_same_trainer_can_go_on(tmp_path):
    panel, whole = make_panel(), new()
    whole.fit(panel, TRAIN, VALID)
    trainer = cut(tmp_path / "run.pt")
    assert trainer.fit(panel, TRAIN, VALID).resumed_from == 2
    assert same_state(trainer.net.state_dict(), whole.net.state_dict())


def test_an_early_stop_is_remembered_and_a_kept_file_returns_at_once(tmp_path):
    panel, path = make_panel(seed=3, shuffled=True), tmp_path / "run.pt"
    options = {"epochs": 12, "patience": 3, "lr": 0.05}
    wanted = new(**options).fit(panel, TRAIN, VALID)
    assert len(wanted.epochs) < 12
    first = new(**options, checkpoint=str(path))
    first.fit(panel, TRAIN, VALID, keep_checkpoint=True)
    again = new(**options, checkpoint=str(path))
    history = again.fit(panel, TRAIN, VALID, on_epoch=stop_after(len(wanted.epochs) + 1))
    assert replace(history, resumed_from=0) == wanted and history.resumed_from == len(wanted.epochs)
    assert same_state(first.net.state_dict(), again.net.state_dict()) and not path.exists()


def test_more_epochs_and_patience_are_no_other_training(tmp_path):
    panel, path = make_panel(), tmp_path / "run.pt"
    cut(path)
    history = new(checkpoint=str(path), epochs=8, patience=8).fit(panel, TRAIN, VALID)
    assert history.epochs == new(epochs=8, patience=8).fit(panel, TRAIN, VALID).epochs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.02}, "lr is 0.02 here, 0.01 in the file"),
        ({"seed": 4}, "seed is 4 here, 0 in the file"),
        ({"batch_days": 3}, "batch_days is 3 here, 4"),
        ({"scale": "robust"}, "scale is robust here, None"),
        ({"metric": "rank_ic"}, "metric is rank_ic here, ic"),
        ({"loss": "wpcc"}, r"loss is DayLoss\('wpcc'.* here, DayLoss\('ic'"),
        ({"capital": 1e6}, "capital is 1000000.0 here"),
        ({"weight_decay": 0.0}, "weight_decay is 0.0 here"),
        ({"precision": "bfloat16"}, "precision is bfloat16 here"),
        ({"net": MLP(F, (9,), dropout=0.3)}, "network is .*out_features=9.* here, .*out_features=8"),
        ({"net": MLP(F, (8,), dropout=0.4)}, r"network is .*p=0.4.* here, .*p=0.3.* in the file"),
        ({"net": MASTER(F, 8, 2, 2)}, r"network is MASTER\( here, MLP\( in the file"),
    ],
)
def test_another_training_is_refused(tmp_path, options, words):
    path = tmp_path / "run.pt"
    cut(path, precision="float32")
    loss, options = options.pop("loss", "ic"), {"net": MLP(F, (8,), dropout=0.3), "precision": "float32"} | options
    options = {"epochs": 6, "patience": 6, "weight_decay": 0.01, "checkpoint": str(path)} | options
    raw = path.read_bytes()
    with pytest.raises(
        ValueError, match=f"run.pt is the checkpoint of another training: .*{words}.*delete .*run.pt or"
    ):
        make_trainer(loss, **options).fit(make_panel(), TRAIN, VALID)
    assert path.read_bytes() == raw  # and the other's is left as it was


def test_heads_and_dropout_of_the_weights_are_told(tmp_path):
    cut(tmp_path / "run.pt", kind="master")
    for change, words in ({"key_dropout": 0.1}, "key_dropout=0.1"), ({"variant": "paper"}, "scale=True"):
        net = MASTER(F, 8, 2, 2, **{"dropout": 0.2, "key_dropout": 0.2} | change)
        trainer = make_trainer(net=net, step_len=3, weight_decay=0.01, checkpoint=str(tmp_path / "run.pt"))
        with pytest.raises(ValueError, match=f"network is .*{words}"):
            trainer.fit(make_panel(), TRAIN, VALID)


def test_other_days_features_and_data_are_refused(tmp_path):
    path, panel = tmp_path / "run.pt", make_panel()
    cut(path)
    for name, train, valid in (("training", TRAIN[:-1], VALID), ("validation", TRAIN, VALID[1:])):
        with pytest.raises(ValueError, match=f"{name} days is .* here, .* in the file"):
            new(checkpoint=str(path)).fit(panel, train, valid)
    turned, other = replace(panel, features=["f0", "f2", "f1"]), make_panel()
    with pytest.raises(ValueError, match="features is f2 here, f1 in the file"):
        new(checkpoint=str(path)).fit(turned, TRAIN, VALID)
    other.label[TRAIN[4], 2] += 1e-4
    with pytest.raises(ValueError, match=r"data \(digest\) is"):
        new(checkpoint=str(path)).fit(other, TRAIN, VALID)
    with pytest.raises(ValueError, match="init_from is b.pkl here, a.pkl in the file"):
        trainer = new(checkpoint=str(tmp_path / "facts.pt"))
        with pytest.raises(Stop):
            trainer.fit(panel, TRAIN, VALID, facts={"init_from": "a.pkl"}, on_epoch=stop_after(1))
        trainer.fit(panel, TRAIN, VALID, facts={"init_from": "b.pkl"})


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("evil"),)


def test_a_file_that_is_none_is_refused_and_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.pt"
    for write in (
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"no checkpoint at all"),
        lambda: path.write_bytes(pickle.dumps(Evil())),
        lambda: torch.save(Evil(), path),
        lambda: torch.save({"a": torch.ones(1)}, path),
    ):
        write()
        with pytest.raises(ValueError, match="run.pt is no checkpoint of .*delete .*run.pt or name another"):
            new(checkpoint=str(path)).fit(make_panel(), TRAIN, VALID)
        assert not (tmp_path / "evil").exists()
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        new(checkpoint=str(tmp_path)).fit(make_panel(), TRAIN, VALID)


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_file_with_one_wrong_bit_is_refused(tmp_path, part):
    path = tmp_path / "run.pt"
    cut(path)
    raw = bytearray(path.read_bytes())
    raw[int(part * len(raw))] ^= 4
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="run.pt is damaged, it does not hold what was written: delete .*run.pt or"):
        new(checkpoint=str(path)).fit(make_panel(), TRAIN, VALID)
    path.write_bytes(raw[:-41])  # the digest itself is cut off
    with pytest.raises(ValueError, match="run.pt is (damaged|no checkpoint)"):
        new(checkpoint=str(path)).fit(make_panel(), TRAIN, VALID)


def test_a_file_of_an_older_version_has_no_digest_and_is_read(tmp_path):
    path = tmp_path / "run.pt"
    cut(path)
    torch.save(torch.load(path) | {"format": "qlib_ext.trainer 1"}, path)
    assert new(checkpoint=str(path)).fit(make_panel(), TRAIN, VALID).resumed_from == 2


@pytest.mark.parametrize("checkpoint", [3, "", True, Path("x")])
def test_the_option_is_checked(checkpoint):
    with pytest.raises(ValueError, match="allowed: null, or the path of a file"):
        new(checkpoint=checkpoint)


def test_a_broken_write_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    cut(path)
    raw, save = path.read_bytes(), torch.save

    def half(content, file):
        save(content, file)
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        new(checkpoint=str(path)).fit(make_panel(), TRAIN, VALID)
    assert path.read_bytes() == raw and [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    monkeypatch.undo()
    assert new(checkpoint=str(path)).fit(make_panel(), TRAIN, VALID).resumed_from == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_goes_on_too(tmp_path):
    panel, path = make_panel(), tmp_path / "run.pt"
    whole = new("master", device="cuda", precision="float32")
    whole.fit(panel, TRAIN, VALID)
    cut(path, kind="master", device="cuda", precision="float32")
    state = torch.cuda.get_rng_state()
    again = new("master", device="cuda", precision="float32", checkpoint=str(path))
    assert again.fit(panel, TRAIN, VALID).resumed_from == 2
    assert torch.equal(torch.cuda.get_rng_state(), state)
    np.testing.assert_allclose(again.predict(panel, FRESH), whole.predict(panel, FRESH), atol=1e-4)
