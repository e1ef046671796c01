"""Pictures of a run, drawn by matplotlib, which pyqlib brings along."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd

from qlib_ext.splits import PARTS

COLOURS = {"train": "#4477aa", "gap": "#bbbbbb", "valid": "#ee6677", "test": "#228833", "unused": "#ffffff"}


def draw_fold_map(fold_map: pd.DataFrame, *, width: float = 9.0) -> bytes:
    """Draw which part each day plays in each fold: one bar a fold over time.

    Args:
        fold_map: of `splits.fold_map`: columns fold, day, part.
        width: inches.

    Returns:
        A PNG file.

    Raises: ValueError for an empty frame.

    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if fold_map.empty:
        raise ValueError("the fold map has no rows: pass what splits.fold_map gives for at least one fold")
    wide = fold_map.pivot(index="fold", columns="day", values="part")
    figure = Figure(figsize=(width, 1.2 + 0.32 * len(wide)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    edges = np.arange(wide.shape[1] + 1)
    for place, (_, parts) in enumerate(wide.iterrows()):
        values = parts.to_numpy()
        starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
        for first, stop in zip(starts, np.r_[starts[1:], len(values)], strict=True):
            span = [(edges[first], edges[stop] - edges[first])]
            axes.broken_barh(span, (place - 0.4, 0.8), facecolors=COLOURS[values[first]])
    ticks = np.unique(np.linspace(0, wide.shape[1] - 1, 8).astype(int))
    axes.set_xticks(ticks + 0.5, [str(wide.columns[t])[:10] for t in ticks], rotation=20, ha="right")
    axes.set_yticks(range(len(wide)), [str(fold) for fold in wide.index])
    axes.set(xlim=(0, wide.shape[1]), ylabel="fold", xlabel="trading day", title="What each day is used for")
    axes.invert_yaxis()
    used = [part for part in PARTS if (fold_map["part"] == part).any() and part != "unused"]
    figure.legend(handles=[Patch(color=COLOURS[part], label=part) for part in used], loc="outside lower center", ncol=4)
    out = BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
