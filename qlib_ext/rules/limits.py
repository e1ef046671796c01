"""China A-share trading rules by date: boards, daily price limits, limit prices, lots, T+1.

The numbers come from the package `marina-rules` (a quoted official source for each record, see `citations`); this
module only lays them out over days x stocks. Lots and largest orders are tables of our own: marina-rules has no record.
Legend: `D` trading days, `N` stocks; codes are qlib's (`SH600000`, ...).

Known limitation: **ST flags are the user's** (`st_mask`). A stock under special treatment on the main board had a 5%
limit until 2026-07-06 (ChiNext until 2020-08-24); without a list of ST stocks by date every stock gets its board's
limit, and is beyond reach only where it has one price all day (`one_price_limit`). The days of a delisting period (no
limit on its first day) are not known either.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import marina_rules as mr
import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.options import check_choice
from qlib_ext.spelling import is_nothing, read_code, read_csv, read_day

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_BOARDS = {"SH60": "main", "SZ00": "main", "SZ30": "chinext", "SH688": "star", "SH689": "star"}
_INDICES = ("SH000", "SZ399", "BJ899")
_SCOPES = {"main": "main_board", "chinext": "chinext", "star": "star", "beijing": "bse"}
_EXCHANGES = {"SH": "XSHG", "SZ": "XSHE", "BJ": "BJSE"}
# (scope of marina-rules, number of days since listing it covers), the newer regime first
_LISTING = {
    "main": (("ipo_first5_main", 5), ("ipo_day1_main", 1)),
    "chinext": (("ipo_first5_chinext", 5), ("ipo_day1_main", 1)),
    "star": (("ipo_first5_star", 5),),
    "beijing": (("ipo_day1_bse", 1),),
}
_ST_SCOPES = {"main": "st_main", "chinext": "st_chinext", "star": "st_star", "beijing": "st_bse"}
NEW_DAYS = 5  # after listing, that may have limits of their own
_LOTS = {"main": (100, 100), "chinext": (100, 100), "star": (200, 1), "beijing": (100, 1)}
_LARGEST = {"main": (1e6, 1e6), "chinext": (3e5, 1.5e5), "star": (1e5, 5e4), "beijing": (1e6, 1e6)}  # limit, market
_CHINEXT_REFORM = pd.Timestamp("2020-08-24")  # before it ChiNext had the main board's
_SPELL = ("code", "start", "end")
_LOT_TEXT = (
    "buy orders: main board and ChiNext 100 shares or a multiple; STAR at least 200, then single shares; Beijing at "
    "least 100, then single shares; a remainder below the minimum is sold in one order"
)
_LARGEST_TEXT = (
    "shares of one order at most: main boards and Beijing 1,000,000; STAR 100,000 by a limit order, 50,000 by a market "
    "order; ChiNext 300,000 and 150,000 from 2020-08-24, 1,000,000 before"
)
_LARGEST_SOURCES = "english.sse.com.cn/start/trading/mechanism, star.sse.com.cn/en/gettingstarted/features/trading"
_FEE_RULES = ("stamp_duty_sell", "transfer_fee_each_side", "commission_cap", "commission_min_per_order_cny")


class Lots(NamedTuple):
    """Smallest order and step above it, raw shares, each (D, N) float64; NaN before the board existed."""

    minimum: FloatArray
    step: FloatArray


def is_index(code: str) -> bool:
    """Whether a code is an index: SH000xxx, SZ399xxx or BJ899xxx (any case)."""
    return code.upper().startswith(_INDICES)


def board_of(code: str) -> str:
    """Board of an A share by the prefix of its qlib code: "main", "star", "chinext" or "beijing".

    Raises ValueError for an index, a B share, a fund or anything else.

    >>> board_of("SH600000"), board_of("SZ300001"), board_of("SH688001")
    ('main', 'chinext', 'star')
    """
    name = code.upper()
    digits = name[2:]
    if not is_index(name) and len(digits) == 6 and digits.isdigit():
        board = _BOARDS.get(name[:4]) or _BOARDS.get(name[:5])
        if board is not None:
            return board
        if name.startswith("BJ"):
            return "beijing"
    what = "an index" if is_index(name) else "not a known A-share code"
    raise ValueError(
        f"board_of: {code!r} is {what}; allowed are SH60xxxx and SZ00xxxx (main), SZ30xxxx (ChiNext), "
        "SH688xxx and SH689xxx (STAR), BJxxxxxx (Beijing). Leave indices, B shares and funds out "
        "(`is_index` tells an index)."
    )


def is_a_share(code: str) -> bool:
    """Whether a code is of a board whose rules are known (see `board_of`)."""
    try:
        board_of(code)
    except ValueError:
        return False
    return True


def read_share(what: str, value: Any, *, hint: str = "; leave it out") -> str:
    """Read the code of an A share in any of `spelling.CODE_FORMS`, as qlib writes it.

    Raises: ValueError for another code, naming the place `what`, with the hint behind.

    >>> read_share("code", "600000.sh"), read_share("code", 1)
    ('SH600000', 'SZ000001')
    """
    code = read_code(what, value, hint=hint)
    if not is_a_share(code):
        kind = "an index" if is_index(code) else "not a known A-share code (a fund, a bond, a B share?)"
        raise ValueError(f"{what} is {value!r}, {kind}; only A shares are allowed{hint}")
    return code


def scope_of(code: str) -> str:
    """Scope of a code's board in marina-rules: "main_board", "chinext", "star" or "bse"."""
    return _SCOPES[board_of(code)]


