"""The page in a browser at the widths of a laptop, a phone and paper: nothing is cut off, hidden or drawn over."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("plotly")

from report_artifacts import CONTEXT, TRADES, make_full_artifacts
from report_page import chart, embedded, visible_text
from test_report import browser, open_page, show  # noqa: F401

from qlib_ext.report import money, report_html, text

NATIONAL_DAY = pd.bdate_range("2022-10-03", "2022-10-07")  # no trading
FACTS = ((text("model"), "MLP"),)


@pytest.fixture(scope="module")
def html():
    made = make_full_artifacts()
    days = pd.bdate_range("2022-09-12", periods=50).difference(NATIONAL_DAY)
    for path, frame in made.items():
        if isinstance(frame, pd.DataFrame) and isinstance(frame.index, pd.DatetimeIndex) and len(frame) == 45:
            made[path] = frame.set_axis(days)
    made[f"{TRADES}waterfall.pkl"] = pd.DataFrame(
        {"annual_return": [0.5, 0.4, 0.45, 0.2, -0.1]}, index=["paper", "buyable", "strategy", "impact", "deck"]
    )
    return report_html(made, dataclasses.replace(CONTEXT, facts=FACTS, capital=150e6))


@pytest.fixture
def page(browser, html, tmp_path):  # noqa: F811
    for opened, said in open_page(browser, html, tmp_path):
        yield opened
        assert said == []


BOX = "const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };"


@pytest.mark.browser
def test_the_navigation_shows_all_its_links(page):
    links = f"() => {{ {BOX} return Array.from(document.querySelectorAll('#links a')).map(box); }}"
    page.set_viewport_size({"width": 1366, "height": 768})
    boxes = np.array(page.evaluate(links))
    assert len(boxes) > 20 and (boxes[:, 0] >= 0).all() and (boxes[:, 2] <= 210).all() and (boxes[1:, 1] > 0).all()
    assert (boxes[1:, 1] >= boxes[:-1, 3] - 1).all() and boxes[-1, 3] <= 768  # each below the other, in the window
    page.set_viewport_size({"width": 390, "height": 844})
    assert not page.locator("#links").is_visible()
    page.click("#menu")
    boxes = np.array(page.evaluate(links))
    assert (boxes[:, 2] > boxes[:, 0]).all() and (boxes[:, 2] <= 390).all()
    page.click('#links a[href="#facts"]')
    assert not page.locator("#links").is_visible() and page.get_attribute("#menu", "aria-expanded") == "false"


CUT = """() => Array.from(document.querySelectorAll('.scroll')).filter((s) => s.scrollWidth > s.clientWidth + 1)
    .map((s) => (s.querySelector('table').dataset.table || s.querySelector('table').id))"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1366, 1000, 390])
