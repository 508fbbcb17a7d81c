# make demo            the chain on a phantom CT; make demo CT=path runs it on your own
# make test            every test
# make bench           how long the chain takes and how much memory; writes the tables of docs/performance.md
# make monailabel      the MONAI Label server on this machine; STUDIES=folder of CTs, or address of a DICOMweb server
# make test-monailabel its tests, against the real server; not part of make test
# All make the environment in .venv (the last two: .venv-monailabel) first. PYTHON=/path/to/python chooses another interpreter.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
LABEL := .venv-monailabel/bin
CT ?=
STUDIES ?=
PORT ?= 8000
export PYTHONWARNINGS ?= ignore

.PHONY: demo test bench monailabel test-monailabel clean

demo: .venv/.run
	$(BIN)/python scripts/demo.py $(if $(CT),--ct "$(CT)")

test: .venv/.test
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope

bench: .venv/.run
	$(BIN)/python bench/chain.py run

monailabel: .venv-monailabel/.run
	@test -n "$(STUDIES)" || { echo "ERROR STUDIES=folder of CTs, or =address of a DICOMweb server, is needed"; exit 1; }
	$(LABEL)/python -m monailabel.main start_server --app apps/monailabel --studies "$(STUDIES)" --host 127.0.0.1 --port $(PORT)

test-monailabel: .venv-monailabel/.run
	$(LABEL)/python -m pytest apps/monailabel/tests

.venv/.run: requirements.txt
	@test -n "$(PYTHON)" || { echo "ERROR Python 3.10 to 3.12 with venv is needed (Debian: apt install python3-venv), or PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/.test: requirements-test.txt .venv/.run
	$(BIN)/python -m pip install --quiet --requirement requirements-test.txt
	touch $@

.venv-monailabel/.run: requirements.txt apps/monailabel/requirements.txt
	@test -n "$(PYTHON)" || { echo "ERROR Python 3.10 to 3.12 with venv is needed (Debian: apt install python3-venv), or PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv-monailabel
	$(LABEL)/python -m pip install --quiet --requirement requirements.txt
	$(LABEL)/python -m pip install --quiet --no-deps --requirement apps/monailabel/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-monailabel demo
