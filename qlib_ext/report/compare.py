"""The page of `qlib-ext compare`: differences, the same table and the same curves for several runs. Needs plotly."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from qlib_ext.evaluate import COMPARE_DEFINITIONS, QUALITY, SERIES, Comparison, headline_table
from qlib_ext.evaluate import DEFINITIONS as HEADLINE
from qlib_ext.report import figures
from qlib_ext.report.page import Chart, Column, Section, Text, columns_of, label, note, page, table, words
from qlib_ext.report.report import facts
from qlib_ext.report.score import Context, series_words

_KINDS = {"mean": "percent", "annual_return": "percent", "sharpe": "ratio"}


def compare_html(found: Comparison, context: Context) -> str:
    """Write the page.

    Args:
        found: of `compare.compare`.
        context: title, facts of the runs, universe and costs; the same for all of them.

    """
    made = [
        _differences(found, context),
        _headlines(found, context),
        _curves(found, context),
        _correlation(found, context),
    ]
    return page(
        context.title, words("Several runs on the same days"), facts(context.facts), [s for s in made if s is not None]
    )


def number_words(key: str) -> Text:
    """Say in words what a number of `compare.numbers` is, such as capped_buyable_net.annual_return."""
    column, _, number = key.partition(".")
    what = label(column) if column in QUALITY else series_words(column)
    kind = words("mean a day") if number == "mean" else label(number)
    return Text(f"{what.en}: {kind.en}", f"{what.zh}：{kind.zh}")


def _kind(key: str) -> str:
    column, _, number = key.partition(".")
    return "number" if column in QUALITY else _KINDS[number]


def headlines(found: Comparison) -> pd.DataFrame:
    """Make the deck's table of every run on the common days; index (run, series)."""
    parts = {}
    for run, frame in found.daily.items():
        returns = {name: frame[name] for name in SERIES if name in frame}
        if returns:
            parts[run] = headline_table(returns, ic=frame["ic"].to_numpy() if "ic" in frame else None)
    return pd.concat(parts, names=["run", "series"]) if parts else pd.DataFrame()


def _differences(found: Comparison, context: Context) -> Section:
    parts: list[str | Chart] = []
    days = next(iter(found.daily.values())).index
    for run, lines in found.table.groupby(level="run", sort=False):
        title = words("{run} less {against}", run=run, against=found.against)
        parts.append(f"<h3>{title.html()}</h3>")
        lines = lines.droplevel("run")
        columns = [
            Column(key, label(key), "", note(key, COMPARE_DEFINITIONS[key], "compare")) for key in COMPARE_DEFINITIONS
        ]
        parts.append(_mixed(lines, columns, key=f"difference-{run}"))
    how = words(
        "circular block bootstrap of the days: {draws} draws of blocks of {block} days, seed {seed}; the days of all "
        "runs are drawn together", draws=found.draws, block=found.block, seed=found.seed,
    )  # fmt: skip
    parts.append(f'<p class="scope">{how.html()}</p>')
    for name, count in found.seeds.items():
        if count > 1:
            pooled = words("{run}: daily mean over {n} runs, drawn anew in each draw", run=name, n=count)
            parts.append(f'<p class="scope">{pooled.html()}</p>')
    if len(found.left_out):
        left = words("{n} days that not all runs have", n=len(found.left_out))
        parts.append(f'<p class="scope">{words("days left out").html()}: {left.html()}</p>')
    return Section("differences", words("Differences, day by day"), context.scope(days, context.costs), tuple(parts))


def _mixed(lines: pd.DataFrame, columns: list[Column], *, key: str) -> str:
    """Write a table whose rows have units of their own, each row by its number's kind."""
    shared = {"share_below_zero": "percent"}
    blocks: list[str] = []
    for kind in ("number", "percent", "ratio"):
        part = lines[[_kind(str(name)) == kind for name in lines.index]]
        if len(part):
            made = [
                Column(c.key, c.title, shared.get(str(c.key), kind), c.meaning if not blocks else None) for c in columns
            ]
            blocks.append(table(part, made, key=f"{key}-{kind}", rows=[number_words(str(name)) for name in part.index]))
    return "".join(blocks)


def _headlines(found: Comparison, context: Context) -> Section | None:
    frame = headlines(found)
    if frame.empty:
        return None
    rows = [
        Text(f"{run}: {text.en}", f"{run}：{text.zh}")
        for run, text in ((run, series_words(str(s))) for run, s in frame.index)
    ]
    flat = frame.set_axis([f"{run} {series}" for run, series in frame.index])
    days = next(iter(found.daily.values())).index
    listed = table(flat, columns_of(flat, HEADLINE), key="headlines", rows=rows)
    return Section("headlines", words("The same table for all"), context.scope(days, context.costs), (listed,))


def _curves(found: Comparison, context: Context) -> Section | None:
    returns: dict[str, pd.Series] = {}
    names: dict[str, Text] = {}
    for series in SERIES:
        for run, frame in found.daily.items():
            if series in frame:
                key, text = f"{run} {series}", series_words(series)
                returns[key], names[key] = frame[series], Text(f"{run}: {text.en}", f"{run}：{text.zh}")
    if not returns:
        return None
    shown = [key for key in returns if key.endswith(("capped_buyable_gross", "capped_buyable_net"))]
    tints = dict(zip(found.daily, figures.colours(len(found.daily)), strict=True))
    styles = {
        f"{run} {series}": (tints[run], dash)
        for run in found.daily
        for series, dash in zip(SERIES, figures.DASHES, strict=False)
    }
    days = next(iter(found.daily.values())).index
    chart = Chart("curves", figures.curves(returns, names, shown, styles), words("A colour a run, a dash a series."))
    return Section("curves", words("The same curves for all"), context.scope(days, context.costs), (chart,))


def _correlation(found: Comparison, context: Context) -> Section | None:
    days = next(iter(found.daily.values())).index
    known: Mapping[str, pd.DataFrame] = {run: frame for run, frame in found.daily.items() if "rank_ic" in frame}
    if not known:
        return None
    means = {
        run: frame["rank_ic"].rolling(figures.SMOOTH, min_periods=figures.SMOOTH // 2).mean()
        for run, frame in known.items()
    }
    caption = words("{name}, mean of {days} days", name=label("rank_ic"), days=figures.SMOOTH)
    axis = words("{name}, mean of {days} days (1)", name=label("rank_ic"), days=figures.SMOOTH)
    chart = Chart("rank-ic", figures.lines(means, axis), caption)
    return Section("rank-ic-section", label("rank_ic"), context.scope(days, words("no costs")), (chart,))
