"""MarketState: the state of the market as seen by its indices, which feeds MASTER's gate (Li et al., AAAI 2024).

Sizes: D days, M market features, d a window in trading days. Every feature of a day is known at its close.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from qlib_ext.options import argument_names, check_choice, check_number, refuse_unknown

OFFICIAL_INDICES = ("SH000300", "SH000905", "SH000906")  # CSI300, CSI500, CSI800, in the authors' order
KINDS = {"paper": (5, 10, 20, 30, 60), "deck": (6,)}  # and their windows
TURNOVERS = ("auto", "amount", "volume", "close_volume")


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

    >>> MarketState(kind="deck").names(["SH000300"])
    ['SH000300_price_mean_6', 'SH000300_price_std_6', 'SH000300_turnover_mean_6', 'SH000300_turnover_std_6']
    """

    indices: tuple[str, ...] | None = None
    kind: str = "paper"
    windows: tuple[int, ...] | None = None
    turnover: str = "auto"

    def __post_init__(self) -> None:
        """Check the options. Raises ValueError naming what is allowed."""
        check_choice("market_state: kind", self.kind, KINDS)
        check_choice("market_state: turnover", self.turnover, TURNOVERS)
        object.__setattr__(self, "windows", _windows(KINDS[self.kind] if self.windows is None else self.windows))
        if self.indices is not None:
            named = (self.indices,) if isinstance(self.indices, str) else self.indices
            codes = tuple(str(code).upper() for code in named)
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
            raise ValueError(f"market_state={value!r}; wanted true, false or options: {', '.join(argument_names(cls))}")
        refuse_unknown("market_state", value, argument_names(cls))
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
        whole = close.notna() & (turnover > 0)
        if not whole.any():
            raise ValueError(f"market_state: index {code} has no close with a turnover: choose other indices")
        at = pd.DatetimeIndex(close.index)
        first, last = at[whole.to_numpy()][[0, -1]]
        begin = int(at.searchsorted(days[0])) - self.lead
        if begin < 0 or first > at[begin]:
            start = int(at.searchsorted(first)) + self.lead
            cure = f"start the handler and the segments at {at[start].date()} or later, or " if start < len(at) else ""
            raise ValueError(
                f"market_state: index {code} is known from {first.date()} on; windows up to {max(self.spans)} need "
                f"{self.lead} trading days before the first day {days[0].date()}: {cure}shorten the windows"
            )
        holes = at[begin:][~whole.to_numpy()[begin:] & (at[begin:] <= days[-1])]
        if len(holes):
            raise ValueError(
                f"market_state: index {code} lacks close or turnover on {len(holes)} days from {holes[0].date()} on "
                f"(its last day is {last.date()}): choose other indices, another turnover ({', '.join(TURNOVERS[1:])}) "
                "or days"
            )


def _windows(days: Any) -> tuple[int, ...]:
    """Windows as a tuple; ValueError for none, a repeated one, or what is no whole number from 2 on."""
    windows = tuple(days) if isinstance(days, Iterable) and not isinstance(days, str) else (days,)
    for window in windows:
        check_number("market_state: windows", window, "[2, inf)", whole=True)
    if not windows or len(set(windows)) < len(windows):
        raise ValueError(f"market_state: windows={days!r} must be one or more distinct whole numbers")
    return windows


_TURNOVER = ("turnover_mean", "turnover_std")
OFFICIAL_NAMES = tuple(MarketState().names(OFFICIAL_INDICES))  # the 63 of the authors' checkpoints
