"""The strategy: placed yuan of `fill_top_n` become orders over days, under a position cap and a trade cap."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.backtest.decision import TradeDecisionWO
from qlib.backtest.signal import ModelSignal, SignalWCache
from qlib.contrib.strategy.signal_strategy import BaseSignalStrategy
from qlib.log import get_module_logger

from qlib_ext import rules
from qlib_ext.cross_section import ranks
from qlib_ext.exchange import AShareExchange
from qlib_ext.options import SHARE, argument_names, check_number, is_number, is_whole, refuse_unknown, tell
from qlib_ext.panel import check_scores
from qlib_ext.portfolio import fill_top_n
from qlib_ext.provider import calendar, last_known, load_liquidity
from qlib_ext.rules import is_index
from qlib_ext.strategy.book import Book
from qlib_ext.strategy.planner import TARGET_COLUMNS, Planner, make_lines, summary, table
from qlib_ext.strategy.quotes import Market, Span

logger = get_module_logger("qlib_ext.strategy")
NO_CAP = 1e9  # of liquidity
_SIGNAL = "LiquidityTopNStrategy: signal"
DAY, SECOND = pd.Timedelta(days=1), pd.Timedelta(seconds=1)

Buffer = float | tuple[int, int]
Vector = npt.NDArray[np.float64]


class LiquidityTopNStrategy(BaseSignalStrategy):
    """Hold what `fill_top_n` places at the close of the signal day d; trade towards it at the next step.

    What a day's trade cap leaves is carried on to the next days while the stock stays selected; a holding that is not
    selected, or has left the scores, is sold down under the same cap (of its last known liquidity). A day without a
    signal, or with no score in it, changes nothing. Buys are sized by what the exchange will charge, and the holdings
    never come to more than `capital` by a buy. Within a day of several steps (nested executors) the steps share the
    day's cap, trade on the signal of the day before, and nothing bought that day is sold (T+1, on any exchange); a step
    of several days trades one day's cap.

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

    >>> index = pd.MultiIndex.from_product([panel.days, panel.stocks], names=["datetime", "instrument"])
    >>> strategy = LiquidityTopNStrategy(signal=pd.Series(range(len(index)), index), participation=0.05, top_n=2)
    >>> strategy.target_yuan(pd.Series([3.0, 2.0, 1.0]), liquidity=pd.Series([20e6] * 3), capital=1.5e6).tolist()
    [750000.0, 750000.0, 0.0]
    """

    def __init__(
        self,
        *,
        signal: Any,
        capital: float | None = None,
        participation: float = 0.05,
        trade_participation: float | None = 0.05,
        top_n: int | None = None,
        rank_buffer: float | Sequence[int] = 1.0,
        min_holding: int = 0,
        liquidity: str = "auto",
        liquidity_window: int = 20,
        liquidity_frame: pd.DataFrame | None = None,
        trade_exchange: Any = None,
        level_infra: Any = None,
        common_infra: Any = None,
        **unknown: Any,
    ) -> None:
        """Set the caps; both are multiples of daily liquidity in yuan.

        Args:
            signal: what qlib takes as a signal (`<PRED>` in YAML), see `panel.check_scores`; scores of indices are left
                out.
            capital: yuan to place; None means the account's value at the close before.
            participation: position cap.
            trade_participation: cap on one day's buy or sell of a stock; None: no cap.
            top_n: as in `fill_top_n`.
            rank_buffer: k >= 1: the rank of a held stock is divided by k before filling (a tie goes to it); or
                [n1, n2]: a stock enters at rank n1 or better and stays while its rank is n2 or better. Those that stay
                are filled first, by rank, then those that enter; with `top_n` they count among the n. 1: no buffer.
            min_holding: trading days from a position's first buy before which nothing of it is sold; what was held
                before the backtest counts as old enough.
            liquidity: unit profile of the data, as in `load_liquidity`.
            liquidity_window: days of the mean behind liquidity.
            liquidity_frame: yuan, day x instrument, known at the close of the day; given, nothing is loaded.
            trade_exchange: qlib's; so are `level_infra` and `common_infra`.
            level_infra: qlib's.
            common_infra: qlib's.
            unknown: nothing is allowed here.

        Raises:
            TypeError: an unknown option.
            ValueError: an option out of range, or scores that are not surely understood.
        """
        refuse_unknown("LiquidityTopNStrategy", unknown, argument_names(LiquidityTopNStrategy))
        for name, value, within, whole in (
            ("capital", capital, "(0, inf)", False),
            ("participation", participation, "(0, 1]", False),
            ("trade_participation", trade_participation, "(0, 1]", False),
            ("top_n", top_n, "[1, inf)", True),
            ("min_holding", min_holding, "[0, inf)", True),
            ("liquidity_window", liquidity_window, "[1, inf)", True),
        ):
            if value is not None or name not in ("capital", "top_n", "trade_participation"):
                hint = SHARE if "participation" in name else ""
                check_number(f"LiquidityTopNStrategy: {name}", value, within, whole=whole, hint=hint)
        rules.fields_of(liquidity, owner="LiquidityTopNStrategy")
        if isinstance(signal, pd.Series | pd.DataFrame):
            signal = check_scores(signal, _SIGNAL)
        super().__init__(
            signal=signal, trade_exchange=trade_exchange, level_infra=level_infra, common_infra=common_infra
        )
        if isinstance(self.signal, ModelSignal):
            self.signal.signal_cache = check_scores(self.signal.signal_cache, _SIGNAL)
        self.capital, self.participation, self.top_n = capital, participation, top_n
        self.trade_participation = NO_CAP if trade_participation is None else trade_participation
        self.rank_buffer = read_buffer(rank_buffer)
        self.min_holding = min_holding
        self.liquidity, self.liquidity_window = liquidity, liquidity_window
        if liquidity_frame is not None and (liquidity, liquidity_window) != ("auto", 20):
            tell("LiquidityTopNStrategy: liquidity and liquidity_window have no effect beside liquidity_frame")
        self.daily_log: list[dict[str, Any]] = []
        self._tables: list[pd.DataFrame] = []
        self._book, self._told = Book(), False
        self._frame: pd.DataFrame | None = None if liquidity_frame is None else liquidity_frame.sort_index()
        self._carried: pd.DataFrame | None = None  # the frame, each stock's last known value carried on

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

    def target_yuan(
        self, score: pd.Series, liquidity: pd.Series, capital: float, held: Collection[str] = ()
    ) -> pd.Series:
        """Yuan to hold of each stock of `score` (N,), in its order (pure).

        With `rank_buffer` 1 this is `fill_top_n(score, liquidity)` to the yuan. A stock that is not in
        `liquidity` (N', yuan), or NaN there, gets nothing.
        """
        values = score.to_numpy(dtype=float)
        yuan = np.nan_to_num(liquidity.reindex(score.index).to_numpy(dtype=float))
        values = buffered(values, score.index.isin(list(held)), self.rank_buffer)
        placed = fill_top_n(values, yuan, capital=capital, participation=self.participation, top_n=self.top_n)
        return pd.Series(np.asarray(placed, dtype=float), index=score.index, name="target")

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
        score = self._score(*seen)
        if score is None or not score.notna().any():
            return TradeDecisionWO([], self)
        day, liquidity, carried = self._liquidity_at(*seen)
        capital = float(self._book.value if self.capital is None else self.capital)
        target = self.target_yuan(score, liquidity, capital, list(held))
        placed = float(target.sum())
        entry |= {"signal_date": day, "capital": capital, "target": placed, "cash_target": capital - placed}
        entry["names"] = int((target > 0).sum())
        return TradeDecisionWO(self._orders(span, held, score, target, carried, entry), self)

    def _score(self, start: pd.Timestamp, end: pd.Timestamp) -> pd.Series | None:
        """Scores (N,) of the signal's days, without indices; None where there are none."""
        score = self.signal.get_signal(start_time=start, end_time=end)
        if score is None:
            return None
        if isinstance(score, pd.DataFrame):
            score = score.iloc[:, 0]
        indices = [is_index(str(code)) for code in score.index]
        if not any(indices):
            return score
        if not self._told:
            logger.warning(f"indices among the scores are left out: {', '.join(map(str, score.index[indices][:5]))}")
            self._told = True
        return score[~np.array(indices)]

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
        self, span: Span, held: dict[str, float], score: pd.Series, target: pd.Series, carried: pd.Series,
        entry: dict[str, Any],
    ) -> list[Any]:  # fmt: skip
        """Orders of the step, written into its log; `carried` (N',): last known liquidity, yuan."""
        book, values = self._book, score.to_numpy(dtype=float)
        rank = ranks(values)
        chosen = target.iloc[rank.argsort(kind="stable")][lambda yuan: yuan > 0]
        codes = pd.Index(held).union(chosen.index)
        traded = dict(zip(codes, carried.reindex(codes).to_numpy(dtype=float).tolist(), strict=True))
        lines = make_lines(
            chosen,
            dict(zip(score.index, rank.tolist(), strict=True)),
            held,
            {code: book.sellable(code, amount) for code, amount in held.items()},
            {code: book.left(code, self.trade_participation * yuan) for code, yuan in traded.items()},
            self._is_young,
        )
        bound, position = math.inf if self.capital is None else float(self.capital), self.trade_position
        market = Market(self.trade_exchange, span, traded)
        planner = Planner(market, position.get_stock_price, position.get_cash(), bound)
        orders = planner.plan(lines)
        entry |= summary(lines)
        book.prices = {line.code: line.price for line in lines}
        book.target = {line.code: line.target for line in lines if line.target > 0}
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

    def _load(self) -> pd.DataFrame:
        """Load liquidity of every stock of the signal (of the exchange, if the signal has no list)."""
        if isinstance(self.signal, SignalWCache):
            codes = set(self.signal.signal_cache.index.get_level_values("instrument"))
        else:
            codes = set(self.trade_exchange.quote.get_all_stock())
        codes = {code for code in codes if not is_index(str(code))} | set(self.trade_position.get_stock_list())
        first = self.trade_calendar.get_step_time(0, shift=1)[0]
        last = self.trade_calendar.get_all_time()[1]  # within a nested executor only the end of the outer step
        if self.trade_exchange.end_time is not None:
            last = max(last, pd.Timestamp(self.trade_exchange.end_time))
        exchange, profile = self.trade_exchange, self.liquidity
        if profile == "auto" and isinstance(exchange, AShareExchange) and exchange.options.liquidity == "auto":
            profile = exchange.turnover_profile  # decided once a run
        return load_liquidity(sorted(codes), first, last, profile=profile, window=self.liquidity_window, past=True)


# --- the rank buffer: held stocks give way later than new ones enter


def read_buffer(option: float | Sequence[int]) -> Buffer:
    """Check the option `rank_buffer`: a factor of at least 1, or [n1, n2] with 1 <= n1 <= n2.

    Raises: ValueError for anything else.
    """
    allowed = "a factor of 1 or more, or a pair [n1, n2] of whole numbers with 1 <= n1 <= n2"
    wrong = ValueError(f"LiquidityTopNStrategy: rank_buffer is {option!r}; allowed: {allowed}")
    if isinstance(option, Sequence) and not isinstance(option, str):
        if len(option) != 2 or not all(map(is_whole, option)) or not 1 <= option[0] <= option[1]:
            raise wrong
        return int(option[0]), int(option[1])
    if not is_number(option) or not 1 <= option < math.inf:
        raise wrong
    return float(option)


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
        taken = rank <= np.where(held, leave, enter)
        order = np.lexsort((rank, ~held))
    else:
        taken = ~np.isnan(score)
        order = np.lexsort((~held, np.where(held, rank / buffer, rank)))
    out = np.empty(len(score))
    out[order] = -np.arange(len(score), dtype=float)
    return np.where(taken, out, np.nan)
