"""What a run's scores would have earned with real money, as artifacts and metrics of a qlib run.

All three ask the one judge, `qlib_ext.judge`: LiquidityRecord for the test period, FoldRecord for each block of the
folds, BaselineRecord for the scores that are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qlib.log import get_module_logger
from qlib.workflow.record_temp import ACRecordTemp, SignalRecord

from qlib_ext import evaluate
from qlib_ext.data import DayDatasetH
from qlib_ext.evaluate import (
    CAPACITY_DEFINITIONS,
    DEFINITIONS,
    capacity_words,
    exposures,
    quantile_returns,
    zero_capitals,
)
from qlib_ext.options import refuse_unknown
from qlib_ext.panel import DayPanel
from qlib_ext.record.facts import keep_facts
from qlib_ext.record.judgement import (
    FACTOR_DEFINITIONS,
    ROW_DEFINITIONS,
    TABLE_DEFINITIONS,
    Grid,
    Judgement,
    Money,
    Rows,
    capacity,
    fold_table,
    index_returns,
    judge,
    part,
    past_return,
    table_row,
)
from qlib_ext.record.words import block_rows, listed, selections, shown, volatility_warning
from qlib_ext.runs import BENCHMARK, load_if_there, log_finite

logger = get_module_logger("qlib_ext.record")


# --- records


class _MoneyRecord(ACRecordTemp):
    """What the three records share: the dataset, the money, the benchmark, and the run's scores."""

    depend_cls = SignalRecord
    options: tuple[str, ...] = (*(field.name for field in fields(Money)), "benchmark", "skip_existing")

    def __init__(
        self,
        recorder: Any,
        dataset: Any = None,
        model: Any = None,
        *,
        capital: float = Money.capital,
        participation: float = Money.participation,
        top_n: int = Money.top_n,
        benchmark: str | None = BENCHMARK,
        commission: float = Money.commission,
        impact: float = Money.impact,
        buy_rate: float | None = None,
        sell_rate: float | None = None,
        skip_existing: bool = False,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown, self.options)
        super().__init__(recorder=recorder, skip_existing=skip_existing)
        if not isinstance(dataset, DayDatasetH) or dataset.liquidity is None:
            raise ValueError(f"{type(self).__name__} needs a DayDatasetH with liquidity (for example liquidity: auto)")
        self.dataset, self.model, self.benchmark = dataset, model, benchmark
        self.money = Money(capital, participation, top_n, commission, impact, buy_rate, sell_rate)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the run's facts (`run_facts.pkl`), where no record before has; then as qlib does."""
        keep_facts(self.recorder, self.dataset, self.model)
        return super().generate(*args, **kwargs)

    def _judge(self, rows: Rows, score: Grid) -> Judgement:
        panel, span = self.dataset.panel, self.dataset.span
        days = pd.DatetimeIndex(panel.days[rows])
        index = index_returns(self.benchmark, span, days, field=self.dataset.entry_field)
        return judge(panel, rows, score, self.money, span, index)

    def _score(self, rows: Rows, scores: pd.Series | None = None) -> Grid:
        """Scores of some days, (d, N); those of pred.pkl unless others are given."""
        panel: DayPanel = self.dataset.panel
        given = self.load("pred.pkl")["score"] if scores is None else scores
        grid = given.unstack("instrument").reindex(index=pd.DatetimeIndex(panel.days[rows]), columns=panel.stocks)
        return np.asarray(grid.to_numpy(dtype=np.float64))


