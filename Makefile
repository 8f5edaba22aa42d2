.PHONY: setup demo test chaos faults image bench check lock sbom audit
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps
# Installs in seconds what takes pip minutes. It does not know how pip is set up: where it finds no index, pip goes on.
UV := $(BIN)/uv pip install --quiet --python .venv/bin/python --no-deps --compile-bytecode

setup: .venv/.installed  ## create .venv from the lock

.venv/.installed: requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "dropflow needs Python 3.11 to 3.13, this is %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements-dev.lock > .venv/uv.lock
	$(PIP) --require-hashes -r .venv/uv.lock
	$(UV) --require-hashes -r requirements-dev.lock || $(PIP) --require-hashes -r requirements-dev.lock
	$(PIP) --no-build-isolation --editable .
	touch $@

demo: setup  ## drop a sample file into an embedded stack and show what becomes of it
	$(BIN)/dropflow demo

test: setup  ## all tests
	$(BIN)/pytest --numprocesses auto --max-worker-restart 0

SEED ?= 1
chaos: setup  ## drop 2,000 files while every process is killed again and again, then look for what is missing
	$(BIN)/python tests/chaos.py --seed $(SEED)

image: setup  ## run the Dockerfile's steps without Docker, and what they make; as root, on Linux
	$(BIN)/python tests/image.py

ONLY ?=
faults: setup  ## bring about one fault after another and look for what is missing (needs root); ONLY=NAME: one
	$(BIN)/python tests/faults.py $(if $(ONLY),--only $(ONLY))

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
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra excel --extra mail --extra otel --extra postgres --extra redis pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --all-extras --constraints requirements.lock pyproject.toml --output-file requirements-dev.lock

LOCKED := build/locked
sbom: setup $(LOCKED)/uv.lock  ## what runs, with versions and hashes, as CycloneDX: build/sbom.json
	$(BIN)/uv export --quiet --frozen --project $(LOCKED) --format cyclonedx1.5 --output-file build/sbom.json
	@echo "build/sbom.json: $$(grep -c '"purl"' build/sbom.json) packages"

audit: setup $(LOCKED)/uv.lock  ## ask osv.dev for known vulnerabilities of what runs; needs the internet
	@$(BIN)/uv audit --quiet --preview-features audit-command --frozen --project $(LOCKED) || { code=$$?; \
	  test $$code -ne 2 || echo "NOT AUDITED: api.osv.dev did not answer, so nothing is known either way" >&2; exit $$code; }

# A project of exactly the pins of requirements.lock: uv lists and audits projects only.
$(LOCKED)/uv.lock: requirements.lock
	mkdir -p $(LOCKED)
	{ printf '[project]\nname = "dropflow"\nversion = "0"\nrequires-python = ">=3.11,<3.14"\ndependencies = [\n'; \
	  sed -n 's/^\([a-z0-9].*==.*[^ ]\) *\\$$/    "\1",/p' requirements.lock; echo ']'; } > $(LOCKED)/pyproject.toml
	$(BIN)/uv lock --quiet --project $(LOCKED)
