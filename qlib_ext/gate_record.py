"""GateRecord by the path that workflows name."""

from qlib_ext.record import GateRecord

__all__ = ["GateRecord"]
