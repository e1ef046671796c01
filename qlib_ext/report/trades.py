"""What became of the money: holdings, orders, costs, the backtest's account and the capacity become sections."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from qlib_ext.evaluate import ACCOUNT_DEFINITIONS, excess_crossings, has_benchmark, strategy_crossings
from qlib_ext.report import figures
from qlib_ext.report.page import Chart, Content, Context, across, columns_of, glossary, html, meanings_of, table
from qlib_ext.report.score import Definitions, Frame, judged_days
from qlib_ext.report.texts import Text, definition, join, money, sentence, text, title

Tables = Mapping[str, pd.DataFrame] | None  # of execution.pkl
COSTS = ["commission", "transfer", "stamp_duty", "impact"]
MOST_ROWS = 60  # of a table that is shown as it came
TOP_HOLDINGS = 30  # of a day, shown before a stock is searched
MOST_PACKED = 150_000  # holdings in the page (about 18 bytes each); beyond it only the largest of each day
_ELSEWHERE = ("cost_split", "blocked", "participation")  # tables of execution.pkl that other sections show


def backtest(context: Context, account: pd.DataFrame) -> Content:
    """Show the account of the backtest: return, turnover, costs."""
    account = account.assign(after_costs=account["return"] - account["cost"])
    names = {"return": text("account before costs"), "after_costs": text("account after costs")}
    if has_benchmark(account):
        account["over_benchmark"] = account["after_costs"] - account["bench"]
        names["over_benchmark"] = text("account after costs, less the benchmark")
        names["bench"] = text("benchmark")
    accounts = [key for key in names if key != "over_benchmark"]
    returns, day = {key: account[key] for key in names}, text("day of the trade")
    curves = figures.curves(returns, names, list(names), compounded=accounts, day=day)
    traded, paid = text("traded (% of the account)"), text("costs (% of the account)")
    axes = (text("turnover (%)"), text("costs (%)"))
    daily = figures.two_lines(account, {"turnover": traded, "cost": paid}, axes, yaxis=0, yaxis2=2)
    sums = account[["turnover", "cost"]].agg(["mean", "sum"]).T
    sums["year"] = sums["mean"] * context.year
    columns = columns_of(sums[["mean", "year"]], table="turnover", mean="percent", year="percent")
    return context.scope(account.index, text("costs of the exchange are in where it says so")), [
        Chart("backtest", curves, sentence("chart.backtest")),
        Chart("turnover", daily, sentence("chart.turnover")),
        table(sums, columns, key="turnover", rows=[traded, paid]),
    ]


def beside_the_mean(context: Context, frame: pd.DataFrame, daily: Frame, definitions: Definitions) -> Content:
    """Show the account's excess over the mean stock at each impact."""
    meanings = _meanings(definitions, "account", frame)
    rows = [text("impact b = {b:.2f}", b=float(b)) for b in frame.index]
    kinds = {"account_sharpe": "ratio", "account_drawdown": "percent"}
    parts = [
        table(frame, columns_of(frame, meanings, "account", **kinds), key="account", rows=rows),
        glossary(meanings, ["mean_stock", "b"], "account"),
    ]
    remark = text("costs as each row says")
    return remark if daily is None else context.scope(daily.index, remark), parts


def costs(context: Context, fills: pd.DataFrame, tables: Tables, definitions: Definitions) -> Content | None:
    """Show what the fills cost, by part and month, and how much of a stock's liquidity they took."""
    if fills.empty:
        return None
    split, bins = _table_of(tables, "cost_split"), _table_of(tables, "participation")
    traded = float(fills["yuan"].abs().sum())
    if split is None:
        split = pd.DataFrame({"yuan": fills[COSTS].sum()})
        split["bp_of_traded"] = 1e4 * split["yuan"] / traded
    meanings = _meanings(definitions, "cost_split", split)
    months = fills.groupby(_months(fills["day"]))[COSTS].sum()
    used = figures.histogram(fills["used"], text("share of the stock's liquidity (%)"), text("fills (number)"))
    parts: list[Any] = [
        Chart("costs", figures.stacked(months, text("cost (yuan)")), sentence("chart.costs")),
        table(split, columns_of(split, meanings), key="costs", rows=[title(key) for key in split.index]),
        glossary(meanings, split.index, "cost_split"),
        Chart("used", used, sentence("chart.used")),
    ]
    if bins is not None:
        columns = columns_of(bins, _meanings(definitions, "participation", bins), "participation")
        rows = [_bin_title(float(low), float(high)) for low, high in zip(bins["low"], bins["high"], strict=True)]
        parts.append(table(bins.rename(index=str), columns, key="participation", rows=rows))
    remark = text("{n} fills, {money} traded", n=len(fills), money=money(traded))
    return context.scope(fills["day"], remark), parts


