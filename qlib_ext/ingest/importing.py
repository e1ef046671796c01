"""Import frames of bars into a qlib provider folder: a new one, or new days behind those of an old one.

The new folder is built beside the old one, checked, and takes its place in one step; whatever happens before leaves the
old one as it was. Series only grow at their end, so that a process that has read the old calendar reads the old days as
they were; only corrections (`correct`) change them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qlib_ext.beside import alone
from qlib_ext.check_data import check_data
from qlib_ext.ingest.bars import Bars, read_bars
from qlib_ext.ingest.folder import LAST, Build, Standing, kept_text, list_text, stock_spans, told_spans
from qlib_ext.ingest.series import FIELDS, Joined, Old, Rows, join, new_series
from qlib_ext.ingest.side import Spell, read_spells, side_texts, universe_spans
from qlib_ext.provider import SIDE
from qlib_ext.rules import is_index

BEFORE = 60  # trading days before the first new one that are checked with the new ones
HALF = 0.5  # share of the day before's stocks that a new day must have, and of stocks that must follow their last close
LEAST = 20  # stocks from which that says something
SHOWN = 5  # corrections that are told
CENTS = ("open", "high", "low", "close", "pre_close")

Say = Callable[[str], None]


@dataclass
class Imported:
    """What an import has done.

    Attributes:
        folder: the provider's.
        days: that are new.
        stocks: codes that are new.
        bars: that are new.
        corrections: of old bars, a row each: code, date, what.
        corrected: whether they were applied.
        written: whether anything was.
        told: what the user should know.
    """

    folder: Path
    days: pd.DatetimeIndex
    stocks: list[str]
    bars: int
    corrections: pd.DataFrame
    corrected: bool
    written: bool
    told: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Say it in plain words, a line each."""
        span = f" ({self.days[0].date()} to {self.days[-1].date()})" if len(self.days) else ""
        out = [f"{self.folder}: {len(self.days)} new days{span}, {len(self.stocks)} new codes, {self.bars:,} new bars"]
        if not self.written:
            out = [f"{self.folder}: nothing is new, nothing was written"]
        if len(self.corrections):
            what = "applied" if self.corrected else "NOT applied: add --correct to take the frame's"
            out.append(f"{len(self.corrections)} old bars differ from the frame, {what}")
            shown = self.corrections.head(SHOWN).to_dict("records")
            out += [f"  {row['code']} {row['date'].date()}: {row['what']}" for row in shown]
        return out + self.told


def import_frames(
    frames: str | Path | Sequence[str | Path],
    provider_uri: str | Path,
    *,
    correct: bool = False,
    volume: float | None = None,
    amount: float | None = None,
    prices: str | None = None,
    fields: Sequence[str] = (),
    names: str | Path | None = None,
    st: str | Path | None = None,
    industry: str | Path | None = None,
    listed: str | Path | None = None,
    universes: Mapping[str, str | Path] | None = None,
    say: Say | None = None,
) -> Imported:
    """Import frames of bars into a provider folder; what is there already is left out, so that twice is once.

    Args:
        frames: CSV or Parquet files of one vendor, or folders of them: long, with columns for day and code, open, high,
            low, close, volume, amount, and what tells the adjustment: factor (raw times factor is adjusted) or
            pre_close. Frames of Baostock, AKShare, Tushare and of qlib's own fields are known by their columns.
        provider_uri: the folder; new, empty, or a provider's. New ones are in the community's units; an old one's stay.
        correct: replace bars of old days where a frame's differ, and the days behind them, which it must have too.
        volume: shares that one of the frame's volume is; None: as each row tells.
        amount: yuan that one of its amount is; None: as each row tells.
        prices: "raw" or "adjusted" (by the column factor); None: as the cents tell.
        fields: further columns that become fields, as they stand; of an old provider those that it has.
        names: CSV file with the columns code, name.
        st: CSV file with the columns code, start, end: spells of special treatment.
        industry: CSV file with the columns code, industry, and start where they change.
        listed: CSV file with the columns code, start, end (empty: still): when stocks came to and left the market, of
            those that it names; None: a stock has left where the frame tells suspended days and has no row of it, or
            after 250 days without one.
        universes: name -> CSV file with the columns code, start, end (empty: still), which becomes instruments/<name>.
        say: called with a line on the progress.

    Raises:
        ValueError: a frame that is not surely understood (see `ingest.read_bars`), a day that the calendar lacks among
            its days, prices that cannot be joined to those that are there, or data that `check_data` calls wrong: with
            code, day and cure. The folder is then as it was.
        OSError: what cannot be read or written.

    >>> import tempfile
    >>> frame = pd.DataFrame({"date": ["2020-01-02", "2020-01-03"], "code": "sh.600000", "open": 12.4, "high": 12.6,
    ...     "low": 12.3, "close": [12.5, 12.4], "preclose": [12.4, 12.5], "volume": 5.2e7, "amount": 6.5e8})
    >>> folder = Path(tempfile.mkdtemp())
    >>> frame.to_csv(folder / "bars.csv", index=False)
    >>> import_frames(folder / "bars.csv", folder / "data").bars
    2
    """
    tell = say or (lambda _line: None)
    target = Path(provider_uri).expanduser().resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone(target, tell):
        tell("reading the frames")
        paths = [frames] if isinstance(frames, str | Path) else list(frames)
        bars = read_bars(paths, volume=volume, amount=amount, prices=prices, fields=fields)
        tell(f"{len(bars.day):,} rows of {len(bars.codes)} codes, {len(bars.days)} days, of {bars.vendor.name}")
        standing = Standing.of(target)
        files = {"names": names, "st": st, "industry": industry}
        beside = {name: None if file is None else Path(file).expanduser() for name, file in files.items()}
        work = _Work(bars, standing, correct, tuple(name.lower() for name in fields), tell)
        work.listed = [] if listed is None else read_spells(Path(listed).expanduser())
        build = Build(standing)
        try:
            work.write(build)
            work.finish(build, beside, universes or {})
            done = work.done()
            if done.written:
                _check(build, work, tell)
                build.take_place()
        finally:
            build.drop()
        return done


