"""A desk's year in evenings (tests/soak.py), in one process and in a process each: orders, books, memory, bytes.

In `make test-all` three weeks about a holiday with ex-rights days, of which the first days in processes of their own;
`make soak` lives through the year 2021 of the embedded market, both ways: about an hour.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from soak import CASH, flatness, left

pytestmark = pytest.mark.slow
YEAR = os.environ.get("SOAK") == "year"
COUNTS = {"one": [] if YEAR else ["16"], "each": [] if YEAR else ["5"]}


def start(folder, way):
    code = Path(__file__).with_name("soak.py")
    command = [sys.executable, str(code), "year", str(folder / way), way, *COUNTS[way]]
    with (folder / f"{way}.log").open("w") as log:
        return subprocess.Popen(command, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """Folders of both ways; every evening was checked while it went on: see `soak.check`."""
    folder = tmp_path_factory.mktemp("soak")
    for way, process in [(way, start(folder, way)) for way in COUNTS]:
        assert process.wait() == 0, (folder / f"{way}.log").read_text()[-3000:]
    return {way: folder / way for way in COUNTS}


def test_the_year_had_what_a_year_has(lived):
    """The checks mean something: much was ordered, and all that can stop a deal did."""
    evenings = pd.read_csv(lived["one"] / "evenings.csv")
    refused = set(pd.read_csv(lived["one"] / "refused.csv")["reason"])
    fills, end = pd.read_csv(lived["one"] / "broker.csv"), json.loads((lived["one"] / "end.json").read_text())
    events = set(" ".join(evenings["event"].dropna()).split())
    assert events == {"missed", "late", "twice", "holiday", "reissued"}
    assert {"suspended", "cash", "limit_up", "delisted"} <= refused and (YEAR or end["settled"] >= 1)
    assert float(end["paid"]) > 0 and len(fills) > (2500 if YEAR else 100)
    assert not YEAR or "limit_down" in refused


def test_memory_and_open_files_are_flat(lived, capsys):
    """In one process; where an evening kept anything, hundreds would show it."""
    told = flatness(lived["one"], settled=60 if YEAR else 5)
    with capsys.disabled():
        sys.stdout.write(f"{json.dumps(told)}\n")
    (first, last, most, slope), files = told["rss"], told["files"]
    assert files[0] == files[1] == files[2] and files[3] == 0 and told["threads"][2] <= told["threads"][0] + 3
    assert last < first + 40 and most < first + 60
    assert not YEAR or slope < 0.1  # MB an evening


def test_both_ways_leave_the_same_bytes(lived):
    count = None if YEAR else len(pd.read_csv(lived["each"] / "desk/journal.csv"))
    one, each = left(lived["one"], count), left(lived["each"], count)
    assert one.keys() == each.keys() and [name for name in one if one[name] != each[name]] == []
    assert len(one) > (500 if YEAR else 8)


def test_a_backtest_agrees(lived, capsys):
    """Lists to the byte, deals to the share, cash to the cent; what is explained is told in docs/trust.md."""
    code = Path(__file__).with_name("soak_backtest.py")
    out = subprocess.run([sys.executable, str(code), str(lived["one"])], stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(out.stdout[out.stdout.index("{") :])
    with capsys.disabled():
        sys.stdout.write(f"{json.dumps(told)}\n")
    dealt, decided, traded = told["deal_again"], told["decide_again"], told["trade_again"]
    assert dealt["lists"] > (220 if YEAR else 10) and dealt["lists_differ"] == []
    assert dealt["fills_differ"] == 0 and dealt["refused_differ"] == []
    assert dealt["cash_differs"] == "0.00" and not dealt["holdings_differ"]
    assert dealt["float_gap"] < 4.0 and len(dealt["rounded"]) <= 3  # yuan a day of 20 million: prices are float32
    assert decided["orders"] > (800 if YEAR else 50) and decided["orders_differ"] == []
    assert decided["target_gap"] < 0.01  # yuan: the list rounds to cents
    assert traded["widest_gap"] < (0.05 if YEAR else 0.005) and traded["correlation"] > 0.99
    assert np.isfinite(traded["backtest"]) and abs(traded["desk"] / float(CASH) - 1) < 1
