"""AShareExchange: qlib's exchange under the rules of the day, with costs, impact and volume caps."""

from qlib_ext.exchange.day_rules import apply_rules, whole_shares
from qlib_ext.exchange.exchange import SETTLED, AShareExchange
from qlib_ext.exchange.holdings import SortedPosition, read_account
from qlib_ext.exchange.options import Impact, Options, impact_rule, prices, rehearse_exchange
from qlib_ext.exchange.quote import LEAD, Bars, clear_cache

__all__ = [
    "AShareExchange",
    "Bars",
    "Impact",
    "LEAD",
    "Options",
    "SETTLED",
    "SortedPosition",
    "apply_rules",
    "clear_cache",
    "impact_rule",
    "prices",
    "read_account",
    "rehearse_exchange",
    "whole_shares",
]
