# `make help` lists the targets: it prints the comment after `##` in the line of each.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8000
.PHONY: help run test lint docs-reference generators mutations shape bench bench-check soak chaos rolling lock clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Penstock needs Python 3.11 or newer; name one: make PYTHON=python3.11") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

run: .venv/ready ## Set up and serve the demo (PORT=8001 selects another port)
	@PORT=$(PORT) $(BIN)/python -m penstock_demo

test: .venv/ready ## Set up and run the tests (ARGS="tests/docs -k link" selects some)
	$(BIN)/python -m pytest -n 4 --dist worksteal $(ARGS)

lint: .venv/ready ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs-reference: .venv/ready ## Write docs/reference/ from the code
	PYTHONPATH=runtime:plugins $(BIN)/python -m penstock.cli.reference

# Client generators that tests hold the OpenAPI documents against; without them these tests are skipped.
generators: .generators/ready ## Install the client generators that some tests need

.generators/ready: tests/generators/requirements.txt tests/generators/package.json
	$(PYTHON) -m venv .generators
	.generators/bin/python -m pip install --quiet --disable-pip-version-check -r tests/generators/requirements.txt
	cp tests/generators/package.json .generators/
	cd .generators && npm install --silent --no-audit --no-fund --no-package-lock
	touch $@

shape: .venv/ready ## Print the shape of the code base: sizes, imports, places that run handlers
	$(BIN)/python tests/contracts/shape.py

mutations: .venv/ready ## Change rules of access one by one, and expect failing tests
	$(BIN)/python tests/contracts/mutations.py $(ARGS)

bench: .venv/ready ## Measure calls, features, durable runs and the console
	PYTHONPATH=tests $(BIN)/python -m benchmarks.hot_path
	PYTHONPATH=tests $(BIN)/python -m benchmarks.features
	PYTHONPATH=tests $(BIN)/python -m benchmarks.durable
	PYTHONPATH=tests $(BIN)/python -m benchmarks.console

bench-check: .venv/ready ## Compare executed instructions with tests/benchmarks/instructions.json
	cd tests && ../$(BIN)/python -m benchmarks.instructions $(ARGS)

soak: .venv/ready ## Run for hours, and watch memory and latency
	PYTHONPATH=tests $(BIN)/python -m benchmarks.soak $(ARGS)

chaos: .venv/ready ## Kill processes, cut the database and the network
	PYTHONPATH=tests $(BIN)/python -m benchmarks.chaos $(ARGS)

rolling: .venv/ready ## Reload and restart two hosts behind a proxy under load
	PYTHONPATH=$(CURDIR)/tests $(BIN)/python -m benchmarks.rolling $(ARGS)

# Needs uv. The second file is what a server installs: the versions of the first, without tools for development.
COMPILE := uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links --python-version 3.11 --universal
lock: ## Update both files of locked versions (needs uv)
	$(COMPILE) --upgrade --all-extras pyproject.toml -o requirements.lock
	$(COMPILE) --upgrade --extra redis --constraint requirements.lock pyproject.toml -o requirements-prod.lock

clean: ## Delete what make creates
	rm -rf .venv .generators .penstock
