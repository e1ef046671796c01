"""Tables of the user's own: read in every form, refused where not sure, and known on the right day."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_ext.frames import EVER, frame_files, known_grids, read_frame, read_frames

WEEK = pd.to_datetime(["2022-01-06", "2022-01-07", "2022-01-10", "2022-01-11", "2022-01-12"])  # Thursday to Wednesday
CODES = ["SH600000", "SZ000001", "SZ300750"]


def written(place, text):
    place.write_text(text, encoding="utf-8")
    return place


def table(rows, names=("roe",)):
    """Table of {(day, code): values}."""
    index = pd.MultiIndex.from_tuples([(pd.Timestamp(day), code) for day, code in rows])
    return pd.DataFrame(list(rows.values()), index.set_names(["datetime", "instrument"]), list(names)).sort_index()


def known(rows, **options):
    """Values of one stock over the week, NaN as 0."""
    grid = known_grids(table(rows), WEEK, WEEK, CODES[:1], **options)["roe"]
    return np.nan_to_num(grid[:, 0]).tolist()


# --- what is known when


def test_a_value_is_known_its_lag_after_its_day():
    rows = {("2022-01-06", CODES[0]): 1.0, ("2022-01-10", CODES[0]): 2.0}
    assert known(rows, lag=0) == [1, 0, 2, 0, 0]
    assert known(rows, lag=1) == [0, 1, 0, 2, 0]  # over the weekend: trading days
    assert known(rows, lag=3) == [0, 0, 0, 1, 0]
    assert known(rows, lag={"roe": 2}) == [0, 0, 1, 0, 2]


def test_what_is_published_on_a_day_off_is_known_on_the_next_trading_day():
    for day in ("2022-01-08", "2022-01-09"):
        assert known({(day, CODES[0]): 1.0}, lag=0) == known({(day, CODES[0]): 1.0}, lag=1) == [0, 0, 1, 0, 0]
        assert known({(day, CODES[0]): 1.0}, lag=2) == [0, 0, 0, 1, 0]
    both = {("2022-01-07", CODES[0]): 1.0, ("2022-01-08", CODES[0]): 2.0}  # both on Monday: the later one
    assert known(both, lag=1) == [0, 0, 2, 0, 0]


def test_a_value_is_carried_on_to_its_age():
    rows = {("2022-01-06", CODES[0]): 1.0, ("2022-01-11", CODES[0]): 2.0}
    assert known(rows, lag=0, max_age=1) == [1, 1, 0, 2, 2]
    assert known(rows, lag=0, max_age=2) == [1, 1, 1, 2, 2]
    assert known(rows, lag=1, max_age=None) == [0, 1, 1, 1, 2]
    assert known(rows | {("2022-01-10", CODES[0]): np.nan}, lag=0, max_age=2) == [1, 1, 1, 2, 2]  # an empty cell


def test_what_is_older_than_the_days_wanted_is_carried_into_them():
    rows = {("2022-01-06", CODES[0]): 1.0}
    for age, later in ((1, 0), (2, 1)):
        assert known_grids(table(rows), WEEK, WEEK[2:], CODES, lag=0, max_age=age)["roe"][0, 0] == later or later == 0
    old = table({("2022-01-04", CODES[0]): 1.0})  # two weekdays before the calendar
    grids = [known_grids(old, WEEK, WEEK, CODES, lag=lag, max_age=2)["roe"][:, 0] for lag in (0, 1)]
    assert np.isfinite(grids[0]).tolist() == [True, False, False, False, False]
    assert np.isfinite(grids[1]).tolist() == [True, True, False, False, False]
    ever = known_grids(table({(EVER, CODES[0]): 1.0}), WEEK, WEEK[3:], CODES, lag=0, max_age=None)["roe"]
    assert ever[:, 0].tolist() == [1.0, 1.0] and np.isnan(ever[:, 1:]).all()


def test_categories_are_carried_too():
    frame = table({("2022-01-06", CODES[0]): "bank", ("2022-01-10", CODES[1]): "steel"}).astype("category")
    grid = known_grids(frame, WEEK, WEEK, CODES, lag=0, max_age=None)["roe"]
    assert grid[:, 0].tolist() == ["bank"] * 5 and grid[:, 1].tolist() == [None, None, "steel", "steel", "steel"]


def slow(frame, calendar, days, stocks, lag, max_age):
    """The same, one day, stock and value at a time."""
    out = np.full((len(days), len(stocks)), np.nan, dtype=np.float32)
    for d, day in enumerate(days):
        for n, stock in enumerate(stocks):
            for (date, code), value in frame.items():
                later = [one for one in calendar if one > date]
                since = [date, *later] if date in calendar else later  # closes from the date on
                at = lag if date in calendar else max(lag - 1, 0)
                if code != stock or np.isnan(value) or len(since) <= at:
                    continue
                first = since[at]
                age = len([one for one in calendar if first < one <= day])
                if first <= day and age <= max_age:
                    out[d, n] = value
    return out


@settings(max_examples=40, deadline=None)
@given(
    cells=st.dictionaries(
        st.tuples(st.integers(0, 18), st.integers(0, 2)), st.sampled_from([1.0, 2.0, 3.0, np.nan]), min_size=1
    ),
    lag=st.integers(0, 3),
    max_age=st.integers(0, 6),
    begin=st.integers(0, 6),
)
def test_the_grid_is_that_of_a_slow_search(cells, lag, max_age, begin):
    calendar = pd.bdate_range("2022-01-03", "2022-01-21").drop(pd.Timestamp("2022-01-12"))
    rows = {(calendar[0] + pd.Timedelta(days=day), CODES[n]): value for (day, n), value in cells.items()}
    frame = table(rows)
    got = known_grids(frame, calendar, calendar[begin:], CODES, lag=lag, max_age=max_age)["roe"]
    np.testing.assert_array_equal(got, slow(frame["roe"], calendar, calendar[begin:], CODES, lag, max_age))


def test_nothing_that_is_published_later_changes_what_was_known():
    rng = np.random.default_rng(0)
    calendar = pd.bdate_range("2022-01-03", periods=60)
    rows = {(day, code): rng.normal() for day in pd.date_range(calendar[0], calendar[-1]) for code in CODES}
    frame = table(rows)
    for lag in (0, 1, 2):
        cut = calendar[30]
        later = frame.index.get_level_values(0) > cut
        other = frame.where(~later[:, None], frame * 9)
        then, now = (known_grids(one, calendar, calendar, CODES, lag=lag, max_age=5)["roe"] for one in (frame, other))
        np.testing.assert_array_equal(then[:31], now[:31])
        assert (then[31:] != now[31:]).mean() > 0.9


# --- files


def many(days=40, stocks=60):
    """Text of a long CSV file, large enough to be read the quick way, and its table."""
    rng = np.random.default_rng(1)
    dates = pd.bdate_range("2022-01-03", periods=days)
    index = pd.MultiIndex.from_product(
        [dates, [f"SH{600000 + n}" for n in range(stocks)]], names=["datetime", "instrument"]
    )
    values = rng.normal(size=(len(index), 2)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    return pd.DataFrame(values, index, ["roe", "growth"])


def forms(frame, place):
    """The table in every form of file: name -> read."""
    flat = frame.reset_index()
    flat.to_csv(place / "long.csv", index=False)
    flat.sample(frac=1, random_state=0).to_csv(place / "shuffled.csv", index=False, sep=";")
    other = flat.assign(
        instrument=flat["instrument"].str[2:].astype(int), datetime=flat["datetime"].dt.strftime("%Y%m%d")
    )
    other.rename(columns={"instrument": "ts_code", "datetime": "trade_date"}).to_csv(place / "other.csv", index=False)
    flat.to_csv(place / "quoted.csv", index=False, quoting=1, na_rep="null")
    text = (place / "long.csv").read_text().replace("datetime,instrument", "日期,证券代码")
    (place / "gbk.csv").write_bytes(text.encode("gb18030"))
    flat.to_parquet(place / "long.parquet")
    frame.to_parquet(place / "index.parquet")
    halves = [frame[frame.index.get_level_values(0).month == month] for month in (1, 2)]
    for n, half in enumerate(halves):
        half.to_parquet(place / f"half{n}.parquet")
    for kind in ("csv", "parquet"):
        (place / kind).mkdir()
        for name in frame:
            wide = frame[name].unstack()
            if kind == "csv":
                wide.to_csv(place / kind / f"{name}.csv", index_label=None if name == "roe" else "date")
            else:
                wide.to_parquet(place / kind / f"{name}.parquet")
    names = ["long.csv", "shuffled.csv", "other.csv", "quoted.csv", "gbk.csv", "long.parquet", "index.parquet"]
    read = {name: read_frame(place / name) for name in [*names, "csv", "parquet"]}
    return read | {"halves": read_frame([place / "half1.parquet", place / "half0.parquet"])}


def test_every_form_of_a_table_is_the_same(tmp_path):
    frame = many()
    for name, got in forms(frame, tmp_path).items():
        want = frame if name not in ("csv", "parquet") else frame.dropna(how="all")
        got = got[["roe", "growth"]]
        assert (got.dtypes == np.float32).all() and got.index.is_monotonic_increasing, name
        pd.testing.assert_frame_equal(got, want, check_freq=False, check_index_type=False, check_column_type=False)


def test_the_quick_way_and_the_careful_one_read_the_same(tmp_path, monkeypatch):
    many().reset_index().to_csv(tmp_path / "a.csv", index=False)
    quick = read_frame(tmp_path / "a.csv")
    monkeypatch.setattr("qlib_ext.frames.tables._QUICK", 1 << 40)
    pd.testing.assert_frame_equal(read_frame(tmp_path / "a.csv"), quick)


@pytest.mark.parametrize(
    ("cell", "words"),
    [("1o2", "'1o2'"), ("inf", "'inf'"), ("-inf", "'-inf'"), ("1e39", "1e+39"), ("True", "'True'"), ("1;2", "'1;2'")],
)
def test_the_quick_way_leaves_what_is_odd_to_the_careful_one(tmp_path, cell, words):
    lines = many().reset_index().to_csv(index=False).splitlines()
    lines[1000] = ",".join([*lines[1000].split(",")[:3], cell])
    with pytest.raises(ValueError, match="a.csv, line 1001: growth") as caught:
        read_frame(written(tmp_path / "a.csv", "\n".join(lines)))
    assert words in str(caught.value)


def test_a_broken_line_is_named(tmp_path):
    lines = many().reset_index().to_csv(index=False).splitlines()
    with pytest.raises(ValueError, match="line 2401: 3 cells for 4 columns"):
        read_frame(written(tmp_path / "a.csv", "\n".join([*lines[:-1], lines[-1].rpartition(",")[0]])))


def test_columns_are_chosen_and_renamed(tmp_path):
    frame = many()
    frame.reset_index().assign(name="平安").to_csv(tmp_path / "a.csv", index=False)
    assert list(read_frame(tmp_path / "a.csv", columns=["growth"])) == ["growth"]
    assert list(read_frame(tmp_path / "a.csv", columns={"roe": "ROE_TTM"})) == ["ROE_TTM"]
    with pytest.raises(ValueError, match="name is '平安'.*name the columns that are wanted"):
        read_frame(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="no column 'grow' in a.csv; close: \\['growth'\\]"):
        read_frame(tmp_path / "a.csv", columns=["grow"])
    frame[["roe"]].unstack().droplevel(0, axis=1).to_parquet(tmp_path / "roe.parquet")
    with pytest.raises(ValueError, match="roe: in files of different columns"):
        read_frame([tmp_path / "a.csv", tmp_path / "roe.parquet"], columns=["roe", "growth"])
    assert [list(one) for one in read_frames([tmp_path / "a.csv", tmp_path / "roe.parquet"], columns=["growth"])] == [
        ["growth"]
    ]


def test_of_reports_the_latest_period_counts(tmp_path):
    text = """ts_code,ann_date,end_date,roe
