"""Exposures of a panel: each kind against pandas, history, no future, memory, columns of one's own, models on them."""

import pickle

import numpy as np
import pandas as pd
import pytest
import qlib
import torch
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import init_instance_by_config

from qlib_ext.data import DayDatasetH, PanelExposures, panel_of
from qlib_ext.leak import perturb_provider
from qlib_ext.model import FoldEnsemble, MLPModel, ModelEnsemble, WalkForwardModel
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import KINDS, read_exposures
from qlib_ext.provider import calendar, listed_days, read_traded
from qlib_ext.record import run_facts
from qlib_ext.synthetic import make_market

SEGMENTS = {
    "train": ("2021-03-01", "2021-07-30"),
    "valid": ("2021-08-02", "2021-09-30"),
    "test": ("2021-10-08", "2021-11-30"),
}
CHOSEN = [1, 3, 4]  # stocks that always trade
NEUTRAL = ["volatility", "liquidity"]
MODEL = {"hidden": (8, 4), "loss": "ic", "metric": "ic", "epochs": 1, "batch_days": 8, "device": "cpu"}


def make_dataset(start="2021-02-01", **options):
    fields = ["$close/Ref($close, 5) - 1", "$high/$low - 1", "Std($close, 20)/$close"]
    config = {"feature": (fields, ["REV5", "RANGE", "STD"]), "label": (["Ref($close, -2)/Ref($close, -1) - 1"], ["L"])}
    handler = DataHandlerLP(
        instruments="all",
        start_time=start,
        end_time="2021-11-30",
        data_loader={
            "class": "QlibDataLoader",
            "module_path": "qlib.data.dataset.loader",
            "kwargs": {"config": config},
        },
        infer_processors=[{"class": "CSNormalise", "module_path": "qlib_ext.processor"}],
    )
    return DayDatasetH(handler, SEGMENTS, **options)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    path = make_market(tmp_path_factory.mktemp("exposures") / "market", n_stocks=40, start="2019-10-08", years=2.3)
    qlib.init(provider_uri=str(path), region="cn", kernels=1)
    return path


@pytest.fixture(scope="module")
def dataset(market):
    codes = ["a", "b", "c"]
    days = pd.to_datetime(["2021-03-01", "2021-05-10"])
    index = pd.MultiIndex.from_product([days, codes], names=["datetime", "instrument"])
    frame = pd.DataFrame({"value": np.arange(6.0), "sector": list("abcbbc")}, index)
    plain = make_dataset().panel
    stocks = plain.stocks[CHOSEN]
    assert plain.present[:, CHOSEN].all()
    return make_dataset(exposures=frame.rename(dict(zip(codes, stocks, strict=True)), level=1))


@pytest.fixture(scope="module")
def panel(dataset):
    return dataset.panel


def raw_kinds(panel):
    """Each kind by pandas on the provider's bars, day x stock from the calendar's first day on."""
    codes = list(panel.stocks)
    raw = read_traded(codes, ["$close", "$factor"], "2019-10-08", "2021-11-30")
    close, factor = (raw[name].astype(np.float64) for name in ("$close", "$factor"))
    price, step = close.ffill(), close / close.shift(1) - 1
    mean = step.mean(axis=1)
    beta = step.apply(
        lambda own: own.rolling(60, 20).cov(mean, ddof=0) / mean.where(own.notna()).rolling(60, 20).var(0)
    )
    age = pd.DataFrame(listed_days(codes, pd.DatetimeIndex(close.index)), close.index, codes)
    since = pd.Series(np.arange(1.0, len(close) + 1), close.index)
    return {
        "beta": beta.ffill(),
        "reversal": 1 - price / price.shift(20),
        "momentum": price.shift(20) / price.shift(250) - 1,
        "price": np.log(close / factor.ffill()),
        "age": np.log(age.apply(lambda own: np.minimum(own, since)).where(age > 0)),
        "volatility": np.log(step.rolling(20, 1).std()),
    }


def test_each_kind_is_that_of_pandas(panel):
    days, present = pd.DatetimeIndex(panel.days), panel.present.numpy()
    expected = raw_kinds(panel)
    assert set(expected) | {"liquidity"} == set(KINDS)
    for name, grid in expected.items():
        value = grid.reindex(days).where(present)
        spread = value.std(axis=1, ddof=0)
        standard = value.sub(value.mean(axis=1), axis=0).div(spread.where(spread > 1e-12), axis=0).fillna(0.0)
        ours = panel.exposures([name])[..., 0].numpy()
        np.testing.assert_allclose(ours, standard, atol=2e-5, err_msg=name)
        assert (np.abs(ours) > 0.1).mean() > 0.1, name


def test_a_panel_that_begins_later_has_the_same(panel):
    late = make_dataset(start="2021-09-01").panel
    assert list(late.stocks) == list(panel.stocks)
    rows, names = panel.rows("2021-09-01", None), list(KINDS)
    assert len(late.days) == len(rows)
    np.testing.assert_allclose(late.exposures(names).numpy(), panel.exposures(names, rows).numpy(), atol=1e-5)


def test_no_exposure_knows_a_later_day(panel, market, tmp_path):
    """Kinds at hand go with the panel's grids, whose own tests do the same."""
    perturb_provider(market, tmp_path / "market", "2021-08-31")
    before = panel.exposures(list(KINDS))
    try:
        qlib.init(provider_uri=str(tmp_path / "market"), region="cn", kernels=1)
        after = make_dataset().panel
    finally:
        changed = after.exposures(list(KINDS))
        qlib.init(provider_uri=str(market), region="cn", kernels=1)
    known = panel.rows(None, "2021-08-31")
    np.testing.assert_allclose(changed[known].numpy(), before[known].numpy(), atol=1e-6)
    later = panel.rows("2021-09-30", None)
    apart = (changed[later] - before[later]).abs().amax(dim=(0, 1))
    assert (apart > 1e-3).all(), dict(zip(KINDS, apart.tolist(), strict=True))


def test_exposures_are_there_where_they_are_asked_for(dataset):
    fresh = DayPanel(**{name: value for name, value in vars(dataset.panel).items() if name not in ("_places", "loads")})
    assert fresh.loads == {} and fresh.batch([3]).exposures is None
    batch = fresh.batch([3, 60], exposures=["volatility", "sector"])
    assert batch.exposures.shape == (*batch.mask.shape, 4) and list(fresh.loads) == ["volatility", "sector"]
    whole = fresh.exposures(["volatility", "sector"])
    for place, row in enumerate((3, 60)):
        at = batch.mask[place]
        assert torch.equal(batch.exposures[place][at], whole[row][batch.stock[place][at]])
    assert fresh.loads["sector"].grid.dtype == torch.int16
    copy = pickle.loads(pickle.dumps(fresh))
    assert torch.equal(copy.exposures(["volatility", "sector"]), whole)
    moved = fresh.to(torch.device("meta"))
    assert {load.grid.device.type for load in moved.loads.values()} == {"meta"}


def test_columns_of_ones_own_hold_from_their_day_on(panel):
    names, before, first, second = (
        ["value", "sector"],
        *(panel.rows(day, day) for day in ("2021-02-26", "2021-03-01", "2021-05-10")),
    )
    got = {row[0]: panel.exposures(names, row)[0, CHOSEN] for row in (before, first, second, second - 1)}
    assert (got[before[0]] == 0).all()
    assert torch.equal(got[first[0]], got[second[0] - 1])
    for row, sectors in ((first, "abc"), (second, "bbc")):
        assert got[row[0]][:, 1:].tolist() == [[float(kind == one) for one in "abc"] for kind in sectors]


def test_what_cannot_be_told_is_named(panel, dataset):
    with pytest.raises(ValueError, match="valeu.*value"):
        panel.exposures(["valeu"])
    bare = DayPanel(
        **{
            name: value
            for name, value in vars(panel).items()
            if name in ("days", "stocks", "features", "x", "present", "label")
        }
    )
    with pytest.raises(ValueError, match="DayDatasetH"):
        bare.exposures(["volatility"])
    bare.source = PanelExposures()
    with pytest.raises(ValueError, match="no liquidity"):
        bare.exposures(["liquidity"])
    early = make_dataset(start="2021-11-01").panel
    early.days = calendar("2019-11-01")[: len(early.days)].to_numpy()
    with pytest.raises(ValueError, match="momentum is known of no stock.*270"):
        early.exposures(["momentum"])
    whole = make_dataset().panel
    index = pd.MultiIndex.from_product(
        [pd.to_datetime(whole.days[:60]), whole.stocks], names=["datetime", "instrument"]
    )
    names = pd.DataFrame({"name": [f"n{place}" for place in range(len(index))]}, index)
    whole.source = PanelExposures(read_exposures(names, "exposures"))
    with pytest.raises(ValueError, match=r"the exposure name has \d+ categories .n\d+, .* 1000 at most"):
        whole.exposures(["name"])
    with pytest.raises(ValueError, match="called beta"):
        make_dataset(exposures=pd.DataFrame({"beta": [1.0]}, ["SH600000"]))
    with pytest.raises(ValueError, match="DayDatasetH: exposures is a list"):
        make_dataset(exposures=["volatility"])


# --- models


def explained(panel, score):
    """Largest correlation of a day's scores with an exposure."""
    days = score.index.get_level_values(0).unique()
    grid = score.unstack().reindex(columns=panel.stocks).to_numpy()
    loads = panel.exposures(NEUTRAL, panel.rows(days[0], days[-1])).double().numpy()
    held = np.where(np.isnan(grid), 0.0, grid - np.nanmean(grid, axis=1, keepdims=True))
    scale = np.nanstd(grid, axis=1) * np.isfinite(grid).sum(axis=1)
    return np.abs(np.einsum("dn,dnk->dk", held, loads) / scale[:, None]).max()


@pytest.fixture(scope="module")
def fitted(dataset):
    model = MLPModel(**MODEL, neutral=NEUTRAL)
    model.fit(dataset)
    return model


def test_the_predicted_score_is_neutral_with_equal_weights(dataset, fitted):
    score = fitted.predict(dataset)
    assert explained(dataset.panel, score) < 1e-5
    plain = MLPModel(**MODEL)
    plain.fit(dataset)
    assert explained(dataset.panel, plain.predict(dataset)) > 0.1
    assert pickle.loads(pickle.dumps(fitted)).predict(dataset).equals(score)
    day = score.index.get_level_values(0).max()
    alone = fitted.predict(dataset, slice(day, day))  # as `qlib-ext orders` asks
    np.testing.assert_allclose(alone, score.loc[[day]], rtol=1e-4, atol=1e-6)


def test_a_model_learns_neutral_to_columns_of_its_own(dataset):
    model = MLPModel(**MODEL | {"loss": "wpcc"}, neutral=["value", "sector", "momentum", "age"])
    model.fit(dataset)
    assert np.isfinite(model.predict(dataset)).all()


@pytest.mark.parametrize("combine", ["mean", "rank"])
def test_ensembles_are_neutral_too(dataset, combine):
    member = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": MODEL | {"neutral": NEUTRAL}}
    for model in (
        FoldEnsemble(model=member, n_splits=2, seeds=[0, 1], combine=combine),
        WalkForwardModel(model=member, step=20, combine=combine),
    ):
        model.fit(dataset)
        assert explained(dataset.panel, model.predict(dataset)) < 1e-5
        assert run_facts(dataset, model)["neutral"] == NEUTRAL
    model.models[-1].trainer.loss.neutral = ()
    assert "neutral" not in run_facts(dataset, model)


@pytest.mark.parametrize("combine", ["ranks", "weights"])
def test_the_past_scores_of_an_ensemble_are_neutral_as_those_of_later_days(dataset, combine):
    member = {"class": "MLPModel", "kwargs": MODEL | {"neutral": NEUTRAL}}
    model = ModelEnsemble(members=[member, {**member, "kwargs": {**member["kwargs"], "seed": 3}}], combine=combine)
    model.fit(dataset)
    assert max(explained(dataset.panel, score) for score in (model.oof, model.predict(dataset))) < 1e-5


@pytest.mark.slow
def test_processes_share_the_exposures(market):
    dataset = make_dataset()
    member = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": MODEL | {"neutral": [*NEUTRAL, "beta"]}}
    scores = []
    for processes in (2, 1):
        model = FoldEnsemble(model=member, n_splits=2, processes=processes)
        model.fit(dataset)
        scores.append(model.predict(dataset))
    assert dataset.panel.loads["beta"].grid.is_shared()
    pd.testing.assert_series_equal(*scores, rtol=1e-4, atol=1e-5)


def test_a_model_by_yaml_and_what_its_dataset_lacks(dataset):
    config = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"neutral": [*NEUTRAL, "value"]}}
    model = init_instance_by_config(config)
    model.check_needs(dataset)
    with pytest.raises(ValueError, match="value"):
        model.check_needs(make_dataset())
    with pytest.raises(ValueError, match="liquidity: auto"):
        MLPModel(loss="ic", metric="ic", neutral=["liquidity"]).check_needs(make_dataset(liquidity=None))
    plain = DatasetH(make_dataset().handler, SEGMENTS)
    model = MLPModel(**MODEL, neutral=["beta"])
    with pytest.raises(ValueError, match="DayDatasetH"):
        model.check_needs(plain)
    with pytest.raises(ValueError, match="knows no exposures"):
        model.fit_rows(panel_of(plain)[0], 1, np.arange(60), np.arange(60, 90))


def test_each_head_is_neutral(market):
    dataset = make_dataset(horizons=[1, 5])
    model = MLPModel(**MODEL, neutral=NEUTRAL)
    model.fit(dataset)
    assert model.trainer.predict_heads(dataset.panel, dataset.rows("test")).shape[2] == 2
    assert explained(dataset.panel, model.predict(dataset)) < 1e-5


def test_a_training_stops_by_the_neutral_ic_and_checks_what_it_needs(dataset):
    model = MLPModel(**MODEL | {"metric": "rank_ic_neutral"})
    model.fit(dataset)
    assert np.isfinite(model.history.epochs[0]["rank_ic_neutral"])
    with pytest.raises(ValueError, match="liquidity"):
        MLPModel(**MODEL | {"metric": "ic_neutral"}).check_needs(make_dataset(liquidity=None))
