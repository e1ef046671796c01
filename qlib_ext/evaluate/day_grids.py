"""The checked grids (D, N) of some days and the arithmetic of `evaluate`: correlations day by day, ranks, orders."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from qlib_ext import losses
from qlib_ext.cross_section import descending, pearson, spearman, varied_days

TOP_SHARE = 5  # top20_ic looks at the best 1 / TOP_SHARE of the scores
BLOCK_DAYS = 32

T = TypeVar("T")


class DayGrids:
    """The checked float64 inputs (D, N) of some days, and what all metrics share.

    Attributes:
        score, label, liquidity: (D, N) as in ``daily_metrics``; liquidity is 0 where none was given.
        buyable: (D, N) bool or None.
        priced: (D, N) the label is known.
        real: (D, N) the stock has a score and a label.
        count: (D,) of the real stocks.

    Raises:
        ValueError: for shapes, a mask that is not bool, or an infinite score.

    """

    def __init__(self, score: Any, label: Any, liquidity: Any = None, buyable: Any = None) -> None:
        self.score, self.label = matrix("score", score), matrix("label", label)
        self.liquidity = torch.zeros_like(self.score) if liquidity is None else matrix("liquidity", liquidity)
        self.buyable = None if buyable is None else flags("buyable", buyable)
        check_shapes(score=self.score, label=self.label, liquidity=self.liquidity, buyable=self.buyable)
        if (self.score.abs() == torch.inf).any():
            raise ValueError("score holds infinities: a model has diverged. Use NaN where there is no score")
        self.priced = self.label.abs() < torch.inf
        self.real = self.priced & ~torch.isnan(self.score)
        self.count = self.real.sum(dim=1)

    @cached_property
    def valid(self) -> Tensor:
        """Tell the days (D,) with two or more real stocks whose labels are not all equal."""
        return varied_days(self.label, self.real)

    def market(self) -> Tensor:
        """Average the label over the stocks with a score and a label: (D, 1)."""
        total = torch.where(self.real, self.label, 0.0).sum(dim=1, keepdim=True)
        return total / self.count[:, None].clamp(min=1)

    def best(self) -> tuple[Tensor, Tensor]:
        """List the top fifth (rounded up) of the scores: positions, best first, and which of them are real, (D, K)."""
        scored = ~torch.isnan(self.score)
        size = (scored.sum(dim=1, keepdim=True) + TOP_SHARE - 1) // TOP_SHARE
        order = descending(self.score, scored, (self.score.shape[1] + TOP_SHARE - 1) // TOP_SHARE)
        return order, (torch.arange(order.shape[1]) < size) & self.real.gather(1, order)

    def top(self) -> Tensor:
        """Mark the real stocks in the top fifth (rounded up) of the scores, ties by position: (D, N)."""
        order, real = self.best()
        return torch.zeros_like(self.real).scatter_(1, order, real)


def by_block(measure: Callable[[DayGrids], T], score: Any, label: Any, liquidity: Any, buyable: Any) -> list[T]:
    """Measure the days in short blocks, side by side: every number is of one day, and small grids stay in the cache."""
    given = {"score": score, "label": label, "liquidity": liquidity, "buyable": buyable}
    grids = {name: None if values is None else _grid(name, values) for name, values in given.items()}
    check_shapes(**grids)

    days, threads = max(np.shape(score)[0], 1), torch.get_num_threads()
    rounds = -(-days // (BLOCK_DAYS * threads))
    size = min(
        BLOCK_DAYS, -(-days // (rounds * threads)) if days > BLOCK_DAYS else days
    )  # as many days for each thread

    def work(first: int) -> T:
        cut = {name: None if grid is None else grid[first : first + size] for name, grid in grids.items()}
        return measure(DayGrids(**cut))

    starts = range(0, days, size)
    if len(starts) == 1:
        return [work(0)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, starts))


def correlations(days: DayGrids, *, base: float, alpha: float) -> dict[str, Callable[[], Tensor]]:
    """Offer each correlation (D,) under its name."""
    score, label, real = days.score, days.label, days.real

    def weighted(weight: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid, losses.weighted_pearson(score, label, weight, real), torch.nan)

    def by_liquidity() -> Tensor:
        valid = losses.DayLoss("liq_wpcc").valid_days(label, real, days.liquidity)
        return weighted(losses.liquidity_weight(label, days.liquidity, real, alpha=alpha), valid)

    def top() -> Tensor:
        order, among = days.best()
        return pearson(score.gather(1, order), label.gather(1, order), among)

    return {
        "ic": lambda: pearson(score, label, real, days.valid),
        "rank_ic": lambda: spearman(score, label, real),
        "wpcc": lambda: weighted(losses.rank_weight(label, real, base=base), days.valid),
        "liq_wpcc": by_liquidity,
        "top20_ic": top,
    }


# --- checks


def _grid(name: str, values: Any) -> Tensor:
    result = torch.as_tensor(values if isinstance(values, Tensor) else np.require(values, requirements="W"))
    if result.ndim != 2:
        raise ValueError(f"{name} must be (D, N) = (days, stocks), got shape {tuple(result.shape)}")
    return result.detach()


def matrix(name: str, values: Any) -> Tensor:
    """Take a (D, N) grid of numbers as float64 on the CPU."""
    return _grid(name, values).to("cpu", torch.float64)


def check_shapes(**grids: Tensor | None) -> None:
    """Refuse grids of unequal shapes."""
    shapes = {name: tuple(grid.shape) for name, grid in grids.items() if grid is not None}
    if len(set(shapes.values())) != 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must be one and the same (D, N) = (days, stocks), got {listed}")


def flags(name: str, values: Any) -> Tensor:
    """Take a (D, N) grid of bool, on the CPU."""
    result = torch.as_tensor(values if isinstance(values, Tensor) else np.require(values, requirements="W"))
    if result.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {result.dtype}; pass {name}.astype(bool)")
    return result.cpu()
