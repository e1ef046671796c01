"""The one allocation, what trading it costs, what a score is worth."""

from qlib_ext.portfolio.allocation import CAPITAL, MAX_WEIGHT, PARTICIPATION, fill_capitals, fill_top_n
from qlib_ext.portfolio.cost_aware import RISK_AVERSION, CostAwarePolicy
from qlib_ext.portfolio.costs import affordable, fee_cost, impact_cost, one_impact, rebalancing
from qlib_ext.portfolio.executions import RULES, almgren_rate, fit_impact, rules_table
from qlib_ext.portfolio.exposures import KINDS, Kind, Past, Risk, exposures, measure_exposures
from qlib_ext.portfolio.forecast import FEWEST_DAYS, HORIZONS, T_SIGNIFICANT, Forecast, sum_covariance
from qlib_ext.portfolio.forecast_schedule import ForecastSchedule
from qlib_ext.portfolio.foresight import foresight
from qlib_ext.portfolio.heads import HeadWeights, combine_heads, shrunk_weights
from qlib_ext.portfolio.locked import held_through
from qlib_ext.portfolio.market import market_of
from qlib_ext.portfolio.optimal import OptimalTrades, optimal_trades
from qlib_ext.portfolio.own_exposures import read_exposures
from qlib_ext.portfolio.policy import Day, Policy
from qlib_ext.portfolio.returns import sleeve_returns
from qlib_ext.portfolio.simulate import Simulation, simulate
from qlib_ext.portfolio.topn import TopNPolicy, smoothed

__all__ = [
    "CAPITAL",
    "CostAwarePolicy",
    "Day",
    "FEWEST_DAYS",
    "Forecast",
    "HeadWeights",
    "ForecastSchedule",
    "HORIZONS",
    "KINDS",
    "Kind",
    "T_SIGNIFICANT",
    "OptimalTrades",
    "MAX_WEIGHT",
    "PARTICIPATION",
    "Past",
    "Policy",
    "RISK_AVERSION",
    "RULES",
    "Risk",
    "Simulation",
    "TopNPolicy",
    "affordable",
    "almgren_rate",
    "combine_heads",
    "exposures",
    "fee_cost",
    "fill_capitals",
    "fill_top_n",
    "fit_impact",
    "foresight",
    "held_through",
    "impact_cost",
    "market_of",
    "measure_exposures",
    "optimal_trades",
    "one_impact",
    "read_exposures",
    "rebalancing",
    "rules_table",
    "shrunk_weights",
    "simulate",
    "sleeve_returns",
    "smoothed",
    "sum_covariance",
]
