"""`qlib-ext daily`: weeks of evenings on the embedded market, their orders beside those of a backtest on the same days.

The provider grows day by day. A stock that is held is suspended, the exchange has a holiday, one evening is run twice,
one is missed, one day's bar is wrong at first. What the broker tells (holdings, cash, fills) is the backtest's account,
which deals at the next day's prices. The list knows the last close alone: a lot more or less, a stock that is
suspended or locked on one of the two days alone, and the last buys that the cash pays for may differ; targets, caps,
ranks and the sides of all other orders may not.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from desk import CASH, DEALT, OPTIONS, change, files, grow, record_run, start, task_of
from qlib.backtest import backtest
from qlib.data import D
from qlib.utils import init_instance_by_config

from qlib_ext.cli import main
from qlib_ext.daily import JOURNAL_COLUMNS, SIGMAS, drift, live_ic, population, psi, read_journal
from qlib_ext.exchange import AShareExchange, clear_cache
from qlib_ext.panel import DayPanel
from qlib_ext.strategy import LiquidityTopNStrategy

NOISE = 1e-5


def trade(scores, dates):
    """(targets, positions by day) of the backtest on the dates, by the scores of the days before."""
    chosen = LiquidityTopNStrategy(signal=scores, **OPTIONS)
    kwargs = {"time_per_step": "day", "generate_portfolio_metrics": True}
    simulator = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", "kwargs": kwargs}
    exchange = AShareExchange(start_time=dates[0], end_time=dates[-1], **DEALT)
    report, _ = backtest(
        dates[0], dates[-1], chosen, simulator, benchmark=None, account=CASH, exchange_kwargs={"exchange": exchange}
    )
    return chosen.daily_targets, report["1day"][1]


def make_desk(folder, first, last, model="MLPModel"):
    """A run whose test ends before `first`, and what a backtest up to `last` makes of its scores of the days then."""
    desk = record_run(folder, first, model)
    full, days, at, end = desk.full, desk.days, desk.at, desk.days.get_loc(last) + 1

    def oracle():
        start(full)
        clear_cache()
        longer = init_instance_by_config(task_of(days, days[end], model)["dataset"])
        scores = desk.trained.predict(longer)
        return scores, *trade(scores.loc[days[at] :], days[at + 1 : end + 1])

    _, _, positions = oracle()
    halt = at + (end - at) // 2
    held = sorted(positions[days[halt]].get_stock_list())[0]
    change(full, held, "*", np.arange(halt + 1, halt + 4), np.nan)
    scores, targets, positions = oracle()
    return SimpleNamespace(**vars(desk) | locals())


def evening(desk, day, today=None):
    """Run the command as the broker tells it: (exit status)."""
    position = desk.positions.get(day)
    amounts = {} if position is None else position.get_stock_amount_dict()
    start(desk.full)
    factor = D.features(sorted(amounts), ["$factor"], desk.days[0], day).iloc[:, 0] if amounts else None
    shares = {code: round(amount * factor[code].dropna().iloc[-1]) for code, amount in amounts.items()}
    holdings, fills = desk.folder / "holdings.csv", desk.folder / "fills.csv"
    holdings.write_text("code,shares\n" + "".join(f"{code},{count}\n" for code, count in shares.items()))
    dealt = desk.targets[(desk.targets["date"] <= day) & (desk.targets["ordered"] != 0)]
    lines = [
        f"{row.date:%Y-%m-%d},{row.code},{'buy' if row.ordered > 0 else 'sell'},{abs(row.ordered):.2f},10,10.01\n"
        for row in dealt.itertuples()
    ]
    fills.write_text("date,code,side,yuan,arrival,average\n" + "".join(lines))
    cash = CASH if position is None else position.get_cash()
    return main(
        ["daily", "latest", "--uri", desk.uri, "--holdings", str(holdings), "--cash", f"{cash:.2f}", "--fills",
         str(fills), "--out", str(desk.out), "--today", f"{today or day:%Y-%m-%d}"]
    )  # fmt: skip


def compare(desk, day):
    """Hold the list of the next day against the backtest's orders."""
    date = desk.days[desk.days.get_loc(day) + 1]
    there = desk.targets[desk.targets["date"] == date].set_index("code")
    listed = pd.read_csv(desk.out / f"orders-{date:%Y-%m-%d}.csv").drop_duplicates("code")  # a large order is split
    mine = listed.set_index("code").reindex(there.index)
    np.testing.assert_allclose(mine["target_yuan"], there["target"], atol=CASH * 1e-5)
    np.testing.assert_allclose(mine["cap_yuan"], there["cap"], rtol=1e-6)
    np.testing.assert_array_equal(mine["rank"], there["rank"])
    gap, before = there["target"] - there["held"], mine["target_yuan"] - mine["held_shares"] * mine["price"]
    stopped = there["reason"].isin(["blocked_buy", "blocked_sell", "cash_clipped", "capital_clipped"])
    stopped |= mine["reason"].fillna("").str.contains("suspended|cash is short|no more room")  # by the last close
    clear = (np.sign(gap) == np.sign(before)) & (np.minimum(gap.abs(), before.abs()) > 300 * mine["price"]) & ~stopped
    sides = mine["side"].map({"buy": 1, "sell": -1, "none": 0})
    assert sides[clear].tolist() == np.sign(there["ordered"])[clear].tolist()
    return int(clear.sum()), mine


