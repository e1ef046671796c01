"""Frames become plotly figures. Every function takes a frame and returns a figure; nothing is computed elsewhere.

Axes carry their unit; texts are English and their translations lie in `layout.meta["zh"]`. Returns are fractions.
Needs plotly >= 6 when a figure is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from colorsys import hls_to_rgb
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.evaluate import cumulative, drawdown, newey_west
from qlib_ext.report.texts import Text, text, title
from qlib_ext.splits import PARTS

if TYPE_CHECKING:
    import plotly.graph_objects as go

BLUE, ORANGE, GREEN, RED, PURPLE, GREY, TEAL, BROWN = PALETTE = (
    "#3b82c4", "#e08a1e", "#2a9d6f", "#d1495b", "#8d6bc7", "#8a8f98", "#2aa3b8", "#a9744f",
)  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PART_COLOURS = {"train": BLUE, "gap": GREY, "valid": RED, "test": GREEN}
GAIN, LOSS = "#1f9668", "#cf4458"  # in a Chinese page the other way round: see `FigureBuilder.finish`
SMOOTH = 20  # days of the running means
_DAYS = {"tickformat": "%Y-%m-%d", "nticks": 7}
CAPITALS = {  # yuan: how a tick says it
    10.0**power: Text(en, zh)
    for power, en, zh in (
        *((6, "1 million", "100 万"), (7, "10 million", "1000 万"), (8, "100 million", "1 亿")),
        *((9, "1 billion", "10 亿"), (10, "10 billion", "100 亿"), (11, "100 billion", "1000 亿")),
    )
}


class FigureBuilder:
    """A figure in the making: one or two panels over a shared x axis, and the translations of its texts.

    >>> builder = FigureBuilder(Text("day", "日期"), Text("turnover (%)", "换手（%）"))
    >>> builder.line(Text("bought", "买入"), ["2022-01-04", "2022-01-05"], [0.1, 0.2], BLUE)
    >>> builder.percent("yaxis").finish().layout.meta["zh"]["bought"]
    '买入'
    """

    def __init__(self, x: Text, y: Text, *, y2: Text | None = None, height: int = 360, share: float = 0.34) -> None:
        import plotly.graph_objects as go

        self.zh: dict[str, str] = {}
        self.figure = go.Figure(layout={"template": go.layout.Template(), "height": height})
        self.figure.update_layout(
            margin={"l": 64, "r": 16, "t": 12, "b": 44},
            legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
            hovermode="x unified",
            xaxis=self._axis(x),
            yaxis=self._axis(y),
        )
        if y2 is not None:
            self.figure.update_layout(
                xaxis={"anchor": "y2"},
                yaxis={"domain": [share + 0.05, 1.0]},
                yaxis2={"domain": [0.0, share]} | self._axis(y2),
            )

    def _axis(self, name: Text) -> dict[str, Any]:
        return {"title": {"text": self.english(name), "standoff": 12}, "automargin": True}

    def english(self, wording: Text) -> str:
        """English of a text, its translation kept."""
        if wording.en != wording.zh:
            self.zh[wording.en] = wording.zh
        return wording.en

    def line(
        self, name: Text, x: Any, y: Any, colour: str, *, low: bool = False, hidden: bool = False, **style: Any
    ) -> None:
        """Add a line to the upper (or lower) panel; `hidden`: shown after a click in the legend."""
        look = {"color": colour, "width": style.pop("width", 2), "dash": style.pop("dash", "solid")}
        self.figure.add_scatter(
            name=self.english(name),
            x=_axis(x),
            y=_numbers(y),
            line=look,
            yaxis="y2" if low else "y",
            visible="legendonly" if hidden else True,
            **({"mode": "lines"} | style),
        )

    def bars(self, name: Text, x: Any, y: Any, colour: str, *, error: Any = None, **style: Any) -> None:
        """Add bars; `error`: half the length of their error bars."""
        if error is not None:
            style["error_y"] = {"type": "data", "array": _numbers(error), "thickness": 1, "width": 2}
        self.figure.add_bar(
            name=self.english(name), x=_axis(x), y=_numbers(y), yaxis="y", marker={"color": colour}, **style
        )

    def dates(self) -> FigureBuilder:
        """Write the x axis as the dates of the lines so far, without those between them, with buttons for spans."""
        steps = [{"count": n, "step": "month", "stepmode": "backward", "label": f"{n}M"} for n in (1, 3, 6)]
        steps.append({"step": "all", "label": "⟷"})
        self.zh |= {f"{n}M": f"{n}个月" for n in (1, 3, 6)}
        buttons = {"buttons": steps, "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"}
        days = {day for trace in self.figure.data for day in trace.x}
        self.figure.update_xaxes(
            type="date", hoverformat="%Y-%m-%d", rangeselector=buttons, rangebreaks=closed_days(days), **_DAYS
        )
        self.figure.update_layout(margin={"t": 34})
        return self

    def percent(self, *axes: str, digits: int = 0) -> FigureBuilder:
        """Write y axes as per cent."""
        for axis in axes:
            self.figure.update_layout({axis: {"tickformat": f".{digits}%", "hoverformat": ".2%"}})
        return self

    def finish(self, **layout: Any) -> go.Figure:
        """Give the figure, its translations inside: in Chinese gains are red and losses green."""
        self.zh |= {GAIN: LOSS, LOSS: GAIN}
        self.figure.update_layout(meta={"zh": self.zh}, **layout)
        return self.figure


def curves(
    returns: Mapping[str, pd.Series],
    names: Mapping[str, Text],
    shown: Sequence[str],
    styles: Mapping[str, tuple[str, str]] | None = None,
    *,
    compounded: Sequence[str] = (),
    day: Text | None = None,
) -> go.Figure:
    """Sum of daily returns, of an account (keys in `compounded`) compounded; below it the fall from the highest point.

    Keys of `shown` are visible at first; `styles`: (colour, dash) by key, None: by place; `day`: title of the x axis.
    """
    x = day or text("day of the signal")
    builder = FigureBuilder(x, text("cumulative return (%)"), y2=text("drawdown (%)"), height=520)
    for place, (key, series) in enumerate(returns.items()):
        (colour, dash), hidden = style(place) if styles is None else styles[key], key not in shown
        curve, below = (each(series, compounded=key in compounded) for each in (cumulative, drawdown))
        fall = text("{name}: drawdown", name=names[key])
        look: dict[str, Any] = {"hidden": hidden, "legendgroup": key, "dash": dash}
        builder.line(names[key], series.index, curve, colour, **look)
        builder.line(fall, series.index, below, colour, low=True, width=1, showlegend=False, **look)
    return builder.dates().percent("yaxis", "yaxis2").finish()


def daily_correlation(daily: pd.DataFrame) -> go.Figure:
    """IC and RankIC of each day, and their running means over `SMOOTH` days."""
    builder = FigureBuilder(text("day of the signal"), text("correlation (1)"))
    for key, colour in (("ic", BLUE), ("rank_ic", ORANGE)):
        mean = text("{name}, mean of {days} days", name=title(key), days=SMOOTH)
        builder.line(title(key), daily.index, daily[key], colour, mode="markers", opacity=0.45, marker={"size": 4})
        builder.line(mean, daily.index, running_mean(daily[key]), colour)
    return builder.dates().finish()


def running_mean(series: pd.Series) -> pd.Series:
    """Mean over the last `SMOOTH` days, of at least half of them."""
    return series.rolling(SMOOTH, min_periods=SMOOTH // 2).mean()


def monthly_correlation(daily: pd.DataFrame) -> go.Figure:
    """Mean IC and RankIC of each month, with std / sqrt(days) as error bars."""
    builder = FigureBuilder(text("month"), text("mean correlation (1)"), height=320)
    months = daily[["ic", "rank_ic"]].groupby(pd.DatetimeIndex(daily.index).strftime("%Y-%m").to_numpy())
    mean, error = months.mean(), months.std() / months.count() ** 0.5
    for key, colour in (("ic", BLUE), ("rank_ic", ORANGE)):
        builder.bars(title(key), mean.index, mean[key], colour, error=error[key])
    return builder.finish(xaxis={"type": "category"})


def quantile_means(quantiles: pd.DataFrame, horizon: int = 1) -> go.Figure:
    """Mean label by quantile of the score, with Newey-West errors; 0.0001 = 1 basis point."""
    unit = text("mean label a day (basis points)")
    if horizon > 1:
        unit = text("mean label over {n} days (basis points)", n=horizon)
    builder = FigureBuilder(text("quantile of the score, 1 = lowest"), unit, height=320)
    pairs = np.array([newey_west(quantiles[name], horizon=horizon)[:2] for name in quantiles.columns])
    mean, error = 1e4 * pairs.T
    builder.bars(text("mean label"), map(str, quantiles.columns), mean, BLUE, error=error, showlegend=False)
    return builder.finish(xaxis={"type": "category"})


def quantile_curves(quantiles: pd.DataFrame, horizon: int = 1) -> go.Figure:
    """Sum of the mean labels by quantile of the score, less the mean of all quantiles.

    Labels of several days (`horizon`) overlap, and each is divided by their number.
    """
    builder = FigureBuilder(text("day of the signal"), text("summed label less the mean of all (%)"))
    gap = quantiles.sub(quantiles.mean(axis=1), axis=0).fillna(0.0).cumsum() / horizon
    last = len(gap.columns) - 1
    for place, name in enumerate(gap.columns):
        share, width = place / max(last, 1), 2.5 if place in (0, last) else 1
        colour = _between(LOSS, GAIN, share)
        builder.zh[colour] = _between(LOSS, GAIN, 1.0 - share)
        builder.line(text("quantile {name}", name=name), gap.index, gap[name], colour, width=width)
    return builder.dates().percent("yaxis").finish()


def forecast_levels(bins: pd.DataFrame) -> go.Figure:
    """Mean excess return by place of the score with its error, and the level that is learnt of it; 0.0001 = 1 bp."""
    unit = text("excess return a day (basis points)")
    builder = FigureBuilder(text("place of the score among the day's (1)"), unit, height=320)
    points: dict[str, Any] = {"mode": "markers", "error_y": {"type": "data", "array": _numbers(1e4 * bins["error"])}}
    builder.line(text("found"), bins["place"], 1e4 * bins["mean"], BLUE, **points)
    builder.line(text("forecast"), bins["place"], 1e4 * bins["level"], ORANGE)
    return builder.finish()


def forecast_decay(ages: pd.DataFrame, fitted: pd.Series) -> go.Figure:
    """Excess return a day of one standard deviation of the score by its age, with errors, and the decay fitted."""
    unit = text("excess return a day of one standard deviation (basis points)")
    builder = FigureBuilder(text("days since the entry (number)"), unit, height=320)
    points: dict[str, Any] = {"mode": "markers", "error_y": {"type": "data", "array": _numbers(1e4 * ages["error"])}}
    builder.line(text("found"), ages["middle"], 1e4 * ages["mean"], BLUE, **points)
    builder.line(text("decay"), fitted.index, 1e4 * fitted, ORANGE)
    return builder.finish()


def lags(by_lag: pd.DataFrame, decay: pd.DataFrame | None, names: Mapping[str, Text]) -> go.Figure:
    """IC with the return of each later day, a line a score; the first with its errors and the decay fitted to it."""
    builder = FigureBuilder(text("days after the entry (number)"), text("correlation (1)"), height=340)
    for place, (name, wording) in enumerate(names.items()):
        rows = by_lag[by_lag.index.get_level_values("score") == name].droplevel("score").dropna(subset=["ic"])
        colour, dash = style(place)
        if place:
            builder.line(wording, rows.index, rows["ic"], colour, dash=dash, width=1.5)
            continue
        bars: dict[str, Any] = {"mode": "markers", "error_y": {"type": "data", "array": _numbers(rows["error"])}}
        builder.line(wording, rows.index, rows["ic"], colour, **bars)
        fitted = {} if decay is None else decay.to_dict("index").get(name, {})
        first, half = (float(fitted.get(key, math.nan)) for key in ("first_ic", "half_life"))
        if math.isfinite(half):
            age = rows.index.to_numpy(dtype=np.float64) - 1.0
            builder.line(text("decay"), rows.index, first * 2.0 ** (-age / half), colour)
    return builder.finish()


def learning(member_curves: pd.DataFrame, metric: str) -> go.Figure:
    """Loss in training (thin) and validation by epoch, and the metric that chose the epoch.

    A colour and a dash a member: 48 of them differ.
    """
    unit, percent = metric_title(metric)
    builder = FigureBuilder(text("epoch"), text("loss (1)"), y2=unit, height=460, share=0.45)
    for place, ((fold, seed), rows) in enumerate(member_curves.groupby(["fold", "seed"], sort=True)):
        colour, dash = style(place)
        look: dict[str, Any] = {"dash": dash, "legendgroup": f"{fold}-{seed}"}
        for key, width, kind in (("train_loss", 0.8, text("training")), ("valid_loss", 2.4, text("validation"))):
            name = text("fold {fold}, seed {seed}: {kind}", fold=fold, seed=seed, kind=kind)
            builder.line(name, rows["epoch"], rows[key], colour, width=width, **look)
        below = {"low": True, "showlegend": False} | look
        builder.line(unit, rows["epoch"], rows[metric], colour, **below)
        best = rows.iloc[int(np.nanargmax(rows[metric]))] if rows[metric].notna().any() else rows.iloc[-1]
        star = {"mode": "markers", "marker": {"symbol": "star", "size": 11, "color": colour}}
        builder.line(text("chosen"), [best["epoch"]], [best[metric]], colour, **below | star | {"dash": "solid"})
    if percent:
        builder.percent("yaxis2", digits=2)
    return builder.finish(hovermode="closest", xaxis={"dtick": max(1, int(member_curves["epoch"].max() // 12))})


def metric_title(metric: str) -> tuple[Text, bool]:
    """Axis title of an evaluator's metric, and whether it is a fraction that is written as per cent."""
    percent = metric.startswith(("capped_return", "capped_excess", "topn_return", "topn_excess", "net_excess"))
    template = "{name}, on validation days (%)" if percent else "{name}, on validation days (1)"
    return text(template, name=title(metric)), percent


