"""What became of the orders: artifacts of the backtest and the capacity curve become sections. Private to `report`."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from qlib_ext.evaluate import DEFINITIONS as HEADLINE
from qlib_ext.evaluate import has_benchmark
from qlib_ext.report import figures
from qlib_ext.report.page import Chart, Column, Section, Text, across, columns_of, label, meanings, table, words
from qlib_ext.report.score import MONEY, Artifacts, Context, judged_days
from qlib_ext.report.texts import LABELS

TRADES = "portfolio_analysis/"
COSTS = ("commission", "transfer", "stamp_duty", "impact")
MOST_ROWS = 60  # of a table that is shown as it came
CASH = ("cash_share", "cash")
SETTLED = {
    "day": "on which the delisted holding was settled",
    "kind": "last_price: sold at the last price; write_off: worth nothing",
    "shares": "held, adjusted",
    "yuan": "received, before the fees",
    "cost": "fees of the sale, yuan",
    "lost": "value at the last price that was written off, yuan",
}
_ELSEWHERE = ("cost_split", "blocked", "participation")  # of execution.pkl: in other sections


def backtest(artifacts: Artifacts, context: Context) -> Section | None:
    """Show the account of the backtest: return, turnover, costs."""
    report = artifacts.get(f"{TRADES}report_normal_1day.pkl")
    if report is None:
        return None
    report = report.copy()
    report["after_costs"] = report["return"] - report["cost"]
    names = {"return": words("account before costs"), "after_costs": words("account after costs")}
    if has_benchmark(report):
        report["over_benchmark"] = report["after_costs"] - report["bench"]
        names["over_benchmark"] = words("account after costs, less the benchmark")
        names["bench"] = words("benchmark")
    figure = figures.curves({key: report[key] for key in names}, names, list(names))
    figure.update_xaxes(title={"text": "day of the trade"})
    figure.update_layout(meta={"zh": {**figure.layout.meta["zh"], "day of the trade": words("day of the trade").zh}})
    turned = figures.two_lines(
        report, {"turnover": words("traded (% of the account)")}, {"cost": words("costs (% of the account)")},
        (words("turnover (%)"), words("costs (%)")), "yaxis yaxis2",
    )  # fmt: skip
    turned.update_layout(yaxis2={"tickformat": ".2%"})
    caption = words(
        "qlib's account of the run's own strategy: orders over days, real cash, under the exchange's rules."
    )
    traded = words("Bought plus sold each day, and what it cost, as shares of the account's value the day before.")
    sums = pd.DataFrame(
        {key: [report[key].mean(), report[key].sum() / len(report) * 252] for key in ("turnover", "cost")}
    )
    sums.index = pd.Index(["mean", "year"])
    listed = table(
        sums.T, [Column("mean", words("mean a day"), "percent"), Column("year", words("a year (252 days)"), "percent")],
        key="turnover", rows=[words("traded (% of the account)"), words("costs (% of the account)")],
    )  # fmt: skip
    parts: list[str | Chart] = [Chart("backtest", figure, caption), Chart("turnover", turned, traded), listed]
    scope = context.scope(report.index, words("costs of the exchange are in where it says so"))
    return Section("backtest", words("Backtest: account, turnover, costs"), scope, tuple(parts))


def costs(artifacts: Artifacts, context: Context) -> Section | None:
    """Show what the fills cost, by part and month, and how much of a stock's liquidity they took."""
    fills = artifacts.get(f"{TRADES}fills.pkl")
    if fills is None or fills.empty:
        return None
    months = fills.groupby(pd.DatetimeIndex(fills["day"]).strftime("%Y-%m"))[list(COSTS)].sum()
    total, traded = fills[list(COSTS)].sum(), float(fills["yuan"].abs().sum())
    made = _own(artifacts, "cost_split")
    frame = pd.DataFrame({"yuan": total, "bp_of_traded": 1e4 * total / traded}) if made is None else made
    meant = _definitions(artifacts, TRADES, "cost_split", frame)
    columns = columns_of(frame, meant, "cost_split")
    split = figures.stacked(months, {key: label(key) for key in COSTS}, words("cost (yuan)"))
    used = figures.histogram(fills["used"], words("share of the stock's liquidity (%)"), words("fills (number)"))
    parts: tuple[str | Chart, ...] = (
        Chart("costs", split, words("What the fills of each month cost, by part.")),
        table(frame, columns, key="costs", rows=[label(key) for key in frame.index]),
        meanings(meant, [str(key) for key in frame.index], "cost_split"),
        Chart("used", used, words("Yuan of each fill / trailing mean turnover of the stock, known the day before.")),
    )
    binned = _own(artifacts, "participation")
    if binned is not None:
        meant = _definitions(artifacts, TRADES, "participation", binned)
        rows = [_bin_words(float(low), float(high)) for low, high in zip(binned["low"], binned["high"], strict=True)]
        edges = {"low": words("above"), "high": words("up to")}
        listed = [replace(c, title=edges.get(str(c.key), c.title)) for c in columns_of(binned, meant, "participation")]
        parts += (table(binned.rename(index=str), listed, key="participation", rows=rows),)
    extra = words("{n} fills, {million:,.1f} million yuan traded", n=len(fills), million=traded / 1e6)
    return Section("costs", words("Costs and participation"), context.scope(fills["day"], extra), parts)


