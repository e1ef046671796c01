"""check-data: every defect is planted in a copy of a small embedded market, and only its check may speak."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qlib_ext import cli
from qlib_ext.check_data import CHECKS, Check, Tally, check_data, check_start, thin_days
from qlib_ext.synthetic import make_market

PRICES = ("open", "high", "low", "close", "vwap")
BAR = (*PRICES, "volume", "amount", "change")


@pytest.fixture
def market(market_copy):
    return market_copy


def codes(folder):
    """Codes of the stocks with a bar on every day of the calendar's ends, in order."""
    days = (folder / "calendars" / "day.txt").read_text().split()
    lines = [line.split("\t") for line in (folder / "instruments" / "all.txt").read_text().splitlines()]
    return [code for code, first, last in lines if (first, last) == (days[0], days[-1])]


def every(folder):
    return [line.split("\t")[0] for line in (folder / "instruments" / "all.txt").read_text().splitlines()]


def file_of(folder, code, field):
    return folder / "features" / code.lower() / f"{field}.day.bin"


def values_of(folder, code, field):
    return np.fromfile(file_of(folder, code, field), "<f4")[1:]


def edit(folder, code, **changes):
    """Put other values in place: field -> function of all its values (float64) that gives the new ones."""
    for field, change in changes.items():
        raw = np.fromfile(file_of(folder, code, field), "<f4")
        new = np.asarray(change(raw[1:].astype(np.float64)))
        np.concatenate([raw[:1], new]).astype("<f4").tofile(file_of(folder, code, field))


def at(days, change):
    """Apply `change` on some days only."""

    def apply(values):
        out = values.copy()
        out[days] = change(out[days])
        return out

    return apply


def on_all(folder, fields, change, stocks=None):
    for code in stocks or every(folder):
        edit(folder, code, **dict.fromkeys(fields, change))


def rewrite(file, change):
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))


def calendar(folder, change):
    rewrite(folder / "calendars" / "day.txt", change)


def listing(folder, change):
    rewrite(folder / "instruments" / "all.txt", change)


def main_board(folder):
    return next(code for code in codes(folder) if code.startswith("SH60"))


def quiet_day(folder, code):
    """A day late in the calendar on which the stock trades, as on the days around it, and $factor stays."""
    close, factor = values_of(folder, code, "close"), values_of(folder, code, "factor")
    for day in range(len(close) - 5, 60, -1):
        near = slice(day - 2, day + 3)
        if np.isfinite(close[near]).all() and len(set(factor[near])) == 1:
            return day
    raise AssertionError(code)


def one_value(folder, field, change):
    """Change one value of one stock, on a quiet day."""
    code = codes(folder)[0]
    edit(folder, code, **{field: at(quiet_day(folder, code), change)})


# --- the plants: each gives the checks that must speak (no others of severity error or warning may)


def calendar_duplicate(folder):
    calendar(folder, lambda lines: [*lines, lines[-1]])
    return {"calendar_duplicate", "stale_market"}  # the second last day has no bars


def calendar_order(folder):
    calendar(folder, lambda lines: [lines[1], lines[0], *lines[2:]])
    return {"calendar_order"}


def calendar_gap(folder):
    later = lambda line: str((pd.Timestamp(line) + pd.Timedelta(days=28)).date())  # noqa: E731
    calendar(folder, lambda lines: [*lines[:-10], *map(later, lines[-10:])])
    return {"calendar_gap", "list_ends"}


def without(folder, gone):
    """Leave positions out of the calendar and of all files."""
    gone = list(gone)
    calendar(folder, lambda lines: [line for n, line in enumerate(lines) if n not in gone])
    for file in folder.glob("features/*/*.bin"):
        numbers = np.fromfile(file, "<f4")
        place = int(numbers[0]) + np.arange(len(numbers) - 1)
        start = numbers[0] - sum(n < numbers[0] for n in gone)
        np.concatenate([[start], numbers[1:][~np.isin(place, gone)]]).astype("<f4").tofile(file)


def calendar_hole(folder):  # a Wednesday of July that the calendar lacks, and the bars with it; $change knew it
    days = pd.DatetimeIndex((folder / "calendars/day.txt").read_text().split())
    without(folder, [next(n for n, day in enumerate(days) if day.month == 7 and day.day_of_week == 2)])
    return {"calendar_hole", "change_wrong", "beyond_limit", "range_beyond_limit"}  # returns of two days


def calendar_weekend(folder):
    def sunday(lines):
        monday = next(n for n, line in enumerate(lines) if n and pd.Timestamp(line).day_of_week == 0)
        lines[monday] = str((pd.Timestamp(lines[monday]) - pd.Timedelta(days=1)).date())
        return lines

    calendar(folder, sunday)
    return {"calendar_weekend", "calendar_hole"}


