"""qlib models that train on days: MLPModel, MASTERModel, and ensembles over folds and over time."""

from qlib_ext.model.day_model import DayModel, MASTERModel, MLPModel
from qlib_ext.model.ensemble import FoldEnsemble, WalkForwardModel
from qlib_ext.model.folds import FEW_DAYS, FEW_STOCKS, fitted_processors, fold_days
from qlib_ext.model.scores import combined, past_scores

__all__ = [
    "DayModel",
    "FEW_DAYS",
    "FEW_STOCKS",
    "FoldEnsemble",
    "MASTERModel",
    "MLPModel",
    "WalkForwardModel",
    "combined",
    "fitted_processors",
    "fold_days",
    "past_scores",
]
