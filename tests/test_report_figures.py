"""Figures of the pages: axes with titles and units, lines that can be told apart."""

import re

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("plotly")

from report_artifacts import CONTEXT, DAYS, make_full_artifacts

from qlib_ext import evaluate
from qlib_ext.evaluate import compare
from qlib_ext.report import Chart, compare_html, figures, report

UNIT = re.compile(r"[(（](1|%|% of capital|占资金 %|yuan|元|basis points|基点|number|只|笔|million yuan|百万元)[)）]$")
NAMED = {  # axes of dates, of whole numbers that count off, and of names
    *("day", "day of the signal", "day of the trade", "trading day", "month", "epoch", "fold", "feature"),
    *("quantile of the score, 1 = lowest", "what is taken into account"),
}


def axes(figure):
    """Titles of all axes and colour bars of a figure."""
    layout = figure.layout.to_plotly_json()
    used = {"x": "xaxis", "y": "yaxis"}
    for trace in figure.data:
        if getattr(trace, "yaxis", None) == "y2":
            used["y2"] = "yaxis2"
    for axis in used.values():
        yield axis, (layout.get(axis, {}).get("title") or {}).get("text")
    for trace in figure.data:
        if trace.type == "heatmap":
            yield "colour bar", trace.colorbar.title.text


@pytest.fixture(scope="module")
def charts():
    made = report.sections(make_full_artifacts(), CONTEXT)
    return {part.key: part.figure for section in made for part in section.parts if isinstance(part, Chart)}


def check(key, figure):
    for axis, title in axes(figure):
        assert title, f"{key}: {axis} has no title"
        chinese = figure.layout.meta["zh"].get(title)
        assert chinese and not re.search("[A-Za-z]{2,}", chinese.replace("RankIC", "")), f"{key}: {axis} {chinese}"
        if title not in NAMED:
            assert UNIT.search(title) and UNIT.search(chinese), f"{key}: no unit in {title!r} or {chinese!r}"


def test_every_axis_has_a_title_with_a_unit_in_both_languages(charts):
    assert len(charts) >= 18 and {"learning", "waterfall", "gate", "names", "capacity_topn"} <= set(charts)
    for key, figure in charts.items():
        check(key, figure)


def test_the_axes_of_a_comparison_have_units_too(monkeypatch):
    drawn = {}
    html = Chart.html
    monkeypatch.setattr(Chart, "html", lambda self: drawn.setdefault(self.key, self.figure) and html(self))
    frames = {
        name: pd.DataFrame({"capped_buyable_net": np.random.default_rng(i).normal(0, 0.01, 45), "rank_ic": 0.1}, DAYS)
        for i, name in enumerate("ab")
    }
    compare_html(compare(frames, draws=100), CONTEXT)
    assert set(drawn) == {"curves", "rank-ic"}
    for key, figure in drawn.items():
        check(key, figure)


@pytest.mark.parametrize("metric", evaluate.METRICS)
def test_every_metric_has_an_axis_title_with_its_unit(metric):
    title, percent = figures.metric_words(metric)
    assert percent == ("return" in metric or "excess" in metric)
    assert title.en.endswith("(%)" if percent else "(1)") and title.zh.endswith("（%）" if percent else "（1）")
    assert "_" not in title.en and not re.search("[A-Za-z]{2,}", re.sub("RankICIR|RankIC|ICIR|IC", "", title.zh))


def test_a_learning_chart_of_48_members_repeats_no_line():
    rows = [(fold, seed, epoch, 1.0, 2.0, 0.1) for fold in range(8) for seed in range(6) for epoch in (1, 2)]
    frame = pd.DataFrame(rows, columns=["fold", "seed", "epoch", "train_loss", "valid_loss", "rank_ic"])
    lines = [t.line for t in figures.learning(frame, "rank_ic").data if t.mode == "lines"]
    looks = [(line.color, line.dash, line.width) for line in lines]
    assert len(looks) == 3 * 48 and len(set(looks)) == 3 * 48  # training, validation and metric of each


@pytest.mark.parametrize("count", [1, 8, 9, 30])
def test_colours_differ(count):
    made = figures.colours(count)
    assert len(set(made)) == count and all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in made)
