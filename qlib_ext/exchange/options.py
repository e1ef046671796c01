"""Options of AShareExchange: their defaults, their checks, and how qlib takes them. Private to `exchange.py`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qlib.data import D
from qlib.log import get_module_logger

from qlib_ext import rules
from qlib_ext.exchange.quote import having, known_fields
from qlib_ext.options import is_number, is_whole, refuse_unknown
from qlib_ext.portfolio import PARTICIPATION

logger = get_module_logger("qlib_ext.exchange")

DELISTED = ("last_price", "write_off")
_CODES = (str, dict, list, tuple, set, pd.Index, np.ndarray)
_MARKETS = (str, dict)
_FIELD = re.compile(r"(?<!\$)\$\w+")


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
        _right("codes", self.codes, isinstance(self.codes, _CODES), "the name of a market, or a list of codes")
        more = self.subscribe_fields
        listed = _is_list(more) and all(isinstance(field, str) for field in more)
        _right("subscribe_fields", more, listed, "a list of fields such as [$open]")
        _right("liquidity", self.liquidity, isinstance(self.liquidity, str), "a unit profile or an expression")
        _right("t_plus_1", self.t_plus_1, isinstance(self.t_plus_1, bool), "true or false")
        _right(
            "limit_threshold",
            limit,
            limit is None or isinstance(limit, float) or pair,
            "rules, null, a float or two expressions",
        )
        _right("trade_unit", unit, unit in ("rules", None) or whole, "rules, null or a number of shares")
        self._check_numbers()
        _right("delisted", self.delisted, self.delisted in DELISTED, " or ".join(DELISTED))

    def _check_numbers(self) -> None:
        for name in ("open_cost", "close_cost", "min_cost"):
            rate = getattr(self, name)
            _right(name, rate, rate is None or _at_least(rate, 0), "a number from 0 on, or null")
        for name in ("commission", "impact", "impact_exponent"):
            _right(name, getattr(self, name), _at_least(getattr(self, name), 0), "a number from 0 on")
        share = self.participation
        above = share is None or (_at_least(share, 0) and share > 0)
        _right("participation", share, above, "a number above 0, or null")
        for name, least in (("liquidity_window", 1), ("volatility_window", 2), ("delisted_after", 1)):
            days = getattr(self, name)
            _right(name, days, is_whole(days) and days >= least, f"a whole number of days, {least} or more")


def read_options(given: dict[str, Any]) -> Options:
    """Options by name.

    Raises: TypeError for an unknown name, with the close ones; ValueError for one out of range.

    """
    refuse_unknown("AShareExchange", given, [field.name for field in fields(Options)])
    options = Options(**given)
    options.check()
    return options


def stocks(codes: Any, start: Any, end: Any) -> list[str]:
    """Sorted codes of a market (all that are ever in it between start and end) or of a list, without indices.

    Raises: ValueError where none is left, or the provider lacks a code of the list.

    """
    given = not isinstance(codes, _MARKETS)
    if not given:
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
    unknown = sorted(set(kept) - set(having(kept, "$close"))) if given else []
    if unknown:
        raise ValueError(
            f"AShareExchange: codes names {len(unknown)} stocks that the provider does not have, {unknown[:5]} among "
            "them; write them as SH600000, or take them out."
        )
    return kept


def check_fields(codes: list[str], options: Options, wanted: Iterable[str]) -> None:
    """Look for the fields in the provider; an unknown one would be NaN, and deal at the close without a word.

    Args:
        codes: N stocks.
        options: whose `liquidity` may be an expression.
        wanted: fields and expressions of the quote.

    Raises: ValueError for a field that no stock has, with the close ones.

    """
    texts = {*wanted} - {"$change", "$factor", "$volume"}  # what these are needed for has errors of its own
    own = [] if options.liquidity == "auto" else rules.fields_of(options.liquidity, owner="AShareExchange")
    texts |= set(own) - {"$volume"}
    for name in sorted({field for text in texts for field in _FIELD.findall(text)}):
        if next(having(codes, name), None) is None:
            there = known_fields(codes)
            close = difflib.get_close_matches(name, there) or there
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise ValueError(f"AShareExchange: no stock has the field {name}{hint}")


def prices(deal_price: Any) -> Any:
    """Deal price as qlib takes it: "$field" or a pair, each with its $ ("open" is "$open")."""
    both = [deal_price] * 2 if isinstance(deal_price, str) else list(deal_price) if _is_list(deal_price) else []
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
    right = isinstance(made, tuple) and len(made) == 2 and made[0] in ("cum", "current")
    if not (right and isinstance(made[1], str)):
        raise ValueError(f"AShareExchange: volume_threshold is {pair!r}; it must be [cum or current, expression].")
    return made


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _at_least(value: Any, least: float) -> bool:
    return is_number(value) and least <= value < math.inf


def _right(name: str, value: object, right: bool, allowed: str) -> None:
    if not right:
        raise ValueError(f"AShareExchange: {name} is {value!r}; it must be {allowed}.")
