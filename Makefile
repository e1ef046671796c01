# Two commands do everything: `make run` (the main job) and `make test`.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: env run test test-all keep kill-test soak test-plots versions audit mutation lint bench docs clean

env: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e ".[test]"
	touch $(STAMP)

run: env
	$(BIN)/qrun workflows/master_liq.yaml

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --doctest-modules qlib_ext

test-all: lint
	$(BIN)/python -m pytest

# Figures that tests/test_kept.py holds, written anew; WHY is a sentence of CHANGELOG.md.
keep: env
	WHY="$(WHY)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_kept.py

# A hundred runs of all kinds killed at random moments, twenty started twice at once: about an hour; a table by kind and phase.
# Then driver, worker or node of a simulated Ray cluster, thirty times: half an hour.
kill-test: env
	KILLS=91 STARTS=10 PAIRS=20 RAY_KILLS=15 $(BIN)/python -m pytest tests/test_kills.py tests/test_ray_cluster.py

# A simulated year of evenings, in one process and in a process each: about an hour.
soak: env
	SOAK=year $(BIN)/python -m pytest tests/test_soak.py

# What the tests of a room notice: SAMPLE changes of its code (0: all), about a second each; see docs/trust.md.
ROOM   ?= losses
SAMPLE ?= 100
SEED   ?= 0
mutation: env
	$(BIN)/pip install -q -c constraints.txt -e ".[mutation]"
	OMP_NUM_THREADS=1 PYTHONHASHSEED=0 $(BIN)/python -m benchmarks.mutation $(ROOM) --sample $(SAMPLE) --seed $(SEED)

# qlib's own report functions on our runs: they need pandas 2 and plotly 6, hence an environment of their own.
test-plots: .venv-plots/.installed
	.venv-plots/bin/python -m pytest tests/plots

.venv-plots/.installed: setup.cfg pyproject.toml constraints-plots.txt
	test -x .venv-plots/bin/python || $(PYTHON) -m venv .venv-plots
	.venv-plots/bin/pip install -q torch==2.13.0
	.venv-plots/bin/pip install -q -c constraints-plots.txt -e . plotly statsmodels pytest
	touch $@

# The wheel by itself, in an environment with the lowest versions allowed: the commands, each extra, the tests (docs/versions.md).
# CONSTRAINTS=/dev/null: the newest versions; PYTHON=python3.12: another Python; PIP="uv pip": another installer.
CONSTRAINTS ?= constraints-lowest.txt
versions:
	bash tests/wheel.sh $(PYTHON) $(CONSTRAINTS) .venv-versions -m "not slow"

# Known vulnerabilities of the versions in constraints.txt, asked of PyPI over the network.
audit: .venv-audit/.installed
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

.venv-audit/.installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install -q pip-audit==2.10.1
	touch $@

# The documents, into site/; a warning is an error.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

.venv-docs/.installed: docs/requirements.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install -q -r docs/requirements.txt
	touch $@

bench: env
	$(BIN)/python -m benchmarks

clean:
	rm -rf build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
