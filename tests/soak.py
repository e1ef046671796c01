"""A simulated year at a desk: a new day each evening, `qlib-ext daily`, its orders dealt the next day, a run a week.

    python tests/soak.py year FOLDER one|each [DAYS]

`one`: all evenings in this process; `each`: a process an evening. The broker keeps books of his own, whole shares and
cents: he deals the list's rows at the close of the next day by the limits, fees and lots of 2021, pays dividends and
the rest of a split in cash, and pays out what is delisted. What happens is written to FOLDER/evenings.csv, a row each.
"""

import contextlib
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from qlib_ext.synthetic import make_market, simulate

HERE = Path(__file__).parent
CASH, CENT = Decimal(20_000_000), Decimal("0.01")
MARKET = {"n_stocks": 80, "years": 2}
FIRST, SHORT = "2021-01-04", "2021-06-08"  # of the year, of a few weeks with ex-rights days and a holiday
WEEK = 5  # evenings from one training to the next
MISSED, LATE, TWICE, WRONG = (6, 88, 89, 160), (7, 120), (4, 150), (3, 201)  # evenings, counted from 0
HALTED, DELISTED = (2, 60, 180), (5, 130)  # a holding is suspended for four days, delisted two days later
DELISTED_SHORT = (8,)  # of a few weeks
OPTIONS = {"participation": 0.005, "trade_participation": 0.005, "rank_buffer": 1.5, "liquidity": "community"}
COMMISSION, LEAST, TRANSFER, STAMP = Decimal("0.0003"), Decimal(5), Decimal("0.00002"), Decimal("0.001")


# --- the broker


def cents(yuan):
    return Decimal(yuan).quantize(CENT, ROUND_HALF_UP)


def fees(yuan, sell):
    return cents(max(COMMISSION * yuan, LEAST) + (TRANSFER + (STAMP if sell else 0)) * yuan)


def lots(code):
    """(smallest order, step) in shares."""
    return (200, 1) if code.startswith("SH688") else (100, 1) if code.startswith("BJ") else (100, 100)


def after_action(shares, ratio, dividend, price):
    """(whole shares, yuan paid) of a holding on its ex-rights day, `price` that of the day's start."""
    grown = shares * ratio
    whole = grown.to_integral_value(ROUND_FLOOR)
    return int(whole), cents(shares * dividend + (grown - whole) * price)


class Truth:
    """The market in raw yuan, as it came about: closes, limits, ex-rights days, the last day of each stock."""

    def __init__(self):
        market = simulate(**MARKET)
        self.days, self.codes = pd.DatetimeIndex(market.days), list(market.codes)
        self.column = {code: n for n, code in enumerate(self.codes)}
        self.close = np.round(market.bars["close"], 2)
        self.limits = market.setup.limit_up, market.setup.limit_down
        self.first, self.last = market.setup.first.copy(), market.setup.last.copy()
        self.actions = market.setup.actions

    def raw(self, code, t):
        """The last close up to a day, None where there is none."""
        column = self.close[: t + 1, self.column[code]]
        there = np.flatnonzero(np.isfinite(column))
        return Decimal(str(column[there[-1]])) if len(there) else None

    def action(self, code, t):
        """(ratio, yuan a share) of an ex-rights day, else (1, 0)."""
        stocks, ratios, cash = self.actions.get(t, ([], [], []))
        at = np.flatnonzero(np.asarray(stocks) == self.column[code])
        price = self.raw(code, t - 1)
        if not len(at) or price is None:
            return Decimal(1), Decimal(0)
        ratio = Decimal(str(ratios[at[0]])) if price >= 4 else Decimal(1)
        return ratio, Decimal(str(np.rint(float(price) * min(cash[at[0]], 0.08) * 100) / 100))

    def reference(self, code, t):
        """The previous close after the day's rights."""
        ratio, dividend = self.action(code, t)
        return cents((self.raw(code, t - 1) - dividend) / ratio)

    def trades(self, code, t):
        return t <= self.last[self.column[code]] and bool(np.isfinite(self.close[t, self.column[code]]))

    def locked(self, code, t, sell):
        """Whether the close stands at the limit, beyond which nothing is dealt on that side."""
        share = self.limits[sell][t, self.column[code]]
        if not np.isfinite(share):
            return False
        bound = cents(self.reference(code, t) * (1 + Decimal(str(-share if sell else share))))
        near = CENT if self.action(code, t) != (1, 0) else 0
        price = self.raw(code, t)
        return price <= bound + near if sell else price >= bound - near


