"""Folds and what is made of them without training: their days, the members' combined scores, tables of records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from qlib.data.dataset.processor import Processor
from qlib.log import get_module_logger

from qlib_ext.cross_section import is_flat, rank_shares, standardised
from qlib_ext.data import segment_rows
from qlib_ext.panel import DayPanel
from qlib_ext.training import History

logger = get_module_logger("qlib_ext.folds")

Rows = npt.NDArray[np.int64]
Grid = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fold:
    """Rows in the panel of one cut; `test` is the block that its members are to score, None: any day asked for."""

    number: int
    train: Rows
    valid: Rows
    test: Rows | None = None

    @property
    def parts(self) -> tuple[Rows, ...]:
        """(train, valid) or (train, valid, test)."""
        return (self.train, self.valid) if self.test is None else (self.train, self.valid, self.test)


# --- days


def whole_segment(panel: DayPanel, segments: dict[str, Any], name: str, reach: int) -> Rows:
    """Rows of a segment, nothing purged; errors as of `segment_rows`."""
    if name not in segments:
        raise ValueError(f"no segment {name!r}; there are {sorted(segments)}")
    return segment_rows(panel, {name: segments[name]}, name, reach)


def fold_days(panel: DayPanel, segments: dict[str, Any], reach: int) -> Rows:
    """Rows of train and valid together, purged before test by the reach.

    Raises: ValueError without a train segment, or where test does not come after both.

    """
    tested = {"test": segments["test"]} if "test" in segments else {}
    names = [name for name in ("train", "valid") if name in segments or name == "train"]
    for name in names:
        whole_segment(panel, segments, name, reach)
    parts = [segment_rows(panel, {name: segments[name], **tested}, name, reach) for name in names]
    rows = np.unique(np.concatenate(parts))
    if tested and rows[-1] >= whole_segment(panel, segments, "test", reach)[0]:
        raise ValueError(f"test must come after train and valid, whose days are cut into folds; they are {segments}")
    return rows


def fitted_processors(handler: Any, until: Any = None) -> list[str]:
    """Name the processors behind the features that are fitted over time, on days after `until` (None: on any)."""
    names = []
    every = [*getattr(handler, "shared_processors", []), *getattr(handler, "infer_processors", [])]
    for processor in every:
        own_fit = getattr(type(processor), "fit", Processor.fit) is not Processor.fit
        if getattr(processor, "fields_group", None) == "label" or not (own_fit or hasattr(processor, "fit_end_time")):
            continue
        end = getattr(processor, "fit_end_time", None)
        if until is None or end is None or pd.Timestamp(end) > pd.Timestamp(until):
            names.append(type(processor).__name__)
    return names


def refuse_fitted(handler: Any, until: Any) -> None:
    """Raise ValueError for features that were fitted on days after `until`, the last day of training.

    A processor that has a `fit` of its own and tells no `fit_end_time` is only reported.
    """
    names = fitted_processors(handler, until)
    every = [*getattr(handler, "shared_processors", []), *getattr(handler, "infer_processors", [])]
    late = [type(p).__name__ for p in every if getattr(p, "fit_end_time", None) is not None]
    text = f"{', '.join(names)} in the handler's processors was fitted beyond the training days"
    cure = "use CSNormalise (module_path qlib_ext.processor), which fits nothing"
    if set(names) & set(late):
        raise ValueError(
            f"{text} (to {pd.Timestamp(until).date()}): set its fit_end_time, or the handler's, to that day, or {cure}"
        )
    if names:
        logger.warning(f"{text}, or does not tell: see `qlib-ext check-leak`, or {cure}")


def check_features(known: Sequence[str], panel: DayPanel, market: Sequence[str] = ()) -> None:
    """Raise ValueError unless the panel has the features that a model was trained on, in their order.

    Args:
        known: features of the stocks.
        panel: to be scored.
        market: features of the market that feed the gate; empty where there is no gate.

    """
    for kind, names, found, cure in (
        ("features", known, panel.features, "handler"),
        ("market features", market, panel.market_features if market else [], "market_state and macro_state"),
    ):
        if list(names) != list(found):
            raise ValueError(
                f"the model was trained on {len(names)} {kind}, the dataset has {len(found)}: "
                f"{first_difference(names, found)}. Use the {cure} of the training"
            )


def first_difference(known: Sequence[str], names: Sequence[str]) -> str:
    """Say where two lists of names differ first."""
    places = (i for i, (a, b) in enumerate(zip(known, names, strict=False)) if a != b)
    at = next(places, min(len(known), len(names)))
    return f"they differ first at place {at}: {list(known[at : at + 3])} against {list(names[at : at + 3])}"


# --- scores


def combined(scores: Sequence[Grid], combine: str) -> Grid:
    """Mean over members of their scores (D, N), put on one scale each day first; NaN where a stock is not present."""
    scaled = day_ranks if combine == "rank" else day_standardised
    total = scaled(scores[0])
    for score in scores[1:]:
        total += scaled(score)
    return (total / len(scores)).astype(np.float32)


def day_standardised(score: Grid) -> npt.NDArray[np.float64]:
    """(score - mean) / std over the day's stocks, (D, N); a constant day becomes 0 (correlations give no scale)."""
    value, flat = torch.from_numpy(np.asarray(score, dtype=np.float64)), flat_days(score)
    known = torch.isfinite(value)
    return torch.where(known, standardised(value, known & ~flat), torch.nan).numpy()


