"""Scores of models: asked for by segment, put on one scale and combined, as the series that qlib's records read."""

import inspect
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from qlib_ext.cross_section import day_zscores, is_flat, project_off, rank_shares
from qlib_ext.data import panel_of
from qlib_ext.panel import DayPanel, check_scores
from qlib_ext.training import Rows

Grid = npt.NDArray[np.float32]
BLOCK_DAYS = 64  # whose exposures are looked at together


def asked_rows(dataset: Any, segment: str | slice) -> tuple[DayPanel, Rows]:
    """Panel of a dataset, and the rows of a segment, or of a slice of days."""
    panel, _, rows = panel_of(dataset)
    return panel, panel.rows(segment.start, segment.stop) if isinstance(segment, slice) else rows(segment)


def past_scores(model: Any, dataset: Any) -> pd.Series | None:
    """Scores of days before the test segment that a trained model did not learn from; None where it has none.

    Out-of-fold scores of a FoldEnsemble; else what the model says of the segment "valid", on which it may have been
    stopped or selected: such scores look a little better than those of later days.

    Raises: ValueError for a FoldEnsemble that was read from a file, which has no out-of-fold scores (they are in the
        run's folds/oof.pkl); TypeError, ValueError for what are no scores.
    """
    if hasattr(type(model), "oof"):
        return check_scores(model.oof, "the out-of-fold scores")
    if "valid" not in getattr(dataset, "segments", {}):
        return None
    if _takes_segment(model):
        scores = model.predict(dataset, segment="valid")
    else:  # it scores the segment test, as qlib's models of windows do
        other = copy(dataset)
        other.segments = dataset.segments | {"test": dataset.segments["valid"]}
        scores = model.predict(other)
    return check_scores(scores, "the model's scores of the segment valid")


def _takes_segment(model: Any) -> bool:
    options = inspect.signature(model.predict).parameters.values()
    return any(option.name == "segment" or option.kind == option.VAR_KEYWORD for option in options)


def check_features(trained: Sequence[str], panel: DayPanel, market: Sequence[str] = ()) -> None:
    """Raise ValueError unless a panel has the features that a model was trained on, of stocks and of the gate."""
    for kind, names, others, cure in (
        ("features", trained, panel.features, "handler"),
        ("market features", market, panel.market_features if market else [], "market_state and macro_state"),
    ):
        if list(names) != list(others):
            raise ValueError(
                f"the model was trained on {len(names)} {kind}, the dataset has {len(others)}: "
                f"{first_difference(names, others)}. Use the {cure} of the training"
            )


def first_difference(names: Sequence[str], others: Sequence[str]) -> str:
    """Say where two lists of names differ first."""
    places = (i for i, (a, b) in enumerate(zip(names, others, strict=False)) if a != b)
    at = next(places, min(len(names), len(others)))
    return f"they differ first at place {at}: {list(names[at : at + 3])} against {list(others[at : at + 3])}"


def combined(scores: Sequence[Grid], combine: str) -> Grid:
    """Mean over members of their scores (D, N), put on one scale each day first; NaN where a stock is not present."""
    if any(np.isinf(score).any() for score in scores):
        raise ValueError("a member's scores hold infinities: it has diverged; NaN is no score")
    scaled = _ranks if combine == "rank" else day_zscores
    total = scaled(scores[0])
    for score in scores[1:]:
        total += scaled(score)
    return (total / len(scores)).astype(np.float32)


def _ranks(score: Grid) -> npt.NDArray[np.float64]:
    """Average rank over the day's stocks divided by their number, (D, N); on a constant day all stocks tie."""
    value = torch.from_numpy(np.array(score, dtype=np.float32))
    flat = is_flat(value, torch.isfinite(value)).numpy()  # within float32's noise: the losses' rule of a constant
    return rank_shares(np.where(flat & np.isfinite(score), 0.0, score))


def heads_frame(panel: DayPanel, rows: Rows, score: Grid, horizons: Sequence[int]) -> pd.DataFrame:
    """Turn scores of heads (len(rows), N, H) into a frame as `score_series`, a column each; the only one is `score`."""
    names = [*horizons] if len(horizons) > 1 else ["score"]
    return pd.concat({name: score_series(panel, rows, score[..., n]) for n, name in enumerate(names)}, axis=1)


def neutral_to(model: Any) -> tuple[str, ...]:
    """Exposures that a trained model's score is off; of an ensemble those of all members, nothing where they differ."""
    if members := getattr(model, "models", None):
        names = {neutral_to(member) for member in members}
        return names.pop() if len(names) == 1 else ()
    loss = getattr(getattr(model, "trainer", None), "loss", model)  # LightGBMModel says so itself
    return tuple(getattr(loss, "neutral", ()))


def off_exposures(panel: DayPanel, rows: Rows, score: Grid, models: Sequence[Any]) -> Grid:
    """Take combined scores (len(rows), N) off the exposures that all members are neutral to, as each of theirs is.

    A mean of neutral scores is neutral but for rounding, one of ranks is not. Nothing where members differ.
    """
    names = {neutral_to(model) for model in models}
    if len(names) != 1 or not (neutral := names.pop()):
        return score
    out = np.full(score.shape, np.nan, dtype=np.float32)
    for first in range(0, len(rows), BLOCK_DAYS):
        block = slice(first, first + BLOCK_DAYS)
        value = torch.from_numpy(np.asarray(score[block], dtype=np.float64))
        real = torch.isfinite(value)
        apart = project_off(value, panel.exposures(neutral, rows[block]).cpu(), real, real)
        out[block] = torch.where(real, apart, torch.nan).numpy()
    return out


def score_series(panel: DayPanel, rows: Rows, score: Grid) -> pd.Series:
    """Turn scores (len(rows), N) into a Series `score` by (datetime, instrument), sorted, absent stocks left out."""
    frame = pd.DataFrame(score, index=pd.DatetimeIndex(panel.days[rows]), columns=panel.stocks)
    frame.index.name, frame.columns.name = "datetime", "instrument"
    return pd.Series(frame.stack().dropna(), name="score").sort_index()


def blended(scores: Sequence[Grid], weights: npt.ArrayLike, combine: str) -> Grid:
    """Weighted mean over members of their scores (D, N), put on one scale each day first, as `combined` does.

    A stock that some members have not scored has the mean of the others; one that none has, or only members without
    weight, is NaN.
    """
    if any(np.isinf(score).any() for score in scores):
        raise ValueError("a member's scores hold infinities: it has diverged; NaN is no score")
    scaled = _ranks if combine == "rank" else day_zscores
    total, mass = np.zeros((2, *scores[0].shape))
    for score, weight in zip(scores, np.asarray(weights, dtype=np.float64), strict=True):
        if weight:
            value = scaled(score)
            known = ~np.isnan(value)
            total += weight * np.where(known, value, 0.0)
            mass += weight * known
    return np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), np.nan).astype(np.float32)
