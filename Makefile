# Main targets: `make demo` and `make test`. Both work on a fresh machine with Python and venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c requirements.lock

FACES := data/orl-faces
FACES_64 := data/orl-faces-64
RUN := runs/demo
# On two cores, two ranks of one thread were slower than one rank of two threads.
RANKS ?= 1
# The networks are small; more threads than this were not tried.
DEMO_ENVIRONMENT := OMP_NUM_THREADS=$(shell nproc | awk '{print ($$1 < 4) ? $$1 : 4}')

# So that the demo can run beside another run.
FREE_PORT := $(BIN)/python -c "import socket; s = socket.create_server(('', 0)); print(s.getsockname()[1])"

.PHONY: demo test test-fast gpu lint install clean

install: $(INSTALLED)

# torch comes first, so that no other package pulls another build of it and the kernels can be
# compiled against it (hence no build isolation).
$(INSTALLED): requirements.lock pyproject.toml setup.py
	@echo "Step 1 of 3: making a Python environment in $(VENV), downloading PyTorch"
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch==2.13.0
	@echo "Step 2 of 3: installing the tools that compile the kernels"
	$(PIP_INSTALL) setuptools wheel ninja
	@echo "Step 3 of 3: installing the other packages and compiling the kernels; pip shows no output of"
	@echo "the compiler. All steps took 3 minutes on two busy cores, without the downloads."
	$(PIP_INSTALL) --no-build-isolation -e ".[dev,dali,offline-features,export,video]"
	touch $@

$(FACES): | $(INSTALLED)
	$(BIN)/python launch/fetch_faces.py $@

$(FACES_64): | $(FACES)
	$(BIN)/python launch/prepare.py $(FACES) $@ --resolution 64

demo: $(INSTALLED) $(FACES_64)
	$(DEMO_ENVIRONMENT) $(BIN)/deepspeed --num_gpus $(RANKS) --master_port $$($(FREE_PORT)) launch/train_ffhq.py \
		--preset demo --data $(FACES_64) --run-dir $(RUN)
	$(BIN)/python launch/film.py $(RUN)
	@echo "film:        $(RUN)/film.gif (samples, and D's distributions beside the anchors)"
	@echo "sample grid: $$(ls $(RUN)/samples/0*.png | tail -n 1)"
	@echo "report:      $(RUN)/report.html"

# Workers get whole files, because tests of one file share expensive fixtures. There is one more than
# there are cores, because tests of processes mostly wait.
WORKERS := $(shell expr $$(nproc) + 1)
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTEST)

# Leaves out the tests that take several seconds each.
test-fast: $(INSTALLED)
	$(PYTEST) -m "not slow"

# On a machine with a GPU: tests, sanitizers and benchmarks, with the interpreter $(PYTHON) as it is.
# STAGES="tests steps" runs these again; without it, all that have not passed yet.
gpu:
	$(PYTHON) benchmarks/gpu.py $(STAGES)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) build runs data
