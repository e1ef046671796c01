"""PortAnaRecord: qlib's backtest record with what was traded, what it cost and what each assumption takes.

The tables are those of `execution`; here they are filled from qlib's objects.
"""

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from qlib.backtest import backtest, get_exchange
from qlib.backtest.executor import BaseExecutor, NestedExecutor
from qlib.data import D
from qlib.log import get_module_logger
from qlib.strategy.base import BaseStrategy
from qlib.utils import fill_placeholder, init_instance_by_config
from qlib.utils.data import deepcopy_basic_type
from qlib.workflow import record_temp

from qlib_ext import evaluate, progress
from qlib_ext.data import DayDatasetH, benchmark_returns, is_series, judging, own_series, plain_day, read_benchmark
from qlib_ext.evaluate import DIVIDENDS, is_price_index, known_benchmark
from qlib_ext.exchange import AShareExchange, prices, read_account
from qlib_ext.options import check_flag, refuse_unknown, tell
from qlib_ext.panel import check_scores
from qlib_ext.portfolio import MAX_WEIGHT
from qlib_ext.record.account import charged, mean_stocks, measured_account
from qlib_ext.record.facts import market_year
from qlib_ext.record.staged import Staged
from qlib_ext.record.strategy_capacity import strategy_capacity
from qlib_ext.record.tables import (
    REPORT,
    all_blocked,
    as_text,
    book_liquidity,
    flat,
    holdings,
    log_table,
    log_tables,
    make_tables,
)
from qlib_ext.record.waterfall import DECK, judged_stages, stage_changes, traded_stages
from qlib_ext.rules import is_index
from qlib_ext.runs import FORECAST, PLAN, STRATEGIES, complete_backtest, load_if_there, log_finite, names_class
from qlib_ext.strategy import CostAwareStrategy, LiquidityTopNStrategy, PolicyStrategy

logger = get_module_logger("qlib_ext.backtest")

OF_QLIB = ("risk_analysis_freq", "indicator_analysis_freq", "indicator_analysis_method", "skip_existing")
SPAN, DAY = ("start_time", "end_time"), pd.Timedelta(days=1)
BACKTEST = (*SPAN, "account", "benchmark", "exchange_kwargs", "pos_type")


