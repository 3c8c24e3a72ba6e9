# Every command of the project. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
# What .venv is for; it is made anew for another platform.
comma := ,
INSTALLED := $(shell cat $(VENV)/.installed 2>/dev/null)
PLATFORM  ?= $(or $(INSTALLED),cpu)
# Compilers for accelerators that need not be there; outside what JAX looks through when it starts.
COMPILERS := $(VENV)/compilers

SCALE    ?= small
EXP      ?= g_logistic
CONFIG   ?= g_mlp:small
DATASETS ?= mnist
FROM     ?=
SERVE    ?=
ROOT     ?=
ARGS     ?=
RUN      ?=
CHECKPOINTS ?=
LOSS     ?=
DATA     ?=
DRY      ?=
LAUNCH   ?=
STATUS   ?=
TOPOLOGY ?=
COMPARE  ?=
TPU      ?=

# The shell takes these as they stand from the environment, and so never runs what a name may hold.
override RUN := $(value RUN)
override CHECKPOINTS := $(value CHECKPOINTS)
override LOSS := $(value LOSS)
override DATA := $(value DATA)
override COMPARE := $(value COMPARE)
export RUN CHECKPOINTS LOSS DATA COMPARE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-fast lint dist data train measure sweep experiment reproduce report docs archive plan compilers doctor chaos fuzz bench bench-gpu bench-large bench-scale bench-train soak clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## make .venv and install the pinned versions: [PLATFORM=cpu|cuda12|cuda13|tpu]

$(VENV)/.installed: pyproject.toml constraints.txt $(if $(filter-out $(PLATFORM),$(INSTALLED)),FORCE)
	@$(if $(filter cpu cuda12 cuda13 tpu,$(PLATFORM)),:,echo "error: PLATFORM must be cpu, cuda12, cuda13 or tpu, got $(PLATFORM)"; exit 2)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed, $$($(PYTHON) --version) came; run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@echo "installing for $(PLATFORM) into $(VENV) (about a minute)"
	@$(PYTHON) -m venv $(if $(filter-out $(PLATFORM),$(INSTALLED)),--clear) $(VENV)
	@# Python compiles the few modules that are used, at their first import, in less time than pip takes for all.
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt \
	  -e '.[dev$(addprefix $(comma),$(filter-out cpu,$(PLATFORM)))]' || \
	  { echo "error: pip could not install what hessflat needs, as it says above; without a network, set PIP_INDEX_URL to a mirror, then run make setup again" >&2; exit 1; }
	@echo $(PLATFORM) > $@

FORCE:

demo: setup ## the weight-decay study on real digits, from nothing to verdicts, in 90 seconds once installed
	@$(PY) -m hessflat demo

# Compiling is most of what tests take. Only tests marked `exact` need programs that are compiled as users compile them.
# Pytest ends with 5 where ARGS leave nothing to run, which is an error where both parts do.
tests_of = JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PY) -m pytest -m "$(1) and not exact" $(ARGS); \
  first=$$?; [ $$first -eq 0 ] || [ $$first -eq 5 ] || exit $$first; \
  $(PY) -m pytest -m "$(1) and exact" $(ARGS); second=$$?; [ $$second -eq 5 ] && exit $$first; exit $$second

test: setup ## every test but the long ones, in some 14 minutes on two cores
	@echo "two parts, some 14 minutes on two cores"
	@$(call tests_of,not long)

test-long: setup ## whole trainings, golden steps of convolutional networks, a run killed at every moment, in some 35 minutes
	@echo "two parts, some 35 minutes on two cores"
	@$(call tests_of,long)

test-fast: setup ## the tests that take a second at most
	@JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PY) -m pytest -m "not slow and not long" $(ARGS)

lint: setup ## style, formatting and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

