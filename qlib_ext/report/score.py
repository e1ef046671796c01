"""What a score is worth: artifacts of the run become sections of the page. Private to `report`.

Every function takes the artifacts by path and the context; it gives a section, or None without its artifacts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from qlib_ext.report import figures
from qlib_ext.report.page import (
    Chart,
    Column,
    Section,
    Text,
    across,
    columns_of,
    kind_of,
    label,
    meanings,
    note,
    plain,
    said,
    table,
    words,
    written,
)

Artifacts = Mapping[str, Any]

MONEY = "liquidity_analysis/"
CURVES = ("capped_buyable_gross", "capped_buyable_net", "capped_buyable_net_impact", "capped_buyable_net_over_market")


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

    """

    title: str
    facts: tuple[tuple[Text, Text | str], ...] = ()
    universe: str = "?"
    capital: float | None = None
    costs: Text = field(default_factory=lambda: words("costs are not known"))
    benchmark: str | None = None
    horizon: int | None = None

    def scope(self, index: Any, extra: Text | None = None) -> Text:
        """Days, universe and a remark, for the line below a heading."""
        days = pd.DatetimeIndex(index)
        universe = said(self.universe)
        text = words("no days; universe: {universe}", universe=universe)
        if len(days):
            text = words(
                "{n} days, {first} to {last}; universe: {universe}",
                n=len(days.unique()), first=str(days.min())[:10], last=str(days.max())[:10], universe=universe,
            )  # fmt: skip
        return text if extra is None else Text(f"{text.en}; {extra.en}", f"{text.zh}；{extra.zh}")


def series_words(name: str) -> Text:
    """Say in words what a series of `judge` is, such as capped_buyable_net_over_market."""
    body, _, base = name.partition("_over_")
    kind, _, rest = body.partition("_")
    basis, _, money = rest.partition("_")
    if kind not in ("capped", "topn") or basis not in ("buyable", "paper"):
        return words("universe mean") if name == "market" else plain(name)
    parts = [label(kind), label(basis), label(f"money.{money}")]
    if base:
        parts.append(words("less the universe mean") if base == "market" else words("less {base}", base=base))
    return Text(", ".join(part.en for part in parts), "，".join(part.zh for part in parts))


def headline(artifacts: Artifacts, context: Context) -> Section | None:
    """Show the deck's table, and the cards above it."""
    frame, daily = artifacts.get(f"{MONEY}headline.pkl"), artifacts.get(f"{MONEY}daily.pkl")
    if frame is None or daily is None:
        return None
    known = artifacts.get(f"{MONEY}definitions.pkl", {})
    main = [
        name for name in frame.index if str(name).startswith("capped_buyable") or name in ("market", context.benchmark)
    ]
    parts: list[str | Chart] = [_cards(artifacts, frame, daily)]
    if f"{MONEY}selection.pkl" in artifacts:
        parts.append(f"<p>{label('selected').html()}: {said(str(artifacts[f'{MONEY}selection.pkl'])).html()}</p>")
    rows = [series_words(str(name)) for name in frame.index]
    parts.append(table(frame, columns_of(frame, known), key="headline", rows=rows, main=main))
    parts.append(meanings(known, ("gross", "net", "net_impact", "net_over_market")))
    scope = context.scope(judged_days(daily), context.costs)
    return Section("headline", words("The deck's table"), scope, tuple(parts))


def judged_days(daily: pd.DataFrame) -> pd.Index:
    """Days whose outcome is known, which the money's numbers are over."""
    return daily["capped_buyable_gross"].dropna().index if "capped_buyable_gross" in daily else daily.index


