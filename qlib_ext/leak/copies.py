"""Altered copies of a qlib provider folder: the future perturbed, or the returns shuffled within days.

Legend: `D` days of the calendar, `N` stocks. A series is a file
`features/<code>/<field>.day.bin`: little-endian float32, the place of its first day in the calendar, then values.
Whatever is not altered (calendars, instruments, other frequencies, `financial/`) is a link into the source.
"""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.provider import fill_row, read_calendar, read_series
from qlib_ext.rules import is_index

Values = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

PRICES = ("open", "high", "low", "close", "vwap", "adjclose")
BAR = ("open", "high", "low", "vwap")  # prices that follow the close of the same day
_SUFFIX = ".day.bin"
_STOPPED, _GONE = 0.1, 0.05  # shares of days without trade, and of stocks that never trade again


def perturb_provider(
    source: str | Path,
    target: str | Path,
    after: str | pd.Timestamp,
    *,
    stocks: int | Sequence[str] | None = None,
    seed: int = 0,
) -> list[str]:
    """Copy a provider with everything after the day `after` changed and nothing up to it.

    Prices move by a common factor of stock and day (and a little each), volume and amount by factors of their own,
    `$factor` by one of the stock, `$change` and unknown fields at random; all prices stay positive, and units stay
    recognisable. A tenth of the days lose their trade, half of the suspended days gain one, a twentieth of the stocks
    never trade again. Indices are perturbed, never suspended. The lists of instruments and `financial/` stay as they
    are: what membership or accounts of the future give away is not seen.

    Args:
        source: provider folder.
        target: folder to make; it must not exist.
        after: the last day that stays as it is.
        stocks: None for all, codes, or the number of stocks to draw (indices come on top); the others are links.
        seed: of all randomness; a stock's factors do not depend on which others are perturbed.

    Returns: the folder names of the perturbed stocks.

    Raises: ValueError where no day lies before or after, for unknown codes, or an existing target.
    """
    origin, copy = Path(source).expanduser().resolve(), Path(target)
    days = read_calendar(origin)
    place = int(days.searchsorted(pd.Timestamp(after), side="right"))  # of the first day to change
    if not 0 < place < len(days):
        span = f"{days[0].date()} to {days[-1].date()}"
        raise ValueError(f"after={pd.Timestamp(after).date()} leaves nothing to perturb in a calendar of {span}")
    names = _chosen(origin, stocks, seed)
    _link(origin, copy, set(names))
    for name in names:
        rng = np.random.default_rng([seed, crc32(name.encode())])
        _perturb_stock(origin / "features" / name, copy / "features" / name, place, len(days), rng)
    return names


def shuffle_provider(source: str | Path, target: str | Path, *, seed: int = 0) -> list[str]:
    """Copy a provider with each day's returns dealt out at random among the stocks that trade on it.

    On every day a stock takes the return since the last trade, the shape of the bar (open, high, low, vwap over
    close) and `$change` of another stock drawn at random; closes are chained from the first one. Suspensions, amount
    (yuan) and `$factor` stay with the stock, volume is amount at the new price. So whatever is known at the close of a
    day tells nothing about which stock gets which later return: the expected IC of any score is 0, unless it knows the
    label. Indices and unknown fields are links.

    Returns: the folder names of the shuffled stocks.

    Raises: ValueError where fewer than two stocks have a close, or for an existing target.
    """
    origin, copy = Path(source).expanduser().resolve(), Path(target)
    names = [n for n in _folders(origin) if not is_index(n) and (origin / "features" / n / f"close{_SUFFIX}").is_file()]
    if len(names) < 2:
        raise ValueError(f"{origin} has {len(names)} stocks with a close: nothing to shuffle")
    count = len(read_calendar(origin))
    old = _matrix(origin, names, "close", count)
    new, donor = _deal(old, np.random.default_rng(seed))
    _link(origin, copy, set(names), fields=(*PRICES, "change", "volume"))
    _write(copy, origin, names, "close", new)
    day = np.arange(count)[:, None]
    for field in (*BAR, "change", "volume", "adjclose"):
        values = _matrix(origin, names, field, count)
        with np.errstate(divide="ignore", invalid="ignore"):
            if field in BAR:
                values = (values / old)[day, donor] * new
            elif field == "change":
                values = values[day, donor]
            elif field == "volume":
                values = values * old / new
            else:
                values = values / old * new
        _write(copy, origin, names, field, values)
    return names


