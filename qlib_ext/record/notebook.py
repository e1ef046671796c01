"""What a notebook calls: scores evaluated, or a model trained and evaluated, without YAML or recorder.

`evaluate` is what `qlib_ext.evaluate(...)` calls, see `Evaluation`.
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from qlib_ext.data import DayDatasetH
from qlib_ext.exchange import Options
from qlib_ext.options import argument_names, refuse_unknown, signature_with
from qlib_ext.record.evaluation import Evaluation
from qlib_ext.record.judgement import Money
from qlib_ext.runs import BENCHMARK
from qlib_ext.strategy import CostAwareStrategy


def evaluate(
    scores: pd.Series | pd.DataFrame,
    dataset: DayDatasetH,
    *,
    model: Any = None,
    past: pd.Series | pd.DataFrame | str | Path | None = None,
    capital: float = Money.capital,
    participation: float = Money.participation,
    top_n: int = Money.top_n,
    max_weight: float | None = Money.max_weight,
    commission: float = Money.commission,
    impact: float = Money.impact,
    benchmark: str | None = BENCHMARK,
    strategy: Mapping[str, Any] | type | None = None,
    exchange: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Judge and trade scores of the segment test: what they would have earned with real money.

    Args:
        scores: by (datetime, instrument), of any model or source; what is read and refused: `panel.check_scores`.
            Days before the test serve the forecast alone, and of these only those of the segment valid.
        dataset: with liquidity; its segment test tells the days, and its label what a day's score is held against.
        model: that made the scores, trained: it scores the segment valid for the forecast (an ensemble has its
            out-of-fold scores), and the page tells of it.
        past: scores of days before the test that nothing was learnt from, for the forecast, in place of the model's;
            or a CSV file (date, code, score).
        capital: yuan, of the judge and of the account.
        participation: largest share of a stock's daily turnover to hold and to trade in a day.
        top_n: names of the judge's second way to place the capital.
        max_weight: largest share of the capital in a stock, for the judge; None: no cap. Of the account it is an option
            of the strategy.
        commission: of both sides; other fees are those in force on the day.
        impact: b of the square-root law, `portfolio.impact_cost`; 0: none.
        benchmark: code of an index, a CSV file of date and close, or None.
        strategy: options of CostAwareStrategy that differ; or a class of yours or ours; or {class, module_path,
            kwargs}, as in YAML.
        exchange: options of AShareExchange that differ; or {class, module_path, kwargs}.

    Returns: `Evaluation`: nothing is computed yet.

    Raises: TypeError, ValueError for scores that are not surely understood or share no day with the test, options
        that there are not or that are out of range, a dataset without liquidity.

    Warns: of test days and stocks without a score, and where there is nothing to learn a forecast from.

    >>> scores = -dataset.prepare("test", col_set="feature")["REV5"]  # any Series by (datetime, instrument)
    >>> result = evaluate(scores, dataset, capital=1e7, benchmark=None)
    >>> result
    Evaluation(16 test days 2020-06-01 to 2020-06-22, 12 stocks, 10 million yuan; computed: nothing yet)
    >>> len(result.table), len(result.positions.index.unique("datetime"))
    (26, 16)
    >>> result
    Evaluation(16 test days 2020-06-01 to 2020-06-22, 12 stocks, 10 million yuan; computed: judge)
    """
    money, config = _terms(
        benchmark, strategy, exchange, capital=capital, participation=participation, top_n=top_n,
        max_weight=max_weight, commission=commission, impact=impact,
    )  # fmt: skip
    return Evaluation(scores, dataset, money, config, model=model, past=past)


def run(model: Any, dataset: DayDatasetH, **options: Any) -> Evaluation:
    """Train a model on a data set, score its segment test and evaluate the scores: three lines in one.

    Args:
        model: of `qlib_ext.model`, or any of qlib's.
        dataset: with the segments train, valid and test.
        options: of `evaluate`; checked before anything is trained.

    >>> from qlib_ext.model import MLPModel
    >>> run(MLPModel(hidden=[8, 4], loss="wpcc", metric="ic", epochs=1), dataset, benchmark=None).model.features
    ['REV5', 'RANGE']
    """
    refuse_unknown("run", options, ["past", *TERMS])
    _terms(**{name: options.get(name, default) for name, default in TERMS.items()})
    if hasattr(model, "check_dataset"):
        model.check_dataset(dataset)
    model.fit(dataset)
    return evaluate(model.predict(dataset), dataset, model=model, **options)


def _terms(benchmark: Any, strategy: Any, exchange: Any, **judge: Any) -> tuple[Money, dict[str, Any]]:
    """Money of the judge, and PortAnaRecord's config, by the options of `evaluate`."""
    money = Money(**judge)
    if not (benchmark is None or isinstance(benchmark, str)):
        raise ValueError(
            f"benchmark is {benchmark!r}; wanted the code of an index, a CSV file of date and close, or None"
        )
    caps = {"participation": money.participation, "trade_participation": money.participation}
    dealt = {"participation": money.participation, "commission": money.commission, "impact": money.impact}
    if isinstance(strategy, type):
        strategy = {"class": strategy, "kwargs": caps}
    strategy = _part("strategy", strategy, caps, argument_names(CostAwareStrategy))
    if "class" in strategy:
        strategy["kwargs"] = {"signal": "<PRED>"} | dict(strategy.get("kwargs") or {})
    dealer = _part("exchange", exchange, dealt, [field.name for field in fields(Options)])
    backtest = {"account": money.capital, "benchmark": benchmark, "exchange_kwargs": {"exchange": dealer}}
    return money, {"strategy": strategy, "backtest": backtest}


def _part(name: str, own: Any, terms: Mapping[str, Any], allowed: Iterable[str]) -> dict[str, Any]:
    """Options of a part over the terms; a configuration with a class is taken whole.

    Raises: TypeError for an option that there is not, ValueError for what is no part.
    """
    if not (own is None or isinstance(own, Mapping)):
        raise ValueError(f"{name} is {own!r}; wanted are its options, such as {{'max_weight': 0.02}}, or a class")
    if "class" in (own or {}):
        refuse_unknown(name, own or {}, ("class", "module_path", "kwargs"))
        return dict(own or {})
    refuse_unknown(name, own or {}, allowed)
    return {"kwargs": {**terms, **(own or {})}}


TERMS = {
    name: option.default
    for name, option in inspect.signature(evaluate).parameters.items()
    if option.kind == option.KEYWORD_ONLY and name not in ("model", "past")
}
run.__signature__ = signature_with(run, evaluate, drop=("model",))  # type: ignore[attr-defined]