def live_through(desk, capsys, *, missed, twice, wrong):
    """Evenings of all weekdays; returns the number of orders that were compared."""
    compared, events, closed = 0, [], 0
    for day in pd.bdate_range(desk.first, desk.last):
        if day not in desk.days:
            closed += 1
            if closed > 2:
                continue
            before = files(desk)
            assert evening(desk, desk.days[desk.days < day][-1], today=day) == 3  # a holiday: nothing new
            assert "no new day" in capsys.readouterr().out and files(desk) == before
            continue
        grow(desk.full, desk.live, day)
        if day == missed:
            continue
        if day == wrong:
            change(desk.live, "SH600018", "high", desk.days.get_loc(day), 1.003)
        status = evening(desk, day)
        said = capsys.readouterr().out
        if day == wrong:  # the provider issues the bar again, and the evening is run once more
            grow(desk.full, desk.live, day)
            assert evening(desk, day) == 1
            said = capsys.readouterr().out
            assert "1 bars were issued again, SH600018" in said and f"scored anew from {day.date()} on" in said
            assert "no new day, 1 again" in said
        else:
            assert status == 0, said
            assert ("scored 2 days, 1 missed before" in said) == (missed is not None and desk.days[-1] != day and
                    desk.days[desk.days.get_loc(day) - 1] == missed)  # fmt: skip
        if day == twice:
            before = files(desk)
            assert evening(desk, day) == 3 and files(desk) == before
            capsys.readouterr()
        clear, orders = compare(desk, day)
        compared += clear
        if desk.held in orders.index and orders["reason"].get(desk.held, "").find("suspended") >= 0:
            events.append(day)
            assert orders["shares"][desk.held] == 0 and orders["held_shares"][desk.held] > 0
    assert closed and events  # the stock that is suspended stays
    return compared


def check_after(desk, missed):
    """The scores of all days are those of a run over more days, the journal has a line a day."""
    scores = pd.read_pickle(desk.artifacts / "pred.pkl")["score"]
    anew = desk.scores.loc[: scores.index[-1][0]]
    assert scores.index.equals(anew.index)
    assert ((scores - anew).abs() / anew.groupby("datetime").transform("std")).max() < NOISE
    journal = read_journal(desk.out)
    days = [day for day in desk.days[desk.at : desk.end] if day != missed]
    assert journal["data_day"].tolist() == days and list(journal) == list(JOURNAL_COLUMNS)
    assert journal["missed"].sum() == (missed is not None) and journal["corrected"].sum() == 1
    worth = [CASH, *(desk.positions[day].calculate_value() for day in days[1:])]
    np.testing.assert_allclose(journal["account"], worth, rtol=1e-5)
    dealt = desk.targets[(desk.targets["date"] <= days[-1]) & (desk.targets["date"] > days[0])]["ordered"].abs()
    assert (
        journal["fill_yuan"].sum() == pytest.approx(dealt.sum(), abs=1) and journal["fills"].sum() == (dealt > 0).sum()
    )


def day(text):
    return pd.Timestamp(text)


def test_evenings_about_a_holiday(tmp_path, capsys):
    """MASTER's windows of 8 days; the exchange is closed in the first week of October."""
    desk = make_desk(tmp_path, day("2020-09-28"), day("2020-10-14"), "MASTERModel")
    compared = live_through(desk, capsys, missed=day("2020-10-12"), twice=day("2020-09-29"), wrong=day("2020-09-30"))
    assert compared > 20
    check_after(desk, day("2020-10-12"))


@pytest.mark.slow
def test_a_month_of_evenings(tmp_path, capsys):
    desk = make_desk(tmp_path, day("2020-09-21"), day("2020-10-23"))
    compared = live_through(desk, capsys, missed=day("2020-10-13"), twice=day("2020-10-20"), wrong=day("2020-09-29"))
    assert compared > 80
    check_after(desk, day("2020-10-13"))


# --- the parts


def small_panel(x, label=None):
    """A panel of (D, N, F) features."""
    import torch

    days, stocks, _ = x.shape
    return DayPanel(
        days=pd.bdate_range("2024-01-01", periods=days).to_numpy(),
        stocks=np.array([f"SH60{n:04d}" for n in range(stocks)], dtype=object),
        features=[f"f{n}" for n in range(x.shape[2])],
        x=torch.from_numpy(x.astype(np.float32)),
        present=torch.ones(days, stocks, dtype=torch.bool),
        label=torch.zeros(days, stocks) if label is None else label,
    )


