"""The strategy of `portfolio.CostAwarePolicy`: it trades as far as its forecast pays for it."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qlib.backtest.signal import SignalWCache

from qlib_ext.data import as_known, measured, with_industry
from qlib_ext.exchange import Options
from qlib_ext.options import argument_names, check_number, is_number, refuse_unknown, tell
from qlib_ext.portfolio import (
    KINDS,
    MAX_WEIGHT,
    RISK_AVERSION,
    CostAwarePolicy,
    Day,
    Forecast,
    ForecastSchedule,
    Risk,
    TopNPolicy,
    exposures,
    read_exposures,
)
from qlib_ext.provider import read_traded, trailing_volatility
from qlib_ext.strategy.policy_strategy import PolicyStrategy

FORECAST = "<FORECAST>"  # as is null: what the run's ForecastRecord found
HISTORY = 120  # days of closes before the backtest
HALFLIFE, ENTER, LEAVE, SLOW = 10.0, 0.06, 0.2, 0.01  # of the simple rule: days; shares of the stocks; of liquidity
BOUNDS = dict.fromkeys(("volatility", "liquidity", "beta"), 0.2)  # measured: docs/trading.md


class CostAwareStrategy(PolicyStrategy):
    """Hold what is best after the costs of getting there, each day anew, over all stocks at once.

    How it decides is `portfolio.CostAwarePolicy`'s; how it trades, and what it writes down, every `PolicyStrategy`'s.
    What it decides are shares at the close: a stock that is best left alone is not traded, whatever its price does, and
    has no row in `daily_targets`. An order that rounds to less than a lot is not sent. Costs are those of the exchange:
    fees of the day, the least commission, and its b. Where the forecast is missing or not significant it says so, and
    trades by the simple rule instead: ranks smoothed over 10 days, entering among the best 6% of the stocks and leaving
    below the best 20%, with at most 1% of a stock's liquidity held, and traded a day (`portfolio.TopNPolicy`). Of
    several forecasts (a walk-forward's, `portfolio.ForecastSchedule`) each day has its own.

    `daily_log` has beside the others: gain (yuan of the objective over no trade, the days to come included),
    cash_price (gain of one more yuan of cash), and for each exposure `exposure.NAME` (of the active portfolio after the
    trades), `beyond.NAME` (its distance to its bounds, 0 within) and `price.NAME` (gain of one more yuan of room).

    >>> index = pd.MultiIndex.from_product([panel.days, panel.stocks], names=["datetime", "instrument"])
    >>> forecast = Forecast(places=(0.1, 0.9), levels=(-0.001, 0.001), persistence=0.9, spread=5e-4, significant=True)
    >>> strategy = CostAwareStrategy(signal=pd.Series(range(len(index)), index), forecast=forecast, max_weight=0.02)
    >>> strategy.policy.max_weight, strategy.simple
    (0.02, False)
    """

    def __init__(
        self,
        *,
        signal: Any,
        forecast: Forecast | ForecastSchedule | Mapping[str, Any] | Sequence[Any] | str | Path | None = None,
        capital: float | None = None,
        participation: float = 0.05,
        trade_participation: float | None = 0.05,
        max_weight: float | None = MAX_WEIGHT,
        risk_aversion: float = RISK_AVERSION,
        exposures: Mapping[str, float | Sequence[float]] | None = BOUNDS,
        exposure_frame: pd.DataFrame | str | Path | None = None,
        benchmark: str | None = "mean",
        impact: float | None = None,
        min_holding: int = 0,
        liquidity: str = "auto",
        liquidity_window: int = 20,
        volatility_window: int = 20,
        liquidity_frame: pd.DataFrame | None = None,
        trade_exchange: Any = None,
        level_infra: Any = None,
        common_infra: Any = None,
        **unknown: Any,
    ) -> None:
        """Set forecast, limits and aversion.

        Args:
            signal: scores, or a model; see `PolicyStrategy`.
            forecast: what the scores are worth: a `portfolio.Forecast`, its `to_dict`, or a JSON file of it; or a
                `portfolio.ForecastSchedule`, or its `to_list`. None or "<FORECAST>": of the run's ForecastRecord, which
                PortAnaRecord fills in.
            capital: yuan to place, at most the account's value at the close before; None: all of it.
            participation: position cap, a share of a stock's liquidity.
            trade_participation: cap of a day's trade of a stock, likewise; None: no cap.
            max_weight: largest share of the capital in a stock, under either rule; None: no cap.
            risk_aversion: of active weights w with returns r and variances V: w'r - risk_aversion / 2 w'Vw counts.
            exposures: by name, bounds of the active portfolio's exposure: a number b for -b to b, or [least, most].
                Of the kinds of `portfolio.KINDS` and the columns of `exposure_frame`; in standard deviations of the
                day's universe, of a category's stocks in active weight. Default: 0.2 each for volatility, liquidity and
                beta, without which a score trades its tilts (docs/trading.md); None or {}: no bounds.
            exposure_frame: numbers or categories (text) by instrument, or by (datetime, instrument), known at the close
                of the day; or a CSV file with the columns code and, where they change, date. `industry` is there too,
                where the provider has qlib_ext/industry.csv.
            benchmark: mean, the mean stock; null: none, and idle cash costs nothing.
            impact: b of the square-root law that it expects; None: the exchange's, else 1.
            min_holding: see `PolicyStrategy`.
            liquidity: see `PolicyStrategy`.
            liquidity_window: see `PolicyStrategy`.
            volatility_window: days of the standard deviation that the impact goes by.
            liquidity_frame: see `PolicyStrategy`.
            trade_exchange: qlib's; so are `level_infra` and `common_infra`.
            level_infra: qlib's.
            common_infra: qlib's.
            unknown: nothing is allowed here.

        Raises:
            TypeError: an unknown option.
            ValueError: an option out of range, or scores that are not surely understood.
            OSError: a file that cannot be opened.
        """
        refuse_unknown("CostAwareStrategy", unknown, argument_names(CostAwareStrategy))
        check_number("CostAwareStrategy: volatility_window", volatility_window, "[2, inf)", whole=True)
        self.columns = with_industry(read_exposures(exposure_frame, "CostAwareStrategy: exposure_frame"))
        self.bounds = read_bounds(exposures, self.columns)
        self.schedule, self.impact, self.volatility_window = read_forecast(forecast), impact, volatility_window
        self.forecast = self.schedule.forecasts[0]
        self.best = CostAwarePolicy(
            self.forecast,
            capital=capital,
            participation=participation,
            trade_participation=trade_participation,
            max_weight=max_weight,
            risk_aversion=risk_aversion,
            benchmark=benchmark,
            impact=1.0 if impact is None else impact,
        )
        super().__init__(
            self.best,
            signal=signal,
            trade_participation=trade_participation,
            min_holding=min_holding,
            liquidity=liquidity,
            liquidity_window=liquidity_window,
            liquidity_frame=liquidity_frame,
            trade_exchange=trade_exchange,
            level_infra=level_infra,
            common_infra=common_infra,
        )
        if not isinstance(self.signal, SignalWCache):
            kind = type(self.signal).__name__
            raise ValueError(f"CostAwareStrategy: a {kind} tells one day at a time: give scores or a model")
        self._stocks_a_day = float(self.signal.signal_cache.groupby(level="datetime").count().median())
        self.rule, self.share = self._simple_rule(capital, participation, max_weight), self.trade_participation
        self._tell()
        self._trade_by(self.forecast)
        self._closes: dict[str, pd.DataFrame] = {}
        self._unknown: set[str] = set()  # exposures of which this was told

    def _told_by(self) -> str:
        """Tell the forecast too, in a repr."""
        return f"{super()._told_by()}; {'the simple rule' if self.simple else self.forecast}"

    def _simple_rule(self, capital: float | None, participation: float, max_weight: float | None) -> TopNPolicy:
        """Make the simple rule."""
        stocks = self._stocks_a_day
        enter = max(math.ceil(ENTER * stocks), 1)
        buffer = (enter, max(math.ceil(LEAVE * stocks), enter))
        slow = min(participation, SLOW)
        return TopNPolicy(capital, slow, rank_buffer=buffer, score_halflife=HALFLIFE, max_weight=max_weight)

    def _tell(self) -> None:
        """Say where the simple rule is traded by, and where the largest weight is large, or leaves capital idle."""
        stocks, weight = self._stocks_a_day, self.best.max_weight
        if weight is None or weight > MAX_WEIGHT:
            tell(
                f"CostAwareStrategy: max_weight is {weight}: more than {MAX_WEIGHT:.0%} of the capital may lie in one "
                f"stock; leave it out for {MAX_WEIGHT}"
            )
        if weight is not None and 1 < stocks < 1 / weight:  # the one of a workflow's check at its start is no universe
            tell(
                f"CostAwareStrategy: max_weight {weight:g} of {stocks:.0f} stocks a day places at most "
                f"{stocks * weight:.0%} of the capital: score more stocks, or name a larger max_weight"
            )
        pairs = list(zip(self.schedule.starts, self.schedule.forecasts, strict=True))
        weak = [(day, forecast) for day, forecast in pairs if not forecast.significant]
        if not weak:
            return
        days = "" if len(pairs) == 1 else f" of the days from {', '.join(str(day.date()) for day, _ in weak)}"
        why = (
            "not significant" if any(f.days for _, f in weak) else "missing (put a ForecastRecord before, or give one)"
        )
        enter, leave = self.rule.rank_buffer  # type: ignore[misc]
        tell(
            f"CostAwareStrategy: the forecast{days} is {why}: it trades by the simple rule, ranks smoothed over "
            f"{HALFLIFE:g} days, entering at rank {enter} and leaving at {leave}, at {SLOW:.0%} of a stock's liquidity "
            "a day"
        )

    def _trade_by(self, forecast: Forecast) -> None:
        """Trade by a forecast from now on; by the simple rule where it is not significant."""
        self.forecast, self.best = forecast, replace(self.best, forecast=forecast)
        self.simple = not forecast.significant
        self.policy = self.rule if self.simple else self.best
        self.trade_participation = self.traded_share(forecast)

    def policy_of(self, forecast: Forecast) -> CostAwarePolicy | TopNPolicy:
        """Policy by which the strategy trades where a forecast holds."""
        return replace(self.best, forecast=forecast) if forecast.significant else self.rule

    def traded_share(self, forecast: Forecast) -> float:
        """Cap of a day's trade, a share of a stock's liquidity, where a forecast holds."""
        return self.share if forecast.significant else min(self.share, SLOW)

    def _take(self, best: CostAwarePolicy) -> None:
        """Change the cost-aware policy."""
        self.best = best
        if not self.simple:
            self.policy = best

    def scores_at(self, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame | None:
        """Scores of the signal's days as `PolicyStrategy` tells them; from now on the forecast of these days holds."""
        if (forecast := self.schedule.at(end)) is not self.forecast:
            self._trade_by(forecast)
        return super().scores_at(start, end)

    def prepare(self, raw: pd.DataFrame) -> NDArray[np.float64]:
        """Scores (D, N), day x code, as the policy of each day wants them, of the days up to it."""
        score, out = raw.to_numpy(dtype=float), np.full(raw.shape, np.nan)
        for first, end, forecast in self.schedule.spans(raw.index):
            policy = forecast if forecast.significant else self.rule
            out[first:end] = policy.prepare(score[:end])[first:]
        return out

    def _target(self, close: Day, entry: dict[str, Any]) -> NDArray[np.float64]:
        """Solve the day, and write down what its limits cost."""
        if self.simple:
            return super()._target(close, entry)
        best = self.best.solve(close)
        entry |= {"gain": best.gain, "cash_price": best.cash_price}
        for n, name in enumerate(self.best.bounds):
            told = {"exposure": best.exposure, "beyond": best.distance, "price": best.exposure_price}
            entry |= {f"{key}.{name}": float(values[n]) for key, values in told.items()}
        return close.held + best.trade

    def complete(self, close: Day, codes: pd.Index, day: pd.Timestamp) -> Day:
        """Add risk and exposures, where any day is traded by a forecast."""
        if not any(forecast.significant for forecast in self.schedule.forecasts):
            return close
        closes = self._grids(codes, day)
        row = int(closes["volatility"].index.searchsorted(day, side="right")) - 1
        at = closes["volatility"].columns.get_indexer(codes)
        known = {
            name: np.where(at >= 0, grid.to_numpy()[row][at], np.nan)
            for name, grid in closes.items()
            if name != "market"
        }
        market = float(closes["market"].to_numpy()[row, 0])
        close = replace(close, volatility=known["volatility"], specific=known.pop("specific"), market_volatility=market)
        if not self.bounds:
            return close
        columns = {
            name: as_known(grid, pd.DatetimeIndex([day]), codes)[0]
            for name, grid in self.columns.items()
            if name in self.bounds
        }
        known["liquidity"] = close.known_liquidity
        ours = {name: value for name, value in known.items() if name in self.bounds}
        self._tell_unknown(close.universe, ours | columns, day)
        loads = exposures(close.universe, **ours, columns=columns)
        bounds = {name: self.bounds[name if name in self.bounds else name.partition("=")[0]] for name in loads}
        self._take(replace(self.best, bounds=bounds))
        return replace(close, exposures=np.column_stack(list(loads.values())))

    def _tell_unknown(self, universe: NDArray[np.bool_], values: Mapping[str, Any], day: pd.Timestamp) -> None:
        """Say once of each exposure that a day knows it of no stock: the bound has no effect there."""
        for name in sorted(values.keys() - self._unknown):
            if universe.any() and pd.isna(values[name])[universe].all():
                self._unknown.add(name)
                lead = f" (it looks {KINDS[name].lead} trading days back)" if name in KINDS else ""
                tell(
                    f"CostAwareStrategy: the exposure {name} is known of no stock on {day:%Y-%m-%d}{lead}: its bound "
                    "has no effect on such days"
                )

    def take_costs(self, options: Options) -> None:
        """Expect what an exchange with these options charges; an impact of the user's own goes first."""
        least = 5.0 if options.min_cost is None else options.min_cost
        b = options.impact if self.impact is None and is_number(options.impact) else self.best.impact
        self._take(replace(self.best, impact=float(b), least_commission=least, commission=options.commission))

    def _grids(self, codes: pd.Index, day: pd.Timestamp) -> dict[str, pd.DataFrame]:
        """Risk and beta by day and stock, known at the close: of the whole backtest, or outside of one of the day."""
        if not self._closes:
            alone = getattr(self, "level_infra", None) is None
            span = (day, day) if alone else self._reach()
            close = read_traded(self._stocks(codes), ["$close"], *span, lead=HISTORY)["$close"]
            self._closes = risk_grids(close, self.volatility_window)
            if more := [name for name in self.bounds if name in KINDS and name not in (*self._closes, "liquidity")]:
                self._closes |= {
                    name: grid.ffill().reindex(close.index)
                    for name, grid in measured(more, self._stocks(codes), *span).items()
                }
        return self._closes


def risk_grids(close: pd.DataFrame, window: int) -> dict[str, pd.DataFrame]:
    """Measure volatility, specific (deviation), beta (day x stock) and market (day x 1), each as last known."""
    price = close.astype(np.float64)
    risk = Risk.of_closes(price.to_numpy())
    grids = {"volatility": trailing_volatility(price, window)}
    grids |= {name: pd.DataFrame(getattr(risk, name), price.index, price.columns) for name in ("specific", "beta")}
    grids["market"] = pd.DataFrame(risk.market, price.index)
    return {name: grid.ffill() for name, grid in grids.items()}


# --- options


def read_forecast(forecast: Any) -> ForecastSchedule:
    """Read the option `forecast`; one that knows nothing where there is none.

    Raises: ValueError for a file that is none, TypeError for a name that a forecast does not have.
    """
    if forecast is None or isinstance(forecast, str) and forecast == FORECAST:
        return ForecastSchedule.read(Forecast())
    if isinstance(file := forecast, str | Path):
        try:
            forecast = json.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"CostAwareStrategy: forecast {str(file)!r} is no JSON file of a forecast: {error}"
            ) from None
    return ForecastSchedule.read(forecast)


def read_bounds(
    bounds: Mapping[str, float | Sequence[float]] | None, columns: Iterable[str]
) -> dict[str, tuple[float, float]]:
    """Read the option `exposures`. Raises: TypeError for a name that there is not, ValueError for a bound."""
    refuse_unknown("CostAwareStrategy's exposures", bounds or (), [*KINDS, *columns])
    out = {}
    for name, bound in (bounds or {}).items():
        pair = tuple(bound) if isinstance(bound, Sequence) else (-bound, bound) if is_number(bound) else ()
        if len(pair) != 2 or not all(map(is_number, pair)) or pair[0] > pair[1]:
            raise ValueError(
                f"CostAwareStrategy: exposures: {name} is {bound!r}; allowed are a number of at least 0, for both "
                "sides, or [least, most]"
            )
        out[name] = (float(pair[0]), float(pair[1]))
    return out
