"""LiquidityRecord: what the score would have earned with real money, as artifacts and metrics of a qlib run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from qlib.data import D
from qlib.log import get_module_logger
from qlib.workflow import record_temp
from qlib.workflow.record_temp import ACRecordTemp, SignalRecord

from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import DEFINITIONS, daily_metrics, headline_table, rank_correlation, sleeve_returns
from qlib_ext.panel import DayPanel
from qlib_ext.portfolio import fee_cost, fill_top_n, impact_cost, rebalancing
from qlib_ext.rules import fee_rates

logger = get_module_logger("qlib_ext.record")

Grid = npt.NDArray[np.float64]


class PortAnaRecord(record_temp.PortAnaRecord):
    """qlib's PortAnaRecord, with a backtest that ends a day before the calendar does.

    qlib asks for the day after the last one and fails on the calendar's end (qlib issue 2278).
    """

    def _generate(self, **kwargs: Any) -> Any:
        calendar = pd.DatetimeIndex(D.calendar())
        last = self.load("pred.pkl").index.get_level_values("datetime").max()
        end = pd.Timestamp(self.backtest_config["end_time"] or last)
        if end >= calendar[-1]:
            logger.info(f"the backtest ends on {calendar[-2].date()}: qlib needs the day after its last one")
            self.backtest_config["end_time"] = calendar[-2]
        return super()._generate(**kwargs)


class LiquidityRecord(ACRecordTemp):
    """Place `capital` by the run's scores under liquidity limits and write the deck's table.

    Artifacts in `liquidity_analysis/`: `daily.pkl` (metrics and returns of each day), `positions.pkl` (datetime,
    instrument, yuan, weight of the capital), `headline.pkl` and `definitions.pkl` (what each number means).

    Args:
        recorder, model, dataset: filled in by qlib; the dataset must be a DayDatasetH with liquidity.
        capital: yuan.
        participation: largest share of a stock's liquidity.
        top_n: names of the fixed-n variant.
        benchmark: index code, or None for the universe's mean alone.
        commission: of both sides; transfer fee and stamp duty are those in force on the day.
        impact: b of `portfolio.impact_cost` in the rows `..._net_impact`: a trade of share s of a day's turnover pays
            impact * volatility * sqrt(s).

    """

    artifact_path = "liquidity_analysis"
    depend_cls = SignalRecord

    def __init__(
        self,
        recorder: Any,
        dataset: Any = None,
        model: Any = None,
        *,
        capital: float = 150e6,
        participation: float = 0.05,
        top_n: int = 30,
        benchmark: str | None = "SH000300",
        commission: float = 0.0003,
        impact: float = 1.0,
        skip_existing: bool = False,
    ) -> None:
        super().__init__(recorder=recorder, skip_existing=skip_existing)
        if not isinstance(dataset, DayDatasetH) or dataset.liquidity is None:
            raise ValueError("LiquidityRecord needs a DayDatasetH with liquidity (for example liquidity: auto)")
        self.dataset, self.capital, self.participation, self.top_n = dataset, capital, participation, top_n
        self.benchmark, self.commission, self.impact = benchmark, commission, impact

    def list(self) -> list[str]:
        """Name the artifacts."""
        return ["daily.pkl", "positions.pkl", "headline.pkl", "definitions.pkl"]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        panel, rows = self.dataset.panel, self.dataset.rows("test")
        days = pd.DatetimeIndex(panel.days[rows])
        score = self._score(panel, days)
        label, liquidity, buyable = (_part(g, rows) for g in (panel.label, panel.liquidity, panel.buyable))
        can_buy = buyable > 0
        daily = daily_metrics(
            score,
            label,
            liquidity,
            can_buy,
            capital=self.capital,
            participation=self.participation,
            top_n=self.top_n,
        ).set_index(days)
        step = label if panel.step_return is None else _part(panel.step_return, rows)
        volatility = _part(panel.volatility, rows)
        daily["volatility_exposure"] = rank_correlation(score, volatility)
        returns: dict[str, pd.Series] = {}
        positions: dict[str, Grid] = {}
        for kind, count in (("capped", None), ("topn", self.top_n)):
            yuan: Grid = fill_top_n(
                score, liquidity, capital=self.capital, participation=self.participation, top_n=count
            )
            positions[kind] = np.where(can_buy, yuan, 0.0)
            for basis, held in (("buyable", positions[kind]), ("paper", yuan)):
                returns |= self._returns(f"{kind}_{basis}", held, step, days, liquidity, volatility)
        returns |= self._excess(returns, step, score, days)
        known = np.flatnonzero(np.isfinite(step).any(axis=1))
        returns = {name: series.iloc[known] for name, series in returns.items()}
        table = headline_table(returns, ic=daily["ic"].to_numpy()[known], unscored=("market", str(self.benchmark)))
        self._log(table, daily, days[known])
        return {
            "daily.pkl": daily.join(pd.DataFrame(returns), rsuffix="_series"),
            "positions.pkl": _long(positions["capped"], days, panel.stocks, self.capital),
            "headline.pkl": table,
            "definitions.pkl": DEFINITIONS,
        }

    def _score(self, panel: DayPanel, days: pd.DatetimeIndex) -> Grid:
        wide = self.load("pred.pkl")["score"].unstack("instrument").reindex(index=days, columns=panel.stocks)
        return np.asarray(wide.to_numpy(dtype=np.float64))

    def _returns(
        self, name: str, held: Grid, step: Grid, days: pd.DatetimeIndex, liquidity: Grid, volatility: Grid
    ) -> dict[str, pd.Series]:
        """Gross and net daily return of one allocation on the whole capital; cash earns 0."""
        horizon = self.dataset.span.horizon
        gross = sleeve_returns(held, step, horizon, capital=self.capital)
        average = pd.DataFrame(held).rolling(horizon, min_periods=1).sum().to_numpy() / horizon
        fees = fee_rates(days, commission=self.commission)
        cost = fee_cost(average, step, fees["buy"].to_numpy(), fees["sell"].to_numpy(), capital=self.capital)
        trade = rebalancing(average, step)
        moved = impact_cost(trade, _last_known(liquidity), _last_known(volatility), b=self.impact)
        impact = moved.sum(axis=1) / self.capital
        series = {"gross": gross, "net": gross - cost, "net_impact": gross - cost - impact}
        return {f"{name}_{kind}": pd.Series(value, index=days) for kind, value in series.items()}

    def _excess(
        self, returns: dict[str, pd.Series], step: Grid, score: Grid, days: pd.DatetimeIndex
    ) -> dict[str, pd.Series]:
        """Excess over the mean of the scored universe, and over the benchmark where there is one."""
        seen = np.isfinite(step) & np.isfinite(score)
        mean = np.where(seen, step, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
        against = {"market": pd.Series(mean, index=days)}
        if self.benchmark is not None:
            entry = self.dataset.span.entry
            expression = f"Ref($close, -{entry + 1})/Ref($close, -{entry}) - 1"
            index = D.features([self.benchmark], [expression], days[0], days[-1])
            if index.empty:
                raise ValueError(f"benchmark {self.benchmark!r} is not in the provider: name another or set null")
            against[self.benchmark] = index.iloc[:, 0].droplevel("instrument").reindex(days).fillna(0.0)
        excess = {
            f"{name}_over_{base}": series - other
            for name, series in returns.items()
            if "buyable" in name
            for base, other in against.items()
        }
        return excess | against

    def _log(self, table: pd.DataFrame, daily: pd.DataFrame, days: pd.DatetimeIndex) -> None:
        """Log the numbers as metrics and show the table with its definitions."""
        metrics = {f"{row}.{key}": float(value) for row, line in table.T.items() for key, value in line.items()}
        metrics |= {f"mean.{key}": float(value) for key, value in daily.mean().items()}
        self.recorder.log_metrics(**{k: v for k, v in metrics.items() if math.isfinite(v)})
        shown = table.to_string(float_format=lambda v: f"{v:.4f}")
        words = "\n".join(f"  {key}: {text}" for key, text in DEFINITIONS.items())
        logger.info(
            f"{len(days)} days, {days[0].date()} to {days[-1].date()}, {self.capital / 1e6:g} million yuan, "
            f"{self.participation:.1%} of a day's turnover a stock; net: commission {self.commission:.3%}, transfer "
            f"fee and stamp duty; net_impact: and {self.impact:g} * volatility * sqrt(share of turnover) a trade; "
            f"rebalanced daily\n{shown}\n{words}\n"
            f"  names held {daily['capped_names_held'].mean():.1f}, cash {daily['capped_cash_share'].mean():.1%}, "
            f"rank correlation of score and trailing volatility {daily['volatility_exposure'].mean():.3f}\n"
            f"artifacts: {Path(self.recorder.get_local_dir()) / 'artifacts'}"
        )


def _part(grid: torch.Tensor | None, rows: npt.NDArray[np.int64]) -> Grid:
    if grid is None:
        raise ValueError("the panel lacks a grid that the record needs: use DayDatasetH with liquidity")
    return np.asarray(grid[torch.as_tensor(rows)].numpy(), dtype=np.float64)


def _last_known(grid: Grid) -> Grid:
    """Carry the last positive value on; before a stock's first one, the day's median (the trades are small there)."""
    frame = pd.DataFrame(grid).where(grid > 0).ffill()
    return np.asarray(frame.T.fillna(frame.median(axis=1)).T.to_numpy())


def _long(yuan: Grid, days: pd.DatetimeIndex, stocks: npt.NDArray[np.object_], capital: float) -> pd.DataFrame:
    """List the holdings: yuan and weight by (datetime, instrument)."""
    day, stock = np.nonzero(yuan)
    index = pd.MultiIndex.from_arrays([days[day], stocks[stock]], names=["datetime", "instrument"])
    return pd.DataFrame({"yuan": yuan[day, stock], "weight": yuan[day, stock] / capital}, index=index)
