"""Set-up of the comparisons: what is varied cannot be fixed, the rest is the workflow's."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # `benchmarks` is not installed

from qlib_ext.portfolio import Forecast  # noqa: E402
from studies import comparison, gates, losses, networks, trading  # noqa: E402


@pytest.mark.parametrize("module", [losses, networks, gates])
def test_options_that_are_varied_are_refused(module):
    for name in module.VARIED:
        arguments = comparison.parser(module.__doc__).parse_args(
            ["none.yaml", "--options", f'{{"lr": 1, "{name}": 2}}']
        )
        with pytest.raises(ValueError, match=f"--options fixes {name}, which the comparison varies"):
            comparison.opened(arguments, module.VARIED)
    arguments = comparison.parser(module.__doc__).parse_args(["none.yaml", "--options", "[1]"])
    with pytest.raises(ValueError, match="give a JSON object"):
        comparison.opened(arguments, module.VARIED)


def test_every_variant_sets_only_what_is_declared_as_varied():
    for module in (losses, networks):
        assert set().union(*module.VARIANTS.values()) <= set(module.VARIED)


def test_the_workflow_is_optional_where_there_is_a_default(capsys):
    assert comparison.parser("x", workflow=gates.WORKFLOW).parse_args([]).workflow == gates.WORKFLOW
    assert gates.WORKFLOW.is_file()
    with pytest.raises(SystemExit):
        comparison.parser("x").parse_args([])
    assert "workflow" in capsys.readouterr().err


def test_models_have_the_fixed_options_and_the_changed_ones(monkeypatch, capsys):
    options = {"hidden": [8], "loss": "mse", "target": "rank", "lr": 0.1, "seed": 3}
    model = {"class": "MLPModel", "module_path": "qlib_ext.model", "kwargs": options}
    workflow = {"qlib_init": {"a": 1}, "task": {"dataset": "a dataset", "model": model}}
    monkeypatch.setattr(comparison, "load_workflow", lambda path: workflow)
    started, dataset = {}, SimpleNamespace(panel="a panel", rows=lambda segment: range(len(segment)))
    monkeypatch.setattr(comparison.qlib, "init", started.update)
    made = {"a dataset": dataset}
    monkeypatch.setattr(comparison, "init_instance_by_config", lambda c: made[c] if isinstance(c, str) else c)
    arguments = comparison.parser("x").parse_args(["some.yaml", "--options", '{"lr": 0.01}'])
    got, make = comparison.opened(arguments, ("loss", "target", "seed"))
    assert got is dataset and started == {"a": 1}
    said = capsys.readouterr().out
    assert said == "a panel; {'train': 5, 'valid': 5, 'test': 4}; MLPModel {'hidden': [8], 'lr': 0.01}\n"
    assert make(loss="ic", seed=1) == {**model, "kwargs": {"hidden": [8], "lr": 0.01, "loss": "ic", "seed": 1}}
    assert make() == {**model, "kwargs": {"hidden": [8], "lr": 0.01}}  # nothing of the workflow's or of another variant
    assert options["loss"] == "mse"


def test_every_way_to_trade_is_a_policy_and_has_a_row_of_means_and_deviations():
    for make, share in trading.WAYS.values():
        assert make(Forecast(), 0.5).prepare([[1.0, 2.0]]).shape == (1, 2) and 0 < share <= 0.05
    numbers = dict.fromkeys([name for name, _, _ in trading.SHOWN.values()], 0.5)
    ways = [("a", 0, 0.14), ("a", 1, 0.16), ("b", 0, 0.01), ("b", 1, 0.03)]
    lines = [{**numbers, "way": w, "seed": n, "excess": x, "year": 2019, "b": 1.0, "days": 244} for w, n, x in ways]
    text = trading.summary(pd.DataFrame(lines))
    assert "2019, b = 1: 244 days, 2 seeds" in text  # 0.15 +- sqrt(2) 0.01
    assert "| a | 50.0 | 50.0 | 50.0 | 50.0 | 15.0 (1.4) | 50.0 |" in text and "| 2.0 (1.4) |" in text
