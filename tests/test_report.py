"""The report's page: its numbers are the artifacts', it needs nothing outside, and a browser can use it."""

import ast
import copy
import dataclasses
import math
import os
import re
import shutil
import string
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

pytest.importorskip("plotly")

from markupsafe import escape
from qlib.utils.exceptions import LoadObjectError
from report_artifacts import CONTEXT, DAYS, MONEY, TRADES, make_artifacts, make_full_artifacts, make_large_artifacts
from report_page import cards, chart, embedded, tables, visible_text

from qlib_ext import evaluate, record
from qlib_ext.record import ReportRecord, context_of
from qlib_ext.report import (
    SECTIONS,
    Chart,
    Context,
    FigureBuilder,
    Section,
    Text,
    artifact_paths,
    columns_of,
    compare_html,
    report_html,
    summarise,
    table,
    text,
    title,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def artifacts():
    return make_artifacts()


@pytest.fixture(scope="module")
def html(artifacts):
    return report_html(artifacts, CONTEXT)


# --- the numbers are the artifacts'


def test_tables_are_the_artifacts(artifacts, html):
    found = tables(html)
    pairs = {
        "headline": artifacts[f"{MONEY}headline.pkl"],
        "diagnostics": artifacts[f"{MONEY}diagnostics.pkl"],
        "folds": artifacts["fold_analysis/headline_folds.pkl"].drop(columns=["first", "last", "selected"]).T,
        "baselines": artifacts["baselines/baselines.pkl"].drop(columns=["first", "last"]).T,
        "capacity": artifacts[f"{MONEY}capacity.pkl"],
        "waterfall": artifacts[f"{TRADES}waterfall.pkl"],
        "execution-some_table": artifacts[f"{TRADES}execution.pkl"]["some_table"],
    }
    for key, frame in pairs.items():
        read = pd.DataFrame.from_dict(found[key], orient="index").loc[
            [str(name) for name in frame.index], frame.columns
        ]
        np.testing.assert_array_equal(read.to_numpy(dtype=float), frame.to_numpy(dtype=float), err_msg=key)


def test_the_first_screen_is_the_summary(artifacts, html):
    summary = summarise(artifacts, CONTEXT)
    found = cards(html)
    first = [name for name in found if name in summary.numbers]
    assert first == ["over_index", "ic", "turnover", "cost"]  # the mean stocks and what was held are not known
    assert all(found[name] == summary.numbers[name] for name in first) and found["ic"] == 0.05
    full = cards(report_html(make_full_artifacts(), CONTEXT))
    assert {"names_held", "capacity"} <= set(full) and len(set(full) & set(summary.numbers)) <= 8
    facts = report_html(artifacts, dataclasses.replace(CONTEXT, facts=((text("model"), "MLP"),)))
    assert re.findall('id="(verdict|headline|facts)"', facts) == ["verdict", "headline", "facts"]
    for words in (summary.verdict, *summary.better, *summary.alarms.values()):
        assert str(escape(words.en)) in html and str(escape(words.zh)) in html


def test_curve_and_drawdown_by_hand():
    """Returns +10%, -50%, +20% of a capital made up every day: 0.1, -0.4, -0.2; below the top 0.1: 0, -0.5, -0.3."""
    made = make_artifacts()
    daily = made[f"{MONEY}daily.pkl"].iloc[:3].copy()
    daily["capped_buyable_gross"] = [0.1, -0.5, 0.2]
    found = chart(report_html(made | {f"{MONEY}daily.pkl": daily}, CONTEXT), "returns")
    days, curve = found["capital in full, buyable, gross"]
    np.testing.assert_allclose(curve, [0.1, -0.4, -0.2], rtol=1e-12)
    assert list(days) == ["2022-01-04", "2022-01-05", "2022-01-06"]
    np.testing.assert_allclose(found["capital in full, buyable, gross: drawdown"][1], [0, -0.5, -0.3], atol=1e-12)


def test_charts_are_the_artifacts(artifacts, html):
    daily = artifacts[f"{MONEY}daily.pkl"]
    np.testing.assert_array_equal(chart(html, "ic-daily")["RankIC"][1], daily["rank_ic"])
    months, mean = chart(html, "ic-monthly")["IC"]
    assert list(months) == ["2022-01", "2022-02", "2022-03"]
    np.testing.assert_allclose(mean[0], daily["ic"][:20].mean(), rtol=1e-12)  # 4 to 31 January: 20 weekdays
    value = evaluate.newey_west(artifacts[f"{MONEY}quantiles.pkl"][10])[0]
    np.testing.assert_allclose(chart(html, "quantile-means")["mean label"][1][9], 1e4 * value, rtol=1e-12)
    judged = chart(html, "capacity-judge")
    np.testing.assert_array_equal(judged["the judge, down the ranking"], [[1e7, 1e9], [0.1, -0.1]])
    np.testing.assert_allclose(judged["the judge, a fixed number of names"][1], [0.3, 0.1])  # it knows no excess
    account = artifacts[f"{TRADES}report_normal_1day.pkl"]
    after = (1 + account["return"] - account["cost"]).cumprod() - 1
    np.testing.assert_allclose(chart(html, "backtest")["account after costs"][1], after, rtol=1e-12)


def test_costs_and_blocked_by_hand(html):
    """Four fills of 3 + 1 + 0 + 6 yuan on 100,000 yuan: commission 12 yuan = 1.2 bp, impact 24 yuan = 2.4 bp.

    Blocked at limit-up when buying: 100 - 40 and 50 - 0 = 110 of 150 yuan; suspended: 30 of 30 yuan.
    """
    found = tables(html)
    assert found["costs"]["commission"] == {"yuan": 12.0, "bp_of_traded": pytest.approx(1.2)}
    assert found["costs"]["impact"] == {"yuan": 24.0, "bp_of_traded": pytest.approx(2.4)}
    assert found["blocked"]["limit_up buy"] == {"wanted": 150, "cut": 110}
    assert found["blocked"]["suspended sell"] == {"wanted": 30, "cut": 30}
    assert list(chart(html, "costs")["commission"][1]) == [12.0]


def test_the_backtest_s_own_tables_come_first(artifacts):
    """What PortAnaRecord has summed up is shown as it is, not summed up again."""
    split = pd.DataFrame({"yuan": [99.0], "share_a_year": [0.25]}, index=["commission"])
    index = pd.MultiIndex.from_tuples([("limit_up", "buy")], names=["reason", "side"])
    cuts = pd.DataFrame({"cuts": [7], "wanted": [8.0], "cut": [5.0]}, index)
    made = artifacts | {f"{TRADES}execution.pkl": {"cost_split": split, "blocked": cuts}}
    found = tables(report_html(made, CONTEXT))
    assert found["costs"] == {"commission": {"yuan": 99.0, "share_a_year": 0.25}}
    assert found["blocked"] == {"limit_up buy": {"cuts": 7, "wanted": 8, "cut": 5}}


def test_the_gate_s_table_says_what_moves_each_weight(artifacts, html):
    regimes, found = artifacts["gate/regimes.pkl"], tables(html)["gate"]
    assert sorted(found) == list("abcd")
    for feature in "abcd":
        for name in ("correlation", "low", "high"):
            assert found[feature][name] == regimes.loc[feature, name]
        row = re.search(rf'<tr data-row="{feature}".*?</tr>', html[html.index('data-table="gate"') :])[0]
        assert f"<td>{regimes.loc[feature, 'moved_by']}</td>" in row
    assert "其低位时的权重" in html
    steady = artifacts["gate/regimes.pkl"][["mean", "standard_deviation"]]  # a state that does not vary moves nothing
    weights = {"gate/weights.pkl": artifacts["gate/weights.pkl"]}
    for made in (weights, weights | {"gate/regimes.pkl": steady}):
        assert list(tables(report_html(made, CONTEXT))["gate"]["a"]) == ["mean", "standard_deviation", "min", "max"]


def packed(positions, label, horizon):
    """What the page carries of the holdings."""
    artifacts = {f"{MONEY}positions.pkl": positions, **({} if label is None else {"label.pkl": label})}
    return embedded(report_html(artifacts, dataclasses.replace(CONTEXT, horizon=horizon)), "json-holdings")


def test_holdings_by_hand():
    """Stock B: 60 yuan at +10%, 20 at -5%: mean 40, at most 60% of 100, gain 6 - 1 = 5; A: 30 at +10%: gain 3."""
    days = pd.to_datetime(["2022-01-04", "2022-01-05"])
    index = pd.MultiIndex.from_tuples(
        [(days[0], "A"), (days[0], "B"), (days[1], "B")], names=["datetime", "instrument"]
    )
    positions = pd.DataFrame({"yuan": [30.0, 60.0, 20.0], "weight": [0.3, 0.6, 0.2]}, index)
    positions["liquidity"] = [600.0, 1500.0, np.nan]  # 30 / 600 = 5%, 60 / 1500 = 4%
    label = pd.DataFrame({"LABEL0": [0.1, 0.1, -0.05]}, index)
    held = packed(positions, label, 1)
    assert held["days"] == ["2022-01-04", "2022-01-05"] and held["codes"] == ["A", "B"]
    assert held["top"] == [[1, 60, 400, 0, 30, 500], [1, 20, -1]] and held["depth"] is None
    assert held["stocks"] == [[1, 2, 40, 0.6, 0.04, 5], [0, 1, 30, 0.3, 0.05, 3]]
    assert [row[-1] for row in packed(positions, label, 2)["stocks"]] == [2, 2]  # 2.5 and 1.5, rounded to the even
    for labels, horizon in ((None, 1), (label, None)):
        assert packed(positions, labels, horizon)["stocks"][0][-1] is None


def test_numbers_are_written_with_their_unit():
    frame = pd.DataFrame({"net_impact": [-0.1234], "net_impact_excess": [0.5], "impact": [1234.5], "ic_error": [np.nan],
                          "n_train": [np.inf], "ic": [0.5], "cost": [0.0]})  # fmt: skip
    kinds = {column.key: column.kind for column in columns_of(frame)}
    assert kinds == {
        "net_impact": "gain", "net_impact_excess": "gain", "impact": "yuan", "ic_error": "number",
        "n_train": "count", "ic": "number", "cost": "yuan",
    }  # fmt: skip
    cells = re.findall("<td.*?</td>", table(frame, key="t"))
    assert cells[0] == '<td data-v="-0.1234" class="minus">−12.34%</td>'
    assert cells[2:5] == ['<td data-v="1234.5">1,234</td>', '<td data-v="nan">–</td>', '<td data-v="inf">∞</td>']


def test_a_label_of_several_days_is_not_summed_as_if_it_were_daily(artifacts):
    """Labels of 4 days on successive days count each day four times: the sum is a quarter of theirs."""
    quantiles = artifacts[f"{MONEY}quantiles.pkl"]
    gap = quantiles.sub(quantiles.mean(axis=1), axis=0).cumsum()[10].to_numpy()
    for horizon, unit in ((1, "mean label a day (basis points)"), (4, "mean label over 4 days (basis points)")):
        html = report_html(artifacts, dataclasses.replace(CONTEXT, horizon=horizon))
        np.testing.assert_allclose(chart(html, "quantile-curves")["quantile 10"][1], gap / horizon, rtol=1e-12)
        assert embedded(html, "json-quantile-means")["layout"]["yaxis"]["title"]["text"] == unit
        assert ("of label / 4, as labels of 4 days overlap" in html) == (horizon == 4)
    unknown = report_html(artifacts, dataclasses.replace(CONTEXT, horizon=None))
    assert "sums, not compounded; the label&#39;s days, not recorded, taken as 1." in unknown


def test_capacity_is_over_the_days_of_the_headline(artifacts):
    """Test days without an outcome are in neither."""
    daily = artifacts[f"{MONEY}daily.pkl"].copy()
    daily.loc[daily.index[-3:], "capped_buyable_gross"] = np.nan
    html = report_html(artifacts | {f"{MONEY}daily.pkl": daily}, CONTEXT)
    said = f"42 days, 2022-01-04 to {daily.index[-4].date()}; universe"
    for key in ("headline", "capacity"):
        assert said in re.search(rf'<section id="{key}">.*?</section>', html, re.S)[0], key


def test_every_capital_at_which_an_excess_vanishes_is_shown(artifacts):
    # 0.1 at 10 million, -0.1 at 1,000 million: half way in the log.
    html = report_html(artifacts, CONTEXT)
    zeros = tables(html)["capacity_zeros"]
    assert zeros["net"]["falls_at"] == pytest.approx(1e8) and math.isnan(zeros["net"]["rises_at"])
    assert "capacity_topn_zeros" not in tables(html)  # a curve of an old run without an excess


def test_the_table_says_what_it_takes_for_granted(html):
    assert (
        "what is locked at the entry is neither sold nor bought anew"
        in re.search(r'<section id="headline">.*?</section>', html, re.S)[0]
    )


# --- sections


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("ic", f"{MONEY}daily.pkl"),
        ("quantiles", f"{MONEY}quantiles.pkl"),
        ("forecast", "forecast.json"),
        ("lags", f"{MONEY}lags.pkl"),
        ("exposures", f"{MONEY}exposures.pkl"),
        ("holdings", f"{MONEY}positions.pkl"),
        ("capacity", f"{MONEY}capacity.pkl"),
        ("baselines", "baselines/baselines.pkl"),
        ("learning", "folds/curves.pkl"),
        ("gate", "gate/weights.pkl"),
        ("backtest", f"{TRADES}report_normal_1day.pkl"),
        ("costs", f"{TRADES}fills.pkl"),
        ("blocked", f"{TRADES}blocked.pkl"),
        ("account", f"{TRADES}account.pkl"),
        ("months", f"{TRADES}tear_account.pkl"),
        ("drawdowns", f"{TRADES}tear_account.pkl"),
        ("ratios", f"{TRADES}tear_account.pkl"),
        ("horizons", f"{MONEY}tear_score.pkl"),
        ("groups", f"{MONEY}tear_score.pkl"),
        ("waterfall", f"{TRADES}waterfall.pkl"),
        ("rules", f"{TRADES}rules_citations.pkl"),
    ],
)
def test_a_section_appears_with_its_artifact(artifacts, section, path):
    stem = path.removesuffix(".pkl")  # the capacity's two curves make one section
    every = sections(report_html(artifacts, CONTEXT))
    fewer = sections(report_html({k: v for k, v in artifacts.items() if not k.startswith(stem)}, CONTEXT))
    assert section in every
    assert section not in fewer


