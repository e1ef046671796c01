"""Scores of the days since the last scored one, by the run's own model and data set; what the run then keeps."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from qlib.data.dataset.handler import DataHandlerLP
from qlib.log import get_module_logger

from qlib_ext.beside import beside
from qlib_ext.daily.watch import Reference, corrections, population, recent_bars
from qlib_ext.data import panel_of
from qlib_ext.panel import DayPanel, check_scores
from qlib_ext.provider import calendar
from qlib_ext.runs import Run, dump_objects, load_artifacts

logger = get_module_logger("qlib_ext.daily")

PRED, STATE = "pred.pkl", "daily.pkl"
LIVE = 60  # days whose realised IC is looked at
KEPT = 10  # last scored days whose bars are compared with those of the next time
JUDGED = 120  # last days of the test that features are compared with


def load_data(recorder: Any, start: pd.Timestamp, first: pd.Timestamp, last: pd.Timestamp) -> Any:
    """Load a run's data set from `start` on, with the window before it; its test segment is first to last.

    Its processors keep what they were fitted on.
    """
    dataset, every = recorder.load_object("dataset"), calendar()
    begin = every[max(0, int(every.searchsorted(start)) - getattr(dataset, "step_len", 1) + 1)]
    dataset.config(handler_kwargs={"start_time": begin, "end_time": last}, segments={"test": (first, last)})
    dataset.setup_data(handler_kwargs={"init_type": DataHandlerLP.IT_LS})
    return dataset


def horizon_of(dataset: Any) -> int:
    """Days of a data set's label; 1 where it does not tell them."""
    try:
        return int(dataset.span.horizon)
    except (AttributeError, ValueError):
        return 1


def state_of(recorder: Any, scores: pd.Series, kept: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the run keeps of its days; of one that no day was added to: the end of its test, its features then.

    Args:
        recorder: of the run.
        scores: of the run; what was added behind the test segment is none of the test.
        kept: by an evening before; where it was one of an older version, the features are described anew.
    """
    if kept is not None and "flat" in kept["reference"]:
        return dict(kept)
    days = scores.index.unique("datetime")
    tested = _end_of_test(recorder, days) if kept is None else kept["tested"]
    judged = days[days <= tested][-JUDGED:]
    dataset = load_data(recorder, judged[0], judged[0], tested)
    logger.info(f"features are compared with those of {len(judged)} days up to {tested.date()}")
    state = {"tested": tested, "bars": None, "corrected": None} if kept is None else dict(kept)
    return state | {"reference": vars(population(panel_of(dataset)[0]))}


def _end_of_test(recorder: Any, scored: Any) -> Any:
    """Last scored day of the test segment: others may have added days before (qlib's updater does)."""
    segment = getattr(recorder.load_object("dataset"), "segments", {}).get("test")
    end = segment[-1] if isinstance(segment, list | tuple) else None
    within = scored if end is None else scored[scored <= pd.Timestamp(end)]
    return within[-1] if len(within) else scored[-1]


def changed_bars(state: Mapping[str, Any]) -> pd.DataFrame:
    """List the bars of the last scored days that the provider has issued again since."""
    bars = state["bars"]
    if bars is None:
        return pd.DataFrame(columns=["datetime", "instrument", "field", "old", "new"])
    days, codes = bars.index.unique("datetime"), sorted(bars.index.unique("instrument"))
    return corrections(bars, recent_bars(codes, days))


def days_to_score(scores: pd.Series, tested: pd.Timestamp, changed: pd.DataFrame) -> pd.DatetimeIndex:
    """List the days after the last scored one, and those from the first changed bar on; none of the test.

    Raises: ValueError where the provider ends before the scores.
    """
    scored, every = scores.index.unique("datetime")[-1], calendar()
    if every[-1] < scored:
        raise ValueError(
            f"the provider ends {every[-1]:%Y-%m-%d}, before the run's last score, {scored:%Y-%m-%d}: name the run's "
            "own provider, or update it"
        )
    first = scored + pd.Timedelta(days=1) if changed.empty else min(changed["datetime"].min(), scored)
    return every[every >= max(first, tested + pd.Timedelta(days=1))]


def scored_anew(scores: pd.Series, model: Any, dataset: Any, days: pd.DatetimeIndex) -> pd.Series:
    """Score days, the test segment of a dataset, and put them in the place of their older scores.

    Raises: ValueError where a day has no score.
    """
    panel = panel_of(dataset)[0]
    _refuse_bare(days, panel.days[panel.present.any(dim=1).numpy()])
    new = check_scores(model.predict(dataset), "the model's scores").astype(scores.dtype)
    _refuse_bare(days, new.index.unique("datetime"))
    old = scores[~scores.index.get_level_values("datetime").isin(days)]
    return pd.concat([old, new]).sort_index().rename(scores.name)


def _refuse_bare(days: pd.DatetimeIndex, scored: Any) -> None:
    """Refuse days without a score; bars that are not there would end within the model, in words of its own."""
    lacking = days[~days.isin(scored)]
    if len(lacking):
        raise ValueError(
            f"no stock has a score on {lacking[0]:%Y-%m-%d}, a day of the calendar: are its bars there? Update the data"
        )


def bars_to_keep(panel: DayPanel) -> pd.DataFrame:
    """Read the bars of a panel's last `KEPT` days."""
    return recent_bars([str(code) for code in panel.stocks], pd.DatetimeIndex(panel.days[-KEPT:]))


def keep(run: Run, objects: Mapping[str, Any]) -> None:
    """Write artifacts of a run as its recorder does, each file beside and renamed: nothing is lost by a kill."""
    with TemporaryDirectory() as folder:
        dump_objects(Path(folder), None, objects)
        for file in sorted(Path(folder).iterdir()):
            with beside(run.folder / file.name) as partial:
                copyfile(file, partial)


def is_whole(run: Run, name: str) -> bool:
    """Whether an artifact and its twin are of each other: a routine that was killed may have written the one alone."""
    try:
        return name in load_artifacts(replace(run, trust=False), [name])
    except ValueError:
        return False


def reference_of(state: Mapping[str, Any]) -> Reference:
    """Return the population that features are compared with."""
    return Reference(**state["reference"])
