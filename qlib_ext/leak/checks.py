"""Leak checks of a whole workflow: the future perturbed, the market shuffled, the parts' days compared pair by pair.

`check_leak(workflow)` runs all three and returns a table; `qlib-ext check-leak WORKFLOW` prints it.
"""

import copy
import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from qlib.model.base import BaseModel
from qlib.utils import get_callable_kwargs, init_instance_by_config

from qlib_ext.data import (
    DayDatasetH,
    LabelSpan,
    bounds,
    check_segments,
    dated_handler,
    horizons_of,
    label_days_of,
    label_span,
    segment_rows,
)
from qlib_ext.leak.compare import Finding, judge_features, judge_ic, judge_parts
from qlib_ext.leak.copies import perturb_provider, shuffle_provider
from qlib_ext.leak.own_files import perturb_files
from qlib_ext.leak.replay import Replay, compare_replays
from qlib_ext.model import FoldEnsemble, WalkForwardModel, fold_days
from qlib_ext.options import check_choice
from qlib_ext.panel import DayPanel
from qlib_ext.provider import read_calendar
from qlib_ext.recorder import check_folder
from qlib_ext.runs import Task, options_of
from qlib_ext.spelling import read_day
from qlib_ext.workflow import load_workflow

CHECKS = ("overlap", "future", "shuffled")
COLUMNS = ("check", "item", "compared", "changed", "passed", "detail", "proves")

Rows = npt.NDArray[np.int64]
Say = Callable[[str], None]


def check_leak(
    workflow: str | Path | dict[str, Any],
    *,
    after: Any = None,
    epochs: int | None = 1,
    stocks: int | Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    seed: int = 0,
    isolated: bool = True,
    say: Say | None = None,
) -> pd.DataFrame:
    """Check a workflow for leaks; a row each of what was compared.

    Args:
        workflow: a YAML file, rendered as qrun does, or its configuration.
        after: last day that stays as it is, a day of the test segment; None: its middle.
        epochs: most epochs of the model's training; None: as configured.
        stocks: stocks to perturb: None for all, codes, or a number to draw.
        only: of CHECKS; None: all.
        seed: of the perturbation and the shuffle.
        isolated: run each replay in a process of its own. False is quicker, and leaves qlib initialised on a folder
            that is gone: initialise it again.
        say: called with a line of progress.

    Returns: frame of COLUMNS; `changed` counts what differs, meets or fails among `compared`, `passed` is bool. Where
        it is False, `proves` tells a leak (True) from what could not be compared or proves nothing (False).

    Raises: ValueError for what cannot be checked (a cached handler, no trained model, days outside the data), OSError
        for missing files.

    >>> model = {"class": "MLPModel", "module_path": "qlib_ext.model"}
    >>> label = "Ref($close, -2)/Ref($close, -1) - 1"
    >>> handler = {"class": "DataHandlerLP", "module_path": "qlib.data.dataset.handler"}
    >>> segments = {"train": ["2020-02-03", "2020-04-30"], "test": ["2020-05-06", "2020-06-12"]}
    >>> options = {"handler": handler, "segments": segments, "label": label}
    >>> data = {"class": "DayDatasetH", "module_path": "qlib_ext.data", "kwargs": options}
    >>> workflow = {"qlib_init": {"provider_uri": str(provider)}, "task": {"model": model, "dataset": data}}
    >>> check_leak(workflow, only=["overlap"])[["item", "changed", "passed"]].to_numpy().tolist()
    [['train/test', 0, True]]
    """
    wanted = CHECKS if only is None else tuple(only)
    for name in wanted or ("",):
        check_choice("check", name, CHECKS)
    config = workflow if isinstance(workflow, dict) else load_workflow(workflow)
    options: dict[str, Any] = {"epochs": epochs, "seed": seed, "isolated": isolated, "say": say}
    findings = check_overlap(config) if "overlap" in wanted else []
    refused = any(finding.item in ("segments", "folds") and not finding.passed for finding in findings)
    for name in (n for n in CHECKS[1:] if n in wanted):
        if refused:
            why = "not run: the days are refused, see overlap"
            findings.append(Finding(name, "all", 0, 0, False, why, proves=False))
        elif name == "future":
            findings += check_future(config, after, stocks=stocks, **options)
        else:
            findings += check_shuffled(config, **options)
    return pd.DataFrame([vars(finding) for finding in findings], columns=list(COLUMNS))