def two_lines(frame: pd.DataFrame, names: Mapping[str, Text], axes: Sequence[Text], **percent: int) -> go.Figure:
    """Two columns of a frame by day, one above the other; `percent`: digits of the axes that are fractions."""
    builder = FigureBuilder(text("day"), axes[0], y2=axes[1], height=420, share=0.42)
    for (key, name), colour in zip(names.items(), (BLUE, ORANGE), strict=True):
        builder.line(name, frame.index, frame[key], colour, low=colour == ORANGE)
    for axis, digits in percent.items():
        builder.percent(axis, digits=digits)
    return builder.dates().finish()


def stacked(months: pd.DataFrame, unit: Text) -> go.Figure:
    """Columns of a frame, indexed by month, stacked as bars."""
    builder = FigureBuilder(text("month"), unit)
    for place, key in enumerate(months.columns):
        builder.bars(title(key), months.index, months[key], PALETTE[place % len(PALETTE)])
    return builder.finish(barmode="stack", xaxis={"type": "category"})


def histogram(values: npt.ArrayLike, x: Text, y: Text, bins: int = 25) -> go.Figure:
    """Count values (fractions) in equal bins from 0 to the largest one."""
    builder = FigureBuilder(x, y, height=320)
    finite = _numbers(values)
    finite = finite[np.isfinite(finite)]
    count, edges = np.histogram(finite, bins=bins, range=(0.0, max(float(finite.max(initial=0.0)), 1e-12)))
    builder.bars(y, (edges[1:] + edges[:-1]) / 2.0, count, BLUE, showlegend=False)
    return builder.finish(xaxis={"tickformat": ".2%"}, bargap=0.02)


