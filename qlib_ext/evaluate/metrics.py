"""What a score is worth day by day: the IC family, returns under liquidity caps. One row of `COLUMNS` a number.

Arrays are (D, N) = (days, stocks), numpy or torch, computed in float64. ``score`` is NaN where there is none,
``label`` the raw forward return (0.01 = 1%), NaN where unknown, ``liquidity`` yuan a day known at the close.
``buyable`` is True where the entry was possible: an outcome, used only to judge. Sources: slides, pages 2 to
4.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qlib_ext import losses
from qlib_ext.cross_section import is_positive, pearson, spearman
from qlib_ext.evaluate.day_grids import TOP_N, DayGrids, as_grids, by_block, numbers
from qlib_ext.evaluate.headline import ratio
from qlib_ext.evaluate.net_excess import NetExcess
from qlib_ext.evaluate.newey_west import newey_west
from qlib_ext.options import check_choice
from qlib_ext.panel import takes_series
from qlib_ext.portfolio import CAPITAL, PARTICIPATION

Measure = Callable[[DayGrids], Tensor]


# --- the metrics


def wpcc(days: DayGrids) -> Tensor:
    """Correlate as the deck does (D,), weights by the rank of the label."""
    weight = losses.rank_weight(days.label, days.real, base=days.base)
    return torch.where(days.valid, losses.weighted_pearson(days.score, days.label, weight, days.real), torch.nan)


def liq_wpcc(days: DayGrids) -> Tensor:
    """Correlate as the deck does (D,), weights by label and liquidity."""
    weight = losses.liquidity_weight(days.label, days.liquidity, days.real, alpha=days.alpha)
    valid = days.valid & (days.real & is_positive(days.liquidity)).any(dim=1)
    return torch.where(valid, losses.weighted_pearson(days.score, days.label, weight, days.real), torch.nan)


def top20_ic(days: DayGrids) -> Tensor:
    """Correlate within the top fifth of the scores, (D,)."""
    order, among = days.best()
    return pearson(days.score.gather(1, order), days.label.gather(1, order), among)


def ic_neutral(days: DayGrids) -> Tensor:
    """Correlate score and label off the exposures, (D,)."""
    score, label, allowed = days.neutral
    return torch.where(allowed, pearson(score, label, days.real, allowed), torch.nan)


def rank_ic_neutral(days: DayGrids) -> Tensor:
    """Correlate the ranks of score and label off the exposures, (D,)."""
    score, label, allowed = days.neutral
    return torch.where(allowed, spearman(score, label, days.real), torch.nan)


@dataclass(frozen=True)
class Metric:
    """One row of `COLUMNS`.

    Attributes:
        measure: ``DayGrids`` -> (D,), one number a day, NaN where it is not defined.
        definition: what the number is.
        needs_liquidity: whether it cannot do without.
        stops: whether it may stop a training: larger is better.
        whole: whether it needs all days at once and what trading meets on them, and its days resemble each other.
        needs_exposures: whether it cannot do without those of `NEUTRAL`.
    """

    measure: Measure
    definition: str
    needs_liquidity: bool = False
    stops: bool = True
    whole: bool = False
    needs_exposures: bool = False


def _money(measure: Measure, definition: str) -> Metric:
    return Metric(measure, definition, needs_liquidity=True)


def _held(measure: Measure, definition: str) -> Metric:
    return Metric(measure, definition, needs_liquidity=True, stops=False)


NEUTRAL = ("volatility", "liquidity")  # exposures that ic_neutral and rank_ic_neutral are off
_PAPER = "as if everything were buyable"
COLUMNS: dict[str, Metric] = {
    "ic": Metric(
        lambda days: pearson(days.score, days.label, days.real, days.valid),
        "correlation of score and label across the day's stocks",
    ),
    "rank_ic": Metric(
        lambda days: spearman(days.score, days.label, days.real),
        "correlation of the ranks of score and label across the day's stocks, average ranks for ties",
    ),
    "wpcc": Metric(
        wpcc,
        "the deck's weighted correlation of score and label, weights falling from 1 (best label) to base (worst)",
    ),
    "liq_wpcc": _money(
        liq_wpcc,
        "the deck's weighted correlation of score and label, weights rising with label times log liquidity",
    ),
    "top20_ic": Metric(
        top20_ic, "correlation of score and label within the top fifth (rounded up) of the day's scores"
    ),
    "ic_neutral": Metric(
        ic_neutral,
        f"ic of the parts of score and label that a regression on {' and '.join(NEUTRAL)} (logarithms), equal weights "
        "over the day's stocks, leaves",
        needs_liquidity=True,
        needs_exposures=True,
    ),
    "rank_ic_neutral": Metric(
        rank_ic_neutral, "correlation of the ranks of the same two parts", needs_liquidity=True, needs_exposures=True
    ),
    "capped_return": _money(
        lambda days: days.capped.returns,
        "sum(yuan * label) / capital, the capital placed in full down the ranking; 0 where the label is unknown",
    ),
    "capped_excess": _money(
        lambda days: days.capped.excess(),
        "sum(yuan * (label - m)) / capital, m the plain mean label of the stocks with a score and a label",
    ),
    "topn_return": _money(lambda days: days.topn.returns, "capped_return with top_n stocks by liquidity"),
    "topn_excess": _money(lambda days: days.topn.excess(), "capped_excess with top_n stocks by liquidity"),
    "net_excess": Metric(
        NetExcess(),
        "return of an account that trades by the score, after fees and impact, less the mean buyable stock's; the "
        "forecast that it trades by is fitted on the other half of the days",
        needs_liquidity=True,
        whole=True,
    ),
    "capped_names_held": _held(lambda days: days.capped.names_held(), "stocks held"),
    "capped_cash_share": _held(lambda days: days.capped.cash_share(), "share of the capital in cash"),
    "capped_unpriced": _held(lambda days: days.capped.unpriced(), "stocks held whose label is unknown"),
    "topn_names_held": _held(lambda days: days.topn.names_held(), "stocks held of the top_n"),
    "topn_cash_share": _held(lambda days: days.topn.cash_share(), "share of the capital in cash with top_n stocks"),
    "topn_unpriced": _held(lambda days: days.topn.unpriced(), "stocks held of the top_n whose label is unknown"),
    "capped_return_paper": _money(lambda days: days.capped_paper.returns, f"capped_return {_PAPER}"),
    "capped_excess_paper": _money(lambda days: days.capped_paper.excess(), f"capped_excess {_PAPER}"),
    "topn_return_paper": _money(lambda days: days.topn_paper.returns, f"topn_return {_PAPER}"),
    "topn_excess_paper": _money(lambda days: days.topn_paper.excess(), f"topn_excess {_PAPER}"),
    "capped_names_held_paper": _held(lambda days: days.capped_paper.names_held(), f"capped_names_held {_PAPER}"),
    "capped_cash_share_paper": _held(lambda days: days.capped_paper.cash_share(), f"capped_cash_share {_PAPER}"),
    "capped_unpriced_paper": _held(lambda days: days.capped_paper.unpriced(), f"capped_unpriced {_PAPER}"),
    "topn_names_held_paper": _held(lambda days: days.topn_paper.names_held(), f"topn_names_held {_PAPER}"),
    "topn_cash_share_paper": _held(lambda days: days.topn_paper.cash_share(), f"topn_cash_share {_PAPER}"),
    "topn_unpriced_paper": _held(lambda days: days.topn_paper.unpriced(), f"topn_unpriced {_PAPER}"),
}
NEUTRAL_CORRELATIONS = ("ic_neutral", "rank_ic_neutral")
CORRELATIONS = ("ic", "rank_ic", "wpcc", "liq_wpcc", "top20_ic")
RATIOS = {"icir": "ic", "rank_icir": "rank_ic"}  # mean / standard deviation over days
SYNONYMS = {
    "capped_return_buyable": "capped_return",
    "capped_excess_buyable": "capped_excess",
    "topn_return_buyable": "topn_return",
    "topn_excess_buyable": "topn_excess",
}
METRICS = {**{name: name for name, row in COLUMNS.items() if row.stops}, **RATIOS, **SYNONYMS}  # -> its column


def metric_name(metric: str | Measure) -> str:
    """Name of a metric; of a function or object of your own that of the function or class."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def metric_column(metric: str | Measure) -> str | Measure:
    """Column of ``daily_metrics`` that a metric is the average of; one of your own is its own.

    Raises:
        ValueError: for an unknown metric (naming the close ones), or one of your own named like one of these.
    """
    if callable(metric):
        _check_own_name(metric)
        return metric
    check_choice("metric", metric, METRICS)
    return METRICS[metric]