600000.SH,20220108,20210930,1
600000.SH,20220110,20211231,2
600000.SH,20220110,20220331,3
600000.SH,20220111,20211231,9
000001.SZ,20220111,20211231,4
"""
    file = written(tmp_path / "a.csv", text)
    with pytest.raises(ValueError, match="a.csv has no date .*ann_date, end_date"):
        read_frame(file)
    got = read_frame(file, date="ann_date", period="end_date")
    assert got["roe"].tolist() == [1.0, 3.0, 4.0]  # the restated 2021 comes after the first quarter of 2022 was out
    assert "2 rows are of an older period" in got.attrs["told"][0]
    with pytest.raises(ValueError, match="line 4: SH600000 has a second row of 2022-01-10.*period:"):
        read_frame(file, date="ann_date", columns=["roe"])


def test_categories(tmp_path):
    text = "code,industry,size\n600000,bank,1\n1,-,2\n"
    got = read_frame(written(tmp_path / "a.csv", text), categories=True, undated=True)
    assert got.index.levels[0].tolist() == [EVER] and got["size"].tolist() == [1.0, 2.0]
    assert got["industry"].isna().tolist() == [False, True] and got["industry"].iloc[0] == "bank"
    with pytest.raises(ValueError, match="a.csv has no date .*industry, size"):
        read_frame(tmp_path / "a.csv", categories=True)


def test_files_are_found(tmp_path):
    (tmp_path / "market").mkdir()
    file = written(tmp_path / "market" / "a.csv", "x")
    assert frame_files("a.csv", home=[tmp_path / "market"]) == [file]
    with pytest.raises(FileNotFoundError, match="no file 'b.csv' here .* nor in"):
        frame_files("b.csv", home=[tmp_path / "market"])
    with pytest.raises(ValueError, match="no file; wanted are .csv and .parquet"):
        frame_files(tmp_path)
    with pytest.raises(ValueError, match="a.xlsx; wanted"):
        frame_files(written(tmp_path / "a.xlsx", "x"))
    with pytest.raises(ValueError, match="path is .None.; wanted"):
        frame_files([None])
