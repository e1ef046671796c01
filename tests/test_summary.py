"""The summary of a run: numbers by hand, words that follow the numbers, runs that lack what others have."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from report_artifacts import CONTEXT, MONEY, TRADES, make_artifacts, make_full_artifacts

from qlib_ext.evaluate import newey_west
from qlib_ext.report import SUMMARY_ARTIFACTS, Summary, summarise

DAYS = pd.bdate_range("2022-01-04", periods=100)
CONTEXT_100 = dataclasses.replace(CONTEXT, year=100.0)


def run(mean, cost=0.001, *, judge=0.0, largest=0.04, idle=False):
    """An account with `mean` a day over the mean of all stocks after costs, swinging by 1% a day, and its judge."""
    swing = np.tile([0.01, -0.01], 50)
    none = pd.Series(0.0, DAYS)
    report = pd.DataFrame({"return": mean + swing + cost, "cost": cost, "turnover": 0.0 if idle else 0.1,
                           "account": 1e8, "cash": 1e7, "bench": 0.0005}, DAYS)  # fmt: skip
    beside = pd.DataFrame({"mean_stock": -0.001, "mean_all": 0.0}, DAYS)
    daily = pd.DataFrame({"capped_buyable_gross": judge + 0.004 + swing, "capped_buyable_net_impact": judge + swing,
                          "market": none, "buyable": none - 0.001}, DAYS)  # fmt: skip
    book = pd.DataFrame({"names": [0] + [30] * 99, "empty": [1] + [0] * 99, "largest": [0.0] + [largest] * 99}, DAYS)
    quality = pd.DataFrame({"value": [0.03], "standard_error": [0.01]}, index=["ic"])
    return {
        f"{TRADES}report_normal_1day.pkl": report,
        f"{TRADES}account_daily.pkl": beside,
        f"{TRADES}execution.pkl": {"book": book},
        f"{MONEY}daily.pkl": daily,
        f"{MONEY}diagnostics.pkl": quality,
    }


def test_numbers_by_hand():
    numbers = summarise(run(0.002, judge=-0.001), CONTEXT_100).numbers
    by_hand = {
        "account": 0.2, "cost": 0.1, "gross": 0.3, "over_all": 0.2, "over_buyable": 0.3, "over_index": 0.15,
        "days": 100,
        "turnover": 0.1, "cash": 0.1, "names_held": 30, "largest_weight": 0.04, "largest_weight_most": 0.04,
        "judge_over_all": -0.1, "judge_over_buyable": 0.0, "judge_cost": 0.4, "judge_gross_over_all": 0.3, "ic": 0.03,
        "tracking_error": 0.01 * np.sqrt(100 / 99) * 10, "made": (1.012 * 0.992) ** 50 - 1, "capital": 1e8,
    }  # fmt: skip
    assert {name: numbers[name] for name in by_hand} == pytest.approx(by_hand, abs=1e-12)
    assert numbers["over_all_error"] == pytest.approx(100 * newey_west(0.002 + np.tile([0.01, -0.01], 50))[1])


@pytest.mark.parametrize(("mean", "said"), [(0.01, "is above"), (0.00002, "cannot be told from"), (-0.01, "is below")])
def test_the_verdict_follows_the_numbers(mean, said):
    summary = summarise(run(mean), CONTEXT_100)
    assert f"After all costs the account {said} the mean of all stocks: {100 * mean:+.1%} a year" in summary.verdict.en
    t = summary.numbers["over_all"] / summary.numbers["over_all_error"]
    assert f"{t:.1f} standard errors" in summary.verdict.en and f"{t:.1f} 个标准误" in summary.verdict.zh
    assert f"{100 * mean + 0.1:+.1%} over the mean buyable stock" in summary.verdict.en
    assert f"{100 * mean - 0.05:+.1%} over SH000300" in summary.verdict.en


def test_what_would_have_to_be_better():
    dear = summarise(run(0.00001, cost=0.001), CONTEXT_100)
    error = dear.numbers["over_all_error"]  # gross excess: 0.101 a year; two errors and costs of 0.1 need more IC
    assert f"at most {0.101 - 2 * error:.1%} may be spent" in dear.better[0].en
    assert f"about {0.03 * (0.1 + 2 * error) / 0.101:.3f} would be needed" in dear.better[1].en
    assert f"take about {100 * (2 * error / 0.001) ** 2:,.0f}" in dear.better[2].en
    assert summarise(run(-0.01), CONTEXT_100).better[0].en.startswith("The score: before its costs of 10.0% a year")
    good = summarise(run(0.01), CONTEXT_100)
    spare = 1.0 - 2 * good.numbers["over_all_error"]
    assert [f"could be {spare:.1%} a year higher" in words.en for words in good.better] == [True]


def test_judge_and_account_are_reconciled():
    """0.2 - (-0.1) = (0.3 - 0.3) + (0.4 - 0.1): what each makes before costs, and pays."""
    said = summarise(run(0.002, judge=-0.001), CONTEXT_100).judge
    for number in ("-10.0%", "+20.0%", "+30.0%", "40.0%", "10.0%"):
        assert number in said.en and number in said.zh


def exposed(value):
    return {f"{MONEY}exposures.pkl": pd.DataFrame({"volatility": value, "liquidity": 0.1}, DAYS)}


ALARMS = {
    "largest": run(0.002, largest=0.9),
    "idle": run(0.002, idle=True),
    "mostly.volatility": run(0.002) | exposed(-0.6),
    "leans.volatility": run(0.002) | exposed(0.4),
    "ic": run(0.002) | {f"{MONEY}diagnostics.pkl": pd.DataFrame({"value": 0.01, "standard_error": 0.02}, ["ic"])},
    "forecast": run(0.002) | {"forecast.json": {"days": 50, "t": 0.4, "significant": False}},
    "thin": run(0.002) | {"run_facts.pkl": {"daily_stocks": 12.0}},
    "short": {path: made.iloc[:40] if f"{TRADES}r" in path else made for path, made in run(0.002).items()},
    "free": run(0.002, cost=0.0),
    "first_epoch": run(0.002)
    | {"folds/curves.pkl": pd.DataFrame({"fold": 0, "seed": 0, "epoch": [1, 2, 3], "rank_ic": [0.03, 0.02, 0.01]})},
    "units": run(0.002) | {f"{MONEY}positions.pkl": pd.DataFrame(
        {"yuan": 1.0, "weight": 0.1, "liquidity": 1e5},
        pd.MultiIndex.from_product([DAYS, ["A"]], names=["datetime", "instrument"]))},
}  # fmt: skip


@pytest.mark.parametrize("name", ALARMS)
def test_each_alarm_holds_alone(name):
    assert summarise(run(0.002), CONTEXT_100).alarms == {}
    alarms = summarise(ALARMS[name], CONTEXT_100).alarms
    assert list(alarms) == [name] and alarms[name].zh != alarms[name].en


def test_a_price_index_is_an_alarm_where_nothing_else_is_the_bar():
    made = run(0.002)
    assert "price_index" in summarise(made | {f"{TRADES}account_daily.pkl": None}, CONTEXT_100).alarms


@pytest.mark.parametrize("kind", [make_artifacts, make_full_artifacts])
def test_nothing_is_needed_and_everything_survives_json(kind):
    """Each artifact may be missing, alone or with all others: older runs, other records."""
    every = kind()
    for artifacts in (*({name: every.get(name)} for name in SUMMARY_ARTIFACTS),
                      *({**every, name: None} for name in SUMMARY_ARTIFACTS), every, {}):  # fmt: skip
        summary = summarise(artifacts, CONTEXT)
        assert Summary.from_dict(json.loads(json.dumps(summary.to_dict(), allow_nan=False))) == summary
        lines = summary.lines()
        assert summary.verdict.en in " ".join(lines) and max(map(len, lines)) <= 100


def test_an_older_run_takes_the_mean_of_all_stocks_from_the_judge():
    """Without mean_all: over the buyable +30%, the judge's means are 10% a year apart."""
    made = run(0.002)
    made[f"{TRADES}account_daily.pkl"] = made[f"{TRADES}account_daily.pkl"].drop(columns="mean_all")
    summary = summarise(made, CONTEXT_100)
    assert summary.numbers["over_all"] == pytest.approx(0.2) and "as the judge's days have it" in summary.verdict.en


def test_without_a_backtest_the_judge_is_the_verdict():
    alone = {f"{MONEY}daily.pkl": run(0.002, judge=-0.02)[f"{MONEY}daily.pkl"]}
    assert "the judge's capital is below the mean of all stocks" in summarise(alone, CONTEXT_100).verdict.en


def test_a_terminal_gets_about_twelve_lines():
    lines = summarise(run(0.002, judge=-0.001), CONTEXT_100).lines()
    assert 8 <= len(lines) <= 24 and lines[0] == "a run: 100 days, 2022-01-04 to 2022-05-23; universe: csi300"
    assert any("30.0 names" in line and "4.00%" in line for line in lines)


def test_lines_are_wrapped_and_lose_no_word():
    """A terminal of 100 columns; a path is not broken."""
    summary = dataclasses.replace(summarise(run(0.002, judge=-0.001), CONTEXT_100), title="/" + "x" * 120)
    lines = summary.lines()
    assert all(len(line) <= 100 for line in lines[1:]) and lines[0] == f"{summary.title}:"
    words = " ".join(" ".join(lines).split())
    for text in (summary.verdict, summary.better[0]):
        assert " ".join(text.en.split()) in words
    assert all(line.startswith("  ") for line in lines if line not in lines[:5])
