"""The room as a function: `qlib_ext.evaluate(scores, dataset)` beside `qlib_ext.evaluate.daily_metrics`.

The function is `record.evaluate`, on a floor above; it is loaded when the room is called, or asked for its signature.
"""

import inspect
from importlib import import_module
from types import ModuleType
from typing import Any


class CallableRoom(ModuleType):
    """A module that stands for the function of its name, too."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Judge and trade scores by (datetime, instrument) on the days of a data set's test: see `record.evaluate`.

        `help(qlib_ext.record.evaluate)` explains each option; the result computes what it is asked for.
        """
        return self._function(*args, **options)

    @property
    def _function(self) -> Any:
        return import_module("qlib_ext.record").evaluate

    @property
    def __signature__(self) -> inspect.Signature:
        """Signature of the function, for completion and help."""
        return inspect.signature(self._function)
