"""Checks of single bars: prices, suspensions, returns, limits, factor and change.

Each function looks at one block (D days, N stocks) and adds its findings to a tally; a new check is a row of `BARS` and
a `note`.
"""

import numpy as np
import pandas as pd

from qlib_ext.check_data.folder import Block
from qlib_ext.check_data.table import BoolArray, Check, FloatArray, Tally
from qlib_ext.check_data.units import RUN, first_run
from qlib_ext.rules import limit_down_price, limit_up_price

TOUCH = 1e-4  # relative tolerance of prices that should not cross
CENT = 0.011  # yuan beyond the limit price: more than a rounding of the reference
APPROXIMATE = 0.01  # beyond the limit where $factor is not known
ABSURD = (-0.5, 1.0)  # returns outside are absurd on days with a limit
EX_RIGHTS = 0.03  # move of $factor that shows in prices
FACTOR_MOVE = (0.7, 8.0)  # plausible ratio of $factor to the day before
MISFIT = 0.005  # between $change and the return of closes
LATELY = 20  # last days, of which a field that goes on knows most
PAUSE = 120  # days without a bar that are told
DELISTING = 30  # last days of a stock that ended: the delisting period has days without a limit


BARS: dict[str, Check] = {
    "price_not_positive": Check("error", "make the price NaN, or repair its source"),
    "bar_order": Check(
        "warning", "open and close must be within low and high: are all adjusted alike?", error_from=1e-3
    ),
    "incomplete_bar": Check("warning", "a bar with a close needs open, high and low: make it NaN, or repair it"),
    "vwap_outside": Check(
        "warning",
        "$vwap is outside low and high: multiply it by $factor where it is raw, or correct its unit",
        told_from=0.01,
    ),
    "volume_negative": Check("error", "$volume or $amount below 0 or infinite: make the bar NaN, or repair its source"),
    "field_holes": Check(
        "warning", "a day with trade lacks the field: dump it again from a source that has it", told_from=1e-3
    ),
    "field_lately": Check("warning", "the field is missing at the end: download it up to the last day"),
    "zero_volume": Check(
        "warning",
        "a price without trade: such days count as suspended here; qlib's own handlers and exchange take them for days "
        "of trade: make them NaN in all fields but $factor",
    ),
    "repeated_bar": Check("warning", "the day before again: a filled suspension should be NaN", error_from=1e-3),
    "absurd_return": Check(
        "warning", "look at the days: relisting, or a broken adjustment? Clip or drop such labels", error_from=1e-3
    ),
    "beyond_limit": Check(
        "warning", "no trade can be beyond the day's limit: check $factor and prices of the day", error_from=1e-2
    ),
    "range_beyond_limit": Check(
        "warning",
        "no high or low can be beyond the day's limit: check $high, $low and their adjustment",
        error_from=1e-2,
    ),
    "unadjusted": Check(
        "error",
        "prices fall when $factor rises: they are not adjusted; multiply them by $factor",
        told_from=0.5,
        least=3,  # a few days may have one case: shares given away without a lower price, in a reorganisation
    ),
    "factor_gaps": Check("warning", "fill $factor forward: qlib's exchange drops lots for all stocks without it"),
    "factor_jump": Check("warning", "such an ex-rights factor is hardly real: check $factor of the day"),
    "factor_cents": Check(
        "warning", "$close / $factor is no price in whole cents: limit prices will be wrong", told_from=0.05
    ),
    "change_percent": Check("error", "$change of these stocks must be a fraction: divide by 100"),
    "change_raw": Check(
        "warning", "$change marks ex-rights days as limit-down: use $close/Ref($close,1)-1", told_from=0.5
    ),
    "change_wrong": Check("warning", "$change is not $close/Ref($close,1)-1: dump it again", told_from=1e-3),
    "limit_bars": Check("info", "closes at limit-up: such stocks cannot be bought there (the mask `buyable`)"),
    "suspended": Check("info", "days without trade are NaN, as they should be"),
    "long_gap": Check("info", "more than 120 days without a bar: a long suspension, or missing data"),
}


