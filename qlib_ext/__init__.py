"""A qlib plugin: stock selection as ranking one day's whole market, judged by what real money could earn.

`import qlib_ext as qx` offers what a notebook needs by name, each loaded when it is first asked for; the rooms
(`qlib_ext.losses`, `qlib_ext.evaluate`, ...) have the rest.

>>> import qlib_ext as qx
>>> qx.fill_top_n([0.3, 0.1, 0.2], [4e6, 1e6, 2e6], capital=2.5e5, participation=0.05)
array([200000.,      0.,  50000.])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qlib_ext import moved

if TYPE_CHECKING:  # for completion and type checkers
    from qlib_ext.data import DayDatasetH
    from qlib_ext.exchange import AShareExchange
    from qlib_ext.losses import DayLoss
    from qlib_ext.model import FoldEnsemble, MASTERModel, MLPModel
    from qlib_ext.portfolio import fill_top_n
    from qlib_ext.record import judge
    from qlib_ext.report import report_html
    from qlib_ext.strategy import LiquidityTopNStrategy

__version__ = "0.1.0"

__all__ = [
    "AShareExchange",
    "DayDatasetH",
    "DayLoss",
    "FoldEnsemble",
    "LiquidityTopNStrategy",
    "MASTERModel",
    "MLPModel",
    "fill_top_n",
    "judge",
    "report_html",
]

_ROOMS = {
    **{"AShareExchange": "exchange", "DayDatasetH": "data", "DayLoss": "losses", "fill_top_n": "portfolio"},
    **{"FoldEnsemble": "model", "MASTERModel": "model", "MLPModel": "model"},
    **{"LiquidityTopNStrategy": "strategy", "judge": "record", "report_html": "report"},
}

moved.install()


def __getattr__(name: str) -> Any:
    """Load one of the names above from its room."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'qlib_ext' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"qlib_ext.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """Offer the names above to completion."""
    return sorted({*globals(), *__all__})
