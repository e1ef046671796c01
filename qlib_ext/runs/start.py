"""A workflow checked before anything is loaded: every key, what each class itself refuses, the days, the provider.

`check_workflow` looks at the file as a whole, `check_task` at its task. Classes of qlib_ext are built, on the days of
the calendar alone (`data.rehearsed`); of others the names of their options are checked. It needs qlib.
"""

import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd
from qlib import config as qlib_config
from qlib.backtest import get_exchange, get_strategy_executor
from qlib.backtest.exchange import Exchange
from qlib.config import C
from qlib.data import D
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandler
from qlib.log import get_module_logger
from qlib.utils import fill_placeholder, init_instance_by_config
from qlib.utils.data import deepcopy_basic_type
from qlib.utils.mod import get_module_by_module_path
from qlib.utils.time import Freq
from qlib.workflow.record_temp import SignalRecord

from qlib_ext.check_data import check_start
from qlib_ext.data import benchmark_returns, days_of, read_benchmark, rehearse_segments, rehearsed
from qlib_ext.evaluate import known_benchmark
from qlib_ext.exchange import read_account, rehearse_exchange
from qlib_ext.options import check_number, close_names, default_of, init_names, refuse_unknown, tell
from qlib_ext.provider import Witness, calendar
from qlib_ext.runs.task import Task, names_class, options_of
from qlib_ext.spelling import read_day

logger = get_module_logger("qlib_ext")

SECTIONS = ("BASE_CONFIG_PATH", "experiment_name", "qlib_init", "sys", "task")
TASK = ("model", "dataset", "record", "reweighter")
PART = ("class", "module_path", "kwargs")
PROCESSORS = "qlib.data.dataset.processor"
HOMES = {  # where a class without module_path is looked for
    "record": "qlib.workflow.record_temp",
    "data_loader": "qlib.data.dataset.loader",
    **dict.fromkeys(("infer_processors", "learn_processors", "shared_processors", "inst_processors"), PROCESSORS),
}
SPAN = ("start_time", "end_time")
SURE = 0.8  # likeness from which a name that is not known is taken for a misspelt one
SLACK = pd.Timedelta(days=15)  # of a backtest's days before and after the scored ones
STAGES = ("data", "training", "scores")  # of every run, before its records
_ERRORS = (ValueError, TypeError, OSError, LookupError, AttributeError, ImportError, AssertionError)


# --- the file


def check_workflow(config: Any) -> None:
    """Check a workflow as qrun has read it, before qlib is started: its sections and their keys.

    What stands beside the known sections is let be (anchors such as `market` stand there), unless it is close to one.

    Raises: TypeError for a misspelt key, ValueError for a section that cannot be; both name the close ones.

    >>> check_workflow({"qlib_init": {"regoin": "cn"}, "task": {"model": {"class": "A"}, "dataset": {"class": "B"}}})
    Traceback (most recent call last):
    TypeError: qlib_init has no option 'regoin'; close: ['region']; ...
    """
    _refuse_close("the workflow", config, SECTIONS)
    init = config.get("qlib_init") or {}
    _mapping("qlib_init", init)
    known = {*qlib_config._default_config, *(key for mode in qlib_config.MODE_CONF.values() for key in mode)}
    _refuse_close("qlib_init", init, {*known, "region", "custom_ops", "default_conf", "skip_if_reg", "clear_mem_cache"})
    for name, part in init.items():
        if isinstance(part, Mapping) and {"class", "module_path"} & set(part):
            refuse_unknown(f"qlib_init.{name}", part, PART)
    _mapping("sys", config.get("sys") or {})
    refuse_unknown("sys", config.get("sys") or {}, ("path", "rel_path"))
    name = config.get("experiment_name", "workflow")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"experiment_name is {name!r}; write a text, in quotes where it is a number or empty")
    _check_sections(config.get("task"))


