# `make train` and `make test` set up what is missing, once, and run.
# Flags are passed on: make train ARGS="--seed 2"

PYTHON := .venv/bin/python
SETUP := .venv/.set-up
SOURCES := srpo_env agents examples tests

DOCS := .venv/.docs-set-up

.PHONY: help setup train test lint format docs build

help:
	@echo 'make train  learn LIBERO-Object with SRPO     (ARGS="--seed 2" passes flags on)'
	@echo 'make test   run the tests                     (ARGS="-k wrapper" passes flags on)'
	@echo 'make lint   check style and types'
	@echo 'make format put the code into the agreed format'
	@echo 'make docs   build the documentation in site/; warnings are errors'
	@echo 'make build  make the source archive and the wheel in dist/'
	@echo 'make setup  make .venv with everything that the others need; they call it themselves'

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt scripts/setup.sh
	@bash scripts/setup.sh
	@touch $@

train: $(SETUP)
	@$(PYTHON) agents/vla_grpo.py --env libero-object $(ARGS)

test: $(SETUP)
	@$(PYTHON) -m pytest $(ARGS)

lint: $(SETUP)
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) -m mypy
	@$(PYTHON) -m codespell_lib $(wildcard $(SOURCES) *.md)

format: $(SETUP)
	@$(PYTHON) -m ruff check --fix
	@$(PYTHON) -m ruff format

# Only the first run needs a package index; the build itself needs no network.
$(DOCS): $(SETUP)
	@$(PYTHON) -m pip install --quiet --no-warn-conflicts --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(DOCS)
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict $(ARGS)

build: $(SETUP)
	@$(PYTHON) -m build --no-isolation
