"""The option `engine` of a model that trains many members."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from qlib_ext.engine.on_ray import Ray
from qlib_ext.engine.processes import Processes
from qlib_ext.options import check_choice, refuse_unknown

ENGINES = ("process", "ray")


class Engine(Protocol):
    """What does many jobs that share something."""

    def run(self, work: Callable[[Any, Any], Any], jobs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[int, Any]]:
        """Do `work(shared, job)` of each (shared, job); yield its number and what it returned, as they end."""


def engine_of(option: Any, processes: int = 1) -> Engine | None:
    """Read the option: "process", "ray", or {"ray": options of `Ray`}; None: what is to be done is done here.

    `processes`: of this machine, so also of the Ray that is started here; 1 leaves their number to Ray.

    Raises: ValueError, TypeError for anything else.

    >>> engine_of("process", 2), engine_of({"ray": {"address": "auto", "gpus": 0.25}}), engine_of("process")
    (Processes(2), Ray(address='auto', gpus=0.25), None)
    """
    if isinstance(option, Mapping):
        refuse_unknown("engine", option, ("ray",))
        given = option.get("ray") or {}
        if not isinstance(given, Mapping):
            raise ValueError(f"engine: ray is {given!r}; wanted are its options, such as {{address: auto, gpus: 0.25}}")
        return Ray(**{"workers": None if processes == 1 else processes} | dict(given))
    check_choice("engine", option, ENGINES, hint=", or {ray: {address: ..., cpus: ..., gpus: ...}}")
    if option == "ray":
        return Ray(workers=None if processes == 1 else processes)
    return None if processes == 1 else Processes(processes)
