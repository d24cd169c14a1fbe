# Two commands on a fresh machine: `make repro` and `make test`. Both create .venv and install into it first.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: help setup setup-dev start try repro report test lint bench clean-work
SHOW := cat metrics/report/report.md && echo \
	&& echo "Every sample: metrics/report/index.html, in any browser" \
	&& echo "Pictures: metrics/synth, metrics/masks, metrics/fidelity, metrics/detection, metrics/plots"

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14

start: setup  ## FOLDER=...: settings for your own pictures, with reasons; asks before it writes params.yaml
	@test -n "$(FOLDER)" || { echo "make start FOLDER=path/to/your/pictures" >&2; exit 2; }
	@python -m lib.start "$(FOLDER)" $(ARGS)

try: setup  ## one rendered category end to end in minutes, in a folder of its own
	@python -m lib.trial

repro: setup  ## run what changed of the whole pipeline, print the table, say where the pictures are
	python -m lib.repro
	@$(SHOW)

report: setup  ## the same for what the report needs: not for the demonstration's pictures, nor for exports
	python -m lib.repro report
	@$(SHOW)

test: setup-dev  ## all tests, offline
	python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: setup-dev  ## style and types
	ruff check .
	ruff format --check .
	mypy

bench: setup-dev  ## speed and memory beside what one would do without Blemish
	python bench/synth.py
	python bench/finetune.py
	python bench/metrics.py

clean-work:  ## forget unfinished work of killed stages, and trained seeds that are kept for other thresholds
	rm -rf .work

setup: .venv/ready  ## install what running needs

setup-dev: .venv/ready-dev  ## install what testing needs, too

$(BIN)/python:
	@case "$(PYTHON)" in \
	  *python3.11) ;; \
	  "") echo "Python 3.11, 3.12 or 3.13 is needed and none was found on the PATH" >&2; exit 1 ;; \
	  *) echo "Going on with $$($(PYTHON) --version) instead of Python 3.11; where no CPU wheel of torch for it is at hand, pip fetches the CUDA build (6 GB in all)" >&2 ;; \
	esac
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed, found $$($(PYTHON) --version)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	python -m pip install --quiet --upgrade pip

.venv/ready: requirements.txt | $(BIN)/python
	python -m pip install --quiet --requirement requirements.txt
	@touch $@

.venv/ready-dev: requirements-dev.txt .venv/ready | $(BIN)/python
	python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@
