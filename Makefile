# All that a developer runs. Nothing here writes outside the checkout: the virtual environment, the servers, the
# caches and the temporary files lie in it, and `make clean-all` removes them.

PY := .venv/bin/python
BLACK := $(PY) -m black --line-length 120 --target-version py311
ISORT := $(PY) -m isort
CODE := bisync tests

# The server that deploy/get-redis put there goes before one of the system that may be too old.
export PATH := $(CURDIR)/.servers/bin:$(PATH)
export TMPDIR := $(CURDIR)/.tmp
export BLACK_CACHE_DIR := $(CURDIR)/.tmp/black
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-core test-deep test-versions histories bench check format venv redis servers clean \
  clean-all

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: .venv/.ready redis  ## show the main job working on two local servers
	.venv/bin/bisync demo

test: .venv/.ready redis  ## run all tests, real servers included (ARGS="-k name" to choose)
	$(PY) -m pytest -n 3 --dist worksteal $(ARGS)

test-core: .venv/.ready  ## run the tests of the core: seconds, no server
	$(PY) -m pytest tests/core $(ARGS)

histories: .venv/.ready  ## run 100,000 random histories of the simulated pair (N=... for another number)
	$(PY) -m bisync.testing.histories --histories $(or $(N),100000)

test-deep: .venv/.ready redis  ## run all tests with many more random examples (an hour or more)
	BISYNC_HYPOTHESIS_PROFILE=deep $(PY) -m pytest --timeout 0 $(ARGS)

test-versions: .venv/.ready redis  ## run the tests of every pair of server versions (a quarter of an hour; docs/versions.md)
	-@deploy/get-servers
	BISYNC_VERSIONS=all $(PY) -m pytest tests/versions --junitxml=.tmp/versions.xml $(ARGS); status=$$?; \
	  $(PY) -m tests.versions.table .tmp/versions.xml; exit $$status

bench: .venv/.ready redis  ## measure what conflict detection costs: half an hour (ARGS="--only core" for less)
	$(PY) -m benchmarks.detection $(ARGS)

check: .venv/.ready  ## format, lint, types, layering
	$(BLACK) --check --quiet --diff $(CODE)
	$(ISORT) --check-only --diff $(CODE)
	$(PY) -m flake8 $(CODE)
	$(PY) -m mypy
	$(PY) -m pytest --quiet tests/test_layering.py tests/test_project.py

format: .venv/.ready  ## bring the code into the format that check wants
	$(ISORT) --quiet $(CODE)
	$(BLACK) --quiet $(CODE)

venv: .venv/.ready  ## make .venv with bisync and all that its tests need

redis: .venv/.ready  ## find a redis-server, or put one into .servers
	@deploy/get-redis > .tmp/redis-server.path
	@echo "redis-server: $$(cat .tmp/redis-server.path)"

servers: .venv/.ready redis  ## get servers of many versions into .servers, for test-versions (SERVERS="redis-2.8" to choose)
	@deploy/get-servers $(SERVERS)

clean:  ## remove caches and temporary files
	rm -rf .tmp .pytest_cache .mypy_cache .hypothesis build dist
	find bisync tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean  ## remove also .venv and .servers
	rm -rf .venv .servers bisync.egg-info

# A stamp: made again when the dependencies change.
.venv/.ready: setup.cfg pyproject.toml deploy/make-venv | .tmp
	@deploy/make-venv
	@touch $@

.tmp:
	@mkdir -p $@
