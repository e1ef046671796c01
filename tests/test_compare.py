"""Several runs on the same days: the bootstrap, its interval, the table, the page and the command."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest

from qlib_ext import cli, evaluate
from qlib_ext.evaluate import COMPARE_DEFINITIONS, block_length, circular_blocks, compare, newey_west, seed_shares
from qlib_ext.runs import find_run, list_runs, load_artifacts

DAYS = pd.bdate_range("2022-01-04", periods=120)


def frame(values, ic=None, days=DAYS):
    made = pd.DataFrame({"capped_buyable_net": values}, index=days)
    return made if ic is None else made.assign(rank_ic=ic)


def noise(seed, scale=0.01, mean=0.0, days=120):
    return np.random.default_rng(seed).normal(mean, scale, days)


# --- blocks


def test_blocks_are_successive_days_of_a_circle():
    rows = circular_blocks(days=10, block=4, draws=500, seed=1)
    assert rows.shape == (500, 10) and rows.min() == 0 and rows.max() == 9
    steps = np.diff(rows, axis=1) % 10
    inside = [i for i in range(9) if i % 4 != 3]  # places 3 and 7 end a block
    assert (steps[:, inside] == 1).all() and (steps[:, [3, 7]] != 1).any()
    assert np.bincount(rows.ravel(), minlength=10) == pytest.approx(np.full(10, 500), rel=0.15)  # every day as often


def test_a_block_of_all_days_only_turns_the_circle():
    """The mean of all days is then the same in every draw: no error."""
    values = noise(0)
    draws = values[circular_blocks(120, 120, 50, 0)].mean(axis=1)
    np.testing.assert_allclose(draws, values.mean(), atol=1e-15)


@pytest.mark.parametrize(
    ("days", "horizon", "expected"), [(8, 1, 4), (27, 1, 6), (1000, 1, 20), (27, 9, 9), (240, 1, 13)]
)
def test_block_length_by_hand(days, horizon, expected):
    """2 * 8^(1/3) = 4, 2 * 27^(1/3) = 6, 2 * 1000^(1/3) = 20; 2 * 240^(1/3) = 12.4; at least the label's 9."""
    assert block_length(days, horizon) == expected


# --- the interval


def test_independent_days_give_the_usual_error():
    a, b = noise(1), noise(2)
    row = compare({"b": frame(b), "a": frame(a)}, block=1).table.loc[("a", "capped_buyable_net.mean")]
    usual = (a - b).std(ddof=1) / math.sqrt(120)
    assert row["standard_error"] == pytest.approx(usual, rel=0.05)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * usual, rel=0.08)
    assert row["difference"] == pytest.approx(a.mean() - b.mean(), abs=1e-15)


def test_days_that_resemble_each_other_give_a_larger_error():
    """A moving sum of 6 days: the error is nearer to Newey-West's than to that of independent days."""
    values = np.convolve(noise(3, days=405), np.ones(6), "valid")
    days = pd.bdate_range("2020-01-01", periods=400)
    both = {"zero": frame(np.zeros(400), days=days), "run": frame(values, days=days)}
    error = compare(both, block=20).table.loc[("run", "capped_buyable_net.mean"), "standard_error"]
    independent = values.std(ddof=1) / 20
    assert error > 1.7 * independent
    assert error == pytest.approx(newey_west(values, 15)[1], rel=0.2)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rows = circular_blocks(100, 5, 400, 0)
    held = 0
    for seed in range(300):
        values = noise(seed, days=100)
        low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
        held += low <= 0.0 <= high
    assert 0.89 <= held / 300 <= 0.98  # short samples: a little below 95%


def test_what_both_earn_on_the_same_days_drops_out():
    shared, own = noise(4, 0.02), noise(5, 0.001)
    found = compare({"a": frame(shared), "b": frame(shared + own + 0.001)}).table.loc[("b", "capped_buyable_net.mean")]
    assert found["standard_error"] < 0.1 * shared.std() / math.sqrt(120)
    assert found["low"] > 0 and found["share_below_zero"] == 0.0


