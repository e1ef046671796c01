"""What a run's scores would have earned with real money, as artifacts and metrics of a qlib run.

All three ask the one judge, `qlib_ext.record.judge`: LiquidityRecord for the test period, FoldRecord for each block of
the folds, BaselineRecord for the scores that are free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qlib.log import get_module_logger
from qlib.workflow.record_temp import ACRecordTemp, SignalRecord

from qlib_ext.data import DayDatasetH, as_known, judging, read_benchmark
from qlib_ext.evaluate import (
    BASELINES,
    CAPACITY_DEFINITIONS,
    DEFINITIONS,
    DIAGNOSTICS_DEFINITIONS,
    EXPOSURE_LIMIT,
    LAG_DEFINITIONS,
    LAGS,
    NEUTRAL,
    REVERSAL_DAYS,
    SCORE_TEAR_DEFINITIONS,
    LightGBM,
    capacity_words,
    decay_table,
    excess_crossings,
    exposures,
    factor_score,
    group_ics,
    holdings_overlap,
    horizon_ics,
    ic_by_lag,
    lag_ics,
    quantile_returns,
    rank_autocorrelation,
    summary,
)
from qlib_ext.options import argument_names, check_choice, refuse_unknown, tell
from qlib_ext.panel import DayPanel, grid_of
from qlib_ext.portfolio import MAX_WEIGHT
from qlib_ext.provider import read_traded
from qlib_ext.record.facts import keep_facts, market_year
from qlib_ext.record.judgement import (
    ROW_DEFINITIONS,
    TABLE_DEFINITIONS,
    Grid,
    Judgement,
    Money,
    Rows,
    capacity,
    entry_return,
    fold_table,
    grid_rows,
    index_returns,
    judge,
    table_row,
)
from qlib_ext.record.staged import Staged
from qlib_ext.record.tables import as_text, flat, log_table
from qlib_ext.runs import BENCHMARK, load_if_there

logger = get_module_logger("qlib_ext.record")

FACTOR_DEFINITIONS = {
    "exposure.volatility": "trailing standard deviation of daily returns",
    "exposure.liquidity": "trailing mean turnover in yuan; no market value is known, so turnover stands for size too",
    "exposure.reversal": f"minus the return of the last {REVERSAL_DAYS} days",
}
LIQUIDITY_DEFINITIONS = {
    **(DEFINITIONS | ROW_DEFINITIONS | DIAGNOSTICS_DEFINITIONS | FACTOR_DEFINITIONS),
    **{
        f"{kind}_largest_weight": "share of the capital in the stock of the largest holding"
        for kind in ("capped", "topn")
    },
    **{f"capacity.{key}": text for key, text in CAPACITY_DEFINITIONS.items()},
    **{f"lags.{key}": text for key, text in LAG_DEFINITIONS.items()},
    **flat(SCORE_TEAR_DEFINITIONS),
}


# --- records


def head_weights(model: Any) -> dict[str, float]:
    """Weights of a model's heads by name, head_5: the mean over the members of an ensemble; empty with one head."""
    if not hasattr(model, "predict_heads"):  # an ensemble of different kinds has none in common
        return {}
    trainers = [getattr(member, "trainer", None) for member in getattr(model, "models", None) or [model]]
    found = [heads for trainer in trainers if (heads := getattr(trainer, "heads", None)) is not None]
    if not found or len(found) < len(trainers):
        return {}
    mean = np.mean([heads.weights for heads in found], axis=0)
    return {f"head_{days}": float(weight) for days, weight in zip(found[0].horizons, mean, strict=True)}