def by_capital(series: Mapping[Text, pd.Series], y: Text, dotted: Sequence[Text] = ()) -> go.Figure:
    """Draw shares by capital (yuan), a line a name; those of `dotted` are dotted."""
    builder = FigureBuilder(text("capital (yuan)"), y, height=340)
    for (name, values), colour in zip(series.items(), colours(len(series)), strict=True):
        dash = "dot" if name in dotted else "solid"
        builder.line(name, values.index, values, colour, mode="lines+markers", dash=dash)
    ticks = [builder.english(name) for name in CAPITALS.values()]
    axis = {"type": "log", "tickvals": list(CAPITALS), "ticktext": ticks}
    return builder.percent("yaxis").finish(xaxis=axis, hovermode="x")


def exposure_lines(exposed: pd.DataFrame) -> go.Figure:
    """Rank correlation of the score with known factors, running means over `SMOOTH` days."""
    means = {title(f"exposure.{key}"): running_mean(exposed[key]) for key in exposed}
    y = text("rank correlation, mean of {days} days (1)", days=SMOOTH)
    return lines(means, y).update_layout(yaxis={"range": [-1, 1]})


def lines(series: Mapping[Text, pd.Series], y: Text) -> go.Figure:
    """One line a name by day."""
    builder = FigureBuilder(text("day of the signal"), y)
    for (name, values), colour in zip(series.items(), colours(len(series)), strict=True):
        builder.line(name, values.index, values, colour)
    return builder.dates().finish()


