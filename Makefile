# make demo            the chain on a phantom CT; make demo CT=path runs it on your own
# make test            every test but those of the last two
# make bench           how long the chain takes and how much memory; writes the tables of docs/performance.md
# make monailabel      the MONAI Label server on this machine; STUDIES=folder of CTs, or address of a DICOMweb server
# make test-monailabel the MONAI Label app against its real server
# make test-deploy     the MONAI Deploy app of examples/deploy (an environment of 3.5 GB)
# All make what they need first: .venv, .venv-monailabel or .venv-deploy. PYTHON=/path/to/python chooses an interpreter.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
HAVE_PYTHON = @test -n "$(PYTHON)" || { echo "ERROR Python 3.10 to 3.12 with venv is needed (Debian: apt install python3-venv), or PYTHON=/path/to/python"; exit 1; }
BIN := .venv/bin
LABEL := .venv-monailabel/bin
DEPLOY := .venv-deploy/bin
CT ?=
STUDIES ?=
PORT ?= 8000
export PYTHONWARNINGS ?= ignore

.PHONY: demo test bench monailabel test-monailabel test-deploy clean

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

test-deploy: .venv-deploy/.run
	$(DEPLOY)/python -m pytest tests/test_deploy.py

.venv/.run: requirements.txt
	$(HAVE_PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/.test: requirements-test.txt .venv/.run
	$(BIN)/python -m pip install --quiet --requirement requirements-test.txt
	touch $@

.venv-monailabel/.run: requirements.txt apps/monailabel/requirements.txt
	$(HAVE_PYTHON)
	$(PYTHON) -m venv .venv-monailabel
	$(LABEL)/python -m pip install --quiet --requirement requirements.txt
	$(LABEL)/python -m pip install --quiet --no-deps --requirement apps/monailabel/requirements.txt
	touch $@

.venv-deploy/.run: examples/deploy/requirements.txt
	$(HAVE_PYTHON)
	$(PYTHON) -m venv .venv-deploy
	$(DEPLOY)/python -m pip install --quiet --requirement examples/deploy/requirements.txt pytest==9.2.0
	touch $@

clean:
	rm -rf .venv .venv-monailabel .venv-deploy demo
