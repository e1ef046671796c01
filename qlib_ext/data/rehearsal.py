"""A dataset before its data: options, segments and days alone, so that a task can be checked in seconds."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from qlib.contrib.data.handler import check_transform_proc
from qlib.data.dataset import DatasetH
from qlib.data.dataset import processor as qlib_processors
from qlib.data.dataset.handler import DataHandlerLP
from qlib.data.dataset.processor import Processor
from qlib.utils import get_callable_kwargs, init_instance_by_config

from qlib_ext import rules
from qlib_ext.data.dataset import LEAST, DayDatasetH
from qlib_ext.data.handlers import DAYS, dated_handler
from qlib_ext.data.market_features import load_state
from qlib_ext.data.segments import bounds, plain_day
from qlib_ext.options import argument_names, init_names, tell
from qlib_ext.panel import DEFAULT_LABEL, DayPanel
from qlib_ext.provider import calendar
from qlib_ext.spelling import read_day


def rehearsed(config: Any, label: str | None) -> tuple[DatasetH | None, pd.DatetimeIndex]:
    """Build a dataset without its data; a DayDatasetH's panel is one stock without features.

    Args:
        config: of a DatasetH, whose handler is a configuration too; of anything else, None is returned.
        label: the handler's expression; None: not known.

    Returns: the dataset (a class of one's own as that of qlib or qlib_ext that it is made of), and the trading days of
        the handler.

    Raises: ValueError for options and days that cannot be, segments outside of the data, a missing index or series.
    """
    kind, options = get_callable_kwargs(dict(config)) if isinstance(config, Mapping) else (None, {})
    handler = options.get("handler")
    if not (isinstance(kind, type) and issubclass(kind, DatasetH) and isinstance(handler, dict)):
        return None, pd.DatetimeIndex([])
    segments, own = options.get("segments"), DayDatasetH if issubclass(kind, DayDatasetH) else DatasetH
    if not isinstance(segments, dict) or not segments:
        raise ValueError(f"segments is {segments!r}; wanted names and days: {{train: [first, last], ...}}")
    spans = {name: bounds(segment, str(name)) for name, segment in segments.items()}
    if own is DayDatasetH:
        handler = dated_handler(handler, segments)
    for name in DAYS:
        _as_qlib_reads(f"handler: {name}", (handler.get("kwargs") or {}).get(name))
    blank, days = _without_data(handler, spans)
    if label or not (options.get("label") or options.get("label_days")):
        blank.data_loader = SimpleNamespace(fields={"label": ([label or DEFAULT_LABEL], ["LABEL0"])})
    if own is DatasetH:
        for name, segment in segments.items():
            for day in segment if isinstance(segment, list | tuple) else ():
                _as_qlib_reads(f"segment {name!r}", day)
            if not len(days_of(segments, name, days)):
                raise ValueError(
                    f"segment {name!r}: {segments[name]} has no trading day of the handler's, {_told(days)}"
                )
        return DatasetH(handler=blank, segments=segments), days
    named = options if kind is DayDatasetH else {k: v for k, v in options.items() if k in argument_names(DayDatasetH)}
    dataset = DayDatasetH(**{**named, "handler": blank})
    _check_counts(dataset, days)
    if dataset.spells is not None:
        rules.st_mask(dataset.spells, ["SH600000"], days[:1])
    load_state(dataset.market_state, dataset.macro_state, days)
    rehearse_segments(dataset, days)
    return dataset, days


def rehearse_segments(dataset: DatasetH, days: pd.DatetimeIndex) -> None:
    """Refuse segments of a rehearsed DayDatasetH outside of the days that there will be data of; ValueError."""
    if isinstance(dataset, DayDatasetH):
        dataset._panel = _one_stock(days)
        for name in dataset.segments:
            dataset.rows(name)


def days_of(segments: Mapping[str, Any], name: str, days: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Days of a segment among those given; none where there is no such segment."""
    first, last = bounds(segments[name], name) if name in segments else (days[-1:].max(), days[:0].min())
    return days[(days >= first) & (days <= last)]


def _without_data(config: dict[str, Any], spans: Mapping[str, tuple[pd.Timestamp, ...]]) -> tuple[Any, Any]:
    """Make a handler that holds its processors alone, and the trading days of its configuration."""
    kind, options = get_callable_kwargs(config)
    day = {name: read_day(name, options[name]) for name in DAYS if options.get(name) is not None}
    days = calendar()
    inside = (days >= day.get("start_time", days[0])) & (days <= day.get("end_time", days[-1]))
    if not inside.any():
        asked = f"{options.get('start_time')} to {options.get('end_time')}"
        raise ValueError(f"handler: no trading day from {asked}; the calendar has {_told(days)}")
    if options.get("filter_pipe") and not isinstance(options.get("instruments", ""), str):
        tell("handler: filter_pipe has no effect on instruments that are no name of a list")
    blank, fit = DataHandlerLP.__new__(DataHandlerLP), (day.get("fit_start_time"), day.get("fit_end_time"))
    for name in ("infer_processors", "shared_processors", "learn_processors"):
        some = options.get(name) or []
        if "fit_end_time" in init_names(kind):
            some = check_transform_proc(some, *fit)
        processors = [init_instance_by_config(one, qlib_processors, accept_types=Processor) for one in some]
        setattr(blank, name, processors)
    if blind := [
        type(one).__name__ for one in [*blank.shared_processors, *blank.infer_processors] if not one.is_for_infer()
    ]:
        raise ValueError(
            f"handler: {', '.join(blind)} needs labels, which a prediction has not: put it into learn_processors"
        )
    label = options.get("label")
    if isinstance(label, list | tuple) and len(label[0] if label and not isinstance(label[0], str) else label) > 1:
        tell(f"handler: label is {label}; the panel, all models and records of qlib_ext use the first one alone")
    late = fit[1] is not None and "train" in spans and fit[1] > spans["train"][1]
    if late and not any(hasattr(one, "fit_end_time") for one in [*blank.infer_processors, *blank.shared_processors]):
        tell("handler: fit_end_time is after the segment train; no processor here is fitted, so it has no effect")
    return blank, days[inside]


def _as_qlib_reads(what: str, day: Any) -> None:
    if plain_day(what, day) != day:
        raise ValueError(f"{what}: {day!r} is read otherwise by qlib; write {plain_day(what, day)!r}")


def _check_counts(dataset: DayDatasetH, days: pd.DatetimeIndex) -> None:
    """Refuse counts of days that the data do not have."""
    known = len(calendar())
    for name in LEAST:
        value, there = getattr(dataset, name), len(days) if name == "step_len" else known
        if value > there:
            raise ValueError(f"DayDatasetH: {name} is {value}, more than the {there} trading days of the data")


def _one_stock(days: pd.DatetimeIndex) -> DayPanel:
    """Make a panel of one stock that always trades and has no features."""
    grid = torch.zeros(len(days), 1)
    return DayPanel(
        days=days.to_numpy(), stocks=np.array(["SH600000"], dtype=object), features=[],
        x=torch.zeros(len(days), 1, 0), present=grid == 0.0, label=grid,
    )  # fmt: skip


def _told(days: pd.DatetimeIndex) -> str:
    return f"{days[0].date()} to {days[-1].date()}"
