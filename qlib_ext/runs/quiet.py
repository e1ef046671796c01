"""What qlib and its libraries print that nobody reads, each silenced where it comes from. It needs qlib."""

import logging
import sys
import warnings
from collections.abc import Callable
from pprint import pformat
from typing import Any, Self

from qlib.log import get_module_logger

from qlib_ext import progress, ranks

SILENT = (  # the logger, how the message begins
    ("qlib.BaseExecutor", "`common_infra` is not set"),  # it is, once the strategy is there
    ("qlib.data", "load calendar error: freq=day, future=True"),  # few providers have a calendar of the future
    ("qlib.data", "You can get future calendar"),
    ("qlib.utils", "The parameter `reweighter` with value `None` is ignored"),
    ("qlib.workflow", "No valid experiment found. Create a new experiment"),
)

logger = get_module_logger("workflow")


def quieten() -> None:
    """Let qlib's log be shown by `progress`, and silence what qlib's exchange warns of on a day without a trade.

    Of several ranks the first is seen, of the others only errors.
    """
    progress.install(SILENT, first=ranks.is_first())
    if not ranks.is_first():
        warnings.simplefilter("ignore")
    warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning, module=r"qlib\.utils\.index_data")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # an error of a database is told by us


class Silence:
    """While a run is open, what qlib's records print goes to its log, and its bar of days to `progress`."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def begin(self) -> None:
        """Put our own functions into the two modules of qlib that print."""
        if progress.level() == "debug" or self._before:
            return
        import qlib.backtest.backtest  # noqa: F401  whose name the function of that name hides
        from qlib.workflow import record_temp

        loop = sys.modules["qlib.backtest.backtest"]
        changes: list[tuple[Any, str, Callable[..., Any]]] = [(record_temp, "pprint", _log), (loop, "tqdm", Days)]
        self._before = [(module, name, getattr(module, name)) for module, name, _ in changes]
        for module, name, ours in changes:
            setattr(module, name, ours)

    def end(self) -> None:
        """Put qlib's own back."""
        for module, name, before in self._before:
            setattr(module, name, before)
        self._before = []


def _log(value: Any) -> None:
    logger.info(pformat(value))


class Days:
    """Stands for qlib's bar of a backtest's days."""

    def __init__(self, *, total: int, desc: str = "") -> None:
        self.done, self.total = 0, total

    def __enter__(self) -> Self:
        """Begin with the first day."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left on the screen."""

    def update(self, days: int) -> None:
        """Count days that are over."""
        self.done += days
        progress.step("day", self.done, self.total)
