"""Turnover, liquidity and volatility as known at the close of a day: trailing means over a stock's own rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext import rules
from qlib_ext.provider.storage import calendar, only_traded, read_days, read_fields, wide
from qlib_ext.rules import AMOUNT_IN_YUAN, PROFILES, check_turnover

_PROFILE_OF = {text: name for name, text in PROFILES.items()}
DECIDED_BY = 5  # days spread over the span, by which "auto" decides
HISTORY, MOST_STOCKS = 750, 1000  # days and stocks that it looks at where there is no $amount

Fields = Mapping[str, pd.DataFrame]


def trailing_mean(values: pd.DataFrame | npt.NDArray[np.float64], window: int) -> pd.DataFrame:
    """Mean of each column over what is known of the last `window` rows, at least one; as Mean(x, window) of qlib."""
    return pd.DataFrame(values).rolling(window, min_periods=1).mean()


def trailing_std(values: pd.DataFrame | npt.NDArray[np.float64], window: int) -> pd.DataFrame:
    """Deviation of each column over what is known of the last `window` rows, at least two; as Std(x, window)."""
    return pd.DataFrame(values).rolling(window, min_periods=1).std()


def trailing_volatility(close: pd.DataFrame, window: int) -> pd.DataFrame:
    """Trail the standard deviation of daily returns, as Std($close/Ref($close, 1) - 1, window) of qlib."""
    price = close.astype(np.float64)
    return trailing_std(price / price.shift(1) - 1, window)


def unit_profile(instruments: list[str], start: Any, end: Any) -> str:
    """Decide the unit profile by what the fields tell (see `rules.evidence`).

    Where $amount exists, on up to five days of the span: amount / (close * volume), or with close / factor for the
    close, is 0.1 in the community's units (thousand yuan over lots), 1 for yuan over shares and 100 for yuan over lots.
    Without $amount, whether $volume is raw is told by up to three years of up to a thousand of the stocks, and the
    turnover must be plausible.

    Raises: ValueError where no profile fits, or none surely, with the evidence and the expression to use instead.

    >>> unit_profile(list(panel.stocks), "2020-02-03", "2020-06-24")
    'community'
    """
    some = _some_days(instruments, start, end)
    profile = rules.decide(unit_evidence(instruments, start, end, some))
    if profile not in AMOUNT_IN_YUAN:
        check_turnover(rules.turnover_in_yuan(profile, some), profile)
    return profile


def unit_evidence(instruments: list[str], start: Any, end: Any, some: Fields) -> pd.DataFrame:
    """Gather the evidence of the units; `some`: of `_some_days`, which is enough where $amount exists."""
    found = rules.evidence(some)
    if found["amounts"].sum() > 0:
        return found
    sample = instruments[:: -(-len(instruments) // MOST_STOCKS)]
    lead = max(HISTORY - len(calendar(start, end)), 0)
    return rules.evidence(read_fields(sample, rules.TELLING, start, end, lead=lead))


def _some_days(instruments: list[str], start: Any, end: Any) -> dict[str, pd.DataFrame]:
    """Read the fields that tell the units on a few days of the span, in float64."""
    days = calendar(start, end)
    if not len(days):
        raise ValueError(f"no trading day from {start} to {end}: no unit profile can be told")
    picks = days[sorted({int(i) for i in np.linspace(0, len(days) - 1, DECIDED_BY)})]
    raw = read_days(instruments, rules.TELLING, picks)
    return {field: frame.astype(np.float64) for field, frame in raw.items()}


def turnover_expression(profile: str, instruments: list[str], start: Any, end: Any) -> str:
    """Return the expression of a day's turnover in yuan for a profile name, "auto" or an expression with a $field.

    Raises: ValueError for a profile that is none of these, or, with "auto", where none fits (see `unit_profile`).

    >>> turnover_expression("auto", list(panel.stocks), "2020-02-03", "2020-06-24")
    '$amount * 1000'
    """
    rules.fields_of(profile, owner="turnover")
    if profile == "auto":
        from qlib.log import get_module_logger

        profile = unit_profile(instruments, start, end)
        words = f"unit profile: {profile} (turnover in yuan = {PROFILES[profile]})"
        get_module_logger("qlib_ext.data").info(words)
    return PROFILES.get(profile, profile)


def load_liquidity(
    instruments: list[str], start: Any, end: Any, *, profile: str = "auto", window: int = 20, past: bool = False
) -> pd.DataFrame:
    """Trailing mean turnover in yuan a day (day x instrument), known at the close of the day.

    As Mean(turnover, window) of qlib on all days of a stock's series; it goes on for window - 1 days after its end.
    `past`: also of so many days before `start` that `last_known` has a value for a stock that is suspended then.

    Raises: ValueError for an unknown profile, or for wrong units (see `rules.check_turnover`).

    >>> liquidity = load_liquidity(list(panel.stocks), "2020-06-22", "2020-06-24")
    >>> liquidity.shape
    (2, 12)
    """
    first = with_past(start, window) if past else start
    return profiled_liquidity(instruments, first, end, profile=profile, window=window)[0]


def with_past(start: Any, window: int) -> pd.Timestamp:
    """First day of `load_liquidity` with the past before `start`."""
    return pd.Timestamp(start) - pd.Timedelta(days=2 * window + 30)


def mean_turnover(turnover: pd.DataFrame, start: Any, end: Any, window: int) -> pd.DataFrame | None:
    """Give the liquidity of [start, end] by each day's turnover in yuan (day x instrument); None where days lack.

    To the last bit what `profiled_liquidity` gives: its trailing mean begins window - 1 days before `start` too.
    """
    days = calendar(end=end)
    span = days[max(int(days.searchsorted(pd.Timestamp(start))) - window + 1, 0) :]
    if not len(span) or not span.isin(turnover.index).all():
        return None
    return trailing_mean(turnover.loc[span], window).loc[pd.Timestamp(start) :]


def last_known(liquidity: pd.DataFrame) -> pd.DataFrame:
    """Liquidity of each stock, or volatility, as last known (above 0): through suspensions and after its end."""
    return liquidity.where(liquidity > 0).ffill()


def profiled_liquidity(
    instruments: list[str], start: Any, end: Any, *, profile: str, window: int, loaded: Fields | None = None
) -> tuple[pd.DataFrame, str, pd.DataFrame]:
    """Load the liquidity; tell the profile or expression that it came by, and each day's turnover.

    `loaded`: fields of the instruments from window - 1 days before `start` on, as read, which are not read again.
    """
    expression = turnover_expression(profile, instruments, start, end)
    name = _PROFILE_OF.get(expression, expression)
    days, lead = calendar(end=end), window - 1
    begin = max(int(days.searchsorted(pd.Timestamp(start))) - lead, 0)
    fields = {field: frame.loc[: pd.Timestamp(end)].tail(len(days) - begin) for field, frame in (loaded or {}).items()}
    needed = {"$close", "$volume"} | (set(rules.fields_of(name, owner="load_liquidity")) if name in PROFILES else set())
    if lacking := sorted(needed - set(fields)):
        fields |= read_fields(instruments, lacking, start, end, lead=lead)
    fields = only_traded(fields)
    if name not in PROFILES:
        fields[name] = wide(instruments, [name], days[begin], end)[0].where(fields["$close"].notna())
    turnover = rules.turnover_in_yuan(name, fields)
    mean = trailing_mean(turnover, window).loc[pd.Timestamp(start) :]
    if not np.isfinite(mean.to_numpy()).any():
        raise ValueError(f"{expression} is nowhere known between {start} and {end}: the provider lacks the field")
    share, told = 1.0 if profile == "auto" and name in AMOUNT_IN_YUAN else None, None
    if profile != "auto":
        some = _some_days(instruments, start, end)
        found = unit_evidence(instruments, start, end, some)
        share = rules.share_of_amount(mean.reindex_like(some["$close"]), some["$amount"], found)
        told = rules.told(found)
    check_turnover(mean, name, share=share, named=profile != "auto", told=told)
    return mean, name, turnover
