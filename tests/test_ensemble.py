"""FoldEnsemble and WalkForwardModel: folds on a synthetic panel, artifacts and RollingGen on a small market."""

import pickle
from collections import namedtuple
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pandas as pd
import pytest
import qlib
import torch
from qlib.data import D
from qlib.data.dataset.handler import DataHandlerLP
from qlib.data.dataset.processor import Processor, RobustZScoreNorm, ZScoreNorm
from qlib.utils import init_instance_by_config
from qlib.workflow import R
from qlib.workflow.task.gen import RollingGen

from qlib_ext.data import DayDatasetH
from qlib_ext.model import (
    DayModel,
    FoldEnsemble,
    MASTERModel,
    MLPModel,
    WalkForwardModel,
    combined,
    fitted_processors,
)
from qlib_ext.panel import DayPanel
from qlib_ext.processor import CSNormalise
from qlib_ext.splits import WalkForward
from qlib_ext.synthetic import make_market
from qlib_ext.training import RobustScale

DAYS, N, F, T = 150, 10, 3, 3
REACH = 2  # of the label Ref($close, -2)/Ref($close, -1) - 1
GAP = REACH + T - 1
TRAIN, VALID, TEST = (0, 79), (80, 109), (110, DAYS - 1)  # first and last row
QUICK = {"hidden": [6, 4], "loss": "ic", "metric": "ic", "epochs": 2, "batch_days": 8, "lr": 0.01, "device": "cpu"}


class Handler:
    """Stands for a handler: the datasets here carry their panel."""

    def __init__(self, *processors):
        self.infer_processors = list(processors)


def make_panel(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(DAYS, N, F)).astype(np.float32)
    present = rng.random((DAYS, N)) > 0.1
    label = (0.02 * x[..., 0] + 0.01 * rng.normal(size=(DAYS, N))).astype(np.float32)
    x[~present] = 0
    return DayPanel(
        days=pd.date_range("2024-01-01", periods=DAYS, freq="B").to_numpy(),
        stocks=np.array([f"S{i:02d}" for i in range(N)], dtype=object),
        features=[f"f{i}" for i in range(F)],
        x=torch.from_numpy(x),
        present=torch.from_numpy(present),
        label=torch.from_numpy(label),
        liquidity=torch.from_numpy(rng.uniform(1e7, 1e9, size=(DAYS, N)).astype(np.float32)),
    )


def make_dataset(panel=None, *, handler=None, without=(), **segments):
    """Build a DayDatasetH whose panel is given; segments are pairs of rows."""
    panel = make_panel() if panel is None else panel
    rows = {"train": TRAIN, "valid": VALID, "test": TEST} | segments
    made = DayDatasetH.__new__(DayDatasetH)
    label = "Ref($close, -2)/Ref($close, -1) - 1"
    made.handler, made.step_len, made.label, made._panel = handler or Handler(), T, label, panel
    made.segments = {k: tuple(str(panel.days[r])[:10] for r in pair) for k, pair in rows.items() if k not in without}
    return made


class WindowedMLP(MLPModel):
    """An MLP that says it needs the dataset's window: quick, and its folds are those of MASTER."""

    needs_window = True

    def build(self, d_feat, d_gate):
        net = super().build(d_feat, d_gate)
        net.needs_window = True
        return net


def config(kind="WindowedMLP", **options):
    return {
        "class": kind,
        "module_path": __name__ if kind == "WindowedMLP" else "qlib_ext.model",
        "kwargs": QUICK | options,
    }


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


@pytest.fixture(scope="module")
def panel(dataset):
    return dataset.panel


@pytest.fixture(scope="module")
def folds(dataset):
    """Two seeds on three folds, with the rows that each member was given."""
    with pytest.MonkeyPatch.context() as patch:
        calls = spy(patch)
        model = FoldEnsemble(model=config(), n_splits=3, seeds=[0, 7])
        model.fit(dataset)
    return model, calls


def spy(patch):
    """Note what every member trains on: (train rows, valid rows, seed)."""
    calls, real = [], DayModel.fit_rows

    def noted(self, panel, step_len, train_rows, valid_rows, **kwargs):
        calls.append((np.array(train_rows), np.array(valid_rows), self.options["seed"]))
        return real(self, panel, step_len, train_rows, valid_rows, **kwargs)

    patch.setattr(DayModel, "fit_rows", noted)
    return calls


def footprint(day):
    """Days that a sample touches: its window and its label."""
    return set(range(day - T + 1, day + REACH + 1))


