"""Floors and doors: imports point down, through a room's `__init__`; the core runs without qlib."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qlib_ext"
FLOORS = {
    room: int(number)
    for number, rooms in re.findall(r"^\| (\d) \| (.+) \|$", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    for room in rooms.split(", ")
}
DOORS_BY_PATH = {  # modules that YAML names: a second door of their room
    **{"handler": "features", "processor": "features", "recorder": "runs"},
    **{"report_record": "record", "gate_record": "record"},
}
CORE = (
    *("losses", "nets", "training", "panel", "portfolio", "evaluate", "synthetic", "rules", "cross_section"),
    *("features", "frames", "provider", "splits", "cli", "report", "runs", "check_data", "workflow", "options"),
    *("engine",),
)


def room_of(path):
    """The room that a file of the package belongs to; None for the package's own `__init__`."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return None if name == "__init__" else DOORS_BY_PATH.get(name, name)


def names_of(room):
    """What the doors of a room offer."""
    doors = [PACKAGE / f"{name}.py" for name, of in DOORS_BY_PATH.items() if of == room]
    for door in [PACKAGE / room / "__init__.py", *doors]:
        for node in ast.parse(door.read_text(encoding="utf-8")).body if door.is_file() else ():
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                yield from ast.literal_eval(node.value)


def imports_of(source):
    """Imports of the package: (room, the rest of the module's path, the names)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "qlib_ext":
            parts, names = node.module.split(".")[1:], [alias.name for alias in node.names]
            for room, inner, taken in [(parts[0], parts[1:], names)] if parts else [(name, [], []) for name in names]:
                yield DOORS_BY_PATH.get(room, room), inner, taken
        elif isinstance(node, ast.Import):
            for parts in (alias.name.split(".") for alias in node.names):
                if parts[0] == "qlib_ext" and len(parts) > 1:
                    yield DOORS_BY_PATH.get(parts[1], parts[1]), parts[2:], []


def climbing(source, home=None):
    """What imports in a room (None: outside of the package) break: floors, doors, private names."""
    for room, inner, names in imports_of(source):
        if room in ("__version__", home):
            continue
        if room.startswith("_"):
            yield f"{room} is private"
            continue
        if home is not None and FLOORS[room] >= FLOORS[home]:
            yield f"{home} (floor {FLOORS[home]}) imports {room} (floor {FLOORS[room]})"
        if inner:
            yield f"qlib_ext.{'.'.join([room, *inner])} is inside of a room"
        yield from (f"{name} of {room} is private" for name in names if name.startswith("_"))
        if (PACKAGE / room).is_dir():
            yield from (f"{room} does not offer {name}" for name in set(names) - set(names_of(room)))


def code_of(cell):
    """A notebook cell's Python, without the shell's and IPython's lines."""
    return "\n".join(line for line in "".join(cell["source"]).splitlines() if not line.startswith(("%", "!")))


def test_every_room_stands_on_a_floor():
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {None}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_imports_point_down_through_doors(room):
    files = [path for path in PACKAGE.rglob("*.py") if room_of(path) == room]
    assert files and not [(path.name, text) for path in files for text in climbing(path.read_text("utf-8"), room)]


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "studies", "docs", "examples"])
def test_nobody_climbs_through_a_window(folder):
    texts = {path.name: path.read_text("utf-8") for path in [*(ROOT / folder).rglob("*.py"), ROOT / "conftest.py"]}
    for path in (ROOT / folder).rglob("*.ipynb"):
        cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
        texts |= {f"{path.name} {n}": code_of(cell) for n, cell in enumerate(cells)}
    assert not [(name, text) for name, source in texts.items() for text in climbing(source)]


@pytest.mark.parametrize("door", sorted({*FLOORS, *DOORS_BY_PATH}))
def test_every_name_of_a_door_is_there(door):
    module = importlib.import_module(f"qlib_ext.{door}")
    assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == []


def test_the_check_of_floors_can_fail():
    assert list(climbing("from qlib_ext.record import PortAnaRecord", "losses"))
    assert list(climbing("from qlib_ext.evaluate.metrics import headline", "record"))
    assert list(climbing("from qlib_ext.losses import _private"))
    assert list(climbing("from qlib_ext.options import _private"))
    assert list(climbing("from qlib_ext import _private"))
    assert not list(climbing("from qlib_ext.losses import DayLoss\nfrom qlib_ext import evaluate", "training"))


def test_the_core_imports_without_qlib():
    code = "import sys; sys.modules['qlib'] = None\n" + "\n".join(f"import qlib_ext.{name}" for name in CORE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_the_check_can_fail():
    code = "import sys; sys.modules['qlib'] = None\nimport qlib_ext.data"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0