class _Work:
    """One import: joins the stocks one by one, and keeps what became of them."""

    def __init__(self, bars: Bars, standing: Standing, correct: bool, fields: tuple[str, ...], say: Say) -> None:
        self.bars, self.standing, self.correct, self.say = bars, standing, correct, say
        self.told = list(bars.told)
        dealt = np.unique(bars.day[bars.traded])
        stood = standing.days
        new = bars.days[dealt]
        new = new[new > stood[-1]] if len(stood) else new
        self.new = pd.DatetimeIndex(new)
        self.days = pd.DatetimeIndex(stood.append(self.new) if len(stood) else self.new)
        self.count = len(stood)
        self.fields = (*(FIELDS if not self.count else standing.fields), *fields)
        self.joined: dict[str, Joined] = {}
        self.changed = False
        self.listed: list[Spell] = []
        self._check_days(dealt)

    def _check_days(self, dealt: Any) -> None:
        """Refuse days among the old ones that the calendar lacks, and new days with few stocks."""
        if not len(self.days):
            raise ValueError("the frames have no row with a trade: close and volume above 0")
        strange = self.bars.days[dealt][~self.bars.days[dealt].isin(self.days)]
        if len(strange):
            raise ValueError(
                f"{strange[0].date()} is no day of {self.standing.folder}, whose calendar goes from "
                f"{self.days[0].date()} to {self.standing.days[-1].date()}: days are only put behind it; import all "
                "frames into a new folder"
            )
        if not self.count or not len(self.new):
            return
        rows = self.bars.traded & self.bars.shares
        count = np.bincount(self.bars.day[rows], minlength=len(self.bars.days))
        final = self.count - 1
        stocks = [code for code in self.standing.places if not is_index(code)]
        before = sum(self.standing.span(code)[1] == final for code in stocks)
        for day in self.new:
            there = int(count[self.bars.days.get_loc(day)])
            if before >= LEAST and there < HALF * before:
                raise ValueError(
                    f"{day.date()} has {there} stocks, the day before {before}: the frame is not complete; download "
                    "the whole market of this provider again"
                )
            before = there

    def write(self, build: Build) -> None:
        """Write the series of all codes that the frames change."""
        bars, at = self.bars, self.days.get_indexer(self.bars.days)
        edges = np.searchsorted(bars.stock, np.arange(len(bars.codes) + 1))
        for n, code in enumerate(bars.codes):
            part = slice(int(edges[n]), int(edges[n + 1]))
            place = at[bars.day[part]]
            keep = place >= 0
            values = {name: column[part][keep].astype(np.float64) for name, column in bars.values.items()}
            if not is_index(code):
                values |= {name: np.round(values[name], 2) for name in CENTS if name in values}
            rows = Rows(code, self.days, place[keep].astype(np.int64), bars.traded[part][keep], values)
            self._join(rows, build)
            if n % 500 == 499:
                self.say(f"{n + 1} of {len(bars.codes)} codes")
        self._check_joins()

    def _join(self, rows: Rows, build: Build) -> None:
        standing, code, units = self.standing, rows.code, self.standing.units
        series = standing.series(code, self.fields) if code in standing.places else {}
        if "close" in series:
            exact = standing.last.get(code)
            done = join(rows, Old.of(series, units), exact, self.count, units, correct=self.correct)
        else:
            done = new_series(rows, units)
            if done.series is not None:
                done.series = {name: series for name, series in done.series.items() if name in self.fields}
        self.joined[code] = done
        if done.series is not None:
            self.changed = True
            build.write_series(code, done.series)

    def _check_joins(self) -> None:
        """Refuse a frame that does not begin where the provider ends."""
        final = self.count - 1
        judged = [
            code
            for code, done in self.joined.items()
            if done.added
            and code in self.standing.places
            and not is_index(code)
            and self.standing.span(code)[1] == final
        ]
        stale = [code for code in judged if self.joined[code].stale]
        if len(stale) > HALF * len(judged):
            raise ValueError(
                f"the close before the first new day, {self.new[0].date()}, is not the last close that is there "
                f"({self.days[final].date()}) of {len(stale)} of {len(judged)} stocks, such as {stale[0]}: days "
                f"between are missing, or prices are of another source; begin the frame on {self.days[final].date()}"
            )

    def finish(self, build: Build, files: Mapping[str, Path | None], universes: Mapping[str, str | Path]) -> None:
        """Write calendar, lists, side files; take over the rest."""
        standing = self.standing
        texts = {
            f"{SIDE}/{name}.csv": text
            for name, text in side_texts(standing.folder, self.bars, files, self.days).items()
        }
        last = standing.last | {code: done.last for code, done in self.joined.items() if done.last is not None}
        texts[LAST] = kept_text(last, self.days)
        if self.changed or self.listed or not self.count:
            texts["calendars/day.txt"] = "".join(f"{day}\n" for day in self.days.strftime("%Y-%m-%d"))
            texts |= self._lists()
        final = str(self.days[-1].date())
        for name, file in universes.items():
            texts[f"instruments/{_list_name(name)}.txt"] = list_text(universe_spans(Path(file).expanduser(), final))
        for name, text in texts.items():
            there = standing.folder / name
            if there.is_file() and there.read_text(encoding="utf-8") == text:
                continue
            self.changed = True
            build.write_text(name, text)
        if self.changed:
            build.keep_rest()

    def _lists(self) -> dict[str, str]:
        """Write all lists whose spans go on to the calendar's end."""
        standing, final = self.standing, str(self.days[-1].date())
        ends = {code: standing.span(code) for code in standing.places}
        for code, done in self.joined.items():
            if done.series is not None and "close" in done.series:
                first, values = done.series["close"]
                ends[code] = (first, first + len(values) - 1)
        stated = "stated" in self.bars.values
        stocks, indices = stock_spans(standing, self.days, {c: e for c, e in ends.items() if e[1] >= 0}, stated=stated)
        out = {"instruments/all.txt": list_text(told_spans(stocks, self.listed, self.days))}
        if indices:
            out["instruments/index.txt"] = list_text(indices)
        if not len(self.new) or not self.count:
            return out
        was = str(standing.days[-1].date())
        for name, spans in standing.lists.items():
            if name in ("all", "index") or not any(last == was for _, _, last in spans):
                continue
            open_ = sum(last == was for _, _, last in spans)
            grown = [(code, first, final if last == was else last) for code, first, last in spans]
            out[f"instruments/{name}.txt"] = list_text(grown)
            self.told.append(
                f"{name}: {open_} spans that ended with the calendar go on to {final}; its true members come by "
                f"--members {name}=FILE"
            )
        return out

    def done(self) -> Imported:
        """Sum up."""
        rows = [(code, self.days[at], what) for code, one in self.joined.items() for at, what in one.corrections]
        table = pd.DataFrame(rows, columns=["code", "date", "what"])
        new = [code for code, one in self.joined.items() if one.series is not None and code not in self.standing.places]
        added = sum(one.added for one in self.joined.values())
        applied = self.correct and bool(len(table))
        return Imported(self.standing.folder, self.new, new, added, table, applied, self.changed, self.told)


