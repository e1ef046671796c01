"""The page of several runs: what differs in them, the same numbers with their differences, the same curves."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from qlib_ext.evaluate import COMPARE_DEFINITIONS, QUALITY, SERIES, Comparison, headline_table
from qlib_ext.evaluate import DEFINITIONS as HEADLINE
from qlib_ext.report import figures
from qlib_ext.report.page import Chart, Content, Context, Section, columns_of, fill, html, meanings_of, page, table
from qlib_ext.report.texts import Text, join, plain, sentence, series_title, text, title

_KINDS = {"mean": "percent", "annual_return": "percent", "sharpe": "ratio"}
_MODELS = ("run", "model", "loss", "target", "weights by", "seeds")  # facts in which compared models differ
_SHARED = (  # what should be the same where a comparison is one of models
    *("data", "universe", "features", "label", "train", "valid", "test", "liquidity", "capital", "costs", "versions"),
)


def compare_html(comparison: Comparison, context: Context) -> str:
    """Write the page of several runs.

    Args:
        comparison: of `evaluate.compare`.
        context: title, facts of the runs, universe and costs; the same for all of them (see `compared_context`).

    >>> import numpy as np, pandas as pd
    >>> from qlib_ext.evaluate import compare
    >>> days = pd.bdate_range("2022-01-04", periods=60)
    >>> runs = {seed: pd.DataFrame({"rank_ic": np.random.default_rng(seed).normal(size=60)}, days) for seed in (0, 1)}
    >>> html = compare_html(compare({"mse": runs[0], "liq": runs[1]}, draws=100), Context("mse / liq"))
    >>> "liq less mse" in html
    True
    """
    makers = {"differences": _differences, "headlines": _headlines, "curves": _curves, "rank-ic-section": _correlation}
    sections = [Section(key, ("comparison",), maker) for key, maker in makers.items()]
    filled = fill(sections, {"comparison": comparison}, context)
    return page(context, sentence("page.compare"), filled)


def number_title(key: str) -> Text:
    """Title of a number of `evaluate.compare`, such as capped_buyable_net.annual_return."""
    column, _, number = key.partition(".")
    return join([series_title(column), text("mean a day") if number == "mean" else title(number)], ": ")


def headlines(comparison: Comparison) -> pd.DataFrame:
    """Make the deck's table of every run on the common days; index (run, series)."""
    tables = {}
    for run, frame in comparison.daily.items():
        returns = {name: frame[name] for name in SERIES if name in frame}
        if returns:
            ic = frame["ic"].to_numpy() if "ic" in frame else None
            tables[run] = headline_table(returns, ic=ic, year=comparison.year)
    return pd.concat(tables, names=["run", "series"]) if tables else pd.DataFrame()


def _days(comparison: Comparison) -> pd.Index:
    return next(iter(comparison.daily.values())).index


def _differences(context: Context, comparison: Comparison) -> Content:
    parts: list[Any] = []
    for run, lines in comparison.table.groupby(level="run", sort=False):
        parts.append(html("heading", text("{run} less {against}", run=run, against=comparison.against)))
        parts += _by_kind(lines.droplevel("run"), f"difference-{run}")
    drawn = {"draws": comparison.draws, "block": comparison.block, "seed": comparison.seed}
    remarks = [sentence("compare.bootstrap", **drawn)]
    remarks += [sentence("compare.pooled", run=name, n=n) for name, n in comparison.seeds.items() if n > 1]
    if len(comparison.left_out):
        left_out = text("{n} days that not all runs have", n=len(comparison.left_out))
        remarks.append(text("{run}: {value}", run=text("days left out"), value=left_out))
    parts += [html("remark", remark) for remark in remarks]
    return context.scope(_days(comparison), context.costs), parts


def _by_kind(lines: pd.DataFrame, key: str) -> list[Any]:
    """Write rows that have units of their own: a table a unit, the first with what the columns mean."""
    units = {
        name: "number" if name.partition(".")[0] in QUALITY else _KINDS[name.partition(".")[2]] for name in lines.index
    }
    tables: list[Any] = []
    for unit in ("number", "percent", "ratio"):
        rows = lines[[units[name] == unit for name in lines.index]]
        if len(rows):
            meanings = {} if tables else meanings_of(COMPARE_DEFINITIONS, "compare")
            kinds = dict.fromkeys(COMPARE_DEFINITIONS, unit) | {"share_below_zero": "percent"}
            columns = columns_of(rows[[*COMPARE_DEFINITIONS]], meanings, **kinds)
            tables.append(table(rows, columns, key=f"{key}-{unit}", rows=[number_title(name) for name in rows.index]))
    return tables


def _of_run(run: str, series: str) -> Text:
    return join([run, series_title(series)], ": ")


