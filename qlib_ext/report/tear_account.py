"""The account's tear sheet becomes sections: months and years, drawdowns and worst days, how sure its ratios are.

All from `portfolio_analysis/tear_account.pkl`, tables by the names of `evaluate.ACCOUNT_TEAR_DEFINITIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qlib_ext.evaluate import ROLLING
from qlib_ext.report.figures import BLUE, GAIN, LOSS, ORANGE, TEAL, FigureBuilder
from qlib_ext.report.page import Chart, Column, Content, Context, across, columns_of, html, meanings_of, table
from qlib_ext.report.score import Definitions
from qlib_ext.report.texts import Text, plain, sentence, text, title

if TYPE_CHECKING:
    import plotly.graph_objects as go

Tables = Mapping[str, pd.DataFrame]
FLAT = "#f4f5f7"  # between gain and loss
TEAR = "tear"  # titles of the tables' columns in zh.yaml
_KINDS = {
    **dict.fromkeys(
        ("net", "mean_stock", "mean_all", "benchmark", "over_mean_stock", "over_mean_all", "over_benchmark", "alpha",
         "annual_return"),
        "gain",
    ),
    **dict.fromkeys(
        ("turnover", "cost", "depth", "alpha_error", "standard_error", "tracking_error", "probability",
         "probability_independent"),
        "percent",
    ),
    **dict.fromkeys(
        ("sharpe", "sharpe_error", "excess_sharpe", "beta", "beta_error", "skewness", "kurtosis", "autocorrelation",
         "correlation", "highest", "deviation"),
        "ratio",
    ),
    **dict.fromkeys(("days", "days_to_bottom", "trials", "independent"), "count"),
}  # fmt: skip


def months(context: Context, tear: Tables, definitions: Definitions) -> Content | None:
    """Show the account's months as a heat map, those of its excess, and the table of years."""
    if not tear:
        return None
    whole, years = tear["months"], tear["years"]
    parts: list[Any] = [Chart("months", heat_map(whole["net"]), sentence("chart.months"))]
    if (name := _excess(whole)) is not None:
        parts.append(Chart("months-excess", heat_map(whole[name]), sentence(f"chart.months.{name}")))
    rows = [title("all", TEAR) if name == "all" else plain(name) for name in years.index]
    return _scope(context, tear), [*parts, across(years, _columns(years, definitions, "years"), key="years", rows=rows)]


def drawdowns(context: Context, tear: Tables, definitions: Definitions) -> Content | None:
    """List the deepest drawdowns and the worst days, of the account and of its excess."""
    if not tear:
        return None
    parts: list[Any] = []
    excess = _excess(tear["returns"])
    for name, heading in (
        ("drawdowns", text("Drawdowns of the account")),
        ("excess_drawdowns", None if excess is None else title(f"{excess}.drawdowns", TEAR)),
        ("worst_days", text("Worst days of the account")),
        ("worst_excess", None if excess is None else title(f"{excess}.worst", TEAR)),
    ):
        if name in tear and heading is not None:
            frame = tear[name]
            if "recovered" in frame:
                frame = frame.assign(recovered=frame["recovered"].map(_day))
            rows = [plain(str(row)[:10]) for row in frame.index]
            listed = table(frame, _columns(frame, definitions, name), key=name, rows=rows)
            parts += [html("heading", heading), listed if len(frame) else html("paragraph", sentence("tear.never"))]
    return _scope(context, tear), parts


def ratios(context: Context, tear: Tables, definitions: Definitions) -> Content | None:
    """Show the account's ratios with their errors, the deflated Sharpe ratio, and the rolling numbers."""
    if not tear:
        return None
    frame = tear["ratios"]
    rows = [title(name, "against") for name in frame.index]
    parts: list[Any] = [across(frame, _columns(frame, definitions, "ratios"), key="ratios", rows=rows)]
    if "deflated" in tear:
        found = tear["deflated"]
        parts.append(html("heading", text("The Sharpe ratio after all trials")))
        columns = columns_by(found, definitions, "deflated", "deflated", _KINDS)
        parts.append(across(found, columns, key="deflated", rows=[title("mean_stock", "against")]))
    else:
        parts.append(html("remark", sentence("tear.untried")))
    if tear["rolling"]["sharpe"].notna().any():
        figure = rolling(tear["rolling"], _excess(tear["returns"]))
        parts.append(Chart("rolling", figure, sentence("chart.rolling", n=ROLLING)))
    else:
        parts.append(html("remark", sentence("tear.short", n=ROLLING)))
    return _scope(context, tear), parts


