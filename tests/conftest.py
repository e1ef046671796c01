"""One thread for all tests: tiny tensors are slower on several, and small machines run other things beside."""

import shutil
from pathlib import Path

import pytest
import torch

from qlib_ext.synthetic import make_market

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small embedded market that no test may change."""
    return make_market(tmp_path_factory.mktemp("base") / "market", n_stocks=60, years=1)


@pytest.fixture
def market_copy(base, tmp_path):
    """A copy of it to break."""
    return Path(shutil.copytree(base, tmp_path / "market"))
