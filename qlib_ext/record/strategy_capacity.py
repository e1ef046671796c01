"""The capacity of a run's own strategy: its policy with other capitals and impacts, see `evaluate.strategy_curve`."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import STRATEGY_CAPITALS, strategy_curve
from qlib_ext.exchange import AShareExchange
from qlib_ext.panel import grid_of
from qlib_ext.portfolio import CostAwarePolicy, Day, Risk, market_of
from qlib_ext.record.facts import market_year
from qlib_ext.strategy import CostAwareStrategy, PolicyStrategy

Grid = npt.NDArray[np.float64]


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
    least = options.min_cost if options.min_cost is not None else 5.0 if options.commission > 0 else 0.0

    signal_days = pd.DatetimeIndex(panel.days[rows])
    more, bounds = _known(strategy, score, market, pd.Index(panel.stocks), signal_days)
    held: list[tuple[int, Any, float]] = [(len(rows), strategy.policy, strategy.trade_participation)]
    if isinstance(strategy, CostAwareStrategy):
        spans = strategy.schedule.spans(signal_days)
        held = [(end - first, strategy.policy_of(told), strategy.traded_share(told)) for first, end, told in spans]

    def policy(capital: float, b: float) -> list[Any]:
        every: list[Any] = []
        for count, own, _ in held:
            changed: dict[str, Any] = {} if own.capital is None else {"capital": own.capital / account * capital}
            if isinstance(own, CostAwarePolicy):
                changed |= {"impact": b, "bounds": bounds}
            every += [replace(own, **changed)] * count
        return every

    most = np.inf if options.participation is None else options.participation
    caps = np.repeat([min(share, most) for _, _, share in held], [count for count, _, _ in held])
    return strategy_curve(
        policy,
        score,
        market | more,
        capitals=[*STRATEGY_CAPITALS, account],
        year=market_year(),
        participation=np.where(caps <= 1.0, caps, np.inf),
        min_holding=strategy.min_holding,
        commission=options.commission,
        least=least,
    )


def _known(
    strategy: PolicyStrategy, score: Grid, market: dict[str, Any], codes: pd.Index, days: pd.DatetimeIndex
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """Ask the strategy day by day what its policy knows of the stocks beside the market, and its bounds."""
    nothing = np.zeros(len(codes))
    carried = pd.DataFrame(market["liquidity"]).ffill().to_numpy()
    seen: dict[str, list[Any]] = {name: [] for name in ("volatility", "specific", "market_volatility")}
    loads: list[dict[str, Any]] = []
    bounds: dict[str, tuple[float, float]] = {}
    for d, day in enumerate(days):
        told = {
            "liquidity": market["liquidity"][d],
            "known_liquidity": carried[d],
            "volatility": market["volatility"][d],
        }
        told |= {"universe": ~np.isnan(score[d]), "value": 1.0, "buy_rate": 0.0, "sell_rate": 0.0}
        close = strategy.complete(Day(score=score[d], held=nothing, **told), codes, day)
        if close.specific is None:
            return {}, bounds
        for name, grid in seen.items():
            grid.append(getattr(close, name))
        if close.exposures is not None and isinstance(strategy, CostAwareStrategy):
            bounds |= strategy.best.bounds
            loads.append(dict(zip(strategy.best.bounds, close.exposures.T, strict=True)))
    specific = np.array(seen["specific"])
    risk = Risk(specific, np.full_like(specific, np.nan), np.array(seen["market_volatility"], dtype=np.float64))
    known = {"volatility": np.array(seen["volatility"]), "risk": risk}
    if bounds:
        known["exposures"] = np.array([[load.get(name, nothing) for name in bounds] for load in loads]).swapaxes(1, 2)
    return known, bounds


def _delisted(exchange: AShareExchange, days: Any, stocks: Any) -> np.ndarray[Any, Any]:
    """Stocks that are delisted by a day, (D, N)."""
    gone = pd.Series(exchange.day_rules.gone, exchange.quote.codes).reindex(stocks).to_numpy()
    return np.asarray(exchange.day_rules.days.searchsorted(days)[:, None] >= gone)
