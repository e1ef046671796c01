"""Trainer: one epoch function for training and validation; checkpoints, scaling, device."""

from qlib_ext.training.checkpoint import Checkpoint, History, check_file, facts_of
from qlib_ext.training.device import PRECISIONS, fixed_threads, pick_device, pick_precision, seeded
from qlib_ext.training.heads import check_heads, head_losses
from qlib_ext.training.scaling import RobustScale
from qlib_ext.training.together import fit_together
from qlib_ext.training.trainer import METRIC, Rows, Trainer

__all__ = [
    "Checkpoint",
    "History",
    "METRIC",
    "PRECISIONS",
    "RobustScale",
    "Rows",
    "Trainer",
    "check_file",
    "check_heads",
    "facts_of",
    "head_losses",
    "fit_together",
    "fixed_threads",
    "pick_device",
    "pick_precision",
    "seeded",
]
