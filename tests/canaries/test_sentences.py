"""A canary that fails says what changed and names a file of this repository that is there."""

from importlib import import_module
from pathlib import Path

import pytest

from tests.canaries import canary, leaned_on
from tools.canaries_of_tl import CANARIES

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("test_asv", "test_cpython", "test_torch", "test_transformers")


def functions(module):
    return [value for name, value in vars(import_module(f"tests.canaries.{module}")).items() if name.startswith("test_")]


@pytest.mark.parametrize("module", MODULES)
def test_every_test_is_a_canary(module):
    assert [test.__name__ for test in functions(module) if not hasattr(test, "where")] == []


@pytest.mark.parametrize("check", [*(one for name in MODULES for one in functions(name)), *(one for _, one in CANARIES)])
def test_the_file_to_see_is_there(check):
    assert (ROOT / check.where).is_file(), f"{check.__name__} names {check.where}"


def raising(error):
    @canary("asv changed something", "asv_plugins/site.py")
    def test():
        raise error

    return test


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AssertionError("1 is not 2\nand more"), " (1 is not 2)"),
        (pytest.fail.Exception("DID NOT RAISE"), " (Failed: DID NOT RAISE)"),
        (SystemExit(1), " (SystemExit: 1)"),
        (AssertionError(), ""),
        (KeyError("name"), " (KeyError: 'name')"),
        (ImportError("cannot import name 'x' from 'asv'", name="asv"), " (ImportError: cannot import name 'x' from 'asv')"),
    ],
)
def test_whatever_goes_wrong_is_told_as_one_sentence(error, said):
    with pytest.raises(AssertionError) as failed:
        raising(error)()
    assert str(failed.value) == leaned_on("asv changed something", "asv_plugins/site.py") + said


@pytest.mark.parametrize("error", [KeyboardInterrupt(), pytest.skip.Exception("not here")])
def test_what_ends_a_test_without_failing_it_passes_through(error):
    with pytest.raises(type(error)):
        raising(error)()


@pytest.mark.parametrize("name", ["tlbench.absent", "asv_plugins.reader"])
def test_a_module_of_ours_that_does_not_import_is_nobody_else_s_change(name):
    with pytest.raises(ImportError):
        raising(ImportError("no such module", name=name))()
