"""Door of the section "Environment": a variable of the environment, as it stands where qrun begins."""

import os

from qlib_ext import progress
from qlib_ext.recorder import SqliteExpManager


def give(text, place, market):
    """Set it, and return how much of the log is shown."""
    name, _, value = text.partition("=")
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        SqliteExpManager(f"sqlite:///{place}/mlruns.db", "x")
        return progress.level()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
