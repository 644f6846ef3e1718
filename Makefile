# Every target sets up .venv first if it is missing or out of date (`make setup`).
# ARGS passes flags on: make train ARGS="--seed 2"

PYTHON := .venv/bin/python
SETUP := .venv/.set-up
SOURCES := srpo_env agents examples tests docs scripts

DOCS := .venv/.docs-set-up

# make test-oldest and make test-newest: environments of their own, see scripts/setup.sh.
OTHER_VERSIONS := oldest newest

.PHONY: help setup train test lint format docs build $(OTHER_VERSIONS:%=test-%) test-lerobot

help:
	@echo 'make setup   create .venv with all requirements'
	@echo 'make train   train a policy on LIBERO-Object with SRPO   (ARGS="--seed 2" passes flags on)'
	@echo 'make test    run the tests                               (ARGS="-k wrapper" passes flags on)'
	@echo 'make test-oldest, make test-newest   the same with the lowest versions of the requirements that'
	@echo '             pyproject.toml allows, and with the newest'
	@echo '             make test-lerobot runs the tests that need lerobot, with Python 3.12 or newer'
	@echo 'make lint    check style, types and spelling'
	@echo 'make format  format the code'
	@echo 'make docs    build the documentation in site/; warnings are errors'
	@echo 'make build   build the source archive and the wheel in dist/, and check them'
	@echo
	@echo 'All targets except setup run setup first if needed. PYTHON=... chooses the interpreter of .venv:'
	@echo 'PYTHON=/usr/bin/python3.12 make setup'

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt scripts/setup.sh
	@bash scripts/setup.sh
	@touch $@

train: $(SETUP)
	@$(PYTHON) agents/vla_grpo.py --env libero-object $(ARGS)

test: $(SETUP)
	@$(PYTHON) -m pytest -n auto --dist worksteal $(ARGS)

$(OTHER_VERSIONS:%=test-%): test-%: .venv-%/.set-up
	@SRPO_ENV_VERSIONS=$* .venv-$*/bin/python -m pytest -n auto --dist worksteal $(ARGS)

test-lerobot: .venv-lerobot/.set-up
	@.venv-lerobot/bin/python -m pytest tests/adapters/test_lerobot_policy.py \
		tests/cli/test_benchmark_sim_lerobot.py $(ARGS)

.venv-%/.set-up: pyproject.toml scripts/setup.sh
	@bash scripts/setup.sh $*
	@touch $@

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
	@rm -rf dist
	@$(PYTHON) -m build --no-isolation
	@$(PYTHON) -m twine check --strict dist/*
