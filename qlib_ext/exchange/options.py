"""Options of AShareExchange: their defaults, their checks, and how qlib takes them."""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qlib.data import D
from qlib.log import get_module_logger
from qlib.utils import init_instance_by_config

from qlib_ext import rules
from qlib_ext.exchange.quote import having, known_fields
from qlib_ext.options import check_flag, check_number, is_number, is_whole, refuse_unknown, tell
from qlib_ext.portfolio import PARTICIPATION, impact_cost
from qlib_ext.provider import spells_of
from qlib_ext.spelling import read_day

logger = get_module_logger("qlib_ext.exchange")

Impact = Callable[[Any, Any, Any], Any]  # (trade in yuan, liquidity, volatility) -> yuan, in the shape of the trade
_OWNER = "AShareExchange"
_NULLABLE = ("min_cost", "open_cost", "close_cost", "participation", "delisted_after")
_WHOLE = ("liquidity_window", "volatility_window", "delisted_after")
_NUMBERS = {
    **dict.fromkeys(("commission", "min_cost", "open_cost", "close_cost", "impact_exponent"), "[0, inf)"),
    **{"participation": "(0, 1]", "liquidity_window": "[1, inf)", "volatility_window": "[2, inf)"},
    "delisted_after": "[1, inf)",
}
DELISTED = ("last_price", "write_off")
_CODES = (str, dict, list, tuple, set, pd.Index, np.ndarray)
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
    impact: Any = 1.0
    impact_exponent: float = 0.5
    participation: float | None = PARTICIPATION
    liquidity: str = "auto"
    liquidity_window: int = 20
    volatility_window: int = 20
    t_plus_1: bool = True
    st: pd.DataFrame | str | Path | bool | None = None
    delisted: str = "last_price"
    delisted_after: int | None = None

    @property
    def spells(self) -> Any:
        """Spells of special treatment, by `st` or of the provider; None: not known."""
        return spells_of(self.st)

    @property
    def limit(self) -> Any:
        """The user's own limit as qlib takes it: None, a float or a pair; None where the rules decide."""
        return None if self.limit_threshold == "rules" else _tuple(self.limit_threshold)

    def fees(self, days: Any) -> rules.Fees:
        """Fees of orders on the days."""
        names = ("commission", "open_cost", "close_cost")
        return rules.Fees(days, minimum=self.min_cost, **{name: getattr(self, name) for name in names})

    def impact_rule(self) -> Impact | None:
        """Market impact of a trade; None where it is off."""
        return impact_rule(self.impact, self.impact_exponent)

    def check(self) -> None:
        """Raise ValueError for an option out of range."""
        if self.start_time is None or self.end_time is None:
            raise ValueError(
                "AShareExchange needs start_time and end_time of its own: qlib does not forward those of the backtest. "
                "Give the same: exchange_kwargs: {exchange: {class, module_path, kwargs: {start_time, end_time}}}."
            )
        for name, within in _NUMBERS.items():
            if getattr(self, name) is not None or name not in _NULLABLE:
                hint = ", or null" if name in _NULLABLE else ""
                check_number(f"{_OWNER}: {name}", getattr(self, name), within, whole=name in _WHOLE, hint=hint)
        if not (callable(self.impact) or isinstance(self.impact, dict)):
            hint = ", or a rule of one's own: {class, module_path, kwargs}"
            check_number(f"{_OWNER}: impact", self.impact, "[0, inf)", hint=hint)
        check_flag(f"{_OWNER}: t_plus_1", self.t_plus_1)
        limit, unit, more = self.limit, self.trade_unit, self.subscribe_fields
        pair = isinstance(limit, tuple) and len(limit) == 2 and all(isinstance(side, str) for side in limit)
        listed = _is_list(more) and all(isinstance(field, str) for field in more)
        fits = {
            "freq": (self.freq == "day", "day: the bars are daily"),
            "codes": (isinstance(self.codes, _CODES), "the name of a market, or a list of codes"),
            "subscribe_fields": (listed, "a list of fields such as [$open]"),
            "liquidity": (isinstance(self.liquidity, str), "a unit profile or an expression"),
            "limit_threshold": (pair or limit is None or isinstance(limit, float), "rules, null, a float, expressions"),
            "trade_unit": (unit in ("rules", None) or (is_whole(unit) and unit > 0), "rules, null, a number of shares"),
            "delisted": (self.delisted in DELISTED, " or ".join(DELISTED)),
        }
        for name, (fit, allowed) in fits.items():
            if not fit:
                raise _wrong(name, getattr(self, name), allowed)


