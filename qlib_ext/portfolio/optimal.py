"""The best trades of one day: gain less fees, impact and risk, over all stocks at once, under the limits of the day.

``N`` stocks, ``K`` exposures; amounts in yuan, rates as fractions. The problem is concave, and separable but for a few
sums: the cash, the yuan in stocks, the exposures. Each sum has a price (its multiplier); at given prices a stock's best
trade is a root of a quadratic, and the prices that fit come from a Newton iteration in K + 2 numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlib_ext.options import check_shapes

Vector = NDArray[np.float64]
STEPS, HALVINGS = 200, 30  # of the iteration; ten or twenty steps are the rule
CLOSE = 1e-9  # of the capital: what a limit may miss by float noise
STIFF = 100.0  # of the largest marginal gain: the price at which a limit that cannot be kept is missed by the least


@dataclass(frozen=True)
class OptimalTrades:
    """What `optimal_trades` finds.

    Attributes:
        trade: (N,) yuan, sells negative.
        gain: of the trades in the objective over no trade at all, yuan; negative only where a limit forces sales.
        stock_gain: (N,) each stock's share of the gain, at the prices of the limits; at least 0 where not forced.
        cash_price: yuan of gain that one more yuan of cash would bring.
        exposure: (K,) of the active holdings after the trades, in shares of the capital.
        distance: (K,) how far `exposure` lies outside its bounds, 0 within them.
        exposure_price: (K,) yuan of gain that one more yuan of room would bring; negative at a lower bound.
        missing_cash: yuan that no allowed sale brings in, 0 but for an account in debt.
    """

    trade: Vector
    gain: float
    stock_gain: Vector
    cash_price: float
    exposure: Vector
    distance: Vector
    exposure_price: Vector
    missing_cash: float


def optimal_trades(
    held: ArrayLike,
    gain: ArrayLike,
    risk: ArrayLike,
    *,
    lower: ArrayLike,
    upper: ArrayLike,
    cash: float,
    capital: float,
    benchmark: ArrayLike = 0.0,
    impact: ArrayLike = 0.0,
    buy_rate: float = 0.0,
    sell_rate: float = 0.0,
    market_risk: float = 0.0,
    exposures: ArrayLike | None = None,
    bounds: Sequence[tuple[float, float]] = (),
) -> OptimalTrades:
    """Find the best trades of a day: u (N,), so that x = held + u has the largest value of its objective.

        sum(gain x - risk / 2 (x - benchmark)^2 - rate |u| - impact |u|^1.5) - market_risk / 2 (sum(x) - capital)^2,

    where lower <= u <= upper, sum(u) and the costs come to at most `cash`, and each column of
    `exposures' (x - benchmark) / capital` lies within its bounds. Where bounds, or a negative `cash`, cannot be kept,
    the sum of the distances to them is the smallest one.

    Args:
        held: (N,) yuan.
        gain: (N,) of a yuan held: expected return, as a fraction.
        risk: (N,) above 0; of a yuan held, per yuan.
        lower: (N,) least yuan of the day's trade, finite.
        upper: (N,) most yuan, at least `lower`, finite; below 0 it forces a sale.
        cash: yuan at hand before the trades.
        capital: yuan that stocks and idle cash come to; above 0.
        benchmark: (N,) yuan without active risk.
        impact: (N,) of |u|^1.5: b sigma / sqrt(liquidity), see `impact_cost`; at least 0.
        buy_rate: fees, as a fraction of what is bought.
        sell_rate: of what is sold.
        market_risk: of a yuan of idle cash, per yuan.
        exposures: (N, K); None: none.
        bounds: K pairs (least, most) of the active exposure, in shares of the capital.

    Raises:
        ValueError: for shapes, or a number that is not allowed.

    >>> best = optimal_trades([0.0, 4e6], [0.001, 0.0], [1e-9, 1e-9], lower=[0.0, -4e6], upper=[2e6, 0.0], cash=1e6,
    ...     capital=5e6)
    >>> best.trade.round().tolist()  # the first stock's gain is spent at 1e6; what no one gains by is sold
    [1000000.0, -4000000.0]
    """
    given = {"held": held, "gain": gain, "risk": risk, "lower": lower, "upper": upper}
    given |= {"benchmark": benchmark, "impact": impact}
    stocks = {name: _full(value, np.shape(held)) for name, value in given.items()}
    check_shapes("(N) = (stocks)", **stocks)
    loads = np.zeros((*np.shape(held), 0)) if exposures is None else np.asarray(exposures, dtype=np.float64)
    limits = np.asarray(bounds, dtype=np.float64).reshape(-1, 2)
    if loads.shape != (*np.shape(held), len(limits)):
        raise ValueError(f"exposures are {loads.shape}; wanted is (stocks, bounds) = {(*np.shape(held), len(limits))}")
    numbers = (*stocks.values(), loads, cash, capital, buy_rate, sell_rate, market_risk)
    if not all(np.isfinite(value).all() for value in numbers) or np.isnan(limits).any():
        raise ValueError("optimal_trades: a number is NaN or infinite; a stock that is not to be traded has bounds 0")
    if not (capital > 0 and (stocks["risk"] > 0).all() and (stocks["impact"] >= 0).all()):
        raise ValueError("optimal_trades: wanted are capital > 0, risk > 0 and impact >= 0")
    if (stocks["lower"] > stocks["upper"]).any() or (limits[:, 0] > limits[:, 1]).any():
        raise ValueError("optimal_trades: wanted are lower <= upper of each trade, least <= most of each bound")
    problem = _Problem(
        **stocks, loads=loads, bounds=limits, cash=cash, capital=capital, buy_rate=buy_rate, sell_rate=sell_rate,
        market_risk=market_risk,
    )  # fmt: skip
    return problem.answer(*problem.solve())


def _full(value: ArrayLike, shape: tuple[int, ...]) -> Vector:
    """Take what is given for each stock; one number is that of all."""
    array = np.asarray(value, dtype=np.float64)
    return np.broadcast_to(array, shape) if array.ndim == 0 else array


@dataclass
class _Problem:
    """The problem, its dual function, and the iteration that finds its least value.

    Prices y (K + 2,): of cash, of yuan in stocks, of the exposures. Cash and exposures have a largest price, at which
    the limit is missed rather than kept.
    """

    held: Vector
    gain: Vector
    risk: Vector
    lower: Vector
    upper: Vector
    benchmark: Vector
    impact: Vector
    loads: Vector
    bounds: Vector
    cash: float
    capital: float
    buy_rate: float
    sell_rate: float
    market_risk: float

    def __post_init__(self) -> None:
        self.slope = self.gain - self.risk * (self.held - self.benchmark)  # of the objective at no trade, less costs
        self.room = self.bounds * self.capital - (self.loads.T @ (self.held - self.benchmark))[:, None]
        self.idle = self.capital - self.held.sum()
        reach = np.maximum(np.abs(self.lower), np.abs(self.upper))
        steep = np.abs(self.slope) + self.risk * reach + 1.5 * self.impact * np.sqrt(reach)
        fees = abs(self.buy_rate) + abs(self.sell_rate)
        self.scale = float(steep.max(initial=1e-9)) + fees + abs(self.market_risk * self.idle)
        stiff = STIFF * self.scale
        most_cash = stiff * (1.0 + np.abs(self.loads).sum(axis=1).max(initial=0.0))
        self.low = np.array([0.0, -np.inf, *np.full(len(self.bounds), -stiff)])
        self.high = np.array([most_cash, np.inf, *np.full(len(self.bounds), stiff)])
        self.columns = np.column_stack([np.ones((len(self.held), 2)), self.loads])

    def respond(self, price: Vector) -> tuple[Vector, Vector, Vector]:
        """Each stock's best trade (N,) at the prices, the cost of a marginal yuan (N,), and how the trade gives way."""
        dear = 1.0 + price[0]
        pull = self.slope - self.columns @ price
        up, down = pull - dear * self.buy_rate, -pull - dear * self.sell_rate
        push = np.maximum(np.maximum(up, down), 0.0)
        bend = 1.5 * dear * self.impact
        root = 2.0 * push / np.maximum(bend + np.sqrt(bend * bend + 4.0 * self.risk * push), 1e-300)
        buys = up > down
        wish = np.where(buys, root * root, -root * root)
        trade = np.clip(wish, self.lower, self.upper)
        inside = (trade == wish) & (push > 0)
        size = np.sqrt(np.abs(trade))
        yields = np.where(inside, 2.0 * size / np.maximum(2.0 * self.risk * size + bend, 1e-300), 0.0)
        marginal = np.where(trade > 0, self.buy_rate, -self.sell_rate) + np.sign(trade) * 1.5 * self.impact * size
        return trade, marginal, yields

    def costs(self, trade: Vector) -> Vector:
        """Fees and impact (N,) of trades, yuan."""
        size = np.abs(trade)
        return np.where(trade > 0, self.buy_rate, self.sell_rate) * size + self.impact * size * np.sqrt(size)

    def look(self, price: Vector) -> tuple[float, Vector, Vector, Vector]:
        """Value of the dual function over no trade, its gradient (K + 2,), Hessian, and the trades."""
        trade, marginal, yields = self.respond(price)
        costs = self.costs(trade)
        pull = self.slope - self.columns @ price
        value = float((pull * trade - self.risk / 2 * trade * trade - (1 + price[0]) * costs).sum())
        edge = np.where(price[2:] >= 0, self.room[:, 1], self.room[:, 0])
        edge = np.where(price[2:] == 0, np.clip(self.loads.T @ trade, self.room[:, 0], self.room[:, 1]), edge)
        total = trade.sum()
        soft = 1.0 / self.market_risk if self.market_risk > 0 else 0.0
        value += price[0] * self.cash + price[1] * (self.idle + soft * price[1] / 2)
        value += float((price[2:] * edge).sum())
        slope = np.array([self.cash - total - costs.sum(), self.idle + soft * price[1] - total])
        columns = self.columns.copy()
        columns[:, 0] += marginal
        curve = (columns * yields[:, None]).T @ columns
        curve[1, 1] += soft
        return value, np.concatenate([slope, edge - self.loads.T @ trade]), curve, trade

    def solve(self) -> tuple[Vector, Vector]:
        """Find the prices (K + 2,) and the trades (N,) at them: projected Newton steps with a line search."""
        price, near, radius = np.zeros(len(self.low)), CLOSE * self.capital, self.scale
        value, slope, curve, trade = self.look(price)
        for _ in range(STEPS):
            low, high = self._orthant(price, slope)
            free = ~(((price <= low) & (slope >= 0)) | ((price >= high) & (slope <= 0)))
            if self.market_risk <= 0:
                free[1] = False
            if not free.any() or np.abs(slope[free]).max() <= near:
                break
            step = np.zeros_like(price)
            part = curve[np.ix_(free, free)]
            ridge = 1e-13 * np.trace(part) + np.abs(slope[free]).max() / (1e6 * self.scale)
            step[free] = -np.linalg.solve(part + ridge * np.eye(len(part)), slope[free])
            step *= min(1.0, radius / np.abs(step).max())
            edge = np.where(step < 0, low, high)
            moves = step != 0
            hit = np.full(len(step), np.inf)  # shares of the step at which prices reach their bounds
            hit[moves] = (edge[moves] - price[moves]) / step[moves]
            first, size = hit[hit > 0].min(initial=np.inf), 1.0
            for _ in range(HALVINGS):
                tried = np.where(size >= hit, edge, price + size * step)
                seen = self.look(tried)
                drop = float(slope @ (tried - price))
                if seen[0] <= value + 1e-4 * drop + 1e-15 * abs(value):
                    break
                # a price that ends near its bound rather than on it would shorten every later step
                size = first if size / 2 < first < size else size / 2
            else:
                break
            radius = max(2.0 * np.abs(tried - price).max(), self.scale / 64)
            price, (value, slope, curve, trade) = tried, seen
        return price, trade

    def _orthant(self, price: Vector, slope: Vector) -> tuple[Vector, Vector]:
        """Bounds of the next step: the price of an exposure does not pass 0, where it changes to its other bound."""
        low, high = self.low.copy(), self.high.copy()
        at = price[2:]
        low[2:] = np.where((at > 0) | ((at == 0) & (slope[2:] <= 0)), 0.0, low[2:])
        high[2:] = np.where((at < 0) | ((at == 0) & (slope[2:] >= 0)), 0.0, high[2:])
        return low, high

    def answer(self, price: Vector, trade: Vector) -> OptimalTrades:
        """Tell what the trades at the prices come to."""
        trade = self._within_cash(trade)
        costs = self.costs(trade)
        pull = self.slope - self.columns @ price
        share = pull * trade - self.risk / 2 * trade * trade - (1 + price[0]) * costs
        own = float((self.slope * trade - self.risk / 2 * trade * trade - costs).sum())
        total = trade.sum()
        own -= self.market_risk / 2 * (total * total - 2 * total * self.idle)
        active = self.loads.T @ (self.held - self.benchmark + trade) / self.capital
        beyond = np.maximum(np.maximum(self.bounds[:, 0] - active, active - self.bounds[:, 1]), 0.0)
        missing = max(float(total + costs.sum() - self.cash), 0.0)
        return OptimalTrades(trade, own, share, float(price[0]), active, beyond, price[2:], missing)

    def _within_cash(self, trade: Vector) -> Vector:
        """Scale the buys by the float noise that they are above the cash."""
        over = trade.sum() + self.costs(trade).sum() - self.cash
        buys = np.where(trade > np.maximum(self.lower, 0.0), trade, 0.0)
        spent = buys.sum()
        if over <= 0 or spent <= 0:
            return trade
        return trade - buys * min(over / spent, 1.0)
