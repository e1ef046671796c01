"""Forecasts over time: each is fitted on the days before the one from which it holds. ``D`` days, ``N`` stocks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd

from qlib_ext.portfolio.forecast import Forecast
from qlib_ext.spelling import read_day


@dataclass(frozen=True, repr=False)
class ForecastSchedule:
    """What a score is worth, by signal day.

    Attributes:
        starts: signal days from which each forecast holds, rising; the first one holds for earlier days too.
        forecasts: as many.

    Raises: ValueError for none, unequal numbers, or days that do not rise.

    >>> early, late = Forecast(), Forecast(smoothing=5.0)
    >>> schedule = ForecastSchedule((pd.Timestamp("2020-01-02"), pd.Timestamp("2020-04-01")), (early, late))
    >>> [schedule.at(day).smoothing for day in ("2019-12-31", "2020-03-31", "2020-04-01")]
    [0.0, 0.0, 5.0]
    """

    starts: tuple[pd.Timestamp, ...]
    forecasts: tuple[Forecast, ...]

    def __repr__(self) -> str:
        """Name the days from which each forecast holds."""
        return f"ForecastSchedule({len(self.starts)} forecasts, from {', '.join(str(day)[:10] for day in self.starts)})"

    def __post_init__(self) -> None:
        """Check the days."""
        rising = all(a < b for a, b in zip(self.starts, self.starts[1:], strict=False))
        if not self.starts or len(self.starts) != len(self.forecasts) or not rising:
            raise ValueError(
                f"{len(self.forecasts)} forecasts from {[str(day)[:10] for day in self.starts]}: wanted is one or "
                "more, each from a later day than the one before"
            )

    @classmethod
    def read(cls, value: Forecast | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Self) -> Self:
        """Take a forecast, its `to_dict`, or what `to_list` gives.

        Raises: TypeError for a name that a forecast does not have; ValueError for values by which nothing can be
            predicted, and entries without the day `from`.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Forecast | Mapping):
            one = value if isinstance(value, Forecast) else Forecast.from_dict(value)
            return cls((pd.Timestamp.min,), (one,))
        if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(x, Mapping) for x in value):
            raise ValueError(f"a forecast is a {type(value).__name__}; wanted is what to_dict or to_list gives")
        if lacks := [n for n, entry in enumerate(value) if not isinstance(entry.get("from"), str)]:
            raise ValueError(f"forecast {lacks[0]} of {len(value)} lacks its day `from`; wanted is what to_list gives")
        entries = [(entry["from"], {n: x for n, x in entry.items() if n != "from"}) for entry in value]
        days = tuple(read_day(f"forecast {n}: from", day) for n, (day, _) in enumerate(entries))
        return cls(days, tuple(Forecast.from_dict(own) for _, own in entries))

    def to_list(self) -> list[dict[str, Any]]:
        """Tell everything as numbers and lists, for JSON: `Forecast.to_dict` of each, and the day `from`."""
        pairs = zip(self.starts, self.forecasts, strict=True)
        return [{"from": str(day)[:10], **forecast.to_dict()} for day, forecast in pairs]

    def at(self, day: Any) -> Forecast:
        """Forecast of a signal day."""
        place = int(pd.DatetimeIndex(self.starts).searchsorted(pd.Timestamp(day), side="right"))
        return self.forecasts[max(place - 1, 0)]

    def spans(self, days: pd.Index) -> Iterator[tuple[int, int, Forecast]]:
        """Rows of rising days by the forecast that holds: first, end, forecast; none that is empty."""
        firsts = [0, *(int(row) for row in days.searchsorted(pd.DatetimeIndex(self.starts[1:])))]
        for first, end, forecast in zip(firsts, [*firsts[1:], len(days)], self.forecasts, strict=True):
            if first < end:
                yield first, end, forecast