def check_calling_workflow() -> None:
    """Check the workflow that qrun is about to start, where it is qrun that calls."""
    config = calling("workflow", "qlib/cli/run.py").get("config")
    if config is not None:
        check_workflow(config)


def calling(function: str, file: str) -> Mapping[str, Any]:
    """Local names of the nearest caller that is a function of a file; empty where there is none."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == function and Path(frame.f_code.co_filename).as_posix().endswith(file):
            return frame.f_locals
        frame = frame.f_back  # type: ignore[assignment]
    return {}


def _check_sections(task: Any) -> None:
    _mapping("task", task)
    refuse_unknown("task", task, TASK)
    for name in ("model", "dataset"):
        if task.get(name) is None:
            raise ValueError(f"task has no {name}; it has {', '.join(map(str, task)) or 'nothing'}")


def _refuse_close(owner: str, names: Any, known: Collection[str]) -> None:
    _mapping(owner, names)
    refuse_unknown(owner, [name for name in names if name not in known and close_names(name, known, SURE)], known)


def _mapping(where: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}; wanted are its keys and values, such as {where}: {{key: value}}")


# --- the task


def check_task(task: Any) -> Witness | None:
    """Check a task before anything of it is built: in seconds, what would end a run later, or change it silently.

    Every part's keys, class and options; the segments and the backtest against the calendar and each other; records
    that could not work; what the provider lacks (`check_data.check_start`). Options without effect are told.

    Args:
        task: the section `task` of a workflow, or what `task_train` is given; objects in it are taken as they are.

    Returns: what tells later whether the provider's files are still the same; None where they are not qlib's own, or
        the stocks not told.

    Raises: TypeError for an option that there is not, ValueError for anything else; both name the place.

    >>> check_task({"model": {"class": "MLPModel"}, "dataset": {"class": "DayDatasetH"}})
    Traceback (most recent call last):
    ValueError: task.model: the class 'MLPModel' has no module_path, ...
    """
    _check_sections(task)
    config = deepcopy_basic_type(task)
    for name in ("model", "dataset"):
        _check_parts(f"task.{name}", config[name], must=True)
    if not isinstance(config.get("record") or [], Mapping | list):
        raise ValueError(f"task.record is {config['record']!r}; wanted is a list of {{class: ..., module_path: ...}}")
    records = Task(config).records
    for number, record in enumerate(records):
        _check_parts(f"task.record[{number}]", record, HOMES["record"], must=True)
    model = _built("task.model", config["model"])
    handler = options_of(config["dataset"]).get("handler")
    with _at("task.dataset"):
        dataset, days = rehearsed(config["dataset"], Task({"dataset": {"kwargs": {"handler": handler}}}).label)
    if isinstance(handler, str):
        _check_source("task.dataset.kwargs.handler", handler, None)
    witness = _check_provider(handler, dataset, days) if dataset is not None and isinstance(handler, Mapping) else None
    if dataset is not None and hasattr(model, "check_dataset"):
        with _at("task"):
            model.check_dataset(dataset)
    scored = days if dataset is None else days_of(dataset.segments, "test", days)
    _check_records(records, model, dataset, scored)
    return witness


def stages(task: Mapping[str, Any]) -> list[str]:
    """Name the stages of a run whose task has been checked: those of all runs, and of the records that name theirs."""
    records = Task(task).records
    kinds = [_class_of("", one, HOMES["record"]) if isinstance(one, Mapping) else type(one) for one in records]
    return [*STAGES, *(kind.stage for kind in kinds if isinstance(getattr(kind, "stage", None), str))]


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Put the place in the YAML before an error."""
    try:
        yield
    except _ERRORS as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        text = str(error) if isinstance(error, kind | OSError) else f"{type(error).__name__}: {error}"
        raise kind(f"{where}: {text}") from error


# --- classes and the names of their options


