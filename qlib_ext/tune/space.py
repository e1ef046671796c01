"""What is searched: paths into a workflow, each with its range or its choices. Read and set without qlib."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from qlib_ext.options import close_names, is_number, is_whole, refuse_unknown

LUCK = "the best of many seeds is the luckiest one: give the model several seeds in the workflow instead"
MEASURES = "trials are compared on one measure of one market's days: set it in the workflow, a search for each"
IDLE = "it changes no number, only where or how fast it is made: set it in the workflow"
NOT_SEARCHED = {  # part of a path -> why
    **dict.fromkeys(("seed", "seeds", "order_seed"), LUCK),
    **dict.fromkeys(("segments", "start_time", "end_time", "fit_start_time", "fit_end_time"), MEASURES),
    **dict.fromkeys(("metric", "label", "label_days", "horizons", "instruments", "filter_pipe"), MEASURES),
    **dict.fromkeys(("listing_age", "liquidity", "liquidity_window", "st"), MEASURES),
    **dict.fromkeys(("capital", "participation", "top_n", "n_splits"), MEASURES),
    **dict.fromkeys(("checkpoint", "device", "processes", "engine"), IDLE),
}
_KEYS = ("low", "high", "step", "log", "choices")
_FORMS = "{low: 0.0001, high: 0.01, log: true}, {low: 1, high: 8} or {choices: [0.1, 0.3]}"


@dataclass(frozen=True)
class Range:
    """What one value of a workflow may become: a number of an interval, or one of several choices.

    Attributes:
        path: of the value, `task.model.kwargs.lr`; elements of a list by their number, from 0.
        low, high: ends of the interval, both within; whole numbers make it one of whole numbers.
        step: distance of its numbers from `low` on; None: every number (whole numbers: 1).
        log: draw the logarithm evenly.
        choices: anything that YAML can write; None: it is an interval.
    """

    path: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    @property
    def ends(self) -> list[Any]:
        """Values that show whether the others can be: both ends, or each choice."""
        return [self.low, self.high] if self.choices is None else list(self.choices)

    @property
    def texts(self) -> list[str]:
        """Choices as they are stored: JSON."""
        return [as_json(choice) for choice in self.choices or ()]


def read_space(path: str | Path) -> list[Range]:
    """Read a space: a YAML file of paths and ranges.

    Raises: OSError for a missing file, TypeError for a misspelt key, ValueError for anything else that is none.
    """
    try:
        content = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ValueError(f"{path} is no space: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} is no space: wanted a line for each value, such as task.model.kwargs.lr: {_FORMS}")
    found = [range_of(str(name), spec) for name, spec in content.items()]
    for one, other in permutations([each.path for each in found], 2):
        if other.startswith(f"{one}."):
            raise ValueError(f"space: {other} stands within {one}: search one of them")
    return found


def range_of(path: str, spec: Any) -> Range:
    """Read one line of a space.

    Raises: TypeError, ValueError as `read_space`.

    >>> range_of("task.model.kwargs.lr", {"low": 0.0001, "high": 0.01, "log": True}).ends
    [0.0001, 0.01]
    >>> range_of("task.model.kwargs.seed", {"choices": [0, 1]})
    Traceback (most recent call last):
    ValueError: space: task.model.kwargs.seed is not searched: the best of many seeds is the luckiest one: ...
    """
    where = f"space: {path}"
    if path.partition(".")[0] != "task" or "" in path.split("."):
        raise ValueError(f"{where} is no path into the workflow, such as task.model.kwargs.lr")
    if path.startswith("task.record"):
        raise ValueError(f"{where} is not searched: no record runs in a trial, which sees no test day")
    for part in path.split("."):
        if part in NOT_SEARCHED:
            raise ValueError(f"{where} is not searched: {NOT_SEARCHED[part]}")
    if not isinstance(spec, Mapping) or not spec:
        raise ValueError(f"{where} is {spec!r}; wanted {_FORMS}")
    refuse_unknown(where, map(str, spec), _KEYS)
    return _choice(path, where, spec) if "choices" in spec else _interval(path, where, spec)


def _choice(path: str, where: str, spec: Mapping[str, Any]) -> Range:
    choices = spec["choices"]
    if len(spec) > 1:
        raise ValueError(
            f"{where} has choices and {', '.join(name for name in spec if name != 'choices')}: leave one out"
        )
    if not isinstance(choices, list) or len(choices) < 2:
        raise ValueError(f"{where}: choices is {choices!r}; wanted a list of two or more")
    found = Range(path, choices=tuple(choices))
    if len(set(found.texts)) < len(choices):
        raise ValueError(f"{where}: a choice stands twice in {choices!r}")
    return found


def _interval(path: str, where: str, spec: Mapping[str, Any]) -> Range:
    low, high, step, log = (spec.get(name) for name in ("low", "high", "step", "log"))  # type: Any, Any, Any, Any
    for name, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if not is_number(value) or not math.isfinite(value):
            raise ValueError(f"{where}: {name} is {value!r}; wanted a number: {_FORMS}")
    if not isinstance(log, bool | None):
        raise ValueError(f"{where}: log is {log!r}; allowed: true or false")
    if low >= high:
        raise ValueError(f"{where}: low is {low}, which is not below high, {high}")
    if log and low <= 0:
        raise ValueError(f"{where}: log: true, but low is {low}: a logarithm needs numbers above 0")
    if log and step is not None:
        raise ValueError(f"{where} has log and step: leave one out")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"{where}: step is {step}; allowed: a number above 0, up to high - low = {high - low}")
    whole = is_whole(low) and is_whole(high)
    if whole and not is_whole(1 if step is None else step):
        raise ValueError(f"{where}: step is {step} between whole numbers; write low: {low:.1f} for others")
    kind = int if whole else float
    return Range(path, kind(low), kind(high), None if step is None else kind(step), bool(log))


def as_json(value: Any) -> str:
    """Write a value as one line: the same text for the same value."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


