"""What version 0.1.0 offered, module by module, is still imported by its name of that day."""

import importlib
import warnings
from pathlib import Path

import pytest

NAMES = dict(
    line.split(": ") for line in (Path(__file__).parent / "recorded" / "names_of_0_1_0.txt").read_text().splitlines()
)
# not taken along, since no workflow, document or example named them: whoever removes one more says so here
GONE = {
    "capacity": "capital_at_zero zero_capitals",
    "market": "options_of whole_number whole_numbers",
    "baseline": "Boosted check_names free_score long_scores",
    "data": "check_turnover known_label label_prices listed_days trailing_volatility turnover_of",
    "execution": "account_returns",
    "evaluate": "HOLDINGS NEED_LIQUIDITY RETURNS TOP_N TOP_SHARE ascending daily_columns",
    "figures": "draw_fold_map",
    "losses": "OPTIONS WEIGHTED",
    "judge": "one_day part past_return",
    "gate_record": "gate_weights regimes",
    "handler": "read_bars",
    "recorder": "load_if_there log_finite",
    "report": "Artifacts PATHS packed_holdings sections series_words",
    "storage": "first_closes",
    "units": "RATIOS profile_of",
    "report_record": "context_of cost_words need_plotly provider_folder",
}


@pytest.mark.parametrize("module", sorted(NAMES))
def test_every_name_is_where_it_was(module):
    wanted = set(NAMES[module].split()) - set(GONE.get(module, "").split())
    if not wanted:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        place = importlib.import_module(f"qlib_ext.{module}")
    assert {name for name in wanted if not hasattr(place, name)} == set()


@pytest.mark.parametrize(
    ("old", "module", "name"),
    [
        ("capacity.DEFINITIONS", "evaluate", "CAPACITY_DEFINITIONS"),
        ("compare.DEFINITIONS", "evaluate", "COMPARE_DEFINITIONS"),
        ("diagnostics.DEFINITIONS", "evaluate", "DIAGNOSTICS_DEFINITIONS"),
        ("execution.DEFINITIONS", "evaluate", "EXECUTION_DEFINITIONS"),
        ("judge.FACTOR_DEFINITIONS", "record", "FACTOR_DEFINITIONS"),
        ("orders.COLUMNS", "strategy", "ORDER_COLUMNS"),
    ],
)
def test_a_constant_is_found_by_its_old_name(old, module, name):
    place, constant = old.split(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        there = importlib.import_module(f"qlib_ext.{place}")
    assert getattr(there, constant) is getattr(importlib.import_module(f"qlib_ext.{module}"), name)


def test_a_name_that_never_was_says_where_the_module_is():
    with pytest.warns(DeprecationWarning, match="is now qlib_ext.features"):
        place = importlib.reload(importlib.import_module("qlib_ext.alpha"))
    with pytest.raises(AttributeError, match=r"qlib_ext\.features.*no alpha999"):
        place.alpha999()