def price_limit(
    codes: Sequence[str],
    dates: Any,
    *,
    listed_days: npt.ArrayLike | None = None,
    st: npt.ArrayLike | None = None,
    side: str = "up",
) -> FloatArray:
    """Daily price limit of each stock as a fraction of its previous close, (D, N).

    Args:
        codes: N A-share codes.
        dates: D dates, in any form that pandas.DatetimeIndex takes.
        listed_days: (D, N) trading days since listing, 1 on the first day; NaN or < 1 where unknown or not
            listed, inf where long ago (see `provider.ages`). `dates` must then be consecutive trading days,
            in order. A stock keeps the rules of its own first day: five days without a limit (STAR from 2019-07-22,
            ChiNext from 2020-08-24, main board from 2023-04-10), one day (Beijing), or +44%/-36% on day one (main board
            and early ChiNext before; relative to the issue price).
        st: (D, N) bool, True where the stock is under special treatment (see `st_mask`); None: no stock is.
        side: "up" or "down"; they differ only on such a first day (0.44 and 0.36).

    Returns:
        float64 (D, N): 0.10, 0.20, 0.30; inf where there is no limit; NaN on days before the board existed.

    Raises:
        ValueError: another side, a code that is no A share (see `board_of`), `st` or `listed_days` that are not
            (D, N), or, with `listed_days`, dates out of order.

    Source: marina-rules `price_limit_pct`.

    >>> price_limit(["SH600000", "SZ300001", "BJ430047"], ["2020-08-21", "2021-11-15"])
    array([[0.1, 0.1, nan],
           [0.1, 0.2, 0.3]])
    """
    check_choice("side", side, ("up", "down"))
    days = pd.DatetimeIndex(dates)
    out = np.empty((len(days), len(codes)))
    special, age = (
        None if grid is None else np.asarray(grid, dtype=kind) for grid, kind in ((st, bool), (listed_days, float))
    )
    for name, grid in (("st", special), ("listed_days", age)):
        if grid is not None and grid.shape != out.shape:
            raise ValueError(f"price_limit: {name} has shape {grid.shape}; allowed: (days, stocks) = {out.shape}")
    if age is not None and not days.is_monotonic_increasing:
        raise ValueError("price_limit: with listed_days, dates must be consecutive trading days in order; sort them.")
    groups: dict[tuple[str, str], list[int]] = {}
    for column, code in enumerate(codes):
        groups.setdefault((board_of(code), _EXCHANGES[code[:2].upper()]), []).append(column)
    for (board, exchange), columns in groups.items():
        plain = by_date("price_limit_pct", days, _SCOPES[board], exchange, side)[:, None]
        out[:, columns] = plain
        if special is not None:
            under = by_date("price_limit_pct", days, _ST_SCOPES[board], exchange, side)[:, None]
            out[:, columns] = np.where(special[:, columns], under, plain)
        if age is not None:
            _free_days(out, age[:, columns], days, columns, _LISTING[board], exchange, side)
    return out


