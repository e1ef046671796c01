"""The day loop of the embedded market: from the setup to raw bars, liquidity and the planted signals.

The equations stand in the docstring of `qlib_ext.synthetic`. Everything is vectorised over stocks; the loop runs over
days, since a price limit binds on the price of the day before. Prices are raw yuan. Legend: `D` days, `N` stocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qlib_ext.rules import limit_down_price, limit_up_price
from qlib_ext.synthetic.listings import DAYS_A_YEAR, BoolArray, FloatArray, IntArray, Setup

CONVEXITY = 0.5  # b in g(s) = s + b * max(s, 0)^2
_G_MEAN = CONVEXITY * 0.5
_G_STD = float(np.sqrt(1.0 + 4.0 * CONVEXITY / np.sqrt(2.0 * np.pi) + 1.25 * CONVEXITY**2))
MARKET_VOLATILITY = 0.18  # a year
MARKET_DRIFT = 0.03  # a year, of the log price
SECTORS = 6
SECTOR_VOLATILITY = 0.005  # a day
MEDIAN_IDIOSYNCRATIC = 0.0115  # a day
MEDIAN_TURNOVER = 1.25e8  # yuan a day, before the days of large moves add to it
SUSPENDED_SHARE = 0.01
NEWS_SHARE, NEWS_SIZE, NEWS_GOOD = 0.045, 0.06, 0.65  # of stock days; mean absolute move; share of good news
CARRY = 0.3  # of a move cut off at the limit comes on the next day
MAGNET = 3.0  # a move beyond 70% of the limit is drawn towards it
TRACE_BODY, TRACE_SHADOW, TRACE_VWAP = 0.08, 0.16, 0.05  # how much of s a day's shape shows
TRACE_VOLUME = 0.15  # how much of the slow signal a day's turnover shows, per standard deviation of its return
SLOW_SHARE = 0.2  # of the planted variance, at the median liquidity
SLOW_RHO = 0.98  # from day to day: a half-life of 34 days
NOISE_BODY, NOISE_SHADOW, NOISE_VWAP = 0.30, 0.70, 0.25
BAR_FIELDS = "open high low close vwap lots adjustment reference cap latent slow expected planted".split()


@dataclass(frozen=True)
class Traits:
    """What a stock keeps for life, each (N,): loadings, daily volatility, log yuan a day, shares, prices."""

    beta: FloatArray
    sector: IntArray
    volatility: FloatArray
    level: FloatArray
    shares: FloatArray
    price: FloatArray
    pop: FloatArray


def fast_return(latent: FloatArray, liquidity: FloatArray, listed: BoolArray, signal: float) -> FloatArray:
    """Mean that the fast signal plants, (N,): signal * (1.5 - rank of liquidity) * (g(s) - E g) / sd g.

    0 where not listed. `liquidity` (N,) yuan a day, ranked from 0 (least) to 1 (most) among listed stocks.
    """
    rank = np.zeros(len(latent))
    stocks = np.flatnonzero(listed)
    order = stocks[np.argsort(liquidity[stocks], kind="stable")]
    rank[order] = np.arange(len(order)) / max(len(order) - 1, 1)
    shape = (latent + CONVEXITY * np.maximum(latent, 0.0) ** 2 - _G_MEAN) / _G_STD
    return np.where(listed, signal * (1.5 - rank) * shape, 0.0)


def shape_ahead(latent: FloatArray, rho: float) -> FloatArray:
    """Expect (g(s') - E g) / sd g of a later s' = rho s + sqrt(1 - rho^2) e, (N,)."""
    from scipy.special import ndtr  # here, since the commands start without it

    mean, spread = rho * latent, max(1.0 - rho**2, 1e-12) ** 0.5
    density = np.exp(-0.5 * (mean / spread) ** 2) / np.sqrt(2.0 * np.pi)
    square = (mean**2 + spread**2) * ndtr(mean / spread) + mean * spread * density  # E max(s', 0)^2
    return np.asarray((mean + CONVEXITY * square - _G_MEAN) / _G_STD)


def regime_return(latent: FloatArray, other: FloatArray, regime: float, *args: Any) -> FloatArray:
    """Fast mean (N,) under a regime of +1 or -1: one latent signal pays, the other costs as much, or turned.

    `args`: liquidity, listed, signal, as of `fast_return`.
    """
    own, against = (fast_return(s, *args) for s in ((latent, other) if regime > 0 else (other, latent)))
    return (own - against) / np.sqrt(2.0)


def draw_traits(rng: np.random.Generator, setup: Setup) -> Traits:
    """Draw the traits: log-normal size, turnover that goes with size, small and growth stocks wilder."""
    n_stocks = len(setup.codes)
    size = rng.standard_normal(n_stocks) - 0.5 * setup.doomed
    growth = np.array([not code.startswith(("SH60", "SZ00")) for code in setup.codes])
    spread = 0.25 * rng.standard_normal(n_stocks) - 0.08 * size + 0.15 * growth
    level = np.log(MEDIAN_TURNOVER) + 0.85 * size + 0.65 * rng.standard_normal(n_stocks)
    price = np.maximum(12.0 * np.exp(0.6 * rng.standard_normal(n_stocks) + 0.3 * growth), 3.0)
    cap = 9e9 * np.exp(size)
    return Traits(
        beta=1.0 + 0.25 * rng.standard_normal(n_stocks),
        sector=rng.integers(0, SECTORS, n_stocks),
        volatility=MEDIAN_IDIOSYNCRATIC * np.exp(spread),
        level=np.where(np.char.startswith(setup.codes, "BJ"), level - 2.0, level),
        shares=np.round(cap / price / 1e4) * 1e4,
        price=_cent(price),
        pop=np.exp(0.45 + 0.35 * rng.standard_normal(n_stocks)) - 1.0,
    )


def market_returns(rng: np.random.Generator, n_days: int) -> FloatArray:
    """Market factor, (D,): clustered volatility, Student-t, scaled to the yearly volatility and drift."""
    shocks = rng.standard_t(5, n_days)
    state, path = 0.0, np.empty(n_days)
    for day, innovation in enumerate(rng.standard_normal(n_days)):
        state = 0.97 * state + 0.09 * innovation
        path[day] = state
    raw = np.clip(shocks, -6, 6) * np.exp(path)
    unit = (raw - raw.mean()) / raw.std()
    mean = (MARKET_DRIFT + 0.5 * MARKET_VOLATILITY**2) / DAYS_A_YEAR
    return mean + MARKET_VOLATILITY / np.sqrt(DAYS_A_YEAR) * unit


class Process:
    """One run of the market: `run()` fills `bars`, name -> (D, N), NaN where a stock does not trade."""

    def __init__(
        self,
        setup: Setup,
        rng: np.random.Generator,
        *,
        signal: float,
        rho: float,
        slow: np.random.Generator,
        regime: FloatArray | None = None,
        extra: np.random.Generator | None = None,
    ) -> None:
        """Take the setup; `slow` draws the slow signal, `regime` (D,) of +-1 brings in a second fast one (`extra`)."""
        self.setup, self.rng, self.signal, self.rho = setup, rng, signal, rho
        self.slow_rng = slow
        self.regime, self.extra = regime, extra
        n_days, n_stocks = setup.age.shape
        self.traits = draw_traits(rng, setup)
        self.market = market_returns(rng, n_days)
        self.bars = {name: np.full((n_days, n_stocks), np.nan) for name in BAR_FIELDS}
        self.reference = self.traits.price.copy()  # last close after ex-rights
        self.adjustment = np.ones(n_stocks)
        self.shares = self.traits.shares.copy()
        self.latent: FloatArray = np.asarray(rng.standard_normal(n_stocks))
        self.other: FloatArray = self.latent if extra is None else np.asarray(extra.standard_normal(n_stocks))
        self.slow: FloatArray = np.asarray(slow.standard_normal(n_stocks))
        self.vol_state: FloatArray = np.asarray(0.35 * rng.standard_normal(n_stocks))
        self.turnover_state: FloatArray = np.asarray(0.45 * rng.standard_normal(n_stocks))
        self.market_turnover = 0.0
        self.pending = np.where(setup.first > 0, self.traits.pop, 0.0)
        self.due = np.zeros((2, n_stocks))  # planted means of today and of tomorrow
        self.left = np.zeros(n_stocks, dtype=np.int64)  # days of suspension left
        self.spell = np.zeros(n_stocks)  # length of the suspension going on
        self.comeback = np.zeros(n_stocks)  # length of the one that ended the day before
        self.liquidity = np.exp(self.traits.level)

    def run(self, say: Callable[[str], object]) -> dict[str, FloatArray]:
        """Simulate every day and return the bars; `say` hears of each day."""
        count = len(self.setup.days)
        for day in range(count):
            self._step(day)
            say(f"day {day + 1} of {count} simulated")
        return self.bars

    def _step(self, day: int) -> None:
        listed = (self.setup.first <= day) & (day <= self.setup.last)
        self._corporate_actions(day)
        trading = listed & ~self._suspended(day, listed)
        self._evolve()
        sigma = self.traits.volatility * np.exp(self.vol_state)
        wanted = self._wanted_return(day, sigma)
        bar = self._prices(day, wanted, np.hypot(sigma, 0.0125))
        bar["reference"] = self.reference.copy()
        one_price = bar["high"] == bar["low"]
        bar["lots"] = self._lots(day, bar, np.hypot(sigma, 0.0125), one_price)
        self._close_day(day, bar, wanted, trading, listed)

    def _corporate_actions(self, day: int) -> None:
        """Ex-rights: the reference falls to (price - cash) / ratio, rounded; the adjustment makes it up."""
        if day not in self.setup.actions:
            return
        stocks, ratio, cash_yield = self.setup.actions[day]
        price = self.reference[stocks]
        ratio = np.where(price >= 4.0, ratio, 1.0)
        cash = np.rint(price * np.minimum(cash_yield, 0.08) * 100.0) / 100.0
        after = _cent((price - cash) / ratio)
        self.reference[stocks] = after
        self.adjustment[stocks] *= price / after
        self.shares[stocks] *= ratio

    def _suspended(self, day: int, listed: BoolArray) -> BoolArray:
        """Spells of 1 to 20 days, SUSPENDED_SHARE of all stock days; none in the first 60 days of a stock."""
        n_stocks = len(listed)
        length = np.minimum(self.rng.geometric(1 / 8, n_stocks), 20)
        starts = self.rng.random(n_stocks) < SUSPENDED_SHARE / 7.5
        starts &= listed & (self.left == 0) & (self.setup.age[day] > 60) & (day > 0)
        starts &= self.setup.last - day > 25
        self.left[starts] = length[starts]
        self.spell[starts] = length[starts]
        suspended = self.left > 0
        self.left[suspended] -= 1
        self.comeback = np.where(suspended, 0.0, self.spell)
        self.spell[~suspended] = 0.0
        return suspended

    def _evolve(self) -> None:
        """Move the states on: latent signals, volatility, turnover (all AR(1))."""
        n_stocks = len(self.latent)
        draws = self.rng.standard_normal((3, n_stocks))
        self.latent = self.rho * self.latent + np.sqrt(1.0 - self.rho**2) * draws[0]
        fresh = self.latent if self.extra is None else self.extra.standard_normal(n_stocks)
        self.other = self.latent if self.extra is None else self.rho * self.other + np.sqrt(1.0 - self.rho**2) * fresh
        kick = np.sqrt(1.0 - SLOW_RHO**2) * self.slow_rng.standard_normal(n_stocks)
        self.slow = SLOW_RHO * self.slow + kick
        self.vol_state = 0.98 * self.vol_state + 0.35 * np.sqrt(1.0 - 0.98**2) * draws[1]
        self.turnover_state = 0.95 * self.turnover_state + 0.45 * np.sqrt(1.0 - 0.95**2) * draws[2]
        self.market_turnover = 0.96 * self.market_turnover + 0.06 * self.rng.standard_normal()

    def _wanted_return(self, day: int, sigma: FloatArray) -> FloatArray:
        """Return without limits: market, sector, own part, news, planted mean, what limits held back."""
        n_stocks = len(sigma)
        sectors = SECTOR_VOLATILITY * self.rng.standard_normal(SECTORS)
        own = sigma * self.rng.standard_t(4, n_stocks) / np.sqrt(2.0)
        news = np.where(self.rng.random(n_stocks) < NEWS_GOOD, 1.0, -1.0) * self.rng.gamma(2.0, 0.5, n_stocks)
        news = NEWS_SIZE * np.where(self.rng.random(n_stocks) < NEWS_SHARE, news, 0.0)
        own += news - NEWS_SIZE * NEWS_SHARE * (2.0 * NEWS_GOOD - 1.0)
        own += 0.5 * np.sqrt(self.comeback) * sigma * self.rng.standard_normal(n_stocks)
        decline = np.where(self.setup.doomed & (self.setup.last - day < 90), -0.008, 0.0)
        common = self.traits.beta * self.market[day] + sectors[self.traits.sector]
        total = common + own + decline + self.due[0] + self.pending
        near = 0.7 * np.nan_to_num(self.setup.limit_up[day], nan=0.1, posinf=9.0)
        pull = (MAGNET - 1.0) * np.maximum(np.abs(total) - near, 0.0)
        return np.maximum(total + np.sign(total) * np.minimum(pull, 0.05), -0.6)

    def _prices(self, day: int, wanted: FloatArray, sigma: FloatArray) -> dict[str, FloatArray]:
        """Raw bar of the day within its limits; body, shadows and vwap carry the trace of the signal."""
        reference, n_stocks = self.reference, len(sigma)
        top = limit_up_price(reference, self.setup.limit_up[day])
        bottom = np.maximum(limit_down_price(reference, self.setup.limit_down[day]), 0.01)
        close = np.clip(_cent(reference * (1.0 + wanted)), bottom, top)
        noise = self.rng.standard_normal((3, n_stocks))
        shadow = sigma * 0.5 * self.rng.gamma(1.5, 1 / 1.5, (2, n_stocks))
        realised = close / reference - 1.0
        body = 0.6 * realised + sigma * (TRACE_BODY * self.latent + NOISE_BODY * noise[0])
        open_ = np.clip(_cent(close / (1.0 + np.maximum(body, -0.5))), bottom, top)
        tilt = np.exp(TRACE_SHADOW * self.latent + NOISE_SHADOW * noise[1])
        high = np.minimum(_cent(np.maximum(open_, close) * (1.0 + shadow[0] / tilt)), top)
        low = np.maximum(_cent(np.minimum(open_, close) * np.maximum(1.0 - shadow[1] * tilt, 0.5)), bottom)
        beyond = np.abs(wanted - realised)
        locked = (close == top) | (close == bottom)
        one_price = locked & (self.rng.random(n_stocks) < np.clip(0.1 + 6.0 * beyond, 0.0, 0.95))
        open_, high, low = (np.where(one_price, close, price) for price in (open_, high, low))
        shift = sigma * (TRACE_VWAP * self.other + NOISE_VWAP * noise[2])
        inner = 0.03 * (high - low)
        vwap = np.clip((open_ + high + low + close) / 4 * (1.0 - shift), low + inner, high - inner)
        return {"open": open_, "high": high, "low": low, "close": close, "vwap": vwap}

    def _lots(self, day: int, bar: dict[str, FloatArray], sigma: FloatArray, one_price: BoolArray) -> FloatArray:
        """Whole lots of 100 shares, (N,): log-normal turnover, more on large moves, little on locked days.

        The slow signal moves it from days of losses to days of gains.
        """
        gain = (bar["close"] / self.reference - 1.0) / sigma
        move = np.minimum(np.abs(gain), 4.0)
        grown = np.log(self.reference * self.shares / (self.traits.price * self.traits.shares))
        fresh = 1.2 * np.exp(-np.maximum(self.setup.age[day], 0) / 20.0)
        noise = 0.25 * self.rng.standard_normal(len(move))
        log_yuan = self.traits.level + 0.6 * grown + self.turnover_state + self.market_turnover
        log_yuan += TRACE_VOLUME * self.slow * np.clip(gain, -2.0, 2.0)
        yuan = np.exp(log_yuan + noise + fresh + 0.3 * (move - 0.8) - 2.0 * one_price)
        return np.maximum(np.rint(np.minimum(yuan / bar["vwap"], 0.3 * self.shares) / 100.0), 1.0)

    def _close_day(
        self, day: int, bar: dict[str, FloatArray], wanted: FloatArray, trading: BoolArray, listed: BoolArray
    ) -> None:
        """Record the day and carry over price, liquidity, what the limits held back and the planted means."""
        realised = bar["close"] / self.reference - 1.0
        held_back = np.where(_locked(bar, wanted, realised), CARRY * (wanted - realised), 0.0)
        self.pending = np.where(trading, held_back, self.pending)
        self.reference = np.where(trading, bar["close"], self.reference)
        turnover = bar["lots"] * 100.0 * bar["vwap"]
        self.liquidity = np.where(trading, self.liquidity + 2 / 21 * (turnover - self.liquidity), self.liquidity)
        plan = (self.liquidity, listed, self.signal * np.sqrt(1.0 - SLOW_SHARE))
        mean = fast_return(self.latent, *plan)
        if self.regime is not None:
            mean = regime_return(self.latent, self.other, float(self.regime[day]), *plan)
        mean = mean + np.where(listed, self.signal * np.sqrt(SLOW_SHARE) * self.slow, 0.0)
        self.due = np.stack([self.due[1], mean])
        bar |= {"latent": self.latent, "slow": self.slow, "expected": mean}
        for name, values in bar.items():
            self.bars[name][day] = np.where(trading, values, np.nan)
        self.bars["adjustment"][day] = np.where(listed, self.adjustment, np.nan)
        self.bars["planted"][day] = np.where(listed, mean, np.nan)
        self.bars["cap"][day] = np.where(listed, self.reference * self.shares, np.nan)


def _cent(price: FloatArray) -> FloatArray:
    """Round to the nearest 0.01 yuan, half up, at least 0.01."""
    return np.asarray(np.maximum(np.floor(price * 100.0 + 0.5), 1.0) / 100.0)


def _locked(bar: dict[str, FloatArray], wanted: FloatArray, realised: FloatArray) -> BoolArray:
    """Whether the limit cut the move off, beyond what rounding does, (N,)."""
    return np.abs(wanted - realised) > 0.0075 / bar["close"] + 1e-9