def folds(fold_map: pd.DataFrame) -> go.Figure:
    """Draw what each day is used for in each fold: one bar a stretch of days."""
    builder = FigureBuilder(text("trading day"), text("fold"), height=150 + 34 * int(fold_map["fold"].nunique()))
    shown = fold_map.sort_values("day")
    named: set[str] = set()
    for fold, rows in shown.groupby("fold", sort=True):
        use, day = rows["part"].to_numpy(), pd.DatetimeIndex(rows["day"])
        starts = np.flatnonzero(np.r_[True, use[1:] != use[:-1]])
        for first, stop in pairwise([*starts.tolist(), len(use)]):
            if (name := use[first]) in PART_COLOURS:
                builder.line(
                    text(name), [day[first], _after(day, stop - 1)], [fold, fold], PART_COLOURS[name],
                    width=16, showlegend=name not in named, legendgroup=name,
                )  # fmt: skip
                named.add(name)
    order = {name: place for place, name in enumerate(PARTS)}
    builder.figure.data = tuple(sorted(builder.figure.data, key=lambda t: order[t.legendgroup]))
    builder.figure.update_xaxes(type="date", **_DAYS)
    return builder.finish(hovermode="closest", yaxis={"dtick": 1, "autorange": "reversed"})


def gate(weights: pd.DataFrame, top: int = 30) -> go.Figure:
    """Gate weights of the features that vary or weigh most, by day; 1 = as an ungated network has it."""
    height = 160 + 18 * min(top, weights.shape[1])
    builder = FigureBuilder(text("day of the signal"), text("feature"), height=height)
    far = (weights - 1.0).abs().mean().sort_values(ascending=False).index[:top]
    builder.figure.add_heatmap(
        x=_axis(weights.index), y=[str(name) for name in far], z=weights[far].to_numpy(dtype=np.float32).T,
        colorscale="RdBu", zmid=1.0, reversescale=True,
        colorbar={"title": {"text": builder.english(text("weight (1)"))}},
    )  # fmt: skip
    builder.figure.update_xaxes(type="date", **_DAYS)
    return builder.finish(hovermode="closest", yaxis={"autorange": "reversed", "title": {"standoff": 16}})


