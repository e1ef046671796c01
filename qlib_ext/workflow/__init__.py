"""Workflows as files: a provider surveyed, a YAML written."""

from qlib_ext.workflow.findings import Survey, Universe, choose_universe, describe, split_days, survey, workflow_text

__all__ = ["Survey", "Universe", "choose_universe", "describe", "split_days", "survey", "workflow_text"]