def sections(html):
    """Keys of the page's sections."""
    return re.findall(r'<section id="([^"]+)">', html)


def test_every_artifact_of_the_test_is_read():
    assert set(make_artifacts()) <= set(artifact_paths())
    assert len({section.key for section in SECTIONS}) == len(SECTIONS)


def test_a_run_without_artifacts_says_what_to_do():
    with pytest.raises(ValueError, match="LiquidityRecord"):
        report_html({"pred.pkl": None}, CONTEXT)


# --- sections from outside


def stocks_held(least=1):
    """A section of somebody's own: what the recipe of docs/architecture.md shows."""

    def content(context, count):
        builder = FigureBuilder(text("day"), Text("stocks (number)", "股票数（只）"))
        builder.line(Text("held", "持有"), count.index, count["held"], "#3b82c4")
        scope = context.scope(count.index, Text(f"at least {least}", f"不少于 {least}"))
        return scope, [Chart("held", builder.finish(), title("yuan")), table(count[count["held"] >= least], key="held")]

    return Section("held", ("mine/held.pkl",), content, title=Text("Stocks held", "持股"))


OWN = {"class": "stocks_held", "module_path": "test_report", "kwargs": {"least": 3}}
HELD = pd.DataFrame({"held": [2, 3, 4]}, DAYS[:3])


