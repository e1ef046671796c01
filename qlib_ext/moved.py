"""Where modules of version 0.1.0 are now: recorded runs and old code name them. Kept for one release."""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# old module -> where its names are, the first place that has one; a room alone is its door
MOVED = {
    "_attention": "nets.attention",
    "alpha": "features features.factors",
    "backtest": "record.backtest record.waterfall record.tables",
    "baseline": "evaluate.baselines",
    "capacity": "evaluate.capacity",
    "compare": "evaluate.comparison",
    "diagnostics": "evaluate.diagnostics",
    "ensemble": "model.ensemble",
    "execution": "evaluate.execution",
    "init_workflow": "workflow",
    "judge": "record.judgement record",
    "labels": "panel panel.labels",
    "macro": "panel panel.macro_state",
    "market": "panel panel.market_state",
    "orders": "strategy strategy.order_list",
    "storage": "provider provider.storage",
    "trainer": "training training.trainer training.device",
    "units": "rules rules.units",
}
RENAMED = {  # old module and name -> the name now
    "capacity.DEFINITIONS": "CAPACITY_DEFINITIONS",
    "compare.DEFINITIONS": "COMPARE_DEFINITIONS",
    "diagnostics.DEFINITIONS": "DIAGNOSTICS_DEFINITIONS",
    "execution.DEFINITIONS": "EXECUTION_DEFINITIONS",
    "orders.COLUMNS": "ORDER_COLUMNS",
}


class _Module(ModuleType):
    """A module that is no more: its names are looked up where they are now, when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        module = self.__name__.rpartition(".")[2]
        places = [f"qlib_ext.{place}" for place in MOVED[module].split()]
        name = RENAMED.get(f"{module}.{name}", name)
        for place in [] if name.startswith("__") else places:
            if hasattr(importlib.import_module(place), name):
                return getattr(sys.modules[place], name)
        raise AttributeError(f"{self.__name__} is now {' and '.join(places)}; there is no {name}")

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Stand for the function of its name, which it hides once it was imported: `qlib_ext.judge`."""
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


class _Moved(MetaPathFinder, Loader):
    """Answer an old name with a module that takes its names from where they are now."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Answer for the names of the table only."""
        package, _, old = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == "qlib_ext" and old in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Say where the module is now."""
        module.__class__ = _Module
        place = f"qlib_ext.{MOVED[module.__name__.rpartition('.')[2]].split()[0]}"
        warnings.warn(f"{module.__name__} is now {place}", DeprecationWarning, stacklevel=2)


def install() -> None:
    """Let the old names be imported; asked for once, by `qlib_ext` itself."""
    sys.meta_path.append(_Moved())