def list_line(folder):
    listing(folder, lambda lines: [*lines, "SH600000\tyesterday\ttoday"])
    return {"list_line"}


def list_line_of_other_separators(folder):
    listing(folder, lambda lines: [*lines[:-1], lines[-1].replace("\t", ",")])
    return {"list_line"}


def list_line_that_ends_before_it_starts(folder):
    listing(folder, lambda lines: [*lines, "SH600000\t2020-06-01\t2020-05-31"])
    return {"list_line"}


def list_name(folder):
    (folder / "instruments/csi300.txt").rename(folder / "instruments/CSI300.txt")
    return {"list_name"}


def code_case(folder):
    listing(folder, lambda lines: [line.lower() for line in lines])
    return {"code_case"}


def code_spelling(folder):
    for name in ("all", "csi300"):
        lines = (folder / f"instruments/{name}.txt").read_text().splitlines()
        dotted = [f"{line[2:8]}.{line[:2]}{line[8:]}\n" for line in lines]
        (folder / f"instruments/{name}.txt").write_text("".join(dotted))
    for place in (folder / "features").iterdir():
        place.rename(place.with_name(f"{place.name[2:]}.{place.name[:2]}"))
    return {"code_spelling"}


def list_ends(folder):
    days = (folder / "calendars/day.txt").read_text().split()
    rewrite(
        folder / "instruments/csi300.txt", lambda lines: [f"{line[:8]}\t{days[0]}\t{days[-2]}" for line in lines[:9]]
    )
    return {"list_ends"}


def list_thin(folder):  # three names for the first half
    days = (folder / "calendars/day.txt").read_text().split()
    names = codes(folder)
    first = [f"{code}\t{days[0]}\t{days[99]}\n" for code in names[:3]]
    second = [f"{code}\t{days[100]}\t{days[-1]}\n" for code in names]
    (folder / "instruments/csi300.txt").write_text("".join(first + second))
    return {"list_thin"}


def folder_case(folder):
    for place in sorted((folder / "features").iterdir())[:2]:
        place.rename(place.with_name(place.name.upper()))
    return {"folder_case"}


def folder_case_of_a_file(folder):
    file = file_of(folder, codes(folder)[0], "open")
    file.rename(file.with_name("OPEN.day.bin"))
    return {"folder_case", "no_price_field", "incomplete_bar"}


def list_overlap(folder):
    listing(folder, lambda lines: [*lines, lines[0]])
    return {"list_overlap"}


def listed_no_data(folder):
    listing(folder, lambda lines: [*lines, "SH609999\t2020-01-02\t2020-12-31"])
    return {"listed_no_data"}


def indices(folder):
    listing(folder, lambda lines: [*lines, "SH000300\t2020-01-02\t2020-12-31"])
    return {"indices"}


def not_a_share(folder):
    shutil.copytree(folder / "features" / codes(folder)[0].lower(), folder / "features" / "sh510300")
    on_all(folder, (*PRICES, "factor"), lambda v: 1.3 * v, ["SH510300"])
    listing(folder, lambda lines: [*lines, "SH510300\t2020-01-02\t2020-12-31"])
    return {"not_a_share"}


def folder_twice(folder):
    code = codes(folder)[0]
    shutil.copytree(folder / "features" / code.lower(), folder / "features" / code)
    return {"folder_twice"}


def file_length(folder):
    with file_of(folder, codes(folder)[0], "vwap").open("ab") as file:
        file.write(b"ab")
    return {"file_length"}


def file_length_beyond(folder):
    edit(folder, codes(folder)[0], vwap=lambda v: np.append(v, [1.0, 2.0]))
    return {"file_length"}


def file_start(folder):
    raw = np.fromfile(file_of(folder, codes(folder)[0], "vwap"), "<f4")
    raw[0] = 0.5
    raw.tofile(file_of(folder, codes(folder)[0], "vwap"))
    return {"file_start", "no_vwap"}


def field_span(folder):
    edit(folder, codes(folder)[0], vwap=lambda v: v[:-5])
    return {"field_span"}


def no_price_field(folder):
    file_of(folder, codes(folder)[0], "open").unlink()
    return {"no_price_field", "incomplete_bar"}


def no_factor(folder):
    file_of(folder, "SH000300", "factor").unlink()
    [file_of(folder, code, "factor").unlink() for code in every(folder)]
    return {"no_factor"}


def no_vwap(folder):
    [file_of(folder, code, "vwap").unlink() for code in every(folder)]
    return {"no_vwap"}


def no_change(folder):
    [file_of(folder, code, "change").unlink() for code in every(folder)]
    return {"no_change"}


def _nothing_known(folder, field):
    on_all(folder, [field], lambda v: np.full(len(v), np.nan))


