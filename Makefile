# Training, Measured: `make book` builds the site, `make test` checks everything.
# Each target makes the environment it needs; a second run reinstalls nothing.
#
#   make book        build the site from stored outputs (no torch needed)
#   make serve       build it and serve it at http://localhost:8000
#   make test        lint, types, package, chapters, site   (TORCH=0 leaves torch out)
#   make notebooks   run the chapters again, in place
#   make seeds       run them with other seeds and on torch, and say which claims hold
#   make bench       time training steps beside other libraries' (never part of the tests)
#   make clean       remove what was built; `make distclean` also the environments

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH ?= 1
PORT ?= 8000

SITE := _build/html
FULL := .venv
BENCH := .venv-bench
READY := $(FULL)/$(if $(filter 0,$(TORCH)),.installed,.torch)
# The site needs neither torch nor scikit-learn; where the full environment is there, it does.
SLIM := $(if $(wildcard $(FULL)/.installed),$(FULL),.venv-book)
PIP := -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
PYTEST := $(FULL)/bin/python -m pytest
JB := build . -W -n --keep-going --quiet
export PYTHONUTF8 := 1
export TQDM_DISABLE := 1
# Small matrices gain nothing from more threads, and two test processes share two cores.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: book serve port test lint types package chapters site notebooks seeds bench clean distclean
.NOTPARALLEL:

# Pages are written anew, so that none stays of a chapter that is gone; what was read is kept.
BUILD = rm -rf $(SITE) && $(1)/bin/jupyter-book $(JB) >/dev/null

book: $(SLIM)/.installed
	@$(call BUILD,$(SLIM))
	@echo "The book is built: open $(CURDIR)/$(SITE)/index.html, or run make serve."

serve: port book
	@echo "Serving at http://localhost:$(PORT) (stop with Ctrl-C)"
	@$(SLIM)/bin/python -m http.server $(PORT) --bind 127.0.0.1 --directory $(SITE)

port:
	@$(PYTHON) -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2>/dev/null || \
	  { echo "Port $(PORT) is taken: make serve PORT=$$(($(PORT) + 1))" >&2; exit 1; }

test: lint types package chapters site

lint: $(READY)
	$(FULL)/bin/ruff check .
	$(FULL)/bin/ruff format --check .

types: $(READY)
	$(FULL)/bin/mypy

package: $(READY)
	$(PYTEST) -n 2 --dist loadscope tests --ignore tests/test_site.py

chapters: $(READY)
	$(PYTEST) --nbval --nbval-sanitize-with tests/nbval.cfg -n 2 --dist loadscope chapters

site: $(READY)
	$(call BUILD,$(FULL))
	$(PYTEST) tests/test_site.py

notebooks: $(READY)
	$(FULL)/bin/python tools/notebooks.py

SEEDS ?= 1 2 3
seeds: $(READY)
	$(FULL)/bin/python tools/notebooks.py --seed $(SEEDS)
ifneq ($(TORCH),0)
	$(FULL)/bin/python tools/notebooks.py --seed $(firstword $(SEEDS)) --backend torch
endif

bench: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks
	$(BENCH)/bin/python -m benchmarks c f --threads 2 --only torch-fused numpy dlmini-numpy dlmini-torch
	$(BENCH)/bin/python -m benchmarks scaling
	$(BENCH)/bin/python -m benchmarks report

clean:
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-book .venv-bench .venv-newest

# Environments. The stamp is older than pyproject.toml or constraints.txt: install again.

.venv-book/.installed: pyproject.toml constraints.txt | .venv-book/bin/python
	@echo "Installing what the site needs (once) ..."
	@$| $(PIP) --editable '.[book]'
	@touch $@

# Two stamps, so that TORCH=0 is content with less.
$(FULL)/.installed: pyproject.toml constraints.txt | $(FULL)/bin/python
	@echo "Installing dlmini and what its tests need (once) ..."
	@$| $(PIP) --editable '.[test]'
	@touch $@

$(FULL)/.torch: pyproject.toml constraints.txt | $(FULL)/bin/python
	@echo "Installing dlmini, what its tests need, and torch (once; make test TORCH=0 leaves torch out) ..."
	@$| $(PIP) --editable '.[test,torch]'
	@touch $(FULL)/.installed $@

$(BENCH)/.installed: benchmarks/requirements.txt pyproject.toml constraints.txt | $(BENCH)/bin/python
	@echo "Installing the libraries that dlmini is compared with (once) ..."
	@$| $(PIP) --editable '.[torch]' --requirement benchmarks/requirements.txt
	@touch $@

%/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv $* || { echo "On Debian or Ubuntu: apt install python3-venv"; exit 1; }
