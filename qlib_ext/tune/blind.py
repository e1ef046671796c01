"""A workflow cut down to what a trial may see: training and validation days, no record. It needs qlib."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from qlib.utils import get_callable_kwargs, init_instance_by_config

from qlib_ext.data import DayDatasetH, bounds, label_reach, rehearsed, segment_rows
from qlib_ext.model import DayModel, FoldEnsemble, WalkForwardModel
from qlib_ext.options import init_names
from qlib_ext.recorder import check_task
from qlib_ext.runs import MEMBERS, Task, options_of
from qlib_ext.tune.space import Range, differences, measured, with_values

LEARNT = ("train", "valid")  # segments that a trial sees
BLOCKS = "a trial trains the members of the first block, on the segments train and valid"


def blinded(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task without test days and records, ready to be trained for its validation days alone.

    The segment test goes, others than train and valid too; what comes last of these ends where the label of its last
    day ends before the test, as purging has it; the handler's data end there. A WalkForwardModel becomes the ensemble
    of its first block, whose days these are. No checkpoint is kept: a trial that is killed is done again.

    Raises: ValueError for a task whose test days cannot be kept from a trial.
    """
    model = without_checkpoint(first_block(task["model"]))
    return {**{key: task[key] for key in task if key != "record"}, "model": model, "dataset": _cut(task["dataset"])}


def _cut(config: Mapping[str, Any]) -> dict[str, Any]:
    """Cut a dataset's configuration off before the test."""
    options = options_of(config)
    handler, segments = options.get("handler"), options.get("segments")
    if not isinstance(handler, Mapping) or not isinstance(segments, Mapping):
        raise ValueError(
            "the dataset's handler must be a configuration {class, module_path, kwargs}, its segments must be named: "
            f"what a file holds cannot be kept from a trial; handler is {handler!r:.80}"
        )
    if "train" not in segments:
        raise ValueError(f"the dataset has no segment train to learn from, but {', '.join(map(str, segments))}")
    kind = get_callable_kwargs(dict(handler))[0]
    if "end_time" not in init_names(kind):
        raise ValueError(f"{kind.__name__} takes no end_time, by which the test days are kept from a trial")
    kept = {name: segments[name] for name in LEARNT if name in segments}
    last = max(kept, key=lambda name: bounds(kept[name], name)[1])
    end = _last_day(config, dict(handler), dict(segments), last)
    kept[last] = [segments[last][0], f"{end:%Y-%m-%d}"]
    own = {**options_of(handler), "end_time": f"{end:%Y-%m-%d}"}
    options |= {"segments": kept, "handler": {**handler, "kwargs": own}}
    return {**config, "kwargs": options}


def _last_day(config: Any, handler: dict[str, Any], segments: dict[str, Any], last: str) -> pd.Timestamp:
    """Find the last day of a segment whose label ends before the test."""
    label = Task({"dataset": {"kwargs": {"handler": handler}}}).label
    dataset, days = rehearsed(config, label)
    if dataset is None:
        raise ValueError(
            f"the dataset {config.get('class')!r} is no DatasetH: what it holds cannot be kept from a trial"
        )
    later = {name: segment for name, segment in segments.items() if name not in LEARNT}
    end = bounds(segments[last], last)[1]
    for name, segment in later.items():
        if bounds(segment, name)[0] <= end:
            raise ValueError(
                f"segment {name!r} begins before {last!r} ends: a trial must not see it; let it come after"
            )
    if isinstance(dataset, DayDatasetH):
        panel = dataset.panel
        rows = segment_rows(panel, {last: segments[last], **later}, last, label_reach(dataset))
        return pd.Timestamp(panel.days[rows[-1]])
    inside = days[(days <= end)]
    if later:
        first = min(bounds(segment, name)[0] for name, segment in later.items())
        place = int(days.searchsorted(first)) - label_reach(dataset)
        inside = inside[inside < days[max(place, 0)]]
    if not len(inside) or inside[-1] < bounds(segments[last], last)[0]:
        raise ValueError(f"segment {last!r} has no day whose label ends before the later segments: lengthen it")
    return pd.Timestamp(inside[-1])


