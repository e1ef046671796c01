"""What tells a provider's units: the identity of $amount with the other fields, or, without it, four signs in $volume.

Two questions: is $volume adjusted, as $close is, or raw; and is it shares or lots, $amount yuan or thousand yuan. With
$amount the median of $amount / (price * $volume) answers both, for the price that makes it the same in all stocks:
`$close`, or `$close / $factor`. Without it, where $factor is far from 1:

1. raw volumes are whole numbers, adjusted ones times $factor are (where float32 still shows fractions);
2. $close * $volume of raw volumes jumps with $factor on ex-rights days, of adjusted ones it does not: slopes 1 and 0;
3. the same from stock to stock; older stocks, whose factors are high, trade more: slopes 1.2 and 0.2 (A shares of 2010
   to 2022: 1.0 to 1.4 and 0.0 to 0.4);
4. its size, see `units.check_turnover`.

Legend: `D` days, `N` stocks.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.rules.units import AMOUNT_IN_YUAN, PLAUSIBLE_TURNOVER, TELLING, VOLUMES

FloatArray = npt.NDArray[np.float64]

# $amount / (price * $volume): the unit of $amount, and the shares that one of $volume is
IDENTITIES = {0.1: ("community", 100.0), 1.0: ("yuan", 1.0), 100.0: ("yuan", 100.0), 0.001: ("community", 1.0)}
SCALES = (1.0, 1e2, 1e3, 1e4, 1e6, 1e8)  # units that $amount is seldom in, yuan
COMPLETE = 0.99  # share of the stock days with a volume that $amount must cover to be the turnover

CELLS = 200_000  # stock days that all but the ex-rights days are looked at on, evenly spread; `ROWS` days at least
ROWS = 60
FAR = 0.26  # of log $factor from 0: below 0.77 and above 1.3
ALIKE = 0.1  # share of stock days with such a factor up to which raw and adjusted shares come to the same
FRACTIONS = (2.0**20, 2.0**18)  # volumes, and volumes * $factor, up to which float32 shows a fraction
EVENT, AROUND = 0.1, 5  # move of log $factor that is an ex-rights day; days before and after it that are compared
EVENTS = (8, 20_000)  # fewer of them say nothing, more are not needed
LEAST_CASES, MOSTLY = 20, 0.9  # whole numbers among them
SURE = 3.0  # log-likelihood ratio: 20 to 1


def evidence(fields: Mapping[str, Any]) -> pd.DataFrame:
    """Sum up what tells the units, a row for each stock; rows of several blocks may be put below one another.

    Args:
        fields: `units.TELLING`, (D, N) each, NaN where not known; days without volume say nothing.

    Returns:
        (N,) rows: `by_close`, `by_raw` medians of $amount / (price * $volume); counts and sums of the rest, see
        `_weigh`.
    """
    close, volume, amount, factor = (np.asarray(fields[name], dtype=np.float64) for name in TELLING)
    count = min(len(close), max(ROWS, CELLS // max(close.shape[1], 1)))
    rows = np.linspace(0, len(close) - 1, count).astype(int)
    with np.errstate(all="ignore"):
        value = np.where((close > 0) & (volume > 0), close * volume, np.nan)
        factor = np.where(factor > 0, factor, np.nan)
        out = _steps(value, factor)
        close, volume, amount, factor, value = (grid[rows] for grid in (close, volume, amount, factor, value))
        dealt, raw = np.where(amount > 0, amount, np.nan), value / factor
        ratios = {"by_close": median(dealt / value), "by_raw": median(dealt / raw)}
        out |= _whole_numbers(close, volume, factor, np.isfinite(value)) | _across(value, factor)
    known = np.isfinite(value)
    counts = {"known": known, "amounts": known & np.isfinite(dealt), "both": np.isfinite(raw)}
    sums = {"value": np.where(np.isfinite(raw), value, np.nan), "raw": raw, "amount": np.where(known, dealt, np.nan)}
    out |= {name: grid.sum(axis=0) for name, grid in counts.items()}
    return pd.DataFrame(ratios | out | {name: np.nansum(grid, axis=0) for name, grid in sums.items()})


def _whole_numbers(
    close: FloatArray, volume: FloatArray, factor: FloatArray, known: npt.NDArray[np.bool_]
) -> dict[str, FloatArray]:
    """Count volumes that are whole numbers, volumes times $factor, and closes in whole cents, and what was tried.

    Not tried are factors by which whole numbers stay whole: 100 shares times, or over, such a one are whole shares.
    """
    far = known & (np.abs(np.log(factor)) > FAR)
    plain = _whole(100.0 * factor, 0.02) | _whole(100.0 / factor, 0.02)
    out = {"far": far.sum(axis=0)}
    for name, numbers, most in (
        ("volumes", volume, FRACTIONS[0]),
        ("shares", volume * factor, FRACTIONS[1]),
        ("cents", 100.0 * close, FRACTIONS[1]),
    ):
        tried = far & ~plain & (numbers < most)
        out |= {name: tried.sum(axis=0), f"whole_{name}": (tried & _whole(numbers, 0.01 + 2e-7 * numbers)).sum(axis=0)}
    return out


def _whole(numbers: FloatArray, slack: Any) -> npt.NDArray[np.bool_]:
    return np.abs(numbers - np.rint(numbers)) < slack


def _steps(value: FloatArray, factor: FloatArray) -> dict[str, FloatArray]:
    """Sum up moves of log $factor on ex-rights days (x), and of the turnover about them (y), for a slope."""
    move = np.log(factor[1:] / factor[:-1])
    day, stock = np.nonzero(np.abs(move) > EVENT)
    keep = slice(None, None, 1 + len(day) // EVENTS[1])
    day, stock = day[keep] + 1, stock[keep]
    level = [np.full(len(day), np.nan) for _ in range(2 * AROUND)]
    for column, place in zip(level, day + np.arange(-AROUND, AROUND)[:, None], strict=True):
        there = (place >= 0) & (place < len(value))
        column[there] = np.log(value[place[there], stock[there]])
    y = median(np.array(level[AROUND:])) - median(np.array(level[:AROUND]))
    x = move[day - 1, stock]
    sound = np.isfinite(y)
    return _sums("step", x[sound], y[sound], stock[sound], value.shape[1])


def _across(value: FloatArray, factor: FloatArray) -> dict[str, FloatArray]:
    """Sum up log $factor (x) and log turnover (y), each less the day's mean, for a slope from stock to stock."""
    both = np.isfinite(value) & np.isfinite(factor)
    day, stock = np.nonzero(both)
    x, y = np.log(factor[both]), np.log(value[both])
    count = np.maximum(both.sum(axis=1), 1)
    x, y = (part - (np.bincount(day, part, len(value)) / count)[day] for part in (x, y))
    sums = _sums("stock", x, y, stock, value.shape[1])
    days = np.maximum(sums["stock_count"], 1.0)  # of a stock are no cases of their own
    return {name: total / days for name, total in sums.items()}


