"""What trades pay for the price they move: other people's rules, and b by one's own executions.

All in the notation of `impact_cost`: x yuan of a stock that trades V yuan a day, sigma the standard deviation of its
daily returns.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qlib_ext.portfolio.costs import impact_cost

FLOAT_DAYS = 33.0  # of trading until a stock's free float has changed hands once, where it is not told: 3% a day
LAST_HALF_HOUR = 0.125  # of a day of four hours
RULES = {
    "b033": "b * sigma * sqrt(x / V) at b = 1/3: x yuan of a stock that trades V yuan a day, sigma its volatility",
    "b067": "the same at b = 2/3",
    "b100": "the same at b = 1, the default of the backtest: the peak of the price's move, paid on every share",
    "toth": "Toth et al. (2011): the price moves by sigma * sqrt(x / V) until an order ends, and its shares pay two "
    "thirds of that on average: b = 2/3",
    "almgren_day": "Almgren et al. (2005), US stocks, an order spread over the day: 0.142 * sigma * (x / V) ** 0.6 and "
    "half of 0.314 * sigma * (x / V) * (free float / V) ** 0.25, the float taken to be 33 days' turnover",
    "almgren_half_hour": "the same, the order within the last half hour, an eighth of the day",
}
COEFFICIENTS = {"b033": 1 / 3, "b067": 2 / 3, "b100": 1.0}
HUBER = 1.345  # of a residual's scale: 95% of the least squares' efficiency under a normal law
STEPS, CLOSE = 100, 1e-10  # of the robust fit
NEEDED = ("day", "side", "yuan", "arrival", "average", "liquidity", "volatility")

Vector = NDArray[np.float64]


def almgren_rate(share: Vector, volatility: Vector, *, day: float = 1.0, float_days: float = FLOAT_DAYS) -> Vector:
    """Cost of an order as a share of it, by Almgren, Thum, Hauptmann and Li (2005), "Direct estimation of equity market
    impact", Risk 18(7), equations for J: the temporary impact and half of the permanent one.

    Args:
        share: of a day's turnover, at least 0.
        volatility: standard deviation of daily returns.
        day: part of the day over which it is spread.
        float_days: free float / daily turnover.

    >>> round(1e4 * almgren_rate(np.array(0.04), np.array(0.028)).item(), 1)  # basis points
    10.0
    """
    temporary = 0.142 * (np.asarray(share) / day) ** 0.6
    permanent = 0.314 * np.asarray(share) * float_days**0.25
    return np.asarray(volatility * (temporary + permanent / 2.0))


def rules_table(fills: pd.DataFrame, *, float_days: float = FLOAT_DAYS) -> pd.DataFrame:
    """Charge a run's own fills by each of `RULES`.

    Args:
        fills: of AShareExchange: day, code, yuan, used (yuan / liquidity) and volatility, of daily returns at
            the previous close. Fills of a stock and day are one order.
        float_days: free float / daily turnover, which Almgren's permanent impact asks for.

    Returns: by rule: yuan, and bp_of_traded (basis points of all that was dealt); `attrs["definitions"]` tells each.

    >>> one = pd.DataFrame({"day": [0], "code": ["A"], "yuan": [4e4], "used": [0.04], "volatility": [0.028]})
    >>> rules_table(one)["bp_of_traded"].round(1).tolist()
    [18.7, 37.3, 56.0, 37.3, 10.0, 24.3]
    """
    known = fills[np.isfinite(fills["used"]) & np.isfinite(fills["volatility"])]
    orders = known.groupby(["day", "code"]).agg(
        yuan=("yuan", "sum"), used=("used", "sum"), volatility=("volatility", "first")
    )
    yuan, used, sigma = (orders[name].to_numpy(dtype=float) for name in ("yuan", "used", "volatility"))
    liquidity = yuan / np.where(used > 0, used, 1.0)
    at = {name: impact_cost(yuan, liquidity, sigma, b=b) for name, b in COEFFICIENTS.items()}
    late, day = (yuan * almgren_rate(used, sigma, day=part, float_days=float_days) for part in (LAST_HALF_HOUR, 1.0))
    paid = at | {"toth": at["b067"], "almgren_day": day, "almgren_half_hour": late}
    table = pd.DataFrame({"yuan": [float(cost.sum()) for cost in paid.values()]}, index=list(paid))
    total = float(yuan.sum())
    table["bp_of_traded"] = table["yuan"] / total * 1e4 if total > 0 else np.nan
    table.attrs["definitions"] = RULES
    return table


def fit_impact(frame: pd.DataFrame) -> tuple[float, float]:
    """Fit b of `impact_cost` to executions, with its standard error.

    What an order of x yuan paid above its arrival price, in standard deviations of the stock's daily returns, is b *
    sqrt(x / V) and the market's noise: a line through the origin. Fitted robustly (Huber), because prices jump; the
    error is that of days (a sandwich over them, with the factor of few days), because orders of a day share its market.

    Args:
        frame: a row an order: day, side ("buy" or "sell"), yuan, arrival and average price, liquidity (yuan a day),
            volatility (of daily returns), the last two as known before the order.

    Returns: (b, standard error); b is as a trade pays it, the average over its shares, as `impact_cost` charges.

    Raises: ValueError for a missing column, a side that is none, a number that is not above 0, or fewer than three
        days.

    >>> rng = np.random.default_rng(0)
    >>> yuan, day = rng.lognormal(13, 1, 2000), np.repeat(np.arange(100), 20)
    >>> paid = 0.02 * (0.8 * np.sqrt(yuan / 5e7) + 0.2 * rng.normal(size=2000))
    >>> orders = {"day": day, "side": "buy", "yuan": yuan, "arrival": 10.0, "average": 10.0 * (1 + paid)}
    >>> b, error = fit_impact(pd.DataFrame(orders | {"liquidity": 5e7, "volatility": 0.02}))
    >>> abs(b - 0.8) < 3 * error < 0.2
    True
    """
    day, share, paid = _orders(frame)
    x = np.sqrt(share)
    b, weight = float(x @ paid / (x @ x)), np.ones_like(x)
    for _ in range(STEPS):
        rest = paid - b * x
        scale = float(np.median(np.abs(rest))) / 0.6745
        if scale <= CLOSE:  # a line without noise
            break
        size = np.abs(rest) / scale
        weight = np.minimum(1.0, HUBER / np.maximum(size, CLOSE))
        before, b = b, float((weight * x) @ paid / ((weight * x) @ x))
        if abs(b - before) <= CLOSE * max(abs(b), 1.0):
            break
    rest = paid - b * x
    inner = weight >= 1.0  # where Huber's loss is a square
    slope = float((x * x)[inner].sum()) if inner.any() else float(x @ x)
    codes, days = pd.factorize(day)
    score = np.bincount(codes, weights=weight * rest * x)
    count = len(days)
    return b, float(np.sqrt(count / (count - 1) * (score @ score)) / slope)


def _orders(frame: pd.DataFrame) -> tuple[NDArray[np.object_], Vector, Vector]:
    """Day, share of the turnover, and cost in standard deviations of each order."""
    lacks = [name for name in NEEDED if name not in frame]
    if lacks:
        raise ValueError(f"executions lack {lacks}; needed are {', '.join(NEEDED)}")
    wrong = sorted({str(side) for side in frame["side"]} - {"buy", "sell"})
    if wrong:
        raise ValueError(f"executions: side is {wrong[0]!r}; allowed: buy, sell")
    numbers = {name: frame[name].to_numpy(dtype=float) for name in NEEDED[2:]}
    for name, values in numbers.items():
        if not (np.isfinite(values) & (values > 0)).all():
            row = int(np.flatnonzero(~(np.isfinite(values) & (values > 0)))[0])
            raise ValueError(f"executions: row {row}: {name} is {values[row]}; it must be a number above 0")
    if frame["day"].nunique() < 3:
        raise ValueError(f"executions of {frame['day'].nunique()} days: an error needs three at least, better fifty")
    side = np.where(frame["side"] == "buy", 1.0, -1.0)
    paid = side * (numbers["average"] / numbers["arrival"] - 1.0) / numbers["volatility"]
    return frame["day"].to_numpy(dtype=object), numbers["yuan"] / numbers["liquidity"], paid
