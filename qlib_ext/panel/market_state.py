"""MarketState: the state of the market as seen by its indices, which feeds MASTER's gate (Li et al., AAAI 2024).

Sizes: D days, M market features, d a window in trading days. Every feature of a day is known at its close.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from qlib_ext.options import refuse_unknown

OFFICIAL_INDICES = ("SH000300", "SH000905", "SH000906")  # CSI300, CSI500, CSI800, in the authors' order
KINDS = {"paper": (5, 10, 20, 30, 60), "deck": (6,)}  # and their windows
TURNOVERS = ("auto", "amount", "volume", "close_volume")


def options_of(kind: type) -> list[str]:
    """Names of the fields of a dataclass."""
    return [f.name for f in fields(kind)]


def whole_numbers(name: str, values: Any, least: int) -> tuple[int, ...]:
    """Return distinct whole numbers of at least `least`, or raise ValueError."""
    numbers = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)
    good = [type(n) is int and n >= least for n in numbers]
    if not numbers or not all(good) or len(set(numbers)) < len(numbers):
        raise ValueError(f"{name}={values!r} must be one or more distinct whole numbers of at least {least}")
    return numbers


def whole_number(name: str, value: Any, least: int) -> int:
    """Return a single whole number of at least `least`, or raise ValueError; a list of one is none."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    return value


@dataclass(frozen=True)
class MarketState:
    """Index features of a day, in the order of the authors' published market data.

    kind "paper", for each index and with d over the windows (21 features with the default ones):
    `return` = c/c_1 - 1, and for each d `return_mean_d`, `return_std_d` of it, `turnover_mean_d` = Mean(a, d)/a,
    `turnover_std_d` = Std(a, d)/a, c the close, a the day's turnover. kind "deck" (slides, "Gating"): for each d
    `price_mean_d` = Mean(c, d)/c, `price_std_d` = Std(c, d)/c, and the same `turnover_mean_d`, `turnover_std_d`;
    relative to today's, since a price level of one year says nothing in another. Std has d - 1 below, as qlib's.

    Args:
        indices: codes, any whose close and turnover the provider has; None: those of SH000300, SH000905, SH000906
            that it has.
        kind: "paper" or "deck".
        windows: trading days, each at least 2; None: 5, 10, 20, 30, 60 (paper), 6 (deck).
        turnover: "amount", "volume", "close_volume" (close times volume), or "auto": the amount where it is known,
            else the volume. Units cancel.

    """

    indices: tuple[str, ...] | None = None
    kind: str = "paper"
    windows: tuple[int, ...] | None = None
    turnover: str = "auto"

    def __post_init__(self) -> None:
        """Check the options. Raises ValueError naming what is allowed."""
        if self.kind not in KINDS:
            raise ValueError(f"market_state: kind={self.kind!r}; allowed: {', '.join(KINDS)}")
        if self.turnover not in TURNOVERS:
            raise ValueError(f"market_state: turnover={self.turnover!r}; allowed: {', '.join(TURNOVERS)}")
        spans = KINDS[self.kind] if self.windows is None else self.windows
        object.__setattr__(self, "windows", whole_numbers("market_state: windows", spans, 2))
        if self.indices is not None:
            given = (self.indices,) if isinstance(self.indices, str) else self.indices
            codes = tuple(str(code).upper() for code in given)
            if not codes or len(set(codes)) < len(codes):
                raise ValueError(f"market_state: indices={self.indices!r} must be distinct codes such as SH000300")
            object.__setattr__(self, "indices", codes)

    @classmethod
    def of(cls, value: Any) -> MarketState | None:
        """Read the option `market_state`: true (defaults), false, null, or a mapping of options.

        Raises: TypeError for an unknown option, ValueError for a value that is not allowed.

        """
        if value is None or value is False or isinstance(value, cls):
            return value or None
        if value is True:
            return cls()
        if not isinstance(value, Mapping):
            raise ValueError(f"market_state={value!r}; wanted true, false or options: {', '.join(options_of(cls))}")
        refuse_unknown("market_state", value, options_of(cls))
        return cls(**value)

    @property
    def spans(self) -> tuple[int, ...]:
        """The windows, never None."""
        return self.windows or KINDS[self.kind]

    @property
    def lead(self) -> int:
        """Trading days that are needed before the first one: a return more than the longest window."""
        return max(self.spans)

    def names(self, indices: Iterable[str]) -> list[str]:
        """Names of the M features."""
        if self.kind == "deck":
            own = [f"{what}_{d}" for d in self.spans for what in ("price_mean", "price_std", *_TURNOVER)]
        else:
            own = ["return"]
            own += [f"{what}_{d}" for d in self.spans for what in ("return_mean", "return_std", *_TURNOVER)]
        return [f"{code}_{name}" for code in indices for name in own]

    def compute(self, close: pd.DataFrame, turnover: pd.DataFrame, days: pd.DatetimeIndex) -> pd.DataFrame:
        """Compute the features.

        Args:
            close: trading days x indices, from `lead` days before the first of `days` on.
            turnover: as `close`, in any unit, above 0.
            days: (D,) the days wanted.

        Returns:
            (D, M) float64.

        Raises:
            ValueError: for an index whose history is short or has a hole, naming it and the cure.
        """
        for code in close.columns:
            self._check_history(str(code), close[code], turnover[code], days)
        price = close.astype(float)
        amount = turnover.astype(float).where(turnover > 0)
        base = price if self.kind == "deck" else price / price.shift(1) - 1
        unit = price if self.kind == "deck" else pd.DataFrame(1.0, price.index, price.columns)
        blocks = [] if self.kind == "deck" else [base]
        for d in self.spans:
            blocks += [base.rolling(d).mean() / unit, base.rolling(d).std() / unit]
            blocks += [amount.rolling(d).mean() / amount, amount.rolling(d).std() / amount]
        columns = [block[code] for code in close.columns for block in blocks]
        out = pd.concat(columns, axis=1).reindex(days)
        out.columns = pd.Index(self.names([str(c) for c in close.columns]))
        return out

    def _check_history(self, code: str, close: pd.Series, turnover: pd.Series, days: pd.DatetimeIndex) -> None:
        known = close.notna() & (turnover > 0)
        if not known.any():
            raise ValueError(f"market_state: index {code} has no close with a turnover: choose other indices")
        at = pd.DatetimeIndex(close.index)
        first, last = at[known.to_numpy()][[0, -1]]
        begin = int(at.searchsorted(days[0])) - self.lead
        if begin < 0 or first > at[begin]:
            start = int(at.searchsorted(first)) + self.lead
            cure = f"start the handler and the segments at {at[start].date()} or later, or " if start < len(at) else ""
            raise ValueError(
                f"market_state: index {code} is known from {first.date()} on; windows up to {max(self.spans)} need "
                f"{self.lead} trading days before the first day {days[0].date()}: {cure}shorten the windows"
            )
        holes = at[begin:][~known.to_numpy()[begin:] & (at[begin:] <= days[-1])]
        if len(holes):
            raise ValueError(
                f"market_state: index {code} lacks close or turnover on {len(holes)} days from {holes[0].date()} on "
                f"(its last day is {last.date()}): choose other indices, another turnover ({', '.join(TURNOVERS[1:])}) "
                "or days"
            )


_TURNOVER = ("turnover_mean", "turnover_std")
OFFICIAL_NAMES = tuple(MarketState().names(OFFICIAL_INDICES))  # the 63 of the authors' checkpoints
