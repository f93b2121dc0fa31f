"""What does it cost? Time and memory of TransformerLens relative to HuggingFace.

Machine noise affects seconds but cancels in ratios: both sides take turns in one process. The slowdown is the mean, over
several interpreters, of the median ratio over rounds. ``Process``, ``ProcessLoading`` and ``ProcessProcessing`` are asv's
own measures.
"""

from asv_runner.benchmarks.mark import SkipNotImplemented

from benchmarks.cell import GridOfCells, SharedRun, answer, figure, or_skip
from tlbench import Dtype, Option, Wrapper
from tlbench.arithmetic import Lane, wanted
from tlbench.catalogue import load
from tlbench.costs.registry import IMPORT, MEMORY, SCALING, SLOWDOWN
from tlbench.grid import Device, Import, Operation, RuntimeCell

SHAPES = ["1x64", "8x128"]
PROCESSED = [option for option in Option if option is not Option.UNPROCESSED]


class NativeRun(SharedRun):
    """A benchmark of time or memory. These hold for one machine only, so the shared arithmetic has none."""

    def setup(self, *cell):
        if wanted() is not Lane.NATIVE:
            raise SkipNotImplemented("times hold for one machine only: name it with `asv run --machine NAME`")


class GridOfRuns(NativeRun):
    """A benchmark over model x dtype x option x wrapper x shape x device."""

    params = [
        load().names(),
        [*map(str, Dtype)],
        [*map(str, (Option.ALL_OPTIONS, Option.UNPROCESSED))],
        [*map(str, Wrapper)],
        SHAPES,
        [*map(str, Device)],
    ]
    param_names = ["model", "dtype", "option", "wrapper", "shape", "device"]

    def ask(self, question, operation, *cell):
        return answer(question, RuntimeCell(*cell, operation))


class _ByOperation(GridOfRuns):
    """One ratio per operation. asv ignores classes that start with an underscore."""

    unit = "ratio"
    version = "1"

    def track_forward(self, *cell):
        return self.ratio(Operation.FORWARD, *cell)

    def track_cache(self, *cell):
        return self.ratio(Operation.CACHE, *cell)

    def track_backward(self, *cell):
        return self.ratio(Operation.BACKWARD, *cell)

    def track_generation(self, *cell):
        return self.ratio(Operation.GENERATION, *cell)


class Slowdown(_ByOperation):
    """TransformerLens's time over HuggingFace's with eager attention, which TransformerLens also computes."""

    def track_hooks(self, *cell):
        return self.ratio(Operation.HOOKS, *cell)

    def ratio(self, operation, *cell):
        return self.ask(SLOWDOWN, operation, *cell).eager.ratio


class SlowdownToDefault(Slowdown):
    """TransformerLens's time over HuggingFace's with its default attention, which you would run without TransformerLens."""

    def ratio(self, operation, *cell):
        return self.ask(SLOWDOWN, operation, *cell).default.ratio


class Interval(Slowdown):
    """How far chance moves the slowdown from one run to the next: half-width of its 99 % interval, relative to it."""

    unit = "relative half-width"

    def ratio(self, operation, *cell):
        return self.ask(SLOWDOWN, operation, *cell).eager.half_width


class HuggingFace(Slowdown):
    """HuggingFace's own time, with eager attention, in the same rounds."""

    unit = "seconds"

    def ratio(self, operation, *cell):
        return self.ask(SLOWDOWN, operation, *cell).eager_seconds


class Memory(_ByOperation):
    """Peak memory of one run beyond its model, over HuggingFace's with eager attention, and what is never given back."""

    def ratio(self, operation, *cell):
        return self.ask(MEMORY, operation, *cell).ratio

    def track_leak(self, *cell):
        return self.ask(MEMORY, Operation.CACHE, *cell).kept_bytes

    track_leak.unit = "bytes a run"


class Growth(GridOfRuns):
    """Growth exponents over the largest sizes that were run: 1 is linear, 2 quadratic."""

    unit = "exponent"
    version = "1"

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
        reason = scaling.reasons.get(axis, "n/a: too few sizes to fit a line")
        return figure(growth and growth.exponent, reason)


class GridOfLoads(NativeRun):
    """A benchmark over model x dtype x option x wrapper, on the CPU."""

    params = GridOfCells.params
    param_names = GridOfCells.param_names


class Loading(GridOfLoads):
    """Loading time over HuggingFace's. With a processing option: the time of processing alone over HuggingFace's loading."""

    version = "1"

    def track_slowdown(self, *cell):
        return self.slowdown(*cell).eager.ratio

    def track_interval(self, *cell):
        return self.slowdown(*cell).eager.half_width

    def slowdown(self, model, dtype, option, wrapper):
        operation = Operation.LOADING if option == Option.UNPROCESSED else Operation.PROCESSING
        return answer(SLOWDOWN, RuntimeCell(model, dtype, option, wrapper, SHAPES[0], Device.CPU, operation))

    track_slowdown.unit = "ratio"
    track_interval.unit = "relative half-width"


class Imports(NativeRun):
    """Time of ``import transformer_lens`` over that of torch and transformers' models, in fresh interpreters."""

    version = "1"

    def track_slowdown(self):
        return answer(IMPORT, Import()).eager.ratio

    def track_interval(self):
        return answer(IMPORT, Import()).eager.half_width

    def timeraw_import(self):
        return "import transformer_lens"

    track_slowdown.unit = "ratio"
    track_interval.unit = "relative half-width"


class Process(GridOfRuns):
    """Seconds and peak resident bytes as asv measures them, in its own process that imports TransformerLens."""

    version = "1"
    rounds = 1

    def setup(self, *cell):
        super().setup(*cell)
        from tlbench.costs import process as costs  # imports torch, which asv's other processes do not need

        self.model = or_skip(costs.loaded, RuntimeCell(*cell, Operation.FORWARD))
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

    def peakmem_forward(self, *cell):
        self.model.run(Operation.FORWARD)

    def peakmem_cache(self, *cell):
        self.model.run(Operation.CACHE)

    def peakmem_backward(self, *cell):
        self.model.run(Operation.BACKWARD)


class ProcessLoading(GridOfLoads):
    """The same for loading, without processing."""

    params = [load().names(), [*map(str, Dtype)], [str(Option.UNPROCESSED)], [*map(str, Wrapper)]]
    version = "2"
    rounds = 1

    def setup(self, *cell):
        super().setup(*cell)
        self.loads = _loads(*cell)

    def time_loading(self, *cell):
        or_skip(self.loads.load)

    def peakmem_loading(self, *cell):
        or_skip(self.loads.load)


class ProcessProcessing(GridOfLoads):
    """The same for processing alone, each time of a freshly loaded model."""

    params = [load().names(), [*map(str, Dtype)], [*map(str, PROCESSED)], [*map(str, Wrapper)]]
    version = "1"
    rounds = 1
    number = 1  # processing a model twice would measure nothing
    warmup_time = 0

    def setup(self, *cell):
        super().setup(*cell)
        self.loads = _loads(*cell)
        or_skip(self.loads.rest)

    def time_processing(self, *cell):
        or_skip(self.loads.process)

    def peakmem_processing(self, *cell):
        or_skip(self.loads.process)


def _loads(*cell):
    from tlbench.costs import process as costs  # imports torch, which asv's other processes do not need

    return or_skip(costs.loading, RuntimeCell(*cell, SHAPES[0], Device.CPU, Operation.LOADING))
