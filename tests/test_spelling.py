"""Days, codes, numbers and CSV files as people write them."""

import datetime

import numpy as np
import pandas as pd
import pytest

from qlib_ext.spelling import is_nothing, read_code, read_csv, read_day, read_moment, read_number

DAY = pd.Timestamp("2020-01-31")


@pytest.mark.parametrize(
    "value",
    [
        *(
            "2020-01-31",
            "2020/1/31",
            "2020.01.31",
            "20200131",
            "2020年1月31日",
            "2020-01-31 15:00",
            "2020-01-31T09:30:00.5",
            "２０２０－０１－３１",
            "20200131.0",
            "Jan 31, 2020",
            "31-Jan-2020",
        ),
        *(20200131, datetime.date(2020, 1, 31), datetime.datetime(2020, 1, 31, 15), pd.Timestamp("2020-01-31 15:00")),
        *(20200131.0, np.datetime64("2020-01-31")),
    ],
)
def test_a_day_in_every_usual_form(value):
    assert read_day("day", value) == DAY


@pytest.mark.parametrize(
    "value",
    [
        *("01/02/2021", "1/2/21", "31-01-2020", "2020-02-30", "2020-1/3", "2020-01-31 25:00", "today", "", None, True),
        *(1.5, 5, 20200231, float("nan"), pd.NaT, pd.Timestamp("2020-01-31", tz="Asia/Shanghai")),
        *("2020-01-31T00:00Z", "2020-01-31 00:00+08:00", "0220-01-31", "2020-01", "43861"),
    ],
)
def test_what_is_not_surely_a_day_is_refused(value):
    with pytest.raises(ValueError, match="--date is "):
        read_day("--date", value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *(
            (form, "SH600000")
            for form in ("SH600000", "sh600000", "sh.600000", "600000.SH", "600000.ss", "600000.XSHG")
        ),
        *(("600000", "SH600000"), (600000, "SH600000"), ("1", "SZ000001"), ("300750.0", "SZ300750")),
        *(("688981", "SH688981"), ("830799", "BJ830799"), ("920819", "BJ920819"), ("000300.SH", "SH000300")),
    ],
)
def test_a_code_in_every_usual_form(text, code):
    assert read_code("code", text) == code


def test_a_moment_keeps_its_time():
    assert read_moment("day", "2020/1/31 15:00") == pd.Timestamp("2020-01-31 15:00")
    assert read_moment("day", "20200131 09:30:01.5") == pd.Timestamp("2020-01-31 09:30:01.5")


@pytest.mark.parametrize(
    "text",
    ["AAPL", "00700.HK", "00700", "SH1", "1.SZ", "SH600000.SZ", "510300", "", "6000000", "6E+05", "²", True, None, 1.5],
)
def test_what_is_no_code_is_refused(text):
    with pytest.raises(ValueError, match="no code of a stock"):
        read_code("code", text)


@pytest.mark.parametrize(
    ("text", "number"), [("10,000", 1e4), ("1,234,567.5", 1234567.5), ("-1e3", -1e3), (7, 7.0), ("１０，０００", 1e4)]
)
def test_a_number_with_separators_or_not(text, number):
    assert read_number("shares", text) == number


@pytest.mark.parametrize(
    "text",
    [
        "10,00",
        "1.2.3",
        "True",
        True,
        "inf",
        "nan",
        "",
        "12手",
        "1 000",
        "0x10",
        "5%",
        "1e400",
        "0,500",
        "1.234,56",
        "²",
        "٣",
    ],
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match="shares is "):
        read_number("shares", text)


@pytest.mark.parametrize(
    "raw",
    [
        b"code,shares\nSH600000,100\n",
        "﻿Code; Shares \r\n\r\n# held since June\r\nSH600000;100\r\n".encode(),
        "code\tshares\t\nSH600000\t100\t\n".encode("utf-16"),
        "code,shares,名称\nSH600000,100,浦发银行\n".encode("gbk"),
        b'code,shares\n"SH600000","100"\n',
        b"sep=;\ncode;shares\nSH600000;100\n",
        b'code,shares\n="SH600000",\'100\n',
        "证券代码\t证券名称\t股份余额\t可用股份\nSH600000\t浦发银行\t100\t0\n".encode("gbk"),
    ],
)
def test_a_csv_of_any_spreadsheet(raw, tmp_path):
    (tmp_path / "held.csv").write_bytes(raw)
    table = read_csv(tmp_path / "held.csv", ["code", "shares"])
    assert table[["code", "shares"]].to_numpy().tolist() == [["SH600000", "100"]]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is empty"),
        (b"code,share\nSH600000,1\n", "line 1: no column shares"),
        (b"code,shares,shares\nSH600000,1,2\n", "column shares stands twice"),
        (b"code,shares\n\nSH600427,10,000\n", "line 3: 3 cells for 2 columns"),
        (b"code,shares\nSH600427\n", "line 2: 1 cells for 2 columns"),
        (b"code,shares,name\nSH600427,10,000\n", "line 2: 3 cells for 3 columns"),
        (b'code,shares\nSH600427,"10\n', "line 2: 'SH600427,\"10' is no line of a CSV file"),
        ("证券数量,证券代码,股份余额\n".encode(), "column shares stands twice in '证券数量"),
        (b"\xff\xfe\x00", "no text in"),
        (b"\x89PNG\x00\xff\xfa", "no text in UTF-8, UTF-16 or GBK"),
    ],
)
def test_what_is_no_such_table_is_refused_by_line(raw, words, tmp_path):
    (tmp_path / "held.csv").write_bytes(raw)
    with pytest.raises(ValueError, match="held.csv") as caught:
        read_csv(tmp_path / "held.csv", ["code", "shares"])
    assert words in str(caught.value)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv cannot be read: No such file"):
        read_csv(tmp_path / "none.csv", ["code"])
    with pytest.raises(IsADirectoryError, match="cannot be read"):
        read_csv(tmp_path, ["code"])


def test_what_stands_for_nothing():
    assert all(map(is_nothing, ["", " N/A ", "--", ".", "NaT", None, float("nan"), pd.NaT]))
    assert not any(map(is_nothing, ["0", 0, "none of it", "x"]))
