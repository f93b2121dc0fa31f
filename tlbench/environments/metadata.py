"""Metadata of a measuring process: processor, libraries, threads and device. asv itself stores none of it.

The measuring process writes its metadata beside its outcomes, and ``asv_plugins/metadata.py`` stores it with asv's results
and deletes what an earlier run left.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tlbench import arithmetic
from tlbench.arithmetic.processor import cpu_field, processor_name
from tlbench.exceptions import BadInput
from tlbench.files import write_json, written_whole

FILE_NAME = "environment.json"
SUFFIX = ".environments.jsonl"
"""Suffix of the file beside a results file, with one environment per line. asv reads every ``.json`` there as results."""
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "huggingface-hub", "transformer-lens")
ARITHMETIC_FLAGS = ("avx", "amx", "fma", "f16c", "sse4", "bf16", "fp16", "sve", "asimd", "neon")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", *arithmetic.SETTINGS, "CUBLAS_WORKSPACE_CONFIG")

Metadata = dict[str, str]


def collect() -> Metadata:
    """The metadata of this process. Imports torch. Raises what :func:`tlbench.arithmetic.establish` raises."""
    import torch

    established = arithmetic.establish()
    has_gpu, driver = torch.cuda.is_available(), Path("/proc/driver/nvidia/version")
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    metadata = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor_name(),
        "cpu flags": " ".join(sorted(flag for flag in cpu_field("flags").split() if flag.startswith(ARITHMETIC_FLAGS))),
        "cores": str(os.cpu_count()),
        "arithmetic": established.lane.value,
        "probe": established.probe,
        "torch's arithmetic": torch.backends.cpu.get_cpu_capability(),
        "torch's threads unless set": str(torch.get_num_threads()),
        "BLAS": blas[1] if blas else "",
        "gpu": torch.cuda.get_device_name() if has_gpu else "",
        "cuda": (torch.version.cuda or "") if has_gpu else "",
        "gpu driver": driver_version(driver.read_text()) if has_gpu and driver.exists() else "",
    }
    metadata |= {name: version_of(name) for name in PACKAGES}
    return metadata | {name: os.environ.get(name, "") for name in VARIABLES}


def record(folder: Path) -> None:
    """Write this process's metadata into a folder of outcomes, unless another process of the run has done so."""
    if not (folder / FILE_NAME).exists():
        write_json(folder / FILE_NAME, collect())


def keep(recorded: Path, results: Path) -> None:
    """Add the metadata that :func:`record` wrote to that beside asv's results file, last run last, without duplicates.

    Raises:
        BadInput: if a file is damaged or cannot be written.
    """
    if not recorded.is_file():
        return
    stored = results.with_suffix(SUFFIX)
    earlier = read(stored) if stored.is_file() else []
    latest = _parsed(recorded, recorded.read_text())
    if earlier[-1:] == [latest]:
        return
    runs = [*(run for run in earlier if run != latest), latest]
    write(stored, runs)


def write(stored: Path, runs: Sequence[Metadata]) -> None:
    """Write environments, whole or not at all. Raises BadInput if the file cannot be written."""
    with written_whole(stored) as path:
        path.write_text("".join(json.dumps(run) + "\n" for run in runs))


def read(stored: Path) -> list[Metadata]:
    """Read every environment from a file that :func:`keep` wrote, last run last. Raises ``BadInput`` if it is damaged."""
    return [_parsed(stored, line) for line in stored.read_text().splitlines()]


def _parsed(path: Path, text: str) -> Metadata:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path} is damaged ({type(error).__name__}): restore it, or delete it and measure again") from error


def differences(one: Metadata, other: Metadata) -> dict[str, tuple[str, str]]:
    """The differences between two environments, in the first one's order."""
    names = [*one, *(name for name in other if name not in one)]
    pairs = {name: (one.get(name, ""), other.get(name, "")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def driver_version(text: str) -> str:
    """The driver version in the text of ``/proc/driver/nvidia/version``, or ""."""
    version_match = re.search(r"Kernel Module\b.*?\s(\d+\.[\d.]+)", text)
    return version_match[1] if version_match else ""


def version_of(name: str) -> str:
    """The version of an installed package, or "" if it is not installed."""
    with suppress(PackageNotFoundError):
        return version(name)
    return ""
