"""`import qlib_ext as qx`: the names of a notebook, loaded when they are asked for."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import qlib_ext as qx


def test_importing_loads_nothing_heavy():
    code = "import sys, qlib_ext; sys.exit(any(name in sys.modules for name in ('torch', 'qlib', 'pandas', 'mlflow')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(qx._ROOMS))
def test_each_name_is_that_of_its_room(name):
    vars(qx).pop(name, None)  # a module of that name of an older version, which another test imported
    thing = getattr(qx, name)
    assert thing.__name__ == name and callable(thing) and name in dir(qx)
    assert thing.__module__.startswith(f"qlib_ext.{qx._ROOMS[name]}.")


def test_completion_knows_the_same_names():
    tree = ast.parse(Path(qx.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.name: node.module.split(".")[1] for node in imports for alias in node.names}
    assert typed == qx._ROOMS | {"evaluate": "record"} and set(qx.__all__) == set(typed)


def test_evaluate_is_a_room_and_a_function_whoever_imports_it_first():
    code = "import inspect, qlib_ext as qx; from qlib_ext.evaluate import daily_metrics as d"
    code += "; assert d is qx.evaluate.daily_metrics"
    code += "; assert 'capital' in inspect.signature(qx.evaluate).parameters and 'evaluate' in dir(qx)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_name_says_what_there_is():
    with pytest.raises(AttributeError, match="fill_top_k.*fill_top_n"):
        _ = qx.fill_top_k


def test_an_older_module_of_the_same_name_stands_for_the_function():
    with pytest.warns(DeprecationWarning, match="is now qlib_ext.record"):
        old = importlib.reload(importlib.import_module("qlib_ext.judge"))
    with pytest.raises(TypeError, match=r"judge\(\) missing"):
        old()
    assert old.Money.__module__ == "qlib_ext.record.judgement"
