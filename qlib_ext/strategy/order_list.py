"""Tomorrow's order list of a recorded run: what its strategy would send, in raw shares and words.

The targets are the strategy's, and so is the way from targets to orders (caps, lots, sells before buys, cash): here it
only sees the last close in place of the next day's prices. So the list is a plan: a price that opens elsewhere, a limit
that locks, a dividend or split of the next day are not in it. Buys are sized by what the run's exchange would charge,
its estimate of the impact among it; the yuan of the list are shares times price alone. Yuan; raw shares; prices in raw
yuan.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from qlib.log import get_module_logger

from qlib_ext.cross_section import ranks
from qlib_ext.exchange import Impact, Options
from qlib_ext.panel import check_scores
from qlib_ext.portfolio import Day, Policy
from qlib_ext.provider import calendar, own_names
from qlib_ext.rules import Fees
from qlib_ext.runs import Task
from qlib_ext.spelling import is_nothing, read_day
from qlib_ext.strategy.cost_aware import CostAwareStrategy
from qlib_ext.strategy.freshness import check_age
from qlib_ext.strategy.order_inputs import ScoredRun, check_holdings, next_day, read_holdings, read_market
from qlib_ext.strategy.planner import Line, Planner, make_lines
from qlib_ext.strategy.policy_strategy import PolicyStrategy
from qlib_ext.strategy.quotes import LastClose
from qlib_ext.strategy.strategy import LiquidityTopNStrategy

logger = get_module_logger("qlib_ext.orders")
ORDER_COLUMNS = (
    "date", "signal_date", "code", "side", "shares", "price", "yuan", "target_yuan", "held_shares", "cap_yuan",
    "cap_used", "limit_up", "limit_down", "rank", "score", "reason",
)  # fmt: skip
_SIDES = ("sell", "buy", "none")


def make_orders(
    score: pd.Series,
    market: pd.DataFrame,
    holdings: pd.DataFrame,
    *,
    strategy: PolicyStrategy,
    capital: float,
    day: pd.Timestamp,
    date: pd.Timestamp,
    fees: Fees,
    impact: Impact | None = None,
    cash: float | None = None,
    young: Collection[str] = (),
    universe: Collection[str] | None = None,
) -> pd.DataFrame:
    """List the orders from holdings to the strategy's targets, and what is not traded, with the reason.

    Args:
        score: (N,) by code, of `day`, as the strategy's policy prepares it; NaN where there is none.
        market: by code, for all of `score` and `holdings`: the columns of `read_market`, `volatility` for an impact; an
            order above `largest` is split, without that column none is.
        holdings: by code, column `shares` (raw).
        strategy: gives the policy and the trade cap.
        capital: yuan to place; no buy lifts the holdings above it.
        day: of the signal.
        date: of the trade.
        fees: of an order on `date`.
        impact: of an order, see `exchange.impact_rule`; None: there is none.
        cash: yuan at hand before the orders; None: capital less the value of the holdings. What is sold adds to it.
        young: codes that `min_holding` keeps from being sold.
        universe: codes whose mean stock is the benchmark, where they trade; None: all with a score.

    Returns:
        Columns `ORDER_COLUMNS`, sells first (what leaves, then by rank), then buys by rank, then `side` none with 0
        shares: holdings, targets and higher ranked stocks that are not traded. `yuan` = shares * price (last close);
        `cap_yuan`: most yuan to trade of the stock that day, `cap_used` = yuan / cap_yuan; `limit_up`, `limit_down`:
        yuan, NaN where none or not known; `rank`: 1 for the highest score.

    Raises:
        ValueError: for holdings, capital or cash that cannot be, no score at all, or a stock that `market` lacks.

    >>> market = pd.DataFrame({"price": 10.0, "suspended": False, "liquidity": 2e6, "known_liquidity": 2e6,
    ...     "limit_up": 11.0, "limit_down": 9.0, "least": 100.0, "step": 100.0}, index=["SH600000"])
    >>> index = pd.MultiIndex.from_product([panel.days, panel.stocks], names=["datetime", "instrument"])
    >>> strategy, date = LiquidityTopNStrategy(signal=pd.Series(range(len(index)), index)), pd.Timestamp("2022-03-02")
    >>> held = pd.DataFrame({"shares": [1_000]}, index=["SH600000"])
    >>> orders = make_orders(pd.Series({"SH600000": 0.3}), market, held, strategy=strategy, capital=50_000.0,
    ...     day=pd.Timestamp("2022-03-01"), date=date, fees=Fees([date]))
    >>> orders[["side", "shares", "reason"]].to_numpy().tolist()
    [['buy', 3900, 'increase to target at rank 1; cash is short']]
    """
    held = check_holdings(holdings, market.index[market["price"] > 0])
    cash = _cash(capital, cash, float((held["shares"] * market["price"].reindex(held.index)).sum()))
    if not score.notna().any():
        raise ValueError(f"no stock has a score on {day:%Y-%m-%d}")
    score = check_scores(pd.concat({day: score}), f"scores of {day:%Y-%m-%d}").loc[day]
    if not score.index.isin(market.index).all():
        raise ValueError(f"market lacks {score.index[~score.index.isin(market.index)][0]}, which has a score")
    score = score.reindex(score.index.union(held.index))
    rank = pd.Series(ranks(score.to_numpy(dtype=float)), score.index)
    close = strategy.complete(_day(score, market, held, cash, fees, universe), score.index, day)
    chosen: Any = strategy.policy  # `complete` tells it its bounds
    policy: Policy = replace(chosen, capital=capital)
    target = pd.Series(policy.target(close), score.index)
    by_rank = target.iloc[rank.to_numpy().argsort(kind="stable")]
    shares, caps = _by_code(held["shares"]), _by_code(strategy.trade_participation * market["known_liquidity"])
    lines = make_lines(by_rank, _by_code(rank), shares, shares, caps, set(young).__contains__)
    if policy.in_shares:  # what is best left alone
        kept = set(target.index[target.to_numpy() == close.held])
        lines = [replace(line, shares=0.0) if line.code in kept else line for line in lines]
    quotes = LastClose(market, date, fees, impact)
    Planner(quotes, quotes.price, cash, capital).plan(lines)
    lines += _passed_over(rank, market, {line.code for line in lines}, lines)
    whole = ((_row(line, quotes.rows[line.code], score[line.code], day), line.code) for line in lines)
    rows = [part for row, code in whole for part in _split(row, quotes.rows[code])]
    table = pd.DataFrame(rows, columns=list(ORDER_COLUMNS)).assign(date=date, signal_date=day)
    order = table["side"].map(_SIDES.index).argsort(kind="stable")
    return table.iloc[order].reset_index(drop=True)


def days_held(bought: pd.Series, date: pd.Timestamp, calendar: pd.DatetimeIndex) -> pd.Series:
    """Trading days from the first buy to `date`, by code; inf where the day is not told.

    Raises: ValueError for what is no day, or one after `date`.
    """
    told = {c: pd.NaT if is_nothing(day) else read_day(f"holdings: bought of {c}", day) for c, day in bought.items()}
    first = pd.Series(told, dtype="datetime64[ns]")
    if (first > date).any():
        raise ValueError(
            f"holdings: {first.idxmax()} was bought on {first.max().date()}, after {date.date()}; correct it"
        )
    days = calendar[calendar < date].append(pd.DatetimeIndex([date]))
    count = len(days) - np.searchsorted(days, first.to_numpy(dtype="datetime64[ns]"), side="right")
    return pd.Series(np.where(first.isna(), np.inf, count), bought.index)


def _strategy_of(run: ScoredRun, changed: dict[str, Any]) -> PolicyStrategy:
    """Build the strategy of a run on its scores, with some options changed."""
    task = run.recorded_task
    options = (task.liquidity if task.strategy is None else task.strategy) | changed
    kind = CostAwareStrategy if task.strategy_class == "CostAwareStrategy" else LiquidityTopNStrategy
    return kind(signal=run.scores, **options)


def plan_orders(
    run: ScoredRun,
    holdings: pd.DataFrame,
    *,
    capital: float,
    cash: float | None = None,
    day: str | None = None,
    fresh: bool = False,
    commission: float | None = None,
    market_orders: bool = False,
    **changed: Any,
) -> pd.DataFrame:
    """Make the order list of a run; qlib must be initialised on the provider.

    Of the run's AShareExchange it takes `commission`, `min_cost`, `open_cost`, `close_cost`, `impact` (by the
    strategy's liquidity), `volatility_window`, `st` and `participation`: the smaller of the strategy's trade cap and
    the exchange's holds. Without one there is no impact.

    Args:
        run: scores and settings.
        holdings: as `read_holdings` gives them.
        capital: yuan to place.
        cash: see `make_orders`.
        day: of the signal; None: the last scored one.
        fresh: refuse scores and prices that are not of the last day of the data; else a warning tells of it.
        commission: of both sides, with the rule's other fees; None: the run's rates, or 0.0003.
        market_orders: split at the largest market order; else at the largest limit order (see `rules.largest_order`).
        changed: options of the strategy in place of the run's.

    Returns:
        As `make_orders`; with a column name behind code where the provider has qlib_ext/names.csv.

    Raises:
        ValueError, TypeError: as `make_orders`, for options that cannot be, and for old data (see `check_age`).

    >>> from qlib_ext.strategy import ScoredRun, read_holdings
    >>> index = pd.MultiIndex.from_product([panel.days[-3:], panel.stocks], names=["datetime", "instrument"])
    >>> run = ScoredRun("demo", pd.Series(range(36), index, dtype=float), task={}, qlib_init={})
    >>> orders = plan_orders(run, read_holdings(None), capital=1e6)
    >>> orders["side"].tolist(), bool(orders["yuan"].sum() <= 1e6)
    (['buy'], True)
    """
    task = run.recorded_task
    strategy = _strategy_of(run, changed)
    dealt = _exchange_of(task, commission)
    if task.exchange is not None:
        strategy.take_costs(dealt)
    signal_day, raw = run.score(day)
    date, _ = next_day(signal_day)
    seen = strategy.scores_at(signal_day, signal_day)
    score = raw if seen is None else seen["prepared"].dropna()
    if dealt.participation is not None:
        strategy.trade_participation = min(strategy.trade_participation, dealt.participation)
    holdings = read_holdings(holdings)
    wanted = score.index.union(holdings.index).astype(str)
    eve = run.scores.loc[:signal_day].index.get_level_values("datetime").unique()[-2:][0]
    both = wanted.union(run.scores.loc[[eve]].index.get_level_values("instrument").astype(str))
    for words in check_age(list(both), signal_day, date, asked=day is not None, fresh=fresh):
        logger.warning(words)
    fees = dealt.fees([date])
    market = read_market(
        list(wanted),
        signal_day,
        date,
        profile=strategy.liquidity,
        window=strategy.liquidity_window,
        volatility_window=dealt.volatility_window,
        st=dealt.spells,
        market_orders=market_orders,
    )
    table = make_orders(
        score,
        market,
        holdings,
        strategy=strategy,
        capital=capital,
        day=signal_day,
        date=date,
        fees=fees,
        impact=dealt.impact_rule(),
        cash=cash,
        young=_young(holdings, strategy.min_holding, date),
        universe=set(raw.dropna().index),
    )
    if names := own_names():
        table.insert(list(ORDER_COLUMNS).index("code") + 1, "name", table["code"].map(names))
    return table


# --- pieces


def _day(
    score: pd.Series,
    market: pd.DataFrame,
    held: pd.DataFrame,
    cash: float,
    fees: Fees,
    universe: Collection[str] | None,
) -> Day:
    """Gather what a policy may know at the close."""
    at = market.reindex(score.index)
    inside = score.notna() if universe is None else pd.Series(score.index.isin(universe), score.index)
    yuan = (held["shares"] * market["price"]).reindex(score.index).fillna(0.0).to_numpy(dtype=float)
    sigma = at.reindex(columns=["volatility"])["volatility"]
    buy, sell = fees.rates(0)
    return Day(
        score=score.to_numpy(dtype=float),
        held=yuan,
        liquidity=at["liquidity"].to_numpy(dtype=float),
        known_liquidity=at["known_liquidity"].to_numpy(dtype=float),
        volatility=np.asarray(sigma, dtype=float),
        value=cash + float(yuan.sum()),
        buy_rate=buy,
        sell_rate=sell,
        universe=(inside & ~at["suspended"].astype(bool)).to_numpy(),
    )


def _exchange_of(task: Task, commission: float | None) -> Options:
    """Options of a run's AShareExchange, by default none but the fees; a commission of the user's own goes first."""
    options: dict[str, Any] = {"participation": None, "impact": 0.0} if task.exchange is None else task.exchange
    dealt = Options(**{name: options[name] for name in options.keys() & Options.__dataclass_fields__.keys()})
    return dealt if commission is None else replace(dealt, commission=commission, open_cost=None, close_cost=None)


def _cash(capital: float, cash: float | None, value: float) -> float:
    """Yuan at hand; ValueError for sums that cannot be."""
    if not 0 < capital < math.inf:
        raise ValueError(f"capital is {capital!r}; it must be yuan above 0")
    if cash is not None:
        if not 0 <= cash < math.inf:
            raise ValueError(f"cash is {cash!r}; it must be yuan from 0 on")
        return cash
    if value > capital:
        raise ValueError(
            f"the holdings are worth {value:,.0f} yuan, more than the capital of {capital:,.0f}: say what cash there "
            "is (0 to sell down to the capital), or give a larger capital"
        )
    return capital - value


def _by_code(values: pd.Series) -> dict[str, float]:
    return {str(code): float(value) for code, value in values.items()}


def _young(holdings: pd.DataFrame, min_holding: int, date: pd.Timestamp) -> set[str]:
    """Codes that may not be sold yet."""
    if min_holding == 0 or not len(holdings):
        return set()
    if "bought" not in holdings:
        raise ValueError(
            f"the run holds a stock for at least {min_holding} days (min_holding): give the holdings a column bought, "
            "the day of the first buy (empty: long ago)"
        )
    held = days_held(holdings["bought"], date, calendar())
    return set(held.index[held < min_holding])


def _passed_over(rank: pd.Series, market: pd.DataFrame, there: set[str], lines: list[Line]) -> list[Line]:
    """Lines of the stocks that rank above the last target and got none, for want of liquidity."""
    worst = max((line.rank for line in lines if line.target > 0), default=0.0)
    unknown = ~(market["liquidity"].reindex(rank.index) > 0)
    codes = [code for code in rank.index[(rank < worst) & unknown] if code not in there]
    return [Line(str(code), float(rank[code]), 0.0, 0.0, 0.0, math.nan, reason="unknown_liquidity") for code in codes]


def _row(line: Line, at: Mapping[str, Any], score: float, day: pd.Timestamp) -> dict[str, Any]:
    """Put a line of the plan into a row of the table."""
    price = float(at["price"])
    shares = round(abs(line.ordered) / line.price) if line.ordered else 0
    yuan = shares * price if shares else 0.0
    return {
        "code": line.code,
        "side": _SIDES[2] if not shares else _SIDES[line.ordered > 0],
        "shares": shares,
        "price": price,
        "yuan": round(yuan, 2),
        "target_yuan": round(line.target, 2),
        "held_shares": int(line.amount),
        "cap_yuan": round(line.cap, 2),
        "cap_used": yuan / line.cap if line.cap > 0 else math.nan,
        "limit_up": at["limit_up"] if at["limit_up"] < math.inf else math.nan,
        "limit_down": at["limit_down"] if at["limit_up"] < math.inf else math.nan,
        "rank": line.rank,
        "score": score,
        "reason": _reason(line, at, day),
    }


def _split(row: dict[str, Any], at: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split an order above the exchange's largest one into rows of their own; a last one is no less than the least."""
    shares, largest, least, step = row["shares"], at.get("largest", math.inf), at["least"], at["step"]
    if not shares > largest:
        return [row]
    parts = [int(largest)] * int(shares // largest)
    if rest := shares - sum(parts):
        moved = max(math.ceil((least - rest) / step) * int(step), 0)
        parts = [*parts[:-1], parts[-1] - moved, rest + moved]
    told = f"; part {{}} of {len(parts)}: one order is at most {largest:,.0f} shares"
    return [
        row
        | {"shares": part, "yuan": round(part * row["price"], 2), "cap_used": row["cap_used"] * part / shares}
        | {"reason": row["reason"] + told.format(n)}
        for n, part in enumerate(parts, start=1)
    ]


def _reason(line: Line, at: Mapping[str, Any], day: pd.Timestamp) -> str:
    """Say in words why the stock is traded, and why not more."""
    return "; ".join(filter(None, (_motive(line, at, day), _kept(line, at, day))))


def _motive(line: Line, at: Mapping[str, Any], day: pd.Timestamp) -> str:
    if line.target == 0.0:
        if math.isnan(line.rank):
            return f"leave: no score on {day:%Y-%m-%d}"
        if not at["liquidity"] > 0:
            return f"{'leave' if line.amount else 'passed over'} at rank {line.rank:.0f}: no liquidity known that day"
        return f"leave: fell to rank {line.rank:.0f}"
    if line.shares == 0.0:
        return f"hold at rank {line.rank:.0f}"
    if line.amount == 0:
        return f"enter at rank {line.rank:.0f}"
    if line.target < line.amount * at["price"]:
        return f"reduce to target at rank {line.rank:.0f}"
    return f"increase to target at rank {line.rank:.0f}"


def _kept(line: Line, at: Mapping[str, Any], day: pd.Timestamp) -> str:
    """Say what kept the order from the target, "" where nothing did."""
    texts = {
        "": "" if line.ordered or line.shares == 0.0 else "nothing to do: the difference is below a lot",
        "blocked_buy": f"not traded: suspended on {day:%Y-%m-%d}",
        "blocked_sell": f"not traded: suspended on {day:%Y-%m-%d}",
        "unknown_liquidity": "not traded: liquidity never known" if line.target or line.amount else "",
        "unknown_volatility": "not traded: volatility, which the impact goes by, not known yet",
        "below_lot": f"not traded: below the smallest order ({at['least']:.0f} shares)",
        "trade_cap": "capped by participation, the rest on later days",
        "cash_clipped": "cash is short" if line.ordered else "not traded: cash is short",
        "capital_clipped": "holdings leave no more room in the capital",
        "held_back": "not sold: bought less than min_holding days ago",
    }
    return texts[line.reason]
