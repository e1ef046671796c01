"""Slow oracles of portfolio.py and evaluate.py: plain Python, written from the definitions."""

import math
from statistics import NormalDist


def fill_day(score, liquidity, *, capital, participation, top_n=None, mask=None):
    names = [
        i
        for i in range(len(score))
        if (mask is None or mask[i]) and not math.isnan(score[i]) and math.isfinite(liquidity[i]) and liquidity[i] > 0
    ]
    names.sort(key=lambda i: (-score[i], i))
    yuan = [0.0] * len(score)
    if top_n is None:
        rest = capital
        for i in names:
            yuan[i] = min(participation * liquidity[i], rest)
            rest -= yuan[i]
            if rest <= 1e-12 * capital:
                break
    else:
        names = names[:top_n]
        total = sum(liquidity[i] for i in names)
        for i in names:
            yuan[i] = min(capital * liquidity[i] / total, participation * liquidity[i])
    return yuan


def pearson(a, b, weight=None):
    weight = weight or [1.0] * len(a)
    total = sum(weight)
    mean_a = sum(w * x for w, x in zip(weight, a, strict=True)) / total
    mean_b = sum(w * x for w, x in zip(weight, b, strict=True)) / total
    cross = sum(w * (x - mean_a) * (y - mean_b) for w, x, y in zip(weight, a, b, strict=True))
    square_a = sum(w * (x - mean_a) ** 2 for w, x in zip(weight, a, strict=True))
    square_b = sum(w * (y - mean_b) ** 2 for w, y in zip(weight, b, strict=True))
    return cross / math.sqrt(square_a * square_b)


def ranks(values):
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def correlations_day(score, label, liquidity, *, base, alpha):
    real = [i for i in range(len(score)) if not math.isnan(score[i]) and math.isfinite(label[i])]
    s, r, q = ([values[i] for i in real] for values in (score, label, liquidity))
    places = sorted(range(len(r)), key=lambda i: (-r[i], i))
    rank_weight = [base ** (places.index(i) / (len(r) - 1)) for i in range(len(r))]
    logs = [math.log(x) if math.isfinite(x) and x > 0 else None for x in q]
    known = [x for x in logs if x is not None]
    level = [0.0 if x is None else (x - min(known)) / (max(known) - min(known)) for x in logs]
    liq_weight = [0.5 + 0.5 / (1 + math.exp(-alpha * v * x)) for v, x in zip(level, r, strict=True)]
    scored = sorted((i for i in range(len(score)) if not math.isnan(score[i])), key=lambda i: (-score[i], i))
    top = [i for i in scored[: math.ceil(len(scored) / 5)] if i in real]
    return {
        "ic": pearson(s, r),
        "rank_ic": pearson(ranks(s), ranks(r)),
        "wpcc": pearson(s, r, rank_weight),
        "liq_wpcc": pearson(s, r, liq_weight),
        "top20_ic": pearson([score[i] for i in top], [label[i] for i in top]),
    }


def portfolio_day(score, label, yuan, buyable, *, capital):
    both = [r for s, r in zip(score, label, strict=True) if not math.isnan(s) and math.isfinite(r)]
    market = sum(both) / len(both)
    result = {"return": 0.0, "excess": 0.0, "names_held": 0, "cash_share": 1.0, "unpriced": 0}
    for y, r, ok in zip(yuan, label, buyable, strict=True):
        if not ok or y == 0:
            continue
        earned = r if math.isfinite(r) else 0.0
        result["return"] += y * earned / capital
        result["excess"] += y * (earned - market) / capital
        result["names_held"] += 1
        result["cash_share"] -= y / capital
        result["unpriced"] += not math.isfinite(r)
    return result


def fee_cost(yuan, next_return, buy_rate, sell_rate, *, capital):
    held, costs = [0.0] * len(yuan[0]), []
    for d in range(len(yuan)):
        cost = 0.0
        for i, target in enumerate(yuan[d]):
            trade = target - held[i]
            cost += trade * buy_rate[d] if trade > 0 else -trade * sell_rate[d]
            step = next_return[d][i]
            held[i] = target * (1 + (0.0 if math.isnan(step) else step))
        costs.append(cost / capital)
    return costs


def sleeve_returns(yuan, step_return, horizon, *, capital):
    gains = [0.0] * len(yuan)
    for d in range(len(yuan)):
        for i in range(len(yuan[0])):
            value = yuan[d][i] / horizon
            for t in range(d, min(d + horizon, len(yuan))):
                step = step_return[t][i]
                step = 0.0 if math.isnan(step) else step
                gains[t] += value * step / capital
                value *= 1 + step
    return gains