def metric_needs_liquidity(metric: str | Measure) -> bool:
    """Whether a metric cannot do without; one of your own says so by an attribute `needs_liquidity`."""
    return _row(metric_column(metric)).needs_liquidity


def metric_needs_trading(metric: str | Measure) -> bool:
    """Whether a metric needs what trading meets; one of your own says so by an attribute `whole`."""
    return _row(metric_column(metric)).whole


def metric_needs_exposures(metric: str | Measure) -> bool:
    """Whether a metric needs the exposures of `NEUTRAL`."""
    return _row(metric_column(metric)).needs_exposures


def _row(column: str | Measure) -> Metric:
    """Row of a column; of a function of your own one made for it."""
    if callable(column):
        _check_own_name(column)
        needs = {name: bool(getattr(column, name, False)) for name in ("needs_liquidity", "whole")}
        return Metric(column, metric_name(column), **needs)
    check_choice("metric", column, COLUMNS)
    return COLUMNS[column]


def _check_own_name(metric: Measure) -> None:
    """Refuse a metric of your own that is named like one of the tables': its numbers would be taken for those."""
    name = metric_name(metric)
    if name in METRICS or name in COLUMNS:
        raise ValueError(f"a metric of your own is named {name!r}, as a built-in one is: rename your function or class")