def open_all_nan(folder):
    _nothing_known(folder, "open")
    return {"no_price_field"}


def open_all_nan_for_one(folder):
    edit(folder, codes(folder)[0], open=lambda v: np.full(len(v), np.nan))
    return {"no_price_field", "incomplete_bar"}


def factor_all_nan(folder):
    _nothing_known(folder, "factor")
    return {"no_factor"}


def vwap_all_nan(folder):
    _nothing_known(folder, "vwap")
    return {"no_vwap"}


def change_all_nan(folder):
    _nothing_known(folder, "change")
    return {"no_change"}


def first_day_of_a_stock(folder):  # which has no return yet
    new = codes(folder)[0]
    length = len(values_of(folder, new, "close"))
    for field in (*BAR, "factor"):
        last = np.nan if field == "change" else values_of(folder, new, field)[-1]
        np.array([length - 1, last], "<f4").tofile(file_of(folder, new, field))
    return set()


def price_not_positive(folder):
    one_value(folder, "close", lambda v: -v)
    return {"price_not_positive"}


def price_infinite(folder):
    one_value(folder, "high", lambda v: np.inf)
    return {"price_not_positive"}


def bar_order(folder):
    one_value(folder, "low", lambda v: 1.5 * v)
    return {"bar_order"}


def incomplete_bar(folder):
    one_value(folder, "open", lambda v: np.nan)
    return {"incomplete_bar"}


def vwap_outside(folder):
    on_all(folder, ["vwap"], lambda v: 10 * v)
    return {"vwap_outside"}


def vwap_raw(folder):
    for code in every(folder):
        factor = values_of(folder, code, "factor").astype(float)
        edit(folder, code, vwap=lambda v, factor=factor: v / factor)
    return {"vwap_outside"}


def volume_infinite(folder):
    one_value(folder, "volume", lambda v: np.inf)
    return {"volume_negative"}


def field_holes(folder):
    on_all(folder, ["amount"], at(slice(40, 60), lambda v: np.nan), codes(folder)[:9])
    return {"field_holes"}


def field_holes_of_zero(folder):
    on_all(folder, ["amount"], at(slice(40, 60), lambda v: 0.0), codes(folder)[:9])
    return {"field_holes"}


def field_lately(folder):
    on_all(folder, ["factor"], at(slice(-12, None), lambda v: np.nan), codes(folder)[:2])
    return {"field_lately", "factor_gaps"}


def volume_negative(folder):
    one_value(folder, "volume", lambda v: -v)
    return {"volume_negative"}


def zero_volume(folder):
    for code in codes(folder):  # suspended days get the close of the day before
        hole = np.isnan(values_of(folder, code, "close"))
        filled = pd.Series(values_of(folder, code, "close")).ffill().to_numpy()
        on_all(folder, PRICES, lambda v, hole=hole, filled=filled: np.where(hole, filled, v), [code])
        on_all(folder, ("volume", "amount", "change"), lambda v, hole=hole: np.where(hole, 0.0, v), [code])
    return {"zero_volume"}


def repeated_bar(folder):
    code = codes(folder)[0]
    day = quiet_day(folder, code)
    before = {name: values_of(folder, code, name)[day - 1] for name in BAR}
    after = values_of(folder, code, "close")[day + 1] / before["close"] - 1
    edit(folder, code, **{name: at(day, lambda v, value=value: value) for name, value in before.items()})
    edit(folder, code, change=at(day, lambda v: 0.0))
    edit(folder, code, change=at(day + 1, lambda v: after))
    return {"repeated_bar"}


def _level(folder, times):
    """Prices times a number from the third last day on, on a main board."""
    code = main_board(folder)
    day = quiet_day(folder, code)
    on_all(folder, PRICES, at(slice(day, None), lambda v: times * v), [code])
    edit(folder, code, volume=at(slice(day, None), lambda v: v / times))
    edit(folder, code, change=at(day, lambda v: (1 + v) * times - 1))


def absurd_return(folder):
    _level(folder, 5)
    return {"absurd_return"}


def beyond_limit(folder):
    _level(folder, 1.3)  # with a limit of 10% the return is 17% to 43%
    return {"beyond_limit"}


def range_beyond_limit(folder):
    one_value(folder, "high", lambda v: 1.35 * v)
    return {"range_beyond_limit"}


def factor_gaps(folder):
    one_value(folder, "factor", lambda v: np.nan)
    return {"factor_gaps"}


def factor_jump(folder):
    edit(folder, codes(folder)[0], factor=at(slice(-1, None), lambda v: 10 * v))
    return {"factor_jump"}


def factor_cents(folder):
    on_all(folder, ["factor"], lambda v: 1.00037 * v)
    return {"factor_cents"}


def change_percent(folder):
    on_all(folder, ["change"], lambda v: 100 * v)
    return {"change_percent"}


