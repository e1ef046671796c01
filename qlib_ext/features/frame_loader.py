"""FrameLoader: factors of the user's own files as a qlib DataLoader, alone or beside others.

In YAML: `class: FrameLoader, module_path: qlib_ext.handler`; the handlers of `qlib_ext.handler` take the same files by
their option `frames`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from qlib.data.dataset.loader import QlibDataLoader
from qlib.log import get_module_logger

from qlib_ext.features.kernels import Float32
from qlib_ext.frames import Frame, known_grid
from qlib_ext.options import argument_names, enough_memory, refuse_unknown
from qlib_ext.provider import calendar, provider_folders

logger = get_module_logger("qlib_ext.handler")


class FrameLoader(QlibDataLoader):
    r"""Load factors of the user's own files, as they were known at the close of each day.

    Alone it is the loader of a DataHandlerLP, which then needs a `label`; in qlib's NestedDataLoader it stands beside
    others, and needs none. The rows are qlib's: a stock's days from its first bar to its last, within its membership.

    Args:
        frames: options of `frames.Frame`, or a list of them.
        label: expression of the label, as of qlib's handlers ([[expression], [name]]); None: no label.
        filter_pipe: as of QlibDataLoader.
        unknown: nothing is allowed here.

    Raises:
        TypeError: an unknown option.
        ValueError: an option that cannot be; loading, a file that is not understood (see `frames.read_frame`), or
            without any stock of the data.

    >>> own = provider / "own.csv"
    >>> _ = own.write_text(f"date,code,size\n2020-03-02,{panel.stocks[0]},21.5\n")
    >>> loader = FrameLoader([{"path": "own.csv", "lag": 1, "max_age": 2}])
    >>> loader.load("all", "2020-03-02", "2020-03-06")["feature", "size"].unstack().iloc[:, 0].tolist()
    [nan, 21.5, 21.5, 21.5, nan]
    """

    def __init__(self, frames: Any, *, label: Any = None, filter_pipe: Any = None, **unknown: Any) -> None:
        refuse_unknown("FrameLoader", unknown, argument_names(FrameLoader))
        self.frames = Frame.of(frames)
        if not self.frames:
            raise ValueError(f"FrameLoader: frames is {frames!r}; name a file, such as [{{path: own.csv, lag: 1}}]")
        config = {"row": (["$close"], ["CLOSE"])} if label is None else {"label": _pair(label)}
        super().__init__(config, filter_pipe=filter_pipe)

    @enough_memory("take a smaller universe, fewer years or fewer columns, or a larger machine")
    def load(self, instruments: Any = None, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """Load the frame (datetime, instrument) x (group, name) of the instruments, from start to end."""
        rows = super().load(instruments, start_time, end_time)
        return beside(rows["label"] if "label" in rows else None, OwnFactors(self.frames), rows.index)


class OwnFactors:
    """The factors of `frames`, read, to be laid out on rows.

    Args:
        frames: options of the files.
        taken: names that there are already.

    Attributes:
        names: of the K factors.

    Raises: ValueError for a name that is there already, and as `Frame.read`.
    """

    def __init__(self, frames: Sequence[Frame], taken: Iterable[str] = ()) -> None:
        self._tables = [(frame, frame.read(provider_folders())) for frame in frames]
        self.names = [str(name) for _, tables in self._tables for table in tables for name in table]
        twice = sorted({name for name in self.names if self.names.count(name) > 1 or name in set(taken)})
        if twice:
            raise ValueError(
                f"frames: {', '.join(twice)}: there is such a factor already; give another name, columns: "
                f"{{{twice[0]}: OWN_{twice[0]}}}"
            )

    def fill(self, out: Float32, index: pd.MultiIndex) -> None:
        """Write the factors (R, K) of rows by (datetime, instrument) into `out`, and say what there is."""
        rows: Any = index.remove_unused_levels()
        days, stocks = rows.levels[0].sort_values(), rows.levels[1]
        day, stock = days.get_indexer(rows.levels[0])[rows.codes[0]], rows.codes[1]
        number = 0
        for frame, tables in self._tables:
            for table in tables:
                lines = [*_strange_codes(frame, table, stocks), *table.attrs["told"]]
                for name in table:
                    lag, age = (frame.days(option, str(name)) for option in ("lag", "max_age"))
                    grid = known_grid(table[name], calendar(), days, stocks, lag=lag, max_age=age)
                    out[:, number] = grid[day, stock]
                    lines.append(_coverage(str(name), lag, age, ~np.isnan(grid)))
                    _tell_gaps(f"{frame.told}: {name}", ~np.isnan(out[:, number]), day, days, table)
                    number += 1
                assumed = "; lag is not told: taken to be 1, published after the close of its date"
                logger.info(f"{frame.told}: {'; '.join(lines)}{assumed if frame.lag is None else ''}")


def beside(rows: pd.DataFrame | None, own: OwnFactors, index: pd.MultiIndex) -> pd.DataFrame:
    """Put the factors of one's own before other columns of the same rows, float32, group "feature"; rows are copied."""
    count = 0 if rows is None else rows.shape[1]
    values = np.empty((len(index), len(own.names) + count), dtype=np.float32)
    own.fill(values[:, : len(own.names)], index)
    columns = [("feature", name) for name in own.names]
    if rows is not None:
        values[:, len(own.names) :] = rows.to_numpy(dtype=np.float32)
        columns += [("label", str(name)) for name in rows.columns]
    return pd.DataFrame(values, index, pd.MultiIndex.from_tuples(columns), copy=False)


