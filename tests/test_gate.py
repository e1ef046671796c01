"""The gate in a run: index and macro features of a DayDatasetH, the authors' weights to start from, GateRecord."""

import os
import pickle
import re
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import qlib
import reference_nets
import torch
from qlib.data import D
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import init_instance_by_config

from qlib_ext.data import DayDatasetH, MacroState, MarketState, known_indices, load_state
from qlib_ext.evaluate import daily_metrics
from qlib_ext.features import ALPHA158_NAMES
from qlib_ext.leak import perturb_provider
from qlib_ext.model import FoldEnsemble, MASTERModel, MLPModel, WalkForwardModel
from qlib_ext.nets import load_official_master
from qlib_ext.panel import OFFICIAL_INDICES, OFFICIAL_NAMES, DayPanel, read_macro
from qlib_ext.record import GateRecord, gate_weights, regimes
from qlib_ext.synthetic import make_market, simulate
from qlib_ext.workflow import load_workflow

sys.path.append(str(Path(__file__).resolve().parents[1]))  # `benchmarks` is not installed
from studies.gates import with_market  # noqa: E402

START, TURN, END = "2020-02-17", "2020-06-15", "2020-08-31"
SEGMENTS = {"train": (START, "2020-05-29"), "valid": ("2020-06-01", "2020-06-30"), "test": ("2020-07-01", END)}
FEATURES = {"KSFT": "(2*$close-$high-$low)/$open", "KMID": "($close-$open)/$open", "VWAP0": "$vwap/$close"}
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
INDEX = {"windows": [5, 20]}
MACRO = {
    "path": "macro.csv",
    "series": {
        "vix": {"foreign": True, "transform": ["level", "zscore"], "window": 20},
        "shibor_3m": {"foreign": False, "transform": "difference"},
        "cpi": {"foreign": False, "frequency": "monthly", "release": "cpi_release"},
    },
}
MACRO_NAMES = ["vix_level", "vix_zscore", "shibor_3m_difference", "cpi_level"]
SMALL = {"d_model": 8, "t_heads": 2, "s_heads": 2, "loss": "ic", "metric": "ic", "epochs": 1, "device": "cpu"}


def start_qlib(path):
    qlib.init(provider_uri=str(path), region="cn", kernels=1)


def make_handler(end=END):
    fields = {"feature": (list(FEATURES.values()), list(FEATURES)), "label": ([LABEL], ["LABEL0"])}
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": fields}}
    processors = [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}]
    return DataHandlerLP("all", START, end, data_loader=loader, infer_processors=processors, learn_processors=[])


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    path = make_market(tmp_path_factory.mktemp("gate") / "market", n_stocks=20, years=0.8, seed=3)
    start_qlib(path)
    return path


@pytest.fixture(scope="module")
def handler(market):
    return make_handler()


@pytest.fixture(scope="module")
def dataset(handler):
    return DayDatasetH(handler, SEGMENTS, step_len=2, market_state=INDEX, macro_state=MACRO)


@pytest.fixture(scope="module")
def fitted(dataset):
    model = MASTERModel(gate=True, beta=1.0, **SMALL)
    model.fit(dataset)
    return model


# --- what the panel holds


def test_index_features_equal_qlibs_expressions(dataset):
    change, amount = "$close/Ref($close, 1) - 1", "$amount"
    expressions = [change]
    for d in (5, 20):
        expressions += [f"Mean({change}, {d})", f"Std({change}, {d})", f"Mean({amount}, {d})/{amount}"]
        expressions += [f"Std({amount}, {d})/{amount}"]
    truth = D.features(["SH000300"], expressions, START, END).droplevel("instrument")
    panel = dataset.panel
    assert dataset.market_names == [*MarketState(windows=(5, 20)).names(["SH000300"]), *MACRO_NAMES]
    assert panel.market.shape == (len(panel.days), 9 + 4)
    np.testing.assert_allclose(panel.market[:, :9], truth.loc[pd.DatetimeIndex(panel.days)], rtol=2e-4, atol=1e-6)


def test_macro_features_come_from_the_file_by_their_dates(dataset, market):
    table = pd.read_csv(market / "macro.csv", comment="#", parse_dates=["date"], index_col="date")
    days, got = pd.DatetimeIndex(dataset.panel.days), dataset.panel.market[:, 9:].numpy()
    vix, cpi = table["vix"].dropna(), table[["cpi", "cpi_release"]].dropna()
    for row in range(0, len(days), 7):
        day = days[row]
        assert got[row, 0] == np.float32(vix[vix.index < day].iloc[-1])  # of the day before at the latest
        assert got[row, 3] == np.float32(cpi["cpi"][pd.to_datetime(cpi["cpi_release"]) <= day].iloc[-1])


