"""The waterfall of a backtest: from the judge's paper to the account, one assumption a stage (`evaluate.waterfall`)."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from qlib.data import D
from qlib.log import get_module_logger

from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import paper_returns
from qlib_ext.exchange import prices
from qlib_ext.panel import grid_of
from qlib_ext.portfolio import PARTICIPATION
from qlib_ext.record.judgement import entry_return, grid_rows, traded_at_entry

logger = get_module_logger("qlib_ext.backtest")

Changes = tuple[dict[str, Any], dict[str, Any]]  # of the options of strategy and exchange

NO_CAP = {"trade_participation": None}
NO_BUFFER = {"rank_buffer": 1.0, "min_holding": 0, "score_halflife": None}
DECK = NO_BUFFER | {"participation": PARTICIPATION, "trade_participation": PARTICIPATION, "top_n": None}
NO_FEES = {"open_cost": 0.0, "close_cost": 0.0, "min_cost": 0.0, "impact": 0.0}
NO_CAPS = {"participation": None, "volume_threshold": None}


def stage_changes(entry_field: str) -> dict[str, Changes]:
    """List what each stage with a backtest changes in a LiquidityTopNStrategy's run; `limits` deals at the entry."""
    return {
        "limits": (NO_CAP | NO_BUFFER, NO_CAPS | NO_FEES | {"deal_price": prices(entry_field)}),
        "price": (NO_CAP | NO_BUFFER, NO_CAPS | NO_FEES),
        "buffer": (NO_CAP, NO_CAPS | NO_FEES),
    }


def traded_stages(
    stages: Mapping[str, Changes],
    options: Changes,
    trade: Callable[[dict[str, Any], dict[str, Any]], pd.Series],
) -> tuple[dict[str, pd.Series], list[str]]:
    """Run the backtests of the stages.

    Args:
        stages: of `stage_changes`.
        options: of the run's strategy and exchange, with their defaults.
        trade: gives the net returns of the run's backtest with other options of strategy and exchange.

    Returns: net returns by stage, and the stages that are as the one above.
    """
    names = [{name for stage in stages.values() for name in stage[i]} for i in (0, 1)]

    def changed(changes: Changes) -> list[dict[str, Any]]:
        return [{name: (options[i] | changes[i])[name] for name in names[i]} for i in (0, 1)]

    series: dict[str, pd.Series] = {}
    skipped, above = [], None
    for stage, changes in stages.items():
        if (here := changed(changes)) == above:
            skipped.append(stage)
        else:
            began = time.perf_counter()
            series[stage] = trade(*(mine | change for mine, change in zip(options, changes, strict=True)))
            logger.info(f"waterfall: backtest of {stage!r}, {time.perf_counter() - began:.1f} s")
        above = here
    return series, skipped


def judged_stages(
    dataset: DayDatasetH, pred: pd.DataFrame, days: pd.DatetimeIndex, account: float, options: Mapping[str, Any]
) -> dict[str, pd.Series]:
    """Give the stages that need no backtest, `paper` and `buyable`, over a backtest's days.

    The score of the close of d places the capital at the entry of d+1 and earns until d+2, in the backtest's way of
    counting; on the first day of the backtest nothing is held. A label of several days is not used: the one-day
    returns are, as the strategy trades every day.

    Args:
        dataset: whose panel has label, liquidity, buyable and sellable.
        pred: scores by (datetime, instrument), first column.
        days: (D,) of the backtest.
        account: yuan on the first day.
        options: of the strategy: capital, participation, top_n.
    """
    panel, calendar = dataset.panel, pd.DatetimeIndex(D.calendar())
    place = calendar.get_indexer(days[1:]) - 2
    signal = calendar[place.clip(min=0)]
    at = np.where(place < 0, -1, pd.DatetimeIndex(panel.days).get_indexer(signal))
    score = np.where(at[:, None] < 0, np.nan, grid_of(pred, signal, panel.stocks))
    rows, capital = at.clip(min=0), options.get("capital")
    liquidity, earned = (grid_rows(grid, rows) for grid in (panel.liquidity, entry_return(panel)))
    can_buy, can_sell = traded_at_entry(panel, rows)
    caps = {"participation": options.get("participation", PARTICIPATION), "top_n": options.get("top_n")}
    placed = account if capital is None else min(capital, account)
    stages = paper_returns(score, liquidity, earned, can_buy, can_sell, capital=placed, **caps)
    return {name: pd.Series(np.r_[0.0, returns], index=days) for name, returns in stages.items()}