def change_percent_of_some(folder):
    on_all(folder, ["change"], lambda v: 100 * v, codes(folder)[:12])
    return {"change_percent"}


def change_percent_of_one(folder):
    on_all(folder, ["change"], lambda v: 100 * v, codes(folder)[3:4])
    return {"change_percent"}


def change_percent_of_late(folder):  # fractions, then percent
    on_all(folder, ["change"], at(slice(-50, None), lambda v: 100 * v), codes(folder))
    return {"change_percent"}


def change_raw(folder):
    for code in every(folder):
        factor = pd.Series(values_of(folder, code, "factor").astype(float))
        ratio = (factor / factor.shift(1)).fillna(1.0).to_numpy()
        edit(folder, code, change=lambda v, ratio=ratio: (1 + v) / ratio - 1)
    return {"change_raw"}


def change_wrong(folder):
    on_all(folder, ["change"], lambda v: -v)
    return {"change_wrong"}


def identical_series(folder):
    one, other = codes(folder)[:2]
    shutil.rmtree(folder / "features" / other.lower())
    shutil.copytree(folder / "features" / one.lower(), folder / "features" / other.lower())
    return {"identical_series"}


def units(folder):
    on_all(folder, ["amount"], lambda v: 37 * v)
    return {"units"}


def units_mixed(folder):
    on_all(folder, ["amount"], lambda v: 10 * v, codes(folder)[:3])
    return {"units_mixed"}


def units_step(folder):  # shares, then lots, or the other way round
    on_all(folder, ["volume"], at(slice(-73, None), lambda v: 100 * v), codes(folder))
    return {"units_step"}


def units_step_of_few_days(folder):
    on_all(folder, ["volume"], at(slice(-8, None), lambda v: v / 100), codes(folder)[:2])
    return {"units_step"}


def units_step_of_the_factor(folder):  # $volume adjusted, then not
    for code in codes(folder):
        factor = values_of(folder, code, "factor")[-60:]
        edit(folder, code, volume=at(slice(-60, None), lambda v, factor=factor: v * factor))
    return {"units_step"}


def turnover_step(folder):  # as `units_step`, without $amount to hold it against, of some stocks
    on_all(folder, ["volume"], lambda v: 100 * v)
    on_all(folder, ["volume"], at(slice(-73, None), lambda v: v / 100), codes(folder)[::4])
    [file_of(folder, code, "amount").unlink() for code in every(folder)]
    return {"turnover_step"}


def turnover_cluster(folder):  # 30% of the stocks in lots, the others in shares, no $amount
    on_all(folder, ["volume"], lambda v: 100 * v)
    on_all(folder, ["volume"], lambda v: v / 100, every(folder)[::3])
    [file_of(folder, code, "amount").unlink() for code in every(folder)]
    return {"turnover_cluster"}


def turnover_unusual(folder):  # the identity with $amount holds, so that the units may be right
    on_all(folder, ["amount", "volume"], lambda v: v / 1000)
    return {"turnover_unusual"}


def shares_as_lots(folder):  # no $amount, and lots where shares are wanted: 100 times too small
    [file_of(folder, code, "amount").unlink() for code in every(folder)]
    return {"stock_turnover"}


def turnover_jump(folder):
    days = len(values_of(folder, codes(folder)[0], "close"))
    on_all(folder, ["amount", "volume"], at(days - 30, lambda v: 20 * v), codes(folder))
    return {"turnover_jump"}


def stale_stock(folder):
    on_all(folder, (*BAR, "factor", "adjclose"), lambda v: v[:-70], codes(folder)[:1])
    return {"stale_stock"}


def short_stock(folder):  # two stocks of sixty, whose update wrote the last day over all others
    for code in codes(folder)[:2]:
        for field in (*BAR, "factor", "adjclose"):
            numbers = np.fromfile(file_of(folder, code, field), "<f4")
            np.array([numbers[0] + len(numbers) - 2, numbers[-1]], "<f4").tofile(file_of(folder, code, field))
    return {"short_stock"}


def stale_market(folder):
    on_all(folder, (*BAR, "factor", "adjclose"), lambda v: v[:-5], codes(folder))
    return {"stale_market"}


def thin_day(folder):
    days = len(values_of(folder, codes(folder)[0], "close"))
    on_all(folder, BAR, at(days - 30, lambda v: np.nan), codes(folder)[: int(0.8 * len(codes(folder)))])
    return {"thin_day", "change_wrong"}  # the return of the day after is that of two days


