"""What people write: days, codes, numbers and CSV files in every usual spelling, read surely or refused.

Money hangs on these readings (holdings, ST lists, macro files, segments), so nothing is guessed: what can be
meant in two ways is refused, naming the place, what came and what is allowed.
"""

import csv
import datetime
import io
import math
import re
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

DAY_FORMS = "2020-01-31, 2020/1/31, 20200131 or 2020年1月31日"
CODE_FORMS = "SH600000, 600000.SH, sh.600000, 600000.XSHG, 600000, or 1 for 000001"
NOTHING = ("", "na", "n/a", "#n/a", "nan", "nat", "null", "none", ".", "-", "--")  # of a cell, capitals or not
_WIDE = {0x3000: 0x20} | {0xFF00 + n: 0x20 + n for n in range(1, 95)}  # full-width letters and the blank
_YEAR = r"(1[6-9]\d\d|2\d{3}|9999)"
_DAY = re.compile(
    rf"{_YEAR}(?:([-/.])(\d{{1,2}})\2(\d{{1,2}})|(\d\d)(\d\d)(?:\.0)?|年(\d{{1,2}})月(\d{{1,2}})日)"
    r"(?:[ T]?(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(Z| ?[+-]\d\d:?\d\d)?)?",
    re.ASCII,
)
_CLOCK = re.compile(r"\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?")
_NAMED_MONTHS = ("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y")
_MARKETS = {"SH": "SH", "SS": "SH", "XSHG": "SH", "SZ": "SZ", "XSHE": "SZ", "BJ": "BJ", "XBSE": "BJ", "BJSE": "BJ"}
_MARKET = "|".join(sorted(_MARKETS, key=len, reverse=True))
_CODE = re.compile(rf"(?:({_MARKET})[.:_-]?)?(\d{{1,6}})(?:\.0)?(?:[.:_-]?({_MARKET}))?", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", re.ASCII)
_SPLIT = re.compile(r"[1-9]\d{0,2} 0\d\d")  # two cells that were one number
_ENCODINGS = ("utf-8-sig", "gb18030")
_HEADERS = {  # of brokers and data vendors, and what they surely mean
    **dict.fromkeys(("证券代码", "股票代码", "代码", "ts_code", "instrument", "symbol"), "code"),
    **dict.fromkeys(("持仓数量", "持股数量", "股份余额", "股票余额", "证券数量", "当前持仓", "持有数量"), "shares"),
    **dict.fromkeys(("可用股份", "可用数量", "可用余额", "股份可用", "可卖数量"), "available"),
    **dict.fromkeys(("买入日期", "建仓日期"), "bought"),
    **dict.fromkeys(("成交日期", "委托日期"), "date"),
    **dict.fromkeys(("买卖方向", "买卖标志", "操作", "方向"), "side"),
    **dict.fromkeys(("成交金额", "成交额"), "yuan"),
    **dict.fromkeys(("成交均价", "平均价格"), "average"),
    **dict.fromkeys(("到达价", "决策价"), "arrival"),
    **dict.fromkeys(("日期", "交易日期", "trade_date", "tradedate", "datetime"), "date"),
    **{"start_date": "start", "开始日期": "start", "end_date": "end", "结束日期": "end"},
    **{"ipodate": "start", "list_date": "start", "outdate": "end", "delist_date": "end"},
    **dict.fromkeys(("名称", "证券名称", "股票名称", "证券简称", "股票简称", "code_name"), "name"),
    **dict.fromkeys(("行业", "所属行业", "行业名称"), "industry"),
}


def read_day(what: str, value: Any, *, hint: str = "") -> pd.Timestamp:
    """Read a day.

    Args:
        what: name of the place, for the message.
        value: text in one of `DAY_FORMS` or with the month's English name (Jan 31, 2020), a time of day behind it or
            not; a whole number such as 20200131; a date, a datetime, a Timestamp.
        hint: what to do, put behind the message.

    Returns: the day at midnight, without a time zone.

    Raises: ValueError for no day, for one that can be meant in two ways (01/02/2021), and for a time zone.

    >>> read_day("start", "2020/1/31 15:00"), read_day("start", 20200131)
    (Timestamp('2020-01-31 00:00:00'), Timestamp('2020-01-31 00:00:00'))
    >>> read_day("--date", "01/02/2021")
    Traceback (most recent call last):
    ValueError: --date is '01/02/2021', no day that is surely understood; write 2020-01-31, 2020/1/31, 20200131 or ...
    """
    return read_moment(what, value, hint=hint).normalize()


def read_moment(what: str, value: Any, *, hint: str = "") -> pd.Timestamp:
    """Read a day as `read_day` does, and keep its time of day."""
    zone: Any = None
    if isinstance(value, datetime.date | np.datetime64) and not pd.isna(value):  # of it are datetime and Timestamp
        day: Any = pd.Timestamp(value)
        zone = day.tzinfo
    else:
        day, zone = _written(_plain(value))
    if pd.isna(day):
        raise ValueError(f"{what} is {value!r}, no day that is surely understood; write {DAY_FORMS}{hint}")
    if zone is not None:
        raise ValueError(f"{what} is {str(value)!r}, with a time zone; give the local day as 2020-01-31{hint}")
    return pd.Timestamp(day)


def read_code(what: str, value: Any, *, hint: str = "") -> str:
    """Read the code of a stock in any of `CODE_FORMS`; without an exchange it is a stock's, never an index's.

    Raises: ValueError for what is none, the five digits of Hong Kong (00700) among them.

    >>> [read_code("code", text) for text in ("sh.600000", "600000.SH", "1", "300750", "bj830799", "600000.XSHG")]
    ['SH600000', 'SH600000', 'SZ000001', 'SZ300750', 'BJ830799', 'SH600000']
    """
    found = _CODE.fullmatch(_plain(value))
    named = {_MARKETS[word.upper()] for word in (found[1], found[3]) if word} if found else set()
    digits = found[2].zfill(6) if found else ""
    short = found is not None and len(found[2]) < 6 and (bool(named) or found[2].startswith("0"))
    if not named and digits:
        named = {_exchange(digits)}
    if len(named) != 1 or "" in named or short:
        raise ValueError(f"{what} is {value!r}, no code of a stock; write {CODE_FORMS}{hint}")
    return f"{named.pop()}{digits}"


def read_number(what: str, value: Any, *, hint: str = "") -> float:
    """Read a finite number, with separators of thousands or not (10,000); true, empty text and inf are none.

    Raises: ValueError.

    >>> read_number("shares", "10,000"), read_number("shares", " 1.5e3 ")
    (10000.0, 1500.0)
    """
    text = value if type(value) is str else "" if isinstance(value, bool | np.bool_) else str(value)
    if not _NUMBER.fullmatch(text):
        text = text.translate(_WIDE).strip()
        text = text.replace(",", "") if _GROUPED.fullmatch(text) else text
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{what} is {value!r}; wanted is a number such as 1200 or 1,200.5{hint}")
    return number


def is_nothing(value: Any) -> bool:
    """Whether a cell stands empty: None, NaN, NaT, blank text, or a sign for it (`NOTHING`)."""
    return value.strip().lower() in NOTHING if isinstance(value, str) else bool(np.all(pd.isna(value)))


def read_csv(path: str | Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file of a person: every cell as text, the index the line in the file (the header's is 1).

    Commas, semicolons, tabs and bars separate; UTF-8 (a BOM or not), GB18030 (GBK) and UTF-16 with its mark are read;
    quoted cells, a spreadsheet's ="600000", empty lines and lines from # on are understood; capitals and blanks in the
    header do not matter, and the usual Chinese headers (证券代码, 持仓数量, 日期) are read.

    Args:
        path: the file.
        columns: names that must be there.
        optional: names that may be; other columns are kept under their own names.

    Returns: columns by name; `attrs["separator"]` is the file's.

    Raises:
        ValueError: no such table: naming file, line, what came and what to do.
        OSError: it cannot be opened.
    """
    lines = _decoded(path).splitlines()
    kept = [n for n, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    mark = ""
    if kept and (told := re.fullmatch(r"sep=(.)", lines[kept[0]].strip(), re.IGNORECASE)):  # a spreadsheet's own line
        mark = told[1]
        kept = kept[1:]
    wanted = ",".join(columns)
    if not kept:
        raise ValueError(f"{path} is empty; wanted is a CSV file with the columns {wanted}")
    head = lines[kept[0]]
    mark = mark or max(",;\t|", key=head.count)
    rows = [(n + 1, _cells(f"{path}, line {n + 1}", lines[n], mark)) for n in kept]
    rows = [row for row in rows if any(row[1])] or rows[:1]
    names = [known_name(cell, [*columns, *optional]) for cell in rows[0][1]]
    while names and names[-1] == "":  # an empty last column of a spreadsheet
        names.pop()
    missing = [name for name in columns if name not in names]
    if missing:
        raise ValueError(f"{path}, line {rows[0][0]}: no column {', '.join(missing)}; wanted {wanted}, it has {head!r}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}, line {rows[0][0]}: column {', '.join(twice)} stands twice in {head!r}; keep one")
    for number, cells in rows[1:]:
        thousands = mark == "," and any(len(cell) == 3 and cell[0] == "0" for cell in cells)
        split = thousands and any(map(_SPLIT.fullmatch, map(" ".join, zip(cells, cells[1:], strict=False))))
        if len(cells) < len(names) or any(cells[len(names) :]) or split:
            raise ValueError(
                f"{path}, line {number}: {len(cells)} cells for {len(names)} columns ({','.join(names)}): "
                f"{lines[number - 1]!r}; put a number with separators in quotes, or write it without"
            )
    table = [cells[: len(names)] for _, cells in rows[1:]]
    out = pd.DataFrame(table, columns=names, index=pd.Index([n for n, _ in rows[1:]], name="line"), dtype=str)
    out.attrs["separator"] = mark
    return out


def known_name(cell: str, known: Sequence[str]) -> str:
    """Name of a column among the known ones, by their own or their usual names (`_HEADERS`); else as it stands.

    >>> known_name("TS_CODE", ["code"]), known_name("roe", ["code"])
    ('code', 'roe')
    """
    name = cell.strip("\ufeff ")
    meant = _HEADERS.get(name.lower(), name)
    return next((one for one in known if one.lower() in (name.lower(), meant)), name)


def read_numbers(column: pd.Series, where: str, decimal_comma: bool = False) -> pd.Series:
    """Read a column of numbers, NaN where nothing stands; `where` takes the row's label ("line {}: size").

    Raises: ValueError for the first cell that is none, or that a decimal comma may have made (`decimal_comma`: of a
        file separated by semicolons).
    """
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.astype(float)
    if decimal_comma and len(commas := column[column.astype(str).str.contains(",")]):
        raise ValueError(
            f"{where.format(commas.index[0])} is {commas.iloc[0]!r}, in a file separated by semicolons: write decimals "
            "with a point and no separators of thousands"
        )
    values = [math.nan if is_nothing(v) else read_number(where.format(row), v) for row, v in column.items()]
    return pd.Series(values, column.index, dtype=float)


def _plain(value: Any) -> str:
    """Text of what may be a day or a code: blanks and full-width letters made plain, 20200131.0 whole; else ""."""
    if isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer():
        return f"{float(value):.0f}"
    return value.translate(_WIDE).strip() if isinstance(value, str) else ""


def _written(text: str) -> tuple[Any, str | None]:
    """Moment and time zone of a text; NaT for no day."""
    found = _DAY.fullmatch(text)
    try:
        if found:
            parts = [int(part) for part in found.groups()[:-1] if part and part.isdigit()]
            day, clock = pd.Timestamp(datetime.date(*parts)), _CLOCK.search(text)
            if clock:
                day += pd.Timedelta(clock[0] if clock[0].count(":") == 2 else f"{clock[0]}:00")
            return day, found[9]
        for form in _NAMED_MONTHS if re.search("[A-Za-z]{3}", text) else ():
            try:
                return pd.Timestamp(datetime.datetime.strptime(text, form)), None
            except ValueError:
                continue
    except ValueError:  # the 31st of February
        pass
    return pd.NaT, None


def _exchange(digits: str) -> str:
    """Exchange of a stock's six digits; "" for what no A or B share begins with."""
    if digits.startswith(("60", "68", "90")):
        return "SH"
    if digits.startswith(("00", "20", "30")):
        return "SZ"
    return "BJ" if digits.startswith(("43", "83", "87", "88", "92")) else ""


def _decoded(path: str | Path) -> str:
    """Text of a file."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror or error}") from error
    for encoding in ("utf-16",) if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else _ENCODINGS:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise ValueError(f"{path} is no text in UTF-8, UTF-16 or GBK; save it as CSV (a spreadsheet's own file is none)")


def _cells(place: str, line: str, mark: str) -> list[str]:
    """Cells of a line without blanks around them; ="000001" and '000001 of a spreadsheet are text."""
    if '"' not in line and "'" not in line:  # ten times as quick
        return [cell.strip() for cell in line.split(mark)]
    try:
        cells = next(csv.reader(io.StringIO(line), delimiter=mark, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{place}: {line!r} is no line of a CSV file ({error}); check its quotes") from error
    return [re.sub(r'^="(.*)"$|^\'', r"\1", cell.strip()) for cell in cells]
