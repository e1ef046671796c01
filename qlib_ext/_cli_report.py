"""`qlib-ext report` and `qlib-ext compare`. Private to `cli.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlib_ext.runs import DEFAULT_URI, Run, find_run, load_artifacts

if TYPE_CHECKING:
    import pandas as pd

    from qlib_ext.compare import Comparison

_REPORT = """\
Write one self-contained HTML page of a recorded run: tables, charts, holdings, folds, costs. It opens offline, in
English and Chinese, light and dark, and prints. Without --out it becomes the artifact report.html of the run.

RUN is a run's id (or its first letters), the name of an experiment (its latest finished run), or "latest".
"""

_COMPARE = """\
Compare recorded runs on the days that all of them have: the same numbers, their differences to the first run (or
--against), and the interval of each difference, from a circular block bootstrap of the days of all runs together.

RUN as for `qlib-ext report`, or NAME=RUN to name it, such as liq=6db642 mse=fd15da.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare both subcommands."""
    shape = argparse.RawDescriptionHelpFormatter
    report = commands.add_parser(
        "report", help="write one HTML page of a recorded run", description=_REPORT, formatter_class=shape
    )
    report.add_argument("run_name", metavar="RUN", help="id, experiment or latest")
    report.add_argument("--title", help="of the page (default: the experiment's name)")
    report.set_defaults(run=_report)
    compare = commands.add_parser(
        "compare", help="compare recorded runs, with intervals", description=_COMPARE, formatter_class=shape
    )
    compare.add_argument("run_names", metavar="RUN", nargs="+", help="two or more: [NAME=]id or experiment")
    compare.add_argument("--against", metavar="NAME", help="run that the others are compared with (default: the first)")
    compare.add_argument("--block", type=int, metavar="DAYS", help="length of a block (default: 2 * days ** (1/3))")
    compare.add_argument("--draws", type=int, default=5000, metavar="N", help="of the bootstrap (default: 5000)")
    compare.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (default: 0)")
    compare.set_defaults(run=_compare)
    for parser in (report, compare):
        parser.add_argument("--out", type=Path, metavar="FILE", help="write the HTML page to FILE")
        parser.add_argument("--experiment", metavar="NAME", help="look only at the runs of this experiment")
        parser.add_argument("--uri", default=DEFAULT_URI, help=f"where the runs are kept (default: {DEFAULT_URI})")


def _report(arguments: argparse.Namespace) -> int:
    run = find_run(arguments.run_name, uri=arguments.uri, experiment=arguments.experiment)
    out: Path = _target(arguments.out or run.folder / "report.html")
    _say(f"run {run.id} of {run.experiment}: reading its artifacts")
    page = _pages()
    artifacts = load_artifacts(run, page.PATHS)
    context, _ = _context(run, artifacts, title=arguments.title)
    out.write_text(page.report_html(artifacts, context), encoding="utf-8")
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    out = None if arguments.out is None else _target(arguments.out)
    if out is not None:
        _pages()  # an error before the work
    from qlib_ext.compare import compare

    runs = _named(arguments)
    daily = {name: _daily(name, run) for name, run in runs.items()}
    contexts = {name: _context(run, {}) for name, run in runs.items()}
    horizons = {name: context.horizon for name, (context, _) in contexts.items()}
    if missing := [name for name, days in horizons.items() if days is None]:
        _say(f"note: the days of the label of {', '.join(missing)} are not recorded and taken as 1; or give --block")
    _say(f"{len(runs)} runs: drawing {arguments.draws} times")
    found = compare(
        daily,
        against=arguments.against,
        block=arguments.block,
        draws=arguments.draws,
        seed=arguments.seed,
        horizon=max(days or 1 for days in horizons.values()),
    )
    _show(found)
    differing = _differing({name: said for name, (_, said) in contexts.items()})
    for line in differing:
        print(f"note: {line}", file=sys.stderr)
    if out is not None:
        plain_contexts = {name: context for name, (context, _) in contexts.items()}
        out.write_text(_comparison_page(found, plain_contexts, differing), encoding="utf-8")
        print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _named(arguments: argparse.Namespace) -> dict[str, Run]:
    """Find runs by the name given, or by experiment and the first letters of the id."""
    if len(arguments.run_names) < 2:
        raise ValueError(f"{len(arguments.run_names)} run given; a comparison needs two or more")
    runs: dict[str, Run] = {}
    for text in arguments.run_names:
        name, equals, key = text.rpartition("=")
        run = find_run(key, uri=arguments.uri, experiment=arguments.experiment)
        name = name if equals else f"{run.experiment} {run.id[:6]}"
        if name in runs:
            raise ValueError(f"two runs are named {name!r}; name them: A={run.id[:8]} B=...")
        runs[name] = run
    return runs


def _daily(name: str, run: Run) -> pd.DataFrame:
    path = "liquidity_analysis/daily.pkl"
    found = load_artifacts(run, [path])
    if path not in found:
        raise ValueError(
            f"run {name!r} ({run.id}) has no {path}: put LiquidityRecord (qlib_ext.record) into its workflow"
        )
    return found[path]


def _context(run: Run, artifacts: dict[str, Any], title: str | None = None) -> tuple[Any, dict[str, str]]:
    """Context of a run, and its facts in English."""
    from qlib_ext.report_record import context_of

    kept = load_artifacts(run, ["task", "config"])
    provider = str(kept.get("config", {}).get("qlib_init", {}).get("provider_uri", "?"))
    told = {"experiment": run.experiment, "run": run.id, "started": f"{run.started:%Y-%m-%d %H:%M} UTC"}
    context = context_of(kept.get("task", {}), artifacts, told, provider=provider, title=title)
    return context, {name.en: value if isinstance(value, str) else value.en for name, value in context.facts}


def _differing(facts: dict[str, dict[str, str]]) -> list[str]:
    """Name the facts in which the runs differ and that make a comparison one of more than the models."""
    lines = []
    for name in ("data", "universe", "label", "liquidity", "capital", "costs", "test"):
        values = {run: said.get(name, "?") for run, said in facts.items()}
        if len(set(values.values())) > 1:
            lines.append(f"the runs differ in {name}: " + "; ".join(f"{run}: {value}" for run, value in values.items()))
    return lines


def _comparison_page(found: Comparison, contexts: dict[str, Any], differing: Sequence[str]) -> str:
    import dataclasses

    from qlib_ext._report_compare import compare_html
    from qlib_ext._report_html import Text, plain, words

    first = contexts[found.against]
    facts: list[tuple[Text, str | Text]] = []
    for name, context in contexts.items():
        said = {key.en: value if isinstance(value, str) else value.en for key, value in context.facts}
        keys = (
            *("run", "model", "loss", "target", "weights by", "seeds", "data", "universe", "test", "label"),
            *("liquidity", "capital", "costs"),
        )
        facts.append((plain(name), ", ".join(f"{key} {said[key]}" for key in keys if key in said)))
    facts += [(words("note"), line) for line in differing]
    facts += [(name, value) for name, value in first.facts if name.en == "versions of this page"]
    title = " / ".join(contexts)
    return compare_html(found, dataclasses.replace(first, title=title, facts=tuple(facts)))


def _show(found: Comparison) -> None:
    """Print the table: percent for returns, plain numbers for correlations and Sharpe ratios."""
    days = next(iter(found.daily.values())).index
    print(
        f"{len(days)} common days, {str(days[0])[:10]} to {str(days[-1])[:10]}; {len(found.left_out)} days left out\n"
        f"standard error and 95% interval: circular block bootstrap, {found.draws} draws, blocks of {found.block} days,"
        f" seed {found.seed}"
    )
    for run, lines in found.table.groupby(level="run", sort=False):
        print(f"\n{run} less {found.against}")
        print(f"  {'':52}{'value':>10}{'other':>10}{'difference':>12}{'error':>10}   95% interval")
        for key, row in zip(lines.index.get_level_values("number"), lines.to_dict("records"), strict=True):
            percent = key.startswith("capped") and not key.endswith("sharpe")
            form = "{:+.2%}".format if percent else "{:+.4f}".format
            span = f"[{form(row['low'])}, {form(row['high'])}]"
            cells = (form(row["value"]), form(row["against"]))
            gap, error = form(row["difference"]), form(row["standard_error"]).removeprefix("+")
            print(f"  {key:52}{cells[0]:>10}{cells[1]:>10}{gap:>12}{error:>10}   {span}")


def _pages() -> Any:
    try:
        from qlib_ext import report
    except ImportError as error:
        raise ValueError(f"the page needs plotly ({error}): pip install 'qlib_ext[report]'") from error
    return report


def _target(path: Path) -> Path:
    out = path.expanduser().resolve()
    if out.is_dir():
        raise ValueError(f"--out: {out} is a folder; name a file in it, such as {out / 'report.html'}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out: there is no folder {out.parent} to write the page into; name another file")
    return out


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
