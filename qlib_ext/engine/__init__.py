"""Where trainings run: in this process, in processes of this machine, or on Ray; one call for all, no qlib."""

from qlib_ext.engine.choice import Engine, engine_of
from qlib_ext.engine.on_ray import LOST_ON_RAY, Ray
from qlib_ext.engine.packed import Packed, packed, refuse_written, unpacked
from qlib_ext.engine.processes import LOST, Processes

__all__ = [
    "LOST",
    "LOST_ON_RAY",
    "Engine",
    "Packed",
    "Processes",
    "Ray",
    "engine_of",
    "packed",
    "refuse_written",
    "unpacked",
]
