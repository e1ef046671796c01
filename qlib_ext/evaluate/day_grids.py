"""The checked grids (D, N) of some days, what all metrics share of them, and days taken in blocks side by side."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from qlib_ext.cross_section import (
    as_tensor,
    check_exposures,
    check_flags,
    descending,
    project_off,
    varied_days,
    varied_exposures,
)
from qlib_ext.losses import ALPHA, BASE
from qlib_ext.options import check_shapes
from qlib_ext.portfolio import CAPITAL, PARTICIPATION, fill_top_n

TOP_N = 30
TOP_SHARE = 5  # top20_ic looks at the best 1 / TOP_SHARE of the scores
BLOCK_DAYS = 32
FLAGS = ("buyable", "mask")  # grids of bool; the others are numbers

T = TypeVar("T")


class DayGrids:
    """The float64 inputs (D, N) of some days, and what all metrics share; a metric is a function of it -> (D,).

    Attributes:
        score, label, liquidity: (D, N) as in ``daily_metrics``; liquidity is 0 where none was given.
        buyable: (D, N) bool or None.
        capital, participation, top_n, max_weight, base, alpha: as in ``daily_metrics``.
        trading: as in ``daily_metrics``, where the metric asks for it, else None.
        exposures: (D, N, K) as in ``daily_metrics``, or None.
        priced: (D, N) the label is known.
        real: (D, N) the stock has a score and a label.
        count: (D,) of the real stocks.

    Raises:
        ValueError: for shapes, a mask that is not bool, or an infinite score.
    """

    def __init__(
        self,
        score: Any,
        label: Any,
        liquidity: Any = None,
        buyable: Any = None,
        *,
        capital: float = CAPITAL,
        participation: float = PARTICIPATION,
        top_n: int = TOP_N,
        max_weight: float | None = None,
        base: float = BASE,
        alpha: float = ALPHA,
        trading: Mapping[str, Any] | None = None,
        exposures: Any = None,
    ) -> None:
        grids = as_grids(score=score, label=label, liquidity=liquidity, buyable=buyable)
        self.score, self.label, self.buyable = numbers(grids["score"]), numbers(grids["label"]), grids.get("buyable")
        self.liquidity = numbers(grids["liquidity"]) if "liquidity" in grids else torch.zeros_like(self.score)
        self.capital, self.participation, self.top_n, self.max_weight = capital, participation, top_n, max_weight
        self.base, self.alpha, self.trading = base, alpha, trading
        if (self.score.abs() == torch.inf).any():
            raise ValueError("score holds infinities: a model has diverged. Use NaN where there is no score")
        self.exposures = None if exposures is None else numbers(as_tensor(exposures))
        self.priced = self.label.abs() < torch.inf
        self.real = self.priced & ~torch.isnan(self.score)
        self.count = self.real.sum(dim=1)

    @cached_property
    def valid(self) -> Tensor:
        """Tell the days (D,) with two or more real stocks whose labels are not all equal."""
        return varied_days(self.label, self.real)

    @cached_property
    def neutral(self) -> tuple[Tensor, Tensor, Tensor]:
        """Score and label (D, N) off the exposures, equal weights over the real stocks, and days (D,) that allow it.

        Raises: ValueError where no exposures were given, or of another shape.
        """
        if self.exposures is None:
            raise ValueError("ic_neutral and rank_ic_neutral need exposures (D, N, K), see DayPanel.exposures")
        check_exposures(self.exposures, score=self.score)
        score, label = (project_off(grid, self.exposures, self.real, self.real) for grid in (self.score, self.label))
        allowed = self.valid & (self.count >= 2 + varied_exposures(self.exposures, self.real))
        return score, label, allowed & varied_days(label, self.real)

    @cached_property
    def market(self) -> Tensor:
        """Average the label over the stocks with a score and a label: (D,)."""
        return torch.where(self.real, self.label, 0.0).sum(dim=1) / self.count.clamp(min=1)

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

    @cached_property
    def capped_paper(self) -> "Holdings":
        """The capital placed in full by ``fill_top_n``, as if everything were buyable."""
        return self._filled(None)

    @cached_property
    def topn_paper(self) -> "Holdings":
        """`top_n` stocks in proportion to liquidity, as if everything were buyable."""
        return self._filled(self.top_n)

    @cached_property
    def capped(self) -> "Holdings":
        """What of `capped_paper` could be bought; the rest stays cash."""
        return self._bought(self.capped_paper)

    @cached_property
    def topn(self) -> "Holdings":
        """What of `topn_paper` could be bought; the rest stays cash."""
        return self._bought(self.topn_paper)

    def _filled(self, top_n: int | None) -> "Holdings":
        caps: dict[str, Any] = {"participation": self.participation, "top_n": top_n, "max_weight": self.max_weight}
        return Holdings(self, fill_top_n(self.score, self.liquidity, capital=self.capital, **caps))

    def _bought(self, paper: "Holdings") -> "Holdings":
        return paper if self.buyable is None else Holdings(self, torch.where(self.buyable, paper.yuan, 0.0))


@dataclass
class Holdings:
    """Yuan (D, N) held of the day's capital, and what each day's earn."""

    days: DayGrids
    yuan: Tensor

    @cached_property
    def invested(self) -> Tensor:
        """Share (D,) of the capital that is not cash."""
        return self.yuan.sum(dim=1) / self.days.capital

    @cached_property
    def returns(self) -> Tensor:
        """sum(yuan * label) / capital, (D,), 0 where the label is unknown; NaN with fewer than two real stocks."""
        filled = torch.where(self.days.priced, self.days.label, 0.0)
        return torch.where(self.days.count >= 2, (self.yuan * filled).sum(dim=1) / self.days.capital, torch.nan)

    def excess(self) -> Tensor:
        """sum(yuan * (label - market)) / capital, (D,): what the market earned on the invested share taken off."""
        return self.returns - self.days.market * self.invested

    def names_held(self) -> Tensor:
        """Count the stocks, (D,)."""
        return (self.yuan > 0).sum(dim=1)

    def cash_share(self) -> Tensor:
        """Share (D,) of the capital that is cash."""
        return (1.0 - self.invested).clamp(min=0.0)

    def unpriced(self) -> Tensor:
        """Count the stocks whose label is unknown, (D,)."""
        return ((self.yuan > 0) & ~self.days.priced).sum(dim=1)


def by_block(measure: Callable[[DayGrids], T], options: dict[str, Any], **inputs: Any) -> list[T]:
    """Measure the days in short blocks, side by side: every number is of one day, and small grids stay in the cache."""
    loads = inputs.pop("exposures", None)
    grids = as_grids(**inputs)
    days, threads = len(grids["score"]), torch.get_num_threads()
    rounds = -(-max(days, 1) // (BLOCK_DAYS * threads))
    each = -(-max(days, 1) // (rounds * threads))  # as many days for each thread
    size = min(BLOCK_DAYS, each if days > BLOCK_DAYS else max(days, 1))

    def work(first: int) -> T:
        cut: dict[str, Any] = {name: grid[first : first + size] for name, grid in grids.items()}
        own = None if loads is None else loads[first : first + size]
        return measure(DayGrids(**cut, **options, exposures=own))

    starts = range(0, max(days, 1), size)
    if len(starts) == 1:
        return [work(0)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, starts))


def as_grids(**values: Any) -> dict[str, Tensor]:
    """Take grids (D, N) as tensors of what they are; None is left out.

    Raises: ValueError for unequal shapes, or a grid of flags that is not bool.
    """
    grids = {name: as_tensor(value) for name, value in values.items() if value is not None}
    check_shapes("(D, N) = (days, stocks)", **grids)
    check_flags(**{name: grids[name] for name in FLAGS if name in grids})
    return {name: grid.cpu() if name in FLAGS else grid for name, grid in grids.items()}


def numbers(grid: Tensor) -> Tensor:
    """Bring a grid to float64 on the CPU."""
    return grid.to("cpu", torch.float64)
