"""What the files of a run may do that may be a stranger's: say numbers and words, never name code to be run.

Classes, objects, other providers of qlib, operators and expressions with calls (qlib evaluates them as Python) are
refused, unless the user trusts the run.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from qlib_ext.runs.twins import Absent

CURE = "if the run is your own, or of somebody who may run programs on this computer, add --trust (trust=True)"
_OURS = {"class": "DemoCalendarProvider", "module_path": "qlib_ext.recorder"}
_PLAIN = re.compile(r"(?:\$\w++|[-+*/()\s.\deE]++)*+")  # fields and numbers, + - * /


def plain_init(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a run's options of `qlib.init` what an order list needs.

    Raises: ValueError for providers and operators of its own.

    >>> plain_init({"provider_uri": "data", "region": "cn", "logging_config": {"()": "os.system"}})
    {'provider_uri': 'data', 'region': 'cn'}
    """
    kept = {name: options[name] for name in ("provider_uri", "region") if name in options}
    for name, value in options.items():
        own = {key: each for key, each in value.items() if each} if isinstance(value, Mapping) else value
        if own == _OURS:
            kept[name] = dict(_OURS)
        elif own and (name.endswith("provider") or name == "custom_ops"):
            raise ValueError(f"the run's qlib_init has {name}: {value!r}, code that it would run: {CURE}")
    return kept


def refuse_code(**named: Any) -> None:
    """Refuse options of a recorded run that would run code when they are used.

    Args:
        named: options by what they are of.

    Raises: ValueError that names the place.

    >>> refuse_code(exchange={"impact": 1.0, "liquidity": "$close / $factor * $volume"})
    >>> refuse_code(exchange={"impact": {"class": "system", "module_path": "os", "kwargs": {"command": "ls"}}})
    Traceback (most recent call last):
    ValueError: the run's exchange.impact is {'class': 'system', ...}, code that it would run: if the run is ...
    """
    for place, value in _code(named, ""):
        raise ValueError(f"the run's {place} is {value!r}, code that it would run: {CURE}")


def _code(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Absent):
        yield place, value
    elif place.endswith(".liquidity"):
        if value is not None and not (str(value).isidentifier() or _PLAIN.fullmatch(str(value))):
            yield place, value
    elif isinstance(value, Mapping):
        if {"class", "func", "module_path"} & set(value):
            yield place, value
        for key, each in value.items():
            yield from _code(each, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _code(each, place)