def _check_parts(where: str, value: Any, home: str | None = None, *, must: bool = False) -> None:
    """Check all that is written as {class, module_path, kwargs} within a value; `must`: the value itself is."""
    if isinstance(value, Mapping) and (must or isinstance(value.get("class"), str) or "module_path" in value):
        refuse_unknown(where, value, PART if "class" in value else ("func", *PART))
        kind, options = _class_of(where, value, home), value.get("kwargs", {})
        _mapping(f"{where}.kwargs", options)
        _check_names(where, kind, options)
        value = {f"kwargs.{name}": option for name, option in options.items()}
        homes = HOMES | (dict.fromkeys(("model", "members"), "qlib_ext.model") if _is_ours(kind) else {})
    elif isinstance(value, str) and (must or home == PROCESSORS):
        _check_source(where, value, home)
        return
    elif must and (value is None or isinstance(value, bool | int | float | list)):
        raise ValueError(f"{where} is {value!r}; wanted {{class: ..., module_path: ..., kwargs: {{...}}}}")
    else:
        homes = HOMES
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_parts(f"{where}.{name}", item, homes.get(str(name).rpartition(".")[2]))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_parts(f"{where}[{number}]", item, home)


def _check_source(where: str, text: str, home: str | None) -> None:
    """Check a text in the place of a configuration: file: and the path of a pickle, or the path of a class."""
    address = urlparse(text)
    if address.scheme == "file":
        if not Path(address.netloc + address.path).is_file():
            raise ValueError(f"{where}: no file {text!r}")
    else:
        _class_of(where, {"class": text}, home)


def _class_of(where: str, config: Mapping[str, Any], home: str | None) -> Any:
    """Import the class of a part."""
    name = config.get("class", config.get("func"))
    if not isinstance(name, str):
        if name is None:
            raise ValueError(f"{where} has no class, but {', '.join(map(str, config)) or 'nothing'}")
        return name
    own, _, short = name.rpartition(".")
    path = own or config.get("module_path") or home
    if not path:
        raise ValueError(f"{where}: the class {name!r} has no module_path, such as qlib_ext.model")
    try:
        module = get_module_by_module_path(path)
    except (ImportError, OSError, AttributeError, TypeError) as error:
        raise ValueError(f"{where}: module_path {path!r} cannot be imported: {error}") from error
    if not hasattr(module, short):
        close = close_names(short, [one for one in vars(module) if one[:1].isupper()])
        raise ValueError(f"{where}: {path} has no class {short!r}{f'; close: {close}' if close else ''}")
    return getattr(module, short)


