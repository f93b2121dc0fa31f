# Two commands: `make bench` measures, `make test` tests. Both set up what they need; both may be run twice.
# `make check` is the quick part of `make test`, about a minute on two cores.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Errors belong to no machine: they are measured in the arithmetic that all machines share. Costs belong to this one.
SHARED ?= shared-x86-64-local
MACHINE ?= local

# Without bytecode, which some container images switch off, every process compiles torch and transformers anew: imports take
# three times as long.
unexport PYTHONDONTWRITEBYTECODE

# uv does not read pip's own setting for packages that lie on the machine.
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(PIP_FIND_LINKS))
comma := ,
empty :=
space := $(empty) $(empty)

# What `make bench` measures: four releases, the newest first, one for each way that TransformerLens loads models. Of the two
# models that stand for TransformerLens issue 496's every option, of all the others no option and all of them. The one real
# model takes as long as all of the zoo, so it is not measured in float16.
BENCH_TAGS ?= v4.3.0 v3.5.1 v2.18.0 v1.19.0
BENCH_NEWEST = $(firstword $(BENCH_TAGS))
BENCH_OLDER = $(or $(word 3,$(BENCH_TAGS)),$(lastword $(BENCH_TAGS)))
BENCH_FULL := 'zoo-(gpt2|mistral) [^']*', 'float32'
BENCH_OTHERS := 'zoo-[^']*', ('float32', '(unprocessed|all_options)'|'b?float16', 'all_options')
BENCH_REAL := 'smollm2-135m [^']*', ('float32', '(unprocessed|all_options)'|'bfloat16', 'all_options')
BENCH ?= (accuracy\.(Logit|Processing\.track_changed_weights)|truth\.TransformerLens).*\(($(BENCH_FULL)|$(BENCH_OTHERS)|$(BENCH_REAL))
# The models that need no Hub, in the order in which asv measures them.
BENCH_MODELS ?= $(shell sed -nE 's/^name = "(zoo-.*|smollm2-135m)"/\1/p' tlbench/catalogue.toml)
# Everything that asv prints; the terminal gets a line for each release.
BENCH_LOG := $(CURDIR)/releases/.asv/bench.log
BENCH_ASV = cd releases && PATH="$(CURDIR)/$(BIN):$$PATH" TLBENCH_LOG="$(BENCH_LOG)" asv
# And of the newest of them, what it costs beside HuggingFace.
BENCH_COSTS ?= runtime\.(Slowdown|Interval|HuggingFace)\.track_forward\('(zoo-gpt2|smollm2-135m)\
 (TransformerBridge', 'unprocessed'|HookedTransformer', 'all_options'), 'float32 1x64 cpu'

# How many processes the tests are spread over. One needs up to 3 GiB.
JOBS ?= 2

.PHONY: bench check test lint canaries perf lock clean

bench: $(BIN)/tlbench
	@mkdir -p $(dir $(BENCH_LOG)) && : > "$(BENCH_LOG)"
	@echo "Making $(words $(BENCH_MODELS)) checkpoints and a repository of releases; the first verdicts come in about 4 minutes."
	@# The releases and asv's environment wait for the network, checkpoints for the processor. `asv setup` always exits with 1.
	@{ $(BIN)/tlbench history && cd releases && { PATH="$(CURDIR)/$(BIN):$$PATH" asv setup || true; }; } >> "$(BENCH_LOG)" 2>&1 & other=$$!; \
		$(BIN)/tlbench checkpoints --quiet $(BENCH_MODELS) || echo "Going on without them."; \
		wait $$other || { tail -n 1 "$(BENCH_LOG)" >&2; exit 1; }
	@$(BIN)/python -m asv_plugins.machine $(MACHINE)
	@for tag in $(BENCH_TAGS); do git -C releases/TransformerLens.git rev-parse "$$tag^{commit}" || exit 1; done \
		> releases/.bench-commits
	@# Goldens are computed while asv installs and imports the first release, in the order in which it needs them. Costs wait
	@# for their end. asv's exit status 2 says that some cells failed, which is a result.
	@$(BIN)/tlbench golden $(BENCH_MODELS) >> "$(BENCH_LOG)" 2>&1 & other=$$!; trap 'kill $$other 2>/dev/null' EXIT; \
		( $(BENCH_ASV) run --machine $(SHARED) --skip-existing --bench "$(BENCH)" HASHFILE:.bench-commits ) || \
		test $$? -eq 2 || exit 1; wait $$other || tail -n 1 "$(BENCH_LOG)"
	@head -n 1 releases/.bench-commits | ( $(BENCH_ASV) run --machine $(MACHINE) --skip-existing \
		--bench "$(BENCH_COSTS)" HASHFILE:- ) || test $$? -eq 2
	@$(BENCH_ASV) publish --html-dir "$(CURDIR)/html"
	-@$(BIN)/tlbench table --config releases/asv.conf.json --machine $(SHARED) --space logit --option all_options \
		--model smollm2-135m $(addprefix --commit=,$(sort $(BENCH_OLDER) $(BENCH_NEWEST)))
	@echo "Site: html/index.html; to open it: $(BIN)/asv preview --browser"
	@echo "More: cd releases && ../$(BIN)/tlbench verdicts --machine $(SHARED) --commit $(BENCH_NEWEST)   All figures: $(BENCH_LOG)"

check: $(BIN)/tlbench
	@$(MAKE) --no-print-directory lint & lint=$$!; \
		$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder -m "not slow and not e2e" --ignore=tests/canaries; \
		tests=$$?; wait $$lint && exit $$tests

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
