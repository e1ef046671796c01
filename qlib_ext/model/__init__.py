"""qlib models that train on days: MLPModel, MASTERModel, and ensembles over folds, over time, over kinds of models."""

from qlib_ext.model.day_model import DayModel, MASTERModel, MLPModel, hearing
from qlib_ext.model.ensemble import FoldEnsemble, WalkForwardModel
from qlib_ext.model.folds import FEW_DAYS, FEW_STOCKS, fitted_processors, fold_days, training_artifacts
from qlib_ext.model.mixed import ModelEnsemble
from qlib_ext.model.ray_trainer import RayTrainer
from qlib_ext.model.samples import PanelSamples
from qlib_ext.model.scores import blended, combined, neutral_to, past_scores
from qlib_ext.model.trees import LightGBMModel

__all__ = [
    "DayModel",
    "FEW_DAYS",
    "FEW_STOCKS",
    "FoldEnsemble",
    "LightGBMModel",
    "MASTERModel",
    "MLPModel",
    "ModelEnsemble",
    "PanelSamples",
    "RayTrainer",
    "WalkForwardModel",
    "blended",
    "combined",
    "fitted_processors",
    "fold_days",
    "hearing",
    "neutral_to",
    "past_scores",
    "training_artifacts",
]
