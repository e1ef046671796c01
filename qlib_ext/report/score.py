"""What a score is worth: artifacts of the run become sections of the page, a function each (see `SECTIONS`).

Every function takes the context and the artifacts that its row names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from qlib_ext.portfolio import FEWEST_DAYS, T_SIGNIFICANT, ForecastSchedule
from qlib_ext.report import figures
from qlib_ext.report.page import Chart, Column, Content, Context, across, columns_of, glossary, html, meanings_of, table
from qlib_ext.report.texts import join, plain, recorded, sentence, series_title, text, title

CURVES = ("capped_buyable_gross", "capped_buyable_net", "capped_buyable_net_impact", "capped_buyable_net_over_market")
Definitions = Mapping[str, str] | None
Frame = pd.DataFrame | None


def headline(
    context: Context, frame: pd.DataFrame, daily: pd.DataFrame, definitions: Definitions, selection: Any
) -> Content:
    """Show the deck's table."""
    meanings, days = meanings_of(definitions), judged_days(daily)
    parts: list[Any] = []
    if selection is not None:
        first, last = (str(day)[:10] for day in (days.min(), days.max()))
        chosen = recorded(str(selection), first=first, last=last)
        parts.append(html("paragraph", Markup("{}: {}").format(title("selected"), chosen)))
    names = [str(name) for name in frame.index]
    others = ("market", "buyable", context.benchmark)
    main = [name for name in names if name.startswith("capped_buyable") or name in others]
    rows = [series_title(name) for name in names]
    parts.append(table(frame, columns_of(frame, meanings), key="headline", rows=rows, main=main))
    parts.append(glossary(meanings, ("gross", "net", "net_impact", "net_over_market", "net_over_buyable")))
    return context.scope(days, context.costs), parts


def judged_days(daily: pd.DataFrame) -> pd.Index:
    """Days whose outcome is known, which the money's numbers are over."""
    return daily["capped_buyable_gross"].dropna().index if "capped_buyable_gross" in daily else daily.index


def _card(of: str, key: str, value: Any, kind: str, remark: Any) -> dict[str, Any]:
    """One of the numbers to look at first, titled by the key `of`, with what it is."""
    return {"title": title(of), "key": key, "value": float(value), "kind": kind, "remark": remark}


def performance(context: Context, daily: pd.DataFrame) -> Content | None:
    """Cumulative return and drawdown."""
    if "capped_buyable_gross" not in daily:
        return None
    money = daily.dropna(subset=["capped_buyable_gross"])
    first = (*CURVES, "market", "buyable", str(context.benchmark))
    more = [name for name in map(str, money) if name.startswith("capped_buyable")]
    keys = [key for key in dict.fromkeys([*first, *more, "capped_paper_gross"]) if key in money]
    figure = figures.curves({key: money[key] for key in keys}, {key: series_title(key) for key in keys}, first)
    return context.scope(money.index, context.costs), [Chart("returns", figure, sentence("chart.returns"))]


def correlation(context: Context, daily: pd.DataFrame, quality: Frame, definitions: Definitions) -> Content | None:
    """Daily and monthly IC and the diagnostics' table."""
    if "ic" not in daily or "rank_ic" not in daily:
        return None
    days = daily.dropna(subset=["ic"])
    parts: list[Any] = [
        Chart("ic-daily", figures.daily_correlation(days), sentence("chart.ic-daily")),
        Chart("ic-monthly", figures.monthly_correlation(days), sentence("chart.ic-monthly")),
    ]
    if quality is not None:
        meanings, rows = meanings_of(definitions), [title(name) for name in quality.index]
        parts.append(table(quality, columns_of(quality, meanings), key="diagnostics", rows=rows))
        parts.append(glossary(meanings, quality.index))
    return context.scope(days.index, text("no costs")), parts


def quantiles(context: Context, frame: pd.DataFrame) -> Content:
    """Mean label by quantile of the score."""
    frame, horizon = frame.dropna(how="all"), context.horizon or 1
    mean, added = "chart.quantile-means", "chart.quantile-curves"
    if context.horizon is None:
        mean, added = "chart.quantile-means.unknown", "chart.quantile-curves.unknown"
    elif horizon > 1:
        added = "chart.quantile-curves.overlapping"
    return context.scope(frame.index, text("no costs, no caps")), [
        Chart("quantile-means", figures.quantile_means(frame, horizon), sentence(mean)),
        Chart("quantile-curves", figures.quantile_curves(frame, horizon), sentence(added, n=horizon)),
    ]


