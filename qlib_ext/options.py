"""Options and choices by name: a misspelt one is an error that names it and the close ones."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any


def close_names(word: Any, allowed: Iterable[str]) -> list[str]:
    """List up to three of the allowed names that are close to a word, the closest first; capitals do not matter."""
    by_lower = {name.lower(): name for name in allowed}
    return [by_lower[name] for name in difflib.get_close_matches(str(word).lower(), list(by_lower), n=3)]


def check_choice(what: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise ValueError for a value that is not allowed, naming the close ones."""
    names = tuple(allowed)
    if value not in names:
        close = " or ".join(repr(name) for name in close_names(value, names))
        hint = f" (did you mean {close}?)" if close else ""
        raise ValueError(f"unknown {what} {value!r}{hint}. Allowed: {', '.join(names)}")


def refuse_unknown(owner: str | type, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse an option that `owner` does not have.

    Args:
        owner: class, or the name of what the options belong to.
        given: names that came.
        allowed: names there are.

    Raises: TypeError for the first unknown name, with the close ones and all that are allowed.

    """
    names = list(allowed)
    for name in given:
        if name not in names:
            who = owner if isinstance(owner, str) else owner.__name__
            close = close_names(name, names)
            raise TypeError(f"{who} has no option {name!r}; close: {close}; allowed: {', '.join(names)}")


def argument_names(*kinds: type) -> list[str]:
    """Names that the classes' own `__init__` take by name, in the order of the classes."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    inits = [vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind)]
    found = [p.name for init in inits for p in inspect.signature(init).parameters.values() if p.kind in named]
    return [name for name in dict.fromkeys(found) if name != "self"]


def is_number(value: object) -> bool:
    """Whether it is a number; neither text nor true or false are."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether it is a whole number (5, not 5.0)."""
    return isinstance(value, Integral) and not isinstance(value, bool)
