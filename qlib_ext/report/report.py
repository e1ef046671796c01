"""One self-contained HTML page of a run: artifacts in, text out. It opens offline, in English and Chinese.

Sections appear when their artifacts exist. Numbers come from the artifacts as they are; every table keeps them exactly
in `data-v`, every chart as JSON. Needs plotly >= 6 (its library goes into the page); imports no qlib.
"""

from __future__ import annotations

from html import escape

from qlib_ext.report import holdings as _report_holdings
from qlib_ext.report import score as _report_sections
from qlib_ext.report import trades as _report_trades
from qlib_ext.report.page import Section, Text, page, said, words
from qlib_ext.report.score import Artifacts, Context

PATHS = (
    "label.pkl",
    *(
        f"liquidity_analysis/{name}.pkl"
        for name in (
            *("daily", "positions", "headline", "definitions", "diagnostics", "quantiles", "exposures", "selection"),
            *("capacity", "capacity_topn"),
        )
    ),
    "fold_analysis/headline_folds.pkl",
    "fold_analysis/definitions.pkl",
    *(f"folds/{name}.pkl" for name in ("curves", "fold_map", "members")),
    *(f"baselines/{name}.pkl" for name in ("baselines", "definitions")),
    *(
        f"portfolio_analysis/{name}.pkl"
        for name in (
            *("report_normal_1day", "blocked", "fills", "settled", "rules_citations", "waterfall", "execution"),
            "definitions",
        )
    ),
    *(f"gate/{name}.pkl" for name in ("weights", "regimes")),
)

_SECTIONS = (
    _report_sections.headline,
    _report_sections.performance,
    _report_sections.folds,
    _report_trades.waterfall,
    _report_trades.capacity,
    _report_sections.correlation,
    _report_sections.quantiles,
    _report_sections.baselines,
    _report_sections.exposures,
    _report_sections.learning,
    _report_sections.gate,
    _report_holdings.holdings,
    _report_trades.backtest,
    _report_trades.costs,
    _report_trades.blocked,
    _report_trades.execution,
    _report_trades.rules,
)


def sections(artifacts: Artifacts, context: Context) -> list[Section]:
    """Make the sections whose artifacts are there.

    Args:
        artifacts: objects by path (`PATHS`), as the records wrote them.
        context: what all numbers have in common.

    """
    made = (make(artifacts, context) for make in _SECTIONS)
    return [section for section in made if section is not None]


def report_html(artifacts: Artifacts, context: Context) -> str:
    """Write the page of a run.

    Args:
        artifacts: objects by path (`PATHS`), as the records wrote them; others are not looked at.
        context: title, facts of the header, universe, capital, costs.

    Returns:
        HTML that needs nothing outside it.

    Raises:
        ValueError: none of the artifacts is one that a section shows.

    """
    made = sections(artifacts, context)
    if not made:
        raise ValueError(
            "the run has no artifact that the report shows; put LiquidityRecord (module_path qlib_ext.record) into the "
            f"workflow's `record`. It has: {', '.join(sorted(artifacts)) or 'none'}"
        )
    return page(context.title, words("Numbers of one run, as its records wrote them"), facts(context.facts), made)


def facts(rows: tuple[tuple[Text, Text | str], ...]) -> str:
    """Write the facts of the header as a list of names and values."""
    lines = "".join(
        f'<div data-fact="{escape(name.en)}"><dt>{name.html()}</dt>'
        f"<dd>{(value if isinstance(value, Text) else said(value)).html()}</dd></div>"
        for name, value in rows
    )
    return f'<dl class="facts">{lines}</dl>' if lines else ""
