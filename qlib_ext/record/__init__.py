"""qlib records: the judge's tables, the backtest, the gate, the page."""

from qlib_ext.record.account import mean_stock
from qlib_ext.record.backtest import PortAnaRecord
from qlib_ext.record.evaluation import Evaluation
from qlib_ext.record.exits import alphalens_input, quantstats_input
from qlib_ext.record.facts import run_facts
from qlib_ext.record.forecast import ForecastRecord
from qlib_ext.record.gate import GateRecord, gate_weights, regimes
from qlib_ext.record.header import context_of
from qlib_ext.record.judgement import (
    ROW_DEFINITIONS,
    SERIES,
    TABLE_DEFINITIONS,
    Money,
    capacity,
    entry_return,
    fold_table,
    index_returns,
    judge,
    table_row,
)
from qlib_ext.record.memory import MemoryRecorder
from qlib_ext.record.notebook import evaluate, run
from qlib_ext.record.records import (
    FACTOR_DEFINITIONS,
    BaselineRecord,
    FoldRecord,
    LiquidityRecord,
    MoneyRecord,
    block_rows,
    past_return,
    selections,
    volatility_warning,
)
from qlib_ext.record.report import ReportRecord
from qlib_ext.record.tables import all_blocked, holdings
from qlib_ext.record.waterfall import judged_stages, stage_changes

__all__ = [
    "BaselineRecord",
    "Evaluation",
    "FACTOR_DEFINITIONS",
    "FoldRecord",
    "ForecastRecord",
    "GateRecord",
    "LiquidityRecord",
    "MemoryRecorder",
    "Money",
    "MoneyRecord",
    "PortAnaRecord",
    "ROW_DEFINITIONS",
    "ReportRecord",
    "SERIES",
    "TABLE_DEFINITIONS",
    "all_blocked",
    "alphalens_input",
    "block_rows",
    "capacity",
    "context_of",
    "entry_return",
    "evaluate",
    "fold_table",
    "gate_weights",
    "holdings",
    "index_returns",
    "judge",
    "judged_stages",
    "mean_stock",
    "past_return",
    "quantstats_input",
    "regimes",
    "run",
    "run_facts",
    "selections",
    "stage_changes",
    "table_row",
    "volatility_warning",
]