def _months(days: pd.Series) -> pd.Index:
    return pd.DatetimeIndex(days).strftime("%Y-%m")


def _bin_title(low: float, high: float) -> Text:
    """Say what share of a stock's turnover the trades of a bin took."""
    if not math.isfinite(low):
        return text("turnover not known")
    return text("{low:.1%} to {high:.1%}" if math.isfinite(high) else "above {low:.1%}", low=low, high=high)


def waterfall(context: Context, frame: pd.DataFrame, account: Frame, definitions: Definitions) -> Content | None:
    """Walk from the return on paper to what the account earned, one assumption a step."""
    if frame.empty:
        return None
    meanings = _meanings(definitions, "waterfall", frame)
    rows = [title(name, "waterfall") for name in frame.index]
    parts: list[Any] = [
        table(frame, columns_of(frame, meanings), key="waterfall", rows=rows),
        glossary(meanings, frame.index, "waterfall"),
    ]
    if "annual_return" in frame:
        beside = int("deck" in frame.index)
        figure = figures.waterfall(frame["annual_return"], rows, text("return a year (%)"), apart=beside)
        parts.insert(0, Chart("waterfall", figure, sentence("chart.waterfall")))
    remark = text("costs as each row says")
    return remark if account is None else context.scope(account.index, remark), parts


def capacity(
    context: Context,
    filled: Frame,
    topn: Frame,
    daily: Frame,
    definitions: Definitions,
    strategy: Frame,
    of_backtest: Definitions,
) -> Content | None:
    """By capital, what is left over the mean stock: of the run's strategy, and of the judge; their tables."""
    parts: list[Any] = []
    if strategy is not None and len(strategy):
        parts += _strategy_capacity(strategy, of_backtest)
    judged = {
        key: curve for key, curve in (("capacity", filled), ("capacity_topn", topn)) if curve is not None and len(curve)
    }
    if judged:
        parts.append(_chart_by_capital("judge", {title(key, "by_capital"): curve for key, curve in judged.items()}))
    meanings = meanings_of(_own(definitions, "capacity"), "capacity")
    for key, curve in judged.items():
        rows = [money(capital) for capital in curve.index]
        parts += [html("heading", title(key, "by_capital")), html("remark", sentence(f"table.{key}"))]
        parts.append(table(curve, columns_of(curve, meanings), key=key, rows=rows))
        zeros = excess_crossings(curve)
        parts += _crossings(zeros, f"{key}_zeros", [title(f"{name}_excess") for name in zeros.index])
    scope = context.costs if daily is None else context.scope(judged_days(daily), context.costs)
    return (scope, parts) if parts else None


def _chart_by_capital(key: str, curves: Mapping[Text, pd.DataFrame]) -> Chart:
    """Draw what curves have left after as many costs as they know; of the first one also before costs."""
    ends = ("net_impact_excess", "net_excess", "gross_excess", "net_impact", "net", "gross")
    left = {name: curve[next(end for end in ends if end in curve)] for name, curve in curves.items()}
    name, first = next(iter(curves.items()))
    before = text("{name}, before costs", name=name)
    if "gross_excess" in first and left[name].name != "gross_excess":
        left[before] = first["gross_excess"]
    figure = figures.by_capital(left, text("a year over the mean stock (%)"), dotted=[before])
    return Chart(f"capacity-{key}", figure, sentence(f"chart.capacity-{key}"))


def _strategy_capacity(curve: pd.DataFrame, definitions: Definitions) -> list[Any]:
    """Draw and tabulate the curves of the run's own strategy, a b each, the largest first."""
    key, meanings = "capacity_strategy", meanings_of(_own(definitions, "capacity_strategy"), "capacity_strategy")
    curve = curve.sort_index(level="b", ascending=False, sort_remaining=False)
    names = [text("b = {b:.2f}", b=b) for b in curve.index.get_level_values("b")]
    rows = [join([name, money(capital)]) for name, capital in zip(names, curve.index.get_level_values(1), strict=True)]
    flat = curve.set_axis([f"{b:.2f} {capital:.0f}" for b, capital in curve.index])
    zeros = strategy_crossings(curve)
    main = flat.index[: len(curve.loc[curve.index[0][0]])]
    curves = {text("b = {b:.2f}", b=b): own for b, own in curve.groupby(level="b", sort=False)}
    return [
        html("heading", title(key, "by_capital")),
        _chart_by_capital("strategy", {name: rows.droplevel("b") for name, rows in curves.items()}),
        html("remark", sentence(f"table.{key}")),
        table(flat, columns_of(flat, meanings), key=key, rows=rows, main=main),
        *_crossings(zeros.set_axis([f"{b:.2f}" for b in zeros.index]), f"{key}_zeros", list(dict.fromkeys(names))),
    ]


