"""What the planted signals are worth to a trader who pays for trades: an upper bound, and a policy that comes near it.

The account is counted in units of the mean stock and starts with 1: it grows by what it earns more than the mean stock.
For signal day d: x_d holdings after the trades u_d at the close of d+1, w_d the account after them, e_d the planted
mean of the following day, r_d the mean stock's, fee the rate of a side:

    x_d = x_{d-1} (1 + e_{d-1} - r_{d-1}) + u_d       u_d = 0 where the stock does not trade
    w_d = w_{d-1} + sum((e - r)_{d-1} x_{d-1}) - r_{d-1} (w_{d-1} - sum(x_{d-1})) - sum(fee |u_d| + k_d |u_d|^1.5)
    0 <= x_d <= cap_d,     sum(x_d) <= w_d,     from cash: 1 before the first trades

with cap = participation * liquidity and k = b * sigma / sqrt(liquidity) in those units. Its optimum over all days at
once, all e known, is a convex programme. It **bounds every policy that knows anything but the noise of returns**: given
the planted means, the mean holdings of such a policy earn what it earns, and their costs are at most its own (Jensen).
So its expected account is at most the optimum, and the mean of its log account at most the log. Assumed: the
equations above (no lots, T+1 or limits, dealt at the close), liquidity, volatility and the mean stock as they came,
nothing else known of the future: the market's drift times beta, moves that limits hold back, the decline of 0.8% a day
that a stock has in its last 90 days before it is delisted (cash loses r alone). A policy that foresaw a delisting could
avoid that, and is not bounded.

`D` signal days, `N` stocks. cvxpy (which pyqlib brings) is imported where it is needed.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.rules import fee_rates
from qlib_ext.synthetic.listings import DAYS_A_YEAR, BoolArray, FloatArray
from qlib_ext.synthetic.market import Market
from qlib_ext.synthetic.process import SLOW_RHO, SLOW_SHARE, shape_ahead

WINDOW = 20  # days of liquidity and volatility
SCALE = 100.0  # the solver counts in hundredths of the capital: near 1, as it likes numbers
PLAN = (1, 1, 1, 2, 3, 5, 8, 13, 21)  # days of the steps that the policy plans


@dataclass(frozen=True)
class Terms:
    """What holdings earn and trades cost, in units of the mean stock and of the capital.

    `excess` (D, N) planted mean less the mean stock's; `mean_stock` (D,); `cap`, `impact` (D, N) largest holding and k;
    `trades` (D, N) whether the stock trades at the entry; `buy_rate`, `sell_rate` (D,) fees.
    """

    excess: FloatArray
    mean_stock: FloatArray
    cap: FloatArray
    impact: FloatArray
    trades: BoolArray
    buy_rate: FloatArray
    sell_rate: FloatArray


def signal_rows(market: Market, first: str, last: str) -> npt.NDArray[np.int64]:
    """Positions of the days from `first` to `last` that have two days after them."""
    days = pd.DatetimeIndex(market.days[:-2])
    rows = np.flatnonzero((days >= pd.Timestamp(first)) & (days <= pd.Timestamp(last)))
    if not len(rows):
        there = f"{days[0].date()} to {days[-1].date()}"
        raise ValueError(f"no signal day from {first} to {last}; the market has {there}.")
    return rows


def terms(market: Market, first: str, last: str, *, capital: float, participation: float, b: float) -> Terms:
    """Terms of the signal days from `first` to `last`."""
    rows, bars = signal_rows(market, first, last), market.bars
    turnover, price = (pd.DataFrame(grid) for grid in (bars["lots"] * bars["vwap"], bars["close"] * bars["adjustment"]))
    liquidity = 100.0 * turnover.rolling(WINDOW, min_periods=1).mean().ffill().to_numpy()[rows]
    volatility = (price / price.shift() - 1.0).rolling(WINDOW, min_periods=1).std().ffill().to_numpy()[rows]
    on, listed, later = np.isfinite(bars["close"]), np.isfinite(bars["adjustment"]), market.label()[rows]
    universe = on[rows + 1] & listed[rows + 2]
    mean = np.where(on[rows + 2], np.nan_to_num(bars["planted"][rows]), 0.0)  # what is due on a suspended day is lost
    mean_stock = np.average(mean, axis=1, weights=universe)
    moved = np.nanmean(np.where(universe, later, np.nan), axis=1)  # the mean stock as it came
    unit = capital * np.cumprod(np.r_[1.0, 1.0 + moved[:-1]])[:, None]
    known = (liquidity > 0) & (volatility >= 0)
    fees = fee_rates(market.days[rows + 1])
    return Terms(
        excess=np.where(listed[rows + 2], mean - mean_stock[:, None], 0.0),
        mean_stock=mean_stock,
        cap=np.where(universe & known, participation * liquidity, 0.0) / unit,
        impact=np.where(known, b * volatility * np.sqrt(unit / np.where(known, liquidity, 1.0)), 0.0),
        trades=on[rows + 1],
        buy_rate=fees["buy"].to_numpy(),
        sell_rate=fees["sell"].to_numpy(),
    )


def best_account(terms: Terms) -> tuple[float, FloatArray]:
    """Largest account after the last day when everything is known at the start, and its trades (D, N)."""
    import cvxpy as cp

    shape, one = terms.excess.shape, np.ones((1, terms.excess.shape[1]))
    held, trade, account = cp.Variable(shape, nonneg=True), cp.Variable(shape), cp.Variable(shape[0])
    rates = [rate[:, None] @ one for rate in (terms.buy_rate, terms.sell_rate)]
    costs = cp.multiply(rates[0], cp.pos(trade)) + cp.multiply(rates[1], cp.neg(trade))
    costs = cp.sum(costs + cp.multiply(terms.impact / SCALE**0.5, cp.power(cp.abs(trade), 1.5)), axis=1)
    invested = cp.sum(held, axis=1)
    earned = cp.sum(cp.multiply(terms.excess, held), axis=1) - cp.multiply(terms.mean_stock, account - invested)
    drifted = cp.vstack([np.zeros_like(one), cp.multiply(1.0 + terms.excess[:-1], held[:-1])])
    limits = [held == drifted + trade, invested <= account, account[0] <= SCALE - costs[0]]
    limits += [account[1:] <= account[:-1] + earned[:-1] - costs[1:]]
    if not terms.trades.all():  # older cvxpy refuses a constraint of nothing
        limits += [trade[~terms.trades] == 0.0]
    limits += [held[terms.trades] <= SCALE * terms.cap[terms.trades]]
    problem = cp.Problem(cp.Maximize(account[-1] + earned[-1]), limits)
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value) / SCALE, np.asarray(trade.value) / SCALE


class Account:
    """The equations of this module a day at a time, without noise."""

    def __init__(self, terms: Terms) -> None:
        """Start from cash."""
        self.terms, self.day = terms, 0
        self.held, self.value = np.zeros(terms.excess.shape[1]), 1.0
        self.paid = self.traded = 0.0  # costs, and trades of both sides, in shares of the account

    def cost(self, trade: FloatArray) -> float:
        """Fees and impact of the day's trades (N,)."""
        terms, day = self.terms, self.day
        fees = terms.buy_rate[day] * trade.clip(min=0.0) + terms.sell_rate[day] * (-trade).clip(min=0.0)
        return float((fees + terms.impact[day] * np.abs(trade) ** 1.5).sum())

    def deal(self, trade: FloatArray) -> None:
        """Trade (N,), and earn until the next entry."""
        terms, day, cost = self.terms, self.day, self.cost(trade)
        self.paid += cost / self.value
        self.traded += float(np.abs(trade).sum()) / self.value
        self.held = self.held + trade
        self.value -= cost
        earned = terms.excess[day] @ self.held - terms.mean_stock[day] * (self.value - self.held.sum())
        self.held = self.held * (1.0 + terms.excess[day])
        self.value += float(earned)
        self.day += 1