def limit_up_price(prev_close: npt.ArrayLike, limit: npt.ArrayLike) -> FloatArray:
    """Highest price allowed, yuan: prev_close * (1 + limit), rounded half up to 0.01.

    Args:
        prev_close: previous close in raw yuan **after ex-rights adjustment**, any shape; taken as a whole
            number of 0.01 yuan, so that float noise and float32 do no harm. NaN stays NaN.
        limit: fraction, broadcast against it; inf gives inf (no limit).

    The exchanges' floor of one tick, which matters below 0.10 yuan only, is left out.

    >>> limit_up_price([10.0, 3.55], 0.1).tolist(), limit_down_price(10.0, 0.1).item()
    ([11.0, 3.91], 9.0)
    """
    return _limit_price(prev_close, limit, 1.0)


def limit_down_price(prev_close: npt.ArrayLike, limit: npt.ArrayLike) -> FloatArray:
    """Lowest price allowed, yuan: prev_close * (1 - limit), rounded half up to 0.01; 0 where limit is inf.

    Arguments as in `limit_up_price`.
    """
    return _limit_price(prev_close, limit, -1.0)


def lot_rule(codes: Sequence[str], dates: Any) -> Lots:
    """Smallest buy order and step of each stock and day in raw shares; a remainder below it is sold in one order.

    Main board and ChiNext 100 and 100, STAR 200 and 1, Beijing 100 and 1. Our own table: marina-rules has no record of
    lots. A larger order than `largest_order` is split.

    >>> lot_rule(["SH600000", "SH688001"], ["2022-01-04"])
    Lots(minimum=array([[100., 200.]]), step=array([[100.,   1.]]))
    """
    days = pd.DatetimeIndex(dates)
    listed = ~np.isnan(price_limit(codes, days))
    table = np.array([_LOTS[board_of(code)] for code in codes], dtype=float).reshape(-1, 2)
    return Lots(np.where(listed, table[:, 0], np.nan), np.where(listed, table[:, 1], np.nan))


def largest_order(codes: Sequence[str], dates: Any, *, market: bool = False) -> FloatArray:
    """Most raw shares of one order of each stock and day, (D, N); our own table, see `citations`.

    Main boards and Beijing 1,000,000. STAR 100,000, ChiNext 300,000 (1,000,000 before 2020-08-24) by a limit order;
    STAR 50,000, ChiNext 150,000 by a `market` order.

    >>> largest_order(["SH600000", "SZ300001", "SH688001"], ["2022-01-04"]).tolist()
    [[1000000.0, 300000.0, 100000.0]]
    """
    days, boards = pd.DatetimeIndex(dates), [board_of(code) for code in codes]
    out = np.tile([_LARGEST[board][market] for board in boards], (len(days), 1))
    old = (days < _CHINEXT_REFORM)[:, None] & (np.array(boards) == "chinext")
    return np.where(old, _LARGEST["main"][market], out)


def one_price_limit(
    codes: Sequence[str],
    dates: Any,
    *,
    high: npt.ArrayLike,
    low: npt.ArrayLike,
    prev_close: npt.ArrayLike,
    listed_days: npt.ArrayLike | None = None,
    side: str = "up",
    near: npt.ArrayLike = 1e-6,
) -> BoolArray:
    """Whether a day's only price is the limit price of special treatment, (D, N): beyond reach, without any list.

    A stock that trades at one price all day, and just that of a 5% limit, was locked there: nobody could deal on that
    side. On boards and days on which special treatment has no limit of its own this is their own limit.

    Args:
        codes: as in `price_limit`, like `dates`, `listed_days` and `side`.
        dates: D dates.
        high: (D, N) raw yuan in whole cents, NaN where not known.
        low: the same.
        prev_close: as in `limit_up_price`.
        listed_days: (D, N) trading days since listing.
        side: "up" or "down".
        near: yuan that the price may be off.

    >>> day = {"high": [[10.5, 10.4]], "low": [[10.5, 10.4]], "prev_close": [[10.0, 10.0]]}
    >>> one_price_limit(["SH600000", "SH600004"], ["2022-01-04"], **day).tolist()
    [[True, False]]
    """
    top, bottom = np.asarray(high, dtype=float), np.asarray(low, dtype=float)
    limit = price_limit(codes, dates, listed_days=listed_days, st=np.ones(top.shape, dtype=bool), side=side)
    bound = (limit_up_price if side == "up" else limit_down_price)(prev_close, limit)
    return np.asarray((top == bottom) & (np.abs(top - bound) <= near))