def read_options(options: dict[str, Any]) -> Options:
    """Read options by name, and tell those that the others leave without effect.

    Raises: TypeError for an unknown name, with the close ones; ValueError for one out of range.
    """
    refuse_unknown(_OWNER, options, [field.name for field in fields(Options)])
    span = {name: options[name] for name in ("start_time", "end_time") if options.get(name) is not None}
    checked = Options(**options | {name: read_day(f"{_OWNER}: {name}", day) for name, day in span.items()})
    checked.check()
    free, capless = checked.impact == 0, checked.participation is None
    idle = {
        "impact_exponent": (free or not is_number(checked.impact), "without the square-root rule of impact"),
        "volatility_window": (free, "with impact: 0"),
        "liquidity_window": (free and capless, "with impact: 0 and participation: null"),
        "commission": (None not in (checked.open_cost, checked.close_cost), "beside open_cost and close_cost"),
        "st": (checked.limit_threshold != "rules", "with a limit_threshold of one's own"),
    }
    for name, (unused, why) in idle.items():
        if unused and getattr(checked, name) is not getattr(Options, name) and name in options:
            tell(f"{_OWNER}: {name} has no effect {why}")
    return checked


def rehearse_exchange(options: dict[str, Any]) -> None:
    """Check the options of an exchange as far as they can be without its bars; what has no effect is told.

    Raises: as AShareExchange.
    """
    chosen = read_options(options)
    pair, deals = thresholds(chosen.volume_threshold), prices(chosen.deal_price)
    limits = chosen.limit if isinstance(chosen.limit, tuple) else ()
    sides = pair.values() if isinstance(pair, dict) else [pair] if pair else []
    codes = stocks(chosen.codes, chosen.start_time, chosen.end_time)
    check_fields(codes, chosen, {*deals, *limits, *chosen.subscribe_fields, *(side[1] for side in sides)})
    chosen.impact_rule()
    if chosen.spells is not None:
        rules.st_mask(chosen.spells, codes, [chosen.start_time])


def impact_rule(impact: Any, exponent: float) -> Impact | None:
    """Market impact of a trade by the options `impact` and `impact_exponent` of AShareExchange; None where it is off.

    >>> impact_rule(1.0, 0.5)(1e6, 25e6, 0.02).item()  # 1 million of 25 million a day at a volatility of 2%
    4000.0
    """
    if isinstance(impact, dict):
        impact = init_instance_by_config(impact)
    if callable(impact):
        return impact
    return None if impact == 0 else partial(impact_cost, b=float(impact), exponent=float(exponent))


def stocks(codes: Any, start: Any, end: Any) -> list[str]:
    """Sorted codes of a market (all that are ever in it between start and end) or of a list, without indices.

    Raises: ValueError where none is left, or the provider lacks a code of the list.
    """
    is_market = isinstance(codes, str | dict)
    if is_market:
        market = D.instruments(codes) if isinstance(codes, str) else codes
        names = D.list_instruments(market, start_time=start, end_time=end, as_list=True)
    else:
        names = codes
    names = sorted({str(code) for code in names})
    kept = [code for code in names if not rules.is_index(code)]
    if len(kept) < len(names):
        logger.info(f"{len(names) - len(kept)} indices among the instruments are left out")
    if not kept:
        raise ValueError(f"{_OWNER}: codes is {codes!r}, no stock from {start} to {end}; give a market or a list")
    unknown = [] if is_market else sorted(set(kept) - set(having(kept, "$close")))
    if unknown:
        raise ValueError(
            f"{_OWNER}: codes names {len(unknown)} stocks that the provider does not have, {unknown[:5]} among them; "
            "write them as SH600000, or take them out"
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
    own = [] if options.liquidity == "auto" else rules.fields_of(options.liquidity, owner=_OWNER)
    texts |= set(own) - {"$volume"}
    for name in sorted({field for text in texts for field in _FIELD.findall(text)}):
        if next(having(codes, name), None) is None:
            there = known_fields(codes)
            close = difflib.get_close_matches(name, there) or there
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise ValueError(f"AShareExchange: no stock has the field {name}{hint}")


def prices(deal_price: Any) -> list[str]:
    """Deal price as qlib takes it: a pair of fields (buy, sell), each with its $ ("open" is "$open")."""
    both = [deal_price] * 2 if isinstance(deal_price, str) else list(deal_price) if _is_list(deal_price) else []
    if len(both) != 2 or not all(isinstance(price, str) and price for price in both):
        raise _wrong("deal_price", deal_price, "a field, or [buy, sell]")
    return [price if "$" in price else f"${price}" for price in both]


def thresholds(option: Any) -> Any:
    """Volume threshold as qlib takes it: tuples in the place of lists."""
    if isinstance(option, dict):
        if wrong := sorted(set(option) - {"all", "buy", "sell"}):
            raise ValueError(f"{_OWNER}: volume_threshold has {wrong}; allowed: all, buy and sell")
        return {side: _threshold(pair) for side, pair in option.items()}
    return None if option is None else _threshold(option)


def _threshold(option: Any) -> tuple[str, str]:
    pair = _tuple(option)
    fits = isinstance(pair, tuple) and len(pair) == 2 and pair[0] in ("cum", "current") and isinstance(pair[1], str)
    if not fits:
        raise _wrong("volume_threshold", option, "[cum or current, expression]")
    return pair


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _wrong(name: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{_OWNER}: {name} is {value!r}; allowed: {allowed}")
