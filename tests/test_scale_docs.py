"""The example files of clusters are what Ray's own launcher takes."""

import json
from pathlib import Path

import pytest
import yaml

ray = pytest.importorskip("ray")
jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples" / "ray").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_ray_takes_the_example(file):
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    schema = json.loads(Path(ray.__file__).with_name("autoscaler").joinpath("ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"max_worker": 8}, schema)
    kinds = config["available_node_types"]
    assert config["head_node_type"] in kinds and config["provider"]["type"] == file.stem
    assert sum(kind.get("max_workers", 0) for kind in kinds.values()) <= config["max_workers"]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert f":{pinned['ray']}-py311" in config["docker"]["image"]
    assert any("/shared" in command for command in config["initialization_commands"])


def test_there_is_one_for_each_of_three_clouds():
    assert [file.stem for file in FILES] == ["aws", "azure", "gcp"]
