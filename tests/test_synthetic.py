"""The embedded market: units, rules, membership, determinism, the oracle, and loading through qlib."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qlib_ext.cli import main
from qlib_ext.rules import limit_down_price, limit_up_price, price_limit
from qlib_ext.synthetic import (
    FIELDS,
    MACRO,
    ensure_market,
    is_market,
    macro_table,
    macro_text,
    make_market,
    oracle,
    regime_at_close,
    simulate,
)

SMALL = {"n_stocks": 60, "start": "2021-05-06", "years": 1.2, "seed": 3}
TINY = {"n_stocks": 30, "years": 0.5}


@pytest.fixture(scope="module")
def market():
    return simulate(**SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_market(tmp_path_factory.mktemp("provider") / "market", **SMALL)


@pytest.fixture(scope="module")
def default():
    return simulate()


def _read(folder, code, field):
    """First calendar position and values of one binary file."""
    raw = np.fromfile(folder / "features" / code.lower() / f"{field}.day.bin", dtype="<f4")
    return int(raw[0]), raw[1:]


def _calendar(folder):
    return (folder / "calendars" / "day.txt").read_text().split()


def _spans(folder, name):
    lines = (folder / "instruments" / f"{name}.txt").read_text().splitlines()
    return [tuple(line.split("\t")) for line in lines]


def test_files_hold_the_units_of_the_community(market, folder):
    days, n_checked = _calendar(folder), 0
    for code, first, last in _spans(folder, "all"):
        start, close = _read(folder, code, "close")
        fields = {name: _read(folder, code, name)[1] for name in FIELDS}
        assert (days[start], days[start + len(close) - 1]) == (first, last)
        assert {len(values) for values in fields.values()} == {len(close)}
        assert close[0] == np.float32(1.0)
        on = np.isfinite(close)
        left, right = fields["volume"] * fields["vwap"], 10.0 * fields["amount"]
        np.testing.assert_allclose(left[on], right[on], rtol=1e-6)
        raw = (close / fields["factor"])[on].astype(float)
        np.testing.assert_allclose(raw, np.round(raw, 2), rtol=1e-6)
        lots = (fields["volume"] * fields["factor"])[on].astype(float)
        np.testing.assert_allclose(lots, np.rint(lots), rtol=1e-6)
        traded = close[on].astype(float)
        np.testing.assert_allclose(fields["change"][on][1:], traded[1:] / traded[:-1] - 1.0, atol=1e-6)
        np.testing.assert_allclose(fields["adjclose"][on] / fields["adjclose"][0], traded, rtol=1e-6)
        n_checked += on.sum()
    assert n_checked == np.isfinite(market.bars["close"]).sum()


def test_bars_are_consistent(default):
    bars = default.bars
    on = np.isfinite(bars["close"])
    for name in ("open", "close", "vwap"):
        assert (bars["low"][on] <= bars[name][on] + 1e-9).all()
        assert (bars[name][on] <= bars["high"][on] + 1e-9).all()
    assert bars["low"][on].min() >= 0.01
    assert (bars["lots"][on] >= 1).all()
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(bars[name][on], np.round(bars[name][on], 2), atol=1e-9)


def test_suspended_days_are_nan_in_all_fields_but_factor(market):
    fields = market.fields()
    days = np.arange(len(market.days))[:, None]
    listed = (days >= market.setup.first) & (days <= market.setup.last)
    suspended = listed & np.isnan(fields["close"])
    assert 0.002 < suspended.sum() / listed.sum() < 0.03
    for name in FIELDS:
        assert np.isnan(fields[name][~listed]).all(), name
        expected = np.zeros if name == "factor" else np.ones
        assert (np.isnan(fields[name][suspended]) == expected(suspended.sum(), bool)).all(), name


def test_prices_stay_within_the_limits_of_their_board_and_day(default):
    bars, setup = default.bars, default.setup
    on = np.isfinite(bars["close"])
    for side, price, field, sign in (
        ("up", limit_up_price, "high", 1),
        ("down", limit_down_price, "low", -1),
    ):
        limit = price_limit(default.codes, default.days, listed_days=setup.age, side=side)
        bound = price(bars["reference"], limit)
        assert (sign * (bound - bars[field])[on] >= -1e-9).all()
        share = (np.abs(bars["close"] - bound) < 1e-9)[on].mean()
        assert 0.002 < share < 0.015
    chinext = np.char.startswith(default.codes, "SZ30")
    reform = default.days >= np.datetime64("2020-08-24")
    change = np.abs(bars["close"] / bars["reference"] - 1.0)
    old = setup.age > 60
    assert np.nanmax(np.where(old[~reform][:, chinext], change[~reform][:, chinext], 0)) < 0.102
    assert np.nanmax(np.where(old[reform][:, chinext], change[reform][:, chinext], 0)) > 0.15


def test_actions_leave_adjusted_returns_continuous(default):
    bars, fields = default.bars, default.fields()
    before = pd.DataFrame(bars["close"]).ffill().shift().to_numpy()
    split = bars["reference"] < 0.9 * before  # ex-rights today, by a stock dividend
    assert split.sum() > 30
    raw = (bars["close"] / before - 1.0)[split]
    adjusted = fields["close"] / pd.DataFrame(fields["close"]).ffill().shift().to_numpy() - 1.0
    assert np.median(raw) < -0.15
    assert abs(np.median(adjusted[split])) < 0.02 and np.abs(adjusted[split]).max() < 0.21
    np.testing.assert_allclose(adjusted[split], fields["change"][split], atol=1e-12)
    cash = (bars["reference"] < before - 0.005) & ~split
    assert cash.sum() > 200


def test_the_market_looks_like_the_real_one(default):
    bars, old = default.bars, default.setup.age > 60
    on = np.isfinite(bars["close"])
    turnover = bars["lots"] * 100.0 * bars["vwap"]
    assert 0.5e8 < np.median(turnover[on]) < 2e8 and 1.5e8 < turnover[on].mean() < 4e8
    change = bars["close"] / bars["reference"] - 1.0
    deviation = pd.DataFrame(np.where(old, change, np.nan)).std()
    assert 0.020 < np.nanmedian(deviation) < 0.026
    assert 3.0 < pd.Series(change[on & old]).kurt() < 15.0
    index = default.index["change"]
    assert 0.15 < index.std() * 243**0.5 < 0.21
    assert abs(pd.Series(index).autocorr(1)) < 0.1
    assert np.corrcoef(np.log(bars["cap"][on]), np.log(turnover[on]))[0, 1] > 0.5
    boards = {code[:4] for code in default.codes} | {code[:2] for code in default.codes}
    assert {"SH60", "SZ00", "SZ30", "SH68", "BJ"} <= boards
    beijing = np.char.startswith(default.codes, "BJ")
    assert (default.days[default.setup.first[beijing]] >= np.datetime64("2021-11-15")).all()
    per_year = pd.DatetimeIndex(default.days).year.value_counts()
    assert per_year.between(238, 247).all()
    assert (default.setup.first > 0).sum() > 10 and default.setup.doomed.sum() > 3


def test_index_membership_is_point_in_time(default, tmp_path):
    folder = make_market(tmp_path / "m")
    spans = _spans(folder, "csi300")
    days, members = np.array(_calendar(folder)), default.members
    column = {code: k for k, code in enumerate(default.codes)}
    rebuilt = np.zeros_like(members)
    for code, first, last in spans:
        rebuilt[np.searchsorted(days, first) : np.searchsorted(days, last) + 1, column[code]] = True
    np.testing.assert_array_equal(rebuilt, members)
    assert len(spans) > len({code for code, *_ in spans}) * 1.02  # some leave and come back
    changed = np.flatnonzero((members[1:] & ~members[:-1]).any(axis=1)) + 1
    assert {day[5:7] for day in days[changed]} <= {"06", "12"}
    assert {int(day[8:]) for day in days[changed]} <= set(range(15, 22))
    # at a review every member is larger than every stock left out, by the sizes of ten days before
    day = changed[2]
    size = default.bars["cap"][day - 10]
    out = ~members[day] & np.isfinite(size) & (default.setup.age[day - 10] > 60)
    out &= ~np.char.startswith(default.codes, "BJ") & (default.setup.last >= day)
    assert size[members[day]].min() > size[out].max()
    listed = {code for code, *_ in _spans(folder, "all")}
    assert "SH000300" not in listed and (folder / "features" / "sh000300" / "close.day.bin").exists()


def test_index_follows_its_members(market):
    index, bars = market.index, market.bars
    day = 30
    ids = [k for k in np.flatnonzero(market.members[day]) if np.isfinite(bars["close"][day, k])]
    change = bars["close"][day, ids] / bars["reference"][day, ids] - 1.0
    idle = [k for k in np.flatnonzero(market.members[day]) if k not in ids]
    before = bars["cap"][day, ids] / (1.0 + change)
    expected = (before * change).sum() / (before.sum() + bars["cap"][day, idle].sum())
    np.testing.assert_allclose(index["change"][day], expected, rtol=1e-9)
    np.testing.assert_allclose(index["close"][day] / index["close"][day - 1] - 1, expected, rtol=1e-9)
    np.testing.assert_allclose(index["volume"] * index["vwap"], 10 * index["amount"])
    assert (index["high"] >= np.maximum(index["open"], index["close"])).all()
    assert (index["low"] <= np.minimum(index["open"], index["close"])).all()


def _slow_oracle(market):
    """Oracle's daily IC by loops over days, from the state alone."""
    bars, found = market.bars, []
    close = bars["close"] * bars["adjustment"]
    for d in range(len(market.days) - 2):
        pairs = [
            (bars["expected"][d, k], close[d + 2, k] / close[d + 1, k] - 1.0)
            for k in range(len(market.codes))
            if np.isfinite([bars["close"][d, k], close[d + 1, k], close[d + 2, k]]).all()
        ]
        if len(pairs) >= 30:
            score, label = map(list, zip(*pairs, strict=True))
            found.append((np.corrcoef(score, label)[0, 1], pd.Series(score).corr(pd.Series(label), "spearman")))
    return np.array(found)


