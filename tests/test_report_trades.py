"""Tables of the backtest on the page: every number says what it means."""

import html as markup
import re

import pytest

pytest.importorskip("plotly")

from report_artifacts import CONTEXT, TRADES, make_full_artifacts
from report_page import tables

from qlib_ext import evaluate, execution
from qlib_ext._exchange_ledger import SETTLED
from qlib_ext._report_trades import SETTLED as SETTLED_WORDS
from qlib_ext.report import report_html


@pytest.fixture(scope="module")
def html():
    return report_html(make_full_artifacts(), CONTEXT)


def part(html, key):
    """HTML of a section."""
    return re.search(rf'<section id="{key}">.*?</section>', html, re.S)[0]


def test_every_definition_of_the_backtest_s_tables_is_on_the_page(html):
    shown = markup.unescape(part(html, "costs") + part(html, "blocked") + part(html, "execution"))
    missing = [
        (table, key) for table, known in execution.DEFINITIONS.items() for key, text in known.items()
        if text not in shown
    ]  # fmt: skip
    assert missing == []
    for key in ("annual_return", "sharpe", "max_drawdown"):  # columns of the performance
        assert evaluate.DEFINITIONS[key] in markup.unescape(part(html, "execution"))


def test_execution_tables_are_the_artifacts(html):
    """Those with a unit a row are laid out turned; days by their mean, least and most."""
    made, found = make_full_artifacts()[f"{TRADES}execution.pkl"], tables(html)
    assert found["execution-target_reached"]["share_reached"] == dict(made["target_reached"].loc["share_reached"])
    assert found["execution-performance"]["net"] == dict(made["performance"].loc["net"])
    gone = made["liquidation"]["gone_5"]
    assert found["execution-liquidation"]["gone_5"] == {"mean": gone.mean(), "min": gone.min(), "max": gone.max()}
    assert found["participation"]["3"]["trades"] == made["participation"]["trades"][3]
    assert "95%" not in re.search(r'<table data-table="participation">.*?</thead>', html)[0]  # words of other tables
    assert found["costs"]["delisting"]["yuan"] == made["cost_split"]["yuan"]["delisting"]


def test_settled_holdings_have_words_for_every_column(html):
    assert set(SETTLED_WORDS) == set(SETTLED) - {"code"}
    assert all(markup.escape(text) in part(html, "blocked") for text in SETTLED_WORDS.values())