def test_equal_runs_do_not_differ():
    values = noise(6)
    table = compare({"a": frame(values, ic=values), "b": frame(values, ic=values)}).table
    assert (table[["difference", "standard_error", "low", "high"]] == 0).all(axis=None)
    assert (table["share_below_zero"] == 1).all()
    of_returns = [f"capped_buyable_net.{number}" for number in ("mean", "annual_return", "sharpe")]
    assert table.loc["b"].index.tolist() == ["rank_ic.mean", *of_returns]


def test_slow_bootstrap_agrees():
    """Every number of every draw by a loop over draws and evaluate.headline."""
    a, b = noise(7, mean=0.001), noise(8)
    found = compare({"b": frame(b), "a": frame(a)}, block=7, draws=200, seed=3).table
    rows = circular_blocks(120, 7, 200, 3)
    for number in ("annual_return", "sharpe"):
        gaps = [evaluate.headline(a[line])[number] - evaluate.headline(b[line])[number] for line in rows]
        row = found.loc[("a", f"capped_buyable_net.{number}")]
        assert row["value"] == pytest.approx(evaluate.headline(a)[number], rel=1e-12)
        assert row["standard_error"] == pytest.approx(np.std(gaps, ddof=1), rel=1e-9)
        assert [row["low"], row["high"]] == pytest.approx(list(np.quantile(gaps, [0.025, 0.975])), rel=1e-9)


