"""Checks at the doors: options by name, numbers by interval, shapes; inside, functions trust each other."""

import difflib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from numbers import Integral, Real
from typing import Any

_SHORT = "not enough memory"
_NO_MEMORY = ("tried to allocate", "out of memory", "alloc_failed")  # pieces of what torch and CUDA say
SHARE = " (a share: 0.05 is 5% of a stock's daily turnover)"


def close_names(word: Any, allowed: Iterable[str], likeness: float = 0.6) -> list[str]:
    """List up to three of the allowed names that are close to a word, the closest first; capitals do not matter."""
    by_lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(str(word).lower(), list(by_lower), n=3, cutoff=likeness)
    return [by_lower[name] for name in close]


def check_choice(what: str, value: Any, allowed: Iterable[str], *, hint: str = "") -> None:
    """Raise ValueError for a value that is not allowed, naming the close ones; the hint is put behind the message."""
    names = tuple(allowed)
    if value not in names:
        close = " or ".join(repr(name) for name in close_names(value, names))
        meant = f" (did you mean {close}?)" if close else ""
        raise ValueError(f"unknown {what} {value!r}{meant}. Allowed: {', '.join(names)}{hint}")


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


def init_names(kind: type) -> list[str]:
    """Names that a class can be built with: of its `__init__`, and of its bases' as far as **kwargs reach."""
    names: list[str] = []
    for base in (base for base in kind.__mro__ if "__init__" in vars(base)):
        names += argument_names(base)
        if all(p.kind != p.VAR_KEYWORD for p in inspect.signature(vars(base)["__init__"]).parameters.values()):
            break
    return list(dict.fromkeys(names))


def default_of(kind: type, name: str) -> Any:
    """Tell the default of an option, of the first class in order whose `__init__` names it; None where none does."""
    for init in (vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)):
        option = inspect.signature(init).parameters.get(name)
        if option is not None:
            return None if option.default is option.empty else option.default
    return None


def signature_with(own: Any, *others: Any, drop: Iterable[str] = ()) -> inspect.Signature:
    """Signature of a function or class whose **options are those of others, each named, with its default and type.

    One without **options is left as it is.

    Args:
        own: comes first, with what it returns; its **kwargs are replaced.
        others: functions or classes, whose keyword-only parameters follow.
        drop: names that the others have and `own` does not take.

    >>> def plot(frame, *, title="", **options): ...
    >>> def draw(*, width=1.0, title="none", colour=None): ...
    >>> print(signature_with(plot, draw, drop=["colour"]))
    (frame, *, title='', width=1.0)
    """
    signature = inspect.signature(own)
    if all(one.kind != one.VAR_KEYWORD for one in signature.parameters.values()):
        return signature
    kept = {name: one for name, one in signature.parameters.items() if one.kind != one.VAR_KEYWORD}
    for other in others:
        more = inspect.signature(other).parameters.items()
        kept |= {n: one for n, one in more if one.kind == one.KEYWORD_ONLY and n not in (*kept, *drop)}
    return signature.replace(parameters=list(kept.values()))


def argument_lines(kind: Any, drop: Iterable[str] = ()) -> list[str]:
    """Lines of the section "Args:" of a docstring, of each argument that is not dropped, in its indentation of 4.

    >>> argument_lines(signature_with, drop=["own", "others"])
    ['    drop: names that the others have and `own` does not take.']
    """
    _, _, section = (inspect.getdoc(kind) or "").partition("Args:\n")
    kept, lines = False, []
    for line in section.split("\n\n")[0].splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            kept = not {*line.partition(":")[0].replace(",", " ").split()} <= {*drop}
        lines += [line] if kept else []
    return lines


def tell(text: str) -> None:
    """Warn of what is allowed and has no effect; Python shows the same text once a process."""
    warnings.warn(text, stacklevel=1)