def check_future(
    config: dict[str, Any],
    after: Any = None,
    *,
    epochs: int | None = 1,
    stocks: int | Sequence[str] | None = None,
    seed: int = 0,
    isolated: bool = True,
    say: Say | None = None,
) -> list[Finding]:
    """Build, train, score and trade twice, the second time with all after a day perturbed; compare what is up to it.

    Features, presence, liquidity, volatility and market state of all days up to `after`, the exposures that the loss is
    neutral to, labels that end by then, the test scores, the yuan that `fill_top_n` places by them, and the orders and
    positions of the workflow's backtest, which runs on for BEYOND days. A ForecastRecord learns once more, of the same
    scores of past days, on a market that is perturbed from the first test day on, and must find the same. The model is
    trained in float32; scores that agree but for rounding are traded as equal, so that ties do not fall differently.
    What a workflow lacks (PortAnaRecord, ForecastRecord, liquidity) has a row that says so. That the perturbation
    reaches the features of later days at all is checked too. Files of the user's own (`frames`, `macro_state`,
    `exposures`) are changed where their values are not known yet by their lags; whether a lag is true no file tells, so
    that a feature whose IC is too good over the days of training is named.

    What looks k days ahead shows on the last k days up to `after`. Orders rest on the day before, so a strategy is
    caught from two days on; what it may know of the day it trades on (the deal price, but not the day's volume) this
    check cannot tell apart.
    """
    speak = say or (lambda line: None)
    provider, calendar = _market_of(config)
    segments, span = Task(config["task"]).segments, _label_span(config)
    cutoff = _cutoff(after, segments, calendar)
    days = calendar[calendar <= cutoff]
    _check_trained_before(segments, span.reach, days, calendar)
    with tempfile.TemporaryDirectory(prefix="qlib_ext_leak_") as temp:
        folder = Path(temp)
        old = Replay(config, provider, folder / "old", span.reach, epochs, cutoff)
        speak(f"future: building, training and trading on {provider}")
        old.run(isolated)
        speak(f"future: perturbing everything after {cutoff.date()}")
        names = perturb_provider(provider, folder / "market", cutoff, stocks=stocks, seed=seed)
        speak(f"future: the same with {len(names)} perturbed stocks")
        files = perturb_files(config, provider, folder / "files", cutoff, seed=seed)
        new = Replay(files.config, folder / "market", folder / "new", span.reach, epochs, cutoff, like=old.folder)
        new.run(isolated)
        known = None
        if old.result("past") is not None:
            speak("future: the forecast, on a market perturbed from the first test day on")
            eve = calendar[calendar < bounds(segments["test"])[0]][-1]
            perturb_provider(provider, folder / "early", eve, stocks=stocks, seed=seed)
            known = Replay(config, folder / "early", folder / "known", span.reach, epochs, cutoff, past=old.folder)
            known.run(isolated)
        speak("future: comparing")
        return compare_replays(old, new, cutoff, days, known, files, span.horizon)


def check_shuffled(
    config: dict[str, Any],
    *,
    epochs: int | None = 1,
    seed: int = 0,
    isolated: bool = True,
    say: Say | None = None,
) -> list[Finding]:
    """Train and score on a market whose returns are shuffled within days; the IC must be 0 within its error.

    The shuffle is done at the source (`shuffle_provider`), for training, validation and test alike: shuffling the
    label column alone could not show a feature that contains the label, which would keep the true one. Two numbers are
    judged: the mean IC of the scores over the test days (3 standard errors), and the IC of every single feature over
    all days of the segments (5 standard errors, as there are many), which names the feature. Labels of h days overlap:
    every h-th day is judged.
    """
    speak = say or (lambda line: None)
    provider, _ = _market_of(config)
    with tempfile.TemporaryDirectory(prefix="qlib_ext_leak_") as temp:
        folder = Path(temp)
        speak("shuffled: dealing out each day's returns")
        shuffle_provider(provider, folder / "market", seed=seed)
        speak("shuffled: building, training and scoring on it")
        span = _label_span(config)
        replay = Replay(config, folder / "market", folder / "replay", span.reach, epochs)
        replay.run(isolated)
        ic = replay.result("ic")
    return [judge_ic(ic["scores"], span.horizon), judge_features(ic["features"], ic["names"], span.horizon)]


