"""FastAlpha158 and FastAlpha360 by the path that workflows name."""

from qlib_ext.features.handler import LABEL, FastAlpha158, FastAlpha360, FastAlphaLoader

__all__ = ["LABEL", "FastAlpha158", "FastAlpha360", "FastAlphaLoader"]
