"""Tables of the user's own by stock and day, from CSV or Parquet files: read surely, and as known at each close."""

from qlib_ext.frames.known import known_grid, known_grids, known_places
from qlib_ext.frames.options import Frame
from qlib_ext.frames.read import EVER, frame_files, read_frame, read_frames
from qlib_ext.frames.tables import column_names

__all__ = [
    "EVER",
    "Frame",
    "column_names",
    "frame_files",
    "known_grid",
    "known_grids",
    "known_places",
    "read_frame",
    "read_frames",
]
