"""The factors of daily bars: each against its own slow oracle, and what is promised of all of them."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference_daily as slow

from qlib_ext.features import ALPHA158_NAMES, DAILY, DAILY_LEAD, DAILY_NAMES, GROUPS, chosen, daily_factors

CODES = ["SH600000", "SH600001", "SH688001", "SH688002", "SZ000001", "SZ300001", "SZ300002", "SH000300"]
DAYS = pd.bdate_range("2019-01-02", periods=430)  # over 2020-08-24, when ChiNext's limit became 20%
PRICES = ("open", "high", "low", "close", "vwap")
ROOT = Path(__file__).parents[1]


def limit_of(code, day, age):
    """Fraction of a stock's limit, as the bourses have it."""
    if code.startswith("SH000"):
        return np.nan
    if code.startswith("SH688"):
        return np.nan if day < pd.Timestamp("2019-07-22") else np.inf if age <= 5 else 0.2
    return 0.2 if code.startswith("SZ30") and day >= pd.Timestamp("2020-08-24") else 0.1


def make(seed=0, days=DAYS, codes=CODES):
    """Bars with limit days, ex-rights, halts (one of 80 days), a listing and a price that never moves; float32."""
    rng = np.random.default_rng(seed)
    shape = (len(days), len(codes))
    listed = np.where(np.array(codes) == "SH688002", 180, 0)
    age = np.where(listed == 0, np.inf, np.arange(len(days))[:, None] - listed + 1.0)
    market, raw = rng.normal(0, 0.01, len(days)), {name: np.full(shape, np.nan) for name in PRICES}
    factor = np.cumprod(np.where(rng.random(shape) < 0.01, 1.5, 1.0), axis=0)
    for n, code in enumerate(codes):
        close = 10.0 + n
        for t in range(listed[n], len(days)):
            before = np.round(close * (factor[t - 1, n] / factor[t, n] if t else 1.0), 2)
            limit = np.nan_to_num(limit_of(code, days[t], age[t, n]), nan=0.5, posinf=0.5)
            bounds = [np.floor(before * (1 + sign * limit) * 100 + 0.5 + 1e-9) / 100 for sign in (-1, 1)]
            night, day = rng.normal(market[t], 0.012), rng.normal(0, 0.02)
            jump = {0: bounds[1], 1: bounds[0], 2: before}.get(int(rng.integers(0, 25)))  # limit days, still days
            start = np.clip(np.round(before * np.exp(night), 2), *bounds)
            close = np.clip(np.round(start * np.exp(day), 2), *bounds) if jump is None else jump
            high = np.clip(np.round(max(start, close) * (1 + abs(rng.normal(0, 0.01))), 2), *bounds)
            high = bounds[1] if rng.random() < 0.03 else high
            low = np.clip(np.round(min(start, close) * (1 - abs(rng.normal(0, 0.01))), 2), *bounds)
            if code == "SZ300002":
                start = close = high = low = before
            for name, price in zip(PRICES, (start, high, low, close, (high + low + close) / 3), strict=True):
                raw[name][t, n] = price
    fields = {name: grid * factor for name, grid in raw.items()}
    fields["vwap"][:, 4] = np.nan
    fields["volume"] = rng.lognormal(10, 1, shape) / factor
    halted = rng.random(shape) < 0.03
    halted[150:230, 1], halted[250:290, 5] = True, True
    for grid in fields.values():
        grid[halted | (age < 1)] = np.nan
    fields = {name: grid.astype(np.float32) for name, grid in (fields | {"factor": factor}).items()}
    return fields, age, rng.random(shape) < 0.9


def run(fields, age=None, member=None, days=DAYS, codes=CODES, **kwargs):
    return daily_factors(fields, codes, days, member=member, age=age, **kwargs)


@pytest.fixture(scope="module")
def world():
    fields, age, member = make()
    return fields, age, member, run(fields, age, member)


@pytest.fixture(scope="module")
def series(world):
    """Daily series of each stock by the slow way."""
    fields, age, member, _ = world
    wide = {name: pd.DataFrame(grid.astype(float), DAYS, CODES) for name, grid in fields.items()}
    market = slow.market_of(wide["close"], CODES, pd.DataFrame(member, DAYS, CODES))
    out = []
    for n, code in enumerate(CODES):
        limits = [limit_of(code, day, age[t, n]) for t, day in enumerate(DAYS)]
        bar = {name: frame[code] for name, frame in wide.items()}
        out.append(slow.columns_of(bar, market, pd.Series(age[:, n], DAYS), limits))
    return out


