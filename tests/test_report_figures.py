"""Figures of the pages: axes with titles and units, lines that can be told apart."""

import re

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("plotly")

from report_artifacts import CONTEXT, DAYS, make_full_artifacts

from qlib_ext import evaluate
from qlib_ext.evaluate import compare
from qlib_ext.report import Chart, compare_html, report_html

UNIT = re.compile(r"[(（](1|%|% of capital|占资金 %|yuan|元|basis points|基点|number|只|笔|天)[)）]$")
NAMED = {  # axes of dates, of whole numbers that count off, and of names
    *("day", "day of the signal", "day of the trade", "trading day", "month", "epoch", "fold", "feature", "group"),
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
        if trace.type == "heatmap" and trace.showscale is not False:
            yield "colour bar", trace.colorbar.title.text


@pytest.fixture
def drawn(monkeypatch):
    """Figures by their charts' keys, of the pages that a test writes."""
    figures, html = {}, Chart.__html__
    monkeypatch.setattr(Chart, "__html__", lambda self: figures.setdefault(self.key, self.figure) and html(self))
    return figures


def check(key, figure):
    for axis, title in axes(figure):
        assert title, f"{key}: {axis} has no title"
        chinese = figure.layout.meta["zh"].get(title)
        assert chinese and not re.search("[A-Za-z]{2,}", chinese.replace("RankIC", "")), f"{key}: {axis} {chinese}"
        if title not in NAMED:
            assert UNIT.search(title) and UNIT.search(chinese), f"{key}: no unit in {title!r} or {chinese!r}"


def test_every_axis_has_a_title_with_a_unit_in_both_languages(drawn):
    report_html(make_full_artifacts(), CONTEXT)
    assert len(drawn) >= 18 and {"learning", "waterfall", "gate", "names", "capacity-judge"} <= set(drawn)
    for key, figure in drawn.items():
        check(key, figure)


def test_the_axes_of_a_comparison_have_units_too(drawn):
    frames = {
        name: pd.DataFrame({"capped_buyable_net": np.random.default_rng(i).normal(0, 0.01, 45), "rank_ic": 0.1}, DAYS)
        for i, name in enumerate("ab")
    }
    compare_html(compare(frames, draws=100), CONTEXT)
    assert set(drawn) == {"curves", "rank-ic"}
    for key, figure in drawn.items():
        check(key, figure)


def learning(drawn, frame):
    """The learning chart of members' curves."""
    report_html({"folds/curves.pkl": frame}, CONTEXT)
    return drawn.pop("learning")


@pytest.mark.parametrize("metric", evaluate.METRICS)
def test_every_metric_has_an_axis_title_with_its_unit(drawn, metric):
    losses = {"fold": [0], "seed": 0, "epoch": 1, "train_loss": 1.0, "valid_loss": 2.0}
    figure = learning(drawn, pd.DataFrame(losses | {metric: 0.1}))
    title, percent = figure.layout.yaxis2.title.text, figure.layout.yaxis2.tickformat is not None
    chinese = figure.layout.meta["zh"][title]
    assert percent == ("return" in metric or "excess" in metric)
    assert title.endswith("(%)" if percent else "(1)") and chinese.endswith("（%）" if percent else "（1）")
    assert "_" not in title and not re.search("[A-Za-z]{2,}", re.sub("RankICIR|RankIC|ICIR|IC", "", chinese))


def test_a_learning_chart_of_48_members_repeats_no_line(drawn):
    rows = [(fold, seed, epoch, 1.0, 2.0, 0.1) for fold in range(8) for seed in range(6) for epoch in (1, 2)]
    frame = pd.DataFrame(rows, columns=["fold", "seed", "epoch", "train_loss", "valid_loss", "rank_ic"])
    lines = [t.line for t in learning(drawn, frame).data if t.mode == "lines"]
    looks = [(line.color, line.dash, line.width) for line in lines]
    assert len(looks) == 3 * 48 and len(set(looks)) == 3 * 48  # training, validation and metric of each


@pytest.mark.parametrize("count", [2, 8, 9, 30])
def test_colours_differ(drawn, count):
    frames = {str(i): pd.DataFrame({"rank_ic": np.random.default_rng(i).normal(size=45)}, DAYS) for i in range(count)}
    compare_html(compare(frames, draws=100), CONTEXT)
    colours = [line.line.color for line in drawn["rank-ic"].data]
    assert len(set(colours)) == count and all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)


def test_members_without_losses_have_no_learning_chart_but_their_table(drawn):
    """Members of a walk-forward that are ensembles of kinds themselves: one number each."""
    frame = pd.DataFrame({"fold": [0, 1], "seed": 0, "epoch": 1, "ic": 0.1, "rank_ic": 0.1})
    members = pd.DataFrame({"fold": [0, 1], "seed": 0, "metric": "rank_ic", "value": 0.1})
    page = report_html({"folds/curves.pkl": frame, "folds/members.pkl": members}, CONTEXT)
    assert "learning" not in drawn and 'id="learning"' in page and "1 / 0" in page
