"""What an account that follows the score would have earned over the mean stock, after fees and impact: (D,) a day.

The forecast that the account trades by is fitted on one half of the days and used on the other. Returns are those of
single days, and a pair of a score and a later return counts only where both lie in the half of the fit: whatever
reaches over the border, up to the longest horizon, is left out, so that no return is both learnt from and earned.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qlib_ext.evaluate.day_grids import DayGrids
from qlib_ext.options import check_choice, check_number
from qlib_ext.portfolio import (
    CAPITAL,
    HORIZONS,
    PARTICIPATION,
    CostAwarePolicy,
    Forecast,
    Policy,
    TopNPolicy,
    exposures,
    simulate,
)

Grid = NDArray[np.float64]
FEWEST = 8  # days
EXPOSURES = {"volatility": 0.2, "liquidity": 0.2, "beta": 0.2}  # as `strategy.CostAwareStrategy` has it
PARTS = 4  # the longest horizon is at most such a part of the days that the forecast is fitted on


class NetExcess:
    """The metric `net_excess`; in YAML with options: {class: NetExcess, module_path: qlib_ext.evaluate, kwargs: {...}}.

    The account has the metrics' `capital`, holds at most their `participation` of a stock's liquidity, and begins with
    the mean portfolio of the universe: neither noise nor the way out of cash is measured. In the second half it has
    already traded the first one.

    Args:
        trade_participation: largest share of a stock's liquidity to trade in a day.
        impact: b of `portfolio.impact_cost`.
        topn: options of `portfolio.TopNPolicy` to trade by; None: a `portfolio.CostAwarePolicy`.
        exposures: bounds b of the CostAwarePolicy, -b to b standard deviations of the universe, on the account's active
            exposure to volatility, liquidity and beta: the luck of such a bet on a few days tells little of a score.
            {}: none.
        policy: further options of the CostAwarePolicy (risk_aversion, max_weight).

    Raises:
        TypeError, ValueError: for options that the policy does not have or take.

    >>> NetExcess(policy={"risk_aversion": 20.0}).whole
    True
    """

    needs_liquidity = True
    whole = True

    def __init__(
        self,
        *,
        trade_participation: float = 0.05,
        impact: float = 1.0,
        topn: Mapping[str, Any] | None = None,
        exposures: Mapping[str, float] = EXPOSURES,
        policy: Mapping[str, Any] | None = None,
    ) -> None:
        check_number("NetExcess: trade_participation", trade_participation, "(0, 1]")
        check_number("NetExcess: impact", impact, "[0, inf)")
        if topn is not None and policy is not None:
            raise ValueError("NetExcess: topn and policy are options of two ways to trade: give one of them")
        self.trade_participation, self.impact = trade_participation, impact
        for name, bound in exposures.items():
            check_choice("exposure of NetExcess", name, EXPOSURES)
            check_number(f"NetExcess: exposures: {name}", bound, "[0, inf)")
        self.topn, self.policy, self.exposures = topn, dict(policy or {}), dict(exposures)
        self._policy(Forecast(), 0.05)

    def __call__(self, days: DayGrids) -> Tensor:
        """Daily excess (D,); NaN with fewer than 8 days, and where no stock's next step is known."""
        if days.trading is None:
            raise ValueError("the metric net_excess needs trading=market_of(panel, rows), see portfolio.market_of")
        score, middle = days.score.numpy(), len(days.score) // 2
        money: dict[str, Any] = {"capital": days.capital, "participation": days.participation}
        out = np.full(len(score), np.nan)
        if len(score) >= FEWEST:
            halves = (slice(0, middle), slice(middle, len(score)))
            for own, other in (halves, halves[::-1]):
                forecast = Forecast() if self.topn is not None else _fit(score, days.trading, other)
                known = {name: value if name == "risk" else value[: own.stop] for name, value in days.trading.items()}
                out[own] = self.account(forecast, score[: own.stop], known, **money)[own]
        return torch.from_numpy(out)

    def account(
        self,
        forecast: Forecast,
        score: Grid,
        trading: Mapping[str, Any],
        *,
        capital: float = CAPITAL,
        participation: float = PARTICIPATION,
        first: int = 0,
    ) -> Grid:
        """Let an account that begins with the mean portfolio trade by a forecast: its daily excess (D - first,).

        Args:
            forecast: of the scores; the options `topn` do without.
            score: (D, N).
            trading: of the days, of `portfolio.market_of`.
            capital: yuan at the start.
            participation: largest share of a stock's liquidity to hold.
            first: row at which the account begins.
        """
        money: dict[str, Any] = {"account": capital, "participation": self.trade_participation, "impact": self.impact}
        if self.topn is None and self.exposures:
            known = {**trading, "beta": trading["risk"].beta[: len(score)]}
            loads = exposures(trading["universe"], **{name: known[name] for name in self.exposures})
            money["exposures"] = np.stack([loads[name] for name in self.exposures], axis=-1)
        done = simulate(self._policy(forecast, participation), score, **trading, **money, start="mean", first=first)
        return done.daily["excess"].to_numpy(dtype=np.float64)

    def _policy(self, forecast: Forecast, participation: float) -> Policy:
        if self.topn is not None:
            return TopNPolicy(**{"participation": participation, **self.topn})
        bounds = {name: (-bound, bound) for name, bound in self.exposures.items()}
        caps = {"participation": participation, "trade_participation": self.trade_participation}
        return CostAwarePolicy(forecast, **{**caps, "impact": self.impact, "bounds": bounds, **self.policy})


def _fit(score: Grid, trading: Mapping[str, Any], rows: slice) -> Forecast:
    """Fit on the rows, over horizons that they are long enough for."""
    horizons = [horizon for horizon in HORIZONS if horizon <= max((rows.stop - rows.start) // PARTS, 1)]
    mask = (trading["universe"] & trading["buyable"])[rows]
    return Forecast.fit(score[rows], trading["step_return"][rows], mask=mask, horizons=horizons)
