"""Labels as expressions of prices: the days after d that they touch, and the fields that they take."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DEFAULT_LABEL", "LabelSpan", "label_prices", "label_span"]

DEFAULT_LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
_PRICE = re.compile(r"Ref\(\s*\$(\w+)\s*,\s*(-?\d+)\s*\)|\$(\w+)")


@dataclass(frozen=True)
class LabelSpan:
    """Days after d that a label touches: its entry (first price), its reach (last price)."""

    entry: int
    reach: int

    @property
    def horizon(self) -> int:
        """Days that the position is held."""
        return self.reach - self.entry


def label_prices(expression: str) -> dict[int, str]:
    """Read the prices of a label such as Ref($close, -2)/Ref($close, -1) - 1: days after d -> field.

    Raises: ValueError where the expression is made of anything but fields, Ref of fields, numbers, signs and Log, has
        no future price, or takes several fields on its first day.

    """
    prices: dict[int, set[str]] = {}
    for shifted, lag, today in _PRICE.findall(expression):
        prices.setdefault(-int(lag or 0), set()).add(shifted or today)
    rest = re.sub(r"\b(Log|Abs|Sign)\(", "(", _PRICE.sub("", expression))
    if re.search(r"[A-Za-z$]", rest) or len(prices) < 2 or max(prices) < 1 or min(prices) < 0:
        raise ValueError(
            f"label {expression!r} is no forward return that is understood; wanted the form "
            "Ref($close, -2)/Ref($close, -1) - 1, or tell its first and last day: DayDatasetH(label_days=[1, 2])"
        )
    if len(prices[min(prices)]) > 1:
        raise ValueError(f"label {expression!r} enters at several prices: tell label_days, or choose one")
    return {day: sorted(fields)[0] for day, fields in prices.items()}


def label_span(expression: str) -> LabelSpan:
    """Read entry and reach out of a label such as Ref($close, -2)/Ref($close, -1) - 1.

    Raises: ValueError as `label_prices`.

    """
    days = label_prices(expression)
    return LabelSpan(entry=min(days), reach=max(days))
