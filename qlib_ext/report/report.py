"""The page of a run: `SECTIONS`, a row each, and those from outside; artifacts in, HTML out. Imports no qlib.

It opens offline, in English and Chinese. Numbers come from the artifacts as they are; every table keeps them exactly
in `data-v`, every chart as JSON. Needs plotly >= 6, whose library goes into the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from qlib_ext.report import score, trades
from qlib_ext.report.page import Artifacts, Context, Section, fill, page
from qlib_ext.report.score import DAILY, DEFINITIONS, DIAGNOSTICS, HEADLINE, MEMBERS
from qlib_ext.report.texts import text
from qlib_ext.report.trades import ACCOUNT, EXECUTION, TRADE_DEFINITIONS

SECTIONS = (  # key, title, artifacts it needs, function, artifacts it shows where they are
    Section(
        "headline", text("The deck's table"), (HEADLINE, DAILY), score.headline,
        (DEFINITIONS, DIAGNOSTICS, score.SELECTION),
    ),
    Section("returns", text("Cumulative return and drawdown"), (DAILY,), score.performance),
    Section(
        "folds", text("Folds"), (), score.folds,
        (score.FOLD_TABLE, score.FOLD_DEFINITIONS, score.FOLD_MAP, MEMBERS),
    ),
    Section(
        "waterfall", text("From paper to the account"), (trades.WATERFALL,), trades.waterfall,
        (ACCOUNT, TRADE_DEFINITIONS),
    ),
    Section(
        "capacity", text("Capacity"), (), trades.capacity,
        (trades.CAPACITY, trades.CAPACITY_TOPN, DAILY, DEFINITIONS),
    ),
    Section("ic", text("IC and RankIC"), (DAILY,), score.correlation, (DIAGNOSTICS, DEFINITIONS)),
    Section("quantiles", text("Returns by quantile of the score"), (score.QUANTILES,), score.quantiles),
    Section(
        "baselines", text("Free scores on the same days"), (score.BASELINES,), score.baselines,
        (score.BASELINE_DEFINITIONS,),
    ),
    Section("exposures", text("Exposures of the score"), (score.EXPOSURES,), score.exposures, (DEFINITIONS,)),
    Section("learning", text("Learning curves"), (score.LEARNING,), score.learning, (MEMBERS,)),
    Section("gate", text("What the gate selects"), (score.GATE_WEIGHTS,), score.gate, (score.GATE_REGIMES,)),
    Section(
        "holdings", text("Where the money went"), (trades.POSITIONS,), trades.holdings, (DAILY, trades.LABELS),
    ),
    Section("backtest", text("Backtest: account, turnover, costs"), (ACCOUNT,), trades.backtest),
    Section(
        "costs", text("Costs and participation"), (trades.FILLS,), trades.costs, (EXECUTION, TRADE_DEFINITIONS),
    ),
    Section(
        "blocked", text("What was blocked, and why"), (trades.BLOCKED,), trades.blocked,
        (trades.DELISTED, ACCOUNT, EXECUTION, TRADE_DEFINITIONS),
    ),
    Section("execution", text("Execution"), (EXECUTION,), trades.execution, (ACCOUNT, TRADE_DEFINITIONS)),
    Section("rules", text("Trading rules in force"), (trades.RULES,), trades.rules),
)  # fmt: skip


def sections_of(sections: Sequence[Any] = ()) -> tuple[Section, ...]:
    """Give `SECTIONS` and those of a user: Sections, or `{class, module_path, kwargs}` that makes one.

    Raises: ValueError where a section is neither, or where one of its key is there already.

    """
    every = list(SECTIONS)
    for section in sections:
        if isinstance(section, Mapping):
            section = _made_by(section)
        if not isinstance(section, Section):
            raise ValueError(f"sections: {section!r} is no qlib_ext.report.Section, nor what makes one")
        if section.key in [other.key for other in every]:
            raise ValueError(f"sections: there is a section {section.key!r} already: choose another key")
        every.append(section)
    return tuple(every)


def _made_by(config: Mapping[str, Any]) -> Any:
    try:
        maker = getattr(import_module(config["module_path"]), config["class"])
    except (KeyError, ImportError, AttributeError) as error:
        raise ValueError(
            f"sections: {dict(config)} is not found ({error!r}): give class, module_path, kwargs"
        ) from error
    return maker(**config.get("kwargs") or {})


def artifact_paths(sections: Sequence[Any] = ()) -> tuple[str, ...]:
    """Paths of the artifacts that the page of a run shows, with those of a user's sections."""
    paths = [path for section in sections_of(sections) for path in (*section.needs, *section.also)]
    return tuple(dict.fromkeys(paths))


def report_html(artifacts: Artifacts, context: Context, *, sections: Sequence[Any] = ()) -> str:
    """Write the page of a run.

    Args:
        artifacts: objects by path (`artifact_paths`), as the records wrote them; others are not looked at.
        context: title, facts of the header, universe, capital, costs.
        sections: below the others: Sections, or `{class, module_path, kwargs}` of what makes one.

    Returns:
        HTML that needs nothing outside it.

    Raises:
        ValueError: none of the artifacts is one that a section shows; what is given as a section is none.

    >>> import pandas as pd
    >>> days = pd.bdate_range("2022-01-04", periods=60)
    >>> quantiles = pd.DataFrame(0.001, days, range(1, 11))
    >>> html = report_html({"liquidity_analysis/quantiles.pkl": quantiles}, Context("my run"))
    >>> "<title>my run</title>" in html and "按得分分组的收益" in html
    True

    """
    filled = fill(sections_of(sections), artifacts, context)
    if not filled:
        raise ValueError(
            "the run has no artifact that the report shows; put LiquidityRecord (module_path qlib_ext.record) into the "
            f"workflow's `record`. It has: {', '.join(sorted(artifacts)) or 'none'}"
        )
    return page(context.title, text("Numbers of one run, as its records wrote them"), context.facts, filled)
