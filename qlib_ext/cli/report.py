"""`qlib-ext report` and `qlib-ext compare`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlib_ext.beside import write_text
from qlib_ext.cli.arguments import add_seed, number
from qlib_ext.runs import CURE, DEFAULT_URI, FACTS, PLAN, Run, Task, experiment_names, find_run, load_artifacts

if TYPE_CHECKING:
    import pandas as pd

    from qlib_ext.evaluate import Comparison
    from qlib_ext.report import Context

TRUST = (
    "read pickles, and run code that the run names: of your own runs, those of versions without Parquet and JSON, of "
    "other tools, and with classes of your own (default: numbers and words are read, and no code of the run is run)"
)

_REPORT = """\
Write one self-contained HTML page of a recorded run: tables, charts, holdings, folds, costs. It opens offline, in
English and Chinese, light and dark, and prints. Without --out it becomes the artifact report.html of the run.

RUN is a run's id (or its first letters), the name of an experiment (its latest finished run), or "latest".
"""

_COMPARE = """\
Compare recorded runs on the days that all of them have: the same numbers, their differences to the first run (or
--against), and the interval of each difference, from a circular block bootstrap of the days of all runs together.

RUN as for `qlib-ext report`, or NAME=RUN to name it, such as liq=6db642 mse=fd15da. NAME=RUN,RUN,RUN puts runs of one
model that differ in their seed under one name: its daily numbers are the mean over them, and each draw of the bootstrap
draws seeds anew, so that the interval tells of the model and not of the seeds that were run:

  qlib-ext compare mse=mse_seed0,mse_seed1,mse_seed2 liq=liq_seed0,liq_seed1,liq_seed2

The mean over seeds swings less than each of them, and its Sharpe ratio is higher: compare names of as many seeds.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare both subcommands."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "report", help="write one HTML page of a recorded run", description=_REPORT, formatter_class=shape
    )
    parser.add_argument("run_name", metavar="RUN", help="id, experiment or latest")
    parser.add_argument("--title", help="of the page (default: the experiment's name)")
    parser.set_defaults(run=_report)
    compare = commands.add_parser(
        "compare", help="compare recorded runs, with intervals", description=_COMPARE, formatter_class=shape
    )
    compare.add_argument("run_names", metavar="RUN", nargs="+", help="two or more: [NAME=]id or experiment[,...]")
    compare.add_argument("--against", metavar="NAME", help="run that the others are compared with (default: the first)")
    days, draws = number("[1, inf)", whole=True), number("[1, 10000000]", whole=True)
    compare.add_argument("--block", type=days, metavar="DAYS", help="length of a block (default: 2 * days ** (1/3))")
    compare.add_argument("--draws", type=draws, default=5000, metavar="N", help="of the bootstrap (default: 5000)")
    add_seed(compare, "the draws")
    compare.set_defaults(run=_compare)
    for each in (parser, compare):
        each.add_argument("--out", type=Path, metavar="FILE", help="write the HTML page to FILE")
        add_source(each)


def add_source(parser: argparse.ArgumentParser, *, own: bool = False) -> None:
    """Declare where runs are looked for, and whether they are trusted; a run of one's `own` always is."""
    parser.add_argument("--experiment", metavar="NAME", help="look only at the runs of this experiment")
    where = f"where the runs are kept: a file, or a server, postgresql://... or http://... (default: {DEFAULT_URI})"
    parser.add_argument("--uri", default=DEFAULT_URI, help=where)
    if not own:
        parser.add_argument("--trust", action="store_true", help=TRUST)


def _report(arguments: argparse.Namespace) -> int:
    run = find_run(arguments.run_name, uri=arguments.uri, experiment=arguments.experiment, trust=arguments.trust)
    out = _target(arguments.out or run.folder / "report.html")
    _say(f"run {run.id} of {run.experiment}: reading its artifacts")
    _need_plotly()
    from qlib_ext.report import artifact_paths, report_html

    record = Task(load_artifacts(run, ["task"]).get("task", {})).record("ReportRecord")
    sections = (record or {}).get("sections") or []
    if sections and not run.trust:
        _say(f"note: {len(sections)} sections of the run's own are left out, which are code: {CURE}")
        sections = []
    artifacts = load_artifacts(run, artifact_paths(sections))
    context = run_context(run, artifacts, title=arguments.title)
    return _write(out, report_html(artifacts, context, sections=sections))


def _compare(arguments: argparse.Namespace) -> int:
    out = None if arguments.out is None else _target(arguments.out)
    if out is not None:
        _need_plotly()  # an error before the work
    from qlib_ext.evaluate import compare
    from qlib_ext.report import compare_html, compared_context, differing_facts

    runs = _named(arguments)
    daily = {name: [_daily(name, run) for run in of] for name, of in runs.items()}
    contexts = {name: [run_context(run) for run in of] for name, of in runs.items()}
    horizons = {name: [context.horizon for context in of] for name, of in contexts.items()}
    if missing := [name for name, days in horizons.items() if None in days]:
        _say(f"note: the days of the label of {', '.join(missing)} are not recorded and taken as 1; or give --block")
    _say(f"{sum(map(len, runs.values()))} runs: drawing {arguments.draws} times")
    options = {name: getattr(arguments, name) for name in ("against", "block", "draws", "seed")}
    year = next(iter(contexts.values()))[0].year
    horizon = max(days or 1 for of in horizons.values() for days in of)
    comparison = compare(daily, **options, horizon=horizon, year=year)
    _show(comparison)
    for line in differing_facts(contexts):
        _say(f"note: {line.en}")
    if out is None:
        return 0
    return _write(out, compare_html(comparison, compared_context(contexts, comparison.against)))


