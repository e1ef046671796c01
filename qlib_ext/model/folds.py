"""Folds without training: their days, processors that saw too many of them, tables of members and epochs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from qlib.data.dataset.processor import Processor
from qlib.log import get_module_logger

from qlib_ext.data import segment_rows
from qlib_ext.panel import DayPanel
from qlib_ext.training import History, Rows

logger = get_module_logger("qlib_ext.folds")

FEW_STOCKS, FEW_DAYS = 30, 20  # of training, below which the user is warned


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


def fitted_processors(handler: Any, until: Any = None) -> list[Any]:
    """Processors behind the features that are fitted over time, on days after `until` (None: on any)."""
    late = []
    for processor in [*getattr(handler, "shared_processors", []), *getattr(handler, "infer_processors", [])]:
        own_fit = getattr(type(processor), "fit", Processor.fit) is not Processor.fit
        if getattr(processor, "fields_group", None) == "label" or not (own_fit or hasattr(processor, "fit_end_time")):
            continue
        end = getattr(processor, "fit_end_time", None)
        if until is None or end is None or pd.Timestamp(end) > pd.Timestamp(until):
            late.append(processor)
    return late


def refuse_fitted(handler: Any, until: Any) -> None:
    """Raise ValueError for features fitted on days after `until`, the last of training; warn where that is not told."""
    late = fitted_processors(handler, until)
    text = f"{_listed(late)} in the handler's processors was fitted beyond the training days"
    cure = "use CSNormalise (module_path qlib_ext.processor), which fits nothing"
    if any(getattr(processor, "fit_end_time", None) is not None for processor in late):
        raise ValueError(
            f"{text} (to {pd.Timestamp(until).date()}): set its fit_end_time, or the handler's, to that day, or {cure}"
        )
    if late:
        logger.warning(f"{text}, or does not tell: see `qlib-ext check-leak`, or {cure}")


def refuse_held_out(handler: Any, until: Any, *, strict: bool) -> None:
    """Raise (strict), or warn, where features were fitted over held-out days, those after `until` (None: all)."""
    if not (late := fitted_processors(handler, until)):
        return
    text = (
        f"{_listed(late)} in the handler's processors is fitted over time and saw days that are held out here: "
        "use CSNormalise (module_path qlib_ext.processor), which fits nothing, or the model's `scale: robust`, "
        "which is fitted on each fold's own training days"
    )
    if strict:
        raise ValueError(f"{text}; or set strict: false to keep it")
    logger.warning(text)


def _listed(processors: Iterable[Any]) -> str:
    return ", ".join(type(processor).__name__ for processor in processors)


def warn_if_thin(panel: DayPanel, rows: Rows) -> None:
    """Warn where training has few days, or few stocks on the median day: learnt and measured on them is noise."""
    stocks = float(np.median(panel.present[rows].sum(dim=1)))
    cure = "what is learnt and measured there is mostly noise"
    if stocks < FEW_STOCKS:
        logger.warning(
            f"{stocks:.0f} stocks on the median training day, fewer than {FEW_STOCKS}: {cure}; widen instruments"
        )
    if len(rows) < FEW_DAYS:
        logger.warning(f"{len(rows)} training days, fewer than {FEW_DAYS}: {cure}; lengthen train")


# --- records


def members_frame(panel: DayPanel, runs: Iterable[tuple[Fold, int, str, History]]) -> pd.DataFrame:
    """One row for each member: fold, seed, best_epoch, best_value, metric, days and dates of its parts."""
    table = []
    for fold, seed, metric, history in runs:
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


def training_artifacts(model: Any) -> dict[str, Any]:
    """Give what a training keeps where an experiment runs, by path, of a trained model of ours; else nothing."""
    kept = {f"folds/{name}.pkl": getattr(model, name, None) for name in ("members", "curves", "fold_map")}
    kept |= {"folds/oof.pkl": getattr(model, "_oof", None)}
    tables = {
        name: getattr(model, attribute, None) for name, attribute in (("members", "table"), ("correlations",) * 2)
    }
    kept |= {f"ensemble/{name}.pkl": table for name, table in tables.items()}
    history = getattr(model, "history", None)
    if isinstance(history, History) and kept["ensemble/members.pkl"] is None:
        kept["folds/curves.pkl"] = curves_frame([(0, int(model.options.get("seed", 0)), history)])
    return {path: value for path, value in kept.items() if isinstance(value, pd.DataFrame | pd.Series)}
