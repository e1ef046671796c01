"""A change of the workflow that `qlib-ext init` writes, checked by the functions that qrun comes by."""

import re
from functools import cache

import qlib
from qlib.log import get_module_logger
from ruamel.yaml import YAML

from qlib_ext.recorder import check_task, check_workflow
from qlib_ext.workflow import load_workflow, survey, workflow_text

PLACE = re.compile(r"^(?P<path>[\w.\[\]<>]+): (?P<value>.*)$", re.DOTALL)


@cache
def written(market):
    """The workflow of a market, as text."""
    return workflow_text(survey(market), "mlp")


def give(text, place, market):
    """Change the workflow (`path: value`, several separated by ` & `; the value `-` takes away) and check it."""
    file = place / "workflow.yaml"
    file.write_text(written(market), encoding="utf-8")
    config = load_workflow(file)
    for change in text.split(" & "):
        path, value = PLACE.match(change).group("path", "value")
        put(config, [int(key) if key.isdigit() else key for key in re.split(r"[.\[\]]+", path.rstrip("]"))], value)
    check_workflow(config)
    qlib.init(provider_uri=str(market), region="cn", logging_level=30)
    get_module_logger.setLevel(30)
    check_task(config["task"])
    return config


def put(config, keys, value):
    for key in keys[:-1]:
        config = config[key]
    if value == "-":
        del config[keys[-1]]
    elif isinstance(config, list) and keys[-1] == len(config):
        config.append(YAML(typ="safe").load(value))
    else:
        config[keys[-1]] = YAML(typ="safe").load(value)
