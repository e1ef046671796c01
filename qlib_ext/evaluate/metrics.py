"""What a score is worth: the IC family, returns under liquidity caps, the deck's headline table.

Arrays are (D, N) = (days, stocks), numpy or torch, computed in float64. ``score`` is NaN where there is none,
``label`` the raw forward return (0.01 = 1%), NaN where unknown, ``liquidity`` yuan a day known at the close.
``buyable`` is True where the entry was possible: an outcome, used only to judge. Sources: slides, pages 2 to
4.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qlib_ext import losses
from qlib_ext.cross_section import spearman
from qlib_ext.evaluate.day_grids import (
    DayGrids,
    by_block,
    check_shapes,
    correlations,
    flags,
    matrix,
)
from qlib_ext.options import check_choice
from qlib_ext.portfolio import CAPITAL, PARTICIPATION, fill_top_n

TOP_N = 30
DAYS_A_YEAR = 252
RATIOS = {"icir": "ic", "rank_icir": "rank_ic"}
CORRELATIONS = ("ic", "rank_ic", "wpcc", "liq_wpcc", "top20_ic")
RETURNS = ("capped_return", "capped_excess", "topn_return", "topn_excess")
HOLDINGS = ("names_held", "cash_share", "unpriced")
METRICS = (
    *("ic", "icir", "rank_ic", "rank_icir", "wpcc", "liq_wpcc", "top20_ic"),
    *RETURNS,
    *(f"{name}_{suffix}" for suffix in ("paper", "buyable") for name in RETURNS),
)
_PORTFOLIO = (*RETURNS, *(f"{kind}_{what}" for kind in ("capped", "topn") for what in HOLDINGS))
COLUMNS = (*CORRELATIONS, *_PORTFOLIO, *(f"{name}_paper" for name in _PORTFOLIO))
NEED_LIQUIDITY = ("liq_wpcc", *COLUMNS[len(CORRELATIONS) :])

DEFINITIONS = {
    "mean_ic": "mean over days of the correlation of score and label across stocks; NaN where no ic is given",
    "mean_return": (
        "cumulative, compounded return of the whole period (the deck averages a block's cumulative return "
        "over its blocks; here there is one block)"
    ),
    "annual_return": "compounded: (product of 1 + daily return) ** (252 / days) - 1",
    "annual_return_arithmetic": "mean daily return * 252, not compounded",
    "annual_volatility": "standard deviation of daily returns (days - 1 below) * sqrt(252)",
    "sharpe": "annual_return / annual_volatility, as the deck has it (71.65 / 8.95 = 8.0); no riskless rate",
    "sharpe_arithmetic": "mean / standard deviation of daily returns * sqrt(252); no riskless rate",
    "max_drawdown": (
        "largest fall of the compounded curve below its highest point so far, the start included; a negative "
        "fraction, 0 where it never fell"
    ),
}


# --- metrics


def daily_metrics(
    score: ArrayLike | Tensor,
    label: ArrayLike | Tensor,
    liquidity: ArrayLike | Tensor | None = None,
    buyable: ArrayLike | Tensor | None = None,
    *,
    names: Sequence[str] | None = None,
    capital: float = CAPITAL,
    participation: float = PARTICIPATION,
    top_n: int = TOP_N,
    base: float = losses.BASE,
    alpha: float = losses.ALPHA,
) -> pd.DataFrame:
    """Measure each day, one column a number.

    - ``ic, rank_ic, wpcc, liq_wpcc``: correlations over the stocks with a score and a label (rank_ic: average
      ranks for ties; weights as in ``losses``); ``top20_ic``: the IC within the top fifth (rounded up) of the
      day's scores. A constant score gives 0; equal labels leave NaN, and for liq_wpcc also a day on which no such stock
      has any liquidity.
    - ``capped_return``: sum(yuan * r) / capital with the capital placed in full by ``fill_top_n``, r = 0
      where the label is unknown; ``capped_excess``: sum(yuan * (r - m)) / capital, m the plain mean label of
      the stocks with a score and a label. What ``buyable`` forbids stays cash, never reallocated.
    - ``topn_*``: the same with ``top_n`` stocks in proportion to liquidity.
    - ``*_names_held`` (count), ``*_cash_share`` (of the capital), ``*_unpriced`` (held, label unknown).
    - ``*_paper``: as if everything were buyable; equal to the plain columns where ``buyable`` is None.

    Args:
        score: (D, N) NaN where there is none.
        label: (D, N) raw forward return, NaN where unknown.
        liquidity: (D, N) yuan a day; None only where no named column needs it.
        buyable: (D, N) bool, True = the entry was possible; None: everything was.
        names: columns to compute, of ``COLUMNS``; None: all that the inputs allow.
        capital: yuan placed each day.
        participation: largest share of a stock's liquidity.
        top_n: stocks of the ``topn`` columns.
        base: of wpcc, see ``losses.rank_weight``.
        alpha: of liq_wpcc, see ``losses.liquidity_weight``.

    Returns:
        Frame of D rows (0 to D-1). Correlations and returns are NaN on days with fewer than two stocks that
        have a score and a label.

    Raises:
        ValueError: for shapes, an infinite score, an unknown name or missing liquidity.

    """
    if names is None:
        names = COLUMNS if liquidity is not None else [key for key in COLUMNS if key not in NEED_LIQUIDITY]
    for name in names:
        check_choice("metric", name, COLUMNS)
        _check_liquidity(name, name, liquidity)

    def measure(days: DayGrids) -> dict[str, Tensor]:
        """Compute the named columns of a block of days, (D,) each."""
        columns: dict[str, Tensor] = {}
        correlate = correlations(days, base=base, alpha=alpha)
        for name in names:
            if name in correlate:
                columns[name] = correlate[name]()
        for kind, count in (("capped", None), ("topn", top_n)):
            if any(name.startswith(kind) for name in names):
                columns |= _portfolio(days, kind, capital=capital, participation=participation, top_n=count)
        return columns

    parts = by_block(measure, score, label, liquidity, buyable)
    return pd.DataFrame({name: torch.cat([columns[name] for columns in parts]).numpy() for name in names})


def metric_value(
    name: str,
    score: ArrayLike | Tensor,
    label: ArrayLike | Tensor,
    liquidity: ArrayLike | Tensor | None = None,
    buyable: ArrayLike | Tensor | None = None,
    **options: Any,
) -> tuple[float, float]:
    """Average one metric over the days it is defined on, larger is better.

    Args:
        name: of ``METRICS``. ``icir`` and ``rank_icir`` are mean / standard deviation over days, 0 where both
            are 0; the suffix ``_buyable`` says the same as none.
        score: (D, N), see ``daily_metrics``.
        label: (D, N).
        liquidity: (D, N), needed by liq_wpcc and every return.
        buyable: (D, N) bool; None: everything was.
        **options: capital, participation, top_n, base, alpha of ``daily_metrics``.

    Returns:
        (value, standard error): the mean and std / sqrt(days); for the ratios the error is
        sqrt((1 + ratio^2 / 2) / days) (Lo 2002, independent days). Labels of several days overlap, and then
        the error is too small. NaN where there are too few days.

    Raises:
        ValueError: for an unknown name (naming the close ones), or missing liquidity.

    """
    (column,) = daily_columns(name)
    _check_liquidity(name, column, liquidity)
    return average(daily_metrics(score, label, liquidity, buyable, names=[column], **options), name)


def daily_columns(name: str) -> list[str]:
    """Name the columns of ``daily_metrics`` that a metric is the average of.

    Raises:
        ValueError: for an unknown metric (naming the close ones).

    """
    check_choice("metric", name, METRICS)
    return [RATIOS.get(name, name.removesuffix("_buyable"))]


def average(daily: pd.DataFrame, name: str) -> tuple[float, float]:
    """Average a metric, or a column, of a ``daily_metrics`` frame: (value, standard error) of ``metric_value``."""
    column = RATIOS.get(name, name.removesuffix("_buyable"))
    values = daily[column].to_numpy(dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return math.nan, math.nan
    mean, std = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan
    if name not in RATIOS:
        return mean, std / math.sqrt(len(values))
    ratio = 0.0 if mean == std == 0 else _ratio(mean, std)
    return ratio, math.sqrt((1.0 + ratio**2 / 2.0) / len(values))


def rank_correlation(
    a: ArrayLike | Tensor, b: ArrayLike | Tensor, mask: ArrayLike | Tensor | None = None
) -> NDArray[np.float64]:
    """Correlate the ranks of a and b day by day (Spearman, average ranks for ties).

    Args:
        a: (D, N) e.g. the score.
        b: (D, N) e.g. the volatility, for the score's exposure to it.
        mask: (D, N) bool, True = real; a stock also needs finite a and b. None: all are real.

    Returns:
        (D,) in [-1, 1]; NaN on days with fewer than two such stocks or all b equal, 0 where all a are equal.

    Raises:
        ValueError: for unequal shapes, or a mask that is not bool.

    """
    left, right, given = matrix("a", a), matrix("b", b), None if mask is None else flags("mask", mask)
    check_shapes(a=left, b=right, mask=given)
    real = torch.isfinite(left) & torch.isfinite(right)
    if given is not None:
        real = real & given
    return spearman(left, right, real).numpy()


def _portfolio(
    days: DayGrids, kind: str, *, capital: float, participation: float, top_n: int | None
) -> dict[str, Tensor]:
    """Compute the columns of one allocation, buyable and paper: (D,) each."""
    yuan = fill_top_n(days.score, days.liquidity, capital=capital, participation=participation, top_n=top_n)
    filled, market = torch.where(days.priced, days.label, 0.0), days.market()
    columns: dict[str, Tensor] = {}
    for suffix, buyable in (("", days.buyable), ("_paper", None)):
        if suffix and days.buyable is None:
            columns |= {f"{name}_paper": value for name, value in columns.items()}
            break
        held = yuan if buyable is None else torch.where(buyable, yuan, 0.0)
        invested = held.sum(dim=1) / capital
        gain = (held * filled).sum(dim=1) / capital
        gain = torch.where(days.count >= 2, gain, torch.nan)
        columns |= {
            f"{kind}_return{suffix}": gain,
            f"{kind}_excess{suffix}": gain - market[:, 0] * invested,
            f"{kind}_names_held{suffix}": (held > 0).sum(dim=1),
            f"{kind}_cash_share{suffix}": (1.0 - invested).clamp(min=0.0),
            f"{kind}_unpriced{suffix}": ((held > 0) & ~days.priced).sum(dim=1),
        }
    return columns


# --- headline


def headline(daily_return: ArrayLike, *, ic: ArrayLike | None = None) -> dict[str, float]:
    """Sum up a series of daily returns as the deck's table does; each key is defined in ``DEFINITIONS``.

    Args:
        daily_return: (D,) returns of successive trading days that do not overlap (0.01 = 1%); a label of
            several days goes through ``sleeve_returns`` first.
        ic: (D',) daily ICs, NaN where undefined; None leaves mean_ic NaN.

    Returns:
        The keys of ``DEFINITIONS``, fractions. Volatility and Sharpe are NaN with one day or none of it.

    Raises:
        ValueError: for an empty series, NaN, or a return below -1.

    """
    daily = np.asarray(daily_return, dtype=np.float64)
    if daily.ndim != 1 or len(daily) == 0:
        raise ValueError(f"daily_return must be (D,) with D >= 1, got shape {daily.shape}")
    bad = int((~np.isfinite(daily) | (daily < -1)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(daily)} daily returns are NaN, infinite or below -1; drop the days without an "
            "outcome, or fill them with 0 where the capital was in cash"
        )
    known_ic = np.asarray([] if ic is None else ic, dtype=np.float64)
    known_ic = known_ic[np.isfinite(known_ic)]
    curve = np.concatenate([[1.0], np.cumprod(1.0 + daily)])
    deviation = float(daily.std(ddof=1)) if len(daily) > 1 else math.nan
    annual, volatility = curve[-1] ** (DAYS_A_YEAR / len(daily)) - 1.0, deviation * math.sqrt(DAYS_A_YEAR)
    result = {
        "mean_ic": known_ic.mean() if len(known_ic) else math.nan,
        "mean_return": curve[-1] - 1.0,
        "annual_return": annual,
        "annual_return_arithmetic": daily.mean() * DAYS_A_YEAR,
        "annual_volatility": volatility,
        "sharpe": _ratio(annual, volatility),
        "sharpe_arithmetic": _ratio(daily.mean(), deviation) * math.sqrt(DAYS_A_YEAR),
        "max_drawdown": (curve / np.maximum.accumulate(curve) - 1.0).min(),
    }
    return {key: float(value) for key, value in result.items()}


def headline_table(
    returns: Mapping[str, pd.Series], *, ic: ArrayLike | None = None, unscored: Collection[str] = ()
) -> pd.DataFrame:
    """Put ``headline`` of several series under each other.

    Args:
        returns: name of the row (gross, net, excess, ...) -> (D,) daily returns.
        ic: (D',) daily ICs, the same for all rows.
        unscored: rows that no score has made (the market, a benchmark); their mean_ic is NaN.

    Returns:
        One row a series, one column a key of ``DEFINITIONS``.

    """
    rows = {name: headline(series, ic=None if name in unscored else ic) for name, series in returns.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(DEFINITIONS))


def sleeve_returns(
    yuan: ArrayLike, step_return: ArrayLike, horizon: int, *, capital: float = CAPITAL
) -> NDArray[np.float64]:
    """Mark overlapping holdings daily: each day one of ``horizon`` sleeves of capital / horizon is renewed.

    yuan[d] / horizon is bought at the entry of signal day d and held, drifting, through the ``horizon`` steps
    d, d+1, ...; the first horizon - 1 days are therefore partly in cash. Gains are paid out, so that the base
    stays ``capital``; with horizon 1 the result is sum(yuan * step_return) / capital.

    Args:
        yuan: (D, N) the allocation of the whole capital on each signal day.
        step_return: (D, N) one-day return that follows the entry of signal day d; NaN counts as 0.
        horizon: days that the label spans, at least 1.
        capital: yuan.

    Returns:
        (D,) return of step t on the capital.

    Raises:
        ValueError: for shapes or a horizon that are not allowed.

    """
    held, step = np.asarray(yuan, dtype=np.float64), np.asarray(step_return, dtype=np.float64)
    if held.ndim != 2 or held.shape != step.shape:
        raise ValueError(f"yuan and step_return must be one and the same (D, N), got {held.shape}, {step.shape}")
    if isinstance(horizon, bool) or not isinstance(horizon, int | np.integer) or horizon < 1:
        raise ValueError(f"horizon must be an integer >= 1 (days of the label), got {horizon!r}")
    if not 0 < capital < math.inf:
        raise ValueError(f"capital must be a finite number > 0 in yuan, got {capital!r}")
    days, step = len(held), np.nan_to_num(step, nan=0.0)
    value, gain = held / horizon, np.zeros(days)
    for age in range(min(horizon, days)):
        value = value[: days - age]
        earned = value * step[age:]
        gain[age:] += earned.sum(axis=1)
        value = value + earned
    return gain / capital


# --- arithmetic


def _ratio(mean: float, std: float) -> float:
    return mean / std if std > 0 else math.nan


# --- checks


def _check_liquidity(name: str, column: str, liquidity: Any) -> None:
    if column in NEED_LIQUIDITY and liquidity is None:
        raise ValueError(
            f"metric {name!r} needs liquidity (D, N) in yuan a day and got None: use "
            "DayDatasetH(liquidity=...), or choose metric: rank_ic, which needs none"
        )