class MoneyRecord(Staged, ACRecordTemp):
    """What records share that place the money of `Money` by a run's scores; a record of one's own is a subclass of it.

    It names its folder in `artifact_path` and its artifacts in `list`, and returns them from `_generate`, where
    `scores(rows)` and `judged(rows, score)` are at hand, `dataset`, `model`, `money` and `recorder` (qlib's) too.

    Args:
        recorder, model: filled in by qlib.
        dataset: filled in by qlib; where it is no DayDatasetH (a model of qlib's on its own TSDatasetH), one is made
            over its handler. Or of one's own, `{class: DayDatasetH, module_path: qlib_ext.data, kwargs: ...}` (write
            `model: <MODEL>` beside it where the model has several heads). It must have liquidity.
        capital, participation, top_n, max_weight, commission, impact: see `Money`.
        buy_rate, sell_rate: fees as shares of what is bought and sold, in place of those by date; both or none.
        benchmark: index code, a CSV file of date and close (such as a total-return index), or None for the universe's
            means alone.
        skip_existing: leave artifacts of an earlier run as they are.

    Raises: TypeError for an option that there is not; ValueError for one out of range, or another dataset.

    >>> class MeanReturn(MoneyRecord):
    ...     artifact_path = "mine"
    ...
    ...     def list(self):
    ...         return ["mean.pkl"]
    ...
    ...     def _generate(self, *args, **kwargs):
    ...         rows = self.dataset.rows("test")
    ...         return {"mean.pkl": self.judged(rows, self.scores(rows)).returns["capped_buyable_net"].mean()}
    >>> MeanReturn(None, dataset, top_n=20).money.top_n
    20
    """

    depend_cls = SignalRecord
    stage = "own numbers"

    def __init__(
        self,
        recorder: Any,
        dataset: Any = None,
        model: Any = None,
        *,
        capital: float = Money.capital,
        participation: float = Money.participation,
        top_n: int = Money.top_n,
        max_weight: float | None = Money.max_weight,
        benchmark: str | None = BENCHMARK,
        commission: float = Money.commission,
        impact: float = Money.impact,
        buy_rate: float | None = None,
        sell_rate: float | None = None,
        skip_existing: bool = False,
        **unknown: Any,
    ) -> None:
        own = argument_names(*(kind for kind in type(self).__mro__ if issubclass(kind, MoneyRecord)))
        refuse_unknown(type(self), unknown, own[own.index("model") + 1 :])
        super().__init__(recorder=recorder, skip_existing=skip_existing)
        money = Money(
            capital=capital,
            participation=participation,
            top_n=top_n,
            max_weight=max_weight,
            commission=commission,
            impact=impact,
            buy_rate=buy_rate,
            sell_rate=sell_rate,
        )
        self._dataset = dataset if isinstance(dataset, Mapping) else self._with_liquidity(dataset)
        if not (benchmark is None or isinstance(benchmark, str)):
            raise ValueError(f"benchmark is {benchmark!r}; {type(self).__name__} takes the code of one index, or null")
        self.model, self.benchmark, self.money = model, read_benchmark(benchmark), money

    @property
    def dataset(self) -> DayDatasetH:
        """Data set that the scores are judged by; one of a configuration is built at the first use."""
        if isinstance(self._dataset, Mapping):
            self._dataset = self._with_liquidity(self._dataset)
        return self._dataset

    def _with_liquidity(self, dataset: Any) -> DayDatasetH:
        own = judging(dataset, keep=self._recorder)
        if not isinstance(own, DayDatasetH) or own.liquidity is None:
            raise ValueError(f"{type(self).__name__} needs a DayDatasetH with liquidity (for example liquidity: auto)")
        return own

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the run's facts (`run_facts.pkl`), where no record before has; then as qlib does."""
        keep_facts(self.recorder, self.dataset, self.model)
        return super().generate(*args, **kwargs)

    def judged(self, rows: Rows, score: Grid) -> Judgement:
        """Judge the scores (d, N) of some rows of the panel, (d,), over the benchmark too; see `judge`."""
        panel, span = self.dataset.panel, self.dataset.span
        days = pd.DatetimeIndex(panel.days[rows])
        index = index_returns(self.benchmark, span, days, field=self.dataset.entry_field)
        return judge(panel, rows, score, self.money, span, index, year=market_year())

    def scores(self, rows: Rows, of: pd.Series | None = None) -> Grid:
        """Scores of some rows of the panel, (d, N); those of pred.pkl unless others are given."""
        panel: DayPanel = self.dataset.panel
        scores = self.load("pred.pkl") if of is None else of
        return grid_of(scores, panel.days[rows], panel.stocks, calendar=panel.days)

    def _past_return(self, rows: Rows) -> Grid:
        """Return of the last `REVERSAL_DAYS` days up to each day's close, (d, N)."""
        return past_return(self.dataset.panel.stocks, pd.DatetimeIndex(self.dataset.panel.days[rows]))


