"""Door of the section "Providers": statements on a copy of the market, then check-data, a run's own check, init."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np

from qlib_ext.check_data import check_data, check_start
from qlib_ext.workflow import survey


class Folder:
    """A provider folder whose series are links to the market's: a statement replaces files, it never writes into one.

    `d` are the days, `c` the codes with a bar on the first and the last of them; paths count from the folder.
    """

    def __init__(self, root):
        self.root = root
        self.d = self.lines("calendars/day.txt")
        spans = [line.split("\t") for line in self.lines("instruments/all.txt")]
        self.c = [code for code, first, last in spans if (first, last) == (self.d[0], self.d[-1])]

    def lines(self, name):
        return (self.root / name).read_text().splitlines()

    def put(self, name, lines, encoding="utf-8"):
        (self.root / name).write_text("".join(f"{line}\n" for line in lines), encoding=encoding)

    def swap(self, name, old, new):
        self.put(name, [line.replace(old, new) for line in self.lines(name)])

    def own(self, *parts):
        """A list of the first codes, each part (how many, number of the first day, of the last)."""
        self.put("instruments/own.txt", [f"{c}\t{self.d[a]}\t{self.d[b]}" for n, a, b in parts for c in self.c[:n]])

    def spell(self, write, lists=True, folders=True):
        """Write all codes otherwise: a function of the exchange and the digits."""
        for file in (self.root / "instruments").iterdir() if lists else ():
            rows = [line.split("\t") for line in file.read_text().splitlines()]
            self.put(f"instruments/{file.name}", ["\t".join([write(c[:2], c[2:]), *rest]) for c, *rest in rows])
        for place in [*(self.root / "features").iterdir()] if folders else ():
            place.rename(place.with_name(write(*(part.upper() for part in (place.name[:2], place.name[2:])))))

    def move(self, old, new):
        (self.root / old).rename(self.root / new)

    def drop(self, name):
        shutil.rmtree(self.root / name) if (self.root / name).is_dir() else (self.root / name).unlink()

    def copy(self, old, new):
        shutil.copytree(self.root / old, self.root / new, copy_function=os.link)

    def bytes(self, code, field, content):
        file = self.root / f"features/{code.lower()}/{field}.day.bin"
        file.unlink(missing_ok=True)
        file.write_bytes(content)

    def write(self, code, field, values, start=0, kind="<f4"):
        self.bytes(code, field, np.r_[start, values].astype(kind).tobytes())

    def edit(self, codes, fields, change, days=slice(None)):
        """Apply a function to the values of some days (counted from the series' first)."""
        for code in [codes] if isinstance(codes, str) else codes:
            for field in fields.split():
                raw = np.fromfile(self.root / f"features/{code.lower()}/{field}.day.bin", "<f4")
                raw[1:][days] = change(raw[1:][days])
                self.write(code, field, raw[1:], raw[0])

    def read(self, code, field):
        raw = np.fromfile(self.root / f"features/{code.lower()}/{field}.day.bin", "<f4").astype(float)
        return raw[0], raw[1:]

    def fill(self, codes, days, volume=0.0):
        """Suspend stocks on days that are filled with the close before them, and such a volume."""
        for code in [codes] if isinstance(codes, str) else codes:
            close = self.read(code, "close")[1][days.start - 1]
            self.edit(code, "open high low close vwap", lambda v, close=close: 0 * v + close, days)
            self.edit(code, "volume amount change", lambda v: 0 * v + volume, days)

    def units(self, raw=False, lots=False, amount=1.0, whole=False):
        """Lay volumes of raw or adjusted shares or lots, whole numbers if raw; amounts of so many yuan, or none."""
        for code in self.lines("instruments/all.txt"):
            code = code.split("\t")[0]
            (start, close), (_, factor), (_, dealt) = (self.read(code, f) for f in ("close", "factor", "amount"))
            shares = np.rint(1000 * dealt / (close / factor) / (100 if lots else 1))
            volume = shares if raw else shares / factor
            self.write(code, "volume", np.rint(volume) if whole else volume, start)
            self.write(code, "amount", 1000 * dealt / (amount or 1), start)
            if amount is None:
                self.drop(f"features/{code.lower()}/amount.day.bin")


def _link(old, new):
    return os.link(old, new) if Path(old).suffix == ".bin" else shutil.copy(old, new)


def give(text, place, market):
    p = Folder(Path(shutil.copytree(market, place / "p", copy_function=_link)))
    names = {"p": p, "np": np, "universe": None}
    exec(text, names)
    table = check_data(p.root, universe=names["universe"])
    for row in table[table["severity"] != "info"].to_dict("records"):
        sys.stderr.write(f"{row['severity']} {row['check']}: {row['example']}; {row['cure']}\n")
    try:
        start = check_start(p.root, universe=names["universe"])
    except ValueError:
        assert "error" in set(table["severity"]), "check-data would end with status 0"
        raise
    assert {line.split(":")[0] for line in start} <= set(table["check"]), "other checks than check-data's"
    looked = survey(p.root, universe=names["universe"], model="mlp")
    (first, _), (_, last) = looked.segments["train"], looked.segments["test"]
    facts = table.attrs
    days = f"{first.date()} to {last.date()}"
    return f"{facts['stocks']} stocks, {facts['days']} days; {looked.reason}; {days}; units: {looked.profile}"
