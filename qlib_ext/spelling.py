"""What people write: days, codes, numbers and CSV files in every usual spelling, read surely or refused.

Money hangs on these readings (holdings, ST lists, macro files, segments), so nothing is guessed: what can be
meant in two ways is refused, naming the place, what came and what is allowed.
"""

import csv
import datetime
import io
import re
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd

DAY_FORMS = "2020-01-31, 2020/1/31, 20200131 or 2020年1月31日"
CODE_FORMS = "SH600000, 600000.SH, sh.600000, 600000.XSHG, 600000, or 1 for 000001"
_DAY = re.compile(
    r"(\d{4})(?:([-/.])(\d{1,2})\2(\d{1,2})|(\d\d)(\d\d)|年(\d{1,2})月(\d{1,2})日)"
    r"(?:[ T]?(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?)?"
)
_MARKETS = {"SH": "SH", "SS": "SH", "XSHG": "SH", "SZ": "SZ", "XSHE": "SZ", "BJ": "BJ", "XBSE": "BJ", "BJSE": "BJ"}
_MARKET = "|".join(sorted(_MARKETS, key=len, reverse=True))
_CODE = re.compile(rf"(?:({_MARKET})[.:_-]?)?(\d{{1,6}})(?:\.0)?(?:[.:_-]({_MARKET}))?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?\d{1,3}([,，]\d{3})+(\.\d*)?")
_ENCODINGS = ("utf-8-sig", "gb18030")


def read_day(what: str, value: Any, *, hint: str = "") -> pd.Timestamp:
    """Read a day.

    Args:
        what: name of the place, for the message.
        value: text in one of `DAY_FORMS`, a time of day behind it or not; a whole number such as 20200131; a date,
            a datetime, a Timestamp.
        hint: what to do, put behind the message.

    Returns: the day at midnight, without a time zone.

    Raises: ValueError for no day, for one that can be meant in two ways (01/02/2021), and for a time zone.

    >>> read_day("start", "2020/1/31 15:00"), read_day("start", 20200131)
    (Timestamp('2020-01-31 00:00:00'), Timestamp('2020-01-31 00:00:00'))
    >>> read_day("--date", "01/02/2021")
    Traceback (most recent call last):
    ValueError: --date is '01/02/2021', no day that is surely understood; write 2020-01-31, 2020/1/31, 20200131 or ...
    """
    if isinstance(value, datetime.date) and not pd.isna(value):  # of it are datetime and Timestamp
        day: Any = pd.Timestamp(value)
    else:
        text = str(value).strip() if isinstance(value, str) or _is_whole(value) else ""
        found = _DAY.fullmatch(text)
        parts = [int(part) for part in found.groups() if part and part.isdigit()] if found else []
        try:
            day = pd.Timestamp(datetime.date(*parts[:3])) if parts else pd.NaT
        except ValueError:  # the 31st of February
            day = pd.NaT
    if pd.isna(day):
        raise ValueError(f"{what} is {value!r}, no day that is surely understood; write {DAY_FORMS}{hint}")
    if day.tzinfo is not None:
        raise ValueError(f"{what} is {value!r}; give the trading day without a time zone{hint}")
    return pd.Timestamp(day).normalize()


def read_code(what: str, value: Any, *, hint: str = "") -> str:
    """Read the code of a stock in any of `CODE_FORMS`; without an exchange it is a stock's, never an index's.

    Raises: ValueError for what is none.

    >>> [read_code("code", text) for text in ("sh.600000", "600000.SH", "1", "300750", "bj830799", "600000.XSHG")]
    ['SH600000', 'SH600000', 'SZ000001', 'SZ300750', 'BJ830799', 'SH600000']
    """
    text = str(value).strip() if isinstance(value, str) or _is_whole(value) else ""
    found = _CODE.fullmatch(text)
    named = {_MARKETS[word.upper()] for word in (found[1], found[3]) if word} if found else set()
    digits = found[2].zfill(6) if found else ""
    if not named and digits:
        named = {_exchange(digits)}
    if len(named) != 1 or "" in named or (found and found[1] and len(found[2]) < 6):
        raise ValueError(f"{what} is {value!r}, no code of a stock; write {CODE_FORMS}{hint}")
    return f"{named.pop()}{digits}"


def read_number(what: str, value: Any, *, hint: str = "") -> float:
    """Read a number, with separators of thousands or not (10,000); true, empty text and inf are none.

    Raises: ValueError.

    >>> read_number("shares", "10,000"), read_number("shares", " 1.5e3 ")
    (10000.0, 1500.0)
    """
    text = str(value).strip() if not isinstance(value, bool) else ""
    if _GROUPED.fullmatch(text):
        text = re.sub("[,，]", "", text)
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{what} is {value!r}; wanted is a number such as 1200 or 1,200.5{hint}")
    return float(text)


def read_csv(path: str | Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file of a person: every cell as text, the index the line in the file (the header's is 1).

    Commas, semicolons, tabs and bars separate; UTF-8 (a BOM or not) and GB18030 (GBK) are read; quoted cells, empty
    lines and lines from # on are understood; capitals and blanks in the header do not matter.

    Args:
        path: the file.
        columns: names that must be there.
        optional: names that may be; other columns are kept under their own names.

    Raises:
        ValueError: no such table: naming file, line, what came and what to do.
        OSError: it cannot be opened.
    """
    raw = Path(path).read_bytes()
    text = _decoded(path, raw)
    lines = text.splitlines()
    kept = [n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    wanted = ",".join(columns)
    if not kept:
        raise ValueError(f"{path} is empty; wanted is a CSV file with the columns {wanted}")
    head = lines[kept[0]]
    mark = max(",;\t|", key=head.count)
    rows = [(n + 1, next(csv.reader(io.StringIO(lines[n]), delimiter=mark, skipinitialspace=True))) for n in kept]
    names = [_name(cell, [*columns, *optional]) for cell in rows[0][1]]
    while names and names[-1] == "":  # an empty last column of a spreadsheet
        names.pop()
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(f"{path}, line {rows[0][0]}: no column {', '.join(missing)}; wanted {wanted}, it has {head!r}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}, line {rows[0][0]}: column {', '.join(twice)} stands twice; keep one")
    for number, cells in rows[1:]:
        if len(cells) < len(names) or any(cell.strip() for cell in cells[len(names) :]):
            raise ValueError(
                f"{path}, line {number}: {len(cells)} cells for {len(names)} columns ({','.join(names)}): "
                f"{lines[number - 1]!r}; put a number with separators in quotes, or write it without"
            )
    table = [[cell.strip() for cell in cells[: len(names)]] for _, cells in rows[1:]]
    return pd.DataFrame(table, columns=names, index=pd.Index([n for n, _ in rows[1:]], name="line"), dtype=str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _exchange(digits: str) -> str:
    """Exchange of a stock's six digits; "" for what no A or B share begins with."""
    if digits.startswith(("60", "68", "90")):
        return "SH"
    if digits.startswith(("00", "20", "30")):
        return "SZ"
    return "BJ" if digits.startswith(("43", "83", "87", "88", "92")) else ""


def _decoded(path: str | Path, raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16")
    for encoding in _ENCODINGS:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise ValueError(f"{path} is no text in UTF-8 or GBK; save it as CSV (a spreadsheet's own file is none)")


def _name(cell: str, known: Sequence[str]) -> str:
    name = cell.strip().strip("﻿")
    return next((one for one in known if one.lower() == name.lower()), name)
