# SPDX-License-Identifier: AGPL-3.0-only
#
# GNU make. `make` alone lists the targets. Needs Python 3.11 or newer, nothing else.
#
#   PYTHON=…   the interpreter to use; else the first suitable one on PATH
#   VENV=…     the virtual environment, .venv by default
#   ARGS=…     more arguments for what the target runs

VENV ?= .venv
PYTHON ?=
ARGS ?=

SHELL := /bin/sh
.SHELLFLAGS := -euc
.ONESHELL:
.NOTPARALLEL:
.DEFAULT_GOAL := help

# pip reads them in the environments that it builds packages in, too. Relative, because it splits
# these values at white space, which the path of a checkout may contain.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# $(call install,EXTRA): the virtual environment exists and has the package, editable, with that
# extra; EXTRA may be empty. Repeated, it does nothing as long as nothing it depends on changed.
#
# .made-for names the checkout that the environment was made in, because its scripts hold that
# path. .with-EXTRA holds the checksum of what was installed. .unfinished is there while pip works.
define install
cd -P .
extra='$(strip $(1))' venv='$(VENV)' asked='$(PYTHON)'
fail() { echo "$$*" >&2; exit 1; }

# logged COMMAND...: run it; show what it prints only if it fails.
logged() { "$$@" >"$$venv/setup.log" 2>&1 || { cat "$$venv/setup.log" >&2; return 1; }; }

