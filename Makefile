# `make demo` and `make test` need nothing but a Python of at least 3.11; `make PYTHON=/path/to/python install` names one.

SHELL := /bin/sh
BIN := .venv/bin
# The stamp knows the folder: an editable install in a copied checkout would run the original's code.
STAMP := .venv/.installed-$(shell pwd -P | cksum | cut -d ' ' -f 1)
CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)
DEMO_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: install demo test bench lint clean

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/neuroport deploy --target loihi-sim $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

# Speed against Lava and torch, into bench.json; a few minutes.
bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict neuroport
	cd neuroport/backends/loihi/worker && MYPYPATH=.:../../worker ../../../../$(BIN)/mypy --strict --explicit-package-bases \
	    --python-version 3.10 --config-file ../../../../pyproject.toml \
	    main.py ../../worker/guard.py network.py graded_network.py netx_network.py neuroport_lava neuroport_netx
	cd neuroport/backends/spinnaker/worker && MYPYPATH=.:../../worker ../../../../$(BIN)/mypy --strict --explicit-package-bases \
	    --python-version 3.11 --config-file ../../../../pyproject.toml main.py run.py mapping.py

clean:
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last and removed first, so a .venv without one is half-made and starts again from nothing.
$(STAMP): pyproject.toml constraints.txt
	@if [ ! -e $@ ] || ! $(BIN)/python -c '' 2>/dev/null; then \
	    for python in $(CANDIDATES); do \
	        if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            found=$$python; break; \
	        fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "No Python of at least 3.11 with the venv module; tried: $(CANDIDATES). Install one, or name one: make PYTHON=..." >&2; \
	        exit 1; \
	    fi; \
	    echo "Making .venv with $$("$$found" -V); the first install takes a few minutes."; \
	    rm -rf .venv && "$$found" -m venv .venv; \
	fi
	@rm -f $@
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