def test_nothing_of_the_state_knows_the_future(dataset, market, tmp_path):
    perturb_provider(market, tmp_path / "copy", TURN, seed=1)
    table = pd.read_csv(market / "macro.csv", comment="#", index_col="date")
    table.loc[table.index > TURN, ["vix", "shibor_3m"]] *= 1.7
    table.loc[TURN, "vix"] *= 3.0  # the American value of the day itself is not known at its close
    (tmp_path / "copy" / "macro.csv").unlink()
    table.to_csv(tmp_path / "copy" / "macro.csv")
    try:
        start_qlib(tmp_path / "copy")
        other = DayDatasetH(make_handler(), SEGMENTS, market_state=INDEX, macro_state=MACRO).panel
    finally:
        start_qlib(market)
    k = int(np.searchsorted(dataset.panel.days, np.datetime64(TURN)))
    assert torch.equal(other.market[: k + 1], dataset.panel.market[: k + 1])
    changed = other.market[k + 1] != dataset.panel.market[k + 1]
    assert changed[:9].all() and changed[9:12].all() and not changed[12]


def test_one_kind_or_none(handler):
    assert DayDatasetH(handler, SEGMENTS, macro_state=MACRO).panel.market.shape[1] == 4
    deck = DayDatasetH(handler, SEGMENTS, market_state={"kind": "deck", "turnover": "close_volume"})
    assert deck.panel.market.shape[1] == 4 and deck.market_names[0] == "SH000300_price_mean_6"
    none = DayDatasetH(handler, SEGMENTS)
    assert none.panel.market is None and none.market_names == []
    kept = pickle.loads(pickle.dumps(deck.market_state))
    assert kept == MarketState(kind="deck", turnover="close_volume") and isinstance(MacroState.of(MACRO), MacroState)


def test_what_is_missing_is_an_error_with_its_cure(handler, market, tmp_path):
    assert known_indices() == ["SH000300"]

    def panel(**options):
        return DayDatasetH(handler, SEGMENTS, **options).panel

    with pytest.raises(ValueError, match="no index SH000905; the provider has SH000300: choose"):
        panel(market_state={"indices": ["SH000905"], "windows": [5]})
    with pytest.raises(ValueError, match="need 60 trading days before the first day 2020-02-17: start the handler"):
        panel(market_state=True)
    with pytest.raises(FileNotFoundError, match="no file 'nowhere.csv' here .*workflows/macro_example.csv"):
        panel(macro_state=MACRO | {"path": "nowhere.csv"})
    with pytest.raises(TypeError, match="no option 'indice'"):
        DayDatasetH(handler, SEGMENTS, market_state={"indice": []})
    with pytest.raises(TypeError, match=r"DayDatasetH has no option 'market_stat'; close: \['market_state'"):
        DayDatasetH(handler, SEGMENTS, market_stat=True)
    bare = tmp_path / "bare"
    shutil.copytree(market, bare)
    (bare / "features" / "sh000300" / "amount.day.bin").unlink()
    try:
        start_qlib(bare)
        volume = panel(market_state=INDEX).market
        assert torch.equal(volume, panel(market_state=INDEX | {"turnover": "volume"}).market)
        with pytest.raises(ValueError, match=r"SH000300 has no \$amount between the days: set turnover: volume"):
            panel(market_state=INDEX | {"turnover": "amount"})
    finally:
        start_qlib(market)