PLANTS = [
    calendar_duplicate, calendar_order, calendar_gap, calendar_hole, calendar_weekend, list_line,
    list_line_of_other_separators, list_line_that_ends_before_it_starts,
    list_name, code_case, code_spelling, list_ends, list_thin, folder_case,
    folder_case_of_a_file, list_overlap, listed_no_data, vwap_raw, volume_infinite, field_holes, field_holes_of_zero,
    field_lately,
    indices, not_a_share, folder_twice, file_length, file_length_beyond, file_start, field_span, no_price_field,
    no_factor, no_vwap, no_change, open_all_nan, open_all_nan_for_one, factor_all_nan, vwap_all_nan, change_all_nan,
    first_day_of_a_stock, price_not_positive, price_infinite, bar_order, incomplete_bar, vwap_outside,
    volume_negative, zero_volume, repeated_bar, absurd_return, beyond_limit, range_beyond_limit, factor_gaps,
    factor_jump, factor_cents,
    change_percent, change_percent_of_some, change_percent_of_one, change_percent_of_late, change_raw, change_wrong,
    identical_series, units, units_mixed, units_step, units_step_of_few_days, units_step_of_the_factor, turnover_step,
    turnover_cluster, turnover_unusual, shares_as_lots,
    turnover_jump, short_stock, stale_stock, stale_market, thin_day,
]  # fmt: skip


def spoken(table):
    return set(table.loc[table["severity"] != "info", "check"])


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_found_and_nothing_else(plant, market):
    expected = plant(market)
    table = check_data(market)
    assert spoken(table) == expected, table[["check", "count", "example"]].to_string()
    assert table["example"].str.len().gt(0).all() and table["cure"].str.len().gt(0).all()
    assert not expected & set(table.attrs["quiet"])


def test_a_code_of_the_wrong_exchange_is_told_with_the_right_one(market):
    code = next(code for code in codes(market) if code.startswith("SH688"))
    listing(market, lambda lines: [line.replace(code, f"SZ{code[2:]}") for line in lines])
    table = check_data(market).set_index("check")
    assert table.loc["listed_no_data", "example"] == f"SZ{code[2:]} in all.txt (is it {code}, which there is?)"


def test_units_that_differ_by_board_name_it(market):
    star = [code for code in every(market) if code.startswith("SH688")]
    assert len(star) == 6  # one of them is new, and says nothing
    on_all(market, ["volume"], lambda v: 100 * v)  # lots to shares
    on_all(market, ["volume"], lambda v: 100 * v, star)  # and once more, as a source does that gives STAR's in shares
    [file_of(market, code, "amount").unlink() for code in every(market)]
    row = check_data(market).set_index("check").loc["turnover_cluster"]
    assert row["severity"] == "error" and row["count"] == len(star) - 1 and row["example"].endswith("(all of SH688)")


def test_every_check_is_planted_somewhere():
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in CHECKS if f'"{name}"' not in text] == []


# --- what needs more than a plant


OTHERS = [
    {"n_stocks": 120, "years": 1.5, "start": "2023-01-03", "seed": 3},
    {"n_stocks": 200, "years": 2.0, "start": "2021-06-01", "seed": 11},
]


@pytest.mark.parametrize("options", [{}, *OTHERS], ids=str)
def test_the_embedded_market_is_quiet(options, base, tmp_path):
    folder = make_market(tmp_path / "other", **options) if options else base
    table = check_data(folder)
    assert spoken(table) == set(), table.to_string()
    assert table.attrs["profile"] == "community"
    counts = table.set_index("check")["count"]
    suspended = bars = 0
    for code in every(folder):
        close = values_of(folder, code, "close")
        place = np.flatnonzero(np.isfinite(close))
        suspended += int(np.isnan(close[place[0] : place[-1] + 1]).sum())
        bars += len(place)
    assert counts["suspended"] == suspended
    assert 0.002 * bars < counts["limit_bars"] < 0.02 * bars
    assert counts["unit_profile"] == 1


@pytest.mark.parametrize("options", [{"n_stocks": 60, "years": 1}, *OTHERS], ids=str)
def test_the_embedded_market_is_quiet_without_amounts(options, tmp_path):
    folder = make_market(tmp_path / "other", **options)
    on_all(folder, ["volume"], lambda v: 100 * v)
    [file_of(folder, code, "amount").unlink() for code in every(folder)]
    table = check_data(folder)
    assert spoken(table) == set(), table.to_string()
    assert {"turnover_step", "turnover_cluster"} <= set(table.attrs["quiet"])


def test_a_step_has_its_date_and_its_size(market):
    days = (market / "calendars" / "day.txt").read_text().split()
    one, other = codes(market)[:2]
    edit(market, one, volume=at(slice(-73, None), lambda v: 100 * v))
    edit(market, other, volume=at(slice(None, 20), lambda v: v / 100))
    row = check_data(market).set_index("check").loc["units_step"]
    assert row[["severity", "count", "of"]].tolist() == ["warning", 2, 60]
    told = re.findall(r"(\w+) (\S+): ([\d.e-]+), then ([\d.e-]+)", row["example"])
    assert [(code, day) for code, day, _, _ in told] == [(one, days[-73]), (other, days[20])]
    assert [float(after) / float(before) for *_, before, after in told] == pytest.approx([0.01, 0.01], rel=0.03)


