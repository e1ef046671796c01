"""How much capital a score can carry: the same ranking placed at 10 million to 10 billion yuan, after costs.

``D`` days, ``N`` stocks, ``C`` capitals; yuan, returns as fractions (0.01 = 1%). Under a cap by participation the
impact of a trade hardly depends on the capital (a bought stock takes 5% of its turnover at any capital that fills it):
capital is felt by going further down the ranking and, where the whole market is full, by cash.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qlib_ext.evaluate.headline import DAYS_A_YEAR
from qlib_ext.evaluate.newey_west import newey_west
from qlib_ext.options import check_choice, check_number, check_shapes
from qlib_ext.portfolio import (
    PARTICIPATION,
    fee_cost,
    fill_capitals,
    held_through,
    impact_cost,
    rebalancing,
    sleeve_returns,
)

Grid = NDArray[np.float64]

CAPITALS = (10e6, 20e6, 30e6, 50e6, 100e6, 150e6, 300e6, 500e6, 1e9, 2e9, 3e9, 5e9, 10e9)  # yuan

CAPACITY_DEFINITIONS = {
    "capital": "yuan placed each day",
    "gross": "mean daily return * trading days of a year, on the whole capital, cash included, which earns 0; not "
    "compounded, as the capital is made up to its sum every day; no costs",
    "net": "gross less commission, transfer fee and stamp duty of daily rebalancing, from cash on the first day",
    "net_impact": "net less impact: b * volatility * sqrt(share of the day's turnover), a trade; where "
    "turnover or volatility is not known yet, the day's median, or the first known one, stands for it",
    "gross_excess": "gross less the benchmark's mean daily return a year; the benchmark is the mean of all stocks "
    "with a score, buyable or not, unless an index is given",
    "net_excess": "net less the benchmark's mean daily return a year",
    "net_impact_excess": "net_impact less the benchmark's mean daily return a year",
    "daily_excess": "mean daily return of net_impact_excess, not compounded",
    "daily_excess_error": "Newey-West standard error of daily_excess",
    "cash_share": "mean over days of the share of the capital that is not placed",
    "names_held": "mean number of stocks held",
    "turnover": "mean over days of yuan bought and sold, as a share of the capital (2: all is sold and bought anew)",
    "participation": "mean share of a stock's daily turnover that a trade takes, weighted by the trade's yuan",
    "days": "days with a known return; all columns are over these",
}


def capacity_curve(
    score: ArrayLike,
    liquidity: ArrayLike,
    step_return: ArrayLike,
    volatility: ArrayLike,
    *,
    buy_rate: ArrayLike,
    sell_rate: ArrayLike,
    buyable: ArrayLike | None = None,
    sellable: ArrayLike | None = None,
    capitals: Sequence[float] = CAPITALS,
    participation: float = PARTICIPATION,
    top_n: int | None = None,
    max_weight: float | None = None,
    impact: float = 1.0,
    benchmark: ArrayLike | None = None,
    horizon: int = 1,
    year: float = DAYS_A_YEAR,
) -> pd.DataFrame:
    """Judge one score at many capitals, rebalanced daily, without a backtest.

    Each row is what ``fill_top_n``, ``held_through`` and ``money_returns`` give at that capital; the ranking is shared.
    What cannot be bought stays cash that day, what cannot be sold stays. Days count as following each other.

    Args:
        score: (D, N) NaN where there is none.
        liquidity: (D, N) yuan a day, known at the close of the signal day.
        step_return: (D, N) one-day return from the entry of day d to that of day d+1, NaN where unknown (counts as 0).
        volatility: (D, N) standard deviation of daily returns (0.02 = 2%). For trades on days without liquidity or
            volatility see ``last_known``.
        buy_rate: fees as a fraction of what is bought; a number or (D,).
        sell_rate: fees (stamp duty included) as a fraction of what is sold; a number or (D,).
        buyable: (D, N) bool, True = traded at the entry and not locked at limit-up; None: everything was.
        sellable: (D, N) bool, True = traded at the entry and not locked at limit-down; None: everything was.
        capitals: yuan, C of them, in any order.
        participation: largest share of a stock's liquidity; a larger capital goes to more names.
        top_n: None, or a fixed number of names as in ``fill_top_n``; a larger capital then stays cash.
        max_weight: largest share of each capital in a stock, as in ``fill_top_n``.
        impact: b of ``impact_cost``.
        benchmark: (D,) daily returns; None: the mean over all stocks with a score and a return.
        horizon: days of the label; so many sleeves of capital / horizon.
        year: trading days of a year, see ``days_a_year``.

    Returns:
        One row a capital, rising (the index), columns as in ``CAPACITY_DEFINITIONS``.

    Raises:
        ValueError: for shapes, options out of range, an infinite score, or no known return.

    >>> score, liquidity, volatility = [[1.0, 0.5]] * 2, [[4e7, 1e7]] * 2, [[0.02, 0.02]] * 2
    >>> money = {"buy_rate": 3e-4, "sell_rate": 8e-4, "capitals": [1e6, 2e6, 4e6]}
    >>> curve = capacity_curve(score, liquidity, [[0.02, 0.01], [0.0, 0.03]], volatility, **money)
    >>> curve[["cash_share", "names_held"]].round(2).to_dict("list")
    {'cash_share': [0.0, 0.0, 0.38], 'names_held': [1.0, 1.0, 2.0]}
    """
    ranked, traded, step, sigma, can_buy, can_sell = _grids(
        score, liquidity, step_return, volatility, buyable=buyable, sellable=sellable
    )
    amounts = sorted({float(capital) for capital in capitals})
    if not amounts:
        raise ValueError("capitals: got []; allowed: one or more, yuan, such as [10e6, 150e6]")
    for amount in amounts:
        check_number("capital", amount, "(0, inf)", hint=" (yuan, such as 150e6)")
    known = np.flatnonzero(np.isfinite(step).any(axis=1))
    if not len(known):
        raise ValueError(f"no return is known on the {len(step)} days: end the period earlier")
    market = mean_return(ranked, step) if benchmark is None else _benchmark(benchmark, len(step))
    quiet, moving = last_known(traded), last_known(sigma)
    rows = []
    caps: dict[str, Any] = {"participation": participation, "top_n": top_n, "max_weight": max_weight}
    fills = fill_capitals(ranked, traded, amounts, **caps)
    costs: dict[str, Any] = {"rates": (buy_rate, sell_rate), "impact": impact}
    for capital, yuan in zip(amounts, fills, strict=True):
        some = np.flatnonzero(yuan.any(axis=0))  # a small capital touches few stocks
        target, earned, *known_of = (grid[:, some] for grid in (yuan, step, quiet, moving))
        flags, order = (can_buy[:, some], can_sell[:, some]), ranked[:, some] if top_n is None else None
        held = held_through(target, earned, *flags, capital=capital, score=order, horizon=horizon)
        daily = _daily(held, earned, *known_of, capital=capital, horizon=horizon, **costs)
        rows.append(_row(daily.iloc[known], market[known], horizon, year))
    return pd.DataFrame(rows, index=pd.Index(amounts, name="capital"))


class Crossing(NamedTuple):
    """Where a curve passes zero: the capital in yuan, and whether the curve rises through it there or falls."""

    capital: float
    rises: bool


def zero_crossings(curve: pd.DataFrame, column: str = "net_impact_excess") -> list[Crossing]:
    """Find every capital at which a return of the curve passes zero, by interpolation linear in the log of the capital.

    A curve can pass it several times: what falls with the impact rises again where most of the capital is idle cash
    and the market falls. What lies beyond the smallest and the largest capital is not known.

    Args:
        curve: of ``capacity_curve``; or any frame with rising capitals (yuan) as index.
        column: a return, larger is better; exactly zero counts as below.

    Returns:
        The crossings by rising capital, falls and rises in turn; none where the return keeps its sign.

    Raises:
        ValueError: for an unknown column, capitals that do not rise, or NaN.

    >>> curve = pd.DataFrame({"net_impact_excess": [0.1, -0.1, 0.1]}, [1e8, 1e10, 1e12])
    >>> [(round(at / 1e9), rises) for at, rises in zero_crossings(curve)]
    [(1, False), (100, True)]
    """
    check_choice("column of the curve", column, curve.columns)
    capital, value = curve.index.to_numpy(dtype=np.float64), curve[column].to_numpy(dtype=np.float64)
    if not len(capital) or not np.isfinite(value).all() or (capital <= 0).any() or (np.diff(capital) <= 0).any():
        raise ValueError(
            f"wanted capitals (index) that rise from above 0, and finite {column}; got {dict(curve[column])}"
        )
    before = np.flatnonzero(np.diff(value > 0))
    way = value[before] / (value[before] - value[before + 1])
    at = np.exp(np.log(capital[before]) + way * np.log(capital[before + 1] / capital[before]))
    return [Crossing(float(yuan), bool(value[place] <= 0)) for yuan, place in zip(at, before, strict=True)]


def excess_crossings(curve: pd.DataFrame) -> pd.DataFrame:
    """Tabulate `zero_crossings` of the excess before costs (gross), after fees (net) and after impact (net_impact).

    Returns:
        A row an excess that the curve has. Columns: `falls_at` and `rises_at`, yuan, NaN where it does not; for further
        crossings `falls_at_2`, `rises_at_2`, ...

    >>> excess_crossings(pd.DataFrame({"net_excess": [0.1, -0.1]}, [1e8, 1e10])).round(-6).to_dict("index")
    {'net': {'falls_at': 1000000000.0, 'rises_at': nan}}
    """
    rows: dict[str, dict[str, float]] = {}
    for name in (name for name in ("gross", "net", "net_impact") if f"{name}_excess" in curve):
        rows[name] = {"falls_at": math.nan, "rises_at": math.nan}
        for place, (capital, rises) in enumerate(zero_crossings(curve, f"{name}_excess")):
            again = f"_{place // 2 + 1}" if place > 1 else ""
            rows[name][f"{'rises' if rises else 'falls'}_at{again}"] = capital
    return pd.DataFrame.from_dict(rows, orient="index")


def capacity_words(curve: pd.DataFrame) -> str:
    """Say in one line at which capitals the excess returns of a curve pass zero."""
    low, high = (f"{curve.index[end] / 1e6:,.0f}" for end in (0, -1))
    said = []
    for name in excess_crossings(curve).index:
        passed = zero_crossings(curve, f"{name}_excess")
        sign = "above" if curve[f"{name}_excess"].iloc[0] > 0 else "below"
        ways = [f", {'rises' if rises else 'falls'} through it at {at / 1e6:,.0f}" for at, rises in passed]
        said.append(f"{name} {sign} zero{''.join(ways) or ' throughout'}")
    return f"  excess over the mean stock by capital, {low} to {high} million yuan: {'; '.join(said)}"


def last_known(grid: Grid) -> Grid:
    """Carry each stock's last positive value on, (D, N); before its first one, the day's median of the others.

    Of liquidity or volatility: what is sold after a stock has vanished still pays for moving its price; trades before
    the first value are small. On days that know no value of any stock (the first ones of a calendar have no
    volatility) the first known median stands for it, though it is a later day's: it prices the impact, and decides
    nothing. NaN where none is known at all.
    """
    frame = pd.DataFrame(grid).where(grid > 0).ffill()
    return np.asarray(frame.T.fillna(frame.median(axis=1).bfill()).T.to_numpy())


def money_returns(
    held: Grid,
    step: Grid,
    liquidity: Grid,
    volatility: Grid,
    *,
    capital: float,
    rates: tuple[ArrayLike, ArrayLike],
    impact: float,
    horizon: int,
) -> tuple[dict[str, Grid], Grid]:
    """Compute what one allocation earns on the whole capital, rebalanced daily; cash earns 0.

    Args:
        held: (D, N) yuan placed on each day.
        step: (D, N) one-day return that follows the entry, NaN counts as 0.
        liquidity: (D, N) yuan a day, without gaps where it is traded; see ``last_known``.
        volatility: (D, N) of daily returns, without gaps where it is traded; not looked at where b is 0.
        capital: yuan.
        rates: fees of buying and of selling, as in ``fee_cost``.
        impact: b of ``impact_cost``, whose exponent is 0.5.
        horizon: days of the label; so many sleeves.

    Returns:
        Daily returns (D,) gross, net (less ``fee_cost``) and net_impact (and ``impact_cost``); and the trades (D, N),
        yuan, sales negative.
    """
    gross = sleeve_returns(held, step, horizon, capital=capital)
    trade = rebalancing(held, step, horizon)
    net = gross - fee_cost(trade, *rates) / capital
    moved = np.zeros(len(held)) if impact == 0 else impact_cost(trade, liquidity, volatility, b=impact).sum(axis=1)
    return {"gross": gross, "net": net, "net_impact": net - moved / capital}, trade


def mean_return(score: Grid, step: Grid, among: NDArray[np.bool_] | None = None) -> Grid:
    """Mean return (D,) of the stocks with a score and a return, of those `among` alone; 0 on days without any."""
    seen = np.isfinite(step) & np.isfinite(score)
    seen = seen if among is None else seen & among
    return np.where(seen, step, 0.0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)


# --- one capital


def _daily(held: Grid, step: Grid, liquidity: Grid, volatility: Grid, *, capital: float, **terms: Any) -> pd.DataFrame:
    """Compute ``money_returns`` of one allocation (D, n), and what it holds and trades, day by day."""
    returns, trade = money_returns(held, step, liquidity, volatility, capital=capital, **terms)
    size = np.abs(trade)
    return pd.DataFrame(
        returns
        | {
            "cash_share": np.maximum(1.0 - held.sum(axis=1) / capital, 0.0),
            "names_held": (held > 0).sum(axis=1),
            "traded": size.sum(axis=1),
            "turnover": size.sum(axis=1) / capital,
            "weighted": (size * (size / np.where(size > 0, liquidity, 1.0))).sum(axis=1),
        }
    )


def _row(daily: pd.DataFrame, market: Grid, horizon: int, year: float) -> dict[str, float]:
    """Sum up the days of one capital: the columns of ``CAPACITY_DEFINITIONS`` but the capital."""
    names = ("gross", "net", "net_impact")
    row = {name: float(daily[name].mean()) * year for name in names}
    row |= {f"{name}_excess": row[name] - float(market.mean()) * year for name in names}
    row["daily_excess"], row["daily_excess_error"], _ = newey_west(daily["net_impact"] - market, horizon=horizon)
    row |= {name: float(daily[name].mean()) for name in ("cash_share", "names_held", "turnover")}
    traded = float(daily["traded"].sum())
    return row | {"participation": float(daily["weighted"].sum()) / traded if traded else math.nan, "days": len(daily)}


# --- checks


def _grids(score: Any, liquidity: Any, step_return: Any, volatility: Any, **flags: Any) -> tuple[Any, ...]:
    """Bring the inputs to float64 (D, N), the flags to bool."""
    grids = {"score": score, "liquidity": liquidity, "step_return": step_return, "volatility": volatility}
    grids = {name: np.array(grid, dtype=np.float64) for name, grid in grids.items()}
    shape = grids["score"].shape
    flags = {n: np.ones(shape, dtype=bool) if flag is None else np.asarray(flag) for n, flag in flags.items()}
    for name, flag in flags.items():
        if flag.dtype != bool:
            raise ValueError(f"{name} must be bool with True = it could be traded, got {flag.dtype}; pass {name} > 0")
    check_shapes("(D, N) = (days, stocks)", **grids, **flags)
    return (*grids.values(), *flags.values())


def _benchmark(benchmark: ArrayLike, days: int) -> Grid:
    returns = np.asarray(benchmark, dtype=np.float64)
    if returns.shape != (days,) or not np.isfinite(returns).all():
        raise ValueError(
            f"benchmark must be {days} finite daily returns, (D,), got shape {returns.shape} with "
            f"{int((~np.isfinite(returns)).sum())} not finite; fill unknown days with 0"
        )
    return returns
