"""Imports point down: the core runs without qlib."""

import subprocess
import sys

CORE = (
    *("losses", "nets", "trainer", "panel", "portfolio", "evaluate", "synthetic", "rules", "cli"),
    *("alpha", "splits", "diagnostics", "capacity", "execution", "market", "macro", "report"),
    *("compare", "runs", "check_data", "init_workflow", "units", "labels"),
)


def test_the_core_imports_without_qlib():
    code = "import sys; sys.modules['qlib'] = None\n" + "\n".join(f"import qlib_ext.{name}" for name in CORE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_the_check_can_fail():
    code = "import sys; sys.modules['qlib'] = None\nimport qlib_ext.data"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0
