"""The waterfall of a backtest: from the judge's paper to the account, one assumption a stage (`evaluate.waterfall`)."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from qlib.data import D
from qlib.log import get_module_logger

from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import account_returns, paper_returns
from qlib_ext.exchange import prices
from qlib_ext.panel import grid_of
from qlib_ext.portfolio import PARTICIPATION
from qlib_ext.record.judgement import entry_return, grid_rows

logger = get_module_logger("qlib_ext.backtest")

Changes = tuple[dict[str, Any], dict[str, Any]]  # of the options of strategy and exchange

NO_CAP = {"trade_participation": None}
NO_BUFFER = {"rank_buffer": 1.0, "min_holding": 0}
NO_FEES = {"open_cost": 0.0, "close_cost": 0.0, "min_cost": 0.0, "impact": 0.0}
NO_CAPS = {"participation": None, "volume_threshold": None}


def stage_changes(entry_field: str) -> dict[str, Changes]:
    """List what each stage with a backtest changes in the run's own options; `limits` deals at the label's entry."""
    return {
        "limits": (NO_CAP | NO_BUFFER, NO_CAPS | NO_FEES | {"deal_price": prices(entry_field)}),
        "price": (NO_CAP | NO_BUFFER, NO_CAPS | NO_FEES),
        "buffer": (NO_CAP, NO_CAPS | NO_FEES),
        "caps": ({}, NO_FEES),
        "costs": ({}, {"impact": 0.0}),
        "impact": ({}, {}),
    }


def traded_stages(
    stages: Mapping[str, Changes],
    options: Changes,
    own: pd.Series,
    trade: Callable[[dict[str, Any], dict[str, Any]], pd.Series],
) -> tuple[dict[str, pd.Series], list[str]]:
    """Run the backtests of the stages.

    Args:
        stages: of `stage_changes`.
        options: of the run's strategy and exchange, with their defaults.
        own: (D,) the run's net returns, those of a stage that changes nothing.
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
        elif here == changed(({}, {})):
            series[stage] = own
        else:
            began = time.perf_counter()
            series[stage] = trade(*(mine | change for mine, change in zip(options, changes, strict=True)))
            logger.info(f"waterfall: backtest of {stage!r}, {time.perf_counter() - began:.1f} s")
        above = here
    return series, skipped


def judged_stages(
    dataset: DayDatasetH, pred: pd.DataFrame, days: pd.DatetimeIndex, account: float, options: Mapping[str, Any]
) -> dict[str, pd.Series]:
    """Give the stages that need no backtest, `paper`, `buyable` and `account`, over a backtest's days.

    The score of the close of d places the capital at the entry of d+1 and earns until d+2, in the backtest's way of
    counting; on the first day of the backtest nothing is held. A label of several days is not used: the one-day
    returns are, as the strategy trades every day.

    Args:
        dataset: whose panel has label, liquidity and buyable.
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
    grids = panel.liquidity, entry_return(panel), panel.buyable
    liquidity, earned, buyable = (grid_rows(grid, at.clip(min=0)) for grid in grids)
    market = score, liquidity, earned, buyable > 0
    capital = options.get("capital")
    caps = {"participation": options.get("participation", PARTICIPATION), "top_n": options.get("top_n")}
    placed = account if capital is None else min(capital, account)
    paper = paper_returns(*market, capital=placed, **caps)
    stages = {name: returns * (placed / account) for name, returns in paper.items()}
    stages["account"] = account_returns(*market, account=account, capital=capital, **caps)
    return {name: pd.Series(np.r_[0.0, returns], index=days) for name, returns in stages.items()}