# Built and checked by tools of their own environment, then installed into an empty one, where the library is used, and
# an experiment is run in a folder without the project.
dist: ## the sdist and the wheel in dist/, checked; the README's example and an experiment run from the wheel
	@rm -rf dist build && $(PYTHON) -m venv --clear $(VENV)-dist
	@$(VENV)-dist/bin/pip install --quiet --disable-pip-version-check build twine
	@$(VENV)-dist/bin/python -m build --outdir dist . > /dev/null
	@$(VENV)-dist/bin/twine check --strict dist/*
	@$(PYTHON) -m venv --clear $(VENV)-dist && $(VENV)-dist/bin/pip install --quiet --disable-pip-version-check dist/*.whl
	@sed -n '/^```python/,/^```$$/{/^```/d;p}' README.md > dist/example.py
	@cd dist && ../$(VENV)-dist/bin/python example.py && rm example.py
	@mkdir -p dist/empty && cd dist/empty && ../../$(VENV)-dist/bin/hessflat experiment g_mlp --scale=smoke
	@rm -rf dist/empty
	@rm -rf $(VENV)-dist build

data: setup ## prepare data sets through TFDS: DATASETS="mnist cifar10" [FROM=folder of archives]
	@$(PY) -m hessflat data prepare $(DATASETS) $(if $(FROM),--from "$(FROM)") $(ARGS)

train: setup ## train and measure one configuration: CONFIG=g_mlp:small [ARGS="--config.optim.lr=0.1"], or go on with RUN=runs/… and mend it
	@$(PY) -m hessflat train $(if $(RUN),--run="$$RUN",--config="$(CONFIG)") $(ARGS)

# Where runs are run, and how far they are; of sweep, experiment and reproduce.
RUNNING = $(if $(LAUNCH),--launch="$(LAUNCH)") $(if $(STATUS),--status="$(STATUS)") $(ARGS)

sweep: setup ## run every entry of a configuration's sweep: CONFIG=g_mlp:small [ARGS=…, LAUNCH=slurm submits, STATUS=1 says how far]
	@$(PY) -m hessflat sweep --config="$(CONFIG)" $(RUNNING)

measure: setup ## measure a run's checkpoints again: RUN=runs/… [ARGS="--steps=last"], or any model's: CHECKPOINTS=folder LOSS=module:function DATA=module:object
	@$(PY) -m hessflat measure $(if $(CHECKPOINTS),--checkpoints="$$CHECKPOINTS" --loss="$$LOSS" --data="$$DATA",--run="$$RUN") $(ARGS)

experiment: setup ## one experiment end to end: EXP=g_logistic SCALE=smoke|small|medium|paper [ARGS="--seeds=10 --config.optim.l2=0,1e-3", a variant]
	@$(PY) -m hessflat experiment --exp="$(EXP)" --scale=$(SCALE) $(RUNNING)

reproduce: setup ## every experiment of the papers and one report, continued where it stopped: SCALE=small|paper [DRY=1 lists runs and hours]
	@$(PY) -m hessflat reproduce --scale=$(SCALE) $(if $(DRY),--dry=1) $(RUNNING)

report: setup ## redraw every figure and verdict from what is stored, without training [FROM=docs/results, a folder of archives]; SERVE=1 shows running ones live [ROOT=runs]
	@$(PY) -m hessflat report $(if $(FROM),--from="$(FROM)") $(if $(SERVE),--serve="$(SERVE)") $(if $(ROOT),--root="$(ROOT)") $(ARGS)

# MkDocs ends with an error where a link leads nowhere or a name is not in the sources.
docs: setup build/report/index.html ## the documentation in site/, from nothing but what is here, warnings being errors [SERVE=1 shows it]
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs $(if $(SERVE),serve,build --strict --quiet) -f docs/mkdocs.yml
	@cp -r build/report site/report && echo site/index.html

# The report that the site holds takes minutes, so it is drawn anew only where what it is made of changed.
build/report/index.html: $(wildcard docs/results/*.tar.xz hessflat/analysis/*.py hessflat/report/*.py hessflat/report/figures/*.py hessflat/report/templates/*) | setup
	@$(PY) -m hessflat report --from=docs/results --out=build/report

archive: setup ## pack finished runs for keeping, a file for each experiment and scale: [ARGS="--root=runs --out=results"]
	@$(PY) -m hessflat archive $(ARGS)

plan: setup $(if $(TOPOLOGY),compilers) ## what measuring takes: CONFIG=g_wrn:paper [TOPOLOGY=h100:8, on accelerators that need not be there]
	@PYTHONPATH=$(COMPILERS) $(PY) -m hessflat plan --config="$(CONFIG)" $(if $(TOPOLOGY),--topology="$(TOPOLOGY)") $(ARGS)

# Of JAX's own version, and without the libraries that run what they compile.
compilers: $(COMPILERS)/.installed $(if $(TPU),$(COMPILERS)/.tpu) ## what compiles for H100s without one, in a folder of its own (130 MB); TPU=1 for TPUs too (200 MB)

$(COMPILERS)/.installed: $(VENV)/.installed
	@version=$$($(PY) -c 'import jax; print(jax.__version__)'); \
	  $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(COMPILERS) \
	  jax-cuda13-plugin==$$version jax-cuda13-pjrt==$$version
	@touch $@

# Of the version that JAX asks for.
$(COMPILERS)/.tpu: $(COMPILERS)/.installed
	@asked=$$($(PY) -c 'from hessflat.curvature.diagnostics import targets; print(targets.requirement_of_jax("libtpu"))'); \
	  $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(COMPILERS) "$$asked"
	@touch $@

doctor: setup ## versions, devices, data, free disk, and a curvature product against a dense matrix
	@$(PY) -m hessflat doctor

chaos: setup ## runs are damaged, stopped and killed, and compared with undisturbed ones, in ten minutes [ARGS="--seed=1 --only=edits"]
	@$(PY) -m benchmarks.chaos $(ARGS)

fuzz: setup ## 2,000 random library calls, compared with float64, and 4,500 random settings, in half an hour [ARGS="--seed=1 --only=trace,plans:7"]
	@$(PY) -m benchmarks.fuzz $(ARGS)

bench: setup ## hessflat beside every peer that is installed (pip install -e '.[bench]') in 15 minutes, then docs/benchmarks.md [ARGS=--long for W3 and W4], or beside a commit with COMPARE=HEAD~1
	@$(if $(COMPARE),$(PY) -m benchmarks.compare --commit="$$COMPARE" $(ARGS),$(PY) -m benchmarks.run $(ARGS) && $(PY) -m benchmarks.document)

bench-gpu: setup ## the same on a GPU in one call of at most ten minutes, with what only an accelerator can say
	@$(PY) -m benchmarks.run --gpu $(ARGS)
	@$(PY) -m benchmarks.document

bench-large: setup ## a basis of 36.5 million parameters and 100 steps, each way of keeping it (15 GB free) [ARGS="--storage=half"]
	@$(PY) -m benchmarks.large $(ARGS)

bench-scale: setup ## what virtual devices and processes add to training, products and Lanczos, then docs/benchmarks-scaling.md
	@$(PY) -m benchmarks.scaling.run $(ARGS)
	@$(PY) -m benchmarks.scaling.document

bench-train: setup ## training beside a plain JAX loop and PyTorch, then docs/benchmarks-training.md [ARGS="--only=mlp --repeats=3"]
	@$(PY) -m benchmarks.training.run $(ARGS)
	@$(PY) -m benchmarks.training.document

soak: setup ## two hours of a sweep with measurements, and whether its memory and time a step stay flat [ARGS="--minutes=10"]
	@$(PY) -m benchmarks.soak $(ARGS)

clean: ## remove caches and .venv; runs and reports stay
	@rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
