"""Whether an option, maybe read from YAML, is a number. Private to the strategy and the exchange."""

from __future__ import annotations

from numbers import Integral, Real


def is_number(value: object) -> bool:
    """Whether it is a number; neither text nor true or false are."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether it is a whole number (5, not 5.0)."""
    return isinstance(value, Integral) and not isinstance(value, bool)
