"""MarketState and MacroState: hand goldens, a slow oracle, no look-ahead, errors with their cure; a planted regime."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_ext.evaluate import metric_value
from qlib_ext.model import MASTERModel
from qlib_ext.panel import OFFICIAL_INDICES, OFFICIAL_NAMES, DayPanel, MacroState, MarketState, read_macro

# --- index features


def index_frames(days=90, codes=("SH000300", "SH000905"), seed=0):
    rng = np.random.default_rng(seed)
    at = pd.bdate_range("2020-01-01", periods=days)
    close = pd.DataFrame(100 * np.exp(0.01 * rng.standard_normal((days, len(codes))).cumsum(0)), at, list(codes))
    turnover = pd.DataFrame(1e9 * np.exp(0.2 * rng.standard_normal((days, len(codes)))), at, list(codes))
    return close, turnover


def test_index_features_by_hand():
    days = pd.bdate_range("2020-01-01", periods=4)
    close = pd.DataFrame({"SH000300": [100.0, 110.0, 99.0, 99.0]}, days)
    turnover = pd.DataFrame({"SH000300": [4.0, 2.0, 6.0, 8.0]}, days)
    # returns .1, -.1, 0; on the last day over 2 days: mean -.05, std sqrt(2 * .05^2 / 1) = .0707;
    # over 3: mean 0, std sqrt(.02 / 2) = .1; turnover 6, 8: mean 7/8, std sqrt(2)/8; 2, 6, 8: (16/3)/8, std
    # sqrt(((10/3)^2 + (2/3)^2 + (8/3)^2) / 2) / 8 = sqrt(168/18) / 8
    state = MarketState(windows=(2, 3))
    got = state.compute(close, turnover, days[3:])
    expected = [0.0, -0.05, math.sqrt(0.005), 7 / 8, math.sqrt(2) / 8]
    expected += [0.0, 0.1, 2 / 3, math.sqrt(168 / 18) / 8]
    np.testing.assert_allclose(got.to_numpy()[0], expected, atol=1e-12)
    assert list(got)[:3] == ["SH000300_return", "SH000300_return_mean_2", "SH000300_return_std_2"]
    # the deck's: prices 99, 99 over 99: mean 1, std 0; turnover as above
    deck = MarketState(kind="deck", windows=(2,)).compute(close, turnover, days[3:])
    np.testing.assert_allclose(deck.to_numpy()[0], [1.0, 0.0, 7 / 8, math.sqrt(2) / 8], atol=1e-12)


def slow_features(close, turnover, windows, row):
    out = []
    for code in close.columns:
        c, a = close[code].to_list(), turnover[code].to_list()
        returns = [c[i] / c[i - 1] - 1 for i in range(1, row + 1)]
        out.append(returns[-1])
        for d in windows:
            for values, unit in ((returns[-d:], 1.0), (a[row - d + 1 : row + 1], a[row])):
                mean = sum(values) / d
                out += [mean / unit, math.sqrt(sum((v - mean) ** 2 for v in values) / (d - 1)) / unit]
    return out


def test_index_features_equal_a_slow_loop():
    close, turnover = index_frames()
    got = MarketState().compute(close, turnover, close.index[60:])
    assert got.shape == (30, 42) and list(got) == MarketState().names(close.columns)
    for row in (60, 75, 89):
        expected = slow_features(close, turnover, (5, 10, 20, 30, 60), row)
        np.testing.assert_allclose(got.loc[close.index[row]], expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 40), st.floats(0.01, 100.0), st.sampled_from(["paper", "deck"]))
def test_index_features_know_nothing_later_and_have_no_units(turn, unit, kind):
    close, turnover = index_frames(days=50)
    state = MarketState(windows=(2, 5, 15), kind=kind)
    days = close.index[16:]
    before = state.compute(close, turnover, days)
    late = np.where(close.index > close.index[turn], 1.0, 0.0)
    changed, other = close.mul(1 + 0.3 * late, axis=0), turnover.mul(1 + 2 * late, axis=0)
    after = state.compute(changed, other, days)
    known = days <= close.index[turn]
    pd.testing.assert_frame_equal(after[known], before[known], check_exact=True)
    assert not np.allclose(after[~known].iloc[0], before[~known].iloc[0])
    scaled = state.compute(close * unit, turnover * unit, days)
    np.testing.assert_allclose(scaled, before, rtol=1e-6, atol=1e-9)


def test_official_names_are_the_authors_63():
    assert len(OFFICIAL_NAMES) == 63 and MarketState(indices=OFFICIAL_INDICES).names(OFFICIAL_INDICES) == [
        *OFFICIAL_NAMES
    ]
    assert OFFICIAL_NAMES[21] == "SH000905_return" and OFFICIAL_NAMES[62] == "SH000906_turnover_std_60"


def test_short_history_and_holes_name_the_cure():
    close, turnover = index_frames(days=80)
    with pytest.raises(
        ValueError, match="need 60 trading days .*2020-01-31: start .* at 2020-03-25 or later, or shorten"
    ):
        MarketState().compute(close, turnover, close.index[22:])
    late = close.copy()
    late.iloc[:6, 0] = np.nan
    with pytest.raises(ValueError, match="SH000300 is known from 2020-01-09 on"):
        MarketState(windows=(5,)).compute(late, turnover, close.index[8:])
    holed = turnover.copy()
    holed.iloc[40, 1] = 0.0
    with pytest.raises(ValueError, match="SH000905 lacks close or turnover on 1 days from 2020-02-26"):
        MarketState(windows=(5,)).compute(close, holed, close.index[8:])
    assert np.isfinite(MarketState(windows=(5,)).compute(close, holed, close.index[46:])).all(axis=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "papr"}, "kind 'papr' .*paper"),
        ({"windows": [5, 1]}, "windows is 1; .*whole number in .2"),
        ({"windows": [5, 5]}, "distinct"),
        ({"indices": []}, "distinct codes"),
        ({"turnover": "amt"}, "turnover 'amt'.* Allowed: auto, amount"),
        ("yes", "market_state='yes'; wanted true"),
    ],
)
def test_market_state_is_strict(options, message):
    with pytest.raises(ValueError, match=message):
        MarketState.of(options)


def test_a_misspelt_option_is_a_type_error():
    with pytest.raises(TypeError, match=r"market_state has no option 'windos'; close: \['windows'"):
        MarketState.of({"windos": [5]})
    with pytest.raises(TypeError, match=r"macro_state has no option 'jmps'; close: \['jumps'"):
        MacroState.of({"path": "x.csv", "series": {"a": {"foreign": False}}, "jmps": "warn"})
    with pytest.raises(TypeError, match=r"series a has no option 'lagg'; close: \['lag'"):
        MacroState.of({"path": "x.csv", "series": {"a": {"foreign": True, "lagg": 1}}})


def test_market_state_options():
    assert MarketState.of(True) == MarketState() and MarketState.of(False) is None and MarketState.of(None) is None
    assert MarketState.of({"kind": "deck"}).spans == (6,)
    assert MarketState.of({"indices": ["sh000300"]}).indices == ("SH000300",)


# --- macro series

CALENDAR = pd.DatetimeIndex(
    [d for d in pd.bdate_range("2020-01-01", "2020-12-31") if not (d.month == 10 and d.day < 9)]
)


def table_of(seed=0, **columns):
    if columns:
        return pd.DataFrame(columns)
    rng = np.random.default_rng(seed)
    days = pd.bdate_range("2019-09-02", "2020-12-31")
    return pd.DataFrame({"us10y": 2 + rng.standard_normal(len(days)).cumsum() * 0.01}, days)


def macro(series, table, days=None, calendar=CALENDAR, **options):
    state = MacroState.of({"path": "none.csv", "series": series, **options})
    return state.compute(table, calendar, CALENDAR[60:] if days is None else days)


def test_macro_by_hand():
    # calendar: Thu 2, Fri 3, Mon 6, Tue 7, Wed 8 January; an American series of Thu 2 (10), Fri 3 (20), Tue 7 (5)
    calendar = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07", "2020-01-08"])
    us = pd.Series([10.0, 20.0, 5.0], pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-07"]))
    for options, expected in (
        ({"foreign": True}, [10, 20, 20, 5]),  # each from the next trading day on
        ({"foreign": False}, [20, 20, 5, 5]),  # on the day itself
        ({"foreign": True, "lag": 2}, [math.nan, 10, 20, 20]),
        ({"foreign": True, "transform": "log_return"}, [math.nan, math.log(2), 0, math.log(0.25)]),
        ({"foreign": True, "transform": "difference"}, [math.nan, 10, 0, -15]),
        # over 2 days: (last - mean) / std is 1/sqrt(2) for a rise, 0 where nothing moved
        ({"foreign": True, "transform": "zscore", "window": 2}, [math.nan, 2**-0.5, 0, -(2**-0.5)]),
    ):
        known = [not math.isnan(v) for v in expected]
        days = calendar[1:][known]
        frame, notices = macro({"us": options}, us.to_frame("us"), days, calendar)
        np.testing.assert_allclose(frame.iloc[:, 0], np.array(expected)[known], atol=1e-12, err_msg=str(options))
        assert notices == []


def test_a_value_of_a_holiday_is_used_on_the_next_trading_day():
    # an American value of Thursday 1 October 2020 (holidays to the 8th) is known at the close of Friday the 9th
    table = table_of()
    table.loc["2020-10-01":, "us10y"] = 9.0
    for lag, first in ((0, "2020-10-09"), (1, "2020-10-09"), (2, "2020-10-12")):
        series = {"us10y": {"foreign": False, "lag": lag, "jump": 1e9, "limit": 20}}
        frame, _ = macro(series, table)
        assert frame.index[(frame["us10y_level"] == 9.0).to_numpy()][0] == pd.Timestamp(first), lag


def test_an_american_value_of_a_day_changes_nothing_before_the_next_trading_day():
    transforms = ["level", "log_return", "difference", "zscore"]
    series = {"us10y": {"foreign": True, "transform": transforms, "window": 20, "limit": 20}}
    table = table_of()
    before, _ = macro(series, table)
    for day in table.index[table.index >= "2020-04-01"][::17]:
        changed = table.copy()
        changed.loc[day:, "us10y"] += 0.5
        after, _ = macro(series, changed)
        next_day = CALENDAR[CALENDAR > day][0]
        early, late = after.index < next_day, after.index >= next_day
        pd.testing.assert_frame_equal(after[early], before[early], check_exact=True)
        assert (after[late].iloc[0] != before[late].iloc[0]).all(), day


def test_monthly_series_wait_for_their_release():
    months = pd.DatetimeIndex(["2020-01-01", "2020-02-01", "2020-03-01", "2020-04-01"])
    table = pd.DataFrame({"cpi": [5.4, 5.2, 4.3, 3.3]}, months)
    table["cpi_release"] = ["2020-02-10", "2020-03-10", "2020-04-10", "2020-05-12"]
    days = pd.bdate_range("2020-03-09", "2020-05-13")
    how = {"foreign": False, "frequency": "monthly", "transform": ["level", "difference"]}
    frame, _ = macro({"cpi": how | {"release": "cpi_release"}}, table, days[1:])
    assert frame["cpi_level"].drop_duplicates().to_list() == [5.2, 4.3, 3.3]
    firsts = frame.index[(frame["cpi_level"].diff() != 0).to_numpy()]
    assert [str(d.date()) for d in firsts] == ["2020-03-10", "2020-04-10", "2020-05-12"]
    np.testing.assert_allclose(frame["cpi_difference"].loc[["2020-03-10", "2020-04-13"]], [-0.2, -0.9])  # by release
    # 40 calendar days after the file's date: 2020-03-12, 2020-04-10
    late, _ = macro({"cpi": how | {"release_lag": 40}}, table, days[days >= "2020-03-12"])
    firsts = late.index[(late["cpi_level"].diff() != 0).to_numpy()]
    assert [str(d.date()) for d in firsts] == ["2020-03-12", "2020-04-10", "2020-05-11"]
    dated, _ = macro({"cpi": how | {"release": "date"}}, table, days)
    assert dated["cpi_level"].iloc[0] == 4.3
    wrong = table.assign(cpi_release="2020-01-31")
    with pytest.raises(ValueError, match="cpi of 2020-02-01 has no date in cpi_release, or one before its own"):
        macro({"cpi": how | {"release": "cpi_release"}}, wrong, days)


def test_what_is_late_missing_or_strange_is_reported():
    table = table_of()
    usual = {"us10y": {"foreign": True}}
    ended = table.loc[:"2020-06-30"]
    with pytest.raises(ValueError, match="us10y ends on 2020-06-30: .* its limit is 5: .* the first 2020-07-09"):
        macro(usual, ended)
    frame, notices = macro(usual, ended, gaps="warn")
    assert frame.notna().all(axis=None) and len(notices) == 1 and "ends on 2020-06-30" in notices[0]
    gap = table.drop(table.loc["2020-06-01":"2020-06-15"].index)
    with pytest.raises(ValueError, match="us10y has a gap: .*raise its limit; or set gaps: warn"):
        macro(usual, gap)
    assert macro({"us10y": {"foreign": True, "limit": 11}}, gap)[1] == []
    wild = table.copy()
    wild.loc["2020-07-15", "us10y"] *= 100
    frame, notices = macro(usual, wild)
    assert "us10y jumps from" in notices[0] and "on 2020-07-15" in notices[0]
    assert frame["us10y_level"].max() == wild["us10y"].max()  # reported, not removed
    with pytest.raises(ValueError, match="jumps from .*set jumps: warn"):
        macro(usual, wild, jumps="error")
    with pytest.raises(
        ValueError, match=r"us10y is known from 2020-06-02 on .*start the handler .* at 2020-06-02 or later"
    ):
        macro(usual, table.loc["2020-06-01":])
    with pytest.raises(ValueError, match="us10y is -1 on 2020-05-04, of which there is no logarithm: use difference"):
        strange = table.copy()
        strange.loc["2020-05-04", "us10y"] = -1.0
        macro({"us10y": {"foreign": True, "transform": "log_return"}}, strange)


def test_a_year_old_value_is_stale_also_before_the_calendar_begins():
    table = pd.DataFrame({"us10y": [1.0]}, pd.DatetimeIndex(["2019-01-02"]))
    with pytest.raises(ValueError, match="us10y ends on 2019-01-02"):
        macro({"us10y": {"foreign": True}}, table, CALENDAR[:5])


@pytest.mark.parametrize(
    ("series", "options", "message"),
    [
        ({"a": {}}, {}, "series a must tell foreign"),
        ({"a": {"foreign": True, "lag": 0}}, {}, "series a: lag is 0; .*foreign series"),
        ({"a": {"foreign": "no"}}, {}, "foreign is 'no'"),
        ({"a": {"foreign": False, "transform": "return"}}, {}, "transform='return'; allowed: level, log_return"),
        ({"a": {"foreign": False, "frequency": "weekly"}}, {}, "frequency 'weekly'.* Allowed: daily, monthly"),
        ({"a": {"foreign": False, "frequency": "monthly"}}, {}, "no release: a monthly series needs either"),
        ({"a": {"foreign": False, "release_lag": 3}}, {}, "a daily one neither"),
        ({"a": {"foreign": False, "limit": -1}}, {}, "limit is -1"),
        ({"a": {"foreign": False, "jump": 0}}, {}, "jump is 0"),
        ({"a": {"foreign": False, "window": [20, 60]}}, {}, r"a: window is \[20, 60\]; .*whole number in .2"),
        ({"a": {"foreign": False, "lag": [1]}}, {}, r"a: lag is \[1\]; .*whole number in .0"),
        ({"a": {"foreign": True, "lag": True}}, {}, "a: lag is True; .*whole number in .1"),
        ({"a": {"foreign": False, "limit": [5]}}, {}, r"a: limit is \[5\]; .*whole number in .0"),
        (
            {"a": {"foreign": False, "frequency": "monthly", "release_lag": [40]}},
            {},
            r"a: release_lag is \[40\]; .*whole number in .0",
        ),
        ({"a": 3}, {}, "series a: 3; wanted options"),
        ({}, {}, "at least one series"),
        ({"a": {"foreign": False}}, {"gaps": "ignore"}, "gaps 'ignore'.* Allowed: error, warn"),
    ],
)
def test_macro_state_is_strict(series, options, message):
    with pytest.raises(ValueError, match=message):
        MacroState.of({"path": "x.csv", "series": series, **options})


def test_macro_files(tmp_path):
    csv, parquet = tmp_path / "a.csv", tmp_path / "b.parquet"
    csv.write_text("# a comment\ndate,us10y,brent\n2020-01-03,1.5,\n2020-01-02,1.4,60\n")
    pd.DataFrame({"date": ["2020-01-02"], "gold": [1500.0]}).to_parquet(parquet)
    table = read_macro([csv, parquet])
    assert list(table) == ["us10y", "brent", "gold"] and table.index.is_monotonic_increasing
    assert table.loc["2020-01-02"].to_list() == [1.4, 60.0, 1500.0] and table["brent"].isna().sum() == 1
    with pytest.raises(ValueError, match="us10y, brent stand in more than one file|brent, us10y stand"):
        read_macro([csv, csv])
    for text, message in (
        ("day,x\n2020-01-02,1\n", "a.csv, line 1: no column date; wanted date"),
        ("date,x\nsoon,1\n", "a.csv, line 2: the date is 'soon', no day that is surely understood; write 2020-01-31"),
        ("date,x\n2020-01-02,1\n,2\n", "a.csv, line 3 has no date such as 2020-01-31"),
        ("date,x\n2020-01-02,1\n2020-01-02,2\n", "2020-01-02 twice"),
    ):
        csv.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_macro([csv])
    with pytest.raises(ValueError, match="no .csv or .parquet"):
        read_macro([tmp_path / "x.xlsx"])
    with pytest.raises(ValueError, match=r"no column 'us10'; close: \['us10y'\]; .*, or leave the series us10 out"):
        macro({"us10": {"foreign": True}}, table_of())
    with pytest.raises(ValueError, match=r"us10y on 2020-01-02 is 'n.a.'; wanted is a number"):
        macro({"us10y": {"foreign": True}}, pd.DataFrame({"us10y": ["n.a."]}, pd.DatetimeIndex(["2020-01-02"])))


def test_macro_files_in_any_usual_spelling(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('日期;us10y;note\n2020/1/3;1.5;x\nJan 2, 2020;N/A;y\n;;\n2020年1月6日;"1600";\n', encoding="gbk")
    table = read_macro([path])
    assert table["us10y"].fillna(-1).to_dict() == {
        pd.Timestamp("2020-01-02"): -1, pd.Timestamp("2020-01-03"): 1.5, pd.Timestamp("2020-01-06"): 1600.0
    }  # fmt: skip
    path.write_text('date,gold,rate\n2020-01-02,"1,500.5",3.5%\n')
    table = read_macro([path])
    assert table["gold"].tolist() == [1500.5]
    with pytest.raises(ValueError, match=r"a.csv, line 2: rate is '3.5%'; wanted is a number"):
        macro({"rate": {"foreign": True}}, table)
    path.write_text("date;gold\n2020-01-02;1,500\n")  # or one and a half
    with pytest.raises(ValueError, match="line 2: gold is '1,500', in a file separated by semicolons"):
        macro({"gold": {"foreign": True}}, read_macro([path]))
    path.write_text("date,gold\n13/01/2020,1\n01/02/2020,1\n")
    with pytest.raises(ValueError, match="line 2: the date is '13/01/2020', no day"):
        read_macro([path])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    "dates",
    [
        ["2020-01-31", "2020-02-03"],
        ["20200131", "20200203"],
        [20200131, 20200203],
        [20200131.0, 20200203.0],
        [pd.Timestamp("2020-01-31"), pd.Timestamp("2020-02-03")],
        ["2020-01-31 00:00:00", "2020-02-03 00:00:00"],
    ],
)
def test_dates_in_any_usual_form_are_days_and_never_nanoseconds(tmp_path, kind, dates):
    path = tmp_path / f"a.{kind}"
    table = pd.DataFrame({"date": dates, "x": [1.0, 2.0]})
    if kind == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    assert read_macro([path]).index.to_list() == [pd.Timestamp("2020-01-31"), pd.Timestamp("2020-02-03")]


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ([202001, 202002], "a.parquet, row 0: the date is 202001, no day"),  # months, years, Excel's days, milliseconds
        ([2020, 2021], "date is 2020, no day"),
        ([43861, 43862], "date is 43861, no day"),
        ([1580428800000, 1580515200000], "date is 1580428800000, no day"),
        ([20200131, 20200231], "row 1: the date is 20200231, no day"),
        (["2020-01-31", "31.1.20x"], "'31.1.20x', no day"),
        (["2020-01-31", "202002"], "'202002', no day"),
        (["2020-01-31T00:00:00Z", "2020-02-03T00:00:00Z"], "a.parquet, row 0.*with a time zone; give the local day"),
        (["2020-01-31T00:00:00+08:00", "2020-02-03T00:00:00+09:00"], "with a time zone; give the local day"),
        ([pd.Timestamp("2020-01-31", tz="Asia/Shanghai")] * 2, "2020-01-31 00:00:00.08:00., with a time zone"),
        (["2020-01-31 00:00:00", "2020-02-03 11:00:00"], "a.parquet, row 1: 2020-02-03 11:00:00 has a time of day"),
        ([pd.Timestamp("2020-01-31 15:00")] * 2, "row 0: 2020-01-31 15:00:00 has a time of day"),
    ],
)
def test_what_is_no_local_day_is_refused(tmp_path, dates, message):
    pd.DataFrame({"date": dates, "x": [1.0, 2.0]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        read_macro([tmp_path / "a.parquet"])


def test_numbers_as_dates_are_used_on_their_days(tmp_path):
    # read as nanoseconds of 1970 they would all be known from the first day on: the last value everywhere
    days = pd.bdate_range("2019-12-02", "2020-12-31")
    table = pd.DataFrame({"date": days.strftime("%Y%m%d").astype(int), "us10y": np.arange(len(days), dtype=float)})
    table["released"] = (days + pd.Timedelta(days=3)).strftime("%Y%m%d").astype(int)
    table.to_csv(tmp_path / "a.csv", index=False)
    read = read_macro([tmp_path / "a.csv"])
    frame, notices = macro({"us10y": {"foreign": True, "limit": 20}}, read, gaps="warn")
    before = [float(days.searchsorted(day) - 1) for day in frame.index]  # the value of the day before
    assert frame["us10y_level"].to_list() == before and notices == []
    how = {"foreign": False, "frequency": "monthly", "release": "released"}
    frame, _ = macro({"us10y": how}, read)
    before = [float((days + pd.Timedelta(days=3)).searchsorted(day, side="right") - 1) for day in frame.index]
    assert frame["us10y_level"].to_list() == before
    with pytest.raises(ValueError, match="released of 2019-12-02: the date is 'soon', no day"):
        macro({"us10y": how}, read.assign(released="soon"))
    with pytest.raises(ValueError, match="released of 2019-12-02.*with a time zone"):
        macro({"us10y": how}, read.assign(released="2020-01-31T00:00:00Z"))
    with pytest.raises(ValueError, match="released of 2019-12-02: 2020-12-31 18:00 has a time of day"):
        macro({"us10y": how}, read.assign(released="2020-12-31 18:00"))


def months_table(days=1, size=14):
    months = pd.date_range("2019-10-01", periods=size, freq="MS") + pd.Timedelta(days=days - 1)
    return pd.DataFrame({"cpi": 100 + 0.1 * np.arange(size) + 0.02 * (np.arange(size) % 3)}, months)


def test_no_month_is_published_before_it_is_over():
    # month ends differ: 2020-02-01 + 30 is in March, 2020-03-01 + 30 is the 31st; least: the longest month's days
    how = {"foreign": False, "frequency": "monthly"}
    for day, least in ((1, 31), (10, 22), (28, 4), (31, 1)):  # 31: the months' last days
        table = months_table()
        table.index = table.index + pd.offsets.MonthEnd(0) if day == 31 else table.index + pd.Timedelta(days=day - 1)
        over = table.index + pd.offsets.MonthEnd(0)
        for lag in range(60):
            if lag < least:
                with pytest.raises(ValueError, match=f"release_lag={lag} would be .* over; {least} is the smallest"):
                    macro({"cpi": how | {"release_lag": lag}}, table)
                continue
            level = macro({"cpi": how | {"release_lag": lag}}, table)[0]["cpi_level"]
            known = {value: level.index[(level == value).to_numpy()][0] for value in level.unique()}
            ends = dict(zip(table["cpi"], over, strict=True))
            assert all(known[value] > ends[value] for value in known), (day, lag)
    with pytest.raises(ValueError, match=r"cpi of 2019-10-01 with release_lag=28 .* on 2019-10-29, .*or give release"):
        macro({"cpi": how | {"release_lag": 28}}, months_table())
    with pytest.raises(ValueError, match=r"cpi of 2020-03-01 with release_lag=29 .* on 2020-03-30"):  # 1 March is out
        macro({"cpi": how | {"release_lag": 29}}, months_table().loc["2020-02-01":"2020-03-01"])
    mixed = months_table(days=28)
    mixed.index = mixed.index.where(mixed.index.month != 3, mixed.index - pd.Timedelta(days=20))
    with pytest.raises(ValueError, match="cpi of 2020-03-08 with release_lag=10 .*; 24 is the smallest"):  # one row
        macro({"cpi": how | {"release_lag": 10}}, mixed)
    assert len(macro({"cpi": how | {"release": "date"}}, months_table())[0])  # the first days are those of release


def test_a_late_release_of_an_older_month_replaces_nothing():
    table = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0]}, pd.date_range("2020-01-01", periods=4, freq="MS"))
    table["out"] = ["2020-02-10", "2020-03-20", "2020-03-10", "2020-05-11"]  # February after March
    days = CALENDAR[CALENDAR >= "2020-03-02"][:60]
    how = {"foreign": False, "frequency": "monthly", "release": "out", "transform": ["level", "difference"]}
    frame, _ = macro({"a": how}, table, days[10:])
    assert frame["a_level"].drop_duplicates().to_list() == [3.0, 4.0]
    assert frame["a_difference"].drop_duplicates().to_list() == [2.0, 1.0]  # 3 - 1, since 2 came too late, and 4 - 3


@pytest.mark.parametrize("frequency", ["daily", "monthly"])
def test_a_value_without_a_logarithm_stops_only_where_it_is_used(frequency):
    # used is what moves a feature of the days: all that a difference depends on
    calendar = pd.bdate_range("2020-01-01", "2020-12-31")
    if frequency == "daily":
        table, how = pd.DataFrame({"x": np.arange(1.0, 41.0)}, calendar[20:60]), {"foreign": True}
        days = calendar[35:45]
    else:
        table, how = months_table().rename(columns={"cpi": "x"}), {"foreign": False, "release_lag": 40}
        days = calendar[(calendar >= "2020-05-04") & (calendar <= "2020-08-03")]
    how = how | {"frequency": frequency, "jump": 1e9}
    before, _ = macro({"x": how | {"transform": "difference"}}, table, days, calendar)
    stopped = []
    for row in range(len(table)):
        changed = table.copy()
        changed.iloc[row] = -1.0
        after, _ = macro({"x": how | {"transform": "difference"}}, changed, days, calendar)
        log = {"x": how | {"transform": "log_return"}}
        if after.equals(before):
            assert np.isfinite(macro(log, changed, days, calendar)[0]).all(axis=None)
        else:
            stopped.append(row)
            with pytest.raises(ValueError, match="x is -1 on .*no logarithm"):
                macro(log, changed, days, calendar)
    # days 35 to 44 use the values of days 33 to 43, 13 to 23 of the table; May to 3 August: those of 1 March
    # (out on 10 April) to 1 June (11 July), and February before
    assert stopped == (list(range(13, 24)) if frequency == "daily" else [4, 5, 6, 7, 8])


def test_jumps_of_few_moves_of_steps_and_before_the_first_day():
    months = months_table()
    months.iloc[10] *= 3
    how = {"foreign": False, "frequency": "monthly", "release_lag": 40}
    days = CALENDAR[CALENDAR >= "2020-02-03"]
    # 1 August is out on 10 September: seen by days up to then, whatever its own date
    assert "cpi jumps from 100.9 to 303.06 on 2020-08-01" in macro({"cpi": how}, months, days)[1][0]
    assert macro({"cpi": how}, months, days[days < "2020-09-10"])[1] == []
    assert "on 2020-08-01" in macro({"cpi": how}, months, days[days >= "2020-09-10"])[1][0]
    assert macro({"cpi": how | {"limit": 200}}, months.iloc[4:13], days[days >= "2020-07-13"])[1] != []  # 8 moves
    assert macro({"cpi": how | {"limit": 200}}, months.iloc[5:13], days[days >= "2020-07-13"])[1] == []  # 7 moves
    # a policy rate in equal steps of .25 from -1 on: MAD 0, so the median move counts: (250 - .25) / .25 = 999
    rate = table_of()
    rate["us10y"] = -1 + 0.25 * (np.arange(len(rate)) // 20)
    usual = {"us10y": {"foreign": False, "limit": 20, "transform": "difference"}}
    assert macro(usual, rate)[1] == []
    rate.loc["2020-07-01":, "us10y"] += 250
    assert "us10y jumps from 1.5 to 251.5 on 2020-07-01, 999 times" in macro(usual, rate)[1][0]


def test_a_jump_before_the_first_day_is_told_where_a_z_score_still_holds_it():
    table, places = table_of(), {}
    table.loc["2020-03-02", "us10y"] *= 100
    place = int(CALENDAR.searchsorted(pd.Timestamp("2020-03-02")))
    for transform in ("level", "difference", "zscore"):
        series = {"us10y": {"foreign": False, "limit": 20, "transform": transform, "window": 20}}
        told = [bool(macro(series, table, CALENDAR[n : n + 5])[1]) for n in range(place, place + 30)]
        places[transform] = told.index(False)
    # up on the day and down on the next: told for days that begin on either, and up to 20 days later for a z-score
    assert places == {"level": 2, "difference": 2, "zscore": 22}


# --- a planted regime: the market state decides which of two features works, the other one misleads


def planted(days=140, stocks=40, features=4, seed=0):
    rng = np.random.default_rng(seed)
    regime = np.where(np.cumsum(rng.random(days) < 1 / 8) % 2 == 0, 1.0, -1.0)
    x = rng.standard_normal((days, stocks, features)).astype(np.float32)
    own, against = np.where(
        regime[:, None] > 0, x[..., :2].T[:, :, :].transpose(0, 2, 1), x[..., 1::-1].transpose(2, 0, 1)
    )
    label = 0.02 * (own - 0.7 * against + 1.5 * rng.standard_normal((days, stocks)))
    market = np.stack([3 * regime + 0.5 * rng.standard_normal(days), rng.standard_normal(days)], axis=1)
    return regime, DayPanel(
        days=pd.bdate_range("2020-01-01", periods=days).to_numpy(),
        stocks=np.array([f"S{i:03d}" for i in range(stocks)], dtype=object),
        features=[f"f{i}" for i in range(features)],
        x=torch.from_numpy(x),
        present=torch.ones(days, stocks, dtype=torch.bool),
        label=torch.from_numpy(label.astype(np.float32)),
        market=torch.from_numpy(market.astype(np.float32)),
    )


def trained(panel, *, gate, epochs=8):
    size = {"d_model": 8, "t_heads": 2, "s_heads": 2, "dropout": 0.0}
    model = MASTERModel(
        **size, gate=gate, beta=0.5, loss="ic", metric="ic", epochs=epochs, patience=epochs, lr=0.02, device="cpu"
    )
    model.fit_rows(panel, 1, np.arange(80), np.arange(80, 100))
    return model


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gate_finds_a_planted_regime_and_a_net_without_it_does_not(seed):
    regime, panel = planted(seed=seed)
    test = np.arange(100, 140)
    label, x = panel.label[test].numpy(), panel.x[test].numpy()
    own, against = (np.where(regime[test, None] > 0, x[..., i], x[..., 1 - i]) for i in (0, 1))
    found = {}
    for gate in (False, True):
        model = trained(panel, gate=gate)
        found[gate] = metric_value("ic", model.trainer.predict(panel, test), label)[0]
    # the best linear score has an IC of sqrt(1.49 / (1.49 + 2.25)) = .63; the same one on all days, x0 + x1, has
    # .3 * sqrt(2) / (2 * sqrt(1.49 + 2.25)) = .11
    oracle, blind = (metric_value("ic", score, label)[0] for score in (own - 0.7 * against, x[..., 0] + x[..., 1]))
    assert oracle == pytest.approx(0.63, abs=0.05) and blind == pytest.approx(0.11, abs=0.08)
    assert found[True] > 0.7 * oracle and abs(found[False]) < 0.35 * oracle, (found, oracle, blind)
    assert abs(found[False]) < 0.5 * found[True], found
    with torch.no_grad():
        weight = model.trainer.net.gate(panel.market[torch.as_tensor(test)]).numpy()
    calm = regime[test] > 0
    ratio = np.log(weight[:, 0] / weight[:, 1])  # of the feature that works when calm to the other
    assert ratio[calm].mean() > ratio[~calm].mean() + 1.0


def test_the_gate_is_scaled_on_training_days_alone():
    _, panel = planted(days=60)
    after = panel.market.clone()
    after[45:] = 1e3
    gates = []
    for market in (panel.market, after):
        one = DayPanel(**{k: v for k, v in vars(panel).items() if k != "_places"} | {"market": market})
        model = MASTERModel(
            d_model=8, t_heads=2, s_heads=2, dropout=0.0, gate=True, loss="ic", metric="ic", epochs=1, device="cpu"
        )
        model.fit_rows(one, 1, np.arange(45), np.arange(50, 60))
        gates.append(model.trainer.net.gate)
    for name in ("center", "spread", "limit"):
        assert torch.equal(getattr(gates[0], name), getattr(gates[1], name))
    value = panel.market[:45].numpy()
    median = np.sort(value, axis=0)[22]
    np.testing.assert_allclose(gates[0].center, median, rtol=1e-6)
    np.testing.assert_allclose(gates[0].spread, 1.4826 * np.sort(np.abs(value - median), axis=0)[22], rtol=1e-5)
