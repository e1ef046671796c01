"""The market's state from a provider and from files, the (D, M) frame of a DayPanel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from qlib.data import D
from qlib.log import get_module_logger

from qlib_ext.options import close_names
from qlib_ext.panel import OFFICIAL_INDICES, MacroState, MarketState, read_macro
from qlib_ext.provider import binary_folder, calendar, provider_folders, read_fields
from qlib_ext.rules import is_index
from qlib_ext.spelling import read_code, read_csv, read_day, read_number

logger = get_module_logger("qlib_ext.data")

MACRO_FILE = "a CSV or Parquet file as workflows/macro_example.csv"


def load_state(market: MarketState | None, macro: MacroState | None, days: pd.DatetimeIndex) -> pd.DataFrame | None:
    """Load the market features of the days, (D, M), index features first; None where none are wanted.

    Raises: ValueError for missing indices, turnover, history or series; FileNotFoundError for a missing file.
    """
    frames = []
    if market is not None:
        frames.append(index_features(market, days))
    if macro is not None:
        table = read_macro([find_file(path, "macro_state", MACRO_FILE) for path in macro.path])
        frame, notices = macro.compute(table, calendar(), days)
        for notice in notices:
            logger.warning(f"macro_state: {notice}")
        frames.append(frame)
    return pd.concat(frames, axis=1) if frames else None


def state_names(market: MarketState | None, macro: MacroState | None) -> list[str]:
    """Names of the M market features that `load_state` loads."""
    return (market.names(chosen_indices(market.indices)) if market else []) + (macro.names() if macro else [])


def index_features(state: MarketState, days: pd.DatetimeIndex) -> pd.DataFrame:
    """Load the index features of the days, (D, M).

    Raises: ValueError for an index that the provider lacks, missing turnover, or a short history.
    """
    indices = chosen_indices(state.indices)
    absent = [code for code in OFFICIAL_INDICES if state.indices is None and code not in indices]
    if absent:
        logger.warning(f"market_state: {', '.join(absent)} left out, the provider has {', '.join(indices)}")
    raw = read_fields(indices, ["$close", "$amount", "$volume"], days[0], days[-1], lead=state.lead)
    close = raw["$close"].astype(float)
    return state.compute(close, _turnover(state, raw, close), days)


def _turnover(state: MarketState, raw: dict[str, pd.DataFrame], close: pd.DataFrame) -> pd.DataFrame:
    """Turnover of each index, in whatever unit; a notice where the volume stands for it."""
    kind = state.turnover
    if kind == "auto":
        kind = "amount" if (raw["$amount"] > 0).any().all() else "volume"
        if kind == "volume":
            logger.info("market_state: an index has no $amount, its $volume stands for it (turnover: volume)")
    table = raw["$amount"] if kind == "amount" else raw["$volume"]
    lacking = [str(code) for code in table.columns if not (table[code] > 0).any()]
    if lacking:
        field = "$amount" if kind == "amount" else "$volume"
        other = [n for n in ("amount", "volume") if n != field[1:] and (raw[f"${n}"][lacking] > 0).any().all()]
        cure = f"set turnover: {other[0]}" if other else "choose other indices"
        raise ValueError(f"market_state: {', '.join(lacking)} has no {field} between the days: {cure}")
    return table * close if kind == "close_volume" else table


def chosen_indices(wanted: Sequence[str] | None) -> list[str]:
    """Return the indices to use: those wanted, or the official ones that the provider has.

    Raises: ValueError for a missing one, naming what the provider has.
    """
    there = known_indices(wanted)
    held = f"the provider has {', '.join(there) or 'no index'}"
    chosen = [code for code in wanted or OFFICIAL_INDICES if code in there]
    if wanted is None and not chosen:
        raise ValueError(f"market_state: none of {', '.join(OFFICIAL_INDICES)}; {held}: give indices: [...]")
    missing = sorted(set(wanted or ()) - set(there))
    if missing:
        raise ValueError(f"market_state: no index {', '.join(missing)}; {held}: choose among them or add the data")
    return chosen


def known_indices(named: Sequence[str] | None = None) -> list[str]:
    """Codes of the indices that the provider has, sorted; they need not stand in a list of instruments.

    Args:
        named: codes in capitals that are taken for indices whatever `is_index` says, such as SH930050.
    """
    own = set(named or ())
    folder = binary_folder(OFFICIAL_INDICES)
    if folder is not None and folder.is_dir():
        there = (p for p in folder.iterdir() if is_index(p.name) or p.name.upper() in own)
        return sorted(p.name.upper() for p in there if any(p.glob("close.*")))
    return sorted(c for c in D.list_instruments(D.instruments("all"), as_list=True) if is_index(c) or c.upper() in own)


def read_benchmark(value: Any) -> Any:
    """Read a benchmark's code, or a list of codes, as providers write it; what names no exchange stays as it is.

    >>> read_benchmark("000300.SH"), read_benchmark(["sh600000", "CSI300"]), read_benchmark(None)
    ('SH000300', ['SH600000', 'CSI300'], None)
    """
    if isinstance(value, list | tuple):
        return [read_benchmark(one) for one in value]
    if not isinstance(value, str) or value.isdigit():
        return value
    try:
        return read_code("benchmark", value)
    except ValueError:
        return value


def own_series(path: str) -> pd.Series:
    """Daily returns of a user's series, such as an index with its dividends: a CSV file of date and close, its levels.

    Returns: by day, named by the file; the first level has none.

    Raises: ValueError for what is not surely understood, a level that is not above 0, or days out of order.
    """
    table = read_csv(find_file(path, "benchmark", "a CSV file with the columns date, close"), ("date", "close"))
    days = [read_day(f"{path}, line {line}: date", day) for line, day in table["date"].items()]
    levels = [read_number(f"{path}, line {line}: close", level) for line, level in table["close"].items()]
    series = pd.Series(levels, pd.DatetimeIndex(days), name=Path(path).stem)
    steps = series.index.to_series().diff().dt.days.fillna(1.0)
    wrong = table.index[((steps <= 0) | (series <= 0)).to_numpy()]
    if len(wrong):
        raise ValueError(f"{path}, line {wrong[0]}: wanted are levels above 0, each day once and in order")
    return (series / series.shift(1) - 1.0).iloc[1:]


def is_series(benchmark: Any) -> bool:
    """Whether a benchmark is named by a file, see `own_series`."""
    return isinstance(benchmark, str) and benchmark.lower().endswith(".csv")


def benchmark_returns(benchmark: Any, first: pd.Timestamp, last: pd.Timestamp) -> pd.Series:
    """Daily returns of a benchmark, a code or codes (their mean), as the provider has them, by day.

    Raises: ValueError for what is no code, or one that the provider has not, with the close ones.
    """
    codes = [benchmark] if isinstance(benchmark, str) else benchmark
    if not isinstance(codes, list) or not codes or not all(isinstance(code, str) for code in codes):
        raise ValueError(f"benchmark is {benchmark!r}; wanted is the code of an index, a list of codes, or null")
    every = D.features(codes, ["$close/Ref($close, 1) - 1"], first, last)
    lacking = sorted({*codes} - {*map(str, every.index.get_level_values("instrument"))})
    if lacking:
        there = known_indices()
        close = close_names(lacking[0], there)
        raise ValueError(
            f"benchmark {lacking[0]!r} is not in the provider from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
            f"{f' (did you mean {close[0]}?)' if close else ''}; it has the indices {', '.join(there) or '(none)'}: "
            "name one, a list of codes, or null"
        )
    return every.iloc[:, 0].groupby(level="datetime").mean().rename(", ".join(codes))


def find_file(path: str, owner: str, wants: str) -> Path:
    """Find a file: as it is given, or in the provider's folder; where there is none, what the owner wants is told.

    Raises: FileNotFoundError naming both places.
    """
    wanted = Path(path).expanduser()
    folders = provider_folders()
    for place in (wanted, *(folder / wanted for folder in folders)):
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{owner}: no file {path!r} here ({Path.cwd()}) nor in {', '.join(map(str, folders))}; give its path, {wants}"
    )
