# `make` alone lists what there is. Everything runs in .venv, made on first use; PYTHON=... names the interpreter.

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-fast test-faults lint types format bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

venv: $(INSTALLED) ## Create .venv and install dualselect into it, once

$(INSTALLED): pyproject.toml constraints/cpu.txt scripts/install.sh scripts/torch_index.py
	@PYTHON='$(PYTHON)' scripts/install.sh

quickstart: $(INSTALLED) ## See SFT erode safe behaviour and DualSelect preserve it, on a small real model
	$(BIN)/dualselect quickstart

test: $(INSTALLED) ## Run all tests but the long ones of faults
	$(BIN)/python -m pytest -n logical --maxprocesses 4 -m 'not faults'

test-fast: $(INSTALLED) ## Run the tests that are not marked slow
	$(BIN)/python -m pytest -n logical --maxprocesses 4 -m 'not slow'

test-faults: $(INSTALLED) ## Kill runs at many moments, and compare what they leave with an unbroken run
	$(BIN)/python -m pytest -n logical --maxprocesses 4 -m faults

lint: $(INSTALLED) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Check types
	$(BIN)/mypy

format: $(INSTALLED) ## Fix style and formatting where that can be done automatically
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## Measure speed and memory against plain SFT
	$(BIN)/python -m benchmarks.step

clean: ## Remove .venv, caches and builds; runs/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