LOOKED_AT = [*range(30, 250, 37), *range(250, 430, 13)]


@pytest.mark.parametrize("factor", DAILY, ids=lambda factor: factor.name)
def test_each_factor_is_its_formula(factor, world, series):
    got = world[3][:, :, DAILY_NAMES.index(factor.name)]
    want = np.array([[slow.oracle(factor.name, factor.window, f, t) for f in series] for t in LOOKED_AT])
    np.testing.assert_allclose(got[LOOKED_AT], want, rtol=2e-6, atol=1e-9)
    assert np.isfinite(want).sum() > 20 and np.nanstd(want) > 0


def test_the_market_has_all_that_can_happen(world):
    fields, _, _, out = world
    value = {name: out[:, :, k] for k, name in enumerate(DAILY_NAMES)}
    for name in ("LIMUP", "LIMDOWN"):
        assert np.nansum(value[name][:, :7], axis=0)[:6].min() > 2
    assert (
        np.nanmax(value["OPENED60"]) > 0 and np.nanmax(value["ZERO60"][:, 6]) == 1 and np.nanmax(value["HALT250"]) > 0.2
    )
    assert np.isnan(value["LIMUP"][:, 7]).all() and (value["LIMUP"][181:185, 3] == 0).any()
    assert (np.diff(fields["factor"], axis=0) > 0).sum() > 20


def altered(fields, after):
    """The same bars with another future: every field of every day after `after`."""
    rng = np.random.default_rng(9)
    out = {}
    for name, grid in fields.items():
        noise = rng.uniform(0.7, 1.4, grid.shape) * (rng.random(grid.shape) < 0.9)
        later = np.arange(len(grid))[:, None] > after
        out[name] = np.where(later, np.where(noise > 0, grid * noise, np.nan), grid).astype(np.float32)
    return out


def test_nothing_after_the_day_changes_any_factor(world):
    fields, age, member, before = world
    day = 300
    later = np.arange(len(DAYS))[:, None] > day
    after = run(altered(fields, day), np.where(later, 7.0, age), np.where(later, ~member, member))
    np.testing.assert_array_equal(after[: day + 1], before[: day + 1])
    rest = (after[day + 1 :] != before[day + 1 :]) & ~np.isnan(before[day + 1 :])
    assert rest.any(axis=(0, 1)).all()  # every factor


def test_where_the_rows_begin_changes_no_bit(world):
    fields, age, member, whole = world
    names = [f.name for f in DAILY]
    begin = 430 - DAILY_LEAD - 1
    some = run(
        {name: grid[begin:] for name, grid in fields.items()},
        age[begin:],
        member[begin:],
        days=DAYS[begin:],
        names=names,
    )
    np.testing.assert_array_equal(some[-1], whole[-1])
    assert np.isfinite(whole[-1]).any(axis=1).sum() > 5


def test_the_scale_of_the_adjusted_price_is_nothing(world):
    fields, age, member, whole = world
    scale = 2.0 ** np.arange(-4, 4)
    other = {name: (grid / scale if name == "volume" else grid * scale).astype("f4") for name, grid in fields.items()}
    np.testing.assert_allclose(run(other, age, member), whole, rtol=1e-7, atol=1e-12)  # where they are 0, rounding
    bent = {name: (grid / 3.7 if name == "volume" else grid * 3.7).astype("f4") for name, grid in fields.items()}
    got = run(bent, age, member)
    assert (np.isnan(got) == np.isnan(whole)).mean() > 0.9999
    for k, name in enumerate(DAILY_NAMES):
        one, two = got[:, :, k], whole[:, :, k]
        near = np.isclose(one, two, rtol=2e-3, atol=2e-4 * np.nanstd(two), equal_nan=True)
        assert near.mean() > (0.99 if name.startswith(("HIGHAGE", "LOWAGE")) else 0.999), name  # equal highs