def _bin_words(low: float, high: float) -> Text:
    """Say what share of a stock's turnover the trades of a bin took."""
    if not math.isfinite(low):
        return words("turnover not known")
    return words("{low:.1%} to {high:.1%}" if math.isfinite(high) else "above {low:.1%}", low=low, high=high)


def waterfall(artifacts: Artifacts, context: Context) -> Section | None:
    """Walk from the return on paper to what the account earned, one assumption a step."""
    frame = artifacts.get(f"{TRADES}waterfall.pkl")
    if frame is None or frame.empty:
        return None
    numbers = frame.select_dtypes("number")
    key = next((name for name in ("annual_return", "annual", *numbers.columns) if name in numbers), None)
    definitions = _definitions(artifacts, TRADES, "waterfall", frame)
    rows = [label(f"stage.{name}" if f"stage.{name}" in LABELS else str(name)) for name in frame.index]
    parts: list[str | Chart] = []
    if key is not None:
        figure = figures.steps(frame[key], rows, words("return a year (%)"))
        parts.append(Chart("waterfall", figure, words("Every row adds one assumption to the row before it.")))
    parts.append(table(frame, columns_of(frame, definitions, "waterfall"), key="waterfall", rows=rows))
    parts.append(meanings(definitions, [str(name) for name in frame.index], "waterfall"))
    report = artifacts.get(f"{TRADES}report_normal_1day.pkl")
    scope = (
        words("costs as each row says")
        if report is None
        else context.scope(report.index, words("costs as each row says"))
    )
    return Section("waterfall", words("From paper to the account"), scope, tuple(parts))


_CAPACITY = {  # artifact: what its chart says
    "capacity": (
        "The same scores with other capitals, filled down the ranking under the caps, traded daily; cash earns 0."
    ),
    "capacity_topn": (
        "The same in a fixed number of names, in proportion to their liquidity: a smaller share of their turnover at a "
        "smaller capital."
    ),
}


def capacity(artifacts: Artifacts, context: Context) -> Section | None:
    """Annual return by capital: filled down the ranking, and in a fixed number of names."""
    parts: list[str | Chart] = []
    for key, caption in _CAPACITY.items():
        curve = artifacts.get(f"{MONEY}{key}.pkl")
        if curve is None or curve.empty:
            continue
        numbers = [name for name in curve.select_dtypes("number") if not str(name).endswith(("error", "_se"))]
        wanted = ("gross", "net", "net_impact")
        returns = [name for name in numbers if str(name).removesuffix("_excess").removeprefix("annual_") in wanted]
        cash = next((name for name in CASH if name in curve), None)
        if returns:
            parts.append(Chart(key, figures.capacity(curve, returns, cash), words(caption)))
        rows = [words("{million:,.0f} million yuan", million=float(value) / 1e6) for value in curve.index]
        meant = _definitions(artifacts, MONEY, "capacity", curve)
        parts.append(table(curve, columns_of(curve, meant, "capacity"), key=key, rows=rows))
    if not parts:
        return None
    daily = artifacts.get(f"{MONEY}daily.pkl")
    scope = context.costs if daily is None else context.scope(judged_days(daily), context.costs)
    return Section("capacity", words("Capacity"), scope, tuple(parts))


def blocked(artifacts: Artifacts, context: Context) -> Section | None:
    """Show what the exchange cut or refused, and why."""
    frame, settled = artifacts.get(f"{TRADES}blocked.pkl"), artifacts.get(f"{TRADES}settled.pkl")
    if frame is None:
        return None
    parts: list[str | Chart] = []
    if len(frame):
        cut = frame.assign(cut=frame["wanted"] - frame["dealt"], month=pd.DatetimeIndex(frame["day"]).strftime("%Y-%m"))
        months = cut.pivot_table(index="month", columns="reason", values="cut", aggfunc="sum", fill_value=0.0)
        names = {reason: label(str(reason)) for reason in months.columns}
        figure = figures.stacked(months, names, words("not dealt (yuan)"))
        parts.append(Chart("blocked", figure, words("Yuan of orders that the exchange cut or refused, by reason.")))
        made = _own(artifacts, "blocked")
        sums = cut.groupby(["reason", "side"])[["wanted", "cut"]].sum() if made is None else made
        flat, rows = _flat(sums)
        definitions = _definitions(artifacts, TRADES, "blocked", sums)
        parts.append(table(flat, columns_of(flat, definitions, "blocked"), key="blocked", rows=rows))
    else:
        parts.append(f"<p>{words('The exchange cut no order.').html()}</p>")
    if settled is not None and len(settled):
        parts.append(f"<h3>{words('Delisted holdings').html()}</h3>")
        parts.append(table(settled.head(MOST_ROWS), columns_of(settled, SETTLED, "settled"), key="settled"))
    report = artifacts.get(f"{TRADES}report_normal_1day.pkl")
    days = frame["day"] if report is None else report.index
    made = artifacts.get(f"{TRADES}execution.pkl")
    with_unsent = frame.attrs.get("unsent", isinstance(made, dict) and "target_reached" in made)
    extra = words("with the orders that the strategy, which asks first, did not send") if with_unsent else None
    return Section("blocked", words("What was blocked, and why"), context.scope(days, extra), tuple(parts))


