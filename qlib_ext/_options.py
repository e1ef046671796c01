"""Options by name: a misspelt one is an error that names it and the close ones."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable


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
            close = difflib.get_close_matches(str(name), names, n=3)
            raise TypeError(f"{who} has no option {name!r}; close: {close}; allowed: {', '.join(names)}")


def argument_names(*kinds: type) -> list[str]:
    """Names that the classes' own `__init__` take by name, in the order of the classes."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    inits = [vars(kind)["__init__"] for kind in kinds if "__init__" in vars(kind)]
    found = [p.name for init in inits for p in inspect.signature(init).parameters.values() if p.kind in named]
    return [name for name in dict.fromkeys(found) if name != "self"]
