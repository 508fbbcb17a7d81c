# make demo          the chain on a phantom CT; make demo CT=path runs it on your own
# make test          every test
# make test-deploy   the MONAI Deploy app of examples/deploy, in an environment of its own (3.5 GB)
# make bench         how long the chain takes and how much memory; writes the tables of docs/performance.md
# All make the environment in .venv first. PYTHON=/path/to/python chooses another interpreter.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
CT ?=
export PYTHONWARNINGS ?= ignore

.PHONY: demo test test-deploy bench clean

demo: .venv/.run
	$(BIN)/python scripts/demo.py $(if $(CT),--ct "$(CT)")

test: .venv/.test
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope

test-deploy: .venv-deploy/.run
	.venv-deploy/bin/python -m pytest tests/test_deploy.py

bench: .venv/.run
	$(BIN)/python bench/chain.py run

.venv/.run: requirements.txt
	@test -n "$(PYTHON)" || { echo "ERROR Python 3.10 to 3.12 with venv is needed (Debian: apt install python3-venv), or PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/.test: requirements-test.txt .venv/.run
	$(BIN)/python -m pip install --quiet --requirement requirements-test.txt
	touch $@

.venv-deploy/.run: examples/deploy/requirements.txt
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/python -m pip install --quiet --requirement examples/deploy/requirements.txt pytest==9.2.0
	touch $@

clean:
	rm -rf .venv .venv-deploy demo