def test_any_code_that_the_user_names_may_be_an_index(handler, market, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(market, other)
    shutil.copytree(other / "features" / "sh000300", other / "features" / "sh930050")  # CSI A50: not SH000xxx
    state = {"indices": ["SH930050", "SH000300"], "windows": [5]}
    try:
        start_qlib(other)
        assert known_indices() == ["SH000300"] and known_indices(["SH930050"]) == ["SH000300", "SH930050"]
        dataset = DayDatasetH(handler, SEGMENTS, market_state=state)
        assert torch.equal(dataset.panel.market[:, :5], dataset.panel.market[:, 5:])
        assert dataset.market_names[0] == "SH930050_return" and dataset.market_names == dataset.panel.market_features
        with pytest.raises(ValueError, match="no index SH930051; the provider has SH000300:"):
            _ = DayDatasetH(handler, SEGMENTS, market_state=state | {"indices": ["SH930051"]}).panel
    finally:
        start_qlib(market)


def test_the_comparison_names_its_market_features(dataset):
    frame = load_state(MarketState(windows=(5,)), None, pd.DatetimeIndex(dataset.panel.days))
    panel = with_market(dataset.panel, frame)
    assert panel.market_features == list(frame) and len(panel.market_features) == panel.market.shape[1] == 5
    assert len(dataset.panel.market_features) == 13


def test_the_macro_workflow_uses_the_columns_that_its_comment_names(monkeypatch, market, tmp_path):
    workflow = Path(__file__).parents[1] / "workflows" / "master_macro.yaml"
    table = read_macro([market / "macro.csv"])
    comment = re.search(r"# date, ([\w, ]+ and \w+);", workflow.read_text(encoding="utf-8"))[1]
    six = comment.replace(" and ", ", ").split(", ")
    days = pd.DatetimeIndex(D.calendar())[-60:]

    def rendered(columns, **variables):
        for name in ("", "_CPI"):
            monkeypatch.delenv(f"QLIB_EXT_MACRO{name}", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"QLIB_EXT_{name}", value)
        given = load_workflow(workflow)["task"]["dataset"]["kwargs"]["macro_state"]
        state = MacroState.of(given)
        return given, state.compute(columns, pd.DatetimeIndex(D.calendar()), days)[0]

    given, frame = rendered(table)
    assert list(given["series"]) == [*six, "cpi"] and given["path"] == "macro.csv" and len(frame.columns) == 14
    given, frame = rendered(table[six], MACRO="mine.csv")  # needs no other column
    assert list(given["series"]) == six and given["path"] == "mine.csv" and len(frame.columns) == 12
    own = table.rename(columns={"cpi_release": "published"})
    given, frame = rendered(own, MACRO="mine.csv", MACRO_CPI="published")
    assert given["series"]["cpi"]["release"] == "published" and "cpi_difference" in frame
    with pytest.raises(ValueError, match="no column 'gold'; .*add it, or leave the series gold out"):
        rendered(table.drop(columns="gold"), MACRO="mine.csv")


# --- the model


@pytest.mark.parametrize("gate", ["false", "off", 1, None])
def test_the_gate_is_on_or_off(gate):
    with pytest.raises(ValueError, match=f"gate is {gate!r}; allowed"):
        MASTERModel(gate=gate, **SMALL)


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        (MASTERModel, "gat", "gate"),
        (MASTERModel, "init_form", "init_from"),
        (MASTERModel, "bta", "beta"),
        (MASTERModel, "n_epohcs", "epochs"),
        (MLPModel, "hiden", "hidden"),
    ],
)
def test_a_misspelt_option_names_the_close_one_of_the_model(kind, wrong, right):
    with pytest.raises(
        TypeError, match=f"{kind.__name__} has no option '{wrong}'; close: .*'{right}'.*allowed: .*loss"
    ):
        kind(**{wrong: 1})


def test_a_parameter_that_a_subclass_does_not_pass_on_is_no_option():
    class Mine(MASTERModel):
        def __init__(self, *, own=1, **options):
            super().__init__(own=own, **options)

    with pytest.raises(TypeError, match=r"Mine has no option 'own'.*allowed: d_model, .*gate"):
        Mine()


def test_a_gated_model_trains_predicts_and_pickles(fitted, dataset):
    score = fitted.predict(dataset)
    again = pickle.loads(pickle.dumps(fitted))
    pd.testing.assert_series_equal(again.predict(dataset), score)
    assert score.index.is_monotonic_increasing and score.std() > 0
    gate = fitted.trainer.net.gate
    assert (gate.limit == 3).all() and gate.center.abs().max() > 0
    names = {"gate.center", "gate.spread", "gate.limit"}
    assert names <= set(fitted.trainer.net.state_dict())


def test_a_gate_needs_its_market_features(dataset, handler, fitted):
    with pytest.raises(ValueError, match=r"no market features: give DayDatasetH\(market_state=true\)"):
        MASTERModel(gate=True, **SMALL).fit(DayDatasetH(handler, SEGMENTS))
    with pytest.raises(ValueError, match="no market features"):
        MASTERModel(gate=True, **SMALL).fit(DatasetH(handler, SEGMENTS))
    other = DayDatasetH(handler, SEGMENTS, step_len=2, market_state=INDEX | {"windows": [5, 10]}, macro_state=MACRO)
    with pytest.raises(ValueError, match="trained on 13 market features, .*place 5: .*return_mean_20.*return_mean_10"):
        fitted.predict(other)
    plain = MASTERModel(**SMALL)  # without a gate the features are there for others
    plain.fit(dataset)
    assert plain.trainer.net.gate is None and len(plain.predict(other))


