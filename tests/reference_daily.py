"""The factors of daily bars once more, slowly: one stock, one day, one window at a time, as their formulas read."""

from decimal import ROUND_HALF_UP, Decimal
from types import SimpleNamespace

import numpy as np
import pandas as pd

NAN = np.nan


def market_of(close, codes, member):
    """Mean move of the members, indices left out."""
    move = close / close.shift(1) - 1
    stocks = [not code.startswith("SH000") for code in codes]
    return move.where(member).loc[:, stocks].mean(axis=1)


def sign(x):
    return np.sign(x).where(x.abs() >= 1e-6, 0.0).where(x.notna())


def carried(price):
    return price.ffill(limit=60)


def columns_of(bar, market, age, limits):
    """Daily series of one stock; `bar` has its fields, `limits` the fraction of each day (NaN: none known)."""
    o, h, lo, c = bar["open"], bar["high"], bar["low"], bar["close"]
    f = pd.DataFrame(index=c.index)
    f["o"], f["h"], f["l"], f["c"], f["v"], f["price"] = o, h, lo, c, bar["volume"], carried(c)
    inside = (bar["vwap"] >= lo) & (bar["vwap"] <= h)
    f["y"] = bar["vwap"].where(inside, c) * bar["volume"]
    f["r"], f["m"] = c / c.shift(1) - 1, market.where(c.notna())
    f["e"], f["m1"], f["r1"] = f.r - f.m, market.shift(1).where(c.notna()), f.r.shift(1)
    f["night"], f["day"] = np.log(o / c.shift(1)), np.log(c / o)
    f["day1"], f["step"] = f.day.shift(1), np.log(f.price / f.price.shift(1)).abs()
    f["range"], f["lv"] = np.log(h / lo), np.log(bar["volume"])
    f["lv1"], f["illiq"] = f.lv.shift(1), f.r.abs() / f.y
    f["push"] = (sign(f.e) * f.y).shift(1)
    f["place"] = ((2 * c - h - lo) / (h - lo)).where(h > lo, 0.0).where(c.notna())
    f["flow"] = sign((h + lo + c) / (h + lo + c).shift(1) - 1) * f.y
    f["signed"] = sign(f.r) * f.v
    f["up_gap"] = (lo / h.shift(1) > 1 + 1e-6).where(lo.notna() & h.shift(1).notna()).astype(float)
    f["down_gap"] = (h / lo.shift(1) < 1 - 1e-6).where(h.notna() & lo.shift(1).notna()).astype(float)
    eta = (np.log(h) + np.log(lo)) / 2
    f["abdi"] = (np.log(c.shift(1)) - eta.shift(1)) * (np.log(c.shift(1)) - eta)
    f["corwin"] = [corwin_schultz(h, lo, c, t) for t in range(len(c))]
    f["halt"] = c.isna().where(age >= 1).astype(float)
    f["week"] = c.index.day_of_week
    f["limup"], f["limdown"], f["opened"] = limit_states(bar, f.price, limits)
    f["raw"], f["age"] = c / bar["factor"], age
    return f


def corwin_schultz(high, low, close, t):
    """Spread by the bars of days t - 1 and t, moved over the night."""
    if t == 0 or not np.isfinite([high.iloc[t], high.iloc[t - 1]]).all():
        return NAN
    h1, l1, c1, h2, l2 = high.iloc[t - 1], low.iloc[t - 1], close.iloc[t - 1], high.iloc[t], low.iloc[t]
    gap = c1 - h2 if c1 > h2 else c1 - l2 if c1 < l2 else 0.0
    h2, l2 = h2 + gap, l2 + gap
    beta = np.log(h1 / l1) ** 2 + np.log(h2 / l2) ** 2
    gamma = np.log(max(h1, h2) / min(l1, l2)) ** 2
    root = 3 - 2 * np.sqrt(2)
    alpha = (np.sqrt(2 * beta) - np.sqrt(beta)) / root - np.sqrt(gamma / root)
    return max(2 * (np.exp(alpha) - 1) / (1 + np.exp(alpha)), 0.0)


