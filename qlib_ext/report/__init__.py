"""One self-contained HTML page of a run, or of several compared."""

from qlib_ext.report.compare import compare_html, headlines
from qlib_ext.report.fold_map import COLOURS, draw_fold_map
from qlib_ext.report.holdings import packed_holdings
from qlib_ext.report.page import Chart, Text, cell, embedded, kind_of, note, plain, said, words
from qlib_ext.report.report import PATHS, report_html, sections
from qlib_ext.report.score import Artifacts, Context, series_words
from qlib_ext.report.trades import SETTLED

__all__ = [
    "Artifacts",
    "COLOURS",
    "Chart",
    "Context",
    "PATHS",
    "SETTLED",
    "Text",
    "cell",
    "compare_html",
    "draw_fold_map",
    "embedded",
    "headlines",
    "kind_of",
    "note",
    "packed_holdings",
    "plain",
    "report_html",
    "said",
    "sections",
    "series_words",
    "words",
]
