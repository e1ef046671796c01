"""Units of a provider's fields: how a stock's turnover of a day comes out in yuan, and what can be true of it.

Providers do not agree on what $volume and $amount are (docs/units.md). A unit profile names the expression that gives
yuan; `decide` finds it by an identity between the fields.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

PROFILES = {"community": "$amount * 1000", "yuan": "$amount", "adjusted_shares": "$close * $volume"}
AMOUNT_IN_YUAN = {"community": 1000.0, "yuan": 1.0}  # of $amount, in the profiles that have it
# $amount / ($close * $volume): thousand yuan over lots, yuan over shares, yuan over lots
RATIOS = (("community", 0.1), ("yuan", 1.0), ("yuan", 100.0))
# Mean turnover of a stock and day in yuan: between these bounds for the A-share market since 2006, of which a whole
# market of 5,000 stocks makes 50 billion to 25 trillion; units that are wrong by 100 or 1,000 fall outside. Right ones
# can too: 6.8 million for the Beijing stocks alone, 7 billion for one very large stock.
PLAUSIBLE_TURNOVER = (1e7, 5e9)

SLACK = 3.0  # times beyond these bounds that the user's own word is taken
FACTORS = (1000.0, 100.0, 0.01, 0.001)  # what wrong units are wrong by
TENTH = 10.0**-0.5  # half way to the next power of ten, on a logarithmic scale
SHARES = (0.1, 10.0)  # of the turnover by $amount: an expression may leave out or smooth a part of it
_OUTSIDE = (
    f"usual are {PLAUSIBLE_TURNOVER[0]:.0e} to {PLAUSIBLE_TURNOVER[1]:.0e}: Beijing stocks, years before 2006 and "
    "universes of a few stocks can lie outside"
)

Field = TypeVar("Field", npt.NDArray[Any], pd.DataFrame)


def profile_of(ratio: float) -> str | None:
    """Tell the unit profile by the median of $amount / ($close * $volume); NaN (no $amount) means adjusted shares.

    0.1 is thousand yuan over lots, 1 yuan over shares, 100 yuan over lots; None where none fits within a factor of 2.
    """
    if not np.isfinite(ratio):
        return "adjusted_shares"
    return next((name for name, expected in RATIOS if 0.5 < ratio / expected < 2.0), None)


def decide(amount: npt.ArrayLike, value: npt.ArrayLike) -> str:
    """Decide the unit profile of a provider; without any $amount it is "adjusted_shares".

    Args:
        amount: $amount, any shape, NaN where not known.
        value: $close * $volume, of the same shape.

    Raises: ValueError where no profile fits, with the expression to use instead.
    """
    middle = _ratio(np.asarray(amount, dtype=np.float64), np.asarray(value, dtype=np.float64))
    profile = profile_of(middle)
    if profile is None:
        raise ValueError(
            f"$amount / ($close * $volume) has median {middle:.4g}; 0.1 fits 'community', 1 or 100 'yuan': "
            "give liquidity: an expression in yuan, for example '$amount * 1000'"
        )
    return profile


def _ratio(amount: npt.NDArray[np.float64], value: npt.NDArray[np.float64]) -> float:
    """Median of $amount over $close * $volume; NaN where neither is known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = amount / np.where(value > 0, value, np.nan)
    finite = ratio[np.isfinite(ratio)]
    return float(np.median(finite)) if finite.size else float("nan")


def fields_of(liquidity: Any, *, owner: str) -> list[str]:
    """Fields that turnover needs by a unit profile, "auto", or an expression of one's own with a $field (as it is).

    Raises: ValueError, in the name of `owner`, for an option `liquidity` that is none of these.
    """
    if liquidity == "auto":
        return ["$close", "$volume", "$amount"]
    if isinstance(liquidity, str) and liquidity in PROFILES:
        return re.findall(r"\$\w+", PROFILES[liquidity])
    if isinstance(liquidity, str) and "$" in liquidity:
        return [liquidity]
    raise ValueError(
        f"{owner}: liquidity is {liquidity!r}; it must be auto, {', '.join(PROFILES)}, or an expression of a day's "
        "turnover in yuan such as '$amount'."
    )


