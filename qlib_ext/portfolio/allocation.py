"""The one allocation: capital placed down a ranking under caps by liquidity.

``D`` days, ``N`` stocks; amounts in yuan, returns as fractions (0.01 = 1%). ``fill_top_n`` sees only what is
known at the close of the signal day; the validation metric, the strategy and the evaluator all call it.
Source: slides, page 3 (the liquidity-weighted portfolio).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from qlib_ext.cross_section import as_float64, as_tensor, check_flags, descending, is_positive
from qlib_ext.options import check_number, check_shapes
from qlib_ext.panel import takes_series

CAPITAL = 150e6  # yuan; slides, page 3
PARTICIPATION = 0.05  # of a stock's liquidity; slides, page 3
MAX_WEIGHT = 0.05  # of the capital in one stock, as an account has it; the deck has no such cap
BLOCK_DAYS = 32  # taken at a time: small grids stay in the cache
HEAD = 256  # stocks to rank at first
DUST = 1e-12  # a rest below this share of the capital is float noise and stays cash
WEIGHT = " (a share: 0.05 is 5% of the capital)"

Array = TypeVar("Array", NDArray[Any], Tensor)


@takes_series("score", "liquidity", "mask")
def fill_top_n(
    score: Array,
    liquidity: Array,
    *,
    capital: float = CAPITAL,
    participation: float = PARTICIPATION,
    top_n: int | None = None,
    max_weight: float | None = None,
    mask: Array | None = None,
) -> Array:
    """Place each day's capital down the ranking, no stock above ``participation * liquidity``.

    - ``top_n=None``: every stock takes its cap until the capital is placed; the last one takes the rest.
    - ``top_n=n``: the first n tradable stocks share the capital in proportion to their liquidity, none above
      its cap; what the caps turn away stays cash.
    - ``max_weight=w``: what a stock takes is at most w of the capital too. Liquidity beyond what that needs then
      counts for nothing, in the proportions as well.

    A stock is tradable where ``mask`` is True, the score is a number and the liquidity is positive and
    finite. Others take nothing and do not count among the n. Equal scores rank by position. Computed in
    float64 whatever comes in. Source: slides, page 3.

    Args:
        score: (..., N) larger is better, NaN where there is none; numpy or torch. Or a Series by (datetime,
            instrument), and then liquidity (and mask) too; the yuan are then one by these.
        liquidity: (..., N) yuan a day, known at the close of the signal day.
        capital: yuan to place each day.
        participation: largest share of a stock's liquidity to take.
        top_n: number of stocks, or None to place the capital in full.
        max_weight: largest share of the capital in a stock, or None.
        mask: (..., N) bool, True = real; what stands elsewhere is ignored. None: all are real.

    Returns:
        (..., N) yuan, float64, of the kind (and on the device) of ``score``.

    Raises:
        ValueError: for unequal shapes, a capital, participation, ``top_n`` or ``max_weight`` that is not allowed, or
            an infinite score under the mask.

    >>> fill_top_n([0.3, 0.1, 0.2], [4e6, 1e6, 2e6], capital=2.5e5, participation=0.05).tolist()
    [200000.0, 0.0, 50000.0]
    >>> fill_top_n([0.3, 0.1, 0.2], [4e6, 1e6, 2e6], capital=3e4, top_n=2).tolist()
    [20000.0, 0.0, 10000.0]
    >>> fill_top_n([0.3, 0.1, 0.2], [4e6, 1e6, 2e6], capital=1e5, max_weight=0.6).tolist()
    [60000.0, 0.0, 40000.0]
    """
    _check_options([capital], participation, top_n, max_weight)
    ranking, traded, real = _grids(score, liquidity, mask)
    traded = _usable(traded, float(capital), participation, max_weight)
    days, stocks = math.prod(ranking.shape[:-1]), ranking.shape[-1]
    size = BLOCK_DAYS if ranking.device.type == "cpu" else max(days, 1)
    blocks = zip(*(grid.reshape(days, stocks).split(size) for grid in (ranking, traded, real)), strict=True)
    placed = [_place(s, q, m, float(capital), participation, top_n) for s, q, m in blocks]
    yuan = torch.cat(placed).reshape(ranking.shape)
    return yuan if isinstance(score, Tensor) else yuan.numpy()


def _usable(traded: Tensor, capital: float, participation: float, max_weight: float | None) -> Tensor:
    """Bound liquidity by what a largest weight needs of it, so that the cap by liquidity is that by weight too."""
    return traded if max_weight is None else traded.clamp(max=max_weight * capital / participation)


def _place(
    score: Tensor, traded: Tensor, real: Tensor, capital: float, participation: float, top_n: int | None
) -> Tensor:
    """Place each day's capital: (D, N) yuan."""
    real, traded = _tradable(score, traded, real)
    if top_n is None:
        order, placed = _walk(score, traded, real, capital, participation)
    else:
        order = descending(score, real, top_n)
        placed = _share(traded.gather(1, order), capital, participation)
    return torch.zeros_like(score).scatter_(1, order, placed)


