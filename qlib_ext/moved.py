"""Where modules of version 0.1.0 are now: recorded runs and old code name them. Kept for one release."""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "_attention": "nets.attention",
    "alpha": "features.factors",
    "backtest": "record.backtest",
    "baseline": "evaluate.baselines",
    "capacity": "evaluate.capacity",
    "compare": "evaluate.comparison",
    "diagnostics": "evaluate.diagnostics",
    "ensemble": "model.ensemble",
    "execution": "evaluate.execution",
    "init_workflow": "workflow.findings",
    "judge": "record.judgement",
    "labels": "panel.labels",
    "macro": "panel.macro_state",
    "market": "panel.market_state",
    "orders": "strategy.order_list",
    "storage": "provider.storage",
    "trainer": "training.trainer",
    "units": "rules.units",
}


class _Moved(MetaPathFinder, Loader):
    """Answer an old name with the module that took its place."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Know the names of the table only."""
        package, _, old = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == "qlib_ext" and old in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Put the real module in the place of the new, empty one."""
        place = f"qlib_ext.{MOVED[module.__name__.rpartition('.')[2]]}"
        warnings.warn(f"{module.__name__} is now {place}", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(place)


def install() -> None:
    """Let the old names be imported; asked for once, by `qlib_ext` itself."""
    sys.meta_path.append(_Moved())
