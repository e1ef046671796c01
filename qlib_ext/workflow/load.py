"""Read a workflow as qrun does."""

from pathlib import Path
from typing import Any

import jinja2
from ruamel.yaml import YAML, YAMLError

from qlib_ext.options import check_choice

REGIONS = ("cn", "us", "tw")  # of qlib, which ends with a bare KeyError for another


def load_workflow(path: str | Path) -> dict[str, Any]:
    """Read a workflow as qrun does: jinja with environment variables, BASE_CONFIG_PATH, the folders of `sys`.

    Raises: OSError for a missing file, ValueError for a template or YAML error, a workflow without a task, or
        a region that qlib does not know.
    """
    from qlib.cli.run import render_template, sys_config
    from qlib.utils.data import update_config

    try:
        config = YAML(typ="safe", pure=True).load(render_template(str(path)))
        base = config.pop("BASE_CONFIG_PATH", None) if isinstance(config, dict) else None
        if base:
            beside = Path(path).absolute().parent / base
            text = (Path(base) if Path(base).exists() else beside).read_text(encoding="utf-8")
            config = update_config(YAML(typ="safe", pure=True).load(text), config)
    except (jinja2.TemplateError, YAMLError) as error:
        raise ValueError(f"{path} is no workflow: {' '.join(str(error).split())}") from error
    for key in ("qlib_init", "task"):
        if not isinstance(config, dict) or not isinstance(config.get(key), dict):
            raise ValueError(f"{path} is no workflow: it has no section {key}")
    for key in ("model", "dataset"):
        if not isinstance(config["task"].get(key), dict):
            raise ValueError(f"{path} is no workflow: its task has no {key}")
    check_choice("qlib_init.region", config["qlib_init"].get("region", "cn"), REGIONS)
    sys_config(config, str(path))
    return config
