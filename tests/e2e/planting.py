"""A source tree of TransformerLens 4.3.0 that can be made wrong: one fault at a time, chosen by a file.

The faults are those of the modules ``planted_*.py``, which go into the bridge's own package. Each defines ``_FAULTS``: by
name, a function that makes a loaded bridge wrong; or ``_loading``, within which a model is loaded wrong. The HuggingFace
reference does not see it.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.e2e.conftest import source_of
from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.environments import lens_environment
from tlbench.questions.answers import interview

RELEASE = "4.3.0"
HERE = Path(__file__).parent
BRIDGE = "transformer_lens/model_bridge/__init__.py"
BOOT = """

_boot = TransformerBridge.boot_transformers


def _boot_with_fault(*args, **kwargs):
    import contextlib
    import importlib
    import os
    import torch

    with open(os.environ["TLBENCH_PLANTED"]) as file:
        module, _, fault = file.read().partition("/")
    faults = importlib.import_module("." + module, __name__) if fault else None
    with faults._loading(fault) if hasattr(faults, "_loading") else contextlib.nullcontext():
        bridge = _boot(*args, **kwargs)
    bridge.__dict__["_is_given"] = kwargs.get("hf_model") is not None
    if hasattr(faults, "_FAULTS"):
        with torch.no_grad():
            faults._FAULTS[fault](bridge)
    return bridge


TransformerBridge.boot_transformers = staticmethod(_boot_with_fault)
"""


def tree_with_faults(folder, history):
    """Write the source tree into ``folder``. A healthy one until a fault is chosen, so one environment serves all faults."""
    for name, file in source_of(RELEASE, history).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    bridge = folder / BRIDGE
    bridge.write_text(bridge.read_text() + BOOT)
    for module in HERE.glob("planted_*.py"):
        (bridge.parent / module.name).write_text(module.read_text())
    return folder


@dataclass(frozen=True)
class Planted:
    """The tree with the faults of one module.

    Attributes:
        folder: the source tree.
        module: the module's name.
        chosen: the file that names the fault.
    """

    folder: Path
    module: str
    chosen: Path

    @property
    def settings(self):
        """What a measuring process needs."""
        return {"TLBENCH_PLANTED": str(self.chosen), "TLBENCH_REMEASURE": "1"}

    def plant(self, fault):
        """From now on every model is loaded with this fault; with none for "". A module with ``_loading`` takes any text."""
        self.chosen.write_text(f"{self.module}/{fault}" if fault else "")

    def ask(self, questions, cases):
        """The records of each case, by the question's name."""
        answers = self.answers(questions, cases)
        return [{name: outcome.require() for name, outcome in one.outcomes.items()} for one in answers]

    def answers(self, questions, cases):
        """The answers of each case: a fault (or "") with a cell."""
        models = catalogue.load()
        for model in {cell.model for _, cell in cases}:
            ensure(models.get(model), models)
        waiting = iter(cases)
        return [
            *interview(
                lens_environment(str(self.folder)).python,
                questions,
                [cell for _, cell in cases],
                self.settings,
                starting=lambda _: self.plant(next(waiting)[0]),
            )
        ]
