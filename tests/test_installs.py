"""A TransformerLens that installs packages while it loads a model leaves its environment as it is."""

import subprocess
import sys

import pytest

from tlbench.lens.installs import no_installs


def test_an_installer_is_not_started_and_says_so():
    with no_installs(), pytest.raises(PermissionError, match="does not run: pip install torchvision"):
        subprocess.check_call(["pip", "install", "torchvision"])


def test_other_programs_run():
    with no_installs():
        assert subprocess.check_output([sys.executable, "-c", "print(1)"]) == b"1\n"
