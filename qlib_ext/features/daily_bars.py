"""Daily bars of some stocks and what is measured over their trailing windows: the words of `daily_table`.

Legend: `n` stocks, `D` days, `P = LEAD + D` rows with the history that the first day looks back on. A *series* is
(n, P) float64, NaN where not known, by name in `SERIES`; a *measure* of it is (n, D), NaN where less than half of the
window's rows are known (a fifth for series that are known on some of the days only).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qlib_ext.features.daily_kernels import LEAD, WINDOWS, carry, drawdown, largest, maxima, totals
from qlib_ext.rules import limit_down_price, limit_up_price

Grid = npt.NDArray[np.float64]

HALF, FIFTH = 0.5, 0.2  # of a window's rows, that must be known
FLAT = 1e-12  # a variance below this share of the mean square is rounding, and 0
STILL = 1e-6  # a return below it is none: the smallest real one is a cent over a price of some thousands
CENT = 1e-6  # yuan that a price may be off the limit


class Pair(NamedTuple):
    """Moments of two series on the rows where both are known, each (n, D)."""

    rows: Grid
    mean_x: Grid
    mean_y: Grid
    xx: Grid
    yy: Grid
    xy: Grid


def _kept(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a method of DailyBars gives, by its arguments."""

    @wraps(method)
    def ask(self: "DailyBars", *args: Any) -> Any:
        key = (method.__name__, *args)
        if key not in self.kept:
            self.kept[key] = method(self, *args)
        return self.kept[key]

    return ask


