"""A qlib plugin: stock selection as ranking one day's whole market, judged by what real money could earn.

`import qlib_ext as qx` offers what a notebook needs by name, each loaded when it is first asked for; the rooms
(`qlib_ext.losses`, `qlib_ext.evaluate`, ...) have the rest. From data to orders (docs/notebook.md):

    qx.init("~/.qlib/qlib_data/cn_data")
    dataset = qx.day_dataset("csi300", train=["2015-01-05", "2018-12-28"], valid=["2019-01-02", "2019-12-31"],
                             test=["2020-01-02", "2020-12-31"])
    model = qx.MLPModel()
    model.fit(dataset)
    result = qx.evaluate(model.predict(dataset), dataset, model=model)
    result.table, result.account, result.plot(), result.orders(), result.report("page.html")

>>> import qlib_ext as qx
>>> qx.fill_top_n([0.3, 0.1, 0.2], [4e6, 1e6, 2e6], capital=2.5e5, participation=0.05)
array([200000.,      0.,  50000.])
"""

from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qlib_ext import moved

if TYPE_CHECKING:  # for completion and type checkers
    from qlib_ext.data import DayDatasetH, day_dataset
    from qlib_ext.exchange import AShareExchange
    from qlib_ext.losses import DayLoss
    from qlib_ext.model import FoldEnsemble, MASTERModel, MLPModel, ModelEnsemble, RayTrainer, WalkForwardModel
    from qlib_ext.portfolio import fill_top_n
    from qlib_ext.record import Evaluation, Money, judge, run
    from qlib_ext.record import evaluate as _evaluate
    from qlib_ext.report import report_html
    from qlib_ext.runs import init
    from qlib_ext.strategy import CostAwareStrategy, LiquidityTopNStrategy

    class _Room(ModuleType):
        __call__ = staticmethod(_evaluate)

    evaluate: _Room

__version__ = "0.1.0"

_ROOMS = {
    **{"AShareExchange": "exchange", "DayDatasetH": "data", "DayLoss": "losses", "day_dataset": "data"},
    **dict.fromkeys(("FoldEnsemble", "MASTERModel", "MLPModel", "ModelEnsemble", "WalkForwardModel"), "model"),
    "RayTrainer": "model",
    **{"CostAwareStrategy": "strategy", "LiquidityTopNStrategy": "strategy", "fill_top_n": "portfolio"},
    **dict.fromkeys(("Evaluation", "Money", "judge", "run"), "record"),
    **{"init": "runs", "report_html": "report"},
}

__all__ = [
    "AShareExchange",
    "CostAwareStrategy",
    "DayDatasetH",
    "DayLoss",
    "Evaluation",
    "FoldEnsemble",
    "LiquidityTopNStrategy",
    "MASTERModel",
    "MLPModel",
    "ModelEnsemble",
    "Money",
    "RayTrainer",
    "WalkForwardModel",
    "day_dataset",
    "evaluate",
    "fill_top_n",
    "init",
    "judge",
    "report_html",
    "run",
]

moved.install()
with suppress(ImportError):  # gym, which qlib imports, would print four lines of advice
    from gym_notices import notices

    notices.notices.clear()


def __getattr__(name: str) -> Any:
    """Load one of the names above from its room; `evaluate` is a room that can be called."""
    if name == "evaluate":
        return import_module("qlib_ext.evaluate")
    if name not in _ROOMS:
        raise AttributeError(f"module 'qlib_ext' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"qlib_ext.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """Offer the names above to completion."""
    return sorted({*globals(), *__all__})
