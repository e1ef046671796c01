"""The page of a run: `SECTIONS`, a row each, and those from outside; artifacts in, HTML out. Imports no qlib.

It opens offline, in English and Chinese. Numbers come from the artifacts as they are; every table keeps them exactly
in `data-v`, every chart as JSON. Needs plotly >= 6, whose library goes into the page.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from qlib_ext.report import score, tear_account, tear_score, trades
from qlib_ext.report.page import Context, Section, fill, html, page
from qlib_ext.report.summary import SUMMARY_ARTIFACTS, first_numbers, summarise
from qlib_ext.report.texts import sentence

DAILY = "liquidity_analysis/daily.pkl"
DEFINITIONS = "liquidity_analysis/definitions.pkl"
DIAGNOSTICS = "liquidity_analysis/diagnostics.pkl"
FOLDS = ("fold_analysis/headline_folds.pkl", "fold_analysis/definitions.pkl", "folds/fold_map.pkl", "folds/members.pkl")
CAPACITY = ("liquidity_analysis/capacity.pkl", "liquidity_analysis/capacity_topn.pkl")
STRATEGY_CAPACITY = "portfolio_analysis/capacity_strategy.pkl"
ACCOUNT = "portfolio_analysis/report_normal_1day.pkl"
EXECUTION = ("portfolio_analysis/execution.pkl", "portfolio_analysis/definitions.pkl")
SETTLED = "portfolio_analysis/settled.pkl"
TEAR_ACCOUNT = "portfolio_analysis/tear_account.pkl"
TEAR_SCORE = "liquidity_analysis/tear_score.pkl"

SECTIONS = (  # key (its title stands in zh.yaml), artifacts it needs, function, artifacts it shows where they are
    Section(
        "headline", ("liquidity_analysis/headline.pkl", DAILY), score.headline,
        (DEFINITIONS, "liquidity_analysis/selection.pkl"),
    ),
    Section("returns", (DAILY,), score.performance),
    Section("folds", (), score.folds, FOLDS),
    Section(
        "account", ("portfolio_analysis/account.pkl",), trades.beside_the_mean,
        ("portfolio_analysis/account_daily.pkl", EXECUTION[1]),
    ),
    Section("months", (TEAR_ACCOUNT,), tear_account.months, EXECUTION[1:]),
    Section("drawdowns", (TEAR_ACCOUNT,), tear_account.drawdowns, EXECUTION[1:]),
    Section("ratios", (TEAR_ACCOUNT,), tear_account.ratios, EXECUTION[1:]),
    Section("waterfall", ("portfolio_analysis/waterfall.pkl",), trades.waterfall, (ACCOUNT, EXECUTION[1])),
    Section("capacity", (), trades.capacity, (*CAPACITY, DAILY, DEFINITIONS, STRATEGY_CAPACITY, EXECUTION[1])),
    Section("ic", (DAILY,), score.correlation, (DIAGNOSTICS, DEFINITIONS)),
    Section("lags", ("liquidity_analysis/lags.pkl",), score.lags, ("liquidity_analysis/decay.pkl", DEFINITIONS, DAILY)),
    Section("horizons", (TEAR_SCORE,), tear_score.horizons, (DEFINITIONS, DAILY, TEAR_ACCOUNT)),
    Section("groups", (TEAR_SCORE,), tear_score.groups, (DEFINITIONS, DAILY)),
    Section("forecast", ("forecast.json",), score.forecast),
    Section("quantiles", ("liquidity_analysis/quantiles.pkl",), score.quantiles),
    Section("baselines", ("baselines/baselines.pkl",), score.baselines, ("baselines/definitions.pkl",)),
    Section("exposures", ("liquidity_analysis/exposures.pkl",), score.exposures, (DEFINITIONS,)),
    Section("ensemble", ("ensemble/members.pkl",), score.ensemble, ("ensemble/correlations.pkl",)),
    Section("learning", ("folds/curves.pkl",), score.learning, ("folds/members.pkl",)),
    Section("gate", ("gate/weights.pkl",), score.gate, ("gate/regimes.pkl",)),
    Section("holdings", ("liquidity_analysis/positions.pkl",), trades.holdings, (DAILY, "label.pkl")),
    Section("backtest", (ACCOUNT,), trades.backtest),
    Section("costs", ("portfolio_analysis/fills.pkl",), trades.costs, EXECUTION),
    Section("blocked", ("portfolio_analysis/blocked.pkl",), trades.blocked, (SETTLED, ACCOUNT, *EXECUTION)),
    Section("execution", EXECUTION[:1], trades.execution, (ACCOUNT, EXECUTION[1])),
    Section("rules", ("portfolio_analysis/rules_citations.pkl",), trades.rules),
)  # fmt: skip


def sections_of(sections: Sequence[Any] = ()) -> tuple[Section, ...]:
    """Give `SECTIONS` and those of a user: Sections, or `{class, module_path, kwargs}` of what makes one.

    Raises: ValueError where one is neither, cannot be made, or has the key of another.
    """
    every = list(SECTIONS)
    for each in sections:
        section = _made_by(each) if isinstance(each, Mapping) else each
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
    """Paths of the artifacts that the page of a run shows, with those of its first screen and of a user's sections."""
    paths = [path for section in sections_of(sections) for path in (*section.needs, *section.also)]
    return tuple(dict.fromkeys((*SUMMARY_ARTIFACTS, *paths)))


def report_html(artifacts: Mapping[str, Any], context: Context, *, sections: Sequence[Any] = ()) -> str:
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
    summary = summarise(artifacts, context)
    return page(context, sentence("page.run"), filled, html("first", summary, first_numbers(summary, context)))