class DailyBars:
    """Bars of n stocks, (n, P) each, and the mean stock beside them.

    Args:
        fields: open, high, low, close, volume, factor, vwap, adjusted; NaN on days without a trade (but for factor).
        age: (n, P) trading days since listing, 1 on the first; inf long ago.
        limit_up: (n, P) limits as fractions (see `rules.price_limit`).
        limit_down: the same.
        market: (P,) return of the mean stock.
        weekday: (P,) 0 to 4.
    """

    def __init__(
        self,
        fields: dict[str, npt.NDArray[np.float32]],
        *,
        age: Grid,
        limit_up: npt.ArrayLike,
        limit_down: npt.ArrayLike,
        market: Grid,
        weekday: npt.NDArray[np.int64],
    ) -> None:
        wide = {name: np.ascontiguousarray(grid, dtype=np.float64) for name, grid in fields.items()}
        self.open, self.high, self.low, self.close = (wide[name] for name in ("open", "high", "low", "close"))
        self.volume = np.where(wide["volume"] > 0, wide["volume"], np.nan)
        self.factor, self.vwap = wide["factor"], wide["vwap"]
        self.age, self.market, self.weekday = age, market, weekday
        self.price = carry(self.close)
        reference = np.round(lagged(self.price) / self.factor, 2)
        self.up, self.down = limit_up_price(reference, limit_up), limit_down_price(reference, limit_down)
        self.traded = np.isfinite(self.close[:, LEAD:])
        self.kept: dict[tuple[Any, ...], Any] = {}
        self.sums: dict[int | bytes, Grid] = {}

    @_kept
    def series(self, name: str) -> Grid:
        """Give a series by its name in `SERIES`; "x*y" is the product of two, "x|y" is x where y is known."""
        left, sign, right = name.rpartition("|" if "|" in name else "*")
        if not sign:
            return SERIES[name](self)
        if sign == "*":
            return np.asarray(self.series(left) * self.series(right))
        lacks = self.known(left) & ~self.known(right)
        return np.where(lacks, np.nan, self.series(left)) if lacks.any() else self.series(left)

    @_kept
    def known(self, name: str) -> npt.NDArray[np.bool_]:
        """Where a series is known, (n, P)."""
        return np.isfinite(self.series(name))

    def ago(self, name: str, rows: int = 0) -> Grid:
        """Value of a series so many rows ago."""
        series = self.series(name)
        return series[:, LEAD - rows : series.shape[1] - rows]

    def sum(self, name: str, window: int) -> Grid:
        """Sum of the known values in the window, 0 where there are none."""
        series = self.series(name)
        return self._through(window, id(series), series)  # the series are kept, so that their ids stay theirs

    def count(self, name: str, window: int) -> Grid:
        """How many values in the window are known."""
        known = self.known(name)
        return self._through(window, np.packbits(known).tobytes(), known)  # most series are known on the same days

    def _through(self, window: int, key: int | bytes, values: npt.NDArray[Any]) -> Grid:
        """Sum over the window, with the sums over shorter ones at once."""
        k = WINDOWS.index(window)
        if len(self.sums.get(key, ())) <= k:
            self.sums[key] = totals(values.astype(np.float64, copy=False), k + 1)
        out: Grid = self.sums[key][k]
        return out

    @_kept
    def mean(self, name: str, window: int, least: float = HALF) -> Grid:
        """Mean of the known values in the window."""
        count = self.count(name, window)
        return np.where(count >= least * window, self.sum(name, window) / count, np.nan)

    @_kept
    def pair(self, x: str, y: str, window: int, least: float = HALF) -> Pair:
        """Means, variances and covariance (by the number of rows) where both series are known."""
        count = self.count(f"{x}*{y}", window)
        n = np.where(count >= least * window, count, np.nan)
        mean_x, mean_y, square_x, square_y, product = (
            self.sum(name, window) / n for name in (f"{x}|{y}", f"{y}|{x}", f"{x}*{x}|{y}", f"{y}*{y}|{x}", f"{x}*{y}")
        )
        return Pair(
            n, mean_x, mean_y, _variance(square_x, mean_x), _variance(square_y, mean_y), product - mean_x * mean_y
        )

    def corr(self, x: str, y: str, window: int) -> Grid:
        """Correlation over the rows where both are known; NaN where either does not move."""
        pair = self.pair(x, y, window)
        return pair.xy / np.sqrt(pair.xx * pair.yy)

    def slope(self, y: str, x: str, window: int, least: float = HALF) -> Grid:
        """Slope of the regression of y on x."""
        pair = self.pair(y, x, window, least)
        return pair.xy / pair.yy

    @_kept
    def std(self, name: str, window: int) -> Grid:
        """Give the standard deviation (by the number of rows less one)."""
        mean, count = self.mean(name, window), self.count(name, window)
        return np.sqrt(_variance(self.sum(f"{name}*{name}", window) / count, mean) * count / (count - 1))

    def moment(self, name: str, window: int, order: int) -> Grid:
        """Third or fourth central moment over the power of the standard deviation (by the number of rows)."""
        one, count = self.mean(name, window), self.count(name, window)
        two, three = (self.sum("*".join([name] * k), window) / count for k in (2, 3))
        variance = _variance(two, one)
        if order == 3:
            return np.asarray((three - 3 * one * two + 2 * one**3) / variance**1.5)
        four = self.sum("*".join([name] * 4), window) / count
        return np.asarray((four - 4 * one * three + 6 * one**2 * two - 3 * one**4) / variance**2)

    @_kept
    def specific(self, window: int) -> tuple[Grid, Grid, Pair]:
        """Slope on the mean stock, variance of what it leaves (by the number of rows), and the pair's moments."""
        pair = self.pair("move", "market", window)
        slope = pair.xy / pair.yy
        rest = pair.xx - slope * pair.xy
        return slope, np.where(rest > FLAT * pair.xx, rest, 0.0 * rest), pair

    @_kept
    def mixed(self, window: int) -> tuple[Grid, Grid, Grid, Grid]:
        """Central moments E[x^3], E[x^2 y], E[x y^2], E[y^3] of the return x and the mean stock's y."""
        n, x, y, xx, yy, xy = self.pair("move", "market", window)
        xxx, xxy, xyy, yyy = (
            self.sum(name, window) / n
            for name in ("move*move*move", "move*move*market", "move*market*market", "market*market*market|move")
        )
        return (
            xxx - 3 * x * xx - x**3,
            xxy - 2 * x * xy - y * xx - x * x * y,
            xyy - 2 * y * xy - x * yy - x * y * y,
            yyy - 3 * y * yy - y**3,
        )

    def highest(self, name: str, window: int, sign: float = 1.0) -> tuple[Grid, Grid]:
        """Largest value in the window (sign -1: the smallest), and how many rows ago it last was."""
        top, ago = (grid[WINDOWS.index(window)] for grid in self._maxima(name, sign))
        enough = self.count(name, window) >= HALF * window
        return np.where(enough, sign * top, np.nan), np.where(enough, ago, np.nan)

    @_kept
    def _maxima(self, name: str, sign: float) -> tuple[Grid, Grid]:
        return maxima(sign * self.series(name))

    def largest(self, name: str, window: int, count: int, sign: float = 1.0) -> Grid:
        """Mean of the window's `count` largest values (sign -1: of the smallest)."""
        enough = self.count(name, window) >= HALF * window
        return np.where(enough, sign * largest(sign * self.series(name), window, count), np.nan)

    @_kept
    def _drawdown(self) -> Grid:
        return drawdown(self.close)

    def drawdown(self, window: int) -> Grid:
        """Largest fall of the close from a high to a later low within the window, as a share."""
        enough = self.count("close", window) >= HALF * window
        return np.where(enough, self._drawdown()[WINDOWS.index(window)], np.nan)

    def grew(self, near: int, far: int) -> Grid:
        """Logarithm of the price `near` rows ago over that `far` rows ago, carried through suspensions."""
        return np.log(self.ago("price", near) / self.ago("price", far))

    def coming_weekday(self, window: int) -> Grid:
        """Mean return over the mean stock on the window's days of the weekday after today's."""
        out = np.full_like(self.close[:, LEAD:], np.nan)
        for day in range(5):
            today = self.weekday[LEAD:] == (day - 1) % 5
            out[:, today] = self.mean(f"weekday{day}", window, 0.1)[:, today]
        return out