# --- paths


def value_at(config: Any, path: str) -> Any:
    """Give what stands at a path; None where nothing does.

    >>> value_at({"task": {"model": {"kwargs": {"hidden": [64, 32]}}}}, "task.model.kwargs.hidden.1")
    32
    """
    for part in path.split("."):
        try:
            config = config[int(part)] if isinstance(config, list | tuple) else config[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return config


def with_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a workflow with other values at some paths; the one that came is as it was.

    Raises: ValueError for a path that leads nowhere.

    >>> workflow = {"task": {"model": {"class": "MLPModel", "kwargs": {"lr": 0.001}}}}
    >>> with_values(workflow, {"task.model.kwargs.lr": 0.01})
    {'task': {'model': {'class': 'MLPModel', 'kwargs': {'lr': 0.01}}}}
    >>> with_values(workflow, {"task.modle.kwargs.lr": 0.01})
    Traceback (most recent call last):
    ValueError: space: task.modle.kwargs.lr: there is no 'modle' in task of the workflow; close: ['model']
    """
    out: Any = config
    for path, value in values.items():
        out = _set(out, path.split("."), value, path, [])
    return dict(out)


def _set(node: Any, parts: Sequence[str], value: Any, path: str, before: list[str]) -> Any:
    """Set a value below a node, whose copy is returned; options that a class may have need not be there."""
    if not parts:
        return value
    name, rest = parts[0], parts[1:]
    where = f"space: {path}: "
    if isinstance(node, list | tuple):
        if not name.isdigit() or int(name) >= len(node):
            raise ValueError(f"{where}{'.'.join(before)} has the elements 0 to {len(node) - 1}, not {name!r}")
        new: Any = list(node)
        new[int(name)] = _set(node[int(name)], rest, value, path, [*before, name])
        return new
    if not isinstance(node, Mapping) and node is not None:
        raise ValueError(f"{where}{'.'.join(before)} is {node!r}, which has nothing below it")
    node = {} if node is None else node
    if name not in node and name != "kwargs" and "kwargs" not in before:
        close = close_names(name, map(str, node))
        told = f"close: {close}" if close else f"there are {', '.join(map(str, node))}"
        raise ValueError(f"{where}there is no {name!r} in {'.'.join(before) or 'the top'} of the workflow; {told}")
    new = dict(node)
    new[name] = _set(node.get(name), rest, value, path, [*before, name])
    return new


def measured(config: Any, path: str = "task") -> Iterator[tuple[str, Any]]:
    """Walk through what trials must have in common (`NOT_SEARCHED`): path and value."""
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for name, value in items:
        if name in NOT_SEARCHED:
            yield f"{path}.{name}", value
        else:
            yield from measured(value, f"{path}.{name}")


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """Name the places at which two contents differ, with what stands there.

    >>> differences({"lr": 0.1, "loss": "ic"}, {"lr": 0.2, "loss": "ic"})
    ['lr: 0.1 there, 0.2 here']
    """
    if one == other:
        return []
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = dict.fromkeys([*one, *other])
        return [
            line
            for name in names
            for line in differences(one.get(name), other.get(name), f"{path}.{name}" if path else str(name))
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            line for n, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{path}.{n}")
        ]
    return [f"{path}: {one!r} there, {other!r} here"]