def held_through(target, step, buyable, sellable, capital, score, horizon):
    """Locked holdings stay, stock by stock; the rest of the capital goes down the ranking."""
    held = [[0.0] * len(row) for row in target]
    for day in range(len(target)):
        left, wanted = capital, {}
        for n in range(len(target[0])):
            before = held[day - horizon][n] if day >= horizon else 0.0
            for at in range(day - horizon, day) if day >= horizon else ():
                before *= 1.0 + (0.0 if math.isnan(step[at, n]) else step[at, n])
            if not sellable[day, n]:
                held[day][n] = before
            elif not buyable[day, n]:
                held[day][n] = min(before, target[day, n])
            left -= held[day][n]
            if buyable[day, n]:
                wanted[n] = max(target[day, n] - held[day][n], 0.0)
        for n in sorted(wanted, key=lambda n: (9e9 if math.isnan(score[day, n]) else -score[day, n], n)):
            more = min(wanted[n], max(left, 0.0))
            held[day][n] += more
            left -= more
    return held


def slopes_by_age(score, step, mask, ages):
    """Mean over days and ages of the slope of the stocks' returns on the normal scores of that many days before."""
    days, out = len(score), []
    for first, last in ages:
        slopes = []
        for day in range(days):
            inside = [i for i in range(score.shape[1]) if mask[day, i] and step[day, i] == step[day, i]]
            if not inside:
                continue
            mean = sum(step[day, i] for i in inside) / len(inside)
            for age in range(first, last):
                scored = [] if day < age else [i for i, s in enumerate(score[day - age]) if s == s]
                if not scored:
                    continue
                order = sorted(scored, key=lambda i: score[day - age, i])
                place = {i: NormalDist().inv_cdf((order.index(i) + 0.5) / len(order)) for i in order}
                held = [i for i in order if mask[day - age, i]]
                centre = sum(place[i] for i in held) / len(held)
                square = sum((place[i] - centre) ** 2 for i in held)
                gain = sum((place[i] - centre) * (step[day, i] - mean) for i in held if step[day, i] == step[day, i])
                slopes.append(gain / square)
        out.append(sum(slopes) / len(slopes))
    return out


def account_day(held, cash, target, rank, at, *, capital, participation, rates, commission, least, b):
    """One day's trades of an account, stock by stock: (holdings, cash, fees, impact, dealt) after them.

    ``at``: by stock, dicts with liquidity and volatility (None: never known), buyable, sellable, young.
    """
    fees_paid = moved = dealt = 0.0

    def cost(i, yuan, sell):
        if yuan == 0:
            return 0.0, 0.0
        fee = rates[sell] * yuan + max(least - commission * yuan, 0.0)
        return fee, b * at[i]["volatility"] * yuan * (yuan / at[i]["liquidity"]) ** 0.5 if b else 0.0

    def dealt_of(yuan):
        return yuan if yuan > 1e-5 else 0.0

    def can(i):
        return at[i]["liquidity"] is not None and (b == 0 or at[i]["volatility"] is not None)

    held = list(held)
    for i in range(len(held)):
        if target[i] < held[i] and can(i) and at[i]["sellable"] and not at[i]["young"]:
            yuan = dealt_of(min(held[i] - target[i], participation * at[i]["liquidity"]))
            fee, impact = cost(i, yuan, True)
            if cash + yuan - fee - impact < 0:  # there is nothing to pay its costs by
                continue
            held[i] -= yuan
            cash += yuan - fee - impact
            fees_paid, moved, dealt = fees_paid + fee, moved + impact, dealt + yuan
    room = math.inf if capital is None else max(capital - sum(held), 0.0)
    wanted = [i for i in range(len(held)) if target[i] > held[i] and can(i) and at[i]["buyable"]]
    for i in sorted(wanted, key=lambda i: (math.inf if math.isnan(rank[i]) else rank[i], i)):
        wish = min(target[i] - held[i], participation * at[i]["liquidity"], room)
        low, high = 0.0, wish
        if wish + sum(cost(i, wish, False)) > cash - 0.01:
            for _ in range(200):
                middle = (low + high) / 2
                low, high = (middle, high) if middle + sum(cost(i, middle, False)) <= cash - 0.01 else (low, middle)
            wish = low
        wish = dealt_of(wish)
        fee, impact = cost(i, wish, False)
        held[i] += wish
        cash -= wish + fee + impact
        room -= wish
        fees_paid, moved, dealt = fees_paid + fee, moved + impact, dealt + wish
    return held, cash, fees_paid, moved, dealt
