"""Every asv command that a page prints can be given as it is printed, on a machine that asv knows nothing of."""

import os
import re
import shlex
from pathlib import Path

import pytest
from asv.commands import make_argparser

from asv_plugins import lane
from tlbench.arithmetic import is_shared

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def printed():
    """The lines of code blocks that run asv, each with its page."""
    for page in PAGES:
        for block in re.findall(r"^ *```.*?\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^ *(?:\$ )?(asv .*)$", block, re.MULTILINE):
                for command in line.split(" && "):
                    if command.startswith("asv "):
                        yield pytest.param(command, id=f"{page.name}: {command[:60]}")


COMMANDS = list(printed())


def test_the_pages_print_asv_commands():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_is_understood_and_finds_its_machine(command, tmp_path, monkeypatch):
    parser, _ = make_argparser()
    arguments = parser.parse_args(shlex.split(command, comments=True)[1:])
    machine = getattr(arguments, "machine", None)
    if not hasattr(arguments, "machine") or (machine and not is_shared(machine)):
        return  # times belong to a machine that is registered by the line above
    before = dict(os.environ)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(lane, "prove", lambda: None)
    try:
        assert is_shared(lane.load(machine_name=machine, interactive=True).machine)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert not (tmp_path / ".asv-machine.json").exists()
