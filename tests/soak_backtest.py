"""Backtests of a soaked year (tests/soak.py), by the scores that the evenings recorded and the whole year's provider.

    python tests/soak_backtest.py FOLDER

- `deal_again`: qlib's backtest on AShareExchange of a strategy that makes each day's list anew, from its own account.
  Dividends and rests of splits are paid to it in cash, as the broker does, and each evening it takes the broker's
  rounding: cash in whole cents, and a step more or less of what the last cash bought.
- `decide_again`: the run's own strategy for one day at a time from the desk's book, at prices of the last close.
- `trade_again`: the run's own strategy, from cash through the whole year, at the close of each day.
"""

import json
import math
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
from desk import DEALT, start
from qlib.backtest import backtest
from qlib.backtest.decision import Order, OrderDir, TradeDecisionWO
from qlib.strategy.base import BaseStrategy
from soak import CASH, OPTIONS, Truth, after_action, fees, folder_of, lots

from qlib_ext.daily import read_journal
from qlib_ext.exchange import AShareExchange, clear_cache
from qlib_ext.runs import list_runs
from qlib_ext.strategy import LiquidityTopNStrategy, last_prices, plan_orders, read_holdings, read_run

SIMULATOR = {
    "class": "SimulatorExecutor",
    "module_path": "qlib.backtest.executor",
    "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True},
}


class Year:
    """What a soak left: `scores` of the evenings whose list was dealt, the lists, the broker's books, the truth."""

    def __init__(self, folder):
        self.desk = folder_of(folder)
        self.truth = Truth()
        kept = np.load(self.desk.folder / "truth.npz")
        self.truth.close, self.truth.last = kept["close"], kept["last"]
        self.days = self.truth.days
        files = sorted(self.desk.dealt.glob("orders-*.csv"))
        self.lists = {pd.Timestamp(file.stem[7:]): file.read_text(encoding="utf-8") for file in files}
        self.fills = pd.read_csv(self.desk.folder / "broker.csv", dtype={"price": str, "cost": str})
        self.counts = {(row.t, row.code, row.side): row.shares for row in self.fills.itertuples()}
        self.refused = pd.read_csv(self.desk.folder / "refused.csv")
        self.end = json.loads((self.desk.folder / "end.json").read_text())
        self.evenings = pd.read_csv(self.desk.folder / "evenings.csv", parse_dates=["day"]).set_index("day")
        self.run = read_run("latest", self.desk.uri, trust=True)
        self.scores = self.recorded()
        self.dates = self.days[(self.days >= min(self.lists)) & (self.days <= max(self.lists))]

    def recorded(self):
        """Scores of each evening, by the run that it went by."""
        journal, runs = read_journal(self.desk.out).set_index("data_day"), list_runs(uri=self.desk.uri)
        parts, preds = [], {run.id[:8]: pd.read_pickle(run.folder / "pred.pkl")["score"] for run in runs}
        for date in self.lists:
            eve = self.days[self.days.get_loc(date) - 1]
            parts.append(preds[journal.loc[eve, "run"]].loc[[eve]])
        return pd.concat(parts)

    def exchange(self, **options):
        return AShareExchange(start_time=self.dates[0], end_time=self.dates[-1], **DEALT | options)


