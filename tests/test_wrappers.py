"""A wrapper that is not there and one that does not import never look alike."""

import sys

import pytest

from tlbench.exceptions import CellFailed, NotApplicable
from tlbench.lens.interface import class_of


@pytest.fixture
def transformer_lens(tmp_path, monkeypatch):
    """Write a package of that name."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "transformer_lens"]:
        monkeypatch.delitem(sys.modules, name)

    def write(**modules):
        folder = tmp_path / "transformer_lens"
        folder.mkdir()
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text)

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "transformer_lens"]:
        del sys.modules[name]


def test_a_class_that_is_there_is_found(transformer_lens):
    transformer_lens(__init__="", bridge="class Bridge: pass")
    assert class_of("transformer_lens.bridge", "Bridge", "it came").__name__ == "Bridge"


REMOVED = """
def __getattr__(name):
    raise ImportError("it was removed", name=name)
"""
"""What TransformerLens 4 does where HookedTransformer was."""


@pytest.mark.parametrize("modules", [{"__init__": ""}, {"__init__": "", "bridge": ""}, {"__init__": "", "bridge": REMOVED}])
def test_one_that_is_not_there_is_not_applicable(transformer_lens, modules):
    transformer_lens(**modules)
    with pytest.raises(NotApplicable, match=r"has no Bridge \(it came with 3.0\)"):
        class_of("transformer_lens.bridge", "Bridge", "it came with 3.0")


@pytest.mark.parametrize("line", ["import no_such_package", "from json import no_such_name", "raise ImportError('broken')"])
@pytest.mark.parametrize("module", ["{line}\nclass Bridge: pass", "def __getattr__(name):\n    {line}"])
def test_one_that_needs_what_is_not_there_has_failed(transformer_lens, line, module):
    transformer_lens(__init__="", bridge=module.format(line=line))
    with pytest.raises(CellFailed, match="Bridge does not import"):
        class_of("transformer_lens.bridge", "Bridge", "it came with 3.0")
