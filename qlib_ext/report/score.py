"""What a score is worth: artifacts of the run become sections of the page.

Every function takes the artifacts by path, those that its row of `SECTIONS` names, and the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from qlib_ext.report import figures
from qlib_ext.report.page import (
    Artifacts,
    Chart,
    Column,
    Content,
    Context,
    across,
    columns_of,
    glossary,
    meanings_of,
    part,
    table,
)
from qlib_ext.report.texts import Text, plain, recorded, series_title, text, title

DAILY = "liquidity_analysis/daily.pkl"
HEADLINE = "liquidity_analysis/headline.pkl"
DEFINITIONS = "liquidity_analysis/definitions.pkl"
DIAGNOSTICS = "liquidity_analysis/diagnostics.pkl"
QUANTILES = "liquidity_analysis/quantiles.pkl"
EXPOSURES = "liquidity_analysis/exposures.pkl"
SELECTION = "liquidity_analysis/selection.pkl"
FOLD_TABLE = "fold_analysis/headline_folds.pkl"
FOLD_DEFINITIONS = "fold_analysis/definitions.pkl"
FOLD_MAP = "folds/fold_map.pkl"
LEARNING = "folds/curves.pkl"
MEMBERS = "folds/members.pkl"
BASELINES = "baselines/baselines.pkl"
BASELINE_DEFINITIONS = "baselines/definitions.pkl"
GATE_WEIGHTS = "gate/weights.pkl"
GATE_REGIMES = "gate/regimes.pkl"

CURVES = ("capped_buyable_gross", "capped_buyable_net", "capped_buyable_net_impact", "capped_buyable_net_over_market")


def headline(artifacts: Artifacts, context: Context) -> Content:
    """Show the deck's table, and the cards above it."""
    frame, daily = artifacts[HEADLINE], artifacts[DAILY]
    meanings, days = meanings_of(artifacts.get(DEFINITIONS, {})), judged_days(daily)
    parts: list[Any] = [_cards(artifacts)]
    if SELECTION in artifacts:
        first, last = (str(day)[:10] for day in (days.min(), days.max()))
        chosen = recorded(str(artifacts[SELECTION]), first=first, last=last)
        parts.append(part("paragraph", Markup("{}: {}").format(title("selected"), chosen)))
    names = [str(name) for name in frame.index]
    main = [name for name in names if name.startswith("capped_buyable") or name in ("market", context.benchmark)]
    rows = [series_title(name) for name in names]
    parts.append(table(frame, columns_of(frame, meanings), key="headline", rows=rows, main=main))
    parts.append(glossary(meanings, ("gross", "net", "net_impact", "net_over_market")))
    return context.scope(days, context.costs), parts


def judged_days(daily: pd.DataFrame) -> pd.Index:
    """Days whose outcome is known, which the money's numbers are over."""
    return daily["capped_buyable_gross"].dropna().index if "capped_buyable_gross" in daily else daily.index


def _cards(artifacts: Artifacts) -> Markup:
    """Show the numbers to look at first, each with what it is."""
    frame, daily, quality = artifacts[HEADLINE], artifacts[DAILY], artifacts.get(DIAGNOSTICS)
    cards: list[tuple[str, str, float, str, Text]] = []  # key of the title, key, value, kind, remark
    for key in ("ic", "rank_ic"):
        if quality is not None and key in quality.index:
            remark = text("± {error:.4f} (Newey-West)", error=float(quality["standard_error"][key]))
            cards.append((key, f"{key}.value", float(quality["value"][key]), "number", remark))
    for series in (*CURVES, "market"):
        if series in frame.index:
            value = float(frame["annual_return"][series])
            cards.append(("annual_return", series, value, "percent", series_title(series)))
    if "capped_buyable_net" in frame.index:
        fall = float(frame["max_drawdown"]["capped_buyable_net"])
        cards.append(("max_drawdown", "max_drawdown", fall, "percent", series_title("capped_buyable_net")))
    kinds = {"capped_cash_share": "percent", "capped_names_held": "count", "volatility_exposure": "ratio"}
    for key, kind in kinds.items():
        if key in daily:
            cards.append((key, key, float(daily[key].mean()), kind, text("mean over days")))
    names = ("title", "key", "value", "kind", "remark")
    return part("cards", [dict(zip(names, (title(first), *rest), strict=True)) for first, *rest in cards])


