"""ReportRecord: the run's page as an artifact, and what its header says; by `qlib-ext report` for older runs."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qlib.config import C
from qlib.log import get_module_logger
from qlib.workflow.record_temp import ACRecordTemp, SignalRecord

from qlib_ext import progress
from qlib_ext.data import label_expression
from qlib_ext.options import refuse_unknown
from qlib_ext.record.facts import keep_facts
from qlib_ext.record.header import context_of
from qlib_ext.record.staged import Staged
from qlib_ext.report import SUMMARY, SUMMARY_ARTIFACTS, Context, artifact_paths, report_html, summarise
from qlib_ext.runs import FACTS, PLAN, load_if_there, log_finite, provider_folder, save_json

logger = get_module_logger("qlib_ext.report")

PAGE = "report.html"


class ReportRecord(Staged, ACRecordTemp):
    """Write `report.html`, one page of all that the records before this one found; put it last into `record`.

    It opens offline and in the artifacts' view of the mlflow UI. Sections appear when their artifacts exist: those of
    LiquidityRecord, FoldRecord, BaselineRecord, PortAnaRecord, the folds' and the gate's. One that is there and cannot
    be read is an error. The header states the run's `run_facts.pkl`, which this record saves where none before it has.
    Beside it, also where plotly is missing, `summary.json`: the numbers to look at first, the verdict and the alarms
    (`report.summarise`).

    Args:
        recorder, dataset, model: filled in by qlib.
        title: of the page; None: the experiment's name.
        sections: below the others, each `{class, module_path, kwargs}` of what makes a `qlib_ext.report.Section`.
        skip_existing: leave the page of an earlier run as it is.

    >>> ReportRecord(None, dataset, title="MASTER, 150 million yuan").list()
    ['report.html', 'summary.json']
    """

    depend_cls = SignalRecord
    stage = "page"
    lasting = False  # the page names its run

    def __init__(
        self,
        recorder: Any,
        dataset: Any = None,
        model: Any = None,
        *,
        title: str | None = None,
        sections: Sequence[Any] | None = None,
        skip_existing: bool = False,
        **unknown: Any,
    ) -> None:
        refuse_unknown(type(self), unknown, ("title", "sections", "skip_existing"))
        super().__init__(recorder=recorder, skip_existing=skip_existing)
        if title is not None and (not isinstance(title, str) or not title):
            raise ValueError(f"ReportRecord: title={title!r} must be a text, or null for the experiment's name")
        self.dataset, self.model, self.title, self.sections = dataset, model, title, list(sections or [])
        artifact_paths(self.sections)  # an error before anything is trained

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the run's facts, where no record before has; then as qlib does."""
        keep_facts(self.recorder, self.dataset, self.model)
        return super().generate(*args, **kwargs)

    def list(self) -> list[str]:
        """Name the artifacts."""
        return [PAGE, SUMMARY]

    def _generate(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        artifacts, context = self.material()
        summary = summarise(artifacts, context)
        save_json(self.recorder, SUMMARY, summary.to_dict())
        log_finite(self.recorder, {f"summary.{name}": value for name, value in summary.numbers.items()})
        self.recorder.set_tags(verdict=summary.verdict.en)
        progress.conclude(summary.lines())
        if find_spec("plotly") is None:
            cure = f"pip install 'qlib_ext[report]', then `qlib-ext report {self.recorder.id}`"
            logger.warning(f"no {PAGE}: it needs plotly, which is not here. {cure}")
            return {}
        with TemporaryDirectory() as folder:
            page = Path(folder) / PAGE
            page.write_text(report_html(artifacts, context, sections=self.sections), encoding="utf-8")
            size = page.stat().st_size
            self.recorder.save_objects(local_path=str(page), artifact_path=None)
        place = Path(self.recorder.get_local_dir()) / "artifacts" / PAGE
        logger.info(f"report ({size / 1e6:.1f} MB): {place}")
        progress.conclude([*summary.lines(), f"  {'page':<11} {place}"])
        return {}

    def material(self) -> tuple[dict[str, Any], Context]:
        """Gather what the page shows: the run's artifacts by path, and what its numbers have in common."""
        paths = dict.fromkeys((*SUMMARY_ARTIFACTS, *artifact_paths(self.sections), PLAN))
        artifacts = {path: value for path in paths if (value := load_if_there(self.recorder, path)) is not None}
        task = load_if_there(self.recorder, "task") or {}
        run = {"run": str(self.recorder.id), "started": str(self.recorder.start_time or "")[:19]}
        experiment = str(getattr(self.recorder, "experiment_name", None) or _experiment_name(self.recorder))
        run["experiment"] = experiment
        label = getattr(self.dataset, "label", None) or label_expression(getattr(self.dataset, "handler", None))
        options: dict[str, Any] = {"facts": artifacts.get(FACTS), "title": self.title, "label": label}
        context = context_of(task, artifacts, run, provider=provider_folder(C["provider_uri"]), **options)
        return artifacts, context


def _experiment_name(recorder: Any) -> str:
    client, number = getattr(recorder, "client", None), recorder.experiment_id
    return str(number) if client is None else str(client.get_experiment(number).name)