def day_ranks(score: Grid) -> npt.NDArray[np.float64]:
    """Average rank over the day's stocks divided by their number, (D, N); on a constant day all stocks tie."""
    return rank_shares(np.where(flat_days(score).numpy() & np.isfinite(score), 0.0, score))


def flat_days(score: Grid) -> torch.Tensor:
    """Tell the days (D, 1) whose scores are equal within float32's noise: the losses' rule of a constant."""
    value = torch.from_numpy(np.array(score, dtype=np.float32))
    return is_flat(value, torch.isfinite(value))


def score_series(panel: DayPanel, rows: Rows, score: Grid) -> pd.Series:
    """Turn scores (len(rows), N) into a Series `score` by (datetime, instrument), sorted, absent stocks left out."""
    frame = pd.DataFrame(score, index=pd.DatetimeIndex(panel.days[rows]), columns=panel.stocks)
    frame.index.name, frame.columns.name = "datetime", "instrument"
    return pd.Series(frame.stack().dropna(), name="score").sort_index()


# --- records


def members_frame(panel: DayPanel, runs: Iterable[tuple[Fold, int, History, str]]) -> pd.DataFrame:
    """One row for each member: fold, seed, best_epoch, best_value, metric, days and dates of its parts."""
    table = []
    for fold, seed, history, metric in runs:
        row: dict[str, Any] = {"fold": fold.number, "seed": seed}
        row |= {"best_epoch": history.best_epoch, "best_value": history.best_value, "metric": metric}
        named = list(zip(("train", "valid", "test"), fold.parts, strict=False))
        row |= {f"n_{name}": len(part) for name, part in named}
        for name, part in named:
            row |= {f"{name}_start": panel.days[part[0]], f"{name}_end": panel.days[part[-1]]}
        table.append(row)
    return pd.DataFrame(table)


def curves_frame(runs: Iterable[tuple[int, int, History]]) -> pd.DataFrame:
    """One row for each member and epoch: fold, seed, epoch (from 1) and all that History holds of it."""
    return pd.DataFrame(
        [
            {"fold": fold, "seed": seed, "epoch": epoch, **row}
            for fold, seed, history in runs
            for epoch, row in enumerate(history.epochs, 1)
        ]
    )


# --- checks


def refuse_reweighter(reweighter: Any) -> None:
    """Raise ValueError for a reweighter: days are weighted by the loss."""
    if reweighter is not None:
        raise ValueError("reweighter is not used by day losses: choose loss, target and weight_by instead")


def distinct_seeds(seeds: Any) -> tuple[int, ...]:
    """Check the seeds: one or more distinct whole numbers."""
    values = tuple(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else ()
    if not values or len(set(values)) < len(values) or any(type(seed) is not int or seed < 0 for seed in values):
        raise ValueError(f"seeds={seeds!r} must be a list of one or more distinct whole numbers, such as [0, 1, 2]")
    return values