def touching(first, second):
    return any(footprint(s) & footprint(t) for s in first for t in second)


def grid_of(scores, panel):
    return scores.unstack("instrument").reindex(index=panel.days, columns=panel.stocks).to_numpy()


# --- folds


def test_every_day_is_scored_by_members_that_never_trained_near_it(folds, panel):
    model, calls = folds
    used = np.arange(TRAIN[0], VALID[1] + 1 - REACH)  # purged before test by the reach
    assert [seed for *_, seed in calls] == [0, 7] * 3
    seen = []
    for fold in range(3):
        (train, valid, _), (again, block, _) = calls[2 * fold : 2 * fold + 2]
        np.testing.assert_array_equal(train, again)
        np.testing.assert_array_equal(valid, block)
        assert not touching(train, valid)
        assert not touching(train, range(TEST[0] + T - 1, DAYS))
        near = {d for v in (valid[0], valid[-1]) for d in range(v - GAP, v + GAP + 1)} | set(valid)
        assert set(train) == set(used) - near  # nothing but the block and its gap was left out
        seen += list(valid)
    assert seen == list(used)
    oof = model.oof
    assert oof.name == "score" and oof.index.names == ["datetime", "instrument"] and oof.index.is_monotonic_increasing
    np.testing.assert_array_equal(np.isfinite(grid_of(oof, panel))[used], panel.present[used].numpy())
    assert set(oof.index.unique("datetime")) == set(pd.DatetimeIndex(panel.days[used]))


def test_oof_is_the_mean_of_the_folds_own_members(folds, panel):
    model, calls = folds
    oof = grid_of(model.oof, panel)
    for fold in range(3):
        valid = calls[2 * fold][1]
        own = [m.trainer.predict(panel, valid) for m in model.models[2 * fold : 2 * fold + 2]]
        by_hand = [(s - np.nanmean(s, 1, keepdims=True)) / np.nanstd(s, 1, keepdims=True) for s in own]
        np.testing.assert_allclose(oof[valid], np.mean(by_hand, axis=0), atol=1e-5)


def test_prediction_is_the_mean_of_the_members(folds, dataset, panel):
    model, _ = folds
    got = model.predict(dataset)
    rows = np.arange(TEST[0], TEST[1] + 1)
    parts = [pd.DataFrame(m.trainer.predict(panel, rows)).T for m in model.models]
    by_hand = sum((p - p.mean()) / p.std(ddof=0) for p in parts) / 6
    np.testing.assert_allclose(grid_of(got, panel)[rows], by_hand.T, atol=1e-5)
    single = model.models[0].predict(dataset)
    assert got.index.equals(single.index) and got.dtype == single.dtype and got.name == single.name
    part = model.predict(dataset, slice(panel.days[120], panel.days[121]))
    pd.testing.assert_series_equal(part, got.loc[panel.days[120] : panel.days[121]])


def test_records(folds, panel):
    model, calls = folds
    table = model.members
    assert list(table["fold"]) == [0, 0, 1, 1, 2, 2] and list(table["seed"]) == [0, 7] * 3
    for row, (train, valid, _), member in zip(table.itertuples(), calls, model.models, strict=True):
        assert (row.n_train, row.n_valid, row.metric) == (len(train), len(valid), "ic")
        assert (row.train_start, row.train_end) == (panel.days[train[0]], panel.days[train[-1]])
        assert (row.valid_start, row.valid_end) == (panel.days[valid[0]], panel.days[valid[-1]])
        assert (row.best_epoch, row.best_value) == (member.history.best_epoch, member.history.best_value)
    assert list(model.curves["epoch"]) == [1, 2] * 6
    assert set(model.curves) >= {"fold", "seed", "train_loss", "valid_loss", "ic", "ic_se", "capped_excess"}
    assert model.curves["ic"].iloc[3] == model.models[1].history.epochs[1]["ic"]
    parts = model.fold_map.pivot(index="fold", columns="day", values="part")
    for fold in range(3):
        train, valid, _ = calls[2 * fold]
        assert list(parts.columns[parts.loc[fold] == "train"]) == list(panel.days[train])
        assert list(parts.columns[parts.loc[fold] == "valid"]) == list(panel.days[valid])


def test_valid_may_be_absent_and_a_hole_is_no_trouble(monkeypatch):
    calls = spy(monkeypatch)
    one = FoldEnsemble(model=config(epochs=1), n_splits=2)
    one.fit(make_dataset(train=(0, 109), without=("valid",)))
    np.testing.assert_array_equal(np.concatenate([valid for _, valid, _ in calls]), np.arange(110 - REACH))
    calls.clear()
    one.fit(make_dataset(train=(0, 49), valid=(70, 99)))
    used = np.concatenate([np.arange(50), np.arange(70, 100)])
    np.testing.assert_array_equal(np.concatenate([valid for _, valid, _ in calls]), used)
    assert not any(touching(train, valid) for train, valid, _ in calls)