def test_the_unit_of_volume_moves_levels_of_money_alone(world):
    fields, age, member, whole = world
    got = run(fields | {"volume": fields["volume"] / 128}, age, member)
    for k, name in enumerate(DAILY_NAMES):
        shift = {"VALUE": -np.log(128), "AMIHUD": np.log(128)}.get(name.rstrip("0123456789"), 0.0)
        np.testing.assert_allclose(got[:, :, k], whole[:, :, k] + shift, rtol=1e-5, atol=1e-6, err_msg=name)


def test_ex_rights_move_nothing_but_the_price_level(world):
    fields, age, member, whole = world
    same = {name: grid for name, grid in fields.items() if name != "factor"}
    got = run(same, age, member)  # without $factor there is no raw price, so no limit
    for k, factor in enumerate(DAILY):
        if factor.group == "survivor" and factor.name != "AGE":
            assert np.isnan(got[:, :, k]).all()
        else:
            np.testing.assert_array_equal(got[:, :, k], whole[:, :, k], err_msg=factor.name)


def test_the_order_of_stocks_is_nothing(world):
    fields, age, member, whole = world
    order = np.random.default_rng(1).permutation(len(CODES))
    got = run(
        {n: g[:, order] for n, g in fields.items()}, age[:, order], member[:, order], codes=[CODES[n] for n in order]
    )
    np.testing.assert_allclose(got, whole[:, order], rtol=1e-5, atol=1e-6)


def test_days_without_a_trade_have_no_factor_and_no_factor_is_infinite(world):
    fields, _, _, whole = world
    assert np.isnan(whole[np.isnan(fields["close"])]).all() and np.isnan(fields["close"]).any()
    assert not np.isinf(whole).any()
    there = np.isfinite(fields["close"][-1, :6])
    assert there.sum() > 2 and np.isfinite(whole[-1, :6][there]).mean() > 0.95


def test_absurd_bars_end_as_numbers_or_nothing(world):
    fields, age, member, whole = world
    for name, value in [*((name, x) for name in PRICES for x in (0.0, -5.0, np.inf, 3e38)), ("factor", 0.0)]:
        bad = {n: g.copy() for n, g in fields.items()}
        bad[name][100, 0], bad["close"][101, 0] = value, 1e-38
        got = run(bad, age, member)
        assert not np.isinf(got).any() and np.abs(np.isnan(got[-1]).sum() - np.isnan(whole[-1]).sum()) < 3, (
            name,
            value,
        )


def test_one_stock_alone_is_its_own_mean_stock():
    fields, age, _ = make()
    out = dict(
        zip(DAILY_NAMES, run({n: g[:, :1] for n, g in fields.items()}, age[:, :1], codes=CODES[:1])[-1, 0], strict=True)
    )
    assert out["MBETA250"] == out["MCORR60"] == out["DOWNBETA60"] == 1.0 and out["IVOL20"] == 0.0
    assert np.isnan(out["ISKEW60"]) and np.isnan(out["RESREV20"]) and out["WEEKDAY120"] == 0.0


@pytest.mark.parametrize("count", [1, 2, 3, 5, 19])
def test_short_histories_know_what_they_can(count):
    fields, age, _ = make()
    whole = int(np.flatnonzero(np.isfinite(fields["close"][:19]).all(axis=0))[0])
    out = run({n: g[:count] for n, g in fields.items()}, age[:count], days=DAYS[:count])
    some = {name: np.isfinite(out[-1, whole, k]) for k, name in enumerate(DAILY_NAMES)}
    assert some["PRICE"] and some["AGE"] and some["OVN1"] == (count > 1) and some["LOCATION5"] == (count > 2)
    assert some["GARMAN20"] == (count > 9) and some["VOL20"] == (count > 10)
    assert not any(some[f.name] for f in DAILY if f.window > 20)


def test_the_mean_stock_is_of_members_and_not_of_indices(world):
    fields, age, member, whole = world
    beta = DAILY_NAMES.index("MBETA60")
    wild = {n: g.copy() for n, g in fields.items()}
    for name in PRICES:
        wild[name][:, 7] *= np.exp(np.random.default_rng(0).normal(0, 0.1, len(DAYS)))
    np.testing.assert_array_equal(run(wild, age, member)[:, :7], whole[:, :7])
    out = member.copy()
    out[:, 0] = False
    left = run(fields, age, out)
    rest = run({n: g[:, 1:] for n, g in fields.items()}, age[:, 1:], member[:, 1:], codes=CODES[1:])
    np.testing.assert_allclose(left[:, 1:], rest, rtol=1e-5, atol=1e-6)
    assert np.nanmax(np.abs(left[:, :, beta] - whole[:, :, beta])) > 0.01