def test_folds_fit_the_state_on_their_own_days(dataset):
    config = {"class": "MASTERModel", "kwargs": {"gate": True, **SMALL}}
    model = FoldEnsemble(model=config, n_splits=2)
    model.fit(dataset)
    panel = dataset.panel
    centers = []
    for fold, member in zip(model.folds(panel, SEGMENTS, 2, 2), model.models, strict=True):
        gate = member.trainer.net.gate
        wanted = panel.market[torch.as_tensor(fold.train)].median(0).values
        torch.testing.assert_close(gate.center, wanted)
        centers.append(gate.center)
    assert (centers[0] != centers[1]).any()
    weights = gate_weights(model, dataset)
    state = panel.market[torch.as_tensor(dataset.rows("test"))]
    with torch.no_grad():
        mean = torch.stack([m.trainer.net.gate(state) for m in model.models]).mean(0)
    np.testing.assert_allclose(weights, mean, rtol=1e-5)


# --- the record


def test_gate_weights_are_what_the_network_multiplies_with(fitted, dataset):
    weights = gate_weights(fitted, dataset)
    panel, rows = dataset.panel, dataset.rows("test")
    assert list(weights) == panel.features and (weights.index == pd.DatetimeIndex(panel.days[rows])).all()
    np.testing.assert_allclose(weights.mean(axis=1), 1.0, rtol=1e-5)
    assert weights.std().min() > 0
    net = fitted.trainer.net
    with torch.no_grad():
        batch = panel.batch(rows[4:5], step_len=2)
        whole = net(batch.x, batch.present, batch.market)
        x = batch.x * torch.tensor(weights.iloc[4].to_numpy(dtype=np.float32))
        gate, net.gate, net.d_gate = net.gate, None, 0
        torch.testing.assert_close(net(x, batch.present), whole)
        net.gate, net.d_gate = gate, gate.proj.in_features
    with pytest.raises(ValueError, match="MASTERModel has no trained gate"):
        gate_weights(MASTERModel(gate=True, **SMALL), dataset)


def test_regimes_by_hand():
    days = pd.bdate_range("2020-01-01", periods=6)
    market = pd.DataFrame({"calm": [0.0, 0, 0, 0, 0, 0], "vix": [1.0, 2, 3, 4, 5, 6]}, days)
    # a falls by .1 a day from 1.6: low third of vix: 1.55, high third: 1.15; b stays
    weights = pd.DataFrame({"b": [1.0] * 6, "a": [1.6, 1.5, 1.4, 1.3, 1.2, 1.1]}, days)
    table = regimes(weights, market)
    assert list(table.index) == ["a", "b"] and table.loc["a", "moved_by"] == "vix"
    assert table.loc["a", "correlation"] == pytest.approx(-1.0) and table.loc["b", "correlation"] == 0.0
    assert table.loc["a", ["mean", "low", "high"]].to_list() == pytest.approx([1.35, 1.55, 1.15])
    assert list(regimes(weights, market[["calm"]])) == ["mean", "standard_deviation"]


def test_regimes_of_a_state_in_steps():
    # 16 days at 0 and 4 at 1, or the other way round: the lower step is low, the upper one high, whatever their length;
    # three steps of 1, 1, 2, 2, 3, 3: a third each
    days = pd.bdate_range("2020-01-01", periods=20)
    weights = pd.DataFrame({"a": np.arange(20.0)}, days)
    for first in (16, 4):
        market = pd.DataFrame({"rate": [0.0] * first + [1.0] * (20 - first)}, days)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = regimes(weights, market)
        assert table.loc["a", ["low", "high"]].to_list() == [(first - 1) / 2, (first + 19) / 2]
    table = regimes(weights.iloc[:6], pd.DataFrame({"rate": [1.0, 1, 2, 2, 3, 3]}, days[:6]))
    assert table.loc["a", ["low", "high"]].to_list() == [0.5, 4.5]
    # steps of 1, 5 and 6 days: the second one reaches beyond the lowest third, 4 days, and is not low
    table = regimes(weights.iloc[:12], pd.DataFrame({"rate": [1.0] + [2.0] * 5 + [3.0] * 6}, days[:12]))
    assert table.loc["a", ["low", "high"]].to_list() == [0.0, 8.5]