def settles_next_day(dates: Any) -> BoolArray:
    """Whether a share bought on the day can be sold from the next trading day on only (T+1), (D,).

    Source: marina-rules `min_holding_days`. Raises ValueError for a day without a record (before 1995).
    """
    days = pd.DatetimeIndex(dates)
    held = by_date("min_holding_days", days, "stock")
    if np.isnan(held).any():
        raise ValueError(
            f"settles_next_day: no rule on record for {days[np.isnan(held)][0].date()}; known from 1995 on."
        )
    return held >= 1


def st_mask(flags: pd.DataFrame | str | Path, codes: Sequence[str], dates: Any) -> BoolArray:
    """Whether each stock is under special treatment on each day, (D, N), by a list of yours.

    Args:
        flags: a frame, or the path of a CSV file, with the columns code, start, end (both days included; an empty end,
            or one such as 9999-12-31, means still): one row for each spell, codes and days in the forms of
            `qlib_ext.spelling`. A-share codes that are not asked for are ignored.
        codes: N codes.
        dates: D dates.

    Raises:
        ValueError: a missing column, a code of no A share, what is not surely a day, or an end before its start; the
            line of the file (the row of the frame, from 0) is named.
        TypeError: for what is neither a frame nor a path.
        OSError: the file cannot be opened.

    >>> spells = pd.DataFrame({"code": ["SH600001"], "start": ["2022-01-05"], "end": [None]})
    >>> st_mask(spells, ["SH600000", "SH600001"], ["2022-01-04", "2022-01-05"]).tolist()
    [[False, False], [False, True]]
    """
    days, place = pd.DatetimeIndex(dates), {code.upper(): n for n, code in enumerate(codes)}
    out = np.zeros((len(days), len(codes)), dtype=bool)
    for code, first, last in _spells(flags):
        if code in place:
            out[:, place[code]] |= np.asarray((days >= first) & (days <= last))
    return out


def _spells(flags: pd.DataFrame | str | Path) -> Iterator[tuple[str, pd.Timestamp, pd.Timestamp]]:
    """Read (code, first day, last day) of each row."""
    if isinstance(flags, pd.DataFrame):
        owner, where, table = "st_mask", "st_mask: row", flags.set_axis(range(len(flags)))
        if any(list(table).count(name) != 1 for name in _SPELL):
            raise ValueError(f"{owner}: wanted are the columns code, start, end, once each; there are {list(table)}")
    elif isinstance(flags, str | Path):
        where, table = f"{flags}, line", read_csv(flags, _SPELL)
    else:
        raise TypeError(f"the list of ST stocks is {flags!r}; wanted a frame or the path of a CSV file")
    for row, code, start, end in table[list(_SPELL)].itertuples():
        name = read_share(f"{where} {row}: code", code)
        first, last = read_day(f"{where} {row}: start", start), pd.Timestamp.max
        if not is_nothing(end):
            last = read_day(f"{where} {row}: end", end, hint="; an open end stays empty, or is 9999-12-31")
        if last < first:
            raise ValueError(f"{where} {row}: ends on {last.date()}, before it starts on {first.date()}; correct it")
        yield name, first, last