def _check_names(where: str, kind: Any, options: Mapping[str, Any]) -> None:
    """Refuse options that a class does not take; classes of ours that are built say so themselves."""
    if not callable(kind):
        raise ValueError(f"{where}: {kind!r} is no class")
    if not isinstance(kind, type) or (_is_ours(kind) and not issubclass(kind, DataHandler)):
        return
    names: list[str] = []
    for init in (vars(base)["__init__"] for base in kind.__mro__[:-1] if "__init__" in vars(base)):
        code, taken = getattr(init, "__code__", None), inspect.signature(init).parameters.values()
        names += [p.name for p in taken if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if all(p.kind != p.VAR_KEYWORD for p in taken):
            break
        if code is None or "__init__" not in code.co_names:
            return  # it keeps its **kwargs: it takes what it likes
        names += [
            text for text in code.co_consts if isinstance(text, str) and text.isidentifier()
        ]  # kwargs.pop("label")
    else:
        return
    with _at(where):
        refuse_unknown(kind, [name for name in options if name not in names], init_names(kind))


def _is_ours(kind: Any) -> bool:
    return str(getattr(kind, "__module__", "")).partition(".")[0] == "qlib_ext"


def _built(where: str, config: Any, **filled: Any) -> Any:
    """Build a class of ours; None for one of others, and an object as it is."""
    if not isinstance(config, Mapping):
        return config
    if not _is_ours(_class_of(where, config, HOMES["record"])):
        return None
    with _at(where):
        return init_instance_by_config(config, **filled)


# --- data


def _check_provider(handler: Mapping[str, Any], dataset: DatasetH, days: pd.DatetimeIndex) -> Witness | None:
    """Look at the provider on the days of the data: the universe, the lists and their ends, the heads of the files."""
    kind = _class_of("handler", handler, None)
    if hasattr(kind, "check_options"):
        with _at("task.dataset.kwargs.handler"):
            kind.check_options(**options_of(handler))
    folder = Path(C.dpm.get_data_uri("day"))
    universe = options_of(handler).get("instruments", default_of(kind, "instruments"))
    if isinstance(universe, Mapping) or not (folder / "features").is_dir():
        return None  # a filter of qlib's, or a storage of one's own
    with _at("task.dataset.kwargs.handler.kwargs.instruments"):
        if not isinstance(universe, str | None):
            there = {place.name.upper() for place in (folder / "features").iterdir()}
            lacking = [str(code) for code in universe if code not in there]
            if lacking:
                cure = "write codes as SH600000, in capitals"
                raise ValueError(f"the provider lacks {len(lacking)} codes, {lacking[:5]} among them; {cure}")
        for line in check_start(folder, universe=universe, start=days[0], end=days[-1]):
            logger.warning(line)
        if isinstance(universe, str):
            members = D.list_instruments(D.instruments(universe), days[0], days[-1])
            first, last = zip(*(span for spans in members.values() for span in spans), strict=True)
            rehearse_segments(dataset, days[(days >= min(first)) & (days <= max(last))])
            universe = list(members)
    return Witness(folder / "features", universe, int(calendar().searchsorted(days[-1])) + 1) if universe else None


# --- records


def _check_records(records: list[Any], model: Any, dataset: DatasetH | None, scored: pd.DatetimeIndex) -> None:
    """Build the records of ours, and see that each comes after those whose artifacts it reads."""
    before: list[type] = []
    for number, record in enumerate(records):
        where = f"task.record[{number}]"
        kind = _class_of(where, record, HOMES["record"]) if isinstance(record, Mapping) else type(record)
        needed = getattr(kind, "depend_cls", None)
        if needed is not None and not any(issubclass(one, needed) for one in before):
            raise ValueError(f"{where}: {kind.__name__} reads what {needed.__name__} writes: put that one before it")
        before.append(kind)
        if dataset is None or not isinstance(record, Mapping):
            continue
        if kind is SignalRecord and "test" not in dataset.segments:
            raise ValueError(f"{where}: the dataset has no segment test to score, but {', '.join(dataset.segments)}")
        _check_reports(where, (options_of(record).get("config") or {}).get("executor"))
        config, built = fill_placeholder(record, {"<MODEL>": model, "<DATASET>": dataset}), None
        if len(scored) and (_is_ours(kind) or kind.__module__ == HOMES["record"]):
            both = {"model": model, "dataset": dataset}
            with _at(where):
                built = init_instance_by_config(config, HOMES["record"], recorder=None, try_kwargs=both)
                _check_benchmark(getattr(built, "benchmark", None), dict(zip(SPAN, scored[[0, -1]], strict=True)))
        plan = options_of(config).get("config") or {}
        if hasattr(built, "backtest_config"):
            plan = {name: getattr(built, f"{name}_config") for name in ("strategy", "executor", "backtest")}
        if "backtest" in plan:
            _check_backtest(f"{where}.kwargs.config", plan, scored)


def _check_reports(where: str, executor: Any) -> None:
    """Refuse an executor of a class of the user's choice that reports nothing: qlib would end without a word of it."""
    levels = []
    while isinstance(executor, Mapping) and "class" in executor:
        levels.append(options_of(executor))
        executor = levels[-1].get("inner_executor")
    if levels and not any(one.get("generate_portfolio_metrics") for one in levels):
        raise ValueError(f"{where}.kwargs.config.executor: it reports nothing, set generate_portfolio_metrics")


def _check_backtest(where: str, plan: Mapping[str, Any], scored: pd.DatetimeIndex) -> None:
    """Check a complete backtest: its options, its days against the scored ones, strategy, executor, exchange."""
    options = dict(plan.get("backtest") or {})
    with _at(f"{where}.backtest"):
        refuse_unknown("backtest", options, inspect.signature(get_strategy_executor).parameters)
        account = options.get("account", 1e9)
        cash = account.get("cash") if isinstance(account, Mapping) else account
        _class_of("pos_type", {"class": options.get("pos_type", "Position")}, "qlib.backtest.position")
        check_number("account", cash, "(0, inf)", hint=" (yuan)")
        span = _check_span(options, scored)
        if "start_time" in span:
            read_account(account, span["start_time"])
        _check_benchmark(options.get("benchmark"), span)
    strategy, executor = plan.get("strategy"), plan.get("executor")
    if isinstance(strategy, Mapping):
        filled = fill_placeholder(strategy, {"<PRED>": _one_score()})
        if names_class(filled, "CostAwareStrategy") and options_of(filled).get("forecast") in (None, "<FORECAST>"):
            come = {"forecast": {"significant": True}}  # in place of the run's own, which is yet to be learnt
            filled = {**filled, "kwargs": options_of(filled) | come}
        built = _built(f"{where}.strategy", filled)
        if (capital := getattr(getattr(built, "policy", None), "capital", None)) is not None and capital > cash:
            tell(f"strategy: capital is {capital:,.0f}, the account has {cash:,.0f} yuan: no more than that is placed")
    while isinstance(executor, Mapping):
        inner = options_of(executor)
        with _at(f"{where}.executor: time_per_step"):
            Freq.parse(inner.get("time_per_step", "day"))
        executor = inner.get("inner_executor")
    dealt = options.get("exchange_kwargs") or {}
    with _at(f"{where}.backtest.exchange_kwargs"):
        _mapping("exchange_kwargs", dealt)
        own = dealt.get("exchange")
        if own is None:
            qlibs = [*inspect.signature(get_exchange).parameters, *init_names(Exchange), "trade_unit"]
            refuse_unknown("exchange_kwargs", dealt, qlibs)
        elif names_class(own, "AShareExchange"):
            rehearse_exchange(span | {name: value for name, value in options_of(own).items() if value is not None})


def _check_benchmark(benchmark: Any, span: Mapping[str, Any]) -> None:
    """Look the benchmark up, on the days of the backtest where they are known."""
    if benchmark is None or isinstance(benchmark, pd.Series) or len(span) < 2:
        return
    days = calendar(*span.values())[:-1]
    if len(days):
        known_benchmark(benchmark_returns(read_benchmark(benchmark), *span.values()).reindex(days))


def _one_score() -> pd.Series:
    """Scores to build a strategy with before there are any."""
    one = pd.MultiIndex.from_tuples([(pd.Timestamp("2020-01-02"), "SH600000")], names=["datetime", "instrument"])
    return pd.Series([0.0], one, name="score")


def _check_span(options: Mapping[str, Any], scored: pd.DatetimeIndex) -> dict[str, pd.Timestamp]:
    """First and last day of a backtest; refused where they are not about those that are scored."""
    named = {name: read_day(name, options[name]) for name in SPAN if options.get(name) is not None}
    if not len(scored):
        return named
    first, last = scored[0], scored[-1]
    span = {"start_time": first, "end_time": last} | named
    start, end = span.values()
    if start > end:
        raise ValueError(f"the backtest ends {end.date()}, before it starts, {start.date()}")
    if start < first - SLACK or start > last or end > last + SLACK:
        raise ValueError(
            f"the backtest goes from {start.date()} to {end.date()}, the scores (segment test) from {first.date()} to "
            f"{last.date()}: nothing is traded without scores; leave start_time and end_time out, they are then theirs"
        )
    return span
