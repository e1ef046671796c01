"""Labels as expressions of prices: the days after d that they touch, and the raw simple return that they must be.

All money is reckoned with the label as it stands: yuan times label is what a position earned. So `label_prices` takes a
raw simple return only; `label_span`, which purging needs, reads the days of other forms too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

DEFAULT_LABEL = "Ref($close, -2)/Ref($close, -1) - 1"  # of qlib's handlers
FIVE_DAY_LABEL = "Ref($close, -6)/Ref($close, -1) - 1"  # measured as best: docs/study.md
PRICES = ("open", "high", "low", "close", "vwap")
MOST_A_DAY = 0.31  # a day's largest return by any board's limit, but for the first days after a listing
USUAL_A_DAY = 0.1  # median size of a day's return that no market has
FEWEST = 100  # labels that say something about their kind

_ONE = rf"\$({'|'.join(PRICES)})"
_RETURN = re.compile(rf"Ref\({_ONE},-([1-9]\d*)\)/(?:Ref\({_ONE},-([1-9]\d*)\)|{_ONE})-1")
_FIELD = re.compile(r"Ref\(\s*\$\w+\s*,\s*(-?\d+)\s*\)|\$\w+")


@dataclass(frozen=True)
class LabelSpan:
    """Days after d that the labels touch: their entry (first price), their reach (last price, of the longest).

    `held` are the days of the one label that judges, where others beside it are longer.
    """

    entry: int
    reach: int
    held: int | None = field(default=None, repr=False)

    @property
    def horizon(self) -> int:
        """Days that the position of the judging label is held."""
        return self.reach - self.entry if self.held is None else self.held

    def with_horizons(self, horizons: Sequence[int]) -> "LabelSpan":
        """Reach as far as the longest of labels of so many days from the same entry.

        >>> LabelSpan(entry=1, reach=2).with_horizons([1, 5])
        LabelSpan(entry=1, reach=6)
        """
        reach = max([self.reach, *(self.entry + days for days in horizons)])
        return LabelSpan(self.entry, reach, None if reach == self.reach else self.horizon)


def label_prices(expression: str) -> dict[int, str]:
    """Read the two prices of a raw simple return such as Ref($close, -2)/Ref($close, -1) - 1: days after d -> field.

    The entry stands first, then the exit.

    Raises: ValueError for anything but Ref($p, -b)/Ref($q, -a) - 1 or Ref($p, -b)/$q - 1 with prices p and q of
        `PRICES` and b > a; spaces are free.

    >>> label_prices("Ref($close, -2)/Ref($open, -1) - 1")
    {1: 'open', 2: 'close'}
    """
    match = _RETURN.fullmatch(re.sub(r"\s", "", expression))
    exit_field, last, entry_field, first, today = match.groups() if match else (None,) * 5
    entry, reach = int(first or 0), int(last or 0)
    if match is None or reach <= entry:
        raise ValueError(
            f"label {expression!r} is no raw simple return, by which all money is reckoned; allowed is "
            "Ref($p, -b)/Ref($q, -a) - 1, or Ref($p, -b)/$q - 1, with p and q of "
            f"{', '.join(PRICES)} and b > a, such as {DEFAULT_LABEL}. Where another expression equals the return from "
            "a close to a later one, tell its first and last day: DayDatasetH(label_days=[1, 2])"
        )
    return {entry: str(entry_field or today), reach: str(exit_field)}


def label_span(expression: str) -> LabelSpan:
    """Read the days that a label touches; it need not be a raw return.

    Raises: ValueError where the expression is made of anything but fields, Ref of fields, numbers, signs, Log, Abs and
        Sign, or has no future price.

    >>> label_span("Ref($close, -6)/Ref($close, -1) - 1")
    LabelSpan(entry=1, reach=6)
    """
    days = [-int(lag or 0) for lag in _FIELD.findall(expression)]
    rest = re.sub(r"\b(Log|Abs|Sign)\(", "(", _FIELD.sub("", expression))
    if re.search(r"[A-Za-z$]", rest) or len(set(days)) < 2 or max(days) < 1 or min(days) < 0:
        raise ValueError(
            f"label {expression!r} is no forward return that is understood; wanted the form "
            f"{DEFAULT_LABEL}, or tell its first and last day: DayDatasetH(label_days=[1, 2])"
        )
    return LabelSpan(entry=min(days), reach=max(days))


def check_raw_return(label: npt.ArrayLike, days: int) -> None:
    """Stop where labels do not look like raw simple returns of so many days; fewer than `FEWEST` of them say nothing.

    Args:
        label: any shape, NaN where not known.
        days: that the position is held.

    Raises: ValueError where more than 1% are larger than `days` days at a limit make, where their median size is above
        that of any market (a ratio without - 1, percent, ranks, signs), or where none is negative.
    """
    values = np.asarray(label, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if len(values) < FEWEST:
        return
    size, most, usual = np.abs(values), (1.0 + MOST_A_DAY) ** days - 1.0, USUAL_A_DAY * days**0.5
    beyond, middle = float((size > most).mean()), float(np.median(size))
    odd = [f"{beyond:.1%} are larger than {most:.2f}"] if beyond > 0.01 else []
    odd += [f"their median size is {middle:.3g}, above {usual:.2f}"] if middle > usual else []
    odd += ["none is negative"] if values.min() >= 0 else []
    if odd:
        raise ValueError(
            f"the labels do not look like raw simple returns of {days} days (0.01 = 1%): {', '.join(odd)}. Money is "
            "reckoned with them: give the handler a label such as "
            f"{DEFAULT_LABEL}, without Log, rank, percent or scaling"
        )
