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
    names = (name, "Features") if name == "flags" else (name,)  # ARM's word for flags
    for line in path.read_text().splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return ""