def _list_name(name: str) -> str:
    if not name.replace("_", "").replace("-", "").isalnum() or name in ("all", "index"):
        raise ValueError(
            f"universe {name!r}: wanted is a name such as csi300 (all and index are written by the import)"
        )
    return name.lower()


def _check(build: Build, work: _Work, say: Say) -> None:
    """Check the built folder on what is new, and on some days before it.

    Raises: ValueError for errors that the folder before did not have.
    """
    corrected = work.correct and any(one.corrections for one in work.joined.values())
    start = None if not work.count or corrected else work.days[max(work.count - BEFORE, 0)]
    say("checking what was built")
    table = check_data(build.folder, start=start, say=say)
    errors = table[table["severity"] == "error"]
    if len(errors) and work.count:
        old = check_data(work.standing.folder, start=start, say=say)
        known = set(old.loc[old["severity"] == "error", "check"])
        work.told += [
            f"as before: {row['check']} ({row['example']})"
            for row in errors.to_dict("records")
            if row["check"] in known
        ]
        errors = errors[~errors["check"].isin(known)]
    if len(errors):
        lines = [
            f"{row['check']}: {row['count']:,} of {row['of']:,}, for example {row['example']}; {row['cure']}"
            for row in errors.to_dict("records")
        ]
        raise ValueError("nothing was imported, the data are wrong:\n" + "\n".join(lines))
    work.told += [
        f"warning, {row['check']}: {row['count']:,} of {row['of']:,}, for example {row['example']}; {row['cure']}"
        for row in table[table["severity"] == "warning"].to_dict("records")
    ]