class ListStrategy(BaseStrategy):
    """Send each day the list that `plan_orders` makes of the account of the evening before, in the year's scores."""

    def __init__(self, year, **infra):
        super().__init__(**infra)
        self.year, self.made, self.shares, self.corrected, self.rounded = year, {}, [], 0.0, []
        self.settled, self.run = 0, replace(year.run, scores=year.scores)

    def generate_trade_decision(self, execute_result=None):
        step = self.trade_calendar.get_trade_step()
        span = self.trade_calendar.get_step_time(step)
        t = self.year.days.get_loc(span[0].normalize())
        position, listed = self.trade_position, None
        if step == 0:
            self.cash = CASH
        self.book()
        if self.year.days[t] in self.year.lists:
            listed = self.plan(t, position)
        self.trade_exchange.begin_step(self.common_infra.get("trade_account"), span[0])
        self.settle(t)
        self.act(t, position)
        position.position["cash"] = float(self.cash)
        return TradeDecisionWO([] if listed is None else list(self.orders(listed, t, position, span)), self)

    def factor(self, code, t):
        rules = self.trade_exchange.day_rules
        row = rules.days.get_loc(self.year.days[t])
        return float(rules.data["$factor"][row, self.trade_exchange.quote.column[code]])

    def held(self, t, position):
        """Whole shares by code, as of a day."""
        t = max(t, self.year.days.get_loc(self.year.dates[0]))
        amounts = {code: position.get_stock_amount(code) * self.factor(code, t) for code in position.get_stock_list()}
        assert all(abs(amount - round(amount)) < 1e-3 for amount in amounts.values()), amounts
        return {code: round(amount) for code, amount in sorted(amounts.items())}

    def book(self):
        """Count the fills of the day before in cents; the float account must be near."""
        rounding = Decimal(0)
        for row in self.trade_exchange.fills.iloc[len(self.shares) :].itertuples():
            shares, price, sell = round(row.shares), Decimal(f"{row.price:.2f}"), row.side == "sell"
            assert abs(row.price - round(row.price, 2)) < 2e-4 and abs(row.shares - shares) < 1e-3
            cost = fees(shares * price, sell)
            assert abs(float(cost) - row.commission - row.transfer - row.stamp_duty) < 0.03, row
            self.cash += shares * price * (1 if sell else -1) - cost
            theirs = self.theirs(row, shares)
            rounding += shares * price + cost - theirs * price - fees(theirs * price, sell)
            self.shares.append(theirs)
        self.corrected = max(self.corrected, abs(self.trade_position.get_cash() - float(self.cash)))
        self.cash += rounding

    def theirs(self, row, shares):
        """Take the broker's count of a buy for which the cash was short: cents decide of one step."""
        t = self.year.days.get_loc(row.day)
        theirs = self.year.counts.get((t, row.code, row.side), shares)
        if theirs == shares or row.side == "sell" or abs(theirs - shares) > lots(row.code)[1]:
            return shares
        self.trade_position.position[row.code]["amount"] += (theirs - shares) / self.factor(row.code, t)
        self.rounded.append(f"{row.day.date()} {row.code}: {shares}, {theirs}")
        return theirs

    def settle(self, t):
        """Count what was paid out for delisted holdings."""
        for row in self.trade_exchange.settled.iloc[self.settled :].itertuples():
            price = self.year.truth.raw(row.code, t)
            yuan = round(row.yuan / float(price)) * price
            self.cash += yuan - min(fees(yuan, True), yuan)
            self.settled += 1

    def plan(self, t, position):
        """The list of the evening before, from the position as it was then."""
        eve = self.year.days[t - 1]
        held = self.held(t - 1, position)
        frame = read_holdings(pd.DataFrame({"code": list(held), "shares": list(held.values())}) if held else None)
        worth = float((frame["shares"] * last_prices(list(held), eve)).sum()) if held else 0.0
        cash = float(self.cash)
        table = plan_orders(self.run, frame, capital=worth + cash, cash=cash, day=f"{eve:%Y-%m-%d}")
        self.made[self.year.days[t]] = table.to_csv(index=False, float_format="%.10g")
        return table

    def act(self, t, position):
        """Pay dividends and rests of splits in cash, where qlib's account leaves them in the shares."""
        for code, shares in self.held(t - 1, position).items():
            if (action := self.year.truth.action(code, t)) != (1, 0):
                whole, yuan = after_action(shares, *action, self.year.truth.reference(code, t))
                position.position[code]["amount"] = whole / self.factor(code, t)
                self.cash += yuan

    def orders(self, listed, t, position, span):
        held = self.held(t, position)
        for row in listed[listed["shares"] > 0].itertuples():
            if row.code in self.trade_exchange.quote.column:
                sell = row.side == "sell"
                whole = sell and row.shares == held.get(row.code)
                amount = position.get_stock_amount(row.code) if whole else row.shares / self.factor(row.code, t)
                yield Order(row.code, amount, OrderDir.SELL if sell else OrderDir.BUY, *span)


def deal_again(year):
    """Differences of lists, fills, refusals and books from the broker's, and the float account's largest gap (yuan)."""
    exchange, strategy = year.exchange(), ListStrategy(year)
    run(year, strategy, exchange, float(CASH))
    position = strategy.trade_position
    strategy.book()
    mine, theirs = exchange.fills, year.fills
    lists = [date for date, text in year.lists.items() if strategy.made.get(date) != text]
    days = pd.Series(year.days[theirs["t"]], dtype="datetime64[ns]")
    same = len(mine) == len(theirs) and (
        (mine["day"].to_numpy() == days.to_numpy())
        & (mine["code"].to_numpy() == theirs["code"].to_numpy())
        & (mine["side"].to_numpy() == theirs["side"].to_numpy())
        & (np.array(strategy.shares) == theirs["shares"].to_numpy())
        & (np.abs(mine["price"].to_numpy() - theirs["price"].astype(float).to_numpy()) < 2e-4)
    )
    held = strategy.held(year.days.get_loc(year.dates[-1]), position)
    refused = exchange.blocked.assign(t=year.days.get_indexer(exchange.blocked["day"]))
    refused = refused[refused["reason"] != "below_lot"].drop_duplicates(["t", "code", "side"])
    both = (set(map(tuple, frame[["t", "code", "side", "reason"]].to_numpy())) for frame in (refused, year.refused))
    return {
        "lists": len(year.lists),
        "lists_differ": [str(date.date()) for date in lists],
        "fills": len(theirs),
        "fills_differ": int(len(theirs) if same is False else (~same).sum()),
        "refused": len(year.refused),
        "refused_differ": sorted(map(str, set.symmetric_difference(*both))),
        "cash_differs": str(strategy.cash - Decimal(year.end["cash"])),
        "holdings_differ": held != year.end["shares"],
        "rounded": strategy.rounded,
        "float_gap": round(strategy.corrected, 4),
    }