@dataclass
class Broker:
    """An account in whole shares and cents. `fills`: rows (t, code, side, shares, price, cost, previous close)."""

    truth: Truth
    cash: Decimal = CASH
    shares: dict = field(default_factory=dict)
    fills: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    paid: Decimal = Decimal(0)  # dividends, and rests of splits
    settled: int = 0

    def open(self, t):
        """Begin a day: what is delisted is paid out, rights are booked."""
        for code in sorted(self.shares):
            if t == self.truth.last[self.truth.column[code]] + 1:
                yuan = self.shares.pop(code) * self.truth.raw(code, t - 1)
                self.cash += yuan - min(fees(yuan, True), yuan)
                self.settled += 1
            elif (action := self.truth.action(code, t)) != (1, 0):
                self.shares[code], yuan = after_action(self.shares[code], *action, self.truth.reference(code, t))
                self.cash, self.paid = self.cash + yuan, self.paid + yuan

    def deal(self, t, listed):
        """Deal the rows of a list in their order, at the close of the day."""
        for row in listed[listed["shares"] > 0].itertuples():
            sell, code = row.side == "sell", row.code
            why = self.refusal(t, code, sell)
            count = 0 if why else row.shares if sell else self.affordable(t, code, row.shares)
            if count < row.shares:
                self.refused.append((t, code, row.side, why or "cash"))
            if count:
                eve = Decimal(str(row.price)) if self.truth.action(code, t) == (1, 0) else self.truth.reference(code, t)
                self.fill(t, code, sell, int(count), eve)

    def refusal(self, t, code, sell):
        if t > self.truth.last[self.truth.column[code]]:
            return "delisted"
        if not self.truth.trades(code, t):
            return "suspended"
        return ("limit_down" if sell else "limit_up") if self.truth.locked(code, t, sell) else ""

    def affordable(self, t, code, shares):
        (least, step), price = lots(code), self.truth.raw(code, t)
        while shares >= least and shares * price + fees(shares * price, False) > self.cash:
            over = shares * price + fees(shares * price, False) - self.cash
            shares -= max(int(over / price / step) // 2, 1) * step
        return shares if shares >= least else 0

    def fill(self, t, code, sell, count, arrival):
        price = self.truth.raw(code, t)
        cost = fees(count * price, sell)
        self.cash += count * price * (1 if sell else -1) - cost
        left = self.shares.get(code, 0) + (-count if sell else count)
        assert left >= 0 <= self.cash, f"{code} on {self.truth.days[t].date()}: {left} shares, {self.cash} yuan"
        self.shares = {c: n for c, n in {**self.shares, code: left}.items() if n}
        self.fills.append((t, code, "sell" if sell else "buy", count, price, cost, arrival))

    def value(self, t):
        return self.cash + sum(count * self.truth.raw(code, t) for code, count in self.shares.items())


# --- the evening, in a process of its own or not


def folder_of(folder):
    folder = Path(folder)
    names = {"full": "full", "live": "live", "out": "desk", "dealt": "dealt"}
    names |= {"holdings": "holdings.csv", "fills": "fills.csv"}
    there = {name: folder / place for name, place in names.items()}
    return SimpleNamespace(folder=folder, uri=f"sqlite:///{folder}/mlruns.db", **there)


def train(desk, days, t):
    """Train anew on what there is, as qrun does."""
    from desk import DEALT, QUICK
    from qlib.cli.run import workflow

    spans = {"train": (t - 160, t - 61), "valid": (t - 58, t - 43), "test": (t - 40, t)}
    fitted = {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True}}
    handler = {"instruments": "all", "infer_processors": [fitted, {"class": "Fillna"}], "learn_processors": []}
    segments = {name: [str(days[at].date()) for at in span] for name, span in spans.items()}
    dataset = {
        "handler": {"class": "FastAlpha158", "module_path": "qlib_ext.handler", "kwargs": handler},
        "segments": segments,
        "step_len": 8,
    }
    dealt = {"class": "AShareExchange", "module_path": "qlib_ext.exchange", "kwargs": DEALT}
    traded = {"class": "LiquidityTopNStrategy", "module_path": "qlib_ext.strategy"}
    config = {
        "strategy": traded | {"kwargs": OPTIONS | {"signal": "<PRED>"}},
        "backtest": {"account": float(CASH), "exchange_kwargs": {"exchange": dealt}},
    }
    quick = {"config": config, "capacity": False, "waterfall": False}
    task = {
        "model": {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": {"hidden": [8]} | QUICK},
        "dataset": {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": dataset},
        "record": [
            {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp"},
            {"class": "PortAnaRecord", "module_path": "qlib_ext.record", "kwargs": quick},
        ],
    }
    manager = {"uri": desk.uri, "default_exp_name": "desk"}
    init = {"provider_uri": str(desk.live), "region": "cn", "kernels": 1}
    init["exp_manager"] = {"class": "SqliteExpManager", "module_path": "qlib_ext.recorder", "kwargs": manager}
    file = desk.folder / "workflow.yaml"
    file.write_text(json.dumps({"qlib_init": init, "task": task}, indent=1))
    workflow(str(file), experiment_name="desk")


def command(desk, cash, today):
    """The command of an evening."""
    return [
        "daily", "latest", "--uri", desk.uri, "--holdings", str(desk.holdings), "--cash", str(cash), "--fills",
        str(desk.fills), "--out", str(desk.out), "--today", f"{today:%Y-%m-%d}",
    ]  # fmt: skip


def evening(desk, cash, today, anew):
    """(exit status, what it said, measures): train anew if asked for, then `qlib-ext daily`."""
    from qlib_ext.cli import main

    begin, said = time.perf_counter(), io.StringIO()
    with contextlib.redirect_stdout(said):
        if anew:
            days = pd.DatetimeIndex((desk.live / "calendars/day.txt").read_text().split())
            train(desk, days, len(days) - 1)
        trained = time.perf_counter()
        status = main(command(desk, cash, today))
    measured = {"train": trained - begin, "daily": time.perf_counter() - trained, **measures()}
    return status, said.getvalue().strip().splitlines()[-1], measured


def measures():
    """Memory of this process after a collection (MB), open files, threads."""
    gc.collect()
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    count = {
        name: len(list(Path(f"/proc/self/{place}").iterdir())) for name, place in (("files", "fd"), ("threads", "task"))
    }
    return {"rss": round(rss, 1), **count}


def evening_of_its_own(desk, cash, today, anew):
    """The same, by a new process."""
    line = [sys.executable, str(HERE / "soak.py"), "evening", str(desk.folder), str(cash), str(today.date()), str(anew)]
    with (desk.folder / "log").open("a") as log:
        begin = time.perf_counter()
        out = subprocess.run(line, stdout=subprocess.PIPE, stderr=log, text=True, check=True).stdout
    status, said, measured = json.loads(out.splitlines()[-1])
    return status, said, measured | {"process": time.perf_counter() - begin}


# --- the year


def edit(desk, truth, code, first, last):
    """Take the bars of a stock away, from `full` and from the truth; `last` None: it is delisted."""
    truth.close[first : len(truth.days) if last is None else last, truth.column[code]] = np.nan
    for file in (desk.full / "features" / code.lower()).glob("*.day.bin"):
        values = np.fromfile(file, "<f4")
        if last is None:
            values = values[: 1 + first - int(values[0])]
        elif not file.name.startswith("factor"):
            values[1 + first - int(values[0]) : 1 + last - int(values[0])] = np.nan
        values.tofile(file)
    if last is None:
        truth.last[truth.column[code]] = first - 1
        for file in (desk.full / "instruments").glob("*.txt"):
            ended = str(truth.days[first - 1].date())
            rows = [line.split("\t") for line in file.read_text().splitlines()]
            rows = [[c, a, min(b, ended)] if c == code else [c, a, b] for c, a, b in rows]
            file.write_text("".join("\t".join(row) + "\n" for row in rows if row[1] <= row[2]))


def choose(broker, truth, t, stop):
    """The largest holding that trades, has no rights and does not end within the next days."""
    fit = [
        code for code in broker.shares
        if truth.last[truth.column[code]] > t + 25
        and all(truth.action(code, later) == (1, 0) for later in range(t + 1, stop))
        and all(truth.trades(code, later) for later in range(t, stop))
    ]  # fmt: skip
    return max(fit, key=lambda code: (broker.shares[code] * truth.raw(code, t), code))


def tell(desk, broker, t):
    """Write what the broker tells in the evening: holdings, and the executions of the last weeks."""
    rows = "".join(f"{code},{count}\n" for code, count in sorted(broker.shares.items()))
    desk.holdings.write_text("code,shares\n" + rows)
    days = broker.truth.days
    lines = [
        f"{days[at]:%Y-%m-%d},{code},{side},{count * price},{arrival},{price}\n"
        for at, code, side, count, price, _, arrival in broker.fills
        if at > t - 20
    ]
    desk.fills.write_text("date,code,side,yuan,arrival,average\n" + "".join(lines))


def take_list(desk, day):
    """The list that the broker deals on a day, put aside as it was; without rows where there is none."""
    file = desk.out / f"orders-{day:%Y-%m-%d}.csv"
    if not file.is_file():
        return pd.DataFrame({"shares": []})
    desk.dealt.mkdir(exist_ok=True)
    shutil.copy(file, desk.dealt)
    return pd.read_csv(file)


def kept(desk):
    """Bytes of what the routine has written: lists, journal, what it added to the runs."""
    every = [*desk.out.glob("*.csv"), *desk.folder.glob("mlruns*/**/pred.*"), *desk.folder.glob("mlruns*/**/daily.pkl")]
    return {str(file): file.read_bytes() for file in every}


def live_through(folder, way, count=None, first=None, say=print):
    """Live through the year, or `count` evenings of it; every evening is checked."""
    from desk import grow

    desk = folder_of(folder)
    desk.folder.mkdir(parents=True, exist_ok=True)
    make_market(desk.full, **MARKET)
    truth = Truth()
    t0 = truth.days.get_loc(pd.Timestamp(first or FIRST))
    end = len(truth.days) - 1 if count is None else t0 + count
    broker, run, rows = Broker(truth), evening if way == "one" else evening_of_its_own, []
    for t in range(t0, end):
        number, day = t - t0, truth.days[t]
        broker.open(t)
        broker.deal(t, take_list(desk, day))
        tell(desk, broker, t)
        row = {"day": day, "account": broker.value(t), "cash": broker.cash, "event": "missed"}
        if number in HALTED:
            edit(desk, truth, choose(broker, truth, t, t + 6), t + 1, t + 5)
        if number in (DELISTED if count is None else DELISTED_SHORT):
            edit(desk, truth, choose(broker, truth, t, t + 4), t + 3, None)
        if number in LATE:  # the day has not come; the evening looks, and tells
            status, said, _ = run(desk, broker.cash, day, False)
            assert status == 1 and "LATE" in said, said
            row["event"] = "late"
        grow(desk.full, desk.live, day)
        if number not in MISSED + LATE:
            row |= at_the_desk(desk, broker, run, t, number)
            row["orders"] = check(desk, broker, t)
        rows.append(row)
        write_down(desk, broker, rows)
        say(f"{number} {row}")
    broker.open(end)
    broker.deal(end, take_list(desk, truth.days[end]))
    write_down(desk, broker, rows)


def at_the_desk(desk, broker, run, t, number):
    """Do the evening of a day: exit status, event, what was said and measured."""
    from desk import change, grow

    day, events = broker.truth.days[t], []
    if number in WRONG:
        change(desk.live, sorted(broker.shares)[0], "high", t, 1.003)
    status, said, measured = run(desk, broker.cash, day, number % WEEK == 0)
    if number in WRONG:
        grow(desk.full, desk.live, day)
        status, said, measured = run(desk, broker.cash, day, False)
        assert status == 1 and "1 bars were issued again" in said, said
        events.append("reissued")
    before, holiday = kept(desk), day + pd.offsets.BDay(1)
    again = {"twice": day} if number in TWICE else {}
    again |= {} if holiday in broker.truth.days else {"holiday": holiday}
    for event, today in again.items():
        assert run(desk, broker.cash, today, False)[0] == 3 and kept(desk) == before
        events.append(event)
    assert status == 0 or (status == 1 and "ALARM" in said), said
    return {"event": " ".join(events), "status": status, "said": said} | measured


def write_down(desk, broker, rows):
    """Write what happened so far: evenings, the broker's books, the truth as it was changed."""
    tables = {
        "evenings": pd.DataFrame(rows),
        "broker": pd.DataFrame(broker.fills, columns=["t", "code", "side", "shares", "price", "cost", "arrival"]),
        "refused": pd.DataFrame(broker.refused, columns=["t", "code", "side", "reason"]),
    }
    for name, table in tables.items():
        table.to_csv(desk.folder / f"{name}.csv", index=False)
    told = {"paid": str(broker.paid), "settled": broker.settled, "cash": str(broker.cash), "shares": broker.shares}
    (desk.folder / "end.json").write_text(json.dumps(told))
    np.savez(desk.folder / "truth.npz", close=broker.truth.close, last=broker.truth.last)


def check(desk, broker, t):
    """Hold the list and the journal's line of an evening against the broker's books; returns the number of orders."""
    truth, day, date = broker.truth, broker.truth.days[t], broker.truth.days[t + 1]
    listed = pd.read_csv(desk.out / f"orders-{date:%Y-%m-%d}.csv")
    assert (listed["date"] == str(date.date())).all() and (listed["signal_date"] == str(day.date())).all()
    told = listed.drop_duplicates("code").set_index("code")["held_shares"]
    assert told[told > 0].to_dict() == broker.shares, "the list begins with other holdings"
    sent = listed[listed["shares"] > 0]
    sums = sent.groupby(["code", "side"])["shares"].sum()
    assert not sums.index.get_level_values("code").duplicated().any(), "bought and sold at once"
    cash = broker.cash
    for row in sent.itertuples():
        yuan = row.shares * Decimal(str(row.price))
        cash += (yuan if row.side == "sell" else -yuan) - fees(yuan, row.side == "sell")
    assert cash >= 0, f"the list would overdraw the cash: {cash}"
    for (code, side), count in sums.items():
        assert truth.trades(code, t), f"{code} did not trade on {day.date()}"
        assert truth.first[truth.column[code]] <= t <= truth.last[truth.column[code]]
        assert Decimal(str(sent.loc[sent["code"] == code, "price"].iloc[0])) == truth.raw(code, t)
        (least, step), held = lots(code), broker.shares.get(code, 0)
        whole = count >= least and (count - least) % step == 0
        sold = count <= held and (whole or count == held or count % step == 0)
        assert sold if side == "sell" else whole, (code, count, held)
    line = pd.read_csv(desk.out / "journal.csv", dtype=str).iloc[-1]
    assert line["data_day"] == str(day.date()) and line["date"] == str(date.date())
    assert cents(line["cash"]) == broker.cash and int(line["holdings"]) == len(broker.shares)
    assert cents(line["account"]) == broker.value(t), (line["account"], broker.value(t))
    return len(sent)


# --- what came of it


def left(folder, evenings=None):
    """Bytes of what the routine left, by name: lists, journal and artifacts; runs go by their order.

    `evenings`: of the first ones alone, and the runs that they went by (the last of them shall end there).
    """
    desk, journal = folder_of(folder), (Path(folder) / "desk/journal.csv").read_text().splitlines()
    count = len(journal) - 1 if evenings is None else evenings
    ids = list(dict.fromkeys(line.split(",")[2] for line in journal[1:]))
    of = {line.split(",")[1]: ids.index(line.split(",")[2]) for line in journal[1 : count + 1]}
    out = {f"orders of {date}": (desk.out / f"orders-{date}.csv").read_bytes() for date in of}
    for number, line in enumerate(journal[1 : count + 1]):
        out[f"line {number}"] = line.replace(f",{ids[of[line.split(',')[1]]]},", ",")
    runs = {folder.parent.name[:8]: folder for folder in desk.folder.glob("mlruns*/*/*/artifacts")}
    for number in range(max(of.values()) + 1):
        for name in ("pred.pkl", "pred.parquet", "daily.pkl", "label.pkl"):
            out[f"{name} of run {number}"] = (runs[ids[number]] / name).read_bytes()
    return out


def flatness(folder, settled=10):
    """First, last and slope (an evening, by least squares) of memory (MB) and open files, and seconds an evening.

    `settled`: evenings at the start that are left out, until everything has been imported and cached.
    """
    rows = pd.read_csv(Path(folder) / "evenings.csv").dropna(subset="rss").iloc[settled:]
    out = {"evenings": len(rows), "seconds": round(float(rows["daily"].median()), 2)}
    for name in ("rss", "files", "threads"):
        slope = float(np.polyfit(np.arange(len(rows)), rows[name], 1)[0])
        out[name] = (float(rows[name].iloc[0]), float(rows[name].iloc[-1]), float(rows[name].max()), round(slope, 4))
    return out


def main_of(arguments):
    """The command."""
    sys.path.insert(0, str(HERE))
    if arguments[0] == "evening":
        folder, cash, today, anew = arguments[1:]
        out = evening(folder_of(folder), cash, pd.Timestamp(today), anew == "True")
        sys.stdout.write(json.dumps(out) + "\n")
        return
    folder, way, *days = arguments[1:]
    short = {"count": int(days[0]), "first": SHORT} if days else {}
    live_through(folder, way, **short, say=lambda line: sys.stderr.write(f"{line}\n"))


if __name__ == "__main__":
    main_of(sys.argv[1:])
