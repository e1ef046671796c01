"""AShareExchange: qlib's exchange under the rules of the day, with costs, impact and volume caps."""

from qlib_ext.exchange.day_rules import lay, whole_shares
from qlib_ext.exchange.exchange import AShareExchange
from qlib_ext.exchange.ledger import SETTLED
from qlib_ext.exchange.options import Options, prices
from qlib_ext.exchange.quote import Bars, clear_cache

__all__ = ["AShareExchange", "Bars", "Options", "SETTLED", "clear_cache", "lay", "prices", "whole_shares"]