def check_overlap(config: dict[str, Any]) -> list[Finding]:
    """Compare every pair of days of two parts (train, valid, test), for the segments or for each fold.

    Day t has the label days t+1 to t+reach and the window t-step_len+1 to t. See `judge_parts` for what is an error
    (labels that meet, a training window over a validation label, in folds also a training label within a validation
    window) and what is only reported. The segments are purged as the models of qlib_ext do; other models take them as
    they stand. Segments that overlap, and folds that the model refuses, are one failed row ("segments", "folds"); it
    proves nothing where the workflow could not be run with them at all.
    """
    _, calendar = _market_of(config)
    segments, reach = Task(config["task"]).segments, _label_span(config).reach
    kind, dataset = (_class_of(config["task"][part])[0] for part in ("model", "dataset"))
    refuses = _is_ours(kind) or _is_ours(dataset)
    try:
        check_segments(segments)
    except ValueError as error:  # what would be refused cannot leak
        return [Finding("overlap", "segments", len(segments), int(not refuses), False, str(error), not refuses)]
    panel, window = _bare_panel(config, calendar), _window(config)
    if issubclass(kind, FoldEnsemble | WalkForwardModel):
        try:
            folds = _fold_parts(_model_of(config), panel, segments, reach, window)
        except ValueError as error:
            return [Finding("overlap", "folds", 0, 0, False, str(error), proves=False)]
    else:
        parts: dict[str, Rows] = {
            name: segment_rows(panel, segments, name, reach) if _is_ours(kind) else panel.rows(*bounds(segments[name]))
            for name in ("train", "valid", "test")
            if name in segments
        }
        folds = {"": (parts, False)}
    days = pd.DatetimeIndex(panel.days)
    return [
        judge_parts(f"{fold}{first}/{second}", *rows, days, reach=reach, window=window, strict=strict)
        for fold, (parts, strict) in folds.items()
        for (first, second), rows in zip(combinations(parts, 2), combinations(parts.values(), 2), strict=True)
    ]


def _is_ours(kind: Any) -> bool:
    """Whether a class is of qlib_ext or builds on one."""
    return any(base.__module__.startswith("qlib_ext.") for base in kind.__mro__)


# --- workflow


def _market_of(config: dict[str, Any]) -> tuple[Path, pd.DatetimeIndex]:
    """Return the provider's folder (the embedded market is built where it is asked for) and its calendar."""
    uri = config["qlib_init"].get("provider_uri", "~/.qlib/qlib_data/cn_data")
    if isinstance(uri, dict):
        uri = uri.get("day", next(iter(uri.values())))
    provider = Path(str(uri)).expanduser()
    check_folder(provider)
    task = Task(config["task"])
    if "test" not in task.segments:
        raise ValueError("the dataset's kwargs have no segments with a test segment: there is nothing to check")
    if isinstance(file := task.dataset.get("handler"), str):
        raise ValueError(
            f"handler: {file!r} is a cached file, which no change of the data reaches: give the handler's class and "
            "kwargs"
        )
    _model_of(config)  # a misspelt option is an error now, not after the data are built
    return provider.resolve(), read_calendar(provider)


