"""The policy that trades as far as trading pays: a forecast against fees, impact and active risk.

``N`` stocks, ``K`` exposures; yuan.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qlib_ext.options import SHARE, check_number
from qlib_ext.portfolio.allocation import PARTICIPATION
from qlib_ext.portfolio.forecast import Forecast
from qlib_ext.portfolio.foresight import foresight
from qlib_ext.portfolio.optimal import OptimalTrades, optimal_trades
from qlib_ext.portfolio.policy import Day, Vector

Flags = NDArray[np.bool_]
RISK_AVERSION = 10.0
LEAST_SPREAD = 1e-5  # a day: a forecast below it says nothing
LEAST_VOLATILITY = 1e-3  # of a day
MARKET = 0.55  # volatility of the mean stock over that of the median one, where it is not known
ONE_TRADE = 0.01  # of the capital: what idle cash is invested by, for its cost


@dataclass(frozen=True)
class CostAwarePolicy:
    """Hold what is best after the costs of getting there, each day anew, over all stocks at once.

    The objective of a day is that of `optimal_trades`: the gain of a stock is its forecast, summed over the days that
    the position will be held for (`foresight`), its risk is risk_aversion * sigma^2 / capital, of the deviation from
    the benchmark, over the same days; impact is b sigma |u|^1.5 / sqrt(liquidity). Idle cash lacks the mean stock's
    return: it is charged with that one's variance. A stock without forecast (never scored), liquidity or volatility is
    not bought; one without the last known liquidity or volatility is not traded. What has grown over a cap is sold down
    to it, under the day's trade cap. A trade whose gain is less than what it lacks to the least commission is not made.

    Attributes:
        forecast: what a score is worth.
        capital: yuan to place, at most the account's value; None: all of it.
        participation: position cap, a share of a stock's liquidity; None: no cap.
        trade_participation: cap on a day's trade of a stock, likewise.
        max_weight: largest share of the capital in a stock; None: no cap.
        risk_aversion: of active weights w with returns r and their variances V: w'r - risk_aversion / 2 w'Vw counts.
        benchmark: "mean": the mean stock of the day's universe; None: no stock, and idle cash costs nothing.
        impact: b.
        bounds: by name of an exposure (least, most) of the active portfolio, in standard deviations of a stock; in the
            order of the columns of `Day.exposures`.
        least_commission: yuan of an order.
        commission: rate of it.
    """

    in_shares: ClassVar[bool] = True
    forecast: Forecast
    capital: float | None = None
    participation: float | None = PARTICIPATION
    trade_participation: float | None = PARTICIPATION
    max_weight: float | None = None
    risk_aversion: float = RISK_AVERSION
    benchmark: str | None = "mean"
    impact: float = 1.0
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    least_commission: float = 5.0
    commission: float = 0.0003

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("capital", "participation", "trade_participation", "max_weight"):
            if (value := getattr(self, name)) is not None:
                within = "(0, inf)" if name == "capital" else "(0, 1]"
                check_number(f"CostAwarePolicy: {name}", value, within, hint="" if name == "capital" else SHARE)
        check_number("CostAwarePolicy: risk_aversion", self.risk_aversion, "(0, inf)")
        for name in ("impact", "least_commission", "commission"):
            check_number(f"CostAwarePolicy: {name}", getattr(self, name), "[0, inf)")
        if self.benchmark not in ("mean", None):
            raise ValueError(
                f"CostAwarePolicy: benchmark is {self.benchmark!r}; allowed are mean (the mean stock), null"
            )

    def prepare(self, score: Vector) -> Vector:
        """Forecasts (D, N) of scores of successive days."""
        return self.forecast.prepare(score)

    def target(self, day: Day) -> Vector:
        """Yuan (N,) to hold after the next day's trades."""
        return day.held + self.solve(day).trade

    def solve(self, day: Day) -> OptimalTrades:
        """Best trades of a day, with what limits them."""
        problem = self._problem(day)
        best = optimal_trades(**problem)
        size = np.abs(best.trade)
        lacks = np.maximum(self.least_commission - self.commission * size, 0.0)
        dropped = (size > 0) & (problem["upper"] >= 0) & (best.stock_gain < lacks)
        if not dropped.any():
            return best
        problem["lower"] = np.where(dropped, 0.0, problem["lower"])
        problem["upper"] = np.where(dropped, 0.0, problem["upper"])
        return optimal_trades(**problem)

    def _problem(self, day: Day) -> dict[str, Any]:
        """Write a day as arguments of `optimal_trades`."""
        capital = day.value if self.capital is None else min(self.capital, day.value)
        known = (day.known_liquidity > 0) & np.isfinite(day.volatility)
        usual = float(np.median(day.volatility[known])) if known.any() else 1.0
        sigma = np.where(known, day.volatility, usual)
        specific = sigma if day.specific is None else np.where(np.isfinite(day.specific), day.specific, sigma)
        risk = self.risk_aversion * np.maximum(specific, LEAST_VOLATILITY) ** 2 / capital
        impact = np.where(known, self.impact * sigma / np.sqrt(np.where(known, day.known_liquidity, 1.0)), 0.0)
        spread = max(self.forecast.spread, LEAST_SPREAD)
        fee = (day.buy_rate + day.sell_rate) / 2
        gains, risks = foresight(
            impact / np.sqrt(risk * spread), fee / spread, persistence=self.forecast.persistence,
            decay=self.forecast.decay,
        )  # fmt: skip
        lower, upper = self._limits(day, capital, known)
        stocks = float(day.held.sum())
        problem: dict[str, Any] = {
            "held": day.held, "gain": gains * np.nan_to_num(day.score), "risk": risks * risk, "lower": lower,
            "upper": upper, "impact": impact, "capital": capital, "buy_rate": day.buy_rate, "sell_rate": day.sell_rate,
            "cash": min(day.value - stocks, max(capital - stocks, 0.0)),
        }  # fmt: skip
        if self.benchmark is not None and day.universe.any():
            count = float(np.count_nonzero(day.universe))
            problem["benchmark"] = np.where(day.universe, capital / count, 0.0)
            told = day.market_volatility
            market = MARKET * usual if told is None or not np.isfinite(told) else told
            whole = float(impact[day.universe].sum()) / count**1.5
            problem["market_risk"] = _idle_risk(self.risk_aversion * market**2 / capital, whole, fee, capital)
        if self.bounds:
            if day.exposures is None:
                raise ValueError(f"CostAwarePolicy: bounds of {', '.join(self.bounds)}, but the day has no exposures")
            problem |= {"exposures": np.nan_to_num(day.exposures), "bounds": list(self.bounds.values())}
        return problem

    def _limits(self, day: Day, capital: float, known: Flags) -> tuple[Vector, Vector]:
        """Least and most yuan (N,) of a day's trade."""
        liquidity = np.where(known, day.known_liquidity, 0.0)
        trade = (
            np.where(known, np.inf, 0.0) if self.trade_participation is None else self.trade_participation * liquidity
        )
        most = np.full(len(liquidity), capital)
        if self.participation is not None:
            most = np.minimum(most, self.participation * liquidity)
        if self.max_weight is not None:
            most = np.minimum(most, self.max_weight * capital)
        enters = ~np.isnan(day.score) & (day.liquidity > 0)
        room = np.where(enters, most - day.held, np.minimum(most - day.held, 0.0))
        return -np.minimum(day.held, trade), np.clip(room, -np.minimum(day.held, trade), trade)


def _idle_risk(risk: float, impact: float, fee: float, capital: float) -> float:
    """Risk of a yuan of idle cash, per yuan, of the days to come too; by the cost of investing it in the benchmark.

    Args:
        risk: of one day.
        impact: of |u|^1.5 spread over the benchmark.
        fee: of a trade.
        capital: yuan.
    """
    size = ONE_TRADE * capital
    cost = (1.5 * impact * np.sqrt(size) + fee) / size
    return risk + (np.sqrt(risk * risk + 4.0 * cost * risk) - risk) / 2.0