class Recorder:
    """Takes what a record saves."""

    def __init__(self):
        self.saved = {}

    def save_objects(self, artifact_path=None, **objects):
        self.saved |= {f"{artifact_path}/{name}": value for name, value in objects.items()}

    def list_artifacts(self, path=None):
        return ["pred.pkl", "label.pkl"]

    def load_object(self, name, **kwargs):
        return self.saved.get(name)


def test_the_record_writes_weights_state_and_regimes(fitted, dataset, handler):
    recorder = Recorder()
    record = GateRecord(recorder, fitted, dataset)
    made = record._generate()
    assert sorted(made) == sorted(record.list())
    pd.testing.assert_frame_equal(made["weights.pkl"], gate_weights(fitted, dataset))
    assert list(made["market.pkl"]) == dataset.market_names and len(made["regimes.pkl"]) == len(FEATURES)
    both = GateRecord(recorder, fitted, dataset, segments=["test", "valid"])._generate()
    assert len(both["weights.pkl"]) == len(both["market.pkl"]) == len(dataset.rows("valid")) + len(dataset.rows("test"))
    days, rows = both["weights.pkl"].index, np.concatenate([dataset.rows("valid"), dataset.rows("test")])
    assert (days == pd.DatetimeIndex(dataset.panel.days[rows])).all() and (both["market.pkl"].index == days).all()
    np.testing.assert_array_equal(both["market.pkl"], dataset.panel.market[torch.as_tensor(rows)])
    pd.testing.assert_frame_equal(both["weights.pkl"].loc[made["weights.pkl"].index], made["weights.pkl"])
    for wrong in ("vald", ["test", "test"], []):
        with pytest.raises(ValueError, match=r"segments=.*; wanted one or more of train, valid, test"):
            GateRecord(recorder, fitted, dataset, segments=wrong)
    with pytest.raises(ValueError, match="GateRecord needs a DayDatasetH with a market_state"):
        GateRecord(recorder, fitted, DayDatasetH(handler, SEGMENTS))


def test_a_walk_forward_shows_each_blocks_own_gate(dataset):
    config = {"class": "MASTERModel", "kwargs": {"gate": True, **SMALL}}
    model = WalkForwardModel(model=config, step=20)
    model.fit(dataset)
    weights, rows = gate_weights(model, dataset), dataset.rows("test")
    assert len(model.models) == 3
    for number in range(3):
        at = slice(20 * number, 20 * number + 20)
        with torch.no_grad():
            own = model.models[number].trainer.net.gate(dataset.panel.market[torch.as_tensor(rows[at])])
        np.testing.assert_allclose(weights.iloc[at], own, rtol=1e-5)


# --- the authors' weights


def checkpoint(path, d_feat=3, d_model=8, d_gate=13, seed=1):
    torch.save(reference_nets.random_checkpoint(d_feat, d_model, d_gate, seed=seed), path)
    return str(path)