def test_oracle_agrees_with_a_slow_loop(market, folder):
    slow = _slow_oracle(market)
    written = json.loads((folder / "oracle.json").read_text())
    assert written["parameters"]["seed"] == 3 and written["oracle"]["days"] == len(slow)
    np.testing.assert_allclose(written["oracle"]["ic"], slow[:, 0].mean(), rtol=1e-9)
    np.testing.assert_allclose(written["oracle"]["rank_ic"], slow[:, 1].mean(), rtol=1e-9)


def _proxy_ic(market, values, window):
    """Mean daily IC of an 8-day mean of a feature with the label."""
    score = pd.DataFrame(values).rolling(window, min_periods=4 if window > 1 else 1).mean()
    label = pd.DataFrame(market.label()).where(score.notna())
    return score.where(label.notna()).corrwith(label, axis=1).iloc[20:-2].mean()


def test_the_signal_is_there_and_fades_with_liquidity(default):
    found = oracle(default)
    assert 0.13 < found["ic"] < 0.17
    assert found["top_decile_return"] > found["top_decile_return_liquid_half"] > 0.003 > found["market_return"]
    bars = default.bars
    shape = {
        "KSFT": (2 * bars["close"] - bars["high"] - bars["low"]) / bars["open"],
        "VWAP0": -bars["vwap"] / bars["close"],
    }
    for values in shape.values():
        one, eight = _proxy_ic(default, values, 1), _proxy_ic(default, values, 8)
        assert 0.03 < one < eight < 0.11
        assert eight > 1.3 * one


