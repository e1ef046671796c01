"""Tables of the user's own by stock and day, from CSV or Parquet files: read surely, and as known at each close."""

from qlib_ext.frames.known import known_grids
from qlib_ext.frames.read import EVER, frame_files, read_frame, read_frames

__all__ = ["EVER", "frame_files", "known_grids", "read_frame", "read_frames"]