def turnover_in_yuan(profile: str, fields: Mapping[str, Field]) -> Field:
    """Turnover of each day in yuan, float64, in the shape of the fields.

    Args:
        profile: a unit profile (not "auto"), or an expression.
        fields: of `fields_of(profile)`, with their $; that of an expression under its own text.
    """
    if profile == "adjusted_shares":
        return fields["$close"].astype(np.float64) * fields["$volume"].astype(np.float64)
    if profile in AMOUNT_IN_YUAN:
        return fields["$amount"].astype(np.float64) * AMOUNT_IN_YUAN[profile]
    return fields[profile].astype(np.float64)


def share_of_amount(turnover: npt.ArrayLike, fields: Mapping[str, Field]) -> float | None:
    """Tell how large a turnover is, as a share of the one that $amount gives where its identity tells its unit.

    Args:
        turnover: in yuan, so it is said, in the shape of the fields, NaN where not known.
        fields: $close, $volume, $amount of the same stocks and days.

    Returns:
        1 where they agree; None where $amount tells nothing.
    """
    amount, claimed = (np.asarray(grid, dtype=np.float64) for grid in (fields["$amount"], turnover))
    profile = profile_of(_ratio(amount, np.asarray(fields["$close"] * fields["$volume"], dtype=np.float64)))
    if profile not in AMOUNT_IN_YUAN:
        return None
    both = np.isfinite(amount) & np.isfinite(claimed)
    real = AMOUNT_IN_YUAN[profile] * float(amount[both].sum())
    return float(claimed[both].sum()) / real if real > 0 else None


def check_turnover(values: npt.ArrayLike, expression: str, *, share: float | None = None, named: bool = False) -> None:
    """Hold the mean turnover of a stock and day against what $amount says, or else against what can be yuan.

    Args:
        values: turnover, any shape, NaN where not known.
        expression: which gave it, for the message.
        share: of the turnover by $amount, see `share_of_amount`; None: nothing but its size tells the units.
        named: the user named the units: where nothing but the size tells, a size that small or very special universes
            have is a warning.

    Raises: ValueError for wrong units, naming the mean, what it should be and what to do.
    """
    turnover = np.asarray(values, dtype=np.float64)
    finite = turnover[np.isfinite(turnover)]
    mean = float(finite.mean()) if finite.size else float("nan")
    low, high = PLAUSIBLE_TURNOVER
    usual = low <= mean <= high
    what = f"{expression} averages {mean:.4g} yuan a stock and day"
    if share is not None and SHARES[0] <= share <= SHARES[1] or share is None and usual:
        if not usual:
            warnings.warn(f"{what}, {_OUTSIDE}", stacklevel=2)
        return
    target = (mean / share * TENTH, mean / share / TENTH) if share else PLAUSIBLE_TURNOVER
    fits = [k for k in FACTORS if target[0] <= mean * k <= target[1]]
    cure = " or ".join(f"liquidity: '({expression}) * {k:g}'" for k in fits) or "liquidity: an expression in yuan"
    if share is not None:
        raise ValueError(
            f"wrong units: {what}, {share:.4g} times what $amount says, whose identity with $close and $volume tells "
            f"its unit; here would fit {cure}"
        )
    if named and low / SLACK <= mean <= high * SLACK:
        warnings.warn(f"wrong units? {what}, {_OUTSIDE}; if it is none of these, {cure}", stacklevel=2)
        return
    way_out = "" if named else "; where these are yuan, name the profile (liquidity: adjusted_shares)"
    raise ValueError(
        f"wrong units: {what}, usual are {low:.0e} to {high:.0e}, and there is no $amount to tell by; here would fit "
        f"{cure}{way_out}"
    )