def test_a_slow_signal_shows_in_the_turnover_of_gains_and_pays_for_weeks(default):
    fields = default.fields()
    close, volume = (pd.DataFrame(fields[name]) for name in ("close", "volume"))
    score = (close / close.shift()).rolling(20).corr(np.log(volume / volume.shift() + 1))  # CORD20
    fast, slow = (pd.DataFrame(default.bars[name]).iloc[20:] for name in ("latent", "slow"))
    assert score.iloc[20:].corrwith(slow, axis=1).mean() > 0.5 > 5 * score.iloc[20:].corrwith(fast, axis=1).mean()
    prices = close.ffill()
    ic = {k: score.iloc[20:-21].corrwith(prices.shift(-1 - k) / prices.shift(-1) - 1, axis=1).mean() for k in (1, 20)}
    assert 0.03 < ic[1] < 0.06 and ic[20] > 2.0 * ic[1]  # the fast one's grows by half
    # half-lives: rho^7 = .48, .98^34 = .50, less what suspensions and listings blur
    for state, days in ((fast, 7), (slow, 34)):
        assert 0.4 < state.corrwith(state.shift(days), axis=1).mean() < 0.6


def test_the_slow_signal_has_draws_of_its_own(monkeypatch):
    market = simulate(**TINY, signal=0.0)
    monkeypatch.setattr("qlib_ext.synthetic.process.SLOW_RHO", 0.5)
    other = simulate(**TINY, signal=0.0)
    for name in ("open", "high", "low", "close", "vwap", "latent"):
        np.testing.assert_array_equal(market.bars[name], other.bars[name])
    assert not np.array_equal(market.bars["slow"], other.bars["slow"], equal_nan=True)
    assert not np.array_equal(market.bars["lots"], other.bars["lots"], equal_nan=True)  # where it shows