def _crossings(zeros: pd.DataFrame, key: str, rows: Sequence[Text]) -> list[Markup]:
    """Tabulate the capitals (yuan) at which excesses pass zero; nothing for a curve without an excess."""
    return [table(zeros, key=key, rows=rows)] if len(zeros) else []


def blocked(
    context: Context, frame: pd.DataFrame, delisted: Frame, account: Frame, tables: Tables, definitions: Definitions
) -> Content:
    """Show what the exchange cut or refused, and why."""
    parts: list[Any] = [html("paragraph", sentence("blocked.none"))]
    if len(frame):
        cut = frame.assign(cut=frame["wanted"] - frame["dealt"], month=_months(frame["day"]))
        months = cut.pivot_table(index="month", columns="reason", values="cut", aggfunc="sum", fill_value=0.0)
        sums = _table_of(tables, "blocked")
        if sums is None:
            sums = cut.groupby(["reason", "side"])[["wanted", "cut"]].sum()
        flat, rows = _flat(sums)
        parts = [
            Chart("blocked", figures.stacked(months, text("not dealt (yuan)")), sentence("chart.blocked")),
            table(flat, columns_of(flat, _meanings(definitions, "blocked", sums)), key="blocked", rows=rows),
        ]
    if delisted is not None and len(delisted):
        meanings = {key: sentence(f"settled.{key}") for key in map(str, delisted) if key != "code"}
        parts.append(html("heading", text("Delisted holdings")))
        parts.append(table(delisted.head(MOST_ROWS), columns_of(delisted, meanings), key="settled"))
    with_unsent = frame.attrs.get("unsent", _table_of(tables, "target_reached") is not None)
    remark = sentence("blocked.unsent") if with_unsent else None
    return context.scope(frame["day"] if account is None else account.index, remark), parts


def execution(context: Context, tables: Any, account: Frame, definitions: Definitions) -> Content | None:
    """Further tables of the backtest, as its record wrote them."""
    parts: list[Any] = []
    for name in tables if isinstance(tables, dict) else ():
        frame = _table_of(tables, name)
        if frame is not None and name not in _ELSEWHERE:
            parts += [
                html("heading", title(name)),
                *_of_record(frame, _meanings(definitions, name, frame), str(name)),
            ]
    scope = context.costs if account is None else context.scope(account.index, text("the backtest's account"))
    return (scope, parts) if parts else None


def _of_record(frame: pd.DataFrame, meanings: dict[str, Text], name: str) -> list[Markup]:
    """Lay out a table of the backtest's record: days by mean, least and most; with what its columns and rows mean."""
    key, rows = f"execution-{name}", [str(row) for row in frame.index]
    sums = None
    if isinstance(frame.index, pd.DatetimeIndex) or len(frame) > MOST_ROWS:
        sums = frame.select_dtypes("number").agg(["mean", "min", "max"])
    elif set(rows) <= set(meanings) and not set(map(str, frame.columns)) & {*meanings, *ACCOUNT_DEFINITIONS}:
        sums = frame.T  # each row has a unit of its own
    if sums is not None:
        return [across(sums, columns_of(sums, meanings, name), key=key, rows=[title(row) for row in sums.index])]
    flat, titles = _flat(frame, name)
    of_columns = {k: meaning for k, meaning in meanings.items() if k not in rows}
    return [table(flat, columns_of(flat, of_columns), key=key, rows=titles), glossary(meanings, rows, name)]


def rules(_: Context, cited: Sequence[Mapping[str, Any]]) -> Content | None:
    """List the records behind the trading rules that the exchange used."""
    if not cited:
        return None
    frame = pd.DataFrame(cited).fillna("").astype(str).rename(index=str)
    order = ("rule", "scope", "market", "value", "effective_from", "effective_to", "text", "source")
    columns = columns_of(frame[[name for name in order if name in frame]], table="rules")
    frame.index = pd.Index(frame["id"] if "id" in frame else frame.index)
    return text("{n} records", n=len(frame)), [table(frame, columns, key="rules", main=list(frame.index[:4]))]


# --- tables and words of the backtest's record


def _own(definitions: Definitions, table: str) -> dict[str, str]:
    """Those of a table's keys, which stand in a record's definitions under its name."""
    prefix = f"{table}."
    return {key.removeprefix(prefix): text for key, text in (definitions or {}).items() if key.startswith(prefix)}


def _meanings(definitions: Definitions, name: str, frame: pd.DataFrame) -> dict[str, Text]:
    """Definitions of a table of the backtest: those of its record, and those that it brings along."""
    own = _own(definitions, name) | frame.attrs.get("definitions", {})
    for listed in [key for key in own if key.endswith(", ...")]:  # such as "gone_1, gone_2, ..."
        stem = listed.partition(",")[0].rstrip("0123456789")
        own |= {str(c): own[listed] for c in (*frame.columns, *frame.index) if str(c).startswith(stem)}
    share = own.get("mean_days", "").removeprefix("days to sell all at ").partition(" of ")[0]
    return {key: definition(key, english, name, share=share) for key, english in own.items()}


