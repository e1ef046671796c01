"""FastAlpha158, FastAlpha360, FastDaily and FrameLoader by the path that workflows name."""

from qlib_ext.features.frame_loader import FrameLoader
from qlib_ext.features.handler import LABEL, FastAlpha158, FastAlpha360, FastAlphaLoader, FastDaily

__all__ = ["LABEL", "FastAlpha158", "FastAlpha360", "FastAlphaLoader", "FastDaily", "FrameLoader"]
