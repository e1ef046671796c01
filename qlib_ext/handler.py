"""FastAlpha158, FastAlpha360 and FrameLoader by the path that workflows name."""

from qlib_ext.features.frame_loader import FrameLoader
from qlib_ext.features.handler import LABEL, FastAlpha158, FastAlpha360, FastAlphaLoader

__all__ = ["LABEL", "FastAlpha158", "FastAlpha360", "FastAlphaLoader", "FrameLoader"]
