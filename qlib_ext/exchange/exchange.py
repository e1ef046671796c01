"""AShareExchange: qlib's exchange under the A-share market's rules of the day, with costs, impact and volume caps.

In YAML (qlib forwards no start and end, so it has its own; lists stand for tuples):

    exchange_kwargs:
      exchange:
        class: AShareExchange
        module_path: qlib_ext.exchange
        kwargs: {start_time: "2022-01-04", end_time: "2022-12-23", deal_price: open, participation: 0.05}

What is not modelled: queues at the limit, prices within the day, halts within a day, delisting periods, the floor of
one tick under the limits; an order above the largest size allowed is dealt as if it were split. Legend: `D` days of the
backtest, `N` stocks.
"""

import inspect
import math
from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from qlib.backtest.decision import Order, OrderDir
from qlib.backtest.exchange import Exchange
from qlib.log import get_module_logger

from qlib_ext import rules
from qlib_ext.exchange.day_rules import SCALE, DayRules, apply_rules, whole_shares
from qlib_ext.exchange.options import Options, check_fields, prices, read_options, stocks, thresholds
from qlib_ext.exchange.quote import DayQuote, load_bars, turnover_fields
from qlib_ext.options import day_span, is_number, named_options
from qlib_ext.portfolio import affordable, one_impact

logger = get_module_logger("qlib_ext.exchange")

SLACK = 1e-6  # of a cap: the strategy's liquidity is float32
LOT = 100  # shares, where the stock is not told
BLOCKED = ("day", "code", "side", "wanted", "dealt", "reason")
FILLS = (
    "day", "code", "side", "shares", "price", "prev_close", "scope", "yuan", "commission", "transfer", "stamp_duty",
    "impact", "used", "volatility",
)  # fmt: skip
SETTLED = ("day", "code", "kind", "shares", "yuan", "cost", "lost")


@dataclass
class Ledger:
    """Rows of the three tables, and what counts against the day's caps.

    `position`: whose backtest it is. `bought`: adjusted shares bought on `day`; `dealt`: yuan dealt on it.
    """

    position: Any = None
    day: Any = None
    bought: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    dealt: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    blocked: list[tuple[Any, ...]] = field(default_factory=list)
    fills: list[tuple[Any, ...]] = field(default_factory=list)
    settled: list[tuple[Any, ...]] = field(default_factory=list)

    def begin_day(self, day: pd.Timestamp) -> bool:
        """Begin a day; False where it has begun."""
        if self.day is not None and day <= self.day:  # an outer step of a nested executor ends days after it began
            return False
        self.day = day
        self.bought.clear()
        self.dealt.clear()
        return True

    def frame(self, name: str) -> pd.DataFrame:
        """Table `blocked`, `fills` or `settled`."""
        columns = {"blocked": BLOCKED, "fills": FILLS, "settled": SETTLED}[name]
        return pd.DataFrame(getattr(self, name), columns=list(columns))


def _watch(account: Any) -> None:
    """Settle on days without an order too, whatever the strategy: before qlib values the account, at a step's end."""
    value = account.update_current_position

    def settled_first(start: Any, end: Any, exchange: Any) -> None:
        if isinstance(exchange, AShareExchange):
            exchange.begin_step(account, start)
        value(start, end, exchange)

    account.update_current_position = settled_first


def _close(amount: float, other: float) -> bool:
    """Whether two amounts are the same but for float noise, as numpy's isclose says, without its arrays."""
    return abs(amount - other) <= 1e-8 + 1e-5 * abs(other)


