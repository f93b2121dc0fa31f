"""What does it cost? Time and memory of TransformerLens relative to HuggingFace.

Machine noise affects seconds but cancels in ratios: both sides take turns in one process. The slowdown is the mean, over
several interpreters, of the median ratio over rounds. ``Process...`` classes are asv's own measures.
"""

from operator import attrgetter

from benchmarks.cell import GridOfEnds, SharedRun, answer, figure, or_skip, skip_if
from tlbench import Dtype, Option
from tlbench.arithmetic import Lane, wanted
from tlbench.catalogue import load
from tlbench.costs.registry import IMPORT, MEMORY, SCALING, SLOWDOWN
from tlbench.grid import Device, Import, Operation, RuntimeCell, words_of

SHORT = "1x64"
RUNS = [f"float32 {SHORT} cpu", f"float32 {SHORT} cuda", "bfloat16 8x128 cuda"]
"""The runs that are timed: short ones show what calls cost, and on a GPU large ones what arithmetic costs."""


class NativeRun(SharedRun):
    """A benchmark of time or memory. These hold for one machine only, so the shared arithmetic has none."""

    def setup(self, *cell):
        skip_if(wanted() is not Lane.NATIVE, "times hold for one machine only: name it with `asv run --machine NAME`")


class GridOfRuns(NativeRun):
    """A benchmark over models in the wrappers that load them x no option or all x runs."""

    params = [load().loadable(), GridOfEnds.params[2], RUNS]
    param_names = ["model and wrapper", "option", "dtype, shape and device"]

    def ask(self, question, operation, *cell):
        return answer(question, RuntimeCell(*words_of(*cell), operation))


class _ByOperation(GridOfRuns):
    """One figure per operation, which ``read`` takes from the answer to ``question``."""

    unit = "ratio"

    def figure(self, operation, *cell):
        return self.read(self.ask(self.question, operation, *cell))

    def track_forward(self, *cell):
        return self.figure(Operation.FORWARD, *cell)

    def track_cache(self, *cell):
        return self.figure(Operation.CACHE, *cell)

    def track_backward(self, *cell):
        return self.figure(Operation.BACKWARD, *cell)

    def track_generation(self, *cell):
        return self.figure(Operation.GENERATION, *cell)


class Slowdown(_ByOperation):
    """TransformerLens's time over HuggingFace's with eager attention, which TransformerLens also computes."""

    question, read = SLOWDOWN, attrgetter("eager.ratio")

    def track_hooks(self, *cell):
        return self.figure(Operation.HOOKS, *cell)


class SlowdownToDefault(Slowdown):
    """TransformerLens's time over HuggingFace's with its default attention, which you would run without TransformerLens."""

    read = attrgetter("default.ratio")


class Interval(Slowdown):
    """How far chance moves the slowdown from one run to the next: half-width of its 99 % interval, relative to it."""

    unit, read = "relative half-width", attrgetter("eager.half_width")


class HuggingFace(Slowdown):
    """HuggingFace's own time, with eager attention, in the same rounds."""

    unit, read = "seconds", attrgetter("eager_seconds")


class Memory(_ByOperation):
    """Peak memory of one run beyond its model, over HuggingFace's with eager attention, and what is never given back."""

    question, read = MEMORY, attrgetter("ratio")

    def track_leak(self, *cell):
        return self.ask(MEMORY, Operation.CACHE, *cell).kept_bytes

    track_leak.unit = "bytes a run"


