"""The study's decisions see only the years before; its tables, delistings and ways are right by hand."""

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import qlib
from qlib.config import C
from qlib.workflow import R

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `studies` is not installed

from qlib_ext.evaluate import read_trials  # noqa: E402
from qlib_ext.portfolio import Forecast, simulate  # noqa: E402
from studies import cells, decisions, delistings, final, measure, page, recorded, tables  # noqa: E402
from studies.cells import Config  # noqa: E402
from studies.run import ALL, Cell, Study, read, run  # noqa: E402


def test_names_and_members_of_configurations():
    config = Config("mlp+lightgbm", "by_score", 5, "daily", 2, 1, folds=True)
    assert Config.read(config.name) == config and Config.read(Config().name) == Config()
    assert [each.name for each in dataclasses.replace(config, gap=0, folds=False).members] == [
        "mlp.by_score.5.daily.2", "lightgbm.ic.5.daily.2",  # trees know no such weights
    ]  # fmt: skip
    blend = Config("lightgbm", "by_score", blend="neutral~daily")
    assert Config.read(blend.name) == blend
    assert [each.name for each in blend.members] == ["lightgbm.ic.10.alpha158.3", "lightgbm.neutral.10.daily.3"]
    assert Config(blend="ic~alpha158").members == [Config()]  # with itself: as without
    assert Config("lightgbm", "by_score").members == [Config("lightgbm")]
    neutral = Config("mlp+lightgbm", "neutral_by_score").members
    assert [each.loss for each in neutral] == ["neutral_by_score", "neutral"] and Config().members == [Config()]


def test_scores_are_standardised_before_they_are_averaged():
    days, codes = pd.bdate_range("2020-01-01", periods=2), ["A", "B", "C"]
    one = pd.DataFrame([[1.0, 2.0, 3.0], [5.0, np.nan, 7.0]], days, codes)
    other = pd.DataFrame([[0.0, 0.0, 300.0], [2.0, np.nan, 1.0]], days, codes)[["C", "A", "B"]]
    made = cells.mean_of_scores([one, other])
    z = np.array([-1, 0, 1]) * np.sqrt(1.5), np.array([-1, -1, 2]) / np.sqrt(2)
    np.testing.assert_allclose(made.loc[days[0]], (z[0] + z[1]) / 2)
    np.testing.assert_allclose(made.loc[days[1]], [0.0, np.nan, 0.0], atol=1e-12)