def _tradable(score: Tensor, traded: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Tell the tradable stocks (D, N) bool, and their liquidity, 0 elsewhere."""
    real = real & ~torch.isnan(score) & is_positive(traded)
    return real, torch.where(real, traded, 0.0)


def _walk(score: Tensor, traded: Tensor, real: Tensor, capital: float, participation: float) -> tuple[Tensor, Tensor]:
    """Fill the caps down the ranking until the capital is placed: positions and yuan (D, n) of the first n stocks.

    As many as it takes: with the deck's caps some tens of names hold the capital, and the rest need no order.
    """
    stocks = score.shape[1]
    count = HEAD if score.device.type == "cpu" else stocks
    while True:
        order = descending(score, real, count)
        cap = (participation * traded.gather(1, order)).clamp(max=capital)
        total = cap.cumsum(dim=1)
        rest = capital - torch.cat([torch.zeros_like(total[:, :1]), total], dim=1)
        rest = torch.where(rest > DUST * capital, rest, 0.0)
        if count >= stocks or not (real.gather(1, order[:, -1:]) & (rest[:, -1:] > 0)).any():
            return order, torch.minimum(cap, rest[:, :-1])
        count *= 8


def _share(ranked: Tensor, capital: float, participation: float) -> Tensor:
    """Split the capital in proportion to liquidity (D, n), under the caps: (D, n) yuan.

    Both the share and the cap are proportional to liquidity, so one rate a day serves all its stocks.
    """
    rate = (capital / ranked.sum(dim=1, keepdim=True)).clamp(max=participation)
    return ranked * rate


def fill_capitals(
    score: ArrayLike,
    liquidity: ArrayLike,
    capitals: Sequence[float],
    *,
    participation: float = PARTICIPATION,
    top_n: int | None = None,
    max_weight: float | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Place many capitals as ``fill_top_n`` does each, with one ranking for all.

    The stocks above one in the ranking take the same at any capital that reaches it. So its yuan are what is left
    after the sum of their caps, at least 0 and at most its own cap.

    Args:
        score: (D, N) as in ``fill_top_n``.
        liquidity: (D, N) yuan a day.
        capitals: yuan, in any order.
        participation: largest share of a stock's liquidity to take.
        top_n: number of stocks, or None to place the capital in full.
        max_weight: largest share of each capital in a stock, or None.

    Returns:
        Iterator over the capitals, (D, N) yuan each; a new array that the caller may change.

    Raises:
        ValueError: as ``fill_top_n``, at once.

    >>> fills = fill_capitals([[0.3, 0.1, 0.2]], [[4e6, 1e6, 2e6]], [1e5, 2.5e5])
    >>> [yuan.tolist() for yuan in fills]
    [[[100000.0, 0.0, 0.0]], [[200000.0, 0.0, 50000.0]]]
    """
    _check_options(capitals, participation, top_n, max_weight)
    ranking, traded, real = _grids(score, liquidity)
    real, traded = _tradable(ranking, traded, real)
    order = descending(ranking, real, top_n)
    fill = _full if top_n is None else _shares
    return fill(traded, order, capitals, participation, max_weight)


def _full(
    traded: Tensor, order: Tensor, capitals: Sequence[float], participation: float, max_weight: float | None
) -> Iterator[NDArray[np.float64]]:
    """Fill the caps of liquidity (D, N) down the ranking, for each capital; without a largest weight they are one."""
    for some in [capitals] if max_weight is None else [[capital] for capital in capitals]:
        cap = participation * _usable(traded, some[0], participation, max_weight)
        before = np.full(cap.shape, np.inf)
        above = np.cumsum(cap.gather(1, order).numpy(), axis=1)
        np.put_along_axis(before, order.numpy(), np.pad(above[:, :-1], ((0, 0), (1, 0))), axis=1)
        for capital in some:
            rest = capital - before
            yield np.minimum(cap.numpy(), np.where(rest > DUST * capital, rest, 0.0))


def _shares(
    traded: Tensor, order: Tensor, capitals: Sequence[float], participation: float, max_weight: float | None
) -> Iterator[NDArray[np.float64]]:
    """Split each capital over the first n stocks."""
    ranked = traded.gather(1, order)
    for capital in capitals:
        chosen = np.zeros(traded.shape)
        most = _usable(ranked, capital, participation, max_weight)
        np.put_along_axis(chosen, order.numpy(), _share(most, capital, participation).numpy(), axis=1)
        yield chosen


# --- checks


def _check_options(
    capitals: Sequence[float], participation: float, top_n: int | None, max_weight: float | None
) -> None:
    for capital in capitals:
        check_number("capital", capital, "(0, inf)", hint=" (yuan, e.g. 150e6)")
    check_number("participation", participation, "(0, inf)", hint=" (a share of the liquidity, e.g. 0.05)")
    if top_n is not None:
        check_number("top_n", top_n, "[1, inf)", whole=True, hint=", or None to place the capital in full")
    if max_weight is not None:
        check_number("max_weight", max_weight, "(0, 1]", hint=WEIGHT)


def _grids(score: Any, liquidity: Any, mask: Any = None) -> tuple[Tensor, Tensor, Tensor]:
    """Take score and liquidity as float64, on the device they are on and never written to, and the mask."""
    ranking, traded = as_float64(score), as_float64(liquidity)
    real = torch.ones_like(ranking, dtype=torch.bool) if mask is None else as_tensor(mask)
    check_shapes("(..., N) = (days..., stocks)", score=ranking, liquidity=traded, mask=real)
    check_flags(mask=real)
    infinite = int(((ranking.abs() == torch.inf) & real).sum())
    if infinite:
        raise ValueError(
            f"score is infinite at {infinite} stocks: a model has diverged. Use NaN where there is no score"
        )
    return ranking, traded, real
