"""Exposures of a panel's stocks, made when a loss or a metric first asks for them; qlib's files read once more.

``D`` days, ``N`` stocks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from qlib_ext.frames import column_names, read_frame
from qlib_ext.options import check_choice
from qlib_ext.panel import DayPanel, Exposure
from qlib_ext.portfolio import KINDS, Past, exposures, measure_exposures, read_exposures
from qlib_ext.provider import calendar, listed_days, own_side_file, read_traded

MOST_CATEGORIES = 1000  # of a column: each is an exposure of every stock and day
AT_HAND = tuple(name for name, row in KINDS.items() if row.measure is None)  # grids of the panel


@dataclass(frozen=True)
class PanelExposures:
    """Makes exposures of a panel by name: `DayPanel.source`.

    Attributes:
        columns: the user's own, by name day x stock, as last known (`portfolio.read_exposures`).
    """

    columns: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All that can be asked for."""
        return [*KINDS, *self.columns]

    def __call__(self, panel: DayPanel, names: Sequence[str]) -> dict[str, Exposure]:
        """Make exposures of all days, of stocks present, each known at the close of its day.

        Raises: ValueError for a name that there is not, an exposure that is known of no stock on any day, and a column
            of more than `MOST_CATEGORIES`.
        """
        for name in names:
            check_choice("exposure", name, self.names, hint="; columns of your own come by DayDatasetH(exposures=...)")
        days, stocks = pd.DatetimeIndex(panel.days), [str(code) for code in panel.stocks]
        wanted = [name for name in names if name in KINDS and name not in AT_HAND]
        grids: dict[str, Any] = {name: _at_hand(panel, name) for name in names if name in AT_HAND}
        grids |= {
            name: grid.reindex(days).to_numpy()
            for name, grid in (measured(wanted, stocks, days[0], days[-1]) if wanted else {}).items()
        }
        grids |= {name: as_known(self.columns[name], days, stocks) for name in names if name in self.columns}
        present = panel.present.cpu().numpy()
        return {name: _exposure(name, grids[name], present, panel.present.device) for name in names}


def measured(names: Sequence[str], codes: Sequence[str], start: Any, end: Any) -> dict[str, pd.DataFrame]:
    """Measure kinds of `portfolio.KINDS` on the provider's bars: raw, day x stock, NaN where not known.

    With the days before `start` that they look back on.

    >>> grids = measured(["age", "reversal"], [*panel.stocks[:3]], "2020-06-22", "2020-06-24")
    >>> bool(grids["reversal"].iloc[-1].notna().all()), float(grids["age"].diff().iloc[-1, 0])
    (True, 1.0)
    """
    lead = max(KINDS[name].lead for name in names)
    raw = read_traded(codes, ["$close", "$factor"], start, end, lead=lead)
    close, factor = (raw[field].astype(np.float64) for field in ("$close", "$factor"))
    days = pd.DatetimeIndex(close.index)
    longest = calendar().get_indexer(days)[:, None] + 1.0  # of stocks older than the calendar
    age = pd.DataFrame(np.minimum(listed_days(list(codes), days), longest), days, close.columns)
    return measure_exposures(names, Past(close, factor, age.where(age > 0)))


def with_industry(columns: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Add the category `industry` of the provider's qlib_ext/industry.csv, where it is there and not among the columns.

    Raises: ValueError, OSError for a file that is none.
    """
    file = None if "industry" in columns else own_side_file("industry")
    if file is None:
        return columns
    dated = "start" in column_names(file)
    frame = read_frame(file, columns=["industry"], date="start" if dated else None, categories=True, undated=True)
    return columns | read_exposures(frame, str(file))


def as_known(grid: pd.DataFrame, days: pd.DatetimeIndex, stocks: Iterable[str]) -> Any:
    """Take a column of the user's at the close of each day, (D, N), as last known."""
    return grid.reindex(days, method="ffill").reindex(columns=list(stocks)).to_numpy()


def _at_hand(panel: DayPanel, name: str) -> Any:
    grid = getattr(panel, name)
    if grid is None:
        cure = "liquidity: auto" if name == "liquidity" else "which has it"
        raise ValueError(f"the panel has no {name} to be neutral to, or to judge by: use a DayDatasetH ({cure})")
    return grid.cpu().numpy()


def _exposure(name: str, grid: Any, present: Any, device: torch.device) -> Exposure:
    """Put one on the scale of the day's present stocks; categories as their places in a list."""
    if not (present & ~pd.isna(grid)).any():
        lead = f" (it looks {KINDS[name].lead} trading days back)" if name in KINDS else ""
        raise ValueError(
            f"the exposure {name} is known of no stock on any day{lead}: leave it out, or correct the data"
        )
    if grid.dtype.kind in "biuf":
        own = {"columns": {name: grid}} if name not in KINDS else {name: grid}
        standard = exposures(present, **own)[name]
        return Exposure(torch.from_numpy(np.where(present, standard, 0.0).astype(np.float32)).to(device))
    cells: Any = np.where(present, grid, None)
    told = pd.Categorical(cells.ravel())
    if len(told.categories) > MOST_CATEGORIES:
        some = ", ".join(map(str, told.categories[:3]))
        raise ValueError(
            f"the exposure {name} has {len(told.categories)} categories ({some}, ...), {MOST_CATEGORIES} at most are "
            "allowed: give coarser ones, or numbers"
        )
    places = torch.from_numpy((np.asarray(told.codes) + 1).astype(np.int16).reshape(grid.shape))
    return Exposure(places.to(device), tuple(map(str, told.categories)))