def citations(dates: Any) -> list[dict[str, Any]]:
    """List the records behind this module's rules between the first and the last date, for a run's artifacts.

    Each has id, rule, scope, market, value, effective_from, effective_to, verification, text (quoted) and source. The
    first is the version and digest of marina-rules; the last two, the lots and the largest order, are our own tables.
    """
    days = pd.DatetimeIndex(dates)
    first, last = str(days.min().date()), str(days.max().date())
    scopes = {*_SCOPES.values(), *_ST_SCOPES.values(), *(name for rows in _LISTING.values() for name, _ in rows)}
    out: list[dict[str, Any]] = [
        {"id": "marina-rules", "text": mr.citation(short=False), "source": "PyPI marina-rules"}
    ]
    for record in mr.records():
        wanted = record.scope == "stock" and record.rule in (*_FEE_RULES, "min_holding_days", "limit_price_rounding")
        wanted |= record.rule == "price_limit_pct" and record.scope in scopes
        if not wanted or record.effective_from > last or (record.effective_to or "9999") <= first:
            continue
        names = ("id", "rule", "scope", "market", "value", "effective_from", "effective_to", "verification")
        row = {name: getattr(record, name) for name in names}
        row["text"] = " / ".join(str(source.get("quote", "")) for source in record.sources)
        out.append(row | {"source": " / ".join(str(source.get("url", "")) for source in record.sources)})
    out.append({"id": "lots", "rule": "lots", "value": _LOTS, "text": _LOT_TEXT, "source": "qlib_ext.rules, unquoted"})
    largest = {"id": "largest_order", "rule": "largest_order", "value": _LARGEST, "text": _LARGEST_TEXT}
    out.append(largest | {"source": f"qlib_ext.rules, by {_LARGEST_SOURCES}; ChiNext and Beijing unquoted"})
    return out


def by_date(rule: str, days: pd.DatetimeIndex, scope: str, market: str | None = None, side: str = "up") -> FloatArray:
    """Value of a rule on each day, (D,): one look-up per date of change; NaN where no record is in force."""
    records = [r for r in mr.records() if r.rule == rule and r.scope == scope]
    cuts = sorted({str(c) for r in records for c in (r.effective_from, r.effective_to) if c})
    segment = np.searchsorted(pd.DatetimeIndex(cuts).to_numpy(), days.to_numpy(), side="right")
    values = np.full(len(cuts) + 1, np.nan)
    for position in np.unique(segment):
        if position == 0:
            continue
        try:
            value = mr.rule_at(rule, cuts[position - 1], scope, market)
        except KeyError:
            continue
        values[position] = np.inf if value == "unlimited" else value[side] if isinstance(value, dict) else value
    return values[segment]


def _free_days(
    out: FloatArray,
    age: FloatArray,
    days: pd.DatetimeIndex,
    columns: list[int],
    regimes: tuple[tuple[str, int], ...],
    exchange: str,
    side: str,
) -> None:
    """Write the limits of the first days after listing into `out`, by the regime of the listing day."""
    row, col = np.nonzero((age >= 1) & (age <= NEW_DAYS))
    nth = age[row, col].astype(int)
    first = _days_before(days, row - (nth - 1))
    settled = np.zeros(len(row), dtype=bool)
    for scope, length in regimes:
        value = by_date("price_limit_pct", first, scope, exchange, side)
        in_force = ~np.isnan(value) & ~settled
        use = in_force & (nth <= length)
        out[row[use], np.asarray(columns)[col[use]]] = value[use]
        settled |= in_force


def _days_before(days: pd.DatetimeIndex, row: npt.NDArray[np.intp]) -> pd.DatetimeIndex:
    """Days at the rows; those before the first are counted back by weekdays (no rule changed just after a holiday)."""
    if not len(row):
        return days[:0]
    within = days.to_numpy()[np.maximum(row, 0)]
    before = np.busday_offset(days[:1].to_numpy().astype("datetime64[D]"), np.minimum(row, 0), roll="backward")
    return pd.DatetimeIndex(np.where(row < 0, before.astype(within.dtype), within))


def _limit_price(prev_close: npt.ArrayLike, limit: npt.ArrayLike, sign: float) -> FloatArray:
    """Half-up limit price in yuan, exact: whole cents times whole basis points."""
    cents = np.rint(np.asarray(prev_close, dtype=float) * 100.0)
    points = np.rint(np.asarray(limit, dtype=float) * 1e4)
    with np.errstate(invalid="ignore"):
        price = np.floor((cents * (1e4 + sign * points) + 5000.0) / 1e4) / 100.0
    return np.asarray(np.maximum(price, 0.0))
