"""CSNormalise by the path that workflows name."""

from qlib_ext.features.processor import CSNormalise, cross_section_zscore

__all__ = ["CSNormalise", "cross_section_zscore"]