def test_no_table_is_cut_off(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('button.all').forEach((button) => button.click())")
    for _ in range(2):  # in English, in Chinese
        page.wait_for_function(f"({CUT})().length === 0")
        page.click("#language")
    if width == 390:
        labels = page.evaluate(
            "Array.from(document.querySelectorAll('table.stacked td')).map((td) => td.dataset.label)"
        )
        assert len(labels) > 50 and all(labels)  # each number says what it is


@pytest.mark.browser
def test_on_paper_no_table_is_cut_off_and_no_heading_stands_alone(page):
    page.wait_for_selector("html[data-charts=ready]", state="attached")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate(CUT) == []
    after = "(e) => getComputedStyle(e).breakAfter"
    for heads in (".head", "h3"):
        assert set(page.eval_on_selector_all(heads, f"(all) => all.map({after})")) == {"avoid"}
    for whole in (".head", "figure", "tr", ".card", "p"):
        assert page.eval_on_selector(whole, "(e) => getComputedStyle(e).breakInside") == "avoid"
    page.emulate_media(media="screen")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.classList.contains('paper')") is False


OVERLAPS = f"""(key) => {{ {BOX}
    const root = document.getElementById('chart-' + key), whole = box(root);
    const all = (name) => Array.from(root.querySelectorAll(name)).map(box);
    const meet = (a, b) => a[0] < b[2] - 1 && b[0] < a[2] - 1 && a[1] < b[3] - 1 && b[1] < a[3] - 1;
    const titles = all('.xtitle, .ytitle, .y2title'), ticks = all('.xtick text, .ytick text, .y2tick text');
    const out = titles.filter((t) => t[0] < whole[0] - 1 || t[1] < whole[1] - 1 || t[3] > whole[3] + 1);
    return [titles.length, out.length, titles.filter((t) => ticks.some((tick) => meet(t, tick))).length]; }}"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1366, 390])
def test_axis_titles_stand_apart_from_tick_labels(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    keys = page.evaluate("Array.from(document.querySelectorAll('.chart')).map((chart) => chart.dataset.chart)")
    for key in keys:
        show(page, key)
        page.wait_for_function(f"(({OVERLAPS})('{key}'))[0] > 0")
        assert page.evaluate(f"({OVERLAPS})('{key}')")[1:] == [0, 0], key


@pytest.mark.browser
def test_days_without_trading_take_no_room(page):
    show(page, "returns")
    at = "document.getElementById('chart-returns')._fullLayout.xaxis.d2p('{}')"
    days = ("2022-09-29", "2022-09-30", "2022-10-10", "2022-10-11", "2022-10-14", "2022-10-17")
    thursday, friday, monday, tuesday, before, after = (page.evaluate(at.format(day)) for day in days)
    day = friday - thursday
    assert day > 1
    assert monday - friday == pytest.approx(day, rel=0.02)  # a weekend, the holiday, a weekend
    assert tuesday - monday == pytest.approx(day, rel=0.02) and after - before == pytest.approx(day, rel=0.02)


@pytest.mark.browser
def test_gains_are_red_in_chinese_and_green_in_english(page):
    first = 'table[data-table="waterfall"] td.{}'
    tint = "(e) => getComputedStyle(e).color.match(/[0-9]+/g).map(Number)"
    found = {}
    for language in ("en", "zh"):
        if page.evaluate("document.documentElement.dataset.language") != language:
            page.click("#language")
        for name in ("plus", "minus"):
            red, green, _ = page.eval_on_selector(first.format(name), tint)
            found[language, name] = "red" if red > green else "green"
        show(page, "waterfall")
        rise = "document.getElementById('chart-waterfall').data[0].increasing.marker.color"
        red, green = (int(page.evaluate(rise)[at : at + 2], 16) for at in (1, 3))
        page.wait_for_function(f"({rise}) === '{'#1f9668' if language == 'en' else '#cf4458'}'")
    assert found == {("en", "plus"): "green", ("en", "minus"): "red", ("zh", "plus"): "red", ("zh", "minus"): "green"}


def test_amounts_are_said_in_each_language_s_units(html):
    assert money(150e6).zh == "1.5 亿元" and money(1e7).zh == "1,000 万元" and money(8e10).en == "80 billion yuan"
    chinese = visible_text(html, "zh")
    assert "百万元" not in html and "# 亿元" in chinese and "万元" in chinese
    assert "million yuan" in visible_text(html, "en") and "million yuan" not in chinese
    ticks = embedded(html, "json-capacity-judge")["layout"]
    assert [ticks["meta"]["zh"][name] for name in ("10 million", "1 billion")] == ["1000 万", "10 亿"]


def test_the_waterfall_walks_from_paper_to_the_account(html):
    """0.5 on paper, less 0.1, plus 0.05, less 0.25: 0.2 in the account; the deck's -0.1 stands beside it."""
    (trace,) = embedded(html, "json-waterfall")["data"]
    steps, names = chart(html, "waterfall")[""]
    np.testing.assert_allclose(steps, [0.5, -0.1, 0.05, -0.25, 0.0, -0.1], atol=1e-12)
    assert trace["type"] == "waterfall"
    assert trace["measure"] == ["absolute", "relative", "relative", "relative", "total", "absolute"]
    assert list(names)[-2:] == ["the account", "traded as the deck's judge does"]
    assert trace["text"] == ["50.0%", "-10.0%", "+5.0%", "-25.0%", "20.0%", "-10.0%"]


def test_capacity_is_two_charts(html):
    part = re.search(r'<section id="capacity">.*?</section>', html, re.S)[0]
    assert re.findall('data-chart="([^"]+)"', part) == ["capacity-strategy", "capacity-judge"]
