"""Pieces of a page: tables that keep exact numbers, charts, sections. The HTML stands in `assets/*.html` (jinja2)."""

from __future__ import annotations

import gzip
import json
import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from qlib_ext.evaluate import DAYS_A_YEAR
from qlib_ext.report.texts import Text, definition, join, money, plain, sentence, text, title

if TYPE_CHECKING:
    import plotly.graph_objects as go

_KINDS = {  # how columns of these names are written, and those with one of them at an edge of theirs, the first first
    name: kind
    for kind, names in {
        "count": "days names names_held unreached_names count cuts trades stocks fold seed n_train n_valid n_test "
        "best_epoch shares",
        "ratio": "sharpe deck_ratio sharpe_arithmetic t volatility_exposure",
        "bp": "bp",
        "money": "falls_at rises_at falls_at_2 rises_at_2",
        "yuan": "yuan wanted dealt cut cost commission transfer stamp_duty impact lost target buy sell",
        "percent": "annual_volatility max_drawdown daily_excess_error share participation cash gone low high one_way "
        "two_way unknown unreached held turnover empty largest",
        "gain": "return annual annual_return_arithmetic cumulative gross net net_impact excess change difference "
        "over_all",
    }.items()
    for name in names.split()
}
_FORMS = {"percent": ",.2%", "gain": ",.2%", "number": ".4f", "ratio": ".2f", "yuan": ",.0f", "bp": ".1f"}


def written(number: float, kind: str) -> str | Text:
    """Write a number with its unit: percent, gain (a return), number, ratio, count, yuan, bp (basis points), money."""
    if not math.isfinite(number):
        return "∞" if number == math.inf else "–"
    if kind == "money":
        return money(number)
    count = ",.0f" if number == round(number) else ",.1f"
    return format(number, _FORMS.get(kind, count)).replace("-", "−")


def _asset(name: str) -> Markup:
    """Style or script, which the page holds as it is."""
    return Markup((resources.files("qlib_ext.report") / "assets" / name).read_text(encoding="utf-8"))


def gzipped(content: str) -> Markup:
    """Text as the page holds what is long: compressed, in base64."""
    return Markup(b64encode(gzip.compress(content.encode(), mtime=0)).decode())


@cache
def _plotly() -> Markup:
    from plotly.offline import get_plotlyjs

    return gzipped(get_plotlyjs())


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("qlib_ext.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"text": text, "sentence": sentence, "written": written, "asset": _asset, "gzipped": gzipped}
    templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return templates


def html(macro: str, *values: Any) -> Markup:
    """HTML of a macro of `assets/parts.html`: what it is given is escaped."""
    return Markup(getattr(_templates().get_template("parts.html").module, macro)(*values))


# --- tables


@dataclass(frozen=True)
class Column:
    """A column of a table: its key in the frame, its title, how its cells are written, and what it means."""

    key: Any
    title: Text
    kind: str
    meaning: Text | None = None


def kind_of(key: Any, series: pd.Series) -> str:
    """How a column's cells are written: a kind of `written`, date or text."""
    if pd.api.types.is_datetime64_any_dtype(series):
        return "date"
    if not pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series):
        return "text"
    name = str(key)
    edges = (kind for end, kind in _KINDS.items() if name.endswith(f"_{end}") or name.startswith(f"{end}_"))
    return _KINDS.get(name) or next(edges, "count" if pd.api.types.is_integer_dtype(series) else "number")


def columns_of(
    frame: pd.DataFrame, meanings: Mapping[str, Text] | None = None, table: str = "", **kinds: str
) -> list[Column]:
    """Describe every column of a frame.

    Args:
        frame: of the table.
        meanings: of the columns, by key.
        table: whose own titles come first (see `title`).
        kinds: of columns by key, where `kind_of` would guess wrong.
    """
    every = meanings or {}
    return [
        Column(key, title(key, table), kinds.get(str(key)) or kind_of(key, frame[key]), every.get(str(key)))
        for key in frame.columns
    ]


def meanings_of(definitions: Mapping[str, str] | None, table: str = "") -> dict[str, Text]:
    """Definitions of an artifact with their Chinese, of a table's own keys where it is named."""
    return {key: definition(key, english, table) for key, english in (definitions or {}).items()}


def table(
    frame: pd.DataFrame,
    columns: Sequence[Column] | None = None,
    *,
    key: str,
    rows: Sequence[Text] | None = None,
    main: Iterable[Any] | None = None,
) -> Markup:
    """Write a table as HTML, its exact numbers in `data-v`, its rows and columns named by `data-row` and `data-col`.

    Args:
        frame: one row a line.
        columns: those shown, in order; None: all.
        key: name of the table in the page.
        rows: their titles; None: the index.
        main: index values that are always shown; the others hide behind a button. None: all are.
    """
    heads = columns_of(frame) if columns is None else columns
    shown = frame.index if main is None else set(main)
    values = [list(frame[column.key]) for column in heads]
    lines = [
        {
            "key": name,
            "title": row,
            "more": name not in shown,
            "cells": [(column[place], head.kind) for column, head in zip(values, heads, strict=True)],
        }
        for place, (name, row) in enumerate(zip(frame.index, rows or map(plain, frame.index), strict=True))
    ]
    return html("table", key, heads, lines)