def check_bars(block: Block, tally: Tally) -> None:
    """Run all checks of this module on a block."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        check_prices(block, tally)
        check_gaps(block, tally)
        check_suspensions(block, tally)
        check_returns(block, tally)
        check_factor(block, tally)
        check_change(block, tally)


def check_prices(block: Block, tally: Tally) -> None:
    """Look for prices that cannot be, and bars whose prices cross."""
    price = {name: block.fields[name] for name in ("open", "high", "low", "close", "vwap")}
    volume, amount = block.fields["volume"], block.fields["amount"]
    wrong = np.any([(p <= 0) | np.isinf(p) for p in price.values()], axis=0)
    note(block, tally, "price_not_positive", wrong, block.trades | wrong, price)
    top, bottom = price["high"] * (1 + TOUCH), price["low"] * (1 - TOUCH)
    crossed = (bottom > top) | (price["close"] > top) | (price["close"] < bottom)
    crossed |= (price["open"] > top) | (price["open"] < bottom)
    sound = block.trades & ~wrong
    note(block, tally, "bar_order", crossed & sound, sound, {k: price[k] for k in ("open", "high", "low", "close")})
    lacking = np.zeros_like(sound)
    for name in ("open", "high", "low"):
        if _known(price[name]):
            lacking |= np.isnan(price[name])
    note(block, tally, "incomplete_bar", lacking & block.trades, block.trades, price)
    off = (price["vwap"] > price["high"] * 1.01) | (price["vwap"] < price["low"] * 0.99)
    note(block, tally, "vwap_outside", off & sound & ~crossed, sound & np.isfinite(price["vwap"]), price)
    wrong = (volume < 0) | (amount < 0) | np.isinf(volume) | np.isinf(amount)
    note(block, tally, "volume_negative", wrong, block.trades | wrong, {"volume": volume, "amount": amount})


def check_gaps(block: Block, tally: Tally) -> None:
    """Look for days with trade on which a field is missing that the stock has on others, and for fields that ended."""
    late = np.arange(len(block.days))[:, None] >= len(block.days) - LATELY
    ended: list[str] = []
    for name in ("open", "high", "low", "volume", "amount", "vwap", "factor", "change"):
        there = np.isfinite(block.fields[name])
        if name == "amount":
            there &= block.fields[name] > 0
        dealt = block.priced & ~(block.fields["volume"] <= 0) if name == "volume" else block.trades
        hole = dealt & ~there & there.any(axis=0)
        lost = (hole & late).sum(axis=0) > np.maximum(4, (dealt & late).sum(axis=0) / 2)
        ended += [f"{block.codes[n]} ${name}" for n in np.flatnonzero(lost).tolist()]
        if name in ("amount", "vwap") and there.any():
            day, stock = (int(axis[0]) for axis in np.nonzero(hole)) if hole.any() else (0, 0)
            words = f"{block.codes[stock]} {block.days[day].date()} ${name}"
            tally.add("field_holes", int(hole.sum()), int(dealt.sum()), words)
    tally.each("field_lately", ended, 8 * len(block.codes))


def check_suspensions(block: Block, tally: Tally) -> None:
    """Tell suspended days that are filled from those that are NaN, and long ones."""
    volume, trades = block.fields["volume"], block.trades
    idle = block.priced & ~trades & ~(volume < 0)
    note(block, tally, "zero_volume", idle, block.priced, {"close": block.fields["close"]})
    same = trades.copy()
    same[:1] = False
    for name in ("open", "high", "low", "close", "volume"):
        values = block.fields[name]
        same[1:] &= values[1:] == values[:-1]
    note(block, tally, "repeated_bar", same & (volume > 0), trades, {"close": block.close, "volume": volume})
    row = np.arange(len(block.days))[:, None]
    inside = (row >= block.begin) & (row <= block.last)
    tally.add("suspended", int((inside & ~trades).sum()), int(inside.sum()), "stock days without a trade")
    long = [(n, length) for n, length in enumerate(_longest(inside & ~trades)) if length > PAUSE]
    tally.each("long_gap", [f"{block.codes[n]} {length} days" for n, length in long], len(block.codes))


def check_returns(block: Block, tally: Tally) -> None:
    """Look for returns that the limit of board and date does not allow, outside free days."""
    move, limit, factor = block.returns, block.limit, block.fields["factor"]
    judged = np.isfinite(move) & ~np.isinf(limit)  # without a known rule only the absurd is told
    absurd = judged & ((move < ABSURD[0]) | (move > ABSURD[1]))
    note(block, tally, "absurd_return", absurd, judged, {"return": move, "limit": limit})
    row = np.arange(len(block.days))[:, None]
    leaving = (row > block.last - DELISTING) & (block.last < len(block.days) - 20)
    judged &= np.isfinite(limit) & ~leaving
    reference = np.round(block.before / factor, 2)
    top, bottom = limit_up_price(reference, limit), limit_down_price(reference, limit)
    exact = np.isfinite(factor) & (factor > 0)

    def beyond(price: FloatArray) -> BoolArray:
        raw, step = np.round(price / factor, 2), np.abs(price / block.before - 1.0)
        return np.where(exact, (raw > top + CENT) | (raw < bottom - CENT), step > limit + APPROXIMATE)

    out = beyond(block.close) & judged
    note(block, tally, "beyond_limit", out & ~absurd, judged, {"return": move, "limit": limit})
    ends = {name: block.fields[name] for name in ("high", "low")}
    around = (ends["low"] <= block.close) & (block.close <= ends["high"]) & np.isfinite(ends["high"])
    wide = (beyond(ends["high"]) | beyond(ends["low"])) & around & judged & ~out
    note(block, tally, "range_beyond_limit", wide, judged, {"close before": block.before, **ends, "limit": limit})
    locked = np.abs(np.round(block.close / factor, 2) - top) < 0.005
    note(block, tally, "limit_bars", exact & judged & locked, judged, {"return": move})


def check_factor(block: Block, tally: Tally) -> None:
    """Look for gaps and jumps of $factor, prices that do not follow it, and raw prices off the cent."""
    factor, trades = block.fields["factor"], block.trades
    if not _known(factor):
        return
    gap = trades & ~(np.isfinite(factor) & (factor > 0))
    note(block, tally, "factor_gaps", gap, trades, {"factor": factor})
    ratio = _ratio(factor)
    odd = (ratio < FACTOR_MOVE[0]) | (ratio > FACTOR_MOVE[1])
    note(block, tally, "factor_jump", odd, np.isfinite(ratio), {"ratio to the day before": ratio})
    events, follows = ex_rights(block), np.log1p(block.returns)
    jumped = np.log(_since_trade(block))
    unadjusted = events & (np.abs(follows + jumped) < np.abs(follows))
    note(block, tally, "unadjusted", unadjusted, events, {"return": block.returns})
    cents = block.close / factor * 100.0
    whole = np.isfinite(cents) & (cents < 1e8)
    off = whole & (np.abs(cents - np.rint(cents)) > 0.02 + 3e-7 * cents)
    note(block, tally, "factor_cents", off, whole, {"close/factor": cents / 100.0})


def check_change(block: Block, tally: Tally) -> None:
    """Compare $change with the return of adjusted closes: percent, raw closes, or anything else."""
    change, move = block.fields["change"], block.returns
    both = np.isfinite(change) & np.isfinite(move)
    if not both.any():
        return
    shown = {"change": change, "return": move}
    clear = both & (np.abs(move) > 0.002)
    percent = _in_percent(clear, np.abs(change / 100.0 - move) < 0.3 * np.abs(move))
    judged = clear.any(axis=0)
    cases = [f"{block.codes[n]} {words}" for n, words in percent.items()]
    tally.each("change_percent", cases, int(judged.sum()))
    events = both & ex_rights(block)
    hundredth = np.full_like(change, np.inf)  # the other reading, for stocks that are in percent only
    hundredth[:, list(percent)] = change[:, list(percent)] / 100.0
    step = _since_trade(block)
    raw = np.where(np.isfinite(step), (1.0 + move) / step - 1.0, move)
    as_raw = np.fmin(np.abs(change - raw), np.abs(hundredth - raw))
    own = np.fmin(np.abs(change - move), np.abs(hundredth - move))
    note(block, tally, "change_raw", events & (as_raw < own), events, shown)
    note(block, tally, "change_wrong", both & (np.minimum(own, as_raw) > MISFIT), both, shown)


def _in_percent(clear: BoolArray, percent: BoolArray) -> dict[int, str]:
    """Tell stocks in percent on most of their clear days (D, N), or on `RUN` of them in a row: column -> words."""
    out = {}
    for n in np.flatnonzero((clear & percent).any(axis=0)).tolist():
        hits = percent[clear[:, n], n]
        if len(hits) >= RUN and (2 * hits.sum() > len(hits) or first_run(hits)):
            out[n] = f"on {hits.sum()} of {len(hits)} days"
    return out


def ex_rights(block: Block) -> BoolArray:
    """(D, N): days on which $factor moved by enough to see it in the return."""
    return np.isfinite(block.returns) & (np.abs(_since_trade(block) - 1.0) > EX_RIGHTS)


def note(
    block: Block, tally: Tally, check: str, cases: BoolArray, judged: BoolArray, shown: dict[str, FloatArray]
) -> None:
    """Add the cases (D, N) among what is `judged`, the first by day as the example with the values shown."""
    example = ""
    if cases.any():
        day, stock = (int(axis[0]) for axis in np.nonzero(cases))
        values = {name: grid[day, stock] for name, grid in shown.items()}
        words = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if not np.isnan(value))
        example = f"{block.codes[stock]} {block.days[day].date()}" + (f": {words}" if words else "")
    tally.add(check, int(cases.sum()), int(judged.sum()), example)


def _known(values: FloatArray) -> bool:
    return bool(np.isfinite(values).any())


def _ratio(factor: FloatArray) -> FloatArray:
    """(D, N) value over the last one known before the day."""
    sound = np.where(factor > 0, factor, np.nan)
    return np.asarray(sound / pd.DataFrame(sound).ffill().shift(1).to_numpy())


def _since_trade(block: Block) -> FloatArray:
    """(D, N) $factor over that of the last day with a bar, on days with a bar."""
    return _ratio(np.where(block.trades, block.fields["factor"], np.nan))


def _longest(holes: BoolArray) -> list[int]:
    """Longest run of True of each column of (D, N)."""
    run = np.zeros(holes.shape[1], dtype=np.int64)
    best = run.copy()
    for row in holes:
        run = np.where(row, run + 1, 0)
        best = np.maximum(best, run)
    return [int(length) for length in best]
