"""Options of AShareExchange, and the rules of each day laid over the bars. Private to `exchange.py`.

Legend: `D` days of the backtest, `N` stocks; prices are adjusted unless they are called raw.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qlib.data import D
from qlib.log import get_module_logger

from qlib_ext import rules
from qlib_ext._exchange_bars import Bars, Grid, forward, trailing, turnover
from qlib_ext.portfolio import PARTICIPATION

logger = get_module_logger("qlib_ext.exchange")

DELISTED = ("last_price", "write_off")
SCALE = 1e-8  # a price below it is none, as for qlib


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of AShareExchange; each is told there."""

    start_time: Any = None
    end_time: Any = None
    codes: Any = "all"
    freq: str = "day"
    deal_price: Any = "close"
    subscribe_fields: Any = ()
    limit_threshold: Any = "rules"
    volume_threshold: Any = None
    trade_unit: Any = "rules"
    commission: float = 0.0003
    min_cost: float | None = None
    open_cost: float | None = None
    close_cost: float | None = None
    impact: float = 1.0
    impact_exponent: float = 0.5
    participation: float | None = PARTICIPATION
    liquidity: str = "auto"
    liquidity_window: int = 20
    volatility_window: int = 20
    t_plus_1: bool = True
    st: pd.DataFrame | str | Path | None = None
    delisted: str = "last_price"
    delisted_after: int = 20

    @property
    def limit(self) -> Any:
        """The user's own limit as qlib takes it: None, a float or a pair; None where the rules decide."""
        return None if self.limit_threshold == "rules" else _tuple(self.limit_threshold)

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        if self.start_time is None or self.end_time is None:
            raise ValueError(
                "AShareExchange needs start_time and end_time of its own: qlib does not forward those of the backtest. "
                "Give the same: exchange_kwargs: {exchange: {class, module_path, kwargs: {start_time, end_time}}}."
            )
        limit, unit = self.limit, self.trade_unit
        whole = isinstance(unit, int) and not isinstance(unit, bool) and unit > 0
        pair = isinstance(limit, tuple) and len(limit) == 2 and all(isinstance(x, str) for x in limit)
        _right("freq", self.freq, self.freq == "day", "'day': the bars are daily")
        _right(
            "limit_threshold",
            limit,
            limit is None or isinstance(limit, float) or pair,
            "rules, null, a float or two expressions",
        )
        _right("trade_unit", unit, unit in ("rules", None) or whole, "rules, null or a number of shares")
        for name in ("open_cost", "close_cost", "min_cost"):
            rate = getattr(self, name)
            _right(name, rate, rate is None or 0 <= rate < math.inf, "0 or more, or null")
        for name in ("impact", "impact_exponent"):
            _right(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "0 or more")
        share = self.participation
        _right("participation", share, share is None or 0 < share < math.inf, "above 0, or null")
        for name, least in (("liquidity_window", 1), ("volatility_window", 2), ("delisted_after", 1)):
            _right(name, getattr(self, name), getattr(self, name) >= least, f"{least} or more")
        _right("delisted", self.delisted, self.delisted in DELISTED, " or ".join(DELISTED))


def read_options(given: dict[str, Any]) -> Options:
    """Options by name.

    Raises: TypeError for an unknown name, with the close ones; ValueError for one out of range.

    """
    names = [field.name for field in fields(Options)]
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names) or names
            raise TypeError(f"AShareExchange has no option {name!r}; did you mean {', '.join(close)}?")
    options = Options(**given)
    options.check()
    return options


def stocks(codes: Any, start: Any, end: Any) -> list[str]:
    """Sorted codes of a market (all that are ever in it between start and end) or of a list, without indices."""
    if isinstance(codes, (str, dict)):
        market = D.instruments(codes) if isinstance(codes, str) else codes
        codes = D.list_instruments(market, start_time=start, end_time=end, as_list=True)
    found = sorted({str(code) for code in codes})
    kept = [code for code in found if not rules.is_index(code)]
    if len(kept) < len(found):
        logger.info(f"{len(found) - len(kept)} indices among the instruments are left out")
    if not kept:
        raise ValueError(
            f"AShareExchange: codes is {codes!r}, no stock from {start} to {end}; give a market or a list."
        )
    return kept


