import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from qlib_ext.evaluate import daily_metrics, metric_value
from qlib_ext.losses import DayLoss
from qlib_ext.nets import MASTER, MLP, Gate
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import fill_top_n
from qlib_ext.training import RobustScale, Trainer, pick_device, pick_precision

D, N, F = 60, 12, 3
TRAIN, VALID, FRESH = np.arange(30), np.arange(30, 42), np.arange(42, D)


def make_panel(seed=0, days=D, *, shuffled=False, noise=0.01):
    """Build a panel whose label is 0.02 x_0 plus noise, or the same in a random order within each day."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(days, N, F)).astype(np.float32)
    label = (0.02 * x[..., 0] + noise * rng.normal(size=(days, N))).astype(np.float32)
    if shuffled:
        label = rng.permuted(label, axis=1)
    present = rng.random((days, N)) > 0.1
    x[~present] = 0
    return DayPanel(
        days=pd.date_range("2024-01-01", periods=days, freq="B").to_numpy(),
        stocks=np.array([f"S{i:02d}" for i in range(N)], dtype=object),
        features=[f"f{i}" for i in range(F)],
        x=torch.from_numpy(x),
        present=torch.from_numpy(present),
        label=torch.from_numpy(label),
        liquidity=torch.from_numpy(rng.uniform(1e7, 1e9, size=(days, N)).astype(np.float32)),
    )


def make_trainer(loss="ic", *, net=None, **options):
    torch.manual_seed(1)
    options = {"metric": "ic", "epochs": 2, "lr": 1e-2, "device": "cpu"} | options
    return Trainer(net or MLP(F, (8,), dropout=0.1), DayLoss(loss), **options)


def fresh_ic(trainer, panel, rows=FRESH):
    return metric_value("ic", trainer.predict(panel, rows), panel.label[rows].numpy())[0]


def state_of(net):
    return copy.deepcopy(net.state_dict())


def same_state(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("loss", ["ic", "wpcc", "liq_wpcc", "mse"])
def test_finds_a_planted_signal(loss):
    panel, trainer = make_panel(), make_trainer(loss, epochs=6)
    history = trainer.fit(panel, TRAIN, VALID)
    assert fresh_ic(trainer, panel) > 0.3
    assert history.degenerate_days == 0
    assert history.epochs[-1]["train_loss"] < history.epochs[0]["train_loss"]


def test_master_finds_a_planted_signal_with_a_window():
    panel = make_panel()
    net = MASTER(F, 8, 2, 2, dropout=0.0)
    trainer = make_trainer(net=net, step_len=2, epochs=3)
    trainer.fit(panel, TRAIN, VALID)
    assert fresh_ic(trainer, panel) > 0.3


def test_shuffled_labels_find_nothing():
    panel, rows = make_panel(days=160, shuffled=True), np.arange(42, 160)
    trainer = make_trainer(epochs=8)
    trainer.fit(panel, TRAIN, VALID)
    # 118 days of 11 stocks: a standard error of 0.03
    assert abs(fresh_ic(trainer, panel, rows)) < 0.1


def test_unknown_metric_names_close_ones():
    with pytest.raises(ValueError, match="unknown metric 'rank_icc' .did you mean .*'rank_ic'.*Allowed: ic, rank_ic"):
        make_trainer(metric="rank_icc")


@pytest.mark.parametrize("name", ["epochs", "patience", "lr", "batch_days"])
def test_zero_options_are_errors(name):
    with pytest.raises(ValueError, match=f"{name} is 0; allowed"):
        make_trainer(**{name: 0})


def test_unknown_scale_is_an_error():
    with pytest.raises(ValueError, match="scale='zscore'"):
        make_trainer(scale="zscore")


def test_liq_wpcc_without_liquidity_is_a_clear_error():
    panel = make_panel()
    panel.liquidity = None
    with pytest.raises(ValueError, match="this loss needs liquidity"):
        make_trainer("liq_wpcc").fit(panel, TRAIN, VALID)


def test_money_metric_without_liquidity_is_a_clear_error():
    panel = make_panel()
    panel.liquidity = None
    with pytest.raises(ValueError, match="liquidity"):
        make_trainer(metric="capped_excess").fit(panel, TRAIN, VALID)


def test_all_labels_nan_is_an_error():
    panel = make_panel()
    panel.label[:] = torch.nan
    with pytest.raises(ValueError, match="0 of 30 training days can be learnt from"):
        make_trainer().fit(panel, TRAIN, VALID)


def test_validation_without_labels_is_an_error():
    panel = make_panel()
    panel.label[VALID] = torch.nan
    with pytest.raises(ValueError, match="metric ic is nan on the validation days"):
        make_trainer().fit(panel, TRAIN, VALID)


def test_validation_without_stocks_is_an_error():
    panel = make_panel()
    panel.present[VALID] = False
    with pytest.raises(ValueError, match="0 validation days have stocks"):
        make_trainer().fit(panel, TRAIN, VALID)


def test_window_longer_than_history_is_an_error():
    with pytest.raises(ValueError, match=f"step_len={D + 1} is longer than the history of {D} days"):
        make_trainer(net=MASTER(F, 8, 2, 2), step_len=D + 1).fit(make_panel(), TRAIN, VALID)


def test_absent_gpu_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda:0' but torch sees no GPU"):
        make_trainer(device="cuda:0")
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("device", ["tpu", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "meta", "", None, 0, "CPU"])
def test_other_devices_are_errors(device):
    with pytest.raises(ValueError, match=f"device={device!r}; allowed: 'auto', 'cpu', 'cuda', 'cuda:<number>'"):
        make_trainer(device=device)


def with_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_an_index_beyond_the_gpus_is_an_error(monkeypatch):
    with_gpus(monkeypatch, 2)
    assert pick_device("cuda:1") == torch.device("cuda:1") and pick_device("cuda") == torch.device("cuda")
    with pytest.raises(ValueError, match="device='cuda:2' but torch sees only cuda:0, cuda:1: use one of them, or"):
        make_trainer(device="cuda:2")


@pytest.mark.parametrize(
    ("asked", "count", "wanted"),
    [
        *(("cuda:1", 1, "cuda"), ("cuda:1", 2, "cuda:1"), ("cuda:1", 0, "cpu"), ("cuda", 0, "cpu")),
        *(("cuda", 3, "cuda"), ("cpu", 1, "cpu"), ("auto", 1, "cuda"), ("auto", 0, "cpu")),
    ],
)
def test_a_pickle_takes_the_nearest_device_there_is(monkeypatch, asked, count, wanted):
    trainer = make_trainer(precision="float32")
    trainer.asked = (asked, "float32")
    raw = pickle.dumps(trainer)
    with_gpus(monkeypatch, count)
    assert pickle.loads(raw).device == torch.device(wanted)


def test_same_seed_gives_the_same_scores():
    panel, scores = make_panel(), []
    for seed in (5, 5, 6):
        trainer = make_trainer(seed=seed)
        torch.rand(seed + len(scores))  # what the generator did before must not matter
        trainer.fit(panel, TRAIN, VALID)
        scores.append(trainer.predict(panel, FRESH))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2], equal_nan=True)


def test_fit_leaves_the_global_generator_as_it_was():
    trainer = make_trainer(epochs=1)
    before = torch.get_rng_state()
    trainer.fit(make_panel(), TRAIN, VALID)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fit_on_the_cpu_seeds_no_gpu(monkeypatch):
    # seeds of GPUs are queued until CUDA starts, and nothing would put back what was there
    called = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", called.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", called.append)
    make_trainer(epochs=1).fit(make_panel(), TRAIN, VALID)
    assert called == [1]  # make_trainer's own torch.manual_seed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fit_leaves_the_gpus_generators_as_they_were(device):
    trainer = make_trainer(epochs=1, device=device)
    before = torch.cuda.get_rng_state_all()
    trainer.fit(make_panel(), TRAIN, VALID)
    assert all(torch.equal(a, b) for a, b in zip(before, torch.cuda.get_rng_state_all(), strict=True))


@pytest.mark.parametrize("scale", [None, "robust"])
def test_pickle_roundtrip_predicts_the_same(scale):
    panel, trainer = make_panel(), make_trainer(scale=scale)
    trainer.fit(panel, TRAIN, VALID)
    again = pickle.loads(pickle.dumps(trainer))
    score = trainer.predict(panel, FRESH)
    np.testing.assert_array_equal(again.predict(panel, FRESH), score)
    assert np.nanstd(score) > 0


def test_predict_is_nan_exactly_where_absent_in_the_order_of_rows():
    panel, trainer = make_panel(), make_trainer(batch_days=3)
    panel.present[50] = False
    rows = np.array([55, 50, 43, 44, 59])
    score = trainer.predict(panel, rows)
    np.testing.assert_array_equal(np.isfinite(score), panel.present[rows].numpy())
    for i, d in enumerate(rows):
        np.testing.assert_allclose(score[i], trainer.predict(panel, np.array([d]))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["ic", "capped_excess"])
def test_best_state_is_restored(metric):
    panel = make_panel(seed=3, shuffled=True)
    trainer = make_trainer(metric=metric, epochs=12, patience=3, lr=0.05, capital=1e7, top_n=4)
    states = []
    history = trainer.fit(panel, TRAIN, VALID, on_epoch=lambda *_: states.append(state_of(trainer.net)))
    values = [row[metric] for row in history.epochs]
    assert history.best_epoch < len(values), "the best epoch is the last: nothing to restore"
    assert history.best_epoch == 1 + int(np.argmax(values))
    assert len(values) == min(12, history.best_epoch + 3)
    assert same_state(trainer.net.state_dict(), states[history.best_epoch - 1])
    assert not same_state(trainer.net.state_dict(), states[-1])
    score, liquidity = trainer.predict(panel, VALID), panel.liquidity[VALID].numpy()
    value, _ = metric_value(metric, score, panel.label[VALID].numpy(), liquidity, **trainer.money)
    assert value == pytest.approx(history.best_value, rel=1e-6)


def test_degenerate_days_are_counted_and_left_out():
    panel = make_panel()
    panel.label[2] = torch.nan  # no label
    panel.label[5] = 0.01  # all equal
    panel.present[9] = False  # no stock
    panel.label[11, 1:] = torch.nan  # one label at most
    seen = []

    def spy(batches, count):
        for batch in batches:
            seen.extend(batch.days.tolist())
            yield batch

    history = make_trainer(epochs=1).fit(panel, TRAIN, VALID, progress=spy)
    assert history.degenerate_days == 4
    assert sorted(seen) == [d for d in TRAIN if d not in (2, 5, 9, 11)]


def test_batch_without_a_valid_day_leaves_parameters_unchanged():
    panel, trainer = make_panel(), make_trainer()
    panel.label[:4] = torch.nan
    optimiser = torch.optim.Adam(trainer.net.parameters(), lr=0.1, weight_decay=0.1)
    trainer.run_epoch(panel, np.arange(10, 14), optimiser)  # momentum that could move on
    before = state_of(trainer.net)
    mean, _ = trainer.run_epoch(panel, np.arange(4), optimiser)
    assert np.isnan(mean)
    assert same_state(before, trainer.net.state_dict())
    trainer.run_epoch(panel, np.arange(4, 8), optimiser)
    assert not same_state(before, trainer.net.state_dict())


def test_epoch_without_optimiser_does_not_learn():
    panel, trainer = make_panel(), make_trainer()
    before = state_of(trainer.net)
    mean, score = trainer.run_epoch(panel, VALID)
    assert same_state(before, trainer.net.state_dict())
    ic = metric_value("ic", score, panel.label[VALID].numpy())[0]
    assert mean == pytest.approx(-ic, abs=1e-5)


def test_mean_loss_does_not_depend_on_the_batch_size():
    panel = make_panel()
    panel.label[VALID[3]] = torch.nan
    means = [make_trainer(batch_days=size).run_epoch(panel, VALID)[0] for size in (1, 5, 12)]
    np.testing.assert_allclose(means, means[0], rtol=1e-5)


def test_robust_scale_by_hand():
    panel, scaler = make_panel(), RobustScale(F)
    panel.x[:, :, 2] = 4.0  # constant
    scaler.fit(panel, TRAIN)
    real = panel.x[TRAIN][panel.present[TRAIN]]
    median = real.median(dim=0).values
    wanted = 1.4826 * (real - median).abs().median(dim=0).values
    torch.testing.assert_close(scaler.center, median)
    torch.testing.assert_close(scaler.scale[:2], wanted[:2])
    assert scaler.scale[2] == 1.0
    out = scaler(torch.full((1, F), 1e6))
    assert out.tolist() == [[3.0] * F]


def test_a_feature_that_is_mostly_one_value_is_scaled_by_its_standard_deviation():
    # of 10 values 8 are 5: MAD 0; 0 and 10 beside them: variance 2 * 25 / 10 = 5; the gate has the same rule
    panel, scaler, gate = make_panel(days=1), RobustScale(F), Gate(F, 2)
    panel.x = torch.zeros(1, 10, F)
    panel.present = torch.ones(1, 10, dtype=torch.bool)
    panel.x[0, :, 0] = torch.tensor([5.0, 5, 5, 5, 5, 5, 5, 5, 0, 10])
    panel.x[0, :, 1] = torch.arange(10.0)
    scaler.fit(panel, np.array([0]))
    gate.fit(panel.x[0])
    # median 4 (the lower of the two), deviations 0 1 1 2 2 3 3 4 4 5: median 2
    torch.testing.assert_close(scaler.scale, torch.tensor([5.0**0.5, 2 * 1.4826, 1.0]))
    torch.testing.assert_close(scaler(panel.x[:, 8:])[0, :, 0], torch.tensor([-(5.0**0.5), 5.0**0.5]))
    torch.testing.assert_close(gate.spread, torch.tensor([5.0**0.5, 2 * 1.4826, torch.inf]))
    torch.testing.assert_close(gate.center, scaler.center)


def test_robust_scale_sees_training_days_only():
    panel, other = make_panel(), make_panel()
    other.x[FRESH] = 1e5 * torch.rand(len(FRESH), N, F)
    trainers = [make_trainer(scale="robust"), make_trainer(scale="robust")]
    for trainer, data in zip(trainers, (panel, other), strict=True):
        trainer.fit(data, TRAIN, VALID)
    a, b = trainers
    assert same_state(a.scaler.state_dict(), b.scaler.state_dict())
    assert same_state(a.net.state_dict(), b.net.state_dict())
    np.testing.assert_array_equal(a.predict(panel, VALID), b.predict(panel, VALID))
    changed = make_panel()
    changed.x[TRAIN] *= 10
    c = make_trainer(scale="robust")
    c.fit(changed, TRAIN, VALID)
    assert not same_state(a.scaler.state_dict(), c.scaler.state_dict())


def test_robust_scale_ignores_absent_stocks_and_validation_days():
    panel, other = make_panel(), make_panel()
    other.x[VALID] = 1e5
    other.x[~other.present] = 1e5
    a, b = RobustScale(F), RobustScale(F)
    a.fit(panel, TRAIN)
    b.fit(other, TRAIN)
    assert same_state(a.state_dict(), b.state_dict())


def test_a_loss_that_is_not_finite_stops():
    panel, trainer = make_panel(), make_trainer("mse")
    with torch.no_grad():
        trainer.net.head.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="lower lr"):
        trainer.fit(panel, TRAIN, VALID)
    with pytest.raises(FloatingPointError, match="not finite"):
        trainer.predict(panel, VALID)


def test_bfloat16_scores_stay_near_float32():
    panel = make_panel()
    scores = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(1)
        trainer = make_trainer(net=MASTER(F, 8, 2, 2, dropout=0.0), step_len=2, epochs=3, precision=precision)
        trainer.fit(panel, TRAIN, VALID)
        scores[precision] = trainer.predict(panel, FRESH)
    assert scores["bfloat16"].dtype == np.float32
    real = np.isfinite(scores["float32"])
    assert np.array_equal(real, np.isfinite(scores["bfloat16"]))
    assert not np.array_equal(scores["float32"][real], scores["bfloat16"][real])
    assert np.corrcoef(scores["float32"][real], scores["bfloat16"][real])[0, 1] > 0.999


def test_precision_is_checked():
    with pytest.raises(ValueError, match="precision='half'; allowed: auto, float32, bfloat16"):
        make_trainer(precision="half")


def test_every_epoch_tells_names_held_and_cash_left():
    panel, trainer = make_panel(), make_trainer("liq_wpcc")
    row = trainer.fit(panel, TRAIN, VALID).epochs[-1]
    assert 0 < row["capped_names_held"] <= N
    assert 0 <= row["capped_cash_share"] < 1
    assert {"ic", "ic_se", "rank_ic", "capped_return", "capped_excess", "train_loss"} <= set(row)


def test_robust_scale_refuses_features_that_were_missing():
    panel = make_panel()
    panel.filled = 0.3
    with pytest.raises(ValueError, match="30.00% of the feature values were missing"):
        make_trainer(scale="robust").fit(panel, TRAIN, VALID)


def test_a_pickle_chooses_its_device_and_precision_anew():
    trainer = make_trainer(device="auto", precision="auto")
    trainer.fit(make_panel(), TRAIN, VALID)
    trainer.precision, trainer.device = "bfloat16", torch.device("meta")  # as if it came from a GPU
    state = trainer.__dict__ | {"_compiled": None}
    again = Trainer.__new__(Trainer)
    again.__setstate__(state)
    assert (again.device.type, again.precision) == (pick_device("auto").type, pick_precision("auto", again.device))


def test_a_compiled_network_trains_the_same_parameters_and_pickles(monkeypatch):
    called = []

    def wrap(net):
        def call(*inputs):
            called.append(1)
            return net(*inputs)

        return call

    monkeypatch.setattr(torch, "compile", wrap)
    panel = make_panel()
    plain, compiled = make_trainer(), make_trainer(compile=True)
    plain.fit(panel, TRAIN, VALID)
    compiled.fit(panel, TRAIN, VALID)
    assert called and same_state(plain.net.state_dict(), compiled.net.state_dict())
    again = pickle.loads(pickle.dumps(compiled))
    assert np.array_equal(again.predict(panel, FRESH), plain.predict(panel, FRESH), equal_nan=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_trains_like_the_cpu():
    panel, scores = make_panel(), {}
    for device in ("cpu", "cuda"):
        net = MASTER(F, 8, 2, 2, dropout=0.0)
        trainer = make_trainer(net=net, step_len=2, epochs=3, device=device, precision="float32")
        trainer.fit(panel, TRAIN, VALID)
        scores[device] = trainer.predict(panel, FRESH)
        again = pickle.loads(pickle.dumps(trainer))
        assert np.allclose(again.predict(panel, FRESH), scores[device], atol=1e-4, equal_nan=True)
        state = trainer.__getstate__()["net"].state_dict()
        assert all(value.device.type == "cpu" for value in state.values())  # a machine without a GPU can load it
    # the level of a day's scores is free under a correlation, and Adam walks along it on rounding alone
    centred = {k: v - np.nanmean(v, axis=1, keepdims=True) for k, v in scores.items()}
    real = np.isfinite(scores["cpu"])
    assert np.array_equal(real, np.isfinite(scores["cuda"]))
    assert np.corrcoef(centred["cpu"][real], centred["cuda"][real])[0, 1] > 0.999


# --- what the metric is


class Scorer(torch.nn.Module):
    """Scores (B, N): the first feature, with a sign that the loss moves; no luck, no window."""

    d_gate, needs_window = 0, False

    def __init__(self, start=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(start))

    def forward(self, x, present=None, market=None):
        return self.weight * x[:, -1, :, 0]


LEARN = Trainer._learn


def test_a_constant_network_has_a_ratio_of_zero_and_goes_on(monkeypatch):
    panel = make_panel()
    for metric in ("icir", "rank_icir"):
        trainer = make_trainer(net=Scorer(), metric=metric, epochs=3)
        with monkeypatch.context() as patch:  # the first epoch learns nothing
            steps = []
            patch.setattr(
                Trainer, "_learn", lambda self, *a, s=steps: s.append(1) or (LEARN(self, *a) if len(s) > 8 else None)
            )
            history = trainer.fit(panel, TRAIN, VALID)
        assert history.epochs[0][metric] == 0.0 and history.epochs[0]["ic"] == 0.0
        assert history.best_epoch > 1 and history.best_value > 1


def test_an_undefined_ratio_is_not_better(monkeypatch):
    ratios, real = iter([0.5, np.nan, 0.4]), Trainer._judge

    def judged(self, *given):
        return real(self, *given) | {"icir": next(ratios)}

    monkeypatch.setattr(Trainer, "_judge", judged)
    history = make_trainer(metric="icir", epochs=3).fit(make_panel(), TRAIN, VALID)
    assert (history.best_epoch, history.best_value, len(history.epochs)) == (1, 0.5, 3)
    ratios = iter([np.nan, np.nan])
    with pytest.raises(ValueError, match="metric icir is defined in none of 2 epochs: each has the same ic on all"):
        make_trainer(metric="icir").fit(make_panel(), TRAIN, VALID)


@pytest.mark.parametrize("metric", ["icir", "rank_icir"])
def test_a_ratio_over_one_day_is_refused_for_what_it_is(metric):
    panel, column = make_panel(), metric.removesuffix("ir")
    wanted = f"'{metric}' is a mean over days .* needs 2 or more validation days with an {column} .* are 1. Lengthen"
    with pytest.raises(ValueError, match=wanted):
        make_trainer(metric=metric).fit(panel, TRAIN, VALID[:1])
    panel.label[VALID[1:]] = torch.nan
    with pytest.raises(ValueError, match=wanted):
        make_trainer(metric=metric).fit(panel, TRAIN, VALID)
    make_trainer(metric=metric).fit(make_panel(), TRAIN, VALID[:2])


def with_buyable(seed=0):
    panel = make_panel(seed)
    panel.buyable = torch.from_numpy(np.random.default_rng(9).random((D, N)) < 0.6)
    return panel


@pytest.mark.parametrize("metric", ["capped_excess", "capped_excess_buyable", "topn_excess"])
def test_early_stopping_earns_what_could_be_bought(metric):
    panel, money = with_buyable(), {"capital": 5e7, "participation": 0.05, "top_n": 4}
    trainer, scores = make_trainer(metric=metric, epochs=1, **money), []
    history = trainer.fit(panel, TRAIN, VALID, on_epoch=lambda *_: scores.append(trainer.predict(panel, VALID)))
    label, liquidity = panel.label[VALID].numpy().astype(float), panel.liquidity[VALID].numpy()
    buyable, real = panel.buyable[VALID].numpy(), np.isfinite(scores[-1])
    top_n = 4 if metric.startswith("topn") else None
    yuan = fill_top_n(scores[-1], liquidity, capital=5e7, participation=0.05, top_n=top_n)
    gap = label - np.where(real, label, np.nan).mean(axis=1, where=real, keepdims=True)
    daily = {
        name: (np.where(mask, yuan, 0.0) * gap).sum(axis=1) / 5e7 for name, mask in (("", buyable), ("paper", real))
    }
    assert history.epochs[-1][metric] == pytest.approx(daily[""].mean(), rel=1e-9)
    assert abs(daily[""].mean() - daily["paper"].mean()) > 1e-4  # it would show if everything were bought


@pytest.mark.parametrize(("loss", "option"), [("wpcc", {"base": 0.01}), ("liq_wpcc", {"alpha": 400.0})])
def test_the_metric_has_the_losss_own_weights(loss, option):
    panel = make_panel()
    trainer = Trainer(MLP(F, (8,)), DayLoss(loss, **option), metric=loss, epochs=1, device="cpu")
    row = trainer.fit(panel, TRAIN, VALID).epochs[-1]
    grids = trainer.predict(panel, VALID), panel.label[VALID].numpy(), panel.liquidity[VALID].numpy()
    assert row[loss] == pytest.approx(daily_metrics(*grids, names=[loss], **option)[loss].mean(), rel=1e-12)
    assert row[loss] == pytest.approx(-row["valid_loss"], rel=1e-5)
    assert abs(row[loss] - daily_metrics(*grids, names=[loss])[loss].mean()) > 1e-4


# --- windows


def test_a_network_of_the_day_alone_gets_no_window():
    with pytest.warns(UserWarning, match="MLP looks at the day alone: step_len=8 becomes 1"):
        trainer = make_trainer(step_len=8)
    assert trainer.step_len == 1
    panel, seen = make_panel(), []
    trainer.net.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))
    trainer.fit(panel, TRAIN, VALID)
    assert set(seen) == {1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_trainer(net=MASTER(F, 8, 2, 2), step_len=8).step_len == 8 and make_trainer().step_len == 1


def test_memory_that_does_not_suffice_is_told_with_the_cure():
    class Greedy(MLP):
        def forward(self, *inputs):
            return torch.ones(2**55)

    trainer, panel = make_trainer(net=Greedy(F, (8,))), make_panel()
    for use in (lambda: trainer.fit(panel, TRAIN, VALID), lambda: trainer.predict(panel, VALID)):
        with pytest.raises(MemoryError, match="not enough memory .*: set a smaller batch_days"):
            use()