def is_number(value: object) -> bool:
    """Whether it is a number; neither text nor true or false are."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether it is a whole number (5, not 5.0)."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_number(what: str, value: Any, within: str, *, whole: bool = False, hint: str = "") -> None:
    """Refuse what is not a number of an interval.

    Args:
        what: name of the option.
        value: what came.
        within: interval in words, such as "[0, 1)" or "(0, inf)"; inf itself never passes.
        whole: whether it must be a whole number (5, not 5.0).
        hint: what to do, put behind the message.

    Raises: ValueError that says what came and what is allowed.

    >>> check_number("participation", 0.05, "(0, 1]")
    >>> check_number("epochs", 0, "[1, inf)", whole=True, hint="; the workflows have 12")
    Traceback (most recent call last):
    ValueError: epochs is 0; allowed: a whole number in [1, inf); the workflows have 12
    """
    low, high = (float(end) for end in within[1:-1].split(","))
    fits = (is_whole(value) if whole else is_number(value)) and low <= value <= high and abs(value) < inf
    open_end = fits and (within[0] == "(" and value == low or within[-1] == ")" and value == high)
    if not fits or open_end:
        raise ValueError(f"{what} is {value!r}; allowed: a {'whole ' * whole}number in {within}{hint}")


def check_flag(what: str, value: Any) -> None:
    """Raise ValueError for what is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}; allowed: true or false")


@contextmanager
def enough_memory(cure: str) -> Iterator[None]:
    """Say what to do where memory ends within: numpy and torch tell only how much was asked for.

    Raises: MemoryError, also for torch's own errors of memory, of the CPU or a GPU; others pass.

    >>> with enough_memory("take fewer days"):
    ...     raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
    Traceback (most recent call last):
    MemoryError: not enough memory (DefaultCPUAllocator: can't ... tried to allocate 8 bytes.): take fewer days
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error) or type(error).__name__
        if not lacks_memory(error) or text.startswith(_SHORT):  # or it has been told
            raise
        raise MemoryError(f"{_SHORT} ({text.splitlines()[0]}): {cure}") from error


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory has ended, torch's own of the CPU or a GPU among them.

    >>> lacks_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")), lacks_memory(RuntimeError("no"))
    (True, False)
    """
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(piece in said for piece in _NO_MEMORY)
    )


def describe(thing: Any) -> str:
    """Tell an object by its class and options, a function by its name: the same text in every process.

    >>> describe(check_flag), describe("ic")
    ('check_flag', 'ic')
    """
    if isinstance(thing, str) or type(thing).__repr__ is not object.__repr__:
        return getattr(thing, "__name__", str(thing))
    return f"{type(thing).__name__}({', '.join(f'{key}={value!r}' for key, value in vars(thing).items())})"


def day_span(days: Any) -> str:
    """Tell days by their number, the first and the last, for a repr.

    >>> day_span(["2020-01-02", "2020-01-03"])
    '2 days 2020-01-02 to 2020-01-03'
    """
    return f"{len(days)} days {str(days[0])[:10]} to {str(days[-1])[:10]}" if len(days) else "no days"


def named_options(values: Mapping[str, Any]) -> str:
    """Write options as they are given to a class, for a repr: text and numbers, of another object its own repr.

    >>> named_options({"epochs": 2, "loss": "ic"})
    "epochs=2, loss='ic'"
    """
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def check_shapes(legend: str, hint: str = "", /, **arrays: Any) -> None:
    """Raise ValueError unless all arrays (None is none) have one shape, told as `legend`; "(..., N)" is any.

    >>> import numpy as np
    >>> check_shapes("(D, N) = (days, stocks)", score=np.zeros((2, 3)), label=np.zeros((2, 3)), mask=None)
    """
    shapes = {name: tuple(array.shape) for name, array in arrays.items() if array is not None}
    axes = legend.split("=")[0].count(",") + 1
    wrong = (lambda shape: not shape) if legend.startswith("(...") else (lambda shape: len(shape) != axes)
    if len(set(shapes.values())) > 1 or any(map(wrong, shapes.values())):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes must be one and the same {legend}, got {listed}{hint}")