def test_rank_is_the_mean_of_daily_ranks():
    # second day: the tie of 2 and 2 takes the mean of ranks 1 and 2; one stock is absent
    a, b = np.array([[3, 1, 2, 9], [2, 2, 5, np.nan]]), np.array([[1, 2, 3, 4], [6, 5, 4, np.nan]])
    wanted = np.array([[2.0, 1.5, 2.5, 4.0], [2.25, 1.75, 2.0, np.nan]]) / np.array([[4], [3]])
    np.testing.assert_allclose(combined([a, b], "rank"), wanted, atol=1e-6)
    # (0, 2, 4) has mean 2, std sqrt(8/3); a constant day has no order, its scores become 0
    z = combined([np.array([[0, 2, 4, np.nan], [1e9 + 0.1] * 4])], "mean")
    np.testing.assert_allclose(z, [[-np.sqrt(1.5), 0, np.sqrt(1.5), np.nan], [0.0] * 4], atol=1e-7)
    assert not np.isfinite(combined([np.full((1, 3), np.nan)], "rank")).any()


@pytest.mark.parametrize("level", [1.0, -3e4, 1e-7])
def test_a_collapsed_member_is_constant_and_no_noise(level):
    one = np.float32(level)
    collapsed = np.array([[one, np.nextafter(one, np.float32(np.inf)), np.nextafter(one, np.float32(-np.inf))]])
    assert len(set(collapsed[0])) == 3
    np.testing.assert_array_equal(combined([collapsed], "mean"), [[0.0, 0.0, 0.0]])
    np.testing.assert_allclose(combined([collapsed], "rank"), [[2 / 3, 2 / 3, 2 / 3]])
    wide = collapsed + np.float32(1e-4 * abs(level)) * np.array([[1, 2, 3]], dtype=np.float32)
    assert abs(combined([wide], "mean")).max() > 1  # hundreds of float steps are a score
    for combine in ("mean", "rank"):
        scores = [np.array([[3, 1, 2]], dtype=np.float32), collapsed]
        assert np.argsort(combined(scores, combine)[0]).tolist() == [1, 2, 0]


def test_the_mean_over_members_is_the_plain_one():
    scores = [np.random.default_rng(seed).normal(size=(7, 9)).astype(np.float32) for seed in range(5)]
    wanted = np.mean([combined([score], "mean") for score in scores], axis=0)
    np.testing.assert_allclose(combined(scores, "mean"), wanted, rtol=1e-5, atol=1e-7)


def test_an_infinite_score_of_a_member_is_refused():
    for combine in ("mean", "rank"):
        with pytest.raises(ValueError, match="a member's scores hold infinities"):
            combined([np.array([[1.0, 2.0]]), np.array([[1.0, np.inf]])], combine)


def test_the_option_rank_is_used(folds, dataset, panel):
    model, _ = folds
    other = pickle.loads(pickle.dumps(model))
    other.combine = "rank"
    rows = np.arange(TEST[0], TEST[1] + 1)
    ranks = [pd.DataFrame(m.trainer.predict(panel, rows)).rank(axis=1, pct=True) for m in model.models]
    np.testing.assert_allclose(grid_of(other.predict(dataset), panel)[rows], sum(ranks) / 6, atol=1e-6)


def test_one_split_is_an_ensemble_of_seeds(dataset, panel, monkeypatch):
    calls = spy(monkeypatch)
    model = FoldEnsemble(model=config(), n_splits=1, seeds=(3, 4))
    model.fit(dataset)
    for train, valid, _ in calls:
        np.testing.assert_array_equal(train, dataset.rows("train"))
        np.testing.assert_array_equal(valid, dataset.rows("valid"))
    alone = MLPModel(**QUICK, seed=4)
    alone.fit(dataset)
    pd.testing.assert_series_equal(model.models[1].predict(dataset), alone.predict(dataset))
    assert not model.models[0].predict(dataset).equals(alone.predict(dataset))
    assert set(model.oof.index.unique("datetime")) == set(pd.DatetimeIndex(panel.days[dataset.rows("valid")]))
    assert list(model.members["seed"]) == [3, 4]