def test_psi_by_hand():
    # (0.2 - 0.1) ln 2 + (0.8 - 0.9) ln(8/9) = 0.069315 + 0.011778; an empty bin counts as 0.0001
    shares = np.array([[0.2, 0.8], [0.1, 0.9], [0.0, 1.0]])
    np.testing.assert_allclose(psi(shares, np.array([0.1, 0.9])), [0.081093, 0.0, 0.7006], atol=1e-4)


def test_features_that_drift_are_named_and_others_are_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 80, 4)) + 0.3 * rng.normal(size=(60, 1, 4))  # a market that moves, day by day
    seen = population(small_panel(x))
    later = rng.normal(size=(25, 80, 4)) + 0.3 * rng.normal(size=(25, 1, 4))
    assert not drift(seen, small_panel(later))["drifted"].any()
    later[:, :, 1] += 4.0  # for weeks
    later[-1, :, 3] = 0.0  # that day its source failed
    table = drift(seen, small_panel(later))
    assert table.index[table["drifted"]].sort_values().tolist() == ["f1", "f3"] and table["psi"]["f3"] > 5
    assert table.index[table["lost"]].tolist() == ["f3"]
    assert table["psi_block"]["f1"] > 1 and table["psi_block"]["f3"] < 0.25


def test_a_feature_of_few_values_is_not_lost_where_its_values_move():
    """Standardised days move the value that most stocks have, and with it the bin: PSI above 5 on an ordinary day."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(85, 200, 3))
    few = (rng.random((85, 200)) < rng.uniform(0.02, 0.3, (85, 1))).astype(float)
    x[:, :, 1] = (few - few.mean(1, keepdims=True)) / few.std(1, keepdims=True)
    x[:, :, 2] = 0.0  # as it always was, such as VWAP0 without $vwap
    seen = population(small_panel(x[:60]))
    assert max(drift(seen, small_panel(x[60:end]))["psi"]["f1"] for end in range(61, 86)) > 5
    assert not any(drift(seen, small_panel(x[60:end]))["lost"].any() for end in range(61, 86))
    x[-1, :, 1] = 0.3
    x[-1, 0, 1] = 1.0  # all but one
    assert drift(seen, small_panel(x[60:]))["lost"].tolist().count(True) == 1
    assert drift(seen, small_panel(x[60:]))["lost"]["f1"]


def test_labels_that_overlap_raise_no_alarm():
    """IC of 10-day labels whose worth is the same all along: below -SIGMAS in few of 400 tries, not in a seventh."""
    rng = np.random.default_rng(4)
    days, gaps = pd.bdate_range("2022-01-03", periods=300), []
    for _ in range(400):
        noise = np.convolve(rng.normal(size=309), np.ones(10), "valid") * 0.05
        score = np.tile([-1.0, 0.0, 1.0, 0.0], (300, 1))
        label = score * (0.1 + noise[:, None]) + np.array([0.0, 0.5, 0.0, -0.5])
        index = pd.MultiIndex.from_product([days, list("ABCD")], names=["datetime", "instrument"])
        series = (pd.Series(grid.ravel(), index) for grid in (score, label))
        gaps.append(live_ic(*series, days[239], 60, 10)["ic_gap"])
    assert 0 < (np.array(gaps) < -SIGMAS).mean() < 0.06 and np.std(gaps) < 1.6


def test_the_population_does_not_see_absent_stocks_nor_their_order():
    rng = np.random.default_rng(1)
    panel = small_panel(rng.normal(size=(40, 30, 2)))
    other = small_panel(panel.x.numpy()[:, ::-1])
    panel.present[:, 3] = other.present[:, 26] = False
    panel.x[:, 3] = 99.0
    one, two = population(panel), population(other)
    np.testing.assert_array_equal(one.edges, two.edges)
    np.testing.assert_allclose(one.shares.sum(axis=1), 1.0)
    np.testing.assert_allclose(drift(one, panel)["psi"].sort_index(), drift(two, other)["psi"].sort_index())


def test_a_score_that_has_lost_its_worth_is_told_by_its_errors():
    rng = np.random.default_rng(2)
    days, stocks = pd.bdate_range("2024-01-01", periods=160), [f"SH60{n:04d}" for n in range(50)]
    index = pd.MultiIndex.from_product([days, stocks], names=["datetime", "instrument"])
    label = rng.normal(size=(160, 50))
    score = 0.3 * label + rng.normal(size=(160, 50))
    tested = days[99]
    same = live_ic(pd.Series(score.ravel(), index), pd.Series(label.ravel(), index), tested, 60)
    assert same["ic_days"] == 60 and abs(same["ic_gap"]) < 2.5 and same["ic_test"] > 0.2
    score[100:] = rng.normal(size=(60, 50))
    lost = live_ic(pd.Series(score.ravel(), index), pd.Series(label.ravel(), index), tested, 60)
    assert lost["ic_gap"] < -5 and abs(lost["ic"]) < 0.06 and lost["ic_test"] == same["ic_test"]
    few = live_ic(pd.Series(score.ravel(), index)[: 110 * 50], pd.Series(label.ravel(), index), tested, 60)
    assert few["ic_days"] == 10 and np.isnan(few["ic_gap"])  # too few to say
