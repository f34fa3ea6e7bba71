# Thin: what a target does stands in tools/ and meson.build.
#
#   make PYTHON=python3.12          another Python for .venv
#   make CC=clang                   another compiler
#   make test PYTEST="-k banner"    options for pytest
#   make bench ARGS=--quick         options for bench/run.py
#   make cases ARGS="--row 3"       options for tests/system/cases.py

PYTHON ?= python3
VENV := .venv
PYTEST ?=
ARGS ?=

export PYTHON
ifneq ($(origin CC),default)
export CC
endif

C_FILES = $(shell git ls-files '*.c' '*.h')

.DEFAULT_GOAL := build
.PHONY: help build setup demo test test-all units asan ubsan tsan valgrind bench cases matrix \
        format check dist wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

build:  ## .venv/ with everything installed: loopguard-top, loopguard-dump, import loopguard (the default)
	@tools/setup.sh build
	@tools/venv.sh $(VENV) $(PYTHON)
	@tools/install.sh $(VENV)

setup:  ## the Debian packages that all targets need
	@tools/setup.sh all

demo: build  ## a FastAPI worker with honest and blocking endpoints under load, watched live
	@tools/venv.sh $(VENV) $(PYTHON) demo
	@$(VENV)/bin/python examples/run_demo.py

.PHONY: unit-tools test-tools
unit-tools:
	@tools/setup.sh build test
	@tools/venv.sh $(VENV) $(PYTHON)

test-tools: build
	@tools/setup.sh test
	@tools/venv.sh $(VENV) $(PYTHON) test

test: test-tools  ## cmocka units, then pytest on .venv's Python and on the newest one found
	@tools/test.sh newest $(PYTEST)

test-all: test-tools  ## the same on every Python 3.9-3.13 found
	@tools/test.sh all $(PYTEST)

units: unit-tools  ## the cmocka units alone
	@tools/units.sh unit

asan: unit-tools  ## units and the extension under the address sanitizer
	@tools/asan.sh $(PYTHON) $(PYTEST)

ubsan: unit-tools  ## units under the undefined-behaviour sanitizer
	@tools/units.sh ubsan -Db_sanitize=undefined -Db_lundef=false

tsan: unit-tools  ## units of common/ under the thread sanitizer
	@SUITE=common tools/units.sh tsan -Db_sanitize=thread -Db_lundef=false

valgrind: unit-tools  ## units under valgrind's memcheck
	@tools/setup.sh valgrind
	@WRAPPER="valgrind --quiet --leak-check=full --error-exitcode=9" tools/units.sh unit

bench: build  ## what loopguard costs, beside no agent and beside its peers, as ratios
	@tools/setup.sh bench
	@$(VENV)/bin/python bench/run.py $(ARGS)

cases: test-tools  ## the situations that must be told right, on real workers, as a table
	@$(VENV)/bin/python tests/system/cases.py $(ARGS)

matrix: test-tools  ## applications with and without loopguard on the oldest to the newest FastAPI
	@LOOPGUARD_TEST_MATRIX=1 $(VENV)/bin/python -m pytest tests/system/test_frameworks.py $(PYTEST)

format:  ## lay out C and Python the way CONTRIBUTING.md says
	@tools/setup.sh build
	@tools/venv.sh $(VENV) $(PYTHON) check
	@$(VENV)/bin/clang-format -i $(C_FILES)
	@$(VENV)/bin/ruff format --quiet .
	@$(VENV)/bin/ruff check --quiet --fix-only .

check: test-tools  ## clang-format, clang-tidy, ruff, mypy --strict, pyright, stubtest; changes nothing
	@tools/setup.sh check
	@tools/venv.sh $(VENV) $(PYTHON) check
	@BUILD_ONLY=yes tools/units.sh unit
	@tools/check.sh $(VENV)

wheel: build  ## dist/*.whl for .venv's Python
	@$(VENV)/bin/python -m pip wheel -qq --no-deps --wheel-dir dist .
	@ls dist/*.whl

dist: wheel  ## the wheel and the source archive
	@tools/sdist.sh $(VENV)

clean:  ## remove what was built; .deps/ stays
	@rm -rf build dist $(VENV) .venvs .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
