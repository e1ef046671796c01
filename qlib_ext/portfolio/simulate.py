"""An account over days under a policy, without an exchange: what a backtest says, in a fraction of its time.

Rows are signal days: the score of day d is known at its close, the trades follow at the entry of d + 1, and what is
held then earns ``step_return[d]`` until the next entry. Caps, costs and the order of the trades are those of the
strategies on an `exchange.AShareExchange`, without lots. ``D`` days, ``N`` stocks; yuan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qlib_ext.options import SHARE, check_number, check_shapes
from qlib_ext.portfolio.allocation import CAPITAL, PARTICIPATION
from qlib_ext.portfolio.costs import affordable, known_step
from qlib_ext.portfolio.exposures import Risk
from qlib_ext.portfolio.policy import Day, Policy, Vector

CENT = 0.01  # yuan of the cash that stay for the rounding of floats, as in a strategy
DUST = 1e-5  # yuan: no smaller trade is dealt, as in qlib

Flags = NDArray[np.bool_]
Impact = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Simulation:
    """What came of it.

    Attributes:
        daily: a row a day. Shares of the account before the day's trades: ``gross`` (what the holdings earn until the
            next entry), ``fees``, ``impact``, ``net`` = gross - fees - impact, ``turnover`` (buys and sells).
            ``market``: plain mean step of the stocks of the universe that could be bought; ``excess`` = net - market,
            both NaN where no step is known. After the trades: ``value`` of the account and ``cash`` in yuan, ``names``.
            Shares of an account that has lost everything are NaN.
        holdings: (N,) yuan after the last day's trades.
    """

    daily: pd.DataFrame
    holdings: Vector


def simulate(
    policy: Policy | Sequence[Policy],
    score: ArrayLike,
    *,
    liquidity: ArrayLike,
    volatility: ArrayLike,
    step_return: ArrayLike,
    buyable: ArrayLike | None = None,
    sellable: ArrayLike | None = None,
    buy_rate: ArrayLike = 0.0,
    sell_rate: ArrayLike = 0.0,
    universe: ArrayLike | None = None,
    delisted: ArrayLike | None = None,
    exposures: NDArray[np.float64] | None = None,
    risk: Risk | None = None,
    account: float = CAPITAL,
    start: str | ArrayLike = "cash",
    first: int = 0,
    participation: ArrayLike | None = PARTICIPATION,
    min_holding: int = 0,
    impact: float | Impact = 1.0,
    commission: float = 0.0003,
    least: float = 5.0,
) -> Simulation:
    """Let an account follow a policy.

    Each day what is too much is sold; then what lacks is bought by rank of the prepared score, while the cash lasts and
    within the policy's capital. A day without any score changes nothing. A stock whose liquidity was never known, or
    with an impact its volatility, is not dealt in; nor is a sale whose costs are more than it and the cash come to.

    Args:
        policy: says what to hold; or (D,), one a day.
        score: (D, N) larger is better, NaN where there is none.
        liquidity: (D, N) yuan a day, known at the close; the last known one counts for caps and costs.
        volatility: (D, N) standard deviation of daily returns, likewise.
        step_return: (D, N) return from the entry of the day to the next one; what is not finite counts as 0.
        buyable: (D, N) bool, True = can be bought at the entry; None: all can.
        sellable: (D, N) bool, True = can be sold at the entry; None: all can. What is neither is suspended.
        buy_rate: fees as a fraction of what is bought; a number or (D,), such as `rules.fee_rates` gives.
        sell_rate: of what is sold.
        universe: (D, N) bool, whose plain mean is the market; None: the stocks with a score.
        delisted: (D, N) bool, delisted by the entry: a holding is sold at its last price, for fees; None: none is.
        exposures: (D, N, K) for the policy.
        risk: of the days, for the policy.
        account: yuan at the start.
        start: "cash"; "mean": equal yuan in each stock of the first day's universe; or yuan (N,), the rest in cash.
        first: row at which the account starts; the rows before it only tell the policy what was known.
        participation: largest share of a stock's liquidity to trade in a day, a number or (D,); None or inf: no cap.
        min_holding: days from a position's first buy before which nothing of it is sold.
        impact: b of `impact_cost`, or a rule of your own: (yuan, liquidity, volatility) (n,) each -> yuan (n,).
        commission: part of the rates that is at least `least` yuan an order.
        least: yuan.

    Raises:
        ValueError: for shapes, options out of range, or a start that cannot be.

    >>> from qlib_ext.portfolio import TopNPolicy
    >>> known = {"liquidity": np.full((2, 2), 1e6), "volatility": np.full((2, 2), 0.02)}
    >>> step, score = [[0.10, 0.0], [0.0, 0.0]], [[2.0, 1.0], [2.0, 1.0]]
    >>> done = simulate(TopNPolicy(), score, step_return=step, **known, account=1e5, impact=0.0, least=0.0)
    >>> done.daily[["gross", "market", "value"]].round(3).to_numpy().tolist()
    [[0.05, 0.05, 100000.0], [0.0, 0.0, 105000.0]]
    """
    market = _Market.of(
        score, liquidity, volatility, step_return, buyable, sellable, universe, delisted, exposures, risk
    )
    days = len(market.score)
    check_number("account", account, "(0, inf)", hint=" (yuan)")
    check_number("first", first, f"[0, {days - 1}]", whole=True)
    check_number("min_holding", min_holding, "[0, inf)", whole=True)
    check_number("least", least, "[0, inf)", hint=" (yuan)")
    caps = np.full(days, np.inf) if participation is None else np.broadcast_to(np.asarray(participation), (days,))
    if participation is not None:
        for share in set(caps.tolist()) - {np.inf}:
            check_number("participation", share, "(0, 1]", hint=SHARE)
    if not callable(impact):
        check_number("impact", impact, "[0, inf)", hint=", or a rule of your own")
    rule = impact if callable(impact) else _square_root(impact) if impact else None
    rates = [np.broadcast_to(np.asarray(rate, dtype=np.float64), (days,)) for rate in (buy_rate, sell_rate)]
    costs = _Costs(market, rates, commission, least, rule)
    policies = list(policy) if isinstance(policy, Sequence) else [policy] * days
    scored = np.any(~np.isnan(market.score), axis=1)
    prepared = _prepared(policies, market.score, scored)
    held = _start(start, account, market.universe[first])
    run = _Run(market, costs, caps, min_holding, account - float(held.sum()), held)
    rows = []
    for d in range(first, days):
        own = policies[d]
        run.begin(d, own.capital)
        day = run.day(prepared[d], rates)
        target = own.target(day) if scored[d] and day.value > 0 else None
        moved = run.drift(known_step(market.step[d - 1]) if d > first else np.zeros_like(run.held))
        if target is not None:
            run.trade(np.where(own.in_shares & (run.held > 0), target * moved, target), prepared[d])
        rows.append(run.row())
    return Simulation(pd.DataFrame(rows, index=range(first, days)), run.held)


@dataclass(frozen=True)
class _Market:
    """Grids (D, N), completed; `liquidity` as it came, `known` and `volatility` carried on."""

    score: Vector
    liquidity: Vector
    known: Vector
    volatility: Vector
    step: Vector
    buyable: Flags
    sellable: Flags
    universe: Flags
    delisted: Flags
    exposures: NDArray[np.float64] | None
    risk: Risk | None

    @classmethod
    def of(cls, score: Any, liquidity: Any, volatility: Any, step: Any, *rest: Any) -> "_Market":
        """Check the shapes and fill in what was left out."""
        numbers = [np.asarray(grid, dtype=np.float64) for grid in (score, liquidity, volatility, step)]
        ranking, traded, sigma, steps = numbers
        flags = [None if grid is None else np.asarray(grid, dtype=bool) for grid in rest[:4]]
        buyable, sellable, universe, delisted = flags
        names = ("score", "liquidity", "volatility", "step_return", "buyable", "sellable", "universe", "delisted")
        check_shapes("(D, N) = (days, stocks)", **dict(zip(names, [*numbers, *flags], strict=True)))
        everything = np.ones(ranking.shape, dtype=bool)
        traded = np.where((traded > 0) & (traded < np.inf), traded, np.nan)
        return cls(
            ranking,
            traded,
            _carried(traded),
            _carried(sigma),
            steps,
            everything if buyable is None else buyable,
            everything if sellable is None else sellable,
            ~np.isnan(ranking) if universe is None else universe,
            ~everything if delisted is None else delisted,
            *rest[4:],
        )


@dataclass(frozen=True)
class _Costs:
    """What trades pay; `rates` (D,) of buys and sells."""

    market: _Market
    rates: list[Vector]
    commission: float
    least: float
    rule: Impact | None

    def fees(self, d: int, yuan: Any, *, sell: bool) -> Any:
        """Fees of orders (n,): the least commission included."""
        pays = self.rates[sell][d] * yuan + np.maximum(self.least - self.commission * yuan, 0.0)
        return np.where(yuan > 0, pays, 0.0)

    def moved(self, d: int, stocks: Any, yuan: Any) -> Any:
        """Impact of orders (n,) in `stocks`."""
        if self.rule is None:
            return np.zeros_like(yuan)
        return self.rule(yuan, self.market.known[d, stocks], self.market.volatility[d, stocks])

    def priced(self, d: int) -> Flags:
        """Stocks (N,) whose trade can be capped and charged."""
        known = self.market.known[d] > 0
        return known if self.rule is None else known & np.isfinite(self.market.volatility[d])


class _Run:
    """The account from day to day; yuan."""

    def __init__(
        self,
        market: _Market,
        costs: _Costs,
        caps: Vector,
        min_holding: int,
        cash: float,
        held: Vector,
    ) -> None:
        self.market, self.costs, self.caps, self.min_holding = market, costs, caps, min_holding
        self.cash, self.held, self.since = cash, held, np.full(len(held), -np.inf)

    def begin(self, d: int, capital: float | None) -> None:
        """Begin a day with the policy's capital: sell what is delisted at its last price, for fees."""
        self.capital = np.inf if capital is None else capital
        self.d, self.dealt, self.fees, self.impact = d, 0.0, 0.0, 0.0
        gone = self.held[self.market.delisted[d]]
        if gone.any():
            fees = np.minimum(self.costs.fees(d, gone, sell=True), gone).sum()
            self._pay(-gone, fees, 0.0)
            self.held = np.where(self.market.delisted[d], 0.0, self.held)

    def day(self, score: Vector, rates: list[Vector]) -> Day:
        """Tell the policy what it may know."""
        d, market = self.d, self.market
        return Day(
            score=score,
            held=self.held,
            liquidity=market.liquidity[d],
            known_liquidity=market.known[d],
            volatility=market.volatility[d],
            value=self.cash + float(self.held.sum()),
            buy_rate=float(rates[0][d]),
            sell_rate=float(rates[1][d]),
            universe=market.universe[d],
            exposures=None if market.exposures is None else market.exposures[d],
            specific=None if market.risk is None else market.risk.specific[d],
            market_volatility=None if market.risk is None else float(market.risk.market[d]),
        )

    def drift(self, step: Vector) -> Vector:
        """Bring the holdings to the prices of the entry; return those over the prices of the close."""
        moved: Vector = 1.0 + step
        self.held = self.held * moved
        self.value = self.cash + float(self.held.sum()) + self.fees
        return moved

    def trade(self, target: Vector, score: Vector) -> None:
        """Trade towards the target: sell, then buy by the prepared score (N,), highest first, with what there is."""
        d, market, priced, empty = self.d, self.market, self.costs.priced(self.d), self.held == 0
        cap = self.caps[d] * market.known[d]
        gap = target - self.held
        wish = np.minimum(np.abs(gap), cap)
        wish[wish <= DUST] = 0.0
        sells = np.flatnonzero((gap < 0) & priced & market.sellable[d] & (d - self.since >= self.min_holding))
        sold = wish[sells]
        fees, impact = self.costs.fees(d, sold, sell=True), self.costs.moved(d, sells, sold)
        if not (paid := self._payable(sold - fees - impact)).all():
            sells, sold, fees, impact = sells[paid], sold[paid], fees[paid], impact[paid]
        self.held = self.held.copy()
        self.held[sells] -= sold
        self._pay(-sold, fees.sum(), impact.sum())
        buys = np.flatnonzero((gap > 0) & priced & market.buyable[d])
        buys = buys[np.argsort(-score[buys], kind="stable")]
        bought = self._affordable(buys, wish[buys])
        self.held[buys] += bought
        self._pay(bought, self.costs.fees(d, bought, sell=False).sum(), self.costs.moved(d, buys, bought).sum())
        self.since[empty & (self.held > 0)] = d

    def _payable(self, brings: Vector) -> Flags:
        """Tell which sales (n,), in their order, leave the cash at 0 or above; `brings`: less their costs."""
        paid, cash = np.ones(len(brings), dtype=bool), self.cash
        if cash + np.minimum(brings, 0.0).sum() < 0:
            for n, more in enumerate(brings):
                paid[n] = more >= 0 or cash + more >= 0
                cash += more * paid[n]
        return paid

    def _affordable(self, stocks: NDArray[np.intp], wish: Vector) -> Vector:
        """Yuan (n,) of the buys, in their order, that capital and cash suffice for."""
        d, room = self.d, max(self.capital - float(self.held.sum()), 0.0)
        wish = np.clip(room - (np.cumsum(wish) - wish), 0.0, wish)

        def pays(n: Any, yuan: Any) -> Any:
            return self.costs.fees(d, yuan, sell=False) + self.costs.moved(d, stocks[n], yuan)

        paid: Vector = np.cumsum(wish + pays(slice(None), wish))
        short = np.flatnonzero(paid > self.cash - CENT)
        if len(short):
            n = int(short[0])
            left = self.cash - CENT - (paid[n - 1] if n else 0.0)
            wish[n] = affordable(float(wish[n]), float(left), lambda yuan: float(pays(n, yuan)))
            wish[n + 1 :] = 0.0
        wish[wish <= DUST] = 0.0
        return wish

    def _pay(self, trade: Vector, fees: float, impact: float) -> None:
        self.cash -= float(trade.sum()) + fees + impact
        self.dealt, self.fees, self.impact = self.dealt + np.abs(trade).sum(), self.fees + fees, self.impact + impact

    def row(self) -> dict[str, float]:
        """Sum the day up: a row of `Simulation.daily`."""
        d, step = self.d, self.market.step[self.d]
        mean = step[self.market.universe[d] & self.market.buyable[d] & np.isfinite(step)]
        market = float(mean.mean()) if len(mean) else np.nan
        parts = (float((self.held * known_step(step)).sum()), self.fees, self.impact, self.dealt)
        gross, fees, impact, turnover = (part / self.value if self.value > 0 else np.nan for part in parts)
        net = gross - fees - impact
        shares = {"gross": gross, "fees": fees, "impact": impact, "net": net, "turnover": turnover}
        value = self.cash + float(self.held.sum())
        shares |= {"market": market, "excess": net - market}
        return shares | {"value": value, "cash": self.cash, "names": int((self.held > DUST).sum())}