def _write(out: Path, html: str) -> int:
    write_text(out, html)
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _named(arguments: argparse.Namespace) -> dict[str, list[Run]]:
    """Find runs by the name given, or by experiment and the first letters of the id; several seeds under one name."""
    if len(arguments.run_names) < 2:
        raise ValueError(f"{len(arguments.run_names)} run given; a comparison needs two or more")
    runs: dict[str, list[Run]] = {}
    experiments = experiment_names(uri=arguments.uri, experiment=arguments.experiment)
    for text in arguments.run_names:
        name, equals, keys = ("", "", text) if text in experiments else text.rpartition("=")  # a=b may be a name itself
        each = [keys] if keys in experiments else keys.split(",")
        options = {name: getattr(arguments, name) for name in ("uri", "experiment", "trust")}
        named = [find_run(key, **options) for key in each]
        if len({run.id for run in named}) < len(named):
            raise ValueError(f"{text!r} names a run twice; each run counts once: {', '.join(run.id for run in named)}")
        if len(named) > 1 and not equals:
            raise ValueError(f"{text!r} names {len(named)} runs; give them a name: NAME={text}")
        name = name if equals else f"{named[0].experiment} {named[0].id[:6]}"
        if name in runs:
            raise ValueError(f"two runs are named {name!r}; name them: A={named[0].id[:8]} B=...")
        runs[name] = named
    return runs


def _daily(name: str, run: Run) -> pd.DataFrame:
    path = "liquidity_analysis/daily.pkl"
    artifacts = load_artifacts(run, [path])
    if path not in artifacts:
        raise ValueError(
            f"run {name!r} ({run.id}) has no {path}: put LiquidityRecord (qlib_ext.record) into its workflow"
        )
    return artifacts[path]


def run_context(run: Run, artifacts: Mapping[str, Any] | None = None, *, title: str | None = None) -> Context:
    """Give what the header of a recorded run's page says (see `record.context_of`)."""
    from qlib_ext.record import context_of

    kept = load_artifacts(run, ["task", "config", FACTS, PLAN])
    provider = str(kept.get("config", {}).get("qlib_init", {}).get("provider_uri", "?"))
    names = {"experiment": run.experiment, "run": run.id, "started": f"{run.started:%Y-%m-%d %H:%M} UTC"}
    task, facts = kept.get("task", {}), kept.get(FACTS)
    plan = {path: kept[path] for path in (PLAN,) if path in kept}
    return context_of(task, dict(artifacts or {}) | plan, names, provider=provider, facts=facts, title=title)


def _show(comparison: Comparison) -> None:
    """Print the table: percent for returns, plain numbers for correlations and Sharpe ratios."""
    days = next(iter(comparison.daily.values())).index
    print(
        f"{len(days)} common days, {str(days[0])[:10]} to {str(days[-1])[:10]}; {len(comparison.left_out)} days left "
        f"out\nstandard error and 95% interval: circular block bootstrap, {comparison.draws} draws, blocks of "
        f"{comparison.block} days, seed {comparison.seed}"
    )
    for name, count in comparison.seeds.items():
        if count > 1:
            print(f"{name}: daily mean over {count} runs; each draw takes {count - 1} of them anew, with replacement")
    for run, lines in comparison.table.groupby(level="run", sort=False):
        print(f"\n{run} less {comparison.against}")
        print(f"  {'':52}{'value':>10}{'other':>10}{'difference':>12}{'error':>10}   95% interval")
        for key, row in zip(lines.index.get_level_values("number"), lines.to_dict("records"), strict=True):
            percent = key.startswith("capped") and not key.endswith("sharpe")
            form = "{:+.2%}".format if percent else "{:+.4f}".format
            span = f"[{form(row['low'])}, {form(row['high'])}]"
            cells = (form(row["value"]), form(row["against"]))
            gap, error = form(row["difference"]), form(row["standard_error"]).removeprefix("+")
            print(f"  {key:52}{cells[0]:>10}{cells[1]:>10}{gap:>12}{error:>10}   {span}")


def _need_plotly() -> None:
    try:
        import plotly  # noqa: F401
    except ImportError as error:
        raise ValueError(f"the page needs plotly ({error}): pip install 'qlib_ext[report]'") from error


def _target(path: Path) -> Path:
    out = path.expanduser().resolve()
    if out.is_dir():
        raise ValueError(f"--out: {out} is a folder; name a file in it, such as {out / 'report.html'}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out: there is no folder {out.parent} to write the page into; name another file")
    return out


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