class LiquidityRecord(MoneyRecord):
    """Place `capital` by the run's scores under liquidity limits and write the deck's table.

    Artifacts in `liquidity_analysis/`: `daily.pkl` (metrics and returns of each day), `positions.pkl` (datetime,
    instrument, yuan, weight of the capital), `headline.pkl`, `diagnostics.pkl` (IC family and the top of the ranking,
    with Newey-West errors), `quantiles.pkl` (mean label by day and tenth of the score), `exposures.pkl` (daily rank
    correlations with known factors), `lags.pkl` (IC with the return of each of the 40 days that follow, of the score
    and of each head of several horizons), `decay.pkl` (their half-lives), `tear_score.pkl` (a dict of frames, see
    `evaluate.SCORE_TEAR_DEFINITIONS`: IC by horizon, autocorrelation of the ranks, overlap of the holdings, IC within
    groups of volatility, liquidity and the columns of the dataset's `exposures`), `selection.pkl` (what was chosen on
    the period, also in the headline's attrs),
    `capacity.pkl` and `capacity_topn.pkl` (the same scores at 10 million to 10 billion yuan, filled down the ranking
    and in a fixed number of names, see `capacity.capacity_curve`) and `definitions.pkl` (what each number means).
    Beside them `run_facts.pkl`: units, stocks, days, seeds, device and versions of the run, for its page.

    Options: those of `MoneyRecord`.

    >>> record = LiquidityRecord(None, dataset, capital=1e8, benchmark=None)
    >>> record.money.capital, record.list()[:3]
    (100000000.0, ['daily.pkl', 'positions.pkl', 'headline.pkl'])
    """

    artifact_path = "liquidity_analysis"
    stage = "judge"

    def list(self) -> list[str]:
        """Name the artifacts."""
        names = "daily positions headline definitions diagnostics quantiles exposures selection capacity capacity_topn"
        return [f"{name}.pkl" for name in [*names.split(), "lags", "decay", "tear_score"]]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        panel, rows, money, span = self.dataset.panel, self.dataset.rows("test"), self.money, self.dataset.span
        days = pd.DatetimeIndex(panel.days[rows])
        score = self.scores(rows)
        judged = self.judged(rows, score)
        label, liquidity, buyable, volatility = (
            grid_rows(grid, rows) for grid in (panel.label, panel.liquidity, panel.buyable, panel.volatility)
        )
        loads = None if panel.source is None else panel.exposures(NEUTRAL, rows).cpu()
        quality = summary(
            score, label, liquidity, buyable > 0, horizon=span.horizon, top_n=money.top_n, exposures=loads
        )
        factors = {"volatility": volatility, "liquidity": liquidity, "reversal": -self._past_return(rows)}
        exposed = exposures(score, **factors).set_index(days)
        selected = f"test {judged.days[0].date()} to {judged.days[-1].date()}: nothing was selected on it by this run"
        judged.table.attrs["selection"] = selected
        curves = {
            name: capacity(panel, rows, score, money, span, top_n=top_n, year=market_year())
            for name, top_n in (("capacity", None), ("capacity_topn", money.top_n))
        }
        every = {"score": score} | self._heads(rows)
        lags = {name: lag_ics(one, self._steps(rows)) for name, one in every.items()}
        decay = decay_table(lags).assign(weight=pd.Series(head_weights(self.model), dtype=np.float64))
        self._log(judged, quality, exposed, curves, decay)
        return {
            "daily.pkl": judged.daily.join(pd.DataFrame(judged.returns)),
            "positions.pkl": judged.positions,
            "headline.pkl": judged.table,
            "definitions.pkl": LIQUIDITY_DEFINITIONS,
            "diagnostics.pkl": quality,
            "quantiles.pkl": quantile_returns(score, label).set_index(days),
            "exposures.pkl": exposed,
            "selection.pkl": selected,
            **{f"{name}.pkl": curve for name, curve in curves.items()},
            "lags.pkl": pd.concat({name: ic_by_lag(ics) for name, ics in lags.items()}, names=["score"]),
            "decay.pkl": decay,
            "tear_score.pkl": self._tear(rows, score, label, judged.positions),
        }

    def _tear(self, rows: Rows, score: Grid, label: Grid, positions: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Make the score's tear sheet: tables of `evaluate.SCORE_TEAR_DEFINITIONS`."""
        panel, days = self.dataset.panel, pd.DatetimeIndex(self.dataset.panel.days[rows])
        factors: dict[str, Any] = {
            "volatility": grid_rows(panel.volatility, rows),
            "liquidity": grid_rows(panel.liquidity, rows),
        }
        for name, frame in getattr(panel.source, "columns", {}).items():
            factors[name] = as_known(frame, days, panel.stocks)
        return {
            "horizons": horizon_ics(score, self._steps(rows)),
            "autocorrelation": rank_autocorrelation(score),
            "overlap": holdings_overlap(positions["yuan"].unstack("instrument").reindex(days)),
            "groups": group_ics(score, label, factors, horizon=self.dataset.span.horizon),
        }

    def _steps(self, rows: Rows) -> Grid:
        """One-day returns (d + LAGS - 1 at most, N) from the entry of the first of the rows on."""
        panel: DayPanel = self.dataset.panel
        return grid_rows(entry_return(panel), np.arange(rows[0], min(rows[-1] + LAGS, len(panel.days))))

    def _heads(self, rows: Rows) -> dict[str, Grid]:
        """Scores (d, N) of each head by name, where the run's model has several."""
        if not head_weights(self.model):
            return {}
        heads = self.model.predict_heads(self.dataset, "test")
        return {f"head_{days}": self.scores(rows, heads[days]) for days in heads}

    def _log(
        self,
        judged: Judgement,
        quality: pd.DataFrame,
        exposed: pd.DataFrame,
        curves: Mapping[str, pd.DataFrame],
        decay: pd.DataFrame,
    ) -> None:
        """Log the numbers as metrics and show the tables with their definitions."""
        daily, days, money = judged.daily, judged.days, self.money
        log_table(self.recorder, judged.table)
        log_table(self.recorder, daily.mean().to_frame("mean").T)
        log_table(self.recorder, exposed.mean().to_frame("exposure").T)
        log_table(self.recorder, quality, "diagnostics")
        log_table(self.recorder, decay, "decay")
        for kind, curve in curves.items():
            log_table(self.recorder, excess_crossings(curve), kind)
        mean = ", ".join(f"{name} {value:+.3f}" for name, value in exposed.mean().items())
        logger.info(
            f"{len(days)} days, {days[0].date()} to {days[-1].date()}, {money.capital / 1e6:g} million yuan, "
            f"{money.participation:.1%} of a day's turnover a stock; net: commission {money.commission:.3%}, transfer "
            f"fee and stamp duty; net_impact: and {money.impact:g} * volatility * sqrt(share of turnover) a trade; "
            f"rebalanced daily; {judged.table.attrs['days_a_year']:.1f} trading days a year; "
            f"{judged.table.attrs['selection']}\n"
            f"{as_text(judged.table)}\n{listed(ROW_DEFINITIONS | DEFINITIONS)}\n{as_text(quality)}\n"
            f"IC with the return of one later day, and days until it is half\n{as_text(decay)}\n"
            f"  standard_error: Newey-West; t: distance from what a random score has, in standard errors\n"
            f"  mean rank correlation of the score with known factors: {mean} (turnover stands for size)\n"
            f"  names held {daily['capped_names_held'].mean():.1f}, cash {daily['capped_cash_share'].mean():.1%}, "
            f"rank correlation of score and trailing volatility {daily['volatility_exposure'].mean():.3f}\n"
            f"{capacity_words(curves['capacity'])}, filled down the ranking\n"
            f"{capacity_words(curves['capacity_topn'])}, {money.top_n} names in proportion to their liquidity\n"
            f"artifacts: {Path(self.recorder.get_local_dir()) / 'artifacts'}"
        )
        if not len(judged.positions):
            logger.warning("the judge placed no money on any day: see liquidity, buyable and the scores")
        capped = (self.money.max_weight or 1.0) <= MAX_WEIGHT  # what is locked may stand above
        for warning in (volatility_warning(exposed["volatility"]), None if capped else weight_warning(daily)):
            if warning is not None:
                logger.warning(warning)


class FoldRecord(MoneyRecord):
    """Write the deck's table for each block of the folds, their mean, all of them together, and the test period.

    For runs of FoldEnsemble (blocks: the members' validation days, with out-of-fold scores) and WalkForwardModel
    (blocks: the test days of each retraining). Artifacts in `fold_analysis/`: `headline_folds.pkl` (see `fold_table`;
    the column `selected` tells what was chosen on a row's days) and `definitions.pkl`.

    Options: those of `MoneyRecord`.

    >>> FoldRecord(None, dataset, top_n=20).list()
    ['headline_folds.pkl', 'definitions.pkl']
    """

    artifact_path = "fold_analysis"
    stage = "folds"

    def __init__(self, recorder: Any, dataset: Any = None, model: Any = None, **money: Any) -> None:
        super().__init__(recorder, dataset, model, **money)
        if model is not None and not hasattr(model, "fold_map"):
            raise ValueError(f"FoldRecord needs a FoldEnsemble or WalkForwardModel, not a {type(model).__name__}")

    def list(self) -> list[str]:
        """Name the artifacts."""
        return ["headline_folds.pkl", "definitions.pkl"]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        fold_map, members = self._of_folds("fold_map"), self._of_folds("members")
        walked = bool((fold_map["part"] == "test").any())
        scores = None if walked else self._of_folds("oof")
        blocks = block_rows(self.dataset.panel, fold_map, "test" if walked else "valid")
        folds = [self.judged(rows, self.scores(rows, scores)) for rows in blocks]
        rest: dict[str, Judgement] = {}
        if not walked:
            every = np.unique(np.concatenate(blocks))
            rest["all out-of-fold days"] = self.judged(every, self.scores(every, scores))
        test = self.dataset.rows("test")
        rest["test"] = self.judged(test, self.scores(test))
        table = fold_table(folds, rest, selections(members, walked=walked))
        numbers = table.drop(columns=["first", "last", "selected"])
        log_table(self.recorder, numbers.rename(index=lambda row: row.replace(" ", "_")), "folds")
        logger.info(
            f"{len(members)} members\n{_by_column(table.drop(columns='selected'))}\n{listed(dict(table['selected']))}\n"
            f"{listed(TABLE_DEFINITIONS | DEFINITIONS)}"
        )
        return {"headline_folds.pkl": table, "definitions.pkl": DEFINITIONS | TABLE_DEFINITIONS}

    def _of_folds(self, name: str) -> Any:
        artifact = load_if_there(self.recorder, f"folds/{name}.pkl")
        if artifact is None:
            raise ValueError(
                f"the run has no artifact folds/{name}.pkl, which FoldRecord needs: it is made by FoldEnsemble and "
                "WalkForwardModel (module_path qlib_ext.model). Use one of them, or take FoldRecord out of `record`"
            )
        return artifact


class BaselineRecord(MoneyRecord):
    """Judge scores that are free on the days of the run's own, through the same table.

    Artifacts in `baselines/`: `baselines.pkl` (rows: model and the baselines; columns of `table_row`),
    `baseline_scores.pkl` (by datetime, instrument) and `definitions.pkl`.

    Args:
        recorder, model, dataset, money: as for MoneyRecord.
        baselines: some of `evaluate.BASELINES`; None: all.
        lightgbm: options of `evaluate.LightGBM`: rounds, patience, max_rows, seed, parameters.

    Raises: as MoneyRecord; ValueError for baselines that are no list of one or more, each once, or a wrong option of
        lightgbm.

    >>> record = BaselineRecord(None, dataset, baselines=["reversal", "lightgbm"], lightgbm={"rounds": 200})
    >>> record.baselines, record.lightgbm.rounds
    (['reversal', 'lightgbm'], 200)
    """

    artifact_path = "baselines"
    stage = "baselines"

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
        self.baselines = _checked_baselines(BASELINES if baselines is None else baselines)
        if lightgbm and "lightgbm" not in self.baselines:
            tell("BaselineRecord: lightgbm has no effect, it is none of the baselines")
        try:
            refuse_unknown("lightgbm", lightgbm or (), [field.name for field in fields(LightGBM)])
            self.lightgbm = LightGBM(**(lightgbm or {}))
        except TypeError as error:  # qlib would take it for its own, and try again without the dataset
            raise ValueError(f"lightgbm is {lightgbm!r}: {error}") from error

    def list(self) -> list[str]:
        """Name the artifacts."""
        return ["baselines.pkl", "baseline_scores.pkl", "definitions.pkl"]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        panel, rows = self.dataset.panel, self.dataset.rows("test")
        scores = {name: self._free(name, rows) for name in self.baselines}
        for name in [name for name, grid in scores.items() if np.isnan(grid).all()]:
            logger.warning(f"the baseline {name} has no score on any test day and is left out: its data are missing")
            del scores[name]
        judged = {"model": self.scores(rows)} | scores
        table = pd.DataFrame.from_dict(
            {name: table_row(self.judged(rows, score)) for name, score in judged.items()}, orient="index"
        )
        log_table(self.recorder, table.drop(columns=["days", "first", "last"]), "baselines")
        words = {k: v for k, v in TABLE_DEFINITIONS.items() if k not in ("mean over folds", "selected")} | DEFINITIONS
        logger.info(f"the same days, money and judge for all\n{_by_column(table)}\n{listed(words)}")
        index = pd.MultiIndex.from_product(
            [pd.DatetimeIndex(panel.days[rows]), panel.stocks], names=["datetime", "instrument"]
        )
        every = pd.DataFrame({name: grid.ravel() for name, grid in scores.items()}, index=index)
        return {
            "baselines.pkl": table,
            "baseline_scores.pkl": every.dropna(how="all"),
            "definitions.pkl": DEFINITIONS | TABLE_DEFINITIONS,
        }

    def _free(self, name: str, rows: Rows) -> Grid:
        panel = self.dataset.panel
        if name != "lightgbm":
            return factor_score(name, panel, rows, self._past_return(rows) if name == "reversal" else None)
        score, told = self.lightgbm.fit_predict(panel, self.dataset.rows("train"), self.dataset.rows("valid"), rows)
        logger.info(told)
        return score


# --- numbers and words


def _checked_baselines(names: Any) -> list[str]:
    is_list = isinstance(names, list | tuple)
    for name in names if is_list else ():
        check_choice("baseline", name, BASELINES)
    if not is_list or not names or len(set(names)) < len(names):
        raise ValueError(
            f"baselines is {names!r}; allowed: a list of one or more, each once, of {', '.join(BASELINES)}"
        )
    return list(names)


def past_return(stocks: Any, days: pd.DatetimeIndex) -> Grid:
    """Return of the last `REVERSAL_DAYS` days up to each day's close, (d, N)."""
    close = read_traded(list(stocks), ["$close"], days[0], days[-1], lead=REVERSAL_DAYS)["$close"]
    price = close.astype(np.float64)
    return np.asarray((price / price.shift(REVERSAL_DAYS) - 1).reindex(days).to_numpy())


def volatility_warning(exposure: pd.Series) -> str | None:
    """Say in words that a score is a bet on volatility, up or down; None where its mean exposure is within bounds."""
    days = exposure.dropna()
    mean = float(days.mean()) if len(days) else 0.0
    if abs(mean) <= EXPOSURE_LIMIT:
        return None
    kind, cure = "calm", "low_volatility of BaselineRecord shows what that alone earns"
    if mean > 0:
        kind = "volatile"
        cure = (
            "a weighted loss whose weights depend on the outcome (weight_by: label) rewards volatility; weight_by: "
            "score does not"
        )
    return (
        f"the score follows volatility: rank correlation with the trailing volatility {mean:+.2f} on average over "
        f"{len(days)} days (beyond +-{EXPOSURE_LIMIT}): a good part of the returns is a bet on {kind} stocks; {cure}"
    )


def weight_warning(daily: pd.DataFrame) -> str | None:
    """Say in words that a judge's rows put more than `MAX_WEIGHT` of the capital into a stock; None where none does.

    Prices may move a holding a little above it on single days.
    """
    largest = {kind: float(daily[f"{kind}_largest_weight"].mean()) for kind in ("capped", "topn")}
    beyond = {kind: share for kind, share in largest.items() if share > 1.02 * MAX_WEIGHT}
    if not beyond:
        return None
    rows = ", ".join(f"{kind}_... {share:.1%}" for kind, share in beyond.items())
    return (
        f"the judge holds more than {MAX_WEIGHT:.0%} of the capital in one stock on a mean day ({rows}): these rows "
        f"tell of a handful of names; the record's max_weight: {MAX_WEIGHT}, or a larger universe, spreads them"
    )


def selections(members: pd.DataFrame, *, walked: bool) -> dict[str, str]:
    """Tell for each row of `fold_table` what was chosen on its days."""
    metric = ", ".join(sorted(set(members["metric"].astype(str))))
    if walked:
        plain = f"nothing was selected on it; epochs were chosen by {metric} on days before it"
        return {"fold": plain, "mean over folds": plain, "test": plain}
    return {
        "fold": f"epoch chosen on this block by {metric}: optimistic",
        "mean over folds": f"epochs chosen on these blocks by {metric}: optimistic",
        "all out-of-fold days": f"epochs chosen on these days, block by block, by {metric}: optimistic",
        "test": f"nothing was selected on it; epochs were chosen by {metric} on the blocks",
    }


def block_rows(panel: DayPanel, fold_map: pd.DataFrame, role: str) -> list[Rows]:
    """Rows of the panel that play a role (train, valid, test), fold by fold.

    Raises: ValueError where a day of a fold is not in the panel, or a fold has none.
    """
    blocks = []
    for fold, line in fold_map[fold_map["part"] == role].groupby("fold", sort=True):
        rows = pd.DatetimeIndex(panel.days).get_indexer(pd.DatetimeIndex(line["day"]))
        if (rows < 0).any():
            raise ValueError(f"fold {fold} has days that the panel lacks: the run's dataset is not the fold's")
        blocks.append(np.sort(rows).astype(np.int64))
    if not blocks:
        raise ValueError(f"no day of folds/fold_map.pkl is {role!r}")
    return blocks


def _by_column(table: pd.DataFrame) -> str:
    """Write a table of `table_row` with a line a column, its dates as ISO days."""
    return as_text(table.assign(**{name: table[name].dt.strftime("%Y-%m-%d") for name in ("first", "last")}).T)


def listed(definitions: Mapping[str, str]) -> str:
    """List definitions, a line each."""
    return "\n".join(f"  {key}: {text}" for key, text in definitions.items())
