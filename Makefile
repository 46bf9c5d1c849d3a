# make demo: see it work.  make test: all tests.  make docs: the site.  make dist: the wheel.
# make check: what CI runs.  make bench: the numbers in docs/benchmarks.md.
# make soak MINUTES=10: clients that come and go while the servers are reloaded and restarted.
# make proxies: the tables in docs/proxies.md, and the one in the README.

PYTHON ?= python3
MINUTES ?= 10
VENV := .venv
# Interpreters that pyenv installed, so that tox finds each Python there is.
export PATH := $(PATH):$(subst $() ,:,$(wildcard $(HOME)/.pyenv/versions/*/bin))

.PHONY: demo test check lint types docs dist installed test-installed types-installed bench bench-short soak proxies clean

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

# One stamp an extra: installed again when pyproject.toml changes.
$(VENV)/%.installed: pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

demo: $(VENV)/demo.installed
	$(VENV)/bin/python -m ssemiddleware demo $(DEMO)

# Two environments at a time, since the live tests mostly wait; what TOX names one after the other, with its output as it comes.
# The unit tests' coverage, which Python 3.11 measures, may not fall: see setup.cfg. tox would make its folder for its user alone,
# and Apache's daemon, which serves mod_wsgi's tests, is another one.
test: $(VENV)/check.installed
	rm -f .coverage
	mkdir -p .tox
	$(VENV)/bin/tox $(if $(TOX),run $(TOX),run-parallel --parallel 2)
	$(if $(TOX),,test ! -e .coverage || $(VENV)/bin/coverage report)

check: MINUTES = 2
check: test lint types types-installed docs bench-short soak

lint: $(VENV)/check.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/check.installed $(VENV)/docs.installed $(VENV)/demo.installed $(VENV)/test.installed $(VENV)/live.installed $(VENV)/bench.installed
	$(VENV)/bin/mypy

# Needs no network. The table of options is written again from the docstring.
docs: $(VENV)/docs.installed
	$(VENV)/bin/python docs/generated.py
	$(VENV)/bin/sphinx-build --quiet --fail-on-warning --doctree-dir build/doctrees docs build/docs
	@echo "The site is in build/docs/index.html"

# A wheel and an sdist from nothing, checked as PyPI and their users would.
dist: $(VENV)/release.installed
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist .
	$(VENV)/bin/twine check --strict dist/*
	$(VENV)/bin/check-wheel-contents dist/*.whl

# All but the sources, beside an environment with the wheel, so that it is the wheel that is imported.
INSTALLED := build/installed
installed: dist
	rm -rf $(INSTALLED)
	mkdir -p $(INSTALLED)
	cp -r .ci .github benchmarks docs examples tests *.md .pre-commit-config.yaml LICENSE Makefile pyproject.toml setup.cfg $(INSTALLED)
	$(PYTHON) -m venv $(INSTALLED)/.venv
	$(INSTALLED)/.venv/bin/pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[test]"

test-installed: installed
	cd $(INSTALLED) && .venv/bin/python -m pytest -m "not live" --ignore=tests/live --ignore=tests/browsers

types-installed: installed
	$(INSTALLED)/.venv/bin/pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[examples]" mypy "pyright[nodejs]" types-psutil
	cd $(INSTALLED) && .venv/bin/mypy examples && .venv/bin/pyright --pythonpath .venv/bin/python

bench: $(VENV)/bench.installed
	$(VENV)/bin/python -m benchmarks --markdown docs/benchmarks.md --summary README.md --plots benchmarks/plots

bench-short: $(VENV)/bench.installed
	$(VENV)/bin/python -m benchmarks --short

soak: $(VENV)/live.installed
	$(VENV)/bin/python -m tests.soak --minutes $(MINUTES)

proxies: $(VENV)/test.installed $(VENV)/live.installed
	SSEMIDDLEWARE_WRITE_PROXIES=docs/proxies.md $(VENV)/bin/python -m pytest -m live tests/live/test_through_proxies.py

clean:
	rm -rf $(VENV) .coverage .tox .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
