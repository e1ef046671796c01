"""Turnover and liquidity in yuan by unit profiles, read through qlib. Private to `data.py`, which shows the names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from qlib.data import D
from qlib.log import get_module_logger

from qlib_ext import rules
from qlib_ext.provider.storage import read_days, read_fields, wide
from qlib_ext.rules import AMOUNT_IN_YUAN, PROFILES, check_turnover

logger = get_module_logger("qlib_ext.data")

_NAMED = {text: name for name, text in PROFILES.items()}
DECIDED_BY = 5  # days spread over the span, by which "auto" decides

Fields = Mapping[str, pd.DataFrame]


def unit_profile(instruments: list[str], start: Any, end: Any) -> str:
    """Decide the unit profile by identities between the fields on up to five days of the span.

    Where $amount exists, amount / (close * volume) is 0.1 in the community's units (thousand yuan over lots), 1 for
    yuan over adjusted shares and 100 for yuan over lots. Without $amount, close * volume must be a plausible turnover.

    Raises: ValueError where no profile fits, with the expression to use instead.

    """
    raw = _some_days(instruments, start, end)
    value = raw["$close"] * raw["$volume"]
    profile = rules.decide(raw["$amount"], value)
    if profile == "adjusted_shares":
        check_turnover(value, PROFILES[profile])
    return profile


def _some_days(instruments: list[str], start: Any, end: Any) -> dict[str, pd.DataFrame]:
    """Read the fields that tell the units on a few days of the span, in float64."""
    days = pd.DatetimeIndex(D.calendar(start_time=start, end_time=end))
    if not len(days):
        raise ValueError(f"no trading day from {start} to {end}: no unit profile can be told")
    picks = days[sorted({int(i) for i in np.linspace(0, len(days) - 1, DECIDED_BY)})]
    raw = read_days(instruments, ["$close", "$volume", "$amount"], picks)
    return {field: frame.astype(np.float64) for field, frame in raw.items()}


def turnover_expression(profile: str, instruments: list[str], start: Any, end: Any) -> str:
    """Return the expression of a day's turnover in yuan for a profile name, "auto" or an expression with a $field.

    Raises: ValueError for a profile that is none of these, or, with "auto", where none fits (see `unit_profile`).

    """
    rules.fields_of(profile, owner="turnover")
    if profile == "auto":
        profile = unit_profile(instruments, start, end)
        logger.info(f"unit profile: {profile} (turnover in yuan = {PROFILES[profile]})")
    return PROFILES.get(profile, profile)


def load_liquidity(
    instruments: list[str], start: Any, end: Any, *, profile: str = "auto", window: int = 20
) -> pd.DataFrame:
    """Trailing mean turnover in yuan a day (day x instrument), known at the close of the day.

    As Mean(turnover, window) of qlib on all days of a stock's series; it goes on for window - 1 days after its end.

    Raises: ValueError for an unknown profile, or for wrong units (see `units.check_turnover`).

    """
    return profiled_liquidity(instruments, start, end, profile=profile, window=window)[0]


def profiled_liquidity(
    instruments: list[str], start: Any, end: Any, *, profile: str, window: int, known: Fields | None = None
) -> tuple[pd.DataFrame, str]:
    """Load the liquidity, and tell the profile or expression that it came by.

    `known`: raw fields of the instruments from window - 1 days before `start` on, which are not read again.
    """
    expression = turnover_expression(profile, instruments, start, end)
    name = _NAMED.get(expression, expression)
    if expression in _NAMED:
        rows = len(D.calendar(start_time=start, end_time=end)) + window - 1
        fields = {field: frame.loc[: pd.Timestamp(end)].tail(rows) for field, frame in (known or {}).items()}
        lacking = [field for field in rules.fields_of(name, owner="load_liquidity") if field not in fields]
        if lacking:
            fields |= read_fields(instruments, lacking, start, end, lead=window - 1)
        turnover = turnover_of(expression, fields)
        mean = turnover.rolling(window, min_periods=1).mean().loc[pd.Timestamp(start) :]
    else:
        (mean,) = wide(instruments, [f"Mean({expression}, {window})"], start, end)
    if not np.isfinite(mean.to_numpy()).any():
        raise ValueError(f"{expression} is nowhere known between {start} and {end}: the provider lacks the field")
    share = 1.0 if profile == "auto" and name in AMOUNT_IN_YUAN else None
    if profile != "auto":
        some = _some_days(instruments, start, end)
        share = rules.share_of_amount(mean.reindex_like(some["$close"]), some)
    check_turnover(mean, expression, share=share, named=profile != "auto")
    return mean, name


def turnover_of(expression: str, raw: Fields) -> pd.DataFrame:
    """Day's turnover in yuan (day x instrument) by the expression of a unit profile."""
    return rules.turnover_in_yuan(_NAMED[expression], raw)
