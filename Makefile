# Everything a user or CI runs. The environment is .venv/; stamps in it make the second run quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install dev demo edge test lint types audit bench docs lock clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## Set up .venv with what overnight needs to run
dev: $(VENV)/.dev            ## The same, with what its tests need

demo: install  ## A real job from prompt to kept session, offline (for real with ANTHROPIC_API_KEY)
	$(BIN)/python scripts/demo.py

edge: dev $(VENV)/.edge  ## The Cloudflare front, offline in real workerd, on PORT (8787), opened by KEY
	$(BIN)/python edge/run.py --port $(or $(PORT),8787) --settings edge/.dev.env

test: dev $(VENV)/.edge lint types audit  ## All tests; one that fails is run once more, alone, and that is said
	$(BIN)/python -m pytest || { echo "FAILED ABOVE: what failed runs once more, alone; a pass now means a flaky test"; \
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

lint: dev  ## Format and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/bandit -q -c pyproject.toml -r src

types: dev  ## Strict type checking
	$(BIN)/mypy

audit: dev  ## Known vulnerabilities of the locked dependencies, where an index answers
	$(BIN)/python scripts/audit.py

bench: dev  ## Measure the HTTP hot path; see bench/README.md
	$(BIN)/python bench/http_execute.py

docs: dev  ## Write the pages that are made from the code
	$(BIN)/python scripts/settings_page.py > docs/settings.md
	$(BIN)/python scripts/decisions_page.py > docs/decisions/README.md

lock:  ## Write the lock files anew (needs uv)
	uv pip compile -q --universal --generate-hashes --no-annotate --no-header --python-version 3.11 pyproject.toml -o requirements.lock
	uv pip compile -q --universal --generate-hashes --no-annotate --no-header --python-version 3.11 --all-extras --group pyproject.toml:dev pyproject.toml -o requirements-dev.lock
	uv pip compile -q --universal --generate-hashes --no-annotate --no-header --python-version 3.11 --extra s3 --extra cloudflare -c requirements.lock pyproject.toml -o deploy/requirements.lock

clean:  ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .demo edge/node_modules edge/python_modules edge/.pyodide

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml scripts/packages.sh | $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	sh scripts/packages.sh bwrap=bubblewrap
	@touch $@

$(VENV)/.dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	sh scripts/packages.sh unzip=unzip zip=zip ip=iproute2 strace=strace 7z=p7zip-full bsdtar=libarchive-tools git=git curl=curl tini=tini
	@touch $@

$(VENV)/.edge: edge/package-lock.json edge/requirements.txt edge/bundle.py edge/prepare.py $(VENV)/.dev
	$(BIN)/python edge/prepare.py
	@touch $@
