"""What a run is called, and its tags: mlflow lists, sorts and searches by them."""

from collections.abc import Mapping
from typing import Any

from qlib_ext.options import default_of
from qlib_ext.runs.task import Task, class_name, options_of

VERSION = "qlib_ext_version"
LONGEST_NAME = 250


def run_name(task: Mapping[str, Any]) -> str:
    """Name a run by its model, loss, universe and seed, as far as they are known.

    >>> model = {"class": "MASTERModel", "module_path": "qlib_ext.model", "kwargs": {"loss": "liq_wpcc", "seed": 3}}
    >>> ensemble = {"class": "FoldEnsemble", "module_path": "qlib_ext.model", "kwargs": {"model": model}}
    >>> handler = {"class": "FastAlpha158", "module_path": "qlib_ext.handler", "kwargs": {"instruments": "csi300"}}
    >>> run_name({"model": ensemble, "dataset": {"class": "DayDatasetH", "kwargs": {"handler": handler}}})
    'FoldEnsemble(MASTERModel) liq_wpcc csi300 seed 3'
    """
    tags = run_tags(task)
    words = [tags[name] for name in ("model", "loss", "universe") if name in tags]
    return " ".join([*words, f"seed {tags['seed']}"] if "seed" in tags else words)[:LONGEST_NAME]


def run_tags(task: Mapping[str, Any]) -> dict[str, str]:
    """Tell model, loss, seed, universe, label and horizon (days) of a task, each as far as it is known."""
    plan = Task(task)
    outer, inner = (plan.models[0], plan.models[-1]) if plan.models else ({}, {})
    dataset = plan.dataset
    tags = {
        "model": "(".join(map(class_name, plan.models)) + ")" * (len(plan.models) - 1),
        "loss": class_name(loss := _option(inner, "loss")) or loss,
        "seed": _several(options_of(outer).get("seeds", _option(inner, "seed"))),
        "universe": _universe(_option(plan.handler, "instruments")),
        "label": plan.label,
        "horizon": _horizon(dataset.get("label_days"), plan.label),
    }
    return {name: str(value) for name, value in tags.items() if value not in (None, "")}


def provider_folder(uri: Any) -> str:
    """Name the provider's folder; qlib keeps one for each frequency, most often one and the same."""
    return ", ".join(dict.fromkeys(map(str, uri.values()))) if isinstance(uri, Mapping) else str(uri)


def _option(config: Mapping[str, Any], name: str) -> Any:
    """Option of a configuration, or its class's default; None where there is none."""
    from qlib.utils import get_callable_kwargs

    options = options_of(config)
    if name in options or not config:
        return options.get(name)
    try:
        return default_of(get_callable_kwargs(config, "qlib.contrib.data.handler")[0], name)
    except (KeyError, ImportError, AttributeError, TypeError, ValueError):
        return None


def _several(seeds: Any) -> str | None:
    return ", ".join(map(str, seeds)) if isinstance(seeds, list | tuple) else None if seeds is None else str(seeds)


def _universe(instruments: Any) -> str | None:
    if isinstance(instruments, list | tuple):
        return f"{len(instruments)} stocks"
    return instruments if isinstance(instruments, str) else None


def _horizon(label_days: Any, label: str | None) -> int | None:
    from qlib_ext.panel import label_span  # which imports torch: a run is found without

    try:
        return int(label_days[1]) - int(label_days[0]) if label_days else label_span(label).horizon if label else None
    except ValueError:
        return None