def limit_states(bar, price, limits):
    """Whether the day closes at limit-up, at limit-down, or was at limit-up and opened again."""
    states = []
    for t in range(len(price)):
        factor, close, limit = bar["factor"].iloc[t], bar["close"].iloc[t], limits[t]
        before = price.iloc[t - 1] if t else NAN
        if not np.isfinite([factor, close, before]).all() or np.isnan(limit):
            states.append((NAN, NAN, NAN))
            continue
        cents, close, high = (Decimal(str(round(x / factor, 2))) for x in (before, close, bar["high"].iloc[t]))
        if np.isinf(limit):
            states.append((0.0, 0.0, 0.0))
            continue
        up, down = (
            (cents * (1 + sign * Decimal(str(limit)))).quantize(Decimal("0.01"), ROUND_HALF_UP) for sign in (1, -1)
        )
        states.append((float(close >= up), float(close <= down), float(high >= up > close)))
    return np.array(states).T


def part(f, t, w, *names, least=0.5):
    """Rows of the window in which all the series are known, or None where they are too few."""
    rows = f.iloc[max(t - w + 1, 0) : t + 1]
    values = [rows[name].to_numpy(dtype=float) for name in names]
    real = np.all(np.isfinite(values), axis=0)
    if real.sum() < least * w:
        return None
    return SimpleNamespace(**{name: value[real] for name, value in zip(names, values, strict=True)}, n=real.sum())


def over(*names, least=0.5):
    """Make an oracle of a formula over the rows of the window in which the series are known."""

    def wrap(formula):
        def oracle(f, t, w):
            rows = part(f, t, w, *names, least=least)
            return NAN if rows is None else formula(rows)

        return oracle

    return wrap


def corr(x, y):
    if min(x.var() / (x**2).mean(), y.var() / (y**2).mean()) < 1e-12 or not (x.any() and y.any()):
        return NAN
    return np.corrcoef(x, y)[0, 1]


def regress(y, *xs):
    """Coefficients (the constant last) and residuals of least squares."""
    design = np.column_stack([*xs, np.ones(len(y))])
    answer = np.linalg.lstsq(design, y, rcond=None)[0]
    return answer, y - design @ answer


def grew(near, far):
    def oracle(f, t, w):
        return np.log(f.price.iloc[t - near] / f.price.iloc[t - far]) if t >= far else NAN

    return oracle


def specific(y, x):
    """Slope on the mean stock and what it leaves; nothing where that is rounding."""
    (slope, _), rest = regress(y, x)
    return slope, rest if rest.std() > 1e-6 * y.std() else 0 * rest


def third(x):
    return ((x - x.mean()) ** 3).mean() / x.std() ** 3 if x.std() > 0 else NAN


def fourth(x):
    return ((x - x.mean()) ** 4).mean() / x.std() ** 4 if x.std() > 0 else NAN


def residual_momentum(f, t, w):
    rows = part(f, t, 250, "r", "m")
    if rows is None:
        return NAN
    slope, rest = specific(rows.r, rows.m)
    old = part(f.iloc[: t - 19], t - 20, 230, "r", "m", least=0)
    return (old.r - slope * old.m).sum() / (rest.std() * np.sqrt(old.n))


def residual_reversal(f, t, w):
    rows, last = part(f, t, 60, "r", "m"), part(f, t, 20, "r", "m")
    if rows is None or last is None:
        return NAN
    slope, rest = specific(rows.r, rows.m)
    return (last.r - slope * last.m).sum() / (rest.std() * np.sqrt(last.n))


def coskewness(p):
    _, rest = specific(p.r, p.m)
    away = p.m - p.m.mean()
    return (rest * away**2).mean() / (rest.std() * (away**2).mean()) if rest.std() > 0 else NAN


