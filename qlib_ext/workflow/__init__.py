"""Workflows as files: a provider surveyed, a YAML written, a YAML read; imports without qlib."""

from qlib_ext.workflow.findings import Survey, Universe, choose_universe, split_days, survey
from qlib_ext.workflow.load import load_workflow
from qlib_ext.workflow.template import describe, workflow_text

__all__ = [
    "Survey",
    "Universe",
    "choose_universe",
    "describe",
    "load_workflow",
    "split_days",
    "survey",
    "workflow_text",
]