def _one_a_day(name: str, values: Tensor, days: DayGrids) -> Tensor:
    """Refuse what is not one number a day; the table's own never are."""
    if not isinstance(values, Tensor) or values.shape != days.count.shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"metric {name} must return a tensor (D,) = {tuple(days.count.shape)}, got {got}")
    return values


# --- their days and averages


@takes_series("score", "label", "liquidity", "buyable")
def daily_metrics(
    score: ArrayLike | Tensor,
    label: ArrayLike | Tensor,
    liquidity: ArrayLike | Tensor | None = None,
    buyable: ArrayLike | Tensor | None = None,
    *,
    names: Sequence[str | Measure] | None = None,
    capital: float = CAPITAL,
    participation: float = PARTICIPATION,
    top_n: int = TOP_N,
    max_weight: float | None = None,
    base: float = losses.BASE,
    alpha: float = losses.ALPHA,
    trading: Mapping[str, Any] | None = None,
    exposures: ArrayLike | Tensor | None = None,
) -> pd.DataFrame:
    """Measure each day, one column a number.

    Each column is defined in ``COLUMNS``. Correlations are those of stocks with a score and a label: a constant score
    gives 0, equal labels leave NaN, and for liq_wpcc also a day on which no such stock has any liquidity.
    In ``capped`` columns the capital is placed in full by ``fill_top_n``, in ``topn`` columns in `top_n` stocks in
    proportion to liquidity; what ``buyable`` forbids stays cash, never reallocated. ``_paper`` columns equal the plain
    ones where ``buyable`` is None.

    Args:
        score: (D, N) NaN where there is none; or a Series by (datetime, instrument), and then the other grids too,
            which are looked up on its days and stocks (see `panel.takes_series`).
        label: (D, N) raw forward return, NaN where unknown.
        liquidity: (D, N) yuan a day; None only where no named column needs it.
        buyable: (D, N) bool, True = the entry was possible; None: everything was.
        names: columns to compute, of ``COLUMNS``, or functions of your own of ``DayGrids`` -> (D,); None: all that the
            inputs allow.
        capital: yuan placed each day.
        participation: largest share of a stock's liquidity.
        top_n: stocks of the ``topn`` columns.
        max_weight: largest share of the capital in a stock, or None.
        base: of wpcc, see ``losses.rank_weight``.
        alpha: of liq_wpcc, see ``losses.liquidity_weight``.
        trading: what an account meets on the days, of ``portfolio.market_of``; None only where no named column trades.
        exposures: (D, N, K) those of `NEUTRAL`, of ``DayPanel.exposures``; None only where no named column needs them.

    Returns:
        Frame of D rows (0 to D-1; of Series by day). Correlations and returns are NaN on days with fewer than two
        stocks that have a score and a label.

    Raises:
        ValueError: for shapes, an infinite score, an unknown name or missing liquidity.

    >>> score, label = [[3.0, 2.0, 1.0]], [[0.03, 0.01, 0.02]]
    >>> daily_metrics(score, label, [[4e8, 2e8, 6e8]], names=["ic", "capped_return"], capital=3e7).round(3)
        ic  capped_return
    0  0.5          0.023
    """
    if names is None:
        names = [
            name
            for name, row in COLUMNS.items()
            if (liquidity is not None or not row.needs_liquidity)
            and (trading is not None or not row.whole)
            and (exposures is not None or not row.needs_exposures)
        ]
    rows = {metric_name(name): _row(name) for name in names}
    for name, row in rows.items():
        _check_liquidity(name, row, liquidity)

    def measure(days: DayGrids, whole: bool = False) -> dict[str, Tensor]:
        """Compute the columns of a block of days, (D,) each."""
        return {name: _one_a_day(name, row.measure(days), days) for name, row in rows.items() if row.whole == whole}

    options = {"capital": capital, "participation": participation, "top_n": top_n, "max_weight": max_weight}
    options |= {"base": base, "alpha": alpha}
    grids = {"score": score, "label": label, "liquidity": liquidity, "buyable": buyable}
    parts = by_block(measure, options, **grids, exposures=exposures)
    daily = {name: torch.cat([columns[name] for columns in parts]) for name in parts[0]}
    if any(row.whole for row in rows.values()):
        everything: dict[str, Any] = {**as_grids(**grids), **options, "trading": trading}
        daily |= measure(DayGrids(**everything), whole=True)
    return pd.DataFrame({name: daily[name].numpy() for name in rows})


