# Every target does its own set-up, in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: verify test models test-blas test-pythons lint packages resolve lock citation hooks docs docs-test bench trust fuzz mutants clean help

help:
	@echo "make verify      measure every claim of the ledger, on synthetic and real data"
	@echo "make test        run the tests"
	@echo "make test-blas   the numerical tests again, on other kernels of BLAS and NumPy"
	@echo "make models      attention exchanged in models of timm, transformers and peft"
	@echo "make lint        style, formatting and types"
	@echo "make packages    wheel and sdist, built, installed and tried in new environments"
	@echo "make docs        the site in docs/_build/html: every tutorial and every claim is run"
	@echo "make docs-test   every page of the site, opened in headless Chromium"
	@echo "make resolve     constraints.txt has a solution for every extra on every supported Python; installs nothing"
	@echo "make test-pythons  the NumPy part on the other supported Pythons that are installed"
	@echo "make lock        constraints.txt anew from pyproject.toml, LOCK=--upgrade for the newest versions"
	@echo "make citation    CITATION.cff and codemeta.json anew, after a change of version, authors or address"
	@echo "make hooks       ruff and mypy before every commit, by pre-commit"
	@echo "make bench       the benchmarks, as ratios in one run"
	@echo "make clean       remove what the other targets made"
	@echo "These write the records of docs/trust.md, and take from ten minutes to some hours:"
	@echo "make trust       slow tests, oracles, narrow floats, long and large, oldest and newest versions (gigabytes)"
	@echo "make fuzz        hostile input to every public function, 100 000 calls and more"
	@echo "make mutants     the code changed in thousands of ways, each to be noticed by a test"

verify: .venv/.verify
	$(BIN)/espref verify

test: .venv/.test
	$(BIN)/python -m pytest -n auto

models: .venv/.models
	$(BIN)/python -m pytest -n auto tests/models

test-blas: .venv/.test
	$(BIN)/python tests/second_blas.py

lint: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

packages: .venv/.test
	$(BIN)/python tests/packages.py pinned

resolve: .venv/bin/uv
	$(BIN)/python tests/resolve.py

test-pythons: .venv/.verify
	$(BIN)/python tests/pythons.py

# 3.11.0 is the oldest Python of pyproject.toml. Versions that still fit are kept, without LOCK=--upgrade.
LOCK ?=
lock: .venv/bin/uv
	$(BIN)/uv pip compile pyproject.toml --universal --all-extras --python-version 3.11.0 --quiet \
	  --python $(BIN)/python --no-python-downloads --no-annotate --custom-compile-command 'make lock' \
	  --output-file constraints.txt $(LOCK)

citation: .venv/.verify
	$(BIN)/python tests/citation_files.py

hooks: .venv/.test .venv/bin/pre-commit
	$(BIN)/pre-commit install

docs: .venv/.docs
	rm -rf docs/_build
	$(BIN)/python -m sphinx -E -n -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html

docs-test: docs .venv/.test
	$(BIN)/python -m pytest tests/browser

bench: .venv/.test
	$(BIN)/espref bench

trust: .venv/.test .venv/.models
	$(BIN)/python -m pytest -m trust
	$(BIN)/python tests/oracle_errors.py
	$(BIN)/espref bench numerics --json docs/records/numerics-cpu.json
	$(BIN)/espref bench large --json docs/records/large-cpu.json
	$(BIN)/python tests/packages.py range
	$(BIN)/python tests/packages.py torch
	$(BIN)/python tests/models/timm_families.py
	$(BIN)/python tests/models/transformers_families.py

fuzz: .venv/.test
	ESPREF_FUZZ=100000 $(BIN)/python -m pytest tests/test_fuzz.py tests/nn/test_nn_fuzz.py

mutants: .venv/.mutants
	$(BIN)/python tests/mutants.py chapters
	$(BIN)/python tests/mutants.py nn
	$(BIN)/python tests/mutants.py claims

clean:
	rm -rf .venv docs/_build build dist *.egg-info espref-bench.json

.venv/bin/pip:
	$(PYTHON) -m venv .venv

# Not by the extra dev: make lock must work when pyproject.toml and constraints.txt no longer agree.
.venv/bin/uv: .venv/bin/pip
	$(INSTALL) uv

.venv/bin/pre-commit: .venv/bin/pip
	$(INSTALL) pre-commit

.venv/.verify: .venv/bin/pip pyproject.toml constraints.txt
	$(INSTALL) --editable '.[verify]'
	@touch $@

.venv/.test: .venv/bin/pip pyproject.toml constraints.txt
	$(INSTALL) --editable '.[test,train]'
	@touch $@ .venv/.verify

# timm without what it requires: it imports torchvision, for which tests/models has a stand-in, and calls nothing of it.
.venv/.models: .venv/bin/pip pyproject.toml constraints.txt Makefile
	$(INSTALL) --editable '.[models]'
	$(INSTALL) --no-deps timm==1.0.31
	@touch $@

.venv/.mutants: .venv/bin/pip pyproject.toml constraints.txt
	$(INSTALL) --editable '.[mutants]'
	@touch $@ .venv/.test .venv/.verify

.venv/.docs: .venv/bin/pip pyproject.toml constraints.txt
	$(INSTALL) --editable '.[docs]'
	@touch $@ .venv/.verify
