"""A task as qlib takes it, parts of {class, module_path, kwargs}: its configuration is read here and nowhere else."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qlib_ext.runs.backtest import complete_backtest

MEMBERS = "qlib_ext.model"  # where members of an ensemble are that name no module
STRATEGIES = ("LiquidityTopNStrategy", "CostAwareStrategy")


def class_name(config: Any) -> str:
    """Name of the class of a configuration, without its module; "" where it is no configuration, or names none.

    Args:
        config: its `class` is a name, a path such as qlib_ext.strategy.LiquidityTopNStrategy, or the class itself.
    """
    kind = config.get("class") if isinstance(config, Mapping) else None
    return str(getattr(kind, "__name__", kind or "")).rpartition(".")[2]


def names_class(config: Any, name: str) -> bool:
    """Whether a configuration (see `class_name`) names a class."""
    return class_name(config) == name


def options_of(config: Any) -> dict[str, Any]:
    """Return a copy of the kwargs of a configuration; empty where it has none, or is no configuration."""
    return dict(config.get("kwargs") or {}) if isinstance(config, Mapping) else {}


@dataclass(frozen=True)
class Task:
    """The section `task` of a workflow, or the artifact of that name of a run; what it lacks reads as empty or None.

    Attributes:
        config: model, dataset and record(s).
        recorded: whether it was run: what its backtest left out then is not today's default.
        plan: the complete backtest that the run kept (`PLAN`); None: of runs that kept none.

    >>> dataset = {"class": "DayDatasetH", "kwargs": {"step_len": 8, "label": "Ref($close, -2)/Ref($close, -1) - 1"}}
    >>> task = Task({"dataset": dataset, "record": {"class": "LiquidityRecord", "kwargs": {"top_n": 30}}})
    >>> task.dataset["step_len"], task.label, task.record("LiquidityRecord"), task.strategy
    (8, 'Ref($close, -2)/Ref($close, -1) - 1', {'top_n': 30}, None)
    """

    config: Mapping[str, Any]
    recorded: bool = False
    plan: Mapping[str, Any] | None = None

    @property
    def models(self) -> list[Mapping[str, Any]]:
        """The model's configuration and, of an ensemble, that of its members; the innermost stands last."""
        models: list[Mapping[str, Any]] = []
        model = self.config.get("model")
        while isinstance(model, Mapping):
            models.append({"module_path": MEMBERS, **model} if models else model)
            model = options_of(model).get("model")
        return models

    @property
    def dataset(self) -> dict[str, Any]:
        """Options of the dataset."""
        return options_of(self.config.get("dataset"))

    @property
    def segments(self) -> dict[str, Any]:
        """First and last day by segment."""
        return _part(self.dataset, "segments")

    @property
    def handler(self) -> dict[str, Any]:
        """Configuration of the handler; empty where it is a file or an object."""
        return _part(self.dataset, "handler")

    @property
    def label(self) -> str | None:
        """Expression of the label: as dataset or handler have it as an option, else the handler class's own."""
        options = options_of(self.handler)
        loader = _part(options_of(options.get("data_loader")), "config")
        label = self.dataset.get("label") or options.get("label") or loader.get("label") or self._own_label()
        while isinstance(label, list | tuple) and label:  # qlib's ([expression], [name])
            label = label[0]
        return str(label) if label else None

    def _own_label(self) -> Any:
        """Label that the handler's class has of its own; of a recorded run's, which may be a stranger's, only qlib's.

        None where it has none, or cannot be loaded.
        """
        from qlib.utils import get_callable_kwargs

        if self.recorded and _home(self.handler) not in ("qlib", "qlib_ext"):
            return None
        try:
            return get_callable_kwargs(self.handler, "qlib.contrib.data.handler")[0].get_label_config(None)
        except (KeyError, ImportError, AttributeError, TypeError, ValueError):
            return None

    @property
    def records(self) -> list[Any]:
        """Configurations of the records."""
        records = self.config.get("record") or []
        return [records] if isinstance(records, Mapping) else list(records)

    def record(self, name: str) -> dict[str, Any] | None:
        """Options of the first record of a class; None where there is none."""
        return next((options_of(record) for record in self.records if names_class(record, name)), None)

    @property
    def trading_records(self) -> list[dict[str, Any]]:
        """Configurations of the records that trade: PortAnaRecord, and those with a strategy or a backtest."""
        return [
            dict(record)
            for record in self.records
            if class_name(record).endswith("PortAnaRecord")
            or {"strategy", "backtest"} & set(_part(options_of(record), "config"))
        ]

    @property
    def backtests(self) -> list[dict[str, Any]]:
        """Strategy, executor and backtest of each record that trades; of our PortAnaRecord complete, as it will run."""
        if self.plan is not None:
            return [dict(self.plan)]
        return [
            complete_backtest(options_of(record).get("config"), self.segments)
            if not self.recorded and names_class(record, "PortAnaRecord") and _home(record) == "qlib_ext"
            else _part(options_of(record), "config")
            for record in self.trading_records
        ]

    @property
    def backtest(self) -> dict[str, Any]:
        """Options of the first backtest (account, benchmark, exchange_kwargs, ...)."""
        return next((_part(plan, "backtest") for plan in self.backtests), {})

    @property
    def strategy(self) -> dict[str, Any] | None:
        """Options of our strategy (see `STRATEGIES`), the outermost one, without `signal`; None where there is none.

        `liquidity` and `liquidity_window` are the dataset's where the strategy names none, as `PortAnaRecord` has it. A
        recorded CostAwareStrategy without `max_weight` had none.
        """
        config = self._our_strategy
        if config is None:
            return None
        options = options_of(config)
        options.pop("signal", None)
        own: dict[str, Any] = {}
        if names_class(config, "CostAwareStrategy"):
            own = self._of_dataset("volatility_window") | ({"max_weight": None} if self.recorded else {})
        return self.liquidity | own | options

    @property
    def strategy_class(self) -> str | None:
        """Name of its class."""
        return None if self._our_strategy is None else class_name(self._our_strategy)

    @property
    def _our_strategy(self) -> Any:
        every = (strategy for plan in self.backtests for strategy in _strategies(plan))
        return next((config for config in every if class_name(config) in STRATEGIES), None)

    @property
    def exchange(self) -> dict[str, Any] | None:
        """Options of the AShareExchange; None where there is none.

        `volatility_window` is the dataset's where the exchange names none, as `PortAnaRecord` has it.
        """
        for plan in self.backtests:
            exchange = _part(_part(plan, "backtest"), "exchange_kwargs").get("exchange")
            if names_class(exchange, "AShareExchange"):
                return self._of_dataset("volatility_window") | options_of(exchange)
        return None

    @property
    def liquidity(self) -> dict[str, Any]:
        """`liquidity` and `liquidity_window` of the dataset, as far as it names them."""
        return self._of_dataset("liquidity", "liquidity_window")

    def _of_dataset(self, *names: str) -> dict[str, Any]:
        options = self.dataset
        return {name: options[name] for name in names if options.get(name) is not None}


def _part(options: Any, name: str) -> dict[str, Any]:
    value = options.get(name) if isinstance(options, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _strategies(plan: Mapping[str, Any]) -> Iterator[Any]:
    """Strategies of a nested backtest, the outermost first."""
    yield plan.get("strategy")
    executor = options_of(plan.get("executor"))
    while executor:
        yield executor.get("inner_strategy")
        executor = options_of(executor.get("inner_executor"))


def _home(config: Mapping[str, Any]) -> str:
    """Package that a configuration's class is of, as qlib finds it; qlib's where it tells none."""
    kind = config.get("class", config.get("func", ""))
    path = kind if "." in str(kind) else config.get("module_path") or "qlib"
    path = str(path if isinstance(kind, str) else getattr(kind, "__module__", ""))
    return "" if path.endswith(".py") else path.partition(".")[0]
