"""Evaluation: scores judged and traded without a run; what is asked for is computed, once.

The numbers are those of a workflow with the same scores and options, to the last bit: its records make them, on a
recorder in memory. The account is qlib's backtest through the strategy and AShareExchange; only `strategy_capacity`
goes by `portfolio.simulate`, as in a run.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from qlib.log import set_global_logger_level_cm
from qlib.workflow.record_temp import SignalRecord

from qlib_ext.beside import beside
from qlib_ext.data import DayDatasetH
from qlib_ext.model import training_artifacts
from qlib_ext.options import check_choice, day_span
from qlib_ext.panel import check_scores
from qlib_ext.portfolio import Forecast, ForecastSchedule
from qlib_ext.record.backtest import PortAnaRecord
from qlib_ext.record.forecast import ForecastRecord
from qlib_ext.record.judgement import Money
from qlib_ext.record.memory import MemoryRecorder
from qlib_ext.record.records import BaselineRecord, FoldRecord, LiquidityRecord
from qlib_ext.record.report import PAGE, ReportRecord
from qlib_ext.recorder import Silence
from qlib_ext.report import SECTIONS, Summary, figures_of, summarise
from qlib_ext.rules import is_index
from qlib_ext.runs import FORECAST
from qlib_ext.strategy import ScoredRun, plan_orders, read_holdings

if TYPE_CHECKING:
    import plotly.graph_objects as go

COVERED = 0.95  # of the stocks present on the test days; with scores of fewer the user is told
LATE = tuple(
    f"{name}.pkl" for name in "account account_daily tear_account waterfall waterfall_daily capacity_strategy".split()
)
FOLDERS = {  # of artifacts -> the record that makes them
    **{"liquidity_analysis": "judge", "portfolio_analysis": "account", "baselines": "baselines"},
    **{"fold_analysis": "folds", "": "forecast"},
}


def _kept(path: str, words: str) -> Any:
    """Give a property: an artifact of a record, which is made where it is not there yet."""
    return property(lambda self: self.artifact(path), doc=words)


class Evaluation:
    """What scores would have earned: the judge, the forecast, the account, orders, the page. See `evaluate`.

    Tables are those of a run's records, `definitions` says what each number means, and `artifact` gives any by its
    path in a run. What takes backtests is marked so; each is run once.

    Attributes:
        scores: by (datetime, instrument), of the days from the first of the test on.
        dataset, model: as given.
        money: of the judge, see `record.Money`.
        days: (D,) of the test.
    """

    def __init__(
        self,
        scores: Any,
        dataset: DayDatasetH,
        money: Money,
        config: Mapping[str, Any],
        *,
        model: Any = None,
        past: Any = None,
    ) -> None:
        """Take what `evaluate` has checked; it is the way to make one."""
        self.dataset, self.model, self.money, self.config = dataset, model, money, dict(config)
        self.recorder, self._made, self._told = MemoryRecorder(), list[str](), False
        self._judge_record()  # refuses a dataset without liquidity
        self.days = pd.DatetimeIndex(dataset.panel.days[dataset.rows("test")])
        every = check_scores(scores, "scores", calendar=dataset.panel.days)
        day = every.index.get_level_values("datetime")
        self.scores = every[day >= self.days[0]]
        _check_cover(self.scores, every, dataset, self.days)
        self.past = past if past is not None or model is not None else _of_valid(every, dataset)
        self._records: dict[str, Callable[[], Any]] = {
            "forecast": self._forecast_record,
            "judge": self._judge_record,
            "account": lambda: self._backtest_record(_Account, capacity=False, waterfall=False),
            "trades": lambda: self._backtest_record(PortAnaRecord),
            "folds": lambda: FoldRecord(self.recorder, dataset, model, **self._money()),
            "baselines": lambda: BaselineRecord(self.recorder, dataset, model, **self._money()),
        }
        self._begin()

    def __repr__(self) -> str:
        """Say of what it is, and what has been computed."""
        days, stocks = day_span(self.days).replace(" days", " test days"), len(self.dataset.panel.stocks)
        made = ", ".join(self._made) or "nothing yet"
        money = f"{self.money.capital / 1e6:,g} million yuan"
        return f"Evaluation({days}, {stocks} stocks, {money}; computed: {made})"

    table = _kept("liquidity_analysis/headline.pkl", "The deck's table: a row a series of daily returns.")
    daily = _kept("liquidity_analysis/daily.pkl", "Metrics of each day, and the returns of the table's rows.")
    diagnostics = _kept(
        "liquidity_analysis/diagnostics.pkl", "The IC family and the top of the ranking, with their errors."
    )
    positions = _kept(
        "liquidity_analysis/positions.pkl", "What the judge holds: yuan, weight, liquidity by (day, stock)."
    )
    quantiles = _kept("liquidity_analysis/quantiles.pkl", "Mean label by day and tenth of the score.")
    exposures = _kept("liquidity_analysis/exposures.pkl", "Daily rank correlations with known factors.")
    lags = _kept("liquidity_analysis/lags.pkl", "IC with the return of each of the days that follow.")
    decay = _kept("liquidity_analysis/decay.pkl", "Half-lives of the IC.")
    capacity = _kept("liquidity_analysis/capacity.pkl", "The score at 10 million to 10 billion yuan.")
    baselines = _kept("baselines/baselines.pkl", "The same judge of scores that are free; trains LightGBM.")
    account = _kept(
        "portfolio_analysis/report_normal_1day.pkl",
        "The account day by day, as qlib reports it: return before costs, cost, bench, account in yuan; a backtest.",
    )
    execution = _kept(
        "portfolio_analysis/execution.pkl",
        "Tables of the account by name: performance, book, turnover, cost_split, blocked, ...; a backtest.",
    )
    fills = _kept("portfolio_analysis/fills.pkl", "What was dealt, with each part of its cost; a backtest.")
    blocked = _kept("portfolio_analysis/blocked.pkl", "What was not dealt, and why; a backtest.")
    impacts = _kept("portfolio_analysis/account.pkl", "The account over the mean stock at b = 1, 2/3, 1/3; backtests.")
    tear = _kept(
        "portfolio_analysis/tear_account.pkl", "Tear sheet of the account by name: months, years, ...; backtests."
    )
    waterfall = _kept("portfolio_analysis/waterfall.pkl", "From paper to the account, a stage each; backtests.")
    strategy_capacity = _kept(
        "portfolio_analysis/capacity_strategy.pkl", "The strategy with other capitals, by portfolio.simulate."
    )

    @property
    def forecast(self) -> Forecast | ForecastSchedule:
        """What the score is worth, learnt on days before the test."""
        learnt = self.artifact(FORECAST)
        return ForecastSchedule.read(learnt) if isinstance(learnt, list) else Forecast.from_dict(learnt)

    @property
    def metrics(self) -> dict[str, float]:
        """Every number that a run logs as a metric, by its name there; computes all."""
        self._make("forecast", "trades", "judge")
        return self.recorder.list_metrics()

    @property
    def summary(self) -> Summary:
        """What a person needs first, in numbers and words (`.lines()`); all backtests."""
        self._make("forecast", "judge", "trades")
        return summarise(*self._page_record().material())

    @property
    def definitions(self) -> dict[str, str]:
        """What the numbers mean that have been computed, by name."""
        found = [value for path, value in self.recorder.artifacts.items() if path.endswith("definitions.pkl")]
        return {name: words for definitions in found for name, words in definitions.items()}

    def artifact(self, path: str) -> Any:
        """Give an artifact by its path in a run, such as `portfolio_analysis/fills.pkl`; it is made where it is not.

        Raises: ValueError for one that there is not.
        """
        self._ensure(path)
        if path not in self.recorder.artifacts:
            raise ValueError(f"no artifact {path!r}; there are {', '.join(self.recorder.artifacts)}")
        return self.recorder.artifacts[path]

    def plot(self, section: str = "backtest", chart: str | None = None) -> "go.Figure":
        """Draw a chart of the page.

        Args:
            section: of the page, `report.SECTIONS`: backtest (the account), returns, ic, quantiles, capacity, lags, ...
            chart: of the section; None: its first.

        Raises: ValueError for a section or chart that there is not; ImportError without plotly (qlib_ext[report]).

        >>> from qlib_ext.record import evaluate
        >>> scores = -dataset.prepare("test", col_set="feature")["REV5"]
        >>> type(evaluate(scores, dataset, benchmark=None).plot("ic")).__name__
        'Figure'
        """
        _need_plotly()
        check_choice("section", section, [each.key for each in SECTIONS])
        row = next(each for each in SECTIONS if each.key == section)
        for path in (*row.needs, *row.also):
            self._ensure(path)
        figures = figures_of(row, *self._page_record().material())
        if not figures:
            raise ValueError(f"section {section!r} has no chart here; .report(FILE) has all that there is")
        name = next(iter(figures)) if chart is None else chart
        check_choice(f"chart of {section}", name, figures)
        return figures[name].update_layout(template="plotly_white")

    def report(self, path: str | Path, *, title: str = "qlib_ext") -> Path:
        """Write the page of a run, with the judge, the forecast and all backtests; returns where it is.

        Args:
            path: of the HTML file.
            title: of the page.

        Raises: OSError for a file that cannot be written, ImportError without plotly (qlib_ext[report]).
        """
        _need_plotly()
        self._make("forecast", "judge", "trades", *(["folds"] if self._folded else []))
        with _quiet():
            self._page_record(title).generate()
        with beside(path) as partial:
            partial.write_bytes(self.recorder.artifacts[PAGE])
        return Path(path)

    def orders(
        self,
        holdings: pd.DataFrame | str | Path | None = None,
        *,
        capital: float | None = None,
        cash: float | None = None,
        day: str | None = None,
        fresh: bool = False,
        **changed: Any,
    ) -> pd.DataFrame:
        """List the orders for the day after the last scored one, by the account's strategy; see `plan_orders`.

        Args:
            holdings: a frame or CSV file of code and shares; None: nothing is held.
            capital: yuan to place; None: that of the evaluation.
            cash: yuan at hand; None: capital less the holdings.
            day: of the scores; None: the last one.
            fresh: refuse scores and prices that are not of the last day of the data.
            changed: options of the strategy in place of its own.

        >>> from qlib_ext.record import evaluate
        >>> scores = -dataset.prepare("test", col_set="feature")["REV5"]
        >>> evaluate(scores, dataset, capital=1e6, benchmark=None).orders()["side"].unique().tolist()
        ['buy']
        """
        self._ask_forecast()
        codes = self.scores.index.get_level_values("instrument")
        of_stocks = self.scores[~codes.map(lambda code: is_index(str(code))).to_numpy(dtype=bool)]
        capital = self.money.capital if capital is None else capital
        with _quiet():
            plan = self._backtest_record(PortAnaRecord).plan()
            run = ScoredRun(self.recorder.name, of_stocks, self._task(), {}, plan)
            held = read_holdings(holdings)
            return plan_orders(run, held, capital=capital, cash=cash, day=day, fresh=fresh, **changed)

    # --- the records

    def _ensure(self, path: str) -> None:
        """Run the record that makes an artifact, where it is not there and one does."""
        folder, _, name = path.rpartition("/")
        stage = "trades" if name in LATE else FOLDERS.get(folder)
        if path in self.recorder.artifacts or stage is None or (stage == "folds" and not self._folded):
            return
        self._make(stage)

    @property
    def _folded(self) -> bool:
        return hasattr(self.model, "fold_map")

    def _make(self, *stages: str) -> None:
        """Run the records of stages that have not been run; what trades learns its forecast before."""
        for stage in stages:
            if stage in self._made or (stage == "account" and "trades" in self._made):
                continue
            if stage in ("account", "trades"):
                self._ask_forecast()
            untold = stage == "forecast" and self.past is None and self.model is None  # told when it was made
            with _quiet(logging.ERROR if untold else logging.WARNING):
                self._records[stage]().generate()
            self._made.append(stage)

    def _ask_forecast(self) -> None:
        """Learn the forecast that the strategy trades by; say once where the simple rule stands for it."""
        self._make("forecast")
        known, own = self.past is not None or self.model is not None, self.config["strategy"]
        schedule = ForecastSchedule.read(self.forecast)
        weak = [forecast for forecast in schedule.forecasts if not forecast.significant]
        if weak and known and not self._told and "class" not in own and "forecast" not in own["kwargs"]:
            _warn(f"the account trades by the simple rule where the forecast is not significant: {weak[0]}")
            self._told = True

    def _begin(self) -> None:
        """Keep what a run keeps before its records: scores, label, task, facts, and what the training kept."""
        kept: dict[str, Any] = {"pred.pkl": self.scores.to_frame("score"), "task": self._task()}
        kept["label.pkl"] = SignalRecord.generate_label(self.dataset)
        self.recorder.save_objects(**kept | training_artifacts(self.model))

    def _money(self) -> dict[str, Any]:
        benchmark = self.config["backtest"]["benchmark"]
        return {name: value for name, value in vars(self.money).items() if value is not None} | {"benchmark": benchmark}

    def _judge_record(self) -> LiquidityRecord:
        return LiquidityRecord(self.recorder, self.dataset, self.model, **self._money())

    def _forecast_record(self) -> ForecastRecord:
        return ForecastRecord(self.recorder, self.dataset, self.model, scores=self.past)

    def _backtest_record(self, kind: type[PortAnaRecord], **options: Any) -> PortAnaRecord:
        return kind(self.recorder, self.config, dataset=self.dataset, model=self.model, **options)

    def _page_record(self, title: str | None = None) -> ReportRecord:
        return ReportRecord(self.recorder, self.dataset, self.model, title=title)

    def _task(self) -> dict[str, Any]:
        """Write what was given as a task, for the page and the orders."""
        handler = self.dataset.handler
        features = {"class": type(handler).__name__, "kwargs": {"instruments": getattr(handler, "instruments", "?")}}
        dataset = {
            name: getattr(self.dataset, name) for name in ("segments", "step_len", "liquidity", "liquidity_window")
        }
        records = [
            {"class": "LiquidityRecord", "module_path": "qlib_ext.record", "kwargs": self._money()},
            {"class": "PortAnaRecord", "module_path": "qlib_ext.record", "kwargs": {"config": self.config}},
        ]
        return {
            "model": {"class": type(self.model).__name__} if self.model is not None else {"class": "scores as given"},
            "dataset": {"class": type(self.dataset).__name__, "kwargs": {"handler": features, **dataset}},
            "record": records,
        }


class _Account(PortAnaRecord):
    """The account alone, without the same at other impacts."""

    def _account(self, *args: Any) -> dict[str, Any]:
        return {}

    def _tear(self, artifacts: Mapping[str, Any]) -> dict[str, Any]:
        return {}


@contextmanager
def _quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Keep to warnings: a run's tables and progress belong to the page, and to the properties."""
    silence = Silence()
    silence.begin()
    try:
        with set_global_logger_level_cm(level), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)  # a day without a trade
            warnings.filterwarnings("ignore", "CostAwareStrategy: the forecast")  # told by `Evaluation`, once
            yield
    finally:
        silence.end()