class LiquidityRecord(_MoneyRecord):
    """Place `capital` by the run's scores under liquidity limits and write the deck's table.

    Artifacts in `liquidity_analysis/`: `daily.pkl` (metrics and returns of each day), `positions.pkl` (datetime,
    instrument, yuan, weight of the capital), `headline.pkl`, `diagnostics.pkl` (IC family and the top of the ranking,
    with Newey-West errors), `quantiles.pkl` (mean label by day and tenth of the score), `exposures.pkl` (daily rank
    correlations with known factors), `selection.pkl` (what was chosen on the period, also in the headline's attrs),
    `capacity.pkl` and `capacity_topn.pkl` (the same scores at 10 million to 10 billion yuan, filled down the ranking
    and in a fixed number of names, see `capacity.capacity_curve`) and `definitions.pkl` (what each number means).
    Beside them `run_facts.pkl`: units, stocks, days, seeds, device and versions of the run, for its page.

    Args:
        recorder, model, dataset: filled in by qlib; the dataset must be a DayDatasetH with liquidity.
        capital, participation, top_n, commission, impact: see `Money`.
        buy_rate, sell_rate: fees as shares of what is bought and sold, in place of those by date; both or none.
        benchmark: index code, or None for the universe's mean alone.
        skip_existing: leave artifacts of an earlier run as they are.

    """

    artifact_path = "liquidity_analysis"

    def list(self) -> list[str]:
        """Name the artifacts."""
        names = "daily positions headline definitions diagnostics quantiles exposures selection capacity capacity_topn"
        return [f"{name}.pkl" for name in names.split()]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        panel, rows = self.dataset.panel, self.dataset.rows("test")
        days = pd.DatetimeIndex(panel.days[rows])
        score = self._score(rows)
        found = self._judge(rows, score)
        label, liquidity, buyable, volatility = (
            part(grid, rows) for grid in (panel.label, panel.liquidity, panel.buyable, panel.volatility)
        )
        quality = evaluate.summary(
            score, label, liquidity, buyable > 0, horizon=self.dataset.span.horizon, top_n=self.money.top_n
        )
        exposed = exposures(
            score, volatility=volatility, liquidity=liquidity, reversal=-past_return(panel.stocks, days)
        ).set_index(days)
        chosen = f"test {found.days[0].date()} to {found.days[-1].date()}: nothing was selected on it by this run"
        found.table.attrs["selection"] = chosen
        curves = {
            name: capacity(panel, rows, score, self.money, self.dataset.span, top_n=count)
            for name, count in (("capacity", None), ("capacity_topn", self.money.top_n))
        }
        self._log(found, quality, exposed, chosen, curves)
        return {f"{name}.pkl": curve for name, curve in curves.items()} | {
            "daily.pkl": found.daily.join(pd.DataFrame(found.returns)),
            "positions.pkl": found.positions,
            "headline.pkl": found.table,
            "definitions.pkl": DEFINITIONS
            | ROW_DEFINITIONS
            | evaluate.DIAGNOSTICS_DEFINITIONS
            | FACTOR_DEFINITIONS
            | {f"capacity.{key}": text for key, text in CAPACITY_DEFINITIONS.items()},
            "diagnostics.pkl": quality,
            "quantiles.pkl": quantile_returns(score, label).set_index(days),
            "exposures.pkl": exposed,
            "selection.pkl": chosen,
        }

    def _log(
        self,
        found: Judgement,
        quality: pd.DataFrame,
        exposed: pd.DataFrame,
        chosen: str,
        curves: Mapping[str, pd.DataFrame],
    ) -> None:
        """Log the numbers as metrics and show the tables with their definitions."""
        table, daily, days, money = found.table, found.daily, found.days, self.money
        metrics = {f"{row}.{key}": float(value) for row, line in table.T.items() for key, value in line.items()}
        metrics |= {f"mean.{key}": float(value) for key, value in daily.mean().items()}
        metrics |= {f"exposure.{key}": float(value) for key, value in exposed.mean().items()}
        metrics |= {f"diagnostics.{row}.{key}": float(v) for row, line in quality.T.items() for key, v in line.items()}
        for kind, curve in curves.items():
            metrics |= {f"{kind}.{name}_zero_at": value for name, value in zero_capitals(curve).items()}
        log_finite(self.recorder, metrics)
        text = table.to_string(float_format=lambda v: f"{v:.4f}")
        words = "\n".join(f"  {key}: {text}" for key, text in (ROW_DEFINITIONS | DEFINITIONS).items())
        mean = ", ".join(f"{name} {value:+.3f}" for name, value in exposed.mean().items())
        logger.info(
            f"{len(days)} days, {days[0].date()} to {days[-1].date()}, {money.capital / 1e6:g} million yuan, "
            f"{money.participation:.1%} of a day's turnover a stock; net: commission {money.commission:.3%}, transfer "
            f"fee and stamp duty; net_impact: and {money.impact:g} * volatility * sqrt(share of turnover) a trade; "
            f"rebalanced daily; {chosen}\n{text}\n{words}\n"
            f"{quality.to_string(float_format=lambda v: f'{v:.4f}')}\n"
            f"  standard_error: Newey-West; t: distance from what a random score has, in standard errors\n"
            f"  mean rank correlation of the score with known factors: {mean} (turnover stands for size)\n"
            f"  names held {daily['capped_names_held'].mean():.1f}, cash {daily['capped_cash_share'].mean():.1%}, "
            f"rank correlation of score and trailing volatility {daily['volatility_exposure'].mean():.3f}\n"
            f"{capacity_words(curves['capacity'])}, filled down the ranking\n"
            f"{capacity_words(curves['capacity_topn'])}, {money.top_n} names in proportion to their liquidity\n"
            f"artifacts: {Path(self.recorder.get_local_dir()) / 'artifacts'}"
        )
        warning = volatility_warning(exposed["volatility"])
        if warning:
            logger.warning(warning)


