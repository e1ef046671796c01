"""Mutation testing, room by room: `make mutation ROOM=losses SAMPLE=100`. The changes and their runs are mutmut's.

    python -m benchmarks.mutation ROOM [--sample N] [--seed S] [--again]

A mutant is the room with one change: another operator, number, name or argument. It is killed where a test of the
room's list below fails, or does not end. Drawn are N mutants (0: all), from each file by its share; the same seed draws
the same. `--again` tries only those that lived in the last run. Not drawn, as no test of ours asks for it:

- the words of errors (all of a `raise`), warnings and log, prose (a string with a blank), hints, the name of an
  option in a `check_...`, `__repr__`;
- what mutmut leaves out: annotations, docstrings, tables of a module, defaults that are more than a number or a word.

Functions with a decorator are left out by mutmut too; in the copy that it works on, `@decorator def f` is written as
`def f` and `f = decorator(f)`, which is the same. Survivors that no test can tell, or none should, stand in
mutation-survivors.toml with the reason.
"""

import argparse
import ast
import copy
import json
import os
import random
import re
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutation"
SURVIVORS = Path(__file__).with_name("mutation-survivors.toml")
ROOMS = {  # room: the tests that are its own
    "losses": "losses neutral day_weight own_loss_and_metric extremes",
    "splits": "splits",
    "rules": "rules units",
    "portfolio": "portfolio cost_aware optimal simulate forecast forecast_schedule locked exposures executions "
    "market_of horizon_heads series",
    "evaluate": "evaluate baselines capacity compare diagnostics execution_tables gate lags net_excess neutral_metrics "
    "score_tear sharpe tear series own_loss_and_metric mixed account",
    "strategy": "strategy cost_aware_strategy execution orders executions account filled forecast_schedule side_files",
}
READ = ("workflows", "docs")  # by the tests
QUIET = [r"^\s*raise\b", r"^\s*(warnings\.)?warn\(", r"^\s*(_LOG|log|logger)\.\w+\("]
CONFTEST = """
import json
from pathlib import Path

from mutmut.mutation import trampoline

wrap_in_trampoline = trampoline.wrap_in_trampoline


def with_defaults(*mutants, **options):  # the wrapper has all of a function but these
    def wrap(function):
        wrapper = wrap_in_trampoline(*mutants, **options)(function)
        wrapper.__kwdefaults__ = function.__kwdefaults__
        return wrapper

    return wrap


trampoline.wrap_in_trampoline = with_defaults


def pytest_collection_modifyitems(items):  # the fastest files first, in each its own order: its tests share a qlib
    stats = Path("mutmut-stats.json")
    if stats.exists():
        took, files = json.loads(stats.read_text())["duration_by_test"], {}
        place = {name: at for at, name in enumerate(took)}
        for item in items:
            files[item.path] = files.get(item.path, 0.0) + took.get(item.nodeid, 0.0)
        items.sort(key=lambda item: (files[item.path], str(item.path), place.get(item.nodeid, 0)))
"""


def undecorated(source: str) -> str:
    """Write `@decorator def f` as `def f` and `f = decorator(f)`."""
    lines = source.splitlines()
    for node in reversed([n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]):
        words = [ast.unparse(decorator) for decorator in node.decorator_list]
        if not words or words in (["staticmethod"], ["classmethod"]) or any("." in w.split("(")[0] for w in words):
            continue
        value = node.name
        for word in reversed(words):
            value = f"{word}({value})"
        assert node.end_lineno is not None
        lines.insert(node.end_lineno, f"{' ' * node.col_offset}{node.name} = {value}")
        first = node.decorator_list[0].lineno - 1
        del lines[first : node.lineno - 1]
    return "\n".join(lines) + "\n"