def metric_value(
    name: str | Measure,
    score: ArrayLike | Tensor,
    label: ArrayLike | Tensor,
    liquidity: ArrayLike | Tensor | None = None,
    buyable: ArrayLike | Tensor | None = None,
    **options: Any,
) -> tuple[float, float]:
    """Average one metric over the days it is defined on, larger is better.

    Args:
        name: of ``METRICS``, or a function of your own of ``DayGrids`` -> (D,). ``icir`` and ``rank_icir`` are mean /
            standard deviation over days, 0 where both are 0; the suffix ``_buyable`` says the same as none.
        score: (D, N), or a Series by (datetime, instrument), see ``daily_metrics``.
        label: (D, N).
        liquidity: (D, N), needed by liq_wpcc and every return.
        buyable: (D, N) bool; None: everything was.
        **options: capital, participation, top_n, base, alpha, trading, exposures of ``daily_metrics``.

    Returns:
        (value, standard error): the mean and std / sqrt(days); for the ratios the error is
        sqrt((1 + ratio^2 / 2) / days) (Lo 2002, independent days); of net_excess ``newey_west``'s. Labels of several
        days overlap, and then the error is too small. NaN where there are too few days.

    Raises:
        ValueError: for an unknown name (naming the close ones), or missing liquidity.

    >>> metric_value("rank_ic", [[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]], [[0.03, 0.01, 0.02], [0.01, 0.02, 0.03]])[0]
    0.75
    """
    column = metric_column(name)
    if isinstance(column, str):
        _check_liquidity(metric_name(name), COLUMNS[column], liquidity)
    return average(daily_metrics(score, label, liquidity, buyable, names=[column], **options), name)


def average(daily: pd.DataFrame, name: str | Measure) -> tuple[float, float]:
    """Average a metric, or a column, of a ``daily_metrics`` frame: (value, standard error) of ``metric_value``."""
    whole = name in COLUMNS and COLUMNS[name].whole if isinstance(name, str) else bool(getattr(name, "whole", False))
    name = metric_name(name)
    values = daily[METRICS.get(name, name)].to_numpy(dtype=np.float64)
    if whole:
        return newey_west(values)[:2]
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return math.nan, math.nan
    mean, std = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan
    if name not in RATIOS:
        return mean, std / math.sqrt(len(values))
    value = 0.0 if mean == std == 0 else ratio(mean, std)
    return value, math.sqrt((1.0 + value**2 / 2.0) / len(values))


@takes_series("a", "b", "mask")
def rank_correlation(
    a: ArrayLike | Tensor, b: ArrayLike | Tensor, mask: ArrayLike | Tensor | None = None
) -> NDArray[np.float64]:
    """Correlate the ranks of a and b day by day (Spearman, average ranks for ties).

    Args:
        a: (D, N) e.g. the score; or a Series by (datetime, instrument), as of ``daily_metrics``.
        b: (D, N) e.g. the volatility, for the score's exposure to it.
        mask: (D, N) bool, True = real; a stock also needs finite a and b. None: all are real.

    Returns:
        (D,) in [-1, 1] (of Series by day); NaN on days with fewer than two such stocks or all b equal, 0 where all a
        are equal.

    Raises:
        ValueError: for unequal shapes, or a mask that is not bool.

    >>> rank_correlation([[1.0, 2.0, 3.0]], [[0.1, 0.3, 0.2]])
    array([0.5])
    """
    grids = as_grids(a=a, b=b, mask=mask)
    left, right = numbers(grids["a"]), numbers(grids["b"])
    real = torch.isfinite(left) & torch.isfinite(right)
    return spearman(left, right, real & grids["mask"] if "mask" in grids else real).numpy()


def _check_liquidity(name: str, row: Metric, liquidity: Any) -> None:
    if row.needs_liquidity and liquidity is None:
        raise ValueError(
            f"metric {name!r} needs liquidity (D, N) in yuan a day and got None: use "
            "DayDatasetH(liquidity=...), or choose metric: rank_ic, which needs none"
        )