def test_the_seed_decides_the_draws():
    runs = {"a": frame(noise(1)), "b": frame(noise(2))}
    same = [compare(runs, seed=seed).table["standard_error"].iloc[0] for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


# --- several seeds under one name


def seeds_of(count, spread, first=0, days=120, mean=0.0):
    """Runs of one model: what they share on a day, what each seed earns more or less every day, and noise."""
    shared = noise(first, days=days, mean=mean)
    own = np.random.default_rng(first + 1).normal(0, spread, count)
    index = pd.bdate_range("2022-01-04", periods=days)
    return [frame(shared + own[i] + noise(first + 2 + i, 0.002, days=days), days=index) for i in range(count)]


def test_slow_bootstrap_of_seeds_agrees():
    """Every draw by a loop: seeds drawn with replacement, their daily mean, then the days, then evaluate.headline."""
    a, b = [noise(i, mean=0.001) for i in range(4)], [noise(10 + i) for i in range(2)]
    found = compare({"b": [frame(v) for v in b], "a": [frame(v) for v in a]}, block=7, draws=200, seed=3)
    rows = circular_blocks(120, 7, 200, 3)
    chosen = {name: np.random.default_rng((3, place)).integers(0, n, size=(200, n - 1))
              for place, (name, n) in enumerate({"b": 2, "a": 4}.items())}  # fmt: skip
    for number in ("annual_return", "sharpe"):
        gaps, whole = [], []
        for draw, line in enumerate(rows):
            one = np.mean([a[seed] for seed in chosen["a"][draw]], axis=0)[line]
            other = np.mean([b[seed] for seed in chosen["b"][draw]], axis=0)[line]
            gaps.append(evaluate.headline(one)[number] - evaluate.headline(other)[number])
            one, other = np.mean(a, axis=0)[line], np.mean(b, axis=0)[line]
            whole.append(evaluate.headline(one)[number] - evaluate.headline(other)[number])
        gaps = np.array(gaps) + np.mean(whole) - np.mean(gaps)  # around the middle that all seeds have
        row = found.table.loc[("a", f"capped_buyable_net.{number}")]
        assert row["value"] == pytest.approx(evaluate.headline(np.mean(a, axis=0))[number], rel=1e-12)
        assert row["against"] == pytest.approx(evaluate.headline(np.mean(b, axis=0))[number], rel=1e-12)
        assert row["standard_error"] == pytest.approx(np.std(gaps, ddof=1), rel=1e-9)
        assert [row["low"], row["high"]] == pytest.approx(list(np.quantile(gaps, [0.025, 0.975])), rel=1e-9)
    assert found.seeds == {"b": 2, "a": 4}
    np.testing.assert_allclose(found.daily["a"]["capped_buyable_net"], np.mean(a, axis=0), rtol=1e-12)


def test_intervals_of_pooled_seeds_lie_around_the_difference():
    """A draw of fewer seeds is more volatile; the Sharpe ratio must not shrink for it."""
    a, b = [noise(i, mean=0.002) for i in range(3)], [noise(10 + i) for i in range(3)]
    found = compare({"b": [frame(v) for v in b], "a": [frame(v) for v in a]}, block=5, draws=2000, seed=0)
    row = found.table.loc[("a", "capped_buyable_net.sharpe")]
    assert abs((row["low"] + row["high"]) / 2 - row["difference"]) < 0.15 * (row["high"] - row["low"])


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_drawn_seeds_have_the_error_of_their_mean(count):
    """The variance of the mean of S - 1 drawn seeds is s^2 / S, s^2 with S - 1 below."""
    values = np.random.default_rng(count).normal(size=count)
    shares = seed_shares(count, 40_000, (0, 0))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert (shares @ values).std() == pytest.approx(values.std(ddof=1) / math.sqrt(count), rel=0.03)
    assert (shares @ values).mean() == pytest.approx(values.mean(), abs=0.02)


def test_one_run_in_a_list_is_that_run():
    a, b = frame(noise(1)), frame(noise(2))
    pd.testing.assert_frame_equal(compare({"a": [a], "b": [b]}).table, compare({"a": a, "b": b}).table)


@pytest.mark.parametrize(("spread", "pooled_only"), [(0.0, False), (0.002, True)])
def test_the_interval_of_seeds_holds_the_truth_as_often_as_it_says(spread, pooled_only):
    """Two models whose truth is the same: with seeds that differ, one seed of each says far too often that they do."""
    held = {"seeds": 0, "one": 0}
    for trial in range(100):
        a, b = (seeds_of(8, spread, first=1000 * trial + start) for start in (0, 500))
        for name, runs in (("seeds", {"a": a, "b": b}), ("one", {"a": a[0], "b": b[0]})):
            row = compare(runs, draws=200, block=5, seed=trial).table.loc[("b", "capped_buyable_net.mean")]
            held[name] += row["low"] <= 0 <= row["high"]
    assert held["seeds"] >= 84  # of 100, at 95%: short samples, few seeds
    if pooled_only:
        assert held["one"] < 70


# --- days and options


def test_only_common_days_count():
    a, b = frame(noise(1)), frame(noise(2)).iloc[10:]
    b = b.copy()
    b.iloc[0] = np.nan
    found = compare({"a": a, "b": b})
    assert list(found.left_out) == list(DAYS[:11])
    assert (found.table["days"] == 109).all()
    row = found.table.loc[("b", "capped_buyable_net.mean")]
    assert row["against"] == pytest.approx(a["capped_buyable_net"].iloc[11:].mean())


def test_against_another_run():
    runs = {name: frame(noise(i)) for i, name in enumerate("abc")}
    assert set(compare(runs, against="b").table.index.get_level_values("run")) == {"a", "c"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"against": "c"}, "no run 'c'.*a, b"),
        ({"block": 61}, "block is 61.*1.*60"),
        ({"block": 2, "horizon": 5}, "block is 2"),
        ({"horizon": 61}, "label's 61 days are too many for 120 .*60"),
        ({"draws": 10}, "draws is 10"),
    ],
)
def test_bad_options_are_errors(options, words):
    with pytest.raises(ValueError, match=words):
        compare({"a": frame(noise(1)), "b": frame(noise(2))}, **options)


def test_runs_that_cannot_be_compared_are_errors():
    with pytest.raises(ValueError, match="two or more"):
        compare({"a": frame(noise(1))})
    with pytest.raises(ValueError, match="common days.*2022-01-04 to"):
        compare({"a": frame(noise(1)), "b": frame(noise(2)).shift(freq="365D")})
    with pytest.raises(ValueError, match="share none"):
        compare({"a": frame(noise(1)), "b": frame(noise(2)).rename(columns=str.upper)})


# --- the page


