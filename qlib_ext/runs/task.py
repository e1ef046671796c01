"""Configurations as qlib takes them, {class, module_path, kwargs}: which class one names, and its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def names_class(config: Any, name: str) -> bool:
    """Whether a configuration names a class.

    Args:
        config: its `class` is a name, a path such as qlib_ext.strategy.LiquidityTopNStrategy, or the class itself;
            what is no configuration names none.
        name: of the class, without its module.

    """
    called = config.get("class") if isinstance(config, Mapping) else None
    return str(getattr(called, "__name__", called)).rpartition(".")[2] == name


def options_of(config: Any) -> dict[str, Any]:
    """Return a copy of the kwargs of a configuration; empty where it has none, or is no configuration."""
    return dict(config.get("kwargs") or {}) if isinstance(config, Mapping) else {}