@pytest.mark.parametrize("section", [OWN, stocks_held(3)])
def test_a_section_from_outside_is_on_the_page(artifacts, section):
    html = report_html(artifacts | {"mine/held.pkl": HELD}, CONTEXT, sections=[section])
    assert sections(html)[-1] == "held" and len(sections(html)) == len(sections(report_html(artifacts, CONTEXT))) + 1
    assert [row["held"] for row in tables(html)["held"].values()] == [3, 4]
    np.testing.assert_array_equal(chart(html, "held")["held"][1], HELD["held"])
    assert "不少于 3" in html and artifact_paths([section])[-1] == "mine/held.pkl"
    assert "held" not in sections(report_html(artifacts, CONTEXT, sections=[section]))  # without its artifact


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (OWN | {"class": "stocks_hold"}, "stocks_hold.*class, module_path, kwargs"),
        ({"class": "stocks_held"}, "module_path"),
        (OWN | {"class": "sections", "kwargs": {"html": ""}}, "Section"),
        ("stocks_held", "Section"),
        (dataclasses.replace(stocks_held(), key="folds"), "'folds'.*another"),
    ],
)
def test_what_is_no_section_is_an_error(section, words):
    with pytest.raises(ValueError, match=words):
        artifact_paths([section])
    with pytest.raises(ValueError, match=words):
        ReportRecord(Recorder({}), sections=[section])