def _cards(artifacts: Artifacts, frame: pd.DataFrame, daily: pd.DataFrame) -> str:
    """Show the numbers to look at first, each with what it is."""
    cards: list[tuple[Text, str, float, Text]] = []
    quality = artifacts.get(f"{MONEY}diagnostics.pkl")
    for key in ("ic", "rank_ic"):
        if quality is not None and key in quality.index:
            value, error = (float(quality[name][key]) for name in ("value", "standard_error"))
            cards.append((label(key), f"{key}.value", value, words("± {error:.4f} (Newey-West)", error=error)))
    for series in (*CURVES, "market"):
        if series in frame.index:
            cards.append((label("annual_return"), series, float(frame["annual_return"][series]), series_words(series)))
    if "capped_buyable_net" in frame.index:
        fall = float(frame["max_drawdown"]["capped_buyable_net"])
        cards.append((label("max_drawdown"), "max_drawdown", fall, series_words("capped_buyable_net")))
    for column in ("capped_cash_share", "capped_names_held", "volatility_exposure"):
        if column in daily:
            cards.append((label(column), column, float(daily[column].mean()), words("mean over days")))
    tiles = []
    for title, key, value, remark in cards:
        kind = "number" if "ic" in key.split(".")[0].split("_") else "count" if "names" in key else "percent"
        kind = "ratio" if key == "volatility_exposure" else kind
        tiles.append(
            f'<div class="card"><b>{title.html()}</b><span class="value" data-card="{key}" data-v="{value!r}">'
            f"{written(value, kind)}</span><small>{remark.html()}</small></div>"
        )
    return f'<div class="cards">{"".join(tiles)}</div>'


def performance(artifacts: Artifacts, context: Context) -> Section | None:
    """Cumulative return and drawdown."""
    daily = artifacts.get(f"{MONEY}daily.pkl")
    if daily is None or "capped_buyable_gross" not in daily:
        return None
    money = daily.dropna(subset=["capped_buyable_gross"])
    extra = [name for name in money if str(name).startswith("capped_buyable") and name not in CURVES]
    keys = [
        *CURVES,
        "market",
        *([context.benchmark] if context.benchmark in money else []),
        *extra,
        "capped_paper_gross",
    ]
    keys = [key for key in dict.fromkeys(keys) if key in money]
    shown = [key for key in (*CURVES, "market", str(context.benchmark)) if key in keys]
    figure = figures.curves({key: money[key] for key in keys}, {key: series_words(key) for key in keys}, shown)
    caption = words(
        "Daily returns compounded, cash earns 0; a difference to a market or index is compounded from daily "
        "differences. Below: the fall from the highest point so far, the start included. Click a name to show "
        "or hide it; drag to zoom."
    )
    return Section(
        "returns", words("Cumulative return and drawdown"), context.scope(money.index, context.costs),
        (Chart("returns", figure, caption),),
    )  # fmt: skip


def correlation(artifacts: Artifacts, context: Context) -> Section | None:
    """Daily and monthly IC and the diagnostics' table."""
    daily, quality = artifacts.get(f"{MONEY}daily.pkl"), artifacts.get(f"{MONEY}diagnostics.pkl")
    if daily is None or "ic" not in daily or "rank_ic" not in daily:
        return None
    known = artifacts.get(f"{MONEY}definitions.pkl", {})
    days = daily.dropna(subset=["ic"])
    parts: list[str | Chart] = [
        Chart(
            "ic-daily",
            figures.daily_correlation(days),
            words("Correlation of score and label across the day's stocks."),
        ),
        Chart("ic-monthly", figures.monthly_correlation(days), words("Error bars: standard deviation / sqrt(days).")),
    ]
    if quality is not None:
        rows = [label(str(name)) for name in quality.index]
        columns = [
            Column(key, label(key), "count" if key == "days" else "ratio" if key == "t" else "number",
                   note(key, known[key]) if key in known else None)
            for key in quality.columns
        ]  # fmt: skip
        parts.append(table(quality, columns, key="diagnostics", rows=rows))
        parts.append(meanings(known, [str(name) for name in quality.index]))
    return Section("ic", words("IC and RankIC"), context.scope(days.index, words("no costs")), tuple(parts))


