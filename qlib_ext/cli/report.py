"""`qlib-ext report` and `qlib-ext compare`. Private to `cli.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlib_ext.runs import DEFAULT_URI, Run, find_run, load_artifacts

if TYPE_CHECKING:
    import pandas as pd

    from qlib_ext.evaluate import Comparison
    from qlib_ext.report import Context, Text

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
    compare.add_argument("--block", type=int, metavar="DAYS", help="length of a block (default: 2 * days ** (1/3))")
    compare.add_argument("--draws", type=int, default=5000, metavar="N", help="of the bootstrap (default: 5000)")
    compare.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (default: 0)")
    compare.set_defaults(run=_compare)
    for each in (parser, compare):
        each.add_argument("--out", type=Path, metavar="FILE", help="write the HTML page to FILE")
        each.add_argument("--experiment", metavar="NAME", help="look only at the runs of this experiment")
        each.add_argument("--uri", default=DEFAULT_URI, help=f"where the runs are kept (default: {DEFAULT_URI})")


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
    from qlib_ext.evaluate import compare

    runs = _named(arguments)
    daily = {name: [_daily(name, run) for run in of] for name, of in runs.items()}
    contexts = {name: [_context(run, {})[0] for run in of] for name, of in runs.items()}
    horizons = {name: _longest(context.horizon for context in of) for name, of in contexts.items()}
    if missing := [name for name, days in horizons.items() if days is None]:
        _say(f"note: the days of the label of {', '.join(missing)} are not recorded and taken as 1; or give --block")
    _say(f"{sum(map(len, runs.values()))} runs: drawing {arguments.draws} times")
    found = compare(
        daily,
        against=arguments.against,
        block=arguments.block,
        draws=arguments.draws,
        seed=arguments.seed,
        horizon=max(days or 1 for days in horizons.values()),
    )
    _show(found)
    differing = _differing(contexts)
    for line in differing:
        print(f"note: {line.en}", file=sys.stderr)
    if out is not None:
        out.write_text(_comparison_page(found, contexts, differing), encoding="utf-8")
        print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _named(arguments: argparse.Namespace) -> dict[str, list[Run]]:
    """Find runs by the name given, or by experiment and the first letters of the id; several seeds under one name."""
    if len(arguments.run_names) < 2:
        raise ValueError(f"{len(arguments.run_names)} run given; a comparison needs two or more")
    runs: dict[str, list[Run]] = {}
    for text in arguments.run_names:
        name, equals, keys = text.rpartition("=")
        found = [find_run(key, uri=arguments.uri, experiment=arguments.experiment) for key in keys.split(",")]
        if len({run.id for run in found}) < len(found):
            raise ValueError(f"{text!r} names a run twice; each run counts once: {', '.join(run.id for run in found)}")
        if len(found) > 1 and not equals:
            raise ValueError(f"{text!r} names {len(found)} runs; give them a name: NAME={text}")
        name = name if equals else f"{found[0].experiment} {found[0].id[:6]}"
        if name in runs:
            raise ValueError(f"two runs are named {name!r}; name them: A={found[0].id[:8]} B=...")
        runs[name] = found
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
    from qlib_ext.record import context_of
    from qlib_ext.runs import FACTS

    kept = load_artifacts(run, ["task", "config", FACTS])
    provider = str(kept.get("config", {}).get("qlib_init", {}).get("provider_uri", "?"))
    told = {"experiment": run.experiment, "run": run.id, "started": f"{run.started:%Y-%m-%d %H:%M} UTC"}
    task, known = kept.get("task", {}), kept.get(FACTS)
    context = context_of(task, artifacts, told, provider=provider, facts=known, title=title)
    return context, {name.en: value if isinstance(value, str) else value.en for name, value in context.facts}


def _longest(horizons: Iterable[int | None]) -> int | None:
    """Longest of the labels; None where one is not known."""
    days = list(horizons)
    return None if None in days else max(day for day in days if day is not None)


_SHARED = (  # what should be the same where a comparison is one of models
    *("data", "universe", "features", "label", "train", "valid", "test", "liquidity", "capital", "costs", "versions"),
)


def _values(contexts: Sequence[Context], name: str) -> list[Text]:
    """Different values of a fact in some runs, each once."""
    from qlib_ext.report import Text, said

    found: dict[str, Text] = {}
    for context in contexts:
        given = next((value for key, value in context.facts if key.en == name), "?")
        value = given if isinstance(given, Text) else said(given)
        found.setdefault(value.en, value)
    return list(found.values())


def _differing(contexts: Mapping[str, Sequence[Context]]) -> list[Text]:
    """Name the facts in which the runs differ and that make a comparison one of more than the models."""
    from qlib_ext.report import words

    lines = []
    for name in _SHARED:
        values = {run: _joined(_values(of, name), " | ") for run, of in contexts.items()}
        if len({value.en for value in values.values()}) > 1 or any(
            len(_values(of, name)) > 1 for of in contexts.values()
        ):
            listed = _joined([words("{run}: {value}", run=run, value=value) for run, value in values.items()], "; ")
            lines.append(words("the runs differ in {name}: {values}", name=words(name), values=listed))
    counts = {run: len(of) for run, of in contexts.items()}
    if len(set(counts.values())) > 1:
        listed = _joined([words("{run}: {value}", run=run, value=n) for run, n in counts.items()], "; ")
        lines.append(words("the names differ in the number of runs; a mean over more of them swings less: {values}",
                           values=listed))  # fmt: skip
    for run, of in contexts.items():
        alike = _values(of, "seeds")
        if len(of) > 1 and len(alike) < len(of):
            same = _joined(alike, " | ")
            lines.append(words("{run} stands for {n} runs, of which some have the same seed: {values}",
                               run=run, n=len(of), values=same))  # fmt: skip
    return lines


def _joined(texts: Sequence[Text], between: str) -> Text:
    from qlib_ext.report import Text

    return Text(between.join(text.en for text in texts), between.join(text.zh for text in texts))


def _comparison_page(found: Comparison, contexts: Mapping[str, Sequence[Context]], differing: Sequence[Text]) -> str:
    import dataclasses

    from qlib_ext.report import compare_html, plain, words

    keys = (*("run", "model", "loss", "target", "weights by", "seeds"), *_SHARED)
    facts: list[tuple[Text, str | Text]] = []
    for name, of in contexts.items():
        values = {key: _values(of, key) for key in keys}
        known = [words("{name} {value}", name=words(key), value=_joined(given, " | "))
                 for key, given in values.items() if [value.en for value in given] != ["?"]]  # fmt: skip
        count = [words("mean over {n} runs", n=len(of))] if len(of) > 1 else []
        facts.append((plain(name), _joined([*count, *known], ", ")))
    facts += [(words("note"), line) for line in differing]
    every = [context for of in contexts.values() for context in of]
    first = contexts[found.against][0]
    facts += [(name, value) for name, value in first.facts if name.en == "versions of this page"]
    made = dataclasses.replace(first, title=" / ".join(contexts), facts=tuple(facts))
    if len({context.universe for context in every}) > 1:
        listed = [f"{name}: {' | '.join(dict.fromkeys(c.universe for c in of))}" for name, of in contexts.items()]
        made = dataclasses.replace(made, universe="; ".join(listed))
    if len({context.costs.en for context in every}) > 1:
        costs = {name: list(dict.fromkeys(c.costs for c in of)) for name, of in contexts.items()}
        listed_costs = [words("{run}: {value}", run=n, value=_joined(of, " | ")) for n, of in costs.items()]
        made = dataclasses.replace(made, costs=_joined(listed_costs, "; "))
    return compare_html(found, made)


def _show(found: Comparison) -> None:
    """Print the table: percent for returns, plain numbers for correlations and Sharpe ratios."""
    days = next(iter(found.daily.values())).index
    print(
        f"{len(days)} common days, {str(days[0])[:10]} to {str(days[-1])[:10]}; {len(found.left_out)} days left out\n"
        f"standard error and 95% interval: circular block bootstrap, {found.draws} draws, blocks of {found.block} days,"
        f" seed {found.seed}"
    )
    for name, count in found.seeds.items():
        if count > 1:
            print(f"{name}: daily mean over {count} runs; each draw takes {count - 1} of them anew, with replacement")
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
