# make demo: see it work.  make test: all tests.  make check: what CI runs.  make bench: the numbers in docs/benchmarks.md.

PYTHON ?= python3
VENV := .venv
# Interpreters that pyenv installed, so that tox finds each Python there is.
export PATH := $(PATH):$(subst $() ,:,$(wildcard $(HOME)/.pyenv/versions/*/bin))

.PHONY: demo test check lint types bench bench-short clean

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

# One stamp an extra: installed again when pyproject.toml changes.
$(VENV)/%.installed: pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

demo: $(VENV)/demo.installed
	$(VENV)/bin/python -m ssemiddleware demo $(DEMO)

# Two environments at a time, since the live tests mostly wait; what TOX names one after the other, with its output as it comes.
test: $(VENV)/check.installed
	$(VENV)/bin/tox $(if $(TOX),run $(TOX),run-parallel --parallel 2)

check: test lint types bench-short

lint: $(VENV)/check.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/check.installed $(VENV)/demo.installed $(VENV)/test.installed $(VENV)/live.installed $(VENV)/bench.installed
	$(VENV)/bin/mypy

bench: $(VENV)/bench.installed
	$(VENV)/bin/python -m benchmarks --markdown docs/benchmarks.md --summary README.md --plots benchmarks/plots

bench-short: $(VENV)/bench.installed
	$(VENV)/bin/python -m benchmarks --short

clean:
	rm -rf $(VENV) .tox .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