def prices(deal_price: Any) -> Any:
    """Deal price as qlib takes it: "$field" or a pair, each with its $ ("open" is "$open")."""
    both = [deal_price] * 2 if isinstance(deal_price, str) else list(deal_price)
    if len(both) != 2 or not all(isinstance(price, str) and price for price in both):
        raise ValueError(f"AShareExchange: deal_price is {deal_price!r}; it must be a field, or [buy, sell].")
    return [price if "$" in price else f"${price}" for price in both]


def thresholds(given: Any) -> Any:
    """Volume threshold as qlib takes it: tuples in the place of lists."""
    if isinstance(given, dict):
        wrong = sorted(set(given) - {"all", "buy", "sell"})
        if wrong:
            raise ValueError(f"AShareExchange: volume_threshold has {wrong}; allowed are all, buy and sell.")
        return {side: _threshold(pair) for side, pair in given.items()}
    return None if given is None else _threshold(given)


def _threshold(pair: Any) -> tuple[str, str]:
    made = _tuple(pair)
    if not (isinstance(made, tuple) and len(made) == 2 and made[0] in ("cum", "current")):
        raise ValueError(f"AShareExchange: volume_threshold is {pair!r}; it must be [cum or current, expression].")
    return made


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _right(name: str, value: object, right: bool, allowed: str) -> None:
    if not right:
        raise ValueError(f"AShareExchange: {name} is {value!r}; it must be {allowed}.")


# --- the rules of each day


class Fees:
    """Fees of each day: `of` gives a trade's parts, `highest` the largest whole rate (buy, sell) of the period."""

    def __init__(self, days: pd.DatetimeIndex, options: Options) -> None:
        given = (options.open_cost, options.close_cost)
        self.least = rules.commission_minimum(days) if options.min_cost is None else options.min_cost
        zero = np.zeros(len(days))
        self._rates = [(zero + (rate or 0.0), zero, zero) for rate in given]
        if None in given:
            rules.fee_rates(days, commission=options.commission)  # says what is wrong with the commission
            known = rules.fee_rates(days, commission=0.0)
            transfer = known["buy"].to_numpy()
            for side, stamp in enumerate((zero, (known["sell"] - known["buy"]).to_numpy())):
                if given[side] is None:
                    self._rates[side] = (zero + options.commission, transfer, stamp)
        self.highest = tuple(float(np.add.reduce(parts).max()) for parts in self._rates)

    def of(self, row: int, yuan: float, *, sell: bool) -> tuple[float, float, float]:
        """Commission (at least the minimum), transfer fee and stamp duty in yuan; one's own rate is all commission."""
        commission, transfer, stamp = (float(part[row]) for part in self._rates[sell])
        return max(commission * yuan, self.least), transfer * yuan, stamp * yuan


@dataclass(frozen=True)
class Ground:
    """What the exchange knows of each day and stock.

    `data`: field -> (D, N) of the quote. (D, N): `suspended`, `unknown_limit` bool; `reference` raw yuan, the previous
    close after ex-rights adjustment; `liquidity` yuan and `sigma`, known at the previous close; `last_close`.
    `lots`: see `rules.Lots`. (N,): `listed`, `gone`: row of the first day, and of the first as delisted. (D,):
    `settles`, T+1 is in force. `adjusted`: no factor, so no lots. `profile`: how turnover came by.
    """

    days: pd.DatetimeIndex
    data: dict[str, Grid]
    suspended: Grid
    unknown_limit: Grid
    reference: Grid
    liquidity: Grid
    sigma: Grid
    last_close: Grid
    lots: rules.Lots
    listed: Grid
    gone: Grid
    settles: Grid
    adjusted: bool
    profile: str
    scopes: list[str]


