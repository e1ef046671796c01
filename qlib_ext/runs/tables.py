"""The tables among a run's artifacts, found by what is there: of records of one's own too. No pickle is opened."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from qlib_ext.options import check_choice
from qlib_ext.runs.find import Run, load_artifacts
from qlib_ext.runs.trust import CURE
from qlib_ext.runs.twins import SUFFIXES, twin_path

DEFINITIONS = "definitions.pkl"
_NO_TABLES = ("params.pkl", "dataset", "task", "config", "run_facts.pkl", "portfolio_analysis/plan.pkl")
Place = tuple[str, str]  # path of the artifact, and the key of a table in it ("": it is one itself)


def tables_of(run: Run) -> dict[str, Place]:
    """Find the tables of a run by name, as short as tells them apart: headline, execution.performance, folds/curves.

    Pickles without a twin are looked into only where the run is trusted.
    """
    places = list(dict.fromkeys(_places(run)))
    every = [f"{path.removesuffix('.pkl')}{f'.{key}' if key else ''}" for path, key in places]
    short = [name.rpartition("/")[2] for name in every]
    return {
        brief if short.count(brief) == 1 else name: place
        for name, brief, place in zip(every, short, places, strict=True)
    }


def load_table(run: Run, name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a table of a run by its name, and what its rows and columns mean, as far as the run says.

    Raises: ValueError for a name that there is not, or an artifact that cannot be read.
    """
    known = tables_of(run)
    closed = not run.trust and any(not _twins(run, path) for path in _pickles(run))
    check_choice("--table", name, list(known), hint=f". Pickles are not looked into: {CURE}" if closed else "")
    path, key = known[name]
    value = load_artifacts(run, [path])[path]
    table = value[key] if key else value
    folder = path.rpartition("/")[0]
    kept = f"{folder}/{DEFINITIONS}" if folder else DEFINITIONS
    words = load_artifacts(run, [kept]).get(kept) if run.trust or _twins(run, kept) else None
    frame = table.to_frame() if isinstance(table, pd.Series) else table
    own = key or PurePosixPath(path).stem
    return frame, meanings(frame, own, dict(words or {}) | dict(table.attrs.get("definitions") or {}))


def meanings(table: pd.DataFrame, name: str, definitions: Mapping[str, str]) -> dict[str, str]:
    """Keep of the definitions those of a table's columns and rows; `name.key` is of that table alone.

    >>> every = {"sharpe": "mean / deviation", "net": "after fees", "lags.sharpe": "of another", "ic": "no row"}
    >>> meanings(pd.DataFrame({"sharpe": 1.0}, ["capped_net"]), "headline", every)
    {'sharpe': 'mean / deviation', 'net': 'after fees'}
    """
    rows: list[Any] = [] if len(table) > 100 or isinstance(table.index, pd.DatetimeIndex) else [*table.index]
    labels = {str(part) for one in [*table.columns, *rows] for part in (one if isinstance(one, tuple) else (one,))}
    kept = {}
    for key, text in definitions.items():
        own = key.removeprefix(f"{name}.")
        if own in labels or ("." not in own and any(label.endswith(f"_{own}") for label in labels)):
            kept[own] = text
    return kept


def _places(run: Run) -> Iterator[Place]:
    for file in sorted(run.folder.rglob("*.parquet")):
        yield f"{_path(run, file).removesuffix(SUFFIXES[0])}.pkl", ""
    for path in _pickles(run):
        twins = _twins(run, path)
        if any(twin.suffix == SUFFIXES[0] for twin in twins):
            continue
        if not (run.trust or any(b'"$table"' in twin.read_bytes() for twin in twins)):
            continue
        value = load_artifacts(run, [path])[path]
        if isinstance(value, pd.DataFrame | pd.Series):
            yield path, ""
        elif isinstance(value, Mapping):
            yield from ((path, str(key)) for key, one in value.items() if isinstance(one, pd.DataFrame | pd.Series))


def _pickles(run: Run) -> list[str]:
    every = sorted(_path(run, file) for file in run.folder.rglob("*.pkl"))
    return [path for path in every if path not in _NO_TABLES and not path.endswith("_obj.pkl")]


def _twins(run: Run, path: str) -> list[Any]:
    return [twin for suffix in SUFFIXES if (twin := twin_path(run.folder / path, suffix)).is_file()]


def _path(run: Run, file: Any) -> str:
    return str(file.relative_to(run.folder).as_posix())
