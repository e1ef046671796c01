"""The example notebook runs from top to bottom, and what it shows is what the run has."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
PROBE = """\
import json
bought, best = orders[orders["side"] == "buy"], read_oracle(market)["oracle"]["ic"]
print(json.dumps({
    "stocks": read_oracle(market)["parameters"]["n_stocks"],
    "oracle_ic": best,
    "ic": float(result.table.loc["capped_buyable_gross", "mean_ic"]),
    "capitals": [float(c) for c in curve.index],
    "gross_there": float(curve.loc[50e6, "gross"]),
    "gross": float(result.table.loc["capped_buyable_gross", "annual_return"]),
    "bought": float(bought["yuan"].sum()),
    "worst_cap": float(bought["cap_used"].max()),
    "after": bool((orders["date"] > orders["signal_date"]).all()),
    "signal_day": str(orders["signal_date"].iloc[0])[:10],
    "final": float(result.account["account"].iloc[-1]),
}))
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """(notebook with its outputs, what the probe cell found)."""
    folder = tmp_path_factory.mktemp("first_run")
    notebook = nbformat.read(EXAMPLES / "first_run.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    (probe,) = (out["text"] for out in notebook.cells[-1]["outputs"] if out.get("name") == "stdout")
    return notebook, json.loads(probe) | {"page": (folder / "page.html").read_text(encoding="utf-8")}


def test_every_code_cell_that_ends_in_a_value_shows_it(executed):
    notebook, _ = executed
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert all(cell["outputs"] for cell in cells)
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]


def test_the_run_learns_something_and_no_more_than_there_is(executed):
    _, found = executed
    assert found["stocks"] == 60
    assert 0.02 < found["ic"] < 1.5 * found["oracle_ic"]


def test_the_notebook_is_quiet(executed):
    """No log lines, tables of warnings or notices: what a cell shows is its value, or what it prints."""
    notebook, _ = executed
    said = [out for cell in notebook.cells[:-1] for out in cell.get("outputs", []) if out["output_type"] == "stream"]
    assert [out["name"] for out in said] == ["stderr", "stdout"], said
    assert "trades by the simple rule where the forecast is not significant" in said[0]["text"]
    assert said[0]["text"].count("Warning") == 1 and said[1]["text"].startswith("notebook: 73 days"), said


def test_the_page_and_the_account_are_there(executed):
    _, found = executed
    assert "<title>A first run" in found["page"] and 'data-row="capped_buyable_net"' in found["page"]
    assert 40e6 < found["final"] < 60e6


def test_table_and_capacity_curve_agree_at_the_records_capital(executed):
    _, found = executed
    assert found["capitals"][0] == 10e6 and found["capitals"][-1] == 10e9
    assert found["gross_there"] == pytest.approx(found["gross"], rel=1e-9)


def test_orders_are_of_the_day_after_under_the_caps_and_the_capital(executed):
    _, found = executed
    assert found["after"] and found["signal_day"] == "2020-12-31"
    assert 0 < found["bought"] <= 50e6
    assert found["worst_cap"] <= 1 + 1e-9


def test_tables_in_the_notebook_are_those_of_the_run(executed):
    notebook, found = executed
    html = next(
        out["data"]["text/html"]
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if "mean_ic" in out.get("data", {}).get("text/html", "")
    )
    assert f"{found['ic']:.4f}" in html


def test_the_notebook_is_stored_without_outputs_and_machine_paths():
    text = (EXAMPLES / "first_run.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    for place in (Path.home(), EXAMPLES.parent):
        assert place == Path(place.anchor) or str(place) not in text, place
