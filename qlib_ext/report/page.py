"""Pieces of a page: texts in two languages, tables that keep exact numbers, charts, sections. Private to `report`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

import pandas as pd

from qlib_ext.report.notes import NOTES_ZH
from qlib_ext.report.texts import KINDS, LABELS, SAID, ZH

if TYPE_CHECKING:
    import plotly.graph_objects as go

DASH = "–"


@dataclass(frozen=True)
class Text:
    """One text in English and Chinese."""

    en: str
    zh: str

    def html(self) -> str:
        """Both languages, of which the page's switch shows one."""
        if self.en == self.zh:
            return escape(self.en)
        return f'<span lang="en">{escape(self.en)}</span><span lang="zh">{escape(self.zh)}</span>'


def words(template: str, **values: Any) -> Text:
    """English text with its translation of `_report_words.ZH`; a value that is a Text is filled in by language."""
    english = {name: value.en if isinstance(value, Text) else value for name, value in values.items()}
    chinese = {name: value.zh if isinstance(value, Text) else value for name, value in values.items()}
    return Text(template.format(**english), ZH.get(template, template).format(**chinese))


def plain(value: Any) -> Text:
    """Text that is the same in both languages: a name, a code, a date."""
    return Text(str(value), str(value))


def said(text: str) -> Text:
    """Sentence that a record has stored, with its translation; one that `SAID` does not know stays as it is."""
    for template in SAID:
        parts = re.split(r"\{(\w+)\}", template)  # text, field, text, field, ..., text
        pattern = "".join(f"(?P<{part}>.+)" if place % 2 else re.escape(part) for place, part in enumerate(parts))
        found = re.fullmatch(pattern, text)
        if found:
            return words(template, **found.groupdict())
    return plain(text)


def label(key: str) -> Text:
    """Name of a column or metric by its key; an unknown key is shown as it is, in words."""
    sold = re.fullmatch(r"gone_(\d+)", str(key))
    if sold:
        return words("sold after {n} days (%)", n=sold[1])
    return words(LABELS[key]) if key in LABELS else plain(str(key).replace("_", " "))


def note(key: str, english: str, domain: str = "") -> Text:
    """Definition of a key in both languages; `domain`: whose it is, where the same key means several things.

    The keys of "gone_1, gone_2, ..." share one definition.
    """
    name = f"{domain}.{key}" if domain else key
    stem = name.rstrip("0123456789")
    shared = (zh for known, zh in NOTES_ZH.items() if stem != name and known.endswith(", ...") and stem in known)
    return Text(english, NOTES_ZH.get(name) or next(shared, said(english).zh))


# --- tables


@dataclass(frozen=True)
class Column:
    """A column of a table: its key in the frame, its title, how its cells are written, and what it means."""

    key: Any
    title: Text
    kind: str
    meaning: Text | None = None


def kind_of(key: Any, series: pd.Series) -> str:
    """How a column's cells are written: percent, number, ratio, count, yuan, bp, date or text."""
    if pd.api.types.is_datetime64_any_dtype(series):
        return "date"
    if not pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series):
        return "text"
    name = str(key)
    exact = next((kind for kind, names in KINDS.items() if name in names), None)
    if exact is not None:
        return exact
    for kind, endings in KINDS.items():
        if any(name.endswith(f"_{end}") or name.startswith(f"{end}_") for end in endings):
            return kind
    return "count" if pd.api.types.is_integer_dtype(series) else "number"


def columns_of(frame: pd.DataFrame, definitions: Mapping[str, str] | None = None, domain: str = "") -> list[Column]:
    """Describe every column of a frame; `definitions`: by key."""
    known = definitions or {}
    return [
        Column(key, label(str(key)), kind_of(key, frame[key]), note(key, known[key], domain) if key in known else None)
        for key in frame.columns
    ]


def cell(value: Any, kind: str) -> str:
    """One cell: the number as a person reads it, and exactly in `data-v`."""
    if kind in ("text", "date"):
        shown = str(value)[:10] if kind == "date" else value
        day = ' class="day"' if kind == "date" else ""
        return f"<td{day}>{shown.html() if isinstance(shown, Text) else escape(str(shown))}</td>"
    number = float(value)
    sign = ' class="minus"' if number < 0 else ""
    return f'<td data-v="{number!r}"{sign}>{written(number, kind)}</td>'


def written(number: float, kind: str) -> str:
    """Write a number with its unit."""
    if number == math.inf:
        return "∞"
    if not math.isfinite(number):
        return DASH
    forms: dict[str, Callable[[float], str]] = {
        "percent": lambda v: f"{v:,.2%}",
        "number": lambda v: f"{v:.4f}",
        "ratio": lambda v: f"{v:.2f}",
        "count": lambda v: f"{v:,.0f}" if v == round(v) else f"{v:,.1f}",
        "yuan": lambda v: f"{v:,.0f}",
        "bp": lambda v: f"{v:.1f}",
    }
    return forms[kind](number).replace("-", "−")