class Growth(GridOfRuns):
    """Growth exponents over the largest sizes that were run: 1 is linear, 2 quadratic."""

    unit = "exponent"

    def track_time_by_length(self, *cell):
        return self.exponent("time", "length", *cell)

    def track_time_by_batch(self, *cell):
        return self.exponent("time", "batch", *cell)

    def track_time_by_depth(self, *cell):
        return self.exponent("time", "depth", *cell)

    def track_memory_by_length(self, *cell):
        return self.exponent("memory", "length", *cell)

    def track_memory_by_batch(self, *cell):
        return self.exponent("memory", "batch", *cell)

    def exponent(self, kind, axis, *cell):
        scaling = self.ask(SCALING, Operation.FORWARD, *cell)
        growth = getattr(scaling, kind)(axis)
        return figure(growth and growth.exponent, scaling.reasons.get(axis, "n/a: too few sizes to fit a line"))


class GridOfLoads(NativeRun):
    """A benchmark of loading over models in the wrappers that load them x option, in float32 on the CPU."""

    params = [load().loadable(), [str(Dtype.FLOAT32)], [*map(str, Option)]]
    param_names = GridOfEnds.param_names

    def cell(self, operation, *parameters):
        return RuntimeCell(*words_of(*parameters, SHORT, Device.CPU), operation)


class _OneSlowdown:
    """A slowdown and its interval."""

    def track_slowdown(self, *cell):
        return self.slowdown(*cell).eager.ratio

    def track_interval(self, *cell):
        return self.slowdown(*cell).eager.half_width

    track_slowdown.unit = "ratio"
    track_interval.unit = "relative half-width"


class Loading(GridOfLoads, _OneSlowdown):
    """Loading time over HuggingFace's. With a processing option: the time of processing alone over HuggingFace's loading."""

    def slowdown(self, *parameters):
        operation = Operation.LOADING if Option.UNPROCESSED in parameters else Operation.PROCESSING
        return answer(SLOWDOWN, self.cell(operation, *parameters))


class Imports(NativeRun, _OneSlowdown):
    """Time of ``import transformer_lens`` over that of torch and transformers' models, in fresh interpreters."""

    def slowdown(self):
        return answer(IMPORT, Import())

    def timeraw_import(self):
        return "import transformer_lens"


class Process(GridOfRuns):
    """Seconds and peak resident bytes as asv measures them, in its own process that imports TransformerLens."""

    rounds = 1

    def setup(self, *cell):
        super().setup(*cell)
        from tlbench.costs import process as costs  # imports torch, which asv's other processes do not need

        self.model = or_skip(costs.loaded, RuntimeCell(*words_of(*cell), Operation.FORWARD))
        self.model.rest()

    def time_forward(self, *cell):
        self.model.run(Operation.FORWARD)

    def time_hooks(self, *cell):
        self.model.run(Operation.HOOKS)

    def time_cache(self, *cell):
        self.model.run(Operation.CACHE)

    def time_backward(self, *cell):
        self.model.run(Operation.BACKWARD)

    def time_generation(self, *cell):
        self.model.run(Operation.GENERATION)

    peakmem_forward, peakmem_cache, peakmem_backward = time_forward, time_cache, time_backward


class _ProcessLoads(GridOfLoads):
    """Loads in asv's own process."""

    rounds = 1

    def setup(self, *cell):
        super().setup(*cell)
        from tlbench.costs import process as costs  # imports torch, which asv's other processes do not need

        self.loads = or_skip(costs.loading, self.cell(Operation.LOADING, *cell))


class ProcessLoading(_ProcessLoads):
    """The same for loading, without processing."""

    params = [*GridOfLoads.params[:2], [str(Option.UNPROCESSED)]]
    version = "2"

    def time_loading(self, *cell):
        or_skip(self.loads.load)

    peakmem_loading = time_loading


class ProcessProcessing(_ProcessLoads):
    """The same for processing alone, each time of a freshly loaded model."""

    params = [*GridOfLoads.params[:2], [str(option) for option in Option if option is not Option.UNPROCESSED]]
    number = 1  # processing a model twice would measure nothing
    warmup_time = 0

    def setup(self, *cell):
        super().setup(*cell)
        or_skip(self.loads.rest)

    def time_processing(self, *cell):
        or_skip(self.loads.process)

    peakmem_processing = time_processing