def performance(artifacts: Artifacts, context: Context) -> Content | None:
    """Cumulative return and drawdown."""
    daily = artifacts[DAILY]
    if "capped_buyable_gross" not in daily:
        return None
    money = daily.dropna(subset=["capped_buyable_gross"])
    more = [name for name in money if str(name).startswith("capped_buyable")]
    first = (*CURVES, "market", context.benchmark)
    keys = [key for key in dict.fromkeys([*first, *more, "capped_paper_gross"]) if key in money]
    figure = figures.curves({key: money[key] for key in keys}, {key: series_title(key) for key in keys}, first)
    caption = text(
        "Daily returns compounded, cash earns 0; a difference to a market or index is compounded from daily "
        "differences. Below: the fall from the highest point so far, the start included. Click a name to show "
        "or hide it; drag to zoom."
    )
    return context.scope(money.index, context.costs), [Chart("returns", figure, caption)]


def correlation(artifacts: Artifacts, context: Context) -> Content | None:
    """Daily and monthly IC and the diagnostics' table."""
    daily, quality = artifacts[DAILY], artifacts.get(DIAGNOSTICS)
    if "ic" not in daily or "rank_ic" not in daily:
        return None
    days = daily.dropna(subset=["ic"])
    by_day = text("Correlation of score and label across the day's stocks.")
    by_month = text("Error bars: standard deviation / sqrt(days).")
    parts: list[Any] = [
        Chart("ic-daily", figures.daily_correlation(days), by_day),
        Chart("ic-monthly", figures.monthly_correlation(days), by_month),
    ]
    if quality is not None:
        meanings = meanings_of(artifacts.get(DEFINITIONS, {}))
        rows = [title(name) for name in quality.index]
        parts.append(table(quality, columns_of(quality, meanings), key="diagnostics", rows=rows))
        parts.append(glossary(meanings, quality.index))
    return context.scope(days.index, text("no costs")), parts


def quantiles(artifacts: Artifacts, context: Context) -> Content:
    """Mean label by quantile of the score."""
    frame, horizon = artifacts[QUANTILES].dropna(how="all"), context.horizon or 1
    mean = text("Mean label by quantile of the score; error bars: Newey-West standard error of the mean over days.")
    total = text("Equal weight within a quantile, no caps; sums, not compounded.")
    if context.horizon is None:
        mean = text(
            "Mean label by quantile of the score; error bars: Newey-West standard error, the label's days, not "
            "recorded, taken as 1."
        )
        total = text(
            "Equal weight within a quantile, no caps; sums, not compounded; the label's days, not recorded, taken as 1."
        )
    if horizon > 1:
        total = text(
            "Equal weight within a quantile, no caps; sums, not compounded, of label / {n}, as labels of {n} days "
            "overlap.",
            n=horizon,
        )
    charts = [
        Chart("quantile-means", figures.quantile_means(frame, horizon), mean),
        Chart("quantile-curves", figures.quantile_curves(frame, horizon), total),
    ]
    return context.scope(frame.index, text("no costs, no caps")), charts


def exposures(artifacts: Artifacts, context: Context) -> Content:
    """Rank correlation of the score with known factors."""
    frame, meanings = artifacts[EXPOSURES], meanings_of(artifacts.get(DEFINITIONS, {}))
    sums = pd.DataFrame({"mean": frame.mean(), "standard_deviation": frame.std(), "days": frame.notna().sum()})
    factors = [f"exposure.{name}" for name in frame.columns]
    caption = text("Rank correlation of score and factor across the day's stocks: what the score is a bet on.")
    return context.scope(frame.index, text("no costs")), [
        Chart("exposures", figures.exposure_lines(frame), caption),
        table(sums, key="exposures", rows=[title(factor) for factor in factors]),
        glossary(meanings, factors),
    ]


def learning(artifacts: Artifacts, context: Context) -> Content | None:
    """Learning curves of every member."""
    frame, members = artifacts[LEARNING], artifacts.get(MEMBERS)
    if frame.empty:
        return None
    metric = dict((name.en, plain(value).en) for name, value in context.facts).get("metric", "")
    if members is not None:
        metric = str(members["metric"].iloc[0])
    spare = frame.columns.drop(["fold", "seed", "epoch", "train_loss", "valid_loss"], errors="ignore")
    metric = next(name for name in (metric, "capped_excess", "rank_ic", "ic", *spare) if name in frame)
    caption = text(
        "A colour and a dash a member. Thin: training loss, thick: validation loss; below: the metric on validation "
        "days; star: its best epoch."
    )
    parts: list[Any] = [Chart("learning", figures.learning(frame, metric), caption)]
    if members is not None:
        names = [f"{fold} / {seed}" for fold, seed in zip(members["fold"], members["seed"], strict=True)]
        parts.append(table(members.drop(columns=["fold", "seed"]).set_axis(names), key="members"))
    count = len(frame[["fold", "seed"]].drop_duplicates())
    return text("{n} members; in training and on their validation days; no costs", n=count), parts


