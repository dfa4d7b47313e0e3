# Every target does its own set-up; `make` alone lists them. The second run of `make setup` has nothing to do.
#
# TORCH is chosen in the same pip command as everything else: a CPU build that is not named there would be
# replaced by the newest CUDA build, several GB of it.

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
EXTRAS ?= dev

BIN   := $(VENV)/bin
READY := $(VENV)/.ready
# What builds the documentation is installed when it is first built.
DOCS_READY := $(VENV)/.ready-docs
SITE       := build/site

# The demo's size: enough steps to see the look and that it lasts, few enough for two cores.
DEMO               := outputs/demo
MODEL              ?= tiny
DEMO_STYLE_STEPS   ?= 1000
DEMO_MOTION_STEPS  ?= 240
DEMO_SAMPLER_STEPS ?= 20
DEMO_PROMPT        ?= On a dry street at night, a man in a white coat walks to the right as a black car drives to the left; the camera stands still.
export DEMO_PROMPT

TEST_WORKERS    ?= 2
PYTEST          := $(BIN)/python -m pytest
SYSTEM_PACKAGES := buildah crun debootstrap slurm-wlm munge

.DEFAULT_GOAL := help
.PHONY: help setup demo scale-model animatediff test test-system system-packages docs docs-links style check bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install the project into .venv (PYTHON=..., TORCH=... choose with what)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "cinelora needs Python 3.11 or newer, and '$(PYTHON)' is not: name one, as in make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo \
	  "'$(PYTHON)' cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Installing cinelora and $(TORCH) into $(VENV) (minutes the first time)"
	$(BIN)/python -m pip install --quiet --editable ".$(EXTRAS:%=[%])" "$(TORCH)"
	@touch $@

demo test test-system: export HF_HUB_OFFLINE = 1

demo: $(READY)  ## both stages on the embedded model, and a clip, in 10 minutes (MODEL=tiny_animatediff: on the other one)
	rm -rf $(DEMO)
	$(BIN)/python train.py stage=style model=$(MODEL) data=noir logger=csv lora.targets=all_linear stage.steps=$(DEMO_STYLE_STEPS) out=$(DEMO)/style
	$(BIN)/python train.py stage=motion model=$(MODEL) data=noir logger=csv lora.targets=all_linear stage.steps=$(DEMO_MOTION_STEPS) adapter=$(DEMO)/style \
	  out=$(DEMO)/motion
	$(BIN)/python infer.py ckpt=$(DEMO)/motion compare=true sampler.steps=$(DEMO_SAMPLER_STEPS) out=$(DEMO)/scene "prompt=$$DEMO_PROMPT"
	@cd $(DEMO)/scene && ls clip.mp4 contact.png summary.json > /dev/null
	@printf '%-30s %s\n' "" "" "The clip:" $(DEMO)/scene/clip.mp4 "Base model and adapters:" $(DEMO)/scene/contact.png \
	  "Settings, seconds and memory:" $(DEMO)/scene/summary.json

# The embedded model from nothing, on a GPU; docs/scale-model.md says how the shipped one was made.
SCALE := outputs/scale-model
PAIR  := model.t2v=$(SCALE)/pair/t2v model.i2v=$(SCALE)/pair/i2v cache=$(SCALE)/cache
GPUS  ?= 1
FAST  := logger=csv gpus=$(GPUS) model.compile_blocks=true
I2V_STEPS ?= 20000

scale-model: $(READY)  ## train the embedded model again, into outputs/scale-model/pair
	$(BIN)/python -m tools.scale_model encoders out=$(SCALE)/pair workers=8
	$(BIN)/python train.py stage=pretrain data=rendered recipe=scale_model $(PAIR) $(FAST) out=$(SCALE)/t2v
	$(BIN)/python -m tools.scale_model adopt pair=$(SCALE)/pair run=$(SCALE)/t2v
	$(BIN)/python train.py stage=pretrain data=rendered recipe=scale_model $(PAIR) $(FAST) out=$(SCALE)/i2v \
	  stage.transformer=i2v stage.image_condition=true stage.stills=0 dropout.image=0 stage.steps=$(I2V_STEPS)
	$(BIN)/python -m tools.scale_model adopt pair=$(SCALE)/pair run=$(SCALE)/i2v

animatediff: $(READY)  ## train the embedded AnimateDiff from nothing, into outputs/animatediff
	$(BIN)/python -m tools.scale_model animatediff out=outputs/animatediff workers=8 \
	  vae_limit_s=150 text_limit_s=30 image_limit_s=210 motion_limit_s=180
	$(BIN)/python benchmarks/animatediff_model.py model=outputs/animatediff work=outputs/animatediff-work

# One thread a process: the tests run side by side, and their tensors are small.
test test-system: export OMP_NUM_THREADS = 1

test: $(READY)  ## the test suite: Python only, no root, no network
	$(PYTEST) -m "not system" -n $(TEST_WORKERS) --dist worksteal

test-system: $(READY) system-packages  ## what needs root and Debian packages; says what it skips and why
	$(PYTEST) -m system tests/system

# As root the packages are installed; whoever is not root gets the tests skipped with their reason.
system-packages:
	@dpkg-query --show $(SYSTEM_PACKAGES) > /dev/null 2>&1 || [ "$$(id -u)" != 0 ] || { \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(SYSTEM_PACKAGES); } || true

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --editable ".[docs$(EXTRAS:%=,%)]" "$(TORCH)"
	@touch $@

docs: $(DOCS_READY)  ## the documentation site, in build/site; a warning fails it
	$(BIN)/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet docs $(SITE)
	@echo "Open $(SITE)/index.html in a browser; search works without a server."

docs-links: $(DOCS_READY)  ## ask every address outside the project that the documentation links to (needs a network)
	$(BIN)/python -m sphinx --builder linkcheck --fresh-env --quiet docs build/links

style: $(READY)  ## format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# pip calls decord's old platform tag unsupported although the library runs: that line alone is let through.
check: $(READY)  ## look at style, types and installed packages; change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@! $(BIN)/python -m pip check | grep -vE '^(No broken requirements found\.|decord .* is not supported on this platform)$$'

bench: $(READY)  ## time training and cache reads against a bare loop, and watch memory over 2,000 steps
	$(BIN)/python benchmarks/train_loop.py
	$(BIN)/python benchmarks/cache_reads.py
	$(BIN)/python benchmarks/host_memory.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/validation_cost.py

clean:  ## remove the virtual environment, the demo and what tools leave behind; your runs stay
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
