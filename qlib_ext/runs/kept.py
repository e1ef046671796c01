"""What a run keeps until it is finished, so that the same command goes on after a kill: checkpoints, finished records.

A task whose model has a `checkpoint` writes beside it what each record of ours has written: its artifacts, with their
digests, metrics and tags. The next run of the same task takes them over where the program, the data and the scores are
the same too.
"""

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.beside import write_text

FORMAT = "qlib_ext.records 1"
PACKAGES = ("pyqlib", "torch", "numpy", "pandas", "lightgbm")


@dataclass
class Written:
    """What a record has written into its run: artifacts (path -> digest), metrics (name, value, step), tags."""

    kind: str
    run: str
    folder: str
    files: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def add(self, source: Path, folder: str) -> None:
        """Note a file, or those of a folder, that went into a folder of the artifacts."""
        files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        top = source.parent if source.is_file() else source
        self.files |= {str(Path(folder, file.relative_to(top))): digest_of(file) for file in files}

    def note(self, kind: str, values: Iterable[Any]) -> None:
        """Note metrics or tags; parameters are the task's."""
        if kind == "metrics":
            self.metrics += [(each.key, each.value, each.step) for each in values]
        elif kind == "tags":
            self.tags |= {each.key: each.value for each in values}

    def spoilt(self) -> str:
        """Name an artifact that is not what was written; "" where all are."""
        return next((path for path, own in self.files.items() if digest_of(Path(self.folder, path)) != own), "")


class KeptRecords:
    """Records of a task that runs before this one have finished, in a JSON file.

    Args:
        file: of them.
        facts: what must be the same for a record to be the same, name -> text.
    """

    def __init__(self, file: Path, facts: Mapping[str, str]) -> None:
        self.file, self.facts = file, dict(facts)
        self.records: dict[str, Written] = {}
        self.refused = self._read()

    def _read(self) -> str:
        """Read the file; say why what it holds is of no use."""
        try:
            content = json.loads(self.file.read_bytes())
            if content["format"] != FORMAT:
                return f"{self.file} is of another version"
            wrong = [name for name in self.facts if content["facts"].get(name) != self.facts[name]]
            if wrong:
                return f"{self.file} is of other records: {', '.join(wrong)} differ"
            self.records = {place: Written(**each) for place, each in content["records"].items()}
        except FileNotFoundError:
            return ""
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{self.file} is damaged ({type(error).__name__})"
        return ""

    def keep(self, place: str, written: Written) -> None:
        """Keep what a record has written."""
        self.records[place] = written
        records = {name: vars(each) for name, each in self.records.items()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.file, json.dumps({"format": FORMAT, "facts": self.facts, "records": records}, indent=1))


def records_of(task: Mapping[str, Any]) -> KeptRecords | None:
    """Kept records of a task beside its model's checkpoint (`run.pt`: `run.records.json`); None where it has none."""
    checkpoint = next(_checkpoints(task["model"]), None)
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return KeptRecords(path.with_name(f"{path.stem}.records.json"), task_facts(task))


def task_facts(task: Mapping[str, Any]) -> dict[str, str]:
    """Say by digests what must be the same for a task to end with the same bits: itself, program, data, versions."""
    names = ("Python", *PACKAGES)
    versions = {name: platform.python_version() if name == "Python" else _version(name) for name in names}
    return {
        "the task": _digest([exact(task).encode()]),  # an object tells its place in memory: never the same
        "the program": _digest(_programs(set(_texts(task)))),
        "the data": _digest(_stamps(task)),
        "versions": json.dumps(versions),
    }


def exact(value: Any) -> str:
    """Tell a value as repr does, but all of a frame or an array, of which repr shows a few rows.

    >>> exact({"b": (1, "x"), "a": [None]}), exact(np.zeros(9999)) == exact(np.zeros(9999, "f4"))
    ("{'b': (1, 'x'), 'a': [None]}", False)
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{exact(key)}: {exact(each)}' for key, each in value.items())}}}"
    if type(value) in (list, tuple):
        begin, end = "[]" if type(value) is list else "()"
        return f"{begin}{', '.join(map(exact, value))}{end}"
    if isinstance(value, pd.DataFrame | pd.Series | pd.Index | np.ndarray):
        return f"{type(value).__name__} {_digest(_content(value))}"
    return repr(value)


def _content(value: Any) -> Iterator[bytes]:
    """Give what a frame, series, index or array holds, as bytes; pickles of equal ones differ."""
    if isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
        return
    frame = value if isinstance(value, pd.DataFrame) else value.to_frame()
    yield f"{list(frame.columns)} {list(frame.dtypes)} {list(frame.index.names)}".encode()
    yield pd.util.hash_pandas_object(frame).to_numpy().tobytes()


def score_digest(scores: Any) -> str:
    """Tell scores from others, bit by bit."""
    return _digest([pd.util.hash_pandas_object(scores).to_numpy().tobytes()])


def digest_of(file: Path) -> str:
    """Tell a file's content from another's; "" of one that is not there."""
    return _digest([file.read_bytes()]) if file.is_file() else ""


def _checkpoints(config: Any) -> Iterator[str]:
    """Checkpoints that a model's configuration, or a model, names."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            if name == "checkpoint" and isinstance(value, str) and value:
                yield value
            else:
                yield from _checkpoints(value)
    elif isinstance(config, list | tuple):
        for each in config:
            yield from _checkpoints(each)
    elif isinstance(file := getattr(config, "checkpoint", None), str) and file:
        yield file


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def _programs(named: set[str]) -> Iterator[bytes]:
    """Source of qlib_ext, and of modules of one's own that are in use and named."""
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        yield file.read_bytes()
    for name in sorted(named & set(sys.modules)):
        own = name.partition(".")[0] not in ("qlib", "qlib_ext")
        if own and (source := getattr(sys.modules[name], "__file__", None)):
            yield Path(source).read_bytes()


def _stamps(task: Any) -> Iterator[bytes]:
    """Names, sizes and times of the provider's files, and of those that a task names; it needs qlib."""
    from qlib.config import C

    provider = Path(C.dpm.get_data_uri("day"))
    yield str(C["region"]).encode()
    named = set(_texts(task)) - set(_checkpoints(task["model"]))
    for file in (*sorted(provider.rglob("*")), *map(Path, sorted(named))):
        with suppress(OSError, ValueError):  # no file, nor the name of any
            now = file.stat()
            if S_ISREG(now.st_mode):
                yield f"{file} {now.st_size} {now.st_mtime_ns}\n".encode()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
