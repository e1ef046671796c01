"""The twin of an artifact: the same table or facts beside its pickle, as Parquet or JSON, which run no code when read.

Pickles stay for qlib, whose records and report functions read them. What has no exact twin (a model, a dataset) has
none. A list of safe names for `pickle` would not do: numpy's own classes, whose state is taken as it comes, are enough
to read any place of the memory.
"""

import base64
import datetime
import io
import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.runs.artifacts import CONFIGURATIONS

SUFFIXES = (".parquet", ".json")
_KEY = b"qlib_ext"
_OWN = "pickle"  # where a twin says of which pickle it is


class Absent:
    """What a configuration named that was an object, of which only the pickle holds more than the class's name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        """Say what it was."""
        return f"<{self.name}: an object, only in the pickle, which is read with --trust>"


def twin_path(path: str | Path, suffix: str) -> Path:
    """Path of the twin of an artifact: `pred.parquet` of `pred.pkl`, `task.json` of `task`."""
    return Path(str(path).removesuffix(".pkl") + suffix)


def fingerprint(pickled: bytes) -> str:
    """Tell a pickle from another, so that the twin of an older one is not taken for its own."""
    return f"{len(pickled)}-{zlib.crc32(pickled)}"


def twin_of(value: Any, pickled: bytes, *, configuration: bool = False) -> tuple[str, bytes] | None:
    """Write the twin of an object: its suffix and content; None where it has none.

    Args:
        value: of the artifact.
        pickled: its pickle.
        configuration: whether objects in it may be told by their class alone (`Absent`).
    """
    own = fingerprint(pickled)
    if isinstance(value, pd.DataFrame | pd.Series):
        content = _parquet(value, own)
        return None if content is None else (SUFFIXES[0], content)
    try:
        plain = _plain(value, configuration)
    except TypeError:
        return None
    if isinstance(plain, dict) and "$absent" in plain:
        return None
    return SUFFIXES[1], json.dumps({_OWN: own, "value": plain}, ensure_ascii=False, allow_nan=False).encode()


def dump_objects(folder: Path, artifact_path: str | None, objects: Mapping[str, Any]) -> None:
    """Write objects as qlib does, each with its twin.

    Args:
        folder: to write into.
        artifact_path: where they go in the run; None: to its top.
        objects: by the names of their files.
    """
    from qlib.utils.serial import Serializable

    for name, value in objects.items():
        file = folder / name
        Serializable.general_dump(value, file)
        configuration = "/".join(filter(None, (artifact_path, name))) in CONFIGURATIONS
        twin = twin_of(value, file.read_bytes(), configuration=configuration)
        if twin is not None and twin_path(name, twin[0]).name not in objects:
            twin_path(file, twin[0]).write_bytes(twin[1])


def read_twin(file: Path) -> tuple[Any, str]:
    """Read a twin, and the `fingerprint` of its pickle; a configuration's classes and functions come as their path.

    Raises: ValueError, KeyError, TypeError, AttributeError, IndexError, OSError for a file that is none.
    """
    raw = file.read_bytes()
    return _table(raw) if file.suffix == SUFFIXES[0] else _facts(raw)


# --- tables


def _parquet(table: pd.DataFrame | pd.Series, own: str = "") -> bytes | None:
    """Write a frame or Series; None where it would not come back as it was."""
    import pyarrow
    import pyarrow.parquet

    try:
        frame = table.to_frame("value") if isinstance(table, pd.Series) else table.copy(deep=False)
        facts: dict[str, Any] = {_OWN: own, "attrs": _plain(table.attrs), "json": []}
        if isinstance(table, pd.Series):
            facts["name"] = _plain(table.name)
        for name in frame.columns if frame.columns.is_unique else ():
            kind = str(frame[name].dtype)
            if kind == "object" and pd.api.types.infer_dtype(frame[name], skipna=False) not in ("string", "empty"):
                facts["json"].append(_plain(name))
                frame[name] = [json.dumps(_plain(cell)) for cell in frame[name]]
        frame.attrs = {}
        arrow = pyarrow.Table.from_pandas(frame)
        arrow = arrow.replace_schema_metadata({**arrow.schema.metadata, _KEY: json.dumps(facts).encode()})
        file = io.BytesIO()
        pyarrow.parquet.write_table(arrow, file, compression="zstd", write_statistics=False)
        again, _ = _table(file.getvalue())
    except (TypeError, ValueError, NotImplementedError):  # of pyarrow's errors are these
        return None
    return file.getvalue() if _same(table, again) else None


def _table(raw: bytes) -> tuple[Any, str]:
    import pyarrow.parquet

    arrow = pyarrow.parquet.read_table(io.BytesIO(raw))
    metadata = arrow.schema.metadata or {}
    facts = json.loads(metadata[_KEY]) if _KEY in metadata else {}
    objects = [i for i, c in enumerate(arrow.schema.pandas_metadata["columns"]) if c["numpy_type"] == "object"]
    frame = arrow.to_pandas()
    for name in [frame.columns[i] for i in objects if i < frame.shape[1]]:
        frame[name] = frame[name].astype(object)
    for name in map(_back, facts.get("json", ())):
        frame[name] = pd.Series([_back(json.loads(cell)) for cell in frame[name]], frame.index, dtype=object)
    table = frame["value"].rename(_back(facts["name"])) if "name" in facts else frame
    table.attrs = _back(facts.get("attrs", {}))
    return table, facts.get(_OWN, "")


def _same(table: Any, again: Any) -> bool:
    """Whether a table came back as it was: values, dtypes, names, attrs."""
    axes = [(table.index, again.index), *([(table.columns, again.columns)] if table.ndim == 2 else [])]
    labels = all(a.equals(b) and list(a.names) == list(b.names) and _types(a) == _types(b) for a, b in axes)
    return labels and bool(table.equals(again)) and getattr(table, "name", None) == getattr(again, "name", None)


def _types(index: pd.Index) -> list[Any]:
    return [level.dtype for level in index.levels] if isinstance(index, pd.MultiIndex) else [index.dtype]


# --- facts


def _facts(raw: bytes) -> tuple[Any, str]:
    content = json.loads(raw)
    return _back(content["value"]), content[_OWN]


def _plain(value: Any, objects: bool = False) -> Any:
    """Write a value as JSON has it, other kinds as `{"$kind": ...}`; TypeError for an object, unless `objects`."""
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = value.item()
    kind = type(value)
    if value is None or kind in (bool, int) or kind is float and math.isfinite(value):
        return value
    if isinstance(value, str):
        return str(value)
    if kind is float:
        return {"$float": repr(value)}
    if value is pd.NaT or isinstance(value, pd.Timestamp):
        return {"$time": str(value)}
    if isinstance(value, datetime.date):  # of it is datetime
        return {f"${kind.__name__}": value.isoformat()}
    if isinstance(value, datetime.timedelta):  # of it is Timedelta
        return {"$timedelta": str(pd.Timedelta(value))}
    if isinstance(value, Mapping):
        pairs = [(key, _plain(each, objects)) for key, each in value.items()]
        if all(type(key) is str and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        return {"$dict": [[_plain(key), each] for key, each in pairs]}
    if isinstance(value, list | tuple | set | frozenset):
        each = [_plain(one, objects) for one in value]
        return each if isinstance(value, list) else {"$tuple" if isinstance(value, tuple) else "$set": each}
    if isinstance(value, Path):
        return {"$path": str(value)}
    if isinstance(value, pd.DataFrame | pd.Series) and (content := _parquet(value)) is not None:
        return {"$table": base64.b64encode(content).decode()}
    if objects and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if objects:
        return {"$absent": f"{kind.__module__}.{kind.__qualname__}"}
    raise TypeError(f"{kind.__name__} has no exact form in JSON")


_READ: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "time": pd.Timestamp,
    "date": datetime.date.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
    "timedelta": pd.Timedelta,
    "dict": lambda pairs: {_back(key): _back(each) for key, each in pairs},
    "tuple": lambda each: tuple(map(_back, each)),
    "set": lambda each: set(map(_back, each)),
    "path": Path,
    "table": lambda text: _table(base64.b64decode(text))[0],
    "absent": Absent,
}


def _back(value: Any) -> Any:
    if isinstance(value, list):
        return [_back(each) for each in value]
    if not isinstance(value, dict):
        return value
    (name, *more) = value or [""]
    if not more and name.startswith("$"):
        return _READ[name[1:]](value[name])
    return {key: _back(each) for key, each in value.items()}
