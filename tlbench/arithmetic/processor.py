"""Identify this machine's processor."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    """The processor's model name."""
    return cpu_field("model name") or platform.processor() or platform.machine()


def cpu_field(name: str) -> str:
    """A field of the first processor in ``/proc/cpuinfo``; "" if there is none, or no Linux."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    names = (name, "Features") if name == "flags" else (name,)
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""