# --- figures


def heat_map(values: pd.Series) -> go.Figure:
    """Draw months, indexed "2022-01", as cells of per cent, a line a year."""
    place = pd.PeriodIndex(values.index, freq="M")
    grid = pd.Series(100.0 * values.to_numpy(), [place.year, place.month]).unstack().reindex(columns=range(1, 13))
    builder = FigureBuilder(text("month"), text("a month (%)"), height=110 + 34 * len(grid))
    most = max(float(np.nanmax(np.abs(grid.to_numpy()))), 1e-9)
    builder.figure.add_heatmap(
        x=[str(month) for month in grid.columns], y=[str(year) for year in grid.index], z=grid.to_numpy(),
        colorscale=[[0.0, LOSS], [0.5, FLAT], [1.0, GAIN]], zmin=-most, zmax=most, showscale=False, xgap=2, ygap=2,
        text=[[_short(value) for value in row] for row in grid.to_numpy().tolist()],
        texttemplate="%{text}", textfont={"color": "#1d2430"}, hoverongaps=False,
        hovertemplate="%{y}-%{x}: %{z:.2f}%<extra></extra>",
    )  # fmt: skip
    return builder.finish(
        hovermode="closest",
        xaxis={"type": "category", "showgrid": False},
        yaxis={"type": "category", "autorange": "reversed", "showgrid": False},
    )


def _short(value: float) -> str:
    """Write a number in at most four signs, as a month's cell is narrow on a phone."""
    return "" if math.isnan(value) else f"{value:.{int(abs(value) < 9.95)}f}".replace("-", "−")


def rolling(frame: pd.DataFrame, excess: str | None) -> go.Figure:
    """Draw the Sharpe ratios of the last days, and below them the beta where there is one."""
    known = frame.dropna(subset=["sharpe"])
    below = None if excess is None else text("beta (1)")
    builder = FigureBuilder(text("day of the trade"), text("Sharpe, annual (1)"), height=420, y2=below)
    builder.line(text("of the account"), known.index, known["sharpe"], BLUE)
    if excess is not None:
        builder.line(title(f"{excess}.sharpe", TEAR), known.index, known["excess_sharpe"], ORANGE)
        builder.line(title(f"{excess}.beta", TEAR), known.index, known["beta"], TEAL, low=True)
    return builder.dates().finish()


# --- words


def columns_by(
    frame: pd.DataFrame, definitions: Definitions, name: str, titles: str, kinds: Mapping[str, str]
) -> list[Column]:
    """Columns of a record's table, with what they mean, by `table.key` in its definitions."""
    prefix = f"{name}."
    own = {key.removeprefix(prefix): words for key, words in (definitions or {}).items() if key.startswith(prefix)}
    return columns_of(frame, meanings_of(own, name), titles, **kinds)


def _columns(frame: pd.DataFrame, definitions: Definitions, name: str) -> list[Column]:
    return columns_by(frame, definitions, name, TEAR, _KINDS)


def _day(day: pd.Timestamp) -> Text:
    return text("not yet") if pd.isna(day) else plain(str(day)[:10])


def _excess(frame: pd.DataFrame) -> str | None:
    """Name the daily difference that is shown first: to the mean stock, else to the benchmark."""
    return next((name for name in ("over_mean_stock", "over_benchmark") if name in frame), None)


def _scope(context: Context, tear: Tables) -> Text:
    return context.scope(tear["returns"].index, text("the account after all costs that its exchange charges"))
