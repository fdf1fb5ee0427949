# `make demo` and `make test` are all one needs; each makes .venv and installs if need be.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
DEMO   := runs/demo
# processes of the tests; each takes up to 2 GiB
JOBS   ?= 2
# a file stays in one process, for what its tests share; the slowest files come first
PYTEST := $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

export TF_CPP_MIN_LOG_LEVEL = 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-locked test-lowest test-newest audit soak fuzz check docs \
  bench clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -hE '^[a-z.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z.-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.venv: $(STAMP)  ## make the virtual environment and install into it

$(STAMP): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "npe_tf needs Python 3.10 or later: make PYTHON=python3.11 ..."; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || \
	  { rm -rf $(VENV); $(PYTHON) -m virtualenv --quiet $(VENV); } || \
	  { echo "$(PYTHON) has neither venv nor virtualenv (Debian: apt install python3-venv)"; exit 1; }
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[test,plots]'
	@touch $@

# The same commands serve any catalogue; run again, the second goes on where it stopped.
demo: $(STAMP) $(DEMO)/pretrained.h5  ## from the shipped catalogue to a posterior and its figures
	$(VENV)/bin/npe-infer --flagfile=demo.flags --pretrained=$(DEMO)/pretrained.h5 --output=$(DEMO)
	$(VENV)/bin/npe-summarise --run=$(DEMO)

$(DEMO)/pretrained.h5: | $(STAMP)
	$(VENV)/bin/npe-pretrain --flagfile=demo.flags --output=$@

test: $(STAMP)  ## the tests, without the slow ones
	$(PYTEST)

test-all: $(STAMP)  ## all tests
	$(PYTEST) -m ''

# environments of their own; the lower bounds want Python 3.10 to 3.12
test-locked: CONSTRAINTS = --constraint constraints/locked.txt
test-lowest: CONSTRAINTS = --constraint constraints/lowest.txt
test-locked: .venv-locked/tested  ## the tests with the versions of constraints/locked.txt
test-lowest: .venv-lowest/tested  ## the tests with the lower bounds of setup.cfg
test-newest: .venv-newest/tested  ## the tests with the newest versions there are

.PHONY: .venv-locked/tested .venv-lowest/tested .venv-newest/tested
.venv-locked/tested .venv-lowest/tested .venv-newest/tested:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --editable '.[test,plots]' $(CONSTRAINTS)
	$(@D)/bin/python -m pytest -n $(JOBS) --dist loadfile

audit:  ## look the locked versions up among known vulnerabilities
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --no-deps --disable-pip --requirement constraints/locked.txt

soak: $(STAMP)  ## kill runs at random moments and compare what is left with whole ones
	$(PY) -m tests.soak

fuzz: $(STAMP)  ## give damaged and hostile files to the readers for ten minutes
	$(PY) -m pip install --quiet --editable '.[fuzz]' || echo "no atheris here: changing files at random"
	nice $(PY) -m tests.fuzz --seconds 600

check: $(STAMP)  ## ruff, mypy and the import floors
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_import_floors.py

# the theme's advertisement of its successor is no warning of ours
docs: $(VENV)/.docs  ## the documentation site, in build/site; any warning is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict
	@echo "build/site/index.html"

$(VENV)/.docs: $(STAMP)
	$(PY) -m pip install --quiet --editable '.[docs]'
	@touch $@

bench: $(STAMP)  ## speed and accuracy against other codes
	$(PY) -m pip install --quiet --editable '.[bench]'
	@for file in $(sort $(wildcard benchmarks/*.py)); do \
	  echo "$$file"; $(PY) "$$file" || exit 1; done

clean:  ## remove the virtual environment, builds and caches
	rm -rf $(VENV) .venv-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
