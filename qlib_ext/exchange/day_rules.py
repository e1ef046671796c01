"""What the exchange knows of each day and stock: the market's rules applied to the bars.

Legend: `D` days of the backtest, `N` stocks; prices are adjusted unless they are called raw.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from qlib.log import get_module_logger

from qlib_ext import rules
from qlib_ext.exchange.options import Options
from qlib_ext.exchange.quote import Bars, Grid, forward, turnover
from qlib_ext.provider import trailing_mean, trailing_std

logger = get_module_logger("qlib_ext.exchange")

SCALE = 1e-8  # a price below it is none, as for qlib
HALT = 20  # trading days after the last bar
SAME_FACTOR = 1e-4  # relative; beyond it the day is one of ex-rights, whose reference price is right to a cent


@dataclass(frozen=True)
class DayRules:
    """What the exchange knows of each day and stock.

    `data`: field -> (D, N) of the quote. (D, N): `suspended`, `unknown_limit` bool; `reference` raw yuan, the previous
    close after ex-rights adjustment; `traded` yuan of the day itself, an outcome; `liquidity` yuan and `sigma`, known
    at the previous close; `last_close`.
    `lots`: see `rules.Lots`. (N,): `listed`, `gone`: row of the first day, and of the first as delisted. (D,):
    `settles`, T+1 is in force. `adjusted`: no factor, so no lots. `profile`: how turnover came by.
    """

    days: pd.DatetimeIndex
    data: dict[str, Grid]
    suspended: Grid
    unknown_limit: Grid
    reference: Grid
    traded: Grid
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

    def unknown(self, place: tuple[int, int], options: Options) -> str:
        """Liquidity or volatility (no history yet), where a cap or the impact needs it and it is not known; else ""."""
        traded = float(self.liquidity[place])
        needed = options.participation is not None or options.impact != 0
        if needed and not (math.isfinite(traded) and traded > 0):
            return "unknown_liquidity"
        return "unknown_volatility" if options.impact != 0 and not math.isfinite(self.sigma[place]) else ""

    def refusal(self, place: tuple[int, int], *, buys: bool) -> str:
        """Why an order that cannot be dealt cannot (see `AShareExchange.blocked`)."""
        if place[0] >= self.gone[place[1]]:
            return "delisted"
        if self.suspended[place]:
            return "not_listed" if place[0] < self.listed[place[1]] else "suspended"
        if self.unknown_limit[place]:
            return "limit_unknown"
        return "limit_up" if buys else "limit_down"


def whole_shares(amount: float, factor: float, least: float, step: float) -> float:
    """Round adjusted shares down to whole lots of raw shares (amount * factor).

    Args:
        amount: adjusted shares, at least 0.
        factor: raw shares of an adjusted one.
        least: raw shares of the smallest order.
        step: raw shares between two orders.

    Returns:
        Adjusted shares; 0 where that is below the smallest order.
    """
    shares = amount * factor
    whole = (shares + 1e-6 + 1e-9 * shares) // step * step  # qlib adds 0.1 share, which can overdraw the cash
    return whole / factor if whole >= least else 0.0


def apply_rules(bars: Bars, wanted: set[str], deal: tuple[str, str], options: Options) -> DayRules:
    """Apply the rules of each day to the bars; `wanted`: fields of the quote, `deal`: (buy, sell) price."""
    lead, days = bars.lead, bars.days[bars.lead :]
    data = {name: bars.fields[name][lead:] for name in wanted}
    if not (data["$volume"] > 0).any():
        raise ValueError("AShareExchange: the provider has no $volume, so suspensions are not known; add the field.")
    for name in sorted(wanted - {"$change", "$factor"}):
        if not np.isfinite(data[name].astype(np.float64)).any():
            raise ValueError(f"AShareExchange: {name} is not known on any day from {days[0]:%Y-%m-%d} on")
    suspended = ~np.isfinite(data["$close"])  # filled days are not known: see `provider.filled_days`
    close = bars.fields["$close"].astype(np.float64)
    yuan, profile = turnover(bars, options.liquidity)
    with np.errstate(divide="ignore", invalid="ignore"):
        step = close / np.vstack([np.full_like(close[:1], np.nan), close[:-1]]) - 1.0
    data["$factor"], adjusted = _factor(bars.codes, data["$factor"], suspended, options)
    with np.errstate(divide="ignore", invalid="ignore"):
        reference = np.round(forward(close, before=True)[lead:] / data["$factor"], 2)
    data["limit_buy"], data["limit_sell"], unknown = _limits(bars, data, suspended, reference, deal, options)
    return DayRules(
        days,
        data,
        suspended,
        unknown,
        reference,
        yuan[lead:],
        _eve(trailing_mean(yuan, options.liquidity_window).where(lambda mean: mean > 0))[lead:],
        _eve(trailing_std(step, options.volatility_window))[lead:],
        forward(close)[lead:],
        rules.lot_rule(bars.codes, days),
        bars.first - lead,
        np.maximum(_gone(bars, options.delisted_after) - lead, 0),
        rules.settles_next_day(days) & options.t_plus_1,
        adjusted,
        profile,
        [rules.scope_of(code) for code in bars.codes],
    )


def _gone(bars: Bars, after: int | None) -> Grid:
    """Row (N,) of the bars of each stock's first day as delisted; may lie outside.

    The day after its listing ends, where the provider's list of all stocks says so: the bourse announces it ahead. Else
    nobody can tell a delisting from a suspension on the day, so it is waited for. In the calendar's last days a list
    that was made from the bars ends with a suspension too: that of a stock that may trade again is not settled.
    """
    wait = HALT if after is None else after
    told = bars.ended < len(bars.days) + bars.rest - wait
    return np.where(told & (after is None), bars.ended + 1, bars.last + wait)


def _eve(values: pd.DataFrame) -> Grid:
    """Last known values at the close before, (P, N): carried through suspensions, as in the strategy."""
    return forward(values.to_numpy(), before=True)


def _factor(codes: tuple[str, ...], factor: Grid, suspended: Grid, options: Options) -> tuple[Grid, bool]:
    """Factor with its gaps filled, and whether it is missing; an error where a rule needs a missing one."""
    filled = forward(factor.astype(np.float64))
    lacks = (~suspended & ~np.isfinite(filled)).any(axis=0)
    if lacks.any() and (options.limit_threshold == "rules" or options.trade_unit is not None):
        some = [codes[n] for n in np.flatnonzero(lacks)[:3]]
        raise ValueError(
            f"AShareExchange: {int(lacks.sum())} stocks, {some} among them, have no $factor: raw prices and lots are "
            "not known. Give limit_threshold: null (or qlib's float) and trade_unit: null, or leave these stocks out."
        )
    return filled, bool(lacks.any())


def _limits(
    bars: Bars, data: dict[str, Grid], suspended: Grid, reference: Grid, deal: tuple[str, str], options: Options
) -> tuple[Grid, Grid, Grid]:
    """(D, N) bool each: no buy possible, no sell possible, and the limit is not known."""
    unknown = np.zeros_like(suspended)
    limit = options.limit
    if options.limit_threshold == "rules":
        lead = min(
            bars.lead, rules.NEW_DAYS
        )  # the regime of a new stock is that of its first day, maybe before the backtest
        days, age = bars.days[bars.lead - lead :], bars.age[bars.lead - lead :]
        mask = None if (spells := options.spells) is None else _special(spells, bars.codes, days)
        rise, fall = (
            rules.price_limit(bars.codes, days, listed_days=age, st=mask, side=s)[lead:] for s in ("up", "down")
        )
        free = np.isinf(rise)
        up, down = rules.limit_up_price(reference, rise), rules.limit_down_price(reference, fall)
        buy, sell = (_raw(data, field) for field in deal)
        eve = forward(bars.fields["$factor"].astype(np.float64), before=True)[bars.lead :]
        near = np.where(np.isclose(eve, data["$factor"], rtol=SAME_FACTOR), 0.0, 0.01) + 1e-6  # yuan
        stuck = _one_price(bars, data, reference, near)
        blocks = (~free & ~(buy < up - near) | stuck[0], ~free & ~(sell > down + near) | stuck[1])
        unknown = ~free & ~np.isfinite(up)
    elif limit is None:
        blocks = (unknown, unknown)
    elif isinstance(limit, float):
        blocks = (data["$change"] >= limit, data["$change"] <= -limit)
    else:
        blocks = (data[limit[0]].astype(bool), data[limit[1]].astype(bool))
    return blocks[0] | suspended, blocks[1] | suspended, unknown


def _one_price(bars: Bars, data: dict[str, Grid], reference: Grid, near: Grid) -> list[Grid]:
    """(D, N) bool each: locked all day at the limit up, down, of special treatment; none where highs are not loaded."""
    raw = {}
    for name in ("high", "low"):
        price = bars.fields.get(f"${name}", np.full_like(bars.fields["$close"], np.nan))[bars.lead :]
        with np.errstate(divide="ignore", invalid="ignore"):
            raw[name] = np.round(price.astype(np.float64) / data["$factor"], 2)
    days, age = bars.days[bars.lead :], bars.age[bars.lead :]
    known = {"prev_close": reference, "listed_days": age, "near": near}
    return [rules.one_price_limit(bars.codes, days, **raw, **known, side=side) for side in ("up", "down")]


def _special(spells: Any, codes: tuple[str, ...], days: pd.DatetimeIndex) -> Grid:
    """(D, N) special treatment by the user's list; logs how much of it is here."""
    mask = rules.st_mask(spells, codes, days)
    logger.info(
        f"special treatment: {int(mask.any(axis=0).sum())} stocks of {len(codes)} are under it, {int(mask.sum())} days "
        "in all"
    )
    return mask


def _raw(data: dict[str, Grid], field: str) -> Grid:
    """Raw price in whole cents, (D, N); the close where the field has none, as qlib deals."""
    price = np.where(data[field] > SCALE, data[field], data["$close"])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.round(price / data["$factor"], 2))
