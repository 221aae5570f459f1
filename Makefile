# `make` says what there is. Everything happens in .venv, which is made when first needed.
PYTHON ?= python3
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help install demo demo-app test lint bench clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/installed  ## make .venv and install everything into it

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed, $(PYTHON) is older: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q --upgrade pip
	$(PY) -m pip install -q -e '.[dev]'
	@$(PY) -m pip install -q --no-build-isolation -e '.[nat]' \
		|| echo "natten could not be built: ridcp_nat will use the plain PyTorch attention"
	@touch $@

demo: .venv/installed  ## train gunet_t on synthetic haze for 3 minutes, compare it with DCP and the hazy input, draw pictures
	$(PY) -m dehaze_zoo.demo

demo-app: .venv/installed  ## a page in the browser to try it on your own pictures
	$(PY) -m dehaze_zoo.app

test: .venv/installed lint  ## ruff, mypy and all tests (15 minutes on 2 cores)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest -n $${TEST_WORKERS:-2} --dist worksteal

lint: .venv/installed  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: .venv/installed  ## the speed and memory ratios of benchmarks/, minutes each
	for file in benchmarks/*.py; do $(PY) $$file || exit 1; done

clean:  ## remove .venv and what runs left behind
	rm -rf .venv outputs .mypy_cache .ruff_cache
