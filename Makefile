# One word an intent: run, test, lint, generators, mutations, bench, bench-check, soak, chaos, rolling, lock.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8000
.PHONY: run test lint generators mutations bench bench-check soak chaos rolling lock clean

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Penstock needs Python 3.11 or newer; name one: make PYTHON=python3.11") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

run: .venv/ready
	@PORT=$(PORT) $(BIN)/python -m penstock_demo

test: .venv/ready
	$(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Client generators that tests hold the OpenAPI documents against; without them these tests are skipped.
generators: .generators/ready

.generators/ready: tests/generators/requirements.txt tests/generators/package.json
	$(PYTHON) -m venv .generators
	.generators/bin/python -m pip install --quiet --disable-pip-version-check -r tests/generators/requirements.txt
	cp tests/generators/package.json .generators/
	cd .generators && npm install --silent --no-audit --no-fund --no-package-lock
	touch $@

mutations: .venv/ready
	$(BIN)/python tests/contracts/mutations.py $(ARGS)

bench: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m benchmarks.hot_path
	PYTHONPATH=tests $(BIN)/python -m benchmarks.features
	PYTHONPATH=tests $(BIN)/python -m benchmarks.durable
	PYTHONPATH=tests $(BIN)/python -m benchmarks.console

bench-check: .venv/ready
	cd tests && ../$(BIN)/python -m benchmarks.instructions $(ARGS)

soak: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m benchmarks.soak $(ARGS)

chaos: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m benchmarks.chaos $(ARGS)

rolling: .venv/ready
	PYTHONPATH=$(CURDIR)/tests $(BIN)/python -m benchmarks.rolling $(ARGS)

# Needs uv. The second file is what a server installs: the versions of the first, without tools for development.
COMPILE := uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --python-version 3.11 --universal
lock:
	$(COMPILE) --upgrade --all-extras pyproject.toml -o requirements.lock
	$(COMPILE) --upgrade --extra redis --constraint requirements.lock pyproject.toml -o requirements-prod.lock

clean:
	rm -rf .venv .generators .penstock
