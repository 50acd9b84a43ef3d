# What there is to make: `make help`. Works with python3 (3.11 or newer, with venv) and make alone.

PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
TRIAL := -m twisted.trial
STRICT := $(BIN)/python -bb -W error

INSTALLED := $(shell find tproxy twisted examples -type f ! -name '*.pyc' ! -name dropin.cache)
CLUSTER := tests.integration.kubernetes
OTHERS = $(UNITS) $(subst /,.,$(basename $(wildcard tests/integration/test_*.py)))
UNITS := $(filter-out tests.__init__ tests.__pycache__ tests.integration,$(subst /,.,$(basename $(wildcard tests/*))))

# What decides is tested in every branch; the shell around it as far as it goes.
API := tproxy/cluster/api
DECISIONS := tproxy/*.py,tproxy/protocols/*,tproxy/operator/*,tproxy/ops/overview.py,$(API)/objects.py,$(API)/wire.py,$(API)/store.py,$(API)/lease.py
SHELL_AROUND := tproxy/assembly.py,tproxy/cli.py,tproxy/listeners.py,tproxy/tap.py,tproxy/installation.py,tproxy/operator/reconciler.py,tproxy/operator/operator.py

.PHONY: help
help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(VENV)/.installed  ## a mail server, tproxy in front of it, and a line to try: until Ctrl-C
	@$(BIN)/tproxy demo

.PHONY: test
test: packages lint assets  ## everything: lint, types, unit and integration tests, coverage
	$(BIN)/coverage erase
	@echo "The tests on a cluster run beside the others, and are shown after them"
	$(STRICT) -m coverage run $(TRIAL) $(CLUSTER) >cluster.log 2>&1 & cluster=$$!; \
	$(STRICT) -m coverage run $(TRIAL) $(OTHERS); status=$$?; \
	wait $$cluster || status=$$?; cat cluster.log; exit $$status
	@$(MAKE) --no-print-directory coverage

.PHONY: coverage
coverage:
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=100 --include='$(DECISIONS)' --omit='$(SHELL_AROUND)'

.PHONY: again
again:  ## some tests alone: make again TESTS="tests.x.y …"
	$(STRICT) $(TRIAL) $(TESTS)

.PHONY: unit
unit: $(VENV)/.tested  ## the unit tests alone
	$(STRICT) $(TRIAL) $(UNITS)

.PHONY: lint
lint: $(VENV)/.tested  ## style, import rule, types
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/mypy

.PHONY: bench
bench: $(VENV)/.tested  ## tproxy beside haproxy, nginx, stunnel and Dovecot: about 12 minutes
	@bench/packages
	@$(BIN)/python -m bench

.PHONY: bench-quick
bench-quick: $(VENV)/.tested  ## the same in two minutes; fails where a goal is missed by far
	@bench/packages
	@$(BIN)/python -m bench --quick

.PHONY: assets
assets: packages $(VENV)/.tested  ## the programs of a cluster that tests run on: 20 minutes, once; needs Go and root
	@$(BIN)/python -m tests.integration.kubernetes.programs

.PHONY: packages
packages:
	@.ci/packages

.PHONY: clean
clean:  ## remove all that was made here
	rm -rf .venv .venv-* build cluster.log dist *.egg-info _trial_temp* .coverage* .hypothesis .mypy_cache .ruff_cache .tox
	find tproxy twisted tests bench -name __pycache__ -prune -exec rm -rf {} + -o -name dropin.cache -exec rm -f {} +

# A normal install, made anew when a file of it changed: plug-ins don't show in an editable one.

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tproxy needs Python 3.11 or newer: make PYTHON=python3.x …")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv. On Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'setuptools >= 70.1'
	@touch $@

install = @rm -rf build tproxy.egg-info; \
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation $(1) && rm -rf build tproxy.egg-info && touch $@

$(VENV)/.installed: $(VENV)/.python setup.cfg pyproject.toml $(INSTALLED)
	$(call install,.)

$(VENV)/.tested: $(VENV)/.python setup.cfg pyproject.toml $(INSTALLED)
	$(call install,'.[test]') $(VENV)/.installed
