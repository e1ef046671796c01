"""Words of the page: the Chinese page is Chinese."""

import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("plotly")

from report_artifacts import DAYS, make_full_artifacts

from qlib_ext.evaluate import compare
from qlib_ext.record import selections
from qlib_ext.report import Chart, Context, compare_html, plain, report_html, said, sections, words

ALLOWED = {  # names that are the same in Chinese
    *(
        "IC",
        "ICIR",
        "RankIC",
        "RankICIR",
        "NaN",
        "LightGBM",
        "Newey",
        "West",
        "Bartlett",
        "delta",
        "qlib",
        "sqrt",
        "std",
    ),
    *("English", "SH", "SH000300", "SZ000001", "SZ", "T", "t", "n"),
}
FIELDS = {  # names of columns and options, as code writes them
    *("capped_paper_gross", "capped_buyable_gross", "topn_paper_gross", "top_n", "mean_ic", "rank_ic", "ic_error"),
    *(
        "mean_return",
        "precision_top",
        "precision_chance",
        "rank_icir",
        "icir",
        "ic",
        "base",
        "z",
        "b",
        "net_impact_excess",
    ),
    *("daily_excess", "participation", "last_price", "write_off"),
}
OWN = {
    *"abcd",
    "quoted",
    "law",
    "lots",
    "run",
    "x",
    "vix_level",
    "us10y_level",
    "us",
    "y_level",
    "cpi_level",
    "A",
    "B",
    "C",
}  # the test's


def latin(text):
    """Words of a text in Latin letters that are not allowed."""
    return sorted(set(re.findall(r"[A-Za-z][A-Za-z0-9_]*", unescape(text))) - ALLOWED - FIELDS - OWN)


def chinese(html):
    """What a person reads on the Chinese page."""
    text = re.sub(r"<(script|style).*?</\1>", " ", html, flags=re.S)
    return re.sub(r"<[^>]+>", " ", re.sub(r'<span lang="en">.*?</span>', " ", text, flags=re.S))


@pytest.fixture(scope="module")
def full():
    universe = Context(title="", universe="300 stocks given by code").universe
    facts = ((words("universe"), universe), (words("capital"), words("no costs")))
    return Context(title="", facts=facts, universe=universe, capital=100.0, costs=words("no costs"),
                   benchmark="SH000300", horizon=1)  # fmt: skip


@pytest.fixture(scope="module")
def html(full):
    return report_html(make_full_artifacts(), full)


def test_the_chinese_page_has_no_english_words(html):
    assert latin(chinese(html)) == []


def test_tooltips_are_chinese_on_the_chinese_page(html):
    body = re.sub(r"<(script|style).*?</\1>", " ", html, flags=re.S)
    both = re.findall(r' title="([^"]*)" data-title-zh="([^"]*)"', body)
    assert len(both) > 40 and len(both) == len(re.findall(r' title="', body))
    assert latin(" ".join(zh for _, zh in both)) == []
    spoken = re.findall(r' aria-label="([^"]*)"( data-aria-zh="[^"]*")?', body)
    assert all(zh or "语言" in en for en, zh in spoken)


def test_charts_are_chinese_on_the_chinese_page(full):
    for section in sections(make_full_artifacts(), full):
        for part in section.parts:
            if isinstance(part, Chart):
                known, seen = part.figure.layout.meta["zh"], []
                seen += [axis.title.text for axis in part.figure.select_xaxes()]
                seen += [axis.title.text for axis in part.figure.select_yaxes()]
                seen += [trace.name for trace in part.figure.data if trace.name]
                seen += [
                    button.label for axis in part.figure.select_xaxes() for button in axis.rangeselector.buttons or ()
                ]
                said_so = " ".join(known.get(text, text) for text in seen if text)
                assert latin(said_so) == [], part.key


def test_a_comparison_in_chinese_has_no_english_words():
    frames = {}
    for i, name in enumerate("ab"):
        noise = np.random.default_rng(i).normal(0, 0.01, (45, 3))
        frames[name] = pd.DataFrame(noise, DAYS, ["capped_buyable_net", "ic", "rank_ic"])
    context = Context(title="", facts=((plain("a"), words("no costs")),), universe="", costs=words("no costs"))
    html = compare_html(compare(frames, draws=100), context)
    assert latin(chinese(html)) == []


def test_sentences_of_records_are_translated():
    members = pd.DataFrame({"metric": ["capped_excess"]})
    stored = [*selections(members, walked=True).values(), *selections(members, walked=False).values()]
    stored.append("test 2022-01-04 to 2022-12-23: nothing was selected on it by this run")
    for text in stored:
        found = said(text)
        assert found.en == text and latin(found.zh.replace("capped_excess", "")) == [], text
    assert said("test 2022-01-04 to 2022-12-23: nothing was selected on it by this run").zh.startswith(
        "测试期 2022-01-04 至 2022-12-23："
    )
    assert said("what nobody has translated").zh == "what nobody has translated"