def forecasts(market: Market, row: int) -> FloatArray:
    """Expect the planted means of the steps of PLAN from the state at the close of `row`, less their mean, (T, N)."""
    signal, rho = market.parameters["signal"], market.parameters["rho"]
    fast, slow = (np.nan_to_num(market.bars[name][row]) for name in ("latent", "slow"))
    turnover = pd.DataFrame(market.bars["lots"] * market.bars["vwap"]).iloc[max(row - WINDOW, 0) : row + 1].mean()
    tilt = 1.5 - turnover.rank(pct=True).fillna(0.5).to_numpy()
    ages = np.arange(sum(PLAN))
    shape = np.stack([tilt * shape_ahead(fast, rho**age) for age in ages])
    mean = signal * (np.sqrt(1.0 - SLOW_SHARE) * shape + np.sqrt(SLOW_SHARE) * SLOW_RHO ** ages[:, None] * slow)
    mean = np.where(np.isfinite(market.bars["latent"][row]), mean, 0.0)
    steps = np.stack([part.mean(axis=0) for part in np.split(mean, np.cumsum(PLAN)[:-1])])
    return np.asarray(steps - steps.mean(axis=1, keepdims=True))


def planned_account(market: Market, first: str, last: str, terms: Terms) -> Account:
    """Account of the policy that plans each day by the conditional means, and deals the plan's first day.

    It knows the state at the close and which stocks trade at the entry. A convex programme over the steps of PLAN, a
    step's trade dealt in equal parts.

    Raises: ValueError for a market with a regime, whose means have no such simple expectation.
    """
    import cvxpy as cp

    if "regime" in market.parameters:
        raise ValueError("planned_account: the market has a regime; give one without")
    shape, days = (len(PLAN), terms.excess.shape[1]), np.array(PLAN, dtype=float)[:, None]
    trade, gain = cp.Variable(shape), cp.Parameter(shape)
    impact, cap = cp.Parameter(shape, nonneg=True), cp.Parameter(shape, nonneg=True)
    start, blocked = cp.Parameter((1, shape[1]), nonneg=True), cp.Parameter(shape[1], nonneg=True)
    value, buy_rate, sell_rate = (cp.Parameter(nonneg=True) for _ in range(3))
    bought = np.tril(np.ones((len(days), len(days)))) @ trade
    held = np.ones_like(days) @ start + bought
    costs = buy_rate * cp.pos(trade) + sell_rate * cp.neg(trade) + cp.multiply(impact, cp.power(cp.abs(trade), 1.5))
    on_average = bought - cp.multiply((days - 1.0) / (2.0 * days), trade)  # a step's trade is dealt in equal parts
    limits = [held >= 0.0, held <= cap, cp.multiply(blocked, trade[0]) == 0.0]
    limits += [cp.sum(held, axis=1) + cp.hstack([cp.sum(costs[0]), np.zeros(len(days) - 1)]) <= value]
    problem = cp.Problem(cp.Maximize(SCALE * cp.sum(cp.multiply(gain, on_average) - costs)), limits)
    account = Account(terms)
    for day, row in enumerate(signal_rows(market, first, last)):
        deals, now = terms.trades[day], account.held.clip(min=0.0)
        gain.value, blocked.value = days * forecasts(market, row), (~deals).astype(float)
        start.value, value.value = SCALE * now[None], SCALE * account.value
        cap.value = SCALE * np.ones_like(days) * np.where(deals, terms.cap[day], now)
        impact.value = terms.impact[day] / np.sqrt(SCALE * days)
        buy_rate.value, sell_rate.value = terms.buy_rate[day], terms.sell_rate[day]
        problem.solve(solver=cp.CLARABEL)
        account.deal(np.where(deals, np.maximum(np.asarray(trade.value)[0] / SCALE, -account.held), 0.0))
    return account


