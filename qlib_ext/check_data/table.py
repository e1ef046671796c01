"""The checks by name: how severe, from which share on they are told, and what to do. Private to `check_data.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

import pandas as pd

SEVERITIES = ("error", "warning", "info")
COLUMNS = ["severity", "check", "count", "of", "example", "cure"]


@dataclass(frozen=True)
class Check:
    """One check: severity of a finding, its cure, and shares of what was compared.

    `told_from`: smallest share that is a finding; `error_from`: smallest share that makes it an error.
    """

    severity: str
    cure: str
    told_from: float = 0.0
    error_from: float = inf


_REBUILD = "download or dump the data again"
CHECKS: dict[str, Check] = {
    "calendar_duplicate": Check(
        "error", f"one line a day in calendars/day.txt, by whose lines the files count: {_REBUILD}"
    ),
    "calendar_order": Check("error", f"calendars/day.txt must be sorted; {_REBUILD} (the bars were not checked)"),
    "calendar_weekend": Check("warning", "there is no trading on weekends: remove the days and dump again"),
    "calendar_gap": Check("warning", "more than 12 days without trade: the calendar lacks days, or an early holiday"),
    "list_line": Check("error", "a line of instruments/*.txt is: code, first day, last day, separated by tabs"),
    "list_overlap": Check("warning", "let the spans of a code follow one another; an overlap counts the stock twice"),
    "listed_no_data": Check("warning", "remove the code from the list, or add its feature folder"),
    "folder_twice": Check("error", "keep one folder: qlib reads the one in lower case"),
    "unlisted": Check("info", "add the stock to a list if it should be used"),
    "indices": Check("warning", "use a universe without them; DayDatasetH leaves them out, qlib's DatasetH does not"),
    "not_a_share": Check("warning", "funds, B shares and the like have other rules: leave them out of the universe"),
    "file_length": Check("error", f"the file is cut off, empty or longer than the calendar: {_REBUILD}"),
    "file_start": Check("error", f"the first value must be the position of the first day in the calendar: {_REBUILD}"),
    "field_span": Check("warning", "a stock's fields should cover the same days: dump them again together"),
    "no_price_field": Check("error", "features need $open, $high, $low, $close and $volume: add the files"),
    "no_factor": Check("warning", "without $factor lots and limit prices are only approximate: dump it"),
    "no_vwap": Check("warning", "VWAP0 of Alpha158 will be 0 everywhere: add $vwap, or leave the feature out"),
    "no_change": Check("warning", "qlib's own exchange needs it for its limits: dump it, or use AShareExchange"),
    "no_amount": Check("info", "turnover is then $close * $volume, which must be in yuan"),
    "price_not_positive": Check("error", "make the price NaN, or repair its source"),
    "bar_order": Check(
        "warning", "open and close must be within low and high: are all adjusted alike?", error_from=1e-3
    ),
    "incomplete_bar": Check("warning", "a bar with a close needs open, high and low: make it NaN, or repair it"),
    "vwap_outside": Check("warning", "$vwap is outside low and high: wrong unit, or not adjusted", told_from=0.01),
    "volume_negative": Check("error", "make the bar NaN, or repair its source"),
    "zero_volume": Check(
        "warning", "a price without trade: make suspended days NaN in all fields but $factor", error_from=1e-3
    ),
    "repeated_bar": Check("warning", "the day before again: a filled suspension should be NaN", error_from=1e-3),
    "absurd_return": Check(
        "warning", "look at the days: relisting, or a broken adjustment? Clip or drop such labels", error_from=1e-3
    ),
    "beyond_limit": Check(
        "warning", "no trade can be beyond the day's limit: check $factor and prices of the day", error_from=1e-2
    ),
    "unadjusted": Check(
        "error", "prices fall when $factor rises: they are not adjusted; multiply them by $factor", told_from=0.5
    ),
    "factor_gaps": Check("warning", "fill $factor forward: qlib's exchange drops lots for all stocks without it"),
    "factor_jump": Check("warning", "such an ex-rights factor is hardly real: check $factor of the day"),
    "factor_cents": Check(
        "warning", "$close / $factor is no price in whole cents: limit prices will be wrong", told_from=0.05
    ),
    "change_percent": Check("error", "$change of these stocks must be a fraction: divide by 100"),
    "change_raw": Check(
        "warning", "$change marks ex-rights days as limit-down: use $close/Ref($close,1)-1", told_from=0.5
    ),
    "change_wrong": Check("warning", "$change is not $close/Ref($close,1)-1: dump it again", told_from=1e-3),
    "limit_bars": Check("info", "closes at limit-up: such stocks cannot be bought there (the mask `buyable`)"),
    "suspended": Check("info", "days without trade are NaN, as they should be"),
    "long_gap": Check("info", "more than 120 days without a bar: a long suspension, or missing data"),
    "identical_series": Check("error", "two codes hold the same series: remove one, it counts twice"),
    "units": Check("error", "give DayDatasetH liquidity: an expression in yuan, such as '$amount * 1000'"),
    "unit_profile": Check("info", "liquidity: auto will find this"),
    "units_mixed": Check("warning", "some stocks have other units than the rest: dump them again", error_from=0.2),
    "units_step": Check(
        "warning", "from the day on $volume or $amount has another unit: dump all years from one source", error_from=0.2
    ),
    "turnover_step": Check(
        "warning", "so many stocks do not jump at once: $volume may be lots before or after", told_from=0.02
    ),
    "turnover_cluster": Check("warning", "some stocks may have $volume in lots, the others in shares: dump them alike"),
    "stock_turnover": Check(
        "error",
        "wrong units of $volume? Give liquidity: an expression in yuan; or adjusted_shares, where these are yuan "
        "(Beijing stocks, years before 2006, a few stocks)",
    ),
    "turnover_unusual": Check(
        "warning",
        "$amount fits $close * $volume, but is it yuan? Beijing stocks, years before 2006 and a few stocks can be "
        "outside; else give liquidity: an expression in yuan",
    ),
    "market_total": Check(
        "warning", "20 billion to 10 trillion yuan a day are plausible from 2010 on: check the units", error_from=0.05
    ),
    "turnover_jump": Check("warning", "a stock's mean turnover moved eightfold: units change, or volume is missing"),
    "survivorship": Check("warning", "delisted stocks are missing, which flatters returns: only compare models"),
    "stale_stock": Check("warning", "the list goes on, the bars do not: update the data, or end the stock in the list"),
    "stale_market": Check("error", "update the bars to the calendar's end, or end the segments earlier"),
    "thin_day": Check("warning", "most stocks have no bar: download the day again"),
    "calendar_end": Check("info", "update the data before you trade on it"),
}


@dataclass
class Tally:
    """Findings summed up over blocks of stocks: check -> count, of how many, first example."""

    counts: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, check: str, count: int, of: int, example: str = "") -> None:
        """Add `count` cases among `of`; the first example stays."""
        if check not in CHECKS:
            raise KeyError(check)
        self.counts[check] = self.counts.get(check, 0) + int(count)
        self.totals[check] = self.totals.get(check, 0) + int(of)
        if count and example:
            self.examples.setdefault(check, example)

    def each(self, check: str, cases: list[str], of: int) -> None:
        """Add named cases; up to three of them are the example."""
        more = ", ..." if len(cases) > 3 else ""
        self.add(check, len(cases), of, ", ".join(cases[:3]) + more)

    def table(self) -> pd.DataFrame:
        """Lay out the findings, the severe ones first; `attrs["quiet"]` names the checks that found nothing."""
        rows: list[dict[str, Any]] = []
        for name, check in CHECKS.items():
            count, of = self.counts.get(name, 0), self.totals.get(name, 0)
            share = count / of if of else 0.0
            if not count or share < check.told_from:
                continue
            severity = "error" if share >= check.error_from else check.severity
            values = (severity, name, count, of, self.examples.get(name, ""), check.cure)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        rows.sort(key=lambda row: SEVERITIES.index(row["severity"]))
        out = pd.DataFrame(rows, columns=COLUMNS)
        found = set(out["check"])
        out.attrs["quiet"] = [name for name in CHECKS if name in self.counts and name not in found]
        return out
