"""ForecastRecord: what the run's score is worth, learnt on days before the test segment."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from qlib.log import get_module_logger
from qlib.workflow.record_temp import ACRecordTemp, SignalRecord

from qlib_ext.data import DayDatasetH, bounds, judging
from qlib_ext.model import WalkForwardModel, past_scores
from qlib_ext.options import argument_names, refuse_unknown
from qlib_ext.panel import check_scores
from qlib_ext.portfolio import Forecast, ForecastSchedule
from qlib_ext.record.staged import Staged
from qlib_ext.runs import FORECAST, load_if_there, log_finite, save_json
from qlib_ext.spelling import is_nothing, read_code, read_csv, read_number

logger = get_module_logger("qlib_ext.record")

SCORES = "forecast_scores.pkl"


class ForecastRecord(Staged, ACRecordTemp):
    """Learn what the run's score is worth: the expected excess return over the mean stock, and how fast it decays.

    Put it before PortAnaRecord, which trades by it. The scores are those of days that the model did not learn from:
    out-of-fold ones of a FoldEnsemble, else of the segment valid. Each return that is used ends before the first day
    of the segment test. Artifacts: `forecast.json` (`portfolio.Forecast.to_dict`) and `forecast_scores.pkl`, the scores
    that it was learnt from; metrics `forecast.*`.

    A WalkForwardModel of several blocks has a forecast for each, learnt on returns that end before the block, the
    scores of the blocks before it among the days; `forecast.json` is then a list (`portfolio.ForecastSchedule`), the
    metrics are those of the first.

    Args:
        recorder, model, dataset: filled in by qlib; where the dataset is no DayDatasetH, one over its handler tells the
            returns.
        scores: of past days in place of the model's, by (datetime, instrument), or a CSV file with the columns
            date, code and score.
        horizons: days after the entry between which the decay is measured, see `Forecast.fit`.
        skip_existing: leave the forecast of an earlier run as it is.

    Raises: TypeError for an option that there is not, ValueError for another dataset.

    >>> ForecastRecord(None, dataset).list()
    ['forecast.json', 'forecast_scores.pkl']
    """

    depend_cls = SignalRecord
    stage = "forecast"

    def __init__(
        self,
        recorder: Any,
        dataset: Any = None,
        model: Any = None,
        *,
        scores: pd.Series | pd.DataFrame | str | Path | None = None,
        horizons: Sequence[int] | None = None,
        skip_existing: bool = False,
        **unknown: Any,
    ) -> None:
        own = argument_names(ForecastRecord)
        refuse_unknown(type(self), unknown, own[own.index("model") + 1 :])
        super().__init__(recorder=recorder, skip_existing=skip_existing)
        self.trained, self.model, self.dataset = dataset, model, judging(dataset)
        if not isinstance(self.dataset, DayDatasetH):
            raise ValueError("ForecastRecord needs a DayDatasetH (module_path qlib_ext.data)")
        self.given = read_scores(scores) if isinstance(scores, str | Path) else scores
        self.horizons = {} if horizons is None else {"horizons": horizons}

    def list(self) -> list[str]:
        """Name the artifacts."""
        return [FORECAST, SCORES]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        scores = self.past()
        learnt = self.learn(scores)
        forecast = learnt if isinstance(learnt, Forecast) else learnt.forecasts[0]
        if scores is None:
            logger.warning(
                "no forecast: there is no score of days before the test segment that the model did not learn from. Add "
                "a segment valid, or give ForecastRecord scores: FILE.csv"
            )
        else:
            logger.info(in_words(forecast))
        if isinstance(learnt, ForecastSchedule):
            for day, own in zip(learnt.starts[1:], learnt.forecasts[1:], strict=True):
                logger.info(f"from {day.date()} {in_words(own)}")
        save_json(self.recorder, FORECAST, plain(learnt))
        numbers = ("t", "significant", "half_life", "smoothing", "spread", "slope", "days")
        log_finite(self.recorder, {f"forecast.{name}": getattr(forecast, name) for name in numbers})
        return {} if scores is None else {SCORES: scores}

    def past(self) -> pd.Series | None:
        """Scores of days before the first test day that the model did not learn from; None where there are none.

        Of a walk-forward's test blocks too, but for the last.
        """
        every = self.given
        if every is None and self._recorder is not None:
            every = load_if_there(self.recorder, "folds/oof.pkl")
        if every is None and self.model is not None:
            every = past_scores(self.model, self.trained)
        if every is None:
            return None
        series = check_scores(every, "the scores that the forecast is learnt from")
        first = self._first_test_day()
        past = series if first is None else series[series.index.get_level_values("datetime") < first]
        if blocks := self._later_blocks():
            scored = None if self._recorder is None else load_if_there(self.recorder, "pred.pkl")
            scored = check_scores(self.model.predict(self.trained) if scored is None else scored, "pred.pkl")
            past = pd.concat([past, scored[scored.index.get_level_values("datetime") < blocks[-1]]])
        return past if len(past) else None

    def learn(self, scores: pd.Series | None) -> Forecast | ForecastSchedule:
        """Learn of the scores what they are worth, by returns that end before the first test day; of none, nothing.

        Of several blocks each has its own, by returns that end before it.
        """
        if scores is None:
            return Forecast()
        options: dict[str, Any] = {"entry": self.dataset.span.entry, **self.horizons}
        first, later = self._first_test_day(), self._later_blocks()
        learnt = [Forecast.of_panel(self.dataset.panel, scores, before=day, **options) for day in (first, *later)]
        return learnt[0] if first is None or not later else ForecastSchedule((first, *later), tuple(learnt))

    def _later_blocks(self) -> Sequence[pd.Timestamp]:
        """First days of a walk-forward's blocks after the first one; none where the scores are given."""
        walks = isinstance(self.model, WalkForwardModel) and self.given is None
        return self.model.starts[1:] if walks else ()

    def _first_test_day(self) -> pd.Timestamp | None:
        segments = self.dataset.segments
        return bounds(segments["test"])[0] if "test" in segments else None


