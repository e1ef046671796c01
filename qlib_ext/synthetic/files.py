"""Files of the embedded market: a qlib provider folder, written beside its place and renamed into it.

Legend: `D` trading days.
"""

import json
import math
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qlib_ext.synthetic.listings import BoolArray, FloatArray

KIND = "qlib_ext embedded market"
README = """# Embedded A-share market of qlib_ext: synthetic

Every number here is invented by `qlib_ext.synthetic` (version {version}, seed {seed}); codes are drawn at
random and have nothing to do with the companies that bear them. {n_stocks} stocks, {first} to {last}, a
qlib provider folder:

    qlib-ext init --provider-uri {path}
    qrun workflow.yaml

Units (the community's): `$volume` adjusted lots of 100 shares, `$amount` thousand yuan (unadjusted), prices
adjusted with the first close scaled to 1 (raw yuan = `$close / $factor`), `$change` a fraction, `$adjclose`
raw close times the cumulative adjustment. `$volume * $vwap = 10 * $amount`. Suspended days are NaN in every
field but `$factor`. `instruments/all.txt` lists the stocks, `csi300.txt` the index members point in time;
SH000300 is the index. `macro.csv` holds invented macro series on calendars of their own.

Two signals are planted, a fast one and a slow one (strength {signal}; equations: `help(qlib_ext.synthetic)`).
The best possible score reaches on `Ref($close,-2)/Ref($close,-1)-1` a mean daily IC of {ic} and RankIC of
{rank_ic}; its top tenth earns {top_decile_return} a day, paper return before costs.
{worth}
`oracle.json` holds these figures and all parameters.
"""
WORTH = """After fees and impact (b = {b}), from cash, {first} to {last}, {capital:,.0f} yuan, at most
{participation:.0%} of a stock's daily turnover: no policy can expect more than {upper_bound[excess]:.1%} a year over
the mean stock (log of the account), if all planted means were known ahead; planning each day by what its close
tells earns {planned[excess]:.1%}. What is assumed: `help(qlib_ext.synthetic.bounds)`."""
NO_WORTH = "What is left after costs was not computed: `python -m benchmarks.bench_bound {path}`."


def read_oracle(path: str | Path) -> dict[str, Any]:
    """Read `oracle.json` of an embedded market of any version; empty where there is none.

    >>> sorted(read_oracle(provider))
    ['bound', 'definition', 'first', 'kind', 'label', 'last', 'oracle', 'parameters', 'version']
    """
    try:
        content = json.loads((Path(path).expanduser() / "oracle.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) and content.get("kind") == KIND else {}


def check_target(target: Path) -> None:
    """Raise ValueError where something else than an embedded market stands at `target`."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ValueError(f"{target} is a file; give a folder.")
    if any(target.iterdir()) and not read_oracle(target):
        raise ValueError(
            f"{target} is not empty and holds no embedded market; it is left alone. Give a new or an empty folder."
        )


def spans_of(days: npt.NDArray[np.datetime64], column: BoolArray) -> list[tuple[str, str]]:
    """First and last day of each run of True in (D,), as ISO dates."""
    edges = np.flatnonzero(np.diff(np.r_[False, column, False]))
    return [(str(days[begin]), str(days[end - 1])) for begin, end in edges.reshape(-1, 2)]


def write_fields(folder: Path, code: str, start: int, fields: Mapping[str, FloatArray]) -> None:
    """Write one instrument's `<field>.day.bin`: little-endian float32, start index first, then values."""
    place = folder / "features" / code.lower()
    place.mkdir(parents=True)
    for name, values in fields.items():
        raw = np.concatenate([[start], values]).astype("<f4").tobytes()  # `tofile` does not say that a disk is full
        (place / f"{name}.day.bin").write_bytes(raw)


def write_lists(
    folder: Path, days: npt.NDArray[np.datetime64], instruments: Mapping[str, Iterable[tuple[str, str, str]]]
) -> None:
    """Write the calendar and the lists of instruments, name -> (code, first day, last day)."""
    for name in ("calendars", "instruments"):
        (folder / name).mkdir(parents=True)
    calendar = "".join(f"{day}\n" for day in days)
    (folder / "calendars" / "day.txt").write_text(calendar, encoding="utf-8", newline="\n")
    for name, rows in instruments.items():
        text = "".join("\t".join(row) + "\n" for row in rows)
        (folder / "instruments" / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")


def write_notes(folder: Path, *, version: int, facts: Mapping[str, Any], oracle: Mapping[str, Any]) -> None:
    """Write README.md and, last of all, oracle.json, which marks the folder complete. NaN becomes null."""
    clean = {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in oracle.items()}
    shown = {key: "none" if v is None else f"{v:.4g}" for key, v in clean.items()}
    values = dict(facts) | shown | {"version": version, "path": "DIR", **facts["parameters"]}
    values["worth"] = WORTH.format(**facts["bound"]) if facts["bound"] else NO_WORTH.format(**values)
    (folder / "README.md").write_text(README.format(**values), encoding="utf-8", newline="\n")
    content = {
        "kind": KIND,
        "version": version,
        "label": "Ref($close,-2)/Ref($close,-1)-1",
        "definition": "score = E[label of d | state at the close of d]; daily, mean over days, no costs",
        **facts,
        "oracle": clean,
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    (folder / "oracle.json").write_text(text, encoding="utf-8", newline="\n")


def remove_left(target: Path) -> None:
    """Delete what builds of `target` that were killed an hour ago or earlier have left beside it."""
    left = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}(\.old)?")
    for folder in filter(lambda each: left.fullmatch(each.name), target.parent.iterdir()):
        if time.time() - folder.stat().st_mtime > 3600:
            shutil.rmtree(folder, ignore_errors=True)


def replace(build: Path, target: Path) -> None:
    """Rename `build` to `target`; an embedded market or empty folder there is moved aside and deleted."""
    for attempt in range(20):
        check_target(target)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.old")
        try:
            target.rename(aside)
        except FileNotFoundError:
            pass
        else:
            shutil.rmtree(aside, ignore_errors=True)
        try:
            build.rename(target)
            return
        except OSError:  # another process put its market there in between
            if attempt == 19:
                raise
