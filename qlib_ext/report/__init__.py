"""One self-contained HTML page of a run, or of several compared."""

from qlib_ext.report.compare import compare_html, compared_context, differing_facts, headlines
from qlib_ext.report.figures import FigureBuilder
from qlib_ext.report.page import Chart, Context, Section, columns_of, figures_of, table
from qlib_ext.report.report import SECTIONS, artifact_paths, report_html
from qlib_ext.report.summary import SUMMARY, SUMMARY_ARTIFACTS, Summary, summarise
from qlib_ext.report.texts import Text, money, plain, text, title

__all__ = [
    "Chart",
    "Context",
    "FigureBuilder",
    "SECTIONS",
    "SUMMARY",
    "SUMMARY_ARTIFACTS",
    "Section",
    "Summary",
    "Text",
    "artifact_paths",
    "columns_of",
    "compare_html",
    "compared_context",
    "differing_facts",
    "figures_of",
    "headlines",
    "money",
    "plain",
    "report_html",
    "summarise",
    "table",
    "text",
    "title",
]