def quantiles(artifacts: Artifacts, context: Context) -> Section | None:
    """Mean label by quantile of the score."""
    frame = artifacts.get(f"{MONEY}quantiles.pkl")
    if frame is None:
        return None
    known, horizon = frame.dropna(how="all"), context.horizon or 1
    total = words("Equal weight within a quantile, no caps; sums, not compounded.")
    mean = words("Mean label by quantile of the score; error bars: Newey-West standard error of the mean over days.")
    if context.horizon is None:
        mean = words(
            "Mean label by quantile of the score; error bars: Newey-West standard error, the label's days, not "
            "recorded, taken as 1."
        )
        total = words(
            "Equal weight within a quantile, no caps; sums, not compounded; the label's days, not recorded, taken as 1."
        )
    if horizon > 1:
        total = words(
            "Equal weight within a quantile, no caps; sums, not compounded, of label / {n}, as labels of {n} days "
            "overlap.",
            n=horizon,
        )
    return Section(
        "quantiles", words("Returns by quantile of the score"), context.scope(known.index, words("no costs, no caps")),
        (Chart("quantile-means", figures.quantile_means(known, horizon), mean),
         Chart("quantile-curves", figures.quantile_curves(known, horizon), total)),
    )  # fmt: skip


def exposures(artifacts: Artifacts, context: Context) -> Section | None:
    """Rank correlation of the score with known factors."""
    frame = artifacts.get(f"{MONEY}exposures.pkl")
    if frame is None:
        return None
    definitions = artifacts.get(f"{MONEY}definitions.pkl", {})
    known = pd.DataFrame({"mean": frame.mean(), "standard_deviation": frame.std(), "days": frame.notna().sum()})
    columns = [Column(key, label(key), "count" if key == "days" else "number") for key in known.columns]
    rows = [label(f"exposure.{name}") for name in known.index]
    caption = words("Rank correlation of score and factor across the day's stocks: what the score is a bet on.")
    return Section(
        "exposures", words("Exposures of the score"), context.scope(frame.index, words("no costs")),
        (Chart("exposures", figures.exposure_lines(frame), caption), table(known, columns, key="exposures", rows=rows),
         meanings(definitions, [f"exposure.{name}" for name in frame.columns])),
    )  # fmt: skip


def learning(artifacts: Artifacts, context: Context) -> Section | None:
    """Learning curves of every member."""
    frame, members = artifacts.get("folds/curves.pkl"), artifacts.get("folds/members.pkl")
    if frame is None or frame.empty:
        return None
    spare = {"fold", "seed", "epoch", "train_loss", "valid_loss"}
    metric = (
        str(members["metric"].iloc[0]) if members is not None else dict(map(_pair, context.facts)).get("metric", "")
    )
    if metric not in frame:
        metric = next((name for name in ("capped_excess", "rank_ic", "ic") if name in frame), "")
        metric = metric or next(name for name in frame if name not in spare)
    count = frame[["fold", "seed"]].drop_duplicates()
    scope = words("{n} members; in training and on their validation days; no costs", n=len(count))
    caption = words(
        "A colour and a dash a member. Thin: training loss, thick: validation loss; below: the metric on validation "
        "days; star: its best epoch."
    )
    parts: list[str | Chart] = [Chart("learning", figures.learning(frame, metric), caption)]
    if members is not None:
        shown = members.set_index(members.apply(lambda row: f"{row['fold']} / {row['seed']}", axis=1))
        parts.append(table(shown, columns_of(shown.drop(columns=["fold", "seed"])), key="members"))
    return Section("learning", words("Learning curves"), scope, tuple(parts))


def _pair(fact: tuple[Text, Text | str]) -> tuple[str, str]:
    return fact[0].en, fact[1].en if isinstance(fact[1], Text) else fact[1]


def folds(artifacts: Artifacts, context: Context) -> Section | None:
    """Show the deck's table by fold, and what each day was used for."""
    frame, fold_map = artifacts.get("fold_analysis/headline_folds.pkl"), artifacts.get("folds/fold_map.pkl")
    if frame is None and fold_map is None:
        return None
    parts: list[str | Chart] = []
    if fold_map is not None and not fold_map.empty:
        caption = words(
            "Training, gap, validation and test days of each fold; a thin gap may be narrower than a pixel."
        )
        parts.append(Chart("folds", figures.folds(fold_map), caption))
    if frame is not None:
        known = artifacts.get("fold_analysis/definitions.pkl", {})
        rows = [_row_words(str(name)) for name in frame.index]
        if "selected" in frame:
            frame = frame.assign(selected=frame["selected"].astype(str).map(said))
        parts.append(across(frame, _fold_columns(frame, known), key="folds", rows=rows))
        parts.append(
            meanings(known, [key for key in ("gross", "net", "net_over_market", "mean over folds") if key in known])
        )
    days = [] if frame is None else frame[["first", "last"]].to_numpy().ravel()
    days = days if fold_map is None else fold_map["day"]
    return Section("folds", words("Folds"), context.scope(days, context.costs), tuple(parts))


