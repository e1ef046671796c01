"""The strategy: placed yuan of `fill_top_n` become orders over days, under a position cap and a trade cap."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from qlib.backtest.decision import Order, OrderDir, TradeDecisionWO
from qlib.backtest.signal import SignalWCache
from qlib.contrib.strategy.signal_strategy import BaseSignalStrategy

from qlib_ext.data import load_liquidity
from qlib_ext.portfolio import fill_top_n

OPTIONS = (
    "signal", "capital", "participation", "trade_participation", "top_n", "rank_buffer", "liquidity",
    "liquidity_window", "liquidity_frame", "trade_exchange", "level_infra", "common_infra",
)  # fmt: skip
_KINDS = ("blocked_buy", "blocked_sell", "unknown_liquidity", "below_lot", "cash_clipped")


class LiquidityTopNStrategy(BaseSignalStrategy):
    """Hold what `fill_top_n` places at the close of the signal day d; trade towards it at the next step.

    `daily_log` has one dict a step: date (of the step), signal_date, capital, target (placed yuan), cash_target
    (capital - target), names (stocks with a target), buy and sell (ordered yuan) and the number of stocks
    that were blocked_buy, blocked_sell (suspended, or at the price limit of that direction),
    unknown_liquidity (held, liquidity never known, so not sold), below_lot (the order rounds to nothing)
    and cash_clipped (bought less for want of cash).
    """

    def __init__(
        self,
        *,
        signal: Any,
        capital: float | None = None,
        participation: float = 0.05,
        trade_participation: float = 0.05,
        top_n: int | None = None,
        rank_buffer: float = 1.0,
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
            signal: what qlib takes as a signal (`<PRED>` in YAML).
            capital: yuan to place; None means the account's value at the step.
            participation: position cap.
            trade_participation: cap on one day's buy or sell of a stock.
            top_n: as in `fill_top_n`.
            rank_buffer: k >= 1; the rank of a held stock is divided by k before filling (a tie goes to it).
            liquidity: unit profile of the data, as in `load_liquidity`.
            liquidity_window: days of the mean behind liquidity.
            liquidity_frame: yuan, day x instrument, known at the close of the day; given, nothing is loaded.
            trade_exchange: qlib's; so are `level_infra` and `common_infra`.
            level_infra: qlib's.
            common_infra: qlib's.
            unknown: nothing is allowed here.

        Raises:
            TypeError: an unknown option.
            ValueError: an option out of range.
        """
        for name in unknown:
            close = difflib.get_close_matches(name, OPTIONS) or OPTIONS
            raise TypeError(f"LiquidityTopNStrategy has no option {name!r}; did you mean {', '.join(close)}?")
        _check("capital", capital, capital is None or 0 < capital < math.inf, "above 0, or null")
        _check("participation", participation, 0 < participation < math.inf, "above 0")
        _check("trade_participation", trade_participation, 0 < trade_participation < math.inf, "above 0")
        _check("top_n", top_n, top_n is None or (top_n >= 1 and top_n == int(top_n)), "1 or more, or null")
        _check("rank_buffer", rank_buffer, 1 <= rank_buffer < math.inf, "1 or more")
        _check("liquidity_window", liquidity_window, liquidity_window >= 1, "1 or more")
        super().__init__(
            signal=signal, trade_exchange=trade_exchange, level_infra=level_infra, common_infra=common_infra
        )
        self.capital, self.participation, self.top_n = capital, participation, top_n
        self.trade_participation, self.rank_buffer = trade_participation, rank_buffer
        self.liquidity, self.liquidity_window = liquidity, liquidity_window
        self.daily_log: list[dict[str, Any]] = []
        self._frame: pd.DataFrame | None = None if liquidity_frame is None else liquidity_frame.sort_index()
        self._known: pd.DataFrame | None = None  # the frame, each stock's last known value carried on

    def target_yuan(
        self, score: pd.Series, liquidity: pd.Series, capital: float, held: Collection[str] = ()
    ) -> pd.Series:
        """Yuan to hold of each stock of `score` (N,), in its order (pure).

        With `rank_buffer` 1 this is `fill_top_n(score, liquidity)` to the yuan. A stock that is not in
        `liquidity` (N', yuan), or NaN there, gets nothing.
        """
        values = score.to_numpy(dtype=float)
        yuan = np.nan_to_num(liquidity.reindex(score.index).to_numpy(dtype=float))
        if self.rank_buffer > 1.0:
            values = _buffered(values, score.index.isin(list(held)), self.rank_buffer)
        placed = fill_top_n(values, yuan, capital=capital, participation=self.participation, top_n=self.top_n)
        return pd.Series(np.asarray(placed, dtype=float), index=score.index, name="target")

    def generate_trade_decision(self, execute_result: list | None = None) -> TradeDecisionWO:
        """Orders of this step: sells, then buys by rank."""
        step = self.trade_calendar.get_trade_step()
        if step == 0:
            self.daily_log = []
        start, end = self.trade_calendar.get_step_time(step)
        seen_from, seen_to = self.trade_calendar.get_step_time(step, shift=1)
        score = self.signal.get_signal(start_time=seen_from, end_time=seen_to)
        if isinstance(score, pd.DataFrame):
            score = score.iloc[:, 0]
        entry: dict[str, Any] = {"date": start, "signal_date": None, "capital": math.nan, "target": math.nan}
        entry |= {"cash_target": math.nan, "names": 0, "buy": 0.0, "sell": 0.0} | dict.fromkeys(_KINDS, 0)
        self.daily_log.append(entry)
        if score is None:  # no signal on that day: nothing is traded
            return TradeDecisionWO([], self)
        day, liquidity, known = self._liquidity_at(seen_from, seen_to)
        position = self.trade_position
        held = {code: position.get_stock_amount(code) for code in position.get_stock_list()}
        capital = float(position.calculate_value() if self.capital is None else self.capital)
        target = self.target_yuan(score, liquidity, capital, list(held))
        placed = float(target.sum())
        entry |= {"signal_date": day, "capital": capital, "target": placed, "cash_target": capital - placed}
        entry["names"] = int((target > 0).sum())
        ranked = (-score.to_numpy(dtype=float)).argsort(kind="stable")  # NaN last
        wanted = {code: yuan for code, yuan in target.iloc[ranked].items() if yuan > 0}
        orders, counts = self._orders(wanted, held, self.trade_participation * known, (start, end))
        for order, yuan in orders:
            entry["buy" if order.direction == OrderDir.BUY else "sell"] += yuan
        entry |= counts
        return TradeDecisionWO([order for order, _ in orders], self)

    def _orders(
        self,
        wanted: dict[str, float],
        held: dict[str, float],
        caps: pd.Series,
        span: tuple[pd.Timestamp, pd.Timestamp],
    ) -> tuple[list[tuple[Order, float]], Counter[str]]:
        """(order, yuan) pairs, sells first, and how many stocks were stopped by what.

        `wanted`: target yuan by rank; `held`: adjusted shares; `caps`: yuan a stock may trade at this step.
        """
        exchange, counts = self.trade_exchange, Counter[str]()
        sells: list[tuple[Order, float]] = []
        buys: list[tuple[str, float]] = []
        for code in [*(code for code in held if code not in wanted), *wanted]:
            aim, amount, cap = wanted.get(code, 0.0), held.get(code, 0.0), float(caps.get(code, math.nan))
            suspended = exchange.check_stock_suspended(code, *span)
            price = self.trade_position.get_stock_price(code) if suspended and amount else 0.0
            if not suspended:
                price = exchange.get_deal_price(code, *span, OrderDir.SELL)
            delta = aim - amount * price
            if delta == 0.0:
                continue
            direction = OrderDir.BUY if delta > 0 else OrderDir.SELL
            if suspended or not exchange.is_stock_tradable(code, *span, direction=direction):
                counts["blocked_buy" if delta > 0 else "blocked_sell"] += 1
            elif not math.isfinite(cap):
                counts["unknown_liquidity"] += 1
            elif delta > 0:
                buys.append((code, min(delta, cap)))
            else:
                yuan = min(-delta, cap)
                whole = aim == 0.0 and -delta <= cap  # the odd lot goes with the rest
                shares = amount if whole else self._whole_lots(code, yuan / price, span)
                if shares > 0:
                    sells.append((Order(code, shares, OrderDir.SELL, *span), shares * price))
                else:
                    counts["below_lot"] += 1
        proceeds = sum(yuan - max(yuan * exchange.close_cost, exchange.min_cost) for _, yuan in sells)
        return sells + self._buys(buys, proceeds, span, counts), counts

    def _buys(
        self,
        buys: list[tuple[str, float]],
        proceeds: float,
        span: tuple[pd.Timestamp, pd.Timestamp],
        counts: Counter[str],
    ) -> list[tuple[Order, float]]:
        """Buy orders by rank while the cash lasts; `proceeds` yuan come in first."""
        exchange = self.trade_exchange
        cash = self.trade_position.get_cash() + proceeds
        out = []
        for code, yuan in buys:
            room = min(cash / (1.0 + exchange.open_cost), cash - exchange.min_cost)
            counts["cash_clipped"] += room < yuan
            if room <= 0:
                continue
            price = exchange.get_deal_price(code, *span, OrderDir.BUY)
            shares = self._whole_lots(code, min(yuan, room) / price, span)
            if shares > 0:
                out.append((Order(code, shares, OrderDir.BUY, *span), shares * price))
                cash -= shares * price + max(shares * price * exchange.open_cost, exchange.min_cost)
            else:
                counts["below_lot"] += room >= yuan
        return out

    def _whole_lots(self, code: str, shares: float, span: tuple[pd.Timestamp, pd.Timestamp]) -> float:
        """Round adjusted shares down to lots (qlib's own rounding may go up by a tenth of a share)."""
        unit = self.trade_exchange.get_amount_of_trade_unit(None, code, *span)
        return shares if unit is None else math.floor(shares / unit + 1e-9) * unit

    def _liquidity_at(self, start: pd.Timestamp, end: pd.Timestamp) -> tuple[pd.Timestamp, pd.Series, pd.Series]:
        """Return the last day of [start, end], its liquidity, and the last known one of every stock (yuan)."""
        if self._frame is None:
            self._frame = self._load().sort_index()
        if self._known is None:
            self._known = self._frame.where(self._frame > 0).ffill()
        row = int(self._frame.index.searchsorted(end, side="right")) - 1
        if row < 0 or self._frame.index[row] < start:
            days = self._frame.index
            span = f", {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}" if len(days) else ""
            raise ValueError(
                f"no liquidity for {start:%Y-%m-%d}, a signal day; the frame has {len(days)} days{span}."
                " Give a liquidity_frame over the whole backtest and the day before it."
            )
        return self._frame.index[row], self._frame.iloc[row], self._known.iloc[row]

    def _load(self) -> pd.DataFrame:
        """Load liquidity of every stock of the signal (of the exchange, if the signal has no list)."""
        if isinstance(self.signal, SignalWCache):
            codes = set(self.signal.signal_cache.index.get_level_values("instrument"))
        else:
            codes = set(self.trade_exchange.quote.get_all_stock())
        codes |= set(self.trade_position.get_stock_list())
        first = self.trade_calendar.get_step_time(0, shift=1)[0]
        before = pd.Timedelta(days=2 * self.liquidity_window + 30)  # for the last known value
        last = self.trade_calendar.get_all_time()[1]
        return load_liquidity(sorted(codes), first - before, last, profile=self.liquidity, window=self.liquidity_window)


def _buffered(score: np.ndarray, held: np.ndarray, k: float) -> np.ndarray:
    """Scores (N,) in the order of rank / k for held stocks and of rank for the others; NaN stays."""
    known = ~np.isnan(score)
    rank = np.empty(len(score))
    rank[np.argsort(np.where(known, -score, np.inf), kind="stable")] = np.arange(1, len(score) + 1)
    order = np.lexsort((~held, np.where(held, rank / k, rank)))
    out = np.empty(len(score))
    out[order] = -np.arange(len(score), dtype=float)
    return np.where(known, out, np.nan)


def _check(name: str, value: object, right: bool, allowed: str) -> None:
    """Raise a ValueError unless `right`."""
    if not right:
        raise ValueError(f"LiquidityTopNStrategy: {name} is {value!r}; it must be {allowed}.")
