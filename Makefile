# Two commands need nothing but Python 3.11+, make and pip:   make demo   make test
# Every target sets itself up first; `make help` lists them.

CONFIG ?= demo
RUN ?=
SET ?=
GPUS ?= 1
# Students at a time, a core or a GPU each: as many as there are cores, at most 2, which fit into 4 GB of memory.
JOBS ?= $(shell [ "$$(getconf _NPROCESSORS_ONLN)" -ge 2 ] && echo 2 || echo 1)
PYTHON ?= python3

VENV := .venv
BERT2CTC := $(VENV)/bin/bert2ctc
# The stamp carries a digest of what it was installed from: file times decide nothing.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt Makefile | cksum | tr ' ' '-')
OVERRIDES = $(foreach override,$(SET),--set '$(override)')
# One process a GPU: torchrun starts them.
RANKS = $(if $(filter-out 1,$(GPUS)),--gpus $(GPUS))
RUN_OPTION = $(if $(RUN),--run-dir '$(RUN)')

.DEFAULT_GOAL := help
.PHONY: help setup test check demo data teacher teacher-cache train evaluate experiment report clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo "  CONFIG=name-or-path.toml chooses the experiment (default: demo); RUN=folder a run; SET='section.key=value ...' overrides; GPUS=N trains on N; JOBS=N students of an experiment at a time"

setup: $(STAMP) ## create .venv with the pinned versions (done by every other target too)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %s; try make PYTHON=python3.11" % sys.version.split()[0])'
	@echo "Setting up $(VENV): pip downloads about 3 GB (PyTorch with its CUDA libraries is most of it); needs 6 GB of disk."
	@echo "Nothing is written outside this folder and pip's own cache; delete $(VENV) to undo."
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; sys.exit(0 if free > 6.5 else "only %.1f GB free here, 6.5 GB are needed" % free)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

# A file's tests share what they build, so that files are dealt out, slow ones first; a process takes up to 1.5 GB.
test: check ## run every check and test, up to four files at once
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(STAMP) ## ruff, mypy --strict, import-linter
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

demo: $(STAMP) ## the whole road on a synthetic corpus made on the spot: one table at the end
	$(BERT2CTC) experiment demo --jobs '$(JOBS)' $(OVERRIDES)

data: $(STAMP) ## fetch what CONFIG needs (the demo corpus is made on the spot), validate it, write manifests
	$(BERT2CTC) data $(if $(filter demo,$(CONFIG)),demo,download --config '$(CONFIG)')
	$(BERT2CTC) data prepare '$(CONFIG)' $(OVERRIDES)

teacher: $(STAMP) ## train the masked language model of CONFIG, where it trains its own
	$(BERT2CTC) teacher train '$(CONFIG)' $(OVERRIDES)

teacher-cache: $(STAMP) ## score every token of every transcript once, into the Zarr store
	$(BERT2CTC) cache build '$(CONFIG)' $(OVERRIDES)

train: $(STAMP) ## train a student against the cache, without the teacher; GPUS=N uses N of them
	$(BERT2CTC) train '$(CONFIG)' $(RANKS) $(RUN_OPTION) $(OVERRIDES)

evaluate: $(STAMP) ## word error rates of a trained student, greedy CTC
	$(BERT2CTC) evaluate '$(if $(RUN),$(RUN),$(CONFIG))'

experiment: $(STAMP) ## several students, one cache, one table (CONFIG names a ladder)
	$(BERT2CTC) experiment '$(CONFIG)' --jobs '$(JOBS)' $(OVERRIDES)

report: $(STAMP) ## one page on the runs of a ladder (CONFIG) or on one run (RUN): report.html
	$(BERT2CTC) report '$(if $(RUN),$(RUN),$(CONFIG))' --out report.html --force

clean: ## remove test and build leftovers; never data, caches or runs
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf
