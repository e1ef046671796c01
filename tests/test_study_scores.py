"""The numbers of the comparison of scores: by hand, by slow loops, and without what comes after the last day."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_data import start_qlib
from test_record import make_panel

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `benchmarks` is not installed

from qlib_ext.synthetic import make_market  # noqa: E402
from studies import scores as study  # noqa: E402
from studies import years  # noqa: E402


@pytest.fixture
def panel(monkeypatch):
    """80 days from 2019-11 on, so that 2020 has some days before it."""
    made = make_panel(days=80)
    days = pd.bdate_range("2019-11-04", periods=80)
    monkeypatch.setattr(years, "calendar", lambda: days.union(pd.bdate_range(days[-1], periods=60)))
    step = made.label.nan_to_num()
    return dataclasses.replace(made, days=days.to_numpy(), sellable=made.buyable, step_return=step)


def test_returns_of_several_days_are_compounded_and_known_only_where_each_is():
    step = np.array([[0.1, np.nan], [0.2, 0.1], [-0.5, 0.1], [0.0, np.nan]])
    expected = [[1.1 * 1.2 - 1, np.nan], [1.2 * 0.5 - 1, 1.1 * 1.1 - 1], [-0.5, np.nan], [np.nan, np.nan]]
    np.testing.assert_allclose(study.forward(step, 2), expected, atol=1e-12)


def test_a_residual_is_that_of_least_squares_over_the_stocks_inside():
    rng = np.random.default_rng(0)
    value, loads, inside = rng.normal(size=(3, 9)), rng.normal(size=(3, 9, 2)), rng.random((3, 9)) < 0.8
    loads[2, :, 1] = 0.0  # nothing known of one exposure
    value[~inside] = np.nan
    got = study.residual(value, loads, inside)
    for d in range(3):
        design = np.column_stack([np.ones(9), loads[d]])[inside[d]]
        fit = design @ np.linalg.lstsq(design, value[d][inside[d]], rcond=None)[0]
        np.testing.assert_allclose(got[d][inside[d]], value[d][inside[d]] - fit, atol=1e-10)
    assert np.isnan(got[~inside]).all()


def test_correlated_ranks_are_the_rank_correlation():
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(2, 4, 12))
    left[0, :3] = right[0, :3] = np.nan
    got = study.correlation(study.unit(left), study.unit(right))
    expected = [pd.Series(a).corr(pd.Series(b), method="spearman") for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_the_top_counts_what_could_be_bought():
    market = {"universe": np.ones((1, 40), bool), "buyable": np.ones((1, 40), bool)}
    market["buyable"][0, 39] = False  # the best one
    gain = np.full((1, 40), 0.01)
    gain[0, 38:] = 0.05, 9.0
    got = study.top(SimpleNamespace(market=market), np.arange(40.0)[None], gain)
    assert got[0] == pytest.approx(0.05 - (38 * 0.01 + 0.05) / 39)


def test_the_half_life_is_that_of_the_returns_days():
    rng, days = np.random.default_rng(4), np.arange(400)
    common = rng.normal(0.0, 0.01, 400 + study.LAGS)  # of a day's return, whatever the age of the score
    at = {f"lag{lag}": 0.03 * 2.0 ** ((1 - lag) / 7) + common[days + lag - 1] for lag in range(1, study.LAGS + 1)}
    frame = pd.DataFrame(at)
    assert study.decay([frame, frame]).startswith("7 (") and study.decay([-frame]) == ""


def test_errors_are_those_of_blocks_and_of_seeds_and_pairs_share_their_days():
    rng, days = np.random.default_rng(2), pd.bdate_range("2018-01-02", periods=600)
    sample = study.Sample.of(days)
    frame = pd.DataFrame({"ic": rng.normal(0.02, 0.1, 600)}, days)
    drawn, own = sample.means([frame], ["ic"], 0)
    assert drawn[0, 0] == own[0, 0] == pytest.approx(frame["ic"].mean())
    value = frame["ic"].to_numpy()
    blocks = np.convolve(np.r_[value, value[: study.BLOCK - 1]], np.ones(study.BLOCK), "valid")  # from each start
    assert drawn[1:].std() == pytest.approx(np.sqrt(600 / study.BLOCK) * blocks.std() / 600, rel=0.05)
    better = sample.means([frame + 0.01], ["ic"], 1)[0] - drawn
    np.testing.assert_allclose(better, 0.01)
    spread = sample.means([frame - 0.02, frame, frame + 0.02], ["ic"], 0)[0] - drawn
    assert spread[1:].std() == pytest.approx(0.02 / np.sqrt(3), rel=0.1)


def test_what_ends_after_the_last_day_counts_for_nothing(panel):
    last = pd.Timestamp(panel.days[70])
    score = panel.x[..., 0].double().numpy()

    def numbers(of):
        year = years.Year(of, 2020, last)
        assert len(year.days) == 69 and year.first == 42  # the step of row 68 ends on day 70
        return study.daily_numbers(year, year.grid(pd.DataFrame(score, of.days, of.stocks)))

    daily, facts = numbers(panel)
    after = panel.step_return.clone()
    after[69:] = 0.5
    again, same = numbers(dataclasses.replace(panel, step_return=after))
    pd.testing.assert_frame_equal(daily, again)
    assert facts == same
    assert daily["lag1"].notna().all() and daily["lag3"].isna().sum() == 2
    assert daily["rank_ic"].isna().sum() == study.HORIZON - 1 and daily["top1"].notna().all()
    assert daily["top1"].mean() > 0.002 > abs(daily["lag2"].mean()) / 100  # the planted signal is of one day


def test_pieces_are_compared_with_pieces_and_tables_name_them(tmp_path):
    assert all(piece.against in ("", *study.PIECES) for piece in study.PIECES.values())
    rng, days = np.random.default_rng(3), pd.bdate_range("2018-01-02", periods=60)
    columns = [name for name, _, _ in study.SHOWN.values()] + [f"lag{lag}" for lag in range(1, study.LAGS + 1)]
    for piece, seeds in {"mlp": (0, 1), "liquidity": (0,)}.items():
        (tmp_path / "daily" / piece).mkdir(parents=True)
        for seed in seeds:
            frame = pd.DataFrame(rng.normal(size=(60, len(columns))), days, columns)
            frame.to_parquet(tmp_path / "daily" / piece / f"2018_{seed}.parquet")
    found = study.measured(tmp_path, [2018], study.PIECES)
    assert [len(study.without(piece, found)) for piece in ("mlp", "liquidity")] == [
        0,
        2,
    ]  # a score of no seed, off each
    pd.testing.assert_frame_equal(study.without("liquidity", found)[1], found["liquidity"][0] - found["mlp"][1])
    found["neutral"] = {seed: found["mlp"][seed % 2] + 0.01 for seed in (1, 0, 7)}
    np.testing.assert_allclose(np.array(study.without("neutral", found)), np.full((2, 60, len(columns)), 0.01))
    text = study.tables(tmp_path, [2018], study.PIECES)
    assert "| mlp | 2 | " in text and "| liquidity | 1 | " in text and "| liquidity | mlp | 2 | " in text
    text = study.by_year(tmp_path, [2018], study.PIECES)
    mean = 100 * np.mean([pd.read_parquet(tmp_path / f"daily/mlp/2018_{s}.parquet")["neutral_rank_ic"] for s in (0, 1)])
    assert f"neutral RankIC\n\n| piece | 2018 |\n| --- | ---: |\n| mlp | {mean:.2f} ± " in text
    assert study.tables(tmp_path, [2018, 2019], study.PIECES) == "nothing there for [2018, 2019]"


def test_ranks_are_averaged_and_scores_are_made_once(tmp_path, monkeypatch, panel):
    made = []

    def make(bench, seed):
        made.append(seed)
        return bench.frame(np.arange(len(bench.year.days) * 25.0).reshape(-1, 25) * (1 - 2 * (seed == 1)))

    monkeypatch.setitem(study.PIECES, "mlp", study.Piece("of a test", make))
    bench = study.Bench.__new__(study.Bench)
    bench.folder, bench.year = tmp_path, years.Year(panel, 2020, pd.Timestamp.max)
    both = study.mean_rank("mlp", seeds=[0, 1])(bench, 0)
    np.testing.assert_allclose(both, (1 + 1 / 25) / 2)  # a rank and its opposite
    assert study.mean_rank("mlp")(bench, 0).to_numpy()[0, -1] == 1.0 and made == [0, 1]
    np.testing.assert_array_equal(
        study.weighted("mlp")(bench, 0).rank(axis=1), study.mean_rank("mlp")(bench, 0).rank(axis=1)
    )  # the only one weighs 1
    flat = study.projected("mlp")(bench, 0).to_numpy()
    real = bench.year.market["universe"]
    assert np.isnan(flat[~real]).all()
    held = np.where(real, flat, 0.0)
    assert np.abs(np.einsum("dn,dnk->dk", held, bench.year.exposures[..., :2])).max() < 1e-6 * np.abs(held).max()


def test_features_in_files_are_those_of_one_dataset_and_rows_leave_the_labels_days(tmp_path, monkeypatch):
    start_qlib(make_market(tmp_path / "market", n_stocks=12, start="2019-07-01", years=1.2), tmp_path)
    every = pd.DatetimeIndex(years.calendar())
    whole = years.dataset_of("all", "FastAlpha158", {"test": every}).panel
    files = years.Features(tmp_path / "features", "all", "FastAlpha158")
    for _ in range(2):  # made, and read again
        got = files.panel(2019, 2020)
        column = pd.Index(got.stocks).get_indexer(whole.stocks)
        np.testing.assert_array_equal(got.days, whole.days)
        np.testing.assert_array_equal(got.x[:, column], whole.x)
        for name in years.GRIDS:
            np.testing.assert_array_equal(getattr(got, name)[:, column], getattr(whole, name), err_msg=name)
    assert files.panel(2020, 2020, slice(3, 7)).features == whole.features[3:7]
    with pytest.raises(ValueError, match="asked is .*take another folder"):
        years.Features(tmp_path / "features", "csi300", "FastAlpha158")
    bench = study.Bench.__new__(study.Bench)
    bench.last = every[-20]
    known = bench.known(got, 5).isnan().all(dim=1).numpy()  # the label of a day ends six days later
    assert known[-25:].all() and not known[:-25][got.present[:-25].any(dim=1).numpy()].any()
    monkeypatch.setattr(study, "VALID", 60)
    bench = study.Bench.__new__(study.Bench)
    bench.year = SimpleNamespace(year=2020)
    rows, first = bench.rows(got, 21), int(every.searchsorted(pd.Timestamp("2020-01-01")))
    assert rows["scored"][0] == rows["valid"][0] == first - 60 and rows["scored"][-1] == len(every) - 1
    assert rows["valid"][-1] + 21 == first - 1 and rows["train"][-1:] == rows["valid"][:1] - 22
    monkeypatch.setattr(study, "VALID", 20)
    bench.year = SimpleNamespace(year=2020)
    monkeypatch.setattr(bench, "_begins", lambda panel, back: first - 40 * back)  # a year of 40 days
    older = bench.rows(got, 11, 1)
    assert older["scored"][0] == first - 20 and older["valid"].tolist() == [*range(first - 60, first - 51)]
    assert older["train"][-1] == first - 72
    real = got.present[:-10]
    np.testing.assert_allclose(bench.returns(got, 10)[:-10][real], got.label[:-10][real], rtol=1e-4, atol=1e-6)
