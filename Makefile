# `make landscape` and `make test` need Python >= 3.11 only; everything goes into .venv. `make help` lists the targets.
PYTHON ?= python3
SCALE ?= default
BIN := .venv/bin
EXPERIMENTS := landscape dynamics claims atlas proved_branches theorem etf_spectrum local_minima ordered_partitions imagenet_size \
  phase_diagram regimes imbalance deep_linear codes plateaus clusters \
  benchmark growth \
  collapse nc_training random_labels feature_decay fixed_etf precision rare_classes parameter_table \
  accelerator
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache

.PHONY: $(EXPERIMENTS) help experiments paper compare test test-slow lint docs wheel clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "make NAME         one experiment, into runs/SCALE/ (SCALE=smoke|default|paper):" && \
	  echo "$(EXPERIMENTS)" | fold -s -w 78 | sed 's/^/  /'

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "ufm_jax needs Python 3.11 or later"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

$(EXPERIMENTS): .venv/.installed
	$(BIN)/python -m experiments.$@ --scale $(SCALE) $(FLAGS)

experiments: $(EXPERIMENTS)  ## all experiments, one after another

# The fixed classifiers and SGD's collapse, each for so many minutes; the same command goes on.
BUDGET ?= 60
paper: .venv/.installed  ## networks at the paper's size, on a GPU: make paper BUDGET=60 (minutes for each)
	$(BIN)/python -m experiments.fixed_etf --scale paper --budget $(BUDGET)
	$(BIN)/python -m experiments.nc_training --scale paper --budget $(BUDGET) --only sgd

# What differs, row by row, from another commit, and the ratio of rates.
compare: .venv/.installed  ## the same small runs here and at another commit: make compare WITH=HEAD
	$(BIN)/python -m experiments.compare --with $(WITH) --scale $(SCALE)

# Files go to two processes: nearly all of the time is XLA's compilation, one core at a time. The order is the
# tests' own (`pytest_collection_modifyitems` in tests/conftest.py).
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
test: .venv/.installed  ## the everyday tests, on two processes: nine or ten minutes
	$(PYTEST) -m 'not slow'

test-slow: .venv/.installed  ## the other tests, of five seconds or more each
	$(PYTEST) -m slow

lint: .venv/.installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tutorials run. Small programs are worth keeping, as their kernels compile much the same; and of eight parts two hold
# tutorials, one a core.
docs: .venv/.docs  ## the documentation, into build/docs, with every tutorial run and warnings as errors
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	  $(BIN)/python -m sphinx -q -j 8 -W --keep-going docs build/docs
	@echo "built build/docs/index.html"

wheel: .venv/.installed  ## a wheel into dist/, installed into a bare environment, and a small sweep there
	rm -rf build/lib build/bdist.* build/bare dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .
	$(PYTHON) -m venv build/bare
	build/bare/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/ufm_jax-*.whl
	cd build/bare && bin/ufm sweep --num-classes 3 --per-class 2 --dim 2 --decay-w 5e-3 --decay-h 1e-3 \
	  --decay-b 1e-2 --starts 8 --no-cache --out first
	cd build/bare && bin/python -c 'import ufm_jax; assert "site-packages" in ufm_jax.__file__; print(ufm_jax.__version__)'

clean:  ## all that was built or installed here
	rm -rf .venv .jax_cache build dist *.egg-info
