"""A strategy that follows a policy: its targets become orders over days, under a trade cap."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qlib.backtest.decision import TradeDecisionWO
from qlib.backtest.signal import SignalWCache
from qlib.contrib.strategy.signal_strategy import BaseSignalStrategy
from qlib.log import get_module_logger

from qlib_ext import rules
from qlib_ext.cross_section import ranks
from qlib_ext.exchange import AShareExchange, Options
from qlib_ext.options import SHARE, check_number, day_span, named_options, tell
from qlib_ext.panel import check_scores
from qlib_ext.portfolio import Day, Policy
from qlib_ext.provider import calendar, last_known, load_liquidity
from qlib_ext.rules import is_index
from qlib_ext.strategy.book import Book
from qlib_ext.strategy.planner import TARGET_COLUMNS, Planner, make_lines, summary, table
from qlib_ext.strategy.quotes import Market, Span

logger = get_module_logger("qlib_ext.strategy")
NO_CAP = 1e9  # of liquidity
NAMES = ["datetime", "instrument"]
DAY, SECOND = pd.Timedelta(days=1), pd.Timedelta(seconds=1)


class PolicyStrategy(BaseSignalStrategy):
    """Trade at the next step towards what a policy wants to hold at the close of the signal day d.

    What a day's trade cap leaves is carried on to the next days while the policy wants it; a holding that it does not
    want, or that has left the scores, is sold down under the same cap (of its last known liquidity). A day without a
    signal, or with no score in it, changes nothing. Buys are sized by what the exchange will charge, and the holdings
    never come to more than the policy's capital by a buy. Within a day of several steps (nested executors) the steps
    share the day's cap, trade on the signal of the day before, and nothing bought that day is sold (T+1, on any
    exchange); a step of several days trades one day's cap.

    `daily_log` has one dict a step: date (of the step), signal_date; before the orders and at the last prices: cash,
    value (of the account), held (yuan in stocks), share_reached (of the last target, what is held now at that step's
    prices); capital, target (placed yuan), cash_target (capital - target), names (stocks with a target), buy and sell
    (ordered yuan), unreached (target minus holding at the deal price, where positive, if all orders fill),
    unreached_names (short by more than their smallest order), and the number of stocks whose order was kept from the
    target, each with one reason: blocked_buy, blocked_sell (suspended, or at the price limit of that direction),
    unknown_liquidity (never known), unknown_volatility (not yet known, on an AShareExchange with impact), below_lot
    (the order rounds to nothing), cash_clipped, capital_clipped (bought less for want of cash, or because unsold
    holdings take up the capital), trade_cap (the rest is carried on), held_back (not sold before `min_holding`),
    t_plus_1 (bought today).

    Args:
        policy: says what to hold; sees all days of scores or a model's predictions, of any other signal one at a time.
        signal: what qlib takes as a signal (`<PRED>` in YAML), see `panel.check_scores`; scores of indices are left
            out.
        trade_participation: cap on one day's buy or sell of a stock, a share of its liquidity; None: no cap.
        min_holding: trading days from a position's first buy before which nothing of it is sold; what was held before
            the backtest counts as old enough.
        liquidity: unit profile of the data, as in `load_liquidity`.
        liquidity_window: days of the mean behind liquidity.
        liquidity_frame: yuan, day x instrument, known at the close of the day; given, nothing is loaded.
        infra: qlib's trade_exchange, level_infra, common_infra.

    Raises: ValueError for an option out of range, or scores that are not surely understood.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        signal: Any,
        trade_participation: float | None = 0.05,
        min_holding: int = 0,
        liquidity: str = "auto",
        liquidity_window: int = 20,
        liquidity_frame: pd.DataFrame | None = None,
        **infra: Any,
    ) -> None:
        self.owner = type(self).__name__
        if trade_participation is not None:
            check_number(f"{self.owner}: trade_participation", trade_participation, "(0, 1]", hint=SHARE)
        check_number(f"{self.owner}: min_holding", min_holding, "[0, inf)", whole=True)
        check_number(f"{self.owner}: liquidity_window", liquidity_window, "[1, inf)", whole=True)
        rules.fields_of(liquidity, owner=self.owner)
        if isinstance(signal, pd.Series | pd.DataFrame):
            signal = check_scores(signal, f"{self.owner}: signal")
        super().__init__(signal=signal, **infra)
        if isinstance(self.signal, SignalWCache):
            self.signal.signal_cache = check_scores(self.signal.signal_cache, f"{self.owner}: signal")
        self.policy, self.min_holding = policy, min_holding
        self.trade_participation = NO_CAP if trade_participation is None else trade_participation
        self.liquidity, self.liquidity_window = liquidity, liquidity_window
        if liquidity_frame is not None and (liquidity, liquidity_window) != ("auto", 20):
            tell(f"{self.owner}: liquidity and liquidity_window have no effect beside liquidity_frame")
        self.daily_log: list[dict[str, Any]] = []
        self._tables: list[pd.DataFrame] = []
        self._book, self._told = Book(), False
        self._scores: tuple[pd.DataFrame, pd.DataFrame] | None = None  # of all days, raw and prepared
        self._frame: pd.DataFrame | None = None if liquidity_frame is None else liquidity_frame.sort_index()
        self._carried: pd.DataFrame | None = None  # the frame, each stock's last known value carried on

    def __repr__(self) -> str:
        """Days of the signal, limits, and what it trades by."""
        signal = getattr(self.signal, "signal_cache", None)
        days = "a signal a day" if signal is None else day_span(signal.index.unique("datetime"))
        limits = {name: value for name, value in vars(self.policy).items() if isinstance(value, str | int | float)}
        return f"{type(self).__name__}({days}, {named_options(limits)}{self._told_by()})"

    def _told_by(self) -> str:
        """Tell the cap of a day's trade, in a repr."""
        return f", trade_participation={self.trade_participation:g}"

    @property
    def daily_targets(self) -> pd.DataFrame:
        """A row for each step and stock with a target or a holding.

        Columns: date, code, rank (by score, 1 the highest, NaN without one), target yuan, held yuan before the orders
        at the deal price, ordered yuan (sells negative), cap (yuan that the stock could still trade that day), and the
        reason that kept the order from the target: a count of `daily_log`, or "" where only rounding to lots did.
        """
        kept = [frame for frame in self._tables if len(frame)]
        return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(TARGET_COLUMNS))

    @property
    def liquidity_frame(self) -> pd.DataFrame | None:
        """Liquidity by which the orders were made: yuan, day x instrument; None before a first one was needed."""
        return self._frame

    def artifacts(self) -> dict[str, pd.DataFrame]:
        """Give what a run should keep, by file name: `daily_log` as a frame, and `daily_targets`."""
        return {"daily_log.pkl": pd.DataFrame(self.daily_log), "daily_targets.pkl": self.daily_targets}

    def generate_trade_decision(self, execute_result: list | None = None) -> TradeDecisionWO:
        """Orders of this step: sells, then buys by rank."""
        span, seen = self._times()
        position = self.trade_position
        if isinstance(self.trade_exchange, AShareExchange):
            self.trade_exchange.begin_step(self.common_infra.get("trade_account"), span[0])
        if not self._book.is_of(position, span[0]):
            self._book, self.daily_log, self._tables, self._told = Book(position), [], [], False
        held = {code: float(position.get_stock_amount(code)) for code in sorted(position.get_stock_list())}
        if self._book.begin_step(span, held, execute_result or ()):
            self._book.value = float(position.calculate_value())
        entry = self._entry(span[0], held)
        self.daily_log.append(entry)
        score = self.scores_at(*seen)
        if score is None:
            return TradeDecisionWO([], self)
        day, *known = self._liquidity_at(*seen)
        score = score.reindex(score.index.union(list(held)))
        close = self._day(day, score, held, known, span[0])
        target = pd.Series(self._target(close, entry), score.index)
        placed, capital = float(target.sum()), self.policy.capital
        capital = self._book.value if capital is None else float(capital)
        entry |= {"signal_date": day, "capital": capital, "target": placed, "cash_target": capital - placed}
        entry["names"] = int((target > 0).sum())
        return TradeDecisionWO(self._orders(span, held, score["prepared"], target, close, entry), self)

    def _target(self, close: Day, entry: dict[str, Any]) -> NDArray[np.float64]:
        """Yuan (N,) to hold; a strategy may write into the log of the step."""
        return self.policy.target(close)

    def scores_at(self, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame | None:
        """Scores of the signal's days by code: columns raw and prepared; None where no stock has one."""
        if isinstance(self.signal, SignalWCache):
            if self._scores is None:
                self._scores = self._prepared(self.signal.signal_cache)
            raw, prepared = (grid.loc[start:end] for grid in self._scores)
        else:
            score = self.signal.get_signal(start_time=start, end_time=end)
            score = score.iloc[:, 0] if isinstance(score, pd.DataFrame) else score
            if score is None or not len(score):
                return None
            raw, prepared = self._prepared(pd.concat({start.normalize(): score}, names=NAMES))
        if not len(raw):
            return None
        return pd.DataFrame({"raw": raw.ffill().iloc[-1], "prepared": prepared.ffill().iloc[-1]})

    def _prepared(self, scores: pd.Series | pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Scores by (datetime, instrument) as grids, day x code without indices: as they are, and as prepared.

        All at once, so that a policy knows the days before; days without a score are left out.
        """
        raw = check_scores(scores, self.owner + ": signal").unstack("instrument").dropna(how="all")
        indices = [code for code in raw.columns if is_index(str(code))]
        if indices and not self._told:
            logger.warning(f"indices among the scores are left out: {', '.join(map(str, indices[:5]))}")
            self._told = True
        raw = raw.drop(columns=indices).dropna(how="all")
        return raw, pd.DataFrame(self.prepare(raw), raw.index, raw.columns)

    def prepare(self, raw: pd.DataFrame) -> NDArray[np.float64]:
        """Scores (D, N), day x code, as the policy wants them."""
        return self.policy.prepare(raw.to_numpy(dtype=float))

    def _day(
        self, day: pd.Timestamp, score: pd.DataFrame, held: dict[str, float], known: list[pd.Series],
        start: pd.Timestamp,
    ) -> Day:  # fmt: skip
        """Gather what the policy may know at the close of `day`.

        `held`: adjusted shares, `known`: liquidity of the day, and last known; `start`: of the step.
        """
        codes, price = score.index, self.trade_position.get_stock_price
        worth = np.zeros(len(codes))
        worth[codes.get_indexer(pd.Index(list(held)))] = [amount * price(code) for code, amount in held.items()]
        if isinstance(self.trade_exchange, AShareExchange):
            self.take_costs(self.trade_exchange.options)
        liquidity, carried = (series.reindex(codes).to_numpy(dtype=float) for series in known)
        buy, sell = self._rates(start)
        close = Day(
            score=score["prepared"].to_numpy(dtype=float),
            held=worth,
            liquidity=liquidity,
            known_liquidity=carried,
            volatility=np.full(len(codes), np.nan),
            value=self._book.value,
            buy_rate=buy,
            sell_rate=sell,
            universe=score["raw"].notna().to_numpy(),
        )
        return self.complete(close, codes, day)

    def complete(self, close: Day, codes: pd.Index, day: pd.Timestamp) -> Day:
        """Add to what is known of stocks at the close of a day what else the policy asks for."""
        return close

    def take_costs(self, options: Options) -> None:
        """Expect what an exchange with these options charges."""

    def _rates(self, start: pd.Timestamp) -> tuple[float, float]:
        """Fees of a day as shares of what is bought and sold."""
        exchange = self.trade_exchange
        if isinstance(exchange, AShareExchange):
            return exchange.fee_rates(start)
        return float(exchange.open_cost), float(exchange.close_cost)

    def _times(self) -> tuple[Span, Span]:
        """First and last moment of this step, and of the signal that it follows: the step, or day, before.

        qlib ends a day's last bar where the next day's first one begins: a step within a day ends with its day here.
        """
        step = self.trade_calendar.get_trade_step()
        start, end = self.trade_calendar.get_step_time(step)
        seen, shift = self.trade_calendar.get_step_time(step, shift=1), 1
        while seen[0] < start and seen[0] >= start.normalize():
            shift += 1
            seen = self.trade_calendar.get_step_time(step, shift=shift)
        if start == start.normalize():
            return (start, end), seen
        before = seen[0].normalize()
        return (start, min(end, start.normalize() + DAY - SECOND)), (before, before + DAY - SECOND)

    def _entry(self, start: pd.Timestamp, held: dict[str, float]) -> dict[str, Any]:
        """Log of a step before its orders."""
        position, nothing = self.trade_position, math.nan
        stocks = float(position.calculate_stock_value())
        entry: dict[str, Any] = {"date": start, "signal_date": None, "cash": float(position.get_cash())}
        entry |= {"value": float(position.calculate_value()), "held": stocks}
        entry |= {"capital": nothing, "target": nothing, "cash_target": nothing, "names": 0}
        return entry | {"share_reached": self._book.share_reached(held)} | summary([])

    def _orders(
        self, span: Span, held: dict[str, float], score: pd.Series, target: pd.Series, close: Day,
        entry: dict[str, Any],
    ) -> list[Any]:  # fmt: skip
        """Orders of the step, written into its log; what a policy that thinks in shares leaves alone costs no time."""
        book, rank = self._book, ranks(score.to_numpy())
        trade = target.to_numpy() - close.held
        moves = (trade != 0) if self.policy.in_shares else np.ones(len(trade), dtype=bool)
        resting = float(close.held[~moves].sum())
        order = rank.argsort(kind="stable")
        chosen = target.iloc[order[(target.to_numpy() > 0)[order] & moves[order]]]
        held = {code: held[code] for code in target.index[moves] if code in held}
        codes = pd.Index(held).union(chosen.index)
        at = target.index.get_indexer(codes)
        traded = dict(zip(codes, close.known_liquidity[at].tolist(), strict=True))
        lines = make_lines(
            chosen,
            dict(zip(codes, rank[at].tolist(), strict=True)),
            held,
            {code: book.sellable(code, amount) for code, amount in held.items()},
            {code: book.left(code, self.trade_participation * yuan) for code, yuan in traded.items()},
            self._is_young,
        )
        if self.policy.in_shares:
            told = dict(zip(codes, zip(trade[at], close.held[at], target.to_numpy()[at], strict=True), strict=True))
            for line in lines:
                line.shares = in_shares(line.amount, *told[line.code])
        capital, position = self.policy.capital, self.trade_position
        market = Market(self.trade_exchange, span, traded)
        bound = math.inf if capital is None else float(capital) - resting
        planner = Planner(market, position.get_stock_price, position.get_cash(), bound)
        orders = planner.plan(lines)
        entry |= summary(lines)
        book.prices = {line.code: line.price for line in lines}
        book.target = {line.code: line.target for line in lines}
        self._tables.append(table(span[0], lines))
        return orders

    def _is_young(self, code: str) -> bool:
        """Whether a holding is kept by `min_holding`."""
        if self.min_holding == 0:
            return False
        return self._book.days_held(code, calendar()) < self.min_holding

    def _liquidity_at(self, start: pd.Timestamp, end: pd.Timestamp) -> tuple[pd.Timestamp, pd.Series, pd.Series]:
        """Return the last day of [start, end], its liquidity, and the last known one of every stock (yuan)."""
        if self._frame is None:
            self._frame = self._load().sort_index()
        if self._carried is None:
            self._carried = last_known(self._frame)
        row = int(self._frame.index.searchsorted(end, side="right")) - 1
        if row < 0 or self._frame.index[row] < start:
            days = self._frame.index
            span = f", {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}" if len(days) else ""
            raise ValueError(
                f"no liquidity for {start:%Y-%m-%d}, a signal day; the frame has {len(days)} days{span}."
                " Give a liquidity_frame over the whole backtest and the day before it."
            )
        return self._frame.index[row], self._frame.iloc[row], self._carried.iloc[row]

    def _stocks(self, held: Iterable[str]) -> list[str]:
        """Every stock of the signal (of the exchange, if the signal has no list), and those that are held."""
        if isinstance(self.signal, SignalWCache):
            codes = set(self.signal.signal_cache.index.get_level_values("instrument").unique())
        else:
            codes = set(self.trade_exchange.quote.get_all_stock())
        codes = {code for code in codes if not is_index(str(code))} | set(held)
        return sorted(codes)

    def _reach(self) -> Span:
        """First signal day of the backtest, and its last day."""
        first = self.trade_calendar.get_step_time(0, shift=1)[0]
        last = self.trade_calendar.get_all_time()[1]  # within a nested executor only the end of the outer step
        if self.trade_exchange.end_time is not None:
            last = max(last, pd.Timestamp(self.trade_exchange.end_time))
        return first, last

    def _load(self) -> pd.DataFrame:
        """Load the liquidity."""
        exchange, profile = self.trade_exchange, self.liquidity
        if profile == "auto" and isinstance(exchange, AShareExchange) and exchange.options.liquidity == "auto":
            profile = exchange.turnover_profile  # decided once a run
        return load_liquidity(
            self._stocks(self.trade_position.get_stock_list()),
            *self._reach(),
            profile=profile,
            window=self.liquidity_window,
            past=True,
        )


def in_shares(amount: float, trade: float, held: float, target: float) -> float:
    """Tell a trade of yuan in shares, of which `amount` are `held` yuan; NaN where nothing is held."""
    if target == 0.0:
        return -amount
    return trade * amount / held if held > 0 else math.nan