def across(frame: pd.DataFrame, columns: Sequence[Column], *, key: str, rows: Sequence[Text]) -> Markup:
    """Write it turned: a column of the frame is a line of the table, for frames with many columns and few rows."""
    heads = [Column(name, row, "text") for name, row in zip(frame.index, rows, strict=True)]
    lines = [vars(c) | {"more": False, "cells": [(value, c.kind) for value in frame[c.key]]} for c in columns]
    return html("across", key, heads, lines)


def glossary(meanings: Mapping[str, Text], keys: Iterable[Any], table: str = "") -> Markup:
    """Definitions of the rows of a table, folded in; empty where none has one."""
    entries = [Column(key, title(key, table), "text", meanings.get(str(key))) for key in keys]
    return html("glossary", entries, text("What the rows mean"))


# --- sections and the page


@dataclass(frozen=True)
class Chart:
    """A figure of the page; its texts are English, their translations stand in `layout.meta["zh"]`."""

    key: str
    figure: go.Figure
    caption: Text

    def __html__(self) -> str:
        """Place for the chart, its caption, and its numbers as JSON."""
        height = int(self.figure.layout.height or 360)
        return html("chart", self.key, height, self.caption, json.loads(self.figure.to_json()))


@dataclass(frozen=True)
class Context:
    """What the numbers of a page have in common.

    Attributes:
        title: of the page: the experiment, or the run's name.
        facts: (name, value) rows of the header; a value is a text in both languages, or plain.
        universe: name of the stock universe, such as "csi300".
        capital: yuan placed each day, None where not known.
        costs: what "net" and "net of impact" charge.
        benchmark: code of the index, or None.
        horizon: days of the label, None where not known.
        year: trading days of a year.
        names: of stocks, by code.
    """

    title: str
    facts: tuple[tuple[Text, Text | str], ...] = ()
    universe: Text | str = "?"
    capital: float | None = None
    costs: Text = field(default_factory=lambda: text("costs are not known"))
    benchmark: str | None = None
    horizon: int | None = None
    year: float = DAYS_A_YEAR
    names: Mapping[str, str] = field(default_factory=dict)

    def scope(self, index: Any, remark: Text | None = None, *, counted: bool = True) -> Text:
        """Days, their number where they are `counted`, universe and a remark, for the line below a heading."""
        days = pd.DatetimeIndex(index)
        fields = {"n": len(days.unique()), "universe": self.universe}
        if not len(days):
            scope = text("no days; universe: {universe}", **fields)
        else:
            fields |= {"first": str(days.min())[:10], "last": str(days.max())[:10]}
            with_number = "{n} days, {first} to {last}; universe: {universe}"
            scope = text(with_number if counted else "{first} to {last}; universe: {universe}", **fields)
        return scope if remark is None else join([scope, remark], "; ")


Content = tuple[Text, Sequence[Any]]  # days, stocks and costs that a section is about; its parts: Charts and HTML


@dataclass(frozen=True)
class Section:
    """A section of the page: a row of `SECTIONS`, or one from outside, `{class, module_path, kwargs}`.

    Attributes:
        key: its name in the page.
        needs: paths of the artifacts without which it does not appear.
        content: makes it of the page's context, the artifacts of `needs`, and those of `also` (None where they are
            not there); None where there is nothing to show.
        also: paths of the artifacts that it shows where they are.
        title: in the menu and above it; None: of `zh.yaml`.
    """

    key: str
    needs: tuple[str, ...]
    content: Callable[..., Content | None]
    also: tuple[str, ...] = ()
    title: Text | None = None


def fill(sections: Iterable[Section], artifacts: Mapping[str, Any], context: Context) -> list[dict[str, Any]]:
    """Make the sections whose artifacts are there."""
    filled = []
    for section in sections:
        needed, also = ([artifacts.get(path) for path in paths] for paths in (section.needs, section.also))
        if all(artifact is not None for artifact in needed) and (content := section.content(context, *needed, *also)):
            name = section.title or title(section.key, "section")
            filled.append({"key": section.key, "title": name, "scope": content[0], "parts": content[1]})
    return filled


def figures_of(section: Section, artifacts: Mapping[str, Any], context: Context) -> dict[str, go.Figure]:
    """Draw the charts of a section by their keys; none where its artifacts are not there, or it has only tables."""
    parts = [part for filled in fill([section], artifacts, context) for part in filled["parts"]]
    return {part.key: part.figure for part in parts if isinstance(part, Chart)}


def page(context: Context, subtitle: Text, sections: Sequence[Mapping[str, Any]], first: Markup | None = None) -> str:
    """Put the facts of the context and sections (of `fill`) into one HTML file that needs nothing outside it.

    `first` is its first screen, the facts then stand last.
    """
    fields = {
        "title": context.title,
        "facts": context.facts,
        "subtitle": subtitle,
        "sections": sections,
        "first": first,
    }
    return _templates().get_template("page.html").render(fields, plotly=_plotly())
