"""Leak checks of a whole workflow: what it computes may not know the future."""

from qlib_ext.leak.checks import CHECKS, check_future, check_leak, check_overlap, check_shuffled
from qlib_ext.leak.copies import perturb_provider, shuffle_provider
from qlib_ext.workflow import load_workflow

__all__ = [
    "CHECKS",
    "check_future",
    "check_leak",
    "check_overlap",
    "check_shuffled",
    "load_workflow",
    "perturb_provider",
    "shuffle_provider",
]
