"""The capacity of a run's own strategy: its policy with other capitals and impacts, see `evaluate.strategy_curve`."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import STRATEGY_CAPITALS, strategy_curve
from qlib_ext.exchange import AShareExchange
from qlib_ext.panel import grid_of
from qlib_ext.portfolio import market_of
from qlib_ext.record.facts import market_year
from qlib_ext.strategy import PolicyStrategy


def strategy_capacity(
    dataset: DayDatasetH,
    pred: pd.Series | pd.DataFrame,
    strategy: PolicyStrategy,
    exchange: AShareExchange,
    account: float,
    days: pd.DatetimeIndex,
) -> pd.DataFrame:
    """Draw the capacity curves of a run's strategy at several b, the account's own capital among the others.

    The accounts of `portfolio.simulate` begin in cash on the first day, as the backtest does, deal at the label's entry
    price without lots, and pay the square-root impact. The strategy's own capital is taken as a share of the account.

    Args:
        dataset: with liquidity, whose label enters a day after its signal.
        pred: scores by (datetime, instrument).
        strategy: of the run.
        exchange: of the run.
        account: yuan on the first day of the run.
        days: of the backtest.
    """
    panel = dataset.panel
    place = pd.DatetimeIndex(panel.days).searchsorted(days)
    rows = np.unique(place[place >= 2] - 2)  # what is held on a day was known two days before its close
    score = grid_of(pred, panel.days[rows], panel.stocks, calendar=panel.days)
    options = exchange.options
    fees: dict[str, Any] = {
        "commission": options.commission,
        "buy_rate": options.open_cost,
        "sell_rate": options.close_cost,
    }
    market = market_of(panel, rows, entry=dataset.span.entry, **fees)
    market["delisted"] = _delisted(exchange, panel.days[rows + dataset.span.entry], panel.stocks)
    caps = [cap for cap in (strategy.trade_participation, options.participation) if cap is not None and cap <= 1.0]
    least = options.min_cost if options.min_cost is not None else 5.0 if options.commission > 0 else 0.0

    own: Any = strategy.policy

    def policy(capital: float, b: float) -> Any:
        changed = {} if own.capital is None else {"capital": own.capital / account * capital}
        return replace(own, **changed, **({"impact": b} if hasattr(own, "impact") else {}))

    return strategy_curve(
        policy,
        score,
        market,
        capitals=[*STRATEGY_CAPITALS, account],
        year=market_year(),
        participation=min(caps, default=None),
        min_holding=strategy.min_holding,
        commission=options.commission,
        least=least,
    )


def _delisted(exchange: AShareExchange, days: Any, stocks: Any) -> np.ndarray[Any, Any]:
    """Stocks that are delisted by a day, (D, N)."""
    gone = pd.Series(exchange.day_rules.gone, exchange.quote.codes).reindex(stocks).to_numpy()
    return np.asarray(exchange.day_rules.days.searchsorted(days)[:, None] >= gone)
