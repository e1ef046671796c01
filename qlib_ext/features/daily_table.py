"""The factors of daily bars that Alpha158 lacks: name, group, window, formula, source, and how `DailyBars` measures it.

One row is a factor; docs/factors.md is this table. Words of the formulas: o, h, l, c, v are open, high, low, close and
volume, x[-k] is x of k days before; r = c / c[-1] - 1 is the move between two days that follow each other, m the mean
of r over the day's stocks, e = r - m; night = ln(o / c[-1]), day = ln(c / o); y = the value traded, vwap v where the
vwap is known, else c v; P(j, k) = ln(price[-j] / price[-k]), the price carried forward through at most 60 days without
a trade. Means, deviations, correlations are over the known days of the window. A move below 1e-6 is none.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qlib_ext.features.daily_bars import FIFTH, DailyBars, Grid


class Factor(NamedTuple):
    """A factor: `window` in days, 1 for what the day's own bar and the one before tell; `measure` gives (n, D)."""

    name: str
    group: str
    window: int
    formula: str
    source: str
    measure: Callable[[DailyBars], Grid]


def _each(
    name: str,
    group: str,
    windows: tuple[int, ...],
    formula: str,
    source: str,
    measure: Callable[[DailyBars, int], Grid],
) -> list[Factor]:
    """One factor a window, its name the name and the window."""

    def row(w: int) -> Factor:
        return Factor(f"{name}{w}", group, w, formula, source, lambda b: measure(b, w))

    return [row(w) for w in windows]


def _information(b: DailyBars) -> Grid:
    return np.sign(b.grew(20, 250)) * (b.mean("loss", 250) - b.mean("gain", 250))


def _residual_momentum(b: DailyBars) -> Grid:
    slope, rest, _ = b.specific(250)
    move, market = (b.sum(name, 250) - b.sum(name, 20) for name in ("move|market", "market|move"))
    count = b.count("move*market", 250) - b.count("move*market", 20)
    return (move - slope * market) / np.sqrt(rest * count)


def _residual_reversal(b: DailyBars) -> Grid:
    slope, rest, _ = b.specific(60)
    move, market, count = b.sum("move|market", 20), b.sum("market|move", 20), b.count("move*market", 20)
    return np.where(count >= 10, (move - slope * market) / np.sqrt(rest * count), np.nan)


def _signed_variance(b: DailyBars, w: int) -> Grid:
    rise, fall = b.mean("rise*rise", w), b.mean("fall*fall", w)
    return (rise - fall) / (rise + fall)


def _yang_zhang(b: DailyBars, w: int) -> Grid:
    n = b.count("night", w)
    k = 0.34 / (1.34 + (n + 1) / (n - 1))
    return np.sqrt(b.std("night", w) ** 2 + k * b.std("day", w) ** 2 + (1 - k) * b.mean("rogers", w))


def _night_share(b: DailyBars, w: int) -> Grid:
    night, day = b.std("night", w) ** 2, b.std("day", w) ** 2
    return night / (night + day)


def _specific_skewness(b: DailyBars, w: int) -> Grid:
    slope, rest, _ = b.specific(w)
    xxx, xxy, xyy, yyy = b.mixed(w)
    return (xxx - 3 * slope * xxy + 3 * slope**2 * xyy - slope**3 * yyy) / rest**1.5


def _coskewness(b: DailyBars, w: int) -> Grid:
    slope, rest, pair = b.specific(w)
    _, _, xyy, yyy = b.mixed(w)
    return (xyy - slope * yyy) / (np.sqrt(rest) * pair.yy)


def _two_days(b: DailyBars, w: int) -> tuple[Grid, Grid]:
    """Sum of the slopes on today's and yesterday's mean stock; the share of R^2 that yesterday's adds."""
    now, past, own = (b.pair(*names, w) for names in (("move", "market"), ("move", "market before"), _MARKETS))
    near, far, own = (p.xy / np.sqrt(p.xx * p.yy) for p in (now, past, own))
    first, second = (near - far * own) / (1 - own**2), (far - near * own) / (1 - own**2)
    slopes = first * np.sqrt(now.xx / now.yy) + second * np.sqrt(past.xx / past.yy)
    return slopes, 1 - near**2 / (first * near + second * far)


