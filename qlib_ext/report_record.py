"""ReportRecord: the run's page as an artifact, and what its header says; by `qlib-ext report` for older runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qlib.config import C
from qlib.log import get_module_logger
from qlib.workflow.record_temp import ACRecordTemp, SignalRecord

from qlib_ext import __version__
from qlib_ext._report_html import Text, words
from qlib_ext._report_sections import Context
from qlib_ext.data import DEFAULT_LABEL, label_span
from qlib_ext.judge import Money
from qlib_ext.recorder import load_if_there

logger = get_module_logger("qlib_ext.report")

PAGE = "report.html"
_PACKAGES = ("pyqlib", "torch", "pandas", "numpy", "plotly")


class ReportRecord(ACRecordTemp):
    """Write `report.html`, one page of all that the records before this one found; put it last into `record`.

    It opens offline and in the artifacts' view of the mlflow UI. Sections appear when their artifacts exist: those of
    LiquidityRecord, FoldRecord, BaselineRecord, PortAnaRecord, the folds' and the gate's. One that is there and cannot
    be read is an error.

    Args:
        recorder: filled in by qlib.
        title: of the page; None: the experiment's name.
        skip_existing: leave the page of an earlier run as it is.

    """

    depend_cls = SignalRecord

    def __init__(self, recorder: Any, *, title: str | None = None, skip_existing: bool = False) -> None:
        super().__init__(recorder=recorder, skip_existing=skip_existing)
        if title is not None and (not isinstance(title, str) or not title):
            raise ValueError(f"ReportRecord: title={title!r} must be a text, or null for the experiment's name")
        self.title = title

    def list(self) -> list[str]:
        """Name the artifact."""
        return [PAGE]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        try:
            from qlib_ext.report import PATHS, report_html
        except ImportError as error:
            logger.warning(f"no {PAGE}: {error}. {need_plotly()}, then `qlib-ext report {self.recorder.id}`")
            return {}
        artifacts = {path: value for path in PATHS if (value := load_if_there(self.recorder, path)) is not None}
        task = load_if_there(self.recorder, "task") or {}
        run = {"run": str(self.recorder.id), "started": str(self.recorder.start_time or "")[:19]}
        experiment = str(getattr(self.recorder, "experiment_name", None) or _experiment_name(self.recorder))
        made = context_of(
            task, artifacts, {"experiment": experiment} | run, provider=str(C["provider_uri"]), title=self.title
        )
        with TemporaryDirectory() as folder:
            page = Path(folder) / PAGE
            page.write_text(report_html(artifacts, made), encoding="utf-8")
            size = page.stat().st_size
            self.recorder.save_objects(local_path=str(page), artifact_path=None)
        logger.info(f"report ({size / 1e6:.1f} MB): {Path(self.recorder.get_local_dir()) / 'artifacts' / PAGE}")
        return {}


def need_plotly() -> str:
    """Say how to get what draws the page."""
    return "Install plotly: pip install 'qlib_ext[report]'"


def _experiment_name(recorder: Any) -> str:
    client, number = getattr(recorder, "client", None), recorder.experiment_id
    return str(number) if client is None else str(client.get_experiment(number).name)


# --- the header


def context_of(
    task: Mapping[str, Any],
    artifacts: Mapping[str, Any],
    run: Mapping[str, str],
    *,
    provider: str,
    title: str | None = None,
) -> Context:
    """Gather what the header says from the run's task.

    Args:
        task: the task that qlib recorded: model, dataset, record.
        artifacts: by path.
        run: experiment, run (id) and started, as texts.
        provider: folder of the data.
        title: of the page; None: the experiment's name.

    """
    model, dataset = task.get("model", {}), _kwargs(task.get("dataset"))
    given = dataset.get("handler")
    handler: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    inner = _kwargs(handler)
    record = _record(task, "LiquidityRecord")
    money = Money(**{f.name: record[f.name] for f in dataclasses.fields(Money) if f.name in record})
    expression, span = _label(dataset.get("label") or inner.get("label")), dataset.get("label_days")
    rows: list[tuple[Text, Text | str]] = [
        (words(name), run[name]) for name in ("experiment", "run", "started") if run.get(name)
    ]
    rows += [(words(name), value) for name, value in _model_facts(model).items()]
    rows.append((words("data"), provider))
    rows.append((words("universe"), _universe(inner.get("instruments", "?"))))
    rows += _segment_facts(dataset.get("segments", {}))
    rows += [(words("features"), str(handler.get("class", "?"))), (words("label"), expression)]
    profile = dataset.get("liquidity")
    rows.append((words("liquidity"), words("trailing mean turnover in yuan, unit profile {profile}", profile=profile)))
    amount = words("{million:,.0f} million yuan, at most {participation:.1%} of a stock's liquidity",
                   million=money.capital / 1e6, participation=money.participation)  # fmt: skip
    costs = cost_words(money)
    rows += [(words("capital"), amount), (words("costs"), costs)]
    rows.append(
        (words("units"), words("money in yuan, returns as per cent of the capital unless a day's account is named"))
    )
    rows += [(words("rules"), _rules(artifacts)), (words("versions of this page"), versions())]
    return Context(
        title=title or run.get("experiment", "qlib_ext"),
        facts=tuple(rows),
        universe=_universe(inner.get("instruments", "?")),
        capital=float(money.capital),
        costs=costs,
        benchmark=record.get("benchmark", "SH000300"),
        horizon=int(span[1]) - int(span[0]) if span else _horizon(expression),
    )


def cost_words(money: Money) -> Text:
    """Say what the net rows charge."""
    if money.buy_rate is not None and money.sell_rate is not None:
        return words(
            "net: {buy:.3%} of buys and {sell:.3%} of sells; net of impact: and {impact:g} × volatility × "
            "sqrt(share of turnover) a trade", buy=money.buy_rate, sell=money.sell_rate, impact=money.impact,
        )  # fmt: skip
    return words(
        "net: commission {commission:.3%} each way, transfer fee and stamp duty of the day; net of impact: and "
        "{impact:g} × volatility × sqrt(share of turnover) a trade",
        commission=money.commission,
        impact=money.impact,
    )


def versions() -> str:
    """Versions of the packages in use."""
    found = [f"qlib_ext {__version__}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} –")
    return ", ".join(found)


def _rules(artifacts: Mapping[str, Any]) -> Text:
    version, cited = metadata.version("marina-rules"), artifacts.get("portfolio_analysis/rules_citations.pkl")
    if cited:
        return words("marina-rules {version}; {n} records cited below", version=version, n=len(cited))
    return words("marina-rules {version}", version=version)


def _model_facts(model: Mapping[str, Any]) -> dict[str, str]:
    """Class, loss and seeds; of an ensemble also of its members."""
    options = _kwargs(model)
    inner = options.get("model") if isinstance(options.get("model"), Mapping) else None
    member = _kwargs(inner) if inner else options
    kind = str(model.get("class", "?"))
    facts = {"model": f"{kind} ({inner.get('class', '?')})" if inner else kind}
    for name, key in (("loss", "loss"), ("target", "target"), ("weights by", "weight_by"), ("metric", "metric")):
        if key in member:
            facts[name] = str(member[key])
    seeds = options.get("seeds", member.get("seed"))
    if seeds is not None:
        facts["seeds"] = ", ".join(map(str, seeds)) if isinstance(seeds, list | tuple) else str(seeds)
    return facts


def _segment_facts(segments: Mapping[str, Any]) -> list[tuple[Text, Text | str]]:
    spans = {
        name: " – ".join(str(day)[:10] for day in span)
        for name, span in segments.items()
        if isinstance(span, list | tuple)
    }
    return [(words(name), span) for name, span in spans.items()]


def _label(given: Any) -> str:
    """Label's expression of a handler's option: none, text, or qlib's ([expression], [name])."""
    while isinstance(given, list | tuple) and given:
        given = given[0]
    return str(given) if given else DEFAULT_LABEL


def _horizon(expression: str) -> int:
    """Days of the label; 1 for one that is not understood."""
    try:
        return label_span(expression).horizon
    except ValueError:
        return 1


def _universe(instruments: Any) -> str:
    return f"{len(instruments)} stocks given by code" if isinstance(instruments, list | tuple) else str(instruments)


def _kwargs(part: Any) -> dict[str, Any]:
    return dict(part.get("kwargs") or {}) if isinstance(part, Mapping) else {}


def _record(task: Mapping[str, Any], name: str) -> dict[str, Any]:
    records = task.get("record", [])
    return next(
        (_kwargs(r) for r in ([records] if isinstance(records, Mapping) else records) if r.get("class") == name), {}
    )