def lay(bars: Bars, wanted: set[str], deal: tuple[str, str], options: Options) -> Ground:
    """Lay the rules of each day over the bars; `wanted`: fields of the quote, `deal`: (buy, sell) price."""
    lead, days = bars.lead, bars.days[bars.lead :]
    data = {name: bars.fields[name][lead:] for name in wanted}
    if not (data["$volume"] > 0).any():
        raise ValueError("AShareExchange: the provider has no $volume, so suspensions are not known; add the field.")
    suspended = ~(np.isfinite(data["$close"]) & (data["$volume"] > 0))
    close = bars.fields["$close"].astype(np.float64)
    yuan, profile = turnover(bars, options.liquidity)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = close / np.vstack([np.full_like(close[:1], np.nan), close[:-1]]) - 1.0
    gone = np.maximum(bars.last - lead + options.delisted_after, 0)
    data["$factor"], adjusted = _factor(bars.codes, data["$factor"], suspended, options)
    with np.errstate(divide="ignore", invalid="ignore"):
        reference = np.round(forward(close, before=True)[lead:] / data["$factor"], 2)
    data["limit_buy"], data["limit_sell"], unknown = _limits(bars, data, suspended, reference, deal, options)
    if options.delisted == "write_off":
        data["$close"] = np.where(np.arange(len(days))[:, None] >= gone, np.float32(0.0), data["$close"])
    return Ground(
        days,
        data,
        suspended,
        unknown,
        reference,
        trailing(yuan, options.liquidity_window, of="mean")[lead:],
        trailing(step, options.volatility_window, of="std")[lead:],
        forward(close)[lead:],
        rules.lot_rule(bars.codes, days),
        bars.first - lead,
        gone,
        rules.settles_next_day(days) & options.t_plus_1,
        adjusted,
        profile,
        [rules.scope_of(code) for code in bars.codes],
    )


def _factor(codes: tuple[str, ...], factor: Grid, suspended: Grid, options: Options) -> tuple[Grid, bool]:
    """Factor with its gaps filled, and whether it is missing; an error where a rule needs a missing one."""
    known = forward(factor.astype(np.float64))
    lacks = (~suspended & ~np.isfinite(known)).any(axis=0)
    if lacks.any() and (options.limit_threshold == "rules" or options.trade_unit is not None):
        some = [codes[n] for n in np.flatnonzero(lacks)[:3]]
        raise ValueError(
            f"AShareExchange: {int(lacks.sum())} stocks, {some} among them, have no $factor: raw prices and lots are "
            "not known. Give limit_threshold: null (or qlib's float) and trade_unit: null, or leave these stocks out."
        )
    return known, bool(lacks.any())


def _limits(
    bars: Bars, data: dict[str, Grid], suspended: Grid, reference: Grid, deal: tuple[str, str], options: Options
) -> tuple[Grid, Grid, Grid]:
    """(D, N) bool each: no buy possible, no sell possible, and the limit is not known."""
    unknown = np.zeros_like(suspended)
    limit = options.limit
    if options.limit_threshold == "rules":
        days, age = bars.days[bars.lead :], bars.age[bars.lead :]
        mask = None if options.st is None else rules.st_mask(options.st, bars.codes, days)
        listed = np.where(np.isfinite(age), age, 10**6)
        rise, fall = (rules.price_limit(bars.codes, days, listed_days=listed, st=mask, side=s) for s in ("up", "down"))
        free = np.isinf(rise)
        up, down = rules.limit_up_price(reference, rise), rules.limit_down_price(reference, fall)
        buy, sell = (_raw(data, field) for field in deal)
        blocks = (~free & ~(buy < up - 1e-6), ~free & ~(sell > down + 1e-6))
        unknown = ~free & ~np.isfinite(up)
    elif limit is None:
        blocks = (unknown, unknown)
    elif isinstance(limit, float):
        blocks = (data["$change"] >= limit, data["$change"] <= -limit)
    else:
        blocks = (data[limit[0]].astype(bool), data[limit[1]].astype(bool))
    return blocks[0] | suspended, blocks[1] | suspended, unknown


def _raw(data: dict[str, Grid], field: str) -> Grid:
    """Raw price in whole cents, (D, N); the close where the field has none, as qlib deals."""
    price = np.where(data[field] > SCALE, data[field], data["$close"])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.round(price / data["$factor"], 2))
