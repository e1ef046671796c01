"""What a check is: how severe its finding, from which share on it is told, what to do; findings are summed up here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

SEVERITIES = ("error", "warning", "info")
COLUMNS = ["severity", "check", "count", "of", "example", "cure"]


@dataclass(frozen=True)
class Check:
    """One check of a provider's data.

    Args:
        severity: of a finding: "error", "warning" or "info".
        cure: what to do.
        told_from: smallest share of what was compared that is a finding.
        error_from: smallest share that makes it an error.
        least: fewest cases that are a finding.
        look: of a check of one's own: takes a block of bars, whose `fields`, `close`, `returns`, `trades` and the like
            are (D, N), and returns which cells are found, and which were judged, both (D, N) bool.

    >>> Check("warning", "leave such stocks out", look=lambda block: (block.close < 1, block.trades)).severity
    'warning'
    """

    severity: str
    cure: str
    told_from: float = 0.0
    error_from: float = inf
    least: int = 1
    look: Callable[[Any], tuple[BoolArray, BoolArray]] | None = None


REBUILD = "download or dump the data again"


@dataclass
class Tally:
    """Findings summed up over blocks of stocks: check -> count, of how many, first example."""

    counts: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, check: str, count: int, of: int, example: str = "") -> None:
        """Add `count` cases among `of`; the first example stays."""
        self.counts[check] = self.counts.get(check, 0) + int(count)
        self.totals[check] = self.totals.get(check, 0) + int(of)
        if count and example:
            self.examples.setdefault(check, example)

    def each(self, check: str, cases: list[str], of: int) -> None:
        """Add named cases; up to three of them are the example."""
        more = ", ..." if len(cases) > 3 else ""
        self.add(check, len(cases), of, ", ".join(cases[:3]) + more)

    def table(self, checks: Mapping[str, Check]) -> pd.DataFrame:
        """Lay out the findings, the severe ones first; `attrs["quiet"]` names the checks that found nothing.

        Raises: KeyError for a finding that is none of the checks.
        """
        if strange := set(self.counts) - set(checks):
            raise KeyError(*sorted(strange))
        rows: list[dict[str, Any]] = []
        for name, check in checks.items():
            count, of = self.counts.get(name, 0), self.totals.get(name, 0)
            share = count / of if of else 0.0
            if count < check.least or share < check.told_from:
                continue
            severity = "error" if share >= check.error_from else check.severity
            values = (severity, name, count, of, self.examples.get(name, ""), check.cure)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        rows.sort(key=lambda row: SEVERITIES.index(row["severity"]))
        out = pd.DataFrame(rows, columns=COLUMNS)
        out.attrs["quiet"] = [name for name in checks if name in self.counts and name not in set(out["check"])]
        return out