def _ratio(b: DailyBars, series: str, near: int, far: int) -> Grid:
    return np.log(b.mean(series, near) / b.mean(series, far))


def _signed_root(x: Grid) -> Grid:
    return 2 * np.sign(x) * np.sqrt(np.abs(x))


def _age(b: DailyBars) -> Grid:
    return np.log(np.minimum(b.age[:, -b.traded.shape[1] :], OLD))


_MARKETS = ("market", "market before")
OLD = 1250.0  # trading days, five years: a stock older than the calendar is as old as that
_UP, _DOWN = "closes at its limit-up price", "closes at its limit-down price"
_RULES = "rules of the exchanges by date and board; Chen, Gao, He, Jiang, Xiong 2019"

DAILY: tuple[Factor, ...] = (
    Factor("OVN1", "overnight", 1, "night", "Lou, Polk, Skouras 2019", lambda b: b.ago("night")),
    *_each(
        "OVN", "overnight", (5, 20, 60), "mean of night", "Lou, Polk, Skouras 2019", lambda b, w: b.mean("night", w),
    ),
    *_each("IND", "overnight", (5, 20, 60), "mean of day", "Lou, Polk, Skouras 2019", lambda b, w: b.mean("day", w)),
    *_each(
        "NIGHTUP", "overnight", (20, 60), "share of days with night > 0 and day < 0",
        "Akbas, Boehmer, Jiang, Koch 2022", lambda b, w: b.mean("night up", w),
    ),
    *_each(
        "NIGHTDOWN", "overnight", (20, 60), "share of days with night < 0 and day > 0",
        "Akbas, Boehmer, Jiang, Koch 2022", lambda b, w: b.mean("day up", w),
    ),
    *_each(
        "OVNVOL", "overnight", (20, 60), "deviation of night", "Lockwood, Linn 1990", lambda b, w: b.std("night", w),
    ),
    *_each("INDVOL", "overnight", (20,), "deviation of day", "Lockwood, Linn 1990", lambda b, w: b.std("day", w)),
    *_each(
        "OVNSHARE", "overnight", (60,), "variance of night over that of night plus that of day", "Lockwood, Linn 1990",
        _night_share,
    ),
    *_each(
        "OVNIND", "overnight", (60,), "correlation of night and day", "Berkman, Koch, Tuttle, Zhang 2012",
        lambda b, w: b.corr("night", "day", w),
    ),
    *_each(
        "INDOVN", "overnight", (60,), "correlation of night and day[-1]", "Lou, Polk, Skouras 2019",
        lambda b, w: b.corr("night", "day before", w),
    ),
    Factor("MOM120", "momentum", 120, "P(20, 120)", "Jegadeesh, Titman 1993", lambda b: b.grew(20, 120)),
    Factor("MOM250", "momentum", 250, "P(20, 250)", "Jegadeesh, Titman 1993", lambda b: b.grew(20, 250)),
    Factor("IMOM250", "momentum", 250, "P(120, 250)", "Novy-Marx 2012", lambda b: b.grew(120, 250)),
    Factor("RET120", "momentum", 120, "P(0, 120)", "De Bondt, Thaler 1985", lambda b: b.grew(0, 120)),
    Factor("RET250", "momentum", 250, "P(0, 250)", "De Bondt, Thaler 1985", lambda b: b.grew(0, 250)),
    Factor(
        "ACCEL120", "momentum", 120, "P(0, 60) - P(60, 120)", "Gettleman, Marks 2006",
        lambda b: b.grew(0, 60) - b.grew(60, 120),
    ),
    Factor(
        "RESMOM250", "momentum", 250,
        "sum of r - beta m but for the last 20 days, over its deviation and root of the days; beta and deviation of "
        "the regression of r on m over the window", "Blitz, Huij, Martens 2011", _residual_momentum,
    ),
    Factor(
        "RESREV20", "momentum", 60,
        "sum of r - beta m over its deviation and root of the days; beta and deviation of 60 days",
        "Blitz, Huij, Lansdorp, Verbeek 2013", _residual_reversal,
    ),
    Factor(
        "INFO250", "momentum", 250, "sign of P(20, 250) times (share of days down less share of days up)",
        "Da, Gurun, Warachka 2014", _information,
    ),
    *_each(
        "REWARD", "momentum", (60, 250), "mean of r over its deviation", "Rachev, Jasic, Stoyanov, Fabozzi 2007",
        lambda b, w: b.mean("move", w) / b.std("move", w),
    ),
    *_each(
        "EFF", "momentum", (20, 60), "P(0, window) over the sum of |P(0, 1)|", "Kaufman 1995",
        lambda b, w: b.grew(0, w) / np.where(np.isfinite(b.mean("path", w)), b.sum("path", w), np.nan),
    ),
    Factor(
        "YEARAGO20", "season", 250, "P(230, 250), the 20 days that followed 250 days ago", "Heston, Sadka 2008",
        lambda b: b.grew(230, 250),
    ),
    *_each(
        "WEEKDAY", "season", (120, 250),
        "mean of e on the weekday after today's; at least a tenth of the window's days",
        "Keloharju, Linnainmaa, Nyberg 2016", lambda b, w: b.coming_weekday(w),
    ),
    *_each(
        "HIGH", "highs", (120, 250), "ln(c / largest h)", "George, Hwang 2004",
        lambda b, w: np.log(b.ago("close") / b.highest("high", w)[0]),
    ),
    *_each(
        "LOW", "highs", (120, 250), "ln(c / smallest l)", "George, Hwang 2004",
        lambda b, w: np.log(b.ago("close") / b.highest("low", w, -1)[0]),
    ),
    *_each(
        "HIGHAGE", "highs", (250,), "days since the largest h over the window", "Bhootra, Hur 2013",
        lambda b, w: b.highest("high", w)[1] / w,
    ),
    *_each(
        "LOWAGE", "highs", (250,), "days since the smallest l over the window", "Bhootra, Hur 2013",
        lambda b, w: b.highest("low", w, -1)[1] / w,
    ),
    *_each(
        "DRAWDOWN", "highs", (60, 250), "largest fall of c from a high to a later low, as a share",
        "Magdon-Ismail, Atiya 2004", lambda b, w: b.drawdown(w),
    ),
    *_each(
        "OVERHANG", "highs", (20, 60, 250), "1 - sum of y / sum of v / c, the gain over the mean price paid",
        "Grinblatt, Han 2005", lambda b, w: 1 - b.mean("value", w) / b.mean("volume", w) / b.ago("close"),
    ),
    *_each(
        "DAYMAX", "extremes", (20, 60), "largest r", "Bali, Cakici, Whitelaw 2011",
        lambda b, w: b.highest("move", w)[0],
    ),
    *_each(
        "DAYMIN", "extremes", (20, 60), "smallest r", "Bali, Cakici, Whitelaw 2011",
        lambda b, w: b.highest("move", w, -1)[0],
    ),
    *_each(
        "DAYTOP", "extremes", (20,), "mean of the five largest r", "Bali, Cakici, Whitelaw 2011",
        lambda b, w: b.largest("move", w, 5),
    ),
    *_each(
        "TAIL", "extremes", (60,), "mean of the three smallest r, a twentieth of the days",
        "Atilgan, Bali, Demirtas, Gunaydin 2020", lambda b, w: b.largest("move", w, 3, -1),
    ),
    *_each(
        "VOL", "volatility", (20, 60, 250), "deviation of r", "Blitz, van Vliet 2007", lambda b, w: b.std("move", w),
    ),
    Factor(
        "VOLSHOCK20", "volatility", 250, "ln(deviation of r of 20 days / of 250 days)",
        "Ang, Hodrick, Xing, Zhang 2006", lambda b: np.log(b.std("move", 20) / b.std("move", 250)),
    ),
    *_each(
        "DOWNVOL", "volatility", (20, 60), "root of the mean of min(r, 0)^2", "Ang, Chen, Xing 2006",
        lambda b, w: np.sqrt(b.mean("fall*fall", w)),
    ),
    *_each(
        "SIGNEDVAR", "volatility", (20, 60), "sum of r^2 of days up less that of days down, over both",
        "Bollerslev, Li, Zhao 2020", _signed_variance,
    ),
    *_each(
        "IVOL", "volatility", (20, 60, 250), "root of the mean square of what the regression of r on m leaves",
        "Ang, Hodrick, Xing, Zhang 2006", lambda b, w: np.sqrt(b.specific(w)[1]),
    ),
    *_each(
        "PARKINSON", "volatility", (20, 60), "root of the mean of ln(h / l)^2 / (4 ln 2)", "Parkinson 1980",
        lambda b, w: np.sqrt(b.mean("range*range", w) / (4 * np.log(2))),
    ),
    *_each(
        "GARMAN", "volatility", (20,), "root of the mean of ln(h / l)^2 / 2 - (2 ln 2 - 1) day^2", "Garman, Klass 1980",
        lambda b, w: np.sqrt(b.mean("garman", w)),
    ),
    *_each(
        "ROGERS", "volatility", (20,), "root of the mean of ln(h / c) ln(h / o) + ln(l / c) ln(l / o)",
        "Rogers, Satchell 1991", lambda b, w: np.sqrt(b.mean("rogers", w)),
    ),
    *_each(
        "YANGZHANG", "volatility", (20,),
        "root of var(night) + k var(day) + (1 - k) ROGERS^2, k = .34 / (1.34 + (n + 1) / (n - 1)) of n nights",
        "Yang, Zhang 2000", _yang_zhang,
    ),
    *_each(
        "RANGECV", "volatility", (20, 60), "deviation of ln(h / l) over its mean",
        "Baltussen, van Bekkum, van der Grient 2018", lambda b, w: b.std("range", w) / b.mean("range", w),
    ),
    Factor(
        "RANGESHOCK5", "volatility", 60, "ln(mean ln(h / l) of 5 days / of 60 days)", "Parkinson 1980",
        lambda b: _ratio(b, "range", 5, 60),
    ),
    *_each(
        "SKEW", "moments", (60, 250), "skewness of r", "Amaya, Christoffersen, Jacobs, Vasquez 2015",
        lambda b, w: b.moment("move", w, 3),
    ),
    *_each(
        "KURT", "moments", (60, 250), "kurtosis of r (3 for a normal one)",
        "Amaya, Christoffersen, Jacobs, Vasquez 2015", lambda b, w: b.moment("move", w, 4),
    ),
    *_each(
        "ISKEW", "moments", (60, 250), "skewness of what the regression of r on m leaves",
        "Boyer, Mitton, Vorkink 2010", _specific_skewness,
    ),
    *_each(
        "COSKEW", "moments", (60, 250),
        "mean of u (m - mean m)^2 over deviation of u and variance of m, u what the regression of r on m leaves",
        "Harvey, Siddique 2000", _coskewness,
    ),
    *_each(
        "MBETA", "market", (60, 250), "slope of r on m", "Sharpe 1964; Frazzini, Pedersen 2014",
        lambda b, w: b.slope("move", "market", w),
    ),
    *_each(
        "DOWNBETA", "market", (60, 250), "slope of r on m over days with m < 0; at least a fifth of the window",
        "Ang, Chen, Xing 2006", lambda b, w: b.slope("move", "down market", w, FIFTH),
    ),
    *_each(
        "UPBETA", "market", (250,), "slope of r on m over days with m > 0; at least a fifth of the window",
        "Ang, Chen, Xing 2006", lambda b, w: b.slope("move", "up market", w, FIFTH),
    ),
    *_each(
        "MCORR", "market", (60, 250), "correlation of r and m", "Roll 1988", lambda b, w: b.corr("move", "market", w),
    ),
    *_each(
        "SUMBETA", "market", (60,), "sum of the slopes of r on m and m[-1]", "Dimson 1979",
        lambda b, w: _two_days(b, w)[0],
    ),
    *_each(
        "DELAY", "market", (250,), "1 - R^2 of r on m over R^2 on m and m[-1]", "Hou, Moskowitz 2005",
        lambda b, w: _two_days(b, w)[1],
    ),
    *_each(
        "LAG", "market", (60, 250), "correlation of r and m[-1]", "Lo, MacKinlay 1990; Hou 2007",
        lambda b, w: b.corr("move", "market before", w),
    ),
    *_each(
        "LEADS", "market", (60,), "correlation of r[-1] and m", "Lo, MacKinlay 1990; Hou 2007",
        lambda b, w: b.corr("before", "market", w),
    ),
    *_each(
        "VALUE", "liquidity", (20, 250), "ln(mean of y)", "Brennan, Chordia, Subrahmanyam 1998",
        lambda b, w: np.log(b.mean("value", w)),
    ),
    Factor(
        "VALUESHOCK5", "liquidity", 60, "ln(mean y of 5 days / of 60 days)", "Gervais, Kaniel, Mingelgrin 2001",
        lambda b: _ratio(b, "value", 5, 60),
    ),
    Factor(
        "VALUESHOCK20", "liquidity", 250, "ln(mean y of 20 days / of 250 days)", "Gervais, Kaniel, Mingelgrin 2001",
        lambda b: _ratio(b, "value", 20, 250),
    ),
    *_each(
        "VALUECV", "liquidity", (20, 60), "deviation of y over its mean", "Chordia, Subrahmanyam, Anshuman 2001",
        lambda b, w: b.std("value", w) / b.mean("value", w),
    ),
    *_each(
        "VALUETOP", "liquidity", (20, 60), "largest y over the sum of y", "Chordia, Subrahmanyam, Anshuman 2001",
        lambda b, w: b.highest("value", w)[0] / b.sum("value", w),
    ),
    *_each(
        "AMIHUD", "liquidity", (20, 60, 250), "ln(mean of |r| / y)", "Amihud 2002",
        lambda b, w: np.log(b.mean("impact", w)),
    ),
    Factor(
        "AMIHUDSHOCK20", "liquidity", 250, "ln(mean |r| / y of 20 days / of 250 days)", "Bali, Peng, Shen, Tang 2014",
        lambda b: _ratio(b, "impact", 20, 250),
    ),
    *_each(
        "AMIHUDCV", "liquidity", (60,), "deviation of |r| / y over its mean", "Akbas, Armstrong, Petkova 2011",
        lambda b, w: b.std("impact", w) / b.mean("impact", w),
    ),
    *_each(
        "ZERO", "liquidity", (20, 60, 250), "share of days with |r| < 1e-6", "Lesmond, Ogden, Trzcinka 1999",
        lambda b, w: b.mean("still", w),
    ),
    *_each(
        "HALT", "liquidity", (250,), "share of the days since listing without a trade", "Liu 2006",
        lambda b, w: b.mean("halted", w),
    ),
    *_each(
        "ROLL", "liquidity", (20, 60), "2 root(x) with the sign of x = -cov(r, r[-1])", "Roll 1984",
        lambda b, w: _signed_root(-b.pair("move", "before", w).xy),
    ),
    *_each(
        "CORWIN", "liquidity", (20, 60),
        "mean of the spread S of two days' ranges, at least 0, nights taken out (equations 14, 18)",
        "Corwin, Schultz 2012", lambda b, w: b.mean("spread", w),
    ),
    *_each(
        "ABDI", "liquidity", (20, 60),
        "2 root(x) with the sign of x = mean of (ln c[-1] - g[-1]) (ln c[-1] - g), g = (ln h + ln l) / 2",
        "Abdi, Ranaldo 2017", lambda b, w: _signed_root(b.mean("middle", w)),
    ),
    *_each(
        "REVERSE", "liquidity", (60,), "correlation of e and sign(e[-1]) y[-1]", "Pastor, Stambaugh 2003",
        lambda b, w: b.corr("excess", "push", w),
    ),
    *_each(
        "OBV", "flow", (20, 60), "sum of sign(r) v over the sum of v", "Granville 1963",
        lambda b, w: b.mean("signed", w) / b.mean("volume|move", w),
    ),
    *_each(
        "CHAIKIN", "flow", (20, 60), "sum of (2 c - h - l) / (h - l) v over the sum of v", "Chaikin 1982",
        lambda b, w: b.mean("location*volume", w) / b.mean("volume", w),
    ),
    *_each(
        "MONEY", "flow", (20, 60), "sum of y with the sign of the change of h + l + c, over the sum of y",
        "Quong, Soudack 1989", lambda b, w: b.mean("flow", w) / b.mean("value|flow", w),
    ),
    *_each(
        "VALUEMOVE", "flow", (20, 60), "mean of r weighted by y, less mean of r", "Blume, Easley, O'Hara 1994",
        lambda b, w: b.mean("move*value", w) / b.mean("value|move", w) - b.mean("move", w),
    ),
    *_each(
        "CORRV", "flow", (20, 60), "correlation of r and ln v", "Karpoff 1987",
        lambda b, w: b.corr("move", "logvolume", w),
    ),
    *_each(
        "CORRVLAG", "flow", (20, 60), "correlation of r and ln v[-1]", "Gallant, Rossi, Tauchen 1992",
        lambda b, w: b.corr("move", "logvolume before", w),
    ),
    *_each(
        "CORRLAGV", "flow", (20, 60), "correlation of r[-1] and ln v", "Gallant, Rossi, Tauchen 1992",
        lambda b, w: b.corr("before", "logvolume", w),
    ),
    *_each(
        "CORRABSV", "flow", (60,), "correlation of |r| and ln v", "Karpoff 1987",
        lambda b, w: b.corr("size", "logvolume", w),
    ),
    *_each(
        "AUTOCORR", "flow", (20, 60), "correlation of r and r[-1]", "Lo, MacKinlay 1988",
        lambda b, w: b.corr("move", "before", w),
    ),
    *_each(
        "AUTOCORRV", "flow", (60,), "correlation of ln v and ln v[-1]", "Lo, Wang 2000",
        lambda b, w: b.corr("logvolume", "logvolume before", w),
    ),
    *_each(
        "GAPUP", "bars", (20, 60), "share of days with l above h[-1]", "Nison 1991", lambda b, w: b.mean("gap up", w),
    ),
    *_each(
        "GAPDOWN", "bars", (20, 60), "share of days with h below l[-1]", "Nison 1991",
        lambda b, w: b.mean("gap down", w),
    ),
    *_each("UPPER", "bars", (20,), "mean of (h - max(o, c)) / c", "Nison 1991", lambda b, w: b.mean("upper", w)),
    *_each("LOWER", "bars", (20,), "mean of (min(o, c) - l) / c", "Nison 1991", lambda b, w: b.mean("lower", w)),
    *_each(
        "BODY", "bars", (20,), "sum of |day| over the sum of ln(h / l)", "Nison 1991",
        lambda b, w: b.mean("body", w) / b.mean("range", w),
    ),
    *_each(
        "LOCATION", "bars", (5, 20), "mean of (2 c - h - l) / (h - l), 0 where h = l", "Williams 1973",
        lambda b, w: b.mean("location", w),
    ),
    Factor("AGE", "survivor", 1, "ln(trading days since listing, at most 1,250)", "Ritter 1991", _age),
    Factor(
        "PRICE", "survivor", 1, "ln(c / factor), yuan", "Birru, Wang 2016",
        lambda b: np.log(b.ago("close") / b.factor[:, -b.traded.shape[1]:]),
    ),
    Factor("LIMUP", "survivor", 1, f"1 where the day {_UP}, else 0", _RULES, lambda b: b.ago("limit up")),
    Factor("LIMDOWN", "survivor", 1, f"1 where the day {_DOWN}, else 0", _RULES, lambda b: b.ago("limit down")),
    *_each(
        "LIMUPS", "survivor", (20, 60, 250), f"share of days on which it {_UP}", _RULES,
        lambda b, w: b.mean("limit up", w),
    ),
    *_each(
        "LIMDOWNS", "survivor", (20, 60, 250), f"share of days on which it {_DOWN}", _RULES,
        lambda b, w: b.mean("limit down", w),
    ),
    *_each(
        "OPENED", "survivor", (20, 60), "share of days with h at the limit-up price and c below it", _RULES,
        lambda b, w: b.mean("opened", w),
    ),
)  # fmt: skip
DAILY_NAMES = tuple(factor.name for factor in DAILY)
GROUPS = tuple(dict.fromkeys(factor.group for factor in DAILY))