def _pair(label: Any) -> tuple[list[str], list[str]]:
    """Expressions and names of labels, from the forms that qlib takes and a plain expression."""
    if isinstance(label, str):
        return [label], ["LABEL0"]
    texts, names = label if all(isinstance(part, list | tuple) for part in label) else (label, label)
    return list(texts), list(names)


def _strange_codes(frame: Frame, table: pd.DataFrame, stocks: pd.Index) -> list[str]:
    """Say which codes of a table are not of the data; ValueError where that are all."""
    index: Any = table.index
    codes = index.levels[1]
    strange = codes[~codes.isin(stocks)]
    if len(strange) == len(codes):
        raise ValueError(
            f"{frame.told}: none of its {len(codes)} codes ({', '.join(codes[:3])}, ...) is among the {len(stocks)} of "
            f"the data ({', '.join(stocks[:3])}, ...)"
        )
    named = f"{', '.join(strange[:3])}{', ...' if len(strange) > 3 else ''}"
    return [f"{len(strange)} of {len(codes)} codes are not of the data: {named}"] if len(strange) else []


def _coverage(name: str, lag: int, age: int, known: npt.NDArray[np.bool_]) -> str:
    """Say how much of a factor there is, of (D, N) cells."""
    stocks = int(known.any(axis=0).sum())
    carried = f", carried on up to {age} days" if age else ""
    return f"{name}: lag {lag}{carried}, {stocks:,} of {known.shape[1]:,} stocks, {known.mean():.0%} of days and stocks"


def _tell_gaps(
    what: str, known: npt.NDArray[np.bool_], day: npt.NDArray[np.int64], days: pd.DatetimeIndex, table: pd.DataFrame
) -> None:
    """Warn of days on which no row has a value; `known` and `day` are of the rows."""
    count = np.bincount(day, weights=known, minlength=len(days))
    empty = days[count == 0]
    if not len(empty):
        return
    index: Any = table.index
    span = f"{index.levels[0][0].date()} to {index.levels[0][-1].date()}"
    logger.warning(
        f"{what} has no value on {len(empty)} of {len(days)} days, the last {empty[-1].date()} (its dates are {span}): "
        "there it tells nothing; complete the file, or carry its values on (max_age)"
    )
