"""The score's tear sheet becomes sections: IC by horizon, how long ranks and holdings last, IC within groups.

All from `liquidity_analysis/tear_score.pkl`, tables by the names of `evaluate.SCORE_TEAR_DEFINITIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qlib_ext.report.figures import BLUE, ORANGE, FigureBuilder
from qlib_ext.report.page import Chart, Content, Context, html, table
from qlib_ext.report.score import Definitions, Frame
from qlib_ext.report.tear_account import columns_by
from qlib_ext.report.texts import Text, plain, sentence, text, title

if TYPE_CHECKING:
    import plotly.graph_objects as go

Tables = Mapping[str, pd.DataFrame]
SHOWN = 40  # groups of a factor in its figure, and in its table before a click
_NAMED = ("volatility", "liquidity", "size", "industry")  # in zh.yaml
_KINDS = {"label": "bp", "days": "count", "stocks": "count"}


def horizons(
    context: Context, tear: Tables, definitions: Definitions, daily: Frame, account: Tables | None
) -> Content | None:
    """Show IC by horizon, the autocorrelation of the ranks, and how much of the holdings stays."""
    frame, ranks = tear["horizons"], tear["autocorrelation"]
    rows = [text("{n} days" if days > 1 else "{n} day", n=days) for days in frame.index]
    parts: list[Any] = [
        Chart("horizons", horizon_bars(frame), sentence("chart.horizons")),
        table(frame, columns_by(frame, definitions, "horizons", "", _KINDS), key="horizons", rows=rows),
    ]
    if ranks["ic"].notna().any():
        parts.append(Chart("autocorrelation", age_lines(ranks), sentence("chart.autocorrelation")))
    held = {text("the judge"): tear["overlap"]}
    if account and "overlap" in account:
        held = {text("the account"): account["overlap"]} | held
    if any(frame["weight"].notna().any() for frame in held.values()):
        parts.append(Chart("overlap", overlap_lines(held), sentence("chart.overlap")))
    costs = text("no costs, no caps")
    return costs if daily is None else context.scope(daily.index, costs), parts


def groups(context: Context, tear: Tables, definitions: Definitions, daily: Frame) -> Content | None:
    """Show IC within groups of stocks: of each factor, of each category of the user's."""
    every, parts = tear["groups"], []
    for name in every.index.unique(level="factor"):
        frame = every.loc[name].assign(label=1e4 * every.loc[name, "label"])
        most = frame["stocks"].fillna(0.0).nlargest(SHOWN, keep="first").index
        shown = frame[frame.index.isin(most)]
        columns = columns_by(frame, definitions, "groups", "groups", _KINDS)
        key = f"groups-{name}"
        parts += [
            html("heading", _factor(str(name))),
            Chart(key, group_bars(shown), sentence("chart.groups")),
            table(frame, columns, key=key, rows=[plain(group) for group in frame.index], main=shown.index),
        ]
    costs = text("no costs, no caps")
    return (costs if daily is None else context.scope(daily.index, costs), parts) if parts else None


def _factor(name: str) -> Text:
    """Title of a factor: ours, or a column of the user's, which goes by its name."""
    return title(f"exposure.{name}") if name in _NAMED else plain(name)


# --- figures


def horizon_bars(frame: pd.DataFrame) -> go.Figure:
    """Draw IC and RankIC by horizon with their errors."""
    builder = FigureBuilder(text("days from the entry (number)"), text("correlation (1)"), height=340)
    for key, colour in (("ic", BLUE), ("rank_ic", ORANGE)):
        builder.bars(title(key), [str(days) for days in frame.index], frame[key], colour, error=frame[f"{key}_error"])
    return builder.finish(xaxis={"type": "category"})


def age_lines(frame: pd.DataFrame) -> go.Figure:
    """Draw the autocorrelation of the ranks by age, with its errors."""
    builder = FigureBuilder(text("days before (number)"), text("rank autocorrelation (1)"), height=320)
    bars: dict[str, Any] = {"mode": "lines+markers", "error_y": {"type": "data", "array": frame["error"].to_numpy()}}
    builder.line(text("score"), frame.index, frame["ic"], BLUE, showlegend=False, **bars)
    return builder.finish()


def overlap_lines(held: Mapping[Text, pd.DataFrame]) -> go.Figure:
    """Draw what stays of the stocks held, and below it of their weights, by day."""
    axes = text("of the stocks (%)"), text("of the weights (%)")
    builder = FigureBuilder(text("day"), axes[0], y2=axes[1], height=420, share=0.45)
    for (name, frame), colour in zip(held.items(), (BLUE, ORANGE), strict=False):
        builder.line(name, frame.index, frame["names"], colour, width=1.5)
        builder.line(name, frame.index, frame["weight"], colour, low=True, width=1.5, showlegend=False)
    return builder.percent("yaxis", "yaxis2").dates().finish()


def group_bars(frame: pd.DataFrame) -> go.Figure:
    """Draw IC and RankIC of each group with their errors."""
    builder = FigureBuilder(text("group"), text("correlation (1)"), height=320)
    for key, colour in (("ic", BLUE), ("rank_ic", ORANGE)):
        error = np.nan_to_num(frame[f"{key}_error"].to_numpy())
        builder.bars(title(key), [str(group) for group in frame.index], frame[key], colour, error=error)
    return builder.finish(xaxis={"type": "category"})
