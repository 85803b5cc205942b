# `make landscape` and `make test` need Python >= 3.11 only; everything goes into .venv.
PYTHON ?= python3
SCALE ?= default
BIN := .venv/bin
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache

.PHONY: landscape dynamics test lint clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "ufm_jax needs Python 3.11 or later"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

landscape: .venv/.installed
	$(BIN)/python -m experiments.landscape --scale $(SCALE)

dynamics: .venv/.installed
	$(BIN)/python -m experiments.dynamics --scale $(SCALE)

test: .venv/.installed
	$(BIN)/python -m pytest

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .jax_cache build *.egg-info
