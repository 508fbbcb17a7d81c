# make demo            the chain on a phantom CT; make demo CT=path runs it on your own
# make test            every test but those of the last two, and how much of the package they run
# make lint            style, types, and that both bundles hold the shared code as it is
# make format          writes the code as make lint wants it
# make lock            newer versions of what requirements.lock names (needs uv); UPGRADE=--upgrade takes the newest
# make wheel           dist/liver_ct-*.whl, with both bundles inside
# make bench           how long the chain takes and how much memory; writes the tables of docs/performance.md
# make fuzz            mutated files: refused, or read as they were; writes the table of docs/reliability.md (N=10000 SEED=0)
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
INSTALL := -m pip install --quiet --constraint requirements.lock
CT ?=
STUDIES ?=
PORT ?= 8000
UPGRADE ?=
N ?= 10000
SEED ?= 0
export PYTHONWARNINGS ?= ignore
# MONAI cannot be imported where the user has no name, as in containers that run under any user id.
export LOGNAME ?= $(shell id -un 2>/dev/null)

.PHONY: demo test lint format lock wheel bench fuzz monailabel test-monailabel test-deploy clean

demo: .venv/.run
	$(BIN)/python scripts/demo.py $(if $(CT),--ct "$(CT)")

test: .venv/.test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --cov --cov-report term

lint: .venv/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python bundles/shared/copy_into_bundles.py --check

format: .venv/.test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The whole repository is for Python below 3.13, so the lock need not say so at each line.
lock:
	uv pip compile $(UPGRADE) --quiet pyproject.toml --output-file requirements.lock
	sed -i -e "s/ ; python_full_version < '3.13'$$//" -e "s/python_full_version < '3.13' and //" requirements.lock

wheel: .venv/.run
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

bench: .venv/.run
	$(BIN)/python bench/chain.py run

fuzz: .venv/.test
	$(BIN)/python tests/fuzz/run.py many --count $(N) --seed $(SEED)

monailabel: .venv-monailabel/.run
	@test -n "$(STUDIES)" || { echo "ERROR STUDIES=folder of CTs, or =address of a DICOMweb server, is needed"; exit 1; }
	$(LABEL)/python -m monailabel.main start_server --app apps/monailabel --studies "$(STUDIES)" --host 127.0.0.1 --port $(PORT)

test-monailabel: .venv-monailabel/.run
	$(LABEL)/python -m pytest apps/monailabel/tests

test-deploy: .venv-deploy/.run
	$(DEPLOY)/python -m pytest tests/test_deploy.py

.venv/.run: pyproject.toml requirements.lock
	$(HAVE_PYTHON)
	$(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) --editable '.[dicom,train]'
	touch $@

.venv/.test: .venv/.run
	$(BIN)/python $(INSTALL) --editable '.[test,lint]'
	touch $@

.venv-monailabel/.run: pyproject.toml requirements.lock apps/monailabel/requirements.txt
	$(HAVE_PYTHON)
	$(PYTHON) -m venv .venv-monailabel
	$(LABEL)/python $(INSTALL) --editable '.[train]'
	$(LABEL)/python -m pip install --quiet --no-deps --requirement apps/monailabel/requirements.txt
	touch $@

.venv-deploy/.run: pyproject.toml requirements.lock examples/deploy/requirements.txt
	$(HAVE_PYTHON)
	$(PYTHON) -m venv .venv-deploy
	$(DEPLOY)/python $(INSTALL) --editable '.[dicom]' --requirement examples/deploy/requirements.txt pytest
	touch $@

clean:
	rm -rf .venv .venv-monailabel .venv-deploy demo dist