def lagged(x: Grid, rows: int = 1) -> Grid:
    """Values of so many rows before, NaN at the beginning."""
    out = np.full_like(x, np.nan)
    out[:, rows:] = x[:, :-rows]
    return out


def _variance(square: Grid, mean: Grid) -> Grid:
    """Mean square less the square of the mean; 0 where that is rounding."""
    variance = square - mean * mean
    return np.where(variance > FLAT * square, variance, 0.0 * variance)


def _state(b: DailyBars, price: Grid, *, up: bool) -> Grid:
    """1 where a price of the day is at the limit, 0 where it is not, NaN where the limit is not known."""
    raw, bound = np.round(price / b.factor, 2), b.up if up else b.down
    at = raw >= bound - CENT if up else raw <= bound + CENT
    return np.where(np.isfinite(raw) & ~np.isnan(bound), at, np.nan)


def _share(b: DailyBars, condition: npt.NDArray[np.bool_], *series: Grid) -> Grid:
    """1 where the condition holds, 0 where it does not, NaN where one of the series is not known."""
    return np.where(np.all([np.isfinite(x) for x in series], axis=0), condition, np.nan)


def _sign(move: Grid) -> Grid:
    """-1, 0 or 1; 0 where it is `STILL`."""
    return np.where(np.abs(move) < STILL, 0.0, np.sign(move))


def _corwin_schultz(b: DailyBars) -> Grid:
    """Bid-ask spread by the ranges of two days (equations 14 and 18), yesterday's close within today's; at least 0."""
    before = lagged(b.close)
    shift = np.maximum(before - b.high, 0.0) + np.minimum(before - b.low, 0.0)  # of the night, taken out
    high, low = np.log(b.high + shift), np.log(b.low + shift)
    high_before, low_before = np.log(lagged(b.high)), np.log(lagged(b.low))
    two = (high - low) ** 2 + (high_before - low_before) ** 2
    both = (np.maximum(high, high_before) - np.minimum(low, low_before)) ** 2
    root = 3 - 2 * np.sqrt(2)
    alpha = (np.sqrt(2 * two) - np.sqrt(two)) / root - np.sqrt(both / root)
    return np.maximum(2 * (np.exp(alpha) - 1) / (1 + np.exp(alpha)), 0.0)


def _middle(b: DailyBars) -> Grid:
    """Middle of the day's range, logarithm."""
    return (np.log(b.high) + np.log(b.low)) / 2


def _location(b: DailyBars) -> Grid:
    """Place of the close in the day's range, -1 (low) to 1 (high); 0 where there is no range."""
    span = b.high - b.low
    return np.where(span > 0, (2 * b.close - b.high - b.low) / np.where(span > 0, span, 1.0), 0.0 * span)


