"""From scores to orders: CostAwareStrategy, LiquidityTopNStrategy, and tomorrow's order list of a recorded run."""

from qlib_ext.strategy.book import Book
from qlib_ext.strategy.cost_aware import CostAwareStrategy
from qlib_ext.strategy.executions import read_executions, with_market
from qlib_ext.strategy.order_inputs import ScoredRun, last_prices, next_day, read_holdings, read_market, read_run
from qlib_ext.strategy.order_list import ORDER_COLUMNS, days_held, make_orders, plan_orders
from qlib_ext.strategy.planner import Line, Planner, summary
from qlib_ext.strategy.policy_strategy import PolicyStrategy
from qlib_ext.strategy.quotes import LastClose, Market, whole_lots
from qlib_ext.strategy.strategy import LiquidityTopNStrategy

__all__ = [
    "Book",
    "CostAwareStrategy",
    "LastClose",
    "Line",
    "LiquidityTopNStrategy",
    "Market",
    "ORDER_COLUMNS",
    "Planner",
    "PolicyStrategy",
    "ScoredRun",
    "days_held",
    "last_prices",
    "make_orders",
    "next_day",
    "plan_orders",
    "read_executions",
    "read_holdings",
    "read_market",
    "read_run",
    "summary",
    "whole_lots",
    "with_market",
]