class AShareExchange(Exchange):
    """A qlib Exchange that deals as the A-share market would; daily bars.

    What it could not deal, and why, is in `blocked`; what it dealt, with each part of its cost, in `fills`; delisted
    holdings in `settled`. All three begin anew with each backtest: when a LiquidityTopNStrategy begins, with the first
    order of another strategy. A strategy's own simulations (a position without an account) are not written down and do
    not count.

    >>> exchange = AShareExchange(start_time="2020-03-02", end_time="2020-06-19", deal_price="open", participation=0.05)
    >>> exchange.turnover_profile, exchange.get_amount_of_trade_unit(1.0), len(exchange.fills)
    ('community', 100.0, 0)
    """

    __signature__ = inspect.signature(Options)  # each option by name, for completion and help

    def __init__(self, **options: Any) -> None:
        """Load the market and lay the rules over it; one load serves all exchanges with the same span and fields.

        Args:
            options: by name, all but the first two with a default:

                start_time, end_time: first and last day of the backtest.
                codes ("all"): a market or a list. Of a market every stock counts that is ever in it between start and
                    end, with its whole series; indices are left out.
                freq ("day"): within a nested executor all steps of a day deal at the day's price and share its caps.
                deal_price ("close"): field or [buy, sell].
                subscribe_fields ([]): more fields for `quote`.
                limit_threshold ("rules"): the rules of board, date, days since listing and `st`, on the raw deal price
                    and the previous close after ex-rights adjustment, and `rules.one_price_limit`; null: no limits; or
                    qlib's: a float, or [expression that blocks buys, one that blocks sells].
                volume_threshold (null): qlib's, with lists: [cum | current, expression] or {all | buy | sell: [...]}.
                trade_unit ("rules"): see `rules.lot_rule`; null: no lots; or qlib's number of shares.
                commission (0.0003): rate each way, of which min_cost is the least.
                min_cost (null): yuan an order; null means the rule's 5, and nothing where the rate is 0.
                open_cost, close_cost (null): null means commission, and transfer fee and stamp duty of the day; a
                    number is qlib's whole rate of a buy or sell, with min_cost as its least.
                impact (1.0), impact_exponent (0.5): b and exponent of `portfolio.impact_cost`, charged as a cost on
                    top, of what is dealt of the stock in the whole day: slices pay together what one order would; 0
                    turns it off. Or one's own rule, {class, module_path, kwargs}: an object that is called with yuan
                    traded (n,), liquidity (yuan a day) and volatility and gives yuan (n,), 0 where nothing is traded.
                participation (0.05): most of a stock's liquidity to deal on a day, buys and sells together; null: no
                    cap.
                liquidity ("auto"): unit profile, or expression of turnover in yuan, as in `data.load_liquidity`.
                liquidity_window, volatility_window (20): days of the trailing mean of turnover and of the standard
                    deviation of returns, as known at the previous close.
                t_plus_1 (true): what was bought on a day is not sold on it, in nested executors too.
                st (null): spells of special treatment, as in `rules.st_mask`; null: those of the provider's
                    qlib_ext/st.csv, where it has one, else unknown, so the boards' limits, as with false.
                delisted ("last_price"): a holding that is delisted is sold at its last price, with fees, on its first
                    day as delisted; "write_off": it is worth nothing from that day on.
                delisted_after (null): trading days after the last one of a stock's series at which it counts as
                    delisted; null: the day after its listing ends in the provider's list `all`, or 20 where the list
                    does not tell (or ends less than 20 days before the calendar): a series may also end in a
                    suspension.

        Raises:
            TypeError: an unknown option.
            ValueError: an option out of range, a span without days, a field or code that the provider does not have,
                wrong units, or a factor that is missing.
        """
        self.options = chosen = read_options(options)
        self._ledger, self._live = Ledger(), False
        self._impact = chosen.impact_rule()
        self._law = {"b": chosen.impact, "exponent": chosen.impact_exponent} if is_number(chosen.impact) else {}
        super().__init__(
            start_time=chosen.start_time,
            end_time=chosen.end_time,
            codes=stocks(chosen.codes, chosen.start_time, chosen.end_time),
            deal_price=prices(chosen.deal_price),
            subscribe_fields=list(chosen.subscribe_fields),
            limit_threshold=chosen.limit,
            volume_threshold=thresholds(chosen.volume_threshold),
            trade_unit=LOT if chosen.trade_unit == "rules" else chosen.trade_unit,
            quote_cls=lambda _frame, _freq: self._quote,
        )
        self.limit_threshold = chosen.limit_threshold
        self._fees = chosen.fees(self.day_rules.days)
        self.min_cost, (self.open_cost, self.close_cost) = self._fees.minimum, self._fees.highest

    def __repr__(self) -> str:
        """Days, stocks, the options that are not the defaults, and what was dealt."""
        chosen = {field.name: getattr(self.options, field.name) for field in fields(Options)}
        changed = {
            name: f"<{type(value).__name__}>" if isinstance(value, pd.DataFrame) else value
            for name, value in chosen.items()
            if name not in ("start_time", "end_time", "codes") and value is not getattr(Options, name)
        }
        told = ["AShareExchange(" + day_span(self.day_rules.days), f"{len(self._quote.codes)} stocks"]
        told += [named_options(changed)] if changed else []
        return f"{', '.join(told)}; {len(self._ledger.fills)} fills)"

    # --- the market

    def get_quote_from_qlib(self) -> None:
        """Load the bars and lay the rules of each day over them."""
        chosen = self.options
        whole = {name for name in self.all_fields if name != "$change" or isinstance(chosen.limit, float)}
        wanted = whole | set(turnover_fields(chosen.liquidity))
        if chosen.limit_threshold == "rules":
            wanted |= {"$high", "$low"}
        check_fields(self.codes, chosen, whole)
        bars = load_bars(self.codes, wanted, self.start_time, self.end_time)
        self.day_rules: DayRules = apply_rules(bars, whole, (self.buy_price, self.sell_price), chosen)
        self.trade_w_adj_price = self.day_rules.adjusted
        self._quote = DayQuote(bars.codes, self.day_rules.days, self.day_rules.data)
        ended = int((self.day_rules.gone < len(self.day_rules.days) + bars.rest).sum())
        logger.info(
            f"{len(self.day_rules.days)} days, {len(bars.codes)} stocks; turnover: {self.day_rules.profile}; limits: "
            f"{chosen.limit_threshold}; special treatment: {'not known' if chosen.spells is None else 'given'}; "
            f"delisted: {ended} stocks before the calendar's end ({chosen.delisted})"
        )

    @property
    def quote_df(self) -> pd.DataFrame:
        """The quote as a long frame, index (instrument, datetime), made on each call; a row for every day."""
        quote = getattr(self, "quote", None)
        if quote is None:  # while qlib's __init__ runs
            return pd.DataFrame()
        index = pd.MultiIndex.from_product([quote.column, quote.days], names=["instrument", "datetime"])
        return pd.DataFrame({name: np.asarray(grid).T.ravel() for name, grid in quote.data.items()}, index)

    @property
    def turnover_profile(self) -> str:
        """Unit profile, or expression, that turnover in yuan came by."""
        return self.day_rules.profile

    @property
    def rules_citations(self) -> list[dict[str, Any]]:
        """Quoted records behind the rules of these days; see `rules.citations`."""
        return rules.citations(self.day_rules.days)

    @property
    def blocked(self) -> pd.DataFrame:
        """What each reason took from an order: `wanted` yuan before it, `dealt` yuan after it; a row for each cut.

        Reasons: unknown_stock, not_listed, suspended, delisted, limit_up, limit_down, limit_unknown (no previous
        close), unknown_liquidity, unknown_volatility (no history yet), volume_cap, volume_of_day (more than the whole
        market traded that day), volume_threshold, t_plus_1, not_held, cash, below_lot. Rounding down to whole lots is
        not a cut unless nothing remains. An order that a strategy does not send, because it asked `is_stock_tradable`
        first, is not here.
        """
        return self._ledger.frame("blocked")

    @property
    def fills(self) -> pd.DataFrame:
        """Fills: raw shares, raw price and previous close, the cost's parts (yuan), `used` = yuan / liquidity,
        `volatility` of daily returns, both known at the previous close.
        """
        return self._ledger.frame("fills")

    @property
    def settled(self) -> pd.DataFrame:
        """Delisted holdings: kind (`delisted`), adjusted shares, yuan and cost of the sale, yuan lost."""
        return self._ledger.frame("settled")

    def artifacts(self) -> dict[str, object]:
        """Give what a run should keep, by file name: the three tables and the rules' citations."""
        tables = {f"{name}.pkl": self._ledger.frame(name) for name in ("blocked", "fills", "settled")}
        return tables | {"rules_citations.pkl": self.rules_citations}

    # --- what qlib and strategies ask

    def check_stock_suspended(self, stock_id: str, start_time: pd.Timestamp, end_time: pd.Timestamp) -> bool:
        """Whether the stock trades on none of the days: no close or no volume."""
        column, rows = self._quote.column.get(stock_id), self._quote.rows(start_time, end_time)
        if column is None or not len(rows):
            return True
        if len(rows) == 1:
            return bool(self.day_rules.suspended[rows.start, column])
        return bool(self.day_rules.suspended[rows.start : rows.stop, column].all())

    def get_amount_of_trade_unit(
        self, factor: float | None = None, stock_id: str | None = None, start_time: Any = None, end_time: Any = None
    ) -> float | None:
        """Step of an order in adjusted shares; that of 100 shares where the stock and day are not told."""
        unit = super().get_amount_of_trade_unit(factor, stock_id, start_time, end_time)
        if unit is None or self.options.trade_unit != "rules" or stock_id is None or start_time is None:
            return unit
        return float(unit * self.day_rules.lots.step[self._at(stock_id, start_time, end_time)] / LOT)

    def smallest_order(self, stock_id: str, start_time: Any, end_time: Any) -> float | None:
        """Fewest adjusted shares of an order that does not sell the whole rest; None without lots."""
        step = self.get_amount_of_trade_unit(None, stock_id, start_time, end_time)
        at, lots = self._at(stock_id, start_time, end_time), self.day_rules.lots
        ratio = lots.minimum[at] / lots.step[at] if self.options.trade_unit == "rules" else 1.0
        return None if step is None else float(step * ratio)

    def trade_cost(self, stock_id: str, start_time: Any, end_time: Any, yuan: float, *, sell: bool) -> float:
        """Fees and impact of a trade after what was dealt that day, yuan; inf where `unknown` names a reason."""
        at = self._at(stock_id, start_time, end_time)
        return math.inf if self.day_rules.unknown(at, self.options) else self._cost(at, yuan, sell=sell)

    def fee_rates(self, start_time: Any) -> tuple[float, float]:
        """Fees of a day as shares of what is bought and sold, without the least of an order."""
        return self._fees.rates(self._quote.rows(start_time, start_time).start)

    def unknown(self, stock_id: str, start_time: Any, end_time: Any) -> str:
        """Tell what keeps it from dealing in a stock: unknown_liquidity, unknown_volatility, or "" for nothing."""
        return self.day_rules.unknown(self._at(stock_id, start_time, end_time), self.options)

    def _at(self, code: str, start: Any, end: Any) -> tuple[int, int]:
        return self._quote.rows(start, end).stop - 1, self._quote.column[code]

    def _place(self, order: Order) -> tuple[int, int] | None:
        """Row and column of an order; None where the stock or the day is unknown."""
        column, rows = self._quote.column.get(order.stock_id), self._quote.rows(order.start_time, order.end_time)
        return None if column is None or not len(rows) else (rows.stop - 1, column)

    # --- dealing

    def deal_order(
        self, order: Order, trade_account: Any = None, position: Any = None, dealt_order_amount: Any = None
    ) -> tuple[float, float, float]:
        """Deal an order as `Exchange.deal_order` does: yuan, cost and price."""
        self._live = trade_account is not None
        if self._live:
            self.begin_step(trade_account, order.start_time)
            if reason := self.refusal(order):
                self._cut(order, order.amount, 0.0, reason)
        dealt = defaultdict(float) if dealt_order_amount is None else dealt_order_amount
        done: tuple[float, float, float] = super().deal_order(order, trade_account, position, dealt)
        if self._live and done[0] > 1e-5:
            self._write(order, done[0], done[2])
        self._live = False
        return done

    def begin_step(self, account: Any, start: Any) -> None:
        """Begin a step of an account: a backtest's first one empties the tables, a day's first one settles holdings.

        A LiquidityTopNStrategy calls it before it looks at its holdings. For any other it is called by the first order
        of a day and, once there has been one, at the end of each step, before qlib values the account.
        """
        position, day = account.current_position, pd.Timestamp(start).normalize()
        if position is not self._ledger.position:
            self._ledger = Ledger(position)
            if account.is_port_metr_enabled() and account.portfolio_metrics.is_empty():
                account.init_cash = position.calculate_value()  # qlib takes the first return over the cash alone
        if "update_current_position" not in vars(account):
            _watch(account)
        if not self._ledger.begin_day(day) or position.skip_update():
            return
        for code in sorted(position.get_stock_list()):
            place = self._place(Order(code, 0.0, OrderDir.SELL, day, day))
            if place is not None and place[0] >= self.day_rules.gone[place[1]]:
                self._settle(account, code, place, day)

    def _settle(self, account: Any, code: str, place: tuple[int, int], day: pd.Timestamp) -> None:
        """Sell a delisted holding at its last price, or strike it off as worth nothing; the fees take no other cash."""
        position, kind = account.current_position, self.options.delisted
        amount, price = position.get_stock_amount(code), float(self.day_rules.last_close[place])
        price = price if math.isfinite(price) else float(position.get_stock_price(code))
        yuan = amount * price
        if kind == "write_off":
            del position.position[code]
            self._ledger.settled.append((day, code, kind, amount, 0.0, 0.0, yuan))
            return
        order = Order(code, amount, OrderDir.SELL, day, day)
        cost = min(sum(self._fees.parts(place[0], yuan, sell=True)), yuan)
        order.deal_amount = amount
        account.update_order(order, trade_val=yuan, cost=cost, trade_price=price)
        self._ledger.settled.append((day, code, kind, amount, yuan, cost, 0.0))

    def refusal(self, order: Order) -> str:
        """Why nothing of an order can be dealt, whatever its size (see `blocked`); "" where it can."""
        if self.check_order(order):
            return ""
        place = self._place(order)
        buys = order.direction == OrderDir.BUY
        return "unknown_stock" if place is None else self.day_rules.refusal(place, buys=buys)

    def _calc_trade_info_by_order(
        self, order: Order, position: Any, dealt_order_amount: dict[str, float]
    ) -> tuple[float, float, float]:
        """Cut the order by volume, T+1, cash and lots: price, yuan and cost. Sets `order.deal_amount`, as qlib does."""
        place = self._place(order)
        if place is None:
            raise RuntimeError(f"AShareExchange: order in {order.stock_id}, unknown on {order.start_time}: check_order")
        price = float(self.get_deal_price(order.stock_id, order.start_time, order.end_time, order.direction))
        order.factor = self.get_factor(order.stock_id, order.start_time, order.end_time)
        order.deal_amount = order.amount
        self._clip_amount_by_volume(order, dealt_order_amount)
        below = order.deal_amount if math.isfinite(order.deal_amount) else 0.0  # an unknown threshold lets nothing pass
        amount = self._capped(order, self._cut(order, order.amount, below, "volume_threshold"), price, place)
        if order.direction == OrderDir.SELL:
            amount = self._sellable(order, amount, price, position, place)
        else:
            if position is not None:
                most = affordable(amount * price, position.get_cash(), lambda yuan: self._cost(place, yuan, sell=False))
                amount = self._cut(order, amount, most / price, "cash") if most < amount * price else amount
            amount = self._rounded(order, amount, place)
        order.deal_amount, yuan = amount, amount * price
        cost = self._cost(place, yuan, sell=order.direction == OrderDir.SELL) if yuan > 1e-5 else 0.0
        return price, yuan, cost

    def _capped(self, order: Order, amount: float, price: float, place: tuple[int, int]) -> float:
        """Cut to the day's cap and turnover of the stock; to nothing where liquidity or volatility is not known."""
        if reason := self.day_rules.unknown(place, self.options):
            return self._cut(order, amount, 0.0, reason)
        done = self._ledger.dealt[order.stock_id] if self._live else 0.0
        if self.options.participation is not None:
            room = self.options.participation * float(self.day_rules.liquidity[place]) * (1.0 + SLACK) - done
            amount = self._cut(order, amount, max(room, 0.0) / price, "volume_cap")
        traded = float(self.day_rules.traded[place])
        return self._cut(order, amount, max(traded - done, 0.0) / price, "volume_of_day") if traded > 0 else amount

    def _sellable(self, order: Order, amount: float, price: float, position: Any, place: tuple[int, int]) -> float:
        """Cut to what is held and was not bought today; whole lots, or all of it."""
        if position is None:
            return amount
        code = order.stock_id
        held = position.get_stock_amount(code) if position.check_stock(code) else 0.0
        amount = held if _close(amount, held) else self._cut(order, amount, held, "not_held")
        free = held
        if self._live and self.day_rules.settles[place[0]] and self._ledger.bought[code] > 0:
            free = max(held - self._ledger.bought[code], 0.0)
            amount = self._cut(order, amount, free, "t_plus_1")
        if not _close(amount, free):
            amount = self._rounded(order, amount, place)
        yuan = amount * price
        if yuan > 0 and position.get_cash() + yuan < self._cost(place, yuan, sell=True):
            return self._cut(order, amount, 0.0, "cash")
        return amount

    def _rounded(self, order: Order, amount: float, place: tuple[int, int]) -> float:
        """Round adjusted shares down to the stock's lots; what comes to nothing is written down."""
        if self.trade_unit is None or self.trade_w_adj_price or amount <= 0:
            return amount
        factor, least, step = (
            float(self.day_rules.data["$factor"][place]),
            float(self.trade_unit),
            float(self.trade_unit),
        )
        if self.options.trade_unit == "rules":
            least, step = float(self.day_rules.lots.minimum[place]), float(self.day_rules.lots.step[place])
        whole = whole_shares(amount, factor, least, step)
        return whole if whole > 0 else self._cut(order, amount, 0.0, "below_lot")

    def _cost(self, place: tuple[int, int], yuan: float, *, sell: bool) -> float:
        return sum(self._fees.parts(place[0], yuan, sell=sell)) + self._moved(place, yuan)

    def _moved(self, place: tuple[int, int], yuan: float) -> float:
        """Market impact of a trade, yuan: what it adds to that of all that was dealt of the stock on the day."""
        if self._impact is None or yuan <= 0:
            return 0.0
        today = self._quote.row.get(self._ledger.day) == place[0]
        done = self._ledger.dealt.get(self._quote.codes[place[1]], 0.0) if today else 0.0
        known = float(self.day_rules.liquidity[place]), float(self.day_rules.sigma[place])
        if self._law:
            before = one_impact(done, *known, **self._law) if done else 0.0
            return one_impact(done + yuan, *known, **self._law) - before
        before, after = self._impact(np.array([done, done + yuan]), *known)
        return float(after - before)

    # --- the records

    def _cut(self, order: Order, amount: float, most: float, reason: str) -> float:
        """Return the smaller of two amounts (adjusted shares); write down what is lost."""
        if most >= amount:
            return amount
        if self._live:
            side = "buy" if order.direction == OrderDir.BUY else "sell"
            price = self._known_price(order)
            self._ledger.blocked.append((self._ledger.day, order.stock_id, side, amount * price, most * price, reason))
        return most

    def _known_price(self, order: Order) -> float:
        """Deal price of an order, or the last close: what its wish was worth."""
        place = self._place(order)
        if place is None:
            return math.nan
        field = self.buy_price if order.direction == OrderDir.BUY else self.sell_price
        price = float(self.day_rules.data[field][place])
        return price if price > SCALE else float(self.day_rules.last_close[place])

    def _write(self, order: Order, yuan: float, price: float) -> None:
        """Write a fill down, and what it takes of the day's caps."""
        place = self._place(order)
        if place is None:
            return
        ledger, today, sell = self._ledger, self.day_rules, order.direction == OrderDir.SELL
        factor = float(today.data["$factor"][place])
        if not sell:
            ledger.bought[order.stock_id] += order.deal_amount
        raw = (order.deal_amount * factor, round(price / factor, 4), float(today.reference[place]))
        parts = (*self._fees.parts(place[0], yuan, sell=sell), self._moved(place, yuan))
        ledger.dealt[order.stock_id] += yuan
        used = yuan / float(today.liquidity[place])
        who = (ledger.day, order.stock_id, "sell" if sell else "buy")
        sigma = float(today.sigma[place])
        ledger.fills.append((*who, *raw, today.scopes[place[1]], yuan, *parts, used, sigma))