@pytest.mark.parametrize(("nth", "padded", "expected"), [(5, 0, set()), (5, 1, set()), (6, 0, {"beyond_limit"})])
def test_the_first_days_of_a_stock_are_free_of_limits(nth, padded, expected, tmp_path):
    folder = make_market(tmp_path / "market", n_stocks=30, years=0.7, start="2023-05-04")  # main board: 5 free days
    days = (folder / "calendars" / "day.txt").read_text().split()
    lines = [line.split("\t") for line in (folder / "instruments" / "all.txt").read_text().splitlines()]
    new = next(code for code, first, last in lines if first > days[20] and not code.startswith("BJ"))
    on_all(folder, PRICES, at(slice(nth - 1, None), lambda v: 1.7 * v), [new])
    edit(folder, new, volume=at(slice(nth - 1, None), lambda v: v / 1.7))
    edit(folder, new, change=at(nth - 1, lambda v: (1 + v) * 1.7 - 1))
    for field in (*BAR, "factor") if padded else ():  # a dump that starts every series on the calendar's first day
        raw = np.fromfile(file_of(folder, new, field), "<f4")
        np.concatenate([np.zeros(1), np.full(int(raw[0]), np.nan), raw[1:]]).astype("<f4").tofile(
            file_of(folder, new, field)
        )
    assert spoken(check_data(folder)) == expected


def test_unadjusted_prices(market):
    for code in every(market):
        factor = values_of(market, code, "factor").astype(float)
        on_all(market, PRICES, lambda v, factor=factor: v / factor, [code])
        edit(market, code, volume=lambda v, factor=factor: v * factor)
    table = check_data(market).set_index("check")
    assert table.loc["unadjusted", "severity"] == "error"
    assert {"beyond_limit", "change_wrong", "units"} & set(table.index) <= {"beyond_limit", "change_wrong"}


def test_one_odd_ex_rights_day_is_no_unadjusted_market(market):
    """Shares given away in a reorganisation: $factor rises, the price falls; one case among few days."""
    day = (market / "calendars" / "day.txt").read_text().split()[-5]
    fall = {name: at(slice(-3, None), lambda v: v / 1.05) for name in PRICES}
    edit(market, codes(market)[0], factor=at(slice(-3, None), lambda v: 1.05 * v), **fall)
    assert "unadjusted" not in set(check_data(market, start=day)["check"])


def test_survivors_only(market, monkeypatch):
    monkeypatch.setattr(
        "qlib_ext.check_data.units.DELISTED_A_YEAR", 0.02
    )  # 60 stocks, one year: 1.2 are expected to go
    assert "survivorship" in check_data(market).attrs["quiet"]
    gone = sorted(set(every(market)) - set(codes(market)))
    listing(market, lambda lines: [line for line in lines if line.split("\t")[0] not in gone])
    listing_of_index = market / "instruments" / "csi300.txt"
    rewrite(listing_of_index, lambda lines: [line for line in lines if line.split("\t")[0] not in gone])
    for code in gone:
        shutil.rmtree(market / "features" / code.lower())
    assert spoken(check_data(market)) == {"survivorship"}


def test_the_market_total_is_judged_for_a_whole_market_only(market, monkeypatch):
    assert "market_total" not in check_data(market).attrs["quiet"]  # 60 stocks: not judged
    monkeypatch.setattr("qlib_ext.check_data.units.WHOLE_MARKET", 50)
    assert spoken(check_data(market)) == {"market_total"}  # about 12 billion yuan a day, below 20
    on_all(market, ["amount", "volume"], lambda v: 10 * v)
    assert "market_total" in check_data(market).attrs["quiet"]
    on_all(market, ["amount", "volume"], lambda v: 1000 * v)
    assert spoken(check_data(market)) == {"market_total", "turnover_unusual"}