def prepare(room: str) -> Path:
    """Copy sources and tests into the room's own folder, with mutmut's configuration."""
    folder = WORK / room
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("qlib_ext", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in READ:
        shutil.copytree(ROOT / name, folder / name)
    path = "qlib_ext/splits.py" if room == "splits" else f"qlib_ext/{room}/*"
    for file in folder.glob(path):
        if file.suffix == ".py" and file.name != "__init__.py":
            file.write_text(undecorated(file.read_text()))
    (folder / "conftest.py").write_text(CONFTEST)
    config = {
        "source_paths": ["qlib_ext"],
        "only_mutate": [path],
        "do_not_mutate_patterns": QUIET,
        "also_copy": ["conftest.py", *READ],
        "pytest_add_cli_args_test_selection": [f"tests/test_{name}.py" for name in ROOMS[room].split()],
        "pytest_add_cli_args": ["-m", "not slow", "-p", "no:cacheprovider"],
        "timeout_constant": 10.0,
        "timeout_multiplier": 5.0,
        "use_setproctitle": False,
        "use_git_change_detection": False,
    }
    rows = "\n".join(f"{key} = {json.dumps(value)}" for key, value in config.items())
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + f"\n[tool.mutmut]\n{rows}\n")
    return folder


# --- what a mutant is


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    """All functions of a file that mutmut has written: each original and each of its mutants, by name."""
    return {node.name: node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


class WithoutWords(ast.NodeTransformer):
    """Takes out what is only said: prose, hints, the name of an option in a check."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Take out prose: a string with a blank."""
        prose = isinstance(node.value, str) and " " in node.value.strip()
        return ast.Constant("words") if prose else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Take out hints, and the first argument of a check if it is a name."""
        self.generic_visit(node)
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "hint"]
        if getattr(node.func, "id", "").startswith("check_") and node.args and isinstance(node.args[0], ast.Constant):
            node.args[0] = ast.Constant("name")
        return node


def lines(function: ast.FunctionDef) -> list[str]:
    """Give the body as `ast.unparse` writes it."""
    return [line.strip() for part in function.body for line in ast.unparse(part).split("\n")]


def said(function: ast.FunctionDef) -> list[str]:
    """Give what can be told from the body but by its words."""
    return [ast.dump(WithoutWords().visit(copy.deepcopy(part))) for part in function.body]


def change(before: list[str], after: list[str]) -> tuple[str, str]:
    """Give the lines that differ, before and after: what is between the common ones."""
    start = len(os.path.commonprefix([before, after]))  # of lists too
    end = len(os.path.commonprefix([before[start:][::-1], after[start:][::-1]]))
    return "\n".join(before[start : len(before) - end]), "\n".join(after[start : len(after) - end])


def mutants(folder: Path) -> Iterator[dict[str, str]]:
    """Give mutmut's mutants but those of words."""
    for meta in sorted((folder / "mutants").rglob("*.py.meta")):
        path = meta.with_suffix("")
        written, originals = functions(path), {}
        for name in json.loads(meta.read_text())["exit_code_by_key"]:
            function = name.rpartition(".")[2]
            original = re.sub(r"__mutmut_\d+$", "__mutmut_orig", function)
            if original not in originals:
                originals[original] = lines(written[original]), said(written[original])
            text, meaning = originals[original]
            if "__repr__" in function or meaning == said(written[function]):
                continue
            before, after = change(text, lines(written[function]))
            file = str(path.relative_to(folder / "mutants"))
            yield {"name": name, "file": file, "before": before, "after": after}


# --- one run


def draw(rows: list[dict[str, str]], count: int, seed: int) -> list[dict[str, str]]:
    """Draw from each file by its share, at least one; 0: all."""
    if not count or count >= len(rows):
        return rows
    chosen = []
    for file, size in sorted(Counter(row["file"] for row in rows).items()):
        own = [row for row in rows if row["file"] == file]
        chosen += random.Random(f"{seed} {file}").sample(own, max(1, round(size * count / len(rows))))
    return chosen


def reason(row: dict[str, str]) -> str:
    """Why a survivor may live; empty: nobody has said."""
    for entry in tomllib.loads(SURVIVORS.read_text())["survivor"]:
        same = all(entry.get(key, row[key]) == row[key] for key in ("file", "before", "after"))
        if same and ("change" not in entry or re.search(entry["change"], f"{row['before']} -> {row['after']}")):
            return entry["reason"]
    return ""


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Count by file and in all: mutants, tried, killed, survivors with a reason and without, share of killed."""
    by_file = rows.groupby("file").agg(
        mutants=("of", "first"), tried=("name", "count"), killed=("killed", "sum"), excused=("excused", "sum")
    )
    by_file.loc["all"] = by_file.sum()
    by_file["open"] = by_file["tried"] - by_file["killed"] - by_file["excused"]
    share = by_file["killed"] / by_file["tried"]
    spread = 1 - by_file["tried"] / by_file["mutants"]  # of a sample without replacement
    by_file["killed %"] = 100 * share
    by_file["+-"] = 196 * (share * (1 - share) / by_file["tried"] * spread) ** 0.5
    return by_file.round(1)


def whole_files() -> None:
    """Have a mutant tried by all tests of a file where one calls it: others see it in a fixture that they share."""
    from mutmut.state import state

    by_function, names = state().tests_by_mangled_function_name, list(state().duration_by_test)
    for function, tests in by_function.items():
        files = {name.partition("::")[0] for name in tests}
        by_function[function] = {name for name in names if name.partition("::")[0] in files}


def try_all(chosen: list[dict[str, str]], processes: int) -> dict[str, str]:
    """Let mutmut try them, in the folder of the room: what became of each."""
    import mutmut.__main__ as mutmut
    from mutmut.stats import status_by_exit_code

    collect = mutmut.collect_or_load_stats
    mutmut.collect_or_load_stats = lambda *args, **options: (collect(*args, **options), whole_files())
    mutmut._run([row["name"] for row in chosen], processes)
    codes: dict[str, int | None] = {}
    for meta in Path("mutants").rglob("*.py.meta"):
        codes |= json.loads(meta.read_text())["exit_code_by_key"]
    return {row["name"]: status_by_exit_code[codes[row["name"]]] for row in chosen}


def generate(room: str, processes: int) -> list[dict[str, str]]:
    """Let mutmut write the mutants of a room, and go to its folder."""
    folder = prepare(room)
    os.environ["PYTHONPATH"] = str(folder / "mutants")  # for the processes that tests start
    os.chdir(folder)
    import mutmut.__main__ as mutmut  # reads its configuration here
    from mutmut.mutation.trampoline import set_mutant_under_test

    set_mutant_under_test("mutant_generation")
    Path("mutants").mkdir()
    with mutmut.CatchOutput():
        mutmut.copy_src_dir()
        mutmut.create_mutants(processes)
    return list(mutants(folder))


def main() -> None:
    """Make the mutants of a room, try a sample, print the survivors and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--sample", type=int, default=100, help="mutants to try; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="only the survivors of the last run")
    options = parser.parse_args()
    results = WORK / f"{options.room}.json"
    lived = [row for row in json.loads(results.read_text()) if not row["killed"]] if options.again else []
    rows = generate(options.room, options.processes)
    chosen = draw(rows, options.sample, options.seed)
    if options.again:
        keys = {(row["file"], row["before"], row["after"]) for row in lived}
        chosen = [row for row in rows if (row["file"], row["before"], row["after"]) in keys]
    print(f"{options.room}: {len(rows)} mutants, {len(chosen)} to try", flush=True)
    status, tried = try_all(chosen, options.processes), pd.DataFrame(chosen)
    tried["of"] = tried["file"].map(Counter(row["file"] for row in rows))
    tried["status"] = tried["name"].map(status)
    tried["killed"] = tried["status"].isin(["killed", "timeout", "segfault"])
    tried["reason"] = [reason(row) for row in chosen]
    tried["excused"] = ~tried["killed"] & (tried["reason"] != "")
    results.write_text(tried.to_json(orient="records", indent=1) or "")
    for row in tried[~tried["killed"]].to_dict("records"):
        word = row["reason"] or f"OPEN ({row['status']})"
        print(f"\n{row['name']}\n  {word}\n  - {row['before']}\n  + {row['after']}")
    print(f"\n{table(tried).to_string()}")


if __name__ == "__main__":
    main()