def run(year, strategy, exchange, account, dates=None):
    dates = year.dates if dates is None else dates
    report, _ = backtest(
        dates[0],
        dates[-1],
        strategy,
        SIMULATOR,
        benchmark=None,
        account=account,
        exchange_kwargs={"exchange": exchange},
    )
    return report["1day"]


def decide_again(year):
    """Hold the orders of the run's own strategy against the lists, and its targets (widest gap, yuan).

    Left out are days on which a stock of the list has rights, and those on which one does not trade, on the evening or
    the day: the strategy knows the day, and orders something else for the cash.
    """
    exchange = year.exchange(deal_price="Ref($close, 1)")
    rules, column = exchange.day_rules, exchange.quote.column
    out = {"evenings": 0, "clean": 0, "orders": 0, "orders_differ": [], "target_gap": 0.0}
    for date in year.lists:
        listed = pd.read_csv(year.desk.dealt / f"orders-{date:%Y-%m-%d}.csv")
        t, row = year.days.get_loc(date), rules.days.get_loc(date)
        mine = listed.groupby("code").agg(
            {"shares": "sum", "side": "first", "price": "first", "target_yuan": "first", "held_shares": "first",
             "reason": "first"}
        )  # fmt: skip
        rights = [code for code in mine.index if year.truth.action(code, t) != (1, 0)]
        if rights or not set(mine.index) <= set(column):  # shares of the eve are others on the day
            continue
        factor = pd.Series({code: float(rules.data["$factor"][row, column[code]]) for code in mine.index})
        own = mine[mine["held_shares"] > 0]
        cash = float(year.evenings.loc[year.days[t - 1], "cash"])
        account = {"cash": cash} | {
            code: {"amount": line.held_shares / factor[code], "price": line.price * factor[code]}
            for code, line in zip(own.index, own.itertuples(), strict=True)
        }
        strategy = LiquidityTopNStrategy(signal=year.scores, **OPTIONS)
        run(year, strategy, exchange, account, [date, date])
        there = strategy.daily_targets.set_index("code")
        both = mine.index.intersection(there.index)
        out["evenings"] += 1
        stopped = there["reason"].isin(["blocked_buy", "blocked_sell"]).any()
        stopped |= not all(year.truth.trades(code, at) for code in mine.index for at in (t - 1, t))
        if stopped:
            continue
        gap = (there.loc[both, "target"] - mine.loc[both, "target_yuan"]).abs().max()
        out["target_gap"] = max(out["target_gap"], float(gap) if math.isfinite(gap) else 0.0)
        sign = mine["side"].map({"buy": 1, "sell": -1}).fillna(0).astype(int)
        wanted = sign * mine["shares"]
        shares = (there["ordered"] / mine["price"].reindex(there.index)).round().reindex(mine.index).fillna(0.0)
        wrong = shares.index[(shares - wanted).abs() > 0.5]
        out["clean"] += 1
        out["orders"] += int((mine["shares"] > 0).sum())
        out["orders_differ"] += [f"{date.date()} {code}: {shares[code]:.0f}, {wanted[code]}" for code in wrong]
    return out


def trade_again(year):
    """The account of the run's own strategy beside the desk's: both at the end, and the widest gap on the way."""
    strategy = LiquidityTopNStrategy(signal=year.scores, **OPTIONS)
    report = run(year, strategy, year.exchange(), float(CASH))[0]
    both = pd.concat(
        {"backtest": report["account"], "desk": year.evenings["account"].astype(float)}, axis=1, sort=True
    ).dropna()
    gap, daily = (both["backtest"] / both["desk"] - 1).abs(), both.pct_change().dropna()
    out = {name: round(yuan) for name, yuan in both.iloc[-1].items()}
    return out | {"widest_gap": float(gap.max()), "correlation": float(daily.corr().iloc[0, 1])}


def with_a_day_more(provider):
    """Let the calendar know a day after its last one, without bars: qlib's backtest asks when its last day ends."""
    days = (provider / "calendars" / "day.txt").read_text().split()
    after = pd.Timestamp(days[-1]) + pd.offsets.BDay()
    (provider / "calendars" / "day_future.txt").write_text("\n".join([*days, f"{after:%Y-%m-%d}"]) + "\n")
    return provider


def judge(folder):
    """All three."""
    start(with_a_day_more(Path(folder) / "full"))
    clear_cache()
    year = Year(folder)
    return {"deal_again": deal_again(year), "decide_again": decide_again(year), "trade_again": trade_again(year)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(judge(sys.argv[1]), indent=1) + "\n")
