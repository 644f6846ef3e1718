# `make train` and `make test` set up what is missing, once, and run.
# Flags are passed on: make train ARGS="--seed 2"

PYTHON := .venv/bin/python
SETUP := .venv/.set-up
SOURCES := srpo_env agents examples tests

.PHONY: help setup train test lint format build

help:
	@echo 'make train  learn LIBERO-Object with SRPO     (ARGS="--seed 2" passes flags on)'
	@echo 'make test   run the tests                     (ARGS="-k wrapper" passes flags on)'
	@echo 'make lint   check style and types'
	@echo 'make format put the code into the agreed format'
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

build: $(SETUP)
	@$(PYTHON) -m build --no-isolation
