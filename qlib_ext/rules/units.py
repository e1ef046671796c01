"""Units of a provider's fields: how a stock's turnover of a day comes out in yuan, and what can be true of it.

Providers do not agree on what $volume and $amount are (docs/units.md). A unit profile names the expression that gives
yuan; `unit_evidence.decide` finds it by what the fields themselves tell.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

PROFILES = {
    "community": "$amount * 1000",
    "yuan": "$amount",
    "adjusted_shares": "$close * $volume",
    "raw_shares": "$close / $factor * $volume",
    "adjusted_lots": "$close * $volume * 100",
    "raw_lots": "$close / $factor * $volume * 100",
}
AMOUNT_IN_YUAN = {"community": 1000.0, "yuan": 1.0}  # of $amount, in the profiles that have it
VOLUMES = {  # in the others: whether $volume is raw, and the shares that one of it is
    "adjusted_shares": (False, 1.0),
    "raw_shares": (True, 1.0),
    "adjusted_lots": (False, 100.0),
    "raw_lots": (True, 100.0),
}
TELLING = ("$close", "$volume", "$amount", "$factor")  # fields that tell the units
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


def fields_of(liquidity: Any, *, owner: str) -> list[str]:
    """Fields that turnover needs by a unit profile, "auto", or an expression of one's own with a $field (as it is).

    Raises: ValueError, in the name of `owner`, for an option `liquidity` that is none of these.
    """
    if liquidity == "auto":
        return [*TELLING]
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
    if profile in VOLUMES:
        raw, shares = VOLUMES[profile]
        price = fields["$close"].astype(np.float64)
        price = price / fields["$factor"].astype(np.float64) if raw else price
        return price * fields["$volume"].astype(np.float64) * shares
    if profile in AMOUNT_IN_YUAN:
        return fields["$amount"].astype(np.float64) * AMOUNT_IN_YUAN[profile]
    return fields[profile].astype(np.float64)


def check_turnover(
    values: npt.ArrayLike, profile: str, *, share: float | None = None, named: bool = False, told: str | None = None
) -> None:
    """Hold the mean turnover of a stock and day against what $amount says, or else against what can be yuan.

    Args:
        values: turnover, any shape, NaN where not known.
        profile: or expression, which gave it.
        share: of the turnover by $amount, see `unit_evidence.share_of_amount`; None: only its size tells the units.
        named: the user named the units: where nothing but the size tells, a size that small or very special universes
            have is a warning, and so is a profile that the evidence is against.
        told: the profile that the evidence tells, None where it tells none.

    Raises: ValueError for wrong units, naming the mean, what it should be and what to do.
    """
    turnover = np.asarray(values, dtype=np.float64)
    finite = turnover[np.isfinite(turnover)]
    if not finite.size and share is None:
        raise ValueError(f"no turnover is known by {PROFILES.get(profile, profile)}: are stocks and days in the data?")
    mean = float(finite.mean()) if finite.size else float("nan")
    low, high = PLAUSIBLE_TURNOVER
    usual = low <= mean <= high
    what = f"{PROFILES.get(profile, profile)} averages {mean:.4g} yuan a stock and day"
    against = told is not None and share is None and VOLUMES.get(profile, VOLUMES[told])[0] != VOLUMES[told][0]
    if told is not None and against and usual:
        warnings.warn(f"wrong units? {what}, but the data look like {told} ({PROFILES[told]}): name that", stacklevel=2)
    if share is not None and SHARES[0] <= share <= SHARES[1] or share is None and usual:
        if not usual:
            warnings.warn(f"{what}, {_OUTSIDE}", stacklevel=2)
        return
    cure = f"liquidity: {told}" if against else rescaled(profile, mean, share)
    if share is not None:
        raise ValueError(
            f"wrong units: {what}, {share:.4g} times what $amount says, whose identity with $close and $volume tells "
            f"its unit; here would fit {cure}"
        )
    if named and low / SLACK <= mean <= high * SLACK:
        warnings.warn(f"wrong units? {what}, {_OUTSIDE}; if it is none of these, {cure}", stacklevel=2)
        return
    way_out = "" if named else f"; where these are yuan, name the profile (liquidity: {profile})"
    raise ValueError(
        f"wrong units: {what}, usual are {low:.0e} to {high:.0e}, and there is no $amount to tell by; here would fit "
        f"{cure}{way_out}"
    )


def rescaled(profile: str, mean: float, share: float | None = None) -> str:
    """Name what would fit in place of a profile or expression whose mean turnover is wrong: its multiples, in words."""
    target = (mean / share * TENTH, mean / share / TENTH) if share else PLAUSIBLE_TURNOVER
    fits = [k for k in FACTORS if target[0] <= mean * k <= target[1]]
    raw, shares = VOLUMES.get(profile, (False, np.nan))
    named = [name for name, form in VOLUMES.items() if form in [(raw, shares * k) for k in fits]]
    scaled = [f"'({PROFILES.get(profile, profile)}) * {k:g}'" for k in fits]
    return " or ".join(f"liquidity: {fit}" for fit in named or scaled) or "liquidity: an expression in yuan"