def test_without_signal_there_is_nothing_to_find():
    market = simulate(n_stocks=100, years=1.5, signal=0.0)
    assert not market.bars["expected"][np.isfinite(market.bars["expected"])].any()
    assert np.isnan(oracle(market)["ic"])
    typical = (2 * market.bars["close"] - market.bars["high"] - market.bars["low"]) / market.bars["open"]
    assert abs(_proxy_ic(market, typical, 8)) < 0.03
    assert abs(_proxy_ic(market, market.bars["latent"], 1)) < 0.03


def test_expected_uses_nothing_after_its_day():
    short, long = simulate(**TINY), simulate(n_stocks=30, years=0.5, signal=0.006)
    same = np.isfinite(short.bars["expected"]) & np.isfinite(long.bars["expected"])
    # the planted mean acts two days later: the first two days know nothing of its strength
    np.testing.assert_array_equal(short.bars["close"][:2], long.bars["close"][:2])
    assert not np.array_equal(short.bars["close"][2:], long.bars["close"][2:], equal_nan=True)
    np.testing.assert_allclose((2 * short.bars["expected"])[:2][same[:2]], long.bars["expected"][:2][same[:2]])


def _bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_arguments_give_identical_files(folder, tmp_path):
    again = make_market(tmp_path / "again", **SMALL)
    assert _bytes(again) == _bytes(folder)
    other = make_market(tmp_path / "other", **(SMALL | {"seed": 4}))
    assert _bytes(other) != _bytes(folder)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_ensure_market_builds_once_and_repairs(tmp_path):
    path = ensure_market(tmp_path / "a" / "m", **TINY)
    mark = path / "calendars" / "day.txt"
    stamp = mark.stat().st_mtime_ns
    assert ensure_market(path, **TINY) == ensure_market(path) == path and mark.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"built with \{'n_stocks': 30\}"):
        ensure_market(path, n_stocks=40)
    with pytest.raises(TypeError, match="no option 'n_stock'; close: \\['n_stocks'"):
        ensure_market(path, n_stock=40)
    facts = json.loads((path / "oracle.json").read_text())
    (path / "oracle.json").write_text(json.dumps(facts | {"version": 0}))
    assert not is_market(path)
    ensure_market(path, **TINY)
    assert is_market(path)


def _build(path):
    told = []
    ensure_market(path, **TINY, say=told.append)
    return [line.split(":")[0] for line in told]


def test_one_of_two_first_builds_waits_for_the_other_and_says_so(tmp_path):
    target = tmp_path / "m"
    old, young = (tmp_path / f".m.{letter * 12}" for letter in "ab")
    for folder in (old, young):
        (folder / "features").mkdir(parents=True)
    os.utime(old, (0, 0))
    with ProcessPoolExecutor(2) as pool:
        told = [line for lines in pool.map(_build, [target] * 4) for line in lines]
    assert told.count("scoring the oracle") == 1 and f"another process is writing {target}" in told
    assert not old.exists()
    shutil.rmtree(young)
    assert _bytes(target) == _bytes(make_market(tmp_path / "n", **TINY))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "n"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_stocks": 9}, r"n_stocks is 9; allowed: a whole number in \[10, 5500\]"),
        ({"n_stocks": 10_000}, "n_stocks is 10000"),
        ({"n_stocks": "many"}, "n_stocks is 'many'"),
        ({"years": 0}, "years is 0"),
        ({"years": -1}, "years is -1"),
        ({"start": "yesterday week"}, "start is 'yesterday week'; give an ISO date"),
        ({"start": "1980-01-01"}, "a date from 1997"),
        ({"signal": -0.1}, "signal is -0.1"),
        ({"signal": float("nan")}, "signal is nan"),
        ({"rho": 1.0}, "rho is 1.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        make_market(tmp_path / "m", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty and holds no embedded market"):
        make_market(tmp_path, **TINY)
    with pytest.raises(ValueError, match=r"mine\.txt is a file"):
        ensure_market(tmp_path / "mine.txt", **TINY)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert is_market(make_market(empty, **TINY))


