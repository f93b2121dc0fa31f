"""Take in what another machine's sweeps have measured, from its cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tlbench.arithmetic import SHARED_PROBES, Lane
from tlbench.exceptions import TlbenchError
from tlbench.files import sha256_of, write_json, written_whole
from tlbench.paths import cache_dir
from tlbench.records.serial import plain
from tlbench.sweep.tasks import Keys, Receipt, all_kept, cell_path, is_done, read_receipt, receipt_path


@dataclass
class Merged:
    """What became of another machine's figures.

    Attributes:
        added: how many are new here.
        same: how many were here already, with the same bits.
        refused: why others were not taken, a sentence each.
    """

    added: int = 0
    same: int = 0
    refused: list[str] = field(default_factory=list)


def merge_cache(other: Path) -> Merged:
    """Take in the kept figures of another cache that its receipts vouch for. Nothing that is here is overwritten.

    A figure is refused if its bytes are not those that its receipt names, if other bytes are kept here under its name, or if
    its receipt has another probe, or was made by other code, pins or checkpoints than those here.
    """
    merged = Merged()
    vouched: set[str] = set()
    for path in sorted((other / "receipts").glob("*/*.json")):
        receipt = read_receipt(path)
        if receipt is None:
            merged.refused.append(f"{path} is damaged")
            continue
        vouched |= receipt.kept.keys()
        if reason := _objection(receipt, path.stem):
            merged.refused.append(f"{receipt.task} of {receipt.host}: {reason}")
        else:
            refused = [*_take_in(receipt, other, merged)]
            merged.refused += refused
            ours = read_receipt(receipt_path(path.stem))
            if not refused and not is_done(ours, all_kept()):
                write_json(receipt_path(path.stem), plain(receipt))
    unknown = {path.stem for path in (other / "cells").glob("*/*.json")} - vouched
    if unknown:
        merged.refused.append(
            f"{len(unknown)} figures in {other} have no receipt, so nothing says what they were measured in"
        )
    return merged


def _objection(receipt: Receipt, key: str) -> str:
    """Why nothing of a receipt may be taken in; "" if all may."""
    if not receipt.kept:
        return receipt.reason if receipt.task.commit else ""
    lane, probe = receipt.arithmetic.get("lane"), receipt.arithmetic.get("probe", "")
    if lane != Lane.NATIVE and probe not in SHARED_PROBES.values():
        return f"its probe {probe[:12] or 'is missing and'} is not the shared arithmetic's, so its bits are another's"
    try:
        expected = Keys(receipt.grid).of(receipt.task)
    except TlbenchError as error:
        return str(error)
    if expected != key:
        return "it was made by other code, pins or checkpoints than those here: use the same commit of tlbench on both"
    return ""


def _take_in(receipt: Receipt, other: Path, merged: Merged) -> Iterator[str]:
    """Copy a receipt's figures, and yield why some are refused."""
    for name, digest in receipt.kept.items():
        theirs, ours = other / "cells" / name[:2] / f"{name}.json", cell_path(name)
        if not theirs.is_file():
            yield f"{receipt.task}: {name[:12]} is missing in {other}"
        elif sha256_of(theirs) != digest:
            yield f"{receipt.task}: {theirs} is corrupted: its bytes are not those that its receipt names"
        elif not ours.exists():
            with written_whole(ours) as temporary:
                shutil.copyfile(theirs, temporary)
            merged.added += 1
        elif sha256_of(ours) == digest:
            merged.same += 1
        else:
            yield f"{receipt.task}: {name[:12]} has other bytes here and in {other}: ours is kept, measure it again"


def is_cache(folder: Path) -> bool:
    """Whether a folder is a cache of tlbench."""
    return (folder / "cells").is_dir() or (folder / "receipts").is_dir()


def is_own(folder: Path) -> bool:
    """Whether a folder is the cache in use."""
    return cache_dir().exists() and folder.samefile(cache_dir())