COLUMNS = {  # of the files of a cell
    "days": {column for shown in (tables.SCORE, tables.HORIZONS) for column, _, _ in shown.values()} | {"top1"},
    "accounts": {column for shown in (tables.ACCOUNT, tables.HELD) for column, _, _ in shown.values()}
    | {"net", "fees", "impact"},
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study whose cells are there at once: the account of an option earns what `worth` says of it and the year."""
    made = Study(tmp_path, "nowhere", "all", pd.Timestamp("2021-12-31"))
    asked = []

    def there(study, cells):
        asked.extend(cells)
        for cell in cells:
            days = pd.bdate_range(f"{cell.year}-01-01", f"{cell.year}-03-31")
            rng = np.random.default_rng(cell.year)
            earned = made_worth(cell.config, cell.way, cell.year) + 0.01 * rng.standard_normal(len(days))
            for what, columns in COLUMNS.items():
                file = cell.file(study.folder, what)
                file.parent.mkdir(parents=True, exist_ok=True)
                pd.DataFrame(dict.fromkeys(columns, earned), days).to_parquet(file)

    worth = {}

    def made_worth(config, way, year):
        return sum(gain(year) for (field, value), gain in worth.items() if value in (getattr(config, field, None), way))

    monkeypatch.setattr(decisions, "run", there)
    return SimpleNamespace(study=made, worth=worth, asked=asked)


def test_a_year_is_decided_by_the_years_before_it(study):
    study.worth[("horizon", 5)] = lambda year: 0.01 if year < 2016 else -0.05
    study.worth[("loss", "neutral")] = lambda year: 0.02 if year >= 2017 else -0.01
    study.worth[("way", "bold")] = lambda year: 0.01
    made = decisions.chain(study.study, range(2015, 2020))
    horizons = {year: config.horizon for year, (config, _, _) in made.items()}
    assert horizons[2015] == horizons[2016] == 5 and not {horizons[year] for year in (2017, 2018, 2019)} & {5}
    assert made[2017][0].loss != "neutral" and made[2019][0].loss == "neutral"
    assert all(way == "bold" for _, way, _ in made.values())
    seen_2015 = {cell.year for cell in study.asked if cell.config.horizon == 5 and cell.config.loss == "ic"}
    assert max(seen_2015) < 2019 and max(cell.year for cell in study.asked) == 2018  # nothing of 2019 is asked for
    for year, (config, way, told) in made.items():
        assert [each.step for each in told] == [*(step.name for step in decisions.STEPS), "way"]
        assert all(each.year == year and each.chosen == max(each.seen, key=each.seen.get) for each in told)
        assert told[-2].chosen == config.name and told[-1].chosen == way


def test_what_is_known_when_a_year_begins():
    frame = pd.DataFrame({"over_all": 1.0}, pd.bdate_range("2018-12-03", "2019-01-31"))
    assert decisions.known(frame, 2019).index[-1] == pd.Timestamp("2018-12-27")  # two days later the outcome is known


def test_sharpe_of_the_seeds_mean_by_hand():
    one, other = (pd.DataFrame({"over_all": values}) for values in ([0.01, 0.03, np.nan], [0.03, 0.05, 0.1]))
    assert decisions.sharpe([one, other]) == pytest.approx(0.03 / np.std([0.02, 0.04], ddof=1))


def test_rows_of_the_end_cover_what_the_page_says():
    chosen = {year: (Config(), "cost_aware") for year in (*decisions.CHAIN, 2022)}
    made = final.rows(chosen)
    assert [len(row.cells()) for row in made["headline"]] == [35, 7, 35, 7]
    assert {cell.year for row in sum(made.values(), []) for cell in row.cells()} == set(decisions.CHAIN)
    assert len(made["money"]) == 18 and len({cell for row in made["money"] for cell in row.cells()}) == 63
    own = {row.name for row in made["changed"]}
    assert {"the network", "loss: wpcc", "horizon: 1", "kind: master", "gap: 2"} <= own and "loss: ic" not in own
    assert [row.name for row in made["trading"]] == [
        "frozen",
        *(f"way: {way}" for way in cells.WAYS if way != "cost_aware"),
    ]
    blend = Config("lightgbm", blend="neutral~daily")
    alone = final.traded(blend, "judge")["without its second score"]
    assert alone == (Config("lightgbm"), "judge") and "way: cost_aware" in final.traded(blend, "judge")
    network = final.rows(dict.fromkeys(chosen, (blend, "judge")))["changed"][0]
    assert set(network.by_year.values()) == {(Config(), "judge")}
    files = [cell.file(Path(), "accounts") for row in made["delisted"] for cell in row.cells()]
    assert len(set(files)) == len(files)


def test_what_is_the_same_under_two_names_is_run_once():
    trees = Config("lightgbm", "by_score")
    assert set(final.different({"a": Config("lightgbm", "mse"), "b": Config("lightgbm", "neutral")}, trees)) == {"b"}
    step = decisions.Step(("blend",), (("",), ("by_score~alpha158",), ("neutral~alpha158",)))
    assert [each.blend for each in step.options(trees)] == ["", "neutral~alpha158"]
    assert decisions.Step(("loss",), (("ic",), ("mse",))).options(Config(loss="wpcc"))[-1].loss == "wpcc"  # in force


def test_trials_are_all_that_was_looked_at(study):
    cells = [Cell(Config(), year, seed) for year in (2013, 2014) for seed in (0, 1)]
    decisions.run(study.study, [*cells, Cell(Config("lightgbm"), 2013, 0), Cell(Config(folds=True), 2015, 0)])
    found = {row.name: row for row in final.trials(study.study)}
    assert set(found) == {"mlp.ic.10.alpha158.3, cost_aware", "lightgbm.ic.10.alpha158.3, cost_aware"}
    assert [found[name].seeds for name in sorted(found)] == [(0,), (0, 1)]
    assert all(row.there(study.study) == row for row in found.values())


def test_a_study_without_jobs_runs_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="1 cells were not run.*--tables"):
        run(Study(tmp_path, "nowhere", "all", pd.Timestamp("2021-12-31"), 0), [Cell(Config(), 2015, 0)])


# --- delistings


@pytest.fixture
def year():
    """A year of 100 days after 70 of before, 200 stocks; half of them fell before it."""
    rng = np.random.default_rng(0)
    step = 0.01 * rng.standard_normal((175, 200))
    step[:70, :100] -= 0.01
    every = np.ones((170, 200), dtype=bool)
    market = {
        "universe": every, "buyable": every, "sellable": every, "step_return": step[:170],
        "liquidity": np.full((170, 200), 1e8), "volatility": np.full((170, 200), 0.01),
        "buy_rate": 0.0, "sell_rate": 0.0,
    }  # fmt: skip
    days = pd.bdate_range("2019-09-27", periods=170)
    loads = np.zeros((170, 200, 2))
    return SimpleNamespace(year=2020, first=70, days=days, step=step, market=market, exposures=loads)


def test_a_delisted_stock_was_weak_falls_by_seventy_percent_and_is_gone(year):
    before = {name: np.copy(grid) for name, grid in year.market.items()}
    made, score = delistings.delisted(year, np.zeros((170, 200)), "3%, 1")
    gone = np.flatnonzero(made.market["delisted"].any(axis=0))
    assert len(gone) and (gone < 100).all()
    for stock in gone:
        last = int(made.market["delisted"][:, stock].argmax())
        assert np.prod(1 + made.step[last - 20 : last, stock]) == pytest.approx(0.3)
        locked = ~made.market["sellable"][:, stock]
        assert locked[last - 20 : last - 10].all() and not locked[last - 10 : last].any()
        assert np.isnan(score[last:, stock]).all() and not made.market["universe"][last:, stock].any()
        assert last - 20 >= 70
    others = np.setdiff1d(np.arange(200), gone)
    np.testing.assert_array_equal(made.step[:, others], year.step[:, others])
    for name, grid in before.items():
        np.testing.assert_array_equal(year.market[name], grid)  # the real year is as it was
    again, _ = delistings.delisted(year, np.zeros((170, 200)), "3%, 1")
    np.testing.assert_array_equal(again.step, made.step)
    assert delistings.delisted(year, np.zeros((170, 200)), "3%, 2")[0].step.tolist() != made.step.tolist()
    fewer, _ = delistings.delisted(year, np.zeros((170, 200)), "1%, 1")  # of the same stocks
    rare = fewer.market["delisted"].any(axis=0)
    assert 0 < rare.sum() < len(gone) == 6 and set(np.flatnonzero(rare)) < set(gone)


def test_an_account_loses_what_it_holds_of_a_delisted_stock(year):
    made, score = delistings.delisted(year, np.zeros((170, 200)), "3%, 1")
    held = SimpleNamespace(capital=None, in_shares=True, prepare=lambda s: s, target=lambda day: day.held)
    grids = {name: grid for name, grid in made.market.items() if name != "risk"}
    run = [simulate(held, score, **market, start="mean", first=70, impact=0.0, least=0.0).daily["value"].iloc[-1]
           for market in (grids, year.market)]  # fmt: skip
    lost = made.market["delisted"].any(axis=0).mean() * 0.7
    assert run[0] / run[1] - 1 == pytest.approx(-lost, abs=0.004)


def test_the_pessimist_buys_the_fall(year):
    score = np.tile(np.arange(200.0), (170, 1))
    made, raised = delistings.delisted(year, score, "3% bought, 1")
    same, plain = delistings.delisted(year, score, "3%, 1")
    np.testing.assert_array_equal(made.step, same.step)
    moved = np.argwhere(np.nan_to_num(raised) != np.nan_to_num(plain))
    assert len(moved) and {made.step[d, n] for d, n in moved} == {0.3 ** (1 / 20) - 1}
    assert all(raised[d, n] == pytest.approx(np.nanquantile(score[d], 0.95)) for d, n in moved)


# --- ways, tables


def test_every_way_to_trade_is_a_policy():
    for way in cells.WAYS.values():
        assert way.policy(Forecast(), 0.5).prepare([[1.0, 2.0]]).shape == (1, 2) and 0 < way.share <= 0.05


def frames(*means):
    days = pd.bdate_range("2020-01-01", periods=80)
    wave = np.tile([1.0, -1.0], 40)
    columns = {
        column
        for shown in (tables.SCORE, tables.ACCOUNT, tables.HORIZONS, tables.HELD)
        for column, _, _ in shown.values()
    }
    return [
        pd.DataFrame(
            {column: mean + 0.01 * wave for column in columns} | {"net": 0.0, "fees": 0.001, "impact": 0.002}, days
        )
        for mean in means
    ]


def row(name, *means):
    seeds, by_year = range(len(means)), {2020: (Config(), "judge")}
    return SimpleNamespace(name=name, frames=lambda study: frames(*means), by_year=by_year, seeds=seeds)


def test_tables_by_hand():
    indices = pd.DataFrame({code: 0.001 for code in tables.INDICES}, pd.bdate_range("2020-01-01", periods=80))
    text = tables.headline_table(None, [row("a", 0.001, 0.003)], indices)
    sharpe = np.mean([0.001, 0.003]) / np.std(np.tile([0.01, -0.01], 40), ddof=1) * np.sqrt(242)
    assert f"| Sharpe, over all | {sharpe:.2f} ± " in text and "| over all | 48.4 ± " in text
    assert "| over CSI300 | -24.2 ± " in text and "| worst year, over all | 48.4 (2020) |" in text
    assert "2020 | mlp.ic.10.alpha158.3 | judge | 0.2 | " in tables.years_table(None, row("a", 0.001, 0.003), indices)
    deck = tables.deck_table(
        None,
        [SimpleNamespace(name="d", frames=lambda study: [f.assign(top1=0.0, ic1=0.0) for f in frames(0.0, 0.002)])],
    )
    assert "| d | 0.0 ± 0.0 |" in deck and "| 96.8 ± " in deck  # 0.1 + 0.1 + 0.2% a day
    changed = tables.changed_table(None, [row("base", 0.0, 0.002), row("loss: x", 0.001, 0.003)])
    other = SimpleNamespace(**{**vars(row("other", 0.001)), "seeds": (1,)})  # of the base's second seed
    paired = tables.changed_table(None, [row("base", 0.0, 0.002), other])
    assert "| other | 1 | 0.1 | 0.1 | 24.2 | 24.2 | -0.1 ± 0.0 | -24.2 ± 0.0 | -24.2 ± 0.0 |" in paired
    assert "| loss: x | 2 | 0.2 | 0.2 | 48.4 | 48.4 | 0.1 ± 0.0 | 24.2 ± 0.0 | 24.2 ± 0.0 |" in changed


def test_delistings_are_told_less_the_real_account():
    rows = [row("1%|0", 0.0), row("1%|1", -0.001)]
    for each in rows:
        each.frames = lambda study, own=each.frames: [f.assign(net=f["over_all"]) for f in own(study)]
    base = SimpleNamespace(frames=lambda study: [f.assign(net=f["over_all"]) for f in frames(0.001)])
    error = np.std([-24.2, -48.4], ddof=1) / np.sqrt(2)
    assert f"| 1% | 2 | -36.30 ± {error:.2f} |" in tables.delisted_table(None, base, rows)


def test_decisions_are_listed_best_first():
    seen = {"mlp.ic.1.alpha158.3": 0.1, "mlp.ic.5.alpha158.3": 0.2}
    text = tables.decisions_table([decisions.Decision(2015, "horizon", seen, "mlp.ic.5.alpha158.3")])
    assert f"| 2015 | horizon | 5 | 5 {0.2 * 242**0.5:.2f}, 1 {0.1 * 242**0.5:.2f} |" in text


def test_the_mean_of_all_seeds_is_measured_as_one_score(monkeypatch):
    asked = []
    monkeypatch.setattr(measure, "score", lambda bench, config, seed: asked.append(seed) or pd.DataFrame([[seed, 0.0]]))
    bench = SimpleNamespace(year=SimpleNamespace(grid=lambda frame: frame.to_numpy()))
    measure.scores_of(bench, Config(), 3)
    assert asked == [3]
    measure.scores_of(bench, Config(), ALL)
    assert asked == [3, *range(cells.MEMBERS)]


def test_days_of_years_are_read_in_their_order(study):
    decisions.run(study.study, [Cell(Config(), year, 0) for year in (2016, 2015)])
    got = read(study.study, Config(), (2016, 2015), [0])[0]
    assert got.index.is_monotonic_increasing and {*got.columns} == COLUMNS["days"] | COLUMNS["accounts"]


# --- what is written


def test_a_study_under_way_says_what_is_there_and_what_lacks(study):
    decisions.run(
        study.study, [Cell(Config(horizon=h), y, s) for h in (1, 5, 10, 20) for y in range(2013, 2021) for s in (0, 1)]
    )
    study.worth.clear()
    monkey = pytest.MonkeyPatch()
    monkey.setattr(decisions, "run", run)  # as it is: nothing is run without jobs
    try:
        text = page.so_far(study.study)
    finally:
        monkey.undo()
    assert text.count("mlp.ic.") == 4 and "| 2021 | horizon |" in text and "| 2015 | loss |" not in text
    assert "then: " in text and "cells were not run, such as Cell(config=Config(kind='mlp', loss='mse'" in text


@pytest.fixture
def ended(study):
    """A study of two years that is all there, as `page.write` takes it."""
    config = Config("mlp+lightgbm", "by_score", 5, blend="by_score~daily")
    frozen, years = (config, "unbounded"), (2015, 2016)
    rows = final.rows({**dict.fromkeys(decisions.CHAIN, frozen), 2022: frozen})
    rows = {name: [dataclasses.replace(row, by_year=dict.fromkeys(years, row.by_year[2015])) for row in kept]
            for name, kept in rows.items()}  # fmt: skip
    later = final.confirmed({2022: frozen})
    decisions.run(study.study, [cell for row in [*sum(rows.values(), []), *later] for cell in row.cells()])
    steps = pd.DataFrame({code: 0.001 for code in tables.INDICES}, pd.bdate_range("2015-01-01", "2022-12-30"))
    steps.to_parquet(study.study.folder / "indices.parquet")
    seen = [decisions.Decision(2015, "kind", {config.name: 0.1}, config.name)]
    return study.study, dict.fromkeys((*years, 2022), (*frozen, seen)), rows, later


def test_the_page_has_every_table_and_its_pictures(ended, tmp_path):
    _, _, rows, _ = ended
    page.write(*ended, tmp_path)
    text = (tmp_path / "study.md").read_text("utf-8")
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert len(heads) > 10 and "{{" not in text and "{#" not in text and "nan" not in text
    for row in [*rows["headline"], *rows["changed"], *rows["trading"], *rows["deck"]]:
        assert f" {row.name} |" in text
    assert "1.00 | 150" in text or "0.33 | 50" in text
    for name in ("study_curves.png", "study_years.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG" and name in text
    found = set(read_trials(ended[0].folder / "trials.parquet")["name"])
    assert "mlp+lightgbm.by_score.5.alpha158.3.by_score~daily, unbounded" in found
    for name in page.PAGES:
        own = (tmp_path / name).read_text("utf-8")
        assert tables.LACKS not in own and "Not run" not in own and " ± " in own


def test_the_page_names_what_was_not_run(ended, tmp_path):
    study, _, rows, _ = ended
    for cell in rows["changed"][-1].cells()[:-2]:
        cell.file(study.folder, "days").unlink()
    page.write(*ended, tmp_path)
    text = (tmp_path / "study.md").read_text("utf-8")
    assert "Not run" not in text and "| loss: wpcc | 5 |" in text
    assert f"| {rows['changed'][-1].name} | 1 |" in text  # of one seed all is there
    rows["changed"][-1].cells()[-1].file(study.folder, "days").unlink()
    page.write(*ended, tmp_path)
    assert f"Not run: {rows['changed'][-1].name}.\n" in (tmp_path / "study.md").read_text("utf-8")
    rows["headline"][0].cells()[0].file(study.folder, "days").unlink()
    with pytest.raises(FileNotFoundError):
        page.write(*ended, tmp_path)


def test_every_cell_is_a_run_of_a_recorder_once(study, tmp_path):
    cells = [Cell(Config(), 2015, seed) for seed in (0, 1)]
    decisions.run(study.study, cells)
    kept = C["exp_manager"]
    qlib.init(provider_uri=str(tmp_path), region="cn", exp_manager=recorded.uri(study.study))
    try:
        assert [recorded.record(study.study, part) for part in (cells[:1], cells, cells)] == [1, 1, 0]
        found = R.get_exp(experiment_name=recorded.EXPERIMENT).list_recorders(rtype="list")
        assert {run.info["name"] for run in found} == {recorded.name_of(cell) for cell in cells}
        run_ = next(run for run in found if run.info["name"].endswith("2015_0"))
        assert run_.list_params()["loss"] == "ic" and run_.list_params()["seed"] == "0"
        days = read(study.study, Config(), [2015], [0])[0]
        assert run_.list_metrics()["over_all"] == pytest.approx(242 * days["over_all"].mean())
        pd.testing.assert_frame_equal(run_.load_object("days.pkl"), days)
    finally:
        C["exp_manager"] = kept
