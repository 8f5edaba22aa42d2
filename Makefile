.PHONY: setup demo test chaos bench check lock
PYTHON ?= python3
BIN := .venv/bin

setup: .venv/.installed  ## create .venv from the lock

.venv/.installed: requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "dropflow needs Python 3.11 to 3.13, this is %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup  ## drop a sample file into an embedded stack and show what becomes of it
	$(BIN)/dropflow demo

test: setup  ## all tests
	$(BIN)/pytest --numprocesses auto --max-worker-restart 0

SEED ?= 1
chaos: setup  ## drop 2,000 files while every process is killed again and again, then look for what is missing
	$(BIN)/python tests/chaos.py --seed $(SEED)

bench: setup  ## latency, bursts, large files, each against a baseline: three quarters of an hour on a quiet machine
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/burst.py
	$(BIN)/python benchmarks/burst.py --files 2000 --rows 100
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/large.py --mib 2048

check: setup  ## lint, types, import direction
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: setup  ## resolve pyproject.toml anew into the two locks
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra mail --extra postgres --extra redis pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --all-extras --constraints requirements.lock pyproject.toml --output-file requirements-dev.lock
