# Thin aliases: every target is one command that also works by hand with .venv activated.
# `make` alone lists them. PYTHON is only used to build .venv.
PYTHON ?= python3
BASE_PATH := $(PATH)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export NO_ALBUMENTATIONS_UPDATE := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo repro profile test test-slow lint format typecheck package check lock ui table notebook exps docs docs-serve report clean-scratch

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: export PATH := $(BASE_PATH)
setup: ## build .venv from the locks: TORCH=cpu, cuda or cuda12, WHEELS=folder offline (instant when it is current)
	@$(PYTHON) tools/bootstrap.py

setup-dev: export PATH := $(BASE_PATH)
setup-dev: ## setup, and what tests, style checks, the documentation site and Ray need
	@$(PYTHON) tools/bootstrap.py --dev

repro: setup ## run the pipeline; only what changed is run again
	@git rev-parse --git-dir >/dev/null 2>&1 || dvc config --local core.no_scm true # a source archive without .git
	dvc repro log # all stages; on real data all but the rendering of the demo's faces

demo: setup ## the whole pipeline on rendered faces, small, in the folder demo/ (profile quick)
	@test -e demo/params.yaml || { python -m ssfer init demo >/dev/null && cd demo && dvc config core.no_scm true; }
	@cd demo && ssfer profile quick --write && dvc repro report
	@echo "open $(CURDIR)/demo/metrics/report.html in a browser; 'make repro' runs the full demo"

profile: setup ## run with a profile: make profile PROFILE="paper ferplus" SET="split.labeled_fraction=0.05"
	python -m ssfer profile $(PROFILE) --run $(addprefix -S ,$(SET))

test: setup-dev ## fast tests on all cores, four at most: no network, no GPU
	python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-slow: setup-dev ## all tests, the long ones included
	python -m pytest -m "not gpu" -n auto --maxprocesses 4 --dist worksteal

lint: setup-dev ## style, formatting, and no images or large files under git
	ruff check .
	ruff format --check .
	python tools/check_files.py --all

format: setup-dev ## rewrite files in the project's style
	ruff check --fix .
	ruff format .

typecheck: setup-dev ## mypy
	mypy

package: setup-dev ## build the wheel, install it in an empty environment, run a small pipeline there (3 minutes)
	python -m tools.check_package

check: lint typecheck test ## what has to pass before a commit

# Everything but test figures and changed settings: hashes, other stages' figures, times.
HIDDEN := .*/|.*\.md$$|Created|evaluate\.(macro|cross|test)|split\.(labeled|valid|unlabeled|test)$$|finetune\.(loss|val)
HIDDEN := $(HIDDEN)|semisup\.(loss|val|util|pseudo)|pretrain\.(loss|images)|robustness\.[a-z]*$$
HIDDEN := $(HIDDEN)|(align|corpus|generate)\.[a-z_]*$$

exps: setup ## DVC's experiments: accuracy, mean recall, ECE and the settings that differ, at 120 columns
	dvc exp show --no-pager --only-changed --drop '$(HIDDEN)'

CPU_LOCK := requirements-torch-cpu.lock
CUDA12_LOCK := requirements-torch-cuda12.lock
CUDA12 := torch==2.10.0 torchvision==0.25.0 # the newest on PyPI that are built for CUDA 12
COMPILE := uv pip compile --universal --generate-hashes --no-header --python-version 3.11

# requirements.lock has what these extras need, requirements-dev.lock what the others need beyond it.
EXTRAS := detect synthetic clip export app video heif pipeline editable

lock: setup-dev ## compile the locks from pyproject.toml (needs uv, and PyTorch's own index for the one of the CPU builds)
	cat requirements.lock requirements-dev.lock >all.lock.new # versions that still fit stay
	$(COMPILE) pyproject.toml --all-extras -q -o all.lock.new
	$(COMPILE) pyproject.toml $(EXTRAS:%=--extra %) -c all.lock.new --no-annotate -q -o used.lock.new
	awk -F== '/^[a-z0-9]/{name=$$1} NR==FNR{used[name]; next} name in used' used.lock.new all.lock.new >requirements.lock
	awk -F== '/^[a-z0-9]/{name=$$1} NR==FNR{used[name]; next} !(name in used)' used.lock.new all.lock.new >requirements-dev.lock
	rm all.lock.new used.lock.new
	sed -nE 's/^(torch|torchvision)==([^ ]+).*/\1==\2+cpu/p' requirements.lock | $(COMPILE) - --no-deps --no-annotate \
	    -q --index "$$(sed -n 's/^--extra-index-url //p' $(CPU_LOCK))" -o $(CPU_LOCK).new
	{ grep -E '^--extra-index-url' $(CPU_LOCK); cat $(CPU_LOCK).new; } >$(CPU_LOCK).whole
	rm $(CPU_LOCK).new; mv $(CPU_LOCK).whole $(CPU_LOCK)
	printf '%s\n' $(CUDA12) | $(COMPILE) - --no-annotate -q -o $(CUDA12_LOCK).new
	{ grep '^#' $(CUDA12_LOCK); awk '/^[a-z]/{cuda=/^(torch|triton|nvidia-|cuda-)/} cuda' $(CUDA12_LOCK).new; } >$(CUDA12_LOCK).whole
	rm $(CUDA12_LOCK).new; mv $(CUDA12_LOCK).whole $(CUDA12_LOCK)

ui: setup ## MLflow's pages on this machine only
	@echo "the runs are under /#/experiments/1/runs?workflowType=machine_learning at the address below"
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --workers 1

table: setup ## write README.md's table and picture, docs/results/results.md and what-holds.md from metrics/
	python -m tools.readme
	python -m tools.picture

notebook: setup ## run the cells of docs/tutorials/notebook.md and write what they show
	python -m tools.notebook

docs: setup-dev ## the documentation site, site/index.html: no network, any warning is an error
	python -m tools.site

docs-serve: setup-dev ## the same site on 127.0.0.1, port 8000, built again when a page changes
	python -m tools.site --serve

report: ## say where the result page is
	@if [ -f metrics/report.html ]; then echo "open $(CURDIR)/metrics/report.html in a browser"; \
	else echo "no report yet; 'make repro' writes metrics/report.html"; fi

clean-scratch: ## delete resumable state, caches and plot pages; data, weights and metrics stay
	rm -rf .scratch dvc_plots .pytest_cache .ruff_cache .mypy_cache