def bound(
    market: Market, first: str, last: str, *, capital: float = 150e6, participation: float = 0.05, b: float = 1.0
) -> dict[str, object]:
    """Bound the excess over the mean stock, a year, of accounts that trade from `first` to `last` (signal days).

    Args:
        market: a simulated market.
        first: signal day, ISO date.
        last: signal day; the last two of the calendar are left out.
        capital: yuan at the start.
        participation: of the daily turnover, which a holding may have.
        b: of the impact b * sigma * sqrt(trade / turnover).

    Returns: the arguments, `days`, and for `upper_bound` (everything planted is known) and `planned` (a policy that
    knows the state of each close): `excess` = log(account) / days * 243, `costs` and `turnover` (both sides) a year.
    None for `planned` where there is a regime.

    Takes minutes for the default market's year.

    >>> from qlib_ext.synthetic import simulate
    >>> market = simulate(n_stocks=12, years=0.25, seed=1)
    >>> facts = bound(market, "2020-03-02", "2020-03-06", capital=6e6)
    >>> facts["upper_bound"]["excess"] > facts["planned"]["excess"]
    True
    """
    given = {"capital": capital, "participation": participation, "b": b}
    rules = terms(market, first, last, **given)
    ideal = Account(rules)
    for trade in best_account(rules)[1]:
        ideal.deal(trade)
    planned = None if "regime" in market.parameters else planned_account(market, first, last, rules)
    facts: dict[str, object] = {"first": first, "last": last, **given, "days": len(rules.excess)}
    for name, account in (("upper_bound", ideal), ("planned", planned)):
        facts[name] = account and _a_year(account)
    return facts


def _a_year(account: Account) -> dict[str, float]:
    scale = DAYS_A_YEAR / account.day
    parts = {"excess": np.log(account.value), "costs": account.paid, "turnover": account.traded}
    return {name: float(f"{scale * value:.4g}") for name, value in parts.items()}
