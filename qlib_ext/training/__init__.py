"""Trainer: one epoch function for training and validation; checkpoints, scaling, device."""

from qlib_ext.training.device import seeded
from qlib_ext.training.trainer import PRECISIONS, History, RobustScale, Rows, Trainer, pick_device, pick_precision

__all__ = ["History", "PRECISIONS", "RobustScale", "Rows", "Trainer", "pick_device", "pick_precision", "seeded"]
