"""What the data of survivors lack: stocks that fall by 70% and are delisted, put in at random.

A stock that was among the weak tenth by the return of the 60 days before the year falls on 20 successive days to 30% of
its price; on the first ten of them it is locked at its limit and cannot be sold, afterwards it is delisted at the last
price. Its scores are those of the real stock; in "bought", the pessimist's kind, they are those of the day's 95th
percentile while it falls, as a score that likes reversals would have them.
"""

from copy import copy

import numpy as np

from studies.years import Grid, Year

FALL, DAYS, LOCKED, WEAK, BEFORE = 0.3, 20, 10, 0.1, 60
KINDS = {"0.2%": 0.002, "1%": 0.01, "3%": 0.03}  # share of the stocks that is delisted in a year


def delisted(year: Year, score: Grid, market: str) -> tuple[Year, Grid]:
    """Put delistings into a copy of a year.

    Args:
        year: as it was.
        score: (D, N).
        market: "KIND, DRAW" or "KIND bought, DRAW", such as "1%, 3".
    """
    kind, _, draw = market.partition(", ")
    rate, bought = KINDS[kind.split()[0]], kind.endswith("bought")
    rng = np.random.default_rng(
        [year.year, int(draw)]
    )  # the more frequent kinds have the stocks of the rarer, and more
    made, step, score = copy(year), year.step.copy(), score.copy()
    grids = {name: year.market[name].copy() for name in ("buyable", "sellable", "universe")}
    most = np.nanquantile(score[year.first :], 0.95, axis=1)
    gone = np.zeros(grids["universe"].shape, dtype=bool)
    for stock, day in _victims(year, rate, rng):
        step[day : day + DAYS, stock] = FALL ** (1 / DAYS) - 1.0
        step[day + DAYS :, stock] = np.nan
        grids["sellable"][day : day + LOCKED, stock] = False
        for grid in grids.values():
            grid[day + DAYS :, stock] = False
        gone[day + DAYS :, stock] = True
        if bought:
            score[day : day + DAYS, stock] = most[day - year.first :][:DAYS]
        score[day + DAYS :, stock] = np.nan
    made.market = year.market | grids | {"delisted": gone, "step_return": step[: len(year.days)]}
    made.step, made.exposures = step, year.exposures  # as they were: nobody knows of it
    return made, score


def _victims(year: Year, rate: float, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw stocks of the weak tenth, and the day on which each begins to fall; a share `rate` of the first day's."""
    inside = np.flatnonzero(year.market["universe"][year.first])
    past = np.nan_to_num(year.step[year.first - BEFORE : year.first, inside])
    weak = inside[np.argsort(np.log1p(past).sum(axis=0), kind="stable")[: int(WEAK * len(inside))]]
    order = rng.permutation(weak)
    days = rng.integers(year.first, len(year.days) - DAYS, size=len(order))
    return list(zip(order, days, strict=True))[: max(1, round(rate * len(inside)))]