def _prepared(policies: list[Policy], score: Vector, scored: Flags) -> Vector:
    """Scores (D, N) as the policy of each day prepares them, of the scored days up to it; NaN on the others."""
    prepared = np.full(score.shape, np.nan)
    firsts = [d for d, own in enumerate(policies) if d == 0 or own is not policies[d - 1]]
    for first, end in zip(firsts, [*firsts[1:], len(policies)], strict=True):
        own = np.flatnonzero(scored[first:end]) + first
        if len(own):
            prepared[own] = policies[first].prepare(score[:end][scored[:end]])[-len(own) :]
    return prepared


def _square_root(b: float) -> Impact:
    """`impact_cost` without its checks, for trades (n,) of at least 0 in stocks with liquidity and volatility."""
    return lambda yuan, liquidity, volatility: b * volatility * yuan * np.sqrt(yuan / liquidity)


def _start(start: str | ArrayLike, account: float, universe: Flags) -> Vector:
    """Yuan (N,) held at the start."""
    if isinstance(start, str):
        if start not in ("cash", "mean") or start == "mean" and not universe.any():
            raise ValueError(f"start is {start!r}; allowed: 'cash', 'mean' (of a universe with stocks), or yuan (N,)")
        return np.where(universe & (start == "mean"), account / max(int(universe.sum()), 1), 0.0)
    held = np.array(start, dtype=np.float64)
    if held.shape != universe.shape or not (held >= 0).all() or held.sum() > account * (1 + 1e-9):
        raise ValueError(
            f"start must be {len(universe)} holdings of at least 0 yuan, in sum at most the account's {account:,.0f}; "
            f"got {held.shape} with a sum of {held.sum():,.0f}"
        )
    return held


def _carried(grid: Vector) -> Vector:
    """Carry each stock's last known value on."""
    return pd.DataFrame(grid).ffill().to_numpy()