def test_the_record_takes_sections_from_outside(artifacts, logged, monkeypatch):
    monkeypatch.setattr("qlib_ext.record.report.C", {"provider_uri": "a-folder"})
    recorder = Recorder({**artifacts, "task": TASK, "mine/held.pkl": HELD})
    ReportRecord(recorder, sections=[OWN])._generate()
    assert "held" in sections(recorder.objects["report.html"])


# --- words

TEXTS = yaml.safe_load((ROOT / "qlib_ext/report/assets/zh.yaml").read_text(encoding="utf-8"))


def calls(function):
    """Texts, first arguments of a function's calls in the report's modules and templates and in the records."""
    modules = [*ROOT.glob("qlib_ext/report/*.py"), *ROOT.glob("qlib_ext/record/*.py")]
    for node in (node for path in modules for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function and node.args:
            values = [] if isinstance(node.args[0], ast.JoinedStr) else ast.walk(node.args[0])
            yield from (each.value for each in values if isinstance(each, ast.Constant) and isinstance(each.value, str))
    for path in ROOT.glob("qlib_ext/report/assets/*.html"):
        yield from re.findall(rf'{function}\("([^"]*)"', path.read_text(encoding="utf-8"))


def test_every_text_has_its_chinese():
    needed = set(calls("text"))
    assert len(needed) > 100 and "Search a stock by its code" in needed
    assert sorted(needed - {*TEXTS["texts"], *(english for english, _ in TEXTS["titles"].values())}) == []
    assert len(set(calls("sentence"))) > 25 and set(calls("sentence")) <= set(TEXTS["sentences"])
    assert {f"section.{section.key}" for section in SECTIONS} <= set(TEXTS["titles"])
    for english, chinese in [*TEXTS["texts"].items(), *TEXTS["sentences"].values(), *TEXTS["recorded"].items()]:
        fields = [{name for _, name, _, _ in string.Formatter().parse(each) if name} for each in (english, chinese)]
        assert fields[0] == fields[1], english


def test_every_definition_has_its_chinese():
    keys = {
        *evaluate.DEFINITIONS,
        *evaluate.DIAGNOSTICS_DEFINITIONS,
        *record.FACTOR_DEFINITIONS,
        *record.TABLE_DEFINITIONS,
        *record.ROW_DEFINITIONS,
        *(f"capacity.{key}" for key in evaluate.CAPACITY_DEFINITIONS if key != "capital"),
        *(f"capacity_strategy.{k}" for k in evaluate.STRATEGY_CAPACITY_DEFINITIONS if k not in ("b", "capital")),
        *(f"waterfall.{key}" for key in evaluate.STAGES),
        *(f"account.{key}" for key in evaluate.ACCOUNT_METRICS),
        *(f"compare.{key}" for key in evaluate.COMPARE_DEFINITIONS),
        *(f"{name}.{key}" for name, of in evaluate.EXECUTION_DEFINITIONS.items() for key in of if "..." not in key),
        *(f"{name}.{key}" for name, of in evaluate.ACCOUNT_TEAR_DEFINITIONS.items() for key in of),
        *(f"{name}.{key}" for name, of in evaluate.SCORE_TEAR_DEFINITIONS.items() for key in of),
    }
    returns = {"paper": pd.Series([0.01, 0.02], pd.bdate_range("2022-01-04", periods=2))}
    keys |= {f"waterfall.{key}" for key in evaluate.waterfall(returns).attrs["definitions"]}
    assert sorted(keys - set(TEXTS["definitions"])) == ["liquidation.mean_days"]  # with its participation in it
    sentence = evaluate.EXECUTION_DEFINITIONS["liquidation"]["mean_days"]
    assert sentence.replace("`participation`", "{share}") in TEXTS["recorded"]


def test_words_are_the_same_whatever_the_numbers_say(html):
    """Below the verdict nothing is a fixed sentence about success: only numbers change with the outcome."""
    other = report_html(make_artifacts(sign=-1.0), CONTEXT)
    pages = [re.sub('<section id="verdict".*?</section>', "", page, flags=re.S) for page in (html, other)]
    for language in ("en", "zh"):
        below = [visible_text(page, language).split() for page in pages]
        assert below[0] == below[1] and len(below[0]) > 500


# --- the file


def test_the_page_needs_nothing_outside(html):
    body = re.sub(
        r'<script type="application/gzip" id="plotly">.*?</script>', "", html, flags=re.S
    )  # without plotly's own code
    assert not re.search(r'(src|href)="(?!#|data:)', body)
    assert "@import" not in body and "url(" not in body


def test_text_of_a_run_cannot_end_the_page(artifacts):
    evil = "</script><script>alert(1)</script>"
    html = report_html(artifacts, Context(title=evil, facts=((text("data"), "<img>"),)))
    assert evil not in html and "<img>" not in html and "<b>quoted</b>" not in html
    index = pd.MultiIndex.from_tuples([(DAYS[0], evil)], names=["datetime", "instrument"])
    html = report_html({f"{MONEY}positions.pkl": pd.DataFrame({"yuan": [1.0], "weight": [1.0]}, index)}, CONTEXT)
    assert evil not in html and embedded(html, "json-holdings")["codes"] == [evil]


@pytest.fixture(scope="module")
def large():
    return report_html(make_large_artifacts(), CONTEXT)


def test_three_years_of_the_whole_market_stay_small(large):
    assert len(large.encode()) < 6e6
    held = embedded(large, "json-holdings")
    assert len(held["top"]) == 730 and {len(day) for day in held["top"]} == {3 * 200}  # all holdings of a day
    assert held["depth"] is None and len(chart(large, "returns")["capital in full, buyable, gross"][1]) == 730


def test_holdings_beyond_what_a_page_carries_are_the_largest_and_said_so(artifacts, monkeypatch):
    positions = artifacts[f"{MONEY}positions.pkl"]
    monkeypatch.setattr("qlib_ext.report.trades.MOST_PACKED", len(positions) - 1)
    monkeypatch.setattr("qlib_ext.report.trades.TOP_HOLDINGS", 1)
    html = report_html(artifacts, CONTEXT)
    held = embedded(html, "json-holdings")
    assert held["depth"] == 1 and {len(day) for day in held["top"]} == {3}
    day = positions["yuan"].iloc[:2]
    assert held["codes"][held["top"][0][0]] == day.idxmax()[1]
    assert "Not among the 1 largest holdings of this day" in html


# --- the record


class Recorder:
    """Artifacts in memory; files that are saved are read."""

    id, experiment_id, start_time, experiment_name = "abc123", "1", "2026-01-01 10:00:00", "an experiment"

    def __init__(self, objects):
        self.objects = objects

    def load_object(self, name):
        if name not in self.objects:
            raise LoadObjectError(name)
        return self.objects[name]

    def list_artifacts(self, folder=None):
        return []

    def log_metrics(self, **metrics):
        self.metrics = metrics

    def set_tags(self, **tags):
        self.tags = tags

    def save_objects(self, *, local_path, artifact_path):
        assert artifact_path is None
        self.objects[Path(local_path).name] = Path(local_path).read_text(encoding="utf-8")

    def get_local_dir(self):
        return "here"


MEMBER = {"class": "MLPModel", "kwargs": {"loss": "liq_wpcc"}}
TASK = {
    "model": {"class": "FoldEnsemble", "kwargs": {"seeds": [0, 1], "model": MEMBER}},
    "dataset": {"kwargs": {"handler": {"class": "FastAlpha158", "module_path": "qlib_ext.handler",
                                       "kwargs": {"instruments": "csi300"}},
                           "segments": {"test": ["2022-01-04", "2022-12-23"]}, "liquidity": "auto"}},
    "record": [{"class": "LiquidityRecord", "kwargs": {"capital": 2e8, "commission": 0.0005, "benchmark": None}}],
}  # fmt: skip


@pytest.fixture
def logged(monkeypatch):
    """Lines of the record's logger."""
    lines = []
    monkeypatch.setattr("qlib_ext.record.report.logger", SimpleNamespace(info=lines.append, warning=lines.append))
    return lines


def test_the_record_saves_the_page(artifacts, logged, monkeypatch):
    monkeypatch.setattr("qlib_ext.record.report.C", {"provider_uri": "a-folder"})
    recorder = Recorder({**artifacts, "task": TASK})
    assert ReportRecord(recorder)._generate() == {}
    page = recorder.objects["report.html"]
    assert "report.html" in logged[0] and "<title>an experiment</title>" in page
    for told in ("abc123", "a-folder", "csi300", "FoldEnsemble (MLPModel)", "0, 1", "200 million yuan", "0.050%"):
        assert told in page, told
    assert "standard error" in recorder.tags["verdict"]
    assert all(name.startswith("summary.") for name in recorder.metrics)


def test_without_plotly_the_run_goes_on(logged, monkeypatch):
    monkeypatch.setattr("qlib_ext.record.report.find_spec", lambda name: None)
    recorder = Recorder({})
    ReportRecord(recorder)._generate()
    assert (
        list(recorder.objects) == ["summary.json"]
        and "pip install" in logged[0]
        and "qlib-ext report abc123" in logged[0]
    )


def test_only_a_page_needs_plotly():
    """Records and `compare` without --out run without it."""
    code = "import sys; sys.modules['plotly'] = None; import qlib_ext.record, qlib_ext.cli, qlib_ext.report as report; "
    code += "print(report.text('no costs').zh)"
    assert "不含费用" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_record_refuses_a_bad_title():
    with pytest.raises(ValueError, match="title"):
        ReportRecord(Recorder({}), title="")


def test_context_takes_the_run_s_own_numbers():
    task = TASK | {
        "record": [{"class": "LiquidityRecord", "kwargs": {"buy_rate": 0.001, "sell_rate": 0.002, "impact": 0}}]
    }
    made = context_of(task, {}, {"experiment": "e"}, provider="p")
    assert "0.100% of buys and 0.200% of sells" in made.costs.en and made.universe == "csi300" and made.capital == 150e6
    assert made.horizon == 1 and made.benchmark == "SH000300"
    task = copy.deepcopy(task)
    task["dataset"]["kwargs"]["handler"]["kwargs"]["label"] = ["Ref($close, -6)/Ref($close, -1) - 1"]
    assert context_of(task, {}, {}, provider="p").horizon == 5


def fact(context, name):
    (value,) = (value for key, value in context.facts if key.en == name)
    return value if isinstance(value, str) else value.en


@pytest.mark.parametrize(
    ("dataset", "handler", "said", "horizon"),
    [
        ({}, {"class": "Alpha360", "module_path": "qlib.contrib.data.handler"}, "$close, -2", 1),
        ({}, {"class": "Alpha158vwap", "module_path": "qlib.contrib.data.handler"}, "$vwap, -2", 1),
        ({}, {"class": "Alpha158", "module_path": "my.handlers"}, "not recorded", None),
        ({}, {"class": "MyHandler", "module_path": "qlib_ext.handler"}, "not recorded", None),
        ({"label_days": [1, 6]}, {"class": "MyHandler"}, "not recorded", 5),
        ({"label": "Ref($open, -4)/Ref($open, -1) - 1"}, {"class": "MyHandler"}, "$open, -4", 3),
        ({"label": "Mean($close, 5)"}, {"class": "MyHandler"}, "Mean($close, 5)", None),
        ({}, {"class": "DataHandlerLP", "kwargs": {"data_loader": {"kwargs": {"config": {
            "label": [["Ref($close, -3)/Ref($close, -1) - 1"], ["LABEL0"]]}}}}}, "$close, -3", 2),
    ],
)  # fmt: skip
def test_the_header_names_no_label_that_is_not_known(dataset, handler, said, horizon):
    made = context_of({"dataset": {"kwargs": {**dataset, "handler": handler}}}, {}, {}, provider="p")
    assert said in fact(made, "label") and made.horizon == horizon
    known = context_of({"dataset": {"kwargs": {"handler": handler}}}, {}, {}, provider="p", label="Ref($a, -3)/$a - 1")
    assert fact(known, "label") == "Ref($a, -3)/$a - 1" and known.horizon == 3


@pytest.mark.parametrize(("code", "index"), [("SH000300", True), ("h00300", False), ("SH600018", False)])
def test_the_header_says_what_a_price_index_lacks(code, index):
    record = [{"class": "LiquidityRecord", "kwargs": {"benchmark": code}}]
    said = fact(context_of(TASK | {"record": record}, {}, {}, provider="p"), "benchmark")
    assert said.startswith(code) and ("2.4% a year of dividends" in said) == index


def test_without_a_record_of_money_the_header_claims_none(artifacts):
    made = context_of(TASK | {"record": [{"class": "SignalRecord"}]}, {}, {"experiment": "e"}, provider="p")
    assert (made.capital, made.benchmark, made.costs.en) == (None, None, "costs are not known")
    assert [fact(made, name) for name in ("capital", "costs", "benchmark")] == ["not recorded"] * 3
    page = report_html(artifacts, made)
    assert "未记录" in page and "million yuan, at most" not in page and "the capital is not known" in page
    empty = context_of({}, {}, {}, provider="p")  # a run made in Python
    assert [fact(empty, name) for name in ("label", "liquidity", "capital")] == ["not recorded"] * 3
    assert empty.horizon is None
    alone = context_of(TASK, {}, {}, provider="p")
    assert alone.benchmark is None and fact(alone, "benchmark").startswith("none") and alone.capital == 2e8


def test_the_record_asks_its_dataset_for_the_label(artifacts, logged, monkeypatch):
    monkeypatch.setattr("qlib_ext.record.report.C", {"provider_uri": "a-folder"})
    recorder = Recorder({**artifacts, "task": {"dataset": {"kwargs": {"handler": {"class": "MyHandler"}}}}})
    label = "Ref($close, -4)/Ref($close, -1) - 1"
    loader = SimpleNamespace(fields={"label": ([label], ["LABEL0"])})
    ReportRecord(recorder, SimpleNamespace(handler=SimpleNamespace(data_loader=loader)))._generate()
    assert label in recorder.objects["report.html"]


# --- a browser

CHROMIUM = os.environ.get("QLIB_EXT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if not CHROMIUM:
        pytest.skip("no chromium on this machine: install it, or set QLIB_EXT_CHROMIUM")
    with sync_api.sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=120_000)
        yield made
        made.close()


@pytest.fixture
def opened(browser, html, tmp_path):
    """A page open in the browser, and what its console said; the network is off."""
    yield from open_page(browser, html, tmp_path)


def open_page(browser, html, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 800}, color_scheme="light")
    page, said = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    yield page, said
    context.close()


