"""A desk's day: a run's new days are scored, tomorrow's orders written, the run watched; needs qlib."""

from qlib_ext.daily.journal import JOURNAL_COLUMNS, read_journal
from qlib_ext.daily.routine import Outcome, run_day
from qlib_ext.daily.watch import SIGMAS, Reference, corrections, drift, live_ic, population, psi

__all__ = [
    "JOURNAL_COLUMNS",
    "SIGMAS",
    "Outcome",
    "Reference",
    "corrections",
    "drift",
    "live_ic",
    "population",
    "psi",
    "read_journal",
    "run_day",
]
