# Two commands: `make bench` measures, `make test` tests. Both set up what they need; both may be run twice.
# `make check` is the quick part of `make test`, about a minute and a half on two cores.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Errors belong to no machine: they are measured in the arithmetic that all machines share. Costs belong to this one.
SHARED ?= shared-x86-64-local
MACHINE ?= local

# uv does not read pip's own setting for packages that lie on the machine.
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(PIP_FIND_LINKS))
comma := ,
empty :=
space := $(empty) $(empty)

# What `make bench` measures: four releases, one for each way that TransformerLens loads models. Of the two models that
# stand for TransformerLens issue 496's every option, of all the others no option and all of them.
BENCH_TAGS ?= v1.19.0 v2.18.0 v3.5.1 v4.3.0
BENCH_FULL := 'zoo-(gpt2|mistral)', 'float32'
BENCH_OTHERS := '(zoo-[^']*|smollm2-135m)', ('float32', '(unprocessed|all_options)'|'b?float16', 'all_options')
BENCH ?= (accuracy\.(Logit|Processing\.track_changed_weights)|truth\.TransformerLens).*\(($(BENCH_FULL)|$(BENCH_OTHERS))
# And of the newest of them, what it costs beside HuggingFace.
BENCH_COSTS ?= runtime\.(Slowdown|Interval|HuggingFace)\.track_forward\('(zoo-gpt2|zoo-llama|smollm2-135m)', 'float32',\
 ('unprocessed', 'TransformerBridge'|'all_options', 'HookedTransformer'), '1x64', 'cpu'

# How many processes the tests are spread over. One needs up to 3 GiB.
JOBS ?= 2

.PHONY: bench check test lint canaries perf lock clean

bench: $(BIN)/tlbench
	$(BIN)/tlbench checkpoints
	$(BIN)/tlbench golden
	$(BIN)/tlbench history
	$(BIN)/python -m asv_plugins.machine $(MACHINE)
	for tag in $(BENCH_TAGS); do git -C releases/TransformerLens.git rev-parse "$$tag^{commit}" || exit 1; done \
		> releases/.bench-commits
	@# asv's exit status 2 says that some cells failed, which is a result.
	cd releases && PATH="$(CURDIR)/$(BIN):$$PATH" asv run --machine $(SHARED) --skip-existing \
		--bench "$(BENCH)" HASHFILE:.bench-commits || test $$? -eq 2
	cd releases && tail -n 1 .bench-commits | PATH="$(CURDIR)/$(BIN):$$PATH" asv run --machine $(MACHINE) --skip-existing \
		--bench "$(BENCH_COSTS)" HASHFILE:- || test $$? -eq 2
	cd releases && PATH="$(CURDIR)/$(BIN):$$PATH" asv publish
	$(BIN)/tlbench table --config releases/asv.conf.json --machine $(SHARED) --space logit --option all_options \
		$(addprefix --commit=,$(sort $(or $(word 2,$(BENCH_TAGS)),$(BENCH_TAGS)) $(lastword $(BENCH_TAGS))))
	-$(BIN)/tlbench verdicts --config releases/asv.conf.json --machine $(SHARED) --model smollm2-135m \
		--commit $(lastword $(BENCH_TAGS))
	-$(BIN)/tlbench costs --config releases/asv.conf.json --machine $(MACHINE) --commit $(lastword $(BENCH_TAGS))
	@echo "The site is releases/html/index.html; to open it: cd releases && ../$(BIN)/asv preview --browser"
	@echo "More tables: cd releases && ../$(BIN)/tlbench table --help"

check: lint
	$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder -m "not slow and not e2e" --ignore=tests/canaries

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder

lint: $(BIN)/tlbench
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What we use of other projects' private parts. `make canaries LATEST=1` tries their newest releases, not the pinned ones.
canaries: $(BIN)/tlbench
	$(BIN)/python $(if $(LATEST),-m tools.canaries --latest,-m pytest tests/canaries)

perf: $(BIN)/tlbench
	@$(BIN)/python -m tools.perf

# Resolve pyproject.toml anew; what stands in the lock stays as it is where it can. A build of torch brings packages of its
# own along, which are the machine's choice and in no lock.
lock: $(BIN)/tlbench
	$(BIN)/uv pip compile --quiet --no-header --no-annotate --python-version 3.11 --group dev \
		--output-file requirements.lock pyproject.toml
	sed -i -E '/^(nvidia-|cuda-|triton==)/d' requirements.lock

clean:
	rm -rf $(VENV) .asv releases/.asv html releases/html releases/TransformerLens.git transformer-lens

$(BIN)/tlbench: requirements.lock pyproject.toml
	@# asv and the locks of TransformerLens's eras are for this one: find out now, not after everything is prepared.
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] == (3, 11) else \
		f"Python 3.11 is needed and {sys.executable} is {v[0]}.{v[1]}: install it, or name it: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^uv==' requirements.lock)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirements requirements.lock \
		$${TLBENCH_TORCH_BACKEND:+--torch-backend "$$TLBENCH_TORCH_BACKEND"}
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@
