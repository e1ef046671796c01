"""Networks that score one day's whole market: MLP and MASTER."""

from qlib_ext.nets.attention import Aggregation, Attention, Dropout, TemporalAttention, Variant, sinusoidal_positions
from qlib_ext.nets.induced import InducedAttention
from qlib_ext.nets.kernels import attend
from qlib_ext.nets.master import MASTER, MLP, Columns, Gate, Inter
from qlib_ext.nets.official import load_official_master

__all__ = [
    "Aggregation",
    "Attention",
    "Columns",
    "Dropout",
    "Gate",
    "InducedAttention",
    "Inter",
    "MASTER",
    "MLP",
    "TemporalAttention",
    "Variant",
    "attend",
    "load_official_master",
    "sinusoidal_positions",
]