class PortAnaRecord(Staged, record_temp.PortAnaRecord):
    """qlib's PortAnaRecord, which also keeps what the exchange and the strategy wrote down, and says what it means.

    The backtest ends a day before the calendar does: qlib asks for the day after the last one (qlib issue 2278). A
    LiquidityTopNStrategy and an AShareExchange that name no `liquidity`, `liquidity_window` (the exchange also:
    `volatility_window`) take the dataset's: one definition for loss, records, strategy and exchange. An AShareExchange
    that names no start_time or end_time takes the backtest's.

    `config` may be left out, or say what differs (qlib would take it in place of its own default, whole); see
    `runs.complete_backtest`. A CostAwareStrategy whose `forecast` is null takes the `forecast.json` of the run's
    ForecastRecord. By default an account of 150 million yuan follows the scores through a CostAwareStrategy (at
    most 5% of a stock's liquidity held and traded a day, at most 5% of the account in a stock) and an AShareExchange
    (at the close, at most 5% of a day's turnover) over the dataset's test segment, against SH000300:

    >>> config = {"strategy": {"kwargs": {"max_weight": 0.02}}, "backtest": {"benchmark": None}}
    >>> record = PortAnaRecord(None, config, dataset=dataset)
    >>> record.strategy_config["class"], record.strategy_config["kwargs"]["max_weight"]
    ('CostAwareStrategy', 0.02)
    >>> record.backtest_config["account"], record.backtest_config["start_time"]
    (150000000.0, '2020-06-01')

    What names a class stands for itself, with that class's defaults. start_time and end_time that are null are, as in
    qlib, the first scored day and the day after the last one.

    Artifacts in `portfolio_analysis/` beside qlib's own: of AShareExchange `blocked.pkl, fills.pkl, settled.pkl,
    rules_citations.pkl`; of a PolicyStrategy `daily_log.pkl, daily_targets.pkl`; of a daily backtest
    `execution.pkl` (a dict of frames, see `execution`), `waterfall.pkl` and `waterfall_daily.pkl` (daily returns of its
    stages), `capacity_strategy.pkl` (the strategy's capacity curves), and `definitions.pkl` (what each number means).

    With a DayDatasetH, an AShareExchange and a strategy named by class, whatever impact is charged: `account.pkl` and
    `account_daily.pkl`, the account beside the mean stock at b = 1, 2/3 and 1/3 (`evaluate.ACCOUNT_METRICS`, logged
    under these names); it takes two or three backtests more.

    Of a daily backtest `tear_account.pkl` too, the account's tear sheet (`evaluate.account_tear`: months, years,
    drawdowns, worst days, ratios with their errors, rolling numbers; and `overlap`, what stays of its holdings).

    `benchmark: null` means none: qlib, which would take SH000300, is given 0 for every day, so that its files keep
    their columns; our tables and the page have no benchmark then.

    Args:
        recorder: as for qlib.
        config: strategy, executor and backtest, as far as they differ from the above.
        dataset, model: filled in by qlib.
        capacity: draw the capacity curves of the run's strategy (`evaluate.strategy_curve`), on the same terms as the
            waterfall.
        waterfall: run the backtests of the waterfall (one to four more). None: where the run has what they need, an
            AShareExchange, a strategy with a policy and signal <PRED>, daily steps, an account in cash, and a
            DayDatasetH with liquidity whose label enters a day after its signal; true: an error where it has not.
        trials: Parquet file of the trials that the run's configuration was chosen from (`evaluate.write_trials`): the
            tear sheet then has the deflated Sharpe ratio. None: there is none.
        kw: as for qlib: risk_analysis_freq, indicator_analysis_freq, indicator_analysis_method, skip_existing.

    Raises:
        TypeError: an option, or a key of `config`, that there is not.
        ValueError: options beside `exchange` that qlib would ignore, an exchange whose span is shorter than the
            backtest's, a benchmark that lacks more than 5% of the days, or `waterfall: true` without what it needs.
    """

    stage = "backtest"
    strategy_config: Any
    executor_config: Any
    backtest_config: Any

    def __init__(
        self,
        recorder: Any,
        config: Any = None,
        *,
        dataset: Any = None,
        model: Any = None,
        waterfall: bool | None = None,
        capacity: bool | None = None,
        trials: str | None = None,
        **kw: Any,
    ) -> None:
        own = ("config", "waterfall", "capacity", "trials", *OF_QLIB)
        refuse_unknown(type(self), [name for name in kw if name not in OF_QLIB], own)
        refuse_unknown("PortAnaRecord's config", config or (), ("strategy", "executor", "backtest"))
        refuse_unknown("PortAnaRecord's backtest", (config or {}).get("backtest") or (), BACKTEST)
        super().__init__(recorder, complete_backtest(config, getattr(dataset, "segments", None)), **kw)
        self.dataset, self.waterfall, self.capacity = judging(dataset), waterfall, capacity
        self.trials = None if trials is None else evaluate.read_trials(trials)
        for name, flag in (("waterfall", waterfall), ("capacity", capacity)):
            if flag is not None:
                check_flag(f"{name} (or null)", flag)
        self.backtest_config |= {name: plain_day(name, self.backtest_config.get(name)) for name in SPAN}
        benchmark = self.backtest_config["benchmark"]
        self.backtest_config["benchmark"] = own_series(benchmark) if is_series(benchmark) else read_benchmark(benchmark)
        self._exchange = _options(self._exchange_kwargs().get("exchange"), "AShareExchange")
        self._strategy = _options(self.strategy_config, *STRATEGIES)
        self._open = [name for name in SPAN if (self._exchange or {}).get(name) is None]
        self._span_exchange()
        self._one_definition("exchange", self._exchange, ("liquidity", "liquidity_window", "volatility_window"))
        names: tuple[str, ...] = ()
        if self._strategy is not None and names_class(self.strategy_config, "CostAwareStrategy"):
            self._strategy.setdefault("max_weight", MAX_WEIGHT)  # so that the plan keeps it
            names = ("volatility_window",)
        self._one_definition("strategy", self._strategy, ("liquidity", "liquidity_window", *names))
        if dataset is not None and self._strategy is not None:
            for name in (name for name in ("waterfall", "capacity") if getattr(self, name)):
                self._refuse(name, self._lacks())

    def _exchange_kwargs(self) -> dict[str, Any]:
        options: dict[str, Any] = self.backtest_config.get("exchange_kwargs") or {}
        ignored = sorted(set(options) - {"exchange"})
        if options.get("exchange") is not None and ignored:
            raise ValueError(
                f"exchange_kwargs has {ignored} beside exchange, which qlib ignores: move them into the exchange's own "
                "options, exchange_kwargs: {exchange: {class, module_path, kwargs: {...}}}, or take them out"
            )
        return options

    def _one_definition(self, whose: str, options: dict[str, Any] | None, names: tuple[str, ...]) -> None:
        """Fill the options in from the dataset; warn where the user's own differ."""
        if options is None or not isinstance(self.dataset, DayDatasetH) or self.dataset.liquidity is None:
            return
        for name in names:
            ours = getattr(self.dataset, name)
            if (own := options.setdefault(name, ours)) != ours:
                tell(f"the {whose}'s {name} is {own!r}, the dataset's {ours!r}: two definitions in one run")

    def _span_exchange(self) -> None:
        """Give the exchange the backtest's start and end, where it has none of its own and they are known."""
        if self._exchange is not None:
            self._exchange |= {n: day for n in self._open if (day := self.backtest_config[n]) is not None}

    def list(self) -> list[str]:
        """Name the artifacts."""
        names = [*super().list(), PLAN.rpartition("/")[2]]
        if self._exchange is not None:
            names += ["blocked.pkl", "fills.pkl", "settled.pkl", "rules_citations.pkl"]
        return names + (["daily_log.pkl", "daily_targets.pkl"] if self._strategy is not None else [])

    # --- the backtest

    def plan(self) -> dict[str, Any]:
        """Tell what the run trades by, its days and its forecast filled in, without a backtest: as it keeps `PLAN`."""
        self._prepared()
        return _plan(self.strategy_config, self.executor_config, self.backtest_config)

    def _prepared(self) -> pd.DataFrame:
        """Fill in what the run's scores and forecast tell; returns the scores, one column."""
        pred = check_scores(self.load("pred.pkl"), "pred.pkl").to_frame("score")
        self._set_span(pd.DatetimeIndex(pred.index.get_level_values("datetime")))
        self._check_benchmark()
        self._fill_forecast()
        return pred

    def _generate(self, **kwargs: Any) -> Any:
        pred = self._prepared()
        strategy, executor, exchange = self._build(pred)
        why = self._no_policy(strategy, exchange)
        for name in ("waterfall", "capacity"):
            self._refuse(name, why)
        artifacts = self._traded(strategy, executor, exchange, **kwargs)
        report = artifacts.get(REPORT)
        if report is None:
            logger.warning("no account_excess and the metrics beside it: the executor keeps no daily report")
            return artifacts
        if evaluate.idle(report):
            logger.warning(f"the backtest traded nothing in {len(report)} days: {why_idle(artifacts)}")
        liquidity = book_liquidity(report.index, exchange, strategy) if isinstance(exchange, AShareExchange) else None
        artifacts["execution.pkl"] = make_tables(artifacts, exchange, strategy, liquidity)
        log_tables(self.recorder, artifacts["execution.pkl"])
        if self._wanted("capacity", why, exchange):
            artifacts |= self._capacity(pred, strategy, exchange, report.index)
        artifacts |= self._account(pred, report, exchange, strategy)
        artifacts |= self._tear(artifacts)
        if liquidity is not None and self._wanted("waterfall", why, exchange):
            artifacts |= self._waterfall(pred, artifacts, exchange, strategy, liquidity)
        return artifacts | {"definitions.pkl": _definitions(artifacts)}

    def _traded(self, strategy: Any, executor: Any, exchange: Any, **kwargs: Any) -> dict[str, Any]:
        """Let qlib's record run the backtest with these; its artifacts, the plan, and what these wrote down."""
        kept = self.strategy_config, self.executor_config, self.backtest_config
        self.strategy_config, self.executor_config = _ready(strategy), _ready(executor)
        self.backtest_config = kept[2] | {"exchange_kwargs": {"exchange": exchange}} | self._no_benchmark()
        if isinstance(kept[2].get("account"), Mapping):  # qlib takes the cash out of it
            self.backtest_config["account"] = read_account(kept[2]["account"], kept[2]["start_time"])
        try:
            artifacts: dict[str, Any] = super()._generate(**kwargs) | {PLAN.rpartition("/")[2]: _plan(*kept)}
        finally:
            self.strategy_config, self.executor_config, self.backtest_config = kept
        for teller in (exchange, *_strategies(strategy, executor)):
            if isinstance(teller, AShareExchange | PolicyStrategy):
                artifacts |= teller.artifacts()
        if isinstance(exchange, AShareExchange) and "daily_targets.pkl" in artifacts:
            artifacts["blocked.pkl"] = all_blocked(artifacts["blocked.pkl"], artifacts["daily_targets.pkl"], exchange)
        return artifacts

    def _set_span(self, scored: pd.DatetimeIndex) -> None:
        """Set start and end of the backtest and of the exchange; the end at most a day before the calendar's."""
        calendar, config = pd.DatetimeIndex(D.calendar()), self.backtest_config
        if config["start_time"] is None:
            config["start_time"] = scored.min()
        if config["end_time"] is None:
            config["end_time"] = calendar[min(int(calendar.searchsorted(scored.max(), "right")), len(calendar) - 1)]
        if pd.Timestamp(config["end_time"]) >= calendar[-1]:
            logger.info(f"the backtest ends on {calendar[-2].date()}: qlib needs the day after its last one")
            config["end_time"] = calendar[-2]
        self._span_exchange()
        self._check_span(calendar)

    def _check_span(self, calendar: pd.DatetimeIndex) -> None:
        """Stop where the exchange's own span lacks trading days of the backtest: nothing would trade on them."""
        exchange = self._exchange_kwargs().get("exchange")
        own = vars(exchange.options) if isinstance(exchange, AShareExchange) else self._exchange or {}
        for name in (name for name in SPAN if own.get(name) is not None):
            needed = self.backtest_config[name]
            at, wanted = pd.Timestamp(own[name]).normalize(), pd.Timestamp(needed).normalize()
            later, earlier = (at, wanted) if name == "start_time" else (wanted + DAY, at + DAY)
            lacks = (calendar >= earlier) & (calendar < later)
            if lacks.any():
                raise ValueError(
                    f"the exchange's {name} is {own[name]}, the backtest's {needed}: it would not trade on the "
                    f"{lacks.sum()} days between. Leave it out (it is then the backtest's), or make the span wider"
                )

    def _fill_forecast(self) -> None:
        """Give a CostAwareStrategy that names no forecast the run's own, so that its plan keeps it."""
        options = _options(self.strategy_config, "CostAwareStrategy")
        if options is not None and options.get("forecast") in (None, "<FORECAST>"):
            options["forecast"] = load_if_there(self.recorder, FORECAST)

    def _check_benchmark(self) -> None:
        """Look at the benchmark itself: qlib makes 0 of the days that it lacks before its report shows them."""
        returns, days = self.backtest_config["benchmark"], pd.DatetimeIndex(D.calendar())[1:]  # the first has no return
        first, last = (pd.Timestamp(self.backtest_config[name]) for name in SPAN)
        if returns is None:
            return
        if is_price_index(returns):
            logger.info(
                f"{returns} is a price index, the account a total return: the excess over it has about {DIVIDENDS:.1%} "
                "a year of dividends in it. benchmark: FILE.csv (date, close) takes a total-return series"
            )
        if not isinstance(returns, pd.Series):
            returns = benchmark_returns(returns, first, last)
        known_benchmark(returns.reindex(days[(days >= first) & (days <= last)]))

    def _no_benchmark(self) -> dict[str, Any]:
        """Return the option that says `benchmark: null` to qlib; empty where there is a benchmark."""
        if self.backtest_config["benchmark"] is not None:
            return {}
        logger.info("benchmark: null, none: what qlib calls excess returns are the account's own")
        days = D.calendar(*(self.backtest_config[name] for name in SPAN))
        return {"benchmark": pd.Series(0.0, pd.DatetimeIndex(days))}

    def _build(self, pred: pd.DataFrame) -> tuple[Any, Any, Any]:
        """Build strategy, executor and exchange, to ask them afterwards."""
        exchange = get_exchange(**({name: self.backtest_config[name] for name in SPAN} | self._exchange_kwargs()))
        config = self._handed(self._filled(self.strategy_config, pred), pred, exchange)
        with warnings.catch_warnings():  # the record has filled in the dataset's own definition, and its numbers
            warnings.filterwarnings("ignore", message=".* have no effect beside liquidity_frame")
            strategy = init_instance_by_config(config, accept_types=BaseStrategy)
        executor = init_instance_by_config(self._filled(self.executor_config, pred), accept_types=BaseExecutor)
        return strategy, executor, exchange

    def _handed(self, config: Any, pred: pd.DataFrame, exchange: Any) -> Any:
        """Hand the dataset's liquidity to a strategy that would load the same: it is read once a run."""
        dataset, account = self.dataset, self.backtest_config.get("account")
        if self._strategy is None or not isinstance(dataset, DayDatasetH) or isinstance(account, Mapping):
            return config
        options = config["kwargs"]
        one = options.get("liquidity"), options.get("liquidity_window")
        if options.get("signal") is not pred or options.get("liquidity_frame") is not None:
            return config
        by = exchange.turnover_profile if isinstance(exchange, AShareExchange) else dataset.unit_profile
        if one != (dataset.liquidity, dataset.liquidity_window) or by != dataset.unit_profile:
            return config
        codes = sorted({code for code in pred.index.get_level_values("instrument") if not is_index(str(code))})
        days, ends = pd.DatetimeIndex(D.calendar()), [self.backtest_config["end_time"], exchange.end_time]
        eve = days[max(int(days.searchsorted(pd.Timestamp(self.backtest_config["start_time"]))) - 1, 0)]
        last = max(pd.Timestamp(day) for day in ends if day is not None)
        frame = dataset.liquidity_of(codes, eve, last)
        return config if frame is None else config | {"kwargs": options | {"liquidity_frame": frame}}

    @staticmethod
    def _filled(config: Any, pred: pd.DataFrame) -> Any:
        if not isinstance(config, dict):
            return config
        return fill_placeholder(deepcopy_basic_type(config), {"<PRED>": pred})

    def _capacity(self, pred: pd.DataFrame, strategy: Any, exchange: AShareExchange, days: pd.Index) -> dict[str, Any]:
        """Draw, log and tell the capacity curves of the strategy."""
        began, account = time.perf_counter(), float(self.backtest_config["account"])
        progress.part("capacity of the strategy")
        try:
            curve = strategy_capacity(self.dataset, pred, strategy, exchange, account, pd.DatetimeIndex(days))
        except ValueError as error:  # of other capitals, at the end of a run whose own account is done
            logger.warning(f"no capacity curve of the strategy: {error}")
            return {}
        zeros = evaluate.strategy_crossings(curve)
        log_table(self.recorder, zeros.set_axis([f"b{100 * b:03.0f}" for b in zeros.index]), "capacity_strategy")
        said = [f"b = {b:.2f}:{evaluate.capacity_words(curve.loc[b])}" for b in zeros.index]
        lines = "\n".join(["capacity of the strategy", *said])
        logger.info(f"{lines}\n  {len(curve)} accounts of {len(days)} days, {time.perf_counter() - began:.1f} s")
        return {"capacity_strategy.pkl": curve}

    def _again(
        self, pred: pd.DataFrame, report: pd.DataFrame, exchange: AShareExchange, strategy: Any, other: dict[str, Any]
    ) -> pd.DataFrame:
        """Give qlib's report of the run's backtest begun anew: a strategy, and other options of the exchange."""
        dealt = vars(exchange.options) | {"deal_price": prices(exchange.options.deal_price)} | other
        with warnings.catch_warnings():  # what the user's options do has been told by the run's own exchange
            warnings.simplefilter("ignore")
            dealer = type(exchange)(**dealt)
            strategy = init_instance_by_config(strategy, accept_types=BaseStrategy)
        same = deepcopy_basic_type(self.backtest_config)
        same |= {"exchange_kwargs": {"exchange": dealer}, "benchmark": report["bench"].fillna(0.0)}
        same["account"] = read_account(same["account"], same["start_time"])
        executor = self._filled(self.executor_config, pred)
        portfolio, _ = backtest(strategy=strategy, executor=executor, **same)
        again: pd.DataFrame = portfolio["1day"][0]
        return again

    # --- the account beside the mean stock

    def _account(self, pred: pd.DataFrame, report: pd.DataFrame, exchange: Any, strategy: Any) -> dict[str, Any]:
        """Measure and log the account at each b; say why where it cannot be."""
        why = self._no_account(exchange)
        if not why:
            try:
                means = mean_stocks(self.dataset, pd.DatetimeIndex(report.index))
            except ValueError as error:
                why = str(error)
        if why:
            logger.warning(f"no account_excess and the metrics beside it: {why}")
            return {}
        config = self._filled(self.strategy_config, pred)
        options, own = config.setdefault("kwargs", {}), charged(exchange.options)
        if getattr(strategy, "liquidity_frame", None) is not None:
            options.setdefault("liquidity_frame", strategy.liquidity_frame)
        if isinstance(strategy, CostAwareStrategy) and options.pop("impact", own) not in (None, own):
            own = math.nan  # the strategy expects another b than is charged: at each it shall know what is

        def again(b: float) -> pd.DataFrame:
            """Give the report of the run's backtest at another b."""
            began = time.perf_counter()
            progress.part(f"the account at b = {b:.2f}")
            found = self._again(pred, report, exchange, config, {"impact": b, "impact_exponent": 0.5})
            logger.info(f"account: backtest at b = {b:.2f}, {time.perf_counter() - began:.1f} s")
            return found

        table, daily = measured_account(report, own, means, again)
        log_finite(self.recorder, evaluate.account_metrics(table))
        return {"account.pkl": table, "account_daily.pkl": daily}

    def _no_account(self, exchange: Any) -> str:
        """Tell what the account's metrics lack, "" for nothing."""
        if not isinstance(exchange, AShareExchange):
            return "they need an AShareExchange, whose impact they set"
        if not isinstance(self.dataset, DayDatasetH):
            return "they need a DayDatasetH, over whose universe the mean stock is taken"
        if not isinstance(self.strategy_config, dict) or not isinstance(self.executor_config, dict):
            return "strategy and executor must be named by class, not made objects: they are begun anew at each impact"
        return ""

    def _tear(self, artifacts: Mapping[str, Any]) -> dict[str, Any]:
        """Make the account's tear sheet, and log its ratios."""
        report, daily = artifacts[REPORT], artifacts.get("account_daily.pkl")
        means = [None if daily is None else daily.get(name) for name in ("mean_stock", "mean_all")]
        book = holdings(artifacts["positions_normal_1day.pkl"])
        tear = evaluate.account_tear(report, *means, holdings=book, year=market_year(), trials=self.trials)
        if self.trials is not None and "deflated" not in tear:
            logger.warning("trials has no effect: without the mean stock's return there is no Sharpe ratio to deflate")
        for name in ("ratios", "deflated"):
            if name in tear:
                log_table(self.recorder, tear[name], name)
        return {"tear_account.pkl": tear}

    # --- the waterfall

    def _no_policy(self, strategy: Any, exchange: Any) -> str:
        """Tell what waterfall and capacity of the strategy lack, "" where they can be made."""
        if not isinstance(exchange, AShareExchange) or not isinstance(strategy, PolicyStrategy):
            return "it needs an AShareExchange and a strategy with a policy"
        return self._lacks()

    def _refuse(self, name: str, why: str) -> None:
        if why and getattr(self, name):
            raise ValueError(f"{name}: true, but {why}: change that, or set {name}: false")

    def _wanted(self, name: str, why: str, exchange: Any) -> bool:
        """Whether to make the waterfall or the capacity curves; tell what is lacking where the run left it open."""
        if why and getattr(self, name) is None and isinstance(exchange, AShareExchange):
            logger.info(f"no {name}: {why}")
        return not why and getattr(self, name) is not False

    def _lacks(self) -> str:
        """Tell what dataset and configurations lack for the waterfall, "" for nothing."""
        dataset, config = self.dataset, self.strategy_config
        if not isinstance(config, dict) or not isinstance(config["kwargs"].get("signal"), str):
            return "the strategy's signal is not <PRED>"
        if not isinstance(dataset, DayDatasetH) or dataset.liquidity is None:
            return "the dataset is no DayDatasetH with liquidity"
        if dataset.span.entry != 1:
            return f"the label enters {dataset.span.entry} days after its signal, the strategy after 1"
        if not isinstance(self.executor_config, dict) or self.executor_config["kwargs"]["time_per_step"] != "day":
            return "the strategy's steps are no days"
        if isinstance(self.backtest_config.get("account"), dict):
            return "the account begins with holdings"
        return ""

    def _waterfall(
        self, pred: pd.DataFrame, artifacts: Mapping[str, Any], exchange: AShareExchange, strategy: PolicyStrategy,
        liquidity: pd.DataFrame,
    ) -> dict[str, Any]:  # fmt: skip
        """Make the table of the stages, and their daily returns (D, stages); one load of liquidity serves all."""
        report: pd.DataFrame = artifacts[REPORT]
        own: Any = strategy.policy
        config, account = self._filled(self.strategy_config, pred), float(self.backtest_config["account"])
        mine = isinstance(strategy, LiquidityTopNStrategy)
        options = DECK | {"liquidity_frame": liquidity} | (config["kwargs"] if mine else {})

        def trade(chosen: dict[str, Any], other: dict[str, Any]) -> pd.Series:
            """Net returns of a LiquidityTopNStrategy in the run's backtest, with other options."""
            progress.part("waterfall")
            chosen = {"signal": pred, "capital": own.capital} | chosen
            again = self._again(pred, report, exchange, {"class": LiquidityTopNStrategy, "kwargs": chosen}, other)
            return evaluate.in_use(again["return"] - again["cost"], again, own.capital)

        of_judge = options if mine else {"capital": own.capital}
        series = judged_stages(self.dataset, pred, pd.DatetimeIndex(report.index), account, of_judge)
        skipped: list[str] = []
        if mine:
            dealt = vars(exchange.options) | {"deal_price": prices(exchange.options.deal_price)}
            more, skipped = traded_stages(stage_changes(self.dataset.entry_field), (options, dealt), trade)
            series |= more
        paid = evaluate.cost_stages(report, artifacts["fills.pkl"], own.capital)
        series |= {("caps" if mine else "strategy") if name == "before" else name: each for name, each in paid.items()}
        skipped += ["impact"] if paid["impact"].equals(paid["costs"]) else []
        if mine and all(options[name] == value for name, value in DECK.items()):
            skipped.append("deck")
        else:
            series["deck"] = trade(options | DECK, {})
        table = evaluate.waterfall({n: s for n, s in series.items() if n not in skipped}, skipped, year=market_year())
        log_table(self.recorder, table.drop(columns="days"), "waterfall")
        words = "\n".join(f"  {name}: {text}" for name, text in table.attrs["definitions"].items())
        logger.info(f"from paper to the account, {len(report)} days\n{as_text(table)}\n{words}")
        return {"waterfall.pkl": table, "waterfall_daily.pkl": pd.DataFrame(series)}