def two_days(f, t, w):
    """Sum of the slopes on m and m[-1], each moment over the rows that know its two series; and the delay."""
    near, far, own = (part(f, t, w, *pair) for pair in (("r", "m"), ("r", "m1"), ("m", "m1")))
    if near is None or far is None or own is None:
        return NAN, NAN
    a, b, c = corr(near.r, near.m), corr(far.r, far.m1), corr(own.m, own.m1)
    first, second = np.linalg.solve([[1, c], [c, 1]], [a, b]) if np.isfinite([a, b, c]).all() else (NAN, NAN)
    slopes = first * near.r.std() / near.m.std() + second * far.r.std() / far.m1.std()
    return slopes, 1 - a**2 / (first * a + second * b)


def drawdown(p):
    return max(1 - p.c[i:].min() / p.c[i] for i in range(len(p.c)))


def yang_zhang(f, t, w):
    night, day, bar = part(f, t, w, "night"), part(f, t, w, "day"), part(f, t, w, "o", "h", "l", "c")
    if night is None or day is None:
        return NAN
    k = 0.34 / (1.34 + (night.n + 1) / (night.n - 1))
    return np.sqrt(night.night.var(ddof=1) + k * day.day.var(ddof=1) + (1 - k) * rogers(bar) ** 2)


def rogers(p):
    return np.sqrt((np.log(p.h / p.c) * np.log(p.h / p.o) + np.log(p.l / p.c) * np.log(p.l / p.o)).mean())


def garman(p):
    return np.sqrt((np.log(p.h / p.l) ** 2 / 2 - (2 * np.log(2) - 1) * np.log(p.c / p.o) ** 2).mean())


def since(f, t, w, name, sign):
    rows = sign * f[name].iloc[max(t - w + 1, 0) : t + 1].to_numpy()
    if np.isfinite(rows).sum() < w / 2:
        return NAN
    return (len(rows) - 1 - np.flatnonzero(rows == np.nanmax(rows))[-1]) / w


def ratio(name, near, far):
    def oracle(f, t, w):
        short, long = part(f, t, near, name), part(f, t, far, name)
        return (
            NAN if short is None or long is None else np.log(getattr(short, name).mean() / getattr(long, name).mean())
        )

    return oracle


def deviations(f, t, w):
    short, long = part(f, t, 20, "r"), part(f, t, 250, "r")
    return NAN if short is None or long is None else np.log(short.r.std(ddof=1) / long.r.std(ddof=1))


def weekday(f, t, w):
    coming = f[f.week == (f.week.iloc[t] + 1) % 5]
    rows = coming.loc[f.index[max(t - w + 1, 0)] : f.index[t]].e.dropna()
    return rows.mean() if len(rows) >= w / 10 else NAN


def variance_share(f, t, w):
    night, day = part(f, t, w, "night"), part(f, t, w, "day")
    if night is None or day is None:
        return NAN
    a, b = night.night.var(ddof=1), day.day.var(ddof=1)
    return a / (a + b)


def efficiency(f, t, w):
    rows = part(f, t, w, "step")
    return NAN if rows is None else grew(0, w)(f, t, w) / rows.step.sum()


def information(f, t, w):
    rows = part(f, t, w, "r")
    return NAN if rows is None else np.sign(grew(20, 250)(f, t, w)) * ((rows.r < -1e-6).mean() - (rows.r > 1e-6).mean())


def beside(top, bottom, formula):
    """Make an oracle of two sums, each over the rows of its own."""

    def oracle(f, t, w):
        a, b = part(f, t, w, top), part(f, t, w, bottom)
        return NAN if a is None or b is None else formula(getattr(a, top), getattr(b, bottom))

    return oracle


def down_beta(p):
    return corr(p.r, p.m) * p.r.std() / p.m.std()


def sided(sign):
    def oracle(f, t, w):
        g = f[["r", "m"]].where(sign * f.m > 0)
        rows = part(g, t, w, "r", "m", least=0.2)
        return NAN if rows is None else regress(rows.r, rows.m)[0][0]

    return oracle


def signed_root(x):
    return 2 * np.sign(x) * np.sqrt(abs(x))


def covariance(x, y):
    return ((x - x.mean()) * (y - y.mean())).mean()


