"""A source tree of TransformerLens 4.3.0 that can be made wrong: one fault at a time, chosen by a file.

The modules ``planted_*.py`` are the faults. Each is appended to the bridge's own package and defines ``_FAULTS``, by name a
function that makes a loaded bridge wrong; the HuggingFace reference does not see it.
"""

from pathlib import Path

from tests.e2e.conftest import source_of
from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.environments import lens_environment
from tlbench.questions.answers import interview

RELEASE = "4.3.0"
BRIDGE = "transformer_lens/model_bridge/__init__.py"
BOOT = """

_boot = TransformerBridge.boot_transformers


def _boot_with_fault(*args, **kwargs):
    import os
    import torch

    bridge = _boot(*args, **kwargs)
    with open(os.environ["TLBENCH_PLANTED"]) as file:
        fault = file.read()
    if fault:
        with torch.no_grad():
            _FAULTS[fault](bridge)
    return bridge


TransformerBridge.boot_transformers = staticmethod(_boot_with_fault)
"""


def planted_tree(tmp_path_factory, faults):
    """The tree with the faults of one module, and the file that names one; empty, as it is at first, for none.

    The file lies beside the tree, whose content names its environment: so one environment serves every fault.
    """
    folder = tmp_path_factory.mktemp("tree")
    for name, file in source_of(RELEASE, tmp_path_factory.mktemp("history")).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    with (folder / BRIDGE).open("a") as bridge:
        bridge.write((Path(__file__).parent / faults).read_text() + BOOT)
    chosen = tmp_path_factory.mktemp("chosen") / "fault"
    chosen.write_text("")
    return folder, chosen


def ask_planted(tree, questions, cases):
    """The outcomes of each case, by the question's name: a fault (or "") with a cell, whose checkpoint is made if need be.

    Args:
        tree: from :func:`planted_tree`.
        questions: what each cell is asked.
        cases: pairs of a fault's name and a cell.
    """
    folder, chosen = tree
    models = catalogue.load()
    for model in {cell.model for _, cell in cases}:
        ensure(models.get(model), models)
    settings = {"TLBENCH_PLANTED": str(chosen), "TLBENCH_REMEASURE": "1"}
    waiting = iter(cases)
    answers = interview(
        lens_environment(str(folder)).python,
        questions,
        [cell for _, cell in cases],
        settings,
        starting=lambda _: chosen.write_text(next(waiting)[0]),
    )
    return [{name: outcome.require() for name, outcome in one.outcomes.items()} for one in answers]
