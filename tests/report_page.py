"""Read a page of `qlib_ext.report` back: tables by their `data-` attributes, charts from their JSON."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import numpy as np


class _Tables(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tables, self.cards, self.rows, self.columns, self.row = {}, {}, {}, [], None

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "table" and "data-table" in given:
            self.columns, self.rows = [], {}
            self.tables[given["data-table"]] = self.rows
        elif tag == "th" and "data-col" in given:
            self.columns.append(given["data-col"])
        elif tag == "tr" and "data-row" in given:
            self.row = self.rows.setdefault(given["data-row"], {})
        elif tag == "td" and self.row is not None:
            value = given.get("data-v")
            self.row[self.columns[len(self.row)]] = None if value is None else float(value)
        elif "data-card" in given:
            self.cards[given["data-card"]] = float(given["data-v"])


def tables(html):
    """Tables of a page: {table: {row: {column: number, or None for text}}}."""
    reader = _Tables()
    reader.feed(re.sub(r"<script.*?</script>", "", html, flags=re.S))
    return reader.tables


def cards(html):
    """Numbers of the cards: {key: number}."""
    reader = _Tables()
    reader.feed(re.sub(r"<script.*?</script>", "", html, flags=re.S))
    return reader.cards


def embedded(html, name):
    """JSON of the page under a name."""
    packed = re.search(rf'<script type="application/gzip" id="{name}">(.*?)</script>', html, re.S)
    if packed:
        return json.loads(gzip.decompress(base64.b64decode(packed[1])))
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.S)[1])


def chart(html, key):
    """Traces of a chart by name, the first of each name: {name: (x, y)}."""
    found = {}
    for trace in embedded(html, f"json-{key}")["data"]:
        found.setdefault(trace.get("name", ""), (_array(trace["x"]), _array(trace["y"])))
    return found


def visible_text(html, language):
    """What a person reads in a language, tags and numbers left out."""
    other = "zh" if language == "en" else "en"
    text = re.sub(r"<(script|style).*?</\1>", " ", html, flags=re.S)
    text = re.sub(rf'<span lang="{other}">.*?</span>', " ", text, flags=re.S)
    return re.sub(r"[−\d.,%]+", "#", re.sub(r"<[^>]+>", " ", text))


def _array(value):
    if isinstance(value, dict):
        return np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
    return np.array(value, dtype=object) if value and isinstance(value[0], str) else np.array(value, dtype=float)
