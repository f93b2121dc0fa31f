"""What decides a figure beside the code under test: processor, libraries, threads, device. asv itself keeps none of it.

The measuring process writes them beside its outcomes, and ``asv_plugins/facts.py`` keeps them with asv's results.
"""

from __future__ import annotations

import json
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tlbench.arithmetic.processor import cpu_field, processor_name
from tlbench.exceptions import BadInput
from tlbench.files import write_json, written_whole

FILE_NAME = "environment.json"
SUFFIX = ".environments.jsonl"
"""Of the file beside a file of results: one environment a line. asv takes every ``.json`` there for results."""
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "huggingface-hub", "transformer-lens")
ARITHMETIC_FLAGS = ("avx", "amx", "fma", "f16c", "sse4", "bf16", "fp16", "sve", "asimd", "neon")
VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"),
    "CUBLAS_WORKSPACE_CONFIG",
)

Facts = dict[str, str]


def facts() -> Facts:
    """The facts of this process. Imports torch.

    Raises:
        CellFailed: if it computes in another arithmetic than it should.
    """
    import torch

    from tlbench.arithmetic import establish

    arithmetic = establish()
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor_name(),
        "cpu flags": " ".join(sorted(flag for flag in cpu_field("flags").split() if flag.startswith(ARITHMETIC_FLAGS))),
        "cores": str(os.cpu_count()),
        "arithmetic": arithmetic.lane.value,
        "probe": arithmetic.probe,
        "torch's arithmetic": torch.backends.cpu.get_cpu_capability(),
        "torch's threads unless set": str(torch.get_num_threads()),
        "BLAS": blas[1] if blas else "",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "cuda": (torch.version.cuda or "") if torch.cuda.is_available() else "",
        "gpu driver": _driver() if torch.cuda.is_available() else "",
    }
    found |= {name: version_of(name) for name in PACKAGES}
    return found | {name: os.environ.get(name, "") for name in VARIABLES}


def record(folder: Path) -> None:
    """Write this process's facts into a folder of outcomes."""
    write_json(folder / FILE_NAME, facts())


def keep(recorded: Path, results: Path) -> None:
    """Add recorded facts to those that are kept with a file of asv's results, the last run's at the end; each once.

    Raises:
        BadInput: if either file is damaged, or the second cannot be written.
    """
    if not recorded.is_file():
        return
    stored = results.with_suffix(SUFFIX)
    earlier = read(stored) if stored.is_file() else []
    one = _parsed(recorded, recorded.read_text())
    if earlier[-1:] == [one]:
        return
    with written_whole(stored) as path:
        path.write_text("".join(json.dumps(facts) + "\n" for facts in (*(e for e in earlier if e != one), one)))


def read(stored: Path) -> list[Facts]:
    """Every environment of a file that :func:`keep` wrote, the last run's at the end.

    Raises:
        BadInput: if the file is damaged.
    """
    return [_parsed(stored, line) for line in stored.read_text().splitlines()]


def _parsed(path: Path, text: str) -> Facts:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path} is damaged ({type(error).__name__}): restore it, or delete it and measure again") from error


def differences(one: Facts, other: Facts) -> dict[str, tuple[str, str]]:
    """What differs between two environments, in the first one's order."""
    names = [*one, *(name for name in other if name not in one)]
    pairs = {name: (one.get(name, ""), other.get(name, "")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _driver() -> str:
    path = Path("/proc/driver/nvidia/version")
    found = re.search(r"Kernel Module\D*([\d.]+)", path.read_text()) if path.exists() else None
    return found[1] if found else ""


def version_of(name: str) -> str:
    """The version of an installed package, or ""."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