def lags(
    context: Context, by_lag: pd.DataFrame, decay: Frame, definitions: Definitions, daily: Frame
) -> Content | None:
    """IC of the score, and of each head where there are several, with the return of each later day; half-lives."""
    if by_lag.empty:
        return None
    names = {name: head_title(name) for name in by_lag.index.unique(level="score")}
    parts: list[Any] = [Chart("lags", figures.lags(by_lag, decay, names), sentence("chart.lags"))]
    if decay is not None:
        own = {key.removeprefix("lags."): text for key, text in (definitions or {}).items() if key.startswith("lags.")}
        shown = decay.dropna(axis="columns", how="all")
        kinds = dict.fromkeys(("half_life", "low", "high", "weight"), "ratio")
        columns = columns_of(shown, meanings_of(own, "lags"), "lags", **kinds)
        parts.append(table(shown, columns, key="lags", rows=[names.get(name, plain(name)) for name in shown.index]))
    costs = text("no costs, no caps")
    return costs if daily is None else context.scope(daily.index, costs), parts


def head_title(name: str) -> Any:
    """Title of a score by its name in the artifact: score, head_5."""
    days = name.removeprefix("head_")
    return title(name) if days == name else text("head of {n} days", n=days)


def forecast(context: Context, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Content:
    """Show what the score was worth before the test segment: level by score, decay, whether it is significant.

    Of a walk-forward's forecasts the first, and a row each.
    """
    schedule = ForecastSchedule.read(values)
    learnt = schedule.forecasts[0]
    if not learnt.days:
        return text("no costs"), [html("paragraph", sentence("forecast.nothing"))]
    error = text("not known") if learnt.half_life_error is None else plain(f"± {learnt.half_life_error:.1f}")
    cards = [
        _card("forecast.half_life", "half_life", learnt.half_life, "number", error),
        _card("forecast.t", "t", learnt.t, "ratio", text("over all ages")),
        _card("forecast.spread", "spread", 1e4 * learnt.spread, "bp", text("standard deviation over stocks")),
        _card("forecast.smoothing", "smoothing", learnt.smoothing, "count", text("half-life in days, 0: none")),
    ]
    ages = pd.DataFrame(learnt.curve, columns=["first", "last", "mean", "error"])
    middle = (ages["first"] + ages["last"] - 1) / 2
    curve = pd.DataFrame({"first_day": ages["first"] + 1, "last_day": ages["last"]}).astype(int)
    curve = curve.assign(mean_bp=1e4 * ages["mean"], error_bp=1e4 * ages["error"])
    curve["fitted_bp"] = 1e4 * learnt.slope * learnt.decay(middle)
    bins = pd.DataFrame(learnt.bins, columns=["place", "share", "mean", "error"]).assign(level=learnt.levels)
    days = range(int(ages["last"].max()))
    fitted, ages = pd.Series(learnt.slope * learnt.decay(days), days), ages.assign(middle=middle)
    span = context.scope([day for day in (learnt.first, learnt.last) if day], text("no costs"), counted=False)
    rows = [text("{first} to {last}", first=a, last=b) for a, b in curve[["first_day", "last_day"]].to_numpy()]
    columns = columns_of(curve.drop(columns=["first_day", "last_day"]), table="forecast")
    return join([span, text("{n} days", n=learnt.days)], "; "), [
        html("cards", cards),
        html("paragraph", sentence("forecast.traded", t=T_SIGNIFICANT, days=FEWEST_DAYS)),
        Chart("forecast-level", figures.forecast_levels(bins), sentence("chart.forecast-level")),
        Chart(
            "forecast-decay",
            figures.forecast_decay(ages, fitted),
            sentence("chart.forecast-decay"),
        ),
        table(curve, columns, key="forecast", rows=rows),
        *_blocks(schedule),
    ]


def _blocks(schedule: ForecastSchedule) -> list[Any]:
    """Table of a walk-forward's forecasts; nothing for a single one."""
    if len(schedule.starts) == 1:
        return []
    told = {
        name: [getattr(own, name) for own in schedule.forecasts] for name in ("t", "half_life", "smoothing", "days")
    }
    told["spread"] = [1e4 * own.spread for own in schedule.forecasts]
    frame, rows = pd.DataFrame(told), [plain(str(day.date())) for day in schedule.starts]
    blocks = table(frame, columns_of(frame, table="forecast"), key="forecast-blocks", rows=rows)
    return [html("paragraph", sentence("forecast.blocks")), blocks]


def exposures(context: Context, frame: pd.DataFrame, definitions: Definitions) -> Content:
    """Rank correlation of the score with known factors."""
    sums = pd.DataFrame({"mean": frame.mean(), "standard_deviation": frame.std(), "days": frame.notna().sum()})
    factors = [f"exposure.{name}" for name in frame.columns]
    return context.scope(frame.index, text("no costs")), [
        Chart("exposures", figures.exposure_lines(frame), sentence("chart.exposures")),
        table(sums, key="exposures", rows=[title(factor) for factor in factors]),
        glossary(meanings_of(definitions), factors),
    ]


def ensemble(context: Context, frame: pd.DataFrame, correlations: Frame) -> Content:
    """Members of different kinds, their weights, and how alike their scores are."""
    rows = [title(name) for name in frame.index]
    parts: list[Any] = [table(frame, columns_of(frame), key="ensemble", rows=rows)]
    if correlations is not None:
        columns = [Column(name, plain(name), "number") for name in correlations]
        parts.append(table(correlations, columns, key="ensemble-correlations"))
    first, last = frame.attrs.get("days", ("?", "?"))
    parts.append(html("paragraph", sentence("ensemble.days", first=first, last=last)))
    return text("{n} members; no costs", n=int(frame["weight"].notna().sum())), parts


def learning(context: Context, frame: pd.DataFrame, members: Frame) -> Content | None:
    """Learning curves of every member; one that is an ensemble of kinds has none."""
    if frame.empty:
        return None
    parts: list[Any] = []
    if "train_loss" in frame:
        metric = chosen_metric(context, frame, members)
        parts.append(Chart("learning", figures.learning(frame, metric), sentence("chart.learning")))
    if members is not None:
        names = [f"{fold} / {seed}" for fold, seed in zip(members["fold"], members["seed"], strict=True)]
        parts.append(table(members.drop(columns=["fold", "seed"]).set_axis(names), key="members"))
    count = len(frame[["fold", "seed"]].drop_duplicates())
    return text("{n} members; in training and on their validation days; no costs", n=count), parts


def chosen_metric(context: Context, curves: pd.DataFrame, members: Frame) -> str:
    """Name the metric that chose the epoch of the members whose curves these are."""
    metric = {name.en: plain(value).en for name, value in context.facts}.get("metric", "")
    if members is not None:
        metric = str(members["metric"].iloc[0])
    spare = curves.columns.drop(["fold", "seed", "epoch", "train_loss", "valid_loss"], errors="ignore")
    return str(next(name for name in (metric, "capped_excess", "rank_ic", "ic", *spare) if name in curves))


def folds(context: Context, frame: Frame, definitions: Definitions, fold_map: Frame, members: Frame) -> Content | None:
    """Show the deck's table by fold, and what each day was used for."""
    parts: list[Any] = []
    if fold_map is not None and not fold_map.empty:
        parts.append(Chart("folds", figures.folds(fold_map), sentence("chart.folds")))
    if frame is not None:
        if "selected" in frame:
            metric = "" if members is None else ", ".join(sorted(set(members["metric"].astype(str))))
            frame = frame.assign(selected=frame["selected"].map(lambda chosen: recorded(str(chosen), metric=metric)))
        rows = [text("fold {fold}", fold=name[5:]) if name.startswith("fold ") else title(name) for name in frame.index]
        parts.append(across(frame, _money_columns(frame, definitions), key="folds", rows=rows))
        parts.append(glossary(meanings_of(definitions), ("gross", "net", "net_over_market", "mean over folds")))
    if fold_map is not None:
        return context.scope(fold_map["day"], context.costs), parts
    return None if frame is None else (_span(context, frame), parts)


def _span(context: Context, frame: pd.DataFrame) -> Any:
    """First and last day of a table whose rows have their own; their numbers stand in it."""
    return context.scope(frame[["first", "last"]].to_numpy().ravel(), context.costs, counted=False)


def _money_columns(frame: pd.DataFrame, definitions: Definitions) -> list[Column]:
    """Columns of `record.table_row`: a number of a series, such as net_sharpe, is defined as the number is."""
    meanings = meanings_of(definitions)
    for key in map(str, frame.columns):
        for series in ("gross_", "net_", "net_over_market_"):
            number = key.removeprefix(series)
            if number != key and number in meanings:
                meanings[key] = meanings[number]
    return columns_of(frame, meanings)


def baselines(context: Context, frame: pd.DataFrame, definitions: Definitions) -> Content:
    """Free scores on the same days through the same judge."""
    rows = [title(name) for name in frame.index]
    return _span(context, frame), [across(frame, _money_columns(frame, definitions), key="baselines", rows=rows)]


def gate(context: Context, weights: pd.DataFrame, regimes: Frame) -> Content | None:
    """Show what the market gate selects, and which market feature each weight follows (`record.regimes`)."""
    if weights.empty:
        return None
    order = (weights - 1.0).abs().mean().sort_values(ascending=False).index
    frame = weights[order].agg(["mean", "std", "min", "max"]).T.rename(index=str, columns={"std": "standard_deviation"})
    followed = ["moved_by", "correlation", "low", "high"]
    if regimes is not None and "moved_by" in regimes:
        frame = frame.join(regimes.rename(index=str)[followed])
    meanings = {key: sentence(f"gate.{key}") for key in followed}
    columns = columns_of(frame, meanings, "gate", low="number", high="number")
    return context.scope(weights.index, text("{n} features", n=weights.shape[1])), [
        Chart("gate", figures.gate(weights), sentence("chart.gate")),
        table(frame, columns, key="gate", main=list(frame.index[:10])),
    ]
