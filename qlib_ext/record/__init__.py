"""qlib records: the judge's tables, the backtest, the gate, the page."""

from qlib_ext.record.backtest import PortAnaRecord, judged_stages
from qlib_ext.record.facts import keep_facts, package_versions, run_facts
from qlib_ext.record.gate import GateRecord, gate_weights, regimes
from qlib_ext.record.header import context_of
from qlib_ext.record.judgement import (
    FACTOR_DEFINITIONS,
    ROW_DEFINITIONS,
    SERIES,
    TABLE_DEFINITIONS,
    Money,
    capacity,
    fold_table,
    index_returns,
    judge,
    one_day,
    past_return,
    table_row,
)
from qlib_ext.record.records import BaselineRecord, FoldRecord, LiquidityRecord
from qlib_ext.record.report import ReportRecord
from qlib_ext.record.tables import all_blocked, holdings
from qlib_ext.record.words import block_rows, selections, volatility_warning

__all__ = [
    "BaselineRecord",
    "FACTOR_DEFINITIONS",
    "FoldRecord",
    "GateRecord",
    "LiquidityRecord",
    "Money",
    "PortAnaRecord",
    "ROW_DEFINITIONS",
    "ReportRecord",
    "SERIES",
    "TABLE_DEFINITIONS",
    "all_blocked",
    "block_rows",
    "capacity",
    "context_of",
    "fold_table",
    "gate_weights",
    "holdings",
    "index_returns",
    "judge",
    "judged_stages",
    "keep_facts",
    "one_day",
    "package_versions",
    "past_return",
    "regimes",
    "run_facts",
    "selections",
    "table_row",
    "volatility_warning",
]