def test_the_page_holds_the_table():
    pytest.importorskip("plotly")
    from report_page import chart, tables

    from qlib_ext.report import Context, compare_html, headlines

    runs = {"mse": frame(noise(1), ic=noise(2)), "liq": frame(noise(3), ic=noise(4))}
    found = compare(runs, draws=200)
    html = compare_html(found, Context(title="mse / liq"))
    read = {
        row: line
        for key, rows in tables(html).items()
        if key.startswith("difference-liq")
        for row, line in rows.items()
    }
    table = found.table.loc["liq"]
    assert set(read) == set(table.index)
    for row, line in read.items():
        assert line == {key: float(table[key][row]) for key in COMPARE_DEFINITIONS}
    both = headlines(found)
    assert (
        tables(html)["headlines"]["liq capped_buyable_net"]["sharpe"] == both["sharpe"][("liq", "capped_buyable_net")]
    )
    curve = runs["liq"]["capped_buyable_net"].cumsum()
    np.testing.assert_allclose(
        chart(html, "curves")["liq: capital in full, buyable, net of fees"][1], curve, rtol=1e-12
    )


# --- recorded runs and the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two finished runs of experiment "mlp" and a failed one, in a sqlite file."""
    from mlflow.tracking import MlflowClient

    place = tmp_path_factory.mktemp("runs")
    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'mlruns.db'}")
    number = client.create_experiment("mlp", artifact_location=str(place / "mlruns"))
    for place_in_time, status in enumerate(("FINISHED", "FINISHED", "FAILED")):
        run = client.create_run(number, start_time=1_700_000_000_000 + 60_000 * place_in_time)
        artifacts = place / "mlruns" / run.info.run_id / "artifacts"
        (artifacts / "liquidity_analysis").mkdir(parents=True)
        daily = frame(noise(place_in_time), ic=noise(10 + place_in_time))
        (artifacts / "liquidity_analysis" / "daily.pkl").write_bytes(pickle.dumps(daily))
        client.set_terminated(run.info.run_id, status=status)
    return place


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return list_runs()


def test_runs_are_found_by_id_prefix_experiment_and_latest(here):
    failed, second, first = here
    assert (failed.status, second.status) == ("FAILED", "FINISHED")
    assert find_run(first.id) == first and find_run(first.id[:12]) == first
    assert find_run("latest") == find_run("mlp") == second  # the latest that finished
    daily = load_artifacts(first, ["liquidity_analysis/daily.pkl", "pred.pkl"], trust=True)
    assert list(daily) == ["liquidity_analysis/daily.pkl"] and len(daily["liquidity_analysis/daily.pkl"]) == 120


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "mlb"], ["no finished run 'mlb'", "close: ['mlp']", "latest"]),
        (["report", "latest", "--uri", "sqlite:///none.db"], ["none.db is not there", "--uri"]),
        (["report", "latest", "--uri", "file:./mlruns"], ["sqlite:///FILE"]),
        (["report", "latest", "--experiment", "x"], ["no experiment 'x'", "mlp"]),
        (["compare", "latest"], ["two or more"]),
        (["compare", "latest", "mlp"], ["two runs are named"]),
        (["compare", "a=latest,mlp", "b=mlp"], ["names a run twice"]),
        (["compare", "latest,mlp", "b=mlp"], ["names a run twice"]),
        (["compare", "a=latest", "b=mlp,"], ["no finished run ''"]),
        (["compare", "a=latest", "b=mlp", "--out", "no/such/page.html"], ["there is no folder"]),
    ],
)
def test_mistakes_end_with_one_line(here, capsys, arguments, words):
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
    assert "Traceback" not in said


def test_compare_on_the_command_line(here, capsys, tmp_path):
    pytest.importorskip("plotly")
    _, second, first = here
    out = tmp_path / "page.html"
    assert (
        cli.main(
            ["compare", f"mse={first.id}", f"liq={second.id[:10]}", "--draws", "300", "--out", str(out), "--trust"]
        )
        == 0
    )
    said, noted = capsys.readouterr()
    assert "days of the label of mse, liq are not recorded and taken as 1" in noted
    pairs = (("mse", first), ("liq", second))
    found = compare({run: load_artifacts(r, [DAILY], trust=True)[DAILY] for run, r in pairs}, draws=300)
    row = found.table.loc[("liq", "capped_buyable_net.annual_return")]
    assert "120 common days, 2022-01-04 to" in said and f"blocks of {block_length(120)} days" in said
    assert f"[{row['low']:+.2%}, {row['high']:+.2%}]" in said
    assert "<title>mse / liq</title>" in out.read_text(encoding="utf-8")


DAILY = "liquidity_analysis/daily.pkl"