def test_a_start_from_the_authors_weights(dataset, tmp_path):
    path = checkpoint(tmp_path / "master.pkl")
    options = SMALL | {"gate": True, "beta": 2.0, "init_from": path, "dropout": 0.1}
    start = load_official_master(path, beta=2.0, t_heads=2, s_heads=2).state_dict()
    still = MASTERModel(**options, lr=1e-12)
    still.fit(dataset)
    net = still.trainer.net
    for name, value in net.state_dict().items():
        if name not in ("gate.center", "gate.spread", "gate.limit"):
            torch.testing.assert_close(value, start[name], atol=1e-7, rtol=1e-6)
    assert (net.gate.limit == 3).all() and net.intra.ffn[2].p == 0.1  # scaled by our training days, our dropout
    several = still.build(3, 13, 2).head  # each head starts as the authors' one
    assert torch.equal(several.weight, start["head.weight"].expand(2, -1)) and several.bias.shape == (2,)
    tuned = MASTERModel(**options | {"epochs": 4, "patience": 4}, lr=0.01)
    tuned.fit(dataset)
    losses = [row["train_loss"] for row in tuned.history.epochs]
    assert losses[-1] < losses[0] - 0.01, losses
    assert (tuned.trainer.net.embed.weight - start["embed.weight"]).abs().max() > 1e-3
    pd.testing.assert_series_equal(pickle.loads(pickle.dumps(tuned)).predict(dataset), tuned.predict(dataset))


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({}, {"d_model": 16}, "d_model is 16, the checkpoint's is 8"),
        ({}, {"gate": False}, "gate is False, the checkpoint's is True"),
        ({"d_gate": 0}, {}, "gate is True, the checkpoint's is False"),
        ({}, {"variant": "paper"}, "variant is paper, the checkpoint's is official"),
        ({}, {"t_heads": 3}, "t_heads=3"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error_at_once(tmp_path, sizes, options, message):
    path = checkpoint(tmp_path / "master.pkl", **sizes)
    with pytest.raises(ValueError, match=message):
        MASTERModel(**SMALL | {"gate": True, "init_from": path} | options)


def test_other_features_than_the_authors_are_refused(dataset, tmp_path):
    rows = dataset.rows("train"), dataset.rows("valid")
    wrong = MASTERModel(**SMALL, gate=True, init_from=checkpoint(tmp_path / "a.pkl", d_feat=5, d_gate=9))
    with pytest.raises(ValueError, match="features is 3, .* is 5; number of market features is 13, .* is 9"):
        wrong.fit(dataset)
    panel = dataset.panel
    wide = replace(panel, x=panel.x.repeat(1, 1, 53)[..., :158], features=[*ALPHA158_NAMES])
    model = MASTERModel(**SMALL, gate=True, init_from=checkpoint(tmp_path / "b.pkl", d_feat=158))
    model.fit_rows(wide, 2, *rows)
    turned = replace(wide, features=[*ALPHA158_NAMES[1::-1], *ALPHA158_NAMES[2:]])
    with pytest.raises(ValueError, match="features are not those of the authors.* place 0: .'KMID', 'KLEN'.*Alpha158"):
        model.fit_rows(turned, 2, *rows)

    states = [*OFFICIAL_NAMES[:-1], "vix_level"]
    other = replace(panel, market=torch.zeros(len(panel.days), 63), market_features=states)
    with pytest.raises(ValueError, match="market features are not those of the authors.* place 62: .*turnover_std_60"):
        model = MASTERModel(**SMALL, gate=True, init_from=checkpoint(tmp_path / "c.pkl", d_feat=len(panel.features)))
        model.fit_rows(other, 2, *rows)


def authors_panel(days=24, stocks=9, seed=0):
    """Days of 158 scaled features and the 63 of the indices, raw; some stocks are absent on some days."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.standard_normal((days, stocks, 158)), -3, 3)
    market = 0.01 * rng.standard_normal((days, 63)) + 0.02
    return DayPanel(
        days=pd.bdate_range("2020-01-01", periods=days).to_numpy(),
        stocks=np.array([f"S{i:03d}" for i in range(stocks)], dtype=object),
        features=[*ALPHA158_NAMES],
        x=torch.from_numpy(x.astype(np.float32)),
        present=torch.from_numpy(rng.random((days, stocks)) > 0.1),
        label=torch.from_numpy(0.02 * rng.standard_normal((days, stocks)).astype(np.float32)),
        market=torch.from_numpy(market.astype(np.float32)),
        market_features=[*OFFICIAL_NAMES],
    )


def start_and_tune(path, beta):
    """Scores of the authors' network on a panel, of ours at its start, and of ours after an epoch, where present."""
    panel, rows = authors_panel(), (np.arange(8, 16), np.arange(16, 20))
    test = np.arange(16, 24)
    size = {"loss": "ic", "metric": "ic", "epochs": 1, "batch_days": 4, "device": "cpu", "precision": "float32"}
    state = panel.market.numpy()
    median = np.sort(state[rows[0]], axis=0)[3]  # torch's: the lower one of the two in the middle of 8
    spread = 1.4826 * np.sort(np.abs(state[rows[0]] - median), axis=0)[3]
    scaled = np.clip((state - median) / spread, -3, 3).astype(np.float32)  # on the training days
    batch = panel.batch(test, step_len=8)
    with torch.no_grad():
        wanted = load_official_master(path, beta=beta)(batch.x, batch.present, torch.from_numpy(scaled[test]))
    scores = [wanted[batch.present[:, -1]]]
    for lr in (1e-12, 1e-4):
        model = MASTERModel(**size, init_from=path, gate=True, beta=beta, lr=lr)
        model.fit_rows(panel, 8, *rows)
        found = torch.as_tensor(model.trainer.predict(panel, test))
        scores.append(found[panel.present[torch.as_tensor(test)]])
    return [one.double() for one in scores]


def assert_it_starts_there_and_moves(path, beta):
    wanted, start, tuned = start_and_tune(path, beta)
    torch.testing.assert_close(start, wanted, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(tuned).all() and (tuned - start).abs().mean() > 0.01 * start.std()


def test_a_model_with_158_and_63_features_starts_from_random_weights_by_the_authors_names(tmp_path):
    torch.save(reference_nets.random_checkpoint(158, 256, 63), tmp_path / "csi300.pkl")
    assert_it_starts_there_and_moves(str(tmp_path / "csi300.pkl"), 5.0)


@pytest.mark.realdata
def test_a_model_starts_from_the_authors_own_weights(tmp_path):
    name, given = "master_official_csi300.npz", os.environ.get("QLIB_EXT_GOLDEN", "")
    path = Path(given) / name if Path(given).is_dir() else Path(given)
    if not given or not path.is_file():
        pytest.skip(f"needs QLIB_EXT_GOLDEN, {name} or its folder")
    with np.load(path) as arrays:
        state = {key.removeprefix("param/"): torch.from_numpy(arrays[key]) for key in arrays if key.startswith("param")}
        beta = float(arrays["beta"])
    torch.save(state, tmp_path / "csi300.pkl")
    assert_it_starts_there_and_moves(str(tmp_path / "csi300.pkl"), beta)


def test_the_workflow_to_tune_says_what_it_needs(monkeypatch, market, tmp_path):
    workflow = Path(__file__).parents[1] / "workflows" / "master_finetune.yaml"
    monkeypatch.delenv("QLIB_EXT_INIT_FROM", raising=False)
    with pytest.raises(FileNotFoundError, match="QLIB_EXT_INIT_FROM is not set: name a checkpoint of the authors"):
        init_instance_by_config(load_workflow(workflow)["task"]["model"])
    monkeypatch.setenv("QLIB_EXT_INIT_FROM", str(tmp_path / "gone.pkl"))
    with pytest.raises(FileNotFoundError, match=r"gone\.pkl"):
        init_instance_by_config(load_workflow(workflow)["task"]["model"])
    torch.save(reference_nets.random_checkpoint(158, 256, 63), tmp_path / "gone.pkl")
    task = load_workflow(workflow)["task"]
    assert init_instance_by_config(task["model"]).beta == 5.0
    given = task["dataset"]["kwargs"]
    state = MarketState.of(given["market_state"])
    assert tuple(state.names(state.indices)) == OFFICIAL_NAMES
    scaling = given["handler"]["kwargs"]
    assert [one["class"] for one in scaling["infer_processors"]] == ["RobustZScoreNorm", "Fillna"]
    assert "fit_end_time" not in scaling  # fitted on the training days, as DayDatasetH fills in
    with pytest.raises(ValueError, match="no index SH000905, SH000906; the provider has SH000300"):
        load_state(state, None, pd.DatetimeIndex(D.calendar())[-9:])


# --- real data


@pytest.fixture
def real():
    folder = os.environ.get("QLIB_EXT_REAL_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs QLIB_EXT_REAL_DATA, a provider folder of A shares with the three indices")
    start_qlib(folder)
    return pd.DatetimeIndex(D.calendar(start_time="2018-06-01", end_time="2018-12-28"))


@pytest.mark.realdata
def test_the_63_features_of_real_indices(real):
    got = load_state(MarketState(), None, real)
    assert list(got) == [*OFFICIAL_NAMES]
    change = "$close/Ref($close, 1) - 1"
    for code in OFFICIAL_INDICES:
        expressions = [f"Std({change}, 60)", "Mean($volume, 20)/$volume"]
        truth = D.features([code], expressions, real[0], real[-1]).droplevel("instrument")
        own = got[[f"{code}_return_std_60", f"{code}_turnover_mean_20"]]
        np.testing.assert_allclose(own, truth, rtol=1e-3, atol=1e-6)


@pytest.mark.realdata
def test_a_real_american_value_is_used_on_the_next_chinese_day(real):
    path = Path(os.environ.get("QLIB_EXT_REAL_MACRO", ""))
    if not path.is_file():
        pytest.skip("set QLIB_EXT_REAL_MACRO to a CSV file of daily macro series, 2017 to 2022")
    table, calendar = read_macro([path]), pd.DatetimeIndex(D.calendar())
    how = {"transform": ["level", "difference", "zscore"], "window": 40}
    series = {name: how | {"foreign": not name.startswith("shibor")} for name in table}
    state = MacroState.of({"path": str(path), "series": series})
    before, _ = state.compute(table, calendar, real)
    home = [name for name in before if name.startswith("shibor")]
    for day in table["us10y"].dropna().loc["2018-06-05":"2018-12-20"].index[::9]:
        changed = table.copy()
        changed.loc[day:] += 1.0
        after, _ = state.compute(changed, calendar, real)
        late = real > day
        abroad = before.columns.difference(home)
        pd.testing.assert_frame_equal(after.loc[~late, abroad], before.loc[~late, abroad], check_exact=True)
        pd.testing.assert_frame_equal(after.loc[real < day, home], before.loc[real < day, home], check_exact=True)
        levels = [name for name in abroad if name.endswith("level")]
        assert (after.loc[late, levels].iloc[0] > before.loc[late, levels].iloc[0]).all(), day


# --- the planted regime of the embedded market


TURNING = {"n_stocks": 120, "years": 2, "signal": 0.006, "regime": True}


@pytest.fixture(scope="module")
def turning(tmp_path_factory):
    # the two features turn with the regime; others (ROC5, KMID) also pay on all days, and need no gate for that
    start_qlib(make_market(tmp_path_factory.mktemp("turning") / "market", **TURNING))
    fields = {"KSFT": "(2*$close-$high-$low)/$open", "TYPICAL": "($open+$high+$low+$close)/4/$vwap"}
    config = {"feature": (list(fields.values()), list(fields)), "label": ([LABEL], ["LABEL0"])}
    loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader", "kwargs": {"config": config}}
    processors = [{"class": "CSNormalise", "module_path": "qlib_ext.processor"}]
    handler = DataHandlerLP("all", "2020-03-25", "2021-12-24", data_loader=loader, infer_processors=processors)
    segments = {"train": ("2020-03-25", "2021-03-31"), "valid": ("2021-04-01", "2021-06-30")}
    segments |= {"test": ("2021-07-01", "2021-12-20")}
    series = {"vix": {"foreign": True}}
    dataset = DayDatasetH(handler, segments, step_len=6, macro_state={"path": "macro.csv", "series": series})
    _ = dataset.panel
    return dataset


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_gate_finds_the_regime_of_the_embedded_market_and_a_net_without_it_does_not(turning, seed):
    rows, panel = turning.rows("test"), turning.panel
    label = panel.label[torch.as_tensor(rows)].numpy()

    def daily_ic(score):
        return daily_metrics(score, label, names=["ic"])["ic"].to_numpy()

    daily, weights = {}, None
    for gate in (False, True):
        model = MASTERModel(
            **SMALL | {"d_model": 16, "epochs": 10, "dropout": 0.1},
            gate=gate,
            beta=0.5,
            target="rank",
            lr=0.005,
            patience=10,
            seed=seed,
        )
        model.fit(turning)
        daily[gate] = daily_ic(model.trainer.predict(panel, rows))
        weights = gate_weights(model, turning) if gate else None
    market = simulate(**TURNING)
    expected = pd.DataFrame(market.bars["expected"], pd.DatetimeIndex(market.days), list(market.codes))
    oracle = daily_ic(expected.loc[pd.DatetimeIndex(panel.days[rows]), list(panel.stocks)].to_numpy()).mean()
    found = {gate: values.mean() for gate, values in daily.items()}  # seeds 0, 1: .014 and .071, the oracle has .29
    gain = daily[True] - daily[False]
    assert gain.mean() > 0.03 and gain.mean() > 3 * gain.std() / np.sqrt(len(gain)), (found, oracle)
    assert abs(found[False]) < 0.1 * oracle and found[True] > 0.15 * oracle and oracle > 0.2, (found, oracle)
    assert abs(found[False]) < 0.5 * found[True], found
    calm = panel.market[torch.as_tensor(rows), 0].numpy() < 18
    for days in (calm, ~calm):  # and it is right in both regimes, not in the more frequent one alone
        assert daily[True][days].mean() > 0.04, (daily[True][days].mean(), days.sum())
    ratio = np.log(weights["KSFT"] / weights["TYPICAL"])  # one shows what pays, the other what costs, and turned:
    assert abs(ratio[calm].mean() - ratio[~calm].mean()) > 1.0  # the gate may select either, by the regime
