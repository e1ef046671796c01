"""Tables beside the bars, in qlib_ext/ of the provider: names, special treatment, industries; and universes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from qlib_ext.ingest.bars import Bars
from qlib_ext.provider import side_file
from qlib_ext.rules import read_share
from qlib_ext.spelling import is_nothing, read_csv, read_day

Spell = tuple[str, str, str]  # code, first day, last day; still where it is empty


def read_texts(file: Path | None, name: str) -> dict[str, str]:
    """Read code -> text of a table with the columns code and `name`; the later of two lines counts.

    Raises: ValueError, OSError as `spelling.read_csv`, and for a code of no A share.
    """
    if file is None:
        return {}
    table = read_csv(file, ["code", name])
    rows = zip(table.index, table["code"], table[name], strict=True)
    return {
        read_share(f"{file}, line {n}: code", code): str(text).strip() for n, code, text in rows if not is_nothing(text)
    }


def read_spells(file: Path) -> list[Spell]:
    """Read spans of codes: columns code, start and end (empty: still).

    Raises: ValueError, OSError as `spelling.read_csv`, and for a code of no A share, no day, an end before its start.
    """
    table = read_csv(file, ["code", "start", "end"])
    out = []
    for n, code, start, end in table[["code", "start", "end"]].itertuples():
        where = f"{file}, line {n}"
        first, last = read_day(f"{where}: start", start), None
        if not is_nothing(end):
            last = read_day(f"{where}: end", end, hint="; an open end stays empty")
            if last < first:
                raise ValueError(f"{where}: ends on {last.date()}, before it starts on {first.date()}; correct it")
        out.append((read_share(f"{where}: code", code), str(first.date()), "" if last is None else str(last.date())))
    return sorted(out)


def side_texts(folder: Path, bars: Bars, files: Mapping[str, Path | None], days: pd.DatetimeIndex) -> dict[str, str]:
    """Give the side files that an import says something of: name -> text of the file."""
    out = {}
    for name, column in (("names", "name"), ("industry", "industry")):
        old, own = side_file(folder, name), files.get(name)
        if own is not None and "start" in read_csv(own, ["code", column], optional=["start", "end"]):
            out[name] = _dated(own, column)
        elif (new := bars.texts.get(column, {}) | read_texts(own, column)) and not _is_dated(old):
            merged = read_texts(old, column) | new
            out[name] = f"code,{column}\n" + "".join(f"{code},{_cell(text)}\n" for code, text in sorted(merged.items()))
    old = side_file(folder, "st")
    spells = None
    if (own := files.get("st")) is not None:
        spells = read_spells(own)
    elif "st" in bars.values:
        spells = st_spells(bars, [] if old is None else read_spells(old), days)
    if spells is not None:
        out["st"] = "code,start,end\n" + "".join(",".join(spell) + "\n" for spell in spells)
    return out


def _dated(file: Path, column: str) -> str:
    """Text of a table whose rows hold from a day on."""
    table = read_csv(file, ["code", column, "start"])
    rows = []
    for n, code, text, start in table[["code", column, "start"]].itertuples():
        day = read_day(f"{file}, line {n}: start", start)
        rows.append((read_share(f"{file}, line {n}: code", code), str(day.date()), _cell(str(text).strip())))
    return f"code,{column},start\n" + "".join(f"{code},{text},{day}\n" for code, day, text in sorted(rows))


def _is_dated(file: Path | None) -> bool:
    return file is not None and "start" in file.read_text(encoding="utf-8").splitlines()[0]


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text


def st_spells(bars: Bars, old: Sequence[Spell], days: pd.DatetimeIndex) -> list[Spell]:
    """Spells of special treatment by the flag of each row, behind those that are known.

    A spell ends on the trading day before the first row without the flag, and is open where there is none.
    """
    at = days.get_indexer(bars.days)[bars.day]
    out: dict[str, list[Spell]] = {}
    for spell in old:
        out.setdefault(spell[0], []).append(spell)
    edges = np.searchsorted(bars.stock, np.arange(len(bars.codes) + 1))
    flagged: npt.NDArray[np.bool_] = bars.values["st"] > 0
    known = np.isfinite(bars.values["st"]) & (at >= 0)
    for n, code in enumerate(bars.codes):
        rows = np.arange(edges[n], edges[n + 1])
        rows = rows[known[rows]]
        spells = out.get(code, [])
        if not len(rows) or not (flagged[rows].any() or spells):
            continue
        turns = np.flatnonzero(np.diff(np.r_[False, flagged[rows]].astype(np.int8)))
        first = str(days[at[rows[0]]].date())
        kept = [spell for spell in spells if spell[1] < first]
        going = kept[-1] if kept and (not kept[-1][2] or kept[-1][2] >= first) else None
        if going is not None:
            kept = kept[:-1]
        begin = going[1] if going is not None else ""
        if going is not None and not flagged[rows[0]]:
            kept.append((code, begin, str(days[max(at[rows[0]] - 1, 0)].date())))
            begin = ""
        for turn in turns.tolist():
            day = at[rows[turn]]
            if flagged[rows[turn]]:
                begin = begin or str(days[day].date())
            else:
                kept.append((code, begin, str(days[day - 1].date())))
                begin = ""
        out[code] = kept + ([(code, begin, "")] if begin else [])
    return sorted(spell for spells in out.values() for spell in spells)


def universe_spans(file: Path, final: str) -> list[Spell]:
    """Spans of a universe, an open one up to the calendar's end."""
    return [(code, first, last or final) for code, first, last in read_spells(file) if first <= final]