def _sums(name: str, x: FloatArray, y: FloatArray, stock: npt.NDArray[np.int64], count: int) -> dict[str, FloatArray]:
    parts = {"count": np.ones(len(x)), "xx": x * x, "xy": x * y, "yy": y * y}
    return {f"{name}_{key}": np.bincount(stock, part, count).astype(np.float64) for key, part in parts.items()}


# --- the decision


def decide(found: pd.DataFrame) -> str:
    """Decide the unit profile by the `evidence`; where raw and adjusted shares are the same it is adjusted_shares.

    So it is, with a warning, where a few stocks tell nothing.

    Raises: ValueError where the evidence fits none, contradicts itself or leans to raw shares, naming it and what fits.
    """
    if found["amounts"].sum() > 0:
        unit, raw, shares = amount_unit(found)
        if found["amounts"].sum() >= COMPLETE * found["known"].sum():
            return unit
        return next(name for name, form in VOLUMES.items() if form == (raw, shares))
    if profile := told(found):
        return profile
    signs = _weigh(found)
    sure = [words for words, weight in signs.items() if abs(weight) >= SURE]
    if not found["both"].sum() or not sure and found["far"].sum() <= ALIKE * found["both"].sum():
        return "adjusted_shares"
    mean = found[["value", "raw"]].sum() / found["both"].sum()
    words = (
        f"{'contradictory' if sure else 'not enough'} evidence whether $volume is adjusted or raw shares: "
        f"{'; '.join(sure or signs) or 'there are too few stocks and days'}. Name the one that is right, liquidity: "
        f"adjusted_shares ($close * $volume, {mean['value']:.3g} yuan a stock and day) or raw_shares ($close / $factor "
        f"* $volume, {mean['raw']:.3g})"
    )
    if sure or sum(signs.values()) > 0:
        raise ValueError(words)
    warnings.warn(f"{words}; without it adjusted_shares is taken, qlib's convention", stacklevel=2)
    return "adjusted_shares"


def told(found: pd.DataFrame) -> str | None:
    """Tell raw_shares or adjusted_shares by the signs in $volume that are sure; None without one, or if two differ."""
    raw = {weight > 0 for weight in _weigh(found).values() if abs(weight) >= SURE}
    return None if len(raw) != 1 else "raw_shares" if raw.pop() else "adjusted_shares"


