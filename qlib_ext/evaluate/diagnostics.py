"""What a score is made of, and how sure its numbers are.

Arrays are (D, N) = (days, stocks), numpy or torch, as in ``evaluate``: ``score`` NaN where there is none, ``label`` the
raw forward return (0.01 = 1%), NaN where unknown, ``liquidity`` yuan a day. A stock is real on a day that gives it a
score and a label. What ``evaluate`` already measures is taken from there; added are errors that allow for days which
resemble each other (Newey and West 1987), and numbers on the top of the ranking. The reason for the latter is the
deck, page 1: a model whose error is larger, but smaller for the top fifth of the stocks, is worth far more.
All take Series by (datetime, instrument) too, see `panel.takes_series`.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qlib_ext import losses
from qlib_ext.cross_section import places, standardised
from qlib_ext.evaluate.day_grids import TOP_N, TOP_SHARE, DayGrids, as_grids
from qlib_ext.evaluate.metrics import (
    COLUMNS,
    CORRELATIONS,
    NEUTRAL_CORRELATIONS,
    RATIOS,
    daily_metrics,
    rank_correlation,
)
from qlib_ext.evaluate.newey_west import newey_west
from qlib_ext.options import check_number
from qlib_ext.panel import takes_series

QUANTILES = 10
EXPOSURE_LIMIT = 0.3  # of a mean rank correlation with a factor; beyond it a person is told
FACTORS = ("volatility", "size", "liquidity", "reversal")

DIAGNOSTICS_DEFINITIONS = {
    "value": "mean over the days on which the number is defined; for icir and rank_icir mean / standard deviation",
    "standard_error": (
        "Newey-West standard error of value, Bartlett kernel, lags at least the label's days - 1; for icir and "
        "rank_icir by the delta method, which without lags and for normal days is Lo's sqrt((1 + value^2 / 2) / days)"
    ),
    "t": (
        "(value - what a random score has on average) / standard_error: 0 for correlations, the value of "
        "precision_chance for precision_top; NaN for the other rows and where standard_error is 0"
    ),
    "days": "days on which the number is defined",
    **{name: COLUMNS[name].definition for name in (*CORRELATIONS, *NEUTRAL_CORRELATIONS)},
    "icir": "mean of the daily ic / its standard deviation over days, not annualised",
    "rank_icir": "mean of the daily rank_ic / its standard deviation over days, not annualised",
    "top20_mse": (
        "mean of (z(score) - z(label))^2 over the top fifth of the day's scores, z = less the mean, over the standard "
        "deviation, both of all the day's stocks; 2 (1 - ic) if taken over all of them, whatever the unit of the score"
    ),
    "top20_mse_fitted": (
        "mean of (z(label) - ic z(score))^2 over the top fifth of the day's scores: the label's squared distance from "
        "the day's least-squares line on the score, in variances of the label; 1 - ic^2 if taken over all stocks"
    ),
    "precision_top": (
        "share of the day's first top_n stocks by score, those with a label, that are in the top fifth (rounded up) of "
        "the day's labels and were buyable"
    ),
    "precision_chance": "the same share among all stocks with a score and a label: what a random score has on average",
    "precision_top_paper": "precision_top as if everything were buyable",
    "precision_chance_paper": "precision_chance as if everything were buyable",
    "quantile_returns": "mean label of the day's stocks by quantile of the score, 1 = the lowest scores",
    "exposures": "correlation of the ranks of score and factor across the day's stocks, average ranks for ties",
}


# --- errors that allow for resembling days


@takes_series("score", "label", "liquidity", "buyable")
def summary(
    score: ArrayLike | Tensor,
    label: ArrayLike | Tensor,
    liquidity: ArrayLike | Tensor | None = None,
    buyable: ArrayLike | Tensor | None = None,
    *,
    horizon: int = 1,
    lags: int | None = None,
    top_n: int = TOP_N,
    base: float = losses.BASE,
    alpha: float = losses.ALPHA,
    exposures: ArrayLike | Tensor | None = None,
) -> pd.DataFrame:
    """Put the correlations of a score and the quality of its top under each other, with Newey-West errors.

    The squared errors stand on standardised values, as the score of a correlation loss has no unit. Even so top20_mse
    is mostly the spread of the score (about 3.2 for normal scores that know nothing); top20_mse_fitted takes that out.

    Args:
        score: (D, N) NaN where there is none; days in order of time.
        label: (D, N) raw forward return, NaN where unknown.
        liquidity: (D, N) yuan a day; None leaves liq_wpcc out.
        buyable: (D, N) bool, True = the entry was possible: a stock of the top that was not is no hit of precision_top,
            and never replaced by the next. None: everything was, and the ``_paper`` rows are left out. An outcome, of
            which the correlations take no notice.
        horizon: days of the label, see ``newey_west``.
        lags: see ``newey_west``.
        top_n: stocks of precision_top; all of them on days with fewer.
        base: of wpcc, see ``losses.rank_weight``.
        alpha: of liq_wpcc, see ``losses.liquidity_weight``.
        exposures: (D, N, K) as of ``daily_metrics``; None leaves ic_neutral and rank_ic_neutral out.

    Returns:
        Frame of one row a number (ic, icir, rank_ic, rank_icir, wpcc, liq_wpcc, top20_ic, ic_neutral, rank_ic_neutral,
        top20_mse, top20_mse_fitted, precision_top, precision_chance, the latter two again as ``_paper``) and the
        columns value, standard_error, t, days; each row and column is defined in ``DIAGNOSTICS_DEFINITIONS``.
        Days with fewer than two real stocks or with equal labels count nowhere.

    Raises:
        ValueError: for shapes, an infinite score, or numbers out of bounds.

    >>> score = [[5.0, 4.0, 3.0, 2.0, 1.0]]
    >>> label = [[0.03, 0.05, 0.01, -0.01, -0.03]]
    >>> summary(score, label, top_n=2).loc[["ic", "precision_top"], "value"].round(2).to_dict()
    {'ic': 0.9, 'precision_top': 0.5}
    """
    check_number("top_n", top_n, "[1, inf)", whole=True)
    names = [name for name in CORRELATIONS if name != "liq_wpcc" or liquidity is not None]
    names += NEUTRAL_CORRELATIONS if exposures is not None else ()
    days = DayGrids(score, label, liquidity, buyable)
    daily = daily_metrics(score, label, liquidity, names=names, base=base, alpha=alpha, exposures=exposures)
    series: dict[str, NDArray[np.float64]] = {}
    for name in names:
        series[name] = daily[name].to_numpy()
        series |= {ratio: series[name] for ratio, column in RATIOS.items() if column == name}
    series |= _top_errors(days, torch.from_numpy(daily["ic"].to_numpy(copy=True)))
    series |= _precision(days, top_n)
    rows = {name: _estimate(values, name in RATIOS, lags, horizon) for name, values in series.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "standard_error", "days"])
    chance = pd.Series(np.nan, index=table.index)
    chance[[name for name in rows if name in (*names, *RATIOS)]] = 0.0
    for name in rows:
        if name.startswith("precision_top"):
            chance[name] = rows[name.replace("top", "chance")][0]
    t = (table["value"] - chance) / table["standard_error"].where(table["standard_error"] > 0)
    return table.assign(t=t)[["value", "standard_error", "t", "days"]]


# --- what a score is made of


@takes_series("score", "label")
def quantile_returns(score: ArrayLike | Tensor, label: ArrayLike | Tensor, quantiles: int = QUANTILES) -> pd.DataFrame:
    """Average the label by quantile of the score, day by day.

    All stocks with a score are cut into groups of (nearly) equal number, whether their label is known or not: the cut
    looks at nothing later. Where they do not divide the highest group is never the smaller one: with 5 quantiles it is
    the top fifth of ``evaluate``. Ties break by position, the first stock ranking highest, as in ``fill_top_n``.

    Args:
        score: (D, N) NaN where there is none.
        label: (D, N) raw forward return, NaN where unknown; such stocks are left out of the means.
        quantiles: groups a day, at least 2.

    Returns:
        Frame of D rows (0 to D-1) and the columns 1 (lowest scores) to ``quantiles``; NaN on days with fewer scored
        stocks than quantiles, and for a group without a label.

    Raises:
        ValueError: for shapes, an infinite score, or fewer than two quantiles.

    >>> quantile_returns([[1.0, 2.0, 3.0, 4.0]], [[0.00, 0.02, 0.01, 0.05]], 2)
    quantile     1     2
    0         0.01  0.03
    """
    check_number("quantiles", quantiles, "[2, inf)", whole=True)
    days = DayGrids(score, label)
    scored = ~torch.isnan(days.score)
    count = scored.sum(dim=1, keepdim=True)
    group = places(days.score, scored).long() * quantiles // count.clamp(min=1)  # 0 = the highest scores
    use = days.real & (count >= quantiles)
    total, members = torch.zeros(2, len(count), quantiles, dtype=torch.float64)
    total.scatter_add_(1, group.clamp(max=quantiles - 1), torch.where(use, days.label, 0.0))
    members.scatter_add_(1, group.clamp(max=quantiles - 1), use.double())
    mean = torch.where(members > 0, total / members.clamp(min=1), torch.nan).flip(1)
    return pd.DataFrame(mean.numpy(), columns=pd.RangeIndex(1, quantiles + 1, name="quantile"))


@takes_series("score", *FACTORS)
def exposures(
    score: ArrayLike | Tensor,
    *,
    volatility: ArrayLike | Tensor | None = None,
    size: ArrayLike | Tensor | None = None,
    liquidity: ArrayLike | Tensor | None = None,
    reversal: ArrayLike | Tensor | None = None,
) -> pd.DataFrame:
    """Correlate the ranks of a score with those of known factors, day by day.

    Args:
        score: (D, N) NaN where there is none.
        volatility: (D, N) trailing standard deviation of daily returns.
        size: (D, N) yuan of market value.
        liquidity: (D, N) yuan a day.
        reversal: (D, N) e.g. minus the return of the last 20 days.

    Returns:
        Frame of D rows (0 to D-1), one column a given factor, in [-1, 1]; NaN on days with fewer than two stocks that
        have both, or with one value of the factor for all; 0 where all scores are equal.

    Raises:
        ValueError: for no factor, or a factor of another shape than the score.

    >>> exposures([[0.1, 0.2, 0.9]], volatility=[[3.0, 1.0, 2.0]])
       volatility
    0        -0.5
    """
    factors = dict(zip(FACTORS, (volatility, size, liquidity, reversal), strict=True))
    inputs: dict[str, Any] = {name: values for name, values in factors.items() if values is not None}
    if not inputs:
        raise ValueError(f"no factor was given; pass one or more of {', '.join(FACTORS)} as (D, N)")
    as_grids(score=score, **inputs)
    return pd.DataFrame({name: rank_correlation(score, values) for name, values in inputs.items()})


# --- arithmetic


def _estimate(daily: NDArray[np.float64], ratio: bool, lags: int | None, horizon: int) -> tuple[float, float, int]:
    """Mean or ratio over days, its Newey-West error and its days; the ratio's by the delta method.

    The ratio m / s moves with a day's deviation e by e / s - m (e^2 - s^2) / (2 s^3) (as in Lo 2002, GMM), and its
    error is that of the mean of these.
    """
    values = daily[np.isfinite(daily)]
    mean, error, _ = newey_west(values, lags, horizon=horizon)
    if not ratio:
        return mean, error, len(values)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if not deviation > 0:
        return math.nan, math.nan, len(values)
    gap = (values - mean) / deviation
    value = mean / deviation
    _, error, _ = newey_west(gap - value / 2.0 * gap**2, lags, horizon=horizon)
    return value, error, len(values)


def _top_errors(days: DayGrids, ic: Tensor) -> dict[str, NDArray[np.float64]]:
    """Compute top20_mse and top20_mse_fitted (D,); ``ic`` (D,) is the day's, NaN where it has none."""
    top, label = days.top(), standardised(days.label, days.real)
    score = standardised(days.score, days.real)
    count = top.sum(dim=1)
    errors = {}
    for name, fit in (("top20_mse", score), ("top20_mse_fitted", ic.nan_to_num()[:, None] * score)):
        mean = torch.where(top, (fit - label) ** 2, 0.0).sum(dim=1) / count.clamp(min=1)
        errors[name] = torch.where((count > 0) & ~ic.isnan(), mean, torch.nan).numpy()
    return errors


def _precision(days: DayGrids, top_n: int) -> dict[str, NDArray[np.float64]]:
    """Compute precision_top and precision_chance (D,), and both as paper where ``buyable`` is given.

    NaN on days with fewer than two real stocks or with equal labels, and where no pick has a label.
    """
    picks = (places(days.score, ~torch.isnan(days.score)) < top_n) & days.real
    best = (places(days.label, days.real) < ((days.count + TOP_SHARE - 1) // TOP_SHARE)[:, None]) & days.real
    hits = {"": best} if days.buyable is None else {"": best & days.buyable, "_paper": best}
    valid = days.valid
    shares = {}
    for suffix, hit in hits.items():
        for name, among in (("precision_top", picks), ("precision_chance", days.real)):
            size = among.sum(dim=1)
            share = (hit & among).sum(dim=1) / size.clamp(min=1)
            shares[name + suffix] = torch.where(valid & (size > 0), share.double(), torch.nan).numpy()
    return shares