def test_training_never_touches_what_the_block_knows(panel):
    """Weights after one epoch are the same whatever stands in the block, its labels and the days around them."""
    valid = np.arange(40, 60)
    train = np.concatenate([np.arange(40 - GAP), np.arange(60 + GAP, 100)])
    spoilt = make_panel()
    spoilt.label[40 - REACH : 60] = -spoilt.label[40 - REACH : 60] * 1e3  # whatever touches the block's days
    spoilt.x[40 - T + 1 : 60 + REACH] = 7e4
    spoilt.liquidity[40 - T + 1 : 60 + REACH] *= 1e3
    states = []
    for market in (panel, spoilt):
        member = MASTERModel(d_model=8, t_heads=2, loss="liq_wpcc", metric="ic", epochs=1, scale="robust", device="cpu")
        member.fit_rows(market, T, train, valid)
        states.append(member.trainer.net.state_dict() | member.trainer.scaler.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    spoilt.x[60 + REACH + T - 1] += 1.0  # the first day of training after the block: this does show
    member.fit_rows(spoilt, T, train, valid)
    assert any(not torch.equal(states[0][k], v) for k, v in member.trainer.net.state_dict().items())


def test_the_scaler_is_fitted_on_the_folds_own_days(dataset, monkeypatch):
    seen, real = [], RobustScale.fit
    monkeypatch.setattr(RobustScale, "fit", lambda self, panel, rows: (seen.append(rows), real(self, panel, rows))[1])
    calls = spy(monkeypatch)
    model = FoldEnsemble(model=config(scale="robust", epochs=1), n_splits=3)
    model.fit(dataset)
    for rows, (train, _, _) in zip(seen, calls, strict=True):
        np.testing.assert_array_equal(rows, train)
    centers = [m.trainer.scaler.center for m in model.models]
    assert not torch.equal(centers[0], centers[1])


def test_two_processes_give_the_same(folds, dataset):
    model, _ = folds
    other = FoldEnsemble(model=config(), n_splits=3, seeds=[0, 7], processes=2)
    other.fit(dataset)
    assert dataset.panel.x.is_shared()  # the processes read the one panel
    pd.testing.assert_series_equal(other.oof, model.oof, atol=1e-5)
    pd.testing.assert_series_equal(other.predict(dataset), model.predict(dataset), atol=1e-5)
    pd.testing.assert_frame_equal(other.members, model.members, rtol=1e-4)
    pd.testing.assert_frame_equal(other.curves, model.curves, rtol=1e-4)


def test_only_what_is_not_shared_yet_must_fit_into_the_shared_memory(monkeypatch):
    panel, usage = make_panel(), namedtuple("usage", "total used free")
    check = resolve_name("qlib_ext.model.ensemble:check_shared_memory")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, panel.x.nbytes))
    monkeypatch.setattr(Path, "is_dir", lambda path: True)
    with pytest.raises(ValueError, match="0 MiB left: set processes: 1"):
        check(panel)
    panel.x.share_memory_()
    check(panel)  # the rest is small


def test_threads_are_shared_by_the_processes_that_start(dataset, monkeypatch):
    seen = []

    class Pool:
        def __init__(self, count, context, initializer, initargs):
            seen.append((count, initargs[0]))
            raise RuntimeError("enough")

    monkeypatch.setattr("qlib_ext.engine.processes.ProcessPoolExecutor", Pool)
    monkeypatch.setattr("torch.get_num_threads", lambda: 16)
    with pytest.raises(RuntimeError, match="enough"):
        FoldEnsemble(model=config(), n_splits=2, processes=8).fit(dataset)
    assert seen == [(2, 8)]


# --- windows and checkpoints


def test_a_model_of_the_day_alone_gets_no_window_and_no_gap_for_one(dataset, monkeypatch):
    calls, told, lengths, real = spy(monkeypatch), [], [], DayModel.fit_rows
    monkeypatch.setattr("qlib_ext.model.day_model.logger.info", lambda text, **_: told.append(text))
    monkeypatch.setattr(
        DayModel,
        "fit_rows",
        lambda self, panel, step_len, *a, **k: lengths.append(step_len) or real(self, panel, step_len, *a, **k),
    )
    model = FoldEnsemble(model=config("MLPModel", epochs=1), n_splits=3)
    model.fit(dataset)
    used = np.arange(TRAIN[0], VALID[1] + 1 - REACH)
    for train, valid, _ in calls:
        near = set(range(valid[0] - REACH, valid[-1] + REACH + 1))
        assert set(train) == set(used) - near
    assert lengths == [1, 1, 1] and {m.trainer.step_len for m in model.models} == {1}
    assert [text for text in told if "step_len" in text] == ["MLPModel looks at the day alone: step_len=3 becomes 1"]
    FoldEnsemble(model=config("MLPModel", epochs=1), n_splits=3, gap=REACH).fit(dataset)  # strict, and long enough
    told.clear()
    alone = MLPModel(**QUICK, seed=0)
    alone.fit(dataset)
    assert alone.trainer.step_len == 1 and sum("step_len=3 becomes 1" in text for text in told) == 1
    windowed = WindowedMLP(**QUICK, seed=0)
    windowed.fit(dataset)
    assert windowed.trainer.step_len == T
    pd.testing.assert_series_equal(windowed.predict(dataset), alone.predict(dataset))  # what it was given for nothing