def plain(learnt: Forecast | ForecastSchedule) -> Any:
    """Tell what was learnt as `forecast.json` has it."""
    return learnt.to_dict() if isinstance(learnt, Forecast) else learnt.to_list()


def read_scores(file: str | Path) -> pd.Series:
    """Read scores by (datetime, instrument) from a CSV file with the columns date, code and score.

    Read as by `spelling.read_csv`; an empty score is none, other columns do not matter.

    Raises: OSError; ValueError for a file that is no such table, or what is not surely understood.
    """
    table = read_csv(file, ("date", "code", "score"))
    first = table["code"].drop_duplicates()
    codes = {code: read_code(f"{file}, line {line}: code", code) for line, code in first.items()}
    index = pd.MultiIndex.from_arrays([table["date"], table["code"].map(codes)], names=["datetime", "instrument"])
    score = [
        math.nan if is_nothing(x) else read_number(f"{file}, line {n}: score", x) for n, x in table["score"].items()
    ]
    return check_scores(pd.Series(score, index, dtype=float, name="score"), str(file))


def in_words(forecast: Forecast) -> str:
    """Say what was learnt, in basis points a day."""
    if not forecast.days:
        return "forecast: no return of the days before the test segment is known; it expects nothing"
    smoothed = f"smoothed with a half-life of {forecast.smoothing:g} days" if forecast.smoothing else "not smoothed"
    error = "" if forecast.half_life_error is None else f" ± {forecast.half_life_error:.1f}"
    two = f" ({' and '.join(f'{days:.1f}' for days in forecast.half_lives)})" if len(forecast.half_lives) > 1 else ""
    text = (
        f"forecast of {forecast.days} days, {forecast.first} to {forecast.last}: one standard deviation of the score, "
        f"{smoothed}, earned {1e4 * forecast.slope:.1f} ± {1e4 * (forecast.slope_error or 0.0):.1f} basis points over "
        f"the mean stock on the first day after the entry, half of it after {forecast.half_life:.1f}{error} days{two}; "
        f"t {forecast.t:.1f}"
    )
    return text if forecast.significant else f"{text}: not significant, it is not traded by"
