"""Pictures of the study: the chain's excess as a curve, and by year."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402

from studies.years import YEAR  # noqa: E402

COLOURS = ("#1f5fa8", "#c2571a", "#3c8d40", "#7a7a7a")


def curves(file: Path, lines: Mapping[str, pd.Series]) -> None:
    """Draw running sums of daily returns, in %; a gap in the days is none in the picture."""
    figure, axes = plt.subplots(figsize=(9, 4.2), dpi=110)
    for colour, (name, daily) in zip(COLOURS, lines.items(), strict=False):
        axes.plot(daily.index, 100 * daily.fillna(0.0).cumsum(), label=name, color=colour, lw=1.4)
    axes.axhline(0, color="#999999", lw=0.8)
    axes.set_ylabel("running sum of the daily excess, %")
    axes.legend(frameon=False, loc="upper left")
    _finish(figure, axes, file)


def bars(file: Path, lines: Mapping[str, pd.Series]) -> None:
    """Draw the excess of each year, in % a year."""
    table = pd.DataFrame({name: 100 * YEAR * daily.groupby(daily.index.year).mean() for name, daily in lines.items()})
    axes = table.plot.bar(figsize=(9, 3.6), color=COLOURS[: len(lines)], rot=0, width=0.8)
    axes.axhline(0, color="#999999", lw=0.8)
    axes.set_ylabel("excess, % a year")
    axes.legend(frameon=False)
    axes.figure.set_dpi(110)
    _finish(axes.figure, axes, file)


def _finish(figure, axes, file: Path) -> None:  # noqa: ANN001
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})
    plt.close(figure)