def _need_plotly() -> None:
    if find_spec("plotly") is None:
        raise ImportError("plots and the page need plotly, which is not here: pip install 'qlib_ext[report]'")


# --- what the scores cover


def _warn(text: str) -> None:
    """Warn at the line of the notebook or script that asked."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("qlib_ext."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def _check_cover(scores: pd.Series, every: pd.Series, dataset: DayDatasetH, days: pd.DatetimeIndex) -> None:
    """Refuse scores without a day of the test; tell the days and stocks that have none."""
    scored = pd.DatetimeIndex(scores.dropna().index.get_level_values("datetime").unique())
    lacks = days[~days.isin(scored)]
    if len(lacks) == len(days):
        own = every.index.get_level_values("datetime")
        raise ValueError(
            f"the scores are of {own.min().date()} to {own.max().date()}, the segment test of {days[0].date()} to "
            f"{days[-1].date()}: there is no day in both; score the days of the test, or give the dataset another test"
        )
    if len(lacks):
        _warn(
            f"{len(lacks)} of {len(days)} test days have no score, {lacks[0].date()} the first: nothing is bought then"
        )
    panel, rows = dataset.panel, dataset.rows("test")
    present = pd.DataFrame(panel.present.numpy()[rows], days, panel.stocks).loc[days.isin(scored)]
    known = scores.unstack().reindex(index=present.index, columns=present.columns).notna().to_numpy()
    share = float(known[present.to_numpy()].mean()) if present.to_numpy().any() else 1.0
    if share < COVERED:
        _warn(
            f"{share:.0%} of the stocks in the data on the scored days have a score: the others are not bought, and "
            "the judge's mean stock is that of those with a score"
        )


def _of_valid(scores: pd.Series, dataset: DayDatasetH) -> pd.Series | None:
    """Scores of the segment valid, for the forecast; None, with a warning, where there are none."""
    days: Any = dataset.panel.days[dataset.rows("valid")] if "valid" in dataset.segments else []
    past = scores[scores.index.get_level_values("datetime").isin(days)]
    if len(past):
        return past
    _warn(
        "no score of days before the test, so no forecast, and the account trades by the simple rule: give model=, or "
        "scores that reach over the segment valid too"
    )
    return None