def _headlines(context: Context, comparison: Comparison) -> Content | None:
    frame = headlines(comparison)
    if frame.empty:
        return None
    rows = [_of_run(run, series) for run, series in frame.index]
    flat = frame.set_axis([f"{run} {series}" for run, series in frame.index])
    listed = table(flat, columns_of(flat, meanings_of(HEADLINE)), key="headlines", rows=rows)
    return context.scope(_days(comparison), context.costs), [listed]


def _curves(context: Context, comparison: Comparison) -> Content | None:
    tints = dict(zip(comparison.daily, figures.colours(len(comparison.daily)), strict=True))
    returns: dict[str, pd.Series] = {}
    names: dict[str, Text] = {}
    styles: dict[str, tuple[str, str]] = {}
    for series, dash in zip(SERIES, figures.DASHES, strict=False):
        for run, frame in comparison.daily.items():
            if series in frame:
                key = f"{run} {series}"
                returns[key], names[key], styles[key] = frame[series], _of_run(run, series), (tints[run], dash)
    if not returns:
        return None
    shown = [key for key in returns if key.endswith(("capped_buyable_gross", "capped_buyable_net"))]
    chart = Chart("curves", figures.curves(returns, names, shown, styles), sentence("chart.curves"))
    return context.scope(_days(comparison), context.costs), [chart]


def _correlation(context: Context, comparison: Comparison) -> Content | None:
    means = {
        plain(run): figures.running_mean(frame["rank_ic"])
        for run, frame in comparison.daily.items()
        if "rank_ic" in frame
    }
    if not means:
        return None
    values = {"name": title("rank_ic"), "days": figures.SMOOTH}
    figure = figures.lines(means, text("{name}, mean of {days} days (1)", **values))
    chart = Chart("rank-ic", figure, text("{name}, mean of {days} days", **values))
    return context.scope(_days(comparison), text("no costs")), [chart]


# --- what the runs have in common


def compared_context(contexts: Mapping[str, Sequence[Context]], against: str) -> Context:
    """Give the context of a comparison.

    Args:
        contexts: of the runs under each name.
        against: name of those that the others are compared with.

    Returns:
        That of the first run of `against`, with facts of all runs, their differences, and every universe and costs.
    """
    facts: list[tuple[Text, Text | str]] = []
    for name, runs in contexts.items():
        count = [text("mean over {n} runs", n=len(runs))] if len(runs) > 1 else []
        values = {key: _values(runs, key) for key in (*_MODELS, *_SHARED)}
        told = [
            text("{name} {value}", name=text(key), value=join(different, " | "))
            for key, different in values.items()
            if different != [plain("?")]
        ]
        facts.append((plain(name), join([*count, *told])))
    facts += [(text("note"), line) for line in differing_facts(contexts)]
    first = contexts[against][0]
    facts += [(name, value) for name, value in first.facts if name.en == "versions of this page"]
    return dataclasses.replace(
        first,
        title=" / ".join(contexts),
        facts=tuple(facts),
        universe=_common({name: [plain(run.universe) for run in runs] for name, runs in contexts.items()}),
        costs=_common({name: [run.costs for run in runs] for name, runs in contexts.items()}),
    )


def differing_facts(contexts: Mapping[str, Sequence[Context]]) -> list[Text]:
    """Name the facts in which the runs differ and that make a comparison one of more than the models."""
    lines = []
    for name in _SHARED:
        values = {run: _values(of, name) for run, of in contexts.items()}
        if len({value for different in values.values() for value in different}) > 1:
            lines.append(text("the runs differ in {name}: {values}", name=text(name), values=_listed(values)))
    counts = {run: [plain(len(of))] for run, of in contexts.items()}
    if len({len(of) for of in contexts.values()}) > 1:
        lines.append(sentence("compare.unequal", values=_listed(counts)))
    for run, of in contexts.items():
        seeds = _values(of, "seeds")
        if len(seeds) < len(of):
            lines.append(sentence("compare.same_seed", run=run, n=len(of), values=join(seeds, " | ")))
    return lines


def _values(contexts: Sequence[Context], name: str) -> list[Text]:
    """Different values of a fact in some runs, each once; ? where a run does not tell it."""
    told = (next((value for key, value in context.facts if key.en == name), "?") for context in contexts)
    return list(dict.fromkeys(map(plain, told)))


def _listed(values: Mapping[str, Sequence[Text]]) -> Text:
    """List values by run, each of them once."""
    return join(
        [text("{run}: {value}", run=run, value=join(dict.fromkeys(of), " | ")) for run, of in values.items()], "; "
    )


def _common(values: Mapping[str, Sequence[Text]]) -> Text:
    """Give what all runs have in common, or a list of it by run."""
    every = {value for of in values.values() for value in of}
    return every.pop() if len(every) == 1 else _listed(values)