def _perturb_stock(origin: Path, copy: Path, begin: int, count: int, rng: np.random.Generator) -> None:
    """Write one stock's series, changed from place `begin` of the calendar on."""
    n = count - begin
    price, volume = rng.uniform(0.8, 1.25, n), rng.lognormal(0.0, 0.5, n)
    stopped = rng.random(n) < (1.0 if rng.random() < _GONE else _STOPPED)
    stopped &= not is_index(origin.name)
    resumed, ratio = rng.random(n) < 0.5, rng.uniform(0.5, 2.0)
    for file in sorted(origin.glob(f"*{_SUFFIX}")):
        field, (start, values) = file.name.removesuffix(_SUFFIX), read_series(file)
        place = max(begin - start, 0)  # of the first day to change, in the file
        tail = values[place:].astype(np.float64)
        at = slice(max(start - begin, 0), max(start - begin, 0) + len(tail))
        last = pd.Series(values, dtype=float).ffill().to_numpy()[place:]
        tail = np.where(np.isnan(tail) & resumed[at], last, tail)
        noise = rng.uniform(0.98, 1.02, n)
        tail *= {
            **dict.fromkeys(PRICES, price * noise),
            "volume": volume,
            "amount": volume * price * noise,
            "factor": np.full(n, ratio),
        }.get(field, rng.uniform(0.5, 1.5, n))[at]
        if field == "change":  # many are 0, which no factor moves
            tail += rng.normal(0.0, 0.02, n)[at]
        if field != "factor":
            tail[stopped[at]] = np.nan
        _write_series(copy / file.name, start, np.concatenate([values[:place], tail]))


def _deal(close: Matrix, rng: np.random.Generator) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """Shuffle the returns of (D, N) closes within days; return the new closes and the donor (D, N) of each return."""
    frame = pd.DataFrame(close)
    with np.errstate(divide="ignore", invalid="ignore"):
        move = np.log((frame / frame.ffill().shift(1)).to_numpy())
    movable = np.isfinite(move)
    donor = np.tile(np.arange(close.shape[1]), (len(close), 1))
    for d in range(len(close)):
        at = np.flatnonzero(movable[d])
        donor[d, at] = rng.permutation(at)
    dealt = np.where(movable, np.take_along_axis(move, donor, axis=1), 0.0)
    first = frame.bfill().iloc[0].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(close), first * np.exp(dealt.cumsum(axis=0)), np.nan), donor


def _matrix(origin: Path, names: Sequence[str], field: str, count: int) -> Matrix:
    """Read a field as (D, N), NaN where not known."""
    out = np.full((count, len(names)), np.nan)
    for n, name in enumerate(names):
        fill_row(out[:, n], 0, *read_series(origin / "features" / name / f"{field}{_SUFFIX}"))
    return out


def _write(copy: Path, origin: Path, names: Sequence[str], field: str, values: Matrix) -> None:
    """Write a field (D, N) where the source has one, from its first day on and of its length."""
    for n, name in enumerate(names):
        file = origin / "features" / name / f"{field}{_SUFFIX}"
        if file.is_file():
            start, old = read_series(file)
            _write_series(copy / "features" / name / file.name, start, values[start : start + len(old), n])


def _write_series(file: Path, start: int, values: npt.NDArray[np.floating]) -> None:
    np.concatenate([[start], values]).astype("<f4").tofile(file)


def _folders(origin: Path) -> list[str]:
    return sorted(entry.name for entry in (origin / "features").iterdir() if entry.is_dir())


def _chosen(origin: Path, stocks: int | Sequence[str] | None, seed: int) -> list[str]:
    """Folder names of the stocks to alter."""
    every = _folders(origin)
    if stocks is None:
        return every
    if isinstance(stocks, int):
        shares = [name for name in every if not is_index(name)]
        if not 1 <= stocks <= len(shares):
            raise ValueError(f"stocks={stocks}; the provider has {len(shares)}: give 1 to {len(shares)}, or none")
        drawn = np.random.default_rng(seed).choice(shares, stocks, replace=False).tolist()
        return sorted([*drawn, *(name for name in every if is_index(name))])
    wanted = {str(code).lower() for code in stocks}
    unknown = sorted(wanted - set(every))
    if unknown or not wanted:
        raise ValueError(f"stocks {unknown[:5]} are not in {origin / 'features'}: give codes such as {every[:3]}")
    return sorted(wanted)


def _link(origin: Path, copy: Path, altered: set[str], *, fields: Sequence[str] | None = None) -> None:
    """Make the folder of a copy: links to all but the daily series (of `fields`) of the altered stocks."""
    if copy.exists():
        raise ValueError(f"{copy} exists already: give a new folder")
    (copy / "features").mkdir(parents=True)
    for entry in origin.iterdir():
        if entry.name != "features":
            (copy / entry.name).symlink_to(entry)
    for stock in (origin / "features").iterdir():
        place = copy / "features" / stock.name
        if stock.name not in altered:
            place.symlink_to(stock)
            continue
        place.mkdir()
        for series in stock.iterdir():
            field = series.name.removesuffix(_SUFFIX)
            if field == series.name or (fields is not None and field not in fields):
                (place / series.name).symlink_to(series)