def _model_of(config: dict[str, Any]) -> Any:
    """Return the workflow's model, untrained."""
    model = copy.deepcopy(config["task"]["model"])
    _class_of(model)
    try:
        return init_instance_by_config(model, accept_types=BaseModel)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _cutoff(after: Any, segments: dict[str, Any], calendar: pd.DatetimeIndex) -> pd.Timestamp:
    """Return the last unperturbed day: the one asked for, or the middle of the test segment."""
    start, end = bounds(segments["test"])
    days = calendar[(calendar >= start) & (calendar <= end)]
    if len(days) < 2:
        raise ValueError(f"the test segment holds {len(days)} days of {calendar[0].date()} to {calendar[-1].date()}")
    if after is None:
        return pd.Timestamp(days[(len(days) - 1) // 2])
    cutoff = read_day("after", after, hint=f"; a day of the test segment such as {days[len(days) // 2].date()}")
    if not days[0] <= cutoff < days[-1]:
        raise ValueError(
            f"after={cutoff.date()} must be a day of the test segment before its last: {days[0].date()} to "
            f"{days[-2].date()}"
        )
    return cutoff


def _check_trained_before(
    segments: dict[str, Any], reach: int, days: pd.DatetimeIndex, calendar: pd.DatetimeIndex
) -> None:
    """Refuse a cutoff, the last of `days`, that the labels of the training reach beyond."""
    for name in (name for name in ("train", "valid") if name in segments):
        if int(calendar.searchsorted(bounds(segments[name])[1], side="right")) + reach > len(days):
            raise ValueError(
                f"labels of the segment {name!r} reach beyond after={days[-1].date()}, so that the model may change: "
                "give a later day (--after)"
            )


def _class_of(config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the class and keyword arguments of a part of the workflow."""
    try:
        kind, kwargs = get_callable_kwargs(dict(config))
    except (KeyError, AttributeError, ImportError) as error:
        raise ValueError(f"the workflow's {config.get('class')!r} cannot be loaded: {error}") from error
    return kind, kwargs or {}


def _label_span(config: dict[str, Any]) -> LabelSpan:
    """Days after t that its labels touch, read from the configuration of dataset and handler."""
    task = Task(config["task"])
    span = label_days_of(task.dataset.get("label_days"))
    if span is None:
        if task.label is None:
            told = "give the dataset label=<its expression> or label_days"
            raise ValueError(f"the workflow does not tell its label: {told}")
        span = label_span(task.label)
    return span.with_horizons(horizons_of(task.dataset.get("horizons")))


def _window(config: dict[str, Any]) -> int:
    """T, days in a window; 1 where the model, or what an ensemble is made of, looks at the day alone."""
    if not getattr(_class_of(Task(config["task"]).models[-1])[0], "needs_window", True):
        return 1
    kind, kwargs = _class_of(config["task"]["dataset"])
    default = inspect.signature(kind.__init__).parameters.get("step_len")
    return int(kwargs.get("step_len", default.default if default is not None else 1))


def _bare_panel(config: dict[str, Any], calendar: pd.DatetimeIndex) -> DayPanel:
    """Return a panel that holds the handler's days and no stock: enough to cut segments and folds."""
    task = Task(config["task"])
    handler = task.handler
    if issubclass(_class_of(config["task"]["dataset"])[0], DayDatasetH):
        handler = dated_handler(handler, task.segments)
    options = options_of(handler)
    start, end = bounds((options.get("start_time"), options.get("end_time")))
    days = calendar[(calendar >= start) & (calendar <= end)]
    if not len(days):
        raise ValueError(f"the handler's days, {start} to {end}, are outside the calendar")
    none = torch.zeros((len(days), 0))
    return DayPanel(days.to_numpy(), np.empty(0, dtype=object), [], none[:, :, None], none.bool(), none)


def _fold_parts(
    model: FoldEnsemble | WalkForwardModel, panel: DayPanel, segments: dict[str, Any], reach: int, window: int
) -> dict[str, tuple[dict[str, Rows], bool]]:
    """Return the parts of each fold as the model cuts them: prefix -> (part -> rows, strict)."""
    parts = {
        f"fold {fold.number} ": (dict(zip(("train", "valid", "test"), fold.parts, strict=False)), True)
        for fold in model.folds(panel, segments, window, reach)
    }
    if isinstance(model, WalkForwardModel):
        return parts
    test = segment_rows(panel, segments, "test", reach)
    if model.n_splits == 1:
        ((rows, _),) = parts.values()
        return {"": (rows | {"test": test}, False)}
    return parts | {"": ({"folds": fold_days(panel, segments, reach), "test": test}, False)}
