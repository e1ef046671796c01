"""DayPanel: a market as dense day x stock x feature arrays, served as masked batches of days.

A sample is one day of the whole market (deck, "input_size"): (batch, stock, feature), with time (batch, time, stock,
feature). Sizes: D days, N stocks, F features, M market features, B days in a batch, T steps of the window. Masks:
True = real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from qlib_ext.panel.rows import PanelRows

CHUNK = 16_384  # rows of a frame that are copied at a time
OPTIONAL_GRIDS = ("liquidity", "volatility", "buyable", "sellable", "step_return")
FLAGS = ("buyable", "sellable")


@dataclass(frozen=True, repr=False)
class Batch:
    """Some days of the panel, padded in N to the longest day.

    x (B, T, N, F) float32; present (B, T, N) bool; mask (B, N) bool, present at the last step; label, liquidity,
    volatility (B, N), the latter two None where the panel has none; market (B, M) or None; stock (B, N) column of each
    place in the panel (meaningless where padded); days (B,) rows in the panel; labels (B, N, H) or None; exposures
    (B, N, K) those asked for, finite, or None.
    """

    days: npt.NDArray[np.int64]
    stock: Tensor
    x: Tensor
    present: Tensor
    mask: Tensor
    label: Tensor
    liquidity: Tensor | None
    volatility: Tensor | None
    market: Tensor | None
    labels: Tensor | None = None
    exposures: Tensor | None = None

    def __repr__(self) -> str:
        """Sizes instead of pages of numbers."""
        days, steps, stocks, features = self.x.shape
        return f"Batch({days} days, {steps} steps, {stocks} stocks, {features} features)"

    def to(self, device: torch.device) -> Batch:
        """Return the same batch with its tensors on `device`."""
        return replace(self, **_moved(self, device))

    def cut(self, some: slice) -> Batch:
        """Return some of the days alone; the tensors are views."""
        return replace(self, **{name: value[some] for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True, repr=False)
class Exposure:
    """What each stock of a panel is like, by one name: of how it is made see `portfolio.exposures`.

    Attributes:
        grid: (D, N) float32, 0 where unknown; of categories int16, each stock's place among them from 1, 0 unknown.
        categories: their names; empty where the grid holds numbers.
    """

    grid: Tensor
    categories: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Size and kind."""
        kind = f"{len(self.categories)} categories" if self.categories else "numbers"
        return f"Exposure({len(self.grid)} days, {self.grid.shape[1]} stocks, {kind})"

    def columns(self, at: Any) -> Tensor:
        """Take places of the grid, (..., k) float32: the number alone, or 1 for the stock's category and 0 else."""
        picked = self.grid[at][..., None]
        if not self.categories:
            return picked
        return (picked == torch.arange(1, len(self.categories) + 1, device=picked.device)).to(torch.float32)


Source = Callable[["DayPanel", Sequence[str]], Mapping[str, Exposure]]


