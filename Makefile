# make help lists the targets. ARGS="…" passes overrides: make train ARGS="model=vit_b16 data=cifar10"
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow lint format typecheck bench tensorboard clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make the virtual environment and install the pinned dependencies

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vitfw needs Python 3.11 or newer; try: make setup PYTHON=python3.12"; exit 2; }
	@echo "installing into $(VENV); torch and its libraries are large, so this takes minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: $(INSTALLED) ## train: on the embedded digits, or what ARGS says
	$(BIN)/python train.py $(ARGS)

test: $(INSTALLED) ## the test suite, in under ten minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-slow: $(INSTALLED) ## the tests that take minutes each
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(INSTALLED) ## style, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(INSTALLED) ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(INSTALLED) ## static types
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

bench: $(INSTALLED) ## what the Trainer costs over a bare loop, or ARGS="suite=data"
	$(BIN)/vitfw benchmark $(or $(ARGS),suite=step)

tensorboard: $(INSTALLED) ## curves of all runs, in the browser
	$(BIN)/tensorboard --logdir runs $(ARGS)

clean: ## remove the environment and caches; runs/ and data/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