# --- configurations


def _options(config: Any, *names: str) -> dict[str, Any] | None:
    """Give the options, to be changed, of a configuration that names one of the classes; None for another."""
    if not any(names_class(config, name) for name in names):
        return None
    config["kwargs"] = config.get("kwargs") or {}
    options: dict[str, Any] = config["kwargs"]
    return options


def _ready(instance: Any) -> dict[str, Any]:
    """Wrap an instance so that qlib, which fills placeholders in a dict, takes it."""
    return {"class": lambda: instance}


def why_idle(artifacts: Mapping[str, Any]) -> str:
    """Count what kept orders from being sent, by the strategy's table of targets."""
    targets = artifacts.get("daily_targets.pkl")
    reasons = {} if targets is None else targets["reason"].replace("", "none").value_counts().to_dict()
    counted = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    return f"reasons of its targets: {counted}" if counted else "the strategy wanted nothing: look at the scores"


def _definitions(artifacts: Mapping[str, Any]) -> dict[str, str]:
    """Say what each number of the tables means."""
    words = dict(evaluate.EXECUTION_DEFINITIONS)
    if "capacity_strategy.pkl" in artifacts:
        words["capacity_strategy"] = evaluate.STRATEGY_CAPACITY_DEFINITIONS
    if "account.pkl" in artifacts:
        words["account"] = evaluate.ACCOUNT_METRICS
    words |= {
        name: known
        for name, known in evaluate.ACCOUNT_TEAR_DEFINITIONS.items()
        if name in artifacts.get("tear_account.pkl", {})
    }
    if "waterfall.pkl" in artifacts:
        words["waterfall"] = artifacts["waterfall.pkl"].attrs["definitions"]
    return flat(words)


def _strategies(strategy: Any, executor: Any) -> Iterator[Any]:
    """Yield the strategies of a nested backtest, inner ones first (the outermost has the last word)."""
    if isinstance(executor, NestedExecutor):
        yield from _strategies(executor.inner_strategy, executor.inner_executor)
    yield strategy


def _plan(strategy: Any, executor: Any, backtest: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what the run trades by, to be read later: configurations as they are, of an object its class alone."""

    def plain(part: Any) -> Any:
        return part if isinstance(part, Mapping | str) or part is None else {"class": type(part)}

    options = dict(backtest.get("exchange_kwargs") or {})
    if "exchange" in options:
        options["exchange"] = plain(options["exchange"])
    return {
        "strategy": plain(strategy),
        "executor": plain(executor),
        "backtest": {**backtest, "exchange_kwargs": options},
    }
