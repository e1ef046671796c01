"""What mkdocs does here beside its own: a page for each public module, and formulas as MathML (no script needed)."""

from __future__ import annotations

import ast
import html
import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

PACKAGE = "qlib_ext"
FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)


def modules(root: Path) -> dict[str, str]:
    """Names of the public modules and packages, and the first line of their docstring."""
    paths = {path.stem: path for path in root.glob("[!_]*.py")}
    paths |= {path.parent.name: path for path in root.glob("*/__init__.py")}
    texts = {name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for name, path in paths.items()}
    return {name: (texts[name] or "").split("\n\n")[0].replace("\n", " ") for name in sorted(texts)}


def on_files(files: Files, *, config: Any) -> Files:
    """Add `api/index.md`, a page for each public module, and the notebook as a page."""
    root = Path(config.config_file_path).parent
    known = modules(root / PACKAGE)
    rows = "\n".join(
        f"| [`{PACKAGE}.{name}`]({name}.md) | {text.replace('|', '&#124;')} |" for name, text in known.items()
    )
    pages = {"api/index.md": f"# API by module\n\n| module | |\n|---|---|\n{rows}\n"}
    pages |= {f"api/{name}.md": f"# {PACKAGE}.{name}\n\n::: {PACKAGE}.{name}\n" for name in known}
    config.nav.append({"API": list(pages)})
    pages["first_run.md"] = notebook(root / "examples" / "first_run.ipynb")
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def notebook(file: Path) -> str:
    """Write a notebook's cells as markdown."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"] == "code") for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if code else text for text, code in texts) + "\n"


def on_page_content(content: str, **_: Any) -> str:
    """Turn each formula into MathML; one that is not understood stops the build."""
    made = FORMULA.sub(_mathml, content)
    if "arithmatex" in made:
        raise PluginError(f"a formula was left over: {made[made.index('arithmatex') :][:200]}")
    return made


def _mathml(match: re.Match[str]) -> str:
    formula = html.unescape(match[2]).strip()
    made = convert(formula, display="block" if match[1] == "div" else "inline")
    if "\\" in made or "&#x0005C;" in made:  # a command that is not known is passed on as text
        raise PluginError(f"a command is not understood in the formula {formula!r}")
    return f'<{match[1]} class="formula">{made}</{match[1]}>'
