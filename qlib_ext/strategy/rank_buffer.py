"""The rank buffer of LiquidityTopNStrategy: held stocks give way later than new ones enter. Private to `strategy.py`.

`N` stocks of one day; rank 1 is the highest score, ties by position, NaN last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qlib_ext.cross_section import ranks
from qlib_ext.options import is_number

Buffer = float | tuple[int, int]
Vector = npt.NDArray[np.float64]


def read_buffer(given: float | Sequence[int]) -> Buffer:
    """Check the option `rank_buffer`: a factor of at least 1, or [n1, n2] with 1 <= n1 <= n2.

    Raises: ValueError for anything else.

    """
    allowed = "a factor of 1 or more, or a pair [n1, n2] of whole numbers with 1 <= n1 <= n2"
    wrong = ValueError(f"LiquidityTopNStrategy: rank_buffer is {given!r}; it must be {allowed}.")
    if isinstance(given, Sequence) and not isinstance(given, str):
        whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in given)
        if len(given) != 2 or not whole or not 1 <= given[0] <= given[1]:
            raise wrong
        return int(given[0]), int(given[1])
    if not is_number(given) or not 1 <= given < math.inf:
        raise wrong
    return float(given)


def buffered(score: Vector, held: npt.NDArray[np.bool_], buffer: Buffer) -> Vector:
    """Scores (N,) in the order in which `fill_top_n` is to take the stocks; NaN for those it is not to take.

    A factor k: by rank / k of held stocks and rank of the others, ties to the held. A pair (n1, n2): held stocks of
    rank n2 or better, by rank, then new ones of rank n1 or better, by rank; so a held stock stays while its rank is n2
    or better, and a new one enters at n1 or better into what is left.
    """
    if buffer == 1.0:
        return score
    rank = ranks(score)
    if isinstance(buffer, tuple):
        enter, leave = buffer
        known = rank <= np.where(held, leave, enter)
        order = np.lexsort((rank, ~held))
    else:
        known = ~np.isnan(score)
        order = np.lexsort((~held, np.where(held, rank / buffer, rank)))
    out = np.empty(len(score))
    out[order] = -np.arange(len(score), dtype=float)
    return np.where(known, out, np.nan)