def waterfall(values: pd.Series, names: Sequence[Text], unit: Text, apart: int = 0) -> go.Figure:
    """Draw how each assumption changes a value (D,), from the first to the last; the last `apart` stand beside them."""
    builder = FigureBuilder(unit, text("what is taken into account"), height=150 + 36 * len(values))
    walked, beside = values.iloc[: len(values) - apart], values.iloc[len(values) - apart :]
    x = [*walked.diff().fillna(walked.iloc[:1]), 0.0, *beside]
    y = [builder.english(name) for name in (*names[: len(walked)], text("the account"), *names[len(walked) :])]
    said = [f"{value:+.1%}" for value in x]
    said[0], said[len(walked)] = f"{walked.iloc[0]:.1%}", f"{walked.iloc[-1]:.1%}"
    measures = ["absolute", *["relative"] * (len(walked) - 1), "total", *["absolute"] * apart]
    builder.figure.add_waterfall(
        x=_numbers(x), y=y, measure=measures, orientation="h", text=said, textposition="outside", cliponaxis=False,
        increasing={"marker": {"color": GAIN}}, decreasing={"marker": {"color": LOSS}},
        totals={"marker": {"color": BLUE}}, connector={"line": {"color": GREY, "width": 1}}, showlegend=False,
    )  # fmt: skip
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    edge = 0.12 * max(high - low, 1e-9)
    builder.figure.update_xaxes(tickformat=".0%", hoverformat=".2%", range=[low - edge * (low < 0), high + edge])
    return builder.finish(hovermode="closest", yaxis={"autorange": "reversed", "title": {"standoff": 16}})