def _table_of(tables: Tables, name: Any) -> Frame:
    """Give a table that the backtest's record made; None where it has no row."""
    frame = tables.get(name) if isinstance(tables, dict) else None
    return frame if isinstance(frame, pd.DataFrame) and len(frame) else None


def _flat(frame: pd.DataFrame, table: str = "") -> tuple[pd.DataFrame, list[Text]]:
    """Name the rows by one text each, and say them in words."""
    keys = [value if isinstance(value, tuple) else (value,) for value in frame.index]
    titles = [join(title(key, table) for key in row) for row in keys]
    return frame.set_axis([" ".join(map(str, row)) for row in keys]), titles


# --- holdings


def holdings(context: Context, positions: pd.DataFrame, daily: Frame, labels: Frame) -> Content | None:
    """Show names and cash by day, the largest holdings of each day, and every stock ever held."""
    if positions.empty:
        return None
    parts: list[Any] = []
    if daily is not None and "capped_names_held" in daily:
        names = {key: title(key) for key in ("capped_names_held", "capped_cash_share")}
        axes = (text("stocks (number)"), text("cash (% of capital)"))
        figure = figures.two_lines(daily, names, axes, yaxis2=0)
        parts.append(Chart("names", figure, sentence("chart.names")))
    parts.append(html("holdings", packed_holdings(positions, labels, context), TOP_HOLDINGS))
    remark = text("the capital is not known")
    if context.capital is not None:
        remark = sentence("holdings.capital", money=money(context.capital))
    return context.scope(positions.index.get_level_values("datetime"), remark), parts


def packed_holdings(positions: pd.DataFrame, labels: pd.DataFrame | None, context: Context) -> dict[str, Any]:
    """Pack the holdings into what a page can carry: those of each day, the largest first, and sums by stock.

    Returns:
        days: ISO; codes; depth: None where all holdings are packed, else how many of each day; top: for each day
        [place in codes, yuan, hundredths of a per cent of the stock's liquidity (-1: not known), ...]; stocks: rows
        [place in codes, days, mean yuan, largest share of the capital, largest share of the liquidity or null, gain in
        yuan or null].
    """
    place, codes = pd.factorize(positions.index.get_level_values("instrument"), sort=True)
    held = positions[["yuan", "weight"]].assign(place=place, used=np.nan, gain=np.nan)
    held["day"] = positions.index.get_level_values("datetime")
    if "liquidity" in positions:
        held["used"] = held["yuan"] / positions["liquidity"]
    if labels is not None and context.horizon is not None:
        held["gain"] = held["yuan"] * labels.iloc[:, 0].reindex(held.index).fillna(0.0) / context.horizon
    depth = None if len(held) <= MOST_PACKED else max(MOST_PACKED // held["day"].nunique(), TOP_HOLDINGS)
    return {
        "days": [str(day)[:10] for day in sorted(held["day"].unique())],
        "codes": [f"{code} {context.names.get(code, '')}".strip() for code in map(str, codes)],
        "capital": context.capital,
        "depth": depth,
        "top": _largest(held, depth),
        "stocks": _sums_by_stock(held),
    }


def _largest(held: pd.DataFrame, depth: int | None) -> list[list[int]]:
    """Give holdings of each day, the largest first, `depth` of them (None: all), see `packed_holdings`."""
    largest = held.sort_values(["day", "yuan"], ascending=[True, False], kind="stable")
    largest = largest if depth is None else largest.groupby("day", sort=True).head(depth)
    used = (1e4 * largest["used"].where(np.isfinite(largest["used"]))).round().fillna(-1)
    whole = largest.assign(yuan=largest["yuan"].round(), used=used)[["place", "yuan", "used"]].astype(np.int64)
    return [rows.to_numpy().ravel().tolist() for _, rows in whole.groupby(largest["day"], sort=True)]


def _sums_by_stock(held: pd.DataFrame) -> list[list[float | None]]:
    """Rows of `stocks`, see `packed_holdings`, the largest mean holding first."""
    columns = {"days": ("yuan", "size"), "yuan": ("yuan", "mean"), "weight": ("weight", "max")}
    sums = held.groupby("place").agg(**columns, used=("used", "max"), gain=("gain", "sum"))
    with_gain = held["gain"].notna().any()
    return [
        [
            *(place, days, round(yuan), round(weight, 6)),
            round(used, 6) if np.isfinite(used) else None,
            round(gain) if with_gain else None,
        ]
        for place, days, yuan, weight, used, gain in sums.sort_values("yuan", ascending=False).itertuples()
    ]