class Broken(RuntimeError):
    pass


@pytest.mark.parametrize("kind", ["folds", "walk"])
def test_an_ensemble_cut_short_goes_on_where_it_was(dataset, monkeypatch, tmp_path, kind):
    def new(**options):
        if kind == "folds":
            return FoldEnsemble(model=config(dropout=0.1, **options), n_splits=2, seeds=[0, 7])
        return WalkForwardModel(model=config(dropout=0.1, **options), step=20, seeds=[0, 7])

    whole = new()
    whole.fit(dataset)
    told = []

    def fail(prefix, counter, epoch, row):
        told.append((prefix, epoch))
        if (prefix, epoch) == ("fold1.seed0.", 1):
            raise Broken

    monkeypatch.setattr("qlib_ext.model.day_model.report", fail)
    cut = new(checkpoint=str(tmp_path / "runs" / "run.pt"))
    with pytest.raises(Broken):
        cut.fit(dataset)
    names = ["run.fold0.seed0.pt", "run.fold0.seed7.pt", "run.fold1.seed0.pt"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names
    monkeypatch.setattr("qlib_ext.model.day_model.report", lambda prefix, _, epoch, row: told.append((prefix, epoch)))
    told.clear()
    cut.fit(dataset)
    assert told == [("fold1.seed0.", 2), ("fold1.seed7.", 1), ("fold1.seed7.", 2)]
    assert [m.history.resumed_from for m in cut.models] == [2, 2, 1, 0]
    pd.testing.assert_series_equal(cut.predict(dataset), whole.predict(dataset))
    pd.testing.assert_frame_equal(cut.curves, whole.curves)
    assert not list((tmp_path / "runs").iterdir())


# --- strictness


class OwnFit(Processor):
    def fit(self, df=None):
        self.mean = df.mean()

    def __call__(self, df):
        return df


DATES = {"fit_start_time": "2024-01-01", "fit_end_time": "2024-03-29"}


@pytest.mark.parametrize("processor", [RobustZScoreNorm(**DATES), ZScoreNorm(None, None), OwnFit()])
def test_processors_fitted_over_time_are_refused(processor, monkeypatch):
    dataset = make_dataset(handler=Handler(processor))
    name = type(processor).__name__
    with pytest.raises(ValueError, match=f"^{name} in .*CSNormalise.*`scale: robust`.*strict: false"):
        FoldEnsemble(model=config(), n_splits=2).fit(dataset)
    told = []
    monkeypatch.setattr("qlib_ext.model.folds.logger.warning", told.append)
    FoldEnsemble(model=config(epochs=1), n_splits=2, strict=False).fit(dataset)
    assert any(name in text for text in told)


def test_processors_that_fit_nothing_pass():
    label_only = ZScoreNorm(None, None, fields_group="label")  # our labels are the raw ones
    assert fitted_processors(Handler(CSNormalise(), label_only)) == []
    late = RobustZScoreNorm("2024-01-01", "2024-03-29")
    assert fitted_processors(Handler(late), until="2024-03-29") == []
    assert fitted_processors(Handler(late), until="2024-03-28") == [late]


def test_a_short_gap_is_refused_or_reported(dataset, monkeypatch):
    with pytest.raises(ValueError, match=r"gap=1 lets training touch .* need 4"):
        FoldEnsemble(model=config(), n_splits=3, gap=1).fit(dataset)
    with pytest.raises(ValueError, match=r"gap=3 lets training touch"):
        WalkForwardModel(model=config(), step=20, gap=3).fit(dataset)
    told = []
    monkeypatch.setattr("qlib_ext.model.ensemble.logger.warning", told.append)
    FoldEnsemble(model=config(epochs=1), n_splits=3, gap=1, strict=False).fit(dataset)
    assert len(told) == 3 and all("share a label or window" in text for text in told)


def test_overlap_is_logged(dataset, monkeypatch):
    told = []
    monkeypatch.setattr("qlib_ext.model.ensemble.logger.info", told.append)
    FoldEnsemble(model=config(epochs=1), n_splits=2).fit(dataset)
    # blocks of 54 days, gap 4: 54 - (62 - 1 - 4) < 0, so that every day of a block has a training day within 62
    assert sum("overlap 0, feature_overlap 100% (62 days)" in text for text in told) == 2


def test_errors(dataset):
    with pytest.raises(TypeError, match=r"FoldEnsemble has no option 'n_split'; close: \['n_splits'\]"):
        FoldEnsemble(model=config(), n_split=3)
    with pytest.raises(TypeError, match=r"WalkForwardModel has no option 'steps'; close: \['step'"):
        WalkForwardModel(model=config(), step=5, steps=5)
    with pytest.raises(TypeError, match=r"WindowedMLP has no option 'n_epohcs'; close: \[.*'epochs'"):
        FoldEnsemble(model=config(n_epohcs=2))
    with pytest.raises(TypeError, match="keys class, module_path, kwargs"):
        FoldEnsemble(model={"class": "MLPModel", "kwarg": {}})
    with pytest.raises(TypeError, match="FoldEnsemble has no option 'seed'"):
        FoldEnsemble(model={"class": "FoldEnsemble", "kwargs": {"model": config()}})
    with pytest.raises(TypeError, match="LinearModel cannot train on chosen days: wanted MLPModel"):
        FoldEnsemble(model={"class": "LinearModel", "module_path": __name__})
    with pytest.raises(ValueError, match="unknown combine 'median'.*mean, rank"):
        FoldEnsemble(model=config(), combine="median")
    for seeds in ([], [1, 1], 3, [0.5], "01", [-1]):
        with pytest.raises(ValueError, match="distinct whole numbers"):
            FoldEnsemble(model=config(), seeds=seeds)
    for kwargs, match in [
        ({"n_splits": 0}, "n_splits is 0; "),
        ({"processes": 0}, "processes is 0; "),
        ({"n_splits": 1, "gap": 4}, "does nothing with n_splits=1"),
        ({"strict": "yes"}, "strict is 'yes'; "),
    ]:
        with pytest.raises(ValueError, match=match):
            FoldEnsemble(model=config(), **kwargs)
    with pytest.raises(ValueError, match="step is 0; "):
        WalkForwardModel(model=config(), step=0)
    for model in (FoldEnsemble(model=config()), WalkForwardModel(model=config(), step=20)):
        with pytest.raises(ValueError, match="call fit first"):
            model.predict(dataset)
        with pytest.raises(ValueError, match="reweighter"):
            model.fit(dataset, reweighter=object())
    with pytest.raises(ValueError, match="call fit, or load folds/oof.pkl"):
        _ = FoldEnsemble(model=config()).oof


class LinearModel:
    def __init__(self, seed):
        self.seed = seed


def test_segments_out_of_place():
    early = make_dataset(train=(40, 99), valid=(100, 149), test=(0, 30))
    with pytest.raises(ValueError, match="test must come after train and valid"):
        FoldEnsemble(model=config(), n_splits=2).fit(early)
    with pytest.raises(ValueError, match="must follow each other in time"):
        WalkForwardModel(model=config(), step=20).fit(early)
    with pytest.raises(ValueError, match="no segment 'train'"):
        FoldEnsemble(model=config()).fit(make_dataset(without=("train",)))
    with pytest.raises(ValueError, match="no segment 'valid'"):
        WalkForwardModel(model=config(), step=20).fit(make_dataset(without=("valid",)))
    with pytest.raises(ValueError, match=r"gap=4 leaves no day of train \(76\) or valid \(0\)"):
        WalkForwardModel(model=config(), step=20).fit(make_dataset(train=(0, 79), valid=(80, 83), test=(84, 149)))


# --- walk-forward


@pytest.fixture(scope="module")
def walked(dataset):
    with pytest.MonkeyPatch.context() as patch:
        calls = spy(patch)
        model = WalkForwardModel(model=config(), step=15, seeds=[0, 7])
        model.fit(dataset)
    return model, calls


def test_walk_forward_trains_strictly_before_each_test_day(walked, dataset, panel):
    model, calls = walked
    prediction = model.predict(dataset)
    assert prediction.index.is_unique and prediction.index.is_monotonic_increasing
    rows = np.arange(TEST[0], TEST[1] + 1)
    scores = grid_of(prediction, panel)
    np.testing.assert_array_equal(np.isfinite(scores)[rows], panel.present[rows].numpy())
    assert not np.isfinite(scores[: TEST[0]]).any()
    assert len(calls) == 6  # 40 test days in blocks of 15, 15 and 10; two seeds
    for block in range(3):
        test = rows[15 * block : 15 * block + 15]
        train, valid, _ = calls[2 * block]
        assert train.max() + REACH < valid.min() and valid.max() + REACH < test.min()
        assert not (touching(train, valid) or touching(valid, test) or touching(train, test))
        own = [pd.DataFrame(m.trainer.predict(panel, test)).T for m in model.models[2 * block : 2 * block + 2]]
        by_hand = sum((s - s.mean()) / s.std(ddof=0) for s in own) / 2
        np.testing.assert_allclose(scores[test], by_hand.T, atol=1e-5)


@pytest.mark.parametrize("expanding", [False, True])
def test_walk_forward_rows_are_those_of_the_splitter(dataset, monkeypatch, expanding):
    calls = spy(monkeypatch)
    WalkForwardModel(model=config(epochs=1), step=20, expanding=expanding).fit(dataset)
    # segments that touch: the gap is taken from the end of the 80 and the 30 days
    cut = WalkForward(80 - GAP, 30 - GAP, 20, reach=REACH, window=T, expanding=expanding)
    for (train, valid, _), (first, second, _) in zip(calls, cut.split(DAYS), strict=True):
        np.testing.assert_array_equal(train, first)
        np.testing.assert_array_equal(valid, second)


def test_walk_forward_records(walked, panel):
    model, calls = walked
    assert list(model.members["fold"]) == [0, 0, 1, 1, 2, 2] and list(model.members["n_test"]) == [15] * 4 + [10] * 2
    assert list(model.members["test_start"]) == [panel.days[r] for r in (110, 110, 125, 125, 140, 140)]
    assert model.members["test_end"].iloc[-1] == panel.days[-1]
    parts = model.fold_map.pivot(index="fold", columns="day", values="part")
    for fold in range(3):
        assert list(parts.columns[parts.loc[fold] == "train"]) == list(panel.days[calls[2 * fold][0]])
    assert (parts == "test").sum(axis=1).tolist() == [15, 15, 10] and set(model.curves["fold"]) == {0, 1, 2}


SAME = {"check_dtype": False, "check_names": False}


def test_walk_forward_scores_nothing_else(walked, dataset, panel):
    model, _ = walked
    for name in ("train", "tset"):
        with pytest.raises(ValueError, match=f"segment='{name}': a walk-forward scores 'test', and 'valid'"):
            model.predict(dataset, name)
    first = pd.concat(
        [member.predict(dataset, "valid") for member in model.models[:2]], axis=1
    )  # the first block's two
    scaled = first.groupby("datetime").transform(lambda day: (day - day.mean()) / day.std(ddof=0)).mean(axis=1)
    pd.testing.assert_series_equal(model.predict(dataset, "valid"), scaled, rtol=1e-3, atol=1e-4, **SAME)
    part = model.predict(dataset, slice(panel.days[124], panel.days[125]))  # the seam of two blocks
    pd.testing.assert_series_equal(part, model.predict(dataset).loc[panel.days[124] : panel.days[125]])
    with pytest.raises(ValueError, match="members were trained for 2024-06-03 to 2024-07-26, asked were 2024-05-31"):
        model.predict(dataset, slice(panel.days[109], panel.days[112]))


def test_walk_forward_allows_what_was_fitted_before_all(dataset, panel):
    end = str(panel.days[TRAIN[1] - GAP])[:10]  # the last day of the first block's training
    fine = make_dataset(handler=Handler(RobustZScoreNorm("2024-01-01", end)))
    WalkForwardModel(model=config(epochs=1), step=40).fit(fine)
    late = make_dataset(handler=Handler(RobustZScoreNorm("2024-01-01", str(panel.days[TRAIN[1] - GAP + 1])[:10])))
    with pytest.raises(ValueError, match="RobustZScoreNorm .*CSNormalise"):
        WalkForwardModel(model=config(epochs=1), step=40).fit(late)


# --- pickles, artifacts, qlib's own rolling


@pytest.mark.parametrize("which", ["folds", "walked"])
def test_pickling_leaves_the_panel_out(which, request, dataset, panel):
    model, _ = request.getfixturevalue(which)
    raw = pickle.dumps(model)
    assert len(raw) < 400_000 and b"DayPanel" not in raw and panel.x[0].numpy().tobytes() not in raw
    again = pickle.loads(raw)
    pd.testing.assert_series_equal(again.predict(dataset), model.predict(dataset))
    pd.testing.assert_frame_equal(again.members, model.members)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    path = make_market(folder / "market", n_stocks=12, start="2020-01-02", years=1.0, seed=3)
    kwargs = {"uri": f"sqlite:///{folder}/mlruns.db", "default_exp_name": "folds"}
    manager = {"class": "SqliteExpManager", "module_path": "qlib_ext.recorder", "kwargs": kwargs}
    qlib.init(provider_uri=str(path), region="cn", exp_manager=manager, kernels=1)


def test_artifacts_and_metrics_of_a_run(market, dataset):
    model = init_instance_by_config(
        {
            "class": "FoldEnsemble",
            "module_path": "qlib_ext.model",
            "kwargs": {"model": config(), "n_splits": 2, "seeds": [0, 5]},
        }
    )
    walk, single = WalkForwardModel(model=config(), step=40), MLPModel(**QUICK)
    with R.start(experiment_name="folds"):
        recorder = R.get_recorder()
        single.fit(dataset)
        curves = recorder.load_object("folds/curves.pkl")
        assert list(curves["epoch"]) == [1, 2] and set(curves["fold"]) == {0} and set(curves["seed"]) == {0}
        for one in (walk, model):
            one.fit(dataset)
            for name in ("members", "curves", "fold_map"):
                pd.testing.assert_frame_equal(recorder.load_object(f"folds/{name}.pkl"), getattr(one, name))
    pd.testing.assert_series_equal(recorder.load_object("folds/oof.pkl"), model.oof)
    metrics, last = recorder.list_metrics(), model.curves.query("fold == 1 and seed == 5").iloc[-1]
    assert metrics["fold1.seed5.ic"] == pytest.approx(last["ic"])
    assert metrics["ic"] == pytest.approx(single.history.epochs[-1]["ic"])
    assert sum(name.endswith("valid_loss") for name in metrics) == 1 + 4  # the walk's one member is fold0.seed0 too


@pytest.mark.parametrize("expanding", [False, True])
def test_blocks_agree_with_qlibs_rolling(market, monkeypatch, expanding):
    panel = make_panel()
    panel.days = pd.DatetimeIndex(D.calendar())[
        1 : DAYS + 1
    ].to_numpy()  # RollingGen cannot cut a segment that starts on the calendar's first
    dataset = make_dataset(panel)
    own = pd.DatetimeIndex(panel.days)
    pairs = {name: tuple(pair) for name, pair in dataset.segments.items()}
    task = {"dataset": {"kwargs": {"segments": pairs}}}
    kind = RollingGen.ROLL_EX if expanding else RollingGen.ROLL_SD
    tasks = RollingGen(step=15, rtype=kind).generate(task)
    cut = RollingGen(step=15, rtype=kind, trunc_days=GAP + 1).generate(task)  # qlib's own way of a gap before test
    calls = spy(monkeypatch)
    model = WalkForwardModel(model=config(epochs=1), step=15, expanding=expanding)
    model.fit(dataset)
    blocks = model.members[["test_start", "test_end"]].itertuples(index=False)
    for block, (train, valid, _), qlibs, purged in zip(blocks, calls, tasks, cut, strict=True):
        segments, shorter = (t["dataset"]["kwargs"]["segments"] for t in (qlibs, purged))
        assert block.test_start == segments["test"][0]
        assert block.test_end == min(segments["test"][1], pd.Timestamp(panel.days[-1]))
        assert (own[train[0]], own[train[-1] + GAP]) == segments["train"]
        assert (own[valid[0]], own[valid[-1] + GAP]) == segments["valid"]
        assert (own[valid[0]], own[valid[-1]]) == shorter["valid"]


def test_a_real_handler_is_looked_through(market):
    fields = {"feature": (["$close/$open"], ["KMID"]), "label": (["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"])}
    norm = {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature"}}
    loader = {
        "class": "QlibDataLoader",
        "module_path": "qlib.data.dataset.loader",
        "kwargs": {"config": fields},
    }
    norm["kwargs"] |= {"fit_start_time": "2020-05-06", "fit_end_time": "2020-05-29"}
    dates = {"start_time": "2020-05-06", "end_time": "2020-06-30"}
    handler = DataHandlerLP("all", **dates, data_loader=loader, infer_processors=[norm], learn_processors=[])
    assert [type(p).__name__ for p in fitted_processors(handler)] == ["RobustZScoreNorm"]
