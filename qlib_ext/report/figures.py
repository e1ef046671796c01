"""Frames become plotly figures. Every function takes a frame and returns a figure; nothing is computed elsewhere.

Axes carry their unit; texts are English and their translations lie in `layout.meta["zh"]`. Returns are fractions.
Private to `report`; needs plotly >= 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from colorsys import hls_to_rgb
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go

from qlib_ext.evaluate import newey_west
from qlib_ext.report.page import Text, label, plain, words
from qlib_ext.splits import PARTS

BLUE, ORANGE, GREEN, RED, PURPLE, GREY, TEAL, BROWN = PALETTE = (
    "#3b82c4", "#e08a1e", "#2a9d6f", "#d1495b", "#8d6bc7", "#8a8f98", "#2aa3b8", "#a9744f",
)  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PART_COLOURS = {"train": BLUE, "gap": GREY, "valid": RED, "test": GREEN}
SMOOTH = 20  # days of the running means


class Sketch:
    """A figure in the making: one or two panels over a shared x axis, and the translations of its texts."""

    def __init__(self, x: Text, y: Text, *, y2: Text | None = None, height: int = 360, share: float = 0.34) -> None:
        self.zh: dict[str, str] = {}
        self.figure = go.Figure(layout={"template": go.layout.Template(), "height": height})
        lower = x if y2 is not None else None
        self.figure.update_layout(
            margin={"l": 64, "r": 16, "t": 12, "b": 44},
            legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
            hovermode="x unified",
            xaxis={"title": {"text": self.say(x)}, "automargin": True},
            yaxis={"title": {"text": self.say(y)}, "automargin": True},
        )
        if lower is not None and y2 is not None:
            self.figure.update_layout(
                xaxis={"anchor": "y2"},
                yaxis={"domain": [share + 0.05, 1.0]},
                yaxis2={"domain": [0.0, share], "title": {"text": self.say(y2)}, "automargin": True},
            )

    def say(self, text: Text) -> str:
        """English of a text, its translation kept."""
        if text.en != text.zh:
            self.zh[text.en] = text.zh
        return text.en

    def line(
        self, name: Text, x: Any, y: Any, colour: str, *, low: bool = False, hidden: bool = False, **style: Any
    ) -> None:
        """Add a line to the upper (or lower) panel; `hidden`: shown after a click in the legend."""
        self.figure.add_trace(
            go.Scatter(
                name=self.say(name),
                x=_axis(x),
                y=_numbers(y),
                mode=style.pop("mode", "lines"),
                line={"color": colour, "width": style.pop("width", 2), "dash": style.pop("dash", "solid")},
                yaxis="y2" if low else "y",
                visible="legendonly" if hidden else True,
                **style,
            )
        )

    def bars(
        self, name: Text, x: Any, y: Any, colour: str, *, low: bool = False, error: Any = None, **style: Any
    ) -> None:
        """Add bars; `error`: half the length of their error bars."""
        bars = go.Bar(name=self.say(name), x=_axis(x), y=_numbers(y), yaxis="y2" if low else "y", **style)
        bars.update(marker={"color": colour})
        if error is not None:
            bars.update(error_y={"type": "data", "array": _numbers(error), "thickness": 1, "width": 2})
        self.figure.add_trace(bars)

    def dates(self) -> Sketch:
        """Write the x axis as dates, with buttons for the usual spans."""
        steps = [{"count": n, "step": "month", "stepmode": "backward", "label": f"{n}M"} for n in (1, 3, 6)]
        steps.append({"step": "all", "label": "⟷"})
        self.zh |= {f"{n}M": f"{n}个月" for n in (1, 3, 6)}
        self.figure.update_xaxes(type="date", tickformat="%Y-%m-%d", hoverformat="%Y-%m-%d", nticks=7)
        self.figure.update_xaxes(
            rangeselector={"buttons": steps, "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom"}
        )
        self.figure.update_layout(margin={"t": 34})
        return self

    def percent(self, *axes: str, digits: int = 0) -> Sketch:
        """Write y axes as per cent."""
        for axis in axes or ("yaxis",):
            self.figure.update_layout({axis: {"tickformat": f".{digits}%", "hoverformat": ".2%"}})
        return self

    def done(self, **layout: Any) -> go.Figure:
        """Give the figure, its translations inside."""
        self.figure.update_layout(meta={"zh": self.zh}, **layout)
        return self.figure


def curves(
    returns: Mapping[str, pd.Series],
    names: Mapping[str, Text],
    shown: Sequence[str],
    styles: Mapping[str, tuple[str, str]] | None = None,
) -> go.Figure:
    """Cumulative compounded return of daily returns, and below it the fall from the highest point so far.

    Args:
        returns: daily returns by key, indexed by day.
        names: titles by key.
        shown: keys whose lines are visible at first.
        styles: (colour, dash) by key; None: by place.

    """
    sketch = Sketch(words("day of the signal"), words("cumulative return (%)"), y2=words("drawdown (%)"), height=520)
    for place, (key, series) in enumerate(returns.items()):
        (colour, dash), hidden = style(place) if styles is None else styles[key], key not in shown
        curve = (1.0 + series.fillna(0.0)).cumprod()
        top = np.maximum(curve.cummax(), 1.0)
        sketch.line(names[key], curve.index, curve - 1.0, colour, hidden=hidden, legendgroup=key, dash=dash)
        sketch.line(
            words("{name}: drawdown", name=names[key]),
            curve.index,
            curve / top - 1.0,
            colour,
            low=True,
            hidden=hidden,
            width=1,
            legendgroup=key,
            showlegend=False,
            dash=dash,
        )
    return sketch.dates().percent("yaxis", "yaxis2").done()


def daily_correlation(daily: pd.DataFrame) -> go.Figure:
    """IC and RankIC of each day, and their running means over `SMOOTH` days."""
    sketch = Sketch(words("day of the signal"), words("correlation (1)"))
    for key, colour in (("ic", BLUE), ("rank_ic", ORANGE)):
        name = label(key)
        mean = words("{name}, mean of {days} days", name=name, days=SMOOTH)
        sketch.line(name, daily.index, daily[key], colour, mode="markers", opacity=0.45, marker={"size": 4})
        sketch.line(mean, daily.index, daily[key].rolling(SMOOTH, min_periods=SMOOTH // 2).mean(), colour)
    return sketch.dates().done()


def monthly_correlation(daily: pd.DataFrame) -> go.Figure:
    """Mean IC and RankIC of each month, with std / sqrt(days) as error bars."""
    sketch = Sketch(words("month"), words("mean correlation (1)"), height=320)
    months = daily[["ic", "rank_ic"]].groupby(pd.DatetimeIndex(daily.index).strftime("%Y-%m").to_numpy())
    mean, error = months.mean(), months.std() / months.count() ** 0.5
    for key, colour in (("ic", BLUE), ("rank_ic", ORANGE)):
        sketch.bars(label(key), mean.index, mean[key], colour, error=error[key])
    return sketch.done(xaxis={"type": "category"})


def quantile_means(quantiles: pd.DataFrame, horizon: int = 1) -> go.Figure:
    """Mean label by quantile of the score, with Newey-West errors; 0.0001 = 1 basis point."""
    unit = words("mean label a day (basis points)")
    if horizon > 1:
        unit = words("mean label over {n} days (basis points)", n=horizon)
    sketch = Sketch(words("quantile of the score, 1 = lowest"), unit, height=320)
    found = np.array([newey_west(quantiles[name], horizon=horizon)[:2] for name in quantiles.columns])
    mean, error = 1e4 * found.T
    names = [str(name) for name in quantiles.columns]
    sketch.bars(words("mean label"), names, mean, BLUE, error=error, showlegend=False)
    return sketch.done(xaxis={"type": "category"})


def quantile_curves(quantiles: pd.DataFrame, horizon: int = 1) -> go.Figure:
    """Sum of the mean labels by quantile of the score, less the mean of all quantiles.

    Labels of several days (`horizon`) overlap, and each is divided by their number.
    """
    sketch = Sketch(words("day of the signal"), words("summed label less the mean of all (%)"))
    gap = quantiles.sub(quantiles.mean(axis=1), axis=0).fillna(0.0).cumsum() / horizon
    last = len(gap.columns) - 1
    for place, name in enumerate(gap.columns):
        colour = _between(RED, GREEN, place / max(last, 1))
        edge = place in (0, last)
        sketch.line(words("quantile {name}", name=name), gap.index, gap[name], colour, width=2.5 if edge else 1)
    return sketch.dates().percent().done()


def learning(member_curves: pd.DataFrame, metric: str) -> go.Figure:
    """Loss in training (thin) and validation by epoch, and the metric that chose the epoch.

    A colour and a dash a member: 48 of them differ.
    """
    unit, percent = metric_words(metric)
    sketch = Sketch(words("epoch"), words("loss (1)"), y2=unit, height=460, share=0.45)
    for place, ((fold, seed), rows) in enumerate(member_curves.groupby(["fold", "seed"], sort=True)):
        (colour, dash), group = style(place), f"{fold}-{seed}"
        for key, width, kind in (("train_loss", 0.8, words("training")), ("valid_loss", 2.4, words("validation"))):
            name = words("fold {fold}, seed {seed}: ", fold=fold, seed=seed)
            name = Text(name.en + kind.en, name.zh + kind.zh)
            sketch.line(name, rows["epoch"], rows[key], colour, dash=dash, width=width, legendgroup=group)
        sketch.line(
            unit, rows["epoch"], rows[metric], colour, low=True, dash=dash, legendgroup=group,
            showlegend=False,
        )  # fmt: skip
        best = rows.iloc[int(np.nanargmax(rows[metric]))] if rows[metric].notna().any() else rows.iloc[-1]
        mark = {"symbol": "star", "size": 11, "color": colour}
        sketch.line(
            words("chosen"), [best["epoch"]], [best[metric]], colour, low=True, mode="markers", marker=mark,
            legendgroup=group, showlegend=False,
        )  # fmt: skip
    if percent:
        sketch.percent("yaxis2", digits=2)
    return sketch.done(hovermode="closest", xaxis={"dtick": max(1, int(member_curves["epoch"].max() // 12))})


def metric_words(metric: str) -> tuple[Text, bool]:
    """Axis title of an evaluator's metric, and whether it is a fraction that is written as per cent."""
    kind, _, rest = metric.partition("_")
    what, _, basis = rest.partition("_")
    money = kind in ("capped", "topn") and what in ("return", "excess")
    parts = [label(f"daily_{what}"), label(kind), *([label(basis)] if basis else [])] if money else [label(metric)]
    template = "{name}, on validation days (%)" if money else "{name}, on validation days (1)"
    name = Text(", ".join(part.en for part in parts), "，".join(part.zh for part in parts))
    return words(template, name=name), money