def table(
    frame: pd.DataFrame,
    columns: Sequence[Column],
    *,
    key: str,
    rows: Sequence[Text] | None = None,
    main: Iterable[Any] | None = None,
) -> str:
    """Write a table as HTML, its exact numbers in `data-v`, its rows and columns named by `data-row` and `data-col`.

    Args:
        frame: one row a line.
        columns: those shown, in order.
        key: name of the table in the page.
        rows: their titles; None: the index.
        main: index values that are always shown; the others hide behind a button. None: all are.

    """
    titles = [plain(name) for name in frame.index] if rows is None else list(rows)
    shown = None if main is None else set(main)
    head = "".join(_heading(column) for column in columns)
    body = []
    for place, (name, title) in enumerate(zip(frame.index, titles, strict=True)):
        more = ' class="more"' if shown is not None and name not in shown else ""
        cells = "".join(cell(frame[c.key].iloc[place], c.kind) for c in columns)
        body.append(f'<tr data-row="{escape(str(name))}"{more}><th scope="row">{title.html()}</th>{cells}</tr>')
    button = ""
    if shown is not None and any(name not in shown for name in frame.index):
        button = f'<button class="all" type="button">{words("Show all rows").html()}</button>'
    return _laid(key, head, body) + button + glossary(columns, words("What the columns mean"))


def across(frame: pd.DataFrame, columns: Sequence[Column], *, key: str, rows: Sequence[Text]) -> str:
    """Write it turned: a column of the frame is a line of the table, for frames with many columns and few rows."""
    head = "".join(
        f'<th scope="col" data-col="{escape(str(name))}">{title.html()}</th>'
        for name, title in zip(frame.index, rows, strict=True)
    )
    body = [
        f'<tr data-row="{escape(str(c.key))}"><th scope="row">{c.title.html()}</th>'
        f"{''.join(cell(value, c.kind) for value in frame[c.key])}</tr>"
        for c in columns
    ]
    return _laid(key, head, body) + glossary(columns, words("What the rows mean"))


def _heading(column: Column) -> str:
    hint = ""
    if column.meaning:
        hint = f' title="{escape(column.meaning.en)}" data-title-zh="{escape(column.meaning.zh)}"'
    return f'<th scope="col" data-col="{escape(str(column.key))}"{hint}>{column.title.html()}</th>'


def _laid(key: str, head: str, body: Sequence[str]) -> str:
    return (
        f'<div class="scroll"><table data-table="{escape(key)}"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def glossary(columns: Sequence[Column], title: Text) -> str:
    """Say what columns or rows mean, folded in; empty where none has a definition."""
    lines = "".join(f"<dt>{c.title.html()}</dt><dd>{c.meaning.html()}</dd>" for c in columns if c.meaning)
    return f"<details><summary>{title.html()}</summary><dl>{lines}</dl></details>" if lines else ""


def meanings(definitions: Mapping[str, str], keys: Iterable[str], domain: str = "") -> str:
    """Definitions of the rows of a table, folded in."""
    known = [Column(k, label(k), "text", note(k, definitions[k], domain)) for k in keys if k in definitions]
    return glossary(known, words("What the rows mean"))


# --- sections and the page


@dataclass(frozen=True)
class Chart:
    """A figure of the page; its texts are English, their translations stand in `layout.meta["zh"]`."""

    key: str
    figure: go.Figure
    caption: Text

    def html(self) -> str:
        """Place for the chart, its caption, and its numbers as JSON."""
        height = int(self.figure.layout.height or 360)
        return (
            f'<figure><div class="chart" id="chart-{self.key}" data-chart="{self.key}" style="min-height:{height}px">'
            f"</div><figcaption>{self.caption.html()}</figcaption></figure>"
            + embedded(f"json-{self.key}", json.loads(self.figure.to_json()))
        )


@dataclass(frozen=True)
class Section:
    """A part of the page: shown in the menu by its title; `scope` says which days, stocks and costs it is about."""

    key: str
    title: Text
    scope: Text
    parts: tuple[str | Chart, ...]

    def html(self) -> str:
        """Write the section with its heading."""
        inner = "".join(part.html() if isinstance(part, Chart) else part for part in self.parts)
        return (
            f'<section id="{self.key}"><h2>{self.title.html()}</h2><p class="scope">{self.scope.html()}</p>'
            f"{inner}</section>"
        )


def embedded(name: str, value: Any) -> str:
    """JSON inside the page, which no text in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def page(title: str, subtitle: Text, head: str, sections: Sequence[Section]) -> str:
    """Put sections into one HTML file that needs nothing outside it.

    Args:
        title: of the document; plain text.
        subtitle: below it.
        head: HTML between the title and the sections: the facts of the run.
        sections: in order.

    """
    from plotly.offline import get_plotlyjs

    assets = resources.files("qlib_ext.report") / "assets"
    style, script = ((assets / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    menu = "".join(f'<a href="#{s.key}">{s.title.html()}</a>' for s in sections)
    buttons = (
        '<button id="language" type="button" aria-label="language / 语言">中文</button>'
        f'<button id="theme" type="button">{words("dark / light").html()}</button>'
    )
    return (
        '<!doctype html><html lang="en" data-language="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style></head><body>'
        f'<header><div class="bar"><h1>{escape(title)}</h1><div class="buttons">{buttons}</div></div>'
        f'<p class="scope">{subtitle.html()}</p></header><nav>{menu}</nav><main>{head}'
        f"{''.join(section.html() for section in sections)}</main>"
        f'<script type="text/plain" id="plotly">{get_plotlyjs()}</script><script>{script}</script></body></html>'
    )
