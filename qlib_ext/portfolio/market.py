"""What an account meets on the days of a panel, beside the scores: what `simulate` asks for.

``D`` days, ``N`` stocks.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qlib_ext.panel import DayPanel
from qlib_ext.portfolio.costs import known_step
from qlib_ext.portfolio.exposures import WINDOW, Risk
from qlib_ext.rules import COMMISSION, fee_rates

GRIDS = ("liquidity", "volatility", "step_return", "buyable", "sellable")


def market_of(
    panel: DayPanel,
    rows: ArrayLike,
    *,
    entry: int = 1,
    commission: float = COMMISSION,
    buy_rate: ArrayLike | None = None,
    sell_rate: ArrayLike | None = None,
) -> dict[str, Any]:
    """Cut what `simulate` asks for out of a panel, once for all scores, policies and capitals.

    Args:
        panel: of a DayDatasetH with liquidity.
        rows: (D,) increasing rows of the panel; they count as following each other.
        entry: days from the signal to the entry, of the label (`panel.LabelSpan`).
        commission: of both sides; transfer fee and stamp duty are those in force on the day of the entry.
        buy_rate: fees as a share of what is bought, a number or (D,), in place of those by date (for days before
            2015-08).
        sell_rate: of what is sold.

    Returns:
        float64 grids (D, N): `liquidity` (yuan a day, NaN where not known on that day), `volatility` (the last known
        one), `step_return`; bool grids `buyable`, `sellable`, and `universe`, the stocks that are in it and traded on
        the signal day; `risk`, the last known one of entry prices up to the signal day; `buy_rate`, `sell_rate` (D,).

    Raises:
        ValueError: for rows that do not rise, or a panel that lacks a grid; as `rules.fee_rates`.

    >>> market = market_of(panel, [5, 6, 7])
    >>> market["liquidity"].shape, int(market["universe"].sum()), market["buy_rate"].round(6).tolist()
    ((3, 12), 36, [0.00032, 0.00032, 0.00032])
    """
    row = np.asarray(rows, dtype=np.int64)
    if row.ndim != 1 or not len(row) or row[0] < 0 or row[-1] >= len(panel.days) or (np.diff(row) <= 0).any():
        raise ValueError(f"rows {row[:5]}... must be one or more of 0 to {len(panel.days) - 1}, rising")
    lacks = [name for name in GRIDS if getattr(panel, name) is None]
    if lacks:
        raise ValueError(f"the panel lacks {', '.join(lacks)}: use DayDatasetH with liquidity (liquidity: auto)")
    grids = {name: getattr(panel, name).cpu().numpy() for name in GRIDS}
    grids["volatility"] = pd.DataFrame(grids["volatility"]).ffill().to_numpy()
    market: dict[str, Any] = {
        name: grid[row] if grid.dtype == bool else grid[row].astype(np.float64) for name, grid in grids.items()
    }
    market["universe"] = panel.present.cpu().numpy()[row]
    market["risk"] = _risk(grids, row, entry)
    rates: dict[str, Any] = {"buy_rate": buy_rate, "sell_rate": sell_rate}
    if buy_rate is None or sell_rate is None:
        fees = fee_rates(panel.days[np.minimum(row + entry, len(panel.days) - 1)], commission=commission)
        rates = {name: fees[name.partition("_")[0]].to_numpy() if own is None else own for name, own in rates.items()}
    return market | {name: np.broadcast_to(rate, row.shape) for name, rate in rates.items()}


def _risk(grids: dict[str, Any], row: NDArray[np.int64], entry: int) -> Risk:
    """Measure the risk of the stocks as it is known at the close of each row (D,), the last known one."""
    first = max(int(row[0]) - entry - 2 * WINDOW, 0)
    step, traded = (grid[first : row[-1] + 1] for grid in (grids["step_return"], grids["buyable"] | grids["sellable"]))
    price = np.ones(step.shape)
    price[1:] = np.cumprod(1.0 + known_step(step[:-1]), axis=0)  # at the entry of each row
    risk = Risk.of_closes(np.where(traded, price, np.nan))
    known = row - entry - first

    def at(grid: NDArray[np.float64]) -> NDArray[np.float64]:
        carried = pd.DataFrame(grid).ffill().to_numpy()[known.clip(min=0)]
        return np.where(known[:, None] >= 0, carried, np.nan)

    return Risk(at(risk.specific), at(risk.beta), at(risk.market)[:, 0])
