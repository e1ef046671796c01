"""What a score is worth: the expected excess return of a stock, and how fast it decays. Fitted on past days.

``D`` days, ``N`` stocks, ``K`` ages in days, ``B`` bins of the score; returns as fractions a day (0.001 = 10 bp).

The excess return of a stock over the mean stock, k days after the first one that its score can earn, is
level(z) * decay(k), where z is the place of the stock's smoothed score among the day's. What is measured is what
portfolios of the score of k days ago earn *on one day*: returns of different days hardly overlap, so that their errors
are plain, however long the horizon, and a return counts only where its own day is there (Jegadeesh and Titman 1993).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from qlib_ext.cross_section import rank_shares
from qlib_ext.options import check_flag, check_number, check_shapes, is_number, refuse_unknown
from qlib_ext.panel import DayPanel, grid_of
from qlib_ext.portfolio.policy import Vector
from qlib_ext.portfolio.topn import smoothed

HORIZONS = (1, 2, 3, 5, 10, 20, 40)
SMOOTHINGS = (0.0, 2.0, 5.0, 10.0, 20.0)  # half-lives in days that the fit may choose
HELD = 10  # days whose return the smoothing must predict best: about as long as a trade takes to pay for itself
EDGES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0)  # bins of the place
USUAL, FACTOR = 10.0, 4.0  # half-life that is assumed within this factor where the days say nothing
CLEAR = 3.0  # standard errors by which one half-life must fail before there are two
T_SIGNIFICANT, FEWEST_DAYS = 1.65, 20  # one-sided 5%: what is left of a weak level is small, as it is shrunk
LEAST_DAYS = 10  # with a return without which nothing is learnt
LEAST_ERROR = 1e-9  # a day: no measured return is taken to be more exact, though days without noise say so


@dataclass(frozen=True, repr=False)
class Forecast:
    """Expected excess return over the mean stock, from a score; `Forecast()` knows nothing and expects 0.

    Attributes:
        smoothing: half-life in days by which the score is smoothed, see `smoothed`; 0: none.
        places: (B,) places in (0, 1), 1 the best, at which the level is told; linear (in normal scores) in between.
        levels: (B,) expected excess return of the first day after the entry, rising, shrunk.
        half_lives: days until the level is half, of each exponential of the decay.
        weights: of each exponential, their sum is 1.
        half_life_error: standard error of the only half-life; None where there are two or it is not known.
        persistence: correlation of the places (as normal scores) with those of the next day.
        spread: standard deviation of the level over stocks.
        slope: level of one standard deviation of the score as it was found, before it is shrunk.
        slope_error: standard error of it.
        t: what the score earned over all ages, in standard errors.
        significant: whether the fit days show that the score predicts at all: t of 1.65 or more, over 20 days or more.
        days: returns, one a day, that were used.
        first, last: days from the first score to the end of the last return, where `of_panel` knows them.
        bins: (place, stocks' share, mean, standard error) of each bin as it was found, beside `places` and `levels`.
        curve: (first day, last day, mean, standard error) of the return a day of one standard deviation of the score,
            by days after the entry from the first to the last.
    """

    smoothing: float = 0.0
    places: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()
    half_lives: tuple[float, ...] = (USUAL,)
    weights: tuple[float, ...] = (1.0,)
    half_life_error: float | None = None
    persistence: float = 0.0
    spread: float = 0.0
    slope: float = 0.0
    slope_error: float | None = None
    t: float = 0.0
    significant: bool = False
    days: int = 0
    first: str | None = None
    last: str | None = None
    bins: tuple[tuple[float, ...], ...] = ()
    curve: tuple[tuple[float, ...], ...] = ()

    def __repr__(self) -> str:
        """Tell what one standard deviation of the score is worth, how fast it decays, and what it was learnt on."""
        if not self.days and not self.levels:
            return "Forecast(nothing learnt: it expects 0)"
        days = f"{self.days} days {self.first or '?'} to {self.last or '?'}, " if self.days else ""
        weak = "" if self.significant else ", not significant"
        worth = f"slope {1e4 * self.slope:.1f} bp, half-life {self.half_life:.1f} days"
        return f"Forecast({days}{worth}, t {self.t:.1f}{weak})"

    @classmethod
    def fit(
        cls,
        score: ArrayLike,
        step_return: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        horizons: Sequence[int] = HORIZONS,
        smoothings: Sequence[float] = SMOOTHINGS,
    ) -> Self:
        """Learn level and decay from scores and the returns that followed.

        Give it what was known by one day and nothing else: every row is used. A day may lack scores (NaN).

        Args:
            score: (D, N) of successive trading days, larger is better, NaN where there is none.
            step_return: (D, N) return of the first day after the entry of signal day d, such as `DayPanel.step_return`;
                NaN where it is not known.
            mask: (D, N) bool, stocks that could be entered: in the universe and buyable; None: all. A score outside
                of it takes part in the ranking.
            horizons: days after the entry, rising; between each two the decay is measured.
            smoothings: half-lives in days to choose from: the longest that earns as much as the best, within half a
                standard error.

        Raises:
            ValueError: for unequal shapes, horizons that do not rise, a negative half-life.

        >>> Forecast.fit(np.zeros((50, 3)), np.zeros((50, 3)))
        Forecast(nothing learnt: it expects 0)
        """
        grid, step = np.asarray(score, dtype=np.float64), np.asarray(step_return, dtype=np.float64)
        real = np.ones(grid.shape, dtype=bool) if mask is None else np.asarray(mask)
        check_shapes("(D, N) = (days, stocks)", score=grid, step_return=step, mask=real)
        ends = _rising_days(horizons)
        for halflife in smoothings:
            check_number("a smoothing", halflife, "[0, inf)", hint=" (half-life in days)")
        excess = _excess(step, real)
        places = {float(halflife): _places(grid, halflife) for halflife in smoothings}
        gains = {halflife: _gain(place, real, excess) for halflife, place in places.items()}
        best, error = max(gains.values())
        smoothing = max(halflife for halflife, (gain, _) in gains.items() if gain >= best - error / 2)
        fitted = _fitted(places[smoothing], real, excess, ends)
        return cls(**fitted, smoothing=smoothing) if fitted else cls()

    @classmethod
    def of_panel(
        cls,
        panel: DayPanel,
        scores: pd.Series,
        *,
        before: Any = None,
        entry: int = 1,
        horizons: Sequence[int] = HORIZONS,
    ) -> Self:
        """Learn from the scores of days of a panel, by returns that end before a day; see `fit`.

        Args:
            panel: of a DayDatasetH.
            scores: by (datetime, instrument); those of later days are not looked at.
            before: first day whose prices are not to be known, the first test day; None: all of the panel's are.
            entry: days from the signal to the entry, of the label (`panel.LabelSpan`).
            horizons: see `fit`.

        Raises:
            ValueError: for a panel without the returns after the entry; as `fit` and `panel.check_scores`.

        >>> reversal = -pd.DataFrame(panel.x[:, :, 0].numpy(), panel.days, panel.stocks).stack()
        >>> forecast = Forecast.of_panel(panel, reversal, before="2020-06-01")
        >>> forecast.days, forecast.last, forecast.significant
        (79, '2020-05-29', False)
        """
        if panel.step_return is None:
            raise ValueError("the panel has no step_return, of which a forecast is learnt: use DayDatasetH")
        grid = grid_of(scores, panel.days, panel.stocks, calendar=panel.days)
        known = len(panel.days) if before is None else len(panel.days) - len(panel.rows(before, None))
        end = known - entry - 1  # the return of row d ends entry + 1 days later
        scored = np.flatnonzero(~np.isnan(grid).all(axis=1))
        if not len(scored) or scored[0] >= end:
            return cls()
        rows = slice(scored[0], end)
        mask = panel.present if panel.buyable is None else panel.present & panel.buyable
        step, entered = (value[rows].cpu().numpy() for value in (panel.step_return, mask))
        forecast = cls.fit(grid[rows], step, mask=entered, horizons=horizons)
        first, last = (str(panel.days[row])[:10] for row in (scored[0], known - 1))
        return replace(forecast, first=first, last=last)

    @property
    def half_life(self) -> float:
        """Days until the decay is one half."""
        low, high = min(self.half_lives), max(self.half_lives)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.decay(middle) > 0.5 else (low, middle)
        return (low + high) / 2

    def decay(self, days: ArrayLike) -> Vector:
        """Share of the level that is left some days later, 1 at 0; of the shape of `days`.

        >>> Forecast(half_lives=(2.0,)).decay([0, 2, 4]).tolist()
        [1.0, 0.5, 0.25]
        """
        age = np.asarray(days, dtype=np.float64)[..., None]
        return (np.asarray(self.weights) * 2.0 ** (-age / np.asarray(self.half_lives))).sum(axis=-1)

    def prepare(self, score: ArrayLike) -> Vector:
        """Tell the expected excess return (D, N) of the first day after the entry, from scores of successive days.

        Causal. A stock whose last score is k days old has its level times decay(k); NaN before the first.

        >>> forecast = Forecast(places=(0.25, 0.75), levels=(-0.001, 0.001), half_lives=(1.0,))
        >>> forecast.prepare([[1.0, 2.0], [np.nan, 1.0]]).round(9).tolist()
        [[-0.001, 0.001], [-0.0005, 0.0]]
        """
        level, age = self._aged_levels(score)
        return level * self.decay(age)

    def predict(self, score: ArrayLike, horizon: int = 1, age: int = 0) -> Vector:
        """Sum the expected excess return over the mean stock over `horizon` days: (D, N), NaN where never scored.

        Args:
            score: (D, N) of successive days.
            horizon: days, the first one `age` days after the first that the score of the row can earn.
            age: days.

        Raises:
            ValueError: for days that are no whole numbers of at least 1 and 0.
        """
        check_number("horizon", horizon, "[1, inf)", whole=True, hint=" (days)")
        check_number("age", age, "[0, inf)", whole=True, hint=" (days)")
        level, passed = self._aged_levels(score)
        left = 2.0 ** (-1.0 / np.asarray(self.half_lives))
        gain = np.asarray(self.weights) * left**age * (1 - left**horizon) / (1 - left)  # a geometric sum each
        return level * (gain * left ** passed[..., None]).sum(axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers and lists, for JSON."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            TypeError: for a name that a forecast does not have.
            ValueError: for values by which nothing can be predicted.
        """
        refuse_unknown("Forecast", values, [field.name for field in fields(cls)])
        made = cls(**{name: _frozen(value) for name, value in values.items()})
        made._check()
        return made

    def _check(self) -> None:
        """Refuse what `predict` cannot go by, such as a damaged file."""
        columns = {name: getattr(self, name) for name in ("places", "levels", "half_lives", "weights")}
        for name, column in {**columns, "smoothing": (self.smoothing,)}.items():
            if not isinstance(column, tuple) or not all(is_number(x) and math.isfinite(x) for x in column):
                raise ValueError(f"Forecast: {name} is {getattr(self, name)!r}; wanted is what to_dict gives")
        check_flag("Forecast: significant", self.significant)
        length = {name: len(column) for name, column in columns.items()}
        fits = length["places"] == length["levels"] and length["half_lives"] == length["weights"] > 0
        if not fits or min(self.half_lives) <= 0 or self.smoothing < 0 or list(self.places) != sorted(self.places):
            raise ValueError(
                f"Forecast: places {self.places}, levels {self.levels}, half_lives {self.half_lives}, weights "
                f"{self.weights}, smoothing {self.smoothing} do not go together; wanted is what to_dict gives"
            )

    def _aged_levels(self, score: ArrayLike) -> tuple[Vector, Vector]:
        """Level of each stock's last score (D, N), NaN before the first, and the days since."""
        place = _places(np.asarray(score, dtype=np.float64), self.smoothing)
        own = np.interp(place, _normal(self.places), self.levels) if self.places else np.zeros_like(place)
        row = np.arange(len(place))[:, None]
        last = np.maximum.accumulate(np.where(np.isnan(place), -1, row), axis=0)
        level = np.take_along_axis(own, last.clip(min=0), axis=0)
        return np.where(last < 0, np.nan, level), (row - last).astype(np.float64)


# --- the score as places


def _normal(place: ArrayLike) -> Vector:
    """Quantiles of the normal distribution; a place of 0 or 1 counts as just inside."""
    value = torch.as_tensor(np.asarray(place, dtype=np.float64)).clamp(1e-9, 1 - 1e-9)
    return torch.special.ndtri(value).numpy()


def _places(score: Vector, smoothing: float) -> Vector:
    """Place smoothed scores among those of their day, as normal scores (D, N); NaN where the day has no score."""
    share = rank_shares(np.where(np.isnan(score), np.nan, smoothed(score, smoothing)))
    count = np.count_nonzero(~np.isnan(share), axis=1)[:, None]
    return _normal(share - 0.5 / np.maximum(count, 1))


# --- what portfolios of the score earn


def _excess(step: Vector, mask: NDArray[np.bool_]) -> Vector:
    """Take off the day's mean return of the stocks in the mask: (D, N), 0 where not known, NaN on a day without any."""
    inside = mask & np.isfinite(step)
    count = inside.sum(axis=1, keepdims=True)
    mean = np.where(inside, step, 0.0).sum(axis=1, keepdims=True) / np.where(count, count, np.nan)
    return np.where(np.isfinite(step), step, mean) - mean


def _bins(place: Vector) -> NDArray[np.int64]:
    """Tell the bin (D, N) of each place; the last one where there is none."""
    return np.searchsorted(_normal(EDGES[1:-1]), place)


def _earned(place: Vector, mask: NDArray[np.bool_], excess: Vector, ages: int, *, bins: bool = False) -> Vector:
    """Return (D, K, 1) of each day on the places of k days before: the slope; NaN where there is none.

    With `bins` (D, K, 1 + B): after the slope the mean of each bin's stocks less that of all.
    """
    days, entered = len(place), mask & ~np.isnan(place)
    number = _bins(place) if bins else None
    earned = np.full((days, ages, len(EDGES) if bins else 1), np.nan)
    with np.errstate(invalid="ignore"):
        for day in np.flatnonzero(entered.any(axis=1)):
            own = np.flatnonzero(entered[day])
            centred = place[day, own] - place[day, own].mean()
            held = (centred / (centred**2).sum())[None]
            if number is not None:
                inside = number[day, own] == np.arange(len(EDGES) - 1)[:, None]
                held = np.concatenate([held, inside / inside.sum(axis=1, keepdims=True) - 1.0 / len(own)])
            later = np.arange(int(day), min(int(day) + ages, days))
            earned[later, later - day] = excess[day : day + ages][:, own] @ held.T
    return earned


def _pooled(earned: Vector, weight: Vector) -> tuple[Vector, Vector]:
    """Weighted least squares of what was earned (D, K, ...) on weights (K,) over all days and ages.

    Returns: the value (...) whose product with the weight an age earns; by day, what each contributes to its error.
    """
    there = ~np.isnan(earned)
    weight = weight.reshape(-1, *[1] * (earned.ndim - 2))
    total = (there * weight**2).sum(axis=1)
    gain = np.where(there, earned * weight, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        value = gain.sum(axis=0) / total.sum(axis=0)
        return value, (gain - total * value) / total.sum(axis=0)


def sum_covariance(parts: Vector, lags: int | None = None) -> Vector:
    """Covariance (J, J) of the sums over days of parts (D, J), neighbouring days included (Newey and West 1987).

    `lags`: days that may resemble each other; None: floor(4 (T / 100)^(2/9)), T the days on which any part is not 0.

    >>> sum_covariance(np.array([[0.25], [-0.25], [0.25], [-0.25]]), 0).round(4).tolist()  # the error of a mean of +-1
    [[0.3333]]
    """
    days = max(int(np.count_nonzero(parts.any(axis=1))), 2)
    lags = math.floor(4 * (days / 100) ** (2 / 9)) if lags is None else lags
    total = parts.T @ parts
    for lag in range(1, lags + 1):
        cross = parts[lag:].T @ parts[:-lag]
        total += (1 - lag / (lags + 1)) * (cross + cross.T)
    return total * days / (days - 1)


def _error(parts: Vector) -> float:
    """Tell the standard error of the sum over days of parts (D,)."""
    return float(np.sqrt(sum_covariance(parts[:, None])[0, 0]))


# --- level and decay


def _gain(place: Vector, mask: NDArray[np.bool_], excess: Vector) -> tuple[float, float]:
    """Mean return a day of one standard deviation of the places over the next `HELD` days, and its standard error."""
    gain, parts = _pooled(_earned(place, mask, excess, HELD)[..., 0], np.ones(HELD))
    return (float(gain), _error(parts)) if np.isfinite(gain) else (-np.inf, 0.0)


def _fitted(place: Vector, mask: NDArray[np.bool_], excess: Vector, ends: Sequence[int]) -> dict[str, Any]:
    """Find a forecast's attributes but the smoothing; none where no return followed a score."""
    earned = _earned(place, mask, excess, ends[-1], bins=True)
    days = int((~np.isnan(earned[..., 0])).any(axis=1).sum())
    if days < LEAST_DAYS:
        return {}
    measured = _Measured.of(earned[..., 0], ends)
    if measured is None:
        return {}
    fit = _decay(measured)
    decay = Forecast(half_lives=fit["half_lives"], weights=fit["weights"]).decay(np.arange(ends[-1]))
    value, parts = _pooled(earned, decay)
    t = float(value[0]) / max(_error(parts[:, 0]), LEAST_ERROR)
    entered = mask & ~np.isnan(place)
    number = _bins(place)[entered]
    count = np.bincount(number, minlength=len(EDGES) - 1)
    used = np.flatnonzero((count > 0) & np.isfinite(value[1:]))
    centre = np.bincount(number, place[entered], minlength=len(count))[used] / count[used]
    share, covariance = count[used] / count[used].sum(), sum_covariance(parts[:, 1 + used])
    slope = fit["level"] * max(0.0, 1.0 - (fit["error"] / max(fit["level"], 1e-18)) ** 2)
    told = torch.special.ndtr(torch.from_numpy(centre)).numpy()
    level = _levels(value[1 + used], covariance, np.sqrt(12.0) * (told - 0.5), share, slope)
    every = np.interp(_normal((np.arange(1000) + 0.5) / 1000), centre, level)
    starts = [0, *ends[:-1]][: len(measured.slope)]
    return {
        "places": tuple(told.tolist()),
        "levels": tuple(level.tolist()),
        **{name: fit[name] for name in ("half_lives", "weights", "half_life_error")},
        "persistence": _persistence(place),
        "spread": float(every.std()),
        "slope": fit["level"],
        "slope_error": fit["error"],
        "t": t,
        "significant": bool(t >= T_SIGNIFICANT and days >= FEWEST_DAYS),
        "days": days,
        "bins": _rows(told, share, value[1 + used], np.sqrt(np.diag(covariance))),
        "curve": _rows(starts, ends[: len(starts)], measured.slope, np.sqrt(np.diag(measured.covariance))),
    }


def _persistence(place: Vector) -> float:
    """Mean over days of the correlation of places (D, N) with those of the next day; 0 where there is none."""
    both = ~np.isnan(place[1:] + place[:-1])
    today, next_day = (np.where(both, grid, 0.0) for grid in (place[:-1], place[1:]))
    size = np.sqrt((today**2).sum(axis=1) * (next_day**2).sum(axis=1))
    return float(((today * next_day).sum(axis=1)[size > 0] / size[size > 0]).mean()) if (size > 0).any() else 0.0


def _rows(*columns: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(zip(*([float(x) for x in column] for column in columns), strict=True))


def _rising_days(horizons: Sequence[int]) -> tuple[int, ...]:
    for days in horizons:
        check_number("a horizon", days, "[1, inf)", whole=True, hint=" (days after the entry)")
    if not horizons or list(horizons) != sorted(set(horizons)):
        raise ValueError(f"horizons are {list(horizons)!r}; they must rise, such as {HORIZONS}")
    return tuple(horizons)


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class _Measured:
    """Slopes between each two horizons (J,), their covariance (J, J), and the share of each age in them (J, K)."""

    slope: Vector
    covariance: Vector
    share: Vector

    @classmethod
    def of(cls, earned: Vector, ends: Sequence[int]) -> Self | None:
        """Measure what was earned (D, K) up to each end; those that fewer than `LEAST_DAYS` reach are left out.

        Returns: None where all are.
        """
        age, starts = np.arange(earned.shape[1]), np.array([0, *ends[:-1]])[:, None]
        inside = (age >= starts) & (age < np.array(ends)[:, None])
        there = ~np.isnan(earned)
        seen = inside * np.count_nonzero(there, axis=0)
        used = np.count_nonzero(there @ inside.T, axis=0) >= LEAST_DAYS
        if not used.any():
            return None
        value, parts = zip(*(_pooled(earned, row.astype(np.float64)) for row in inside[used]), strict=True)
        covariance = sum_covariance(np.stack(parts, axis=1))
        np.fill_diagonal(covariance, np.maximum(np.diag(covariance), LEAST_ERROR**2))
        return cls(np.array(value), covariance, seen[used] / seen[used].sum(1, keepdims=True))

    def left(self, half_life: Vector) -> Vector:
        """Share of the level that is left in each slope, (..., J)."""
        return 2.0 ** (-np.arange(self.share.shape[1]) / half_life[..., None]) @ self.share.T


HALF_LIVES = np.geomspace(0.25, 160.0, 141)


def _decay(measured: _Measured) -> dict[str, Any]:
    """Level of one standard deviation with its error, half-lives and weights: least squares by the slopes' errors.

    One exponential; two where the data refuse one in the direction of two by `CLEAR` errors.
    """
    variance = np.diag(measured.covariance)
    left, prior = measured.left(HALF_LIVES), (np.log(HALF_LIVES / USUAL) / np.log(FACTOR)) ** 2
    levels = ((left / variance) @ measured.slope / (left**2 / variance).sum(axis=1)).clip(min=0.0)
    gap = measured.slope - levels[:, None] * left
    best = int(((gap**2 / variance).sum(axis=1) + prior).argmin())
    level, half_life, curve = float(levels[best]), float(HALF_LIVES[best]), levels[best] * left[best]
    nearby = measured.left(half_life * np.exp(np.array([-0.01, 0.01])))
    slopes = np.stack([left[best], level * (nearby[1] - nearby[0]) / 0.02], axis=1) / np.sqrt(variance)[:, None]
    bread = np.linalg.inv(slopes.T @ slopes + np.diag([0.0, 1 / np.log(FACTOR) ** 2]))
    correlation = measured.covariance / np.sqrt(np.outer(variance, variance))
    error = np.sqrt(np.diag(bread @ slopes.T @ correlation @ slopes @ bread))
    spread = half_life * float(error[1]) if level > 0 else None  # nothing has no half-life
    one = {"half_lives": (half_life,), "weights": (1.0,), "half_life_error": spread}
    two = _two_decays(measured, curve)
    return {"level": level, "error": float(error[0])} | one | two


def _two_decays(measured: _Measured, one: Vector) -> dict[str, Any]:
    """Level, half-lives and weights of two exponentials; nothing where one (its curve (J,)) will do."""
    variance = np.diag(measured.covariance)
    lives = HALF_LIVES[::5]
    left = measured.left(lives) / np.sqrt(variance)
    target = measured.slope / np.sqrt(variance)
    fast, slow = np.triu_indices(len(lives), 1)
    a, b, c = (left[fast] ** 2).sum(1), (left[slow] ** 2).sum(1), (left[fast] * left[slow]).sum(1)
    u, v = left[fast] @ target, left[slow] @ target
    det = a * b - c**2
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (b * u - c * v) / det, (a * v - c * u) / det
    gap = ((target - first[:, None] * left[fast] - second[:, None] * left[slow]) ** 2).sum(axis=1)
    gap[~((first > 0) & (second > 0) & (det > 0))] = np.inf
    best = int(gap.argmin())
    if not np.isfinite(gap[best]):
        return {}
    curve = (first[best] * left[fast[best]] + second[best] * left[slow[best]]) * np.sqrt(variance)
    towards = (curve - one) / variance
    if towards @ (measured.slope - one) < CLEAR * np.sqrt(towards @ measured.covariance @ towards):
        return {}
    level = first[best] + second[best]
    return {
        "level": float(level),
        "half_lives": (float(lives[fast[best]]), float(lives[slow[best]])),
        "weights": (float(first[best] / level), float(second[best] / level)),
        "half_life_error": None,
    }


def _levels(found: Vector, covariance: Vector, place: Vector, share: Vector, slope: float) -> Vector:
    """Levels (B,) by bin: the line of a slope plus what the bins found deviate from theirs, shrunk by errors; rising.

    The line is straight in shares of the stocks, not in normal scores: the few best ones, which are bought, are not
    taken to be better than the next ones before it is seen.

    Args:
        found: (B,) mean excess return of each bin.
        covariance: (B, B) of them.
        place: (B,) mean place of each bin's stocks.
        share: (B,) of stocks.
        slope: of the line, shrunk.
    """
    centred = place - share @ place
    line = np.outer(centred, share * centred) / (share @ centred**2)
    off = np.eye(len(place)) - line - share  # less their own line and mean
    gap, variance = off @ found, np.diag(off @ covariance @ off.T)
    precision = 1.0 / np.maximum(variance, 1e-18)
    spread = max(0.0, ((gap**2 - variance) * precision**2).sum() / (precision**2).sum())
    level = _rising(slope * centred + gap * spread / (spread + variance + 1e-18), share)
    return level - share @ level


def _rising(value: Vector, weight: Vector) -> Vector:
    """Closest rising values (B,) by weighted squares: the highest, over where a block begins, of its lowest means."""
    total, mass = (np.concatenate([[0.0], np.cumsum(x)]) for x in (value * weight, weight))
    first, last = np.arange(len(value))[:, None], np.arange(len(value))[None]
    with np.errstate(invalid="ignore"):  # no value has no mean
        mean = (total[last + 1] - total[first]) / (mass[last + 1] - mass[first])
    mean[first > last] = np.inf
    lowest = np.minimum.accumulate(mean[:, ::-1], axis=1)[:, ::-1]  # from each first, over lasts from here on
    return np.where(first <= last, lowest, -np.inf).max(axis=0)
