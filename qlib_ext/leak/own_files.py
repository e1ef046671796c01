"""Files of the user's own that a workflow reads beside the provider: copies of them, changed after a day.

A file tells the day of a value, its `lag` when it was known: what the copies change is all that was not known at the
close of the day. Whether a lag is true no file tells.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.frames import EVER, Frame, frame_files, known_places, read_frame
from qlib_ext.panel import MacroState, read_macro
from qlib_ext.provider import read_calendar

LOST = 0.1  # share of the later values that the copy has not


@dataclass(frozen=True)
class OwnFiles:
    """What a workflow reads of such files.

    Attributes:
        config: the workflow's, naming the changed copies.
        lags: of each factor of `frames`.
        macro: names of the features of macro_state.
        exposures: columns of the dataset's own exposures -> whether they have dates.
    """

    config: dict[str, Any]
    lags: dict[str, int] = field(default_factory=dict)
    macro: tuple[str, ...] = ()
    exposures: dict[str, bool] = field(default_factory=dict)


def perturb_files(
    config: dict[str, Any], provider: Path, folder: Path, cutoff: pd.Timestamp, *, seed: int = 0
) -> OwnFiles:
    """Write copies in which all changes that is not known at the close of the day `cutoff`.

    Args:
        config: the workflow's.
        provider: its folder, in which files are looked for too.
        folder: of the copies; it is made where it is needed.
        cutoff: last day whose knowledge stays.
        seed: of all randomness.

    Raises: as the files' readers do.
    """
    out, rng, calendar = copy.deepcopy(config), np.random.default_rng(seed), read_calendar(provider)
    lags: dict[str, int] = {}
    for options in _holders(out["task"]["dataset"], "frames"):
        copies = []
        for frame in Frame.of(options["frames"]):
            for table in frame.read([provider]):
                names = [str(name) for name in table]
                own = {name: frame.days("lag", name) for name in names}
                file = _fresh(folder, f"frame{len(lags)}")
                _changed_frame(table, own, calendar, cutoff, rng).to_parquet(file)
                ages = {name: frame.days("max_age", name) for name in names}
                copies.append({"path": str(file), "lag": own, "max_age": ages})
                lags |= own
        options["frames"] = copies
    macro: tuple[str, ...] = ()
    for options in _holders(out["task"]["dataset"], "macro_state"):
        state = MacroState.of(options["macro_state"])
        if state is not None:
            file = _fresh(folder, "macro")
            _changed_macro(state, provider, calendar, cutoff, rng).to_parquet(file)
            options["macro_state"] = replace(state, path=(str(file),), jumps="warn")
            macro = tuple(state.names())
    exposures: dict[str, bool] = {}
    for name in ("exposures", "exposure_frame"):
        for options in _holders(out["task"], name):
            if isinstance(options[name], str | Path):
                table = read_frame(options[name], categories=True, undated=True)
                options[name], same_day = str(_fresh(folder, f"{name}{len(exposures)}")), {str(one): 0 for one in table}
                _changed_frame(table, same_day, calendar, cutoff, rng).to_parquet(options[name])
                exposures |= dict.fromkeys(same_day if name == "exposures" else (), bool(table.index[-1][0] > EVER))
    return OwnFiles(out, lags, macro, exposures)


def _holders(value: Any, name: str) -> Iterator[dict[str, Any]]:
    """Find the options that hold one of a name, at any depth."""
    if isinstance(value, dict):
        if value.get(name) is not None:
            yield value
        value = list(value.values())
    for item in value if isinstance(value, list | tuple) else ():
        yield from _holders(item, name)


def _fresh(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.parquet"


def _changed_frame(
    table: pd.DataFrame,
    lags: dict[str, int],
    calendar: pd.DatetimeIndex,
    cutoff: pd.Timestamp,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Change the values of a table of factors that are not known at the close of `cutoff`."""
    index: Any = table.index
    last, days, out = int(calendar.searchsorted(cutoff, side="right")) - 1, index.levels[0], table.copy()
    for name, lag in lags.items():
        later = (known_places(pd.DatetimeIndex(days), lag, calendar) > last)[index.codes[0]]
        if isinstance(table[name].dtype, pd.CategoricalDtype):
            out.loc[later, name] = rng.permutation(np.asarray(table[name])[later])
            continue
        value = table[name].to_numpy(dtype=np.float64)
        noise = rng.normal(0.0, np.nan_to_num(np.nanstd(value)) or 1.0, len(value))
        moved = np.where(rng.random(len(value)) < LOST, np.nan, value * rng.uniform(0.5, 1.5, len(value)) + noise)
        out[name] = np.where(later, moved, value).astype(np.float32)
    return out


def _changed_macro(
    state: MacroState, provider: Path, calendar: pd.DatetimeIndex, cutoff: pd.Timestamp, rng: np.random.Generator
) -> pd.DataFrame:
    """Change the values of macro series that are not known at the close of `cutoff`."""
    table = read_macro(frame_files(state.path, [provider]))
    out = pd.DataFrame(index=table.index)
    for name, dates in state.later(table, calendar, cutoff).items():
        value = pd.to_numeric(table[name]).astype(float)
        out[name] = value.where(~value.index.isin(dates), value * rng.uniform(0.8, 1.25, len(value)))
    for one in state.series.values():
        if one.release not in (None, "date"):
            out[str(one.release)] = table[str(one.release)].astype(str)
    return out.rename_axis("date")
