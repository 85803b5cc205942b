# `make landscape` and `make test` need Python >= 3.11 only; everything goes into .venv.
PYTHON ?= python3
SCALE ?= default
BIN := .venv/bin
EXPERIMENTS := landscape dynamics claims atlas proved_branches theorem etf_spectrum local_minima ordered_partitions imagenet_size \
  phase_diagram regimes imbalance deep_linear codes plateaus \
  benchmark growth \
  nc_training random_labels feature_decay fixed_etf parameter_table accelerator
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache

.PHONY: $(EXPERIMENTS) experiments compare test lint clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "ufm_jax needs Python 3.11 or later"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

$(EXPERIMENTS): .venv/.installed
	$(BIN)/python -m experiments.$@ --scale $(SCALE) $(FLAGS)

experiments: $(EXPERIMENTS)

# What differs, row by row, from another commit, and the ratio of rates: make compare WITH=HEAD
compare: .venv/.installed
	$(BIN)/python -m experiments.compare --with $(WITH) --scale $(SCALE)

# Files go to two processes: nearly all of the time is XLA's compilation, one core at a time. The order is the
# tests' own (`pytest_collection_modifyitems` in tests/conftest.py).
test: .venv/.installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .jax_cache build *.egg-info