def amount_unit(found: pd.DataFrame) -> tuple[str, bool, float]:
    """Tell by $amount its profile, whether $volume is raw, and the shares that one of it is.

    Raises: ValueError where the identity fits none within a factor of 2.
    """
    fits: list[tuple[float, bool, bool, str, float]] = []
    medians = []
    for raw, name in ((False, "by_close"), (True, "by_raw")):
        ratio = found[name].to_numpy()
        ratio = ratio[np.isfinite(ratio)]
        middle = float(np.median(ratio)) if len(ratio) else np.nan
        medians.append(middle)
        for expected, (unit, shares) in IDENTITIES.items():
            if 0.5 < middle / expected < 2.0:
                spread = float(np.median(np.abs(np.log(ratio / expected))))
                fits.append((round(spread, 1), not _usual(found, unit), raw, unit, shares))
    if fits:
        _, _, raw, unit, shares = min(fits)
        return unit, raw, shares
    fit = {
        k for k in SCALES for m in medians for shares in (1.0, 100.0) if 0.5 < k * m / shares < 2.0 and _usual(found, k)
    }
    cure = " or ".join(f"liquidity: '$amount * {k:g}'" for k in sorted(fit))
    cure = f"Here would fit {cure}" if cure else "Repair $volume or $amount"
    raise ValueError(
        f"$amount / ($close * $volume) has median {medians[0]:.4g}, with $close / $factor in place of $close "
        f"{medians[1]:.4g}; 0.1 or 0.001 fits 'community', 1 or 100 'yuan'. {cure}"
    )


def share_of_amount(turnover: npt.ArrayLike, amount: npt.ArrayLike, found: pd.DataFrame) -> float | None:
    """Tell how large a turnover is, as a share of the one that $amount gives where its identity tells its unit.

    Args:
        turnover: in yuan, so it is said, NaN where not known.
        amount: $amount, in the same shape.
        found: the `evidence`.

    Returns:
        1 where they agree; None where $amount tells nothing.
    """
    dealt, claimed = (np.asarray(grid, dtype=np.float64) for grid in (amount, turnover))
    both = np.isfinite(dealt) & np.isfinite(claimed)
    try:
        real = AMOUNT_IN_YUAN[amount_unit(found)[0]] * float(dealt[both].sum())
    except ValueError:
        return None
    return float(claimed[both].sum()) / real if real > 0 else None


def _usual(found: pd.DataFrame, unit: str | float) -> bool:
    """Whether $amount in such a unit is a usual turnover of a stock and day."""
    mean = found["amount"].sum() / max(found["amounts"].sum(), 1)
    scale = AMOUNT_IN_YUAN[unit] if isinstance(unit, str) else unit
    return bool(PLAUSIBLE_TURNOVER[0] <= mean * scale <= PLAUSIBLE_TURNOVER[1])


def _weigh(found: pd.DataFrame) -> dict[str, float]:
    """Say in words what each sign is: -> log-likelihood ratio of raw to adjusted shares.

    Where the closes themselves are in whole cents, they are raw: $close * $volume is right whatever the volumes say.
    """
    total = found.sum()
    share = {name: total[f"whole_{name}"] / max(total[name], 1) for name in ("volumes", "shares", "cents")}
    out = {}
    if total["cents"] >= LEAST_CASES and share["cents"] > MOSTLY:
        return {f"{share['cents']:.0%} of the closes are in whole cents though $factor is not 1": -2 * SURE}
    for name, weight in (("volumes", 2 * SURE), ("shares", -2 * SURE)):
        if total[name] >= LEAST_CASES and share[name] > MOSTLY:
            what = "$volume" if name == "volumes" else "$volume * $factor"
            out[f"{what} is a whole number in {share[name]:.0%} of {total[name]:.0f} cases"] = weight
            break
    for name, least, centre, doubt, what in (
        ("step", EVENTS[0], 0.0, 0.1, "on {:.0f} ex-rights days"),
        ("stock", 3, 0.2, 0.15, "from stock to stock, {:.0f} of them,"),
    ):
        count, xx, xy, yy = (total[f"{name}_{key}"] for key in ("count", "xx", "xy", "yy"))
        if count >= least and xx > 0:
            slope = xy / xx
            error = max(yy / xx - slope**2, 0.0) / (count - 2)
            words = f"{what.format(count)} $close * $volume goes with $factor to the power of {slope:.2f}"
            out[words] = (slope - centre - 0.5) / (doubt**2 + error)
    return out


def median(values: FloatArray) -> FloatArray:
    """Median over the first axis of what is known; NaN without a word where nothing is."""
    some = np.isfinite(values).any(axis=0)
    out = np.full(values.shape[1:], np.nan)
    out[some] = np.nanmedian(values[:, some], axis=0)
    return out