@dataclass(repr=False)
class DayPanel:
    """Dense arrays of a market; stored once, one gather a batch.

    Attributes:
        days: (D,) datetime64[ns], increasing.
        stocks: (N,) codes, increasing.
        features: F names.
        x: (D, N, F) float32, finite, 0 where nothing is known.
        present: (D, N) bool: in the universe and traded on that day, as known at its close.
        label: (D, N) float32 raw forward return, NaN where unknown.
        liquidity: (D, N) float32 yuan a day, known at the close of d, or None.
        volatility: (D, N) float32 trailing standard deviation of daily returns, or None.
        buyable: (D, N) bool outcome mask, known only later, used only to judge: the stock trades at the entry and is
            not locked at limit-up, or None.
        sellable: (D, N) bool outcome mask: it trades at the entry and is not locked at limit-down, or None.
        step_return: (D, N) float32 return of the first day after the entry (outcome, to mark holdings; 0 while
            suspended, all of it on the day of the return), or None.
        market: (D, M) float32 or None.
        filled: share of feature values of present stocks that were NaN and became 0.
        market_features: names of the M market features; empty where there are none.
        labels: (D, N, H) float32 raw forward returns of `horizons`, NaN where unknown, or None.
        horizons: H days that each of `labels` is held; empty without them.
        source: makes exposures of the panel by name when they are first asked for (`data.PanelExposures`), or None.
        loads: the exposures so far, by name.

    >>> panel  # doctest: +ELLIPSIS
    DayPanel(98 days 2020-02-03 to 2020-06-23, 12 stocks, 2 features, ... cells)
    """

    days: npt.NDArray[np.datetime64]
    stocks: npt.NDArray[np.object_]
    features: list[str]
    x: Tensor
    present: Tensor
    label: Tensor
    liquidity: Tensor | None = None
    volatility: Tensor | None = None
    buyable: Tensor | None = None
    sellable: Tensor | None = None
    step_return: Tensor | None = None
    market: Tensor | None = None
    filled: float = field(default=0.0)
    market_features: list[str] = field(default_factory=list)
    labels: Tensor | None = None
    horizons: tuple[int, ...] = ()
    source: Source | None = None
    loads: dict[str, Exposure] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Sizes and span instead of a page of numbers."""
        days, stocks, features = self.x.shape
        span = f"{str(self.days[0])[:10]} to {str(self.days[-1])[:10]}"
        return f"DayPanel({days} days {span}, {stocks} stocks, {features} features, {int(self.present.sum())} cells)"

    @classmethod
    def from_frame(
        cls,
        feature: pd.DataFrame | PanelRows,
        label: pd.Series,
        *,
        present: pd.DataFrame | None = None,
        market: pd.DataFrame | None = None,
        labels: Mapping[int, pd.DataFrame] | None = None,
        **grids: pd.DataFrame | None,
    ) -> DayPanel:
        """Build from long frames by (datetime, instrument).

        Args:
            feature: rows (datetime, instrument), F columns; NaN becomes 0 (counted), infinity is an error. PanelRows,
                which are finite, are not copied.
            label: raw forward return by (datetime, instrument).
            present: day x instrument bool; None: every row of `feature`. Rows outside it are masked, not dropped.
            market: day x M frame.
            labels: by days held, day x instrument frames of raw forward returns beside the label.
            grids: liquidity, volatility, buyable, sellable, step_return as day x instrument frames.

        A stock whose `buyable` (`sellable`) is not known counts as not buyable (sellable).

        Raises: ValueError for an empty, wrongly indexed or duplicated frame, infinite features, unknown grids, or a
            grid that shares no day or no stock with the features.

        >>> days = pd.bdate_range("2024-01-02", periods=2)
        >>> index = pd.MultiIndex.from_product([days, ["SH600000", "SZ000001"]], names=["datetime", "instrument"])
        >>> feature = pd.DataFrame({"KMID": [0.1, 0.2, 0.3, np.nan]}, index)
        >>> DayPanel.from_frame(feature, pd.Series(0.01, index)).filled
        0.25
        """
        unknown = set(grids) - set(OPTIONAL_GRIDS)
        if unknown:
            raise ValueError(f"unknown grids {sorted(unknown)}; allowed are {OPTIONAL_GRIDS}")
        days, stocks, row, column = _axes(feature)
        _check_index(label, "label")
        in_frame = np.zeros((len(days), len(stocks)), dtype=bool)
        in_frame[row, column] = True
        real = in_frame if present is None else in_frame & _flags("present", present, days, stocks)
        if isinstance(feature, PanelRows):
            names, x, filled = feature.features, feature.shown(real), 0.0
        else:
            names = [str(c[-1] if isinstance(c, tuple) else c) for c in feature.columns]
            x = np.zeros((len(days), len(stocks), len(names)), dtype=np.float32)
            filled = _scatter(x, feature, row, column, real[row, column], names)
        tensors: dict[str, Any] = {
            name: torch.from_numpy((_flags if name in FLAGS else _numbers)(name, frame, days, stocks))
            for name, frame in grids.items()
            if frame is not None
        }
        if market is not None:
            tensors["market"] = torch.from_numpy(_states(market, days))
        if labels:
            held = [np.where(in_frame, _numbers("labels", frame, days, stocks), np.nan) for frame in labels.values()]
            tensors["labels"] = torch.from_numpy(np.stack(held, axis=2))
        values = np.full((len(days), len(stocks)), np.nan, dtype=np.float32)
        aligned = label if label.index.equals(feature.index) else label.reindex(feature.index)
        values[row, column] = aligned.to_numpy(dtype=np.float32)
        return cls(
            days=days.to_numpy(),
            stocks=stocks.to_numpy(dtype=object),
            features=list(names),
            x=torch.from_numpy(x),
            present=torch.from_numpy(real),
            label=torch.from_numpy(np.where(np.isfinite(values), values, np.nan)),
            filled=filled,
            market_features=[] if market is None else [str(name) for name in market.columns],
            horizons=tuple(labels or ()),
            **tensors,
        )

    def rows(self, start: Any, end: Any) -> npt.NDArray[np.int64]:
        """Return the rows of the days from start to end, both included; None is open."""
        days = pd.DatetimeIndex(self.days)
        first = 0 if start is None else days.searchsorted(pd.Timestamp(start), side="left")
        last = len(days) if end is None else days.searchsorted(pd.Timestamp(end), side="right")
        return np.arange(first, last, dtype=np.int64)

    def with_stocks(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Keep the rows of days on which at least one stock is present."""
        return rows[self._places[1][rows] > 0]

    def to(self, device: torch.device) -> DayPanel:
        """Return the same panel with its arrays on `device`; batches are then gathered there.

        The panel itself where it lies there already, with all that it has worked out.
        """
        moved = _moved(self, device)
        if all(value is getattr(self, name) for name, value in moved.items()):
            return self
        loads = {name: replace(load, **_moved(load, device)) for name, load in self.loads.items()}
        return replace(self, **moved, loads=loads)

    def load(self, names: Sequence[str]) -> None:
        """Make exposures that are not there yet, once for the panel.

        Raises: ValueError where the panel cannot tell them (see `data.PanelExposures`).
        """
        lacks = [name for name in names if name not in self.loads]
        if lacks and self.source is None:
            raise ValueError(
                f"the panel knows no exposures, asked for are {', '.join(lacks)}: use a DayDatasetH, which has them"
            )
        if lacks and self.source is not None:
            self.loads |= self.source(self, lacks)

    def exposures(self, names: Sequence[str], rows: npt.ArrayLike | None = None) -> Tensor:
        """Exposures of the stocks present on each day, in deviations of theirs: (D, N, K) float32, 0 where unknown.

        Each as known at the close of its day; a column of categories takes a place for each of them, 1 for its stocks.

        Args:
            names: of `portfolio.KINDS`, and of the columns of DayDatasetH's `exposures`.
            rows: of the panel, the D of the result; None: all.

        Raises: ValueError as `load`.

        >>> panel.exposures(["volatility", "liquidity"]).shape
        torch.Size([98, 12, 2])
        """
        self.load(names)
        at = torch.arange(len(self.days)) if rows is None else torch.as_tensor(rows, dtype=torch.int64)
        return torch.cat([self.loads[name].columns(at.to(self.present.device)) for name in names], dim=-1)

    @cached_property
    def _places(self) -> tuple[Tensor, npt.NDArray[np.int64]]:
        """Columns of each day's stocks, the absent ones last (D, N) int32, and the number of stocks (D,)."""
        order = torch.argsort((~self.present).to(torch.uint8), dim=1, stable=True).to(torch.int32)
        return order, self.present.sum(dim=1).cpu().numpy()

    def batch(
        self,
        rows: Sequence[int] | npt.NDArray[np.int64],
        *,
        step_len: int = 1,
        multiple: int = 1,
        exposures: Sequence[str] = (),
    ) -> Batch:
        """Gather days with their windows of `step_len` steps, oldest first; steps before the panel are masked.

        The width is rounded up to a `multiple` of stocks as far as the panel has them: on a GPU a kernel is planned
        anew for each new shape, and a market has another width nearly every day. `exposures` are names of them.

        Raises: ValueError where a day has no stock, or the window is longer than the panel.

        >>> batch = panel.batch([5, 6], step_len=3)
        >>> batch.x.shape, batch.mask.shape  # (B, T, N, F) and (B, N)
        (torch.Size([2, 3, 12, 2]), torch.Size([2, 12]))
        """
        if not 1 <= step_len <= len(self.days):
            raise ValueError(
                f"step_len={step_len} but the panel has {len(self.days)} days: "
                "shorten the window or start the handler earlier"
            )
        day = np.asarray(rows, dtype=np.int64)
        if not len(day) or day.min() < 0 or day.max() >= len(self.days):
            raise ValueError(f"rows {day[:5]}... must be one or more of 0 to {len(self.days) - 1}")
        order, count = self._places
        if not count[day].all():
            empty = [str(self.days[d])[:10] for d in day[count[day] == 0]]
            raise ValueError(f"no stock is present on {empty[:5]}: leave such days out (DayPanel.with_stocks)")
        width = min(-(-int(count[day].max()) // multiple) * multiple, len(self.stocks))
        inside = day[:, None] + np.arange(1 - step_len, 1) >= 0
        within = torch.from_numpy(inside).to(self.x.device, non_blocking=True)
        at_day = torch.from_numpy(day).to(self.x.device, non_blocking=True)
        stock = order[at_day, :width].long()
        mask = self.present[at_day[:, None], stock]
        window = (at_day[:, None] + torch.arange(1 - step_len, 1, device=self.x.device)).clamp(min=0)
        at = (window[:, :, None], stock[:, None, :])
        present = self.present[at] & within[:, :, None] & mask[:, None, :]

        def pick(grid: Tensor | None) -> Tensor | None:
            return None if grid is None else grid[at_day[:, None], stock]

        labels = pick(self.labels)
        label = torch.where(mask, self.label[at_day[:, None], stock], torch.nan)
        self.load(exposures)
        loads = [self.loads[name].columns((at_day[:, None], stock)) for name in exposures]
        return Batch(
            days=day,
            stock=stock,
            x=self.x[at],
            present=present,
            mask=mask,
            label=label,
            liquidity=pick(self.liquidity),
            volatility=pick(self.volatility),
            market=None if self.market is None else self.market[at_day],
            labels=None if labels is None else torch.where(mask[:, :, None], labels, torch.nan),
            exposures=torch.cat(loads, dim=-1) if loads else None,
        )


def _moved(record: Any, device: torch.device) -> dict[str, Any]:
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}


def _axes(
    feature: pd.DataFrame | PanelRows,
) -> tuple[pd.DatetimeIndex, pd.Index, npt.NDArray[Any], npt.NDArray[Any]]:
    """Days and stocks of features, and the place of each row among them; ValueError as `_check_index`."""
    if isinstance(feature, PanelRows):
        days, stocks = feature.index.levels
        row, column = (np.asarray(codes) for codes in feature.index.codes)
        return pd.DatetimeIndex(days), stocks, row, column
    _check_index(feature, "feature")
    day_of, stock_of = (feature.index.get_level_values(level) for level in ("datetime", "instrument"))
    days, stocks = pd.DatetimeIndex(day_of).unique().sort_values(), stock_of.unique().sort_values()
    return days, stocks, days.get_indexer(day_of), stocks.get_indexer(stock_of)


def _check_index(frame: pd.DataFrame | pd.Series, what: str) -> None:
    if list(frame.index.names) != ["datetime", "instrument"]:
        raise ValueError(f"the {what} frame is indexed by {list(frame.index.names)}; wanted (datetime, instrument)")
    if not len(frame):
        raise ValueError(f"the {what} frame has no rows: check the universe and the dates of the handler")
    twice = frame.index.duplicated()
    if twice.any():
        raise ValueError(
            f"{int(twice.sum())} rows of the {what} frame stand twice, the first {frame.index[twice][0]}: "
            "remove the duplicates from the provider's instruments file or the loader"
        )


def _aligned(name: str, frame: pd.DataFrame, days: pd.Index, stocks: pd.Index) -> pd.DataFrame:
    """Bring a day x instrument frame to the panel's axes.

    Raises: ValueError where it shares no day or no stock with them.
    """
    for what, own, axis, wanted in (("day", frame.index, "rows", days), ("stock", frame.columns, "columns", stocks)):
        if not own.isin(wanted).any():
            raise ValueError(
                f"the grid {name} shares no {what} with the features: its {axis} are {list(own[:3])}..., wanted are "
                f"{what}s such as {list(wanted[:3])}. Pass days as rows and instruments as columns (transpose it?)"
            )
    return frame.reindex(index=days, columns=stocks)


def _flags(name: str, frame: pd.DataFrame, days: pd.Index, stocks: pd.Index) -> npt.NDArray[np.bool_]:
    """Take a grid of flags (D, N); what is not known is False."""
    return np.array(_aligned(name, frame, days, stocks).eq(True))


def _numbers(name: str, frame: pd.DataFrame, days: pd.Index, stocks: pd.Index) -> npt.NDArray[np.float32]:
    return np.array(_aligned(name, frame, days, stocks), dtype=np.float32)


def _states(market: pd.DataFrame, days: pd.Index) -> npt.NDArray[np.float32]:
    """Take the market features (D, M) of the days; raise ValueError where one is not known."""
    state = market.reindex(days).to_numpy(dtype=np.float32, copy=True)
    if not np.isfinite(state).all():
        gone = [str(d)[:10] for d in days[~np.isfinite(state).all(axis=1)]]
        raise ValueError(f"the market features are not finite on {len(gone)} days, the first {gone[:3]}")
    return state


def _scatter(
    x: npt.NDArray[np.float32],
    feature: pd.DataFrame,
    row: npt.NDArray[np.intp],
    column: npt.NDArray[np.intp],
    real: npt.NDArray[np.bool_],
    names: list[str],
) -> float:
    """Write the features of present stocks into x, some rows at a time; return the share of NaN that became 0.

    By several threads: most of the time goes into pages of memory that are touched for the first time.
    """
    flat, cell = x.reshape(-1, x.shape[2]), row * x.shape[1] + column

    def write(start: int) -> tuple[int, npt.NDArray[np.int64]]:
        """Copy the rows from `start` on; count the missing values, and the infinite ones of each feature."""
        rows = slice(start, start + CHUNK)
        value = feature.iloc[rows].to_numpy(dtype=np.float32, copy=True)
        value[~real[rows]] = 0.0
        strange = ~np.isfinite(value)
        missing, infinite = int(strange.sum()), np.zeros(len(names), dtype=np.int64)
        if missing:
            infinite += np.isinf(value).sum(axis=0)
            value[strange] = 0.0
        flat[cell[rows]] = value
        return missing, infinite

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        counted = list(pool.map(write, range(0, len(row), CHUNK)))
    infinite = sum((infinite for _, infinite in counted), np.zeros(len(names), dtype=np.int64))
    if infinite.any():
        shown = [f"{names[f]} ({infinite[f]})" for f in np.flatnonzero(infinite)[:8]]
        raise ValueError(
            f"infinite values in the features {shown}: add qlib's ProcessInf to the handler's infer_processors"
        )
    return sum(missing for missing, _ in counted) / max(1, int(real.sum()) * len(names))
