"""How much capital a way to trade can carry: one account a capital and an impact, from 10 million to 10 billion yuan.

``D`` days, ``N`` stocks; yuan, returns as fractions (0.01 = 1%). Where `capacity_curve` places the capital anew every
day, here an account follows the run's own policy, which trades less the more a trade costs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from qlib_ext.evaluate.account import IMPACTS
from qlib_ext.evaluate.capacity import excess_crossings
from qlib_ext.evaluate.headline import DAYS_A_YEAR
from qlib_ext.evaluate.newey_west import newey_west
from qlib_ext.portfolio import Policy, simulate

STRATEGY_CAPITALS = (10e6, 150e6, 1e9, 10e9)  # yuan

STRATEGY_CAPACITY_DEFINITIONS = {
    "b": "coefficient of the impact b * volatility * sqrt(share of the day's turnover), in market and strategy alike",
    "capital": "yuan in the account on the first day, all in cash",
    "gross": "mean daily return of the account * trading days of a year, not compounded; idle cash earns 0; no costs",
    "net": "gross less commission, transfer fee and stamp duty",
    "net_impact": "net less impact",
    "gross_excess": "gross less the mean stock; that is the plain mean of the universe's stocks that could be bought",
    "net_excess": "net less the mean stock",
    "net_impact_excess": "net_impact less the mean stock",
    "daily_excess": "mean daily return of net_impact_excess",
    "daily_excess_error": "Newey-West standard error of daily_excess",
    "cash_share": "mean over days of the share of the account in cash",
    "names_held": "mean number of stocks held",
    "turnover": "mean over days of yuan bought and sold, as a share of the account",
    "days": "days with a known return; all columns are over these",
}


def strategy_curve(
    policy: Callable[[float, float], Policy | Sequence[Policy]],
    score: ArrayLike,
    market: Mapping[str, Any],
    *,
    capitals: Sequence[float] = STRATEGY_CAPITALS,
    impacts: Sequence[float] = tuple(IMPACTS),
    year: float = DAYS_A_YEAR,
    **terms: Any,
) -> pd.DataFrame:
    """Let an account of each capital follow a policy under each impact.

    Args:
        policy: makes it, or one a day, of a capital in yuan and the b that it is to expect.
        score: (D, N) NaN where there is none.
        market: what `simulate` asks for, see `portfolio.market_of`.
        capitals: yuan, in any order.
        impacts: b of `impact_cost`, in any order.
        year: trading days of a year.
        terms: further options of `simulate`.

    Returns:
        A row a (b, capital), both rising, columns as in ``STRATEGY_CAPACITY_DEFINITIONS``.

    Raises:
        ValueError: as `simulate`, and where no return is known.

    >>> from qlib_ext.portfolio import TopNPolicy
    >>> market = {"liquidity": [[4e7, 1e7]] * 2, "volatility": [[0.02, 0.02]] * 2, "step_return": [[0.02, 0.0]] * 2}
    >>> curve = strategy_curve(lambda capital, b: TopNPolicy(), [[2.0, 1.0]] * 2, market, capitals=[1e6, 1e7])
    >>> curve.loc[1.0, "net_impact_excess"].round(2).to_dict()
    {1000000.0: 1.98, 10000000.0: -1.59}
    """
    rows = {}
    for b in sorted({float(b) for b in impacts}):
        for capital in sorted({float(capital) for capital in capitals}):
            made = simulate(policy(capital, b), score, **market, account=capital, impact=b, **terms)
            rows[b, capital] = _row(made.daily, year)
    return pd.DataFrame(rows.values(), index=pd.MultiIndex.from_tuples(rows, names=["b", "capital"]))


def strategy_crossings(curve: pd.DataFrame) -> pd.DataFrame:
    """Tabulate `excess_crossings` after fees and impact, a row a b of a curve of ``strategy_curve``."""
    crossings = {b: excess_crossings(curve.loc[b]).loc["net_impact"] for b in curve.index.unique("b")}
    return pd.DataFrame.from_dict(crossings, orient="index").rename_axis("b")


def _row(daily: pd.DataFrame, year: float) -> dict[str, float]:
    """Sum up the days of one account: the columns of ``STRATEGY_CAPACITY_DEFINITIONS``."""
    known = daily[daily["market"].notna()]
    if not len(known):
        raise ValueError(f"no return is known on the {len(daily)} days: end the period earlier")
    returns = {"gross": known["gross"], "net": known["gross"] - known["fees"], "net_impact": known["net"]}
    row = {name: float(series.mean()) * year for name, series in returns.items()}
    market = float(known["market"].mean()) * year
    row |= {f"{name}_excess": row[name] - market for name in returns}
    row["daily_excess"], row["daily_excess_error"], _ = newey_west(known["excess"])
    row |= {"cash_share": float((known["cash"] / known["value"]).mean()), "names_held": float(known["names"].mean())}
    return row | {"turnover": float(known["turnover"].mean()), "days": len(known)}