class FoldRecord(_MoneyRecord):
    """Write the deck's table for each block of the folds, their mean, all of them together, and the test period.

    For runs of FoldEnsemble (blocks: the members' validation days, with out-of-fold scores) and WalkForwardModel
    (blocks: the test days of each retraining). Artifacts in `fold_analysis/`: `headline_folds.pkl` (see `fold_table`;
    the column `selected` tells what was chosen on a row's days) and `definitions.pkl`.

    Args:
        recorder, model, dataset, benchmark, skip_existing: as for LiquidityRecord.
        capital, participation, top_n, commission, impact, buy_rate, sell_rate: see `Money`.

    """

    artifact_path = "fold_analysis"

    def list(self) -> list[str]:
        """Name the artifacts."""
        return ["headline_folds.pkl", "definitions.pkl"]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        fold_map, members = self._of_folds("fold_map"), self._of_folds("members")
        walked = bool((fold_map["part"] == "test").any())
        scores = None if walked else self._of_folds("oof")
        blocks = block_rows(self.dataset.panel, fold_map, "test" if walked else "valid")
        folds = [self._judge(rows, self._score(rows, scores)) for rows in blocks]
        rest: dict[str, Judgement] = {}
        if not walked:
            every = np.unique(np.concatenate(blocks))
            rest["all out-of-fold days"] = self._judge(every, self._score(every, scores))
        test = self.dataset.rows("test")
        rest["test"] = self._judge(test, self._score(test))
        table = fold_table(folds, rest, selections(members, walked=walked))
        self._log(table, len(members))
        return {"headline_folds.pkl": table, "definitions.pkl": DEFINITIONS | TABLE_DEFINITIONS}

    def _of_folds(self, name: str) -> Any:
        found = load_if_there(self.recorder, f"folds/{name}.pkl")
        if found is None:
            raise ValueError(
                f"the run has no artifact folds/{name}.pkl, which FoldRecord needs: it is made by FoldEnsemble and "
                "WalkForwardModel (module_path qlib_ext.model). Use one of them, or take FoldRecord out of `record`"
            )
        return found

    def _log(self, table: pd.DataFrame, members: int) -> None:
        numbers = table.drop(columns=["first", "last", "selected"])
        log_finite(
            self.recorder,
            {
                f"folds.{str(row).replace(' ', '_')}.{key}": float(value)
                for row, line in numbers.T.items()
                for key, value in line.items()
            },
        )
        chosen = "\n".join(f"  {row}: {text}" for row, text in table["selected"].items())
        logger.info(f"{members} members\n{shown(table.drop(columns='selected'))}\n{chosen}\n{listed()}")


class BaselineRecord(_MoneyRecord):
    """Judge scores that are free on the days of the run's own, through the same table.

    Artifacts in `baselines/`: `baselines.pkl` (rows: model and the baselines; columns of `table_row`),
    `baseline_scores.pkl` (by datetime, instrument) and `definitions.pkl`.

    Args:
        recorder, model, dataset, benchmark, skip_existing: as for LiquidityRecord.
        baselines: some of `baseline.BASELINES`; None: all.
        lightgbm: options of `baseline.LightGBM`: rounds, patience, max_rows, seed, parameters.
        money: capital, participation, top_n, commission, impact, buy_rate, sell_rate: see `Money`.

    """

    artifact_path = "baselines"
    options = (*_MoneyRecord.options, "baselines", "lightgbm")

    def __init__(
        self,
        recorder: Any,
        dataset: Any = None,
        model: Any = None,
        *,
        baselines: Sequence[str] | None = None,
        lightgbm: Mapping[str, Any] | None = None,
        **money: Any,
    ) -> None:
        super().__init__(recorder, dataset, model, **money)
        self.baselines = evaluate.check_names(evaluate.BASELINES if baselines is None else baselines)
        try:
            self.lightgbm = evaluate.LightGBM(**(lightgbm or {}))
        except TypeError as error:  # qlib would take a TypeError for its own and try again without the dataset
            raise ValueError(f"lightgbm={dict(lightgbm or {})!r}: {error}") from error

    def list(self) -> list[str]:
        """Name the artifacts."""
        return ["baselines.pkl", "baseline_scores.pkl", "definitions.pkl"]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        panel, rows = self.dataset.panel, self.dataset.rows("test")
        scores = {name: self._free(name, rows) for name in self.baselines}
        judged = {"model": self._score(rows)} | scores
        table = pd.DataFrame.from_dict(
            {name: table_row(self._judge(rows, score)) for name, score in judged.items()}, orient="index"
        )
        numbers = table.drop(columns=["days", "first", "last"])
        metrics = {f"baselines.{row}.{key}": float(v) for row, line in numbers.T.items() for key, v in line.items()}
        log_finite(self.recorder, metrics)
        logger.info(f"the same days, money and judge for all\n{shown(table)}\n{listed('mean over folds', 'selected')}")
        return {
            "baselines.pkl": table,
            "baseline_scores.pkl": evaluate.long_scores(scores, panel.days[rows], panel.stocks),
            "definitions.pkl": DEFINITIONS | TABLE_DEFINITIONS,
        }

    def _free(self, name: str, rows: Rows) -> Grid:
        panel = self.dataset.panel
        if name != "lightgbm":
            known = past_return(panel.stocks, pd.DatetimeIndex(panel.days[rows])) if name == "reversal" else None
            return evaluate.free_score(name, panel, rows, known)
        made = self.lightgbm.fit_predict(panel, self.dataset.rows("train"), self.dataset.rows("valid"), rows)
        logger.info(
            f"lightgbm: {made.trees} trees from {made.train_rows} of {made.train_known} stock-days of train "
            f"(max_rows {self.lightgbm.max_rows}, seed {self.lightgbm.seed}), stopped on {made.valid_rows} of valid"
        )
        return made.score
