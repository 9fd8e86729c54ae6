# Everything a person or a machine does with a checkout. Needs Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --build-deps-for editable

.PHONY: install run cluster test test-slow test-all coverage check docs cluster-page lock bench scaling stores failover kills scorecard soak clean

install: $(VENV)/.installed

run: install
	@$(BIN)/ecss-console init
	@exec $(BIN)/ecss-console serve

# Two consoles on one PostgreSQL, for trying a cluster out. Ctrl-C ends and removes everything.
cluster: $(VENV)/.installed-dev
	@exec $(BIN)/python scripts/cluster.py

# One file of tests runs on one worker, because its tests may share a server. Servers mostly wait: more workers than cores.
PYTEST := $(BIN)/pytest --numprocesses=$(or $(WORKERS),4) --dist=loadfile

# Every promise once, in minutes.
test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" $(if $(COVERAGE),--cov --cov-report=)

# What takes long: kills and faults at every step, floods, soaks, many clients.
test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow $(if $(COVERAGE),--cov --cov-append --cov-report=)

test-all: test test-slow

# The branches that tests with COVERAGE=1 have reached, by folder.
coverage: $(VENV)/.installed-dev
	$(BIN)/python scripts/coverage_by_folder.py

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/record_examples.py --check
	$(BIN)/python scripts/commands_page.py --check
	$(BIN)/python scripts/configuration_page.py --check
	$(BIN)/python scripts/observability_page.py --check

docs: $(VENV)/.installed-dev
	$(BIN)/python scripts/record_examples.py
	$(BIN)/python scripts/commands_page.py
	$(BIN)/python scripts/configuration_page.py
	$(BIN)/python scripts/observability_page.py

# The transcript in docs/cluster.md; needs PostgreSQL.
cluster-page: $(VENV)/.installed-dev
	$(BIN)/python scripts/cluster_page.py

bench: $(VENV)/.installed-dev
	$(BIN)/python bench/run.py $(if $(QUICK),--quick)
	$(if $(QUICK),,$(BIN)/python bench/scaling.py)

scaling: $(VENV)/.installed-dev
	$(BIN)/python bench/scaling.py

# SQLite beside PostgreSQL, and one, two and four nodes. QUICK=1: one short round.
stores: $(VENV)/.installed-dev
	PYTHONPATH=tests/support:. $(BIN)/python bench/stores.py $(if $(QUICK),--quick)

# The database fails in many ways: what clients see, and what is lost. QUICK=1: a few rows.
failover: $(VENV)/.installed-dev
	PYTHONPATH=tests/support:. $(BIN)/python bench/failover.py $(if $(QUICK),--quick)

# STORE=postgresql: the store is on PostgreSQL.
kills: $(VENV)/.installed-dev
	PYTHONPATH=tests/support $(BIN)/python bench/kills.py --store $(or $(STORE),sqlite)

scorecard: $(VENV)/.installed-dev
	$(BIN)/python bench/scorecard.py

# Half an hour of mixed load with faults; SECONDS=30 for a short one. STORE=postgresql: the store is on PostgreSQL.
soak: $(VENV)/.installed-dev
	PYTHONPATH=tests/support $(BIN)/python bench/soak.py --seconds $(or $(SECONDS),1800) --store $(or $(STORE),sqlite)

# Resolve the newest versions that pyproject.toml allows and pin them with their hashes.
lock: $(VENV)/.installed-dev
	$(COMPILE) --upgrade -o requirements.lock pyproject.toml
	$(COMPILE) --upgrade --extra dev --constraint requirements.lock -o requirements-dev.lock pyproject.toml

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q server  # a service may not write beside its program, and would compile at every start
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