# --- arithmetic


def closed_days(days: Iterable[str]) -> list[dict[str, Any]]:
    """Give the breaks of an axis of trading days: weekends, if none of them is one, and each other day that is none.

    Of days most of which are missing, such as the last of each month, none.

    >>> closed_days(["2022-01-06", "2022-01-07", "2022-01-10", "2022-01-12"])
    [{'bounds': ['sat', 'mon']}, {'values': ['2022-01-11']}]
    """
    known = pd.DatetimeIndex(sorted(days))
    every = pd.date_range(known[0], known[-1]) if len(known) else known
    missing = every.difference(known)
    if len(missing) > 0.6 * len(every):
        return []
    weekend = missing[missing.day_of_week >= 5]
    free = len(weekend) and len(weekend) == int((every.day_of_week >= 5).sum())
    values = [str(day)[:10] for day in (missing.difference(weekend) if free else missing)]
    breaks: list[dict[str, Any]] = [{"bounds": ["sat", "mon"]}] if free else []
    return breaks + ([{"values": values}] if values else [])


def style(place: int) -> tuple[str, str]:
    """Colour and dash of the line at a place: the next dash when the colours are used up."""
    return PALETTE[place % len(PALETTE)], DASHES[place // len(PALETTE) % len(DASHES)]


def colours(count: int) -> list[str]:
    """As many colours, all different: those of the palette while they last, then hues around the circle."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    hues = [hls_to_rgb(place / count, 0.42 + 0.16 * (place % 2), 0.6) for place in range(count)]
    return ["#" + "".join(f"{round(255 * share):02x}" for share in rgb) for rgb in hues]


def _after(days: pd.DatetimeIndex, row: int) -> pd.Timestamp:
    """End of a stretch of days that ends with a row: the next day of the index, if it is near."""
    end = days[row] + pd.Timedelta(days=1)
    following = days[row + 1] if row + 1 < len(days) else end
    return following if following - days[row] <= pd.Timedelta(days=12) else end


def _axis(values: Any) -> Any:
    """Dates as ISO days, numbers and words as they are."""
    return [str(value)[:10] if isinstance(value, pd.Timestamp) else value for value in values]


def _numbers(values: Any) -> npt.NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _between(low: str, high: str, share: float) -> str:
    """Colour between two, share 0 = low."""
    pairs = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
