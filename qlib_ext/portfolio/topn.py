"""The deck's way to trade: place the capital down the ranking, anew each day.

What keeps it from trading all of it anew: scores smoothed over days, and a rank buffer. ``D`` days, ``N`` stocks; yuan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qlib_ext.cross_section import rank_shares, ranks
from qlib_ext.options import SHARE, check_number, is_number, is_whole
from qlib_ext.portfolio.allocation import PARTICIPATION, WEIGHT, fill_top_n
from qlib_ext.portfolio.policy import Day, Vector


def smoothed(score: ArrayLike, halflife: float | None) -> Vector:
    """Average each stock's rank over the days so far, with weights that halve every `halflife` days; causal.

    A day's rank is the average rank from the bottom over the number of the day's scores, so that a day is worth the
    same whatever the units of its scores. A day without a score keeps the last average; it counts as a day where the
    weights of older ones age.

    Args:
        score: (D, N) of successive trading days, larger is better, NaN where there is none.
        halflife: days; None or 0: the rank of the day alone, NaN where there is no score.

    Returns:
        (D, N) in (0, 1], larger is better, NaN until a stock's first score.

    >>> smoothed([[1.0, 2.0], [2.0, 1.0], [np.nan, 1.0]], 1.0).round(3).tolist()
    [[0.5, 1.0], [0.833, 0.667], [0.833, 0.857]]
    """
    share = rank_shares(np.asarray(score, dtype=np.float64))
    return pd.DataFrame(share).ewm(halflife=halflife).mean().to_numpy() if halflife else share


@dataclass(frozen=True)
class TopNPolicy:
    """Place the capital down the ranking under caps by liquidity, see `fill_top_n`.

    Attributes:
        capital: yuan to place, and that buys may bring the holdings to; None: the account's value, and no bound.
        participation: largest share of a stock's liquidity to hold.
        top_n: as in `fill_top_n`.
        rank_buffer: k >= 1: the rank of a held stock is divided by k before filling (a tie goes to it); or [n1, n2]: a
            stock enters at rank n1 or better and stays while its rank is n2 or better. Those that stay are filled
            first, by rank, then those that enter; with `top_n` they count among the n. 1: no buffer.
        score_halflife: days; scores become ranks that are `smoothed` over days, and a stock that has no score keeps its
            own for as many days. None or 0: the scores as they are.
        max_weight: largest share of the capital in a stock; None: no cap.

    Raises:
        ValueError: for an option out of range.

    >>> policy = TopNPolicy(capital=2.5e5, top_n=2)
    >>> policy.prepare([[0.3, 0.1, 0.2]])
    array([[0.3, 0.1, 0.2]])
    """

    in_shares: ClassVar[bool] = False
    capital: float | None = None
    participation: float = PARTICIPATION
    top_n: int | None = None
    rank_buffer: float | Sequence[int] = 1.0
    score_halflife: float | None = None
    max_weight: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        for name, within in (("capital", "(0, inf)"), ("top_n", "[1, inf)"), ("score_halflife", "[0, inf)")):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), within, whole=name == "top_n")
        check_number("participation", self.participation, "(0, 1]", hint=SHARE)
        if self.max_weight is not None:
            check_number("max_weight", self.max_weight, "(0, 1]", hint=WEIGHT)
        object.__setattr__(self, "rank_buffer", _read_buffer(self.rank_buffer))

    def prepare(self, score: ArrayLike) -> Vector:
        """Smooth the scores (D, N) of successive days; NaN where a stock has none to go by."""
        grid = np.asarray(score, dtype=np.float64)
        if not self.score_halflife:
            return grid
        row = np.where(np.isnan(grid), -np.inf, np.arange(len(grid))[:, None])
        age = np.arange(len(grid))[:, None] - np.maximum.accumulate(row, axis=0)
        return np.where(age <= self.score_halflife, smoothed(grid, self.score_halflife), np.nan)

    def target(self, day: Day) -> Vector:
        """Yuan (N,) to hold: with no buffer `fill_top_n` to the yuan."""
        capital = day.value if self.capital is None else self.capital
        score = _buffered(day.score, day.held > 0, self.rank_buffer)
        caps: dict[str, Any] = {name: getattr(self, name) for name in ("participation", "top_n", "max_weight")}
        return fill_top_n(score, np.nan_to_num(day.liquidity), capital=capital, **caps)


# --- the rank buffer: held stocks give way later than new ones enter


def _read_buffer(option: float | Sequence[int]) -> float | Sequence[int]:
    """Check the option `rank_buffer`: a factor of at least 1, or [n1, n2] with 1 <= n1 <= n2.

    Raises: ValueError for anything else.
    """
    allowed = "a factor of 1 or more, or a pair [n1, n2] of whole numbers with 1 <= n1 <= n2"
    wrong = ValueError(f"rank_buffer is {option!r}; allowed: {allowed}")
    if isinstance(option, Sequence) and not isinstance(option, str):
        if len(option) != 2 or not all(map(is_whole, option)) or not 1 <= option[0] <= option[1]:
            raise wrong
        return int(option[0]), int(option[1])
    if not is_number(option) or not 1 <= option < math.inf:
        raise wrong
    return float(option)


def _buffered(score: Vector, held: NDArray[np.bool_], buffer: float | Sequence[int]) -> Vector:
    """Scores (N,) in the order in which `fill_top_n` is to take the stocks; NaN for those it is not to take.

    A factor k: by rank / k of held stocks and rank of the others, ties to the held. A pair (n1, n2): held stocks of
    rank n2 or better, by rank, then new ones of rank n1 or better, by rank; so a held stock stays while its rank is n2
    or better, and a new one enters at n1 or better into what is left.
    """
    if buffer == 1.0:
        return score
    rank = ranks(score)
    if isinstance(buffer, Sequence):
        enter, leave = buffer
        taken = rank <= np.where(held, leave, enter)
        order = np.lexsort((rank, ~held))
    else:
        taken = ~np.isnan(score)
        order = np.lexsort((~held, np.where(held, rank / buffer, rank)))
    out = np.empty(len(score))
    out[order] = -np.arange(len(score), dtype=float)
    return np.where(taken, out, np.nan)
