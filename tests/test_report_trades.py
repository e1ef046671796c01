"""Tables of the backtest on the page: every number says what it means."""

import html as markup
import math
import re

import pytest

pytest.importorskip("plotly")

from report_artifacts import CONTEXT, TRADES, make_full_artifacts
from report_page import chart, tables

from qlib_ext import evaluate
from qlib_ext import evaluate as execution
from qlib_ext.exchange import SETTLED
from qlib_ext.report import report_html


@pytest.fixture(scope="module")
def html():
    return report_html(make_full_artifacts(), CONTEXT)


def part(html, key):
    """HTML of a section."""
    return re.search(rf'<section id="{key}">.*?</section>', html, re.S)[0]


def test_every_definition_of_the_backtest_s_tables_is_on_the_page(html):
    shown = markup.unescape(part(html, "costs") + part(html, "blocked") + part(html, "execution"))
    made = make_full_artifacts()[f"{TRADES}execution.pkl"]
    missing = [
        (table, key)
        for table in execution.EXECUTION_DEFINITIONS
        for key, text in made[table].attrs["definitions"].items()
        if text not in shown
    ]
    assert missing == []
    for key in ("annual_return", "sharpe", "max_drawdown"):  # columns of the performance
        assert evaluate.ACCOUNT_DEFINITIONS[key] in markup.unescape(part(html, "execution"))


def test_execution_tables_are_the_artifacts(html):
    """Those with a unit a row are laid out turned; days by their mean, least and most."""
    made, found = make_full_artifacts()[f"{TRADES}execution.pkl"], tables(html)
    assert found["execution-target_reached"]["share_reached"] == dict(made["target_reached"].loc["share_reached"])
    assert found["execution-performance"]["net"] == dict(made["performance"].loc["net"])
    gone = made["liquidation"]["gone_5"]
    assert found["execution-liquidation"]["gone_5"] == {"mean": gone.mean(), "min": gone.min(), "max": gone.max()}
    assert found["participation"]["3"]["trades"] == made["participation"]["trades"][3]
    heads = re.search(r'<table data-table="participation">.*?</thead>', html, re.S)[0]
    assert "95%" not in heads  # words of other tables
    assert found["costs"]["delisting"]["yuan"] == made["cost_split"]["yuan"]["delisting"]


def test_the_time_to_sell_says_at_which_share_and_what_is_never_sold(html):
    shown = markup.unescape(part(html, "execution"))
    assert "days to sell all at 5% of each stock's mean daily turnover" in shown
    assert "按各股日均成交额的 5% 全部卖出所需天数" in shown
    made = make_full_artifacts()
    slow = made[f"{TRADES}execution.pkl"]["liquidation"]
    slow.loc[slow.index[0], "max_days"] = float("inf")
    found = tables(report_html(made, CONTEXT))["execution-liquidation"]["max_days"]
    assert found["max"] == float("inf") and found["min"] == slow["max_days"].min()


UNSENT = "with the orders that the strategy, which asks first, did not send"


def test_unsent_orders_are_claimed_only_where_they_are_in(html):
    made = make_full_artifacts()
    assert UNSENT in part(html, "blocked")  # a LiquidityTopNStrategy's log was there, so its orders are in
    other = {name: table for name, table in made[f"{TRADES}execution.pkl"].items() if name != "target_reached"}
    assert UNSENT not in part(report_html(made | {f"{TRADES}execution.pkl": other}, CONTEXT), "blocked")
    nested = made[f"{TRADES}blocked.pkl"].copy()
    nested.attrs["unsent"] = True  # as the record says where there are no daily tables
    alone = made | {f"{TRADES}blocked.pkl": nested, f"{TRADES}execution.pkl": {}}
    assert UNSENT in part(report_html(alone, CONTEXT), "blocked")


def test_a_backtest_without_a_benchmark_shows_none(html):
    made = make_full_artifacts()
    account = made[f"{TRADES}report_normal_1day.pkl"].assign(bench=0.0)
    made[f"{TRADES}execution.pkl"]["performance"] = execution.performance(account)
    page = report_html(made | {f"{TRADES}report_normal_1day.pkl": account}, CONTEXT)
    assert {"benchmark", "account after costs, less the benchmark"} <= set(chart(html, "backtest"))
    left = {name for name in chart(page, "backtest") if not name.endswith(": drawdown")}
    assert left == {"account before costs", "account after costs"}
    assert set(tables(page)["execution-performance"]) == {"gross", "net"}


def test_settled_holdings_have_words_for_every_column(html):
    heads = re.search('<table data-table="settled">.*?</thead>', html, re.S)[0]
    columns = re.findall(r'data-col="([^"]+)"( title="[^"]+" data-title-zh="[^"]+")?', heads)
    assert [key for key, _ in columns] == list(SETTLED)
    assert [key for key, meaning in columns if not meaning] == ["code"]


def test_the_strategy_s_curves_are_shown_at_each_b(html):
    shown, lines = tables(html)["capacity_strategy"], chart(html, "capacity-strategy")
    assert list(shown) == ["1.00 10000000", "1.00 1000000000", "0.33 10000000", "0.33 1000000000"]
    assert shown["0.33 10000000"]["net_impact_excess"] == 0.2
    assert {name: y.tolist() for name, (_, y) in lines.items()} == {
        "b = 1.00": [0.1, -0.1],
        "b = 0.33": [0.2, 0.1],
        "b = 1.00, before costs": [0.1, -0.1],  # of the dearest alone
    }
    zeros = tables(html)["capacity_strategy_zeros"]
    assert zeros["1.00"]["falls_at"] == pytest.approx(1e8) and math.isnan(zeros["0.33"]["falls_at"])
    words = markup.unescape(part(html, "capacity"))
    assert all(
        text in words for key, text in evaluate.STRATEGY_CAPACITY_DEFINITIONS.items() if key in shown["1.00 10000000"]
    )