def today(name):
    return lambda f, t, w: f[name].iloc[t]


def signed_variance(p):
    rise, fall = (p.r[p.r > 0] ** 2).sum(), (p.r[p.r < 0] ** 2).sum()
    return (rise - fall) / (rise + fall)


ORACLES = {
    "OVN1": today("night"), "OVN": over("night")(lambda p: p.night.mean()), "IND": over("day")(lambda p: p.day.mean()),
    "NIGHTUP": over("night", "day")(lambda p: ((p.night > 1e-6) & (p.day < -1e-6)).mean()),
    "NIGHTDOWN": over("night", "day")(lambda p: ((p.night < -1e-6) & (p.day > 1e-6)).mean()),
    "OVNVOL": over("night")(lambda p: p.night.std(ddof=1)), "INDVOL": over("day")(lambda p: p.day.std(ddof=1)),
    "OVNSHARE": variance_share, "OVNIND": over("night", "day")(lambda p: corr(p.night, p.day)),
    "INDOVN": over("night", "day1")(lambda p: corr(p.night, p.day1)),
    "MOM120": grew(20, 120), "MOM250": grew(20, 250), "IMOM250": grew(120, 250), "RET120": grew(0, 120),
    "RET250": grew(0, 250), "ACCEL120": lambda f, t, w: grew(0, 60)(f, t, w) - grew(60, 120)(f, t, w),
    "RESMOM250": residual_momentum, "RESREV20": residual_reversal, "INFO250": information,
    "REWARD": over("r")(lambda p: p.r.mean() / p.r.std(ddof=1)), "EFF": efficiency, "YEARAGO20": grew(230, 250),
    "WEEKDAY": weekday,
    "HIGH": lambda f, t, w: np.log(f.c.iloc[t] / over("h")(lambda p: p.h.max())(f, t, w)),
    "LOW": lambda f, t, w: np.log(f.c.iloc[t] / over("l")(lambda p: p.l.min())(f, t, w)),
    "HIGHAGE": lambda f, t, w: since(f, t, w, "h", 1), "LOWAGE": lambda f, t, w: since(f, t, w, "l", -1),
    "DRAWDOWN": over("c")(drawdown),
    "OVERHANG": lambda f, t, w: 1 - beside("y", "v", lambda y, v: y.sum() / v.sum())(f, t, w) / f.c.iloc[t],
    "DAYMAX": over("r")(lambda p: p.r.max()), "DAYMIN": over("r")(lambda p: p.r.min()),
    "DAYTOP": over("r")(lambda p: np.sort(p.r)[-5:].mean()), "TAIL": over("r")(lambda p: np.sort(p.r)[:3].mean()),
    "VOL": over("r")(lambda p: p.r.std(ddof=1)), "VOLSHOCK20": deviations,
    "DOWNVOL": over("r")(lambda p: np.sqrt((np.minimum(p.r, 0) ** 2).mean())), "SIGNEDVAR": over("r")(signed_variance),
    "IVOL": over("r", "m")(lambda p: specific(p.r, p.m)[1].std()),
    "PARKINSON": over("range")(lambda p: np.sqrt((p.range**2).mean() / (4 * np.log(2)))),
    "GARMAN": over("o", "h", "l", "c")(garman), "ROGERS": over("o", "h", "l", "c")(rogers), "YANGZHANG": yang_zhang,
    "RANGECV": over("range")(lambda p: p.range.std(ddof=1) / p.range.mean()), "RANGESHOCK5": ratio("range", 5, 60),
    "SKEW": over("r")(lambda p: third(p.r)), "KURT": over("r")(lambda p: fourth(p.r)),
    "ISKEW": over("r", "m")(lambda p: third(specific(p.r, p.m)[1])), "COSKEW": over("r", "m")(coskewness),
    "MBETA": over("r", "m")(lambda p: regress(p.r, p.m)[0][0]), "DOWNBETA": sided(-1), "UPBETA": sided(1),
    "MCORR": over("r", "m")(lambda p: corr(p.r, p.m)), "SUMBETA": lambda f, t, w: two_days(f, t, w)[0],
    "DELAY": lambda f, t, w: two_days(f, t, w)[1], "LAG": over("r", "m1")(lambda p: corr(p.r, p.m1)),
    "LEADS": over("r1", "m")(lambda p: corr(p.r1, p.m)), "VALUE": over("y")(lambda p: np.log(p.y.mean())),
    "VALUESHOCK5": ratio("y", 5, 60), "VALUESHOCK20": ratio("y", 20, 250),
    "VALUECV": over("y")(lambda p: p.y.std(ddof=1) / p.y.mean()),
    "VALUETOP": over("y")(lambda p: p.y.max() / p.y.sum()),
    "AMIHUD": over("illiq")(lambda p: np.log(p.illiq.mean())), "AMIHUDSHOCK20": ratio("illiq", 20, 250),
    "AMIHUDCV": over("illiq")(lambda p: p.illiq.std(ddof=1) / p.illiq.mean()),
    "ZERO": over("r")(lambda p: (abs(p.r) < 1e-6).mean()), "HALT": over("halt")(lambda p: p.halt.mean()),
    "ROLL": over("r", "r1")(lambda p: signed_root(-covariance(p.r, p.r1))),
    "CORWIN": over("corwin")(lambda p: p.corwin.mean()), "ABDI": over("abdi")(lambda p: signed_root(p.abdi.mean())),
    "REVERSE": over("e", "push")(lambda p: corr(p.e, p.push)),
    "OBV": over("signed", "v")(lambda p: p.signed.sum() / p.v.sum()),
    "CHAIKIN": over("place", "v")(lambda p: (p.place * p.v).sum() / p.v.sum()),
    "MONEY": over("flow", "y")(lambda p: p.flow.sum() / p.y.sum()),
    "VALUEMOVE": over("r", "y")(lambda p: (p.r * p.y).sum() / p.y.sum() - p.r.mean()),
    "CORRV": over("r", "lv")(lambda p: corr(p.r, p.lv)), "CORRVLAG": over("r", "lv1")(lambda p: corr(p.r, p.lv1)),
    "CORRLAGV": over("r1", "lv")(lambda p: corr(p.r1, p.lv)),
    "CORRABSV": over("r", "lv")(lambda p: corr(abs(p.r), p.lv)),
    "AUTOCORR": over("r", "r1")(lambda p: corr(p.r, p.r1)), "AUTOCORRV": over("lv", "lv1")(lambda p: corr(p.lv, p.lv1)),
    "GAPUP": over("up_gap")(lambda p: p.up_gap.mean()), "GAPDOWN": over("down_gap")(lambda p: p.down_gap.mean()),
    "UPPER": over("o", "h", "c")(lambda p: ((p.h - np.maximum(p.o, p.c)) / p.c).mean()),
    "LOWER": over("o", "l", "c")(lambda p: ((np.minimum(p.o, p.c) - p.l) / p.c).mean()),
    "BODY": over("day", "range")(lambda p: abs(p.day).sum() / p.range.sum()),
    "LOCATION": over("place")(lambda p: p.place.mean()),
    "AGE": lambda f, t, w: np.log(min(f.age.iloc[t], 1250)), "PRICE": lambda f, t, w: np.log(f.raw.iloc[t]),
    "LIMUP": today("limup"), "LIMDOWN": today("limdown"), "LIMUPS": over("limup")(lambda p: p.limup.mean()),
    "LIMDOWNS": over("limdown")(lambda p: p.limdown.mean()), "OPENED": over("opened")(lambda p: p.opened.mean()),
}  # fmt: skip


def oracle(name, window, f, t):
    """Give a factor of one stock on its day t, NaN where it does not trade or the formula gives no finite number."""
    formula = ORACLES.get(name) or ORACLES[name.removesuffix(str(window))]
    with np.errstate(all="ignore"):
        value = formula(f, t, window) if np.isfinite(f.c.iloc[t]) else NAN
    return value if np.isfinite(value) else NAN