def test_the_market_total_is_judged_from_2010_on(market, monkeypatch):
    monkeypatch.setattr("qlib_ext.check_data.units.WHOLE_MARKET", 50)
    early = check_data(market).set_index("check")  # about 12 billion yuan a day: too little in 2020, much in 2005
    assert early.loc["market_total", "severity"] == "error"
    days = (market / "calendars" / "day.txt").read_text().split()
    monkeypatch.setattr("qlib_ext.check_data.units.TOTAL_FROM", pd.Timestamp(days[-30]))
    total = np.zeros(len(days))
    for code in set(every(market)) - {"SH000300"}:
        first = int(np.fromfile(file_of(market, code, "close"), "<f4")[0])
        yuan = 100.0 * values_of(market, code, "close") * values_of(market, code, "volume")  # adjusted lots
        total[first : first + len(yuan)] += np.nan_to_num(yuan)
    little = (total < 20e9).sum(), (total[-30:] < 20e9).sum()
    assert 0 < little[1] < 30 and early.loc["market_total", "count"] == little[0]
    assert check_data(market).set_index("check").loc["market_total", "count"] == little[1]
    rewrite(market / "calendars" / "day.txt", lambda lines: [str(int(line[:4]) - 15) + line[4:] for line in lines])
    monkeypatch.undo()
    monkeypatch.setattr("qlib_ext.check_data.units.WHOLE_MARKET", 50)
    table = check_data(market)
    assert "market_total" not in set(table["check"]) | set(table.attrs["quiet"])


def test_what_is_only_said(market):
    code = codes(market)[0]
    listing(market, lambda lines: [line for line in lines if line.split("\t")[0] != code])
    rewrite(market / "instruments" / "csi300.txt", lambda lines: [x for x in lines if x.split("\t")[0] != code])
    closes = ((stock, values_of(market, stock, "close")) for stock in codes(market))
    calm = next(stock for stock, close in closes if abs(close[170] / close[39] - 1) < 0.08)  # within any limit
    on_all(market, BAR, at(slice(40, 170), lambda v: np.nan), [calm])
    on_all(market, ["volume"], lambda v: 100 * v)
    [file_of(market, stock, "amount").unlink() for stock in [*every(market), code]]
    table = check_data(market, today="2021-02-15").set_index("check")
    assert set(table["severity"]) == {"info"}
    assert table.loc["unlisted", "example"] == code
    assert table.loc["long_gap", "count"] == 1 and "130 days" in table.loc["long_gap", "example"]
    assert table.loc["no_amount", "count"] == 60
    assert table.loc["calendar_end", "example"].endswith("46 days ago")
    assert table.loc["unit_profile", "example"].startswith("adjusted_shares; $close * $volume: ")


def test_days_and_universe_narrow_the_check(market):
    code = codes(market)[0]
    members = {line.split("\t")[0] for line in (market / "instruments" / "csi300.txt").read_text().splitlines()}
    outside = next(stock for stock in codes(market) if stock not in members)
    edit(market, outside, volume=at(quiet_day(market, outside), lambda v: -v))
    assert spoken(check_data(market)) == {"volume_negative"}
    assert spoken(check_data(market, universe="CSI300")) == {"list_small"}  # 24 a day; qlib reads csi300.txt
    assert check_data(market, universe="csi300").attrs["stocks"] == len(members)
    found = check_data(market, end="2020-06-30")
    assert spoken(found) == set() and found.attrs["last"] == "2020-06-30", code
    with pytest.raises(ValueError, match="no universe 'csi30'.*close: csi300"):
        check_data(market, universe="csi30")
    with pytest.raises(ValueError, match="no trading day from 2022-01-01"):
        check_data(market, start="2022-01-01")
    with pytest.raises(ValueError, match="start is 'x', no day that is surely understood"):
        check_data(market, start="x")
    with pytest.raises(ValueError, match="has no calendars/day.txt, instruments, features"):
        check_data(market / "calendars")


LISTS = [  # (stocks, first day, last day)..., and what is told of such a universe beside its size
    ([(40, 0, -1)], set()),
    ([(29, 0, -1)], {"list_small"}),
    ([(40, 9, -1)], {"list_starts"}),
    ([(40, 0, -9)], {"list_ends"}),
    ([(3, 0, 119), (40, 120, -1)], {"list_thin"}),
    ([(13, 0, 119), (40, 120, -1)], {"list_thin"}),  # a third of 40 is 13.3
    ([(14, 0, 119), (40, 120, -1)], set()),
    ([(40, 0, 99), (40, 120, -1)], {"list_thin"}),
    ([], {"universe_empty"}),
]


@pytest.mark.parametrize(("parts", "expected"), LISTS, ids=str)
def test_a_universe_is_held_against_the_days(parts, expected, market):
    days, names = (market / "calendars/day.txt").read_text().split(), codes(market)
    lines = [f"{code}\t{days[a]}\t{days[b]}\n" for count, a, b in parts for code in names[:count]]
    (market / "instruments/own.txt").write_text("".join(lines))
    assert spoken(check_data(market, universe="own")) == expected
    if parts and parts[0][1:] == (9, -1):
        assert spoken(check_data(market, universe="own", start=days[9])) == set()


def test_a_universe_grows_as_the_market_did(market):
    """Tenfold in ten years is no thin list: each year has more than a third of the next."""
    count = (100 * 1.0009 ** np.arange(2430)).astype(int)
    assert count[-1] > 880 and not thin_days(count).any()
    assert thin_days(np.r_[np.full(2000, 3), count]).nonzero()[0].tolist() == list(range(2000))


