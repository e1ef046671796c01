"""How far a run has come, and what of its log a person sees: one line at a terminal, few lines in a file."""

from qlib_ext.progress.console import ENVIRONMENT, LEVELS, Console, brief, level
from qlib_ext.progress.run import RUN_LOG, begin, close, conclude, install, note, part, plan, planned, stage, step
from qlib_ext.progress.way import as_time

__all__ = [
    "ENVIRONMENT",
    "LEVELS",
    "RUN_LOG",
    "Console",
    "as_time",
    "begin",
    "brief",
    "close",
    "conclude",
    "install",
    "level",
    "note",
    "part",
    "plan",
    "planned",
    "stage",
    "step",
]
