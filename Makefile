# Needs make, Python 3.11 or 3.12 with venv, and a package index. Everything else is installed into .venv on first use,
# and again whenever pyproject.toml or a constraint file changes.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
AIRFLOW := .venv-airflow

# The first interpreter that fits; `make PYTHON=/path/to/python3.12 ...` names another.
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))
PYTHON ?= $(shell for python in python3.12 python3.11 python3 python; do \
	$$python -c '$(FITS)' 2>/dev/null && echo $$python && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_RETRIES ?= 10
export PIP_DEFAULT_TIMEOUT ?= 60

.PHONY: help demo test test-slow test-spark bench lint airflow constraints clean

help:
	@sed -n 's/^## //p' Makefile

## make demo         generate data, train, run and evaluate; ends with five users' lists
demo: $(INSTALLED)
	@jobs/demo.sh

## make test         the test suite, without the tests marked slow; PROCESSES=1 for one process in place of two
PROCESSES ?= 2
test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(PROCESSES) --dist loadfile

## make test-slow    the tests marked slow: real data and long faults, about an hour
test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

## make test-spark   the Spark example of docs/reading.md, with pyspark in .venv-spark; needs Java 17 or newer
SPARK := .venv-spark
test-spark: $(INSTALLED) $(SPARK)/.installed
	SPARK_PYTHON=$(CURDIR)/$(SPARK)/bin/python $(BIN)/python -m pytest -m slow tests/test_reading.py

## make bench        measure against other ways to do the same; SIZE=R1 for ten times as many users and items
SIZE ?= R0
bench: $(INSTALLED) .venv-peers/.installed
	$(BIN)/python benchmarks/bench.py $(SIZE)

## make lint         ruff, mypy and import-linter
lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

## make airflow      Airflow in an environment of its own, .venv-airflow; the slow tests run the DAG with it
airflow: $(AIRFLOW)/.installed

## make constraints  pin every package again in constraints/; UPGRADE=1 moves the pins to the newest versions
constraints: $(BIN)/python
	@$(BIN)/python -m pip install --quiet uv
	@set -e; for extra in cpu gpu; do for version in 3.11 3.12; do \
		file=constraints/$$extra-py$$(echo $$version | tr -d .).txt; \
		echo "Pinning $$file"; \
		$(BIN)/uv pip compile pyproject.toml --extra $$extra --extra dev --output-file $$file --quiet \
			--python-version $$version --python-platform x86_64-manylinux_2_28 \
			--only-binary :all: --prerelease disallow $(if $(UPGRADE),--upgrade) \
			--custom-compile-command "make constraints"; \
	done; done
	@echo "Pinning benchmarks/peers.txt"
	@$(BIN)/uv pip compile benchmarks/peers.in --output-file benchmarks/peers.txt --quiet --universal --python-version 3.11 \
		--only-binary :all: --prerelease disallow --custom-compile-command "make constraints"
	@set -e; for version in 3.11 3.12; do \
		file=jobs/airflow/constraints-py$$(echo $$version | tr -d .).txt; \
		echo "Pinning $$file"; \
		$(BIN)/uv pip compile jobs/airflow/requirements.txt --output-file $$file --quiet --no-annotate \
			--python-version $$version --python-platform x86_64-manylinux_2_28 \
			--only-binary :all: $(if $(UPGRADE),--upgrade) --custom-compile-command "make constraints"; \
	done

## make clean        remove the environments, caches and what the demo made
clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf bundles/demo feature_repo/data output/demo output/demo-retrieval
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@python='$(PYTHON)'; \
	if ! $${python:-false} -c '$(FITS)' 2>/dev/null; then \
		echo "No Python to build $(VENV) with: batchrec needs Python 3.11 or 3.12 with the modules venv and ensurepip$${python:+, and $$python is not one}." >&2; \
		echo "Install one (Debian and Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	echo "Creating $(VENV) with $$($$python --version)"; \
	$$python -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

# On a terminal pip shows its own progress; elsewhere only what goes wrong.
$(INSTALLED): pyproject.toml $(wildcard constraints/cpu-*.txt) | $(BIN)/python
	@echo "Installing batchrec and its libraries into $(VENV): one to three minutes, 3 GB on disk"
	@$(BIN)/python -m pip install $(if $(MAKE_TERMOUT),,--quiet) --editable '.[cpu,dev]' \
		--constraint constraints/cpu-$$($(BIN)/python -c 'import sys; print("py%d%d" % sys.version_info[:2])').txt
	@touch $@

# What the benchmark compares with needs other versions of the same libraries.
.venv-peers/.installed: benchmarks/peers.txt | $(BIN)/python
	@$(BIN)/python -m venv --clear .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --requirement benchmarks/peers.txt
	@touch $@

$(SPARK)/.installed: | $(BIN)/python
	@$(BIN)/python -m venv --clear $(SPARK)
	@$(SPARK)/bin/python -m pip install --quiet 'pyspark==4.3.0'
	@touch $@

$(AIRFLOW)/.installed: jobs/airflow/requirements.txt $(wildcard jobs/airflow/constraints-*.txt) | $(BIN)/python
	@echo "Installing Airflow into $(AIRFLOW): half a minute, 0.3 GB on disk"
	@$(BIN)/python -m venv --clear $(AIRFLOW)
	@$(AIRFLOW)/bin/python -m pip install $(if $(MAKE_TERMOUT),,--quiet) --requirement jobs/airflow/requirements.txt \
		--constraint jobs/airflow/constraints-$$($(BIN)/python -c 'import sys; print("py%d%d" % sys.version_info[:2])').txt
	@touch $@