# version_of PYTHON: print its version; fail if it does not run or is too old.
version_of() {
    "$$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3]); sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# find_python: set python and version to what was asked for or to the first that is suitable.
find_python() {
    found=
    for python in $${asked:+"$$asked"} $(if $(PYTHON),,python3 python3.13 python3.12 python3.11 python3.14); do
        command -v "$$python" >/dev/null || continue
        ! version=$$(version_of "$$python") || return 0
        found="$$found$${found:+, }$$python ($${version:-does not run})"
    done
    fail "Python 3.11 or newer is needed; found: $${found:-none$${asked:+ named $$asked}}. PYTHON=… names another."
}

# is_usable: the environment runs, was made here, and with the Python asked for, if one was.
is_usable() {
    [ -x "$$venv/bin/python" ] && has=$$(version_of "$$venv/bin/python") || return 1
    [ ! -f "$$venv/.made-for" ] || [ "$$(cat "$$venv/.made-for")" = "$$PWD" ] || return 1
    [ -z "$$asked" ] || [ "$$has" = "$$version" ]
}

make_venv() {
    find_python
    "$$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$$python ($$version) has no venv module; on Debian and Ubuntu: apt install python3-venv"
    [ ! -e "$$venv" ] || [ -f "$$venv/pyvenv.cfg" ] || [ -f "$$venv/.made-for" ] ||
        fail "$$venv is there and is no virtual environment; remove it or set VENV=…"
    # Not the one inside the environment that goes away now, which may be active.
    python=$$("$$python" -c 'import sys; print(sys._base_executable)')
    { rm -rf "$$venv" && mkdir -p "$$venv" && echo unfinished >"$$venv/.made-for"; } 2>/dev/null ||
        fail "$$venv cannot be written in $$PWD: permission is missing or the disk is full; VENV=… names another place"
    echo "making $$venv with Python $$version"
    logged "$$python" -m venv "$$venv" || fail "$$python could not make $$venv, see above"
    echo "$$PWD" >"$$venv/.made-for"
}

[ -z "$$asked" ] || find_python
is_usable || make_venv

sum=$$(cat pyproject.toml constraints.txt plexus_registry/__init__.py | cksum)
stamp="$$venv/.with-$$extra"
if [ -e "$$venv/.unfinished" ] || [ ! -f "$$stamp" ] || [ "$$(cat "$$stamp")" != "$$sum" ]; then
    echo "installing plexus-registry$${extra:+ and what its $$extra target needs} into $$venv"
    [ -w "$$venv" ] || fail "$$venv cannot be written in $$PWD: permission is missing"
    [ ! -e "$$venv/.unfinished" ] || rm -f "$$venv"/.with-*
    : >"$$venv/.unfinished"
    logged "$$venv/bin/python" -m pip install --editable ".$${extra:+[$$extra]}" ||
        fail "pip could not install plexus-registry, see above"
    echo "$$sum" | tee "$$stamp" >"$$venv/.with-"
    rm -f "$$venv/.unfinished"
fi
endef

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## make the virtual environment and install the package into it
	@$(call install)
	echo "ready: $(VENV)/bin/plexus-registry"

# exec: signals reach the daemon itself.
.PHONY: run
run: ## run the registry in the foreground; Ctrl-C stops it
	@$(call install)
	exec '$(VENV)/bin/plexus-registry' $(ARGS)

.PHONY: test
test: ## run the tests; ARGS='-k reload' and the like narrow them
	@$(call install,test)
	'$(VENV)/bin/python' -m pytest $(ARGS)

.PHONY: system-test
system-test: ## build the Debian package and drive it on a booted Debian 13; needs root
	@$(call install,test)
	'$(VENV)/bin/python' -m pytest tests/system $(ARGS)

.PHONY: browser-test
browser-test: ## click through the status page in a headless Chromium
	@$(call install,browser)
	'$(VENV)/bin/python' -m pytest tests/browser $(ARGS)

.PHONY: screenshots
screenshots: ## take the pictures of the status page in docs/ anew
	@$(call install,browser)
	'$(VENV)/bin/python' -m pytest tests/browser -k screenshots --screenshots docs

# tests/limits has no faults, but figures for the same document. With ARGS the document keeps the
# rows of tests that do not run.
.PHONY: fault-test
fault-test: ## break disk, power and clock under the daemon, fill in docs/reliability.md; needs root
	@$(call install,test)
	report=$$(mktemp -d)
	trap 'rm -rf "$$report"' EXIT
	PLEXUS_FAULT_REPORT="$$report" '$(VENV)/bin/python' -m pytest tests/faults $(wildcard tests/limits) $(ARGS)
	'$(VENV)/bin/python' tests/faults/report.py $(if $(ARGS),--keep) "$$report" docs/reliability.md

# PLEXUS_BENCH_RUST=FILE, or ARGS=--rust with cargo, compares with the Rust program, too.
.PHONY: bench
bench: ## measure against the bars of the design, for some minutes; see docs/benchmarks.md
	@$(call install)
	'$(VENV)/bin/python' -m bench $(ARGS)

# Only where a wheel of atheris is to be had: its source needs a compiler of its own.
.PHONY: fuzz
fuzz: export PIP_ONLY_BINARY := atheris
fuzz: ## look for inputs that break what must hold; ARGS='frames --seconds 60'
	@$(call install,fuzz)
	PYTHONPATH=tests exec '$(VENV)/bin/python' -m fuzz $(ARGS)

.PHONY: soak
soak: ## load one registry for ten minutes and see whether it grows; ARGS='--seconds 60' for one
	@$(call install)
	'$(VENV)/bin/python' -m bench.soak $(ARGS)

.PHONY: lint
lint: ## check style, format and types
	@$(call install,lint)
	status=0
	'$(VENV)/bin/python' -m ruff check . || status=1
	'$(VENV)/bin/python' -m ruff format --check . || status=1
	'$(VENV)/bin/python' -m mypy || status=1
	exit $$status

.PHONY: format
format: ## format the code and mend what ruff can mend
	@$(call install,lint)
	'$(VENV)/bin/python' -m ruff check --fix . || true
	'$(VENV)/bin/python' -m ruff format .

.PHONY: check
check: lint test ## lint, then test

# What is in dist goes when there is something to take its place.
define into_dist
rm -rf dist
mv '$(VENV)/dist' dist
ls -d dist/*
endef

.PHONY: dist
dist: ## build the source distribution, from it the wheel, and its bill of materials
	@$(call install,dist)
	rm -rf '$(VENV)/dist'
	'$(VENV)/bin/python' -m build --outdir '$(VENV)/dist'
	'$(VENV)/bin/python' packaging/bom.py '$(VENV)/dist'
	$(into_dist)

# Wheel and sdist are those that the other formats were made from.
.PHONY: packages
packages: ## build sdist, wheel, .deb, RPM and Arch package, with their tests, into dist; needs root
	@$(call install,test)
	$(call install,dist)
	rm -rf '$(VENV)/dist'
	PYTHONPATH=tests:packaging '$(VENV)/bin/python' -m system.formats '$(VENV)/dist'
	'$(VENV)/bin/python' packaging/bom.py '$(VENV)/dist'
	$(into_dist)

.PHONY: release-check
release-check: ## tell whether all that names the version names the same
	@$(call install)
	'$(VENV)/bin/python' packaging/release.py

.PHONY: clean
clean: ## remove everything that make made
	@rm -rf dist .fuzz .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path './.*' -prune -o -name __pycache__ -prune -exec rm -rf {} +
	for venv in '$(VENV)' .venv-*; do
	    [ ! -f "$$venv/.made-for" ] || rm -rf "$$venv"
	done
