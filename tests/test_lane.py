"""The machine's name says in which arithmetic errors are measured, and nothing else can."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from asv.util import UserError

from asv_plugins import lane as plugin
from benchmarks.runtime import Growth, Imports, Loading, Process, Slowdown
from tlbench.arithmetic import LANE_VARIABLE, SETTINGS, SHARED_MACHINE, Lane
from tlbench.paths import MACHINE_VARIABLE

MINE = f"{SHARED_MACHINE}-mine"


@pytest.mark.parametrize(
    ("machine", "asked", "lane"),
    [
        (None, "", Lane.SHARED),
        (None, "native", Lane.NATIVE),
        (SHARED_MACHINE, "", Lane.SHARED),
        (MINE, "shared", Lane.SHARED),
        ("laptop", "", Lane.NATIVE),
        ("laptop", "native", Lane.NATIVE),
    ],
)
def test_the_lane_follows_from_the_machine_and_without_one_is_shared(machine, asked, lane):
    assert plugin.lane_of(machine, asked) is lane


@pytest.mark.parametrize(("machine", "asked"), [(SHARED_MACHINE, "native"), (MINE, "native"), ("laptop", "shared")])
def test_a_machine_and_a_lane_that_contradict_each_other_are_refused(machine, asked):
    with pytest.raises(UserError, match="leave one of the two out"):
        plugin.lane_of(machine, asked)


@pytest.fixture
def environ(monkeypatch):
    """The environment's variables, put back afterwards, with a shared lane's settings as tlbench's import leaves them."""
    before = dict(os.environ)
    os.environ.pop(LANE_VARIABLE, None)
    os.environ.update(SETTINGS)
    yield os.environ
    os.environ.clear()
    os.environ.update(before)


def test_a_run_in_the_shared_arithmetic_needs_no_machine_and_proves_it_first(environ, monkeypatch, tmp_path):
    proved = []
    monkeypatch.setattr(plugin, "prove", lambda: proved.append(dict(os.environ)))
    machine = plugin.load(machine_name=None, interactive=True)
    assert (machine.machine, environ[LANE_VARIABLE]) == (SHARED_MACHINE, "shared")
    assert environ[MACHINE_VARIABLE] == SHARED_MACHINE  # where outcomes are left, and looked for
    assert len(proved) == 1
    machine.save(str(tmp_path))
    other = plugin.load(machine_name=MINE)
    assert (other.machine, other.cpu) == (MINE, machine.cpu)
    first = (tmp_path / SHARED_MACHINE / "machine.json").read_text()
    plugin.load().save(str(tmp_path))
    assert (tmp_path / SHARED_MACHINE / "machine.json").read_text() == first  # whichever machine runs it
    assert json.loads(first)["cpu"].startswith("any")


def test_a_run_under_a_machine_s_own_name_is_native_and_inherits_none_of_the_settings(environ, monkeypatch):
    monkeypatch.setattr(plugin, "_load", lambda *args, machine_name, **kwargs: SimpleNamespace(machine=machine_name))
    monkeypatch.setattr(plugin, "prove", lambda: pytest.fail("the shared arithmetic was not asked for"))
    assert plugin.load(machine_name="laptop").machine == "laptop"
    assert environ[LANE_VARIABLE] == "native"
    assert not SETTINGS.keys() & environ.keys()


def test_a_proof_is_kept_until_the_machine_restarts_or_anything_behind_the_probe_changes(own_cache, monkeypatch):
    proofs = []

    def proved(*args, **kwargs):
        proofs.append(args)
        return SimpleNamespace(returncode=0, stdout="shared\n")

    monkeypatch.setattr(plugin.subprocess, "run", proved)
    plugin.prove()
    plugin.prove()
    assert len(proofs) == 1
    monkeypatch.setattr(plugin, "libraries", lambda *_: {"torch": "2.14.0"})
    plugin.prove()
    monkeypatch.setattr(plugin, "cpu_field", lambda name: "another")
    plugin.prove()
    assert len(proofs) == 3


def test_a_machine_that_does_not_compute_the_shared_arithmetic_is_refused_in_one_sentence(environ, monkeypatch, own_cache):
    def refused(*args, **kwargs):
        return SimpleNamespace(returncode=1, stderr="a warning\nthe shared arithmetic was asked for, but ...\n")

    monkeypatch.setattr(plugin.subprocess, "run", refused)
    with pytest.raises(UserError, match=r"^the shared arithmetic was asked for, but \.\.\.$"):
        plugin.load()


@pytest.mark.parametrize("kind", [Slowdown, Growth, Imports, Loading, Process])
def test_times_are_skipped_in_the_shared_arithmetic(kind, monkeypatch):
    monkeypatch.setenv(LANE_VARIABLE, "shared")
    with pytest.raises(NotImplementedError, match="times hold for one machine only"):
        kind().setup()


@pytest.mark.parametrize("before", ["import tlbench, torch", "import torch, tlbench"])
@pytest.mark.slow
def test_importing_tlbench_first_brings_torch_into_the_lane_and_importing_it_too_late_is_told(before):
    code = f"{before}\nfrom tlbench import arithmetic\narithmetic.require_shared(arithmetic.find())"
    clean = {name: value for name, value in os.environ.items() if name not in (*SETTINGS, LANE_VARIABLE)}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False)
    if before.startswith("import tlbench"):
        assert done.returncode == 0, done.stderr
    else:
        assert "this process was started without MKL_CBWR=COMPATIBLE" in done.stderr
