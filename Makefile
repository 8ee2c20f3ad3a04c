# On a fresh clone, with Python 3.11 or newer and make:  make demo  and  make test

PYTHON ?= python3
# Test files run side by side, after the unit tests, in this order: by itself pytest-xdist begins with those of the
# most tests, and waits at the end for one of few that boots a system.
JOBS ?= 2

CRASH := $(addprefix tests/fault/test_, crash_points.py random_kills.py relay_kills.py power_loss.py server_repertoire.py) \
    $(addprefix tests/fault/test_postgresql_, gaps.py failover.py acknowledgement.py cut_connections.py \
    snapshot.py roles.py hung_server.py outages.py) \
    tests/integration/test_spool_model.py

VENV := .venv
BIN := $(VENV)/bin
MAKEFLAGS += --no-print-directory

# A release is built once these pass.
RELEASE_TESTS ?= tests/system/test_packaging.py tests/system/test_debian_package.py tests/system/test_debian13.py

# What is built has the date of the source, so that it comes out the same each time.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.rst)

.DEFAULT_GOAL := help
.PHONY: help demo test unit lint check soak crash simulate bench bench-full bench-rivals man docs pictures dist deb \
    release clean

help: ## list these targets
	@echo "usage: make TARGET [PYTHON=python3.12]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/runtime ## show the whole way of an event on this machine, in seconds
	@$(BIN)/forwarder demo

test: $(VENV)/dev ## run all tests
	@$(BIN)/python -m pytest -q tests/unit
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder \
	    tests/system tests/fault tests/engine tests/integration

unit: $(VENV)/dev ## run the unit tests alone
	@$(BIN)/python -m pytest -q tests/unit

lint: $(VENV)/dev ## check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: ## what every change must pass: lint, test, demo
	@.ci/run

soak: $(VENV)/dev ## everything at once for ten minutes, or FORWARDER_SOAK_S=60
	@FORWARDER_SOAK_S=$${FORWARDER_SOAK_S:-600} $(BIN)/python -m pytest -q tests/fault/test_soak.py

# One after the other, not captured: the seeds and figures are for people.
crash: $(VENV)/dev ## kills, power cuts and faults, for FORWARDER_CRASH_S=180 each
	@FORWARDER_CRASH_S=$${FORWARDER_CRASH_S:-180} $(BIN)/python -m pytest -q -s $(CRASH)

simulate: $(VENV)/dev ## days of delivery in a made-up world for an hour, or FORWARDER_SIMULATE_S=60
	@FORWARDER_SIMULATE_S=$${FORWARDER_SIMULATE_S:-3600} $(BIN)/python -m pytest -q -s tests/integration/test_simulation.py \
	    tests/integration/test_simulation_updates.py

bench: $(VENV)/runtime ## measure, side by side with a bare loop
	@$(BIN)/python -m benchmarks

bench-full: $(VENV)/runtime ## the same with ten million events waiting; takes 5 GB of disk
	@$(BIN)/python -m benchmarks --waiting 10000000

bench-rivals: $(VENV)/runtime ## measure beside other importers, installed into build/rivals
	@$(BIN)/python -m benchmarks.rivals build/rivals docs/pictures/rivals.json docs/pictures/rivals.svg

man: $(VENV)/runtime ## write the manual pages into man/
	@$(BIN)/python -m man man

docs: $(VENV)/runtime ## write the pages of docs/ that are made from the code: commands and settings
	@$(BIN)/python -m man.reference docs

pictures: $(VENV)/runtime ## draw the pictures of docs/ from a recorded run; needs tmux and chromium
	@$(BIN)/python -m man.pictures docs/pictures

# Packed again without the moment, the user and the modes of this checkout, the sdist is the same each time.
dist: $(VENV)/dev man ## build sdist and wheel into dist/
	@rm -rf build/sdist && mkdir -p dist
	@$(BIN)/python -m build --no-isolation --sdist --outdir build/sdist
	@umask 022 && cd build/sdist && tar -xzf *.tar.gz && rm *.tar.gz && chmod -R u+rwX,go+rX,go-w * && \
	    tar -c --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$$SOURCE_DATE_EPOCH * | \
	    gzip -9n >$(CURDIR)/dist/$$(echo *).tar.gz
	@umask 022 && $(BIN)/python -m build --no-isolation --wheel --outdir dist build/sdist/*

deb: dist ## build a Debian package into dist/, for this machine's Python
	@debian/build-deb $(BIN)/python

release: $(VENV)/dev ## check, build and tag the version that CHANGELOG.rst describes; publishes nothing
	@.ci/release $(BIN) $(RELEASE_TESTS)

clean: ## remove what make and the tools have made, the environment too
	rm -rf $(VENV) build dist man/*.[15] *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis bench.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is rebuilt when what it is made from has changed, or when it was left half made.
$(VENV)/runtime: setup.cfg setup.py
	@$(call need_python)
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(call install,.)
	@touch $@

$(VENV)/dev: $(VENV)/runtime
	@$(call install,.[dev])
	@touch $@

# pip is only heard when it fails. In another mode each start of Python takes twice as long.
define install
echo "Installing '$(1)' into $(VENV) ..."; \
$(BIN)/python -m pip install --disable-pip-version-check --no-input --use-pep517 \
    --config-settings editable_mode=compat -e '$(1)' >$(VENV)/pip.log 2>&1 || { cat $(VENV)/pip.log >&2; exit 1; }
endef

define need_python
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo "This needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
    echo "Name another one: make PYTHON=python3.12" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
    echo "$(PYTHON) can't make virtual environments: its modules venv and ensurepip are missing." >&2; \
    echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
endef