def _row_words(name: str) -> Text:
    return words("fold {fold}", fold=name[5:]) if name.startswith("fold ") else label(name)


def _fold_columns(frame: pd.DataFrame, known: dict[str, str]) -> list[Column]:
    """Columns of `judge.table_row`: those of a series are named by the series and the number."""
    columns = []
    for key in frame.columns:
        name = str(key)
        short = next((s for s in ("net_over_market", "gross", "net") if name.startswith(f"{s}_")), None)
        if short is None:
            columns.extend(columns_of(frame[[key]], known))
            continue
        number = name.removeprefix(f"{short}_")
        first, second = label(f"money.{short}"), label(number)
        meaning = note(number, known[number]) if number in known else None
        columns.append(
            Column(
                key, Text(f"{first.en}: {second.en}", f"{first.zh}：{second.zh}"), kind_of(number, frame[key]), meaning
            )
        )
    return columns


def baselines(artifacts: Artifacts, context: Context) -> Section | None:
    """Free scores on the same days through the same judge."""
    frame = artifacts.get("baselines/baselines.pkl")
    if frame is None:
        return None
    known = artifacts.get("baselines/definitions.pkl", {})
    shown = across(frame, _fold_columns(frame, known), key="baselines", rows=[label(str(name)) for name in frame.index])
    scope = context.scope(frame[["first", "last"]].to_numpy().ravel(), context.costs)
    scope = Text(scope.en.partition(" days, ")[2], scope.zh.partition("，")[2])  # the days stand in the table
    return Section("baselines", words("Free scores on the same days"), scope, (shown,))


def gate(artifacts: Artifacts, context: Context) -> Section | None:
    """Show what the market gate selects."""
    weights = artifacts.get("gate/weights.pkl")
    if weights is None or weights.empty:
        return None
    caption = words("The features whose weight is furthest from 1 on average; 1: as a network without the gate has it.")
    frame = pd.DataFrame(
        {"mean": weights.mean(), "standard_deviation": weights.std(), "min": weights.min(), "max": weights.max()}
    )
    order = (weights - 1.0).abs().mean().sort_values(ascending=False).index
    frame = frame.loc[order].rename(index=str)
    columns = [Column(key, label(key), "number") for key in frame.columns]
    regimes = artifacts.get("gate/regimes.pkl")
    if regimes is not None and "moved_by" in regimes:
        frame = frame.join(regimes.rename(index=str)[["moved_by", "correlation", "low", "high"]])
        columns += _regime_columns()
    scope = context.scope(weights.index, words("{n} features", n=weights.shape[1]))
    listed = table(frame, columns, key="gate", main=list(frame.index[:10]))
    return Section(
        "gate", words("What the gate selects"), scope, (Chart("gate", figures.gate(weights), caption), listed)
    )


def _regime_columns() -> list[Column]:
    """Columns of `gate_record.regimes`: which market feature each weight follows."""
    chosen = words("The market feature whose rank correlation with the weight, over these days, is largest.")
    size = words("That rank correlation; described on the days it was chosen on, so no test.")
    low = words("Mean weight on the third of the days on which that market feature is lowest.")
    high = words("Mean weight on the third of the days on which that market feature is highest.")
    return [
        Column("moved_by", words("market feature"), "text", chosen),
        Column("correlation", words("rank correlation"), "number", size),
        Column("low", words("weight where it is low"), "number", low),
        Column("high", words("weight where it is high"), "number", high),
    ]
