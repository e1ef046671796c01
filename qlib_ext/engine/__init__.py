"""Where trainings run: in this process, in processes of this machine, or on Ray; one call for all, no qlib."""

from qlib_ext.engine.choice import Engine, engine_of
from qlib_ext.engine.on_ray import Ray
from qlib_ext.engine.packed import packed, refuse_written, unpacked
from qlib_ext.engine.processes import Processes, WorkerLost

__all__ = ["Engine", "Processes", "Ray", "WorkerLost", "engine_of", "packed", "refuse_written", "unpacked"]
