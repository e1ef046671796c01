"""The embedded market: a synthetic A-share market with a planted signal, as a provider folder."""

from qlib_ext.synthetic.files import read_oracle, write_fields, write_lists
from qlib_ext.synthetic.macro import known_regime, macro_table, macro_text
from qlib_ext.synthetic.market import (
    DEFAULT_PATH,
    FIELDS,
    MACRO,
    VERSION,
    Market,
    ensure_market,
    is_market,
    make_market,
    oracle,
    simulate,
)

__all__ = [
    "DEFAULT_PATH",
    "FIELDS",
    "MACRO",
    "Market",
    "VERSION",
    "ensure_market",
    "is_market",
    "known_regime",
    "macro_table",
    "macro_text",
    "make_market",
    "oracle",
    "read_oracle",
    "simulate",
    "write_fields",
    "write_lists",
]