def execution(artifacts: Artifacts, context: Context) -> Section | None:
    """Further tables of the backtest, as its record wrote them."""
    found = artifacts.get(f"{TRADES}execution.pkl")
    if not isinstance(found, dict):
        return None
    parts: list[str | Chart] = []
    for name, frame in found.items():
        if name in _ELSEWHERE or not isinstance(frame, pd.DataFrame) or not len(frame):
            continue
        parts.append(f"<h3>{label(str(name)).html()}</h3>")
        parts.append(_made(frame, _definitions(artifacts, TRADES, str(name), frame), str(name)))
    if not parts:
        return None
    report = artifacts.get(f"{TRADES}report_normal_1day.pkl")
    scope = context.costs if report is None else context.scope(report.index, words("the backtest's account"))
    return Section("execution", words("Execution"), scope, tuple(parts))


def _made(frame: pd.DataFrame, definitions: dict[str, str], name: str) -> str:
    """Lay out a table of the backtest's record: days by mean, least and most; with what its columns and rows mean."""
    key = f"execution-{name}"
    if isinstance(frame.index, pd.DatetimeIndex) or len(frame) > MOST_ROWS:
        sums = frame.select_dtypes("number").agg(["mean", "min", "max"])
        return across(sums, columns_of(sums, definitions, name), key=key, rows=[label(row) for row in sums.index])
    rows = [str(row) for row in frame.index]
    if set(rows) <= set(definitions) and not set(map(str, frame.columns)) & {*definitions, *HEADLINE}:
        turned = frame.T  # each row has a unit of its own
        return across(turned, columns_of(turned, definitions, name), key=key, rows=[label(c) for c in turned.index])
    flat, titles = _flat(frame, name)
    known = columns_of(flat, {k: v for k, v in definitions.items() if k not in rows}, name)
    shared = columns_of(flat, HEADLINE if name == "performance" else None)
    columns = [own if own.meaning else other for own, other in zip(known, shared, strict=True)]
    return table(flat, columns, key=key, rows=titles) + meanings(definitions, rows, name)


def rules(artifacts: Artifacts, context: Context) -> Section | None:
    """List the records behind the trading rules that the exchange used."""
    cited = artifacts.get(f"{TRADES}rules_citations.pkl")
    if not cited:
        return None
    frame = pd.DataFrame(cited).fillna("").astype(str).rename(index=str)
    shown = [
        name
        for name in ("rule", "scope", "market", "value", "effective_from", "effective_to", "text", "source")
        if name in frame
    ]
    frame.index = pd.Index(frame["id"] if "id" in frame else frame.index)
    listed = table(
        frame, [Column(name, label(name), "text") for name in shown], key="rules", main=list(frame.index[:4])
    )
    return Section("rules", words("Trading rules in force"), words("{n} records", n=len(frame)), (listed,))


# --- words


def _definitions(artifacts: Artifacts, folder: str, part: str, frame: pd.DataFrame) -> dict[str, str]:
    """Definitions that a frame brings along, and those of the folder under `part`."""
    kept = artifacts.get(f"{folder}definitions.pkl", {})
    named = {key.removeprefix(f"{part}."): text for key, text in kept.items() if key.startswith(f"{part}.")}
    named |= frame.attrs.get("definitions", {})
    for listed in [key for key in named if key.endswith(", ...")]:  # such as "gone_1, gone_2, ..."
        stem = listed.partition(",")[0].rstrip("0123456789")
        named |= {str(c): named[listed] for c in (*frame.columns, *frame.index) if str(c).startswith(stem)}
    return named


def _own(artifacts: Artifacts, name: str) -> pd.DataFrame | None:
    """Give a table that the backtest's record made, its rows named by words."""
    found = artifacts.get(f"{TRADES}execution.pkl")
    frame = found.get(name) if isinstance(found, dict) else None
    return frame if isinstance(frame, pd.DataFrame) and len(frame) else None


def _flat(frame: pd.DataFrame, domain: str = "") -> tuple[pd.DataFrame, list[Text]]:
    """Name the rows by one text each, and say them in words."""
    parts = [value if isinstance(value, tuple) else (value,) for value in frame.index]
    titles = [[label(key if (key := f"{domain}.{part}") in LABELS else str(part)) for part in row] for row in parts]
    rows = [Text(", ".join(t.en for t in row), "，".join(t.zh for t in row)) for row in titles]
    return frame.set_axis([" ".join(str(part) for part in row) for row in parts]), rows