def folds(artifacts: Artifacts, context: Context) -> Content | None:
    """Show the deck's table by fold, and what each day was used for."""
    frame, fold_map, members = (artifacts.get(path) for path in (FOLD_TABLE, FOLD_MAP, MEMBERS))
    parts: list[Any] = []
    days: Any = []
    if frame is not None:
        days = frame[["first", "last"]].to_numpy().ravel()
        definitions = artifacts.get(FOLD_DEFINITIONS, {})
        if "selected" in frame:
            metric = "" if members is None else ", ".join(sorted(set(members["metric"].astype(str))))
            frame = frame.assign(selected=[recorded(str(chosen), metric=metric) for chosen in frame["selected"]])
        rows = [text("fold {fold}", fold=name[5:]) if name.startswith("fold ") else title(name) for name in frame.index]
        parts.append(across(frame, _money_columns(frame, definitions), key="folds", rows=rows))
        explained = ("gross", "net", "net_over_market", "mean over folds")
        parts.append(glossary(meanings_of(definitions), explained))
    if fold_map is not None:
        days = fold_map["day"]
        caption = text("Training, gap, validation and test days of each fold; a thin gap may be narrower than a pixel.")
        if not fold_map.empty:
            parts.insert(0, Chart("folds", figures.folds(fold_map), caption))
    scope = context.scope(days, context.costs, counted=fold_map is not None)
    return (scope, parts) if artifacts else None


def _money_columns(frame: pd.DataFrame, definitions: Mapping[str, str]) -> list[Column]:
    """Columns of `record.table_row`: a number of a series, such as net_sharpe, is defined as the number is."""
    meanings = meanings_of(definitions)
    for key in map(str, frame.columns):
        for series in ("gross_", "net_", "net_over_market_"):
            number = key.removeprefix(series)
            if number != key and number in definitions:
                meanings[key] = meanings[number]
    return columns_of(frame, meanings)


def baselines(artifacts: Artifacts, context: Context) -> Content:
    """Free scores on the same days through the same judge."""
    frame = artifacts[BASELINES]
    columns = _money_columns(frame, artifacts.get(BASELINE_DEFINITIONS, {}))
    listed = across(frame, columns, key="baselines", rows=[title(name) for name in frame.index])
    days = frame[["first", "last"]].to_numpy().ravel()  # their numbers stand in the table
    return context.scope(days, context.costs, counted=False), [listed]


def gate(artifacts: Artifacts, context: Context) -> Content | None:
    """Show what the market gate selects."""
    weights, regimes = artifacts[GATE_WEIGHTS], artifacts.get(GATE_REGIMES)
    if weights.empty:
        return None
    caption = text("The features whose weight is furthest from 1 on average; 1: as a network without the gate has it.")
    frame = pd.DataFrame(
        {"mean": weights.mean(), "standard_deviation": weights.std(), "min": weights.min(), "max": weights.max()}
    )
    order = (weights - 1.0).abs().mean().sort_values(ascending=False).index
    frame = frame.loc[order].rename(index=str)
    if regimes is not None and "moved_by" in regimes:
        frame = frame.join(regimes.rename(index=str)[["moved_by", "correlation", "low", "high"]])
    columns = columns_of(frame, _REGIME_MEANINGS, "gate", low="number", high="number")
    scope = context.scope(weights.index, text("{n} features", n=weights.shape[1]))
    listed = table(frame, columns, key="gate", main=list(frame.index[:10]))
    return scope, [Chart("gate", figures.gate(weights), caption), listed]


_REGIME_MEANINGS = {  # columns of `record.regimes`: which market feature each weight follows
    "moved_by": text("The market feature whose rank correlation with the weight, over these days, is largest."),
    "correlation": text("That rank correlation; described on the days it was chosen on, so no test."),
    "low": text("Mean weight on the third of the days on which that market feature is lowest."),
    "high": text("Mean weight on the third of the days on which that market feature is highest."),
}