@pytest.mark.parametrize("wanted", [{"n_stocks": 10, "years": 0.3}, {"start": "1998-03-02"}, {"start": "2023-01-03"}])
def test_other_sizes_and_times(wanted):
    market = simulate(**({"n_stocks": 40, "years": 1} | wanted))
    assert np.isfinite(market.bars["close"]).any(axis=0).all()
    boards = {code[:2] for code in market.codes}
    assert ("BJ" in boards) == (wanted.get("start") == "2023-01-03")


_QLIB = """
import sys, json, qlib
from qlib.data import D
qlib.init(provider_uri=sys.argv[1], region="cn", kernels=1)
names = D.list_instruments(D.instruments("all"), as_list=True)
frame = D.features(names, ["$close/$factor", "$volume*$vwap/$amount", "Ref($close,-2)/Ref($close,-1)-1"])
frame.columns = ["raw", "identity", "label"]
frame.to_pickle(sys.argv[2])
bench = D.features(["SH000300"], ["$close"])
members = D.list_instruments(D.instruments("csi300"), as_list=True)
print(json.dumps({"index": float(bench.iloc[-1, 0]), "members": len(members)}))
"""


def test_qlib_reads_it(market, folder, tmp_path):
    command = [sys.executable, "-c", _QLIB, str(folder), str(tmp_path / "frame.pkl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(found["index"], market.index["close"][-1], rtol=1e-6)
    assert found["members"] == market.members.any(axis=0).sum()
    frame = pd.read_pickle(tmp_path / "frame.pkl")  # noqa: S301
    for column, expected in (("raw", market.bars["close"]), ("label", market.label())):
        wide = frame[column].unstack("instrument").reindex(columns=list(market.codes))
        assert (wide.index.to_numpy().astype("datetime64[D]") == market.days).all()
        np.testing.assert_allclose(wide.to_numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(frame["identity"].dropna(), 10.0, rtol=1e-6)


def test_command_line(tmp_path, capsys):
    path = tmp_path / "m"
    command = ["demo-data", str(path), "--stocks", "30", "--years", "0.5"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"Built {path}" in out and "mean daily IC" in out
    assert "Too small for a workflow of its own: " in out and "qrun" not in out
    assert main(command) == 0
    assert "Already there" in capsys.readouterr().out
    assert main([*command, "--start", "20200102"]) == 0  # the same day in another form
    assert "Already there" in capsys.readouterr().out
    assert main([*command, "--seed", "8"]) == 2
    assert "add --force" in capsys.readouterr().err
    assert main([*command, "--seed", "8", "--signal", "0", "--force"]) == 0
    assert "No signal in it" in capsys.readouterr().out
    assert json.loads((path / "oracle.json").read_text())["parameters"]["seed"] == 8


@pytest.mark.parametrize("options", [["--years", "1"], ["--start", "2023-01-03", "--years", "0.9"]], ids=str)
def test_the_command_that_is_recommended_works(options, tmp_path, monkeypatch, capsys):
    path = tmp_path / "my market"
    assert main(["demo-data", str(path), "--stocks", "60", *options]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"    qlib-ext init --provider-uri '{path}'\n    qrun workflow.yaml\n")
    monkeypatch.chdir(tmp_path)
    command = next(line for line in out.splitlines() if "qlib-ext init" in line)
    assert main(shlex.split(command)[1:]) == 0
    days = _calendar(path)
    text = (tmp_path / "workflow.yaml").read_text()
    used = re.findall(r"\d{4}-\d\d-\d\d", text)
    assert len(used) >= 6 and set(used) <= set(days) and str(path) in text


def test_command_line_errors_have_no_traceback(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert main(["demo-data", str(tmp_path), "--force"]) == 2
    assert main(["demo-data", str(tmp_path / "m"), "--stocks", "3"]) == 2
    err = capsys.readouterr().err
    assert "not empty" in err and "n_stocks is 3" in err and "Traceback" not in err
    for wrong in (["demo-data", "--stocks", "many"], ["demo-dta"], []):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
    assert Path(tmp_path / "mine.txt").exists()


# --- macro series and the planted regime


def test_the_template_is_what_the_default_market_has(default):
    text = macro_text(macro_table(default.days, default.parameters["seed"]))
    template = Path(__file__).parents[1] / "workflows" / "macro_example.csv"
    assert template.read_text(encoding="utf-8") == text


def test_macro_series_have_calendars_of_their_own(market, folder):
    table = pd.read_csv(folder / MACRO, comment="#", index_col="date", parse_dates=True)
    trading = pd.DatetimeIndex(market.days)
    assert table.index[0] < trading[0] - pd.Timedelta(days=300) and table["vix"].last_valid_index() == trading[-1]
    home, abroad = (table[name].dropna().index for name in ("shibor_3m", "vix"))
    assert trading.isin(home).all() and not home[home >= trading[0]].difference(trading).size
    assert trading.difference(abroad).size and abroad[abroad >= trading[0]].difference(trading).size
    released = table[["cpi", "cpi_release"]].dropna()["cpi_release"]
    wait = (pd.to_datetime(released) - released.index).dt.days
    assert (released.index.day == 1).all() and wait.between(36, 43).all()


def test_a_market_of_an_older_release_gets_its_macro_series(tmp_path):
    path = make_market(tmp_path / "market", **TINY)
    text = (path / MACRO).read_text()
    before = (path / "oracle.json").stat().st_mtime_ns
    (path / MACRO).unlink()
    assert not is_market(path)
    ensure_market(path)
    assert is_market(path) and (path / MACRO).read_text() == text
    assert (path / "oracle.json").stat().st_mtime_ns == before  # nothing else is written
    ensure_market(path, regime=False)
    with pytest.raises(ValueError, match="built with {'regime': False}"):
        ensure_market(path, regime=True)
    with pytest.raises(ValueError, match="regime is 1"):
        make_market(tmp_path / "other", regime=1, **TINY)


@pytest.fixture(scope="module")
def turning():
    return simulate(n_stocks=150, years=1.0, signal=0.006, regime=True)


def test_the_regime_decides_which_signal_works(turning):
    state = regime_at_close(turning.days, turning.parameters["seed"])
    assert 0.2 < (state > 0).mean() < 0.8
    latent, expected = turning.bars["latent"], turning.bars["expected"]
    daily = pd.DataFrame(latent).corrwith(pd.DataFrame(expected), axis=1).to_numpy()
    # of s with g(s) - g(s'): about .95 / sqrt(2) = .67 when calm, -.67 when stressed, less the tilt's noise
    assert daily[state > 0].mean() > 0.5 and daily[state < 0].mean() < -0.5
    assert oracle(turning)["ic"] > 0.15  # planted as strongly as without a regime


def test_vix_of_the_day_before_shows_the_regime(turning):
    table = macro_table(turning.days, turning.parameters["seed"])
    vix = table["vix"].dropna()
    days = pd.DatetimeIndex(turning.days)
    known = vix.to_numpy()[vix.index.searchsorted(days, side="left") - 1]  # dated before the day
    state = regime_at_close(turning.days, turning.parameters["seed"])
    assert np.corrcoef(np.log(known), state)[0, 1] < -0.9
    for name in ("usdcny", "us10y", "brent", "gold"):
        other = table[name].dropna().reindex(days, method="ffill").pct_change().to_numpy()[1:]
        assert abs(np.corrcoef(other, state[1:])[0, 1]) < 0.25


def test_without_a_regime_prices_do_not_depend_on_the_macro_series(market, monkeypatch):
    monkeypatch.setattr("qlib_ext.synthetic.macro.REGIME_DAYS", 5)
    again = simulate(**SMALL)
    for name, values in market.bars.items():
        np.testing.assert_array_equal(again.bars[name], values)