def test_goldens_by_hand():
    # five days: closes 10, 11 (limit-up), 11 (still), no trade, 9.9; volumes 100, 200, 400, -, 100; limit 10%
    nan = np.nan
    close = np.array([10.0, 11.0, 11.0, nan, 9.9])[:, None]
    start = np.array([10.0, 10.0, 11.0, nan, 10.0])[:, None]
    fields = {"open": start, "high": np.maximum(close, start), "low": np.minimum(close, start), "close": close}
    fields |= {"volume": np.array([100.0, 200.0, 400.0, nan, 100.0])[:, None], "factor": np.ones((5, 1))}
    out = daily_factors(fields, ["SH600000"], pd.bdate_range("2020-01-06", periods=5))[:, 0]
    value = {name: out[:, k] for k, name in enumerate(DAILY_NAMES)}

    def check(name, numbers):
        np.testing.assert_allclose(value[name], numbers, rtol=1e-6, atol=1e-9, err_msg=name)

    check("OVN1", [nan, 0.0, 0.0, nan, nan])
    check("IND5", [nan, nan, np.log(1.1) / 3, nan, (np.log(1.1) + np.log(0.99)) / 4])  # at least three days
    check("LOCATION5", [nan, nan, 1 / 3, nan, 0.0])  # 0, 1, 0, -1
    check("LIMUP", [nan, 1.0, 0.0, nan, 0.0])
    check("LIMDOWN", [nan, 0.0, 0.0, nan, 1.0])  # 9.9 is 10% below the 11 of two days before
    check("PRICE", np.log([10.0, 11.0, 11.0, nan, 9.9]))
    check("AGE", np.log([1250.0, 1250.0, 1250.0, nan, 1250.0]))  # older than the calendar


def test_groups_are_chosen_and_left_out():
    assert set(GROUPS) == {f.group for f in DAILY} and chosen() == DAILY_NAMES
    kept = chosen(exclude=["survivor", "VOL20"])
    assert not {"AGE", "PRICE", "LIMUPS20", "VOL20"} & {*kept} and "VOL60" in kept
    assert chosen(["market", "survivor"], ["survivor"]) == chosen(["market"])
    for kwargs, words in (
        ({"exclude": ["survivors"]}, "survivor"),
        ({"groups": ["markt"]}, "market"),
        ({"exclude": "survivor"}, "wanted is a list"),
        ({"groups": ["bars"], "exclude": ["bars"]}, "no factor is left"),
        ({"groups": 3}, "wanted is a list"),
    ):
        with pytest.raises(ValueError, match=words):
            chosen(**kwargs)


def test_what_cannot_be_computed_is_told():
    fields, age, member = make()
    with pytest.raises(ValueError, match="'VOL21'.*did you mean 'VOL20'"):
        run(fields, names=["VOL21"])
    with pytest.raises(ValueError, match="lack volume"):
        run({n: g for n, g in fields.items() if n != "volume"})
    with pytest.raises(ValueError, match=r"age has shape \(3, 8\); wanted \(days, stocks\) = \(430, 8\)"):
        run(fields, age[:3])


def test_names_are_of_their_own_and_windows_in_them():
    assert len(set(DAILY_NAMES)) == len(DAILY_NAMES) >= 80 and not {*DAILY_NAMES} & {*ALPHA158_NAMES}
    assert all(f.formula and re.search(r"\d{4}", f.source) for f in DAILY)


def rows_of_the_page():
    """The table of docs/factors.md, as the code has it: windows of a factor in one row."""
    rows = {}
    for f in DAILY:
        rows.setdefault((f.group, f.formula, f.source), []).append(f"`{f.name}`")
    return [
        f"| {', '.join(names)} | {group} | {formula.replace('|', '&#124;')} | {source} |"
        for (group, formula, source), names in rows.items()
    ]


def test_the_page_has_each_factor():
    text = (ROOT / "docs" / "factors.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| `")]
    assert table == rows_of_the_page()
    assert f"{len(DAILY)} factors" in text