def two_lines(
    frame: pd.DataFrame,
    upper: Mapping[str, Text],
    lower: Mapping[str, Text],
    axes: tuple[Text, Text],
    percent: str = "yaxis2",
) -> go.Figure:
    """Columns of a frame by day on an upper and a lower panel; `percent`: the axes that are fractions."""
    sketch = Sketch(words("day"), axes[0], y2=axes[1], height=420, share=0.42)
    for place, (key, name) in enumerate([*upper.items(), *lower.items()]):
        sketch.line(name, frame.index, frame[key], PALETTE[place], low=key in lower)
    return sketch.dates().percent(*percent.split()).done()


def stacked(months: pd.DataFrame, names: Mapping[Any, Text], unit: Text) -> go.Figure:
    """Columns of a frame, indexed by month, stacked as bars."""
    sketch = Sketch(words("month"), unit, height=360)
    for place, key in enumerate(months.columns):
        sketch.bars(names[key], months.index, months[key], PALETTE[place % len(PALETTE)])
    return sketch.done(barmode="stack", xaxis={"type": "category"})


def histogram(values: npt.ArrayLike, x: Text, y: Text, bins: int = 25) -> go.Figure:
    """Count values (fractions) in equal bins from 0 to the largest one."""
    sketch = Sketch(x, y, height=320)
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    count, edges = np.histogram(known, bins=bins, range=(0.0, max(float(known.max(initial=0.0)), 1e-12)))
    sketch.bars(y, (edges[1:] + edges[:-1]) / 2.0, count, BLUE, showlegend=False)
    return sketch.done(xaxis={"tickformat": ".2%"}, bargap=0.02)