def _flow(b: DailyBars) -> Grid:
    """Value traded, with the sign of the change of the typical price (high + low + close) / 3."""
    typical = (b.high + b.low + b.close) / 3
    return _sign(typical / lagged(typical) - 1) * b.series("value")


SERIES: dict[str, Callable[[DailyBars], Grid]] = {
    "close": lambda b: b.close,
    "high": lambda b: b.high,
    "low": lambda b: b.low,
    "price": lambda b: b.price,
    "volume": lambda b: b.volume,
    "value": lambda b: np.where((b.vwap >= b.low) & (b.vwap <= b.high), b.vwap, b.close) * b.volume,
    "move": lambda b: b.close / lagged(b.close) - 1,
    "path": lambda b: np.abs(np.log(b.price / lagged(b.price))),
    "before": lambda b: lagged(b.series("move")),
    "fall": lambda b: np.minimum(b.series("move"), 0.0),
    "rise": lambda b: np.maximum(b.series("move"), 0.0),
    "size": lambda b: np.abs(b.series("move")),
    "night": lambda b: np.log(b.open / lagged(b.close)),
    "day": lambda b: np.log(b.close / b.open),
    "day before": lambda b: lagged(b.series("day")),
    "market": lambda b: np.where(np.isfinite(b.close), b.market, np.nan),
    "market before": lambda b: np.where(np.isfinite(b.close), lagged(b.market[None])[0], np.nan),
    "down market": lambda b: np.where(b.market < 0, b.series("market"), np.nan),
    "up market": lambda b: np.where(b.market > 0, b.series("market"), np.nan),
    "excess": lambda b: b.series("move") - b.series("market"),
    "still": lambda b: _share(b, b.series("size") < STILL, b.series("move")),
    "gain": lambda b: _share(b, b.series("move") > STILL, b.series("move")),
    "loss": lambda b: _share(b, b.series("move") < -STILL, b.series("move")),
    "night up": lambda b: _share(b, (b.series("night") > STILL) & (b.series("day") < -STILL), b.series("night")),
    "day up": lambda b: _share(b, (b.series("night") < -STILL) & (b.series("day") > STILL), b.series("night")),
    "gap up": lambda b: _share(b, b.low / lagged(b.high) - 1 > STILL, b.low, lagged(b.high)),
    "gap down": lambda b: _share(b, b.high / lagged(b.low) - 1 < -STILL, b.high, lagged(b.low)),
    "range": lambda b: np.log(b.high / b.low),
    "garman": lambda b: b.series("range") ** 2 / 2 - (2 * np.log(2) - 1) * b.series("day") ** 2,
    "rogers": lambda b: (
        np.log(b.high / b.close) * np.log(b.high / b.open) + np.log(b.low / b.close) * np.log(b.low / b.open)
    ),
    "upper": lambda b: (b.high - np.maximum(b.open, b.close)) / b.close,
    "lower": lambda b: (np.minimum(b.open, b.close) - b.low) / b.close,
    "body": lambda b: np.abs(b.series("day")),
    "location": _location,
    "flow": _flow,
    "signed": lambda b: _sign(b.series("move")) * b.volume,
    "logvolume": lambda b: np.log(b.volume),
    "logvolume before": lambda b: lagged(b.series("logvolume")),
    "impact": lambda b: b.series("size") / b.series("value"),
    "push": lambda b: lagged(_sign(b.series("excess")) * b.series("value")),
    "spread": _corwin_schultz,
    "middle": lambda b: (lagged(np.log(b.close)) - lagged(_middle(b))) * (lagged(np.log(b.close)) - _middle(b)),
    "halted": lambda b: _share(b, ~np.isfinite(b.close), np.where(b.age >= 1, 0.0, np.nan)),
    "limit up": lambda b: _state(b, b.close, up=True),
    "limit down": lambda b: _state(b, b.close, up=False),
    "opened": lambda b: _state(b, b.high, up=True) * (1 - b.series("limit up")),
    **{
        f"weekday{day}": lambda b, day=day: np.where(b.weekday == day, b.series("excess"), np.nan)  # type: ignore[misc]
        for day in range(5)
    },
}