def show(page, key):
    page.evaluate(f"document.getElementById('chart-{key}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    page.wait_for_selector(f"#chart-{key}[data-drawn] .main-svg", state="attached")


@pytest.mark.browser
def test_switches_zoom_and_search_in_a_browser(opened):
    page, said = opened
    show(page, "returns")
    title = "() => document.querySelector('#chart-returns .ytitle').textContent"
    paper = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(title) == "cumulative return (%)" and page.evaluate(paper) == "rgb(255, 255, 255)"
    page.click("#language")
    show(page, "returns")
    page.wait_for_function(f"({title})() === '累计收益（%）'")
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(20, 23, 28)"
    show(page, "returns")
    page.wait_for_function("document.querySelector('#chart-returns .ytitle').style.fill === 'rgb(228, 232, 238)'")
    ends = "const r = document.getElementById('chart-returns')._fullLayout.xaxis.range"
    span = f"() => {{ {ends}; return new Date(r[1]) - new Date(r[0]); }}"
    show(page, "returns")
    box, before = page.locator("#chart-returns .nsewdrag").first.bounding_box(), page.evaluate(span)
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
    page.mouse.up()
    page.wait_for_function(f"({span})() < 0.5 * {before}")
    assert page.locator("#stocks tbody tr").count() == 2
    page.fill("#stock", "sz300")
    assert page.locator("#stocks tbody tr th").all_inner_texts() == ["SZ300001"]
    assert page.locator("#top tbody tr th").all_inner_texts() == ["SZ300001"]
    page.fill("#day", "2022-01-08")  # a Saturday: the next signal day
    assert page.input_value("#day") == "2022-01-10"
    assert said == []


@pytest.mark.browser
def test_every_chart_is_drawn_and_nothing_overflows_on_a_phone(opened):
    page, said = opened
    page.set_viewport_size({"width": 390, "height": 800})
    keys = page.evaluate("Array.from(document.querySelectorAll('.chart')).map((chart) => chart.dataset.chart)")
    assert len(keys) >= 15
    for key in keys:
        show(page, key)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert said == []


@pytest.mark.browser
def test_print_draws_everything_light(opened):
    page, said = opened
    page.click("#theme")
    page.wait_for_selector("html[data-charts=ready]", state="attached")
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")  # as before the print
    assert page.evaluate("document.querySelectorAll('.chart:not([data-drawn])').length") == 0
    assert said == []


@pytest.fixture
def opened_large(browser, large, tmp_path):
    yield from open_page(browser, large, tmp_path)


@pytest.mark.browser
def test_three_years_of_the_whole_market_can_be_used_soon(opened_large):
    """From the start of the navigation to the first chart drawn, and to a click that has had its effect."""
    page, said = opened_large
    page.click('nav a[href="#returns"]')
    page.wait_for_function("performance.getEntriesByName('qlib_ext.charts').length > 0")
    mark = "performance.getEntriesByName('qlib_ext.{}')[0].startTime"
    ready, drawn = (page.evaluate(mark.format(name)) / 1000 for name in ("ready", "charts"))
    clicked = page.evaluate(
        "() => { const start = performance.now(); document.getElementById('language').click();"
        " const text = document.querySelector('nav a').innerText; return [performance.now() - start, text]; }"
    )
    sys.stdout.write(
        f"usable after {ready:.2f} s, first chart after {drawn:.2f} s, a click takes {clicked[0]:.0f} ms\n"
    )
    assert ready <= drawn < 6.0  # a busy machine; alone it is below 2
    assert clicked[0] < 1000 and re.search("[一-龥]", clicked[1])
    assert page.evaluate("document.querySelectorAll('.chart:not([data-drawn])').length") > 5  # far charts wait
    page.fill("#stock", "SH600001")
    page.fill("#day", "2021-06-01")
    rows = page.locator("#top tbody tr").count()
    assert page.locator("#absent").is_visible() == (rows == 0)
    assert said == []


@pytest.mark.browser
def test_a_comparison_of_three_runs_in_a_browser(browser, tmp_path):
    rng = np.random.default_rng(0)
    columns = ["ic", "rank_ic", *evaluate.SERIES]
    frames = {name: pd.DataFrame(rng.normal(0.001, 0.01, (len(DAYS), 6)), DAYS, columns) for name in ("a", "b", "c")}
    found = evaluate.compare(frames | {"a": [frames["a"], frames["b"]]}, draws=100)
    for page, said in open_page(browser, compare_html(found, CONTEXT), tmp_path):
        show(page, "curves")
        lines = page.evaluate(
            "document.getElementById('chart-curves').data.map((t) => t.line.color + t.line.dash + (t.yaxis || 'y'))"
        )
        assert len(lines) == len(set(lines)) == 24  # 3 runs, 4 series, curve and drawdown
        show(page, "rank-ic")
        page.click("#language")  # in the header: the chart is redrawn when it comes near again
        show(page, "rank-ic")
        page.wait_for_function("document.querySelector('#chart-rank-ic .ytitle').textContent.includes('均值')")
        page.set_viewport_size({"width": 390, "height": 800})  # charts follow a moment later
        page.wait_for_function("document.documentElement.scrollWidth <= 390")
        assert said == []