def test_what_a_run_cannot_read_is_refused_before_it(market):
    assert check_start(market, universe="all", start="2020-03-02", end="2020-12-01") == []
    one_value(market, "close", lambda v: -v)  # an error of check-data that can be read
    (line,) = check_start(market, universe="all")
    assert line.startswith("price_not_positive: 1 of ") and line.endswith("repair its source")
    with file_of(market, codes(market)[3], "vwap").open("ab") as file:
        file.write(b"ab")
    outside = sorted(set(every(market)) - {codes(market)[3]})
    assert len(check_start(market, universe=outside)) == 1  # another stock's file does not matter
    with pytest.raises(ValueError, match=r"cannot be trained on:\nfile_length: 1 of .* bytes.*\nMore .* check-data"):
        check_start(market, universe="ALL")


def test_the_bars_of_some_stocks_are_read_before_a_run_and_the_files_of_all(market, monkeypatch):
    monkeypatch.setattr("qlib_ext.check_data.check.SAMPLE", 2)  # the first and the last
    edit(market, codes(market)[1], close=lambda v: -v)
    assert check_start(market) == []
    np.zeros(0, "<f4").tofile(file_of(market, codes(market)[1], "close"))
    with pytest.raises(ValueError, match="file_length"):
        check_start(market)


def test_shares_decide_the_severity():
    tally = Tally()
    tally.add("absurd_return", 1, 1000, "a")  # 0.1%: an error from there on
    tally.add("repeated_bar", 1, 1001, "b")
    tally.add("factor_cents", 49, 1000)  # told from 5%
    tally.add("absurd_return", 1, 1000, "c")
    table = tally.table(CHECKS)
    assert table["check"].tolist() == ["absurd_return", "repeated_bar"]
    assert table["severity"].tolist() == ["error", "warning"]
    assert table.loc[0, ["count", "of", "example"]].tolist() == [2, 2000, "a"]
    assert table.attrs["quiet"] == ["factor_cents"]
    tally.add("absurd_returns", 1, 1)
    with pytest.raises(KeyError, match="absurd_returns"):
        tally.table(CHECKS)


def test_a_check_of_ones_own(market):
    code = codes(market)[0]
    day = quiet_day(market, code)
    edit(market, code, close=at([day], lambda close: close * 1e6))
    dear = Check("warning", "leave such stocks out", look=lambda block: (block.close > 1e5, block.trades))
    row = check_data(market, checks={"dear_stock": dear}).set_index("check").loc["dear_stock"]
    assert row["count"] == 1 and row["example"].startswith(code) and row["cure"] == "leave such stocks out"


# --- the command


def test_the_command_tells_and_exits(market, capsys):
    assert cli.main(["check-data", "--provider-uri", str(market)]) == 0
    told = capsys.readouterr().out
    assert "0 errors, 0 warnings" in told and "60 stocks" in told
    units(market)
    assert cli.main(["check-data", "--provider-uri", str(market), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["errors"] == 1 and told["findings"][0]["check"] == "units"
    assert set(told["findings"][0]) == {"severity", "check", "count", "of", "example", "cure"}
    assert cli.main(["check-data", "--provider-uri", str(market), "--universe", "everything"]) == 2
    assert "qlib-ext: error: no universe 'everything'" in capsys.readouterr().err


def test_the_command_takes_the_provider_of_the_environment(market, monkeypatch, capsys):
    indices(market)
    monkeypatch.setenv("QLIB_EXT_PROVIDER_URI", str(market))
    assert cli.main(["check-data"]) == 0
    told = capsys.readouterr().out
    assert "SH000300 in all.txt" in told and "0 errors, 1 warning;" in told


@pytest.mark.realdata
def test_the_known_defects_of_real_data_are_found():
    folder = os.environ.get("QLIB_EXT_REAL_DATA")
    if not folder:
        pytest.skip("set QLIB_EXT_REAL_DATA to a provider folder of real A shares")
    lines = []
    table = check_data(folder, say=lines.append).set_index("check")
    assert {"survivorship", "absurd_return", "beyond_limit", "indices", "no_vwap"} <= set(table.index)
    assert (table.loc[["survivorship", "absurd_return", "indices", "no_vwap"], "severity"] == "warning").all()
    assert "SH000300 in all.txt" in table.loc["indices", "example"] and table.loc["indices", "count"] == 6
    assert "error" not in set(table["severity"]) and len(lines) > 10


@pytest.mark.parametrize("start", ["2022-01-04T00:00+08:00", "NaT", "soon"])
def test_a_day_that_is_none_is_refused(base, start):
    with pytest.raises(ValueError, match="start is"):
        check_data(base, start=start)