def capacity(curve: pd.DataFrame, returns: Sequence[str], cash: str | None) -> go.Figure:
    """Annual returns by capital, and below them the share of the capital that is not placed."""
    sketch = Sketch(words("capital (million yuan)"), words("a year (%)"), y2=words("cash (%)"), height=460)
    for place, key in enumerate(returns):
        sketch.line(label(key), curve.index / 1e6, curve[key], PALETTE[place % len(PALETTE)], mode="lines+markers")
    if cash is not None:
        sketch.line(label(cash), curve.index / 1e6, curve[cash], BROWN, low=True, mode="lines+markers")
    return sketch.percent("yaxis", "yaxis2").done(xaxis={"type": "log"})


def exposure_lines(exposed: pd.DataFrame) -> go.Figure:
    """Rank correlation of the score with known factors, running means over `SMOOTH` days."""
    sketch = Sketch(words("day of the signal"), words("rank correlation, mean of {days} days (1)", days=SMOOTH))
    for place, key in enumerate(exposed.columns):
        mean = exposed[key].rolling(SMOOTH, min_periods=SMOOTH // 2).mean()
        sketch.line(label(f"exposure.{key}"), exposed.index, mean, PALETTE[place % len(PALETTE)])
    return sketch.dates().done(yaxis={"range": [-1, 1]})


def lines(series: Mapping[str, pd.Series], y: Text) -> go.Figure:
    """One line a name by day."""
    sketch = Sketch(words("day of the signal"), y)
    for (name, values), colour in zip(series.items(), colours(len(series)), strict=True):
        sketch.line(plain(name), values.index, values, colour)
    return sketch.dates().done()


def folds(fold_map: pd.DataFrame) -> go.Figure:
    """Draw what each day is used for in each fold: one bar a stretch of days."""
    sketch = Sketch(words("trading day"), words("fold"))
    listed: set[str] = set()
    for fold, rows in fold_map.sort_values("day").groupby("fold", sort=True):
        kind, day = rows["part"].to_numpy(), pd.DatetimeIndex(rows["day"])
        starts = np.flatnonzero(np.r_[True, kind[1:] != kind[:-1]])
        for first, stop in pairwise([*starts.tolist(), len(kind)]):
            if kind[first] not in PART_COLOURS:
                continue
            sketch.line(
                words(kind[first]), [day[first], _after(day, stop - 1)], [fold, fold], PART_COLOURS[kind[first]],
                width=16,
                showlegend=kind[first] not in listed, legendgroup=kind[first],
            )  # fmt: skip
            listed.add(kind[first])
    height = 150 + 34 * int(fold_map["fold"].nunique())
    order = {name: place for place, name in enumerate(PARTS)}
    sketch.figure.data = tuple(sorted(sketch.figure.data, key=lambda t: order.get(t.legendgroup, 9)))
    sketch.figure.update_xaxes(type="date", tickformat="%Y-%m-%d", nticks=7)
    return sketch.done(height=height, hovermode="closest", yaxis={"dtick": 1, "autorange": "reversed"})


def gate(weights: pd.DataFrame, top: int = 30) -> go.Figure:
    """Gate weights of the features that vary or weigh most, by day; 1 = as an ungated network has it."""
    sketch = Sketch(words("day of the signal"), words("feature"), height=160 + 18 * min(top, weights.shape[1]))
    far = (weights - 1.0).abs().mean().sort_values(ascending=False).index[:top]
    sketch.figure.add_trace(
        go.Heatmap(
            x=_axis(weights.index), y=[str(name) for name in far], z=weights[far].to_numpy(dtype=np.float32).T,
            colorscale="RdBu", zmid=1.0, reversescale=True,
            colorbar={"title": {"text": sketch.say(words("weight (1)"))}},
        )
    )  # fmt: skip
    sketch.figure.update_xaxes(type="date", tickformat="%Y-%m-%d", nticks=7)
    return sketch.done(hovermode="closest", yaxis={"autorange": "reversed", "title": {"standoff": 16}})


def steps(values: pd.Series, names: Sequence[Text], unit: Text) -> go.Figure:
    """Lying bars of neighbouring assumptions, the first on top."""
    sketch = Sketch(unit, words("what is taken into account"), height=120 + 32 * len(values))
    named = [sketch.say(name) for name in names]
    sketch.figure.add_trace(
        go.Bar(x=_numbers(values), y=named, orientation="h", marker={"color": BLUE}, showlegend=False)
    )
    sketch.figure.update_xaxes(tickformat=".0%", hoverformat=".2%")
    return sketch.done(hovermode="closest", yaxis={"autorange": "reversed", "title": {"standoff": 16}})


# --- arithmetic


def style(place: int) -> tuple[str, str]:
    """Colour and dash of the line at a place: the dash turns when the colours are used up."""
    return PALETTE[place % len(PALETTE)], DASHES[place // len(PALETTE) % len(DASHES)]


def colours(count: int) -> list[str]:
    """As many colours, all different: those of the palette while they last, then hues around the circle."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    made = [hls_to_rgb(place / count, 0.42 + 0.16 * (place % 2), 0.6) for place in range(count)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in rgb) for rgb in made]


def _after(days: pd.DatetimeIndex, row: int) -> pd.Timestamp:
    """End of a stretch of days that ends with a row: the next day of the index, if it is near."""
    end = days[row] + pd.Timedelta(days=1)
    following = days[row + 1] if row + 1 < len(days) else end
    return following if following - days[row] <= pd.Timedelta(days=12) else end


def _axis(values: Any) -> Any:
    """Dates as ISO days, numbers and words as they are."""
    listed = list(values)
    dated = bool(listed) and isinstance(listed[0], pd.Timestamp)
    return [str(day)[:10] for day in listed] if dated else listed


def _numbers(values: Any) -> npt.NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _between(low: str, high: str, share: float) -> str:
    """Colour between two, share 0 = low."""
    pairs = [(int(low[i : i + 2], 16), int(high[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
