"""Segments of a dataset: their bounds, whether they overlap, their rows of a panel."""

import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.log import get_module_logger

from qlib_ext.panel import DayPanel
from qlib_ext.spelling import read_day

logger = get_module_logger("qlib_ext.data")

OPEN = pd.Timestamp("1700-01-01"), pd.Timestamp("2262-01-01")  # ends of time, whatever the unit of an index
WANTED = "wanted [first day, last day] such as ['2020-01-02', '2020-12-31'], null for an open end"


def bounds(segment: Any, name: str = "") -> tuple[pd.Timestamp, pd.Timestamp]:
    """Start and end of a segment (pair or slice); open ends are the ends of time. `name`: for the message.

    Raises: ValueError where it is no pair of days, or ends before it starts.
    """
    called = f"segment {name!r}: {segment!r}" if name else f"segment {segment!r}"
    pair = (segment.start, segment.stop) if isinstance(segment, slice) else segment
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(f"{called} is no pair of days; {WANTED}")
    ends = [
        open_end if value is None else read_day(called, value, hint=f"; {WANTED}")
        for value, open_end in zip(pair, OPEN, strict=True)
    ]
    if ends[0] > ends[1]:
        raise ValueError(f"{called} ends before it starts")
    return ends[0], ends[1]


def plain_day(what: str, value: Any) -> Any:
    """Write a day as qlib reads it: 2020-01-31 for 20200131, 2020/1/31 or 2020年1月31日.

    A date, null and ISO texts, with a time of day or not, stay as they are.

    Raises: ValueError for no day, see `spelling.read_day`.
    """
    if value is None or isinstance(value, datetime.date):
        return value
    iso = f"{read_day(what, value):%Y-%m-%d}"
    return value if str(value)[:10] == iso else iso


def plain_segments(segments: dict[str, Any]) -> dict[str, Any]:
    """Check segments and write their days as qlib reads them."""
    check_segments(segments)
    return {
        name: segment if isinstance(segment, slice) else [plain_day(f"segment {name!r}", day) for day in segment]
        for name, segment in segments.items()
    }


def check_segments(segments: dict[str, Any]) -> None:
    """Raise ValueError where a segment is none (see `bounds`), and where two overlap."""
    if not isinstance(segments, dict):
        raise ValueError(
            f"segments is {segments!r}; wanted names and days: {{train: [...], valid: [...], test: [...]}}"
        )
    spans = sorted((*bounds(s, str(name)), str(name)) for name, s in segments.items())
    for (_, end, name), (start, _, later) in zip(spans, spans[1:], strict=False):
        if start <= end:
            raise ValueError(f"segments {name!r} and {later!r} overlap from {start.date()}: let {name!r} end earlier")


def segment_rows(panel: DayPanel, segments: dict[str, Any], name: str, reach: int) -> npt.NDArray[np.int64]:
    """Rows of a segment, purged by the label's reach before the next segment (train and valid only).

    Raises: ValueError for an unknown segment or one outside the panel's days.
    """
    if name not in segments:
        raise ValueError(f"no segment {name!r}; there are {sorted(segments)}")
    start, end = bounds(segments[name])
    rows = panel.rows(start, end)
    first, last = pd.Timestamp(panel.days[0]), pd.Timestamp(panel.days[-1])
    slack = pd.Timedelta(days=15)
    early = start != OPEN[0] and start < first - slack
    late = end != OPEN[1] and end > last + slack
    if not len(rows) or early or late:
        raise ValueError(
            f"segment {name!r} ({start.date()} to {end.date()}) is outside the data, {first.date()} to {last.date()}: "
            "change the segment or the handler's start_time and end_time"
        )
    later = [first for first, _ in map(bounds, segments.values()) if first > start]
    if name == "test" or not later:
        return rows
    kept = rows[rows + reach < len(panel.days) - len(panel.rows(min(later), None))]
    if len(kept) < len(rows):
        logger.info(f"segment {name!r}: {len(rows) - len(kept)} last days purged, their label reaches {reach} days")
    return kept
