"""Networks that score one day's whole market: MLP and MASTER."""

from qlib_ext.nets.kernels import attend
from qlib_ext.nets.master import (
    MASTER,
    MLP,
    Aggregation,
    Attention,
    Dropout,
    Gate,
    TemporalAttention,
    Variant,
    load_official_master,
    sinusoidal_positions,
)

__all__ = [
    "Aggregation",
    "Attention",
    "Dropout",
    "Gate",
    "MASTER",
    "MLP",
    "TemporalAttention",
    "Variant",
    "attend",
    "load_official_master",
    "sinusoidal_positions",
]
