"""Words of the page: the Chinese page is Chinese."""

import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("plotly")

from report_artifacts import CONTEXT, DAYS, make_full_artifacts
from report_page import embedded

from qlib_ext.evaluate import compare
from qlib_ext.record import selections
from qlib_ext.report import Context, compare_html, plain, report_html, text

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
        "Almgren",
        "Toth",
        "V",
        "sigma",
        "delta",
        "qlib",
        "sqrt",
        "std",
    ),
    *("Alpha", "Beta", "Bailey", "Lopez", "de", "Prado", "Lo", "PortAnaRecord", "FILE", "parquet", "trials"),
    *("S", "Z", "g", "e"),
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
    *("daily_excess", "participation", "last_price", "write_off", "max_weight", "check", "data", "ext"),
}
OWN = {
    *"abcd",
    "quoted",
    "law",
    "bank",
    "steel",
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
    universe = text("{n} stocks given by code", n=300)
    facts = ((text("universe"), universe), (text("capital"), text("no costs")))
    return Context(title="", facts=facts, universe=universe, capital=100.0, costs=text("no costs"),
                   benchmark="SH000300", horizon=1)  # fmt: skip


@pytest.fixture(scope="module")
def html(full):
    return report_html(make_full_artifacts(), full)


def test_the_chinese_page_has_no_english_text(html):
    assert latin(chinese(html)) == []


def test_tooltips_are_chinese_on_the_chinese_page(html):
    body = re.sub(r"<(script|style).*?</\1>", " ", html, flags=re.S)
    both = re.findall(r' title="([^"]*)" data-title-zh="([^"]*)"', body)
    assert len(both) > 40 and len(both) == len(re.findall(r' title="', body))
    assert latin(" ".join(zh for _, zh in both)) == []
    spoken = re.findall(r' aria-label="([^"]*)"( data-aria-zh="[^"]*")?', body)
    assert all(zh or "语言" in en for en, zh in spoken)


def test_charts_are_chinese_on_the_chinese_page(html):
    figures = [embedded(html, f"json-{key}") for key in re.findall('data-chart="([^"]+)"', html)]
    assert len(figures) > 15
    for figure in figures:
        axes = [axis for name, axis in figure["layout"].items() if re.match("[xy]axis", name)]
        texts = [axis["title"]["text"] for axis in axes] + [trace.get("name", "") for trace in figure["data"]]
        texts += [button["label"] for axis in axes for button in axis.get("rangeselector", {}).get("buttons", ())]
        assert latin(" ".join(figure["layout"]["meta"]["zh"].get(each, each) for each in texts)) == []


def test_a_comparison_in_chinese_has_no_english_text():
    frames = {}
    for i, name in enumerate("ab"):
        noise = np.random.default_rng(i).normal(0, 0.01, (45, 3))
        frames[name] = pd.DataFrame(noise, DAYS, ["capped_buyable_net", "ic", "rank_ic"])
    context = Context(title="", facts=((plain("a"), text("no costs")),), universe="", costs=text("no costs"))
    html = compare_html(compare(frames, draws=100), context)
    assert latin(chinese(html)) == []


@pytest.mark.parametrize("walked", [True, False])
def test_sentences_of_records_are_translated(walked):
    """English as the record has stored it; the Chinese is filled in from the same numbers."""
    made = make_full_artifacts()
    metric = {"metric": "capped_excess"}
    stored = selections(pd.DataFrame([metric]), walked=walked)
    table = made["fold_analysis/headline_folds.pkl"].iloc[: len(stored)].assign(selected=list(stored.values()))
    made |= {"fold_analysis/headline_folds.pkl": table, "folds/members.pkl": made["folds/members.pkl"].assign(**metric)}
    html = report_html(made, CONTEXT)
    cells = re.findall(r"<td>(.*?)</td>", re.search('<tr data-row="selected">.*?</tr>', html)[0])
    for sentence, cell in zip(stored.values(), cells, strict=True):
        assert sentence in cell and latin(chinese(cell).replace("capped_excess", "")) == []
    assert f"测试期 {DAYS[0].date()} 至 {DAYS[-1].date()}：" in html
    other = report_html(made | {"liquidity_analysis/selection.pkl": "what nobody has translated"}, CONTEXT)
    assert "what nobody has translated" in other
