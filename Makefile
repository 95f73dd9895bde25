# The menu. `make demo` and `make test` need Python 3.11+ and make; both install into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs
# Most modules are never imported: each is compiled when it is, which takes a minute off the installation.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# Where it is set, as in many images, nothing would ever be compiled: 11 s of processor time a start, not 4.
unexport PYTHONDONTWRITEBYTECODE

# A process a core; threads of their own would wait busily for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

# Shorter than the defaults: what a film shows is learnt first, from the exact labels, while no language model runs.
DEMO := core.pretrain+lead+dmsr --set core.encoder.standardize=false --set lead.experts.pool=max \
  --set lead.train.vision=frozen --set lead.train.epochs=2 --set core.exemplars.epochs=2 \
  --set core.exemplars.lr=7e-4 --set generation.beams=1

.PHONY: help install demo test test-all test-portable lint format results docs-pages site clean

help:  ## show this menu
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: $(INSTALLED)  ## fill .venv with what rrg needs (nothing to do the second time)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rrg needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 torchvision==0.28.0 -e .
	$(BIN)/rrg compose lead+dmsr > /dev/null  # compiles what it imports, for whoever comes next
	touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) -e '.[dev]'
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(PIP) -e '.[docs]'
	touch $@

demo: install  ## phantom data, lead+dmsr trained, generated and scored, in minutes on 2 cores
	test -e data/phantom || $(BIN)/rrg data phantom data/phantom
	$(BIN)/rrg run $(DEMO) --data data/phantom --out runs/demo $(if $(wildcard runs/demo/recipe.toml),--resume)

test: lint  ## lint, types, and the tests that take seconds
	$(PYTEST) -m "not slow and not gpu"

test-all: lint  ## everything, GPU tests where there is one, contracts on many examples
	$(PYTEST)
	$(BIN)/rrg test core lead s2d-align vdgen dast --examples 100

# Processor, threads, seed of the tests' small models. The widths are torch's, oneDNN's, MKL's and numba's own names.
PORTABLE := default-1-1 avx2-2-2 native-2-1 avx2-1-0
WIDTH_default := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 NUMBA_CPU_NAME=generic
WIDTH_avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
  NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma
part = $(word $(1),$(subst -, ,$@))

test-portable: $(PORTABLE)  ## the tests as narrower x86 processors run them, with other threads and seeds: 45 minutes

.PHONY: $(PORTABLE)
$(PORTABLE): $(INSTALLED_DEV)
	$(WIDTH_$(call part,1)) OMP_NUM_THREADS=$(call part,2) RRG_TEST_SEED=$(call part,3) \
	  $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow and not gpu" $(TESTS)

lint: $(INSTALLED_DEV)  ## ruff, ruff format, mypy on core/, imports that go down
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED_DEV)  ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: install  ## the table of methods over 5 seeds in docs/results.md: an hour on 2 cores
	test -e data/phantom-1000 || $(BIN)/rrg data phantom data/phantom-1000 --studies 1000
	$(BIN)/rrg ablate methods --data data/phantom-1000 --out runs/methods --seeds 0 1 2 3 4 --steps 300 \
	  --set generation.beams=1
	$(BIN)/python docs/generate.py runs/methods/table.json

docs-pages: $(INSTALLED)  ## write docs/hooks.md, docs/ablations.md, docs/performance.md and the picture of the house
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/generate_architecture.py

site: $(INSTALLED_DOCS)  ## docs/ as a site in site/, with search; a broken link fails
	$(BIN)/mkdocs build --strict

clean:  ## remove what tools left behind; data/ and runs/ stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis dist site