def first_block(model: Any) -> Any:
    """Return the ensemble of a WalkForwardModel's first block; any other model as it is."""
    if not isinstance(model, Mapping) or _kind(model) is not WalkForwardModel:
        return model
    names = ("model", "seeds", "combine", "strict", "processes")
    options = {name: value for name, value in options_of(model).items() if name in names}
    return {"class": "FoldEnsemble", "module_path": MEMBERS, "kwargs": {**options, "n_splits": 1}}


def without_checkpoint(config: Any) -> Any:
    """Return a model's configuration, members included, that keeps no checkpoint."""
    if isinstance(config, Mapping):
        return {name: without_checkpoint(value) for name, value in config.items() if name != "checkpoint"}
    return [without_checkpoint(each) for each in config] if isinstance(config, list) else config


def folds_of(model: Any) -> int:
    """Tell after what a trial may be ended early: 1: an epoch; more: a fold of so many; 0: nothing."""
    kind = _kind(model)
    if isinstance(kind, type) and issubclass(kind, DayModel):
        return 1
    member = options_of(model).get("model")
    if kind is FoldEnsemble and isinstance(member, Mapping) and issubclass(_kind(member), DayModel):
        return int(options_of(model).get("n_splits", 5))
    return 0


def epochs_of(model: Any) -> int:
    """Most epochs of a network."""
    built = innermost(model)
    return int(built.options.get("epochs", 20)) if isinstance(built, DayModel) else 0


def innermost(model: Any) -> Any:
    """Build a model, of folds a member: small, untrained."""
    config = Task({"model": model}).models[-1] if isinstance(model, Mapping) else model
    return init_instance_by_config(dict(config), default_module=MEMBERS) if isinstance(config, Mapping) else config


def _kind(model: Any) -> Any:
    return get_callable_kwargs(dict(model), MEMBERS)[0] if isinstance(model, Mapping) else type(model)


# --- the space on a workflow


def check_ranges(config: Mapping[str, Any], ranges: Iterable[Range]) -> None:
    """Try a space out on a workflow before anything is trained: its ends, each choice alone.

    Raises: TypeError for an option that there is not, ValueError for anything else that a trial would end with.
    """
    every = list(ranges)
    _refuse_blocks(config, every)
    base = blinded(config["task"])
    metric = metric_of(base["model"])
    common = dict(measured(base))
    for place in (0, -1):
        check_task(_tried(config, {each.path: each.ends[place] for each in every}, "all ranges at one end"))
    for each in every:
        for value in each.ends:
            task = _tried(config, {each.path: value}, f"{each.path}: {value!r}")
            changed = [(path, own) for path, own in measured(task) if path in common and own != common[path]]
            if changed:
                told = differences(common[changed[0][0]], changed[0][1], changed[0][0])[0]
                raise ValueError(f"space: {each.path}: the choices differ in what trials must have in common ({told})")
            if (own := metric_of(task["model"])) != metric:
                raise ValueError(
                    f"space: {each.path}: {value!r} is measured by {own}, the workflow by {metric}: name the metric in "
                    "the workflow, so that all trials have the same"
                )


def _tried(config: Mapping[str, Any], values: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Blind a workflow with other values; its model must be one that can be built."""
    task = blinded(with_values(config, values)["task"])
    try:
        innermost(task["model"])
    except (ValueError, TypeError) as error:
        raise type(error)(f"space: {what}: {error}") from error
    return task


def metric_of(model: Any) -> str:
    """Name of the measure that trials of a model are compared by."""
    return str(getattr(innermost(model), "metric", None) or "rank_ic")


def _refuse_blocks(config: Mapping[str, Any], ranges: Iterable[Range]) -> None:
    """Refuse to search what only a WalkForwardModel's later blocks show."""
    model = config["task"]["model"]
    if not isinstance(model, Mapping) or _kind(model) is not WalkForwardModel:
        return
    for each in ranges:
        if not each.path.startswith("task.model.kwargs.model"):
            if each.path.startswith("task.model"):
                raise ValueError(f"space: {each.path} is not searched: {BLOCKS}, which it does not change")