def test_several_seeds_on_the_command_line(here, capsys, tmp_path):
    pytest.importorskip("plotly")
    failed, second, first = here
    out = tmp_path / "page.html"
    names = [f"mse={first.id},{second.id}", f"liq={failed.id}"]
    assert cli.main(["compare", *names, "--draws", "300", "--out", str(out), "--trust"]) == 0
    said = capsys.readouterr()
    assert "mse: daily mean over 2 runs; each draw takes 1 of them anew" in said.out
    assert "differ in the number of runs" in said.err and "mse: 2; liq: 1" in said.err
    assert "2 个运行的均值" in out.read_text(encoding="utf-8")


def test_runs_on_other_spans_and_features_are_told():
    from qlib_ext.report import Context, differing_facts, text

    def context(**facts):
        return Context(title="", facts=tuple((text(name), value) for name, value in facts.items()))

    shared = {"data": "here", "seeds": "0", "valid": "2020", "test": "2021"}
    one, other = context(train="2015 – 2019", features="Alpha158", **shared), context(train="2010 – 2019", **shared)
    said = [line.en for line in differing_facts({"a": [one], "b": [other]})]
    assert said == [
        "the runs differ in features: a: Alpha158; b: ?",
        "the runs differ in train: a: 2015 – 2019; b: 2010 – 2019",
    ]
    assert differing_facts({"a": [one], "b": [one]}) == []
    pooled = [line.en for line in differing_facts({"a": [one, other], "b": [one, one]})]
    assert "the runs differ in train: a: 2015 – 2019 | 2010 – 2019; b: 2015 – 2019" in pooled
    assert "b stands for 2 runs, of which some have the same seed: 0" in pooled


def test_report_on_the_command_line_becomes_an_artifact(here, capsys):
    pytest.importorskip("plotly")
    _, second, _ = here
    second.folder.joinpath("liquidity_analysis", "quantiles.pkl").write_bytes(
        pickle.dumps(pd.DataFrame(np.random.default_rng(0).normal(size=(120, 5)), DAYS))
    )
    assert cli.main(["report", "latest", "--title", "my page", "--trust"]) == 0
    page = second.folder / "report.html"
    assert str(page) in capsys.readouterr().out
    assert "<title>my page</title>" in page.read_text(encoding="utf-8")


def test_the_page_is_written_anew_with_the_sections_of_its_record(here):
    pytest.importorskip("plotly")
    from test_report import HELD, OWN

    run = find_run("latest")
    record = {"class": "ReportRecord", "module_path": "qlib_ext.record", "kwargs": {"sections": [OWN]}}
    (run.folder / "mine").mkdir()
    (run.folder / "mine" / "held.pkl").write_bytes(pickle.dumps(HELD))
    (run.folder / "task").write_bytes(pickle.dumps({"record": [record]}))
    assert cli.main(["report", "latest", "--trust"]) == 0
    assert '<section id="held">' in (run.folder / "report.html").read_text(encoding="utf-8")


def test_definitions_name_the_columns_of_the_table():
    found = compare({"a": frame(noise(1)), "b": frame(noise(2))}, draws=100).table
    assert [*COMPARE_DEFINITIONS, "days"] == [*found.columns]


def test_an_empty_column_does_not_empty_the_runs():
    days = pd.bdate_range("2022-01-03", periods=60)
    rng = np.random.default_rng(3)
    made = {name: pd.DataFrame({"ic": rng.normal(size=60), "rank_ic": rng.normal(size=60)}, days) for name in "ab"}
    made["b"]["rank_ic"] = np.nan
    found = compare(made)
    assert len(found.daily["a"]) == 60 and "rank_ic" not in found.table.index.get_level_values("number")


def test_mistakes_of_the_command_line_are_told_in_a_line(tmp_path, capsys):
    wrong = tmp_path / "runs.db"
    wrong.write_text("no database, but some text that is long enough to be looked at " * 20)
    assert cli.main(["report", "latest", "--uri", f"sqlite:///{wrong}"]) == 2
    assert "is no readable file of mlflow runs" in capsys.readouterr().err
    assert cli.main(["check-data", "--provider-uri", str(tmp_path), "--start", "2022-01-04T00:00+08:00"]) == 2
